"""Units held before they are used: asked for, committed, released, expired."""

from __future__ import annotations

import datetime as dt
import io
import json
from typing import Any
from urllib.parse import quote

import pytest
from rest_framework.test import APIClient

from billing import tasks
from metering.api import doors
from metering.api.reservations import past_django
from subscriptions import clock, keys, lifecycle, reservations
from subscriptions.models import ApiKey, Operator, Reservation, ReservationName, Subscriber
from tests.asking import asked, commit, held, release, reserve, try_commit
from tests.factories import (
    NOW,
    local,
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
    causes,
    get,
    post,
    put,
    put_card,
    record,
    used,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def subscriber(operator: Operator) -> Subscriber:
    """`s-1`, called `user-s-1`, with 1,000 units until the end of June, and no more."""
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator, allowance=1000 * T))
    return subscriber


@pytest.fixture(autouse=True)
def _the_books_agree() -> Any:
    yield
    assert_books_agree()


# Asking ------------------------------------------------------------------------------------------


def test_what_is_asked_for_is_held(
    gateway: Gateway, api: APIClient, subscriber: Subscriber
) -> None:
    answer = reserve(gateway, units="120", ttl_seconds=60)

    assert answer == {
        "id": "a-1",
        "decision": "allow",
        "granted": "120.000",
        "expires_at": "2026-06-10T04:01:00Z",
        "available": "880.000",
    }
    shown = balance(api)
    assert (shown["available"], shown["reserved"]) == ("880.000", "120.000")
    assert held(shown) == {"allowance": "120.000"}


def test_an_ask_sent_again_gets_the_first_answer(
    gateway: Gateway, api: APIClient, subscriber: Subscriber
) -> None:
    first = reserve(gateway)
    gateway.charge(record(input_tokens=500))

    assert reserve(gateway) == first
    assert balance(api)["reserved"] == "120.000"
    assert Reservation.objects.count() == ReservationName.objects.count() == 1


def test_a_denial_sent_again_stays_a_denial(
    gateway: Gateway, api: APIClient, subscriber: Subscriber
) -> None:
    first = reserve(gateway, units="1001")
    lifecycle.give(subscriber.pk, units=T, valid_until=NOW + DAY, reason="more", at=NOW)

    assert reserve(gateway, units="1001") == first
    assert reserve(gateway, "a-2", units="1001")["decision"] == "allow"


def test_another_ask_under_the_same_id_is_a_conflict(
    gateway: Gateway, subscriber: Subscriber
) -> None:
    reserve(gateway)

    for other in ({"units": "121"}, {"subject": "user-2"}, {"ttl_seconds": 1}):
        assert_problem(post(gateway.client, "reservations", asked(**other)), 409, "conflict")


def test_ids_are_each_gateways_own(
    gateway: Gateway, operator: Operator, api: APIClient, subscriber: Subscriber
) -> None:
    other = Gateway(operator, name="other")
    reserve(gateway)

    assert reserve(other, units="100")["available"] == "780.000"
    assert release(other)["released"] == "100.000"
    assert balance(api)["reserved"] == "120.000"
    missing = post(other.client, "reservations/a-2/release")
    assert_problem(missing, 404, "not_found")


def test_the_estimate_is_input_and_output_by_the_weights_of_the_plans_card(
    gateway: Gateway, operator: Operator
) -> None:
    make_rate_card(operator, weights={"*": ("9", "9", "9", "9", "9")})
    make_rate_card(
        operator,
        "card",
        weights={"deep*": ("1", "0.1", "1", "4", "5"), "*": ("0.5", "0", "0", "2", "2")},
    )
    subscribe(make_subscriber(operator), make_plan(operator, rate_card="card"))

    def granted(**said: Any) -> str:
        id = f"a-{Reservation.objects.count()}"
        return str(reserve(gateway, id, **{"units": None, **said})["granted"])

    assert granted(input_tokens=1000, max_output_tokens=500) == "3000.000"
    assert granted(input_tokens=1001, max_output_tokens=500, model="qwen") == "1500.500"
    # What is not said is taken for 1,024 tokens.
    assert granted(input_tokens=1000) == "5096.000"
    assert granted(max_output_tokens=0) == "1024.000"
    assert granted() == "5120.000"
    # Units that are named are no estimate.
    assert granted(units="0.001", input_tokens=1000, max_output_tokens=500) == "0.001"


