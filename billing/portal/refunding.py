"""Asking for the money of an order back: what would come back is said first, by the policy."""

from __future__ import annotations

import uuid

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods
from djmoney.money import Money

from billing import corrections, refundable, refunds
from billing.checkout import refusals
from billing.checkout.pages import way_names
from billing.models import Approval, Order, Refund
from billing.portal.orders import find, key_of, refused
from billing.ways import bank, phone_bill, wallet
from subscriptions.errors import DomainError
from subscriptions.portal.doors import Visit, own, show

To = Refund.To


@require_http_methods(["GET", "POST"])
@own
def refund(request: HttpRequest, visit: Visit, number: str) -> HttpResponse:
    """What would come back of an order, and with it; by POST it is asked for."""
    found = find(visit, number)
    visit.bring_up()
    if request.method == "POST":
        return _ask(request, visit, found)
    try:
        offer = refundable.offer(found, at=visit.now)
    except DomainError as error:
        return show(
            request,
            "portal/refund.html",
            visit,
            order=found,
            refusal=refusals.reason_of(error),
            section="wallet",
        )
    waits = corrections.rules_of(visit.operator.pk, at=visit.now).waits(offer.amount)
    return show(
        request,
        "portal/refund.html",
        visit,
        order=found,
        offer=offer,
        amount=Money(offer.amount, found.currency),
        paid=Money(found.amount, found.currency),
        ends=found.kind in (Order.Kind.PLAN, Order.Kind.PERIOD),
        to=[(one, _said(one, found)) for one in _ways_back(found)],
        waits=waits,
        once=uuid.uuid4().hex,
        section="wallet",
    )


def _ways_back(order: Order) -> list[str]:
    """Where the money may go: what the phone bill carries, it does not give back."""
    if order.kind == Order.Kind.TOP_UP:
        return [To.SOURCE]
    if order.way in (wallet.WAY, phone_bill.WAY):
        return [To.WALLET]
    return [To.SOURCE, To.WALLET]


def _said(to: str, order: Order) -> str:
    if to == To.WALLET:
        return _("Into my wallet, at once")
    if order.way == bank.WAY:
        return _("To my bank account; staff transfer it within a few days")
    way = way_names().get(order.way, order.way)
    return _("To where it came from: %(way)s. It takes some days.") % {"way": way}


def _ask(request: HttpRequest, visit: Visit, found: Order) -> HttpResponse:
    to = request.POST.get("to", "")
    ways = _ways_back(found)
    said = " ".join(request.POST.get("reason", "").split())[:200]
    try:
        made = refunds.ask(
            visit.operator,
            found.number,
            to=to if to in ways else ways[0],
            reason=said if said.isprintable() and said else "asked for in the portal",
            by=f"subscriber {visit.subscriber.external_id}"[:100],
            once=key_of(request, visit),
            at=visit.now,
        )
    except DomainError as error:
        return refused(request, error, "portal_refund", found.number)
    if isinstance(made, Approval):
        messages.success(request, _("You have asked for the money back. Our staff look at it."))
    else:
        refunds.send(visit.operator, made.number, at=visit.now)
        messages.success(request, _("The money is on its way back."))
    return redirect("portal_order", found.number)
