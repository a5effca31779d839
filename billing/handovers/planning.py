"""What a handover would move, and what that cost: only reads."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.db.models import F, Q

from billing import rating
from billing.models import Invoice, Order, PaymentIntent, Wallet
from metering.models import UsageRecord
from subscriptions import buckets
from subscriptions.errors import Conflict
from subscriptions.models import (
    Booster,
    Bucket,
    Operator,
    Subject,
    Subscriber,
    Subscription,
    SubscriptionPeriod,
    Suspension,
)
from subscriptions.units import to_wire


class UsageCharged(Conflict):
    cause = "usage_charged"


class LineSuspended(Conflict):
    cause = "suspended"


class ReservationsOpen(Conflict):
    cause = "reservations_open"


class PaymentUnderWay(Conflict):
    cause = "payment_under_way"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to move, by the giver's state at an instant; `worth` is money."""

    effect: dict[str, Any]
    worth: Decimal
    bucket_ids: tuple[int, ...]
    open_orders: tuple[str, ...]
    wallet: Decimal


def plan(
    operator: Operator,
    giver: Subscriber,
    bindings: list[Subject],
    *,
    balance: str,
    with_wallet: bool,
    merge: bool,
    at: dt.datetime,
) -> Plan:
    """What of a subscriber would move or be forfeited with these names.

    Raises LineSuspended and ReservationsOpen where a balance that is held up would move,
    PaymentUnderWay where a merged subscriber is paying.
    """
    held = list(
        Bucket.objects.filter(
            subscriber_id=giver.pk, valid_until__gt=at, kind__in=buckets.PREPAID
        ).order_by("id")
    )
    touched = held if balance != "keep" else []
    running = Suspension.objects.filter(subscriber_id=giver.pk, starts_at__lte=at).filter(
        Q(ends_at__isnull=True) | Q(ends_at__gt=at)
    )
    if (touched or with_wallet or merge) and running.exists():
        raise LineSuspended("the line is suspended or frozen: restore it first")
    if (touched or merge) and any(bucket.reserved for bucket in held):
        raise ReservationsOpen("units are held by open reservations; try again when they are over")
    wallet = rating.ZERO
    if with_wallet:
        found = Wallet.objects.filter(subscriber_id=giver.pk, currency=operator.currency).first()
        if found is not None:  # neither what was given with a top-up, nor what is held
            wallet = found.balance - max(found.bonus, found.held)
    cost = [_cost(bucket) for bucket in touched]
    open_orders: list[str] = []
    effect: dict[str, Any] = {
        "subjects": [binding.subject for binding in bindings],
        "balance": balance,
        "buckets": [
            {
                "id": str(bucket.id),
                "kind": bucket.kind,
                "units": to_wire(_left(bucket)),
                "worth": str(worth),
                "valid_until": bucket.valid_until.isoformat(),
            }
            for bucket, worth in zip(touched, cost, strict=True)
            if _left(bucket)
        ],
        "units": to_wire(sum(map(_left, touched))),
        "wallet": str(wallet),
    }
    if merge:
        open_orders = _open_orders(giver)
        plans = Subscription.objects.filter(subscriber_id=giver.pk).filter(
            Q(ends_at__isnull=True) | Q(ends_at__gt=at)
        )
        due = Invoice.objects.filter(
            subscriber_id=giver.pk, state=Invoice.State.OPEN, gross__gt=F("paid")
        )
        effect |= {
            "orders_cancelled": open_orders,
            "plans_ended": sorted(plans.values_list("plan__code", flat=True)),
            "invoices_left_with_it": sorted(map(str, due.values_list("number", flat=True))),
        }
    return Plan(
        effect,
        wallet + sum(cost, rating.ZERO),
        tuple(bucket.id for bucket in touched if _left(bucket)),
        tuple(open_orders),
        wallet,
    )


def _left(bucket: Bucket) -> int:
    left: int = (bucket.granted or 0) - bucket.used - bucket.reserved
    return left


def _cost(bucket: Bucket) -> Decimal:
    """What the units that are left cost: their share of the price of the booster or period."""
    left = _left(bucket)
    if not left or not bucket.granted:
        return rating.ZERO
    price = rating.ZERO
    if bucket.kind == Bucket.Kind.BOOSTER:
        sold = bucket.grant_key.split(":")[1:2]
        booster = Booster.objects.filter(pk=int(sold[0])).first() if sold else None
        price = rating.ZERO if booster is None else booster.price.amount
    elif bucket.kind == Bucket.Kind.ALLOWANCE and bucket.subscription_id is not None:
        period = (
            SubscriptionPeriod.objects.filter(
                subscriber_id=bucket.subscriber_id,
                subscription_id=bucket.subscription_id,
                starts_at__lte=bucket.valid_from,
            )
            .select_related("plan")
            .order_by("-starts_at")
            .first()
        )
        price = rating.ZERO if period is None else period.plan.price.amount
    return rating.prorate(price, left, bucket.granted)


def _open_orders(giver: Subscriber) -> list[str]:
    """Numbers of orders that nobody has paid. Raises PaymentUnderWay."""
    under_way = PaymentIntent.objects.filter(
        subscriber_id=giver.pk, state__in=["intended", "waiting"]
    )
    if under_way.exists():
        raise PaymentUnderWay("an order is being paid; wait for it, or cancel it")
    orders = Order.objects.filter(subscriber_id=giver.pk, state__in=Order.OPEN)
    return sorted(orders.exclude(kind=Order.Kind.PERIOD).values_list("number", flat=True))


def after_usage(subscriber_id: int, *, at: dt.datetime) -> dt.datetime:
    """An instant, or just behind what was charged for a moment after it: a gateway's clock may be
    ahead, and such usage, sent again, has to meet its owner."""
    last = (
        UsageRecord.objects.filter(subscriber_id=subscriber_id, occurred_at__gte=at)
        .order_by("-occurred_at")
        .values_list("occurred_at", flat=True)
        .first()
    )
    return at if last is None else last + dt.timedelta(microseconds=1)


def check_unused(bindings: list[Subject], *, since: dt.datetime) -> None:
    """Raises UsageCharged where usage of these names was charged at or after an instant: it stays
    with whoever had them."""
    for binding in bindings:
        later = UsageRecord.objects.filter(
            subscriber_id=binding.subscriber_id, subject_id=binding.pk, occurred_at__gte=since
        )
        if later.exists():
            raise UsageCharged(
                f"usage of {binding.subject} since then is charged: name a later time"
            )
