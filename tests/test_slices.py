"""Quota slices: one reservation, drawn down by many reports and renewed when it runs low."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import OperationalError
from rest_framework.test import APIClient

from subscriptions import lifecycle, reservations
from subscriptions.models import Operator, Reservation, ReservationName, Subscriber
from subscriptions.policies import Window
from tests.asking import commit, held, release, reserve
from tests.factories import (
    NOW,
    make_plan,
    make_subscriber,
    set_clock,
    subscribe,
    yuan,
)
from tests.usage import (
    DAY,
    MINUTE,
    Gateway,
    T,
    assert_books_agree,
    assert_problem,
    balance,
    causes,
    lines,
    post,
    record,
    used,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def subscriber(operator: Operator) -> Subscriber:
    """`s-1` with 250,000 units and no more."""
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator, allowance=250_000 * T))
    return subscriber


@pytest.fixture(autouse=True)
def _the_books_agree() -> Iterator[None]:
    yield
    assert_books_agree()


def begin(gateway: Gateway, name: str = "s-1", **said: Any) -> Any:
    return reserve(gateway, name, units=said.pop("units", None), slice=True, **said)


_numbers = iter(range(1, 10**9))


def use(tokens: int, **said: Any) -> dict[str, Any]:
    return record(f"u-{next(_numbers)}", input_tokens=tokens, output_tokens=0, **said)


def report(gateway: Gateway, *records: Any, name: str = "s-1") -> Any:
    answer = post(gateway.client, f"reservations/{name}/usage", list(records))
    assert answer.status_code == 200, answer.content
    return answer.json()


def test_a_slice_is_held_at_once_and_says_when_to_report(
    gateway: Gateway, api: APIClient, subscriber: Subscriber
) -> None:
    answer = begin(gateway, ttl_seconds=3600)

    assert answer == {
        "id": "s-1",
        "decision": "allow",
        "granted": "100000.000",
        "expires_at": "2026-06-10T05:00:00Z",
        "available": "150000.000",
        "threshold": "20000.000",
    }
    assert balance(api)["reserved"] == "100000.000"


def test_reports_draw_it_down_and_nothing_else(
    gateway: Gateway, api: APIClient, subscriber: Subscriber
) -> None:
    begin(gateway)

    first = report(gateway, use(10_000), use(20_000))
    second = report(gateway, use(5_000))

    assert {**first, "batch": "", "expires_at": ""} == {
        "id": "s-1",
        "state": "open",
        "late": False,
        "granted": "70000.000",
        "expires_at": "",
        "threshold": "20000.000",
        "renewed": False,
        "final": False,
        "batch": "",
        "accepted": 2,
        "duplicates": 0,
        "rejected": [],
        "units": "30000.000",
    }
    assert second["granted"] == "65000.000"
    shown = balance(api)
    assert (shown["available"], shown["reserved"]) == ("150000.000", "65000.000")
    assert used(subscriber) == {"allowance": 35_000}


def test_at_the_threshold_a_new_grant_takes_the_place_of_the_old(
    gateway: Gateway, api: APIClient, operator: Operator, subscriber: Subscriber
) -> None:
    begin(gateway)
    set_clock(operator, NOW + MINUTE)

    answer = report(gateway, use(80_000, occurred_at=NOW))

    assert (answer["renewed"], answer["granted"], answer["final"]) == (True, "100000.000", False)
    assert answer["expires_at"] == "2026-06-10T04:11:00Z"
    shown = balance(api)
    assert (shown["available"], shown["reserved"]) == ("70000.000", "100000.000")


def test_the_last_grant_is_final_and_a_top_up_makes_it_whole_again(
    gateway: Gateway, api: APIClient, subscriber: Subscriber
) -> None:
    begin(gateway)
    report(gateway, use(90_000))
    last = report(gateway, use(90_000))

    assert (last["granted"], last["final"], last["threshold"]) == ("70000.000", True, "0.000")
    assert balance(api)["available"] == "0.000"
    again = report(gateway, use(30_000))
    assert (again["granted"], again["final"]) == ("40000.000", True)
    end = report(gateway, use(40_000))
    assert (end["granted"], end["final"], end["renewed"]) == ("0.000", True, False)
    assert end["cause"] == "exhausted"

    lifecycle.give(subscriber.pk, units=500_000 * T, valid_until=NOW + DAY, reason="x", at=NOW)
    whole = report(gateway, use(1))
    assert (whole["granted"], whole["final"], whole["renewed"]) == ("100000.000", False, True)
    assert used(subscriber) == {"allowance": 250_000, "gift": 1}


def test_a_slice_asks_once_for_many_requests(gateway: Gateway, subscriber: Subscriber) -> None:
    begin(gateway)

    for _ in range(20):
        report(gateway, *(use(400) for _ in range(25)))

    assert used(subscriber) == {"allowance": 200_000}
    assert ReservationName.objects.count() == 1
    assert Reservation.objects.get().held == 50_000 * T


def test_a_slice_of_packs_that_are_only_promised_is_drawn_down_too(
    gateway: Gateway, operator: Operator
) -> None:
    plan = make_plan(
        operator,
        allowance=1000 * T,
        on_exhaustion="blocks",
        block_units=500 * T,
        block_price=yuan("1"),
        cap_units=1000 * T,
    )
    subscriber = make_subscriber(operator)
    subscribe(subscriber, plan)
    begin(gateway, "all there is", units="1000")
    assert begin(gateway, units="800")["granted"] == "800.000"

    assert report(gateway, use(300))["granted"] == "500.000"

    assert used(subscriber) == {"overage": 300}
    # Of the two packs that may be bought, 300 units are used and 500 promised.
    assert begin(gateway, "the rest", units="800")["granted"] == "200.000"


def test_more_than_the_slice_holds_is_drawn_on_by_the_plans_policy(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    plan = make_plan(
        operator,
        allowance=1000 * T,
        on_exhaustion="blocks",
        block_units=500 * T,
        block_price=yuan("1"),
        cap_units=1000 * T,
    )
    subscriber = make_subscriber(operator)
    subscribe(subscriber, plan)
    assert begin(gateway, units="800")["granted"] == "800.000"

    answer = report(gateway, use(1300))

    assert used(subscriber) == {"allowance": 1000, "overage": 300}
    # What is left of the pack that was bought, and another that may be.
    assert (answer["granted"], answer["final"]) == ("700.000", True)
    assert held(balance(api)) == {"overage": "200.000"}
    report(gateway, use(700))
    assert used(subscriber) == {"allowance": 1000, "overage": 1000}


def test_a_report_sent_again_charges_nothing_twice(
    gateway: Gateway, subscriber: Subscriber
) -> None:
    begin(gateway)
    body = [use(30_000), use(1)]

    first, again = report(gateway, *body), report(gateway, *body)

    assert (again["accepted"], again["duplicates"]) == (0, 2)
    assert again["granted"] == first["granted"] == "69999.000"
    assert used(subscriber) == {"allowance": 30_001}


def test_a_report_that_was_charged_and_not_answered_is_renewed_when_it_is_sent_again(
    monkeypatch: pytest.MonkeyPatch, gateway: Gateway, subscriber: Subscriber, api: APIClient
) -> None:
    begin(gateway)
    body = [use(90_000)]
    with monkeypatch.context() as broken:
        broken.setattr(reservations, "renew", refuse_to_answer)
        failed = post(gateway.client, "reservations/s-1/usage", body)

    assert failed.status_code == 503
    assert used(subscriber) == {"allowance": 90_000}
    assert held(balance(api)) == {"allowance": "10000.000"}
    again = report(gateway, *body)
    assert (again["accepted"], again["duplicates"]) == (0, 1)
    assert (again["granted"], again["renewed"]) == ("100000.000", True)
    assert used(subscriber) == {"allowance": 90_000}


def refuse_to_answer(*given: Any, **named: Any) -> Any:
    raise OperationalError("the connection is gone")


def test_a_report_takes_what_usage_records_takes(
    gateway: Gateway, operator: Operator, subscriber: Subscriber
) -> None:
    other = make_subscriber(operator, "s-2")
    begin(gateway)
    path = "/api/v1/reservations/s-1/usage"

    assert gateway.send(use(1), path=path).json()["granted"] == "99999.000"
    assert gateway.send({"records": [use(1)]}, path=path).json()["granted"] == "99998.000"
    ndjson = gateway.send(lines(use(1), use(1)), "application/x-ndjson", path=path)
    assert ndjson.json()["granted"] == "99996.000"
    answer = report(gateway, use(1, subject="user-s-2"), use(1, subject="nobody"), use(-1))
    assert causes(answer) == [(1, "unknown_subject"), (2, "invalid_record")]
    # Another's usage is charged to that one.
    assert (answer["granted"], used(other)) == ("99996.000", {"uncovered": 1})


def test_windows_limit_what_a_slice_is_granted(gateway: Gateway, operator: Operator) -> None:
    day = Window("day", 150_000 * T)
    subscribe(make_subscriber(operator), make_plan(operator, windows=(day,)))

    assert begin(gateway)["granted"] == "100000.000"
    answer = report(gateway, use(90_000))
    assert (answer["granted"], answer["final"]) == ("60000.000", True)
    end = report(gateway, use(60_000))
    assert (end["cause"], end["limit"]["left"]) == ("rate_limited", "0.000")


def test_a_suspended_line_keeps_what_it_holds_and_gets_no_more(
    gateway: Gateway, operator: Operator, subscriber: Subscriber
) -> None:
    begin(gateway)
    lifecycle.suspend(subscriber.pk, reason="unpaid", at=NOW + MINUTE)
    set_clock(operator, NOW + MINUTE)

    answer = report(gateway, use(85_000, occurred_at=NOW))

    assert (answer["granted"], answer["cause"], answer["final"]) == (
        "15000.000",
        "suspended",
        True,
    )


def test_a_plan_that_degrades_names_what_follows_the_last_slice(
    gateway: Gateway, operator: Operator
) -> None:
    plan = make_plan(operator, allowance=1000 * T, on_exhaustion="degrade", degrade_model="lite")
    subscribe(make_subscriber(operator), plan)
    assert begin(gateway)["granted"] == "1000.000"

    answer = report(gateway, use(1000))

    assert (answer["cause"], answer["degrade_to"]["model"]) == ("exhausted", "lite")


def test_a_slice_that_is_over_charges_late_and_is_not_renewed(
    gateway: Gateway, operator: Operator, api: APIClient, subscriber: Subscriber
) -> None:
    begin(gateway, ttl_seconds=60)
    set_clock(operator, NOW + MINUTE)

    unswept = report(gateway, use(95_000, occurred_at=NOW))
    reservations.expire_due(operator.pk, at=NOW + MINUTE)
    swept = report(gateway, use(1, occurred_at=NOW))

    assert (unswept["late"], unswept["renewed"]) == (True, False)
    assert (swept["late"], swept["state"], swept["granted"]) == (True, "expired", "0.000")
    assert swept["expires_at"] is None
    assert used(subscriber) == {"allowance": 95_001}
    assert balance(api)["reserved"] == "0.000"


def test_a_slice_ends_with_a_commit_or_a_release(
    gateway: Gateway, api: APIClient, subscriber: Subscriber
) -> None:
    begin(gateway)
    begin(gateway, "s-2")
    report(gateway, use(10_000))

    answer = commit(gateway, "s-1", input_tokens=5_000, output_tokens=0)

    assert (answer["units"], answer["released"]) == ("5000.000", "85000.000")
    assert release(gateway, "s-2")["released"] == "100000.000"
    assert balance(api)["available"] == "235000.000"
    assert report(gateway, use(1))["state"] == "committed"


def test_only_a_slice_takes_reports(gateway: Gateway, subscriber: Subscriber) -> None:
    reserve(gateway, "plain")
    reserve(gateway, "nobodys", subject="nobody", slice=True)

    for name in ("plain", "nobodys"):
        answer = post(gateway.client, f"reservations/{name}/usage", [use(1)])
        assert_problem(answer, 409, "no_slice")
    assert_problem(post(gateway.client, "reservations/none/usage", [use(1)]), 404, "not_found")
    begin(gateway)
    for wrong in (5, "x", None):
        answer = post(gateway.client, "reservations/s-1/usage", wrong)
        assert_problem(answer, 400, "malformed")
    zero = post(
        gateway.client,
        "reservations",
        {"id": "z", "subject": "user-s-1", "model": "m", "slice": True, "units": "0"},
    )
    assert_problem(zero, 422, "invalid")


def test_a_denied_slice_charges_what_is_reported(gateway: Gateway, operator: Operator) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator, allowance=0))
    assert begin(gateway)["cause"] == "exhausted"

    answer = report(gateway, use(10))

    assert (answer["state"], answer["granted"], answer["late"]) == ("denied", "0.000", False)
    assert used(subscriber) == {"uncovered": 10}
