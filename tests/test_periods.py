"""Where months, days and hours begin in an operator's zone."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subscriptions import periods
from tests.factories import SHANGHAI, local

US = dt.timedelta(microseconds=1)
NEW_YORK = ZoneInfo("America/New_York")
SAO_PAULO = ZoneInfo("America/Sao_Paulo")  # skipped midnight until 2018
HAVANA = ZoneInfo("America/Havana")  # has midnight twice
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")  # shifts by half an hour
ZONES = [SHANGHAI, NEW_YORK, SAO_PAULO, HAVANA, LORD_HOWE, ZoneInfo("Asia/Kathmandu")]

instants = st.integers(0, 35 * 365 * 24 * 3600 * 10**6).map(
    lambda us: dt.datetime(2000, 1, 1, tzinfo=dt.UTC) + us * US
)
zones = st.sampled_from(ZONES)
cycles = st.sampled_from(["calendar_month", "subscription_day"])


def utc(*args: int) -> dt.datetime:
    return dt.datetime(*args, tzinfo=dt.UTC)  # type: ignore[misc,arg-type]


def ends(start: dt.datetime, count: int, cycle: str, zone: ZoneInfo) -> list[dt.datetime]:
    """The ends of the first `count` periods of a subscription that begins at `start`."""
    anchor, found = periods.anchor_day(start, zone), []
    for _ in range(count):
        start = periods.end_of(cycle, start, anchor, zone)
        found.append(start)
    return found


def test_a_calendar_month_ends_at_shanghai_midnight_of_the_first() -> None:
    assert ends(local(2026, 6, 10, 12), 2, "calendar_month", SHANGHAI) == [
        utc(2026, 6, 30, 16),
        utc(2026, 7, 31, 16),
    ]


def test_the_last_microsecond_of_a_month_is_a_period_of_its_own() -> None:
    edge = local(2026, 7, 1)

    assert ends(edge - US, 1, "calendar_month", SHANGHAI) == [edge]
    assert ends(edge, 1, "calendar_month", SHANGHAI) == [local(2026, 8, 1)]


def test_an_anchor_on_the_31st_is_clamped_and_comes_back() -> None:
    assert ends(local(2027, 12, 31, 9), 5, "subscription_day", SHANGHAI) == [
        local(2028, 1, 31),
        local(2028, 2, 29),
        local(2028, 3, 31),
        local(2028, 4, 30),
        local(2028, 5, 31),
    ]


def test_a_period_over_a_clock_change_still_ends_at_midnight() -> None:
    [end] = ends(utc(2026, 3, 1, 5), 1, "subscription_day", NEW_YORK)

    assert end == utc(2026, 4, 1, 4)  # midnight at UTC-4; it began at midnight of UTC-5


def test_a_day_whose_midnight_is_skipped_begins_when_the_clocks_jump() -> None:
    # On 4 November 2018 São Paulo went from 00:00 (UTC-3) straight to 01:00.
    assert periods.midnight(dt.date(2018, 11, 4), SAO_PAULO) == utc(2018, 11, 4, 3)


def test_a_day_with_two_midnights_begins_at_the_first() -> None:
    # On 1 November 2026 Havana goes from 01:00 back to 00:00.
    assert periods.midnight(dt.date(2026, 11, 1), HAVANA) == utc(2026, 11, 1, 4)


def test_a_repeated_hour_is_two_hours() -> None:
    first, second = utc(2026, 11, 1, 5, 30), utc(2026, 11, 1, 6, 30)  # both are 01:30

    assert periods.hour_start(first, NEW_YORK) == utc(2026, 11, 1, 5)
    assert periods.hour_start(second, NEW_YORK) == utc(2026, 11, 1, 6)


def test_an_hour_cut_by_half_an_hours_change_begins_with_the_change() -> None:
    # On 4 October 2026 Lord Howe goes from 02:00 (UTC+10:30) to 02:30 (UTC+11).
    assert periods.hour_start(utc(2026, 10, 3, 15, 40), LORD_HOWE) == utc(2026, 10, 3, 15, 30)


@pytest.mark.parametrize(
    ("starts_at", "begins_at"),
    [
        (local(2026, 6, 10), local(2026, 7, 1)),
        (local(2026, 6, 1), local(2026, 6, 1)),
        (local(2026, 6, 1) + US, local(2026, 7, 1)),
    ],
)
def test_a_plan_for_the_next_month_begins_at_the_months_first_instant(
    starts_at: dt.datetime, begins_at: dt.datetime
) -> None:
    assert periods.first_start("calendar_month", "next", starts_at, SHANGHAI) == begins_at


@pytest.mark.parametrize("first_month", ["full", "by_day"])
def test_other_plans_begin_when_they_are_sold_for(first_month: str) -> None:
    start = local(2026, 6, 10, 12)

    assert periods.first_start("calendar_month", first_month, start, SHANGHAI) == start
    assert periods.first_start("subscription_day", "next", start, SHANGHAI) == start


@pytest.mark.parametrize(
    ("starts_at", "days"),
    [
        (local(2026, 6, 1), (30, 30)),
        (local(2026, 6, 1, 23, 59), (30, 30)),
        (local(2026, 6, 30, 23, 59, 59), (1, 30)),
        (local(2028, 2, 15), (15, 29)),
    ],
)
def test_a_part_day_counts_as_a_day(starts_at: dt.datetime, days: tuple[int, int]) -> None:
    assert periods.days_of_month(starts_at, SHANGHAI) == days


def test_proration_rounds_up_to_a_whole_unit_but_never_beyond_the_allowance() -> None:
    assert periods.prorate(10_000_000_000, 21, 30) == 7_000_000_000
    assert periods.prorate(10_000, 1, 30) == 1_000
    assert periods.prorate(1_500, 30, 30) == 1_500
    assert periods.prorate(0, 1, 30) == 0


@given(starts_at=instants, zone=zones, cycle=cycles)
def test_periods_follow_each_other_and_begin_at_midnights(
    starts_at: dt.datetime, zone: ZoneInfo, cycle: str
) -> None:
    before = starts_at
    for end in ends(starts_at, 14, cycle, zone):
        assert dt.timedelta(0) < end - before <= dt.timedelta(days=31, hours=2)
        assert end == periods.day_start(end, zone)
        # The microsecond before belongs to another local day.
        assert (end - US).astimezone(zone).date() < end.astimezone(zone).date()
        before = end


@given(instant=instants, zone=zones)
def test_an_instant_lies_in_its_hour_day_and_month(instant: dt.datetime, zone: ZoneInfo) -> None:
    hour, day, month = (
        start(instant, zone)
        for start in (periods.hour_start, periods.day_start, periods.month_start)
    )

    assert month <= day <= instant
    assert day <= hour or zone is LORD_HOWE
    assert hour <= instant < hour + dt.timedelta(hours=1)
    assert periods.day_start(day, zone) == day
    assert periods.hour_start(hour, zone) == hour


@pytest.mark.parametrize("instant", [periods.FIRST, periods.LAST])
@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Etc/GMT+12"])
def test_the_years_allowed_fit_every_zone(instant: dt.datetime, zone: str) -> None:
    where = ZoneInfo(zone)

    assert periods.month_start(instant, where) <= instant
    assert periods.end_of("calendar_month", instant, 1, where) > instant
