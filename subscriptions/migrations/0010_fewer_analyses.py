"""Statistics of buckets are of who holds what; what a charge writes changes none of them."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("subscriptions", "0009_journal_takes_back")]

    operations = [
        migrations.RunSQL(
            "ALTER TABLE subscriptions_bucket SET (autovacuum_analyze_scale_factor = 5)",
            "ALTER TABLE subscriptions_bucket SET (autovacuum_analyze_scale_factor = 0.2)",
        )
    ]
