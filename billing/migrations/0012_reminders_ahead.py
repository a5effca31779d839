"""Reminders before a due date: days below 0 of a policy, and how far each was looked at."""

import django.contrib.postgres.fields
import django.db.models.deletion
from django.db import migrations, models

import billing.models.dunning


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0011_corrections"),
        ("subscriptions", "0018_tax_rates_by_date"),
    ]

    operations = [
        migrations.CreateModel(
            name="ReminderCursor",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "operator_id",
                        "days",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("days", models.PositiveSmallIntegerField()),
                ("year", models.PositiveSmallIntegerField()),
                ("nr", models.PositiveBigIntegerField()),
                (
                    "operator",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="subscriptions.operator",
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("days__gte", 1)), name="reminder_ahead_of_its_date"
                    )
                ],
            },
        ),
        migrations.AlterField(
            model_name="dunningpolicy",
            name="reminder_days",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.SmallIntegerField(),
                default=billing.models.dunning.reminder_days,
                size=None,
            ),
        ),
        migrations.AddConstraint(
            model_name="dunningpolicy",
            constraint=models.CheckConstraint(
                condition=models.Q(("reminder_days__contains", [0]), _negated=True),
                name="dunning_no_reminder_on_the_due_date",
            ),
        ),
    ]
