"""Figures of days; attempts to pay are found by their time."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0014_orders_of_plans_that_wait"),
        ("subscriptions", "0019_periods_paid_before"),
    ]

    operations = [
        migrations.CreateModel(
            name="DayFigures",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("day", models.DateField()),
                ("measured_at", models.DateTimeField()),
                ("slow_at", models.DateTimeField()),
                ("values", models.JSONField()),
            ],
        ),
        migrations.AddIndex(
            model_name="paymentintent",
            index=models.Index(fields=["operator", "created_at"], name="intents_by_time"),
        ),
        migrations.AddField(
            model_name="dayfigures",
            name="operator",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE,
                related_name="+",
                to="subscriptions.operator",
            ),
        ),
        migrations.AddConstraint(
            model_name="dayfigures",
            constraint=models.UniqueConstraint(
                fields=("operator", "day"), name="figures_once_a_day"
            ),
        ),
    ]
