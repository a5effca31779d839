"""Totals of hours and of local days: folded in behind the charge, and read exactly at any moment.

An hour and its day are written by one statement, so that a reader may take whole days for their
hours: two years of a busy subscriber are some thousand rows, not two hundred thousand. The queue
is the batches that are not folded yet; the oldest of them is the watermark. A reader adds what is
folded to what is not, in one snapshot, so that lag never shows.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from django.db import connection, transaction
from django.db.models import Min

from metering import records, usage_windows
from metering.models import Adjustment, UsageBatch
from subscriptions import partitions, periods
from subscriptions.advisory import Lock
from subscriptions.errors import Invalid

FOLD_AT_ONCE = 200

_COUNTS = (
    *("requests", "uncached_input_tokens", "cached_input_tokens", "cache_write_tokens"),
    *("output_tokens", "reasoning_tokens", "units"),
)
_SUMS = ", ".join(f"sum({name})" for name in _COUNTS)
_ADDED = ", ".join(f"{name} = h.{name} + EXCLUDED.{name}" for name in _COUNTS)


def _added(time: str, column: str, rows: str) -> str:
    return f"""
    (subscriber_id, {time}, {column}, {", ".join(_COUNTS)})
SELECT subscriber_id, {time}, {column}, {_SUMS}
FROM {rows}
GROUP BY 1, 2, 3
ORDER BY 1, 2, 3
ON CONFLICT (subscriber_id, {time}, {column}) DO UPDATE SET {_ADDED}
"""  # noqa: S608 - of constants


_DAYS = "(SELECT *, (hour AT TIME ZONE %(zone)s)::date AS day FROM added) added"
# The records are read once for all totals.
_ADD_SQL = f"""
WITH added AS MATERIALIZED (
    SELECT r.subscriber_id, date_trunc('hour', r.occurred_at, %(zone)s) AS hour, r.model,
           {{subject}} AS subject_id, {{requests}} AS requests,
           sum(r.uncached_input_tokens) AS uncached_input_tokens,
           sum(r.cached_input_tokens) AS cached_input_tokens,
           sum(r.cache_write_tokens) AS cache_write_tokens,
           sum(r.output_tokens) AS output_tokens, sum(r.reasoning_tokens) AS reasoning_tokens,
           sum(r.units) AS units
    FROM {{rows}}
      AND r.occurred_at BETWEEN %(first)s AND %(last)s
    GROUP BY 1, 2, 3, 4
), hours_by_subject AS (
    INSERT INTO metering_subjecthour AS h {_added("hour", "subject_id", "added")}
), days AS (
    INSERT INTO metering_usageday AS h {_added("day", "model", _DAYS)}
), days_by_subject AS (
    INSERT INTO metering_subjectday AS h {_added("day", "subject_id", _DAYS)}
)
INSERT INTO metering_usagehour AS h {_added("hour", "model", "added")}
"""  # noqa: S608 - of constants
# The day partitions are pruned by the batches' own range, their pages by the BRIN on batch_id.
_FOLD_SQL = _ADD_SQL.format(
    subject="r.subject_id",
    requests="count(*)",
    rows="""metering_usagerecord r
WHERE r.batch_id = ANY(%(batches)s) AND r.batch_id BETWEEN %(low)s AND %(high)s""",
)
_ADJUST_SQL = _ADD_SQL.format(
    subject="u.subject_id",
    requests="sum(r.requests)",
    rows="""metering_adjustedrecord r
JOIN metering_usagerecord u ON u.subscriber_id = r.subscriber_id AND u.gateway_id = r.gateway_id
 AND u.source = r.source AND u.record_id = r.record_id AND u.occurred_at = r.occurred_at
