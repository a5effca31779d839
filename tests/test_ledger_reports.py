"""What the accounts owe and are owed, at any date, as commands print it; and what is given up."""

from __future__ import annotations

import csv
import io
from decimal import Decimal

import pytest
from django.core.management import CommandError, call_command
from rest_framework.test import APIClient

from billing import ledger
from billing.ledger import Draft, Side
from billing.models import Invoice, Posting
from subscriptions.models import Operator, Subscriber
from tests.factories import (
    client_for,
    local,
    make_key,
    make_operator,
    make_plan,
    make_subscriber,
    subscribe,
)
from tests.usage import DAY, Gateway, assert_books_agree, assert_problem, get, post, put, record

pytestmark = pytest.mark.django_db

START, CLOSE = local(2026, 6, 1), local(2026, 7, 3)
DUE = CLOSE + 15 * DAY
FIRST, SECOND = "CT-2026-00000001", "CT-2026-00000002"


@pytest.fixture
def operator() -> Operator:
    return make_operator("ct", at=START)


@pytest.fixture
def subscriber(operator: Operator) -> Subscriber:
    """One with two invoices: 19.90 (a booster in it, a third burned) due on 18 July, 9.90 due on
    18 August."""
    api = client_for(make_key(operator))
    subscriber = make_subscriber(operator, "=1+1", subjects=("user-s-1",))
    subscribe(subscriber, make_plan(operator, allowance=0))
    booster = {"name": "Three", "price": "10.00", "units": "3000000", "valid_days": 90}
    assert put(api, "boosters/three", booster).status_code == 201
    assert post(api, "subscribers/=1+1/boosters", {"booster": "three"}).status_code == 201
    used = record("u", occurred_at=START, input_tokens=1_000_000, output_tokens=0)
    assert Gateway(operator).charge(used)["accepted"] == 1
    for at in (CLOSE, CLOSE + 31 * DAY):
        assert post(api, "test-clock", {"now": at.isoformat()}).status_code == 200
    return subscriber


@pytest.fixture
def api(operator: Operator, subscriber: Subscriber) -> APIClient:
    return client_for(make_key(operator, name="again"))


def printed(*command: str) -> str:
    out = io.StringIO()
    call_command(*command, stdout=out, no_color=True)
    return out.getvalue()


def rows(*command: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(printed(*command, "--csv"))))


def ages(at: object) -> list[str]:
    """What the one subscriber owes: not due, by age, credit, total."""
    found = rows("receivables", "--at", str(at).replace(" ", "T"))
    return [amount for row in found for amount in list(row.values())[2:]]


def test_liabilities_are_units_sold_wallets_and_tax(
    operator: Operator, subscriber: Subscriber
) -> None:
    found = rows("liabilities", "--at", CLOSE.isoformat())

    assert [tuple(row.values()) for row in found] == [
        ("deferred", "booster/three", "0.06", "CNY", "6.29"),
        ("vat", "", "0.06", "CNY", "1.13"),
        ("wallet", "", "", "CNY", "0.00"),
    ]
    assert rows("liabilities", "--at", START.isoformat()) == []
    sides = (Side("cash:alipay", Decimal(5), None), Side("wallet", Decimal(-5), subscriber.pk))
    ledger.post(operator.pk, Draft("top-up", "payment", CLOSE, "USD", sides))
    shown = printed("liabilities", "--at", CLOSE.isoformat())
    assert "wallet 5.00 USD" in shown
    assert "deferred 6.29 CNY" in shown
    sums = printed("trial_balance", "--at", CLOSE.isoformat())
    assert "Sum: 0.00 USD, 0.00 CNY" in sums or "Sum: 0.00 CNY, 0.00 USD" in sums


@pytest.mark.usefixtures("subscriber")
def test_receivables_grow_older_by_their_due_dates() -> None:
    none = "0.00"

    assert ages(CLOSE) == ["19.90", none, none, none, none, none, "19.90"]
    assert ages(DUE) == [none, "19.90", none, none, none, none, "19.90"]
    assert ages(DUE + 31 * DAY) == [none, "9.90", "19.90", none, none, none, "29.80"]
    assert ages(DUE + 61 * DAY) == [none, "9.90", none, "19.90", none, none, "29.80"]
    assert ages(DUE + 91 * DAY)[4] == "19.90"
    assert ages(START) == []


def test_what_is_paid_settles_what_was_due_first(operator: Operator, api: APIClient) -> None:
    [subscriber] = Subscriber.objects.filter(operator=operator)

    def pay(key: str, amount: str) -> None:
        sides = (
            Side("cash:alipay", Decimal(amount)),
            Side("receivable", -Decimal(amount), subscriber.pk),
        )
        ledger.post(operator.pk, Draft(key, "payment", DUE, "CNY", sides))

    at = DUE + 40 * DAY
    assert ages(at)[1:] == ["9.90", "19.90", "0.00", "0.00", "0.00", "29.80"]
    pay("p-1", "15.00")
    assert ages(at)[1:] == ["9.90", "4.90", "0.00", "0.00", "0.00", "14.80"]
    body = {"reason": "x", "amount": "5.00"}
    assert post(api, f"invoices/{FIRST}/credit", body).status_code == 201
    assert ages(at)[1:] == ["9.80", "0.00", "0.00", "0.00", "0.00", "9.80"]
    pay("p-2", "20.00")
    assert ages(at)[1:] == ["0.00", "0.00", "0.00", "0.00", "-10.20", "-10.20"]
    # Before all of that it is as it was.
    assert ages(DUE - DAY) == ["19.90", *["0.00"] * 5, "19.90"]


def test_what_is_given_up_is_an_expense_once(operator: Operator, api: APIClient) -> None:
    for _ in range(2):
        said = printed("write_off", FIRST, "--reason", "bankrupt")
        assert said == f"{FIRST}: 19.90 CNY is given up\n"

    shown = get(api, f"invoices/{FIRST}")
    assert (shown["state"], shown["amount_due"]["amount"]) == ("uncollectible", "19.90")
    balances = {row["account"]: row["balance"] for row in rows("trial_balance")}
    assert (balances["write_off"], balances["receivable"]) == ("19.90", "9.90")
    # The tax stays payable, the units stay owed.
    assert (balances["vat:0.06"], balances["deferred:booster/three:0.06"]) == ("-1.69", "-6.29")
    assert Posting.objects.filter(kind="write_off").count() == 1
    assert ages(DUE + 40 * DAY)[-1] == "9.90"
    assert ages(DUE)[-1] == "19.90"
    assert_books_agree()


def test_only_what_is_due_is_given_up_and_then_neither_credited_nor_void(api: APIClient) -> None:
    body = {"reason": "x", "amount": "9.90"}
    note = post(api, f"invoices/{SECOND}/credit", body).json()["number"]

    for number in (SECOND, note, "CT-2026-00000099"):
        with pytest.raises(CommandError):
            printed("write_off", number, "--reason", "x")
    printed("write_off", FIRST, "--reason", "x")
    for what in ("credit", "void"):
        answer = post(api, f"invoices/{FIRST}/{what}", {"reason": "x"})
        assert_problem(answer, 409, "not_creditable")
    assert Invoice.objects.filter(state="uncollectible").count() == 1


@pytest.mark.usefixtures("subscriber")
def test_no_text_of_a_sheet_is_a_formula_and_numbers_stay_numbers() -> None:
    [row] = rows("receivables", "--at", CLOSE.isoformat())
    assert row["subscriber"] == "'=1+1"

    assert Decimal(row["total"]) == Decimal("19.90")
