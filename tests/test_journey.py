"""A newcomer's first month at a carrier, on the whole platform and in a browser."""

from __future__ import annotations

import datetime as dt
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pypdfium2
import pytest
from playwright.sync_api import Page

from config.serve import Platform
from tests.browser import DESKTOP, PHONE, Opener, Window
from tests.factories import local
from tests.running import eventually, manage

pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.timeout(900)]

# What a page, with all it loads, may weigh as it is sent.
HEAVIEST = 150_000
MILLION = 1_000_000


class Carrier:
    """A test operator that sells one plan and one booster, and its gateway."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        key = ("issue_key", "--operator", "ctcc-sh")
        self.operator, self.gateway = (
            httpx.Client(
                base_url=f"{platform.url}/api/v1/",
                headers={"Authorization": f"Bearer {manage(platform, *key, *more).strip()}"},
                timeout=200,
                trust_env=False,
            )
            for more in (
                ("--role", "operator", "--name", "crm", "--test"),
                ("--role", "gateway", "--name", "edge"),
            )
        )
        self.now = local(2026, 6, 5, 10)
        self.move(self.now)
        weights = dict.fromkeys(
            ("input", "cached_input", "cache_write", "output", "reasoning"), "1"
        )
        self.said(
            "PUT",
            "rate-cards/standard",
            effective_from="2026-01-01T00:00:00+08:00",
            weights=[{"model": "*", **weights}],
        )
        self.said(
            "PUT",
            "plans/light",
            name="轻享 Light",
            price="9.90",
            allowance="10000000",
            rate_card="standard",
        )
        self.said(
            "PUT",
            "boosters/b4",
            name="400 万 tokens",
            price="10.00",
            units="4000000",
            valid_days=90,
        )

    def said(self, method: str, path: str, **body: Any) -> Any:
        answer = self.operator.request(method, path, json=body or None)
        assert answer.is_success, answer.text
        return answer.json()

    def move(self, to: dt.datetime) -> None:
        """Turn the clock; all that falls due until then is done when it answers."""
        self.said("POST", "test-clock", now=to.isoformat())
        self.now = to

    def subject_of(self, phone: str) -> str:
        """What the gateway calls the subscriber with this number."""
        [found] = [
            one
            for one in self.said("GET", "subscribers?limit=100")["items"]
            if one["msisdn"].endswith(phone)
        ]
        return str(found["subjects"][0])

    def uses(self, subject: str, *millions: float) -> None:
        """An hour later the gateway tells of requests of so many million tokens, one for each."""
        self.move(self.now + dt.timedelta(hours=1))
        models = ("deepseek/deepseek-chat", "dashscope/qwen-plus", "zai/glm-4.6")
        records = [
            {
                "id": f"{subject}-{self.now:%m%d%H}-{nr}",
                "subject": subject,
                "model": models[nr % len(models)],
                "occurred_at": (self.now - dt.timedelta(minutes=nr)).isoformat(),
                "input_tokens": int(many * MILLION),
                "output_tokens": 0,
            }
            for nr, many in enumerate(millions)
        ]
        answer = self.gateway.post("usage-records", json=records)
        assert answer.json()["accepted"] == len(records), answer.text

    def texts(self, phone: str) -> list[str]:
        """The text messages to a number, as its phone shows them."""
        file = self.platform.data / "sms.txt"
        lines = file.read_text().splitlines() if file.exists() else []
        rows = [line.split("\t") for line in lines]
        return [text for number, _, text in rows if number.endswith(phone)]


@pytest.fixture(scope="module")
def carrier(platform: Platform) -> Iterator[Carrier]:
    carrier = Carrier(platform)
    yield carrier
    carrier.operator.close()
    carrier.gateway.close()


@dataclass(frozen=True, slots=True)
class Traveller:
    """Who looks, from where: the names of the pictures begin with `name`."""

    name: str
    phone: str
    # What the text message says of the 80 %.
    told: str
    look: dict[str, Any]


TRAVELLERS = (
    Traveller("phone-zh", "13800138000", "已用 80%", {"screen": PHONE, "language": "zh-CN"}),
    Traveller(
        "desktop-en",
        "13900139000",
        "80% of",
        {"screen": DESKTOP, "language": "en-GB", "colours": "dark"},
    ),
)


@pytest.mark.parametrize("who", TRAVELLERS, ids=lambda who: who.name)
def test_a_newcomer_lives_through_a_month(carrier: Carrier, window: Opener, who: Traveller) -> None:
    portal = window(carrier.platform.url, **who.look)
    page = portal.page

    # The tariff is there for everybody; who chooses a plan signs up first.
    portal.open("/plans/")
    sound(portal, who, "plans")
    page.locator("a[href^='/plans/light/']").click()
    page.locator("main a[href*='/signup/']").click()
    page.locator("main a[href*='/signup/phone/']").click()
    page.locator("input[name=phone]").fill(who.phone)
    portal.is_sound()
    page.locator("form:has(input[name=phone]) button[type=submit]").click()
    page.locator("input[name=code]").wait_for()
    portal.is_sound()
    page.locator("input[name=code]").fill(code_in(carrier.texts(who.phone)[-1]))
    page.locator("form:has(input[name=code]) button[type=submit]").first.click()

    # Back at the plan, which is bought and paid in an app.
    page.wait_for_url("**/plans/light/")
    sound(portal, who, "plan")
    page.locator("button[name=step]").click()
    pay(portal, window, who)
    portal.open("/")
    left(page, 10)

    # What the gateway tells is seen on the page that is open.
    page.evaluate("window.still = 'the same page'")
    subject = carrier.subject_of(who.phone)
    carrier.uses(subject, 0.9, 0.4, 0.2)
    left(page, 8.5)
    carrier.uses(subject, 3.1, 2.0, 1.5)
    left(page, 1.9)
    page.locator(".alert").filter(has_text=re.compile(r"80\s?%")).first.wait_for()
    eventually(lambda: any(who.told in text for text in carrier.texts(who.phone)))
    assert page.evaluate("window.still") == "the same page"
    portal.open("/")
    sound(portal, who, "home")

    page.locator("form[action='/boosters/b4/'] button").first.click()
    pay(portal, window, who)
    portal.open("/")
    left(page, 5.9)
    portal.open("/usage/")
    sound(portal, who, "usage")

    # The month closes, and its invoice is there.
    month = carrier.now
    carrier.move((month.replace(day=1) + dt.timedelta(days=35)).replace(day=5))
    portal.open("/invoices/")
    page.locator("main a[href^='/invoices/']").first.click()
    pdf = page.locator("a[href$='.pdf']").first
    pdf.wait_for()
    sound(portal, who, "invoice")
    document = page.request.get(str(pdf.get_attribute("href")))
    assert document.headers["content-type"] == "application/pdf"
    text = text_of(document.body())
    number = page.url.rstrip("/").rpartition("/")[2]
    assert number in text
    assert "9.90" in text

    weigh(window, portal, who)


def sound(portal: Window, who: Traveller, name: str) -> None:
    portal.page.wait_for_load_state("load")
    portal.is_sound()
    portal.picture(f"{who.name}-{name}")


def left(page: Page, millions: float) -> None:
    """Wait until the page says so."""
    page.locator(f".figure[data-figure='{int(millions * MILLION * 1000)}']").wait_for()


def pay(portal: Window, window: Opener, who: Traveller) -> None:
    """Choose an app; pay in it, on another device; the page notices by itself."""
    page = portal.page
    page.locator("button[name=way][value=wechat_pay]").click()
    link = page.locator("a[href*='/sandbox/']")
    link.wait_for()
    sound(portal, who, "pay")
    app = window(portal.url)
    app.open(str(link.get_attribute("href")))
    app.page.locator("button[name=do][value=pay]").click()
    page.get_by_role("heading", name=re.compile(r"^(已支付|Paid)$")).wait_for()
    portal.is_sound()


def weigh(window: Opener, portal: Window, who: Traveller) -> None:
    """A first view of each page, with all that it loads, as the server sends it."""
    kept: Any = portal.context.storage_state()
    for path in ("/", "/usage/", "/plans/", "/invoices/", "/accounts/"):
        first = window(portal.url, **who.look)
        first.context.add_cookies(kept["cookies"])
        sent: list[int] = []
        tools = first.context.new_cdp_session(first.page)
        tools.send("Network.enable")
        tools.on(
            "Network.loadingFinished",
            lambda said, sent=sent: sent.append(said["encodedDataLength"]),
        )
        first.open(path)
        first.page.wait_for_load_state("networkidle")
        assert len(sent) > 3, path
        assert sum(sent) <= HEAVIEST, (path, sent)
        first.context.close()


def code_in(text: str) -> str:
    found = re.search(r"[0-9A-Z]{3,}(?:-[0-9A-Z]{3,})?", text)
    assert found, text
    return found[0]


def text_of(pdf: bytes) -> str:
    document = pypdfium2.PdfDocument(io.BytesIO(pdf))
    return "".join(page.get_textpage().get_text_bounded() for page in document)
