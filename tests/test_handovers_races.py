"""Handovers that cross each other, and usage that comes meanwhile."""

from __future__ import annotations

import datetime as dt
from functools import partial

import pytest

from billing.handovers import keeping
from billing.models import Handover
from subscriptions import lifecycle
from subscriptions.errors import DomainError
from subscriptions.models import Bucket, Operator, Subscriber
from tests.at_once import at_once
from tests.factories import NOW, make_operator, make_plan, make_subscriber, subscribe
from tests.usage import DAY, Gateway, assert_books_agree, record

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.xdist_group("races")]


def hand(operator: Operator, kind: str, giver: Subscriber, receiver: Subscriber) -> str:
    subjects = None if kind == "merge" else [f"user-{giver.external_id}"]
    balance = "keep" if kind == "merge" else "move"
    try:
        drafted = keeping.draft(
            operator,
            kind,
            giver,
            receiver,
            subjects=subjects,
            balance=balance,
            reason="a test",
            by="a test",
            at=NOW,
        )
        return keeping.ask(drafted, at=NOW).state
    except DomainError as error:
        return error.cause


def two(operator: Operator) -> list[Subscriber]:
    people = [make_subscriber(operator, f"s-{nr}") for nr in (1, 2)]
    for one in people:
        lifecycle.give(one.pk, units=1000, valid_until=NOW + DAY, reason="x", at=NOW)
    return people


def left_in_all() -> int:
    return sum((b.granted or 0) - b.used for b in Bucket.objects.filter(granted__isnull=False))


def test_of_two_who_become_each_other_one_does() -> None:
    operator = make_operator()
    one, other = two(operator)

    said = at_once(
        *[partial(hand, operator, "merge", one, other)] * 2,
        *[partial(hand, operator, "merge", other, one)] * 2,
    )

    assert sorted(said) == ["done", *["subscriber_merged"] * 3]
    assert Handover.objects.count() == 1
    assert Subscriber.objects.filter(merged_into__isnull=True).count() == 1
    assert left_in_all() == 2000
    assert_books_agree()


def test_numbers_that_cross_while_they_are_used_lose_no_unit() -> None:
    operator = make_operator()
    gateway = Gateway(operator)
    plan = make_plan(operator, allowance=1_000_000_000)
    people = two(operator)
    for one in people:
        subscribe(one, plan)
    before = left_in_all()

    def use(name: str) -> str:
        earlier = NOW - dt.timedelta(minutes=5)
        sent = [
            record(f"{name}-{nr}", subject=f"user-s-{nr % 2 + 1}", occurred_at=earlier)
            for nr in range(10)
        ]
        return f"used {gateway.charge(*sent)['accepted']}"

    said = at_once(
        partial(hand, operator, "transfer", people[0], people[1]),
        partial(hand, operator, "transfer", people[1], people[0]),
        partial(use, "a"),
        partial(use, "b"),
    )

    assert said == ["done", "done", "used 10", "used 10"]
    drawn = 20 * 120_000
    uncovered = sum(Bucket.objects.filter(kind="uncovered").values_list("used", flat=True))
    assert left_in_all() == before - drawn + uncovered
    assert_books_agree()
