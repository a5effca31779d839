"""The quarantine is searched by record and subject, and what waits is counted by its cause; made
beside the gateways at work."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False
    dependencies = [
        ("metering", "0015_daily_totals"),
    ]

    operations = [
        AddIndexConcurrently(
            model_name="quarantinedrecord",
            index=models.Index(
                condition=models.Q(("resolved_at__isnull", True)),
                fields=["operator", "cause", "-id"],
                name="quarantine_waiting",
            ),
        ),
        AddIndexConcurrently(
            model_name="quarantinedrecord",
            index=models.Index(
                fields=["operator", "record_id", "-id"], name="quarantine_by_record"
            ),
        ),
        AddIndexConcurrently(
            model_name="quarantinedrecord",
            index=models.Index(fields=["operator", "subject", "-id"], name="quarantine_by_subject"),
        ),
    ]
