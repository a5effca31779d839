"""What time is looked at, and how it was asked for."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from django.http import HttpRequest
from django.utils.dateparse import parse_date

from metering import rollups
from subscriptions import periods
from subscriptions.periods import FIRST, LAST
from subscriptions.portal.doors import Visit

# So far back, by default; by month a year.
_BACK = {"hour": dt.timedelta(days=1), "day": dt.timedelta(days=29), "month": None}
# Of hours a page shows a week at once: more are a file to be worked with, not a page to be read.
_SHOWN = {"hour": dt.timedelta(days=7)}
# As far ahead of the clock as usage may be.
AHEAD = dt.timedelta(minutes=5)
# As many hours as may be asked for.
_MOST_STEPS = 31 * 24 + 1


@dataclass(frozen=True, slots=True)
class Span:
    """`[since, until)` by hour, day or month."""

    by: str
    since: dt.datetime
    until: dt.datetime

    @property
    def before(self) -> Span | None:
        """As long before; None where there was no time yet."""
        if self.since - FIRST < self.until - self.since:
            return None
        return Span(self.by, self.since - (self.until - self.since), self.since)

    def steps(self, zone: ZoneInfo) -> list[dt.datetime]:
        """When each of its hours, days or months begins; of very many the last."""
        found: list[dt.datetime] = []
        at = self.until
        while at > self.since and len(found) < _MOST_STEPS:
            at = _BEGINNING[self.by](at - dt.timedelta(microseconds=1), zone)
            found.append(at)
        return found[::-1]


def _hour_start(instant: dt.datetime, zone: ZoneInfo) -> dt.datetime:
    return instant.replace(minute=0, second=0, microsecond=0)


_BEGINNING = {"hour": _hour_start, "day": periods.day_start, "month": periods.month_start}


def span_of(request: HttpRequest, visit: Visit, *, file: bool = False) -> Span:
    """`by`, and `from` and `to` as days of the zone; what cannot be read is not asked.

    Where that is too long it begins later: a page shows less than a `file` holds.
    """
    by = request.GET.get("by", "")
    by = by if by in _BACK else "day"
    since, until = day_of(request, "from", visit), day_of(request, "to", visit)
    end = visit.now + AHEAD
    if until is not None:
        end = min(end, periods.day_start(until + dt.timedelta(days=1, hours=2), visit.zone))
    if since is None or since >= end:
        back = _BACK[by]
        if back is None:
            today = periods.day_of(visit.now, visit.zone)
            since = periods.midnight(today.replace(year=today.year - 1, day=1), visit.zone)
        else:
            since = periods.day_start(end - back, visit.zone)
    longest = rollups.MAX_RANGE[by] if file else _SHOWN.get(by, rollups.MAX_RANGE[by])
    if longest is not None:
        since = max(since, end - longest)
    return Span(by, since, end)


def day_of(request: HttpRequest, name: str, visit: Visit) -> dt.datetime | None:
    """The first instant of a day that is asked for."""
    try:
        day = parse_date(request.GET.get(name, ""))
    except ValueError:
        return None
    if day is None or not FIRST.date() < day < LAST.date():
        return None
    return periods.midnight(day, visit.zone)
