"""All tables of metering, and what Django's operations cannot say of them (rules/)."""

import django.contrib.postgres.fields
import django.contrib.postgres.indexes
import django.db.models.deletion
import django.db.models.functions.comparison
from django.db import migrations, models

from metering.migrations.rules import charging_few, records, telling
from subscriptions.migrations._together import Together


class Migration(migrations.Migration):
    initial = True

    replaces = [
        ("metering", "0001_initial"),
        ("metering", "0002_charge_few_in_one_call"),
        ("metering", "0003_suspected_repeats"),
        ("metering", "0004_few_in_one_message"),
        ("metering", "0005_reconciliation_centre"),
        ("metering", "0006_adjustments"),
        ("metering", "0007_rerating"),
        ("metering", "0008_commit_few"),
        ("metering", "0009_reratings_in_the_background"),
        ("metering", "0010_rerating_problems"),
        ("metering", "0011_batches_by_time"),
        ("metering", "0012_usage_by_hour"),
        ("metering", "0013_windows_by_staff"),
        ("metering", "0014_usage_by_subject"),
    ]

    dependencies = [("subscriptions", "0001_squashed_0032_safety")]

    operations = [
        migrations.SeparateDatabaseAndState(
            [migrations.RunSQL(records.RECORDS), migrations.RunSQL(records.ADJUSTED)],
            [
                migrations.CreateModel(
                    name="UsageRecord",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "gateway_id",
                                "source",
                                "record_id",
                                "occurred_at",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("subscriber_id", models.BigIntegerField()),
                        ("gateway_id", models.BigIntegerField()),
                        ("source", models.CharField(max_length=256)),
                        ("record_id", models.CharField(max_length=512)),
                        ("occurred_at", models.DateTimeField()),
                        ("batch_id", models.BigIntegerField()),
                        ("subject_id", models.BigIntegerField()),
                        ("weight_id", models.BigIntegerField()),
                        ("units", models.BigIntegerField()),
                        ("uncached_input_tokens", models.IntegerField()),
                        ("cached_input_tokens", models.IntegerField()),
                        ("cache_write_tokens", models.IntegerField()),
                        ("output_tokens", models.IntegerField()),
                        ("reasoning_tokens", models.IntegerField()),
                        ("model", models.CharField(max_length=256)),
                        ("outcome", models.CharField(max_length=32)),
                        ("attributes", models.JSONField(null=True)),
                    ],
                ),
                migrations.CreateModel(
                    name="AdjustedRecord",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "gateway_id",
                                "source",
                                "record_id",
                                "occurred_at",
                                "nr",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("subscriber_id", models.BigIntegerField()),
                        ("gateway_id", models.BigIntegerField()),
                        ("source", models.CharField(max_length=256)),
                        ("record_id", models.CharField(max_length=512)),
                        ("occurred_at", models.DateTimeField()),
                        ("nr", models.IntegerField()),
                        ("batch_id", models.BigIntegerField()),
                        ("requests", models.SmallIntegerField()),
                        ("weight_id", models.BigIntegerField()),
                        ("units", models.BigIntegerField()),
                        ("uncached_input_tokens", models.IntegerField()),
                        ("cached_input_tokens", models.IntegerField()),
                        ("cache_write_tokens", models.IntegerField()),
                        ("output_tokens", models.IntegerField()),
                        ("reasoning_tokens", models.IntegerField()),
                        ("model", models.CharField(max_length=256)),
                        ("outcome", models.CharField(max_length=32)),
                        ("draws", models.JSONField()),
                    ],
                ),
            ],
        ),
        Together(
            [
                migrations.CreateModel(
                    name="UsageHour",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "hour",
                                "model",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("subscriber_id", models.BigIntegerField()),
                        ("hour", models.DateTimeField()),
                        ("model", models.CharField(max_length=256)),
                        ("requests", models.BigIntegerField()),
                        ("uncached_input_tokens", models.BigIntegerField()),
                        ("cached_input_tokens", models.BigIntegerField()),
                        ("cache_write_tokens", models.BigIntegerField()),
                        ("output_tokens", models.BigIntegerField()),
                        ("reasoning_tokens", models.BigIntegerField()),
                        ("units", models.BigIntegerField()),
                    ],
                    options={
                        "indexes": [
                            django.contrib.postgres.indexes.BrinIndex(
                                autosummarize=True, fields=["hour"], name="usage_hour_time"
                            )
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="QuarantinedRecord",
                    fields=[
                        (
                            "id",
                            models.BigAutoField(
                                auto_created=True,
                                primary_key=True,
                                serialize=False,
                                verbose_name="ID",
                            ),
                        ),
                        ("source", models.CharField(blank=True, default="", max_length=256)),
                        ("record_id", models.CharField(blank=True, default="", max_length=512)),
                        ("subject", models.CharField(blank=True, default="", max_length=256)),
                        ("cause", models.CharField(max_length=32)),
                        ("detail", models.TextField()),
                        ("payload", models.TextField()),
                        ("digest", models.BinaryField(max_length=32)),
                        ("received_at", models.DateTimeField()),
                        ("attempts", models.PositiveIntegerField(default=1)),
                        (
                            "resolution",
                            models.CharField(
                                blank=True,
                                choices=[
                                    ("charged", "Charged"),
                                    ("duplicate", "Duplicate"),
                                    ("dismissed", "Dismissed"),
                                ],
                                default="",
                                max_length=16,
                            ),
                        ),
                        ("resolved_at", models.DateTimeField(blank=True, null=True)),
                        (
                            "gateway",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.gateway",
                            ),
                        ),
                        (
                            "operator",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="quarantine",
                                to="subscriptions.operator",
                            ),
                        ),
                        ("occurred_at", models.DateTimeField(blank=True, null=True)),
                        ("sequence", models.BigIntegerField(blank=True, null=True)),
                    ],
                    options={
                        "indexes": [
                            models.Index(fields=["operator", "-id"], name="quarantine_list"),
                            models.Index(
                                models.F("gateway"),
                                django.db.models.functions.comparison.Coalesce(
                                    "occurred_at", "received_at"
                                ),
                                name="quarantine_by_time",
                            ),
                        ],
                        "constraints": [
                            models.UniqueConstraint(
                                condition=models.Q(("resolved_at__isnull", True)),
                                fields=("gateway", "digest"),
                                name="quarantine_open_once",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("resolution", ""), ("resolved_at__isnull", True)),
                                    models.Q(
                                        models.Q(("resolution", ""), _negated=True),
                                        ("resolved_at__isnull", False),
                                    ),
                                    _connector="OR",
                                ),
                                name="quarantine_resolution_has_a_time",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="UsageBatch",
                    fields=[
                        ("id", models.BigIntegerField(primary_key=True, serialize=False)),
                        ("charged_at", models.DateTimeField()),
                        ("stored_at", models.DateTimeField()),
                        ("records", models.IntegerField()),
                        ("units", models.BigIntegerField()),
                        ("occurred_from", models.DateTimeField()),
                        ("occurred_to", models.DateTimeField()),
                        ("folded_at", models.DateTimeField(null=True)),
                        (
                            "gateway",
                            models.ForeignKey(
                                db_constraint=False,
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.gateway",
                            ),
                        ),
                        (
                            "operator",
                            models.ForeignKey(
                                db_constraint=False,
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.operator",
                            ),
                        ),
                    ],
                    options={
                        "indexes": [
                            models.Index(
                                condition=models.Q(("folded_at__isnull", True)),
                                fields=["id"],
                                name="batch_unfolded",
                            ),
                            django.contrib.postgres.indexes.BrinIndex(
                                autosummarize=True,
                                fields=["occurred_from", "occurred_to"],
                                name="batch_times",
                                pages_per_range=8,
                            ),
                            django.contrib.postgres.indexes.BrinIndex(
                                autosummarize=True,
                                fields=["charged_at"],
                                name="batch_charged",
                                pages_per_range=8,
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="SuspectedRepeat",
                    fields=[
                        (
                            "id",
                            models.BigAutoField(
                                auto_created=True,
                                primary_key=True,
                                serialize=False,
                                verbose_name="ID",
                            ),
                        ),
                        ("source", models.CharField(max_length=256)),
                        ("record_id", models.CharField(max_length=512)),
                        ("first_record_id", models.CharField(max_length=512)),
                        ("subject", models.CharField(max_length=256)),
                        ("model", models.CharField(max_length=256)),
                        ("occurred_at", models.DateTimeField()),
                        ("units", models.BigIntegerField()),
                        ("flagged_at", models.DateTimeField()),
                        (
                            "gateway",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.gateway",
                            ),
                        ),
                        (
                            "operator",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.operator",
                            ),
                        ),
                    ],
                    options={
                        "indexes": [models.Index(fields=["operator", "id"], name="repeat_list")],
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("gateway", "source", "record_id"),
                                name="repeat_flagged_once",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("record_id", models.F("first_record_id")), _negated=True
                                ),
                                name="repeat_of_another_record",
                            ),
                        ],
                    },
                ),
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
                        (
                            "gateway",
                            models.ForeignKey(
                                db_constraint=False,
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.gateway",
                            ),
                        ),
                    ],
                    options={
                        "indexes": [
                            models.Index(
                                fields=["gateway", "occurred_to"], name="duplicates_of_gateway"
                            )
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="RepeatDismissal",
                    fields=[
                        (
                            "id",
                            models.BigAutoField(
                                auto_created=True,
                                primary_key=True,
                                serialize=False,
                                verbose_name="ID",
                            ),
                        ),
                        ("reason", models.CharField(max_length=200)),
                        ("dismissed_at", models.DateTimeField()),
                        (
                            "key",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.apikey",
                            ),
                        ),
                        (
                            "repeat",
                            models.OneToOneField(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="dismissal",
                                to="metering.suspectedrepeat",
                            ),
                        ),
                    ],
                ),
                migrations.CreateModel(
                    name="UsageWindow",
                    fields=[
                        (
                            "id",
                            models.BigAutoField(
                                auto_created=True,
                                primary_key=True,
                                serialize=False,
                                verbose_name="ID",
                            ),
                        ),
                        ("source", models.CharField(max_length=256, null=True)),
                        ("window_start", models.DateTimeField()),
                        ("window_end", models.DateTimeField()),
                        (
                            "state",
                            models.CharField(
                                choices=[
                                    ("open", "Open"),
                                    ("differs", "Differs"),
                                    ("closed", "Closed"),
                                ],
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
                        (
                            "gateway",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.gateway",
                            ),
                        ),
                        (
                            "operator",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.operator",
                            ),
                        ),
                    ],
                    options={
                        "indexes": [
                            models.Index(fields=["operator", "id"], name="window_list"),
                            models.Index(fields=["gateway", "window_end"], name="window_touch"),
                            models.Index(
                                condition=models.Q(
                                    ("state", "open"),
                                    models.Q(
                                        ("touches", models.F("compared_touches")), _negated=True
                                    ),
                                    _connector="OR",
                                ),
                                fields=["operator", "id"],
                                name="window_due",
                            ),
                        ],
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("gateway", "source", "window_start", "window_end"),
                                name="window_once",
                                nulls_distinct=False,
                            ),
                            models.CheckConstraint(
                                condition=models.Q(("window_end__gt", models.F("window_start"))),
                                name="window_forward",
                            ),
                            models.CheckConstraint(
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
                            models.CheckConstraint(
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
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("compared_touches__lte", models.F("touches")),
                                    ("late_requests__gte", 0),
                                ),
                                name="window_compared_what_was_touched",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="UsageCounter",
                    fields=[
                        (
                            "id",
                            models.BigAutoField(
                                auto_created=True,
                                primary_key=True,
                                serialize=False,
                                verbose_name="ID",
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
                        (
                            "key",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.apikey",
                            ),
                        ),
                        (
                            "window",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="counters",
                                to="metering.usagewindow",
                            ),
                        ),
                    ],
                    options={
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("window", "revision"), name="counter_revision_once"
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("input_tokens__gte", 0),
                                    ("output_tokens__gte", 0),
                                    ("requests__gte", 0),
                                ),
                                name="counter_not_negative",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="WindowEvent",
                    fields=[
                        (
                            "id",
                            models.BigAutoField(
                                auto_created=True,
                                primary_key=True,
                                serialize=False,
                                verbose_name="ID",
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
                        (
                            "key",
                            models.ForeignKey(
                                null=True,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.apikey",
                            ),
                        ),
                        (
                            "window",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="events",
                                to="metering.usagewindow",
                            ),
                        ),
                        ("by", models.CharField(blank=True, default="", max_length=100)),
                    ],
                ),
                migrations.CreateModel(
                    name="Adjustment",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "batch_id",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("subscriber_id", models.BigIntegerField()),
                        ("batch_id", models.BigIntegerField()),
                        (
                            "kind",
                            models.PositiveSmallIntegerField(
                                choices=[(1, "Void"), (2, "Correction"), (3, "Rerating")]
                            ),
                        ),
                        ("reason", models.CharField(max_length=500)),
                        ("made_by", models.CharField(max_length=100)),
                        ("made_at", models.DateTimeField()),
                        ("records", models.IntegerField()),
                        ("units", models.BigIntegerField()),
                        ("occurred_from", models.DateTimeField()),
                        ("occurred_to", models.DateTimeField()),
                        (
                            "operator",
                            models.ForeignKey(
                                db_constraint=False,
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.operator",
                            ),
                        ),
                    ],
                    options={
                        "indexes": [
                            models.Index(fields=["operator", "batch_id"], name="adjustment_list")
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="Rerating",
                    fields=[
                        (
                            "id",
                            models.BigAutoField(
                                auto_created=True,
                                primary_key=True,
                                serialize=False,
                                verbose_name="ID",
                            ),
                        ),
                        ("rate_card", models.CharField(max_length=64)),
                        ("replaces", models.CharField(blank=True, default="", max_length=64)),
                        ("since", models.DateTimeField()),
                        ("until", models.DateTimeField()),
                        ("card_stamp", models.BigIntegerField()),
                        ("reason", models.CharField(max_length=500)),
                        ("made_by", models.CharField(max_length=100)),
                        ("made_at", models.DateTimeField()),
                        ("applied_at", models.DateTimeField(null=True)),
                        (
                            "operator",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.operator",
                            ),
                        ),
                        ("compared_at", models.DateTimeField(null=True)),
                        ("large", models.BooleanField(default=False)),
                        (
                            "state",
                            models.CharField(
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
                    ],
                    options={
                        "indexes": [
                            models.Index(
                                condition=models.Q(("state__in", ["previewing", "applying"])),
                                fields=["id"],
                                name="rerating_waiting",
                            )
                        ],
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("applied_at", None),
                                    models.Q(("compared_at__isnull", False), ("state", "applied")),
                                    _connector="OR",
                                ),
                                name="rerating_applied_when_compared",
                            )
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="ReratingShare",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "run_id",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("subscriber_id", models.BigIntegerField()),
                        ("run_id", models.BigIntegerField()),
                        ("records", models.IntegerField(default=0)),
                        ("units_before", models.BigIntegerField(default=0)),
                        ("units_after", models.BigIntegerField(default=0)),
                        ("digest", models.BinaryField(max_length=32, null=True)),
                        ("batch_id", models.BigIntegerField(null=True)),
                        ("stale", models.BooleanField(default=False)),
                        ("problem", models.CharField(blank=True, default="", max_length=500)),
                    ],
                    options={
                        "indexes": [
                            models.Index(fields=["run_id", "subscriber_id"], name="rerating_shares")
                        ],
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("batch_id", None),
                                    models.Q(("digest__isnull", False), ("stale", False)),
                                    _connector="OR",
                                ),
                                name="rerating_share_applied_or_stale",
                            )
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="SubjectHour",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "hour",
                                "subject_id",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("subscriber_id", models.BigIntegerField()),
                        ("hour", models.DateTimeField()),
                        ("subject_id", models.BigIntegerField()),
                        ("requests", models.BigIntegerField()),
                        ("uncached_input_tokens", models.BigIntegerField()),
                        ("cached_input_tokens", models.BigIntegerField()),
                        ("cache_write_tokens", models.BigIntegerField()),
                        ("output_tokens", models.BigIntegerField()),
                        ("reasoning_tokens", models.BigIntegerField()),
                        ("units", models.BigIntegerField()),
                    ],
                ),
            ]
        ),
        migrations.RunSQL(telling.RULES),
        migrations.RunSQL(charging_few.FUNCTIONS),
    ]
