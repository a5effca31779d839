"""The money ledger as a table: a line for each entry, in the order it was posted."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any
from zoneinfo import ZoneInfo

from billing.exports import cells
from subscriptions.models import Operator

COLUMNS = (
    *("posting", "at", "kind", "key", "description", "account", "account_kind"),
    *("subscriber", "debit", "credit", "currency"),
)

# Along the postings' numbers: nothing is sorted, the first line leaves at once.
_SQL = """
SELECT p.id, p.at, p.kind, p.key, p.description, a.code, a.kind, s.external_id, e.amount,
       p.currency
FROM billing_posting p
JOIN billing_entry e ON e.posting_id = p.id
JOIN billing_account a ON a.id = e.account_id
LEFT JOIN subscriptions_subscriber s ON s.id = e.subscriber_id
WHERE p.operator_id = %(operator)s
  AND (%(since)s::timestamptz IS NULL OR p.at >= %(since)s)
  AND (%(until)s::timestamptz IS NULL OR p.at < %(until)s)
ORDER BY p.id, e.nr
"""


def entries(
    operator: Operator, *, since: dt.datetime | None, until: dt.datetime | None
) -> Iterator[bytes]:
    """What was posted for an instant in `[since, until)`."""

    def rows() -> Iterator[tuple[Any, ...]]:
        zone = ZoneInfo(operator.time_zone)
        yield COLUMNS
        span = {"operator": operator.pk, "since": since, "until": until}
        for row in cells.stream(_SQL, span):
            posting, at, kind, key, said, account, of_kind, subscriber, amount, currency = row
            yield (
                posting,
                cells.time(at, zone),
                kind,
                cells.text(key),
                cells.text(said),
                cells.text(account),
                of_kind,
                cells.text(subscriber or ""),
                cells.amount(amount) if amount > 0 else "",
                cells.amount(-amount) if amount < 0 else "",
                currency,
            )

    return cells.encode(rows())
