"""The token ledger: grant, draw, move and show units. The only writer of buckets, their journal
and the outbox.

Order of locks, the same everywhere: rows of usage records (by key), reservations (by key), new
buckets (by subscriber and grant key), then bucket rows by (shard, subscriber, bucket). Who has
locked all that somebody has, and then finds more, waits no longer for that: see `_wait_no_more`.
Nothing here waits for the network.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import operator
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple, TypeVar

from django.db import OperationalError, connection, transaction
from django.db.models import F
from psycopg import DatabaseError
from psycopg.errors import DeadlockDetected
from psycopg.types.numeric import Int8

from subscriptions import outbox, partitions, pgarrays, pipeline, pools
from subscriptions.demands import (
    OTHERS,
    Demand,
    Period,
    Pick,
    Source,
    Sure,
    allot,
    block_buyer,
    demand_order,
    kinds_of,
    may_pay_for,
    none_more,
    overflow_key,
    span_of,
    what_is_left_after,
)
from subscriptions.models import Bucket, BucketEntry
from subscriptions.pgarrays import (
    Cursor,
    Instants,
    Int8s,
    OptionalInt8s,
    Texts,
    pack_instant,
    pack_int8,
    pack_int8s,
    unpack_int8s,
)
from subscriptions.pipeline import Call, Statement
from subscriptions.pools import Lending, Pools
from subscriptions.sharding import shard_of
from subscriptions.units import MAX_UNITS

Kind = Bucket.Kind
Movement = BucketEntry.Kind

PRIORITY: dict[str, int] = {
    Kind.ROLLOVER: 10,
    Kind.GIFT: 20,
    Kind.ALLOWANCE: 30,
    Kind.BOOSTER: 40,
    Kind.POOL: pools.PRIORITY,
    Kind.OVERAGE: 90,
    Kind.UNCOVERED: 100,
}
PREPAID = (Kind.ROLLOVER, Kind.GIFT, Kind.ALLOWANCE, Kind.BOOSTER)
# What may be used without its costing extra: a pool's is another's prepaid.
SPENDABLE = (*PREPAID, Kind.POOL)
# Percent of a bucket at whose crossing the subscriber is told.
THRESHOLDS = (50, 80, 100)
_ATTEMPTS = 20
Result = TypeVar("Result")


# --- granting -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Grant:
    """A bucket to be made; `units` in thousandths, None without a limit.

    `grant_key` is unique for the subscriber and makes granting repeatable.
    """

    subscriber_id: int
    kind: str
    units: int | None
    valid_from: dt.datetime
    valid_until: dt.datetime
    grant_key: str
    subscription_id: int | None = None
    note: str = ""
    priority: int | None = None  # None: its kind's


_GRANT_SQL = """
INSERT INTO subscriptions_bucket
    (subscriber_id, id, kind, priority, granted, used, reserved, generation, valid_from,
     valid_until, subscription_id, grant_key, note, created_at)
SELECT g.subscriber_id, nextval('subscriptions_bucket_id'), g.kind, g.priority, g.units, 0, 0, 0,
       g.valid_from, g.valid_until, g.subscription_id, g.grant_key, g.note, %(at)s
FROM unnest(%(subscriber_id)s::bigint[], %(kind)s::text[], %(priority)s::bigint[],
            %(units)s::bigint[], %(valid_from)s::timestamptz[], %(valid_until)s::timestamptz[],
            %(subscription_id)s::bigint[], %(grant_key)s::text[], %(note)s::text[])
     AS g (subscriber_id, kind, priority, units, valid_from, valid_until, subscription_id,
           grant_key, note)
ORDER BY g.subscriber_id, g.grant_key
ON CONFLICT (subscriber_id, grant_key) DO NOTHING
RETURNING subscriber_id, grant_key, id, granted, kind
"""
_GRANTED_SQL = """
SELECT b.subscriber_id, b.grant_key, b.id
FROM unnest(%s::bigint[], %s::text[]) AS g (subscriber_id, grant_key)
JOIN subscriptions_bucket b USING (subscriber_id, grant_key)
"""
_ENTRIES_SQL = """
INSERT INTO subscriptions_bucketentry
    (subscriber_id, batch_id, bucket_id, kind, units, charged_at)
SELECT e.subscriber_id, %s, e.bucket_id, %s, e.units, %s
FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[]) AS e (subscriber_id, bucket_id, units)
"""


# What is remembered of a subscriber's other buckets may be wrong once a new one burns before them.
_OVERTAKE_SQL = """
UPDATE subscriptions_bucket b SET generation = generation + 1
FROM (
    SELECT o.subscriber_id, o.id
    FROM unnest(%s::bigint[], %s::bigint[]) AS n (subscriber_id, id)
    JOIN subscriptions_bucket n2 ON n2.subscriber_id = n.subscriber_id AND n2.id = n.id
    JOIN subscriptions_bucket o ON o.subscriber_id = n2.subscriber_id AND o.id <> n2.id
     AND o.valid_until > n2.valid_from AND o.valid_from < n2.valid_until
     AND o.priority >= n2.priority
    ORDER BY o.subscriber_id, o.id
    FOR NO KEY UPDATE OF o
) t
WHERE b.subscriber_id = t.subscriber_id AND b.id = t.id
"""


def grant(
    grants: Sequence[Grant],
    *,
    at: dt.datetime,
    batch_id: int | None = None,
    overtakes: bool = True,
) -> list[int]:
    """Make these buckets, each once; answers their ids in the order given.

    Joins the caller's transaction. Each new bucket with units gets a journal row of kind GRANT,
    under `batch_id` where it belongs to other movements.
    A bucket whose grant key exists is left as it is and its id answered. `overtakes` is false where
    nothing can be remembered of when the buckets are valid.
    """
    assert connection.in_atomic_block
    if not grants:
        return []
    partitions.ensure(partitions.ENTRIES, [partitions.day_of(at)])
    ordered = sorted(
        grants, key=lambda g: (shard_of(g.subscriber_id), g.subscriber_id, g.grant_key)
    )
    with pgarrays.statements() as cursor:
        cursor.execute(
            _GRANT_SQL,
            {
                "at": at,
                "subscriber_id": Int8s(g.subscriber_id for g in ordered),
                "kind": Texts(g.kind for g in ordered),
                "priority": Int8s(g.priority or PRIORITY[g.kind] for g in ordered),
                "units": OptionalInt8s(g.units for g in ordered),
                "valid_from": Instants(g.valid_from for g in ordered),
                "valid_until": Instants(g.valid_until for g in ordered),
                "subscription_id": OptionalInt8s(g.subscription_id for g in ordered),
                "grant_key": Texts(g.grant_key for g in ordered),
                "note": Texts(g.note for g in ordered),
            },
        )
        made = cursor.fetchall()
        ids = {(subscriber, key): bucket for subscriber, key, bucket, _, _ in made}
        _journal(
            Movement.GRANT,
            [(subscriber, bucket, -units) for subscriber, _, bucket, units, _ in made if units],
            at=at,
            batch_id=batch_id,
        )
        if overtakes:
            _overtake([(row[0], row[2]) for row in made if row[4] != Kind.UNCOVERED])
        rest = [g for g in ordered if (g.subscriber_id, g.grant_key) not in ids]
        if rest:
            cursor.execute(
                _GRANTED_SQL,
                [Int8s(g.subscriber_id for g in rest), Texts(g.grant_key for g in rest)],
            )
            ids |= {(subscriber, key): bucket for subscriber, key, bucket in cursor.fetchall()}
    return [ids[g.subscriber_id, g.grant_key] for g in grants]


def _overtake(keys: Sequence[tuple[int, int]]) -> None:
    """Void what is remembered of buckets that these (subscriber, bucket) now burn before."""
    if keys:
        with pgarrays.statements() as cursor:
            cursor.execute(_OVERTAKE_SQL, pgarrays.columns(keys, Int8s, Int8s))


def forget(subscriber_ids: Iterable[int]) -> None:
    """Void what processes remember of these subscribers: a subject or suspension has changed.

    Joins the caller's transaction; a charge that still goes by the old facts then fails its
    conditional update and looks again.
    """
    assert connection.in_atomic_block
    with connection.cursor() as cursor:
        cursor.execute(_FORGET_SQL, [sorted(subscriber_ids)])


_FORGET_SQL = """
UPDATE subscriptions_bucket b SET generation = generation + 1
FROM (
    SELECT o.subscriber_id, o.id FROM subscriptions_bucket o WHERE o.subscriber_id = ANY(%s)
    ORDER BY o.subscriber_id, o.id
    FOR NO KEY UPDATE OF o
) t
WHERE b.subscriber_id = t.subscriber_id AND b.id = t.id
"""


def _journal(
    kind: int,
    entries: Sequence[tuple[int, int, int]],
    *,
    at: dt.datetime,
    batch_id: int | None = None,
) -> None:
    """Write (subscriber, bucket, units) movements of one kind under one batch id."""
    if not entries:
        return
    columns = pgarrays.columns(entries, Int8s, Int8s, Int8s)
    with pgarrays.statements() as cursor:
        cursor.execute(_ENTRIES_SQL, [batch_id or next_batch_id(), int(kind), at, *columns])


def next_batch_id() -> int:
    """A number for a batch of movements; never reused, ascending but for races."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT nextval('subscriptions_batch_id')")
        batch_id: int = cursor.fetchone()[0]
        return batch_id


