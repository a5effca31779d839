"""A plan that is paid before each period opens its bucket when its order is paid."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from rest_framework.test import APIClient

from billing import before_period
from billing.models import Order
from subscriptions.models import ExpectedPeriod, Operator
from tests.factories import (
    buckets_of,
    client_for,
    local,
    make_key,
    make_operator,
    make_plan,
    make_subscriber,
    yuan,
)
from tests.test_orders import pay, states, transfer, wallet
from tests.usage import (
    DAY,
    Gateway,
    assert_books_agree,
    assert_problem,
    balance,
    get,
    post,
    put,
    record,
)

pytestmark = pytest.mark.django_db

START, JULY, AUGUST = local(2026, 6, 1), local(2026, 7, 1), local(2026, 8, 1)
OVER = {"on_exhaustion": "meter", "price_per_million": "1"}


@pytest.fixture
def operator() -> Operator:
    operator = make_operator("ct", at=START)
    before = {"collect": "before_period"}
    make_plan(operator, "pre", price=yuan("30.00"), refund="unused", **before, **OVER)
    make_plan(operator, "big", price=yuan("60.00"), allowance=20_000_000_000, **before)
    make_plan(operator, "daily", price=yuan("30.00"), first_month="by_day", **before)
    make_plan(operator, "gratis", price=yuan("0"), **before)
    make_plan(operator, "kept", price=yuan("3.00"), allowance=0, suspends=True)
    make_plan(operator, "pausable", price=yuan("30.00"), pause_plan="kept", **before)
    make_plan(operator, "try", price=yuan("0"), trial_days=7, converts_to="pre")
    make_plan(operator)
    make_subscriber(operator)
    return operator


@pytest.fixture
def api(operator: Operator) -> APIClient:
    api = client_for(make_key(operator))
    assert transfer(api, "500.00", "fill", wallet="s-1")["state"] == "matched"
    return api


def move(api: APIClient, at: dt.datetime) -> None:
    answer = post(api, "test-clock", {"now": at.isoformat()})
    assert answer.status_code == 200, answer.content


def sell(api: APIClient, plan: str = "pre") -> str:
    answer = post(api, "subscribers/s-1/subscriptions", {"plan": plan})
    assert answer.status_code == 201, answer.content
    return str(answer.json()["id"])


def change(api: APIClient, subscription: str, **said: Any) -> Any:
    path = f"/api/v1/subscribers/s-1/subscriptions/{subscription}"
    return api.patch(path, said, format="json")


def orders(api: APIClient, state: str = "") -> list[Any]:
    found: list[Any] = get(api, "subscribers/s-1/orders")["items"]
    return [
        one for one in found if one["kind"] == "period" and (not state or one["state"] == state)
    ]


def asked(api: APIClient) -> Any:
    [one] = orders(api, "created")
    return one


def pays(api: APIClient) -> str:
    number = str(asked(api)["number"])
    answer = pay(api, number)
    assert answer.status_code == 200, answer.content
    return number


def allowances(operator: Operator) -> list[tuple[dt.datetime, dt.datetime]]:
    subscriber = operator.subscribers.get()
    return [
        (bucket.valid_from, bucket.valid_until)
        for bucket in buckets_of(subscriber, "allowance")
        if bucket.granted != bucket.used or bucket.used == 0
    ]


def bills(api: APIClient) -> list[tuple[str, str, str]]:
    return [
        (one["state"], one["gross"]["amount"], one["amount_due"]["amount"])
        for one in reversed(get(api, "subscribers/s-1/invoices")["items"])
    ]


# Paying ------------------------------------------------------------------------------------------


def test_a_period_paid_after_it_began_opens_then_and_usage_before_is_overage(
    operator: Operator, api: APIClient
) -> None:
    gateway = Gateway(operator)
    sell(api)
    move(api, START + DAY)
    assert (asked(api)["amount"]["amount"], asked(api)["plan"]) == ("30.00", "pre")
    assert balance(api)["available"] == "0.000"
    used = {"input_tokens": 2_000_000, "output_tokens": 0}
    gateway.charge(record("r-1", occurred_at=START + DAY, **used))

    move(api, START + 2 * DAY)
    pays(api)
    assert allowances(operator) == [(START + 2 * DAY, JULY)]
    gateway.charge(record("r-2", occurred_at=START + 2 * DAY, **used))
    assert balance(api)["available"] == "8000000.000"

    move(api, local(2026, 7, 3))
    [shown] = get(api, "subscribers/s-1/invoices")["items"]
    assert [(line["kind"], line["gross"]["amount"]) for line in shown["lines"]] == [
        ("fee", "30.00"),
        ("overage", "2.00"),
    ]
    assert bills(api) == [("open", "32.00", "2.00")]
    assert wallet(api) == "470.00"
    assert_books_agree()


def test_a_period_paid_ahead_opens_at_its_first_second(operator: Operator, api: APIClient) -> None:
    sell(api)
    move(api, START + DAY)
    pays(api)
    move(api, JULY - 6 * DAY)
    assert orders(api, "created") == []
    move(api, JULY - 5 * DAY)
    number = pays(api)

    move(api, JULY - DAY)
    assert len(allowances(operator)) == 1
    move(api, JULY)

    assert allowances(operator)[1] == (JULY, AUGUST)
    assert balance(api)["available"] == "10000000.000"
    assert get(api, f"orders/{number}")["period_start"] == "2026-06-30T16:00:00Z"
    move(api, local(2026, 8, 3))
    assert bills(api) == [("paid", "30.00", "0.00"), ("paid", "30.00", "0.00")]
    assert_books_agree()


def test_what_nobody_paid_for_opens_nothing_and_is_not_owed(
    operator: Operator, api: APIClient
) -> None:
    sell(api)
    move(api, START + DAY)
    number = asked(api)["number"]

    move(api, JULY)
    assert_problem(pay(api, number), 409, "order_expired")
    move(api, local(2026, 7, 3))

    assert states(get(api, f"orders/{number}")) == ["created", "expired"]
    [shown] = get(api, "subscribers/s-1/invoices")["items"]
    assert [(line["kind"], line["gross"]["amount"]) for line in shown["lines"]] == [("fee", "0.00")]
    assert (bills(api), allowances(operator)) == ([("paid", "0.00", "0.00")], [])
    assert asked(api)["expires_at"] == "2026-07-31T16:00:00Z"
    assert_books_agree()


def test_after_days_of_downtime_each_period_goes_by_its_own_payment(
    operator: Operator, api: APIClient
) -> None:
    sell(api)
    move(api, START + DAY)
    pays(api)
    move(api, JULY - DAY)
    pays(api)

    move(api, local(2026, 8, 10))

    assert allowances(operator) == [(START + DAY, JULY), (JULY, AUGUST)]
    assert bills(api) == [("paid", "30.00", "0.00"), ("paid", "30.00", "0.00")]
    assert asked(api)["period_start"] == "2026-07-31T16:00:00Z"
    assert_books_agree()


def test_a_plan_order_opens_the_first_period(operator: Operator, api: APIClient) -> None:
    said = post(api, "subscribers/s-1/orders", {"kind": "plan", "plan": "pre"}).json()
    assert pay(api, said["number"]).status_code == 200

    assert allowances(operator) == [(START, JULY)]
    move(api, START + DAY)
    assert orders(api) == []
    move(api, local(2026, 7, 3))
    assert bills(api) == [("paid", "30.00", "0.00")]
    assert_books_agree()


def test_a_part_of_a_month_that_is_paid_in_the_next_opens_nothing(
    operator: Operator, api: APIClient
) -> None:
    """One day's price was ordered; by the time that it is paid the month has 30 days."""
    move(api, local(2026, 6, 30))
    said = post(api, "subscribers/s-1/orders", {"kind": "plan", "plan": "daily"}).json()
    move(api, local(2026, 7, 2))

    assert_problem(pay(api, said["number"]), 409, "amount_differs")

    assert (allowances(operator), get(api, "subscribers/s-1/subscriptions")["items"]) == ([], [])
    assert wallet(api) == "500.00"
    assert_books_agree()


