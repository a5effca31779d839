"""Issued invoices and credit notes as a table, or all of their lines."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any
from zoneinfo import ZoneInfo

from billing.exports import cells
from subscriptions.models import Operator
from subscriptions.units import to_wire

INVOICE_COLUMNS = (
    *("number", "kind", "credits", "state", "subscriber", "name", "plan"),
    *("period_from", "period_until", "issued_at", "due_at", "currency"),
    *("net", "tax", "gross", "paid", "due", "reason"),
)
LINE_COLUMNS = (
    *("number", "line", "kind", "description", "units"),
    *("net", "tax_rate", "tax", "gross", "currency"),
)

# By number, which is the order of issue: along the numbers' key, so that nothing is sorted first.
_FROM = """
FROM billing_invoicenumber n
JOIN billing_invoice i ON i.subscriber_id = n.subscriber_id AND i.id = n.invoice_id
{more}
WHERE n.operator_id = %(operator)s
  AND (%(since)s::timestamptz IS NULL OR i.issued_at >= %(since)s)
  AND (%(until)s::timestamptz IS NULL OR i.issued_at < %(until)s)
ORDER BY n.operator_id, n.year, n.nr
"""
_INVOICES_SQL = """
SELECT i.number, i.kind, o.number, i.state, s.external_id, s.name, p.code, i.period_start,
       i.period_end, i.issued_at, i.due_at, i.currency, i.net, i.tax, i.gross, i.paid, i.reason
""" + _FROM.format(
    more="""
JOIN subscriptions_subscriber s ON s.id = i.subscriber_id
LEFT JOIN subscriptions_plan p ON p.id = i.plan_id
LEFT JOIN billing_invoice o ON o.subscriber_id = i.subscriber_id AND o.id = i.original_id
"""
)
_LINES_SQL = (
    """
SELECT i.number, l.nr, l.kind, l.description, l.units, l.net, l.tax_rate, l.tax, l.gross,
       i.currency
"""
    + _FROM.format(
        more="""
JOIN billing_invoiceline l ON l.subscriber_id = i.subscriber_id AND l.invoice_id = i.id
"""
    ).rstrip()
    + ", l.nr"
)


def invoices(
    operator: Operator, *, since: dt.datetime | None, until: dt.datetime | None
) -> Iterator[bytes]:
    """What was issued in `[since, until)`; amounts paid and due are those of now."""

    def rows() -> Iterator[tuple[Any, ...]]:
        zone = ZoneInfo(operator.time_zone)
        yield INVOICE_COLUMNS
        for row in cells.stream(_INVOICES_SQL, _span(operator, since, until)):
            number, kind, credited, state, subscriber, name, plan, start, end = row[:9]
            issued_at, due_at, currency, net, tax, gross, paid, reason = row[9:]
            yield (
                number,
                kind,
                credited or "",
                state,
                cells.text(subscriber),
                cells.text(name),
                cells.text(plan or ""),
                cells.date(start, zone),
                cells.date(end, zone),
                cells.time(issued_at, zone),
                cells.time(due_at, zone),
                currency,
                *(cells.amount(value) for value in (net, tax, gross, paid)),
                cells.amount(gross - paid if state != "void" else gross - gross),
                cells.text(reason),
            )

    return cells.encode(rows())


def lines(
    operator: Operator, *, since: dt.datetime | None, until: dt.datetime | None
) -> Iterator[bytes]:
    """The lines of what was issued in `[since, until)`."""

    def rows() -> Iterator[tuple[Any, ...]]:
        yield LINE_COLUMNS
        for row in cells.stream(_LINES_SQL, _span(operator, since, until)):
            number, nr, kind, description, units, net, tax_rate, tax, gross, currency = row
            yield (
                number,
                nr,
                kind,
                cells.text(description),
                "" if units is None else to_wire(units),
                cells.amount(net),
                f"{tax_rate:.4f}",
                cells.amount(tax),
                cells.amount(gross),
                currency,
            )

    return cells.encode(rows())


def _span(
    operator: Operator, since: dt.datetime | None, until: dt.datetime | None
) -> dict[str, Any]:
    return {"operator": operator.pk, "since": since, "until": until}
