"""The plan that one holds: what it is, ending it, pausing it, and the receipts of such steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db.models import F, Q
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_GET, require_POST

from billing import receipts
from billing.models import PlanReceipt
from billing.portal.home import Held, held_by
from billing.portal.orders import refused
from billing.portal.plans import CHANNEL, upgrade_fee
from subscriptions import catalog
from subscriptions.errors import DomainError, NotFound
from subscriptions.models import Plan, Subscription, Upgrade
from subscriptions.portal.doors import Visit, own, show

_SHOWN = 10
Step = Callable[..., PlanReceipt]


@require_GET
@own
def mine(request: HttpRequest, visit: Visit) -> HttpResponse:
    """The plan that runs, or is to begin, and what may be done with it."""
    visit.bring_up()
    held = _held(visit)
    return show(
        request,
        "portal/my_plan.html",
        visit,
        held=held,
        begun=held is not None and held.subscription.starts_at <= visit.now,
        pause=_pause_plan(visit, held),
        receipts=receipts.latest(visit.subscriber.pk, limit=_SHOWN),
        section="plans",
    )


def _held(visit: Visit) -> Held | None:
    """What is held now, or what is bought and has not begun."""
    held = held_by(visit)
    if held is not None:
        return held
    rows = Subscription.objects.filter(
        Q(ends_at__isnull=True) | ~Q(ends_at=F("starts_at")),
        subscriber_id=visit.subscriber.pk,
        starts_at__gt=visit.now,
    )
    coming = rows.select_related("plan", "next_plan").order_by("starts_at").first()
    return None if coming is None else Held(coming, None)


def _pause_plan(visit: Visit, held: Held | None) -> Plan | None:
    """Under which the plan may be paused now."""
    if held is None or held.period is None or held.ends or held.subscription.paused_plan_id:
        return None
    code = held.subscription.plan.pause_plan
    try:
        return catalog.newest_plan(visit.operator.pk, code) if code else None
    except DomainError:
        return None


def _take(request: HttpRequest, visit: Visit, step: Step) -> HttpResponse:
    held = _held(visit)
    if held is None:
        raise Http404
    key = (visit.subscriber.pk, held.subscription.id)
    try:
        receipt = step(visit.operator, key, channel=CHANNEL, at=visit.now)
    except DomainError as error:
        return refused(request, error, "portal_my_plan")
    return redirect("portal_plan_receipt", receipt.number)


@require_POST
@own
def cancel(request: HttpRequest, visit: Visit) -> HttpResponse:
    """End the plan with the period that runs, or take that back; the page after is the receipt."""
    back = request.POST.get("cancel") == "0"
    return _take(request, visit, receipts.keep if back else receipts.cancel)


@require_POST
@own
def pause(request: HttpRequest, visit: Visit) -> HttpResponse:
    """Keep the plan under its pause plan from the next period on."""
    return _take(request, visit, receipts.pause)


@require_POST
@own
def resume(request: HttpRequest, visit: Visit) -> HttpResponse:
    """End the pause."""
    return _take(request, visit, receipts.resume)


@require_GET
@own
def receipt(request: HttpRequest, visit: Visit, number: str) -> HttpResponse:
    """What was done with the plan, when, and what ends or begins when; it can be opened again."""
    try:
        found = receipts.find(visit.operator, visit.subscriber.pk, number)
    except NotFound:
        raise Http404 from None
    facts: dict[str, Any] = {}
    if found.kind == PlanReceipt.Kind.UPGRADED:
        rows = Upgrade.objects.filter(
            subscriber_id=visit.subscriber.pk,
            subscription_id=found.subscription_id,
            at=found.at,
        )
        row = rows.select_related("old_plan", "new_plan").order_by("-nr").first()
        if row is not None:
            fee = upgrade_fee(row.old_plan, row.new_plan, row.days)
            facts = {"fee": fee, "units": row.units, "until": row.period_end}
    return show(request, "portal/plan_receipt.html", visit, receipt=found, **facts, section="plans")
