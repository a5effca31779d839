"""What subscribers are told by e-mail and text message, and what they do not want to hear."""

from __future__ import annotations

import datetime as dt

from django.db import models
from django.db.models import Q

from subscriptions.models.operators import Operator
from subscriptions.models.subscribers import Subscriber


class Channel(models.TextChoices):
    EMAIL = "email"
    SMS = "sms"


class Notice(models.Model):
    """One event told to its subscriber by one channel, once. The address is the subscriber's at the
    moment of sending and is not kept here. Written only by subscriptions/notices/queue.py.
    """

    class State(models.TextChoices):
        WAITING = "waiting"
        SENT = "sent"
        FAILED = "failed"
        DROPPED = "dropped"  # the subscriber wants none any more, or has no address any more

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+", db_index=False)
    subscriber = models.ForeignKey(
        Subscriber, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    event_key = models.CharField(max_length=120)
    channel = models.CharField(max_length=5, choices=Channel.choices)
    kind = models.CharField(max_length=40)
    occurred_at = models.DateTimeField()
    payload = models.JSONField()
    state = models.CharField(max_length=7, choices=State.choices, default=State.WAITING)
    attempts = models.PositiveIntegerField(default=0)
    next_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)
    reason = models.CharField(max_length=300, blank=True, default="")

    objects: models.Manager[Notice]

    class Meta:
        indexes = [
            models.Index(
                fields=["channel", "next_at", "id"],
                name="notice_queue",
                condition=Q(state="waiting"),
            ),
            models.Index(fields=["subscriber", "id"], name="notice_list"),
            models.Index(
                fields=["ended_at"], name="notice_outlived", condition=~Q(state="waiting")
            ),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["subscriber", "event_key", "channel"], name="notice_once"
            ),
            models.CheckConstraint(
                name="notice_waits_or_ended",
                condition=Q(state="waiting", ended_at__isnull=True)
                | ~Q(state="waiting") & Q(ended_at__isnull=False),
            ),
            models.CheckConstraint(
                name="notice_unsent_with_a_reason",
                condition=Q(state__in=["waiting", "sent"]) | ~Q(reason=""),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} by {self.channel}"


class NoticePreference(models.Model):
    """Whether a subscriber wants a kind of notice by a channel, as said at `at`: the newest holds,
    and all are kept. Written only by subscriptions/notices/preferences.py.
    """

    pk = models.CompositePrimaryKey("subscriber_id", "kind", "channel", "nr")
    subscriber = models.ForeignKey(
        Subscriber, models.PROTECT, related_name="+", db_constraint=False, db_index=False
    )
    kind = models.CharField(max_length=40)
    channel = models.CharField(max_length=5, choices=Channel.choices)
    nr = models.PositiveIntegerField()
    wanted = models.BooleanField()
    at = models.DateTimeField()
    by = models.CharField(max_length=16)  # operator, link, portal

    objects: models.Manager[NoticePreference]

    def __str__(self) -> str:
        return f"{self.kind} by {self.channel}: {self.wanted}"


class NoticePolicy(models.Model):
    """What an operator settled about notices; without a row the defaults hold. Times are local.

    Written only by subscriptions/notices/policies.py.
    """

    operator = models.OneToOneField(Operator, models.PROTECT, primary_key=True, related_name="+")
    # In [quiet_from, quiet_until) no text message goes out but a required one; equal: no such time.
    quiet_from = models.TimeField(default=dt.time(21))
    quiet_until = models.TimeField(default=dt.time(8))
    # How many days before a bucket expires its subscriber is told, and until when that was done.
    expiry_days = models.PositiveSmallIntegerField(default=3)
    expiry_done_until = models.DateTimeField(null=True, blank=True)

    objects: models.Manager[NoticePolicy]

    def __str__(self) -> str:
        return f"notices of operator {self.operator_id}"
