"""How much of a plan's windows (5 h, day, week, month) is left: counted exactly, when it is asked.

The usage path keeps no counters for it. Whole hours come from the hourly totals; what is not
folded in yet, and the edges inside an hour, from the records of the days they lie on. To it comes
what open reservations hold. Asked under the subscriber's bucket locks, no draw of its usage can
commit meanwhile: what is granted is never more than the window has left.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from zoneinfo import ZoneInfo

from psycopg.types.numeric import Int8

from metering.records import RECORDS
from subscriptions import partitions, periods, pgarrays
from subscriptions.buckets import Period
from subscriptions.pgarrays import Int8s
from subscriptions.reservations import Room

_HOUR = dt.timedelta(hours=1)
# The end of a window that has none: usage may come some minutes ahead of the clock.
_NEVER = dt.datetime(9000, 1, 1, tzinfo=dt.UTC)

# All of one moment: a batch is in the hourly totals or among those not folded, never in both.
_FOLDED_SQL = """
SELECT w.nr, coalesce((
           SELECT sum(h.units) FROM metering_usagehour h
           WHERE h.subscriber_id = %b AND h.hour >= w.first AND h.hour < w.last), 0)::bigint,
       (SELECT coalesce(sum(r.held + r.promised), 0)::bigint FROM subscriptions_reservation r
        WHERE r.subscriber_id = %b AND r.state = 1),
       b.ids, b.first, b.last
FROM unnest(%b::timestamptz[], %b::timestamptz[]) WITH ORDINALITY AS w (first, last, nr)
CROSS JOIN (
    SELECT array_agg(id) AS ids, min(occurred_from) AS first, max(occurred_to) AS last
    FROM metering_usagebatch
    WHERE folded_at IS NULL AND operator_id = %b AND occurred_to >= %b
) b
ORDER BY w.nr
"""
# The rest, of one day: what no hourly total holds.
_REST_SQL = """
SELECT w.nr, r.units FROM {table} r
JOIN unnest(%b::timestamptz[], %b::timestamptz[], %b::timestamptz[], %b::timestamptz[])
     WITH ORDINALITY AS w (since, until, first, last, nr)
  ON r.occurred_at >= w.since AND r.occurred_at < w.until
WHERE r.subscriber_id = %b AND r.occurred_at >= %b
  AND (r.occurred_at < w.first OR r.occurred_at >= w.last OR r.batch_id = ANY(%b::bigint[]))
"""


def room_of(
    operator_id: int, subscriber_id: int, period: Period, *, at: dt.datetime, zone: ZoneInfo
) -> Room | None:
    """What the fullest of a plan's windows has left at `at`; None for a plan without any."""
    policy = period.policy
    if policy is None or not policy.windows:
        return None
    spans = [
        periods.window(w.per, at, zone, sliding=w.sliding, anchor=period.starts_at)
        for w in policy.windows
    ]
    used = _used(
        operator_id, subscriber_id, [(since, until or _NEVER) for since, until in spans], zone
    )
    rooms = [
        Room(window.units - units, window.per, "sliding" if window.sliding else "fixed", until)
        for window, units, (_, until) in zip(policy.windows, used, spans, strict=True)
    ]
    return min(rooms, key=lambda room: room.left)


def _used(
    operator_id: int,
    subscriber_id: int,
    spans: Sequence[tuple[dt.datetime, dt.datetime]],
    zone: ZoneInfo,
) -> list[int]:
    """Units used in each span and held now."""
    hours = [_whole_hours(since, until, zone) for since, until in spans]
    earliest = min(since for since, _ in spans)
    cursor = pgarrays.cursor()
    cursor.execute(
        _FOLDED_SQL,
        [
            Int8(subscriber_id),
            Int8(subscriber_id),
            [first for first, _ in hours],
            [last for _, last in hours],
            Int8(operator_id),
            earliest,
        ],
        binary=True,
        prepare=True,
    )
    rows = cursor.fetchall()
    units = [folded + held for _, folded, held, *_ in rows]
    unfolded, first, last = rows[0][3:]
    days = {
        partitions.day_of(moment)
        for (since, until), (whole, end) in zip(spans, hours, strict=True)
        for start, stop in ((since, whole), (end, until))
        if start < stop
        for moment in (start, stop)
    }
    if unfolded:
        day = partitions.day_of(max(first, earliest))
        while day <= partitions.day_of(last):
            days.add(day)
            day += partitions.DAY
    for table in partitions.names_of(RECORDS, sorted(days)):
        cursor.execute(
            _REST_SQL.format(table=table),
            [
                [since for since, _ in spans],
                [until for _, until in spans],
                [whole for whole, _ in hours],
                [end for _, end in hours],
                Int8(subscriber_id),
                earliest,
                Int8s(unfolded or []),
            ],
            binary=True,
        )
        for nr, part in cursor.fetchall():
            units[nr - 1] += part
    return units


def _whole_hours(
    since: dt.datetime, until: dt.datetime, zone: ZoneInfo
) -> tuple[dt.datetime, dt.datetime]:
    """From when until when whole hours of the zone lie in a span."""
    first = periods.hour_start(since, zone)
    if first < since:
        first = periods.hour_start(since + _HOUR, zone)
    last = until if until == _NEVER else periods.hour_start(until, zone)
    return first, max(first, last)
