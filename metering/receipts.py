"""A record's receipt: tokens by class x weight = units, and the buckets that paid.

Nothing is stored for it until a record is adjusted. A batch has one journal entry per bucket; its
records, in (occurred_at, gateway, id) order, consume these entries in burn order: the same walk as
the charge's own. An adjustment freezes its record's part of that as a row.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from metering import adjusted
from metering.adjusted import InForce, RecordKey, key_of
from metering.context import Holding
from metering.models import AdjustedRecord, Adjustment, UsageBatch, UsageRecord
from metering.parsing import LATEST
from subscriptions import buckets
from subscriptions.models import (
    Bucket,
    BucketEntry,
    Operator,
    RateCardWeight,
    Subject,
    Subscription,
    SubscriptionPeriod,
    Suspension,
    Upgrade,
)
from subscriptions.policies import policy_of
from subscriptions.units import THOUSANDTHS, to_wire


class Draw(NamedTuple):
    """Units (thousandths) of one record that one bucket paid."""

    bucket_id: int
    kind: str
    units: int


Split = dict[RecordKey, list[Draw]]


class Group(NamedTuple):
    """Usage of one period that is paid alike, in the order in which it consumes buckets."""

    period: buckets.Period
    suspended: bool
    uses: list[tuple[RecordKey, int]]


def draws_in_force(
    operator: Operator, subscriber_id: int, known: Mapping[RecordKey, InForce]
) -> Split:
    """Which buckets pay for each of a subscriber's records, adjusted ones too."""
    untouched = [each.record for each in known.values() if each.draws is None]
    draws = draws_of(operator, subscriber_id, untouched)
    kinds = _kinds(
        subscriber_id, {bucket for each in known.values() for bucket, _ in each.draws or ()}
    )
    for key, each in known.items():
        if each.draws is not None:  # the replay tells what it drew when it was charged
            draws[key] = [Draw(bucket, kinds[bucket], units) for bucket, units in each.draws]
    return draws


def draws_of(operator: Operator, subscriber_id: int, records: Sequence[UsageRecord]) -> Split:
    """Which buckets paid for each of a subscriber's records when they were charged."""
    batch_ids = {record.batch_id for record in records}
    batches = UsageBatch.objects.in_bulk(batch_ids)
    if not batches:
        return {}
    days = [batch.charged_at for batch in batches.values()]
    entries: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for batch_id, bucket_id, units in BucketEntry.objects.filter(
        subscriber_id=subscriber_id,
        batch_id__in=batch_ids,
        kind=BucketEntry.Kind.USAGE,
        charged_at__range=(min(days), max(days)),
    ).values_list("batch_id", "bucket_id", "units"):
        entries[batch_id].append((bucket_id, units))
    held = sources_of(subscriber_id, {bucket for drawn in entries.values() for bucket, _ in drawn})
    draws: Split = {}
    for record in records:
        drawn = entries[record.batch_id]
        if len(drawn) == 1 and record.units:
            bucket = held[drawn[0][0]]
            draws[key_of(record)] = [Draw(bucket.id, bucket.kind, record.units)]
    for batch_id, drawn in entries.items():
        if len(drawn) > 1:
            left = {
                bucket: dataclasses.replace(held[bucket], left=units) for bucket, units in drawn
            }
            draws |= _replay(operator, subscriber_id, batches[batch_id], left)
    return draws


def sources_of(subscriber_id: int, bucket_ids: Iterable[int]) -> dict[int, buckets.Source]:
    """Buckets as the burn sees them, with nothing left."""
    return {
        bucket.id: buckets.Source(
            bucket.id, bucket.kind, bucket.priority, 0, bucket.valid_from, bucket.valid_until
        )
        for bucket in Bucket.objects.filter(subscriber_id=subscriber_id, id__in=set(bucket_ids))
    }


def _kinds(subscriber_id: int, bucket_ids: Iterable[int]) -> dict[int, str]:
    rows = Bucket.objects.filter(subscriber_id=subscriber_id, id__in=set(bucket_ids))
    return dict(rows.values_list("id", "kind"))


