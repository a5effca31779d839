"""Millions of records that are there already, put into the tables past the charge.

Day by day over the last 30 days up to now, with a journal entry for each and their batches, all
folded. Today's records go in under the indexes in random order, as traffic would leave them; the
other days' indexes are built afterwards. The buckets' balances are left alone.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Sequence

from bench.lab import Lab
from bench.load import BATCH
from bench.population import Population
from metering.records import RECORDS
from subscriptions import partitions
from subscriptions.partitions import DAY, ENTRIES, DayTable

DAYS = 30
_THREADS = 2

_HOLDERS_SQL = """
CREATE UNLOGGED TABLE bench_holder AS
SELECT row_number() OVER (ORDER BY s.id) - 1 AS nr, s.subscriber_id, s.id AS subject_id, b.id AS
       bucket_id
FROM subscriptions_subject s
JOIN LATERAL (
    SELECT id FROM subscriptions_bucket b
    WHERE b.subscriber_id = s.subscriber_id AND b.kind = 'allowance'
    ORDER BY b.valid_until LIMIT 1
) b ON true
WHERE s.operator_id = {operator};
ALTER TABLE bench_holder ADD PRIMARY KEY (nr);
ANALYZE bench_holder;
"""
# 7,919 is prime to the size of the population: each thousand records are of as many subscribers.
_ROWS = """
FROM (
    SELECT g, (g * 7919::bigint) % {size} AS nr, {first} + g / {batch} AS batch_id,
           '{since}'::timestamptz + (g + 0.5) / {count} * ('{until}'::timestamptz - '{since}')
               AS moment
    FROM generate_series({start}::bigint, {start}::bigint + {count} - 1) AS s (n)
    CROSS JOIN LATERAL (SELECT s.n - {start} AS g) x
) r
JOIN bench_holder h ON h.nr = r.nr
"""
_RECORDS_SQL = (
    """
INSERT INTO {table}
    (subscriber_id, gateway_id, occurred_at, batch_id, subject_id, weight_id, units,
     uncached_input_tokens, cached_input_tokens, cache_write_tokens, output_tokens,
     reasoning_tokens, record_id, model, source, outcome)
SELECT h.subscriber_id, {gateway}, r.moment, r.batch_id, h.subject_id, {weight}, 1000, 700, 100, 0,
       200, 0, 'req-' || substr(md5((r.g + {start})::text), 1, 18), 'deepseek/deepseek-chat', '', ''
"""
    + _ROWS
)
_ENTRIES_SQL = (
    """
INSERT INTO {table} (subscriber_id, batch_id, bucket_id, kind, units, charged_at)
SELECT h.subscriber_id, r.batch_id, h.bucket_id, 2, 1000, r.moment
"""
    + _ROWS
)
_BATCHES_SQL = """
INSERT INTO metering_usagebatch
    (id, operator_id, gateway_id, charged_at, stored_at, records, units, occurred_from,
     occurred_to, folded_at)
SELECT {first} + b, {operator}, {gateway}, '{until}', '{until}', {batch}, {batch} * 1000,
       '{since}', '{until}', '{until}'
FROM generate_series(0, {count} / {batch} - 1) AS b
"""


def fill(lab: Lab, database: str, people: Population, total: int) -> float:
    """Put `total` records into the database Django is connected to; answers the seconds it took."""
    began = time.monotonic()
    now = dt.datetime.now(dt.UTC)
    today = partitions.day_of(now)
    days = [today - DAY * back for back in range(DAYS)]
    with lab.connect(database) as connection:
        connection.execute(_HOLDERS_SQL.format(operator=people.operator_id).encode())
    # Today is as far gone as it is, and has its part of the records all the same.
    partitions.ensure(RECORDS, [today])
    partitions.ensure(ENTRIES, [today])
    each = -(-total // DAYS // BATCH) * BATCH  # whole batches
    todo = list(enumerate(days))
    problems: list[BaseException] = []

    def work() -> None:
        try:
            while todo:
                nr, day = todo.pop()
                _fill_day(lab, database, people, day, start=nr * each, count=each, now=now)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work) for _ in range(_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]
    _attach(lab, database, [day for day in days if day != today])
    with lab.connect(database) as connection:
        last = 2_000 + total // BATCH
        connection.execute(f"SELECT setval('subscriptions_batch_id', {last})".encode())
        connection.execute(b"DROP TABLE bench_holder")
        connection.execute(b"VACUUM (ANALYZE) metering_usagebatch")
        connection.execute(b"CHECKPOINT")
    return time.monotonic() - began


def _fill_day(
    lab: Lab,
    database: str,
    people: Population,
    day: dt.date,
    *,
    start: int,
    count: int,
    now: dt.datetime,
) -> None:
    today = partitions.day_of(now)
    since = dt.datetime.combine(day, dt.time(), dt.UTC)
    values = {
        "start": start,
        "count": count,
        "size": people.size,
        "batch": BATCH,
        "first": 1_000 + start // BATCH,
        "since": since,
        "until": min(since + DAY, now),
        "operator": people.operator_id,
        "gateway": people.gateway_id,
        "weight": next(iter(people.weights.values())).id,
    }
    with lab.connect(database) as connection:
        connection.execute(b"SET synchronous_commit = off")
        connection.execute(b"SET maintenance_work_mem = '256MB'")
        for table, sql in ((RECORDS, _RECORDS_SQL), (ENTRIES, _ENTRIES_SQL)):
            name = partitions.name_of(table, day)
            if day != today:
                connection.execute(f"DROP TABLE IF EXISTS {name}".encode())
                connection.execute(
                    f"CREATE TABLE {name} (LIKE {table.table} INCLUDING DEFAULTS"
                    f" INCLUDING CONSTRAINTS INCLUDING STORAGE) {table.storage}".encode()
                )
            connection.execute(sql.format(table=name, **values).encode())
            if day != today:
                for statement in _indexes(connection_name=name, table=table):
                    connection.execute(statement.encode())
            connection.execute(f"VACUUM (ANALYZE) {name}".encode())
        connection.execute(_BATCHES_SQL.format(**values).encode())


def _indexes(*, connection_name: str, table: DayTable) -> list[str]:
    """What an empty partition would have had from its making."""
    statements = [statement.format(name=connection_name) for statement in table.indexes]
    if table is ENTRIES:
        statements.append(
            f"ALTER TABLE {connection_name}"
            " ADD PRIMARY KEY (subscriber_id, batch_id, bucket_id, kind, charged_at)"
        )
    return statements


def _attach(lab: Lab, database: str, days: Sequence[dt.date]) -> None:
    with lab.connect(database) as connection:
        for table in (RECORDS, ENTRIES):
            for day in days:
                connection.execute(
                    f"ALTER TABLE {table.table} ATTACH PARTITION {partitions.name_of(table, day)}"
                    f" FOR VALUES FROM ('{day} 00:00:00+00')"
                    f" TO ('{day + DAY} 00:00:00+00')".encode()
                )
