"""Operators and offerings to begin with: what carriers sell in public, as data.

Prices, allowances and the pack of 1 yuan for 400,000 tokens are published (China Telecom, 17 May
2026; China Mobile in Shanghai). What happens beside them is chosen here, so that every policy the
platform has is on sale:

- the personal and family line runs by calendar month and rolls over one cycle, as mobile plans
  do; the developer line runs from the day of purchase and does not, as cloud plans do;
- Light stops when it is empty: the entry price must stay a fixed price. Standard buys packs
  of 400,000 by itself, Premium degrades, the developer line is metered: work in progress should
  not stop;
- overage costs what the pack costs (2.50 yuan a million) and at most the plan's own price again.

Nothing an operator has published since is touched: what is there stays as it is.
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

from django.db import transaction
from djmoney.money import Money

from subscriptions import catalog, reference_card
from subscriptions.catalog import PlanTerms
from subscriptions.models import Booster, Operator, Plan, RateCard
from subscriptions.units import THOUSANDTHS

RATE_CARD = "standard"
# Older than any usage there can be.
EFFECTIVE_FROM = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)

# Names are what people read in both languages: an operator has one.
OPERATORS = (
    ("ctcc-sh", "中国电信上海公司 China Telecom Shanghai"),
    ("cmcc-gd", "中国移动广东公司 China Mobile Guangdong"),
)
# Only China Telecom's plans are public in full.
SELLS_PLANS = "ctcc-sh"

_MILLION = 1_000_000 * THOUSANDTHS
_PACK_UNITS = 400_000 * THOUSANDTHS


def yuan(amount: str) -> Money:
    return Money(Decimal(amount), "CNY")


def _personal(name: str, price: str, millions: int, **terms: object) -> PlanTerms:
    return PlanTerms(
        name=name,
        price=yuan(price),
        allowance=millions * _MILLION,
        rate_card=RATE_CARD,
        cycle=Plan.Cycle.CALENDAR_MONTH,
        rollover=Plan.Rollover.ONE_CYCLE,
        **terms,  # type: ignore[arg-type]
    )


def _developer(name: str, price: str, millions: int) -> PlanTerms:
    return PlanTerms(
        name=name,
        price=yuan(price),
        allowance=millions * _MILLION,
        rate_card=RATE_CARD,
        cycle=Plan.Cycle.SUBSCRIPTION_DAY,
        on_exhaustion=Plan.OnExhaustion.METER,
        price_per_million=Decimal("2.50"),
        cap=yuan(price),
    )


PLANS: dict[str, PlanTerms] = {
    "light": _personal("轻享 Light", "9.90", 10),
    "standard": _personal(
        "标准 Standard",
        "29.90",
        40,
        on_exhaustion=Plan.OnExhaustion.BLOCKS,
        block_units=_PACK_UNITS,
        block_price=yuan("1.00"),
        cap=yuan("29.90"),
    ),
    "premium": _personal("尊享 Premium", "49.90", 80, on_exhaustion=Plan.OnExhaustion.DEGRADE),
    "developer-basic": _developer("开发者基础 Developer Basic", "39.90", 15),
    "developer-pro": _developer("开发者专业 Developer Pro", "159.90", 70),
    "developer-flagship": _developer("开发者旗舰 Developer Flagship", "299.90", 150),
}
# Code: name, price, packs of 400,000 units, days; the larger, the longer it lasts.
BOOSTERS: dict[str, tuple[str, str, int, int]] = {
    "booster-400k": ("小包 Small", "1.00", 1, 30),
    "booster-4m": ("大包 Large", "10.00", 10, 90),
    "booster-20m": ("超大包 Extra large", "50.00", 50, 365),
}


@transaction.atomic
def seed(*, at: dt.datetime) -> list[Operator]:
    """Create the operators with their offerings where they are missing; may be repeated."""
    operators = []
    for code, name in OPERATORS:
        operator, _ = Operator.objects.get_or_create(
            code=code, defaults={"name": name, "created_at": at}
        )
        seed_offerings(operator, plans=code == SELLS_PLANS, at=at)
        operators.append(operator)
    return operators


@transaction.atomic
def seed_offerings(operator: Operator, *, plans: bool = True, at: dt.datetime) -> None:
    """Publish the rate card, boosters and (if `plans`) plans this operator does not have yet."""
    if not RateCard.objects.filter(operator=operator, code=RATE_CARD).exists():
        catalog.publish_rate_card(
            operator,
            RATE_CARD,
            effective_from=EFFECTIVE_FROM,
            weights=reference_card.weights(),
            charged_since=lambda cards, instant: False,  # a first version: nothing was charged
            at=at,
        )
    boosters = Booster.objects.filter(operator=operator)
    for code in BOOSTERS.keys() - set(boosters.values_list("code", flat=True)):
        name, price, packs, days = BOOSTERS[code]
        catalog.publish_booster(
            operator,
            code,
            name=name,
            price=yuan(price),
            units=packs * _PACK_UNITS,
            valid_days=days,
            at=at,
        )
    if plans:
        sold = set(Plan.objects.filter(operator=operator).values_list("code", flat=True))
        for code in PLANS.keys() - sold:
            catalog.publish_plan(operator, code, PLANS[code], at=at)
