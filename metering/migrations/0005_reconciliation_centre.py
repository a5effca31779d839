"""Windows that gateways count for themselves, what was compared, and decisions about repeats."""

import django.contrib.postgres.fields
import django.contrib.postgres.indexes
import django.db.models.deletion
import django.db.models.functions.comparison
from django.db import migrations, models

# These rows tell what somebody said or did: a mistake is mended by a further row.
_KEPT = ("metering_usagecounter", "metering_windowevent", "metering_repeatdismissal")
KEEP = """
CREATE FUNCTION metering_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;
""" + "".join(
    f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON {table}"
    " FOR EACH ROW EXECUTE FUNCTION metering_refuse_change();\n"
    for table in _KEPT
)
LET_GO = (
    "".join(f"DROP TRIGGER append_only ON {table};\n" for table in _KEPT)
    + "DROP FUNCTION metering_refuse_change()"
)


class Migration(migrations.Migration):
    dependencies = [
        ("metering", "0004_few_in_one_message"),
        ("subscriptions", "0003_reservations"),
    ]

    operations = [
        migrations.CreateModel(
            name="DuplicateBatch",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "batch_id",
                        "source",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("batch_id", models.BigIntegerField()),
                ("source", models.CharField(max_length=256)),
                ("charged_at", models.DateTimeField()),
                ("occurred_from", models.DateTimeField()),
                ("occurred_to", models.DateTimeField()),
                (
                    "times",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.DateTimeField(), size=None
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="RepeatDismissal",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("reason", models.CharField(max_length=200)),
                ("dismissed_at", models.DateTimeField()),
            ],
        ),
        migrations.CreateModel(
            name="UsageCounter",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("revision", models.PositiveIntegerField()),
                ("requests", models.BigIntegerField()),
                ("input_tokens", models.BigIntegerField()),
                ("cached_input_tokens", models.BigIntegerField(null=True)),
                ("cache_write_tokens", models.BigIntegerField(null=True)),
                ("output_tokens", models.BigIntegerField()),
                ("reasoning_tokens", models.BigIntegerField(null=True)),
                ("sequences", models.JSONField(default=list)),
                ("received_at", models.DateTimeField()),
            ],
        ),
        migrations.CreateModel(
            name="UsageWindow",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("source", models.CharField(max_length=256, null=True)),
                ("window_start", models.DateTimeField()),
                ("window_end", models.DateTimeField()),
                (
                    "state",
                    models.CharField(
                        choices=[("open", "Open"), ("differs", "Differs"), ("closed", "Closed")],
                        default="open",
                        max_length=8,
                    ),
                ),
                ("revision", models.PositiveIntegerField(default=0)),
                ("touches", models.BigIntegerField(default=0)),
                ("compared_touches", models.BigIntegerField(default=0)),
                ("compared_at", models.DateTimeField(null=True)),
                ("findings", models.JSONField(null=True)),
                ("late_requests", models.BigIntegerField(default=0)),
                ("asked_at", models.DateTimeField(null=True)),
                ("asked_whole", models.BooleanField(default=False)),
                ("asked_reason", models.CharField(blank=True, default="", max_length=200)),
                ("closed_at", models.DateTimeField(null=True)),
                ("closed_reason", models.CharField(blank=True, default="", max_length=200)),
            ],
        ),
        migrations.CreateModel(
            name="WindowEvent",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("counted", "Counted"),
                            ("asked", "Asked"),
                            ("closed", "Closed"),
                            ("late", "Late"),
                            ("reopened", "Reopened"),
                        ],
                        max_length=8,
                    ),
                ),
                ("at", models.DateTimeField()),
                ("reason", models.CharField(blank=True, default="", max_length=200)),
                ("detail", models.JSONField(default=dict)),
            ],
        ),
        migrations.AddField(
            model_name="quarantinedrecord",
            name="occurred_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="quarantinedrecord",
            name="sequence",
            field=models.BigIntegerField(blank=True, null=True),
        ),
        migrations.AddIndex(
            model_name="quarantinedrecord",
            index=models.Index(
                models.F("gateway"),
                django.db.models.functions.comparison.Coalesce("occurred_at", "received_at"),
                name="quarantine_by_time",
            ),
        ),
        migrations.AddIndex(
            model_name="usagebatch",
            index=django.contrib.postgres.indexes.BrinIndex(
                autosummarize=True,
                fields=["occurred_from", "occurred_to"],
                name="batch_times",
                pages_per_range=8,
            ),
        ),
        migrations.AddField(
            model_name="duplicatebatch",
            name="gateway",
            field=models.ForeignKey(
                db_constraint=False,
                db_index=False,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="subscriptions.gateway",
            ),
        ),
        migrations.AddField(
            model_name="repeatdismissal",
            name="key",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="subscriptions.apikey",
            ),
        ),
        migrations.AddField(
            model_name="repeatdismissal",
            name="repeat",
            field=models.OneToOneField(
                on_delete=django.db.models.deletion.PROTECT,
                related_name="dismissal",
                to="metering.suspectedrepeat",
            ),
        ),
        migrations.AddField(
            model_name="usagecounter",
            name="key",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="subscriptions.apikey",
            ),
        ),
        migrations.AddField(
            model_name="usagewindow",
            name="gateway",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="subscriptions.gateway",
            ),
        ),
        migrations.AddField(
            model_name="usagewindow",
            name="operator",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="subscriptions.operator",
            ),
        ),
        migrations.AddField(
            model_name="usagecounter",
            name="window",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT,
                related_name="counters",
                to="metering.usagewindow",
            ),
        ),
        migrations.AddField(
            model_name="windowevent",
            name="key",
            field=models.ForeignKey(
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="subscriptions.apikey",
            ),
        ),
        migrations.AddField(
            model_name="windowevent",
            name="window",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT,
                related_name="events",
                to="metering.usagewindow",
            ),
        ),
        migrations.AddIndex(
            model_name="duplicatebatch",
            index=models.Index(fields=["gateway", "occurred_to"], name="duplicates_of_gateway"),
        ),
        migrations.AddIndex(
            model_name="usagewindow",
            index=models.Index(fields=["operator", "id"], name="window_list"),
        ),
        migrations.AddIndex(
            model_name="usagewindow",
            index=models.Index(fields=["gateway", "window_end"], name="window_touch"),
        ),
        migrations.AddIndex(
            model_name="usagewindow",
            index=models.Index(
                condition=models.Q(
                    ("state", "open"),
                    models.Q(("touches", models.F("compared_touches")), _negated=True),
                    _connector="OR",
                ),
                fields=["operator", "id"],
                name="window_due",
            ),
        ),
        migrations.AddConstraint(
            model_name="usagewindow",
            constraint=models.UniqueConstraint(
                fields=("gateway", "source", "window_start", "window_end"),
                name="window_once",
                nulls_distinct=False,
            ),
        ),
        migrations.AddConstraint(
            model_name="usagewindow",
            constraint=models.CheckConstraint(
                condition=models.Q(("window_end__gt", models.F("window_start"))),
                name="window_forward",
            ),
        ),
        migrations.AddConstraint(
            model_name="usagewindow",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("closed_at__isnull", False), ("state", "closed")),
                    models.Q(
                        models.Q(("state", "closed"), _negated=True),
                        ("closed_at__isnull", True),
                        ("closed_reason", ""),
                    ),
                    _connector="OR",
                ),
                name="window_closed_has_a_time",
            ),
        ),
        migrations.AddConstraint(
            model_name="usagewindow",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("state", "open"),
                    models.Q(
                        ("compared_at__isnull", False),
                        ("findings__isnull", False),
                        ("revision__gt", 0),
                    ),
                    _connector="OR",
                ),
                name="window_compared_has_findings",
            ),
        ),
        migrations.AddConstraint(
            model_name="usagewindow",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("compared_touches__lte", models.F("touches")), ("late_requests__gte", 0)
                ),
                name="window_compared_what_was_touched",
            ),
        ),
        migrations.AddConstraint(
            model_name="usagecounter",
            constraint=models.UniqueConstraint(
                fields=("window", "revision"), name="counter_revision_once"
            ),
        ),
        migrations.AddConstraint(
            model_name="usagecounter",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("input_tokens__gte", 0), ("output_tokens__gte", 0), ("requests__gte", 0)
                ),
                name="counter_not_negative",
            ),
        ),
        migrations.RunSQL(KEEP, LET_GO),
    ]
