"""What the platform tells: each happening once, in the transaction that made it true."""

from __future__ import annotations

import ast
import datetime as dt
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction
from rest_framework.test import APIClient

from billing import dunning, invoicing, methods, payments
from billing.models import Invoice
from subscriptions import dispatching, lifecycle
from subscriptions.models import Operator, OutboxEvent, Subscriber
from subscriptions.notices import kinds as notices
from subscriptions.webhooks.endpoints import KINDS
from tests.factories import NOW, local, make_plan, make_subscriber, set_clock, subscribe, yuan
from tests.providers import saved_card, stripe_account, unclear_payment
from tests.usage import DAY, Gateway, post, record

pytestmark = pytest.mark.django_db


def told(kind: str) -> list[Any]:
    rows = OutboxEvent.objects.filter(kind=kind).order_by("occurred_at", "key")
    return [row.payload for row in rows]


def bill(operator: Operator, subscriber: Subscriber, *, at: dt.datetime = NOW) -> Invoice:
    with transaction.atomic():
        invoicing.bill(
            operator,
            first_subscriber=subscriber.pk,
            last_subscriber=subscriber.pk,
            ended_by=at + 30 * DAY,
            at=at,
        )
    return Invoice.objects.filter(subscriber_id=subscriber.pk).latest("id")


def hear(api: APIClient, *kinds: str) -> None:
    said = {"url": "https://example.com/", "kinds": kinds}
    assert post(api, "webhook-endpoints", said).status_code == 201


_KIND = re.compile(r"[a-z_]+\.[a-z_]+")


def test_each_kind_that_is_told_is_one_that_a_system_can_choose() -> None:
    """Read from the code that puts things into the outbox: its words with a dot are kinds."""
    said = set()
    for path in (
        *(path for room in ("subscriptions", "metering", "billing") for path in source_of(room)),
        Path("subscriptions/migrations/rules/drawing.py"),
    ):
        text = path.read_text()
        if re.search(r"\boutbox\b|\bHappening\b|_outboxevent", text):
            words = [
                node.value
                for node in ast.walk(ast.parse(text))
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
            ]
            said |= {word for word in words if _KIND.fullmatch(word)}
            said |= {word for text in words for word in re.findall(r"'([a-z_]+\.[a-z_]+)'", text)}

    # What says that an endpoint works is told to it alone; the others are columns, not kinds.
    others = {"webhook.test", "endpoint.url", "a.model", "u.subject_id"}
    assert said - others == set(KINDS)
    assert set(notices.KINDS) <= set(KINDS)


def source_of(room: str) -> list[Path]:
    return [path for path in Path(room).rglob("*.py") if "migrations" not in path.parts]


def test_money_that_goes_into_a_wallet_is_told_wherever_it_is_from(
    api: APIClient, operator: Operator, subscriber: Subscriber
) -> None:
    hear(api, "order.paid", "wallet.topped_up")
    stripe_account(operator)
    ordered = post(api, "subscribers/s-1/orders", {"kind": "top_up", "amount": "9.00"}).json()
    pays = {"reference": "b-1", "amount": "9.00", "pays": {"order": ordered["number"]}}
    fills = {"reference": "b-2", "amount": "2.00", "pays": {"wallet": "s-1"}}
    for transfer in (pays, fills):
        assert post(api, "transfers", transfer).json()["state"] == "matched"
    task = unclear_payment(operator, "pi_1", "3.00")
    said = {"action": "wallet", "note": "hers", "subscriber": "s-1"}
    for _ in range(2):
        assert post(api, f"payment-tasks/{task.pk}/resolve", said).status_code == 200

    assert [(one["amount"], one["balance"]) for one in told("wallet.topped_up")] == [
        ("9.00", "9.00"),
        ("3.00", "14.00"),
        ("2.00", "11.00"),
    ]
    assert told("order.paid") == [
        {
            "order": ordered["number"],
            "kind": "top_up",
            "way": "bank",
            "amount": "9.00",
            "currency": "CNY",
        }
    ]


@pytest.mark.parametrize(
    ("year", "month", "times"),
    [(2026, 6, 1), (2026, 7, 1), (2026, 8, 0), (2026, 5, 0), (2030, 6, 0), (None, None, 0)],
)
def test_a_card_that_is_about_to_expire_is_told_once(
    operator: Operator, subscriber: Subscriber, year: int | None, month: int | None, times: int
) -> None:
    """From 1 June to 1 August less 30 days: 2 July."""
    saved = saved_card(operator, subscriber.pk, exp_year=year, exp_month=month)
    removed = saved_card(operator, subscriber.pk, "sbx_card_2", exp_year=2026, exp_month=6)
    methods.remove(operator, subscriber.pk, removed.pk, at=NOW)

    for day in range(23):
        methods.tell_expiring(operator, at=NOW + day * DAY)

    assert [one["method"] for one in told("method.expiring")] == [str(saved.pk)] * times


