"""A day of a provider's account: what it says it moved is what matched and each kind of
difference."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import NamedTuple

from django.db import connection

from subscriptions.errors import Invalid
from subscriptions.models import Operator

_LONGEST = 400  # days


class Day(NamedTuple):
    """`total` = `matched` + `missing_here` + `amount_differs` + `fees` + `payouts`, all as the
    provider says. `ours` = `matched` + `amount_differs_ours` + `missing_there`, all as our books
    do."""

    account: str
    day: dt.date
    lines: int
    total: Decimal
    matched: Decimal
    missing_here: Decimal
    amount_differs: Decimal
    fees: Decimal
    payouts: Decimal
    ours: Decimal
    amount_differs_ours: Decimal
    missing_there: Decimal
    open: int  # differences that nobody has resolved
    open_amount: Decimal


_DAYS_SQL = """
WITH line AS (
    SELECT account, day, count(*) AS lines, sum(gross - fee) AS total,
           coalesce(sum(gross) FILTER (WHERE state = 'matched'), 0) AS matched
    FROM billing_providerline
    WHERE operator_id = %(operator)s AND day BETWEEN %(first)s AND %(last)s
    GROUP BY 1, 2
), difference AS (
    SELECT account, day,
           coalesce(sum(theirs) FILTER (WHERE kind = 'missing_here'), 0) AS missing_here,
           coalesce(sum(theirs) FILTER (WHERE kind = 'amount_differs'), 0) AS amount_differs,
           coalesce(sum(theirs) FILTER (WHERE kind = 'fees'), 0) AS fees,
           coalesce(sum(theirs) FILTER (WHERE kind = 'payout'), 0) AS payouts,
           coalesce(sum(our_amount) FILTER (WHERE kind = 'amount_differs'), 0) AS differs_ours,
           coalesce(sum(our_amount) FILTER (
               WHERE kind = 'missing_there' AND resolution <> 'came'), 0) AS missing_there,
           count(*) FILTER (WHERE state <> 'resolved') AS open,
           coalesce(sum(amount) FILTER (WHERE state <> 'resolved'), 0) AS open_amount
    FROM billing_paymentdifference
    WHERE operator_id = %(operator)s AND day BETWEEN %(first)s AND %(last)s
    GROUP BY 1, 2
)
SELECT account, day, coalesce(lines, 0), coalesce(total, 0), coalesce(matched, 0),
       coalesce(missing_here, 0), coalesce(amount_differs, 0), coalesce(fees, 0),
       coalesce(payouts, 0), coalesce(matched, 0) + coalesce(differs_ours, 0)
           + coalesce(missing_there, 0),
       coalesce(differs_ours, 0), coalesce(missing_there, 0), coalesce(open, 0),
       coalesce(open_amount, 0)
FROM line FULL JOIN difference USING (account, day)
ORDER BY account, day
"""


def days(operator: Operator, first: dt.date, last: dt.date) -> list[Day]:
    """Each account's days from `first` to `last`, both in it. Raises Invalid."""
    if last < first or (last - first).days >= _LONGEST:
        raise Invalid(f"a report is of 1 to {_LONGEST} days")
    with connection.cursor() as cursor:
        cursor.execute(_DAYS_SQL, {"operator": operator.pk, "first": first, "last": last})
        return [Day(*row) for row in cursor.fetchall()]
