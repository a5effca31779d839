"""Usage: charts with the tables behind them, and each request with its receipt."""

from __future__ import annotations

import csv
import datetime as dt
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.utils.dateparse import parse_date
from django.views.decorators.http import require_GET

from metering import receipts, rollups
from metering.models import UsageRecord
from metering.portal import charts
from subscriptions import periods
from subscriptions.periods import FIRST, LAST
from subscriptions.portal.doors import Visit, own, show
from subscriptions.units import to_wire

_CLASSES = (
    "uncached_input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
)
# So far back, by default, and no model of its own colour after so many.
_BACK = {"hour": dt.timedelta(days=1), "day": dt.timedelta(days=29), "month": None}
_MODELS = 5
_RECORDS = 30
# As far ahead of the clock as usage may be.
_AHEAD = dt.timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the table behind a chart."""

    period: dt.datetime
    requests: int
    classes: list[int]
    units: int


@dataclass(frozen=True, slots=True)
class Span:
    """What is looked at: `[since, until)` by hour, day or month, and how it was asked for."""

    by: str
    since: dt.datetime
    until: dt.datetime


def span_of(request: HttpRequest, visit: Visit) -> Span:
    """`by`, and `from` and `to` as days of the zone; what cannot be read is not asked."""
    by = request.GET.get("by", "")
    by = by if by in _BACK else "day"
    since, until = _day(request, "from", visit), _day(request, "to", visit)
    end = until + dt.timedelta(days=1) if until else visit.now + _AHEAD
    end = min(end, visit.now + _AHEAD)
    if since is None or since >= end:
        back = _BACK[by]
        if back is None:
            today = periods.day_of(visit.now, visit.zone)
            since = periods.midnight(today.replace(year=today.year - 1, day=1), visit.zone)
        else:
            since = periods.day_start(end - back, visit.zone)
    longest = rollups.MAX_RANGE[by]
    if longest is not None:
        since = max(since, end - longest)
    return Span(by, since, end)


def _day(request: HttpRequest, name: str, visit: Visit) -> dt.datetime | None:
    try:
        day = parse_date(request.GET.get(name, ""))
    except ValueError:
        return None
    if day is None or not FIRST.date() < day < LAST.date():
        return None
    return periods.midnight(day, visit.zone)


def rows_of(visit: Visit, span: Span, *, by_model: bool = False) -> list[rollups.Row]:
    return rollups.usage(
        visit.operator.pk,
        visit.subscriber.pk,
        visit.zone,
        since=span.since,
        until=span.until,
        by=span.by,
        by_model=by_model,
    )


@require_GET
@own
def overview(request: HttpRequest, visit: Visit) -> HttpResponse:
    """What was used by hour, day or month: by model, and by class of token."""
    span = span_of(request, visit)
    rows = rows_of(visit, span, by_model=True)
    models: dict[str, int] = defaultdict(int)
    for row in rows:
        models[row.model or ""] += row.units
    named = sorted(models, key=lambda name: (-models[name], name))
    lines = lines_of(rows)
    before = Span(span.by, span.since - (span.until - span.since), span.since)
    total = sum(line.units for line in lines)
    earlier = sum(row.units for row in rows_of(visit, before)) if span.since > FIRST else 0
    piled = _piled(rows, lines, named[:_MODELS])
    context: dict[str, Any] = {
        "span": span,
        "choices": ("hour", "day", "month"),
        "lines": lines[::-1],
        "models": [(nr, name, models[name]) for nr, name in enumerate(named[:_MODELS], start=1)],
        "others": sum(models[name] for name in named[_MODELS:]),
        "by_model": charts.bars(piled),
        "by_class": charts.bars([line.classes for line in lines]),
        "total": total,
        "requests": sum(line.requests for line in lines),
        "earlier": earlier,
        "change": Decimal(total - earlier) / earlier if earlier else None,
        "first": lines[0].period if lines else None,
        "last": lines[-1].period if lines else None,
        "from": periods.day_of(span.since, visit.zone).isoformat(),
        "to": periods.day_of(span.until, visit.zone).isoformat(),
    }
    template = (
        "portal/usage_figures.html" if request.headers.get("HX-Request") else "portal/usage.html"
    )
    return show(request, template, visit, section="usage", **context)


def lines_of(rows: Sequence[rollups.Row]) -> list[Line]:
    """One line a period, in order."""
    sums: dict[dt.datetime, list[int]] = {}
    for row in rows:
        line = sums.setdefault(row.period, [0] * (2 + len(_CLASSES)))
        line[0] += row.requests
        line[1] += row.units
        for nr, name in enumerate(_CLASSES, start=2):
            line[nr] += getattr(row, name)
    return [Line(period, line[0], line[2:], line[1]) for period, line in sorted(sums.items())]


def _piled(
    rows: Sequence[rollups.Row], lines: Sequence[Line], named: Sequence[str]
) -> list[list[int]]:
    """The units of each period by the models named; the last column holds all others."""
    places = {line.period: nr for nr, line in enumerate(lines)}
    piled = [[0] * (len(named) + 1) for _ in lines]
    for row in rows:
        column = named.index(row.model or "") if (row.model or "") in named else len(named)
        piled[places[row.period]][column] += row.units
    return piled


@require_GET
@own
def table(request: HttpRequest, visit: Visit) -> HttpResponse:
    """The table behind the charts, by model, as CSV."""
    span = span_of(request, visit)
    response = HttpResponse(
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": 'attachment; filename="usage.csv"'},
    )
    # With this mark spreadsheets read Chinese.
    response.write("\ufeff")
    writer = csv.writer(response)
    writer.writerow(["period", "model", "requests", *_CLASSES, "units"])
    for row in rows_of(visit, span, by_model=True):
        classes = [getattr(row, name) for name in _CLASSES]
        local = row.period.astimezone(visit.zone).isoformat()
        writer.writerow(
            [local, _harmless(row.model or ""), row.requests, *classes, to_wire(row.units)]
        )
    return response


def _harmless(text: str) -> str:
    """Text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


@require_GET
@own
def requests(request: HttpRequest, visit: Visit) -> HttpResponse:
    """The latest requests of a day, each with its receipt; `before` goes further back."""
    until = visit.now + _AHEAD
    day = _day(request, "day", visit)
    since = day or periods.day_start(visit.now, visit.zone)
    if day is not None:
        until = min(until, day + dt.timedelta(days=1, hours=1))
        until = periods.day_start(until, visit.zone) if until < visit.now else until
    records = UsageRecord.objects.filter(
        subscriber_id=visit.subscriber.pk, occurred_at__gte=since, occurred_at__lt=until
    )
    skip = request.GET.get("skip", "")
    start = min(int(skip), 10_000) if skip.isdecimal() and len(skip) < 6 else 0
    ordered = records.order_by("-occurred_at", "gateway_id", "source", "record_id")
    found = list(ordered[start : start + _RECORDS + 1])
    items = receipts.as_json(visit.operator, visit.subscriber.pk, found[:_RECORDS])
    shown = [
        {
            **item,
            "receipt": {
                **item["receipt"],
                "lines": [{**line, "name": line["class"]} for line in item["receipt"]["lines"]],
            },
        }
        for item in sorted(items, key=lambda item: item["occurred_at"], reverse=True)
    ]
    today = periods.day_of(since, visit.zone)
    return show(
        request,
        "portal/requests.html",
        visit,
        items=shown,
        day=today,
        more=start + _RECORDS if len(found) > _RECORDS else None,
        section="usage",
    )
