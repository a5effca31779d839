"""What looks wrong becomes a case, once; people freeze, release and decide it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from rest_framework.test import APIClient

from billing.anomalies import cases, finding, sweeping
from billing.anomalies.finding import Finding, Thresholds
from billing.models import AnomalyCase, AnomalySweep
from metering import rollups
from metering.models import UsageHour
from subscriptions import lifecycle
from subscriptions.models import Operator, OutboxEvent, Subscriber, Suspension
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
from tests.usage import Gateway, assert_problem, get, post, put, record

pytestmark = pytest.mark.django_db

HOUR = dt.timedelta(hours=1)
MILLION = 1_000_000_000


def used_by_hour(subscriber: Subscriber, units: dict[dt.datetime, int]) -> None:
    """Hourly totals as the fold leaves them: a call a thousand units."""
    UsageHour.objects.bulk_create(
        UsageHour(
            subscriber_id=subscriber.pk,
            hour=hour,
            model="m",
            requests=max(1, amount // 1_000_000),
            uncached_input_tokens=amount // 1000,
            cached_input_tokens=0,
            cache_write_tokens=0,
            output_tokens=0,
            reasoning_tokens=0,
            units=amount,
        )
        for hour, amount in units.items()
    )


def swept(operator: Operator, at: dt.datetime) -> list[tuple[str, str]]:
    """Look through all that is due; (subscriber, kind) of all cases."""
    set_clock(operator, at)
    while sweeping.sweep(operator, at=at) is not None:
        pass
    rows = AnomalyCase.objects.filter(operator=operator).order_by("subscriber_id", "kind")
    return [(case.subscriber.external_id, case.kind) for case in rows.select_related("subscriber")]


def a_case(operator: Operator, subscriber: Subscriber, key: str = "x") -> AnomalyCase:
    with transaction.atomic():
        cases.keep(operator, [Finding(subscriber.pk, "velocity", key, {"units": "9"})], at=NOW)
    return AnomalyCase.objects.get(subscriber=subscriber)


# --- finding ------------------------------------------------------------------------------------


def test_a_bill_above_five_times_the_mean_of_three_months_is_a_case(
    operator: Operator, api: APIClient, gateway: Gateway
) -> None:
    """9.90 a month; then 9.90 and 40 of overage: above 5 × 9.90."""
    set_clock(operator, local(2026, 2, 1))
    plan = make_plan(operator, allowance=MILLION, on_exhaustion="meter", price_per_million="10")
    for name in ("steady", "dear", "new"):
        starts = local(2026, 5, 1) if name == "new" else local(2026, 2, 1)
        subscribe(make_subscriber(operator, name), plan, starts_at=starts)
    since = local(2026, 2, 1)
    for now in (local(2026, 5, 10), local(2026, 6, 4)):
        assert post(api, "test-clock", {"now": now.isoformat()}).status_code == 200
        operator.clock_at = now
        if now < local(2026, 6, 1):
            gateway.charge(
                *(
                    record(
                        f"r-{name}",
                        subject=f"user-{name}",
                        occurred_at=now,
                        input_tokens=5_100_000,
                        output_tokens=0,
                    )
                    for name in ("dear", "new")
                )
            )
    found = list(finding.bills(operator.pk, Thresholds(), since=since, until=local(2026, 6, 5)))

    [bill] = found
    assert (bill.evidence["amount"], bill.evidence["mean"], bill.evidence["months"]) == (
        "50.90",
        "9.90",
        3,
    )
    # The subscriber was told with the bill; the sweep makes it a case for staff.
    AnomalySweep.objects.create(operator=operator, usage_until=since, bills_until=since)
    assert ("dear", "bill") in swept(operator, local(2026, 6, 5))
    told = OutboxEvent.objects.get(kind="bill.abnormal")
    assert (told.subscriber_id, told.payload["mean"]["amount"]) == (bill.subscriber_id, "9.90")
    lower = Thresholds(bill_factor=Decimal("5.15"))
    assert not list(finding.bills(operator.pk, lower, since=since, until=local(2026, 6, 5)))


@pytest.mark.parametrize(
    ("usual", "now", "seen"),
    [
        (MILLION // 2, 6 * MILLION, True),  # twelve times
        (MILLION, 9 * MILLION, False),  # nine times
        (1000, MILLION, False),  # below the floor
        (None, 2 * MILLION, True),  # without any usual
    ],
)
def test_an_hour_far_above_the_own_usual_is_a_case(
    operator: Operator, usual: int | None, now: int, seen: bool
) -> None:
    subscriber = make_subscriber(operator)
    hour = local(2026, 6, 10, 11)
    if usual is not None:
        used_by_hour(subscriber, {hour - nr * HOUR: usual for nr in range(2, 40)})
    used_by_hour(subscriber, {hour: now})

    assert swept(operator, hour + HOUR + dt.timedelta(minutes=5)) == []
    first = swept(operator, hour + HOUR + dt.timedelta(minutes=20))

    assert first == ([("s-1", "velocity")] if seen else [])
    if seen:
        [case] = AnomalyCase.objects.all()
        assert case.evidence["hour"] == hour.isoformat()


def test_who_never_sleeps_is_a_case(operator: Operator) -> None:
    always, most = make_subscriber(operator, "always"), make_subscriber(operator, "most")
    start = local(2026, 6, 11)
    hours = [start + nr * HOUR for nr in range(72)]
    used_by_hour(always, dict.fromkeys(hours[:23] + hours[24:], 1000))
    used_by_hour(most, dict.fromkeys(hours[:22] + hours[24:], 1000))

    assert swept(operator, local(2026, 6, 13, 23, 30)) == []
    assert swept(operator, local(2026, 6, 14, 0, 30)) == [("always", "always_busy")]


def calls(subject: str, marks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    day = local(2026, 6, 10, 10)
    return [
        record(f"{subject}-{nr}", subject=subject, occurred_at=day, attributes=attributes)
        for nr, attributes in enumerate(marks)
    ]


def test_many_networks_and_many_end_users_of_one_subject_are_cases(
    operator: Operator, gateway: Gateway
) -> None:
    make_rate_card(operator)
    for name in ("home", "roams", "resells"):
        make_subscriber(operator, name)
    gateway.charge(
        *calls("user-home", [{"client_ip": "192.0.2.1", "end_user": "me"}] * 100),
        *calls("user-roams", [{"client_ip": f"192.0.2.{nr % 25}"} for nr in range(100)]),
        *calls("user-resells", [{"end_user": f"u-{nr % 60}"} for nr in range(100)]),
    )
    rollups.fold_all(at=NOW)

    assert swept(operator, local(2026, 6, 10, 23, 50)) == []
    assert swept(operator, local(2026, 6, 11, 0, 30)) == [
        ("roams", "networks"),
        ("resells", "end_users"),
    ]
    assert AnomalyCase.objects.get(kind="networks").evidence["networks"] == 25
    assert AnomalyCase.objects.get(kind="end_users").evidence["end_users"] == 60


def test_an_hour_is_looked_at_when_its_usage_is_in_the_totals(
    operator: Operator, gateway: Gateway
) -> None:
    make_rate_card(operator)
    make_subscriber(operator)
    late = local(2026, 6, 10, 11, 59)
    gateway.charge(record(occurred_at=late, input_tokens=3_000_000))
    at = local(2026, 6, 10, 12, 30)

    assert swept(operator, at) == []
    rollups.fold_all(at=NOW)
    assert swept(operator, at) == [("s-1", "velocity")]


def test_an_operators_own_thresholds_hold(operator: Operator, api: APIClient) -> None:
    policy = get(api, "anomaly-policy")
    assert (policy["bill_factor"], policy["velocity_units"]) == ("5.00", "1000000.000")
    used_by_hour(make_subscriber(operator), {local(2026, 6, 10, 11): MILLION // 2})
    changed = policy | {"velocity_units": "1000"}

    assert put(api, "anomaly-policy", changed).json()["velocity_units"] == "1000.000"
    assert_problem(put(api, "anomaly-policy", policy | {"busy_hours": 25}), 422, "invalid")
    assert swept(operator, local(2026, 6, 10, 12, 30)) == [("s-1", "velocity")]


# --- the queue ----------------------------------------------------------------------------------


def test_what_is_seen_again_is_one_case_and_what_was_decided_does_not_come_again(
    operator: Operator, api: APIClient, subscriber: Subscriber
) -> None:
    case = a_case(operator, subscriber)
    for key in ("x", "y", "y"):
        a_case(operator, subscriber, key)
    assert AnomalyCase.objects.get().seen == 2
    assert post(api, f"anomalies/{case.pk}/dismiss", {"reason": "a test"}).status_code == 200

    with transaction.atomic():
        again = cases.keep(operator, [Finding(subscriber.pk, "velocity", "x", {})], at=NOW)
        new = cases.keep(operator, [Finding(subscriber.pk, "velocity", "z", {})], at=NOW)

    assert (again, new) == (0, 1)
    assert [one["state"] for one in get(api, "anomalies")["items"]] == ["dismissed", "open"]
    assert len(get(api, "anomalies?state=open")["items"]) == 1


def test_a_line_is_frozen_and_released_with_a_reason(
    operator: Operator, api: APIClient, gateway: Gateway, subscriber: Subscriber
) -> None:
    case = a_case(operator, subscriber)
    path = f"anomalies/{case.pk}"

    assert_problem(post(api, f"{path}/freeze", {"reason": ""}), 422, "invalid")
    post(api, f"{path}/freeze", {"reason": "stolen key"})
    asked = {"id": "a-1", "subject": "user-s-1", "model": "m", "units": "1"}
    denied = gateway.send(asked, path="/api/v1/reservations").json()
    set_clock(operator, NOW + HOUR)
    released = post(api, f"{path}/release", {"reason": "key changed"})
    confirmed = post(api, f"{path}/confirm", {"reason": "it was"})

    assert (denied["decision"], denied["cause"]) == ("deny", "frozen")
    assert [step["state"] for step in confirmed.json()["steps"]] == [
        "frozen",
        "released",
        "confirmed",
    ]
    assert confirmed.json()["steps"][0]["by"] == "crm"
    assert released.status_code == 200
    assert Suspension.objects.get().ends_at == NOW + HOUR
    assert post(api, f"{path}/confirm", {"reason": "x"}).json() == confirmed.json()
    for verb in ("freeze", "release", "dismiss"):
        assert_problem(post(api, f"{path}/{verb}", {"reason": "x"}), 409, "decided")


def test_a_case_does_not_lift_what_others_have_stopped(
    operator: Operator, api: APIClient, subscriber: Subscriber
) -> None:
    case = a_case(operator, subscriber)
    lifecycle.suspend(subscriber.pk, reason="unpaid", at=NOW)
    path = f"anomalies/{case.pk}"
    assert_problem(post(api, f"{path}/freeze", {"reason": "x"}), 409, "suspended")
    lifecycle.restore(subscriber.pk, at=NOW + HOUR)
    set_clock(operator, NOW + HOUR)
    assert post(api, f"{path}/freeze", {"reason": "x"}).status_code == 200
    lifecycle.restore(subscriber.pk, at=NOW + 2 * HOUR)
    lifecycle.suspend(subscriber.pk, reason="unpaid", at=NOW + 2 * HOUR)
    set_clock(operator, NOW + 3 * HOUR)

    assert post(api, f"{path}/release", {"reason": "x"}).status_code == 200
    assert Suspension.objects.filter(ends_at__isnull=True, reason="unpaid").exists()


def test_another_operators_usage_is_no_case_here(operator: Operator) -> None:
    theirs = make_operator("theirs")
    used_by_hour(make_subscriber(theirs), {local(2026, 6, 10, 11): 9 * MILLION})

    assert swept(operator, local(2026, 6, 10, 12, 30)) == []
    assert len(swept(theirs, local(2026, 6, 10, 12, 30))) == 1
    api = client_for(make_key(operator))
    assert get(api, "anomalies")["items"] == []


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE billing_anomalycase SET state = 'open', steps = 2",
        "UPDATE billing_anomalycase SET state = 'dismissed'",
        "UPDATE billing_anomalystep SET reason = 'other'",
        "DELETE FROM billing_anomalystep",
    ],
)
def test_what_was_decided_stays(
    operator: Operator, api: APIClient, subscriber: Subscriber, sql: str
) -> None:
    case = a_case(operator, subscriber)
    assert post(api, f"anomalies/{case.pk}/freeze", {"reason": "x"}).status_code == 200

    with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(sql)
