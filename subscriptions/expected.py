"""Periods that open their bucket only when they are paid: the only writer of ExpectedPeriod.

A plan that collects `before_period` and costs something has a row for each of its periods, made
some days ahead or when the period is opened. Whoever collects money asks here what is expected,
and says what was paid; `lifecycle` opens the buckets.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from django.db import connection
from django.db.models import QuerySet

from subscriptions import pgarrays
from subscriptions.models import ExpectedPeriod, Plan
from subscriptions.pgarrays import Instants, Int8s
from subscriptions.sharding import shard_of

Key = tuple[int, int, dt.datetime]  # (subscriber, subscription, the period's start)


class Expected(NamedTuple):
    """A period to be paid, and the plan version whose price it has."""

    subscriber_id: int
    subscription_id: int
    starts_at: dt.datetime
    operator_id: int
    plan_id: int


def collects_before(plan: Plan) -> bool:
    """Whether a period of this plan opens only when it is paid."""
    return plan.collect == Plan.Collect.BEFORE_PERIOD and plan.price.amount > 0


# Under another plan than before it is to be paid anew, and looked at again.
_EXPECT_SQL = """
INSERT INTO subscriptions_expectedperiod AS e
    (subscriber_id, subscription_id, starts_at, operator_id, plan_id)
SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::timestamptz[], %s::bigint[], %s::bigint[])
     AS n (subscriber_id, subscription_id, starts_at, operator_id, plan_id)
ORDER BY n.subscriber_id, n.subscription_id, n.starts_at
ON CONFLICT (subscriber_id, subscription_id, starts_at) DO UPDATE
SET plan_id = EXCLUDED.plan_id,
    paid_at = CASE WHEN e.plan_id = EXCLUDED.plan_id THEN e.paid_at END,
    asked_at = CASE WHEN e.plan_id = EXCLUDED.plan_id THEN e.asked_at END
RETURNING subscriber_id, subscription_id, starts_at, paid_at
"""


def expect(periods: Sequence[Expected]) -> dict[Key, dt.datetime | None]:
    """Expect these periods to be paid; answers when they were.

    Joins the caller's transaction, which holds their subscriptions.
    """
    assert connection.in_atomic_block
    if not periods:
        return {}
    columns = list(zip(*periods, strict=True))
    with pgarrays.statements() as cursor:
        cursor.execute(
            _EXPECT_SQL,
            [
                Int8s(columns[0]),
                Int8s(columns[1]),
                Instants(columns[2]),
                Int8s(columns[3]),
                Int8s(columns[4]),
            ],
        )
        return {(row[0], row[1], row[2]): row[3] for row in cursor.fetchall()}


def look_again(subscriber_id: int, subscription_id: int, *, since: dt.datetime) -> None:
    """Have what is asked for periods from `since` on looked at again: something was changed."""
    ExpectedPeriod.objects.filter(
        subscriber_id=subscriber_id, subscription_id=subscription_id, starts_at__gte=since
    ).update(asked_at=None)


# Who has a subscriber in hand looks after its periods.
_CLAIM_SQL = """
SELECT e.subscriber_id, e.subscription_id, e.starts_at
FROM subscriptions_expectedperiod e
JOIN subscriptions_subscriber s ON s.id = e.subscriber_id
WHERE e.operator_id = %s AND e.asked_at IS NULL
  AND (e.subscriber_id, e.subscription_id, e.starts_at) NOT IN (
      SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::timestamptz[]))
