"""Corrections by policy: above a limit another person approves; the operator's fault is repaid."""

from __future__ import annotations

import io
from decimal import Decimal
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from hypothesis import given
from hypothesis import strategies as st
from rest_framework.test import APIClient

from billing import corrections, ledger, rating
from billing.corrections import Rules
from billing.documents import letterheads
from billing.fapiao import requests
from billing.models import Approval, FapiaoRequest, Invoice, Posting
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
from tests.test_closing import invoices, lines, move, use
from tests.usage import DAY, Gateway, assert_books_agree, assert_problem, get, post, put

MILLION = 1_000_000
START, CLOSE, NEXT, LAST = (
    local(2026, month, day) for month, day in ((6, 1), (7, 3), (8, 3), (9, 3))
)
NUMBER = "CT-2026-00000001"
pytestmark = pytest.mark.django_db


@pytest.fixture
def operator() -> Operator:
    return make_operator("ct", at=START)


@pytest.fixture
def api(operator: Operator) -> APIClient:
    """With an invoice of 9.90 and 12.00 of overage, that was used as `u`."""
    api = client_for(make_key(operator, name="clerk"))
    plan = make_plan(operator, allowance=0, on_exhaustion="meter", price_per_million="1.20")
    subscribe(make_subscriber(operator), plan)
    use(Gateway(operator), "u", START + DAY, 10 * MILLION)
    move(api, CLOSE)
    return api


@pytest.fixture
def boss(operator: Operator) -> APIClient:
    return client_for(make_key(operator, name="boss"))


def rules(api: APIClient, limit: str | None = None, factor: str = "1") -> None:
    body = {"approval_limit": limit, "over_charge_factor": factor}
    answer = put(api, "correction-policy", body)
    assert answer.status_code == 200, answer.content


def void(api: APIClient, id: str = "u") -> None:
    answer = post(api, f"subscribers/s-1/usage-records/{id}/void", {"reason": "never was"})
    assert answer.status_code == 200, answer.content


def credit(api: APIClient, **said: Any) -> Any:
    return post(api, f"invoices/{NUMBER}/credit", {"reason": "a test", **said})


def decide(api: APIClient, what: str, id: int, reason: str = "looked at it") -> Any:
    return post(api, f"approvals/{id}/{what}", {"reason": reason})


def pending(api: APIClient) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = get(api, "approvals?state=pending")["items"]
    return items


def balances(operator: Operator) -> dict[str, str]:
    found = ledger.trial_balance(operator.pk, at=local(2030, 1, 1))
    return {line.account: str(line.balance) for line in found}


# Credit notes ------------------------------------------------------------------------------------


def test_a_credit_note_above_the_limit_waits_for_another_person(
    operator: Operator, api: APIClient, boss: APIClient
) -> None:
    rules(api, "5.00")
    assert credit(api, amount="5.00").status_code == 201
    posted = Posting.objects.count()

    answer = credit(api, amount="5.01")

    assert answer.status_code == 202
    asked = answer.json()
    assert (asked["state"], asked["amount"]["amount"], asked["asked_by"], asked["invoice"]) == (
        "pending",
        "-5.01",
        "clerk",
        NUMBER,
    )
    assert pending(boss) == [asked]
    assert Posting.objects.count() == posted
    assert_problem(decide(api, "approve", asked["id"]), 409, "four_eyes")
    assert_books_agree()

    done = decide(boss, "approve", asked["id"]).json()

    assert (done["state"], done["decided_by"], done["decision"]) == (
        "approved",
        "boss",
        "looked at it",
    )
    note = get(api, f"invoices/{done['credit_note']}")
    assert (note["gross"]["amount"], note["credits"]) == ("-5.01", NUMBER)
    assert decide(boss, "approve", asked["id"]).json() == done
    assert_problem(decide(boss, "reject", asked["id"]), 409, "decided")
    assert (pending(boss), Invoice.objects.filter(kind="credit_note").count()) == ([], 2)
    assert_books_agree()


