"""Invoices of one's own: the list, one with its lines, its PDF, and paying it."""

from __future__ import annotations

import datetime as dt
import uuid

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, StreamingHttpResponse
from django.utils.translation import get_language
from django.views.decorators.http import require_GET, require_POST
from djmoney.money import Money

from billing import invoicing
from billing.checkout import links
from billing.documents import store
from billing.models import Complaint, FapiaoRequest, Invoice
from billing.orders import buying
from billing.portal import fapiao, finding
from billing.portal.orders import key_of, refused
from metering.portal import requests
from subscriptions import periods
from subscriptions.errors import DomainError
from subscriptions.portal.doors import Visit, own, show

_AT_ONCE = 24


@require_GET
@own
def listed(request: HttpRequest, visit: Visit) -> HttpResponse:
    """Those of a year, the latest first, so many to a page; `before` is the last of the page
    before."""
    own_ones = Invoice.objects.filter(subscriber_id=visit.subscriber.pk).exclude(
        state=Invoice.State.DRAFT
    )
    issued = own_ones.datetimes("issued_at", "year", order="DESC", tzinfo=visit.zone)
    years = [moment.year for moment in issued]
    asked = request.GET.get("year", "")
    year = int(asked) if asked.isdecimal() and int(asked) in years else None
    rows = own_ones
    if year is not None:
        rows = rows.filter(
            issued_at__gte=periods.midnight(dt.date(year, 1, 1), visit.zone),
            issued_at__lt=periods.midnight(dt.date(year + 1, 1, 1), visit.zone),
        )
    before = request.GET.get("before", "")
    if before.isdecimal() and len(before) < 19:
        rows = rows.filter(id__lt=int(before))
    found = list(rows.order_by("-id")[: _AT_ONCE + 1])
    shown = found[:_AT_ONCE]
    return show(
        request,
        "portal/invoices.html",
        visit,
        invoices=[(each, _gross(each), _due(each)) for each in shown],
        more=shown[-1].id if len(found) > _AT_ONCE else None,
        years=years,
        year=year,
        section="invoices",
    )


@require_GET
@own
def invoice(request: HttpRequest, visit: Visit, number: str) -> HttpResponse:
    """One invoice with its lines, its e-fapiao, and what is disputed of it."""
    found = finding.invoice(visit, number)
    lines = invoicing.lines_of([found.id], visit.subscriber.pk)
    rows = Complaint.objects.filter(subscriber_id=visit.subscriber.pk, invoice_id=found.id)
    disputed = {row.line: row for row in rows}
    asked = FapiaoRequest.objects.filter(
        subscriber_id=visit.subscriber.pk, invoice_id=found.id, original__isnull=True
    )
    return show(
        request,
        "portal/invoice.html",
        visit,
        invoice=found,
        lines=[(line, Money(line.gross, found.currency), disputed.get(line.nr)) for line in lines],
        net=Money(found.net, found.currency),
        tax=Money(found.tax, found.currency),
        gross=_gross(found),
        due=_due(found),
        once=uuid.uuid4().hex,
        fapiao=asked.order_by("-id").first(),
        may_ask=fapiao.may_be_asked(found),
        may_dispute=found.kind != Invoice.Kind.CREDIT_NOTE and found.state != Invoice.State.VOID,
        section="invoices",
    )


@require_GET
@own
def usage(request: HttpRequest, visit: Visit, number: str) -> StreamingHttpResponse:
    """Each request of an invoice's period as CSV: the itemised bill, free of charge."""
    found = finding.invoice(visit, number)
    return StreamingHttpResponse(
        requests.lines(visit, found.period_start, found.period_end),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{found.number}.csv"'},
    )


@require_GET
@own
def document(request: HttpRequest, visit: Visit, number: str) -> HttpResponse:
    """Its PDF, in the language of the page; `usage=1` with the itemised usage of the period."""
    found = finding.invoice(visit, number)
    assert found.number is not None
    made = store.document(
        visit.operator,
        found.number,
        language="en" if get_language() == "en" else "zh-Hans",
        usage=request.GET.get("usage") == "1",
        at=visit.now,
    )
    return HttpResponse(
        bytes(made.content),
        content_type="application/pdf",
        headers={"Content-Disposition": f'inline; filename="{found.number}.pdf"'},
    )


@require_POST
@own
def pay(request: HttpRequest, visit: Visit, number: str) -> HttpResponse:
    """Order to pay what is due, and go on to pay it."""
    found = finding.invoice(visit, number)
    assert found.number is not None
    try:
        made = buying.order_invoice(
            visit.operator,
            visit.subscriber.pk,
            found.number,
            at=visit.now,
            key=key_of(request, visit),
        )
    except DomainError as error:
        return refused(request, error, "portal_invoice", found.number)
    return HttpResponseRedirect(links.path_to_pay(made))


def _gross(found: Invoice) -> Money:
    return Money(found.gross, found.currency)


def _due(found: Invoice) -> Money | None:
    """What is still to be paid on it, where anything is."""
    due = invoicing.amount_due(found)
    return Money(due, found.currency) if found.state == Invoice.State.OPEN and due > 0 else None
