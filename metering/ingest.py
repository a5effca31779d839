"""Store once, weigh, draw: the hot path. One transaction a shard, acknowledged after its commit.

The order inside it: the operator's shared lock and terms; COPY of the records in key order;
quarantine; the look for the same ids on neighbouring days; locks of subscribers of whom usage of
those days may draw of another bucket; bucket locks last, held only over the draw, a look whether
something was stored on those days meanwhile, and the commit. Hourly totals are folded in later, by
rollups.py.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import operator
import threading
import weakref
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import psycopg
from django.db import connection, transaction
from psycopg import errors as pg

from metering import context, duplicates, outcomes, quarantine, records, terms
from metering.context import Caller, Context, Standing
from metering.parsing import EARLIEST, Rejected, Usage, native_json
from metering.quarantine import Rejection
from metering.records import RECORDS, Line, PartitionGone, SeenBefore
from metering.terms import Terms
from metering.weighing import Cards, Weight
from subscriptions import (
    buckets,
    lifecycle,
    partitions,
    pgarrays,
    pipeline,
    pools,
    reservations_few,
    warm,
)
from subscriptions.buckets import Held
from subscriptions.demands import Demand, Mark, Pick, Sure, Use
from subscriptions.pgarrays import pack_instant, pack_int8, pack_int8s
from subscriptions.pipeline import Call, Statement
from subscriptions.sharding import shard_of, shards_of

WINDOW_BACK = dt.timedelta(days=35)
WINDOW_AHEAD = dt.timedelta(minutes=5)
# Each attempt that fails has learnt something that others committed meanwhile.
_ATTEMPTS = 20
# So often a draw is made in one attempt, each time without what raced before.
_DRAWS = 4


class _Last(threading.local):
    """A thread's last batch. To drop its thousands of objects takes as long as to parse them: it is
    done while the server has work, not while it waits for some."""

    batch: object = None


_last = _Last()
# The memory of larger ones is not kept.
_MOST_KEPT = 2_000
# Whoever would hold more subscribers holds the whole operator: a server has room for some thousand
# locks.
_MOST_HELD = 2_000


@dataclass(slots=True)
class Ingested:
    """What became of a request: `charged` holds the indexes of accepted records, `amounts` the
    units of each in thousandths, `duplicates` the indexes of those that were charged before."""

    batch_id: int = 0
    charged: list[int] = field(default_factory=list)
    amounts: list[int] = field(default_factory=list)
    duplicates: list[int] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)

    @property
    def units(self) -> int:
        return sum(self.amounts)


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


class _Otherwise(buckets.Raced):
    """Something else holds of these subscribers than what the records were weighed by."""


class _NotSteady(Exception):
    """Something is not as the one statement for few records takes for granted."""


class _NotReady(Exception):
    """Something has to be made outside the charge: partitions, or periods of some subscribers."""

    def __init__(self, prepare: Callable[[], object], of: Collection[int] = ()) -> None:
        self.prepare = prepare
        self.of = of


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
            total.amounts += done.amounts
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
        owners = (standing.subscriber_id for standing in known.standings if standing)
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
    look_first = locks_first = alone = raced = fresh = False
    at_once = (
        len(request.members) <= records.FEW
        and not request.rejected
        and (request.before_draw is None or request.few is not None)
    )
    caller = request.caller
    for _ in range(_ATTEMPTS):
        attempt = _Attempt(request, known, at, received_at, look_first, locks_first, alone)
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
            context.forget(caller.operator_id, known.subjects_of(not_ready.of))
        except pools.Behind as main_lines:
            lifecycle.ensure_open(main_lines.subscriber_ids, at=attempt.at, until=attempt.at)
        except pg.DeadlockDetected:
            pass
        except psycopg.DatabaseError as error:
            if error.sqlstate == terms.STALE:
                terms.forget(caller)
            elif error.sqlstate == _NO_ROOM and not alone:
                alone = True
            elif error.sqlstate != reservations_few.UNSTEADY:
                raise
        else:
            attempt.remember()
            if len(attempt.lines) <= _MOST_KEPT:
                _last.batch = request, known, attempt.lines, attempt.demands
            return done
        # Anew also where nothing was wrong with it: it may have been resolved by terms now stale.
        known = Context(caller, request.usages, at=at, fresh=fresh)
        at_once = False
    raise psycopg.OperationalError("the charge was overtaken too often; send it again")


class _Numbers:
    """Numbers of batches, fetched many at a time. Those of a connection that ends are lost: a
    server that was killed may give out again what it had not written down yet."""

    _MANY = 64

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._left: weakref.WeakKeyDictionary[object, list[int]] = weakref.WeakKeyDictionary()

    def next(self) -> int:
        cursor = pgarrays.cursor()
        with self._guard:
            left = self._left.setdefault(cursor.connection, [])
        if not left:
            cursor.execute(
                "SELECT nextval('subscriptions_batch_id') FROM generate_series(1, %s)",
                [self._MANY],
            )
            left += sorted((row[0] for row in cursor.fetchall()), reverse=True)
        return left.pop()


_numbers = _Numbers()
_SAVEPOINT = Statement("metering_before_draw", "SAVEPOINT draw")
_BACK = Statement("metering_back", "ROLLBACK TO SAVEPOINT draw")
_COMMIT = Statement("metering_commit", "COMMIT")
_NO_ROOM = "53200"  # out_of_memory, here for one more lock
_BATCH = Statement(
    "metering_batch",
    """
