"""Freezing: units that are kept from use until it is known whose they are. The only writer of
Freeze.

A freeze is part of its bucket's `reserved`: usage falls to the next bucket by the rule that a
charge obeys anyway, and the hot path knows nothing of it. Joins the caller's transaction, which
holds the subscriber's row; buckets are locked here, last.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from django.db import connection

from subscriptions import buckets
from subscriptions.buckets import Movement
from subscriptions.models import Freeze

State = Freeze.State


def freeze(
    subscriber_id: int,
    bucket_ids: Sequence[int],
    key: str,
    *,
    at: dt.datetime,
    units: int | None = None,
) -> int:
    """Keep so many units of one bucket from use, or all that these have left; answers how many.

    Of what is not there nothing is frozen. Again, with the same key, takes in what came back to the
    buckets since (reservations that were released, usage that is void).
    """
    assert connection.in_atomic_block
    frozen = 0
    for bucket_id, taken in buckets.set_aside(subscriber_id, bucket_ids, most=units).items():
        row, new = Freeze.objects.get_or_create(
            subscriber_id=subscriber_id,
            bucket_id=bucket_id,
            key=key,
            defaults={"units": taken, "at": at},
        )
        if not new:
            assert row.state == State.FROZEN
            row.units += taken
            Freeze.objects.filter(subscriber_id=subscriber_id, bucket_id=bucket_id, key=key).update(
                units=row.units
            )
        frozen += taken
    return frozen


def thaw(subscriber_id: int, key: str, *, at: dt.datetime) -> int:
    """Let frozen units be used again; answers how many. Again there are none."""
    held = _end(subscriber_id, key, State.THAWED, at=at)
    buckets.put_back(subscriber_id, held, at=at)
    return sum(held.values())


def take(subscriber_id: int, key: str, *, at: dt.datetime, paid_back: bool) -> int:
    """Let frozen units leave their buckets for good; answers how many. Again there are none.

    `paid_back`: so was their price, and what usage had of the rest stays paid: usage that is void
    later comes back to the bucket.
    """
    held = _end(subscriber_id, key, State.TAKEN, at=at)
    kind = Movement.REFUND if paid_back else Movement.WITHDRAWAL
    buckets.take_aside(subscriber_id, held, kind, at=at)
    return sum(held.values())


def _end(subscriber_id: int, key: str, state: str, *, at: dt.datetime) -> dict[int, int]:
    rows = Freeze.objects.filter(subscriber_id=subscriber_id, key=key, state=State.FROZEN)
    held = dict(rows.values_list("bucket_id", "units"))
    rows.update(state=state, ended_at=at)
    return {bucket_id: units for bucket_id, units in held.items() if units}


def frozen_of(subscriber_id: int, key: str) -> int:
    """How many units are frozen under a key."""
    rows = Freeze.objects.filter(subscriber_id=subscriber_id, key=key, state=State.FROZEN)
    return sum(rows.values_list("units", flat=True))
