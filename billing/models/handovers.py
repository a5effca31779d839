"""What one subscriber had and another has: numbers, balances, whole subscribers."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q

from subscriptions.fields import amount_field, units_field
from subscriptions.models import Operator, Subscriber


class RecyclingPolicy(models.Model):
    """For how long a recycled number belongs to nobody, by operator; none: 90 days.

    Written by billing/handovers/keeping.py only, as handovers are.
    """

    operator = models.OneToOneField(
        Operator, models.PROTECT, primary_key=True, related_name="recycling_policy"
    )
    cooling_days = models.PositiveSmallIntegerField(default=90)
    changed_by = models.CharField(max_length=100)
    changed_at = models.DateTimeField()

    objects: models.Manager[RecyclingPolicy]

    def __str__(self) -> str:
        return f"{self.cooling_days} days"


class Handover(models.Model):
    """A number that goes to another subscriber or back to nobody, or a subscriber who becomes
    another; done at once, or where it is worth more than the limit when another person approves.

    Who decided, and why, its approval says. `effect` is what was to move when it was asked for.
    `batch_id`, `units` and `amount` are what has moved: journal rows, and two movements of wallets.
    """

    class Kind(models.TextChoices):
        TRANSFER = "transfer"
        RECYCLE = "recycle"
        MERGE = "merge"

    class State(models.TextChoices):
        PENDING = "pending"
        DONE = "done"
        REJECTED = "rejected"

    class Balance(models.TextChoices):
        KEEP = "keep"  # with whom it is
        MOVE = "move"
        FORFEIT = "forfeit"

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+", db_index=False)
    kind = models.CharField(max_length=8, choices=Kind.choices)
    state = models.CharField(max_length=8, choices=State.choices, default=State.PENDING)
    subscriber = models.ForeignKey(Subscriber, models.PROTECT, related_name="+")  # who gives
    receiver = models.ForeignKey(
        Subscriber, models.PROTECT, related_name="+", null=True, blank=True
    )
    subjects = ArrayField(models.CharField(max_length=256), default=list)
    # From when on they are the receiver's; null while pending: from when it is done.
    since = models.DateTimeField(null=True, blank=True)
    balance = models.CharField(max_length=7, choices=Balance.choices)
    with_wallet = models.BooleanField(default=False)
    effect = models.JSONField()
    currency = models.CharField(max_length=3)
    worth = amount_field()  # of what moves or is forfeited, at what it cost
    reason = models.CharField(max_length=200)
    asked_by = models.CharField(max_length=100)  # the key's name
    asked_at = models.DateTimeField()
    done_at = models.DateTimeField(null=True, blank=True)
    batch_id = models.BigIntegerField(null=True, blank=True)
    units = units_field(default=0)
    amount = amount_field(default=0)

    objects: models.Manager[Handover]

    class Meta:
        indexes = [models.Index(fields=["operator", "id"], name="handover_list")]
        constraints = [
            models.CheckConstraint(
                name="handover_to_another",
                condition=Q(kind="recycle", receiver__isnull=True)
                | Q(kind__in=["transfer", "merge"], receiver__isnull=False)
                & ~Q(receiver=F("subscriber")),
            ),
            models.CheckConstraint(
                name="handover_moved_when_done",
                condition=Q(state="done", since__isnull=False, done_at__isnull=False)
                | ~Q(state="done")
                & Q(batch_id__isnull=True, units=0, amount=0, done_at__isnull=True),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.pk}"
