"""Periods renew by themselves where the subscriber has agreed to it, and never otherwise."""

from __future__ import annotations

import datetime as dt
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import Error, connection, transaction
from rest_framework.test import APIClient

from billing.collecting import schedule
from billing.collecting.schedule import Terms
from billing.models import Consent
from subscriptions.models import Operator, OutboxEvent
from tests.factories import (
    SHANGHAI,
    client_for,
    local,
    make_key,
    make_operator,
    make_plan,
    make_subscriber,
    yuan,
)
from tests.test_before_period import bills, move, orders, pays, sell
from tests.test_orders import transfer, wallet
from tests.usage import DAY, assert_books_agree, assert_problem, balance, get, post, put

pytestmark = pytest.mark.django_db

START, JULY, AUGUST = local(2026, 6, 1), local(2026, 7, 1), local(2026, 8, 1)
HOUR = dt.timedelta(hours=1)
BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture
def operator() -> Operator:
    operator = make_operator("ct", at=START)
    make_plan(operator, "pre", price=yuan("30.00"), collect="before_period")
    make_plan(operator, "big", price=yuan("60.00"), collect="before_period")
    make_plan(operator)
    make_subscriber(operator)
    return operator


@pytest.fixture
def api(operator: Operator) -> APIClient:
    return client_for(make_key(operator))


def fill(api: APIClient, amount: str, reference: str = "fill") -> None:
    assert transfer(api, amount, reference, wallet="s-1")["state"] == "matched"


def agree(api: APIClient, kind: str = "auto_renew", **said: Any) -> str:
    words = {"text": "到期自动续费", "text_version": "3", "language": "zh-CN", "channel": "app"}
    answer = post(api, "subscribers/s-1/consents", {"kind": kind, **words, **said})
    assert answer.status_code == 201, answer.content
    return str(answer.json()["number"])


def withdraw(api: APIClient, number: str) -> Any:
    return post(api, f"subscribers/s-1/consents/{number}/withdraw", {"channel": "hotline"})


def cases(api: APIClient) -> list[Any]:
    found: list[Any] = get(api, "subscribers/s-1/collections")["items"]
    return found


def history(case: Any) -> list[tuple[str, str, str]]:
    return [(one["kind"], one["way"], one["reason"]) for one in case["history"]]


def told(kind: str) -> list[OutboxEvent]:
    return list(OutboxEvent.objects.filter(kind=kind).order_by("occurred_at", "key"))


def renewing(api: APIClient, amount: str = "100.00", **said: Any) -> str:
    """Somebody who has paid the first period by hand, and agrees to the rest."""
    fill(api, amount)
    held = sell(api)
    move(api, START + DAY)
    pays(api)
    agree(api, **said)
    return held


# Consents ----------------------------------------------------------------------------------------


def test_a_consent_is_kept_in_its_words_and_its_withdrawal_answers_a_receipt(
    operator: Operator, api: APIClient
) -> None:
    number = agree(api)
    assert agree(api) == number
    move(api, START + DAY)
    newer = agree(api, text_version="4")

    receipt = withdraw(api, newer).json()
    again = withdraw(api, newer).json()

    assert (receipt["withdrawn_at"], receipt["withdrawn_by"]) == (
        "2026-06-01T16:00:00Z",
        "hotline",
    )
    assert again == receipt
    first, second = get(api, "subscribers/s-1/consents")["items"]
    assert (first["number"], first["text"], first["withdrawn_by"]) == (
        number,
        "到期自动续费",
        "app",
    )
    assert second == receipt
    for table in ("UPDATE billing_consent SET text = 'x'", "DELETE FROM billing_consent"):
        with pytest.raises(Error), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(table)


