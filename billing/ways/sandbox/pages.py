"""The sandbox's pages: what a payer sees on the phone. Plain HTML; nothing here needs a script.

Who has the address of a payment may pay it, as anybody may who scans a code. Beside the phone stand
the tester's buttons: what a real company would do of itself happens when one is pressed.
"""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Callable
from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.cache import add_never_cache_headers
from django.utils.timesince import timeuntil
from django.utils.translation import gettext as _
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.http import require_GET, require_POST

from billing.models import ProviderAccount
from billing.ways.sandbox import company, provider
from billing.ways.sandbox.models import Dispute, Method, Payment, Refund
from subscriptions import clock
from subscriptions.models import Operator

# No script, no frame around it, and nothing of anybody else's.
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self';"
    " frame-ancestors 'none'; base-uri 'none'"
)
CARD_YEARS = 3

Page = Callable[..., HttpResponse]


def _page(view: Page) -> Page:
    """A page of the sandbox, where there is one; kept by nobody."""

    @csrf_protect
    @functools.wraps(view)
    def shown(request: HttpRequest, **named: Any) -> HttpResponse:
        if not settings.SANDBOX_PAYMENTS:
            raise Http404
        answer = view(request, **named)
        answer["Content-Security-Policy"] = POLICY
        answer["Referrer-Policy"] = "same-origin"
        answer["X-Frame-Options"] = "DENY"
        answer["X-Robots-Tag"] = "noindex"
        add_never_cache_headers(answer)
        return answer

    return shown


def _found(secret: str) -> tuple[Payment, Operator, dt.datetime]:
    """The payment of a page as it is now, by its merchant's clock.

    There is none where the merchant takes real money by now, or the sandbox is off.
    """
    known = Payment.objects.filter(secret=secret).values("account")
    account = ProviderAccount.objects.filter(pk__in=known).select_related("operator").first()
    if account is None or not provider.is_open(account):
        raise Http404
    at = clock.now(account.operator)
    payment = company.page_of(secret, at=at)
    assert payment is not None
    return payment, account.operator, at


@_page
@require_GET
def payment(request: HttpRequest, secret: str) -> HttpResponse:
    """A payment as it stands: to be paid, being paid, paid, failed, expired."""
    found, merchant, at = _found(secret)
    return _show(request, found, merchant, at)


@_page
@require_POST
def act(request: HttpRequest, secret: str) -> HttpResponse:
    """A button: what the payer does, or what the tester makes happen. Then the page as it stands:
    pressed twice, or too late, it does nothing."""
    found, merchant, at = _found(secret)
    do = ACTS.get(request.POST.get("do", ""))
    if do is None:
        raise Http404
    try:
        do(found, request, at)
    except company.Refused as refused:
        if str(refused) == "unknown_card":
            return _show(request, found, merchant, at, wrong=_("Choose one of the test cards."))
    return HttpResponseRedirect(reverse("sandbox-payment", args=[secret]), status=303)


# What the buttons do -----------------------------------------------------------------------------


def _pay(payment: Payment, request: HttpRequest, at: dt.datetime, **how: bool) -> None:
    """With a card: by what is behind its number; one that asks waits for the step."""
    if payment.way == company.CARD and payment.method_id is None:
        expires_on = dt.date(at.year + CARD_YEARS, 12, 31)
        payment = company.hold_card(
            payment.pk,
            request.POST.get("card", ""),
            expires_on,
            keep=request.POST.get("keep") == "yes",
            at=at,
        )
        assert payment.method is not None
        if payment.method.behaviour == Method.Behaviour.ASKS:
            return
        if payment.method.behaviour == Method.Behaviour.DECLINES:
            company.fail(payment.pk, "card_declined", at=at)
            return
    company.pay(payment.pk, at=at, **how)


def _settle(payment: Payment, at: dt.datetime) -> None:
    """Let no time pass until what is on its way arrives."""
    company.settle_now(payment.pk, at=at)


