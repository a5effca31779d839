"""How much is left of a plan's windows (5 h, day, week, month), and of what is capped besides:
counted exactly, when it is asked.

The usage path keeps no counters for it. Whole hours come from the hourly totals; what is not
folded in yet, and the edges inside an hour, from the records of the days they lie on. To it comes
what open reservations hold. Asked under the subscriber's bucket locks, no draw of its usage can
commit meanwhile: what is granted is never more than the window has left.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import NamedTuple
from zoneinfo import ZoneInfo

from psycopg.types.numeric import Int8

from metering.records import RECORDS
from subscriptions import partitions, periods, pgarrays
from subscriptions.demands import Period
from subscriptions.pgarrays import Int8s, Texts
from subscriptions.reservations import Cap, Room

_HOUR = dt.timedelta(hours=1)
# The end of a window that has none: usage may come some minutes ahead of the clock.
_NEVER = dt.datetime(9000, 1, 1, tzinfo=dt.UTC)

# All of one moment: a batch is in the hourly totals or among those not folded, never in both. What
# was reserved before anybody asked by whom counts for each.
_FOLDED_SQL = """
SELECT w.nr, coalesce(CASE WHEN w.binding = 0 THEN (
           SELECT sum(h.units) FROM metering_usagehour h
           WHERE h.subscriber_id = o.subscriber AND h.hour >= w.first AND h.hour < w.last)
       ELSE (
           SELECT sum(h.units) FROM metering_subjecthour h
           WHERE h.subscriber_id = o.subscriber AND h.subject_id = w.binding
             AND h.hour >= w.first AND h.hour < w.last) END, 0)::bigint,
       (SELECT coalesce(sum(r.held + r.promised), 0)::bigint FROM subscriptions_reservation r
        WHERE r.subscriber_id = o.subscriber AND r.state = 1
          AND (w.binding = 0 OR r.subject IN (w.subject, ''))),
       b.ids, b.first, b.last
FROM (SELECT %b::bigint AS subscriber) o
CROSS JOIN unnest(%b::timestamptz[], %b::timestamptz[], %b::bigint[], %b::text[])
           WITH ORDINALITY AS w (first, last, binding, subject, nr)
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
JOIN unnest(%b::timestamptz[], %b::timestamptz[], %b::timestamptz[], %b::timestamptz[],
            %b::bigint[]) WITH ORDINALITY AS w (since, until, first, last, binding, nr)
  ON r.occurred_at >= w.since AND r.occurred_at < w.until
 AND (w.binding = 0 OR r.subject_id = w.binding)
WHERE r.subscriber_id = %b AND r.occurred_at >= %b
  AND (r.occurred_at < w.first OR r.occurred_at >= w.last OR r.batch_id = ANY(%b::bigint[]))
"""


class _Span(NamedTuple):
    """A time, and whose use of it counts: one subject's, by its binding, or all (0)."""

    since: dt.datetime
    until: dt.datetime
    binding_id: int = 0
    subject: str = ""


def rooms_of(
    operator_id: int,
    subscriber_id: int,
    period: Period,
    caps: Sequence[Cap] = (),
    *,
    at: dt.datetime,
    zone: ZoneInfo,
) -> list[Room]:
    """What each of a plan's windows, and of these caps, has left at `at`."""
    windows = period.policy.windows if period.policy is not None else ()
    times = [
        periods.window(w.per, at, zone, sliding=w.sliding, anchor=period.starts_at) for w in windows
    ]
    spans = [_Span(since, until or _NEVER) for since, until in times]
    # Usage may come some minutes ahead of the clock.
    spans += [_Span(cap.since, _NEVER, cap.binding_id, cap.subject or "") for cap in caps]
    if not spans:
        return []
    used = _used(operator_id, subscriber_id, spans, zone)
    rooms = [
        Room(window.units - units, window.per, "sliding" if window.sliding else "fixed", until)
        for window, units, (_, until) in zip(windows, used, times, strict=False)
    ]
    return rooms + [
        Room(cap.units - units, cap.per, "cap", cap.until, cap.cause, cap.subject)
        for cap, units in zip(caps, used[len(windows) :], strict=True)
    ]


def _used(
    operator_id: int, subscriber_id: int, spans: Sequence[_Span], zone: ZoneInfo
) -> list[int]:
    """Units used in each span and held now."""
    hours = [_whole_hours(span.since, span.until, zone) for span in spans]
    earliest = min(span.since for span in spans)
    bindings = Int8s(span.binding_id for span in spans)
    cursor = pgarrays.cursor()
    cursor.execute(
        _FOLDED_SQL,
        [
            Int8(subscriber_id),
            [first for first, _ in hours],
            [last for _, last in hours],
            bindings,
            Texts(span.subject for span in spans),
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
        for span, (whole, end) in zip(spans, hours, strict=True)
        for start, stop in ((span.since, whole), (end, span.until))
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
                [span.since for span in spans],
                [span.until for span in spans],
                [whole for whole, _ in hours],
                [end for _, end in hours],
                bindings,
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
