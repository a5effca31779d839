"""Periods that somebody has to pay before their bucket opens."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from subscriptions.models.offerings import Plan
from subscriptions.models.operators import Operator


class ExpectedPeriod(models.Model):
    """A period of a plan that collects `before_period`: its allowance is granted when it is paid.

    There from some days before its first second on. `asked_at` is null until somebody has been
    asked to pay it, and again when something about the period has changed. Written by
    subscriptions/expected.py only.
    """

    pk = models.CompositePrimaryKey("subscriber_id", "subscription_id", "starts_at")
    subscriber_id = models.BigIntegerField()
    subscription_id = models.BigIntegerField()
    starts_at = models.DateTimeField()
    operator = models.ForeignKey(
        Operator, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    plan = models.ForeignKey(
        Plan, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    asked_at = models.DateTimeField(null=True, blank=True)
    paid_at = models.DateTimeField(null=True, blank=True)

    objects: models.Manager[ExpectedPeriod]

    class Meta:
        indexes = [
            models.Index(
                fields=["operator", "starts_at", "subscriber_id"],
                name="expected_period_queue",
                condition=Q(asked_at__isnull=True),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.starts_at:%Y-%m-%d} of subscription {self.subscription_id}"
