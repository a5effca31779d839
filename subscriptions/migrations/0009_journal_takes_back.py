"""Two more kinds of movement; the database holds them already."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("subscriptions", "0008_what_outcomes_bill"),
    ]

    operations = [
        migrations.AlterField(
            model_name="bucketentry",
            name="kind",
            field=models.PositiveSmallIntegerField(
                choices=[
                    (1, "Grant"),
                    (2, "Usage"),
                    (3, "Rollover"),
                    (4, "Withdrawal"),
                    (5, "Reversal"),
                    (6, "Lapse"),
                ]
            ),
        ),
    ]
