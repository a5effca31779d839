"""Coupons: who may redeem them, and what they take off a bill."""

from __future__ import annotations

import datetime as dt
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
from django.db import Error, connection, transaction
from hypothesis import given
from hypothesis import strategies as st
from rest_framework.test import APIClient

from billing import explaining, rating
from billing.models import Invoice
from billing.rating import Discount, Line
from subscriptions import coupons
from subscriptions.models import Coupon, Operator, Redemption, Subscriber, Subscription
from tests.factories import (
    client_for,
    local,
    make_key,
    make_operator,
    make_plan,
    make_subscriber,
    set_clock,
    subscribe,
    yuan,
)
from tests.usage import (
    DAY,
    Gateway,
    assert_books_agree,
    assert_problem,
    counted,
    get,
    post,
    put,
    record,
)

pytestmark = pytest.mark.django_db

START, JULY = local(2026, 6, 1), local(2026, 7, 1)
HALF = {"name": "Half", "percent": "50"}


@pytest.fixture
def operator() -> Operator:
    return make_operator("ct", at=START)


@pytest.fixture
def api(operator: Operator) -> APIClient:
    return client_for(make_key(operator))


@pytest.fixture
def subscriber(operator: Operator) -> Subscriber:
    return make_subscriber(operator)


@pytest.fixture
def held(operator: Operator, subscriber: Subscriber) -> Subscription:
    return subscribe(
        subscriber,
        make_plan(operator, on_exhaustion="meter", price_per_million="1.20", allowance=0),
    )


def publish(api: APIClient, code: str, body: dict[str, Any]) -> None:
    answer = put(api, f"coupons/{code}", body)
    assert answer.status_code == 201, answer.content


def redeem(api: APIClient, held: Subscription, code: str) -> Any:
    return post(api, f"subscribers/s-1/subscriptions/{held.id}/coupons", {"coupon": code})


def close_until(api: APIClient, at: dt.datetime) -> None:
    assert post(api, "test-clock", {"now": at.isoformat()}).status_code == 200


def discounts(api: APIClient) -> list[list[str]]:
    """What each invoice takes off, the earliest first."""
    items = get(api, "subscribers/s-1/invoices")["items"][::-1]
    return [
        [x["gross"]["amount"] for x in item["lines"] if x["kind"] == "discount"] for item in items
    ]


def test_a_coupon_is_published_once_and_never_says_anything_else(api: APIClient) -> None:
    body = {"name": "New", "price": "9.90", "periods": 1, "plans": ["pro"], "max_redemptions": 5}

    answers = [put(api, "coupons/new", said) for said in (body, body, {**body, "periods": 2})]

    assert [answer.status_code for answer in answers] == [201, 200, 409]
    shown = answers[0].json()
    assert (shown["price"], shown["percent"], shown["redeemed"]) == (
        {"amount": "9.90", "currency": "CNY"},
        None,
        0,
    )
    assert_problem(answers[2], 409, "coupon_published")
    assert [item["code"] for item in get(api, "coupons")["items"]] == ["new"]


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"percent": "50", "amount": "1"},
        {"percent": "0"},
        {"percent": "100.01"},
        {"percent": "NaN"},
        {"amount": "0"},
        {"amount": "-1"},
        {"price": "-0.01"},
        {"price": "9.90", "covers": "all"},
        {"percent": "50", "covers": "nothing"},
        {"percent": "50", "periods": 0},
        {"percent": "50", "max_redemptions": 0},
        {"percent": "50", "plans": [7]},
        {"amount": {"amount": "1", "currency": "USD"}},
        {
            "percent": "50",
            "redeemable_from": JULY.isoformat(),
            "redeemable_until": START.isoformat(),
        },
    ],
)
def test_a_coupon_that_makes_no_sense_is_refused(api: APIClient, wrong: dict[str, Any]) -> None:
    answer = put(api, "coupons/x", {"name": "X", **wrong})

    assert answer.status_code == 422, answer.content
    assert not Coupon.objects.exists()


