"""What is sent in one message is one transaction; threads share the connection used last."""

from __future__ import annotations

import select
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from django.db import connection, transaction

from subscriptions import pgarrays, pipeline, warm
from subscriptions.pgarrays import pack_int8, pack_int8s, unpack_int8s
from subscriptions.pipeline import Statement

KEEP = Statement("test_keep", "INSERT INTO kept (n) VALUES ($1::bigint) RETURNING n")
COUNT = Statement("test_count", "SELECT count(*) FROM kept")
DIVIDE = Statement("test_divide", "SELECT 1 / $1::bigint")
SLEEP = Statement("test_sleep", "SELECT pg_sleep(60)")
ECHO = Statement("test_echo", "SELECT $1::bigint[]")

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def table(transactional_db: None) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE IF NOT EXISTS kept (n bigint UNIQUE)")
        cursor.execute("TRUNCATE kept")


def kept() -> list[int]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT n FROM kept ORDER BY n")
        return [row[0] for row in cursor.fetchall()]


def test_what_is_sent_together_is_committed_and_answered_together() -> None:
    rows = pipeline.run([(KEEP, [pack_int8(-7)]), (KEEP, [pack_int8(8)]), (COUNT, [])])

    assert rows == [[pack_int8(-7)], [pack_int8(8)], [pack_int8(2)]]
    assert kept() == [-7, 8]


def test_a_statement_that_fails_undoes_those_before_it() -> None:
    with pytest.raises(psycopg.errors.DivisionByZero):
        pipeline.run([(KEEP, [pack_int8(1)]), (DIVIDE, [pack_int8(0)]), (COUNT, [])])

    assert kept() == []
    assert pipeline.run([(KEEP, [pack_int8(2)])]) == [[pack_int8(2)]]


def test_what_a_rollback_made_the_server_forget_is_prepared_again() -> None:
    pipeline.run([(KEEP, [pack_int8(1)])])
    with connection.cursor() as cursor:
        cursor.execute("DEALLOCATE ALL")

    pipeline.run([(COUNT, []), (KEEP, [pack_int8(2)])])
    pipeline.run([(KEEP, [pack_int8(3)]), (COUNT, [])])

    assert kept() == [1, 2, 3]


def test_inside_a_transaction_it_is_a_part_of_that() -> None:
    def keep_twice() -> None:
        with transaction.atomic():
            pipeline.run([(KEEP, [pack_int8(1)])])
            pipeline.run([(KEEP, [pack_int8(1)])])

    with pytest.raises(psycopg.errors.UniqueViolation):
        keep_twice()

    assert kept() == []


def test_a_connection_that_died_is_replaced() -> None:
    with warm.connection():
        pipeline.run([(DIVIDE, [pack_int8(1)])])
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            (pid,) = cursor.fetchone()
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])
    with warm.connection():
        pgarrays.revive()

        assert pipeline.run([(DIVIDE, [pack_int8(1)])]) == [[pack_int8(1)]]


@pytest.mark.parametrize("prepared", [True, False])
def test_a_connection_found_dead_is_a_database_that_is_away(prepared: bool) -> None:
    """Not an error of ours: a gateway is told to send it again."""
    with warm.connection():
        pipeline.run([(DIVIDE, [pack_int8(1)])])
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            (pid,) = cursor.fetchone()
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])
    with warm.connection():
        statement = DIVIDE if prepared else Statement(f"test_new_{pid}", "SELECT $1::bigint")
        with pytest.raises(psycopg.OperationalError):
            pipeline.run([(statement, [pack_int8(1)])])
        pgarrays.revive()


def test_a_server_process_that_ends_in_the_middle_is_an_error_and_is_replaced() -> None:
    with warm.connection():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            (pid,) = cursor.fetchone()
        with ThreadPoolExecutor(1) as pool:
            ended = pool.submit(end_once_asleep, pid)
            with pytest.raises(psycopg.OperationalError):
                pipeline.run([(SLEEP, []), (DIVIDE, [pack_int8(1)])])
            assert ended.result(60)
        pgarrays.revive()

        assert pipeline.run([(DIVIDE, [pack_int8(1)])]) == [[pack_int8(1)]]


def end_once_asleep(pid: int) -> bool:
    try:
        with connection.cursor() as cursor:
            asleep, until = False, time.monotonic() + 60
            while not asleep and time.monotonic() < until:
                cursor.execute(
                    "SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = %s", [pid]
                )
                asleep = bool(cursor.fetchone()[0])
            cursor.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])
            return bool(cursor.fetchone()[0])
    finally:
        connection.close()


@pytest.fixture
def slow_to_send(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sending takes in all that the server answers to it, as it may where the socket is full."""
    send = pipeline._send

    def send_and_take(pgconn: psycopg.pq.abc.PGconn) -> None:
        send(pgconn)
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            if select.select([pgconn.socket], [], [], 0.05)[0]:
                pgconn.consume_input()

    monkeypatch.setattr(pipeline, "_send", send_and_take)


@pytest.mark.timeout(60)
@pytest.mark.usefixtures("slow_to_send")
def test_an_answer_that_came_while_the_rest_was_sent_is_not_waited_for_again() -> None:
    with pytest.raises(psycopg.errors.DivisionByZero):
        pipeline.run([(KEEP, [pack_int8(1)]), (DIVIDE, [pack_int8(0)]), (COUNT, [])])

    assert pipeline.run([(KEEP, [pack_int8(2)]), (COUNT, [])])[1] == [pack_int8(1)]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("sent", ["slow_to_send", "table"])
@pytest.mark.parametrize("size", [1, 1_000_000])
def test_a_copy_that_fails_at_its_first_row_says_so(
    request: pytest.FixtureRequest, sent: str, size: int
) -> None:
    request.getfixturevalue(sent)
    pipeline.run([(KEEP, [pack_int8(1)])])

    with pytest.raises(psycopg.errors.UniqueViolation), transaction.atomic():
        pipeline.copy(b"COPY kept (n) FROM STDIN", b"1\n" * size, meanwhile=lambda: None)

    assert kept() == [1]


@pytest.mark.parametrize("values", [[], [5], [-(2**63), 0, 2**63 - 1]])
def test_arrays_come_back_as_they_went(values: list[int]) -> None:
    [row] = pipeline.run([(ECHO, [pack_int8s(values)])])

    assert row is not None
    assert row[0] is not None
    assert unpack_int8s(row[0]) == values


def backend() -> int:
    with warm.connection(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        pid: int = cursor.fetchone()[0]
        return pid


def test_threads_that_take_turns_share_one_connection() -> None:
    found = set()
    for _ in range(4):
        with ThreadPoolExecutor(1) as pool:
            found.add(pool.submit(backend).result(60))

    assert len(found) == 1


def test_a_thread_inside_a_transaction_keeps_its_own_connection() -> None:
    other = backend()
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            own = cursor.fetchone()[0]

        assert backend() == own
    assert own != other
