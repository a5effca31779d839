"""Store once, weigh, draw: the hot path. One transaction a shard, acknowledged after its commit.

The order inside it: the operator's shared lock and terms; COPY of the records in key order;
quarantine; bucket locks last, held only over the draw, the look for the same ids on neighbouring
days, and the commit. Hourly totals are folded in later, by rollups.py.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import operator
import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import psycopg
from django.db import connection, transaction
from psycopg import errors as pg
from psycopg.types.numeric import Int8

from metering import context, duplicates, outcomes, quarantine, records, terms
from metering.context import Caller, Context, Standing
from metering.parsing import EARLIEST, Rejected, Usage, native_json
from metering.quarantine import Rejection
from metering.records import RECORDS, Line, PartitionGone, SeenBefore
from metering.terms import Terms
from metering.weighing import Cards, Weight
from subscriptions import buckets, lifecycle, partitions, pgarrays, pools, reservations_few, warm
from subscriptions.buckets import Demand
from subscriptions.pgarrays import pack_int8
from subscriptions.sharding import shard_of, shards_of

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


class Weighed(NamedTuple):
    """A charge right before its draw: what is to be drawn, and what is known of the rest."""

    cursor: pgarrays.Cursor
    batch_id: int
    at: dt.datetime
    grace: dt.timedelta
    demands: list[Demand]
    done: Ingested


BeforeDraw = Callable[[Weighed], None]


class Few(Protocol):
    """What a charge of few records settles beside, in their one message."""

    def commits(
        self, lines: Sequence[Line], payers: Mapping[int, int], batch_id: int
    ) -> list[reservations_few.Commit]:
        """A commit for each line, in their order; `payers` are subscribers' buckets."""

    def settled(self, lines: Sequence[Line], batch_id: int, freed: Sequence[int]) -> None:
        """It is committed: what each line's reservation gave back."""


class _Unsure(Exception):
    """What was remembered decides something that no draw would put to the test: read it anew."""


class _NotSteady(Exception):
    """Something is not as the one statement for few records takes for granted."""


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
    indexes: Sequence[int] | None = None,
    received_at: dt.datetime | None = None,
    before_draw: BeforeDraw | None = None,
    few: Few | None = None,
) -> Ingested:
    """Charge usage, each record once however often it is sent; never refuses for want of tokens.

    `at` is the wall's time as the door read it; a test operator's own clock takes its place.
    `rejected` are records that the parser could not take: they go to the quarantine beside those
    refused here; `indexes` are the places of `usages` in the request where it had such.
    `received_at` is when a record first came, for one that is charged again: the window is judged
    by it. `before_draw` is called in each attempt's transaction right before the draw; `few` does
    the same for what goes out as one message. Atomic per shard; answers after the last commit.
    Raises KeyRevoked.
    """
    if caller.subject:
        for usage in usages:
            usage.subject = caller.subject
    if indexes is None:
        indexes = range(len(usages))
    total = Ingested()
    with warm.connection():
        pgarrays.revive()
        known = Context(caller, usages, at=at)
        for nr, members in enumerate(_by_shard(usages, known)):
            request = _Request(
                caller, usages, indexes, members, () if nr else rejected, before_draw, few
            )
            done = _charge(request, known, at=at, received_at=received_at)
            total.batch_id = total.batch_id or done.batch_id
            total.charged += done.charged
            total.duplicates += done.duplicates
            total.rejected += done.rejected
    total.rejected.sort(key=lambda rejection: rejection.index)
    return total


class _Request(NamedTuple):
    """What one shard is to do of a request: the usage at the places `members`."""

    caller: Caller
    usages: Sequence[Usage]
    indexes: Sequence[int]
    members: Sequence[int]
    rejected: Sequence[Rejected]
    before_draw: BeforeDraw | None
    few: Few | None


def _by_shard(usages: Sequence[Usage], known: Context) -> list[Sequence[int]]:
    """The places of each shard's usage, in shard order; what names nobody goes with shard 0."""
    if known.is_remembered:
        owners = {standing[1] for standing in known.standings if standing}
        if len(shards_of(owners)) == 1:
            return [range(len(usages))]
    groups: dict[int, list[int]] = defaultdict(list)
    for nr, usage in enumerate(usages):
        subscriber_id = known.subscriber_of(nr, usage)
        groups[0 if subscriber_id is None else shard_of(subscriber_id)].append(nr)
    return [groups[shard] for shard in sorted(groups)] or [[]]


