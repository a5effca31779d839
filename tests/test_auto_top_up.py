"""Wallets that are filled by themselves: once a fall, within limits, until it fails too often."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from rest_framework.test import APIClient

from billing import methods, transfers, wallets
from billing.auto_top_up import agreements, charging
from billing.models import AutoTopUp, AutoTopUpRun, Order, Wallet, WalletMovement
from billing.transfers import Pays, Told
from billing.ways.known import PARTNERS
from billing.ways.provider import Answer, Attempt, Card, Fate, Saving, Unavailable
from subscriptions.models import Operator, OutboxEvent, Subscriber
from tests.at_once import at_once
from tests.factories import (
    client_for,
    local,
    make_key,
    make_operator,
    make_subscriber,
    set_clock,
)
from tests.providers import saved_card, stripe_account
from tests.usage import DAY, assert_books_agree, assert_problem, get, post, put

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.xdist_group("races")]

START = local(2026, 6, 10)
HOUR, LOOK = dt.timedelta(hours=1), dt.timedelta(minutes=10)
WAY = "card"
AGREED = {
    "threshold": "10.00",
    "amount": "20.00",
    "daily_limit": "40.00",
    "monthly_limit": "60.00",
    "way": WAY,
    "method": "1",
    "text": "Fill it up.",
    "text_version": "3",
    "language": "en",
    "channel": "portal",
}


class CardOnFile:
    """A company that keeps cards, and charges them without the payer; what it answers is set by
    the test."""

    ways: tuple[str, ...] = (WAY,)
    way = WAY
    local = False

    def __init__(self) -> None:
        self.fate, self.reason = Fate.SUCCEEDED, ""
        self.silent = False
        self.asked: set[str] = set()

    def provider(self, way: str) -> CardOnFile:
        return self

    def begin_saving(self, saving: Saving) -> Answer:
        return Answer(Fate.WAITING, "cus_1")

    def describe(self, reference: str) -> Card:
        raise Unavailable("not here")

    def forget(self, reference: str) -> None:
        raise Unavailable("not here")

    def create(self, attempt: Attempt) -> Answer:
        if self.silent:
            raise Unavailable("no answer")
        assert attempt.method == "pm_1"
        self.asked.add(attempt.key)
        return Answer(
            self.fate,
            f"pi-{attempt.key}",
            reason=self.reason,
            amount=attempt.amount,
            currency=attempt.currency,
        )

    get = create

    def cancel(self, attempt: Attempt) -> Answer:
        raise Unavailable("not here")


@pytest.fixture
def card(operator: Operator) -> Iterator[CardOnFile]:
    """Where the subscriber has saved one."""
    with pytest.MonkeyPatch.context() as patch:
        card = CardOnFile()
        patch.setitem(PARTNERS, "stripe", lambda *_: card)
        stripe_account(operator)
        saved_card(operator, Subscriber.objects.get().pk, "pm_1")
        yield card


@pytest.fixture
def operator() -> Iterator[Operator]:
    """With a subscriber that has 12.00."""
    operator = make_operator("ct", at=START)
    told = Told("b-1", Decimal("12.00"), "CNY", START)
    arrived = transfers.tell(operator, told, at=START)
    transfers.match(operator, arrived.pk, Pays(wallet=make_subscriber(operator).pk), at=START)
    yield operator
    assert_books_agree()


@pytest.fixture
def api(operator: Operator) -> APIClient:
    return client_for(make_key(operator))


def agree(api: APIClient, **said: str) -> Any:
    [saved] = get(api, "subscribers/s-1/payment-methods")["items"]
    answer = put(api, "subscribers/s-1/auto-top-up", AGREED | {"method": saved["id"]} | said)
    assert answer.status_code == 200, answer.content
    return answer.json()


def spend(api: APIClient, operator: Operator, amount: str, name: str) -> None:
    """Take money out of the wallet: a booster of that price."""
    said = {"name": name, "price": amount, "units": "1000", "valid_days": 30}
    assert put(api, f"boosters/{name}", said).status_code == 201
    order = post(api, "subscribers/s-1/orders", {"kind": "booster", "booster": name}).json()
    paid = post(api, f"orders/{order['number']}/pay", {"way": "wallet"})
    assert paid.status_code == 200, paid.content


def balance() -> str:
    return f"{Wallet.objects.get().balance:.2f}"


def states() -> list[str]:
    return list(AutoTopUpRun.objects.order_by("begun_at", "cause").values_list("state", flat=True))


def test_a_fall_below_the_threshold_fills_the_wallet_once(
    operator: Operator, api: APIClient, card: CardOnFile
) -> None:
    shown = agree(api)
    assert (shown["text"], shown["runs"], shown["agreed_at"]) == (
        "Fill it up.",
        [],
        "2026-06-09T16:00:00Z",
    )
    spend(api, operator, "2.00", "a")  # 10.00: not below
    assert charging.run(operator, at=START) == 0
    spend(api, operator, "1.00", "b")
    spend(api, operator, "1.00", "c")

    assert charging.run(operator, at=START) == 1
    assert charging.run(operator, at=START + DAY) == 0

    assert (balance(), states(), len(card.asked)) == ("28.00", ["paid"], 1)
    [run] = get(api, "subscribers/s-1/auto-top-up")["runs"]
    assert run["order"] == Order.objects.get(kind="top_up").number
    told = OutboxEvent.objects.filter(kind="wallet.topped_up", payload__has_key="order")
    assert told.count() == 1


def test_nothing_is_taken_above_the_limits_of_a_day_and_a_month(
    operator: Operator, api: APIClient, card: CardOnFile
) -> None:
    """40.00 a day, 60.00 a month: two, then one the next day, then one next month."""
    agree(api)
    at = START
    for nr in range(5):
        now = Wallet.objects.get().balance
        spend(api, operator, f"{now - 5:.2f}", f"x{nr}")
        charging.run(operator, at=at)
        if AutoTopUpRun.objects.filter(state="due").exists():
            [run] = AutoTopUpRun.objects.filter(state="due")
            assert run.next_at is not None
            assert charging.run(operator, at=run.next_at - LOOK) == 0
            at = run.next_at
            set_clock(operator, at)
            assert charging.run(operator, at=at) == 1

    paid = Order.objects.filter(kind="top_up").order_by("paid_at").values_list("paid_at", flat=True)
    assert list(paid) == [
        START,
        START,
        START + DAY,
        local(2026, 7, 1),
        local(2026, 7, 1),
    ]


def test_a_method_that_fails_is_tried_later_and_switched_off_in_the_end(
    operator: Operator, api: APIClient, card: CardOnFile
) -> None:
    agree(api)
    card.fate, card.reason = Fate.FAILED, "the card was declined"
    spend(api, operator, "3.00", "a")

    at, tried = START, []
    while AutoTopUpRun.objects.filter(next_at__isnull=False).exists():
        charging.run(operator, at=at)
        tried.append(at)
        if AutoTopUpRun.objects.filter(state="ordered").exists():
            at = AutoTopUpRun.objects.get(state="ordered").next_at or at

    assert tried == [START, START + HOUR, START + 7 * HOUR, START + 31 * HOUR]
    assert (states(), len(card.asked)) == (["failed"], 4)
    shown = get(api, "subscribers/s-1/auto-top-up")
    assert (shown["failures"], shown["ended_by"]) == (4, "4 failures: the card was declined")
    [told] = OutboxEvent.objects.filter(kind="wallet.auto_top_up_off")
    assert told.payload["reason"] == "the card was declined"
    assert Order.objects.get(kind="top_up").state == "cancelled"
    reasons = {one["reason"] for one in get(api, "orders")["items"][-1]["attempts"]}
    assert len(reasons) <= 1
    spend(api, operator, "1.00", "b")
    assert charging.run(operator, at=at + DAY) == 0


def test_a_provider_that_is_silent_or_slow_is_asked_again_by_the_same_key(
    operator: Operator, api: APIClient, card: CardOnFile
) -> None:
    agree(api)
    card.silent = True
    spend(api, operator, "3.00", "a")
    charging.run(operator, at=START)
    assert charging.run(operator, at=START) == 0
    card.silent, card.fate = False, Fate.WAITING
    charging.run(operator, at=START + LOOK)
    assert (states(), balance()) == (["ordered"], "9.00")

    card.fate = Fate.SUCCEEDED
    charging.run(operator, at=START + 2 * LOOK)

    assert (states(), balance(), len(card.asked)) == (["paid"], "29.00", 1)
    assert AutoTopUp.objects.get().failures == 0


def test_who_withdraws_is_charged_no_more_and_gets_a_receipt(
    operator: Operator, api: APIClient, card: CardOnFile
) -> None:
    agree(api)
    card.silent = True
    spend(api, operator, "3.00", "a")
    charging.run(operator, at=START)

    path = "subscribers/s-1/auto-top-up/withdraw"
    first = post(api, path, {"channel": "hotline"}).json()
    assert first["ended_by"] == "withdrawn by hotline"
    assert post(api, path, {"channel": "portal"}).json() == first

    card.silent = False
    assert charging.run(operator, at=START + DAY) == 0
    assert (states(), card.asked, balance()) == (["stopped"], set(), "9.00")
    assert Order.objects.get(kind="top_up").state == "cancelled"
    agree(api)  # below the threshold already: at once
    assert charging.run(operator, at=START + DAY) == 1
    assert balance() == "29.00"


def test_what_cannot_be_is_not_agreed_to(
    operator: Operator, api: APIClient, card: CardOnFile
) -> None:
    path = "subscribers/s-1/auto-top-up"
    [saved] = get(api, "subscribers/s-1/payment-methods")["items"]
    agreed = AGREED | {"method": saved["id"]}
    for said in (
        {"threshold": "20.01"},
        {"threshold": "0.00"},
        {"daily_limit": "19.99"},
        {"monthly_limit": "39.99"},
        {"amount": "20.001"},
        {"text": ""},
        {"way": "wallet"},
        {"way": "bank"},
    ):
        assert_problem(put(api, path, agreed | said), 422, "invalid")
    fixed = {"fixed": ["30.00"], "free": None}
    assert put(api, "top-up-policy", fixed).status_code == 200
    assert_problem(put(api, path, agreed), 422, "top_up_not_offered")
    # Nobody's card, one that was never typed, another's, and one that was removed.
    whose = Subscriber.objects.get().pk
    typing, _ = methods.begin(operator, whose, consent="x", return_url="", at=START)
    theirs = saved_card(operator, make_subscriber(operator, "s-2").pk, "pm_2")
    gone = api.delete(f"/api/v1/subscribers/s-1/payment-methods/{saved['id']}")
    assert gone.status_code == 200
    for name in ("pm_1", "99", str(typing.pk), str(theirs.pk), saved["id"], "9" * 40):
        assert_problem(put(api, path, AGREED | {"method": name}), 422, "unknown_method")
    assert_problem(api.get(f"/api/v1/{path}"), 404, "not_found")


def test_many_at_once_make_one_top_up_and_keep_to_the_limit(
    operator: Operator, api: APIClient, card: CardOnFile
) -> None:
    """Two falls while four workers run: the day's limit is one top-up."""
    agree(api, daily_limit="20.00", monthly_limit="60.00")
    whose = Subscriber.objects.get().pk

    def fall(nr: int) -> None:
        spend(client_for(make_key(operator, name=f"k-{nr}")), operator, "2.50", f"s{nr}")

    at_once(
        *[partial(fall, nr) for nr in range(3)], *[partial(charging.run, operator, at=START)] * 2
    )
    at_once(*[partial(charging.run, operator, at=START)] * 4)
    spend(api, operator, f"{Wallet.objects.get().balance - 1:.2f}", "rest")
    at_once(*[partial(charging.run, operator, at=START + LOOK)] * 4)

    agreement = AutoTopUp.objects.get()
    assert charging.taken_since(agreement, START) == 20
    assert len(card.asked) == 1
    assert sorted(states()) == ["due", "paid"]
    assert WalletMovement.objects.filter(subscriber_id=whose, kind="top_up").count() == 2
    agreements.withdraw(operator, whose, channel="x", at=START)
    assert wallets.balance_of(whose, "CNY") == 1
