"""The portal's pages about money: orders, the wallet, cards, what is paid by itself."""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal
from typing import Any

import pytest
from django import forms
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import translation
from rest_framework.test import APIClient

from billing import top_up_policies
from billing.models import AutoTopUp, Consent, Order, PaymentIntent, PaymentMethod, Refund
from billing.portal import amounts
from billing.top_up_policies import Policy, Rule
from subscriptions import catalog
from subscriptions.models import Operator, Subscriber
from tests.factories import NOW, buckets_of, make_subscriber, set_clock, yuan
from tests.payer import Browser, deliver
from tests.usage import DAY, assert_books_agree, post
from tests.visiting import browser_of, client_of
from tests.vouchers import sold_vouchers

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _this_portal(operator: Operator, settings: Any) -> None:
    settings.PORTAL_OPERATOR = operator.code
    catalog.publish_booster(
        operator, "b5", name="Five", price=yuan("5.00"), units=4_000_000_000, valid_days=30, at=NOW
    )


@pytest.fixture
def payer(subscriber: Subscriber) -> Browser:
    return browser_of(subscriber)


def fill(api: APIClient, amount: str = "50.00") -> None:
    """Money in the wallet of `s-1`, transferred to the bank."""
    made = post(api, "subscribers/s-1/orders", {"kind": "top_up", "amount": amount})
    number = made.json()["number"]
    said = {"reference": number, "amount": amount, "payer": "Zhang", "pays": {"order": number}}
    assert post(api, "transfers", said).status_code == 201


def order_booster(payer: Browser) -> Order:
    """Tap a booster on the first page."""
    payer.open("/")
    [once] = re.findall(r'name="once" value="([^"]+)"', payer.text)
    send(payer, "/boosters/b5/", once=once)
    return Order.objects.latest("id")


def send(payer: Browser, path: str, **fields: str) -> Any:
    """Send a form with the token of the page that is open, and go where that leads."""
    token = re.findall(r'name="csrfmiddlewaretoken" value="([^"]+)"', payer.text)[-1]
    answer = payer.client.post(path, {**fields, "csrfmiddlewaretoken": token})
    if answer.status_code in (302, 303):
        payer.open(answer["Location"])
    else:
        payer.text = answer.content.decode()
    return answer


def save_card(operator: Operator, payer: Browser) -> PaymentMethod:
    """Save one of the sandbox's cards, through its page."""
    send(payer.open("/wallet/cards/"), "/wallet/cards/add/", agree="yes")
    [url] = re.findall(r'href="(http[^"]+/sandbox/save/[^"]+)"', payer.text)
    Browser().open(url).press("do", "save")
    deliver(operator)
    return PaymentMethod.objects.filter(state="saved").latest("id")


# Paying -------------------------------------------------------------------------------------------


def test_a_booster_is_two_taps_from_home_with_the_wallet(
    api: APIClient, payer: Browser, subscriber: Subscriber
) -> None:
    fill(api)

    order = order_booster(payer)
    assert payer.says("¥5.00", "Booster Five", "30 days from the payment on", "¥50.00 there")
    payer.press("way", "wallet")

    assert payer.says("Paid", "4 M tokens are yours", "To my tokens")
    assert [bucket.granted for bucket in buckets_of(subscriber, "booster")] == [4_000_000_000]
    payer.open(f"/orders/{order.number}/")
    assert payer.says("Booster Five", "With Wallet", "until 10 Jul 2026")
    assert_books_agree()


def test_ways_are_chosen_on_the_pay_page_alone_and_the_order_leads_there(
    operator: Operator, payer: Browser
) -> None:
    order = order_booster(payer)
    assert payer.buttons() >= {"alipay", "wechat_pay", "card", "bank"}
    assert "wallet" not in payer.buttons()
    assert payer.says("In your wallet: ¥0.00. That is not enough.")

    payer.press("way", "alipay")
    assert payer.says("Scan it with Alipay")
    waiting = payer.at
    payer.open(f"/orders/{order.number}/")

    assert payer.buttons().isdisjoint({"alipay", "wechat_pay", "card", "bank", "wallet"})
    assert f'href="{waiting}"' in payer.text
    set_clock(operator, NOW + 4 * DAY)
    assert payer.open(f"/orders/{order.number}/").says("Expired", "Nothing was charged", "again")