@dataclass(frozen=True, slots=True)
class RollOver:
    """What a subscription's period left over, to be moved into the next.

    The old period is `[from_start, to_start)`, the new one `[to_start, to_end)`.
    """

    subscriber_id: int
    subscription_id: int
    from_start: dt.datetime
    to_start: dt.datetime
    to_end: dt.datetime
    grant_key: str


_LEFTOVER_SQL = """
SELECT b.subscriber_id, b.id, m.nr, b.granted - b.used - b.reserved
FROM unnest(%s::bigint[], %s::bigint[], %s::timestamptz[]) WITH ORDINALITY
     AS m (subscriber_id, subscription_id, to_start, nr)
JOIN subscriptions_bucket b
  ON b.subscriber_id = m.subscriber_id AND b.subscription_id = m.subscription_id
 AND b.kind = 'allowance' AND b.valid_until = m.to_start
WHERE b.granted > b.used
ORDER BY b.subscriber_id, b.id
FOR NO KEY UPDATE OF b
"""
_TAKE_SQL = """
UPDATE subscriptions_bucket b SET used = b.used + t.units
FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[]) AS t (subscriber_id, bucket_id, units)
WHERE b.subscriber_id = t.subscriber_id AND b.id = t.bucket_id
"""


def roll_over(moves: Sequence[RollOver], *, at: dt.datetime) -> None:
    """Move what the old periods' allowances have left into rollover buckets, by journal pairs.

    A rollover bucket is valid from the old period's start, so that late usage of the old period
    draws it too, and first. What reservations hold stays where it is and follows when it is
    freed; the bucket is made even for these alone. Joins the caller's transaction; moving again
    finds nothing left.
    """
    assert connection.in_atomic_block
    if not moves:
        return
    partitions.ensure(partitions.ENTRIES, [partitions.day_of(at)])
    ordered = sorted(moves, key=lambda m: (shard_of(m.subscriber_id), m.subscriber_id))
    with pgarrays.statements() as cursor:
        cursor.execute(
            _LEFTOVER_SQL,
            [
                Int8s(m.subscriber_id for m in ordered),
                Int8s(m.subscription_id for m in ordered),
                Instants(m.to_start for m in ordered),
            ],
        )
        taken = cursor.fetchall()
    # The pair of entries is found by its number.
    batch_id = next_batch_id()
    _take(Movement.ROLLOVER, [(row[0], row[1], row[3]) for row in taken], at=at, batch_id=batch_id)
    left: dict[int, int] = defaultdict(int)
    for _, _, nr, units in taken:
        left[nr - 1] += units
    grant(
        [
            Grant(
                subscriber_id=ordered[nr].subscriber_id,
                kind=Kind.ROLLOVER,
                units=units,
                valid_from=ordered[nr].from_start,
                valid_until=ordered[nr].to_end,
                grant_key=ordered[nr].grant_key,
                subscription_id=ordered[nr].subscription_id,
            )
            for nr, units in left.items()
        ],
        at=at,
        batch_id=batch_id,
    )


def hand_over(giver: int, receiver: int, *, name: str, at: dt.datetime) -> tuple[int, int]:
    """Move what a subscriber's prepaid buckets have left into gifts of another's, for as long as
    each would have been valid, by pairs of journal rows under one batch; answers its number and
    the units that moved. `name` names the movement, which is made once.

    What reservations hold stays where it is. Joins the caller's transaction, which makes processes
    forget both.
    """
    assert connection.in_atomic_block
    partitions.ensure(partitions.ENTRIES, [partitions.day_of(at)])
    locked = list(
        Bucket.objects.filter(
            subscriber_id__in=[giver, receiver], valid_until__gt=at, kind__in=PREPAID
        )
        .order_by("subscriber_id", "id")
        .select_for_update(no_key=True)
    )
    left = {b.id: (b.granted or 0) - b.used - b.reserved for b in locked}
    moving = [b for b in locked if b.subscriber_id == giver and left[b.id]]
    batch_id = next_batch_id()
    _take(Movement.HANDOVER, [(giver, b.id, left[b.id]) for b in moving], at=at, batch_id=batch_id)
    grant(
        [
            Grant(
                subscriber_id=receiver,
                kind=Kind.GIFT,
                units=left[b.id],
                valid_from=max(at, b.valid_from),
                valid_until=b.valid_until,
                grant_key=f"handover:{name}:{b.id}",
                note=b.note,
            )
            for b in moving
        ],
        at=at,
        batch_id=batch_id,
    )
    return batch_id, sum(left[b.id] for b in moving)


# A gift is not given on, and what a booster cost is owed until its buyer has burned it.
GIVABLE = (Kind.ROLLOVER, Kind.ALLOWANCE)


class NotEnough(Exception):
    """There are `left` units, less than were to be given."""

    def __init__(self, left: int) -> None:
        self.left = left


def give(giver: int, receiver: int, units: int, *, name: str, note: str, at: dt.datetime) -> int:
    """Move so many units of what a subscriber may give away into gifts of another's, for as long as
    they would have been valid, by pairs of journal rows under one batch; answers its number. `name`
    names the movement, which is made once.

    Joins the caller's transaction. Raises NotEnough.
    """
    assert connection.in_atomic_block
    partitions.ensure(partitions.ENTRIES, [partitions.day_of(at)])
    locked = Bucket.objects.filter(subscriber_id__in=[giver, receiver], valid_until__gt=at)
    locked = locked.order_by("subscriber_id", "id").select_for_update(no_key=True)
    own = [
        bucket
        for bucket in locked
        if bucket.subscriber_id == giver and bucket.kind in GIVABLE and bucket.valid_from <= at
    ]
    own.sort(key=lambda bucket: (bucket.priority, bucket.valid_until, bucket.id))
    left = {bucket.id: (bucket.granted or 0) - bucket.used - bucket.reserved for bucket in own}
    if sum(left.values()) < units:
        raise NotEnough(sum(left.values()))
    moving: list[tuple[Bucket, int]] = []
    due = units
    for bucket in own:
        some = min(due, left[bucket.id])
        due -= some
        if some:
            moving.append((bucket, some))
    batch_id = next_batch_id()
    _take(
        Movement.GIVEN,
        [(giver, bucket.id, some) for bucket, some in moving],
        at=at,
        batch_id=batch_id,
    )
    grant(
        [
            Grant(
                subscriber_id=receiver,
                kind=Kind.GIFT,
                units=some,
                valid_from=at,
                valid_until=bucket.valid_until,
                grant_key=f"given:{giver}:{name}:{bucket.id}",
                note=note,
            )
            for bucket, some in moving
        ],
        at=at,
        batch_id=batch_id,
    )
    return batch_id


def withdraw(subscriber_id: int, bucket_ids: Sequence[int], *, at: dt.datetime) -> None:
    """Take back what is left of buckets that nobody may use any more, by journal rows.

    One without a limit gets the limit of what it was drawn for. Joins the caller's transaction.
    """
    assert connection.in_atomic_block
    partitions.ensure(partitions.ENTRIES, [partitions.day_of(at)])
    locked = list(
        Bucket.objects.filter(subscriber_id=subscriber_id, id__in=bucket_ids)
        .order_by("subscriber_id", "id")
        .select_for_update(no_key=True)
    )
    for bucket in locked:
        if bucket.granted is None:
            spent = bucket.used + bucket.reserved
            Bucket.objects.filter(subscriber_id=subscriber_id, id=bucket.id).update(granted=spent)
            if spent:
                _journal(Movement.GRANT, [(subscriber_id, bucket.id, -spent)], at=at)
    _take(
        Movement.WITHDRAWAL,
        [
            (subscriber_id, b.id, b.granted - b.used - b.reserved)
            for b in locked
            if b.granted is not None
        ],
        at=at,
    )


