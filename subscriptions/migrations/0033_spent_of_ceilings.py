"""What of a ceiling on overage was spent before the plan was changed inside a period."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("subscriptions", "0001_squashed_0032_safety"),
    ]

    operations = [
        migrations.AddField(
            model_name="guard",
            name="spent",
            field=models.DecimalField(blank=True, decimal_places=2, max_digits=16, null=True),
        ),
        migrations.AddField(
            model_name="guard",
            name="spent_before",
            field=models.ForeignKey(
                blank=True,
                db_constraint=False,
                db_index=False,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="subscriptions.plan",
            ),
        ),
        migrations.AddField(
            model_name="guard",
            name="spent_in",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddConstraint(
            model_name="guard",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(
                        ("spent__isnull", True),
                        ("spent_before__isnull", True),
                        ("spent_in__isnull", True),
                    ),
                    models.Q(
                        ("overage_ceiling__isnull", False),
                        ("spent__gte", 0),
                        ("spent_before__isnull", False),
                        ("spent_in__isnull", False),
                    ),
                    _connector="OR",
                ),
                name="guard_spent_of_a_ceiling",
            ),
        ),
    ]
