"""Lines of subscribers' own at which they want to be told: the only writer of UsageAlert.

A sweep compares what is left with each line. One that is reached is told once, and again only after
there was more: with the next period, or a booster.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

from django.db import connection, transaction

from subscriptions import outbox
from subscriptions.models import Operator, UsageAlert
from subscriptions.outbox import Happening
from subscriptions.units import to_wire

REACHED = "usage.alert"
# Of a subscriber, of both kinds together.
MOST = 10
_CHUNK = 2000
Kind = UsageAlert.Kind


def of_subscriber(subscriber_id: int) -> list[UsageAlert]:
    rows = UsageAlert.objects.filter(subscriber_id=subscriber_id)
    return list(rows.order_by("-kind", "value"))


def settle(subscriber_id: int, percents: Iterable[int], lefts: Iterable[int]) -> None:
    """Let these lines be, and no others; one that stays has been told as it was. Joins the
    caller's transaction, which holds the subscriber's row."""
    assert connection.in_atomic_block
    wanted = {(Kind.USED_PERCENT.value, value) for value in percents}
    wanted |= {(Kind.UNITS_LEFT.value, value) for value in lefts}
    held = {(line.kind, line.value): line for line in of_subscriber(subscriber_id)}
    for kind, value in held.keys() - wanted:
        UsageAlert.objects.filter(subscriber_id=subscriber_id, kind=kind, value=value).delete()
    UsageAlert.objects.bulk_create(
        UsageAlert(subscriber_id=subscriber_id, kind=kind, value=value)
        for kind, value in sorted(wanted - held.keys())
    )


# What is prepaid and live: a subscriber who holds nothing has reached no line. Reserved units are
# not used yet. The key of the table keeps the order of locks.
_SWEEP_SQL = """
WITH due AS (
    SELECT a.subscriber_id, a.kind, a.value,
           CASE a.kind WHEN 'percent' THEN b.used * 100 >= a.value * b.granted
                       ELSE b.granted - b.used <= a.value END AS reached,
           b.granted, b.used
    FROM subscriptions_usagealert a
    JOIN subscriptions_subscriber s ON s.id = a.subscriber_id AND s.operator_id = %(operator)s
    CROSS JOIN LATERAL (
        SELECT sum(b.granted) AS granted, sum(b.used) AS used FROM subscriptions_bucket b
        WHERE b.subscriber_id = a.subscriber_id AND b.valid_until > %(at)s
          AND b.valid_from <= %(at)s AND b.granted > 0
          AND b.kind IN ('rollover', 'gift', 'allowance', 'booster')
    ) b
    WHERE b.granted IS NOT NULL
), turned AS (
    SELECT a.subscriber_id, a.kind, a.value, d.reached, d.granted, d.used
    FROM subscriptions_usagealert a
    JOIN due d USING (subscriber_id, kind, value)
    -- Of the locked row itself: another sweep may have turned it meanwhile.
    WHERE d.reached = a.armed
    ORDER BY a.subscriber_id, a.kind, a.value LIMIT %(limit)s
    FOR NO KEY UPDATE OF a
)
UPDATE subscriptions_usagealert a
SET armed = NOT t.reached, told = a.told + t.reached::int
FROM turned t
WHERE a.subscriber_id = t.subscriber_id AND a.kind = t.kind AND a.value = t.value
RETURNING a.subscriber_id, a.kind, a.value, a.told, t.reached, t.granted::bigint, t.used::bigint
"""


def sweep(operator: Operator, *, at: dt.datetime) -> int:
    """Tell of lines that were reached since, and arm those above which there is more again;
    answers how many were told. It may be repeated at any time."""
    told = 0
    while True:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(_SWEEP_SQL, {"operator": operator.pk, "at": at, "limit": _CHUNK})
            rows = cursor.fetchall()
            happenings = [
                Happening(
                    subscriber_id,
                    REACHED,
                    f"alert:{kind}:{value}:{count}",
                    at,
                    {
                        "line": kind,
                        **({"percent": value} if kind == Kind.USED_PERCENT else {}),
                        "units": to_wire(value if kind == Kind.UNITS_LEFT else granted),
                        "used": to_wire(used),
                        "granted": to_wire(granted),
                        "remaining": to_wire(granted - used),
                    },
                )
                for subscriber_id, kind, value, count, reached, granted, used in rows
                if reached
            ]
            outbox.tell(happenings)
        told += len(happenings)
        if len(rows) < _CHUNK:
            return told
