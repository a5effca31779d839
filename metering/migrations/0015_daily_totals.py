"""Totals of local days, filled from those of their hours."""

from django.db import migrations, models

FILL = """
INSERT INTO {days}
    (subscriber_id, day, {of}, requests, uncached_input_tokens, cached_input_tokens,
     cache_write_tokens, output_tokens, reasoning_tokens, units)
SELECT h.subscriber_id, (h.hour AT TIME ZONE o.time_zone)::date, h.{of}, sum(h.requests),
       sum(h.uncached_input_tokens), sum(h.cached_input_tokens), sum(h.cache_write_tokens),
       sum(h.output_tokens), sum(h.reasoning_tokens), sum(h.units)
FROM {hours} h
JOIN subscriptions_subscriber s ON s.id = h.subscriber_id
JOIN subscriptions_operator o ON o.id = s.operator_id
GROUP BY 1, 2, 3
"""
# No fold adds to the hours between their reading and the commit.
ALONE = "LOCK TABLE metering_usagehour, metering_subjecthour IN SHARE ROW EXCLUSIVE MODE"


class Migration(migrations.Migration):
    dependencies = [
        ("metering", "0001_squashed_0014_usage_by_subject"),
    ]

    operations = [
        migrations.CreateModel(
            name="SubjectDay",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "subscriber_id",
                        "day",
                        "subject_id",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("subscriber_id", models.BigIntegerField()),
                ("day", models.DateField()),
                ("subject_id", models.BigIntegerField()),
                ("requests", models.BigIntegerField()),
                ("uncached_input_tokens", models.BigIntegerField()),
                ("cached_input_tokens", models.BigIntegerField()),
                ("cache_write_tokens", models.BigIntegerField()),
                ("output_tokens", models.BigIntegerField()),
                ("reasoning_tokens", models.BigIntegerField()),
                ("units", models.BigIntegerField()),
            ],
        ),
        migrations.CreateModel(
            name="UsageDay",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "subscriber_id",
                        "day",
                        "model",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("subscriber_id", models.BigIntegerField()),
                ("day", models.DateField()),
                ("model", models.CharField(max_length=256)),
                ("requests", models.BigIntegerField()),
                ("uncached_input_tokens", models.BigIntegerField()),
                ("cached_input_tokens", models.BigIntegerField()),
                ("cache_write_tokens", models.BigIntegerField()),
                ("output_tokens", models.BigIntegerField()),
                ("reasoning_tokens", models.BigIntegerField()),
                ("units", models.BigIntegerField()),
            ],
        ),
        migrations.RunSQL(
            [
                ALONE,
                FILL.format(days="metering_usageday", hours="metering_usagehour", of="model"),
                FILL.format(
                    days="metering_subjectday", hours="metering_subjecthour", of="subject_id"
                ),
            ],
            migrations.RunSQL.noop,
        ),
    ]
