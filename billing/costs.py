"""What usage costs the operator: suppliers, their dated prices, and each day's usage priced.

The only writer of Supplier, SupplierGateway, CostCard, CostPrice, CostDay and CostEntry. A day is
priced when it is over, from its records and what was adjusted of them, and again whenever there is
more of it; what changes is written as further entries, so that nothing that was said is unsaid.
Nothing is rounded here.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple
from zoneinfo import ZoneInfo

from django.db import connection, transaction
from django.db.models import F, Max, QuerySet, Sum

from billing import rating
from billing.due import RECORDS_KEPT
from billing.models import (
    CostCard,
    CostDay,
    CostEntry,
    CostPrice,
    Settlement,
    Supplier,
    SupplierGateway,
)
from metering.weighing import matches
from subscriptions import advisory, periods
from subscriptions.advisory import Lock
from subscriptions.errors import Conflict, Invalid, NotFound
from subscriptions.models import Gateway, Operator
from subscriptions.outcomes import USUALLY_FREE

DAY = dt.timedelta(days=1)
CLASSES = ("uncached_input", "cached_input", "cache_write", "output", "reasoning")
_TOKENS = tuple(f"{name}_tokens" for name in CLASSES)
_SUMMED = ("requests", *_TOKENS, "units", "cost")


def lock(operator_id: int) -> None:
    """Let nobody else price or settle this operator's days until the transaction ends."""
    advisory.take(Lock.COSTS, operator_id)


# Suppliers and prices ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Price:
    """Money per million tokens of each class, of the models that `model` names."""

    model: str
    uncached_input: Decimal
    cached_input: Decimal
    cache_write: Decimal
    output: Decimal
    reasoning: Decimal


def supplier_named(operator: Operator, code: str) -> Supplier:
    """Raises NotFound, also for another operator's."""
    supplier = Supplier.objects.filter(operator=operator, code=code).first()
    if supplier is None:
        raise NotFound(f"{operator.code} has no supplier {code}")
    return supplier


@transaction.atomic
def publish(
    operator: Operator,
    code: str,
    prices: Sequence[Price],
    *,
    effective_from: dt.date,
    at: dt.datetime,
    name: str = "",
    gateways: Iterable[str] = (),
    settles_with: str = "",
) -> CostCard:
    """A new version of a supplier's prices; the supplier is made where it is new.

    `gateways` are those all of whose models this supplier runs from that day on; they are added.
    Days from `effective_from` on are priced again. Raises Conflict where such a day is settled
    already, Invalid for names that are none.
    """
    if not prices:
        raise Invalid("a card needs a price")
    lock(operator.pk)
    supplier, _ = Supplier.objects.get_or_create(
        operator=operator, code=code, defaults={"name": name or code}
    )
    settled = Settlement.objects.filter(supplier=supplier).aggregate(last=Max("month"))["last"]
    if settled is not None and effective_from < (free := month_after(settled)):
        raise Conflict(
            f"{code} is settled up to {free}: prices may change from that day on, not from"
            f" {effective_from}"
        )
    if name and name != supplier.name:
        supplier.name = name
    if settles_with:
        other = Operator.objects.filter(code=settles_with).exclude(pk=operator.pk).first()
        if other is None:
            raise Invalid(f"there is no other operator {settles_with}")
        supplier.settles_with = other
    supplier.save(update_fields=["name", "settles_with"])
    _assign(operator, supplier, gateways, effective_from)
    before = CostCard.objects.filter(supplier=supplier).aggregate(last=Max("version"))["last"] or 0
    card = CostCard.objects.create(
        supplier=supplier, version=before + 1, effective_from=effective_from, created_at=at
    )
    CostPrice.objects.bulk_create(
        CostPrice(card=card, model=price.model, **{name: getattr(price, name) for name in CLASSES})
        for price in prices
    )
    CostDay.objects.filter(operator=operator, day__gte=effective_from).update(stale=True)
    return card


def _assign(
    operator: Operator, supplier: Supplier, names: Iterable[str], effective_from: dt.date
) -> None:
    for name in names:
        gateway = Gateway.objects.filter(operator=operator, name=name).first()
        if gateway is None:
            raise Invalid(f"{operator.code} has no gateway {name}")
        assigned, _ = SupplierGateway.objects.get_or_create(
            gateway=gateway, defaults={"supplier": supplier, "effective_from": effective_from}
        )
        if assigned.supplier_id != supplier.pk:
            raise Conflict(f"gateway {name} is another supplier's")


