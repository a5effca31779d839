"""Day partitions in tests: committed beside those that are rolled back, and few.

The product makes a day's partitions in a transaction of their own, ahead of its usage. Inside a
test that is rolled back there is none of its own: every test would make its days again, and the
charge, which waits for them to be committed, would never go on. And all that looks at a table
without naming a day pays for each partition there is, a reconciliation some hundred times.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest
from django.db import OperationalError, connection, connections

from metering.adjusted import ADJUSTED
from metering.records import RECORDS
from subscriptions import partitions
from subscriptions.partitions import ENTRIES, DayTable

# From here on the books are whole for `reconcile`, which begins with the oldest partition.
FIRST = dt.date(2026, 4, 25)
# The days that most tests are about: those around tests.factories.NOW.
_USUAL = [FIRST, *(dt.date(2026, 6, 7 + n) for n in range(7))]
# So many more of a table are kept from one file to the next.
_MANY = 40

_ensure = partitions.ensure


def begin() -> None:
    """Make the usual days."""
    for table in (RECORDS, ENTRIES):
        _ensure(table, _USUAL)


@contextmanager
def committed() -> Iterator[None]:
    """Have what a test asks for that is rolled back made in a transaction of its own."""
    with ThreadPoolExecutor(1) as beside, pytest.MonkeyPatch.context() as patch:

        def ensure(table: DayTable, days: Iterable[dt.date]) -> None:
            wanted = partitions.missing(table, days)
            blocks = connection.atomic_blocks
            if wanted and any(block._from_testcase for block in blocks):  # type: ignore[attr-defined]
                with suppress(OperationalError):
                    # Not where the test has locked the table, for it dropped some.
                    beside.submit(_ensure_soon, table, wanted).result()
                    _notice(table, wanted)
            _ensure(table, wanted)

        patch.setattr(partitions, "ensure", ensure)
        yield
        beside.submit(connections.close_all).result()


def _ensure_soon(table: DayTable, days: Iterable[dt.date]) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = '1s'")
    _ensure(table, days)


def _notice(table: DayTable, days: list[dt.date]) -> None:
    """A transaction learns of others' partitions when it locks what it had not locked before."""
    names = ", ".join(partitions.name_of(table, day) for day in days)
    with connection.cursor() as cursor:
        cursor.execute(f"LOCK TABLE {names} IN ACCESS SHARE MODE")


def drop_many() -> None:
    """Drop what a file has made, where it is much and nothing is in it."""
    if partitions.ensure is _ensure:
        return  # no test has asked for the database yet: this is not theirs
    for table in (RECORDS, ADJUSTED, ENTRIES):
        there = partitions.existing(table)
        if len(there) <= len(_USUAL) + _MANY:
            continue
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT EXISTS (SELECT FROM {table.table})")
            if not cursor.fetchone()[0]:
                unusual = [partitions.name_of(table, day) for day in there if day not in _USUAL]
                cursor.execute(f"DROP TABLE {', '.join(unusual)}")
                partitions.forget(table)
    begin()  # the usual days are known again, whatever was forgotten
