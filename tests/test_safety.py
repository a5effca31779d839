"""Night locks, lines of one's own, consents to overage, minors' caps: what each lets through."""

from __future__ import annotations

import datetime as dt
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase
from rest_framework.test import APIClient

from billing.models import Order
from subscriptions import dispatching, lifecycle, periods
from subscriptions.models import (
    Bucket,
    Guard,
    Operator,
    OutboxEvent,
    Plan,
    SafetyStep,
    Subscriber,
)
from subscriptions.safety import alerts
from tests.asking import commit, reserve
from tests.factories import (
    NOW,
    SHANGHAI,
    buckets_of,
    client_for,
    local,
    make_key,
    make_operator,
    make_plan,
    make_subscriber,
    set_clock,
    subscribe,
    yuan,
)
from tests.keys import make_subscriber_key
from tests.usage import (
    DAY,
    HOUR,
    MINUTE,
    Gateway,
    T,
    assert_books_agree,
    assert_problem,
    get,
    post,
    put,
    record,
    used,
)

pytestmark = pytest.mark.django_db

WORDS = {"text": "I pay for more.", "text_version": "1", "language": "en", "channel": "app"}
METERED: dict[str, Any] = {
    "on_exhaustion": Plan.OnExhaustion.METER,
    "price_per_million": Decimal("1.00"),
    "allowance": 1_000_000 * T,
}
PACKS: dict[str, Any] = {
    "on_exhaustion": Plan.OnExhaustion.BLOCKS,
    "block_units": 500_000 * T,
    "block_price": yuan("1.00"),
    "allowance": 1_000_000 * T,
}


def say(api: APIClient, what: str, body: Any) -> Any:
    answer = put(api, f"subscribers/s-1/safety/{what}", body)
    assert answer.status_code == 200, answer.content
    return answer.json()


def lock(api: APIClient, begins: str | None, ends: str | None) -> Any:
    return say(api, "night-lock", {"begins": begins, "ends": ends})


def agree(api: APIClient, agreed: bool = True, ceiling: str | None = None) -> Any:
    return say(api, "overage", {"agreed": agreed, "ceiling": ceiling, **WORDS})


def minor(api: APIClient, **caps: Any) -> Any:
    terms = {"guardian": "G", "agreed_at": NOW.isoformat(), "evidence": "form 7", **caps}
    return say(api, "minor", {"minor": terms})


def decision(gateway: Gateway, id: str, **said: Any) -> tuple[str, str]:
    answer = reserve(gateway, id, **said)
    return answer["decision"], answer.get("cause", "")


# Nights ------------------------------------------------------------------------------------------


def test_at_night_nothing_is_answered_and_it_is_said_when_it_ends(
    operator: Operator, subscriber: Subscriber, api: APIClient, gateway: Gateway
) -> None:
    assert decision(gateway, "before") == ("allow", "")
    lock(api, "22:30", "06:00")
    assert decision(gateway, "noon") == ("allow", "")

    set_clock(operator, local(2026, 6, 10, 22, 30))

    denied = reserve(gateway, "night")
    assert (denied["decision"], denied["cause"]) == ("deny", "night_lock")
    assert denied["limit"]["resets_at"] == "2026-06-10T22:00:00Z"
    headers = {"X-Subject": "user-s-1", "X-Model": "deepseek/chat"}
    refused = gateway.client.get("/api/v1/authorize", headers=headers)
    assert_problem(refused, 429, "night_lock")
    assert refused["Retry-After"] == str(int(7.5 * 3600))
    # What was used all the same is charged, and so is what was granted before.
    gateway.charge(record("all-the-same", occurred_at=local(2026, 6, 10, 22, 30)))
    assert commit(gateway, "noon", occurred_at=local(2026, 6, 10, 22, 30))["accepted"] == 1
    set_clock(operator, local(2026, 6, 11, 6))
    assert decision(gateway, "morning") == ("allow", "")
    lock(api, None, None)
    assert not Guard.objects.exists()