@pytest.mark.parametrize(
    "said",
    [
        {"kind": "anything"},
        {"text": ""},
        {"subscription": "x"},
        {"monthly_cap": "5.00"},
        {"kind": "phone_bill", "monthly_cap": "-5.00"},
        {"kind": "phone_bill", "monthly_cap": "5.001"},
        {"channel": "a b"},
    ],
)
def test_what_is_no_consent_is_refused(api: APIClient, said: dict[str, Any]) -> None:
    words = {"text": "t", "text_version": "3", "language": "en", "channel": "app"}
    answer = post(api, "subscribers/s-1/consents", {"kind": "auto_renew", **words, **said})

    assert answer.status_code == 422
    assert not Consent.objects.exists()
    words |= {"kind": "auto_renew", "subscription": "77"}
    assert_problem(post(api, "subscribers/s-1/consents", words), 404, "not_found")
    assert_problem(withdraw(api, "CT-C-0000000001"), 404, "not_found")


# Renewing ----------------------------------------------------------------------------------------


def test_a_renewal_is_told_five_days_ahead_taken_from_the_wallet_and_opens_at_its_first_second(
    operator: Operator, api: APIClient
) -> None:
    renewing(api)
    assert wallet(api) == "70.00"

    move(api, JULY - 5 * DAY)
    [case] = cases(api)
    [notice] = told("subscription.renewal_due")
    assert (case["state"], case["next_at"]) == ("running", "2026-06-30T00:00:00Z")
    assert (notice.payload["amount"], notice.payload["collected"]) == ("30.00", True)

    # Not at midnight: in the hours of the policy.
    move(api, JULY - DAY)
    assert wallet(api) == "70.00"
    move(api, JULY - DAY + 8 * HOUR)
    assert wallet(api) == "40.00"
    [case] = cases(api)
    assert (case["state"], history(case)) == (
        "collected",
        [("tried", "wallet", ""), ("collected", "wallet", "")],
    )
    [renewed] = told("subscription.renewed")
    assert renewed.payload["order"] == case["order"]
    move(api, JULY)
    assert balance(api)["available"] == "10000000.000"

    move(api, AUGUST - 5 * DAY)
    move(api, AUGUST - DAY + 8 * HOUR)
    move(api, AUGUST + 3 * DAY)
    assert wallet(api) == "10.00"
    assert bills(api) == [("paid", "30.00", "0.00")] * 2
    assert [one.payload["collected"] for one in told("subscription.renewal_due")] == [True] * 2
    assert_books_agree()


def test_without_a_consent_a_period_waits_to_be_paid_by_hand(
    operator: Operator, api: APIClient
) -> None:
    fill(api, "100.00")
    held = sell(api)
    move(api, START + DAY)
    pays(api)
    # Neither for another subscription, nor for something else.
    other = post(api, "subscribers/s-1/subscriptions", {"plan": "light"})
    assert other.status_code == 409
    agree(api, "saved_method")
    withdraw(api, agree(api, subscription=held))

    move(api, JULY + DAY)

    assert (cases(api), wallet(api)) == ([], "70.00")
    assert [one["state"] for one in orders(api)] == ["paid", "created"]
    assert told("subscription.renewal_due")[0].payload["collected"] is False
    assert_books_agree()


def test_too_little_money_is_tried_again_by_the_schedule_and_its_reasons_are_kept(
    operator: Operator, api: APIClient
) -> None:
    renewing(api, "40.00")
    nothing = ("failed", "wallet", "insufficient_funds")

    move(api, JULY - DAY + 8 * HOUR)
    [case] = cases(api)
    assert history(case) == [("tried", "wallet", ""), nothing]
    assert case["next_at"] == "2026-07-01T00:00:00Z"
    [failed] = told("order.failed")
    assert (failed.payload["reasons"], failed.payload["final"]) == (
        {"wallet": "insufficient_funds"},
        False,
    )
    move(api, JULY + 8 * HOUR)
    fill(api, "50.00", "more")
    assert wallet(api) == "60.00"
    # The next is two days later, once, however long nobody looked.
    move(api, JULY + DAY)
    assert wallet(api) == "60.00"
    move(api, JULY + 3 * DAY)

    [case] = cases(api)
    assert (case["state"], wallet(api)) == ("collected", "30.00")
    assert [one["at"][:10] for one in case["history"] if one["kind"] == "tried"] == [
        *("2026-06-30", "2026-07-01", "2026-07-03"),
    ]
    assert balance(api)["available"] == "10000000.000"
    assert_books_agree()


