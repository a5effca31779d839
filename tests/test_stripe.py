"""Paying by Stripe: the real library against a server that behaves as Stripe does."""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
import stripe
from django.core.management import call_command
from rest_framework.test import APIClient

from billing import disputes, due, methods, receiving, wallets
from billing.checkout import links
from billing.models import (
    Order,
    PaymentIntent,
    PaymentMethod,
    PaymentTask,
    ProviderAccount,
    ProviderFile,
    ProviderLine,
)
from billing.orders import keeping, paying
from billing.provider_books import fetching
from billing.ways.stripe import client as calling
from billing.ways.stripe.amounts import from_stripe, to_stripe
from subscriptions import catalog
from subscriptions.errors import Invalid
from subscriptions.models import Operator, Subscriber
from tests.factories import (
    NOW,
    client_for,
    make_key,
    make_operator,
    make_subscriber,
    set_clock,
    yuan,
)
from tests.fakes import shapes
from tests.fakes.stripe_server import FakeStripe
from tests.payer import Browser
from tests.providers import deliver, stripe_account
from tests.usage import DAY, MINUTE, assert_books_agree, assert_problem, get, post, put

pytestmark = pytest.mark.django_db

BACK = "https://portal.example.com/orders"


@pytest.fixture
def fake(settings: Any) -> Iterator[FakeStripe]:
    server = FakeStripe()
    settings.STRIPE_API = server.start()
    yield server
    server.stop()
    calling.forget_connections()


@pytest.fixture
def account(operator: Operator, subscriber: Subscriber, fake: FakeStripe) -> ProviderAccount:
    return stripe_account(operator)


def top_up(api: APIClient, amount: str = "9.90") -> str:
    said = {"kind": "top_up", "amount": amount}
    return str(post(api, "subscribers/s-1/orders", said).json()["number"])


def begin(api: APIClient, number: str, way: str, **more: str) -> Any:
    return post(api, f"orders/{number}/pay", {"way": way, "return_url": BACK, **more})


def action(answer: Any) -> dict[str, Any]:
    assert answer.status_code == 200, answer.content
    body: dict[str, Any] = answer.json()["attempts"][-1]["action"]
    return body


def balance(subscriber: Subscriber) -> Decimal:
    return wallets.balance_of(subscriber.pk, "CNY")


# --- the ways ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "kind", "object"),
    [
        ("alipay", "redirect", "payment_intent"),
        ("wechat_pay", "qr", "payment_intent"),
        ("card", "redirect", "checkout.session"),
    ],
)
def test_a_payment_is_granted_once_however_it_is_told(
    operator: Operator,
    subscriber: Subscriber,
    account: ProviderAccount,
    fake: FakeStripe,
    api: APIClient,
    way: str,
    kind: str,
    object: str,
) -> None:
    number = top_up(api)
    first = action(begin(api, number, way))
    again = action(begin(api, number, way))
    assert first == again
    assert first["kind"] == kind
    [asked] = fake.of(object)
    assert asked.get("amount", asked.get("amount_total")) == 990

    fake.pay(asked["id"])
    told = fake.bodies()
    deliver(operator, account, *reversed(told), *told)

    shown = get(api, f"orders/{number}")
    assert (shown["state"], shown["way"]) == ("paid", way)
    assert balance(subscriber) == Decimal("9.90")
    assert PaymentTask.objects.count() == 0
    assert_books_agree()


def test_money_is_counted_in_hundredths() -> None:
    assert to_stripe(Decimal("9.90"), "CNY") == 990
    assert from_stripe(990) == Decimal("9.90")
    for amount, currency in ((Decimal("0.001"), "CNY"), (Decimal(5), "JPY")):
        with pytest.raises(ValueError, match=r"decimals|paid"):
            to_stripe(amount, currency)


def test_the_version_is_the_librarys_own() -> None:
    """An upgrade of the library is read first, and then pinned."""
    assert stripe.api_version == calling.API_VERSION


def test_a_payer_who_fails_may_try_again_in_the_same_attempt(
    operator: Operator, account: ProviderAccount, fake: FakeStripe, api: APIClient
) -> None:
    number = top_up(api)
    begin(api, number, "alipay")
    [intent] = fake.of("payment_intent")
    fake.decline(intent["id"])
    deliver(operator, account, *fake.bodies())

    [attempt] = get(api, f"orders/{number}")["attempts"]
    assert (attempt["state"], attempt["reason"]) == (
        "waiting",
        "payment_intent_payment_attempt_failed",
    )
    fake.pay(intent["id"])
    deliver(operator, account, *reversed(fake.bodies()))
    assert get(api, f"orders/{number}")["state"] == "paid"