@given(begins=st.times(), ends=st.times(), minutes=st.integers(min_value=0, max_value=2 * 24 * 60))
def test_a_time_of_day_ends_at_its_end(begins: dt.time, ends: dt.time, minutes: int) -> None:
    at = local(2026, 6, 10) + minutes * dt.timedelta(minutes=1)

    back = periods.out_of(begins, ends, at, SHANGHAI)

    now = at.astimezone(SHANGHAI).time()
    inside = begins <= now < ends if begins <= ends else not ends <= now < begins
    assert (back is not None) == inside
    if back is not None:
        assert at < back <= at + DAY
        assert back.astimezone(SHANGHAI).time() == ends


# Lines -------------------------------------------------------------------------------------------


def told() -> list[dict[str, Any]]:
    rows = OutboxEvent.objects.filter(kind=alerts.REACHED).order_by("key")
    return [row.payload for row in rows]


def test_a_line_of_ones_own_is_told_once_and_again_after_there_was_more(
    operator: Operator, subscriber: Subscriber, api: APIClient, gateway: Gateway
) -> None:
    say(api, "alerts", {"used_percent": [30, 60], "units_left": ["5000000"]})
    alerts.sweep(operator, at=NOW)
    assert told() == []

    gateway.charge(record("r-1", input_tokens=3_500_000, output_tokens=0))
    for _ in range(2):
        alerts.sweep(operator, at=NOW)

    [first] = told()
    assert (first["percent"], first["remaining"]) == (30, "6500000.000")
    gateway.charge(record("r-2", input_tokens=1_500_000, output_tokens=0))
    alerts.sweep(operator, at=NOW)
    assert [one["line"] for one in told()] == ["left", "percent"]

    lifecycle.give(
        subscriber.pk, units=10_000_000 * T, valid_until=NOW + DAY, reason="more", at=NOW
    )
    assert alerts.sweep(operator, at=NOW) == 0
    gateway.charge(record("r-3", input_tokens=11_000_000, output_tokens=0))
    assert alerts.sweep(operator, at=NOW) == 3
    said = say(api, "alerts", {"used_percent": [], "units_left": []})
    assert said["alerts"] == {"used_percent": [], "units_left": []}
    assert [step["terms"] for step in said["steps"]] == [
        {},
        {"used_percent": [30, 60], "units_left": ["5000000.000"]},
    ]


# Overage -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("terms", [METERED, PACKS], ids=["meter", "packs"])
def test_overage_is_up_to_the_ceiling_and_beyond_it_nobody_pays(
    terms: dict[str, Any], operator: Operator, api: APIClient, gateway: Gateway
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator, **terms))
    assert decision(gateway, "warm", units="1000")[0] == "allow"
    agree(api, ceiling="2.00")
    # The most units whose price, rounded, is 2.00; or two packs.
    room = 2_004_999 if terms is METERED else 1_000_000

    gateway.charge(record("r-1", input_tokens=1_000_000, output_tokens=0))
    denied = reserve(gateway, "too-much", units=str(room + 1001))
    gateway.charge(record("r-2", input_tokens=room + 300, output_tokens=0))

    assert (denied["decision"], denied["cause"]) == ("deny", "capped")
    # What is held by the first ask stays held.
    drawn = used(subscriber)
    assert drawn["allowance"] + drawn["overage"] < 1_000_000 + room + 1
    assert drawn["uncovered"] >= 300
    agree(api, ceiling="3.00")
    assert decision(gateway, "more", units="1000") == ("allow", "")
    assert_books_agree()


@pytest.mark.parametrize("terms", [METERED, PACKS], ids=["meter", "packs"])
@pytest.mark.parametrize("agreed", [True, False])
def test_only_who_pays_for_overage_is_told_that_it_begins(
    terms: dict[str, Any], agreed: bool, operator: Operator, api: APIClient, gateway: Gateway
) -> None:
    subscribe(make_subscriber(operator), make_plan(operator, **terms))
    agree(api, agreed, ceiling="2.00" if agreed else None)

    gateway.charge(record("r-1", input_tokens=1_200_000, output_tokens=0))
    while dispatching.dispatch(at=NOW):
        pass

    begun = OutboxEvent.objects.filter(kind="overage.started")
    caps = [event.payload["cap"]["amount"] for event in begun]
    assert caps == (["2.00"] if agreed else [])


