"""Units held before they are used: asked for, committed, released, expired. The only writer of
Reservation and ReservationName.

A reservation takes units of the buckets that would pay now, in burn order, in one transaction. It
is settled once: by its commit, by a release, or by the sweep when its time is over; then its units
are free again in the same transaction. Locks go in the order that buckets.py states: reservations
by key, then buckets. New rows are written last, when nothing is waited for any more.
"""

from __future__ import annotations

import datetime as dt
import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, NamedTuple, cast

import msgspec
from django.db import transaction
from psycopg.types.numeric import Int8

from subscriptions import buckets, demands, pgarrays, pools
from subscriptions.advisory import Lock
from subscriptions.buckets import SPENDABLE, Kind
from subscriptions.demands import Demand, Period, Source
from subscriptions.errors import NotFound
from subscriptions.models import Reservation
from subscriptions.pgarrays import Cursor, Int8s, Texts
from subscriptions.pools import Pools
from subscriptions.sharding import shard_of

State = Reservation.State
# As long as usage may be sent for: a commit is known again, however late it comes.
KEPT = dt.timedelta(days=35)


class NameTaken(Exception):
    """Another request with one of these ids was faster: look up its answer."""


class Moved(Exception):
    """What was known of a subscriber without a lock is not so any more: read it again."""


class Settled(Exception):
    """One of these reservations was committed before, or is not there: look it up."""


# --- deciding -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ask:
    """What a gateway asks for, under an id of its own. Units in thousandths.

    `units` are wanted, `least` is what has to be there: less is refused. `cheaper` is what the
    same would take under the model that the plan degrades to. `refused` is a cause that is known
    already, with the `limit` that is reached. `subscriber_id` is None where the subject is
    nobody's: that is such a cause. `slice_units` is of a slice, which is drawn down by many reports
    and renewed. `subject` is kept of a slice, and where the subscriber has `caps` to keep besides
    its plan's. `rated_tokens` were counted by the plan's rate limit.
    `generations` is the subscriber's account's, which all of this was read with; `pooled` says that
    it is a member of a family.
    """

    name: str
    fingerprint: str  # SHA-256 in hexadecimal
    ttl: int  # seconds
    subscriber_id: int | None = None
    period: Period | None = None
    units: int = 0
    least: int = 0
    cheaper: int | None = None
    slice_units: int | None = None
    subject: str = ""
    rated_tokens: int = 0
    refused: str = ""
    limit: Room | None = None
    generations: int = 0
    pooled: bool = False
    caps: tuple[Cap, ...] = ()


class Cap(NamedTuple):
    """At most so many units (thousandths) since an instant, by one subject or by all (None).

    `binding_id` is the subject's. `cause` is what a refusal says.
    """

    cause: str
    units: int
    per: str
    since: dt.datetime
    until: dt.datetime
    subject: str | None = None
    binding_id: int = 0


class Room(NamedTuple):
    """What a limit has left (below nothing where usage went past it), and when that begins anew; a
    window that slides never does at once.

    `kind` is `fixed` or `sliding` for a window, `requests` or `tokens` for a rate, `cap` for what a
    subscriber or its guardian set, `lock` for a time without answers. `subject` is
    whose use counts, None: all of the subscriber's.
    """

    left: int
    per: str
    kind: str
    resets_at: dt.datetime | None
    cause: str = "rate_limited"
    subject: str | None = None


# The limits of an ask. To be asked under the subscriber's locks, or for a guess.
Rooms = Callable[[Ask], Sequence[Room]]


def tightest(rooms: Iterable[Room]) -> Room | None:
    """The limit with the least left; None where there is none."""
    return min(rooms, key=lambda room: room.left, default=None)


# Whether what was read without a lock would be read the same; asked under the locks, if ever.
StillHolds = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the books say to an ask; `holds` maps buckets to units, `promised` are packs' units.
    `lenders` maps those of the buckets that are of a main line to that.

    `final`: less was granted than wanted, for that is all there is. `limit` is the window that
    refused it.
    """

    decision: str  # allow, degrade, deny
    cause: str = ""
    holds: Mapping[int, int] = field(default_factory=dict)
    promised: int = 0
    available: int = 0
    final: bool = False
    limit: Room | None = None
    lenders: Mapping[int, int] = field(default_factory=dict)

    @property
    def held(self) -> int:
        return sum(self.holds.values())

    @property
    def pooled(self) -> int:
        """What it holds of a main line's buckets."""
        return sum(self.holds[bucket_id] for bucket_id in self.lenders)

    def as_held(self) -> list[Hold]:
        """What it holds, in burn order."""
        return [
            (bucket_id, units, self.lenders[bucket_id])
            if bucket_id in self.lenders
            else (bucket_id, units)
            for bucket_id, units in self.holds.items()
        ]

    @property
    def granted(self) -> int:
        return self.held + self.promised


# (bucket, units), and of a main line's bucket whose that is.
Hold = tuple[int, int] | tuple[int, int, int]
ALLOW, DEGRADE, DENY = "allow", "degrade", "deny"


