"""What looks wrong about a subscriber, and what people made of it."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from subscriptions.fields import units_field
from subscriptions.models import Operator, Subscriber


class AnomalyPolicy(models.Model):
    """From what on an operator wants to see a case; without a row: these defaults.

    Written by billing/anomalies/cases.py only, as cases and their steps are.
    """

    operator = models.OneToOneField(
        Operator, models.PROTECT, primary_key=True, related_name="anomaly_policy"
    )
    # A bill above so many times the mean of the three months before.
    bill_factor = models.DecimalField(max_digits=6, decimal_places=2, default=5)
    # Units of an hour above so many times the subscriber's own usual hour, and above a floor.
    velocity_factor = models.DecimalField(max_digits=6, decimal_places=2, default=10)
    velocity_units = units_field(default=1_000_000_000)
    # Networks, and end users, that one subject's calls of a day came from.
    networks = models.PositiveIntegerField(default=20)
    end_users = models.PositiveIntegerField(default=50)
    # Hours with usage on each of so many days: nobody sleeps.
    busy_hours = models.PositiveSmallIntegerField(default=23)
    busy_days = models.PositiveSmallIntegerField(default=3)
    changed_by = models.CharField(max_length=100)
    changed_at = models.DateTimeField()

    objects: models.Manager[AnomalyPolicy]

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="anomaly_policy_sane",
                condition=Q(
                    bill_factor__gt=1,
                    velocity_factor__gt=1,
                    velocity_units__gte=0,
                    networks__gte=2,
                    end_users__gte=2,
                    busy_hours__gte=1,
                    busy_hours__lte=24,
                    busy_days__gte=1,
                    busy_days__lte=31,
                ),
            ),
        ]

    def __str__(self) -> str:
        return f"bills above {self.bill_factor} times"


class AnomalyCase(models.Model):
    """Something about a subscriber that somebody has to look at, with its evidence.

    One open case of a kind and subscriber: seen again, it is the same one. `key` names what was
    seen (a bill, an hour, a day), so that what was looked at does not come again.
    """

    class Kind(models.TextChoices):
        BILL = "bill"
        VELOCITY = "velocity"
        NETWORKS = "networks"
        END_USERS = "end_users"
        ALWAYS_BUSY = "always_busy"

    class State(models.TextChoices):
        OPEN = "open"
        FROZEN = "frozen"  # the line uses nothing of its own meanwhile
        RELEASED = "released"
        CONFIRMED = "confirmed"
        DISMISSED = "dismissed"

    UNDECIDED = (State.OPEN, State.FROZEN)
    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+", db_index=False)
    subscriber = models.ForeignKey(Subscriber, models.PROTECT, related_name="+")
    kind = models.CharField(max_length=11, choices=Kind.choices)
    key = models.CharField(max_length=80)
    state = models.CharField(max_length=9, choices=State.choices, default=State.OPEN)
    evidence = models.JSONField()
    seen = models.PositiveIntegerField(default=1)
    found_at = models.DateTimeField()  # the operator's time
    seen_at = models.DateTimeField()
    steps = models.PositiveSmallIntegerField(default=0)

    objects: models.Manager[AnomalyCase]

    class Meta:
        indexes = [
            models.Index(fields=["operator", "state", "id"], name="anomaly_queue"),
        ]
        constraints = [
            models.UniqueConstraint(fields=["subscriber", "kind", "key"], name="anomaly_once"),
            models.UniqueConstraint(
                fields=["subscriber", "kind"],
                name="anomaly_undecided_once",
                condition=Q(state__in=["open", "frozen"]),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.pk}: {self.state}"


class AnomalyStep(models.Model):
    """What somebody did with a case, and why. Append-only (triggers refuse all else)."""

    pk = models.CompositePrimaryKey("case_id", "nr")
    case = models.ForeignKey(AnomalyCase, models.PROTECT, related_name="+", db_index=False)
    nr = models.PositiveSmallIntegerField()
    state = models.CharField(max_length=9, choices=AnomalyCase.State.choices)
    by = models.CharField(max_length=100)
    reason = models.CharField(max_length=200)
    at = models.DateTimeField()

    objects: models.Manager[AnomalyStep]

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="anomaly_step_has_a_reason", condition=~Q(by="") & ~Q(reason="")
            ),
        ]

    def __str__(self) -> str:
        return f"{self.state} by {self.by}"


class AnomalySweep(models.Model):
    """How far an operator's usage and bills were looked through. Written by
    billing/anomalies/sweeping.py only."""

    operator = models.OneToOneField(
        Operator, models.PROTECT, primary_key=True, related_name="anomaly_sweep"
    )
    usage_until = models.DateTimeField()  # the end of the last hour looked at
    bills_until = models.DateTimeField()  # issued before

    objects: models.Manager[AnomalySweep]

    def __str__(self) -> str:
        return f"until {self.usage_until:%Y-%m-%dT%H}"
