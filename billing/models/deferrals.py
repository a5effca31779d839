"""What was paid for units that are not burned yet: revenue that is not earned yet."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q

from subscriptions.fields import amount_field, tax_rate_field, units_field
from subscriptions.models import Operator


class Deferral(models.Model):
    """The net price of units that an invoice sold in advance, and what became of it.

    `earned` is the share of it that `burned` is of `granted`, rounded half up, but no more than
    credit notes have left of it (the database keeps that rule); once the bucket has `ended`, for
    late usage too, what is not earned is `broken`: breakage. What is left is owed in units, and
    stands on the account `deferred:<code>:<tax rate>`. Written by billing/deferral.py only.
    """

    pk = models.CompositePrimaryKey("subscriber_id", "bucket_id")
    subscriber_id = models.BigIntegerField()
    bucket_id = models.BigIntegerField()
    operator = models.ForeignKey(
        Operator, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    invoice_id = models.BigIntegerField()  # that sold them
    code = models.CharField(max_length=80)  # what its accounts are named by
    tax_rate = tax_rate_field()
    currency = models.CharField(max_length=3)
    net = amount_field()
    credited = amount_field(default=0)
    earned = amount_field(default=0)
    broken = amount_field(default=0)
    granted = units_field()
    burned = units_field(default=0)  # by usage that is not void
    ended = models.BooleanField(default=False)
    looks = models.PositiveIntegerField(default=0)  # that found it changed

    objects: models.Manager[Deferral]

    class Meta:
        indexes = [
            # What every day is looked through; what has ended leaves it.
            models.Index(
                fields=["operator", "subscriber_id", "bucket_id"],
                name="deferral_open",
                condition=Q(ended=False),
            ),
        ]
        constraints = [
            models.CheckConstraint(
                name="deferral_within_net",
                condition=Q(credited__gte=0, earned__gte=0, broken__gte=0)
                & Q(net__gte=F("credited") + F("earned") + F("broken")),
            ),
            models.CheckConstraint(
                name="deferral_burned_within_granted",
                condition=Q(granted__gt=0, burned__gte=0, burned__lte=F("granted")),
            ),
            models.CheckConstraint(
                name="deferral_broken_when_ended",
                condition=Q(ended=False, broken=0)
                | Q(ended=True, net=F("credited") + F("earned") + F("broken")),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.net} for bucket {self.bucket_id}"


class DeferralSweep(models.Model):
    """How far an operator's deferrals are looked through.

    `swept_at` is when all were, last. Journal batches of adjustments from `batch_from` on may not
    have been seen yet; a later sweep takes `batch_next`. Written by billing/deferral.py only.
    """

    operator = models.OneToOneField(
        Operator, models.PROTECT, related_name="+", primary_key=True, db_constraint=False
    )
    swept_at = models.DateTimeField()
    batch_from = models.BigIntegerField()
    batch_next = models.BigIntegerField()

    objects: models.Manager[DeferralSweep]

    def __str__(self) -> str:
        return f"deferrals at {self.swept_at}"