WHERE r.subscriber_id = %(subscriber)s AND r.batch_id = %(batch)s""",
)


def fold(*, at: dt.datetime, limit: int = FOLD_AT_ONCE) -> int:
    """Fold up to `limit` of the oldest finished batches; answers how many there were.

    One folder at a time; a second one answers 0 at once. Repeatable: a batch is folded in the
    transaction that marks it.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s, 0)", [Lock.FOLDING.value])
        if not cursor.fetchone()[0]:
            return 0
        waiting = list(
            UsageBatch.objects.filter(folded_at__isnull=True)
            .order_by("id")
            .values_list("id", "operator__time_zone", "occurred_from", "occurred_to")[:limit]
        )
        for zone, group in _alike(waiting):
            ids = [batch[0] for batch in group]
            cursor.execute(
                _FOLD_SQL,
                {
                    "zone": zone,
                    "batches": ids,
                    "low": min(ids),
                    "high": max(ids),
                    "first": min(batch[2] for batch in group),
                    "last": max(batch[3] for batch in group),
                },
            )
        if waiting:
            ids = [batch[0] for batch in waiting]
            UsageBatch.objects.filter(id__in=ids).update(folded_at=at)
            usage_windows.touch(ids)
    return len(waiting)


def _alike(
    batches: list[tuple[int, str, dt.datetime, dt.datetime]],
) -> Iterator[tuple[str, list[tuple[int, str, dt.datetime, dt.datetime]]]]:
    """Batches by zone and UTC days, so that a straggler does not widen the others' scan."""
    groups: dict[tuple[str, dt.date, dt.date], list[Any]] = {}
    for batch in batches:
        _, zone, first, last = batch
        key = (zone, first.astimezone(dt.UTC).date(), last.astimezone(dt.UTC).date())
        groups.setdefault(key, []).append(batch)
    for (zone, _, _), group in groups.items():
        yield zone, group


def adjust(adjustment: Adjustment, zone: str) -> None:
    """Let the totals say what an adjustment changed, in the transaction that makes it.

    A total may come before the records it is taken from, and is negative until they are folded.
    """
    assert connection.in_atomic_block
    with connection.cursor() as cursor:
        cursor.execute(
            _ADJUST_SQL,
            {
                "zone": zone,
                "subscriber": adjustment.subscriber_id,
                "batch": adjustment.batch_id,
                "first": adjustment.occurred_from,
                "last": adjustment.occurred_to,
            },
        )


def fold_all(*, at: dt.datetime) -> int:
    """Fold until nothing waits (or another folder is at it); answers how many batches."""
    waiting = UsageBatch.objects.filter(folded_at__isnull=True).order_by("id")
    times = waiting.values_list("occurred_from", "occurred_to")[:FOLD_AT_ONCE]
    records.summarize(partitions.day_of(time) for batch in times for time in batch)
    total = 0
    while folded := fold(at=at):
        total += folded
        if folded < FOLD_AT_ONCE:
            break
    return total


class Row(NamedTuple):
    """A line of the usage report. `period` is a start instant, units in thousandths."""

    period: dt.datetime
    model: str | None
    requests: int
    uncached_input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    units: int


