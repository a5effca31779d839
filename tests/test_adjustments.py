"""After the fact: records voided and corrected, and what that moves."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from rest_framework.test import APIClient

from metering import rollups
from metering.models import AdjustedRecord, Adjustment
from subscriptions import lifecycle
from subscriptions.models import BucketEntry, Operator, Subscriber, Subscription
from tests.asking import reserve
from tests.factories import (
    NOW,
    buckets_of,
    client_for,
    local,
    make_key,
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
    Gateway,
    T,
    assert_books_agree,
    assert_problem,
    balance,
    bare,
    counted,
    get,
    post,
    put_card,
    record,
    records_of,
    split_of,
    usage_by,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def api(operator: Operator) -> APIClient:
    return client_for(make_key(operator, name="staff"))


def try_void(api: APIClient, id: str = "r-1", external_id: str = "s-1", **said: Any) -> Any:
    body = {"reason": "sent by mistake", **said}
    return post(api, f"subscribers/{external_id}/usage-records/{id}/void", body)


def void(api: APIClient, id: str = "r-1", external_id: str = "s-1", **said: Any) -> Any:
    answer = try_void(api, id, external_id, **said)
    assert answer.status_code == 200, answer.content
    return answer.json()


def try_correct(api: APIClient, id: str = "r-1", **said: Any) -> Any:
    body = {"reason": "counted twice", **said}
    return post(api, f"subscribers/s-1/usage-records/{id}/correct", body)


def correct(api: APIClient, id: str = "r-1", **said: Any) -> Any:
    answer = try_correct(api, id, **said)
    assert answer.status_code == 200, answer.content
    return answer.json()


def spent(subscriber: Subscriber) -> dict[str, float]:
    """Tokens that buckets are down by, by kind."""
    down: dict[str, float] = {}
    for bucket in buckets_of(subscriber):
        down[bucket.kind] = down.get(bucket.kind, 0) + bucket.used / T
    return {kind: tokens for kind, tokens in down.items() if tokens}


def moved(answer: Any) -> list[tuple[str, str, str]]:
    buckets = answer["adjustment"]["buckets"]
    return [(bucket["kind"], bucket["units"], bucket["lapsed"]) for bucket in buckets]


def holder(operator: Operator, allowance: int = 1000, **terms: Any) -> Subscriber:
    """`s-1` with so many tokens a month, since a day ago."""
    subscriber = make_subscriber(operator)
    plan = make_plan(operator, allowance=allowance * T, **terms)
    subscribe(subscriber, plan, starts_at=NOW - DAY)
    return subscriber


# Void --------------------------------------------------------------------------------------------


def test_a_voided_record_gives_its_units_back_and_counts_nowhere(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    subscriber = holder(operator)
    gateway.charge(record("r-1"), record("r-2", input_tokens=40))

    answer = void(api)

    assert moved(answer) == [("allowance", "-120.000", "0.000")]
    assert (answer["adjustment"]["kind"], answer["adjustment"]["units"]) == ("void", "-120.000")
    assert (answer["record"]["voided"], answer["record"]["units"]) == (True, "0.000")
    assert balance(api)["available"] == "940.000"
    assert spent(subscriber) == {"allowance": 60}
    [day] = usage_by(api, "day", NOW - DAY, NOW + DAY)
    assert (day["requests"], day["input_tokens"], day["units"]) == (1, 40, "60.000")
    shown = {item["id"]: item for item in records_of(api)}
    assert (shown["r-1"]["voided"], shown["r-1"]["receipt"]["buckets"]) == (True, [])
    assert (shown["r-2"]["voided"], shown["r-2"]["adjustments"]) == (False, [])
    [step] = shown["r-1"]["adjustments"]
    assert step == {
        "batch": answer["adjustment"]["batch"],
        "kind": "void",
        "reason": "sent by mistake",
        "made_by": "staff",
        "made_at": "2026-06-10T04:00:00Z",
        "units_before": "120.000",
        "units_after": "0.000",
    }
    assert_books_agree()


def test_voiding_again_changes_nothing_and_answers_the_same(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    subscriber = holder(operator)
    gateway.charge(record())

    first, second = void(api), void(api, reason="another")

    assert first == second
    assert (spent(subscriber), Adjustment.objects.count()) == ({}, 1)
    assert_books_agree()


def test_a_resend_of_a_voided_record_is_a_duplicate(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    subscriber = holder(operator)
    gateway.charge(record())
    void(api)

    assert counted(gateway.charge(record())) == (0, 1, 0)
    assert spent(subscriber) == {}


def test_a_record_over_several_buckets_goes_back_to_each(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    subscriber = holder(operator, 100, on_exhaustion="meter", price_per_million="1.20")
    lifecycle.give(subscriber.pk, units=50 * T, valid_until=NOW + DAY, reason="x", at=NOW)
    gateway.charge(
        record("a", occurred_at=NOW, input_tokens=10),
        record("b", occurred_at=NOW + MINUTE, input_tokens=180),
        record("c", occurred_at=NOW + 2 * MINUTE, input_tokens=10),
    )
    before = split_of(api)
    assert before["b"] == [("gift", "20.000"), ("allowance", "100.000"), ("overage", "80.000")]

    void(api, "b")

    assert spent(subscriber) == {"gift": 30, "overage": 30}
    assert split_of(api) == before | {"b": []}
    assert_books_agree()


def test_what_was_void_may_be_used_again_at_once(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    """Also by who remembers that the allowance is empty and overage pays."""
    subscriber = holder(operator, 120, on_exhaustion="meter", price_per_million="1.20")
    for nr in range(4):
        gateway.charge(record(f"r-{nr}"))
    assert spent(subscriber) == {"allowance": 120, "overage": 360}

    void(api, "r-0")
    gateway.charge(record("r-4"))

    assert spent(subscriber) == {"allowance": 120, "overage": 360}
    assert split_of(api)["r-4"] == [("allowance", "120.000")]
    assert_books_agree()


def test_an_expired_bucket_is_not_refilled(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    subscriber = holder(operator)
    lifecycle.give(subscriber.pk, units=50 * T, valid_until=NOW + HOUR, reason="x", at=NOW)
    gateway.charge(record())
    set_clock(operator, NOW + HOUR)

    answer = void(api)

    assert sorted(moved(answer)) == [
        ("allowance", "-70.000", "0.000"),
        ("gift", "-50.000", "50.000"),
    ]
    assert spent(subscriber) == {"gift": 50}
    assert balance(api)["available"] == "1000.000"
    assert_books_agree()


def test_to_the_last_instant_of_its_life_a_bucket_is_refilled(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    subscriber = holder(operator)
    lifecycle.give(subscriber.pk, units=50 * T, valid_until=NOW + HOUR, reason="x", at=NOW)
    gateway.charge(record())
    set_clock(operator, NOW + HOUR - dt.timedelta(microseconds=1))

    void(api)

    assert spent(subscriber) == {}
    assert_books_agree()


def test_overage_of_a_period_that_is_over_is_owed_no_more(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    subscriber = holder(operator, 100, on_exhaustion="meter", price_per_million="1.20")
    gateway.charge(record(input_tokens=180))
    set_clock(operator, local(2026, 7, 10))

    answer = void(api)

    assert sorted(moved(answer)) == [
        ("allowance", "-100.000", "100.000"),
        ("overage", "-100.000", "0.000"),
    ]
    assert spent(subscriber) == {"allowance": 100}
    assert_books_agree()


def test_a_void_takes_the_record_out_of_every_hour_folded_or_not(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    holder(operator)
    gateway.charge(record("r-1"))
    rollups.fold_all(at=NOW)
    gateway.charge(record("r-2"))

    void(api, "r-1")
    void(api, "r-2")

    spans = [(NOW - HOUR, NOW + HOUR), (NOW, NOW + MINUTE), (NOW - MINUTE, NOW + MINUTE)]
    assert [usage_by(api, "hour", *span) for span in spans] == [[], [], []]
    rollups.fold_all(at=NOW)
    assert [usage_by(api, "hour", *span) for span in spans] == [[], [], []]
    assert_books_agree()


def test_a_record_that_cost_nothing_can_be_void_too(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    holder(operator)
    gateway.charge(record(outcome="blocked"))

    assert void(api)["adjustment"]["units"] == "0.000"

    assert usage_by(api, "hour", NOW - HOUR, NOW + HOUR) == []
    assert_books_agree()


def test_usage_without_a_plan_and_of_a_suspended_line_can_be_void(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    subscriber = bare(operator)
    gateway.charge(record("r-1"))
    subscribe(subscriber, make_plan(operator))
    lifecycle.suspend(subscriber.pk, reason="unpaid", at=NOW)
    gateway.charge(record("r-2", occurred_at=NOW + MINUTE))
    lifecycle.restore(subscriber.pk, at=NOW + MINUTE)
    assert spent(subscriber) == {"uncovered": 240}

    void(api, "r-1")
    void(api, "r-2")

    assert spent(subscriber) == {}
    assert_books_agree()


def test_a_bucket_taken_back_stays_empty(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    """Usage ahead of the month's edge drew an allowance that a change of plan then replaced."""
    subscriber = make_subscriber(operator)
    held = subscribe(subscriber, make_plan(operator, allowance=1000 * T))
    other = make_plan(operator, "other", allowance=500 * T)
    late = local(2026, 6, 30, 23, 58)
    set_clock(operator, late)
    lifecycle.ensure_open([subscriber.pk], at=late, until=local(2026, 7, 1, 0, 1))
    gateway.charge(record(occurred_at=local(2026, 7, 1, 0, 1)))
    lifecycle.change(subscriber.pk, held.id, plan_code=other.code, at=late)
    set_clock(operator, local(2026, 7, 1, 1))

    answer = void(api)

    assert moved(answer) == [("allowance", "-120.000", "120.000")]
    assert balance(api)["available"] == "500.000"
    assert_books_agree()


