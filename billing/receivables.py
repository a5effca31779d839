"""What subscribers owe by age, at any date: from invoices and postings, never from today's state.

Void invoices, credit notes and write-offs name their invoice; what else has lowered a subscriber's
receivable, payments, settles what was due first.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from typing import NamedTuple

from billing.exports import cells


class Aged(NamedTuple):
    """What a subscriber owes in a currency: not due yet, and by days since it was due.

    `credit` < 0 is what it gets: credit notes and payments beyond what it owed.
    """

    subscriber: str
    currency: str
    not_due: Decimal
    days_0_30: Decimal
    days_31_60: Decimal
    days_61_90: Decimal
    days_over_90: Decimal
    credit: Decimal

    @property
    def total(self) -> Decimal:
        return sum(self[2:], Decimal("0.00"))


# `through`: an invoice and all that was due before it. One that was given up still has what was
# paid of it before, for the payment to settle.
_AGED_SQL = """
WITH charged AS (
    SELECT i.subscriber_id, i.currency, i.due_at, i.id, i.gross + coalesce((
               SELECT sum(n.gross) FROM billing_invoice n
               WHERE n.subscriber_id = i.subscriber_id AND n.original_id = i.id
                 AND n.issued_at <= %(at)s), 0) - coalesce((
               SELECT sum(e.amount)
               FROM billing_posting p
               JOIN billing_entry e ON e.posting_id = p.id AND e.amount > 0
               WHERE p.operator_id = i.operator_id AND p.key = 'write_off:' || i.id
                 AND p.at <= %(at)s), 0) AS left_over
    FROM billing_invoice i
    WHERE i.operator_id = %(operator)s AND i.kind <> 'credit_note' AND i.issued_at <= %(at)s
      AND NOT EXISTS (
          SELECT FROM billing_posting p
          WHERE p.operator_id = i.operator_id AND p.key = 'void:' || i.id AND p.at <= %(at)s)
), paid AS (
    SELECT e.subscriber_id, a.currency, -sum(e.amount) AS amount
    FROM billing_account a
    JOIN billing_entry e ON e.account_id = a.id
    JOIN billing_posting p ON p.id = e.posting_id
    WHERE a.operator_id = %(operator)s AND a.code = 'receivable' AND p.at <= %(at)s
      AND p.kind NOT IN ('invoice', 'credit_note', 'void', 'write_off')
    GROUP BY 1, 2
), placed AS (
    SELECT subscriber_id, currency, coalesce(c.due_at, %(at)s) AS due_at,
           coalesce(c.left_over, 0.00) AS left_over, coalesce(p.amount, 0.00) AS paid,
           coalesce(sum(c.left_over) OVER w, 0.00) AS through,
           coalesce(sum(c.left_over) OVER (PARTITION BY subscriber_id, currency), 0.00) AS whole
    FROM charged c
    FULL JOIN paid p USING (subscriber_id, currency)
    WINDOW w AS (PARTITION BY subscriber_id, currency ORDER BY c.due_at, c.id)
), owed AS (
    SELECT subscriber_id, currency, due_at,
           greatest(0.00, least(left_over, through - paid)) AS due,
           least(0.00, whole - paid) AS credit
    FROM placed
)
SELECT s.external_id, o.currency,
       coalesce(sum(due) FILTER (WHERE due_at > %(at)s), 0.00),
       coalesce(sum(due) FILTER (
           WHERE due_at <= %(at)s AND due_at > %(at)s - interval '31 days'), 0.00),
       coalesce(sum(due) FILTER (
           WHERE due_at <= %(at)s - interval '31 days' AND due_at > %(at)s - interval '61 days'),
           0.00),
       coalesce(sum(due) FILTER (
           WHERE due_at <= %(at)s - interval '61 days' AND due_at > %(at)s - interval '91 days'),
           0.00),
       coalesce(sum(due) FILTER (WHERE due_at <= %(at)s - interval '91 days'), 0.00),
       min(credit)
FROM owed o
LEFT JOIN subscriptions_subscriber s ON s.id = o.subscriber_id
GROUP BY o.subscriber_id, s.external_id, o.currency
HAVING sum(due) <> 0 OR min(credit) <> 0
ORDER BY s.external_id, o.currency
"""


def by_age(operator_id: int, *, at: dt.datetime) -> Iterator[Aged]:
    """Every subscriber who owes or is owed something at `at`; the totals are the ledger's.

    Read as it comes, in a transaction of its own.
    """
    for row in cells.stream(_AGED_SQL, {"operator": operator_id, "at": at}):
        yield Aged(*row)
