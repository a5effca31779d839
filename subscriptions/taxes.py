"""Tax rates by category and day: the only writer of TaxRate.

Plans are immutable and are sold for years, the law changes their tax meanwhile: a plan, or a
component of its price, names a category, and the category's rate on the last day of the period
supplied is what a bill is taxed at.
"""

from __future__ import annotations

import datetime as dt
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple
from zoneinfo import ZoneInfo

from django.db import connection, transaction

from subscriptions import advisory
from subscriptions.advisory import Lock
from subscriptions.errors import Conflict, Invalid
from subscriptions.models import Operator, Plan, PlanComponent, SubscriptionPeriod, TaxRate


class TaxAlreadyBilled(Conflict):
    cause = "tax_already_billed"


class UnknownTaxCategory(Invalid):
    cause = "unknown_tax_category"


class Dated(NamedTuple):
    """A rate, and the day it holds from."""

    since: dt.date
    rate: Decimal


@dataclass(frozen=True, slots=True)
class Taxes:
    """An operator's rates: of each category by day, the earliest first."""

    rates: Mapping[str, tuple[Dated, ...]]

    def on(self, category: str, day: dt.date) -> Dated | None:
        """The rate of a category on a day; None before its first."""
        dated = self.rates.get(category, ())
        nr = bisect_right(dated, day, key=lambda one: one.since)
        return dated[nr - 1] if nr else None


def last_day(until: dt.datetime, zone: ZoneInfo) -> dt.date:
    """The local day that a span ending at `until` ends on."""
    return (until - dt.timedelta(microseconds=1)).astimezone(zone).date()


def of_operator(operator_id: int) -> Taxes:
    """The rates as they are, and stay until the caller's transaction ends."""
    assert connection.in_atomic_block
    advisory.take(Lock.TAXES, operator_id, shared=True)
    newest: dict[str, dict[dt.date, Decimal]] = defaultdict(dict)
    for row in TaxRate.objects.filter(operator_id=operator_id).order_by("pk"):
        newest[row.category][row.effective_from] = row.rate
    return Taxes(
        {
            category: tuple(Dated(*pair) for pair in sorted(days.items()))
            for category, days in newest.items()
        }
    )


@transaction.atomic
def publish(
    operator: Operator, category: str, *, effective_from: dt.date, rate: Decimal, at: dt.datetime
) -> tuple[TaxRate, bool]:
    """Let a category be taxed at a rate from a local day on; answers whether that is new.

    Raises TaxAlreadyBilled where plans name the category and a period that ended on that day or
    later is billed: what is billed keeps its tax.
    """
    advisory.take(Lock.TAXES, operator.pk)
    rows = TaxRate.objects.filter(operator=operator, category=category)
    same_day = rows.filter(effective_from=effective_from).order_by("-pk").first()
    if same_day is not None and same_day.rate == rate:
        return same_day, False
    midnight = dt.datetime.combine(effective_from, dt.time(), ZoneInfo(operator.time_zone))
    if (
        _is_named(operator.pk, category)
        and SubscriptionPeriod.objects.filter(
            operator_id=operator.pk, closed_at__isnull=False, ends_at__gt=midnight
        ).exists()
    ):
        raise TaxAlreadyBilled(
            f"periods that ended on {effective_from} or later are billed; let the rate begin after"
        )
    made = TaxRate.objects.create(
        operator=operator,
        category=category,
        effective_from=effective_from,
        rate=rate,
        created_at=at,
    )
    return made, True


def check_category(operator: Operator, category: str) -> None:
    """Raises UnknownTaxCategory where nothing says what it is taxed at."""
    if category and not TaxRate.objects.filter(operator=operator, category=category).exists():
        raise UnknownTaxCategory(f"there is no tax rate of {category}; publish one first")


def _is_named(operator_id: int, category: str) -> bool:
    return (
        Plan.objects.filter(operator_id=operator_id, tax_category=category).exists()
        or PlanComponent.objects.filter(
            plan__operator_id=operator_id, tax_category=category
        ).exists()
    )