def test_a_percentage_is_taken_off_the_fee_for_its_periods(
    api: APIClient, held: Subscription
) -> None:
    publish(api, "half", {**HALF, "periods": 2})

    answer = redeem(api, held, "half")
    close_until(api, local(2026, 9, 10))

    assert answer.status_code == 201
    assert answer.json()["first_period"] == "2026-05-31T16:00:00Z"
    assert discounts(api) == [["-4.95"], ["-4.95"], []]
    assert_books_agree()
    text = "\n".join(explaining.explain(Invoice.objects.order_by("id")[1]))
    assert "coupon half, period 2 of 2" in text
    assert "4.95 (50.00 %) off 9.90: so much for line 1" in text


def test_a_first_month_costs_its_promotional_price(api: APIClient, operator: Operator) -> None:
    make_subscriber(operator)
    plan = make_plan(operator, "pro", price=yuan("39.90"))
    body = {"name": "First month 9.9", "price": "9.90", "periods": 1, "first_subscription": True}
    publish(api, "first", body)
    held = subscribe(Subscriber.objects.get(), plan)

    assert redeem(api, held, "first").status_code == 201
    close_until(api, local(2026, 8, 10))

    gross = [item["gross"]["amount"] for item in get(api, "subscribers/s-1/invoices")["items"]]
    assert gross[::-1] == ["9.90", "39.90"]
    assert_books_agree()


def test_an_amount_is_never_more_than_there_is_and_may_cover_overage(
    api: APIClient, operator: Operator, held: Subscription
) -> None:
    publish(api, "twenty", {"name": "Twenty", "amount": "20.00", "covers": "all"})
    assert redeem(api, held, "twenty").status_code == 201
    used = record("r-1", occurred_at=START, input_tokens=5_000_000, output_tokens=0)
    assert counted(Gateway(operator).charge(used)) == (1, 0, 0)

    close_until(api, local(2026, 8, 10))

    # 9.90 + 6.00 in June, 9.90 in July.
    assert discounts(api) == [["-9.90", "-6.00"], ["-9.90"]]
    assert_books_agree()


def test_coupons_take_off_one_after_the_other(api: APIClient, held: Subscription) -> None:
    publish(api, "half", HALF)
    publish(api, "three", {"name": "Three", "amount": "3.00"})
    for code in ("half", "three"):
        assert redeem(api, held, code).status_code == 201

    close_until(api, JULY + 3 * DAY)

    assert discounts(api) == [["-4.95", "-3.00"]]
    assert_books_agree()


def test_an_upgrade_is_discounted_and_a_refund_gives_back_only_what_was_paid(
    api: APIClient, operator: Operator, subscriber: Subscriber
) -> None:
    held = subscribe(subscriber, make_plan(operator, price=yuan("10.00"), refund="unused"))
    make_plan(operator, "pro", price=yuan("40.00"), refund="unused")
    publish(api, "half", HALF)
    assert redeem(api, held, "half").status_code == 201
    path = f"/api/v1/subscribers/s-1/subscriptions/{held.id}"
    for body in ({"plan": "pro", "when": "now"}, {"cancel": True, "when": "now"}):
        assert api.patch(path, body, format="json").status_code == 200

    close_until(api, JULY)

    [item] = get(api, "subscribers/s-1/invoices")["items"]
    assert [(x["kind"], x["gross"]["amount"]) for x in item["lines"]] == [
        ("fee", "10.00"),
        ("upgrade", "30.00"),
        ("discount", "-5.00"),
        ("discount", "-15.00"),
        ("refund", "-5.00"),
        ("refund", "-15.00"),
    ]
    assert_books_agree()


def test_a_subscriber_redeems_a_coupon_once(
    api: APIClient, operator: Operator, held: Subscription
) -> None:
    publish(api, "half", HALF)
    first, again = redeem(api, held, "half"), redeem(api, held, "half")
    assert first.json() == {**again.json(), "coupon": first.json()["coupon"]}
    path = f"/api/v1/subscribers/s-1/subscriptions/{held.id}"
    assert api.patch(path, {"cancel": True, "when": "now"}, format="json").status_code == 200
    set_clock(operator, START + DAY)
    other = subscribe(Subscriber.objects.get(), held.plan)

    assert_problem(redeem(api, other, "half"), 409, "already_redeemed")
    assert Coupon.objects.get().redeemed == Redemption.objects.count() == 1


