"""The console's pages of work in a browser: somebody works there, and anybody can read them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings as configured
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from billing.console.inline import Inline
from metering import usage_windows
from subscriptions.console.doors import Visit
from subscriptions.console.lists import List, Row
from subscriptions.console.site import site
from subscriptions.models import Operator, Role, Subscriber
from tests.browser import DESKTOP, PHONE, Opener, Window
from tests.carrier import NOW as NOW_OF_CARRIER
from tests.carrier import Carrier, carrier
from tests.console import at_work, hire
from tests.factories import NOW
from tests.test_console_work import address, window_of
from tests.usage import HOUR, Gateway, record

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.xdist_group("browser")]


@pytest.fixture(autouse=True)
def _counted_apart(settings: Any, operator: Operator) -> Iterator[None]:
    settings.PORTAL_OPERATOR = operator.code
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    cache.clear()
    yield
    cache.clear()


def work(window: Opener, url: str, operator: Operator, role: str, **look: Any) -> Window:
    """Somebody of a role at work, in a browser of their own."""
    opened = window(url, **look)
    client = at_work(Client(), hire(operator, role))
    session = client.cookies[configured.SESSION_COOKIE_NAME]
    opened.context.add_cookies([{"name": session.key, "value": session.value, "url": url}])
    return opened


def test_operations_reconciles_a_window_with_missing_records(
    live_server: Any, window: Opener, operator: Operator, subscriber: Subscriber
) -> None:
    """Found in the list, asked for, sent again by the gateway, compared: closed by itself."""
    sender = Gateway(operator)
    found = window_of(operator, sender)
    desk = work(window, live_server.url, operator, Role.OPERATIONS, screen=DESKTOP)
    page = desk.open("/admin/windows/")
    page.locator(".work-table tbody a").first.click()
    page.get_by_role("heading", name="未到达的序号").wait_for()
    assert page.locator(".work-code").first.inner_text().strip() == "2"
    page.get_by_role("link", name="要求补发").click()
    page.get_by_label("原因").fill("the disk of edge-1 was full")
    page.get_by_role("button", name="要求补发").click()
    page.get_by_text("已要求网关补发").first.wait_for()

    told = usage_windows.find(operator.pk, found.pk)
    assert told.asked_reason == "the disk of edge-1 was full"
    sender.charge(
        record(
            "w-2",
            occurred_at=NOW - HOUR,
            input_tokens=10,
            output_tokens=0,
            attributes={"sequence": 2},
        )
    )
    page.get_by_role("button", name="立即核对").click()

    page.locator(".work-badge", has_text="已结束").first.wait_for()
    assert usage_windows.find(operator.pk, found.pk).state == "closed"
    assert desk.complaints == []


LOOKS: tuple[dict[str, Any], ...] = (
    {"screen": DESKTOP, "language": "zh-CN", "colours": "light"},
    {"screen": DESKTOP, "language": "en-GB", "colours": "dark"},
    {"screen": PHONE, "language": "zh-CN", "colours": "light"},
)
# What is no page to look at: files, and what only does something.
NO_PAGES = {"export_file", "import_result", "stop_looking", "logout"}
# What is shown in the documentation.
SHOWN = {
    *("index", "subscriber", "plan_version", "billing_run", "approval", "gateways"),
    "complaints",
}


def addresses(found: Carrier) -> Iterator[tuple[str, str]]:
    """Every page of the console with something on it, by its name."""
    visit = Visit(hire(found.operator, Role.PLATFORM), NOW_OF_CARRIER, None)
    for name, page in sorted(site.pages.items()):
        if name in NO_PAGES or issubclass(page, Inline):
            continue
        if issubclass(page, Row):
            lister = page.of()
            lister.visit = visit
            row = lister.rows().first()
            if row is not None:
                yield name, address(name, page.of.key_of(row))
            continue
        of = re.findall(r"<\w+:(\w+)>", page.address)
        path = reverse(f"admin:{name}", kwargs={one: found.of[one] for one in of})
        narrow = issubclass(page, List) and page.narrow
        yield name, f"{path}?subscriber={found.of['subscriber_id']}" if narrow else path
    draft, card = found.of["draft_id"], found.of["card_id"]
    yield "plan_version", address("plan_version", draft) + "?month=2026-06#rehearsal"
    yield "card_version", address("plan_version", card) + "?month=2026-06"
    yield "next_plan", address("plan_draft") + "?code=light"
    yield "next_card", address("card_draft") + "?code=standard"
    yield "found", address("find_subscriber") + "?q=13918"


# Of a page; a rehearsal beside it reads a month.
MOST_QUERIES, MOST_OF_A_REHEARSAL = 15, 24


def asked_too_often(client: Client, found: Carrier) -> Iterator[tuple[str, object]]:
    client.get("/admin/")
    for _name, path in addresses(found):
        with CaptureQueriesContext(connection) as asked:
            client.get(path)
        if len(asked) > (MOST_OF_A_REHEARSAL if "?month=" in path else MOST_QUERIES):
            yield path, [query["sql"][:150] for query in asked]


@pytest.mark.timeout(3600)
def test_every_page_of_the_console_is_sound(
    live_server: Any, window: Opener, settings: Any
) -> None:
    """Of a carrier at work: none asks the database too often, none is wider than its screen, and
    none has a fault that is found."""
    found = carrier()
    settings.PORTAL_OPERATOR = found.operator.code
    client = at_work(Client(), hire(found.operator, Role.PLATFORM))
    wrong = list(asked_too_often(client, found))
    for look in LOOKS:
        desk = work(window, live_server.url, found.operator, Role.PLATFORM, **look)
        for name, path in addresses(found):
            page = desk.open(path)
            if look is LOOKS[0] and name in SHOWN:
                desk.picture(f"console-{name.replace('_', '-')}")
            wide, room = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
            if wide > room:
                wrong.append((path, f"{wide} wide on a screen of {room}"))
            wrong += [(path, one) for one in (*desk.findings(), *desk.complaints)]
            desk.complaints.clear()
    assert not wrong
