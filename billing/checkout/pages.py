"""The pay page: what is bought, how to pay it, and what became of that."""

from __future__ import annotations

import datetime as dt
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from django.conf import settings
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

from billing.checkout import links, qr
from billing.models import Invoice, Order, PaymentIntent, ProviderPayment
from billing.orders import keeping, paying
from billing.ways import bank, known
from billing.ways.provider import Unavailable
from subscriptions import clock
from subscriptions.errors import DomainError

log = logging.getLogger(__name__)

Tried = PaymentIntent.State
Page = Callable[..., HttpResponse]
# That a browser has opened the page of an attempt: what a return shows more than the bare state.
COOKIE = "pay"
# Whoever has the address may pay in these: who pays brings the money along. What is the
# subscriber's own already, or is charged to them, is not to be had by an address.
OPEN_TO_ALL = (*known.ONLINE, bank.WAY)


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

    intent: PaymentIntent
    order: Order
    at: dt.datetime

    @property
    def stage(self) -> str:
        """paid, waiting, failed, expired or closed."""
        if self.order.state in Order.PAID:
            return "paid"
        if self.order.state == Order.State.EXPIRED:
            return "expired"
        if self.order.state == Order.State.CANCELLED:
            return "closed"
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
    answer = render(request, "pay/_state.html", _context(token, stand))
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
    """Pay the same order in a way that the payer chooses; leads to that attempt's page."""
    stand = _stand(token)
    way = request.POST.get("way", "")
    if way not in OPEN_TO_ALL:
        raise Http404
    order, at = stand.order, stand.at
    try:
        paying.pay(order.operator, order.number, way, at=at, return_url=links.return_url(order))
    except Unavailable:
        return _show(
            request,
            token,
            stand,
            wrong=_("The payment company does not answer. Try again, or pay in another way."),
        )
    except DomainError as refused:
        log.info("order %s is not paid by %s: %s", order.number, way, refused.cause)
        if stand.stage == _stand(token).stage:
            return _show(request, token, stand, wrong=_("This order cannot be paid in this way."))
    newest = keeping.attempts_of([order])[order.id][-1]
    return HttpResponseRedirect(reverse("pay", args=[links.token_of(newest)]), status=303)


def _ask(order: Order, *, at: dt.datetime) -> bool:
    """Ask the provider of each attempt that is waited for, and do what follows from the answer."""
    reached = True
    for intent in keeping.attempts_of([order])[order.id]:
        if intent.state == Tried.WAITING and intent.account is not None:
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
        "way": _way_names().get(intent.way, intent.way),
    }
    if stage in ("waiting", "failed"):
        context["ways"] = _others(stand)
    if stage == "waiting":
        context |= _how(intent) | {"asked": links.return_url(order)}
    elif stage == "failed":
        context["reason"] = _reasons().get(intent.reason, "")
    if stage == "paid" or order.kind == Order.Kind.INVOICE:
        context["invoice"] = _invoice(order)
    if stage != "waiting":
        context["kept"] = _kept(order)
    return context


def _how(intent: PaymentIntent) -> dict[str, Any]:
    """What the payer is to do. A code is drawn from the text that it holds, an address is only
    followed to where it may lead."""
    action = intent.action
    how: dict[str, Any] = {"kind": action.get("kind", "")}
    url = str(action.get("url", ""))
    if url and _may_lead_to(url):
        how["url"] = url
    text = str(action.get("text", ""))
    if how["kind"] == "redirect" and intent.way != "card":
        text = how.get("url", "")
    if text and len(text.encode()) <= qr.LONGEST:
        how["code"] = SafeString(qr.svg(text))
    if how["kind"] == "bank_transfer":
        how["remark"] = str(action.get("remark", ""))
    return how


# Where pages of providers are, besides our own for the sandbox's.
_HOSTS = ("stripe.com",)


def _may_lead_to(url: str) -> bool:
    if url.startswith(f"{settings.PUBLIC_URL}/sandbox/"):
        return True
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    return parts.scheme == "https" and any(
        host == own or host.endswith(f".{own}") for own in _HOSTS
    )


def _others(stand: Stand) -> list[tuple[str, str]]:
    """The ways in which this order may be paid besides the one that waits."""
    operator = stand.order.operator
    waiting = stand.intent.way if stand.stage == "waiting" else ""
    return [
        (way, name)
        for way, name in _way_names().items()
        if way in OPEN_TO_ALL and way != waiting and known.choose(operator, way, at=stand.at)
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


def _way_names() -> dict[str, str]:
    return {
        "alipay": _("Alipay"),
        "wechat_pay": _("WeChat Pay"),
        "card": _("Card"),
        "bank": _("Bank transfer"),
    }


def _reasons() -> dict[str, str]:
    """What people can make something of; other reasons are for machines."""
    return {
        "insufficient_funds": _("There was not enough money."),
        "card_declined": _("The card was declined by its bank."),
        "expired_card": _("The card has expired."),
        "authentication_required": _("The bank of the card wants to ask its holder first."),
        "authentication_failed": _("The bank's question was not confirmed."),
        "payer_cancelled": _("You cancelled the payment."),
        "expired": _("It was not paid in time."),
    }
