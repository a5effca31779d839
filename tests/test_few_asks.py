"""Asks and commits that are as most are: one message each, and the same answers as all others'."""

from __future__ import annotations

from typing import Any, NoReturn

import msgspec
import pytest

from metering import asking, committing, few_asks, ingest
from metering.context import Caller
from subscriptions import keys, lifecycle, reservations
from subscriptions.errors import DomainError
from subscriptions.models import ApiKey, Operator, Reservation, Subscriber
from tests.asking import PATH, asked, commit, reserve, try_commit
from tests.factories import (
    NOW,
    buckets_of,
    make_plan,
    make_subscriber,
    set_clock,
    subscribe,
)
from tests.usage import (
    DAY,
    MINUTE,
    Gateway,
    T,
    assert_books_agree,
    assert_problem,
    post,
    record,
    used,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def subscriber(operator: Operator) -> Subscriber:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator, allowance=1000 * T))
    return subscriber


def fail(*given: Any, **named: Any) -> NoReturn:
    raise AssertionError("the general way was taken")


@pytest.fixture
def only_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever cannot go as one message fails."""
    monkeypatch.setattr(reservations, "reserve", fail)
    monkeypatch.setattr(committing._Settlement, "settle", fail)


@pytest.fixture
def only_general(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing goes as one message."""
    monkeypatch.setattr(few_asks, "reserve", lambda *given, **named: {})
    charge = ingest.ingest
    monkeypatch.setattr(
        committing, "ingest", lambda *given, few, **named: charge(*given, few=None, **named)
    )


def exchanges(gateway: Gateway, subject: str) -> list[Any]:
    """Two asks with their commits, of which one uses more than was held; but for their ids."""
    answers = []
    for asked_for, used_up in (("120", 50), ("100", 170)):
        name = f"{subject}-{asked_for}"
        said = {"subject": subject, "input_tokens": used_up, "output_tokens": 0}
        answers.append(reserve(gateway, name, subject=subject, units=asked_for))
        answers.append(commit(gateway, name, **said))
    return [{k: v for k, v in one.items() if k not in ("id", "batch")} for one in answers]


@pytest.mark.usefixtures("only_few")
def test_a_plain_ask_and_its_commit_are_one_message_each(
    subscriber: Subscriber, gateway: Gateway
) -> None:
    answers = exchanges(gateway, "user-s-1")

    assert [one.get("granted") for one in answers] == ["120.000", None, "100.000", None]
    assert [one.get("available") for one in answers] == ["880.000", None, "850.000", None]
    assert [one.get("released") for one in answers] == [None, "70.000", None, "0.000"]
    assert used(subscriber) == {"allowance": 220}
    assert [bucket.reserved for bucket in buckets_of(subscriber)] == [0]
    assert_books_agree()


def test_both_ways_answer_the_same(
    request: pytest.FixtureRequest, subscriber: Subscriber, gateway: Gateway, operator: Operator
) -> None:
    other = make_subscriber(operator, "s-2")
    subscribe(other, make_plan(operator, "other", allowance=1000 * T))

    few = exchanges(gateway, "user-s-1")
    request.getfixturevalue("only_general")
    general = exchanges(gateway, "user-s-2")

    assert few == general
    assert used(subscriber) == used(other)


def test_what_was_answered_by_one_message_is_answered_again(
    subscriber: Subscriber, gateway: Gateway
) -> None:
    first = [reserve(gateway), commit(gateway)]

    assert [reserve(gateway), commit(gateway)] == first
    assert_problem(try_commit(gateway, input_tokens=1), 409, "conflict")
    assert Reservation.objects.get().answer == first[1]
    assert used(subscriber) == {"allowance": 120}


def test_units_given_back_to_an_empty_bucket_are_drawn_before_what_was_drawn_meanwhile(
    subscriber: Subscriber, gateway: Gateway, operator: Operator
) -> None:
    lifecycle.give(
        subscriber.pk, units=50 * T, valid_until=NOW + DAY, reason="sorry", at=NOW - MINUTE
    )
    reserve(gateway, units="50")  # all of the gift, which burns first
    gateway.charge(record("r-1", input_tokens=7, output_tokens=0))
    commit(gateway, input_tokens=10, output_tokens=0)
    gateway.charge(record("r-2", input_tokens=5, output_tokens=0))

    assert used(subscriber) == {"gift": 15, "allowance": 7}
    assert_books_agree()


def test_a_commit_after_its_hold_is_charged_and_late(
    subscriber: Subscriber, gateway: Gateway, operator: Operator
) -> None:
    reserve(gateway, ttl_seconds=60)
    set_clock(operator, NOW + 2 * MINUTE)

    assert commit(gateway)["late"] is True
    assert used(subscriber) == {"allowance": 120}
    assert_books_agree()


def test_an_ask_sees_what_holds_past_their_time_give_back(
    subscriber: Subscriber, gateway: Gateway, operator: Operator
) -> None:
    reserve(gateway, "a-1", units="100", ttl_seconds=60)
    set_clock(operator, NOW + 2 * MINUTE)

    assert reserve(gateway, "a-2", units="100")["available"] == "900.000"


@pytest.mark.usefixtures("only_few")
def test_a_revoked_key_asks_in_vain_whatever_is_remembered(
    subscriber: Subscriber, gateway: Gateway
) -> None:
    reserve(gateway, "a-1")
    ApiKey.objects.filter(digest=keys.digest_of(gateway.key)).update(revoked_at=NOW)

    answer = post(gateway.client, PATH, asked("a-2"))

    assert_problem(answer, 401, "unauthorized")


def test_asks_of_one_moment_are_answered_each_for_itself(
    subscriber: Subscriber, gateway: Gateway, operator: Operator
) -> None:
    """In one run: two of one subscriber, two under one name, one of nobody, and a slice."""
    other = make_subscriber(operator, "s-2")
    subscribe(other, make_plan(operator, "other", allowance=100 * T))
    said = [
        asked("a-1", units="10"),
        asked("a-2", units="20"),
        asked("a-3", subject="user-s-2", units="30"),
        asked("a-3", subject="user-s-2", units="31"),
        asked("a-4", subject="nobody"),
        asked("a-5", units="40", slice=True),
        asked("a-6", subject="user-s-2", units="1000"),
    ]
    found = keys.find(gateway.key)
    assert found is not None
    assert found.gateway_id is not None
    caller = Caller(found.operator_id, found.gateway_id, found.pk)
    requests = [asking.parse(msgspec.json.encode(one)) for one in said]

    answers = asking.reserve(caller, requests, wall=NOW)

    told = [one.cause if isinstance(one, DomainError) else one["decision"] for one in answers]
    assert told == ["allow", "allow", "allow", "conflict", "deny", "allow", "deny"]
    reserved = [[b.reserved for b in buckets_of(one)] for one in (subscriber, other)]
    assert reserved == [[70 * T], [30 * T]]
    assert_books_agree()
