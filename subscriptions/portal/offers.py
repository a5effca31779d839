"""What an operator sells now, as its subscribers may see it."""

from __future__ import annotations

from dataclasses import dataclass

from subscriptions import catalog
from subscriptions.models import Booster, Operator, Plan, RateCard, RateCardWeight


@dataclass(frozen=True, slots=True)
class Card:
    """The weights that a rate card has now."""

    code: str
    weights: list[RateCardWeight]


def plans(operator: Operator) -> list[Plan]:
    """The newest version of each plan that a newcomer can hold, the cheapest first.

    What only keeps a paused line is not on offer.
    """
    newest = catalog.plans_on_sale(operator.pk)
    pauses = {plan.pause_plan for plan in newest if plan.pause_plan}
    offered = [plan for plan in newest if plan.code not in pauses and not plan.suspends]
    return sorted(offered, key=lambda plan: (plan.price.amount, plan.allowance))


def boosters(operator: Operator) -> list[Booster]:
    """The newest version of each booster, the cheapest first."""
    newest = Booster.objects.filter(operator=operator).order_by("code", "-version").distinct("code")
    return sorted(newest, key=lambda booster: booster.price.amount)


def cards(operator: Operator, plans: list[Plan], *, at: object) -> dict[str, Card]:
    """By code, the version of each plan's rate card that holds at `at`."""
    codes = {plan.rate_card for plan in plans}
    newest = (
        RateCard.objects.filter(operator=operator, code__in=codes, effective_from__lte=at)
        .order_by("code", "-effective_from", "-version")
        .distinct("code")
    )
    weights = RateCardWeight.objects.filter(rate_card__in=newest.values("pk"))
    found: dict[str, Card] = {}
    for weight in weights.select_related("rate_card").order_by("rate_card__code", "model"):
        code = weight.rate_card.code
        found.setdefault(code, Card(code, [])).weights.append(weight)
    return found
