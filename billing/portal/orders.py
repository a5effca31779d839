"""Orders of one's own: the list, one with all that is known of it, and letting one go.

How an order is paid is chosen on its pay page (billing/checkout), and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST
from djmoney.money import Money

from billing import refundable
from billing.checkout import links, refusals
from billing.checkout.pages import way_names
from billing.models import Approval, Invoice, Order, PaymentIntent, Refund, WalletBonus
from billing.orders import keeping
from subscriptions.errors import DomainError
from subscriptions.models import Bucket
from subscriptions.portal.doors import Visit, own, show

_LONGEST_KEY = 64
_AT_ONCE = 24
_LONGEST_ID = 18
State = Order.State
# What the list can be narrowed to.
GROUPS: dict[str, tuple[str, ...]] = {
    "open": Order.OPEN,
    "paid": (State.PAID,),
    "back": (State.REFUNDING, State.REFUNDED, State.PARTLY_REFUNDED),
    "over": (State.EXPIRED, State.CANCELLED),
}


def key_of(request: HttpRequest, visit: Visit) -> str:
    """What makes a form sent twice one order: made with the page that showed the form."""
    once = request.POST.get("once", "")
    return f"portal:{visit.subscriber.pk}:{once[:_LONGEST_KEY]}" if once else ""


def refused(request: HttpRequest, error: DomainError, to: str, *names: Any) -> HttpResponse:
    """Back to a page that says what stood against it, in its own words."""
    messages.error(request, refusals.reason_of(error))
    return redirect(to, *names)


@dataclass(frozen=True, slots=True)
class Shown:
    """An order as it is now: one whose time is over has expired, swept or not."""

    order: Order
    state: str
    amount: Money


def _shown(order: Order, visit: Visit) -> Shown:
    over = order.state in Order.OPEN and order.expires_at <= visit.now
    state = State.EXPIRED if over else order.state
    return Shown(order, str(state), Money(order.amount, order.currency))


def before(rows: QuerySet[Any], request: HttpRequest, field: str = "id") -> QuerySet[Any]:
    """What comes after the last of the page before, which `before` names; the latest first."""
    last = request.GET.get("before", "")
    if last.isascii() and last.isdecimal() and len(last) <= _LONGEST_ID:
        rows = rows.filter(**{f"{field}__lt": int(last)})
    return rows.order_by(f"-{field}")


@require_GET
@own
def listed(request: HttpRequest, visit: Visit) -> HttpResponse:
    """The latest first, so many to a page; `show` narrows them to a group of states."""
    rows = Order.objects.filter(subscriber_id=visit.subscriber.pk)
    group = request.GET.get("show", "")
    match group:
        case "open":
            rows = rows.filter(state__in=Order.OPEN, expires_at__gt=visit.now)
        case "over":
            closed = rows.filter(state__in=GROUPS["over"])
            rows = closed | rows.filter(state__in=Order.OPEN, expires_at__lte=visit.now)
        case "paid" | "back":
            rows = rows.filter(state__in=GROUPS[group])
        case _:
            group = ""
    found = list(before(rows, request).select_related("plan", "booster")[: _AT_ONCE + 1])
    orders = found[:_AT_ONCE]
    return show(
        request,
        "portal/orders.html",
        visit,
        orders=[_shown(one, visit) for one in orders],
        more=orders[-1].id if len(found) > _AT_ONCE else None,
        group=group,
        groups=[
            ("", _("All")),
            ("open", _("To be paid")),
            ("paid", _("Paid")),
            ("back", _("Money back")),
            ("over", _("Not bought")),
        ],
        section="wallet",
    )


@require_GET
@own
def order(request: HttpRequest, visit: Visit, number: str) -> HttpResponse:
    """What an order buys, what became of it, and how it came to that."""
    found = keeping.expire_if_due(find(visit, number), at=visit.now)
    whose = {"subscriber_id": visit.subscriber.pk}
    refunds = Refund.objects.filter(**whose, order_id=found.id).order_by("id")
    attempts = keeping.attempts_of([found])[found.id]
    failed = found.state == State.FAILED and attempts
    return show(
        request,
        "portal/order.html",
        visit,
        order=found,
        state=found.state,
        amount=Money(found.amount, found.currency),
        open=found.state in Order.OPEN,
        pay=_where_to_pay(found, attempts),
        paid=found.state in Order.PAID,
        refundable=refundable.may_be_asked(found),
        way=way_names().get(found.way, found.way),
        reason=refusals.reason_of_attempt(attempts[-1].reason) if failed else "",
        steps=keeping.steps_of([found])[found.id],
        refunds=[(one, Money(one.amount, one.currency)) for one in refunds],
        waits=Approval.objects.filter(
            **whose, order_id=found.id, state=Approval.State.PENDING
        ).exists(),
        section="wallet",
        **_what_became(found),
    )


def _where_to_pay(order: Order, attempts: list[PaymentIntent]) -> str:
    """The page of the attempt that is waited for, else the one where a way is chosen."""
    waiting = [one for one in attempts if one.state == PaymentIntent.State.WAITING]
    return links.pay_path(waiting[-1]) if waiting else links.path_to_pay(order)


def _what_became(order: Order) -> dict[str, Any]:
    """The bucket, the invoice and the bonus that an order is about, as far as there are any."""
    whose = {"subscriber_id": order.subscriber_id}
    found: dict[str, Any] = {}
    if order.bucket_id is not None:
        found["bucket"] = Bucket.objects.filter(**whose, id=order.bucket_id).first()
    if order.invoice_id is not None:
        found["invoice"] = Invoice.objects.filter(**whose, id=order.invoice_id).first()
    if order.kind == Order.Kind.TOP_UP and order.state in Order.PAID:
        bonus = WalletBonus.objects.filter(**whose, order_id=order.id).first()
        found["bonus"] = None if bonus is None else Money(bonus.granted, bonus.currency)
    return found


@require_POST
@own
def cancel(request: HttpRequest, visit: Visit, number: str) -> HttpResponse:
    """Let an order be paid no more. Again is harmless."""
    found = find(visit, number)
    try:
        keeping.cancel(visit.operator, found.number, reason="by the subscriber", at=visit.now)
    except DomainError as error:
        return refused(request, error, "portal_order", found.number)
    messages.success(request, _("The order is cancelled. Nothing was charged."))
    return redirect("portal_order", found.number)


def find(visit: Visit, number: str) -> Order:
    """An order of the visitor's own. Raises Http404, for anybody else's as for none."""
    rows = Order.objects.select_related("operator", "plan", "booster")
    found = None
    if keeping.NUMBER.fullmatch(number):
        found = rows.filter(operator=visit.operator, number=number).first()
    if found is None or found.subscriber_id != visit.subscriber.pk:
        raise Http404
    return found
