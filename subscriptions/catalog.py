"""What is on offer: publishes plans, boosters and rate cards; the only writer of their tables.

Publishing makes a further version and never changes one; publishing what the newest version
already says makes none, so that a script may publish its whole catalogue again and again.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import pairwise
from typing import Any

from django.db import transaction
from djmoney.money import Money

from subscriptions import clock, taxes
from subscriptions.errors import Conflict, Invalid
from subscriptions.models import (
    Booster,
    Operator,
    Plan,
    PlanComponent,
    PlanRetirement,
    PlanTier,
    PlanWindow,
    RateCard,
    RateCardWeight,
)
from subscriptions.outcomes import USUAL, Outcome, free
from subscriptions.policies import Tier, Window, tiers_of, windows_of


class UnknownPlan(Invalid):
    cause = "unknown_plan"


class UnknownBooster(Invalid):
    cause = "unknown_booster"


class UnknownRateCard(Invalid):
    cause = "unknown_rate_card"


class PlanRetired(Conflict):
    cause = "plan_retired"


class WrongCurrency(Invalid):
    cause = "wrong_currency"


class UsageAlreadyCharged(Conflict):
    cause = "usage_already_charged"


# Plans -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A part of a plan's price with a tax rate of its own (a bundle of data and tokens)."""

    name: str
    price: Money
    tax_rate: Decimal
    tax_category: str = ""  # whose rate holds from its first day on


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanTerms:
    """All that a plan version says. Units in thousandths, prices include tax.

    `price_per_million` is money per million units in the currency of `price`. `outcomes` says for
    each outcome whether it is `billed` or `free`; one that is not named is billed.
    """

    name: str
    price: Money
    allowance: int
    rate_card: str
    cycle: str = Plan.Cycle.CALENDAR_MONTH
    first_month: str = Plan.FirstMonth.FULL
    collect: str = Plan.Collect.AT_CLOSE
    rollover: str = Plan.Rollover.NONE
    on_exhaustion: str = Plan.OnExhaustion.STOP
    refund: str = Plan.Refund.NONE
    price_per_million: Decimal | None = None
    block_units: int | None = None
    block_price: Money | None = None
    cap: Money | None = None
    cap_units: int | None = None
    degrade_model: str = ""
    degrade_tokens_per_minute: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    limits_fail_closed: bool = False
    outcomes: Mapping[str, str] = field(default_factory=lambda: dict(USUAL))
    tax_rate: Decimal = Decimal("0.06")
    tax_category: str = ""
    components: tuple[Component, ...] = ()
    windows: tuple[Window, ...] = ()
    trial_days: int | None = None
    converts_to: str = ""
    pause_plan: str = ""
    suspends: bool = False
    tier_mode: str = ""  # where there are tiers: graduated or volume
    tiers: tuple[Tier, ...] = ()


@transaction.atomic
def publish_plan(
    operator: Operator, code: str, terms: PlanTerms, *, at: dt.datetime
) -> tuple[Plan, bool]:
    """The plan version that says `terms`, and whether it was made now.

    Raises Invalid for terms that contradict themselves, UnknownRateCard, WrongCurrency.
    """
    check_terms(operator, terms)
    lock(operator)
    newest = newest_plans(operator.pk, [code]).get(code)
    terms = replace(terms, windows=tuple(sorted(terms.windows)))
    if newest is not None and terms_of(newest) == terms and not is_retired(newest):
        return newest, False
    check_rate_card(operator, terms.rate_card)
    plan, parts = _version(operator, code, terms, nr=newest.version + 1 if newest else 1, at=at)
    plan.save(force_insert=True)
    PlanComponent.objects.bulk_create(parts["components"])
    PlanWindow.objects.bulk_create(parts["windows"])
    PlanTier.objects.bulk_create(parts["tiers"])
    return plan, True


