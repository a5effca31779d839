"""Requests and tokens a minute, counted in a real Valkey by the operator's clock."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metering import rate_limits
from metering.rate_limits import Ask, Correction, take
from subscriptions.models import Operator, Reservation
from subscriptions.policies import PlanPolicy
from tests.asking import commit, release, reserve
from tests.factories import (
    NOW,
    client_for,
    make_key,
    make_plan,
    make_subscriber,
    set_clock,
    subscribe,
)
from tests.usage import Gateway, assert_problem, put, record

pytestmark = pytest.mark.django_db

SECOND = dt.timedelta(seconds=1)
NOWHERE = "unix:///nowhere/at-all.sock"


@pytest.fixture(autouse=True)
def _own_counts(settings: Any) -> Iterator[None]:
    """Counts of this test's own: others share the server, and use the same ids and times."""
    settings.RATE_LIMIT_PREFIX = f"test-{uuid.uuid4()}"
    rate_limits.forget_failures()
    yield
    rate_limits.forget_failures()


def holder(operator: Operator, **limits: Any) -> None:
    """`s-1` with 10 million units and a plan with these limits."""
    subscribe(make_subscriber(operator), make_plan(operator, **limits))


def authorize(gateway: Gateway) -> Any:
    return gateway.client.get("/api/v1/authorize?subject=user-s-1")


def test_a_plan_says_its_rates_and_shows_them(operator: Operator) -> None:
    api = client_for(make_key(operator))
    make_plan(operator, "other")
    plan = {"name": "R", "price": "1", "allowance": "1", "rate_card": "standard"}
    rate = {"requests_per_minute": 60, "tokens_per_minute": None, "when_unavailable": "closed"}

    assert put(api, "plans/r", {**plan, "rate_limit": rate}).json()["rate_limit"] == rate
    assert put(api, "plans/r", {**plan, "rate_limit": rate}).status_code == 200
    for wrong in ({"requests_per_minute": 0}, {"when_unavailable": "perhaps"}, 5):
        assert_problem(put(api, "plans/r", {**plan, "rate_limit": wrong}), 422, "invalid")


def test_no_more_requests_pass_in_a_minute_than_the_plan_says(
    gateway: Gateway, operator: Operator
) -> None:
    holder(operator, requests_per_minute=3)

    first = [reserve(gateway, f"a-{n}", units="1")["decision"] for n in range(3)]
    answer = reserve(gateway, "a-3", units="1")

    assert first == ["allow"] * 3
    assert (answer["decision"], answer["cause"]) == ("deny", "rate_limited")
    assert answer["limit"] == {
        "per": "minute",
        "kind": "requests",
        "left": "0.000",
        "resets_at": "2026-06-10T04:01:00Z",
    }
    asked = authorize(gateway)
    assert assert_problem(asked, 429, "rate_limited")["limit"] == answer["limit"]
    assert asked["Retry-After"] == "60"
    set_clock(operator, NOW + 59 * SECOND)
    assert authorize(gateway)["Retry-After"] == "1"
    set_clock(operator, NOW + 60 * SECOND)
    assert authorize(gateway).status_code == 200


def test_an_ask_sent_again_counts_once(gateway: Gateway, operator: Operator) -> None:
    holder(operator, requests_per_minute=2)
    for _ in range(5):
        assert reserve(gateway, units="1")["decision"] == "allow"

    assert authorize(gateway).status_code == 200
    assert authorize(gateway).status_code == 429
    assert reserve(gateway, units="1")["decision"] == "allow"


def test_tokens_count_as_asked_for_and_then_as_used(gateway: Gateway, operator: Operator) -> None:
    holder(operator, tokens_per_minute=10_000)
    tokens = {"units": None, "input_tokens": 1000, "max_output_tokens": 5000}

    assert reserve(gateway, "a-1", **tokens)["decision"] == "allow"
    denied = reserve(gateway, "a-2", **tokens)
    assert (denied["cause"], denied["limit"]["kind"]) == ("rate_limited", "tokens")
    commit(gateway, "a-1", input_tokens=1000, output_tokens=100)
    # 1,100 were used in truth.
    assert reserve(gateway, "a-3", **tokens)["decision"] == "allow"
    release(gateway, "a-3")
    assert reserve(gateway, "a-4", **tokens)["decision"] == "allow"
    commit(gateway, "a-4", input_tokens=1000, output_tokens=8000)
    assert reserve(gateway, "a-5", units=None, input_tokens=1, max_output_tokens=1)["cause"] == (
        "rate_limited"
    )
    assert authorize(gateway).status_code == 429
    assert Reservation.objects.get(name="a-1").rated_tokens == 6000


