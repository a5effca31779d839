"""Plans that are paid before each period: an order for it some days ahead, and what follows.

The period's bucket opens in the transaction that marks its order paid: at the period's first
second, or at once where that is over. An order of a period that will not come, or comes under
another plan, is cancelled; one that was paid goes into the wallet. What a period was not paid for
it does not cost: its invoice has a fee of nothing.

Locks in one order: the subscriber, the subscription, the expected period, orders, wallets, buckets.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection

from django.db import transaction

from billing import prepaid
from billing.collecting import cases, policies, renewing
from billing.models import Order
from billing.orders import buying, keeping
from subscriptions import expected, lifecycle
from subscriptions.models import Operator

_CHUNK = 500


def sweep(operator: Operator, *, at: dt.datetime) -> None:
    """Ask for all periods that begin within the policy's days, and look again at what has changed.

    May be repeated, broken off anywhere, and done by several at once: a chunk of periods is a
    transaction, or each by itself where something is not plain. One that cannot be looked at holds
    up no other: the first error is raised when all others are done.
    """
    if not lifecycle.has_plans_paid_before(operator.pk):
        return
    until = at + dt.timedelta(days=policies.terms_by(operator.pk)(at).days_ahead)
    lifecycle.expect_ahead(operator.pk, at=at, until=until, chunk=_CHUNK)
    failed: dict[expected.Key, Exception] = {}
    while (keys := _next(operator, failed, at=at)) is not None:
        for key in keys:
            try:
                look(operator, key, at=at)
            except Exception as error:
                failed[key] = error
    for one in failed.values():
        raise one


@transaction.atomic
def _next(
    operator: Operator, failed: Collection[expected.Key], *, at: dt.datetime
) -> list[expected.Key] | None:
    """Order the next chunk of periods; answers which of them have to be looked at one by one, None
    where there is none left."""
    keys = expected.claim(operator.pk, but=failed, limit=_CHUNK)
    if not keys:
        return None
    try:
        with transaction.atomic():
            return renewing.order_many(operator, keys, at=at)
    except Exception:
        # One of them is at fault: by itself it says why.
        return keys


@transaction.atomic
def look(operator: Operator, key: expected.Key, *, at: dt.datetime) -> None:
    """Bring the orders of one period in line with what it is to be."""
    subscriber_id, subscription_id, starts_at = key
    keeping.lock_subscriber(subscriber_id)
    prospect = lifecycle.prospect(key, at=at)
    row = expected.locked(key)
    if row is None:
        return
    orders = list(
        Order.objects.filter(
            subscriber_id=subscriber_id,
            subscription_id=subscription_id,
            period_start=starts_at,
            kind__in=[Order.Kind.PERIOD, Order.Kind.PLAN],
        )
        .order_by("id")
        .select_for_update(no_key=True)
    )
    plan_id = None if prospect is None else prospect.plan_id
    over = prospect is None or prospect.ends_at <= at
    price = None
    if prospect is not None and not over:
        price = buying.fees_of_periods(operator, {key: prospect.plan_id})[key]
    live = None
    for order in orders:
        why = ""
        if over:
            why = "the period does not come"
        elif order.plan_id != plan_id:
            why = "the period has another plan"
        elif order.amount != price:
            why = "the period costs something else"
        if order.state in Order.OPEN and why:
            keeping.close([order], Order.State.CANCELLED, at=at, reason=why)
        elif order.state == Order.State.PAID and order.plan_id != plan_id:
            if order.settled_at is None:
                prepaid.back(operator, [order], at=at)
                keeping.used_up([order], at=at)
        elif order.state in (*Order.OPEN, Order.State.PAID):
            live = order
    if prospect is None:
        expected.forget(key)
        return
    # An opening would say the same; until then nothing may be granted for the old price.
    now = expected.Expected(*key, operator.pk, prospect.plan_id)
    paid = expected.expect([now])[key] is not None
    if not paid and not over:
        if live is None:
            made = buying.order_period(
                operator, key, prospect.plan_id, at=at, expires_at=prospect.ends_at
            )
            if made is not None:
                first = {made.id} if prospect.first else set()
                cases.begin_orders(operator, [made], first=first, at=at)
        elif live.state == Order.State.PAID:
            # It had another plan for a while, which nobody looked at.
            lifecycle.pay_period(key, prospect.plan_id, at=at)
    expected.asked([key], at=at)
