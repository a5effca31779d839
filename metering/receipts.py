"""A record's receipt: tokens by class x weight = units, and the buckets that paid.

Nothing is stored for it until a record is adjusted. A batch has one journal entry per bucket; its
records, in (occurred_at, gateway, id) order, consume these entries in burn order: the same walk as
the charge's own. An adjustment freezes its record's part of that as a row.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from django.db import connection

from metering import adjusted
from metering.adjusted import InForce, RecordKey, key_of
from metering.context import Holding
from metering.models import AdjustedRecord, Adjustment, UsageBatch, UsageRecord
from metering.parsing import LATEST
from subscriptions import demands
from subscriptions.models import (
    Bucket,
    BucketEntry,
    Operator,
    RateCardWeight,
    Subject,
)
from subscriptions.policies import policy_of
from subscriptions.units import THOUSANDTHS, to_wire

# Weights that a process keeps, as versions of cards never change.
_REMEMBERED_WEIGHTS = 10_000
_weights: dict[int, RateCardWeight] = {}


class Draw(NamedTuple):
    """Units (thousandths) of one record that one bucket paid."""

    bucket_id: int
    kind: str
    units: int


Split = dict[RecordKey, list[Draw]]


class Group(NamedTuple):
    """Usage of one period that is paid alike, in the order in which it consumes buckets."""

    period: demands.Period
    suspended: bool
    uses: list[tuple[RecordKey, int]]


class Drawn(NamedTuple):
    """What records drew when they were charged, by batch: where a batch drew several buckets, it is
    of all its records. With the batches and buckets it was read from, and those asked besides."""

    splits: dict[int, Split]
    batches: dict[int, UsageBatch]
    buckets: dict[int, Bucket]

    @property
    def draws(self) -> Split:
        return {key: draws for split in self.splits.values() for key, draws in split.items()}


def draws_in_force(
    operator: Operator, subscriber_id: int, known: Mapping[RecordKey, InForce]
) -> Split:
    """Which buckets pay for each of a subscriber's records, adjusted ones too."""
    return _in_force(known, drawn_of(operator, subscriber_id, known))


def _in_force(known: Mapping[RecordKey, InForce], drawn: Drawn) -> Split:
    draws = drawn.draws
    for key, each in known.items():
        if each.draws is not None:  # the replay tells what it drew when it was charged
            draws[key] = [
                Draw(bucket, drawn.buckets[bucket].kind, units) for bucket, units in each.draws
            ]
    return draws


def untouched(known: Mapping[RecordKey, InForce]) -> list[UsageRecord]:
    """Those of which no adjustment says what they draw."""
    return [each.record for each in known.values() if each.draws is None]


def draws_of(operator: Operator, subscriber_id: int, records: Sequence[UsageRecord]) -> Split:
    """Which buckets paid for each of a subscriber's records when they were charged."""
    return drawn_by(operator, subscriber_id, records).draws


def drawn_of(operator: Operator, subscriber_id: int, known: Mapping[RecordKey, InForce]) -> Drawn:
    """The same by batch, of those that no adjustment tells of; and the buckets of all."""
    told_of = {bucket for each in known.values() for bucket, _ in each.draws or ()}
    return drawn_by(operator, subscriber_id, untouched(known), besides=told_of)


def drawn_by(
    operator: Operator,
    subscriber_id: int,
    records: Sequence[UsageRecord],
    *,
    besides: Set[int] = frozenset(),
) -> Drawn:
    """What these records drew, by batch. `besides` are other buckets that are wanted."""
    batch_ids = {record.batch_id for record in records}
    batches = UsageBatch.objects.in_bulk(batch_ids)
    days = [batch.charged_at for batch in batches.values()]
    entries: dict[int, list[tuple[int, int]]] = defaultdict(list)
    if batches:
        for batch_id, bucket_id, units in BucketEntry.objects.filter(
            subscriber_id=subscriber_id,
            batch_id__in=batch_ids,
            kind=BucketEntry.Kind.USAGE,
            charged_at__range=(min(days), max(days)),
        ).values_list("batch_id", "bucket_id", "units"):
            entries[batch_id].append((bucket_id, units))
    found = _buckets(
        subscriber_id, besides | {bucket for drawn in entries.values() for bucket, _ in drawn}
    )
    held = {bucket: _source(row) for bucket, row in found.items()}
    splits: dict[int, Split] = defaultdict(dict)
    for record in records:
        drawn = entries[record.batch_id]
        if len(drawn) == 1 and record.units:
            bucket = held[drawn[0][0]]
            splits[record.batch_id][key_of(record)] = [Draw(bucket.id, bucket.kind, record.units)]
    shared = {
        batch_id: {bucket: dataclasses.replace(held[bucket], left=units) for bucket, units in drawn}
        for batch_id, drawn in entries.items()
        if len(drawn) > 1
    }
    splits |= _replayed(operator, subscriber_id, batches, shared)
    return Drawn(dict(splits), batches, found)


