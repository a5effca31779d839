"""The sandbox: a company that plays to take payments, from its pages to our books."""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import json
import re
from dataclasses import replace
from decimal import Decimal
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
from django.db.models import Sum
from django.test import Client
from rest_framework.test import APIClient

from billing.models import (
    Order,
    PaymentIntent,
    ProviderAccount,
    ProviderEvent,
    ProviderSecret,
)
from billing.orders import paying
from billing.provider_books import fetching
from billing.ways import accounts, known
from billing.ways.provider import About, Attempt, Fate, Provider, Saves, Saving
from billing.ways.sandbox import company, notices
from billing.ways.sandbox.models import BalanceTransaction, Dispute, Method, Notice, Payment, Refund
from subscriptions import clock
from subscriptions.models import Operator, Subscriber
from tests.factories import NOW, make_operator, make_plan, make_subscriber, set_clock
from tests.payer import Browser, deliver
from tests.usage import DAY, assert_books_agree, assert_problem, get, post

pytestmark = pytest.mark.django_db

SECOND = dt.timedelta(seconds=1)


@pytest.fixture(autouse=True)
def subscriber(operator: Operator) -> Subscriber:
    return make_subscriber(operator)


def order(api: APIClient, **said: Any) -> str:
    asked = said or {"kind": "top_up", "amount": "9.90"}
    answer = post(api, "subscribers/s-1/orders", asked)
    assert answer.status_code == 201, answer.content
    return str(answer.json()["number"])


def begin(api: APIClient, way: str = "wechat_pay", number: str = "") -> tuple[str, Browser]:
    """An order that waits to be paid, and its payer before the sandbox's page."""
    number = number or order(api)
    answer = post(api, f"orders/{number}/pay", {"way": way})
    assert answer.status_code == 200, answer.content
    [*_, attempt] = answer.json()["attempts"]
    return number, Browser().open(attempt["action"]["url"])


def shown(api: APIClient, number: str) -> Any:
    return get(api, f"orders/{number}")


def wallet(api: APIClient) -> str:
    return str(get(api, "subscribers/s-1/wallet")["balance"]["amount"])


# Paying ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "press", "state", "reason", "in_wallet", "page"),
    [
        ("alipay", "pay", "paid", "", "9.90", "succeeded"),
        ("wechat_pay", "pay", "paid", "", "9.90", "succeeded"),
        ("card", "pay", "paid", "", "9.90", "succeeded"),
        ("wechat_pay", "twice", "paid", "", "19.80", "succeeded"),
        ("card", "cancel", "failed", "payer_cancelled", "0.00", "failed"),
        ("alipay", "fail", "failed", "insufficient_funds", "0.00", "failed"),
        ("wechat_pay", "expire", "failed", "expired", "0.00", "expired"),
    ],
)
def test_what_the_payer_does_reaches_the_order(
    operator: Operator,
    api: APIClient,
    way: str,
    press: str,
    state: str,
    reason: str,
    in_wallet: str,
    page: str,
) -> None:
    number, payer = begin(api, way)
    assert shown(api, number)["state"] == "waiting"

    payer.press("do", press)
    assert f'class="result {page}"' in payer.text
    deliver(operator)
    deliver(operator)

    said = shown(api, number)
    assert (said["state"], wallet(api)) == (state, in_wallet)
    assert said["attempts"][0]["reason"] == reason
    assert_books_agree()


def test_a_payment_that_takes_a_while_is_waited_for(operator: Operator, api: APIClient) -> None:
    number, payer = begin(api)

    payer.press("do", "later")
    deliver(operator)
    assert 'class="result processing"' in payer.text
    assert (shown(api, number)["state"], wallet(api)) == ("waiting", "0.00")

    set_clock(operator, NOW + 10 * SECOND)
    deliver(operator)
    assert (shown(api, number)["state"], wallet(api)) == ("paid", "9.90")
    assert 'class="result succeeded"' in payer.open(payer.at).text


def test_one_that_arrives_when_its_order_has_expired_is_in_the_wallet(
    operator: Operator, api: APIClient
) -> None:
    plan = make_plan(operator)
    number = order(api, kind="plan", plan=plan.code, expires_at=(NOW + 5 * SECOND).isoformat())
    number, payer = begin(api, number=number)

    payer.press("do", "later")
    set_clock(operator, NOW + 10 * SECOND)
    assert shown(api, number)["state"] == "expired"
    deliver(operator)

    assert (shown(api, number)["state"], wallet(api)) == ("expired", "9.90")
    assert_books_agree()


