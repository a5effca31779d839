"""Bad input is told what is wrong with it, as problem+json, and never breaks anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.db import DataError, InterfaceError, OperationalError, connection
from django.test import Client
from rest_framework.test import APIClient

from subscriptions import balances
from subscriptions.models import Operator
from tests.factories import (
    make_plan,
    make_subscriber,
    subscribe,
)

pytestmark = pytest.mark.django_db

DEEP = "[" * 100_000 + "]" * 100_000


def assert_problem(answer: Any, status: int, cause: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.content
    assert answer["Content-Type"] == "application/problem+json"
    body: dict[str, Any] = json.loads(answer.content)
    assert (body["status"], body["cause"], body["type"]) == (status, cause, "about:blank")
    assert body["title"]
    assert body["detail"]
    return body


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b"",
        b"nothing",
        b'{"name": NaN}',
        b'{"name": -Infinity}',
        b'{"name": ' + b"9" * 5000 + b"}",
        b'{"name": "\xff\xfe"}',
        b'\xef\xbb\xbf{"name": "bom"}',
        b'{"name": "tail"} tail',
        DEEP.encode(),
        ('{"name":' * 50_000).encode(),
    ],
)
def test_a_body_that_cannot_be_read_is_400(api: APIClient, raw: bytes) -> None:
    answer = api.put("/api/v1/subscribers/s-1", raw or b" ", content_type="application/json")

    assert_problem(answer, 400, "malformed")


def test_json_just_shallow_enough_for_the_parser_breaks_nothing(api: APIClient) -> None:
    for depth in range(200, 1100, 20):
        body = "[" * depth + "]" * depth
        answer = api.post(
            "/api/v1/subscribers/s-1/grants",
            body,
            content_type="application/json",
            headers={"Idempotency-Key": f"depth-{depth}"},
        )
        assert answer.status_code in (400, 404), depth


def test_a_body_in_another_charset_is_read_as_utf_8(api: APIClient) -> None:
    for charset in ("utf-16", "bz2_codec", "nonsense"):
        answer = api.generic(
            "PUT",
            "/api/v1/subscribers/s-1",
            '{"name": "名"}',
            content_type=f"application/json; charset={charset}",
        )
        assert answer.status_code in (200, 201)


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_another_media_type_is_415(api: APIClient, content_type: str) -> None:
    answer = api.generic("PUT", "/api/v1/subscribers/s-1", "{}", content_type=content_type)

    assert_problem(answer, 415, "unsupported_media_type")


def test_a_body_beyond_the_limit_is_413(api: APIClient, settings: Any) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000

    answer = api.put("/api/v1/subscribers/s-1", {"name": "x" * 1000}, format="json")

    assert_problem(answer, 413, "too_large")


@pytest.mark.parametrize("value", ["{}", "[]", "0", '""'])
def test_a_body_of_too_many_values_is_413_before_it_takes_memory(
    api: APIClient, value: str
) -> None:
    body = f"[{value}{f',{value}' * 500_000}]"

    answer = api.generic("POST", "/api/v1/subscribers/batch", body, "application/json")

    assert_problem(answer, 413, "too_large")
    assert "values" in answer.json()["detail"]


@pytest.mark.parametrize(
    "value",
    [
        "\0",
        "a\0b",
        "\ud800",
        "x" * 100_000,
        5,
        1e308,
        10**400,
        True,
        None,
        [],
        {},
        [[[["deep"]]]],
        {"amount": {"amount": "1"}},
        -1,
    ],
)
@pytest.mark.parametrize(
    ("method", "path", "fields"),
    [
        ("put", "plans/p", ("name", "price", "allowance", "rate_card", "cycle", "tax_rate")),
        ("put", "plans/p", ("overage", "components")),
        ("put", "boosters/b", ("name", "price", "units", "valid_days")),
        ("put", "rate-cards/r", ("effective_from", "weights")),
        ("put", "subscribers/s", ("name", "kind", "subjects", "msisdn", "email")),
        ("post", "subscribers/s-1/subscriptions", ("plan", "starts_at")),
        ("post", "subscribers/s-1/boosters", ("booster",)),
        ("post", "subscribers/s-1/grants", ("units", "valid_until", "reason")),
    ],
)
def test_no_value_in_any_field_breaks_a_door(
    api: APIClient,
    operator: Operator,
    method: str,
    path: str,
    fields: tuple[str, ...],
    value: Any,
) -> None:
    make_subscriber(operator)

    for field in fields:
        answer = api.generic(
            method.upper(),
            f"/api/v1/{path}",
            json.dumps({field: value}),
            content_type="application/json",
        )
        if answer.status_code >= 300:
            errors = assert_problem(answer, 422, "invalid")["errors"]
            assert all(set(error) == {"field", "detail"} for error in errors)


def test_errors_name_the_field_by_its_path(api: APIClient) -> None:
    answer = api.put(
        "/api/v1/plans/p",
        {
            "name": "P",
            "price": {"amount": "x"},
            "allowance": "1",
            "rate_card": "standard",
            "overage": {"block": {"units": "1", "price": "-1"}},
            "components": [{"name": "c", "price": "1", "tax_rate": "2"}],
        },
        format="json",
    )

    errors = assert_problem(answer, 422, "invalid")["errors"]
    assert [error["field"] for error in errors] == [
        "price",
        "overage.block.price",
        "components.0.tax_rate",
    ]
    assert errors[0]["detail"] == "A valid number is required."


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/subscribers/%00",
        "/api/v1/subscribers/%00/balance",
        "/api/v1/subscribers/%FF%FE/balance",
        "/api/v1/subscribers/" + "x" * 5000,
        "/api/v1/subscribers/s-1/subscriptions/99999999999999999999",
        "/api/v1/subscribers/s-1/subscriptions/" + "9" * 5000,
        "/api/v1/subscribers/s-1/subscriptions/-1",
        "/api/v1/subscribers/s-1/subscriptions/abc",
        "/api/v1/nothing",
        "/v1/nothing",
        "/api/v1/%00",
    ],
)
def test_an_address_of_nothing_is_404(api: APIClient, operator: Operator, path: str) -> None:
    make_subscriber(operator)

    assert_problem(api.get(path), 404, "not_found")


@pytest.mark.parametrize("code", ["%00", "a%2Fb", "-x", "x" * 65, "%E5%90%8D", "."])
def test_a_code_that_fits_no_address_is_refused(api: APIClient, code: str) -> None:
    answer = api.put(f"/api/v1/boosters/{code}", {}, format="json")

    assert answer.status_code in (404, 422)


@pytest.mark.parametrize("external_id", ["%00", "%0A", "x" * 129, ".."])
def test_an_external_id_that_fits_no_address_is_refused(api: APIClient, external_id: str) -> None:
    answer = api.generic("PUT", f"/api/v1/subscribers/{external_id}", "{}", "application/json")

    assert_problem(answer, 422, "invalid")


@pytest.mark.parametrize(
    "query",
    [
        "cursor=",
        "cursor=%00",
        "cursor=x",
        "cursor=WyIAIl0=",  # ["\0"]
        "cursor=WyJcdTAwMDAiXQ==",  # ["\\u0000"]
        "cursor=WyJcdWQ4MDAiXQ==",  # ["\\ud800"]
        "cursor=WzFd",  # [1]
        "cursor=e30=",  # {}
        "cursor=W10=",  # []
        "limit=",
        "limit=0",
        "limit=1001",
        "limit=-1",
        "limit=x",
        "limit=1.5",
        "limit=%00",
        "limit=%D9%A3",  # an Arabic 3
        "limit=" + "9" * 5000,
    ],
)
@pytest.mark.parametrize("path", ["plans", "subscribers"])
def test_a_query_that_cannot_be_read_is_400(api: APIClient, path: str, query: str) -> None:
    answer = api.get(f"/api/v1/{path}?{query}")

    cause = "bad_cursor" if query.startswith("cursor") else "bad_query"
    assert_problem(answer, 400, cause)


def test_a_cursor_beyond_any_id_is_refused(api: APIClient, operator: Operator) -> None:
    subscribe(make_subscriber(operator), make_plan(operator))

    # [99999999999999999999]
    answer = api.get(
        "/api/v1/subscribers/s-1/subscriptions?cursor=Wzk5OTk5OTk5OTk5OTk5OTk5OTk5XQ=="
    )

    assert_problem(answer, 400, "bad_cursor")


def test_another_method_is_405(api: APIClient) -> None:
    answer = api.delete("/api/v1/plans")

    assert_problem(answer, 405, "method_not_allowed")
    assert "GET" in answer["Allow"]


def test_accept_changes_nothing(api: APIClient) -> None:
    for accept in ("text/html", "application/xml", "nonsense", "application/problem+json"):
        answer = api.get("/api/v1/plans", headers={"Accept": accept})
        assert (answer.status_code, answer["Content-Type"]) == (200, "application/json")


@pytest.mark.parametrize("error", [OperationalError("gone"), InterfaceError("closed")])
def test_a_database_that_is_away_is_503_with_retry_after(
    api: APIClient, operator: Operator, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    make_subscriber(operator)

    def away(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(balances, "bring_up", away)
    answer = api.get("/api/v1/subscribers/s-1/balance")

    assert_problem(answer, 503, "unavailable")
    assert int(answer["Retry-After"]) > 0


@pytest.mark.parametrize(
    ("error", "status", "cause"),
    [(DataError("no such value"), 422, "invalid"), (KeyError("secret"), 500, "internal")],
)
def test_what_nobody_foresaw_tells_nothing_of_the_inside(
    api: APIClient,
    operator: Operator,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    status: int,
    cause: str,
) -> None:
    make_subscriber(operator)

    def broken(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(balances, "bring_up", broken)
    answer = api.get("/api/v1/subscribers/s-1/balance")

    assert_problem(answer, status, cause)
    assert b"secret" not in answer.content
    assert b"Traceback" not in answer.content


def test_a_wrong_host_is_400(operator: Operator) -> None:
    assert_problem(Client().get("/api/v1/plans", headers={"Host": "a b"}), 400, "malformed")


def test_nothing_of_a_refused_request_is_done(
    api: APIClient,
    operator: Operator,
    django_assert_num_queries: Callable[..., Any],
) -> None:
    with django_assert_num_queries(1):  # the key's
        api.put("/api/v1/boosters/b", {"name": 1}, format="json")
    assert connection.in_atomic_block
