"""Plans side by side, and one's own last month under each of them."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET
from djmoney.money import Money

from billing import rehearsing
from billing.portal import conditions
from billing.portal.plans import held_at
from billing.rehearsing import Lived
from subscriptions import clock
from subscriptions.models import Operator, Plan
from subscriptions.portal import offers
from subscriptions.portal.doors import Visit, own, public, show

MOST = 4
# A period by the day of sale may still run: then the month before is looked at.
_MONTHS = 2


@require_GET
@public
def compare(request: HttpRequest, operator: Operator) -> HttpResponse:
    """Two to four plans, a row for each condition; without a choice, one's own and those next."""
    plans = offers.plans(operator)
    held = held_at(request, operator, at=clock.now(operator))
    asked = request.GET.getlist("plan")
    chosen = [plan for plan in plans if plan.code in asked]
    if not asked:
        mine = held.code if held is not None else ""
        at = next((nr for nr, plan in enumerate(plans) if plan.code == mine), 0)
        chosen = plans[max(0, min(at, len(plans) - 3)) :][:3]
    shown = chosen[:MOST]
    said = [conditions.of(plan) for plan in shown]
    return render(
        request,
        "portal/compare.html",
        {
            "operator": operator,
            "plans": plans,
            "shown": shown,
            # What none of them says anything of is no row.
            "rows": [
                (row[0].name, [one.text for one in row])
                for row in zip(*said, strict=True)
                if any(one.text != conditions.NOTHING for one in row)
            ],
            "too_many": len(chosen) > MOST,
            "held": held,
            "section": "plans",
        },
    )


@dataclass(frozen=True, slots=True)
class Would:
    """What a plan would have cost; `refused` units it would not have let happen."""

    plan: Plan
    gross: Money
    change: Money
    units: int
    refused: int
    mine: bool
    best: bool = False


@require_GET
@own
def last_month(request: HttpRequest, visit: Visit) -> HttpResponse:
    """What one's last period that is over would have cost under each plan on sale."""
    visit.bring_up()
    plans = [plan for plan in offers.plans(visit.operator) if plan.trial_days is None]
    lived = _last_lived(visit, plans)
    context: dict[str, object] = {"section": "plans"}
    if lived is not None:
        currency = visit.operator.currency
        context |= {
            "lived": lived,
            "cost": Money(lived.now.gross, currency),
            "would": _would(plans, lived, currency),
        }
    return show(request, "portal/last_month.html", visit, **context)


def _last_lived(visit: Visit, plans: list[Plan]) -> Lived | None:
    """The latest period that is over, of the last months."""
    asked = [rehearsing.offer_of(plan) for plan in plans]
    month = visit.now.astimezone(visit.zone).date().replace(day=1)
    for _ in range(_MONTHS):
        month = (month - dt.timedelta(days=1)).replace(day=1)
        found = rehearsing.of_one(
            visit.operator, asked, visit.subscriber.pk, month=month, at=visit.now
        )
        if found:
            return found[-1]
    return None


def _would(plans: list[Plan], lived: Lived, currency: str) -> list[Would]:
    """The cheapest of those that would have let all happen is the best."""
    enough = [
        priced.gross
        for plan, (_, priced) in zip(plans, lived.then, strict=True)
        if not priced.refused and plan.price.currency.code == currency
    ]
    least = min(enough, default=None)
    return [
        Would(
            plan,
            Money(priced.gross, currency),
            Money(priced.gross - lived.now.gross, currency),
            units,
            priced.refused,
            mine=plan.pk == lived.plan_id,
            best=not priced.refused and priced.gross == least,
        )
        for plan, (units, priced) in zip(plans, lived.then, strict=True)
        if plan.price.currency.code == currency
    ]
