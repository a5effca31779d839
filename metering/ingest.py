"""Store once, weigh, draw: the hot path. One transaction a shard, acknowledged after its commit.

The order inside it: the operator's shared lock and terms; COPY of the records in key order;
quarantine; bucket locks last, held only over the draw, the look for the same ids on neighbouring
days, and the commit. Hourly totals are folded in later, by rollups.py.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
import psycopg
from django.db import transaction
from psycopg import errors as pg
from psycopg.types.numeric import Int8

from metering import context, quarantine, records
from metering.context import Caller, Context, Standing
from metering.parsing import Rejected, Usage, native_json
from metering.quarantine import Rejection
from metering.records import RECORDS, Line, PartitionGone, SeenBefore
from metering.weighing import Cards, CardVersion, Weight, cards_of
from subscriptions import buckets, clock, lifecycle, partitions, pgarrays
from subscriptions.buckets import Demand
from subscriptions.sharding import shard_of

WINDOW_BACK = dt.timedelta(days=35)
WINDOW_AHEAD = dt.timedelta(minutes=5)
# Each attempt that fails has learnt something that others committed meanwhile.
_ATTEMPTS = 20


@dataclass(slots=True)
class Ingested:
    """What became of a request. Units are thousandths; `charged` holds (index, units) of each
    accepted record, `duplicates` the indexes of those that were charged before."""

    batch_id: int = 0
    charged: list[tuple[int, int]] = field(default_factory=list)
    duplicates: list[int] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)

    @property
    def units(self) -> int:
        return sum(units for _, units in self.charged)


DemandKey = tuple[int, dt.datetime, bool]


class KeyRevoked(Exception):
    """The key was valid when the request came and is no longer."""


class _NotReady(Exception):
    """Something has to be made outside the charge: partitions, periods."""

    def __init__(self, prepare: Callable[[], object]) -> None:
        self.prepare = prepare


def ingest(
    caller: Caller,
    usages: Sequence[Usage],
    rejected: Sequence[Rejected] = (),
    *,
    at: dt.datetime,
    received_at: dt.datetime | None = None,
) -> Ingested:
    """Charge usage, each record once however often it is sent; never refuses for want of tokens.

    `at` is the wall's time as the door read it; a test operator's own clock takes its place.
    `rejected` are records that the parser could not take: they go to the quarantine beside those
    refused here. `received_at` is when a record first came, for one that is charged again: the
    window is judged by it. Atomic per shard; answers after the last commit. Raises KeyRevoked.
    """
    if caller.subject:
        usages = [msgspec.structs.replace(usage, subject=caller.subject) for usage in usages]
    known = Context(caller, usages, at=at)
    total = Ingested()
    for nr, group in enumerate(_by_shard(usages, known)):
        done = _charge(
            caller, group, () if nr else rejected, known=known, at=at, received_at=received_at
        )
        total.batch_id = total.batch_id or done.batch_id
        total.charged += done.charged
        total.duplicates += done.duplicates
        total.rejected += done.rejected
    total.rejected.sort(key=lambda rejection: rejection.index)
    return total


def _by_shard(usages: Sequence[Usage], known: Context) -> list[Sequence[Usage]]:
    """The usage of each shard, in shard order; what names no subscriber goes with the first."""
    groups: dict[int, list[Usage]] = defaultdict(list)
    for usage in usages:
        subscriber_id = known.subscriber_of(usage.subject)
        groups[0 if subscriber_id is None else shard_of(subscriber_id)].append(usage)
    return [groups[shard] for shard in sorted(groups)] or [usages]


def _charge(
    caller: Caller,
    usages: Sequence[Usage],
    rejected: Sequence[Rejected],
    *,
    known: Context,
    at: dt.datetime,
    received_at: dt.datetime | None,
) -> Ingested:
    """One shard's part, attempted until nothing that others commit is in its way."""
    look_first = locks_first = raced = False
    for _ in range(_ATTEMPTS):
        attempt = _Attempt(caller, known, at, received_at, look_first, locks_first)
        try:
            with transaction.atomic():
                done = attempt.charge(usages, rejected)
        except SeenBefore:
            look_first = True
        except buckets.Raced:
            # Once: what was remembered is out of date. Twice: others are faster.
            locks_first, raced = raced, True
            context.forget(caller.operator_id, {usage.subject for usage in usages})
        except PartitionGone:
            pass
        except _NotReady as not_ready:
            not_ready.prepare()
            context.forget(caller.operator_id, {usage.subject for usage in usages})
        except pg.DeadlockDetected:
            pass
        else:
            attempt.remember()
            return done
        known = Context(caller, usages, at=at)
    raise psycopg.OperationalError("the charge was overtaken too often; send it again")


