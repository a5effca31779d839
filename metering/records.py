"""Usage records in their day partitions: storing them, and knowing them again.

A record is known by (gateway, source, id) within its subscriber: on its own day by a unique key,
on the days around it by a look at their keys.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
from django.db import OperationalError, connection, transaction
from psycopg import errors as pg
from psycopg.types.numeric import Int8

from metering.context import NEIGHBOUR_DAYS, Standing
from metering.parsing import Usage
from subscriptions import partitions, pipeline, reservations_few
from subscriptions.pgarrays import (
    EPOCH,
    Cursor,
    Int8s,
    Texts,
    array_header,
    micros_of,
    pack_instant,
    pack_int8,
    pack_int8s,
    pack_texts,
    unpack_int8s,
)
from subscriptions.pipeline import Call, Statement
from subscriptions.reservations_few import Commit

RECORDS = partitions.DayTable(
    "metering_usagerecord",
    "occurred_at",
    indexes=(
        "CREATE UNIQUE INDEX {name}_key ON {name} (subscriber_id, gateway_id, source, record_id)",
        # Partial, though no time is null: only who asks for times may use it. For a key it looks as
        # cheap to the planner, and reads a busy subscriber's whole day for each.
        "CREATE INDEX {name}_time ON {name} (subscriber_id, occurred_at)"
        " WHERE occurred_at IS NOT NULL",
        # Batches are appended: a few hundred bytes of BRIN find one among millions, once
        # `summarize` has noted them.
        "CREATE INDEX {name}_batch ON {name} USING brin (batch_id) WITH (pages_per_range = 16)",
    ),
)


class SeenBefore(Exception):
    """Some id is stored already, on its own or a neighbouring day."""


class PartitionGone(Exception):
    """Retention dropped a day that this process knew."""


# A record that may be charged: (subscriber, source, id, occurred_at, units, place in the request's
# usage, usage, standing, weight id, and the tokens of each class as `Usage.classes` has them). Its
# key comes first, so that lines sort into lock order. A plain tuple: there are thousands a second.
Line = tuple[int, str, str, dt.datetime, int, int, Usage, Standing, int, int, int, int, int, int]


@contextlib.contextmanager
def failures() -> Iterator[None]:
    """Raise SeenBefore if a key is stored near its day already, PartitionGone where one is missing.

    Around all statements of a charge: in a pipeline a statement's failure comes to light at any
    later one. The transaction is lost then.
    """
    try:
        yield
    except pg.UniqueViolation as error:
        raise SeenBefore from error
    except (pg.CheckViolation, pg.UndefinedTable) as error:
        for table in (RECORDS, partitions.ENTRIES):
            partitions.forget(table)
        raise PartitionGone from error


# First what is each record's own, then what many share.
_COLUMNS = (
    "subscriber_id, subject_id, occurred_at, units, uncached_input_tokens, cached_input_tokens,"
    " cache_write_tokens, output_tokens, reasoning_tokens, record_id,"
    " gateway_id, batch_id, weight_id, model, source, outcome, attributes"
)
COPY_SQL = f"COPY metering_usagerecord ({_COLUMNS}) FROM STDIN (FORMAT binary)"
_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = b"\xff\xff"
_OWN = struct.Struct(">h" + "iq" * 4 + "ii" * 5 + "i")
_SHARED = struct.Struct(">" + "iq" * 3)
_NULL = b"\xff\xff\xff\xff"


def encode(lines: Iterable[Line], *, gateway_id: int, batch_id: int) -> bytes:
    """The lines as a binary COPY of COPY_SQL's columns."""
    pack, unset, length = _OWN.pack, msgspec.UNSET, len
    tails: dict[tuple[int, str, str, str | None], bytes] = {}
    parts = [_HEADER]
    add = parts.extend
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
        uncached,
        cached,
        written,
        output,
        reasoning,
    ) in lines:
        name = record_id.encode()
        since = occurred_at - EPOCH
        shared = (weight_id, usage.model, source, usage.outcome)
        tail = tails.get(shared)
        if tail is None:
            texts = (usage.model.encode(), source.encode(), (usage.outcome or "").encode())
            tail = _SHARED.pack(8, gateway_id, 8, batch_id, 8, weight_id) + b"".join(
                length(text).to_bytes(4, "big") + text for text in texts
            )
            tails[shared] = tail
        add((
            pack(
                17,
                8, subscriber_id,
                8, standing.binding_id,
                8, (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds,
                8, units,
                4, uncached,
                4, cached,
                4, written,
                4, output,
                4, reasoning,
                length(name),
            ),
            name,
            tail,
            _NULL if usage.attributes is unset else _jsonb(usage),
        ))  # fmt: skip
    parts.append(_TRAILER)
    return b"".join(parts)


def _jsonb(usage: Usage) -> bytes:
    """A record's attributes with their length: jsonb, version 1, or null."""
    if usage.attributes is msgspec.UNSET:
        return _NULL
    attributes = bytes(usage.attributes)
    return (len(attributes) + 1).to_bytes(4, "big") + b"\1" + attributes


def store(
    lines: Sequence[Line],
    *,
    gateway_id: int,
    batch_id: int,
    meanwhile: Callable[[], None] = lambda: None,
) -> None:
    """COPY lines that are in key order: writers that share records queue, and never deadlock.

    `meanwhile` is done here while the server stores them.
    """
    data = encode(lines, gateway_id=gateway_id, batch_id=batch_id)
    pipeline.copy(COPY_SQL.encode(), data, meanwhile=meanwhile)


# A metering_line in binary: how many bytes follow, how many columns, and of each its type's oid and
# length before its value.
_LINE = struct.Struct(">ii" + "iiq" * 5 + "iii" * 5 + "ii")
_LINE_HEAD = _LINE.size - 4
_INT4, _INT8, _TEXT, _INSTANT, _JSONB = 23, 20, 25, 1184, 3802
_JSONB_OID = _JSONB.to_bytes(4, "big")


def _rows(lines: Sequence[Line]) -> bytes:
    """The lines as the elements of a metering_line[]."""
    parts = []
    for line in lines:
        usage = line[6]
        uncached, cached, written, output, reasoning = line[9:]
        name = line[2].encode()
        tail = _texts(usage.model, line[1], usage.outcome or "") + _JSONB_OID + _jsonb(usage)
        parts.append(
            _LINE.pack(
                _LINE_HEAD + len(name) + len(tail),
                15,
                _INT8, 8, line[0],
                _INSTANT, 8, micros_of(line[3]),
                _INT8, 8, line[7].binding_id,
                _INT8, 8, line[8],
                _INT8, 8, line[4],
                _INT4, 4, uncached,
                _INT4, 4, cached,
                _INT4, 4, written,
                _INT4, 4, output,
                _INT4, 4, reasoning,
                _TEXT, len(name),
            )
        )  # fmt: skip
        parts.append(name)
        parts.append(tail)
    return b"".join(parts)


@functools.lru_cache(maxsize=4096)
def _texts(*texts: str) -> bytes:
    """Columns that are the same in many records."""
    encoded = [text.encode() for text in texts]
    return b"".join(struct.pack(">ii", _TEXT, len(text)) + text for text in encoded)


def _call(name: str, parameters: int, answer: str = "{}") -> Statement:
    given = ", ".join(f"${nr}" for nr in range(1, parameters + 1))
    return Statement(name, f"SELECT {answer.format(f'{name}({given})')}")


_CHARGE_FEW = _call("metering_charge_few", 16)
_COMMIT_FEW = _call("metering_commit_few", 17, "c.low, c.freed FROM {} c")
# Up to so many records one message is faster than COPY and what follows it.
FEW = 64


def charge_few(
    given: Sequence[bytes | None],
    draws: Sequence[Sequence[int]],
    lines: Sequence[Line],
    held: bytes | None,
    *,
    gateway_id: int,
) -> list[int]:
    """Store few lines, close their batch and draw for them, in a transaction of its own.

    `given` are the function's arguments up to the batch, in binary; `draws` subscribers, buckets,
    units and generations; `held` whom to hold, as it is passed. Answers the subscribers whose
    bucket runs low. Raises as `failures` says and as the function does.
    """
    [low] = _run_few(_CHARGE_FEW, given, draws, lines, gateway_id, held)
    return unpack_int8s(low) if low is not None else []


def commit_few(
    given: Sequence[bytes | None],
    draws: Sequence[Sequence[int]],
    lines: Sequence[Line],
    commits: Sequence[Commit],
    held: bytes | None,
    *,
    gateway_id: int,
) -> tuple[list[int], list[int]]:
    """The same for usage under reservations, a commit for each line, which are settled with it.

    Answers the subscribers whose bucket runs low, and what each reservation gave back.
    """
    # Reservations are locked by subscriber and name, whatever the order of their records.
    order = sorted(
        range(len(commits)), key=lambda nr: (commits[nr].subscriber_id, commits[nr].name)
    )
    packed = reservations_few.pack_commits([commits[nr] for nr in order])
    low, freed = _run_few(_COMMIT_FEW, given, draws, lines, gateway_id, packed, held)
    assert freed is not None
    given_back = dict(zip(order, unpack_int8s(freed), strict=True))
    return (
        unpack_int8s(low) if low is not None else [],
        [given_back[nr] for nr in range(len(commits))],
    )


def _run_few(
    statement: Statement,
    given: Sequence[bytes | None],
    draws: Sequence[Sequence[int]],
    lines: Sequence[Line],
    gateway_id: int,
    *more: bytes | None,
) -> pipeline.Row:
    rows = array_header(pipeline.oid_of("metering_line"), len(lines)) + _rows(lines)
    charge: Call = (statement, [*given, *[pack_int8s(column) for column in draws], rows, *more])
    looks = [
        (_around(tables, of="few"), asked)
        for _, tables, asked in _around_each(lines, span_of(lines).days, gateway_id=gateway_id)
    ]
    row = pipeline.run([charge, *looks])[0]
    assert row is not None
    return row


_FIND_SQL = """
SELECT g.nr, s.subject, r.model, r.uncached_input_tokens, r.cached_input_tokens,
       r.cache_write_tokens, r.output_tokens, r.reasoning_tokens
FROM unnest(%b::bigint[], %b::text[], %b::text[]) WITH ORDINALITY
     AS g (subscriber_id, source, record_id, nr)
CROSS JOIN LATERAL ({looks}) AS r
JOIN subscriptions_subject s ON s.id = r.subject_id
"""
_STORED_SQL = """
SELECT r.subject_id, r.model, r.uncached_input_tokens, r.cached_input_tokens,
       r.cache_write_tokens, r.output_tokens, r.reasoning_tokens
FROM {table} r
WHERE r.subscriber_id = g.subscriber_id AND r.gateway_id = %b AND r.source = g.source
  AND r.record_id = g.record_id
"""


def find(
    cursor: Cursor, keys: Sequence[tuple[int, Usage]], *, gateway_id: int
) -> dict[int, tuple[Any, ...]]:
    """Of (subscriber, usage) pairs, by index: the content stored under the same id near its day."""
    found: dict[int, tuple[Any, ...]] = {}
    days: dict[dt.date, list[int]] = defaultdict(list)
    for nr, (_, usage) in enumerate(keys):
        days[partitions.day_of(usage.occurred_at)].append(nr)
    for day, members in days.items():
        # Its own day first: of two records under one id, the nearest is the one meant.
        tables = partitions.names_of(RECORDS, [day, *partitions.neighbours(day, NEIGHBOUR_DAYS)])
        if not tables:
            continue
        looks = " UNION ALL ".join(_STORED_SQL.format(table=table) for table in tables)
        cursor.execute(
            _FIND_SQL.format(looks=looks),
            [
                Int8s([keys[nr][0] for nr in members]),
                Texts([keys[nr][1].source for nr in members]),
                Texts([keys[nr][1].id for nr in members]),
                *[Int8(gateway_id)] * len(tables),
            ],
            binary=True,
        )
        for nr, *content in cursor.fetchall():
            found.setdefault(members[nr - 1], tuple(content))
    return found


def content_of(usage: Usage) -> tuple[Any, ...]:
    """What makes two records with one id the same: not time, outcome or attributes."""
    return usage.subject, usage.model, *usage.classes()


# The keys of one day and source against each of the partitions around it; an empty one costs
# nothing. What is found ends the transaction, as a key stored twice on one day does. OFFSET 0 keeps
# a plan made of an empty day from reading all of it once it is full.
_AROUND_SQL = "SELECT metering_seen_before() FROM ({looks}) AS seen LIMIT 1"
# The same, but only where the operator has had something stored since a snapshot that may be on one
# of these days; where not, no day is looked at.
_AGAIN_SQL = """
SELECT metering_seen_before() FROM ({looks}) AS seen
WHERE (
    SELECT EXISTS (
        SELECT FROM metering_usagebatch b
        WHERE b.stored_by >= pg_snapshot_xmin($6::text::pg_snapshot)
          AND b.stored_by < pg_snapshot_xmax(pg_current_snapshot())
          AND NOT pg_visible_in_snapshot(b.stored_by, $6::text::pg_snapshot)
          AND b.operator_id = $5::bigint
          AND (b.occurred_from < $7::timestamptz OR b.occurred_to >= $8::timestamptz)
    )
)
LIMIT 1
"""
_LOOK_SQL = """
SELECT FROM unnest($1::bigint[], $2::text[]) AS g (subscriber_id, record_id)
CROSS JOIN LATERAL (
    SELECT FROM {table} r
    WHERE r.subscriber_id = g.subscriber_id AND r.gateway_id = $3 AND r.source = $4
      AND r.record_id = g.record_id
    OFFSET 0
) AS stored
WHERE (SELECT EXISTS (SELECT FROM {table}))
"""


def looks_around(
    lines: Sequence[Line],
    days: set[dt.date],
    *,
    gateway_id: int,
    operator_id: int,
    snapshot: bytes,
) -> tuple[list[Call], list[Call]]:
    """What fails if an id of these lines is stored on one of the days around its own: what looks
    before the subscribers' locks are had, and what looks again with the locks held.

    Of two charges that carry one id with other times, the later to have the lock then sees the
    earlier's record: committed before `snapshot`, which was taken before the first look, or told
    by its batch. The second look costs nothing where all that was stored meanwhile is of the
    lines' own day, as it nearly always is; others wait for the locks until it is done.
    """
    looks: list[Call] = []
    again: list[Call] = []
    for day, tables, asked in _around_each(lines, days, gateway_id=gateway_id):
        looks.append((_around(tables), asked))
        bounds = [pack_instant(instant) for instant in partitions.bounds_of(day)]
        since = [pack_int8(operator_id), snapshot, *bounds]
        again.append((_around(tables, of="again"), [*asked, *since]))
    return looks, again


def _around_each(
    lines: Sequence[Line], days: set[dt.date], *, gateway_id: int
) -> Iterator[tuple[dt.date, tuple[str, ...], list[bytes | None]]]:
    """Each day of the lines and each source: the partitions around it, and what is looked for."""
    for (day, source), near in _by_day_and_source(lines, days).items():
        tables = partitions.names_of(RECORDS, partitions.neighbours(day, NEIGHBOUR_DAYS))
        if tables:
            owners, ids = [line[0] for line in near], [line[2] for line in near]
            arrays = pack_int8s(owners), pack_texts(ids)
            asked: list[bytes | None] = [*arrays, pack_int8(gateway_id), source.encode()]
            yield day, tuple(tables), asked


@functools.lru_cache(maxsize=256)
def _around(tables: tuple[str, ...], of: str = "many") -> Statement:
    looks = " UNION ALL ".join(_LOOK_SQL.format(table=table) for table in tables)
    days = "_".join(table.rpartition("_")[2] for table in tables)
    # A plan is made once for all, under the planner's settings of who asks first: few have their
    # own.
    sql = _AGAIN_SQL if of == "again" else _AROUND_SQL
    return Statement(f"metering_around_{of}_{days}", sql.format(looks=looks))


def _by_day_and_source(
    lines: Sequence[Line], days: set[dt.date]
) -> dict[tuple[dt.date, str], Sequence[Line]]:
    """Nearly always one group: a batch is of one sender and one day."""
    sources = {line[1] for line in lines}
    if len(days) == len(sources) == 1:
        [day], [source] = days, sources
        return {(day, source): lines}
    groups: dict[tuple[dt.date, str], list[Line]] = defaultdict(list)
    for line in lines:
        groups[partitions.day_of(line[3]), line[1]].append(line)
    return dict(groups)


def summarize(days: Iterable[dt.date]) -> None:
    """Note in these days' partitions which batches their newest pages hold.

    Of pages that are not noted, who looks for a batch reads all: those since the last vacuum.
    """
    for name in partitions.names_of(RECORDS, sorted(set(days))):
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                # Without a wait, which would end a vacuum; that notes them, too.
                cursor.execute(f"LOCK TABLE {name} IN SHARE UPDATE EXCLUSIVE MODE NOWAIT")
                cursor.execute("SELECT brin_summarize_new_values(%s)", [f"{name}_batch"])
        except OperationalError as error:
            if not isinstance(error.__cause__, pg.LockNotAvailable):
                raise


class Span(NamedTuple):
    """When usage occurred: the first and the last of it, and the UTC days whose partitions hold
    it."""

    first: dt.datetime
    last: dt.datetime
    days: set[dt.date]

    def around(self) -> tuple[dt.datetime, dt.datetime]:
        """From when and until when the same records may have been told to have occurred."""
        return _around_days(min(self.days), max(self.days))


@functools.lru_cache(maxsize=64)
def _around_days(first: dt.date, last: dt.date) -> tuple[dt.datetime, dt.datetime]:
    near = NEIGHBOUR_DAYS * partitions.DAY
    return partitions.bounds_of(first)[0] - near, partitions.bounds_of(last)[1] + near


def span_of(lines: Sequence[Line]) -> Span:
    """When these lines occurred; there is one at least."""
    times = [line[3] for line in lines]
    first, last = min(times), max(times)
    day = partitions.day_of(first)
    if day == partitions.day_of(last):
        return Span(first, last, {day})
    return Span(first, last, {partitions.day_of(time) for time in times})
