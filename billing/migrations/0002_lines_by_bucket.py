"""What of a bucket is billed is found by its index."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0001_what_is_owed"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="invoiceline",
            index=models.Index(
                condition=models.Q(("bucket_id__isnull", False)),
                fields=["subscriber_id", "bucket_id"],
                name="invoice_line_of_bucket",
            ),
        ),
    ]
