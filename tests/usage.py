"""Usage as a gateway sends it, for tests."""

from __future__ import annotations

import datetime as dt
import io
import json
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from rest_framework.test import APIClient

from metering import reconciliation
from metering.records import RECORDS
from subscriptions import partitions
from subscriptions.models import BucketEntry, Operator
from tests.factories import NOW, client_for, make_gateway_key

PATH = "/api/v1/usage-records"


def record(id: str = "r-1", **said: Any) -> dict[str, Any]:  # noqa: A002
    """A record of 120 tokens used at NOW by `user-s-1`; a value of None leaves its field out."""
    full = {
        "id": id,
        "subject": "user-s-1",
        "model": "deepseek/chat",
        "occurred_at": NOW,
        "input_tokens": 100,
        "output_tokens": 20,
        **said,
    }
    return {name: _plain(value) for name, value in full.items() if value is not None}


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, dt.datetime) else value


class Gateway:
    """A sender of usage, with one key."""

    def __init__(self, operator: Operator, *, name: str = "gateway", key: str = "") -> None:
        self.key = key or make_gateway_key(operator, name=name)
        self.client: APIClient = client_for(self.key)

    def send(
        self, body: Any, content_type: str = "application/json", encoding: str = ""
    ) -> Any:
        """The answer to a POST of `body`: bytes as they are, all else as JSON."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Encoding": encoding} if encoding else {}
        return self.client.generic("POST", PATH, raw, content_type, headers=headers)

    def charge(self, *records: dict[str, Any]) -> Any:
        """The body of the 200 that answers a batch."""
        answer = self.send(list(records))
        assert answer.status_code == 200, answer.content
        return answer.json()


def counted(answer: Any) -> tuple[int, int, int]:
    """(accepted, duplicates, rejected) of the body of a 200."""
    return answer["accepted"], answer["duplicates"], len(answer["rejected"])


def make_days(days: Iterable[dt.date]) -> None:
    """Day partitions, committed: a test in a transaction that is rolled back can make none."""
    days = sorted(days)
    partitions.ensure(RECORDS, days)
    partitions.ensure(partitions.ENTRIES, days)


@pytest.fixture(scope="module")
def _days(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """The days from April to August 2026."""
    first = dt.date(2026, 4, 25)
    with django_db_blocker.unblock():
        make_days(first + dt.timedelta(days=n) for n in range(110))
    yield


def assert_books_agree() -> None:
    """`manage.py reconcile` finds no difference; in a test's transaction its checks alone are run,
    as it takes a snapshot of its own."""
    if connection.in_atomic_block:
        found = list(_differences())
        assert found == []
        return
    out = io.StringIO()
    try:
        call_command("reconcile", stdout=out, no_color=True)
    except SystemExit as ended:
        pytest.fail(f"status {ended.code}:\n{out.getvalue()}")


def _differences() -> Iterator[tuple[str, Any]]:
    since = dt.datetime(1971, 1, 1, tzinfo=dt.UTC)
    parameters = {
        "operators": None,
        "records_since": since,
        "journal_since": since,
        **{kind.name.lower(): kind.value for kind in BucketEntry.Kind},
    }
    for check in reconciliation.CHECKS:
        if check is reconciliation.WEIGHTS:
            rows = reconciliation._judge_weights(parameters)
        else:
            rows = reconciliation._run(check, parameters)
        yield from ((check.name, wrong) for _, wrong, _ in rows if wrong is not None)


def texts_holding(words: str) -> list[str]:
    """The tables in which some row, as text, holds these words."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT relid::regclass::text FROM pg_stat_user_tables"
            " WHERE relid NOT IN (SELECT inhrelid FROM pg_inherits)"
        )
        tables = [row[0] for row in cursor.fetchall()]
        found = []
        for table in tables:
            cursor.execute(f"SELECT count(*) FROM {table} t WHERE t::text LIKE %s", [f"%{words}%"])
            if cursor.fetchone()[0]:
                found.append(table)
    return found