def sources_of(subscriber_id: int, bucket_ids: Iterable[int]) -> dict[int, demands.Source]:
    """Buckets as the burn sees them, with nothing left."""
    return {pk: _source(row) for pk, row in _buckets(subscriber_id, bucket_ids).items()}


def _buckets(subscriber_id: int, bucket_ids: Iterable[int]) -> dict[int, Bucket]:
    rows = Bucket.objects.filter(subscriber_id=subscriber_id, id__in=set(bucket_ids))
    return {bucket.id: bucket for bucket in rows}


def _source(bucket: Bucket) -> demands.Source:
    return demands.Source(
        bucket.id, bucket.kind, bucket.priority, 0, bucket.valid_from, bucket.valid_until
    )


def _replayed(
    operator: Operator,
    subscriber_id: int,
    batches: Mapping[int, UsageBatch],
    shared: Mapping[int, dict[int, demands.Source]],
) -> dict[int, Split]:
    """The splits of these batches of one subscriber over the buckets that each drew.

    What of it was frozen stands, whatever has become of periods and suspensions since.
    """
    if not shared:
        return {}
    since = min(batches[batch_id].occurred_from for batch_id in shared)
    until = max(batches[batch_id].occurred_to for batch_id in shared)
    uses, first_draws = _uses_of(subscriber_id, shared, since=since, until=until)
    past = _past_of(subscriber_id, since=since, until=until)
    zone = ZoneInfo(operator.time_zone)
    found: dict[int, Split] = {}
    for batch_id, left in shared.items():
        batch, order = batches[batch_id], sorted(uses[batch_id])
        frozen = {
            key: [Draw(bucket, left[bucket].kind, -units) for bucket, units in first_draws[key]]
            for key, _ in order
            if key in first_draws
        }
        for draw in (draw for draws in frozen.values() for draw in draws):
            left[draw.bucket_id] = left[draw.bucket_id].less(draw.units)
        groups = grouped(
            [(key, units) for key, units in order if key not in frozen],
            past.holding(batch.charged_at),
            zone,
        )
        splits = split(groups, left, at=batch.charged_at, grace=operator.late_grace)
        found[batch_id] = frozen | splits
    return found


# One question, as pages of requests ask it besides many others. The first row against a record says
# what it had drawn.
_USES_SQL = """
SELECT batch_id, occurred_at, gateway_id, source, record_id, units, NULL
FROM metering_usagerecord
WHERE subscriber_id = %(subscriber)s AND batch_id = ANY(%(batches)s) AND units > 0
  AND occurred_at BETWEEN %(since)s AND %(until)s
UNION ALL
SELECT NULL, occurred_at, gateway_id, source, record_id, NULL, draws
FROM metering_adjustedrecord
WHERE subscriber_id = %(subscriber)s AND nr = 1 AND occurred_at BETWEEN %(since)s AND %(until)s
"""


def _uses_of(
    subscriber_id: int, batch_ids: Iterable[int], *, since: dt.datetime, until: dt.datetime
) -> tuple[dict[int, list[tuple[RecordKey, int]]], dict[RecordKey, list[tuple[int, int]]]]:
    """The units of all records of these batches, and what of that time was frozen."""
    uses: dict[int, list[tuple[RecordKey, int]]] = defaultdict(list)
    frozen: dict[RecordKey, list[tuple[int, int]]] = {}
    asked: dict[str, Any] = {
        "subscriber": subscriber_id,
        "batches": sorted(batch_ids),
        "since": since,
        "until": until,
    }
    with connection.cursor() as cursor:
        cursor.execute(_USES_SQL, asked)
        for batch_id, at, gateway_id, source, record_id, units, draws in cursor:
            key = (at, gateway_id, source, record_id)
            if batch_id is None:
                frozen[key] = json.loads(draws)
            else:
                uses[batch_id].append((key, units))
    return uses, frozen


def grouped(uses: Iterable[tuple[RecordKey, int]], holding: Holding, zone: ZoneInfo) -> list[Group]:
    """Usage by period and suspension, as the charge groups it."""
    groups: dict[tuple[dt.datetime, int, bool], Group] = {}
    for key, units in uses:
        period = holding.period_at(key[0], zone)
        suspended = period.suspends or holding.suspended_at(key[0])
        which = (period.since, period.subscription_id or 0, suspended)
        group = groups.setdefault(which, Group(period, suspended, []))
        group.uses.append((key, units))
    return [group for _, group in sorted(groups.items(), key=lambda item: item[0])]


