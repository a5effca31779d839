"""A range of usage under another rate card: previewed, then applied as it was previewed."""

from __future__ import annotations

from typing import Any

import pytest
from rest_framework.test import APIClient

from metering.models import Adjustment
from subscriptions.models import Operator, Subscriber
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
    post,
    record,
    records_of,
    split_of,
    usage_by,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("committed_days")]


@pytest.fixture
def subscriber(operator: Operator, gateway: Gateway) -> Subscriber:
    """`s-1` with 1,000 units, who used 120 of a cheap model and 120 of a dear one."""
    make_rate_card(operator, "fair", weights={"cheap": ("0.5",) * 5, "dear": ("5",) * 5})
    subscriber = make_subscriber(operator)
    plan = make_plan(operator, allowance=500 * T, on_exhaustion="meter", price_per_million="1.20")
    subscribe(subscriber, plan, starts_at=NOW - DAY)
    gateway.charge(record("a", model="cheap"), record("b", model="dear"))
    return subscriber


def preview(api: APIClient, **said: Any) -> Any:
    order = {
        "rate_card": "fair",
        "since": (NOW - DAY).isoformat(),
        "until": (NOW + DAY).isoformat(),
        "reason": "the card was wrong",
    }
    answer = post(api, "re-ratings", order | said)
    assert answer.status_code == 201, answer.content
    return answer.json()


def apply(api: APIClient, run: Any) -> Any:
    return post(api, f"re-ratings/{run['id']}/apply")


def test_a_preview_says_who_gains_and_loses_and_moves_nothing(
    operator: Operator, gateway: Gateway, api: APIClient, subscriber: Subscriber
) -> None:
    make_subscriber(operator, "s-2")
    gateway.charge(record("c", subject="user-s-2", model="cheap"))

    run = preview(api)

    assert (run["gain"], run["lose"], run["applied_at"]) == (1, 1, None)
    rows = [(s["subscriber"], s["records"], s["difference"]) for s in run["subscribers"]]
    assert rows == [("s-1", 2, "420.000"), ("s-2", 1, "-60.000")]
    assert not Adjustment.objects.exists()


def test_what_was_previewed_is_applied_in_one_batch(api: APIClient, subscriber: Subscriber) -> None:
    run = preview(api)

    done = apply(api, run).json()

    assert done["applied_at"] is not None
    assert {item["id"]: item["units"] for item in records_of(api)} == {
        "a": "60.000",
        "b": "600.000",
    }
    assert split_of(api)["b"] == [("allowance", "440.000"), ("overage", "160.000")]
    assert Adjustment.objects.get().records == 2
    [day] = usage_by(api, "day", NOW - DAY, NOW + DAY)
    assert (day["requests"], day["units"]) == (2, "660.000")
    assert_books_agree()


def test_applied_twice_it_is_applied_once(api: APIClient, subscriber: Subscriber) -> None:
    run = preview(api)

    assert apply(api, run).json() == apply(api, run).json()

    assert Adjustment.objects.count() == 1
    assert_books_agree()


def test_after_new_usage_or_another_card_version_it_has_to_be_previewed_again(
    operator: Operator, gateway: Gateway, api: APIClient, subscriber: Subscriber
) -> None:
    run = preview(api)
    gateway.charge(record("late", model="cheap"))
    assert_problem(apply(api, run), 409, "snapshot_changed")
    run = preview(api)
    path = "subscribers/s-1/usage-records/late/void"
    assert post(api, path, {"reason": "x"}).status_code == 200
    assert_problem(apply(api, run), 409, "snapshot_changed")
    run = preview(api)
    make_rate_card(operator, "fair", weights={"*": ("2",) * 5})
    assert_problem(apply(api, run), 409, "snapshot_changed")

    assert apply(api, preview(api)).status_code == 200
    assert {item["id"]: item["units"] for item in records_of(api)} == {
        "a": "240.000",
        "b": "240.000",
        "late": "0.000",
    }
    assert_books_agree()


def test_only_what_a_card_weighed_is_weighed_anew(
    operator: Operator, api: APIClient, subscriber: Subscriber
) -> None:
    run = preview(api, replaces="another")

    assert [(s["records"], s["difference"]) for s in run["subscribers"]] == [(0, "0.000")]
    assert_problem(post(api, "re-ratings", {"reason": "x"}), 422, "invalid")
