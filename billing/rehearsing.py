"""A month that has been, under a plan or a rate card that may be: who would have paid more, who
less, and what it would have brought.

Each period that began in the month is priced twice from the same units, under its own plan version
and under the other, by the rules that bills are made by; what lies beside the plan (boosters,
gifts, rollover, coupons) is in neither. Where the other weighs by another card, a model's units
change as its tokens would, by the share of them that was charged. Another version of a rate card
is tried on the periods of those plans that weigh by it, which stay as they are otherwise. Nothing
is written.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple
from zoneinfo import ZoneInfo

from django.db import connection
from django.db.models import Sum

from billing import invoicing, rating
from billing.models import CostEntry
from billing.rating import Tariff
from metering.weighing import Cards, CardVersion, Weight, cards_of, drafted
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


class NewCard(NamedTuple):
    """A version of a rate card that is only drafted."""

    code: str
    version: CardVersion


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
    """A plan version whose components, tiers and windows are at hand: nothing is asked for."""
    return Offer(invoicing.tariff_from(plan), policies.policy_from(plan), plan.allowance)


def offer_drafted(
    operator: Operator, code: str, terms: catalog.PlanTerms, *, at: dt.datetime
) -> Offer:
    """What a version of these terms would be. Raises what `catalog.publish_plan` raises."""
    catalog.check_terms(operator, terms)
    catalog.check_rate_card(operator, terms.rate_card)
    return offer_of(catalog.drafted(operator, code, terms, at=at))


def _offers(plan_ids: Collection[int]) -> dict[int, Offer]:
    """Plan versions that are there, by their ids."""
    if not plan_ids:
        return {}
    plans = Plan.objects.filter(pk__in=plan_ids)
    parts = plans.prefetch_related("components", "windows", "tiers")
    return {plan.pk: offer_of(plan) for plan in parts}


def card_drafted(code: str, weights: Sequence[catalog.Weight], *, at: dt.datetime) -> NewCard:
    """What a version of these weights would be."""
    return NewCard(code, drafted(weights, at))


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
    other: Offer | NewCard,
    *,
    month: dt.date,
    at: dt.datetime,
    each: int = 1,
    subscriber_id: int | None = None,
) -> Iterator[Outcome]:
    """Every period that began in a month and is over, or of each `each`th subscriber; by
    subscriber, a slice in memory at a time; of another card only those that it weighs. Raises
    Invalid for a month that has not begun."""
    since, until = _span(operator, month, at=at)
    cards = _cards(operator)
    own: dict[int, Offer] = {}
    after = 0
    while True:
        grouped = _begun(
            operator, since, until, at=at, each=each, subscriber_id=subscriber_id, after=after
        )
        keys = list(grouped)
        own |= _offers({plan_id for _, _, plan_id in keys} - own.keys())
        # The last subscriber may have more periods in the next slice: it comes whole there.
        last = keys[-1][0] if len(keys) == _SLICE else None
        if last is not None and keys[0][0] == last:
            last = None
        for key in keys:
            subscriber, starts_at, plan_id = key
            if subscriber == last:
                continue
            after = subscriber
            mine = own[plan_id]
            old = cards.version_at(mine.policy.rate_card, starts_at)
            if isinstance(other, Offer):
                offer, new = other, cards.version_at(other.policy.rate_card, starts_at)
            elif mine.policy.rate_card == other.code:
                offer, new = mine, other.version
            else:
                continue
            units = sum(counted[0] for _, counted in grouped[key])
            then = _weighed(grouped[key], old, new)
            yield Outcome(
                subscriber,
                starts_at,
                mine.tariff.code,
                units,
                then,
                priced(mine, units),
                priced(offer, then),
            )
        if len(keys) < _SLICE:
            return


def _span(
    operator: Operator, month: dt.date, *, at: dt.datetime
) -> tuple[dt.datetime, dt.datetime]:
    """A month of the operator's. Raises Invalid for one that has not begun."""
    zone = ZoneInfo(operator.time_zone)
    since = periods.midnight(month.replace(day=1), zone)
    if since >= at:
        raise Invalid("that month has not begun")
    return since, periods.month_start(since + dt.timedelta(days=32), zone)


def _cards(operator: Operator) -> Cards:
    stamp = RateCard.objects.filter(operator=operator).order_by("-pk").values_list("pk").first()
    return cards_of(operator.pk, stamp[0] if stamp else 0)


Begun = tuple[int, dt.datetime, int]  # (subscriber, start, plan version)
Used = list[tuple[str | None, Sequence[int]]]  # by model: units, then tokens by class


def _begun(
    operator: Operator,
    since: dt.datetime,
    until: dt.datetime,
    *,
    at: dt.datetime,
    each: int,
    subscriber_id: int | None,
    after: int,
) -> dict[Begun, Used]:
    """A slice of the periods that began in a span and are over, and what was used in each."""
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
    grouped: dict[Begun, Used] = {}
    for subscriber, starts_at, plan_id, model, *counted in rows:
        grouped.setdefault((subscriber, starts_at, plan_id), []).append((model, counted))
    return grouped


class Lived(NamedTuple):
    """A period that is over: what its own plan asked for it, and what each of some offers would
    have, with the units by the offer's card."""

    starts_at: dt.datetime
    plan_id: int
    units: int
    now: Priced
    then: list[tuple[int, Priced]]


def of_one(
    operator: Operator,
    offers: Sequence[Offer],
    subscriber_id: int,
    *,
    month: dt.date,
    at: dt.datetime,
) -> list[Lived]:
    """One subscriber's periods that began in a month and are over, under each of these offers; in
    a handful of statements, however many offers there are. Raises Invalid as `outcomes` does."""
    since, until = _span(operator, month, at=at)
    cards = _cards(operator)
    found = []
    grouped = _begun(operator, since, until, at=at, each=1, subscriber_id=subscriber_id, after=0)
    known = {offer.tariff.plan_id: offer for offer in offers}
    known |= _offers({plan_id for _, _, plan_id in grouped} - known.keys())
    for (_, starts_at, plan_id), used in grouped.items():
        mine = known[plan_id]
        units = sum(counted[0] for _, counted in used)
        old = cards.version_at(mine.policy.rate_card, starts_at)
        then = []
        for offer in offers:
            new = cards.version_at(offer.policy.rate_card, starts_at)
            weighed = _weighed(used, old, new)
            then.append((weighed, priced(offer, weighed)))
        found.append(Lived(starts_at, plan_id, units, priced(mine, units), then))
    return found


def _weighed(used: Used, old: CardVersion | None, new: CardVersion | None) -> int:
    """The units of a period that the old card weighed, by the new one."""
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
    other: Offer | NewCard,
    *,
    month: dt.date,
    at: dt.datetime,
    each: int = 1,
    subscriber_id: int | None = None,
    most: int | None = None,
) -> Rehearsal:
    """All outcomes of a month, added up. Raises Invalid for another currency, and for more than
    `most` periods."""
    if isinstance(other, Offer) and other.tariff.currency != operator.currency:
        raise Invalid(f"a rehearsal is in {operator.currency}")
    found = Rehearsal(operator.currency)
    for one in outcomes(
        operator, other, month=month, at=at, each=each, subscriber_id=subscriber_id
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
