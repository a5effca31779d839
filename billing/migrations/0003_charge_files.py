"""Files for the carrier's billing: what each said stays as it was said."""

import django.db.models.deletion
import django.db.models.expressions
from django.db import migrations, models

_TABLES = ("billing_chargefile", "billing_chargeline")
KEEP = [
    *(
        f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON {table} FOR EACH STATEMENT"
        " EXECUTE FUNCTION billing_refuse('was told to the carrier: it stays')"
        for table in _TABLES
    ),
    *(
        f"CREATE TRIGGER kept BEFORE TRUNCATE ON {table} FOR EACH STATEMENT"
        " EXECUTE FUNCTION billing_refuse('is kept')"
        for table in _TABLES
    ),
]
LOOSEN = [
    f"DROP TRIGGER {name} ON {table}" for table in _TABLES for name in ("append_only", "kept")
]


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0002_lines_by_bucket"),
        ("subscriptions", "0013_periods_are_closed"),
    ]

    operations = [
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
                        fields=("operator_id", "sequence", "nr"), name="charge_line_in_its_place"
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
        migrations.RunSQL(KEEP, LOOSEN),
    ]
