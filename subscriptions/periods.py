"""Calendar arithmetic in an operator's time zone. Pure: no clock, no database.

The only module that knows a zone. Instants go in aware and come out in UTC; a local day begins
at its first instant, which is midnight except where daylight saving skips it. Instants must lie
in the years that `FIRST` and `LAST` bound, so that no zone can push them off the calendar.
"""

from __future__ import annotations

import calendar
import datetime as dt
from collections.abc import Callable
from functools import lru_cache
from zoneinfo import ZoneInfo

# What a caller may name: a day inside what Python can represent, in any zone.
FIRST = dt.datetime(2, 1, 1, tzinfo=dt.UTC)
LAST = dt.datetime(9998, 1, 1, tzinfo=dt.UTC)

_MICROSECOND = dt.timedelta(microseconds=1)


# Periods -----------------------------------------------------------------------------------------


def first_start(
    cycle: str, first_month: str, starts_at: dt.datetime, zone: ZoneInfo
) -> dt.datetime:
    """When a subscription sold for `starts_at` begins.

    At `starts_at` itself, not at a midnight, unless a calendar-month plan starts with the `next`
    month; one sold for the very first instant of a month starts there. A `subscription_day`
    cycle is a whole month from any day, so its `first_month` says nothing.
    """
    if cycle == "calendar_month" and first_month == "next":
        month = month_start(starts_at, zone)
        return month if month == starts_at else end_of(cycle, starts_at, 1, zone)
    return starts_at


def anchor_day(starts_at: dt.datetime, zone: ZoneInfo) -> int:
    """The local day of the month, 1 to 31, on which `subscription_day` periods begin."""
    return starts_at.astimezone(zone).day


# A chunk of openings asks for the same few periods thousands of times.
@lru_cache(maxsize=4096)
def end_of(cycle: str, starts_at: dt.datetime, anchor: int, zone: ZoneInfo) -> dt.datetime:
    """Where the period that begins at `starts_at` ends and the next one begins: a midnight.

    `calendar_month`: the first of the next month. `subscription_day`: the anchor day of the next
    month, or that month's last day where it is shorter (31 January, 28 February, 31 March).
    """
    today = day_of(starts_at, zone)
    year, month = (today.year + 1, 1) if today.month == 12 else (today.year, today.month + 1)
    if cycle == "calendar_month":
        day = 1
    else:
        assert cycle == "subscription_day", cycle
        day = min(anchor, calendar.monthrange(year, month)[1])
    return midnight(dt.date(year, month, day), zone)


def trial_end(starts_at: dt.datetime, days: int, zone: ZoneInfo) -> dt.datetime:
    """Where a trial of so many days ends: the first midnight when they are over."""
    local = starts_at.astimezone(zone)
    end = midnight(local.date() + dt.timedelta(days=days), zone)
    if midnight(local.date(), zone) == starts_at:
        return end
    return midnight(local.date() + dt.timedelta(days=days + 1), zone)


def days_of_month(starts_at: dt.datetime, zone: ZoneInfo) -> tuple[int, int]:
    """(days from `starts_at` to the end of its local month, days of that month).

    A part day counts as a day: at noon on 30 April it is (1, 30).
    """
    today = day_of(starts_at, zone)
    days = calendar.monthrange(today.year, today.month)[1]
    return days - today.day + 1, days


def days_left(at: dt.datetime, ends_at: dt.datetime, zone: ZoneInfo) -> int:
    """Local days from `at` to `ends_at`, which is later; a part day counts as a day."""
    return (day_of(ends_at - _MICROSECOND, zone) - day_of(at, zone)).days + 1


