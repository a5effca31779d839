"""What models cost: prices that stay, each day's usage priced, and statements for good."""

import django.db.models.deletion
from django.db import migrations, models

_FOREVER = (
    "billing_costcard",
    "billing_costprice",
    "billing_settlement",
    "billing_settlementline",
)
_KEPT = ("billing_costentry", "billing_settlement", "billing_settlementline")
KEEP = [
    *(
        f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON {table} FOR EACH STATEMENT"
        " EXECUTE FUNCTION billing_refuse('never changes: write a further one')"
        for table in _FOREVER
    ),
    """
CREATE TRIGGER append_only BEFORE DELETE ON billing_costentry FOR EACH STATEMENT
    EXECUTE FUNCTION billing_refuse('never changes: write a further one');
CREATE TRIGGER settled_once BEFORE UPDATE ON billing_costentry FOR EACH ROW
    WHEN (OLD.settlement_id IS NOT NULL OR
          (OLD.id, OLD.operator_id, OLD.day, OLD.plan, OLD.gateway_id, OLD.model, OLD.price_id,
           OLD.supplier_id, OLD.requests, OLD.uncached_input_tokens, OLD.cached_input_tokens,
           OLD.cache_write_tokens, OLD.output_tokens, OLD.reasoning_tokens, OLD.units, OLD.cost)
          IS DISTINCT FROM
          (NEW.id, NEW.operator_id, NEW.day, NEW.plan, NEW.gateway_id, NEW.model, NEW.price_id,
           NEW.supplier_id, NEW.requests, NEW.uncached_input_tokens, NEW.cached_input_tokens,
           NEW.cache_write_tokens, NEW.output_tokens, NEW.reasoning_tokens, NEW.units, NEW.cost))
    EXECUTE FUNCTION billing_refuse('never changes, but for its settlement, once');
""",
    *(
        f"CREATE TRIGGER kept BEFORE TRUNCATE ON {table} FOR EACH STATEMENT"
        " EXECUTE FUNCTION billing_refuse('is kept')"
        for table in _KEPT
    ),
]
LOOSEN = [
    *(f"DROP TRIGGER kept ON {table}" for table in _KEPT),
    "DROP TRIGGER settled_once ON billing_costentry",
    *(f"DROP TRIGGER append_only ON {table}" for table in (*_FOREVER, "billing_costentry")),
]


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0003_charge_files"),
        ("subscriptions", "0015_overage_tiers"),
    ]

    operations = [
        migrations.CreateModel(
            name="CostCard",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("version", models.PositiveIntegerField()),
                ("effective_from", models.DateField()),
                ("created_at", models.DateTimeField()),
            ],
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
            name="CostPrice",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
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
        ),
        migrations.CreateModel(
            name="Settlement",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
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
            ],
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
            name="Supplier",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
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
        ),
        migrations.AddField(
            model_name="settlement",
            name="supplier",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT, related_name="+", to="billing.supplier"
            ),
        ),
        migrations.CreateModel(
            name="CostEntry",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
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
        ),
        migrations.AddField(
            model_name="costcard",
            name="supplier",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT,
                related_name="cards",
                to="billing.supplier",
            ),
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
        migrations.AddConstraint(
            model_name="costprice",
            constraint=models.UniqueConstraint(fields=("card", "model"), name="cost_price_once"),
        ),
        migrations.AddConstraint(
            model_name="costprice",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("cache_write__gte", 0),
                    ("cached_input__gte", 0),
                    ("output__gte", 0),
                    ("reasoning__gte", 0),
                    ("uncached_input__gte", 0),
                ),
                name="cost_price_not_negative",
            ),
        ),
        migrations.AddConstraint(
            model_name="supplier",
            constraint=models.UniqueConstraint(fields=("operator", "code"), name="supplier_once"),
        ),
        migrations.AddConstraint(
            model_name="supplier",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("settles_with__isnull", True),
                    models.Q(("settles_with", models.F("operator")), _negated=True),
                    _connector="OR",
                ),
                name="supplier_is_another_operator",
            ),
        ),
        migrations.AddConstraint(
            model_name="settlement",
            constraint=models.UniqueConstraint(
                fields=("operator", "sequence"), name="settlement_number_once"
            ),
        ),
        migrations.AddConstraint(
            model_name="settlement",
            constraint=models.UniqueConstraint(
                fields=("supplier", "month"), name="settlement_month_once"
            ),
        ),
        migrations.AddConstraint(
            model_name="settlement",
            constraint=models.CheckConstraint(
                condition=models.Q(("month__day", 1), ("sequence__gte", 1)),
                name="settlement_month_is_a_first",
            ),
        ),
        migrations.AddIndex(
            model_name="costentry",
            index=models.Index(fields=["operator", "day"], name="cost_entries_of_day"),
        ),
        migrations.AddIndex(
            model_name="costentry",
            index=models.Index(
                condition=models.Q(("settlement__isnull", True), ("supplier__isnull", False)),
                fields=["supplier", "day"],
                name="cost_entries_to_settle",
            ),
        ),
        migrations.AddConstraint(
            model_name="costentry",
            constraint=models.CheckConstraint(
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
            ),
        ),
        migrations.AddConstraint(
            model_name="costcard",
            constraint=models.UniqueConstraint(
                fields=("supplier", "version"), name="cost_card_version_once"
            ),
        ),
        migrations.RunSQL(KEEP, LOOSEN),
    ]
