"""What an order paid is on the invoice like any other, and lowers only what is due on it."""

from __future__ import annotations

from typing import Any

import pytest
from django.db.models import Sum
from rest_framework.test import APIClient

from billing import ledger
from billing.models import Order, Payment
from subscriptions import catalog, clock
from subscriptions.models import Operator
from tests.factories import (
    client_for,
    local,
    make_key,
    make_operator,
    make_plan,
    make_subscriber,
    yuan,
)
from tests.test_orders import order, pay, states, transfer, wallet
from tests.usage import DAY, assert_books_agree, assert_problem, balance, get, post, put

pytestmark = pytest.mark.django_db

START, CLOSE = local(2026, 6, 10), local(2026, 7, 3)


@pytest.fixture
def operator() -> Operator:
    operator = make_operator("ct", at=START)
    make_plan(operator)
    make_plan(operator, "daily", first_month="by_day", price=yuan("30.00"))
    make_plan(operator, "later", first_month="next")
    make_plan(operator, "free", price=yuan("0"))
    catalog.publish_booster(
        operator,
        "pack",
        name="Pack",
        price=yuan("5.00"),
        units=1_000_000,
        valid_days=30,
        at=clock.now(operator),
    )
    make_subscriber(operator)
    return operator


@pytest.fixture
def api(operator: Operator) -> APIClient:
    api = client_for(make_key(operator))
    assert transfer(api, "50.00", "fill", wallet="s-1")["state"] == "matched"
    return api


def move(api: APIClient, at: Any) -> None:
    assert post(api, "test-clock", {"now": at.isoformat()}).status_code == 200


def bought(api: APIClient, **said: Any) -> str:
    number = str(order(api, **said)["number"])
    assert pay(api, number).json()["state"] == "paid"
    return number


def bill(api: APIClient) -> Any:
    [invoice] = get(api, "subscribers/s-1/invoices")["items"]
    return invoice


def amounts(api: APIClient) -> tuple[str, str, str]:
    shown = bill(api)
    return shown["state"], shown["gross"]["amount"], shown["amount_due"]["amount"]


def prepaid(operator: Operator) -> str:
    found = [b for b in ledger.trial_balance(operator.pk, at=CLOSE) if b.account == "prepaid"]
    return str(-found[0].balance) if found else "0"


def test_a_plan_begins_when_its_order_is_paid_and_its_invoice_has_nothing_due(
    operator: Operator, api: APIClient
) -> None:
    number = order(api, kind="plan", plan="light")["number"]
    assert get(api, "subscribers/s-1/subscriptions")["items"] == []

    paid = pay(api, number).json()
    assert (paid["state"], paid["amount"]["amount"]) == ("paid", "9.90")
    assert balance(api)["available"] == "10000000.000"
    assert (wallet(api), prepaid(operator)) == ("40.10", "9.90")

    move(api, CLOSE)
    assert amounts(api) == ("paid", "9.90", "0.00")
    assert [line["kind"] for line in bill(api)["lines"]] == ["fee"]
    shown = get(api, f"orders/{number}")
    assert (shown["state"], shown["applied"]["amount"]) == ("paid", "9.90")
    assert (prepaid(operator), Payment.objects.get().way) == ("0.00", "prepaid")
    assert_books_agree()


def test_a_booster_that_was_paid_lowers_only_what_is_due(
    operator: Operator, api: APIClient
) -> None:
    assert post(api, "subscribers/s-1/subscriptions", {"plan": "light"}).status_code == 201
    bought(api, kind="booster", booster="pack")
    assert len(balance(api)["buckets"]) == 2

    move(api, CLOSE)

    assert amounts(api) == ("open", "14.90", "9.90")
    assert wallet(api) == "45.00"
    assert_books_agree()


def test_what_the_invoice_does_not_need_goes_into_the_wallet(
    operator: Operator, api: APIClient
) -> None:
    """A coupon makes the first month cost 1.00 after 9.90 were paid."""
    number = bought(api, kind="plan", plan="light")
    [held] = get(api, "subscribers/s-1/subscriptions")["items"]
    coupon = {"name": "One yuan", "price": {"amount": "1.00"}, "periods": 1}
    assert put(api, "coupons/ONE", coupon).status_code in (200, 201)
    redeem = post(api, f"subscribers/s-1/subscriptions/{held['id']}/coupons", {"coupon": "ONE"})
    assert redeem.status_code in (200, 201), redeem.content

    move(api, CLOSE)

    assert amounts(api) == ("paid", "1.00", "0.00")
    shown = get(api, f"orders/{number}")
    assert (shown["state"], shown["applied"]["amount"], shown["refunded"]["amount"]) == (
        "partly_refunded",
        "1.00",
        "8.90",
    )
    assert states(shown) == ["created", "paid", "partly_refunded"]
    assert (wallet(api), prepaid(operator)) == ("49.00", "0.00")
    assert_books_agree()