def overage_cost(subscriber: Subscriber) -> Decimal:
    """What all its overage comes to, a line a bucket."""
    return sum((cost_of(bucket) for bucket in buckets_of(subscriber, "overage")), Decimal(0))


def cost_of(bucket: Bucket) -> Decimal:
    if bucket.grant_key.startswith("blocks"):
        return Decimal(-(-bucket.used // PACKS["block_units"]))
    return (Decimal(bucket.used) / (1_000_000 * T)).quantize(Decimal("0.01"), ROUND_HALF_UP)


@pytest.mark.parametrize("agreed_before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("new", [METERED, PACKS], ids=["to-meter", "to-packs"])
@pytest.mark.parametrize("old", [METERED, PACKS], ids=["meter", "packs"])
def test_a_ceiling_is_the_periods_also_after_an_upgrade(
    old: dict[str, Any],
    new: dict[str, Any],
    agreed_before: bool,
    operator: Operator,
    api: APIClient,
    gateway: Gateway,
) -> None:
    subscriber = make_subscriber(operator)
    held = subscribe(subscriber, make_plan(operator, "old", **old))
    make_plan(operator, "new", price=yuan("19.90"), **new)
    if agreed_before:
        agree(api, ceiling="2.00")
    # The allowance, and some of what the ceiling allows.
    gateway.charge(record("r-1", input_tokens=1_400_000, output_tokens=0))
    set_clock(operator, NOW + HOUR)
    lifecycle.upgrade(subscriber.pk, held.id, "new", at=NOW + HOUR)
    if not agreed_before:
        agree(api, ceiling="2.00")
    spent = overage_cost(subscriber)
    assert spent == (Decimal("0.40") if old is METERED else 1)

    later = NOW + HOUR + MINUTE
    set_clock(operator, later)
    refused = reserve(gateway, "too-much", units="3000000")
    gateway.charge(record("r-2", occurred_at=later, input_tokens=5_000_000, output_tokens=0))
    # Told late, it is of the plan held before.
    gateway.charge(record("r-3", occurred_at=NOW, input_tokens=5_000_000, output_tokens=0))

    assert (refused["decision"], refused["cause"]) == ("deny", "capped")
    # All that is left, in whole packs where those are bought.
    assert overage_cost(subscriber) == (Decimal("1.40") if (old, new) == (METERED, PACKS) else 2)
    assert_books_agree()
    # A new period has a ceiling of its own.
    before, july = used(subscriber)["uncovered"], local(2026, 7, 1, 1)
    set_clock(operator, july)
    gateway.charge(record("r-4", occurred_at=july, input_tokens=1_900_000, output_tokens=0))
    assert used(subscriber)["uncovered"] == before
    assert_books_agree()


@pytest.mark.parametrize("terms", [METERED, PACKS], ids=["meter", "packs"])
def test_where_consent_is_demanded_nobody_pays_without_it(
    terms: dict[str, Any], operator: Operator, api: APIClient, gateway: Gateway
) -> None:
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator, **terms))
    shown = api.patch("/api/v1/operator", {"overage_by_consent": True}, format="json").json()
    assert shown["overage_by_consent_since"] == "2026-06-11T04:00:00Z"
    # The period that runs goes on as it was sold.
    gateway.charge(record("r-1", input_tokens=1_000_100, output_tokens=0))
    assert used(subscriber)["overage"] == 100

    july = local(2026, 7, 2)
    set_clock(operator, july)
    gateway.charge(record("r-2", input_tokens=1_000_050, output_tokens=0, occurred_at=july))

    assert used(subscriber) == {"allowance": 2_000_000, "overage": 100, "uncovered": 50}
    assert decision(gateway, "a-1", units="1") == ("deny", "exhausted")
    agree(api)
    assert decision(gateway, "a-2", units="1000") == ("allow", "")
    gateway.charge(record("r-3", input_tokens=30, output_tokens=0, occurred_at=july))
    assert used(subscriber)["overage"] == 130
    agree(api, agreed=False)
    # What is left of a pack that was bought is the subscriber's all the same.
    assert decision(gateway, "a-3", units="600000") == ("deny", "exhausted")
    assert_books_agree()


def test_a_consent_is_kept_in_its_words_and_never_rewritten(
    subscriber: Subscriber, api: APIClient
) -> None:
    said = agree(api, ceiling="9.90")

    [step] = said["steps"]
    assert step["terms"] == {"agreed": True, "ceiling": "9.90", "currency": "CNY", **WORDS}
    assert (step["by"], said["overage"]["ceiling"]) == ("crm", "9.90")
    for rewrite in (SafetyStep.objects.all().delete, lambda: SafetyStep.objects.update(by="me")):
        with pytest.raises(IntegrityError), transaction.atomic():
            rewrite()


@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("night-lock", {"begins": "22:00", "ends": "22:00"}),
        ("night-lock", {"begins": "22:00", "ends": None}),
        ("alerts", {"used_percent": [0], "units_left": []}),
        ("alerts", {"used_percent": list(range(1, 9)), "units_left": ["1", "2", "3"]}),
        ("overage", {"agreed": False, "ceiling": "1.00", **WORDS}),
        ("overage", {"agreed": True, "ceiling": "1.001", **WORDS}),
        ("overage", {"agreed": True}),
        ("minor", {"minor": {"guardian": " ", "agreed_at": NOW.isoformat(), "evidence": "x"}}),
        (
            "minor",
            {"minor": {"guardian": "G", "agreed_at": "2027-01-01T00:00:00Z", "evidence": "x"}},
        ),
    ],
)
def test_what_makes_no_sense_is_refused(
    what: str, body: Any, subscriber: Subscriber, api: APIClient
) -> None:
    assert_problem(put(api, f"subscribers/s-1/safety/{what}", body), 422, "invalid")
    assert not SafetyStep.objects.exists()


