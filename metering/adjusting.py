"""After the fact: usage that never was, or was other than told. The only writer of adjustments.

Nothing is edited. A record gets a row against it, and one in its place where it is not void; its
units go back to the buckets that it drew, the last drawn first, and what it needs more is drawn as
late usage of its time would be. All of it is one journal batch, and in the balance, the receipts
and the hourly totals with its commit. Locks: the operator's, shared, as a charge has it; the
records by key; subscriptions, where a period has to be opened; then buckets.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

from django.db import connection
from django.db.models import Max
from psycopg.types.numeric import Int8

from metering import adjusted, outcomes, receipts, rollups
from metering.adjusted import ADJUSTED, Classes, InForce, RecordKey, State, key_of
from metering.context import Holding
from metering.models import AdjustedRecord, Adjustment, UsageRecord
from metering.receipts import Draw
from metering.weighing import cards_of
from subscriptions import buckets, clock, lifecycle, partitions, pgarrays
from subscriptions.demands import Demand
from subscriptions.errors import Conflict, Invalid, NotFound
from subscriptions.models import BucketEntry, Gateway, Operator, RateCard, RateCardWeight

_ROWS_AT_ONCE = 5_000
Result = TypeVar("Result")


class Ambiguous(Conflict):
    cause = "ambiguous_record"


class Voided(Conflict):
    cause = "voided"


class UnknownModel(Invalid):
    cause = "unknown_model"


class Name(NamedTuple):
    """What a caller calls a record; None where it may be any."""

    id: str
    gateway: str | None = None
    source: str | None = None
    occurred_at: dt.datetime | None = None


class Why(NamedTuple):
    """For the audit: the reason given, and the name of the key that gave it."""

    reason: str
    made_by: str


@dataclass(frozen=True, slots=True)
class Said:
    """What a record should have said; None where it was right. Totals are inclusive."""

    model: str | None = None
    outcome: str | None = None
    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None


class Adjusted(NamedTuple):
    """A record, and the decision that it is in force by; None where it was right before."""

    record: UsageRecord
    adjustment: Adjustment | None


class Change(NamedTuple):
    """A record and what is to be in force of it: None makes it void."""

    known: InForce
    after: State | None


def void(
    operator: Operator, subscriber_id: int, name: Name, why: Why, *, at: dt.datetime
) -> Adjusted:
    """Take a record back as if it never was. One that is void already stays so, for its reason.

    Raises NotFound, Ambiguous.
    """

    def make(desk: Desk, known: InForce) -> Adjusted:
        if known.state is None:
            made = Adjustment.objects.get(
                subscriber_id=subscriber_id, batch_id=known.rows[-1].batch_id
            )
            return Adjusted(known.record, made)
        kind = Adjustment.Kind.VOID
        return Adjusted(known.record, desk.adjust([Change(known, None)], kind, why))

    return _of_one(operator, subscriber_id, name, make, at=at)


def correct(
    operator: Operator, subscriber_id: int, name: Name, said: Said, why: Why, *, at: dt.datetime
) -> Adjusted:
    """Let a record say what it should have said. What says so already is left as it is.

    It is weighed by the card that weighs it now, as of its time, and billed as its outcome and the
    plan of its time say. Raises NotFound, Ambiguous, Voided, UnknownModel, Invalid.
    """

    def make(desk: Desk, known: InForce) -> Adjusted:
        if known.state is None:
            raise Voided("the record is void; send what was used under another id")
        after = desk.weigh(known.record, known.state, said)
        if after == known.state:
            return Adjusted(known.record, None)
        kind = Adjustment.Kind.CORRECTION
        return Adjusted(known.record, desk.adjust([Change(known, after)], kind, why))

    return _of_one(operator, subscriber_id, name, make, at=at)


def _of_one(
    operator: Operator,
    subscriber_id: int,
    name: Name,
    make: Callable[[Desk, InForce], Adjusted],
    *,
    at: dt.datetime,
) -> Adjusted:
    key = _find(operator, subscriber_id, name)

    def once() -> Adjusted:
        desk = Desk(operator, subscriber_id, at=at)
        [record] = desk.lock([key])
        [known] = adjusted.in_force(subscriber_id, [record]).values()
        return make(desk, known)

    return buckets.attempt(once)


def _find(operator: Operator, subscriber_id: int, name: Name) -> RecordKey:
    if "\0" in name.id:  # PostgreSQL refuses to compare with it
        raise NotFound("the subscriber has no such record")
    gateways = Gateway.objects.filter(operator=operator)
    if name.gateway is not None:
        gateways = gateways.filter(name=name.gateway)
    names = dict(gateways.values_list("pk", "name"))
    rows = UsageRecord.objects.filter(
        subscriber_id=subscriber_id, gateway_id__in=names, record_id=name.id
    )
    if name.source is not None:
        rows = rows.filter(source=name.source)
    if name.occurred_at is not None:
        rows = rows.filter(occurred_at=name.occurred_at)
    found = [key_of(row) for row in rows.order_by("occurred_at", "gateway_id", "source")[:6]]
    if not found:
        raise NotFound("the subscriber has no such record")
    if len(found) > 1:
        some = "; ".join(
            f"gateway {names[key[1]]!r}, source {key[2]!r}, occurred_at {key[0].isoformat()}"
            for key in found[:5]
        )
        raise Ambiguous(f"several records have this id, so say which: {some}")
    return found[0]


# Their settings last until the transaction ends, so they come right before the locks they are for.
_BEGIN_SQL = f"SELECT {clock.LOCK_SHARED_SQL}"
_PLANNER_SQL = f"SELECT {buckets.PLANNER_SQL}"


class Desk:
    """One subscriber's adjustments in one transaction, at one instant of the operator's time."""

    def __init__(self, operator: Operator, subscriber_id: int, *, at: dt.datetime) -> None:
        """Takes the operator's lock, shared: its clock and cards hold until the commit."""
        assert connection.in_atomic_block
        self.cursor = pgarrays.cursor()
        self.cursor.execute(_BEGIN_SQL, [Int8(operator.pk)])
        self.operator = Operator.objects.get(pk=operator.pk)
        self.subscriber_id = subscriber_id
        self.at = self.operator.clock_at or at
        self.zone = ZoneInfo(self.operator.time_zone)

    def lock(self, keys: Sequence[RecordKey]) -> list[UsageRecord]:
        """Lock records against other adjustments, in one order. Raises NotFound."""
        rows = []
        for key in sorted(keys, key=lambda key: (key[2], key[3], key[0], key[1])):
            row = (
                UsageRecord.objects.filter(
                    subscriber_id=self.subscriber_id,
                    occurred_at=key[0],
                    gateway_id=key[1],
                    source=key[2],
                    record_id=key[3],
                )
                .select_for_update(no_key=True)
                .first()
            )
            if row is None:
                raise NotFound("the record was dropped just now")
            rows.append(row)
        return rows

    def lock_range(self, since: dt.datetime, until: dt.datetime) -> list[UsageRecord]:
        """Lock all of `[since, until)` against other adjustments, in that same order."""
        rows = UsageRecord.objects.filter(
            subscriber_id=self.subscriber_id, occurred_at__gte=since, occurred_at__lt=until
        ).order_by("source", "record_id", "occurred_at", "gateway_id")
        return list(rows.select_for_update(no_key=True))

    def weigh(self, record: UsageRecord, before: State, said: Said) -> State:
        """What a record is to say instead, and what that costs. Raises UnknownModel, Invalid."""
        classes = _classes(before.classes, said)
        model = before.model if said.model is None else said.model
        outcome = before.outcome if said.outcome is None else said.outcome
        card = RateCardWeight.objects.select_related("rate_card").get(pk=before.weight_id).rate_card
        stamp = RateCard.objects.filter(operator=self.operator).aggregate(newest=Max("pk"))
        version = cards_of(self.operator.pk, stamp["newest"] or 0).version_at(
            card.code, record.occurred_at
        )
        weight = version.weight_of(model) if version is not None else None
        if weight is None:
            raise UnknownModel(
                f"rate card {card.code!r} has no weight for {model!r} at {record.occurred_at}"
            )
        policy = self._holding([record.occurred_at]).period_at(record.occurred_at, self.zone).policy
        free = bool(outcome) and outcomes.is_free(outcome, policy)
        units = 0 if free else adjusted.weigh(classes, weight)
        return State(model, outcome, classes, weight.id, units)

    def _holding(self, times: Sequence[dt.datetime]) -> Holding:
        return receipts.holding_of(self.subscriber_id, since=min(times), until=max(times))

    def adjust(
        self,
        changes: Sequence[Change],
        kind: Adjustment.Kind,
        why: Why,
    ) -> Adjustment:
        """Put changes of locked records in force, all of them in one journal batch."""
        times = [change.known.record.occurred_at for change in changes]
        today = [partitions.day_of(self.at)]
        partitions.ensure(partitions.ENTRIES, today)
        partitions.ensure(ADJUSTED, {partitions.day_of(time) for time in times})
        until = max(self.at, *times)
        lifecycle.ensure_open([self.subscriber_id], at=self.at, until=until)
        before = receipts.draws_in_force(
            self.operator,
            self.subscriber_id,
            {key_of(change.known.record): change.known for change in changes},
        )
        after: receipts.Split = {}
        back: dict[tuple[int, int], int] = defaultdict(int)
        more: list[tuple[RecordKey, int]] = []
        for known, wanted in changes:
            key = key_of(known.record)
            split = before.get(key, [])
            assert sum(draw.units for draw in split) == (known.state.units if known.state else 0)
            after[key], given, short = _resize(split, wanted.units if wanted else 0)
            for draw in given:
                back[self.subscriber_id, draw.bucket_id] += draw.units
            if short:
                more.append((key, short))
        batch_id = buckets.next_batch_id()
        for key, draws in self._move(batch_id, back, more).items():
            after[key] = after[key] + draws
        adjustment = Adjustment.objects.create(
            subscriber_id=self.subscriber_id,
            batch_id=batch_id,
            operator=self.operator,
            kind=kind,
            reason=why.reason,
            made_by=why.made_by,
            made_at=self.at,
            records=len(changes),
            units=sum(units for _, units in more) - sum(back.values()),
            occurred_from=min(times),
            occurred_to=max(times),
        )
        AdjustedRecord.objects.bulk_create(
            (
                row
                for known, wanted in changes
                for row in _rows(
                    known,
                    wanted,
                    batch_id,
                    before.get(key_of(known.record), []),
                    after[key_of(known.record)],
                )
            ),
            batch_size=_ROWS_AT_ONCE,
        )
        rollups.adjust(adjustment, self.operator.time_zone)
        return adjustment

    def _move(
        self,
        batch_id: int,
        back: dict[tuple[int, int], int],
        more: list[tuple[RecordKey, int]],
    ) -> receipts.Split:
        """Give units back and draw what is needed more; answers who of `more` drew what."""
        more.sort(key=lambda use: (use[0][0], use[0][2], use[0][3]))  # as a draw consumes them
        groups = []
        if more:
            holding = self._holding([key[0] for key, _ in more])
            groups = receipts.grouped(more, holding, self.zone)
        demands = [
            Demand(
                self.subscriber_id,
                group.period,
                group.suspended,
                None,
                sum(units for _, units in group.uses),
                [(self.subscriber_id, key[2], key[3], key[0], units) for key, units in group.uses],
            )
            for group in groups
        ]
        moving: dict[str, Any] = {
            "batch_id": batch_id,
            "at": self.at,
            "grace": self.operator.late_grace,
        }
        self.cursor.execute(_PLANNER_SQL)
        buckets.reverse(self.cursor, back, demands, **moving)
        if not demands:
            return {}
        arranged = buckets.arrange(demands, at=self.at, grace=self.operator.late_grace)
        buckets.draw(self.cursor, arranged, **moving)
        drawn = dict(
            BucketEntry.objects.filter(
                subscriber_id=self.subscriber_id,
                batch_id=batch_id,
                kind=BucketEntry.Kind.USAGE,
                charged_at=self.at,
            ).values_list("bucket_id", "units")
        )
        sources = receipts.sources_of(self.subscriber_id, drawn)
        left = {bucket: source.less(-drawn[bucket]) for bucket, source in sources.items()}
        return receipts.split(groups, left, at=self.at, grace=self.operator.late_grace)


