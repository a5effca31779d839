"""Saved cards: adding one on the provider's page, the one that is charged first, removing one.

The number of a card is typed at the provider and never comes here.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST

from billing import methods
from billing.auto_top_up import agreements
from billing.checkout import links, refusals
from billing.models import PaymentMethod
from billing.portal.orders import refused
from subscriptions.errors import DomainError, NotFound
from subscriptions.portal.doors import Visit, own, show

# A card that its provider has not told of after so long was not saved.
_UNDER_WAY = dt.timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Card:
    """A saved card; `fills`: the wallet is filled from it by itself."""

    method: PaymentMethod
    expired: bool
    soon: bool
    fills: bool


def consent_text() -> str:
    """What is agreed to with a card that is saved."""
    return _(
        "My card may be charged later without asking me each time: for orders that I pay with it "
        "here, and for what I switch on to be paid by itself. I can remove it at any time."
    )


def cards_of(visit: Visit) -> list[Card]:
    """All of the visitor's, the one that is charged first before the others."""
    agreement = agreements.last_of(visit.operator, visit.subscriber.pk)
    filling = agreement.method if agreement and agreement.ended_at is None else None
    found = []
    for one in methods.of(visit.operator, visit.subscriber.pk):
        ends = None
        if one.exp_year is not None and one.exp_month is not None:
            ends = methods.end_of(one.exp_year, one.exp_month, visit.zone)
        found.append(
            Card(
                one,
                expired=ends is not None and ends <= visit.now,
                # From the day on which it is told of.
                soon=ends is not None and visit.now < ends <= visit.now + methods.AHEAD,
                fills=one.reference == filling,
            )
        )
    return sorted(found, key=lambda card: not card.method.is_default)


@require_GET
@own
def listed(request: HttpRequest, visit: Visit) -> HttpResponse:
    """The saved cards; after coming back from saving one, the part that waits for it."""
    waits = request.GET.get("saving") == "1" and _is_under_way(visit)
    context: dict[str, Any] = {"cards": cards_of(visit), "waits": waits}
    if request.headers.get("HX-Request"):
        return show(request, "portal/card_list.html", visit, **context)
    return show(
        request, "portal/cards.html", visit, **context, consent=consent_text(), section="wallet"
    )


def _is_under_way(visit: Visit) -> bool:
    """Whether the last card that was asked for is still to be told of."""
    rows = PaymentMethod.objects.filter(
        operator=visit.operator, subscriber_id=visit.subscriber.pk
    ).order_by("-id")
    last = rows.first()
    return (
        last is not None
        and last.state == PaymentMethod.State.ASKED
        and last.consent_at > visit.now - _UNDER_WAY
    )


@require_POST
@own
def add(request: HttpRequest, visit: Visit) -> HttpResponse:
    """Begin to save a card: the page leads to the provider's, where it is typed."""
    if request.POST.get("agree") != "yes":
        messages.error(request, _("Tick the box to agree; without it no card is saved."))
        return redirect("portal_cards")
    here = request.build_absolute_uri(f"{reverse('portal_cards')}?saving=1")
    try:
        _method, answer = methods.begin(
            visit.operator,
            visit.subscriber.pk,
            consent=consent_text(),
            return_url=here,
            at=visit.now,
        )
    except DomainError as error:
        return refused(request, error, "portal_cards")
    url = str(answer.action.get("url", ""))
    if not links.may_lead_to(url):
        messages.error(request, refusals.reason_of(methods.NothingSaves("no page to go to")))
        return redirect("portal_cards")
    return show(request, "portal/card_begun.html", visit, url=url, section="wallet")


@require_POST
@own
def make_default(request: HttpRequest, visit: Visit, method_id: int) -> HttpResponse:
    """Charge this one first from now on."""
    try:
        methods.set_default(visit.operator, visit.subscriber.pk, method_id, at=visit.now)
    except NotFound:
        raise Http404 from None
    except DomainError as error:
        return refused(request, error, "portal_cards")
    return redirect("portal_cards")


@require_POST
@own
def remove(request: HttpRequest, visit: Visit, method_id: int) -> HttpResponse:
    """Charge this one no more. Again is harmless."""
    try:
        methods.remove(visit.operator, visit.subscriber.pk, method_id, at=visit.now)
    except NotFound:
        raise Http404 from None
    messages.success(request, _("The card is removed. Nothing is charged to it any more."))
    return redirect("portal_cards")
