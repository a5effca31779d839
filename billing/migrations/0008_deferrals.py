"""Revenue that is earned as units burn, and the rule by which it is."""

import django.db.models.deletion
import django.db.models.expressions
from django.db import migrations, models

# Half up in whole fen: numeric division alone would round twice.
KEEP_RULE = """
ALTER TABLE billing_deferral ADD CONSTRAINT deferral_earned_as_burned
    CHECK (earned = least(div(200 * net * burned + granted, 2 * granted) / 100, net - credited));
"""
LOOSEN_RULE = "ALTER TABLE billing_deferral DROP CONSTRAINT deferral_earned_as_burned"


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0007_fapiao"),
        ("subscriptions", "0013_periods_are_closed"),
    ]

    operations = [
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
                ("credited", models.DecimalField(decimal_places=2, default=0, max_digits=16)),
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
        migrations.RunSQL(KEEP_RULE, LOOSEN_RULE),
    ]