class _Terms(NamedTuple):
    """The operator's terms, read under its shared lock: they hold until the commit."""

    at: dt.datetime
    grace: dt.timedelta
    zone: ZoneInfo
    default_card: str
    cards: Cards
    batch_id: int


_TERMS_SQL = """
SELECT o.clock_at, o.late_grace, o.time_zone, o.default_rate_card,
       coalesce((SELECT max(c.id) FROM subscriptions_ratecard c WHERE c.operator_id = o.id), 0),
       nextval('subscriptions_batch_id')
FROM subscriptions_operator o
JOIN subscriptions_apikey k ON k.operator_id = o.id
WHERE o.id = %b AND k.id = %b AND k.revoked_at IS NULL
"""
_BATCH_SQL = """
INSERT INTO metering_usagebatch
    (id, operator_id, gateway_id, charged_at, stored_at, records, units, occurred_from, occurred_to)
VALUES (%b, %b, %b, %b, clock_timestamp(), %b, %b, %b, %b)
"""


class _Attempt:
    """One try at charging a shard's usage, inside one transaction."""

    def __init__(
        self,
        caller: Caller,
        known: Context,
        wall: dt.datetime,
        received_at: dt.datetime | None,
        look_first: bool,
        locks_first: bool,
    ) -> None:
        self.caller = caller
        self.known = known
        self.wall = wall
        self.received_at = received_at
        self.look_first = look_first
        self.locks_first = locks_first
        self.done = Ingested()
        self.refused: list[tuple[Rejected, bytes]] = []
        self.demands: dict[DemandKey, Demand] = {}
        self.standings: dict[str, Standing] = {}
        self.low: frozenset[int] = frozenset()

    def charge(self, usages: Sequence[Usage], rejected: Sequence[Rejected]) -> Ingested:
        done, gateway_id = self.done, self.caller.gateway_id
        self.refused = [(refusal, refusal.payload) for refusal in rejected]
        self.cursor = cursor = pgarrays.cursor()
        self.terms = terms = self._read_terms()
        done.batch_id = terms.batch_id
        lines = self._weigh(usages)
        if self.look_first:
            lines = self._unseen(lines)
        if lines:
            self._require_ready(lines)
            records.store(cursor, lines, gateway_id=gateway_id, batch_id=terms.batch_id)
        if self.refused:
            done.rejected = quarantine.keep(
                self.caller.operator_id, gateway_id, self.refused, at=terms.at
            )
        if lines:
            self.demands = self._demands(lines)
            drawn = buckets.draw(
                cursor,
                list(self.demands.values()),
                batch_id=terms.batch_id,
                at=terms.at,
                grace=terms.grace,
                locks_first=self.locks_first,
            )
            self.low = drawn.low
            records.refuse_neighbours(cursor, lines, gateway_id=gateway_id)
            self._close(lines)
        done.charged = [(line.usage.index, line.units) for line in lines]
        return done

    def _read_terms(self) -> _Terms:
        operator_id, cursor = self.caller.operator_id, self.cursor
        cursor.execute(buckets.PLANNER_SQL, prepare=True)
        cursor.execute(clock.LOCK_SHARED_SQL, [Int8(operator_id)], prepare=True)
        cursor.execute(
            _TERMS_SQL,
            [Int8(operator_id), Int8(self.caller.key_id)],
            prepare=True,
            binary=True,
        )
        row = cursor.fetchone()
        if row is None:
            raise KeyRevoked
        clock_at, grace, zone, default_card, stamp, batch_id = row
        cards = cards_of(operator_id, stamp)
        return _Terms(clock_at or self.wall, grace, ZoneInfo(zone), default_card, cards, batch_id)

    def _weigh(self, usages: Sequence[Usage]) -> list[Line]:
        """Lines in key order, each key once; what cannot be charged goes to `refused`.

        Duplicates are looked up before window, plan and model are judged.
        """
        if not usages:
            return []
        known, terms = self.known, self.terms
        received = self.received_at or terms.at
        oldest, newest = received - WINDOW_BACK, received + WINDOW_AHEAD
        at, zone, default_card = terms.at, terms.zone, terms.default_card
        weight_of = _weigher(terms.cards, usages)
        seen: dict[tuple[int, str, str], Usage] = {}
        lines: list[Line] = []
        suspects: list[tuple[int, Usage, str, str]] = []
        for usage in usages:
            occurred_at = usage.occurred_at
            standing = known.standing(usage, zone, at)
            if standing is None:
                detail = f"no subscriber is called {usage.subject!r} at {occurred_at.isoformat()}"
                self._refuse(usage, "unknown_subject", detail)
                continue
            subscriber_id = standing.subscriber_id
            key = (subscriber_id, usage.source, usage.id)
            if key in seen:  # the first of two in one request wins
                self._settle_repeat(usage, records.content_of(seen[key]))
                continue
            seen[key] = usage
            if not oldest <= occurred_at <= newest:
                detail = (
                    f"occurred_at must lie from {oldest.isoformat()} to {newest.isoformat()}:"
                    " 35 days back to 5 minutes ahead of the operator's clock"
                )
                suspects.append((subscriber_id, usage, "out_of_window", detail))
                continue
            weight = weight_of(standing.card or default_card, usage)
            if weight is None:
                detail = (
                    f"rate card {standing.card or default_card!r} has no weight for model"
                    f" {usage.model!r} at {occurred_at.isoformat()}"
                )
                suspects.append((subscriber_id, usage, "unknown_model", detail))
                continue
            units = (
                usage.uncached_input * weight.uncached_input
                + usage.cached_input * weight.cached_input
                + usage.cache_write * weight.cache_write
                + usage.output * weight.output
                + usage.reasoning * weight.reasoning
            )
            lines.append(Line(*key, usage, standing, weight, units))
        if suspects:
            self._judge(suspects)
        lines.sort()  # no two share a key, so nothing behind it is compared
        return lines

    def _judge(self, suspects: list[tuple[int, Usage, str, str]]) -> None:
        """Refuse records, but for those that are stored already: these are duplicates."""
        stored = self._find([(subscriber_id, usage) for subscriber_id, usage, _, _ in suspects])
        for nr, (_, usage, cause, detail) in enumerate(suspects):
            if nr in stored:
                self._settle_repeat(usage, stored[nr])
            else:
                self._refuse(usage, cause, detail)

    def _unseen(self, lines: list[Line]) -> list[Line]:
        """The lines whose ids are not stored near their day."""
        stored = self._find([(line.subscriber_id, line.usage) for line in lines])
        for nr, content in sorted(stored.items()):
            self._settle_repeat(lines[nr].usage, content)
        return [line for nr, line in enumerate(lines) if nr not in stored]

    def _find(self, keys: Sequence[tuple[int, Usage]]) -> dict[int, tuple[Any, ...]]:
        return records.find(self.cursor, keys, gateway_id=self.caller.gateway_id)

    def _settle_repeat(self, usage: Usage, content: tuple[Any, ...]) -> None:
        """A record under an id that is charged: the same content is a duplicate."""
        if records.content_of(usage) == content:
            self.done.duplicates.append(usage.index)
        else:
            detail = f"id {usage.id!r} was charged with other content; that charge stands"
            self._refuse(usage, "conflict", detail)

    def _refuse(self, usage: Usage, cause: str, detail: str) -> None:
        refusal = Rejected(usage.index, usage.id, cause, detail, b"", usage.source, usage.subject)
        self.refused.append((refusal, native_json(usage)))

    def _require_ready(self, lines: list[Line]) -> None:
        """Raise _NotReady where a partition is missing or a period is not opened or turned."""
        at = self.terms.at
        days, today = records.days_of(lines), [partitions.day_of(at)]
        near = partitions.with_neighbours(days, records.NEIGHBOUR_DAYS)
        if partitions.missing(RECORDS, near) or partitions.missing(partitions.ENTRIES, today):

            def make_partitions() -> None:
                partitions.ensure(RECORDS, near)
                partitions.ensure(partitions.ENTRIES, today)

            raise _NotReady(make_partitions)
        behind = {line.subscriber_id for line in lines if line.standing.behind}
        # Remembered standings are of periods that were current: not so once the clock has passed.
        behind |= {
            line.subscriber_id for line in lines if line.standing.pick and line.standing.until <= at
        }
        if behind:
            until = max(at, max(line.usage.occurred_at for line in lines))
            raise _NotReady(lambda: lifecycle.ensure_open(sorted(behind), at=at, until=until))

    def _demands(self, lines: list[Line]) -> dict[DemandKey, Demand]:
        """The lines by subscriber, period and suspension."""
        demands: dict[DemandKey, Demand] = {}
        for subscriber_id, source, record_id, usage, standing, _, units in lines:
            key = (subscriber_id, standing.period.starts_at, standing.suspended)
            demand = demands.get(key)
            if demand is None:
                demand = demands[key] = Demand(
                    subscriber_id, standing.period, standing.suspended, standing.pick
                )
            demand.uses.append((usage.occurred_at, source, record_id, units))
            demand.units += units
            self.standings[usage.subject] = standing
        return demands

    def remember(self) -> None:
        """After the commit: what the next batch need not look up, where one bucket paid."""
        operator_id = self.caller.operator_id
        for subject, standing in self.standings.items():
            subscriber_id = standing.subscriber_id
            demand = self.demands[subscriber_id, standing.period.starts_at, standing.suspended]
            if subscriber_id in self.low:
                context.forget(operator_id, [subject])
            elif standing.pick is None and demand.pick is not None:
                context.remember(operator_id, subject, standing, demand.pick)

    def _close(self, lines: list[Line]) -> None:
        occurred = [line.usage.occurred_at for line in lines]
        self.cursor.execute(
            _BATCH_SQL,
            [
                Int8(self.terms.batch_id),
                Int8(self.caller.operator_id),
                Int8(self.caller.gateway_id),
                self.terms.at,
                Int8(len(lines)),
                Int8(sum(line.units for line in lines)),
                min(occurred),
                max(occurred),
            ],
            prepare=True,
        )


def _weigher(cards: Cards, usages: Sequence[Usage]) -> Callable[[str, Usage], Weight | None]:
    """Finds the weight of (card code, usage); quick where one version holds for all of them."""
    first = min(usage.occurred_at for usage in usages)
    last = max(usage.occurred_at for usage in usages)
    constant: dict[str, tuple[bool, CardVersion | None]] = {}
    found: dict[tuple[str, str], Weight | None] = {}

    def weight_of(code: str, usage: Usage) -> Weight | None:
        key = (code, usage.model)
        if key in found:
            return found[key]
        if code not in constant:
            version = cards.version_at(code, first)
            constant[code] = (version is cards.version_at(code, last), version)
        same, version = constant[code]
        if not same:
            version = cards.version_at(code, usage.occurred_at)
        weight = version.weight_of(usage.model) if version is not None else None
        if same:
            found[key] = weight
        return weight

    return weight_of