def limit(subscriber_id: int, most: Mapping[int, int | None], *, at: dt.datetime) -> None:
    """Let overage buckets hold so many units in all from now on (None: as many as are asked for),
    by grants or grants taken back; never less than what was drawn and is held. Joins the caller's
    transaction, which makes processes forget the subscriber."""
    assert connection.in_atomic_block
    if not most:
        return
    partitions.ensure(partitions.ENTRIES, [partitions.day_of(at)])
    locked = list(
        Bucket.objects.filter(subscriber_id=subscriber_id, id__in=most, kind=Kind.OVERAGE)
        .order_by("subscriber_id", "id")
        .select_for_update(no_key=True)
    )
    moved = []
    for bucket in locked:
        wanted = most[bucket.id]
        if wanted is None and bucket.granted is None:
            continue
        # One that has been given a limit keeps one: its journal says how much was granted.
        wanted = max(bucket.used + bucket.reserved, MAX_UNITS if wanted is None else wanted)
        if wanted != bucket.granted:
            moved.append((subscriber_id, bucket.id, (bucket.granted or 0) - wanted))
            Bucket.objects.filter(subscriber_id=subscriber_id, id=bucket.id).update(granted=wanted)
    _journal(Movement.GRANT, [one for one in moved if one[2] < 0], at=at)
    _journal(Movement.RETURNED, [one for one in moved if one[2] > 0], at=at)


def open_pool(subscriber_id: int, member_id: int, *, at: dt.datetime) -> None:
    """Let a member's usage from `at` on look for its pool before it overflows. Joins the caller's
    transaction, in which the membership is made."""
    grant(
        [
            Grant(
                subscriber_id=subscriber_id,
                kind=Kind.POOL,
                units=0,
                valid_from=at,
                valid_until=_NEVER,
                grant_key=pools.marker_key(member_id),
            )
        ],
        at=at,
    )


def close_pool(subscriber_id: int, member_id: int, *, at: dt.datetime) -> None:
    """Let a membership's buckets pay for nothing that happens from `at` on, in the transaction that
    ends it; usage some minutes ahead of the clock keeps what it has drawn."""
    assert connection.in_atomic_block
    locked = [
        bucket
        for bucket in Bucket.objects.filter(
            subscriber_id=subscriber_id, kind=Kind.POOL, valid_until__gt=at
        )
        .order_by("subscriber_id", "id")
        .select_for_update(no_key=True)
        if bucket.grant_key == pools.marker_key(member_id)
        or bucket.grant_key.endswith(f":{member_id}")
    ]
    drawn_just_now = set(
        BucketEntry.objects.filter(
            subscriber_id=subscriber_id,
            bucket_id__in=[bucket.id for bucket in locked],
            kind=Movement.USAGE,
            charged_at__gte=at - AHEAD,
        ).values_list("bucket_id", flat=True)
    )
    for bucket in locked:
        end = at + AHEAD if bucket.id in drawn_just_now else at
        least = bucket.valid_from + dt.timedelta(microseconds=1)
        Bucket.objects.filter(subscriber_id=subscriber_id, id=bucket.id).update(
            valid_until=max(least, min(bucket.valid_until, end))
        )


# Usage that has been charged already may lie this far ahead of the clock.
AHEAD = dt.timedelta(minutes=5)


def cut(subscriber_id: int, bucket_ids: Sequence[int], *, at: dt.datetime) -> None:
    """Let buckets pay only for what happened before `at`.

    One that was drawn a moment ago goes on for as long as usage may be ahead of the clock, so that
    what such usage has drawn stays within it; one that only begins is taken back. Joins the
    caller's transaction, which makes processes forget the subscriber.
    """
    assert connection.in_atomic_block
    locked = list(
        Bucket.objects.filter(subscriber_id=subscriber_id, id__in=bucket_ids)
        .order_by("subscriber_id", "id")
        .select_for_update(no_key=True)
    )
    drawn_just_now = set(
        BucketEntry.objects.filter(
            subscriber_id=subscriber_id,
            bucket_id__in=bucket_ids,
            kind__in=[Movement.USAGE, Movement.SHARED],
            charged_at__gte=at - AHEAD,
        ).values_list("bucket_id", flat=True)
    )
    unused = [b.id for b in locked if b.valid_from >= at and b.id not in drawn_just_now]
    withdraw(subscriber_id, unused, at=at)
    for bucket in locked:
        if bucket.id not in unused:
            end = at + AHEAD if bucket.id in drawn_just_now else at
            Bucket.objects.filter(subscriber_id=subscriber_id, id=bucket.id).update(
                valid_until=min(bucket.valid_until, end)
            )


_ASIDE_SQL = """
UPDATE subscriptions_bucket b SET reserved = b.reserved + h.units
FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[]) AS h (subscriber_id, bucket_id, units)
WHERE b.subscriber_id = h.subscriber_id AND b.id = h.bucket_id
"""


def set_aside(
    subscriber_id: int, bucket_ids: Sequence[int], *, most: int | None = None
) -> dict[int, int]:
    """Reserve up to `most` units of each of these buckets, or all that they have left; answers how
    many, by bucket. Of one without a limit nothing is. Joins the caller's transaction."""
    assert connection.in_atomic_block
    locked = list(
        Bucket.objects.filter(subscriber_id=subscriber_id, id__in=bucket_ids)
        .order_by("subscriber_id", "id")
        .select_for_update(no_key=True)
    )
    left = {b.id: b.granted - b.used - b.reserved for b in locked if b.granted is not None}
    aside = {one: units if most is None else min(units, most) for one, units in left.items()}
    _move_aside({(subscriber_id, one): units for one, units in aside.items() if units})
    return aside


def put_back(subscriber_id: int, aside: Mapping[int, int], *, at: dt.datetime) -> None:
    """Let units that were set aside be used again, in the caller's transaction."""
    assert connection.in_atomic_block
    if not aside:
        return
    units = {(subscriber_id, one): some for one, some in aside.items()}
    cursor = pgarrays.cursor()
    held = lock(cursor, [subscriber_id], since=_EVER, until=_NEVER)
    _move_aside({key: -some for key, some in units.items()})
    follow(cursor, units, held, at=at)


def take_aside(subscriber_id: int, aside: Mapping[int, int], kind: int, *, at: dt.datetime) -> None:
    """Let units that were set aside leave their buckets, by journal rows of a kind."""
    assert connection.in_atomic_block
    if not aside:
        return
    partitions.ensure(partitions.ENTRIES, [partitions.day_of(at)])
    list(
        Bucket.objects.filter(subscriber_id=subscriber_id, id__in=aside)
        .order_by("subscriber_id", "id")
        .select_for_update(no_key=True)
    )
    _move_aside({(subscriber_id, one): -some for one, some in aside.items()})
    _take(kind, [(subscriber_id, one, some) for one, some in sorted(aside.items())], at=at)


def _move_aside(units: Mapping[tuple[int, int], int]) -> None:
    if units:
        with pgarrays.statements() as cursor:
            cursor.execute(_ASIDE_SQL, list(columns(units)))


def _take(
    kind: int,
    entries: Sequence[tuple[int, int, int]],
    *,
    at: dt.datetime,
    batch_id: int | None = None,
) -> None:
    """Let units leave buckets that the caller has locked, with their journal rows."""
    entries = [entry for entry in entries if entry[2]]
    if not entries:
        return
    with pgarrays.statements() as cursor:
        cursor.execute(_TAKE_SQL, pgarrays.columns(entries, Int8s, Int8s, Int8s))
    _journal(kind, entries, at=at, batch_id=batch_id)


# --- drawing ------------------------------------------------------------------------------------


class Raced(Exception):
    """Another charge was faster: roll back and draw again, with these bucket locks first.

    `whose`: the subscribers of whom something else was known than holds, where that can be said.
    """

    def __init__(self, whose: Iterable[int] = ()) -> None:
        super().__init__()
        self.whose = frozenset(whose)


