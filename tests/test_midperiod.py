"""Upgrades, endings and terminations in the middle of a period: what holds from then on."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from typing import Any

import hypothesis.extra.django
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rest_framework.test import APIClient

from subscriptions import balances, demands, lifecycle, periods
from subscriptions.models import (
    Bucket,
    BucketEntry,
    Ending,
    Operator,
    Plan,
    Subscriber,
    Subscription,
    SubscriptionPeriod,
    Upgrade,
)
from tests.factories import (
    NOW,
    SHANGHAI,
    buckets_of,
    client_for,
    local,
    make_key,
    make_operator,
    make_plan,
    make_rate_card,
    make_subscriber,
    set_clock,
    subscribe,
    yuan,
)
from tests.usage import DAY, HOUR, MINUTE, US, Gateway, assert_books_agree, counted, record

pytestmark = pytest.mark.django_db

T = 1000  # thousandths of a unit


@pytest.fixture
def operator() -> Operator:
    return make_operator()


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
    """1,000 units for 10 yuan, then metered."""
    return make_plan(
        operator,
        "light",
        price=yuan("10"),
        allowance=1_000 * T,
        on_exhaustion="meter",
        price_per_million="2",
        rollover="one_cycle",
        refund="unused",
    )


@pytest.fixture
def pro(operator: Operator) -> Plan:
    """3,000 units for 40 yuan, then metered for less."""
    return make_plan(
        operator,
        "pro",
        price=yuan("40"),
        allowance=3_000 * T,
        on_exhaustion="meter",
        price_per_million="1",
        refund="unused",
    )


@pytest.fixture
def held(subscriber: Subscriber, light: Plan) -> Subscription:
    return subscribe(subscriber, light)


def patch(api: APIClient, held: Subscription, body: Any, **headers: str) -> Any:
    path = f"/api/v1/subscribers/s-1/subscriptions/{held.id}"
    return api.patch(path, body, format="json", headers=headers)


def upgrade_to(api: APIClient, held: Subscription, plan: str) -> Any:
    answer = patch(api, held, {"plan": plan, "when": "now"})
    assert answer.status_code == 200, answer.content
    return answer.json()


def used(subscriber: Subscriber) -> dict[str, int]:
    """Units drawn by the first word of the grant key, whole."""
    drawn: Counter[str] = Counter()
    keys = {b.id: b.grant_key.split(":")[0].split("@")[0] for b in buckets_of(subscriber)}
    for entry in BucketEntry.objects.filter(subscriber_id=subscriber.pk, kind=2):
        drawn[keys[entry.bucket_id]] += entry.units // T
    return dict(drawn)


def use(gateway: Gateway, name: str, tokens: int, at: dt.datetime) -> None:
    sent = record(name, occurred_at=at, input_tokens=tokens, output_tokens=0)
    assert counted(gateway.charge(sent)) == (1, 0, 0)


# Upgrades ----------------------------------------------------------------------------------------


def test_an_upgrade_grants_the_share_of_the_difference_for_the_days_left(
    api: APIClient, operator: Operator, subscriber: Subscriber, held: Subscription, pro: Plan
) -> None:
    shown = upgrade_to(api, held, "pro")

    row = Upgrade.objects.get(subscriber_id=subscriber.pk)
    assert (row.days, row.units) == (21, 1_400 * T)  # 10 to 30 June of 30 days, of 2,000 more
    assert (row.at, row.period_end) == (NOW, local(2026, 7, 1))
    assert (row.old_plan_id, row.new_plan_id) == (held.plan_id, pro.pk)
    assert (shown["plan"], shown["next_plan"]) == ("pro", None)
    assert shown["current_period"]["ends_at"] == "2026-06-30T16:00:00Z"
    old, more = buckets_of(subscriber, "allowance")
    assert (old.granted, old.valid_until) == (1_000 * T, local(2026, 7, 1))
    assert (more.granted, more.valid_from, more.valid_until) == (1_400 * T, NOW, old.valid_until)
    assert_books_agree()


def test_days_beyond_thirty_count_as_thirty(
    api: APIClient, subscriber: Subscriber, operator: Operator, pro: Plan
) -> None:
    make_plan(operator, "light", allowance=1_000 * T, cycle="subscription_day")
    set_clock(operator, local(2026, 7, 15))
    held = lifecycle.subscribe(operator, subscriber.pk, "light", at=local(2026, 7, 15))

    upgrade_to(api, held, "pro")

    row = Upgrade.objects.get(subscriber_id=subscriber.pk)
    assert (row.days, row.units) == (30, 2_000 * T)  # 31 days are left


def test_a_process_that_remembers_the_old_plan_goes_by_the_new_one_after_the_upgrade(
    api: APIClient,
    gateway: Gateway,
    operator: Operator,
    subscriber: Subscriber,
    held: Subscription,
) -> None:
    make_rate_card(operator, "double", weights={"*": ("2", "2", "2", "2", "2")})
    make_plan(operator, "pro", price=yuan("40"), allowance=1_000 * T, rate_card="double")
    use(gateway, "r-1", 100, NOW)
    use(gateway, "r-2", 100, NOW)  # by what is remembered
    set_clock(operator, NOW + HOUR)

    upgrade_to(api, held, "pro")
    use(gateway, "r-3", 100, NOW + HOUR)
    use(gateway, "r-4", 100, NOW + HOUR - US)  # used before it, told after it
    use(gateway, "r-5", 1_000, NOW + HOUR)

    # 500 of the 2,000 units of r-5 are covered; the plan stops then.
    assert used(subscriber) == {"allowance": 1_000, "uncovered": 1_500}
    assert_books_agree()


def test_overage_costs_the_price_of_the_plan_that_held_when_it_was_used(
    api: APIClient,
    gateway: Gateway,
    operator: Operator,
    subscriber: Subscriber,
    held: Subscription,
    pro: Plan,
) -> None:
    use(gateway, "r-1", 1_300, NOW)
    set_clock(operator, NOW + DAY)

    upgrade_to(api, held, "pro")
    use(gateway, "r-2", 1_500, NOW + DAY + MINUTE)
    set_clock(operator, NOW + DAY + HOUR)
    use(gateway, "r-3", 50, NOW + HOUR)  # late: before the upgrade
    use(gateway, "r-4", 70, NOW + DAY + HOUR)

    extra = Upgrade.objects.get(subscriber_id=subscriber.pk).units // T
    assert extra == 1_334  # 20 of 30 days, rounded up to a whole unit
    overage = {b.grant_key.split(":")[0]: b for b in buckets_of(subscriber, "overage")}
    assert overage["overage"].used == (300 + 50) * T
    assert overage[f"overage@{pro.pk}"].used == (1_500 - extra + 70) * T
    assert demands.plan_of_overflow(overage[f"overage@{pro.pk}"].grant_key) == pro.pk
    assert demands.plan_of_overflow(overage["overage"].grant_key) is None
    assert_books_agree()


def test_packs_after_an_upgrade_are_those_of_the_new_plan(
    api: APIClient, gateway: Gateway, operator: Operator, subscriber: Subscriber
) -> None:
    packs = {"on_exhaustion": "blocks", "block_price": yuan("1"), "allowance": 0}
    make_plan(operator, "light", **packs, price=yuan("1"), block_units=100 * T)
    big = make_plan(operator, "pro", **packs, price=yuan("2"), block_units=1_000 * T)
    held = lifecycle.subscribe(operator, subscriber.pk, "light", at=NOW)
    use(gateway, "r-1", 100, NOW)
    set_clock(operator, NOW + HOUR)

    upgrade_to(api, held, "pro")
    use(gateway, "r-2", 10, NOW + HOUR)

    small, large = buckets_of(subscriber, "overage")
    assert (small.granted, small.used) == (100 * T, 100 * T)
    assert (large.granted, large.used) == (1_000 * T, 10 * T)
    assert demands.plan_of_overflow(large.grant_key) == big.pk
    assert not Bucket.objects.filter(subscriber_id=subscriber.pk, kind="allowance").exists()
    assert_books_agree()


def test_an_upgrade_at_the_first_instant_of_a_period_holds_for_all_of_it(
    api: APIClient,
    gateway: Gateway,
    operator: Operator,
    subscriber: Subscriber,
    held: Subscription,
    pro: Plan,
) -> None:
    make_plan(operator, "flagship", price=yuan("50"), allowance=9_000 * T)

    upgrade_to(api, held, "pro")
    upgrade_to(api, held, "flagship")
    use(gateway, "r-1", 1_000 + 1_400 + 4_200 + 1, NOW)

    assert [row.units // T for row in Upgrade.objects.order_by("nr")] == [1_400, 4_200]
    left = balances.balance_of(subscriber.pk, as_of=NOW, grace=operator.late_grace).available
    assert left == 0
    assert_books_agree()


def test_the_same_upgrade_again_changes_nothing(
    api: APIClient, subscriber: Subscriber, held: Subscription, pro: Plan
) -> None:
    body = {"plan": "pro", "when": "now"}

    first = patch(api, held, body, **{"Idempotency-Key": "k-1"})
    again = patch(api, held, body, **{"Idempotency-Key": "k-1"})
    without_key = patch(api, held, body)

    assert first.json() == again.json() == without_key.json()
    assert again.headers["Idempotency-Replayed"] == "true"
    assert Upgrade.objects.count() == 1
    assert len(buckets_of(subscriber, "allowance")) == 2


def test_the_next_period_is_the_new_plans_and_forfeits_what_is_left(
    api: APIClient, operator: Operator, subscriber: Subscriber, held: Subscription, pro: Plan
) -> None:
    patch(api, held, {"plan": "light"})  # a change that is taken back
    set_clock(operator, local(2026, 6, 30, 20))
    lifecycle.ensure_open([subscriber.pk], at=operator.clock_at, until=local(2026, 7, 1))  # type: ignore[arg-type]

    upgrade_to(api, held, "pro")
    set_clock(operator, local(2026, 7, 1))
    lifecycle.ensure_open([subscriber.pk], at=local(2026, 7, 1), until=local(2026, 7, 1))

    plans = SubscriptionPeriod.objects.order_by("starts_at").values_list("plan__code", flat=True)
    assert list(plans) == ["light", "pro"]
    assert Upgrade.objects.get().days == 1
    assert buckets_of(subscriber, "rollover") == []
    [fresh] = [
        b
        for b in buckets_of(subscriber, "allowance")
        if b.valid_from == local(2026, 7, 1) and b.granted != b.used
    ]
    assert fresh.granted == 3_000 * T
    assert_books_agree()


def test_gateways_that_ask_are_told_by_the_new_plan(
    api: APIClient,
    gateway: Gateway,
    operator: Operator,
    subscriber: Subscriber,
    held: Subscription,
) -> None:
    make_plan(operator, "pro", price=yuan("40"), allowance=1_000 * T)  # stops
    use(gateway, "r-1", 1_000, NOW)
    ask = {"id": "a-1", "subject": "user-s-1", "model": "deepseek/chat", "units": "10"}
    path = "/api/v1/reservations"
    assert gateway.send(ask, path=path).json()["decision"] == "allow"
    set_clock(operator, NOW + HOUR)

    upgrade_to(api, held, "pro")

    answer = gateway.send({**ask, "id": "a-2"}, path=path).json()
    assert (answer["decision"], answer["cause"]) == ("deny", "exhausted")


@pytest.mark.parametrize(
    ("body", "status", "cause"),
    [
        ({"plan": "small", "when": "now"}, 422, "not_an_upgrade"),
        ({"plan": "nothing", "when": "now"}, 422, "unknown_plan"),
        ({"when": "now"}, 422, "invalid"),
        ({"plan": "pro", "when": "soon"}, 422, "invalid"),
        ({"cancel": False, "when": "now"}, 422, "invalid"),
        ({"cancel": True, "plan": "pro"}, 422, "invalid"),
        ({"cancel_at_period_end": True, "when": "now"}, 422, "invalid"),
    ],
)
def test_what_cannot_be_done_now_is_refused_and_changes_nothing(
    api: APIClient,
    operator: Operator,
    subscriber: Subscriber,
    held: Subscription,
    pro: Plan,
    body: Any,
    status: int,
    cause: str,
) -> None:
    make_plan(operator, "small", price=yuan("5"), allowance=9_000 * T)

    answer = patch(api, held, body)

    assert (answer.status_code, answer.json()["cause"]) == (status, cause)
    assert not Upgrade.objects.exists()
    assert not Ending.objects.exists()


def test_another_operators_subscription_is_not_there(
    held: Subscription, light: Plan, pro: Plan
) -> None:
    other = make_operator("other")
    make_plan(other, "pro")
    make_subscriber(other)
    api = client_for(make_key(other, name="other"))

    for body in ({"plan": "pro", "when": "now"}, {"cancel": True, "when": "now"}):
        assert patch(api, held, body).status_code == 404


def test_a_subscription_that_has_not_begun_is_not_upgraded(
    api: APIClient, subscriber: Subscriber, light: Plan, pro: Plan
) -> None:
    held = subscribe(subscriber, light, starts_at=NOW + DAY)

    answer = patch(api, held, {"plan": "pro", "when": "now"})

    assert (answer.status_code, answer.json()["cause"]) == (409, "subscription_not_begun")


@given(
    more=st.integers(0, 10**13),
    minute=st.integers(0, 3 * 365 * 24 * 60),
    length=st.integers(1, 31 * 24 * 3600),
)
def test_what_an_upgrade_grants_is_never_negative_nor_more_than_the_difference(
    more: int, minute: int, length: int
) -> None:
    at = NOW + minute * MINUTE
    ends_at = at + dt.timedelta(seconds=length)

    days = periods.days_left(at, ends_at, SHANGHAI)
    units = periods.prorate(more, min(days, Upgrade.DAYS), Upgrade.DAYS)

    assert -(-length // 86400) <= days <= -(-length // 86400) + 1
    assert 0 <= units <= more
    assert units * 30 >= more * min(days, 30)  # the subscriber's favour, less than a unit
    assert units * 30 < more * min(days, 30) + 30 * T


class UpgradeTests(hypothesis.extra.django.TestCase):  # a fresh transaction per example
    @settings(max_examples=15, deadline=None)
    @given(
        steps=st.lists(st.tuples(st.integers(0, 40 * 24 * 60), st.sampled_from("abc")), max_size=5)
    )
    def test_upgrades_in_any_order_leave_books_that_agree(
        self, steps: list[tuple[int, str]]
    ) -> None:
        operator = make_operator()
        subscriber = make_subscriber(operator)
        for nr, code in enumerate("abc"):
            make_plan(operator, code, price=yuan(f"{nr + 1}"), allowance=(nr + 1) * 777_777)
        held = lifecycle.subscribe(operator, subscriber.pk, "a", at=NOW)

        for minute, code in sorted(steps):
            try:
                lifecycle.upgrade(subscriber.pk, held.id, code, at=NOW + minute * MINUTE)
            except lifecycle.NotAnUpgrade:
                assert code < reload(held).plan.code

        assert sum(row.units for row in Upgrade.objects.all()) <= 2 * 778_000
        assert_books_agree()


def reload(held: Subscription) -> Subscription:
    return Subscription.objects.select_related("plan").get(
        subscriber_id=held.subscriber_id, id=held.id
    )


# Endings -----------------------------------------------------------------------------------------


def end(api: APIClient, held: Subscription) -> Any:
    return patch(api, held, {"cancel": True, "when": "now"})


def test_what_nobody_used_within_seven_days_is_refunded_whole(
    api: APIClient, operator: Operator, subscriber: Subscriber, held: Subscription
) -> None:
    set_clock(operator, NOW + 7 * DAY - US)

    shown = end(api, held).json()

    assert (shown["status"], shown["current_period"]) == ("ended", None)
    row = Ending.objects.get(subscriber_id=subscriber.pk)
    assert (row.refund, row.unused, row.granted) == ("full", 1_000 * T, 1_000 * T)
    assert (row.at, row.period_end) == (NOW + 7 * DAY - US, local(2026, 7, 1))
    assert_books_agree()


@pytest.mark.parametrize(
    ("tokens", "days", "refund"), [(0, 7, "unused"), (1, 1, "unused"), (1_000, 1, "none")]
)
def test_later_or_used_it_is_the_unused_share(
    api: APIClient,
    gateway: Gateway,
    operator: Operator,
    subscriber: Subscriber,
    held: Subscription,
    tokens: int,
    days: int,
    refund: str,
) -> None:
    if tokens:
        use(gateway, "r-1", tokens, NOW)
    set_clock(operator, NOW + days * DAY)

    end(api, held)

    row = Ending.objects.get(subscriber_id=subscriber.pk)
    assert (row.refund, row.unused) == (refund, (1_000 - tokens) * T)
    assert_books_agree()


def test_a_plan_without_refunds_gives_none(
    api: APIClient, operator: Operator, subscriber: Subscriber
) -> None:
    held = subscribe(subscriber, make_plan(operator))

    end(api, held)

    assert Ending.objects.get().refund == "none"


def test_after_the_end_usage_is_uncovered_and_late_usage_finds_nothing_prepaid(
    api: APIClient,
    gateway: Gateway,
    operator: Operator,
    subscriber: Subscriber,
    held: Subscription,
) -> None:
    use(gateway, "r-1", 100, NOW)
    set_clock(operator, NOW + HOUR)

    end(api, held)
    use(gateway, "r-2", 10, NOW + HOUR)
    use(gateway, "r-3", 5, NOW + MINUTE)
    set_clock(operator, NOW + 2 * HOUR)
    use(gateway, "r-4", 7, NOW + 2 * HOUR)

    # Late usage goes as the plan lets usage go that finds nothing: metered.
    assert used(subscriber) == {"allowance": 100, "overage": 5, "uncovered": 17}
    assert_books_agree()


def test_usage_of_both_sides_of_an_end_within_a_month_is_charged_in_one_batch(
    api: APIClient, gateway: Gateway, operator: Operator, subscriber: Subscriber, light: Plan
) -> None:
    """The plan's period and the month without a plan begin at the same instant."""
    first = local(2026, 7, 1)
    set_clock(operator, first)
    held = lifecycle.subscribe(operator, subscriber.pk, "light", at=first)
    set_clock(operator, first + 20 * DAY)
    end(api, held)

    set_clock(operator, first + 25 * DAY)
    sent = [
        record(f"r-{nr}", occurred_at=first + days * DAY, input_tokens=2_000, output_tokens=0)
        for nr, days in enumerate((19, 24))
    ]
    assert counted(gateway.charge(*sent)) == (2, 0, 0)

    # Late, it finds nothing prepaid any more and is metered; after the end nothing pays.
    assert used(subscriber) == {"overage": 2_000, "uncovered": 2_000}
    assert_books_agree()