# Minors ------------------------------------------------------------------------------------------


def test_a_minor_uses_so_much_a_day(
    operator: Operator, subscriber: Subscriber, api: APIClient, gateway: Gateway
) -> None:
    minor(api, units_a_day="1000")
    key = make_subscriber_key(api)
    gateway.charge(record("r-1", input_tokens=600, output_tokens=0))
    assert decision(gateway, "a-1", subject=key["subject"], units="300") == ("allow", "")

    denied = reserve(gateway, "a-2", units="101")

    assert (denied["cause"], denied["limit"]["left"]) == ("minor_capped", "100.000")
    assert decision(gateway, "a-3", units="100") == ("allow", "")
    set_clock(operator, local(2026, 6, 11))
    assert decision(gateway, "a-4", units="1000") == ("allow", "")


def sold(api: APIClient, way: str) -> Any:
    """The answer to a way to buy what costs more than 5 yuan."""
    path = "subscribers/s-1"
    if way == "upsert":
        [item] = post(api, "subscribers/batch", [{"external_id": "s-1", "plan": "dear"}]).json()[
            "items"
        ]
        return item
    body: dict[str, Any] = {
        "order a plan": {"kind": "plan", "plan": "dear"},
        "order a booster": {"kind": "booster", "booster": "b"},
        "top up": {"kind": "top_up", "amount": "6.00"},
        "plan": {"plan": "dear"},
        "booster": {"booster": "b"},
    }[way]
    doors = {"plan": "subscriptions", "booster": "boosters"}
    return post(api, f"{path}/{doors.get(way, 'orders')}", body)


WAYS = ["order a plan", "order a booster", "top up", "plan", "booster", "upsert"]


