"""The pay page: what is bought, how to pay it, and what became of that."""

from __future__ import annotations

import datetime as dt
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.cache import add_never_cache_headers
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.http import require_GET, require_POST
from djmoney.money import Money

from billing import consents, methods, phone_bills, top_up_policies, wallets
from billing.checkout import links, qr, refusals
from billing.models import Consent, Invoice, Order, PaymentIntent, PaymentMethod, ProviderPayment
from billing.orders import keeping, paying
from billing.ways import bank, known, phone_bill, wallet
from billing.ways.provider import Unavailable
from subscriptions import clock
from subscriptions.errors import DomainError
from subscriptions.models import User
from subscriptions.users import access

log = logging.getLogger(__name__)

Tried = PaymentIntent.State
Page = Callable[..., HttpResponse]
# That a browser has opened the page of an attempt: what a return shows more than the bare state.
COOKIE = "pay"
# Whoever has the address may pay in these: who pays brings the money along. What is the
# subscriber's own already, or is charged to them, is not to be had by an address: that takes a
# session of theirs.
OPEN_TO_ALL = (*known.ONLINE, bank.WAY)
OWN = (wallet.WAY, phone_bill.WAY)


def _page(view: Page) -> Page:
    @csrf_protect
    @functools.wraps(view)
    def shown(request: HttpRequest, **named: Any) -> HttpResponse:
        answer = view(request, **named)
        answer["Referrer-Policy"] = "same-origin"
        answer["X-Robots-Tag"] = "noindex"
        add_never_cache_headers(answer)
        return answer

    return shown


@dataclass(frozen=True, slots=True)
class Stand:
    """An attempt and its order as they are now, by the operator's clock."""

    intent: PaymentIntent | None
    order: Order
    at: dt.datetime

    @property
    def stage(self) -> str:
        """open, paid, waiting, failed, expired or closed."""
        if self.order.state in Order.PAID:
            return "paid"
        if self.order.state == Order.State.EXPIRED:
            return "expired"
        if self.order.state == Order.State.CANCELLED:
            return "closed"
        if self.intent is None:
            return "open"
        return "waiting" if self.intent.state in (Tried.INTENDED, Tried.WAITING) else "failed"

    @property
    def left(self) -> dt.timedelta:
        return max(self.order.expires_at - self.at, dt.timedelta(0))


def _stand(token: str) -> Stand:
    found = links.attempt_of(token)
    if found is None:
        raise Http404
    intent, order = found
    at = clock.now(order.operator)
    current = keeping.expire_if_due(order, at=at)
    if current is not order:
        return _stand(token)
    return Stand(intent, order, at)


@_page
@require_GET
def pay(request: HttpRequest, token: str) -> HttpResponse:
    """What is to be paid and how; then what was granted, or why not."""
    stand = _stand(token)
    answer = _show(request, token, stand)
    answer.set_cookie(
        COOKIE,
        token,
        path=reverse("pay", args=["-"]).removesuffix("-"),
        httponly=True,
        samesite="Lax",
        secure=request.is_secure(),
    )
    return answer


@_page
@require_GET
def state(request: HttpRequest, token: str) -> HttpResponse:
    """The part of the page that looks again every two seconds; of this database, which the
    provider's notice reaches. When something has happened the page is opened anew."""
    stand = _stand(token)
    shown = {"token": token, "stage": stand.stage, "left": _left(stand.left)}
    answer = render(request, "pay/_state.html", shown)
    if stand.stage != request.GET.get("stage"):
        answer["HX-Refresh"] = "true"
    return answer


@_page
@require_GET
def back(request: HttpRequest, token: str) -> HttpResponse:
    """Where a provider sends the payer back to: asks it what became of the payment.

    The address alone shows whether it is paid, and no more; the browser that was on the pay page
    goes there.
    """
    order = links.order_of(token)
    if order is None:
        raise Http404
    at = clock.now(order.operator)
    reached = _ask(order, at=at)
    order = keeping.expire_if_due(keeping.find(order.operator, order.number), at=at)
    theirs = request.COOKIES.get(COOKIE, "")
    seen = links.attempt_of(theirs)
    if seen is not None and seen[1].pk == order.pk:
        return HttpResponseRedirect(reverse("pay", args=[theirs]), status=303)
    context = {
        "paid": order.state in Order.PAID,
        "open": order.state in Order.OPEN,
        "reached": reached,
    }
    return render(request, "pay/back.html", context)


