"""Usage records in their day partitions: storing them, and knowing them again.

A record is known by (gateway, source, id) within its subscriber: on its own day by a unique key,
on the days around it by a look at their keys.
"""

from __future__ import annotations

import datetime as dt
import struct
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from psycopg import errors as pg
from psycopg.types.numeric import Int8

from metering.context import Standing
from metering.parsing import Usage
from subscriptions import partitions
from subscriptions.pgarrays import Cursor, Int8s, Texts

# A resend with another time counts as the same record up to so many days away.
NEIGHBOUR_DAYS = 3
RECORDS = partitions.DayTable(
    "metering_usagerecord",
    "occurred_at",
    indexes=(
        "CREATE UNIQUE INDEX {name}_key ON {name} (subscriber_id, gateway_id, source, record_id)",
        "CREATE INDEX {name}_time ON {name} (subscriber_id, occurred_at)",
        # Batches are appended: a few hundred bytes of BRIN find one among millions.
        "CREATE INDEX {name}_batch ON {name} USING brin (batch_id) WITH (pages_per_range = 16)",
    ),
)


class SeenBefore(Exception):
    """Some id is stored already, on its own or a neighbouring day."""


class PartitionGone(Exception):
    """Retention dropped a day that this process knew."""


# A record that may be charged: (subscriber, source, id, occurred_at, units, place in the request's
# usage, usage, standing, weight id). Its key comes first, so that lines sort into lock order. A
# plain tuple: there are thousands a second.
Line = tuple[int, str, str, dt.datetime, int, int, Usage, Standing, int]


_COLUMNS = (
    "subscriber_id, gateway_id, occurred_at, batch_id, subject_id, weight_id, units,"
    " uncached_input_tokens, cached_input_tokens, cache_write_tokens, output_tokens,"
    " reasoning_tokens, record_id, model, source, outcome, attributes"
)
COPY_SQL = f"COPY metering_usagerecord ({_COLUMNS}) FROM STDIN (FORMAT binary)"
_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = b"\xff\xff"
_FIXED = struct.Struct(">h" + "iq" * 7 + "ii" * 5 + "i")
_NULL = b"\xff\xff\xff\xff"
_EPOCH = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)  # PostgreSQL's


