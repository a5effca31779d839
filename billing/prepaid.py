"""What was paid before any invoice: it lowers what is due on the invoice that names it, no line.

A plan or booster that an order paid is on its period's invoice like any other; the order's money
waits on the account `prepaid` until then. What that invoice does not need, because a coupon or a
refund made it less, is put into the wallet. What of it is refunded before, a credit note takes off
the invoice as soon as it names it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from django.db import connection, transaction

from billing import disputes, invoicing, ledger, payments, rating, refunds, wallets
from billing.ledger import Side
from billing.models import Invoice, Order, WalletMovement
from billing.orders import keeping
from subscriptions.models import Operator

# Orders that wait are found by an index of their own, which costs nothing where there are none. An
# order that another transaction has settled meanwhile drops out when its lock is there.
_NAMED_SQL = """
SELECT o.subscriber_id, o.id, i.id
FROM billing_order o
JOIN LATERAL (
    SELECT i.id FROM billing_invoice i
    WHERE o.bucket_id IS NULL AND i.subscriber_id = o.subscriber_id AND i.kind = 'period'
      AND i.subscription_id = o.subscription_id AND i.period_start = o.period_start
      AND i.number IS NOT NULL
    UNION ALL
    SELECT l.invoice_id FROM billing_invoiceline l
    WHERE l.subscriber_id = o.subscriber_id AND l.bucket_id = o.bucket_id AND l.kind = 'booster'
) i ON true
WHERE o.operator_id = %s AND o.subscriber_id BETWEEN %s AND %s
  AND o.paid_at IS NOT NULL AND o.settled_at IS NULL AND NOT o.kind IN ('top_up', 'invoice')
ORDER BY o.subscriber_id, o.id
FOR NO KEY UPDATE OF o
"""


def apply(
    operator: Operator, *, first_subscriber: int, last_subscriber: int, at: dt.datetime
) -> None:
    """Let orders of these subscribers pay the invoices that name what they bought by now.

    Joins the caller's transaction, the one that issued the invoices: there are both or neither.
    May be repeated.
    """
    assert connection.in_atomic_block
    with connection.cursor() as cursor:
        cursor.execute(_NAMED_SQL, [operator.pk, first_subscriber, last_subscriber])
        named = {(subscriber, order): invoice for subscriber, order, invoice in cursor.fetchall()}
    if not named:
        return
    orders = list(
        Order.objects.filter(
            subscriber_id__among={key[0] for key in named}, id__among={key[1] for key in named}
        ).order_by("subscriber_id", "id")
    )
    for order in orders:
        if order.refunded and order.bucket_id is not None:
            refunds.say(operator, order, named[order.subscriber_id, order.id], at=at)
    invoices = {
        (invoice.subscriber_id, invoice.id): invoice
        for invoice in Invoice.objects.filter(
            subscriber_id__among={key[0] for key in named}, id__among=set(named.values())
        )
    }
    due = {
        key: invoicing.amount_due(invoice) if invoice.state == Invoice.State.OPEN else rating.ZERO
        for key, invoice in invoices.items()
    }
    paid = []
    for order in orders:
        key = (order.subscriber_id, named[order.subscriber_id, order.id])
        order.applied = max(min(keeping.left_of(order), due[key]), rating.ZERO)
        due[key] -= order.applied
        if order.applied:
            paid.append(
                payments.InAdvance(*key, order.currency, order.applied, f"order:{order.number}")
            )
    payments.record_in_advance(operator, paid, at=at)
    back(operator, [order for order in orders if keeping.left_of(order)], at=at)
    keeping.used_up(orders, at=at)


# Few orders are for a plan, and they wait for its first period only.
_NEVER_BEGUN_SQL = """
SELECT o.subscriber_id, o.id
FROM billing_order o
JOIN subscriptions_subscription s
  ON s.subscriber_id = o.subscriber_id AND s.id = o.subscription_id AND s.ends_at = s.starts_at
WHERE o.operator_id = %s AND o.kind = 'plan' AND o.paid_at IS NOT NULL AND o.settled_at IS NULL
  AND o.state = 'paid'
ORDER BY o.subscriber_id, o.id
"""


def give_back(operator: Operator, *, at: dt.datetime) -> None:
    """Put what plans cost that were cancelled before they began into the wallets: no invoice will
    name them. May be repeated; each order is a transaction of its own."""
    with connection.cursor() as cursor:
        cursor.execute(_NEVER_BEGUN_SQL, [operator.pk])
        found = cursor.fetchall()
    for subscriber_id, order_id in found:
        with transaction.atomic():
            keeping.lock_subscriber(subscriber_id)
            order = Order.objects.select_for_update(no_key=True).get(
                subscriber_id=subscriber_id, id=order_id
            )
            if order.state == Order.State.PAID and order.settled_at is None:
                back(operator, [order], at=at)
                keeping.used_up([order], at=at)


def back(operator: Operator, orders: Sequence[Order], *, at: dt.datetime) -> None:
    """Move what locked orders have left into the wallets, in the caller's transaction; of payments
    that are disputed it does not stay there."""
    if not orders:
        return
    moves = [
        wallets.Move(
            order.subscriber_id,
            order.currency,
            WalletMovement.Kind.REFUND,
            keeping.left_of(order),
            f"rest:{order.number}",
            order.number,
            of_order=order.number,
        )
        for order in orders
    ]
    wallets.move(operator.pk, moves, at=at)
    ledger.post_many(
        operator.pk,
        [
            ledger.Draft(
                f"rest:{order.id}",
                "order_rest",
                at,
                order.currency,
                (Side(ledger.PREPAID, move.amount, order.subscriber_id), move.side()),
                order.number,
            )
            for order, move in zip(orders, moves, strict=True)
        ],
    )
    came_back = {
        (order.subscriber_id, order.id): move.amount
        for order, move in zip(orders, moves, strict=True)
    }
    disputes.hold_back(operator, came_back, at=at)
