"""Bells: each looks for rows that are due and does them; to ring twice or never harms nothing."""

from __future__ import annotations

from celery import shared_task

from metering import rollups
from subscriptions import clock


@shared_task
def fold_usage() -> None:
    """Fold finished batches into the hourly totals."""
    rollups.fold_all(at=clock.wall())
