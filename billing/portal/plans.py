"""Plans: the tariff that anybody may read, and what taking one costs and brings, said before it is
taken."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any
from zoneinfo import ZoneInfo

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_http_methods
from djmoney.money import Money

from billing import rating, receipts
from billing.checkout import links
from billing.orders import buying
from billing.portal import conditions
from billing.portal.home import Held, held_by, running
from billing.portal.orders import key_of, refused
from subscriptions import clock, lifecycle, periods
from subscriptions.errors import DomainError
from subscriptions.models import Access, Operator, Plan, Subscription, Upgrade, User
from subscriptions.portal import offers
from subscriptions.portal.doors import Visit, own, public, show

CHANNEL = "portal"


@require_GET
@public
def tariff(request: HttpRequest, operator: Operator) -> HttpResponse:
    """All plans side by side, with what they cost, bring, weigh and do at zero."""
    now = clock.now(operator)
    plans = offers.plans(operator)
    held = held_at(request, operator, at=now)
    return render(
        request,
        "portal/plans.html",
        {
            "operator": operator,
            "plans": [(plan, conditions.of(plan)) for plan in plans],
            "boosters": offers.boosters(operator),
            "cards": offers.cards(operator, plans, at=now).values(),
            "held": held,
            "compare": len(plans) > 1,
            "section": "plans",
        },
    )


def held_at(request: HttpRequest, operator: Operator, *, at: dt.datetime) -> Plan | None:
    """The plan of whoever looks, where they are signed in and hold one."""
    if not isinstance(request.user, User):
        return None
    seen = Access.objects.filter(user=request.user, operator=operator).values("subscriber_id")
    found = running(Subscription.objects.filter(subscriber_id__in=seen), at)
    return None if found is None else found.plan


@require_http_methods(["GET", "POST"])
@own
def choose(request: HttpRequest, visit: Visit, code: str) -> HttpResponse:
    """What taking this plan costs and brings, exactly; by POST it is taken.

    Who holds none orders it and pays; a dearer one begins at once, another with the next period.
    """
    plan = next((plan for plan in offers.plans(visit.operator) if plan.code == code), None)
    if plan is None:
        raise Http404
    visit.bring_up()
    held = held_by(visit)
    means = _what_it_means(visit, plan, held)
    if request.method == "POST":
        said = request.POST.get("said")
        if said is None or said == _in_short(means):
            return _take(request, visit, plan, held)
        # A day has passed, or a price has changed, since the page was opened.
        messages.error(request, _("This is not what you saw before. Look at it again."))
    return show(
        request,
        "portal/plan.html",
        visit,
        plan=plan,
        conditions=conditions.of(plan),
        held=held,
        **means,
        said=_in_short(means),
        once=uuid.uuid4().hex,
        section="plans",
    )


def _what_it_means(visit: Visit, plan: Plan, held: Held | None) -> dict[str, Any]:
    """The price and units of the step, as the domain will compute them when it is taken."""
    start = lifecycle.first_start(visit.operator, plan, visit.now)
    if held is not None and held.ends and start < held.ends:
        return {"step": "ends"}
    if held is None or held.ends:
        fee = buying.fee_of(visit.operator, plan.pk, start)
        return {
            "step": "begin",
            "starts": start,
            "later": start > visit.now,
            "fee": Money(fee, plan.price.currency),
        }
    now = held.subscription.plan
    if plan.code == now.code:
        return {"step": "held"}
    dearer = plan.price.amount >= now.price.amount and plan.allowance >= now.allowance
    if dearer and plan.trial_days is None and held.period and not held.subscription.paused_plan:
        zone = ZoneInfo(visit.operator.time_zone)
        days = min(periods.days_left(visit.now, held.period.ends_at, zone), Upgrade.DAYS)
        return {
            "step": "upgrade",
            "days": days,
            "fee": upgrade_fee(now, plan, days),
            "units": periods.prorate(plan.allowance - now.allowance, days, Upgrade.DAYS),
        }
    return {"step": "next", "starts": held.period.ends_at if held.period else None}


def upgrade_fee(now: Plan, plan: Plan, days: int) -> Money:
    """As the invoice's lines will say: rating.upgrade_lines spreads just this."""
    more = plan.price.amount - now.price.amount
    return Money(rating.prorate(more, days, Upgrade.DAYS), plan.price.currency)


def _in_short(means: dict[str, Any]) -> str:
    """What the page said, for the form to say it back."""
    told = (means.get(name) for name in ("step", "fee", "units"))
    return "|".join("" if one is None else str(one) for one in told)


def _take(request: HttpRequest, visit: Visit, plan: Plan, held: Held | None) -> HttpResponse:
    operator, step = visit.operator, request.POST.get("step")
    try:
        if held is None or held.ends:
            made = buying.order_plan(
                operator,
                visit.subscriber.pk,
                plan.code,
                at=visit.now,
                key=key_of(request, visit),
            )
            return HttpResponseRedirect(links.path_to_pay(made))
        key = (visit.subscriber.pk, held.subscription.id)
        take = receipts.upgrade if step == "upgrade" else receipts.change
        receipt = take(operator, key, plan.code, channel=CHANNEL, at=visit.now)
    except DomainError as error:
        return refused(request, error, "portal_plan", plan.code)
    return redirect("portal_plan_receipt", receipt.number)
