"""Coupons: what is taken off a bill, for whom, for how long, how often."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q

from subscriptions.fields import money_field
from subscriptions.models.operators import Operator
from subscriptions.models.subscribers import Subscriber


class Coupon(models.Model):
    """A promotion that subscribers redeem with its code. It says one of `percent` off, an `amount`
    off, or the `price` that what it covers costs; prices include tax.

    From its making on only `redeemed` changes (a trigger refuses all else). Written by
    `coupons.py` only.
    """

    class Covers(models.TextChoices):
        FEE = "fee"  # the fee and what an upgrade costs
        ALL = "all"  # overage, blocks and boosters too

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+")
    code = models.CharField(max_length=64)
    name = models.CharField(max_length=200)
    percent = models.DecimalField(max_digits=5, decimal_places=2, null=True, blank=True)
    amount = money_field(null=True, blank=True)
    price = money_field(null=True, blank=True)
    covers = models.CharField(max_length=3, choices=Covers.choices, default=Covers.FEE)
    # How many periods it lasts, the one it is redeemed in counted; null: as long as it is held.
    periods = models.PositiveSmallIntegerField(null=True, blank=True)
    plans = ArrayField(models.CharField(max_length=64), blank=True, default=list)  # none: all
    first_subscription = models.BooleanField(default=False)  # for who held no plan before
    redeemable_from = models.DateTimeField(null=True, blank=True)
    redeemable_until = models.DateTimeField(null=True, blank=True)  # exclusive
    max_redemptions = models.PositiveIntegerField(null=True, blank=True)
    redeemed = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField()

    objects: models.Manager[Coupon]

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["operator", "code"], name="coupon_once"),
            models.CheckConstraint(
                name="coupon_takes_off_in_one_way",
                condition=Q(
                    percent__gt=0, percent__lte=100, amount__isnull=True, price__isnull=True
                )
                | Q(percent__isnull=True, amount__gt=0, price__isnull=True)
                | Q(percent__isnull=True, amount__isnull=True, price__gte=0),
            ),
            models.CheckConstraint(
                name="coupon_lasts", condition=Q(periods__isnull=True) | Q(periods__gt=0)
            ),
            models.CheckConstraint(
                name="coupon_redeemed_within_its_limit",
                condition=Q(max_redemptions__isnull=True) | Q(redeemed__lte=F("max_redemptions")),
            ),
        ]

    def __str__(self) -> str:
        return self.code


class Redemption(models.Model):
    """A coupon that a subscriber has redeemed, once and for all, for one subscription.

    It takes off from the period that begins at `first_period` on, as many periods as it lasts.
    Never changed. Written by `coupons.py` only.
    """

    pk = models.CompositePrimaryKey("subscriber_id", "coupon_id")
    subscriber = models.ForeignKey(
        Subscriber, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    coupon = models.ForeignKey(Coupon, models.PROTECT, related_name="+", db_index=False)
    subscription_id = models.BigIntegerField()
    first_period = models.DateTimeField()
    at = models.DateTimeField()

    objects: models.Manager[Redemption]

    def __str__(self) -> str:
        return f"coupon {self.coupon_id} by {self.subscriber_id}"