def decide(
    ask: Ask,
    sources: Sequence[Source],
    *,
    at: dt.datetime,
    promised: Callable[[], int],
    room: Room | None,
) -> Verdict:
    """What the live buckets and the plan allow. Pure; `promised` says what packs are spoken for.

    All that is wanted is held, or as much as there is if that is enough for the ask, and as the
    plan's windows have `room` for. Beyond the prepaid buckets the plan decides: metered usage
    holds its overage bucket, packs are promised as far as the caps let them be bought, a plan that
    degrades allows what it names instead.
    """
    assert ask.period is not None
    policy = ask.period.policy
    most = ask.units if room is None else min(ask.units, max(0, room.left))
    if most < ask.least:
        assert room is not None
        return Verdict(DENY, room.cause, limit=room)
    holds = _take(sources, most, at=at, period=ask.period)
    held = sum(holds.values())
    packs = 0
    if held < most and policy is not None and policy.on_exhaustion == "blocks":
        packs_left = _room_for_packs(sources, ask.period)
        short = most - held
        packs = short if packs_left is None else max(0, min(short, packs_left - promised()))
    if held + packs >= ask.least:
        final = held + packs < ask.units
        return Verdict(ALLOW, holds=holds, promised=packs, final=final)
    if policy is not None and policy.on_exhaustion == "degrade":
        if ask.cheaper is not None:
            holds = _take(sources, min(most, ask.cheaper), at=at, period=ask.period)
        return Verdict(DEGRADE, "exhausted", holds=holds)
    if policy is None:
        return Verdict(DENY, "no_plan")
    return Verdict(DENY, "exhausted" if policy.on_exhaustion == "stop" else "capped")


def _take(
    sources: Sequence[Source], units: int, *, at: dt.datetime, period: Period
) -> dict[int, int]:
    """Up to so many units of the buckets that would pay now, in burn order."""
    payable = functools.partial(
        demands.may_pay, period=period, suspended=False, at=at, grace=dt.timedelta(0)
    )
    able = [source for source in sources if source.kind != Kind.UNCOVERED]
    taken = demands.allot([(at, units)], able, payable)
    return {source.id: part for _, source, part in taken}


