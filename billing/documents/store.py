"""Documents are made once: the only writer of what is kept of them."""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
from typing import Any

from django.db import transaction
from django.db.models import Q

from billing import invoicing
from billing.documents import letterheads, reading
from billing.documents.drawing import draw
from billing.models import Document, Invoice, InvoiceNumber, Letterhead
from billing.wording import Language
from subscriptions.models import Operator

log = logging.getLogger(__name__)


def document(
    operator: Operator, number: str, *, language: Language, usage: bool, at: dt.datetime
) -> Document:
    """The document of an invoice, with an appendix of its `usage` if asked: made when first asked
    for, the same bytes ever after. A credit note has no appendix. Raises NotFound, FontMissing.
    """
    return _of(operator, invoicing.find(operator, number), language, usage=usage, at=at)


def _of(
    operator: Operator, invoice: Invoice, language: Language, *, usage: bool, at: dt.datetime
) -> Document:
    usage = usage and invoice.kind == Invoice.Kind.PERIOD
    key: dict[str, Any] = {
        "subscriber_id": invoice.subscriber_id,
        "invoice_id": invoice.id,
        "language": language,
        "usage": usage,
        "void": invoice.state == Invoice.State.VOID,
    }
    kept = Document.objects.filter(**key).first()
    if kept is None:
        content = draw(reading.content_of(operator, invoice, language=language, usage=usage, at=at))
        made = Document(**key, made_at=at, digest=hashlib.sha256(content).digest(), content=content)
        # Of two who made it at once, one is kept and both hand out that.
        Document.objects.bulk_create([made], ignore_conflicts=True)
        kept = Document.objects.get(**key)
    return kept


@transaction.atomic
def make_ahead(operator: Operator, *, at: dt.datetime, limit: int = 20) -> int:
    """Make the documents of what was issued next, where the operator wants them made ahead; how
    many numbers were gone through. One worker at a time: another finds nothing to do.

    What cannot be made is logged and left to who asks for it.
    """
    head = (
        Letterhead.objects.select_for_update(skip_locked=True)
        .filter(operator=operator)
        .exclude(ahead="")
        .first()
    )
    if head is None:
        return 0
    language: Language = "en" if head.ahead == "en" else "zh-Hans"
    issued = InvoiceNumber.objects.filter(operator_id=operator.pk).filter(
        Q(year=head.ahead_year, nr__gt=head.ahead_nr) | Q(year__gt=head.ahead_year)
    )
    rows = list(issued.order_by("year", "nr")[:limit])
    for row in rows:
        invoice = Invoice.objects.get(subscriber_id=row.subscriber_id, id=row.invoice_id)
        try:
            with transaction.atomic():
                _of(operator, invoice, language, usage=False, at=at)
        except Exception:
            log.exception("The document of %s could not be made", invoice.number)
    if rows:
        letterheads.advance(head, rows[-1].year, rows[-1].nr)
    return len(rows)
