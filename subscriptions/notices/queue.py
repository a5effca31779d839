"""Which notices are to be sent, and what became of each: the only writer of Notice.

A notice is one row for an event and a channel, kept by a unique key, so it is made once however
often the event is seen. A row waits until its sending is committed: only a crash in between sends
it again, under the same key.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connection, transaction
from django.db.models import F

from subscriptions import periods, pgarrays
from subscriptions.errors import NotFound
from subscriptions.models import Notice, Operator
from subscriptions.notices import preferences
from subscriptions.notices.kinds import KINDS
from subscriptions.outbox import Event
from subscriptions.pgarrays import Instants, Int8s, Texts

# How long after an attempt that failed the next one comes; after the last of these it has failed.
_MINUTES = (1, 5, 30, 120, 360, 720)
BACK_OFF = tuple(dt.timedelta(minutes=minutes) for minutes in _MINUTES)

# For who has an address; what was declined is dropped when it would be sent.
_FAN_OUT_SQL = """
INSERT INTO subscriptions_notice
    (operator_id, subscriber_id, event_key, channel, kind, occurred_at, payload, state, attempts,
     next_at, reason)
SELECT s.operator_id, s.id, e.key, c.channel, e.kind, e.occurred_at, e.payload::jsonb, 'waiting', 0,
       e.at, ''
FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::timestamptz[], %s::text[], %s::timestamptz[])
     WITH ORDINALITY AS e (subscriber_id, key, kind, occurred_at, payload, at, nr)
JOIN subscriptions_subscriber s ON s.id = e.subscriber_id
CROSS JOIN LATERAL (VALUES ('email', s.email), ('sms', s.msisdn)) AS c (channel, address)
WHERE c.address <> ''
ORDER BY e.nr, c.channel
ON CONFLICT DO NOTHING
"""


def fan_out(events: Sequence[Event]) -> int:
    """A notice by each channel of each event that subscribers are told of; answers how many there
    were not yet. Joins the caller's transaction."""
    assert connection.in_atomic_block
    told = [event for event in events if event.kind in KINDS]
    if not told:
        return 0
    with pgarrays.statements() as cursor:
        cursor.execute(
            _FAN_OUT_SQL,
            [
                Int8s(event.subscriber_id for event in told),
                Texts(event.key for event in told),
                Texts(event.kind for event in told),
                Instants(event.occurred_at for event in told),
                Texts(json.dumps(event.payload) for event in told),
                Instants(event.at for event in told),
            ],
        )
        return int(cursor.rowcount)


@dataclass(frozen=True, slots=True)
class Due:
    """A notice to be sent, as its subscriber is now; `at` is what time it is at the operator."""

    id: int
    operator_id: int
    subscriber_id: int
    event_key: str
    channel: str
    kind: str
    occurred_at: dt.datetime
    payload: Mapping[str, Any]
    address: str
    language: str
    at: dt.datetime
    next_at: dt.datetime
    declined: bool


# The first bound is one for all, so that the index ends the search; a test operator has its own.
_DUE_SQL = """
SELECT n.id, n.operator_id, n.subscriber_id, n.event_key, n.channel, n.kind, n.occurred_at,
       n.payload, CASE n.channel WHEN 'email' THEN s.email ELSE s.msisdn END, s.language,
       coalesce(o.clock_at, %(at)s), n.next_at
FROM subscriptions_notice n
JOIN subscriptions_subscriber s ON s.id = n.subscriber_id
JOIN subscriptions_operator o ON o.id = n.operator_id
WHERE n.state = 'waiting' AND n.channel = %(channel)s
  AND (n.next_at, n.id) > (%(after_at)s, %(after)s)
  AND n.next_at <= (SELECT greatest(max(clock_at), %(at)s) FROM subscriptions_operator)
  AND n.next_at <= coalesce(o.clock_at, %(at)s)
ORDER BY n.next_at, n.id
LIMIT %(limit)s
"""


def due(channel: str, *, at: dt.datetime, after: Due | None, limit: int) -> list[Due]:
    """The next notices of a channel, after one of them, what has been due for longest first."""
    with pgarrays.statements() as cursor:
        cursor.execute(
            _DUE_SQL,
            {
                "channel": channel,
                "at": at,
                "after_at": after.next_at if after else periods.FIRST,
                "after": after.id if after else 0,
                "limit": limit,
            },
        )
        rows = cursor.fetchall()
    declined = preferences.declined([row[2] for row in rows])
    found = []
    for row in rows:
        is_declined = (row[2], row[5], row[4]) in declined
        columns = [*row[:7], json.loads(row[7]), *row[8:], is_declined]
        found.append(Due(*columns))
    return found


def find(subscriber_id: int, notice_id: int) -> Notice:
    """Raises NotFound, also for another subscriber's."""
    found = Notice.objects.filter(subscriber_id=subscriber_id, pk=min(notice_id, 2**62)).first()
    if found is None:
        raise NotFound("there is no such notice")
    return found


def again(subscriber_id: int, notice_id: int, *, at: dt.datetime) -> None:
    """Send a notice once more, whatever became of it; one that waits goes on waiting."""
    find(subscriber_id, notice_id)
    ended = Notice.objects.filter(pk=notice_id).exclude(state=Notice.State.WAITING)
    ended.update(state=Notice.State.WAITING, attempts=0, next_at=at, ended_at=None, reason="")


def put_off(one: Due, *, until: dt.datetime) -> None:
    """Send it later: now is no time for it."""
    Notice.objects.filter(pk=one.id, state=Notice.State.WAITING).update(next_at=until)


def sent(one: Due) -> None:
    _ended(one, Notice.State.SENT, attempts=1)


def dropped(one: Due, reason: str) -> None:
    """It is not to be sent any more."""
    _ended(one, Notice.State.DROPPED, reason=reason)


@transaction.atomic
def failed(one: Due, reason: str) -> None:
    """Keep why it could not be sent; it is tried again later, or for the last time was not."""
    row = Notice.objects.select_for_update(no_key=True).get(pk=one.id)
    row.attempts += 1
    row.reason = reason[:300] or "it failed"
    if row.attempts > len(BACK_OFF):
        row.state, row.ended_at = Notice.State.FAILED, one.at
    else:
        row.next_at = one.at + BACK_OFF[row.attempts - 1]
    row.save(update_fields=["attempts", "reason", "state", "ended_at", "next_at"])


def _ended(one: Due, state: str, *, reason: str = "", attempts: int = 0) -> None:
    Notice.objects.filter(pk=one.id, state=Notice.State.WAITING).update(
        state=state, ended_at=one.at, reason=reason, attempts=F("attempts") + attempts
    )


def forget(operator: Operator, *, before: dt.datetime, limit: int = 2000) -> int:
    """Drop an operator's notices that ended before; answers how many."""
    ids = Notice.objects.filter(operator=operator, ended_at__lt=before).values_list("pk", flat=True)
    return Notice.objects.filter(pk__in=list(ids[:limit])).delete()[0]
