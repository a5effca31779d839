"""The pay page: shows what is bought, notices the payment by itself, gives nothing away."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.core import signing
from django.test import Client
from reportlab.graphics.barcode import qrencoder
from rest_framework.test import APIClient

from billing.checkout import links, pages, qr
from billing.models import PaymentIntent
from billing.orders import keeping
from subscriptions import catalog
from subscriptions.models import Operator, Subscriber
from tests.factories import (
    NOW,
    client_for,
    make_key,
    make_operator,
    make_plan,
    make_subscriber,
    set_clock,
    yuan,
)
from tests.payer import Browser, deliver
from tests.usage import DAY, assert_books_agree, get, post

pytestmark = pytest.mark.django_db

EVIL = '<script>alert(1)</script>"><img src=x onerror=alert(1)>'


@pytest.fixture(autouse=True)
def subscriber(operator: Operator) -> Subscriber:
    return make_subscriber(operator)


def begin(api: APIClient, way: str = "wechat_pay", **said: Any) -> tuple[str, Browser]:
    """An order that waits to be paid, and its payer before the pay page."""
    asked = said or {"kind": "top_up", "amount": "9.90"}
    answer = post(api, "subscribers/s-1/orders", asked)
    assert answer.status_code == 201, answer.content
    number = answer.json()["number"]
    [*_, attempt] = pay(api, number, way)
    return number, Browser().open(attempt["page"])


def pay(api: APIClient, number: str, way: str) -> Any:
    answer = post(api, f"orders/{number}/pay", {"way": way})
    assert answer.status_code == 200, answer.content
    return answer.json()["attempts"]


def wallet_app(api: APIClient, number: str) -> Browser:
    """Another device, on which the code was scanned."""
    [*_, attempt] = get(api, f"orders/{number}")["attempts"]
    return Browser().open(attempt["action"]["url"])


# What it shows -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "bought", "granted"),
    [
        ({"kind": "top_up", "amount": "9.90"}, "钱包充值", "已存入您的钱包"),
        ({"kind": "plan", "plan": "light"}, "套餐 Light", "套餐 Light 已开通"),
        ({"kind": "booster", "booster": "boost"}, "加油包 Boost", "加油包 Boost"),
    ],
)
def test_it_shows_what_is_bought_and_then_what_was_granted(
    operator: Operator, api: APIClient, kind: dict[str, str], bought: str, granted: str
) -> None:
    make_plan(operator)
    terms = {"name": "Boost", "price": yuan("9.90"), "units": 400_000_000, "valid_days": 30}
    catalog.publish_booster(operator, "boost", **terms, at=NOW)  # type: ignore[arg-type]

    number, payer = begin(api, **kind)
    assert payer.says("9.90 元", bought, number, "微信支付")
    assert "<svg" in payer.text

    wallet_app(api, number).press("do", "pay")
    deliver(operator)
    payer.open(payer.at)
    assert payer.says("已支付", granted, "9.90 元")
    assert payer.buttons().isdisjoint({"alipay", "card", "wechat_pay"})
    assert_books_agree()


def test_the_code_holds_the_address_to_pay_at(api: APIClient) -> None:
    _, payer = begin(api)
    attempt = PaymentIntent.objects.get()

    drawn = re.search(r"<svg viewBox.*?</svg>", payer.text, re.DOTALL)
    assert drawn is not None
    assert drawn[0] == qr.svg(attempt.action["text"])
    code = qrencoder.QRCode(None, qrencoder.QRErrorCorrectLevel.M)
    code.addData(attempt.action["text"])
    code.make()
    assert modules(drawn[0]) == [[bool(dark) for dark in row] for row in code.modules]


def modules(drawn: str) -> list[list[bool]]:
    """The dark and light squares of a drawn code, without the quiet around it."""
    [side] = map(int, re.findall(r'viewBox="0 0 (\d+) ', drawn))
    dark = set()
    for x, y, width in re.findall(r"M(\d+) (\d+)h(\d+)v1", drawn):
        dark |= {(int(x) + n, int(y)) for n in range(int(width))}
    inside = range(4, side - 4)
    assert all(x in inside and y in inside for x, y in dark)
    return [[(x, y) in dark for x in inside] for y in inside]


@pytest.mark.parametrize(
    ("way", "press", "said"),
    [
        ("wechat_pay", "fail", "余额不足"),
        ("alipay", "cancel", "您取消了付款"),
        ("card", "expire", "未在限定时间内支付"),
    ],
)
def test_a_payment_that_fails_says_why_and_another_way_is_open(
    operator: Operator, api: APIClient, way: str, press: str, said: str
) -> None:
    number, payer = begin(api, way)
    wallet_app(api, number).press("do", press)
    deliver(operator)

    payer.open(payer.at)
    assert payer.says("支付未完成", said)

    payer.press("way", "alipay")
    wallet_app(api, number).press("do", "pay")
    deliver(operator)
    assert payer.open(payer.at).says("已支付")
    assert get(api, f"orders/{number}")["way"] == "alipay"


def test_an_order_that_has_expired_or_was_cancelled_cannot_be_paid(
    operator: Operator, api: APIClient
) -> None:
    cancelled, first = begin(api)
    assert post(api, f"orders/{cancelled}/cancel", {"reason": "x"}).status_code == 200
    assert first.open(first.at).says("订单已取消")

    _, second = begin(api)
    early = Browser().open(second.at)
    set_clock(operator, NOW + 3 * DAY)
    assert second.open(second.at).says("订单已过期")
    assert second.buttons().isdisjoint(pages.OPEN_TO_ALL)
    # The page was open since before.
    assert early.press("way", "alipay").says("订单已过期")


def test_a_bank_transfer_says_what_to_write(api: APIClient) -> None:
    number, payer = begin(api, "bank")

    assert payer.says("备注", number, "9.90 元")


def test_money_that_came_twice_is_told(operator: Operator, api: APIClient) -> None:
    number, payer = begin(api)
    wallet_app(api, number).press("do", "twice")
    deliver(operator)

    assert payer.open(payer.at).says("已支付", "9.90 元", "已存入您的钱包")
    assert get(api, "subscribers/s-1/wallet")["balance"]["amount"] == "19.80"


# Noticing by itself ------------------------------------------------------------------------------


def test_the_part_that_looks_again_opens_the_page_anew_when_something_happened(
    operator: Operator, api: APIClient
) -> None:
    number, payer = begin(api)
    [address] = re.findall(r'hx-get="([^"]+)"', payer.text)
    live = Client()

    quiet = live.get(address)
    assert "HX-Refresh" not in quiet
    assert "2 天 23:59:59" in live_at(operator, address, NOW + timedelta(seconds=1))
    wallet_app(api, number).press("do", "pay")
    deliver(operator)

    news = live.get(address)
    assert news["HX-Refresh"] == "true"
    assert "hx-get" not in news.content.decode()


def live_at(operator: Operator, address: str, at: Any) -> str:
    set_clock(operator, at)
    return Client().get(address).content.decode()


# Coming back -------------------------------------------------------------------------------------


def test_coming_back_the_provider_is_asked(operator: Operator, api: APIClient) -> None:
    number, payer = begin(api, "alipay")
    scanned = wallet_app(api, number).press("do", "pay")
    [back] = re.findall(r'<a class="main" href="([^"]+)"', scanned.text)
    assert get(api, f"orders/{number}")["state"] == "waiting"  # no notice has arrived

    payer.open(back)

    assert payer.says("已支付", number)
    assert get(api, f"orders/{number}")["state"] == "paid"
    deliver(operator)
    assert get(api, "subscribers/s-1/wallet")["balance"]["amount"] == "9.90"


def test_the_address_of_a_return_grants_nothing_and_tells_nothing(
    operator: Operator, api: APIClient
) -> None:
    number, _ = begin(api)
    order = keeping.find(operator, number)
    back = links.return_url(order)
    stranger = Browser()

    assert stranger.open(back).says("尚未收到付款")
    assert get(api, f"orders/{number}")["state"] == "waiting"
    wallet_app(api, number).press("do", "pay")
    PaymentIntent.objects.update(asked_at=None)  # a while later
    assert stranger.open(back).says("已收到付款")

    for private in (number, "9.90", "s-1", links.token_of(PaymentIntent.objects.get())):
        assert private not in stranger.text
    # One that pays something else sees no more of it.
    _, other = begin(api)
    other.open(back)
    assert number not in other.text


# Who may not -------------------------------------------------------------------------------------


def test_only_a_signed_address_is_a_page(operator: Operator, api: APIClient) -> None:
    number, payer = begin(api)
    other = make_operator("other")
    make_subscriber(other)
    begin(client_for(make_key(other)))
    token = payer.at.rsplit("/", 1)[1]
    content, _, mac = token.partition(".")
    order = keeping.find(operator, number)
    theirs = signing.b64_encode(b"[2,2,1]").decode()
    returning = links.return_url(order).rsplit("/", 1)[1]

    for forged in (
        *(f"{theirs}.{mac}", f"{content}.{mac[:-1]}", content, "x", ".", "%00", "9" * 5000),
        returning,
        signing.Signer(key="another key", salt="billing.checkout.attempt", sep=".").sign_object(
            [order.subscriber_id, order.id, 1]
        ),
    ):
        for path in ("", "/state"):
            assert Client().get(f"/pay/{forged}{path}").status_code == 404, forged
    assert Client().get(f"/pay/return/{token}").status_code == 404


@pytest.mark.parametrize("way", ["wallet", "phone_bill", "", "<x>"])
def test_what_is_the_subscribers_own_is_not_spent_by_an_address(api: APIClient, way: str) -> None:
    number, payer = begin(api)
    assert way not in payer.buttons()

    payer.press("way", "alipay")
    forged = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', payer.text)
    assert forged is not None
    fields = {"way": way, "csrfmiddlewaretoken": forged[1]}

    assert payer.client.post(f"{payer.at}/again", fields).status_code == 404
    assert {one["way"] for one in get(api, f"orders/{number}")["attempts"]} == {
        "wechat_pay",
        "alipay",
    }


def test_a_form_is_sent_from_the_page_only(api: APIClient) -> None:
    number, payer = begin(api)
    elsewhere = Client(enforce_csrf_checks=True)

    assert elsewhere.post(f"{payer.at}/again", {"way": "alipay"}).status_code == 403
    assert len(get(api, f"orders/{number}")["attempts"]) == 1


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/pay",
        "https://stripe.com.evil.example/",
        "https://evilstripe.com/",
        "http://hooks.stripe.com/",
        "javascript:alert(1)",
        "//evil.example/",
        "http://127.0.0.1:8000.evil.example/sandbox/x",
        "https://[",
    ],
)
def test_it_leads_only_to_providers(api: APIClient, url: str) -> None:
    _, payer = begin(api, "alipay")
    PaymentIntent.objects.update(action={"kind": "redirect", "url": url})

    payer.open(payer.at)

    assert payer.status == 200
    assert url not in payer.text
    assert "evil" not in payer.text


def test_a_providers_page_is_led_to(api: APIClient) -> None:
    _, payer = begin(api, "alipay")
    url = "https://hooks.stripe.com/redirect/authenticate/src_1"
    PaymentIntent.objects.update(action={"kind": "redirect", "url": url})

    assert f'href="{url}"' in payer.open(payer.at).text


def test_names_are_text_and_nothing_leaks(operator: Operator, api: APIClient) -> None:
    make_plan(operator, name=EVIL)
    Operator.objects.filter(pk=operator.pk).update(name=EVIL)
    Subscriber.objects.update(name="Wang Private", email="private@example.org")

    _, payer = begin(api, kind="plan", plan="light")

    assert payer.says(EVIL)
    assert "<script>" not in payer.text
    assert "<img src=x" not in payer.text
    assert "rivate" not in payer.text
    assert payer.headers["Referrer-Policy"] == "same-origin"
    assert "unsafe" not in payer.headers["Content-Security-Policy"]
    assert "no-store" in payer.headers["Cache-Control"]
    cookie = payer.client.cookies[pages.COOKIE]
    assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Lax", "/pay/")
