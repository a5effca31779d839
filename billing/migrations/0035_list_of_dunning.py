"""The list of all dunning cases, the latest change first."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0034_what_is_disputed"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="dunningcase",
            index=models.Index(
                fields=["operator", "changed_at", "subscriber_id", "currency"],
                name="dunning_list",
            ),
        ),
    ]