INSERT INTO metering_usagebatch
    (id, operator_id, gateway_id, charged_at, stored_at, records, units, occurred_from, occurred_to)
VALUES ($1, $2, $3, $4, clock_timestamp(), $5::bigint, $6, $7, $8)
""",
)


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
        alone: bool,
    ) -> None:
        self.request = request
        self.caller = request.caller
        self.known = known
        self.wall = wall
        self.received_at = received_at
        self.look_first = look_first
        self.locks_first = locks_first
        self.alone = alone
        self.done = Ingested()
        self.refused = [(refusal, refusal.payload) for refusal in request.rejected]
        self.repeated: list[Usage] = []
        self.lines: list[Line] = []
        self.demands: list[Demand] = []
        self.sure: list[Sure] = []
        # Those of whom what is sure does not hold all around.
        self.near_edges: list[int] = []
        self.begun = False
        # Whether there is a savepoint to go back to: before the first draw there is not.
        self.saved = False
        # What goes out before the first draw's savepoint, and what behind the last draw.
        self.looks: list[Call] = []
        self.then: list[Call] = []
        self.marks: dict[int, Mark] = {}
        # Whose bucket was looked for and found, and whose could hardly pay the same again.
        self.found: list[Demand] = []
        self.low: frozenset[int] = frozenset()

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
            # Who does something before the draw has to know of all.
            self._demand(lines, some_sure=self.request.before_draw is None)
            records.store(
                lines, gateway_id=gateway_id, batch_id=done.batch_id, meanwhile=self._meanwhile
            )
        if self.refused:
            done.rejected = quarantine.keep(
                self.caller.operator_id, gateway_id, self.refused, at=self.at
            )
        if self.repeated:
            duplicates.note(done.batch_id, gateway_id, self.repeated, at=self.at)
        if self.request.before_draw is not None:
            # What it locks comes behind: reservations.
            if held := self._held():
                pipeline.run([buckets.hold(held)], begun=self.begun)
            self.request.before_draw(
                Weighed(cursor, done.batch_id, self.at, self.terms.grace, self.demands, done)
            )
        if lines:
            self._draw(lines, ends=ends)
        return self._answer(lines)

    def _meanwhile(self) -> None:
        """What can be done while the server stores the lines: what goes out behind the draw is
        packed, and what the last batch has left is dropped."""
        _last.batch = None
        self.looks, self.then = records.looks_around(
            self.lines,
            self.span.days,
            gateway_id=self.caller.gateway_id,
            operator_id=self.caller.operator_id,
            snapshot=self.snapshot,
        )
        self.then.append((_BATCH, self._closing(self.lines)))

    def _draw(self, lines: list[Line], *, ends: bool) -> None:
        """Draw for what is stored. Whose bucket was emptied or overtaken meanwhile is looked up
        anew, a few times; what is stored is not stored again for that."""
        for tries_left in reversed(range(_DRAWS)):
            try:
                with buckets.failures():
                    self._draw_once(lines, ends=ends)
            except _Otherwise:
                raise
            except buckets.Raced as race:
                # What was locked before the draw stays locked: no more may be locked behind it.
                first = self.locks_first or self.request.before_draw is not None
                if first or not race.whose or not tries_left:
                    raise
                if self.saved:
                    # Not by psycopg, which would have all that is prepared forgotten.
                    pipeline.run([(_BACK, ())], begun=self.begun)
                context.forget(self.caller.operator_id, self.known.subjects_of(race.whose))
                self.known.doubt(race.whose)
                self.found = [one for one in self.found if one.subscriber_id not in race.whose]
                self.sure = [one for one in self.sure if one[0] not in race.whose]
                self.demands = [one for one in self.demands if one.subscriber_id not in race.whose]
                again = [line for line in lines if line[0] in race.whose]
                for demand in self._demands(again):
                    demand.pick = None
                    self.demands.append(demand)
            else:
                return

    def _draw_once(self, lines: list[Line], *, ends: bool) -> None:
        cursor, at, grace = self.cursor, self.at, self.terms.grace
        demands = buckets.arrange(self.demands, at=at, grace=grace)
        if not self.locks_first:
            self.found += buckets.find(cursor, demands, at=at, grace=grace)
            buckets.split(cursor, demands, at=at, grace=grace)
        # The buckets of all are known, so that the draw tells of whatever changes now.
        told = buckets.are_found(demands)
        first: list[Call] = [(_SAVEPOINT, ())]
        if not self.saved:
            first = [*self.looks, *first]
        held = self._held() if self.request.before_draw is None else None
        if told:
            self._require_as_said()
        else:
            if held is not None:
                first.append(buckets.hold(held))
            pipeline.run(first, begun=self.begun)
            first, held = [], None
        self.saved = True
        then = self.then
        if ends and told:
            # With the draw: others who wait for its buckets do not wait for us to read.
            then = [*then, (_COMMIT, ())]
        self.low = buckets.draw(
            cursor,
            demands,
            batch_id=self.done.batch_id,
            at=at,
            grace=grace,
            sure=self.sure,
            first=first,
            then=then,
            held=held,
            begun=self.begun,
        )
        if not told:
            self._require_as_said()

    def _held(self) -> Held | None:
        """Those whose same usage, told to have occurred on a day around, may draw of another
        bucket: of two such charges the later would not wait for the earlier one's record.

        In all others the draw's lock is enough. After a savepoint, with which their locks end.
        """
        held = {one.subscriber_id for one in self.demands if not self._is_same_around(one)}
        held.update(self.near_edges)
        if not held:
            return None
        alone = self.alone or len(held) > _MOST_HELD
        subscribers = pack_int8s([] if alone else sorted(held))
        return Held(pack_int8(self.caller.operator_id), subscribers)

    def _is_same_around(self, demand: Demand) -> bool:
        """Whether the bucket found for usage is that of all usage on the days around, too."""
        since, until = self.span.around()
        pick = demand.pick
        return (
            pick is not None
            and pick.since <= since
            and until <= pick.until
            and all(line[7].holds_in(since, until) for line in demand.uses)
        )

    def _require_as_said(self) -> None:
        # What takes the window way goes by locks that it had after the mark was seen.
        self.marks = {
            one.subscriber_id: one.mark
            for one in self.demands
            if one.mark is not None and (one.pick is not None or one.parts)
        }
        changed = self.known.not_as_said(self.terms.zone, self.at, self.marks)
        if changed:
            raise _Otherwise(changed)

    def charge_few(self) -> Ingested:
        """The same for few records that one bucket each covers, commit and all in one wait.

        What is not remembered is read before, without a transaction, and again behind the look for
        its bucket, whose generation the draw then puts to the test. Raises _NotSteady where
        another way is needed.
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
        if covered.found:
            self._require_as_said()
        batch_id = self.done.batch_id = _numbers.next()
        given = [*self.terms.packed(caller, self.at), pack_int8(batch_id)]
        held = self._held()
        subscribers = held.subscribers if held is not None else None
        draws = covered[:4]
        if few is None:
            low = records.charge_few(given, draws, lines, subscribers, gateway_id=caller.gateway_id)
        else:
            payers = dict(zip(covered.subscribers, covered.buckets, strict=True))
            commits = few.commits(lines, payers, batch_id)
            low, freed = records.commit_few(
                given, draws, lines, commits, subscribers, gateway_id=caller.gateway_id
            )
            few.settled(lines, batch_id, freed)
        self.found, self.low = covered.found, frozenset(low)
        return self._answer(lines)

    def _answer(self, lines: list[Line]) -> Ingested:
        places, indexes = map(_PLACE, lines), self.request.indexes
        if indexes == range(len(self.request.usages)):  # each is at its own place
            self.done.charged = list(places)
        else:
            self.done.charged = [indexes[place] for place in places]
        self.done.amounts = list(map(_UNITS, lines))
        return self.done

    def _demand(self, lines: list[Line], *, some_sure: bool = False) -> None:
        """Who is to pay for the lines; some may be sure to. Raises _Unsure, _NotReady."""
        self.lines = lines
        self.span = records.span_of(lines)
        self.demands = self._demands(lines, some_sure=some_sure)
        free = [demand for demand in self.demands if not demand.units]
        if any(demand.pick is not None for demand in free):
            raise _Unsure
        self._require_ready()

    def _demands(self, lines: list[Line], *, some_sure: bool = False) -> list[Demand]:
        """The lines, which come in key order, by subscriber, period and suspension.

        With `some_sure`, `self.sure` gets those of whom nothing has to be asked before the draw
        that puts them to the test: their one bucket is known, not past its grace, and nothing has
        to be opened or turned.
        """
        demands: list[Demand] = []
        sure = self.sure.append
        owners = list(map(_OWNER, lines))
        start = 0
        at, past = self.at, self.at - self.terms.grace
        since, until = self.span.around()
        for end, (line, owner, next_owner) in enumerate(
            zip(lines, owners, [*owners[1:], None], strict=True), start=1
        ):
            if owner == next_owner:
                continue
            standing, units = line[7], line[4]
            alike = True
            if end > start + 1:
                own = lines[start:end]
                units = sum(map(_UNITS, own))
                alike = all([line[7] is standing for line in own])  # noqa: C419 (faster)
            pick = standing.pick
            if not alike:
                demands += _by_period(own)
            elif (
                some_sure
                and pick is not None
                and units
                and past < pick.until
                and at < standing.looked_until
            ):
                sure((owner, pick.bucket_id, units, pick.generation))
                if standing.since > since or until > standing.until:
                    self.near_edges.append(owner)
            else:
                demands.append(_demand(standing, units, lines[start:end]))
            start = end
        return demands

    def _read_terms(self) -> Terms:
        found, self.begun, self.snapshot = terms.lock(self.caller)
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
        members = self.request.members
        if members == range(len(usages)):
            its, whose = usages, standings
        else:
            its, whose = [usages[nr] for nr in members], [standings[nr] for nr in members]
        weights = _Weights(going_by.cards, [usage.occurred_at for usage in its])
        all_in_time = oldest <= weights.first and weights.last <= newest
        lines: list[Line] = []
        suspects: list[_Suspect] = []
        add = lines.append
        for nr, usage, standing in zip(members, its, whose, strict=True):
            occurred_at = usage.occurred_at
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
            uncached = usage.input_tokens - cached - written
            output = usage.output_tokens - reasoning
            units = uncached * per_uncached + cached * per_cached + output * per_output
            if written or reasoning:
                units += written * per_written + reasoning * per_reasoning
            if usage.outcome is not None and outcomes.is_free(
                usage.outcome, standing.period.policy
            ):
                units = 0
            add((
                subscriber_id, usage.source, usage.id, occurred_at, units, nr, usage, standing,
                weight_id, uncached, cached, written, output, reasoning,
            ))  # fmt: skip
        lines.sort()  # by key; their places differ, so that no usage is ever compared
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
        lines.sort(key=operator.itemgetter(0, 1, 2, 5))  # of equal keys the first in the request
        for nr in repeated:
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
        near = partitions.with_neighbours(days, context.NEIGHBOUR_DAYS)
        if partitions.missing(RECORDS, near) or partitions.missing(partitions.ENTRIES, today):

            def make_partitions() -> None:
                partitions.ensure(RECORDS, near)
                partitions.ensure(partitions.ENTRIES, today)

            raise _NotReady(make_partitions)
        # A standing is remembered of a period that was current: not so once the clock passed it.
        behind = {
            demand.subscriber_id
            for demand in self.demands
            if demand.behind or any(line[7].looked_until <= at for line in demand.uses)
        }
        if behind:
            until = max(at, self.span.last)
            raise _NotReady(
                lambda: lifecycle.ensure_open(sorted(behind), at=at, until=until), behind
            )

    def remember(self) -> None:
        """After the commit: what the next batch need not look up, where one bucket paid. Of one
        that runs low the bucket is looked for again."""
        operator_id = self.caller.operator_id
        for demand in self.found:
            if demand.subscriber_id not in self.low:
                self._remember(operator_id, demand.uses, demand.pick)
        if self.low:
            low = [line for line in self.lines if line[0] in self.low]
            self._remember(operator_id, low, None)

    def _remember(self, operator_id: int, lines: Iterable[Use], pick: Pick | None) -> None:
        for subject, standing in {line[6].subject: line[7] for line in lines}.items():
            newest = self.known.newest(subject, standing)
            mark = self.marks.get(standing.subscriber_id) if pick is None else None
            context.remember(operator_id, subject, newest, pick, mark)

    def _closing(self, lines: list[Line]) -> list[bytes | None]:
        """What is told of the batch, as the parameters of `_BATCH`."""
        return [
            *map(pack_int8, (self.done.batch_id, self.caller.operator_id, self.caller.gateway_id)),
            pack_instant(self.at),
            pack_int8(len(lines)),
            pack_int8(sum(map(_UNITS, lines))),
            pack_instant(self.span.first),
            pack_instant(self.span.last),
        ]


_KEY = operator.itemgetter(0, 1, 2)
_OWNER = operator.itemgetter(0)
_UNITS, _PLACE = operator.itemgetter(4), operator.itemgetter(5)


class _Suspect(NamedTuple):
    """A record to be refused, unless it was charged before."""

    subscriber_id: int
    nr: int
    cause: str
    detail: str


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
        demand = _demand(part[0][7], sum(map(_UNITS, part)), part)
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
