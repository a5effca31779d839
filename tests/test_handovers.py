"""Numbers change hands, subscribers become one: units and money are neither lost nor made."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest
from rest_framework.test import APIClient

from billing import transfers, wallets
from billing.models import Handover, Order
from metering.models import UsageRecord
from subscriptions import lifecycle, registry
from subscriptions.models import Bucket, BucketEntry, Operator, Subject, Subscriber, User
from subscriptions.users import access
from tests.factories import (
    NOW,
    buckets_of,
    client_for,
    make_key,
    make_operator,
    make_plan,
    make_subscriber,
    set_clock,
    subscribe,
)
from tests.usage import (
    DAY,
    Gateway,
    assert_books_agree,
    assert_problem,
    get,
    post,
    put,
    record,
)

pytestmark = pytest.mark.django_db

HOUR = dt.timedelta(hours=1)


@pytest.fixture
def other(operator: Operator) -> Subscriber:
    return make_subscriber(operator, "s-2")


def hand(api: APIClient, **said: Any) -> Any:
    body = {"kind": "transfer", "subscriber": "s-1", "reason": "a test", **said}
    if body["kind"] != "recycle":
        body.setdefault("receiver", "s-2")
    if body["kind"] != "merge":
        body.setdefault("subjects", ["user-s-1"])
    return post(api, "handovers", body)


def fill(operator: Operator, subscriber: Subscriber, amount: str) -> None:
    told = transfers.Told(f"b-{subscriber.pk}-{amount}", Decimal(amount), "CNY", NOW)
    found = transfers.tell(operator, told, at=NOW)
    transfers.match(operator, found.pk, transfers.Pays(wallet=subscriber.pk), at=NOW)


def left(subscriber: Subscriber) -> int:
    rows = Bucket.objects.filter(subscriber_id=subscriber.pk, granted__isnull=False)
    return sum((b.granted or 0) - b.used for b in rows if b.kind != "overage")


def owners() -> dict[str, str]:
    ids = dict(Subscriber.objects.values_list("pk", "external_id"))
    rows = UsageRecord.objects.values_list("record_id", "subscriber_id")
    return {record_id: ids[subscriber_id] for record_id, subscriber_id in rows}


# --- transfer -----------------------------------------------------------------------------------


def test_usage_meets_its_owner_of_the_time(
    operator: Operator,
    api: APIClient,
    gateway: Gateway,
    subscriber: Subscriber,
    other: Subscriber,
) -> None:
    gateway.charge(record("before", subject="user-s-1", occurred_at=NOW - 3 * HOUR))

    done = hand(api, since=(NOW - HOUR).isoformat())

    assert done.status_code == 201, done.content
    gateway.charge(
        record("late", subject="user-s-1", occurred_at=NOW - 2 * HOUR),
        record("after", subject="user-s-1", occurred_at=NOW - HOUR),
        record("before", subject="user-s-1", occurred_at=NOW - 3 * HOUR),
    )
    assert owners() == {"before": "s-1", "late": "s-1", "after": "s-2"}
    # The balance stays with whom it was, unless somebody says otherwise.
    assert done.json()["units_moved"] == "0.000"
    assert_books_agree()


def test_a_number_is_not_moved_back_over_usage_that_was_charged(
    api: APIClient, gateway: Gateway, subscriber: Subscriber, other: Subscriber
) -> None:
    gateway.charge(record("r-1", subject="user-s-1", occurred_at=NOW - HOUR))

    assert_problem(hand(api, since=(NOW - HOUR).isoformat()), 409, "usage_charged")
    after = NOW - HOUR + dt.timedelta(microseconds=1)
    assert hand(api, since=after.isoformat()).status_code == 201


def test_usage_of_a_clock_that_is_ahead_stays_with_its_owner(
    api: APIClient, gateway: Gateway, subscriber: Subscriber, other: Subscriber
) -> None:
    ahead = NOW + dt.timedelta(minutes=4)
    gateway.charge(record("r-1", subject="user-s-1", occurred_at=ahead))

    assert hand(api).status_code == 201
    again = gateway.charge(record("r-1", subject="user-s-1", occurred_at=ahead))

    assert again["duplicates"] == 1
    assert owners() == {"r-1": "s-1"}


def test_the_balance_moves_by_pairs_of_journal_rows(
    operator: Operator,
    api: APIClient,
    gateway: Gateway,
    subscriber: Subscriber,
    other: Subscriber,
) -> None:
    lifecycle.give(subscriber.pk, units=5_000_000, valid_until=NOW + DAY, reason="sorry", at=NOW)
    fill(operator, subscriber, "20.00")
    gateway.charge(record("r-1", subject="user-s-1"))
    before = left(subscriber)
    looked = post(
        api,
        "handovers/preview",
        {
            "kind": "transfer",
            "subscriber": "s-1",
            "receiver": "s-2",
            "subjects": ["user-s-1"],
            "balance": "move",
            "with_wallet": True,
        },
    ).json()
    set_clock(operator, NOW + HOUR)

    first = hand(api, balance="move", with_wallet=True)
    again = hand(api, balance="move", with_wallet=True)

    assert first.status_code == 201, first.content
    assert again.json() == first.json()
    assert looked["effect"]["units"] == first.json()["units_moved"] != "0.000"
    assert looked["worth"]["amount"] == first.json()["worth"]["amount"] > "29.00"
    assert (left(subscriber), left(other)) == (0, before)
    assert {b.kind for b in buckets_of(other)} == {"gift"}
    ends = {b.valid_until for b in buckets_of(subscriber) if b.kind != "uncovered"}
    assert {b.valid_until for b in buckets_of(other)} == ends
    assert wallets.balance_of(other.pk, "CNY") == Decimal("20.00")
    assert BucketEntry.objects.filter(kind=8).count() == 2
    gateway.charge(record("r-2", subject="user-s-1", occurred_at=NOW + HOUR))
    assert left(other) < before
    assert_books_agree()


def test_a_balance_may_be_forfeited(
    api: APIClient, subscriber: Subscriber, other: Subscriber
) -> None:
    done = hand(api, balance="forfeit")

    assert done.json()["effect"]["units"] == "10000000.000"
    assert (left(subscriber), left(other)) == (0, 0)
    assert_books_agree()


# --- recycling ----------------------------------------------------------------------------------


def test_a_recycled_number_cools_off(
    operator: Operator, api: APIClient, subscriber: Subscriber, other: Subscriber
) -> None:
    put(api, "subscribers/s-1", {"msisdn": "13800000001", "subjects": ["13800000001"]})
    assert put(api, "recycling-policy", {"cooling_days": 60}).status_code == 200
    number = {"subjects": ["13800000001"]}

    done = hand(api, kind="recycle", **number)
    early = put(api, "subscribers/s-2", number)
    set_clock(operator, NOW + 60 * DAY - HOUR)
    still = put(api, "subscribers/s-2", number)
    set_clock(operator, NOW + 60 * DAY)
    late = put(api, "subscribers/s-2", number)

    assert done.status_code == 201, done.content
    assert get(api, "subscribers/s-1")["msisdn"] == ""
    assert_problem(early, 409, "subject_cooling")
    assert_problem(still, 409, "subject_cooling")
    assert late.status_code == 200
    bound = Subject.objects.get(subject="13800000001", valid_until__isnull=True)
    assert (bound.subscriber_id, bound.valid_from) == (other.pk, NOW + 60 * DAY)


@pytest.mark.parametrize("kind", ["recycle", "transfer"])
def test_a_number_that_went_to_another_opens_its_account_of_before_no_more(
    operator: Operator, api: APIClient, subscriber: Subscriber, other: Subscriber, kind: str
) -> None:
    # As the CRM writes it, as the gateway does, and as it signs in: one number.
    number, phone = "13800000001", "+8613800000001"
    put(api, "subscribers/s-1", {"msisdn": phone, "subjects": [number]})
    user = User.objects.create_user(phone=phone, phone_verified=True, created_at=NOW)
    assert access.begin(user, operator, at=NOW) == subscriber

    done = hand(api, kind=kind, subjects=[number])

    assert done.status_code == 201, done.content
    assert get(api, "subscribers/s-1")["msisdn"] == ""
    user.refresh_from_db()
    assert (user.phone, user.phone_verified) == ("", False)
    new = User.objects.create_user(phone=phone, phone_verified=True, created_at=NOW)
    assert access.begin(new, operator, at=NOW) != subscriber


def test_a_recycled_number_may_come_back_to_whom_it_was(
    api: APIClient, subscriber: Subscriber
) -> None:
    assert hand(api, kind="recycle").status_code == 201

    assert put(api, "subscribers/s-1", {"subjects": ["user-s-1"]}).status_code == 200


# --- merging ------------------------------------------------------------------------------------


def test_two_subscribers_become_one(
    operator: Operator,
    api: APIClient,
    gateway: Gateway,
    subscriber: Subscriber,
    other: Subscriber,
) -> None:
    fill(operator, subscriber, "20.00")
    order = post(api, "subscribers/s-1/orders", {"kind": "top_up", "amount": "7.00"}).json()
    gateway.charge(record("r-1", subject="user-s-1"))
    set_clock(operator, NOW + HOUR)
    held = left(subscriber)

    done = hand(api, kind="merge")

    assert done.status_code == 201, done.content
    assert done.json()["effect"]["orders_cancelled"] == [order["number"]]
    assert done.json()["effect"]["plans_ended"] == ["light"]
    assert set(registry.subjects_of([other.pk])[other.pk]) == {"user-s-1", "user-s-2"}
    assert (left(subscriber), left(other)) == (0, held)
    assert wallets.balance_of(other.pk, "CNY") == Decimal("20.00")
    assert Order.objects.get().state == "cancelled"
    gateway.charge(record("r-2", subject="user-s-1", occurred_at=NOW + HOUR))
    assert owners() == {"r-1": "s-1", "r-2": "s-2"}
    # The merged one buys nothing any more, and says who it is now.
    for refused in (
        post(api, "subscribers/s-1/subscriptions", {"plan": "light"}),
        post(api, "subscribers/s-1/orders", {"kind": "top_up", "amount": "1.00"}),
        put(api, "subscribers/s-1", {"subjects": ["x"]}),
        hand(api, kind="merge"),
    ):
        assert_problem(refused, 409, "subscriber_merged")
    assert get(
        api, "subscribers/s-1/usage-records?from=2026-06-01T00:00:00Z&to=2026-07-01T00:00:00Z"
    )
    assert_books_agree()


# --- what stands against it ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "status", "cause"),
    [
        ({"subjects": ["nobody"]}, 409, "subject_not_held"),
        ({"subscriber": "s-9"}, 404, "not_found"),
        ({"receiver": "s-1"}, 422, "invalid"),
        ({"kind": "recycle", "receiver": "s-2"}, 422, "invalid"),
        ({"kind": "recycle", "balance": "move"}, 422, "invalid"),
        ({"kind": "merge", "subjects": ["user-s-1"]}, 422, "invalid"),
        ({"since": (NOW + DAY).isoformat()}, 422, "invalid"),
        ({"since": (NOW - 91 * DAY).isoformat()}, 422, "invalid"),
        ({"reason": ""}, 422, "invalid"),
    ],
)
def test_what_makes_no_sense_is_refused(
    api: APIClient,
    subscriber: Subscriber,
    other: Subscriber,
    said: dict[str, Any],
    status: int,
    cause: str,
) -> None:
    assert_problem(hand(api, **said), status, cause)
    assert not Handover.objects.exists()
    assert Subject.objects.filter(valid_until__isnull=True).count() == 2


def test_a_balance_that_is_held_up_does_not_move(
    api: APIClient, gateway: Gateway, subscriber: Subscriber, other: Subscriber
) -> None:
    lifecycle.suspend(subscriber.pk, reason="x", at=NOW, frozen=True)
    assert_problem(hand(api, balance="move"), 409, "suspended")
    lifecycle.restore(subscriber.pk, at=NOW)
    asked = {"id": "ask-1", "subject": "user-s-1", "model": "m", "units": "10"}
    assert gateway.send(asked, path="/api/v1/reservations").status_code == 201
    assert_problem(hand(api, kind="merge"), 409, "reservations_open")


def test_above_the_limit_another_person_approves(
    operator: Operator, api: APIClient, subscriber: Subscriber, other: Subscriber
) -> None:
    policy = {"approval_limit": "5.00", "over_charge_factor": "1"}
    assert put(api, "correction-policy", policy).status_code == 200
    second = client_for(make_key(operator, name="second"))

    asked = hand(api, balance="move")
    again = hand(api, balance="move")
    path = f"handovers/{asked.json()['id']}"
    alone = post(api, f"{path}/approve", {"reason": "mine"})

    assert (asked.status_code, again.json()["id"]) == (202, asked.json()["id"])
    assert asked.json()["worth"] == {"amount": "9.90", "currency": "CNY"}
    assert_problem(alone, 409, "four_eyes")
    assert left(other) == 0
    approved = post(second, f"{path}/approve", {"reason": "seen"})
    assert approved.json()["state"] == "done"
    assert left(other) == 10_000_000_000
    assert post(second, f"{path}/approve", {"reason": "seen"}).json() == approved.json()
    assert_problem(post(second, f"{path}/reject", {"reason": "no"}), 409, "decided")
    assert_books_agree()


def test_what_is_approved_is_never_more_than_was_asked_for(
    operator: Operator, api: APIClient, subscriber: Subscriber, other: Subscriber
) -> None:
    policy = {"approval_limit": "5.00", "over_charge_factor": "1"}
    assert put(api, "correction-policy", policy).status_code == 200
    second = client_for(make_key(operator, name="second"))
    asked = hand(api, balance="move", with_wallet=True)
    fill(operator, subscriber, "1.00")

    path = f"handovers/{asked.json()['id']}"
    assert_problem(post(second, f"{path}/approve", {"reason": "seen"}), 409, "changed")
    rejected = post(second, f"{path}/reject", {"reason": "changed"})
    assert rejected.json()["state"] == "rejected"
    assert hand(api, balance="move", with_wallet=True).json()["worth"]["amount"] == "10.90"


def test_nobody_of_another_operator_is_given_anything(
    operator: Operator, api: APIClient, subscriber: Subscriber
) -> None:
    theirs = make_operator("theirs")
    make_plan(theirs)
    subscribe(make_subscriber(theirs, "s-2"), make_plan(theirs))

    assert_problem(hand(api), 404, "not_found")
    assert_problem(
        hand(client_for(make_key(theirs)), subscriber="s-2", receiver="s-1"), 404, "not_found"
    )
