"""Orders, attempts to pay them, wallets, and transfers that staff match."""

import django.db.models.deletion
import django.db.models.expressions
from django.db import migrations, models

from billing.migrations._orders_sql import (
    CREATE_SEQUENCE,
    DROP_SEQUENCE,
    KEEP_ORDERS,
    LOOSEN_ORDERS,
)


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0008_deferrals"),
        ("subscriptions", "0017_trials_and_pauses"),
    ]

    operations = [
        migrations.RunSQL(CREATE_SEQUENCE, DROP_SEQUENCE),
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
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
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
                    models.UniqueConstraint(fields=("operator", "reference"), name="transfer_once"),
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
                ("applied", models.DecimalField(decimal_places=2, default=0, max_digits=16)),
                ("refunded", models.DecimalField(decimal_places=2, default=0, max_digits=16)),
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
                                    ["created", "waiting", "failed", "expired", "cancelled"],
                                ),
                                ("way", ""),
                            ),
                            models.Q(
                                ("state__in", ["paid", "refunding", "refunded", "partly_refunded"]),
                                ("paid_at__isnull", False),
                                models.Q(("way", ""), _negated=True),
                            ),
                            _connector="OR",
                        ),
                        name="order_paid_in_a_way",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("applied__gte", 0),
                            ("refunded__gte", 0),
                            (
                                "amount__gte",
                                django.db.models.expressions.CombinedExpression(
                                    models.F("applied"), "+", models.F("refunded")
                                ),
                            ),
                        ),
                        name="order_used_within_amount",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("refunded", models.F("amount")), ("state__in", ["refunded"])),
                            models.Q(
                                ("refunded__gt", 0),
                                ("refunded__lt", models.F("amount")),
                                ("state", "partly_refunded"),
                            ),
                            models.Q(("refunded__lt", models.F("amount")), ("state", "refunding")),
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
                                    models.F("applied"), "+", models.F("refunded")
                                ),
                            ),
                            _connector="OR",
                        ),
                        name="order_settled_whole",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(
                                ("booster__isnull", True), ("kind", "plan"), ("plan__isnull", False)
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
                            _connector="OR",
                        ),
                        name="order_names_what_it_buys",
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
            ],
            options={
                "indexes": [
                    models.Index(
                        condition=models.Q(("state", "intended")),
                        fields=["operator", "created_at"],
                        name="intent_unanswered",
                    )
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
                                ("ended_at__isnull", True), ("state__in", ["intended", "waiting"])
                            ),
                            models.Q(
                                ("ended_at__isnull", False),
                                ("state__in", ["succeeded", "failed", "cancelled"]),
                            ),
                            _connector="OR",
                        ),
                        name="intent_ended",
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
                ("balance", models.DecimalField(decimal_places=2, default=0, max_digits=16)),
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
            ],
            options={
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("balance__gte", 0)), name="wallet_never_negative"
                    )
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
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        fields=("subscriber_id", "currency", "key"), name="wallet_moved_once"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("amount", 0), _negated=True), ("balance__gte", 0)
                        ),
                        name="wallet_movement_of_something",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("amount__lt", 0), ("kind", "payment")),
                            models.Q(("amount__gt", 0), ("kind__in", ["top_up", "refund"])),
                            _connector="OR",
                        ),
                        name="wallet_movement_goes_its_way",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("balance__gte", models.F("amount"))),
                        name="wallet_movement_follows",
                    ),
                ],
            },
        ),
        migrations.RunSQL(KEEP_ORDERS, LOOSEN_ORDERS),
    ]