def test_a_part_of_a_month_costs_its_days_and_a_free_plan_opens_by_itself(
    operator: Operator, api: APIClient
) -> None:
    move(api, local(2026, 6, 21))
    held = sell(api, "daily")
    move(api, local(2026, 6, 22))
    assert asked(api)["amount"]["amount"] == "10.00"
    assert change(api, held, when="now", cancel=True).status_code == 200
    sell(api, "gratis")

    assert balance(api)["available"] == "10000000.000"
    move(api, local(2026, 6, 23))
    assert [one["state"] for one in orders(api)] == ["cancelled"]
    assert_books_agree()


def test_a_coupon_lowers_what_is_asked_as_it_lowers_the_invoice(
    operator: Operator, api: APIClient
) -> None:
    coupon = {"name": "Half", "percent": "50", "periods": 2}
    assert put(api, "coupons/half", coupon).status_code in (200, 201)
    assert (
        put(api, "coupons/all", {"name": "All", "percent": "100", "periods": 1}).status_code < 300
    )
    held = sell(api)
    move(api, START + DAY)
    assert asked(api)["amount"]["amount"] == "30.00"
    redeemed = post(api, f"subscribers/s-1/subscriptions/{held}/coupons", {"coupon": "half"})
    assert redeemed.status_code in (200, 201), redeemed.content

    move(api, START + DAY + DAY / 24)
    assert [one["state"] for one in orders(api)] == ["cancelled", "created"]
    assert asked(api)["amount"]["amount"] == "15.00"
    pays(api)
    # The second of two periods, ordered before it is opened; then the whole price again.
    move(api, JULY - DAY)
    assert asked(api)["amount"]["amount"] == "15.00"
    pays(api)
    move(api, AUGUST - DAY)
    assert asked(api)["amount"]["amount"] == "30.00"
    move(api, AUGUST)
    redeemed = post(api, f"subscribers/s-1/subscriptions/{held}/coupons", {"coupon": "all"})
    assert redeemed.status_code in (200, 201), redeemed.content
    move(api, local(2026, 8, 3))

    assert balance(api)["available"] == "10000000.000"
    assert bills(api) == [("paid", "15.00", "0.00")] * 2
    assert wallet(api) == "470.00"
    assert_books_agree()


