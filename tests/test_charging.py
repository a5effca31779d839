"""Which buckets pay for usage, when, at which weights, and who is told."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from rest_framework.test import APIClient

from metering import context, ingest, records, rollups
from metering.parsing import Usage
from subscriptions import lifecycle
from subscriptions.models import Operator, OutboxEvent, Subscriber
from tests.factories import (
    NOW,
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
from tests.usage import (
    DAY,
    HOUR,
    MINUTE,
    US,
    Gateway,
    T,
    assert_books_agree,
    assert_problem,
    balance,
    bare,
    post,
    put,
    put_card,
    record,
    records_of,
    split_of,
    usage_by,
    used,
    weights,
)

pytestmark = pytest.mark.django_db


# What is drawn -----------------------------------------------------------------------------------


def test_the_balance_follows_the_charge_at_once(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    make_subscriber(operator)
    subscribe(
        Subscriber.objects.get(),
        make_plan(operator, allowance=1_000_500, on_exhaustion="meter", price_per_million="1.20"),
    )

    gateway.charge(record(input_tokens=600, output_tokens=0))
    gateway.charge(record("r-2", input_tokens=600, output_tokens=0))

    shown = balance(api)
    assert (shown["available"], shown["reserved"]) == ("0.000", "0.000")
    assert [
        (b["kind"], b["granted"], b["used"], b["remaining"], b["priority"])
        for b in shown["buckets"]
        if b["kind"] != "uncovered"
    ] == [
        ("allowance", "1000.500", "1000.500", "0.000", 30),
        ("overage", None, "199.500", None, 90),
    ]


def test_buckets_burn_by_priority_then_expiry_then_age(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator, allowance=100 * T))
    put(api, "boosters/b", {"name": "B", "price": "1", "units": "100", "valid_days": 5})
    post(api, "subscribers/s-1/boosters", {"booster": "b"})
    for units, days in ((100, 9), (100, 3), (100, 3)):
        until = (NOW + days * DAY).isoformat()
        gift = {"units": str(units), "valid_until": until, "reason": "x"}
        assert post(api, "subscribers/s-1/grants", gift).status_code == 201
    soon = [b.id for b in buckets_of(subscriber, "gift") if b.valid_until == NOW + 3 * DAY]

    seen = []
    for n in range(6):
        gateway.charge(record(f"r-{n}", input_tokens=90, output_tokens=0))
        seen.append(used(subscriber))

    assert seen == [
        {"gift": 90},
        {"gift": 180},
        {"gift": 270},
        {"gift": 300, "allowance": 60},
        {"gift": 300, "allowance": 100, "booster": 50},
        {"gift": 300, "allowance": 100, "booster": 100, "uncovered": 40},
    ]
    drawn = split_of(api)
    assert [b["id"] for b in records_of(api)[1]["receipt"]["buckets"]] == [str(i) for i in soon]
    assert drawn["r-3"] == [("gift", "30.000"), ("allowance", "60.000")]
    assert_books_agree()


@pytest.mark.parametrize("on_exhaustion", ["stop", "degrade"])
def test_what_no_policy_covers_is_uncovered(
    gateway: Gateway, api: APIClient, operator: Operator, on_exhaustion: str
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator, allowance=100 * T, on_exhaustion=on_exhaustion))

    gateway.charge(record("a"), record("b"))

    assert used(subscriber) == {"allowance": 100, "uncovered": 140}
    [row] = [b for b in balance(api)["buckets"] if b["kind"] == "uncovered"]
    assert (row["granted"], row["remaining"], row["priority"]) == (None, None, 100)
    assert balance(api)["available"] == "0.000"


def test_a_meter_with_a_cap_meters_up_to_it(gateway: Gateway, operator: Operator) -> None:
    subscriber = make_subscriber(operator)
    plan = make_plan(
        operator,
        allowance=100 * T,
        on_exhaustion="meter",
        price_per_million="1.20",
        cap_units=150 * T,
    )
    subscribe(subscriber, plan)

    for n in range(4):
        gateway.charge(record(f"r-{n}"))

    assert used(subscriber) == {"allowance": 100, "overage": 150, "uncovered": 230}
    assert_books_agree()


def blocks_plan(operator: Operator, **terms: Any) -> Any:
    given = {
        "allowance": 100 * T,
        "on_exhaustion": "blocks",
        "block_units": 100 * T,
        "block_price": yuan("1"),
        "cap": yuan("3"),
        **terms,
    }
    return make_plan(operator, "blocks", **given)


@pytest.mark.parametrize("tokens", [10, 50, 60, 100, 120, 250])
def test_blocks_are_bought_one_after_the_other_up_to_the_cap(
    gateway: Gateway, operator: Operator, tokens: int
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, blocks_plan(operator))
    total = 0

    while total < 700:
        gateway.charge(record(f"r-{total}", input_tokens=tokens, output_tokens=0))
        total += tokens

        beyond = max(0, total - 100)
        drawn = used(subscriber)
        assert drawn.get("overage", 0) == min(beyond, 300)
        assert drawn.get("uncovered", 0) == max(0, beyond - 300)
        blocks = sum(b.granted or 0 for b in buckets_of(subscriber, "overage")) // T
        assert blocks == min(300, -(-beyond // 100) * 100)
    assert_books_agree()


def test_blocks_are_bought_also_after_something_was_uncovered(
    gateway: Gateway, operator: Operator
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, blocks_plan(operator), starts_at=NOW - DAY)
    lifecycle.suspend(subscriber.pk, reason="unpaid", at=NOW)
    gateway.charge(record("suspended"))
    set_clock(operator, NOW + HOUR)
    lifecycle.restore(subscriber.pk, at=NOW + HOUR)
    set_clock(operator, NOW + 2 * HOUR)

    for n in range(3):
        gateway.charge(record(f"r-{n}", occurred_at=NOW + HOUR))

    assert used(subscriber) == {"allowance": 100, "overage": 260, "uncovered": 120}
    assert_books_agree()


@pytest.mark.parametrize(
    ("terms", "kind"),
    [
        ({"allowance": 0, "on_exhaustion": "stop"}, "uncovered"),
        ({"allowance": 0}, "overage"),
        (
            {"allowance": 0, "on_exhaustion": "meter", "price_per_million": "1.20"},
            "overage",
        ),
        ({}, "allowance"),
    ],
)
def test_a_plan_counts_from_its_first_instant_also_for_a_subject_well_known(
    gateway: Gateway, api: APIClient, operator: Operator, terms: dict[str, Any], kind: str
) -> None:
    make_rate_card(operator)
    make_rate_card(operator, "dear", weights={"*": ("2",) * 5})
    subscriber = make_subscriber(operator)
    for n in range(3):
        gateway.charge(record(f"before-{n}", input_tokens=1, output_tokens=0))
    terms = {"allowance": 100 * T, "cap": None, "rate_card": "dear", **terms}
    subscribe(subscriber, blocks_plan(operator, **terms), starts_at=NOW)
    set_clock(operator, NOW + HOUR)

    answer = gateway.charge(
        record("before", occurred_at=NOW - US, input_tokens=1, output_tokens=0),
        record("after", occurred_at=NOW + US, input_tokens=50, output_tokens=0),
    )

    assert answer["units"] == "101.000"
    drawn = {item["id"]: item["receipt"]["buckets"] for item in records_of(api)}
    assert [b["kind"] for b in drawn["before"]] == ["uncovered"]
    assert [b["kind"] for b in drawn["after"]] == [kind]
    assert_books_agree()


def test_a_plan_weighs_by_its_card_also_where_a_gift_pays_before_and_after(
    gateway: Gateway, operator: Operator
) -> None:
    make_rate_card(operator)
    make_rate_card(operator, "dear", weights={"*": ("2",) * 5})
    subscriber = make_subscriber(operator)
    lifecycle.give(subscriber.pk, units=10**9, valid_until=NOW + 5 * DAY, reason="x", at=NOW)
    for n in range(3):
        gateway.charge(record(f"before-{n}"))
    subscribe(subscriber, make_plan(operator, rate_card="dear"), starts_at=NOW + HOUR)
    set_clock(operator, NOW + 2 * HOUR)

    answer = gateway.charge(record("after", occurred_at=NOW + HOUR))

    assert answer["units"] == "240.000"
    assert used(subscriber) == {"gift": 600}
    assert_books_agree()


@pytest.mark.parametrize("many", [1, records.FEW + 1])
def test_late_usage_has_its_subject_read_once_after_its_period_ended_not_each_time(
    gateway: Gateway, operator: Operator, monkeypatch: pytest.MonkeyPatch, many: int
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator, allowance=10**6 * T))
    edge = local(2026, 7, 1)
    read = context.Context._read
    asked: list[str] = []

    def noted(known: Any, usages: Sequence[Usage], at: dt.datetime) -> None:
        asked.extend(usage.subject for usage in usages)
        read(known, usages, at)

    def charge(mark: str, clock: dt.datetime) -> None:
        set_clock(operator, clock)
        asked.clear()
        gateway.charge(*[record(f"{mark}-{nr}", occurred_at=edge - HOUR) for nr in range(many)])

    monkeypatch.setattr(context.Context, "_read", noted)
    charge("in time", edge - HOUR)
    charge("again", edge - US)
    assert not asked
    charge("late", edge)
    assert set(asked) == {"user-s-1"}
    charge("later", edge + HOUR)
    assert not asked

    assert used(subscriber) == {"allowance": 4 * many * 120}
    assert_books_agree()


@pytest.mark.parametrize("many", [1, records.FEW + 1])
def test_usage_after_the_grace_of_a_bucket_well_known_draws_what_holds_then(
    gateway: Gateway, operator: Operator, many: int
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator, allowance=10**6 * T))
    edge = local(2026, 7, 1)

    def charge(mark: str, clock: dt.datetime) -> None:
        set_clock(operator, clock)
        gateway.charge(*[record(f"{mark}-{nr}", occurred_at=edge - HOUR) for nr in range(many)])

    charge("in time", edge - HOUR)
    charge("again", edge - US)
    charge("within the grace", edge + 48 * HOUR - US)
    charge("after it", edge + 48 * HOUR)

    june, july = buckets_of(subscriber, "allowance")
    assert (june.used, july.used) == (3 * many * 120 * T, many * 120 * T)
    assert_books_agree()


def test_what_changed_since_counts_also_in_a_batch_over_two_periods(
    gateway: Gateway, operator: Operator
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator))
    edge = local(2026, 7, 1)
    set_clock(operator, edge)
    for n in range(3):
        gateway.charge(record(f"known-{n}", occurred_at=edge))
    lifecycle.suspend(subscriber.pk, reason="unpaid", at=edge)

    gateway.charge(record("june", occurred_at=edge - US), record("july", occurred_at=edge))

    assert used(subscriber) == {"allowance": 480, "uncovered": 120}
    assert_books_agree()


def test_a_plan_sold_ahead_counts_from_its_first_instant_for_a_subject_well_known(
    gateway: Gateway, operator: Operator
) -> None:
    make_rate_card(operator)
    make_rate_card(operator, "dear", weights={"*": ("2",) * 5})
    subscriber = make_subscriber(operator)
    plan = blocks_plan(operator, allowance=0, rate_card="dear", cap=None)
    subscribe(subscriber, plan, starts_at=NOW + HOUR)
    for n in range(3):
        gateway.charge(record(f"before-{n}"))
    set_clock(operator, NOW + 2 * HOUR)

    at_once = gateway.charge(record("at", occurred_at=NOW + HOUR))
    before = gateway.charge(record("just before", occurred_at=NOW + HOUR - US))

    assert (at_once["units"], before["units"]) == ("240.000", "120.000")
    assert used(subscriber) == {"uncovered": 480, "overage": 240}
    assert_books_agree()


def test_without_a_plan_usage_is_uncovered(gateway: Gateway, operator: Operator) -> None:
    subscriber = bare(operator)

    gateway.charge(record())

    [bucket] = buckets_of(subscriber)
    assert (bucket.kind, bucket.granted, bucket.used) == ("uncovered", None, 120 * T)
    assert (bucket.valid_from, bucket.valid_until) == (local(2026, 6, 1), local(2026, 7, 1))


def test_while_suspended_usage_is_uncovered_and_nothing_else_is_drawn(
    gateway: Gateway, operator: Operator, subscriber: Subscriber
) -> None:
    gateway.charge(record("before"))
    lifecycle.suspend(subscriber.pk, reason="unpaid", at=NOW + HOUR)
    set_clock(operator, NOW + 2 * HOUR)
    lifecycle.restore(subscriber.pk, at=NOW + 2 * HOUR)
    set_clock(operator, NOW + 3 * HOUR)

    gateway.charge(
        record("just before", occurred_at=NOW + HOUR - US),
        record("first", occurred_at=NOW + HOUR),
        record("last", occurred_at=NOW + 2 * HOUR - US),
        record("after", occurred_at=NOW + 2 * HOUR),
    )

    assert used(subscriber) == {"allowance": 360, "uncovered": 240}
    assert_books_agree()


def test_a_booster_never_pays_for_usage_before_its_purchase(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    subscriber = bare(operator)
    set_clock(operator, NOW + HOUR)
    put(api, "boosters/b", {"name": "B", "price": "1", "units": "1000", "valid_days": 1})
    post(api, "subscribers/s-1/boosters", {"booster": "b"})
    set_clock(operator, NOW + 26 * HOUR)

    gateway.charge(
        record("before", occurred_at=NOW + HOUR - US),
        record("first", occurred_at=NOW + HOUR, input_tokens=200),
        record("last", occurred_at=NOW + 25 * HOUR - US, input_tokens=300),
        record("after", occurred_at=NOW + 25 * HOUR),
    )

    assert {i: k for i, [(k, _)] in split_of(api).items()} == {
        "before": "uncovered",
        "first": "booster",
        "last": "booster",
        "after": "uncovered",
    }
    assert used(subscriber) == {"booster": 540, "uncovered": 240}
    assert_books_agree()


def test_late_usage_of_a_suspension_is_uncovered_also_for_a_subject_well_known(
    gateway: Gateway, operator: Operator, subscriber: Subscriber
) -> None:
    lifecycle.suspend(subscriber.pk, reason="unpaid", at=NOW + HOUR)
    lifecycle.restore(subscriber.pk, at=NOW + 2 * HOUR)
    set_clock(operator, NOW + 3 * HOUR)
    for n in range(3):
        gateway.charge(record(f"now-{n}", occurred_at=NOW + 3 * HOUR))

    gateway.charge(record("late", occurred_at=NOW + 2 * HOUR - US))

    assert used(subscriber) == {"allowance": 360, "uncovered": 120}
    assert_books_agree()


def test_late_usage_burns_what_was_to_burn_first_then(
    gateway: Gateway, operator: Operator, subscriber: Subscriber
) -> None:
    lifecycle.give(subscriber.pk, units=1000 * T, valid_until=NOW + HOUR, reason="x", at=NOW)
    set_clock(operator, NOW + 2 * HOUR)
    for n in range(3):
        gateway.charge(record(f"now-{n}", occurred_at=NOW + 2 * HOUR))

    gateway.charge(record("late", occurred_at=NOW + HOUR - US))

    assert used(subscriber) == {"allowance": 360, "gift": 120}


def test_late_usage_of_a_plan_that_has_ended_draws_its_buckets(
    gateway: Gateway, operator: Operator
) -> None:
    subscriber = make_subscriber(operator)
    subscription = subscribe(
        subscriber, make_plan(operator, cycle="subscription_day"), starts_at=NOW - 25 * DAY
    )
    lifecycle.change(subscriber.pk, subscription.id, cancel_at_period_end=True, at=NOW)
    end = local(2026, 6, 16)
    set_clock(operator, end + HOUR)
    for n in range(3):
        gateway.charge(record(f"after-{n}", occurred_at=end))

    gateway.charge(record("late", occurred_at=end - US))

    assert used(subscriber) == {"uncovered": 360, "allowance": 120}
    assert_books_agree()


# Notices -----------------------------------------------------------------------------------------


def notices(subscriber: Subscriber) -> list[tuple[str, Any]]:
    rows = OutboxEvent.objects.filter(subscriber_id=subscriber.pk)
    return sorted((row.kind, row.payload.get("percent")) for row in rows)


def test_each_threshold_is_noticed_once_when_it_is_crossed(
    gateway: Gateway, operator: Operator
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator, allowance=100_001))

    def after(tokens: int) -> list[Any]:
        gateway.charge(record(uuid4().hex, input_tokens=tokens, output_tokens=0))
        return [percent for _, percent in notices(subscriber)]

    seen = [after(tokens) for tokens in (50, 1, 28, 1, 1, 19, 1, 5)]

    assert seen == [
        [],
        [50],
        [50],
        [50],
        [50, 80],
        [50, 80],
        [None, 50, 80, 100],
        [None, 50, 80, 100],
    ]
    assert notices(subscriber)[0] == ("bucket.exhausted", None)
    row = OutboxEvent.objects.get(payload__percent=80)
    assert (row.payload["kind"], row.occurred_at, row.sent_at) == ("allowance", NOW, None)


def test_all_thresholds_crossed_at_once_are_each_noticed(
    gateway: Gateway, operator: Operator
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator, allowance=100 * T))

    gateway.charge(*(record(f"r-{n}") for n in range(10)))
    gateway.charge(*(record(f"r-{n}") for n in range(10)))

    assert notices(subscriber) == [
        ("bucket.exhausted", None),
        *(("bucket.threshold", percent) for percent in (50, 80, 100)),
    ]


def test_exhausted_is_noticed_only_when_nothing_prepaid_is_left(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator, allowance=100 * T))
    put(api, "boosters/b", {"name": "B", "price": "1", "units": "100", "valid_days": 5})
    post(api, "subscribers/s-1/boosters", {"booster": "b"})

    def exhausted() -> int:
        return sum(kind == "bucket.exhausted" for kind, _ in notices(subscriber))

    gateway.charge(record("a"))
    assert exhausted() == 0
    gateway.charge(record("b"))
    assert exhausted() == 1
    gateway.charge(record("c"))
    post(api, "subscribers/s-1/boosters", {"booster": "b"})
    gateway.charge(record("d"))
    assert exhausted() == 2


# Periods -----------------------------------------------------------------------------------------


def test_the_month_turns_at_midnight_in_shanghai_to_the_microsecond(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator))
    edge = local(2026, 7, 1)
    set_clock(operator, edge + MINUTE)

    gateway.charge(
        record("last", occurred_at=edge - US),
        record("first", occurred_at=edge, input_tokens=1000),
    )
    gateway.charge(record("last-2", occurred_at=edge - US), record("first-2", occurred_at=edge))

    june, july = buckets_of(subscriber, "allowance")
    assert (june.valid_until, july.valid_from) == (edge, edge)
    assert (june.used, july.used) == (240 * T, 1140 * T)
    assert balance(api)["available"] == "9998860.000"
    assert_books_agree()


def test_usage_some_minutes_ahead_draws_the_period_it_belongs_to(
    gateway: Gateway, operator: Operator
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator))
    edge = local(2026, 7, 1)
    set_clock(operator, edge - 2 * MINUTE)

    gateway.charge(record("ahead", occurred_at=edge), record("now", occurred_at=edge - MINUTE))

    june, july = buckets_of(subscriber, "allowance")
    assert (june.used, july.used) == (120 * T, 120 * T)


@pytest.mark.parametrize(
    ("after", "month"),
    [(48 * HOUR - US, "June"), (48 * HOUR, "July"), (20 * DAY, "July")],
)
def test_late_usage_draws_its_own_period_within_the_grace_and_the_current_one_later(
    gateway: Gateway, api: APIClient, operator: Operator, after: dt.timedelta, month: str
) -> None:
    subscriber = make_subscriber(operator)
    make_rate_card(operator)
    make_rate_card(operator, effective_from=local(2026, 7, 1), weights={"*": ("5",) * 5})
    subscribe(subscriber, make_plan(operator, allowance=1000 * T))
    edge = local(2026, 7, 1)
    set_clock(operator, edge + after)

    gateway.charge(record(occurred_at=edge - US))

    june, july = buckets_of(subscriber, "allowance")
    assert (june.used, july.used) == ((120 * T, 0) if month == "June" else (0, 120 * T))
    # Reports and weights are those of its own time.
    for _ in range(2):
        assert [
            (i["period"][:7], i["units"])
            for i in usage_by(api, "month", local(2026, 6, 1), local(2026, 8, 1))
        ] == [("2026-06", "120.000")]
        rollups.fold_all(at=NOW)
    assert_books_agree()


def test_late_usage_after_the_grace_overflows_at_its_own_period(
    gateway: Gateway, operator: Operator
) -> None:
    subscriber = make_subscriber(operator)
    plan = make_plan(operator, allowance=100 * T, on_exhaustion="meter", price_per_million="1.20")
    subscribe(subscriber, plan)
    set_clock(operator, local(2026, 7, 5))

    gateway.charge(record("late", occurred_at=NOW, input_tokens=480))

    drawn = {(b.kind, b.valid_from): b.used // T for b in buckets_of(subscriber) if b.used}
    assert drawn == {("allowance", local(2026, 7, 1)): 100, ("overage", NOW): 400}
    assert_books_agree()


def test_late_usage_draws_first_what_was_rolled_over(gateway: Gateway, operator: Operator) -> None:
    subscriber = make_subscriber(operator)
    plan = make_plan(operator, allowance=100 * T, rollover="one_cycle")
    subscribe(subscriber, plan)
    gateway.charge(record("june", input_tokens=50, output_tokens=0))
    set_clock(operator, local(2026, 7, 1, 5))

    gateway.charge(record("late", occurred_at=NOW + HOUR, input_tokens=30, output_tokens=0))
    gateway.charge(
        record("july", occurred_at=local(2026, 7, 1, 2), input_tokens=30, output_tokens=0)
    )

    drawn = [(b.kind, b.granted, b.used) for b in buckets_of(subscriber) if b.kind == "rollover"]
    assert drawn == [("rollover", 50 * T, 50 * T)]
    # 50 used, 50 moved on; of July's the 10 that the rollover did not cover.
    assert [b.used // T for b in buckets_of(subscriber, "allowance")] == [100, 10]
    assert_books_agree()


def test_a_period_nobody_has_opened_is_opened_by_the_charge(
    gateway: Gateway, operator: Operator
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator))
    gateway.charge(record("june"))
    set_clock(operator, local(2026, 8, 3))

    gateway.charge(record("august", occurred_at=local(2026, 8, 2)))

    assert [b.used // T for b in buckets_of(subscriber, "allowance")] == [120, 0, 120]


def test_a_leap_second_of_a_day_and_a_short_month_anchor_hold(
    gateway: Gateway, operator: Operator
) -> None:
    subscriber = make_subscriber(operator)
    plan = make_plan(operator, cycle="subscription_day")
    subscribe(subscriber, plan, starts_at=local(2026, 5, 31, 10))
    edge = local(2026, 6, 30)
    set_clock(operator, edge + HOUR)

    gateway.charge(record("last", occurred_at=edge - US), record("first", occurred_at=edge))

    may, june = buckets_of(subscriber, "allowance")
    assert (may.valid_until, june.valid_until) == (edge, local(2026, 7, 31))
    assert (may.used, june.used) == (120 * T, 120 * T)


# A server without room for one more lock; held alone, the operator needs but one.
NO_ROOM = """
CREATE OR REPLACE FUNCTION subscriptions_hold(operator bigint, held bigint[])
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF cardinality(held) = 0 THEN
        PERFORM pg_advisory_xact_lock(7009, operator::int);
    ELSE
        RAISE EXCEPTION 'out of shared memory' USING ERRCODE = 'out_of_memory';
    END IF;
