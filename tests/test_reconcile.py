"""`manage.py reconcile`: silent over books in order, and not to be fooled by any that are not."""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.db.models import F
from rest_framework.test import APIClient

from billing import (
    approving,
    before_period,
    closing,
    complaints,
    consents,
    corrections,
    costs,
    credit_notes,
    disputes,
    due,
    dunning,
    finals,
    giving,
    holds,
    invoicing,
    methods,
    payments,
    refunds,
    settling,
    top_up_policies,
    transfers,
    write_offs,
)
from billing.auto_top_up import agreements, charging
from billing.collecting import policies, running
from billing.collecting.schedule import Terms
from billing.documents import letterheads
from billing.exports import charge_files
from billing.fapiao import requests as fapiao
from billing.handovers import keeping as handovers
from billing.models import Approval, Invoice, Order, PaymentDifference, PaymentIntent, Refund
from billing.orders import buying, keeping, paying
from billing.prices import drafting
from billing.provider_books import differing, importing
from billing.reconciliation import CHECKS as MONEY_CHECKS
from billing.top_up_policies import Policy, Rule
from billing.vouchers import keeping as vouchers
from billing.ways.provider import About, Answer, Event, Fate
from metering import rollups
from metering.adjusted import ADJUSTED
from metering.models import AdjustedRecord, UsageRecord
from metering.reconciliation import CHECKS as USAGE_CHECKS
from metering.reconciliation import EXAMPLES
from metering.records import RECORDS
from subscriptions import catalog, clock, coupons, lifecycle, partitions, registry, reservations
from subscriptions.catalog import PlanTerms
from subscriptions.families import giving as family_gifts
from subscriptions.families import keeping as families
from subscriptions.models import Bucket, FamilyInvite, FamilyMember, Operator, Plan, Subscriber
from subscriptions.safety import keeping as safety
from subscriptions.subscriber_keys import keeping as subscriber_keys
from tests.asking import asked
from tests.conftest import KEPT
from tests.factories import (
    NOW,
    client_for,
    local,
    make_gateway_key,
    make_key,
    make_operator,
    make_plan,
    make_rate_card,
    make_subscriber,
    set_clock,
    subscribe,
    yuan,
)
from tests.families import join, make_family
from tests.providers import saved_card, stripe_account, unclear_payment
from tests.vouchers import order_batch, sold_vouchers

CHECKS = (*USAGE_CHECKS, *MONEY_CHECKS)

# The books are made once a process and mended after each test: all tests here share them.
pytestmark = [pytest.mark.django_db, pytest.mark.xdist_group("reconcile")]

HOUR, DAY = dt.timedelta(hours=1), dt.timedelta(days=1)
MILLION = 1_000_000_000  # thousandths


# --- a life with everything in it ---------------------------------------------------------------


class Carrier:
    """A test operator with a gateway, through which its subscribers use tokens."""

    def __init__(self, code: str, *, zone: str = "Asia/Shanghai") -> None:
        self.operator = make_operator(code, zone=zone)
        self.gateway = client_for(make_gateway_key(self.operator))
        self.sent = 0

    def use(self, *uses: tuple[str, dt.datetime, int]) -> None:
        """Send one batch of (subscriber, moment, tokens), all of them new."""
        records = []
        for external_id, occurred_at, tokens in uses:
            self.sent += 1
            records.append(a_record(f"r-{self.sent}", external_id, occurred_at, tokens))
        self.send(records)

    def send(self, records: list[dict[str, Any]]) -> None:
        answer = self.gateway.post("/api/v1/usage-records", records, format="json")
        assert answer.status_code == 200, answer.content

    def ask(self, name: str, external_id: str, units: int, **said: Any) -> None:
        """Reserve units; what becomes of it depends on what comes next."""
        body = asked(name, subject=f"user-{external_id}", units=units, **said)
        answer = self.gateway.post("/api/v1/reservations", body, format="json")
        assert answer.status_code == 201, answer.content

    def settle(self, name: str, external_id: str, tokens: int = 0) -> None:
        """Commit it with so many tokens, or release it."""
        path, body = f"/api/v1/reservations/{name}/release", None
        if tokens:
            path = f"/api/v1/reservations/{name}/commit"
            body = a_record(name, external_id, self.now, tokens)
        answer = self.gateway.post(path, body, format="json")
        assert answer.status_code == 200, answer.content

    @property
    def now(self) -> dt.datetime:
        assert self.operator.clock_at is not None
        return self.operator.clock_at

    def move(self, at: dt.datetime) -> None:
        set_clock(self.operator, at)
        while lifecycle.open_due(self.operator.pk, at=at):
            pass
        reservations.expire_due(self.operator.pk, at=at)


def guard(carrier: Carrier, plan: Plan) -> None:
    """One with a capped key, a night lock, lines and a ceiling of its own, and a guardian."""
    subscriber = make_subscriber(carrier.operator, "guarded")
    subscribe(subscriber, plan)
    said: dict[str, Any] = {"by": "crm", "at": carrier.now}
    terms = subscriber_keys.Terms("laptop", 5_000_000_000, "month")
    subscriber_keys.create(subscriber, terms, **said, subject="user-key")
    carrier.use(("key", carrier.now, 1_000), ("guarded", carrier.now, 500))
    safety.lock_nights(subscriber, (dt.time(23), dt.time(6)), **said)
    safety.set_alerts(subscriber, percents=[30, 90], lefts=[5_000_000], **said)
    words = safety.Consent("I pay.", "1", "en", "app")
    safety.agree_to_overage(subscriber, True, words, ceiling=Decimal("3.00"), **said)
    guardian = safety.Guardian(
        name="G",
        agreed_at=carrier.now,
        evidence="form 7",
        day_units=900_000_000,
        order_amount=Decimal("20.00"),
    )
    safety.mark_minor(subscriber, guardian, **said)


def a_record(
    record_id: str, external_id: str, occurred_at: dt.datetime, tokens: int
) -> dict[str, Any]:
    return {
        "id": record_id,
        "subject": f"user-{external_id}",
        "model": "deepseek/chat",
        "occurred_at": occurred_at.isoformat(),
        "input_tokens": tokens // 2,
        "cached_input_tokens": tokens // 4,
        "cache_write_tokens": tokens // 8,
        "output_tokens": tokens - tokens // 2,
        "reasoning_tokens": tokens // 8,
    }


