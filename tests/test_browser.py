"""The portal in a browser: what is live there, and that anybody can read each of its pages."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.core.cache import cache
from django.core.management import call_command
from django.test import Client, override_settings
from django.urls import reverse
from playwright.sync_api import Page
from pytest_django.live_server_helper import LiveServer

from billing.checkout import links
from billing.models import Order, PaymentIntent
from subscriptions import clock
from subscriptions.users import closing
from tests.browser import DESKTOP, PHONE, Opener, Window
from tests.factories import make_subscriber
from tests.lively import PASSWORD, Account, lively, sees
from tests.portal_walk import walk
from tests.running import PATIENCE
from tests.usage import Gateway, record

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.xdist_group("browser"),
    pytest.mark.timeout(900),
]

LOOKS: dict[str, dict[str, Any]] = {
    "phone": {"screen": PHONE, "language": "zh-CN", "colours": "light"},
    "desktop": {"screen": DESKTOP, "language": "en-GB", "colours": "dark"},
}
looks = pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
PHONE_NUMBER = "+8613800138000"


@dataclass(frozen=True, slots=True)
class Portal:
    """A portal that is served, with an account in which there is some of everything, and one that
    is new. `pages` are the addresses of all pages that are met there, by who meets them."""

    url: str
    account: Account
    newcomer: Account
    pages: dict[str, list[str]]

    def client(self, who: str) -> Client:
        """Somebody's session, begun with the password; `nobody` has none."""
        client = Client()
        if who == "nobody":
            return client
        account = self.newcomer if who == "newcomer" else self.account
        invited, member = self.account.others
        user = {"invited": invited, "member": member}.get(who, account.user)
        cache.clear()
        client.post("/accounts/login/", {"login": user.email, "password": PASSWORD})
        return client

    def waiting(self) -> str:
        """The page of an order that waits to be paid in an app."""
        order = Order.objects.get(number=self.account.orders[-1])
        intents = PaymentIntent.objects.filter(subscriber_id=order.subscriber_id, order_id=order.id)
        return links.pay_path(intents.get())

    def enter(self, window: Window, who: str) -> Window:
        if who != "nobody":
            window.enter(self.client(who))
        return window


@pytest.fixture
def _django_db_helper() -> None:
    """pytest-django's would empty the database after each test; here `portal` does at the end."""


@pytest.fixture(scope="module")
def portal(django_db_setup: None, django_db_blocker: Any) -> Iterator[Portal]:
    """Made once for all tests of this file, none of which changes what another one reads."""
    changed = override_settings(
        PORTAL_OPERATOR="op",
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
        CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
        ACCOUNT_REAUTHENTICATION_TIMEOUT=3600,
    )
    with django_db_blocker.unblock(), changed:
        cache.clear()
        server = LiveServer("localhost")
        try:
            yield made(server.url)
        finally:
            server.stop()
            # What still answers is done before its database is emptied.
            for thread in threading.enumerate():
                if "process_request_thread" in thread.name:
                    thread.join(PATIENCE)
            # Ids go on: a process remembers whom it met by them.
            call_command("flush", verbosity=0, interactive=False, reset_sequences=False)


def made(url: str) -> Portal:
    account = lively()
    new = make_subscriber(account.operator, "s-9")
    newcomer = Account(account.operator, new, sees(new), (), ())
    portal = Portal(url, account, newcomer, {})
    pays = [links.pay_path(intent) for intent in PaymentIntent.objects.all()]
    pays += [urlsplit(links.return_url(order)).path for order in Order.objects.all()]
    apps = [
        urlsplit(intent.action["url"]).path
        for intent in PaymentIntent.objects.all()
        if "/sandbox/" in intent.action.get("url", "")
    ]
    orders = [reverse("portal_order", args=[number]) for number in account.orders]
    starts = {
        "subscriber": ["/", *orders, *pays, *apps],
        "newcomer": ["/"],
        "member": ["/family/"],
        "invited": ["/family/"],
        "nobody": ["/accounts/login/", "/accounts/password/reset/", "/plans/", "/help/"],
    }
    known = set()
    for who, begin in starts.items():
        portal.pages[who] = []
        for path, page in walk(portal.client(who), *begin).items():
            if not page.reading or not page.reading.whole or page.answer.status_code != 200:
                continue
            # What says the same to several people is looked at once.
            says = (page.name, *page.reading.text)
            if says not in known:
                known.add(says)
                portal.pages[who].append(path)
    return portal


# Each page ----------------------------------------------------------------------------------------