# Changing ----------------------------------------------------------------------------------------


def test_a_change_of_plan_gives_back_what_was_paid_and_asks_anew(
    operator: Operator, api: APIClient
) -> None:
    held = sell(api)
    move(api, START + DAY)
    pays(api)
    move(api, JULY - 2 * DAY)
    first = pays(api)
    assert wallet(api) == "440.00"

    assert change(api, held, plan="big").status_code == 200
    move(api, JULY - DAY)

    assert (wallet(api), get(api, f"orders/{first}")["state"]) == ("470.00", "refunded")
    assert (asked(api)["plan"], asked(api)["amount"]["amount"]) == ("big", "60.00")
    move(api, JULY)
    assert balance(api)["available"] == "0.000"
    pays(api)
    assert balance(api)["available"] == "20000000.000"
    move(api, local(2026, 8, 3))
    assert bills(api) == [("paid", "30.00", "0.00"), ("paid", "60.00", "0.00")]
    assert_books_agree()


def test_a_change_that_is_taken_back_in_time_costs_nothing_and_opens_once(
    operator: Operator, api: APIClient
) -> None:
    held = sell(api)
    move(api, START + DAY)
    pays(api)
    move(api, JULY - DAY / 4)  # opened ahead by now
    pays(api)
    assert change(api, held, cancel=True).status_code == 200
    assert change(api, held, cancel=False).status_code == 200

    move(api, JULY)

    assert balance(api)["available"] == "10000000.000"
    assert orders(api, "created") == []
    assert wallet(api) == "440.00"
    assert_books_agree()


def test_the_old_order_of_a_changed_period_is_not_paid(operator: Operator, api: APIClient) -> None:
    held = sell(api)
    move(api, START + DAY)
    pays(api)
    move(api, JULY - 2 * DAY)
    old = asked(api)["number"]
    assert change(api, held, plan="big").status_code == 200

    assert_problem(pay(api, old), 409, "period_gone")
    move(api, JULY - DAY)

    assert get(api, f"orders/{old}")["state"] == "cancelled"
    assert (wallet(api), asked(api)["plan"]) == ("470.00", "big")
    assert_books_agree()


