"""Plans: the tariff that anybody may read, and choosing, changing and cancelling one's own."""

from __future__ import annotations

import uuid
from typing import Any
from zoneinfo import ZoneInfo

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_http_methods, require_POST
from djmoney.money import Money

from billing import rating
from billing.orders import buying
from billing.portal.home import Held, held_by
from billing.portal.orders import key_of, refused
from subscriptions import clock, lifecycle, periods
from subscriptions.errors import DomainError
from subscriptions.models import Operator, Plan, Upgrade, User
from subscriptions.portal import offers
from subscriptions.portal.doors import Visit, own, public, show
from subscriptions.users import access


@require_GET
@public
def tariff(request: HttpRequest, operator: Operator) -> HttpResponse:
    """All plans side by side, with what they cost, bring, weigh and do at zero."""
    now = clock.now(operator)
    plans = offers.plans(operator)
    held: Held | None = None
    if isinstance(request.user, User):
        subscriber = access.find(request.user, operator)
        held = held_by(Visit(operator, subscriber, now)) if subscriber else None
    return render(
        request,
        "portal/plans.html",
        {
            "operator": operator,
            "plans": plans,
            "cards": offers.cards(operator, plans, at=now).values(),
            "held": held,
            "section": "plans",
        },
    )


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
    if request.method == "POST":
        return _take(request, visit, plan, held)
    return show(
        request,
        "portal/plan.html",
        visit,
        plan=plan,
        held=held,
        **_what_it_means(visit, plan, held),
        once=uuid.uuid4().hex,
        section="plans",
    )


def _what_it_means(visit: Visit, plan: Plan, held: Held | None) -> dict[str, Any]:
    """The price and units of the step, as the domain will compute them when it is taken."""
    if held is None or held.ends:
        start = lifecycle.first_start(visit.operator, plan, visit.now)
        fee = buying.fee_of(visit.operator, plan.pk, start)
        return {"step": "begin", "starts": start, "fee": Money(fee, plan.price.currency)}
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
            # As the invoice's lines will say: rating.upgrade_lines spreads just this.
            "fee": Money(
                rating.prorate(plan.price.amount - now.price.amount, days, Upgrade.DAYS),
                plan.price.currency,
            ),
            "units": periods.prorate(plan.allowance - now.allowance, days, Upgrade.DAYS),
        }
    return {"step": "next", "starts": held.period.ends_at if held.period else None}


def _take(request: HttpRequest, visit: Visit, plan: Plan, held: Held | None) -> HttpResponse:
    try:
        if held is None or held.ends:
            made = buying.order_plan(
                visit.operator,
                visit.subscriber.pk,
                plan.code,
                at=visit.now,
                key=key_of(request, visit),
            )
            return redirect("portal_order", made.number)
        step = request.POST.get("step")
        key = (visit.subscriber.pk, held.subscription.id)
        if step == "upgrade":
            lifecycle.upgrade(*key, plan.code, at=visit.now)
            messages.success(request, _("Your new plan holds from now on."))
        else:
            lifecycle.change(*key, at=visit.now, plan_code=plan.code)
            messages.success(request, _("Your plan changes with the next period."))
    except DomainError as error:
        return refused(request, error, "portal_plan", plan.code)
    return redirect("portal_home")


@require_POST
@own
def cancel(request: HttpRequest, visit: Visit) -> HttpResponse:
    """End the plan with the period that runs, or take that back; the page after is the receipt."""
    held = held_by(visit)
    if held is None:
        raise Http404
    stop = request.POST.get("cancel") != "0"
    try:
        lifecycle.change(
            visit.subscriber.pk, held.subscription.id, at=visit.now, cancel_at_period_end=stop
        )
    except DomainError as error:
        return refused(request, error, "portal_plans")
    if stop:
        messages.success(
            request,
            _("Your plan is cancelled: it ends with this period and nothing is charged after."),
        )
    else:
        messages.success(request, _("Your plan goes on."))
    return redirect("portal_home")
