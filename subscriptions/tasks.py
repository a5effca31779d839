"""Bells: each looks for rows that are due and does them; to ring twice or never harms nothing."""

from __future__ import annotations

import datetime as dt
import time

from celery import shared_task

from subscriptions import clock, dispatching, expiring, outbox
from subscriptions.models import Channel, IdempotentRequest, Operator
from subscriptions.notices import queue as notices
from subscriptions.notices import sending as telling
from subscriptions.safety import alerts
from subscriptions.subscriber_keys import guessing
from subscriptions.webhooks import queue, sending

# How long a POST sent again with its `Idempotency-Key` gets the first answer.
ANSWERS_KEPT = dt.timedelta(days=7)
# How long what happened may be replayed, and how long what was sent of it can be looked at.
EVENTS_KEPT = dt.timedelta(days=90)
DELIVERIES_KEPT = dt.timedelta(days=30)
# How long one task goes on before it gives others a turn.
_TURN = 20.0


@shared_task
def forget_answers() -> None:
    """Drop the answers of idempotency keys that nobody will send again, by every own clock."""
    for operator in Operator.objects.all():
        answers = IdempotentRequest.objects.filter(operator=operator)
        answers.filter(created_at__lt=clock.now(operator) - ANSWERS_KEPT).delete()


@shared_task
def dispatch_events() -> None:
    """Hand on what happened, for a while, and ring for those who send it."""
    began, any_at_all = time.monotonic(), False
    while dispatching.dispatch(at=clock.wall()) and time.monotonic() - began < _TURN:
        any_at_all = True
    if any_at_all:
        for task in (send_webhooks, send_emails, send_texts):
            task.apply_async(expires=30)


@shared_task
def tell_alerts() -> None:
    """Tell subscribers of their own lines that were reached, by every own clock."""
    for operator in Operator.objects.all():
        alerts.sweep(operator, at=clock.now(operator))


@shared_task
def forget_misses() -> None:
    """Drop what was counted of keys that are none, once it counts no more."""
    for operator in Operator.objects.all():
        guessing.forget(operator.pk, at=clock.now(operator))


@shared_task
def send_webhooks() -> None:
    """Call operators' systems, for a while; by one process at a time."""
    sending.send_due(now=clock.wall, seconds=_TURN)


@shared_task
def send_emails() -> None:
    """Send notices by e-mail, for a while; by one process at a time."""
    telling.send_due(Channel.EMAIL, now=clock.wall, seconds=_TURN)


@shared_task
def send_texts() -> None:
    """Send notices by text message, likewise."""
    telling.send_due(Channel.SMS, now=clock.wall, seconds=_TURN)


@shared_task
def tell_expiries() -> None:
    """Tell of what expires soon, of operators by the wall's time."""
    for operator in Operator.objects.filter(is_test=False).order_by("pk"):
        expiring.sweep(operator, at=clock.now(operator))


@shared_task
def forget_events() -> None:
    """Drop what happened and what was sent of it long ago, by every own clock."""
    for operator in Operator.objects.all():
        at = clock.now(operator)
        while queue.forget(operator, before=at - DELIVERIES_KEPT):
            pass
        while notices.forget(operator, before=at - EVENTS_KEPT):
            pass
        while outbox.forget(operator.pk, before=at - EVENTS_KEPT, limit=dispatching.CHUNK):
            pass