def test_who_only_has_the_address_cannot_spend_what_is_the_subscribers(
    operator: Operator, api: APIClient, payer: Browser
) -> None:
    fill(api)
    card = save_card(operator, payer)
    order_booster(payer)
    others = (
        Browser(**{"accept-language": "en"}),
        browser_of(make_subscriber(operator, "s-2")),
    )

    for other in others:
        other.open(payer.at)
        assert other.says("How do you want to pay?")
        assert not other.says("wallet")
        assert f"··{card.last4}" not in other.text
        for fields in ({"way": "wallet"}, {"way": "card", "method": str(card.pk)}):
            page = other.text
            assert send(other, f"{payer.at}/again", **fields).status_code == 404
            other.text = page
    assert Order.objects.latest("id").state == "created"


def test_an_order_is_paid_by_a_saved_card_at_once(operator: Operator, payer: Browser) -> None:
    card = save_card(operator, payer)
    order = order_booster(payer)

    assert payer.says(f"··{card.last4}", "Saved: charged at once")
    payer.press("way", "card", method=str(card.pk))
    deliver(operator)

    assert payer.open(f"/orders/{order.number}/").says("Paid", "With Card")
    assert_books_agree()


def test_an_order_is_let_go_in_a_click_and_the_list_narrows_to_states(payer: Browser) -> None:
    kept, gone = order_booster(payer), order_booster(payer)
    payer.open(f"/orders/{gone.number}/")
    send(payer, f"/orders/{gone.number}/cancel/")

    assert payer.open("/orders/?show=over").says("Cancelled")
    assert kept.number not in payer.text
    assert gone.number in payer.text
    assert gone.number not in payer.open("/orders/?show=open").text
    assert payer.open("/orders/?show=paid").says("No orders of this kind")
    assert kept.number in payer.open("/orders/?show=<x>&before=<y>").text
    assert payer.open(f"/orders/?before={gone.id}").says("Booster Five")
    assert gone.number not in payer.text


def test_the_money_of_a_booster_comes_back_as_it_was_said(
    api: APIClient, payer: Browser, subscriber: Subscriber
) -> None:
    fill(api)
    order = order_booster(payer)
    payer.press("way", "wallet")

    payer.open(f"/orders/{order.number}/refund/")
    assert payer.says("¥5.00", "4 M tokens are taken back", "all of it comes back")
    [once] = re.findall(r'name="once" value="([^"]+)"', payer.text)
    for _ in range(2):
        send(payer, f"/orders/{order.number}/refund/", once=once, to="source", reason="<b>")

    refund = Refund.objects.get()
    assert (refund.amount, refund.state, refund.to) == (Decimal(5), "succeeded", "wallet")
    assert payer.open(f"/orders/{order.number}/").says("Given back", "It is in your wallet.")
    assert payer.open("/wallet/").says("¥50.00")
    assert payer.open(f"/orders/{order.number}/refund/").says("nothing can go back")
    assert_books_agree()


# The wallet ---------------------------------------------------------------------------------------