def prorate(thousandths: int, days: int, of: int) -> int:
    """`days / of` of an allowance, rounded up to a whole unit: the subscriber's favour.

    Never more than the allowance itself, which need not be whole units.
    """
    whole_units = -(-thousandths * days // (of * 1000))
    return min(thousandths, whole_units * 1000)


# Instants for reports ----------------------------------------------------------------------------


def day_of(instant: dt.datetime, zone: ZoneInfo) -> dt.date:
    """The local day that an instant lies in: what people are told."""
    return instant.astimezone(zone).date()


def local(instant: dt.datetime, zone: ZoneInfo) -> str:
    """An instant in words, exactly, with the zone's offset."""
    return instant.astimezone(zone).isoformat()


def hour_start(instant: dt.datetime, zone: ZoneInfo) -> dt.datetime:
    """The first instant of the local hour; an hour that a clock change repeats is two hours."""
    local = instant.astimezone(zone)
    start = instant.astimezone(dt.UTC) - dt.timedelta(
        minutes=local.minute, seconds=local.second, microseconds=local.microsecond
    )
    if start.astimezone(zone).utcoffset() == local.utcoffset():
        return start
    # The clocks changed inside the hour: this part of it began with the change.
    offset = local.utcoffset()
    return _first(start, instant, lambda i: i.astimezone(zone).utcoffset() == offset)


def day_start(instant: dt.datetime, zone: ZoneInfo) -> dt.datetime:
    """The first instant of the local day."""
    return midnight(day_of(instant, zone), zone)


def month_start(instant: dt.datetime, zone: ZoneInfo) -> dt.datetime:
    """The first instant of the local month."""
    return midnight(day_of(instant, zone).replace(day=1), zone)


def week_start(instant: dt.datetime, zone: ZoneInfo) -> dt.datetime:
    """The first instant of the local week, a Monday's."""
    today = day_of(instant, zone)
    return midnight(today - dt.timedelta(days=today.weekday()), zone)


_FIVE_HOURS = dt.timedelta(hours=5)


def window(
    per: str, at: dt.datetime, zone: ZoneInfo, *, sliding: bool, anchor: dt.datetime
) -> tuple[dt.datetime, dt.datetime | None]:
    """The stretch of a plan's window that `at` lies in; one that slides has no end.

    `5h` counts from `anchor`, the period's start; a day, week and month are the zone's.
    """
    if sliding:
        return at - _FIVE_HOURS, None
    if per == "5h":
        start = anchor + (at - anchor) // _FIVE_HOURS * _FIVE_HOURS
        return start, start + _FIVE_HOURS
    today = day_of(at, zone)
    if per == "day":
        return midnight(today, zone), midnight(today + dt.timedelta(days=1), zone)
    if per == "week":
        start = week_start(at, zone)
        return start, midnight(start.astimezone(zone).date() + dt.timedelta(days=7), zone)
    assert per == "month", per
    start = month_start(at, zone)
    return start, end_of("calendar_month", start, 1, zone)


def out_of(begins: dt.time, ends: dt.time, at: dt.datetime, zone: ZoneInfo) -> dt.datetime | None:
    """The end of the time of day, `[begins, ends)` of the zone, that `at` lies in; None outside of
    it. One that ends before it begins goes over midnight, one that ends as it begins never is."""
    local = at.astimezone(zone)
    now, over_night = local.time(), begins > ends
    inside = (now >= begins or now < ends) if over_night else begins <= now < ends
    if not inside:
        return None
    day = local.date() + dt.timedelta(days=over_night and now >= begins)
    return dt.datetime.combine(day, ends, tzinfo=zone).astimezone(dt.UTC)


def midnight(day: dt.date, zone: ZoneInfo) -> dt.datetime:
    """The first instant of a local day, in UTC.

    Where midnight comes twice it is the first; where the clocks skip it, the moment they jump.
    """
    nominal = dt.datetime.combine(day, dt.time.min, tzinfo=zone)
    start = nominal.astimezone(dt.UTC)
    if start.astimezone(zone).replace(tzinfo=None) == nominal.replace(tzinfo=None):
        return start
    before = nominal.replace(fold=1).astimezone(dt.UTC)
    return _first(before, start, lambda i: i.astimezone(zone).date() >= day)


def _first(
    low: dt.datetime, high: dt.datetime, holds: Callable[[dt.datetime], bool]
) -> dt.datetime:
    """The first instant in [low, high] from which on `holds`; it holds at `high`."""
    low, high = low.astimezone(dt.UTC), high.astimezone(dt.UTC)
    while low < high:
        middle = low + (high - low) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + _MICROSECOND
    return high