def test_the_estimate_is_of_the_card_version_of_now(
    gateway: Gateway, api: APIClient, operator: Operator, subscriber: Subscriber
) -> None:
    put_card(api, NOW + HOUR, **{"*": "2 2 2 2 2"})

    before = reserve(gateway, units=None, input_tokens=10, max_output_tokens=10)
    set_clock(operator, NOW + HOUR)
    after = reserve(gateway, "a-2", units=None, input_tokens=10, max_output_tokens=10)

    assert (before["granted"], after["granted"]) == ("20.000", "40.000")


def test_holds_are_taken_in_burn_order(
    gateway: Gateway, api: APIClient, subscriber: Subscriber
) -> None:
    lifecycle.give(subscriber.pk, units=50 * T, valid_until=NOW + DAY, reason="x", at=NOW)
    put(api, "boosters/b", {"name": "B", "price": "1", "units": "100", "valid_days": 5})
    post(api, "subscribers/s-1/boosters", {"booster": "b"})

    reserve(gateway, units="40")
    assert held(balance(api)) == {"gift": "40.000"}
    reserve(gateway, "a-2", units="1050")
    assert held(balance(api)) == {
        "gift": "50.000",
        "allowance": "1000.000",
        "booster": "40.000",
    }


def test_usage_draws_only_what_nobody_has_reserved(
    gateway: Gateway, api: APIClient, subscriber: Subscriber
) -> None:
    reserve(gateway, units="900")

    gateway.charge(record(input_tokens=150, output_tokens=0))

    assert used(subscriber) == {"allowance": 100, "uncovered": 50}
    assert commit(gateway, input_tokens=900, output_tokens=0)["units"] == "900.000"
    assert used(subscriber) == {"allowance": 1000, "uncovered": 50}


# Denials -----------------------------------------------------------------------------------------


def test_a_named_estimate_has_to_be_there_whole(gateway: Gateway, subscriber: Subscriber) -> None:
    answer = reserve(gateway, units="1000.001")

    assert answer == {
        "id": "a-1",
        "decision": "deny",
        "cause": "exhausted",
        "granted": "0.000",
        "expires_at": None,
        "available": "1000.000",
    }
    assert reserve(gateway, "a-2", units="1000")["decision"] == "allow"
    assert reserve(gateway, "a-3", units="0.001")["cause"] == "exhausted"


def test_an_assumed_estimate_refuses_nobody_who_has_something_left(
    gateway: Gateway, subscriber: Subscriber
) -> None:
    answer = reserve(gateway, units=None, input_tokens=900)

    assert (answer["decision"], answer["granted"], answer["final"]) == ("allow", "1000.000", True)
    assert reserve(gateway, "a-2", units=None)["decision"] == "deny"


def test_input_that_was_counted_has_to_be_there_whole(
    gateway: Gateway, subscriber: Subscriber
) -> None:
    assert reserve(gateway, units=None, input_tokens=1000)["cause"] == "exhausted"
    assert reserve(gateway, "a-2", units=None, input_tokens=999)["granted"] == "1000.000"


def test_each_denial_names_its_cause(gateway: Gateway, operator: Operator, api: APIClient) -> None:
    make_rate_card(operator, weights={"deepseek/*": ("1", "1", "1", "1", "1")})
    for name in ("none", "owing", "lost", "low"):
        make_subscriber(operator, name)
    plan = make_plan(operator, allowance=10 * T)
    metered = make_plan(
        operator,
        "metered",
        allowance=10 * T,
        on_exhaustion="meter",
        price_per_million="1",
        cap_units=100 * T,
    )
    people = {s.external_id: s for s in Subscriber.objects.all()}
    for name in ("owing", "lost"):
        subscribe(people[name], plan)
    subscribe(people["low"], metered)
    lifecycle.suspend(people["owing"].pk, reason="unpaid", at=NOW)
    lifecycle.suspend(people["lost"].pk, reason="lost device", at=NOW, frozen=True)

    def cause(who: str, **said: Any) -> str:
        answer = reserve(gateway, f"{who}-{len(said)}", subject=f"user-{who}", **said)
        assert (answer["decision"], answer["granted"]) == ("deny", "0.000")
        return str(answer["cause"])

    assert cause("nobody") == "unknown_subject"
    assert cause("none") == "no_plan"
    assert cause("owing") == "suspended"
    assert cause("lost") == "frozen"
    assert cause("low") == "capped"
    assert cause("low", model="gpt", units="1") == "unknown_model"
    assert reserve(gateway, "fits", subject="user-low", units="110")["decision"] == "allow"


