"""The month close of subscriptions that were upgraded or ended within their period."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import hypothesis.extra.django
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rest_framework.test import APIClient

from billing import explaining, invoicing, ledger
from billing.models import Invoice, InvoiceLine
from subscriptions import lifecycle
from subscriptions.catalog import Component
from subscriptions.models import Ending, Operator, Plan, Subscriber, Subscription, Upgrade
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
from tests.usage import DAY, HOUR, MINUTE, Gateway, assert_books_agree, counted, get, post, record

pytestmark = pytest.mark.django_db

T = 1000
START, JULY, AUGUST = local(2026, 6, 1), local(2026, 7, 1), local(2026, 8, 1)
CLOSE = JULY + 2 * DAY  # 48 hours of grace


@pytest.fixture
def operator() -> Operator:
    return make_operator("ct", at=START)


@pytest.fixture
def api(operator: Operator) -> APIClient:
    return client_for(make_key(operator))


@pytest.fixture
def gateway(operator: Operator) -> Gateway:
    return Gateway(operator)


@pytest.fixture
def subscriber(operator: Operator) -> Subscriber:
    return make_subscriber(operator)


@pytest.fixture
def light(operator: Operator) -> Plan:
    return make_plan(
        operator,
        price=yuan("10.00"),
        allowance=1_000 * T,
        on_exhaustion="meter",
        price_per_million="2000",
        refund="unused",
    )


@pytest.fixture
def pro(operator: Operator) -> Plan:
    return make_plan(
        operator,
        "pro",
        price=yuan("40.00"),
        allowance=3_000 * T,
        on_exhaustion="meter",
        price_per_million="1000",
        refund="unused",
    )


def move(api: APIClient, to: dt.datetime) -> None:
    assert post(api, "test-clock", {"now": to.isoformat()}).status_code == 200


def change(api: APIClient, body: dict[str, Any]) -> None:
    [held] = Subscription.objects.all()
    path = f"/api/v1/subscribers/s-1/subscriptions/{held.id}"
    answer = api.patch(path, {**body, "when": "now"}, format="json")
    assert answer.status_code == 200, answer.content


def use(gateway: Gateway, name: str, tokens: int, at: dt.datetime) -> None:
    sent = record(name, occurred_at=at, input_tokens=tokens, output_tokens=0)
    assert counted(gateway.charge(sent)) == (1, 0, 0)


def bills(api: APIClient) -> list[list[tuple[str, str, str]]]:
    """(kind, what, gross) of each line of each invoice, earliest first."""
    items = get(api, "subscribers/s-1/invoices")["items"][::-1]
    return [
        [(x["kind"], x["description"], x["gross"]["amount"]) for x in item["lines"]]
        for item in items
    ]


def explained() -> str:
    """How the newest invoice came about."""
    return "\n".join(explaining.explain(Invoice.objects.order_by("-id")[0]))


def test_an_upgrade_costs_the_difference_for_the_days_left_beside_the_fee(
    api: APIClient, subscriber: Subscriber, light: Plan, pro: Plan
) -> None:
    subscribe(subscriber, light)
    move(api, local(2026, 6, 10, 15))

    change(api, {"plan": "pro"})
    move(api, AUGUST + 2 * DAY)

    # 10 to 30 June are 21 days, a part day counts as one: 30.00 x 21 / 30.
    assert bills(api) == [
        [("fee", "Light", "10.00"), ("upgrade", "Pro", "21.00")],
        [("fee", "Pro", "40.00")],
    ]
    assert_books_agree()


def test_the_upgrade_line_tells_how_it_was_computed(
    api: APIClient, subscriber: Subscriber, light: Plan, pro: Plan
) -> None:
    subscribe(subscriber, light)
    move(api, local(2026, 6, 10, 15))
    change(api, {"plan": "pro"})
    move(api, CLOSE)

    text = explained()

    assert "from plan light version 1 at 2026-06-10T15:00:00+08:00" in text
    assert "(40.00 - 10.00) x 21 of 30 days, with 1400.000 units more" in text
    assert "21.00 with tax: 21.00 / (1 + 6 %) = 19.81 net, 21.00 - 19.81 = 1.19 tax" in text


def test_overage_before_and_after_an_upgrade_costs_the_price_of_its_own_plan(
    api: APIClient, gateway: Gateway, subscriber: Subscriber, light: Plan, pro: Plan
) -> None:
    subscribe(subscriber, light)
    move(api, local(2026, 6, 21))
    use(gateway, "r-1", 1_300, local(2026, 6, 20))
    change(api, {"plan": "pro"})  # 10 of 30 days: 10.00 and 667 units
    move(api, local(2026, 6, 22))
    use(gateway, "r-2", 667 + 500, local(2026, 6, 21, 12))
    move(api, CLOSE)

    assert bills(api) == [
        [
            ("fee", "Light", "10.00"),
            ("upgrade", "Pro", "10.00"),
            ("overage", "Light", "0.60"),
            ("overage", "Pro", "0.50"),
        ]
    ]
    # Late, of either: what July's allowance does not pay is billed at the price of its own day.
    use(gateway, "r-3", 3_000 + 200, local(2026, 6, 20, 1))
    use(gateway, "r-4", 200, local(2026, 6, 30))
    move(api, AUGUST + 2 * DAY)

    assert bills(api)[1] == [
        ("fee", "Pro", "40.00"),
        ("adjustment", "Light", "0.40"),
        ("adjustment", "Pro", "0.20"),
    ]
    assert_books_agree()


def test_packs_after_an_upgrade_cost_what_the_new_plan_says(
    api: APIClient, gateway: Gateway, operator: Operator, subscriber: Subscriber
) -> None:
    packs: dict[str, Any] = {"on_exhaustion": "blocks", "allowance": 0}
    small = make_plan(
        operator, price=yuan("1"), block_price=yuan("1"), block_units=100 * T, **packs
    )
    make_plan(
        operator, "pro", price=yuan("2"), block_price=yuan("3"), block_units=1_000 * T, **packs
    )
    subscribe(subscriber, small)
    use(gateway, "r-1", 150, START)
    move(api, START + HOUR)
    change(api, {"plan": "pro"})
    use(gateway, "r-2", 10, START + HOUR)

    move(api, CLOSE)

    assert bills(api) == [
        [
            ("fee", "Light", "1.00"),
            ("upgrade", "Pro", "1.00"),
            ("block", "Light", "2.00"),
            ("block", "Pro", "3.00"),
        ]
    ]
    assert_books_agree()


def test_an_upgrade_to_a_bundle_is_taxed_by_the_parts_of_the_new_price(
    api: APIClient, operator: Operator, subscriber: Subscriber, light: Plan
) -> None:
    make_plan(
        operator,
        "bundle",
        price=yuan("40.00"),
        allowance=3_000 * T,
        components=(
            Component(name="Tokens", price=yuan("30.00"), tax_rate=Decimal("0.06")),
            Component(name="Data", price=yuan("10.00"), tax_rate=Decimal("0.09")),
        ),
    )
    subscribe(subscriber, light)
    move(api, local(2026, 6, 21))

    change(api, {"plan": "bundle"})
    move(api, CLOSE)

    [bill] = bills(api)
    assert bill[1:] == [("upgrade", "Tokens", "7.50"), ("upgrade", "Data", "2.50")]
    rates = InvoiceLine.objects.filter(kind="upgrade").order_by("nr").values_list("tax_rate")
    assert [rate for (rate,) in rates] == [Decimal("0.06"), Decimal("0.09")]
    assert_books_agree()


def test_who_ends_unused_within_seven_days_owes_nothing(
    api: APIClient, operator: Operator, subscriber: Subscriber, light: Plan
) -> None:
    subscribe(subscriber, light)
    move(api, START + 6 * DAY)

    change(api, {"cancel": True})
    move(api, START + 9 * DAY)

    assert bills(api) == [[("fee", "Light", "10.00"), ("refund", "Light", "-10.00")]]
    [invoice] = get(api, "subscribers/s-1/invoices")["items"]
    assert (invoice["state"], invoice["gross"]["amount"]) == ("paid", "0.00")
    assert all(row.balance == 0 for row in ledger.trial_balance(operator.pk, at=AUGUST))
    assert_books_agree()


def test_who_ends_later_gets_back_the_share_that_nobody_used_of_all_that_was_paid(
    api: APIClient, gateway: Gateway, subscriber: Subscriber, light: Plan, pro: Plan
) -> None:
    subscribe(subscriber, light)
    move(api, local(2026, 6, 21))
    change(api, {"plan": "pro"})  # 10.00 more, 667 units more
    use(gateway, "r-1", 600, local(2026, 6, 21))
    move(api, local(2026, 6, 22))

    change(api, {"cancel": True})
    move(api, CLOSE)

    # 1,067 of 1,667 units: 12.80 of 20.00, half of it for each line.
    assert bills(api) == [
        [
            ("fee", "Light", "10.00"),
            ("upgrade", "Pro", "10.00"),
            ("refund", "Light", "-6.40"),
            ("refund", "Pro", "-6.40"),
        ]
    ]
    assert "1067000 of 1667000 of the 20.00 for the period = 12.80" in explained()
    assert_books_agree()


def test_an_end_without_a_refund_owes_the_whole_fee(
    api: APIClient, operator: Operator, subscriber: Subscriber
) -> None:
    subscribe(subscriber, make_plan(operator))
    move(api, START + DAY)

    change(api, {"cancel": True})
    move(api, START + 4 * DAY)

    assert bills(api) == [[("fee", "Light", "9.90")]]
    assert_books_agree()


def test_a_refund_is_credited_like_any_other_line(
    api: APIClient, operator: Operator, gateway: Gateway, subscriber: Subscriber, light: Plan
) -> None:
    subscribe(subscriber, light)
    use(gateway, "r-1", 500, START)
    move(api, START + DAY)
    change(api, {"cancel": True})
    move(api, START + 4 * DAY)
    [invoice] = get(api, "subscribers/s-1/invoices")["items"]
    assert invoice["gross"]["amount"] == "5.00"

    note = invoicing.credit(operator, invoice["number"], reason="a mistake", at=AUGUST)

    assert note.gross == Decimal("-5.00")
    assert_books_agree()


class ChangesTests(hypothesis.extra.django.TestCase):  # a fresh transaction per example
    @settings(max_examples=12, deadline=None)
    @given(
        steps=st.lists(
            st.tuples(
                st.integers(0, 60 * 24 * 60),
                st.sampled_from(["pro", "max", "end", "use", "use"]),
                st.integers(1, 4_000),
            ),
            max_size=6,
        )
    )
    def test_whatever_is_changed_the_bills_are_what_the_plans_say(
        self, steps: list[tuple[int, str, int]]
    ) -> None:
        operator = make_operator("ct", at=START)
        subscriber = make_subscriber(operator)
        gateway = Gateway(operator)
        for nr, code in enumerate(("light", "pro", "max"), 1):
            make_plan(
                operator,
                code,
                price=yuan(f"{nr}3.33"),
                allowance=nr * 777_777,
                on_exhaustion="meter",
                price_per_million=f"{nr}111.1",
                refund="unused",
                rollover="one_cycle",
            )
        held = lifecycle.subscribe(operator, subscriber.pk, "light", at=START)
        api = client_for(make_key(operator))

        for nr, (minute, step, tokens) in enumerate(sorted(steps)):
            at = START + minute * MINUTE
            set_clock(operator, at)
            lifecycle.ensure_open([subscriber.pk], at=at, until=at)
            try:
                if step == "use":
                    use(gateway, f"r-{nr}", tokens, at)
                elif step == "end":
                    lifecycle.end_now(subscriber.pk, held.id, at=at, reason="moved", refund=True)
                else:
                    lifecycle.upgrade(subscriber.pk, held.id, step, at=at)
            except (lifecycle.NotAnUpgrade, lifecycle.SubscriptionEnded):
                pass
        move(api, local(2026, 9, 10))

        for invoice in Invoice.objects.all():
            lines = InvoiceLine.objects.filter(invoice_id=invoice.id)
            cost = sum(x.gross for x in lines if x.kind in ("fee", "upgrade"))
            back = -sum(x.gross for x in lines if x.kind == "refund")
            assert 0 <= back <= cost
        assert all(row.days <= 30 for row in Upgrade.objects.all())
        assert Ending.objects.count() <= 1
        assert_books_agree()
