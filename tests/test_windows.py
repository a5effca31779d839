"""Windows of a plan: at most so many units per 5 hours, day, week and month, all at once."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase
from rest_framework.test import APIClient

from metering import rollups, windows
from metering.models import UsageRecord
from subscriptions import clock
from subscriptions.demands import Period
from subscriptions.models import Operator, Subscriber
from subscriptions.policies import Window, policy_from
from tests.asking import commit, release, reserve
from tests.factories import (
    NOW,
    local,
    make_operator,
    make_plan,
    make_subscriber,
    set_clock,
    subscribe,
)
from tests.usage import (
    DAY,
    HOUR,
    MINUTE,
    US,
    Gateway,
    T,
    assert_books_agree,
    assert_problem,
    bare,
    post,
    put,
    record,
    used,
)

pytestmark = pytest.mark.django_db

PLAN = {"name": "W", "price": "1", "allowance": "1000000", "rate_card": "standard"}


def holder(operator: Operator, *limits: Window) -> Subscriber:
    """`s-1` with a plan that has these windows and a million units, since noon of 10 June."""
    subscriber = make_subscriber(operator)
    plan = make_plan(operator, allowance=1_000_000 * T, windows=limits)
    subscribe(subscriber, plan)
    return subscriber


def use(gateway: Gateway, name: str, tokens: int, at: dt.datetime) -> None:
    gateway.charge(record(name, occurred_at=at, input_tokens=tokens, output_tokens=0))


def left(gateway: Gateway, name: str) -> float:
    """How much may be used at once, found by asking for more."""
    answer = reserve(gateway, name, units="1000000")
    assert (answer["decision"], answer["cause"]) == ("deny", "rate_limited")
    return float(answer["limit"]["left"])


# Plan data ---------------------------------------------------------------------------------------


def test_a_plan_says_its_windows_and_shows_them(api: APIClient, operator: Operator) -> None:
    make_plan(operator, "other")
    said = [
        {"per": "week", "kind": "fixed", "units": "4000.000"},
        {"per": "5h", "kind": "sliding", "units": "500.000"},
        {"per": "5h", "kind": "fixed", "units": "600.000"},
    ]

    made = put(api, "plans/w", {**PLAN, "windows": said})
    again = put(api, "plans/w", {**PLAN, "windows": said[::-1]})
    other = put(api, "plans/w", {**PLAN, "windows": said[:2]})

    assert (made.status_code, again.status_code, other.status_code) == (201, 200, 201)
    assert sorted(made.json()["windows"], key=str) == sorted(said, key=str)
    assert put(api, "plans/v", PLAN).json()["windows"] == []
    assert put(api, "plans/v", {**PLAN, "windows": None}).status_code == 200


@pytest.mark.parametrize(
    "wrong",
    [
        [{"per": "hour", "units": "1"}],
        [{"per": "day", "units": "-1"}],
        [{"per": "day"}],
        [{"per": "day", "kind": "sliding", "units": "1"}],
        [{"per": "day", "units": "1"}, {"per": "day", "units": "2"}],
        {"per": "day"},
    ],
)
def test_windows_that_make_no_sense_are_refused(
    wrong: Any, api: APIClient, operator: Operator
) -> None:
    make_plan(operator, "other")
    assert_problem(put(api, "plans/w", {**PLAN, "windows": wrong}), 422, "invalid")


# What counts -------------------------------------------------------------------------------------


def test_the_fullest_window_refuses_with_when_it_begins_anew(
    gateway: Gateway, operator: Operator
) -> None:
    holder(operator, Window("5h", 500 * T), Window("day", 800 * T), Window("month", 10_000 * T))
    use(gateway, "a", 450, NOW)

    assert reserve(gateway, units="50")["decision"] == "allow"
    answer = reserve(gateway, "a-2", units="1")

    assert answer["limit"] == {
        "per": "5h",
        "kind": "fixed",
        "left": "0.000",
        "resets_at": "2026-06-10T09:00:00Z",
    }
    asked: Any = gateway.client.get("/api/v1/authorize?subject=user-s-1")
    body = assert_problem(asked, 429, "rate_limited")
    assert body["limit"] == answer["limit"]
    assert (asked["Retry-After"], asked["X-Cause"]) == (str(5 * 3600), "rate_limited")
    nginx: Any = gateway.client.get("/api/v1/authorize?subject=user-s-1&refuse_with=403")
    assert_problem(nginx, 403, "rate_limited")
    set_clock(operator, NOW + 5 * HOUR)
    assert left(gateway, "a-3") == 350  # of the day; the hold that has ended counts no more


def test_usage_that_happened_is_never_refused_for_a_window(
    gateway: Gateway, operator: Operator
) -> None:
    subscriber = holder(operator, Window("day", 100 * T))

    use(gateway, "a", 500, NOW)

    assert used(subscriber) == {"allowance": 500}
    assert left(gateway, "a-1") == 0


def test_an_ask_gets_what_a_window_has_left_where_its_estimate_was_only_assumed(
    gateway: Gateway, operator: Operator
) -> None:
    holder(operator, Window("day", 1500 * T))

    answer = reserve(gateway, units=None, input_tokens=1000)

    assert (answer["granted"], answer["final"]) == ("1500.000", True)


def test_holds_count_until_they_are_settled_and_then_what_was_used(
    gateway: Gateway, operator: Operator
) -> None:
    holder(operator, Window("day", 1000 * T))
    for name in ("kept", "released", "committed"):
        reserve(gateway, name, units="200")
    assert left(gateway, "a-1") == 400

    release(gateway, "released")
    assert left(gateway, "a-2") == 600
    commit(gateway, "committed", input_tokens=30, output_tokens=0)
    assert left(gateway, "a-3") == 770
    rollups.fold_all(at=clock.wall())
    assert left(gateway, "a-4") == 770
    assert_books_agree()


def test_what_is_folded_in_and_what_is_not_count_once(gateway: Gateway, operator: Operator) -> None:
    holder(operator, Window("month", 10_000 * T), Window("5h", 10_000 * T, sliding=True))
    set_clock(operator, NOW + 3 * HOUR + MINUTE)
    for nr in range(6):
        use(gateway, f"a-{nr}", 100 + nr, NOW + nr * HOUR / 2)
        if nr in (1, 3):
            rollups.fold_all(at=clock.wall())

    assert left(gateway, "ask") == 10_000 - 615


def test_a_window_of_five_hours_slides_by_the_microsecond(
    gateway: Gateway, operator: Operator
) -> None:
    holder(operator, Window("5h", 1000 * T, sliding=True))
    use(gateway, "a", 100, NOW)
    set_clock(operator, NOW + 2 * HOUR)
    use(gateway, "b", 10, NOW + 2 * HOUR)
    rollups.fold_all(at=clock.wall())

    set_clock(operator, NOW + 5 * HOUR)
    assert left(gateway, "a-1") == 890
    set_clock(operator, NOW + 5 * HOUR + US)
    answer = reserve(gateway, "a-2", units="991")
    assert (answer["limit"]["left"], answer["limit"]["resets_at"]) == ("990.000", None)


def test_a_week_begins_on_monday_at_the_zones_midnight(
    gateway: Gateway, operator: Operator
) -> None:
    holder(operator, Window("week", 1000 * T))
    set_clock(operator, local(2026, 6, 15))  # a Monday
    use(gateway, "a", 100, local(2026, 6, 15) - US)
    use(gateway, "b", 10, local(2026, 6, 15))

    answer = reserve(gateway, units="991")

    assert answer["limit"]["left"] == "990.000"
    assert answer["limit"]["resets_at"] == "2026-06-21T16:00:00Z"


def test_a_change_of_the_plan_changes_the_windows(
    gateway: Gateway, operator: Operator, api: APIClient
) -> None:
    subscriber = holder(operator, Window("day", 10 * T))
    assert put(api, "plans/free", PLAN).status_code == 201
    [held] = subscriber.subscriptions.all()
    path = f"/api/v1/subscribers/s-1/subscriptions/{held.id}"
    assert api.patch(path, {"plan": "free"}, format="json").status_code == 200
    assert left(gateway, "a-1") == 10

    assert post(api, "test-clock", {"now": local(2026, 7, 1).isoformat()}).status_code == 200

    assert reserve(gateway, "a-2", units="1000")["decision"] == "allow"


def test_a_plan_that_degrades_is_refused_all_the_same(gateway: Gateway, operator: Operator) -> None:
    subscriber = make_subscriber(operator)
    day = Window("day", 100 * T)
    subscribe(subscriber, make_plan(operator, allowance=0, on_exhaustion="degrade", windows=(day,)))

    assert reserve(gateway, units="100")["decision"] == "degrade"
    assert reserve(gateway, "a-2", units="101")["cause"] == "rate_limited"


# Exactness ---------------------------------------------------------------------------------------

LIMITS = (
    Window("5h", 0),
    Window("5h", 0, sliding=True),
    Window("day", 0),
    Window("week", 0),
    Window("month", 0),
)
ANCHOR = NOW - 7 * MINUTE  # when the period began


def span_of(limit: Window, now: dt.datetime, zone: ZoneInfo) -> tuple[dt.datetime, dt.datetime]:
    """From when until when a window counts, by the calendar on the wall."""
    here = now.astimezone(zone)
    today = here.replace(hour=0, minute=0, second=0, microsecond=0)
    if limit.sliding:
        return now - 5 * HOUR, now + DAY
    match limit.per:
        case "5h":
            start = ANCHOR
            while start + 5 * HOUR <= now:
                start += 5 * HOUR
            return start, start + 5 * HOUR
        case "day":
            return today, today + DAY
        case "week":
            monday = today - today.weekday() * DAY
            return monday, monday + 7 * DAY
    first = today.replace(day=1)
    return first, (first + 31 * DAY).replace(day=1)


class CountingTests(TestCase):
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        uses=st.lists(
            st.tuples(
                st.integers(-4, 34 * 24 * 60),
                st.sampled_from((0 * US, US, -US)),
                st.integers(1, 50),
                st.booleans(),
            ),
            min_size=1,
            max_size=12,
        ),
        zone=st.sampled_from(("Asia/Shanghai", "Asia/Kolkata", "Asia/Kathmandu")),
        past=st.integers(0, 40 * 60),
    )
    def test_a_windows_room_is_what_its_records_leave(
        self, uses: list[Any], zone: str, past: int
    ) -> None:
        now = NOW + 20 * DAY + past * MINUTE
        operator = make_operator("counting", at=now, zone=zone)
        subscriber = bare(operator)
        gateway = Gateway(operator)
        for nr, (back, off, tokens, fold) in enumerate(uses):
            use(gateway, f"u-{nr}", tokens, now - back * MINUTE + off)
            if fold:
                rollups.fold_all(at=now)

        for limit in LIMITS:
            policy = replace(policy_from(make_plan(operator)), windows=(limit,))
            period = Period(ANCHOR, now + DAY, 1, policy)
            [room] = windows.rooms_of(
                operator.pk, subscriber.pk, period, at=now, zone=ZoneInfo(zone)
            )
            since, until = span_of(limit, now, ZoneInfo(zone))
            records = UsageRecord.objects.filter(
                subscriber_id=subscriber.pk, occurred_at__gte=since, occurred_at__lt=until
            )
            assert room
            assert -room.left == sum(row.units for row in records), limit