def test_who_has_only_a_gift_may_use_it_without_a_plan(
    gateway: Gateway, operator: Operator
) -> None:
    subscriber = bare(operator)
    lifecycle.give(subscriber.pk, units=5 * T, valid_until=NOW + DAY, reason="x", at=NOW)

    assert reserve(gateway, units="5")["granted"] == "5.000"
    assert reserve(gateway, "a-2", units="1")["cause"] == "no_plan"


def test_what_weighs_nothing_may_be_used_when_all_is_used_up(
    gateway: Gateway, operator: Operator
) -> None:
    make_rate_card(operator, weights={"free": ("0", "0", "0", "0", "0")})
    subscribe(make_subscriber(operator), make_plan(operator, allowance=0))

    answer = reserve(gateway, units=None, model="free")

    assert (answer["decision"], answer["granted"]) == ("allow", "0.000")


# What the plan allows beyond ---------------------------------------------------------------------


def test_a_metered_plan_holds_its_overage_up_to_the_cap(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    terms: dict[str, Any] = {"on_exhaustion": "meter", "price_per_million": "1"}
    plan = make_plan(operator, allowance=100 * T, cap_units=50 * T, **terms)
    subscriber = make_subscriber(operator)
    subscribe(subscriber, plan)

    assert reserve(gateway, units="130")["granted"] == "130.000"
    assert held(balance(api)) == {"allowance": "100.000", "overage": "30.000"}
    assert reserve(gateway, "a-2", units="21")["cause"] == "capped"
    assert reserve(gateway, "a-3", units="20")["decision"] == "allow"
    # Usage that happened anyway is never refused, nor does it take what is held.
    gateway.charge(record(input_tokens=7, output_tokens=0))
    assert used(subscriber) == {"uncovered": 7}


def test_overage_without_a_cap_is_held_without_end(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    terms: dict[str, Any] = {"on_exhaustion": "meter", "price_per_million": "1"}
    subscribe(make_subscriber(operator), make_plan(operator, allowance=100 * T, **terms))

    assert reserve(gateway, units="1000000100")["decision"] == "allow"
    assert held(balance(api))["overage"] == "1000000000.000"
    assert release(gateway)["released"] == "1000000100.000"


def test_packs_are_promised_as_far_as_they_may_be_bought_and_bought_by_usage(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    terms: dict[str, Any] = {
        "on_exhaustion": "blocks",
        "block_units": 100 * T,
        "block_price": yuan("1"),
        "cap": yuan("2"),
    }
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator, allowance=100 * T, **terms))

    assert reserve(gateway, units="250")["granted"] == "250.000"
    # Nothing is bought for what may not be used after all.
    assert [b["kind"] for b in balance(api)["buckets"]] == ["allowance"]
    assert reserve(gateway, "a-2", units="51")["cause"] == "capped"
    assert reserve(gateway, "a-3", units="50")["granted"] == "50.000"
    release(gateway, "a-3")

    commit(gateway, input_tokens=250, output_tokens=0)

    assert used(subscriber) == {"allowance": 100, "overage": 150}
    # Both packs are bought; half of the second is left, and held like any bucket's units.
    assert reserve(gateway, "a-4", units="51")["cause"] == "capped"
    assert reserve(gateway, "a-5", units="50")["decision"] == "allow"
    assert held(balance(api)) == {"overage": "50.000"}


def test_a_plan_that_degrades_names_what_it_allows(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    make_rate_card(
        operator, weights={"*": ("10", "1", "1", "10", "1"), "lite": ("1", "1", "1", "1", "1")}
    )
    body = {
        "name": "D",
        "price": "1",
        "allowance": "1000",
        "rate_card": "standard",
        "on_exhaustion": "degrade",
        "degrade_to": {"model": "lite", "tokens_per_minute": 6000},
    }
    shown = put(api, "plans/d", body).json()
    assert shown["degrade_to"] == body["degrade_to"]
    subscriber = make_subscriber(operator)
    assert post(api, "subscribers/s-1/subscriptions", {"plan": "d"}).status_code == 201
    tokens: dict[str, Any] = {"units": None, "input_tokens": 50, "max_output_tokens": 50}

    assert reserve(gateway, **tokens)["decision"] == "allow"
    second = reserve(gateway, "a-2", **tokens)

    assert (second["decision"], second["cause"]) == ("degrade", "exhausted")
    assert second["degrade_to"] == body["degrade_to"]
    assert second["granted"] == "0.000"
    release(gateway)
    # Where the dear model no longer fits and the cheap one does, its units are held.
    reserve(gateway, "a-3", units="150")
    third = reserve(gateway, "a-4", **tokens)
    assert (third["decision"], third["granted"]) == ("degrade", "100.000")
    commit(gateway, "a-4", model="lite", input_tokens=60, output_tokens=50)
    assert used(subscriber) == {"allowance": 110}


def test_a_plan_may_degrade_without_saying_to_what(gateway: Gateway, operator: Operator) -> None:
    plan = make_plan(operator, allowance=0, on_exhaustion="degrade")
    subscribe(make_subscriber(operator), plan)

    answer = reserve(gateway)

    assert answer["decision"] == "degrade"
    assert answer["degrade_to"] == {"model": None, "tokens_per_minute": None}


def test_what_a_plan_degrades_to_is_for_plans_that_degrade(
    api: APIClient, operator: Operator
) -> None:
    make_rate_card(operator)
    body = {"name": "D", "price": "1", "allowance": "1", "rate_card": "standard"}

    assert_problem(put(api, "plans/d", {**body, "degrade_to": {"model": "lite"}}), 422, "invalid")
    assert put(api, "plans/d", {**body, "degrade_to": {}}).status_code == 201
    assert put(api, "plans/d", {**body, "degrade_to": None}).status_code == 200


# Committing --------------------------------------------------------------------------------------


def test_a_commit_charges_what_was_used_and_frees_the_rest(
    gateway: Gateway, api: APIClient, subscriber: Subscriber
) -> None:
    reserve(gateway, units="500")

    answer = commit(gateway, input_tokens=100, output_tokens=20)

    assert {**answer, "batch": ""} == {
        "id": "a-1",
        "state": "committed",
        "late": False,
        "released": "380.000",
        "batch": "",
        "accepted": 1,
        "duplicates": 0,
        "rejected": [],
        "units": "120.000",
    }
    shown = balance(api)
    assert (shown["available"], shown["reserved"]) == ("880.000", "0.000")
    assert used(subscriber) == {"allowance": 120}


def test_a_commit_of_more_than_was_held_draws_on_by_the_plans_policy(
    gateway: Gateway, operator: Operator, api: APIClient
) -> None:
    terms: dict[str, Any] = {"allowance": 100 * T}
    for policy in ("stop", "meter", "blocks"):
        plan = make_plan(
            operator,
            policy,
            on_exhaustion=policy,
            price_per_million="1",
            block_units=300 * T,
            block_price=yuan("1"),
            **terms,
        )
        subscriber = make_subscriber(operator, policy)
        subscribe(subscriber, plan)
        who = {"subject": f"user-{policy}"}
        reserve(gateway, policy, units="80", **who)

        answer = commit(gateway, policy, input_tokens=150, output_tokens=0, **who)

        assert (answer["released"], answer["units"]) == ("0.000", "150.000")
        beyond = "uncovered" if policy == "stop" else "overage"
        assert used(subscriber) == {"allowance": 100, beyond: 50}
        assert balance(api, policy)["reserved"] == "0.000"


def test_a_commit_sent_again_gets_the_first_answer(
    gateway: Gateway, operator: Operator, subscriber: Subscriber
) -> None:
    reserve(gateway)
    first = commit(gateway)
    set_clock(operator, NOW + MINUTE)

    # Of the same usage another time or attribute is no other content, as with usage records.
    assert commit(gateway) == first
    assert commit(gateway, occurred_at=NOW + MINUTE, attributes={"a": 1}) == first
    assert used(subscriber) == {"allowance": 120}


def test_a_commit_of_another_record_is_a_conflict(gateway: Gateway, subscriber: Subscriber) -> None:
    reserve(gateway)
    commit(gateway)

    for other in (record("a-1", input_tokens=101), record("other"), record("a-1", model="qwen")):
        answer = post(gateway.client, "reservations/a-1/commit", other)
        assert_problem(answer, 409, "conflict")
    assert_problem(try_commit(gateway, input_tokens=-1), 409, "conflict")
    assert used(subscriber) == {"allowance": 120}


def test_a_commit_of_what_was_sent_as_usage_charges_nothing_twice(
    gateway: Gateway, api: APIClient, subscriber: Subscriber
) -> None:
    reserve(gateway, units="500")
    gateway.charge(record("r-1"))

    answer = post(gateway.client, "reservations/a-1/commit", record("r-1")).json()

    assert (answer["accepted"], answer["duplicates"], answer["released"]) == (0, 1, "500.000")
    assert balance(api)["reserved"] == "0.000"
    assert used(subscriber) == {"allowance": 120}
    assert post(gateway.client, "reservations/a-1/commit", record("r-1")).json() == answer


def test_a_record_whose_id_was_charged_otherwise_commits_nothing(
    gateway: Gateway, api: APIClient, subscriber: Subscriber
) -> None:
    reserve(gateway, units="500")
    gateway.charge(record("r-1"))

    answer = post(gateway.client, "reservations/a-1/commit", record("r-1", input_tokens=7))

    assert_problem(answer, 409, "conflict")
    assert balance(api)["reserved"] == "500.000"
    assert commit(gateway)["released"] == "380.000"


def test_a_record_that_cannot_be_charged_is_quarantined_and_the_hold_stays(
    gateway: Gateway, api: APIClient, operator: Operator, subscriber: Subscriber
) -> None:
    make_rate_card(
        operator,
        effective_from=NOW - DAY,
        weights={"deepseek/*": ("1", "1", "1", "1", "1")},
    )
    reserve(gateway)

    for said, cause in (
        ({"model": "gpt"}, "unknown_model"),
        ({"input_tokens": -1}, "invalid_record"),
        ({"input_tokens": 0, "output_tokens": 0}, "no_usage"),
        ({"occurred_at": NOW - 40 * DAY}, "out_of_window"),
        ({"subject": "nobody"}, "unknown_subject"),
    ):
        answer = commit(gateway, **said)
        assert (answer["state"], causes(answer)) == ("open", [(0, cause)])

    assert len(get(api, "quarantine")["items"]) == 5
    assert balance(api)["reserved"] == "120.000"
    assert commit(gateway)["state"] == "committed"


def test_a_record_of_another_subscriber_is_a_conflict(
    gateway: Gateway, api: APIClient, operator: Operator, subscriber: Subscriber
) -> None:
    other = make_subscriber(operator, "s-2")
    reserve(gateway)

    answer = try_commit(gateway, subject="user-s-2")

    assert_problem(answer, 409, "wrong_subscriber")
    assert (used(subscriber), used(other)) == ({}, {})
    assert balance(api)["reserved"] == "120.000"


def test_a_commit_needs_a_reservation_and_one_record(
    gateway: Gateway, subscriber: Subscriber
) -> None:
    assert_problem(try_commit(gateway), 404, "not_found")
    reserve(gateway)
    for body in ([record("a-1")], {"records": [record("a-1")]}):
        answer = post(gateway.client, "reservations/a-1/commit", body)
        assert_problem(answer, 400, "malformed")
    assert_problem(gateway.send(b"\xff", path="/api/v1/reservations/a-1/commit"), 400, "malformed")


def test_usage_in_spite_of_a_denial_is_charged(
    gateway: Gateway, operator: Operator, subscriber: Subscriber
) -> None:
    make_subscriber(operator, "s-2", subjects=())
    reserve(gateway, units="2000")
    reserve(gateway, "a-2", subject="later")
    make_subscriber(operator, "s-2", subjects=("later",))

    first = commit(gateway, input_tokens=2000, output_tokens=0)
    second = commit(gateway, "a-2", subject="later")

    assert (first["late"], first["released"], first["accepted"]) == (False, "0.000", 1)
    assert used(subscriber) == {"allowance": 1000, "uncovered": 1000}
    assert (second["state"], second["accepted"]) == ("committed", 1)
    assert commit(gateway, input_tokens=2000, output_tokens=0) == first
    assert commit(gateway, "a-2", subject="later")["duplicates"] == 1


def test_a_bucket_bought_after_the_usage_does_not_pay_for_it(
    gateway: Gateway, operator: Operator
) -> None:
    subscriber = bare(operator)
    lifecycle.give(subscriber.pk, units=500 * T, valid_until=NOW + DAY, reason="x", at=NOW)
    reserve(gateway, units="500")

    answer = commit(gateway, occurred_at=NOW - HOUR)

    assert (answer["released"], answer["units"]) == ("380.000", "120.000")
    assert used(subscriber) == {"uncovered": 120}


def test_the_hold_of_a_key_bound_to_a_subject_is_that_subjects(
    operator: Operator, api: APIClient, subscriber: Subscriber
) -> None:
    key = keys.issue(
        operator_code=operator.code, role="gateway", name="bound", at=NOW, subject="user-s-1"
    )
    bound = Gateway(operator, key=key)

    assert reserve(bound, subject="nobody")["decision"] == "allow"
    assert commit(bound, subject="somebody")["units"] == "120.000"
    assert used(subscriber) == {"allowance": 120}


# Releasing and expiring --------------------------------------------------------------------------


def test_a_release_frees_all_and_again_changes_nothing(
    gateway: Gateway, api: APIClient, subscriber: Subscriber
) -> None:
    reserve(gateway)

    first = release(gateway)
    assert first == {"id": "a-1", "state": "released", "released": "120.000"}
    assert release(gateway) == first
    assert balance(api)["available"] == "1000.000"


def test_what_is_settled_is_not_released(gateway: Gateway, subscriber: Subscriber) -> None:
    reserve(gateway)
    commit(gateway)
    reserve(gateway, "a-2", units="2000")
    reserve(gateway, "a-3", subject="nobody")

    assert release(gateway) == {"id": "a-1", "state": "committed", "released": "0.000"}
    for denied in ("a-2", "a-3"):
        assert release(gateway, denied)["state"] == "denied"
    assert_problem(post(gateway.client, "reservations/none/release"), 404, "not_found")


def test_usage_after_a_release_is_charged_and_marked_late(
    gateway: Gateway, subscriber: Subscriber
) -> None:
    reserve(gateway)
    release(gateway)

    answer = commit(gateway)

    assert (answer["late"], answer["released"], answer["units"]) == (True, "0.000", "120.000")
    assert used(subscriber) == {"allowance": 120}


def test_a_hold_ends_with_its_time_as_the_operators_clock_has_it(
    gateway: Gateway, api: APIClient, subscriber: Subscriber
) -> None:
    reserve(gateway, ttl_seconds=60)
    reserve(gateway, "a-2", ttl_seconds=61)

    assert post(api, "test-clock", {"now": (NOW + MINUTE - US).isoformat()}).status_code == 200
    assert balance(api)["reserved"] == "240.000"
    assert post(api, "test-clock", {"now": (NOW + MINUTE).isoformat()}).status_code == 200

    assert Reservation.objects.get(name="a-1").state == Reservation.State.EXPIRED
    assert balance(api)["reserved"] == "120.000"
    assert release(gateway) == {"id": "a-1", "state": "expired", "released": "0.000"}


def test_a_commit_after_expiry_is_charged_and_marked_late(
    gateway: Gateway, operator: Operator, api: APIClient, subscriber: Subscriber
) -> None:
    for name in ("swept", "unswept"):
        reserve(gateway, name, ttl_seconds=60)
    set_clock(operator, NOW + MINUTE)
    reservations.expire_due(operator.pk, at=NOW + MINUTE, limit=1)

    answers = [commit(gateway, name) for name in ("swept", "unswept")]

    assert [answer["late"] for answer in answers] == [True, True]
    assert sorted(answer["released"] for answer in answers) == ["0.000", "0.000"]
    assert used(subscriber) == {"allowance": 240}
    assert balance(api)["reserved"] == "0.000"
    assert commit(gateway, "swept") == answers[0]


def test_the_sweep_follows_every_operators_own_clock(gateway: Gateway) -> None:
    live = make_operator("live", at=None)
    behind = make_operator("behind", at=NOW - 300 * DAY)
    for operator in (live, behind):
        subscribe(make_subscriber(operator), make_plan(operator))
        reserve(Gateway(operator), ttl_seconds=60)
    Reservation.objects.filter(operator_id=live.pk).update(
        created_at=clock.wall() - HOUR, expires_at=clock.wall() - MINUTE
    )

    tasks.expire_reservations()

    states = dict(Reservation.objects.values_list("operator_id", "state"))
    assert states == {live.pk: Reservation.State.EXPIRED, behind.pk: Reservation.State.OPEN}


def test_no_ask_is_refused_for_a_hold_that_has_outlived_its_time(
    gateway: Gateway, operator: Operator, api: APIClient, subscriber: Subscriber
) -> None:
    reserve(gateway, units="1000", ttl_seconds=60)
    set_clock(operator, NOW + MINUTE)

    # No sweep has come by.
    assert reserve(gateway, "a-2", units="1000")["decision"] == "allow"
    set_clock(operator, NOW + 20 * MINUTE)
    assert balance(api)["available"] == "1000.000"


def test_a_hold_of_a_bucket_that_has_ended_is_freed_all_the_same(
    gateway: Gateway, operator: Operator, subscriber: Subscriber
) -> None:
    set_clock(operator, local(2026, 6, 30, 23, 59))
    for name in ("committed", "released", "expired"):
        reserve(gateway, name, ttl_seconds=600)
    set_clock(operator, local(2026, 7, 1, 0, 1))

    commit(gateway, "committed", occurred_at=local(2026, 7, 1))
    release(gateway, "released")
    set_clock(operator, local(2026, 7, 4))
    assert reservations.expire_due(operator.pk, at=local(2026, 7, 4)) == 1

    june, july = subscriber.buckets.filter(kind="allowance").order_by("valid_from")
    assert (june.reserved, june.used, july.used) == (0, 0, 120 * T)


@pytest.mark.parametrize("how", ["commit", "release", "expire"])
@pytest.mark.parametrize("units", ["600", "1000"])
def test_what_was_held_over_the_turn_of_the_month_rolls_over_when_it_is_freed(
    how: str, units: str, gateway: Gateway, operator: Operator
) -> None:
    subscriber = make_subscriber(operator)
    plan = make_plan(operator, allowance=1000 * T, rollover="one_cycle")
    subscribe(subscriber, plan)
    set_clock(operator, local(2026, 6, 30, 23, 59))
    reserve(gateway, units=units, ttl_seconds=600)
    now = local(2026, 7, 1, 0, 1)
    set_clock(operator, now)
    lifecycle.open_due(operator.pk, at=now)

    match how:
        case "commit":
            commit(gateway, occurred_at=local(2026, 6, 30, 23, 59))
        case "release":
            release(gateway)
        case "expire":
            set_clock(operator, now + HOUR)
            reservations.expire_due(operator.pk, at=now + HOUR)

    [rollover] = subscriber.buckets.filter(kind="rollover")
    june = subscriber.buckets.get(kind="allowance", valid_until=local(2026, 7, 1))
    assert (june.granted, june.used, june.reserved) == (1000 * T, 1000 * T, 0)
    assert rollover.granted == 1000 * T
    assert rollover.used == (120 * T if how == "commit" else 0)


def test_reservations_are_forgotten_when_no_usage_of_then_may_come_any_more(
    gateway: Gateway, operator: Operator, subscriber: Subscriber
) -> None:
    reserve(gateway)
    commit(gateway)
    reserve(gateway, "denied", units="5000")
    reserve(gateway, "open", ttl_seconds=86_400)
    end = NOW + reservations.KEPT

    assert reservations.forget(operator.pk, at=end) == 0
    assert reservations.forget(operator.pk, at=end + US) == 2
    assert [r.name for r in Reservation.objects.all()] == ["open"]
    assert [n.name for n in ReservationName.objects.all()] == ["open"]


# What cannot be read -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        {"id": None},
        {"id": ""},
        {"id": "x" * 513},
        {"id": "a\0"},
        {"id": "a\n"},
        {"id": 1},
        {"subject": None},
        {"subject": ""},
        {"model": None},
        {"model": "\0"},
        {"input_tokens": -1},
        {"input_tokens": 1.5},
        {"max_output_tokens": 10**9 + 1},
        {"units": "-1"},
        {"units": "NaN"},
        {"units": "Infinity"},
        {"units": "0.0001"},
        {"units": "1" + "0" * 16},
        {"units": []},
        {"ttl_seconds": 0},
        {"ttl_seconds": 86_401},
    ],
)
def test_an_ask_that_breaks_a_rule_is_refused(
    said: dict[str, Any], gateway: Gateway, subscriber: Subscriber
) -> None:
    assert_problem(post(gateway.client, "reservations", asked(**said)), 422, "invalid")
    assert not ReservationName.objects.exists()


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"[]", b"null", b"1e400", b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000),
        *(b'{"id": NaN}', b'{"id": "\xff"}', b'{"input_tokens": 1e400}', b'{"id":' * 100_000),
        b'{"id": "a", "unknown": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=range(12),
)
def test_an_ask_that_cannot_be_read_is_400(
    body: bytes, gateway: Gateway, subscriber: Subscriber
) -> None:
    assert_problem(gateway.send(body, path="/api/v1/reservations"), 400, "malformed")


