"""The queue of the month close, and what became of each part of it."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q

from subscriptions.models import Operator


class CloseChunk(models.Model):
    """Subscribers whose periods that ended by `ended_by` are closed together, or not at all.

    The row is the queue: a worker takes a waiting one under its lock and closes whatever of it is
    still due. One that fails is halved, until only the subscriber who cannot be closed is left,
    `failed` with the reason; that one waits until somebody says `closes --retry`. Written by
    billing/closing.py only.
    """

    class State(models.TextChoices):
        WAITING = "waiting"
        DONE = "done"
        FAILED = "failed"

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+", db_index=False)
    ended_by = models.DateTimeField()
    first_subscriber = models.BigIntegerField()
    last_subscriber = models.BigIntegerField()  # inclusive
    periods = models.PositiveIntegerField()  # that were due when it was planned
    invoices = models.PositiveIntegerField(default=0)  # that it issued
    state = models.CharField(max_length=7, choices=State.choices, default=State.WAITING)
    attempts = models.PositiveIntegerField(default=0)
    reason = models.CharField(max_length=1000, blank=True, default="")  # of the last failure
    planned_at = models.DateTimeField()  # the operator's time
    done_at = models.DateTimeField(null=True, blank=True)
    seconds = models.FloatField(default=0)  # of work, for the rate

    objects: models.Manager[CloseChunk]

    class Meta:
        indexes = [
            models.Index(fields=["operator", "state", "id"], name="close_queue"),
        ]
        constraints = [
            models.CheckConstraint(
                name="close_chunk_is_a_range",
                condition=Q(last_subscriber__gte=F("first_subscriber")),
            ),
            models.CheckConstraint(
                name="close_chunk_done_has_a_time",
                condition=Q(state="done", done_at__isnull=False)
                | (~Q(state="done") & Q(done_at__isnull=True)),
            ),
            models.CheckConstraint(
                name="close_chunk_failed_has_a_reason", condition=~Q(state="failed") | ~Q(reason="")
            ),
        ]

    def __str__(self) -> str:
        return f"{self.state} {self.first_subscriber} to {self.last_subscriber}"


class ClosePause(models.Model):
    """A stretch of time in which nothing of an operator's close is planned or begun; what was begun
    is finished. One at a time. Written by billing/closing.py only.
    """

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+", db_index=False)
    since = models.DateTimeField()  # the operator's time
    reason = models.CharField(max_length=200)
    paused_by = models.CharField(max_length=100)
    until = models.DateTimeField(null=True, blank=True)
    resumed_by = models.CharField(max_length=100, blank=True, default="")

    objects: models.Manager[ClosePause]

    class Meta:
        indexes = [models.Index(fields=["operator", "-id"], name="close_pause_list")]
        constraints = [
            models.UniqueConstraint(
                fields=["operator"], name="close_paused_once", condition=Q(until__isnull=True)
            ),
            models.CheckConstraint(
                name="close_pause_by_somebody", condition=~Q(paused_by="") & ~Q(reason="")
            ),
            models.CheckConstraint(
                name="close_pause_ends_after_it_began",
                condition=Q(until__isnull=True, resumed_by="")
                | Q(until__gte=F("since")) & ~Q(resumed_by=""),
            ),
        ]

    def __str__(self) -> str:
        return f"since {self.since}: {self.reason}"


class FinalSweep(models.Model):
    """How far an operator's last bills are made: what changed before `until` of a subscriber with
    no bill to come is on one. Written by billing/finals.py only."""

    operator = models.OneToOneField(
        Operator, models.PROTECT, primary_key=True, related_name="+", db_constraint=False
    )
    until = models.DateTimeField()

    objects: models.Manager[FinalSweep]

    def __str__(self) -> str:
        return f"{self.until}"