class _Priced(NamedTuple):
    """A price that may hold on a day."""

    order: tuple[int, int, str, str]  # the longest pattern first, as rate cards have it
    price: CostPrice
    supplier_id: int


class _Prices:
    """The prices of one day."""

    def __init__(self, operator_id: int, day: dt.date) -> None:
        cards: dict[int, CostCard] = {}
        rows = CostCard.objects.filter(supplier__operator_id=operator_id, effective_from__lte=day)
        for card in rows.select_related("supplier").order_by("effective_from", "version"):
            cards[card.supplier_id] = card
        self._assigned = dict(
            SupplierGateway.objects.filter(
                supplier__operator_id=operator_id, effective_from__lte=day
            ).values_list("gateway_id", "supplier_id")
        )
        by_card = {card.pk: card for card in cards.values()}
        # A gateway of no supplier's own is anybody's who is not bound to gateways.
        self._bound: dict[int | None, list[_Priced]] = defaultdict(list)
        bound = set(self._assigned.values())
        for price in CostPrice.objects.filter(card_id__in=by_card):
            card = by_card[price.card_id]
            pattern = price.model
            order = (-len(pattern), pattern.count("*"), card.supplier.code, pattern)
            key = card.supplier_id if card.supplier_id in bound else None
            self._bound[key].append(_Priced(order, price, card.supplier_id))
        for priced in self._bound.values():
            priced.sort(key=lambda one: one.order)

    def of(self, gateway_id: int, model: str) -> tuple[CostPrice, int] | None:
        """The price of a model that a gateway told of, and whose it is."""
        for one in self._bound.get(self._assigned.get(gateway_id), ()):
            if matches(one.price.model, model):
                return one.price, one.supplier_id
        return None


# Pricing days ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Due:
    """A day to be priced, and what there is of it."""

    day: dt.date
    batches: int
    adjustments: int


# What there is of a day only ever grows. It is counted before it is read: whatever is committed in
# between is counted the next time, and then read again.
_DUE_SQL = """
SELECT d.day, f.batches, f.adjustments
FROM unnest(%(days)s::date[], %(since)s::timestamptz[], %(until)s::timestamptz[])
     AS d (day, since, until)
CROSS JOIN LATERAL (
    SELECT (SELECT count(*) FROM metering_usagebatch b
            WHERE b.operator_id = %(operator)s AND b.occurred_from < d.until
              AND b.occurred_to >= d.since) AS batches,
           (SELECT count(*) FROM metering_adjustment a
            WHERE a.operator_id = %(operator)s AND a.occurred_from < d.until
              AND a.occurred_to >= d.since) AS adjustments
) f
LEFT JOIN billing_costday c ON c.operator_id = %(operator)s AND c.day = d.day
WHERE c.day IS NULL OR c.stale OR c.batches <> f.batches OR c.adjustments <> f.adjustments
ORDER BY d.day
"""
_FIRST_SQL = "SELECT min(occurred_from) FROM metering_usagebatch WHERE operator_id = %s"


def due(operator: Operator, *, at: dt.datetime) -> list[_Due]:
    """The days that are over and not priced as they are now, of those whose records are kept."""
    zone = ZoneInfo(operator.time_zone)
    with connection.cursor() as cursor:
        cursor.execute(_FIRST_SQL, [operator.pk])
        first = cursor.fetchone()[0]
        if first is None:
            return []
        day = periods.day_of(max(first, at - RECORDS_KEPT + DAY), zone) + DAY * (
            first < at - RECORDS_KEPT + DAY
        )
        days = []
        while day < periods.day_of(at, zone):
            days.append(day)
            day += DAY
        cursor.execute(
            _DUE_SQL,
            {
                "operator": operator.pk,
                "days": days,
                "since": [periods.midnight(day, zone) for day in days],
                "until": [periods.midnight(day + DAY, zone) for day in days],
            },
        )
        return [_Due(*row) for row in cursor.fetchall()]


def price_due(operator: Operator, *, at: dt.datetime) -> int:
    """Price every day that is due, each in a transaction of its own; answers how many."""
    many = 0
    for one in due(operator, at=at):
        _price(operator, one, at=at)
        many += 1
    return many


