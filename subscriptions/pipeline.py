"""Prepared statements that are sent at once and waited for once: a transaction of their own, or a
part of one.

A cursor waits for the server several times in a transaction, and each wait costs a small charge
more than most of its statements: two processes change places on a processor. Here libpq's pipeline
is used as it is: what goes out up to the sync is one transaction, which the server commits by
itself, or rolls back from the first statement that fails.
"""

from __future__ import annotations

import itertools
import re
import select
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from django.db import connection
from psycopg import errors, pq

Row = list[bytes | None]
_BINARY = pq.Format.BINARY


class Statement:
    """SQL with `$1` parameters (or, in their order, `%b`), prepared on each connection under a name
    of its own."""

    __slots__ = ("name", "sql", "wire_name", "wire_sql")

    def __init__(self, name: str, sql: str) -> None:
        numbers = itertools.count(1)
        self.name = name
        self.sql = re.sub("%b", lambda _: f"${next(numbers)}", sql)
        self.wire_name = name.encode()
        self.wire_sql = self.sql.encode()


Call = tuple[Statement, Sequence[bytes | None]]
_BEGIN = Statement("begin", "BEGIN")
Raw = psycopg.Connection[Any]


class _Known:
    """What is known of a connection: which statements it has prepared, and oids of its types."""

    __slots__ = ("oids", "prepared")

    def __init__(self) -> None:
        self.prepared: set[str] = set()
        self.oids: dict[str, int] = {}


_connections: weakref.WeakKeyDictionary[Raw, _Known] = weakref.WeakKeyDictionary()


def _connection() -> tuple[Raw, _Known]:
    connection.ensure_connection()
    raw: Raw = connection.connection
    known = _connections.get(raw)
    if known is None:
        known = _connections[raw] = _Known()
    return raw, known


def oid_of(name: str) -> int:
    """What the database calls a type of ours."""
    raw, known = _connection()
    if name not in known.oids:
        row = raw.execute("SELECT %s::regtype::oid", [name]).fetchone()
        assert row is not None
        known.oids[name] = row[0]
    return known.oids[name]


def run(calls: Sequence[Call], *, begun: bool = False) -> list[Row | None]:
    """The first row of each statement, None where it has none; all committed, or an error.

    Parameters and columns are PostgreSQL's binary forms. Inside a transaction of Django's it is a
    part of that one, which a failure ends; `begun` where `begin` began that. Raises what psycopg's
    cursors raise.
    """
    raw, known = _connection()
    if begun:
        return _run(raw, known, calls, prepared=True)
    if connection.in_atomic_block:
        if raw.pgconn.transaction_status == pq.TransactionStatus.IDLE:
            raw.execute("SELECT")  # psycopg begins Django's transaction with its first statement
        return _run(raw, known, calls, prepared=False)
    try:
        return _run(raw, known, calls, prepared=True)
    except errors.InvalidSqlStatementName:
        # Whoever rolls back by psycopg's means has all that is prepared forgotten.
        known.prepared.clear()
        return _run(raw, known, calls, prepared=True)


def begin(calls: Sequence[Call]) -> tuple[bool, list[Row | None]]:
    """The same as the first message of the transaction that Django has begun, where nothing was
    sent of that yet; answers whether it was so, too. What follows it may be prepared."""
    raw, known = _connection()
    idle = pq.TransactionStatus.IDLE
    if raw.pgconn.transaction_status != idle:
        return False, run(calls)
    begins = [(_BEGIN, ()), *calls]
    try:
        rows = _run(raw, known, begins, prepared=True)
    except errors.InvalidSqlStatementName:
        known.prepared.clear()
        if raw.pgconn.transaction_status != idle:
            _raise_of(raw.pgconn.exec_(b"ROLLBACK"))
        rows = _run(raw, known, begins, prepared=True)
    return True, rows[1:]


def copy(sql: bytes, data: bytes, *, meanwhile: Callable[[], None]) -> None:
    """Let a COPY have its data, in the transaction that is open; `meanwhile` the server is at it,
    something else is done here."""
    raw, _ = _connection()
    pgconn = raw.pgconn
    try:
        pgconn.send_query(sql)
        [result] = _receive(pgconn)
        if result.status == pq.ExecStatus.COPY_IN:
            pgconn.put_copy_data(data)
            pgconn.put_copy_end()
            _send(pgconn)
            meanwhile()
            [result] = _receive(pgconn)
    except BaseException:
        raw.close()
        raise
    _raise_of(result)


def _run(raw: Raw, known: _Known, calls: Sequence[Call], *, prepared: bool) -> list[Row | None]:
    pgconn = raw.pgconn
    if prepared:
        for statement, _ in calls:
            if statement.name not in known.prepared:
                # One of that name may be there still; closing what is not there is no error.
                _raise_of(pgconn.close_prepared(statement.wire_name))
                _raise_of(pgconn.prepare(statement.wire_name, statement.wire_sql))
                known.prepared.add(statement.name)
    try:
        pgconn.enter_pipeline_mode()
        for statement, values in calls:
            formats = [_BINARY] * len(values)
            if prepared:
                pgconn.send_query_prepared(statement.wire_name, values, formats, _BINARY)
            else:
                pgconn.send_query_params(statement.wire_sql, values, None, formats, _BINARY)
        pgconn.pipeline_sync()
        results = _receive(pgconn)
        pgconn.exit_pipeline_mode()
    except BaseException:
        # Somewhere in the middle of an answer: of no use to anybody.
        raw.close()
        raise
    for result in results:
        _raise_of(result)
    return [
        [result.get_value(0, column) for column in range(result.nfields)]
        if result.ntuples
        else None
        for result in results
    ]


def _send(pgconn: pq.abc.PGconn) -> None:
    """All that was not sent yet."""
    if not pgconn.flush():
        return
    poll = select.poll()
    poll.register(pgconn.socket, select.POLLIN | select.POLLOUT)
    while pgconn.flush():
        if poll.poll()[0][1] & select.POLLIN:
            pgconn.consume_input()


def _receive(pgconn: pq.abc.PGconn) -> list[pq.abc.PGresult]:
    """The results up to the sync's, or outside a pipeline all that there are for now."""
    results: list[pq.abc.PGresult] = []
    outside = pgconn.pipeline_status == pq.PipelineStatus.OFF
    _send(pgconn)
    poll = select.poll()
    poll.register(pgconn.socket, select.POLLIN)
    while True:
        # First what is here: to send may have taken in all that the server has to say.
        while not pgconn.is_busy():
            result = pgconn.get_result()
            if result is None:  # the end of one statement's results
                if outside:
                    return results
                continue
            if result.status == pq.ExecStatus.PIPELINE_SYNC:
                return results
            results.append(result)
            if result.status == pq.ExecStatus.COPY_IN:
                return results
        poll.poll()
        pgconn.consume_input()


def _raise_of(result: pq.abc.PGresult) -> None:
    if result.status == pq.ExecStatus.FATAL_ERROR:
        error = errors.error_from_result(result)
        if error.sqlstate is None:  # not the server's word: libpq lost it
            raise psycopg.OperationalError(str(error))
        raise error