def live() -> None:
    """Two months of an operator in Shanghai, and a day of another on a half-hour zone."""
    carrier = Carrier("north")
    operator = carrier.operator
    rules = corrections.Rules(approval_limit=Decimal(2), over_charge_factor=Decimal(2))
    corrections.set_rules(operator, rules, by="a test", at=carrier.now)
    weights = {"*": ("1", "0.5", "1", "3", "3"), "deepseek/*": ("1", "0.1", "1.25", "4", "4")}
    make_rate_card(operator, weights=weights)
    dear = {"*": ("2", "2", "2", "2", "2")}
    make_rate_card(operator, effective_from=local(2026, 7, 1), weights=dear)
    make_rate_card(operator, "cheap", weights={"*": ("0.5", "0.5", "0.5", "0.5", "0.5")})
    plans = {
        "stop": make_plan(operator, "stop", allowance=MILLION),
        "meter": make_plan(
            operator,
            "meter",
            allowance=MILLION,
            on_exhaustion="meter",
            price_per_million="1.20",
            cap=yuan("2.40"),
            rate_card="cheap",
        ),
        "blocks": make_plan(
            operator,
            "blocks",
            allowance=MILLION,
            on_exhaustion="blocks",
            block_units=400_000_000,
            block_price=yuan("1"),
            cap=yuan("3"),
        ),
        "rolling": make_plan(operator, "rolling", allowance=5 * MILLION, rollover="one_cycle"),
        "daily": make_plan(operator, "daily", allowance=MILLION, cycle="subscription_day"),
        "part": make_plan(operator, "part", allowance=MILLION, first_month="by_day"),
    }
    subscribers = {code: make_subscriber(operator, code) for code in [*plans, "none", "later"]}
    held = {code: subscribe(subscribers[code], plan) for code, plan in plans.items()}
    catalog.publish_booster(
        operator, "small", name="Small", price=yuan("1"), units=400_000_000, valid_days=60, at=NOW
    )

    # One whose overage nobody touches after its bill, nor its booster before.
    quiet = make_subscriber(operator, "quiet")
    subscribe(quiet, plans["meter"])
    catalog.publish_booster(
        operator, "brief", name="Brief", price=yuan("5"), units=MILLION, valid_days=1, at=NOW
    )
    carrier.send([a_record("quiet", "quiet", NOW, 3_000_000)])
    lifecycle.sell_booster(operator, quiet.pk, "brief", at=NOW)
    # Within the allowance, beyond it, and without any.
    for minute in range(5):
        carrier.use(*((code, NOW - minute * HOUR, 90_000) for code in subscribers))
    carrier.use(*((code, NOW, 700_000) for code in subscribers))
    lifecycle.sell_booster(operator, subscribers["stop"].pk, "small", at=NOW)
    lifecycle.give(
        subscribers["blocks"].pk, units=MILLION, valid_until=NOW + DAY, reason="sorry", at=NOW
    )
    carrier.move(NOW + 2 * HOUR)
    # Before the booster and after it, in one batch; the gift's end inside another.
    carrier.use(*(("stop", NOW + nr * HOUR, 60_000) for nr in (-2, -1, 0, 1, 2)))
    carrier.move(NOW + 2 * DAY)
    carrier.use(*(("blocks", NOW + DAY + nr * HOUR, 90_000) for nr in (-2, -1, 0, 1)))
    # Resent, resent two days later, and an id that comes back after a week.
    first = [a_record(f"same-{nr}", "rolling", NOW + nr * HOUR, 1_000) for nr in range(5)]
    carrier.send(first)
    carrier.send(first)
    carrier.send([a_record("same-0", "rolling", NOW + 2 * DAY, 1_000)])
    carrier.move(NOW + 8 * DAY)
    carrier.send([a_record("same-0", "rolling", NOW + 8 * DAY, 1_000)])
    # Kept aside: a stranger's, and one from long ago.
    carrier.use(("nobody", NOW, 1_000), ("stop", NOW - 60 * DAY, 1_000))
    # Sold into the past: what was used before the sale was charged without a plan.
    subscribe(subscribers["later"], plans["meter"], starts_at=NOW - DAY)
    carrier.use(("later", NOW, 5_000), ("later", NOW + 8 * DAY, 5_000))

    # Suspended for a day.
    lifecycle.suspend(subscribers["daily"].pk, reason="unpaid", at=carrier.now)
    carrier.move(NOW + 9 * DAY)
    carrier.use(("daily", NOW + 8 * DAY + HOUR, 7_000), ("daily", NOW + 7 * DAY, 7_000))
    lifecycle.restore(subscribers["daily"].pk, at=carrier.now)
    carrier.use(("daily", NOW + 8 * DAY + HOUR, 7_000), ("daily", carrier.now, 7_000))

    # Upgraded and then ended within a period that the close has billed since.
    make_plan(operator, "back", allowance=2 * MILLION, price=yuan("30"), refund="unused")
    moved = subscribe(make_subscriber(operator, "moved"), plans["stop"])
    off = coupons.CouponTerms(name="Welcome", percent=Decimal(25), periods=1)
    coupons.publish(operator, "hello", off, at=carrier.now)
    coupons.redeem(operator, moved.subscriber_id, moved.id, "hello", at=carrier.now)
    lifecycle.give(
        moved.subscriber_id,
        units=MILLION,
        valid_until=carrier.now + DAY,
        reason="moved",
        at=carrier.now,
    )
    give_by_two(operator, moved.subscriber_id, at=carrier.now)
    lifecycle.upgrade(moved.subscriber_id, moved.id, "back", at=carrier.now)
    lifecycle.end_now(moved.subscriber_id, moved.id, at=carrier.now, reason="moved", refund=True)

    # Asked before: committed, released, refused, and one that outlives the month.
    carrier.ask("ask-1", "rolling", 20_000)
    carrier.settle("ask-1", "rolling", 15_000)
    # Calls that failed, with a plan and without, and words of the sender's own.
    for code in ("rolling", "none"):
        for word in ("upstream_error", "client_gone", "timed out"):
            failed = a_record(f"{word}-{code}", code, carrier.now, 3_000)
            carrier.send([failed | {"outcome": word}])
    carrier.ask("ask-2", "rolling", 20_000)
    carrier.settle("ask-2", "rolling")
    carrier.ask("ask-3", "daily", 10**9)
    carrier.ask("ask-4", "nobody", 1)

    # The month's last hours: what was opened ahead is opened anew under another plan.
    carrier.move(local(2026, 6, 30, 23, 58))
    carrier.ask("ask-5", "rolling", 30_000)
    carrier.use(("stop", local(2026, 7, 1, 0, 1), 2_000), ("meter", carrier.now, 2_000))
    lifecycle.change(subscribers["stop"].pk, held["stop"].id, plan_code="meter", at=carrier.now)
    carrier.use(*((code, local(2026, 7, 1, 0, 2), 2_000) for code in subscribers))
    # The new month, with usage of both sides of the edge, in its grace and after it.
    for now in (local(2026, 7, 1, 1), local(2026, 7, 2, 12), local(2026, 7, 3, 12)):
        carrier.move(now)
        for code in subscribers:
            carrier.use(
                (code, local(2026, 6, 30, 23, 59), 30_000),
                (code, local(2026, 6, 30, 20), 30_000),
                (code, local(2026, 7, 1), 30_000),
            )
    carrier.use(*((code, local(2026, 6, 30, 22), 2_000_000) for code in subscribers))
    other = Carrier("south", zone="Asia/Kolkata")
    make_plan(other.operator)
    for nr in range(30):
        name = f"s-{nr}"
        subscribe(make_subscriber(other.operator, name), make_plan(other.operator))
        other.use((name, NOW, 1_000), (name, NOW - HOUR / 4, 1_000))
    # Upgraded and ended in the middle of a period.
    make_plan(
        operator,
        "more",
        allowance=2 * MILLION,
        price=yuan("20"),
        on_exhaustion="blocks",
        block_units=400_000_000,
        block_price=yuan("1"),
    )
    for name in ("up", "gone"):
        sold = subscribe(make_subscriber(operator, name), plans["meter"])
        carrier.use((name, carrier.now, 1_100_000))
        if name == "up":
            lifecycle.upgrade(sold.subscriber_id, sold.id, "more", at=carrier.now)
        else:
            lifecycle.end_now(
                sold.subscriber_id, sold.id, at=carrier.now, reason="cancelled", refund=True
            )
        carrier.use((name, carrier.now, 1_100_000))
    guard(carrier, plans["meter"])
    # Two who will be late with their first bill, and have a second soon.
    for name in ("owing", "late"):
        subscribe(make_subscriber(operator, name), plans["daily"], starts_at=local(2026, 5, 8))
    rollups.fold_all(at=NOW)
    carrier.move(carrier.now + HOUR)
    operator.payment_term = DAY
    closing.close_due(operator, at=carrier.now)
    assert finals.run(operator, at=carrier.now) == 0
    take_back(operator, "quiet", "part", given_up="rolling", at=carrier.now)
    settle_with_supplier(operator, at=carrier.now)
    ask_for_fapiao(operator, "quiet", at=carrier.now)
    adjust(carrier)
    owe(carrier)
    buy(carrier)
    pay_back(carrier)
    pay_before(carrier)
    redeem_vouchers(carrier)
    hand_over(carrier)
    fill_wallet(carrier)
    hear_from_stripe(carrier)
    collect(carrier)
    share(carrier)
    carrier.move(carrier.now + HOUR)
    due.earn_deferred(operator, at=carrier.now)
    assert costs.price_due(operator, at=carrier.now)
    # Open still.
    at = carrier.now
    lifecycle.give(
        subscribers["part"].pk, units=MILLION, valid_until=carrier.now + DAY, reason="x", at=at
    )
    carrier.ask("ask-6", "part", 1_000)
    carrier.ask("ask-7", "part", 1_000, slice=True)
    other.ask("ask-1", "s-0", 1_000)
    # Not folded in yet.
    carrier.use(*((code, local(2026, 7, 2), 500) for code in subscribers))
    other.use(("s-0", NOW, 1_000))


