"""A draw names whose bucket was not as expected inside a savepoint, too, and calls a bucket low in
its last eighth."""

from django.db import migrations

from subscriptions.migrations.rules import drawing


class Migration(migrations.Migration):
    dependencies = [
        ("subscriptions", "0035_journal_before_buckets"),
    ]

    operations = [
        migrations.RunSQL(
            drawing.DRAW.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"),
            migrations.RunSQL.noop,
        ),
    ]
