"""The pool of a family as a charge and an ask see it: what a member may draw of the main line's
units, and through which buckets. Only reads; buckets.py writes.

A member has buckets of the kind `pool`. One, of the whole membership, holds nothing: it burns after
the member's own units and before overflow, so that whoever looks for a bucket that covers a demand
stops at it, and only then the family is asked for. Each of the others mirrors one bucket of the
main line for one month of one membership: units that usage draws of it are lent by that bucket in
the same statement, and none are ever left in it. So every record is paid by its own subscriber's
buckets, and every unit has one pair of journal rows that says whose it was and for whom.

A cap counts what a calendar month's mirrors were lent, and what open reservations hold.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple
from zoneinfo import ZoneInfo

from subscriptions.demands import Demand, Source
from subscriptions.models import Bucket
from subscriptions.pgarrays import Cursor, Int8s

POOL = Bucket.Kind.POOL
_FIRST = 1  # FamilyMember.Priority.FIRST
# Of the bucket that holds nothing; mirrors come behind it, in the burn order of what they mirror.
PRIORITY = 50
_LONGEST_MONTH = dt.timedelta(days=32)


class Member(NamedTuple):
    """A membership with its family's rules; it lasts while `until` is None."""

    subscriber_id: int
    id: int
    owner_id: int
    cap: int | None
    priority: int
    since: dt.datetime
    until: dt.datetime | None
    kinds: frozenset[str]
    kept: int
    zone: ZoneInfo

    def lasts_at(self, instant: dt.datetime) -> bool:
        return self.since <= instant and (self.until is None or instant < self.until)

    def month_of(self, instant: dt.datetime) -> str:
        """The calendar month whose cap counts."""
        return f"{instant.astimezone(self.zone):%Y-%m}"


class Mirror(NamedTuple):
    """What a pool bucket's grant key says: which bucket lends, in which month and membership."""

    owner_id: int
    bucket_id: int
    month: str
    member_id: int

    def grant_key(self) -> str:
        return f"pool:{self.owner_id}:{self.bucket_id}:{self.month}:{self.member_id}"


def marker_key(member_id: int) -> str:
    """The grant key of the bucket that holds nothing."""
    return f"pool:{member_id}"


def mirror_of(grant_key: str) -> Mirror | None:
    """None for the bucket that holds nothing."""
    parts = grant_key.split(":")
    if len(parts) != 5:
        return None
    return Mirror(int(parts[1]), int(parts[2]), parts[3], int(parts[4]))


class Wanted(NamedTuple):
    """A mirror that a demand may need and does not have."""

    subscriber_id: int
    grant_key: str
    priority: int
    valid_from: dt.datetime
    valid_until: dt.datetime


_MEMBERS_SQL = """
SELECT m.subscriber_id, m.id, f.owner_id, m.cap, m.priority, m.since, m.until, f.shared, f.kept,
       o.time_zone
FROM unnest(%b::bigint[]) AS g (subscriber_id)
JOIN subscriptions_familymember m ON m.subscriber_id = g.subscriber_id AND NOT m.is_owner
 AND (m.until IS NULL OR m.until > %b)
JOIN subscriptions_family f ON f.id = m.family_id
JOIN subscriptions_operator o ON o.id = f.operator_id
"""
# When the main lines share nothing; what months' mirrors were lent; which main lines have a period
# to be opened or turned; what open reservations hold.
_STATE_SQL = """
SELECT 'stop', x.subscriber_id, x.starts_at, x.ends_at, '', 0::bigint
FROM subscriptions_suspension x
WHERE x.subscriber_id = ANY(%b::bigint[]) AND (x.ends_at IS NULL OR x.ends_at > %b)
UNION ALL
SELECT 'stop', p.subscriber_id, p.starts_at, p.ends_at, '', 0
FROM subscriptions_subscriptionperiod p
JOIN subscriptions_plan l ON l.id = p.plan_id AND l.suspends
WHERE p.subscriber_id = ANY(%b::bigint[]) AND p.ends_at > %b
UNION ALL
SELECT 'lent', b.subscriber_id, NULL, NULL, b.grant_key, b.granted
FROM subscriptions_bucket b
WHERE b.subscriber_id = ANY(%b::bigint[]) AND b.valid_until > %b AND b.kind = 'pool'
  AND b.granted > 0
UNION ALL
SELECT 'behind', u.subscriber_id, NULL, NULL, '', 0
FROM subscriptions_subscription u
WHERE u.subscriber_id = ANY(%b::bigint[]) AND u.opened_until <= %b
  AND (u.ends_at IS NULL OR u.ends_at > u.opened_until)
UNION ALL
SELECT 'behind', p.subscriber_id, NULL, NULL, '', 0
FROM subscriptions_subscriptionperiod p
WHERE p.subscriber_id = ANY(%b::bigint[]) AND p.turned_at IS NULL AND p.starts_at <= %b
UNION ALL
SELECT 'held', r.subscriber_id, NULL, NULL, '', (e ->> 1)::bigint
FROM subscriptions_reservation r CROSS JOIN LATERAL jsonb_array_elements(r.holds) e
WHERE r.subscriber_id = ANY(%b::bigint[]) AND r.state = 1 AND jsonb_array_length(e) = 3
"""