ORDER BY e.starts_at, e.subscriber_id
LIMIT %s
FOR NO KEY UPDATE OF s SKIP LOCKED
"""


def claim(operator_id: int, *, but: Collection[Key], limit: int) -> list[Key]:
    """Expected periods that nobody has asked to be paid, or that have changed since, `but` some; of
    subscribers whom nobody else has in hand: these are locked until the transaction ends."""
    assert connection.in_atomic_block
    with pgarrays.statements() as cursor:
        but_columns = pgarrays.columns(but, Int8s, Int8s, Instants)
        cursor.execute(_CLAIM_SQL, [operator_id, *but_columns, limit], binary=True)
        found: list[Key] = [(row[0], row[1], row[2]) for row in cursor.fetchall()]
    # A transaction keeps to one shard.
    return [key for key in found if shard_of(key[0]) == shard_of(found[0][0])]


class Standing(NamedTuple):
    """What is known of an expected period."""

    plan_id: int
    paid_at: dt.datetime | None
    asked_at: dt.datetime | None


_LOCK_SQL = """
SELECT e.subscriber_id, e.subscription_id, e.starts_at, e.plan_id, e.paid_at, e.asked_at
FROM unnest(%s::bigint[], %s::bigint[], %s::timestamptz[])
     AS k (subscriber_id, subscription_id, starts_at)
JOIN subscriptions_expectedperiod e USING (subscriber_id, subscription_id, starts_at)
ORDER BY 1, 2, 3
FOR NO KEY UPDATE OF e
"""


def lock_many(keys: Collection[Key]) -> dict[Key, Standing]:
    """Those of these periods that are expected, under lock."""
    assert connection.in_atomic_block
    with pgarrays.statements() as cursor:
        cursor.execute(_LOCK_SQL, pgarrays.columns(keys, Int8s, Int8s, Instants), binary=True)
        return {(row[0], row[1], row[2]): Standing(*row[3:]) for row in cursor.fetchall()}


def locked(key: Key) -> Standing | None:
    """An expected period under lock."""
    return lock_many([key]).get(key)


_ASKED_SQL = """
UPDATE subscriptions_expectedperiod e SET asked_at = %s
FROM unnest(%s::bigint[], %s::bigint[], %s::timestamptz[])
     AS k (subscriber_id, subscription_id, starts_at)
WHERE e.subscriber_id = k.subscriber_id AND e.subscription_id = k.subscription_id
  AND e.starts_at = k.starts_at
"""
_PAID_SQL = _ASKED_SQL.replace("asked_at", "paid_at")


def asked(keys: Collection[Key], *, at: dt.datetime) -> None:
    """Note that locked periods are looked at."""
    with pgarrays.statements() as cursor:
        cursor.execute(_ASKED_SQL, [at, *pgarrays.columns(keys, Int8s, Int8s, Instants)])


def paid(keys: Collection[Key], *, at: dt.datetime) -> None:
    """Note that locked periods are paid."""
    with pgarrays.statements() as cursor:
        cursor.execute(_PAID_SQL, [at, *pgarrays.columns(keys, Int8s, Int8s, Instants)])


def forget(key: Key) -> None:
    """A locked period is not to come."""
    _of(key).delete()


def _of(key: Key) -> QuerySet[ExpectedPeriod]:
    subscriber_id, subscription_id, starts_at = key
    return ExpectedPeriod.objects.filter(
        subscriber_id=subscriber_id, subscription_id=subscription_id, starts_at=starts_at
    )


# Locked, so that none of them is paid until the invoice that says so is there.
_UNPAID_SQL = """
SELECT e.subscriber_id, e.subscription_id, e.starts_at, e.paid_at IS NULL
FROM unnest(%s::bigint[], %s::bigint[], %s::timestamptz[])
     AS k (subscriber_id, subscription_id, starts_at)
JOIN subscriptions_expectedperiod e USING (subscriber_id, subscription_id, starts_at)
ORDER BY 1, 2, 3
FOR SHARE OF e
"""


def unpaid_of(keys: Iterable[Key]) -> set[Key]:
    """Which of these periods were expected to be paid and are not: no bucket of theirs opened."""
    assert connection.in_atomic_block
    columns = [list(column) for column in zip(*keys, strict=True)]
    if not columns:
        return set()
    with connection.cursor() as cursor:
        cursor.execute(_UNPAID_SQL, columns)
        return {(row[0], row[1], row[2]) for row in cursor.fetchall() if row[3]}