@looks
@pytest.mark.parametrize("who", ["subscriber", "newcomer", "member", "invited", "nobody"])
def test_every_page_is_sound(portal: Portal, window: Opener, who: str, look: Any) -> None:
    opened = portal.enter(window(portal.url, **look), who)
    wrong: dict[str, list[str]] = {}
    for path in portal.pages[who]:
        opened.open(path)
        opened.picture(f"{who}{re.sub('[^a-z0-9]+', '-', path)}{name_of(look)}", whole=True)
        if found := opened.wrong():
            wrong[path] = found
    assert not wrong, "\n".join(f"{path}: {one}" for path in wrong for one in wrong[path])


def name_of(look: Any) -> str:
    return next(name for name, known in LOOKS.items() if known == look)


@pytest.mark.parametrize("who", ["subscriber", "newcomer", "nobody"])
def test_every_page_reads_the_same_without_scripts(
    portal: Portal, window: Opener, who: str
) -> None:
    """What a script has to show would be missing; a chart has its table."""
    with_scripts, without = window(portal.url), window(portal.url, scripts=False)
    if who != "nobody":
        client = portal.client(who)
        with_scripts.enter(client)
        without.enter(client)
    for path in portal.pages[who]:
        read = [words_of(one.open(path)) for one in (with_scripts, without)]
        assert read[0] == read[1], path
        bare = without.page.locator("section:has(svg.chart):not(:has(table))")
        assert bare.count() == 0, path


def words_of(page: Page) -> str:
    """What stands in a page to be read, without how much time is left to pay and what only a script
    can do."""
    page.evaluate(
        "document.querySelectorAll('button, noscript, [data-counter]').forEach(one => one.remove())"
    )
    return re.sub(r"\d+:\d\d:\d\d", "", page.locator("main").inner_text())