def test_however_often_a_payer_comes_back_stripe_is_asked_once_in_a_while(
    operator: Operator, account: ProviderAccount, fake: FakeStripe, api: APIClient
) -> None:
    number = top_up(api)
    begin(api, number, "alipay")
    fake.asked.clear()
    back = links.return_url(keeping.find(operator, number))

    for _ in range(4):
        assert Browser().open(back).status == 200
    assert [(verb, path.rpartition("_")[0]) for verb, path, _ in fake.asked] == [
        ("GET", "/v1/payment_intents/pi")
    ]
    intent = PaymentIntent.objects.get()
    assert intent.asked_at is not None
    soon, later = (intent.asked_at + dt.timedelta(seconds=after) for after in (4, 5))
    assert [keeping.may_ask(intent, wall=at) for at in (soon, later, later)] == [False, True, False]


# --- what does not fit ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lies", "cause"),
    [
        ({"amount_received": 989}, "other_amount"),
        ({"amount_received": 99000}, "other_amount"),
        ({"currency": "usd"}, "other_currency"),
        ({"metadata": {"key": "CT-2026-O-0000000009-1"}}, "unknown_order"),
    ],
)
def test_what_was_not_asked_for_is_never_granted(
    operator: Operator,
    subscriber: Subscriber,
    account: ProviderAccount,
    fake: FakeStripe,
    api: APIClient,
    lies: dict[str, Any],
    cause: str,
) -> None:
    number = top_up(api)
    begin(api, number, "alipay")
    fake.lies = lies
    fake.pay(fake.of("payment_intent")[0]["id"])
    deliver(operator, account, *fake.bodies())

    [task] = get(api, "payment-tasks")["items"]
    assert (task["cause"], task["state"]) == (cause, "open")
    assert get(api, f"orders/{number}")["state"] != "paid"
    assert balance(subscriber) == 0
    assert_books_agree()
    # Staff send it back; what Stripe refuses comes back to them.
    fake.lies = {}
    back = post(api, f"payment-tasks/{task['id']}/resolve", {"action": "refund", "note": "no"})
    assert (back.status_code, back.json()["state"]) == (200, "returning")
    [refund] = fake.of("refund")
    fake.settle_refund(refund["id"], "failed")
    deliver(operator, account, *fake.bodies("refund"))
    assert get(api, f"payment-tasks/{task['id']}")["state"] == "open"
    assert "expired_or_canceled_card" in get(api, f"payment-tasks/{task['id']}")["detail"]


def test_a_page_and_its_payment_that_tell_two_amounts_are_for_staff_to_see(
    operator: Operator,
    subscriber: Subscriber,
    account: ProviderAccount,
    fake: FakeStripe,
    api: APIClient,
) -> None:
    begin(api, top_up(api), "card")
    fake.lies = {"amount_received": 2000}
    fake.pay(fake.of("checkout.session")[0]["id"])
    # What the page says comes first, and all of it twice.
    deliver(operator, account, *fake.bodies("checkout.session"), *fake.bodies(), *fake.bodies())

    assert balance(subscriber) == Decimal("9.90")
    [task] = get(api, "payment-tasks")["items"]
    assert (task["cause"], task["state"]) == ("two_amounts", "open")
    assert "9.90 CNY, then as 20.00 CNY" in task["detail"]
    path = f"payment-tasks/{task['id']}/resolve"
    for action in ("wallet", "refund"):  # it has its place
        assert_problem(post(api, path, {"action": action, "note": "x"}), 422, "invalid")
    assert post(api, path, {"action": "note", "note": "asked"}).json()["state"] == "resolved"
    assert balance(subscriber) == Decimal("9.90")
    assert_books_agree()


def test_a_refund_of_unclear_money_is_asked_for_once_and_settles_later(
    operator: Operator, account: ProviderAccount, fake: FakeStripe, api: APIClient
) -> None:
    begin(api, top_up(api), "alipay")
    fake.lies = {"amount_received": 980}
    fake.pay(fake.of("payment_intent")[0]["id"])
    deliver(operator, account, *fake.bodies())
    [task] = get(api, "payment-tasks")["items"]
    path, said = f"payment-tasks/{task['id']}/resolve", {"action": "refund", "note": "no"}

    fake.troubles.extend(["none", 500])  # the list of refunds comes, then Stripe is away
    assert_problem(post(api, path, said), 503, "provider_unavailable")
    fake.troubles.clear()
    fake.troubles.append(500)
    receiving.return_open(operator, at=NOW)
    receiving.return_open(operator, at=NOW)
    fake.forget_keys()
    receiving.return_open(operator, at=NOW)
    [refund] = fake.of("refund")
    fake.settle_refund(refund["id"])
    receiving.return_open(operator, at=NOW)
    deliver(operator, account, *fake.bodies("refund"))

    assert get(api, f"payment-tasks/{task['id']}")["state"] == "resolved"
    assert len(fake.of("refund")) == 1
    assert_books_agree()


