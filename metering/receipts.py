"""A record's receipt: tokens by class x weight = units, and the buckets that paid.

Nothing is stored for it. A batch has one journal entry per bucket; its records, in (occurred_at,
gateway, id) order, consume these entries in burn order: the same walk as the charge's own.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from metering.context import Holding
from metering.models import UsageBatch, UsageRecord
from subscriptions import buckets
from subscriptions.models import (
    Bucket,
    BucketEntry,
    Operator,
    RateCardWeight,
    Subject,
    SubscriptionPeriod,
    Suspension,
)
from subscriptions.units import THOUSANDTHS, to_wire


class Draw(NamedTuple):
    """Units (thousandths) of one record that one bucket paid."""

    bucket_id: int
    kind: str
    units: int


RecordKey = tuple[dt.datetime, int, str, str]


def key_of(record: UsageRecord) -> RecordKey:
    """The order in which a batch's records consume its entries; unique within a subscriber."""
    return record.occurred_at, record.gateway_id, record.source, record.record_id


def draws_of(
    operator: Operator, subscriber_id: int, records: Sequence[UsageRecord]
) -> dict[RecordKey, list[Draw]]:
    """Which buckets paid for each of a subscriber's records."""
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
    paying = {bucket for drawn in entries.values() for bucket, _ in drawn}
    held = {
        bucket.id: bucket
        for bucket in Bucket.objects.filter(subscriber_id=subscriber_id, id__in=paying)
    }
    draws: dict[RecordKey, list[Draw]] = {}
    for record in records:
        drawn = entries[record.batch_id]
        if len(drawn) == 1 and record.units:
            bucket = held[drawn[0][0]]
            draws[key_of(record)] = [Draw(bucket.id, bucket.kind, record.units)]
    for batch_id, drawn in entries.items():
        if len(drawn) > 1:
            left = {bucket: _source(held[bucket], units) for bucket, units in drawn}
            draws |= _replay(operator, subscriber_id, batches[batch_id], left)
    return draws


def _source(bucket: Bucket, drawn: int) -> buckets.Source:
    """The bucket as the burn sees it, with just what the batch drew of it left."""
    return buckets.Source(
        bucket.id, bucket.kind, bucket.priority, drawn, bucket.valid_from, bucket.valid_until
    )


def _replay(
    operator: Operator, subscriber_id: int, batch: UsageBatch, left: dict[int, buckets.Source]
) -> dict[RecordKey, list[Draw]]:
    """The split of one batch of one subscriber over the buckets it drew."""
    records = sorted(
        UsageRecord.objects.filter(
            subscriber_id=subscriber_id,
            batch_id=batch.id,
            occurred_at__range=(batch.occurred_from, batch.occurred_to),
            units__gt=0,
        ),
        key=key_of,
    )
    holding = _holding(subscriber_id, batch)
    groups: dict[tuple[dt.datetime, bool], tuple[buckets.Period, list[UsageRecord]]] = {}
    for record in records:
        period = holding.period_at(record.occurred_at, ZoneInfo(operator.time_zone))
        suspended = holding.suspended_at(record.occurred_at)
        groups.setdefault((period.starts_at, suspended), (period, []))[1].append(record)
    draws: dict[RecordKey, list[Draw]] = defaultdict(list)
    for (_, suspended), (period, group) in sorted(groups.items()):
        payable = functools.partial(
            buckets.may_pay,
            period=period,
            suspended=suspended,
            at=batch.charged_at,
            grace=operator.late_grace,
        )
        uses = [(record.occurred_at, record.units) for record in group]
        for index, source, units in buckets.allot(uses, list(left.values()), payable):
            held = left[source.id]
            left[source.id] = dataclasses.replace(held, left=(held.left or 0) - units)
            draws[key_of(group[index])].append(Draw(source.id, source.kind, units))
    return draws


def _holding(subscriber_id: int, batch: UsageBatch) -> Holding:
    """Periods and suspensions of the subscriber around a batch."""
    return Holding(
        periods=[
            buckets.Period(period.starts_at, period.ends_at, period.subscription_id)
            for period in SubscriptionPeriod.objects.filter(
                subscriber_id=subscriber_id,
                starts_at__lte=batch.occurred_to,
                ends_at__gt=batch.occurred_from,
            )
        ],
        suspensions=[
            (suspension.starts_at, suspension.ends_at)
            for suspension in Suspension.objects.filter(subscriber_id=subscriber_id)
        ],
    )


def as_json(
    operator: Operator, subscriber_id: int, records: Sequence[UsageRecord]
) -> list[dict[str, Any]]:
    """Records for the API, each with its receipt."""
    draws = draws_of(operator, subscriber_id, records)
    weights = {
        weight.pk: weight
        for weight in RateCardWeight.objects.select_related("rate_card").filter(
            pk__in={record.weight_id for record in records}
        )
    }
    subjects = dict(
        Subject.objects.filter(pk__in={record.subject_id for record in records}).values_list(
            "pk", "subject"
        )
    )
    return [
        _receipt(record, weights[record.weight_id], subjects[record.subject_id], draws)
        for record in records
    ]


def _receipt(
    record: UsageRecord,
    weight: RateCardWeight,
    subject: str,
    draws: dict[RecordKey, list[Draw]],
) -> dict[str, Any]:
    tokens = {
        "uncached_input": record.uncached_input_tokens,
        "cached_input": record.cached_input_tokens,
        "cache_write": record.cache_write_tokens,
        "output": record.output_tokens,
        "reasoning": record.reasoning_tokens,
    }
    weighed = {
        "uncached_input": weight.input,
        "cached_input": weight.cached_input,
        "cache_write": weight.cache_write,
        "output": weight.output,
        "reasoning": weight.reasoning,
    }
    # Of an outcome that the plan gives away, nothing is weighed.
    billed = record.units > 0 or not record.outcome
    return {
        "id": record.record_id,
        "subject": subject,
        "model": record.model,
        "occurred_at": record.occurred_at,
        "outcome": record.outcome or None,
        "input_tokens": tokens["uncached_input"] + tokens["cached_input"] + tokens["cache_write"],
        "cached_input_tokens": tokens["cached_input"],
        "cache_write_tokens": tokens["cache_write"],
        "output_tokens": tokens["output"] + tokens["reasoning"],
        "reasoning_tokens": tokens["reasoning"],
        "units": to_wire(record.units),
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
                {"id": str(draw.bucket_id), "kind": draw.kind, "units": to_wire(draw.units)}
                for draw in draws.get(key_of(record), [])
            ],
        },
    }