def _room_for_packs(sources: Sequence[Source], period: Period) -> int | None:
    """Units that may still be bought for the period; None without a limit."""
    policy = period.policy
    assert policy is not None
    if policy.max_blocks is None:
        return None
    key = demands.overflow_key("blocks", period)
    bought = sum((source.granted or 0) for source in sources if source.grant_key == key)
    return max(0, policy.max_blocks - bought // policy.block_units) * policy.block_units


def available(sources: Iterable[Source]) -> int:
    """What live prepaid buckets still hold and nobody has reserved, a pool's among them."""
    return sum(source.left or 0 for source in sources if source.kind in SPENDABLE)


# --- reserving ----------------------------------------------------------------------------------

Render = Callable[[Ask, Verdict], dict[str, Any]]

_NAMES_SQL = """
SELECT n.name, encode(n.fingerprint, 'hex'), n.answer
FROM unnest(%b::text[]) AS g (name)
JOIN subscriptions_reservationname n ON n.gateway_id = %b AND n.name = g.name
"""
_PROMISED_SQL = """
SELECT coalesce(sum(promised), 0)::bigint FROM subscriptions_reservation
WHERE subscriber_id = %b AND state = 1
"""
_INSERT_SQL = f"""
WITH g AS (
    SELECT * FROM unnest(%b::text[], %b::text[], %b::bigint[], %b::bigint[], %b::text[],
                         %b::bigint[], %b::bigint[], %b::bigint[], %b::bigint[], %b::bigint[],
                         %b::bigint[], %b::text[], %b::text[])
        AS g (name, fingerprint, subscriber_id, state, holds, held, promised, slice_units, final,
              rated, ttl, subject, answer)
), o AS (
    SELECT %b::bigint AS gateway_id, %b::bigint AS operator_id, %b::timestamptz AS at
), n AS (
    INSERT INTO subscriptions_reservationname
        (gateway_id, name, operator_id, subscriber_id, fingerprint, answer, created_at)
    SELECT o.gateway_id, g.name, o.operator_id, nullif(g.subscriber_id, 0),
           decode(g.fingerprint, 'hex'), g.answer::jsonb, o.at
    FROM o, g ORDER BY g.name
    ON CONFLICT DO NOTHING
    RETURNING 1
), r AS (
    INSERT INTO subscriptions_reservation
        (subscriber_id, gateway_id, name, operator_id, state, holds, held, promised, slice_units,
         final, rated_tokens, ttl_seconds, subject, created_at, expires_at, late)
    SELECT g.subscriber_id, o.gateway_id, g.name, o.operator_id, g.state, g.holds::jsonb, g.held,
           g.promised, nullif(g.slice_units, 0), g.final = 1, g.rated, g.ttl, g.subject,
           o.at, o.at + g.ttl * interval '1 second', false
    FROM o, g WHERE g.subscriber_id <> 0 ORDER BY g.subscriber_id, g.name
    ON CONFLICT DO NOTHING
), b AS ({buckets.RESERVE_SQL})
SELECT count(*) FROM n
"""  # noqa: S608


def promised_to(cursor: Cursor, subscriber_id: int) -> int:
    """Units of packs that open reservations of a subscriber are promised."""
    cursor.execute(_PROMISED_SQL, [Int8(subscriber_id)], binary=True, prepare=True)
    row = cursor.fetchone()
    assert row is not None
    return int(row[0])


def first_answers(gateway_id: int, names: Sequence[str]) -> dict[str, tuple[str, dict[str, Any]]]:
    """(fingerprint, answer) of those of these ids that were asked before."""
    cursor = pgarrays.cursor()
    cursor.execute(_NAMES_SQL, [Texts(names), Int8(gateway_id)], binary=True, prepare=True)
    return {name: (fingerprint, answer) for name, fingerprint, answer in cursor.fetchall()}


def reserve(
    asks: Sequence[Ask],
    *,
    operator_id: int,
    gateway_id: int,
    at: dt.datetime,
    rooms: Rooms,
    still_holds: StillHolds,
    render: Render,
) -> dict[str, dict[str, Any]]:
    """Decide asks of different ids, hold what they get, and keep each answer; by id.

    `rooms` is asked under the locks for what the plan's windows have left, `render` makes the
    answer that a retry will get too. One transaction a shard. Raises NameTaken and Moved, after
    which some of the asks may be answered and some not.
    """
    answers: dict[str, dict[str, Any]] = {}
    ordered = sorted(asks, key=lambda ask: shard_of(ask.subscriber_id or 0))
    for _, group in groupby(ordered, key=lambda ask: shard_of(ask.subscriber_id or 0)):
        with transaction.atomic():
            some = list(group)
            books = Books(pgarrays.cursor(), some, at, rooms)
            if not books.are_as_known(some) and not still_holds():
                raise Moved
            answers |= _reserve(books, some, operator_id, gateway_id, at, render)
    return answers


def _reserve(
    books: Books,
    asks: list[Ask],
    operator_id: int,
    gateway_id: int,
    at: dt.datetime,
    render: Render,
) -> dict[str, dict[str, Any]]:
    cursor = pgarrays.cursor()
    judged = [(ask, books.judge(ask)) for ask in asks]
    answers = {ask.name: render(ask, verdict) for ask, verdict in judged}
    cursor.execute(
        _INSERT_SQL,
        [
            Texts(ask.name for ask, _ in judged),
            Texts(ask.fingerprint for ask, _ in judged),
            Int8s(ask.subscriber_id or 0 for ask, _ in judged),
            Int8s(State.DENIED if v.decision == DENY else State.OPEN for _, v in judged),
            Texts(_json(verdict.as_held()) for _, verdict in judged),
            Int8s(verdict.held for _, verdict in judged),
            Int8s(verdict.promised for _, verdict in judged),
            Int8s(ask.slice_units or 0 for ask, _ in judged),
            Int8s(verdict.final for _, verdict in judged),
            Int8s(ask.rated_tokens for ask, _ in judged),
            Int8s(ask.ttl for ask, _ in judged),
            Texts(ask.subject for ask, _ in judged),
            Texts(_json(answers[ask.name]) for ask, _ in judged),
            Int8(gateway_id),
            Int8(operator_id),
            at,
            *buckets.columns(books.taken),
        ],
        binary=True,
        prepare=True,
    )
    row = cursor.fetchone()
    if row is None or row[0] != len(judged):
        raise NameTaken
    return answers


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


class Books:
    """The locked buckets of a batch of asks, as one ask after the other takes from them."""

    def __init__(self, cursor: Cursor, asks: Sequence[Ask], at: dt.datetime, rooms: Rooms) -> None:
        self.taken: dict[tuple[int, int], int] = defaultdict(int)
        self._cursor = cursor
        self._at = at
        self._rooms = rooms
        self._sources: dict[int, list[Source]] = {}
        self._promised: dict[int, int] = {}
        self._granted: dict[tuple[int, str | None], int] = defaultdict(int)
        subscribers = {ask.subscriber_id for ask in asks if ask.subscriber_id is not None}
        members = {ask.subscriber_id for ask in asks if ask.pooled and ask.subscriber_id}
        self._pools = pools_of(cursor, members, at=at)
        owners = self._pools.owners if self._pools is not None else set()
        buyers = sorted({ask.subscriber_id or 0 for ask in asks if _buys_packs(ask)})
        if buyers:
            lock_buyers(cursor, buyers)
        if subscribers:
            self._sources = buckets.lock(cursor, subscribers | owners, since=at, until=at)
            # Again, now that nothing of it can change.
            self._pools = pools_of(cursor, members, at=at)
        if buyers:
            require_all_locked(cursor, {one: self._sources.get(one, ()) for one in buyers}, at=at)

    def are_as_known(self, asks: Sequence[Ask]) -> bool:
        """Whether nothing was raised between the reading of these asks' accounts and the locks."""
        return all(
            ask.subscriber_id is None
            or generations_of(self._sources.get(ask.subscriber_id, ())) == ask.generations
            for ask in asks
        )

    def judge(self, ask: Ask) -> Verdict:
        """Decide one ask, and take what it gets."""
        subscriber_id = ask.subscriber_id or 0
        own = self._sources.get(subscriber_id, [])
        owner_id, pool = self._pool_of(subscriber_id)
        sources = [*own, *pool]
        if ask.refused or ask.period is None:
            return Verdict(DENY, ask.refused, available=available(sources), limit=ask.limit)
        promised = functools.partial(self._promised_to, subscriber_id)
        room = tightest(
            one._replace(left=one.left - self._granted[subscriber_id, one.subject])
            for one in self._rooms(ask)
        )
        verdict = decide(ask, sources, at=self._at, promised=promised, room=room)
        verdict = lent_by(owner_id, pool, verdict)
        for bucket_id, units in verdict.holds.items():
            self.taken[verdict.lenders.get(bucket_id, subscriber_id), bucket_id] += units
        if verdict.promised:
            self._promised[subscriber_id] = promised() + verdict.promised
        for subject in (None, ask.subject):
            self._granted[subscriber_id, subject] += verdict.granted
        self._sources[subscriber_id] = list(_without(own, verdict.holds))
        if self._pools is not None and verdict.lenders:
            self._pools.hold(subscriber_id, verdict.pooled)
            owned = self._sources[owner_id]
            self._sources[owner_id] = list(_without(owned, verdict.holds))
        left = _without(sources, verdict.holds)
        return replace(verdict, available=available(left))

    def _pool_of(self, subscriber_id: int) -> tuple[int, list[Source]]:
        return pool_now(self._pools, subscriber_id, self._sources, at=self._at)

    def _promised_to(self, subscriber_id: int) -> int:
        if subscriber_id not in self._promised:
            self._promised[subscriber_id] = promised_to(self._cursor, subscriber_id)
        return self._promised[subscriber_id]


def pools_of(cursor: Cursor, members: Iterable[int], *, at: dt.datetime) -> Pools | None:
    """The pools of these members now; None where nobody is one."""
    members = set(members)
    return pools.read(cursor, members, since=at, at=at) if members else None


def pool_now(
    family: Pools | None,
    subscriber_id: int,
    held: Mapping[int, Sequence[Source]],
    *,
    at: dt.datetime,
) -> tuple[int, list[Source]]:
    """The main line of a member, and what of its buckets (in `held`) the member could draw now."""
    member = family.member_at(subscriber_id, at) if family is not None else None
    if family is None or member is None:
        return 0, []
    owned = held.get(member.owner_id, ())
    return member.owner_id, family.sources_for(subscriber_id, owned, at=at)


def lent_by(owner_id: int, pool: Iterable[Source], verdict: Verdict) -> Verdict:
    """The verdict with whose the pool's buckets are."""
    lenders = {source.id: owner_id for source in pool if source.id in verdict.holds}
    return replace(verdict, lenders=lenders) if lenders else verdict


def generations_of(live: Iterable[Source]) -> int:
    """The sum that an account has of its live buckets."""
    return sum(source.generation + 1 for source in live)


def lock_buyers(cursor: Cursor, subscriber_ids: Sequence[int]) -> None:
    """One promise of packs at a time: there may be no bucket yet to lock for it."""
    cursor.execute(
        "SELECT pg_advisory_xact_lock(%b, (g.id & 2147483647)::int)"
        " FROM unnest(%b::bigint[]) AS g (id)",
        [Lock.PACKS.value, Int8s(subscriber_ids)],
    )


_LIVE_SQL = """
SELECT g.subscriber_id, sum(g.generation + 1)::bigint FROM subscriptions_bucket g
WHERE g.subscriber_id = ANY(%b::bigint[]) AND g.valid_until > %b AND g.valid_from <= %b
GROUP BY g.subscriber_id
"""


def require_all_locked(
    cursor: Cursor, live: Mapping[int, Iterable[Source]], *, at: dt.datetime
) -> None:
    """Raise Moved where a subscriber has live buckets beside these, which are locked.

    A lock that waits sees what came of the rows it waits for, and no row that is new: the first
    pack may be bought meanwhile, and its units would be promised once more.
    """
    cursor.execute(_LIVE_SQL, [Int8s(live), at, at], binary=True, prepare=True)
    now: dict[int, int] = dict(cursor.fetchall())
    if any(now.get(one, 0) != generations_of(sources) for one, sources in live.items()):
        raise Moved


def _buys_packs(ask: Ask) -> bool:
    policy = ask.period.policy if ask.period is not None else None
    return policy is not None and policy.on_exhaustion == "blocks"


def _without(sources: Iterable[Source], holds: Mapping[int, int]) -> Iterator[Source]:
    """The sources after these units of theirs are held."""
    for source in sources:
        units = holds.get(source.id, 0)
        yield source.less(units) if units else source


# --- settling -----------------------------------------------------------------------------------

Key = tuple[int, int, str]  # (subscriber, gateway, name)


class Held(NamedTuple):
    """A reservation under lock."""

    subscriber_id: int
    gateway_id: int
    name: str
    state: int
    holds: list[Hold]  # in burn order
    held: int
    promised: int
    slice_units: int | None
    final: bool
    rated_tokens: int
    ttl: int
    subject: str
    created_at: dt.datetime
    expires_at: dt.datetime

    def units(self) -> dict[tuple[int, int], int]:
        """What it holds of which bucket; nothing once it is settled."""
        if self.state != State.OPEN:
            return {}
        return {
            (hold[2] if len(hold) == 3 else self.subscriber_id, hold[0]): hold[1]
            for hold in self.holds
        }

    @property
    def pooled(self) -> int:
        """What it holds of a main line's buckets."""
        return sum(units for (one, _), units in self.units().items() if one != self.subscriber_id)

    @property
    def granted(self) -> int:
        """What may be used of it still."""
        return self.held + self.promised if self.state == State.OPEN else 0

    def is_late(self, at: dt.datetime) -> bool:
        """Whether a commit at that time comes after the hold's; one that never held is not."""
        if self.state == State.OPEN:
            return self.expires_at <= at
        return self.state in (State.RELEASED, State.EXPIRED)

    def drawn_down(self, used: int) -> Held:
        """What is left of it after so much was used, in burn order."""
        holds: list[Hold] = []
        left = used
        for bucket, units, *owner in self.holds:
            taken = min(left, units)
            left -= taken
            if units > taken:
                holds.append(cast(Hold, (bucket, units - taken, *owner)))
        return self._replace(
            holds=holds,
            held=sum(hold[1] for hold in holds),
            promised=max(0, self.promised - left),
        )


_FIND_SQL = """
SELECT n.name, n.subscriber_id, r.state, encode(r.commit_fingerprint, 'hex'), r.answer,
       coalesce(r.slice_units, 0) > 0, coalesce(r.subject, '')
FROM unnest(%b::text[]) AS g (name)
JOIN subscriptions_reservationname n ON n.gateway_id = %b AND n.name = g.name
LEFT JOIN subscriptions_reservation r
       ON r.subscriber_id = n.subscriber_id AND r.gateway_id = n.gateway_id AND r.name = n.name
"""
_LOCK_SQL = """
SELECT r.subscriber_id, r.gateway_id, r.name, r.state, r.holds, r.held, r.promised, r.slice_units,
       r.final, r.rated_tokens, r.ttl_seconds, r.subject, r.created_at, r.expires_at
FROM unnest(%b::bigint[], %b::bigint[], %b::text[]) AS g (subscriber_id, gateway_id, name)
JOIN subscriptions_reservation r
  ON r.subscriber_id = g.subscriber_id AND r.gateway_id = g.gateway_id AND r.name = g.name
ORDER BY r.subscriber_id, r.gateway_id, r.name
FOR NO KEY UPDATE OF r
"""
_LOCK_NAMED_SQL = """
SELECT r.name, r.subscriber_id, r.gateway_id, r.name, r.state, r.holds, r.held, r.promised,
       r.slice_units, r.final, r.rated_tokens, r.ttl_seconds, r.subject, r.created_at, r.expires_at
FROM unnest(%b::text[]) AS g (name)
JOIN subscriptions_reservationname n ON n.gateway_id = %b AND n.name = g.name
JOIN subscriptions_reservation r
  ON r.subscriber_id = n.subscriber_id AND r.gateway_id = n.gateway_id AND r.name = n.name
ORDER BY r.subscriber_id, r.gateway_id, r.name
FOR NO KEY UPDATE OF r
"""
_SETTLE_SQL = f"""
WITH b AS ({buckets.RESERVE_SQL})
UPDATE subscriptions_reservation r SET state = %b, settled_at = %b
FROM unnest(%b::bigint[], %b::bigint[], %b::text[]) AS g (subscriber_id, gateway_id, name)
WHERE r.subscriber_id = g.subscriber_id AND r.gateway_id = g.gateway_id AND r.name = g.name
"""  # noqa: S608
_COMMIT_SQL = f"""
WITH b AS ({buckets.RESERVE_SQL})
UPDATE subscriptions_reservation r
SET state = 2, settled_at = %b, commit_fingerprint = decode(g.fingerprint, 'hex'),
    late = g.late = 1, answer = g.answer::jsonb
FROM unnest(%b::bigint[], %b::bigint[], %b::text[], %b::text[], %b::bigint[], %b::text[])
     AS g (subscriber_id, gateway_id, name, fingerprint, late, answer)
WHERE r.subscriber_id = g.subscriber_id AND r.gateway_id = g.gateway_id AND r.name = g.name
"""  # noqa: S608
_DUE_SQL = """
SELECT subscriber_id, gateway_id, name FROM subscriptions_reservation
WHERE state = 1 AND expires_at <= %b AND operator_id = %b
ORDER BY expires_at LIMIT %b
"""
_DUE_OF_SQL = """
SELECT subscriber_id, gateway_id, name FROM subscriptions_reservation
WHERE state = 1 AND expires_at <= %b AND subscriber_id = ANY(%b::bigint[])
"""


class Found(NamedTuple):
    """A reservation by the gateway's id of it; `answer` is that of its commit, if it had one.

    Where the subject was nobody's there is no subscriber, and nothing to settle.
    """

    subscriber_id: int | None
    state: int | None
    commit_fingerprint: str | None
    answer: dict[str, Any] | None
    is_slice: bool
    subject: str


def find(gateway_id: int, names: Sequence[str]) -> dict[str, Found]:
    """The reservations of these ids that there are. No locks."""
    cursor = pgarrays.cursor()
    cursor.execute(_FIND_SQL, [Texts(names), Int8(gateway_id)], binary=True, prepare=True)
    return {name: Found(*columns) for name, *columns in cursor.fetchall()}


def release(gateway_id: int, name: str, *, at: dt.datetime) -> tuple[int, int, Held | None]:
    """Give back what a reservation holds; answers its state then, what was given back, and the
    reservation as it was where this released it.

    Again it is the same answer. One that is settled otherwise stays so, and gives back nothing.
    Raises NotFound.
    """
    found = find(gateway_id, [name]).get(name)
    if found is None:
        raise NotFound("this gateway has no such reservation")
    if found.subscriber_id is None:
        return State.DENIED, 0, None
    key = (found.subscriber_id, gateway_id, name)
    return buckets.attempt(functools.partial(_release, key, at=at))


def _release(key: Key, *, at: dt.datetime) -> tuple[int, int, Held | None]:
    cursor = pgarrays.cursor()
    [held] = lock(cursor, [key])
    if held.state == State.OPEN:
        _give_back(cursor, [held], State.RELEASED, at=at)
        return State.RELEASED, held.held, held
    return held.state, held.held if held.state == State.RELEASED else 0, None


def expire_due(operator_id: int, *, at: dt.datetime, limit: int = 1000) -> int:
    """Give back what reservations hold past their time, one chunk; answers how many it settled.

    `at` is the operator's own time. Call it until it answers 0.
    """
    cursor = pgarrays.cursor()
    cursor.execute(_DUE_SQL, [at, Int8(operator_id), Int8(limit)], binary=True, prepare=True)
    return _expire(cursor.fetchall(), at=at)


def expire_due_of(subscriber_ids: Sequence[int], *, at: dt.datetime) -> int:
    """The same for some subscribers, who cannot wait for the sweep. Cheap where nothing is due."""
    cursor = pgarrays.cursor()
    cursor.execute(_DUE_OF_SQL, [at, Int8s(subscriber_ids)], binary=True, prepare=True)
    return _expire(cursor.fetchall(), at=at)


def _expire(keys: Iterable[Key], *, at: dt.datetime) -> int:
    expired = 0
    ordered = sorted(keys, key=lambda key: (shard_of(key[0]), key))
    for _, group in groupby(ordered, key=lambda key: shard_of(key[0])):
        expired += buckets.attempt(functools.partial(_expire_those, list(group), at=at))
    return expired


def _expire_those(keys: Sequence[Key], *, at: dt.datetime) -> int:
    cursor = pgarrays.cursor()
    held = lock(cursor, keys)
    # A commit or renewal may have been faster.
    due = [one for one in held if one.state == State.OPEN and one.expires_at <= at]
    _give_back(cursor, due, State.EXPIRED, at=at)
    return len(due)


def lock(cursor: Cursor, keys: Sequence[Key]) -> list[Held]:
    """Lock these reservations in the order of their keys. Joins the caller's transaction."""
    cursor.execute(_LOCK_SQL, _columns(keys), binary=True, prepare=True)
    return [Held(*row) for row in cursor.fetchall()]


def lock_named(cursor: Cursor, gateway_id: int, names: Sequence[str]) -> dict[str, Held | None]:
    """The same by the gateway's ids; raises Settled where one is missing or committed.

    None stands for those whose subject was nobody's: nothing is held.
    """
    cursor.execute(_LOCK_NAMED_SQL, [Texts(names), Int8(gateway_id)], binary=True, prepare=True)
    found = {name: Held(*row) for name, *row in cursor.fetchall()}
    nobodys: set[str] = set()
    if len(found) < len(names):
        missing = [name for name in names if name not in found]
        nobodys = {name for name, one in find(gateway_id, missing).items() if not one.subscriber_id}
    if len(found) + len(nobodys) < len(names):
        raise Settled
    if any(one.state == State.COMMITTED for one in found.values()):
        raise Settled
    return {**found, **dict.fromkeys(nobodys)}


def _give_back(cursor: Cursor, held: Sequence[Held], state: int, *, at: dt.datetime) -> None:
    """Free the units of locked reservations, which are settled so."""
    if not held:
        return
    units = _sum_of(held)
    since = min(one.created_at for one in held)
    locked = buckets.lock_to_free(cursor, {key[0] for key in units}, since=since)
    keys = [one[:3] for one in held]
    cursor.execute(
        _SETTLE_SQL,
        [*buckets.columns(units, -1), Int8(state), at, *_columns(keys)],
        binary=True,
        prepare=True,
    )
    buckets.follow(cursor, units, locked, at=at)


def _sum_of(held: Iterable[Held]) -> dict[tuple[int, int], int]:
    total: dict[tuple[int, int], int] = defaultdict(int)
    for one in held:
        for key, units in one.units().items():
            total[key] += units
    return total


def _columns(keys: Sequence[Key]) -> tuple[Int8s, Int8s, Texts]:
    return (
        Int8s(key[0] for key in keys),
        Int8s(key[1] for key in keys),
        Texts(key[2] for key in keys),
    )


class Commit(NamedTuple):
    """Usage that a reservation was made for; `units` were charged now. `render(late, released)`
    makes the answer, which the same commit will get again."""

    key: Key
    fingerprint: str
    units: int
    render: Callable[[bool, int], dict[str, Any]]


def commit(
    cursor: Cursor,
    held: Sequence[Held],
    commits: Sequence[Commit],
    demands: Sequence[Demand],
    *,
    at: dt.datetime,
    grace: dt.timedelta,
    look_first: bool,
) -> list[dict[str, Any]]:
    """Settle locked reservations inside a charge, right before it draws `demands`.

    Answers what each commit is answered. Raises Raced: then it is to be called with `look_first`
    in the next attempt.
    """
    by_key = {one[:3]: one for one in held}
    held = [by_key[commit.key] for commit in commits]
    late = [one.is_late(at) for one in held]
    freed = [sum(one.units().values()) for one in held]
    answers = [
        commit.render(is_late, max(0, free - commit.units))
        for commit, is_late, free in zip(commits, late, freed, strict=True)
    ]
    units = _sum_of(held)
    locked: dict[int, list[Source]] = {}
    if units:
        beyond: dict[int, int] = defaultdict(int)
        for (subscriber_id, _), free in units.items():
            beyond[subscriber_id] -= free
        for demand in demands:
            beyond[demand.subscriber_id] += demand.units
        locked = buckets.lock_for_draw(
            cursor,
            units,
            demands,
            since=min(one.created_at for one in held),
            at=at,
            grace=grace,
            look_first=look_first or max(beyond.values()) > 0,
        )
    cursor.execute(
        _COMMIT_SQL,
        [
            *buckets.columns(units, -1),
            at,
            *_columns([commit.key for commit in commits]),
            Texts(commit.fingerprint for commit in commits),
            Int8s(late),
            Texts(_json(answer) for answer in answers),
        ],
        binary=True,
        prepare=True,
    )
    if units:
        buckets.follow(cursor, units, locked, at=at)
    return answers


# --- slices -------------------------------------------------------------------------------------

# A slice is to be renewed when less than this part of it is left (a fifth).
THRESHOLD = 5

_REHOLD_SQL = f"""
WITH b AS ({buckets.RESERVE_SQL})
UPDATE subscriptions_reservation r
SET holds = %b::text::jsonb, held = %b, promised = %b, final = %b, expires_at = %b
WHERE r.subscriber_id = %b AND r.gateway_id = %b AND r.name = %b
"""  # noqa: S608


def threshold_of(slice_units: int) -> int:
    """So much left, or less, and the slice is renewed."""
    return slice_units // THRESHOLD


def draw_down(
    cursor: Cursor,
    held: Held,
    used: int,
    demands: Sequence[Demand],
    *,
    at: dt.datetime,
    grace: dt.timedelta,
    look_first: bool,
) -> None:
    """Let so many units of a locked slice go, right before a charge draws them with `demands`.

    Raises Raced: then it is to be called with `look_first` in the next attempt.
    """
    left = held.drawn_down(used)
    freed = _difference(held, left)
    if not freed and left.promised == held.promised:
        return
    locked = buckets.lock_for_draw(
        cursor,
        freed,
        demands,
        since=held.created_at,
        at=at,
        grace=grace,
        look_first=look_first or used > held.held,
    )
    _rehold(cursor, held, left)
    buckets.follow(cursor, freed, locked, at=at)


def renew(
    key: Key,
    *,
    period: Period,
    at: dt.datetime,
    rooms: Rooms,
    refused: str,
    limit: Room | None = None,
    caps: tuple[Cap, ...] = (),
    generations: int,
    pooled: bool,
    still_holds: StillHolds,
) -> tuple[Held, Verdict | None]:
    """Let a slice that runs low be whole again, for as long as the first; what it is now.

    What is granted takes the place of what was left. A refusal (also one that is known already, by
    a `limit`) leaves that, and it is final. No verdict where there is nothing to decide: it is
    settled, over, or not low. `pooled`: its subscriber is a member of a family.
    Raises Moved, Raced.
    """
    with transaction.atomic(), buckets.failures():
        cursor = pgarrays.cursor()
        [held] = lock(cursor, [key])
        if held.slice_units is None or held.state != State.OPEN or held.is_late(at):
            return held, None
        if not held.final and held.granted > threshold_of(held.slice_units):
            return held, None
        last = held._replace(final=True)
        if refused:
            _rehold(cursor, held, last)
            return last, Verdict(DENY, refused, limit=limit)
        ask = Ask(
            held.name,
            "",
            held.ttl,
            held.subscriber_id,
            period,
            held.slice_units,
            1,
            slice_units=held.slice_units,
            subject=held.subject,
            caps=caps,
        )
        if _buys_packs(ask):
            lock_buyers(cursor, [held.subscriber_id])
        members = [held.subscriber_id] if pooled else []
        family = pools_of(cursor, members, at=at)
        subscribers = {held.subscriber_id} | {one for one, _ in held.units()}
        subscribers |= family.owners if family is not None else set()
        locked = buckets.lock_to_free(cursor, subscribers, since=held.created_at)
        live = [
            source
            for source in locked[held.subscriber_id]
            if source.valid_from <= at < source.valid_until
        ]
        if generations_of(live) != generations and not still_holds():
            raise Moved
        if _buys_packs(ask):
            require_all_locked(cursor, {held.subscriber_id: live}, at=at)
        before = held.units()
        # As if nothing of it were held.
        sources = [source.less(-before.get((held.subscriber_id, source.id), 0)) for source in live]
        family = pools_of(cursor, members, at=at)
        if family is not None:
            family.hold(held.subscriber_id, -held.pooled)
        freed_for_all = {
            one: [source.less(-before.get((one, source.id), 0)) for source in some]
            for one, some in locked.items()
        }
        owner_id, pool = pool_now(family, held.subscriber_id, freed_for_all, at=at)
        sources += pool
        room = tightest(one._replace(left=one.left + held.granted) for one in rooms(ask))
        verdict = decide(
            ask,
            sources,
            at=at,
            promised=lambda: promised_to(cursor, held.subscriber_id) - held.promised,
            room=room,
        )
        verdict = lent_by(owner_id, pool, verdict)
        if verdict.decision != ALLOW:
            _rehold(cursor, held, last)
            return last, verdict
        new = held._replace(
            holds=verdict.as_held(),
            held=verdict.held,
            promised=verdict.promised,
            final=verdict.final,
            expires_at=at + dt.timedelta(seconds=held.ttl),
        )
        _rehold(cursor, held, new)
        freed = {key: units for key, units in _difference(held, new).items() if units > 0}
        buckets.follow(cursor, freed, locked, at=at)
        left = available(_without(sources, verdict.holds))
        return new, replace(verdict, available=left)


def _difference(before: Held, after: Held) -> dict[tuple[int, int], int]:
    """Units that a change gives back, by bucket; below nothing what it takes."""
    units: dict[tuple[int, int], int] = defaultdict(int, before.units())
    for key, kept in after.units().items():
        units[key] -= kept
    return {key: freed for key, freed in units.items() if freed}


def _rehold(cursor: Cursor, before: Held, after: Held) -> None:
    """Write what a locked reservation holds from now on, with its locked buckets."""
    cursor.execute(
        _REHOLD_SQL,
        [
            *buckets.columns(_difference(before, after), -1),
            _json(after.holds),
            Int8(after.held),
            Int8(after.promised),
            after.final,
            after.expires_at,
            Int8(after.subscriber_id),
            Int8(after.gateway_id),
            after.name,
        ],
        binary=True,
        prepare=True,
    )


# --- forgetting ---------------------------------------------------------------------------------

_FORGET_SQL = """
WITH old AS (
    SELECT n.gateway_id, n.name, n.subscriber_id FROM subscriptions_reservationname n
    LEFT JOIN subscriptions_reservation r
           ON r.subscriber_id = n.subscriber_id AND r.gateway_id = n.gateway_id AND r.name = n.name
    WHERE n.created_at < %b AND n.operator_id = %b
      AND (r.state IS NULL OR r.state = 5 OR r.settled_at < %b)
    LIMIT %b
), r AS (
    DELETE FROM subscriptions_reservation r USING old
    WHERE r.subscriber_id = old.subscriber_id AND r.gateway_id = old.gateway_id
      AND r.name = old.name
), n AS (
    DELETE FROM subscriptions_reservationname n USING old
    WHERE n.gateway_id = old.gateway_id AND n.name = old.name
    RETURNING 1
)
SELECT count(*) FROM n
"""


def forget(operator_id: int, *, at: dt.datetime, limit: int = 5000) -> int:
    """Drop reservations that were settled KEPT ago, one chunk; answers how many."""
    cursor = pgarrays.cursor()
    oldest = at - KEPT
    cursor.execute(_FORGET_SQL, [oldest, Int8(operator_id), oldest, Int8(limit)], binary=True)
    row = cursor.fetchone()
    assert row is not None
    return int(row[0])