def share(carrier: Carrier) -> None:
    """A main line whose members draw it, hold of it, are given of it; some of it void since."""
    operator, at = carrier.operator, carrier.now
    head, kin, kid = (make_subscriber(operator, name) for name in ("head", "kin", "kid"))
    subscribe(head, operator.plans.get(code="stop"))
    family = make_family(head)
    join(family, kin, cap=MILLION)
    gone = join(family, kid)
    carrier.use(("kin", at, 20_000), ("kid", at, 20_000), ("head", at, 20_000))
    carrier.ask("shared", "kin", 9_000)
    carrier.settle("shared", "kin", 1_000)
    carrier.send([a_record("not-kin", "kin", at, 2_000)])
    api = client_for(make_key(operator))
    path = "/api/v1/subscribers/kin/usage-records/not-kin/void"
    assert api.post(path, {"reason": "x"}, format="json").status_code == 200
    own = FamilyMember.objects.get(family=family, is_owner=True)
    family_gifts.give(family, own, gone, MILLION // 10, key="g", at=at)
    families.remove(gone, at=at)
    carrier.use(("kid", at, 5_000))
    FamilyInvite.objects.all().delete()  # they name members, whose rows come and go below


def give_by_two(operator: Operator, subscriber_id: int, *, at: dt.datetime) -> None:
    """Prices that two persons decided on; units and money by hand, below the limit and above it."""
    before = at - dt.timedelta(minutes=1)
    rules = replace(corrections.rules_of(operator.pk, at=before), units_limit=100 * MILLION)
    strict = replace(rules, prices_by_two=True)
    corrections.set_rules(operator, strict, by="a test", at=before - dt.timedelta(seconds=1))
    terms = PlanTerms(name="By two", price=yuan("8.80"), allowance=MILLION, rate_card="standard")
    version = drafting.draft(operator, "by-two", terms, by="one", at=before, on_sale_at=before)
    drafting.ask(operator, version.pk, reason="a test", by="one", at=before)
    asked = Approval.objects.get(kind="price")
    approving.approve(operator, asked.pk, by="another", reason="a test", at=before)
    corrections.set_rules(operator, rules, by="a test", at=before)

    said: dict[str, Any] = {"reason": "a test", "by": "one", "at": at}
    for units in (1_000, 100 * MILLION + 1):
        giving.give(operator, subscriber_id, units=units, valid_until=at + DAY, **said)
    for amount in (Decimal("1.00"), Decimal("2.01")):
        giving.credit(operator, subscriber_id, amount, expires_at=at + DAY, **said)
    for waits in Approval.objects.filter(kind__in=["units", "money"], state="pending"):
        approving.approve(operator, waits.pk, by="another", reason="a test", at=at)


def take_back(
    operator: Operator, credited: str, voided: str, *, given_up: str, at: dt.datetime
) -> None:
    """Credit a part of one subscriber's invoice, double and as two persons said, make another's
    void, write a third's off: all of them after their charges have left."""
    numbers = {
        external_id: str(number)
        for external_id, number in Invoice.objects.filter(operator=operator).values_list(
            "subscriber__external_id", "number"
        )
    }
    assert charge_files.make(operator, at=at)
    asked = credit_notes.credit(
        operator,
        numbers[credited],
        amount=Decimal("1.23"),
        over_charge=True,
        reason="a test",
        by="one",
        at=at,
    )
    approving.approve(operator, asked.pk, by="another", reason="a test", at=at)
    invoicing.void(operator, numbers[voided], reason="a test", at=at)
    given = write_offs.write_off(operator, numbers[given_up], reason="a test", by="one", at=at)
    if isinstance(given, Approval):
        approving.approve(operator, given.pk, by="another", reason="a test", at=at)
    assert charge_files.make(operator, at=at)
    # A part of it comes in after all.
    pay(operator, numbers[given_up], Decimal("3.00"), at=at)


def settle_with_supplier(operator: Operator, *, at: dt.datetime) -> None:
    """Price the usage so far, and settle June's."""
    price = costs.Price("deepseek/*", *(Decimal(f"1.{nr}") for nr in range(5)))
    june = dt.date(2026, 6, 1)
    costs.publish(operator, "vendor", [price], effective_from=june, at=at)
    assert costs.price_due(operator, at=at)
    settling.issue(operator, costs.supplier_named(operator, "vendor"), june, at=at)


def ask_for_fapiao(operator: Operator, external_id: str, *, at: dt.datetime) -> None:
    """The e-fapiao of a subscriber's invoice, a part of which is credited."""
    letterheads.put(operator, letterheads.Draft(name="North", tax_id="9" * 18))
    fapiao.set_item(operator, Decimal("0.06"), tax_class="3" * 19, name="x")
    invoice = Invoice.objects.get(
        operator=operator, subscriber__external_id=external_id, kind="period"
    )
    fapiao.request(operator, str(invoice.number), at=at)


def owe(carrier: Carrier) -> None:
    """All pay, but for two: one only a part, and is suspended; the other days too late."""
    operator = carrier.operator
    dunning.set_policy(operator, at=NOW, suspend_after_days=5)
    open_ones = Invoice.objects.filter(operator=operator, state="open", gross__gt=F("paid"))
    owing: dict[str, str] = {}
    for invoice in open_ones.select_related("subscriber").order_by("id"):
        name, number = invoice.subscriber.external_id, str(invoice.number)
        if name in ("owing", "late"):
            owing[name] = number
        else:
            pay(operator, number, invoice.gross - invoice.paid, at=carrier.now)
    for day, name, amount in ((6, "owing", "4.00"), (7, "late", "9.90")):
        carrier.move(local(2026, 7, day, 16))
        dunning.run(operator, at=carrier.now)
        pay(operator, owing[name], Decimal(amount), at=carrier.now)
    carrier.move(local(2026, 7, 13))
    rollups.fold_all(at=NOW)
    dunning.run(operator, at=carrier.now)
    closing.close_due(operator, at=carrier.now)


def buy(carrier: Carrier) -> None:
    """One fills a wallet by the bank, and buys a booster from it before any bill names it."""
    api = client_for(make_key(carrier.operator))
    fill = {"reference": "b-1", "amount": "20.00", "payer": "Zhang", "pays": {"wallet": "quiet"}}
    assert api.post("/api/v1/transfers", fill, format="json").json()["state"] == "matched"
    order = {"kind": "booster", "booster": "small"}
    made = api.post("/api/v1/subscribers/quiet/orders", order, format="json").json()
    path = f"/api/v1/orders/{made['number']}/pay"
    paid = api.post(path, {"way": "wallet"}, format="json").json()
    assert paid["state"] == "paid", paid


def pay_back(carrier: Carrier) -> None:
    """Boosters that were paid by the bank: refunds in every state, a dispute that is open and one
    that is lost."""
    operator, at = carrier.operator, carrier.now
    buyer = make_subscriber(operator, "buyer")
    subscribe(buyer, operator.plans.get(code="stop"))
    carrier.use(("buyer", at, 300_000))
    orders = []
    for nr in range(6):
        made = buying.order_booster(operator, buyer.pk, "small", at=at)
        told = transfers.Told(f"r-{nr}", made.amount, "CNY", at)
        fill = transfers.tell(operator, told, at=at)
        transfers.match(operator, fill.pk, transfers.Pays(order=made.number), at=at)
        orders.append(made.number)
    asked_for = [
        refunds.ask(operator, number, amount=Decimal("0.40"), reason="x", by="x", at=at)
        for number in orders[:4]
    ]
    numbers = [one.number for one in asked_for if isinstance(one, Refund)]
    refunds.transferred(operator, numbers[0], reference="back", by="x", at=at)
    refunds.to_wallet(operator, numbers[1], by="x", at=at)
    refunds.cancel(operator, numbers[2], by="x", at=at)
    for number, fate in ((orders[4], Fate.WAITING), (orders[5], Fate.FAILED)):
        intent = PaymentIntent.objects.get(operator=operator, key=f"{number}-1")
        said = Answer(fate, amount=intent.amount)
        notice = Event(number, About.DISPUTE, intent.key, f"du-{number}", said, at, {"fee": "0.50"})
        assert disputes.take_dispute(operator, notice, at=at)
    for nr in range(2):
        text: dict[str, Any] = {"kind": "other", "text": "x", "key": f"k-{nr}", "channel": "app"}
        complaint = complaints.lodge(operator, buyer.pk, at=at, **text)
    complaints.answer(operator, complaint.number, "x", by="x", at=at)


def pay_before(carrier: Carrier) -> None:
    """One pays the period that runs from a wallet; another has not paid."""
    operator, at = carrier.operator, carrier.now
    plan = make_plan(operator, "before", collect="before_period")
    for name in ("ahead", "unpaid"):
        subscribe(make_subscriber(operator, name), plan)
    before_period.sweep(operator, at=at)
    fill = transfers.tell(operator, transfers.Told("b-2", Decimal("9.90"), "CNY", at), at=at)
    ahead = registry.find(operator, "ahead")
    transfers.match(operator, fill.pk, transfers.Pays(wallet=ahead.pk), at=at)
    order = Order.objects.get(subscriber_id=ahead.pk)
    assert paying.pay(operator, order.number, "wallet", at=at).state == "paid"
    pay_online(carrier)


def pay_online(carrier: Carrier) -> None:
    """One payment is granted, one comes after its order was cancelled, one is nobody's."""
    operator, at = carrier.operator, carrier.now
    account = stripe_account(operator)
    quiet = registry.find(operator, "quiet")
    for nr in range(2):
        order = buying.order_top_up(operator, quiet.pk, Decimal(5), currency="CNY", at=at)
        with transaction.atomic():
            held = keeping.locked(operator, order.number)
            intent = keeping.attempt(held, "card", at=at, account=account)
        if nr:
            keeping.cancel(operator, order.number, reason="a test", at=at)
        came = Answer(Fate.SUCCEEDED, f"pi_{nr}", amount=Decimal(5), currency="CNY")
        paying.hear(operator, order.number, intent.nr, account, came, at=at)
    unclear_payment(operator, "pi_9")


def redeem_vouchers(carrier: Carrier) -> None:
    """Vouchers of all kinds: redeemed, void, expired, sold and not sold yet."""
    operator, at = carrier.operator, carrier.now
    api = client_for(make_key(operator))
    span = {"valid_from": NOW.isoformat(), "valid_until": (at + HOUR).isoformat()}
    kinds: dict[str, dict[str, Any]] = {
        "money": {"amount": "10.00"},
        "small": {"booster": "small"},
        "units": {"units": "500", "valid_days": 3},
    }
    for code, gives in kinds.items():
        cards = sold_vouchers(operator, api, code, count=4, **span, **gives)
        body = {"code": cards[f"{code}-0000001"]}
        done = api.post("/api/v1/subscribers/quiet/vouchers", body, format="json")
        assert done.status_code == 200, done.content
    vouchers.void(operator, "money", 2, 2, reason="lost", by="a test", at=at)
    order_batch(api, "paper", **span, amount="7.00")
    for batch_id in vouchers.making(operator.pk):
        assert vouchers.make_next(batch_id, at=at)
    # All but one batch have ended.
    later = {"valid_until": (at + 9 * DAY).isoformat()}
    sold_vouchers(operator, api, "later", **span | later, amount="3.00")
    while vouchers.expire_next(operator, at=at + HOUR):
        pass


def hand_over(carrier: Carrier) -> None:
    """One subscriber becomes another, with units and money."""
    operator, at = carrier.operator, carrier.now
    giver, receiver = (make_subscriber(operator, name) for name in ("old", "young"))
    lifecycle.give(giver.pk, units=MILLION, valid_until=at + 9 * DAY, reason="old", at=at)
    fill = transfers.tell(
        operator, transfers.Told("b-hand-over", Decimal("1.00"), "CNY", at), at=at
    )
    transfers.match(operator, fill.pk, transfers.Pays(wallet=giver.pk), at=at)
    merge = handovers.draft(operator, "merge", giver, receiver, reason="a test", by="a test", at=at)
    assert handovers.ask(merge, at=at).state == "done"


def fill_wallet(carrier: Carrier) -> None:
    """One tops up and gets a bonus, holds a part, pays with another, and has its wallet filled by
    itself, though the card fails and it pays by the bank in the end."""
    operator, at = carrier.operator, carrier.now
    rule = Rule(at_least=Decimal(10), percent=Decimal(10), valid_days=90)
    top_up_policies.put(operator, Policy(rules=[rule]), by="x", at=at, effective_from=at)
    whose = make_subscriber(operator, "saver").pk

    def pay_by_bank(order: Order, reference: str) -> None:
        told = transfers.Told(reference, order.amount, "CNY", at)
        arrived = transfers.tell(operator, told, at=at)
        transfers.match(operator, arrived.pk, transfers.Pays(order=order.number), at=at)

    pay_by_bank(buying.order_top_up(operator, whose, Decimal(10), currency="CNY", at=at), "b-3")
    for key in ("h-1", "h-2"):
        hold = holds.place(operator, holds.Draft(whose, Decimal(2), "x", key), at=at)
    bought = buying.order_booster(operator, whose, "small", at=at)
    holds.capture(operator, hold.id, bought.number, at=at)
    card = saved_card(operator, whose)
    terms = agreements.Terms(
        threshold=Decimal(9),
        amount=Decimal(9),
        daily_limit=Decimal(9),
        monthly_limit=Decimal(9),
        way="card",
        method=card.reference,
        text="Fill it up.",
        text_version="1",
        language="en",
        channel="portal",
    )
    agreements.agree(operator, whose, terms, at=at)
    methods.remove(operator, whose, card.pk, at=at)
    assert charging.run(operator, at=at) == 1
    pay_by_bank(Order.objects.get(subscriber_id=whose, state="created"), "b-4")
    assert charging.run(operator, at=at + HOUR) == 1


def hear_from_stripe(carrier: Carrier) -> None:
    """A day of Stripe's: a payment that matches, one of another amount, a stranger's, fees and a
    payout; what came twice is missing there. Staff resolve some of it."""
    operator, at = carrier.operator, carrier.now
    day = at.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M:%S")
    rows = (
        ("t1", "5.00", "0.05", "charge", "pi_0"),
        ("t2", "4.00", "0.00", "charge", "pi_1"),
        ("t3", "3.00", "0.00", "charge", "pi_x"),
        ("t4", "-5.00", "0.00", "payout", ""),
    )
    heading = "balance_transaction_id,created_utc,gross,fee,net,reporting_category,currency"
    lines = [
        f"{name},{day},{gross},{fee},{Decimal(gross) - Decimal(fee)},{about},cny,{intent}"
        for name, gross, fee, about, intent in rows
    ]
    file = io.BytesIO("\n".join((f"{heading},payment_intent_id", *lines)).encode())
    importing.load(operator, file, layout="stripe", name="june", by="x", at=at)
    for kind, resolution in (("fees", "fee"), ("payout", "arrived"), ("missing_here", "known")):
        one = PaymentDifference.objects.get(operator=operator, kind=kind)
        differing.resolve(operator, one.pk, resolution, note="a test", by="x", at=at)


def collect(carrier: Carrier) -> None:
    """Of one who agreed to it a period is collected: by the phone bill, for the wallet is empty."""
    operator, at = carrier.operator, carrier.now
    policies.set_terms(operator, Terms(from_hour=0, until_hour=24), by="a test", at=at)
    draft = registry.Draft(external_id="renewing", subjects=("renewing",), msisdn="+8613800000009")
    [made] = registry.upsert(operator, [draft], at=at)
    assert made.status == registry.CREATED
    renewing = registry.find(operator, "renewing")
    words: dict[str, Any] = {"text": "t", "text_version": "1", "language": "en", "channel": "app"}
    for kind in ("auto_renew", "phone_bill"):
        consents.give(operator, renewing.pk, consents.Said(kind=kind, **words), at=at)
    lifecycle.subscribe(operator, renewing.pk, "before", at=at)
    before_period.sweep(operator, at=at)
    running.run(operator, at=at)
    assert Order.objects.get(subscriber_id=renewing.pk).way == "phone_bill"


def pay(operator: Operator, number: str, amount: Decimal, *, at: dt.datetime) -> None:
    payments.record(operator, number, amount=amount, key=f"bank-{number}", way="bank", at=at)


def adjust(carrier: Carrier) -> None:
    """Void and correct what this and last month's buckets of all kinds paid for."""
    api = client_for(make_key(carrier.operator))
    own = Subscriber.objects.filter(operator=carrier.operator)
    paths = dict(own.values_list("pk", "external_id"))
    rows = UsageRecord.objects.filter(
        subscriber_id__in=paths, record_id__startswith="r-", units__gt=0
    )
    for nr, row in enumerate(rows.order_by("occurred_at", "subscriber_id", "record_id")):
        if nr % 3:
            continue
        path = f"/api/v1/subscribers/{paths[row.subscriber_id]}/usage-records/{row.record_id}"
        which: dict[str, Any] = {"reason": "a test", "occurred_at": row.occurred_at.isoformat()}
        steps: list[dict[str, Any]] = [
            {"output_tokens": 30_000, "reasoning_tokens": 9},
            {"output_tokens": 90_000},
        ]
        for step in steps[: nr % 4]:
            answer = api.post(f"{path}/correct", which | step, format="json")
            assert answer.status_code == 200, answer.content
        if nr % 2:
            answer = api.post(f"{path}/void", which, format="json")
            assert answer.status_code == 200, answer.content
    rerate(api)


def rerate(api: APIClient) -> None:
    """Weigh some hours by another card, and correct one of their records after that."""
    order = {"rate_card": "cheap", "reason": "a test", "replaces": "standard"}
    order |= {"since": (NOW - 5 * HOUR).isoformat(), "until": (NOW - HOUR).isoformat()}
    run = api.post("/api/v1/re-ratings", order, format="json").json()
    done = api.post(f"/api/v1/re-ratings/{run['id']}/apply", format="json")
    for waits in Approval.objects.filter(kind="rerating", state="pending"):
        at = clock.now(waits.operator)
        approving.approve(waits.operator, waits.pk, by="another", reason="a test", at=at)
        done = api.post(f"/api/v1/re-ratings/{run['id']}/apply", format="json")
    assert done.json()["state"] == "applied", done.content
    last = AdjustedRecord.objects.filter(requests=1, units__gt=0).order_by("-batch_id")[0]
    path = f"subscribers/{Subscriber.objects.get(pk=last.subscriber_id).external_id}"
    answer = api.post(
        f"/api/v1/{path}/usage-records/{last.record_id}/correct",
        {"reason": "a test", "output_tokens": 70_000},
        format="json",
    )
    assert answer.status_code == 200, answer.content


TABLES = (
    "metering_usagerecord",
    "metering_usagebatch",
    "metering_usagehour",
    "metering_subjecthour",
    "metering_usageday",
    "metering_subjectday",
    "metering_adjustment",
    "metering_adjustedrecord",
    "subscriptions_bucket",
    "subscriptions_bucketentry",
    "subscriptions_subscription",
    "subscriptions_subscriptionperiod",
    "subscriptions_reservation",
    "subscriptions_reservationname",
    "subscriptions_upgrade",
    "subscriptions_ending",
    "billing_invoice",
    "billing_invoiceline",
    "billing_invoicenumber",
    "billing_posting",
    "billing_entry",
    "billing_deferral",
    "metering_rerating",
    "metering_reratingshare",
    "billing_chargefile",
    "billing_chargeline",
    "billing_costday",
    "billing_costentry",
    "billing_settlementline",
    "billing_fapiaorequest",
    "billing_payment",
    "billing_dunningcase",
    "billing_dunningevent",
    "subscriptions_suspension",
    "billing_order",
    "billing_orderstep",
    "billing_wallet",
    "billing_walletmovement",
    "billing_banktransfer",
    "billing_voucherbatch",
    "billing_voucher",
    "billing_voucherstep",
    "billing_handover",
    "billing_providerpayment",
    "billing_paymenttask",
    "subscriptions_expectedperiod",
    "billing_consent",
    "billing_collectioncase",
    "billing_collectionstep",
    "billing_phonebillcharge",
    "billing_refund",
    "billing_refundstep",
    "billing_dispute",
    "billing_disputestep",
    "billing_complaint",
    "billing_complaintmessage",
    "subscriptions_freeze",
    "billing_walletbonus",
    "billing_walletbonusentry",
    "billing_wallethold",
    "billing_autotopup",
    "billing_autotopuprun",
    "billing_providerfile",
    "billing_providerline",
    "billing_paymentdifference",
    "billing_approval",
    "billing_pricedraft",
    "subscriptions_guard",
    "subscriptions_usagealert",
    "subscriptions_familymember",
    "subscriptions_familygift",
)


@pytest.fixture(scope="module")
def _books(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """The life above, committed, with a copy of each table to mend it from."""
    with django_db_blocker.unblock(), connection.cursor() as cursor:
        try:
            live()
            for table in TABLES:
                cursor.execute(f"CREATE TABLE kept_{table} AS TABLE {table}")
            yield
        finally:
            for table in TABLES:
                cursor.execute(f"DROP TABLE IF EXISTS kept_{table}")
            # Not the sequences: processes remember plans and subscribers by their ids.
            call_command("flush", verbosity=0, interactive=False, reset_sequences=False)


@pytest.fixture
def _django_db_helper(_books: None, django_db_blocker: Any) -> Iterator[None]:
    """In pytest-django's place: no transaction around a test, no emptied tables after it."""
    with django_db_blocker.unblock():
        yield


def reconcile(*arguments: str) -> tuple[int, str]:
    """The command's exit status and what it printed."""
    out = io.StringIO()
    status = 0
    try:
        call_command("reconcile", *arguments, stdout=out, no_color=True)
    except SystemExit as ended:
        status = int(ended.code or 0)
    return status, out.getvalue()


def differences(printed: str) -> dict[str, int]:
    """How many differences each check that found any found, over all operators."""
    found: dict[str, int] = {}
    for operator in json.loads(printed)["operators"]:
        for check in operator["checks"]:
            if check["differences"]:
                found[check["name"]] = found.get(check["name"], 0) + check["differences"]
    return found


# --- in order -----------------------------------------------------------------------------------


def test_books_in_order_show_no_difference() -> None:
    status, printed = reconcile("--json")

    report = json.loads(printed)
    assert differences(printed) == {}, printed
    assert (status, report["ok"]) == (0, True)
    north, south = report["operators"]
    assert (north["code"], south["code"]) == ("north", "south")
    # Every check had something to look at.
    assert {c["name"]: c["checked"] for c in north["checks"] if not c["checked"]} == {}
    assert north["quarantine"] == {"out_of_window": 1, "unknown_subject": 1}
    assert north["lag_seconds"] > 0
    assert (north["open_reservations"], north["reserved_units"]) == (2, "2000.000")
    assert north["untold"] > 0


def test_the_life_above_has_all_kinds_in_it() -> None:
    drawn = set(Bucket.objects.filter(used__gt=0).values_list("kind", flat=True))
    assert drawn == set(Bucket.Kind.values)


def test_for_people_it_prints_a_line_a_check() -> None:
    status, printed = reconcile()

    assert status == 0
    lines = printed.splitlines()
    assert lines[0] == "north"
    assert sum(line.startswith("  ✓ ") for line in lines) == 2 * len(CHECKS)
    assert "quarantine: out_of_window 1, unknown_subject 1" in printed
    assert lines[-1] == "All adds up."


def test_one_operator_alone_can_be_checked() -> None:
    status, printed = reconcile("--json", "--operator", "south")

    assert status == 0
    assert [operator["code"] for operator in json.loads(printed)["operators"]] == ["south"]


def test_an_operator_that_is_not_there_is_no_success() -> None:
    with pytest.raises(CommandError, match="no operator west"):
        reconcile("--operator", "west")


# --- not in order -------------------------------------------------------------------------------

RECORD, BATCH, HOURLY, BY_SUBJECT, DAILY, DAILY_BY_SUBJECT, *HELD = TABLES
DECISION, ROW, BUCKET, ENTRY, *OTHERS = HELD
SUBSCRIPTION, PERIOD, RESERVATION, NAME, UPGRADE, ENDING, *MONEY = OTHERS
INVOICE, LINE, NUMBER, POSTING, SIDE, DEFERRAL, *_ = MONEY
CHARGE_FILE, CHARGE = "billing_chargefile", "billing_chargeline"
COST, SETTLED_LINE = "billing_costentry", "billing_settlementline"
RUN, SHARE = "metering_rerating", "metering_reratingshare"
PAYMENT, SUSPENSION = "billing_payment", "subscriptions_suspension"
CASE, STEP = "billing_dunningcase", "billing_dunningevent"
ORDER, MOVEMENT, CARD = "billing_order", "billing_walletmovement", "billing_voucher"
HANDOVER, FIRST = "billing_handover", "(SELECT min(id) FROM subscriptions_subscriber)"
APPROVAL, PRICES = "billing_approval", "billing_pricedraft"
ORDER, MOVEMENT = "billing_order", "billing_walletmovement"
REFUND, DISPUTE, FREEZE = "billing_refund", "billing_dispute", "subscriptions_freeze"
TAKEN = "billing_providerpayment"
MEMBER = "subscriptions_familymember"
GIFT, LENT = "subscriptions_familygift", "kind = 'pool' AND grant_key LIKE 'pool:%:%' AND used > 0"
KIN = "NOT is_owner AND until IS NULL"
POOLED = f"SELECT id FROM {BUCKET} WHERE kind = 'pool'"
Fault = tuple[str, str]  # the table, and what is done to one row of it


def one(table: str, where: str) -> str:
    """A condition that holds for the first row of which `where` does, by its columns.

    Not by its place: where a row lands that is put back is up to the server.
    """
    return (
        f"(tableoid, ctid) = (SELECT tableoid, ctid FROM {table} WHERE {where}"
        f" ORDER BY tableoid, {table} LIMIT 1)"
    )


def update(table: str, change: str, where: str = "true") -> Fault:
    return table, f"UPDATE {table} t SET {change} WHERE {one(table, where)}"


def delete(table: str, where: str = "true") -> Fault:
    return table, f"DELETE FROM {table} WHERE {one(table, where)}"


def again(table: str, change: str, where: str) -> Fault:
    """A further row like one that is there, but for the `change` (JSON)."""
    return table, (
        f"INSERT INTO {table} SELECT (jsonb_populate_record(t, '{change}')).*"
        f" FROM {table} t WHERE {where} ORDER BY tableoid, t LIMIT 1"
    )


OTHER_VERSION, OTHER_CARD = (
    "weight_id = (SELECT w.id FROM subscriptions_ratecardweight w JOIN subscriptions_ratecard c"
    f" ON c.id = w.rate_card_id WHERE {which})"
    for which in ("version = 2", "code = 'cheap'")
)
DEEPSEEK = "weight_id IN (SELECT id FROM subscriptions_ratecardweight WHERE model = 'deepseek/*')"
SOUTH = "(SELECT id FROM subscriptions_operator WHERE code = 'south')"
IN_SOUTH = f"subscriber_id IN (SELECT id FROM subscriptions_subscriber WHERE operator_id = {SOUTH})"
FIRST_ALLOWANCE = (
    f"bucket_id = (SELECT id FROM {BUCKET} b WHERE b.subscriber_id = t.subscriber_id"
    " AND kind = 'allowance' ORDER BY valid_from LIMIT 1)"
)


def drawn_from(kind: str) -> str:
    return f"kind = 2 AND bucket_id IN (SELECT id FROM {BUCKET} WHERE kind = '{kind}')"


JULY = "timestamptz '2026-06-30T16:00Z'"


def on_account(code: str) -> str:
    return f"account_id IN (SELECT id FROM billing_account WHERE code = '{code}')"


# What was drawn later is for the next bill.
SETTLED = (
    f"NOT EXISTS (SELECT FROM {ENTRY} e JOIN {INVOICE} i USING (subscriber_id)"
    f" WHERE e.subscriber_id = {LINE}.subscriber_id AND e.bucket_id = {LINE}.bucket_id"
    f" AND i.id = {LINE}.invoice_id AND e.charged_at >= i.issued_at)"
)

# A row that says what is in force, until a third takes that back.
_RECORD_KEY = ("subscriber_id", "gateway_id", "source", "record_id", "occurred_at")
FOLLOWED = (
    f"nr = 2 AND EXISTS (SELECT FROM {ROW} o WHERE o.nr = 3 AND "
    + " AND ".join(f"o.{name} = {ROW}.{name}" for name in _RECORD_KEY)
    + ")"
)
OVER_CHARGED = """basis = basis || '{"over_charge": "1", "factor": "3"}'"""
HUGE = """kind = 'adjustment', gross = 99999, basis = basis || '{"drawn": 1}'"""
CONSENT, COLLECTED = "billing_consent", "billing_collectioncase"
TRIED, ON_PHONE_BILL = "billing_collectionstep", "billing_phonebillcharge"
GUARD, LINES = "subscriptions_guard", "subscriptions_usagealert"
FAULTS: list[tuple[str, Fault]] = [
    ("guards", update(GUARD, "night_until = '07:00'")),
    ("guards", update(GUARD, "day_units = day_units + 1")),
    ("guards", update(GUARD, "overage_ceiling = overage_ceiling + 1")),
    ("guards", update(GUARD, "keys = NOT keys")),
    ("guards", delete(GUARD)),
    ("alert_lines", update(LINES, "value = value + 1")),
    ("alert_lines", delete(LINES)),
    ("collections", update(COLLECTED, "steps = steps + 1")),
    ("collections", update(COLLECTED, "state = 'gave_up'")),
    ("collections", update(COLLECTED, "about = -1, order_id = -1")),
    ("collections", delete(COLLECTED)),
    ("collections", delete(TRIED, "kind = 'collected'")),
    ("collections", delete(TRIED, "kind = 'tried'")),
    ("collected_by_consent", update(CONSENT, "given_at = given_at + interval '1 s'")),
    ("collected_by_consent", delete(CONSENT, "kind = 'auto_renew'")),
    ("phone_bills", update(ON_PHONE_BILL, "amount = amount + 1")),
    ("phone_bills", delete(ON_PHONE_BILL)),
    ("phone_bills", delete(CONSENT, "kind = 'phone_bill'")),
    ("carrier", update(ON_PHONE_BILL, "amount = amount + 1")),
    ("carrier", delete(ON_PHONE_BILL)),
    ("batch_drawn", update(RECORD, "units = units + 1")),
    ("batch_drawn", update(ENTRY, "units = units + 1", "kind = 2")),
    ("batch_drawn", delete(ENTRY, "kind = 2")),
    ("subscriber_drawn", delete(RECORD)),
    ("subscriber_drawn", update(ENTRY, "subscriber_id = subscriber_id + 1", "kind = 2")),
    ("bucket_balance", update(BUCKET, "used = used - 1", "used > 0")),
    ("bucket_balance", update(BUCKET, "granted = granted + 1", "granted > 0")),
    ("bucket_balance", update(BUCKET, "granted = NULL", "kind = 'overage' AND granted > 0")),
    ("bucket_balance", delete(ENTRY, "kind = 1")),
    ("bucket_balance", delete(ENTRY, "kind = 4")),
    ("bucket_bounds", update(BUCKET, "reserved = granted - used + 1", "granted > 0")),
    ("bucket_bounds", update(BUCKET, "used = granted + 1", "granted > 0")),
    ("bucket_bounds", update(BUCKET, "reserved = -1")),
    ("bucket_bounds", update(BUCKET, "granted = NULL", "kind = 'booster'")),
    ("bucket_reserved", update(BUCKET, "reserved = reserved - 1", "reserved > 0")),
    ("bucket_reserved", update(RESERVATION, "state = 3", "state = 1")),
    ("bucket_reserved", delete(RESERVATION, "state = 1")),
    ("bucket_reserved", update(RESERVATION, "holds = '[]'", "state = 1")),
    ("reservation_held", update(RESERVATION, "held = held + 1")),
    ("reservation_held", update(RESERVATION, "operator_id = -1")),
    ("reservation_held", update(RESERVATION, "promised = 1", "slice_units IS NULL AND state = 1")),
    ("reservation_held", update(RESERVATION, "promised = 1", "slice_units IS NOT NULL")),
    ("reservation_held", update(NAME, "answer = jsonb_set(answer, '{granted}', '\"0.5\"')")),
    (
        "reservation_charged",
        update(RESERVATION, "answer = jsonb_set(answer, '{batch}', '\"-1\"')", "state = 2"),
    ),
    ("reservation_held", delete(RESERVATION)),
    ("reservation_held", delete(NAME)),
    ("reservation_held", update(NAME, "subscriber_id = -1", "subscriber_id IS NOT NULL")),
    ("entry_bucket", update(ENTRY, "bucket_id = -1")),
    ("entry_bucket", update(ENTRY, "units = -units", "kind = 2")),
    ("entry_bucket", update(ENTRY, "kind = 99", "kind = 2")),
    ("pool_lent", update(ENTRY, "units = units + 1", "kind = 9")),
    ("pool_lent", delete(ENTRY, "kind = 10")),
    ("pool_lent", update(ENTRY, "units = units + 1", "kind = 11")),
    ("pool_lent", update(ENTRY, "units = units - 1", f"kind = 1 AND bucket_id IN ({POOLED})")),
    ("pool_empty", update(BUCKET, "granted = granted + 1", "kind = 'pool'")),
    ("pool_empty", update(BUCKET, "valid_from = valid_from - interval '1 s'", LENT)),
    ("pool_empty", update(MEMBER, "since = since + interval '1 s'", "NOT is_owner")),
    ("pool_empty", delete(MEMBER, "NOT is_owner")),
    ("pool_allowed", update(MEMBER, "since = since + interval '9 days'", KIN)),
    ("family_members", update(MEMBER, "is_owner = false", "is_owner")),
    ("family_members", update(MEMBER, "until = NULL, ended = ''", "until IS NOT NULL")),
    ("family_members", delete(BUCKET, "kind = 'pool' AND grant_key NOT LIKE 'pool:%:%'")),
    ("family_gifts", update(GIFT, "units = units + 1")),
    ("family_gifts", delete(GIFT)),
    ("family_gifts", delete(ENTRY, "kind = 12")),
    ("entry_bucket", delete(BUCKET, "used > 0")),
    ("entry_batch", update(ENTRY, "batch_id = -1", "kind = 2")),
    ("entry_batch", update(BATCH, "charged_at = charged_at + interval '1 second'")),
    ("entry_batch", update(BATCH, f"operator_id = {SOUTH}")),
    ("entry_batch", delete(BATCH)),
    ("batch_drawn", update(ROW, "units = units - 1", "requests < 0")),
    ("batch_drawn", update(ENTRY, "units = units - 1", "kind = 5")),
    ("batch_drawn", delete(ROW)),
    ("bucket_balance", delete(ENTRY, "kind = 6")),
    ("bucket_balance", delete(ENTRY, "kind = 5")),
    ("entry_bucket", update(ENTRY, "units = -units", "kind = 5")),
    ("entry_bucket", update(ENTRY, "units = -units", "kind = 6")),
    ("entry_batch", update(DECISION, "made_at = made_at + interval '1 second'")),
    ("entry_batch", delete(DECISION)),
    ("reversed_drawn", update(ENTRY, "units = -10 ^ 15", "kind = 5")),
    ("lapsed", update(ENTRY, "units = units - 1", "kind = 6")),
    ("lapsed", update(ENTRY, "kind = 3", "kind = 6")),
    ("lapsed", update(ENTRY, "kind = 6, units = -units", "kind = 5")),
    ("rows_alternate", delete(ROW, FOLLOWED)),
    ("rows_alternate", delete(ROW, "nr = 1")),
    ("rows_alternate", update(ROW, "requests = -requests")),
    ("rows_alternate", update(ROW, "draws = '[]'", "units <> 0")),
    ("rows_alternate", update(ROW, "batch_id = batch_id + 1", "nr = 2")),
    ("rows_alternate", update(ROW, "outcome = 'x'", "nr = 1")),
    ("rows_alternate", update(ROW, "reasoning_tokens = reasoning_tokens + 1", FOLLOWED)),
    ("frozen_within", update(ROW, "draws = '[[-1, -5]]'", "nr = 1 AND units <> 0")),
    (
        "frozen_within",
        update(ROW, "draws = jsonb_build_array(draws -> 0) || draws", "nr = 1 AND units <> 0"),
    ),
    ("adjustment_totals", update(DECISION, "records = records + 1")),
    ("adjustment_totals", update(DECISION, "units = units + 1")),
    ("adjustment_totals", update(DECISION, "occurred_to = occurred_to + interval '1 second'")),
    ("adjustment_totals", update(DECISION, f"operator_id = {SOUTH}")),
    ("adjustment_totals", delete(DECISION)),
    ("adjustment_totals", again(DECISION, '{"batch_id": -1}', "true")),
    ("adjustment_moved", update(ROW, "draws = '[]'", "units <> 0")),
    ("adjustment_moved", delete(ENTRY, "kind = 5")),
    ("rerating_applied", update(SHARE, "records = records + 1", "batch_id > 0")),
    ("rerating_applied", update(SHARE, "units_after = units_after + 1", "batch_id > 0")),
    ("rerating_applied", update(SHARE, "batch_id = NULL", "batch_id > 0")),
    ("rerating_applied", delete(SHARE, "batch_id > 0")),
    ("rerating_applied", update(RUN, "until = since + interval '1 hour'")),
    ("rerating_applied", update(DECISION, "units = units + 1", "kind = 3")),
    ("rerating_applied", delete(DECISION, "kind = 3")),
    ("rerating_applied", delete(RUN)),
    ("weights_hold", update(RUN, "rate_card = 'standard'")),
    ("record_units", update(ROW, "output_tokens = output_tokens + 1", "nr = 2")),
    ("outcome_billed", update(ROW, "outcome = 'blocked'", "nr = 2")),
    ("weights_hold", update(ROW, "weight_id = -1", "nr = 2")),
    ("weights_hold", update(ROW, "model = 'qwen/turbo'", f"nr = 2 AND {DEEPSEEK}")),
    ("hourly_totals", update(ROW, "output_tokens = output_tokens + 1")),
    ("hourly_totals", delete(ROW)),
    # Paid by a booster bought later; by a bucket that had ended; by last month's long after it;
    # by an allowance while suspended.
    (
        "draw_allowed",
        update(
            BUCKET, "valid_from = valid_until - interval '1 s'", "kind = 'booster' AND used > 0"
        ),
    ),
    (
        "draw_allowed",
        update(
            BUCKET, "valid_from = valid_until - interval '1 s'", "kind = 'allowance' AND used > 0"
        ),
    ),
    (
        "draw_allowed",
        update(ENTRY, FIRST_ALLOWANCE, f"charged_at >= '2026-07-03' AND {drawn_from('overage')}"),
    ),
    (
        "draw_allowed",
        update(
            ENTRY,
            FIRST_ALLOWANCE,
            f"{drawn_from('uncovered')} AND (subscriber_id, charged_at) IN"
            " (SELECT subscriber_id, ends_at FROM subscriptions_suspension)",
        ),
    ),
    ("record_units", update(RECORD, "output_tokens = output_tokens + 1")),
    ("record_units", update(RECORD, "weight_id = -1")),
    (
        "outcome_billed",
        update(RECORD, "outcome = 'blocked'", "units > 0 AND occurred_at > '2026-06-12'"),
    ),
    ("outcome_billed", update(RECORD, "outcome = 'client_gone'", "outcome = 'upstream_error'")),
    ("outcome_billed", update(RECORD, "outcome = 'other'", "outcome = 'upstream_error'")),
    # A weight that is none, of another pattern, of another version, of another card.
    ("weights_hold", update(RECORD, "weight_id = -1")),
    ("weights_hold", update(RECORD, "model = 'qwen/turbo'", DEEPSEEK)),
    (
        "weights_hold",
        update(RECORD, OTHER_VERSION, f"{DEEPSEEK} AND occurred_at < '2026-06-30T16:00Z'"),
    ),
    ("weights_hold", update(RECORD, OTHER_CARD, f"{DEEPSEEK} AND occurred_at > '2026-06-12'")),
    (
        "record_names",
        update(
            RECORD,
            f"gateway_id = (SELECT id FROM subscriptions_gateway WHERE operator_id = {SOUTH})",
            f"NOT {IN_SOUTH}",
        ),
    ),
    (
        "record_names",
        update(
            RECORD, "subject_id = (SELECT max(id) FROM subscriptions_subject)", f"NOT {IN_SOUTH}"
        ),
    ),
    ("record_names", update(RECORD, "subscriber_id = -1")),
    (
        "identity_once",
        update(
            RECORD,
            "occurred_at = '2026-06-13T03:59Z'",
            "record_id = 'same-0' AND occurred_at > '2026-06-15'",
        ),
    ),
    ("batch_totals", update(BATCH, "records = records + 1")),
    ("batch_totals", update(BATCH, "units = units - 1")),
    ("batch_totals", update(BATCH, "occurred_to = occurred_to + interval '1 second'")),
    ("batch_totals", again(BATCH, '{"id": -1}', "true")),
    ("batch_totals", delete(BATCH)),
    ("hourly_totals", update(HOURLY, "units = units + 1")),
    ("hourly_totals", update(HOURLY, "reasoning_tokens = reasoning_tokens - 1")),
    ("hourly_totals", update(HOURLY, "hour = hour - interval '1 hour'", IN_SOUTH)),
    ("hourly_totals", delete(HOURLY, IN_SOUTH)),
    ("hourly_totals_by_subject", update(BY_SUBJECT, "units = units + 1")),
    ("hourly_totals_by_subject", update(BY_SUBJECT, "subject_id = -1")),
    ("hourly_totals_by_subject", delete(BY_SUBJECT)),
    ("daily_totals", update(DAILY, "units = units + 1")),
    ("daily_totals", update(DAILY, "requests = requests - 1")),
    ("daily_totals", update(DAILY, "day = day - 1", IN_SOUTH)),
    ("daily_totals", delete(DAILY)),
    ("daily_totals_by_subject", update(DAILY_BY_SUBJECT, "output_tokens = output_tokens + 1")),
    ("daily_totals_by_subject", update(DAILY_BY_SUBJECT, "subject_id = -1")),
    ("daily_totals_by_subject", delete(DAILY_BY_SUBJECT)),
    ("hourly_totals", update(BATCH, "folded_at = NULL", "folded_at IS NOT NULL")),
    ("hourly_totals", update(BATCH, "folded_at = charged_at", "folded_at IS NULL")),
    ("rollover_pairs", update(ENTRY, "units = units - 1", "kind = 3")),
    ("rollover_pairs", update(ENTRY, "batch_id = -1", "kind = 3")),
    ("rollover_pairs", update(BUCKET, "kind = 'gift'", "kind = 'rollover'")),
    (
        "one_bucket_a_period",
        # Of those taken back a period may have had several.
        again(BUCKET, '{"id": -1, "grant_key": "twice"}', "kind = 'allowance' AND used < granted"),
    ),
    (
        "one_bucket_a_period",
        again(
            BUCKET,
            '{"id": -1, "grant_key": "twice"}',
            "kind = 'uncovered' AND subscription_id IS NOT NULL",
        ),
    ),
    ("period_allowance", delete(BUCKET, f"kind = 'allowance' AND valid_from < {JULY}")),
    (
        "period_allowance",
        # Not of a month by the day, and not taken back.
        update(
            BUCKET,
            "granted = granted + 5",
            "kind = 'allowance' AND used < granted"
            " AND granted IN (SELECT allowance FROM subscriptions_plan)",
        ),
    ),
    (
        "period_allowance",
        update(
            BUCKET,
            "valid_until = valid_until + interval '1 s'",
            f"kind = 'allowance' AND valid_from < {JULY}",
        ),
    ),
    (
        "periods_follow",
        update(PERIOD, "starts_at = starts_at - interval '1 hour'", f"starts_at < {JULY}"),
    ),
    (
        "periods_follow",
        update(PERIOD, "ends_at = ends_at + interval '1 hour'", f"ends_at <= {JULY}"),
    ),
    ("periods_follow", delete(PERIOD, f"ends_at <= {JULY}")),
    ("upgrade_granted", update(UPGRADE, "days = days - 1")),
    ("upgrade_granted", update(UPGRADE, "units = units + 1000")),
    ("upgrade_granted", update(UPGRADE, "nr = nr + 1")),
    ("upgrade_granted", update(UPGRADE, "at = at + interval '1 hour'")),
    ("upgrade_granted", update(BUCKET, "kind = 'gift'", "grant_key LIKE 'upgrade:%'")),
    ("ending_withdrawn", update(ENDING, "unused = unused + 1")),
    ("ending_withdrawn", update(ENDING, "granted = granted - 1")),
    ("ending_withdrawn", update(ENDING, "at = at - interval '1 hour'")),
    (
        "ending_withdrawn",
        update(SUBSCRIPTION, "ends_at = ends_at + interval '1 s'", "ends_at IS NOT NULL"),
    ),
    ("opened_until", update(SUBSCRIPTION, "opened_until = opened_until + interval '1 day'")),
    ("opened_until", delete(PERIOD, "ends_at = '2026-07-31T16:00Z'")),
    ("invoice_lines", update(INVOICE, "net = net + 1")),
    ("invoice_lines", update(INVOICE, "tax = tax + 1")),
    ("invoice_lines", update(INVOICE, "gross = gross - 1")),
    ("invoice_lines", delete(INVOICE)),
    ("invoice_lines", delete(LINE, "gross <> 0")),
    ("invoice_lines", update(LINE, "net = net + 0.01, tax = tax - 0.01", "gross > 1")),
    ("fee_price", update(LINE, "gross = gross - 1", "kind = 'fee'")),
    ("fee_price", delete(LINE, "kind = 'fee'")),
    ("upgrade_price", update(LINE, "gross = gross - 1", "kind = 'upgrade'")),
    ("upgrade_price", delete(LINE, "kind = 'upgrade'")),
    ("refund_price", update(LINE, "gross = gross - 0.01", "kind = 'refund'")),
    ("refund_price", delete(LINE, "kind = 'refund'")),
    ("discount_price", update(LINE, "gross = gross - 0.01", "kind = 'discount'")),
    ("discount_price", update(LINE, "basis = basis - 'coupon'", "kind = 'discount'")),
    ("discount_price", delete(LINE, "kind = 'discount'")),
    ("bucket_price", update(LINE, "gross = gross + 0.01", "kind = 'overage'")),
    ("bucket_price", update(LINE, "gross = gross + 0.01", "kind = 'block'")),
    ("bucket_price", update(LINE, "gross = gross + 0.01", "kind = 'booster'")),
    ("bucket_price", update(LINE, "gross = gross + 0.01", "kind = 'gift'")),
    ("bucket_price", update(LINE, "bucket_id = -1", "kind = 'gift'")),
    ("period_invoice", delete(INVOICE)),
    ("period_invoice", update(INVOICE, "plan_id = plan_id + 1")),
    ("period_invoice", update(INVOICE, "period_end = period_end + interval '1 day'")),
    ("period_invoice", update(INVOICE, f"operator_id = {SOUTH}")),
    ("period_invoice", update(PERIOD, "closed_at = NULL", "closed_at IS NOT NULL")),
    ("period_invoice", update(PERIOD, "closed_at = ends_at", "closed_at IS NULL")),
    ("overage_billed", update(LINE, "units = units + 1", f"kind = 'overage' AND {SETTLED}")),
    ("overage_billed", delete(LINE, f"kind = 'overage' AND {SETTLED}")),
    ("sale_billed", delete(LINE, "kind = 'booster'")),
    ("sale_billed", delete(LINE, "kind = 'gift'")),
    ("numbers", delete(NUMBER)),
    ("numbers", delete(NUMBER, "nr = (SELECT max(nr) FROM billing_invoicenumber)")),
    ("numbers", delete(INVOICE)),
    ("numbers", update(INVOICE, "number = 'NORTH-2026-00000099'")),
    ("numbers", update(INVOICE, "issued_at = issued_at - interval '1 day'", "number LIKE '%%2'")),
    ("numbers", update(INVOICE, "issued_at = issued_at + interval '1 year'")),
    ("posting_zero", update(SIDE, "amount = amount + 1")),
    ("posting_zero", delete(SIDE)),
    ("posting_zero", delete(POSTING)),
    ("posting_zero", update(POSTING, "currency = 'USD'")),
    ("posting_zero", update(POSTING, f"operator_id = {SOUTH}")),
    ("receivables", update(SIDE, "amount = amount + 1", on_account("receivable"))),
    ("receivables", update(SIDE, "subscriber_id = -1", on_account("receivable"))),
    ("receivables", delete(INVOICE, "gross <> 0 AND state = 'open'")),
    ("receivables", update(INVOICE, "state = 'open'", "state = 'void'")),
    ("due", update(INVOICE, "paid = paid + 1", "state = 'open'")),
    ("due", update(INVOICE, "state = 'void'", "state = 'open' AND gross > 0")),
    ("due", update(SIDE, "amount = amount + 1", on_account("receivable"))),
    ("credited", update(INVOICE, "original_id = -1", "kind = 'credit_note'")),
    ("credited", update(LINE, "gross = -99", "gross < 0")),
    ("credited", update(LINE, "tax_rate = 0.09", "gross < 0")),
    ("credited", update(LINE, """basis = '{"line": 9}'""", "gross < 0")),
    ("credited_rate", update(LINE, "gross = -99", "basis ? 'credits'")),
    ("nothing_waits", delete(LINE, "kind = 'gift' AND description = 'moved'")),
    ("compensated", update(LINE, OVER_CHARGED, "gross < 0")),
    ("approved", update(LINE, HUGE, "kind = 'fee'")),
    ("priced", update(PRICES, "terms = jsonb_set(terms, '{price,amount}', '\"1.00\"')")),
    ("priced", update(PRICES, "code = 'other'")),
    ("priced", delete(APPROVAL, "kind = 'price'")),
    ("by_two", update(APPROVAL, "units = units + 1", "kind = 'units'")),
    ("by_two", update(APPROVAL, "amount = amount - 1", "kind = 'money'")),
    ("by_two", update(APPROVAL, "amount = amount - 1", "kind = 'write_off'")),
    ("by_two", delete(APPROVAL, "kind = 'units'")),
    (
        "by_two",
        update(
            BUCKET, "grant_key = 'gift:' || repeat('a', 32)", "grant_key LIKE 'gift:approval:%'"
        ),
    ),
    ("by_two", update(MOVEMENT, "key = 'credit:x'", "key LIKE 'credit:approval:%'")),
    ("tax_rates", update(LINE, "tax_rate = 0.09", "kind = 'fee'")),
    ("tax_posted", update(SIDE, "amount = amount + 1", on_account("vat:0.06"))),
    ("tax_posted", update(LINE, "tax_rate = 0.09", "gross > 1")),
    ("written_off", update(INVOICE, "state = 'open'", "state = 'uncollectible'")),
    ("written_off", update(INVOICE, "state = 'uncollectible'", "state = 'open' AND gross > 1")),
    ("written_off", update(SIDE, "amount = amount + 1", on_account("write_off"))),
    ("written_off", update(INVOICE, "paid = 0", "state = 'uncollectible'")),
    ("written_off", update(POSTING, "kind = 'payment'", "kind = 'recovery'")),
    ("wallets", update("billing_wallet", "balance = balance + 1")),
    ("wallets", delete(MOVEMENT)),
    ("wallet_bonus", update("billing_wallet", "bonus = bonus + 0.01", "balance > 0")),
    ("wallet_bonus", update("billing_walletbonus", "remaining = remaining - 0.01")),
    ("wallet_bonus", delete("billing_walletbonusentry")),
    ("wallet_bonus", update(SIDE, "amount = amount + 1", on_account("bonus"))),
    ("wallet_bonus", update("billing_walletbonus", "granted = granted + 1", "order_id IS NULL")),
    ("top_up_bonus", update("billing_walletbonus", "granted = granted + 1", "order_id > 0")),
    ("top_up_bonus", update("billing_walletbonus", "order_id = -1")),
    ("wallet_holds", update("billing_wallet", "held = held - 1", "held > 0")),
    ("wallet_holds", delete("billing_wallethold", "state = 'held'")),
    ("wallet_holds", update("billing_wallethold", "captured = 0.5", "state = 'captured'")),
    ("auto_top_up", update("billing_autotopuprun", "order_id = -1")),
    ("provider_files", delete("billing_providerline", "line_id = 't1'")),
    ("provider_lines", update("billing_providerline", "ours = 'x'", "state = 'matched'")),
    ("provider_lines", delete("billing_paymentdifference", "kind = 'amount_differs'")),
    ("provider_days", update("billing_providerline", "gross = gross + 1", "line_id = 't3'")),
    ("provider_days", update("billing_providerline", "fee = 0", "line_id = 't1'")),
    ("provider_days", delete("billing_paymentdifference", "kind = 'fees'")),
    (
        "differences_posted",
        update("billing_paymentdifference", "resolution = 'known'", "kind = 'fees'"),
    ),
    ("auto_top_up", update("billing_autotopup", "daily_limit = 1")),
    ("wallets", update(SIDE, "amount = amount + 1", on_account("wallet"))),
    ("vouchers_owed", update(CARD, "state = 'redeemed'", "state = 'activated'")),
    ("vouchers_owed", update(SIDE, "amount = amount + 1", on_account("voucher"))),
    ("voucher_states", update(CARD, "state = 'activated'", "state = 'void'")),
    ("voucher_states", delete(CARD, "state = 'activated'")),
    ("voucher_states", delete("billing_voucherstep", "kind = 'expired'")),
    ("voucher_given", update(CARD, "subscriber_id = subscriber_id + 1", "state = 'redeemed'")),
    ("voucher_given", update(CARD, "state = 'void'", "state = 'redeemed'")),
    ("voucher_given", delete(MOVEMENT, "key LIKE 'voucher:%'")),
    ("voucher_given", update(BUCKET, "granted = granted + 1", "grant_key LIKE 'gift:voucher:%'")),
    ("voucher_given", update(ORDER, "booster_id = NULL", "key LIKE 'voucher:%'")),
    ("handed_over", update(ENTRY, "units = units + 1", "kind = 8")),
    ("handed_over", delete(ENTRY, "kind = 8")),
    ("handed_over", update(HANDOVER, "units = units + 1")),
    ("handed_over", update(HANDOVER, f"receiver_id = {FIRST}")),
    ("merged", update(HANDOVER, f"receiver_id = {FIRST}")),
    ("handed_money", update(HANDOVER, "amount = amount + 1")),
    ("handed_money", delete(MOVEMENT, "key LIKE 'handover:%' AND amount > 0")),
    ("merged", update(HANDOVER, "kind = 'transfer'")),
    ("order_steps", update(ORDER, "state = 'waiting'")),
    ("order_steps", delete("billing_orderstep", "state = 'paid'")),
    ("order_granted", update(ORDER, "bucket_id = -1", "kind = 'booster'")),
    ("order_granted", update(ORDER, "amount = amount + 1", "kind = 'booster'")),
    ("prepaid", update(SIDE, "amount = amount + 1", on_account("prepaid"))),
    (
        "order_granted",
        update("subscriptions_expectedperiod", "plan_id = -1", "paid_at IS NOT NULL"),
    ),
    (
        "unpaid_empty",
        update("subscriptions_expectedperiod", "paid_at = NULL", "paid_at IS NOT NULL"),
    ),
    ("unpaid_empty", update("subscriptions_expectedperiod", "plan_id = -1")),
    ("prepaid_applied", update(ORDER, "applied = 1", "kind = 'booster'")),
    ("freezes", update(FREEZE, "units = units + 1", "state = 'taken'")),
    ("freezes", delete(ENTRY, "kind = 7")),
    ("bucket_reserved", delete(FREEZE, "state = 'frozen'")),
    ("order_refunds", update(REFUND, "amount = amount + 1", "state = 'succeeded'")),
    ("order_refunds", update(ORDER, "unapplied = 0.01", "state = 'refunding'")),
    ("refund_steps", delete("billing_refundstep", "state = 'succeeded'")),
    ("refund_steps", update(REFUND, "steps = 9")),
    ("refund_posted", update(REFUND, "amount = amount + 1", "state = 'pending'")),
    ("refund_posted", update(SIDE, "amount = amount + 1", on_account("refund"))),
    ("refund_posted", delete(REFUND)),
    ("refund_units", update(REFUND, "units = units + 1")),
    ("refund_units", update(FREEZE, "state = 'thawed'", "key LIKE '%-R-%' AND state = 'taken'")),
    ("disputes", update(DISPUTE, "state = 'won'", "state = 'lost'")),
    ("disputes", update(SIDE, "amount = amount + 1", on_account("disputed"))),
    ("disputes", delete("billing_disputestep")),
    ("complaints", update("billing_complaint", "state = 'open'", "state = 'answered'")),
    ("complaints", update("billing_complaint", "messages = messages + 1")),
    ("complaints", delete("billing_complaintmessage")),
    ("transfers", update("billing_banktransfer", "amount = amount + 1")),
    ("transfers", update("billing_banktransfer", "state = 'open'")),
    ("provider_payments", update(TAKEN, "amount = amount + 1", "became = 'wallet'")),
    ("provider_payments", update(TAKEN, "amount = amount + 1", "became = 'granted'")),
    ("provider_payments", update(TAKEN, "became = 'settled'", "became = 'unclear'")),
    ("provider_payments", update(TAKEN, "became = 'unclear'", "became = 'wallet'")),
    ("provider_payments", delete("billing_paymenttask")),
    ("provider_money", delete(TAKEN, "became = 'granted'")),
    ("provider_money", update(TAKEN, "order_id = -1", "became = 'granted'")),
    ("deferred_sold", update(DEFERRAL, "net = net + 0.01")),
    ("deferred_sold", update(DEFERRAL, "credited = credited + 0.01")),
    ("deferred_sold", update(DEFERRAL, "invoice_id = -1")),
    ("deferred_earned", update(DEFERRAL, "earned = earned - 0.01, broken = broken + 0.01")),
    ("deferred_earned", update(DEFERRAL, "burned = burned - 1")),
    ("deferred_earned", update(DEFERRAL, "ended = true", "NOT ended")),
    ("deferred_earned", update(DEFERRAL, "bucket_id = -1")),
    ("deferred_posted", update(DEFERRAL, "earned = earned - 0.01")),
    ("deferred_posted", delete(DEFERRAL)),
    (
        "deferred_posted",
        update(SIDE, "amount = amount + 1", on_account("breakage:booster/brief:0.06")),
    ),
    ("charge_files", update(CHARGE, "amount = amount - 0.01")),
    ("charge_files", delete(CHARGE)),
    ("charge_files", delete(CHARGE_FILE, "sequence = 1")),
    ("charge_files", update(CHARGE_FILE, "count = count + 1")),
    ("charge_files", update(CHARGE_FILE, "charges = charges + 1, credits = credits - 1")),
    ("charge_lines", update(CHARGE, "amount = 10000", "kind = 'charge'")),
    ("charge_lines", update(CHARGE, "amount = -amount", "kind = 'credit'")),
    ("charge_lines", update(CHARGE, "amount = amount - 1000", "kind = 'reversal'")),
    ("charge_lines", update(POSTING, "kind = 'payment'", "kind = 'write_off'")),
    ("charge_lines", update(CHARGE_FILE, "currency = 'USD'")),
    ("charge_lines", delete(INVOICE, "state = 'void'")),
    ("charge_lines", update(INVOICE, "state = 'open'", "state = 'void'")),
    ("cost_priced", update(COST, "cost = cost + 0.01")),
    ("cost_priced", update(COST, "output_tokens = output_tokens + 1")),
    ("cost_priced", update(COST, "day = '2026-05-31'", "day = '2026-06-10'")),
    ("cost_used", delete(COST)),
    ("cost_used", update(COST, "units = units + 1", "day < '2026-07-02'")),
    ("cost_used", update(RECORD, "units = units + 1", "occurred_at < timestamptz '2026-06-30Z'")),
    ("settled", update(COST, "settlement_id = NULL", "settlement_id IS NOT NULL")),
    ("settled", update(SETTLED_LINE, "amount = amount + 0.01")),
    ("settled", delete(SETTLED_LINE)),
    ("fapiao", update("billing_fapiaorequest", "net = net + 1, gross = gross + 1")),
    ("fapiao", update("billing_fapiaorequest", "counted = '[]'")),
    ("fapiao", update("billing_fapiaorequest", "state = 'red_issued'")),
    ("settled", update(SETTLED_LINE, "requests = requests + 1")),
    ("settled", update(COST, "day = '2026-07-05'", "settlement_id IS NOT NULL")),
    ("paid", update(PAYMENT, "amount = amount + 1")),
    ("paid", update(INVOICE, "paid = paid - 1", "state = 'paid' AND gross > 1")),
    ("paid", delete(PAYMENT)),
    ("payment_posted", update(PAYMENT, "amount = amount + 1")),
    ("payment_posted", update(PAYMENT, "way = 'alipay'")),
    ("payment_posted", delete(PAYMENT)),
    ("payment_posted", update(POSTING, "key = 'payment:x'", "kind = 'payment'")),
    ("late_fee", update(LINE, "gross = gross + 0.01", "kind = 'late_fee'")),
    ("late_fee", update(PAYMENT, "at = at - interval '3 days'", "amount = 4.00")),
    ("late_fee", again(LINE, '{"nr": 99}', "kind = 'late_fee'")),
    ("dunning_case", update(CASE, "state = 'terminated'", "state = 'suspended'")),
    ("dunning_case", update(CASE, "since = since - interval '1 day'", "state = 'suspended'")),
    ("dunning_case", delete(STEP)),
    ("dunning_case", delete(CASE)),
    ("suspended_for_debt", delete(CASE, "state = 'suspended'")),
    ("suspended_for_debt", update(SUSPENSION, "ends_at = starts_at", "ends_at IS NULL")),
]


@contextlib.contextmanager
def tampered(fault: Fault) -> Iterator[None]:
    """The books with one row changed, in spite of the table's own checks; mended afterwards."""
    table, statement = fault
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint"
            " WHERE conrelid = %s::regclass AND contype = 'c' AND conparentid = 0",
            [table],
        )
        rules = cursor.fetchall()
        try:
            for name, _ in rules:
                cursor.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
            cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
            cursor.execute(statement)
            assert cursor.rowcount >= 1
            yield
        finally:
            cursor.execute(f"DELETE FROM {table}")
            cursor.execute(f"INSERT INTO {table} SELECT * FROM kept_{table}")
            for name, rule in rules:
                cursor.execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} {rule}")
            cursor.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")
            if table in KEPT:
                cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER kept")


