"""What members drew of their pools. Only reads."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple
from zoneinfo import ZoneInfo

from django.db import connection

from subscriptions import periods
from subscriptions.models import Bucket, BucketEntry, FamilyMember, Operator
from subscriptions.pools import POOL, mirror_of


def this_month(
    operator: Operator, members: Sequence[FamilyMember], *, at: dt.datetime
) -> dict[int, int]:
    """By membership, the units that its calendar month's usage drew of the pool so far."""
    zone = ZoneInfo(operator.time_zone)
    month = f"{at.astimezone(zone):%Y-%m}"
    rows = Bucket.objects.filter(
        subscriber_id__in={member.subscriber_id for member in members},
        valid_until__gt=periods.month_start(at, zone),
        kind=POOL,
        used__gt=0,
    )
    used: dict[int, int] = defaultdict(int)
    for grant_key, units in rows.values_list("grant_key", "used"):
        mirror = mirror_of(grant_key)
        if mirror is not None and mirror.month == month:
            used[mirror.member_id] += units
    return dict(used)


class Drawn(NamedTuple):
    """What a membership drew of its pool in a period, by when it was charged."""

    period: dt.datetime
    member_id: int
    units: int


_BY_PERIOD_SQL = """
SELECT date_trunc(%(by)s, e.charged_at, %(zone)s), split_part(b.grant_key, ':', 5)::bigint,
       sum(e.units)::bigint
FROM subscriptions_bucket b
JOIN subscriptions_bucketentry e ON e.subscriber_id = b.subscriber_id AND e.bucket_id = b.id
WHERE b.subscriber_id = ANY(%(subscribers)s) AND b.kind = 'pool'
  AND starts_with(b.grant_key, %(key)s) AND e.kind = ANY(%(kinds)s)
  AND e.charged_at >= %(since)s AND e.charged_at < %(until)s
GROUP BY 1, 2
HAVING sum(e.units) <> 0
ORDER BY 1, 2
"""


def by_period(
    members: Sequence[FamilyMember],
    owner_id: int,
    zone: ZoneInfo,
    *,
    since: dt.datetime,
    until: dt.datetime,
    by: str,
) -> list[Drawn]:
    """What these members drew of the main line's units in `[since, until)`, by hour, day or month
    of the zone."""
    with connection.cursor() as cursor:
        cursor.execute(
            _BY_PERIOD_SQL,
            {
                "by": by,
                "zone": zone.key,
                "subscribers": [member.subscriber_id for member in members],
                "key": f"{POOL}:{owner_id}:",
                "kinds": [BucketEntry.Kind.USAGE.value, BucketEntry.Kind.REVERSAL.value],
                "since": since,
                "until": until,
            },
        )
        return [Drawn(*row) for row in cursor.fetchall()]
