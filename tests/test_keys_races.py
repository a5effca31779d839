"""Asks by one key, and changes of its cap, that come at the same moment."""

from __future__ import annotations

from typing import Any

import pytest

from subscriptions.models import Operator
from tests.asking import asked
from tests.at_once import at_once
from tests.factories import (
    client_for,
    make_key,
    make_operator,
    make_plan,
    make_subscriber,
    subscribe,
)
from tests.keys import KEYS, introspect, make_subscriber_key
from tests.usage import Gateway, post

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.xdist_group("races")]


@pytest.fixture
def operator() -> Operator:
    operator = make_operator()
    subscribe(make_subscriber(operator), make_plan(operator))
    return operator


def test_two_asks_at_the_cap_share_what_is_left_of_it(operator: Operator) -> None:
    api, gateway = client_for(make_key(operator)), Gateway(operator)
    key = make_subscriber_key(api, cap={"units": "100", "per": "month"})

    def ask(nr: int) -> Any:
        body = asked(f"a-{nr}", subject=key["subject"], units="60")
        return post(gateway.client, "reservations", body).json()

    answers = at_once(*(lambda nr=nr: ask(nr) for nr in range(4)))

    decisions = sorted(answer["decision"] for answer in answers)
    assert decisions == ["allow", "deny", "deny", "deny"]
    assert {a["cause"] for a in answers if a["decision"] == "deny"} == {"key_capped"}
    assert introspect(gateway, key["secret"])["cap"]["left"] == "40.000"


def test_an_ask_beside_a_new_cap_is_before_it_or_keeps_to_it(operator: Operator) -> None:
    api, gateway = client_for(make_key(operator)), Gateway(operator)
    key = make_subscriber_key(api)
    subject = key["subject"]

    def ask() -> Any:
        return post(gateway.client, "reservations", asked("a-1", subject=subject, units="60"))

    def cap() -> Any:
        path = f"/api/v1/{KEYS}/{key['id']}"
        terms = {"cap": {"units": "100", "per": "month"}}
        return api.patch(path, terms, format="json")

    answers = at_once(ask, cap)

    assert [answer.status_code for answer in answers] == [201, 200]
    again = asked("a-2", subject=subject, units="60")
    assert post(gateway.client, "reservations", again).json()["cause"] == "key_capped"
