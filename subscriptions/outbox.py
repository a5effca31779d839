"""The outbox: what happened to a subscriber and somebody must hear of, once.

Its rows are written in the transaction that makes them true: here, and by the draw itself, in
PostgreSQL, for crossed thresholds. Whoever tells people or systems of it only reads and marks.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import connection

from subscriptions.models import OutboxEvent


@dataclass(frozen=True, slots=True)
class Happening:
    """`kind` is a word as in `invoice.issued`; `key` names this one happening of its subscriber, so
    that it is told once however often it is seen; `payload` is JSON, money and units as strings."""

    subscriber_id: int
    kind: str
    key: str
    occurred_at: dt.datetime
    payload: dict[str, Any] = field(default_factory=dict)


def tell(happenings: Sequence[Happening]) -> None:
    """Put these into the outbox, each once, in the caller's transaction."""
    assert connection.in_atomic_block
    OutboxEvent.objects.bulk_create(
        [
            OutboxEvent(
                subscriber_id=one.subscriber_id,
                key=one.key,
                kind=one.kind,
                payload=one.payload,
                occurred_at=one.occurred_at,
            )
            for one in happenings
        ],
        ignore_conflicts=True,
    )
