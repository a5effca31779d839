"""Refunds: what the policy gives, what goes with it, and what becomes of it at the provider."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.db import Error, transaction
from rest_framework.test import APIClient

from billing import ledger, refundable, refunds
from billing.documents import letterheads
from billing.fapiao import requests as fapiao
from billing.fapiao.providers import FileProvider
from billing.models import FapiaoRequest, Order, Refund
from billing.orders import paying
from billing.ways.provider import Fate
from subscriptions import catalog, clock
from subscriptions.models import Bucket, Operator, OutboxEvent
from tests.factories import (
    client_for,
    local,
    make_key,
    make_operator,
    make_plan,
    make_subscriber,
    yuan,
)
from tests.slow_provider import WAY, SlowProvider, slow_provider
from tests.test_fapiao import issue
from tests.test_orders import filled, order, states, transfer, wallet
from tests.usage import (
    DAY,
    MINUTE,
    Gateway,
    assert_books_agree,
    assert_problem,
    balance,
    get,
    post,
    put,
    record,
)

pytestmark = pytest.mark.django_db

START, CLOSE = local(2026, 6, 10), local(2026, 7, 3)
TEN = Decimal("10.00")


@pytest.fixture
def operator() -> Operator:
    """One who holds a plan of 9.90 that gives back what is unused, and a booster on sale."""
    operator = make_operator("ct", at=START)
    make_plan(operator, refund="unused")
    make_plan(operator, "kept")
    catalog.publish_booster(
        operator,
        "pack",
        name="Pack",
        price=yuan("10.00"),
        units=1_000_000,
        valid_days=60,
        at=clock.now(operator),
    )
    make_subscriber(operator)
    return operator


@pytest.fixture
def slow() -> Iterator[SlowProvider]:
    with slow_provider() as provider:
        yield provider


def move(api: APIClient, at: dt.datetime) -> None:
    assert post(api, "test-clock", {"now": at.isoformat()}).status_code == 200


def bought(operator: Operator, api: APIClient, way: str = WAY, **said: Any) -> str:
    """The number of an order that was paid."""
    number = str(order(api, **said)["number"])
    at = clock.now(Operator.objects.get(pk=operator.pk))
    assert paying.pay(operator, number, way, at=at).state in ("paid", "waiting")
    return number


def booster(operator: Operator, api: APIClient, way: str = WAY) -> str:
    """A booster of 1,000 units for 10.00, of one with a plan whose allowance is used up."""
    return bought(operator, api, way, kind="booster", booster="pack")


def use(operator: Operator, units: int, name: str = "u") -> None:
    """Usage of so many units, of weight 1."""
    at = clock.now(Operator.objects.get(pk=operator.pk))
    said = record(name, occurred_at=at, input_tokens=units, output_tokens=0)
    answer = Gateway(operator, name=f"gw-{name}").charge(said)
    assert answer["accepted"] == 1


def refund(api: APIClient, number: str, *, key: str | None = None, **said: Any) -> Any:
    headers = {} if key is None else {"Idempotency-Key": key}
    return api.post(
        f"/api/v1/orders/{number}/refunds",
        {"reason": "asked", **said},
        format="json",
        headers=headers,
    )


def asked(api: APIClient, number: str, **said: Any) -> Any:
    answer = refund(api, number, **said)
    assert answer.status_code == 201, answer.content
    return answer.json()


def preview(api: APIClient, number: str) -> Any:
    answer = post(api, f"orders/{number}/refunds", {"preview": True})
    assert answer.status_code == 200, answer.content
    return answer.json()


def remaining(kind: str = "booster") -> tuple[int, int, int]:
    """(left, used, reserved) units of the bucket of a kind."""
    bucket = Bucket.objects.filter(kind=kind).order_by("id").last()
    assert bucket is not None
    assert bucket.granted is not None
    parts = (bucket.granted - bucket.used - bucket.reserved, bucket.used, bucket.reserved)
    left, used, reserved = (part // 1000 for part in parts)
    return left, used, reserved


def accounts(operator: Operator) -> dict[str, str]:
    found = ledger.trial_balance(operator.pk, at=local(2027, 1, 1))
    return {b.account: str(b.balance) for b in found if b.balance}


def told(kind: str) -> list[Any]:
    return list(OutboxEvent.objects.filter(kind=kind).values_list("payload", flat=True))


# What the policy gives ---------------------------------------------------------------------------


def test_unused_units_go_back_with_their_share_of_the_price(
    operator: Operator, api: APIClient, slow: SlowProvider
) -> None:
    number = booster(operator, api)
    assert preview(api, number)["rule"] == "full"
    use(operator, 400)
    said = preview(api, number)
    assert (said["amount"]["amount"], said["units"], said["rule"]) == ("6.00", "600.000", "unused")
    assert (remaining(), get(api, f"orders/{number}")["state"]) == ((600, 400, 0), "paid")

    made = asked(api, number)

    assert (made["state"], made["amount"]["amount"], made["units"]) == (
        "pending",
        "6.00",
        "600.000",
    )
    # Nobody uses them any more, and nothing has left the bucket yet.
    assert remaining() == (0, 400, 600)
    assert get(api, f"orders/{number}")["state"] == "refunding"
    assert (accounts(operator)["refund"], accounts(operator)["prepaid"]) == ("-6.00", "-4.00")
    use(operator, 50, "later")
    assert remaining() == (0, 400, 600)

    event = slow.decide(made["number"] + "-1", Fate.SUCCEEDED)
    for _ in range(2):
        refunds.settle_refund(operator, event, at=START)

    shown = get(api, f"refunds/{made['number']}")
    assert (shown["state"], [s["state"] for s in shown["history"]]) == (
        "succeeded",
        ["pending", "succeeded"],
    )
    assert remaining() == (0, 1000, 0)
    paid = get(api, f"orders/{number}")
    assert (paid["state"], paid["refunded"]["amount"]) == ("partly_refunded", "6.00")
    assert states(paid) == ["created", "paid", "refunding", "partly_refunded"]
    assert accounts(operator) == {"prepaid": "-4.00", "cash:slow": "4.00"}
    assert [one["amount"] for one in told("order.refunded")] == ["6.00"]
    assert_problem(refund(api, number), 409, "nothing_to_refund")
    assert_books_agree()


def test_what_nobody_used_goes_back_whole(
    operator: Operator, api: APIClient, slow: SlowProvider
) -> None:
    slow.fate = Fate.SUCCEEDED
    number = booster(operator, api)

    made = asked(api, number)

    assert (made["state"], made["rule"], made["amount"]["amount"]) == ("succeeded", "full", "10.00")
    assert states(get(api, f"orders/{number}"))[-2:] == ["refunding", "refunded"]
    assert slow.given_back() == 10
    assert accounts(operator) == {}
    move(api, CLOSE)
    assert_books_agree()


def test_parts_are_never_more_than_the_whole(
    operator: Operator, api: APIClient, slow: SlowProvider
) -> None:
    slow.fate = Fate.SUCCEEDED
    number = booster(operator, api)
    use(operator, 1)

    parts = [asked(api, number, amount=a) for a in ("3.33", "3.33", "0.01")]
    assert [one["units"] for one in parts] == ["333.000", "333.000", "1.000"]
    assert_problem(refund(api, number, amount="4.00"), 422, "invalid")
    rest = asked(api, number)

    assert rest["amount"]["amount"] == "3.32"
    assert (slow.given_back(), remaining()) == (Decimal("9.99"), (0, 1000, 0))
    with pytest.raises(Error, match="order_used_within_amount"), transaction.atomic():
        Order.objects.filter(number=number).update(applied="0.02")
    assert_books_agree()


@pytest.mark.parametrize("used", [0, 400, 1000])
def test_a_booster_that_an_invoice_has_named_goes_back_with_a_credit_note(
    operator: Operator, api: APIClient, slow: SlowProvider, used: int
) -> None:
    """The invoice is not paid yet but for the booster: nothing of the refund pays the rest."""
    subscribe_to(api, "kept")
    number = booster(operator, api)
    move(api, CLOSE)
    use_up_allowance(operator, used)
    [invoice] = get(api, "subscribers/s-1/invoices")["items"]
    assert (invoice["gross"]["amount"], invoice["amount_due"]["amount"]) == ("19.90", "9.90")
    if used == 1000:
        assert_problem(refund(api, number), 409, "nothing_to_refund")
        return

    made = asked(api, number)
    refunds.settle_refund(operator, slow.decide(f"{made['number']}-1", Fate.SUCCEEDED), at=CLOSE)

    back = Decimal("10.00") * (1000 - used) / 1000
    shown = get(api, f"refunds/{made['number']}")
    note = get(api, f"invoices/{shown['credit_note']}")
    assert Decimal(note["gross"]["amount"]) == -back
    assert note["amount_due"]["amount"] == "0.00"
    assert [line["description"] for line in note["lines"]] == ["Pack"]
    assert get(api, f"invoices/{invoice['number']}")["amount_due"]["amount"] == "9.90"
    assert slow.given_back() == back
    assert accounts(operator)["receivable"] == "9.90"
    assert "deferred:booster/pack:0.06" not in accounts(operator) or used
    move(api, CLOSE + 65 * DAY)
    assert not any(name.startswith("deferred") for name in accounts(operator))
    assert_books_agree()


def test_what_is_refunded_before_the_invoice_a_note_takes_off_it(
    operator: Operator, api: APIClient, slow: SlowProvider
) -> None:
    subscribe_to(api, "kept")
    number = booster(operator, api)
    made = asked(api, number, amount="4.00")
    # The close runs while the refund is on its way.
    move(api, CLOSE)

    [note, invoice] = sorted(
        get(api, "subscribers/s-1/invoices")["items"], key=lambda one: one["gross"]["amount"]
    )
    assert (note["gross"]["amount"], note["lines"][0]["kind"]) == ("-4.00", "booster")
    assert (invoice["gross"]["amount"], invoice["amount_due"]["amount"]) == ("19.90", "9.90")
    assert get(api, f"refunds/{made['number']}")["credit_note"] == note["number"]
    refunds.settle_refund(operator, slow.decide(f"{made['number']}-1", Fate.FAILED), at=CLOSE)
    assert_problem(post(api, f"refunds/{made['number']}/cancel"), 409, "documented")
    assert get(api, "refunds?to_do=true")["items"][0]["problem"] == "account closed"

    again = post(api, f"refunds/{made['number']}/to-wallet").json()

    assert (again["state"], again["to"], wallet(api)) == ("succeeded", "wallet", "4.00")
    assert slow.given_back() == 0
    shown = get(api, f"orders/{number}")
    assert (shown["applied"]["amount"], shown["refunded"]["amount"]) == ("6.00", "4.00")
    assert shown["state"] == "partly_refunded"
    assert_books_agree()


def test_a_plan_ends_with_its_refund(
    operator: Operator, api: APIClient, slow: SlowProvider
) -> None:
    number = bought(operator, api, kind="plan", plan="light")
    use(operator, 2_500_000)
    said = preview(api, number)
    assert (said["amount"]["amount"], said["ends_subscription"]) == ("7.43", True)
    assert_problem(refund(api, number, amount="1.00"), 422, "invalid")

    made = asked(api, number)
    refunds.settle_refund(operator, slow.decide(f"{made['number']}-1", Fate.SUCCEEDED), at=START)

    assert balance(api)["available"] == "0.000"
    assert get(api, f"orders/{number}")["state"] == "partly_refunded"
    move(api, CLOSE)
    [invoice] = get(api, "subscribers/s-1/invoices")["items"]
    assert (invoice["gross"]["amount"], invoice["amount_due"]["amount"]) == ("2.47", "0.00")
    assert invoice["state"] == "paid"
    assert accounts(operator)["cash:slow"] == "2.47"
    assert_books_agree()


@pytest.mark.parametrize("ended", [local(2026, 6, 30, 23, 59), local(2026, 7, 1)])
def test_a_plan_is_refunded_within_its_period_only(
    operator: Operator, api: APIClient, slow: SlowProvider, ended: dt.datetime
) -> None:
    number = bought(operator, api, kind="plan", plan="light")
    use(operator, 5_000_000)
    move(api, ended)

    if ended == local(2026, 7, 1):
        assert_problem(refund(api, number), 409, "nothing_to_refund")
    else:
        assert asked(api, number)["amount"]["amount"] == "4.95"
    move(api, CLOSE)
    assert_books_agree()


def test_a_plan_that_gives_nothing_back_does_not(
    operator: Operator, api: APIClient, slow: SlowProvider
) -> None:
    number = bought(operator, api, kind="plan", plan="kept")

    assert_problem(refund(api, number), 409, "nothing_to_refund")

    assert get(api, f"orders/{number}")["state"] == "paid"
    assert slow.calls == 0


def test_of_a_top_up_what_is_still_there_goes_back(
    operator: Operator, api: APIClient, slow: SlowProvider
) -> None:
    number = bought(operator, api, kind="top_up", amount="20.00")
    booster(operator, api, "wallet")
    assert_problem(refund(api, number, to="wallet"), 422, "invalid")

    made = asked(api, number)

    assert (made["amount"]["amount"], made["rule"], wallet(api)) == ("10.00", "balance", "0.00")
    refunds.settle_refund(operator, slow.decide(f"{made['number']}-1", Fate.FAILED), at=START)
    given_up = post(api, f"refunds/{made['number']}/cancel").json()
    assert (given_up["state"], wallet(api)) == ("cancelled", "10.00")
    assert get(api, f"orders/{number}")["state"] == "paid"
    lines = get(api, "subscribers/s-1/wallet/movements")["items"]
    assert [one["kind"] for one in lines] == ["top_up", "payment", "payout", "refund"]
    assert_books_agree()


def test_of_an_invoice_what_a_credit_note_says_goes_back(
    operator: Operator, api: APIClient, slow: SlowProvider
) -> None:
    subscribe_to(api, "kept")
    move(api, CLOSE)
    [invoice] = get(api, "subscribers/s-1/invoices")["items"]
    number = bought(operator, api, kind="invoice", invoice=invoice["number"])
    assert_problem(refund(api, number), 409, "nothing_to_refund")
    assert not refundable.may_be_asked(Order.objects.get(number=number))
    note = post(api, f"invoices/{invoice['number']}/credit", {"reason": "x", "amount": "3.00"})
    assert note.status_code == 201
    assert refundable.may_be_asked(Order.objects.get(number=number))

    first = asked(api, number, amount="1.00")
    made = asked(api, number)

    assert (made["amount"]["amount"], made["credit_note"]) == ("2.00", note.json()["number"])
    for one in (first, made):
        event = slow.decide(f"{one['number']}-1", Fate.SUCCEEDED)
        refunds.settle_refund(operator, event, at=CLOSE)
    assert get(api, f"invoices/{note.json()['number']}")["state"] == "paid"
    assert get(api, f"orders/{number}")["state"] == "partly_refunded"
    assert "receivable" not in accounts(operator)
    assert_books_agree()


# What becomes of it ------------------------------------------------------------------------------


def test_what_a_wallet_paid_is_back_at_once(operator: Operator, api: APIClient) -> None:
    filled(api)
    number = booster(operator, api, "wallet")
    use(operator, 100)

    made = asked(api, number, amount="4.50")

    assert (made["state"], made["to"], wallet(api)) == ("succeeded", "wallet", "14.50")
    assert made["units"] == "450.000"
    assert remaining() == (450, 550, 0)
    assert_books_agree()


def test_a_transfer_goes_back_when_staff_have_sent_it(operator: Operator, api: APIClient) -> None:
    number = str(order(api, kind="booster", booster="pack")["number"])
    transfer(api, "10.00", order=number)
    made = asked(api, number)
    assert (made["state"], made["way"]) == ("pending", "bank")
    assert [one["number"] for one in get(api, "refunds?to_do=true")["items"]] == [made["number"]]
    assert refunds.sweep(operator, at=START + 400 * DAY) == 0

    path = f"refunds/{made['number']}/transferred"
    done = post(api, path, {"reference": "b-77"}).json()
    assert post(api, path, {"reference": "b-77"}).json() == done

    assert (done["state"], done["reference"]) == ("succeeded", "b-77")
    assert_problem(post(api, path, {"reference": "b-78"}), 409, "refund_not_failed")
    assert accounts(operator) == {}
    assert_books_agree()


def test_a_refund_that_failed_is_tried_again_under_another_key(
    operator: Operator, api: APIClient, slow: SlowProvider
) -> None:
    number = booster(operator, api)
    slow.fate = Fate.FAILED
    made = asked(api, number)
    assert (made["state"], made["problem"]) == ("failed", "account closed")
    assert [one["refund"] for one in told("refund.failed")] == [made["number"]]
    assert (get(api, f"orders/{number}")["state"], remaining()) == ("refunding", (0, 0, 1000))

    slow.fate = Fate.WAITING
    again = post(api, f"refunds/{made['number']}/retry").json()
    assert post(api, f"refunds/{made['number']}/retry").json()["history"] == again["history"]
    # The first try's failure is heard once more, late.
    refunds.settle_refund(operator, slow.notice(f"{made['number']}-1"), at=START)
    assert get(api, f"refunds/{made['number']}")["state"] == "pending"
    refunds.settle_refund(operator, slow.decide(f"{made['number']}-2", Fate.SUCCEEDED), at=START)

    shown = get(api, f"refunds/{made['number']}")
    assert [one["state"] for one in shown["history"]] == [
        *("pending", "failed", "pending", "succeeded"),
    ]
    assert slow.given_back() == 10
    assert_problem(post(api, f"refunds/{made['number']}/to-wallet"), 409, "refund_not_failed")
    assert_books_agree()


def test_units_come_back_with_a_refund_that_is_given_up(
    operator: Operator, api: APIClient, slow: SlowProvider
) -> None:
    number = booster(operator, api)
    slow.fate = Fate.FAILED
    made = asked(api, number, amount="5.00")
    assert remaining() == (500, 0, 500)

    post(api, f"refunds/{made['number']}/cancel")

    assert (remaining(), get(api, f"orders/{number}")["state"]) == ((1000, 0, 0), "paid")
    use(operator, 700)
    assert remaining() == (300, 700, 0)
    assert accounts(operator)["prepaid"] == "-10.00"
    slow.fate = Fate.SUCCEEDED
    assert asked(api, number)["amount"]["amount"] == "3.00"
    assert_books_agree()


def test_a_bonus_comes_back_with_a_refund_that_is_given_up(
    operator: Operator, api: APIClient, slow: SlowProvider
) -> None:
    rules = {"fixed": [], "free": {"least": "1.00", "most": "100.00"}}
    bonus = {"bonuses": [{"at_least": "20.00", "amount": "7.00"}]}
    assert put(api, "top-up-policy", rules | bonus).status_code == 200
    number = bought(operator, api, kind="top_up", amount="20.00")
    slow.fate = Fate.FAILED
    made = asked(api, number)
    assert wallet(api) == "0.00"

    for _ in range(2):
        assert post(api, f"refunds/{made['number']}/cancel").status_code == 200

    shown = get(api, "subscribers/s-1/wallet")
    assert (shown["balance"]["amount"], shown["bonus"]["amount"]) == ("27.00", "7.00")
    assert_books_agree()


def test_one_that_was_made_may_turn_out_to_have_failed(
    operator: Operator, api: APIClient, slow: SlowProvider
) -> None:
    number = booster(operator, api)
    slow.fate = Fate.SUCCEEDED
    made = asked(api, number)
    assert get(api, f"orders/{number}")["state"] == "refunded"

    event = slow.decide(f"{made['number']}-1", Fate.FAILED)
    for _ in range(2):
        refunds.settle_refund(operator, event, at=START)

    assert get(api, f"refunds/{made['number']}")["state"] == "failed"
    assert accounts(operator) == {"cash:slow": "10.00", "refund": "-10.00"}
    assert_problem(post(api, f"refunds/{made['number']}/cancel"), 409, "documented")
    assert post(api, f"refunds/{made['number']}/to-wallet").json()["state"] == "succeeded"
    assert (wallet(api), remaining()) == ("10.00", (0, 1000, 0))
    assert get(api, f"orders/{number}")["state"] == "refunded"
    assert_books_agree()


def test_usage_that_is_void_later_comes_back_to_a_bucket_that_was_refunded(
    operator: Operator, api: APIClient, slow: SlowProvider
) -> None:
    """Its price was kept."""
    slow.fate = Fate.SUCCEEDED
    number = booster(operator, api)
    use(operator, 400)
    asked(api, number)

    void = {"reason": "x", "occurred_at": START.isoformat()}
    assert post(api, "subscribers/s-1/usage-records/u/void", void).status_code == 200

    assert remaining() == (400, 600, 0)
    assert asked(api, number)["amount"]["amount"] == "4.00"
    assert get(api, f"orders/{number}")["state"] == "refunded"
    assert_books_agree()


# Crashes -----------------------------------------------------------------------------------------


def test_a_crash_before_the_provider_hears_of_it_is_finished_by_the_sweep(
    operator: Operator, api: APIClient, slow: SlowProvider
) -> None:
    number = booster(operator, api)
    made = refunds.ask(operator, number, reason="x", by="crm", at=START)
    assert isinstance(made, Refund)
    assert refunds.sweep(operator, at=START) == 0

    slow.fate = Fate.SUCCEEDED
    assert refunds.sweep(operator, at=START + MINUTE) == 1
    assert refunds.sweep(operator, at=START + DAY) == 0

    assert (slow.calls, slow.given_back()) == (1, TEN)
    assert get(api, f"refunds/{made.number}")["state"] == "succeeded"
    assert_books_agree()


def test_an_answer_that_nobody_heard_is_asked_for_again_with_the_same_key(
    operator: Operator, api: APIClient, slow: SlowProvider
) -> None:
    number = booster(operator, api)
    slow.fate, slow.silent = Fate.SUCCEEDED, True

    made = asked(api, number)
    assert (made["state"], made["problem"]) == ("pending", "the provider did not answer")
    slow.silent = False
    # Longer and longer from one look to the next.
    assert refunds.sweep(operator, at=START + MINUTE) == 0
    assert refunds.sweep(operator, at=START + 2 * MINUTE) == 1

    assert (slow.calls, len(slow.refunds), slow.given_back()) == (2, 1, TEN)
    assert get(api, f"refunds/{made['number']}")["problem"] == ""
    assert_books_agree()


def test_an_answer_over_another_amount_is_for_staff(
    operator: Operator, api: APIClient, slow: SlowProvider
) -> None:
    number = booster(operator, api)
    made = asked(api, number, amount="5.00")
    key = f"{made['number']}-1"
    slow.refunds[key] = (Fate.SUCCEEDED, Decimal("50.00"))

    refunds.settle_refund(operator, slow.notice(key), at=START)

    [shown] = get(api, "refunds?to_do=true")["items"]
    assert (shown["state"], shown["problem"]) == ("pending", "the provider says 50.00 CNY")
    assert_books_agree()


# Asking ------------------------------------------------------------------------------------------


def test_the_same_key_is_the_same_refund(
    operator: Operator, api: APIClient, slow: SlowProvider
) -> None:
    number, other = booster(operator, api), booster(operator, api)

    first = refund(api, number, key="k", amount="1.00").json()
    again = refund(api, number, key="k", amount="1.00").json()

    assert again["number"] == first["number"]
    assert Refund.objects.count() == 1
    for said in (
        {"amount": "2.00"},
        {"amount": "1.00", "number": other},
        {"amount": "1.00", "to": "wallet"},
    ):
        whose = said.pop("number", number)
        assert_problem(refund(api, whose, key="k", **said), 409, "idempotency_conflict")


def test_above_the_limit_another_person_has_to_approve(
    operator: Operator, api: APIClient, slow: SlowProvider
) -> None:
    body = {"approval_limit": "5.00", "over_charge_factor": "1"}
    assert api.put("/api/v1/correction-policy", body, format="json").status_code == 200
    number = booster(operator, api)
    assert preview(api, number)["waits_for_approval"] is True

    waits = refund(api, number, key="k")
    assert refund(api, number, key="k").json() == waits.json()

    assert (waits.status_code, waits.json()["kind"], waits.json()["order"]) == (
        *(202, "refund", number),
    )
    assert (slow.calls, remaining()) == (0, (1000, 0, 0))
    path = f"approvals/{waits.json()['id']}/approve"
    assert_problem(post(api, path, {"reason": "yes"}), 409, "four_eyes")
    chief = client_for(make_key(operator, name="chief"))
    use(operator, 1)
    assert_problem(post(chief, path, {"reason": "yes"}), 409, "changed")
    smaller = refund(api, number, amount="9.00").json()
    done = post(chief, f"approvals/{smaller['id']}/approve", {"reason": "yes"}).json()

    assert (done["state"], remaining()) == ("approved", (99, 1, 900))
    slow.fate = Fate.SUCCEEDED
    assert refunds.sweep(operator, at=START + MINUTE) == 1
    assert get(api, f"refunds/{done['refund']}")["state"] == "succeeded"
    assert_books_agree()


@pytest.mark.parametrize(
    ("said", "status", "cause"),
    [
        ({"amount": "0"}, 422, "invalid"),
        ({"amount": "-1"}, 422, "invalid"),
        ({"amount": "1.001"}, 422, "invalid"),
        ({"amount": {"amount": "1", "currency": "USD"}}, 422, "invalid"),
        ({"amount": "10.01"}, 422, "invalid"),
        ({"to": "moon"}, 422, "invalid"),
        ({"reason": ""}, 422, "invalid"),
        ({"reason": None}, 422, "invalid"),
        ({"preview": "x"}, 422, "invalid"),
    ],
)
def test_what_makes_no_sense_is_refused(
    operator: Operator,
    api: APIClient,
    slow: SlowProvider,
    said: dict[str, Any],
    status: int,
    cause: str,
) -> None:
    number = booster(operator, api)

    assert_problem(refund(api, number, **said), status, cause)

    assert not Refund.objects.exists()


def test_an_order_that_is_not_paid_or_not_there_is_not_refunded(
    operator: Operator, api: APIClient
) -> None:
    number = str(order(api, kind="booster", booster="pack")["number"])

    assert_problem(refund(api, number), 409, "not_paid")
    assert_problem(refund(api, "CT-O-9"), 404, "not_found")
    assert_problem(api.get("/api/v1/refunds/x"), 404, "not_found")
    assert_problem(api.get("/api/v1/refunds?state=odd"), 400, "bad_query")


def test_history_is_kept(operator: Operator, api: APIClient, slow: SlowProvider) -> None:
    slow.fate = Fate.SUCCEEDED
    asked(api, booster(operator, api))
    for change in (
        lambda: Refund.objects.update(amount="1.00"),
        lambda: Refund.objects.update(state="pending", ended_at=None, look_at=START),
        lambda: Refund.objects.all().delete(),
    ):
        with pytest.raises(Error), transaction.atomic():
            change()


def subscribe_to(api: APIClient, plan: str) -> None:
    assert post(api, "subscribers/s-1/subscriptions", {"plan": plan}).status_code == 201


def use_up_allowance(operator: Operator, beyond: int) -> None:
    """What the plan brings each month, and so many units of the booster."""
    if beyond:
        use(operator, 10_000_000 + beyond)


def test_where_an_e_fapiao_is_issued_a_red_one_is_asked_for(
    operator: Operator, api: APIClient, slow: SlowProvider, tmp_path: Path
) -> None:
    subscribe_to(api, "kept")
    number = booster(operator, api)
    move(api, CLOSE)
    letterheads.put(operator, letterheads.Draft(name="North", tax_id="9" * 18))
    fapiao.set_item(operator, Decimal("0.06"), tax_class="3" * 19, name="x")
    [invoice] = get(api, "subscribers/s-1/invoices")["items"]
    blue = fapiao.request(operator, invoice["number"], at=CLOSE)
    issue(operator, FileProvider(tmp_path), blue, "1" * 20)

    made = asked(api, number, amount="2.50")

    shown = get(api, f"refunds/{made['number']}")
    assert shown["red_fapiao"] == f"{blue.request_id}-R1"
    red = FapiaoRequest.objects.get(request_id=shown["red_fapiao"])
    assert (red.gross, red.reason) == (Decimal("-2.50"), "service_ended")
    assert_books_agree()
