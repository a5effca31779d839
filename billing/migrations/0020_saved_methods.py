"""Saved methods; after its end an attempt may get its name at the provider, and be recalled."""

import django.db.models.deletion
from django.db import migrations, models

from billing.migrations._providers_sql import INTENTS

_INTENTS = """
DROP TRIGGER what_was_tried_stays ON billing_paymentintent;
CREATE TRIGGER what_was_tried_stays BEFORE UPDATE ON billing_paymentintent FOR EACH ROW
    WHEN (OLD.ended_at IS NOT NULL AND
          ((OLD.state, OLD.action, OLD.reason, OLD.ended_at)
           IS DISTINCT FROM (NEW.state, NEW.action, NEW.reason, NEW.ended_at)
           OR OLD.reference NOT IN ('', NEW.reference))
          OR (OLD.way, OLD.account_id, OLD.method, OLD.return_url, OLD.key, OLD.currency,
              OLD.amount, OLD.created_at)
          IS DISTINCT FROM
          (NEW.way, NEW.account_id, NEW.method, NEW.return_url, NEW.key, NEW.currency,
           NEW.amount, NEW.created_at))
    EXECUTE FUNCTION billing_refuse('an attempt that has ended never changes');
"""
_KEEP = [
    _INTENTS,
    "CREATE TRIGGER kept_for_good BEFORE DELETE ON billing_paymentmethod FOR EACH STATEMENT"
    " EXECUTE FUNCTION billing_refuse('is never deleted: remove it')",
    "CREATE TRIGGER kept BEFORE TRUNCATE ON billing_paymentmethod FOR EACH STATEMENT"
    " EXECUTE FUNCTION billing_refuse('is kept')",
]
_LOOSEN = [
    "DROP TRIGGER kept ON billing_paymentmethod",
    "DROP TRIGGER kept_for_good ON billing_paymentmethod",
    INTENTS,
]


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0019_top_ups_and_holds"),
        ("subscriptions", "0021_users"),
    ]

    operations = [
        migrations.AlterField(
            model_name="paymenttask",
            name="payment",
            field=models.OneToOneField(
                blank=True,
                db_constraint=False,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="task",
                to="billing.providerpayment",
            ),
        ),
        migrations.CreateModel(
            name="PaymentMethod",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("subscriber_id", models.BigIntegerField()),
                ("key", models.CharField(max_length=64)),
                (
                    "state",
                    models.CharField(
                        choices=[("asked", "Asked"), ("saved", "Saved"), ("removed", "Removed")],
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
                    models.Index(fields=["subscriber_id", "id"], name="payment_method_list"),
                    models.Index(
                        condition=models.Q(
                            models.Q(("described", False), ("state", "saved")),
                            models.Q(("forgotten", False), ("state", "removed")),
                            _connector="OR",
                        ),
                        fields=["operator", "id"],
                        name="payment_method_queue",
                    ),
                ],
                "constraints": [
                    models.UniqueConstraint(fields=("account", "key"), name="payment_method_once"),
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
        migrations.RunSQL(_KEEP, _LOOSEN),
    ]
