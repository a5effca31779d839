"""What is done about an invoice that was given up: what comes in after all, and what a carrier that
collects it hears."""

from __future__ import annotations

import io
import itertools
from decimal import Decimal

import pytest
from django.core.management import CommandError, call_command
from hypothesis import given, settings
from hypothesis import strategies as st
from rest_framework.test import APIClient

from billing import dunning, invoicing, ledger, payments
from billing.exports import charge_files
from billing.models import ChargeLine, DunningCase, Invoice, InvoiceLine, Posting
from subscriptions import clock
from subscriptions.errors import DomainError
from subscriptions.models import Operator
from tests.factories import (
    client_for,
    local,
    make_key,
    make_operator,
    make_plan,
    make_subscriber,
    subscribe,
)
from tests.usage import DAY, assert_books_agree, get, post

pytestmark = pytest.mark.django_db

START, CLOSE = local(2026, 6, 1), local(2026, 7, 3)
DUE = CLOSE + 15 * DAY
FOREVER = local(2030, 1, 1)
FIRST = "CT-2026-00000001"


def one_who_owes(code: str) -> Operator:
    """One subscriber, whose first bill of 9.90 is issued."""
    operator = make_operator(code, at=START)
    dunning.set_policy(operator, at=START)
    subscribe(make_subscriber(operator), make_plan(operator))
    move = {"now": CLOSE.isoformat()}
    assert post(client_for(make_key(operator)), "test-clock", move).status_code == 200
    return operator


@pytest.fixture
def operator() -> Operator:
    return one_who_owes("ct")


@pytest.fixture
def api(operator: Operator) -> APIClient:
    return client_for(make_key(operator, name="again"))


def pay(operator: Operator, amount: str, key: str, number: str = FIRST) -> None:
    at = clock.now(Operator.objects.get(pk=operator.pk))
    payments.record(operator, number, amount=Decimal(amount), key=key, way="bank", at=at)


def give_up(operator: Operator, number: str = FIRST) -> None:
    invoicing.write_off(operator, number, reason="bankrupt", at=CLOSE)


def balances(operator: Operator) -> dict[str, str]:
    rows = ledger.trial_balance(operator.pk, at=FOREVER)
    words = ("receivable", "write_off", "cash:bank")
    return {row.account: str(row.balance) for row in rows if row.account in words and row.balance}


def told(operator: Operator) -> list[tuple[str, str]]:
    """(kind, amount) of each line of the next charge file."""
    file = charge_files.make(operator, at=CLOSE)
    if file is None:
        return []
    lines = ChargeLine.objects.filter(operator_id=operator.pk, sequence=file.sequence)
    return [(line.kind, str(line.amount)) for line in lines.order_by("nr")]


# What comes in -----------------------------------------------------------------------------------


def test_what_comes_in_after_all_takes_so_much_of_the_expense_back(
    operator: Operator, api: APIClient
) -> None:
    pay(operator, "1.90", "before")
    give_up(operator)
    assert balances(operator) == {"cash:bank": "1.90", "write_off": "8.00"}

    for _ in range(2):
        pay(operator, "3.00", "a part")

    assert balances(operator) == {"cash:bank": "4.90", "write_off": "5.00"}
    shown = get(api, f"invoices/{FIRST}")
    assert (shown["state"], shown["amount_due"]["amount"]) == ("uncollectible", "5.00")
    assert_books_agree()

    out = io.StringIO()
    call_command("pay", FIRST, "5.00", "--key", "rest", "--way", "bank", stdout=out, no_color=True)
    assert out.getvalue() == f"{FIRST} is paid, 0.00 CNY due\n"
    assert balances(operator) == {"cash:bank": "9.90"}
    assert get(api, f"invoices/{FIRST}")["state"] == "paid"
    assert Posting.objects.filter(kind="recovery").count() == 2
    assert_books_agree()


def test_no_more_comes_in_than_was_given_up(operator: Operator) -> None:
    give_up(operator)
    with pytest.raises(DomainError, match=r"9\.90 CNY is due"):
        pay(operator, "9.91", "too much")
    pay(operator, "9.90", "all")

    with pytest.raises(DomainError, match="nothing is due"):
        pay(operator, "0.01", "more")
    for what in ("write_off", "pay"):
        arguments = {"write_off": ["--reason", "x"], "pay": ["1", "--key", "x", "--way", "bank"]}
        with pytest.raises(CommandError):
            call_command(what, FIRST, *arguments[what])
    assert balances(operator) == {"cash:bank": "9.90"}
    assert_books_agree()


