"""A re-rating says how far it is, and its shares are a queue that any worker goes on with."""

from django.db import migrations, models

# Those of before were previewed and applied within the request.
_STATES_SQL = """
UPDATE metering_rerating SET
    state = CASE WHEN applied_at IS NULL THEN 'previewed' ELSE 'applied' END,
    compared_at = applied_at
"""


class Migration(migrations.Migration):
    dependencies = [
        ("metering", "0008_commit_few"),
        ("subscriptions", "0015_overage_tiers"),
    ]

    operations = [
        migrations.AddField(
            model_name="rerating",
            name="compared_at",
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name="rerating",
            name="large",
            field=models.BooleanField(default=False),
        ),
        migrations.AddField(
            model_name="rerating",
            name="state",
            field=models.CharField(
                choices=[
                    ("previewing", "Previewing"),
                    ("previewed", "Previewed"),
                    ("applying", "Applying"),
                    ("applied", "Applied"),
                    ("refused", "Refused"),
                ],
                default="previewing",
                max_length=10,
            ),
        ),
        migrations.RunSQL(_STATES_SQL, migrations.RunSQL.noop),
        migrations.AddField(
            model_name="reratingshare",
            name="stale",
            field=models.BooleanField(default=False),
        ),
        migrations.AlterField(
            model_name="reratingshare",
            name="digest",
            field=models.BinaryField(max_length=32, null=True),
        ),
        migrations.AlterField(
            model_name="reratingshare",
            name="records",
            field=models.IntegerField(default=0),
        ),
        migrations.AlterField(
            model_name="reratingshare",
            name="units_after",
            field=models.BigIntegerField(default=0),
        ),
        migrations.AlterField(
            model_name="reratingshare",
            name="units_before",
            field=models.BigIntegerField(default=0),
        ),
        migrations.AddIndex(
            model_name="rerating",
            index=models.Index(
                condition=models.Q(("state__in", ["previewing", "applying"])),
                fields=["id"],
                name="rerating_waiting",
            ),
        ),
        migrations.AddConstraint(
            model_name="rerating",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("applied_at", None),
                    models.Q(("compared_at__isnull", False), ("state", "applied")),
                    _connector="OR",
                ),
                name="rerating_applied_when_compared",
            ),
        ),
        migrations.AddConstraint(
            model_name="reratingshare",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("batch_id", None),
                    models.Q(("digest__isnull", False), ("stale", False)),
                    _connector="OR",
                ),
                name="rerating_share_applied_or_stale",
            ),
        ),
    ]
