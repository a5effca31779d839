"""Credit notes and void invoices: taken back to the fen, and said so everywhere."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest
from rest_framework.test import APIClient

from billing import invoicing, ledger
from billing.models import Posting
from subscriptions import catalog
from subscriptions.models import Operator
from tests.factories import (
    client_for,
    local,
    make_key,
    make_operator,
    make_plan,
    make_subscriber,
    subscribe,
    yuan,
)
from tests.usage import Gateway, assert_books_agree, assert_problem, get, post, record

pytestmark = pytest.mark.django_db

START, CLOSE = local(2026, 6, 1), local(2026, 7, 3)
NUMBER = "CT-2026-00000001"


@pytest.fixture
def operator() -> Operator:
    return make_operator("ct", at=START)


@pytest.fixture
def api(operator: Operator) -> APIClient:
    """With an invoice of 9.90 and 1.20 of overage."""
    api = client_for(make_key(operator))
    plan = make_plan(operator, allowance=0, on_exhaustion="meter", price_per_million="1.20")
    subscribe(make_subscriber(operator), plan)
    used = record("u", occurred_at=START, input_tokens=1_000_000, output_tokens=0)
    assert Gateway(operator).charge(used)["accepted"] == 1
    assert post(api, "test-clock", {"now": CLOSE.isoformat()}).status_code == 200
    return api


def credit(api: APIClient, **said: Any) -> dict[str, Any]:
    answer = post(api, f"invoices/{NUMBER}/credit", {"reason": "a test", **said})
    assert answer.status_code == 201, answer.content
    body: dict[str, Any] = answer.json()
    return body


def due(api: APIClient, number: str = NUMBER) -> tuple[str, str]:
    invoice = get(api, f"invoices/{number}")
    return invoice["state"], invoice["amount_due"]["amount"]


def test_a_whole_credit_takes_every_line_back(operator: Operator, api: APIClient) -> None:
    note = credit(api)

    assert (note["number"], note["kind"], note["credits"]) == (
        "CT-2026-00000002",
        "credit_note",
        NUMBER,
    )
    lines = [(line["kind"], line["net"]["amount"], line["tax"]["amount"]) for line in note["lines"]]
    assert lines == [("fee", "-9.34", "-0.56"), ("overage", "-1.13", "-0.07")]
    assert due(api) == due(api, "CT-2026-00000002") == ("paid", "0.00")
    at = local(2030, 1, 1)
    assert {line.balance for line in ledger.trial_balance(operator.pk, at=at)} == {0}
    again = post(api, f"invoices/{NUMBER}/credit", {"reason": "again"})
    assert_problem(again, 409, "not_creditable")
    assert_books_agree()


def test_credits_in_parts_are_spread_and_end_with_the_invoice(api: APIClient) -> None:
    first = credit(api, amount="1.11")
    assert [line["gross"]["amount"] for line in first["lines"]] == ["-0.99", "-0.12"]
    assert due(api) == ("open", "9.99")

    too_much = post(api, f"invoices/{NUMBER}/credit", {"reason": "x", "amount": "10.00"})
    assert_problem(too_much, 422, "invalid")
    for amount in ("0", "0.00"):
        nothing = post(api, f"invoices/{NUMBER}/credit", {"reason": "x", "amount": amount})
        assert_problem(nothing, 422, "invalid")
    other = {"reason": "x", "amount": {"amount": "1.00", "currency": "USD"}}
    assert_problem(post(api, f"invoices/{NUMBER}/credit", other), 422, "invalid")

    credit(api, amount="3.33")
    last = credit(api)
    assert last["gross"]["amount"] == "-6.66"
    assert due(api) == ("paid", "0.00")
    assert_books_agree()


def test_many_small_credits_of_two_tax_rates_come_to_the_invoice_and_no_more(
    operator: Operator,
) -> None:
    parts = [("tokens", "0.33", "0.06"), ("data", "0.67", "0.09")]
    components = tuple(
        catalog.Component(name=name, price=yuan(price), tax_rate=Decimal(rate))
        for name, price, rate in parts
    )
    subscribe(
        make_subscriber(operator), make_plan(operator, price=yuan("1"), components=components)
    )
    api = client_for(make_key(operator))
    assert post(api, "test-clock", {"now": CLOSE.isoformat()}).status_code == 200
    invoice = get(api, f"invoices/{NUMBER}")

    notes = [credit(api, amount="0.07") for _ in range(14)]
    assert_books_agree()
    notes.append(credit(api))

    for what in ("net", "tax", "gross"):
        back = sum(Decimal(note[what]["amount"]) for note in notes)
        assert back == -Decimal(invoice[what]["amount"])
    assert_books_agree()


def test_who_looked_at_the_clock_first_and_came_second_is_issued_second(
    operator: Operator, api: APIClient
) -> None:
    early, late = (
        invoicing.credit(operator, NUMBER, reason="x", amount=Decimal("0.10"), at=CLOSE + seconds)
        for seconds in (dt.timedelta(seconds=2), dt.timedelta(seconds=1))
    )

    assert (early.number, late.number) == ("CT-2026-00000002", "CT-2026-00000003")
    assert early.issued_at == late.issued_at == CLOSE + dt.timedelta(seconds=2)
    assert_books_agree()


def test_a_credit_note_cannot_be_credited_or_made_void(api: APIClient) -> None:
    number = credit(api, amount="1")["number"]

    for what in ("credit", "void"):
        answer = post(api, f"invoices/{number}/{what}", {"reason": "x"})
        assert_problem(answer, 409, "not_creditable")
    answer = post(api, f"invoices/{NUMBER}/void", {"reason": "x"})
    assert_problem(answer, 409, "not_creditable")


def test_a_credit_sent_again_under_its_key_is_one_note(api: APIClient) -> None:
    path, body = f"/api/v1/invoices/{NUMBER}/credit", {"reason": "x", "amount": "1"}
    key = {"Idempotency-Key": "k-1"}

    answers = [api.post(path, body, format="json", headers=key) for _ in range(2)]

    assert answers[0].json() == answers[1].json()
    assert len(get(api, "subscribers/s-1/invoices")["items"]) == 2


def test_a_void_invoice_is_owed_by_nobody_and_its_period_not_billed_again(
    operator: Operator, api: APIClient
) -> None:
    for _ in range(2):
        answer = post(api, f"invoices/{NUMBER}/void", {"reason": "a test"})
        assert (answer.status_code, answer.json()["state"]) == (200, "void")

    assert due(api) == ("void", "0.00")
    assert Posting.objects.count() == 2
    at = local(2030, 1, 1)
    assert {line.balance for line in ledger.trial_balance(operator.pk, at=at)} == {0}
    answer = post(api, f"invoices/{NUMBER}/credit", {"reason": "x"})
    assert_problem(answer, 409, "not_creditable")
    assert post(api, "test-clock", {"now": local(2026, 8, 3).isoformat()}).status_code == 200
    [second, _] = get(api, "subscribers/s-1/invoices")["items"]
    assert [line["kind"] for line in second["lines"]] == ["fee"]
    assert_books_agree()
