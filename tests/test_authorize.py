"""Forward-auth: whether a subject may use a model now, asked by headers or query."""

from __future__ import annotations

from typing import Any

import pytest
from rest_framework.test import APIClient

from subscriptions import keys, lifecycle
from subscriptions.models import ApiKey, Operator, ReservationName, Subscriber
from tests.asking import release, reserve
from tests.factories import (
    NOW,
    local,
    make_plan,
    make_rate_card,
    make_subscriber,
    set_clock,
    subscribe,
    yuan,
)
from tests.usage import DAY, MINUTE, Gateway, T, assert_problem, bare, put, record

pytestmark = pytest.mark.django_db


@pytest.fixture
def subscriber(operator: Operator) -> Subscriber:
    """`s-1`, called `user-s-1`, with 1,000 units until the end of June, and no more."""
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator, allowance=1000 * T))
    return subscriber


def ask(gateway: Gateway, query: str = "", **headers: str) -> Any:
    """The answer to a GET; `X_Subject="a"` is the header X-Subject."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return gateway.client.get(f"/api/v1/authorize{query}", headers=named)


def patch(api: APIClient, top_up_url: Any) -> Any:
    return api.patch("/api/v1/operator", {"top_up_url": top_up_url}, format="json")


def refused(answer: Any, cause: str, status: int = 403) -> dict[str, Any]:
    body = assert_problem(answer, status, cause)
    assert (answer["X-Decision"], answer["X-Cause"]) == ("deny", cause)
    return body


# Who asks, and how -------------------------------------------------------------------------------


def test_who_has_units_left_may_go_on(gateway: Gateway, subscriber: Subscriber) -> None:
    gateway.charge(record())

    answer = ask(gateway, X_Subject="user-s-1", X_Model="deepseek/chat")

    assert answer.status_code == 200
    assert answer.json() == {"decision": "allow", "available": "880.000"}
    assert (answer["X-Decision"], answer["X-Tokens-Remaining"]) == ("allow", "880")


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("?subject=user-s-1&model=a", {}),
        ("/v1/chat/completions?subject=user-s-1&model=a", {}),
        ("", {"X_Original_Subject": "user-s-1", "X_Original_Model": "a"}),
        ("", {"X_Forwarded_User": "user-s-1", "X_Forwarded_Model": "a"}),
        ("", {"X_Original_URI": "/v1/chat?subject=user-s-1&model=a"}),
        ("", {"X_Original_URL": "https://ai.example.com/v1?model=a&subject=user-s-1"}),
        ("", {"X_Forwarded_Uri": "/v1/chat?subject=user-s-1"}),
        ("?model=a", {"X_Subject": "user-s-1", "X_Original_URI": "http://[broken?subject=x"}),
    ],
)
@pytest.mark.parametrize("method", ["get", "post"])
def test_subject_and_model_come_as_nginx_envoy_and_traefik_send_them(
    method: str, query: str, headers: dict[str, str], gateway: Gateway, subscriber: Subscriber
) -> None:
    named: Any = {name.replace("_", "-"): value for name, value in headers.items()}

    answer = getattr(gateway.client, method)(f"/api/v1/authorize{query}", headers=named)

    assert answer.status_code == 200, answer.content


def test_what_the_gateway_sets_wins_over_what_its_client_wrote(
    gateway: Gateway, operator: Operator, subscriber: Subscriber
) -> None:
    make_subscriber(operator, "poor")
    said = {"X_Subject": "user-poor", "X_Original_URI": "/?subject=user-s-1"}

    refused(ask(gateway, "/v1?subject=user-s-1", **said), "no_plan")


def test_a_subject_bound_to_the_key_wins_over_all(
    operator: Operator, subscriber: Subscriber
) -> None:
    key = keys.issue(
        operator_code=operator.code, role="gateway", name="bound", at=NOW, subject="user-s-1"
    )
    bound = Gateway(operator, key=key)

    assert ask(bound, X_Subject="nobody").status_code == 200
    assert ask(bound).status_code == 200


def test_a_body_is_not_looked_at(gateway: Gateway, subscriber: Subscriber) -> None:
    answer = gateway.send(b"\xff{", "text/plain", path="/api/v1/authorize?subject=user-s-1")

    assert answer.status_code == 200


def test_only_a_gateways_live_key_may_ask(
    gateway: Gateway, api: APIClient, subscriber: Subscriber
) -> None:
    path = "/api/v1/authorize?subject=user-s-1"
    assert_problem(api.get(path), 403, "wrong_role")
    assert_problem(APIClient().get(path), 401, "unauthorized")
    assert_problem(gateway.client.put(path), 405, "method_not_allowed")
    assert gateway.client.get(path).status_code == 200

    ApiKey.objects.filter(role="gateway").update(revoked_at=NOW)

    assert_problem(gateway.client.get(path), 401, "unauthorized")


# Refusals ----------------------------------------------------------------------------------------


def test_the_request_after_the_last_token_is_refused_with_what_to_do(
    gateway: Gateway, api: APIClient, subscriber: Subscriber
) -> None:
    shown = patch(api, "https://shop.example.com/a?b=1")
    assert shown.json() == {
        "code": "op",
        "name": "op",
        "time_zone": "Asia/Shanghai",
        "currency": "CNY",
        "top_up_url": "https://shop.example.com/a?b=1",
        "overage_by_consent": False,
        "overage_by_consent_since": None,
    }
    gateway.charge(record(input_tokens=999, output_tokens=0))
    assert ask(gateway, X_Subject="user-s-1")["X-Tokens-Remaining"] == "1"
    gateway.charge(record("r-2", input_tokens=1, output_tokens=0))

    answer = ask(gateway, X_Subject="user-s-1")

    body = refused(answer, "exhausted")
    assert "top up" in body["detail"]
    assert (body["top_up_url"], body["available"]) == ("https://shop.example.com/a?b=1", "0.000")
    assert answer["X-Top-Up-Url"] == "https://shop.example.com/a?b=1"
    assert answer["X-Tokens-Remaining"] == "0"
    lifecycle.give(subscriber.pk, units=1, valid_until=NOW + DAY, reason="x", at=NOW)
    assert ask(gateway, X_Subject="user-s-1").status_code == 200


def test_without_an_address_to_top_up_none_is_told(
    gateway: Gateway, api: APIClient, operator: Operator
) -> None:
    bare(operator)

    answer = ask(gateway, X_Subject="user-s-1")

    assert "top_up_url" not in refused(answer, "no_plan")
    assert not answer.has_header("X-Top-Up-Url")
    for wrong in ("ftp://a", "javascript:alert(1)", "https://a\r\nX: y", "https://ü", 1, None):
        assert_problem(patch(api, wrong), 422, "invalid")
    assert patch(api, "").json() == api.get("/api/v1/operator").json()


def test_each_refusal_names_its_cause(gateway: Gateway, operator: Operator) -> None:
    make_rate_card(operator, weights={"deep*": ("1",) * 5, "free": ("0",) * 5})
    terms: dict[str, Any] = {"allowance": 0, "block_units": 10 * T, "block_price": yuan("1")}
    plans = {
        "stop": make_plan(operator, "stop", allowance=0),
        "meter": make_plan(
            operator,
            "meter",
            allowance=0,
            on_exhaustion="meter",
            price_per_million="1",
            cap_units=0,
        ),
        "blocks": make_plan(operator, "blocks", on_exhaustion="blocks", cap_units=9 * T, **terms),
        "packs": make_plan(operator, "packs", on_exhaustion="blocks", cap_units=10 * T, **terms),
        "open": make_plan(
            operator, "open", allowance=0, on_exhaustion="meter", price_per_million="1"
        ),
    }
    for code, plan in plans.items():
        subscribe(make_subscriber(operator, code), plan)
    owing, lost = (make_subscriber(operator, name) for name in ("owing", "lost"))
    lifecycle.suspend(owing.pk, reason="unpaid", at=NOW)
    lifecycle.suspend(lost.pk, reason="lost device", at=NOW, frozen=True)

    for who, cause in (
        ("stop", "exhausted"),
        ("meter", "capped"),
        ("blocks", "capped"),
        ("owing", "suspended"),
        ("lost", "frozen"),
        ("nobody", "unknown_subject"),
    ):
        refused(ask(gateway, X_Subject=f"user-{who}"), cause)
    refused(ask(gateway), "unknown_subject")
    refused(ask(gateway, "?subject=%00"), "unknown_subject")
    refused(ask(gateway, X_Subject="x" * 300), "unknown_subject")
    refused(ask(gateway, X_Subject="user-open", X_Model="gpt"), "unknown_model")
    assert ask(gateway, X_Subject="user-open").status_code == 200
    assert ask(gateway, X_Subject="user-stop", X_Model="free").status_code == 200
    # A pack may be bought still, until somebody was promised it.
    assert ask(gateway, X_Subject="user-packs").status_code == 200
    reserve(gateway, units="10", subject="user-packs")
    refused(ask(gateway, X_Subject="user-packs"), "capped")


def test_a_plan_that_degrades_lets_go_on_with_what_it_names(
    gateway: Gateway, operator: Operator
) -> None:
    plan = make_plan(
        operator,
        allowance=0,
        on_exhaustion="degrade",
        degrade_model="lite",
        degrade_tokens_per_minute=6000,
    )
    subscribe(make_subscriber(operator), plan)

    answer = ask(gateway, X_Subject="user-s-1")

    assert answer.status_code == 200
    assert answer.json() == {
        "decision": "degrade",
        "cause": "exhausted",
        "available": "0.000",
        "degrade_to": {"model": "lite", "tokens_per_minute": 6000},
    }
    assert answer["X-Decision"] == "degrade"
    assert (answer["X-Degrade-Model"], answer["X-Degrade-Tokens-Per-Minute"]) == ("lite", "6000")


# The same state ----------------------------------------------------------------------------------


def test_what_is_reserved_is_not_there_for_others(
    gateway: Gateway, operator: Operator, subscriber: Subscriber
) -> None:
    reserve(gateway, units="1000", ttl_seconds=60)
    refused(ask(gateway, X_Subject="user-s-1"), "exhausted")

    release(gateway)
    assert ask(gateway, X_Subject="user-s-1")["X-Tokens-Remaining"] == "1000"

    reserve(gateway, "a-2", units="1000", ttl_seconds=60)
    set_clock(operator, NOW + MINUTE)
    assert ask(gateway, X_Subject="user-s-1")["X-Tokens-Remaining"] == "1000"
    assert ReservationName.objects.count() == 2


def test_a_period_that_is_due_is_opened_first(
    gateway: Gateway, operator: Operator, subscriber: Subscriber
) -> None:
    gateway.charge(record(input_tokens=1000, output_tokens=0))
    set_clock(operator, local(2026, 8, 1))

    assert ask(gateway, X_Subject="user-s-1")["X-Tokens-Remaining"] == "1000"


def test_a_weight_that_is_published_counts_at_once(
    gateway: Gateway, api: APIClient, subscriber: Subscriber
) -> None:
    refused_model = {"X_Subject": "user-s-1", "X_Model": "new/model"}
    assert ask(gateway, **refused_model).status_code == 200
    weight = dict.fromkeys(("input", "cached_input", "cache_write", "output", "reasoning"), "1")
    body = {"effective_from": NOW.isoformat(), "weights": [{"model": "deep*", **weight}]}
    assert put(api, "rate-cards/standard", body).status_code == 201

    refused(ask(gateway, **refused_model), "unknown_model")


def test_nginx_may_ask_for_no_other_refusal_than_403(
    gateway: Gateway, subscriber: Subscriber
) -> None:
    assert_problem(ask(gateway, "?refuse_with=404"), 422, "invalid")
    assert ask(gateway, "?refuse_with=403&subject=user-s-1").status_code == 200