# The first bucket in burn order that could pay, if it covers the whole demand; since when nothing
# that has ended by now could come before it, and until when nothing begins that might. Who buys
# blocks draws no `uncovered` here: only the window way can tell whether another block may be bought
# first; nor does a member of a family overflow here, for its pool comes before.
_PICK_SQL = """
SELECT g.nr, p.id, p.generation,
       greatest(p.valid_from, (
           SELECT max(e.valid_until) FROM subscriptions_bucket e
           WHERE e.subscriber_id = g.subscriber_id AND e.valid_until <= %b
       )),
       least(p.valid_until, (
           SELECT min(n.valid_from) FROM subscriptions_bucket n
           WHERE n.subscriber_id = g.subscriber_id AND n.valid_until > %b AND n.valid_from > %b
       )), m.newest, m.generations, m.live
FROM unnest(%b::bigint[], %b::bigint[], %b::bigint[]) WITH ORDINALITY
     AS g (subscriber_id, units, kinds, nr)
CROSS JOIN LATERAL (
    SELECT max(b.id) AS newest, sum(b.generation)::bigint AS generations, count(*) AS live
    FROM subscriptions_bucket b WHERE b.subscriber_id = g.subscriber_id AND b.valid_until > %b
) m
LEFT JOIN LATERAL (
    SELECT b.id, b.generation, b.valid_from, b.valid_until,
           b.granted - b.used - b.reserved AS left_over
    FROM subscriptions_bucket b
    WHERE b.subscriber_id = g.subscriber_id
      AND b.valid_until > %b AND b.valid_from <= %b
      AND (b.granted IS NULL OR b.granted > b.used + b.reserved OR b.kind = 'pool')
      AND (g.kinds = 0 OR (g.kinds = 1) = (b.kind = 'uncovered'))
    ORDER BY b.priority, b.valid_until, b.valid_from, b.id
    LIMIT 1
) p ON p.valid_from <= %b AND p.valid_until > %b
   AND (p.left_over IS NULL OR p.left_over >= g.units)
"""
# The draw itself; what it does, and that it answers who runs low, is said in its migration.
_DRAW = Statement(
    "subscriptions_draw", "SELECT subscriptions_draw($1, $2, $3, $4, $5, $6, $7, $8, $9)"
)
_HOLD = Statement("subscriptions_hold", "SELECT subscriptions_hold($1, $2)")
_RACED = "TB002"
_WAITED = "55P03"  # lock_not_available
_LOCK_SQL = """
SELECT b.subscriber_id, b.id, b.kind, b.priority, b.granted - b.used - b.reserved,
       b.valid_from, b.valid_until, b.grant_key, b.granted, b.generation
FROM unnest(%b::bigint[], %b::bigint[]) AS g (subscriber_id, bucket_id)
JOIN subscriptions_bucket b
  ON b.subscriber_id = g.subscriber_id AND (g.bucket_id = 0 OR b.id = g.bucket_id)
WHERE b.valid_until > %b AND b.valid_from <= %b
ORDER BY b.subscriber_id, b.id
FOR NO KEY UPDATE OF b
"""
_ENLARGE_SQL = """
WITH e AS (
    UPDATE subscriptions_bucket b SET granted = b.granted + m.units
    FROM unnest(%b::bigint[], %b::bigint[], %b::bigint[]) AS m (subscriber_id, bucket_id, units)
    WHERE b.subscriber_id = m.subscriber_id AND b.id = m.bucket_id
    RETURNING b.subscriber_id, b.id, m.units
)
INSERT INTO subscriptions_bucketentry (subscriber_id, batch_id, bucket_id, kind, units, charged_at)
SELECT subscriber_id, %b, id, 1, -units, %b FROM e
"""

# Columns of a SELECT that set the charge's own planner settings until its transaction ends: the
# order of arrays must be the order of locks, and its plans never change.
PLANNER_SQL = """
set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true),
set_config('enable_seqscan', 'off', true), set_config('plan_cache_mode', 'force_generic_plan', true)
"""


def arrange(demands: Iterable[Demand], *, at: dt.datetime, grace: dt.timedelta) -> list[Demand]:
    """The demands that draw something, in the order of their locks. Raises Raced for picks that
    cannot be drawn: past their grace, or of doubled subscribers.

    To drop them would not do. What was remembered with a pick is known to hold still by nothing
    but its draw.
    """
    demands = [demand for demand in demands if demand.units]
    ends = [demand.pick.until for demand in demands if demand.pick is not None]
    if ends and min(ends) <= at - grace:
        raise Raced(d.subscriber_id for d in demands if d.pick and d.pick.until <= at - grace)
    owners = [demand.subscriber_id for demand in demands]
    if all(map(operator.lt, owners, owners[1:])):
        return demands  # as they nearly always come: in order, each once
    times = Counter(owners)
    doubled = [d.subscriber_id for d in demands if d.pick and times[d.subscriber_id] > 1]
    if doubled:
        raise Raced(doubled)
    demands.sort(key=demand_order)
    return demands


def find(
    cursor: Cursor, demands: Sequence[Demand], *, at: dt.datetime, grace: dt.timedelta
) -> list[Demand]:
    """Give each demand without a pick the bucket that covers it whole, if one does; answers these.
    All that are looked for get their subscriber's mark.

    The demands are arranged. Locks nothing: the draw will tell whether it is still so.
    """
    open_ones = _open_ones(demands, at=at, grace=grace)
    if not open_ones:
        return []
    first, last = span_of(open_ones)
    # A bucket past its grace cannot pay; the window way knows the exceptions.
    alive = max(first, at - grace)
    cursor.execute(
        _PICK_SQL,
        [
            alive,
            last,
            last,
            Int8s([d.subscriber_id for d in open_ones]),
            Int8s([d.units for d in open_ones]),
            Int8s([kinds_of(d) for d in open_ones]),
            at - grace,
            alive,
            last,
            first,
            last,
        ],
        binary=True,
        prepare=True,
    )
    found = []
    for nr, bucket_id, generation, since, until, newest, generations, live in cursor.fetchall():
        demand = open_ones[nr - 1]
        demand.mark = newest, generations, live
        if bucket_id is not None:
            demand.pick = Pick(bucket_id, generation, min(since, first), until)
            found.append(demand)
    return found


def _open_ones(demands: Iterable[Demand], *, at: dt.datetime, grace: dt.timedelta) -> list[Demand]:
    """The demands whose buckets are not known and may be looked for without a lock. Two periods of
    one subscriber, and usage later than its grace, are left to the window way."""
    unknown = [demand for demand in demands if demand.pick is None and not demand.parts]
    periods = Counter([demand.subscriber_id for demand in unknown])
    return [
        demand
        for demand in unknown
        if periods[demand.subscriber_id] == 1 and at < demand.period.ends_at + grace
    ]


def split(
    cursor: Cursor, demands: Sequence[Demand], *, at: dt.datetime, grace: dt.timedelta
) -> None:
    """Give each demand that no bucket covers alone the parts that several pay, if they do.

    As `find`, after it: the draw will tell whether all is still so. It is, if those that come
    first are emptied by it and none was overtaken. What has to be opened, bought or lent first is
    left to the window way.
    """
    open_ones = _open_ones(demands, at=at, grace=grace)
    if not open_ones:
        return
    cursor.execute(
        _SOURCES_SQL,
        [Int8s([d.subscriber_id for d in open_ones]), *_span(open_ones, at=at, grace=grace)],
        binary=True,
        prepare=True,
    )
    held = _sources(cursor)
    for demand in open_ones:
        owner, sources = demand.subscriber_id, held[demand.subscriber_id]
        if any(source.kind == Kind.POOL for source in sources):
            continue
        if not all(_is_there(overflow, held) for overflow in _overflow_of(demand)):
            # Else what is uncovered might be drawn before the first block is bought.
            sources = [source for source in sources if source.kind != Kind.UNCOVERED]
        drawn: Counter[int] = Counter()
        bought: dict[tuple[int, int], int] = defaultdict(int)
        payable, more = may_pay_for(demand, at=at, grace=grace), block_buyer(demand, bought)
        for _, source, units in allot(demand.in_order(), sources, payable, more):
            drawn[source.id] += units
        if drawn.total() == demand.units and not bought:
            payers = [source for source in sources if source.id in drawn]
            demand.parts = [(owner, one.id, drawn[one.id], one.generation) for one in payers]
            demand.emptied = [one.id for one in payers if one.left == drawn[one.id]]


def are_found(demands: Iterable[Demand]) -> bool:
    """Whether the buckets of each of the demands are known."""
    return all([d.pick is not None or d.parts for d in demands])  # noqa: C419 (faster)


