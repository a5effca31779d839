"""Accounts at payment providers, their notices, the money they took, and what is unclear of it."""

import django.db.models.deletion
from django.db import migrations, models

from billing.migrations._providers_sql import KEEP_PROVIDERS, LOOSEN_PROVIDERS


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0015_days_in_figures"),
        ("subscriptions", "0019_periods_paid_before"),
    ]

    operations = [
        migrations.CreateModel(
            name="ProviderEvent",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
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
            ],
        ),
        migrations.CreateModel(
            name="ProviderPayment",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
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
            ],
        ),
        migrations.CreateModel(
            name="ProviderSecret",
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
                        choices=[("api", "Api"), ("webhook", "Webhook")], max_length=7
                    ),
                ),
                ("sealed", models.TextField()),
                ("hint", models.CharField(blank=True, default="", max_length=4)),
                ("valid_from", models.DateTimeField()),
                ("valid_until", models.DateTimeField(blank=True, null=True)),
            ],
        ),
        migrations.AddField(
            model_name="paymentintent",
            name="method",
            field=models.CharField(blank=True, default="", max_length=255),
        ),
        migrations.AddField(
            model_name="paymentintent",
            name="recall_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="paymentintent",
            name="return_url",
            field=models.CharField(blank=True, default="", max_length=2000),
        ),
        migrations.CreateModel(
            name="PaymentTask",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
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
                        choices=[("wallet", "Wallet"), ("refund", "Refund"), ("note", "Note")],
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
            ],
        ),
        migrations.CreateModel(
            name="ProviderAccount",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "provider",
                    models.CharField(
                        choices=[("stripe", "Stripe"), ("sandbox", "Sandbox")], max_length=16
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
            ],
        ),
        migrations.AddField(
            model_name="paymentintent",
            name="account",
            field=models.ForeignKey(
                blank=True,
                db_index=False,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="billing.provideraccount",
            ),
        ),
        migrations.AddIndex(
            model_name="paymentintent",
            index=models.Index(
                condition=models.Q(("recall_at__isnull", False)),
                fields=["operator", "recall_at"],
                name="intent_recall_queue",
            ),
        ),
        migrations.AddConstraint(
            model_name="paymentintent",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("recall_at__isnull", True),
                    models.Q(("account__isnull", False), ("ended_at__isnull", False)),
                    _connector="OR",
                ),
                name="intent_recalled_when_ended",
            ),
        ),
        migrations.AddField(
            model_name="providerevent",
            name="account",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="events",
                to="billing.provideraccount",
            ),
        ),
        migrations.AddField(
            model_name="providerevent",
            name="operator",
            field=models.ForeignKey(
                db_constraint=False,
                db_index=False,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="subscriptions.operator",
            ),
        ),
        migrations.AddField(
            model_name="paymenttask",
            name="event",
            field=models.OneToOneField(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="task",
                to="billing.providerevent",
            ),
        ),
        migrations.AddField(
            model_name="providerpayment",
            name="account",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="payments",
                to="billing.provideraccount",
            ),
        ),
        migrations.AddField(
            model_name="providerpayment",
            name="operator",
            field=models.ForeignKey(
                db_constraint=False,
                db_index=False,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="subscriptions.operator",
            ),
        ),
        migrations.AddField(
            model_name="paymenttask",
            name="payment",
            field=models.OneToOneField(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="task",
                to="billing.providerpayment",
            ),
        ),
        migrations.AddField(
            model_name="providersecret",
            name="account",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT,
                related_name="secrets",
                to="billing.provideraccount",
            ),
        ),
        migrations.AddConstraint(
            model_name="provideraccount",
            constraint=models.UniqueConstraint(
                condition=models.Q(("ended_at__isnull", True)),
                fields=("operator", "provider"),
                name="provider_account_one_at_a_time",
            ),
        ),
        migrations.AddConstraint(
            model_name="provideraccount",
            constraint=models.CheckConstraint(
                condition=models.Q(("live", True), ("provider", "sandbox"), _negated=True),
                name="provider_account_sandbox_is_no_money",
            ),
        ),
        migrations.AddIndex(
            model_name="providerevent",
            index=models.Index(
                condition=models.Q(("next_try_at__isnull", False)),
                fields=["operator", "next_try_at"],
                name="provider_event_queue",
            ),
        ),
        migrations.AddConstraint(
            model_name="providerevent",
            constraint=models.UniqueConstraint(
                fields=("account", "event_id"), name="provider_event_once"
            ),
        ),
        migrations.AddConstraint(
            model_name="providerevent",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(
                        ("ended_at__isnull", True), ("next_try_at__isnull", False), ("state", "new")
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
        ),
        migrations.AddIndex(
            model_name="providerpayment",
            index=models.Index(fields=["operator", "at"], name="provider_payment_list"),
        ),
        migrations.AddConstraint(
            model_name="providerpayment",
            constraint=models.UniqueConstraint(
                fields=("account", "reference"), name="provider_payment_once"
            ),
        ),
        migrations.AddConstraint(
            model_name="providerpayment",
            constraint=models.UniqueConstraint(
                condition=models.Q(("became", "granted")),
                fields=("subscriber_id", "order_id"),
                name="provider_payment_grants_once",
            ),
        ),
        migrations.AddConstraint(
            model_name="providerpayment",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("became__in", ["granted", "wallet"]), _negated=True),
                    models.Q(("amount__gt", 0), ("subscriber_id__isnull", False)),
                    _connector="OR",
                ),
                name="provider_payment_of_somebody",
            ),
        ),
        migrations.AddConstraint(
            model_name="providerpayment",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("became", "granted"), _negated=True),
                    ("order_id__isnull", False),
                    _connector="OR",
                ),
                name="provider_payment_grants_an_order",
            ),
        ),
        migrations.AddIndex(
            model_name="paymenttask",
            index=models.Index(fields=["operator", "id"], name="payment_task_list"),
        ),
        migrations.AddConstraint(
            model_name="paymenttask",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("action", ""), ("resolved_at__isnull", True), ("state", "open")),
                    models.Q(
                        ("action", "refund"), ("resolved_at__isnull", True), ("state", "returning")
                    ),
                    models.Q(
                        ("resolved_at__isnull", False),
                        ("state", "resolved"),
                        models.Q(("action", ""), _negated=True),
                    ),
                    _connector="OR",
                ),
                name="payment_task_resolved",
            ),
        ),
        migrations.AddConstraint(
            model_name="providersecret",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("valid_until__isnull", True),
                    ("valid_until__gte", models.F("valid_from")),
                    _connector="OR",
                ),
                name="provider_secret_valid_for_a_time",
            ),
        ),
        migrations.RunSQL(KEEP_PROVIDERS, LOOSEN_PROVIDERS),
    ]
