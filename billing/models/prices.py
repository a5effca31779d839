"""Versions of prices before they are sold, and what became of them."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q

from subscriptions.models import Operator, Plan, RateCard


class PriceDraft(models.Model):
    """A version of a plan or rate card to be: a draft, asked for, approved, scheduled, on sale,
    retired.

    Its `terms` change only while it is a draft (triggers refuse all else), so that what was
    rehearsed and approved is what is sold. `on_sale_at` is when it is to be sold: a plan is
    published then, a rate card beforehand, for usage of its first second is charged by it.
    `problem` says why a scheduled one could not be published. Written by
    billing/prices/drafting.py only.
    """

    class Kind(models.TextChoices):
        PLAN = "plan"
        RATE_CARD = "rate_card"

    class State(models.TextChoices):
        DRAFT = "draft"
        ASKED = "asked"
        APPROVED = "approved"
        SCHEDULED = "scheduled"
        ON_SALE = "on_sale"
        RETIRED = "retired"
        DROPPED = "dropped"

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+", db_index=False)
    kind = models.CharField(max_length=9, choices=Kind.choices)
    code = models.CharField(max_length=64)
    terms = models.JSONField()
    note = models.CharField(max_length=200, blank=True, default="")  # what it is for
    state = models.CharField(max_length=9, choices=State.choices, default=State.DRAFT)
    made_by = models.CharField(max_length=100)
    made_at = models.DateTimeField()  # the operator's time
    on_sale_at = models.DateTimeField(null=True, blank=True)
    plan = models.ForeignKey(Plan, models.PROTECT, related_name="+", null=True, blank=True)
    card = models.ForeignKey(RateCard, models.PROTECT, related_name="+", null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)  # retired or dropped
    problem = models.CharField(max_length=500, blank=True, default="")

    objects: models.Manager[PriceDraft]

    class Meta:
        indexes = [
            models.Index(fields=["operator", "-id"], name="price_draft_list"),
            models.Index(
                fields=["operator", "on_sale_at"],
                name="price_draft_queue",
                condition=Q(state="scheduled"),
            ),
        ]
        constraints = [
            models.CheckConstraint(
                name="price_draft_is_one_version",
                condition=Q(kind="plan", card__isnull=True)
                & (
                    Q(state__in=["on_sale", "retired"], plan__isnull=False)
                    | ~Q(state__in=["on_sale", "retired"]) & Q(plan__isnull=True)
                )
                | Q(kind="rate_card", plan__isnull=True)
                & (
                    Q(state__in=["scheduled", "on_sale", "retired"], card__isnull=False)
                    | ~Q(state__in=["scheduled", "on_sale", "retired"]) & Q(card__isnull=True)
                ),
            ),
            models.CheckConstraint(
                name="price_draft_has_its_times",
                condition=(
                    ~Q(state__in=["scheduled", "on_sale", "retired"]) | Q(on_sale_at__isnull=False)
                )
                & (
                    Q(state__in=["retired", "dropped"], ended_at__isnull=False)
                    | ~Q(state__in=["retired", "dropped"]) & Q(ended_at__isnull=True)
                )
                & (Q(ended_at__isnull=True) | Q(ended_at__gte=F("made_at"))),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.code}: {self.state}"
