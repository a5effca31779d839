"""What those who run an operator look at: counted from what is booked, once for all who look."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from rest_framework.test import APIClient

from billing.models import DayFigures
from subscriptions.models import Operator
from tests.factories import (
    local,
    make_operator,
    make_plan,
    make_subscriber,
    set_clock,
    subscribe,
    yuan,
)
from tests.usage import DAY, HOUR, Gateway, get, post, record

pytestmark = pytest.mark.django_db

START, NOW = local(2026, 5, 1), local(2026, 6, 10, 12)
MINUTE = dt.timedelta(minutes=1)


@pytest.fixture
def operator() -> Operator:
    """Four subscribers of May, whose first month is closed and unpaid."""
    operator = make_operator("ct", at=START)
    plan = make_plan(operator, allowance=1_000_000)
    for name in ("s-1", "s-2", "s-3", "s-4"):
        subscribe(make_subscriber(operator, name), plan)
    return operator


def move(api: APIClient, operator: Operator, to: dt.datetime) -> None:
    assert post(api, "test-clock", {"now": to.isoformat()}).status_code == 200
    operator.clock_at = to


def measured(api: APIClient) -> Any:
    answer = post(api, "figures")
    assert answer.status_code == 200, answer.content
    return answer.json()["values"]


def test_each_figure_is_what_was_booked(
    operator: Operator, api: APIClient, gateway: Gateway
) -> None:
    move(api, operator, local(2026, 6, 4))
    late = make_subscriber(operator, "s-5")
    subscribe(late, make_plan(operator, "big", price=yuan("30.00")))
    [held] = get(api, "subscribers/s-4/subscriptions")["items"]
    answer = api.patch(
        f"/api/v1/subscribers/s-4/subscriptions/{held['id']}",
        {"cancel_at_period_end": True},
        format="json",
    )
    assert answer.status_code == 200, answer.content
    move(api, operator, NOW - HOUR)
    gateway.charge(record("old", occurred_at=NOW - 2 * HOUR, input_tokens=700, output_tokens=0))
    move(api, operator, NOW)
    gateway.charge(
        *(
            record(f"r-{n}", occurred_at=NOW - MINUTE, input_tokens=100, output_tokens=0)
            for n in range(30)
        ),
        record("nobody", subject="unknown", occurred_at=NOW),
    )
    values = measured(api)
    [named] = values["gateways"]
    assert named["records"] == 31
    assert named["units"] == 3_700_000
    assert named["records_per_second"] == "0.1"  # 30 in five minutes
    assert named["seconds_behind"] == 60
    assert dt.datetime.fromisoformat(named["last_at"]) == NOW
    assert values["quarantine"] == {"unknown_subject": 1}
    assert values["windows"] == 0
    assert values["subscriptions"] == {
        "active": 5,
        "new_today": 0,
        "new_this_month": 1,
        "ended_this_month": 0,
        "churn": "0.0000",
    }
    assert values["mrr"] == {"CNY": "69.60"}  # 4 × 9.90 + 30
    # June's four allowances of a thousand tokens and the fifth's of ten million.
    assert values["units"]["sold"] == 4 * 1_000_000 + 10_000_000_000
    assert values["units"]["burnt"] == 3_700_000
    assert values["units"]["expiring"] == 0
    assert values["accounts"]["receivable"] == {"CNY": "39.60"}
    assert values["receivables"]["CNY"]["not_due"] == "39.60"
    assert values["arpu"] == {}  # in May nothing was billed
    assert get(api, "figures")["items"][0]["day"] == "2026-06-10"


def test_who_left_is_counted_when_it_left_and_last_months_bills_by_head(
    operator: Operator, api: APIClient
) -> None:
    move(api, operator, local(2026, 6, 4))
    [held] = get(api, "subscribers/s-4/subscriptions")["items"]
    api.patch(
        f"/api/v1/subscribers/s-4/subscriptions/{held['id']}",
        {"cancel_at_period_end": True},
        format="json",
    )
    move(api, operator, local(2026, 7, 1, 1))
    values = measured(api)
    assert values["subscriptions"]["active"] == 3
    assert values["subscriptions"]["ended_this_month"] == 0  # with June itself, not in July
    assert values["mrr"] == {"CNY": "29.70"}
    assert values["arpu"] == {"CNY": "9.90"}
    move(api, operator, local(2026, 7, 25))
    assert measured(api)["units"]["expiring"] == 3 * 1_000_000
    days = [item["day"] for item in get(api, "figures")["items"]]
    assert days == ["2026-07-01", "2026-07-25"]


def test_slow_figures_are_an_hour_old_at_most_and_never_of_another_month(
    operator: Operator, api: APIClient, gateway: Gateway
) -> None:
    move(api, operator, local(2026, 6, 30, 23, 10))
    gateway.charge(
        record("r-1", occurred_at=local(2026, 6, 30, 23), input_tokens=5, output_tokens=0)
    )
    assert measured(api)["units"]["burnt"] == 5_000
    gateway.charge(
        record("r-2", occurred_at=local(2026, 6, 30, 23), input_tokens=5, output_tokens=0)
    )
    move(api, operator, local(2026, 6, 30, 23, 50))
    values = measured(api)
    assert values["gateways"][0]["units"] == 10_000
    assert values["units"]["burnt"] == 5_000
    move(api, operator, local(2026, 7, 1, 0, 5))
    values = measured(api)
    assert values["gateways"][0]["units"] == 0
    assert values["units"]["burnt"] == 0
    assert DayFigures.objects.filter(operator=operator).count() == 2


def test_payments_are_counted_by_way_and_by_what_became_of_them(
    operator: Operator, api: APIClient
) -> None:
    move(api, operator, NOW)

    def order(**said: Any) -> str:
        return str(post(api, "subscribers/s-1/orders", said).json()["number"])

    one, other = order(kind="top_up", amount="20.00"), order(kind="top_up", amount="5.00")
    for number in (one, other):
        assert post(api, f"orders/{number}/pay", {"way": "bank"}).status_code == 200
    said = {"reference": "b-1", "amount": "20.00", "payer": "Zhang", "pays": {"order": one}}
    assert post(api, "transfers", said).json()["state"] == "matched"
    [bank] = measured(api)["payments"]
    assert (bank["way"], bank["succeeded"], bank["waiting"]) == ("bank", 1, 1)
    assert bank["amount"] == "20.00"
    set_clock(operator, NOW + DAY)
    assert measured(api)["payments"] == []
