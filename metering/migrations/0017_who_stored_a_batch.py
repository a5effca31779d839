"""A batch tells which transaction stored it: what was committed since a snapshot is found by that;
its index is made beside the gateways at work."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models

import subscriptions.fields


class Migration(migrations.Migration):
    atomic = False
    dependencies = [
        ("metering", "0016_quarantine_searched"),
    ]

    operations = [
        migrations.AddField(
            model_name="usagebatch",
            name="stored_by",
            field=subscriptions.fields.TransactionField(),
        ),
        AddIndexConcurrently(
            model_name="usagebatch",
            index=models.Index(fields=["stored_by"], name="batch_stored_by"),
        ),
    ]
