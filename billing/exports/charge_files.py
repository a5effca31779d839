"""The phone-bill charge file: what the carrier's own billing is to collect, each invoice once.

The only writer of ChargeFile and ChargeLine. A file's rows are committed before its first byte
leaves; its bytes follow from them, so that a file that got lost is made again as it was.

    header   format, operator, sequence, currency, from, until, made at
    charge   nr, invoice, -, phone number, subscriber, period from, until, issued, due, amount
    credit   nr, credit note, invoice it corrects, … amount < 0
    order    nr, order that was paid by putting it on the phone bill, … from, -, ordered, -, amount
    reversal nr, invoice that was made void or given up after its charge had left, … amount < 0
    trailer  lines, sum of charges, sum of credits, total, SHA-256 of every byte before this line
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator
from itertools import chain
from typing import Any
from zoneinfo import ZoneInfo

from django.db import connection, transaction

from billing import phone_bills
from billing.exports import cells
from billing.models import ChargeFile
from subscriptions import advisory
from subscriptions.advisory import Lock
from subscriptions.errors import Invalid, NotFound
from subscriptions.models import Operator

FORMAT = "1"
FIELDS = 11  # of every line

# One statement, hence one snapshot: what is due on an invoice and how many notes had lowered it go
# together. A note that came after its invoice's charge is given back whole, whatever it has
# settled since, but for what was refunded of it; any other lowered what was charged already, and is
# said with what is left of it.
# Of what was written off that is taken back which has not come in by now: whoever collects for us
# is to stop, and what he has collected nonetheless is a payment.
_LINES_SQL = """
INSERT INTO billing_chargeline (subscriber_id, invoice_id, kind, operator_id, sequence, nr,
                                msisdn, external_id, amount, notes)
SELECT c.subscriber_id, c.invoice_id, c.kind, %(operator)s, %(sequence)s,
       row_number() OVER (ORDER BY length(c.number), c.number, c.kind), s.msisdn, s.external_id,
       c.amount, c.notes
FROM (
    SELECT i.subscriber_id, i.id AS invoice_id, 'charge' AS kind, i.number, i.issued_at,
           i.gross - i.paid AS amount, coalesce(n.notes, 0) AS notes
    FROM billing_invoice i
    LEFT JOIN (
        SELECT subscriber_id, original_id, count(*) AS notes
        FROM billing_invoice WHERE operator_id = %(operator)s AND kind = 'credit_note'
        GROUP BY 1, 2
    ) n ON n.subscriber_id = i.subscriber_id AND n.original_id = i.id
    WHERE i.operator_id = %(operator)s AND i.kind <> 'credit_note' AND i.state = 'open'
      AND i.currency = %(currency)s
    UNION ALL
    SELECT i.subscriber_id, i.id, 'credit', i.number, i.issued_at,
           CASE WHEN i.place > l.notes THEN i.gross + coalesce((
               SELECT sum(r.amount) FROM billing_refund r
               WHERE r.subscriber_id = i.subscriber_id AND r.note_id = i.id
                 AND r.fund = 'credit_note'), 0)
           ELSE i.gross - i.paid END, 0
    FROM (
        SELECT *, row_number() OVER (PARTITION BY subscriber_id, original_id ORDER BY id) AS place
        FROM billing_invoice WHERE operator_id = %(operator)s AND kind = 'credit_note'
    ) i
    LEFT JOIN billing_chargeline l
      ON l.subscriber_id = i.subscriber_id AND l.invoice_id = i.original_id AND l.kind = 'charge'
    WHERE i.currency = %(currency)s AND (i.place > l.notes OR i.state = 'open')
    UNION ALL
    SELECT l.subscriber_id, l.invoice_id, 'reversal', i.number, NULL,
           CASE i.state WHEN 'void' THEN -l.amount ELSE i.paid - i.gross END, 0
    FROM billing_chargeline l
    JOIN billing_invoice i ON i.subscriber_id = l.subscriber_id AND i.id = l.invoice_id
    WHERE l.operator_id = %(operator)s AND l.kind = 'charge'
      AND i.state IN ('void', 'uncollectible') AND i.currency = %(currency)s
) c
JOIN subscriptions_subscriber s ON s.id = c.subscriber_id
WHERE c.amount <> 0
  AND (%(since)s::timestamptz IS NULL OR c.issued_at IS NULL OR c.issued_at >= %(since)s)
  AND (%(until)s::timestamptz IS NULL OR c.issued_at IS NULL OR c.issued_at < %(until)s)
  -- What is being collected in another way is not asked for twice.
  AND NOT (c.kind = 'charge' AND EXISTS (
    SELECT FROM billing_collectioncase x
    WHERE x.subscriber_id = c.subscriber_id AND x.kind = 'invoice' AND x.about = c.invoice_id
      AND x.state = 'running'))
  AND NOT EXISTS (
    SELECT FROM billing_chargeline l
    WHERE l.subscriber_id = c.subscriber_id AND l.invoice_id = c.invoice_id AND l.kind = c.kind)
"""
_SUMS_SQL = """
SELECT count(*), coalesce(sum(amount) FILTER (WHERE amount > 0), 0),
       coalesce(sum(amount) FILTER (WHERE amount < 0), 0)