def test_a_stale_code_cannot_be_paid(operator: Operator, api: APIClient) -> None:
    number, payer = begin(api)
    set_clock(operator, NOW + 3 * DAY)

    payer.press("do", "pay")
    deliver(operator)

    assert 'class="result expired"' in payer.text
    assert payer.buttons() & {"pay", "later", "twice"} == set()
    assert (shown(api, number)["state"], wallet(api)) == ("expired", "0.00")
    assert not BalanceTransaction.objects.exists()


def test_of_two_pages_of_one_payment_the_first_that_pays_counts(
    operator: Operator, api: APIClient
) -> None:
    _, phone = begin(api)
    computer = Browser().open(phone.at)

    phone.press("do", "pay")
    computer.press("do", "fail")
    deliver(operator)

    assert 'class="result succeeded"' in computer.text
    assert (Payment.objects.count(), wallet(api)) == (1, "9.90")


def test_asking_again_with_a_key_asks_once(operator: Operator, api: APIClient) -> None:
    number, _ = begin(api)
    first = shown(api, number)["attempts"]
    post(api, f"orders/{number}/pay", {"way": "wechat_pay"})
    account = ProviderAccount.objects.get()
    provider = known.again("wechat_pay", account, at=NOW)
    intent_key = Payment.objects.get().key
    attempt = Attempt(
        *(operator.pk, Subscriber.objects.get().pk, intent_key, number, Decimal("9.90"), "CNY"),
        at=NOW,
        expires_at=NOW + 3 * DAY,
    )

    assert shown(api, number)["attempts"] == first
    assert provider.create(attempt) == provider.get(attempt) == provider.create(attempt)
    other = Attempt(
        *(operator.pk, Subscriber.objects.get().pk, intent_key, number, Decimal("0.01"), "CNY"),
        at=NOW,
        expires_at=NOW + 3 * DAY,
    )
    assert provider.create(other).fate == Fate.FAILED
    assert Payment.objects.count() == 1


# Cards -------------------------------------------------------------------------------------------

PAYS, ASKS, DECLINES = company.CARDS


@pytest.mark.parametrize(
    ("number", "steps", "state"),
    [
        (PAYS, ["pay"], "paid"),
        (ASKS, ["pay"], "waiting"),
        (ASKS, ["pay", "confirm"], "paid"),
        (ASKS, ["pay", "refuse"], "failed"),
        (DECLINES, ["pay"], "failed"),
        ("4242424242424242", ["pay"], "waiting"),
    ],
)
def test_each_test_card_does_what_it_says(
    operator: Operator, api: APIClient, number: str, steps: list[str], state: str
) -> None:
    made, payer = begin(api, "card")

    payer.press("do", steps[0], card=number)
    for step in steps[1:]:
        payer.press("do", step)
    deliver(operator)

    assert shown(api, made)["state"] == state
    assert "4242" not in json.dumps(list(Method.objects.values("last4")))


@pytest.mark.parametrize(
    ("number", "fate", "reason"),
    [
        (PAYS, Fate.SUCCEEDED, ""),
        (ASKS, Fate.FAILED, "authentication_required"),
        (DECLINES, Fate.FAILED, "card_declined"),
    ],
)
def test_a_card_that_was_saved_is_charged_without_its_holder(
    operator: Operator, subscriber: Subscriber, number: str, fate: str, reason: str
) -> None:
    account = accounts.open_sandbox(operator, at=NOW)
    provider = known.again("card", account, at=NOW)
    partner = known.partner_of(account, at=NOW)
    assert isinstance(partner, Saves)
    saving = Saving(subscriber.pk, "m-1", "", "", NOW)
    answer = partner.begin_saving(saving)
    assert partner.begin_saving(saving) == answer
    page = Browser().open(answer.action["url"])
    page.press("do", "save", card="4242424242424242")
    assert page.status == 422

    page.press("do", "save", card=number)
    [kept] = company.methods_of(account.pk, str(subscriber.pk))
    [notice] = Notice.objects.all()
    event = partner.read(notice.body.encode())
    assert (event.about, event.key, event.reference) == (About.METHOD, "m-1", kept.pk)
    assert event.details == {"happened": "saved", "card": partner.describe(kept.pk)}
    assert page.says("已保存银行卡", kept.last4)

    def charge(key: str, method: str) -> Any:
        asked = (operator.pk, subscriber.pk, key, "N-1", Decimal("5.00"), "CNY")
        expires_at = NOW + DAY
        return provider.create(Attempt(*asked, at=NOW, expires_at=expires_at, method=method))

    answer = charge("k-1", kept.pk)
    assert (answer.fate, answer.reason) == (fate, reason)
    partner.forget(kept.pk)
    assert charge("k-2", kept.pk).reason == "unknown_method"
    assert charge("k-3", "sbx_card_of_nobody").reason == "unknown_method"


