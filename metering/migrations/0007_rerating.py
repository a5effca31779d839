"""Re-ratings, and what each changes for each subscriber."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("metering", "0006_adjustments"),
        ("subscriptions", "0009_journal_takes_back"),
    ]

    operations = [
        migrations.CreateModel(
            name="Rerating",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("rate_card", models.CharField(max_length=64)),
                ("replaces", models.CharField(blank=True, default="", max_length=64)),
                ("since", models.DateTimeField()),
                ("until", models.DateTimeField()),
                ("card_stamp", models.BigIntegerField()),
                ("reason", models.CharField(max_length=500)),
                ("made_by", models.CharField(max_length=100)),
                ("made_at", models.DateTimeField()),
                ("applied_at", models.DateTimeField(null=True)),
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
            name="ReratingShare",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "subscriber_id",
                        "run_id",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("subscriber_id", models.BigIntegerField()),
                ("run_id", models.BigIntegerField()),
                ("records", models.IntegerField()),
                ("units_before", models.BigIntegerField()),
                ("units_after", models.BigIntegerField()),
                ("digest", models.BinaryField(max_length=32)),
                ("batch_id", models.BigIntegerField(null=True)),
            ],
            options={
                "indexes": [
                    models.Index(fields=["run_id", "subscriber_id"], name="rerating_shares")
                ],
            },
        ),
    ]
