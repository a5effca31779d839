"""What is due is collected once, whoever crashes, hangs, or pays at the same moment."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from functools import partial

import pytest
from django.db import transaction

from billing import before_period, consents, transfers, wallets
from billing.collecting import cases, methods, running
from billing.ledger import Side
from billing.models import CollectionCase, CollectionStep, Order, PaymentIntent
from billing.orders import buying, keeping, paying
from billing.transfers import Pays, Told
from billing.ways import known
from billing.ways.provider import Answer, Attempt, Event, Fate, Unavailable
from subscriptions import lifecycle
from subscriptions.errors import DomainError
from subscriptions.models import Operator, Subscriber, Subscription
from tests.at_once import at_once
from tests.factories import (
    buckets_of,
    local,
    make_operator,
    make_plan,
    make_subscriber,
    set_clock,
    subscribe,
    yuan,
)
from tests.usage import DAY, MINUTE, assert_books_agree

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.xdist_group("races")]

START, JULY = local(2026, 6, 1), local(2026, 7, 1)
HOUR = dt.timedelta(hours=1)
TRY = JULY - DAY + 8 * HOUR  # the first of July's renewal
FEE = Decimal("30.00")


class Died(BaseException):
    """Where a process ends."""


class Card:
    """A provider that charges a saved method once by key, and dies or hangs where it is told to."""

    way, local = "card", False

    def __init__(self) -> None:
        self.taken: dict[str, Decimal] = {}
        self.asked: set[str] = set()
        self.calls = 0
        self.dies = ""
        self.refuses = ""
        self.waits = False

    def source(self, attempt: Attempt) -> Side:
        return Side("cash:card", attempt.amount)

    def create(self, attempt: Attempt) -> Answer:
        assert not transaction.get_connection().in_atomic_block
        assert attempt.method == "pm_1" or attempt.key in self.asked
        self.asked.add(attempt.key)
        self.calls += 1
        if self.dies == "before the call":
            raise Died
        if self.dies == "unanswered, nothing done":
            raise Unavailable
        if self.refuses:
            return Answer(Fate.FAILED, reference="pi", reason=self.refuses)
        if not self.waits:
            self.taken[attempt.key] = attempt.amount
        if self.dies == "after the call":
            raise Died
        if self.dies == "unanswered, done":
            raise Unavailable
        if self.waits and attempt.key not in self.taken:
            return Answer(Fate.WAITING, reference="pi")
        return Answer(Fate.SUCCEEDED, reference="pi", amount=attempt.amount)

    get = create

    def refund(self, attempt: Attempt, amount: Decimal, *, key: str) -> Answer:
        raise NotImplementedError

    def cancel(self, attempt: Attempt) -> Answer:
        raise NotImplementedError

    def verify(self, headers: Mapping[str, str], body: bytes) -> Event:
        raise NotImplementedError


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    found = Card()
    monkeypatch.setitem(known.ALWAYS, "card", found)
    monkeypatch.setattr(methods, "default_of", lambda *_: methods.Saved("card", "pm_1"))
    return found


@pytest.fixture
def operator() -> Iterator[Operator]:
    yield july_is_asked_for()
    assert_books_agree()


def july_is_asked_for() -> Operator:
    """One whose July is asked for, with nothing in the wallet, and who has agreed to all."""
    operator = make_operator("ct", at=START)
    pre = make_plan(operator, "pre", price=yuan("30.00"), collect="before_period")
    make_plan(operator, "big", price=yuan("60.00"), collect="before_period")
    subscriber = make_subscriber(operator)
    subscribe(subscriber, pre)
    for kind in ("auto_renew", "saved_method"):
        agree(operator, kind)
    fill(operator, "30.00", at=START)
    before_period.sweep(operator, at=START)
    running.run(operator, at=START + 9 * HOUR)
    set_clock(operator, JULY - 4 * DAY)
    before_period.sweep(operator, at=JULY - 4 * DAY)
    assert july().state == "created"
    return operator


def whose() -> Subscriber:
    return Subscriber.objects.get()


def agree(operator: Operator, kind: str) -> str:
    said = consents.Said(kind=kind, text="t", text_version="1", language="en", channel="app")
    return consents.give(operator, whose().pk, said, at=START).number


def fill(operator: Operator, amount: str, *, at: dt.datetime = TRY) -> None:
    told = Told(f"fill-{at}-{amount}", Decimal(amount), "CNY", at)
    transfers.match(
        operator, transfers.tell(operator, told, at=at).pk, Pays(wallet=whose().pk), at=at
    )


def july() -> Order:
    return Order.objects.get(period_start=JULY, state__in=[*Order.OPEN, Order.State.PAID])


def case() -> CollectionCase:
    return CollectionCase.objects.get(about=july().id)


def opened() -> int:
    """Allowances of July that somebody may use."""
    with transaction.atomic():
        lifecycle.ensure_open([whose().pk], at=JULY, until=JULY)
    return sum(bucket.valid_from >= JULY for bucket in buckets_of(whose(), "allowance"))


def reasons() -> list[str]:
    rows = CollectionStep.objects.filter(about=july().id, kind="failed").order_by("nr")
    return list(rows.values_list("reason", flat=True))


# Crashes -----------------------------------------------------------------------------------------

# A function and how often it has been called when the process dies, before or after it has worked.
POINTS: list[tuple[object, str, str]] = [
    (keeping, "attempt", "before"),
    (keeping, "attempt", "after"),
    (cases, "keep", "after"),
    (paying, "take", "before"),
    (buying, "settle", "before"),
    (buying, "settle", "after"),
    (keeping, "answered", "after"),
    (paying, "take", "after"),
    (running, "_again", "after"),
]


def dying(call: Callable[..., object], where: str) -> Callable[..., object]:
    def dies(*args: object, **said: object) -> object:
        if where == "before":
            raise Died
        call(*args, **said)
        raise Died

    return dies


@pytest.mark.parametrize(
    ("module", "name", "where"), POINTS, ids=[f"{where}-{name}" for _, name, where in POINTS]
)
def test_a_crash_at_any_point_charges_once_and_grants_once(
    operator: Operator,
    card: Card,
    monkeypatch: pytest.MonkeyPatch,
    module: object,
    name: str,
    where: str,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, name, dying(getattr(module, name), where))
        with pytest.raises(Died):
            running.run(operator, at=TRY)

    # Whoever comes next: another worker at once, then who looks for lost attempts.
    running.run(operator, at=TRY)
    paying.ask_again(operator, at=TRY + 2 * MINUTE)
    running.run(operator, at=TRY + 10 * MINUTE)

    assert list(card.taken.values()) == [FEE]
    assert (july().state, july().way, case().state) == ("paid", "card", "collected")
    assert (opened(), wallets.balance_of(whose().pk, "CNY")) == (1, Decimal(0))


@pytest.mark.parametrize(
    "dies",
    ["before the call", "after the call", "unanswered, nothing done", "unanswered, done"],
)
def test_a_provider_that_dies_or_hangs_is_asked_again_with_the_same_key(
    operator: Operator, card: Card, dies: str
) -> None:
    card.dies = dies
    with contextlib.suppress(Died):
        running.run(operator, at=TRY)
    # It is waited for, whatever else there is.
    fill(operator, "30.00")
    running.run(operator, at=TRY + 6 * MINUTE)
    assert (july().state, wallets.balance_of(whose().pk, "CNY")) == ("created", FEE)

    card.dies = ""
    # As the sweep asks: it knows nothing of collecting.
    paying.ask_again(operator, at=TRY + 7 * MINUTE)
    running.run(operator, at=TRY + 20 * MINUTE)

    assert (list(card.taken.values()), PaymentIntent.objects.filter(way="card").count()) == (
        [FEE],
        1,
    )
    assert (july().state, case().state, opened()) == ("paid", "collected", 1)


def test_a_notice_that_comes_first_ends_the_case_too(operator: Operator, card: Card) -> None:
    card.waits = True
    running.run(operator, at=TRY)
    assert (july().state, case().state) == ("waiting", "running")
    fill(operator, "30.00")
    running.run(operator, at=TRY + DAY)
    assert case().state == "running"

    # The webhook: money has come.
    intent = PaymentIntent.objects.get(way="card")
    answer = Answer(Fate.SUCCEEDED, reference="pi", amount=FEE)
    for _ in range(2):
        paying.take(operator, july().number, intent.nr, card, answer, at=TRY + DAY + HOUR)
    running.run(operator, at=TRY + 9 * DAY)

    assert (july().way, case().state, card.calls) == ("card", "collected", 1)
    assert (wallets.balance_of(whose().pk, "CNY"), opened()) == (FEE, 1)


def test_a_method_that_asks_for_its_owner_is_tried_again_and_paid_by_hand(
    operator: Operator, card: Card
) -> None:
    card.refuses = "authentication_required"
    running.run(operator, at=TRY)
    assert reasons() == ["insufficient_funds", "authentication_required"]
    running.run(operator, at=TRY + DAY)
    assert (case().state, card.calls, case().next_at) == ("running", 2, TRY + 3 * DAY)

    fill(operator, "30.00", at=TRY + DAY)
    paying.pay(operator, july().number, "wallet", at=TRY + DAY)
    running.run(operator, at=TRY + 3 * DAY)

    assert (july().way, case().state, card.taken) == ("wallet", "collected", {})


# Races -------------------------------------------------------------------------------------------


def said(call: Callable[[], object]) -> str:
    try:
        call()
    except DomainError as error:
        return error.cause
    return "done"


def test_many_workers_collect_once(operator: Operator) -> None:
    fill(operator, "70.00")

    assert at_once(*[lambda: said(lambda: running.run(operator, at=TRY))] * 4) == ["done"] * 4
    running.run(operator, at=TRY)

    assert (wallets.balance_of(whose().pk, "CNY"), opened(), case().state) == (
        Decimal("40.00"),
        1,
        "collected",
    )


def test_many_workers_charge_a_saved_method_once(operator: Operator, card: Card) -> None:
    at_once(*[lambda: said(lambda: running.run(operator, at=TRY))] * 3)
    running.run(operator, at=TRY)

    assert (list(card.taken.values()), opened(), case().state) == ([FEE], 1, "collected")


def change() -> str:
    [held] = Subscription.objects.all()
    return said(lambda: lifecycle.change(held.subscriber_id, held.id, at=TRY, plan_code="big"))


@pytest.mark.parametrize("meanwhile", ["by hand", "change", "opening", "sweep"])
def test_a_renewal_is_paid_once_whatever_happens_at_that_moment(
    operator: Operator, meanwhile: str
) -> None:
    fill(operator, "90.00")
    number = july().number
    others: dict[str, Callable[[], object]] = {
        "by hand": partial(paying.pay, operator, number, "wallet", at=TRY),
        "change": change,
        "opening": partial(lifecycle.open_due, operator.pk, at=TRY),
        "sweep": partial(before_period.sweep, operator, at=TRY),
    }
    other = others[meanwhile]

    at_once(lambda: said(lambda: running.run(operator, at=TRY)), lambda: said(other))
    before_period.sweep(operator, at=TRY)
    running.run(operator, at=TRY + MINUTE)
    lifecycle.open_due(operator.pk, at=JULY)

    # The old price is back where the plan has changed.
    cost = Decimal("60.00") if meanwhile == "change" else FEE
    assert wallets.balance_of(whose().pk, "CNY") == Decimal("90.00") - cost
    assert (opened(), case().state) == (1, "collected")
