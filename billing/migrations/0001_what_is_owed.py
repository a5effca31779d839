"""Ledger, invoices and the queue of the close, with the rules that keep them."""

import django.db.models.deletion
import django.db.models.expressions
from django.db import migrations, models

from billing.migrations._sql import (
    CREATE_SEQUENCES,
    DROP_SEQUENCES,
    KEEP_RULES,
    LOOSEN_RULES,
)


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        ("subscriptions", "0009_journal_takes_back"),
    ]

    operations = [
        migrations.RunSQL(CREATE_SEQUENCES, DROP_SEQUENCES),
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
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
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
        ),
        migrations.CreateModel(
            name="CloseChunk",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
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
                        choices=[("waiting", "Waiting"), ("done", "Done"), ("failed", "Failed")],
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
                        choices=[("period", "Period"), ("credit_note", "Credit Note")],
                        default="period",
                        max_length=12,
                    ),
                ),
                ("subscription_id", models.BigIntegerField()),
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
                        related_name="invoices",
                        to="subscriptions.subscriber",
                    ),
                ),
            ],
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
                        ],
                        max_length=10,
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
                        condition=models.Q(("kind__in", ["overage", "block", "booster", "gift"])),
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
        ),
        migrations.AddConstraint(
            model_name="account",
            constraint=models.UniqueConstraint(
                fields=("operator", "code", "currency"), name="account_once"
            ),
        ),
        migrations.AddIndex(
            model_name="closechunk",
            index=models.Index(fields=["operator", "state", "id"], name="close_queue"),
        ),
        migrations.AddConstraint(
            model_name="closechunk",
            constraint=models.CheckConstraint(
                condition=models.Q(("last_subscriber__gte", models.F("first_subscriber"))),
                name="close_chunk_is_a_range",
            ),
        ),
        migrations.AddConstraint(
            model_name="closechunk",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("done_at__isnull", False), ("state", "done")),
                    models.Q(models.Q(("state", "done"), _negated=True), ("done_at__isnull", True)),
                    _connector="OR",
                ),
                name="close_chunk_done_has_a_time",
            ),
        ),
        migrations.AddConstraint(
            model_name="closechunk",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("state", "failed"), _negated=True),
                    models.Q(("reason", ""), _negated=True),
                    _connector="OR",
                ),
                name="close_chunk_failed_has_a_reason",
            ),
        ),
        migrations.AddConstraint(
            model_name="invoice",
            constraint=models.UniqueConstraint(
                condition=models.Q(("kind", "period")),
                fields=("subscriber_id", "subscription_id", "period_start"),
                name="invoice_of_a_period_once",
            ),
        ),
        migrations.AddConstraint(
            model_name="invoice",
            constraint=models.CheckConstraint(
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
        ),
        migrations.AddConstraint(
            model_name="invoice",
            constraint=models.CheckConstraint(
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
        ),
        migrations.AddConstraint(
            model_name="invoice",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("paid", 0),
                    models.Q(("paid__gt", 0), ("paid__lte", models.F("gross"))),
                    models.Q(("paid__gte", models.F("gross")), ("paid__lt", 0)),
                    _connector="OR",
                ),
                name="invoice_paid_within_gross",
            ),
        ),
        migrations.AddConstraint(
            model_name="invoice",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("state", "paid"), _negated=True),
                    ("paid", models.F("gross")),
                    _connector="OR",
                ),
                name="invoice_paid_is_paid_whole",
            ),
        ),
        migrations.AddConstraint(
            model_name="invoice",
            constraint=models.CheckConstraint(
                condition=models.Q(("period_end__gt", models.F("period_start"))),
                name="invoice_period_forward",
            ),
        ),
        migrations.AddConstraint(
            model_name="invoice",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("kind", "period"), ("original_id__isnull", True)),
                    models.Q(
                        ("gross__lte", 0), ("kind", "credit_note"), ("original_id__isnull", False)
                    ),
                    _connector="OR",
                ),
                name="invoice_credit_note_names_its_original",
            ),
        ),
        migrations.AddConstraint(
            model_name="posting",
            constraint=models.UniqueConstraint(fields=("operator", "key"), name="posting_once"),
        ),
        migrations.AddConstraint(
            model_name="posting",
            constraint=models.CheckConstraint(
                condition=models.Q(("entries__gte", 2)), name="posting_has_two_sides"
            ),
        ),
        migrations.AddIndex(
            model_name="entry",
            index=models.Index(
                condition=models.Q(("subscriber_id__isnull", False)),
                fields=["subscriber_id", "account"],
                name="entry_of_subscriber",
            ),
        ),
        migrations.AddConstraint(
            model_name="entry",
            constraint=models.CheckConstraint(
                condition=models.Q(("amount", 0), _negated=True), name="entry_moves_something"
            ),
        ),
        migrations.RunSQL(KEEP_RULES, LOOSEN_RULES),
    ]
