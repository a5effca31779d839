"""What keys were used for: from the totals, which lag some seconds, and exactly."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import NamedTuple
from zoneinfo import ZoneInfo

from django.db import connection

from metering import guarding, windows
from subscriptions import periods
from subscriptions.demands import Period
from subscriptions.models import SubscriberKey
from subscriptions.reservations import Room


class Used(NamedTuple):
    """Units (thousandths) of today and of this month, and the hour in which it was used last."""

    day: int = 0
    month: int = 0
    last_hour: dt.datetime | None = None


# Days of so long are looked through for the last one of each.
_BACK = dt.timedelta(days=400)
_USED_SQL = """
SELECT k.id, d.today, d.month, (
           SELECT max(h.hour) FROM metering_subjecthour h
           WHERE h.subscriber_id = k.subscriber_id AND h.subject_id = k.binding_id
             AND h.requests > 0
             AND h.hour >= d.last::timestamp AT TIME ZONE %(zone)s
             AND h.hour < (d.last + 1)::timestamp AT TIME ZONE %(zone)s)
FROM subscriptions_subscriberkey k
CROSS JOIN LATERAL (
    SELECT coalesce(sum(d.units) FILTER (WHERE d.day >= %(today)s), 0)::bigint AS today,
           coalesce(sum(d.units) FILTER (WHERE d.day >= %(month)s), 0)::bigint AS month,
           max(d.day) FILTER (WHERE d.requests > 0) AS last
    FROM metering_subjectday d
    WHERE d.subscriber_id = k.subscriber_id AND d.subject_id = k.binding_id AND d.day >= %(since)s
) d
WHERE k.id = ANY(%(keys)s)
"""


def used_by(keys: Sequence[SubscriberKey], *, at: dt.datetime, zone: ZoneInfo) -> dict[int, Used]:
    """What each of these keys was used for, by its id, as far as it is in the totals."""
    if not keys:
        return {}
    today = periods.day_of(at, zone)
    with connection.cursor() as cursor:
        cursor.execute(
            _USED_SQL,
            {
                "keys": [key.pk for key in keys],
                "zone": zone.key,
                "today": today,
                "month": today.replace(day=1),
                "since": today - _BACK,
            },
        )
        return {key_id: Used(*columns) for key_id, *columns in cursor.fetchall()}


def room_of(key: SubscriberKey, *, at: dt.datetime, zone: ZoneInfo) -> Room | None:
    """What a key's cap has left now, less what is reserved by it; None without a cap. Exact."""
    cap = guarding.cap_of(key, at=at, zone=zone)
    if cap is None:
        return None
    nothing = Period(at, at)
    [room] = windows.rooms_of(key.operator_id, key.subscriber_id, nothing, [cap], at=at, zone=zone)
    return room