def test_what_is_rejected_is_never_posted(api: APIClient, boss: APIClient) -> None:
    rules(api, "0")
    asked = credit(api).json()
    posted = Posting.objects.count()

    assert decide(boss, "reject", asked["id"]).json()["state"] == "rejected"

    assert_problem(decide(boss, "approve", asked["id"]), 409, "decided")
    assert (Posting.objects.count(), Invoice.objects.count()) == (posted, 1)
    assert_books_agree()


def test_a_whole_credit_note_of_which_less_is_left_by_now_is_not_approved(
    api: APIClient, boss: APIClient
) -> None:
    rules(api, "1.00")
    asked = credit(api).json()
    assert credit(api, amount="1.00").status_code == 201

    assert_problem(decide(boss, "approve", asked["id"]), 409, "changed")

    assert pending(boss)[0]["id"] == asked["id"]
    assert Invoice.objects.filter(kind="credit_note").count() == 1
    assert_books_agree()


def test_what_cannot_be_credited_is_not_asked_for(api: APIClient) -> None:
    rules(api, "1.00")

    assert_problem(credit(api, amount="21.91"), 422, "invalid")
    assert not Approval.objects.exists()


def test_another_operators_approvals_are_not_found(api: APIClient) -> None:
    rules(api, "1.00")
    asked = credit(api).json()
    other = client_for(make_key(make_operator("ct2", at=START), name="boss"))

    assert get(other, "approvals")["items"] == []
    assert_problem(other.get(f"/api/v1/approvals/{asked['id']}"), 404, "not_found")
    assert_problem(decide(other, "approve", asked["id"]), 404, "not_found")


# Adjustments -------------------------------------------------------------------------------------


def test_an_adjustment_above_the_limit_is_on_the_bill_after_its_approval(
    operator: Operator, api: APIClient, boss: APIClient
) -> None:
    rules(api, "11.99")
    void(api)
    move(api, NEXT)
    assert lines(invoices(api)[1]) == [("fee", None, "9.90")]
    [asked] = pending(boss)
    assert (asked["kind"], asked["amount"]["amount"], asked["asked_by"]) == (
        "adjustment",
        "-12.00",
        "month close",
    )
    assert_books_agree()

    assert decide(boss, "approve", asked["id"]).status_code == 200
    assert_books_agree()
    move(api, LAST)

    assert lines(invoices(api)[2]) == [
        ("fee", None, "9.90"),
        ("adjustment", "-10000000.000", "-12.00"),
    ]
    assert_books_agree()


def test_an_adjustment_that_is_rejected_is_on_no_bill_until_it_changes(
    operator: Operator, api: APIClient, boss: APIClient
) -> None:
    rules(api, "5.00")
    use(Gateway(operator), "late", START + 2 * DAY, 5 * MILLION)
    move(api, NEXT)
    [asked] = pending(boss)
    assert decide(boss, "reject", asked["id"]).status_code == 200
    move(api, LAST)
    assert (pending(boss), len(invoices(api)[2]["lines"])) == ([], 1)
    assert_books_agree()

    void(api)
    move(api, local(2026, 10, 3))

    [again] = pending(boss)
    assert again["amount"]["amount"] == "-6.00"
    assert_books_agree()


def test_an_adjustment_that_changes_while_it_waits_is_asked_for_anew(
    operator: Operator, api: APIClient, boss: APIClient
) -> None:
    rules(api, "5.00")
    gateway = Gateway(operator)
    use(gateway, "late", START + 2 * DAY, 5 * MILLION)
    move(api, NEXT)
    use(gateway, "later", NEXT - 34 * DAY, MILLION)
    move(api, LAST)

    states = [(one["state"], one["amount"]["amount"]) for one in get(boss, "approvals")["items"]]
    assert states == [("superseded", "6.00"), ("pending", "7.20")]
    assert_problem(decide(boss, "approve", Approval.objects.earliest("pk").pk), 409, "decided")
    assert_books_agree()