def test_what_is_larger_than_the_limit_passes_alone(gateway: Gateway, operator: Operator) -> None:
    holder(operator, tokens_per_minute=1000)
    large = {"units": None, "input_tokens": 5000, "max_output_tokens": 0}

    assert reserve(gateway, "a-1", **large)["decision"] == "allow"
    assert reserve(gateway, "a-2", **large)["cause"] == "rate_limited"
    set_clock(operator, NOW + 60 * SECOND)
    assert reserve(gateway, "a-3", **large)["decision"] == "allow"


def test_usage_that_happened_is_never_refused_for_a_rate(
    gateway: Gateway, operator: Operator
) -> None:
    holder(operator, requests_per_minute=1, tokens_per_minute=1)

    assert gateway.charge(*(record(f"r-{n}") for n in range(5)))["accepted"] == 5


@pytest.mark.parametrize("address", [NOWHERE, "memory://", "amqp://localhost"])
def test_where_it_cannot_be_told_the_plan_says_who_passes(
    address: str, gateway: Gateway, operator: Operator, settings: Any
) -> None:
    settings.RATE_LIMIT_URL = address
    holder(operator, requests_per_minute=1)
    closed = make_plan(operator, "closed", requests_per_minute=1, limits_fail_closed=True)
    subscribe(make_subscriber(operator, "s-2"), closed)

    for n in range(3):
        assert reserve(gateway, f"a-{n}", units="1")["decision"] == "allow"
    denied = reserve(gateway, "b", units="1", subject="user-s-2")

    assert (denied["decision"], denied["cause"]) == ("deny", "rate_limited")
    refused: Any = gateway.client.get("/api/v1/authorize?subject=user-s-2")
    assert_problem(refused, 429, "rate_limited")
    assert refused["Retry-After"] == "1"
    assert commit(gateway, "a-0")["state"] == "committed"


def test_a_plan_without_rates_asks_nobody(
    gateway: Gateway, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise AssertionError("asked")

    monkeypatch.setattr(rate_limits, "_run", fail)
    holder(operator)

    assert reserve(gateway)["decision"] == "allow"
    assert authorize(gateway).status_code == 200
    assert commit(gateway)["state"] == "committed"


# The count itself --------------------------------------------------------------------------------


def policy(requests: int | None, tokens: int | None) -> PlanPolicy:
    return PlanPolicy(
        1,
        "standard",
        "stop",
        None,
        0,
        None,
        requests_per_minute=requests,
        tokens_per_minute=tokens,
    )


def test_sixty_threads_at_once_get_no_more_than_the_limit() -> None:
    limit = policy(25, None)

    with ThreadPoolExecutor(60) as pool:
        passed = list(pool.map(lambda _: take([Ask(1, limit, 0)], at=NOW)[0] is None, range(60)))

    assert sum(passed) == 25


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(st.integers(0, 45), st.integers(1, 40), st.integers(-30, 30)),
        min_size=1,
        max_size=25,
    ),
    st.integers(1, 5),
    st.integers(40, 100),
)
def test_in_no_sixty_seconds_is_there_more_than_the_limit(
    asks: list[tuple[int, int, int]], requests: int, tokens: int
) -> None:
    """Against a list of what has passed."""
    who = uuid.uuid4().int >> 66
    limit = policy(requests, tokens)
    passed: list[list[int]] = []  # [second, tokens]
    now = 0
    for wait, cost, more in asks:
        now += wait
        at = NOW + now * SECOND
        recent = [one for one in passed if one[0] > now - 60]
        fits = len(recent) < requests and sum(one[1] for one in recent) + cost <= tokens

        [refusal] = take([Ask(who, limit, cost)], at=at)

        assert (refusal is None) == fits
        if refusal is None:
            passed.append([now, cost])
            if more > -cost:
                rate_limits.correct([Correction(who, at, more)])
                passed[-1][1] += more
        else:
            assert 1 <= refusal.seconds <= 60