def split(
    groups: Iterable[Group],
    left: dict[int, demands.Source],
    *,
    at: dt.datetime,
    grace: dt.timedelta,
) -> Split:
    """Let usage consume what was drawn for all of it; `left` is used up.

    Where what is known of periods and suspensions now would have a bucket not pay that did, the
    units are given to who is short: they were drawn, and the parts have to add up.
    """
    draws: Split = defaultdict(list)
    short: list[tuple[RecordKey, int]] = []
    for group in groups:
        payable = functools.partial(
            demands.may_pay, period=group.period, suspended=group.suspended, at=at, grace=grace
        )
        given: dict[RecordKey, int] = defaultdict(int)
        times = [(key[0], units) for key, units in group.uses]
        gone: dict[int, int] = defaultdict(int)
        for index, source, units in demands.allot(times, list(left.values()), payable):
            key = group.uses[index][0]
            gone[source.id] += units
            given[key] += units
            draws[key].append(Draw(source.id, source.kind, units))
        for bucket_id, units in gone.items():
            left[bucket_id] = left[bucket_id].less(units)
        short += [(key, units - given[key]) for key, units in group.uses if units > given[key]]
    rest = [(key[0], units) for key, units in short]
    for index, source, units in demands.allot(rest, list(left.values()), lambda *_: True):
        left[source.id] = left[source.id].less(units)
        draws[short[index][0]].append(Draw(source.id, source.kind, units))
    return dict(draws)


def holding_of(subscriber_id: int, *, since: dt.datetime, until: dt.datetime) -> Holding:
    """Periods with their plans, and suspensions, of the subscriber in that time."""
    return _past_of(subscriber_id, since=since, until=until).holding(LATEST)


class _Past(NamedTuple):
    """What was sold and suspended in a time, and since when each is known."""

    # (starts_at, ends_at, subscription, plan, known since)
    periods: list[tuple[dt.datetime, dt.datetime, int, int, dt.datetime]]
    # (start of its period, at, subscription, new plan)
    upgrades: list[tuple[dt.datetime, dt.datetime, int, int]]
    suspensions: list[tuple[dt.datetime, dt.datetime | None]]

    def holding(self, known_at: dt.datetime) -> Holding:
        """As it was known at an instant: usage some minutes ahead of the clock was charged before
        what was sold or suspended meanwhile."""
        periods = []
        for starts_at, ends_at, subscription_id, plan_id, known_since in self.periods:
            if known_since > known_at:
                continue
            periods.append(demands.Period(starts_at, ends_at, subscription_id, policy_of(plan_id)))
            periods += [
                demands.Period(starts_at, ends_at, subscription_id, policy_of(new_plan_id), at)
                for start, at, upgraded_id, new_plan_id in self.upgrades
                if (upgraded_id, start) == (subscription_id, starts_at) and at <= known_at
            ]
        return Holding(
            periods=periods,
            suspensions=[
                (starts_at, ends_at if ends_at is not None and ends_at <= known_at else None)
                for starts_at, ends_at in self.suspensions
                if starts_at < known_at
            ],
        )


# One question, as pages of requests ask it besides many others.
_PAST_SQL = """
SELECT 1 AS what, 0 AS nr, p.starts_at, p.ends_at, p.subscription_id, p.plan_id, s.created_at
FROM subscriptions_subscriptionperiod p
JOIN subscriptions_subscription s
  ON s.subscriber_id = p.subscriber_id AND s.id = p.subscription_id
WHERE p.subscriber_id = %(subscriber)s AND p.starts_at <= %(until)s AND p.ends_at > %(since)s
UNION ALL
SELECT 2, nr, period_start, at, subscription_id, new_plan_id, NULL FROM subscriptions_upgrade
WHERE subscriber_id = %(subscriber)s
UNION ALL
SELECT 3, 0, starts_at, ends_at, NULL, NULL, NULL FROM subscriptions_suspension
WHERE subscriber_id = %(subscriber)s
ORDER BY what, nr
"""


def _past_of(subscriber_id: int, *, since: dt.datetime, until: dt.datetime) -> _Past:
    past = _Past([], [], [])
    with connection.cursor() as cursor:
        cursor.execute(_PAST_SQL, {"subscriber": subscriber_id, "since": since, "until": until})
        for what, _nr, first, second, subscription_id, plan_id, known_since in cursor.fetchall():
            if what == 1:
                past.periods.append((first, second, subscription_id, plan_id, known_since))
            elif what == 2:
                past.upgrades.append((first, second, subscription_id, plan_id))
            else:
                past.suspensions.append((first, second))
    return past


