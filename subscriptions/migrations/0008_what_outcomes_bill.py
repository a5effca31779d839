"""What a plan bills of calls that did not simply end well: versions sold before bill everything."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("subscriptions", "0007_slices"),
    ]

    operations = [
        migrations.AddField(
            model_name="plan",
            name="outcomes",
            field=models.JSONField(default=dict),
        ),
    ]
