"""Bells: each looks for rows that are due and does them; to ring twice or never harms nothing."""

from __future__ import annotations

from celery import shared_task

from billing import due
from subscriptions import clock, lifecycle, reservations
from subscriptions.models import Operator


@shared_task
def open_due_periods() -> None:
    """Open and turn periods of every operator that lives by the wall's time."""
    at = clock.wall()
    while lifecycle.open_due(None, at=at):
        pass


@shared_task
def expire_reservations() -> None:
    """Give back what reservations hold past their time, by every operator's own clock."""
    for operator in Operator.objects.all():
        due.expire_reservations(operator, at=clock.now(operator))


@shared_task
def forget_reservations() -> None:
    """Drop reservations that nobody will commit any more, by every operator's own clock."""
    for operator in Operator.objects.all():
        while reservations.forget(operator.pk, at=clock.now(operator)):
            pass


@shared_task
def keep_partitions() -> None:
    """Make the days ahead of every operator's clock, drop those that all have outlived."""
    for operator in Operator.objects.all():
        due.make_partitions(at=clock.now(operator))
    due.drop_outlived()
