"""A plan rehearsed on a month that has been says what the bills would have been."""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from rest_framework.test import APIClient

from subscriptions.models import Operator, Plan
from tests.factories import local, make_operator, make_plan, make_subscriber, subscribe, yuan
from tests.usage import Gateway, assert_problem, get, post, put, record

pytestmark = pytest.mark.django_db

START, USED, CLOSED = local(2026, 6, 1), local(2026, 6, 20), local(2026, 7, 3, 1)
MILLION = 1_000_000_000
# Every policy, with its caps; the prices make each the best for somebody.
TERMS: dict[str, dict[str, Any]] = {
    "stop": {"price": yuan("5.00"), "allowance": 2 * MILLION},
    "meter": {
        "price": yuan("4.00"),
        "allowance": MILLION,
        "on_exhaustion": "meter",
        "price_per_million": Decimal("3.333"),
        "cap": yuan("20.00"),
    },
    "blocks": {
        "price": yuan("3.00"),
        "allowance": MILLION,
        "on_exhaustion": "blocks",
        "block_units": 400_000_000,
        "block_price": yuan("1.00"),
        "cap": yuan("6.00"),
    },
}
TOKENS = (0, 999_999, 1_000_001, 3_700_000, 12_000_000)


@pytest.fixture
def operator() -> Operator:
    """Each policy has a subscriber of each amount of usage: `stop-0`, `stop-1`, …"""
    operator = make_operator("ct", at=START)
    for code, terms in TERMS.items():
        plan = make_plan(operator, code, **terms)
        for nr in range(len(TOKENS)):
            subscribe(make_subscriber(operator, f"{code}-{nr}"), plan)
    return operator


@pytest.fixture
def lived(operator: Operator, api: APIClient, gateway: Gateway) -> APIClient:
    """June is over and billed."""
    move(api, operator, USED)
    for code in TERMS:
        for nr, tokens in enumerate(TOKENS):
            for part in range(4):
                gateway.charge(
                    record(
                        f"{code}-{nr}-{part}",
                        subject=f"user-{code}-{nr}",
                        occurred_at=USED,
                        input_tokens=tokens // 4 + (tokens % 4 if part == 0 else 0),
                        output_tokens=0,
                    )
                )
    move(api, operator, CLOSED)
    return api


def move(api: APIClient, operator: Operator, to: Any) -> None:
    assert post(api, "test-clock", {"now": to.isoformat()}).status_code == 200
    operator.clock_at = to


def rehearsed(api: APIClient, plan: str, **said: Any) -> Any:
    answer = post(api, f"plans/{plan}/rehearsals", {"month": "2026-06", **said})
    assert answer.status_code == 200, answer.content
    return answer.json()


def billed(api: APIClient, subscriber: str) -> str:
    [invoice] = get(api, f"subscribers/{subscriber}/invoices")["items"]
    return str(
        invoice["gross"]["amount"] if isinstance(invoice["gross"], dict) else invoice["gross"]
    )


def test_each_plan_would_have_billed_whom_it_did_not_hold_as_it_billed_whom_it_held(
    lived: APIClient,
) -> None:
    for plan in TERMS:
        for nr in range(len(TOKENS)):
            twin = billed(lived, f"{plan}-{nr}")
            for other in TERMS:
                found = rehearsed(lived, plan, subscriber=f"{other}-{nr}")
                assert found["periods"] == 1
                assert found["revenue_then"]["amount"] == twin, (plan, other, nr)
                assert found["revenue_now"]["amount"] == billed(lived, f"{other}-{nr}")


def test_a_rehearsal_of_all_adds_up_and_names_those_who_gain_and_lose_most(
    lived: APIClient,
) -> None:
    found = rehearsed(lived, "stop")
    bills = [Decimal(billed(lived, f"{code}-{nr}")) for code in TERMS for nr in range(len(TOKENS))]
    assert found["periods"] == 15
    assert Decimal(found["revenue_now"]["amount"]) == sum(bills)
    assert Decimal(found["revenue_then"]["amount"]) == 15 * Decimal("5.00")
    assert found["winners"] == sum(bill > 5 for bill in bills)
    assert found["losers"] == sum(bill < 5 for bill in bills)
    assert found["refused_then"] == 6  # who used 3.7 or 12 million
    assert found["best"][0]["subscriber"] == "meter-4"
    assert found["best"][0]["refused_then"] == "10000000.000"
    assert {one["subscriber"] for one in found["worst"]} == {f"blocks-{n}" for n in (0, 1, 2)} | {
        f"meter-{n}" for n in (0, 1, 2)
    }
    some = rehearsed(lived, "stop", each=3)
    assert 0 < some["periods"] < 15
    assert get(lived, "plans")["items"][0]["version"] == 1


def test_a_draft_is_rehearsed_and_never_published(lived: APIClient, operator: Operator) -> None:
    draft = {
        "name": "Draft",
        "price": {"amount": "1.00", "currency": "CNY"},
        "allowance": "500000",
        "rate_card": "standard",
        "on_exhaustion": "meter",
        "overage": {"price_per_million": "1"},
    }
    before = Plan.objects.count()
    found = rehearsed(lived, "new", terms=draft, subscriber="stop-2")
    assert found["revenue_then"]["amount"] == "1.50"
    assert Plan.objects.count() == before
    assert_problem(post(lived, "plans/new/rehearsals", {"month": "2026-06"}), 422, "unknown_plan")
    bad = {"month": "2026-06", "terms": draft | {"rate_card": "none"}}
    assert post(lived, "plans/new/rehearsals", bad).status_code == 422
    for said in ({"month": "2026-13"}, {"month": "2026-08"}, {"month": "2026-06", "each": 0}, {}):
        assert post(lived, "plans/stop/rehearsals", said).status_code == 422


def test_another_rate_card_weighs_what_was_charged_anew(lived: APIClient) -> None:
    body = {
        "effective_from": "2026-01-01T00:00:00Z",
        "weights": [
            {
                "model": "*",
                **dict.fromkeys(
                    ("input", "cached_input", "cache_write", "output", "reasoning"), "3"
                ),
            }
        ],
    }
    assert put(lived, "rate-cards/dear", body).status_code == 201
    draft = {
        "name": "Dear",
        "price": {"amount": "1.00", "currency": "CNY"},
        "allowance": "0",
        "rate_card": "dear",
        "on_exhaustion": "meter",
        "overage": {"price_per_million": "1"},
    }
    found = rehearsed(lived, "dear", terms=draft, subscriber="stop-2")
    assert found["units_now"] == "1000001.000"
    assert found["units_then"] == "3000003.000"
    assert found["revenue_then"]["amount"] == "4.00"


def test_the_command_prints_the_sum_or_a_line_each(lived: APIClient, tmp_path: Path) -> None:
    out = io.StringIO()
    call_command("rehearse", plan="meter", month="2026-06", stdout=out)
    assert json.loads(out.getvalue())["periods"] == 15
    out = io.StringIO()
    call_command("rehearse", plan="meter", month="2026-06", csv=True, stdout=out)
    rows = list(csv.DictReader(io.StringIO(out.getvalue())))
    assert len(rows) == 15
    assert {row["then"] for row in rows if row["subscriber"].startswith("stop")} == {
        billed(lived, f"meter-{nr}") for nr in range(len(TOKENS))
    }
