"""When something is tried to be collected: pure arithmetic of days and hours of an operator's."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import NamedTuple
from zoneinfo import ZoneInfo

WALLET, SAVED_METHOD, PHONE_BILL = "wallet", "saved_method", "phone_bill"
DAY = dt.timedelta(days=1)
WAYS = (WALLET, SAVED_METHOD, PHONE_BILL)


class Terms(NamedTuple):
    """A policy; see `models.CollectionPolicy`. These are what holds where none was made."""

    days_ahead: int = 5
    notice_days: int = 5
    lead_days: int = 1
    ways: tuple[str, ...] = WAYS
    retry_days: tuple[int, ...] = (0, 1, 3, 5)
    from_hour: int = 8
    until_hour: int = 22
    grace_days: int = 0
    phone_bill_cap: Decimal | None = None


def days_before(instant: dt.datetime, days: int, zone: ZoneInfo) -> dt.datetime:
    """The same time of the day, so many of the operator's days before."""
    return _shifted(instant, -days, zone)


def tries(terms: Terms, first: dt.datetime, zone: ZoneInfo) -> list[dt.datetime]:
    """When something is tried whose first try may be at `first`: at that time of the day, or where
    that is outside the hours, at the next that is inside; so many days later again."""
    moments = {_within_hours(terms, _shifted(first, day, zone), zone) for day in terms.retry_days}
    return sorted(moments)


def next_try(
    terms: Terms, first: dt.datetime, zone: ZoneInfo, *, after: dt.datetime
) -> dt.datetime | None:
    """The first try after an instant; None: there is none any more. Those that were missed are not
    made up for."""
    return next((moment for moment in tries(terms, first, zone) if moment > after), None)


def grace_end(terms: Terms, due_at: dt.datetime, zone: ZoneInfo) -> dt.datetime:
    """Until when it may be paid by hand before what follows follows."""
    return _shifted(due_at, terms.grace_days, zone)


def _shifted(instant: dt.datetime, days: int, zone: ZoneInfo) -> dt.datetime:
    there = instant.astimezone(zone) + dt.timedelta(days=days)
    return there.astimezone(dt.UTC)


def _within_hours(terms: Terms, instant: dt.datetime, zone: ZoneInfo) -> dt.datetime:
    there = instant.astimezone(zone)
    if terms.from_hour <= there.hour < terms.until_hour:
        return instant.astimezone(dt.UTC)
    day = there.date() + dt.timedelta(days=there.hour >= terms.until_hour)
    opening = dt.datetime.combine(day, dt.time(terms.from_hour), tzinfo=zone)
    return opening.astimezone(dt.UTC)