@pytest.mark.parametrize("paid", [True, False])
def test_a_cancellation_gives_back_what_the_next_period_was_paid_for(
    operator: Operator, api: APIClient, paid: bool
) -> None:
    held = sell(api)
    move(api, START + DAY)
    pays(api)
    move(api, JULY - 2 * DAY)
    number = pays(api) if paid else asked(api)["number"]
    assert change(api, held, cancel=True).status_code == 200

    move(api, local(2026, 7, 3))

    assert get(api, f"orders/{number}")["state"] == ("refunded" if paid else "cancelled")
    assert (wallet(api), orders(api, "created")) == ("470.00", [])
    assert ExpectedPeriod.objects.count() == 1
    assert bills(api) == [("paid", "30.00", "0.00")]
    assert_books_agree()


def test_an_end_at_once_puts_the_refund_into_the_wallet(operator: Operator, api: APIClient) -> None:
    held = sell(api)
    move(api, START + DAY)
    number = pays(api)
    move(api, START + 3 * DAY)
    assert change(api, held, when="now", cancel=True).status_code == 200

    move(api, local(2026, 7, 3))

    assert bills(api) == [("paid", "0.00", "0.00")]
    assert (wallet(api), get(api, f"orders/{number}")["state"]) == ("500.00", "refunded")
    assert_books_agree()


def test_an_upgrade_waits_until_the_period_is_paid(operator: Operator, api: APIClient) -> None:
    held = sell(api)
    move(api, START + DAY)
    upgrade = {"plan": "big", "when": "now"}
    assert_problem(change(api, held, **upgrade), 409, "period_unpaid")

    pays(api)
    assert change(api, held, **upgrade).status_code == 200
    move(api, JULY - DAY)
    assert asked(api)["plan"] == "big"

    move(api, local(2026, 7, 3))
    assert bills(api) == [("open", "59.00", "29.00")]
    assert_books_agree()


def test_a_trial_is_free_and_the_plan_after_it_is_asked_for_ahead(
    operator: Operator, api: APIClient
) -> None:
    sell(api, "try")
    assert balance(api)["available"] == "10000000.000"
    move(api, START + 3 * DAY)

    assert (asked(api)["plan"], asked(api)["period_start"]) == ("pre", "2026-06-07T16:00:00Z")
    pays(api)
    move(api, START + 7 * DAY)

    assert allowances(operator)[-1] == (START + 7 * DAY, JULY)
    assert_books_agree()


def test_a_pause_gives_back_and_its_end_asks_again(operator: Operator, api: APIClient) -> None:
    held = sell(api, "pausable")
    move(api, START + DAY)
    pays(api)
    move(api, JULY - 2 * DAY)
    pays(api)
    assert post(api, f"subscribers/s-1/subscriptions/{held}/pause").status_code == 200
    move(api, JULY - DAY)
    assert (wallet(api), orders(api, "created")) == ("470.00", [])
    move(api, JULY + DAY)

    assert post(api, f"subscribers/s-1/subscriptions/{held}/resume").status_code == 200
    move(api, AUGUST - DAY)

    assert (asked(api)["plan"], asked(api)["amount"]["amount"]) == ("pausable", "30.00")
    assert_books_agree()


# Again and in between ----------------------------------------------------------------------------


def test_an_order_of_a_period_follows_its_subscription(operator: Operator, api: APIClient) -> None:
    sell(api)
    move(api, START + DAY)
    number = asked(api)["number"]

    refused = post(api, f"orders/{number}/cancel", {"reason": "x"})
    assert_problem(refused, 409, "order_of_period")
    made = post(api, "subscribers/s-1/orders", {"kind": "period"})
    assert_problem(made, 422, "invalid")


def test_looking_again_asks_nobody_twice(operator: Operator, api: APIClient) -> None:
    sell(api)
    move(api, START + DAY)
    [row] = ExpectedPeriod.objects.all()
    key = (row.subscriber_id, row.subscription_id, row.starts_at)

    for _ in range(3):
        before_period.look(operator, key, at=START + DAY)
        before_period.sweep(operator, at=START + DAY)
    pays(api)
    before_period.look(operator, key, at=START + DAY)

    assert Order.objects.filter(kind="period").count() == 1
    assert len(allowances(operator)) == 1
    assert_books_agree()


def test_plans_that_collect_at_the_close_expect_nothing(operator: Operator, api: APIClient) -> None:
    sell(api, "light")
    move(api, START + DAY)

    assert not ExpectedPeriod.objects.exists()
    assert orders(api) == []
