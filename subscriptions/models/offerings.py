"""What may be bought. A row is a version: it is never changed, a change is a further row."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models import Q

from subscriptions.fields import money_field, units_field, weight_field
from subscriptions.models.operators import Operator


class RateCard(models.Model):
    """One version of a rate card: what a token of each model and class weighs.

    Effective from an instant until the next version's; the version that holds for a record is
    that of its `occurred_at` (of two with one `effective_from`, the later version).
    """

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="rate_cards")
    code = models.CharField(max_length=64)
    version = models.PositiveIntegerField()
    effective_from = models.DateTimeField()
    created_at = models.DateTimeField()

    objects: models.Manager[RateCard]

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["operator", "code", "version"], name="rate_card_version_once"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.code} v{self.version}"


class RateCardWeight(models.Model):
    """Units per token of each exclusive class, for the models that `model` matches.

    Only `*` is special in `model`; case counts; the longest matching pattern wins.
    """

    rate_card = models.ForeignKey(RateCard, models.PROTECT, related_name="weights")
    model = models.CharField(max_length=256)
    input = weight_field()  # uncached input
    cached_input = weight_field()
    cache_write = weight_field()
    output = weight_field()  # output without reasoning
    reasoning = weight_field()

    objects: models.Manager[RateCardWeight]

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["rate_card", "model"], name="rate_card_model_pattern_once"
            ),
            models.CheckConstraint(
                name="rate_card_weights_0_to_100",
                condition=Q(
                    input__range=(0, 100),
                    cached_input__range=(0, 100),
                    cache_write__range=(0, 100),
                    output__range=(0, 100),
                    reasoning__range=(0, 100),
                ),
            ),
        ]

    def __str__(self) -> str:
        return self.model


class Plan(models.Model):  # type: ignore[django-manager-missing]  # of money models
    """One version of a plan (TM Forum: product offering). Subscriptions keep the one they bought.

    `allowance`, `cap_units` and `block_units` are thousandths of a unit; prices include tax;
    `price_per_million` is in the currency of `price`.
    """

    class Cycle(models.TextChoices):
        CALENDAR_MONTH = "calendar_month"
        SUBSCRIPTION_DAY = "subscription_day"

    class FirstMonth(models.TextChoices):
        FULL = "full"
        BY_DAY = "by_day"
        NEXT = "next"

    class Collect(models.TextChoices):
        AT_CLOSE = "at_close"
        BEFORE_PERIOD = "before_period"

    class Rollover(models.TextChoices):
        NONE = "none"
        ONE_CYCLE = "one_cycle"

    class OnExhaustion(models.TextChoices):
        STOP = "stop"
        METER = "meter"
        BLOCKS = "blocks"
        DEGRADE = "degrade"

    class TierMode(models.TextChoices):
        GRADUATED = "graduated"  # each unit costs what the tier it falls into says
        VOLUME = "volume"  # all units cost what the tier of their sum says

    class Refund(models.TextChoices):
        NONE = "none"
        UNUSED = "unused"

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="plans")
    code = models.CharField(max_length=64)
    version = models.PositiveIntegerField()
    name = models.CharField(max_length=200)
    price = money_field()
    allowance = units_field()
    rate_card = models.CharField(max_length=64)  # a card's code, not one version of it
    cycle = models.CharField(max_length=20, choices=Cycle.choices, default=Cycle.CALENDAR_MONTH)
    first_month = models.CharField(
        max_length=10, choices=FirstMonth.choices, default=FirstMonth.FULL
    )
    collect = models.CharField(max_length=16, choices=Collect.choices, default=Collect.AT_CLOSE)
    rollover = models.CharField(max_length=10, choices=Rollover.choices, default=Rollover.NONE)
    on_exhaustion = models.CharField(
        max_length=10, choices=OnExhaustion.choices, default=OnExhaustion.STOP
    )
    # What a subscriber who ends it within a period gets back: nothing, or all of the price where
    # nothing is used within 7 days and else the share of the units that are not.
    refund = models.CharField(max_length=10, choices=Refund.choices, default=Refund.NONE)
    # A trial lasts so many days instead of a cycle; then the newest version of `converts_to` goes
    # on.
    trial_days = models.PositiveSmallIntegerField(null=True, blank=True)
    converts_to = models.CharField(max_length=64, blank=True, default="")
    # The plan that keeps a paused subscription (停机保号): usually a small fee, and it `suspends`.
    pause_plan = models.CharField(max_length=64, blank=True, default="")
    # Who holds it uses nothing of its own.
    suspends = models.BooleanField(default=False)
    price_per_million: models.DecimalField[Any, Any] = models.DecimalField(
        max_digits=14, decimal_places=6, null=True, blank=True
    )
    # Where the plan has tiers, they stand in the place of `price_per_million`, in this way.
    tier_mode = models.CharField(max_length=10, choices=TierMode.choices, blank=True, default="")
    block_units = units_field(null=True, blank=True)
    block_price = money_field(null=True, blank=True, default_currency=None)
    cap = money_field(null=True, blank=True, default_currency=None)
    cap_units = units_field(null=True, blank=True)
    # What a gateway that asks is told when the units are used up, where the plan degrades.
    degrade_model = models.CharField(max_length=256, blank=True, default="")
    degrade_tokens_per_minute = models.PositiveBigIntegerField(null=True, blank=True)
    # How often and how much a subscriber may ask in a minute, and whether nobody may where that
    # cannot be told.
    requests_per_minute = models.PositiveIntegerField(null=True, blank=True)
    tokens_per_minute = models.PositiveBigIntegerField(null=True, blank=True)
    limits_fail_closed = models.BooleanField(default=False)
    # `billed` or `free` by outcome; what is not named is billed.
    outcomes = models.JSONField(default=dict)
    tax_rate: models.DecimalField[Any, Any] = models.DecimalField(
        max_digits=5, decimal_places=4, default="0.06"
    )
    # Where it is named, the rate is the one that the category has on the last day of a period;
    # `tax_rate` is that of the days before its first.
    tax_category = models.CharField(max_length=64, blank=True, default="")
    created_at = models.DateTimeField()

    objects: models.Manager[Plan]

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["operator", "code", "version"], name="plan_version_once"
            ),
            models.CheckConstraint(
                name="plan_amounts_not_negative",
                condition=Q(allowance__gte=0, price__gte=0)
                & (Q(cap__isnull=True) | Q(cap__gte=0))
                & (Q(cap_units__isnull=True) | Q(cap_units__gte=0)),
            ),
            models.CheckConstraint(
                name="plan_tax_rate_below_one",
                condition=Q(tax_rate__gte=0, tax_rate__lt=1),
            ),
            models.CheckConstraint(
                name="plan_trial_converts",
                condition=Q(trial_days__isnull=True, converts_to="")
                | Q(trial_days__gte=1, trial_days__lte=366) & ~Q(converts_to=""),
            ),
            models.CheckConstraint(
                name="plan_meter_has_a_price",
                condition=~Q(on_exhaustion="meter")
                | Q(price_per_million__isnull=False, price_per_million__gte=0, tier_mode="")
                | Q(price_per_million__isnull=True) & ~Q(tier_mode=""),
            ),
            models.CheckConstraint(
                name="plan_blocks_have_size_and_price",
                condition=~Q(on_exhaustion="blocks")
                | Q(block_units__isnull=False, block_units__gt=0)
                & Q(block_price__isnull=False, block_price__gte=0),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.code} v{self.version}"


class PlanComponent(models.Model):
    """A part of a plan's price with a tax rate of its own; the parts add up to the price."""

    plan = models.ForeignKey(Plan, models.PROTECT, related_name="components")
    position = models.PositiveSmallIntegerField()
    name = models.CharField(max_length=200)
    price = money_field()
    tax_rate: models.DecimalField[Any, Any] = models.DecimalField(max_digits=5, decimal_places=4)
    tax_category = models.CharField(max_length=64, blank=True, default="")  # as of the plan

    objects: models.Manager[PlanComponent]

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["plan", "position"], name="plan_component_once"),
            models.CheckConstraint(
                name="plan_component_sane",
                condition=Q(price__gte=0, tax_rate__gte=0, tax_rate__lt=1),
            ),
        ]

    def __str__(self) -> str:
        return self.name


