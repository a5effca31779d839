"""The doors of the carrier's own systems, as a CRM sees them."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from rest_framework.test import APIClient

from subscriptions import lifecycle
from subscriptions.models import Bucket, Operator
from tests.factories import (
    NOW,
    client_for,
    local,
    make_gateway_key,
    make_operator,
    make_plan,
    make_rate_card,
    make_subscriber,
    set_clock,
    subscribe,
)

pytestmark = pytest.mark.django_db

LIGHT = {"name": "Light", "price": "9.90", "allowance": "10000000", "rate_card": "standard"}
FULL_PLAN: dict[str, Any] = {
    "name": "Pro",
    "price": {"amount": "159.90", "currency": "CNY"},
    "allowance": "70000000.500",
    "rate_card": "standard",
    "cycle": "subscription_day",
    "first_month": "by_day",
    "collect": "before_period",
    "rollover": "one_cycle",
    "on_exhaustion": "meter",
    "overage": {
        "price_per_million": "1.20",
        "block": {"units": "400000.000", "price": {"amount": "1.00", "currency": "CNY"}},
        "cap": {"amount": "100.00", "currency": "CNY"},
        "cap_units": "50000000.000",
    },
    "tax_rate": "0.0625",
    "components": [
        {
            "name": "tokens",
            "price": {"amount": "100.00", "currency": "CNY"},
            "tax_rate": "0.06",
            "tax_category": None,
        },
        {
            "name": "data",
            "price": {"amount": "59.90", "currency": "CNY"},
            "tax_rate": "0.09",
            "tax_category": None,
        },
    ],
}


def put(api: APIClient, path: str, body: Any) -> Any:
    return api.put(f"/api/v1/{path}", body, format="json")


def post(api: APIClient, path: str, body: Any, **headers: str) -> Any:
    return api.post(f"/api/v1/{path}", body, format="json", headers=headers)


def balance(api: APIClient, external_id: str = "s-1", query: str = "") -> Any:
    answer = api.get(f"/api/v1/subscribers/{external_id}/balance{query}")
    assert answer.status_code == 200, answer.json()
    return answer.json()


# Plans and boosters ------------------------------------------------------------------------------


def test_a_plan_with_nothing_but_the_needed_gets_the_documented_defaults(
    api: APIClient, operator: Operator
) -> None:
    make_rate_card(operator)

    answer = put(api, "plans/light", LIGHT)

    assert answer.status_code == 201
    assert answer.json() == {
        "code": "light",
        "version": 1,
        "name": "Light",
        "price": {"amount": "9.90", "currency": "CNY"},
        "allowance": "10000000.000",
        "rate_card": "standard",
        "cycle": "calendar_month",
        "first_month": "full",
        "collect": "at_close",
        "rollover": "none",
        "on_exhaustion": "stop",
        "refund": "none",
        "trial": None,
        "pause_plan": None,
        "suspends": False,
        "overage": {"price_per_million": None, "block": None, "cap": None, "cap_units": None},
        "degrade_to": {"model": None, "tokens_per_minute": None},
        "outcomes": {
            "complete": "billed",
            "client_gone": "billed",
            "upstream_error": "free",
            "cached_replay": "free",
            "blocked": "free",
        },
        "tax_rate": "0.06",
        "tax_category": None,
        "components": [],
        "windows": [],
        "rate_limit": {
            "requests_per_minute": None,
            "tokens_per_minute": None,
            "when_unavailable": "open",
        },
        "created_at": "2026-06-10T04:00:00Z",
    }


def test_what_a_plan_says_comes_back_as_it_was_said(api: APIClient, operator: Operator) -> None:
    make_rate_card(operator)

    answer = put(api, "plans/pro", FULL_PLAN).json()

    assert {name: answer[name] for name in FULL_PLAN} == FULL_PLAN


def test_publishing_the_same_again_makes_no_version(api: APIClient, operator: Operator) -> None:
    make_rate_card(operator)

    answers = [put(api, "plans/pro", body) for body in (FULL_PLAN, FULL_PLAN)]
    changed = put(api, "plans/pro", {**FULL_PLAN, "price": "159.90", "name": "Pro+"})

    assert [a.status_code for a in answers] == [201, 200]
    assert [a.json()["version"] for a in (*answers, changed)] == [1, 1, 2]


def test_a_change_in_a_component_is_a_new_version(api: APIClient, operator: Operator) -> None:
    make_rate_card(operator)
    put(api, "plans/pro", FULL_PLAN)
    tokens, data = FULL_PLAN["components"]

    answer = put(
        api, "plans/pro", {**FULL_PLAN, "components": [tokens, {**data, "tax_rate": "0.06"}]}
    )

    assert (answer.status_code, answer.json()["version"]) == (201, 2)


def tiers(steps: list[tuple[str | None, str]], **more: Any) -> dict[str, Any]:
    said = [{"up_to": up_to, "price_per_million": price} for up_to, price in steps]
    return {"on_exhaustion": "meter", "overage": {"tiers": said, **more}}


def test_a_plan_with_tiers_is_told_as_it_was_said(api: APIClient, operator: Operator) -> None:
    make_rate_card(operator)
    said = tiers([("1000000.000", "2.00"), (None, "1.50")], tier_mode="volume")

    answers = [put(api, "plans/light", {**LIGHT, **said}) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [201, 200]
    overage = answers[0].json()["overage"]
    assert overage["tier_mode"] == "volume"
    assert overage["tiers"] == [
        {"up_to": "1000000.000", "price_per_million": "2.00"},
        {"up_to": None, "price_per_million": "1.50"},
    ]
    assert overage["price_per_million"] is None


def test_plans_are_listed_by_cursor_in_their_newest_version(
    api: APIClient, operator: Operator
) -> None:
    for code in ("c", "a", "b"):
        make_plan(operator, code)
    make_plan(operator, "a", name="Newer")
    make_plan(make_operator("other"), "z")

    first = api.get("/api/v1/plans?limit=2").json()
    second = api.get(first["next"]).json()

    assert [(p["code"], p["version"]) for p in first["items"]] == [("a", 2), ("b", 1)]
    assert [p["code"] for p in second["items"]] == ["c"]
    assert second["next"] is None


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"rate_card": "nowhere"}, "unknown_rate_card"),
        ({"price": {"amount": "1", "currency": "USD"}}, "wrong_currency"),
        ({"on_exhaustion": "meter"}, "invalid"),
        ({"on_exhaustion": "blocks"}, "invalid"),
        ({"overage": {"tiers": [{"price_per_million": "1"}]}}, "invalid"),  # not metered
        ({"on_exhaustion": "meter", "overage": {"tiers": []}}, "invalid"),
        (tiers([(None, "2")], price_per_million="1"), "invalid"),
        (tiers([("10", "2")]), "invalid"),
        (tiers([(None, "2"), (None, "1")]), "invalid"),
        (tiers([("10", "2"), ("10", "1"), (None, "1")]), "invalid"),
        (tiers([("10", "-2"), (None, "1")]), "invalid"),
        (tiers([("10", "2"), (None, "1")], tier_mode="stairs"), "invalid"),
        ({"overage": {"block": {"units": "0", "price": "1"}}}, "invalid"),
        ({"components": [{"name": "x", "price": "1.00", "tax_rate": "0.06"}]}, "invalid"),
        ({"price": "-1"}, "invalid"),
        ({"price": "9.999"}, "invalid"),
        ({"price": "1" * 15}, "invalid"),
        ({"price": "NaN"}, "invalid"),
        ({"price": ["9.90"]}, "invalid"),
        ({"price": {"currency": "CNY"}}, "invalid"),
        ({"price": {"amount": "1", "currency": 5}}, "invalid"),
        ({"price": True}, "invalid"),
        ({"allowance": "1.0001"}, "invalid"),
        ({"allowance": "1000000000000001"}, "invalid"),
        ({"allowance": "1e400"}, "invalid"),
        ({"allowance": None}, "invalid"),
        ({"cycle": "weekly"}, "invalid"),
        ({"cycle": ["calendar_month"]}, "invalid"),
        ({"tax_rate": "1"}, "invalid"),
        ({"name": ""}, "invalid"),
        ({"name": 7}, "invalid"),
        ({"name": "x" * 201}, "invalid"),
        ({"name": "nul \0"}, "invalid"),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused(
    api: APIClient, operator: Operator, change: dict[str, Any], cause: str
) -> None:
    make_rate_card(operator)

    answer = put(api, "plans/light", {**LIGHT, **change})

    assert (answer.status_code, answer.json()["cause"]) == (422, cause)


def test_a_booster_is_published_in_versions(api: APIClient) -> None:
    body = {"name": "10 M", "price": "8.00", "units": "10000000", "valid_days": 30}

    answers = [put(api, "boosters/ten", said) for said in (body, body, {**body, "valid_days": 60})]

    assert [(a.status_code, a.json()["version"]) for a in answers] == [(201, 1), (200, 1), (201, 2)]
    assert answers[0].json()["units"] == "10000000.000"


# Subscribers -------------------------------------------------------------------------------------


def test_a_subscriber_is_created_changed_and_shown(api: APIClient) -> None:
    body = {
        "name": "Subscriber one",
        "kind": "organisation",
        "subjects": ["user-7", "user-8"],
        "msisdn": "13900000000",
        "email": "one@example.com",
    }

    created = put(api, "subscribers/s-1", body)
    assert created.status_code == 201
    assert created.json() == {
        "external_id": "s-1",
        **body,
        "language": "zh-hans",
        "created_at": "2026-06-10T04:00:00Z",
    }
    changed = put(api, "subscribers/s-1", {"name": "Renamed", "subjects": ["user-8"]})
    assert changed.status_code == 200
    assert api.get("/api/v1/subscribers/s-1").json() == changed.json()
    assert changed.json() == {**created.json(), "name": "Renamed", "subjects": ["user-8"]}


def test_subscribers_are_listed_by_cursor(api: APIClient, operator: Operator) -> None:
    for number in (3, 1, 2):
        make_subscriber(operator, f"s-{number}")

    first = api.get("/api/v1/subscribers?limit=2").json()
    second = api.get(first["next"]).json()

    assert [s["external_id"] for s in first["items"]] == ["s-1", "s-2"]
    assert [s["subjects"] for s in second["items"]] == [["user-s-3"]]
    assert second["next"] is None


def test_a_batch_answers_for_every_item(api: APIClient, operator: Operator) -> None:
    make_plan(operator)
    make_plan(operator, "big")
    make_subscriber(operator, "taker", subjects=("taken",))
    subscribe(make_subscriber(operator, "holder"), make_plan(operator, "big"))
    make_subscriber(operator, "same", subjects=())

    answer = post(
        api,
        "subscribers/batch",
        [
            {"external_id": "new", "subjects": ["n"], "plan": "light"},
            {"external_id": "same"},
            {"external_id": "wants", "subjects": ["taken"], "plan": "light"},
            {"external_id": "holder", "plan": "light", "name": "not taken over"},
            {"external_id": "lost", "plan": "nowhere"},
            {"external_id": "new", "name": "twice"},
            {"external_id": 5},
            "text",
            {"external_id": "taker", "name": "renamed", "subjects": []},
            {"external_id": "late", "subjects": ["taken"]},
        ],
    )

    assert answer.status_code == 200
    items = answer.json()["items"]
    assert [(i["external_id"], i["status"], i.get("cause")) for i in items] == [
        ("new", "created", None),
        ("same", "unchanged", None),
        ("wants", "rejected", "subject_taken"),
        ("holder", "rejected", "plan_held"),
        ("lost", "rejected", "unknown_plan"),
        ("new", "rejected", "repeated"),
        (None, "rejected", "invalid"),
        (None, "rejected", "invalid"),
        ("taker", "updated", None),
        ("late", "created", None),
    ]
    assert items[6]["errors"] == [{"field": "external_id", "detail": "Not a valid string."}]
    assert balance(api, "new")["available"] == "10000000.000"
    assert api.get("/api/v1/subscribers/holder").json()["name"] == "holder"
    assert api.get("/api/v1/subscribers/wants").status_code == 404


def test_a_batch_sent_again_changes_nothing(api: APIClient, operator: Operator) -> None:
    make_plan(operator)
    batch = [
        {"external_id": f"s-{n}", "name": "x", "subjects": [f"u-{n}"], "plan": "light"}
        for n in range(30)
    ]

    first, second = (post(api, "subscribers/batch", batch).json()["items"] for _ in range(2))

    assert {item["status"] for item in first} == {"created"}
    assert {item["status"] for item in second} == {"unchanged"}
    assert Bucket.objects.count() == 30


def test_a_plan_that_is_to_follow_is_held_already(api: APIClient, operator: Operator) -> None:
    subscriber = make_subscriber(operator)
    subscription = subscribe(subscriber, make_plan(operator))
    make_plan(operator, "big")
    lifecycle.change(subscriber.pk, subscription.id, plan_code="big", at=NOW)

    answer = post(api, "subscribers/batch", [{"external_id": "s-1", "plan": "big"}])

    assert answer.json()["items"][0]["status"] == "unchanged"


def test_a_thousand_subscribers_are_one_batch_and_one_more_is_too_many(api: APIClient) -> None:
    batch = [{"external_id": f"s-{n}"} for n in range(1001)]

    assert post(api, "subscribers/batch", batch).status_code == 413
    answer = post(api, "subscribers/batch", batch[:1000]).json()
    assert {item["status"] for item in answer["items"]} == {"created"}


# Subscriptions -----------------------------------------------------------------------------------


def test_a_plan_is_sold_once(api: APIClient, operator: Operator) -> None:
    make_plan(operator)
    make_subscriber(operator)

    sold = post(api, "subscribers/s-1/subscriptions", {"plan": "light"})
    again = post(api, "subscribers/s-1/subscriptions", {"plan": "light"})

    assert sold.status_code == 201
    assert sold.json() == {
        "id": sold.json()["id"],
        "status": "active",
        "plan": "light",
        "plan_version": 1,
        "next_plan": None,
        "paused_plan": None,
        "starts_at": "2026-06-10T04:00:00Z",
        "ends_at": None,
        "cancel_at_period_end": False,
        "current_period": {
            "starts_at": "2026-06-10T04:00:00Z",
            "ends_at": "2026-06-30T16:00:00Z",
        },
    }
    assert (again.status_code, again.json()["cause"]) == (409, "plan_held")


def test_a_subscription_keeps_the_version_it_was_sold(api: APIClient, operator: Operator) -> None:
    subscription = subscribe(make_subscriber(operator), make_plan(operator))
    make_plan(operator, allowance=1)
    set_clock(operator, local(2026, 7, 2))

    shown = api.get(f"/api/v1/subscribers/s-1/subscriptions/{subscription.id}").json()

    assert shown["plan_version"] == 1
    assert balance(api)["available"] == "10000000.000"


def test_a_subscription_is_changed_and_cancelled_through_the_api(
    api: APIClient, operator: Operator
) -> None:
    subscription = subscribe(make_subscriber(operator), make_plan(operator))
    make_plan(operator, "big")
    path = f"/api/v1/subscribers/s-1/subscriptions/{subscription.id}"

    def patch(body: Any) -> Any:
        return api.patch(path, body, format="json")

    assert patch({"plan": "big"}).json()["next_plan"] == "big"
    assert patch({"plan": "light"}).json()["next_plan"] is None
    cancelled = patch({"cancel_at_period_end": True}).json()
    assert (cancelled["cancel_at_period_end"], cancelled["ends_at"]) == (
        True,
        "2026-06-30T16:00:00Z",
    )
    assert patch({"cancel_at_period_end": False}).json()["ends_at"] is None
    wrong: list[Any] = [{}, {"plan": 5}, {"plan": "nowhere"}, {"cancel_at_period_end": "yes"}, []]
    for bad in wrong:
        assert patch(bad).status_code == 422


def test_the_subscriptions_of_a_subscriber_are_listed(api: APIClient, operator: Operator) -> None:
    subscriber, plan = make_subscriber(operator), make_plan(operator)
    first = subscribe(subscriber, plan)
    lifecycle.change(subscriber.pk, first.id, cancel_at_period_end=True, at=NOW)
    subscribe(subscriber, plan, starts_at=local(2026, 7, 1))
    set_clock(operator, local(2026, 6, 30))

    page = api.get("/api/v1/subscribers/s-1/subscriptions?limit=1").json()
    rest = api.get(page["next"]).json()

    assert [s["status"] for s in (*page["items"], *rest["items"])] == ["active", "pending"]


@pytest.mark.parametrize(
    "starts_at",
    [
        "yesterday",
        "2026-06-10",
        "2026-06-10T12:00:00",
        "0001-01-01T00:00:00+08:00",
        "9999-12-31T23:59:59-12:00",
        "2026-13-01T00:00:00Z",
        "2024-01-01T00:00:00Z",
        1781000000,
        {},
    ],
)
def test_a_start_that_is_no_near_instant_is_refused(
    api: APIClient, operator: Operator, starts_at: Any
) -> None:
    make_plan(operator)
    make_subscriber(operator)

    answer = post(api, "subscribers/s-1/subscriptions", {"plan": "light", "starts_at": starts_at})

    assert answer.status_code == 422
    assert Bucket.objects.count() == 0


# Boosters, gifts, balance ------------------------------------------------------------------------


def test_the_balance_lists_buckets_in_burn_order(api: APIClient, operator: Operator) -> None:
    plan = make_plan(operator, on_exhaustion="meter", price_per_million="1.20")
    subscribe(make_subscriber(operator), plan)
    put(api, "boosters/b", {"name": "B", "price": "8", "units": "1000.5", "valid_days": 30})

    sold = post(api, "subscribers/s-1/boosters", {"booster": "b"})
    given = post(
        api,
        "subscribers/s-1/grants",
        {"units": "7", "valid_until": "2026-06-11T00:00:00+08:00", "reason": "sorry"},
    )

    assert (sold.status_code, given.status_code) == (201, 201)
    assert sold.json()["valid_until"] == "2026-07-10T04:00:00Z"
    assert given.json()["valid_until"] == "2026-06-10T16:00:00Z"
    shown = balance(api)
    assert [(b["kind"], b["priority"], b["remaining"]) for b in shown["buckets"]] == [
        ("gift", 20, "7.000"),
        ("allowance", 30, "10000000.000"),
        ("booster", 40, "1000.500"),
        ("overage", 90, None),
    ]
    assert shown["as_of"] == "2026-06-10T04:00:00Z"
    assert (shown["available"], shown["reserved"]) == ("10001007.500", "0.000")
    assert shown["buckets"][1] == {
        "id": shown["buckets"][1]["id"],
        "kind": "allowance",
        "granted": "10000000.000",
        "used": "0.000",
        "reserved": "0.000",
        "remaining": "10000000.000",
        "priority": 30,
        "valid_from": "2026-06-10T04:00:00Z",
        "valid_until": "2026-06-30T16:00:00Z",
    }


def test_a_bucket_is_listed_through_its_grace_and_counted_only_while_it_lives(
    api: APIClient, operator: Operator
) -> None:
    subscription = subscribe(make_subscriber(operator), make_plan(operator))
    lifecycle.change(subscription.subscriber_id, subscription.id, cancel_at_period_end=True, at=NOW)
    end, us = local(2026, 7, 1), dt.timedelta(microseconds=1)

    def seen(at: dt.datetime, query: str = "") -> tuple[int, str]:
        set_clock(operator, at)
        shown = balance(api, query=query)
        return len(shown["buckets"]), shown["available"]

    assert seen(end - us) == (1, "10000000.000")
    assert seen(end) == (1, "0.000")
    assert seen(end + operator.late_grace - us) == (1, "0.000")
    assert seen(end + operator.late_grace) == (0, "0.000")
    assert seen(end + operator.late_grace, "?all=1") == (1, "0.000")


def test_the_balance_opens_what_no_job_has_opened_yet(api: APIClient, operator: Operator) -> None:
    subscribe(make_subscriber(operator), make_plan(operator, rollover="one_cycle"))
    set_clock(operator, local(2026, 9, 15))

    shown = balance(api)

    assert [(b["kind"], b["valid_until"]) for b in shown["buckets"]] == [
        ("rollover", "2026-09-30T16:00:00Z"),
        ("allowance", "2026-09-30T16:00:00Z"),
    ]
    assert len(balance(api, query="?all=1")["buckets"]) == 7


def test_reserved_units_are_not_available(api: APIClient, operator: Operator) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator))
    Bucket.objects.filter(subscriber_id=subscriber.pk).update(used=1_000, reserved=2_500)

    shown = balance(api)

    assert (shown["available"], shown["reserved"]) == ("9999996.500", "2.500")


def test_each_sale_of_a_booster_is_a_bucket_of_its_own(api: APIClient, operator: Operator) -> None:
    make_subscriber(operator)
    put(api, "boosters/b", {"name": "B", "price": "8", "units": "1", "valid_days": 1})

    for _ in range(3):
        assert post(api, "subscribers/s-1/boosters", {"booster": "b"}).status_code == 201

    assert len(balance(api)["buckets"]) == 3


@pytest.mark.parametrize(
    "gift",
    [
        {"units": "0", "valid_until": "2026-07-01T00:00:00Z", "reason": "x"},
        {"units": "-5", "valid_until": "2026-07-01T00:00:00Z", "reason": "x"},
        {"units": "1", "valid_until": "2026-06-10T12:00:00+08:00", "reason": "not after now"},
        {"units": "1", "valid_until": "2026-07-01T00:00:00Z"},
        {"units": "1", "valid_until": "9999-12-31T00:00:00Z", "reason": "x"},
        {"units": 1e300, "valid_until": "2026-07-01T00:00:00Z", "reason": "x"},
    ],
)
def test_a_gift_that_is_none_is_refused(
    api: APIClient, operator: Operator, gift: dict[str, Any]
) -> None:
    make_subscriber(operator)

    assert post(api, "subscribers/s-1/grants", gift).status_code == 422


# Keys --------------------------------------------------------------------------------------------


def test_another_operators_subscriber_does_not_exist(api: APIClient, operator: Operator) -> None:
    make_plan(operator)
    other = make_operator("other")
    subscription = subscribe(make_subscriber(other), make_plan(other))
    theirs = f"subscribers/s-1/subscriptions/{subscription.id}"

    answers = [
        api.get("/api/v1/subscribers/s-1"),
        api.get("/api/v1/subscribers/s-1/balance"),
        api.get(f"/api/v1/{theirs}"),
        api.get("/api/v1/subscribers/s-1/subscriptions"),
        api.patch(f"/api/v1/{theirs}", {"plan": "light"}, format="json"),
        post(api, "subscribers/s-1/subscriptions", {"plan": "light"}),
        post(api, "subscribers/s-1/boosters", {"booster": "b"}),
        post(api, "subscribers/s-1/grants", {"units": "1"}),
    ]

    assert [a.status_code for a in answers] == [404] * len(answers)
    assert api.get("/api/v1/subscribers").json()["items"] == []
    # The same ids may be used by both.
    assert put(api, "subscribers/s-1", {"subjects": ["user-s-1"]}).status_code == 201
    assert api.get(f"/api/v1/{theirs}").status_code == 404


def test_without_a_good_key_nothing_is_told(operator: Operator) -> None:
    for client in (APIClient(), client_for("tbo_wrong"), client_for("")):
        answer = client.get("/api/v1/plans")
        assert (answer.status_code, answer.json()["cause"]) == (401, "unauthorized")
        assert answer["WWW-Authenticate"] == "Bearer"
    answer = client_for(make_gateway_key(operator)).get("/api/v1/plans")
    assert (answer.status_code, answer.json()["cause"]) == (403, "wrong_role")
