"""What a call's outcome costs: the plan's table decides, in every way usage is charged."""

from __future__ import annotations

from typing import Any

import pytest
from rest_framework.test import APIClient

from subscriptions.models import Operator, Plan
from tests.asking import commit, held, reserve
from tests.factories import (
    NOW,
    make_plan,
    make_rate_card,
    make_subscriber,
    subscribe,
)
from tests.usage import (
    DAY,
    Gateway,
    T,
    assert_books_agree,
    assert_problem,
    balance,
    bare,
    get,
    put,
    record,
    records_of,
    usage_by,
    used,
)

pytestmark = pytest.mark.django_db

USUAL = {
    "complete": "billed",
    "client_gone": "billed",
    "upstream_error": "free",
    "cached_replay": "free",
    "blocked": "free",
}
PLAN = {"name": "Light", "price": "9.90", "allowance": "1000", "rate_card": "standard"}
# Words of our own, other words, and none.
WORDS = (*USUAL, "cancelled", None)


def one_of_each() -> list[dict[str, Any]]:
    """A record of 120 tokens for each word."""
    return [record(f"r-{word}", outcome=word) for word in WORDS]


def charged(api: APIClient) -> dict[str, str]:
    return {item["id"].removeprefix("r-"): item["units"] for item in records_of(api)}


def billed(*words: str) -> dict[str, str]:
    return {str(word): "120.000" if str(word) in words else "0.000" for word in WORDS}


def test_failed_blocked_and_cached_calls_are_stored_and_not_charged(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator))

    answer = gateway.charge(*one_of_each())

    assert (answer["accepted"], answer["units"]) == (7, "480.000")
    assert charged(api) == billed("complete", "client_gone", "cancelled", "None")
    assert used(subscriber) == {"allowance": 480}
    assert_books_agree()


def test_a_plan_says_otherwise(operator: Operator, gateway: Gateway, api: APIClient) -> None:
    subscriber = make_subscriber(operator)
    table = {"client_gone": "free", "blocked": "billed", "cached_replay": "billed"}
    subscribe(subscriber, make_plan(operator, outcomes={**USUAL, **table}))

    gateway.charge(*one_of_each())

    assert charged(api) == billed("complete", "blocked", "cached_replay", "cancelled", "None")
    assert used(subscriber) == {"allowance": 600}
    assert_books_agree()


def test_without_a_plan_the_usual_table_holds(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    subscriber = bare(operator)

    gateway.charge(*one_of_each())

    assert charged(api) == billed("complete", "client_gone", "cancelled", "None")
    assert used(subscriber) == {"uncovered": 480}
    assert_books_agree()


def test_one_record_at_a_time_is_charged_alike(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    """What is remembered of a subject by the second record on changes nothing."""
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator))

    for sent in (*one_of_each(), *(item | {"id": f"{item['id']}-2"} for item in one_of_each())):
        gateway.charge(sent)

    assert sum(float(units) for units in charged(api).values()) == 960
    assert used(subscriber) == {"allowance": 960}
    assert_books_agree()


def test_a_version_sold_keeps_its_table(operator: Operator, gateway: Gateway) -> None:
    first, second = make_subscriber(operator, "s-1"), make_subscriber(operator, "s-2")
    subscribe(first, make_plan(operator))
    subscribe(second, make_plan(operator, outcomes={**USUAL, "blocked": "billed"}))

    gateway.charge(*(record(f"r-{nr}", subject=f"user-s-{nr}", outcome="blocked") for nr in (1, 2)))

    assert (used(first), used(second)) == ({}, {"allowance": 120})
    assert_books_agree()


def test_a_version_sold_before_there_were_tables_bills_everything(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator, outcomes={}))

    gateway.charge(*one_of_each())

    assert used(subscriber) == {"allowance": 840}
    assert get(api, "plans")["items"][0]["outcomes"] == dict.fromkeys(USUAL, "billed")
    assert_books_agree()


def test_a_receipt_of_what_is_free_weighs_nothing(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    subscribe(make_subscriber(operator), make_plan(operator))
    gateway.charge(record(outcome="upstream_error"))

    [shown] = records_of(api)

    assert (shown["input_tokens"], shown["output_tokens"]) == (100, 20)
    assert (shown["units"], shown["receipt"]["lines"], shown["receipt"]["buckets"]) == (
        "0.000",
        [],
        [],
    )
    [day] = usage_by(api, "day", NOW - DAY, NOW + DAY)
    assert (day["requests"], day["input_tokens"], day["units"]) == (1, 100, "0.000")


def test_a_commit_of_a_failed_call_releases_all_that_was_held(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator))
    reserve(gateway, units="200")

    answer = commit(gateway, outcome="upstream_error")

    assert (answer["accepted"], answer["units"], answer["released"]) == (1, "0.000", "200.000")
    assert (used(subscriber), held(balance(api))) == ({}, {})
    assert_books_agree()


# The plan's door ---------------------------------------------------------------------------------


def test_a_plan_shows_its_table_and_takes_what_it_shows(operator: Operator, api: APIClient) -> None:
    make_rate_card(operator)
    first = put(api, "plans/light", PLAN).json()
    assert first["outcomes"] == USUAL

    again = put(api, "plans/light", {**PLAN, "outcomes": first["outcomes"]})
    other = put(api, "plans/light", {**PLAN, "outcomes": {"blocked": "billed"}})

    assert (again.status_code, again.json()["version"]) == (200, 1)
    assert (other.status_code, other.json()["version"]) == (201, 2)
    assert other.json()["outcomes"] == {**USUAL, "blocked": "billed"}
    assert Plan.objects.get(version=2).outcomes["client_gone"] == "billed"


@pytest.mark.parametrize(
    "outcomes",
    [{"complete": "free"}, {"blocked": "half"}, {"blocked": None}, ["blocked"], "free"],
)
def test_a_table_that_cannot_be_is_refused(
    operator: Operator, api: APIClient, outcomes: Any
) -> None:
    make_rate_card(operator)

    assert_problem(put(api, "plans/light", {**PLAN, "outcomes": outcomes}), 422, "invalid")


def test_units_are_whole_or_none(operator: Operator, gateway: Gateway) -> None:
    """A batch in which one subscriber has only what is free, beside others that pay."""
    plan = make_plan(operator)
    subscribers = [make_subscriber(operator, f"s-{nr}") for nr in range(4)]
    for subscriber in subscribers:
        subscribe(subscriber, plan)

    for turn in range(3):
        gateway.charge(
            *(
                record(
                    f"r-{turn}-{nr}",
                    subject=f"user-s-{nr}",
                    outcome="blocked" if nr % 2 else None,
                )
                for nr in range(4)
            )
        )

    assert [used(s).get("allowance", 0) * T for s in subscribers] == [360 * T, 0, 360 * T, 0]
    assert_books_agree()