def test_what_was_never_paid_is_given_up_and_not_owed(operator: Operator, api: APIClient) -> None:
    renewing(api, "30.00")

    for day in range(-1, 8):
        move(api, JULY + day * DAY + 9 * HOUR)

    [case] = cases(api)
    assert case["state"] == "gave_up"
    assert [kind for kind, _, _ in history(case)] == ["tried", "failed"] * 4 + ["gave_up"]
    assert [one.payload["final"] for one in told("order.failed")] == [False] * 3 + [True]
    # By hand it can be paid yet, and it is no debt.
    fill(api, "30.00", "late")
    pays(api)
    move(api, AUGUST + 3 * DAY)
    assert bills(api) == [("paid", "30.00", "0.00")] * 2
    assert_books_agree()


def test_a_consent_withdrawn_stops_what_runs(operator: Operator, api: APIClient) -> None:
    fill(api, "100.00")
    sell(api)
    move(api, START + DAY)
    pays(api)
    number = agree(api)
    move(api, JULY - 4 * DAY)

    assert withdraw(api, number).status_code == 200
    move(api, JULY)

    [case] = cases(api)
    assert (case["state"], wallet(api)) == ("stopped", "70.00")
    assert [one["state"] for one in orders(api)] == ["paid", "created"]
    # Who agrees again is renewed: the period that is asked for, though it has begun.
    agree(api)
    move(api, JULY + 9 * HOUR)
    assert [one["state"] for one in cases(api)] == ["stopped"]
    assert_books_agree()


@pytest.mark.parametrize("change", ["big", "cancel", "hand"])
def test_a_case_ends_with_what_it_is_about(operator: Operator, api: APIClient, change: str) -> None:
    held = renewing(api)
    move(api, JULY - 4 * DAY)
    path = f"/api/v1/subscribers/s-1/subscriptions/{held}"
    if change == "hand":
        pays(api)
    else:
        said = {"plan": "big"} if change == "big" else {"cancel_at_period_end": True}
        assert api.patch(path, said, format="json").status_code == 200

    move(api, JULY - 3 * DAY)
    move(api, JULY - DAY + 8 * HOUR)

    states = [one["state"] for one in cases(api)]
    assert (states, wallet(api)) == {
        "big": (["stopped", "collected"], "10.00"),
        "cancel": (["stopped"], "70.00"),
        "hand": (["collected"], "40.00"),
    }[change]
    assert_books_agree()


def test_an_invoice_is_paid_from_the_wallet_at_its_close(
    operator: Operator, api: APIClient
) -> None:
    fill(api, "12.00")
    assert post(api, "subscribers/s-1/subscriptions", {"plan": "light"}).status_code == 201
    agree(api)

    move(api, JULY + 2 * DAY + 9 * HOUR)
    assert (bills(api), wallet(api)) == ([("paid", "9.90", "0.00")], "2.10")
    # The next is too much: the tries are over long before it is due, then dunning presses.
    for day in range(2, 9):
        move(api, AUGUST + day * DAY + 9 * HOUR)
    paid, unpaid = cases(api)
    assert (paid["kind"], paid["state"], unpaid["state"]) == ("invoice", "collected", "running")
    assert unpaid["next_at"] == get(api, "subscribers/s-1/invoices")["items"][0]["due_at"]
    move(api, AUGUST + 20 * DAY)
    assert [one["state"] for one in cases(api)] == ["collected", "gave_up"]
    assert told("invoice.payment_failed")[-1].payload["final"] is True
    assert_books_agree()


# The policy --------------------------------------------------------------------------------------

POLICY: dict[str, Any] = {
    "days_ahead": 10,
    "notice_days": 7,
    "lead_days": 3,
    "ways": ["wallet"],
    "retry_days": [0, 4],
    "from_hour": 10,
    "until_hour": 12,
    "grace_days": 2,
    "phone_bill_cap": {"amount": "50.00", "currency": "CNY"},
}


