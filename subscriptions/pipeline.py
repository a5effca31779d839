"""Prepared statements that are one transaction of their own: sent at once, waited for once.

A cursor waits for the server several times in a transaction, and each wait costs a small charge
more than most of its statements: two processes change places on a processor. Here libpq's pipeline
is used as it is: what goes out up to the sync is one transaction, which the server commits by
itself, or rolls back from the first statement that fails.
"""

from __future__ import annotations

import select
import weakref
from collections.abc import Sequence
from typing import Any

import psycopg
from django.db import connection
from psycopg import errors, pq

Row = list[bytes | None]
_BINARY = pq.Format.BINARY


class Statement:
    """SQL with `$1` parameters, prepared on each connection under a name of its own."""

    __slots__ = ("name", "sql", "wire_name", "wire_sql")

    def __init__(self, name: str, sql: str) -> None:
        self.name = name
        self.sql = sql
        self.wire_name = name.encode()
        self.wire_sql = sql.encode()


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


def run(calls: Sequence[tuple[Statement, Sequence[bytes | None]]]) -> list[Row | None]:
    """The first row of each statement, None where it has none; all committed, or an error.

    Parameters and columns are PostgreSQL's binary forms. Inside a transaction of Django's it is a
    part of that one, which a failure ends. Raises what psycopg's cursors raise.
    """
    raw, known = _connection()
    try:
        return _run(raw, known, calls)
    except errors.InvalidSqlStatementName:
        # Whoever rolls back by psycopg's means has all that is prepared forgotten.
        known.prepared.clear()
        return _run(raw, known, calls)


def _run(
    raw: Raw, known: _Known, calls: Sequence[tuple[Statement, Sequence[bytes | None]]]
) -> list[Row | None]:
    prepares = not connection.in_atomic_block
    if prepares:
        for statement, _ in calls:
            if statement.name not in known.prepared:
                # One of that name may be there still; closing what is not there is no error.
                _raise_of(raw.pgconn.close_prepared(statement.wire_name))
                _raise_of(raw.pgconn.prepare(statement.wire_name, statement.wire_sql))
                known.prepared.add(statement.name)
    elif raw.pgconn.transaction_status == pq.TransactionStatus.IDLE:
        raw.execute("SELECT")  # psycopg begins Django's transaction with its first statement
    pgconn = raw.pgconn
    try:
        pgconn.enter_pipeline_mode()
        for statement, values in calls:
            formats = [_BINARY] * len(values)
            if prepares:
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


def _receive(pgconn: pq.abc.PGconn) -> list[pq.abc.PGresult]:
    """The results up to the sync's."""
    results: list[pq.abc.PGresult] = []
    poll = select.poll()
    poll.register(pgconn.socket, select.POLLIN | select.POLLOUT)
    while pgconn.flush():
        if poll.poll()[0][1] & select.POLLIN:
            pgconn.consume_input()
    poll.modify(pgconn.socket, select.POLLIN)
    while True:
        poll.poll()
        pgconn.consume_input()
        while not pgconn.is_busy():
            result = pgconn.get_result()
            if result is None:  # the end of one statement's results
                continue
            if result.status == pq.ExecStatus.PIPELINE_SYNC:
                return results
            results.append(result)


def _raise_of(result: pq.abc.PGresult) -> None:
    if result.status == pq.ExecStatus.FATAL_ERROR:
        error = errors.error_from_result(result)
        if error.sqlstate is None:  # not the server's word: libpq lost it
            raise psycopg.OperationalError(str(error))
        raise error