def test_a_top_up_says_its_bonus_before_it_is_paid(
    operator: Operator, payer: Browser, api: APIClient
) -> None:
    policy = Policy(
        fixed=[Decimal(50), Decimal(100)],
        least=Decimal(10),
        most=Decimal(500),
        rules=[Rule(at_least=Decimal(100), percent=Decimal(10), valid_days=90)],
    )
    top_up_policies.put(operator, policy, by="x", at=NOW, effective_from=NOW)

    payer.open("/wallet/top-up/")
    assert payer.says("¥50.00", "¥100.00 + ¥10.00", "From ¥100.00 on", "good for 90 days")
    live = payer.client.get("/wallet/top-up/?amount=200", headers={"hx-request": "true"})
    assert "¥20.00 are given with it." in live.content.decode()
    payer.press("amount", "100.00")
    assert payer.says("Given with it + ¥10.00")

    payer.press("way", "alipay")
    there = PaymentIntent.objects.latest("created_at").action["url"]
    Browser().open(there).press("do", "pay")
    deliver(operator)
    assert payer.open("/wallet/").says("¥110.00", "of it given as a bonus ¥10.00", "Lapses")
    assert payer.open("/wallet/statement/").says("Top-up", "Bonus", "+¥100.00", "¥110.00")
    csv = payer.client.get("/wallet/statement.csv?month=2026-06").content.decode()
    assert "top_up,100.00" in csv
    assert payer.open("/wallet/statement/?month=2026-05").says("Nothing moved")
    assert_books_agree()


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("", "Write how much."),
        ("0", "more than nothing"),
        ("0.00", "more than nothing"),
        ("-5", "more than nothing"),
        ("9.999", "Two decimals at most"),
        ("$5", "write the number alone"),
        ("5 USD", "write the number alone"),
        ("1e3", "write the number alone"),
        ("<b>", "write the number alone"),
        ("1,00", "Write a number"),
        ("1.2.3", "Write a number"),
        ("٣", "Write a number"),
        ("1000000.01", "From ¥0.01 to ¥1,000,000.00"),
        ("9" * 39, "more than can be paid"),
        ("9" * 400, "at most 40"),
    ],
)
def test_an_amount_that_makes_no_sense_is_said_at_its_field(
    payer: Browser, typed: str, said: str
) -> None:
    answer = send(payer.open("/wallet/top-up/"), "/wallet/top-up/", amount=typed)

    assert answer.status_code == 200
    [error] = re.findall(r'id="amount_error".*?</div>', payer.text, re.DOTALL)
    assert said in error
    assert 'aria-invalid="true"' in payer.text
    assert not Order.objects.exists()


@pytest.mark.parametrize(
    ("typed", "amount"),
    [
        *(("50", "50"), ("9.9", "9.90"), (" ¥1,234.50 ", "1234.50"), ("50元", "50")),
        ("\uff15\uff10.\uff15", "50.5"),  # of full width
    ],
)
def test_an_amount_is_read_as_people_write_it(typed: str, amount: str) -> None:
    assert amounts.read(typed, "CNY") == Decimal(amount)


def test_an_amount_in_another_currency_is_told_in_ones_own() -> None:
    with translation.override("zh-hans"), pytest.raises(forms.ValidationError) as told:
        amounts.read("5 USD", "CNY")
    assert "1.00 元" in str(told.value)


def test_a_voucher_is_redeemed_and_guessing_ends(
    operator: Operator, api: APIClient, payer: Browser
) -> None:
    codes = list(sold_vouchers(operator, api).values())

    assert payer.open("/wallet/voucher/").says("16 letters and digits")
    fill_in(payer, "/wallet/voucher/", code=codes[0].lower().replace("-", " "))
    assert payer.says("¥50.00 are in your wallet.")
    for wrong in (codes[0][:-1], "X" * 16, "<script>"):
        fill_in(payer, "/wallet/voucher/", code=wrong)
        assert payer.says("This is no code")
        assert "<script>alert" not in payer.text
    stranger = browser_of(make_subscriber(operator, "s-2"))
    for _ in range(5):
        fill_in(stranger, "/wallet/voucher/", code=codes[0])
        assert stranger.says("This voucher was used before.")
    fill_in(stranger, "/wallet/voucher/", code=codes[1])
    assert stranger.says("Too many wrong codes were tried. Try again in 60 minutes.")


def fill_in(payer: Browser, path: str, **fields: str) -> Browser:
    """Fill a page's own form in and send it."""
    send(payer.open(path), path, **fields)
    return payer