def _version(
    operator: Operator, code: str, terms: PlanTerms, *, nr: int, at: dt.datetime
) -> tuple[Plan, dict[str, list[Any]]]:
    """Rows that say `terms`, in no table yet: the plan's, and those of its parts by their names."""
    plan = Plan(
        operator=operator,
        code=code,
        version=nr,
        name=terms.name,
        price=terms.price,
        allowance=terms.allowance,
        rate_card=terms.rate_card,
        cycle=terms.cycle,
        first_month=terms.first_month,
        collect=terms.collect,
        rollover=terms.rollover,
        on_exhaustion=terms.on_exhaustion,
        refund=terms.refund,
        trial_days=terms.trial_days,
        converts_to=terms.converts_to,
        pause_plan=terms.pause_plan,
        suspends=terms.suspends,
        price_per_million=terms.price_per_million,
        tier_mode=terms.tier_mode,
        block_units=terms.block_units,
        block_price=terms.block_price,
        cap=terms.cap,
        cap_units=terms.cap_units,
        degrade_model=terms.degrade_model,
        degrade_tokens_per_minute=terms.degrade_tokens_per_minute,
        requests_per_minute=terms.requests_per_minute,
        tokens_per_minute=terms.tokens_per_minute,
        limits_fail_closed=terms.limits_fail_closed,
        outcomes=dict(terms.outcomes),
        tax_rate=terms.tax_rate,
        tax_category=terms.tax_category,
        created_at=at,
    )
    components = [
        PlanComponent(
            plan=plan,
            position=position,
            name=component.name,
            price=component.price,
            tax_rate=component.tax_rate,
            tax_category=component.tax_category,
        )
        for position, component in enumerate(terms.components)
    ]
    windows = [
        PlanWindow(plan=plan, per=window.per, sliding=window.sliding, units=window.units)
        for window in terms.windows
    ]
    tiers = [
        PlanTier(
            plan=plan,
            position=position,
            up_to=tier.up_to,
            price_per_million=tier.price_per_million,
        )
        for position, tier in enumerate(terms.tiers)
    ]
    return plan, {"components": components, "windows": windows, "tiers": tiers}


def drafted(operator: Operator, code: str, terms: PlanTerms, *, at: dt.datetime) -> Plan:
    """The version that `terms` would make, in no table: its id is 0, its parts are at hand.

    Whether they contradict themselves is not looked at.
    """
    plan, parts = _version(operator, code, terms, nr=0, at=at)
    plan.pk = 0
    # As `prefetch_related` keeps what it has read.
    plan._prefetched_objects_cache = parts  # type: ignore[attr-defined]
    return plan


def check_rate_card(operator: Operator, code: str) -> None:
    """Raises UnknownRateCard."""
    if not RateCard.objects.filter(operator=operator, code=code).exists():
        raise UnknownRateCard(f"there is no rate card {code}; publish it first")


def check_terms(operator: Operator, terms: PlanTerms) -> None:
    """Raises Invalid for terms that contradict themselves, UnknownPlan, WrongCurrency."""
    prices = [terms.price, terms.block_price, terms.cap, *(c.price for c in terms.components)]
    check_currency(operator, *(price for price in prices if price is not None))
    if terms.on_exhaustion == Plan.OnExhaustion.METER and (
        terms.price_per_million is None and not terms.tiers
    ):
        raise Invalid("on_exhaustion `meter` needs overage.price_per_million or overage.tiers")
    if terms.on_exhaustion == Plan.OnExhaustion.BLOCKS and (
        not terms.block_units or terms.block_price is None
    ):
        raise Invalid("on_exhaustion `blocks` needs overage.block with units and price")
    _check_tiers(terms)
    _check_others(operator, terms)
    for category in {terms.tax_category, *(c.tax_category for c in terms.components)}:
        taxes.check_category(operator, category)
    degrades = bool(terms.degrade_model) or terms.degrade_tokens_per_minute is not None
    if degrades and terms.on_exhaustion != Plan.OnExhaustion.DEGRADE:
        raise Invalid("degrade_to is for on_exhaustion `degrade`")
    if len({(window.per, window.sliding) for window in terms.windows}) < len(terms.windows):
        raise Invalid("a window of a kind stands in `windows` more than once")
    if any(window.sliding and window.per != PlanWindow.Per.FIVE_HOURS for window in terms.windows):
        raise Invalid("only a window of 5h may slide")
    if Outcome.COMPLETE in free(terms.outcomes):
        raise Invalid("outcome `complete` cannot be free")
    if terms.components:
        total = sum((c.price.amount for c in terms.components), Decimal(0))
        if total != terms.price.amount:
            raise Invalid(f"the components cost {total} together, the plan {terms.price.amount}")


def _check_tiers(terms: PlanTerms) -> None:
    if bool(terms.tiers) != bool(terms.tier_mode):
        raise Invalid("overage.tier_mode says how overage.tiers are counted")
    if not terms.tiers:
        return
    if terms.on_exhaustion != Plan.OnExhaustion.METER:
        raise Invalid("overage.tiers are for on_exhaustion `meter`")
    if terms.price_per_million is not None:
        raise Invalid("overage has either price_per_million or tiers")
    *ends, last = [tier.up_to for tier in terms.tiers]
    if last is not None or None in ends:
        raise Invalid("the last of overage.tiers, and no other, has no up_to")
    if any(not below < end for below, end in pairwise([0, *(end or 0 for end in ends)])):
        raise Invalid("each of overage.tiers reaches further than the one before")