@pytest.mark.parametrize(
    ("check", "fault"), FAULTS, ids=[f"{check}-{nr}" for nr, (check, _) in enumerate(FAULTS)]
)
def test_a_fault_is_found(check: str, fault: Fault) -> None:
    with tampered(fault):
        status, printed = reconcile("--json")

    assert status == 1
    assert check in differences(printed)


def test_every_check_is_put_to_the_test() -> None:
    assert {check.name for check in CHECKS} == {check for check, _ in FAULTS}


def test_for_people_it_names_what_differs() -> None:
    with tampered(update(BUCKET, "granted = granted + 1", "kind = 'gift'")):
        status, printed = reconcile()

    assert status == 1
    assert "1 differ (bucket_balance)" in printed
    assert '"granted": 1000000001' in printed
    assert printed.splitlines()[-1] == "The books do not add up."


def test_of_many_differences_it_lists_the_first_and_counts_all() -> None:
    with tampered((HOURLY, f"UPDATE {HOURLY} SET requests = requests + 1")):
        _, printed = reconcile("--json")

    [check] = [
        check
        for check in json.loads(printed)["operators"][0]["checks"]
        if check["name"] == "hourly_totals"
    ]
    assert check["differences"] == check["checked"] > EXAMPLES
    assert len(check["examples"]) == EXAMPLES