def draw(
    cursor: Cursor,
    demands: Sequence[Demand],
    *,
    batch_id: int,
    at: dt.datetime,
    grace: dt.timedelta,
    sure: Sequence[Sure] = (),
    first: Sequence[Call] = (),
    then: Sequence[Call] = (),
    held: Held | None = None,
    begun: bool = False,
) -> frozenset[int]:
    """Draw every demand from its subscriber's buckets, all or nothing; never refuses.

    The demands are of one shard and arranged; `sure` draws, in order, are of others' buckets that
    live. Joins the caller's transaction on `cursor` (settings of PLANNER_SQL). What is sure, and a
    demand whose buckets are known, as by `find` and `split`, takes conditional updates; the others
    take the window way: their buckets are locked, then consumed in burn order, overflow as the plan
    says, the rest uncovered. Answers the subscribers whose bucket could hardly pay the same again.
    Raises Raced when a bucket was emptied or overtaken meanwhile: the caller rolls back and does it
    again without picks, and if that does not help, without `find` and `split`.
    `first` goes out in the message of the first draw, and `then` in that of the last, in a
    transaction that may be `begun` as pipeline.py says. With the first goes, too, who is to be
    `held`: for the window way's demands it was to be done before.
    """
    low: set[int] = set()
    before = list(first)
    if demands or sure:
        given = [pack_int8(batch_id), pack_instant(at)]
        emptied = pack_int8s([bucket_id for demand in demands for bucket_id in demand.emptied])
        for last, columns in _turns(cursor, demands, sure, batch_id=batch_id, at=at, grace=grace):
            arrays = [pack_int8s(column) for column in columns]
            draw_ = (_DRAW, [*arrays, *given, emptied, *(held or _NOBODY)])
            calls = [*before, draw_, *(then if last else ())]
            row = pipeline.run(calls, begun=begun)[len(before)]
            if row is not None and row[0] is not None:
                low.update(unpack_int8s(row[0]))
            before, held = [], None
    elif before or then:
        if held is not None:
            before.append(hold(held))
        pipeline.run([*before, *then], begun=begun)
    return frozenset(low)


class Held(NamedTuple):
    """Subscribers, in order, of whom a draw has locks of their own; without any all of their
    operator's. As parameters of functions that hold them."""

    operator: bytes
    subscribers: bytes


_NOBODY = None, None


def hold(held: Held) -> Call:
    """The locks by themselves, for who locks something between them and buckets."""
    return _HOLD, held


def _turns(
    cursor: Cursor,
    demands: Sequence[Demand],
    sure: Sequence[Sure],
    *,
    batch_id: int,
    at: dt.datetime,
    grace: dt.timedelta,
) -> Iterator[tuple[bool, Sequence[Sequence[int]]]]:
    """What to draw, one after the other, in the order of locks: whether it is the last, and
    subscribers, buckets, units and generations.

    Of a few demands whose bucket has to be looked for under lock, each has its turn between those
    whose bucket is known: these need no lock before their draw.
    """
    found, left = _sure_and_not(demands)
    known = sorted([*sure, *found]) if found else sure
    if not left:
        yield True, _columns(known)
        return
    family = _open_overflow(cursor, left, at=at, grace=grace)
    turns = _by_turns(left, known)
    if family is not None or len(turns) > _MOST_TURNS:
        turns = [(left, known)]
    for nr, (some, beside) in enumerate(turns, start=1):
        if some:
            beside = _burn(cursor, some, beside, family, batch_id=batch_id, at=at, grace=grace)
        yield nr == len(turns), _columns(beside)


def _sure_and_not(demands: Iterable[Demand]) -> tuple[list[Sure], list[Demand]]:
    """Demands whose buckets are known, as sure draws, and the others."""
    sure: list[Sure] = []
    left: list[Demand] = []
    for demand in demands:
        if demand.parts:
            sure += demand.parts
        elif demand.pick is None:
            left.append(demand)
        else:
            pick = demand.pick
            sure.append((demand.subscriber_id, pick.bucket_id, demand.units, pick.generation))
    return sure, left


def _columns(sure: Iterable[Sure]) -> Sequence[Sequence[int]]:
    return list(zip(*sure, strict=True)) or [()] * 4


def _by_turns(
    left: Sequence[Demand], known: Sequence[Sure]
) -> list[tuple[Sequence[Demand], Sequence[Sure]]]:
    """The one or the other by turns, in the order of locks."""
    turns: list[tuple[Sequence[Demand], Sequence[Sure]]] = []
    start = 0
    before = [(bisect_left(known, (demand.subscriber_id,)), demand) for demand in left]
    for end, some in groupby(before, key=operator.itemgetter(0)):
        if end > start:
            turns.append(((), known[start:end]))
        turns.append(([demand for _, demand in some], ()))
        start = end
    if start < len(known):
        turns.append(((), known[start:]))
    return turns


# Each turn under lock is a wait for the server.
_MOST_TURNS = 17


class Covered(NamedTuple):
    """A draw of which every demand has its bucket, in the draw's order; `found` got it just now."""

    subscribers: Sequence[int]
    buckets: Sequence[int]
    units: Sequence[int]
    generations: Sequence[int]
    found: list[Demand]


def cover(demands: list[Demand], *, at: dt.datetime, grace: dt.timedelta) -> Covered | None:
    """The draw of demands that one bucket each covers, for a caller that sends it with other
    things; None where some demand needs the window way, or costs nothing: no draw would put to the
    test what is known of it. Locks nothing. Raises Raced."""
    arranged = arrange(demands, at=at, grace=grace)
    if len(arranged) < len(demands):
        return None
    found = find(pgarrays.cursor(), arranged, at=at, grace=grace)
    sure, left = _sure_and_not(arranged)
    if left:
        return None
    subscribers, own, units, generations = _columns(sure)
    return Covered(subscribers, own, units, generations, found)


@contextlib.contextmanager
def failures() -> Iterator[None]:
    """Raise Raced where that is what the draw's function said, or what was not to be waited for
    any more was locked; around all statements of a charge.

    In a pipeline a statement's failure comes to light at any later one.
    """
    try:
        yield
    except (DatabaseError, OperationalError) as error:
        said = error.__cause__ if isinstance(error, OperationalError) else error
        if not isinstance(said, DatabaseError) or said.sqlstate not in (_RACED, _WAITED):
            raise
        whose = said.diag.message_detail if said.sqlstate == _RACED else None
        raise Raced(map(int, whose.split(",")) if whose else ()) from error


def attempt(work: Callable[[], Result]) -> Result:
    """Do work in a transaction until nothing that others commit is in its way."""
    for _ in range(_ATTEMPTS):
        try:
            with transaction.atomic(), failures():
                return work()
        except (Raced, DeadlockDetected):
            continue
        except OperationalError as error:
            if not isinstance(error.__cause__, DeadlockDetected):
                raise
    raise OperationalError("others were faster too often; send it again")


