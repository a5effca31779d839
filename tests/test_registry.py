"""What gateways call a subscriber, and since when."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable

import pytest
from django.db import connection
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from subscriptions import registry
from subscriptions.models import Operator, Subject
from subscriptions.registry import Draft
from tests.factories import NOW, make_operator, make_plan, make_subscriber, set_clock

LATER = NOW + dt.timedelta(hours=1)


@pytest.fixture
def operator(db: None) -> Operator:
    return make_operator()


def upsert(operator: Operator, *drafts: Draft) -> list[tuple[str, str | None]]:
    assert operator.clock_at is not None
    outcomes = registry.upsert(operator, drafts, at=operator.clock_at)
    return [(o.status, o.error.cause if o.error else None) for o in outcomes]


def bindings(
    operator: Operator, subject: str
) -> list[tuple[str, dt.datetime | None, dt.datetime | None]]:
    """(subscriber, from, until) of every binding the name ever had."""
    rows = Subject.objects.filter(operator=operator, subject=subject).order_by("pk")
    return [(row.subscriber.external_id, row.valid_from, row.valid_until) for row in rows]


def test_a_names_first_binding_has_no_start(operator: Operator) -> None:
    upsert(operator, Draft(external_id="a", subjects=("u",)))

    assert bindings(operator, "u") == [("a", None, None)]


def test_a_name_that_moves_is_bound_to_one_subscriber_at_a_time(operator: Operator) -> None:
    upsert(operator, Draft(external_id="a", subjects=("u",)))
    set_clock(operator, LATER)

    assert upsert(operator, Draft(external_id="b", subjects=("u",))) == [
        ("rejected", "subject_taken")
    ]
    assert upsert(
        operator, Draft(external_id="a", subjects=()), Draft(external_id="b", subjects=("u",))
    ) == [("updated", None), ("created", None)]

    assert bindings(operator, "u") == [("a", None, LATER), ("b", LATER, None)]


def test_a_name_can_come_back_while_the_clock_stands(operator: Operator) -> None:
    for subjects in (("u",), (), ("u",), (), ("u",)):
        upsert(operator, Draft(external_id="a", subjects=subjects))

    assert bindings(operator, "u") == [("a", None, NOW), ("a", NOW, NOW), ("a", NOW, None)]


def test_of_two_drafts_that_name_one_subject_the_first_gets_it(operator: Operator) -> None:
    assert upsert(
        operator,
        Draft(external_id="a", subjects=("u", "u", "v")),
        Draft(external_id="b", subjects=("v", "w")),
        Draft(external_id="c", subjects=("w",)),
    ) == [("created", None), ("rejected", "subject_taken"), ("created", None)]


def test_subjects_left_out_stay(operator: Operator) -> None:
    upsert(operator, Draft(external_id="a", subjects=("u",)))

    assert upsert(operator, Draft(external_id="a", name="named")) == [("updated", None)]
    assert upsert(operator, Draft(external_id="a", name="named")) == [("unchanged", None)]
    assert bindings(operator, "u") == [("a", None, None)]


def test_operators_share_no_names(operator: Operator) -> None:
    other = make_operator("other")

    for each in (operator, other):
        assert upsert(each, Draft(external_id="a", subjects=("u",))) == [("created", None)]


def test_a_batch_takes_as_many_statements_however_large(
    operator: Operator, django_assert_max_num_queries: Callable[[int], object]
) -> None:
    make_plan(operator)
    drafts = [
        Draft(external_id=f"s-{n}", name="x", subjects=(f"u-{n}",), plan="light")
        for n in range(300)
    ]
    upsert(operator, Draft(external_id="s-0", plan="light"))  # makes the journal's day

    with django_assert_max_num_queries(30):  # type: ignore[attr-defined]
        registry.upsert(operator, drafts, at=NOW)


@pytest.mark.django_db(transaction=True)
def test_two_who_want_one_name_at_once_do_not_both_get_it() -> None:
    operator = make_operator()
    make_subscriber(operator, "first", subjects=())
    outcomes: list[tuple[str, str | None]] = []
    barrier = threading.Barrier(4)

    def want(external_id: str) -> None:
        barrier.wait()
        outcomes.extend(upsert(operator, Draft(external_id=external_id, subjects=("u",))))
        connection.close()

    threads = [threading.Thread(target=want, args=(f"s-{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes, key=str) == [
        ("created", None),
        *[("rejected", "subject_taken")] * 3,
    ]


names = st.sampled_from(["u", "v", "w"])
steps = st.lists(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "c"]), st.frozensets(names)),
        min_size=1,
        max_size=3,
        unique_by=lambda step: step[0],
    ),
    min_size=1,
    max_size=5,
)


class SubjectTests(TestCase):
    @settings(max_examples=40, deadline=None)
    @given(batches=steps)
    def test_batches_do_what_a_dictionary_would(
        self, batches: list[list[tuple[str, frozenset[str]]]]
    ) -> None:
        operator = make_operator()
        holder: dict[str, str] = {}
        at = NOW
        for batch in batches:
            at += dt.timedelta(minutes=1)
            drafts = [
                Draft(external_id=who, subjects=tuple(sorted(wanted))) for who, wanted in batch
            ]

            outcomes = registry.upsert(operator, drafts, at=at)

            for (who, wanted), outcome in zip(batch, outcomes, strict=True):
                taken = any(holder.get(name, who) != who for name in wanted)
                assert (outcome.status == "rejected") == taken
                if not taken:
                    holder = {n: w for n, w in holder.items() if w != who}
                    holder |= dict.fromkeys(wanted, who)
        bound = Subject.objects.filter(operator=operator, valid_until__isnull=True)
        assert {b.subject: b.subscriber.external_id for b in bound} == holder
