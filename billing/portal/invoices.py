"""Invoices of one's own: the list, one with its lines, its PDF, and paying it."""

from __future__ import annotations

import uuid

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import get_language
from django.views.decorators.http import require_GET, require_POST
from djmoney.money import Money

from billing import invoicing
from billing.documents import store
from billing.models import Invoice
from billing.orders import buying
from billing.portal.orders import key_of, refused
from subscriptions.errors import DomainError
from subscriptions.portal.doors import Visit, own, show

_AT_ONCE = 24


@require_GET
@own
def listed(request: HttpRequest, visit: Visit) -> HttpResponse:
    """The latest first, so many to a page; `before` is the last of the page before."""
    rows = Invoice.objects.filter(subscriber_id=visit.subscriber.pk).exclude(
        state=Invoice.State.DRAFT
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
        section="invoices",
    )


@require_GET
@own
def invoice(request: HttpRequest, visit: Visit, number: str) -> HttpResponse:
    """One invoice with its lines."""
    found = _find(visit, number)
    lines = invoicing.lines_of([found.id], visit.subscriber.pk)
    return show(
        request,
        "portal/invoice.html",
        visit,
        invoice=found,
        lines=[(line, Money(line.gross, found.currency)) for line in lines],
        net=Money(found.net, found.currency),
        tax=Money(found.tax, found.currency),
        gross=_gross(found),
        due=_due(found),
        once=uuid.uuid4().hex,
        section="invoices",
    )


@require_GET
@own
def document(request: HttpRequest, visit: Visit, number: str) -> HttpResponse:
    """Its PDF, in the language of the page; `usage=1` with the itemised usage of the period."""
    found = _find(visit, number)
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
    found = _find(visit, number)
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
    return redirect("portal_order", made.number)


def _find(visit: Visit, number: str) -> Invoice:
    """An issued invoice of the visitor's own. Raises Http404, for anybody else's as for none."""
    try:
        found = invoicing.find(visit.operator, number)
    except DomainError:
        raise Http404 from None
    if found.subscriber_id != visit.subscriber.pk:
        raise Http404
    return found


def _gross(found: Invoice) -> Money:
    return Money(found.gross, found.currency)


def _due(found: Invoice) -> Money | None:
    """What is still to be paid on it, where anything is."""
    due = invoicing.amount_due(found)
    return Money(due, found.currency) if found.state == Invoice.State.OPEN and due > 0 else None
