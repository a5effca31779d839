"""Falls below a threshold, and what became of each: the only writer of AutoTopUpRun."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Any

from django.db import connection

from billing.models import AutoTopUp, AutoTopUpRun

State = AutoTopUpRun.State


def agreed(subscriber_ids: Iterable[int]) -> dict[int, AutoTopUp]:
    """What stands of these subscribers."""
    rows = AutoTopUp.objects.filter(subscriber_id__among=list(subscriber_ids), ended_at=None)
    return {row.subscriber_id: row for row in rows}


def begin(falls: Sequence[tuple[AutoTopUp, str]], *, at: dt.datetime) -> None:
    """Note that wallets fell below their thresholds, each cause once; while an earlier one of the
    same subscriber is open, that is the one. Joins the caller's transaction."""
    assert connection.in_atomic_block
    AutoTopUpRun.objects.bulk_create(
        [
            AutoTopUpRun(
                subscriber_id=agreement.subscriber_id,
                agreement_id=agreement.id,
                cause=cause,
                operator_id=agreement.operator_id,
                amount=agreement.amount,
                begun_at=at,
                next_at=at,
            )
            for agreement, cause in falls
        ],
        ignore_conflicts=True,
    )


def due(operator_id: int, *, at: dt.datetime, limit: int) -> list[AutoTopUpRun]:
    """Open runs that are to be worked by `at`, those that wait longest first."""
    rows = AutoTopUpRun.objects.filter(operator_id=operator_id, next_at__lte=at)
    return list(rows.order_by("next_at", "subscriber_id")[:limit])


def locked(run: AutoTopUpRun) -> AutoTopUpRun:
    """The run as it is, locked after its subscriber until the transaction ends."""
    return AutoTopUpRun.objects.select_for_update(no_key=True).get(
        subscriber_id=run.subscriber_id, agreement_id=run.agreement_id, cause=run.cause
    )


def put(run: AutoTopUpRun, **facts: Any) -> None:
    """Write down what is known of a locked run."""
    assert connection.in_atomic_block
    for name, value in facts.items():
        setattr(run, name, value)
    AutoTopUpRun.objects.filter(
        subscriber_id=run.subscriber_id, agreement_id=run.agreement_id, cause=run.cause
    ).update(**facts)


def end(run: AutoTopUpRun, state: str, *, at: dt.datetime, reason: str = "") -> None:
    """A locked run is over."""
    put(run, state=state, next_at=None, ended_at=at, reason=reason[:200])


def open_of(subscriber_id: int) -> AutoTopUpRun | None:
    """The one that is open, locked; its subscriber is."""
    return (
        AutoTopUpRun.objects.filter(subscriber_id=subscriber_id, state__in=AutoTopUpRun.OPEN)
        .select_for_update(no_key=True)
        .first()
    )
