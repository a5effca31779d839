"""Payments, suspensions and two beats at the same moment."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from functools import partial

import pytest

from billing import dunning, invoicing, payments
from billing.models import DunningCase, DunningEvent, Invoice, Payment
from subscriptions.errors import DomainError
from subscriptions.models import Operator, Suspension
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
)
from tests.usage import DAY, assert_books_agree, post

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.xdist_group("races")]

START, CLOSE = local(2026, 6, 1), local(2026, 7, 3)
SUSPENSION = CLOSE + 45 * DAY
OWING = 12


@pytest.fixture
def operator() -> Iterator[Operator]:
    """Twelve who owe 9.90 each, and are to be suspended at this moment."""
    operator = make_operator("ct", at=START)
    dunning.set_policy(operator, at=START)
    plan = make_plan(operator)
    for nr in range(OWING):
        subscribe(make_subscriber(operator, f"s-{nr}"), plan)
    move = {"now": CLOSE.isoformat()}
    assert post(client_for(make_key(operator)), "test-clock", move).status_code == 200
    set_clock(operator, SUSPENSION)
    yield operator
    assert_books_agree()


def pay(operator: Operator, number: str, key: str, at: dt.datetime = SUSPENSION) -> str:
    try:
        payments.record(operator, number, amount=Decimal("9.90"), key=key, way="bank", at=at)
    except DomainError as error:
        return error.cause
    return "paid"


def numbers() -> list[str]:
    return [
        str(number) for number in Invoice.objects.order_by("id").values_list("number", flat=True)
    ]


def test_two_beats_at_once_do_nothing_twice(operator: Operator) -> None:
    at_once(*[partial(dunning.run, operator, at=SUSPENSION)] * 3)

    kinds = list(DunningEvent.objects.values_list("kind", flat=True))
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "overdue": OWING,
        "reminder": 4 * OWING,
        "suspended": OWING,
    }
    assert Suspension.objects.filter(ends_at__isnull=True).count() == OWING


def test_a_payment_at_the_moment_of_the_suspension_leaves_the_line_open(
    operator: Operator,
) -> None:
    run = partial(dunning.run, operator, at=SUSPENSION)
    paying = [partial(pay, operator, number, number) for number in numbers()]

    at_once(run, *paying[::2], run, *paying[1::2])

    assert Payment.objects.count() == OWING
    assert not DunningCase.objects.exclude(state="settled").exists()
    assert not Suspension.objects.filter(ends_at__isnull=True).exists()


def test_two_who_pay_one_invoice_pay_it_once(operator: Operator) -> None:
    number = numbers()[0]

    other_keys = at_once(*[partial(pay, operator, number, f"browser-{nr}") for nr in range(4)])
    assert sorted(other_keys) == ["nothing_due"] * 3 + ["paid"]
    one_key = at_once(*[partial(pay, operator, numbers()[1], "one")] * 4)
    assert one_key == ["paid"] * 4
    two_invoices = at_once(*[partial(pay, operator, number, "both") for number in numbers()[2:4]])
    assert sorted(two_invoices) == ["idempotency_conflict", "paid"]
    assert Payment.objects.count() == 3


def test_a_credit_note_beside_a_payment_and_a_suspension(operator: Operator) -> None:
    def credit(number: str) -> str:
        try:
            invoicing.credit(operator, number, reason="a test", at=SUSPENSION)
        except DomainError as error:
            return error.cause
        return "credited"

    for number in numbers()[:4]:
        at_once(
            partial(credit, number),
            partial(pay, operator, number, number),
            partial(dunning.run, operator, at=SUSPENSION),
        )

    held = set(
        Suspension.objects.filter(ends_at__isnull=True).values_list("subscriber_id", flat=True)
    )
    owing = set(
        Invoice.objects.filter(state="open", kind="period").values_list("subscriber_id", flat=True)
    )
    assert held == owing
    assert len(held) == OWING - 4