def _charge(
    request: _Request, known: Context, *, at: dt.datetime, received_at: dt.datetime | None
) -> Ingested:
    """One shard's part, attempted until nothing that others commit is in its way."""
    look_first = locks_first = raced = fresh = False
    at_once = (
        len(request.members) <= records.FEW
        and not request.rejected
        and (request.before_draw is None or request.few is not None)
    )
    caller = request.caller
    for _ in range(_ATTEMPTS):
        attempt = _Attempt(request, known, at, received_at, look_first, locks_first)
        try:
            # What is done at once is a transaction by itself.
            outermost = not connection.in_atomic_block
            with (
                contextlib.nullcontext() if at_once and outermost else transaction.atomic(),
                records.failures(),
                buckets.failures(),
            ):
                done = attempt.charge_few() if at_once else attempt.charge(ends=outermost)
        except SeenBefore:
            # A duplicate draws nothing: whose it is must not be remembered, but read.
            look_first = fresh = True
        except _Unsure:
            fresh = True
        except _NotSteady:
            pass
        except buckets.Raced as race:
            # Once: what was remembered is out of date, of some or of all. Twice: others are faster.
            if race.whose and not raced:
                out_of_date = known.subjects_of(race.whose)
            else:
                locks_first, fresh = raced, True
                out_of_date = {usage.subject for usage in request.usages}
            raced = True
            context.forget(caller.operator_id, out_of_date)
        except PartitionGone:
            pass
        except _NotReady as not_ready:
            not_ready.prepare()
            context.forget(caller.operator_id, {usage.subject for usage in request.usages})
        except pools.Behind as main_lines:
            lifecycle.ensure_open(main_lines.subscriber_ids, at=attempt.at, until=attempt.at)
        except pg.DeadlockDetected:
            pass
        except psycopg.DatabaseError as error:
            if error.sqlstate == terms.STALE:
                terms.forget(caller)
            elif error.sqlstate != reservations_few.UNSTEADY:
                raise
        else:
            attempt.remember()
            return done
        # Anew also where nothing was wrong with it: it may have been resolved by terms now stale.
        known = Context(caller, request.usages, at=at, fresh=fresh)
        at_once = False
    raise psycopg.OperationalError("the charge was overtaken too often; send it again")


class _Numbers:
    """Numbers of batches, fetched many at a time. Those of a process that ends are lost."""

    _MANY = 64

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._left: list[int] = []

    def next(self) -> int:
        with self._guard:
            if not self._left:
                cursor = pgarrays.cursor()
                cursor.execute(
                    "SELECT nextval('subscriptions_batch_id') FROM generate_series(1, %s)",
                    [self._MANY],
                )
                self._left = sorted((row[0] for row in cursor.fetchall()), reverse=True)
            return self._left.pop()


_numbers = _Numbers()
_BATCH_SQL = """
INSERT INTO metering_usagebatch
    (id, operator_id, gateway_id, charged_at, stored_at, records, units, occurred_from, occurred_to)
VALUES (%b, %b, %b, %b, clock_timestamp(), %b, %b, %b, %b)
"""


