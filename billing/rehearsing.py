"""A month that has been, under a plan that may be: who would have paid more, who less, and what it
would have brought.

Each period that began in the month is priced twice from the same units, under its own plan version
and under the other, by the rules that bills are made by; what lies beside the plan (boosters,
gifts, rollover, coupons) is in neither. Where the other plan weighs by another card, a model's
units change as its tokens would, by the share of them that was charged. Nothing is written.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple
from zoneinfo import ZoneInfo

from django.db import connection, transaction
from django.db.models import Sum

from billing import invoicing, rating
from billing.models import CostEntry
from billing.rating import Tariff
from metering.weighing import Cards, CardVersion, Weight, cards_of
from subscriptions import catalog, periods, policies
from subscriptions.errors import Invalid
from subscriptions.models import Operator, Plan, RateCard
from subscriptions.policies import PlanPolicy

_SLICE = 500
# Those who gain and lose most are shown by name.
SHOWN = 10


@dataclass(frozen=True, slots=True)
class Offer:
    """A plan version, sold or only drafted, as far as it prices usage."""

    tariff: Tariff
    policy: PlanPolicy
    allowance: int


class Priced(NamedTuple):
    """What a plan alone asks for units, and how many of them it would not have let happen."""

    gross: Decimal
    refused: int


class Outcome(NamedTuple):
    """One period under both; units are thousandths, `now` and `then` include tax."""

    subscriber_id: int
    starts_at: dt.datetime
    plan: str
    units: int
    units_then: int
    now: Priced
    then: Priced

    @property
    def change(self) -> Decimal:
        return self.then.gross - self.now.gross


@dataclass(slots=True)
class Rehearsal:
    """All outcomes added up. `cost` is what the units cost the operator on average in that month,
    of those that each plan would have let happen; 0 where nothing was priced."""

    currency: str
    periods: int = 0
    winners: int = 0
    losers: int = 0
    refused_now: int = 0
    refused_then: int = 0
    units_now: int = 0
    units_then: int = 0
    revenue_now: Decimal = rating.ZERO
    revenue_then: Decimal = rating.ZERO
    cost_now: Decimal = rating.ZERO
    cost_then: Decimal = rating.ZERO
    best: list[Outcome] = field(default_factory=list)
    worst: list[Outcome] = field(default_factory=list)

    def add(self, one: Outcome) -> None:
        self.periods += 1
        self.winners += one.change < 0
        self.losers += one.change > 0
        self.refused_now += one.now.refused > 0
        self.refused_then += one.then.refused > 0
        self.units_now += one.units - one.now.refused
        self.units_then += one.units_then - one.then.refused
        self.revenue_now += one.now.gross
        self.revenue_then += one.then.gross
        self.best = _extremes(self.best, one, -one.change)
        self.worst = _extremes(self.worst, one, one.change)


def _extremes(known: list[Outcome], one: Outcome, by: Decimal) -> list[Outcome]:
    if by <= 0 or (len(known) == SHOWN and abs(known[-1].change) >= by):
        return known
    return sorted([*known, one], key=lambda outcome: -abs(outcome.change))[:SHOWN]


# The two sides -----------------------------------------------------------------------------------


def offer_of(plan: Plan) -> Offer:
    """A plan version that is there."""
    return Offer(invoicing.tariff_of(plan.pk), policies.policy_of(plan.pk), plan.allowance)


def offer_drafted(
    operator: Operator, code: str, terms: catalog.PlanTerms, *, at: dt.datetime
) -> Offer:
    """What a version of these terms would be; it is made, looked at, and taken back.

    Raises what `catalog.publish_plan` raises.
    """
    with transaction.atomic():
        plan, _ = catalog.publish_plan(operator, code, terms, at=at)
        offer = offer_of(plan)
        transaction.set_rollback(True)
    return offer


def priced(offer: Offer, units: int) -> Priced:
    """What a whole period of an offer costs with these units."""
    tariff, policy = offer.tariff, offer.policy
    beyond = max(0, units - offer.allowance)
    if policy.on_exhaustion == Plan.OnExhaustion.METER:
        cap = policy.overage_units
        billed = beyond if cap is None else min(beyond, cap)
        return Priced(tariff.price + rating.overage_price(tariff, billed), beyond - billed)
    if policy.on_exhaustion == Plan.OnExhaustion.BLOCKS and beyond:
        most = policy.max_blocks
        held = beyond if most is None else min(beyond, most * policy.block_units)
        _, gross = rating.blocks_price(tariff, held)
        return Priced(tariff.price + gross, beyond - held)
    return Priced(tariff.price, beyond)


# The month ---------------------------------------------------------------------------------------

_PERIODS_SQL = """
WITH begun AS (
    SELECT p.subscriber_id, p.subscription_id, p.starts_at, p.ends_at, p.plan_id
    FROM subscriptions_subscriptionperiod p
    WHERE p.operator_id = %(operator)s AND p.subscriber_id > %(after)s
      AND p.starts_at >= %(since)s AND p.starts_at < %(until)s AND p.ends_at <= %(at)s
      AND p.subscriber_id %% %(each)s = 0
      AND (%(subscriber)s::bigint IS NULL OR p.subscriber_id = %(subscriber)s)
    ORDER BY p.subscriber_id, p.subscription_id, p.starts_at
    LIMIT %(limit)s
)
SELECT s.subscriber_id, s.starts_at, s.plan_id, h.model,
       coalesce(sum(h.units), 0)::bigint, coalesce(sum(h.uncached_input_tokens), 0)::bigint,
       coalesce(sum(h.cached_input_tokens), 0)::bigint,
       coalesce(sum(h.cache_write_tokens), 0)::bigint,
       coalesce(sum(h.output_tokens), 0)::bigint, coalesce(sum(h.reasoning_tokens), 0)::bigint
