"""Bells: each looks for rows that are due and does them; to ring twice or never harms nothing."""

from __future__ import annotations

from celery import shared_task

from billing import due
from subscriptions import clock, lifecycle
from subscriptions.models import Operator


@shared_task
def open_due_periods() -> None:
    """Open and turn periods of every operator that lives by the wall's time."""
    at = clock.wall()
    while lifecycle.open_due(None, at=at):
        pass


@shared_task
def keep_partitions() -> None:
    """Make the days ahead of every operator's clock, drop those that all have outlived."""
    for operator in Operator.objects.all():
        due.make_partitions(at=clock.now(operator))
    due.drop_outlived()
