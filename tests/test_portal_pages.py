"""What every page has: policies, errors, look, language; and what the API does not have."""

from __future__ import annotations

import datetime as dt
import gzip
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.template.loader import render_to_string
from django.test import Client, RequestFactory
from django.utils import timezone, translation
from djmoney.money import Money

from config import messages, pages
from subscriptions.templatetags import figures
from tests.factories import SHANGHAI, local

TEMPLATES = Path(settings.BASE_DIR) / "templates"

# Policies -----------------------------------------------------------------------------------------


def test_a_page_runs_only_what_the_platform_serves(client: Client) -> None:
    page = client.get("/nothing")

    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "style-src 'self';" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert page.headers["X-Frame-Options"] == "DENY"
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert page.headers["Referrer-Policy"] == "same-origin"


def test_the_page_of_the_api_has_a_policy_of_its_own_and_no_script_in_it(client: Client) -> None:
    page = client.get("/api/docs/")

    assert "script-src 'self';" in page.headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]
    assert re.findall(r"<script(?![^>]*\bsrc=)", page.content.decode()) == []
    script = client.get("/api/docs/?script=")
    assert script.headers["Content-Type"] == "application/javascript"


INLINE = re.compile(
    r"<style|\sstyle=|<script(?![^>]*\bsrc=)|\son[a-z]+=|\shx-on|javascript:|https?://"
)


@pytest.mark.parametrize("path", sorted(TEMPLATES.rglob("*.html")), ids=lambda path: path.name)
def test_a_template_has_nothing_that_the_policy_stops(path: Path) -> None:
    found = INLINE.findall(path.read_text())

    assert found == []


def test_the_api_has_no_sessions_cookies_or_policies(client: Client) -> None:
    answer = client.get("/api/v1/plans", headers={"accept-language": "zh"})

    assert answer.status_code == 401
    assert not answer.cookies
    assert "Vary" not in answer.headers
    assert "Content-Security-Policy" not in answer.headers
    assert not hasattr(answer.wsgi_request, "session")


def test_a_first_visit_loads_at_most_150_kilobytes() -> None:
    built = settings.BUILT / "static" / "portal"
    loaded = [path for path in built.iterdir() if path.suffix in (".css", ".js", ".svg")]

    assert len(loaded) >= 5
    assert sum(len(gzip.compress(path.read_bytes())) for path in loaded) < 100_000


# Errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/nothing", "/%00", "/%FF", "/" + "x" * 5000])
def test_a_page_that_is_not_there_is_a_page(client: Client, path: str) -> None:
    page = client.get(path, headers={"accept-language": "en"})

    assert page.status_code == 404
    assert page.headers["Content-Type"].startswith("text/html")
    assert "There is nothing here" in page.content.decode()


@pytest.mark.parametrize(
    ("handler", "status", "said"),
    [
        (lambda request: pages.forbidden(request, Exception()), 403, "无权访问"),
        (lambda request: pages.server_error(request), 500, "系统出错了"),
        (lambda request: pages.stale_form(request, "no cookie"), 403, "登录已失效"),
    ],
)
def test_errors_are_pages_in_the_language_of_the_reader(
    handler: Any, status: int, said: str
) -> None:
    # As bare as a request that failed before any middleware has touched it.
    with translation.override("zh-hans"):
        page = handler(RequestFactory().get("/somewhere"))

    assert page.status_code == status
    assert said in page.content.decode()


@pytest.mark.parametrize("path", ["/api/v1/nothing", "/v1/nothing", "/v2/nothing"])
def test_the_api_keeps_its_problems(client: Client, path: str) -> None:
    answer = client.get(path, headers={"accept": "text/html"})

    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_a_form_without_its_token_is_not_taken() -> None:
    page = Client(enforce_csrf_checks=True).post("/theme", {"theme": "dark"})

    assert page.status_code == 403
    assert "登录已失效" in page.content.decode()


# Look and language --------------------------------------------------------------------------------


def test_a_chosen_theme_stays(client: Client) -> None:
    assert "data-theme" not in client.get("/nothing").content.decode()

    answer = client.post("/theme", {"theme": "dark", "next": "/nothing?a=1"})

    assert (answer.status_code, answer["Location"]) == (302, "/nothing?a=1")
    assert 'data-theme="dark"' in client.get("/nothing").content.decode()
    assert client.post("/theme", {"theme": "<b>"}).status_code == 404


@pytest.mark.parametrize("door", ["/theme", "/language"])
@pytest.mark.parametrize(
    "elsewhere", ["https://evil.example/", "//evil.example", "\\\\evil.example", "javascript:x"]
)
def test_a_switch_leads_nowhere_else(client: Client, door: str, elsewhere: str) -> None:
    chosen = {"theme": "dark", "language": "en", "next": elsewhere}

    assert client.post(door, chosen)["Location"] == "/"


