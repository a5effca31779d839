"""What a subscriber can still burn. Only reads."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from django.db.models import BigIntegerField, Value

from subscriptions import buckets as ledger
from subscriptions import lifecycle, pgarrays, pools, reservations
from subscriptions.buckets import SPENDABLE, Kind
from subscriptions.models import Bucket


@dataclass(frozen=True, slots=True)
class Balance:
    """Buckets in burn order, and what the prepaid ones live at `as_of` sum up to.

    `available` = their remaining - `reserved`; units in thousandths. A bucket in its grace still
    pays for late usage, but for nothing new: it is listed and not counted. A member's `pool` is one
    bucket: `used` is what the member drew of it this month, what remains is what it may still draw.
    """

    as_of: dt.datetime
    available: int
    reserved: int
    buckets: list[Bucket]


# In the place of a subscription: a pool is lent.
_LENT = 0


def bring_up(subscriber_id: int, *, at: dt.datetime) -> None:
    """Open what is due of a subscriber, and of the main line that lends to it."""
    lent = Bucket.objects.filter(subscriber_id=subscriber_id, kind=Kind.POOL).values_list(
        "subscriber_id", Value(_LENT, BigIntegerField())
    )
    due = lifecycle.due_of([subscriber_id], at=at, until=at, beside=lent)
    pooled = (subscriber_id, _LENT) in due
    lifecycle.open_these(due - {(subscriber_id, _LENT)}, at=at, until=at)
    if not pooled:
        return
    behind = pools.read(pgarrays.cursor(), [subscriber_id], since=at, at=at).behind
    if behind:
        lifecycle.ensure_open(sorted(behind), at=at, until=at)


def balance_of(
    subscriber_id: int, *, as_of: dt.datetime, grace: dt.timedelta, everything: bool = False
) -> Balance:
    """The balance at `as_of`: the buckets live then or in their grace, or `everything` ever held.

    The caller has let `bring_up` open what is due.
    """
    rows = Bucket.objects.filter(subscriber_id=subscriber_id)
    if not everything:
        rows = rows.filter(valid_from__lte=as_of, valid_until__gt=as_of - grace)
    buckets = list(rows.order_by("priority", "valid_until", "valid_from", "id"))
    if any(b.kind == Kind.POOL for b in buckets):
        buckets = _with_pool(subscriber_id, buckets, as_of=as_of, everything=everything)
    live = [b for b in buckets if b.kind in SPENDABLE and b.valid_from <= as_of < b.valid_until]
    reserved = sum(bucket.reserved for bucket in live)
    return Balance(
        as_of=as_of,
        available=sum(remaining(bucket) or 0 for bucket in live) - reserved,
        reserved=reserved,
        buckets=buckets,
    )


def remaining(bucket: Bucket) -> int | None:
    """granted - used, in thousandths; None where there is no limit."""
    return None if bucket.granted is None else bucket.granted - bucket.used


def _with_pool(
    subscriber_id: int, buckets: list[Bucket], *, as_of: dt.datetime, everything: bool
) -> list[Bucket]:
    """The buckets with what a member may draw now; what it drew through which is for `everything`.

    What open reservations hold of the main line's is reserved here, for the member, too.
    """
    cursor = pgarrays.cursor()
    family = pools.read(cursor, [subscriber_id], since=as_of, at=as_of)
    owned = ledger.look(cursor, family.owners, at=as_of)
    _, sources = reservations.pool_now(family, subscriber_id, owned, at=as_of)
    member = family.member_at(subscriber_id, as_of)
    found = []
    for bucket in buckets:
        if bucket.kind == Kind.POOL and pools.mirror_of(bucket.grant_key) is None:
            if member is not None and bucket.grant_key == pools.marker_key(member.id):
                held = family.held_for(subscriber_id)
                bucket.used = family.lent_to(member, member.month_of(as_of))
                bucket.reserved = held
                bucket.granted = bucket.used + held + sum(source.left or 0 for source in sources)
            elif not everything and bucket.valid_until <= as_of:
                continue
        elif bucket.kind == Kind.POOL and not everything:
            continue
        found.append(bucket)
    return found
