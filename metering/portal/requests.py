"""Each request with its receipt: tokens times weights, and what the bucket had before and after."""

from __future__ import annotations

import base64
import binascii
import csv
import datetime as dt
import json
from collections.abc import Iterator, Sequence
from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.utils.dateparse import parse_datetime
from django.views.decorators.http import require_GET

from metering import adjusted, receipts, standings
from metering.models import UsageRecord
from metering.portal.spans import AHEAD, day_of
from metering.portal.usage import harmless
from subscriptions import periods
from subscriptions.portal.doors import Visit, own, show

_AT_ONCE = 30
_ROWS_AT_ONCE = 2_500
# A file that a spreadsheet still opens.
_ROWS = 50_000
Place = tuple[dt.datetime, int, str, str]


@require_GET
@own
def requests(request: HttpRequest, visit: Visit) -> HttpResponse:
    """The latest requests of a day, each with its receipt; `after` goes on behind one of them."""
    since, until = _day(request, visit)
    found = _page(visit, since, until, _place(request), _AT_ONCE + 1)
    shown = found[:_AT_ONCE]
    return show(
        request,
        "portal/requests.html",
        visit,
        items=_told(visit, shown),
        day=periods.day_of(since, visit.zone),
        more=_name(shown[-1]) if len(found) > _AT_ONCE else None,
        section="usage",
    )


@require_GET
@own
def table(request: HttpRequest, visit: Visit) -> StreamingHttpResponse:
    """All requests of a day as CSV, the earliest last."""
    since, until = _day(request, visit)
    return StreamingHttpResponse(
        lines(visit, since, until),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": 'attachment; filename="requests.csv"'},
    )


def _day(request: HttpRequest, visit: Visit) -> tuple[dt.datetime, dt.datetime]:
    """The day that is asked for, today where none is, as far as it may hold usage."""
    latest = visit.now + AHEAD
    since = day_of(request, "day", visit)
    if since is None:
        return periods.day_start(visit.now, visit.zone), latest
    end = periods.day_start(since + dt.timedelta(days=1, hours=2), visit.zone)
    return since, max(since, min(end, latest))


def _page(
    visit: Visit, since: dt.datetime, until: dt.datetime, place: Place | None, limit: int
) -> list[UsageRecord]:
    """Records of a time, the latest first, behind a place among them."""
    rows: QuerySet[UsageRecord] = UsageRecord.objects.filter(
        subscriber_id=visit.subscriber.pk, occurred_at__gte=since, occurred_at__lt=until
    )
    if place is not None:
        # The first column alone finds the place in the index; the rest breaks ties.
        rows = rows.filter(occurred_at__lte=place[0]).extra(
            where=["(occurred_at, gateway_id, source, record_id) < (%s, %s, %s, %s)"],
            params=list(place),
        )
    return list(rows.order_by("-occurred_at", "-gateway_id", "-source", "-record_id")[:limit])


def _told(visit: Visit, records: Sequence[UsageRecord]) -> list[dict[str, Any]]:
    """Records as they are in force, with their receipts, in the order given."""
    whose = visit.subscriber.pk
    known = adjusted.in_force(whose, records)
    drawn = receipts.drawn_of(visit.operator, whose, known)
    stood = standings.standings_of(whose, receipts.untouched(known), drawn, at=visit.now)
    told = receipts.told(known, drawn)
    for (key, each), item in zip(known.items(), told, strict=True):
        item["corrected"] = bool(each.rows)
        for line in item["receipt"]["lines"]:
            line["name"] = line["class"]
        for bucket in item["receipt"]["buckets"]:
            bucket["standing"] = stood.get((key, int(bucket["id"])))
    return told


class _Echo:
    """Where csv writes a line of a file that is sent as it is made."""

    def write(self, text: str) -> bytes:
        return text.encode()


_COUNTS = (
    *("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens"),
    "reasoning_tokens",
)
_HEAD = ("id", "occurred_at", "model", "key", "outcome", "void", *_COUNTS, "units", "buckets")


def lines(visit: Visit, since: dt.datetime, until: dt.datetime) -> Iterator[Any]:
    """The requests of a time as lines of CSV, the latest first, as far as a file takes them."""
    line = csv.writer(_Echo()).writerow
    yield b"\xef\xbb\xbf"
    yield line(_HEAD)
    whose = visit.subscriber.pk
    place: Place | None = None
    for _ in range(_ROWS // _ROWS_AT_ONCE):
        records = _page(visit, since, until, place, _ROWS_AT_ONCE)
        known = adjusted.in_force(whose, records)
        for item in receipts.told(known, receipts.drawn_of(visit.operator, whose, known)):
            drawn = "; ".join(f"{b['kind']} {b['units']}" for b in item["receipt"]["buckets"])
            yield line(
                [
                    harmless(item["id"]),
                    item["occurred_at"].astimezone(visit.zone).isoformat(),
                    *map(harmless, (item["model"], item["subject"], item["outcome"] or "")),
                    int(item["voided"]),
                    *(item[name] for name in _COUNTS),
                    item["units"],
                    drawn,
                ]
            )
        if len(records) < _ROWS_AT_ONCE:
            return
        last = records[-1]
        place = (last.occurred_at, last.gateway_id, last.source, last.record_id)


def _name(record: UsageRecord) -> str:
    """A record's place, as an address holds it."""
    place = [record.occurred_at.isoformat(), record.gateway_id, record.source, record.record_id]
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


def _place(request: HttpRequest) -> Place | None:
    """The place that an address names; what cannot be read is none."""
    try:
        said = json.loads(base64.urlsafe_b64decode(request.GET.get("after", "").encode("ascii")))
        moment, gateway_id, source, record_id = said
        at = parse_datetime(moment)
    except (ValueError, TypeError, RecursionError, binascii.Error):
        return None
    texts = all(isinstance(text, str) and _storable(text) for text in (source, record_id))
    if at is None or at.tzinfo is None or type(gateway_id) is not int or not texts:
        return None
    return (at, gateway_id, source, record_id) if abs(gateway_id) < 2**63 else None


def _storable(text: str) -> bool:
    return not any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in text)
