"""Renewals of many subscribers at once: periods ordered, and paid from wallets, a slice of
subscribers in each transaction, in a few statements however many they are.

Only what is plain is done here. Whatever is not (an order before, a wallet with too little, an
attempt that is under way) is left as it is, for who looks at each.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence

from django.db import connection

from billing import consents, ledger, telling, wallets
from billing.collecting import cases
from billing.collecting.cases import State
from billing.collecting.schedule import WALLET
from billing.ledger import Side
from billing.models import CollectionCase, Consent, Order, WalletMovement
from billing.orders import buying, keeping
from billing.orders.keeping import Draft
from subscriptions import expected, lifecycle, outbox
from subscriptions.models import Operator, Plan

Kind = CollectionCase.Kind


# Ordering ----------------------------------------------------------------------------------------


def order_many(
    operator: Operator, keys: Sequence[expected.Key], *, at: dt.datetime
) -> list[expected.Key]:
    """Order these periods, of subscribers whom the caller's transaction holds; answers those that
    have to be looked at one by one."""
    assert connection.in_atomic_block
    standing = lifecycle.lock_periods(keys)
    prospects = lifecycle.prospects(keys, at=at)
    before = {
        keeping.period_key(order)
        for order in Order.objects.filter(
            subscriber_id__among={key[0] for key in keys},
            period_start__in={key[2] for key in keys},
            kind__in=[Order.Kind.PERIOD, Order.Kind.PLAN],
        )
    }
    plain = {
        key: prospects[key].plan_id
        for key in keys
        if key in prospects
        and key not in before
        and prospects[key].ends_at > at
        and key in standing
        and standing[key].plan_id == prospects[key].plan_id
        and standing[key].paid_at is None
        and standing[key].asked_at is None
    }
    fees = buying.fees_of_periods(operator, plain)
    plans = Plan.objects.in_bulk(set(plain.values()))
    asked = [key for key in plain if fees[key] > 0]
    drafts = [
        Draft(
            key[0],
            Order.Kind.PERIOD,
            fees[key],
            plans[plain[key]].price.currency.code,
            prospects[key].ends_at,
            buying.key_of_period(key, 1),
            plan=plans[plain[key]],
            subscription_id=key[1],
            period_start=key[2],
        )
        for key in asked
    ]
    orders = keeping.create_many(operator, drafts, at=at)
    first = {order.id for order, key in zip(orders, asked, strict=True) if prospects[key].first}
    cases.begin_orders(operator, orders, first=first, at=at)
    expected.asked(asked, at=at)
    done = set(asked)
    return [key for key in keys if key not in done]


# Paying ------------------------------------------------------------------------------------------


def from_wallets(
    operator: Operator, claimed: Sequence[CollectionCase], *, at: dt.datetime
) -> list[CollectionCase]:
    """Pay the periods of these cases from the wallets of their subscribers, whom the caller's
    transaction holds; answers the cases that have to be looked at one by one."""
    assert connection.in_atomic_block
    mine = {
        case.about: case
        for case in claimed
        if case.kind == Kind.ORDER
        and case.next_way == WALLET
        and case.noticed_at is not None
        and case.intent_nr is None
    }
    orders = _payable(mine, at=at)
    keys = keeping.attempt_keys(orders)
    free = [order for order in orders if order.id in keys]
    paid = _settle(operator, free, keys, at=at) if free else []
    over = [mine[order.id] for order in paid]
    steps = [
        step
        for case in over
        for step in (
            cases.step(case, cases.Step.TRIED, at=at, way=WALLET),
            cases.end(case, State.COLLECTED, at=at, way=WALLET),
        )
    ]
    cases.keep(over, steps)
    done = {cases.key_of(case) for case in over}
    return [case for case in claimed if cases.key_of(case) not in done]


def _payable(mine: dict[int, CollectionCase], *, at: dt.datetime) -> list[Order]:
    """The orders of these cases that can be paid, under lock, whose subscribers agree."""
    ids, subscriber_ids = set(mine), {case.subscriber_id for case in mine.values()}
    found = Order.objects.filter(subscriber_id__among=subscriber_ids, id__among=ids)
    periods = found.values_list("subscriber_id", "subscription_id", "period_start")
    lifecycle.lock_periods(
        sorted((who, which, start) for who, which, start in periods if which and start)
    )
    orders = list(found.order_by("subscriber_id", "id").select_for_update(no_key=True))
    agreed = consents.agreed(subscriber_ids)
    return [
        order
        for order in orders
        if order.state in Order.OPEN
        and order.expires_at > at
        and agreed[order.subscriber_id].to(Consent.Kind.AUTO_RENEW, order.subscription_id)
    ]


def _settle(
    operator: Operator, orders: Sequence[Order], keys: Mapping[int, str], *, at: dt.datetime
) -> list[Order]:
    """Pay these locked orders, of those whose wallets have enough, each by the attempt of the key;
    answers which."""
    held = wallets.lock((order.subscriber_id, order.currency) for order in orders)
    left = {key: wallets.spendable(wallet) for key, wallet in held.items()}
    able = []
    for order in orders:
        key = (order.subscriber_id, order.currency)
        if left.get(key, 0) >= order.amount:
            left[key] -= order.amount
            able.append(order)
    by_period = {keeping.period_key(order): order for order in able}
    refused = lifecycle.pay_periods(
        {key: order.plan_id for key, order in by_period.items() if order.plan_id is not None},
        at=at,
    )
    paid = [order for key, order in by_period.items() if key not in refused]
    moves = [
        wallets.Move(
            order.subscriber_id,
            order.currency,
            WalletMovement.Kind.PAYMENT,
            -order.amount,
            f"payment:{keys[order.id]}",
            order.number,
        )
        for order in paid
    ]
    wallets.move(operator.pk, moves, at=at, held=held)
    posted = ledger.post_many(
        operator.pk,
        [
            ledger.Draft(
                f"order:{order.id}",
                "order",
                at,
                order.currency,
                (
                    Side(ledger.WALLET, order.amount, order.subscriber_id),
                    Side(ledger.PREPAID, -order.amount, order.subscriber_id),
                ),
                order.number,
            )
            for order in paid
        ],
    )
    assert posted == len(paid)
    keeping.paid_at_once(paid, WALLET, keys, at=at)
    outbox.tell(buying.renewals(paid, at=at))
    telling.orders_paid(operator, paid, at=at)
    return paid