def _burn(
    cursor: Cursor,
    demands: Sequence[Demand],
    sure: Sequence[Sure],
    family: Pools | None,
    *,
    batch_id: int,
    at: dt.datetime,
    grace: dt.timedelta,
) -> list[Sure]:
    """The window way: lock, then consume in burn order. Answers draws that are locked."""
    # What is sure is locked in the same pass: a second one would break the order of locks. So
    # are the buckets of members' main lines.
    whole = {demand.subscriber_id for demand in demands} | _owners(family)
    targets = sorted(
        {(subscriber_id, 0) for subscriber_id in whole}
        | {(one[0], one[1]) for one in sure if one[0] not in whole},
        key=lambda target: (shard_of(target[0]), target),
    )
    cursor.execute(
        _LOCK_SQL,
        [
            Int8s([subscriber_id for subscriber_id, _ in targets]),
            Int8s([bucket_id for _, bucket_id in targets]),
            *_span(demands, at=at, grace=grace),
        ],
        binary=True,
        prepare=True,
    )
    held = _sources(cursor)
    drawn: dict[tuple[int, int], int] = defaultdict(int)
    bought: dict[tuple[int, int], int] = defaultdict(int)
    lending = None
    if family is not None:  # read again, now that nothing of it can change
        first = _span(demands, at=at, grace=grace)[0]
        family = pools.read(cursor, family.members, since=first, at=at)
        left_of = _left_after(drawn, bought)
        lending = Lending(family, held, left_of, at=at, grace=grace)
    for subscriber_id, bucket_id, units, generation in sure:
        payer = next((s for s in held[subscriber_id] if s.id == bucket_id), None)
        if payer is None or payer.generation != generation:
            raise Raced([subscriber_id])
        if payer.left is not None and payer.left < units:
            raise Raced([subscriber_id])
        drawn[subscriber_id, bucket_id] += units
    for demand in demands if family is None else family.in_order(demands):
        # Two demands of one subscriber see each other's draws.
        sources = [
            what_is_left_after(s, drawn, bought, demand.subscriber_id)
            for s in held[demand.subscriber_id]
        ]
        more = block_buyer(demand, bought)
        payable = may_pay_for(demand, at=at, grace=grace)
        if lending is not None:
            more, payable = _lender(demand, lending, more), _with_pool(payable, lending)
        for _, source, units in allot(demand.in_order(), sources, payable, more):
            if source.kind != Kind.POOL:  # what is lent is drawn as it is lent
                drawn[demand.subscriber_id, source.id] += units
    lent = sum(lending.lent.values()) if lending is not None else 0
    asked = sum(demand.units for demand in demands) + sum(one[2] for one in sure)
    if sum(drawn.values()) + lent != asked:
        raise Raced(whole)  # emptied after the look that decided which overflow buckets to open
    if lending is not None and lent:
        _lend(cursor, lending, batch_id=batch_id, at=at)
    if bought:
        cursor.execute(
            _ENLARGE_SQL,
            [
                Int8s([subscriber_id for subscriber_id, _ in bought]),
                Int8s([bucket_id for _, bucket_id in bought]),
                Int8s(bought.values()),
                Int8(batch_id),
                at,
            ],
            binary=True,
        )
    return [(*key, units, _LOCKED) for key, units in sorted(drawn.items(), key=_lock_order)]


_LOCKED = -1  # a generation that needs no test


def _span(
    demands: Sequence[Demand], *, at: dt.datetime, grace: dt.timedelta
) -> tuple[dt.datetime, dt.datetime]:
    """Buckets that end after the first and begin by the second might pay for these demands."""
    first, last = span_of(demands)
    return min(first, at - grace), max(last, at)


def _sources(cursor: Cursor) -> dict[int, list[Source]]:
    """The rows of _LOCK_SQL or _SOURCES_SQL by subscriber."""
    held: dict[int, list[Source]] = defaultdict(list)
    for subscriber_id, *columns in cursor.fetchall():
        held[subscriber_id].append(Source(*columns))
    return held


def _lock_order(item: tuple[tuple[int, int], int]) -> tuple[int, int, int]:
    (subscriber_id, bucket_id), _ = item
    return shard_of(subscriber_id), subscriber_id, bucket_id


# --- overflow: what pays when nothing prepaid does ----------------------------------------------


def overflow_grants(subscriber_id: int, period: Period, *, suspended: bool = False) -> list[Grant]:
    """The buckets that usage beyond the prepaid ones of this period may fall to."""
    policy = period.policy
    # The overage bucket of a metered plan is there since the period was opened.
    names: list[tuple[str, str, int | None]] = [("uncovered", Kind.UNCOVERED, None)]
    if policy is not None and policy.on_exhaustion == "blocks" and not suspended:
        names.append(("blocks", Kind.OVERAGE, 0))
    return [
        Grant(
            subscriber_id=subscriber_id,
            kind=kind,
            units=units,
            valid_from=period.since,
            valid_until=period.ends_at,
            grant_key=overflow_key(name, period),
            subscription_id=period.subscription_id,
        )
        for name, kind, units in names
    ]


_SOURCES_SQL = """
SELECT b.subscriber_id, b.id, b.kind, b.priority, b.granted - b.used - b.reserved,
       b.valid_from, b.valid_until, b.grant_key, b.granted, b.generation
FROM unnest(%b::bigint[]) AS g (subscriber_id)
JOIN subscriptions_bucket b ON b.subscriber_id = g.subscriber_id
WHERE b.valid_until > %b AND b.valid_from <= %b
"""


def _open_overflow(
    cursor: Cursor,
    demands: Sequence[Demand],
    *,
    at: dt.datetime,
    grace: dt.timedelta,
    freed: Units | None = None,
) -> Pools | None:
    """Make the overflow buckets that these demands will need, before any bucket is locked, and
    those through which members draw of their pools; answers these pools, if there are any.

    Later would be too late: two charges of a subscriber without any bucket would make the same
    one while holding locks the other waits for. `freed` is what will be given back before.
    """
    subscribers = sorted({d.subscriber_id for d in demands})
    cursor.execute(
        _SOURCES_SQL,
        [Int8s(subscribers), *_span(demands, at=at, grace=grace)],
        binary=True,
        prepare=True,
    )
    held = _sources(cursor)
    family = _open_pools(cursor, demands, held, freed or {}, at=at, grace=grace)
    short = _uncovered_demands(demands, held, freed or {}, at=at, grace=grace, family=family)
    # Without those that are there: even to find them there, an INSERT waits for who draws them.
    # They overtake nothing that is remembered: whoever has them opened had nothing else to draw.
    missing = [g for demand in short for g in _overflow_of(demand) if not _is_there(g, held)]
    grant(missing, at=at, overtakes=False)
    return family


def _is_there(wanted: Grant, held: Mapping[int, Sequence[Source]]) -> bool:
    return any(source.grant_key == wanted.grant_key for source in held[wanted.subscriber_id])


def _open_pools(
    cursor: Cursor,
    demands: Sequence[Demand],
    held: dict[int, list[Source]],
    freed: Units,
    *,
    at: dt.datetime,
    grace: dt.timedelta,
) -> Pools | None:
    """The pools of those of these demands whose subscribers have one, with the main lines' buckets
    and the mirrors that were made for them in `held`. Raises Behind."""
    pooled = [d for d in demands if any(s.kind == Kind.POOL for s in held[d.subscriber_id])]
    if not pooled:
        return None
    span = _span(demands, at=at, grace=grace)
    family = pools.read(cursor, {d.subscriber_id for d in pooled}, since=span[0], at=at)
    if family.behind:
        raise pools.Behind(family.behind)
    others = sorted(family.owners - held.keys())
    cursor.execute(_SOURCES_SQL, [Int8s(others), *span], binary=True, prepare=True)
    held.update(_sources(cursor))
    left_of = _left_after({}, freed)
    wanted = [w for d in pooled for w in family.wanted(d, held, left_of)]
    ids = grant(
        [
            Grant(
                subscriber_id=one.subscriber_id,
                kind=Kind.POOL,
                units=0,
                valid_from=one.valid_from,
                valid_until=one.valid_until,
                grant_key=one.grant_key,
                priority=one.priority,
            )
            for one in wanted
        ],
        at=at,
        overtakes=False,  # nothing behind the bucket that holds nothing is remembered
    )
    for bucket_id, one in zip(ids, wanted, strict=True):
        held[one.subscriber_id].append(
            Source(
                bucket_id,
                Kind.POOL,
                one.priority,
                0,
                one.valid_from,
                one.valid_until,
                one.grant_key,
                0,
            )
        )
    return family


def _owners(family: Pools | None) -> set[int]:
    return family.owners if family is not None else set()


def _left_after(
    drawn: Mapping[tuple[int, int], int], bought: Mapping[tuple[int, int], int]
) -> Callable[[int, Source], int]:
    """What a main line's bucket has left after what was drawn of it and given back to it; nothing
    where it has no end, which is not shared."""
    return lambda owner_id, source: what_is_left_after(source, drawn, bought, owner_id).left or 0


def _lender(
    demand: Demand, lending: Lending, otherwise: Callable[[Source, int], int]
) -> Callable[[Source, int], int]:
    """Enlarges mirrors by what is lent, other buckets as they are enlarged otherwise."""
    return lambda source, short: (
        lending.lend(demand.subscriber_id, source, short)
        if source.kind == Kind.POOL
        else otherwise(source, short)
    )


def _with_pool(
    payable: Callable[[Source, dt.datetime], bool], lending: Lending
) -> Callable[[Source, dt.datetime], bool]:
    return lambda source, occurred_at: (
        payable(source, occurred_at)
        and (source.kind != Kind.POOL or lending.may_pay(source, occurred_at))
    )