def test_ids_with_slashes_and_odd_signs_can_be_committed(
    gateway: Gateway, subscriber: Subscriber
) -> None:
    for name in ("a/b/commit", "ä ö?&#%2F", "x" * 512):
        reserve(gateway, name, units="1")
        answer = post(gateway.client, f"reservations/{quote(name, safe='')}/release")
        assert answer.json()["state"] == "released", name
    for name in ("%00", "x" * 513):
        assert_problem(post(gateway.client, f"reservations/{name}/release"), 404, "not_found")


def test_only_a_gateway_may_ask(api: APIClient, gateway: Gateway, subscriber: Subscriber) -> None:
    for path in ("reservations", "reservations/a-1/commit", "reservations/a-1/release"):
        assert_problem(post(api, path, asked()), 403, "wrong_role")
        assert_problem(post(APIClient(), path, asked()), 401, "unauthorized")
        assert_problem(gateway.client.get(f"/api/v1/{path}"), 405, "method_not_allowed")


def test_a_revoked_key_holds_nothing(
    operator: Operator, gateway: Gateway, subscriber: Subscriber
) -> None:
    reserve(gateway)
    ApiKey.objects.filter(role="gateway").update(revoked_at=NOW)

    for path, body in (
        ("reservations", asked("a-2")),
        ("reservations/a-1/commit", record("a-1")),
        ("reservations/a-1/release", None),
    ):
        assert_problem(post(gateway.client, path, body), 401, "unauthorized")
        gateway.client.get("/healthz")


