"""What is in force of usage records: as they were charged, or as adjustments left them."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

from metering.models import AdjustedRecord, UsageRecord
from metering.weighing import Weight
from subscriptions import partitions

ADJUSTED = partitions.DayTable(
    "metering_adjustedrecord",
    "occurred_at",
    indexes=(
        "CREATE UNIQUE INDEX {name}_key ON {name}"
        " (subscriber_id, gateway_id, source, record_id, nr)",
    ),
)

RecordKey = tuple[dt.datetime, int, str, str]
Classes = tuple[int, int, int, int, int]


class State(NamedTuple):
    """What a record says and costs: tokens by exclusive class, units in thousandths."""

    model: str
    outcome: str  # empty: complete
    classes: Classes
    weight_id: int
    units: int


@dataclass(slots=True)
class InForce:
    """A record and what became of it. `state` is None where it is void.

    `rows` are those against it and in its place, in order; `draws` the (bucket, units) that the
    last of them left, in the order drawn: None where it follows from the record's batch.
    """

    record: UsageRecord
    state: State | None
    draws: list[tuple[int, int]] | None
    rows: list[AdjustedRecord]


def key_of(record: UsageRecord | AdjustedRecord) -> RecordKey:
    """The order in which a batch's records consume its entries; unique within a subscriber."""
    return record.occurred_at, record.gateway_id, record.source, record.record_id


def state_of(row: UsageRecord | AdjustedRecord) -> State:
    return State(
        row.model,
        row.outcome,
        (
            row.uncached_input_tokens,
            row.cached_input_tokens,
            row.cache_write_tokens,
            row.output_tokens,
            row.reasoning_tokens,
        ),
        row.weight_id,
        row.units,
    )


def weigh(classes: Classes, weight: Weight) -> int:
    """Tokens times weights, in thousandths of a unit."""
    return sum(count * each for count, each in zip(classes, weight[1:], strict=True))


def in_force(subscriber_id: int, records: Sequence[UsageRecord]) -> dict[RecordKey, InForce]:
    """What is in force of these records of one subscriber, by key, in their order."""
    rows = rows_of(subscriber_id, records)
    found: dict[RecordKey, InForce] = {}
    for record in records:
        key = key_of(record)
        own = rows.get(key, [])
        state: State | None = state_of(own[-1] if own else record)
        draws = None
        if own:
            voided = own[-1].requests < 0
            state = None if voided else state
            draws = [] if voided else [(bucket, units) for bucket, units in own[-1].draws]
        found[key] = InForce(record, state, draws, own)
    return found


def rows_of(
    subscriber_id: int, records: Iterable[UsageRecord]
) -> dict[RecordKey, list[AdjustedRecord]]:
    """The rows against these records of one subscriber and in their place, in order."""
    return rows_by_key(subscriber_id, {key_of(record) for record in records})


def rows_by_key(subscriber_id: int, keys: Set[RecordKey]) -> dict[RecordKey, list[AdjustedRecord]]:
    """The same of records by their keys."""
    if not keys:
        return {}
    found: dict[RecordKey, list[AdjustedRecord]] = defaultdict(list)
    times = [key[0] for key in keys]
    for row in AdjustedRecord.objects.filter(
        subscriber_id=subscriber_id, occurred_at__range=(min(times), max(times))
    ).order_by("nr"):
        if key_of(row) in keys:
            found[key_of(row)].append(row)
    return found
