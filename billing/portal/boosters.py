"""Boosters: all that are on sale, and ordering one in a tap."""

from __future__ import annotations

import uuid

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.views.decorators.http import require_GET, require_POST
from djmoney.money import Money

from billing import wallets
from billing.checkout import links
from billing.orders import buying
from billing.portal.orders import key_of, refused
from subscriptions.errors import DomainError
from subscriptions.portal import offers
from subscriptions.portal.doors import Visit, own, show


@require_GET
@own
def listed(request: HttpRequest, visit: Visit) -> HttpResponse:
    """What each costs and brings, and how long that is good; and what the wallet could pay."""
    currency = visit.operator.currency
    return show(
        request,
        "portal/boosters.html",
        visit,
        boosters=offers.boosters(visit.operator),
        wallet=Money(wallets.free_of(visit.subscriber.pk, currency), currency),
        once=uuid.uuid4().hex,
        section="plans",
    )


@require_POST
@own
def order(request: HttpRequest, visit: Visit, code: str) -> HttpResponse:
    """Order a booster and go on to pay it."""
    try:
        made = buying.order_booster(
            visit.operator, visit.subscriber.pk, code, at=visit.now, key=key_of(request, visit)
        )
    except DomainError as error:
        return refused(request, error, "portal_boosters")
    return HttpResponseRedirect(links.path_to_pay(made))
