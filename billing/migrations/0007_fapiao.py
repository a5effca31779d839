"""e-fapiao: what was asked of the tax platform stays as it was asked."""

import django.db.models.deletion
import django.db.models.expressions
from django.db import migrations, models

_ASKED = [
    "operator_id",
    "request_id",
    "subscriber_id",
    "invoice_id",
    "kind",
    "original_id",
    "reason",
    "credit_note_id",
    "counted",
    "seller",
    "buyer_is_person",
    "buyer_name",
    "buyer_tax_id",
    "lines",
    "currency",
    "net",
    "tax",
    "gross",
    "capitals",
    "requested_at",
]
KEEP = f"""
CREATE TRIGGER asked_stays BEFORE UPDATE ON billing_fapiaorequest FOR EACH ROW
    WHEN (({", ".join(f"OLD.{name}" for name in _ASKED)}) IS DISTINCT FROM
          ({", ".join(f"NEW.{name}" for name in _ASKED)})
          OR OLD.number IS NOT NULL AND NEW.number IS DISTINCT FROM OLD.number)
    EXECUTE FUNCTION billing_refuse('what was asked never changes: ask for a red one');
CREATE TRIGGER asked_is_kept BEFORE DELETE ON billing_fapiaorequest FOR EACH STATEMENT
    EXECUTE FUNCTION billing_refuse('is kept');
"""
LOOSEN = """
DROP TRIGGER asked_is_kept ON billing_fapiaorequest;
DROP TRIGGER asked_stays ON billing_fapiaorequest;
"""


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0006_payments_and_dunning"),
        ("subscriptions", "0017_trials_and_pauses"),
    ]

    operations = [
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
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("request_id", models.CharField(max_length=64)),
                ("subscriber_id", models.BigIntegerField()),
                ("invoice_id", models.BigIntegerField()),
                (
                    "kind",
                    models.CharField(choices=[("01", "Special"), ("02", "Ordinary")], max_length=2),
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
                            models.Q(("state__in", ["failed", "red_issued"]), _negated=True),
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
                            models.Q(("state__in", ["red_requested", "red_issued"]), _negated=True),
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
        migrations.RunSQL(KEEP, LOOSEN),
    ]