def test_a_flood_of_differences_leaves_the_other_checks_their_results() -> None:
    """More than a connection's buffers hold, so that the server is not done when some are seen."""
    invented = (
        f"INSERT INTO {HOURLY} SELECT (jsonb_populate_record(t, jsonb_build_object('model', n))).*"
        f" FROM {HOURLY} t, generate_series(1, 20000) n WHERE {one(HOURLY, 'true')}"
    )
    with tampered((HOURLY, invented)):
        _, printed = reconcile("--json")

    checks = [
        check
        for operator in json.loads(printed)["operators"]
        for check in operator["checks"]
        if check["differences"]
    ]
    found = {check["name"]: check["differences"] for check in checks}
    assert found == {"hourly_totals": 20000, "daily_totals": 20000}
    assert all(len(check["examples"]) == EXAMPLES for check in checks)


def test_a_fault_of_one_operator_is_not_the_others() -> None:
    with tampered(update(RECORD, "units = units + 1", IN_SOUTH)):
        assert reconcile("--operator", "north")[0] == 0
        assert reconcile("--operator", "south")[0] == 1


def test_rows_of_no_operator_are_reported_too() -> None:
    with tampered(update(RECORD, "subscriber_id = -1")):
        _, printed = reconcile("--json")

    assert [operator["code"] for operator in json.loads(printed)["operators"]][-1] == ""