class Pools:
    """The memberships of some subscribers, their main lines, and what was lent so far."""

    def __init__(self, members: Iterable[Member]) -> None:
        self.members: dict[int, list[Member]] = defaultdict(list)
        for member in members:
            self.members[member.subscriber_id].append(member)
        self._by_id = {one.id: one for some in self.members.values() for one in some}
        self._stops: dict[int, list[tuple[dt.datetime, dt.datetime | None]]] = defaultdict(list)
        self._lent: dict[tuple[int, str], int] = defaultdict(int)
        self._held: dict[int, int] = defaultdict(int)
        self.behind: set[int] = set()  # main lines of which a period has to be opened or turned

    @property
    def owners(self) -> set[int]:
        """The main lines."""
        return {member.owner_id for member in self._by_id.values()}

    def member_at(self, subscriber_id: int, instant: dt.datetime) -> Member | None:
        """The membership that lasts then, while its main line shares."""
        for member in self.members.get(subscriber_id, ()):
            if member.lasts_at(instant) and self.is_open(member.owner_id, instant):
                return member
        return None

    def is_open(self, owner_id: int, instant: dt.datetime) -> bool:
        """Whether a main line shares what it has: not while it may use nothing itself."""
        return not any(
            start <= instant and (end is None or instant < end)
            for start, end in self._stops.get(owner_id, ())
        )

    def by_id(self, member_id: int) -> Member | None:
        return self._by_id.get(member_id)

    def lent_to(self, member: Member, month: str) -> int:
        """What a month's usage has drawn of the pool."""
        return self._lent.get((member.id, month), 0)

    def held_for(self, subscriber_id: int) -> int:
        """What a member's open reservations hold of the pool."""
        return self._held.get(subscriber_id, 0)

    def hold(self, subscriber_id: int, units: int) -> None:
        """Count what an ask that was decided just now holds."""
        self._held[subscriber_id] += units

    def room(self, member: Member, month: str) -> int | None:
        """What the cap leaves of a month; None without a cap."""
        if member.cap is None:
            return None
        taken = self.lent_to(member, month) + self.held_for(member.subscriber_id)
        return max(0, member.cap - taken)

    def in_order(self, demands: Sequence[Demand]) -> list[Demand]:
        """Own units first: main lines before members, and those by priority."""
        return sorted(
            demands,
            key=lambda demand: min(
                (one.priority for one in self.members.get(demand.subscriber_id, ())), default=0
            ),
        )

    def wanted(
        self,
        demand: Demand,
        held: Mapping[int, Sequence[Source]],
        left_of: Callable[[int, Source], int],
    ) -> list[Wanted]:
        """The mirrors that a demand may draw through, and that are not there yet."""
        there = {source.grant_key for source in held[demand.subscriber_id]}
        found: dict[str, Wanted] = {}
        instants: dict[tuple[int, str], Member] = {}
        for use in demand.uses:
            member = self.member_at(demand.subscriber_id, use[3])
            if member is not None:
                instants.setdefault((member.id, member.month_of(use[3])), member)
        for (member_id, month), member in instants.items():
            for source in held.get(member.owner_id, ()):
                key = Mirror(member.owner_id, source.id, month, member_id).grant_key()
                since = max(source.valid_from, member.since)
                until = source.valid_until
                if member.until is not None:
                    until = min(until, member.until)
                if (
                    source.kind in member.kinds
                    and key not in there
                    and since < until
                    and left_of(member.owner_id, source) > 0
                ):
                    found[key] = Wanted(
                        demand.subscriber_id, key, PRIORITY + source.priority // 10, since, until
                    )
        return list(found.values())

    def sources_for(
        self, subscriber_id: int, owned: Sequence[Source], *, at: dt.datetime
    ) -> list[Source]:
        """What a member could draw of the pool now, as sources that go by the lending buckets' ids;
        `owned` are the main line's."""
        member = self.member_at(subscriber_id, at)
        if member is None:
            return []
        live = [
            source
            for source in owned
            if source.kind in member.kinds
            and source.left is not None
            and source.valid_from <= at < source.valid_until
        ]
        most = sum(source.left or 0 for source in live)
        if member.priority != _FIRST:
            most = max(0, most - member.kept)
        room = self.room(member, member.month_of(at))
        if room is not None:
            most = min(most, room)
        found = []
        for source in sorted(live, key=lambda source: source.burn_order()):
            units = min(most, source.left or 0)
            if units > 0:
                most -= units
                found.append(
                    dataclasses.replace(
                        source,
                        kind=POOL,
                        priority=PRIORITY + source.priority // 10,
                        left=units,
                        granted=units,
                    )
                )
        return found


