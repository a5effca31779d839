"""What subscribers did to their plans by their own hand."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from subscriptions.models import Operator, Plan, Subscriber


class PlanReceipt(models.Model):
    """A step that a subscriber took with its plan, when, and from when on it holds: the receipt.

    `plan` is the one held at that moment, `to_plan` the one that goes on, where that is another.
    Append-only (triggers refuse all else). Written by billing/receipts.py only.
    """

    class Kind(models.TextChoices):
        CANCELLED = "cancelled"
        KEPT = "kept"  # a cancellation, or a change to come, is taken back
        CHANGED = "changed"  # to another plan, from the next period on
        UPGRADED = "upgraded"  # at once
        PAUSED = "paused"
        RESUMED = "resumed"

    pk = models.CompositePrimaryKey("subscriber_id", "id")
    subscriber = models.ForeignKey(
        Subscriber, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    id = models.BigIntegerField()  # from the sequence billing_planreceipt_id
    operator = models.ForeignKey(
        Operator, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    number = models.CharField(max_length=40)
    kind = models.CharField(max_length=9, choices=Kind.choices)
    subscription_id = models.BigIntegerField()
    plan = models.ForeignKey(Plan, models.PROTECT, related_name="+", db_index=False)
    to_plan = models.ForeignKey(
        Plan, models.PROTECT, related_name="+", null=True, blank=True, db_index=False
    )
    holds_from = models.DateTimeField()
    channel = models.CharField(max_length=32)
    at = models.DateTimeField()

    objects: models.Manager[PlanReceipt]

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["operator", "number"], name="plan_receipt_number_once"),
            models.CheckConstraint(
                name="plan_receipt_names_what_goes_on",
                condition=Q(kind__in=["changed", "upgraded", "paused", "resumed"])
                & Q(to_plan__isnull=False)
                | Q(kind__in=["cancelled", "kept"]),
            ),
        ]

    def __str__(self) -> str:
        return self.number
