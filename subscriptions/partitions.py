"""Day partitions of the tables that grow with usage: made ahead, dropped when their time is over.

A partition is made outside the charge: by the clock's movement, by beat, or ahead of a batch whose
day is missing. It is made as a table of its own and then attached, which takes only a SHARE UPDATE
EXCLUSIVE lock on the parent: charges go on meanwhile.
"""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from django.db import OperationalError, connection, transaction
from psycopg.errors import LockNotAvailable

from subscriptions import advisory
from subscriptions.advisory import Lock

DAY = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class DayTable:
    """A table partitioned by UTC day of `column`; `indexes` are made on each partition.

    `{name}` in an index statement is the partition's name. They are the partition's own because
    a unique index of the parent would have to contain the partition column, and then the same
    record with another time of the same day would pass.
    """

    table: str
    column: str
    indexes: tuple[str, ...] = ()
    # Rows only come: statistics are worth a look when a day has twice as many, not at each tenth
    # more; who may see them, which is little asked of a day, when it has five times as many.
    storage: str = (
        "WITH (autovacuum_analyze_scale_factor = 1, autovacuum_vacuum_insert_scale_factor = 4)"
    )


ENTRIES = DayTable(
    "subscriptions_bucketentry",
    "charged_at",
    # A batch is charged at one instant, so its entries are on one day: the day's key is enough.
    indexes=(
        "CREATE UNIQUE INDEX {name}_key ON {name} (subscriber_id, batch_id, bucket_id, kind)",
    ),
)

# Which days this process has seen to exist; a dropped day is forgotten by `drop_before`.
_known: set[tuple[str, dt.date]] = set()


def day_of(instant: dt.datetime) -> dt.date:
    """The UTC day whose partition holds an instant."""
    return instant.astimezone(dt.UTC).date()


def bounds_of(day: dt.date) -> tuple[dt.datetime, dt.datetime]:
    """The first instant of a day's partition, and the first one behind it."""
    start = dt.datetime.combine(day, dt.time(), dt.UTC)
    return start, start + DAY


@functools.lru_cache(maxsize=1024)
def name_of(table: DayTable, day: dt.date) -> str:
    # Not by %Y, which gives the year 796 three digits.
    return f"{table.table}_{day.isoformat().replace('-', '')}"


def missing(table: DayTable, days: Iterable[dt.date]) -> list[dt.date]:
    """The days that this process does not know to exist."""
    return sorted({day for day in days if (table.table, day) not in _known})


def forget(table: DayTable) -> None:
    """Trust nothing this process has seen of a table's partitions: another dropped one."""
    _known.difference_update([known for known in _known if known[0] == table.table])


def with_neighbours(days: Iterable[dt.date], distance: int) -> list[dt.date]:
    """The days and those up to `distance` days before and after them."""
    return sorted({near for day in days for near in (day, *neighbours(day, distance))})


def neighbours(day: dt.date, distance: int) -> list[dt.date]:
    """The days up to `distance` days before and after a day, without it."""
    return [day + DAY * n for n in range(-distance, distance + 1) if n]


def names_of(table: DayTable, days: Sequence[dt.date]) -> list[str]:
    """The partitions of these days, in their order, as far as they exist."""
    unknown = missing(table, days)
    if unknown:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT d FROM unnest(%s::date[], %s::text[]) AS n (d, name)"
                " WHERE to_regclass(n.name) IS NOT NULL",
                [unknown, [name_of(table, d) for d in unknown]],
            )
            _known.update((table.table, row[0]) for row in cursor.fetchall())
    return [name_of(table, day) for day in days if (table.table, day) in _known]


def ensure(table: DayTable, days: Iterable[dt.date]) -> None:
    """Make the partitions of these days where they are missing. Cheap when nothing is."""
    for day in missing(table, days):
        _make(table, day)
        # Known once it is committed: rolled back, the partition is gone with the transaction.
        transaction.on_commit(functools.partial(_known.add, (table.table, day)))


def _make(table: DayTable, day: dt.date) -> None:
    name = name_of(table, day)
    start, end = bounds_of(day)
    with transaction.atomic(), connection.cursor() as cursor:
        if _exists(name):
            return
        advisory.take(Lock.PARTITIONS)
        if _exists(name):  # another process was first
            return
        cursor.execute(
            f"CREATE TABLE {name} (LIKE {table.table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS"
            f" INCLUDING INDEXES INCLUDING STORAGE) {table.storage}"
        )
        for statement in table.indexes:
            cursor.execute(statement.format(name=name))
        cursor.execute(
            f"ALTER TABLE {table.table} ATTACH PARTITION {name}"
            f" FOR VALUES FROM ('{start}') TO ('{end}')"
        )


def _exists(name: str) -> bool:
    """Asks the catalogue's rows: `to_regclass` may answer from before a wait for a lock."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM pg_class WHERE relname = %s"
            " AND relnamespace = current_schema()::regnamespace)",
            [name],
        )
        return bool(cursor.fetchone()[0])


def existing(table: DayTable) -> list[dt.date]:
    """The days that have a partition, oldest first."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT right(relid::regclass::text, 8) FROM pg_partition_tree(%s::regclass)"
            " WHERE isleaf AND level = 1 ORDER BY 1",
            [table.table],
        )
        return [
            dt.datetime.strptime(row[0], "%Y%m%d").replace(tzinfo=dt.UTC).date() for row in cursor
        ]


def drop_before(table: DayTable, day: dt.date) -> list[dt.date]:
    """Drop every partition older than `day`; rows are never deleted one by one.

    Dropping locks the whole table, so it waits only shortly for who reads it (`reconcile` may for
    minutes): behind it every charge would wait too. What is left is dropped another time.
    """
    dropped: list[dt.date] = []
    for old in [d for d in existing(table) if d < day]:
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("SET LOCAL lock_timeout = '500ms'")
                advisory.take(Lock.PARTITIONS)
                cursor.execute(f"DROP TABLE IF EXISTS {name_of(table, old)}")
        except OperationalError as error:
            if not isinstance(error.__cause__, LockNotAvailable):
                raise
            break
        _known.discard((table.table, old))
        dropped.append(old)
    return dropped
