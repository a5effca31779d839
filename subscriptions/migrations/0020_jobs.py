"""How jobs fare."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("subscriptions", "0019_periods_paid_before"),
    ]

    operations = [
        migrations.CreateModel(
            name="Job",
            fields=[
                ("name", models.CharField(max_length=200, primary_key=True, serialize=False)),
                ("runs", models.BigIntegerField()),
                ("failures", models.BigIntegerField()),
                ("ended_at", models.DateTimeField()),
                ("succeeded_at", models.DateTimeField(null=True)),
                ("failed_at", models.DateTimeField(null=True)),
                ("seconds", models.FloatField()),
                ("slowest_seconds", models.FloatField()),
                ("error", models.CharField(blank=True, default="", max_length=300)),
            ],
        ),
    ]
