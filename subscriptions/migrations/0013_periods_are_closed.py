"""Periods know when they were billed, and operators when a bill is due."""

import datetime

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("subscriptions", "0012_reserve_few"),
    ]

    operations = [
        migrations.AddField(
            model_name="operator",
            name="payment_term",
            field=models.DurationField(default=datetime.timedelta(days=15)),
        ),
        migrations.AddField(
            model_name="subscriptionperiod",
            name="closed_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddIndex(
            model_name="subscriptionperiod",
            index=models.Index(
                condition=models.Q(("closed_at__isnull", True)),
                fields=["operator", "ends_at", "subscriber_id"],
                name="period_close_queue",
            ),
        ),
        migrations.AddConstraint(
            model_name="operator",
            constraint=models.CheckConstraint(
                condition=models.Q(("payment_term__gte", datetime.timedelta(0))),
                name="operator_payment_term_not_negative",
            ),
        ),
    ]
