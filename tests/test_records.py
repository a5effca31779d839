"""How stored records are known again: by a day's key, whatever the planner knows of the day."""

from __future__ import annotations

import contextlib
import datetime as dt
from typing import Any

import psycopg
import pytest
from django.db import connection

from metering import records, rollups
from metering.models import UsageBatch
from metering.records import RECORDS
from subscriptions import partitions, pgarrays
from subscriptions.models import Gateway
from subscriptions.pgarrays import Int8s, Texts
from tests.factories import NOW, make_operator

pytestmark = pytest.mark.django_db
DAY = NOW.date()


def fill(day: dt.date, records: int = 4000) -> str:
    """A day on which most subscribers have one record and one has most; answers its partition."""
    name = partitions.name_of(RECORDS, day)
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {name} SELECT CASE WHEN n %% 2 = 0 THEN 7 ELSE n END, 1, %s, 1, 1, 1, 1,"
            " 1, 0, 0, 0, 0, 'r-' || n, 'm', '', '', NULL FROM generate_series(1, %s) AS n",
            [dt.datetime.combine(day, dt.time(12), dt.UTC), records],
        )
        cursor.execute(f"ANALYZE {name}")
    return name


def make_batch(gateway: Gateway, nr: int, *, stored_at: dt.datetime) -> None:
    UsageBatch.objects.create(
        id=nr,
        operator=gateway.operator,
        gateway=gateway,
        charged_at=NOW,
        stored_at=stored_at,
        records=1,
        units=1,
        occurred_from=NOW,
        occurred_to=NOW,
    )


def plan_of(sql: str, parameters: list[Any]) -> str:
    """Under the setting of a charge, whether of many or of few."""
    raw = pgarrays.cursor().connection
    cursor = psycopg.RawCursor(raw) if "$1" in sql else psycopg.Cursor(raw)
    cursor.execute("SET LOCAL enable_seqscan = off")
    cursor.execute(f"EXPLAIN {sql}", parameters)
    return "\n".join(row[0] for row in cursor.fetchall())


def test_the_look_at_a_day_around_reads_its_key_and_not_a_busy_subscribers_whole_day() -> None:
    name = fill(DAY)

    plan = plan_of(records._around((name,)).sql, [Int8s([7]), Texts(["r-2"]), 1, ""])

    assert f"{name}_key" in plan
    assert f"{name}_time" not in plan


@pytest.mark.parametrize("there", [0, 5])
def test_the_look_at_a_day_with_little_on_it_yet_is_planned_for_one_with_much(there: int) -> None:
    """A process keeps its plans, and until a day's next statistics many records come."""
    day = DAY + dt.timedelta(days=400)  # of which no other test has left pages
    partitions.ensure(RECORDS, [day])
    name = fill(day, there)

    plan = plan_of(records._around((name,)).sql, [Int8s([7]), Texts(["r-2"]), 1, ""])

    assert "Index Cond: ((subscriber_id = g.subscriber_id)" in plan


def test_a_record_that_may_be_a_duplicate_is_found_by_its_key() -> None:
    name = fill(DAY)
    sql = records._FIND_SQL.format(looks=records._STORED_SQL.format(table=name))

    plan = plan_of(sql, [Int8s([7]), Texts([""]), Texts(["r-2"]), 1])

    assert f"{name}_key" in plan
    assert f"{name}_time" not in plan


def unnoted(day: dt.date) -> int:
    """How many runs of pages the index by batch has not noted; it has after this."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT brin_summarize_new_values(%s)", [f"{partitions.name_of(RECORDS, day)}_batch"]
        )
        return int(cursor.fetchone()[0])


def test_the_fold_notes_in_which_pages_the_batches_of_its_days_are() -> None:
    gateway = Gateway.objects.create(operator=make_operator(), name="edge", created_at=NOW)
    fill(DAY)
    fill(DAY + dt.timedelta(days=1))
    make_batch(gateway, 1, stored_at=NOW)

    rollups.fold_all(at=NOW)

    assert unnoted(DAY) == 0
    assert unnoted(DAY + dt.timedelta(days=1)) > 0


def test_the_fold_does_not_wait_for_a_vacuum_that_notes_them_too() -> None:
    gateway = Gateway.objects.create(operator=make_operator(), name="edge", created_at=NOW)
    make_batch(gateway, 1, stored_at=NOW)
    name = partitions.name_of(RECORDS, DAY)
    with contextlib.closing(connection.copy()) as other, other.cursor() as cursor:
        cursor.execute(f"BEGIN; LOCK TABLE {name} IN SHARE UPDATE EXCLUSIVE MODE")

        assert rollups.fold_all(at=NOW) == 1


def test_a_report_of_some_hours_reads_the_index_by_time() -> None:
    name = fill(DAY)

    plan = plan_of(
        "SELECT units FROM metering_usagerecord WHERE subscriber_id = %s"
        " AND occurred_at >= %s AND occurred_at < %s",
        [9, NOW, NOW + dt.timedelta(hours=1)],
    )

    assert f"{name}_time" in plan


def test_the_watermark_is_when_the_oldest_batch_came_whatever_its_number() -> None:
    gateway = Gateway.objects.create(operator=make_operator(), name="edge", created_at=NOW)
    hour = dt.timedelta(hours=1)
    for nr, stored_at in ((10, NOW), (20, NOW - hour)):
        make_batch(gateway, nr, stored_at=stored_at)

    assert rollups.watermark(at=NOW + hour) == NOW - hour
