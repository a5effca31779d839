"""Last bills and approvals at the same moment: each document is issued once."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from functools import partial

import pytest

from billing import approving, corrections, credit_notes, finals
from billing.corrections import Rules
from billing.models import Approval, Invoice
from subscriptions import catalog, lifecycle
from subscriptions.errors import DomainError
from subscriptions.models import Operator
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
from tests.usage import assert_books_agree, post

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.xdist_group("races")]

START, CLOSE, NEXT = local(2026, 6, 1), local(2026, 7, 3), local(2026, 8, 3)
MANY = 8


@pytest.fixture
def operator() -> Iterator[Operator]:
    operator = make_operator("ct", at=START)
    yield operator
    assert_books_agree()


def close(operator: Operator) -> None:
    answer = post(client_for(make_key(operator)), "test-clock", {"now": CLOSE.isoformat()})
    assert answer.status_code == 200, answer.content


def test_two_runs_of_last_bills_at_once_bill_nobody_twice(operator: Operator) -> None:
    make_plan(operator)  # brings the rate card
    catalog.publish_booster(
        operator, "ten", name="Ten", price=yuan("10"), units=1_000, valid_days=90, at=START
    )
    close(operator)
    set_clock(operator, CLOSE)
    for nr in range(MANY):
        buyer = make_subscriber(operator, f"s-{nr}")
        lifecycle.sell_booster(operator, buyer.pk, "ten", at=CLOSE)
    set_clock(operator, NEXT)

    issued = at_once(*[partial(finals.run, operator, at=NEXT)] * 3)

    assert sum(issued) == Invoice.objects.filter(kind="final").count() == MANY


def test_an_approval_and_a_rejection_at_once_are_one_decision(operator: Operator) -> None:
    subscribe(make_subscriber(operator), make_plan(operator))
    close(operator)
    corrections.set_rules(operator, Rules(Decimal("1.00")), by="boss", at=CLOSE)
    number = "CT-2026-00000001"
    asked = credit_notes.credit(
        operator, number, reason="x", by="clerk", at=CLOSE, amount=Decimal("2.00")
    )
    assert isinstance(asked, Approval)

    def decide(decision: str) -> str:
        door = {"approve": approving.approve, "reject": approving.reject}[decision]
        try:
            return door(operator, asked.pk, by="boss", reason="y", at=CLOSE).state
        except DomainError as error:
            return error.cause

    answers = at_once(*[partial(decide, way) for way in ("approve", "reject", "approve")])

    state = Approval.objects.get().state
    assert state in ("approved", "rejected")
    assert set(answers) == {state, "decided"}
    assert Invoice.objects.filter(kind="credit_note").count() == (state == "approved")
