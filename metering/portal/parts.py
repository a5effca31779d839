"""Usage in parts: by model, by class of token, by key; each with what it was before."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import NamedTuple

from django.db.models import OuterRef, Subquery
from django.db.models.functions import Coalesce

from metering import rollups
from metering.portal.spans import Span
from subscriptions.families import keeping, using
from subscriptions.models import FamilyMember, Subject, SubscriberKey
from subscriptions.portal.doors import Visit
from subscriptions.units import THOUSANDTHS

WAYS = ("model", "class", "key")
MEMBER = "member"
CLASSES = (
    "uncached_input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
)
# No part of its own colour after so many.
_NAMED = 5


class Used(NamedTuple):
    """What one part used in one period; `part` is the model, the key's binding or the member."""

    period: dt.datetime
    part: str
    requests: int
    classes: tuple[int, ...]
    units: int


@dataclass(slots=True)
class Part:
    """A part of all usage: units in thousandths, of a class its tokens, unweighed, in the same."""

    key: str
    name: str
    nr: int  # its colour; the last is that of all others
    units: int = 0
    requests: int | None = 0
    earlier: int = 0
    share: Decimal = Decimal(0)

    @property
    def change(self) -> Decimal | None:
        return Decimal(self.units - self.earlier) / self.earlier if self.earlier else None


@dataclass(slots=True)
class Line:
    """A period: by part, and in all."""

    period: dt.datetime
    parts: list[int]
    requests: int = 0
    units: int = 0


@dataclass(slots=True)
class Parted:
    parts: list[Part]
    lines: list[Line] = field(default_factory=list)
    units: int = 0
    requests: int = 0
    earlier: int = 0

    @property
    def change(self) -> Decimal | None:
        return Decimal(self.units - self.earlier) / self.earlier if self.earlier else None


def members_of(visit: Visit) -> list[FamilyMember]:
    """All that ever shared the visitor's units, in the family that is now; of a member none."""
    row = keeping.of(visit.subscriber.pk)
    if row is None or not row.is_owner:
        return []
    return list(FamilyMember.objects.filter(family=row.family_id))


def _used_by_members(visit: Visit, span: Span, members: Sequence[FamilyMember]) -> list[Used]:
    """What the visitor used, and what each other drew of the visitor's units."""
    asked = {"since": span.since, "until": span.until, "by": span.by}
    zone, nothing = visit.zone, (0,) * len(CLASSES)
    drawn = using.by_period(members, visit.subscriber.pk, zone, **asked)  # type: ignore[arg-type]
    rows = rollups.usage(visit.operator.pk, visit.subscriber.pk, zone, **asked)  # type: ignore[arg-type]
    mine = next((str(each.pk) for each in members if each.is_owner), "")
    found = [Used(row.period, mine, row.requests, nothing, row.units) for row in rows]
    found += [Used(each.period, str(each.member_id), 0, nothing, each.units) for each in drawn]
    return sorted(found, key=lambda each: (each.period, each.part))


def used(visit: Visit, span: Span, way: str, members: Sequence[FamilyMember] = ()) -> list[Used]:
    """What was used in a time, by period and part."""
    if way == MEMBER:
        return _used_by_members(visit, span, members)
    asked = {"since": span.since, "until": span.until, "by": span.by}
    whose = visit.operator.pk, visit.subscriber.pk, visit.zone
    if way == "key":
        rows = [(str(pk), row) for pk, row in rollups.usage_by_subject(*whose, **asked)]  # type: ignore[arg-type]
    else:
        found = rollups.usage(*whose, **asked, by_model=way == "model")  # type: ignore[arg-type]
        rows = [(row.model or "", row) for row in found]
    return [
        # A year's hours are many: the classes are taken as they lie in a row.
        Used(row.period, part, row.requests, row[3:8], row.units)
        for part, row in rows
    ]


def names_of(
    visit: Visit, way: str, keys: Sequence[str], members: Sequence[FamilyMember] = ()
) -> Mapping[str, str]:
    """What these parts are called. Of keys it is here that a subject becomes a name."""
    if way == MEMBER:
        labels = {str(each.pk): each.label for each in members}
        return {key: labels.get(key, "–") for key in keys}
    if way != "key":
        return {key: key for key in keys}
    named = SubscriberKey.objects.filter(binding=OuterRef("pk")).values("name")[:1]
    rows = Subject.objects.filter(
        subscriber_id=visit.subscriber.pk, pk__in=[int(key) for key in keys]
    ).annotate(called=Coalesce(Subquery(named), "subject"))
    found = {str(pk): name for pk, name in rows.values_list("pk", "called")}
    return {key: found.get(key, "–") for key in keys}