@pytest.mark.parametrize("way", WAYS)
def test_a_minor_buys_nothing_above_the_cap_in_any_way(
    way: str, operator: Operator, api: APIClient
) -> None:
    subscriber = make_subscriber(operator)
    make_plan(operator, "dear", price=yuan("5.01"))
    dear = {"name": "B", "price": "5.01", "units": "1000", "valid_days": 30}
    assert put(api, "boosters/b", dear).status_code == 201
    minor(api, amount_an_order="5.00")

    answer = sold(api, way)

    if way == "upsert":
        assert (answer["status"], answer["cause"]) == ("rejected", "minor_order_cap")
    else:
        assert_problem(answer, 409, "minor_order_cap")
    assert not Order.objects.exists()
    assert buckets_of(subscriber) == []
    minor(api, amount_an_order="6.00")
    again = sold(api, way)
    assert again["status"] == "updated" if way == "upsert" else again.status_code == 201


def test_an_order_from_before_the_cap_and_a_dearer_plan_are_refused_too(
    operator: Operator, api: APIClient
) -> None:
    subscriber = make_subscriber(operator)
    held = subscribe(subscriber, make_plan(operator, price=yuan("1.00")))
    make_plan(operator, "dear", price=yuan("8.00"))
    order = post(api, "subscribers/s-1/orders", {"kind": "top_up", "amount": "6.00"}).json()
    minor(api, amount_an_order="5.00")

    paid = post(api, f"orders/{order['number']}/pay", {"way": "bank"})

    assert_problem(paid, 409, "minor_order_cap")
    path = f"/api/v1/subscribers/s-1/subscriptions/{held.id}"
    for body in ({"plan": "dear", "when": "now"}, {"plan": "dear"}):
        assert_problem(api.patch(path, body, format="json"), 409, "minor_order_cap")
    say(api, "minor", {"minor": None})
    assert api.patch(path, {"plan": "dear"}, format="json").status_code == 200


# Together ----------------------------------------------------------------------------------------


def test_who_set_only_what_asks_need_not_know_is_asked_for_at_no_more_queries(
    subscriber: Subscriber, api: APIClient, gateway: Gateway
) -> None:
    def queries(id: str) -> int:
        with CaptureQueriesContext(connection) as caught:
            assert decision(gateway, id, units="5") == ("allow", "")
        return len(caught)

    queries("warm")
    before = queries("a-1")
    agree(api, ceiling="9.00")
    minor(api, amount_an_order="5.00")
    say(api, "alerts", {"used_percent": [10], "units_left": []})
    queries("warm-2")

    assert queries("a-2") == before


ACTS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "commit", "release", "slice", "use"]),
        st.integers(min_value=1, max_value=60),
    ),
    max_size=12,
)


class ACapIsNeverPassed(TestCase):
    @settings(max_examples=15)
    @given(acts=ACTS)
    def test_what_asks_let_through_by_a_key_stays_within_its_cap(
        self, acts: list[tuple[str, int]]
    ) -> None:
        """Whatever is asked, used and given back: what is granted fits what the cap has left."""

        operator = make_operator("capped")
        api = client_for(make_key(operator))
        subscribe(make_subscriber(operator), make_plan(operator))
        gateway = Gateway(operator)
        cap, spent, held, slices = 100, 0, dict[str, int](), set[str]()
        key = make_subscriber_key(api, cap={"units": str(cap), "per": "day"})
        subject = key["subject"]
        for nr, (act, units) in enumerate(acts):
            if act in ("ask", "slice"):
                answer = reserve(
                    gateway, f"a-{nr}", subject=subject, units=str(units), slice=act == "slice"
                )
                granted = int(Decimal(answer["granted"]))
                left = cap - spent - sum(held.values())
                assert granted <= max(0, left)
                if act == "ask":
                    assert (answer["decision"] == "allow") == (units <= left)
                if granted:
                    held[f"a-{nr}"] = granted
                if act == "slice":
                    slices.add(f"a-{nr}")
            elif act == "use":
                gateway.charge(
                    record(f"r-{nr}", subject=subject, input_tokens=units, output_tokens=0)
                )
                spent += units
            elif held:
                name = sorted(held)[units % len(held)]
                if act == "commit" and name not in slices:
                    commit(gateway, name, subject=subject, input_tokens=units, output_tokens=0)
                    spent += units
                else:
                    post(gateway.client, f"reservations/{name}/release")
                del held[name]
        shown = get(api, "subscribers/s-1/keys")["items"][0]
        assert shown["cap"]["units"] == "100.000"
