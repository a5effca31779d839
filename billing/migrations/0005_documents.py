"""How operators present themselves, and the documents that were made, which never change."""

import django.db.models.deletion
from django.db import migrations, models

# PDF is packed already; a whole value is read, never a part.
KEEP = """
ALTER TABLE billing_document ALTER COLUMN content SET STORAGE EXTERNAL;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON billing_document FOR EACH STATEMENT
    EXECUTE FUNCTION billing_refuse('a document that was made stays as it is');
CREATE TRIGGER kept BEFORE TRUNCATE ON billing_document FOR EACH STATEMENT
    EXECUTE FUNCTION billing_refuse('is kept');
"""
LOOSEN = """
DROP TRIGGER kept ON billing_document;
DROP TRIGGER append_only ON billing_document;
"""


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0004_costs"),
        ("subscriptions", "0015_overage_tiers"),
    ]

    operations = [
        migrations.CreateModel(
            name="Document",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "subscriber_id",
                        "invoice_id",
                        "language",
                        "usage",
                        "void",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("subscriber_id", models.BigIntegerField()),
                ("invoice_id", models.BigIntegerField()),
                ("language", models.CharField(max_length=7)),
                ("usage", models.BooleanField()),
                ("void", models.BooleanField()),
                ("made_at", models.DateTimeField()),
                ("digest", models.BinaryField(max_length=32)),
                ("content", models.BinaryField()),
            ],
            options={
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            (
                                "digest",
                                models.Func(
                                    models.F("content"),
                                    function="sha256",
                                    output_field=models.BinaryField(),
                                ),
                            )
                        ),
                        name="document_is_what_its_digest_says",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("language__in", ("zh-Hans", "en"))),
                        name="document_in_a_language_there_is",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Letterhead",
            fields=[
                (
                    "operator",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT,
                        primary_key=True,
                        related_name="letterhead",
                        serialize=False,
                        to="subscriptions.operator",
                    ),
                ),
                ("name", models.CharField(max_length=200)),
                ("address", models.CharField(blank=True, default="", max_length=200)),
                ("phone", models.CharField(blank=True, default="", max_length=40)),
                ("tax_id", models.CharField(blank=True, default="", max_length=40)),
                ("bank", models.CharField(blank=True, default="", max_length=100)),
                ("bank_account", models.CharField(blank=True, default="", max_length=60)),
                ("colour", models.CharField(max_length=7)),
                ("payment_url", models.CharField(blank=True, default="", max_length=200)),
                ("logo", models.BinaryField(default=b"")),
                ("ahead", models.CharField(blank=True, default="", max_length=7)),
                ("ahead_year", models.PositiveSmallIntegerField(default=0)),
                ("ahead_nr", models.PositiveBigIntegerField(default=0)),
            ],
            options={
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("colour__regex", "^#[0-9A-Fa-f]{6}$")),
                        name="letterhead_colour_is_six_digits",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("ahead__in", ("", "zh-Hans", "en"))),
                        name="letterhead_ahead_is_a_language",
                    ),
                ],
            },
        ),
        migrations.RunSQL(KEEP, LOOSEN),
    ]
