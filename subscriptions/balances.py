"""What a subscriber can still burn. Only reads."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from subscriptions.buckets import PREPAID
from subscriptions.models import Bucket


@dataclass(frozen=True, slots=True)
class Balance:
    """Buckets in burn order, and what the prepaid ones live at `as_of` sum up to.

    `available` = their remaining - `reserved`; units in thousandths. A bucket in its grace still
    pays for late usage, but for nothing new: it is listed and not counted.
    """

    as_of: dt.datetime
    available: int
    reserved: int
    buckets: list[Bucket]


def balance_of(
    subscriber_id: int, *, as_of: dt.datetime, grace: dt.timedelta, everything: bool = False
) -> Balance:
    """The balance at `as_of`: the buckets live then or in their grace, or `everything` ever held.

    The caller has let `lifecycle.ensure_open` open what is due.
    """
    rows = Bucket.objects.filter(subscriber_id=subscriber_id)
    if not everything:
        rows = rows.filter(valid_from__lte=as_of, valid_until__gt=as_of - grace)
    buckets = list(rows.order_by("priority", "valid_until", "valid_from", "id"))
    live = [b for b in buckets if b.kind in PREPAID and b.valid_from <= as_of < b.valid_until]
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