@_page
@require_POST
def again(request: HttpRequest, token: str) -> HttpResponse:
    """Pay the order in the way that is chosen; leads to that attempt's page."""
    stand = _stand(token)
    way, chosen = request.POST.get("way", ""), request.POST.get("method", "")
    order, at = stand.order, stand.at
    if way not in OPEN_TO_ALL and not (way in OWN and _is_owner(request, order)):
        raise Http404
    method = _method(request, order, chosen) if chosen else ""
    # A saved card is charged without its owner being sent anywhere.
    back = "" if method else links.return_url(order)
    try:
        paying.pay(order.operator, order.number, way, at=at, method=method, return_url=back)
    except DomainError as refused:
        log.info("order %s is not paid by %s: %s", order.number, way, refused.cause)
        if stand.stage == _stand(token).stage:
            return _show(request, token, stand, wrong=refusals.reason_of(refused))
    attempts = keeping.attempts_of([order])[order.id]
    to = links.token_of(attempts[-1]) if attempts else token
    return HttpResponseRedirect(reverse("pay", args=[to]), status=303)


def _is_owner(request: HttpRequest, order: Order) -> bool:
    """Whether whoever is signed in is the one whose order it is."""
    user = request.user
    if not isinstance(user, User):
        return False
    subscriber = access.find(user, order.operator)
    return subscriber is not None and subscriber.pk == order.subscriber_id


def _method(request: HttpRequest, order: Order, chosen: str) -> str:
    """The provider's name of a saved card of the visitor's own. Raises Http404."""
    if _is_owner(request, order):
        for one in methods.of(order.operator, order.subscriber_id):
            if str(one.pk) == chosen:
                return one.reference
    raise Http404


def _ask(order: Order, *, at: dt.datetime) -> bool:
    """Ask the provider of each attempt that is waited for, and do what follows from the answer; of
    one that was just asked about, what it said then stands."""
    reached = True
    for intent in keeping.attempts_of([order])[order.id]:
        if intent.state == Tried.WAITING and intent.account is not None:
            if not keeping.may_ask(intent, wall=clock.wall()):
                continue
            provider = known.again(intent.way, intent.account, at=at)
            try:
                answer = provider.get(paying.asked_for(order, intent, at=at))
            except Unavailable:
                reached = False
                continue
            paying.take(order.operator, order.number, intent.nr, provider, answer, at=at)
    return reached


# How it looks ------------------------------------------------------------------------------------


def _show(request: HttpRequest, token: str, stand: Stand, *, wrong: str = "") -> HttpResponse:
    context = _context(token, stand) | {"wrong": wrong}
    context["owner"] = owner = _is_owner(request, stand.order)
    if owner and stand.stage in ("open", "failed", "waiting"):
        context["own"] = _own_ways(stand)
    with timezone.override(ZoneInfo(stand.order.operator.time_zone)):
        return render(request, "pay/pay.html", context, status=409 if wrong else 200)


def _context(token: str, stand: Stand) -> dict[str, Any]:
    order, intent, stage = stand.order, stand.intent, stand.stage
    context: dict[str, Any] = {
        "token": token,
        "operator": order.operator,
        "order": order,
        "intent": intent,
        "stage": stage,
        "amount": Money(order.amount, order.currency),
        "left": _left(stand.left),
        "way": "" if intent is None else way_names().get(intent.way, intent.way),
    }
    if stage in ("open", "waiting", "failed"):
        context["ways"] = _others(stand)
    if stage == "waiting" and intent is not None:
        context |= _how(intent) | {"asked": links.return_url(order)}
    elif stage == "failed" and intent is not None:
        context["reason"] = refusals.reason_of_attempt(intent.reason)
    if order.kind == Order.Kind.TOP_UP:
        given = top_up_policies.bonus_of(order, at=order.paid_at or stand.at)
        context["bonus"] = Money(given[0], order.currency) if given else None
    if stage == "paid" or order.kind == Order.Kind.INVOICE:
        context["invoice"] = _invoice(order)
    if stage not in ("open", "waiting"):
        context["kept"] = _kept(order)
    return context


