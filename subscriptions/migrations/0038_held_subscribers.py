"""A draw may hold subscribers before it locks buckets."""

from django.db import migrations

from subscriptions.migrations.rules import drawing

# With another number of parameters it is another function: without this there would be two.
DROP = """
DROP FUNCTION IF EXISTS subscriptions_draw(
    bigint[], bigint[], bigint[], bigint[], bigint, timestamptz, bigint[])
"""


class Migration(migrations.Migration):
    dependencies = [
        ("subscriptions", "0037_draws_of_several"),
    ]

    operations = [
        migrations.RunSQL(
            [
                DROP,
                drawing.HOLD,
                drawing.DRAW.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"),
            ],
            migrations.RunSQL.noop,
        ),
    ]