def test_money_for_another_account_of_the_operators_is_not_granted(
    operator: Operator, account: ProviderAccount, fake: FakeStripe, api: APIClient
) -> None:
    number = top_up(api)
    begin(api, number, "alipay")
    other = stripe_account(operator, "acct_2", secret="whsec_of_acct_2")
    fake.pay(fake.of("payment_intent")[0]["id"])
    deliver(operator, other, *fake.bodies(), secret="whsec_of_acct_2")

    assert PaymentTask.objects.get().cause == "other_account"
    assert Order.objects.get(number=number).state == "waiting"


# --- too late ------------------------------------------------------------------------------------


def test_an_order_that_expires_leaves_no_code_that_can_be_paid(
    operator: Operator,
    subscriber: Subscriber,
    account: ProviderAccount,
    fake: FakeStripe,
    api: APIClient,
) -> None:
    for way in ("alipay", "wechat_pay", "card"):
        begin(api, top_up(api), way)
    late = fake.of("payment_intent")[1]  # paid at the last moment, and not told
    set_clock(operator, NOW + 3 * DAY)
    due.expire_orders(operator, at=NOW + 3 * DAY)
    fake.pay(late["id"])

    assert paying.recall(operator, at=NOW + 3 * DAY) == 3
    assert paying.recall(operator, at=NOW + 3 * DAY) == 0

    assert [one["status"] for one in fake.of("payment_intent")] == ["canceled", "succeeded"]
    assert [one["status"] for one in fake.of("checkout.session")] == ["expired"]
    assert set(Order.objects.values_list("state", flat=True)) == {"expired"}
    assert balance(subscriber) == Decimal("9.90")  # it is real: it went into the wallet
    deliver(operator, account, *fake.bodies())
    assert balance(subscriber) == Decimal("9.90")
    assert_books_agree()


def test_who_pays_twice_in_two_browsers_has_the_second_in_the_wallet(
    operator: Operator,
    subscriber: Subscriber,
    account: ProviderAccount,
    fake: FakeStripe,
    api: APIClient,
) -> None:
    number = top_up(api)
    for way in ("alipay", "wechat_pay"):
        begin(api, number, way)
    for intent in fake.of("payment_intent"):
        fake.pay(intent["id"])
    deliver(operator, account, *fake.bodies())

    assert balance(subscriber) == Decimal("19.80")
    assert Order.objects.get(number=number).way == "alipay"
    kinds = PaymentIntent.objects.values_list("way", "state")
    assert set(kinds) == {("alipay", "succeeded"), ("wechat_pay", "cancelled")}
    assert paying.recall(operator, at=NOW) == 1
    assert_books_agree()


# --- Stripe in trouble ---------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", [429, 500, 503, "lost", "hang"])
def test_while_stripe_is_away_the_payer_is_told_and_nothing_is_asked_twice(
    operator: Operator,
    account: ProviderAccount,
    fake: FakeStripe,
    api: APIClient,
    monkeypatch: pytest.MonkeyPatch,
    trouble: int | str,
) -> None:
    if trouble == "hang":
        monkeypatch.setattr(calling, "TIMEOUT_SECONDS", (5, 0.2))
        calling.forget_connections()
    number = top_up(api)
    fake.troubles.append(trouble)

    assert_problem(begin(api, number, "wechat_pay"), 503, "provider_unavailable")
    assert PaymentIntent.objects.get().state == "intended"

    if trouble == "hang":
        monkeypatch.undo()
        calling.forget_connections()
    assert paying.ask_again(operator, at=NOW + MINUTE) == 1
    assert action(begin(api, number, "wechat_pay"))["kind"] == "qr"
    assert len(fake.of("payment_intent")) == 1