def test_a_plan_is_paid_for_the_days_that_it_has(operator: Operator, api: APIClient) -> None:
    number = order(api, kind="plan", plan="daily")["number"]
    assert get(api, f"orders/{number}")["amount"]["amount"] == "21.00"
    move(api, local(2026, 6, 12))
    assert pay(api, number).status_code == 200  # two days later: 19 of 30

    move(api, CLOSE)

    assert amounts(api) == ("paid", "19.00", "0.00")
    assert wallet(api) == "31.00"
    assert_books_agree()


def test_a_plan_from_next_month_on_is_billed_when_that_is_over(
    operator: Operator, api: APIClient
) -> None:
    bought(api, kind="plan", plan="later")

    move(api, CLOSE)
    assert get(api, "subscribers/s-1/invoices")["items"] == []
    assert prepaid(operator) == "9.90"

    move(api, local(2026, 8, 3))
    assert amounts(api) == ("paid", "9.90", "0.00")
    assert_books_agree()


def test_a_plan_cancelled_before_it_begins_is_paid_back_into_the_wallet(
    operator: Operator, api: APIClient
) -> None:
    number = bought(api, kind="plan", plan="later")
    [held] = get(api, "subscribers/s-1/subscriptions")["items"]
    path = f"/api/v1/subscribers/s-1/subscriptions/{held['id']}"
    assert api.patch(path, {"cancel_at_period_end": True}, format="json").status_code == 200

    move(api, START + DAY)
    move(api, CLOSE)

    shown = get(api, f"orders/{number}")
    assert (shown["state"], wallet(api), prepaid(operator)) == ("refunded", "50.00", "0.00")
    assert get(api, "subscribers/s-1/invoices")["items"] == []
    assert_books_agree()


def test_who_holds_a_plan_orders_no_other_and_pays_none(operator: Operator, api: APIClient) -> None:
    first, second = (order(api, kind="plan", plan=code)["number"] for code in ("light", "daily"))
    assert pay(api, first).status_code == 200

    assert_problem(pay(api, second), 409, "plan_held")
    again = post(api, "subscribers/s-1/orders", {"kind": "plan", "plan": "daily"})
    assert_problem(again, 409, "plan_held")
    assert wallet(api) == "40.10"
    assert Order.objects.filter(state="paid").aggregate(paid=Sum("amount"))["paid"] is not None
    assert_books_agree()


def test_the_price_ordered_holds_whatever_is_published_meanwhile(
    operator: Operator, api: APIClient
) -> None:
    number = order(api, kind="plan", plan="light")["number"]
    make_plan(operator, price=yuan("12.00"))
    assert pay(api, number).status_code == 200

    move(api, CLOSE)

    assert amounts(api) == ("paid", "9.90", "0.00")
    assert_books_agree()


@pytest.mark.parametrize(
    ("said", "status", "cause"),
    [
        ({"kind": "plan", "plan": "free"}, 422, "invalid"),
        ({"kind": "plan", "plan": "none"}, 422, "unknown_plan"),
        ({"kind": "booster", "booster": "none"}, 422, "unknown_booster"),
        ({"kind": "plan", "booster": "pack"}, 422, "invalid"),
    ],
)
def test_what_is_not_sold_is_not_ordered(
    api: APIClient, said: dict[str, str], status: int, cause: str
) -> None:
    assert_problem(post(api, "subscribers/s-1/orders", said), status, cause)


def test_a_booster_paid_by_who_holds_no_plan_is_on_a_last_bill_with_nothing_due(
    operator: Operator, api: APIClient
) -> None:
    bought(api, kind="booster", booster="pack")

    move(api, CLOSE)

    assert amounts(api) == ("paid", "5.00", "0.00")
    assert prepaid(operator) == "0.00"
    assert_books_agree()