def test_what_is_given_up_is_no_debt_any_more_and_costs_no_late_fee_from_then_on(
    operator: Operator, api: APIClient
) -> None:
    jump = {"now": (DUE + 10 * DAY).isoformat()}
    assert post(api, "test-clock", jump).status_code == 200
    invoicing.write_off(operator, FIRST, reason="bankrupt", at=DUE + 10 * DAY)
    assert DunningCase.objects.get().state == "settled"

    for month in (8, 9):
        jump = {"now": local(2026, month, 3).isoformat()}
        assert post(api, "test-clock", jump).status_code == 200
    pay(operator, "9.90", "after all")

    # Nine whole days of 9.90 at 0.003: at the end of the tenth nothing was owed.
    fees = InvoiceLine.objects.filter(kind="late_fee", description=FIRST)
    assert [str(line.gross) for line in fees] == ["0.27"]
    assert_books_agree()


# What a carrier that collects it hears ----------------------------------------------------------


def test_who_collects_it_is_told_to_stop_once(operator: Operator) -> None:
    assert told(operator) == [("charge", "9.90")]
    give_up(operator)

    assert told(operator) == [("reversal", "-9.90")]

    # What was collected nonetheless is a payment, and changes nothing for the carrier.
    pay(operator, "4.00", "crossed")
    assert told(operator) == []
    pay(operator, "5.90", "rest")
    assert told(operator) == []
    assert_books_agree()


def test_what_was_paid_or_credited_before_is_not_taken_back_twice(operator: Operator) -> None:
    assert told(operator) == [("charge", "9.90")]
    pay(operator, "2.00", "collected")
    invoicing.credit(operator, FIRST, reason="x", amount=Decimal("1.00"), at=CLOSE)
    give_up(operator)
    pay(operator, "3.00", "after all")

    assert told(operator) == [("reversal", "-3.90"), ("credit", "-1.00")]
    assert_books_agree()


def test_who_was_never_asked_to_collect_it_hears_nothing(operator: Operator) -> None:
    give_up(operator)

    assert told(operator) == []
    assert_books_agree()


# Whatever happens -------------------------------------------------------------------------------

_codes = itertools.count(1)
ACTS = st.one_of(
    st.tuples(st.just("pay"), st.integers(1, 990)),
    st.tuples(st.just("give up"), st.just(0)),
    st.tuples(st.just("credit"), st.integers(1, 300)),
    st.tuples(st.just("tell"), st.just(0)),
)


@settings(max_examples=8)
@given(acts=st.lists(ACTS, min_size=2, max_size=8))
def test_an_invoice_its_expense_and_what_a_carrier_is_to_collect_agree(
    acts: list[tuple[str, int]],
) -> None:
    operator = one_who_owes(f"r-{next(_codes)}")
    number = str(Invoice.objects.get(operator=operator).number)
    given_up = Decimal(0)
    for nr, (act, fen) in enumerate([*acts, ("tell", 0)]):
        before = Invoice.objects.get(operator=operator, kind="period")
        left, amount = before.gross - before.paid, Decimal(fen) / 100
        try:
            if act == "pay":
                pay(operator, str(amount), f"k-{nr}", number)
                given_up -= min(amount, given_up)
            elif act == "give up":
                give_up(operator, number)
                given_up = left
            elif act == "credit":
                invoicing.credit(operator, number, reason="x", amount=amount, at=CLOSE)
            else:
                told(operator)
        except DomainError:
            # Refused: nothing has changed.
            now = Invoice.objects.get(operator=operator, kind="period")
            assert (now.paid, now.state) == (before.paid, before.state)

        invoice = Invoice.objects.get(operator=operator, kind="period")
        assert (invoice.state == "uncollectible") == (given_up > 0)
        assert balances(operator).get("write_off", "0") == (str(given_up) if given_up else "0")

    # What is collected, given back and taken back by the carrier is what came in through it at
    # most: never more than the invoice, never less than nothing.
    lines = ChargeLine.objects.filter(operator_id=operator.pk, kind__in=["charge", "reversal"])
    asked = sum((line.amount for line in lines), Decimal(0))
    assert 0 <= asked <= Decimal("9.90")
    if invoice.state == "uncollectible":
        assert asked <= invoice.paid
    assert_books_agree()
