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


def unasked(operator_id: int, *, but: Collection[Key], limit: int) -> list[Key]:
    """Expected periods that nobody has asked to be paid, or that have changed since; `but` some."""
    rows = ExpectedPeriod.objects.filter(operator_id=operator_id, asked_at__isnull=True)
    found = rows.order_by("starts_at", "subscriber_id").values_list(
        "subscriber_id", "subscription_id", "starts_at"
    )[: limit + len(but)]
    return [key for key in found if key not in but]


def locked(key: Key) -> ExpectedPeriod | None:
    """An expected period under lock."""
    subscriber_id, subscription_id, starts_at = key
    rows = ExpectedPeriod.objects.filter(
        subscriber_id=subscriber_id, subscription_id=subscription_id, starts_at=starts_at
    )
    return rows.select_for_update(no_key=True).first()


def asked(key: Key, *, at: dt.datetime) -> None:
    """Note that a locked period is looked at."""
    _of(key).update(asked_at=at)


def paid(key: Key, *, at: dt.datetime) -> None:
    """Note that a locked period is paid."""
    _of(key).update(paid_at=at)


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
