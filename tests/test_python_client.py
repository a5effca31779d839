"""The Python client against the platform itself. Its own tests are in clients/python."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from metering.models import QuarantinedRecord, UsageRecord
from tests.factories import (
    NOW,
    make_gateway_key,
    make_key,
    make_operator,
    make_plan,
    make_subscriber,
    subscribe,
)
from tests.usage import assert_books_agree, used
from token_billing_client import Charged, Client, Refused, Reservation, Usage

pytestmark = pytest.mark.django_db(transaction=True)


def usage(nr: int, subject: str = "user-s-1", **said: Any) -> Usage:
    return Usage(
        id=f"r-{nr}",
        subject=subject,
        model="deepseek/chat",
        occurred_at=NOW - timedelta(seconds=nr),
        input_tokens=100,
        cached_input_tokens=30,
        output_tokens=20,
        **said,
    )


def test_what_gateways_record_is_charged_once_and_told(tmp_path: Path, live_server: Any) -> None:
    operator = make_operator()
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator), starts_at=NOW - timedelta(days=1))
    told: list[Charged] = []

    def client() -> Client:
        return Client(
            live_server.url,
            make_gateway_key(operator),
            spool=tmp_path,
            batch_records=40,
            flush_seconds=0.05,
            on_answer=told.append,
        )

    with client() as first:
        for nr in range(100):
            first.record(usage(nr, reasoning_tokens=5, outcome="complete"))
        assert first.flush(seconds=30)
    with client() as again:
        for nr in range(90, 110):
            again.record(usage(nr, reasoning_tokens=5, outcome="complete"))
        again.record(usage(200, subject="nobody"))
        again.record(usage(95, attributes={"region": "east"}, reasoning_tokens=6))

    assert sum(one.accepted for one in told) == 110
    assert sum(one.duplicates for one in told) == 10
    assert sum(one.units for one in told) == 110 * 120
    rejected = [(r.id, r.cause) for one in told for r in one.rejected]
    assert rejected == [("r-200", "unknown_subject"), ("r-95", "conflict")]
    assert UsageRecord.objects.count() == 110
    assert QuarantinedRecord.objects.count() == 2
    assert used(subscriber) == {"allowance": 110 * 120}
    assert_books_agree()


def test_what_was_reserved_is_committed_with_what_was_used(
    tmp_path: Path, live_server: Any
) -> None:
    operator = make_operator()
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator, allowance=500_000), starts_at=NOW - timedelta(days=1))

    with Client(live_server.url, make_gateway_key(operator), spool=tmp_path) as client:

        def reserve(id: str) -> Reservation:
            return client.reserve(
                id,
                subject="user-s-1",
                model="deepseek/chat",
                input_tokens=100,
                max_output_tokens=150,
                ttl_seconds=60,
            )

        first, second, third = reserve("r/1"), reserve("r-2"), reserve("r-3")
        assert [one.decision for one in (first, second, third)] == ["allow", "allow", "deny"]
        assert (str(first.granted), str(second.available)) == ("250.000", "0.000")
        assert third.cause == "exhausted"
        assert reserve("r/1") == first
        client.release("r-2")
        charged, again = client.commit("r/1", usage(1)), client.commit("r/1", usage(1))
        unknown = client.commit("never asked for", usage(4))

    assert charged == again
    assert charged
    assert (charged.accepted, str(charged.units)) == (1, "120.000")
    assert unknown is None
    assert used(subscriber) == {"allowance": 240}
    assert UsageRecord.objects.count() == 2
    assert_books_agree()


def test_a_subject_may_go_on_until_its_last_token(tmp_path: Path, live_server: Any) -> None:
    operator = make_operator()
    subscribe(make_subscriber(operator), make_plan(operator, allowance=120_000))

    with Client(live_server.url, make_gateway_key(operator), spool=tmp_path) as client:
        before = client.authorize(subject="user-s-1", model="deepseek/chat")
        client.record(usage(0))
        assert client.flush(seconds=30)
        after = client.authorize(subject="user-s-1", model="deepseek/chat")
        nobody = client.authorize(subject="nobody", model="deepseek/chat")
    with (
        Client(live_server.url, make_key(operator), spool=tmp_path) as operators,
        pytest.raises(Refused, match="wrong_role"),
    ):
        operators.authorize(subject="user-s-1", model="deepseek/chat")

    assert (before.decision, str(before.remaining), before.cause) == ("allow", "120", "")
    assert (after.decision, str(after.remaining), after.cause) == ("deny", "0", "exhausted")
    assert after.detail
    assert (nobody.allowed, nobody.cause) == (False, "unknown_subject")