def test_a_saved_card_pays_an_order_at_once(operator: Operator, api: APIClient) -> None:
    asked = {"consent": "I agree", "return_url": "https://portal.example.org/"}
    begun = post(api, "subscribers/s-1/payment-methods", asked).json()
    Browser().open(begun["action"]["url"]).press("do", "save", card=PAYS)
    deliver(operator)
    [saved] = get(api, "subscribers/s-1/payment-methods")["items"]

    answer = post(api, f"orders/{order(api)}/pay", {"way": "card", "method": saved["id"]})

    assert (saved["brand"], saved["last4"]) == ("UnionPay", "0005")
    assert (answer.json()["state"], wallet(api)) == ("paid", "9.90")


def test_a_day_of_the_sandbox_s_balance_matches_our_books(
    operator: Operator, api: APIClient
) -> None:
    number, payer = begin(api, "card")
    payer.press("do", "pay")
    deliver(operator)
    assert (
        post(api, f"orders/{number}/refunds", {"amount": "4.00", "reason": "x"}).status_code == 201
    )
    deliver(operator)

    assert fetching.run(operator, at=NOW + DAY) == 1

    set_clock(operator, NOW + DAY)
    [day] = get(api, "provider-days")["items"]
    assert (day["matched"]["amount"], day["fees"]["amount"]) == ("5.90", "-0.06")
    assert day["missing_there"]["amount"] == day["missing_here"]["amount"] == "0.00"
    assert_books_agree()


def test_a_card_is_not_saved_against_its_holders_will(
    operator: Operator, api: APIClient, subscriber: Subscriber
) -> None:
    account = accounts.open_sandbox(operator, at=NOW)
    saving = company.ask_to_save(
        account.pk, "m-1", merchant="M", customer=str(subscriber.pk), return_url="", at=NOW
    )
    Browser().open(f"/sandbox/save/{saving.secret}").press("do", "cancel")
    with pytest.raises(company.Refused):
        company.save_card(saving.pk, PAYS, NOW.date(), at=NOW)
    _, payer = begin(api, "card")
    payer.press("do", "pay", card=PAYS)

    assert company.methods_of(account.pk, str(subscriber.pk)) == []


# Afterwards --------------------------------------------------------------------------------------


def paid(
    api: APIClient, operator: Operator, way: str = "wechat_pay"
) -> tuple[Provider, Attempt, Browser]:
    """An attempt that was paid, whom it was asked of, and its payer."""
    number, payer = begin(api, way)
    payer.press("do", "pay")
    deliver(operator)
    found = Order.objects.get(number=number)
    intent = PaymentIntent.objects.get(order_id=found.id)
    provider = known.again(way, intent.account, at=NOW)
    return provider, paying.asked_for(found, intent, at=NOW), payer


def told(kind: str) -> list[Any]:
    """What notices of a kind say, the oldest first."""
    said = [json.loads(one.body) for one in Notice.objects.order_by("occurred_at", "id")]
    return [one for one in said if one["type"] == kind]


def test_a_refund_to_a_wallet_app_arrives_later(operator: Operator, api: APIClient) -> None:
    provider, attempt, payer = paid(api, operator)

    asked = provider.refund(attempt, Decimal("4.00"), key="r-1")
    again = provider.refund(attempt, Decimal("4.00"), key="r-1")
    too_much = provider.refund(attempt, Decimal("6.00"), key="r-2")
    assert (asked.fate, again.reference) == (Fate.WAITING, asked.reference)
    assert (too_much.fate, too_much.reason) == (Fate.FAILED, "more_than_is_left")
    assert told("refund.succeeded") == []

    set_clock(operator, NOW + 10 * SECOND)
    deliver(operator)
    [said] = told("refund.succeeded")
    assert (said["refund"]["key"], said["refund"]["amount"]) == ("r-1", "4.00")
    later = replace(attempt, at=NOW + 10 * SECOND)
    assert provider.refund(later, Decimal("4.00"), key="r-1").fate == Fate.SUCCEEDED
    assert "4.00" in payer.open(payer.at).text


