"""The portal's pages about plans: conditions, comparison, the last month under each, receipts."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext

from billing import closing, receipts
from billing.models import Invoice, PlanReceipt
from metering import rollups
from subscriptions import clock
from subscriptions.models import Operator, Subscriber, Subscription
from tests.factories import (
    NOW,
    buckets_of,
    local,
    make_plan,
    make_subscriber,
    set_clock,
    subscribe,
    yuan,
)
from tests.payer import Browser
from tests.usage import Gateway, record
from tests.visiting import browser_of, client_of

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _this_portal(operator: Operator, settings: Any) -> None:
    settings.PORTAL_OPERATOR = operator.code


@pytest.fixture
def read(subscriber: Subscriber) -> Callable[[str], Browser]:
    """A page as the subscriber reads it."""
    return browser_of(subscriber).open


def key_of(subscriber: Subscriber) -> tuple[int, int]:
    return subscriber.pk, Subscription.objects.get(subscriber=subscriber).id


# What is said -------------------------------------------------------------------------------------


def test_every_condition_is_said_to_who_is_not_signed_in(operator: Operator) -> None:
    make_plan(
        operator,
        "full",
        name="Full",
        price=yuan("29.90"),
        allowance=40_000_000_000,
        on_exhaustion="meter",
        price_per_million="1.2",
        cap=yuan("20"),
        rollover="one_cycle",
        refund="unused",
        first_month="by_day",
        collect="before_period",
        requests_per_minute=60,
    )

    page = Browser(**{"accept-language": "en"}).open("/plans/")

    assert page.status == 200
    assert page.says("All conditions of Full", "a million more costs ¥1.2", "¥20.00 a period")
    assert page.says("stays good for one more period, and is used first", "before each period")
    assert page.says("price and tokens by the days that are left", "60 requests a minute")
    assert page.says("all back within 7 days if unused", "Tax included 6%", "errors of a model")
    assert page.says("A million of them ¥0.75", "What a token weighs: standard")


def test_two_to_four_plans_stand_side_by_side(operator: Operator, client: Client) -> None:
    for nr in range(1, 6):
        make_plan(operator, f"p{nr}", name=f"Plan {nr}", price=yuan(f"{nr}.00"))

    def columns(query: str) -> list[str]:
        text = client.get(f"/compare/{query}", headers={"accept-language": "en"}).content.decode()
        return re.findall(r'id="plan-\d"[^>]*>\s*(Plan \d)', text)

    assert columns("") == ["Plan 1", "Plan 2", "Plan 3"]
    assert columns("?plan=p5&plan=p1") == ["Plan 1", "Plan 5"]
    assert columns("?" + "&".join(f"plan=p{nr}" for nr in range(1, 6))) == [
        f"Plan {nr}" for nr in range(1, 5)
    ]
    assert columns("?plan=<b>") == []


def test_the_last_month_under_each_plan_is_what_the_bill_would_have_been(
    operator: Operator, subscriber: Subscriber, gateway: Gateway
) -> None:
    make_plan(operator, "big", name="Big", price=yuan("29.90"), allowance=40_000_000_000)
    meter = {"on_exhaustion": "meter", "price_per_million": "1", "allowance": 1_000_000_000}
    make_plan(operator, "meter", name="Meter", price=yuan("2.00"), **meter)
    twin = make_subscriber(operator, "s-2")
    subscribe(twin, make_plan(operator, "meter", name="Meter", price=yuan("2.00"), **meter))
    for subject in ("user-s-1", "user-s-2"):
        used = record(subject, subject=subject, input_tokens=12_000_000, output_tokens=0)
        gateway.charge(used)
    browser = browser_of(subscriber)
    assert browser.open("/plan/last-month/").says("No period of yours is over yet")

    rollups.fold(at=NOW)
    set_clock(operator, local(2026, 7, 3))
    closing.close_due(operator, at=clock.now(operator))

    bill = Invoice.objects.get(subscriber_id=twin.pk, state="open").gross
    assert bill == Decimal("13.00")
    assert browser.open("/plan/last-month/").says("You used 12 M tokens, for ¥9.90.")
    assert browser.says("Meter cheapest that covers it ¥13.00", "+¥3.10 against what it cost")
    assert browser.says("Light yours then ¥9.90", "2 M tokens would have been refused")


# What is done -------------------------------------------------------------------------------------


def test_a_plan_is_cancelled_in_a_click_with_a_receipt_that_opens_again(
    operator: Operator, subscriber: Subscriber
) -> None:
    make_plan(operator, "plus", name="Plus", price=yuan("29.90"), allowance=40_000_000_000)
    browser = browser_of(subscriber).open("/plan/")
    assert browser.says("The plan goes on to the end of its period, 30 Jun 2026.")
    client = client_of(subscriber)

    there = {client.post("/plans/cancel/")["Location"] for _ in range(2)}

    [receipt] = PlanReceipt.objects.all()
    assert there == {f"/plan/receipts/{receipt.number}/"}
    set_clock(operator, NOW.replace(hour=9))
    shown = browser.open(f"/plan/receipts/{receipt.number}/")
    assert shown.says("Plan cancelled", receipt.number, "10 Jun 2026, 12:00", "until 30 Jun 2026")
    assert browser.open("/plans/plus/").says("Light runs until 30 Jun 2026.")
    assert browser.buttons().isdisjoint({"begin", "upgrade", "next"})
    assert browser.open("/plan/").says("Ends 30 Jun 2026", "Go on after all", "Plan cancelled")
    browser.press("cancel", "0")
    assert browser.says("Plan kept", "Light goes on as before.")
    assert Subscription.objects.get().ends_at is None


def test_a_cheaper_plan_begins_with_the_next_period_on_the_day_that_was_said(
    operator: Operator, subscriber: Subscriber
) -> None:
    make_plan(operator, "small", name="Small", price=yuan("4.90"), allowance=3_000_000_000)
    browser = browser_of(subscriber).open("/plans/small/")
    assert browser.says("Begins on 1 Jul 2026.", "from then on it is ¥4.90 a period")

    browser.press("step", "next")

    assert browser.says("Small begins on 1 Jul 2026, for ¥4.90 a period.", "Light → Small")
    assert browser.open("/plan/").says("After it Small", "Stay with Light")
    browser.press("cancel", "0")
    assert Subscription.objects.get().next_plan is None


def test_an_upgrade_costs_what_was_shown_or_is_shown_again(
    operator: Operator, subscriber: Subscriber
) -> None:
    make_plan(operator, "plus", name="Plus", price=yuan("29.90"), allowance=40_000_000_000)
    browser = browser_of(subscriber).open("/plans/plus/")
    assert browser.says("21 M more tokens at once, ¥14.00 more", "For the 21 days left")

    set_clock(operator, local(2026, 6, 11, 12))
    browser.press("step", "upgrade")
    assert browser.says("This is not what you saw before.", "¥13.33 more", "For the 20 days left")
    assert Subscription.objects.get().plan.code == "light"
    browser.press("step", "upgrade")

    assert browser.says("Plan upgraded", "¥13.33", "20 M", "until 30 Jun 2026")
    assert sum(one.granted or 0 for one in buckets_of(subscriber)) == 30_000_000_000


def test_a_plan_that_allows_it_is_paused_and_goes_on(operator: Operator) -> None:
    make_plan(operator, "keep", name="Keep", price=yuan("1.00"), allowance=0, suspends=True)
    subscriber = make_subscriber(operator, "s-2")
    subscribe(subscriber, make_plan(operator, "pausable", name="Pausable", pause_plan="keep"))
    browser = browser_of(subscriber).open("/plan/")
    assert browser.says("From 1 Jul 2026 on you pay ¥1.00 a period and use nothing")
    client = client_of(subscriber)

    receipt = browser.open(client.post("/plan/pause/")["Location"])

    assert receipt.says("Plan paused", "Pausable pauses from 1 Jul 2026 on, for ¥1.00 a period.")
    assert browser.open("/plan/").says("It is paused", "End the pause")
    assert browser.open(client.post("/plan/resume/")["Location"]).says("Pausable goes on.")


def test_what_cannot_be_done_is_said_and_leaves_no_receipt(
    operator: Operator, subscriber: Subscriber
) -> None:
    client = client_of(subscriber)

    assert "cannot be paused" in client.post("/plan/pause/", follow=True).content.decode()
    assert not PlanReceipt.objects.exists()
    stranger = client_of(make_subscriber(operator, "s-9"))
    for path in ("/plans/cancel/", "/plan/pause/", "/plan/resume/"):
        assert stranger.post(path).status_code == 404


def test_a_receipt_is_its_subscribers_and_never_changes(
    operator: Operator, subscriber: Subscriber
) -> None:
    made = receipts.cancel(operator, key_of(subscriber), channel="portal", at=NOW)
    stranger = client_of(make_subscriber(operator, "s-2"))

    assert stranger.get(f"/plan/receipts/{made.number}/").status_code == 404
    assert client_of(subscriber).get("/plan/receipts/%3Cb%3E/").status_code == 404
    for change in (
        lambda: PlanReceipt.objects.update(channel="x"),
        lambda: PlanReceipt.objects.all().delete(),
    ):
        with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
            change()


# To whom, and what it costs -----------------------------------------------------------------------

OWN = ["/plan/", "/plan/last-month/", "/plans/light/"]


@pytest.mark.parametrize("path", OWN)
def test_a_page_of_ones_plan_asks_to_sign_in(client: Client, path: str) -> None:
    assert client.get(path)["Location"] == f"/accounts/login/?next={path.replace('/', '%2F')}"
    client.cookies["sessionid"] = "gone"
    assert client.get(path)["Location"].endswith("&ended=1")


def test_pages_of_plans_ask_the_database_at_most_twelve_times(
    operator: Operator, subscriber: Subscriber, gateway: Gateway
) -> None:
    for nr in range(6):
        make_plan(operator, f"p{nr}", price=yuan(f"{nr + 1}.00"))
    gateway.charge(record("r", subject="user-s-1", input_tokens=12_000_000, output_tokens=0))
    rollups.fold(at=NOW)
    set_clock(operator, local(2026, 7, 3))
    receipt = receipts.cancel(
        operator, key_of(subscriber), channel="portal", at=clock.now(operator)
    )
    client = client_of(subscriber)

    for path in (*OWN, "/plans/", "/compare/", f"/plan/receipts/{receipt.number}/"):
        client.get(path)
        with CaptureQueriesContext(connection) as asked:
            assert client.get(path).status_code == 200
        assert len(asked) <= 12, (path, [query["sql"][:110] for query in asked])
        chinese = client.get(path, headers={"accept-language": "zh-hans"})
        assert chinese.status_code == 200