Act = Callable[[Payment, HttpRequest, dt.datetime], object]
ACTS: dict[str, Act] = {
    "pay": _pay,
    "later": lambda payment, request, at: _pay(payment, request, at, later=True),
    "twice": lambda payment, request, at: _pay(payment, request, at, twice=True),
    "confirm": lambda payment, request, at: company.pay(payment.pk, at=at),
    "refuse": lambda payment, request, at: company.fail(payment.pk, "authentication_failed", at=at),
    "fail": lambda payment, request, at: company.fail(payment.pk, "insufficient_funds", at=at),
    "cancel": lambda payment, request, at: company.fail(payment.pk, "payer_cancelled", at=at),
    "expire": lambda payment, request, at: company.expire(payment.pk, at=at),
    "settle": lambda payment, request, at: _settle(payment, at),
    "refuse_refund": lambda payment, request, at: company.refuse_refund(
        payment.pk, request.POST.get("refund", ""), at=at
    ),
    "dispute": lambda payment, request, at: company.dispute(
        payment.pk, "product_not_received", at=at
    ),
    "won": lambda payment, request, at: company.decide(payment.pk, for_merchant=True, at=at),
    "lost": lambda payment, request, at: company.decide(payment.pk, for_merchant=False, at=at),
}

# How it looks ------------------------------------------------------------------------------------


def _show(
    request: HttpRequest, payment: Payment, merchant: Operator, at: dt.datetime, *, wrong: str = ""
) -> HttpResponse:
    asks = payment.state == Payment.State.WAITING and payment.method is not None
    stage = "step" if asks else payment.state
    refunds = list(Refund.objects.filter(payment=payment).order_by("created_at", "pk"))
    on_their_way = [one for one in refunds if one.state == Refund.State.WAITING]
    context = {
        "payment": payment,
        "stage": stage,
        "said": _stages()[stage],
        "way": _ways().get(payment.way, payment.way),
        "sign": _SIGNS.get(payment.currency, f"{payment.currency} "),
        "left": timeuntil(payment.expires_at, at),
        "cards": _cards() if payment.way == company.CARD else [],
        "refunds": refunds,
        "waiting_refund": on_their_way[0] if on_their_way else None,
        "left_to_dispute": payment.amount > payment.refunded,
        "dispute": Dispute.objects.filter(payment=payment).first(),
        "reason": _reasons().get(payment.reason, payment.reason),
        "wrong": wrong,
    }
    with timezone.override(ZoneInfo(merchant.time_zone)):
        return render(request, "sandbox/payment.html", context, status=422 if wrong else 200)


_SIGNS = {"CNY": "¥", "USD": "$", "HKD": "HK$", "EUR": "€"}


def _stages() -> dict[str, str]:
    return {
        "waiting": _("To be paid"),
        "step": _("To be confirmed"),
        Payment.State.PROCESSING: _("On its way"),
        Payment.State.SUCCEEDED: _("Paid"),
        Payment.State.FAILED: _("Not paid"),
        Payment.State.EXPIRED: _("Expired"),
    }


def _ways() -> dict[str, str]:
    return {"alipay": _("Alipay"), "wechat_pay": _("WeChat Pay"), company.CARD: _("Card")}


def _cards() -> list[dict[str, str]]:
    what = {
        Method.Behaviour.PAYS: _("pays"),
        Method.Behaviour.ASKS: _("asks for a 3-D Secure step"),
        Method.Behaviour.DECLINES: _("will be declined"),
    }
    return [
        {
            "number": number,
            "shown": " ".join(number[i : i + 4] for i in range(0, len(number), 4)),
            "brand": card.brand,
            "what": what[Method.Behaviour(card.behaviour)],
        }
        for number, card in company.CARDS.items()
    ]


def _reasons() -> dict[str, str]:
    return {
        "insufficient_funds": _("There was not enough money."),
        "card_declined": _("The card was declined by its bank."),
        "expired_card": _("The card has expired."),
        "authentication_required": _("The bank of the card wants to ask its holder first."),
        "authentication_failed": _("The bank's question was not confirmed."),
        "payer_cancelled": _("You cancelled the payment."),
        "expired": _("It was not paid in time."),
    }
