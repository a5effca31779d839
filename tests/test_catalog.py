"""Rate cards through their door: versions, and the rule that nothing charged is weighed anew."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from rest_framework.test import APIClient

from metering.charged import charged_since
from metering.models import UsageBatch, UsageRecord
from metering.records import RECORDS
from subscriptions import partitions
from subscriptions.models import Gateway, Operator, Plan, RateCard
from subscriptions.policies import policy_of
from tests.factories import (
    NOW,
    make_operator,
    make_plan,
    make_rate_card,
    yuan,
)

pytestmark = pytest.mark.django_db

US = dt.timedelta(microseconds=1)
WEIGHTS = [
    {
        "model": "deepseek/*",
        "input": "1",
        "cached_input": "0.1",
        "cache_write": "1",
        "output": "4",
        "reasoning": "4",
    },
    {
        "model": "*",
        "input": "2",
        "cached_input": "0.2",
        "cache_write": "2.5",
        "output": "8",
        "reasoning": "100",
    },
]
CARD = {"effective_from": "2026-06-01T00:00:00+08:00", "weights": WEIGHTS}


def put(api: APIClient, body: Any, code: str = "standard") -> Any:
    return api.put(f"/api/v1/rate-cards/{code}", body, format="json")


def charge(card: RateCard, at: dt.datetime) -> None:
    """A record charged by a card at `at`, as far as the card's door looks."""
    gateway, _ = Gateway.objects.get_or_create(
        operator=card.operator, name="g", defaults={"created_at": NOW}
    )
    partitions.ensure(RECORDS, [partitions.day_of(at)])
    UsageBatch.objects.create(
        id=card.pk,
        operator=card.operator,
        gateway=gateway,
        charged_at=at,
        stored_at=at,
        records=1,
        units=1,
        occurred_from=at,
        occurred_to=at,
    )
    UsageRecord.objects.create(
        subscriber_id=1,
        gateway_id=gateway.pk,
        source="",
        record_id="r",
        occurred_at=at,
        batch_id=card.pk,
        subject_id=1,
        weight_id=card.weights.get(model="*").pk,
        units=1,
        uncached_input_tokens=1,
        cached_input_tokens=0,
        cache_write_tokens=0,
        output_tokens=0,
        reasoning_tokens=0,
        model="m",
        outcome="",
    )


def test_a_rate_card_is_published_in_versions(api: APIClient) -> None:
    answers = [put(api, body) for body in (CARD, CARD, {**CARD, "weights": WEIGHTS[1:]})]

    assert [(a.status_code, a.json()["version"]) for a in answers] == [(201, 1), (200, 1), (201, 2)]
    assert answers[0].json()["effective_from"] == "2026-05-31T16:00:00Z"
    assert answers[0].json()["weights"][1] == {
        "model": "deepseek/*",
        "input": "1.00",
        "cached_input": "0.10",
        "cache_write": "1.00",
        "output": "4.00",
        "reasoning": "4.00",
    }


def test_the_order_of_the_weights_makes_no_version(api: APIClient) -> None:
    put(api, CARD)

    assert put(api, {**CARD, "weights": WEIGHTS[::-1]}).status_code == 200


@pytest.mark.parametrize(
    "change",
    [
        {"weights": []},
        {"weights": [WEIGHTS[0], WEIGHTS[0]]},
        {"weights": [{**WEIGHTS[0], "input": "100.001"}]},
        {"weights": [{**WEIGHTS[0], "input": "-0.001"}]},
        {"weights": [{**WEIGHTS[0], "input": "0.0001"}]},
        {"weights": [{**WEIGHTS[0], "model": ""}]},
        {"weights": [{**WEIGHTS[0], "model": "x" * 257}]},
        {"weights": {"*": 1}},
        {"effective_from": "2026-06-01"},
        {"effective_from": None},
    ],
)
def test_a_card_that_is_none_is_refused(api: APIClient, change: dict[str, Any]) -> None:
    assert put(api, {**CARD, **change}).status_code == 422


def test_a_version_cannot_begin_before_usage_it_would_weigh_anew(
    api: APIClient, operator: Operator
) -> None:
    charge(make_rate_card(operator), NOW)
    body = {"weights": WEIGHTS}

    early = put(api, {**body, "effective_from": NOW.isoformat()})
    assert (early.status_code, early.json()["cause"]) == (409, "usage_already_charged")
    late = put(api, {**body, "effective_from": (NOW + US).isoformat()})
    assert late.status_code == 201


def test_usage_of_other_cards_and_operators_hinders_no_version(
    api: APIClient, operator: Operator
) -> None:
    charge(make_rate_card(operator, "other"), NOW)
    charge(make_rate_card(make_operator("else")), NOW)
    card = make_rate_card(operator)

    assert not charged_since([card.pk], NOW - dt.timedelta(days=30))
    assert put(api, CARD).status_code == 201


def test_offerings_cannot_be_changed_behind_the_catalogues_back(operator: Operator) -> None:
    plan = make_plan(operator)

    with pytest.raises(Exception, match="immutable"):
        Plan.objects.filter(pk=plan.pk).update(allowance=1)


@pytest.mark.parametrize(
    ("price_per_million", "cap", "cap_units"),
    [
        ("1.20", "6.00", None),
        ("1.20", "6.00", 5_000_000_000),
        ("0.99", "0.01", None),
        ("3", "0.00", None),
        ("7.654321", "123.45", None),
    ],
)
def test_a_money_cap_is_the_most_units_it_pays_for(
    operator: Operator, price_per_million: str, cap: str, cap_units: int | None
) -> None:
    plan = make_plan(
        operator,
        on_exhaustion="meter",
        price_per_million=Decimal(price_per_million),
        cap=yuan(cap),
        cap_units=cap_units,
    )

    most = policy_of(plan.pk).overage_units
    assert most is not None

    def price(thousandths: int) -> Decimal:
        exact = Decimal(thousandths) * Decimal(price_per_million) / 10**9
        return exact.quantize(Decimal("0.01"), "ROUND_HALF_UP")

    assert price(most) <= Decimal(cap)
    assert most == cap_units or price(most + 1) > Decimal(cap)


def test_whether_usage_was_charged_is_found_without_reading_older_days(
    operator: Operator,
) -> None:
    card = make_rate_card(operator)
    charge(card, NOW)
    charge(make_rate_card(operator, "old"), NOW - dt.timedelta(days=3))

    with connection.cursor() as cursor:
        cursor.execute(
            "EXPLAIN SELECT FROM metering_usagerecord WHERE occurred_at >= %s AND weight_id = 1",
            [NOW],
        )
        plan = "\n".join(row[0] for row in cursor.fetchall())

    assert "metering_usagerecord_20260610" in plan
    assert "metering_usagerecord_20260607" not in plan