# What the README shows: which page, of whom, and on which screen.
PICTURES = {
    "home": ("/", "phone"),
    "usage": ("/usage/", "desktop"),
    "plans": ("/plans/", "desktop"),
    "plan": ("/plans/plus/", "phone"),
    "pay": ("pay", "phone"),
    "invoice": ("/invoices/OP-2026-00000002/", "phone"),
    "family": ("/family/", "desktop"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_of_the_readme_is_small(portal: Portal, window: Opener, name: str) -> None:
    path, screen = PICTURES[name]
    opened = portal.enter(window(portal.url, **LOOKS[screen]), "subscriber")
    opened.open(portal.waiting() if path == "pay" else path)

    opened.picture(f"portal-{name}")

    assert len(opened.page.screenshot(animations="disabled")) <= 150_000


# What goes wrong ----------------------------------------------------------------------------------


@looks
def test_what_goes_wrong_is_a_page_of_its_own(portal: Portal, window: Opener, look: Any) -> None:
    opened = portal.enter(window(portal.url, **look), "subscriber")
    page = opened.page

    page.goto("/invoices/NO-1/")
    errs(opened, 404, "页面不存在", "nothing here")

    # A form that was open since before its session ended.
    page.route("**/plans/cancel/", lambda route: route.continue_(method="POST", post_data="x=1"))
    page.goto("/plans/cancel/")
    errs(opened, 403, "登录已失效", "session ended")

    cache.clear()
    for _ in range(2):
        opened.context.clear_cookies()
        page.goto("/accounts/signup/phone/")
        page.locator("input[name=phone]").fill(PHONE_NUMBER)
        page.locator("form:has(input[name=phone]) button[type=submit]").click()
        page.wait_for_load_state()
    errs(opened, 429, "操作过于频繁", "Too many")
    cache.clear()


def errs(opened: Window, status: int, *titles: str) -> None:
    """The page says so, in either language, and is as sound as any other."""
    said = opened.page.locator("main").inner_text()
    assert str(status) in said
    assert any(title in said for title in titles), said
    wrong = opened.wrong()
    assert [one for one in wrong if f"status of {status}" not in one] == []


@looks
def test_a_session_that_ended_is_said_on_the_page_that_is_open(
    portal: Portal, window: Opener, look: Any
) -> None:
    opened = portal.enter(window(portal.url, **look), "newcomer")
    page = opened.open("/usage/?by=hour")

    closing.end_sessions(portal.newcomer.user)
    page.evaluate("htmx.trigger(document.querySelector('[data-live]'), 'seen')")

    page.get_by_role("heading", name=re.compile("登录已失效|Your session ended")).wait_for()
    assert [one for one in opened.wrong() if "status of 401" not in one] == []
    page.locator("input[name=login]").fill(portal.newcomer.user.email)
    page.locator("input[name=password]").fill(PASSWORD)
    page.locator("form:has(input[name=password]) button[type=submit]").click()
    page.wait_for_url("**/usage/?by=hour")


# Codes that are asked for -------------------------------------------------------------------------


@looks
def test_a_page_that_waits_for_a_code_is_sound(portal: Portal, window: Opener, look: Any) -> None:
    cache.clear()
    email = {"email": "new@example.com", "password1": PASSWORD}
    asked = {
        "/accounts/phone/verify/": ("/accounts/signup/phone/", {"phone": "13700137000"}),
        "/accounts/confirm-email/": ("/accounts/signup/", email),
        "/accounts/login/code/confirm/": ("/accounts/login/code/", {"phone": "13600136000"}),
        "/accounts/password/reset/confirm/": ("/accounts/password/reset/", email),
    }
    for path, (door, sent) in asked.items():
        client = Client()
        client.post(door, sent)
        opened = window(portal.url, **look)
        opened.enter(client)
        page = opened.open(path)
        opened.picture(f"code{path.replace('/', '-')}{name_of(look)}")
        assert urlsplit(page.url).path == path
        assert page.locator("input[name=code]").is_visible()
        opened.is_sound()
    cache.clear()


# By keyboard --------------------------------------------------------------------------------------

# What can be used with a mouse, in the order in which it is written.
_REACHABLE = """
() => [...document.querySelectorAll(
    'a[href], button, input, select, textarea, summary, [tabindex]')]
  .filter(one => one.tabIndex >= 0 && !one.disabled && one.type !== 'hidden'
    && one.checkVisibility({checkVisibilityCSS: true}))
  .map((one, nr) => { one.dataset.nr = nr; return one.outerHTML.slice(0, 200) })
"""
# Where the focus is: its number, whether it is drawn, and whether it lies under something.
_FOCUS = """
() => {
  const one = document.activeElement, style = getComputedStyle(one);
  const box = one.getBoundingClientRect();
  const x = box.left + Math.min(box.width, 40) / 2, y = box.top + Math.min(box.height, 20) / 2;
  const there = document.elementFromPoint(x, y);
  return {
    nr: Number(one.dataset.nr ?? -1),
    drawn: style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2,
    seen: !!there && (one.contains(there) || there.contains(one)),
  }
}
"""


@looks
@pytest.mark.parametrize("path", ["/", "/usage/", "/plans/", "pay"])
def test_the_keyboard_reaches_all_and_the_focus_is_seen(
    portal: Portal, window: Opener, path: str, look: Any
) -> None:
    opened = portal.enter(window(portal.url, **look), "subscriber")
    page = opened.open(portal.waiting() if path == "pay" else path)
    reachable = page.evaluate(_REACHABLE)
    assert len(reachable) > 8

    for nr, one in enumerate(reachable):
        page.keyboard.press("Tab")
        focus = page.evaluate(_FOCUS)
        # A date is several steps.
        while focus["nr"] == nr - 1 and "date" in reachable[nr - 1]:
            page.keyboard.press("Tab")
            focus = page.evaluate(_FOCUS)
        assert focus == {"nr": nr, "drawn": True, "seen": True}, one


@looks
def test_the_first_step_leads_past_the_navigation(
    portal: Portal, window: Opener, look: Any
) -> None:
    page = portal.enter(window(portal.url, **look), "subscriber").open("/plans/")

    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")

    assert page.evaluate("document.activeElement.closest('main') !== null")


# What is live -------------------------------------------------------------------------------------


def test_the_figure_falls_without_a_reload(portal: Portal, window: Opener) -> None:
    opened = portal.enter(window(portal.url), "subscriber")
    page = opened.open("/")
    figure = page.locator(".figure")
    before = int(figure.get_attribute("data-figure") or 0)

    operator = portal.account.operator
    Gateway(operator).charge(
        record(
            "live",
            subject="user-s-1",
            occurred_at=clock.now(operator),
            input_tokens=10_000,
            output_tokens=0,
        )
    )

    page.locator(f".figure[data-figure='{before - 10_000_000}']").wait_for()
    assert opened.complaints == []


@looks
def test_the_tokens_of_a_text_are_counted_on_the_device(
    portal: Portal, window: Opener, look: Any
) -> None:
    opened = portal.enter(window(portal.url, **look), "subscriber")
    sent: list[str] = []
    opened.page.on("request", lambda request: sent.append(request.url))
    page = opened.open("/help/")
    assert not [url for url in sent if "deepseek" in url]

    counted = page.locator("[data-counter] [role=status]")
    page.locator("#counted-text").fill("Hello, world!")
    page.locator("[data-counter] button").click()
    counted.filter(has_text="13").wait_for()
    assert "4" in counted.inner_text()
    page.locator("#counted-text").fill("你好，世界。今天天气怎么样？")
    counted.filter(has_text="14").wait_for()

    assert "8" in counted.inner_text()
    assert not [url for url in sent if "Hello" in url]
    assert opened.wrong() == []
