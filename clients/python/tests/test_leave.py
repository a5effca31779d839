"""Asking before the tokens are spent: what is held, what is refused, and what an outage does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stand_in import BROKEN, Say, StandIn, usage
from token_billing_client import Client, Refused, Unavailable

RESERVATIONS = "/api/v1/reservations"
COMMITTED = {
    "id": "r/1",
    "state": "committed",
    "late": False,
    "released": "380.000",
    "batch": "7",
    "accepted": 1,
    "duplicates": 0,
    "rejected": [],
    "units": "120.000",
}
GRANTED = {
    "decision": "allow",
    "granted": "3200.000",
    "expires_at": "2026-06-10T12:05:00+08:00",
    "available": "9998765.500",
}


def client_of(platform: StandIn, spool: Path, **settings: Any) -> Client:
    return Client(platform.url, "tbg_key", spool=spool, flush_seconds=0.01, **settings)


def reserve(client: Client, id: str = "r-1", **said: Any) -> Any:
    return client.reserve(id, subject="user-1", model="deepseek/chat", **said)


def test_units_are_held_for_a_request(tmp_path: Path) -> None:
    with StandIn() as platform, client_of(platform, tmp_path) as client:
        platform.answers[RESERVATIONS] = Say(201, GRANTED)

        held = reserve(client, input_tokens=1200, max_output_tokens=500, ttl_seconds=60)

    assert (held.id, held.decision, held.allowed, held.cause) == ("r-1", "allow", True, "")
    assert (str(held.granted), str(held.available)) == ("3200.000", "9998765.500")
    assert held.expires_at.isoformat() == "2026-06-10T12:05:00+08:00"
    [asked] = platform.asked
    assert asked.headers["Authorization"] == "Bearer tbg_key"
    assert json.loads(asked.raw) == {
        "id": "r-1",
        "subject": "user-1",
        "model": "deepseek/chat",
        "input_tokens": 1200,
        "max_output_tokens": 500,
        "ttl_seconds": 60,
    }


@pytest.mark.parametrize(
    ("said", "allowed"),
    [
        ({"decision": "deny", "cause": "exhausted", "granted": "0", "available": "0.000"}, False),
        ({**GRANTED, "decision": "degrade", "cause": "exhausted", "model": "cheaper"}, True),
        ({"decision": "deny", "cause": "suspended", "granted": None, "expires_at": None}, False),
    ],
)
def test_a_refusal_and_a_cheaper_way_are_decisions(
    tmp_path: Path, said: Any, allowed: bool
) -> None:
    with StandIn() as platform, client_of(platform, tmp_path) as client:
        platform.answers[RESERVATIONS] = Say(201, said)

        held = reserve(client)

    assert (held.allowed, held.decision, held.cause) == (allowed, said["decision"], said["cause"])
    assert held.said == said


def test_a_reservation_is_asked_for_again_with_the_same_bytes(tmp_path: Path) -> None:
    with StandIn(BROKEN, Say(503)) as platform, client_of(platform, tmp_path) as client:
        platform.answers[RESERVATIONS] = Say(201, GRANTED)

        assert reserve(client).allowed

    assert len(platform.asked) == 3
    assert len({one.raw for one in platform.asked}) == 1


def test_without_an_answer_in_time_it_is_unavailable(tmp_path: Path) -> None:
    with StandIn() as platform, client_of(platform, tmp_path, ask_seconds=0.3) as client:
        platform.away = True

        with pytest.raises(Unavailable):
            reserve(client)


@pytest.mark.parametrize("said", [{"decision": "maybe"}, [], {**GRANTED, "granted": "many"}])
def test_an_answer_that_is_none_is_told(tmp_path: Path, said: Any) -> None:
    with StandIn() as platform, client_of(platform, tmp_path) as client:
        platform.answers[RESERVATIONS] = Say(201, said)

        with pytest.raises(Refused, match="does not answer like the platform"):
            reserve(client)


def test_what_was_used_is_committed_and_not_sent_a_second_time(tmp_path: Path) -> None:
    with StandIn() as platform, client_of(platform, tmp_path) as client:
        platform.answers[f"{RESERVATIONS}/r%2F1/commit"] = Say(200, COMMITTED)

        charged = client.commit("r/1", usage("r/1"))

    assert charged
    assert (charged.accepted, charged.duplicates, str(charged.units)) == (1, 0, "120.000")

    [asked] = platform.asked
    assert json.loads(asked.raw)["id"] == "r/1"
    assert not platform.charged


@pytest.mark.parametrize(
    ("status", "cause"),
    [(404, "not_found"), (401, "unauthorized"), (409, "wrong_subscriber"), (200, "no_platform")],
)
def test_usage_that_cannot_be_committed_is_charged_as_usage(
    tmp_path: Path, status: int, cause: str
) -> None:
    with StandIn() as platform, client_of(platform, tmp_path) as client:
        platform.answers[f"{RESERVATIONS}/r-1/commit"] = Say(status, {"cause": cause})

        assert client.commit("r-1", usage("r-1")) is None

    assert list(platform.charged) == ["r-1"]


def test_usage_of_a_commit_without_an_answer_is_charged_as_usage(tmp_path: Path) -> None:
    with StandIn() as platform, client_of(platform, tmp_path, ask_seconds=0.2) as client:
        platform.away = True
        assert client.commit("r-1", usage("r-1")) is None
        platform.away = False

    assert list(platform.charged) == ["r-1"]


def test_other_usage_than_was_committed_is_refused(tmp_path: Path) -> None:
    with StandIn() as platform, client_of(platform, tmp_path) as client:
        platform.answers[f"{RESERVATIONS}/r-1/commit"] = Say(409, {"cause": "conflict"})

        with pytest.raises(Refused) as refused:
            client.commit("r-1", usage("r-1"))

    assert refused.value.status == 409
    assert not platform.charged


def test_usage_is_charged_when_the_commit_is_broken_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **more: object) -> None:
        raise SystemExit(143)  # as SIGTERM does

    with StandIn() as platform, client_of(platform, tmp_path) as client:
        monkeypatch.setattr(client, "_ask", interrupted)

        with pytest.raises(SystemExit):
            client.commit("r-1", usage("r-1"))

    assert list(platform.charged) == ["r-1"]


def test_a_reservation_is_released(tmp_path: Path) -> None:
    with StandIn(Say(503)) as platform, client_of(platform, tmp_path) as client:
        platform.answers[f"{RESERVATIONS}/r-1/release"] = Say(200, {"state": "released"})

        client.release("r-1")

    assert [one.path for one in platform.asked] == [f"{RESERVATIONS}/r-1/release"] * 2


def authorized(platform: StandIn, spool: Path, said: Say) -> Any:
    platform.answers["/api/v1/authorize"] = said
    with client_of(platform, spool) as client:
        return client.authorize(subject="user:1", model="deepseek/chat")


def test_a_subject_may_go_on(tmp_path: Path) -> None:
    said = {"decision": "allow", "available": "12.500"}
    with StandIn() as platform:
        leave = authorized(platform, tmp_path, Say(200, said, {"X-Tokens-Remaining": "12"}))

    assert (leave.allowed, leave.decision, leave.cause, leave.remaining) == (True, "allow", "", 12)
    assert leave.said == said
    [asked] = platform.asked
    assert (asked.method, asked.path) == (
        "GET",
        "/api/v1/authorize?subject=user%3A1&model=deepseek%2Fchat",
    )


def test_a_subject_may_go_on_in_a_cheaper_way(tmp_path: Path) -> None:
    cheaper = {"model": "deepseek/lite", "tokens_per_minute": None}
    said = {"decision": "degrade", "cause": "exhausted", "degrade_to": cheaper}
    with StandIn() as platform:
        leave = authorized(platform, tmp_path, Say(200, said))

    assert (leave.allowed, leave.decision, leave.cause) == (True, "degrade", "exhausted")
    assert leave.said["degrade_to"] == cheaper


def test_a_subject_that_may_not_go_on_is_told_why(tmp_path: Path) -> None:
    problem = {"cause": "exhausted", "detail": "buy a booster"}
    with StandIn() as platform:
        leave = authorized(platform, tmp_path, Say(403, problem, {"X-Tokens-Remaining": "0.000"}))

    assert (leave.allowed, leave.cause, leave.detail) == (False, "exhausted", "buy a booster")
    assert leave.remaining == 0


def test_a_subject_that_is_too_fast_is_told_when_to_come_back(tmp_path: Path) -> None:
    with StandIn() as platform:
        leave = authorized(
            platform, tmp_path, Say(429, {"cause": "rate_limited"}, {"Retry-After": "17"})
        )

    assert (leave.allowed, leave.cause, leave.retry_after) == (False, "rate_limited", 17)
    assert len(platform.asked) == 1


def test_a_key_of_the_wrong_role_is_not_taken_for_a_decision(tmp_path: Path) -> None:
    with StandIn() as platform, pytest.raises(Refused, match="wrong_role"):
        authorized(platform, tmp_path, Say(403, {"cause": "wrong_role", "detail": "yours is"}))
