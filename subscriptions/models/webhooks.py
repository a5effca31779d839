"""Operators' systems that are told what happens, and what was sent to them."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Func, Q, TextField
from django.db.models.functions import Cast

from subscriptions.models.operators import Operator


class MessageDigest(Func):
    """What follows `evt_` in the id by which receivers know a delivery (signing.message_id)."""

    # Without the replacement a backslash would begin an escape of the bytes.
    template = r"left(encode(sha256(replace(%(expressions)s, '\', '\\')::bytea), 'hex'), 32)"
    arg_joiner = " || ':' || "
    output_field = TextField()

    def __init__(self) -> None:
        super().__init__(Cast("subscriber_id", TextField()), F("event_key"))

    def deconstruct(self) -> tuple[str, tuple[object, ...], dict[str, object]]:
        return f"{self.__module__}.{type(self).__name__}", (), {}


class WebhookEndpoint(models.Model):
    """An address of an operator's that hears of events, signed as Standard Webhooks has it.

    `kinds` empty: of all. `secret` signs; for a while after a rotation `old_secret` signs too. Both
    are sealed. An endpoint that has not answered for long is disabled, with the reason. Written
    only by subscriptions/webhooks/endpoints.py.
    """

    operator = models.ForeignKey(Operator, models.PROTECT, related_name="+")
    url = models.CharField(max_length=2000)
    description = models.CharField(max_length=200, blank=True, default="")
    kinds = ArrayField(models.CharField(max_length=40), default=list)
    secret = models.TextField()
    old_secret = models.TextField(blank=True, default="")
    old_secret_until = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField()
    # Since when no call has succeeded, and how many in a row have not: 0 while all is well.
    failing_since = models.DateTimeField(null=True, blank=True)
    failures = models.PositiveIntegerField(default=0)
    # Nobody calls before it, while calls fail in a row.
    paused_until = models.DateTimeField(null=True, blank=True)
    disabled_at = models.DateTimeField(null=True, blank=True)
    disabled_reason = models.CharField(max_length=300, blank=True, default="")
    deleted_at = models.DateTimeField(null=True, blank=True)

    objects: models.Manager[WebhookEndpoint]

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="webhook_endpoint_disabled_with_a_reason",
                condition=Q(disabled_at__isnull=True, disabled_reason="")
                | Q(disabled_at__isnull=False) & ~Q(disabled_reason=""),
            ),
            models.CheckConstraint(
                name="webhook_endpoint_old_secret_ends",
                condition=Q(old_secret="", old_secret_until__isnull=True)
                | Q(old_secret_until__isnull=False) & ~Q(old_secret=""),
            ),
            models.CheckConstraint(
                name="webhook_endpoint_fails_since",
                condition=Q(failures=0, failing_since__isnull=True)
                | Q(failures__gt=0, failing_since__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return self.url


class WebhookDelivery(models.Model):
    """One event for one endpoint: sent until it is answered well, or given up.

    Of a subscriber's that wait, only the first by (`occurred_at`, `id`) is sent. `since` is when
    its sending began, from which it is given up. Written only by subscriptions/webhooks/queue.py.
    """

    class State(models.TextChoices):
        WAITING = "waiting"
        DELIVERED = "delivered"
        FAILED = "failed"

    endpoint = models.ForeignKey(
        WebhookEndpoint, models.CASCADE, related_name="deliveries", db_index=False
    )
    subscriber_id = models.BigIntegerField()  # 0: of a test event, that is nobody's
    event_key = models.CharField(max_length=120)
    kind = models.CharField(max_length=40)
    occurred_at = models.DateTimeField()
    payload = models.JSONField()
    state = models.CharField(max_length=10, choices=State.choices, default=State.WAITING)
    attempts = models.PositiveIntegerField(default=0)
    next_at = models.DateTimeField()
    since = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)

    objects: models.Manager[WebhookDelivery]

    class Meta:
        indexes = [
            models.Index(
                fields=["endpoint", "next_at", "id"],
                name="webhook_queue",
                condition=Q(state="waiting"),
            ),
            models.Index(
                fields=["endpoint", "subscriber_id", "occurred_at", "id"],
                name="webhook_order",
                condition=Q(state="waiting"),
            ),
            models.Index(fields=["endpoint", "id"], name="webhook_list"),
            models.Index(MessageDigest(), name="webhook_message"),
            models.Index(
                fields=["ended_at"], name="webhook_outlived", condition=~Q(state="waiting")
            ),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["subscriber_id", "event_key", "endpoint"], name="webhook_event_once"
            ),
            models.CheckConstraint(
                name="webhook_waits_or_ended",
                condition=Q(state="waiting", ended_at__isnull=True)
                | ~Q(state="waiting") & Q(ended_at__isnull=False),
            ),
            models.CheckConstraint(
                name="webhook_next_after_since", condition=Q(next_at__gte=F("since"))
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.event_key}"


class WebhookAttempt(models.Model):
    """A call that was made for a delivery, and what came of it. Append-only; written only by
    subscriptions/webhooks/queue.py."""

    pk = models.CompositePrimaryKey("delivery_id", "nr")
    delivery = models.ForeignKey(
        WebhookDelivery, models.CASCADE, related_name="calls", db_index=False
    )
    nr = models.PositiveIntegerField()
    at = models.DateTimeField()
    status = models.PositiveSmallIntegerField(null=True)  # none: nobody answered
    milliseconds = models.PositiveIntegerField()
    error = models.CharField(max_length=300, blank=True, default="")
    answer = models.CharField(max_length=500, blank=True, default="")

    objects: models.Manager[WebhookAttempt]

    def __str__(self) -> str:
        return f"{self.nr}: {self.status or self.error}"
