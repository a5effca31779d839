"""Lists as PostgreSQL arrays, packed in one go: psycopg walks a list element by element, and the
charge sends thousands of elements a batch."""

from __future__ import annotations

import contextlib
import datetime as dt
import select
import struct
import sys
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import psycopg
from django.db import connection
from psycopg.adapt import Dumper
from psycopg.pq import Format

Cursor = psycopg.Cursor[tuple[Any, ...]]


class Int8s(list[int]):
    """A bigint[] without nulls."""


class OptionalInt8s(list[int | None]):
    """A bigint[], None for null."""


class Texts(list[str]):
    """A text[] without nulls."""


class Instants(list[dt.datetime]):
    """A timestamptz[] without nulls."""


class OptionalInstants(list[dt.datetime | None]):
    """A timestamptz[], None for null."""


def columns(rows: Iterable[Sequence[Any]], *kinds: type[list[Any]]) -> list[list[Any]]:
    """Rows as one list a column, each of its kind; of no rows, empty lists."""
    found = list(zip(*rows, strict=True)) or [()] * len(kinds)
    return [kind(column) for kind, column in zip(kinds, found, strict=True)]


def array_header(oid: int, count: int, *, nulls: bool = False) -> bytes:
    """What comes before the elements of an array of one dimension, in binary."""
    if not count:
        return struct.pack(">iii", 0, 0, oid)
    return struct.pack(">iiiii", 1, nulls, oid, count, 1)


def pack_int8(value: int) -> bytes:
    """A bigint, or an instant of `micros_of`, as the server takes it in binary."""
    return value.to_bytes(8, "big", signed=True)


def pack_int4(value: int) -> bytes:
    """An integer, as the server takes it in binary."""
    return value.to_bytes(4, "big", signed=True)


# Types of the columns of a row, by the numbers that PostgreSQL has for them.
BYTEA, INT8, INT4, TEXT = 17, 20, 23, 25
_COLUMN = struct.Struct(">ii")


def pack_row(*columns: tuple[int, bytes]) -> bytes:
    """A row of a composite type as the element of an array, with its length; no column is null."""
    parts = [struct.pack(">i", len(columns))]
    for type_oid, value in columns:
        parts.append(_COLUMN.pack(type_oid, len(value)))
        parts.append(value)
    row = b"".join(parts)
    return struct.pack(">i", len(row)) + row


def pack_interval(span: dt.timedelta) -> bytes:
    """An interval; its days are days, whatever the zone makes of them."""
    micros = span.seconds * 1_000_000 + span.microseconds
    return struct.pack(">qii", micros, span.days, 0)


def unpack_interval(data: bytes) -> dt.timedelta:
    """The interval of `pack_interval`."""
    micros, days, _ = struct.unpack(">qii", data)
    return dt.timedelta(days=days, microseconds=micros)


def pack_int8s(values: Sequence[int], oid: int = 20) -> bytes:
    """A bigint[] without nulls, or an array of another type of eight bytes."""
    numbers = array("q", values)
    if sys.byteorder == "little":
        numbers.byteswap()
    words = array("i", numbers.tobytes())
    # Each with its length before it: three words. A `struct` would be made anew for each count.
    packed = array("i", _EIGHT) * len(values)
    packed[1::3] = words[0::2]
    packed[2::3] = words[1::2]
    return array_header(oid, len(values)) + packed.tobytes()


_EIGHT = struct.pack(">iii", 8, 0, 0)


def pack_optional_int8s(values: Sequence[int | None], oid: int = 20) -> bytes:
    """A bigint[], None for null, or an array of another type of eight bytes."""
    null = struct.pack(">i", -1)
    packed = (null if value is None else struct.pack(">iq", 8, value) for value in values)
    return array_header(oid, len(values), nulls=True) + b"".join(packed)


def unpack_int8s(data: bytes) -> list[int]:
    """The values of a bigint[] without nulls."""
    if len(data) <= 12:
        return []
    (count,) = struct.unpack_from(">i", data, 12)
    return list(struct.unpack_from(f">{'4xq' * count}", data, 20))


