"""The page of alerts and safety: what it says holds, and what it lets change."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from subscriptions.models import (
    Guard,
    NoticePreference,
    Operator,
    SafetyStep,
    Subscriber,
    UsageAlert,
)
from tests.factories import NOW
from tests.usage import T, put
from tests.visiting import client_of

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _this_portal(operator: Operator, settings: Any) -> None:
    settings.PORTAL_OPERATOR = operator.code


@pytest.fixture
def browser(subscriber: Subscriber) -> Client:
    return client_of(subscriber)


def after(browser: Client, what: str, **said: str) -> str:
    """The page, once this was sent."""
    answer = browser.post(f"/safety/{what}/", said, follow=True)
    assert answer.status_code == 200
    return answer.content.decode()


def test_each_says_what_holds_and_what_was_changed(browser: Client) -> None:
    page = browser.get("/safety/").content.decode()
    assert "You have not chosen" in page
    assert "Nothing yet." in page

    page = after(browser, "night", begins="22:30", ends="06:00")
    assert "From 22:30 until 06:00 every request is refused." in page
    assert "Night lock from 22:30 until 06:00" in page
    page = after(browser, "alerts", percents="30, 90%", left="50 万")
    assert "at the lines below" in page
    page = after(browser, "overage", ceiling="20", agreed="on")
    assert "You agreed on 10 Jun 2026: beyond your tokens you pay at most ¥20.00 a month." in page

    guard = Guard.objects.get()
    assert (f"{guard.night_from:%H:%M}", guard.overage) == ("22:30", "agreed")
    lines = UsageAlert.objects.order_by("kind", "value").values_list("kind", "value")
    assert list(lines) == [("left", 500_000 * T), ("percent", 30), ("percent", 90)]
    consent = SafetyStep.objects.get(kind="overage")
    assert consent.terms["text"].startswith("When my tokens are used up I want to go on")
    assert (consent.by, consent.terms["language"], consent.at) == ("portal", "en", NOW)
    page = after(browser, "overage", decline="1")
    assert "You declined" in page
    assert "Lift the lock" not in after(browser, "night", lift="1")


@pytest.mark.parametrize(
    ("what", "said", "why"),
    [
        ("night", {"begins": "25:00", "ends": "06:00"}, "Enter a valid time."),
        ("night", {"begins": "06:00", "ends": "06:00"}, "make no sense together"),
        ("alerts", {"percents": "30 x", "left": ""}, "Write numbers from 1 to 100."),
        ("alerts", {"percents": "", "left": "lots"}, "Write a number of tokens"),
        ("overage", {"ceiling": "5.00"}, "Tick this to agree."),
        ("overage", {"ceiling": "-1", "agreed": "on"}, "greater than or equal to 0.01"),
    ],
)
def test_what_cannot_be_is_said_and_changes_nothing(
    what: str, said: dict[str, str], why: str, browser: Client
) -> None:
    assert why in after(browser, what, **said)
    assert not SafetyStep.objects.exists()


def test_a_minor_sees_its_limits_and_changes_none_of_them(
    browser: Client, subscriber: Subscriber, api: APIClient
) -> None:
    terms = {"guardian": "G", "agreed_at": NOW.isoformat(), "evidence": "form 7"}
    caps = {"units_a_day": "100000", "amount_an_order": "20.00"}
    answer = put(api, "subscribers/s-1/safety/minor", {"minor": terms | caps})
    assert answer.status_code == 200, answer.content

    page = browser.get("/safety/").content.decode()

    assert "100,000 tokens a day at most." in page
    assert "¥20.00 an order at most." in page
    assert "form 7" not in page
    for what, said in (("overage", {"agreed": "on"}), ("night", {"lift": "1"})):
        assert "Your guardian settles that" in after(browser, what, **said)
    assert SafetyStep.objects.count() == 1


def test_notices_are_chosen_by_channel_and_required_ones_stay(browser: Client) -> None:
    page = after(browser, "notices", **{"bucket.threshold:email": "on", "usage.alert:sms": "on"})

    assert "Your choice is kept." in page
    said = NoticePreference.objects.values_list("kind", "channel", "wanted")
    assert ("bucket.threshold", "sms", False) in said
    assert not [row for row in said if row[2] or row[0] == "overage.started"]


def test_the_page_takes_few_queries(browser: Client) -> None:
    after(browser, "night", begins="22:30", ends="06:00")
    after(browser, "alerts", percents="30 60 90", left="5")

    with CaptureQueriesContext(connection) as caught:
        assert browser.get("/safety/").status_code == 200

    assert len(caught) <= 12, [one["sql"] for one in caught]
