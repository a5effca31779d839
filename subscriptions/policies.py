"""What a plan version lets happen when its buckets run dry, as plain numbers for the charge."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

from subscriptions import outcomes
from subscriptions.models import Plan
from subscriptions.units import MAX_UNITS, THOUSANDTHS

HALF_A_FEN = Decimal("0.005")
MILLION = 1_000_000


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """At most so many units (thousandths) per `5h`, `day`, `week` or `month`; `5h` may slide."""

    per: str
    units: int
    sliding: bool = False


@dataclass(frozen=True, slots=True)
class Tier:
    """Up to `up_to` thousandths (None: without end) at a price per million units."""

    up_to: int | None
    price_per_million: Decimal


@dataclass(frozen=True, slots=True)
class PlanPolicy:
    """One plan version, as the charge needs it; units in thousandths.

    `overage_units` is the cap of the overage bucket (None: no cap) where usage is metered,
    `max_blocks` how many packs a period may buy (None: no limit). `degrade_model` and
    `degrade_tokens_per_minute` are what it degrades to, as far as the plan says. Usage that ended
    with one of `free_outcomes` is charged nothing. While it `suspends`, usage draws no bucket of
    the subscriber's own.
    """

    plan_id: int
    rate_card: str
    on_exhaustion: str
    overage_units: int | None
    block_units: int
    max_blocks: int | None
    degrade_model: str = ""
    degrade_tokens_per_minute: int | None = None
    windows: tuple[Window, ...] = ()
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    limits_fail_closed: bool = False
    free_outcomes: frozenset[str] = outcomes.USUALLY_FREE
    suspends: bool = False


@functools.lru_cache(maxsize=10_000)
def policy_of(plan_id: int) -> PlanPolicy:
    """The policy of a plan version. Versions never change, so it is remembered for good."""
    return policy_from(Plan.objects.get(pk=plan_id))


def policy_from(plan: Plan) -> PlanPolicy:
    cap = plan.cap.amount if plan.cap is not None else None
    return PlanPolicy(
        plan_id=plan.pk,
        rate_card=plan.rate_card,
        on_exhaustion=plan.on_exhaustion,
        overage_units=overage_cap(
            cap, plan.price_per_million, plan.cap_units, tiers_of(plan), plan.tier_mode
        ),
        block_units=plan.block_units or 0,
        max_blocks=block_cap(
            cap,
            plan.block_price.amount if plan.block_price is not None else None,
            plan.cap_units,
            plan.block_units,
        ),
        degrade_model=plan.degrade_model,
        degrade_tokens_per_minute=plan.degrade_tokens_per_minute,
        windows=windows_of(plan),
        requests_per_minute=plan.requests_per_minute,
        tokens_per_minute=plan.tokens_per_minute,
        limits_fail_closed=plan.limits_fail_closed,
        free_outcomes=outcomes.free(plan.outcomes),
        suspends=plan.suspends,
    )


def windows_of(plan: Plan) -> tuple[Window, ...]:
    """A plan version's windows, in a fixed order."""
    return tuple(sorted(Window(w.per, w.units, w.sliding) for w in plan.windows.all()))


def tiers_of(plan: Plan) -> tuple[Tier, ...]:
    """A plan version's overage tiers, the lowest first."""
    rows = sorted(plan.tiers.all(), key=lambda tier: tier.position)
    return tuple(Tier(tier.up_to, tier.price_per_million) for tier in rows)


def price_of(
    units: int,
    price_per_million: Decimal | None,
    tiers: Sequence[Tier] = (),
    *,
    graduated: bool = True,
) -> Decimal:
    """The exact price of thousandths of a unit of overage; tiers, the lowest first, stand in the
    place of the price."""
    if not tiers:
        tiers = [Tier(None, price_per_million or Decimal(0))]
    amount, below = Decimal(0), 0
    for tier in tiers:
        last = tier.up_to is None or units <= tier.up_to
        if not graduated and last:
            return tier.price_per_million * units / (MILLION * THOUSANDTHS)
        upper = units if tier.up_to is None else min(units, tier.up_to)
        amount += tier.price_per_million * (upper - below) / (MILLION * THOUSANDTHS)
        below = upper
        if last:
            return amount
    raise ValueError("the last tier of an overage price has no end")


def overage_cap(
    cap: Decimal | None,
    price_per_million: Decimal | None,
    cap_units: int | None,
    tiers: Sequence[Tier] = (),
    tier_mode: str = "",
) -> int | None:
    """The most thousandths of a unit whose price, rounded half up to the fen, is <= `cap`.

    The lower of that and `cap_units`; None where neither limits. Tiers stand in the place of the
    price. Under `volume` fewer units may cost more than the cap: a bill stops at it.
    """
    limits = [] if cap_units is None else [cap_units]
    if cap is not None:
        if not tiers:
            tiers = [Tier(None, price_per_million or Decimal(0))]
        below = cap + HALF_A_FEN  # the exact price of the units has to be
        most = (
            _most_by_volume(tiers, below)
            if tier_mode == Plan.TierMode.VOLUME
            else _most_graduated(tiers, below)
        )
        if most is not None:
            limits.append(max(0, min(most, MAX_UNITS)))
    return min(limits) if limits else None


def _most_for(below: Decimal, price_per_million: Decimal) -> int | None:
    """The most thousandths at a price whose exact sum is < `below`; None: without end."""
    if not price_per_million:
        return None
    exclusive = below * MILLION * THOUSANDTHS / price_per_million
    return int(exclusive.to_integral_value(ROUND_CEILING)) - 1


def _most_graduated(tiers: Sequence[Tier], below: Decimal) -> int | None:
    start = 0
    for tier in tiers:
        more = _most_for(below, tier.price_per_million)
        if more is not None and (tier.up_to is None or start + more < tier.up_to):
            return start + more
        if tier.up_to is None:
            return None
        below -= tier.price_per_million * (tier.up_to - start) / (MILLION * THOUSANDTHS)
        start = tier.up_to
    raise AssertionError("the last tier has no end")


def _most_by_volume(tiers: Sequence[Tier], below: Decimal) -> int | None:
    starts = [0, *(tier.up_to or 0 for tier in tiers)]
    for start, tier in reversed(list(zip(starts, tiers, strict=False))):
        most = _most_for(below, tier.price_per_million)
        if most is None or (tier.up_to is not None and most > tier.up_to):
            most = tier.up_to
        if most is None or most > start:
            return most
    return 0


def block_cap(
    cap: Decimal | None,
    block_price: Decimal | None,
    cap_units: int | None,
    block_units: int | None,
) -> int | None:
    """How many whole blocks both caps allow; None where neither limits."""
    limits = []
    if cap is not None and block_price:
        limits.append(int(cap // block_price))
    if cap_units is not None and block_units:
        limits.append(cap_units // block_units)
    return min(limits) if limits else None