# Units leave main lines' buckets and pass through members' mirrors, all of which are locked.
_LEND_SQL = """
WITH l AS (
    SELECT * FROM unnest(%b::bigint[], %b::bigint[], %b::bigint[], %b::bigint[], %b::bigint[])
        AS l (subscriber_id, bucket_id, owner_id, lender_id, units)
), t AS (
    SELECT %b::bigint AS batch, %b::timestamptz AS at
), o AS (
    SELECT owner_id, lender_id, sum(units)::bigint AS units FROM l GROUP BY 1, 2
), u AS (
    UPDATE subscriptions_bucket b SET used = b.used + o.units FROM o
    WHERE b.subscriber_id = o.owner_id AND b.id = o.lender_id
    RETURNING b.subscriber_id, b.id, b.kind, b.granted, b.used, o.units
), m AS (
    UPDATE subscriptions_bucket b SET granted = b.granted + l.units, used = b.used + l.units FROM l
    WHERE b.subscriber_id = l.subscriber_id AND b.id = l.bucket_id
), j AS (
    INSERT INTO subscriptions_bucketentry
        (subscriber_id, batch_id, bucket_id, kind, units, charged_at)
    SELECT o.owner_id, t.batch, o.lender_id, 9, o.units, t.at FROM o, t
    UNION ALL
    SELECT l.subscriber_id, t.batch, l.bucket_id, 1, -l.units, t.at FROM l, t
    UNION ALL
    SELECT l.subscriber_id, t.batch, l.bucket_id, 2, l.units, t.at FROM l, t
)
SELECT * FROM u
"""


def _lend(cursor: Cursor, lending: Lending, *, batch_id: int, at: dt.datetime) -> None:
    """Draw what was lent, and tell main lines of thresholds as a draw of their own would."""
    rows = [
        (*key, *lending.mirrors[key[1]][:2], units) for key, units in sorted(lending.lent.items())
    ]
    columns = pgarrays.columns(rows, Int8s, Int8s, Int8s, Int8s, Int8s)
    cursor.execute(_LEND_SQL, [*columns, Int8(batch_id), at], binary=True, prepare=True)
    told = []
    emptied = set()
    for owner_id, bucket_id, kind, granted, used, units in cursor.fetchall():
        for percent in THRESHOLDS:
            at_used = granted - granted * (100 - percent) // 100
            if used - units < at_used <= used:
                said = {"bucket": bucket_id, "kind": kind, "percent": percent}
                said |= {"granted": granted, "used": used}
                key = f"bucket:{bucket_id}:{percent}"
                told.append(outbox.Happening(owner_id, "bucket.threshold", key, at, said))
        if used == granted:
            emptied.add(owner_id)
    for owner_id in sorted(emptied):
        left = Bucket.objects.filter(
            subscriber_id=owner_id,
            kind__in=PREPAID,
            valid_from__lte=at,
            valid_until__gt=at,
            granted__gt=F("used"),
        )
        if not left.exists():
            key = f"exhausted:{batch_id}"
            told.append(outbox.Happening(owner_id, "bucket.exhausted", key, at))
    outbox.tell(told)


def _overflow_of(demand: Demand) -> list[Grant]:
    return overflow_grants(demand.subscriber_id, demand.period, suspended=demand.suspended)


def _uncovered_demands(
    demands: Sequence[Demand],
    held: dict[int, list[Source]],
    freed: Units,
    *,
    at: dt.datetime,
    grace: dt.timedelta,
    family: Pools | None = None,
) -> list[Demand]:
    """The demands that the sources, with what is `freed` of each and what the `family` lends, do
    not cover."""
    short: list[Demand] = []
    drawn: dict[tuple[int, int], int] = defaultdict(int)
    lending = None
    if family is not None:
        lending = Lending(family, held, _left_after(drawn, freed), at=at, grace=grace)
    for demand in demands if family is None else family.in_order(demands):
        # As in the draw, what one demand of a subscriber takes is not there for the next.
        subscriber_id = demand.subscriber_id
        sources = [what_is_left_after(s, drawn, freed, subscriber_id) for s in held[subscriber_id]]
        if kinds_of(demand) == OTHERS:  # there may be one since before the plan, or a suspension
            sources = [source for source in sources if source.kind != Kind.UNCOVERED]
        payable = may_pay_for(demand, at=at, grace=grace)
        more: Callable[[Source, int], int] = none_more
        if lending is not None:
            more, payable = _lender(demand, lending, more), _with_pool(payable, lending)
        covered = 0
        for _, source, units in allot(demand.in_order(), sources, payable, more):
            if source.kind != Kind.POOL:
                drawn[subscriber_id, source.id] += units
            covered += units
        if covered < demand.units:
            short.append(demand)
    return short


# --- holding: units set aside for usage to come -------------------------------------------------

Units = Mapping[tuple[int, int], int]  # by (subscriber, bucket)

# What a reservation's own statement does to buckets that are locked: `columns` are its parameters.
RESERVE_SQL = """
UPDATE subscriptions_bucket b SET reserved = b.reserved + h.units
FROM unnest(%b::bigint[], %b::bigint[], %b::bigint[]) AS h (subscriber_id, bucket_id, units)
WHERE b.subscriber_id = h.subscriber_id AND b.id = h.bucket_id
"""
_NEVER = dt.datetime(9999, 1, 1, tzinfo=dt.UTC)
# Allowances of periods that have been turned, whose rollover bucket still pays.
_FOLLOW_SQL = """
SELECT a.subscriber_id, a.id, r.id, least(f.units, a.granted - a.used - a.reserved)
FROM unnest(%b::bigint[], %b::bigint[], %b::bigint[]) AS f (subscriber_id, bucket_id, units)
JOIN subscriptions_bucket a
  ON a.subscriber_id = f.subscriber_id AND a.id = f.bucket_id AND a.kind = 'allowance'
JOIN subscriptions_bucket r
  ON r.subscriber_id = a.subscriber_id AND r.subscription_id = a.subscription_id
 AND r.kind = 'rollover' AND r.valid_from = a.valid_from AND r.valid_until > %b
WHERE a.valid_until <= %b
"""


def look(
    cursor: Cursor, subscriber_ids: Iterable[int], *, at: dt.datetime
) -> dict[int, list[Source]]:
    """These subscribers' buckets that are live at `at`, unlocked."""
    cursor.execute(_SOURCES_SQL, [Int8s(subscriber_ids), at, at], binary=True, prepare=True)
    return _sources(cursor)


def lock(
    cursor: Cursor, subscriber_ids: Iterable[int], *, since: dt.datetime, until: dt.datetime
) -> dict[int, list[Source]]:
    """Lock these subscribers' buckets that end after `since` and begin by `until`, in order.

    Joins the caller's transaction on `cursor`. The subscribers are of one shard.
    """
    subscribers = sorted(set(subscriber_ids))
    anyone = Int8s([0] * len(subscribers))
    cursor.execute(_LOCK_SQL, [Int8s(subscribers), anyone, since, until], binary=True, prepare=True)
    return _sources(cursor)


def lock_to_free(
    cursor: Cursor, subscriber_ids: Iterable[int], *, since: dt.datetime
) -> dict[int, list[Source]]:
    """Lock all buckets that end after `since`: what `follow` may have to touch.

    That may find one that came since, and is locked: then it raises Raced, inside `failures`.
    """
    held = lock(cursor, subscriber_ids, since=since, until=_NEVER)
    _wait_no_more(cursor)
    return held


def _wait_no_more(cursor: Cursor) -> None:
    """From here to its end, let a transaction that holds its locks fail rather than wait.

    A lock that has to wait does not see what came meanwhile: a bucket that another opened, and a
    third has locked who waits for what is locked here. Milliseconds, for whose lock ends by itself.
    """
    cursor.execute("SELECT set_config('lock_timeout', '50', true)", prepare=True)


def follow(
    cursor: Cursor, freed: Units, held: Mapping[int, Sequence[Source]], *, at: dt.datetime
) -> None:
    """See to what comes of units given back to buckets that `lock_to_free` has locked.

    What an allowance gets back after its period was turned follows into the rollover bucket. And
    a bucket that was empty burns before others again: what is remembered of those is void.
    """
    sources = {
        (subscriber_id, source.id): source
        for subscriber_id, some in held.items()
        for source in some
        if (subscriber_id, source.id) in freed or source.kind == Kind.ROLLOVER
    }
    ended = {
        key: units
        for key, units in freed.items()
        if sources[key].kind == Kind.ALLOWANCE and sources[key].valid_until <= at
    }
    filled = freed.keys() | (_roll_after(cursor, ended, at=at) if ended else set())
    _overtake(sorted(key for key in filled if sources[key].left == 0))


