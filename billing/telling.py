"""What of invoices, orders and wallets somebody must hear of, into the outbox: many at once, with
what they say."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from billing import wallets
from billing.models import DunningEvent, Order
from subscriptions import outbox, pgarrays
from subscriptions.models import Operator
from subscriptions.outbox import Happening
from subscriptions.pgarrays import Int8s
from subscriptions.webhooks import endpoints

ISSUED, PAID, REMINDER = "invoice.issued", "invoice.paid", "invoice.reminder"
ABNORMAL = "bill.abnormal"
ORDER_PAID, TOPPED_UP = "order.paid", "wallet.topped_up"

Key = tuple[int, int]

_INVOICES_SQL = """
SELECT i.subscriber_id, i.id, i.number, i.kind, i.state, i.currency, i.gross, i.gross - i.paid,
       i.issued_at, i.due_at
FROM unnest(%s::bigint[], %s::bigint[]) AS k (subscriber_id, id)
JOIN billing_invoice i ON i.subscriber_id = k.subscriber_id AND i.id = k.id
"""


def issued(operator: Operator, keys: Sequence[Key]) -> None:
    """Tell that these invoices (subscriber, invoice) were issued, where a system hears of it."""
    if not endpoints.heard(operator.pk, ISSUED):
        return
    with pgarrays.statements() as cursor:
        cursor.execute(_INVOICES_SQL, _columns(keys))
        rows = cursor.fetchall()
    outbox.tell(
        [
            Happening(subscriber_id, ISSUED, f"issued:{pk}", issued_at, _said(rest, due_at=due_at))
            for subscriber_id, pk, *rest, issued_at, due_at in rows
        ]
    )


# Three bills there must have been: what is high is not to be told by less.
_ABNORMAL_SQL = """
SELECT i.subscriber_id, i.id, i.number, i.currency, i.gross, round(m.mean, 2), i.issued_at
FROM unnest(%s::bigint[], %s::bigint[]) AS k (subscriber_id, id)
JOIN billing_invoice i ON i.subscriber_id = k.subscriber_id AND i.id = k.id AND i.gross > 0
CROSS JOIN LATERAL (
    SELECT avg(p.gross) AS mean, count(*) AS months
    FROM (
        SELECT p.gross FROM billing_invoice p
        WHERE p.subscriber_id = i.subscriber_id AND p.currency = i.currency AND p.kind = 'period'
          AND p.state NOT IN ('draft', 'void') AND p.period_end <= i.period_start
        ORDER BY p.period_end DESC LIMIT 3
    ) p
) m
WHERE m.months = 3 AND i.gross > 5 * m.mean
"""


def abnormal(keys: Sequence[Key]) -> None:
    """Tell at once of those of these bills that are more than five times the mean of the three
    months before."""
    with pgarrays.statements() as cursor:
        cursor.execute(_ABNORMAL_SQL, _columns(keys))
        rows = cursor.fetchall()
    outbox.tell(
        [
            Happening(
                subscriber_id,
                ABNORMAL,
                f"abnormal:{pk}",
                issued_at,
                {
                    "invoice": number,
                    "gross": _money(gross, currency),
                    "mean": _money(mean, currency),
                },
            )
            for subscriber_id, pk, number, currency, gross, mean, issued_at in rows
        ]
    )


def paid(operator: Operator, keys: Iterable[Key], *, at: dt.datetime) -> None:
    """Tell of those of these invoices of which nothing is due any more, where a system hears."""
    if not endpoints.heard(operator.pk, PAID):
        return
    with pgarrays.statements() as cursor:
        cursor.execute(_INVOICES_SQL, _columns(sorted(set(keys))))
        rows = cursor.fetchall()
    outbox.tell(
        [
            Happening(subscriber_id, PAID, f"paid:{pk}", at, _said(rest))
            for subscriber_id, pk, *rest, _, _ in rows
            if rest[2] == "paid"
        ]
    )


def reminders(events: Sequence[DunningEvent]) -> None:
    """Tell who owes of the reminders among these steps: an invoice is due soon, or was due."""
    told = [event for event in events if event.kind == DunningEvent.Kind.REMINDER]
    if not told:
        return
    keys = {(event.subscriber_id, event.invoice_id) for event in told}
    with pgarrays.statements() as cursor:
        cursor.execute(_INVOICES_SQL, _columns(sorted(keys)))
        invoices = {(row[0], row[1]): row[2:] for row in cursor.fetchall()}
    happenings = []
    for event in told:
        *rest, _, due_at = invoices[event.subscriber_id, event.invoice_id]
        said = _said(rest, due_at=due_at, overdue=due_at <= event.done_at)
        key = f"reminded:{event.currency}:{event.nr}"
        happenings.append(Happening(event.subscriber_id, REMINDER, key, event.done_at, said))
    outbox.tell(happenings)


def orders_paid(operator: Operator, orders: Sequence[Order], *, at: dt.datetime) -> None:
    """Tell of orders that were just paid, where a system hears of it."""
    if not orders or not endpoints.heard(operator.pk, ORDER_PAID):
        return
    outbox.tell(
        [
            Happening(
                order.subscriber_id,
                ORDER_PAID,
                f"{ORDER_PAID}:{order.number}",
                at,
                {
                    "order": order.number,
                    "kind": order.kind,
                    "way": order.way,
                    "amount": f"{order.amount:.2f}",
                    "currency": order.currency,
                },
            )
            for order in orders
        ]
    )


def topped_up(
    subscriber_id: int, currency: str, amount: Decimal, key: str, *, at: dt.datetime, **more: Any
) -> None:
    """Tell that money went into a wallet, in the transaction that put it there; `key` names that
    money, `more` says where it is from."""
    said = {
        "amount": f"{amount:.2f}",
        "balance": f"{wallets.balance_of(subscriber_id, currency):.2f}",
        "currency": currency,
        **more,
    }
    outbox.tell([Happening(subscriber_id, TOPPED_UP, f"{TOPPED_UP}:{key}", at, said)])


def _said(rest: Sequence[Any], **more: Any) -> dict[str, Any]:
    number, kind, _, currency, gross, due = rest
    said = {
        "invoice": number,
        "kind": kind,
        "gross": _money(gross, currency),
        "amount_due": _money(due, currency),
    }
    for name, value in more.items():
        said[name] = value.isoformat() if isinstance(value, dt.datetime) else value
    return said


def _money(amount: Decimal, currency: str) -> dict[str, str]:
    return {"amount": f"{amount:.2f}", "currency": currency}


def _columns(keys: Sequence[Key]) -> list[Int8s]:
    return [Int8s(subscriber_id for subscriber_id, _ in keys), Int8s(pk for _, pk in keys)]
