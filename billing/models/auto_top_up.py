"""Wallets that are filled by themselves, as their subscribers agreed."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q

from subscriptions.fields import amount_field
from subscriptions.models import Operator, Subscriber


class AutoTopUp(models.Model):
    """What a subscriber agreed to, in the very words it was shown: `amount` is put into its wallet
    whenever that falls below `threshold`, never more than the limits in a day and a month.

    Only its end, and how many tries failed since one did not, are written later (triggers refuse
    all else). Written by billing/auto_top_up/agreements.py only.
    """

    pk = models.CompositePrimaryKey("subscriber_id", "id")
    subscriber = models.ForeignKey(
        Subscriber, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    id = models.BigIntegerField()  # from the sequence billing_autotopup_id
    operator = models.ForeignKey(
        Operator, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    currency = models.CharField(max_length=3)
    threshold = amount_field()
    amount = amount_field()
    daily_limit = amount_field()
    monthly_limit = amount_field()
    way = models.CharField(max_length=32)
    method = models.CharField(max_length=255)  # the provider's name of the saved one
    text = models.TextField()
    text_version = models.CharField(max_length=64)
    language = models.CharField(max_length=35)
    channel = models.CharField(max_length=32)  # by which it was agreed to: portal, app, hotline
    agreed_at = models.DateTimeField()
    failures = models.PositiveSmallIntegerField(default=0)
    ended_at = models.DateTimeField(null=True, blank=True)
    ended_by = models.CharField(max_length=200, blank=True, default="")

    objects: models.Manager[AutoTopUp]

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["subscriber_id"],
                name="auto_top_up_one_at_a_time",
                condition=Q(ended_at__isnull=True),
            ),
            models.CheckConstraint(
                name="auto_top_up_within_limits",
                condition=Q(
                    threshold__gt=0,
                    amount__gte=F("threshold"),
                    daily_limit__gte=F("amount"),
                    monthly_limit__gte=F("daily_limit"),
                ),
            ),
            models.CheckConstraint(
                name="auto_top_up_in_words", condition=~Q(text="") & ~Q(text_version="")
            ),
            models.CheckConstraint(
                name="auto_top_up_ended",
                condition=Q(ended_at__isnull=True, ended_by="")
                | Q(ended_at__gte=F("agreed_at")) & ~Q(ended_by=""),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.amount} {self.currency} below {self.threshold}"


class AutoTopUpRun(models.Model):
    """A wallet fell below its threshold, once, by `cause`: a top-up is ordered, and paid.

    While it is open (due or ordered), `next_at` is when it is worked next, and there is no other
    of its subscriber. Written by billing/auto_top_up/runs.py only.
    """

    class State(models.TextChoices):
        DUE = "due"
        ORDERED = "ordered"
        PAID = "paid"
        FAILED = "failed"
        STOPPED = "stopped"  # it was switched off meanwhile

    OPEN = (State.DUE, State.ORDERED)
    pk = models.CompositePrimaryKey("subscriber_id", "agreement_id", "cause")
    subscriber_id = models.BigIntegerField()
    agreement_id = models.BigIntegerField()
    cause = models.CharField(max_length=64)
    operator = models.ForeignKey(
        Operator, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    amount = amount_field()
    state = models.CharField(max_length=7, choices=State.choices, default=State.DUE)
    begun_at = models.DateTimeField()
    next_at = models.DateTimeField(null=True, blank=True)
    order_id = models.BigIntegerField(null=True, blank=True)
    tries = models.PositiveSmallIntegerField(default=0)
    asked = models.BooleanField(default=False)  # a try whose end is not noted yet
    # What it waits for, or why it failed.
    reason = models.CharField(max_length=200, blank=True, default="")
    ended_at = models.DateTimeField(null=True, blank=True)

    objects: models.Manager[AutoTopUpRun]

    class Meta:
        indexes = [
            models.Index(
                fields=["operator", "next_at"],
                name="auto_top_up_queue",
                condition=Q(next_at__isnull=False),
            ),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["subscriber_id"],
                name="auto_top_up_run_one_at_a_time",
                condition=Q(state__in=["due", "ordered"]),
            ),
            models.UniqueConstraint(
                fields=["subscriber_id", "order_id"], name="auto_top_up_run_of_order"
            ),
            models.CheckConstraint(
                name="auto_top_up_run_open_or_over",
                condition=Q(
                    state="due",
                    order_id__isnull=True,
                    next_at__isnull=False,
                    ended_at__isnull=True,
                )
                | Q(
                    state="ordered",
                    order_id__isnull=False,
                    next_at__isnull=False,
                    ended_at__isnull=True,
                )
                | Q(state="paid", order_id__isnull=False)
                & Q(next_at__isnull=True, ended_at__isnull=False)
                | Q(
                    state__in=["failed", "stopped"],
                    next_at__isnull=True,
                    ended_at__isnull=False,
                ),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.cause}: {self.state}"
