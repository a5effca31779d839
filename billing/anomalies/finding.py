"""What is out of proportion: only reads. Who is worth a look comes from bills and hourly totals;
records are read of those few alone."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NamedTuple

from django.db import connection

from subscriptions.units import to_wire


class Finding(NamedTuple):
    """`key` names what was seen: a bill, an hour, a day."""

    subscriber_id: int
    kind: str
    key: str
    evidence: dict[str, Any]


class Thresholds(NamedTuple):
    """From what on something is out of proportion; see `models.AnomalyPolicy`."""

    bill_factor: Decimal = Decimal(5)
    velocity_factor: Decimal = Decimal(10)
    velocity_units: int = 1_000_000_000
    networks: int = 20
    end_users: int = 50
    busy_hours: int = 23
    busy_days: int = 3


# Bills -------------------------------------------------------------------------------------------

# The three periods before are three invoices, or fewer of one who is new: of nobody's first bill
# anything can be said. What they came to by themselves, before credit notes.
_BILLS_SQL = """
SELECT i.subscriber_id, i.number, i.gross, i.currency, round(b.mean, 2), b.many
FROM billing_invoice i
CROSS JOIN LATERAL (
    SELECT avg(gross) AS mean, count(*) AS many
    FROM (
        SELECT p.gross FROM billing_invoice p
        WHERE p.subscriber_id = i.subscriber_id AND p.kind = 'period' AND p.state <> 'draft'
          AND p.period_start < i.period_start
          AND p.period_start >= i.period_start - interval '3 months 1 day'
        ORDER BY p.period_start DESC LIMIT 3
    ) p
) b
WHERE i.operator_id = %(operator)s AND i.kind = 'period' AND i.state <> 'draft'
  AND i.issued_at >= %(since)s AND i.issued_at < %(until)s
  AND b.many > 0 AND i.gross > %(factor)s * b.mean AND i.gross > 0
ORDER BY i.subscriber_id, i.number
"""


def bills(
    operator_id: int, thresholds: Thresholds, *, since: dt.datetime, until: dt.datetime
) -> Iterator[Finding]:
    """Bills issued in `[since, until)` above so many times the mean of up to three months before:
    the one place where that is worked out."""
    parameters: dict[str, Any] = {
        "operator": operator_id,
        "since": since,
        "until": until,
        "factor": thresholds.bill_factor,
    }
    with connection.cursor() as cursor:
        cursor.execute(_BILLS_SQL, parameters)
        for subscriber_id, number, gross, currency, mean, many in cursor.fetchall():
            evidence = {
                "invoice": number,
                "amount": str(gross),
                "currency": currency,
                "mean": str(mean),
                "months": many,
                "factor": str(thresholds.bill_factor),
            }
            yield Finding(subscriber_id, "bill", number, evidence)


# Velocity ----------------------------------------------------------------------------------------

# Usual is a subscriber's hour in which it uses anything, over four weeks; who has fewer than a day
# of such hours has no usual yet, and is seen by the floor alone.
_VELOCITY_SQL = """
SELECT n.subscriber_id, n.units, n.requests, coalesce(u.units, 0), coalesce(u.hours, 0)
FROM (
    SELECT h.subscriber_id, sum(h.units)::bigint AS units, sum(h.requests)::bigint AS requests
    FROM metering_usagehour h
    JOIN subscriptions_subscriber s ON s.id = h.subscriber_id AND s.operator_id = %(operator)s
    WHERE h.hour = %(hour)s
    GROUP BY 1
    HAVING sum(h.units) > %(floor)s
) n
CROSS JOIN LATERAL (
    SELECT avg(units)::bigint AS units, count(*) AS hours
    FROM (
        SELECT sum(h.units) AS units FROM metering_usagehour h
        WHERE h.subscriber_id = n.subscriber_id AND h.hour < %(hour)s
          AND h.hour >= %(hour)s - interval '28 days'
        GROUP BY h.hour HAVING sum(h.units) > 0
    ) h
) u
WHERE u.hours < 24 OR n.units > %(factor)s * u.units
ORDER BY n.subscriber_id
"""


def velocity(operator_id: int, thresholds: Thresholds, *, hour: dt.datetime) -> Iterator[Finding]:
    """Who used in an hour far more than in its own usual hour."""
    parameters: dict[str, Any] = {
        "operator": operator_id,
        "hour": hour,
        "floor": thresholds.velocity_units,
        "factor": thresholds.velocity_factor,
    }
    with connection.cursor() as cursor:
        cursor.execute(_VELOCITY_SQL, parameters)
        for subscriber_id, units, requests, usual, hours in cursor.fetchall():
            evidence = {
                "hour": hour.isoformat(),
                "units": to_wire(units),
                "requests": requests,
                "usual": to_wire(usual),
                "hours_known": hours,
                "factor": str(thresholds.velocity_factor),
            }
            yield Finding(subscriber_id, "velocity", hour.isoformat(), evidence)


# Resale ------------------------------------------------------------------------------------------

_ALWAYS_BUSY_SQL = """
SELECT subscriber_id, min(hours), sum(units)::bigint, sum(requests)::bigint
FROM (
    SELECT h.subscriber_id, (h.hour AT TIME ZONE %(zone)s)::date AS day,
           count(DISTINCT h.hour) AS hours, sum(h.units) AS units, sum(h.requests) AS requests
    FROM metering_usagehour h
    JOIN subscriptions_subscriber s ON s.id = h.subscriber_id AND s.operator_id = %(operator)s
    WHERE h.hour >= %(since)s AND h.hour < %(until)s AND h.requests > 0
    GROUP BY 1, 2
) d
GROUP BY 1
HAVING count(*) = %(days)s AND min(hours) >= %(hours)s
ORDER BY 1
"""


def always_busy(
    operator_id: int, zone: str, thresholds: Thresholds, *, since: dt.datetime, until: dt.datetime
) -> Iterator[Finding]:
    """Who used something in nearly each hour of all local days in `[since, until)`."""
    parameters: dict[str, Any] = {
        "operator": operator_id,
        "zone": zone,
        "since": since,
        "until": until,
        "days": thresholds.busy_days,
        "hours": thresholds.busy_hours,
    }
    with connection.cursor() as cursor:
        cursor.execute(_ALWAYS_BUSY_SQL, parameters)
        for subscriber_id, hours, units, requests in cursor.fetchall():
            evidence = {
                "since": since.isoformat(),
                "until": until.isoformat(),
                "days": thresholds.busy_days,
                "hours_a_day": hours,
                "units": to_wire(units),
                "requests": requests,
            }
            yield Finding(subscriber_id, "always_busy", until.isoformat(), evidence)


# Gateways say in `attributes` where a call came from, and for whom it was made, by one of several
# names. A gateway itself counts as a network where it says nothing.
# Of so many calls a day at least somebody is looked at, and of so many records at most.
LOOKED_AT = 100
MOST_RECORDS = 20_000

_BUSIEST_SQL = """
SELECT h.subscriber_id
FROM metering_usagehour h
JOIN subscriptions_subscriber s ON s.id = h.subscriber_id AND s.operator_id = %(operator)s
WHERE h.hour >= %(since)s AND h.hour < %(until)s
GROUP BY 1
HAVING sum(h.requests) >= %(calls)s
ORDER BY sum(h.requests) DESC, 1
LIMIT %(limit)s
"""
_ORIGINS_SQL = """
SELECT b.subject, count(*), count(DISTINCT network), count(DISTINCT end_user),
       (array_agg(DISTINCT network))[1:10]