def test_an_invoice_is_told_when_issued_and_when_paid(
    api: APIClient, operator: Operator, subscriber: Subscriber
) -> None:
    hear(api, "invoice.issued", "invoice.paid")

    invoice = bill(operator, subscriber)
    payments.record(
        operator, str(invoice.number), amount=Decimal("4.00"), key="p-1", way="bank", at=NOW
    )
    assert told("invoice.paid") == []
    payments.record(
        operator, str(invoice.number), amount=Decimal("5.90"), key="p-2", way="bank", at=NOW
    )

    price = {"amount": "9.90", "currency": "CNY"}
    assert told("invoice.issued") == [
        {
            "invoice": invoice.number,
            "kind": "period",
            "gross": price,
            "amount_due": price,
            "due_at": "2026-06-25T04:00:00+00:00",
        }
    ]
    assert told("invoice.paid") == [
        {
            "invoice": invoice.number,
            "kind": "period",
            "gross": price,
            "amount_due": {"amount": "0.00", "currency": "CNY"},
        }
    ]


def test_what_no_system_hears_of_is_not_told_of_a_million_invoices(
    api: APIClient, operator: Operator, subscriber: Subscriber
) -> None:
    hear(api, "invoice.paid")

    bill(operator, subscriber)

    assert told("invoice.issued") == []


def test_a_reminder_is_told_of_each_that_is_due(operator: Operator, subscriber: Subscriber) -> None:
    dunning.set_policy(operator, at=NOW)
    invoice = bill(operator, subscriber)
    assert invoice.due_at is not None
    later = invoice.due_at + 2 * DAY
    set_clock(operator, later)

    dunning.run(operator, at=later)
    dunning.run(operator, at=later)

    [said] = [one for one in told("invoice.reminder") if one["overdue"]]
    assert (said["invoice"], said["amount_due"]["amount"]) == (invoice.number, "9.90")


def test_a_line_that_is_suspended_and_restored_is_told_once_each(subscriber: Subscriber) -> None:
    for at in (NOW, NOW + DAY):
        lifecycle.suspend(subscriber.pk, reason="owes", at=at)
    for at in (NOW + 2 * DAY, NOW + 3 * DAY):
        lifecycle.restore(subscriber.pk, at=at)

    assert (told("subscription.suspended"), told("subscription.restored")) == (
        [{"frozen": False}],
        [{}],
    )


def test_another_plan_is_told_with_its_day_and_an_end_too(
    operator: Operator, subscriber: Subscriber
) -> None:
    make_plan(operator, "big", price=yuan("19.90"), allowance=20_000_000_000)
    make_plan(operator, "small", price=yuan("5.90"), allowance=1_000_000_000)
    [held] = subscriber.subscriptions.all()

    lifecycle.upgrade(subscriber.pk, held.id, "big", at=NOW)
    lifecycle.change(subscriber.pk, held.id, plan_code="small", at=NOW + DAY)
    lifecycle.change(subscriber.pk, held.id, plan_code="small", at=NOW + DAY)
    lifecycle.end_now(subscriber.pk, held.id, reason="gone", refund=False, at=NOW + 2 * DAY)

    number = str(held.id)
    assert told("subscription.plan_changed") == [
        {
            "subscription": number,
            "old_plan": "light",
            "plan": "big",
            "since": NOW.isoformat(),
        },
        {
            "subscription": number,
            "old_plan": "big",
            "plan": "small",
            "since": local(2026, 7, 1).isoformat(),
        },
    ]
    assert told("subscription.ended") == [{"subscription": number, "plan": "big"}]


@pytest.mark.parametrize(
    ("terms", "price"),
    [
        (
            {"on_exhaustion": "meter", "price_per_million": "1.2", "cap": yuan("20")},
            {
                "price_per_million": {"amount": "1.20", "currency": "CNY"},
                "cap": {"amount": "20.00", "currency": "CNY"},
            },
        ),
        (
            {"on_exhaustion": "blocks", "block_units": 400_000_000, "block_price": yuan("1")},
            {"block": {"units": "400000.000", "price": {"amount": "1.00", "currency": "CNY"}}},
        ),
        ({"on_exhaustion": "stop"}, None),
    ],
)
def test_where_overage_begins_its_price_is_told_once_a_period(
    operator: Operator, gateway: Gateway, terms: dict[str, Any], price: Any
) -> None:
    plan = make_plan(operator, "metered", allowance=100_000, **terms)
    subscriber = make_subscriber(operator)
    held = subscribe(subscriber, plan)
    gateway.charge(record("a", input_tokens=150, output_tokens=0))
    lifecycle.give(subscriber.pk, units=10_000, valid_until=NOW + DAY, reason="sorry", at=NOW)
    gateway.charge(record("b", input_tokens=15, output_tokens=0))
    while dispatching.dispatch(at=NOW):
        pass

    assert len(told("bucket.exhausted")) == 2
    said = {"subscription": str(held.id), "plan": "metered"}
    until = {"until": local(2026, 7, 1).isoformat()}
    assert told("overage.started") == ([] if price is None else [{**said, **until, **price}])