def encode(lines: Iterable[Line], *, gateway_id: int, batch_id: int) -> bytes:
    """The lines as a binary COPY of COPY_SQL's columns."""
    pack = _FIXED.pack
    tails: dict[tuple[str, str, str | None], bytes] = {}
    parts = [_HEADER]
    for (
        subscriber_id,
        source,
        record_id,
        occurred_at,
        units,
        _,
        usage,
        standing,
        weight_id,
    ) in lines:
        since = occurred_at - _EPOCH
        name = record_id.encode()
        cached, written, reasoning = (
            usage.cached_input_tokens,
            usage.cache_write_tokens,
            usage.reasoning_tokens,
        )
        parts.append(
            pack(
                17,
                8, subscriber_id,
                8, gateway_id,
                8, (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds,
                8, batch_id,
                8, standing.binding_id,
                8, weight_id,
                8, units,
                4, usage.input_tokens - cached - written,
                4, cached,
                4, written,
                4, usage.output_tokens - reasoning,
                4, reasoning,
                len(name),
            )
        )  # fmt: skip
        parts.append(name)
        shared = (usage.model, source, usage.outcome)
        tail = tails.get(shared)
        if tail is None:
            texts = (usage.model.encode(), source.encode(), (usage.outcome or "").encode())
            tail = b"".join(len(text).to_bytes(4, "big") + text for text in texts)
            tails[shared] = tail
        parts.append(tail)
        if usage.attributes is msgspec.UNSET:
            parts.append(_NULL)
        else:  # jsonb, version 1
            attributes = bytes(usage.attributes)
            parts.append((len(attributes) + 1).to_bytes(4, "big") + b"\1" + attributes)
    parts.append(_TRAILER)
    return b"".join(parts)


def store(cursor: Cursor, lines: Sequence[Line], *, gateway_id: int, batch_id: int) -> None:
    """COPY lines that are in key order: writers that share records queue, and never deadlock.

    Raises SeenBefore if a key is stored already, PartitionGone; the transaction is then lost.
    """
    data = encode(lines, gateway_id=gateway_id, batch_id=batch_id)
    try:
        with cursor.copy(COPY_SQL) as copy:
            copy.write(data)
    except pg.UniqueViolation as error:
        raise SeenBefore from error
    except pg.CheckViolation as error:
        partitions.forget(RECORDS)
        raise PartitionGone from error


_FIND_SQL = """
SELECT g.nr, s.subject, r.model, r.uncached_input_tokens, r.cached_input_tokens,
       r.cache_write_tokens, r.output_tokens, r.reasoning_tokens
FROM unnest(%b::bigint[], %b::text[], %b::text[]) WITH ORDINALITY
     AS g (subscriber_id, source, record_id, nr)
JOIN metering_usagerecord r
  ON r.subscriber_id = g.subscriber_id AND r.gateway_id = %b AND r.source = g.source
 AND r.record_id = g.record_id
JOIN subscriptions_subject s ON s.id = r.subject_id
WHERE r.occurred_at >= %b AND r.occurred_at < %b
"""


def find(
    cursor: Cursor, keys: Sequence[tuple[int, Usage]], *, gateway_id: int
) -> dict[int, tuple[Any, ...]]:
    """Of (subscriber, usage) pairs, by index: the content stored under the same id near its day."""
    found: dict[int, tuple[Any, ...]] = {}
    near = dt.timedelta(days=NEIGHBOUR_DAYS)
    days: dict[dt.date, list[int]] = defaultdict(list)
    for nr, (_, usage) in enumerate(keys):
        days[partitions.day_of(usage.occurred_at)].append(nr)
    for day, members in days.items():
        midnight = dt.datetime.combine(day, dt.time(), dt.UTC)
        cursor.execute(
            _FIND_SQL,
            [
                Int8s([keys[nr][0] for nr in members]),
                Texts([keys[nr][1].source for nr in members]),
                Texts([keys[nr][1].id for nr in members]),
                Int8(gateway_id),
                midnight - near,
                midnight + near + partitions.DAY,
            ],
            binary=True,
        )
        for nr, *content in cursor.fetchall():
            found.setdefault(members[nr - 1], tuple(content))
    return found


def content_of(usage: Usage) -> tuple[Any, ...]:
    """What makes two records with one id the same: not time, outcome or attributes."""
    return usage.subject, usage.model, *usage.classes()


# The keys of one day and source against the partitions around it; an empty one costs nothing.
_KEYS_SQL = """
WITH g AS MATERIALIZED (
    SELECT * FROM unnest(%b::bigint[], %b::text[]) AS g (subscriber_id, record_id)
), sender AS (SELECT %b::bigint AS gateway_id, %b::text AS source)
"""
_NEIGHBOUR_SQL = """
SELECT FROM sender, g JOIN {table} r
  ON r.subscriber_id = g.subscriber_id AND r.record_id = g.record_id
WHERE r.gateway_id = sender.gateway_id AND r.source = sender.source
  AND (SELECT EXISTS (SELECT FROM {table}))
"""


def refuse_neighbours(cursor: Cursor, lines: Sequence[Line], *, gateway_id: int) -> None:
    """Raise SeenBefore if an id of these lines is stored on one of the days around its own.

    To be called with the subscribers' locks held: of two charges that carry one id with other
    times, the later then sees the earlier's record. Raises PartitionGone.
    """
    for (day, source), near in _by_day_and_source(lines).items():
        tables = partitions.around(RECORDS, day, NEIGHBOUR_DAYS)
        if not tables:
            continue
        looks = " UNION ALL ".join(_NEIGHBOUR_SQL.format(table=table) for table in tables)
        try:
            cursor.execute(
                f"{_KEYS_SQL} {looks} LIMIT 1",
                [
                    Int8s([line[0] for line in near]),
                    Texts([line[2] for line in near]),
                    Int8(gateway_id),
                    source,
                ],
                prepare=True,
            )
        except pg.UndefinedTable as error:
            partitions.forget(RECORDS)
            raise PartitionGone from error
        if cursor.fetchone() is not None:
            raise SeenBefore


def _by_day_and_source(lines: Sequence[Line]) -> dict[tuple[dt.date, str], Sequence[Line]]:
    """Nearly always one group: a batch is of one sender and one day."""
    days, sources = days_of(lines), {line[1] for line in lines}
    if len(days) == len(sources) == 1:
        return {(days.pop(), sources.pop()): lines}
    groups: dict[tuple[dt.date, str], list[Line]] = defaultdict(list)
    for line in lines:
        groups[partitions.day_of(line[3]), line[1]].append(line)
    return dict(groups)


def days_of(lines: Sequence[Line]) -> set[dt.date]:
    """The UTC days whose partitions hold these lines."""
    times = [line[3] for line in lines]
    first, last = partitions.day_of(min(times)), partitions.day_of(max(times))
    if first == last:
        return {first}
    return {partitions.day_of(time) for time in times}