class _Attempt:
    """One try at charging a shard's usage, inside one transaction."""

    def __init__(
        self,
        request: _Request,
        known: Context,
        wall: dt.datetime,
        received_at: dt.datetime | None,
        look_first: bool,
        locks_first: bool,
    ) -> None:
        self.request = request
        self.caller = request.caller
        self.known = known
        self.wall = wall
        self.received_at = received_at
        self.look_first = look_first
        self.locks_first = locks_first
        self.done = Ingested()
        self.refused = [(refusal, refusal.payload) for refusal in request.rejected]
        self.repeated: list[Usage] = []
        self.demands: list[Demand] = []
        self.drawn = buckets.Drawn([], frozenset())

    @functools.cached_property
    def cursor(self) -> pgarrays.Cursor:
        return pgarrays.cursor()

    def charge(self, *, ends: bool) -> Ingested:
        """The general way: whatever the records, and whatever is remembered of whom.

        Where `ends`, it may commit the transaction that it is called in.
        """
        done, gateway_id = self.done, self.caller.gateway_id
        cursor = self.cursor
        self.terms = self._read_terms()
        done.batch_id = _numbers.next()
        lines = self._weigh()
        if self.look_first:
            lines = self._unseen(lines)
        if lines:
            self._demand(lines)
            records.store(cursor, lines, gateway_id=gateway_id, batch_id=done.batch_id)
        if self.refused:
            done.rejected = quarantine.keep(
                self.caller.operator_id, gateway_id, self.refused, at=self.at
            )
        if self.repeated:
            duplicates.note(done.batch_id, gateway_id, self.repeated, at=self.at)
        if self.request.before_draw is not None:
            self.request.before_draw(
                Weighed(cursor, done.batch_id, self.at, self.terms.grace, self.demands, done)
            )
        if lines:
            # One wait for all that is left: a wait costs more than some of these statements.
            with cursor.connection.pipeline():
                read_drawn = buckets.draw(
                    cursor,
                    self.demands,
                    batch_id=done.batch_id,
                    at=self.at,
                    grace=self.terms.grace,
                    locks_first=self.locks_first,
                )
                records.look_around(cursor, lines, days=self.span.days, gateway_id=gateway_id)
                self._close(lines)
                if ends and self.known.is_remembered:
                    # With the draw: others who wait for its buckets do not wait for us to read.
                    cursor.execute(b"COMMIT", prepare=False)
                self.drawn = read_drawn()
            if not self.known.still_holds():
                raise buckets.Raced(self.known.read_of)
        return self._answer(lines)

    def charge_few(self) -> Ingested:
        """The same for few records that one bucket each covers, commit and all in one wait.

        What is not remembered is read before, without a transaction: twice on both sides of the
        bucket's generation, which the draw then puts to the test. Raises _NotSteady where another
        way is needed.
        """
        caller, few = self.caller, self.request.few
        self.terms = terms.recall(caller)
        self.at = self.terms.now(self.wall)
        lines = self._weigh()
        if not lines or self.refused or self.repeated:
            raise _NotSteady
        self._demand(lines)
        covered = buckets.cover(self.demands, at=self.at, grace=self.terms.grace)
        if covered is None:
            raise _NotSteady
        if covered.found and not self.known.still_holds():
            raise buckets.Raced(self.known.read_of)
        batch_id = self.done.batch_id = _numbers.next()
        given = [*self.terms.packed(caller, self.at), pack_int8(batch_id)]
        draws = covered[:4]
        if few is None:
            low = records.charge_few(given, draws, lines, gateway_id=caller.gateway_id)
        else:
            payers = dict(zip(covered.subscribers, covered.buckets, strict=True))
            commits = few.commits(lines, payers, batch_id)
            low, freed = records.commit_few(
                given, draws, lines, commits, gateway_id=caller.gateway_id
            )
            few.settled(lines, batch_id, freed)
        self.drawn = buckets.Drawn(covered.found, frozenset(low))
        return self._answer(lines)

    def _answer(self, lines: list[Line]) -> Ingested:
        charged, indexes = map(_PLACE_AND_UNITS, lines), self.request.indexes
        if indexes == range(len(self.request.usages)):  # each is at its own place
            self.done.charged = list(charged)
        else:
            self.done.charged = [(indexes[place], units) for place, units in charged]
        return self.done

    def _demand(self, lines: list[Line]) -> None:
        """Who is to pay for the lines. Raises _Unsure, _NotReady."""
        self.demands = _demands(lines)
        free = [demand for demand in self.demands if not demand.units]
        if any(demand.pick is not None for demand in free):
            raise _Unsure
        self.span = records.span_of(lines)
        self._require_ready()

    def _read_terms(self) -> Terms:
        found = terms.lock(self.cursor, self.caller)
        self.at = found.now(self.wall)
        return found

    def _weigh(self) -> list[Line]:
        """Lines in key order, each key once; what cannot be charged goes to `refused`.

        Duplicates are looked up before window, plan and model are judged.
        """
        usages, known, going_by = self.request.usages, self.known, self.terms
        standings, default_card = known.standings, going_by.default_card
        received = self.received_at or self.at
        oldest, newest = received - WINDOW_BACK, received + WINDOW_AHEAD
        weights = _Weights(going_by.cards, [usages[nr].occurred_at for nr in self.request.members])
        all_in_time = oldest <= weights.first and weights.last <= newest
        lines: list[Line] = []
        suspects: list[_Suspect] = []
        for nr in self.request.members:
            usage = usages[nr]
            occurred_at = usage.occurred_at
            standing = standings[nr]
            if standing is None:
                standing = known.resolve(usage, going_by.zone, self.at)
                if standing is None:
                    detail = f"no subscriber is called {usage.subject!r} at {occurred_at}"
                    self._refuse(nr, "unknown_subject", detail)
                    continue
            subscriber_id = standing.subscriber_id
            if not all_in_time and not oldest <= occurred_at <= newest:
                detail = (
                    f"occurred_at must lie from {oldest} to {newest}:"
                    " 35 days back to 5 minutes ahead of the operator's clock"
                )
                suspects.append(_Suspect(subscriber_id, nr, "out_of_window", detail))
                continue
            card = standing.card or default_card
            weight = weights[card, usage.model] or weights.of(card, usage.model, occurred_at)
            if weight is None:
                detail = f"rate card {card!r} has no weight for {usage.model!r} at {occurred_at}"
                suspects.append(_Suspect(subscriber_id, nr, "unknown_model", detail))
                continue
            weight_id, per_uncached, per_cached, per_written, per_output, per_reasoning = weight
            cached, written = usage.cached_input_tokens, usage.cache_write_tokens
            reasoning = usage.reasoning_tokens
            units = (
                (usage.input_tokens - cached - written) * per_uncached
                + cached * per_cached
                + written * per_written
                + (usage.output_tokens - reasoning) * per_output
                + reasoning * per_reasoning
            )
            if usage.outcome is not None and outcomes.is_free(
                usage.outcome, standing.period.policy
            ):
                units = 0
            lines.append(
                (
                    subscriber_id,
                    usage.source,
                    usage.id,
                    occurred_at,
                    units,
                    nr,
                    usage,
                    standing,
                    weight_id,
                )
            )
        lines.sort(key=_KEY)
        lines = self._once(lines)
        if suspects:
            self._judge(suspects)
        return lines

    def _once(self, lines: list[Line]) -> list[Line]:
        """Each key once: of several in one request the first wins. The lines are in key order."""
        repeated = [
            nr
            for nr, (line, next_one) in enumerate(pairwise(lines), start=1)
            if line[0] == next_one[0] and line[2] == next_one[2] and line[1] == next_one[1]
        ]
        if not repeated:
            return lines
        for nr in repeated:
            # The sort is stable: of equal keys the first in the request comes first.
            first = bisect_left(lines, lines[nr][:3], key=_KEY)
            self._settle_repeat(lines[nr][5], records.content_of(lines[first][6]))
        dropped = set(repeated)
        return [line for nr, line in enumerate(lines) if nr not in dropped]

    def _judge(self, suspects: list[_Suspect]) -> None:
        """Refuse records, but for those that are stored already: these are duplicates."""
        usages, standings = self.request.usages, self.known.standings
        if any(standings[suspect.nr] is not None for suspect in suspects):
            raise _Unsure
        stored = self._find([(suspect.subscriber_id, usages[suspect.nr]) for suspect in suspects])
        for place, suspect in enumerate(suspects):
            if place in stored:
                self._settle_repeat(suspect.nr, stored[place])
            else:
                self._refuse(suspect.nr, suspect.cause, suspect.detail)

    def _unseen(self, lines: list[Line]) -> list[Line]:
        """The lines whose ids are not stored near their day."""
        stored = self._find([(line[0], line[6]) for line in lines])
        for place, content in sorted(stored.items()):
            self._settle_repeat(lines[place][5], content)
        return [line for place, line in enumerate(lines) if place not in stored]

    def _find(self, keys: Sequence[tuple[int, Usage]]) -> dict[int, tuple[Any, ...]]:
        return records.find(self.cursor, keys, gateway_id=self.caller.gateway_id)

    def _settle_repeat(self, nr: int, content: tuple[Any, ...]) -> None:
        """A record under an id that is charged: the same content is a duplicate."""
        usage = self.request.usages[nr]
        if records.content_of(usage) == content:
            self.done.duplicates.append(self.request.indexes[nr])
            self.repeated.append(usage)
        else:
            detail = f"id {usage.id!r} was charged with other content; that charge stands"
            self._refuse(nr, "conflict", detail)

    def _refuse(self, nr: int, cause: str, detail: str) -> None:
        usage, index = self.request.usages[nr], self.request.indexes[nr]
        refusal = Rejected(index, usage.id, cause, detail, b"", usage.source, usage.subject)
        self.refused.append((refusal, native_json(usage)))

    def _require_ready(self) -> None:
        """Raise _NotReady where a partition is missing or a period is not opened or turned."""
        at = self.at
        days, today = self.span.days, [partitions.day_of(at)]
        near = partitions.with_neighbours(days, records.NEIGHBOUR_DAYS)
        if partitions.missing(RECORDS, near) or partitions.missing(partitions.ENTRIES, today):

            def make_partitions() -> None:
                partitions.ensure(RECORDS, near)
                partitions.ensure(partitions.ENTRIES, today)

            raise _NotReady(make_partitions)
        # A standing is remembered of a period that was current: not so once the clock passed it.
        behind = [
            demand.subscriber_id
            for demand in self.demands
            if demand.behind or (demand.pick is not None and demand.period.ends_at <= at)
        ]
        if behind:
            until = max(at, self.span.last)
            raise _NotReady(lambda: lifecycle.ensure_open(behind, at=at, until=until))

    def remember(self) -> None:
        """After the commit: what the next batch need not look up, where one bucket paid."""
        operator_id = self.caller.operator_id
        found, low = self.drawn
        for demand in found:
            if demand.pick is not None and demand.subscriber_id not in low:
                for usage, standing in {
                    line[6].subject: line[6:8] for line in demand.uses
                }.values():
                    context.remember(operator_id, usage.subject, standing, demand.pick)
        if low:
            lows = (demand for demand in self.demands if demand.subscriber_id in low)
            context.forget(
                operator_id, {line[6].subject for demand in lows for line in demand.uses}
            )

    def _close(self, lines: list[Line]) -> None:
        self.cursor.execute(
            _BATCH_SQL,
            [
                Int8(self.done.batch_id),
                Int8(self.caller.operator_id),
                Int8(self.caller.gateway_id),
                self.at,
                Int8(len(lines)),
                Int8(sum([line[4] for line in lines])),
                self.span.first,
                self.span.last,
            ],
            prepare=True,
        )


