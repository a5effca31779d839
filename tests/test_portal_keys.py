"""The pages of API keys: what they show, to whom, and what they cost."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from metering import rollups
from subscriptions.models import Operator, Subscriber, SubscriberKey
from subscriptions.portal.forms import TokensField
from tests.factories import NOW, make_subscriber
from tests.keys import introspect, make_subscriber_key
from tests.usage import Gateway, T, post, record
from tests.visiting import client_of

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _this_portal(operator: Operator, settings: Any) -> None:
    settings.PORTAL_OPERATOR = operator.code


@pytest.fixture
def browser(subscriber: Subscriber) -> Client:
    return client_of(subscriber)


def text_of(browser: Client, path: str) -> str:
    answer = browser.get(path)
    assert answer.status_code == 200, path
    return answer.content.decode()


def test_a_key_is_made_shown_once_and_used(browser: Client, gateway: Gateway) -> None:
    assert "No keys yet" in text_of(browser, "/keys/")

    made = browser.post(
        "/keys/", {"name": "laptop", "cap": "50 万", "cap_per": "month", "models": "deepseek/*"}
    )

    page = made.content.decode()
    [secret] = set(re.findall(r"sk-tb-[\w-]{40,}", page))
    assert "nobody can show it again" in page
    assert made["Cache-Control"] == "private, no-store"
    key = SubscriberKey.objects.get()
    assert (key.cap, key.cap_per, key.allowed_models) == (500_000 * T, "month", ["deepseek/*"])
    subject = introspect(gateway, secret)["subject"]
    gateway.charge(record(subject=subject, input_tokens=125_000, output_tokens=0))
    rollups.fold_all(at=NOW)
    listed = text_of(browser, "/keys/")
    assert secret not in listed
    assert "375,000 left of 500,000 a month" in listed
    assert "Last used in the hour of 10 Jun, 12:00." in listed
    assert "Only deepseek/*." in listed


def test_a_key_is_changed_replaced_and_revoked(
    browser: Client, api: APIClient, gateway: Gateway
) -> None:
    made = make_subscriber_key(api)
    page = f"/keys/{made['id']}/"

    said = {"name": "desk", "cap": "1.5k", "cap_per": "day", "models": ""}
    changed = browser.post(page, said, follow=True)
    assert "That holds from the next request on." in changed.content.decode()
    assert SubscriberKey.objects.get().cap == 1_500 * T
    new = browser.post(f"{page}rotate/", {"overlap": "1"}).content.decode()
    [secret] = set(re.findall(r"sk-tb-[\w-]{40,}", new))
    assert all(introspect(gateway, token)["active"] for token in (secret, made["secret"]))

    assert "stop working at once" in text_of(browser, f"{page}revoke/")
    assert introspect(gateway, secret)["active"]
    browser.post(f"{page}revoke/")

    assert introspect(gateway, secret) == {"active": False}
    assert "1 revoked key" in text_of(browser, "/keys/")
    history = text_of(browser, page)
    assert [said for said in ("Revoked", "Replaced by a new one", "Made") if said in history]
    assert history.count("by your carrier") == 1


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"name": ""}, "This field is required."),
        ({"name": "laptop"}, "Another of your keys is called that."),
        ({"name": "a", "cap": "many"}, "Write a number of tokens"),
        ({"name": "a", "cap": "0"}, "Write more than nothing."),
        ({"name": "a", "models": "x " * 5 + "y" * 257}, "too many models"),
    ],
)
def test_what_makes_no_key_is_said_beside_its_field(
    said: dict[str, str], why: str, browser: Client, api: APIClient
) -> None:
    make_subscriber_key(api)

    page = browser.post("/keys/", {"cap": "", "cap_per": "month", "models": "", **said})

    assert why in page.content.decode()
    assert SubscriberKey.objects.count() == 1


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        *[("500000", 500_000), ("50 万", 500_000), ("1.5M", 1_500_000), ("1,000,000", 1_000_000)],
        *[("２", None), ("1e9", None), ("-5", None), ("1.5万亿", 1_500_000_000_000), ("", None)],
    ],
)
def test_tokens_are_written_as_people_read_them(text: str, tokens: int | None) -> None:
    field = TokensField(required=False)
    if tokens is None and text:
        with pytest.raises(Exception, match=r"Write|请填写"):
            field.clean(text)
    else:
        assert field.clean(text) == (None if tokens is None else tokens * T)


def test_another_subscribers_keys_are_not_there(operator: Operator, api: APIClient) -> None:
    make_subscriber(operator, "s-1")
    made = make_subscriber_key(api)
    other = client_of(make_subscriber(operator, "s-2"))
    page = f"/keys/{made['id']}/"

    for path in (page, f"{page}revoke/", "/keys/999999999999999999999/"):
        assert other.get(path).status_code == 404, path
    for path in (page, f"{page}rotate/", f"{page}revoke/"):
        assert other.post(path, {"name": "x", "overlap": "0"}).status_code == 404, path
    assert made["name"] not in text_of(other, "/keys/")
    assert SubscriberKey.objects.get().revoked_at is None


def test_names_of_keys_are_shown_as_text(browser: Client, api: APIClient) -> None:
    made = make_subscriber_key(api, "<script>alert(1)</script>", models=["<b>*"])

    for path in ("/keys/", f"/keys/{made['id']}/", f"/keys/{made['id']}/revoke/"):
        page = text_of(browser, path)
        assert "<script>alert" not in page
        assert "<b>*" not in page


def test_pages_of_keys_take_few_queries_however_many_there_are(
    browser: Client, api: APIClient
) -> None:
    made = [make_subscriber_key(api, f"key {nr}") for nr in range(6)]
    post(api, f"subscribers/s-1/keys/{made[0]['id']}/rotate", {})
    text_of(browser, "/keys/")

    for path in ("/keys/", f"/keys/{made[0]['id']}/", f"/keys/{made[0]['id']}/revoke/"):
        with CaptureQueriesContext(connection) as caught:
            text_of(browser, path)
        assert len(caught) <= 12, (path, [one["sql"] for one in caught])
