"""The advisory locks of all rooms, in one place, so that no two purposes share a number.

Each is a two-key lock of PostgreSQL: the number here, and what it is about (an operator, mostly).
Ids beyond 2^31 share a second key, harmlessly: they wait for each other. Locks with one key are a
space of their own: of subscribers, by their ids, and only charges have them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum, unique

from django.db import connection


@unique
class Lock(IntEnum):
    """What a lock is for: the first of its keys."""

    # Held shared by charges, and alone by what they take for granted; also in the functions of the
    # database that charge, hence never to be changed.
    CLOCK = 7001
    PARTITIONS = 7002  # of all tables
    FOLDING = 7003  # of all operators' batches into the hourly totals
    IDEMPOTENCY_KEY = 7004  # of an operator's key, by its hash
    PACKS = 7005  # that a subscriber may buy: there may be no bucket yet to lock
    USAGE_WINDOW = 7006
    SUBSCRIBERS = 7007  # of an operator: who holds a subject is read, then written
    IMPORT = 7008  # a file that is being read, by its number
    # Of an operator: held shared by charges that have locks of subscribers, alone by one that would
    # need too many of them; in the database's functions too.
    HELD = 7009
    CLOSE = 7010  # of an operator: planned by one at a time
    DEFERRAL = 7011  # of an operator
    CHARGE_FILES = 7020  # of an operator: made one after another
    COSTS = 7021  # of an operator: days are priced and settled one after another
    PROVIDER_BOOKS = 7022  # of an operator: files are imported one after another
    # Of an operator: held shared by bills from their look at the rates to the commit.
    TAXES = 7031
    OUTBOX = 7050  # what happened is dispatched by one at a time
    NOTICES = 7052  # of a channel: sent by one process at a time
    WEBHOOKS = 7051  # of all endpoints: sent by one process at a time


def take(lock: Lock, about: int = 0, *, shared: bool = False) -> None:
    """Wait for a lock, and hold it until the transaction ends."""
    assert connection.in_atomic_block
    kind = "_shared" if shared else ""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT pg_advisory_xact_lock{kind}(%s, %s)", [lock.value, about & 0x7FFFFFFF]
        )


def try_take(lock: Lock, about: int = 0) -> bool:
    """Take a lock until the transaction ends; answers False where somebody has it."""
    assert connection.in_atomic_block
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s, %s)", [lock.value, about & 0x7FFFFFFF])
        return bool(cursor.fetchone()[0])


@contextmanager
def alone(lock: Lock, about: int = 0) -> Iterator[bool]:
    """Hold a lock over several transactions, unless somebody has it; yields whether it is ours.

    It is the connection's: whoever dies gives it back at once.
    """
    keys = [lock.value, about & 0x7FFFFFFF]
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s, %s)", keys)
        ours = bool(cursor.fetchone()[0])
    try:
        yield ours
    finally:
        if ours:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s, %s)", keys)
