"""Money that came in, and what is done about debts."""

from decimal import Decimal

import django.contrib.postgres.fields
import django.db.models.deletion
from django.db import migrations, models

import billing.models.dunning
from billing.migrations._sql import KEEP_STEPS, LOOSEN_STEPS


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0005_documents"),
        ("subscriptions", "0015_overage_tiers"),
    ]

    operations = [
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
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("effective_from", models.DateTimeField()),
                (
                    "reminder_days",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.PositiveSmallIntegerField(),
                        default=billing.models.dunning.reminder_days,
                        size=None,
                    ),
                ),
                (
                    "late_fee_rate",
                    models.DecimalField(decimal_places=5, default=Decimal("0.003"), max_digits=6),
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
                            ("late_fee_rate__gte", 0), ("late_fee_rate__lte", Decimal("0.003"))
                        ),
                        name="dunning_late_fee_within_the_law",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("late_fee_cap__gte", 0), ("late_fee_cap__lte", 1)),
                        name="dunning_late_fee_never_above_the_debt",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("late_fee_tax_rate__gte", 0), ("late_fee_tax_rate__lt", 1)
                        ),
                        name="dunning_late_fee_tax_rate_below_one",
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
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("starts_at", models.DateTimeField()),
                ("ends_at", models.DateTimeField(blank=True, null=True)),
                ("reason", models.CharField(max_length=200)),
                ("resumed_because", models.CharField(blank=True, default="", max_length=200)),
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
                    models.UniqueConstraint(fields=("operator", "key"), name="payment_once"),
                    models.CheckConstraint(
                        condition=models.Q(("amount__gt", 0)), name="payment_of_something"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("way__regex", "^[a-z0-9_]+$")),
                        name="payment_way_is_a_word",
                    ),
                ],
            },
        ),
        migrations.RunSQL(KEEP_STEPS, LOOSEN_STEPS),
    ]
