"""Usage as a gateway sends it and as the carrier sees it, for tests."""

from __future__ import annotations

import datetime as dt
import io
import json
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from rest_framework.test import APIClient

from billing import reconciliation
from subscriptions import clock
from subscriptions.models import BucketEntry, Operator, Subscriber
from tests.factories import (
    NOW,
    buckets_of,
    client_for,
    make_gateway_key,
    make_rate_card,
    make_subscriber,
)

PATH = "/api/v1/usage-records"
# What is asked with a gateway's key.
GATEWAYS = (
    *(PATH, "/api/v1/reservations", "/api/v1/authorize", "/api/v1/usage-counters"),
    *("/api/v1/events", "/api/v1/keys/", "/v1/", "/v2/"),
)
US = dt.timedelta(microseconds=1)
MINUTE = dt.timedelta(minutes=1)
HOUR = dt.timedelta(hours=1)
DAY = dt.timedelta(days=1)
T = 1000  # thousandths of a unit: what a token of weight 1 makes


def record(id: str | None = "r-1", **said: Any) -> dict[str, Any]:
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
        self,
        body: Any,
        content_type: str = "application/json",
        encoding: str = "",
        *,
        path: str = PATH,
    ) -> Any:
        """The answer to a POST of `body`: bytes as they are, all else as JSON."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Encoding": encoding} if encoding else {}
        return self.client.generic("POST", path, raw, content_type, headers=headers)  # type: ignore[arg-type]

    def charge(self, *records: Any) -> Any:
        """The body of the 200 that answers a batch."""
        answer = self.send(list(records))
        assert answer.status_code == 200, answer.content
        return answer.json()


def counted(answer: Any) -> tuple[int, int, int]:
    """(accepted, duplicates, rejected) of the body of a 200."""
    return answer["accepted"], answer["duplicates"], len(answer["rejected"])


def assert_books_agree() -> None:
    """`manage.py reconcile` finds no difference; inside a test's transaction, which cannot become
    a snapshot of its own, its checks are run there."""
    if connection.in_atomic_block:
        report = reconciliation.check_all(at=clock.wall())
        wrong = [check for one in report.operators for check in one.checks if check.differences]
        assert wrong == [], wrong
        return
    out = io.StringIO()
    try:
        call_command("reconcile", stdout=out, no_color=True)
    except SystemExit as ended:
        pytest.fail(f"status {ended.code}:\n{out.getvalue()}")


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


# The carrier's side of it ------------------------------------------------------------------------


def bare(operator: Operator, external_id: str = "s-1") -> Subscriber:
    """A subscriber without a plan, and the rate card that weighs its usage."""
    make_rate_card(operator)
    return make_subscriber(operator, external_id)


def get(api: APIClient, path: str) -> Any:
    answer = api.get(path if path.startswith("http") else f"/api/v1/{path}")
    assert answer.status_code == 200, answer.content
    return answer.json()


def post(api: APIClient, path: str, body: Any = None) -> Any:
    return api.post(f"/api/v1/{path}", body, format="json")


def put(api: APIClient, path: str, body: Any) -> Any:
    return api.put(f"/api/v1/{path}", body, format="json")


def balance(api: APIClient, external_id: str = "s-1", query: str = "") -> Any:
    return get(api, f"subscribers/{external_id}/balance{query}")


def used(subscriber: Subscriber) -> dict[str, float]:
    """Tokens drawn by usage, by kind of bucket; of a kind's several buckets the sum."""
    kinds = {bucket.id: bucket.kind for bucket in buckets_of(subscriber)}
    drawn: dict[str, float] = {}
    for entry in BucketEntry.objects.filter(
        subscriber_id=subscriber.pk, kind=BucketEntry.Kind.USAGE
    ):
        kind = kinds[entry.bucket_id]
        drawn[kind] = drawn.get(kind, 0) + entry.units / T
    return drawn


def assert_problem(answer: Any, status: int, cause: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.content
    assert answer["Content-Type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert (body["status"], body["cause"], body["type"]) == (status, cause, "about:blank")
    assert body["title"]
    assert body["detail"]
    return body


def causes(answer: Any) -> list[tuple[int, str]]:
    return [(item["index"], item["cause"]) for item in answer["rejected"]]


def lines(*records: Any) -> bytes:
    return b"\n".join(json.dumps(item).encode() for item in records)


def weights(said: str) -> dict[str, str]:
    names = ("input", "cached_input", "cache_write", "output", "reasoning")
    return dict(zip(names, said.split(), strict=True))


def put_card(api: APIClient, effective_from: dt.datetime, **by_model: str) -> Any:
    return put(
        api,
        "rate-cards/standard",
        {
            "effective_from": effective_from.isoformat(),
            "weights": [{"model": m, **weights(w)} for m, w in by_model.items()],
        },
    )


def records_of(api: APIClient, query: str = "", external_id: str = "s-1") -> Any:
    span = "from=2026-05-01T00:00:00Z&to=2026-08-10T00:00:00Z"
    return get(api, f"subscribers/{external_id}/usage-records?{span}{query}")["items"]


def split_of(api: APIClient) -> dict[str, list[tuple[str, str]]]:
    return {
        item["id"]: [(b["kind"], b["units"]) for b in item["receipt"]["buckets"]]
        for item in records_of(api)
    }


def usage_by(api: APIClient, by: str, since: dt.datetime, until: dt.datetime) -> list[Any]:
    span = f"from={since.isoformat()}&to={until.isoformat()}".replace("+", "%2B")
    items: list[Any] = get(api, f"subscribers/s-1/usage?{span}&by={by}")["items"]
    return items
