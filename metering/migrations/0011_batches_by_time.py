"""Batches are found by the time of their charge."""

import django.contrib.postgres.indexes
from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [
        ("metering", "0010_rerating_problems"),
        ("subscriptions", "0019_periods_paid_before"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="usagebatch",
            index=django.contrib.postgres.indexes.BrinIndex(
                autosummarize=True, fields=["charged_at"], name="batch_charged", pages_per_range=8
            ),
        ),
    ]