# Periods of a subscriber that overlap (one was cut short) count until the next begins. What ended
# in a way that costs no tokens of a supplier's is left out.
_USAGE_SQL = """
WITH span AS (
    SELECT subscriber_id, starts_at, plan_id,
           least(ends_at, lead(starts_at) OVER (
               PARTITION BY subscriber_id ORDER BY starts_at, subscription_id)) AS ends_at
    FROM subscriptions_subscriptionperiod
    WHERE operator_id = %(operator)s AND starts_at < %(until)s AND ends_at > %(since)s
), used AS (
    SELECT subscriber_id, gateway_id, occurred_at, model, 1 AS requests, uncached_input_tokens,
           cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, units
    FROM metering_usagerecord
    WHERE occurred_at >= %(since)s AND occurred_at < %(until)s
      AND gateway_id = ANY(%(gateways)s) AND outcome <> ALL(%(free)s)
    UNION ALL
    SELECT subscriber_id, gateway_id, occurred_at, model, requests, uncached_input_tokens,
           cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, units
    FROM metering_adjustedrecord
    WHERE occurred_at >= %(since)s AND occurred_at < %(until)s
      AND gateway_id = ANY(%(gateways)s) AND outcome <> ALL(%(free)s)
)
SELECT coalesce(p.code, ''), u.gateway_id, u.model, sum(u.requests)::bigint,
       sum(u.uncached_input_tokens)::bigint, sum(u.cached_input_tokens)::bigint,
       sum(u.cache_write_tokens)::bigint, sum(u.output_tokens)::bigint,
       sum(u.reasoning_tokens)::bigint, sum(u.units)::bigint
FROM used u
LEFT JOIN span s ON s.subscriber_id = u.subscriber_id
 AND s.starts_at <= u.occurred_at AND u.occurred_at < s.ends_at
LEFT JOIN subscriptions_plan p ON p.id = s.plan_id
GROUP BY 1, 2, 3
"""
_Key = tuple[str, int, str, int | None]  # plan, gateway, model, price


@transaction.atomic
def _price(operator: Operator, one: _Due, *, at: dt.datetime) -> None:
    """Write what a day's usage is more than its entries say."""
    lock(operator.pk)
    zone = ZoneInfo(operator.time_zone)
    gateways = list(Gateway.objects.filter(operator=operator).values_list("pk", flat=True))
    with connection.cursor() as cursor:
        cursor.execute(
            _USAGE_SQL,
            {
                "operator": operator.pk,
                "since": periods.midnight(one.day, zone),
                "until": periods.midnight(one.day + DAY, zone),
                "gateways": gateways,
                "free": sorted(USUALLY_FREE),
            },
        )
        used = cursor.fetchall()
    prices = _Prices(operator.pk, one.day)
    suppliers: dict[int | None, int | None] = {None: None}
    wanted: dict[_Key, list[Decimal | int]] = {}
    for plan, gateway_id, model, requests, *counts in used:
        *tokens, units = counts
        price_id, cost = None, Decimal(0)
        found = prices.of(gateway_id, model)
        if found is not None:
            price, supplier_id = found
            price_id, cost = price.pk, cost_of(price, tokens)
            suppliers[price_id] = supplier_id
        key: _Key = (plan, gateway_id, model, price_id)
        wanted[key] = [requests, *tokens, units, cost]
    held = (
        CostEntry.objects.filter(operator=operator, day=one.day)
        .values_list("plan", "gateway_id", "model", "price_id", "supplier_id")
        .annotate(*(Sum(name) for name in _SUMMED))
    )
    for plan, gateway_id, model, price_id, supplier_id, *sums in held:
        key = (plan, gateway_id, model, price_id)
        suppliers[price_id] = supplier_id
        now = wanted.get(key, [0] * len(sums))
        wanted[key] = [a - b for a, b in zip(now, sums, strict=True)]
    CostEntry.objects.bulk_create(
        CostEntry(
            operator=operator,
            day=one.day,
            plan=key[0],
            gateway_id=key[1],
            model=key[2],
            price_id=key[3],
            supplier_id=suppliers[key[3]],
            **dict(zip(_SUMMED, more, strict=True)),
        )
        for key, more in sorted(wanted.items(), key=lambda item: (*item[0][:3], item[0][3] or 0))
        if any(more)
    )
    CostDay.objects.update_or_create(
        operator=operator,
        day=one.day,
        defaults={
            "batches": one.batches,
            "adjustments": one.adjustments,
            "stale": False,
            "priced_at": at,
        },
    )


