"""Lines of a provider's account against what we posted to `cash:…`, in sets.

What is ours is each entry of that account that came with a payment, a refund or a dispute. A line
is it by our own key of the attempt or the refund, else by the provider's reference, else, of what
went back, by the key of the payment; the same way of the money and the nearest amount; each once.
What is left over on either side is a difference.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.db import connection

from billing.provider_books import differing
from subscriptions.models import Operator

# Not what staff booked about differences; what they wrote off is in our books no more, and what
# they handed over as an unclear payment has its line.
_OURS_SQL = """
CREATE TEMPORARY TABLE ours ON COMMIT DROP AS
SELECT p.key AS ours, (p.at AT TIME ZONE %(zone)s)::date AS day, sum(e.amount) AS amount,
       max(coalesce(n.key, r.key)) AS key,
       max(coalesce(n.reference, nullif(r.reference, ''), c.reference, p.description)) AS reference,
       max(b.key) AS payment
FROM billing_account a
JOIN billing_entry e ON e.account_id = a.id
JOIN billing_posting p ON p.id = e.posting_id AND p.kind <> 'difference'
LEFT JOIN (
    SELECT CASE o.kind WHEN 'invoice' THEN 'payment:order:' || o.number
                       ELSE 'order:' || o.id END AS posting, i.key, i.reference
    FROM billing_paymentintent i
    JOIN billing_order o ON o.subscriber_id = i.subscriber_id AND o.id = i.order_id
    WHERE i.operator_id = %(operator)s AND i.state = 'succeeded'
) n ON n.posting = p.key
LEFT JOIN billing_refund r
  ON p.kind = 'refund' AND r.operator_id = p.operator_id AND r.number = p.description
LEFT JOIN billing_dispute c
  ON p.kind = 'dispute' AND c.operator_id = p.operator_id AND c.number = p.description
LEFT JOIN billing_paymentintent b
  ON b.subscriber_id = coalesce(r.subscriber_id, c.subscriber_id)
 AND b.order_id = coalesce(r.order_id, c.order_id) AND b.state = 'succeeded'
WHERE a.operator_id = %(operator)s AND a.code = 'cash:' || %(account)s
  AND a.currency = %(currency)s
  AND NOT EXISTS (
      SELECT FROM billing_paymentdifference d
      WHERE d.operator_id = %(operator)s AND d.account = %(account)s
        AND d.about = 'ours:' || p.key AND d.resolution = 'written_off')
  AND NOT EXISTS (
      SELECT FROM billing_paymentdifference d
      JOIN billing_providerline l USING (operator_id, account, line_id)
      JOIN billing_providerpayment y
        ON y.operator_id = d.operator_id
       AND y.reference = coalesce(nullif(l.reference, ''), l.line_id)
      WHERE d.operator_id = %(operator)s AND d.account = %(account)s
        AND d.resolution = 'unclear_payment' AND p.key = 'provider:' || y.id)
GROUP BY 1, 2
HAVING sum(e.amount) <> 0
"""
# The best of each side for the other, in rounds: who is nobody's best is looked at again.
_PAIR_SQL = """
WITH candidate AS (
    SELECT l.line_id, o.ours, o.amount, l.gross,
           row_number() OVER (PARTITION BY l.line_id ORDER BY {order}, o.ours) AS of_line,
           row_number() OVER (PARTITION BY o.ours ORDER BY {order}, l.line_id) AS of_ours
    FROM billing_providerline l
    JOIN ours o ON {same} AND sign(o.amount) = sign(l.gross)
    WHERE l.operator_id = %(operator)s AND l.account = %(account)s AND l.state = 'new'
      AND NOT EXISTS (
          SELECT FROM billing_providerline x
          WHERE x.operator_id = %(operator)s AND x.account = %(account)s
            AND x.ours = o.ours AND x.ours <> '')
)
UPDATE billing_providerline l
SET ours = c.ours, state = CASE WHEN c.amount = c.gross THEN 'matched' ELSE 'differs' END
FROM candidate c
WHERE l.operator_id = %(operator)s AND l.account = %(account)s AND l.line_id = c.line_id
  AND c.of_line = 1 AND c.of_ours = 1
""".replace("{order}", "abs(o.amount - l.gross)")
_ANY = "l.kind IN ('payment', 'refund', 'dispute', 'other')"
_PAIRS_SQL = [
    _PAIR_SQL.replace("{same}", same)
    for same in (
        f"o.key = l.key AND l.key <> '' AND {_ANY}",
        f"o.reference = l.reference AND l.reference <> '' AND {_ANY}",
        "o.payment = l.key AND l.key <> '' AND l.kind IN ('refund', 'dispute')",
    )
]
_LEFT_SQL = """
UPDATE billing_providerline SET state = 'differs'
WHERE operator_id = %(operator)s AND account = %(account)s AND state = 'new'
"""


def run(operator: Operator, account: str, *, at: dt.datetime) -> None:
    """Compare all that is not matched yet of an account; what came of earlier differences is closed
    with the reason. Joins the caller's transaction, which holds the lock of provider books. Again
    changes nothing.
    """
    assert connection.in_atomic_block
    names: dict[str, Any] = {
        "operator": operator.pk,
        "account": account,
        "currency": operator.currency,
        "zone": operator.time_zone,
        "at": at,
    }
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS ours")
        cursor.execute(_OURS_SQL, names)
        cursor.execute("ANALYZE ours")
        for statement in _PAIRS_SQL:
            while True:
                cursor.execute(statement, names)
                if not cursor.rowcount:
                    break
        differing.note(cursor, names)
        cursor.execute(_LEFT_SQL, names)
