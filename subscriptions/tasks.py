"""Bells: each looks for rows that are due and does them; to ring twice or never harms nothing."""

from __future__ import annotations

import datetime as dt

from celery import shared_task

from subscriptions import clock
from subscriptions.models import IdempotentRequest, Operator

# How long a POST sent again with its `Idempotency-Key` gets the first answer.
ANSWERS_KEPT = dt.timedelta(days=7)


@shared_task
def forget_answers() -> None:
    """Drop the answers of idempotency keys that nobody will send again, by every own clock."""
    for operator in Operator.objects.all():
        answers = IdempotentRequest.objects.filter(operator=operator)
        answers.filter(created_at__lt=clock.now(operator) - ANSWERS_KEPT).delete()
