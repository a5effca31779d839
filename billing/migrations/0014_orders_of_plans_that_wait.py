"""Paid orders of plans are found by what they wait for: the first period, which may not come."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0013_orders_of_periods"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="order",
            index=models.Index(
                condition=models.Q(
                    ("kind", "plan"), ("paid_at__isnull", False), ("settled_at__isnull", True)
                ),
                fields=["operator", "subscriber_id"],
                name="order_of_plan_waits",
            ),
        ),
    ]