def pack_texts(values: Sequence[str]) -> bytes:
    """A text[] without nulls."""
    header = array_header(25, len(values))
    texts = [text.encode() for text in values]
    lengths = set(map(len, texts))
    if len(lengths) == 1:  # as one sender's ids often are
        length = lengths.pop().to_bytes(4, "big")
        return header + length + length.join(texts)
    parts = [header]
    for data in texts:
        parts.append(len(data).to_bytes(4, "big"))
        parts.append(data)
    return b"".join(parts)


EPOCH = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)  # PostgreSQL's


def micros_of(instant: dt.datetime) -> int:
    """An instant as PostgreSQL counts it: microseconds since 2000."""
    since = instant - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def pack_instant(instant: dt.datetime) -> bytes:
    return pack_int8(micros_of(instant))


def unpack_instant(data: bytes) -> dt.datetime:
    return EPOCH + dt.timedelta(microseconds=int.from_bytes(data, "big", signed=True))


class _Int8sDumper(Dumper):
    format = Format.BINARY
    oid = 1016  # _int8

    def dump(self, obj: list[int]) -> bytes:
        return pack_int8s(obj)


class _OptionalInt8sDumper(Dumper):
    format = Format.BINARY
    oid = 1016  # _int8

    def dump(self, obj: list[int | None]) -> bytes:
        return pack_optional_int8s(obj)


class _InstantsDumper(Dumper):
    format = Format.BINARY
    oid = 1185  # _timestamptz

    def dump(self, obj: list[dt.datetime]) -> bytes:
        return pack_int8s([micros_of(instant) for instant in obj], 1184)


class _OptionalInstantsDumper(Dumper):
    format = Format.BINARY
    oid = 1185

    def dump(self, obj: list[dt.datetime | None]) -> bytes:
        values = [None if instant is None else micros_of(instant) for instant in obj]
        return pack_optional_int8s(values, 1184)


class _TextsDumper(Dumper):
    format = Format.BINARY
    oid = 1009  # _text

    def dump(self, obj: list[str]) -> bytes:
        return pack_texts(obj)


_taught: weakref.WeakSet[psycopg.Connection[Any]] = weakref.WeakSet()


def cursor() -> Cursor:
    """A psycopg cursor on Django's connection, in its transaction, that knows these lists."""
    connection.ensure_connection()
    raw: psycopg.Connection[Any] = connection.connection
    if raw not in _taught:
        raw.adapters.register_dumper(Int8s, _Int8sDumper)
        raw.adapters.register_dumper(OptionalInt8s, _OptionalInt8sDumper)
        raw.adapters.register_dumper(Instants, _InstantsDumper)
        raw.adapters.register_dumper(OptionalInstants, _OptionalInstantsDumper)
        raw.adapters.register_dumper(Texts, _TextsDumper)
        _taught.add(raw)
    return psycopg.Cursor(raw)


@contextlib.contextmanager
def statements() -> Iterator[Cursor]:
    """A `cursor` whose errors are Django's, as those of `connection.cursor()` are.

    Its statements are planned for lists of ten elements, whatever their length.
    """
    with connection.wrap_database_errors, cursor() as found:
        yield found


def revive() -> None:
    """Drop a connection that died while it was idle, so that the next statement opens another.

    Django asks a `SELECT 1` for that; a server that goes away says so on the socket, and an idle
    one says nothing. To be called before a transaction begins.
    """
    if connection.in_atomic_block:
        return
    raw: psycopg.Connection[Any] | None = connection.connection
    if raw is not None and (raw.closed or _has_news(raw)):
        connection.close()
    connection.health_check_done = True  # type: ignore[attr-defined]


def _has_news(raw: psycopg.Connection[Any]) -> bool:
    poll = select.poll()
    poll.register(raw.fileno(), select.POLLIN)
    return bool(poll.poll(0))
