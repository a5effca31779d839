"""An operator's terms as a charge goes by them: read under its lock, or remembered and compared
under it."""

from __future__ import annotations

import datetime as dt
from typing import NamedTuple
from zoneinfo import ZoneInfo

from metering.context import Caller
from metering.weighing import Cards, cards_of
from subscriptions import buckets, clock, pipeline
from subscriptions.pgarrays import (
    micros_of,
    pack_int8,
    pack_interval,
    unpack_instant,
    unpack_interval,
)
from subscriptions.pipeline import Statement

# SQLSTATE of the functions that compare what was remembered: it is so no more.
STALE = "TB001"


class KeyRevoked(Exception):
    """The key was valid when the request came and is no longer."""


class Terms(NamedTuple):
    """They hold until the commit of whoever has the operator's lock. `stamp` is the newest rate
    card version's id, `clock_at` the test clock's time."""

    clock_at: dt.datetime | None
    grace: dt.timedelta
    time_zone: str
    default_card: str
    stamp: int
    zone: ZoneInfo
    cards: Cards

    def now(self, wall: dt.datetime) -> dt.datetime:
        return self.clock_at or wall

    def packed(self, caller: Caller, at: dt.datetime) -> list[bytes | None]:
        """The arguments that such functions begin with: who asks, when, and what it goes by."""
        return [
            *(pack_int8(each) for each in (caller.operator_id, caller.key_id, caller.gateway_id)),
            pack_int8(micros_of(at)),
            pack_int8(micros_of(self.clock_at)) if self.clock_at else None,
            pack_interval(self.grace),
            *(self.time_zone.encode(), self.default_card.encode()),
            pack_int8(self.stamp),
        ]


# By operator and key, as last read; whoever goes by them compares them under the lock.
_remembered: dict[tuple[int, int], tuple[pipeline.Row, Terms]] = {}

# A statement of its own: what is read below must be read after the lock was had.
_LOCK = Statement(
    "metering_lock",
    f"SELECT {buckets.PLANNER_SQL}, {clock.LOCK_SHARED_SQL}, pg_current_snapshot()::text",
)
_READ = Statement(
    "metering_terms",
    """
SELECT o.clock_at, o.late_grace, o.time_zone, o.default_rate_card,
       coalesce((SELECT max(c.id) FROM subscriptions_ratecard c WHERE c.operator_id = o.id), 0)
FROM subscriptions_operator o
JOIN subscriptions_apikey k ON k.operator_id = o.id
WHERE o.id = $1::bigint AND k.id = $2::bigint AND k.revoked_at IS NULL
""",
)


class Locked(NamedTuple):
    """A transaction under the operator's shared lock: whether `pipeline.begin` began it, and which
    transactions had been committed before all that it reads."""

    terms: Terms
    begun: bool
    snapshot: bytes


def lock(caller: Caller) -> Locked:
    """The terms, under the operator's shared lock until the transaction ends; with the planner's
    settings of a charge. Raises KeyRevoked."""
    operator = pack_int8(caller.operator_id)
    begun, rows = pipeline.begin(
        [(_LOCK, [operator]), (_READ, [operator, pack_int8(caller.key_id)])]
    )
    locked = rows[0]
    assert locked is not None
    snapshot = locked[-1]
    assert snapshot is not None
    return Locked(_remember(caller, rows[1]), begun, snapshot)


def recall(caller: Caller) -> Terms:
    """The terms as remembered, else as they are now: to be compared under the lock. Raises
    KeyRevoked."""
    known = _remembered.get((caller.operator_id, caller.key_id))
    if known is not None:
        return known[1]
    asked = [pack_int8(caller.operator_id), pack_int8(caller.key_id)]
    return _remember(caller, pipeline.run([(_READ, asked)])[0])


def forget(caller: Caller) -> None:
    """Read them anew next time."""
    _remembered.pop((caller.operator_id, caller.key_id), None)


def _remember(caller: Caller, row: pipeline.Row | None) -> Terms:
    if row is None:
        raise KeyRevoked
    known = _remembered.get((caller.operator_id, caller.key_id))
    if known is not None and known[0] == row:
        return known[1]
    clock_at, grace, time_zone, default_card, stamp = row
    assert grace is not None
    assert time_zone is not None
    assert default_card is not None
    assert stamp is not None
    newest = int.from_bytes(stamp, "big", signed=True)
    terms = Terms(
        None if clock_at is None else unpack_instant(clock_at),
        unpack_interval(grace),
        time_zone.decode(),
        default_card.decode(),
        newest,
        ZoneInfo(time_zone.decode()),
        cards_of(caller.operator_id, newest),
    )
    _remembered[caller.operator_id, caller.key_id] = row, terms
    return terms