def test_a_refund_to_a_card_is_there_at_once_and_one_may_come_back(
    operator: Operator, api: APIClient
) -> None:
    provider, attempt, _ = paid(api, operator, "card")
    assert provider.refund(attempt, Decimal("9.90"), key="r-1").fate == Fate.SUCCEEDED

    provider, attempt, payer = paid(api, operator, "alipay")
    provider.refund(attempt, Decimal("9.90"), key="r-2")
    payer.open(payer.at).press("do", "refuse_refund")

    [said] = told("refund.failed")
    assert (said["refund"]["key"], said["refund"]["reason"]) == ("r-2", "account_closed")
    assert provider.refund(attempt, Decimal("9.90"), key="r-3").fate == Fate.WAITING


@pytest.mark.parametrize(("decision", "balance"), [("won", "9.90"), ("lost", "0.00")])
def test_a_dispute_takes_the_money_until_it_is_decided(
    operator: Operator, api: APIClient, decision: str, balance: str
) -> None:
    provider, attempt, payer = paid(api, operator)

    payer.press("do", "dispute")
    [opened] = told("dispute.open")
    assert (opened["dispute"]["amount"], opened["payment"]["key"]) == ("9.90", attempt.key)
    dispute = Dispute.objects.get()
    assert balance_of_sandbox(dispute.account) == Decimal("0.00")
    assert provider.refund(attempt, Decimal("1.00"), key="r-1").reason == "disputed"
    company.answer_dispute(dispute.account, dispute.pk, {"text": "it was delivered"})

    payer.open(payer.at).press("do", decision)
    payer.open(payer.at)
    assert payer.buttons().isdisjoint({"dispute", "won", "lost"})
    assert len(told(f"dispute.{decision}")) == 1
    assert balance_of_sandbox(dispute.account) == Decimal(balance)


def balance_of_sandbox(account: int) -> Decimal:
    rows = BalanceTransaction.objects.filter(account=account)
    total = rows.aggregate(total=Sum("amount"))["total"]
    return Decimal(total or 0)


ACTS = (
    *("pay", "later", "twice", "fail", "expire", "settle", "dispute", "won", "lost", "wait"),
    *("refund", "refuse_refund"),
)


_ACCOUNTS = itertools.count(1_000_000)


@hypothesis.settings(max_examples=25)
@hypothesis.given(
    acts=st.lists(st.tuples(st.sampled_from(ACTS), st.integers(1, 990)), min_size=1, max_size=12)
)
def test_its_balance_is_what_was_paid_less_what_went_back(acts: list[tuple[str, int]]) -> None:
    account, at = next(_ACCOUNTS), NOW
    asked = company.Asked(
        *(account, "k-1", "alipay", "M", "N-1", "c", "CNY", Decimal("9.90")), NOW + DAY
    )
    payment = company.ask(asked, at=at)
    for nr, (act, fen) in enumerate(acts):
        at += SECOND * (60 if act == "wait" else 1)
        with contextlib.suppress(company.Refused):
            _act(payment, act, Decimal(fen) / 100, f"r-{nr}", at)
    company.settle_due(account, at=at)
    _assert_its_books_agree(account)


def _act(payment: Payment, act: str, amount: Decimal, key: str, at: dt.datetime) -> None:
    payment_id = payment.pk
    if act == "refund":
        company.give_back(payment.account, payment_id, amount, key=key, at=at)
    elif act == "refuse_refund":
        for refund in Refund.objects.filter(account=payment.account):
            company.refuse_refund(payment_id, refund.pk, at=at)
    elif act in ("later", "twice"):
        company.pay(payment_id, at=at, later=act == "later", twice=act == "twice")
    elif act in ("won", "lost"):
        company.decide(payment_id, for_merchant=act == "won", at=at)
    elif act == "fail":
        company.fail(payment_id, "insufficient_funds", at=at)
    elif act == "settle":
        company.settle_now(payment_id, at=at)
    elif act == "dispute":
        company.dispute(payment_id, "product_not_received", at=at)
    elif act != "wait":
        getattr(company, act)(payment_id, at=at)


