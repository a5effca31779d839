"""The outbox: what happened to a subscriber and somebody must hear of, once.

Its rows are written in the transaction that makes them true: here, and by the draw itself, in
PostgreSQL, for crossed thresholds. `dispatching` takes them in order, hands them to those who tell
people and systems, and marks them, in one transaction.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import connection

from subscriptions import pgarrays
from subscriptions.pgarrays import Instants, Int8s, Texts


@dataclass(frozen=True, slots=True)
class Happening:
    """`kind` is a word as in `invoice.issued`; `key` names this one happening of its subscriber, so
    that it is told once however often it is seen; `payload` is JSON, money and units as strings."""

    subscriber_id: int
    kind: str
    key: str
    occurred_at: dt.datetime
    payload: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Event:
    """A happening on its way: whose it is, and what time it is at its operator."""

    subscriber_id: int
    kind: str
    key: str
    occurred_at: dt.datetime
    payload: dict[str, Any]
    operator_id: int
    external_id: str
    at: dt.datetime


# By key, so that two who tell the same wait for each other in one order.
_TELL_SQL = """
INSERT INTO subscriptions_outboxevent (subscriber_id, key, kind, payload, occurred_at)
SELECT h.subscriber_id, h.key, h.kind, h.payload::jsonb, h.occurred_at
FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::text[], %s::timestamptz[])
     AS h (subscriber_id, key, kind, payload, occurred_at)
ORDER BY h.subscriber_id, h.key
ON CONFLICT DO NOTHING
"""


def tell(happenings: Sequence[Happening]) -> None:
    """Put these into the outbox, each once, in the caller's transaction."""
    assert connection.in_atomic_block
    if not happenings:
        return
    with pgarrays.statements() as cursor:
        cursor.execute(
            _TELL_SQL,
            [
                Int8s(one.subscriber_id for one in happenings),
                Texts(one.key for one in happenings),
                Texts(one.kind for one in happenings),
                Texts(json.dumps(one.payload) for one in happenings),
                Instants(one.occurred_at for one in happenings),
            ],
        )


_TAKE_SQL = """
SELECT e.subscriber_id, e.kind, e.key, e.occurred_at, e.payload, s.operator_id, s.external_id,
       coalesce(o.clock_at, %s)
FROM (
    SELECT * FROM subscriptions_outboxevent WHERE sent_at IS NULL
    ORDER BY occurred_at, subscriber_id, key LIMIT %s FOR UPDATE
) e
JOIN subscriptions_subscriber s ON s.id = e.subscriber_id
JOIN subscriptions_operator o ON o.id = s.operator_id
"""
_RANGE_SQL = """
SELECT e.subscriber_id, e.kind, e.key, e.occurred_at, e.payload, s.operator_id, s.external_id,
       %(at)s
FROM subscriptions_outboxevent e
JOIN subscriptions_subscriber s ON s.id = e.subscriber_id AND s.operator_id = %(operator)s
WHERE e.sent_at IS NOT NULL AND e.occurred_at >= %(since)s AND e.occurred_at < %(until)s
  AND (e.occurred_at, e.subscriber_id, e.key) > (%(after_at)s, %(after_subscriber)s, %(after_key)s)
ORDER BY e.occurred_at, e.subscriber_id, e.key
LIMIT %(limit)s
"""


def take(limit: int, *, at: dt.datetime) -> list[Event]:
    """The next that nobody has dispatched, in their order, locked; `at` is the wall's time."""
    with pgarrays.statements() as cursor:
        cursor.execute(_TAKE_SQL, [at, limit])
        return sorted((_read(row) for row in cursor.fetchall()), key=order)


def told(
    operator_id: int,
    *,
    since: dt.datetime,
    until: dt.datetime,
    after: Event | None,
    limit: int,
    at: dt.datetime,
) -> list[Event]:
    """An operator's dispatched events of a time, those after one of them, in the order of keys."""
    with pgarrays.statements() as cursor:
        cursor.execute(
            _RANGE_SQL,
            {
                "operator": operator_id,
                "since": since,
                "until": until,
                "after_at": after.occurred_at if after else since,
                "after_subscriber": after.subscriber_id if after else 0,
                "after_key": after.key if after else "",
                "limit": limit,
                "at": at,
            },
        )
        return [_read(row) for row in cursor.fetchall()]


def _read(row: Sequence[Any]) -> Event:
    """Django has its connections leave JSON as text."""
    subscriber_id, kind, key, occurred_at, payload, *rest = row
    return Event(subscriber_id, kind, key, occurred_at, json.loads(payload), *rest)


def order(event: Event) -> tuple[dt.datetime, int, str]:
    """What one charge tells has one instant: 50 % comes before 80 %, and both before the end."""
    return event.occurred_at, int(event.payload.get("percent", 101)), event.key


_DISPATCHED_SQL = """
UPDATE subscriptions_outboxevent e SET sent_at = d.at
FROM unnest(%s::bigint[], %s::text[], %s::timestamptz[]) AS d (subscriber_id, key, at)
WHERE e.subscriber_id = d.subscriber_id AND e.key = d.key
"""


def dispatched(events: Sequence[Event]) -> None:
    """Note that these have been handed on."""
    with pgarrays.statements() as cursor:
        cursor.execute(
            _DISPATCHED_SQL,
            [
                Int8s(event.subscriber_id for event in events),
                Texts(event.key for event in events),
                Instants(event.at for event in events),
            ],
        )


_FORGET_SQL = """
DELETE FROM subscriptions_outboxevent e
USING (
    SELECT o.subscriber_id, o.key FROM subscriptions_outboxevent o
    JOIN subscriptions_subscriber s ON s.id = o.subscriber_id AND s.operator_id = %s
    WHERE o.sent_at IS NOT NULL AND o.occurred_at < %s
    LIMIT %s
) old
WHERE e.subscriber_id = old.subscriber_id AND e.key = old.key
"""


def forget(operator_id: int, *, before: dt.datetime, limit: int) -> int:
    """Drop an operator's events that happened before and were dispatched; answers how many."""
    with connection.cursor() as cursor:
        cursor.execute(_FORGET_SQL, [operator_id, before, limit])
        return int(cursor.rowcount)
