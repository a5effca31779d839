"""Lists as PostgreSQL arrays, packed in one go: psycopg walks a list element by element, and the
charge sends thousands of elements a batch."""

from __future__ import annotations

import select
import struct
import weakref
from typing import Any

import psycopg
from django.db import connection
from psycopg.adapt import Dumper
from psycopg.pq import Format

Cursor = psycopg.Cursor[tuple[Any, ...]]


class Int8s(list[int]):
    """A bigint[] without nulls."""


class Instants(list[int]):
    """A timestamptz[] without nulls, as microseconds since PostgreSQL's epoch, 2000."""


class Texts(list[str]):
    """A text[] without nulls."""


def _header(oid: int, count: int) -> bytes:
    if not count:
        return struct.pack(">iii", 0, 0, oid)
    return struct.pack(">iiiii", 1, 0, oid, count, 1)


class _Int8sDumper(Dumper):
    format = Format.BINARY
    oid = 1016  # _int8
    _of = 20

    def dump(self, obj: list[int]) -> bytes:
        count = len(obj)
        flat = [8] * (2 * count)
        flat[1::2] = obj
        return _header(self._of, count) + struct.pack(f">{'iq' * count}", *flat)


class _InstantsDumper(_Int8sDumper):
    oid = 1185  # _timestamptz
    _of = 1184


class _TextsDumper(Dumper):
    format = Format.BINARY
    oid = 1009  # _text

    def dump(self, obj: list[str]) -> bytes:
        parts = [_header(25, len(obj))]
        for text in obj:
            data = text.encode()
            parts.append(len(data).to_bytes(4, "big"))
            parts.append(data)
        return b"".join(parts)


_taught: weakref.WeakSet[psycopg.Connection[Any]] = weakref.WeakSet()


def cursor() -> Cursor:
    """A psycopg cursor on Django's connection, in its transaction, that knows these lists."""
    connection.ensure_connection()
    raw: psycopg.Connection[Any] = connection.connection
    if raw not in _taught:
        raw.adapters.register_dumper(Int8s, _Int8sDumper)
        raw.adapters.register_dumper(Instants, _InstantsDumper)
        raw.adapters.register_dumper(Texts, _TextsDumper)
        _taught.add(raw)
    return psycopg.Cursor(raw)


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
