"""Charges hold subscribers who may draw of other buckets on the days around."""

from django.db import migrations

from metering.migrations.rules import charging_few, holding

# With other parameters they are other functions: without this there would be two of each. Of these
# the first two lines are alike.
_GIVEN = """
    bigint, bigint, bigint, timestamptz, timestamptz, interval, text, text, bigint, bigint"""
_DRAWS = "bigint[], bigint[], bigint[], bigint[]"
OLD = f"""
DROP FUNCTION IF EXISTS metering_commit_few({_GIVEN}, {_DRAWS}, metering_line[],
    subscriptions_commit[]);
DROP FUNCTION IF EXISTS metering_charge_few({_GIVEN}, {_DRAWS}, metering_line[]);
DROP FUNCTION IF EXISTS metering_store_few({_GIVEN}, metering_line[]);
"""


class Migration(migrations.Migration):
    dependencies = [
        ("metering", "0017_who_stored_a_batch"),
    ]

    operations = [
        migrations.RunSQL(
            [
                OLD,
                holding.HOLD,
                *[
                    one.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")
                    for one in charging_few.FEW
                ],
            ],
            migrations.RunSQL.noop,
        ),
    ]