class Behind(Exception):
    """Periods of these main lines are to be opened or turned before, outside the transaction."""

    def __init__(self, subscriber_ids: Iterable[int]) -> None:
        self.subscriber_ids = sorted(subscriber_ids)


def read(
    cursor: Cursor, subscriber_ids: Iterable[int], *, since: dt.datetime, at: dt.datetime
) -> Pools:
    """The pools of these subscribers at `at` for usage since then. True of now only under the locks
    of their buckets and their main lines': whoever changes a membership, a rule or a suspension
    raises the generation of those."""
    subscribers = Int8s(sorted(set(subscriber_ids)))
    cursor.execute(_MEMBERS_SQL, [subscribers, since], binary=True, prepare=True)
    pools = Pools(
        Member(
            *(row[0], row[1], row[2], row[3], row[4], row[5], row[6]),
            frozenset(row[7].split(",")),
            row[8],
            ZoneInfo(row[9]),
        )
        for row in cursor.fetchall()
    )
    if not pools.members:
        return pools
    owners, month = Int8s(sorted(pools.owners)), since - _LONGEST_MONTH
    cursor.execute(
        _STATE_SQL,
        [owners, since, owners, since, subscribers, month, owners, at, owners, at, subscribers],
        binary=True,
        prepare=True,
    )
    for what, subscriber_id, starts_at, ends_at, grant_key, units in cursor.fetchall():
        if what == "stop":
            pools._stops[subscriber_id].append((starts_at, ends_at))
        elif what == "behind":
            pools.behind.add(subscriber_id)
        elif what == "held":
            pools._held[subscriber_id] += units
        else:
            mirror = mirror_of(grant_key)
            if mirror is not None:
                pools._lent[mirror.member_id, mirror.month] += units
    return pools


class Lending:
    """What the main lines lend to the demands of one draw, one after the other.

    `held` are the locked buckets by subscriber, `left_of` what one of a main line has left after
    what this draw took of it for itself.
    """

    def __init__(
        self,
        pools: Pools,
        held: Mapping[int, Sequence[Source]],
        left_of: Callable[[int, Source], int],
        *,
        at: dt.datetime,
        grace: dt.timedelta,
    ) -> None:
        self.lent: dict[tuple[int, int], int] = defaultdict(int)  # by member and mirror
        self.mirrors: dict[int, Mirror] = {}
        self._pools = pools
        self._left_of = left_of
        self._at = at
        self._grace = grace
        self._owned = {
            (owner_id, source.id): source
            for owner_id in pools.owners
            for source in held.get(owner_id, ())
        }
        self._by_owner: dict[tuple[int, int], int] = defaultdict(int)
        self._by_month: dict[tuple[int, str], int] = defaultdict(int)

    def may_pay(self, source: Source, occurred_at: dt.datetime) -> bool:
        """Whether a mirror, which is valid then, may be lent to for usage of that instant."""
        mirror = self._mirror(source)
        if mirror is None:
            return False
        member = self._pools.by_id(mirror.member_id)
        owned = self._owned.get((mirror.owner_id, mirror.bucket_id))
        return (
            member is not None
            and owned is not None
            and owned.kind in member.kinds
            and member.lasts_at(occurred_at)
            and member.month_of(occurred_at) == mirror.month
            and self._pools.is_open(mirror.owner_id, occurred_at)
            and owned.valid_from <= occurred_at < owned.valid_until
            and self._at < owned.valid_until + self._grace
        )

    def lend(self, subscriber_id: int, source: Source, short: int) -> int:
        """Up to so many units through a mirror; answers how many."""
        mirror = self._mirror(source)
        member = self._pools.by_id(mirror.member_id) if mirror is not None else None
        if mirror is None or member is None:
            return 0
        lender = (mirror.owner_id, mirror.bucket_id)
        units = min(short, self._left(lender))
        if member.priority != _FIRST:
            units = min(units, self._above_kept(member))
        room = self._pools.room(member, mirror.month)
        if room is not None:
            units = min(units, room - self._by_month[member.id, mirror.month])
        if units <= 0:
            return 0
        self.lent[subscriber_id, source.id] += units
        self._by_owner[lender] += units
        self._by_month[member.id, mirror.month] += units
        return units

    def _mirror(self, source: Source) -> Mirror | None:
        if source.id not in self.mirrors:
            mirror = mirror_of(source.grant_key)
            if mirror is None:
                return None
            self.mirrors[source.id] = mirror
        return self.mirrors[source.id]

    def _left(self, lender: tuple[int, int]) -> int:
        owned = self._owned.get(lender)
        return 0 if owned is None else self._left_of(lender[0], owned) - self._by_owner[lender]

    def _above_kept(self, member: Member) -> int:
        """What the main line's shared buckets have left beyond what is kept."""
        left = sum(
            max(0, self._left(key))
            for key, source in self._owned.items()
            if key[0] == member.owner_id
            and source.kind in member.kinds
            and source.valid_from <= self._at < source.valid_until
        )
        return max(0, left - member.kept)
