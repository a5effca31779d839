"""Workers of a close killed in the middle of it, their connections cut, usage coming meanwhile."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from django.conf import settings
from django.db import connection

from billing import closing, due
from billing.models import Invoice, InvoiceCounter, InvoiceNumber
from metering import rollups
from subscriptions import lifecycle, registry
from subscriptions.models import Operator, Plan
from tests.factories import local, make_operator, make_plan, set_clock
from tests.running import eventually
from tests.usage import DAY, Gateway, assert_books_agree, record

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.timeout(600),
]

START, CLOSE = local(2026, 6, 1), local(2026, 7, 3)

# As a task of the worker does it, in a process of its own.
CLOSER = """
import sys, datetime as dt, django
django.setup()
from django.db import connection
connection.settings_dict["NAME"] = sys.argv[1]
from billing import closing
from subscriptions.models import Operator
operator = Operator.objects.get(code="ct")
at = dt.datetime.fromisoformat(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
while closing.close_next(operator, at=at):
    pass
"""


@pytest.fixture
def operator() -> Operator:
    return make_operator("ct", at=START)


def people(operator: Operator, plan: Plan, count: int) -> None:
    for first in range(0, count, registry.BATCH):
        drafts = [
            registry.Draft(
                external_id=f"s-{nr}", name="", subjects=(f"user-s-{nr}",), plan=plan.code
            )
            for nr in range(first, min(count, first + registry.BATCH))
        ]
        outcomes = registry.upsert(operator, drafts, at=START)
        assert not any(outcome.error for outcome in outcomes)


def month_over(operator: Operator) -> None:
    set_clock(operator, CLOSE)
    while lifecycle.open_due(operator.pk, at=CLOSE):
        pass


@contextmanager
def closers(count: int) -> Iterator[list[subprocess.Popen[str]]]:
    """So many workers, ready to close; what is left of them at the end is killed."""
    command = [sys.executable, "-c", CLOSER, connection.settings_dict["NAME"], CLOSE.isoformat()]
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "config.settings"}
    workers = [
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=settings.BASE_DIR,
            env=environment,
        )
        for _ in range(count)
    ]
    try:
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        yield workers
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


@contextmanager
def counter_held(operator: Operator) -> Iterator[None]:
    """Whoever wants to number a chunk waits meanwhile: everything else of it is written."""
    holder = connection.get_new_connection(connection.get_connection_params())
    try:
        with holder.cursor() as cursor:
            cursor.execute(
                "SELECT FROM billing_invoicecounter WHERE operator_id = %s FOR UPDATE",
                [operator.pk],
            )
        yield
    finally:
        holder.close()


def waiting_for_it() -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND wait_event_type = 'Lock' AND query LIKE %s",
            ["%billing_invoicecounter%"],
        )
        return int(cursor.fetchone()[0])


def cut_connections() -> None:
    """What a restart of the database does to those who are connected."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )


def assert_each_is_billed_once(operator: Operator, count: int) -> None:
    assert Invoice.objects.filter(operator=operator).count() == count
    assert Invoice.objects.filter(state="draft").count() == 0
    assert InvoiceCounter.objects.get(operator=operator).last == count
    numbers = InvoiceNumber.objects.filter(operator_id=operator.pk).order_by("nr")
    assert list(numbers.values_list("nr", flat=True)) == list(range(1, count + 1))
    assert closing.failures(operator) == []
    assert_books_agree()


@pytest.mark.parametrize("cut", [False, True], ids=["killed", "cut off"])
def test_workers_lost_in_the_middle_of_a_chunk_leave_nothing_of_it(
    operator: Operator, cut: bool
) -> None:
    count, size = 300, 10
    plan = make_plan(operator, on_exhaustion="meter", price_per_million="1.20", allowance=0)
    people(operator, plan, count)
    Gateway(operator).charge(
        *(
            record(f"u-{nr}", subject=f"user-s-{nr}", occurred_at=START, input_tokens=10**6)
            for nr in range(0, count, 7)
        )
    )
    month_over(operator)
    rollups.fold_all(at=CLOSE)
    assert closing.plan(operator, at=CLOSE, size=size) == count // size

    for crash in range(2):
        assert closing.close_next(operator, at=CLOSE)
        before = Invoice.objects.count()
        with counter_held(operator), closers(2) as workers:
            eventually(lambda: waiting_for_it() == 2)
            if cut:
                cut_connections()
            else:
                for worker in workers:
                    os.kill(worker.pid, signal.SIGKILL)
            for worker in workers:
                worker.wait()
        assert Invoice.objects.count() == InvoiceNumber.objects.count() == before, crash
    closing.close_due(operator, at=CLOSE)

    assert_each_is_billed_once(operator, count)


def test_closes_at_once_and_usage_meanwhile_bill_each_period_once(operator: Operator) -> None:
    count = 200
    plan = make_plan(operator, on_exhaustion="meter", price_per_million="1.20", allowance=0)
    people(operator, plan, count)
    gateway = Gateway(operator)
    month_over(operator)

    def close(_: int) -> None:
        try:
            closing.close_due(Operator.objects.get(pk=operator.pk), at=CLOSE)
        finally:
            connection.close()

    def use(turn: int) -> None:
        # Of the period that is being closed, too late for its grace: an adjustment of the next.
        try:
            late: list[dict[str, object]] = [
                record(f"late-{turn}-{nr}", subject=f"user-s-{nr}", occurred_at=CLOSE - 3 * DAY)
                for nr in range(turn, count, 5)
            ]
            assert gateway.charge(*late)["accepted"] == len(late)
        finally:
            connection.close()

    with ThreadPoolExecutor(5) as pool:
        work = [pool.submit(job, nr) for nr in range(4) for job in (close, use)]
        for one in work:
            one.result()

    assert_each_is_billed_once(operator, count)
    august = CLOSE + dt.timedelta(days=31)
    set_clock(operator, august)
    due.run(operator, at=august)
    assert_each_is_billed_once(operator, 2 * count)
