"""What is bought on the phone bill is owed by the carrier, or by the subscriber again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from rest_framework.test import APIClient

from billing import ledger, refunds
from billing.exports import charge_files
from billing.models import PhoneBillAnswer
from subscriptions import catalog, clock
from subscriptions.models import Operator
from tests.factories import (
    client_for,
    local,
    make_key,
    make_operator,
    make_plan,
    make_subscriber,
    yuan,
)
from tests.test_before_period import bills, move, orders, sell
from tests.test_charge_files import said
from tests.test_orders import order, pay, wallet
from tests.test_renewals import HOUR, POLICY, agree, cases, fill, history, told
from tests.usage import DAY, assert_books_agree, assert_problem, balance, get, post, put

pytestmark = pytest.mark.django_db

START, JULY, AUGUST = local(2026, 6, 1), local(2026, 7, 1), local(2026, 8, 1)


@pytest.fixture
def operator() -> Operator:
    operator = make_operator("ct", at=START)
    make_plan(operator, "pre", price=yuan("30.00"), collect="before_period")
    make_plan(operator)
    catalog.publish_booster(
        operator,
        "pack",
        name="Pack",
        price=yuan("5.00"),
        units=1_000_000,
        valid_days=60,
        at=clock.now(operator),
    )
    make_subscriber(operator)
    return operator


@pytest.fixture
def api(operator: Operator) -> APIClient:
    api = client_for(make_key(operator))
    number = {"name": "s-1", "subjects": ["user-s-1"], "msisdn": "+8613800000001"}
    assert put(api, "subscribers/s-1", number).status_code == 200
    return api


def carrier(operator: Operator, api: APIClient) -> str:
    at = clock.now(Operator.objects.get(pk=operator.pk))
    found = [b for b in ledger.trial_balance(operator.pk, at=at) if b.account == "carrier"]
    return str(found[0].balance) if found else "0"


def told_to_carrier(operator: Operator) -> list[tuple[str, str, str]]:
    operator.refresh_from_db()
    file = charge_files.make(operator, at=clock.now(operator))
    assert file is not None
    return said(file)


def answer(tmp_path: Path, *lines: str) -> None:
    path = tmp_path / "answers.csv"
    path.write_text("".join(f"{line}\n" for line in lines))
    call_command("charge_answers", str(path), "--operator", "ct")


def pack(api: APIClient) -> str:
    number = str(order(api, kind="booster", booster="pack")["number"])
    answered = pay(api, number, "phone_bill")
    assert answered.status_code == 200, answered.content
    return number


def test_a_booster_on_the_phone_bill_is_in_the_next_charge_file_once(
    operator: Operator, api: APIClient, tmp_path: Path
) -> None:
    number = str(order(api, kind="booster", booster="pack")["number"])
    assert_problem(pay(api, number, "phone_bill"), 409, "no_consent")
    agree(api, "phone_bill")
    paid = pay(api, number, "phone_bill").json()

    assert (paid["state"], paid["way"], carrier(operator, api)) == ("paid", "phone_bill", "5.00")
    assert balance(api)["available"] == "1000.000"
    assert told_to_carrier(operator) == [("order", number, "5.00")]
    operator.refresh_from_db()
    assert charge_files.make(operator, at=clock.now(operator)) is None
    for _ in range(2):
        answer(tmp_path, "1,1,collected,")

    assert carrier(operator, api) == "0.00"
    assert_books_agree()


def test_what_the_phone_bill_does_not_carry_is_refused(operator: Operator, api: APIClient) -> None:
    consent = agree(api, "phone_bill", monthly_cap="8.00")
    top_up = str(order(api, kind="top_up", amount="5.00")["number"])
    assert pay(api, top_up, "phone_bill").status_code == 422
    pack(api)

    more = str(order(api, kind="booster", booster="pack")["number"])
    assert_problem(pay(api, more, "phone_bill"), 409, "phone_bill_cap")
    # The next month's phone bill is another.
    again = str(
        order(api, kind="booster", booster="pack", expires_at="2026-07-05T00:00:00Z")["number"]
    )
    move(api, JULY)
    assert pay(api, again, "phone_bill").json()["state"] == "paid"
    # The operator's own cap holds too, and no number is no phone bill.
    assert put(api, "collection-policy", {**POLICY, "phone_bill_cap": "6.00"}).status_code == 200
    agree(api, "phone_bill", text_version="4")
    more = str(order(api, kind="booster", booster="pack")["number"])
    assert_problem(pay(api, more, "phone_bill"), 409, "phone_bill_cap")
    assert get(api, "subscribers/s-1/consents")["items"][0]["number"] == consent
    nobody = {"name": "s-1", "subjects": ["user-s-1"], "msisdn": ""}
    assert put(api, "subscribers/s-1", nobody).status_code == 200
    assert_problem(pay(api, more, "phone_bill"), 409, "no_phone_number")
    assert_books_agree()


def test_a_renewal_goes_on_the_phone_bill_where_the_wallet_is_empty(
    operator: Operator, api: APIClient, tmp_path: Path
) -> None:
    for kind in ("auto_renew", "phone_bill"):
        agree(api, kind)
    sell(api)
    move(api, START + 9 * HOUR)
    [case] = cases(api)
    assert (case["state"], history(case)) == (
        "collected",
        [
            ("tried", "wallet", ""),
            ("failed", "wallet", "insufficient_funds"),
            ("tried", "phone_bill", ""),
            ("collected", "phone_bill", ""),
        ],
    )
    assert balance(api)["available"] == "10000000.000"
    [(_, number, amount)] = told_to_carrier(operator)
    assert (amount, carrier(operator, api)) == ("30.00", "30.00")

    # Before the invoice names it, the rejected amount is asked for there.
    answer(tmp_path, "1,1,rejected,no such contract")
    assert (carrier(operator, api), get(api, f"orders/{number}")["state"]) == ("0.00", "refunded")
    move(api, JULY + 3 * DAY)

    assert bills(api) == [("open", "30.00", "30.00")]
    assert wallet(api) == "0.00"
    assert_books_agree()


@pytest.mark.parametrize("spent", [False, True])
def test_what_an_invoice_had_taken_is_owed_on_it_again(
    operator: Operator, api: APIClient, tmp_path: Path, spent: bool
) -> None:
    half = {"name": "Half", "percent": "50", "periods": 1, "covers": "all"}
    assert put(api, "coupons/half", half).status_code in (200, 201)
    held = post(api, "subscribers/s-1/subscriptions", {"plan": "light"}).json()["id"]
    redeemed = post(api, f"subscribers/s-1/subscriptions/{held}/coupons", {"coupon": "half"})
    assert redeemed.status_code in (200, 201)
    agree(api, "phone_bill")
    pack(api)
    told_to_carrier(operator)
    move(api, JULY + 3 * DAY)
    # Half of 14.90, of which the booster paid its 5.00: nothing goes back.
    assert (bills(api), wallet(api)) == ([("open", "7.45", "2.45")], "0.00")
    if spent:
        fill(api, "2.45")
        number = order(api, kind="invoice", invoice="CT-2026-00000001")["number"]
        assert pay(api, number).json()["state"] == "paid"

    answer(tmp_path, "1,1,rejected,no money")

    assert bills(api) == [("open", "7.45", "5.00" if spent else "7.45")]
    assert (carrier(operator, api), PhoneBillAnswer.objects.get().owed) == ("0.00", 5)
    # Paid again, it is paid.
    fill(api, "7.45", "again")
    due = order(api, kind="invoice", invoice="CT-2026-00000001")["number"]
    assert pay(api, due).json()["state"] == "paid"
    assert bills(api) == [("paid", "7.45", "0.00")]
    assert_books_agree()


def test_what_had_gone_into_the_wallet_is_taken_from_there_or_lost(
    operator: Operator, api: APIClient, tmp_path: Path
) -> None:
    agree(api, "phone_bill")
    number = str(order(api, kind="plan", plan="pre")["number"])
    assert pay(api, number, "phone_bill").json()["state"] == "paid"
    [held] = get(api, "subscribers/s-1/subscriptions")["items"]
    path = f"/api/v1/subscribers/s-1/subscriptions/{held['id']}"
    told_to_carrier(operator)
    move(api, START + DAY)
    gone = api.patch(path, {"when": "now", "cancel": True}, format="json")
    assert gone.status_code == 200
    move(api, JULY + 3 * DAY)
    in_wallet = wallet(api)

    answer(tmp_path, "1,1,rejected,no money")

    said_of = PhoneBillAnswer.objects.get()
    assert said_of.amount == said_of.owed + said_of.from_wallet + said_of.lost
    assert (str(said_of.from_wallet), wallet(api)) == (in_wallet, "0.00")
    assert carrier(operator, api) == "0.00"
    assert_books_agree()


def test_what_the_phone_bill_paid_goes_back_into_the_wallet(
    operator: Operator, api: APIClient, tmp_path: Path
) -> None:
    """The carrier has charged it already, and takes nothing back by itself: staff are told so."""
    agree(api, "phone_bill")
    number = pack(api)
    assert told_to_carrier(operator) == [("order", number, "5.00")]

    asked = post(api, f"orders/{number}/refunds", {"reason": "asked"})
    assert asked.status_code == 201, asked.content
    refund = asked.json()
    refunds.sweep(operator, at=START + HOUR)

    shown = get(api, f"refunds/{refund['number']}")
    assert (shown["state"], shown["to"], shown["way"]) == ("failed", "source", "phone_bill")
    assert "wallet" in shown["problem"]
    assert balance(api)["available"] == "0.000"
    moved = post(api, f"refunds/{refund['number']}/to-wallet").json()
    assert (moved["state"], moved["to"], wallet(api)) == ("succeeded", "wallet", "5.00")
    assert get(api, f"orders/{number}")["state"] == "refunded"
    # The carrier owes it all the same, and pays.
    answer(tmp_path, "1,1,collected,")
    assert (carrier(operator, api), wallet(api)) == ("0.00", "5.00")
    assert_books_agree()


def test_an_invoice_is_left_to_the_charge_file_once_nothing_else_has_worked(
    operator: Operator, api: APIClient
) -> None:
    assert post(api, "subscribers/s-1/subscriptions", {"plan": "light"}).status_code == 201
    number = agree(api)
    move(api, JULY + 2 * DAY)
    # While it is collected, no file asks for it.
    operator.refresh_from_db()
    assert charge_files.make(operator, at=clock.now(operator)) is None
    agree(api, "phone_bill")
    move(api, JULY + 2 * DAY + 9 * HOUR)

    [case] = cases(api)
    assert (case["state"], case["history"][-1]["reason"]) == (
        "stopped",
        "left to the next charge file",
    )
    assert told_to_carrier(operator) == [("charge", "CT-2026-00000001", "9.90")]
    assert number
    assert told("invoice.payment_failed") == []
    assert orders(api) == []
    assert_books_agree()


def test_an_answer_that_makes_no_sense_is_named_and_holds_up_no_other(
    operator: Operator, api: APIClient, tmp_path: Path, capsys: Any
) -> None:
    agree(api, "phone_bill")
    pack(api)
    pack(api)
    told_to_carrier(operator)

    with pytest.raises(CommandError, match="5 lines make no sense"):
        answer(
            tmp_path,
            "1,1,collected",
            "x,1,collected,",
            "1,1,maybe,",
            "1,9,rejected,no",
            "1,1,collected,",
            "1,1,rejected,late",
            "1,2,rejected,no money",
        )

    shown = capsys.readouterr()
    assert "1 collected, 1 rejected, 0 of invoices" in shown.out
    assert "line 6: the carrier has collected it before" in shown.err
    assert carrier(operator, api) == "0.00"
    assert_books_agree()