def _replay(
    operator: Operator, subscriber_id: int, batch: UsageBatch, left: dict[int, buckets.Source]
) -> Split:
    """The split of one batch of one subscriber over the buckets it drew.

    What of it was frozen stands, whatever has become of periods and suspensions since.
    """
    records = sorted(
        UsageRecord.objects.filter(
            subscriber_id=subscriber_id,
            batch_id=batch.id,
            occurred_at__range=(batch.occurred_from, batch.occurred_to),
            units__gt=0,
        ),
        key=key_of,
    )
    frozen = {
        key: [Draw(bucket, left[bucket].kind, -units) for bucket, units in rows[0].draws]
        for key, rows in adjusted.rows_of(subscriber_id, records).items()
    }
    for draw in (draw for draws in frozen.values() for draw in draws):
        left[draw.bucket_id] = left[draw.bucket_id].less(draw.units)
    uses = [(key_of(r), r.units) for r in records if key_of(r) not in frozen]
    holding = holding_of(
        subscriber_id, since=batch.occurred_from, until=batch.occurred_to, known_at=batch.charged_at
    )
    groups = grouped(uses, holding, ZoneInfo(operator.time_zone))
    return frozen | split(groups, left, at=batch.charged_at, grace=operator.late_grace)


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
    left: dict[int, buckets.Source],
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
            buckets.may_pay, period=group.period, suspended=group.suspended, at=at, grace=grace
        )
        given: dict[RecordKey, int] = defaultdict(int)
        times = [(key[0], units) for key, units in group.uses]
        for index, source, units in buckets.allot(times, list(left.values()), payable):
            key = group.uses[index][0]
            left[source.id] = left[source.id].less(units)
            given[key] += units
            draws[key].append(Draw(source.id, source.kind, units))
        short += [(key, units - given[key]) for key, units in group.uses if units > given[key]]
    rest = [(key[0], units) for key, units in short]
    for index, source, units in buckets.allot(rest, list(left.values()), lambda *_: True):
        left[source.id] = left[source.id].less(units)
        draws[short[index][0]].append(Draw(source.id, source.kind, units))
    return dict(draws)


def holding_of(
    subscriber_id: int,
    *,
    since: dt.datetime,
    until: dt.datetime,
    known_at: dt.datetime = LATEST,
) -> Holding:
    """Periods with their plans, and suspensions, of the subscriber in that time.

    As they were known at an instant: usage some minutes ahead of the clock was charged before
    what was sold or suspended meanwhile.
    """
    sold = Subscription.objects.filter(subscriber_id=subscriber_id, created_at__lte=known_at)
    rows = SubscriptionPeriod.objects.filter(
        subscriber_id=subscriber_id,
        subscription_id__in=sold.values("id"),
        starts_at__lte=until,
        ends_at__gt=since,
    )
    upgrades = Upgrade.objects.filter(subscriber_id=subscriber_id, at__lte=known_at).order_by("nr")
    periods = []
    for row in rows:
        ends_at, subscription_id = row.ends_at, row.subscription_id
        periods.append(
            buckets.Period(row.starts_at, ends_at, subscription_id, policy_of(row.plan_id))
        )
        periods += [
            buckets.Period(
                row.starts_at, ends_at, subscription_id, policy_of(upgrade.new_plan_id), upgrade.at
            )
            for upgrade in upgrades
            if (upgrade.subscription_id, upgrade.period_start) == (subscription_id, row.starts_at)
        ]
    return Holding(
        periods=periods,
        suspensions=[
            (starts_at, ends_at if ends_at is not None and ends_at <= known_at else None)
            for starts_at, ends_at in Suspension.objects.filter(
                subscriber_id=subscriber_id, starts_at__lt=known_at
            ).values_list("starts_at", "ends_at")
        ],
    )


def as_json(
    operator: Operator, subscriber_id: int, records: Sequence[UsageRecord]
) -> list[dict[str, Any]]:
    """Records for the API as they are in force, each with its receipt and what adjusted it."""
    known = adjusted.in_force(subscriber_id, records)
    draws = draws_in_force(operator, subscriber_id, known)
    weights = {
        weight.pk: weight
        for weight in RateCardWeight.objects.select_related("rate_card").filter(
            pk__in={each.state.weight_id for each in known.values() if each.state}
            | {record.weight_id for record in records}
        )
    }
    subjects = dict(
        Subject.objects.filter(pk__in={record.subject_id for record in records}).values_list(
            "pk", "subject"
        )
    )
    decisions = _decisions(subscriber_id, known.values())
    return [
        _receipt(
            each,
            weights[(each.state or adjusted.state_of(each.record)).weight_id],
            subjects[each.record.subject_id],
            draws.get(key, []),
            decisions,
        )
        for key, each in known.items()
    ]


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
    decisions: Mapping[int, Adjustment],
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
        "adjustments": [_step(row, after, decisions[row.batch_id]) for row, after in _steps(known)],
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