# Whole days and hours come from the totals; edges inside an hour, and what is not folded yet, from
# the records. The batches not folded yet that hold this subscriber are found through its journal.
# Adjustments are in the totals at once: only at the edges their rows are wanted.
_USAGE_SQL = """
WITH unfolded AS (
    SELECT b.id, b.occurred_from, b.occurred_to
    FROM metering_usagebatch b
    WHERE b.folded_at IS NULL AND b.operator_id = %(operator)s
      AND b.occurred_to >= %(from)s AND b.occurred_from < %(to)s
), span AS (
    SELECT min(occurred_from) AS first, max(occurred_to) AS last FROM unfolded
), usage AS (
    SELECT h.day::timestamp AT TIME ZONE %(zone)s AS moment, {of_totals} AS part, h.requests,
           h.uncached_input_tokens, h.cached_input_tokens, h.cache_write_tokens, h.output_tokens,
           h.reasoning_tokens, h.units
    FROM {days} h
    WHERE h.subscriber_id = %(subscriber)s AND h.day >= %(days_from)s AND h.day < %(days_to)s
    UNION ALL
    SELECT h.hour, {of_totals}, h.requests, h.uncached_input_tokens, h.cached_input_tokens,
           h.cache_write_tokens, h.output_tokens, h.reasoning_tokens, h.units
    FROM {hours} h
    WHERE h.subscriber_id = %(subscriber)s
      AND ((h.hour >= %(first_hour)s AND h.hour < %(first_day)s)
        OR (h.hour >= %(last_day)s AND h.hour < %(last_hour)s))
    UNION ALL
    SELECT r.occurred_at, {of_records}, 1, r.uncached_input_tokens, r.cached_input_tokens,
           r.cache_write_tokens, r.output_tokens, r.reasoning_tokens, r.units
    FROM metering_usagerecord r
    WHERE r.subscriber_id = %(subscriber)s
      AND r.occurred_at >= greatest(%(first_hour)s, (SELECT first FROM span))
      AND r.occurred_at <= (SELECT last FROM span) AND r.occurred_at < %(last_hour)s
      AND r.batch_id IN (SELECT id FROM unfolded)
    UNION ALL
    SELECT r.occurred_at, {of_records}, 1, r.uncached_input_tokens, r.cached_input_tokens,
           r.cache_write_tokens, r.output_tokens, r.reasoning_tokens, r.units
    FROM metering_usagerecord r
    WHERE r.subscriber_id = %(subscriber)s
      AND ((r.occurred_at >= %(from)s AND r.occurred_at < %(first_hour)s)
        OR (r.occurred_at >= %(last_hour)s AND r.occurred_at < %(to)s))
    UNION ALL
    SELECT a.occurred_at, {of_adjusted}, a.requests, a.uncached_input_tokens,
           a.cached_input_tokens, a.cache_write_tokens, a.output_tokens, a.reasoning_tokens,
           a.units
    FROM metering_adjustedrecord a
    WHERE a.subscriber_id = %(subscriber)s
      AND ((a.occurred_at >= %(from)s AND a.occurred_at < %(first_hour)s)
        OR (a.occurred_at >= %(last_hour)s AND a.occurred_at < %(to)s))
)
{told}
"""
# What was voided is as if it never was.
_ROWS = """
SELECT date_trunc('{by}', moment, %(zone)s), part, sum(requests)::bigint,
       sum(uncached_input_tokens)::bigint, sum(cached_input_tokens)::bigint,
       sum(cache_write_tokens)::bigint, sum(output_tokens)::bigint,
       sum(reasoning_tokens)::bigint, sum(units)::bigint
FROM usage
GROUP BY 1, 2
HAVING sum(requests) <> 0
ORDER BY 1, 2
"""
_BY_PERIOD = """
SELECT period, json_object_agg(part, json_build_array(units, requests))
FROM (
    SELECT date_trunc('{by}', moment, %(zone)s) AS period, part, sum(units)::bigint AS units,
           sum(requests)::bigint AS requests
    FROM usage
    GROUP BY 1, 2
    HAVING sum(requests) <> 0
) parts
GROUP BY 1
ORDER BY 1
"""
_BY_MODEL = {
    "days": "metering_usageday",
    "hours": "metering_usagehour",
    "of_totals": "h.model",
    "of_records": "r.model",
    "of_adjusted": "a.model",
}
_IN_ALL = _BY_MODEL | dict.fromkeys(("of_totals", "of_records", "of_adjusted"), "NULL::text")
_BY_SUBJECT = {
    "days": "metering_subjectday",
    "hours": "metering_subjecthour",
    "of_totals": "h.subject_id::text",
    "of_records": "r.subject_id::text",
    "of_adjusted": """(
        SELECT u.subject_id::text FROM metering_usagerecord u
        WHERE u.subscriber_id = a.subscriber_id AND u.gateway_id = a.gateway_id
          AND u.source = a.source AND u.record_id = a.record_id
          AND u.occurred_at = a.occurred_at)""",
}
MAX_RANGE = {"hour": dt.timedelta(days=31), "day": dt.timedelta(days=400), "month": None}


def usage(
    operator_id: int,
    subscriber_id: int,
    zone: ZoneInfo,
    *,
    since: dt.datetime,
    until: dt.datetime,
    by: str,
    by_model: bool = False,
) -> list[Row]:
    """What a subscriber used in `[since, until)`, by hour, day or month of the zone, exact now.

    Raises Invalid for a range that is empty or longer than MAX_RANGE allows.
    """
    parts = _BY_MODEL if by_model else _IN_ALL
    told = parts | {"told": _ROWS}
    rows = _read(operator_id, subscriber_id, zone, since=since, until=until, by=by, told=told)
    return [Row(*row) for row in rows]


