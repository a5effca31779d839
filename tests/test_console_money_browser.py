"""The console's pages of money in a browser: three pieces of work, and anybody can read them."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from django.core.cache import cache

from billing import closing, corrections
from billing.models import CloseChunk, Invoice
from subscriptions import catalog
from subscriptions.models import Bucket, Operator, Role, Subscriber
from tests.browser import DESKTOP, Opener
from tests.factories import (
    NOW,
    local,
    make_plan,
    make_subscriber,
    set_clock,
    subscribe,
    yuan,
)
from tests.test_console_browser import work
from tests.usage import DAY, Gateway, record

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.xdist_group("browser")]
ENGLISH: dict[str, Any] = {"screen": DESKTOP, "language": "en-GB"}
CLOSE = local(2026, 7, 10)


@pytest.fixture(autouse=True)
def _counted_apart(settings: Any, operator: Operator) -> Iterator[None]:
    settings.PORTAL_OPERATOR = operator.code
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    cache.clear()
    rules = corrections.Rules(Decimal("5.00"), units_limit=1_000_000, prices_by_two=True)
    corrections.set_rules(operator, rules, by="boss", at=NOW - DAY)
    yield
    cache.clear()


def test_a_product_manager_drafts_rehearses_and_gets_a_plan_approved(
    live_server: Any, window: Opener, operator: Operator, subscriber: Subscriber
) -> None:
    Gateway(operator).charge(record("a", input_tokens=11_000_000, output_tokens=0))
    set_clock(operator, CLOSE)
    desk = work(window, live_server.url, operator, Role.PRODUCT, **ENGLISH)
    page = desk.open("/admin/plan-builder/")
    on_sale = page.get_by_role("region", name="On sale")
    on_sale.get_by_role("link", name="Draft the next version").click()
    page.get_by_label("Price *", exact=True).fill("8.80")
    page.get_by_role("button", name="Keep the draft").click()
    page.get_by_text("Price: 9.90 CNY → 8.80 CNY").wait_for()
    page.get_by_role("button", name="Rehearse").click()
    page.get_by_role("cell", name="s-1").first.wait_for()
    page.get_by_label("Reason").fill("cheaper for the summer")
    page.get_by_role("button", name="Ask for approval").click()
    page.get_by_text("Waits for approval").wait_for()

    other = work(window, live_server.url, operator, Role.FINANCE, **ENGLISH)
    theirs = other.open("/admin/approvals/")
    theirs.get_by_role("link", name="Version of prices").click()
    theirs.get_by_text("Price: 9.90 CNY → 8.80 CNY").wait_for()
    theirs.get_by_label("Reason of your decision").fill("fine with me")
    theirs.get_by_role("button", name="Approve").click()
    theirs.get_by_text("fine with me").wait_for()

    page.reload()
    page.get_by_role("button", name="Schedule").click()
    page.get_by_text("It is on sale now.").wait_for()
    assert catalog.plan_on_sale(operator.pk, "light").price == yuan("8.80")
    assert desk.complaints + other.complaints == []


def test_an_agent_gives_above_the_limit_and_is_asked_for_approval(
    live_server: Any, window: Opener, operator: Operator, subscriber: Subscriber
) -> None:
    desk = work(window, live_server.url, operator, Role.AGENT, **ENGLISH)
    page = desk.open(f"/admin/subscriber/{subscriber.pk}/give/")
    page.get_by_label("Tokens").fill("2000")
    page.get_by_label("Last day").fill("2026-06-20")
    page.get_by_label("Reason").fill("a long outage")
    page.get_by_role("button", name="Give").click()
    page.get_by_text("another person has to approve it").first.wait_for()
    assert not Bucket.objects.filter(kind="gift").exists()

    other = work(window, live_server.url, operator, Role.FINANCE, **ENGLISH)
    theirs = other.open("/admin/approvals/")
    theirs.get_by_role("link", name="Units given by hand").click()
    theirs.get_by_label("Reason of your decision").fill("they waited for hours")
    theirs.get_by_role("button", name="Approve").click()
    theirs.get_by_text("they waited for hours").wait_for()

    assert Bucket.objects.get(kind="gift").granted == 2_000_000
    assert desk.complaints + other.complaints == []


def test_finance_runs_a_close_sees_one_failure_mends_it_and_retries(
    live_server: Any, window: Opener, operator: Operator
) -> None:
    plan = make_plan(operator)
    for name in ("s-1", "s-2"):
        subscribe(make_subscriber(operator, name), plan)
    set_clock(operator, CLOSE)
    bad = Subscriber.objects.get(external_id="s-2").pk
    CloseChunk.objects.create(
        operator=operator,
        ended_by=CLOSE - 2 * DAY,
        first_subscriber=bad,
        last_subscriber=bad,
        periods=1,
        state="failed",
        reason="a plan that makes no sense",
        planned_at=CLOSE,
    )
    desk = work(window, live_server.url, operator, Role.FINANCE, **ENGLISH)
    page = desk.open("/admin/billing-run/")
    page.get_by_role("button", name="Start").click()
    page.get_by_text("1 part waits.").wait_for()
    closing.close_next(operator, at=CLOSE)  # as a worker does
    page.reload()
    page.get_by_text("a plan that makes no sense").wait_for()
    assert Invoice.objects.count() == 1

    page.get_by_role("button", name="Retry", exact=True).click()
    page.get_by_text("1 customer is tried again.").wait_for()
    closing.close_next(operator, at=CLOSE)
    page.reload()

    page.get_by_text("receivable").first.wait_for()
    assert page.get_by_text("a plan that makes no sense").count() == 0
    assert Invoice.objects.count() == 2
    assert desk.complaints == []