def test_after_a_day_what_was_asked_is_looked_for_first(
    operator: Operator, account: ProviderAccount, fake: FakeStripe, api: APIClient
) -> None:
    number = top_up(api)
    fake.troubles.append("lost")
    begin(api, number, "alipay")
    fake.forget_keys()
    set_clock(operator, NOW + DAY)

    assert paying.ask_again(operator, at=NOW + DAY) == 1
    assert len(fake.of("payment_intent")) == 1
    assert PaymentIntent.objects.get().reference == fake.of("payment_intent")[0]["id"]


def test_what_stripe_refuses_is_a_failed_attempt_with_its_word(
    account: ProviderAccount, fake: FakeStripe, api: APIClient
) -> None:
    number = top_up(api)
    fake.troubles.append(400)
    answer = post(api, f"orders/{number}/pay", {"way": "card"})
    assert answer.json()["attempts"][0]["reason"] == "refused"
    assert answer.json()["state"] == "failed"
    assert_problem(
        post(api, f"orders/{number}/pay", {"way": "card", "method": "77"}), 422, "unknown_method"
    )
    assert_problem(
        post(api, f"orders/{number}/pay", {"way": "card", "return_url": "javascript:x"}),
        422,
        "invalid",
    )


# --- saved cards ---------------------------------------------------------------------------------


@pytest.fixture
def saved(
    operator: Operator, account: ProviderAccount, fake: FakeStripe, api: APIClient
) -> PaymentMethod:
    said = {"consent": "You may charge my card each month.", "return_url": BACK}
    begun = post(api, "subscribers/s-1/payment-methods", said)
    assert begun.status_code == 201, begun.content
    assert get(api, "subscribers/s-1/payment-methods")["items"] == []
    fake.save_card(fake.of("checkout.session")[-1]["id"])
    deliver(operator, account, *fake.bodies(), *fake.bodies())
    assert methods.sweep(operator, at=NOW) == 1
    assert methods.sweep(operator, at=NOW) == 0
    return PaymentMethod.objects.get()


def test_a_saved_card_is_charged_without_its_owner(
    operator: Operator,
    subscriber: Subscriber,
    account: ProviderAccount,
    fake: FakeStripe,
    api: APIClient,
    saved: PaymentMethod,
) -> None:
    [shown] = get(api, "subscribers/s-1/payment-methods")["items"]
    assert (shown["brand"], shown["last4"], shown["expires"]) == ("visa", "4242", "2030-12")
    assert (shown["default"], shown["consent_at"]) == (True, "2026-06-10T04:00:00Z")

    number = top_up(api)
    charge = {"way": "card", "method": shown["id"]}
    assert post(api, f"orders/{number}/pay", charge).json()["state"] == "paid"
    deliver(operator, account, *fake.bodies())
    assert balance(subscriber) == Decimal("9.90")

    fake.declines = True
    declined = post(api, f"orders/{top_up(api)}/pay", charge).json()
    assert declined["state"] == "failed"
    assert "card_declined" in declined["attempts"][0]["reason"]
    assert paying.recall(operator, at=NOW) == 1
    assert fake.of("payment_intent")[-1]["status"] == "canceled"

    fake.declines, fake.asks_for_3ds = False, True
    alone = post(api, f"orders/{top_up(api)}/pay", charge).json()
    assert "authentication_required" in alone["attempts"][0]["reason"]
    with_owner = begin(api, top_up(api), "card", method=shown["id"])
    assert action(with_owner)["url"].startswith("https://hooks.stripe.test/3ds/")
    assert_books_agree()


def test_a_removed_card_is_charged_no_more(
    operator: Operator,
    account: ProviderAccount,
    fake: FakeStripe,
    api: APIClient,
    saved: PaymentMethod,
) -> None:
    address = f"/api/v1/subscribers/s-1/payment-methods/{saved.pk}"
    assert api.post(f"{address}/default").json()["default"] is True
    for _ in range(2):
        assert api.delete(address).json()["state"] == "removed"
    assert_problem(api.post(f"{address}/default"), 409, "method_removed")
    charge = {"way": "card", "method": str(saved.pk)}
    assert_problem(post(api, f"orders/{top_up(api)}/pay", charge), 422, "unknown_method")

    assert methods.sweep(operator, at=NOW) == 1
    assert fake.of("payment_method")[0]["customer"] is None
    deliver(operator, account, *fake.bodies())