def test_a_last_bill_waits_for_its_approval_too(
    operator: Operator, api: APIClient, boss: APIClient
) -> None:
    rules(api, "1.00", "2")
    [subscription] = {one["subscription"] for one in invoices(api)}
    path = f"/api/v1/subscribers/s-1/subscriptions/{subscription}"
    assert api.patch(path, {"cancel_at_period_end": True}, format="json").status_code == 200
    move(api, NEXT)
    void(api)
    move(api, LAST)
    [asked] = pending(boss)
    assert asked["amount"]["amount"] == "-24.00"
    assert len(invoices(api)) == 2
    assert_books_agree()

    assert decide(boss, "approve", asked["id"]).status_code == 200
    move(api, local(2026, 10, 3))

    note = invoices(api)[2]
    assert (note["kind"], note["credits"], lines(note)) == (
        "credit_note",
        NUMBER,
        [("adjustment", "-10000000.000", "-12.00"), ("compensation", None, "-12.00")],
    )
    assert_books_agree()


def test_what_a_void_invoice_charged_is_not_given_back_unseen(
    operator: Operator, api: APIClient, boss: APIClient
) -> None:
    assert post(api, f"invoices/{NUMBER}/void", {"reason": "x"}).status_code == 200
    void(api)
    move(api, NEXT)

    [asked] = pending(boss)
    assert "its invoice is void" in asked["reason"]
    assert lines(invoices(api)[1]) == [("fee", None, "9.90")]
    assert decide(boss, "reject", asked["id"]).status_code == 200
    move(api, LAST)
    assert (pending(boss), len(invoices(api)[2]["lines"])) == ([], 1)
    assert_books_agree()


# Repaid double -----------------------------------------------------------------------------------


def test_usage_that_was_billed_and_never_was_is_repaid_double(
    operator: Operator, api: APIClient
) -> None:
    rules(api, factor="2")
    void(api)
    move(api, NEXT)

    second = invoices(api)[1]
    assert lines(second) == [
        ("fee", None, "9.90"),
        ("adjustment", "-10000000.000", "-12.00"),
        ("compensation", None, "-12.00"),
    ]
    assert (second["lines"][2]["tax"]["amount"], second["gross"]["amount"]) == ("0.00", "-14.10")
    assert balances(operator)["compensation"] == "12.00"
    assert balances(operator)["vat:0.06"] == "-1.12"
    out = io.StringIO()
    call_command("explain", second["number"], stdout=out)
    assert "12.00 was charged by the operator's fault and is repaid 2 times" in out.getvalue()
    assert_books_agree()


def test_late_usage_is_charged_once(operator: Operator, api: APIClient) -> None:
    rules(api, factor="2")
    use(Gateway(operator), "late", START + 2 * DAY, MILLION)
    move(api, NEXT)

    assert lines(invoices(api)[1])[1:] == [("adjustment", "1000000.000", "1.20")]
    assert_books_agree()


def test_a_credit_note_is_repaid_double_only_where_it_is_said_to_be_an_over_charge(
    operator: Operator, api: APIClient
) -> None:
    rules(api, factor="1.5")

    goodwill = credit(api, amount="1.00").json()
    fault = credit(api, amount="3.01", over_charge=True).json()

    assert goodwill["gross"]["amount"] == "-1.00"
    assert fault["gross"]["amount"] == "-4.52"
    assert lines(fault)[-1] == ("compensation", None, "-1.51")
    assert balances(operator)["compensation"] == "1.51"
    assert get(api, f"invoices/{NUMBER}")["amount_due"]["amount"] == "16.38"
    assert_books_agree()


