"""What was used, as the carrier sees it: receipts, and totals by hour, day and month."""

from __future__ import annotations

from decimal import Decimal

import pytest
from rest_framework.test import APIClient

from metering import rollups
from metering.models import UsageHour
from subscriptions import lifecycle
from subscriptions.models import Operator, Subscriber
from tests.factories import (
    NOW,
    client_for,
    local,
    make_key,
    make_operator,
    make_plan,
    make_rate_card,
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
    counted,
    get,
    post,
    put_card,
    record,
    records_of,
    split_of,
    usage_by,
    used,
)

pytestmark = pytest.mark.django_db


# Weights and receipts ----------------------------------------------------------------------------


def test_a_receipt_shows_tokens_by_class_times_weight(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    put_card(api, NOW - 40 * DAY, **{"deepseek/*": "1 0.1 1.25 4 4.125"})
    put_card(api, NOW - DAY, **{"deepseek/*": "1 0.1 1.25 4 4.125", "*": "9 9 9 9 9"})
    make_subscriber(operator)
    gateway.charge(
        record(
            input_tokens=1000,
            cached_input_tokens=333,
            cache_write_tokens=100,
            output_tokens=50,
            reasoning_tokens=7,
            outcome="complete",
        )
    )

    [shown] = records_of(api)

    uncovered = shown["receipt"]["buckets"][0]["id"]
    assert shown == {
        "id": "r-1",
        "subject": "user-s-1",
        "model": "deepseek/chat",
        "occurred_at": "2026-06-10T04:00:00Z",
        "outcome": "complete",
        "voided": False,
        "input_tokens": 1000,
        "cached_input_tokens": 333,
        "cache_write_tokens": 100,
        "output_tokens": 50,
        "reasoning_tokens": 7,
        "units": "926.175",
        "receipt": {
            "rate_card": "standard",
            "rate_card_version": 2,
            "lines": [
                {"class": "uncached_input", "tokens": 567, "weight": "1.000", "units": "567.000"},
                {"class": "cached_input", "tokens": 333, "weight": "0.100", "units": "33.300"},
                {"class": "cache_write", "tokens": 100, "weight": "1.250", "units": "125.000"},
                {"class": "output", "tokens": 43, "weight": "4.000", "units": "172.000"},
                {"class": "reasoning", "tokens": 7, "weight": "4.125", "units": "28.875"},
            ],
            "buckets": [{"id": uncovered, "kind": "uncovered", "units": "926.175"}],
        },
        "adjustments": [],
    }


def test_a_record_over_two_buckets_shows_both(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator, allowance=100 * T))
    lifecycle.give(subscriber.pk, units=50_500, valid_until=NOW + DAY, reason="x", at=NOW)

    gateway.charge(record(input_tokens=180))

    assert split_of(api) == {
        "r-1": [("gift", "50.500"), ("allowance", "100.000"), ("uncovered", "49.500")]
    }


def test_records_of_a_batch_consume_buckets_in_order_of_time_gateway_and_id(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator, allowance=100 * T), starts_at=NOW - DAY)

    gateway.charge(
        record("b", input_tokens=40, output_tokens=0),
        record("z", input_tokens=30, output_tokens=0, occurred_at=NOW - 2 * US),
        record("a", input_tokens=40, output_tokens=0),
        record("c", input_tokens=10, output_tokens=0, occurred_at=NOW - US),
        record("d", input_tokens=5, output_tokens=0),
    )

    assert split_of(api) == {
        "z": [("allowance", "30.000")],
        "c": [("allowance", "10.000")],
        "a": [("allowance", "40.000")],
        "b": [("allowance", "20.000"), ("uncovered", "20.000")],
        "d": [("uncovered", "5.000")],
    }
    assert_books_agree()


