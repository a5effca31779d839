"""Bells: each looks for rows that are due and does them; to ring twice or never harms nothing."""

from __future__ import annotations

import time

from celery import shared_task

from metering import rerating, rollups, usage_windows
from metering.models import Rerating
from subscriptions import clock
from subscriptions.models import Operator


@shared_task
def fold_usage() -> None:
    """Fold finished batches into the hourly totals."""
    rollups.fold_all(at=clock.wall())


@shared_task
def compare_windows() -> None:
    """Have every window that is due compared, each by itself: a long one holds up no other."""
    for operator in Operator.objects.all():
        for window_id in usage_windows.due(operator.pk):
            # Else a long one would be asked for again and again.
            compare_window.apply_async((window_id,), expires=20)


@shared_task
def compare_window(window_id: int) -> None:
    """Compare a window unless somebody has done it meanwhile, by its operator's clock."""
    operator = Operator.objects.get(pk=usage_windows.operator_of(window_id))
    usage_windows.compare(window_id, at=clock.now(operator), only_due=True)


# How long one task goes on with a re-rating before it gives others a turn; the next ring goes on.
_TURN = 10.0


@shared_task
def rerate_waiting() -> None:
    """Ring for every re-rating at which something is to be done."""
    for run_id in rerating.waiting():
        rerate.apply_async((run_id,), expires=_TURN)


@shared_task
def rerate(run_id: int) -> None:
    """Go on with a re-rating for a while, by its operator's clock."""
    run = Rerating.objects.select_related("operator").get(pk=run_id)
    ends = time.monotonic() + _TURN
    rerating.work(run_id, at=clock.now(run.operator), more=lambda: time.monotonic() < ends)
