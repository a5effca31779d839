"""What a bucket had before a request and after it, for receipts.

Nothing is stored for it: it follows from the journal, in the order (charged_at, batch), and within
a batch from its records in their own order, so that what one request leaves is what the next one
finds. What a bucket has now is known: what came since is taken back, or, where that is less to
read, all that came until then is added up.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from django.db import connection

from metering.adjusted import RecordKey, key_of
from metering.models import UsageRecord
from metering.receipts import Drawn, Split
from subscriptions.models import Bucket


class Standing(NamedTuple):
    """What was left of a bucket before and after one request paid from it, in thousandths; of
    overage, of a family's pool and of what is not covered: what had been used."""

    before: int
    after: int
    used: bool


# One question, as pages of requests ask it besides many others: of buckets what they had before a
# batch, of batches that one bucket paid what the records before one of them took in it.
# Of one instant, what was granted comes first: it could be drawn then. `walked` is what moved in
# each batch: of what has no size of its own without grants and their returns, as `used` has it.
_STANDING_SQL = """
WITH walked AS (
    SELECT e.bucket_id, e.batch_id, e.charged_at, sum(e.units) AS units,
           bool_and(e.kind = 1) AS granted
    FROM subscriptions_bucketentry e
    JOIN subscriptions_bucket b ON b.subscriber_id = e.subscriber_id AND b.id = e.bucket_id
    WHERE e.subscriber_id = %(subscriber)s AND e.bucket_id = ANY(%(buckets)s)
      AND e.charged_at >= %(since)s AND e.charged_at <= %(until)s
      AND NOT (b.kind = ANY(%(overflow)s) AND e.kind IN (1, 11))
    GROUP BY 1, 2, 3
)
SELECT w.bucket_id, w.batch_id, {before}, NULL::timestamptz, NULL::bigint, NULL, NULL
FROM (
    SELECT walked.*, sum(units) OVER (
        PARTITION BY bucket_id
        ORDER BY charged_at {order}, granted {against}, batch_id {order}) AS passed
    FROM walked
) w
JOIN subscriptions_bucket b ON b.subscriber_id = %(subscriber)s AND b.id = w.bucket_id
WHERE w.batch_id = ANY(%(batches)s)
UNION ALL
SELECT NULL, NULL, earlier, occurred_at, gateway_id, source, record_id
FROM (
    SELECT occurred_at, gateway_id, source, record_id, sum(units) OVER (
               PARTITION BY batch_id
               ORDER BY occurred_at, gateway_id, source COLLATE "C", record_id COLLATE "C"
           ) - units AS earlier
    FROM metering_usagerecord
    WHERE subscriber_id = %(subscriber)s AND batch_id = ANY(%(alone)s)
      AND occurred_at >= %(first)s AND occurred_at <= %(last)s
) r
WHERE occurred_at = ANY(%(times)s)
"""
_FROM_NOW = _STANDING_SQL.format(
    order="DESC",
    against="ASC",
    before="CASE WHEN b.kind = ANY(%(overflow)s) THEN b.used - passed"
    " ELSE b.granted - b.used + passed END",
)
_FROM_THE_BEGINNING = _STANDING_SQL.format(
    order="ASC",
    against="DESC",
    before="CASE WHEN b.kind = ANY(%(overflow)s) THEN passed - units ELSE units - passed END",
)
# What is lent by a family is there only as it is used.
_OVERFLOW = [Bucket.Kind.OVERAGE.value, Bucket.Kind.UNCOVERED.value, Bucket.Kind.POOL.value]
_LATEST = dt.datetime(9999, 1, 1, tzinfo=dt.UTC)
_DAY = dt.timedelta(days=1)


def standings_of(
    subscriber_id: int, records: Sequence[UsageRecord], drawn: Drawn, *, at: dt.datetime
) -> dict[tuple[RecordKey, int], Standing]:
    """What each bucket had before and after each of these records, by record and bucket.

    `drawn` is what `receipts.drawn_by` answers of the same records.
    """
    if not any(drawn.splits.values()):
        return {}
    asked = {key_of(record): record.batch_id for record in records}
    alone = {batch for batch, split in drawn.splits.items() if len(_buckets(split)) == 1}
    lone = [record for record in records if record.batch_id in alone]
    before, earlier = _read(subscriber_id, lone, drawn, at=at)
    found: dict[tuple[RecordKey, int], Standing] = {}
    for batch_id, split in drawn.splits.items():
        gone: dict[int, int] = defaultdict(int)
        for key, draws in sorted(split.items()):
            for draw in draws:
                if batch_id in alone:
                    gone[draw.bucket_id] = earlier.get(key, 0)
                if asked.get(key) == batch_id and (draw.bucket_id, batch_id) in before:
                    there = before[draw.bucket_id, batch_id]
                    used = draw.kind in _OVERFLOW
                    sign = 1 if used else -1
                    first = there + sign * gone[draw.bucket_id]
                    known = found.get((key, draw.bucket_id))
                    found[key, draw.bucket_id] = Standing(
                        known.before if known else first, first + sign * draw.units, used
                    )
                gone[draw.bucket_id] += draw.units
    return found


def _buckets(split: Split) -> set[int]:
    return {draw.bucket_id for draws in split.values() for draw in draws}


def _read(
    subscriber_id: int, records: Sequence[UsageRecord], drawn: Drawn, *, at: dt.datetime
) -> tuple[dict[tuple[int, int], int], dict[RecordKey, int]]:
    """What each bucket had, or had been used of it, before each batch; and what the records before
    each of these took in its batch, all of it from one bucket."""
    bucket_ids = {pk for split in drawn.splits.values() for pk in _buckets(split)}
    charged = [batch.charged_at for batch in drawn.batches.values()]
    born = min(drawn.buckets[pk].created_at for pk in bucket_ids) - _DAY
    if max(charged) - born < at - min(charged):
        sql, since, until = _FROM_THE_BEGINNING, born, max(charged)
    else:
        sql, since, until = _FROM_NOW, min(charged), _LATEST
    alone = [drawn.batches[pk] for pk in sorted({record.batch_id for record in records})]
    asked: dict[str, Any] = {
        "subscriber": subscriber_id,
        "buckets": sorted(bucket_ids),
        "batches": sorted(drawn.batches),
        "overflow": _OVERFLOW,
        "since": since,
        "until": until,
        "alone": [batch.id for batch in alone],
        "first": min((batch.occurred_from for batch in alone), default=since),
        "last": max((batch.occurred_to for batch in alone), default=since),
        "times": sorted({record.occurred_at for record in records}),
    }
    before: dict[tuple[int, int], int] = {}
    earlier: dict[RecordKey, int] = {}
    with connection.cursor() as cursor:
        cursor.execute(sql, asked)
        for bucket_id, batch_id, units, *key in cursor:
            if bucket_id is None:
                earlier[key[0], key[1], key[2], key[3]] = int(units)
            else:
                before[bucket_id, batch_id] = int(units)
    return before, earlier