FROM begun s
LEFT JOIN metering_usagehour h
  ON h.subscriber_id = s.subscriber_id AND h.hour >= s.starts_at AND h.hour < s.ends_at
GROUP BY s.subscriber_id, s.subscription_id, s.starts_at, s.plan_id, h.model
ORDER BY s.subscriber_id, s.subscription_id, s.starts_at, h.model
"""


def outcomes(
    operator: Operator,
    offer: Offer,
    *,
    month: dt.date,
    at: dt.datetime,
    each: int = 1,
    subscriber_id: int | None = None,
) -> Iterator[Outcome]:
    """Every period that began in a month and is over, or of each `each`th subscriber; by
    subscriber, a slice in memory at a time. Raises Invalid for a month that has not begun."""
    zone = ZoneInfo(operator.time_zone)
    since = periods.midnight(month.replace(day=1), zone)
    until = periods.month_start(since + dt.timedelta(days=32), zone)
    if since >= at:
        raise Invalid("that month has not begun")
    stamp = RateCard.objects.filter(operator=operator).order_by("-pk").values_list("pk").first()
    cards = cards_of(operator.pk, stamp[0] if stamp else 0)
    own: dict[int, Offer] = {}
    after = 0
    while True:
        with connection.cursor() as cursor:
            cursor.execute(
                _PERIODS_SQL,
                {
                    "operator": operator.pk,
                    "after": after,
                    "since": since,
                    "until": until,
                    "at": at,
                    "each": each,
                    "subscriber": subscriber_id,
                    "limit": _SLICE,
                },
            )
            rows = cursor.fetchall()
        grouped: dict[tuple[int, dt.datetime, int], list[tuple[str | None, Sequence[int]]]] = {}
        for subscriber, starts_at, plan_id, model, *counted in rows:
            grouped.setdefault((subscriber, starts_at, plan_id), []).append((model, counted))
        keys = list(grouped)
        # The last subscriber may have more periods in the next slice: it comes whole there.
        last = keys[-1][0] if len(keys) == _SLICE else None
        if last is not None and keys[0][0] == last:
            last = None
        for key in keys:
            subscriber, starts_at, plan_id = key
            if subscriber == last:
                continue
            if plan_id not in own:
                own[plan_id] = offer_of(Plan.objects.get(pk=plan_id))
            mine = own[plan_id]
            units = sum(counted[0] for _, counted in grouped[key])
            then = _weighed(grouped[key], mine, offer, cards, starts_at)
            yield Outcome(
                subscriber,
                starts_at,
                mine.tariff.code,
                units,
                then,
                priced(mine, units),
                priced(offer, then),
            )
            after = subscriber
        if len(keys) < _SLICE:
            return


def _weighed(
    used: Sequence[tuple[str | None, Sequence[int]]],
    mine: Offer,
    offer: Offer,
    cards: Cards,
    at: dt.datetime,
) -> int:
    """The units of a period under the offer's card, as that stands at the period's start."""
    old = cards.version_at(mine.policy.rate_card, at)
    new = cards.version_at(offer.policy.rate_card, at)
    total = 0
    for model, (units, *tokens) in used:
        if model is None:
            continue
        if old is new or old is None or new is None or not units:
            total += units
        else:
            total += _reweighed(units, _units(old, model, tokens), _units(new, model, tokens))
    return total


def _reweighed(units: int, old: int, new: int) -> int:
    """The same share of what the tokens weigh now."""
    return units if not old else round(Decimal(units) * new / old)


def _units(card: CardVersion, model: str, tokens: Sequence[int]) -> int:
    weight: Weight | None = card.weight_of(model)
    if weight is None:
        return 0
    return sum(count * each for count, each in zip(tokens, weight[1:], strict=True))


def rehearse(
    operator: Operator,
    offer: Offer,
    *,
    month: dt.date,
    at: dt.datetime,
    each: int = 1,
    subscriber_id: int | None = None,
    most: int | None = None,
) -> Rehearsal:
    """All outcomes of a month, added up. Raises Invalid for another currency, and for more than
    `most` periods."""
    if offer.tariff.currency != operator.currency:
        raise Invalid(f"a rehearsal is in {operator.currency}")
    found = Rehearsal(operator.currency)
    for one in outcomes(
        operator, offer, month=month, at=at, each=each, subscriber_id=subscriber_id
    ):
        found.add(one)
        if most is not None and found.periods > most:
            raise Invalid(f"more than {most:,} periods: look at each nth subscriber")
    cost = _cost_of_a_unit(operator, month)
    found.cost_now = rating.to_fen(cost * found.units_now)
    found.cost_then = rating.to_fen(cost * found.units_then)
    return found


def _cost_of_a_unit(operator: Operator, month: dt.date) -> Decimal:
    """What a thousandth of a unit cost on average in a month."""
    first = month.replace(day=1)
    until = (first + dt.timedelta(days=32)).replace(day=1)
    sums = CostEntry.objects.filter(operator=operator, day__gte=first, day__lt=until).aggregate(
        cost=Sum("cost"), units=Sum("units")
    )
    return sums["cost"] / sums["units"] if sums["units"] else Decimal(0)