def _roll_after(cursor: Cursor, ended: Units, *, at: dt.datetime) -> set[tuple[int, int]]:
    """Move units that came back into the rollovers of their buckets; answers the rollovers."""
    cursor.execute(_FOLLOW_SQL, [*columns(ended), at, at], binary=True, prepare=True)
    arriving: dict[tuple[int, int], int] = defaultdict(int)
    leaving = []
    for subscriber_id, old, new, moved in cursor.fetchall():
        if moved:
            leaving.append((subscriber_id, old, moved))
            arriving[subscriber_id, new] += moved
    if arriving:
        partitions.ensure(partitions.ENTRIES, [partitions.day_of(at)])
        batch_id = next_batch_id()
        _take(Movement.ROLLOVER, leaving, at=at, batch_id=batch_id)
        cursor.execute(_ENLARGE_SQL, [*columns(arriving), Int8(batch_id), at], binary=True)
    return set(arriving)


def lock_for_draw(
    cursor: Cursor,
    freed: Units,
    demands: Sequence[Demand],
    *,
    since: dt.datetime,
    at: dt.datetime,
    grace: dt.timedelta,
    look_first: bool,
) -> dict[int, list[Source]]:
    """Lock what `draw` may lock for these demands, when units are to be given back before it.

    All of it is locked here, in order, from `since` on at the latest, and what the draw may have
    to open is opened before. Where the demands ask for no more than is freed, that look can be
    spared; if it was needed after all, Raced: again, with `look_first`.
    """
    open_ones = [demand for demand in demands if demand.units and demand.pick is None]
    family = None
    if open_ones and look_first:
        family = _open_overflow(cursor, open_ones, at=at, grace=grace, freed=freed)
    first = _span(demands, at=at, grace=grace)[0] if demands else at
    subscribers = {d.subscriber_id for d in demands} | {key[0] for key in freed} | _owners(family)
    held = lock_to_free(cursor, subscribers, since=min(since, first))
    if family is not None:
        family = pools.read(cursor, family.members, since=first, at=at)
    short = _uncovered_demands(open_ones, held, freed, at=at, grace=grace, family=family)
    for demand in short:
        if family is None and any(s.kind == Kind.POOL for s in held[demand.subscriber_id]):
            raise Raced
        if not all(_is_there(overflow, held) for overflow in _overflow_of(demand)):
            raise Raced
    return held


def columns(units: Units, sign: int = 1) -> tuple[Int8s, Int8s, Int8s]:
    """Subscribers, buckets and units, as statements take them."""
    keys = sorted(units)
    return (
        Int8s([key[0] for key in keys]),
        Int8s([key[1] for key in keys]),
        Int8s([sign * units[key] for key in keys]),
    )


# --- reversing: what was drawn for usage that is void or less by now -----------------------------

_REVERSE_SQL = """
WITH r AS (
    SELECT * FROM unnest(%b::bigint[], %b::bigint[], %b::bigint[], %b::bigint[])
        AS r (subscriber_id, bucket_id, units, refilled)
), u AS (
    UPDATE subscriptions_bucket b SET used = b.used - r.refilled FROM r
    WHERE b.subscriber_id = r.subscriber_id AND b.id = r.bucket_id AND r.refilled > 0
)
INSERT INTO subscriptions_bucketentry (subscriber_id, batch_id, bucket_id, kind, units, charged_at)
SELECT r.subscriber_id, %b, r.bucket_id, 5, -r.units, %b FROM r
UNION ALL
SELECT r.subscriber_id, %b, r.bucket_id, 6, r.units - r.refilled, %b FROM r
WHERE r.units > r.refilled
"""
_EVER = dt.datetime(1971, 1, 1, tzinfo=dt.UTC)


def reverse(
    cursor: Cursor,
    units: Units,
    demands: Sequence[Demand],
    *,
    batch_id: int,
    at: dt.datetime,
    grace: dt.timedelta,
) -> None:
    """Give drawn units back to their buckets, right before `draw` is to draw these demands.

    Locks all buckets of these subscribers, and opens before what the demands may fall to. A bucket
    is refilled while it lives; into a prepaid one that has ended by `at`, or one that was taken
    back, the units enter and lapse at once: its balance stays, and the journal still tells what
    usage drew of it. What overflow buckets get back always counts: it is not owed any more.
    Joins the caller's transaction on `cursor` (settings of PLANNER_SQL).
    """
    open_ones = [demand for demand in demands if demand.units]
    family = _open_overflow(cursor, open_ones, at=at, grace=grace) if open_ones else None
    subscribers = {key[0] for key in units} | {demand.subscriber_id for demand in open_ones}
    lenders = _lenders_of(units)
    subscribers |= {key[0] for key in lenders.values()} | _owners(family)
    held = lock_to_free(cursor, subscribers, since=_EVER)
    if not units:
        return
    sources = {
        (subscriber_id, source.id): source for subscriber_id, own in held.items() for source in own
    }
    taken_back = _taken_back([*units, *lenders.values()])
    refilled = {}
    for key, given in units.items():
        # What was lent goes by the bucket that lent it, and back to it.
        payer = lenders.get(key, key)
        ended = sources[payer].kind in PREPAID and sources[payer].valid_until <= at
        refilled[key] = 0 if payer in taken_back or ended else given
    partitions.ensure(partitions.ENTRIES, [partitions.day_of(at)])
    cursor.execute(
        _REVERSE_SQL,
        [*columns(units), columns(refilled)[2], *[Int8(batch_id), at] * 2],
        binary=True,
        prepare=True,
    )
    returned = {key: refilled.pop(key) for key in lenders if refilled[key]}
    if returned:
        rows = [(*key, *lenders[key], some) for key, some in sorted(returned.items())]
        columns_ = pgarrays.columns(rows, Int8s, Int8s, Int8s, Int8s, Int8s)
        cursor.execute(_RETURN_SQL, [*columns_, Int8(batch_id), at], binary=True, prepare=True)
    # A bucket that was empty burns before others again: what is remembered of those is void.
    filled = {key for key, given in refilled.items() if given}
    filled |= {lenders[key] for key in returned}
    _overtake(sorted(key for key in filled if not sources[key].left))


# What mirrors got back is granted less, and back in the buckets that had lent it.
_RETURN_SQL = """
WITH l AS (
    SELECT * FROM unnest(%b::bigint[], %b::bigint[], %b::bigint[], %b::bigint[], %b::bigint[])
        AS l (subscriber_id, bucket_id, owner_id, lender_id, units)
), t AS (
    SELECT %b::bigint AS batch, %b::timestamptz AS at
), o AS (
    SELECT owner_id, lender_id, sum(units)::bigint AS units FROM l GROUP BY 1, 2
), u AS (
    UPDATE subscriptions_bucket b SET used = b.used - o.units FROM o
    WHERE b.subscriber_id = o.owner_id AND b.id = o.lender_id
), m AS (
    UPDATE subscriptions_bucket b SET granted = b.granted - l.units FROM l
    WHERE b.subscriber_id = l.subscriber_id AND b.id = l.bucket_id
)
INSERT INTO subscriptions_bucketentry (subscriber_id, batch_id, bucket_id, kind, units, charged_at)
SELECT o.owner_id, t.batch, o.lender_id, 10, -o.units, t.at FROM o, t
UNION ALL
SELECT l.subscriber_id, t.batch, l.bucket_id, 11, l.units, t.at FROM l, t
"""


def _lenders_of(units: Units) -> dict[tuple[int, int], tuple[int, int]]:
    """Which main line's bucket stands behind each of these that is a mirror of one."""
    keys = Bucket.objects.filter(
        kind=Kind.POOL,
        subscriber_id__among={key[0] for key in units},
        id__among={key[1] for key in units},
    ).values_list("subscriber_id", "id", "grant_key")
    found = {}
    for subscriber_id, bucket_id, grant_key in keys:
        mirror = pools.mirror_of(grant_key)
        if mirror is not None and (subscriber_id, bucket_id) in units:
            found[subscriber_id, bucket_id] = (mirror.owner_id, mirror.bucket_id)
    return found


def _taken_back(keys: Iterable[tuple[int, int]]) -> set[tuple[int, int]]:
    """Those of these buckets that were withdrawn."""
    return set(
        BucketEntry.objects.filter(
            kind=Movement.WITHDRAWAL,
            subscriber_id__among={key[0] for key in keys},
            bucket_id__among={key[1] for key in keys},
        ).values_list("subscriber_id", "bucket_id")
    )
