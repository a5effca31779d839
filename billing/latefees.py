"""What a close needs to know of late invoices: of the few subscribers who had any."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal

from django.db import connection

from billing import dunning, rating
from billing.arrears import Late
from billing.models import DunningCase, Payment

# Of every late invoice: what was asked for but for late fees, less what credit notes took back of
# it; the late fee that bills have said so far; and when it was given up, for then it costs no more.
_LATE_SQL = """
SELECT i.subscriber_id, i.id, i.number, i.currency, i.issued_at, i.due_at,
       CASE WHEN i.state = 'void' THEN 0 ELSE (
           SELECT coalesce(sum(l.gross), 0) FROM billing_invoiceline l
           WHERE l.subscriber_id = i.subscriber_id AND l.kind <> 'late_fee' AND l.invoice_id IN (
               SELECT n.id FROM billing_invoice n
               WHERE n.subscriber_id = i.subscriber_id AND (n.id = i.id OR n.original_id = i.id)))
       END AS principal,
       (SELECT coalesce(sum(l.gross), 0) FROM billing_invoiceline l
        WHERE l.subscriber_id = i.subscriber_id AND l.kind = 'late_fee'
          AND (l.basis ->> 'late_id')::bigint = i.id) AS billed,
       CASE WHEN i.state = 'open' THEN i.gross - i.paid ELSE 0 END AS due,
       (SELECT p.at FROM billing_posting p
        WHERE p.operator_id = i.operator_id AND p.key = 'write_off:' || i.id) AS given_up_at
FROM billing_invoice i
WHERE i.subscriber_id = ANY(%s::bigint[]) AND i.operator_id = %s AND i.number IS NOT NULL
  AND (i.kind <> 'credit_note' AND i.due_at < %s OR i.state = 'open' AND i.gross < i.paid)
ORDER BY i.subscriber_id, i.due_at, i.id
"""


def late_invoices(
    operator_id: int, subscriber_ids: Sequence[int], *, until: dt.datetime
) -> dict[int, list[Late]]:
    """By subscriber the invoices that were due before `until`, the oldest first.

    Only who has a case that ever changed was late: all others cost one look at an index. What a
    subscriber gets covers its oldest debts, as if it had been paid in time.
    """
    had = sorted(
        set(
            DunningCase.objects.filter(
                subscriber_id__among=subscriber_ids, changed_at__gt=dunning.NEVER
            ).values_list("subscriber_id", flat=True)
        )
    )
    if not had:
        return {}
    payments: dict[tuple[int, int], list[tuple[dt.datetime, Decimal]]] = defaultdict(list)
    for payment in Payment.objects.filter(subscriber_id__among=had).order_by("at"):
        key = (payment.subscriber_id, payment.invoice_id)
        payments[key].append((payment.at, payment.amount))
    stops = dunning.stops_of(operator_id, had)
    terms = dunning.terms_by(operator_id)
    with connection.cursor() as cursor:
        cursor.execute(_LATE_SQL, [had, operator_id, until])
        rows = cursor.fetchall()
    gets: dict[tuple[int, str], Decimal] = defaultdict(Decimal)
    for row in rows:
        gets[row[0], row[3]] += max(-row[8], rating.ZERO)
        if row[9] is not None:
            payments[row[0], row[1]].append((row[9], row[6]))
    late: dict[int, list[Late]] = defaultdict(list)
    for row in rows:
        subscriber_id, id_, number, currency, issued_at, due_at, principal, billed, due, _ = row
        covered = min(gets[subscriber_id, currency], max(due, rating.ZERO))
        gets[subscriber_id, currency] -= covered
        late[subscriber_id].append(
            Late(
                invoice_id=id_,
                number=number,
                currency=currency,
                due_at=due_at,
                principal=max(principal - covered, rating.ZERO),
                payments=tuple(payments[subscriber_id, id_]),
                terms=terms(issued_at),
                stops=stops.of(subscriber_id, id_),
                billed=billed,
            )
        )
    return late