def usage_by_subject(
    operator_id: int,
    subscriber_id: int,
    zone: ZoneInfo,
    *,
    since: dt.datetime,
    until: dt.datetime,
    by: str,
) -> list[tuple[int, Row]]:
    """The same by the subject (a binding's id) that used it, whatever the model."""
    told = _BY_SUBJECT | {"told": _ROWS}
    rows = _read(operator_id, subscriber_id, zone, since=since, until=until, by=by, told=told)
    return [(int(part), Row(period, None, *sums)) for period, part, *sums in rows]


def usage_by_period(
    operator_id: int,
    subscriber_id: int,
    zone: ZoneInfo,
    *,
    since: dt.datetime,
    until: dt.datetime,
    by: str,
    of: str,
) -> list[tuple[dt.datetime, dict[str, tuple[int, int]]]]:
    """Of each period the units and requests `of` each `model` or `subject` (a binding's id).

    The same as above without the classes of tokens: a year by day and model is a row a day.
    """
    told = (_BY_MODEL if of == "model" else _BY_SUBJECT) | {"told": _BY_PERIOD}
    rows = _read(operator_id, subscriber_id, zone, since=since, until=until, by=by, told=told)
    return [(period, parts) for period, parts in rows]


def _read(
    operator_id: int,
    subscriber_id: int,
    zone: ZoneInfo,
    *,
    since: dt.datetime,
    until: dt.datetime,
    by: str,
    told: dict[str, str],
) -> list[tuple[Any, ...]]:
    longest = MAX_RANGE[by]
    if since >= until:
        raise Invalid("from must be before to")
    if longest is not None and until - since > longest:
        raise Invalid(f"by={by} answers at most {longest.days} days; ask for less, or by=month")
    first_hour = periods.hour_start(since, zone)
    if first_hour < since:
        first_hour = periods.hour_start(since + dt.timedelta(hours=1), zone)
    last_hour = periods.hour_start(until, zone)
    if first_hour > last_hour:  # all inside one hour
        first_hour = last_hour = until
    first_day = periods.day_start(first_hour, zone)
    if first_day < first_hour:
        first_day = periods.midnight(periods.day_of(first_hour, zone) + dt.timedelta(days=1), zone)
    last_day = periods.day_start(last_hour, zone)
    if by == "hour" or first_day > last_day:  # all of it by hours
        first_day = last_day = last_hour
    sql = _USAGE_SQL.format(**told | {"told": told["told"].format(by=by)})
    with connection.cursor() as cursor:
        cursor.execute(
            sql,
            {
                "operator": operator_id,
                "subscriber": subscriber_id,
                "zone": zone.key,
                "from": since,
                "to": until,
                "first_hour": first_hour,
                "last_hour": last_hour,
                "first_day": first_day,
                "last_day": last_day,
                "days_from": periods.day_of(first_day, zone),
                "days_to": periods.day_of(last_day, zone),
            },
        )
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows


def watermark(*, at: dt.datetime) -> dt.datetime:
    """Everything stored before this instant (the wall's) is in the hourly totals."""
    waiting = UsageBatch.objects.filter(folded_at__isnull=True)
    # Not that of the lowest number: processes hand out numbers of their own ahead of time.
    oldest: dt.datetime | None = waiting.aggregate(oldest=Min("stored_at"))["oldest"]
    return oldest or at


def unfolded_since(operator_id: int) -> dt.datetime | None:
    """From when on an operator's usage may lack in the hourly totals; None: nothing lacks.

    Of what is committed. A charge that is under way has a `stored_at` before its commit: who
    needs all of a time that is over must come later than any charge of it can still take.
    """
    waiting = UsageBatch.objects.filter(folded_at__isnull=True, operator_id=operator_id)
    oldest: dt.datetime | None = waiting.aggregate(oldest=Min("occurred_from"))["oldest"]
    return oldest