def test_a_whole_credit_of_a_bill_takes_its_compensation_back_too(
    operator: Operator, api: APIClient
) -> None:
    rules(api, factor="2")
    use(Gateway(operator), "more", NEXT - 20 * DAY, 30 * MILLION)
    void(api)
    move(api, NEXT)
    second = invoices(api)[1]
    assert second["gross"]["amount"] == "21.90"

    answer = post(api, f"invoices/{second['number']}/credit", {"reason": "x"})

    assert answer.json()["gross"]["amount"] == "-21.90"
    assert balances(operator)["compensation"] == "0.00"
    assert_books_agree()


def test_an_e_fapiao_is_without_compensation(operator: Operator, api: APIClient) -> None:
    tax_id = "91310000MA1FL0AB12"
    letterheads.put(operator, letterheads.Draft(name="上海电信", tax_id=tax_id))
    requests.set_item(operator, Decimal("0.06"), tax_class="3" * 19, name="信息技术服务")
    rules(api, factor="2")
    credit(api, amount="3.00", over_charge=True)

    requests.request(operator, NUMBER, at=CLOSE)

    assert FapiaoRequest.objects.get().gross == Decimal("18.90")
    assert_books_agree()


@given(st.integers(0, 10**7), st.integers(100, 1000))
def test_what_is_repaid_in_all_is_the_over_charge_so_often(fen: int, factor: int) -> None:
    over, times = fen * rating.FEN, Decimal(factor) / 100
    extra = Rules(over_charge_factor=times).compensation(over)

    assert abs(over + extra - over * times) <= Decimal("0.005")
    assert extra == rating.to_fen(extra) >= 0


# The rules ---------------------------------------------------------------------------------------


def test_rules_hold_from_the_moment_they_are_set(operator: Operator, api: APIClient) -> None:
    assert get(api, "correction-policy") == {"approval_limit": None, "over_charge_factor": "1.00"}
    rules(api, "500", "2")
    assert get(api, "correction-policy") == {
        "approval_limit": {"amount": "500.00", "currency": "CNY"},
        "over_charge_factor": "2.00",
    }
    before = corrections.rules_of(operator.pk, at=CLOSE - DAY)
    assert before == Rules()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"approval_limit": "-1", "over_charge_factor": "2"},
        {"approval_limit": None, "over_charge_factor": "0.5"},
        {"approval_limit": None, "over_charge_factor": 2},
        {"approval_limit": None, "over_charge_factor": "11"},
        {"approval_limit": {"amount": "5", "currency": "USD"}, "over_charge_factor": "2"},
    ],
)
def test_what_are_no_rules_is_422(api: APIClient, body: dict[str, Any]) -> None:
    assert_problem(put(api, "correction-policy", body), 422, "invalid")
    assert_problem(api.get("/api/v1/approvals?state=x"), 422, "invalid")


def test_the_command_lists_decides_and_sets(operator: Operator, api: APIClient) -> None:
    def run(*words: str) -> str:
        out = io.StringIO()
        call_command("corrections", *words, stdout=out)
        return out.getvalue()

    said = run("set", "--by", "li", "approval_limit=1.00", "over_charge_factor=2")
    assert "approval_limit 1.00" in said
    assert "over_charge_factor 2" in said
    first, second = credit(api, amount="2").json()["id"], credit(api, amount="3").json()["id"]
    assert f"{first} pending: credit_note of {NUMBER} for s-1, -2.00 CNY, asked by clerk" in run()

    with pytest.raises(CommandError, match="four_eyes"):
        run("approve", str(first), "--by", "clerk", "--reason", "x")
    assert "approved by li" in run("approve", str(first), "--by", "li", "--reason", "fine")
    assert "rejected by li" in run("reject", str(second), "--by", "li", "--reason", "no")
    assert str(first) in run("list", "--all")
    for wrong in ("x=1", "approval_limit=many", "over_charge_factor=0.999"):
        with pytest.raises(CommandError):
            run("set", "--by", "li", wrong)
    assert_books_agree()