def cost_of(price: CostPrice, tokens: Sequence[int]) -> Decimal:
    """Tokens of each class times their price, exact."""
    per_million = sum(
        (getattr(price, name) * many for name, many in zip(CLASSES, tokens, strict=True)),
        Decimal(0),
    )
    return per_million.scaleb(-6)


def settle(entries: QuerySet[CostEntry], settlement: Settlement) -> None:
    """Note which statement says these entries; for good."""
    entries.update(settlement=settlement)


# Reading -----------------------------------------------------------------------------------------


def local_day(operator: Operator, at: dt.datetime) -> dt.date:
    return periods.day_of(at, ZoneInfo(operator.time_zone))


def month_after(month: dt.date) -> dt.date:
    """The first day of the month after that of a day."""
    return dt.date(month.year + month.month // 12, month.month % 12 + 1, 1)


class Margin(NamedTuple):
    """What a plan or model earned without tax, and cost; `unpriced` tokens cost nobody knows what.

    `by` is empty for usage without a plan, and for what a plan earned without any usage.
    """

    by: str
    requests: int
    tokens: int
    unpriced: int
    revenue: Decimal
    cost: Decimal

    @property
    def margin(self) -> Decimal:
        return self.revenue - self.cost


# An invoice counts by the share of its period that lies in the span; a credit note as its original.
_REVENUE_SQL = """
SELECT p.code, round(sum(i.net * (extract(epoch FROM least(i.period_end, %(until)s)
                                          - greatest(i.period_start, %(since)s))
                                  / extract(epoch FROM i.period_end - i.period_start))), 2)
FROM billing_invoice i
JOIN subscriptions_plan p ON p.id = i.plan_id
WHERE i.operator_id = %(operator)s AND i.number IS NOT NULL AND i.state <> 'void'
  AND i.currency = %(currency)s AND i.period_start < %(until)s AND i.period_end > %(since)s
GROUP BY 1
"""


def margin(operator: Operator, by: str, *, since: dt.date, until: dt.date) -> list[Margin]:
    """By `plan` or `model`: what was earned and what it cost, of days in `[since, until)`.

    Revenue is that of the invoices issued by now. Of a model it is its share of what each plan
    earned, by the units that it drew.
    """
    if since >= until:
        raise Invalid("from must be before until")
    zone = ZoneInfo(operator.time_zone)
    with connection.cursor() as cursor:
        cursor.execute(
            _REVENUE_SQL,
            {
                "operator": operator.pk,
                "currency": operator.currency,
                "since": periods.midnight(since, zone),
                "until": periods.midnight(until, zone),
            },
        )
        revenue: dict[str, Decimal] = dict(cursor.fetchall())
    tokens = sum((F(name) for name in _TOKENS[1:]), F(_TOKENS[0]))
    rows = list(
        CostEntry.objects.filter(operator=operator, day__gte=since, day__lt=until)
        .values_list("plan", "model", "price_id")
        .annotate(Sum("requests"), used=Sum(tokens), drawn=Sum("units"), costs=Sum("cost"))
    )
    earned = _by_model(rows, revenue) if by == "model" else revenue
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    spent: dict[str, Decimal] = defaultdict(Decimal)
    for plan, model, price_id, requests, used, _, cost in rows:
        key = model if by == "model" else plan
        for nr, more in enumerate((requests, used, used if price_id is None else 0)):
            counts[key][nr] += more
        spent[key] += cost
    found = []
    for key in sorted({*earned, *spent}):
        requests, used, unpriced = counts[key]
        row = Margin(key, requests, used, unpriced, earned.get(key, Decimal(0)), spent[key])
        found.append(row)
    return found


def _by_model(
    rows: Iterable[tuple[object, ...]], revenue: dict[str, Decimal]
) -> dict[str, Decimal]:
    """Each plan's revenue spread over its models by their units."""
    units: dict[str, dict[str, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    for plan, model, _, _, _, drawn, _ in rows:
        units[str(plan)][str(model)] += Decimal(str(drawn))
    earned: dict[str, Decimal] = defaultdict(Decimal)
    for plan, amount in revenue.items():
        drawn = {model: many for model, many in units[plan].items() if many > 0}
        shares = rating.spread(amount, list(drawn.values())) if drawn else [amount]
        for model, share in zip(drawn or [""], shares, strict=True):
            earned[model] += share
    return earned
