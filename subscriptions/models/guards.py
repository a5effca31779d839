"""What stands in a subscriber's way besides its plan, and what it said about that, for good."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q

from subscriptions.fields import amount_field, units_field
from subscriptions.models.offerings import Plan
from subscriptions.models.subscribers import Subscriber


class Guard(models.Model):
    """What whoever asks for a subscriber has to look at besides the plan; no row: nothing.

    It repeats in short what other tables say, so that one look tells who needs a longer one.
    `keys`: some of its keys have a cap, may use only some models, or were revoked. From
    `night_from` until `night_until` (local) nothing is answered. `day_units` and `order_amount` are
    a minor's. `overage` is whether it agreed to pay for what the plan does not hold ("": it said
    nothing), and up to which `overage_ceiling` a period. In the period that began at `spent_in`
    overage at the prices of plans held before `spent_before` came to `spent`, and to no more: what
    is left of the ceiling is for that plan.
    Written only by subscriptions/guards.py.
    """

    subscriber = models.OneToOneField(
        Subscriber, models.PROTECT, primary_key=True, related_name="+", db_constraint=False
    )
    keys = models.BooleanField(default=False)
    night_from = models.TimeField(null=True, blank=True)
    night_until = models.TimeField(null=True, blank=True)
    minor = models.BooleanField(default=False)
    day_units = units_field(null=True, blank=True)
    order_amount = amount_field(null=True, blank=True)
    overage = models.CharField(
        max_length=8,
        choices=[("agreed", "agreed"), ("declined", "declined")],
        blank=True,
        default="",
    )
    overage_ceiling = amount_field(null=True, blank=True)
    spent = amount_field(null=True, blank=True)
    spent_in = models.DateTimeField(null=True, blank=True)
    spent_before = models.ForeignKey(
        Plan,
        models.PROTECT,
        related_name="+",
        null=True,
        blank=True,
        db_constraint=False,
        db_index=False,
    )

    objects: models.Manager[Guard]

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="guard_night_begins_and_ends",
                condition=Q(night_from__isnull=True, night_until__isnull=True)
                | Q(night_from__isnull=False, night_until__isnull=False)
                & ~Q(night_from=F("night_until")),
            ),
            models.CheckConstraint(
                name="guard_caps_are_a_minors",
                condition=Q(minor=True) | Q(day_units__isnull=True, order_amount__isnull=True),
            ),
            models.CheckConstraint(
                name="guard_caps_not_negative",
                condition=(Q(day_units__isnull=True) | Q(day_units__gte=0))
                & (Q(order_amount__isnull=True) | Q(order_amount__gte=0)),
            ),
            models.CheckConstraint(
                name="guard_ceiling_of_what_is_agreed",
                condition=Q(overage_ceiling__isnull=True)
                | Q(overage="agreed", overage_ceiling__gte=0),
            ),
            models.CheckConstraint(
                name="guard_spent_of_a_ceiling",
                condition=Q(spent__isnull=True, spent_in__isnull=True, spent_before__isnull=True)
                | Q(
                    overage_ceiling__isnull=False,
                    spent__gte=0,
                    spent_in__isnull=False,
                    spent_before__isnull=False,
                ),
            ),
        ]

    def __str__(self) -> str:
        return f"of subscriber {self.subscriber_id}"


class SafetyStep(models.Model):
    """What holds of one kind from `at` on: the newest does, and all are kept (a trigger refuses all
    else). `terms` are what was said, a consent's words among it.

    Written only by subscriptions/safety/steps.py.
    """

    class Kind(models.TextChoices):
        NIGHT_LOCK = "night_lock"
        ALERTS = "alerts"
        OVERAGE = "overage"
        MINOR = "minor"

    pk = models.CompositePrimaryKey("subscriber_id", "kind", "nr")
    subscriber = models.ForeignKey(
        Subscriber, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    kind = models.CharField(max_length=10, choices=Kind.choices)
    nr = models.PositiveIntegerField()
    terms = models.JSONField()
    at = models.DateTimeField()
    by = models.CharField(max_length=100)  # `portal`, or the name of the operator's key

    objects: models.Manager[SafetyStep]

    def __str__(self) -> str:
        return f"{self.kind} {self.nr}"


class UsageAlert(models.Model):
    """A line of a subscriber's own at which it wants to be told: when so many percent of what it
    holds are used, or so many units (thousandths) are left.

    `armed` until it is told; again once there is more. Written only by
    subscriptions/safety/alerts.py.
    """

    class Kind(models.TextChoices):
        USED_PERCENT = "percent"
        UNITS_LEFT = "left"

    pk = models.CompositePrimaryKey("subscriber_id", "kind", "value")
    subscriber = models.ForeignKey(
        Subscriber, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    kind = models.CharField(max_length=7, choices=Kind.choices)
    value = models.BigIntegerField()
    armed = models.BooleanField(default=True)
    told = models.PositiveIntegerField(default=0)  # so often by now

    objects: models.Manager[UsageAlert]

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="usage_alert_can_be_reached",
                condition=Q(kind="percent", value__gte=1, value__lte=100)
                | Q(kind="left", value__gte=0),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.value}"
