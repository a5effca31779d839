"""A draw writes its journal before it locks buckets, says whose bucket was not as expected, and
calls a bucket low in its last sixteenth."""

from django.db import migrations

from subscriptions.migrations.rules import drawing


class Migration(migrations.Migration):
    dependencies = [
        ("subscriptions", "0034_webhooks_by_message"),
    ]

    operations = [
        migrations.RunSQL(
            drawing.DRAW.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"),
            migrations.RunSQL.noop,
        ),
    ]