def test_a_policy_holds_for_what_begins_after_it(operator: Operator, api: APIClient) -> None:
    assert get(api, "collection-policy")["retry_days"] == [0, 1, 3, 5]
    assert put(api, "collection-policy", POLICY).json() == POLICY
    renewing(api, "30.00")

    move(api, JULY - 10 * DAY)
    [case] = cases(api)
    assert (case["next_at"], case["history"]) == ("2026-06-23T16:00:00Z", [])
    assert told("subscription.renewal_due") == []
    move(api, JULY - 9 * DAY)
    assert put(api, "collection-policy", {**POLICY, "retry_days": [0, 1, 2]}).status_code == 200
    move(api, JULY - 7 * DAY)
    assert len(told("subscription.renewal_due")) == 1
    for day in range(-7, 4):
        move(api, JULY + day * DAY + 11 * HOUR)

    [case] = cases(api)
    tried = [one["at"] for one in case["history"] if one["kind"] == "tried"]
    assert tried == ["2026-06-28T03:00:00Z", "2026-07-02T03:00:00Z"]
    assert (case["state"], case["history"][-1]["at"]) == ("gave_up", "2026-07-03T03:00:00Z")
    assert_books_agree()


@pytest.mark.parametrize(
    "said",
    [
        {"notice_days": 11},
        {"lead_days": 8},
        {"days_ahead": 31},
        {"ways": []},
        {"ways": ["wallet", "wallet"]},
        {"ways": ["cash"]},
        {"retry_days": [1, 2]},
        {"retry_days": [0, 0]},
        {"retry_days": [0, 61]},
        {"from_hour": 12},
        {"until_hour": 25},
        {"grace_days": 61},
        {"phone_bill_cap": "-1.00"},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(api: APIClient, said: dict[str, Any]) -> None:
    assert put(api, "collection-policy", {**POLICY, **said}).status_code == 422


# The schedule ------------------------------------------------------------------------------------


def berlin(*args: int) -> dt.datetime:
    return dt.datetime(*args, tzinfo=BERLIN).astimezone(dt.UTC)  # type: ignore[misc,arg-type]


@pytest.mark.parametrize(
    ("terms", "first", "zone", "expected"),
    [
        (
            Terms(retry_days=(0, 1, 3)),
            local(2026, 1, 30, 9, 30),
            SHANGHAI,
            [local(2026, 1, 30, 9, 30), local(2026, 1, 31, 9, 30), local(2026, 2, 2, 9, 30)],
        ),
        # Before the hours, and after them.
        (
            Terms(retry_days=(0, 1)),
            local(2026, 2, 28),
            SHANGHAI,
            [local(2026, 2, 28, 8), local(2026, 3, 1, 8)],
        ),
        (
            Terms(retry_days=(0,)),
            local(2026, 2, 28, 22),
            SHANGHAI,
            [local(2026, 3, 1, 8)],
        ),
        # The day on which the clock springs forward, and an hour that it does not have.
        (
            Terms(retry_days=(0, 1)),
            berlin(2026, 3, 28, 9),
            BERLIN,
            [berlin(2026, 3, 28, 9), berlin(2026, 3, 29, 9)],
        ),
        (
            Terms(retry_days=(0, 1), from_hour=2, until_hour=4),
            berlin(2026, 3, 28, 2, 30),
            BERLIN,
            [berlin(2026, 3, 28, 2, 30), berlin(2026, 3, 29, 3, 30)],
        ),
    ],
)
def test_tries_go_by_days_and_hours_of_the_operators_zone(
    terms: Terms, first: dt.datetime, zone: ZoneInfo, expected: list[dt.datetime]
) -> None:
    assert schedule.tries(terms, first, zone) == expected
    assert schedule.next_try(terms, first, zone, after=expected[0]) == (
        expected[1] if expected[1:] else None
    )
