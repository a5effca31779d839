from django.db import migrations, models

from billing.migrations.rules.refunds import DISPUTES_HOLD_AS_IS, DISPUTES_HOLD_MORE


class Migration(migrations.Migration):
    dependencies = [
        ("billing", "0001_squashed_0033_prices_and_pauses"),
        ("subscriptions", "0033_spent_of_ceilings"),
    ]

    operations = [
        migrations.RemoveConstraint(
            model_name="dunningstop",
            name="dunning_stopped_once_at_a_time",
        ),
        migrations.AddField(
            model_name="dunningstop",
            name="invoice_id",
            field=models.BigIntegerField(blank=True, null=True),
        ),
        migrations.AddConstraint(
            model_name="dunningstop",
            constraint=models.UniqueConstraint(
                condition=models.Q(("ends_at__isnull", True)),
                fields=("operator", "subscriber", "invoice_id"),
                name="dunning_stopped_once_at_a_time",
                nulls_distinct=False,
            ),
        ),
        migrations.AddConstraint(
            model_name="dunningstop",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("invoice_id__isnull", True), ("subscriber__isnull", False), _connector="OR"
                ),
                name="dunning_stop_of_somebodys_invoice",
            ),
        ),
        migrations.RunSQL(DISPUTES_HOLD_MORE, DISPUTES_HOLD_AS_IS),
    ]
