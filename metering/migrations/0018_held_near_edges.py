"""Charges of few hold subscribers who may draw of other buckets on the days around."""

from django.db import migrations

from metering.migrations.rules import charging_few

# With more parameters they are other functions: without this there would be two of each.
_GIVEN = """
    bigint, bigint, bigint, timestamptz, timestamptz, interval, text, text, bigint, bigint,
    bigint[], bigint[], bigint[], bigint[], metering_line[]"""
DROP = f"""
DROP FUNCTION IF EXISTS metering_commit_few({_GIVEN}, subscriptions_commit[]);
DROP FUNCTION IF EXISTS metering_charge_few({_GIVEN});
"""


class Migration(migrations.Migration):
    dependencies = [
        ("metering", "0017_who_stored_a_batch"),
        ("subscriptions", "0038_held_subscribers"),
    ]

    operations = [
        migrations.RunSQL(
            [
                DROP,
                *[
                    one.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")
                    for one in charging_few.FEW
                ],
            ],
            migrations.RunSQL.noop,
        ),
    ]