def parted(visit: Visit, span: Span, way: str, members: Sequence[FamilyMember] = ()) -> Parted:
    """Usage in its largest parts, the rest together, beside what it was as long before."""
    # Of what was before only sums are shown: by month these are the fewest rows.
    earlier = span.before and replace(span.before, by="month")
    if way == "class":
        return _by_class(used(visit, span, way), used(visit, earlier, way) if earlier else [])
    now = _by_period(visit, span, way, members)
    before = _by_period(visit, earlier, way, members) if earlier else []
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for _, each in now:
        for key, (units, requests) in each.items():
            known = sums[key]
            known[0] += units
            known[1] += requests
    for _, each in before:
        for key, (units, _) in each.items():
            sums[key][2] += units
    order = sorted(sums, key=lambda key: (-sums[key][0], -sums[key][2], key))
    named, rest = order[:_NAMED], order[_NAMED:]
    names = names_of(visit, way, named, members)
    parts = [
        _part(key, names[key], nr, sums[key], counted=way != MEMBER)
        for nr, key in enumerate(named, 1)
    ]
    if rest:
        together = [sum(sums[key][n] for key in rest) for n in range(3)]
        parts.append(_part("", "", _NAMED + 1, together, counted=way != MEMBER))
    places = {key: min(place, _NAMED) for place, key in enumerate(order)}
    lines = []
    for period, each in now:
        line = Line(period, [0] * len(parts))
        for key, (units, requests) in each.items():
            line.parts[places[key]] += units
            line.requests += requests
            line.units += units
        lines.append(line)
    return _summed(parts, lines, sum(part.earlier for part in parts))


def _by_period(
    visit: Visit, span: Span, way: str, members: Sequence[FamilyMember]
) -> list[tuple[dt.datetime, dict[str, tuple[int, int]]]]:
    """Of each period the units and requests of each part."""
    if way != MEMBER:
        return rollups.usage_by_period(
            visit.operator.pk,
            visit.subscriber.pk,
            visit.zone,
            since=span.since,
            until=span.until,
            by=span.by,
            of="subject" if way == "key" else "model",
        )
    found: dict[dt.datetime, dict[str, tuple[int, int]]] = defaultdict(dict)
    for row in _used_by_members(visit, span, members):
        units, requests = found[row.period].get(row.part, (0, 0))
        found[row.period][row.part] = units + row.units, requests + row.requests
    return sorted(found.items())


def _part(key: str, name: str, nr: int, sums: Sequence[int], *, counted: bool) -> Part:
    units, requests, earlier = sums
    return Part(key, name, nr, units, requests if counted else None, earlier)


def _by_class(now: Sequence[Used], before: Sequence[Used]) -> Parted:
    def tokens(rows: Sequence[Used], nr: int) -> int:
        return int(sum(row.classes[nr] for row in rows) * THOUSANDTHS)

    parts = [
        Part(
            name.removesuffix("_tokens"), "", nr, tokens(now, nr - 1), None, tokens(before, nr - 1)
        )
        for nr, name in enumerate(CLASSES, 1)
    ]
    lines: dict[dt.datetime, Line] = {}
    for row in now:
        line = lines.setdefault(row.period, Line(row.period, [0] * len(parts)))
        for nr, count in enumerate(row.classes):
            line.parts[nr] += int(count * THOUSANDTHS)
        line.requests += row.requests
        line.units += row.units
    ordered = [lines[period] for period in sorted(lines)]
    return _summed(parts, ordered, sum(row.units for row in before))


def _summed(parts: list[Part], lines: list[Line], earlier: int) -> Parted:
    whole = sum(part.units for part in parts)
    for part in parts:
        part.share = Decimal(part.units) / whole if whole else Decimal(0)
    return Parted(
        parts,
        lines,
        units=sum(line.units for line in lines),
        requests=sum(line.requests for line in lines),
        earlier=earlier,
    )
