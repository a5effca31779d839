"""Usage: charts with the tables behind them."""

from __future__ import annotations

import csv
import datetime as dt
from collections.abc import Sequence
from typing import Any, NamedTuple

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_GET

from metering.portal import charts, parts
from metering.portal.spans import span_of
from subscriptions import periods
from subscriptions.models import FamilyMember
from subscriptions.portal import live
from subscriptions.portal.doors import Visit, own, show
from subscriptions.templatetags import figures
from subscriptions.units import to_wire


def _ways_of(members: Sequence[FamilyMember]) -> tuple[str, ...]:
    """The parts that somebody may look at: who shares with others, what each drew too."""
    return (*parts.WAYS, parts.MEMBER) if members else parts.WAYS


def _way_of(request: HttpRequest, ways: Sequence[str]) -> str:
    way = request.GET.get("of", "")
    return way if way in ways else ways[0]


class Row(NamedTuple):
    """A line of the table, as it is read."""

    when: str
    cells: list[str]  # requests, and units by part
    units: str


_WHEN = {"hour": figures.hour, "day": figures.short_day, "month": figures.month}


def _row(line: parts.Line, by: str) -> Row:
    # Here, not in the template: filters and includes of a thousand lines take most of a page.
    return Row(
        _WHEN[by](line.period),
        [figures.whole(line.requests), *map(figures.exact, line.parts)],
        figures.exact(line.units),
    )


@require_GET
@own
def overview(request: HttpRequest, visit: Visit) -> HttpResponse:
    """What was used by hour, day or month; by model, class of token or key."""
    version = live.version_of(request, visit)
    same = live.unchanged(request, version)
    if same is not None:
        return same
    members = parts.members_of(visit)
    ways = _ways_of(members)
    span, way = span_of(request, visit), _way_of(request, ways)
    found = parts.parted(visit, span, way, members)
    lines = found.lines
    # Where nothing was used the chart has a gap.
    drawn = {line.period: line.parts for line in lines}
    steps = sorted({*span.steps(visit.zone), *drawn})
    context: dict[str, Any] = {
        "span": span,
        "way": way,
        "ways": ways,
        "found": found,
        "rows": [_row(line, span.by) for line in reversed(lines)],
        "bars": charts.bars([drawn.get(step, []) for step in steps]),
        "first": steps[0],
        "last": steps[-1],
        "from": periods.day_of(span.since, visit.zone).isoformat(),
        # The last day of it, so that who asks again asks for the same.
        "to": periods.day_of(span.until - dt.timedelta(microseconds=1), visit.zone).isoformat(),
        "version": version,
    }
    alone = request.headers.get("HX-Request")
    template = "portal/usage_figures.html" if alone else "portal/usage.html"
    response = show(request, template, visit, section="usage", **context)
    response["ETag"] = f'"{version}"'
    return response


@require_GET
@own
def table(request: HttpRequest, visit: Visit) -> HttpResponse:
    """The table behind the charts, all parts of it, as CSV."""
    members = parts.members_of(visit)
    span, way = span_of(request, visit, file=True), _way_of(request, _ways_of(members))
    rows = parts.used(visit, span, way, members)
    names = parts.names_of(visit, way, sorted({row.part for row in rows}), members)
    response = HttpResponse(
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": 'attachment; filename="usage.csv"'},
    )
    # With this mark spreadsheets read Chinese.
    response.write("\ufeff")
    writer = csv.writer(response)
    by_part = [] if way == "class" else [way]
    writer.writerow(["period", *by_part, "requests", *parts.CLASSES, "units"])
    for row in rows:
        local = row.period.astimezone(visit.zone).isoformat()
        name = [harmless(names[row.part])] if by_part else []
        writer.writerow([local, *name, row.requests, *row.classes, to_wire(row.units)])
    return response


def harmless(text: str) -> str:
    """Text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r", "\n", "'") else text
