"""Debts as a carrier's own systems see and stop them, over HTTP."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from rest_framework.test import APIClient

from billing import dunning
from billing.models import DunningEvent, DunningStop
from tests.factories import (
    client_for,
    local,
    make_key,
    make_operator,
    make_plan,
    make_subscriber,
    subscribe,
)
from tests.usage import DAY, assert_books_agree, assert_problem, get, post

pytestmark = pytest.mark.django_db

START, CLOSE = local(2026, 6, 1), local(2026, 7, 3)
DUE = CLOSE + 15 * DAY
FIRST = "CT-2026-00000001"


@pytest.fixture
def api() -> APIClient:
    """An operator whose two subscribers have a bill each, and a key of its own."""
    operator = make_operator("ct", at=START)
    dunning.set_policy(operator, at=START)
    plan = make_plan(operator)
    for name in ("s-1", "s-2"):
        subscribe(make_subscriber(operator, name), plan)
    api = client_for(make_key(operator))
    jump(api, CLOSE)
    return api


def jump(api: APIClient, to: dt.datetime) -> None:
    assert post(api, "test-clock", {"now": to.isoformat()}).status_code == 200


def told(api: APIClient, path: str, reason: str) -> Any:
    answer = post(api, path, {"reason": reason})
    assert answer.status_code == 200, answer.content
    return answer.json()


def test_how_a_subscribers_debts_stand_is_told_step_by_step(api: APIClient) -> None:
    assert get(api, "subscribers/s-1/dunning") == {"cases": [], "steps": [], "stops": []}
    jump(api, DUE + DAY)

    seen = get(api, "subscribers/s-1/dunning")
    assert seen["cases"] == [
        {
            "currency": "CNY",
            "state": "overdue",
            "invoice": FIRST,
            "since": "2026-07-17T16:00:00Z",
            "next_at": "2026-07-24T16:00:00Z",
        }
    ]
    assert seen["steps"][0] == {
        "kind": "reminder",
        "invoice": FIRST,
        "at": "2026-07-18T16:00:00Z",
        "done_at": "2026-07-18T16:00:00Z",
        "reason": f"{FIRST} is 1 days overdue",
    }
    assert get(api, "dunning") == {
        "states": {"overdue": 2, "suspended": 0, "terminated": 0, "settled": 0},
        "stops": [],
    }


def test_one_account_is_stopped_and_goes_on(api: APIClient) -> None:
    for _ in range(2):
        stopped = told(api, "subscribers/s-1/dunning/stop", "a dispute")["stops"]
    assert stopped == [
        {
            "subscriber": "s-1",
            "invoice": None,
            "since": "2026-07-02T16:00:00Z",
            "reason": "a dispute",
        }
    ]
    assert DunningStop.objects.count() == 1
    jump(api, DUE + 31 * DAY)
    states = get(api, "dunning")["states"]
    assert (states["overdue"], states["suspended"]) == (1, 1)

    assert told(api, "subscribers/s-1/dunning/resume", "solved")["stops"] == []
    jump(api, DUE + 32 * DAY)

    assert get(api, "dunning")["states"]["suspended"] == 2
    again = post(api, "subscribers/s-1/dunning/resume", {"reason": "again"})
    assert_problem(again, 409, "not_stopped")
    assert_books_agree()


def test_all_accounts_are_stopped_and_go_on(api: APIClient) -> None:
    assert told(api, "dunning/stop", "a flood")["stops"] == [
        {"subscriber": None, "invoice": None, "since": "2026-07-02T16:00:00Z", "reason": "a flood"}
    ]
    jump(api, DUE + 31 * DAY)
    assert not DunningEvent.objects.exists()
    # Also seen where somebody asks about one, who cannot go on alone.
    assert get(api, "subscribers/s-1/dunning")["stops"][0]["subscriber"] is None
    alone = post(api, "subscribers/s-1/dunning/resume", {"reason": "x"})
    assert_problem(alone, 409, "not_stopped")

    assert told(api, "dunning/resume", "over")["stops"] == []
    jump(api, DUE + 32 * DAY)

    assert get(api, "dunning")["states"]["suspended"] == 2
    assert_books_agree()


def test_nobody_elses_debts_are_seen_or_stopped(api: APIClient) -> None:
    other = client_for(make_key(make_operator("other", at=START)))
    assert_problem(other.get("/api/v1/subscribers/s-1/dunning"), 404, "not_found")
    for what in ("stop", "resume"):
        path = f"subscribers/s-1/dunning/{what}"
        assert_problem(post(other, path, {"reason": "x"}), 404, "not_found")
    assert told(other, "dunning/stop", "x")["stops"]

    assert get(api, "dunning")["stops"] == []
    answer = post(api, "dunning/stop", {})
    assert answer.status_code == 422, answer.content
