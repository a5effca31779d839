"""`Idempotency-Key`: the same request again gets the first answer and does nothing."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.db import connection
from rest_framework.test import APIClient

from subscriptions.models import Bucket, IdempotentRequest, Operator
from tests.factories import (
    client_for,
    make_key,
    make_operator,
    make_plan,
    make_subscriber,
)

GIFT = {"units": "5", "valid_until": "2026-07-01T00:00:00Z", "reason": "sorry"}
GRANTS = "/api/v1/subscribers/s-1/grants"


@pytest.fixture
def operator(db: None) -> Operator:
    return make_operator()


@pytest.fixture
def api(operator: Operator) -> APIClient:
    make_subscriber(operator)
    return client_for(make_key(operator))


def post(api: APIClient, body: Any, key: str = "k-1", path: str = GRANTS) -> Any:
    return api.post(path, body, format="json", headers={"Idempotency-Key": key})


def test_the_same_request_gets_the_first_answer(api: APIClient) -> None:
    first = post(api, GIFT)
    # Another spelling of the same JSON.
    again = post(api, dict(reversed(GIFT.items())))

    assert (
        (again.status_code, again.json())
        == (first.status_code, first.json())
        == (
            201,
            first.json(),
        )
    )
    assert "Idempotency-Replayed" not in first
    assert again["Idempotency-Replayed"] == "true"
    assert Bucket.objects.count() == 1


def test_another_body_under_the_same_key_is_a_conflict(api: APIClient) -> None:
    post(api, GIFT)

    for answer in (
        post(api, {**GIFT, "units": "6"}),
        post(api, GIFT, path="/api/v1/subscribers/s-1/boosters"),
    ):
        assert (answer.status_code, answer.json()["cause"]) == (409, "idempotency_conflict")
    assert Bucket.objects.count() == 1


def test_another_spelling_of_an_amount_or_time_is_another_body(api: APIClient) -> None:
    post(api, GIFT)

    for said in ({"units": "5.000"}, {"units": 5}, {"valid_until": "2026-07-01T08:00:00+08:00"}):
        answer = post(api, {**GIFT, **said})
        assert (answer.status_code, answer.json()["cause"]) == (409, "idempotency_conflict")
    assert Bucket.objects.count() == 1


def test_another_key_is_another_request(api: APIClient) -> None:
    assert {post(api, GIFT, key).status_code for key in ("a", "b")} == {201}
    assert Bucket.objects.count() == 2


def test_operators_share_no_keys(api: APIClient) -> None:
    other = make_operator("other")
    make_subscriber(other)
    post(api, GIFT)

    answer = post(client_for(make_key(other)), {**GIFT, "units": "9"})

    assert answer.status_code == 201


def test_a_refusal_is_an_answer_too(api: APIClient, operator: Operator) -> None:
    path = "/api/v1/subscribers/s-1/subscriptions"
    make_plan(operator)
    post(api, {"plan": "light"}, "sale", path)

    first, again = (post(api, {"plan": "light"}, "second", path) for _ in range(2))

    assert (first.status_code, again.status_code) == (409, 409)
    assert first.json() == again.json()
    assert again["Content-Type"] == "application/problem+json"
    assert again["Idempotency-Replayed"] == "true"


def test_what_could_not_begin_may_be_sent_again(api: APIClient, operator: Operator) -> None:
    missing = post(api, GIFT, path="/api/v1/subscribers/s-2/grants")
    make_subscriber(operator, "s-2")

    assert missing.status_code == 404
    assert post(api, GIFT, path="/api/v1/subscribers/s-2/grants").status_code == 201


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\t", "ü"])
def test_a_key_that_is_none_is_refused(api: APIClient, key: str) -> None:
    answer = post(api, GIFT, key)

    assert (answer.status_code, answer.json()["cause"]) == (400, "bad_idempotency_key")


def test_the_answer_and_its_effect_are_stored_together(
    api: APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(**kwargs: Any) -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(IdempotentRequest.objects, "create", broken)
        assert post(api, GIFT).status_code == 500
    assert Bucket.objects.count() == 0

    assert post(api, GIFT).status_code == 201
    assert Bucket.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_of_two_at_once_the_second_waits_for_the_first() -> None:
    operator = make_operator()
    make_subscriber(operator)
    key = make_key(operator)
    answers: list[Any] = []
    barrier = threading.Barrier(5)

    def send() -> None:
        client = client_for(key)
        barrier.wait()
        answers.append(post(client, GIFT))
        connection.close()

    threads = [threading.Thread(target=send) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [answer.status_code for answer in answers] == [201] * 5
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert Bucket.objects.count() == 1
