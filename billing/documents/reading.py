"""What a document says of an invoice, read from the books."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

from billing import explaining
from billing.documents import letterheads
from billing.documents.content import Buyer, Content, Item, Usage, Used
from billing.models import Invoice, InvoiceLine
from billing.wording import Language, Voice
from metering import adjusted, rollups
from metering.models import UsageRecord
from subscriptions.models import Operator, Subscriber

# An appendix stays one that can be read: requests beyond these are in its totals.
REQUESTS = 500
_ROWS = 2_000


def content_of(
    operator: Operator,
    invoice: Invoice,
    *,
    language: Language,
    usage: bool,
    at: dt.datetime,
) -> Content:
    """The content of an issued invoice's document, made at `at`."""
    assert invoice.number
    assert invoice.issued_at
    assert invoice.due_at
    zone = ZoneInfo(operator.time_zone)
    voice = Voice(language, exact=False)
    subscriber = Subscriber.objects.get(pk=invoice.subscriber_id)
    lines = InvoiceLine.objects.filter(
        subscriber_id=invoice.subscriber_id, invoice_id=invoice.id
    ).order_by("nr")
    return Content(
        language=language,
        number=invoice.number,
        seller=letterheads.seller(operator),
        buyer=Buyer(
            name=subscriber.name or subscriber.external_id,
            id=subscriber.external_id,
            phone=_masked(subscriber.msisdn),
        ),
        issued_at=invoice.issued_at.astimezone(zone),
        due_at=invoice.due_at.astimezone(zone),
        period_start=invoice.period_start.astimezone(zone),
        period_end=invoice.period_end.astimezone(zone),
        currency=invoice.currency,
        items=tuple(_item(line, voice) for line in lines),
        net=invoice.net,
        tax=invoice.tax,
        gross=invoice.gross,
        as_of=at.astimezone(zone),
        paid=invoice.paid,
        original=_original_of(invoice),
        reason=invoice.reason,
        void=invoice.state == Invoice.State.VOID,
        usage=_usage(operator, invoice, zone, at) if usage else None,
    )


def _original_of(invoice: Invoice) -> str:
    """The number of the invoice that a credit note corrects."""
    if invoice.original_id is None:
        return ""
    original = Invoice.objects.get(subscriber_id=invoice.subscriber_id, id=invoice.original_id)
    return original.number or ""


def _masked(msisdn: str) -> str:
    """13812345678 is 138****5678: its owner knows the rest, who finds the paper does not."""
    return f"{msisdn[:-8]}****{msisdn[-4:]}" if len(msisdn) > 8 else msisdn


def _item(line: InvoiceLine, voice: Voice) -> Item:
    return Item(
        kind=line.kind,
        name=line.description,
        steps=tuple(step[:1].upper() + step[1:] for step in explaining.steps(line, voice)),
        units=line.units,
        price=explaining.price_of(line, voice),
        tax_rate=line.tax_rate,
        net=line.net,
        tax=line.tax,
        gross=line.gross,
    )


def _usage(operator: Operator, invoice: Invoice, zone: ZoneInfo, at: dt.datetime) -> Usage:
    """What was used in an invoice's period, as it is in force now."""
    period = (invoice.period_start, invoice.period_end)
    days: tuple[Used, ...] = ()
    for by_model in (True, False):
        rows = rollups.usage(
            operator.pk,
            invoice.subscriber_id,
            zone,
            since=period[0],
            until=period[1],
            by="day",
            by_model=by_model,
        )
        days = tuple(_day(row, zone) for row in rows[:_ROWS])
        if len(rows) <= _ROWS:
            break
    requests = tuple(_requests(invoice, zone))
    used = sum(day.requests for day in days)
    return Usage(at.astimezone(zone), days, requests, max(0, used - len(requests)))


def _day(row: rollups.Row, zone: ZoneInfo) -> Used:
    return Used(
        at=row.period.astimezone(zone),
        model=row.model or "*",
        requests=row.requests,
        input_tokens=(row.uncached_input_tokens + row.cached_input_tokens + row.cache_write_tokens),
        cached_input_tokens=row.cached_input_tokens,
        output_tokens=row.output_tokens + row.reasoning_tokens,
        units=row.units,
    )


def _requests(invoice: Invoice, zone: ZoneInfo) -> list[Used]:
    """The first requests of an invoice's period, without those that are void."""
    records = UsageRecord.objects.filter(
        subscriber_id=invoice.subscriber_id,
        occurred_at__gte=invoice.period_start,
        occurred_at__lt=invoice.period_end,
    ).order_by("occurred_at", "gateway_id", "source", "record_id")[:REQUESTS]
    found = []
    for each in adjusted.in_force(invoice.subscriber_id, list(records)).values():
        if each.state is None:
            continue
        uncached, cached, written, output, reasoning = each.state.classes
        found.append(
            Used(
                at=each.record.occurred_at.astimezone(zone),
                model=each.state.model,
                requests=1,
                input_tokens=uncached + cached + written,
                cached_input_tokens=cached,
                output_tokens=output + reasoning,
                units=each.state.units,
            )
        )
    return found
