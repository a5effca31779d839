"""A draw is told which buckets it has to empty, so that one demand may be drawn of several."""

from django.db import migrations

from subscriptions.migrations.rules import drawing

# With another number of parameters it is another function: without this there would be two.
DROP = """
DROP FUNCTION IF EXISTS subscriptions_draw(
    bigint[], bigint[], bigint[], bigint[], bigint, timestamptz)
"""


class Migration(migrations.Migration):
    dependencies = [
        ("subscriptions", "0036_who_was_emptied"),
    ]

    operations = [
        migrations.RunSQL(
            [DROP, drawing.DRAW.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")],
            migrations.RunSQL.noop,
        ),
    ]