# --- after retention ----------------------------------------------------------------------------


def test_what_retention_dropped_is_no_difference() -> None:
    rows = drop_before(ADJUSTED, dt.date(2026, 6, 12))
    records = drop_before(RECORDS, dt.date(2026, 6, 12))
    journal = drop_before(partitions.ENTRIES, dt.date(2026, 6, 19))
    try:
        status, printed = reconcile("--json")
        with tampered(update(BUCKET, "granted = granted + 1", "kind = 'rollover'")):
            found = differences(reconcile("--json")[1])
    finally:
        mend(RECORDS, records)
        mend(ADJUSTED, rows)
        mend(partitions.ENTRIES, journal)

    report = json.loads(printed)
    assert (status, differences(printed)) == (0, {})
    assert report["records_since"] == "2026-06-12T00:00:00+00:00"
    assert report["journal_since"] == "2026-06-19T00:00:00+00:00"
    # What is whole is checked as before.
    assert found == {"bucket_balance": 1}
    assert reconcile()[0] == 0


def drop_before(table: partitions.DayTable, day: dt.date) -> list[dt.date]:
    """As retention does in the end: what somebody (autovacuum) locks is left for another time."""
    dropped: list[dt.date] = []
    while partitions.existing(table)[0] < day:
        dropped += partitions.drop_before(table, day)
    return dropped


def mend(table: partitions.DayTable, days: list[dt.date]) -> None:
    partitions.ensure(table, days)
    with connection.cursor() as cursor:
        for day in days:
            cursor.execute(
                f"INSERT INTO {table.table} SELECT * FROM kept_{table.table}"
                f" WHERE {table.column} >= %s AND {table.column} < %s",
                [f"{day} 00:00Z", f"{day + DAY} 00:00Z"],
            )
