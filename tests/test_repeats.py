"""Deciding about suspected repeats: what somebody found to be none is kept with the reason."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import transaction
from django.db.utils import DatabaseError
from rest_framework.test import APIClient

from metering.models import RepeatDismissal
from tests import adapter_fixtures as sent
from tests.factories import client_for, make_key, make_operator
from tests.usage import Gateway, assert_books_agree, assert_problem, bare, get, post

pytestmark = pytest.mark.django_db


@pytest.fixture
def api() -> APIClient:
    """The key of an operator whose gateway told three things alike."""
    operator = make_operator()
    bare(operator)
    gateway = Gateway(operator)
    for name in ("t-1", "t-2", "t-3"):
        gateway.send({"event": sent.lago(name)}, path="/api/v1/events")
    return client_for(make_key(operator))


def listed(api: APIClient, query: str = "") -> list[Any]:
    items: list[Any] = get(api, f"suspected-repeats{query}")["items"]
    return items


def test_what_is_no_repeat_is_dismissed_with_a_reason_and_stays_charged(api: APIClient) -> None:
    first, second = listed(api)
    before = get(api, "subscribers/s-1/balance?all=1")

    answer = post(api, f"suspected-repeats/{first['id']}/dismiss", {"reason": "two calls"})

    assert answer.status_code == 200
    body = answer.json()
    assert body == {
        **first,
        "dismissed_at": "2026-06-10T04:00:00Z",
        "dismissed_by": "crm",
        "dismissed_reason": "two calls",
    }
    assert (first["dismissed_at"], first["dismissed_by"], first["dismissed_reason"]) == (None,) * 3
    assert listed(api) == [second]
    assert listed(api, "?all=true") == [body, second]
    assert get(api, "subscribers/s-1/balance?all=1") == before
    assert_books_agree()


def test_a_dismissal_sent_again_is_the_same_and_never_another(api: APIClient) -> None:
    [one, _] = listed(api)
    path = f"suspected-repeats/{one['id']}/dismiss"
    first = post(api, path, {"reason": "two calls"})

    assert post(api, path, {"reason": "two calls"}).json() == first.json()
    assert_problem(post(api, path, {"reason": "other"}), 409, "already_dismissed")
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        RepeatDismissal.objects.update(reason="other")
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        RepeatDismissal.objects.all().delete()
    assert RepeatDismissal.objects.get().reason == "two calls"


def test_a_dismissal_needs_a_reason_and_a_repeat(api: APIClient) -> None:
    [one, _] = listed(api)

    for body in ({}, {"reason": ""}, {"reason": None}, {"reason": "x" * 201}, {"reason": "\0"}):
        assert_problem(post(api, f"suspected-repeats/{one['id']}/dismiss", body), 422, "invalid")
    for id in (10**9, 10**30):
        answer = post(api, f"suspected-repeats/{id}/dismiss", {"reason": "x"})
        assert_problem(answer, 404, "not_found")
    assert api.get("/api/v1/suspected-repeats?all=perhaps").status_code == 400
    assert len(listed(api)) == 2