END $$;
"""


def held_alone(operator: Operator) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = 7009"
            " AND objid = %s AND mode = 'ExclusiveLock' AND pid = pg_backend_pid())",
            [operator.pk],
        )
        return bool(cursor.fetchone()[0])


@pytest.mark.parametrize("many", [1, records.FEW + 6])
def test_near_an_edge_usage_is_charged_also_where_a_server_has_no_room_for_locks(
    gateway: Gateway, operator: Operator, many: int
) -> None:
    """Without a plan, on the second of a month."""
    set_clock(operator, local(2026, 7, 2))
    make_rate_card(operator)
    subscriber = make_subscriber(operator)
    with connection.cursor() as cursor:
        cursor.execute(NO_ROOM)

    answer = gateway.charge(
        *[record(f"r-{nr}", occurred_at=local(2026, 7, 2)) for nr in range(many)]
    )

    assert answer["accepted"] == many
    assert used(subscriber) == {"uncovered": 120 * many}
    assert held_alone(operator)


def test_who_has_usage_of_more_subscribers_than_may_be_held_holds_their_operator(
    gateway: Gateway, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "_MOST_HELD", 20)
    set_clock(operator, local(2026, 7, 2))
    make_rate_card(operator)
    for nr in range(21):
        make_subscriber(operator, f"s-{nr}")

    def charge(people: int) -> None:
        of = range(records.FEW + 6)
        now = local(2026, 7, 2)
        gateway.charge(
            *[record(uuid4().hex, subject=f"user-s-{n % people}", occurred_at=now) for n in of]
        )

    charge(20)
    assert not held_alone(operator)
    charge(21)
    assert held_alone(operator)


# Rate cards --------------------------------------------------------------------------------------


def test_the_card_version_is_that_of_the_usages_own_time(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    put_card(api, NOW - 40 * DAY, **{"*": "1 1 1 1 1"})
    put_card(api, NOW - HOUR, **{"*": "2 2 2 2 2"})
    make_subscriber(operator)

    answer = gateway.charge(
        record("old", occurred_at=NOW - HOUR - US), record("new", occurred_at=NOW - HOUR)
    )

    assert answer["units"] == "360.000"
    versions = [item["receipt"]["rate_card_version"] for item in records_of(api)]
    assert versions == [1, 2]
    assert_books_agree()


def test_a_version_published_later_weighs_only_what_is_charged_after_it(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    put_card(api, NOW - 40 * DAY, **{"*": "1 1 1 1 1"})
    make_subscriber(operator)
    gateway.charge(record("a"))
    assert put_card(api, NOW + US, **{"*": "2 2 2 2 2"}).status_code == 201

    assert gateway.charge(record("b"))["units"] == "120.000"
    assert gateway.charge(record("c", occurred_at=NOW + US))["units"] == "240.000"


def test_a_version_from_before_usage_already_charged_is_409(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    assert put_card(api, NOW - 40 * DAY, **{"*": "1 1 1 1 1"}).status_code == 201
    make_subscriber(operator)
    gateway.charge(record("a", occurred_at=NOW - HOUR))

    for effective_from in (NOW - 50 * DAY, NOW - 2 * HOUR, NOW - HOUR):
        refused = put_card(api, effective_from, **{"*": "2 2 2 2 2"})
        assert_problem(refused, 409, "usage_already_charged")
    assert put_card(api, NOW - HOUR + US, **{"*": "2 2 2 2 2"}).status_code == 201
    assert gateway.charge(record("b", occurred_at=NOW - HOUR))["units"] == "120.000"
    assert gateway.charge(record("c"))["units"] == "240.000"


def test_another_card_and_another_operator_stand_in_no_versions_way(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    bare(operator)
    gateway.charge(record())
    other = make_operator("other")

    answer = put_card(client_for(make_key(other)), NOW - DAY, **{"*": "2 2 2 2 2"})
    cheap = put(
        api,
        "rate-cards/cheap",
        {
            "effective_from": "2026-06-01T00:00:00Z",
            "weights": [{"model": "*", **weights("1 " * 5)}],
        },
    )

    assert (answer.status_code, cheap.status_code) == (201, 201)


def test_a_plan_is_weighed_by_its_own_card_and_usage_without_one_by_the_default(
    gateway: Gateway, operator: Operator
) -> None:
    make_rate_card(operator)
    make_rate_card(operator, "dear", weights={"*": ("3",) * 5})
    subscribe(make_subscriber(operator), make_plan(operator, rate_card="dear"))
    make_subscriber(operator, "s-2")

    answer = gateway.charge(record("a"), record("b", subject="user-s-2"))

    assert answer["units"] == "480.000"


PATTERNS = {
    "*": 1,
    "deepseek/*": 2,
    "deepseek/chat": 3,
    "deepseek/chat*": 4,
    "*-flash": 5,
    "qwen*max*": 6,
    "a.c": 7,
    "[ab]?": 8,
    "x**y": 9,
    "Deepseek/*": 10,
    r"a\*": 11,
}


@pytest.mark.parametrize(
    ("model", "weight"),
    [
        ("anything", 1),
        ("deepseek/", 2),
        ("deepseek/v3", 2),
        ("deepseek/chat", 4),
        ("deepseek/chat-v2", 4),
        ("deepseek/chat-flash", 4),
        ("DeepSeek/chat", 1),
        ("Deepseek/chat", 10),
        ("glm-flash", 5),
        ("-flash", 5),
        ("flash", 1),
        ("qwenmax", 6),
        ("qwen3-max-thinking", 6),
        ("qwen-xam", 1),
        ("a.c", 7),
        ("abc", 1),
        ("[ab]?", 8),
        ("ax", 1),
        ("xy", 9),
        ("x---y", 9),
        (r"a\b", 11),
        ("模型", 1),
        ("x" * 256, 1),
    ],
)
def test_only_the_star_is_special_and_the_longest_pattern_wins(
    gateway: Gateway, operator: Operator, model: str, weight: int
) -> None:
    make_rate_card(operator, weights={p: (str(w),) * 5 for p, w in PATTERNS.items()})
    make_subscriber(operator)

    answer = gateway.charge(record(model=model, input_tokens=1, output_tokens=0))

    assert answer["units"] == f"{weight}.000"
    assert_books_agree()


@pytest.mark.parametrize(
    "wrong",
    [
        {"input": "-1"},
        {"input": "100.001"},
        {"input": "101"},
        {"output": "0.0001"},
        {"output": "x"},
        {"output": None},
        {"model": ""},
        {"model": 5},
        {"model": "x" * 257},
        {"model": "a\0"},
    ],
)
def test_a_weight_that_is_none_is_422(
    api: APIClient, operator: Operator, wrong: dict[str, Any]
) -> None:
    item = {"model": "*", **weights("1 1 1 1 1"), **wrong}
    body = {"effective_from": "2026-06-01T00:00:00Z", "weights": [item]}

    assert put(api, "rate-cards/standard", body).status_code == 422


def test_a_pattern_named_twice_and_a_card_of_nothing_are_422(api: APIClient) -> None:
    item = {"model": "*", **weights("1 1 1 1 1")}
    for found in ([item, item], []):
        body = {"effective_from": "2026-06-01T00:00:00Z", "weights": found}
        assert put(api, "rate-cards/standard", body).status_code == 422


def test_weights_from_0_to_100_with_three_places_are_taken(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    answer = put_card(api, NOW - DAY, **{"*": "0 0.001 100 99.999 1.5"})
    make_subscriber(operator)

    charged = gateway.charge(
        record(
            input_tokens=30,
            cached_input_tokens=10,
            cache_write_tokens=10,
            output_tokens=20,
            reasoning_tokens=10,
        )
    )

    assert answer.status_code == 201
    # 10 x 0 + 10 x 0.001 + 10 x 100 + 10 x 99.999 + 10 x 1.5
    assert charged["units"] == "2015.000"