def test_a_batch_over_a_booster_a_period_edge_and_the_grace_has_a_receipt_that_adds_up(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    subscriber = make_subscriber(operator)
    plan = make_plan(operator, allowance=100 * T, rollover="one_cycle")
    subscribe(subscriber, plan, starts_at=local(2026, 6, 1))
    set_clock(operator, local(2026, 7, 1, 1))
    lifecycle.open_due(operator.pk, at=local(2026, 7, 1, 1))
    lifecycle.give(
        subscriber.pk, units=30 * T, valid_until=NOW + 60 * DAY, reason="x", at=local(2026, 7, 1, 1)
    )
    edge = local(2026, 7, 1)

    gateway.charge(
        *(
            record(f"r-{n:02}", occurred_at=edge + (n - 10) * 10 * MINUTE, input_tokens=7 * n)
            for n in range(17)
        )
    )

    for item in records_of(api):
        drawn = sum(float(b["units"]) for b in item["receipt"]["buckets"])
        assert f"{drawn:.3f}" == item["units"]
    totals: dict[str, float] = {}
    for item in records_of(api):
        for bucket in item["receipt"]["buckets"]:
            totals[bucket["kind"]] = totals.get(bucket["kind"], 0) + float(bucket["units"])
    assert totals == used(subscriber)
    assert_books_agree()


def test_a_record_of_no_units_has_a_receipt_without_buckets(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    make_rate_card(operator, weights={"free": ("0",) * 5, "*": ("1",) * 5})
    subscriber = make_subscriber(operator)

    answer = gateway.charge(record("a", model="free"), record("b"))

    assert answer["units"] == "120.000"
    assert split_of(api) == {"a": [], "b": [("uncovered", "120.000")]}
    assert counted(gateway.charge(record("a", model="free"))) == (0, 1, 0)
    assert used(subscriber) == {"uncovered": 120}
    assert_books_agree()


def test_usage_records_page_in_order_of_time(
    gateway: Gateway, api: APIClient, operator: Operator, subscriber: Subscriber
) -> None:
    second = Gateway(operator, name="second")
    for n in range(7):
        gateway.charge(record(f"r-{n}", occurred_at=NOW - (n // 2) * HOUR))
        second.charge(record(f"r-{n}", occurred_at=NOW - (n // 2) * HOUR))

    url, seen, pages = "subscribers/s-1/usage-records?limit=3&", [], 0
    url += "from=2026-06-01T00:00:00Z&to=2026-07-01T00:00:00%2B08:00"
    while url:
        page = get(api, url)
        seen += [(item["occurred_at"], item["id"]) for item in page["items"]]
        url, pages = page["next"], pages + 1

    assert (len(seen), pages) == (14, 5)
    assert [moment for moment, _ in seen] == sorted(moment for moment, _ in seen)
    assert sorted(i for _, i in seen) == sorted(f"r-{n}" for n in range(7) for _ in range(2))


def test_usage_records_are_those_from_and_before_the_instants_asked_for(
    gateway: Gateway, api: APIClient, subscriber: Subscriber
) -> None:
    gateway.charge(*(record(f"r-{n}", occurred_at=NOW + n * US) for n in range(-2, 3)))
    path = "subscribers/s-1/usage-records?from=2026-06-10T12:00:00%2B08:00"

    items = get(api, f"{path}&to=2026-06-10T04:00:00.000002Z")["items"]

    assert [item["id"] for item in items] == ["r-0", "r-1"]


def test_a_range_may_be_written_with_any_offset(
    gateway: Gateway, api: APIClient, subscriber: Subscriber
) -> None:
    gateway.charge(record())

    for since, until in (
        ("2026-06-11T03:59:00%2B23:59", "2026-06-09T04:01:01-23:59"),
        ("2026-06-10T12:00:00+08:00", "2026-06-10T04:00:00.000001Z"),
    ):
        span = f"from={since}&to={until}"
        assert len(get(api, f"subscribers/s-1/usage-records?{span}")["items"]) == 1
        assert len(get(api, f"subscribers/s-1/usage?by=hour&{span}")["items"]) == 1


BAD_RANGES = [
    "",
    "from=2026-06-01T00:00:00Z",
    "to=2026-06-01T00:00:00Z",
    "from=2026-06-01&to=2026-06-02",
    "from=2026-06-01T00:00:00&to=2026-06-02T00:00:00",
    "from=x&to=y",
    "from=%00&to=%00",
    "from=0001-01-01T00:00:00Z&to=2026-06-02T00:00:00Z",
    "from=2026-06-01T00:00:00Z&to=9999-12-31T23:59:59Z",
    "from=2026-02-30T00:00:00Z&to=2026-06-02T00:00:00Z",
    "from=2026-06-01T00:00:00%2B99:00&to=2026-06-02T00:00:00Z",
]


@pytest.mark.parametrize("query", BAD_RANGES)
@pytest.mark.parametrize("report", ["usage", "usage-records"])
def test_a_range_that_cannot_be_read_is_400(
    api: APIClient, subscriber: Subscriber, report: str, query: str
) -> None:
    answer = api.get(f"/api/v1/subscribers/s-1/{report}?by=day&{query}")

    assert_problem(answer, 400, "bad_query")


def test_a_time_beyond_every_calendar_is_called_so(api: APIClient, subscriber: Subscriber) -> None:
    query = "by=day&from=0001-01-01T00:00:00Z&to=2026-06-02T00:00:00Z"

    problem = assert_problem(api.get(f"/api/v1/subscribers/s-1/usage?{query}"), 400, "bad_query")

    assert problem["detail"] == "from is too far away: give a year from 2 to 9997"


# Usage reports -----------------------------------------------------------------------------------


def test_the_usage_report_shows_every_class_and_the_operators_offset(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    make_rate_card(operator, weights={"*": ("1", "0.5", "2", "3", "4")})
    make_subscriber(operator)
    counts = {
        "input_tokens": 100,
        "cached_input_tokens": 10,
        "cache_write_tokens": 20,
        "output_tokens": 9,
        "reasoning_tokens": 4,
    }
    gateway.charge(record("a", **counts), record("b", **counts))

    for _ in range(2):
        assert usage_by(api, "day", NOW - DAY, NOW + DAY) == [
            {
                "period": "2026-06-10T00:00:00+08:00",
                "requests": 2,
                **{name: 2 * count for name, count in counts.items()},
                "units": "292.000",
            }
        ]
        rollups.fold_all(at=NOW)


def test_usage_is_shown_by_hour_day_and_month_and_by_model(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    bare(operator)
    set_clock(operator, local(2026, 7, 1, 1))
    moments = {
        "a": local(2026, 6, 30, 22, 59, 59),
        "b": local(2026, 6, 30, 23),
        "c": local(2026, 7, 1) - US,
        "d": local(2026, 7, 1),
        "e": local(2026, 7, 1, 0, 59),
    }
    gateway.charge(*(record(i, occurred_at=m, model=f"m-{i in 'ac'}") for i, m in moments.items()))
    since, until = local(2026, 6, 1), local(2026, 7, 2)

    def seen(by: str) -> list[tuple[str, int]]:
        return [(i["period"], i["requests"]) for i in usage_by(api, by, since, until)]

    for _ in range(2):
        assert seen("month") == [("2026-06-01T00:00:00+08:00", 3), ("2026-07-01T00:00:00+08:00", 2)]
        assert seen("day") == [("2026-06-30T00:00:00+08:00", 3), ("2026-07-01T00:00:00+08:00", 2)]
        assert [
            (i["period"][:13], i["requests"])
            for i in usage_by(api, "hour", local(2026, 6, 30), until)
        ] == [("2026-06-30T22", 1), ("2026-06-30T23", 2), ("2026-07-01T00", 2)]
        assert [
            (i["period"][:7], i["model"], i["requests"])
            for i in usage_by(api, "month,model", since, until)
        ] == [("2026-06", "m-False", 1), ("2026-06", "m-True", 2), ("2026-07", "m-False", 2)]
        rollups.fold_all(at=NOW)


def test_whole_days_are_read_as_days_which_late_usage_and_corrections_change(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    bare(operator)
    old = local(2026, 6, 5, 15)
    gateway.charge(*(record(f"r-{nr}", occurred_at=old + nr * HOUR) for nr in range(3)))
    rollups.fold_all(at=NOW)
    gateway.charge(record("late", occurred_at=old - HOUR))
    rollups.fold_all(at=NOW)
    answer = post(api, "subscribers/s-1/usage-records/r-1/void", {"reason": "a test"})
    assert answer.status_code == 200, answer.content
    by_hour = usage_by(api, "hour", local(2026, 6, 5), local(2026, 6, 6))

    # Nobody looks at the hours of a day that is asked for whole.
    UsageHour.objects.all().delete()
    [day] = usage_by(api, "day", local(2026, 6, 5), local(2026, 6, 6))

    assert [item["requests"] for item in by_hour] == [1, 1, 1]
    assert day["requests"] == 3
    assert Decimal(day["units"]) == sum(Decimal(item["units"]) for item in by_hour)


@pytest.mark.parametrize("folded", ["before", "between", "after"])
def test_usage_is_exact_at_edges_inside_an_hour(
    gateway: Gateway, api: APIClient, operator: Operator, folded: str
) -> None:
    bare(operator)
    start = NOW - 3 * HOUR
    moments = [start + n * 7 * MINUTE + n * US for n in range(26)]
    half = len(moments) // 2
    gateway.charge(*(record(f"a-{n}", occurred_at=m) for n, m in enumerate(moments[:half])))
    if folded == "between":
        rollups.fold_all(at=NOW)
    gateway.charge(*(record(f"b-{n}", occurred_at=m) for n, m in enumerate(moments[half:])))
    if folded == "after":
        rollups.fold_all(at=NOW)

    edges = [start - HOUR, start, *moments[::3], start + HOUR, start + 90 * MINUTE, NOW, NOW + HOUR]
    for since in edges:
        for until in edges:
            if since >= until:
                continue
            wanted = sum(since <= moment < until for moment in moments)
            for by in ("hour", "day", "month"):
                shown = usage_by(api, by, since, until)
                assert sum(item["requests"] for item in shown) == wanted, (since, until, by)
                assert sum(float(item["units"]) for item in shown) == wanted * 120


def test_an_hour_is_the_zones_own_where_it_is_half_an_hour_off() -> None:
    operator = make_operator("south", zone="Asia/Kolkata")
    make_rate_card(operator)
    make_subscriber(operator)
    api = client_for(make_key(operator))
    gateway = Gateway(operator)
    gateway.charge(*(record(f"r-{n}", occurred_at=NOW - n * 10 * MINUTE) for n in range(12)))

    for _ in range(2):
        shown = usage_by(api, "hour", NOW - 2 * HOUR, NOW + HOUR)
        assert [(i["period"], i["requests"]) for i in shown] == [
            ("2026-06-10T07:00:00+05:30", 2),
            ("2026-06-10T08:00:00+05:30", 6),
            ("2026-06-10T09:00:00+05:30", 4),
        ]
        rollups.fold_all(at=NOW)


@pytest.mark.parametrize(
    ("by", "days", "status"),
    [
        ("hour", 31, 200),
        ("hour", 32, 422),
        ("day", 400, 200),
        ("day", 401, 422),
        ("month", 3650, 200),
        ("day", 0, 422),
        ("day", -1, 422),
        ("week", 1, 400),
        ("", 1, 400),
        ("day,subject", 1, 400),
        ("hour,model", 31, 200),
    ],
)
def test_a_report_covers_at_most_its_range(
    api: APIClient, subscriber: Subscriber, by: str, days: int, status: int
) -> None:
    until = (NOW + days * DAY).strftime("%Y-%m-%dT%H:%M:%SZ")

    answer = api.get(f"/api/v1/subscribers/s-1/usage?from=2026-06-10T04:00:00Z&to={until}&by={by}")

    assert answer.status_code == status, answer.content