def as_json(
    operator: Operator, subscriber_id: int, records: Sequence[UsageRecord]
) -> list[dict[str, Any]]:
    """Records for the API as they are in force, each with its receipt and what adjusted it."""
    known = adjusted.in_force(subscriber_id, records)
    items = told(known, drawn_of(operator, subscriber_id, known))
    decisions = _decisions(subscriber_id, known.values())
    for item, each in zip(items, known.values(), strict=True):
        item["adjustments"] = [
            _step(row, after, decisions[row.batch_id]) for row, after in _steps(each)
        ]
    return items


def told(known: Mapping[RecordKey, InForce], drawn: Drawn) -> list[dict[str, Any]]:
    """The same of what is known already, in its order, without what adjusted it."""
    draws = _in_force(known, drawn)
    states = {key: each.state or adjusted.state_of(each.record) for key, each in known.items()}
    weights = _weights_of({state.weight_id for state in states.values()})
    subjects = dict(
        Subject.objects.filter(
            pk__in={each.record.subject_id for each in known.values()}
        ).values_list("pk", "subject")
    )
    return [
        _receipt(
            each,
            weights[states[key].weight_id],
            subjects[each.record.subject_id],
            draws.get(key, []),
        )
        for key, each in known.items()
    ]


def _weights_of(ids: Set[int]) -> dict[int, RateCardWeight]:
    found = {pk: weight for pk in ids if (weight := _weights.get(pk)) is not None}
    if len(found) < len(ids):
        rows = RateCardWeight.objects.select_related("rate_card").in_bulk(ids - found.keys())
        found |= rows
        if len(_weights) < _REMEMBERED_WEIGHTS:
            _weights.update(rows)
    return found


def _decisions(subscriber_id: int, known: Iterable[InForce]) -> dict[int, Adjustment]:
    batch_ids = {row.batch_id for each in known for row in each.rows}
    if not batch_ids:
        return {}
    rows = Adjustment.objects.filter(subscriber_id=subscriber_id, batch_id__in=batch_ids)
    return {row.batch_id: row for row in rows}


def _receipt(
    known: InForce,
    weight: RateCardWeight,
    subject: str,
    draws: list[Draw],
) -> dict[str, Any]:
    record = known.record
    said = known.state or adjusted.state_of(known.rows[-1])._replace(classes=(0,) * 5, units=0)
    names = ("uncached_input", "cached_input", "cache_write", "output", "reasoning")
    tokens = dict(zip(names, said.classes, strict=True))
    weighed = {
        "uncached_input": weight.input,
        "cached_input": weight.cached_input,
        "cache_write": weight.cache_write,
        "output": weight.output,
        "reasoning": weight.reasoning,
    }
    # Of an outcome that the plan gives away, nothing is weighed.
    billed = said.units > 0 or not said.outcome
    paid: dict[tuple[int, str], int] = defaultdict(int)
    for draw in draws:
        paid[draw.bucket_id, draw.kind] += draw.units
    return {
        "id": record.record_id,
        "subject": subject,
        "model": said.model,
        "occurred_at": record.occurred_at,
        "outcome": said.outcome or None,
        "voided": known.state is None,
        "input_tokens": tokens["uncached_input"] + tokens["cached_input"] + tokens["cache_write"],
        "cached_input_tokens": tokens["cached_input"],
        "cache_write_tokens": tokens["cache_write"],
        "output_tokens": tokens["output"] + tokens["reasoning"],
        "reasoning_tokens": tokens["reasoning"],
        "units": to_wire(said.units),
        "receipt": {
            "rate_card": weight.rate_card.code,
            "rate_card_version": weight.rate_card.version,
            "lines": [
                {
                    "class": name,
                    "tokens": count,
                    "weight": str(weighed[name]),
                    "units": to_wire(int(count * weighed[name] * THOUSANDTHS)),
                }
                for name, count in tokens.items()
                if count and billed
            ],
            "buckets": [
                {"id": str(bucket_id), "kind": kind, "units": to_wire(units)}
                for (bucket_id, kind), units in paid.items()
            ],
        },
    }


def _steps(known: InForce) -> list[tuple[AdjustedRecord, AdjustedRecord | None]]:
    """What was taken back, with what came in its place, step by step."""
    rows = known.rows
    return [
        (rows[nr], rows[nr + 1] if nr + 1 < len(rows) else None) for nr in range(0, len(rows), 2)
    ]


def _step(
    row: AdjustedRecord, after: AdjustedRecord | None, decision: Adjustment
) -> dict[str, Any]:
    return {
        "batch": str(decision.batch_id),
        "kind": Adjustment.Kind(decision.kind).name.lower(),
        "reason": decision.reason,
        "made_by": decision.made_by,
        "made_at": decision.made_at,
        "units_before": to_wire(-row.units),
        "units_after": to_wire(after.units if after else 0),
    }