def test_another_operator_sees_no_method_and_pays_with_none(
    operator: Operator, fake: FakeStripe, api: APIClient, saved: PaymentMethod
) -> None:
    theirs = make_operator("theirs")
    stripe_account(theirs, "acct_theirs")
    own = client_for(make_key(theirs))
    address = f"/api/v1/subscribers/s-1/payment-methods/{saved.pk}"
    consent = {"consent": "x", "return_url": BACK}

    def refused() -> None:
        assert_problem(own.delete(address), 404, "not_found")
        assert_problem(own.post(f"{address}/default"), 404, "not_found")

    assert_problem(own.get("/api/v1/subscribers/s-1/payment-methods"), 404, "not_found")
    assert_problem(post(own, "subscribers/s-1/payment-methods", consent), 404, "not_found")
    refused()
    make_subscriber(theirs, "s-1")
    assert get(own, "subscribers/s-1/payment-methods") == {"items": []}
    refused()
    charge = {"way": "card", "method": str(saved.pk)}
    assert_problem(post(own, f"orders/{top_up(own)}/pay", charge), 422, "unknown_method")
    assert PaymentMethod.objects.get().state == "saved"


# --- disputes, and its balance -------------------------------------------------------------------


def bought(operator: Operator, account: ProviderAccount, fake: FakeStripe, api: APIClient) -> str:
    """The number of a booster that was paid."""
    catalog.publish_booster(
        operator, "pack", name="Pack", price=yuan("9.90"), units=1000, valid_days=9, at=NOW
    )
    said = {"kind": "booster", "booster": "pack"}
    number = str(post(api, "subscribers/s-1/orders", said).json()["number"])
    begin(api, number, "alipay")
    fake.pay(fake.of("payment_intent")[-1]["id"])
    deliver(operator, account, *fake.bodies())
    return number


def test_evidence_is_handed_in_at_stripe_once(
    operator: Operator, account: ProviderAccount, fake: FakeStripe, api: APIClient
) -> None:
    bought(operator, account, fake, api)
    disputed = fake.dispute(fake.of("payment_intent")[-1]["id"])
    deliver(operator, account, *fake.bodies("charge.dispute"))
    [dispute] = get(api, "disputes")["items"]
    path = f"disputes/{dispute['number']}"
    put(api, f"{path}/evidence", {"product_description": "1000 units", "service_date": "10 June"})

    fake.troubles.append(500)
    assert post(api, f"{path}/submit").json()["sent_at"] is None
    disputes.sweep(operator, at=NOW)
    disputes.sweep(operator, at=NOW)
    deliver(operator, account, *fake.bodies("charge.dispute"))

    kept = fake.things[disputed["id"]]
    assert kept["evidence"] == {"product_description": "1000 units", "service_date": "10 June"}
    assert kept["evidence_details"]["submission_count"] == 1
    shown = get(api, path)
    assert (shown["state"], shown["sent_at"]) == ("under_review", "2026-06-10T04:00:00Z")
    # What Stripe takes no more, staff see.
    again = post(api, f"{path}/submit")
    assert_problem(again, 409, "not_taken")
    assert "dispute_already_closed" in again.json()["detail"]
    assert [get(api, path)[name] for name in ("submitted_at", "sent_at")] == [None, None]


def test_an_inquiry_at_stripe_is_answered_and_takes_nothing(
    operator: Operator, account: ProviderAccount, fake: FakeStripe, api: APIClient
) -> None:
    bought(operator, account, fake, api)
    asked = fake.dispute(fake.of("payment_intent")[-1]["id"], "warning_needs_response")
    deliver(operator, account, *fake.bodies("charge.dispute"))
    [inquiry] = get(api, "disputes")["items"]
    put(api, f"disputes/{inquiry['number']}/evidence", {"service_date": "10 June"})

    post(api, f"disputes/{inquiry['number']}/submit")
    deliver(operator, account, *fake.bodies("charge.dispute"))

    shown = get(api, f"disputes/{inquiry['number']}")
    assert (shown["state"], shown["sent_at"]) == ("inquiry", "2026-06-10T04:00:00Z")
    assert fake.things[asked["id"]]["status"] == "warning_under_review"

    fake.close_dispute(asked["id"], "warning_closed")
    deliver(operator, account, *fake.bodies("charge.dispute"))

    assert get(api, f"disputes/{inquiry['number']}")["state"] == "withdrawn"
    assert_books_agree()


