"""All tables of billing, and what Django's operations cannot say of them (rules/)."""

from decimal import Decimal

import django.contrib.postgres.fields
import django.db.models.deletion
import django.db.models.expressions
from django.conf import settings
from django.db import migrations, models

import billing.models.dunning
from billing.migrations.rules import (
    anomalies,
    approvals,
    charge_files,
    collecting,
    complaints,
    costs,
    deferrals,
    documents,
    fapiao,
    ledger_and_invoices,
    methods,
    orders,
    payments,
    phone_bills,
    prices,
    provider_books,
    providers,
    receipts,
    refunds,
    top_ups,
    vouchers,
)
from subscriptions.migrations._together import Together

# The first has what the others call.
_ALL = [
    ledger_and_invoices,
    payments,
    charge_files,
    costs,
    documents,
    fapiao,
    deferrals,
    orders,
    providers,
    methods,
    collecting,
    refunds,
    top_ups,
    vouchers,
    anomalies,
    provider_books,
    phone_bills,
    approvals,
    complaints,
    receipts,
    prices,
]
_NUMBERED = [ledger_and_invoices, orders, collecting, refunds, top_ups, complaints, receipts]


class Migration(migrations.Migration):
    initial = True

    replaces = [
        ("billing", "0001_what_is_owed"),
        ("billing", "0002_lines_by_bucket"),
        ("billing", "0003_charge_files"),
        ("billing", "0004_costs"),
        ("billing", "0005_documents"),
        ("billing", "0006_payments_and_dunning"),
        ("billing", "0007_fapiao"),
        ("billing", "0008_deferrals"),
        ("billing", "0009_orders_and_wallets"),
        ("billing", "0010_last_bills"),
        ("billing", "0011_corrections"),
        ("billing", "0012_reminders_ahead"),
        ("billing", "0013_orders_of_periods"),
        ("billing", "0014_orders_of_plans_that_wait"),
        ("billing", "0015_days_in_figures"),
        ("billing", "0016_payment_providers"),
        ("billing", "0017_consents_and_collection"),
        ("billing", "0018_refunds_and_disputes"),
        ("billing", "0019_top_ups_and_holds"),
        ("billing", "0020_saved_methods"),
        ("billing", "0021_vouchers"),
        ("billing", "0022_files_in_and_out"),
        ("billing", "0023_handovers_and_anomalies"),
        ("billing", "0024_provider_books"),
        ("billing", "0025_phone_bills"),
        ("billing", "0026_four_eyes"),
        ("billing", "0027_queues_in_order"),
        ("billing", "0028_kept_notices"),
        ("billing", "0029_complaints"),
        ("billing", "0030_personal_data"),
        ("billing", "0031_plan_receipts"),
        ("billing", "0032_list_of_invoices"),
        ("billing", "0033_prices_and_pauses"),
    ]

    dependencies = [
        ("metering", "0001_squashed_0014_usage_by_subject"),
        ("subscriptions", "0001_squashed_0032_safety"),
    ]

    operations = [
        *(migrations.RunSQL(of.SEQUENCES) for of in _NUMBERED),
        Together(
            [
                migrations.CreateModel(
                    name="InvoiceNumber",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "operator_id",
                                "year",
                                "nr",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("operator_id", models.BigIntegerField()),
                        ("year", models.PositiveSmallIntegerField()),
                        ("nr", models.PositiveBigIntegerField()),
                        ("subscriber_id", models.BigIntegerField()),
                        ("invoice_id", models.BigIntegerField()),
                    ],
                ),
                migrations.CreateModel(
                    name="Account",
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
                        ("code", models.CharField(max_length=120)),
                        (
                            "kind",
                            models.CharField(
                                choices=[
                                    ("asset", "Asset"),
                                    ("liability", "Liability"),
                                    ("income", "Income"),
                                    ("expense", "Expense"),
                                ],
                                max_length=9,
                            ),
                        ),
                        ("currency", models.CharField(max_length=3)),
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
                                fields=("operator", "code", "currency"), name="account_once"
                            )
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="CloseChunk",
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
                        ("ended_by", models.DateTimeField()),
                        ("first_subscriber", models.BigIntegerField()),
                        ("last_subscriber", models.BigIntegerField()),
                        ("periods", models.PositiveIntegerField()),
                        ("invoices", models.PositiveIntegerField(default=0)),
                        (
                            "state",
                            models.CharField(
                                choices=[
                                    ("waiting", "Waiting"),
                                    ("done", "Done"),
                                    ("failed", "Failed"),
                                ],
                                default="waiting",
                                max_length=7,
                            ),
                        ),
                        ("attempts", models.PositiveIntegerField(default=0)),
                        ("reason", models.CharField(blank=True, default="", max_length=1000)),
                        ("planned_at", models.DateTimeField()),
                        ("done_at", models.DateTimeField(blank=True, null=True)),
                        ("seconds", models.FloatField(default=0)),
                        (
                            "operator",
                            models.ForeignKey(
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.operator",
                            ),
                        ),
                    ],
                    options={
                        "indexes": [
                            models.Index(fields=["operator", "state", "id"], name="close_queue")
                        ],
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("last_subscriber__gte", models.F("first_subscriber"))
                                ),
                                name="close_chunk_is_a_range",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("done_at__isnull", False), ("state", "done")),
                                    models.Q(
                                        models.Q(("state", "done"), _negated=True),
                                        ("done_at__isnull", True),
                                    ),
                                    _connector="OR",
                                ),
                                name="close_chunk_done_has_a_time",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("state", "failed"), _negated=True),
                                    models.Q(("reason", ""), _negated=True),
                                    _connector="OR",
                                ),
                                name="close_chunk_failed_has_a_reason",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="Invoice",
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
                                    ("period", "Period"),
                                    ("final", "Final"),
                                    ("credit_note", "Credit Note"),
                                ],
                                default="period",
                                max_length=12,
                            ),
                        ),
                        ("subscription_id", models.BigIntegerField(blank=True, null=True)),
                        ("period_start", models.DateTimeField()),
                        ("period_end", models.DateTimeField()),
                        ("original_id", models.BigIntegerField(blank=True, null=True)),
                        (
                            "state",
                            models.CharField(
                                choices=[
                                    ("draft", "Draft"),
                                    ("open", "Open"),
                                    ("paid", "Paid"),
                                    ("void", "Void"),
                                    ("uncollectible", "Uncollectible"),
                                ],
                                default="draft",
                                max_length=13,
                            ),
                        ),
                        ("number", models.CharField(blank=True, max_length=32, null=True)),
                        ("issued_at", models.DateTimeField(blank=True, null=True)),
                        ("due_at", models.DateTimeField(blank=True, null=True)),
                        ("currency", models.CharField(max_length=3)),
                        ("net", models.DecimalField(decimal_places=2, max_digits=16)),
                        ("tax", models.DecimalField(decimal_places=2, max_digits=16)),
                        ("gross", models.DecimalField(decimal_places=2, max_digits=16)),
                        ("paid", models.DecimalField(decimal_places=2, default=0, max_digits=16)),
                        ("reason", models.CharField(blank=True, default="", max_length=200)),
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
                            "subscriber",
                            models.ForeignKey(
                                db_constraint=False,
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="invoices",
                                to="subscriptions.subscriber",
                            ),
                        ),
                    ],
                    options={
                        "constraints": [
                            models.UniqueConstraint(
                                condition=models.Q(("kind", "period")),
                                fields=("subscriber_id", "subscription_id", "period_start"),
                                name="invoice_of_a_period_once",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    (
                                        "gross",
                                        django.db.models.expressions.CombinedExpression(
                                            models.F("net"), "+", models.F("tax")
                                        ),
                                    )
                                ),
                                name="invoice_gross_is_net_and_tax",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("due_at__isnull", True),
                                        ("issued_at__isnull", True),
                                        ("number__isnull", True),
                                        ("paid", 0),
                                        ("state", "draft"),
                                    ),
                                    models.Q(
                                        models.Q(("state", "draft"), _negated=True),
                                        ("due_at__isnull", False),
                                        ("issued_at__isnull", False),
                                        ("number__isnull", False),
                                        ("number__regex", "^[A-Z0-9-]+$"),
                                    ),
                                    _connector="OR",
                                ),
                                name="invoice_numbered_when_issued",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("paid", 0),
                                    models.Q(("paid__gt", 0), ("paid__lte", models.F("gross"))),
                                    models.Q(("paid__gte", models.F("gross")), ("paid__lt", 0)),
                                    _connector="OR",
                                ),
                                name="invoice_paid_within_gross",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("state", "paid"), _negated=True),
                                    ("paid", models.F("gross")),
                                    _connector="OR",
                                ),
                                name="invoice_paid_is_paid_whole",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(("period_end__gt", models.F("period_start"))),
                                name="invoice_period_forward",
                            ),
                            models.UniqueConstraint(
                                condition=models.Q(("kind", "final")),
                                fields=("subscriber_id", "period_start"),
                                name="invoice_final_once",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("kind", "period"), _negated=True),
                                    models.Q(
                                        ("plan__isnull", False), ("subscription_id__isnull", False)
                                    ),
                                    _connector="OR",
                                ),
                                name="invoice_of_a_period_names_its_plan",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("kind__in", ["period", "final"]),
                                        ("original_id__isnull", True),
                                    ),
                                    models.Q(
                                        ("gross__lte", 0),
                                        ("kind", "credit_note"),
                                        ("original_id__isnull", False),
                                    ),
                                    _connector="OR",
                                ),
                                name="invoice_credit_note_names_its_original",
                            ),
                        ],
                        "indexes": [models.Index(fields=["operator", "id"], name="invoice_list")],
                    },
                ),
                migrations.CreateModel(
                    name="InvoiceCounter",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "operator_id",
                                "year",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("year", models.PositiveSmallIntegerField()),
                        ("last", models.PositiveBigIntegerField()),
                        (
                            "operator",
                            models.ForeignKey(
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.operator",
                            ),
                        ),
                    ],
                ),
                migrations.CreateModel(
                    name="InvoiceLine",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "invoice_id",
                                "nr",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("subscriber_id", models.BigIntegerField()),
                        ("invoice_id", models.BigIntegerField()),
                        ("nr", models.PositiveSmallIntegerField()),
                        (
                            "kind",
                            models.CharField(
                                choices=[
                                    ("fee", "Fee"),
                                    ("overage", "Overage"),
                                    ("block", "Block"),
                                    ("booster", "Booster"),
                                    ("gift", "Gift"),
                                    ("discount", "Discount"),
                                    ("upgrade", "Upgrade"),
                                    ("refund", "Refund"),
                                    ("adjustment", "Adjustment"),
                                    ("late_fee", "Late Fee"),
                                    ("compensation", "Compensation"),
                                ],
                                max_length=12,
                            ),
                        ),
                        ("description", models.CharField(max_length=200)),
                        ("bucket_id", models.BigIntegerField(blank=True, null=True)),
                        ("units", models.BigIntegerField(blank=True, null=True)),
                        ("net", models.DecimalField(decimal_places=2, max_digits=16)),
                        ("tax_rate", models.DecimalField(decimal_places=4, max_digits=5)),
                        ("tax", models.DecimalField(decimal_places=2, max_digits=16)),
                        ("gross", models.DecimalField(decimal_places=2, max_digits=16)),
                        ("basis", models.JSONField()),
                    ],
                    options={
                        "constraints": [
                            models.UniqueConstraint(
                                condition=models.Q(
                                    ("kind__in", ["overage", "block", "booster", "gift"])
                                ),
                                fields=("subscriber_id", "bucket_id"),
                                name="invoice_line_bills_a_bucket_once",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    (
                                        "gross",
                                        django.db.models.expressions.CombinedExpression(
                                            models.F("net"), "+", models.F("tax")
                                        ),
                                    )
                                ),
                                name="invoice_line_gross_is_net_and_tax",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(("tax_rate__gte", 0), ("tax_rate__lt", 1)),
                                name="invoice_line_tax_rate_below_one",
                            ),
                        ],
                        "indexes": [
                            models.Index(
                                condition=models.Q(("bucket_id__isnull", False)),
                                fields=["subscriber_id", "bucket_id"],
                                name="invoice_line_of_bucket",
                            )
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="Posting",
                    fields=[
                        ("id", models.BigIntegerField(primary_key=True, serialize=False)),
                        ("key", models.CharField(max_length=160)),
                        ("kind", models.CharField(max_length=20)),
                        ("at", models.DateTimeField()),
                        ("currency", models.CharField(max_length=3)),
                        ("description", models.CharField(blank=True, default="", max_length=200)),
                        ("entries", models.PositiveSmallIntegerField()),
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
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("operator", "key"), name="posting_once"
                            ),
                            models.CheckConstraint(
                                condition=models.Q(("entries__gte", 2)),
                                name="posting_has_two_sides",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="Entry",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "posting_id",
                                "nr",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("nr", models.PositiveSmallIntegerField()),
                        ("subscriber_id", models.BigIntegerField(null=True)),
                        ("amount", models.DecimalField(decimal_places=2, max_digits=16)),
                        (
                            "account",
                            models.ForeignKey(
                                db_constraint=False,
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="billing.account",
                            ),
                        ),
                        (
                            "posting",
                            models.ForeignKey(
                                db_constraint=False,
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="billing.posting",
                            ),
                        ),
                    ],
                    options={
                        "indexes": [
                            models.Index(
                                condition=models.Q(("subscriber_id__isnull", False)),
                                fields=["subscriber_id", "account"],
                                name="entry_of_subscriber",
                            )
                        ],
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(("amount", 0), _negated=True),
                                name="entry_moves_something",
                            )
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="ChargeLine",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "invoice_id",
                                "kind",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("subscriber_id", models.BigIntegerField()),
                        ("invoice_id", models.BigIntegerField()),
                        (
                            "kind",
                            models.CharField(
                                choices=[
                                    ("charge", "Charge"),
                                    ("credit", "Credit"),
                                    ("reversal", "Reversal"),
                                ],
                                max_length=8,
                            ),
                        ),
                        ("operator_id", models.BigIntegerField()),
                        ("sequence", models.PositiveIntegerField()),
                        ("nr", models.PositiveIntegerField()),
                        ("msisdn", models.CharField(blank=True, max_length=32)),
                        ("external_id", models.CharField(max_length=128)),
                        ("amount", models.DecimalField(decimal_places=2, max_digits=16)),
                        ("notes", models.PositiveSmallIntegerField()),
                    ],
                    options={
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("operator_id", "sequence", "nr"),
                                name="charge_line_in_its_place",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(("amount", 0), _negated=True),
                                name="charge_line_moves_something",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="ChargeFile",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "operator_id",
                                "sequence",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("sequence", models.PositiveIntegerField()),
                        ("operator_code", models.CharField(max_length=64)),
                        ("time_zone", models.CharField(max_length=64)),
                        ("currency", models.CharField(max_length=3)),
                        ("since", models.DateTimeField(null=True)),
                        ("until", models.DateTimeField(null=True)),
                        ("count", models.PositiveIntegerField()),
                        ("charges", models.DecimalField(decimal_places=2, max_digits=16)),
                        ("credits", models.DecimalField(decimal_places=2, max_digits=16)),
                        ("total", models.DecimalField(decimal_places=2, max_digits=16)),
                        ("sha256", models.CharField(max_length=64)),
                        ("made_at", models.DateTimeField()),
                        (
                            "operator",
                            models.ForeignKey(
                                db_index=False,
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
                                    ("charges__gte", 0),
                                    ("credits__lte", 0),
                                    (
                                        "total",
                                        django.db.models.expressions.CombinedExpression(
                                            models.F("charges"), "+", models.F("credits")
                                        ),
                                    ),
                                ),
                                name="charge_file_total_is_charges_and_credits",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(("count__gte", 1), ("sequence__gte", 1)),
                                name="charge_file_holds_something",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("since__isnull", True),
                                    ("until__isnull", True),
                                    ("since__lt", models.F("until")),
                                    _connector="OR",
                                ),
                                name="charge_file_span_forward",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="CostDay",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "operator_id",
                                "day",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("day", models.DateField()),
                        ("batches", models.PositiveBigIntegerField()),
                        ("adjustments", models.PositiveBigIntegerField()),
                        ("stale", models.BooleanField(default=False)),
                        ("priced_at", models.DateTimeField()),
                        (
                            "operator",
                            models.ForeignKey(
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.operator",
                            ),
                        ),
                    ],
                ),
                migrations.CreateModel(
                    name="Supplier",
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
                            "operator",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.operator",
                            ),
                        ),
                        (
                            "settles_with",
                            models.ForeignKey(
                                blank=True,
                                null=True,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.operator",
                            ),
                        ),
                    ],
                    options={
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("operator", "code"), name="supplier_once"
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("settles_with__isnull", True),
                                    models.Q(("settles_with", models.F("operator")), _negated=True),
                                    _connector="OR",
                                ),
                                name="supplier_is_another_operator",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="CostCard",
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
                        ("version", models.PositiveIntegerField()),
                        ("effective_from", models.DateField()),
                        ("created_at", models.DateTimeField()),
                        (
                            "supplier",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="cards",
                                to="billing.supplier",
                            ),
                        ),
                    ],
                    options={
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("supplier", "version"), name="cost_card_version_once"
                            )
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="CostPrice",
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
                        ("uncached_input", models.DecimalField(decimal_places=6, max_digits=12)),
                        ("cached_input", models.DecimalField(decimal_places=6, max_digits=12)),
                        ("cache_write", models.DecimalField(decimal_places=6, max_digits=12)),
                        ("output", models.DecimalField(decimal_places=6, max_digits=12)),
                        ("reasoning", models.DecimalField(decimal_places=6, max_digits=12)),
                        (
                            "card",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="prices",
                                to="billing.costcard",
                            ),
                        ),
                    ],
                    options={
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("card", "model"), name="cost_price_once"
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("cache_write__gte", 0),
                                    ("cached_input__gte", 0),
                                    ("output__gte", 0),
                                    ("reasoning__gte", 0),
                                    ("uncached_input__gte", 0),
                                ),
                                name="cost_price_not_negative",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="Settlement",
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
                        ("sequence", models.PositiveIntegerField()),
                        ("number", models.CharField(max_length=32)),
                        ("month", models.DateField()),
                        ("currency", models.CharField(max_length=3)),
                        ("total", models.DecimalField(decimal_places=2, max_digits=16)),
                        ("made_at", models.DateTimeField()),
                        (
                            "operator",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.operator",
                            ),
                        ),
                        (
                            "supplier",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="billing.supplier",
                            ),
                        ),
                    ],
                    options={
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("operator", "sequence"), name="settlement_number_once"
                            ),
                            models.UniqueConstraint(
                                fields=("supplier", "month"), name="settlement_month_once"
                            ),
                            models.CheckConstraint(
                                condition=models.Q(("month__day", 1), ("sequence__gte", 1)),
                                name="settlement_month_is_a_first",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="SettlementLine",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "settlement_id",
                                "nr",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("nr", models.PositiveIntegerField()),
                        ("month", models.DateField()),
                        ("model", models.CharField(max_length=256)),
                        ("requests", models.BigIntegerField()),
                        ("uncached_input_tokens", models.BigIntegerField()),
                        ("cached_input_tokens", models.BigIntegerField()),
                        ("cache_write_tokens", models.BigIntegerField()),
                        ("output_tokens", models.BigIntegerField()),
                        ("reasoning_tokens", models.BigIntegerField()),
                        ("amount", models.DecimalField(decimal_places=2, max_digits=16)),
                        (
                            "price",
                            models.ForeignKey(
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="billing.costprice",
                            ),
                        ),
                        (
                            "settlement",
                            models.ForeignKey(
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="lines",
                                to="billing.settlement",
                            ),
                        ),
                    ],
                ),
                migrations.CreateModel(
                    name="CostEntry",
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
                        ("day", models.DateField()),
                        ("plan", models.CharField(blank=True, max_length=64)),
                        ("model", models.CharField(max_length=256)),
                        ("requests", models.BigIntegerField()),
                        ("uncached_input_tokens", models.BigIntegerField()),
                        ("cached_input_tokens", models.BigIntegerField()),
                        ("cache_write_tokens", models.BigIntegerField()),
                        ("output_tokens", models.BigIntegerField()),
                        ("reasoning_tokens", models.BigIntegerField()),
                        ("units", models.BigIntegerField()),
                        ("cost", models.DecimalField(decimal_places=12, max_digits=28)),
                        (
                            "gateway",
                            models.ForeignKey(
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.gateway",
                            ),
                        ),
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
                            "price",
                            models.ForeignKey(
                                db_index=False,
                                null=True,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="billing.costprice",
                            ),
                        ),
                        (
                            "settlement",
                            models.ForeignKey(
                                null=True,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="billing.settlement",
                            ),
                        ),
                        (
                            "supplier",
                            models.ForeignKey(
                                db_index=False,
                                null=True,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="billing.supplier",
                            ),
                        ),
                    ],
                    options={
                        "indexes": [
                            models.Index(fields=["operator", "day"], name="cost_entries_of_day"),
                            models.Index(
                                condition=models.Q(
                                    ("settlement__isnull", True), ("supplier__isnull", False)
                                ),
                                fields=["supplier", "day"],
                                name="cost_entries_to_settle",
                            ),
                        ],
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("price__isnull", False), ("supplier__isnull", False)),
                                    models.Q(
                                        ("cost", 0),
                                        ("price__isnull", True),
                                        ("settlement__isnull", True),
                                        ("supplier__isnull", True),
                                    ),
                                    _connector="OR",
                                ),
                                name="cost_entry_is_priced_or_costs_nothing",
                            )
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="SupplierGateway",
                    fields=[
                        (
                            "gateway",
                            models.OneToOneField(
                                on_delete=django.db.models.deletion.PROTECT,
                                primary_key=True,
                                related_name="+",
                                serialize=False,
                                to="subscriptions.gateway",
                            ),
                        ),
                        ("effective_from", models.DateField()),
                        (
                            "supplier",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="gateways",
                                to="billing.supplier",
                            ),
                        ),
                    ],
                ),
                migrations.CreateModel(
                    name="Document",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "invoice_id",
                                "language",
                                "usage",
                                "void",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("subscriber_id", models.BigIntegerField()),
                        ("invoice_id", models.BigIntegerField()),
                        ("language", models.CharField(max_length=7)),
                        ("usage", models.BooleanField()),
                        ("void", models.BooleanField()),
                        ("made_at", models.DateTimeField()),
                        ("digest", models.BinaryField(max_length=32)),
                        ("content", models.BinaryField()),
                    ],
                    options={
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(
                                    (
                                        "digest",
                                        models.Func(
                                            models.F("content"),
                                            function="sha256",
                                            output_field=models.BinaryField(),
                                        ),
                                    )
                                ),
                                name="document_is_what_its_digest_says",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(("language__in", ("zh-Hans", "en"))),
                                name="document_in_a_language_there_is",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="Letterhead",
                    fields=[
                        (
                            "operator",
                            models.OneToOneField(
                                on_delete=django.db.models.deletion.PROTECT,
                                primary_key=True,
                                related_name="letterhead",
                                serialize=False,
                                to="subscriptions.operator",
                            ),
                        ),
                        ("name", models.CharField(max_length=200)),
                        ("address", models.CharField(blank=True, default="", max_length=200)),
                        ("phone", models.CharField(blank=True, default="", max_length=40)),
                        ("tax_id", models.CharField(blank=True, default="", max_length=40)),
                        ("bank", models.CharField(blank=True, default="", max_length=100)),
                        ("bank_account", models.CharField(blank=True, default="", max_length=60)),
                        ("colour", models.CharField(max_length=7)),
                        ("payment_url", models.CharField(blank=True, default="", max_length=200)),
                        ("logo", models.BinaryField(default=b"")),
                        ("ahead", models.CharField(blank=True, default="", max_length=7)),
                        ("ahead_year", models.PositiveSmallIntegerField(default=0)),
                        ("ahead_nr", models.PositiveBigIntegerField(default=0)),
                    ],
                    options={
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(("colour__regex", "^#[0-9A-Fa-f]{6}$")),
                                name="letterhead_colour_is_six_digits",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(("ahead__in", ("", "zh-Hans", "en"))),
                                name="letterhead_ahead_is_a_language",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="DunningCursor",
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
                        ("year", models.PositiveSmallIntegerField(default=0)),
                        ("nr", models.PositiveBigIntegerField(default=0)),
                    ],
                ),
                migrations.CreateModel(
                    name="DunningCase",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "currency",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("currency", models.CharField(max_length=3)),
                        (
                            "state",
                            models.CharField(
                                choices=[
                                    ("overdue", "Overdue"),
                                    ("suspended", "Suspended"),
                                    ("terminated", "Terminated"),
                                    ("settled", "Settled"),
                                ],
                                max_length=10,
                            ),
                        ),
                        ("invoice_id", models.BigIntegerField(blank=True, null=True)),
                        ("since", models.DateTimeField(blank=True, null=True)),
                        ("reminded", models.PositiveSmallIntegerField(default=0)),
                        ("suspended_at", models.DateTimeField(blank=True, null=True)),
                        ("changed_at", models.DateTimeField()),
                        ("next_at", models.DateTimeField(blank=True, null=True)),
                        ("events", models.PositiveIntegerField(default=0)),
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
                        "indexes": [
                            models.Index(
                                condition=models.Q(("next_at__isnull", False)),
                                fields=["operator", "next_at"],
                                name="dunning_queue",
                            )
                        ],
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("invoice_id__isnull", True),
                                        ("next_at__isnull", True),
                                        ("since__isnull", True),
                                        ("state", "settled"),
                                    ),
                                    models.Q(
                                        models.Q(("state", "settled"), _negated=True),
                                        ("invoice_id__isnull", False),
                                        ("since__isnull", False),
                                    ),
                                    _connector="OR",
                                ),
                                name="dunning_case_names_what_is_owed",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("state__in", ["suspended", "terminated"]),
                                        ("suspended_at__isnull", False),
                                    ),
                                    models.Q(
                                        ("state__in", ["overdue", "settled"]),
                                        ("suspended_at__isnull", True),
                                    ),
                                    _connector="OR",
                                ),
                                name="dunning_case_suspended_has_a_time",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="DunningEvent",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "currency",
                                "nr",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("subscriber_id", models.BigIntegerField()),
                        ("currency", models.CharField(max_length=3)),
                        ("nr", models.PositiveIntegerField()),
                        (
                            "kind",
                            models.CharField(
                                choices=[
                                    ("overdue", "Overdue"),
                                    ("reminder", "Reminder"),
                                    ("suspended", "Suspended"),
                                    ("restored", "Restored"),
                                    ("terminated", "Terminated"),
                                    ("settled", "Settled"),
                                ],
                                max_length=10,
                            ),
                        ),
                        ("at", models.DateTimeField()),
                        ("done_at", models.DateTimeField()),
                        ("invoice_id", models.BigIntegerField()),
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
                    ],
                    options={
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("subscriber_id", "invoice_id", "kind", "at"),
                                name="dunning_step_once",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(("done_at__gte", models.F("at"))),
                                name="dunning_step_not_before_its_date",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="DunningPolicy",
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
                        ("effective_from", models.DateTimeField()),
                        (
                            "reminder_days",
                            django.contrib.postgres.fields.ArrayField(
                                base_field=models.SmallIntegerField(),
                                default=billing.models.dunning.reminder_days,
                                size=None,
                            ),
                        ),
                        (
                            "late_fee_rate",
                            models.DecimalField(
                                decimal_places=5, default=Decimal("0.003"), max_digits=6
                            ),
                        ),
                        (
                            "late_fee_cap",
                            models.DecimalField(decimal_places=4, default=Decimal(1), max_digits=5),
                        ),
                        ("late_fee_grace_days", models.PositiveSmallIntegerField(default=0)),
                        (
                            "late_fee_tax_rate",
                            models.DecimalField(decimal_places=4, default=Decimal(0), max_digits=5),
                        ),
                        ("suspend_after_days", models.PositiveSmallIntegerField(default=30)),
                        ("terminate_after_days", models.PositiveSmallIntegerField(default=60)),
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
                                fields=("operator", "effective_from"), name="dunning_policy_once"
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("late_fee_rate__gte", 0),
                                    ("late_fee_rate__lte", Decimal("0.003")),
                                ),
                                name="dunning_late_fee_within_the_law",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("late_fee_cap__gte", 0), ("late_fee_cap__lte", 1)
                                ),
                                name="dunning_late_fee_never_above_the_debt",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("late_fee_tax_rate__gte", 0), ("late_fee_tax_rate__lt", 1)
                                ),
                                name="dunning_late_fee_tax_rate_below_one",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(("reminder_days__contains", [0]), _negated=True),
                                name="dunning_no_reminder_on_the_due_date",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="DunningStop",
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
                        ("starts_at", models.DateTimeField()),
                        ("ends_at", models.DateTimeField(blank=True, null=True)),
                        ("reason", models.CharField(max_length=200)),
                        (
                            "resumed_because",
                            models.CharField(blank=True, default="", max_length=200),
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
                                blank=True,
                                null=True,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.subscriber",
                            ),
                        ),
                    ],
                    options={
                        "constraints": [
                            models.UniqueConstraint(
                                condition=models.Q(("ends_at__isnull", True)),
                                fields=("operator", "subscriber"),
                                name="dunning_stopped_once_at_a_time",
                                nulls_distinct=False,
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("ends_at__isnull", True),
                                    ("ends_at__gte", models.F("starts_at")),
                                    _connector="OR",
                                ),
                                name="dunning_stop_forward",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="Payment",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "invoice_id",
                                "nr",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("subscriber_id", models.BigIntegerField()),
                        ("invoice_id", models.BigIntegerField()),
                        ("nr", models.PositiveSmallIntegerField()),
                        ("key", models.CharField(max_length=128)),
                        ("way", models.CharField(max_length=32)),
                        ("at", models.DateTimeField()),
                        ("currency", models.CharField(max_length=3)),
                        ("amount", models.DecimalField(decimal_places=2, max_digits=16)),
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
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("operator", "key"), name="payment_once"
                            ),
                            models.CheckConstraint(
                                condition=models.Q(("way__regex", "^[a-z0-9_]+$")),
                                name="payment_way_is_a_word",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("amount__gt", 0),
                                    models.Q(("amount__lt", 0), ("key__startswith", "back:")),
                                    _connector="OR",
                                ),
                                name="payment_of_something",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="FapiaoItem",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "operator_id",
                                "tax_rate",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("tax_rate", models.DecimalField(decimal_places=4, max_digits=5)),
                        ("tax_class", models.CharField(max_length=19)),
                        ("name", models.CharField(max_length=100)),
                        (
                            "operator",
                            models.ForeignKey(
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.operator",
                            ),
                        ),
                    ],
                    options={
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(("tax_class__regex", "^[0-9]{19}$")),
                                name="fapiao_item_class_has_19_digits",
                            )
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="FapiaoRequest",
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
                        ("request_id", models.CharField(max_length=64)),
                        ("subscriber_id", models.BigIntegerField()),
                        ("invoice_id", models.BigIntegerField()),
                        (
                            "kind",
                            models.CharField(
                                choices=[("01", "Special"), ("02", "Ordinary")], max_length=2
                            ),
                        ),
                        (
                            "reason",
                            models.CharField(
                                blank=True,
                                choices=[
                                    ("wrong", "Wrong"),
                                    ("return", "Return"),
                                    ("service_ended", "Service Ended"),
                                    ("allowance", "Allowance"),
                                ],
                                default="",
                                max_length=13,
                            ),
                        ),
                        ("credit_note_id", models.BigIntegerField(blank=True, null=True)),
                        ("counted", models.JSONField(default=list)),
                        ("seller", models.JSONField()),
                        ("buyer_is_person", models.BooleanField()),
                        ("buyer_name", models.CharField(max_length=200)),
                        ("buyer_tax_id", models.CharField(blank=True, default="", max_length=20)),
                        ("lines", models.JSONField()),
                        ("currency", models.CharField(max_length=3)),
                        ("net", models.DecimalField(decimal_places=2, max_digits=16)),
                        ("tax", models.DecimalField(decimal_places=2, max_digits=16)),
                        ("gross", models.DecimalField(decimal_places=2, max_digits=16)),
                        ("capitals", models.CharField(max_length=100)),
                        ("requested_at", models.DateTimeField()),
                        (
                            "state",
                            models.CharField(
                                choices=[
                                    ("requested", "Requested"),
                                    ("submitted", "Submitted"),
                                    ("issued", "Issued"),
                                    ("failed", "Failed"),
                                    ("red_requested", "Red Requested"),
                                    ("red_issued", "Red Issued"),
                                ],
                                default="requested",
                                max_length=13,
                            ),
                        ),
                        ("submitted_at", models.DateTimeField(blank=True, null=True)),
                        ("number", models.CharField(blank=True, max_length=20, null=True)),
                        ("issued_at", models.DateTimeField(blank=True, null=True)),
                        ("attempts", models.PositiveIntegerField(default=0)),
                        ("problem", models.CharField(blank=True, default="", max_length=500)),
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
                            "original",
                            models.ForeignKey(
                                blank=True,
                                null=True,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="reds",
                                to="billing.fapiaorequest",
                            ),
                        ),
                    ],
                    options={
                        "indexes": [
                            models.Index(
                                condition=models.Q(("state__in", ["requested", "submitted"])),
                                fields=["operator", "id"],
                                name="fapiao_queue",
                            )
                        ],
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("operator", "request_id"), name="fapiao_request_once"
                            ),
                            models.UniqueConstraint(
                                condition=models.Q(
                                    ("original__isnull", True),
                                    models.Q(
                                        ("state__in", ["failed", "red_issued"]), _negated=True
                                    ),
                                ),
                                fields=("subscriber_id", "invoice_id"),
                                name="fapiao_one_of_an_invoice",
                            ),
                            models.UniqueConstraint(
                                condition=models.Q(
                                    ("credit_note_id__isnull", False),
                                    models.Q(("state", "failed"), _negated=True),
                                ),
                                fields=("subscriber_id", "credit_note_id"),
                                name="fapiao_one_of_a_credit_note",
                            ),
                            models.UniqueConstraint(fields=("number",), name="fapiao_number_once"),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("issued_at__isnull", True),
                                        ("number__isnull", True),
                                        ("state__in", ["requested", "submitted", "failed"]),
                                    ),
                                    models.Q(
                                        ("issued_at__isnull", False),
                                        ("number__isnull", False),
                                        ("number__regex", "^[0-9]{20}$"),
                                        ("state__in", ["issued", "red_requested", "red_issued"]),
                                    ),
                                    _connector="OR",
                                ),
                                name="fapiao_numbered_when_issued",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("credit_note_id__isnull", True),
                                        ("gross__gt", 0),
                                        ("original__isnull", True),
                                        ("reason", ""),
                                    ),
                                    models.Q(
                                        ("credit_note_id__isnull", True),
                                        ("gross__lt", 0),
                                        ("original__isnull", False),
                                        ("reason", "wrong"),
                                    ),
                                    models.Q(
                                        ("credit_note_id__isnull", False),
                                        ("gross__lt", 0),
                                        ("original__isnull", False),
                                        ("reason__in", ["return", "service_ended", "allowance"]),
                                    ),
                                    _connector="OR",
                                ),
                                name="fapiao_red_takes_back",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("original__isnull", True),
                                    models.Q(
                                        ("state__in", ["red_requested", "red_issued"]),
                                        _negated=True,
                                    ),
                                    _connector="OR",
                                ),
                                name="fapiao_red_is_not_taken_back",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    (
                                        "gross",
                                        django.db.models.expressions.CombinedExpression(
                                            models.F("net"), "+", models.F("tax")
                                        ),
                                    )
                                ),
                                name="fapiao_gross_is_net_and_tax",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("kind", "01"), _negated=True),
                                    models.Q(
                                        ("buyer_is_person", False),
                                        models.Q(("buyer_tax_id", ""), _negated=True),
                                    ),
                                    _connector="OR",
                                ),
                                name="fapiao_special_is_for_taxpayers",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("buyer_tax_id", ""),
                                    ("buyer_tax_id__regex", "^[0-9A-Z]{15,20}$"),
                                    _connector="OR",
                                ),
                                name="fapiao_buyer_tax_id",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="DeferralSweep",
                    fields=[
                        (
                            "operator",
                            models.OneToOneField(
                                db_constraint=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                primary_key=True,
                                related_name="+",
                                serialize=False,
                                to="subscriptions.operator",
                            ),
                        ),
                        ("swept_at", models.DateTimeField()),
                        ("batch_from", models.BigIntegerField()),
                        ("batch_next", models.BigIntegerField()),
                    ],
                ),
                migrations.CreateModel(
                    name="Deferral",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "bucket_id",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("subscriber_id", models.BigIntegerField()),
                        ("bucket_id", models.BigIntegerField()),
                        ("invoice_id", models.BigIntegerField()),
                        ("code", models.CharField(max_length=80)),
                        ("tax_rate", models.DecimalField(decimal_places=4, max_digits=5)),
                        ("currency", models.CharField(max_length=3)),
                        ("net", models.DecimalField(decimal_places=2, max_digits=16)),
                        (
                            "credited",
                            models.DecimalField(decimal_places=2, default=0, max_digits=16),
                        ),
                        ("earned", models.DecimalField(decimal_places=2, default=0, max_digits=16)),
                        ("broken", models.DecimalField(decimal_places=2, default=0, max_digits=16)),
                        ("granted", models.BigIntegerField()),
                        ("burned", models.BigIntegerField(default=0)),
                        ("ended", models.BooleanField(default=False)),
                        ("looks", models.PositiveIntegerField(default=0)),
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
                                condition=models.Q(("ended", False)),
                                fields=["operator", "subscriber_id", "bucket_id"],
                                name="deferral_open",
                            )
                        ],
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("broken__gte", 0),
                                    ("credited__gte", 0),
                                    ("earned__gte", 0),
                                    (
                                        "net__gte",
                                        django.db.models.expressions.CombinedExpression(
                                            django.db.models.expressions.CombinedExpression(
                                                models.F("credited"), "+", models.F("earned")
                                            ),
                                            "+",
                                            models.F("broken"),
                                        ),
                                    ),
                                ),
                                name="deferral_within_net",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("burned__gte", 0),
                                    ("burned__lte", models.F("granted")),
                                    ("granted__gt", 0),
                                ),
                                name="deferral_burned_within_granted",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("broken", 0), ("ended", False)),
                                    models.Q(
                                        ("ended", True),
                                        (
                                            "net",
                                            django.db.models.expressions.CombinedExpression(
                                                django.db.models.expressions.CombinedExpression(
                                                    models.F("credited"), "+", models.F("earned")
                                                ),
                                                "+",
                                                models.F("broken"),
                                            ),
                                        ),
                                    ),
                                    _connector="OR",
                                ),
                                name="deferral_broken_when_ended",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="OrderStep",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "order_id",
                                "nr",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("subscriber_id", models.BigIntegerField()),
                        ("order_id", models.BigIntegerField()),
                        ("nr", models.PositiveSmallIntegerField()),
                        (
                            "state",
                            models.CharField(
                                choices=[
                                    ("created", "Created"),
                                    ("waiting", "Waiting"),
                                    ("paid", "Paid"),
                                    ("failed", "Failed"),
                                    ("expired", "Expired"),
                                    ("cancelled", "Cancelled"),
                                    ("refunding", "Refunding"),
                                    ("refunded", "Refunded"),
                                    ("partly_refunded", "Partly Refunded"),
                                ],
                                max_length=15,
                            ),
                        ),
                        ("at", models.DateTimeField()),
                        ("reason", models.CharField(blank=True, default="", max_length=200)),
                    ],
                ),
                migrations.CreateModel(
                    name="BankTransfer",
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
                        ("reference", models.CharField(max_length=100)),
                        ("currency", models.CharField(max_length=3)),
                        ("amount", models.DecimalField(decimal_places=2, max_digits=16)),
                        ("payer", models.CharField(blank=True, default="", max_length=200)),
                        ("remark", models.CharField(blank=True, default="", max_length=200)),
                        ("received_at", models.DateTimeField()),
                        ("told_at", models.DateTimeField()),
                        (
                            "state",
                            models.CharField(
                                choices=[("unmatched", "Unmatched"), ("matched", "Matched")],
                                default="unmatched",
                                max_length=9,
                            ),
                        ),
                        ("cause", models.CharField(blank=True, default="", max_length=40)),
                        ("matched_at", models.DateTimeField(blank=True, null=True)),
                        ("subscriber_id", models.BigIntegerField(blank=True, null=True)),
                        ("order_id", models.BigIntegerField(blank=True, null=True)),
                        ("invoice_id", models.BigIntegerField(blank=True, null=True)),
                        (
                            "operator",
                            models.ForeignKey(
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.operator",
                            ),
                        ),
                    ],
                    options={
                        "indexes": [models.Index(fields=["operator", "id"], name="transfer_list")],
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("operator", "reference"), name="transfer_once"
                            ),
                            models.UniqueConstraint(
                                condition=models.Q(("order_id__isnull", False)),
                                fields=("subscriber_id", "order_id"),
                                name="transfer_pays_an_order_once",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(("amount__gt", 0)), name="transfer_of_something"
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("invoice_id__isnull", True),
                                        ("matched_at__isnull", True),
                                        ("order_id__isnull", True),
                                        ("state", "unmatched"),
                                        ("subscriber_id__isnull", True),
                                    ),
                                    models.Q(
                                        ("matched_at__isnull", False),
                                        ("state", "matched"),
                                        ("subscriber_id__isnull", False),
                                        models.Q(
                                            ("order_id__isnull", True),
                                            ("invoice_id__isnull", True),
                                            _connector="OR",
                                        ),
                                    ),
                                    _connector="OR",
                                ),
                                name="transfer_matched_to_one",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="Order",
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
                        ("number", models.CharField(max_length=40)),
                        (
                            "kind",
                            models.CharField(
                                choices=[
                                    ("plan", "Plan"),
                                    ("booster", "Booster"),
                                    ("top_up", "Top Up"),
                                    ("invoice", "Invoice"),
                                    ("period", "Period"),
                                ],
                                max_length=8,
                            ),
                        ),
                        (
                            "state",
                            models.CharField(
                                choices=[
                                    ("created", "Created"),
                                    ("waiting", "Waiting"),
                                    ("paid", "Paid"),
                                    ("failed", "Failed"),
                                    ("expired", "Expired"),
                                    ("cancelled", "Cancelled"),
                                    ("refunding", "Refunding"),
                                    ("refunded", "Refunded"),
                                    ("partly_refunded", "Partly Refunded"),
                                ],
                                default="created",
                                max_length=15,
                            ),
                        ),
                        ("steps", models.PositiveSmallIntegerField(default=1)),
                        ("key", models.CharField(max_length=260)),
                        ("currency", models.CharField(max_length=3)),
                        ("amount", models.DecimalField(decimal_places=2, max_digits=16)),
                        ("created_at", models.DateTimeField()),
                        ("expires_at", models.DateTimeField()),
                        ("paid_at", models.DateTimeField(blank=True, null=True)),
                        ("way", models.CharField(blank=True, default="", max_length=32)),
                        (
                            "applied",
                            models.DecimalField(decimal_places=2, default=0, max_digits=16),
                        ),
                        (
                            "refunded",
                            models.DecimalField(decimal_places=2, default=0, max_digits=16),
                        ),
                        ("settled_at", models.DateTimeField(blank=True, null=True)),
                        ("invoice_id", models.BigIntegerField(blank=True, null=True)),
                        ("subscription_id", models.BigIntegerField(blank=True, null=True)),
                        ("period_start", models.DateTimeField(blank=True, null=True)),
                        ("bucket_id", models.BigIntegerField(blank=True, null=True)),
                        (
                            "booster",
                            models.ForeignKey(
                                blank=True,
                                db_index=False,
                                null=True,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.booster",
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
                                blank=True,
                                db_index=False,
                                null=True,
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
                                related_name="orders",
                                to="subscriptions.subscriber",
                            ),
                        ),
                        (
                            "unapplied",
                            models.DecimalField(decimal_places=2, default=0, max_digits=16),
                        ),
                    ],
                    options={
                        "indexes": [
                            models.Index(fields=["operator", "id"], name="order_list"),
                            models.Index(
                                condition=models.Q(("state__in", ["created", "waiting", "failed"])),
                                fields=["operator", "expires_at"],
                                name="order_expiry_queue",
                            ),
                            models.Index(
                                condition=models.Q(
                                    ("paid_at__isnull", False),
                                    ("settled_at__isnull", True),
                                    models.Q(("kind__in", ["top_up", "invoice"]), _negated=True),
                                ),
                                fields=["operator", "subscriber_id"],
                                name="order_waits_for_invoice",
                            ),
                            models.Index(
                                condition=models.Q(
                                    ("kind", "plan"),
                                    ("paid_at__isnull", False),
                                    ("settled_at__isnull", True),
                                ),
                                fields=["operator", "subscriber_id"],
                                name="order_of_plan_waits",
                            ),
                        ],
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("operator", "number"), name="order_number_once"
                            ),
                            models.UniqueConstraint(fields=("operator", "key"), name="order_once"),
                            models.CheckConstraint(
                                condition=models.Q(("amount__gt", 0)), name="order_of_something"
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("paid_at__isnull", True),
                                    ("paid_at__lt", models.F("expires_at")),
                                    _connector="OR",
                                ),
                                name="order_paid_before_it_expires",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("applied", 0),
                                        ("paid_at__isnull", True),
                                        ("refunded", 0),
                                        ("settled_at__isnull", True),
                                        (
                                            "state__in",
                                            [
                                                "created",
                                                "waiting",
                                                "failed",
                                                "expired",
                                                "cancelled",
                                            ],
                                        ),
                                        ("way", ""),
                                    ),
                                    models.Q(
                                        (
                                            "state__in",
                                            ["paid", "refunding", "refunded", "partly_refunded"],
                                        ),
                                        ("paid_at__isnull", False),
                                        models.Q(("way", ""), _negated=True),
                                    ),
                                    _connector="OR",
                                ),
                                name="order_paid_in_a_way",
                            ),
                            models.UniqueConstraint(
                                condition=models.Q(
                                    ("kind", "period"),
                                    models.Q(
                                        ("state__in", ["expired", "cancelled", "refunded"]),
                                        _negated=True,
                                    ),
                                ),
                                fields=("subscriber_id", "subscription_id", "period_start"),
                                name="order_pays_a_period_once",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("booster__isnull", True),
                                        ("kind", "plan"),
                                        ("plan__isnull", False),
                                    ),
                                    models.Q(
                                        ("booster__isnull", False),
                                        ("kind", "booster"),
                                        ("plan__isnull", True),
                                    ),
                                    models.Q(
                                        ("booster__isnull", True),
                                        ("kind", "top_up"),
                                        ("plan__isnull", True),
                                    ),
                                    models.Q(
                                        ("booster__isnull", True),
                                        ("invoice_id__isnull", False),
                                        ("kind", "invoice"),
                                        ("plan__isnull", True),
                                    ),
                                    models.Q(
                                        ("booster__isnull", True),
                                        ("kind", "period"),
                                        ("period_start__isnull", False),
                                        ("plan__isnull", False),
                                        ("subscription_id__isnull", False),
                                    ),
                                    _connector="OR",
                                ),
                                name="order_names_what_it_buys",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("applied__gte", 0),
                                    ("refunded__gte", 0),
                                    ("unapplied__gte", 0),
                                    ("applied__gte", models.F("unapplied")),
                                    (
                                        "amount__gte",
                                        django.db.models.expressions.CombinedExpression(
                                            django.db.models.expressions.CombinedExpression(
                                                models.F("applied"), "-", models.F("unapplied")
                                            ),
                                            "+",
                                            models.F("refunded"),
                                        ),
                                    ),
                                ),
                                name="order_used_within_amount",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("refunded", models.F("amount")),
                                        ("state__in", ["refunded"]),
                                    ),
                                    models.Q(
                                        ("refunded__gt", 0),
                                        ("refunded__lt", models.F("amount")),
                                        ("state", "partly_refunded"),
                                    ),
                                    models.Q(("refunded__gt", 0), ("state", "refunding")),
                                    models.Q(
                                        (
                                            "state__in",
                                            [
                                                "created",
                                                "waiting",
                                                "paid",
                                                "failed",
                                                "expired",
                                                "cancelled",
                                            ],
                                        ),
                                        ("refunded", 0),
                                    ),
                                    _connector="OR",
                                ),
                                name="order_refunded_is_refunded",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("settled_at__isnull", True),
                                    (
                                        "amount",
                                        django.db.models.expressions.CombinedExpression(
                                            django.db.models.expressions.CombinedExpression(
                                                models.F("applied"), "-", models.F("unapplied")
                                            ),
                                            "+",
                                            models.F("refunded"),
                                        ),
                                    ),
                                    _connector="OR",
                                ),
                                name="order_settled_whole",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="Wallet",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "currency",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("subscriber_id", models.BigIntegerField()),
                        ("currency", models.CharField(max_length=3)),
                        (
                            "balance",
                            models.DecimalField(decimal_places=2, default=0, max_digits=16),
                        ),
                        ("movements", models.PositiveIntegerField(default=0)),
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
                        ("bonus", models.DecimalField(decimal_places=2, default=0, max_digits=16)),
                        ("held", models.DecimalField(decimal_places=2, default=0, max_digits=16)),
                    ],
                    options={
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(("balance__gte", 0)),
                                name="wallet_never_negative",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("held__gte", 0), ("held__lte", models.F("balance"))
                                ),
                                name="wallet_holds_what_is_there",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("bonus__gte", 0), ("bonus__lte", models.F("balance"))
                                ),
                                name="wallet_bonus_is_a_part",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="WalletMovement",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "currency",
                                "nr",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("subscriber_id", models.BigIntegerField()),
                        ("currency", models.CharField(max_length=3)),
                        ("nr", models.PositiveIntegerField()),
                        (
                            "kind",
                            models.CharField(
                                choices=[
                                    ("top_up", "Top Up"),
                                    ("payment", "Payment"),
                                    ("refund", "Refund"),
                                    ("payout", "Payout"),
                                    ("bonus", "Bonus"),
                                    ("lapse", "Lapse"),
                                ],
                                max_length=8,
                            ),
                        ),
                        ("amount", models.DecimalField(decimal_places=2, max_digits=16)),
                        ("balance", models.DecimalField(decimal_places=2, max_digits=16)),
                        ("key", models.CharField(max_length=128)),
                        ("at", models.DateTimeField()),
                        ("note", models.CharField(blank=True, default="", max_length=200)),
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
                        ("bonus", models.DecimalField(decimal_places=2, default=0, max_digits=16)),
                    ],
                    options={
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("subscriber_id", "currency", "key"),
                                name="wallet_moved_once",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("amount", 0), _negated=True), ("balance__gte", 0)
                                ),
                                name="wallet_movement_of_something",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(("balance__gte", models.F("amount"))),
                                name="wallet_movement_follows",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("amount__lt", 0),
                                        ("kind__in", ["payment", "payout", "lapse"]),
                                    ),
                                    models.Q(
                                        ("amount__gt", 0),
                                        ("kind__in", ["top_up", "refund", "bonus"]),
                                    ),
                                    _connector="OR",
                                ),
                                name="wallet_movement_goes_its_way",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("bonus", models.F("amount")),
                                        ("kind__in", ["bonus", "lapse"]),
                                    ),
                                    models.Q(("bonus", 0), ("kind__in", ["top_up", "payout"])),
                                    models.Q(
                                        ("bonus__gte", models.F("amount")),
                                        ("bonus__lte", 0),
                                        ("kind", "payment"),
                                    ),
                                    models.Q(
                                        ("bonus__gte", 0),
                                        ("bonus__lte", models.F("amount")),
                                        ("kind", "refund"),
                                    ),
                                    _connector="OR",
                                ),
                                name="wallet_movement_of_its_money",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="FinalSweep",
                    fields=[
                        (
                            "operator",
                            models.OneToOneField(
                                db_constraint=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                primary_key=True,
                                related_name="+",
                                serialize=False,
                                to="subscriptions.operator",
                            ),
                        ),
                        ("until", models.DateTimeField()),
                    ],
                ),
                migrations.CreateModel(
                    name="Approval",
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
                                    ("credit_note", "Credit Note"),
                                    ("adjustment", "Adjustment"),
                                    ("refund", "Refund"),
                                    ("units", "Units"),
                                    ("money", "Money"),
                                    ("write_off", "Write Off"),
                                    ("difference", "Difference"),
                                    ("handover", "Handover"),
                                    ("price", "Price"),
                                    ("rerating", "Rerating"),
                                ],
                                max_length=11,
                            ),
                        ),
                        ("subscriber_id", models.BigIntegerField(blank=True, null=True)),
                        ("invoice_id", models.BigIntegerField(blank=True, null=True)),
                        ("whole", models.BooleanField(default=False)),
                        ("over_charge", models.BooleanField(default=False)),
                        ("bucket_id", models.BigIntegerField(blank=True, null=True)),
                        ("drawn", models.BigIntegerField(blank=True, null=True)),
                        ("billed", models.BigIntegerField(blank=True, null=True)),
                        ("currency", models.CharField(max_length=3)),
                        ("gross", models.DecimalField(decimal_places=2, default=0, max_digits=16)),
                        ("amount", models.DecimalField(decimal_places=2, default=0, max_digits=16)),
                        ("reason", models.CharField(max_length=500)),
                        ("asked_by", models.CharField(max_length=100)),
                        ("asked_at", models.DateTimeField()),
                        (
                            "state",
                            models.CharField(
                                choices=[
                                    ("pending", "Pending"),
                                    ("approved", "Approved"),
                                    ("rejected", "Rejected"),
                                    ("superseded", "Superseded"),
                                ],
                                default="pending",
                                max_length=10,
                            ),
                        ),
                        ("decided_by", models.CharField(blank=True, default="", max_length=100)),
                        ("decided_at", models.DateTimeField(blank=True, null=True)),
                        ("decision", models.CharField(blank=True, default="", max_length=200)),
                        ("note_id", models.BigIntegerField(blank=True, null=True)),
                        (
                            "operator",
                            models.ForeignKey(
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.operator",
                            ),
                        ),
                        ("once", models.CharField(blank=True, default="", max_length=280)),
                        ("order_id", models.BigIntegerField(blank=True, null=True)),
                        ("refund_id", models.BigIntegerField(blank=True, null=True)),
                        ("to", models.CharField(blank=True, default="", max_length=6)),
                        ("about_id", models.BigIntegerField(blank=True, null=True)),
                        ("effect", models.JSONField(default=dict)),
                        ("made_id", models.BigIntegerField(blank=True, null=True)),
                        ("units", models.BigIntegerField(blank=True, null=True)),
                        ("until", models.DateTimeField(blank=True, null=True)),
                    ],
                    options={
                        "indexes": [
                            models.Index(fields=["operator", "state", "id"], name="approval_list"),
                            models.Index(
                                condition=models.Q(("bucket_id__isnull", False)),
                                fields=["subscriber_id", "bucket_id"],
                                name="approval_of_bucket",
                            ),
                            models.Index(
                                condition=models.Q(("about_id__isnull", False)),
                                fields=["kind", "about_id"],
                                name="approval_about",
                            ),
                        ],
                        "constraints": [
                            models.UniqueConstraint(
                                condition=models.Q(
                                    ("bucket_id__isnull", False), ("state", "pending")
                                ),
                                fields=("subscriber_id", "bucket_id"),
                                name="approval_pending_once",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("decided_at__isnull", True),
                                        ("decided_by", ""),
                                        ("state", "pending"),
                                    ),
                                    models.Q(
                                        ("decided_at__isnull", False),
                                        ("decided_by", ""),
                                        ("state", "superseded"),
                                    ),
                                    models.Q(
                                        ("decided_at__isnull", False),
                                        ("state__in", ["approved", "rejected"]),
                                        models.Q(("decided_by", ""), _negated=True),
                                        models.Q(("decision", ""), _negated=True),
                                        models.Q(
                                            ("decided_by", models.F("asked_by")), _negated=True
                                        ),
                                    ),
                                    _connector="OR",
                                ),
                                name="approval_decided_by_another",
                            ),
                            models.UniqueConstraint(
                                condition=models.Q(("once", ""), _negated=True),
                                fields=("operator", "once"),
                                name="approval_asked_once",
                            ),
                            models.UniqueConstraint(
                                condition=models.Q(
                                    ("about_id__isnull", False), ("state", "pending")
                                ),
                                fields=("kind", "about_id"),
                                name="approval_pending_once_about",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("kind__in", ("difference", "price", "rerating")),
                                    ("subscriber_id__isnull", False),
                                    _connector="OR",
                                ),
                                name="approval_of_somebody",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("about_id__isnull", False),
                                        (
                                            "kind__in",
                                            ("difference", "handover", "price", "rerating"),
                                        ),
                                    ),
                                    models.Q(
                                        ("about_id__isnull", True),
                                        ("kind", "credit_note"),
                                        ("bucket_id__isnull", True),
                                        ("invoice_id__isnull", False),
                                    ),
                                    models.Q(
                                        ("about_id__isnull", True),
                                        ("kind", "adjustment"),
                                        ("billed__isnull", False),
                                        ("bucket_id__isnull", False),
                                        ("drawn__isnull", False),
                                        ("invoice_id__isnull", True),
                                        ("note_id__isnull", True),
                                    ),
                                    models.Q(
                                        ("about_id__isnull", True),
                                        ("kind", "refund"),
                                        ("bucket_id__isnull", True),
                                        ("invoice_id__isnull", True),
                                        ("note_id__isnull", True),
                                        ("order_id__isnull", False),
                                        ("to__in", ["source", "wallet"]),
                                    ),
                                    models.Q(
                                        ("about_id__isnull", True),
                                        ("kind", "units"),
                                        ("units__gt", 0),
                                        ("until__isnull", False),
                                    ),
                                    models.Q(
                                        ("about_id__isnull", True),
                                        ("kind", "money"),
                                        ("amount__lt", 0),
                                    ),
                                    models.Q(
                                        ("about_id__isnull", True),
                                        ("kind", "write_off"),
                                        ("amount__lt", 0),
                                        ("invoice_id__isnull", False),
                                    ),
                                    _connector="OR",
                                ),
                                name="approval_of_its_kind",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("kind__in", ["credit_note", "refund", "units", "money"]),
                                        _negated=True,
                                    ),
                                    models.Q(
                                        ("kind", "credit_note"),
                                        ("note_id__isnull", False),
                                        ("state", "approved"),
                                    ),
                                    models.Q(
                                        ("kind", "credit_note"),
                                        ("note_id__isnull", True),
                                        models.Q(("state", "approved"), _negated=True),
                                    ),
                                    models.Q(
                                        ("kind", "refund"),
                                        ("refund_id__isnull", False),
                                        ("state", "approved"),
                                    ),
                                    models.Q(
                                        ("kind", "refund"),
                                        ("refund_id__isnull", True),
                                        models.Q(("state", "approved"), _negated=True),
                                    ),
                                    models.Q(
                                        ("kind", "units"),
                                        ("made_id__isnull", False),
                                        ("state", "approved"),
                                    ),
                                    models.Q(
                                        ("kind", "units"),
                                        ("made_id__isnull", True),
                                        models.Q(("state", "approved"), _negated=True),
                                    ),
                                    models.Q(
                                        ("kind", "money"),
                                        ("made_id__isnull", False),
                                        ("state", "approved"),
                                    ),
                                    models.Q(
                                        ("kind", "money"),
                                        ("made_id__isnull", True),
                                        models.Q(("state", "approved"), _negated=True),
                                    ),
                                    _connector="OR",
                                ),
                                name="approval_made_when_approved",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="CorrectionPolicy",
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
                        ("since", models.DateTimeField()),
                        (
                            "approval_limit",
                            models.DecimalField(
                                blank=True, decimal_places=2, max_digits=16, null=True
                            ),
                        ),
                        (
                            "over_charge_factor",
                            models.DecimalField(decimal_places=2, default=1, max_digits=4),
                        ),
                        ("made_by", models.CharField(max_length=100)),
                        (
                            "operator",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.operator",
                            ),
                        ),
                        ("prices_by_two", models.BooleanField(default=False)),
                        ("units_limit", models.BigIntegerField(blank=True, null=True)),
                    ],
                    options={
                        "indexes": [
                            models.Index(
                                fields=["operator", "since"], name="correction_policy_since"
                            )
                        ],
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("approval_limit__isnull", True),
                                        ("approval_limit__gte", 0),
                                        _connector="OR",
                                    ),
                                    models.Q(
                                        ("units_limit__isnull", True),
                                        ("units_limit__gte", 0),
                                        _connector="OR",
                                    ),
                                    ("over_charge_factor__gte", 1),
                                    ("over_charge_factor__lte", 10),
                                ),
                                name="correction_policy_sane",
                            )
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="ReminderCursor",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "operator_id",
                                "days",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("days", models.PositiveSmallIntegerField()),
                        ("year", models.PositiveSmallIntegerField()),
                        ("nr", models.PositiveBigIntegerField()),
                        (
                            "operator",
                            models.ForeignKey(
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.operator",
                            ),
                        ),
                    ],
                    options={
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(("days__gte", 1)),
                                name="reminder_ahead_of_its_date",
                            )
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="DayFigures",
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
                        ("day", models.DateField()),
                        ("measured_at", models.DateTimeField()),
                        ("slow_at", models.DateTimeField()),
                        ("values", models.JSONField()),
                        (
                            "operator",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.CASCADE,
                                related_name="+",
                                to="subscriptions.operator",
                            ),
                        ),
                    ],
                    options={
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("operator", "day"), name="figures_once_a_day"
                            )
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="ProviderAccount",
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
                            "provider",
                            models.CharField(
                                choices=[("stripe", "Stripe"), ("sandbox", "Sandbox")],
                                max_length=16,
                            ),
                        ),
                        ("public_id", models.CharField(max_length=32, unique=True)),
                        ("name", models.CharField(blank=True, default="", max_length=100)),
                        ("live", models.BooleanField(default=False)),
                        ("created_at", models.DateTimeField()),
                        ("ended_at", models.DateTimeField(blank=True, null=True)),
                        (
                            "operator",
                            models.ForeignKey(
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.operator",
                            ),
                        ),
                        ("notices_kept_days", models.PositiveSmallIntegerField(default=180)),
                    ],
                    options={
                        "constraints": [
                            models.UniqueConstraint(
                                condition=models.Q(("ended_at__isnull", True)),
                                fields=("operator", "provider"),
                                name="provider_account_one_at_a_time",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("live", True), ("provider", "sandbox"), _negated=True
                                ),
                                name="provider_account_sandbox_is_no_money",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(("notices_kept_days__gte", 30)),
                                name="provider_account_notices_kept",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="PaymentIntent",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "order_id",
                                "nr",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("subscriber_id", models.BigIntegerField()),
                        ("order_id", models.BigIntegerField()),
                        ("nr", models.PositiveSmallIntegerField()),
                        ("way", models.CharField(max_length=32)),
                        ("key", models.CharField(max_length=64)),
                        ("currency", models.CharField(max_length=3)),
                        ("amount", models.DecimalField(decimal_places=2, max_digits=16)),
                        (
                            "state",
                            models.CharField(
                                choices=[
                                    ("intended", "Intended"),
                                    ("waiting", "Waiting"),
                                    ("succeeded", "Succeeded"),
                                    ("failed", "Failed"),
                                    ("cancelled", "Cancelled"),
                                ],
                                default="intended",
                                max_length=9,
                            ),
                        ),
                        ("reference", models.CharField(blank=True, default="", max_length=255)),
                        ("action", models.JSONField(default=dict)),
                        ("reason", models.CharField(blank=True, default="", max_length=200)),
                        ("created_at", models.DateTimeField()),
                        ("ended_at", models.DateTimeField(blank=True, null=True)),
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
                        ("method", models.CharField(blank=True, default="", max_length=255)),
                        ("recall_at", models.DateTimeField(blank=True, null=True)),
                        ("return_url", models.CharField(blank=True, default="", max_length=2000)),
                        (
                            "account",
                            models.ForeignKey(
                                blank=True,
                                db_index=False,
                                null=True,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="billing.provideraccount",
                            ),
                        ),
                        ("asked_at", models.DateTimeField(blank=True, null=True)),
                    ],
                    options={
                        "indexes": [
                            models.Index(
                                condition=models.Q(("state", "intended")),
                                fields=["operator", "created_at"],
                                name="intent_unanswered",
                            ),
                            models.Index(fields=["operator", "created_at"], name="intents_by_time"),
                            models.Index(
                                condition=models.Q(("recall_at__isnull", False)),
                                fields=["operator", "recall_at"],
                                name="intent_recall_queue",
                            ),
                        ],
                        "constraints": [
                            models.UniqueConstraint(fields=("operator", "key"), name="intent_once"),
                            models.UniqueConstraint(
                                condition=models.Q(("state", "succeeded")),
                                fields=("subscriber_id", "order_id"),
                                name="intent_succeeds_once",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(("amount__gt", 0)), name="intent_of_something"
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("ended_at__isnull", True),
                                        ("state__in", ["intended", "waiting"]),
                                    ),
                                    models.Q(
                                        ("ended_at__isnull", False),
                                        ("state__in", ["succeeded", "failed", "cancelled"]),
                                    ),
                                    _connector="OR",
                                ),
                                name="intent_ended",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("recall_at__isnull", True),
                                    models.Q(
                                        ("account__isnull", False), ("ended_at__isnull", False)
                                    ),
                                    _connector="OR",
                                ),
                                name="intent_recalled_when_ended",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="ProviderEvent",
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
                        ("event_id", models.CharField(max_length=255)),
                        ("kind", models.CharField(max_length=100)),
                        ("body", models.BinaryField()),
                        ("received_at", models.DateTimeField()),
                        (
                            "state",
                            models.CharField(
                                choices=[
                                    ("new", "New"),
                                    ("done", "Done"),
                                    ("ignored", "Ignored"),
                                    ("failed", "Failed"),
                                ],
                                default="new",
                                max_length=7,
                            ),
                        ),
                        ("reason", models.CharField(blank=True, default="", max_length=200)),
                        ("attempts", models.PositiveSmallIntegerField(default=0)),
                        ("next_try_at", models.DateTimeField(blank=True, null=True)),
                        ("ended_at", models.DateTimeField(blank=True, null=True)),
                        (
                            "account",
                            models.ForeignKey(
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="events",
                                to="billing.provideraccount",
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
                            "digest",
                            models.CharField(blank=True, db_default="", default="", max_length=64),
                        ),
                    ],
                    options={
                        "indexes": [
                            models.Index(
                                condition=models.Q(("next_try_at__isnull", False)),
                                fields=["operator", "next_try_at"],
                                name="provider_event_queue",
                            ),
                            models.Index(
                                condition=models.Q(("digest", ""), ("next_try_at__isnull", True)),
                                fields=["account", "received_at"],
                                name="provider_event_whole",
                            ),
                        ],
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("account", "event_id"), name="provider_event_once"
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("ended_at__isnull", True),
                                        ("next_try_at__isnull", False),
                                        ("state", "new"),
                                    ),
                                    models.Q(
                                        ("ended_at__isnull", False),
                                        ("next_try_at__isnull", True),
                                        ("state__in", ["done", "ignored"]),
                                    ),
                                    models.Q(
                                        ("ended_at__isnull", True),
                                        ("state", "failed"),
                                        models.Q(("reason", ""), _negated=True),
                                    ),
                                    _connector="OR",
                                ),
                                name="provider_event_ends",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("digest", ""), models.Q(("body", b""), _negated=True)
                                    ),
                                    models.Q(
                                        models.Q(("digest", ""), _negated=True), ("body", b"")
                                    ),
                                    _connector="OR",
                                ),
                                name="provider_event_body_or_digest",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="ProviderPayment",
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
                        ("reference", models.CharField(max_length=255)),
                        ("way", models.CharField(max_length=32)),
                        ("key", models.CharField(blank=True, default="", max_length=64)),
                        ("currency", models.CharField(max_length=3)),
                        ("amount", models.DecimalField(decimal_places=2, max_digits=16)),
                        ("at", models.DateTimeField()),
                        (
                            "became",
                            models.CharField(
                                choices=[
                                    ("granted", "Granted"),
                                    ("wallet", "Wallet"),
                                    ("unclear", "Unclear"),
                                    ("returned", "Returned"),
                                    ("settled", "Settled"),
                                ],
                                max_length=8,
                            ),
                        ),
                        ("subscriber_id", models.BigIntegerField(blank=True, null=True)),
                        ("order_id", models.BigIntegerField(blank=True, null=True)),
                        (
                            "account",
                            models.ForeignKey(
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="payments",
                                to="billing.provideraccount",
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
                            models.Index(fields=["operator", "at"], name="provider_payment_list")
                        ],
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("account", "reference"), name="provider_payment_once"
                            ),
                            models.UniqueConstraint(
                                condition=models.Q(("became", "granted")),
                                fields=("subscriber_id", "order_id"),
                                name="provider_payment_grants_once",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("became__in", ["granted", "wallet"]), _negated=True),
                                    models.Q(("amount__gt", 0), ("subscriber_id__isnull", False)),
                                    _connector="OR",
                                ),
                                name="provider_payment_of_somebody",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("became", "granted"), _negated=True),
                                    ("order_id__isnull", False),
                                    _connector="OR",
                                ),
                                name="provider_payment_grants_an_order",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="ProviderSecret",
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
                                choices=[("api", "Api"), ("webhook", "Webhook")], max_length=7
                            ),
                        ),
                        ("sealed", models.TextField()),
                        ("hint", models.CharField(blank=True, default="", max_length=4)),
                        ("valid_from", models.DateTimeField()),
                        ("valid_until", models.DateTimeField(blank=True, null=True)),
                        (
                            "account",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="secrets",
                                to="billing.provideraccount",
                            ),
                        ),
                    ],
                    options={
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("valid_until__isnull", True),
                                    ("valid_until__gte", models.F("valid_from")),
                                    _connector="OR",
                                ),
                                name="provider_secret_valid_for_a_time",
                            )
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="PaymentTask",
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
                        ("cause", models.CharField(max_length=40)),
                        ("detail", models.CharField(max_length=500)),
                        ("created_at", models.DateTimeField()),
                        (
                            "state",
                            models.CharField(
                                choices=[
                                    ("open", "Open"),
                                    ("returning", "Returning"),
                                    ("resolved", "Resolved"),
                                ],
                                default="open",
                                max_length=9,
                            ),
                        ),
                        (
                            "action",
                            models.CharField(
                                blank=True,
                                choices=[
                                    ("wallet", "Wallet"),
                                    ("refund", "Refund"),
                                    ("note", "Note"),
                                ],
                                default="",
                                max_length=6,
                            ),
                        ),
                        ("note", models.CharField(blank=True, default="", max_length=500)),
                        ("resolved_at", models.DateTimeField(blank=True, null=True)),
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
                            "event",
                            models.OneToOneField(
                                blank=True,
                                null=True,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="task",
                                to="billing.providerevent",
                            ),
                        ),
                        (
                            "payment",
                            models.OneToOneField(
                                blank=True,
                                db_constraint=False,
                                null=True,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="task",
                                to="billing.providerpayment",
                            ),
                        ),
                    ],
                    options={
                        "indexes": [
                            models.Index(fields=["operator", "id"], name="payment_task_list")
                        ],
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("action", ""),
                                        ("resolved_at__isnull", True),
                                        ("state", "open"),
                                    ),
                                    models.Q(
                                        ("action", "refund"),
                                        ("resolved_at__isnull", True),
                                        ("state", "returning"),
                                    ),
                                    models.Q(
                                        ("resolved_at__isnull", False),
                                        ("state", "resolved"),
                                        models.Q(("action", ""), _negated=True),
                                    ),
                                    _connector="OR",
                                ),
                                name="payment_task_resolved",
                            )
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="CollectionStep",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "case_kind",
                                "about",
                                "nr",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("subscriber_id", models.BigIntegerField()),
                        (
                            "case_kind",
                            models.CharField(
                                choices=[("order", "Order"), ("invoice", "Invoice")], max_length=7
                            ),
                        ),
                        ("about", models.BigIntegerField()),
                        ("nr", models.PositiveSmallIntegerField()),
                        (
                            "kind",
                            models.CharField(
                                choices=[
                                    ("noticed", "Noticed"),
                                    ("tried", "Tried"),
                                    ("failed", "Failed"),
                                    ("collected", "Collected"),
                                    ("gave_up", "Gave Up"),
                                    ("stopped", "Stopped"),
                                ],
                                max_length=9,
                            ),
                        ),
                        ("at", models.DateTimeField()),
                        ("way", models.CharField(blank=True, default="", max_length=32)),
                        ("order_id", models.BigIntegerField(blank=True, null=True)),
                        ("intent_nr", models.PositiveSmallIntegerField(blank=True, null=True)),
                        ("reason", models.CharField(blank=True, default="", max_length=200)),
                    ],
                ),
                migrations.CreateModel(
                    name="CollectionCase",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "kind",
                                "about",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("subscriber_id", models.BigIntegerField()),
                        (
                            "kind",
                            models.CharField(
                                choices=[("order", "Order"), ("invoice", "Invoice")], max_length=7
                            ),
                        ),
                        ("about", models.BigIntegerField()),
                        (
                            "state",
                            models.CharField(
                                choices=[
                                    ("running", "Running"),
                                    ("collected", "Collected"),
                                    ("gave_up", "Gave Up"),
                                    ("stopped", "Stopped"),
                                ],
                                default="running",
                                max_length=9,
                            ),
                        ),
                        ("begun_at", models.DateTimeField()),
                        ("first_at", models.DateTimeField()),
                        ("due_at", models.DateTimeField()),
                        ("noticed_at", models.DateTimeField(blank=True, null=True)),
                        ("next_at", models.DateTimeField(blank=True, null=True)),
                        ("next_way", models.CharField(blank=True, default="", max_length=32)),
                        ("order_id", models.BigIntegerField(blank=True, null=True)),
                        ("intent_nr", models.PositiveSmallIntegerField(blank=True, null=True)),
                        ("steps", models.PositiveSmallIntegerField(default=0)),
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
                                condition=models.Q(("next_at__isnull", False)),
                                fields=["operator", "next_at", "subscriber_id"],
                                name="collection_queue",
                            )
                        ],
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("next_at__isnull", False), ("state", "running")),
                                    models.Q(
                                        models.Q(("state", "running"), _negated=True),
                                        ("intent_nr__isnull", True),
                                        ("next_at__isnull", True),
                                    ),
                                    _connector="OR",
                                ),
                                name="collection_runs_or_is_over",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("kind", "invoice"),
                                    ("order_id", models.F("about")),
                                    _connector="OR",
                                ),
                                name="collection_of_an_order_names_it",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("intent_nr__isnull", True),
                                    ("order_id__isnull", False),
                                    _connector="OR",
                                ),
                                name="collection_attempt_of_an_order",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="CollectionPolicy",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "operator_id",
                                "nr",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("nr", models.PositiveIntegerField()),
                        ("effective_from", models.DateTimeField()),
                        ("made_by", models.CharField(max_length=100)),
                        ("days_ahead", models.PositiveSmallIntegerField()),
                        ("notice_days", models.PositiveSmallIntegerField()),
                        ("lead_days", models.PositiveSmallIntegerField()),
                        (
                            "ways",
                            django.contrib.postgres.fields.ArrayField(
                                base_field=models.CharField(max_length=32), size=None
                            ),
                        ),
                        (
                            "retry_days",
                            django.contrib.postgres.fields.ArrayField(
                                base_field=models.PositiveSmallIntegerField(), size=None
                            ),
                        ),
                        ("from_hour", models.PositiveSmallIntegerField()),
                        ("until_hour", models.PositiveSmallIntegerField()),
                        ("grace_days", models.PositiveSmallIntegerField()),
                        (
                            "phone_bill_cap",
                            models.DecimalField(
                                blank=True, decimal_places=2, max_digits=16, null=True
                            ),
                        ),
                        (
                            "operator",
                            models.ForeignKey(
                                db_index=False,
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
                                    ("days_ahead__gte", models.F("notice_days")),
                                    ("days_ahead__lte", 30),
                                    ("grace_days__lte", 60),
                                    ("notice_days__gte", models.F("lead_days")),
                                ),
                                name="collection_policy_in_order",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("from_hour__lt", models.F("until_hour")),
                                    ("until_hour__lte", 24),
                                ),
                                name="collection_policy_hours_of_a_day",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("retry_days__0", 0),
                                    ("retry_days__len__gte", 1),
                                    ("ways__len__gte", 1),
                                ),
                                name="collection_policy_tries_at_once",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("phone_bill_cap__isnull", True),
                                    ("phone_bill_cap__gte", 0),
                                    _connector="OR",
                                ),
                                name="collection_policy_caps",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="Consent",
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
                        ("number", models.CharField(max_length=40)),
                        (
                            "kind",
                            models.CharField(
                                choices=[
                                    ("auto_renew", "Auto Renew"),
                                    ("saved_method", "Saved Method"),
                                    ("phone_bill", "Phone Bill"),
                                ],
                                max_length=12,
                            ),
                        ),
                        ("subscription_id", models.BigIntegerField(blank=True, null=True)),
                        ("text", models.TextField()),
                        ("text_version", models.CharField(max_length=64)),
                        ("language", models.CharField(max_length=35)),
                        ("channel", models.CharField(max_length=32)),
                        (
                            "monthly_cap",
                            models.DecimalField(
                                blank=True, decimal_places=2, max_digits=16, null=True
                            ),
                        ),
                        ("given_at", models.DateTimeField()),
                        ("withdrawn_at", models.DateTimeField(blank=True, null=True)),
                        ("withdrawn_by", models.CharField(blank=True, default="", max_length=32)),
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
                                related_name="consents",
                                to="subscriptions.subscriber",
                            ),
                        ),
                    ],
                    options={
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("operator", "number"), name="consent_number_once"
                            ),
                            models.UniqueConstraint(
                                condition=models.Q(("withdrawn_at__isnull", True)),
                                fields=("subscriber_id", "kind", "subscription_id"),
                                name="consent_stands_once",
                                nulls_distinct=False,
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("withdrawn_at__isnull", True), ("withdrawn_by", "")),
                                    models.Q(
                                        ("withdrawn_at__gte", models.F("given_at")),
                                        models.Q(("withdrawn_by", ""), _negated=True),
                                    ),
                                    _connector="OR",
                                ),
                                name="consent_withdrawn_by_a_channel",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("text", ""), _negated=True),
                                    models.Q(("text_version", ""), _negated=True),
                                ),
                                name="consent_in_words",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("monthly_cap__isnull", True),
                                    models.Q(("kind", "phone_bill"), ("monthly_cap__gte", 0)),
                                    _connector="OR",
                                ),
                                name="consent_caps_the_phone_bill",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="Dispute",
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
                        ("id", models.BigIntegerField()),
                        ("number", models.CharField(max_length=40)),
                        ("order_id", models.BigIntegerField()),
                        ("way", models.CharField(max_length=32)),
                        ("reference", models.CharField(max_length=255)),
                        ("currency", models.CharField(max_length=3)),
                        ("amount", models.DecimalField(decimal_places=2, max_digits=16)),
                        ("fee", models.DecimalField(decimal_places=2, default=0, max_digits=16)),
                        ("held", models.DecimalField(decimal_places=2, default=0, max_digits=16)),
                        ("reason", models.CharField(blank=True, default="", max_length=64)),
                        (
                            "state",
                            models.CharField(
                                choices=[
                                    ("opened", "Opened"),
                                    ("under_review", "Under Review"),
                                    ("won", "Won"),
                                    ("lost", "Lost"),
                                ],
                                default="opened",
                                max_length=12,
                            ),
                        ),
                        ("steps", models.PositiveSmallIntegerField(default=1)),
                        ("due_by", models.DateTimeField(blank=True, null=True)),
                        ("evidence", models.JSONField(default=dict)),
                        ("submitted_at", models.DateTimeField(blank=True, null=True)),
                        ("sent_at", models.DateTimeField(blank=True, null=True)),
                        ("opened_at", models.DateTimeField()),
                        ("closed_at", models.DateTimeField(blank=True, null=True)),
                    ],
                    options={
                        "indexes": [
                            models.Index(fields=["operator", "id"], name="dispute_list"),
                            models.Index(
                                fields=["subscriber_id", "order_id"], name="dispute_of_order"
                            ),
                            models.Index(
                                condition=models.Q(("state__in", ["opened", "under_review"])),
                                fields=["operator", "id"],
                                name="dispute_open",
                            ),
                        ],
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("operator", "number"), name="dispute_number_once"
                            ),
                            models.UniqueConstraint(
                                fields=("operator", "way", "reference"), name="dispute_opened_once"
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("amount__gt", 0), ("fee__gte", 0), ("held__gte", 0)
                                ),
                                name="dispute_of_something",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("closed_at__isnull", True),
                                        ("state__in", ["opened", "under_review"]),
                                    ),
                                    models.Q(
                                        ("closed_at__isnull", False), ("state__in", ["won", "lost"])
                                    ),
                                    _connector="OR",
                                ),
                                name="dispute_closed",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="DisputeStep",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "dispute_id",
                                "nr",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("subscriber_id", models.BigIntegerField()),
                        ("dispute_id", models.BigIntegerField()),
                        ("nr", models.PositiveSmallIntegerField()),
                        (
                            "state",
                            models.CharField(
                                choices=[
                                    ("opened", "Opened"),
                                    ("under_review", "Under Review"),
                                    ("won", "Won"),
                                    ("lost", "Lost"),
                                ],
                                max_length=12,
                            ),
                        ),
                        ("at", models.DateTimeField()),
                        ("reason", models.CharField(blank=True, default="", max_length=200)),
                    ],
                ),
                migrations.CreateModel(
                    name="Refund",
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
                        ("id", models.BigIntegerField()),
                        ("number", models.CharField(max_length=40)),
                        ("order_id", models.BigIntegerField()),
                        ("once", models.CharField(max_length=280)),
                        ("currency", models.CharField(max_length=3)),
                        ("amount", models.DecimalField(decimal_places=2, max_digits=16)),
                        (
                            "to",
                            models.CharField(
                                choices=[("source", "Source"), ("wallet", "Wallet")], max_length=6
                            ),
                        ),
                        ("way", models.CharField(max_length=32)),
                        (
                            "fund",
                            models.CharField(
                                choices=[
                                    ("prepaid", "Prepaid"),
                                    ("credit_note", "Credit Note"),
                                    ("wallet", "Wallet"),
                                ],
                                max_length=11,
                            ),
                        ),
                        (
                            "rule",
                            models.CharField(
                                choices=[
                                    ("full", "Full"),
                                    ("unused", "Unused"),
                                    ("balance", "Balance"),
                                    ("credit", "Credit"),
                                ],
                                max_length=7,
                            ),
                        ),
                        ("bucket_id", models.BigIntegerField(blank=True, null=True)),
                        ("units", models.BigIntegerField(default=0)),
                        ("note_id", models.BigIntegerField(blank=True, null=True)),
                        ("reason", models.CharField(max_length=200)),
                        ("asked_by", models.CharField(max_length=100)),
                        (
                            "state",
                            models.CharField(
                                choices=[
                                    ("pending", "Pending"),
                                    ("succeeded", "Succeeded"),
                                    ("failed", "Failed"),
                                    ("cancelled", "Cancelled"),
                                ],
                                default="pending",
                                max_length=9,
                            ),
                        ),
                        ("steps", models.PositiveSmallIntegerField(default=1)),
                        ("tries", models.PositiveSmallIntegerField(default=1)),
                        ("key", models.CharField(max_length=64)),
                        ("reference", models.CharField(blank=True, default="", max_length=255)),
                        ("problem", models.CharField(blank=True, default="", max_length=200)),
                        ("asked_at", models.DateTimeField()),
                        ("look_at", models.DateTimeField(blank=True, null=True)),
                        ("looks", models.PositiveSmallIntegerField(default=0)),
                        ("ended_at", models.DateTimeField(blank=True, null=True)),
                    ],
                    options={
                        "indexes": [
                            models.Index(fields=["operator", "id"], name="refund_list"),
                            models.Index(
                                fields=["subscriber_id", "order_id"], name="refund_of_order"
                            ),
                            models.Index(
                                condition=models.Q(("state", "pending")),
                                fields=["operator", "look_at"],
                                name="refund_queue",
                            ),
                        ],
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("operator", "number"), name="refund_number_once"
                            ),
                            models.UniqueConstraint(
                                fields=("operator", "once"), name="refund_once"
                            ),
                            models.UniqueConstraint(
                                fields=("operator", "key"), name="refund_tried_once"
                            ),
                            models.CheckConstraint(
                                condition=models.Q(("amount__gt", 0), ("units__gte", 0)),
                                name="refund_of_something",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("ended_at__isnull", True),
                                        ("look_at__isnull", False),
                                        ("state", "pending"),
                                    ),
                                    models.Q(
                                        ("ended_at__isnull", True),
                                        ("look_at__isnull", True),
                                        ("state", "failed"),
                                    ),
                                    models.Q(
                                        ("ended_at__isnull", False),
                                        ("look_at__isnull", True),
                                        ("state__in", ["succeeded", "cancelled"]),
                                    ),
                                    _connector="OR",
                                ),
                                name="refund_ended",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("to", "source"), models.Q(("way", ""), _negated=True)
                                    ),
                                    models.Q(("to", "wallet"), ("way", "wallet")),
                                    _connector="OR",
                                ),
                                name="refund_goes_somewhere",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("fund", "credit_note"), _negated=True),
                                    ("note_id__isnull", False),
                                    _connector="OR",
                                ),
                                name="refund_of_a_note_names_it",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="RefundStep",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "refund_id",
                                "nr",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("subscriber_id", models.BigIntegerField()),
                        ("refund_id", models.BigIntegerField()),
                        ("nr", models.PositiveSmallIntegerField()),
                        (
                            "state",
                            models.CharField(
                                choices=[
                                    ("pending", "Pending"),
                                    ("succeeded", "Succeeded"),
                                    ("failed", "Failed"),
                                    ("cancelled", "Cancelled"),
                                ],
                                max_length=9,
                            ),
                        ),
                        ("at", models.DateTimeField()),
                        ("reason", models.CharField(blank=True, default="", max_length=200)),
                        ("reference", models.CharField(blank=True, default="", max_length=255)),
                    ],
                ),
                migrations.CreateModel(
                    name="AutoTopUp",
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
                                "id",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("id", models.BigIntegerField()),
                        ("currency", models.CharField(max_length=3)),
                        ("threshold", models.DecimalField(decimal_places=2, max_digits=16)),
                        ("amount", models.DecimalField(decimal_places=2, max_digits=16)),
                        ("daily_limit", models.DecimalField(decimal_places=2, max_digits=16)),
                        ("monthly_limit", models.DecimalField(decimal_places=2, max_digits=16)),
                        ("way", models.CharField(max_length=32)),
                        ("method", models.CharField(max_length=255)),
                        ("text", models.TextField()),
                        ("text_version", models.CharField(max_length=64)),
                        ("language", models.CharField(max_length=35)),
                        ("channel", models.CharField(max_length=32)),
                        ("agreed_at", models.DateTimeField()),
                        ("failures", models.PositiveSmallIntegerField(default=0)),
                        ("ended_at", models.DateTimeField(blank=True, null=True)),
                        ("ended_by", models.CharField(blank=True, default="", max_length=200)),
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
                        "constraints": [
                            models.UniqueConstraint(
                                condition=models.Q(("ended_at__isnull", True)),
                                fields=("subscriber_id",),
                                name="auto_top_up_one_at_a_time",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("amount__gte", models.F("threshold")),
                                    ("daily_limit__gte", models.F("amount")),
                                    ("monthly_limit__gte", models.F("daily_limit")),
                                    ("threshold__gt", 0),
                                ),
                                name="auto_top_up_within_limits",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("text", ""), _negated=True),
                                    models.Q(("text_version", ""), _negated=True),
                                ),
                                name="auto_top_up_in_words",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("ended_at__isnull", True), ("ended_by", "")),
                                    models.Q(
                                        ("ended_at__gte", models.F("agreed_at")),
                                        models.Q(("ended_by", ""), _negated=True),
                                    ),
                                    _connector="OR",
                                ),
                                name="auto_top_up_ended",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="AutoTopUpRun",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "agreement_id",
                                "cause",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("subscriber_id", models.BigIntegerField()),
                        ("agreement_id", models.BigIntegerField()),
                        ("cause", models.CharField(max_length=64)),
                        ("amount", models.DecimalField(decimal_places=2, max_digits=16)),
                        (
                            "state",
                            models.CharField(
                                choices=[
                                    ("due", "Due"),
                                    ("ordered", "Ordered"),
                                    ("paid", "Paid"),
                                    ("failed", "Failed"),
                                    ("stopped", "Stopped"),
                                ],
                                default="due",
                                max_length=7,
                            ),
                        ),
                        ("begun_at", models.DateTimeField()),
                        ("next_at", models.DateTimeField(blank=True, null=True)),
                        ("order_id", models.BigIntegerField(blank=True, null=True)),
                        ("tries", models.PositiveSmallIntegerField(default=0)),
                        ("asked", models.BooleanField(default=False)),
                        ("reason", models.CharField(blank=True, default="", max_length=200)),
                        ("ended_at", models.DateTimeField(blank=True, null=True)),
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
                                condition=models.Q(("next_at__isnull", False)),
                                fields=["operator", "next_at"],
                                name="auto_top_up_queue",
                            )
                        ],
                        "constraints": [
                            models.UniqueConstraint(
                                condition=models.Q(("state__in", ["due", "ordered"])),
                                fields=("subscriber_id",),
                                name="auto_top_up_run_one_at_a_time",
                            ),
                            models.UniqueConstraint(
                                fields=("subscriber_id", "order_id"),
                                name="auto_top_up_run_of_order",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("ended_at__isnull", True),
                                        ("next_at__isnull", False),
                                        ("order_id__isnull", True),
                                        ("state", "due"),
                                    ),
                                    models.Q(
                                        ("ended_at__isnull", True),
                                        ("next_at__isnull", False),
                                        ("order_id__isnull", False),
                                        ("state", "ordered"),
                                    ),
                                    models.Q(
                                        ("order_id__isnull", False),
                                        ("state", "paid"),
                                        ("ended_at__isnull", False),
                                        ("next_at__isnull", True),
                                    ),
                                    models.Q(
                                        ("ended_at__isnull", False),
                                        ("next_at__isnull", True),
                                        ("state__in", ["failed", "stopped"]),
                                    ),
                                    _connector="OR",
                                ),
                                name="auto_top_up_run_open_or_over",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="BonusRule",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "operator_id",
                                "policy_nr",
                                "at_least",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("operator_id", models.BigIntegerField()),
                        ("policy_nr", models.PositiveIntegerField()),
                        ("at_least", models.DecimalField(decimal_places=2, max_digits=16)),
                        (
                            "amount",
                            models.DecimalField(
                                blank=True, decimal_places=2, max_digits=16, null=True
                            ),
                        ),
                        (
                            "percent",
                            models.DecimalField(
                                blank=True, decimal_places=2, max_digits=5, null=True
                            ),
                        ),
                        (
                            "cap",
                            models.DecimalField(
                                blank=True, decimal_places=2, max_digits=16, null=True
                            ),
                        ),
                        (
                            "spent",
                            models.CharField(
                                choices=[("first", "First"), ("last", "Last")], max_length=5
                            ),
                        ),
                        ("valid_days", models.PositiveSmallIntegerField(blank=True, null=True)),
                    ],
                    options={
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("at_least__gt", 0),
                                    models.Q(
                                        models.Q(
                                            ("amount__gt", 0),
                                            ("cap__isnull", True),
                                            ("percent__isnull", True),
                                        ),
                                        models.Q(
                                            ("amount__isnull", True),
                                            ("percent__gt", 0),
                                            ("percent__lte", 100),
                                        ),
                                        _connector="OR",
                                    ),
                                    models.Q(
                                        ("cap__isnull", True), ("cap__gt", 0), _connector="OR"
                                    ),
                                    models.Q(
                                        ("valid_days__isnull", True),
                                        ("valid_days__gt", 0),
                                        _connector="OR",
                                    ),
                                ),
                                name="bonus_rule_gives_one_thing",
                            )
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="TopUpPolicy",
                    fields=[
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
                            "pk",
                            models.CompositePrimaryKey(
                                "operator_id",
                                "nr",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("nr", models.PositiveIntegerField()),
                        ("effective_from", models.DateTimeField()),
                        ("made_by", models.CharField(max_length=100)),
                        ("made_at", models.DateTimeField()),
                        (
                            "fixed",
                            django.contrib.postgres.fields.ArrayField(
                                base_field=models.DecimalField(decimal_places=2, max_digits=16),
                                size=None,
                            ),
                        ),
                        ("free", models.BooleanField()),
                        ("least", models.DecimalField(decimal_places=2, max_digits=16)),
                        ("most", models.DecimalField(decimal_places=2, max_digits=16)),
                        (
                            "low",
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
                                        ("free", True), ("fixed__len__gt", 0), _connector="OR"
                                    ),
                                    ("least__gt", 0),
                                    ("most__gte", models.F("least")),
                                    models.Q(
                                        ("low__isnull", True), ("low__gt", 0), _connector="OR"
                                    ),
                                ),
                                name="top_up_policy_offers_something",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(("effective_from__gte", models.F("made_at"))),
                                name="top_up_policy_effective_later",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="WalletBonus",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "currency",
                                "nr",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("subscriber_id", models.BigIntegerField()),
                        ("currency", models.CharField(max_length=3)),
                        ("nr", models.PositiveIntegerField()),
                        ("granted", models.DecimalField(decimal_places=2, max_digits=16)),
                        ("remaining", models.DecimalField(decimal_places=2, max_digits=16)),
                        (
                            "spent",
                            models.CharField(
                                choices=[("first", "First"), ("last", "Last")], max_length=5
                            ),
                        ),
                        ("granted_at", models.DateTimeField()),
                        ("expires_at", models.DateTimeField(blank=True, null=True)),
                        ("order_id", models.BigIntegerField(blank=True, null=True)),
                        ("policy_nr", models.PositiveIntegerField(blank=True, null=True)),
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
                                condition=models.Q(
                                    ("expires_at__isnull", False), ("remaining__gt", 0)
                                ),
                                fields=["operator", "expires_at"],
                                name="wallet_bonus_expiry_queue",
                            )
                        ],
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("subscriber_id", "order_id"),
                                name="wallet_bonus_once_a_top_up",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("granted__gt", 0),
                                    ("remaining__gte", 0),
                                    ("remaining__lte", models.F("granted")),
                                ),
                                name="wallet_bonus_within_grant",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("expires_at__isnull", True),
                                    ("expires_at__gt", models.F("granted_at")),
                                    _connector="OR",
                                ),
                                name="wallet_bonus_lives",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("order_id__isnull", True), ("policy_nr__isnull", True)
                                    ),
                                    models.Q(
                                        ("order_id__isnull", False), ("policy_nr__isnull", False)
                                    ),
                                    _connector="OR",
                                ),
                                name="wallet_bonus_with_a_top_up_or_by_hand",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="WalletBonusEntry",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "currency",
                                "bonus_nr",
                                "nr",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("subscriber_id", models.BigIntegerField()),
                        ("currency", models.CharField(max_length=3)),
                        ("bonus_nr", models.PositiveIntegerField()),
                        ("nr", models.PositiveIntegerField()),
                        ("amount", models.DecimalField(decimal_places=2, max_digits=16)),
                    ],
                    options={
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(("amount", 0), _negated=True),
                                name="wallet_bonus_entry_moves",
                            )
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="WalletHold",
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
                        ("subscriber_id", models.BigIntegerField()),
                        ("id", models.BigIntegerField()),
                        ("currency", models.CharField(max_length=3)),
                        ("amount", models.DecimalField(decimal_places=2, max_digits=16)),
                        ("purpose", models.CharField(max_length=200)),
                        ("key", models.CharField(max_length=260)),
                        (
                            "state",
                            models.CharField(
                                choices=[
                                    ("held", "Held"),
                                    ("captured", "Captured"),
                                    ("released", "Released"),
                                    ("expired", "Expired"),
                                ],
                                default="held",
                                max_length=8,
                            ),
                        ),
                        ("placed_at", models.DateTimeField()),
                        ("expires_at", models.DateTimeField()),
                        ("ended_at", models.DateTimeField(blank=True, null=True)),
                        (
                            "captured",
                            models.DecimalField(decimal_places=2, default=0, max_digits=16),
                        ),
                        ("reason", models.CharField(blank=True, default="", max_length=200)),
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
                                condition=models.Q(("state", "held")),
                                fields=["operator", "expires_at"],
                                name="wallet_hold_expiry_queue",
                            )
                        ],
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("operator", "key"), name="wallet_hold_once"
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("amount__gt", 0), ("expires_at__gt", models.F("placed_at"))
                                ),
                                name="wallet_hold_of_something",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("captured", 0),
                                        ("ended_at__isnull", True),
                                        ("state", "held"),
                                    ),
                                    models.Q(
                                        ("captured__gt", 0),
                                        ("captured__lte", models.F("amount")),
                                        ("ended_at__isnull", False),
                                        ("state", "captured"),
                                    ),
                                    models.Q(
                                        ("captured", 0),
                                        ("ended_at__isnull", False),
                                        ("state__in", ["released", "expired"]),
                                    ),
                                    _connector="OR",
                                ),
                                name="wallet_hold_ended",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="PaymentMethod",
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
                        ("key", models.CharField(max_length=64)),
                        (
                            "state",
                            models.CharField(
                                choices=[
                                    ("asked", "Asked"),
                                    ("saved", "Saved"),
                                    ("removed", "Removed"),
                                ],
                                default="asked",
                                max_length=7,
                            ),
                        ),
                        ("is_default", models.BooleanField(default=False)),
                        ("customer", models.CharField(blank=True, default="", max_length=100)),
                        ("reference", models.CharField(blank=True, default="", max_length=255)),
                        ("brand", models.CharField(blank=True, default="", max_length=32)),
                        ("last4", models.CharField(blank=True, default="", max_length=4)),
                        ("exp_year", models.PositiveSmallIntegerField(blank=True, null=True)),
                        ("exp_month", models.PositiveSmallIntegerField(blank=True, null=True)),
                        ("described", models.BooleanField(default=False)),
                        ("consent", models.TextField()),
                        ("consent_at", models.DateTimeField()),
                        ("saved_at", models.DateTimeField(blank=True, null=True)),
                        ("removed_at", models.DateTimeField(blank=True, null=True)),
                        ("forgotten", models.BooleanField(default=False)),
                        (
                            "account",
                            models.ForeignKey(
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="billing.provideraccount",
                            ),
                        ),
                        (
                            "operator",
                            models.ForeignKey(
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
                                fields=["subscriber_id", "id"], name="payment_method_list"
                            ),
                            models.Index(
                                condition=models.Q(
                                    models.Q(("described", False), ("state", "saved")),
                                    models.Q(("forgotten", False), ("state", "removed")),
                                    _connector="OR",
                                ),
                                fields=["operator", "id"],
                                name="payment_method_queue",
                            ),
                            models.Index(
                                condition=models.Q(("state", "saved")),
                                fields=["operator", "exp_year", "exp_month"],
                                name="payment_method_expiry",
                            ),
                        ],
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("account", "key"), name="payment_method_once"
                            ),
                            models.UniqueConstraint(
                                condition=models.Q(("is_default", True)),
                                fields=("subscriber_id",),
                                name="payment_method_one_default",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("is_default", False),
                                        ("saved_at__isnull", True),
                                        ("state", "asked"),
                                    ),
                                    models.Q(
                                        ("removed_at__isnull", True),
                                        ("saved_at__isnull", False),
                                        ("state", "saved"),
                                        models.Q(("reference", ""), _negated=True),
                                    ),
                                    models.Q(
                                        ("is_default", False),
                                        ("removed_at__isnull", False),
                                        ("state", "removed"),
                                    ),
                                    _connector="OR",
                                ),
                                name="payment_method_saved",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(("consent", ""), _negated=True),
                                name="payment_method_by_consent",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="VoucherBatch",
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
                        ("code", models.CharField(max_length=32)),
                        ("name", models.CharField(max_length=200)),
                        (
                            "gives",
                            models.CharField(
                                choices=[
                                    ("money", "Money"),
                                    ("booster", "Booster"),
                                    ("units", "Units"),
                                ],
                                max_length=7,
                            ),
                        ),
                        ("currency", models.CharField(max_length=3)),
                        ("amount", models.DecimalField(decimal_places=2, max_digits=16)),
                        ("units", models.BigIntegerField(blank=True, null=True)),
                        ("valid_days", models.PositiveSmallIntegerField(blank=True, null=True)),
                        ("valid_from", models.DateTimeField()),
                        ("valid_until", models.DateTimeField()),
                        ("count", models.PositiveIntegerField()),
                        ("made", models.PositiveIntegerField(default=0)),
                        ("steps", models.PositiveIntegerField(default=0)),
                        ("public_key", models.BinaryField(max_length=32)),
                        ("made_by", models.CharField(max_length=100)),
                        ("created_at", models.DateTimeField()),
                        ("shown_at", models.DateTimeField(blank=True, null=True)),
                        ("expired_at", models.DateTimeField(blank=True, null=True)),
                        (
                            "booster",
                            models.ForeignKey(
                                blank=True,
                                null=True,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.booster",
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
                            models.Index(
                                condition=models.Q(("made__lt", models.F("count"))),
                                fields=["id"],
                                name="voucher_batch_making",
                            )
                        ],
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("operator", "code"), name="voucher_batch_once"
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("amount__gt", 0),
                                        ("booster__isnull", True),
                                        ("gives", "money"),
                                        ("units__isnull", True),
                                    ),
                                    models.Q(
                                        ("amount__gt", 0),
                                        ("booster__isnull", False),
                                        ("gives", "booster"),
                                        ("units__isnull", True),
                                    ),
                                    models.Q(
                                        ("amount", 0),
                                        ("booster__isnull", True),
                                        ("gives", "units"),
                                        ("units__gt", 0),
                                        ("valid_days__gt", 0),
                                    ),
                                    _connector="OR",
                                ),
                                name="voucher_batch_gives_one_thing",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("count__gte", 1),
                                    ("count__lte", 1000000),
                                    ("made__lte", models.F("count")),
                                ),
                                name="voucher_batch_of_some",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(("valid_until__gt", models.F("valid_from"))),
                                name="voucher_batch_forward",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("shown_at__isnull", True),
                                    ("made", models.F("count")),
                                    _connector="OR",
                                ),
                                name="voucher_batch_shown_when_made",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="Voucher",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "batch_id",
                                "nr",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("nr", models.PositiveIntegerField()),
                        ("digest", models.BinaryField(max_length=32)),
                        (
                            "state",
                            models.CharField(
                                choices=[
                                    ("made", "Made"),
                                    ("activated", "Activated"),
                                    ("redeemed", "Redeemed"),
                                    ("void", "Void"),
                                    ("expired", "Expired"),
                                ],
                                default="made",
                                max_length=9,
                            ),
                        ),
                        ("changed_at", models.DateTimeField()),
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
                                blank=True,
                                db_index=False,
                                null=True,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.subscriber",
                            ),
                        ),
                        (
                            "batch",
                            models.ForeignKey(
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="billing.voucherbatch",
                            ),
                        ),
                    ],
                    options={
                        "indexes": [
                            models.Index(
                                condition=models.Q(("subscriber__isnull", False)),
                                fields=["subscriber", "changed_at"],
                                name="voucher_of_subscriber",
                            ),
                            models.Index(
                                condition=models.Q(("state__in", ["made", "activated"])),
                                fields=["batch", "nr"],
                                name="voucher_unused",
                            ),
                        ],
                        "constraints": [
                            models.UniqueConstraint(fields=("digest",), name="voucher_code_once"),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("state", "redeemed"), ("subscriber__isnull", False)),
                                    models.Q(
                                        models.Q(("state", "redeemed"), _negated=True),
                                        ("subscriber__isnull", True),
                                    ),
                                    _connector="OR",
                                ),
                                name="voucher_redeemed_by_somebody",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="VoucherMisses",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "operator_id",
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
                ),
                migrations.CreateModel(
                    name="VoucherSet",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "batch_id",
                                "first",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("first", models.PositiveIntegerField()),
                        ("sealed", models.BinaryField()),
                        (
                            "batch",
                            models.ForeignKey(
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="billing.voucherbatch",
                            ),
                        ),
                    ],
                ),
                migrations.CreateModel(
                    name="VoucherStep",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "batch_id",
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
                                    ("activated", "Activated"),
                                    ("void", "Void"),
                                    ("expired", "Expired"),
                                ],
                                max_length=9,
                            ),
                        ),
                        ("first", models.PositiveIntegerField()),
                        ("last", models.PositiveIntegerField()),
                        ("count", models.PositiveIntegerField()),
                        ("moved", models.PositiveIntegerField()),
                        ("by", models.CharField(max_length=100)),
                        ("reason", models.CharField(blank=True, default="", max_length=200)),
                        ("at", models.DateTimeField()),
                        (
                            "batch",
                            models.ForeignKey(
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="billing.voucherbatch",
                            ),
                        ),
                    ],
                    options={
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("count__gt", 0),
                                    ("last__gte", models.F("first")),
                                    ("moved__lte", models.F("count")),
                                ),
                                name="voucher_step_of_some",
                            )
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="ExportJob",
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
                        ("kind", models.CharField(max_length=16)),
                        ("language", models.CharField(max_length=2)),
                        ("of", models.CharField(blank=True, default="", max_length=64)),
                        (
                            "state",
                            models.CharField(
                                choices=[("working", "Working"), ("done", "Done")],
                                default="working",
                                max_length=7,
                            ),
                        ),
                        ("rows", models.PositiveIntegerField(default=0)),
                        ("after", models.JSONField(blank=True, null=True)),
                        ("parts", models.PositiveIntegerField(default=0)),
                        ("made_by", models.CharField(max_length=100)),
                        ("created_at", models.DateTimeField()),
                        ("finished_at", models.DateTimeField(blank=True, null=True)),
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
                            "form",
                            models.CharField(
                                choices=[("csv", "Csv"), ("xlsx", "Xlsx")],
                                default="csv",
                                max_length=4,
                            ),
                        ),
                    ],
                    options={
                        "indexes": [
                            models.Index(fields=["operator", "id"], name="export_list"),
                            models.Index(
                                condition=models.Q(("state", "working")),
                                fields=["id"],
                                name="export_waiting",
                            ),
                        ],
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(("form__in", ["csv", "xlsx"])),
                                name="export_in_a_form",
                            )
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="ExportPart",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "job_id",
                                "nr",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("nr", models.PositiveIntegerField()),
                        ("content", models.BinaryField()),
                        (
                            "job",
                            models.ForeignKey(
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="billing.exportjob",
                            ),
                        ),
                    ],
                ),
                migrations.CreateModel(
                    name="ImportJob",
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
                        ("kind", models.CharField(max_length=16)),
                        ("name", models.CharField(blank=True, default="", max_length=200)),
                        ("size", models.BigIntegerField()),
                        (
                            "state",
                            models.CharField(
                                choices=[
                                    ("checking", "Checking"),
                                    ("checked", "Checked"),
                                    ("applying", "Applying"),
                                    ("done", "Done"),
                                    ("failed", "Failed"),
                                    ("cancelled", "Cancelled"),
                                ],
                                default="checking",
                                max_length=9,
                            ),
                        ),
                        ("problem", models.CharField(blank=True, default="", max_length=300)),
                        ("read", models.PositiveIntegerField(default=0)),
                        ("applied", models.PositiveIntegerField(default=0)),
                        ("tried", models.JSONField(default=dict)),
                        ("outcomes", models.JSONField(default=dict)),
                        ("made_by", models.CharField(max_length=100)),
                        ("created_at", models.DateTimeField()),
                        ("started_by", models.CharField(blank=True, default="", max_length=100)),
                        ("finished_at", models.DateTimeField(blank=True, null=True)),
                        (
                            "operator",
                            models.ForeignKey(
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.operator",
                            ),
                        ),
                    ],
                    options={
                        "indexes": [
                            models.Index(fields=["operator", "id"], name="import_list"),
                            models.Index(
                                condition=models.Q(("state__in", ["checking", "applying"])),
                                fields=["id"],
                                name="import_waiting",
                            ),
                        ],
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(("applied__lte", models.F("read"))),
                                name="import_applies_what_it_read",
                            )
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="ImportChunk",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "job_id",
                                "first",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("first", models.PositiveIntegerField()),
                        ("rows", models.JSONField()),
                        ("tried", models.JSONField()),
                        ("outcomes", models.JSONField(blank=True, null=True)),
                        (
                            "job",
                            models.ForeignKey(
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="billing.importjob",
                            ),
                        ),
                    ],
                ),
                migrations.CreateModel(
                    name="ImportPart",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "job_id",
                                "nr",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("nr", models.PositiveIntegerField()),
                        ("content", models.BinaryField()),
                        (
                            "job",
                            models.ForeignKey(
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="billing.importjob",
                            ),
                        ),
                    ],
                ),
                migrations.CreateModel(
                    name="AnomalySweep",
                    fields=[
                        (
                            "operator",
                            models.OneToOneField(
                                on_delete=django.db.models.deletion.PROTECT,
                                primary_key=True,
                                related_name="anomaly_sweep",
                                serialize=False,
                                to="subscriptions.operator",
                            ),
                        ),
                        ("usage_until", models.DateTimeField()),
                        ("bills_until", models.DateTimeField()),
                    ],
                ),
                migrations.CreateModel(
                    name="RecyclingPolicy",
                    fields=[
                        (
                            "operator",
                            models.OneToOneField(
                                on_delete=django.db.models.deletion.PROTECT,
                                primary_key=True,
                                related_name="recycling_policy",
                                serialize=False,
                                to="subscriptions.operator",
                            ),
                        ),
                        ("cooling_days", models.PositiveSmallIntegerField(default=90)),
                        ("changed_by", models.CharField(max_length=100)),
                        ("changed_at", models.DateTimeField()),
                    ],
                ),
                migrations.CreateModel(
                    name="AnomalyCase",
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
                                    ("bill", "Bill"),
                                    ("velocity", "Velocity"),
                                    ("networks", "Networks"),
                                    ("end_users", "End Users"),
                                    ("always_busy", "Always Busy"),
                                ],
                                max_length=11,
                            ),
                        ),
                        ("key", models.CharField(max_length=80)),
                        (
                            "state",
                            models.CharField(
                                choices=[
                                    ("open", "Open"),
                                    ("frozen", "Frozen"),
                                    ("released", "Released"),
                                    ("confirmed", "Confirmed"),
                                    ("dismissed", "Dismissed"),
                                ],
                                default="open",
                                max_length=9,
                            ),
                        ),
                        ("evidence", models.JSONField()),
                        ("seen", models.PositiveIntegerField(default=1)),
                        ("found_at", models.DateTimeField()),
                        ("seen_at", models.DateTimeField()),
                        ("steps", models.PositiveSmallIntegerField(default=0)),
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
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.subscriber",
                            ),
                        ),
                    ],
                    options={
                        "indexes": [
                            models.Index(fields=["operator", "state", "id"], name="anomaly_queue")
                        ],
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("subscriber", "kind", "key"), name="anomaly_once"
                            ),
                            models.UniqueConstraint(
                                condition=models.Q(("state__in", ["open", "frozen"])),
                                fields=("subscriber", "kind"),
                                name="anomaly_undecided_once",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="AnomalyPolicy",
                    fields=[
                        (
                            "operator",
                            models.OneToOneField(
                                on_delete=django.db.models.deletion.PROTECT,
                                primary_key=True,
                                related_name="anomaly_policy",
                                serialize=False,
                                to="subscriptions.operator",
                            ),
                        ),
                        (
                            "bill_factor",
                            models.DecimalField(decimal_places=2, default=5, max_digits=6),
                        ),
                        (
                            "velocity_factor",
                            models.DecimalField(decimal_places=2, default=10, max_digits=6),
                        ),
                        ("velocity_units", models.BigIntegerField(default=1000000000)),
                        ("networks", models.PositiveIntegerField(default=20)),
                        ("end_users", models.PositiveIntegerField(default=50)),
                        ("busy_hours", models.PositiveSmallIntegerField(default=23)),
                        ("busy_days", models.PositiveSmallIntegerField(default=3)),
                        ("changed_by", models.CharField(max_length=100)),
                        ("changed_at", models.DateTimeField()),
                    ],
                    options={
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("bill_factor__gt", 1),
                                    ("busy_days__gte", 1),
                                    ("busy_days__lte", 31),
                                    ("busy_hours__gte", 1),
                                    ("busy_hours__lte", 24),
                                    ("end_users__gte", 2),
                                    ("networks__gte", 2),
                                    ("velocity_factor__gt", 1),
                                    ("velocity_units__gte", 0),
                                ),
                                name="anomaly_policy_sane",
                            )
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="AnomalyStep",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "case_id",
                                "nr",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("nr", models.PositiveSmallIntegerField()),
                        (
                            "state",
                            models.CharField(
                                choices=[
                                    ("open", "Open"),
                                    ("frozen", "Frozen"),
                                    ("released", "Released"),
                                    ("confirmed", "Confirmed"),
                                    ("dismissed", "Dismissed"),
                                ],
                                max_length=9,
                            ),
                        ),
                        ("by", models.CharField(max_length=100)),
                        ("reason", models.CharField(max_length=200)),
                        ("at", models.DateTimeField()),
                        (
                            "case",
                            models.ForeignKey(
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="billing.anomalycase",
                            ),
                        ),
                    ],
                    options={
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("by", ""), _negated=True),
                                    models.Q(("reason", ""), _negated=True),
                                ),
                                name="anomaly_step_has_a_reason",
                            )
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="Handover",
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
                                    ("transfer", "Transfer"),
                                    ("recycle", "Recycle"),
                                    ("merge", "Merge"),
                                ],
                                max_length=8,
                            ),
                        ),
                        (
                            "state",
                            models.CharField(
                                choices=[
                                    ("pending", "Pending"),
                                    ("done", "Done"),
                                    ("rejected", "Rejected"),
                                ],
                                default="pending",
                                max_length=8,
                            ),
                        ),
                        (
                            "subjects",
                            django.contrib.postgres.fields.ArrayField(
                                base_field=models.CharField(max_length=256), default=list, size=None
                            ),
                        ),
                        ("since", models.DateTimeField(blank=True, null=True)),
                        (
                            "balance",
                            models.CharField(
                                choices=[
                                    ("keep", "Keep"),
                                    ("move", "Move"),
                                    ("forfeit", "Forfeit"),
                                ],
                                max_length=7,
                            ),
                        ),
                        ("with_wallet", models.BooleanField(default=False)),
                        ("effect", models.JSONField()),
                        ("currency", models.CharField(max_length=3)),
                        ("worth", models.DecimalField(decimal_places=2, max_digits=16)),
                        ("reason", models.CharField(max_length=200)),
                        ("asked_by", models.CharField(max_length=100)),
                        ("asked_at", models.DateTimeField()),
                        ("batch_id", models.BigIntegerField(blank=True, null=True)),
                        ("units", models.BigIntegerField(default=0)),
                        ("amount", models.DecimalField(decimal_places=2, default=0, max_digits=16)),
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
                            "receiver",
                            models.ForeignKey(
                                blank=True,
                                null=True,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.subscriber",
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
                        ("done_at", models.DateTimeField(blank=True, null=True)),
                    ],
                    options={
                        "indexes": [models.Index(fields=["operator", "id"], name="handover_list")],
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("kind", "recycle"), ("receiver__isnull", True)),
                                    models.Q(
                                        ("kind__in", ["transfer", "merge"]),
                                        ("receiver__isnull", False),
                                        models.Q(
                                            ("receiver", models.F("subscriber")), _negated=True
                                        ),
                                    ),
                                    _connector="OR",
                                ),
                                name="handover_to_another",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("done_at__isnull", False),
                                        ("since__isnull", False),
                                        ("state", "done"),
                                    ),
                                    models.Q(
                                        models.Q(("state", "done"), _negated=True),
                                        ("amount", 0),
                                        ("batch_id__isnull", True),
                                        ("done_at__isnull", True),
                                        ("units", 0),
                                    ),
                                    _connector="OR",
                                ),
                                name="handover_moved_when_done",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="ProviderFile",
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
                        ("layout", models.CharField(max_length=16)),
                        ("account", models.CharField(max_length=32)),
                        ("name", models.CharField(max_length=200)),
                        ("digest", models.CharField(max_length=64)),
                        ("bytes", models.BigIntegerField()),
                        ("rows", models.PositiveIntegerField()),
                        ("lines", models.PositiveIntegerField()),
                        ("first_day", models.DateField()),
                        ("last_day", models.DateField()),
                        ("imported_by", models.CharField(max_length=100)),
                        ("imported_at", models.DateTimeField()),
                        (
                            "operator",
                            models.ForeignKey(
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.operator",
                            ),
                        ),
                    ],
                    options={
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("operator", "digest"), name="provider_file_once"
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("last_day__gte", models.F("first_day")),
                                    ("rows__gte", models.F("lines")),
                                ),
                                name="provider_file_has_lines",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="ProviderLine",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "operator_id",
                                "account",
                                "line_id",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("account", models.CharField(max_length=32)),
                        ("line_id", models.CharField(max_length=128)),
                        ("nr", models.PositiveIntegerField()),
                        ("at", models.DateTimeField()),
                        ("day", models.DateField()),
                        (
                            "kind",
                            models.CharField(
                                choices=[
                                    ("payment", "Payment"),
                                    ("refund", "Refund"),
                                    ("fee", "Fee"),
                                    ("payout", "Payout"),
                                    ("dispute", "Dispute"),
                                    ("other", "Other"),
                                ],
                                max_length=7,
                            ),
                        ),
                        ("currency", models.CharField(max_length=3)),
                        ("gross", models.DecimalField(decimal_places=2, max_digits=16)),
                        ("fee", models.DecimalField(decimal_places=2, max_digits=16)),
                        ("key", models.CharField(blank=True, default="", max_length=64)),
                        ("reference", models.CharField(blank=True, default="", max_length=255)),
                        ("payout", models.CharField(blank=True, default="", max_length=255)),
                        ("raw", models.JSONField()),
                        (
                            "state",
                            models.CharField(
                                choices=[
                                    ("new", "New"),
                                    ("matched", "Matched"),
                                    ("differs", "Differs"),
                                ],
                                default="new",
                                max_length=7,
                            ),
                        ),
                        ("ours", models.CharField(blank=True, default="", max_length=160)),
                        (
                            "file",
                            models.ForeignKey(
                                db_constraint=False,
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="billing.providerfile",
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
                                fields=["operator", "account", "day"], name="provider_line_of_day"
                            ),
                            models.Index(
                                condition=models.Q(("state", "new")),
                                fields=["operator", "account"],
                                name="provider_line_new",
                            ),
                        ],
                        "constraints": [
                            models.UniqueConstraint(
                                condition=models.Q(("ours", ""), _negated=True),
                                fields=("operator", "account", "ours"),
                                name="provider_line_of_ours_once",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("state", "matched"), _negated=True),
                                    models.Q(("ours", ""), _negated=True),
                                    _connector="OR",
                                ),
                                name="provider_line_matched",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="PaymentDifference",
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
                        ("account", models.CharField(max_length=32)),
                        ("day", models.DateField()),
                        (
                            "kind",
                            models.CharField(
                                choices=[
                                    ("missing_here", "Missing Here"),
                                    ("missing_there", "Missing There"),
                                    ("amount_differs", "Amount"),
                                    ("fees", "Fees"),
                                    ("payout", "Payout"),
                                ],
                                max_length=14,
                            ),
                        ),
                        ("about", models.CharField(max_length=180)),
                        ("line_id", models.CharField(blank=True, default="", max_length=128)),
                        ("ours", models.CharField(blank=True, default="", max_length=160)),
                        ("currency", models.CharField(max_length=3)),
                        ("theirs", models.DecimalField(decimal_places=2, max_digits=16)),
                        ("our_amount", models.DecimalField(decimal_places=2, max_digits=16)),
                        ("amount", models.DecimalField(decimal_places=2, max_digits=16)),
                        ("found_at", models.DateTimeField()),
                        ("owner", models.CharField(blank=True, default="", max_length=100)),
                        ("note", models.CharField(blank=True, default="", max_length=500)),
                        (
                            "state",
                            models.CharField(
                                choices=[
                                    ("open", "Open"),
                                    ("waiting", "Waiting"),
                                    ("resolved", "Resolved"),
                                ],
                                default="open",
                                max_length=8,
                            ),
                        ),
                        (
                            "resolution",
                            models.CharField(
                                blank=True,
                                choices=[
                                    ("fee", "Fee"),
                                    ("arrived", "Arrived"),
                                    ("known", "Known"),
                                    ("written_off", "Written Off"),
                                    ("unclear_payment", "Unclear"),
                                    ("came", "Came"),
                                ],
                                default="",
                                max_length=15,
                            ),
                        ),
                        ("resolved_by", models.CharField(blank=True, default="", max_length=100)),
                        ("resolved_at", models.DateTimeField(blank=True, null=True)),
                        (
                            "operator",
                            models.ForeignKey(
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
                                fields=["operator", "state", "id"], name="payment_difference_list"
                            ),
                            models.Index(
                                fields=["operator", "account", "day"],
                                name="payment_difference_of_day",
                            ),
                        ],
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("operator", "account", "about"),
                                name="payment_difference_once",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    (
                                        "amount",
                                        django.db.models.expressions.CombinedExpression(
                                            models.F("theirs"), "-", models.F("our_amount")
                                        ),
                                    ),
                                    models.Q(("amount", 0), _negated=True),
                                ),
                                name="payment_difference_is_one",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("resolution", ""),
                                        ("resolved_at__isnull", True),
                                        ("resolved_by", ""),
                                        ("state__in", ["open", "waiting"]),
                                    ),
                                    models.Q(
                                        ("resolved_at__isnull", False),
                                        ("state", "resolved"),
                                        models.Q(("resolution", ""), _negated=True),
                                        models.Q(("resolved_by", ""), _negated=True),
                                        models.Q(("note", ""), _negated=True),
                                    ),
                                    _connector="OR",
                                ),
                                name="payment_difference_resolved",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="PhoneBillAnswer",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "order_id",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("subscriber_id", models.BigIntegerField()),
                        ("order_id", models.BigIntegerField()),
                        (
                            "kind",
                            models.CharField(
                                choices=[("collected", "Collected"), ("rejected", "Rejected")],
                                max_length=9,
                            ),
                        ),
                        ("at", models.DateTimeField()),
                        ("reason", models.CharField(blank=True, default="", max_length=200)),
                        ("amount", models.DecimalField(decimal_places=2, max_digits=16)),
                        (
                            "unnamed",
                            models.DecimalField(decimal_places=2, default=0, max_digits=16),
                        ),
                        ("owed", models.DecimalField(decimal_places=2, default=0, max_digits=16)),
                        (
                            "from_wallet",
                            models.DecimalField(decimal_places=2, default=0, max_digits=16),
                        ),
                        ("lost", models.DecimalField(decimal_places=2, default=0, max_digits=16)),
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
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("amount__gt", 0),
                                        ("from_wallet", 0),
                                        ("kind", "collected"),
                                        ("lost", 0),
                                        ("owed", 0),
                                        ("unnamed", 0),
                                    ),
                                    models.Q(
                                        (
                                            "amount",
                                            django.db.models.expressions.CombinedExpression(
                                                django.db.models.expressions.CombinedExpression(
                                                    django.db.models.expressions.CombinedExpression(
                                                        models.F("unnamed"), "+", models.F("owed")
                                                    ),
                                                    "+",
                                                    models.F("from_wallet"),
                                                ),
                                                "+",
                                                models.F("lost"),
                                            ),
                                        ),
                                        ("from_wallet__gte", 0),
                                        ("kind", "rejected"),
                                        ("lost__gte", 0),
                                        ("owed__gte", 0),
                                        ("unnamed__gte", 0),
                                        models.Q(("reason", ""), _negated=True),
                                    ),
                                    _connector="OR",
                                ),
                                name="phone_bill_answer_says_all",
                            )
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="PhoneBillCharge",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "order_id",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("subscriber_id", models.BigIntegerField()),
                        ("order_id", models.BigIntegerField()),
                        ("at", models.DateTimeField()),
                        ("currency", models.CharField(max_length=3)),
                        ("amount", models.DecimalField(decimal_places=2, max_digits=16)),
                        ("msisdn", models.CharField(max_length=32)),
                        ("external_id", models.CharField(max_length=128)),
                        ("sequence", models.PositiveIntegerField(blank=True, null=True)),
                        ("nr", models.PositiveIntegerField(blank=True, null=True)),
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
                                condition=models.Q(("sequence__isnull", True)),
                                fields=["operator", "at"],
                                name="phone_bill_to_be_told",
                            )
                        ],
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("operator", "sequence", "nr"),
                                name="phone_bill_charge_in_its_place",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("amount__gt", 0),
                                    models.Q(
                                        models.Q(("nr__isnull", True), ("sequence__isnull", True)),
                                        models.Q(("nr__gte", 1), ("sequence__gte", 1)),
                                        _connector="OR",
                                    ),
                                ),
                                name="phone_bill_charge_of_something",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="ComplaintMessage",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "complaint_id",
                                "nr",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("subscriber_id", models.BigIntegerField()),
                        ("complaint_id", models.BigIntegerField()),
                        ("nr", models.PositiveSmallIntegerField()),
                        (
                            "by",
                            models.CharField(
                                choices=[("subscriber", "Subscriber"), ("staff", "Staff")],
                                max_length=10,
                            ),
                        ),
                        ("author", models.CharField(max_length=100)),
                        ("text", models.TextField(max_length=4000)),
                        ("at", models.DateTimeField()),
                    ],
                ),
                migrations.CreateModel(
                    name="ComplaintPolicy",
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
                        ("reply_days", models.PositiveSmallIntegerField()),
                    ],
                    options={
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(("reply_days__gte", 1), ("reply_days__lte", 60)),
                                name="complaint_answered_within_two_months",
                            )
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="Complaint",
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
                        ("number", models.CharField(max_length=40)),
                        ("key", models.CharField(max_length=80)),
                        (
                            "kind",
                            models.CharField(
                                choices=[
                                    ("charge", "Charge"),
                                    ("usage", "Usage"),
                                    ("service", "Service"),
                                    ("refund", "Refund"),
                                    ("privacy", "Privacy"),
                                    ("other", "Other"),
                                ],
                                max_length=8,
                            ),
                        ),
                        ("invoice_id", models.BigIntegerField(blank=True, null=True)),
                        ("line", models.PositiveSmallIntegerField(blank=True, null=True)),
                        (
                            "state",
                            models.CharField(
                                choices=[
                                    ("open", "Open"),
                                    ("answered", "Answered"),
                                    ("closed", "Closed"),
                                ],
                                default="open",
                                max_length=8,
                            ),
                        ),
                        ("stops_dunning", models.BooleanField(default=False)),
                        ("messages", models.PositiveSmallIntegerField(default=1)),
                        ("opened_at", models.DateTimeField()),
                        ("due_at", models.DateTimeField()),
                        ("changed_at", models.DateTimeField()),
                        ("closed_at", models.DateTimeField(blank=True, null=True)),
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
                        "indexes": [
                            models.Index(fields=["operator", "id"], name="complaint_list"),
                            models.Index(
                                condition=models.Q(("state", "open")),
                                fields=["operator", "due_at"],
                                name="complaint_due",
                            ),
                        ],
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("operator", "number"), name="complaint_number_once"
                            ),
                            models.UniqueConstraint(
                                fields=("subscriber_id", "key"), name="complaint_lodged_once"
                            ),
                            models.UniqueConstraint(
                                condition=models.Q(("invoice_id__isnull", False)),
                                fields=("subscriber_id", "invoice_id", "line"),
                                name="complaint_one_of_a_line",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("invoice_id__isnull", False),
                                        ("kind", "charge"),
                                        ("line__isnull", False),
                                    ),
                                    models.Q(
                                        models.Q(("kind", "charge"), _negated=True),
                                        ("invoice_id__isnull", True),
                                        ("line__isnull", True),
                                    ),
                                    _connector="OR",
                                ),
                                name="complaint_of_a_line_names_it",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("closed_at__isnull", False), ("state", "closed")),
                                    models.Q(
                                        models.Q(("state", "closed"), _negated=True),
                                        ("closed_at__isnull", True),
                                    ),
                                    _connector="OR",
                                ),
                                name="complaint_closed_has_a_time",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(("due_at__gt", models.F("opened_at"))),
                                name="complaint_due_after_it_was_made",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    ("stops_dunning", False),
                                    models.Q(("kind", "charge"), ("state", "open")),
                                    _connector="OR",
                                ),
                                name="complaint_stops_dunning_while_open",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="PersonalDataExport",
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
                            "state",
                            models.CharField(
                                choices=[
                                    ("waiting", "Waiting"),
                                    ("made", "Made"),
                                    ("failed", "Failed"),
                                    ("expired", "Expired"),
                                ],
                                default="waiting",
                                max_length=7,
                            ),
                        ),
                        ("attempts", models.PositiveSmallIntegerField(default=0)),
                        ("parts", models.PositiveIntegerField(default=0)),
                        ("size", models.BigIntegerField(default=0)),
                        ("ordered_at", models.DateTimeField()),
                        ("made_at", models.DateTimeField(blank=True, null=True)),
                        ("expires_at", models.DateTimeField(blank=True, null=True)),
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
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.subscriber",
                            ),
                        ),
                        (
                            "user",
                            models.ForeignKey(
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to=settings.AUTH_USER_MODEL,
                            ),
                        ),
                    ],
                    options={
                        "indexes": [
                            models.Index(
                                condition=models.Q(("state", "waiting")),
                                fields=["id"],
                                name="personal_data_waiting",
                            ),
                            models.Index(
                                condition=models.Q(("state", "made")),
                                fields=["operator", "expires_at"],
                                name="personal_data_outlived",
                            ),
                        ],
                        "constraints": [
                            models.UniqueConstraint(
                                condition=models.Q(("state", "waiting")),
                                fields=("user", "operator"),
                                name="personal_data_one_at_a_time",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("expires_at__isnull", False),
                                        ("made_at__isnull", False),
                                        ("parts__gte", 1),
                                        ("state__in", ["made", "expired"]),
                                    ),
                                    models.Q(
                                        ("expires_at__isnull", True),
                                        ("made_at__isnull", True),
                                        ("state__in", ["waiting", "failed"]),
                                    ),
                                    _connector="OR",
                                ),
                                name="personal_data_made_expires",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="PersonalDataPart",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "export_id",
                                "nr",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("nr", models.PositiveIntegerField()),
                        ("content", models.BinaryField()),
                        (
                            "export",
                            models.ForeignKey(
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="billing.personaldataexport",
                            ),
                        ),
                    ],
                ),
                migrations.CreateModel(
                    name="PlanReceipt",
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
                        ("number", models.CharField(max_length=40)),
                        (
                            "kind",
                            models.CharField(
                                choices=[
                                    ("cancelled", "Cancelled"),
                                    ("kept", "Kept"),
                                    ("changed", "Changed"),
                                    ("upgraded", "Upgraded"),
                                    ("paused", "Paused"),
                                    ("resumed", "Resumed"),
                                ],
                                max_length=9,
                            ),
                        ),
                        ("subscription_id", models.BigIntegerField()),
                        ("holds_from", models.DateTimeField()),
                        ("channel", models.CharField(max_length=32)),
                        ("at", models.DateTimeField()),
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
                        (
                            "to_plan",
                            models.ForeignKey(
                                blank=True,
                                db_index=False,
                                null=True,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.plan",
                            ),
                        ),
                    ],
                    options={
                        "constraints": [
                            models.UniqueConstraint(
                                fields=("operator", "number"), name="plan_receipt_number_once"
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("kind__in", ["changed", "upgraded", "paused", "resumed"]),
                                        ("to_plan__isnull", False),
                                    ),
                                    ("kind__in", ["cancelled", "kept"]),
                                    _connector="OR",
                                ),
                                name="plan_receipt_names_what_goes_on",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="ClosePause",
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
                        ("since", models.DateTimeField()),
                        ("reason", models.CharField(max_length=200)),
                        ("paused_by", models.CharField(max_length=100)),
                        ("until", models.DateTimeField(blank=True, null=True)),
                        ("resumed_by", models.CharField(blank=True, default="", max_length=100)),
                        (
                            "operator",
                            models.ForeignKey(
                                db_index=False,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.operator",
                            ),
                        ),
                    ],
                    options={
                        "indexes": [
                            models.Index(fields=["operator", "-id"], name="close_pause_list")
                        ],
                        "constraints": [
                            models.UniqueConstraint(
                                condition=models.Q(("until__isnull", True)),
                                fields=("operator",),
                                name="close_paused_once",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("paused_by", ""), _negated=True),
                                    models.Q(("reason", ""), _negated=True),
                                ),
                                name="close_pause_by_somebody",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(("resumed_by", ""), ("until__isnull", True)),
                                    models.Q(
                                        ("until__gte", models.F("since")),
                                        models.Q(("resumed_by", ""), _negated=True),
                                    ),
                                    _connector="OR",
                                ),
                                name="close_pause_ends_after_it_began",
                            ),
                        ],
                    },
                ),
                migrations.CreateModel(
                    name="PriceDraft",
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
                                choices=[("plan", "Plan"), ("rate_card", "Rate Card")], max_length=9
                            ),
                        ),
                        ("code", models.CharField(max_length=64)),
                        ("terms", models.JSONField()),
                        ("note", models.CharField(blank=True, default="", max_length=200)),
                        (
                            "state",
                            models.CharField(
                                choices=[
                                    ("draft", "Draft"),
                                    ("asked", "Asked"),
                                    ("approved", "Approved"),
                                    ("scheduled", "Scheduled"),
                                    ("on_sale", "On Sale"),
                                    ("retired", "Retired"),
                                    ("dropped", "Dropped"),
                                ],
                                default="draft",
                                max_length=9,
                            ),
                        ),
                        ("made_by", models.CharField(max_length=100)),
                        ("made_at", models.DateTimeField()),
                        ("on_sale_at", models.DateTimeField(blank=True, null=True)),
                        ("ended_at", models.DateTimeField(blank=True, null=True)),
                        ("problem", models.CharField(blank=True, default="", max_length=500)),
                        (
                            "card",
                            models.ForeignKey(
                                blank=True,
                                null=True,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.ratecard",
                            ),
                        ),
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
                            "plan",
                            models.ForeignKey(
                                blank=True,
                                null=True,
                                on_delete=django.db.models.deletion.PROTECT,
                                related_name="+",
                                to="subscriptions.plan",
                            ),
                        ),
                    ],
                    options={
                        "indexes": [
                            models.Index(fields=["operator", "-id"], name="price_draft_list"),
                            models.Index(
                                condition=models.Q(("state", "scheduled")),
                                fields=["operator", "on_sale_at"],
                                name="price_draft_queue",
                            ),
                        ],
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        ("card__isnull", True),
                                        ("kind", "plan"),
                                        models.Q(
                                            models.Q(
                                                ("plan__isnull", False),
                                                ("state__in", ["on_sale", "retired"]),
                                            ),
                                            models.Q(
                                                models.Q(
                                                    ("state__in", ["on_sale", "retired"]),
                                                    _negated=True,
                                                ),
                                                ("plan__isnull", True),
                                            ),
                                            _connector="OR",
                                        ),
                                    ),
                                    models.Q(
                                        ("kind", "rate_card"),
                                        ("plan__isnull", True),
                                        models.Q(
                                            models.Q(
                                                ("card__isnull", False),
                                                ("state__in", ["scheduled", "on_sale", "retired"]),
                                            ),
                                            models.Q(
                                                models.Q(
                                                    (
                                                        "state__in",
                                                        ["scheduled", "on_sale", "retired"],
                                                    ),
                                                    _negated=True,
                                                ),
                                                ("card__isnull", True),
                                            ),
                                            _connector="OR",
                                        ),
                                    ),
                                    _connector="OR",
                                ),
                                name="price_draft_is_one_version",
                            ),
                            models.CheckConstraint(
                                condition=models.Q(
                                    models.Q(
                                        models.Q(
                                            ("state__in", ["scheduled", "on_sale", "retired"]),
                                            _negated=True,
                                        ),
                                        ("on_sale_at__isnull", False),
                                        _connector="OR",
                                    ),
                                    models.Q(
                                        models.Q(
                                            ("ended_at__isnull", False),
                                            ("state__in", ["retired", "dropped"]),
                                        ),
                                        models.Q(
                                            models.Q(
                                                ("state__in", ["retired", "dropped"]), _negated=True
                                            ),
                                            ("ended_at__isnull", True),
                                        ),
                                        _connector="OR",
                                    ),
                                    models.Q(
                                        ("ended_at__isnull", True),
                                        ("ended_at__gte", models.F("made_at")),
                                        _connector="OR",
                                    ),
                                ),
                                name="price_draft_has_its_times",
                            ),
                        ],
                    },
                ),
            ]
        ),
        *(migrations.RunSQL(of.RULES) for of in _ALL),
    ]
