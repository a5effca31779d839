"""Usage adjusted after it was charged: the decisions, and the rows against records."""

import django.db.models.deletion
from django.db import migrations, models

from metering.migrations._sql import CREATE_ADJUSTED, DROP_ADJUSTED


class Migration(migrations.Migration):
    dependencies = [
        ("metering", "0004_few_in_one_message"),
        ("subscriptions", "0009_journal_takes_back"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL(CREATE_ADJUSTED, DROP_ADJUSTED)],
            state_operations=[
                migrations.CreateModel(
                    name="AdjustedRecord",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "subscriber_id",
                                "gateway_id",
                                "source",
                                "record_id",
                                "occurred_at",
                                "nr",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        ("subscriber_id", models.BigIntegerField()),
                        ("gateway_id", models.BigIntegerField()),
                        ("source", models.CharField(max_length=256)),
                        ("record_id", models.CharField(max_length=512)),
                        ("occurred_at", models.DateTimeField()),
                        ("nr", models.IntegerField()),
                        ("batch_id", models.BigIntegerField()),
                        ("requests", models.SmallIntegerField()),
                        ("weight_id", models.BigIntegerField()),
                        ("units", models.BigIntegerField()),
                        ("uncached_input_tokens", models.IntegerField()),
                        ("cached_input_tokens", models.IntegerField()),
                        ("cache_write_tokens", models.IntegerField()),
                        ("output_tokens", models.IntegerField()),
                        ("reasoning_tokens", models.IntegerField()),
                        ("model", models.CharField(max_length=256)),
                        ("outcome", models.CharField(max_length=32)),
                        ("draws", models.JSONField()),
                    ],
                ),
            ],
        ),
        migrations.CreateModel(
            name="Adjustment",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "subscriber_id",
                        "batch_id",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("subscriber_id", models.BigIntegerField()),
                ("batch_id", models.BigIntegerField()),
                (
                    "kind",
                    models.PositiveSmallIntegerField(
                        choices=[(1, "Void"), (2, "Correction"), (3, "Rerating")]
                    ),
                ),
                ("reason", models.CharField(max_length=500)),
                ("made_by", models.CharField(max_length=100)),
                ("made_at", models.DateTimeField()),
                ("records", models.IntegerField()),
                ("units", models.BigIntegerField()),
                ("occurred_from", models.DateTimeField()),
                ("occurred_to", models.DateTimeField()),
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
                "indexes": [models.Index(fields=["operator", "batch_id"], name="adjustment_list")],
            },
        ),
    ]