@dataclass(frozen=True, slots=True)
class OwnWays:
    """What the subscriber alone may pay with: what the wallet has to spend, and whether that is
    enough; saved cards; whether the phone bill may carry it."""

    wallet: Money | None
    enough: bool
    cards: list[PaymentMethod]
    phone_bill: bool


def _own_ways(stand: Stand) -> OwnWays:
    order = stand.order
    free = None
    if order.kind != Order.Kind.TOP_UP:
        free = Money(wallets.free_of(order.subscriber_id, order.currency), order.currency)
    agreed = consents.agreed([order.subscriber_id])[order.subscriber_id]
    return OwnWays(
        wallet=free,
        enough=free is not None and free.amount >= order.amount,
        cards=methods.of(order.operator, order.subscriber_id),
        phone_bill=order.kind in phone_bills.KINDS
        and agreed.to(Consent.Kind.PHONE_BILL, order.subscription_id),
    )


def _how(intent: PaymentIntent) -> dict[str, Any]:
    """What the payer is to do. A code is drawn from the text that it holds, an address is only
    followed to where it may lead."""
    action = intent.action
    how: dict[str, Any] = {"kind": action.get("kind", "")}
    url = str(action.get("url", ""))
    if url and links.may_lead_to(url):
        how["url"] = url
    text = str(action.get("text", ""))
    if how["kind"] == "redirect" and intent.way != "card":
        text = how.get("url", "")
    if text and len(text.encode()) <= qr.LONGEST:
        how["code"] = SafeString(qr.svg(text))
    if how["kind"] == "bank_transfer":
        how["remark"] = str(action.get("remark", ""))
    return how


def _others(stand: Stand) -> list[tuple[str, str]]:
    """The ways in which this order may be paid besides the one that waits."""
    offered = known.offered(stand.order.operator, at=stand.at)
    intent = stand.intent
    # By a saved card another card may be tried.
    waits = intent is not None and stand.stage == "waiting" and not intent.method
    waiting = intent.way if intent is not None and waits else ""
    return [
        (way, name)
        for way, name in way_names().items()
        if way in OPEN_TO_ALL and way != waiting and way in offered
    ]


def _kept(order: Order) -> Money | None:
    """What came for this order and went into the wallet, too late or too often."""
    rows = ProviderPayment.objects.filter(
        subscriber_id=order.subscriber_id,
        order_id=order.id,
        became=ProviderPayment.Became.WALLET,
    )
    amounts = [row.amount for row in rows]
    return Money(sum(amounts), order.currency) if amounts else None


def _invoice(order: Order) -> str:
    if order.invoice_id is None:
        return ""
    invoice = Invoice.objects.get(subscriber_id=order.subscriber_id, id=order.invoice_id)
    return invoice.number or ""


def _left(left: dt.timedelta) -> str:
    """`14:58`, or with hours and days where there are more."""
    minutes, seconds = divmod(int(left.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    if hours < 1:
        return f"{minutes}:{seconds:02}"
    days, hours = divmod(hours, 24)
    clock_face = f"{hours}:{minutes:02}:{seconds:02}"
    if not days:
        return clock_face
    return _("%(days)d d %(time)s") % {"days": days, "time": clock_face}


def way_names() -> dict[str, str]:
    return {
        "alipay": _("Alipay"),
        "wechat_pay": _("WeChat Pay"),
        "card": _("Card"),
        "bank": _("Bank transfer"),
        "wallet": _("Wallet"),
        "phone_bill": _("Phone bill"),
    }