def test_one_may_be_sold_at_the_very_instant_another_ended(
    api: APIClient, gateway: Gateway, subscriber: Subscriber, held: Subscription, pro: Plan
) -> None:
    assert end(api, held).json()["status"] == "ended"
    again = end(api, held)
    assert (again.status_code, again.json()["cause"]) == (409, "subscription_ended")

    subscribe(subscriber, pro)
    use(gateway, "r-1", 2_000, NOW)

    assert used(subscriber) == {"allowance": 2_000}
    assert_books_agree()


def test_units_held_by_a_reservation_are_not_called_unused(
    api: APIClient,
    gateway: Gateway,
    operator: Operator,
    subscriber: Subscriber,
    held: Subscription,
) -> None:
    ask = {"id": "a-1", "subject": "user-s-1", "model": "deepseek/chat", "units": "300"}
    assert gateway.send(ask, path="/api/v1/reservations").status_code == 201
    set_clock(operator, NOW + MINUTE)

    end(api, held)

    row = Ending.objects.get(subscriber_id=subscriber.pk)
    assert (row.refund, row.unused) == ("unused", 700 * T)
    released = gateway.send({}, path="/api/v1/reservations/a-1/release")
    assert released.status_code == 200
    assert_books_agree()


def test_an_end_forfeits_what_was_rolled_over(
    api: APIClient, operator: Operator, subscriber: Subscriber, held: Subscription
) -> None:
    set_clock(operator, local(2026, 7, 1, 12))
    lifecycle.ensure_open([subscriber.pk], at=local(2026, 7, 1, 12), until=local(2026, 7, 1, 12))
    [rolled] = buckets_of(subscriber, "rollover")
    assert rolled.granted == 1_000 * T

    end(api, held)

    [rolled] = buckets_of(subscriber, "rollover")
    assert balances.remaining(rolled) == 0
    row = Ending.objects.get(subscriber_id=subscriber.pk)
    assert (row.granted, row.unused) == (1_000 * T, 1_000 * T)  # of this period's price
    assert_books_agree()


def test_a_termination_ends_all_without_a_refund_and_may_be_repeated(
    operator: Operator, subscriber: Subscriber, held: Subscription
) -> None:
    lifecycle.suspend(subscriber.pk, reason="unpaid", at=NOW)

    ended = [lifecycle.terminate(subscriber.pk, reason="unpaid", at=NOW + DAY) for _ in range(2)]

    assert ended == [1, 0]
    row = Ending.objects.get(subscriber_id=subscriber.pk)
    assert (row.refund, row.reason, row.unused) == ("none", "unpaid", 1_000 * T)
    assert reload(held).ends_at == NOW + DAY
    assert_books_agree()


def test_a_termination_ends_what_has_not_begun_too(
    operator: Operator, subscriber: Subscriber, light: Plan
) -> None:
    held = subscribe(subscriber, light, starts_at=NOW + DAY)

    assert lifecycle.terminate(subscriber.pk, reason="unpaid", at=NOW) == 1

    assert reload(held).ends_at == NOW + DAY
    assert not Ending.objects.exists()
    assert_books_agree()