def test_a_day_of_stripe_s_balance_is_asked_for_and_matches_our_books(
    operator: Operator, account: ProviderAccount, fake: FakeStripe, api: APIClient
) -> None:
    """A payment, a part of it that goes back, another that is disputed and won, a stranger's."""
    fake.fee = 10
    number = bought(operator, account, fake, api)
    begin(api, top_up(api), "wechat_pay")
    paid = fake.pay(fake.of("payment_intent")[-1]["id"])
    deliver(operator, account, *fake.bodies())
    disputed = fake.dispute(paid["id"])
    fake.close_dispute(disputed["id"], "won")
    back = post(api, f"orders/{number}/refunds", {"amount": "4.00", "reason": "asked"})
    assert back.status_code == 201, back.content
    fake.settle_refund(fake.of("refund")[0]["id"])
    deliver(operator, account, *fake.bodies())
    strange = fake._new_intent(700, "cny", "card", {})
    fake.pay(strange["id"])

    with pytest.raises(Invalid):
        fetching.fetch(operator, account, NOW.date(), at=NOW)
    fake.troubles.append(500)
    assert fetching.run(operator, at=NOW + DAY) == 0
    assert [fetching.run(operator, at=NOW + DAY) for _ in range(2)] == [1, 0]
    assert fetching.fetch(operator, account, NOW.date(), at=NOW + DAY).new is False

    [day] = get(api, "provider-days?from=2026-06-10&to=2026-06-10")["items"]
    assert {name: day[name]["amount"] for name in ("total", "matched", "missing_here", "fees")} == {
        "total": "22.50",  # 9.90 + 9.90 - 9.90 + 9.90 - 4.00 + 7.00 - 0.30
        "matched": "15.80",
        "missing_here": "7.00",
        "fees": "-0.30",
    }
    assert day["missing_there"]["amount"] == "0.00"
    states = ProviderLine.objects.order_by("line_id").values_list("kind", "state")
    assert sorted(states) == [
        ("dispute", "matched"),
        ("dispute", "matched"),
        ("payment", "differs"),
        ("payment", "matched"),
        ("payment", "matched"),
        ("refund", "matched"),
    ]
    # A day on which nothing moved is known to be such: what we have of it is missing there.
    set_clock(operator, NOW + DAY)
    out = io.StringIO()
    call_command("provider_books", "fetch", "2026-06-10", stdout=out)
    assert "stripe acct_1 2026-06-10" in out.getvalue()
    assert fetching.run(operator, at=NOW + 3 * DAY) == 2
    assert ProviderFile.objects.filter(rows=0).count() == 2
    # Without days, it is of the last 31.
    assert [one["day"] for one in get(api, "provider-days")["items"]] == ["2026-06-10"]
    assert_problem(api.get("/api/v1/provider-days?from=x&to=2026-06-10"), 400, "bad_query")
    assert_books_agree()


# --- the fake ------------------------------------------------------------------------------------


def test_the_fake_has_the_shapes_of_the_library(
    operator: Operator,
    account: ProviderAccount,
    fake: FakeStripe,
    api: APIClient,
    saved: PaymentMethod,
) -> None:
    for way in ("alipay", "wechat_pay", "card"):
        begin(api, top_up(api), way)
    fake.pay(fake.of("checkout.session")[-1]["id"])
    paid = fake.pay(fake.of("payment_intent")[0]["id"])
    fake.dispute(paid["id"])
    fake.answer("POST", "/v1/refunds", {"payment_intent": paid["id"], "amount": "990"}, "a refund")

    kinds = {thing["object"] for thing in fake.things.values()}
    assert kinds | {"event"} == set(shapes.OBJECTS)
    for kind in kinds:
        for thing in fake.of(kind):
            assert shapes.unknown_fields(thing) == [], kind
    for event in fake.events:
        assert shapes.unknown_fields(event) == []
        assert shapes.unknown_fields(event["data"]["object"]) == [], event["type"]
    # And it would be seen.
    assert shapes.unknown_fields({"object": "refund", "colour": "red"}) == ["colour"]
    wrong = {"amount": "1", "payment_method_options": {"wechat_pay": {"clients": "web"}}}
    status, said = fake.answer("POST", "/v1/payment_intents", wrong, None)
    assert (status, said["error"]["param"]) == (400, "payment_method_options.wechat_pay.clients")


def test_the_fake_takes_a_key_for_one_request_only(fake: FakeStripe) -> None:
    refund = {"amount": "100", "currency": "cny", "allowed_payment_method_types": ["card"]}
    first = fake.answer("POST", "/v1/payment_intents", refund, "k")
    again = fake.answer("POST", "/v1/payment_intents", refund, "k")
    other = fake.answer("POST", "/v1/payment_intents", {**refund, "amount": "101"}, "k")

    assert first == again
    assert (other[0], other[1]["error"]["type"]) == (400, "idempotency_error")