TERMS = {"threshold": "20", "amount": "50", "daily_limit": "100", "monthly_limit": "300"}


def test_a_wallet_fills_itself_only_after_a_yes_to_the_words_shown(
    operator: Operator, payer: Browser
) -> None:
    policy = Policy(fixed=[Decimal(50)], least=Decimal(10), most=Decimal(500))
    top_up_policies.put(operator, policy, by="x", at=NOW, effective_from=NOW)
    assert payer.open("/wallet/automatic/").says("It needs a saved card")
    card = save_card(operator, payer)
    path, said = "/wallet/automatic/", {**TERMS, "card": str(card.pk)}

    fill_in(payer, path, **said)
    assert payer.says("less than ¥20.00, ¥50.00 are charged", "at most ¥100.00 a day")
    assert "checked" not in payer.text
    fill_in(payer, path, **said, step="agree")
    assert payer.says("Tick the box to agree")
    assert not AutoTopUp.objects.exists()
    fill_in(payer, path, **said, step="agree", agree="yes")

    found = AutoTopUp.objects.get()
    assert payer.says("It is on", found.text)
    assert (found.amount, found.method, found.channel) == (50, card.reference, "portal")
    send(payer, "/wallet/automatic/off/")
    assert payer.open(path).says(
        "It is off", "Switched off 10 Jun 2026, 12:00", "Nothing is charged"
    )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"amount": "10"}, "no less than the amount below which"),
        ({"daily_limit": "40"}, "no less than what is put in once"),
        ({"monthly_limit": "99.99"}, "no less than a day"),
        ({"threshold": "0"}, "more than nothing"),
        ({"threshold": "1.001"}, "Two decimals"),
        ({"card": "999"}, "Choose a card."),
        ({"card": ""}, "Choose a card."),
    ],
)
def test_terms_that_make_no_sense_are_said_at_their_fields(
    operator: Operator, payer: Browser, wrong: dict[str, str], said: str
) -> None:
    card = save_card(operator, payer)
    asked = {**TERMS, "card": str(card.pk), **wrong, "step": "agree", "agree": "yes"}

    fill_in(payer, "/wallet/automatic/", **asked)

    assert payer.says(said)
    assert not AutoTopUp.objects.exists()


def test_a_card_is_saved_by_consent_charged_first_and_removed(
    operator: Operator, payer: Browser
) -> None:
    first, second = save_card(operator, payer), save_card(operator, payer)
    assert "may be charged later" in first.consent
    assert first.is_default

    send(payer.open("/wallet/cards/"), "/wallet/cards/add/")
    assert payer.says("Tick the box to agree")
    assert PaymentMethod.objects.count() == 2
    send(payer, f"/wallet/cards/{second.pk}/first/")
    send(payer, f"/wallet/cards/{first.pk}/remove/")
    second.refresh_from_db()
    assert second.is_default
    PaymentMethod.objects.filter(pk=second.pk).update(exp_year=2026, exp_month=6)
    assert payer.open("/wallet/cards/").says("Expires soon", "good until 06/2026")
    PaymentMethod.objects.filter(pk=second.pk).update(exp_year=2026, exp_month=5)
    assert payer.open("/wallet/cards/").says("Expired")
    stranger = client_of(make_subscriber(operator, "s-2"))
    for step in ("first", "remove"):
        for pk in (second.pk, 10**30):
            where = f"/wallet/cards/{pk}/{step}/"
            assert stranger.post(where).status_code == 404, where


# What is paid by itself ---------------------------------------------------------------------------