def _classes(before: Classes, said: Said) -> Classes:
    """The exclusive classes of what should have been said. Raises Invalid."""
    uncached, cached, written, output, reasoning = before
    given = uncached + cached + written if said.input_tokens is None else said.input_tokens
    made = output + reasoning if said.output_tokens is None else said.output_tokens
    cached = cached if said.cached_input_tokens is None else said.cached_input_tokens
    written = written if said.cache_write_tokens is None else said.cache_write_tokens
    reasoning = reasoning if said.reasoning_tokens is None else said.reasoning_tokens
    if given < cached + written:
        raise Invalid("input_tokens holds cached and cache-write tokens, so it cannot be less")
    if made < reasoning:
        raise Invalid("output_tokens holds reasoning tokens, so it cannot be less")
    return given - cached - written, cached, written, made - reasoning, reasoning


def _resize(split: list[Draw], units: int) -> tuple[list[Draw], list[Draw], int]:
    """Of a split: what stays for `units`, what goes back (the last drawn first), what is short."""
    kept: list[Draw] = []
    given: list[Draw] = []
    due = units
    for draw in split:
        stays = min(due, draw.units)
        due -= stays
        if stays:
            kept.append(draw._replace(units=stays))
        if stays < draw.units:
            given.append(draw._replace(units=draw.units - stays))
    return kept, given, due


def _rows(
    known: InForce, after: State | None, batch_id: int, before: list[Draw], draws: list[Draw]
) -> list[AdjustedRecord]:
    """The row against what was in force, and the one in its place."""
    assert known.state is not None
    nr = len(known.rows) + 1
    rows = [_row(known.record, nr, -1, known.state, batch_id, before)]
    if after is not None:
        rows.append(_row(known.record, nr + 1, 1, after, batch_id, draws))
    return rows


def _row(
    record: UsageRecord, nr: int, sign: int, state: State, batch_id: int, draws: list[Draw]
) -> AdjustedRecord:
    uncached, cached, written, output, reasoning = (sign * count for count in state.classes)
    return AdjustedRecord(
        subscriber_id=record.subscriber_id,
        gateway_id=record.gateway_id,
        source=record.source,
        record_id=record.record_id,
        occurred_at=record.occurred_at,
        nr=nr,
        batch_id=batch_id,
        requests=sign,
        weight_id=state.weight_id,
        units=sign * state.units,
        uncached_input_tokens=uncached,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        output_tokens=output,
        reasoning_tokens=reasoning,
        model=state.model,
        outcome=state.outcome,
        draws=[[draw.bucket_id, sign * draw.units] for draw in draws],
    )
