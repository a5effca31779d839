"""A period's order is paid while its plan changes, its subscription ends, or the sweep looks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial

import pytest

from billing import before_period, closing, transfers, wallets
from billing.models import Invoice, Order
from billing.orders import paying
from billing.transfers import Pays, Told
from subscriptions import lifecycle
from subscriptions.errors import DomainError
from subscriptions.models import Operator, Subscription
from tests.at_once import at_once
from tests.factories import (
    buckets_of,
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
from tests.usage import DAY, assert_books_agree, post

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.xdist_group("races")]

START, JULY = local(2026, 6, 1), local(2026, 7, 1)
# The next period is asked for, and opened already.
NOW = JULY - DAY / 4


@pytest.fixture
def operator() -> Iterator[Operator]:
    operator = make_operator("ct", at=START)
    before = {"collect": "before_period"}
    pre = make_plan(operator, "pre", price=yuan("30.00"), **before)
    make_plan(operator, "big", price=yuan("60.00"), allowance=20_000_000_000, **before)
    subscriber = make_subscriber(operator)
    subscribe(subscriber, pre)
    told = transfers.tell(operator, Told("fill", Decimal("90.00"), "CNY", START), at=START)
    transfers.match(operator, told.pk, Pays(wallet=subscriber.pk), at=START)
    move = {"now": NOW.isoformat()}
    assert post(client_for(make_key(operator)), "test-clock", move).status_code == 200
    operator.clock_at = NOW
    yield operator
    before_period.sweep(operator, at=NOW)
    assert_books_agree()


def ahead() -> Order:
    return Order.objects.get(period_start=JULY)


def said(call: Callable[[], object]) -> str:
    try:
        call()
    except DomainError as error:
        return error.cause
    return "done"


def pay(operator: Operator) -> str:
    number = ahead().number
    return said(lambda: paying.pay(operator, number, "wallet", at=NOW))


def change(plan: str | None = None, cancel: bool | None = None) -> str:
    [held] = Subscription.objects.all()
    return said(
        lambda: lifecycle.change(
            held.subscriber_id, held.id, at=NOW, plan_code=plan, cancel_at_period_end=cancel
        )
    )


def left(operator: Operator) -> Decimal:
    return wallets.balance_of(operator.subscribers.get().pk, "CNY")


def opened(operator: Operator) -> int:
    """Allowances of July that somebody may use."""
    rows = buckets_of(operator.subscribers.get(), "allowance")
    return sum(bucket.valid_from == JULY and bucket.granted != bucket.used for bucket in rows)


def test_a_period_is_paid_once_by_many_at_once(operator: Operator) -> None:
    answers = at_once(
        *[partial(pay, operator)] * 3,
        lambda: said(lambda: before_period.sweep(operator, at=NOW)),
    )

    assert answers == ["done"] * 4
    assert (left(operator), opened(operator)) == (Decimal("60.00"), 1)


def test_a_period_is_paid_while_its_plan_changes(operator: Operator) -> None:
    at_once(partial(pay, operator), partial(change, "big"))
    before_period.sweep(operator, at=NOW)

    # Whoever was first: the old price is in the wallet, the new one is asked for.
    assert (left(operator), opened(operator)) == (Decimal("90.00"), 0)
    asked = Order.objects.get(period_start=JULY, state="created")
    assert (asked.plan is not None and asked.plan.code, asked.amount) == ("big", Decimal("60.00"))
    paying.pay(operator, asked.number, "wallet", at=NOW)
    assert (left(operator), opened(operator)) == (Decimal("30.00"), 1)


def test_a_period_is_paid_while_it_is_cancelled(operator: Operator) -> None:
    at_once(
        partial(pay, operator),
        partial(change, None, True),
        lambda: said(lambda: before_period.sweep(operator, at=NOW)),
    )
    before_period.sweep(operator, at=NOW)

    assert (left(operator), opened(operator)) == (Decimal("90.00"), 0)
    assert ahead().state in ("refunded", "cancelled")


def test_a_plan_that_changes_there_and_back_before_anybody_looks_is_not_paid_twice(
    operator: Operator,
) -> None:
    assert pay(operator) == "done"
    change("big")
    change("pre")
    before_period.sweep(operator, at=NOW)

    assert (left(operator), opened(operator)) == (Decimal("60.00"), 1)
    assert ahead().state == "paid"


def test_a_period_is_paid_at_its_last_moment_or_closed_unpaid(operator: Operator) -> None:
    """A standing clock lets a payment of June meet the close of June."""
    number = Order.objects.get(period_start=START).number
    late = JULY + 3 * DAY
    set_clock(operator, late)
    at_once(
        lambda: said(lambda: paying.pay(operator, number, "wallet", at=NOW)),
        lambda: said(lambda: closing.close_due(operator, at=late)),
    )
    closing.close_due(operator, at=late)

    [june] = Invoice.objects.filter(period_start=START)
    paid = Order.objects.get(number=number).state == "paid"
    assert (june.gross, june.paid) == ((Decimal(30), Decimal(30)) if paid else (0, 0))
    assert left(operator) == Decimal(60 if paid else 90)
