"""All tables of subscriptions, and what Django's operations cannot say of them (rules/)."""

import datetime
import uuid

import django.contrib.postgres.constraints
import django.contrib.postgres.fields
import django.contrib.postgres.indexes
import django.db.models.deletion
import django.db.models.expressions
import django.db.models.functions.text
import djmoney.models.fields
from django.conf import settings
from django.contrib.postgres.operations import BtreeGistExtension
from django.db import migrations, models

import subscriptions.models.subscribers
from subscriptions.migrations._together import Together
from subscriptions.migrations.rules import buckets, drawing, offerings, people, reserving


class Migration(migrations.Migration):
    initial = True

    replaces = [
        ("subscriptions", "0001_initial"),
        ("subscriptions", "0002_draw_in_one_call"),
        ("subscriptions", "0003_reservations"),
        ("subscriptions", "0004_top_up_url"),
        ("subscriptions", "0005_plan_windows"),
        ("subscriptions", "0006_rate_limits"),
        ("subscriptions", "0007_slices"),
        ("subscriptions", "0008_what_outcomes_bill"),
        ("subscriptions", "0009_journal_takes_back"),
        ("subscriptions", "0010_fewer_analyses"),
        ("subscriptions", "0011_only_what_crosses"),
        ("subscriptions", "0012_reserve_few"),
        ("subscriptions", "0013_periods_are_closed"),
        ("subscriptions", "0014_changes_in_the_middle_of_a_period"),
        ("subscriptions", "0015_overage_tiers"),
        ("subscriptions", "0016_coupons"),
        ("subscriptions", "0017_trials_and_pauses"),
        ("subscriptions", "0018_tax_rates_by_date"),
        ("subscriptions", "0019_periods_paid_before"),
        ("subscriptions", "0020_jobs"),
        ("subscriptions", "0021_users"),
        ("subscriptions", "0022_freezes"),
        ("subscriptions", "0023_webhooks"),
        ("subscriptions", "0024_mergers_and_recycled_names"),
        ("subscriptions", "0025_notices"),
        ("subscriptions", "0026_queues_in_order"),
        ("subscriptions", "0027_staff_and_audit"),
        ("subscriptions", "0028_families"),
        ("subscriptions", "0029_find_subscribers"),
        ("subscriptions", "0030_retired_plans"),
        ("subscriptions", "0031_keys_of_subscribers"),
        ("subscriptions", "0032_safety"),
    ]

    dependencies = [("auth", "0012_alter_user_first_name_max_length")]

    operations = [
        BtreeGistExtension(),
        migrations.RunSQL(buckets.SEQUENCES),
        migrations.SeparateDatabaseAndState(
            [migrations.RunSQL(buckets.JOURNAL)],
            [
                migrations.CreateModel(
                    name="BucketEntry",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "batch_id",
                                "bucket_id",
                                "kind",
                                "charged_at",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("subscriber_id", models.BigIntegerField()),
                        ("batch_id", models.BigIntegerField()),
                        ("bucket_id", models.BigIntegerField()),
                        (
                            "kind",
                            models.PositiveSmallIntegerField(
                                choices=[
                                    (1, "Grant"),
                                    (2, "Usage"),
                                    (3, "Rollover"),
                                    (4, "Withdrawal"),
                                    (5, "Reversal"),
                                    (6, "Lapse"),
                                    (7, "Refund"),
                                    (8, "Handover"),
                                    (9, "Shared"),
                                    (10, "Unshared"),
                                    (11, "Returned"),
                                    (12, "Given"),
                                ]
                            ),
                        ),
                        ("units", models.BigIntegerField()),
                        ("charged_at", models.DateTimeField()),
                    ],
                ),
            ],
        ),
        Together(
            [
                migrations.CreateModel(
                    name="Operator",
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
                        ("code", models.CharField(max_length=64, unique=True)),
                        ("name", models.CharField(max_length=200)),
                        ("time_zone", models.CharField(default="Asia/Shanghai", max_length=64)),
                        ("currency", models.CharField(default="CNY", max_length=3)),
                        ("is_test", models.BooleanField(default=False)),
                        ("clock_at", models.DateTimeField(blank=True, null=True)),
                        ("late_grace", models.DurationField(default=datetime.timedelta(days=2))),
                        ("default_rate_card", models.CharField(default="standard", max_length=64)),
                        ("created_at", models.DateTimeField()),
                        ("top_up_url", models.CharField(blank=True, default="", max_length=500)),
                        ("payment_term", models.DurationField(default=datetime.timedelta(days=15))),
                        ("overage_by_consent_since", models.DateTimeField(blank=True, null=True)),
                    ],
                    options={
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("clock_at__isnull", False), ("is_test", True)),
                                    models.Q(("clock_at__isnull", True), ("is_test", False)),
                                    _connector="OR",
                                ),
                                name="operator_only_a_test_operator_has_a_clock",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(("late_grace__gte", datetime.timedelta(0))),
                                name="operator_grace_not_negative",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(("payment_term__gte", datetime.timedelta(0))),
                                name="operator_payment_term_not_negative",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="Gateway",
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
                        ("name", models.CharField(max_length=100)),
                        ("created_at", models.DateTimeField()),
                        (
                            "operator",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="gateways",
                                to="subscriptions.operator",
                            ),
                        ),
                    ],
                    options={
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("operator", "name"), name="gateway_name_once"
                            )
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="Booster",
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
                        ("code", models.CharField(max_length=64)),
                        ("version", models.PositiveIntegerField()),
                        ("name", models.CharField(max_length=200)),
                        (
                            "price_currency",
                            djmoney.models.fields.CurrencyField(
                                choices=[
                                    ("CNY", "Chinese Yuan"),
                                    ("EUR", "Euro"),
                                    ("HKD", "Hong Kong Dollar"),
                                    ("USD", "US Dollar"),
                                ],
                                default="CNY",
                                editable=False,
                                max_length=3,
                            ),
                        ),
                        (
                            "price",
                            djmoney.models.fields.MoneyField(decimal_places=2, max_digits=16),
                        ),
                        ("units", models.BigIntegerField()),
                        ("valid_days", models.PositiveIntegerField()),
                        ("created_at", models.DateTimeField()),
                        (
                            "operator",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="boosters",
                                to="subscriptions.operator",
                            ),
                        ),
                    ],
                    options={
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("operator", "code", "version"), name="booster_version_once"
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("price__gte", 0), ("units__gt", 0), ("valid_days__gt", 0)
                                ),
                                name="booster_sane",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="ApiKey",
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
                            "role",
                            models.CharField(
                                choices=[("operator", "Operator"), ("gateway", "Gateway")],
                                max_length=16,
                            ),
                        ),
                        ("name", models.CharField(max_length=100)),
                        ("digest", models.BinaryField(max_length=32, unique=True)),
                        ("subject", models.CharField(blank=True, default="", max_length=256)),
                        ("created_at", models.DateTimeField()),
                        ("revoked_at", models.DateTimeField(blank=True, null=True)),
                        (
                            "gateway",
                            models.ForeignKey(
                                blank=True,
                                null=True,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="api_keys",
                                to="subscriptions.gateway",
                            ),
                        ),
                        (
                            "operator",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="api_keys",
                                to="subscriptions.operator",
                            ),
                        ),
                    ],
                    options={
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("gateway__isnull", False), ("role", "gateway")),
                                    models.Q(("gateway__isnull", True), ("role", "operator")),
                                    _connector="OR",
                                ),
                                name="api_key_gateway_role_has_a_gateway",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("revoked_at__isnull", True),
                                    ("revoked_at__gte", models.F("created_at")),
                                    _connector="OR",
                                ),
                                name="api_key_revoked_after_created",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="OutboxEvent",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "key",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("subscriber_id", models.BigIntegerField()),
                        ("key", models.CharField(max_length=120)),
                        ("kind", models.CharField(max_length=40)),
                        ("payload", models.JSONField()),
                        ("occurred_at", models.DateTimeField()),
                        ("sent_at", models.DateTimeField(blank=True, null=True)),
                    ],
                    options={
                        "indexes": [
                            models.Index(
                                condition=models.Q(("sent_at__isnull", True)),
                                fields=["occurred_at"],
                                name="outbox_queue",
                            ),
                            models.Index(
                                condition=models.Q(("sent_at__isnull", False)),
                                fields=["occurred_at"],
                                name="outbox_told",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="Plan",
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
                        ("code", models.CharField(max_length=64)),
                        ("version", models.PositiveIntegerField()),
                        ("name", models.CharField(max_length=200)),
                        (
                            "price_currency",
                            djmoney.models.fields.CurrencyField(
                                choices=[
                                    ("CNY", "Chinese Yuan"),
                                    ("EUR", "Euro"),
                                    ("HKD", "Hong Kong Dollar"),
                                    ("USD", "US Dollar"),
                                ],
                                default="CNY",
                                editable=False,
                                max_length=3,
                            ),
                        ),
                        (
                            "price",
                            djmoney.models.fields.MoneyField(decimal_places=2, max_digits=16),
                        ),
                        ("allowance", models.BigIntegerField()),
                        ("rate_card", models.CharField(max_length=64)),
                        (
                            "cycle",
                            models.CharField(
                                choices=[
                                    ("calendar_month", "Calendar Month"),
                                    ("subscription_day", "Subscription Day"),
                                ],
                                default="calendar_month",
                                max_length=20,
                            ),
                        ),
                        (
                            "first_month",
                            models.CharField(
                                choices=[("full", "Full"), ("by_day", "By Day"), ("next", "Next")],
                                default="full",
                                max_length=10,
                            ),
                        ),
                        (
                            "collect",
                            models.CharField(
                                choices=[
                                    ("at_close", "At Close"),
                                    ("before_period", "Before Period"),
                                ],
                                default="at_close",
                                max_length=16,
                            ),
                        ),
                        (
                            "rollover",
                            models.CharField(
                                choices=[("none", "None"), ("one_cycle", "One Cycle")],
                                default="none",
                                max_length=10,
                            ),
                        ),
                        (
                            "on_exhaustion",
                            models.CharField(
                                choices=[
                                    ("stop", "Stop"),
                                    ("meter", "Meter"),
                                    ("blocks", "Blocks"),
                                    ("degrade", "Degrade"),
                                ],
                                default="stop",
                                max_length=10,
                            ),
                        ),
                        (
                            "price_per_million",
                            models.DecimalField(
                                blank=True, decimal_places=6, max_digits=14, null=True
                            ),
                        ),
                        ("block_units", models.BigIntegerField(blank=True, null=True)),
                        (
                            "block_price_currency",
                            djmoney.models.fields.CurrencyField(
                                choices=[
                                    ("CNY", "Chinese Yuan"),
                                    ("EUR", "Euro"),
                                    ("HKD", "Hong Kong Dollar"),
                                    ("USD", "US Dollar"),
                                ],
                                default=None,
                                editable=False,
                                max_length=3,
                                null=True,
                            ),
                        ),
                        (
                            "block_price",
                            djmoney.models.fields.MoneyField(
                                blank=True,
                                decimal_places=2,
                                default_currency=None,
                                max_digits=16,
                                null=True,
                            ),
                        ),
                        (
                            "cap_currency",
                            djmoney.models.fields.CurrencyField(
                                choices=[
                                    ("CNY", "Chinese Yuan"),
                                    ("EUR", "Euro"),
                                    ("HKD", "Hong Kong Dollar"),
                                    ("USD", "US Dollar"),
                                ],
                                default=None,
                                editable=False,
                                max_length=3,
                                null=True,
                            ),
                        ),
                        (
                            "cap",
                            djmoney.models.fields.MoneyField(
                                blank=True,
                                decimal_places=2,
                                default_currency=None,
                                max_digits=16,
                                null=True,
                            ),
                        ),
                        ("cap_units", models.BigIntegerField(blank=True, null=True)),
                        (
                            "tax_rate",
                            models.DecimalField(decimal_places=4, default="0.06", max_digits=5),
                        ),
                        ("created_at", models.DateTimeField()),
                        (
                            "operator",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="plans",
                                to="subscriptions.operator",
                            ),
                        ),
                        ("degrade_model", models.CharField(blank=True, default="", max_length=256)),
                        (
                            "degrade_tokens_per_minute",
                            models.PositiveBigIntegerField(blank=True, null=True),
                        ),
                        ("limits_fail_closed", models.BooleanField(default=False)),
                        ("requests_per_minute", models.PositiveIntegerField(blank=True, null=True)),
                        (
                            "tokens_per_minute",
                            models.PositiveBigIntegerField(blank=True, null=True),
                        ),
                        ("outcomes", models.JSONField(default=dict)),
                        (
                            "refund",
                            models.CharField(
                                choices=[("none", "None"), ("unused", "Unused")],
                                default="none",
                                max_length=10,
                            ),
                        ),
                        (
                            "tier_mode",
                            models.CharField(
                                blank=True,
                                choices=[("graduated", "Graduated"), ("volume", "Volume")],
                                default="",
                                max_length=10,
                            ),
                        ),
                        ("converts_to", models.CharField(blank=True, default="", max_length=64)),
                        ("pause_plan", models.CharField(blank=True, default="", max_length=64)),
                        ("suspends", models.BooleanField(default=False)),
                        ("trial_days", models.PositiveSmallIntegerField(blank=True, null=True)),
                        ("tax_category", models.CharField(blank=True, default="", max_length=64)),
                    ],
                    options={
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("operator", "code", "version"), name="plan_version_once"
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("allowance__gte", 0),
                                    ("price__gte", 0),
                                    models.Q(
                                        ("cap__isnull", True), ("cap__gte", 0), _connector="OR"
                                    ),
                                    models.Q(
                                        ("cap_units__isnull", True),
                                        ("cap_units__gte", 0),
                                        _connector="OR",
                                    ),
                                ),
                                name="plan_amounts_not_negative",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(("tax_rate__gte", 0), ("tax_rate__lt", 1)),
                                name="plan_tax_rate_below_one",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("on_exhaustion", "blocks"), _negated=True),
                                    models.Q(
                                        ("block_units__gt", 0),
                                        ("block_units__isnull", False),
                                        ("block_price__gte", 0),
                                        ("block_price__isnull", False),
                                    ),
                                    _connector="OR",
                                ),
                                name="plan_blocks_have_size_and_price",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("on_exhaustion", "meter"), _negated=True),
                                    models.Q(
                                        ("price_per_million__gte", 0),
                                        ("price_per_million__isnull", False),
                                        ("tier_mode", ""),
                                    ),
                                    models.Q(
                                        ("price_per_million__isnull", True),
                                        models.Q(("tier_mode", ""), _negated=True),
                                    ),
                                    _connector="OR",
                                ),
                                name="plan_meter_has_a_price",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("converts_to", ""), ("trial_days__isnull", True)),
                                    models.Q(
                                        ("trial_days__gte", 1),
                                        ("trial_days__lte", 366),
                                        models.Q(("converts_to", ""), _negated=True),
                                    ),
                                    _connector="OR",
                                ),
                                name="plan_trial_converts",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="PlanComponent",
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
                        ("position", models.PositiveSmallIntegerField()),
                        ("name", models.CharField(max_length=200)),
                        (
                            "price_currency",
                            djmoney.models.fields.CurrencyField(
                                choices=[
                                    ("CNY", "Chinese Yuan"),
                                    ("EUR", "Euro"),
                                    ("HKD", "Hong Kong Dollar"),
                                    ("USD", "US Dollar"),
                                ],
                                default="CNY",
                                editable=False,
                                max_length=3,
                            ),
                        ),
                        (
                            "price",
                            djmoney.models.fields.MoneyField(decimal_places=2, max_digits=16),
                        ),
                        ("tax_rate", models.DecimalField(decimal_places=4, max_digits=5)),
                        (
                            "plan",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="components",
                                to="subscriptions.plan",
                            ),
                        ),
                        ("tax_category", models.CharField(blank=True, default="", max_length=64)),
                    ],
                    options={
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("plan", "position"), name="plan_component_once"
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("price__gte", 0), ("tax_rate__gte", 0), ("tax_rate__lt", 1)
                                ),
                                name="plan_component_sane",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="RateCard",
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
                        ("code", models.CharField(max_length=64)),
                        ("version", models.PositiveIntegerField()),
                        ("effective_from", models.DateTimeField()),
                        ("created_at", models.DateTimeField()),
                        (
                            "operator",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="rate_cards",
                                to="subscriptions.operator",
                            ),
                        ),
                    ],
                    options={
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("operator", "code", "version"),
                                name="rate_card_version_once",
                            )
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="RateCardWeight",
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
                        ("model", models.CharField(max_length=256)),
                        ("input", models.DecimalField(decimal_places=3, max_digits=6)),
                        ("cached_input", models.DecimalField(decimal_places=3, max_digits=6)),
                        ("cache_write", models.DecimalField(decimal_places=3, max_digits=6)),
                        ("output", models.DecimalField(decimal_places=3, max_digits=6)),
                        ("reasoning", models.DecimalField(decimal_places=3, max_digits=6)),
                        (
                            "rate_card",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="weights",
                                to="subscriptions.ratecard",
                            ),
                        ),
                    ],
                    options={
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("rate_card", "model"), name="rate_card_model_pattern_once"
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("cache_write__range", (0, 100)),
                                    ("cached_input__range", (0, 100)),
                                    ("input__range", (0, 100)),
                                    ("output__range", (0, 100)),
                                    ("reasoning__range", (0, 100)),
                                ),
                                name="rate_card_weights_0_to_100",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="Subscriber",
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
                        ("external_id", models.CharField(max_length=128)),
                        ("name", models.CharField(max_length=200)),
                        (
                            "kind",
                            models.CharField(
                                choices=[("person", "Person"), ("organisation", "Organisation")],
                                default="person",
                                max_length=16,
                            ),
                        ),
                        ("msisdn", models.CharField(blank=True, default="", max_length=32)),
                        ("email", models.EmailField(blank=True, default="", max_length=254)),
                        ("created_at", models.DateTimeField()),
                        (
                            "operator",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="subscribers",
                                to="subscriptions.operator",
                            ),
                        ),
                        ("merged_at", models.DateTimeField(blank=True, null=True)),
                        (
                            "merged_into",
                            models.ForeignKey(
                                blank=True,
                                db_index=False,
                                null=True,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.subscriber",
                            ),
                        ),
                        (
                            "language",
                            models.CharField(
                                choices=[("zh-hans", "Chinese"), ("en", "English")],
                                db_default="zh-hans",
                                default="zh-hans",
                                max_length=8,
                            ),
                        ),
                    ],
                    options={
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("operator", "external_id"), name="subscriber_id_once"
                            ),
                            models.UniqueConstraint(
                                fields=("id", "operator"), name="subscriber_of_operator"
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("merged_at__isnull", True), ("merged_into__isnull", True)
                                    ),
                                    models.Q(
                                        ("merged_at__isnull", False),
                                        ("merged_into__isnull", False),
                                        models.Q(("merged_into", models.F("id")), _negated=True),
                                    ),
                                    _connector="OR",
                                ),
                                name="subscriber_merged_into_another",
                            ),
                        ],
                        "indexes": [
                            models.Index(
                                condition=models.Q(("msisdn", ""), _negated=True),
                                fields=["operator", "msisdn"],
                                name="subscriber_by_phone",
                            ),
                            models.Index(
                                models.F("operator"),
                                django.db.models.functions.text.Upper("email"),
                                name="subscriber_by_email",
                            ),
                            models.Index(
                                fields=["operator", "name"],
                                name="subscriber_by_name",
                                opclasses=["int8_ops", "varchar_pattern_ops"],
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="Subject",
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
                        ("subject", models.CharField(max_length=256)),
                        ("valid_from", models.DateTimeField(blank=True, null=True)),
                        ("valid_until", models.DateTimeField(blank=True, null=True)),
                        (
                            "operator",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.operator",
                            ),
                        ),
                        (
                            "subscriber",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="subjects",
                                to="subscriptions.subscriber",
                            ),
                        ),
                        ("free_from", models.DateTimeField(blank=True, null=True)),
                        ("of_key", models.BooleanField(db_default=False, default=False)),
                    ],
                    options={
                        "indexes": [
                            models.Index(fields=["operator", "subject"], name="subject_lookup")
                        ],
                        "constraints": [
                            django.contrib.postgres.constraints.ExclusionConstraint(
                                expressions=[
                                    (subscriptions.models.subscribers.SubjectName(), "="),
                                    (
                                        subscriptions.models.subscribers.TsTzRange(
                                            "valid_from", "valid_until"
                                        ),
                                        "&&",
                                    ),
                                ],
                                name="subject_names_one_subscriber_at_a_time",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("valid_from__isnull", True),
                                    ("valid_until__isnull", True),
                                    ("valid_until__gte", models.F("valid_from")),
                                    _connector="OR",
                                ),
                                name="subject_interval_forward",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="Bucket",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "id",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("id", models.BigIntegerField()),
                        (
                            "kind",
                            models.CharField(
                                choices=[
                                    ("rollover", "Rollover"),
                                    ("gift", "Gift"),
                                    ("allowance", "Allowance"),
                                    ("booster", "Booster"),
                                    ("pool", "Pool"),
                                    ("overage", "Overage"),
                                    ("uncovered", "Uncovered"),
                                ],
                                max_length=10,
                            ),
                        ),
                        ("priority", models.PositiveSmallIntegerField()),
                        ("granted", models.BigIntegerField(null=True)),
                        ("used", models.BigIntegerField(default=0)),
                        ("reserved", models.BigIntegerField(default=0)),
                        ("generation", models.IntegerField(default=0)),
                        ("valid_from", models.DateTimeField()),
                        ("valid_until", models.DateTimeField()),
                        ("subscription_id", models.BigIntegerField(null=True)),
                        ("grant_key", models.CharField(max_length=120)),
                        ("note", models.CharField(blank=True, default="", max_length=200)),
                        ("created_at", models.DateTimeField()),
                        (
                            "subscriber",
                            models.ForeignKey(
                                db_constraint=False,
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="buckets",
                                to="subscriptions.subscriber",
                            ),
                        ),
                    ],
                    options={
                        "indexes": [
                            models.Index(
                                fields=["subscriber_id", "valid_until"], name="bucket_live"
                            )
                        ],
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("subscriber_id", "grant_key"), name="bucket_granted_once"
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("granted__isnull", True),
                                    (
                                        "granted__gte",
                                        django.db.models.expressions.CombinedExpression(
                                            models.F("used"), "+", models.F("reserved")
                                        ),
                                    ),
                                    _connector="OR",
                                ),
                                name="bucket_remaining_and_reserved_within_grant",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(("reserved__gte", 0), ("used__gte", 0)),
                                name="bucket_used_and_reserved_not_negative",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("granted__isnull", False),
                                    ("kind__in", ["overage", "uncovered"]),
                                    _connector="OR",
                                ),
                                name="bucket_only_overflow_is_unlimited",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(("valid_until__gt", models.F("valid_from"))),
                                name="bucket_forward",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="Subscription",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "id",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("id", models.BigIntegerField()),
                        ("starts_at", models.DateTimeField()),
                        ("ends_at", models.DateTimeField(blank=True, null=True)),
                        ("opened_until", models.DateTimeField()),
                        ("anchor_day", models.PositiveSmallIntegerField()),
                        ("reopenings", models.PositiveIntegerField(default=0)),
                        ("created_at", models.DateTimeField()),
                        (
                            "next_plan",
                            models.ForeignKey(
                                blank=True,
                                db_constraint=False,
                                db_index=False,
                                null=True,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.plan",
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
                        (
                            "plan",
                            models.ForeignKey(
                                db_constraint=False,
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.plan",
                            ),
                        ),
                        (
                            "subscriber",
                            models.ForeignKey(
                                db_constraint=False,
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="subscriptions",
                                to="subscriptions.subscriber",
                            ),
                        ),
                        (
                            "paused_plan",
                            models.ForeignKey(
                                blank=True,
                                db_constraint=False,
                                db_index=False,
                                null=True,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.plan",
                            ),
                        ),
                    ],
                    options={
                        "indexes": [
                            models.Index(
                                condition=models.Q(
                                    ("ends_at__isnull", True),
                                    ("ends_at__gt", models.F("opened_until")),
                                    _connector="OR",
                                ),
                                fields=["operator", "opened_until", "subscriber_id", "id"],
                                name="subscription_opening_queue",
                            )
                        ],
                        "constraints": [
                            django.contrib.postgres.constraints.ExclusionConstraint(
                                expressions=[
                                    ("subscriber_id", "="),
                                    (
                                        subscriptions.models.subscribers.TsTzRange(
                                            "starts_at", "ends_at"
                                        ),
                                        "&&",
                                    ),
                                ],
                                name="subscription_one_base_plan_at_a_time",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("ends_at__isnull", True),
                                    ("ends_at__gte", models.F("starts_at")),
                                    _connector="OR",
                                ),
                                name="subscription_ends_after_it_starts",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="SubscriptionPeriod",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "subscription_id",
                                "starts_at",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("subscription_id", models.BigIntegerField()),
                        ("starts_at", models.DateTimeField()),
                        ("ends_at", models.DateTimeField()),
                        ("turned_at", models.DateTimeField(blank=True, null=True)),
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
                        (
                            "plan",
                            models.ForeignKey(
                                db_constraint=False,
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.plan",
                            ),
                        ),
                        (
                            "subscriber",
                            models.ForeignKey(
                                db_constraint=False,
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="periods",
                                to="subscriptions.subscriber",
                            ),
                        ),
                        ("closed_at", models.DateTimeField(blank=True, null=True)),
                    ],
                    options={
                        "indexes": [
                            models.Index(
                                condition=models.Q(("turned_at__isnull", True)),
                                fields=["operator", "starts_at"],
                                name="period_turn_queue",
                            ),
                            models.Index(fields=["subscriber_id", "ends_at"], name="period_by_end"),
                            models.Index(
                                condition=models.Q(("closed_at__isnull", True)),
                                fields=["operator", "ends_at", "subscriber_id"],
                                name="period_close_queue",
                            ),
                        ],
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(("ends_at__gt", models.F("starts_at"))),
                                name="period_forward",
                            )
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="Suspension",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "starts_at",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("starts_at", models.DateTimeField()),
                        ("ends_at", models.DateTimeField(blank=True, null=True)),
                        ("reason", models.CharField(max_length=200)),
                        (
                            "subscriber",
                            models.ForeignKey(
                                db_constraint=False,
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="suspensions",
                                to="subscriptions.subscriber",
                            ),
                        ),
                        ("frozen", models.BooleanField(default=False)),
                    ],
                    options={
                        "constraints": [
                            django.contrib.postgres.constraints.ExclusionConstraint(
                                expressions=[
                                    ("subscriber_id", "="),
                                    (
                                        subscriptions.models.subscribers.TsTzRange(
                                            "starts_at", "ends_at"
                                        ),
                                        "&&",
                                    ),
                                ],
                                name="suspension_one_at_a_time",
                            )
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="IdempotentRequest",
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
                        ("key", models.CharField(max_length=255)),
                        ("fingerprint", models.BinaryField(max_length=32)),
                        ("status", models.PositiveSmallIntegerField()),
                        ("body", models.JSONField()),
                        ("created_at", models.DateTimeField(db_index=True)),
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
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("operator", "key"), name="idempotency_key_once"
                            )
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="Reservation",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "gateway_id",
                                "name",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("subscriber_id", models.BigIntegerField()),
                        ("gateway_id", models.BigIntegerField()),
                        ("name", models.CharField(max_length=512)),
                        ("operator_id", models.BigIntegerField()),
                        (
                            "state",
                            models.PositiveSmallIntegerField(
                                choices=[
                                    (1, "Open"),
                                    (2, "Committed"),
                                    (3, "Released"),
                                    (4, "Expired"),
                                    (5, "Denied"),
                                ]
                            ),
                        ),
                        ("holds", models.JSONField()),
                        ("held", models.BigIntegerField()),
                        ("promised", models.BigIntegerField()),
                        ("slice_units", models.BigIntegerField(null=True)),
                        ("ttl_seconds", models.PositiveIntegerField()),
                        ("created_at", models.DateTimeField()),
                        ("expires_at", models.DateTimeField()),
                        ("settled_at", models.DateTimeField(null=True)),
                        ("commit_fingerprint", models.BinaryField(max_length=32, null=True)),
                        ("late", models.BooleanField(default=False)),
                        ("answer", models.JSONField(null=True)),
                        ("rated_tokens", models.BigIntegerField(default=0)),
                        ("final", models.BooleanField(default=False)),
                        ("subject", models.CharField(default="", max_length=256)),
                    ],
                    options={
                        "indexes": [
                            models.Index(
                                condition=models.Q(("state", 1)),
                                fields=["operator_id", "expires_at"],
                                name="reservation_expiry_queue",
                            ),
                            models.Index(
                                condition=models.Q(("state", 1)),
                                fields=["subscriber_id", "expires_at"],
                                name="reservation_open",
                            ),
                        ],
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("held__gte", 0),
                                    ("promised__gte", 0),
                                    models.Q(
                                        ("slice_units__isnull", True),
                                        ("slice_units__gt", 0),
                                        _connector="OR",
                                    ),
                                ),
                                name="reservation_amounts_not_negative",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("settled_at__isnull", True), ("state__in", [1, 5])),
                                    models.Q(
                                        ("settled_at__isnull", False), ("state__in", [2, 3, 4])
                                    ),
                                    _connector="OR",
                                ),
                                name="reservation_open_until_settled",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("state", 5), _negated=True),
                                    models.Q(("held", 0), ("promised", 0)),
                                    _connector="OR",
                                ),
                                name="reservation_denied_holds_nothing",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("answer__isnull", False),
                                        ("commit_fingerprint__isnull", False),
                                        ("state", 2),
                                    ),
                                    models.Q(
                                        models.Q(("state", 2), _negated=True),
                                        ("commit_fingerprint__isnull", True),
                                        ("late", False),
                                    ),
                                    _connector="OR",
                                ),
                                name="reservation_commit_is_answered",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(("expires_at__gte", models.F("created_at"))),
                                name="reservation_forward",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="ReservationName",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "gateway_id",
                                "name",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("name", models.CharField(max_length=512)),
                        ("subscriber_id", models.BigIntegerField(null=True)),
                        ("fingerprint", models.BinaryField(max_length=32)),
                        ("answer", models.JSONField()),
                        ("created_at", models.DateTimeField()),
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
                            django.contrib.postgres.indexes.BrinIndex(
                                fields=["created_at"],
                                name="reservation_name_age",
                                pages_per_range=32,
                            )
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="PlanWindow",
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
                            "per",
                            models.CharField(
                                choices=[
                                    ("5h", "Five Hours"),
                                    ("day", "Day"),
                                    ("week", "Week"),
                                    ("month", "Month"),
                                ],
                                max_length=5,
                            ),
                        ),
                        ("sliding", models.BooleanField(default=False)),
                        ("units", models.BigIntegerField()),
                        (
                            "plan",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="windows",
                                to="subscriptions.plan",
                            ),
                        ),
                    ],
                    options={
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("plan", "per", "sliding"), name="plan_window_of_a_kind_once"
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("units__gte", 0),
                                    models.Q(("sliding", False), ("per", "5h"), _connector="OR"),
                                ),
                                name="plan_window_sane",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="Ending",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "subscription_id",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("subscription_id", models.BigIntegerField()),
                        ("at", models.DateTimeField()),
                        ("period_start", models.DateTimeField()),
                        ("period_end", models.DateTimeField()),
                        ("granted", models.BigIntegerField()),
                        ("unused", models.BigIntegerField()),
                        (
                            "refund",
                            models.CharField(
                                choices=[("none", "None"), ("full", "Full"), ("unused", "Unused")],
                                max_length=10,
                            ),
                        ),
                        ("reason", models.CharField(max_length=200)),
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
                        (
                            "plan",
                            models.ForeignKey(
                                db_constraint=False,
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.plan",
                            ),
                        ),
                        (
                            "subscriber",
                            models.ForeignKey(
                                db_constraint=False,
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.subscriber",
                            ),
                        ),
                    ],
                    options={
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("unused__gte", 0), ("unused__lte", models.F("granted"))
                                ),
                                name="ending_unused_within_granted",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("at__gte", models.F("period_start")),
                                    ("at__lt", models.F("period_end")),
                                ),
                                name="ending_within_its_period",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("refund", "unused"), _negated=True),
                                    ("granted__gt", 0),
                                    _connector="OR",
                                ),
                                name="ending_refund_of_something",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="Upgrade",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "subscription_id",
                                "nr",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("subscription_id", models.BigIntegerField()),
                        ("nr", models.PositiveSmallIntegerField()),
                        ("at", models.DateTimeField()),
                        ("period_start", models.DateTimeField()),
                        ("period_end", models.DateTimeField()),
                        ("days", models.PositiveSmallIntegerField()),
                        ("units", models.BigIntegerField()),
                        (
                            "new_plan",
                            models.ForeignKey(
                                db_constraint=False,
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.plan",
                            ),
                        ),
                        (
                            "old_plan",
                            models.ForeignKey(
                                db_constraint=False,
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.plan",
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
                        (
                            "subscriber",
                            models.ForeignKey(
                                db_constraint=False,
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.subscriber",
                            ),
                        ),
                    ],
                    options={
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("days__gte", 1), ("days__lte", 30), ("units__gte", 0)
                                ),
                                name="upgrade_days_and_units_in_range",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("at__gte", models.F("period_start")),
                                    ("at__lt", models.F("period_end")),
                                ),
                                name="upgrade_within_its_period",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("old_plan", models.F("new_plan")), _negated=True
                                ),
                                name="upgrade_to_another_plan",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="PlanTier",
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
                        ("position", models.PositiveSmallIntegerField()),
                        ("up_to", models.BigIntegerField(blank=True, null=True)),
                        ("price_per_million", models.DecimalField(decimal_places=6, max_digits=14)),
                        (
                            "plan",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="tiers",
                                to="subscriptions.plan",
                            ),
                        ),
                    ],
                    options={
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("plan", "position"), name="plan_tier_once"
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("price_per_million__gte", 0),
                                    models.Q(
                                        ("up_to__isnull", True), ("up_to__gt", 0), _connector="OR"
                                    ),
                                ),
                                name="plan_tier_sane",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="Coupon",
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
                        ("code", models.CharField(max_length=64)),
                        ("name", models.CharField(max_length=200)),
                        (
                            "percent",
                            models.DecimalField(
                                blank=True, decimal_places=2, max_digits=5, null=True
                            ),
                        ),
                        (
                            "amount_currency",
                            djmoney.models.fields.CurrencyField(
                                choices=[
                                    ("CNY", "Chinese Yuan"),
                                    ("EUR", "Euro"),
                                    ("HKD", "Hong Kong Dollar"),
                                    ("USD", "US Dollar"),
                                ],
                                default="CNY",
                                editable=False,
                                max_length=3,
                                null=True,
                            ),
                        ),
                        (
                            "amount",
                            djmoney.models.fields.MoneyField(
                                blank=True, decimal_places=2, max_digits=16, null=True
                            ),
                        ),
                        (
                            "price_currency",
                            djmoney.models.fields.CurrencyField(
                                choices=[
                                    ("CNY", "Chinese Yuan"),
                                    ("EUR", "Euro"),
                                    ("HKD", "Hong Kong Dollar"),
                                    ("USD", "US Dollar"),
                                ],
                                default="CNY",
                                editable=False,
                                max_length=3,
                                null=True,
                            ),
                        ),
                        (
                            "price",
                            djmoney.models.fields.MoneyField(
                                blank=True, decimal_places=2, max_digits=16, null=True
                            ),
                        ),
                        (
                            "covers",
                            models.CharField(
                                choices=[("fee", "Fee"), ("all", "All")],
                                default="fee",
                                max_length=3,
                            ),
                        ),
                        ("periods", models.PositiveSmallIntegerField(blank=True, null=True)),
                        (
                            "plans",
                            django.contrib.postgres.fields.ArrayField(
                                base_field=models.CharField(max_length=64),
                                blank=True,
                                default=list,
                                size=None,
                            ),
                        ),
                        ("first_subscription", models.BooleanField(default=False)),
                        ("redeemable_from", models.DateTimeField(blank=True, null=True)),
                        ("redeemable_until", models.DateTimeField(blank=True, null=True)),
                        ("max_redemptions", models.PositiveIntegerField(blank=True, null=True)),
                        ("redeemed", models.PositiveIntegerField(default=0)),
                        ("created_at", models.DateTimeField()),
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
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("operator", "code"), name="coupon_once"
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("amount__isnull", True),
                                        ("percent__gt", 0),
                                        ("percent__lte", 100),
                                        ("price__isnull", True),
                                    ),
                                    models.Q(
                                        ("amount__gt", 0),
                                        ("percent__isnull", True),
                                        ("price__isnull", True),
                                    ),
                                    models.Q(
                                        ("amount__isnull", True),
                                        ("percent__isnull", True),
                                        ("price__gte", 0),
                                    ),
                                    _connector="OR",
                                ),
                                name="coupon_takes_off_in_one_way",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("periods__isnull", True), ("periods__gt", 0), _connector="OR"
                                ),
                                name="coupon_lasts",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("max_redemptions__isnull", True),
                                    ("redeemed__lte", models.F("max_redemptions")),
                                    _connector="OR",
                                ),
                                name="coupon_redeemed_within_its_limit",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="Redemption",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "coupon_id",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("subscription_id", models.BigIntegerField()),
                        ("first_period", models.DateTimeField()),
                        ("at", models.DateTimeField()),
                        (
                            "coupon",
                            models.ForeignKey(
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.coupon",
                            ),
                        ),
                        (
                            "subscriber",
                            models.ForeignKey(
                                db_constraint=False,
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.subscriber",
                            ),
                        ),
                    ],
                ),
                migrations.CreateModel(
                    name="TaxRate",
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
                        ("category", models.CharField(max_length=64)),
                        ("effective_from", models.DateField()),
                        ("rate", models.DecimalField(decimal_places=4, max_digits=5)),
                        ("created_at", models.DateTimeField()),
                        (
                            "operator",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="tax_rates",
                                to="subscriptions.operator",
                            ),
                        ),
                    ],
                    options={
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(("rate__gte", 0), ("rate__lt", 1)),
                                name="tax_rate_below_one",
                            )
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="ExpectedPeriod",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "subscription_id",
                                "starts_at",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("subscriber_id", models.BigIntegerField()),
                        ("subscription_id", models.BigIntegerField()),
                        ("starts_at", models.DateTimeField()),
                        ("asked_at", models.DateTimeField(blank=True, null=True)),
                        ("paid_at", models.DateTimeField(blank=True, null=True)),
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
                        (
                            "plan",
                            models.ForeignKey(
                                db_constraint=False,
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.plan",
                            ),
                        ),
                    ],
                    options={
                        "indexes": [
                            models.Index(
                                condition=models.Q(("asked_at__isnull", True)),
                                fields=["operator", "starts_at", "subscriber_id"],
                                name="expected_period_queue",
                            )
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="Job",
                    fields=[
                        (
                            "name",
                            models.CharField(max_length=200, primary_key=True, serialize=False),
                        ),
                        ("runs", models.BigIntegerField()),
                        ("failures", models.BigIntegerField()),
                        ("ended_at", models.DateTimeField()),
                        ("succeeded_at", models.DateTimeField(null=True)),
                        ("failed_at", models.DateTimeField(null=True)),
                        ("seconds", models.FloatField()),
                        ("slowest_seconds", models.FloatField()),
                        ("error", models.CharField(blank=True, default="", max_length=300)),
                    ],
                ),
                migrations.CreateModel(
                    name="User",
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
                        ("password", models.CharField(max_length=128, verbose_name="password")),
                        (
                            "last_login",
                            models.DateTimeField(blank=True, null=True, verbose_name="last login"),
                        ),
                        (
                            "is_superuser",
                            models.BooleanField(
                                default=False,
                                help_text="Designates that this user has all permissions without explicitly assigning them.",
                                verbose_name="superuser status",
                            ),
                        ),
                        ("key", models.UUIDField(default=uuid.uuid4, editable=False, unique=True)),
                        (
                            "email",
                            models.EmailField(
                                blank=True, db_index=True, default="", max_length=254
                            ),
                        ),
                        (
                            "phone",
                            models.CharField(blank=True, db_index=True, default="", max_length=16),
                        ),
                        ("phone_verified", models.BooleanField(default=False)),
                        ("is_active", models.BooleanField(default=True)),
                        ("created_at", models.DateTimeField()),
                        ("closed_at", models.DateTimeField(blank=True, null=True)),
                        (
                            "groups",
                            models.ManyToManyField(
                                blank=True,
                                help_text="The groups this user belongs to. A user will get all permissions granted to each of their groups.",
                                related_name="user_set",
                                related_query_name="user",
                                to="auth.group",
                                verbose_name="groups",
                            ),
                        ),
                        (
                            "user_permissions",
                            models.ManyToManyField(
                                blank=True,
                                help_text="Specific permissions for this user.",
                                related_name="user_set",
                                related_query_name="user",
                                to="auth.permission",
                                verbose_name="user permissions",
                            ),
                        ),
                    ],
                    options={
                        "constraints": [
                            models.UniqueConstraint(
                                condition=models.Q(("phone_verified", True)),
                                fields=("phone",),
                                name="user_verified_phone_once",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("phone_verified", False),
                                    models.Q(("phone", ""), _negated=True),
                                    _connector="OR",
                                ),
                                name="user_verified_phone_is_one",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("closed_at__isnull", True),
                                    models.Q(("email", ""), ("is_active", False), ("phone", "")),
                                    _connector="OR",
                                ),
                                name="user_closed_is_empty",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("closed_at__isnull", True),
                                    ("closed_at__gte", models.F("created_at")),
                                    _connector="OR",
                                ),
                                name="user_closed_after_created",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="Access",
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
                        ("created_at", models.DateTimeField()),
                        (
                            "operator",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.operator",
                            ),
                        ),
                        (
                            "subscriber",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="accesses",
                                to="subscriptions.subscriber",
                            ),
                        ),
                        (
                            "user",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="accesses",
                                to=settings.AUTH_USER_MODEL,
                            ),
                        ),
                    ],
                    options={
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("user", "operator"), name="access_once_an_operator"
                            )
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="Freeze",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "bucket_id",
                                "key",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("subscriber_id", models.BigIntegerField()),
                        ("bucket_id", models.BigIntegerField()),
                        ("key", models.CharField(max_length=64)),
                        ("units", models.BigIntegerField()),
                        (
                            "state",
                            models.CharField(
                                choices=[
                                    ("frozen", "Frozen"),
                                    ("thawed", "Thawed"),
                                    ("taken", "Taken"),
                                ],
                                default="frozen",
                                max_length=6,
                            ),
                        ),
                        ("at", models.DateTimeField()),
                        ("ended_at", models.DateTimeField(blank=True, null=True)),
                    ],
                    options={
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(("units__gte", 0)), name="freeze_not_negative"
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("ended_at__isnull", True), ("state", "frozen")),
                                    models.Q(
                                        ("ended_at__isnull", False),
                                        ("state__in", ["thawed", "taken"]),
                                    ),
                                    _connector="OR",
                                ),
                                name="freeze_ended",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="WebhookEndpoint",
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
                        ("url", models.CharField(max_length=2000)),
                        ("description", models.CharField(blank=True, default="", max_length=200)),
                        (
                            "kinds",
                            django.contrib.postgres.fields.ArrayField(
                                base_field=models.CharField(max_length=40), default=list, size=None
                            ),
                        ),
                        ("secret", models.TextField()),
                        ("old_secret", models.TextField(blank=True, default="")),
                        ("old_secret_until", models.DateTimeField(blank=True, null=True)),
                        ("created_at", models.DateTimeField()),
                        ("failing_since", models.DateTimeField(blank=True, null=True)),
                        ("failures", models.PositiveIntegerField(default=0)),
                        ("paused_until", models.DateTimeField(blank=True, null=True)),
                        ("disabled_at", models.DateTimeField(blank=True, null=True)),
                        (
                            "disabled_reason",
                            models.CharField(blank=True, default="", max_length=300),
                        ),
                        ("deleted_at", models.DateTimeField(blank=True, null=True)),
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
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("disabled_at__isnull", True), ("disabled_reason", "")
                                    ),
                                    models.Q(
                                        ("disabled_at__isnull", False),
                                        models.Q(("disabled_reason", ""), _negated=True),
                                    ),
                                    _connector="OR",
                                ),
                                name="webhook_endpoint_disabled_with_a_reason",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("old_secret", ""), ("old_secret_until__isnull", True)
                                    ),
                                    models.Q(
                                        ("old_secret_until__isnull", False),
                                        models.Q(("old_secret", ""), _negated=True),
                                    ),
                                    _connector="OR",
                                ),
                                name="webhook_endpoint_old_secret_ends",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("failing_since__isnull", True), ("failures", 0)),
                                    models.Q(("failing_since__isnull", False), ("failures__gt", 0)),
                                    _connector="OR",
                                ),
                                name="webhook_endpoint_fails_since",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="WebhookDelivery",
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
                        ("subscriber_id", models.BigIntegerField()),
                        ("event_key", models.CharField(max_length=120)),
                        ("kind", models.CharField(max_length=40)),
                        ("occurred_at", models.DateTimeField()),
                        ("payload", models.JSONField()),
                        (
                            "state",
                            models.CharField(
                                choices=[
                                    ("waiting", "Waiting"),
                                    ("delivered", "Delivered"),
                                    ("failed", "Failed"),
                                ],
                                default="waiting",
                                max_length=10,
                            ),
                        ),
                        ("attempts", models.PositiveIntegerField(default=0)),
                        ("next_at", models.DateTimeField()),
                        ("since", models.DateTimeField()),
                        ("ended_at", models.DateTimeField(blank=True, null=True)),
                        (
                            "endpoint",
                            models.ForeignKey(
                                db_index=False,
                                on_delete=django.db.models.deletion.CASCADE,
                                related_name="deliveries",
                                to="subscriptions.webhookendpoint",
                            ),
                        ),
                    ],
                    options={
                        "indexes": [
                            models.Index(
                                condition=models.Q(("state", "waiting")),
                                fields=["endpoint", "next_at", "id"],
                                name="webhook_queue",
                            ),
                            models.Index(
                                condition=models.Q(("state", "waiting")),
                                fields=["endpoint", "subscriber_id", "occurred_at", "id"],
                                name="webhook_order",
                            ),
                            models.Index(fields=["endpoint", "id"], name="webhook_list"),
                            models.Index(
                                condition=models.Q(("state", "waiting"), _negated=True),
                                fields=["ended_at"],
                                name="webhook_outlived",
                            ),
                        ],
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("subscriber_id", "event_key", "endpoint"),
                                name="webhook_event_once",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("ended_at__isnull", True), ("state", "waiting")),
                                    models.Q(
                                        models.Q(("state", "waiting"), _negated=True),
                                        ("ended_at__isnull", False),
                                    ),
                                    _connector="OR",
                                ),
                                name="webhook_waits_or_ended",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(("next_at__gte", models.F("since"))),
                                name="webhook_next_after_since",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="WebhookAttempt",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "delivery_id",
                                "nr",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        (
                            "delivery",
                            models.ForeignKey(
                                db_index=False,
                                on_delete=django.db.models.deletion.CASCADE,
                                related_name="calls",
                                to="subscriptions.webhookdelivery",
                            ),
                        ),
                        ("nr", models.PositiveIntegerField()),
                        ("at", models.DateTimeField()),
                        ("status", models.PositiveSmallIntegerField(null=True)),
                        ("milliseconds", models.PositiveIntegerField()),
                        ("error", models.CharField(blank=True, default="", max_length=300)),
                        ("answer", models.CharField(blank=True, default="", max_length=500)),
                    ],
                ),
                migrations.CreateModel(
                    name="NoticePolicy",
                    fields=[
                        (
                            "operator",
                            models.OneToOneField(
                                on_delete=django.db.models.deletion.PROTECT,
                                primary_key=True,
                                related_name="+",
                                serialize=False,
                                to="subscriptions.operator",
                            ),
                        ),
                        ("quiet_from", models.TimeField(default=datetime.time(21, 0))),
                        ("quiet_until", models.TimeField(default=datetime.time(8, 0))),
                        ("expiry_days", models.PositiveSmallIntegerField(default=3)),
                        ("expiry_done_until", models.DateTimeField(blank=True, null=True)),
                    ],
                ),
                migrations.CreateModel(
                    name="NoticePreference",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "kind",
                                "channel",
                                "nr",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("kind", models.CharField(max_length=40)),
                        (
                            "channel",
                            models.CharField(
                                choices=[("email", "Email"), ("sms", "Sms")], max_length=5
                            ),
                        ),
                        ("nr", models.PositiveIntegerField()),
                        ("wanted", models.BooleanField()),
                        ("at", models.DateTimeField()),
                        ("by", models.CharField(max_length=16)),
                        (
                            "subscriber",
                            models.ForeignKey(
                                db_constraint=False,
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.subscriber",
                            ),
                        ),
                    ],
                ),
                migrations.CreateModel(
                    name="Notice",
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
                        ("event_key", models.CharField(max_length=120)),
                        (
                            "channel",
                            models.CharField(
                                choices=[("email", "Email"), ("sms", "Sms")], max_length=5
                            ),
                        ),
                        ("kind", models.CharField(max_length=40)),
                        ("occurred_at", models.DateTimeField()),
                        ("payload", models.JSONField()),
                        (
                            "state",
                            models.CharField(
                                choices=[
                                    ("waiting", "Waiting"),
                                    ("sent", "Sent"),
                                    ("failed", "Failed"),
                                    ("dropped", "Dropped"),
                                ],
                                default="waiting",
                                max_length=7,
                            ),
                        ),
                        ("attempts", models.PositiveIntegerField(default=0)),
                        ("next_at", models.DateTimeField()),
                        ("ended_at", models.DateTimeField(blank=True, null=True)),
                        ("reason", models.CharField(blank=True, default="", max_length=300)),
                        (
                            "operator",
                            models.ForeignKey(
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.operator",
                            ),
                        ),
                        (
                            "subscriber",
                            models.ForeignKey(
                                db_constraint=False,
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.subscriber",
                            ),
                        ),
                    ],
                    options={
                        "indexes": [
                            models.Index(
                                condition=models.Q(("state", "waiting")),
                                fields=["channel", "next_at", "id"],
                                name="notice_queue",
                            ),
                            models.Index(fields=["subscriber", "id"], name="notice_list"),
                            models.Index(
                                condition=models.Q(("state", "waiting"), _negated=True),
                                fields=["ended_at"],
                                name="notice_outlived",
                            ),
                        ],
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("subscriber", "event_key", "channel"), name="notice_once"
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("ended_at__isnull", True), ("state", "waiting")),
                                    models.Q(
                                        models.Q(("state", "waiting"), _negated=True),
                                        ("ended_at__isnull", False),
                                    ),
                                    _connector="OR",
                                ),
                                name="notice_waits_or_ended",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("state__in", ["waiting", "sent"]),
                                    models.Q(("reason", ""), _negated=True),
                                    _connector="OR",
                                ),
                                name="notice_unsent_with_a_reason",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="AuditEntry",
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
                        ("at", models.DateTimeField()),
                        ("who", models.CharField(max_length=254)),
                        (
                            "role",
                            models.CharField(
                                choices=[
                                    ("product", "Product manager"),
                                    ("agent", "Agent"),
                                    ("finance", "Finance"),
                                    ("operations", "Operations"),
                                    ("auditor", "Auditor"),
                                    ("platform", "Platform"),
                                ],
                                max_length=10,
                            ),
                        ),
                        ("address", models.GenericIPAddressField(blank=True, null=True)),
                        ("action", models.CharField(max_length=80)),
                        ("about", models.CharField(blank=True, default="", max_length=200)),
                        ("before", models.JSONField(blank=True, null=True)),
                        ("after", models.JSONField(blank=True, null=True)),
                        ("reason", models.CharField(blank=True, default="", max_length=500)),
                        (
                            "operator",
                            models.ForeignKey(
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.operator",
                            ),
                        ),
                        (
                            "subscriber",
                            models.ForeignKey(
                                blank=True,
                                db_index=False,
                                null=True,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.subscriber",
                            ),
                        ),
                        (
                            "user",
                            models.ForeignKey(
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to=settings.AUTH_USER_MODEL,
                            ),
                        ),
                    ],
                    options={
                        "indexes": [
                            models.Index(fields=["operator", "-id"], name="audit_newest"),
                            models.Index(fields=["operator", "user", "-id"], name="audit_by_user"),
                            models.Index(
                                fields=["operator", "action", "-id"], name="audit_by_action"
                            ),
                            models.Index(
                                condition=models.Q(("subscriber__isnull", False)),
                                fields=["subscriber", "-id"],
                                name="audit_of_subscriber",
                            ),
                            models.Index(fields=["operator", "about", "-id"], name="audit_about"),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="Staff",
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
                            "role",
                            models.CharField(
                                choices=[
                                    ("product", "Product manager"),
                                    ("agent", "Agent"),
                                    ("finance", "Finance"),
                                    ("operations", "Operations"),
                                    ("auditor", "Auditor"),
                                    ("platform", "Platform"),
                                ],
                                max_length=10,
                            ),
                        ),
                        ("created_at", models.DateTimeField()),
                        ("ended_at", models.DateTimeField(blank=True, null=True)),
                        (
                            "operator",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="staff",
                                to="subscriptions.operator",
                            ),
                        ),
                        (
                            "user",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="staff",
                                to=settings.AUTH_USER_MODEL,
                            ),
                        ),
                    ],
                    options={
                        "constraints": [
                            models.UniqueConstraint(
                                condition=models.Q(("ended_at__isnull", True)),
                                fields=("user", "operator"),
                                name="staff_one_role_at_a_time",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    (
                                        "role__in",
                                        [
                                            "product",
                                            "agent",
                                            "finance",
                                            "operations",
                                            "auditor",
                                            "platform",
                                        ],
                                    )
                                ),
                                name="staff_role_is_one",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("ended_at__isnull", True),
                                    ("ended_at__gte", models.F("created_at")),
                                    _connector="OR",
                                ),
                                name="staff_ended_after_created",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="StaffNetwork",
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
                        ("network", models.CharField(max_length=43)),
                        ("note", models.CharField(blank=True, default="", max_length=200)),
                        ("created_at", models.DateTimeField()),
                        (
                            "operator",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="staff_networks",
                                to="subscriptions.operator",
                            ),
                        ),
                    ],
                    options={
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("operator", "network"), name="staff_network_once"
                            )
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="Family",
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
                                choices=[("family", "Family"), ("organisation", "Organisation")],
                                default="family",
                                max_length=12,
                            ),
                        ),
                        ("name", models.CharField(max_length=100)),
                        ("shared", models.CharField(max_length=40)),
                        ("kept", models.BigIntegerField(default=0)),
                        ("open_to_members", models.BooleanField(default=False)),
                        ("created_at", models.DateTimeField()),
                        ("dissolved_at", models.DateTimeField(blank=True, null=True)),
                        (
                            "operator",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.operator",
                            ),
                        ),
                        (
                            "owner",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.subscriber",
                            ),
                        ),
                    ],
                    options={
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(("kept__gte", 0)), name="family_keeps_no_debt"
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    (
                                        "shared__regex",
                                        "^(rollover|gift|allowance|booster)(,(rollover|gift|allowance|booster))*$",
                                    )
                                ),
                                name="family_shares_what_may_be_shared",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("dissolved_at__isnull", True),
                                    ("dissolved_at__gte", models.F("created_at")),
                                    _connector="OR",
                                ),
                                name="family_dissolved_after_it_was_made",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="FamilyGift",
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
                        ("key", models.CharField(max_length=64)),
                        ("units", models.BigIntegerField()),
                        ("batch_id", models.BigIntegerField(unique=True)),
                        ("note", models.CharField(blank=True, default="", max_length=100)),
                        ("at", models.DateTimeField()),
                        (
                            "family",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.family",
                            ),
                        ),
                        (
                            "giver",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.subscriber",
                            ),
                        ),
                        (
                            "receiver",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.subscriber",
                            ),
                        ),
                    ],
                    options={
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("giver", "key"), name="family_gift_once"
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("units__gt", 0),
                                    models.Q(("giver", models.F("receiver")), _negated=True),
                                ),
                                name="family_gift_of_something_to_another",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="FamilyMember",
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
                        ("is_owner", models.BooleanField(default=False)),
                        ("label", models.CharField(max_length=60)),
                        ("cap", models.BigIntegerField(blank=True, null=True)),
                        (
                            "priority",
                            models.PositiveSmallIntegerField(
                                choices=[(1, "First"), (2, "Normal")], default=2
                            ),
                        ),
                        ("shows_usage", models.BooleanField(default=False)),
                        ("since", models.DateTimeField()),
                        ("until", models.DateTimeField(blank=True, null=True)),
                        (
                            "ended",
                            models.CharField(
                                blank=True,
                                choices=[
                                    ("left", "Left"),
                                    ("removed", "Removed"),
                                    ("dissolved", "Dissolved"),
                                ],
                                default="",
                                max_length=10,
                            ),
                        ),
                        (
                            "family",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="members",
                                to="subscriptions.family",
                            ),
                        ),
                        (
                            "subscriber",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.subscriber",
                            ),
                        ),
                    ],
                    options={
                        "constraints": [
                            django.contrib.postgres.constraints.ExclusionConstraint(
                                expressions=[
                                    ("subscriber", "="),
                                    (
                                        subscriptions.models.subscribers.TsTzRange(
                                            "since", "until"
                                        ),
                                        "&&",
                                    ),
                                ],
                                name="family_one_at_a_time",
                            ),
                            models.UniqueConstraint(
                                condition=models.Q(("is_owner", True)),
                                fields=("family",),
                                name="family_has_one_main_line",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("cap__isnull", True),
                                    models.Q(("cap__gte", 0), ("is_owner", False)),
                                    _connector="OR",
                                ),
                                name="family_member_cap_not_negative",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("ended", ""), ("until__isnull", True)),
                                    models.Q(
                                        ("ended__in", ["left", "removed", "dissolved"]),
                                        ("until__gte", models.F("since")),
                                    ),
                                    _connector="OR",
                                ),
                                name="family_member_ends_as_it_says",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="FamilyInvite",
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
                        ("contact", models.CharField(blank=True, default="", max_length=254)),
                        ("code_hash", models.CharField(max_length=64, unique=True)),
                        ("label", models.CharField(max_length=60)),
                        ("cap", models.BigIntegerField(blank=True, null=True)),
                        (
                            "priority",
                            models.PositiveSmallIntegerField(
                                choices=[(1, "First"), (2, "Normal")], default=2
                            ),
                        ),
                        (
                            "state",
                            models.CharField(
                                choices=[
                                    ("open", "Open"),
                                    ("accepted", "Accepted"),
                                    ("declined", "Declined"),
                                    ("withdrawn", "Withdrawn"),
                                ],
                                default="open",
                                max_length=9,
                            ),
                        ),
                        ("invited_at", models.DateTimeField()),
                        ("expires_at", models.DateTimeField()),
                        ("answered_at", models.DateTimeField(blank=True, null=True)),
                        (
                            "family",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="invites",
                                to="subscriptions.family",
                            ),
                        ),
                        (
                            "subscriber",
                            models.ForeignKey(
                                blank=True,
                                null=True,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.subscriber",
                            ),
                        ),
                        (
                            "member",
                            models.OneToOneField(
                                blank=True,
                                null=True,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.familymember",
                            ),
                        ),
                    ],
                    options={
                        "indexes": [
                            models.Index(
                                condition=models.Q(("state", "open")),
                                fields=["subscriber"],
                                name="family_invite_open",
                            )
                        ],
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("cap__isnull", True), ("cap__gte", 0), _connector="OR"
                                ),
                                name="family_invite_cap_not_negative",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("answered_at__isnull", True),
                                        ("member__isnull", True),
                                        ("state", "open"),
                                    ),
                                    models.Q(
                                        ("answered_at__isnull", False),
                                        ("member__isnull", False),
                                        ("state", "accepted"),
                                    ),
                                    models.Q(
                                        ("answered_at__isnull", False),
                                        ("member__isnull", True),
                                        ("state__in", ["declined", "withdrawn"]),
                                    ),
                                    _connector="OR",
                                ),
                                name="family_invite_answered_once",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="PlanRetirement",
                    fields=[
                        (
                            "plan",
                            models.OneToOneField(
                                on_delete=django.db.models.deletion.PROTECT,
                                primary_key=True,
                                related_name="retirement",
                                serialize=False,
                                to="subscriptions.plan",
                            ),
                        ),
                        ("retired_at", models.DateTimeField()),
                        ("retired_by", models.CharField(max_length=100)),
                        ("reason", models.CharField(max_length=200)),
                    ],
                    options={
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("retired_by", ""), _negated=True),
                                    models.Q(("reason", ""), _negated=True),
                                ),
                                name="plan_retired_by_somebody",
                            )
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="Guard",
                    fields=[
                        (
                            "subscriber",
                            models.OneToOneField(
                                db_constraint=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                primary_key=True,
                                related_name="+",
                                serialize=False,
                                to="subscriptions.subscriber",
                            ),
                        ),
                        ("keys", models.BooleanField(default=False)),
                        ("day_units", models.BigIntegerField(blank=True, null=True)),
                        ("minor", models.BooleanField(default=False)),
                        ("night_from", models.TimeField(blank=True, null=True)),
                        ("night_until", models.TimeField(blank=True, null=True)),
                        (
                            "order_amount",
                            models.DecimalField(
                                blank=True, decimal_places=2, max_digits=16, null=True
                            ),
                        ),
                        (
                            "overage",
                            models.CharField(
                                blank=True,
                                choices=[("agreed", "agreed"), ("declined", "declined")],
                                default="",
                                max_length=8,
                            ),
                        ),
                        (
                            "overage_ceiling",
                            models.DecimalField(
                                blank=True, decimal_places=2, max_digits=16, null=True
                            ),
                        ),
                    ],
                    options={
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("night_from__isnull", True), ("night_until__isnull", True)
                                    ),
                                    models.Q(
                                        ("night_from__isnull", False),
                                        ("night_until__isnull", False),
                                        models.Q(
                                            ("night_from", models.F("night_until")), _negated=True
                                        ),
                                    ),
                                    _connector="OR",
                                ),
                                name="guard_night_begins_and_ends",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("minor", True),
                                    models.Q(
                                        ("day_units__isnull", True), ("order_amount__isnull", True)
                                    ),
                                    _connector="OR",
                                ),
                                name="guard_caps_are_a_minors",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("day_units__isnull", True),
                                        ("day_units__gte", 0),
                                        _connector="OR",
                                    ),
                                    models.Q(
                                        ("order_amount__isnull", True),
                                        ("order_amount__gte", 0),
                                        _connector="OR",
                                    ),
                                ),
                                name="guard_caps_not_negative",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("overage_ceiling__isnull", True),
                                    models.Q(("overage", "agreed"), ("overage_ceiling__gte", 0)),
                                    _connector="OR",
                                ),
                                name="guard_ceiling_of_what_is_agreed",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="KeyMisses",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "gateway_id",
                                "who",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("who", models.CharField(max_length=140)),
                        ("since", models.DateTimeField()),
                        ("misses", models.PositiveIntegerField(default=0)),
                        ("locked_until", models.DateTimeField(blank=True, null=True)),
                        (
                            "gateway",
                            models.ForeignKey(
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.gateway",
                            ),
                        ),
                    ],
                ),
                migrations.CreateModel(
                    name="SubscriberKey",
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
                        ("subject", models.CharField(max_length=256)),
                        ("name", models.CharField(max_length=100)),
                        ("cap", models.BigIntegerField(blank=True, null=True)),
                        (
                            "cap_per",
                            models.CharField(
                                blank=True,
                                choices=[("day", "Day"), ("month", "Month")],
                                default="",
                                max_length=5,
                            ),
                        ),
                        (
                            "allowed_models",
                            django.contrib.postgres.fields.ArrayField(
                                base_field=models.CharField(max_length=256),
                                blank=True,
                                default=list,
                                size=None,
                            ),
                        ),
                        ("created_at", models.DateTimeField()),
                        ("revoked_at", models.DateTimeField(blank=True, null=True)),
                        (
                            "binding",
                            models.OneToOneField(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.subject",
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
                        (
                            "subscriber",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="keys",
                                to="subscriptions.subscriber",
                            ),
                        ),
                    ],
                    options={
                        "constraints": [
                            models.UniqueConstraint(
                                condition=models.Q(("revoked_at__isnull", True)),
                                fields=("subscriber", "name"),
                                name="subscriber_key_name_once",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("cap__isnull", True), ("cap_per", "")),
                                    models.Q(("cap__gt", 0), ("cap_per__in", ["day", "month"])),
                                    _connector="OR",
                                ),
                                name="subscriber_key_cap_has_a_time",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("revoked_at__isnull", True),
                                    ("revoked_at__gte", models.F("created_at")),
                                    _connector="OR",
                                ),
                                name="subscriber_key_revoked_after_created",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="KeyStep",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "key_id",
                                "nr",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("nr", models.PositiveIntegerField()),
                        (
                            "kind",
                            models.CharField(
                                choices=[
                                    ("created", "Created"),
                                    ("changed", "Changed"),
                                    ("rotated", "Rotated"),
                                    ("revoked", "Revoked"),
                                ],
                                max_length=8,
                            ),
                        ),
                        ("at", models.DateTimeField()),
                        ("by", models.CharField(max_length=100)),
                        ("detail", models.JSONField(default=dict)),
                        (
                            "key",
                            models.ForeignKey(
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="steps",
                                to="subscriptions.subscriberkey",
                            ),
                        ),
                    ],
                ),
                migrations.CreateModel(
                    name="KeySecret",
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
                        ("digest", models.BinaryField(max_length=32, unique=True)),
                        ("hint", models.CharField(max_length=24)),
                        ("created_at", models.DateTimeField()),
                        ("ends_at", models.DateTimeField(blank=True, null=True)),
                        (
                            "key",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="secrets",
                                to="subscriptions.subscriberkey",
                            ),
                        ),
                    ],
                    options={
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("ends_at__isnull", True),
                                    ("ends_at__gte", models.F("created_at")),
                                    _connector="OR",
                                ),
                                name="key_secret_forward",
                            )
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="SafetyStep",
                    fields=[
                        (
                            "subscriber",
                            models.ForeignKey(
                                db_constraint=False,
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.subscriber",
                            ),
                        ),
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "kind",
                                "nr",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        (
                            "kind",
                            models.CharField(
                                choices=[
                                    ("night_lock", "Night Lock"),
                                    ("alerts", "Alerts"),
                                    ("overage", "Overage"),
                                    ("minor", "Minor"),
                                ],
                                max_length=10,
                            ),
                        ),
                        ("nr", models.PositiveIntegerField()),
                        ("terms", models.JSONField()),
                        ("at", models.DateTimeField()),
                        ("by", models.CharField(max_length=100)),
                    ],
                ),
                migrations.CreateModel(
                    name="UsageAlert",
                    fields=[
                        (
                            "subscriber",
                            models.ForeignKey(
                                db_constraint=False,
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.subscriber",
                            ),
                        ),
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "kind",
                                "value",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        (
                            "kind",
                            models.CharField(
                                choices=[("percent", "Used Percent"), ("left", "Units Left")],
                                max_length=7,
                            ),
                        ),
                        ("value", models.BigIntegerField()),
                        ("armed", models.BooleanField(default=True)),
                        ("told", models.PositiveIntegerField(default=0)),
                    ],
                    options={
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("kind", "percent"), ("value__gte", 1), ("value__lte", 100)
                                    ),
                                    models.Q(("kind", "left"), ("value__gte", 0)),
                                    _connector="OR",
                                ),
                                name="usage_alert_can_be_reached",
                            )
                        ],
                    },
                ),
            ]
        ),
        migrations.RunSQL(buckets.RULES),
        migrations.RunSQL(offerings.RULES),
        migrations.RunSQL(people.RULES),
        migrations.RunSQL(drawing.DRAW),
        migrations.RunSQL(reserving.FUNCTIONS),
    ]