FROM (
    SELECT amount FROM billing_chargeline WHERE operator_id = %(operator)s AND sequence = %(file)s
    UNION ALL
    SELECT amount FROM billing_phonebillcharge
    WHERE operator_id = %(operator)s AND sequence = %(file)s
) l
"""


@transaction.atomic
def make(
    operator: Operator,
    *,
    at: dt.datetime,
    since: dt.datetime | None = None,
    until: dt.datetime | None = None,
    currency: str = "",
) -> ChargeFile | None:
    """The next file: all that is due and that no file held yet, of what was issued in the span.

    None where there is nothing to say; no number is used up then. Raises Invalid for a span that
    is empty.
    """
    if since is not None and until is not None and since >= until:
        raise Invalid("from must be before until")
    advisory.take(Lock.CHARGE_FILES, operator.pk)
    with connection.cursor() as cursor:
        before = ChargeFile.objects.filter(operator=operator).order_by("-sequence").first()
        file = ChargeFile(
            operator=operator,
            sequence=before.sequence + 1 if before else 1,
            operator_code=operator.code,
            time_zone=operator.time_zone,
            currency=currency or operator.currency,
            since=since,
            until=until,
            made_at=at,
        )
        cursor.execute(
            _LINES_SQL,
            {
                "operator": operator.pk,
                "sequence": file.sequence,
                "currency": file.currency,
                "since": since,
                "until": until,
            },
        )
        lines = int(cursor.rowcount)
        lines += phone_bills.tell(
            operator,
            file.sequence,
            after=lines,
            currency=file.currency,
            since=since,
            until=until,
        )
        if not lines:
            return None
        cursor.execute(_SUMS_SQL, {"operator": operator.pk, "file": file.sequence})
        file.count, file.charges, file.credits = cursor.fetchone()
    file.total = file.charges + file.credits
    digest = hashlib.sha256()
    for chunk in content(file):
        digest.update(chunk)
    file.sha256 = digest.hexdigest()
    file.save(force_insert=True)
    return file


def find(operator: Operator, sequence: int) -> ChargeFile:
    """A file that was made before. Raises NotFound."""
    file = ChargeFile.objects.filter(operator=operator, sequence=sequence).first()
    if file is None:
        raise NotFound(f"there is no charge file {sequence} of {operator.code}")
    return file


def files(operator: Operator) -> Iterator[ChargeFile]:
    """All of an operator's files, the latest first."""
    yield from ChargeFile.objects.filter(operator=operator).order_by("-sequence").iterator()


def name(file: ChargeFile) -> str:
    """What a file is called where nobody names it."""
    return f"charges-{file.operator_code}-{file.sequence:06}.csv"


_CONTENT_SQL = """
SELECT l.nr, l.kind, i.number, o.number, l.msisdn, l.external_id, i.period_start, i.period_end,
       i.issued_at, i.due_at, l.amount
FROM billing_chargeline l
JOIN billing_invoice i ON i.subscriber_id = l.subscriber_id AND i.id = l.invoice_id
LEFT JOIN billing_invoice o ON o.subscriber_id = i.subscriber_id AND o.id = i.original_id
WHERE l.operator_id = %(operator)s AND l.sequence = %(file)s
ORDER BY l.operator_id, l.sequence, l.nr
"""
# All of them come after.
_ORDERS_SQL = """
SELECT c.nr, 'order', o.number, NULL, c.msisdn, c.external_id, o.period_start, NULL::timestamptz,
       c.at, NULL::timestamptz, c.amount
FROM billing_phonebillcharge c
JOIN billing_order o ON o.subscriber_id = c.subscriber_id AND o.id = c.order_id
WHERE c.operator_id = %(operator)s AND c.sequence = %(file)s
ORDER BY c.operator_id, c.sequence, c.nr
"""


def content(file: ChargeFile) -> Iterator[bytes]:
    """A file's bytes, the same each time."""
    digest = hashlib.sha256()
    for chunk in cells.encode(_rows(file)):
        digest.update(chunk)
        yield chunk
    sums = (cells.amount(value) for value in (file.charges, file.credits, file.total))
    yield from cells.encode([_line("trailer", file.count, *sums, digest.hexdigest())])


def _rows(file: ChargeFile) -> Iterator[tuple[Any, ...]]:
    zone = ZoneInfo(file.time_zone)
    yield _line(
        "header",
        FORMAT,
        cells.text(file.operator_code),
        file.sequence,
        file.currency,
        cells.time(file.since, zone),
        cells.time(file.until, zone),
        cells.time(file.made_at, zone),
    )
    named = {"operator": file.operator_id, "file": file.sequence}
    for row in chain(cells.stream(_CONTENT_SQL, named), cells.stream(_ORDERS_SQL, named)):
        nr, kind, number, credited, msisdn, subscriber, start, end, issued_at, due_at, amount = row
        yield (
            kind,
            nr,
            number,
            credited or "",
            # A number as it is dialled from anywhere, without the plus, which is no digit.
            cells.text(msisdn.removeprefix("+")),
            cells.text(subscriber),
            cells.date(start, zone),
            cells.date(end, zone),
            cells.date(issued_at, zone),
            cells.date(due_at, zone),
            cells.amount(amount),
        )


def _line(*said: Any) -> tuple[Any, ...]:
    return said + ("",) * (FIELDS - len(said))