FROM (
    SELECT r.subject_id, coalesce(
               r.attributes ->> 'client_ip', r.attributes ->> 'remote_addr',
               r.attributes ->> 'network', 'gateway ' || r.gateway_id) AS network,
           coalesce(
               r.attributes ->> 'end_user', r.attributes ->> 'end_user_id',
               r.attributes ->> 'user') AS end_user
    FROM metering_usagerecord r
    WHERE r.subscriber_id = %(subscriber)s AND r.occurred_at >= %(since)s
      AND r.occurred_at < %(until)s
    ORDER BY r.occurred_at DESC
    LIMIT %(limit)s
) r
JOIN subscriptions_subject b ON b.id = r.subject_id
GROUP BY b.subject
ORDER BY b.subject
"""


def origins(
    operator_id: int,
    thresholds: Thresholds,
    *,
    since: dt.datetime,
    until: dt.datetime,
    limit: int = 200,
) -> Iterator[Finding]:
    """Subjects whose calls in `[since, until)` came from very many networks, or were made for very
    many end users; of the `limit` busiest subscribers, by their newest records."""
    with connection.cursor() as cursor:
        parameters: dict[str, Any] = {"operator": operator_id, "since": since, "until": until}
        cursor.execute(_BUSIEST_SQL, parameters | {"calls": LOOKED_AT, "limit": limit})
        busiest = [row[0] for row in cursor.fetchall()]
    for subscriber_id in busiest:
        with connection.cursor() as cursor:
            cursor.execute(
                _ORIGINS_SQL,
                {
                    "subscriber": subscriber_id,
                    "since": since,
                    "until": until,
                    "limit": MOST_RECORDS,
                },
            )
            rows = cursor.fetchall()
        for subject, calls, networks, end_users, some in rows:
            evidence = {
                "subject": subject,
                "since": since.isoformat(),
                "until": until.isoformat(),
                "calls": calls,
                "networks": networks,
                "end_users": end_users,
            }
            key = until.isoformat()
            if networks >= thresholds.networks:
                yield Finding(subscriber_id, "networks", key, evidence | {"some": some})
            if end_users >= thresholds.end_users:
                yield Finding(subscriber_id, "end_users", key, evidence)
