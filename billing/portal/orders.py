"""An order of one's own: bought in one tap, paid in a way of one's choice."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST
from djmoney.money import Money

from billing.models import Order, Wallet
from billing.orders import buying, keeping, paying
from billing.ways import known
from subscriptions.errors import DomainError
from subscriptions.portal.doors import Visit, own, show

_LONGEST_KEY = 64


def key_of(request: HttpRequest, visit: Visit) -> str:
    """What makes a form sent twice one order: made with the page that showed the form."""
    once = request.POST.get("once", "")
    return f"portal:{visit.subscriber.pk}:{once[:_LONGEST_KEY]}" if once else ""


def refused(request: HttpRequest, error: DomainError, to: str, *names: Any) -> HttpResponse:
    """Back to a page that says what stood against it, in its own words."""
    said = {
        "plan_held": _("You hold a plan already: change that one."),
        "unknown_plan": _("This plan is not on sale."),
        "unknown_booster": _("This booster is not on sale."),
        "not_an_upgrade": _("This plan costs or brings less: it can begin with the next period."),
        "period_unpaid": _("Pay the period that runs first."),
        "order_expired": _("This order has expired. Order again."),
        "nothing_due": _("Nothing is due on this invoice."),
        "insufficient_funds": _("There is not enough in your wallet."),
        "subscription_ended": _("This plan has ended."),
    }
    messages.error(request, said.get(error.cause, _("That is not possible now.")))
    return redirect(to, *names)


@require_POST
@own
def booster(request: HttpRequest, visit: Visit, code: str) -> HttpResponse:
    """Order a booster and go on to pay it."""
    try:
        made = buying.order_booster(
            visit.operator, visit.subscriber.pk, code, at=visit.now, key=key_of(request, visit)
        )
    except DomainError as error:
        return refused(request, error, "portal_home")
    return redirect("portal_order", made.number)


@require_http_methods(["GET", "POST"])
@own
def order(request: HttpRequest, visit: Visit, number: str) -> HttpResponse:
    """An order: what it buys, what became of it; by POST it is paid in the way named."""
    found = find(visit, number)
    if request.method == "POST":
        return _pay(request, visit, found)
    wallet = Wallet.objects.filter(subscriber_id=visit.subscriber.pk).first()
    attempts = keeping.attempts_of([found])[found.id]
    return show(
        request,
        "portal/order.html",
        visit,
        order=found,
        amount=Money(found.amount, found.currency),
        open=found.state in Order.OPEN and found.expires_at > visit.now,
        paid=found.state in Order.PAID,
        wallet=Money(wallet.balance, wallet.currency) if wallet else None,
        ways=[way for way in (*known.ALWAYS, *known.ONLINE) if _offered(visit, way)],
        attempt=attempts[-1] if attempts else None,
    )


def _offered(visit: Visit, way: str) -> bool:
    return known.choose(visit.operator, way, at=visit.now) is not None


def _pay(request: HttpRequest, visit: Visit, found: Order) -> HttpResponse:
    way = request.POST.get("way", "")
    here = request.build_absolute_uri(request.path)
    try:
        paying.pay(visit.operator, found.number, way, at=visit.now, return_url=here)
    except DomainError as error:
        return refused(request, error, "portal_order", found.number)
    attempts = keeping.attempts_of([found])[found.id]
    onward = attempts[-1].action.get("url") if attempts else None
    # A page of a provider's that the payer is sent to: its address comes from the provider.
    return HttpResponseRedirect(onward) if onward else redirect("portal_order", found.number)


def find(visit: Visit, number: str) -> Order:
    """An order of the visitor's own. Raises Http404, for anybody else's as for none."""
    try:
        found = keeping.find(visit.operator, number)
    except DomainError:
        raise Http404 from None
    if found.subscriber_id != visit.subscriber.pk:
        raise Http404
    return found