def test_periods_that_are_due_are_opened_before_an_ask_is_judged(
    gateway: Gateway, operator: Operator, subscriber: Subscriber
) -> None:
    reserve(gateway, units="1000", ttl_seconds=60)
    set_clock(operator, local(2026, 9, 1) + dt.timedelta(seconds=1))

    answer = reserve(gateway, "a-2", units="1000")

    assert (answer["decision"], answer["available"]) == ("allow", "0.000")


# Past Django -------------------------------------------------------------------------------------


def call_wsgi(gateway: Gateway, path: str, body: Any) -> tuple[str, dict[str, str], Any]:
    """(status, headers, body) of what the web server's application answers."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": path,
        "HTTP_AUTHORIZATION": f"Bearer {gateway.key}",
        "CONTENT_LENGTH": str(len(raw)),
        "wsgi.input": io.BytesIO(raw),
    }
    found: list[Any] = []
    hot = past_django(path)
    assert hot
    answer = b"".join(doors.wsgi(environ, lambda *said: found.extend(said), *hot))
    status, headers = found
    assert dict(headers)["Content-Length"] == str(len(answer))
    return status, dict(headers), json.loads(answer)


def test_the_way_past_django_answers_as_the_way_through_it(
    gateway: Gateway, subscriber: Subscriber
) -> None:
    status, headers, first = call_wsgi(gateway, "/api/v1/reservations", asked())
    assert (status, headers["Content-Type"]) == ("201 Created", "application/json")
    assert first == reserve(gateway)

    path = "/api/v1/reservations/a-1/commit"
    status, _, done = call_wsgi(gateway, path, record("a-1"))
    assert (status, done) == ("200 OK", commit(gateway))

    for path, body, wanted in (
        ("/api/v1/reservations", asked(units="1"), "409 Conflict"),
        ("/api/v1/reservations", b"{", "400 Bad Request"),
        ("/api/v1/reservations", asked(units="-1"), "422 Unprocessable Entity"),
        ("/api/v1/reservations/none/commit", record("a-1"), "404 Not Found"),
    ):
        status, headers, answer = call_wsgi(gateway, path, body)
        assert (status, headers["Content-Type"]) == (wanted, "application/problem+json")
        assert answer["status"] == int(wanted[:3])
    ApiKey.objects.filter(role="gateway").update(revoked_at=NOW)
    status, _, answer = call_wsgi(gateway, "/api/v1/reservations", asked("a-9"))
    assert (status, answer["cause"]) == ("401 Unauthorized", "unauthorized")
    for other in ("/api/v1/reservations/a/release", "/api/v1/reservationsx", "/api/v1/plans"):
        assert past_django(other) is None
