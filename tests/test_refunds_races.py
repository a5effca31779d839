"""Two refunds of one order, a refund while its units burn, and one while the close runs."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from functools import partial

import pytest
from rest_framework.test import APIClient

from billing import closing, disputes, refunds
from billing.models import Invoice, Order, Refund
from billing.orders import buying, paying
from billing.ways.provider import Fate
from subscriptions import catalog, clock
from subscriptions.errors import DomainError
from subscriptions.models import Bucket, Operator
from tests.at_once import at_once
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
from tests.slow_provider import WAY, SlowProvider, slow_provider
from tests.test_disputes import event
from tests.usage import DAY, Gateway, assert_books_agree, record

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.xdist_group("races")]

START, CLOSE = local(2026, 6, 20), local(2026, 7, 3)


@pytest.fixture
def slow() -> Iterator[SlowProvider]:
    with slow_provider() as provider:
        provider.fate = Fate.SUCCEEDED
        yield provider


@pytest.fixture
def order(slow: SlowProvider) -> Iterator[Order]:
    """A booster of 1,000 units for 10.00, with nothing that burns before it."""
    operator = make_operator("ct", at=START)
    catalog.publish_booster(
        operator,
        "pack",
        name="Pack",
        price=yuan("10.00"),
        units=1_000_000,
        valid_days=60,
        at=START,
    )
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator, allowance=1000))
    made = buying.order_booster(operator, subscriber.pk, "pack", at=START)
    yield paying.pay(operator, made.number, WAY, at=START)
    assert_books_agree()


def api(order: Order) -> APIClient:
    return client_for(make_key(order.operator, name="races"))


def ask(order: Order, amount: str | None = None, *, once: str = "") -> str:
    at = clock.now(Operator.objects.get(pk=order.operator_id))
    try:
        made = refunds.ask(
            order.operator,
            order.number,
            amount=None if amount is None else Decimal(amount),
            reason="x",
            by="x",
            once=once,
            at=at,
        )
    except DomainError as error:
        return error.cause
    assert isinstance(made, Refund)
    refunds.send(order.operator, made.number, at=at)
    return made.number


def use(gateway: Gateway, nr: int, subject: str = "user-s-1") -> str:
    said = record(f"u-{nr}", subject=subject, occurred_at=START, input_tokens=100, output_tokens=0)
    gateway.charge(said)
    return "used"


def test_two_refunds_at_once_give_back_no_more_than_was_paid(
    order: Order, slow: SlowProvider
) -> None:
    said = at_once(*[partial(ask, order, "6.00")] * 4)

    assert sorted(one for one in said if not one.startswith("CT")) == ["invalid"] * 3
    assert slow.given_back() == Decimal("6.00")
    assert Order.objects.get(id=order.id).refunded == 6


def test_one_refund_asked_for_by_many_at_once_is_one(order: Order, slow: SlowProvider) -> None:
    said = at_once(*[partial(ask, order, "6.00", once="k")] * 4)

    assert len(set(said)) == 1
    assert (len(slow.refunds), slow.given_back()) == (1, Decimal("6.00"))


def test_the_sweep_and_a_notice_at_once_make_it_once(order: Order, slow: SlowProvider) -> None:
    made = refunds.ask(order.operator, order.number, reason="x", by="x", at=START)
    assert isinstance(made, Refund)
    slow.refunds[made.key] = (Fate.SUCCEEDED, made.amount)

    at_once(
        *[partial(refunds.sweep, order.operator, at=START + DAY)] * 2,
        *[lambda: refunds.settle_refund(order.operator, slow.notice(made.key), at=START) is None]
        * 2,
    )

    assert (len(slow.refunds), slow.given_back()) == (1, Decimal("10.00"))
    assert Refund.objects.get().steps == 2


def test_units_that_burn_meanwhile_are_not_refunded(order: Order, slow: SlowProvider) -> None:
    gateway = Gateway(order.operator)

    at_once(*[partial(use, gateway, nr) for nr in range(4)], partial(ask, order))

    bucket = Bucket.objects.get(kind="booster")
    refund = Refund.objects.get()
    # What was used before it is paid for, what came after fell elsewhere.
    assert bucket.granted == bucket.used
    assert refund.amount == Decimal("10.00") * refund.units / 1_000_000


def test_a_plan_whose_units_burn_meanwhile_gives_back_what_its_invoice_says(
    order: Order, slow: SlowProvider
) -> None:
    operator = order.operator
    make_plan(operator, "back", refund="unused", allowance=1_000_000)
    other = make_subscriber(operator, "s-2")
    plan = buying.order_plan(operator, other.pk, "back", at=START)
    paying.pay(operator, plan.number, WAY, at=START)
    gateway = Gateway(operator)

    at_once(*[partial(use, gateway, nr, "user-s-2") for nr in range(4)], partial(ask, plan))

    set_clock(operator, CLOSE)
    closing.close_due(operator, at=CLOSE)
    invoice = Invoice.objects.get(subscriber_id=other.pk)
    assert invoice.gross == invoice.paid == Decimal("9.90") - slow.given_back()


def test_a_refund_while_the_close_runs_is_on_a_credit_note(
    order: Order, slow: SlowProvider
) -> None:
    set_clock(order.operator, CLOSE)

    def close() -> str:
        closing.close_due(order.operator, at=CLOSE)
        return "closed"

    at_once(partial(ask, order, "4.00"), close)
    close()

    [note, invoice] = Invoice.objects.order_by("gross")
    assert (note.kind, note.gross, Refund.objects.get().note_id) == (
        *("credit_note", Decimal("-4.00"), note.id),
    )
    assert invoice.gross - invoice.paid == Decimal("9.90")
    assert slow.given_back() == 4


def test_a_dispute_and_a_refund_at_once_do_not_take_a_unit_twice(
    order: Order, slow: SlowProvider
) -> None:
    at_once(
        partial(ask, order),
        lambda: str(disputes.take_dispute(order.operator, event(order.number), at=START)),
    )
    disputes.take_dispute(order.operator, event(order.number, "lost"), at=START)

    bucket = Bucket.objects.get(kind="booster")
    assert (bucket.used, bucket.reserved) == (bucket.granted, 0)
