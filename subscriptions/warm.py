"""Connections to the database that a process's threads share, the one used last first.

Django has one for each thread. But a server process that is used seldom is a slow one: what it
keeps of tables, indexes and plans has left the processor's caches by then. Sixteen threads that
take turns on two connections charge single records a third faster than on sixteen.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.backends.base.base import BaseDatabaseWrapper

_guard = threading.Lock()
_idle: list[BaseDatabaseWrapper] = []


@contextlib.contextmanager
def connection() -> Iterator[None]:
    """Let this thread use a shared connection for what is inside.

    A thread inside a transaction goes on with its own. Nothing may be left open on the connection.
    """
    own = connections[DEFAULT_DB_ALIAS]
    if own.in_atomic_block:
        yield
        return
    with _guard:
        lent = _idle.pop() if _idle else None
    if lent is None:
        lent = connections.create_connection(DEFAULT_DB_ALIAS)
        lent.inc_thread_sharing()
    connections[DEFAULT_DB_ALIAS] = lent
    try:
        yield
    finally:
        connections[DEFAULT_DB_ALIAS] = own
        with _guard:
            _idle.append(lent)


def close() -> None:
    """Close the idle ones (before a database is dropped, in tests)."""
    with _guard:
        while _idle:
            _idle.pop().close()