_KEY = operator.itemgetter(0, 1, 2)
_PLACE_AND_UNITS = operator.itemgetter(5, 4)


class _Suspect(NamedTuple):
    """A record to be refused, unless it was charged before."""

    subscriber_id: int
    nr: int
    cause: str
    detail: str


def _demands(lines: list[Line]) -> list[Demand]:
    """The lines, which come in key order, by subscriber, period and suspension."""
    demands: list[Demand] = []
    start, total = 0, len(lines)
    while start < total:
        line = lines[start]
        subscriber_id, standing = line[0], line[7]
        end = start + 1
        while end < total and lines[end][0] == subscriber_id:
            end += 1
        if end == start + 1:
            demands.append(_demand(standing, line[4], [line]))
        else:
            own = lines[start:end]
            if all(line[7] is standing for line in own):
                demands.append(_demand(standing, sum([line[4] for line in own]), own))
            else:
                demands += _by_period(own)
        start = end
    return demands


def _demand(standing: Standing, units: int, uses: list[Line]) -> Demand:
    return Demand(
        standing.subscriber_id,
        standing.period,
        standing.suspended,
        standing.pick,
        units,
        uses,
        standing.behind,
    )


def _by_period(own: list[Line]) -> list[Demand]:
    """One subscriber's lines, of several standings, by period and suspension.

    Raises Raced where not all were remembered alike: only a draw of the bucket remembered tells
    whether what was remembered with it still holds.
    """
    # A plan that ended within a month and the rest of that month may begin at the same instant.
    groups: dict[tuple[dt.datetime, int | None, bool], list[Line]] = defaultdict(list)
    for line in own:
        period = line[7].period
        groups[period.since, period.subscription_id, line[7].suspended].append(line)
    if any(line[7].pick is not None for line in own) and (
        len(groups) > 1 or any(line[7].pick != own[0][7].pick for line in own)
    ):
        raise buckets.Raced([own[0][0]])
    demands = []
    for part in groups.values():
        demand = _demand(part[0][7], sum([line[4] for line in part]), part)
        demand.behind = any(line[7].behind for line in part)
        demands.append(demand)
    return demands


class _Weights(dict[tuple[str, str], Weight | None]):
    """By card and model the weight that holds for all of a batch; None where it has several, or
    none: then `of` says which it is of one record."""

    def __init__(self, cards: Cards, times: Sequence[dt.datetime]) -> None:
        self._cards = cards
        self.first = min(times, default=EARLIEST)
        self.last = max(times, default=EARLIEST)

    def __missing__(self, key: tuple[str, str]) -> Weight | None:
        card, model = key
        version = self._cards.version_at(card, self.first)
        holds = version is self._cards.version_at(card, self.last)
        weight = self[key] = version.weight_of(model) if holds and version is not None else None
        return weight

    def of(self, card: str, model: str, occurred_at: dt.datetime) -> Weight | None:
        """The weight that a card has for a model at a time."""
        version = self._cards.version_at(card, occurred_at)
        return version.weight_of(model) if version is not None else None