@pytest.mark.parametrize(
    ("terms", "cause"),
    [
        ({"plans": ["pro"]}, "not_redeemable"),
        ({"redeemable_from": (START + DAY).isoformat()}, "not_redeemable"),
        ({"redeemable_until": START.isoformat()}, "not_redeemable"),
    ],
)
def test_a_coupon_that_is_not_for_it_is_refused(
    api: APIClient, held: Subscription, terms: dict[str, Any], cause: str
) -> None:
    publish(api, "half", {**HALF, **terms})

    assert_problem(redeem(api, held, "half"), 409, cause)
    assert not Redemption.objects.exists()


def test_a_promotion_for_newcomers_is_refused_to_who_held_a_plan(
    api: APIClient, operator: Operator, held: Subscription
) -> None:
    publish(api, "new", {**HALF, "first_subscription": True})
    path = f"/api/v1/subscribers/s-1/subscriptions/{held.id}"
    set_clock(operator, START + DAY)
    assert api.patch(path, {"cancel": True, "when": "now"}, format="json").status_code == 200
    second = subscribe(Subscriber.objects.get(), held.plan)

    assert_problem(redeem(api, second, "new"), 409, "not_redeemable")


def test_another_operators_coupon_and_subscription_are_not_there(
    api: APIClient, held: Subscription
) -> None:
    publish(api, "half", HALF)
    other = client_for(make_key(make_operator("other"), name="other"))

    assert_problem(redeem(other, held, "half"), 404, "not_found")
    assert get(other, "coupons")["items"] == []
    assert_problem(redeem(api, held, "nothing"), 422, "unknown_coupon")


@pytest.mark.django_db(transaction=True)
def test_many_at_once_redeem_a_coupon_no_more_often_than_it_may_be(operator: Operator) -> None:
    plan = make_plan(operator)
    terms = coupons.CouponTerms(name="Few", percent=Decimal(10), max_redemptions=3)
    coupons.publish(operator, "few", terms, at=START)
    held = [subscribe(make_subscriber(operator, f"s-{nr}"), plan) for nr in range(8)]

    def one(subscription: Subscription) -> bool:
        try:
            coupons.redeem(operator, subscription.subscriber_id, subscription.id, "few", at=START)
        except coupons.Exhausted:
            return False
        finally:
            connection.close()
        return True

    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(one, held))

    assert sum(won) == Redemption.objects.count() == Coupon.objects.get().redeemed == 3


def test_nobody_changes_what_a_coupon_says(api: APIClient, held: Subscription) -> None:
    publish(api, "half", HALF)
    assert redeem(api, held, "half").status_code == 201

    for statement in (
        "UPDATE subscriptions_coupon SET percent = 60",
        "UPDATE subscriptions_coupon SET redeemed = 0",
        "UPDATE subscriptions_redemption SET first_period = now()",
        "DELETE FROM subscriptions_redemption",
    ):
        with (
            pytest.raises(Error, match="immutable"),
            transaction.atomic(),
            connection.cursor() as cursor,
        ):
            cursor.execute(statement)


amounts = st.decimals("0", "500", places=2)


@given(
    fees=st.lists(amounts, min_size=1, max_size=5),
    ways=st.lists(
        st.tuples(
            st.sampled_from(["percent", "amount", "price"]), st.decimals("0", "100", places=2)
        ),
        max_size=4,
    ),
)
def test_discounts_never_take_off_more_than_there_is(
    fees: list[Decimal], ways: list[tuple[str, Decimal]]
) -> None:
    lines: list[Line] = [
        rating.line("fee", f"part {nr}", fee, Decimal("0.06") if nr % 2 else Decimal("0.09"), {})
        for nr, fee in enumerate(fees)
    ]

    off = rating.discount_lines(
        [Discount(name=way, **{way: value}) for way, value in ways],  # type: ignore[arg-type]
        lines,
    )

    left = [line.gross for line in lines]
    for line in off:
        assert line.gross == line.net + line.tax < 0
        assert line.tax_rate == lines[line.basis["line"] - 1].tax_rate
        left[line.basis["line"] - 1] += line.gross
    assert all(gross >= 0 for gross in left)