def test_renewal_is_agreed_to_by_a_tick_and_ended_by_a_click_with_a_receipt(
    payer: Browser, operator: Operator
) -> None:
    payer.open("/renewal/")
    assert payer.says("¥9.90", "from 1 Jul 2026 on", "1. Wallet", "2. Saved card", "not agreed")
    assert "checked" not in payer.text
    fill_in(payer, "/renewal/", kind="auto_renew")
    assert payer.says("Tick the box to agree")
    assert not Consent.objects.exists()

    fill_in(payer, "/renewal/", kind="auto_renew", agree="yes")
    given = Consent.objects.get()
    assert payer.at == f"/renewal/{given.number}/"
    assert payer.says("Switched on", given.number, "10 Jun 2026, 12:00", given.text)
    set_clock(operator, NOW + dt.timedelta(hours=1))
    send(payer, f"/renewal/{given.number}/off/")

    assert payer.open(f"/renewal/{given.number}/").says("Switched off", "10 Jun 2026, 13:00")
    stranger = client_of(make_subscriber(operator, "s-2"))
    assert stranger.get(f"/renewal/{given.number}/").status_code == 404
    assert stranger.post(f"/renewal/{given.number}/off/").status_code == 404
    assert stranger.get("/renewal/%3Cb%3E/").status_code == 404


def test_the_phone_bill_has_a_limit_of_ones_own(payer: Browser) -> None:
    fill_in(payer, "/renewal/", kind="phone_bill", agree="yes", cap="1.234")
    assert payer.says("Two decimals at most")

    fill_in(payer, "/renewal/", kind="phone_bill", agree="yes", cap="30")

    given = Consent.objects.get()
    assert (given.monthly_cap, given.subscription_id) == (30, None)
    assert payer.says("At most a month ¥30.00")
    order_booster(payer)
    assert "phone_bill" in payer.buttons()
    payer.press("way", "phone_bill")
    assert payer.says("We know no phone number of yours that a bill goes to.")


# To whom, and what it costs -----------------------------------------------------------------------

PAGES = [
    *("/orders/", "/boosters/", "/wallet/", "/wallet/statement/", "/wallet/top-up/"),
    *("/wallet/voucher/", "/wallet/automatic/", "/wallet/cards/", "/renewal/"),
]


@pytest.mark.parametrize("path", PAGES)
def test_a_page_of_money_asks_to_sign_in(client: Client, path: str) -> None:
    assert client.get(path)["Location"] == f"/accounts/login/?next={path.replace('/', '%2F')}"
    assert client.get(path, headers={"hx-request": "true"}).status_code == 401
    client.cookies["sessionid"] = "gone"
    assert client.get(path)["Location"].endswith("&ended=1")


def test_a_page_of_money_asks_the_database_at_most_twelve_times(
    operator: Operator, api: APIClient, payer: Browser
) -> None:
    fill(api)
    card = save_card(operator, payer)
    fill_in(payer, "/wallet/automatic/", **TERMS, card=str(card.pk), step="agree", agree="yes")
    paid = order_booster(payer)
    payer.press("way", "wallet")
    order = order_booster(payer)
    paths = [
        *PAGES,
        *(f"/orders/{paid.number}/", f"/orders/{order.number}/", payer.at),
        f"/orders/{paid.number}/refund/",
    ]

    for path in paths:
        payer.open(path)
        with CaptureQueriesContext(connection) as asked:
            assert payer.open(path).status == 200
        assert len(asked) <= 12, (path, [query["sql"][:110] for query in asked])
        for language in ("zh-hans", "en"):
            answer = payer.client.get(path, headers={"accept-language": language})
            assert answer.status_code == 200


def test_an_order_of_another_is_not_there(
    operator: Operator, payer: Browser, subscriber: Subscriber
) -> None:
    order = order_booster(payer)
    stranger = client_of(make_subscriber(operator, "s-2"))

    for path in ("", "refund/"):
        assert stranger.get(f"/orders/{order.number}/{path}").status_code == 404
    for path in ("cancel/", "refund/"):
        assert stranger.post(f"/orders/{order.number}/{path}").status_code == 404
    assert order.number not in stranger.get("/orders/").content.decode()
    assert stranger.get("/orders/%3Cx%3E/").status_code == 404
