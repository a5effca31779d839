"""Money that comes in counts once, in the ledger and on its invoice."""

from __future__ import annotations

import io
from decimal import Decimal

import pytest
from django.core.management import CommandError, call_command
from django.db import Error, connection, transaction

from billing import dunning, ledger, payments
from billing.models import Payment, Posting
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
from tests.usage import assert_books_agree, get, post

pytestmark = pytest.mark.django_db

START, CLOSE = local(2026, 6, 1), local(2026, 7, 3)
NUMBER, SECOND = "CT-2026-00000001", "CT-2026-00000002"


@pytest.fixture
def operator() -> Operator:
    """Two subscribers with an invoice of 9.90 each."""
    operator = make_operator("ct", at=START)
    dunning.set_policy(operator, at=START)
    plan = make_plan(operator)
    for name in ("s-1", "s-2"):
        subscribe(make_subscriber(operator, name), plan)
    move = {"now": CLOSE.isoformat()}
    assert post(client_for(make_key(operator)), "test-clock", move).status_code == 200
    return operator


def pay(operator: Operator, amount: str = "9.90", key: str = "p-1", number: str = NUMBER):
    return payments.record(operator, number, amount=Decimal(amount), key=key, way="bank", at=CLOSE)


def refused(operator: Operator, *said: str) -> str:
    with pytest.raises(DomainError) as error, transaction.atomic():
        pay(operator, *said)
    return error.value.cause


def due(operator: Operator) -> tuple[str, str]:
    api = client_for(make_key(operator, name="due"))
    invoice = get(api, f"invoices/{NUMBER}")
    return invoice["state"], invoice["amount_due"]["amount"]


def test_a_payment_lowers_what_is_due_and_the_last_one_settles(operator: Operator) -> None:
    pay(operator, "4.00")
    assert due(operator) == ("open", "5.90")
    pay(operator, "5.90", "p-2")
    assert due(operator) == ("paid", "0.00")

    balances = {
        line.account: str(line.balance) for line in ledger.trial_balance(operator.pk, at=CLOSE)
    }
    assert (balances["cash:bank"], balances["receivable"]) == ("9.90", "9.90")
    assert [payment.nr for payment in Payment.objects.order_by("nr")] == [1, 2]
    assert_books_agree()


def test_a_key_names_one_payment_for_good(operator: Operator) -> None:
    first = pay(operator, "4.00")

    assert pay(operator, "4.00").pk == first.pk
    assert refused(operator, "5.00") == "idempotency_conflict"
    assert refused(operator, "4.00", "p-1", SECOND) == "idempotency_conflict"
    assert due(operator) == ("open", "5.90")
    assert Posting.objects.filter(kind="payment").count() == 1
    # Also when it has paid all.
    pay(operator, "5.90", "p-2")
    assert pay(operator, "5.90", "p-2").nr == 2
    assert_books_agree()


@pytest.mark.parametrize(
    ("amount", "cause"),
    [
        ("0", "invalid"),
        ("-1", "invalid"),
        ("1.001", "invalid"),
        ("NaN", "invalid"),
        ("Infinity", "invalid"),
        ("9.91", "overpaid"),
    ],
)
def test_no_amount_is_taken_that_makes_no_sense(
    operator: Operator, amount: str, cause: str
) -> None:
    assert refused(operator, amount) == cause
    assert due(operator) == ("open", "9.90")
    assert_books_agree()


def test_what_is_paid_void_or_a_credit_note_cannot_be_paid(operator: Operator) -> None:
    api = client_for(make_key(operator, name="staff"))
    pay(operator)
    assert post(api, f"invoices/{NUMBER}/credit", {"reason": "x"}).status_code == 201
    assert post(api, f"invoices/{SECOND}/void", {"reason": "x"}).status_code == 200

    assert refused(operator, "9.90", "p-2") == "nothing_due"
    assert refused(operator, "9.90", "p-2", SECOND) == "nothing_due"
    assert refused(operator, "9.90", "p-2", "CT-2026-00000003") == "nothing_due"
    assert refused(operator, "9.90", "p-2", "CT-2026-00000004") == "not_found"
    assert_books_agree()


def test_a_command_tells_a_payment(operator: Operator) -> None:
    out = io.StringIO()

    call_command("pay", NUMBER, "4", "--key", "b-1", "--way", "bank", stdout=out)
    call_command("pay", NUMBER, "4", "--key", "b-1", "--way", "bank", stdout=out)

    assert out.getvalue().splitlines() == [f"{NUMBER} is open, 5.90 CNY due"] * 2
    for wrong in (["x", "--key", "b", "--way", "bank"], ["9", "--key", "b", "--way", "Bank!"]):
        with pytest.raises(CommandError):
            call_command("pay", NUMBER, *wrong)
    assert_books_agree()


@pytest.mark.parametrize(
    "sql", ["UPDATE billing_payment SET amount = 1", "DELETE FROM billing_payment"]
)
def test_a_payment_never_changes(operator: Operator, sql: str) -> None:
    pay(operator)

    with (
        pytest.raises(Error, match="append-only"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(sql)
