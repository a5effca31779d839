"""Trials, which go on as another plan, and pauses, which keep a subscription for a small fee."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from rest_framework.test import APIClient

from subscriptions import lifecycle
from subscriptions.models import Operator, Plan, Subscriber, Subscription, SubscriptionPeriod
from tests.factories import (
    SHANGHAI,
    buckets_of,
    client_for,
    local,
    make_key,
    make_operator,
    make_plan,
    make_subscriber,
    subscribe,
    yuan,
)
from tests.usage import (
    DAY,
    HOUR,
    Gateway,
    assert_books_agree,
    assert_problem,
    counted,
    get,
    post,
    put,
    record,
)

pytestmark = pytest.mark.django_db

T = 1000
START, JULY, AUGUST = local(2026, 6, 1), local(2026, 7, 1), local(2026, 8, 1)


@pytest.fixture
def operator() -> Operator:
    return make_operator("ct", at=START)


@pytest.fixture
def api(operator: Operator) -> APIClient:
    return client_for(make_key(operator))


@pytest.fixture
def gateway(operator: Operator) -> Gateway:
    return Gateway(operator)


@pytest.fixture
def subscriber(operator: Operator) -> Subscriber:
    return make_subscriber(operator)


@pytest.fixture
def light(operator: Operator) -> Plan:
    """9.90 for 3,000 units; it may be paused for 3.00."""
    make_plan(operator, "keep", price=yuan("3.00"), allowance=0, suspends=True)
    return make_plan(operator, allowance=3_000 * T, pause_plan="keep")


@pytest.fixture
def trial(operator: Operator, light: Plan) -> Plan:
    return make_plan(
        operator,
        "try",
        price=yuan("0"),
        allowance=100 * T,
        trial_days=7,
        converts_to="light",
    )


def move(api: APIClient, to: dt.datetime) -> None:
    assert post(api, "test-clock", {"now": to.isoformat()}).status_code == 200


def use(gateway: Gateway, name: str, tokens: int, at: dt.datetime) -> None:
    sent = record(name, occurred_at=at, input_tokens=tokens, output_tokens=0)
    assert counted(gateway.charge(sent)) == (1, 0, 0)


def spans() -> list[tuple[str, str, str]]:
    """(plan, first local day, day after the last) of each period."""
    return [
        (
            p.plan.code,
            f"{p.starts_at.astimezone(SHANGHAI):%m-%d}",
            f"{p.ends_at.astimezone(SHANGHAI):%m-%d}",
        )
        for p in SubscriptionPeriod.objects.select_related("plan").order_by("starts_at")
    ]


def bills(api: APIClient) -> list[list[tuple[str, str]]]:
    items = get(api, "subscribers/s-1/invoices")["items"][::-1]
    return [[(x["kind"], x["gross"]["amount"]) for x in item["lines"]] for item in items]


def used(subscriber: Subscriber) -> dict[str, int]:
    return {b.kind: b.used // T for b in buckets_of(subscriber) if b.used}


# Trials ------------------------------------------------------------------------------------------


def test_a_trial_goes_on_as_the_plan_that_it_names(
    api: APIClient, gateway: Gateway, subscriber: Subscriber, trial: Plan
) -> None:
    move(api, local(2026, 6, 10))
    sold = post(api, "subscribers/s-1/subscriptions", {"plan": "try"}).json()
    assert (sold["plan"], sold["next_plan"]) == ("try", "light")
    use(gateway, "r-1", 150, local(2026, 6, 10))

    move(api, local(2026, 8, 5))

    assert used(subscriber) == {"allowance": 100, "uncovered": 50}
    assert spans()[:3] == [
        ("try", "06-10", "06-17"),
        ("light", "06-17", "07-01"),
        ("light", "07-01", "08-01"),
    ]
    assert bills(api) == [[("fee", "0.00")], [("fee", "9.90")], [("fee", "9.90")]]
    assert_books_agree()


def test_a_trial_lasts_its_days_whole_and_ends_at_a_midnight(
    api: APIClient, subscriber: Subscriber, trial: Plan
) -> None:
    move(api, local(2026, 6, 10, 15))
    subscribe(subscriber, trial)

    assert spans() == [("try", "06-10", "06-18")]


def test_a_cycle_by_subscription_day_begins_where_the_trial_ends(
    api: APIClient, operator: Operator, subscriber: Subscriber, light: Plan
) -> None:
    make_plan(operator, "daily", cycle="subscription_day")
    trial = make_plan(operator, "try", trial_days=3, converts_to="daily", price=yuan("1"))
    subscribe(subscriber, trial)

    move(api, local(2026, 7, 5))

    assert spans() == [
        ("try", "06-01", "06-04"),
        ("daily", "06-04", "07-04"),
        ("daily", "07-04", "08-04"),
    ]


def test_a_trial_that_is_cancelled_costs_nothing_and_is_not_had_again(
    api: APIClient, operator: Operator, subscriber: Subscriber, trial: Plan
) -> None:
    held = subscribe(subscriber, trial)
    path = f"/api/v1/subscribers/s-1/subscriptions/{held.id}"
    assert api.patch(path, {"cancel": True}, format="json").status_code == 200

    move(api, JULY)
    again = post(api, "subscribers/s-1/subscriptions", {"plan": "try"})
    batch = post(api, "subscribers/batch", [{"external_id": "s-1", "plan": "try"}])
    light = post(api, "subscribers/batch", [{"external_id": "s-1", "plan": "light"}])

    assert bills(api) == [[("fee", "0.00")]]
    assert_problem(again, 409, "trial_used")
    assert batch.json()["items"] == [{"external_id": "s-1", "status": "unchanged"}]
    assert light.json()["items"] == [{"external_id": "s-1", "status": "updated"}]
    assert Subscription.objects.count() == 2
    assert_books_agree()


def test_a_trial_is_how_a_subscription_begins_and_nothing_else(
    api: APIClient, operator: Operator, subscriber: Subscriber, light: Plan, trial: Plan
) -> None:
    held = subscribe(subscriber, light)
    path = f"/api/v1/subscribers/s-1/subscriptions/{held.id}"

    later = api.patch(path, {"plan": "try"}, format="json")
    now = api.patch(path, {"plan": "try", "when": "now"}, format="json")

    assert_problem(later, 422, "invalid")
    assert_problem(now, 422, "not_an_upgrade")


def test_naming_the_trial_held_takes_another_plan_back_but_not_its_end(
    api: APIClient, operator: Operator, subscriber: Subscriber, trial: Plan
) -> None:
    make_plan(operator, "pro")
    held = subscribe(subscriber, trial)
    path = f"/api/v1/subscribers/s-1/subscriptions/{held.id}"

    changed = api.patch(path, {"plan": "pro"}, format="json").json()
    back = api.patch(path, {"plan": "try"}, format="json").json()

    assert (changed["next_plan"], back["next_plan"]) == ("pro", "light")


def test_who_upgrades_within_a_trial_pays_for_the_days_left_of_it(
    api: APIClient, operator: Operator, subscriber: Subscriber, trial: Plan
) -> None:
    held = subscribe(subscriber, trial)
    move(api, START + 4 * DAY)
    path = f"/api/v1/subscribers/s-1/subscriptions/{held.id}"

    assert api.patch(path, {"plan": "light", "when": "now"}, format="json").status_code == 200
    move(api, JULY)

    assert spans()[:2] == [("try", "06-01", "06-08"), ("light", "06-08", "07-01")]
    assert bills(api) == [[("fee", "0.00"), ("upgrade", "0.99")]]  # 3 of 30 days
    assert_books_agree()


@pytest.mark.parametrize(
    "wrong",
    [
        {"trial": {"days": 0, "then": "light"}},
        {"trial": {"days": 367, "then": "light"}},
        {"trial": {"days": 7}},
        {"trial": {"days": 7, "then": "nowhere"}},
        {"trial": {"days": 7, "then": "try"}},
        {"trial": {"days": 7, "then": "light"}, "first_month": "by_day"},
        {"trial": {"days": 7, "then": "light"}, "rollover": "one_cycle"},
        {"pause_plan": "nowhere"},
        {"pause_plan": "light"},
    ],
)
def test_a_plan_that_names_others_wrongly_is_refused(
    api: APIClient, light: Plan, trial: Plan, wrong: dict[str, Any]
) -> None:
    body = {"name": "X", "price": "1", "allowance": "1", "rate_card": "standard", **wrong}

    assert put(api, "plans/x", body).status_code == 422


# Pauses ------------------------------------------------------------------------------------------


@pytest.fixture
def held(subscriber: Subscriber, light: Plan) -> Subscription:
    return subscribe(subscriber, light)


def act(api: APIClient, held: Subscription, what: str) -> Any:
    answer = post(api, f"subscribers/s-1/subscriptions/{held.id}/{what}", {})
    assert answer.status_code == 200, answer.content
    return answer.json()


def test_a_pause_begins_with_the_next_period_and_costs_its_own_fee(
    api: APIClient, gateway: Gateway, operator: Operator, subscriber: Subscriber, held: Subscription
) -> None:
    lifecycle.give(subscriber.pk, units=10**9, valid_until=local(2027, 1, 1), reason="x", at=START)
    move(api, START + DAY)

    shown = act(api, held, "pause")
    use(gateway, "r-1", 100, START + DAY)
    move(api, JULY + HOUR)
    use(gateway, "r-2", 50, JULY)
    ask = {"id": "a-1", "subject": "user-s-1", "model": "deepseek/chat", "units": "1"}
    answer = gateway.send(ask, path="/api/v1/reservations").json()
    move(api, local(2026, 9, 5))

    assert (shown["plan"], shown["next_plan"], shown["paused_plan"]) == ("light", "keep", "light")
    assert used(subscriber) == {"gift": 100, "uncovered": 50}
    assert (answer["decision"], answer["cause"]) == ("deny", "suspended")
    assert bills(api) == [
        [("fee", "9.90"), ("gift", "0.00")],
        [("fee", "3.00")],
        [("fee", "3.00")],
    ]
    assert_books_agree()


def test_who_resumes_uses_again_at_once_and_pays_for_the_days_left(
    api: APIClient, gateway: Gateway, subscriber: Subscriber, held: Subscription
) -> None:
    act(api, held, "pause")
    move(api, local(2026, 7, 22))
    use(gateway, "r-1", 1, local(2026, 7, 21))

    shown = act(api, held, "resume")
    use(gateway, "r-2", 10, local(2026, 7, 22))
    move(api, local(2026, 9, 5))

    assert (shown["plan"], shown["paused_plan"]) == ("light", None)
    assert used(subscriber) == {"uncovered": 1, "allowance": 10}
    # 10 of 30 days of 9.90 - 3.00.
    assert bills(api)[1:] == [[("fee", "3.00"), ("upgrade", "2.30")], [("fee", "9.90")]]
    assert_books_agree()


def test_a_pause_that_has_not_begun_is_taken_back(
    api: APIClient, subscriber: Subscriber, held: Subscription
) -> None:
    act(api, held, "pause")
    act(api, held, "pause")

    shown = act(api, held, "resume")
    act(api, held, "resume")
    move(api, local(2026, 8, 5))

    assert (shown["next_plan"], shown["paused_plan"]) == (None, None)
    assert bills(api) == [[("fee", "9.90")], [("fee", "9.90")]]
    assert_books_agree()


def test_a_version_held_before_a_pause_goes_on_after_it(
    api: APIClient, operator: Operator, subscriber: Subscriber, held: Subscription
) -> None:
    act(api, held, "pause")
    make_plan(operator, price=yuan("99"), pause_plan="keep")
    move(api, JULY)

    shown = act(api, held, "resume")

    assert (shown["plan"], shown["plan_version"]) == ("light", 1)


def test_a_paused_subscription_is_not_changed_but_may_end(
    api: APIClient, operator: Operator, subscriber: Subscriber, held: Subscription
) -> None:
    make_plan(operator, "pro", price=yuan("40"))
    act(api, held, "pause")
    move(api, JULY)
    path = f"/api/v1/subscribers/s-1/subscriptions/{held.id}"

    for body in ({"plan": "pro"}, {"plan": "pro", "when": "now"}):
        assert_problem(api.patch(path, body, format="json"), 409, "not_pausable")
    ended = api.patch(path, {"cancel": True, "when": "now"}, format="json")
    sold = post(api, "subscribers/s-1/subscriptions", {"plan": "pro"})

    assert sold.status_code == 201
    assert ended.json()["status"] == "ended"
    ask = {"id": "a-1", "subject": "user-s-1", "model": "deepseek/chat", "units": "1"}
    answer = Gateway(operator).send(ask, path="/api/v1/reservations").json()
    assert answer["decision"] == "allow"


def test_what_cannot_be_paused_says_why(
    api: APIClient, operator: Operator, subscriber: Subscriber, light: Plan
) -> None:
    pro = make_plan(operator, "pro")
    later = subscribe(subscriber, light, starts_at=START + DAY)
    other = make_subscriber(operator, "s-2")
    fixed = subscribe(other, pro)

    assert_problem(
        post(api, f"subscribers/s-1/subscriptions/{later.id}/pause", {}),
        409,
        "subscription_not_begun",
    )
    assert_problem(
        post(api, f"subscribers/s-2/subscriptions/{fixed.id}/pause", {}), 409, "not_pausable"
    )
