"""What was changed in the middle of a period: the facts that billing rates. Append-only."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q

from subscriptions.fields import units_field
from subscriptions.models.offerings import Plan
from subscriptions.models.operators import Operator
from subscriptions.models.subscribers import Subscriber


class Upgrade(models.Model):
    """A dearer plan that holds from `at` to the end of the period that was running, and on.

    The period keeps the plan it was opened with, whose fee it owes; `days` / 30 of what the plans
    differ by is owed besides, and `units` of it were granted. The upgrade with the highest `nr`
    before an instant says by which plan usage of that instant goes. Written by `lifecycle.py` only.
    """

    DAYS = 30  # of a period's price and allowance

    pk = models.CompositePrimaryKey("subscriber_id", "subscription_id", "nr")
    subscriber = models.ForeignKey(
        Subscriber, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    subscription_id = models.BigIntegerField()
    nr = models.PositiveSmallIntegerField()  # 1, 2, … of the subscription's
    operator = models.ForeignKey(
        Operator, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    at = models.DateTimeField()
    period_start = models.DateTimeField()
    period_end = models.DateTimeField()
    old_plan = models.ForeignKey(
        Plan, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    new_plan = models.ForeignKey(
        Plan, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    days = models.PositiveSmallIntegerField()  # left, a part day counted as one, at most 30
    units = units_field()  # granted beside the old allowance, in thousandths

    objects: models.Manager[Upgrade]

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="upgrade_days_and_units_in_range",
                condition=Q(days__gte=1, days__lte=30, units__gte=0),
            ),
            models.CheckConstraint(
                name="upgrade_within_its_period",
                condition=Q(at__gte=F("period_start"), at__lt=F("period_end")),
            ),
            models.CheckConstraint(
                name="upgrade_to_another_plan", condition=~Q(old_plan=F("new_plan"))
            ),
        ]

    def __str__(self) -> str:
        return f"upgrade {self.nr} of subscription {self.subscription_id}"


class Ending(models.Model):
    """A subscription that ended in the middle of a period, and what was left of the period.

    `granted` are the units of the period's allowances, `unused` what of them nobody had used or
    held: they were withdrawn. `refund` says which share of what the period cost is owed back: all
    of it, `unused` / `granted`, or nothing. Written by `lifecycle.py` only.
    """

    class Refund(models.TextChoices):
        NONE = "none"
        FULL = "full"
        UNUSED = "unused"

    pk = models.CompositePrimaryKey("subscriber_id", "subscription_id")
    subscriber = models.ForeignKey(
        Subscriber, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    subscription_id = models.BigIntegerField()
    operator = models.ForeignKey(
        Operator, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    at = models.DateTimeField()
    plan = models.ForeignKey(  # that was held at the end
        Plan, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    period_start = models.DateTimeField()
    period_end = models.DateTimeField()  # as it would have been
    granted = units_field()
    unused = units_field()
    refund = models.CharField(max_length=10, choices=Refund.choices)
    reason = models.CharField(max_length=200)

    objects: models.Manager[Ending]

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="ending_unused_within_granted",
                condition=Q(unused__gte=0, unused__lte=F("granted")),
            ),
            models.CheckConstraint(
                name="ending_within_its_period",
                condition=Q(at__gte=F("period_start"), at__lt=F("period_end")),
            ),
            models.CheckConstraint(
                name="ending_refund_of_something",
                condition=~Q(refund="unused") | Q(granted__gt=0),
            ),
        ]

    def __str__(self) -> str:
        return f"end of subscription {self.subscription_id}"