def _assert_its_books_agree(account: int) -> None:
    payments = list(Payment.objects.filter(account=account))
    refunds = list(Refund.objects.filter(account=account))
    disputes = list(Dispute.objects.filter(account=account))
    succeeded = [one for one in payments if one.state == Payment.State.SUCCEEDED]
    back = sum(one.amount for one in refunds if one.state != Refund.State.FAILED)
    gone = sum(one.amount for one in disputes if one.state != Dispute.State.WON)
    came = sum(one.amount for one in succeeded)
    assert balance_of_sandbox(account) == came - back - gone >= 0
    assert sum(one.refunded for one in succeeded) == back
    # Each end of each thing was told once, and nothing else was.
    ends = [
        *(f"payment.{one.state}" for one in payments),
        *(f"refund.{one.state}" for one in refunds),
        *(f"dispute.{one.state}" for one in disputes),
    ]
    open_ = ("payment.waiting", "payment.processing", "refund.waiting", "dispute.open")
    said = [json.loads(one.body)["type"] for one in Notice.objects.filter(account=account)]
    assert sorted(said) == sorted(
        [end for end in ends if end not in open_] + ["dispute.open"] * len(disputes)
    )


# Notices -----------------------------------------------------------------------------------------


def a_notice(operator: Operator, api: APIClient) -> tuple[str, dict[str, str], bytes]:
    """A door and a notice of a payment that is on its way there."""
    _, payer = begin(api)
    payer.press("do", "pay")
    [notice] = notices.due(at=clock.wall())
    account = ProviderAccount.objects.get()
    [secret] = accounts.secrets_of(account, ProviderSecret.Kind.WEBHOOK, at=NOW)
    body = notice.body.encode()
    door = f"/webhooks/sandbox/{account.public_id}"
    return door, notices.sign(notice.pk, body, secret, at=clock.wall()), body


def send(door: str, headers: dict[str, str], body: bytes) -> Any:
    return Client(headers=headers).post(door, body, "application/json")


def test_a_notice_over_http_is_taken_once(operator: Operator, api: APIClient) -> None:
    door, headers, body = a_notice(operator, api)

    assert [send(door, headers, body).status_code for _ in range(2)] == [200, 200]
    deliver(operator)  # and once more by itself

    assert (ProviderEvent.objects.count(), wallet(api)) == (1, "9.90")


@pytest.mark.parametrize(
    "forge",
    [
        lambda h, b: (h, b.replace(b"9.90", b"0.01")),
        lambda h, b: ({**h, "webhook-id": "sbx_evt_other"}, b),
        lambda h, b: ({**h, "webhook-signature": "v1," + "A" * 43 + "="}, b),
        lambda h, b: ({**h, "webhook-signature": ""}, b),
        lambda h, b: ({**h, "webhook-timestamp": "1"}, b),
        lambda h, b: ({**h, "webhook-timestamp": "\u0663"}, b),
        lambda h, b: ({}, b),
        lambda h, b: (h, b""),
        lambda h, b: (h, b"[" * 5000),
    ],
)
def test_a_forged_notice_is_not_taken(operator: Operator, api: APIClient, forge: Any) -> None:
    door, headers, body = a_notice(operator, api)

    assert send(door, *forge(headers, body)).status_code == 400

    assert (ProviderEvent.objects.count(), wallet(api)) == (0, "0.00")


def test_a_notice_that_is_old_or_for_another_account_is_not_taken(
    operator: Operator, api: APIClient
) -> None:
    door, headers, body = a_notice(operator, api)
    account = ProviderAccount.objects.get()
    [secret] = accounts.secrets_of(account, ProviderSecret.Kind.WEBHOOK, at=NOW)
    other = accounts.open_sandbox(make_operator("other"), at=NOW)
    [others] = accounts.secrets_of(other, ProviderSecret.Kind.WEBHOOK, at=NOW)
    old = clock.wall() - notices.TOLERANCE - SECOND
    name = headers["webhook-id"]

    assert send(door, notices.sign(name, body, secret, at=old), body).status_code == 400
    theirs = f"/webhooks/sandbox/{other.public_id}"
    assert send(theirs, headers, body).status_code == 400
    # Signed by whom it is sent to, about somebody else's payment.
    assert send(theirs, notices.sign(name, body, others, at=clock.wall()), body).status_code == 400
    assert ProviderEvent.objects.count() == 0