def _check_others(operator: Operator, terms: PlanTerms) -> None:
    """The plans that a plan names: after its trial, and while it is paused."""
    if (terms.trial_days is None) != (not terms.converts_to):
        raise Invalid("a trial has days, and names the plan that goes on then")
    if terms.trial_days is not None and (
        terms.first_month != Plan.FirstMonth.FULL or terms.rollover != Plan.Rollover.NONE
    ):
        raise Invalid("a trial has no first_month and rolls nothing over")
    if terms.converts_to and newest_plan(operator.pk, terms.converts_to).trial_days is not None:
        raise Invalid("a trial goes on as a plan that is no trial")
    if terms.pause_plan:
        pause = newest_plan(operator.pk, terms.pause_plan)
        if not pause.suspends or pause.allowance or pause.trial_days is not None:
            raise Invalid("pause_plan suspends, and has neither allowance nor trial")


def check_currency(operator: Operator, *prices: Money) -> None:
    """Raises WrongCurrency for a price that is not in the operator's."""
    for price in prices:
        if price.currency.code != operator.currency:
            raise WrongCurrency(f"prices of this operator are in {operator.currency}")


def terms_of(plan: Plan) -> PlanTerms:
    """What a plan version says; two versions that say the same have equal terms."""
    return PlanTerms(
        name=plan.name,
        price=plan.price,
        allowance=plan.allowance,
        rate_card=plan.rate_card,
        cycle=plan.cycle,
        first_month=plan.first_month,
        collect=plan.collect,
        rollover=plan.rollover,
        on_exhaustion=plan.on_exhaustion,
        refund=plan.refund,
        trial_days=plan.trial_days,
        converts_to=plan.converts_to,
        pause_plan=plan.pause_plan,
        suspends=plan.suspends,
        price_per_million=plan.price_per_million,
        tier_mode=plan.tier_mode,
        block_units=plan.block_units,
        block_price=plan.block_price,
        cap=plan.cap,
        cap_units=plan.cap_units,
        degrade_model=plan.degrade_model,
        degrade_tokens_per_minute=plan.degrade_tokens_per_minute,
        requests_per_minute=plan.requests_per_minute,
        tokens_per_minute=plan.tokens_per_minute,
        limits_fail_closed=plan.limits_fail_closed,
        outcomes=plan.outcomes,
        tax_rate=plan.tax_rate,
        tax_category=plan.tax_category,
        components=tuple(
            Component(name=c.name, price=c.price, tax_rate=c.tax_rate, tax_category=c.tax_category)
            for c in sorted(plan.components.all(), key=lambda c: c.position)
        ),
        windows=windows_of(plan),
        tiers=tiers_of(plan),
    )


def newest_plans(operator_id: int, codes: Iterable[str]) -> dict[str, Plan]:
    """The newest version of each of these plans that exists, with its components."""
    plans = (
        Plan.objects.filter(operator_id=operator_id, code__in=set(codes))
        .order_by("code", "-version")
        .distinct("code")
        .prefetch_related("components", "windows", "tiers")
    )
    return {plan.code: plan for plan in plans}


def newest_plan(operator_id: int, code: str) -> Plan:
    """The newest version, on sale or not: what others go on as. Raises UnknownPlan."""
    plan = newest_plans(operator_id, [code]).get(code)
    if plan is None:
        raise UnknownPlan(f"there is no plan {code}")
    return plan


def plan_on_sale(operator_id: int, code: str) -> Plan:
    """The version that may be sold. Raises UnknownPlan, PlanRetired."""
    plan = newest_plan(operator_id, code)
    if is_retired(plan):
        raise PlanRetired(f"plan {code} is not sold any more")
    return plan


def plans_on_sale(operator_id: int, codes: Iterable[str] | None = None) -> list[Plan]:
    """The newest version of each plan that is sold, or of these, by code."""
    plans = Plan.objects.filter(operator_id=operator_id)
    if codes is not None:
        plans = plans.filter(code__in=set(codes))
    newest = plans.order_by("code", "-version").distinct("code")
    found = newest.select_related("retirement").prefetch_related("components", "windows", "tiers")
    return [plan for plan in found if not hasattr(plan, "retirement")]


