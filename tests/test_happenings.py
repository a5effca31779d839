"""What the platform tells: each happening once, in the transaction that made it true."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest
from django.db import transaction
from rest_framework.test import APIClient

from billing import dunning, invoicing, payments
from billing.models import Invoice
from subscriptions import dispatching, lifecycle
from subscriptions.models import Operator, OutboxEvent, Subscriber
from tests.factories import NOW, local, make_plan, make_subscriber, set_clock, subscribe, yuan
from tests.usage import DAY, Gateway, post, record

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("committed_days")]


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