@pytest.mark.parametrize(
    ("accepted", "lang"),
    [("", "zh-Hans"), ("fr", "zh-Hans"), ("zh-CN,zh;q=0.9,en;q=0.8", "zh-Hans"), ("en-GB", "en")],
)
def test_pages_are_chinese_unless_english_is_asked_for(
    client: Client, accepted: str, lang: str
) -> None:
    page = client.get("/nothing", headers={"accept-language": accepted})

    assert f'<html lang="{lang}"' in page.content.decode()


def test_a_chosen_language_stays(client: Client) -> None:
    client.post("/language", {"language": "en", "next": "/nothing"})

    page = client.get("/nothing", headers={"accept-language": "zh-CN"})

    assert '<html lang="en"' in page.content.decode()


def test_every_string_is_translated() -> None:
    wanted = {(message.context, message.id) for message in messages.strings() if message.id}

    assert len(wanted) > 15
    assert messages.catalogs()
    for path in messages.catalogs():
        catalog = messages.read(path)
        told = {(message.context, message.id) for message in catalog if message.id}
        empty = [m.id for m in catalog if m.id and not (m.string and all(m.string))]
        assert told == wanted, f"`make messages` brings {path} up to date"
        assert empty == []
        assert [m.id for m in catalog if m.fuzzy and m.id] == []
        for message in catalog:
            assert [str(error) for error in message.check(catalog)] == [], message.id


def test_the_styleguide_shows_each_component() -> None:
    page = render_to_string("styleguide.html", {"theme": "auto"}, RequestFactory().get("/"))

    assert 'class="figure"' in page


# Numbers, money, times ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("thousandths", "chinese", "english"),
    [
        (None, "∞", "∞"),
        (0, "0", "0"),
        (500, "0.5", "0.5"),
        (9_999_000, "9,999", "9,999"),
        (9_999_999, "9,999", "9,999"),
        (10_000_000, "1 万", "10,000"),
        (12_345_678, "1.23 万", "12,345"),
        (10_000_000_000, "1,000 万", "10 M"),
        (9_999_999_999, "999.99 万", "9.99 M"),
        (99_999_999_999, "9,999.99 万", "99.99 M"),
        (100_000_000_000, "1 亿", "100 M"),
        (1_234_500_000_000, "12.34 亿", "1.23 B"),
        (10**15, "1 万亿", "1,000 B"),
        (-20_000_000, "-2 万", "-20,000"),
    ],
)
def test_tokens_are_told_as_people_read_them(
    thousandths: int | None, chinese: str, english: str
) -> None:
    with translation.override("zh-hans"):
        assert figures.tokens(thousandths) == chinese
    with translation.override("en"):
        assert figures.tokens(thousandths) == english


@pytest.mark.parametrize(
    ("amount", "currency", "chinese", "english"),
    [
        ("9.9", "CNY", "9.90 元", "¥9.90"),
        ("1234.5", "USD", "1,234.50 美元", "$1,234.50"),
        ("-3", "EUR", "-3.00 欧元", "-€3.00"),
        ("0.005", "HKD", "0.01 港元", "HK$0.01"),
    ],
)
def test_money_is_told_as_people_read_it(
    amount: str, currency: str, chinese: str, english: str
) -> None:
    with translation.override("zh-hans"):
        assert figures.money(Money(Decimal(amount), currency)) == chinese
    with translation.override("en"):
        assert figures.money(Money(Decimal(amount), currency)) == english


def test_a_price_has_its_cents_and_what_is_below_them() -> None:
    for number, said in (("2.5", "2.50 元"), ("2", "2.00 元"), ("0.0012", "0.0012 元")):
        with translation.override("zh-hans"):
            assert figures.priced(Decimal(number), Money(0, "CNY")) == said
    with translation.override("en"):
        assert figures.priced(Decimal("2.5"), Money(0, "CNY")) == "¥2.50"
        assert figures.percent(Decimal("11.279")) == "1,127%"


def test_times_are_those_of_the_zone() -> None:
    midnight = local(2026, 7, 1)

    with timezone.override(SHANGHAI), translation.override("zh-hans"):
        assert figures.moment(midnight) == "2026年7月1日 00:00"
        assert figures.until_day(midnight) == "2026年6月30日"
        assert figures.month(midnight) == "2026年7月"
        assert figures.day(dt.date(2026, 6, 9)) == "2026年6月9日"
    with timezone.override(dt.UTC), translation.override("en"):
        assert figures.moment(midnight) == "30 Jun 2026, 16:00"
        assert figures.short_day(midnight) == "30 Jun"