def test_a_notice_that_is_not_taken_is_sent_again_and_at_last_no_more(
    operator: Operator, api: APIClient
) -> None:
    a_notice(operator, api)
    wall = clock.wall()
    tries = 0
    while waiting := notices.due(at=wall):
        notices.refused(waiting[0], at=wall)
        tries += 1
        assert notices.due(at=wall) == [], "not before a pause"
        wall += dt.timedelta(days=1)

    assert tries == len(notices.PAUSES) + 1


# Where it is not ---------------------------------------------------------------------------------


def test_switched_off_its_ways_and_pages_are_gone(
    operator: Operator, api: APIClient, settings: Any
) -> None:
    number, payer = begin(api)
    payer.press("do", "later")
    settings.SANDBOX_PAYMENTS = False
    set_clock(operator, NOW + 10 * SECOND)
    deliver(operator)

    for way in ("alipay", "wechat_pay", "card"):
        assert_problem(post(api, f"orders/{number}/pay", {"way": way}), 422, "unknown_way")
    assert payer.open(payer.at).status == 404
    assert wallet(api) == "0.00"


def test_who_takes_real_money_is_not_paid_by_the_sandbox(
    operator: Operator, api: APIClient
) -> None:
    number, payer = begin(api)
    address = payer.at
    _, other = begin(api)
    other.press("do", "pay")  # its notice is on the way when the operator goes live
    accounts.keep(operator, "stripe", name="acct_1", live=True, at=NOW)

    deliver(operator)
    assert payer.open(address).status == 404
    account = ProviderAccount.objects.get(provider="sandbox")
    provider = known.again("wechat_pay", account, at=NOW)
    found = Order.objects.get(number=number)
    intent = PaymentIntent.objects.get(order_id=found.id)
    assert provider.create(paying.asked_for(found, intent, at=NOW)).fate == Fate.FAILED
    assert wallet(api) == "0.00"

    # Nor once the account has ended: a customer of theirs is never asked to pretend.
    accounts.end(operator, "stripe", at=NOW)
    assert payer.open(address).status == 404
    assert_problem(post(api, f"orders/{number}/pay", {"way": "alipay"}), 422, "unknown_way")


# Pages -------------------------------------------------------------------------------------------


def test_names_are_text(api: APIClient, operator: Operator) -> None:
    evil = '<script>alert(1)</script>"><img src=x onerror=alert(1)>'
    Operator.objects.filter(pk=operator.pk).update(name=evil)
    _, payer = begin(api)

    assert payer.says(evil)
    assert "<script" not in payer.text
    assert "<img" not in payer.text


def test_pages_have_a_policy_and_are_kept_by_nobody(api: APIClient) -> None:
    _, payer = begin(api, "card")

    policy = payer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<script|<style|\sstyle=|\son\w+=", payer.text)
    assert payer.headers["Referrer-Policy"] == "same-origin"
    assert payer.headers["X-Frame-Options"] == "DENY"
    assert "no-store" in payer.headers["Cache-Control"]


def test_a_button_is_pressed_on_the_page_only(operator: Operator, api: APIClient) -> None:
    _, payer = begin(api)
    elsewhere = Client(enforce_csrf_checks=True)

    assert elsewhere.post(f"{payer.at}/act", {"do": "pay"}).status_code == 403
    assert elsewhere.get(f"{payer.at}/act", {"do": "pay"}).status_code == 405
    assert Payment.objects.get().state == "waiting"


def test_nobody_guesses_an_address() -> None:
    for address in ("/sandbox/pay/none", "/sandbox/pay/%00", "/sandbox/"):
        assert Browser().open(address).status == 404
    assert Client().post("/sandbox/pay/none/act", {"do": "pay"}).status_code == 404


def test_it_speaks_chinese_first_and_english(api: APIClient) -> None:
    _, payer = begin(api)

    assert payer.says("沙盒", "确认付款", "¥9.90")
    payer.press("language", "en")
    assert payer.says("Sandbox", "Pay ¥9.90")
    payer.press("do", "pay")
    assert payer.says("Paid")