def test_what_a_reservation_holds_stays_held(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    holder(operator)
    gateway.charge(record())
    reserve(gateway, units="880")

    void(api)

    shown = balance(api)
    assert (shown["available"], shown["reserved"]) == ("120.000", "880.000")
    assert_books_agree()


# Which record ------------------------------------------------------------------------------------


def test_a_record_that_is_not_there_is_404(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    holder(operator)
    make_subscriber(operator, "s-2")
    gateway.charge(record())

    assert_problem(try_void(api, "r-2"), 404, "not_found")
    assert_problem(try_void(api, external_id="s-2"), 404, "not_found")
    assert_problem(try_void(api, gateway="other"), 404, "not_found")
    assert_problem(try_void(api, occurred_at=(NOW + DAY).isoformat()), 404, "not_found")
    assert_problem(try_void(api, "a\0b"), 404, "not_found")


def test_of_several_records_with_one_id_the_caller_says_which(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    subscriber = holder(operator)
    other = Gateway(operator, name="other")
    gateway.charge(record("a/b ?"))
    other.charge(record("a/b ?", input_tokens=10))

    said = assert_problem(try_void(api, "a/b%20%3F"), 409, "ambiguous_record")
    assert "gateway 'other'" in said["detail"]
    void(api, "a/b%20%3F", gateway="other", source="", occurred_at=NOW.isoformat())

    assert spent(subscriber) == {"allowance": 120}
    assert_books_agree()


@pytest.mark.parametrize(
    "body",
    [
        {"reason": ""},
        {"reason": None},
        {"reason": "x" * 501},
        {"gateway": 5},
        {"occurred_at": "yesterday"},
        {"source": None},
    ],
)
def test_what_is_not_said_rightly_is_422(
    operator: Operator, gateway: Gateway, api: APIClient, body: dict[str, Any]
) -> None:
    holder(operator)
    gateway.charge(record())

    assert_problem(try_void(api, **body), 422, "invalid")
    assert not AdjustedRecord.objects.exists()


def test_an_idempotency_key_gives_the_first_answer(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    holder(operator)
    gateway.charge(record())
    path = "/api/v1/subscribers/s-1/usage-records/r-1/correct"
    headers = {"Idempotency-Key": "one"}

    first = api.post(path, {"reason": "x", "input_tokens": 50}, "json", headers=headers)
    correct(api, input_tokens=60)
    again = api.post(path, {"reason": "x", "input_tokens": 50}, "json", headers=headers)
    other = api.post(path, {"reason": "x", "input_tokens": 70}, "json", headers=headers)

    assert (first.json(), again["Idempotency-Replayed"]) == (again.json(), "true")
    assert_problem(other, 409, "idempotency_conflict")
    assert records_of(api)[0]["units"] == "80.000"


# Correct -----------------------------------------------------------------------------------------


def test_less_goes_back_the_last_drawn_first(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    subscriber = holder(operator, 100, on_exhaustion="meter", price_per_million="1.20")
    gateway.charge(record(input_tokens=180))
    assert spent(subscriber) == {"allowance": 100, "overage": 100}

    answer = correct(api, input_tokens=60)

    assert moved(answer) == [
        ("allowance", "-20.000", "0.000"),
        ("overage", "-100.000", "0.000"),
    ]
    assert answer["record"]["units"] == "80.000"
    assert spent(subscriber) == {"allowance": 80}
    assert split_of(api) == {"r-1": [("allowance", "80.000")]}
    assert_books_agree()


def test_more_is_drawn_in_burn_order(operator: Operator, gateway: Gateway, api: APIClient) -> None:
    subscriber = holder(operator, 150, on_exhaustion="meter", price_per_million="1.20")
    gateway.charge(record())

    answer = correct(api, input_tokens=230)

    assert answer["adjustment"]["units"] == "130.000"
    assert spent(subscriber) == {"allowance": 150, "overage": 100}
    assert split_of(api) == {"r-1": [("allowance", "150.000"), ("overage", "100.000")]}
    [day] = usage_by(api, "day", NOW - DAY, NOW + DAY)
    assert (day["requests"], day["input_tokens"], day["units"]) == (1, 230, "250.000")
    assert_books_agree()


def test_a_correction_can_be_corrected_and_made_void(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    subscriber = holder(operator, 150, on_exhaustion="meter", price_per_million="1.20")
    gateway.charge(record())

    for tokens in (230, 10, 300, 0):
        correct(api, input_tokens=tokens)
    assert spent(subscriber) == {"allowance": 20}
    correct(api, input_tokens=180)
    void(api)

    assert spent(subscriber) == {}
    [shown] = records_of(api)
    assert [step["kind"] for step in shown["adjustments"]] == ["correction"] * 5 + ["void"]
    assert [step["units_after"] for step in shown["adjustments"]] == [
        "250.000",
        "30.000",
        "320.000",
        "20.000",
        "200.000",
        "0.000",
    ]
    assert_books_agree()


def test_saying_what_is_said_already_changes_nothing(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    holder(operator)
    gateway.charge(record())

    assert correct(api, input_tokens=100, model="deepseek/chat")["adjustment"] is None
    first = correct(api, input_tokens=90)
    assert first["adjustment"]["units"] == "-10.000"
    assert correct(api, input_tokens=90)["adjustment"] is None

    assert Adjustment.objects.count() == 1


def test_a_void_record_is_not_corrected(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    holder(operator)
    gateway.charge(record())
    void(api)

    assert_problem(try_correct(api, input_tokens=5), 409, "voided")


def test_another_model_weighs_and_counts_as_that_model(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    put_card(api, NOW - 40 * DAY, **{"deepseek/*": "1 1 1 4 4", "qwen/*": "2 2 2 2 2"})
    subscriber = holder(operator)
    gateway.charge(record())
    rollups.fold_all(at=NOW)
    assert spent(subscriber) == {"allowance": 180}

    answer = correct(api, model="qwen/max")

    assert spent(subscriber) == {"allowance": 240}
    assert answer["record"]["receipt"]["lines"][0]["weight"] == "2.000"
    span = "from=2026-06-10T00:00:00Z&to=2026-06-11T00:00:00Z"
    items = get(api, f"subscribers/s-1/usage?{span}&by=day,model")["items"]
    assert [(item["model"], item["requests"]) for item in items] == [("qwen/max", 1)]
    assert_problem(try_correct(api, model="gpt-4o"), 422, "unknown_model")
    assert_books_agree()


def test_a_record_is_weighed_as_of_its_time(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    put_card(api, NOW - 40 * DAY, **{"*": "1 1 1 1 1"})
    subscriber = holder(operator)
    gateway.charge(record())
    put_card(api, NOW + DAY, **{"*": "5 5 5 5 5"})
    set_clock(operator, NOW + 2 * DAY)

    correct(api, input_tokens=10)

    assert spent(subscriber) == {"allowance": 30}
    assert_books_agree()


def test_an_outcome_corrected_is_billed_as_the_plan_says(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    subscriber = holder(operator)
    gateway.charge(record("a"), record("b", outcome="upstream_error"))

    correct(api, "a", outcome="upstream_error")
    assert spent(subscriber) == {}
    correct(api, "b", outcome="complete")

    assert spent(subscriber) == {"allowance": 120}
    assert_books_agree()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"input_tokens": -1},
        {"input_tokens": 10**9 + 1},
        {"input_tokens": "5"},
        {"cached_input_tokens": 101},
        {"reasoning_tokens": 21},
        {"input_tokens": 5, "cache_write_tokens": 6},
        {"model": ""},
        {"outcome": "x" * 33},
    ],
)
def test_a_correction_that_cannot_be_is_422(
    operator: Operator, gateway: Gateway, api: APIClient, body: dict[str, Any]
) -> None:
    holder(operator)
    gateway.charge(record())

    assert_problem(try_correct(api, **body), 422, "invalid")
    assert not AdjustedRecord.objects.exists()


# Rule 7: after the period ------------------------------------------------------------------------


def test_within_the_grace_more_is_drawn_from_the_old_period(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    subscriber = holder(operator, 1000)
    gateway.charge(record())
    set_clock(operator, local(2026, 7, 1, 12))

    correct(api, input_tokens=180)

    june, july = buckets_of(subscriber, "allowance")
    assert (june.used, july.used) == (200 * T, 0)
    assert_books_agree()


def test_after_the_grace_more_is_drawn_from_the_current_period_and_the_rest_is_the_old_ones(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    subscriber = holder(operator, 150, on_exhaustion="meter", price_per_million="1.20")
    gateway.charge(record())
    set_clock(operator, local(2026, 7, 10))

    correct(api, input_tokens=400)

    june, july = buckets_of(subscriber, "allowance")
    old, new = buckets_of(subscriber, "overage")
    assert (june.used, july.used) == (120 * T, 150 * T)
    assert (old.used, new.used) == (150 * T, 0)
    assert_books_agree()


def test_in_a_closed_period_less_lapses(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    subscriber = holder(operator, 150)
    gateway.charge(record())
    set_clock(operator, local(2026, 7, 10))

    answer = correct(api, input_tokens=50)

    assert moved(answer) == [("allowance", "-50.000", "50.000")]
    june, july = buckets_of(subscriber, "allowance")
    assert (june.used, july.used) == (120 * T, 0)
    assert records_of(api)[0]["units"] == "70.000"
    assert_books_agree()


def test_blocks_are_bought_for_a_correction_as_for_usage(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    subscriber = holder(
        operator,
        150,
        on_exhaustion="blocks",
        block_units=100 * T,
        block_price=yuan("1"),
        cap=yuan("2"),
    )
    gateway.charge(record())

    correct(api, input_tokens=480)

    assert spent(subscriber) == {"allowance": 150, "overage": 200, "uncovered": 150}
    assert_books_agree()


def test_a_block_bought_for_usage_that_is_void_by_now_stays_but_is_billed_only_if_needed(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    subscriber = holder(
        operator, 150, on_exhaustion="blocks", block_units=100 * T, block_price=yuan("1")
    )
    gateway.charge(record("r-1"))
    gateway.charge(record("r-2", input_tokens=180))
    [block] = buckets_of(subscriber, "overage")
    assert (block.granted, block.used) == (200 * T, 170 * T)

    void(api, "r-2")

    # What was bought can still be used up before more is.
    [block] = buckets_of(subscriber, "overage")
    assert (block.granted, block.used) == (200 * T, 0)
    gateway.charge(record("r-3", input_tokens=60))
    [block] = buckets_of(subscriber, "overage")
    assert (block.granted, block.used) == (200 * T, 50 * T)
    post(api, "test-clock", {"now": local(2026, 7, 3, 12).isoformat()})
    [invoice] = get(api, "subscribers/s-1/invoices")["items"]
    [line] = [line for line in invoice["lines"] if line["kind"] == "block"]
    assert (line["units"], line["gross"]["amount"]) == ("50.000", "1.00")
    assert_books_agree()


# The audit ---------------------------------------------------------------------------------------


def test_all_adjustments_are_listed(operator: Operator, gateway: Gateway, api: APIClient) -> None:
    holder(operator)
    make_subscriber(operator, "s-2")
    gateway.charge(record("r-1"), record("r-2"))
    gateway.charge(record("r-3", subject="user-s-2"))
    correct(api, "r-1", input_tokens=50)
    void(api, "r-2")
    void(api, "r-3", "s-2", reason="a test")

    items = get(api, "adjustments")["items"]

    assert [(i["kind"], i["subscriber"], i["reason"], i["units"]) for i in items] == [
        ("correction", "s-1", "counted twice", "-50.000"),
        ("void", "s-1", "sent by mistake", "-120.000"),
        ("void", "s-2", "a test", "-120.000"),
    ]
    assert [i["made_by"] for i in items] == ["staff"] * 3
    first = get(api, "adjustments?limit=2")
    assert [i["batch"] for i in first["items"] + get(api, first["next"])["items"]] == [
        i["batch"] for i in items
    ]
    assert [i["kind"] for i in get(api, "adjustments?subscriber=s-2")["items"]] == ["void"]
    assert_problem(api.get("/api/v1/adjustments?subscriber=nobody"), 404, "not_found")


def test_nothing_that_was_written_is_edited(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    subscriber = holder(operator)
    gateway.charge(record())
    journal = BucketEntry.objects.filter(subscriber_id=subscriber.pk).order_by("batch_id", "kind")
    entries = list(journal.values())

    correct(api, input_tokens=50)
    void(api)

    now = list(journal.all().values())
    assert [entry for entry in now if entry in entries] == entries
    assert [e["units"] for e in now if e["kind"] == BucketEntry.Kind.REVERSAL] == [-50 * T, -70 * T]
    rows = AdjustedRecord.objects.order_by("nr").values_list("nr", "requests", "units")
    assert list(rows) == [(1, -1, -120 * T), (2, 1, 70 * T), (3, -1, -70 * T)]


def test_usage_told_twice_under_made_up_ids_can_be_taken_back(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    """What `suspected-repeats` names has an id and a source: enough to make it void."""
    make_rate_card(operator)
    subscriber = holder(operator)
    event = {
        "event": {
            "transaction_id": "tx-1",
            "external_subscription_id": "user-s-1",
            "code": "llm",
            "timestamp": int(NOW.timestamp()),
            "properties": {"model": "m", "prompt_tokens": 58, "completion_tokens": 20},
        }
    }
    gateway.send(event, path="/api/v1/events")

    void(api, "tx-1", source="lago")

    assert spent(subscriber) == {}
    assert_books_agree()


@pytest.mark.parametrize("drawn", ["2026-06-10T04:00:00Z", "2026-06-10T03:00:00Z"])
def test_a_void_and_the_end_of_its_subscription_at_one_instant_are_told_apart(
    operator: Operator, gateway: Gateway, api: APIClient, drawn: str
) -> None:
    """The void was first: what it gave back is taken back by the end, and nothing lapses."""
    subscriber = holder(operator)
    gateway.charge(record(occurred_at=drawn))
    assert moved(void(api)) == [("allowance", "-120.000", "0.000")]

    subscription = Subscription.objects.get()
    lifecycle.end_now(subscriber.pk, subscription.id, at=NOW, reason="moved away", refund=False)

    assert spent(subscriber) == {"allowance": 1000}
    assert_books_agree()