def is_retired(plan: Plan) -> bool:
    return PlanRetirement.objects.filter(plan_id=plan.pk).exists()


@transaction.atomic
def retire_plan(operator: Operator, code: str, *, by: str, reason: str, at: dt.datetime) -> Plan:
    """Take a plan off sale: nobody new can hold it, who holds it keeps it. A further version is on
    sale again. Again changes nothing. Raises UnknownPlan, Invalid without a reason."""
    if not by or not reason.strip():
        raise Invalid("a plan is retired by a person, for a reason")
    lock(operator)
    plan = newest_plan(operator.pk, code)
    PlanRetirement.objects.get_or_create(
        plan=plan, defaults={"retired_at": at, "retired_by": by, "reason": reason[:200]}
    )
    return plan


# Boosters ----------------------------------------------------------------------------------------


@transaction.atomic
def publish_booster(
    operator: Operator,
    code: str,
    *,
    name: str,
    price: Money,
    units: int,
    valid_days: int,
    at: dt.datetime,
) -> tuple[Booster, bool]:
    """The booster version that says this, and whether it was made now. `units` in thousandths."""
    check_currency(operator, price)
    lock(operator)
    newest = _newest_booster(operator.pk, code)
    if newest is not None and (newest.name, newest.price, newest.units, newest.valid_days) == (
        name,
        price,
        units,
        valid_days,
    ):
        return newest, False
    booster = Booster.objects.create(
        operator=operator,
        code=code,
        version=newest.version + 1 if newest else 1,
        name=name,
        price=price,
        units=units,
        valid_days=valid_days,
        created_at=at,
    )
    return booster, True


def newest_booster(operator_id: int, code: str) -> Booster:
    """The version on sale. Raises UnknownBooster."""
    booster = _newest_booster(operator_id, code)
    if booster is None:
        raise UnknownBooster(f"there is no booster {code}")
    return booster


def _newest_booster(operator_id: int, code: str) -> Booster | None:
    return Booster.objects.filter(operator_id=operator_id, code=code).order_by("-version").first()


# Rate cards --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, order=True)
class Weight:
    """Units per token of each exclusive class, for the models that `model` matches."""

    model: str
    input: Decimal
    cached_input: Decimal
    cache_write: Decimal
    output: Decimal
    reasoning: Decimal


@transaction.atomic
def publish_rate_card(
    operator: Operator,
    code: str,
    *,
    effective_from: dt.datetime,
    weights: Sequence[Weight],
    charged_since: Callable[[Sequence[int], dt.datetime], bool],
    at: dt.datetime,
) -> tuple[RateCard, bool]:
    """The card version that says this, and whether it was made now.

    `charged_since(card_ids, instant)` answers whether usage of that instant or later was charged
    by one of these card versions; it is asked while no charge of the operator can be under way.
    Raises UsageAlreadyCharged where it was (units are computed once: re-rating exists for that),
    Invalid for a pattern named twice.
    """
    patterns = {weight.model for weight in weights}
    if len(patterns) != len(weights):
        raise Invalid("a model pattern stands in `weights` more than once")
    clock.lock_exclusive(operator.pk)
    cards = list(RateCard.objects.filter(operator=operator, code=code).order_by("-version"))
    newest = cards[0] if cards else None
    if (
        newest is not None
        and newest.effective_from == effective_from
        and weights_of(newest) == sorted(weights)
    ):
        return newest, False
    if cards and charged_since([card.pk for card in cards], effective_from):
        raise UsageAlreadyCharged(
            f"usage at or after {effective_from.isoformat()} has been charged by this card;"
            " let the version begin later"
        )
    card = RateCard.objects.create(
        operator=operator,
        code=code,
        version=newest.version + 1 if newest else 1,
        effective_from=effective_from,
        created_at=at,
    )
    RateCardWeight.objects.bulk_create(
        RateCardWeight(
            rate_card=card,
            model=weight.model,
            input=weight.input,
            cached_input=weight.cached_input,
            cache_write=weight.cache_write,
            output=weight.output,
            reasoning=weight.reasoning,
        )
        for weight in weights
    )
    return card, True


def weights_of(card: RateCard) -> list[Weight]:
    """A card's weights, sorted by pattern."""
    return sorted(
        Weight(w.model, w.input, w.cached_input, w.cache_write, w.output, w.reasoning)
        for w in card.weights.all()
    )


def lock(operator: Operator) -> None:
    """One publication at a time, so that two of them never make the same version number."""
    Operator.objects.select_for_update(no_key=True).get(pk=operator.pk)
