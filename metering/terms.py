"""An operator's terms as a charge goes by them: read under its lock, or remembered and compared
under it."""

from __future__ import annotations

import datetime as dt
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from psycopg.types.numeric import Int8

from metering.context import Caller
from metering.weighing import Cards, cards_of
from subscriptions import buckets, clock, pgarrays
from subscriptions.pgarrays import micros_of, pack_int8, pack_interval

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
_remembered: dict[tuple[int, int], Terms] = {}

# A statement of its own: what is read below must be read after the lock was had.
_BEGIN_SQL = f"SELECT {buckets.PLANNER_SQL}, {clock.LOCK_SHARED_SQL}"
_READ_SQL = """
SELECT o.clock_at, o.late_grace, o.time_zone, o.default_rate_card,
       coalesce((SELECT max(c.id) FROM subscriptions_ratecard c WHERE c.operator_id = o.id), 0)
FROM subscriptions_operator o
JOIN subscriptions_apikey k ON k.operator_id = o.id
WHERE o.id = %b AND k.id = %b AND k.revoked_at IS NULL
"""


def lock(cursor: pgarrays.Cursor, caller: Caller) -> Terms:
    """The terms, under the operator's shared lock until the transaction ends; with the planner's
    settings of a charge. Raises KeyRevoked."""
    with cursor.connection.pipeline():
        cursor.execute(_BEGIN_SQL, [Int8(caller.operator_id)], prepare=True)
        row = _read(cursor, caller)
    return _remember(caller, row)


def recall(caller: Caller) -> Terms:
    """The terms as remembered, else as they are now: to be compared under the lock. Raises
    KeyRevoked."""
    known = _remembered.get((caller.operator_id, caller.key_id))
    return _remember(caller, _read(pgarrays.cursor(), caller)) if known is None else known


def forget(caller: Caller) -> None:
    """Read them anew next time."""
    _remembered.pop((caller.operator_id, caller.key_id), None)


def _read(cursor: pgarrays.Cursor, caller: Caller) -> tuple[Any, ...]:
    asked = [Int8(caller.operator_id), Int8(caller.key_id)]
    cursor.execute(_READ_SQL, asked, prepare=True, binary=True)
    row = cursor.fetchone()
    if row is None:
        raise KeyRevoked
    return row


def _remember(caller: Caller, row: tuple[Any, ...]) -> Terms:
    clock_at, grace, time_zone, default_card, stamp = row
    cards = cards_of(caller.operator_id, stamp)
    terms = Terms(clock_at, grace, time_zone, default_card, stamp, ZoneInfo(time_zone), cards)
    _remembered[caller.operator_id, caller.key_id] = terms
    return terms