class PlanTier(models.Model):
    """What units of overage cost up to a number of them, in thousandths; the last has no end."""

    plan = models.ForeignKey(Plan, models.PROTECT, related_name="tiers")
    position = models.PositiveSmallIntegerField()
    up_to = units_field(null=True, blank=True)
    price_per_million: models.DecimalField[Any, Any] = models.DecimalField(
        max_digits=14, decimal_places=6
    )

    objects: models.Manager[PlanTier]

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["plan", "position"], name="plan_tier_once"),
            models.CheckConstraint(
                name="plan_tier_sane",
                condition=Q(price_per_million__gte=0) & (Q(up_to__isnull=True) | Q(up_to__gt=0)),
            ),
        ]

    def __str__(self) -> str:
        return f"up to {self.up_to}"


class PlanWindow(models.Model):
    """At most so many units in each stretch of time: asked beside the balance, all at once.

    `5h` runs from the period's start on, or `sliding`, over the five hours up to now; a day, a week
    (from Monday) and a month are those of the operator's zone.
    """

    class Per(models.TextChoices):
        FIVE_HOURS = "5h"
        DAY = "day"
        WEEK = "week"
        MONTH = "month"

    plan = models.ForeignKey(Plan, models.PROTECT, related_name="windows")
    per = models.CharField(max_length=5, choices=Per.choices)
    sliding = models.BooleanField(default=False)
    units = units_field()

    objects: models.Manager[PlanWindow]

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["plan", "per", "sliding"], name="plan_window_of_a_kind_once"
            ),
            models.CheckConstraint(
                name="plan_window_sane",
                condition=Q(units__gte=0) & (Q(sliding=False) | Q(per="5h")),
            ),
        ]

    def __str__(self) -> str:
        return self.per


class PlanRetirement(models.Model):
    """A version that was the newest of its plan when the plan was taken off sale; never changed."""

    plan = models.OneToOneField(Plan, models.PROTECT, primary_key=True, related_name="retirement")
    retired_at = models.DateTimeField()  # the operator's time
    retired_by = models.CharField(max_length=100)
    reason = models.CharField(max_length=200)

    objects: models.Manager[PlanRetirement]

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="plan_retired_by_somebody", condition=~Q(retired_by="") & ~Q(reason="")
            ),
        ]

    def __str__(self) -> str:
        return f"{self.plan_id} since {self.retired_at}"


class Booster(models.Model):
    """One version of a top-up of units: bought once, burnt after the allowance."""

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="boosters")
    code = models.CharField(max_length=64)
    version = models.PositiveIntegerField()
    name = models.CharField(max_length=200)
    price = money_field()
    units = units_field()
    valid_days = models.PositiveIntegerField()
    created_at = models.DateTimeField()

    objects: models.Manager[Booster]

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["operator", "code", "version"], name="booster_version_once"
            ),
            models.CheckConstraint(
                name="booster_sane", condition=Q(price__gte=0, units__gt=0, valid_days__gt=0)
            ),
        ]

    def __str__(self) -> str:
        return f"{self.code} v{self.version}"
