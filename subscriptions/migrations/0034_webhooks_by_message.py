"""A delivery is found by the id that its receiver knows."""

from django.db import migrations, models

from subscriptions.models.webhooks import MessageDigest


class Migration(migrations.Migration):
    dependencies = [
        ("subscriptions", "0033_spent_of_ceilings"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="webhookdelivery",
            index=models.Index(MessageDigest(), name="webhook_message"),
        ),
    ]
