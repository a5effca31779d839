"""Whether everything that must always hold does, asked of the rows themselves.

None of the code that wrote the rows is used here: each check is one statement over whole tables,
grouped by subscriber first, all in one REPEATABLE READ READ ONLY snapshot. A check reads through
its rows once and sends back only differences and a count, so that memory stays small whatever the
tables hold; sorts and hashes spill to the database's disk. Only reads: a standby will do.

Records and journal lie in day partitions that retention drops. What lost a part of its evidence
so is left out: records and journal are compared for the batches that both still hold whole, a
bucket with its journal where it was made since the journal begins.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import psycopg
from django.db import connection, transaction

from metering.models import Adjustment
from subscriptions.models import BucketEntry, Operator, Reservation
from subscriptions.outcomes import USUALLY_FREE

EXAMPLES = 20


@dataclass(frozen=True, slots=True)
class Check:
    """An invariant. `sql` answers (operator_id, wrong) for each thing it looks at; `wrong` is
    null, or names the rows that contradict each other and what they say."""

    name: str
    says: str
    sql: str


@dataclass(slots=True)
class Result:
    """What a check found for one operator; `examples` are the first of the differences."""

    name: str
    says: str
    checked: int = 0
    differences: int = 0
    examples: list[Any] = field(default_factory=list)


@dataclass(slots=True)
class OperatorReport:
    """One operator's results. `lag_seconds` is the age of the oldest batch that is not in the
    hourly totals yet; `reserved_units` are thousandths held by open reservations; `untold` events
    wait to be handed on to systems and subscribers."""

    code: str
    checks: list[Result]
    lag_seconds: float = 0.0
    quarantine: dict[str, int] = field(default_factory=dict)
    open_reservations: int = 0
    reserved_units: int = 0
    untold: int = 0


@dataclass(slots=True)
class Report:
    """All of it. What lies before `records_since` and `journal_since` retention has dropped."""

    as_of: dt.datetime
    records_since: dt.datetime | None
    journal_since: dt.datetime | None
    operators: list[OperatorReport]

    @property
    def ok(self) -> bool:
        return not any(check.differences for o in self.operators for check in o.checks)


# --- the checks ---------------------------------------------------------------------------------

# Rule 1. Both sides go through one aggregate with opposite signs, by batch: rows lie nearly in
# that order, and sorting them takes a third of the time of hashing so many groups. A batch of
# which retention has dropped records or journal cannot be compared.
_BATCH_DRAWN = """
SELECT s.operator_id, CASE WHEN g.excess <> 0 THEN jsonb_build_object(
           'subscriber', g.subscriber_id, 'batch', g.batch_id,
           'units_of_records_minus_drawn', g.excess) END AS wrong
FROM (
    SELECT batch_id, subscriber_id, sum(units) AS excess
    FROM (
        SELECT batch_id, subscriber_id, units FROM metering_usagerecord
        UNION ALL
        SELECT batch_id, subscriber_id, units FROM metering_adjustedrecord
        UNION ALL
        SELECT batch_id, subscriber_id, -units
        FROM subscriptions_bucketentry WHERE kind IN (%(usage)s, %(reversal)s)
        ORDER BY 1, 2
        OFFSET 0
    ) u
    GROUP BY 1, 2
) g
LEFT JOIN subscriptions_subscriber s ON s.id = g.subscriber_id
WHERE g.excess = 0
   OR NOT EXISTS (
       SELECT FROM metering_usagebatch t
       WHERE t.id = g.batch_id
         AND (t.occurred_from < %(records_since)s OR t.charged_at < %(journal_since)s))
  AND NOT EXISTS (
       SELECT FROM metering_adjustment t
       WHERE t.batch_id = g.batch_id
         AND (t.occurred_from < %(records_since)s OR t.made_at < %(journal_since)s))
"""

_SUBSCRIBER_DRAWN = """
SELECT s.operator_id, CASE WHEN g.excess <> 0 THEN jsonb_build_object(
           'subscriber', g.subscriber_id, 'units_of_records_minus_drawn', g.excess) END AS wrong
FROM (
    SELECT subscriber_id, sum(units) AS excess
    FROM (
        SELECT subscriber_id, batch_id, units FROM metering_usagerecord
        UNION ALL
        SELECT subscriber_id, batch_id, units FROM metering_adjustedrecord
        UNION ALL
        SELECT subscriber_id, batch_id, -units
        FROM subscriptions_bucketentry WHERE kind IN (%(usage)s, %(reversal)s)
    ) u
    WHERE NOT EXISTS (
        SELECT FROM metering_usagebatch t
        WHERE t.id = u.batch_id
          AND (t.occurred_from < %(records_since)s OR t.charged_at < %(journal_since)s))
      AND NOT EXISTS (
        SELECT FROM metering_adjustment t
        WHERE t.batch_id = u.batch_id
          AND (t.occurred_from < %(records_since)s OR t.made_at < %(journal_since)s))
    GROUP BY 1
) g
LEFT JOIN subscriptions_subscriber s ON s.id = g.subscriber_id
"""

# Rule 2.
_BUCKET_BALANCE = """
SELECT s.operator_id, CASE
           WHEN b.used <> coalesce(j.gone, 0) OR coalesce(b.granted, 0) <> coalesce(j.come, 0)
           THEN jsonb_build_object(
               'subscriber', b.subscriber_id, 'bucket', b.id, 'kind', b.kind,
               'granted', b.granted, 'granted_in_journal', coalesce(j.come, 0),
               'used', b.used, 'used_in_journal', coalesce(j.gone, 0)) END AS wrong
FROM subscriptions_bucket b
JOIN subscriptions_subscriber s ON s.id = b.subscriber_id
LEFT JOIN (
    SELECT subscriber_id, bucket_id,
           sum(units) FILTER (WHERE kind NOT IN (%(grant)s, %(returned)s)) AS gone,
           -sum(units) FILTER (WHERE kind IN (%(grant)s, %(returned)s)) AS come
    FROM subscriptions_bucketentry
    GROUP BY 1, 2
) j ON j.subscriber_id = b.subscriber_id AND j.bucket_id = b.id
WHERE b.created_at >= %(journal_since)s
"""

_BUCKET_BOUNDS = """
SELECT s.operator_id, CASE
           WHEN b.used < 0 OR b.reserved < 0 OR b.granted - b.used < 0
             OR b.reserved > b.granted - b.used
             OR (b.granted IS NULL AND b.kind NOT IN ('overage', 'uncovered'))
             OR (b.granted IS NOT NULL AND b.kind = 'uncovered')
           THEN jsonb_build_object(
               'subscriber', b.subscriber_id, 'bucket', b.id, 'kind', b.kind,
               'granted', b.granted, 'used', b.used, 'reserved', b.reserved) END AS wrong
FROM subscriptions_bucket b
JOIN subscriptions_subscriber s ON s.id = b.subscriber_id
"""

# A reservation is its own journal: what it holds while it is open, and what it held last; of a
# main line's buckets it says so. What is frozen for a refund or a dispute is reserved too.
_BUCKET_RESERVED = """
SELECT s.operator_id, CASE WHEN coalesce(b.reserved, 0) <> coalesce(h.units, 0)
           THEN jsonb_build_object(
               'subscriber', subscriber_id, 'bucket', bucket_id, 'reserved', b.reserved,
               'held', coalesce(h.units, 0)) END AS wrong
FROM (
    SELECT subscriber_id, id AS bucket_id, reserved FROM subscriptions_bucket WHERE reserved <> 0
) b
FULL JOIN (
    SELECT subscriber_id, bucket_id, sum(units) AS units
    FROM (
        SELECT coalesce((e ->> 2)::bigint, r.subscriber_id) AS subscriber_id,
               (e ->> 0)::bigint AS bucket_id, (e ->> 1)::bigint AS units
        FROM subscriptions_reservation r CROSS JOIN LATERAL jsonb_array_elements(r.holds) e
        WHERE r.state = %(open)s
        UNION ALL
        SELECT subscriber_id, bucket_id, units FROM subscriptions_freeze WHERE state = 'frozen'
    ) u
    GROUP BY 1, 2
) h USING (subscriber_id, bucket_id)
LEFT JOIN subscriptions_subscriber s ON s.id = subscriber_id
"""

# Units that were taken after a freeze left their bucket by the journal; of no bucket more were
# frozen, in all, than it ever had.
_FREEZES = """
SELECT s.operator_id, CASE
           WHEN b.id IS NULL OR f.units > b.granted
             OR b.created_at >= %(journal_since)s
                AND f.taken IS DISTINCT FROM coalesce(e.refunded, 0) + coalesce(e.withdrawn, 0)
           THEN jsonb_build_object(
               'subscriber', f.subscriber_id, 'bucket', f.bucket_id, 'taken', f.taken,
               'refunded_in_journal', e.refunded, 'withdrawn_in_journal', e.withdrawn,
               'frozen_or_taken', f.units) END AS wrong
FROM (
    SELECT subscriber_id, bucket_id,
           coalesce(sum(units) FILTER (WHERE state = 'taken'), 0) AS taken,
           coalesce(sum(units) FILTER (WHERE state <> 'thawed'), 0) AS units
    FROM subscriptions_freeze
    GROUP BY 1, 2
) f
LEFT JOIN subscriptions_subscriber s ON s.id = f.subscriber_id
LEFT JOIN subscriptions_bucket b ON b.subscriber_id = f.subscriber_id AND b.id = f.bucket_id
CROSS JOIN LATERAL (
    SELECT sum(e.units) FILTER (WHERE e.kind = %(refund)s) AS refunded,
           sum(e.units) FILTER (WHERE e.kind = %(withdrawal)s AND EXISTS (
               SELECT FROM subscriptions_freeze t
               WHERE t.subscriber_id = e.subscriber_id AND t.bucket_id = e.bucket_id
                 AND t.state = 'taken' AND t.ended_at = e.charged_at AND t.units = e.units)
           ) AS withdrawn
    FROM subscriptions_bucketentry e
    WHERE e.subscriber_id = f.subscriber_id AND e.bucket_id = f.bucket_id
) e
"""

_RESERVATION_HELD = """
SELECT coalesce(n.operator_id, r.operator_id), CASE
           WHEN n.name IS NULL OR (n.subscriber_id IS NOT NULL AND r.name IS NULL)
             OR n.subscriber_id <> r.subscriber_id OR n.operator_id <> r.operator_id
             OR s.operator_id <> r.operator_id OR g.operator_id <> r.operator_id
             OR r.held <> coalesce(
                 (SELECT sum((e ->> 1)::bigint) FROM jsonb_array_elements(r.holds) e), 0)
             OR r.held + r.promised > r.slice_units
             OR (r.slice_units IS NULL
                 AND r.held + r.promised <> 1000 * (n.answer ->> 'granted')::numeric)
           THEN jsonb_build_object(
               'gateway', coalesce(n.gateway_id, r.gateway_id), 'name', coalesce(n.name, r.name),
               'subscriber', r.subscriber_id, 'asked_for', n.subscriber_id, 'held', r.held,
               'promised', r.promised, 'slice', r.slice_units, 'holds', r.holds,
               'granted', n.answer -> 'granted') END AS wrong
FROM subscriptions_reservationname n
FULL JOIN subscriptions_reservation r ON r.gateway_id = n.gateway_id AND r.name = n.name
LEFT JOIN subscriptions_subscriber s ON s.id = r.subscriber_id
LEFT JOIN subscriptions_gateway g ON g.id = r.gateway_id
"""

_RESERVATION_CHARGED = """
SELECT r.operator_id, CASE WHEN t.id IS NULL OR t.gateway_id <> r.gateway_id
           THEN jsonb_build_object(
               'subscriber', r.subscriber_id, 'gateway', r.gateway_id, 'name', r.name,
               'batch', r.answer -> 'batch', 'batch_gateway', t.gateway_id) END AS wrong
FROM subscriptions_reservation r
LEFT JOIN metering_usagebatch t ON t.id = (r.answer ->> 'batch')::bigint
WHERE r.state = %(committed)s AND r.answer -> 'accepted' = '1'
"""

_ENTRY_BUCKET = """
SELECT s.operator_id, CASE
           WHEN b.id IS NULL
             OR e.kind NOT IN (%(grant)s, %(usage)s, %(rollover)s, %(withdrawal)s, %(reversal)s,
                               %(lapse)s, %(refund)s, %(handover)s, %(shared)s, %(unshared)s,
                               %(returned)s, %(given)s)
             OR (e.kind IN (%(grant)s, %(reversal)s, %(unshared)s)) <> (e.units < 0)
           THEN jsonb_build_object(
               'subscriber', e.subscriber_id, 'batch', e.batch_id, 'bucket', e.bucket_id,
               'kind', e.kind, 'units', e.units, 'bucket_exists', b.id IS NOT NULL) END AS wrong
FROM subscriptions_bucketentry e
LEFT JOIN subscriptions_bucket b ON b.subscriber_id = e.subscriber_id AND b.id = e.bucket_id
LEFT JOIN subscriptions_subscriber s ON s.id = e.subscriber_id
"""

_ENTRY_BATCH = """
SELECT s.operator_id, CASE
           WHEN t.id IS NULL OR t.operator_id <> s.operator_id OR t.charged_at <> e.charged_at
           THEN jsonb_build_object(
               'subscriber', e.subscriber_id, 'batch', e.batch_id, 'bucket', e.bucket_id,
               'operator', s.operator_id, 'batch_operator', t.operator_id,
               'charged_at', e.charged_at, 'batch_charged_at', t.charged_at) END AS wrong
FROM subscriptions_bucketentry e
LEFT JOIN (
    SELECT id, operator_id, charged_at, NULL::bigint AS subscriber_id FROM metering_usagebatch
    UNION ALL
    SELECT batch_id, operator_id, made_at, subscriber_id FROM metering_adjustment
) t ON t.id = e.batch_id AND (t.subscriber_id IS NULL OR t.subscriber_id = e.subscriber_id)
   AND (e.kind = %(usage)s OR t.subscriber_id IS NOT NULL)
LEFT JOIN subscriptions_subscriber s ON s.id = e.subscriber_id
WHERE e.kind IN (%(usage)s, %(reversal)s, %(lapse)s)
"""

# Counter-rows: no bucket was ever given back more than usage drew of it.
_REVERSED_DRAWN = """
SELECT s.operator_id, CASE WHEN e.drawn < 0 THEN jsonb_build_object(
           'subscriber', e.subscriber_id, 'bucket', e.bucket_id,
           'drawn_minus_reversed', e.drawn) END AS wrong
FROM (
    SELECT e.subscriber_id, e.bucket_id, sum(e.units) AS drawn
    FROM subscriptions_bucketentry e
    WHERE e.kind IN (%(usage)s, %(reversal)s)
    GROUP BY 1, 2
    HAVING bool_or(e.kind = %(reversal)s)
) e
JOIN subscriptions_subscriber s ON s.id = e.subscriber_id
JOIN subscriptions_bucket b ON b.subscriber_id = e.subscriber_id AND b.id = e.bucket_id
WHERE b.created_at >= %(journal_since)s
"""

# What comes back to a prepaid bucket that has ended, or to one that was taken back, lapses whole;
# nothing else does. Of two movements at one instant either may have been first. (A pool bucket
# goes by the one that lent: family_checks.py.)
_LAPSED = """
SELECT s.operator_id, CASE
           WHEN NOT (e.lapsed = e.reversed
                     AND (w.charged_at <= e.charged_at
                          OR (b.kind NOT IN ('overage', 'uncovered')
                              AND b.valid_until <= e.charged_at)) IS TRUE)
            AND NOT (e.lapsed = 0
                     AND (w.charged_at < e.charged_at
                          OR (b.kind NOT IN ('overage', 'uncovered')
                              AND b.valid_until < e.charged_at)) IS NOT TRUE)
           THEN jsonb_build_object(
               'subscriber', e.subscriber_id, 'batch', e.batch_id, 'bucket', e.bucket_id,
               'kind', b.kind, 'valid_until', b.valid_until, 'charged_at', e.charged_at,
               'reversed', e.reversed, 'lapsed', e.lapsed) END AS wrong
FROM (
    SELECT subscriber_id, batch_id, bucket_id, charged_at,
           -coalesce(sum(units) FILTER (WHERE kind = %(reversal)s), 0) AS reversed,
           coalesce(sum(units) FILTER (WHERE kind = %(lapse)s), 0) AS lapsed
    FROM subscriptions_bucketentry
    WHERE kind IN (%(reversal)s, %(lapse)s)
    GROUP BY 1, 2, 3, 4
) e
JOIN subscriptions_subscriber s ON s.id = e.subscriber_id
JOIN subscriptions_bucket b ON b.subscriber_id = e.subscriber_id AND b.id = e.bucket_id
LEFT JOIN (
    SELECT subscriber_id, bucket_id, min(charged_at) AS charged_at
    FROM subscriptions_bucketentry WHERE kind = %(withdrawal)s GROUP BY 1, 2
) w ON w.subscriber_id = e.subscriber_id AND w.bucket_id = e.bucket_id
WHERE b.created_at >= %(journal_since)s AND b.kind <> 'pool'
"""

# A record's rows alternate from the first on: each odd one takes back just what its predecessor
# (the record, or the row before) says, and each row's draws add up to its units. The split that
# the first one froze only has to fit into its batch's draw: next check.
_ROWS_ALTERNATE = """
SELECT s.operator_id, CASE
           WHEN a.nr <> a.place OR a.requests <> CASE WHEN a.nr %% 2 = 1 THEN -1 ELSE 1 END
             OR (a.nr %% 2 = 0 AND a.batch_id <> a.batch_before)
             OR (a.nr %% 2 = 1 AND (a.says IS DISTINCT FROM a.said
                                   OR (a.nr > 1 AND a.moved <> -a.moved_before)))
             OR a.units <> (SELECT coalesce(sum((e.value ->> 1)::bigint), 0)
                            FROM jsonb_array_elements(a.draws) e)
           THEN jsonb_build_object(
               'subscriber', a.subscriber_id, 'gateway', a.gateway_id, 'source', a.source,
               'record', a.record_id, 'occurred_at', a.occurred_at, 'nr', a.nr,
               'batch', a.batch_id, 'says', a.says::text, 'said', a.said::text,
               'draws', a.draws) END AS wrong
FROM (
    SELECT a.*, row_number() OVER w AS place, lag(a.batch_id) OVER w AS batch_before,
           lag(a.moved) OVER w AS moved_before,
           (a.model, a.outcome, a.weight_id, -a.units, -a.uncached_input_tokens,
            -a.cached_input_tokens, -a.cache_write_tokens, -a.output_tokens,
            -a.reasoning_tokens) AS says,
           coalesce(
               lag((a.model, a.outcome, a.weight_id, a.units, a.uncached_input_tokens,
                    a.cached_input_tokens, a.cache_write_tokens, a.output_tokens,
                    a.reasoning_tokens)) OVER w,
               (r.model, r.outcome, r.weight_id, r.units, r.uncached_input_tokens,
                r.cached_input_tokens, r.cache_write_tokens, r.output_tokens,
                r.reasoning_tokens)) AS said
    FROM (
        SELECT a.*, (SELECT coalesce(sum((e.value ->> 0)::numeric * (e.value ->> 1)::numeric), 0)
                     FROM jsonb_array_elements(a.draws) e) AS moved
        FROM metering_adjustedrecord a
        WHERE a.occurred_at >= %(records_since)s
    ) a
    LEFT JOIN metering_usagerecord r
           ON r.subscriber_id = a.subscriber_id AND r.gateway_id = a.gateway_id
          AND r.source = a.source AND r.record_id = a.record_id AND r.occurred_at = a.occurred_at
    WINDOW w AS (PARTITION BY a.subscriber_id, a.gateway_id, a.source, a.record_id, a.occurred_at
                 ORDER BY a.nr)
) a
LEFT JOIN subscriptions_subscriber s ON s.id = a.subscriber_id
"""

# What the first rows froze of a batch is no more than the batch drew of each bucket.
_FROZEN_WITHIN = """
SELECT s.operator_id, CASE WHEN f.units > coalesce(e.units, 0) THEN jsonb_build_object(
           'subscriber', f.subscriber_id, 'batch', f.batch_id, 'bucket', f.bucket_id,
           'frozen', f.units, 'drawn', e.units) END AS wrong
FROM (
    SELECT r.subscriber_id, r.batch_id, (e.value ->> 0)::bigint AS bucket_id,
           -sum((e.value ->> 1)::bigint) AS units
    FROM metering_adjustedrecord a
    JOIN metering_usagerecord r
      ON r.subscriber_id = a.subscriber_id AND r.gateway_id = a.gateway_id
     AND r.source = a.source AND r.record_id = a.record_id AND r.occurred_at = a.occurred_at
    CROSS JOIN LATERAL jsonb_array_elements(a.draws) e
    WHERE a.nr = 1
    GROUP BY 1, 2, 3
) f
JOIN metering_usagebatch t ON t.id = f.batch_id AND t.charged_at >= %(journal_since)s
LEFT JOIN subscriptions_bucketentry e
       ON e.subscriber_id = f.subscriber_id AND e.batch_id = f.batch_id
      AND e.bucket_id = f.bucket_id AND e.kind = %(usage)s
LEFT JOIN subscriptions_subscriber s ON s.id = f.subscriber_id
"""

# An adjustment says how many records it touched and what that came to, and moved just what the
# draws of its rows say, bucket by bucket.
_ADJUSTMENT_TOTALS = """
SELECT coalesce(t.operator_id, s.operator_id), CASE
           WHEN t.batch_id IS NULL OR r.batch_id IS NULL OR t.records <> r.records
             OR t.units <> r.units OR t.occurred_from <> r.first OR t.occurred_to <> r.last
             OR s.operator_id IS DISTINCT FROM t.operator_id
           THEN jsonb_build_object(
               'subscriber', subscriber_id, 'batch', batch_id, 'operator', t.operator_id,
               'records', t.records, 'units', t.units, 'rows_of', r.records,
               'units_of_rows', r.units) END AS wrong
FROM (SELECT * FROM metering_adjustment WHERE occurred_from >= %(records_since)s) t
FULL JOIN (
    SELECT subscriber_id, batch_id, count(*) FILTER (WHERE requests < 0) AS records,
           sum(units) AS units, min(occurred_at) AS first, max(occurred_at) AS last
    FROM metering_adjustedrecord a
    WHERE NOT EXISTS (
        SELECT FROM metering_adjustment cut
        WHERE cut.batch_id = a.batch_id AND cut.occurred_from < %(records_since)s)
    GROUP BY 1, 2
) r USING (subscriber_id, batch_id)
LEFT JOIN subscriptions_subscriber s ON s.id = subscriber_id
"""
_ADJUSTMENT_MOVED = """
SELECT s.operator_id, CASE WHEN m.excess <> 0 THEN jsonb_build_object(
           'subscriber', m.subscriber_id, 'batch', m.batch_id, 'bucket', m.bucket_id,
           'draws_minus_journal', m.excess) END AS wrong
FROM (
    SELECT subscriber_id, batch_id, bucket_id, sum(units) AS excess
    FROM (
        SELECT a.subscriber_id, a.batch_id, (e.value ->> 0)::bigint AS bucket_id,
               (e.value ->> 1)::bigint AS units
        FROM metering_adjustedrecord a CROSS JOIN LATERAL jsonb_array_elements(a.draws) e
        UNION ALL
        SELECT e.subscriber_id, e.batch_id, e.bucket_id, -e.units
        FROM subscriptions_bucketentry e
        JOIN metering_adjustment t ON t.subscriber_id = e.subscriber_id AND t.batch_id = e.batch_id
        WHERE e.kind IN (%(usage)s, %(reversal)s)
    ) u
    GROUP BY 1, 2, 3
) m
JOIN metering_adjustment t ON t.subscriber_id = m.subscriber_id AND t.batch_id = m.batch_id
 AND t.occurred_from >= %(records_since)s AND t.made_at >= %(journal_since)s
LEFT JOIN subscriptions_subscriber s ON s.id = m.subscriber_id
"""

# A re-rating moved for each subscriber what was previewed, in one batch of its own, or nothing.
_RERATING_APPLIED = """
SELECT coalesce(n.operator_id, t.operator_id), CASE
           WHEN h.batch_id IS NULL OR n.id IS NULL OR n.operator_id <> t.operator_id
             OR (t.batch_id IS NULL AND h.batch_id > 0)
             OR (n.applied_at IS NOT NULL AND h.batch_id IS NULL AND NOT h.stale)
             OR h.records <> coalesce(t.records, 0)
             OR h.units_after - h.units_before <> coalesce(t.units, 0)
             OR t.occurred_from < n.since OR t.occurred_to >= n.until
           THEN jsonb_build_object(
               'rerating', h.run_id, 'subscriber', coalesce(h.subscriber_id, t.subscriber_id),
               'batch', coalesce(h.batch_id, t.batch_id), 'records', h.records,
               'units_more', h.units_after - h.units_before, 'records_of_batch', t.records,
               'units_of_batch', t.units) END AS wrong
FROM (
    SELECT h.* FROM metering_reratingshare h JOIN metering_rerating n ON n.id = h.run_id
    WHERE (h.batch_id IS NOT NULL OR n.applied_at IS NOT NULL AND NOT h.stale)
      AND n.since >= %(records_since)s
) h
FULL JOIN (
    SELECT * FROM metering_adjustment
    WHERE kind = %(rerating)s AND occurred_from >= %(records_since)s
) t ON t.subscriber_id = h.subscriber_id AND t.batch_id = h.batch_id
LEFT JOIN metering_rerating n ON n.id = h.run_id
WHERE h.run_id IS NOT NULL
   -- A run that began before the oldest record that is left says nothing of its rest.
   OR NOT EXISTS (
       SELECT FROM metering_reratingshare cut JOIN metering_rerating n ON n.id = cut.run_id
       WHERE cut.subscriber_id = t.subscriber_id AND cut.batch_id = t.batch_id
         AND n.since < %(records_since)s)
"""


# Rule 5. OFFSET 0 keeps the planner from multiplying numerics once a record instead of once a
# weight: 3 times the time.
_RECORD_UNITS = """
SELECT g.operator_id, CASE
           WHEN w.id IS NULL OR (r.units <> 0 OR r.outcome = '') AND r.units <>
                r.uncached_input_tokens * w.input + r.cached_input_tokens * w.cached_input
              + r.cache_write_tokens * w.cache_write + r.output_tokens * w.output
              + r.reasoning_tokens * w.reasoning
           THEN jsonb_build_object(
               'subscriber', r.subscriber_id, 'gateway', r.gateway_id, 'source', r.source,
               'record', r.record_id, 'occurred_at', r.occurred_at, 'weight', r.weight_id,
               'units', r.units,
               'batch', r.batch_id, 'tokens_by_weight',
                r.uncached_input_tokens * w.input + r.cached_input_tokens * w.cached_input
              + r.cache_write_tokens * w.cache_write + r.output_tokens * w.output
              + r.reasoning_tokens * w.reasoning) END AS wrong
FROM (
    SELECT subscriber_id, gateway_id, source, record_id, occurred_at, weight_id, units, outcome,
           uncached_input_tokens, cached_input_tokens, cache_write_tokens, output_tokens,
           reasoning_tokens, batch_id
    FROM metering_usagerecord
    UNION ALL
    SELECT subscriber_id, gateway_id, source, record_id, occurred_at, weight_id, units, outcome,
           uncached_input_tokens, cached_input_tokens, cache_write_tokens, output_tokens,
           reasoning_tokens, batch_id
    FROM metering_adjustedrecord
) r
LEFT JOIN subscriptions_gateway g ON g.id = r.gateway_id
LEFT JOIN (
    SELECT id, (input * 1000)::bigint AS input, (cached_input * 1000)::bigint AS cached_input,
           (cache_write * 1000)::bigint AS cache_write, (output * 1000)::bigint AS output,
           (reasoning * 1000)::bigint AS reasoning
    FROM subscriptions_ratecardweight
    OFFSET 0
) w ON w.id = r.weight_id
"""

# Which plan holds from when until when: a period's own, or after an upgrade in its middle that one.
_TERMS = """
SELECT t.subscriber_id, t.subscription_id, t.since, t.plan_id, t.nr,
       lead(t.since, 1, t.ends_at) OVER (
           PARTITION BY t.subscriber_id, t.subscription_id, t.starts_at ORDER BY t.nr) AS until
FROM (
    SELECT subscriber_id, subscription_id, starts_at, ends_at, starts_at AS since, 0 AS nr, plan_id
    FROM subscriptions_subscriptionperiod
    UNION ALL
    SELECT p.subscriber_id, p.subscription_id, p.starts_at, p.ends_at, g.at, g.nr, g.new_plan_id
    FROM subscriptions_upgrade g
    JOIN subscriptions_subscriptionperiod p
      ON p.subscriber_id = g.subscriber_id AND p.subscription_id = g.subscription_id
     AND p.starts_at = g.period_start
) t
"""

# Rule 5, for usage that did not simply end well: by the plan's own table, or without a plan by the
# usual one. What leaves open which plan it was charged under is said at _WEIGHTS_USED.
_OUTCOME_BILLED = """
WITH terms AS ({terms})
SELECT r.operator_id, CASE WHEN r.free <> r.plan_says AND r.free <> r.usual THEN jsonb_build_object(
           'subscriber', r.subscriber_id, 'gateway', r.gateway_id, 'source', r.source,
           'record', r.record_id, 'occurred_at', r.occurred_at, 'outcome', r.outcome,
           'units', r.units, 'plan', r.plan_id) END AS wrong
FROM (
    SELECT g.operator_id, r.subscriber_id, r.gateway_id, r.source, r.record_id, r.occurred_at,
           r.outcome, r.units, l.id AS plan_id, r.units = 0 AS free,
           CASE WHEN l.id IS NULL THEN r.outcome = ANY(%(usually_free)s)
                WHEN (u.reopenings > 0 OR p.nr > 0)
                 AND r.occurred_at < p.since + interval '5 minutes'
                THEN r.units = 0
                ELSE coalesce(l.outcomes ->> r.outcome, 'billed') = 'free' END AS plan_says,
           CASE WHEN r.occurred_at > u.created_at + interval '5 minutes'
                THEN coalesce(l.outcomes ->> r.outcome, 'billed') = 'free'
                ELSE r.outcome = ANY(%(usually_free)s) END AS usual
    FROM (
        SELECT subscriber_id, gateway_id, source, record_id, occurred_at, weight_id, units, outcome,
               uncached_input_tokens, cached_input_tokens, cache_write_tokens, output_tokens,
               reasoning_tokens
        FROM metering_usagerecord WHERE outcome <> ''
        UNION ALL
        SELECT subscriber_id, gateway_id, source, record_id, occurred_at, weight_id, units, outcome,
               uncached_input_tokens, cached_input_tokens, cache_write_tokens, output_tokens,
               reasoning_tokens
        FROM metering_adjustedrecord WHERE outcome <> '' AND requests > 0
    ) r
    JOIN subscriptions_gateway g ON g.id = r.gateway_id
    JOIN subscriptions_ratecardweight w ON w.id = r.weight_id
    LEFT JOIN (
        terms p
        JOIN subscriptions_subscription u
          ON u.subscriber_id = p.subscriber_id AND u.id = p.subscription_id
        JOIN subscriptions_plan l ON l.id = p.plan_id
    ) ON p.subscriber_id = r.subscriber_id
     AND p.since <= r.occurred_at AND r.occurred_at < p.until
    WHERE 0 < r.uncached_input_tokens * w.input + r.cached_input_tokens * w.cached_input
            + r.cache_write_tokens * w.cache_write + r.output_tokens * w.output
            + r.reasoning_tokens * w.reasoning
) r
""".replace("{terms}", _TERMS)

_RECORD_NAMES = """
SELECT s.operator_id, CASE
           WHEN s.id IS NULL OR y.id IS NULL OR g.id IS NULL
             OR g.operator_id <> s.operator_id OR y.operator_id <> s.operator_id
             OR y.subscriber_id <> r.subscriber_id OR r.first < y.valid_from
             -- Usage may be some minutes ahead of the clock at which its name's binding ended.
             OR r.last >= y.valid_until + interval '5 minutes'
           THEN jsonb_build_object(
               'subscriber', r.subscriber_id, 'operator', s.operator_id,
               'gateway', r.gateway_id, 'gateway_operator', g.operator_id,
               'subject', r.subject_id, 'subject_subscriber', y.subscriber_id,
               'records', r.records, 'first', r.first, 'last', r.last) END AS wrong
FROM (
    SELECT subscriber_id, gateway_id, subject_id, count(*) AS records,
           min(occurred_at) AS first, max(occurred_at) AS last
    FROM metering_usagerecord
    GROUP BY 1, 2, 3
) r
LEFT JOIN subscriptions_subscriber s ON s.id = r.subscriber_id
LEFT JOIN subscriptions_gateway g ON g.id = r.gateway_id
LEFT JOIN subscriptions_subject y ON y.id = r.subject_id
"""

_BATCH_TOTALS = """
SELECT coalesce(t.operator_id, g.operator_id), CASE
           WHEN t.id IS NULL OR r.batch_id IS NULL OR t.records <> r.records
             OR t.units <> r.units OR t.occurred_from <> r.first OR t.occurred_to <> r.last
             OR t.gateway_id <> r.gateway_id OR r.gateways > 1 OR t.operator_id <> g.operator_id
           THEN jsonb_build_object(
               'batch', coalesce(t.id, r.batch_id),
               'says', CASE WHEN t.id IS NOT NULL THEN jsonb_build_object(
                   'records', t.records, 'units', t.units, 'gateway', t.gateway_id,
                   'occurred_from', t.occurred_from, 'occurred_to', t.occurred_to) END,
               'holds', CASE WHEN r.batch_id IS NOT NULL THEN jsonb_build_object(
                   'records', r.records, 'units', r.units, 'gateway', r.gateway_id,
                   'occurred_from', r.first, 'occurred_to', r.last) END) END AS wrong
FROM (SELECT * FROM metering_usagebatch WHERE occurred_from >= %(records_since)s) t
FULL JOIN (
    SELECT batch_id, count(*) AS records, sum(units) AS units, min(occurred_at) AS first,
           max(occurred_at) AS last, min(gateway_id) AS gateway_id,
           1 + (min(gateway_id) <> max(gateway_id))::int AS gateways
    FROM metering_usagerecord r
    GROUP BY 1
) r ON r.batch_id = t.id
LEFT JOIN subscriptions_gateway g ON g.id = coalesce(r.gateway_id, t.gateway_id)
WHERE t.id IS NOT NULL
   OR NOT EXISTS (
       SELECT FROM metering_usagebatch cut
       WHERE cut.id = r.batch_id AND cut.occurred_from < %(records_since)s)
"""

# An hour of a zone that is not whole hours from UTC may straddle the first partition's edge:
# it is left out on both sides. Units are added up in two halves, because a sum of bigint keeps a
# numeric for each of very many groups: that made it 1.4 times as long.
_HOURLY = """
SELECT s.operator_id, CASE
           WHEN h.total IS DISTINCT FROM r.total
           THEN jsonb_build_object(
               'subscriber', subscriber_id, 'hour', hour, '{of}', {of},
               'requests_tokens_units', h.total::text, 'of_records', r.total::text) END AS wrong
FROM (
    SELECT subscriber_id, hour, {of},
           (requests, uncached_input_tokens, cached_input_tokens, cache_write_tokens,
            output_tokens, reasoning_tokens, units) AS total
    FROM {totals}
    WHERE hour >= %(records_since)s
) h
FULL JOIN (
    SELECT subscriber_id, hour, {of},
           (requests, uncached, cached, cache_write, output, reasoning,
            high * (1 << 30) + low) AS total
    FROM (
        SELECT r.subscriber_id, date_trunc('hour', r.occurred_at, o.time_zone) AS hour, r.{of},
               sum(r.requests) AS requests, sum(r.uncached_input_tokens) AS uncached,
               sum(r.cached_input_tokens) AS cached, sum(r.cache_write_tokens) AS cache_write,
               sum(r.output_tokens) AS output, sum(r.reasoning_tokens) AS reasoning,
               sum((r.units >> 30)::int) AS high, sum((r.units & ((1 << 30) - 1))::int) AS low
        FROM (
            SELECT subscriber_id, gateway_id, occurred_at, {of}, 1 AS requests,
                   uncached_input_tokens, cached_input_tokens, cache_write_tokens, output_tokens,
                   reasoning_tokens, units
            FROM metering_usagerecord r
            WHERE NOT EXISTS (
                SELECT FROM metering_usagebatch t WHERE t.id = r.batch_id AND t.folded_at IS NULL)
            UNION ALL
            SELECT subscriber_id, gateway_id, occurred_at, {of_adjusted}, a.requests,
                   a.uncached_input_tokens, a.cached_input_tokens, a.cache_write_tokens,
                   a.output_tokens, a.reasoning_tokens, a.units
            FROM {adjusted}
        ) r
        JOIN subscriptions_gateway g ON g.id = r.gateway_id
        JOIN subscriptions_operator o ON o.id = g.operator_id
        GROUP BY 1, 2, 3
    ) r
    WHERE hour >= %(records_since)s
) r USING (subscriber_id, hour, {of})
LEFT JOIN subscriptions_subscriber s ON s.id = subscriber_id
"""
_HOURLY_TOTALS = _HOURLY.format(
    of="model",
    totals="metering_usagehour",
    of_adjusted="a.model",
    adjusted="metering_adjustedrecord a",
)
# An adjusted record is its record's subject's.
_HOURLY_TOTALS_BY_SUBJECT = _HOURLY.format(
    of="subject_id",
    totals="metering_subjecthour",
    of_adjusted="u.subject_id",
    adjusted="""metering_adjustedrecord a
            JOIN metering_usagerecord u
                 USING (subscriber_id, gateway_id, source, record_id, occurred_at)""",
)

# The days are the hours', of which the records give evidence as long as there are any.
_DAILY = """
SELECT s.operator_id, CASE
           WHEN d.total IS DISTINCT FROM h.total
           THEN jsonb_build_object(
               'subscriber', subscriber_id, 'day', day, '{of}', {of},
               'requests_tokens_units', d.total::text, 'of_hours', h.total::text) END AS wrong
FROM (
    SELECT subscriber_id, day, {of},
           (requests::numeric, uncached_input_tokens::numeric, cached_input_tokens::numeric,
            cache_write_tokens::numeric, output_tokens::numeric, reasoning_tokens::numeric,
            units::numeric) AS total
    FROM {days}
) d
FULL JOIN (
    SELECT h.subscriber_id, (h.hour AT TIME ZONE o.time_zone)::date AS day, h.{of},
           (sum(h.requests), sum(h.uncached_input_tokens), sum(h.cached_input_tokens),
            sum(h.cache_write_tokens), sum(h.output_tokens), sum(h.reasoning_tokens),
            sum(h.units)) AS total
    FROM {hours} h
    JOIN subscriptions_subscriber s ON s.id = h.subscriber_id
    JOIN subscriptions_operator o ON o.id = s.operator_id
    GROUP BY 1, 2, 3
) h USING (subscriber_id, day, {of})
LEFT JOIN subscriptions_subscriber s ON s.id = subscriber_id
"""
_DAILY_TOTALS = _DAILY.format(of="model", days="metering_usageday", hours="metering_usagehour")
_DAILY_TOTALS_BY_SUBJECT = _DAILY.format(
    of="subject_id", days="metering_subjectday", hours="metering_subjecthour"
)

# Rules 6 and 7. A draw whose bucket was valid all through its batch, and was drawn within its
# grace, needs no look at the records; for the others, the records that the bucket might pay are
# added up. A subscription sold for a time already past was not there when that was charged.
_DRAW_ALLOWED = """
WITH draw AS NOT MATERIALIZED (
    SELECT t.operator_id, e.subscriber_id, e.batch_id, e.bucket_id, e.units, e.charged_at,
           b.kind, b.valid_from, b.valid_until, o.late_grace, o.time_zone,
           b.valid_from <= t.occurred_from AND t.occurred_to < b.valid_until
           AND (b.kind IN ('overage', 'uncovered') OR e.charged_at < b.valid_until + o.late_grace)
           AND (b.kind = 'uncovered' OR e.subscriber_id NOT IN (
                   SELECT subscriber_id FROM subscriptions_suspension)) AS plain
    FROM subscriptions_bucketentry e
    JOIN subscriptions_bucket b ON b.subscriber_id = e.subscriber_id AND b.id = e.bucket_id
    JOIN (
        SELECT id, operator_id, occurred_from, occurred_to FROM metering_usagebatch
        UNION ALL
        SELECT DISTINCT batch_id, operator_id, occurred_from, occurred_to
        FROM metering_adjustment
    ) t ON t.id = e.batch_id
    JOIN subscriptions_operator o ON o.id = t.operator_id
    WHERE e.kind = %(usage)s AND t.occurred_from >= %(records_since)s
)
SELECT operator_id, NULL::jsonb AS wrong FROM draw WHERE plain
UNION ALL
SELECT operator_id, CASE WHEN units > payable THEN jsonb_build_object(
           'subscriber', subscriber_id, 'batch', batch_id, 'bucket', bucket_id, 'kind', kind,
           'valid_from', valid_from, 'valid_until', valid_until, 'charged_at', charged_at,
           'units', units, 'units_it_may_pay', payable) END
FROM (
    SELECT d.operator_id, d.subscriber_id, d.batch_id, d.bucket_id, d.kind, d.valid_from,
           d.valid_until, d.charged_at, d.units,
           coalesce(sum(r.units) FILTER (WHERE CASE
               WHEN d.kind <> 'uncovered' AND EXISTS (
                   SELECT FROM subscriptions_suspension x
                   WHERE x.subscriber_id = r.subscriber_id AND x.starts_at < d.charged_at
                     AND x.starts_at <= r.occurred_at
                     AND (x.ends_at IS NULL OR r.occurred_at < x.ends_at))
               THEN false
               WHEN d.kind IN ('overage', 'uncovered')
               THEN d.valid_from <= r.occurred_at AND r.occurred_at < d.valid_until
               WHEN d.valid_from <= r.occurred_at AND r.occurred_at < d.valid_until
                AND d.charged_at < d.valid_until + d.late_grace
               THEN true
               WHEN d.kind IN ('allowance', 'rollover')
                AND d.valid_from <= d.charged_at AND d.charged_at < d.valid_until
               THEN d.charged_at >= d.late_grace + coalesce(
                   (SELECT min(CASE WHEN s.created_at < d.charged_at THEN p.ends_at
                                    ELSE least(p.ends_at, month.ends_at) END)
                    FROM subscriptions_subscriptionperiod p
                    JOIN subscriptions_subscription s
                      ON s.subscriber_id = p.subscriber_id AND s.id = p.subscription_id
                    WHERE p.subscriber_id = r.subscriber_id
                      AND p.starts_at <= r.occurred_at AND r.occurred_at < p.ends_at),
                   month.ends_at)
               ELSE false
           END), 0) AS payable
    FROM (SELECT * FROM draw WHERE NOT plain OFFSET 0) d  -- few: found before the records are read
    LEFT JOIN (
        SELECT subscriber_id, batch_id, occurred_at, units FROM metering_usagerecord
        UNION ALL
        SELECT subscriber_id, batch_id, occurred_at, units
        FROM metering_adjustedrecord WHERE requests > 0
    ) r ON r.subscriber_id = d.subscriber_id AND r.batch_id = d.batch_id
    CROSS JOIN LATERAL (
        SELECT (date_trunc('month', r.occurred_at AT TIME ZONE d.time_zone) + interval '1 month')
               AT TIME ZONE d.time_zone AS ends_at
    ) month
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9
) late
"""

# Rule 4. Ids are long: sorted by a hash of theirs, and looked at only where two hashes meet.
_IDENTITY_ONCE = """
SELECT s.operator_id, CASE WHEN k.occurred_at - k.before <= interval '3 days' THEN (
           SELECT jsonb_build_object(
                      'subscriber', r.subscriber_id, 'gateway', r.gateway_id, 'source', r.source,
                      'record', r.record_id, 'occurred_at', b.occurred_at,
                      'again_at', r.occurred_at)
           FROM metering_usagerecord r
           JOIN metering_usagerecord b USING (subscriber_id, gateway_id, source, record_id)
           WHERE r.subscriber_id = k.subscriber_id
             AND r.occurred_at = k.occurred_at AND b.occurred_at = k.before
             AND (r.occurred_at <> b.occurred_at OR r.tableoid <> b.tableoid OR r.ctid <> b.ctid)
           LIMIT 1) END AS wrong
FROM (
    SELECT subscriber_id, occurred_at,
           -- The key first: no index leads the planner to fetch every row by itself.
           lag(occurred_at) OVER (PARTITION BY key, subscriber_id ORDER BY occurred_at) AS before
    FROM (
        SELECT subscriber_id, occurred_at,
               hashtextextended(record_id, hashtextextended(source, gateway_id)) AS key
        FROM metering_usagerecord
    ) r
) k
LEFT JOIN subscriptions_subscriber s ON s.id = k.subscriber_id
"""

# Rule 7. Only an allowance is rolled over, and only once.
_ROLLOVER_PAIRS = """
SELECT s.operator_id, CASE WHEN m.gone <> m.come OR m.elsewhere <> 0
           THEN jsonb_build_object(
               'subscriber', m.subscriber_id, 'batch', m.batch_id, 'left_allowances', m.gone,
               'left_others', m.elsewhere, 'entered_rollovers', m.come) END AS wrong
FROM (
    SELECT e.subscriber_id, e.batch_id,
           coalesce(sum(e.units) FILTER (
               WHERE e.kind = %(rollover)s AND b.kind = 'allowance'), 0) AS gone,
           coalesce(sum(e.units) FILTER (
               WHERE e.kind = %(rollover)s AND b.kind IS DISTINCT FROM 'allowance'), 0)
               AS elsewhere,
           coalesce(-sum(e.units) FILTER (WHERE e.kind = %(grant)s), 0) AS come
    FROM subscriptions_bucketentry e
    LEFT JOIN subscriptions_bucket b ON b.subscriber_id = e.subscriber_id AND b.id = e.bucket_id
    WHERE e.kind = %(rollover)s OR (e.kind = %(grant)s AND b.kind = 'rollover')
    GROUP BY 1, 2
) m
LEFT JOIN subscriptions_subscriber s ON s.id = m.subscriber_id
"""

# A change of plan takes back what was opened ahead and opens it anew; what usage some minutes
# ahead of the clock had drawn of it by then stays with the bucket taken back.
_ONE_BUCKET_A_PERIOD = """
SELECT s.operator_id, CASE
           WHEN b.buckets > 1 + coalesce(u.reopenings, 0)
             OR (b.live > 1 AND b.kind IN ('allowance', 'rollover'))
           THEN jsonb_build_object(
               'subscriber', b.subscriber_id, 'subscription', b.subscription_id, 'kind', b.kind,
               'valid_from', b.valid_from, 'buckets', b.ids) END AS wrong
FROM (
    SELECT subscriber_id, subscription_id, kind, valid_from, count(*) AS buckets,
           count(*) FILTER (WHERE granted > used) AS live, (array_agg(id ORDER BY id))[1:10] AS ids
    FROM subscriptions_bucket
    WHERE kind IN ('rollover', 'allowance', 'overage', 'uncovered')
    -- An upgrade brings its own, also where it is of the period's first instant.
    GROUP BY 1, 2, 3, 4, CASE WHEN grant_key LIKE 'upgrade:%%' THEN grant_key
                              ELSE split_part(split_part(grant_key, ':', 1), '@', 2) END
) b
JOIN subscriptions_subscriber s ON s.id = b.subscriber_id
LEFT JOIN subscriptions_subscription u
       ON u.subscriber_id = b.subscriber_id AND u.id = b.subscription_id
"""

# Among the period's buckets, taken back or not, is the one its plan promises; where it is to be
# paid before, from then on.
_PERIOD_ALLOWANCE = """
SELECT s.operator_id, CASE WHEN NOT p.kept THEN jsonb_build_object(
           'subscriber', p.subscriber_id, 'subscription', p.subscription_id,
           'starts_at', p.starts_at, 'ends_at', p.ends_at, 'allowance', p.allowance,
           'granted', p.granted) END AS wrong
FROM (
    SELECT p.subscriber_id, p.subscription_id, p.starts_at, p.ends_at, l.allowance,
           sum(b.granted) AS granted,
           coalesce(bool_or((b.valid_until = p.ends_at OR n.at IS NOT NULL) AND CASE
               WHEN l.first_month = 'by_day' THEN b.granted BETWEEN 1 AND l.allowance
               ELSE b.granted = l.allowance END), false) AS kept
    FROM subscriptions_subscriptionperiod p
    JOIN subscriptions_plan l ON l.id = p.plan_id
    LEFT JOIN subscriptions_expectedperiod e
           ON e.subscriber_id = p.subscriber_id AND e.subscription_id = p.subscription_id
          AND e.starts_at = p.starts_at
    LEFT JOIN subscriptions_bucket b
           ON b.subscriber_id = p.subscriber_id AND b.subscription_id = p.subscription_id
          AND b.valid_from = greatest(p.starts_at, e.paid_at) AND b.kind = 'allowance'
    LEFT JOIN subscriptions_ending n
           ON n.subscriber_id = p.subscriber_id AND n.subscription_id = p.subscription_id
          AND n.period_start = p.starts_at
    WHERE l.allowance > 0 AND (e.plan_id IS NULL OR e.paid_at IS NOT NULL)
    GROUP BY 1, 2, 3, 4, 5, l.first_month
) p
JOIN subscriptions_subscriber s ON s.id = p.subscriber_id
"""

# A period that is to be paid before has nothing of its plan until it is.
_UNPAID_EMPTY = """
SELECT e.operator_id, CASE
           WHEN e.paid_at IS NULL AND b.id IS NOT NULL OR e.plan_id <> p.plan_id
             OR p.starts_at IS NOT NULL AND e.paid_at >= greatest(p.ends_at, n.period_end)
           THEN jsonb_build_object(
               'subscriber', e.subscriber_id, 'subscription', e.subscription_id,
               'starts_at', e.starts_at, 'paid_at', e.paid_at, 'plan', e.plan_id,
               'plan_of_period', p.plan_id, 'bucket', b.id) END AS wrong
FROM subscriptions_expectedperiod e
LEFT JOIN subscriptions_subscriptionperiod p
       ON p.subscriber_id = e.subscriber_id AND p.subscription_id = e.subscription_id
      AND p.starts_at = e.starts_at
LEFT JOIN subscriptions_ending n
       ON n.subscriber_id = e.subscriber_id AND n.subscription_id = e.subscription_id
      AND n.period_start = e.starts_at
LEFT JOIN LATERAL (
    SELECT b.id FROM subscriptions_bucket b
    WHERE b.subscriber_id = e.subscriber_id AND b.subscription_id = e.subscription_id
      AND b.kind = 'allowance' AND b.valid_from >= p.starts_at AND b.valid_from < p.ends_at
      AND b.grant_key LIKE 'allowance:%%' AND b.granted > b.used
    LIMIT 1
) b ON true
"""

_PERIODS_FOLLOW = """
SELECT s.operator_id, CASE
           WHEN p.starts_at IS DISTINCT FROM p.due OR p.ends_at <= p.starts_at
             OR p.operator_id <> s.operator_id
           THEN jsonb_build_object(
               'subscriber', p.subscriber_id, 'subscription', p.subscription_id,
               'starts_at', p.starts_at, 'ends_at', p.ends_at, 'should_start_at', p.due)
           END AS wrong
FROM (
    SELECT p.*, lag(p.ends_at, 1, u.starts_at) OVER (
               PARTITION BY p.subscriber_id, p.subscription_id ORDER BY p.starts_at) AS due
    FROM subscriptions_subscriptionperiod p
    LEFT JOIN subscriptions_subscription u
           ON u.subscriber_id = p.subscriber_id AND u.id = p.subscription_id
) p
JOIN subscriptions_subscriber s ON s.id = p.subscriber_id
"""

_OPENED_UNTIL = """
SELECT s.operator_id, CASE
           WHEN u.opened_until <> coalesce(p.ends_at, u.starts_at)
             OR u.operator_id <> s.operator_id
           THEN jsonb_build_object(
               'subscriber', u.subscriber_id, 'subscription', u.id,
               'opened_until', u.opened_until, 'last_period_ends_at', p.ends_at) END AS wrong
FROM subscriptions_subscription u
JOIN subscriptions_subscriber s ON s.id = u.subscriber_id
LEFT JOIN (
    SELECT subscriber_id, subscription_id, max(ends_at) AS ends_at
    FROM subscriptions_subscriptionperiod
    GROUP BY 1, 2
) p ON p.subscriber_id = u.subscriber_id AND p.subscription_id = u.id
"""

# By the guide's rule: the days left, a part day counted as one, and that share of the difference.
_UPGRADE_GRANTED = """
SELECT g.operator_id, CASE
           WHEN g.days <> g.days_left OR b.kind IS DISTINCT FROM g.should_be
             OR g.units <> least(g.more, (g.more * g.days + 29999) / 30000 * 1000)
             OR b.granted <> g.units OR b.valid_from <> g.at
           THEN jsonb_build_object(
               'subscriber', g.subscriber_id, 'subscription', g.subscription_id, 'nr', g.nr,
               'at', g.at, 'days', g.days, 'days_left', g.days_left, 'units', g.units,
               'granted', b.granted) END AS wrong
FROM (
    SELECT g.*, new.allowance - old.allowance AS more,
           CASE WHEN g.units > 0 THEN 'allowance' END AS should_be,
           least(30, ((g.period_end - interval '1 microsecond') AT TIME ZONE o.time_zone)::date
                     - (g.at AT TIME ZONE o.time_zone)::date + 1) AS days_left
    FROM subscriptions_upgrade g
    JOIN subscriptions_operator o ON o.id = g.operator_id
    JOIN subscriptions_plan old ON old.id = g.old_plan_id
    JOIN subscriptions_plan new ON new.id = g.new_plan_id
) g
LEFT JOIN subscriptions_bucket b
  ON b.subscriber_id = g.subscriber_id
 AND b.grant_key = 'upgrade:' || g.subscription_id || ':' || g.nr
"""

# What an ending says was unused is what the journal took back then.
_ENDING_WITHDRAWN = """
SELECT n.operator_id, CASE
           WHEN u.ends_at IS DISTINCT FROM n.at OR n.granted <> b.granted OR n.unused <> b.withdrawn
           THEN jsonb_build_object(
               'subscriber', n.subscriber_id, 'subscription', n.subscription_id, 'at', n.at,
               'subscription_ends_at', u.ends_at, 'granted', n.granted, 'buckets', b.granted,
               'unused', n.unused, 'withdrawn', b.withdrawn) END AS wrong
FROM subscriptions_ending n
LEFT JOIN subscriptions_subscription u
  ON u.subscriber_id = n.subscriber_id AND u.id = n.subscription_id
CROSS JOIN LATERAL (
    SELECT coalesce(sum(b.granted), 0) AS granted, coalesce(sum(e.units), 0) AS withdrawn
    FROM subscriptions_bucket b
    LEFT JOIN subscriptions_bucketentry e
      ON e.subscriber_id = b.subscriber_id AND e.bucket_id = b.id AND e.kind = %(withdrawal)s
     AND e.charged_at = n.at
    WHERE b.subscriber_id = n.subscriber_id AND b.subscription_id = n.subscription_id
      AND b.kind = 'allowance' AND b.valid_from >= n.period_start AND b.valid_from <= n.at
) b
WHERE n.at >= %(journal_since)s
"""

# Rule 5, the part that Python judges: which weights made the units of which models, from when
# until when, and which cards could tell: the plan's, or without a plan the operator's default.
# Usage some minutes ahead of the clock may have been charged before the plan was sold, upgraded or
# ended, or under the plan that its period was first opened with; then any card may.
_WEIGHTS_USED = """
WITH terms AS ({terms})
SELECT o.id, r.weight_id, r.model, CASE
           WHEN (u.reopenings > 0 OR p.nr > 0) AND r.occurred_at < p.since + interval '5 minutes'
           THEN NULL
           WHEN r.occurred_at > u.created_at + interval '5 minutes' THEN ARRAY[l.rate_card]
           WHEN EXISTS (
               SELECT FROM subscriptions_ending n WHERE n.subscriber_id = r.subscriber_id
                  AND n.at <= r.occurred_at AND r.occurred_at < n.at + interval '5 minutes')
           THEN NULL
           WHEN u.id IS NULL THEN ARRAY[o.default_rate_card]
           ELSE ARRAY[l.rate_card, o.default_rate_card] END::text[],
       count(*), min(r.occurred_at), max(r.occurred_at)
FROM metering_usagerecord r
JOIN subscriptions_gateway g ON g.id = r.gateway_id
JOIN subscriptions_operator o ON o.id = g.operator_id
LEFT JOIN (
    terms p
    JOIN subscriptions_subscription u
      ON u.subscriber_id = p.subscriber_id AND u.id = p.subscription_id
    JOIN subscriptions_plan l ON l.id = p.plan_id
) ON p.subscriber_id = r.subscriber_id
 AND p.since <= r.occurred_at AND r.occurred_at < p.until
WHERE %(operators)s::bigint[] IS NULL OR o.id = ANY(%(operators)s::bigint[])
GROUP BY 1, 2, 3, 4
UNION ALL
-- What was corrected is weighed by the card that weighed it before, what was re-rated by the one
-- that the re-rating named: so by the last of them in the end.
SELECT t.operator_id, a.weight_id, a.model,
       CASE t.kind WHEN %(correction)s THEN ARRAY[c.code]
                   WHEN %(rerating)s THEN ARRAY[coalesce(n.rate_card, '')] END::text[],
       count(*), min(a.occurred_at), max(a.occurred_at)
FROM metering_adjustedrecord a
JOIN metering_adjustment t ON t.subscriber_id = a.subscriber_id AND t.batch_id = a.batch_id
JOIN metering_adjustedrecord b
  ON b.subscriber_id = a.subscriber_id AND b.gateway_id = a.gateway_id AND b.source = a.source
 AND b.record_id = a.record_id AND b.occurred_at = a.occurred_at AND b.nr = a.nr - 1
JOIN subscriptions_ratecardweight w ON w.id = b.weight_id
JOIN subscriptions_ratecard c ON c.id = w.rate_card_id
LEFT JOIN (
    SELECT h.subscriber_id, h.batch_id, n.rate_card
    FROM metering_reratingshare h JOIN metering_rerating n ON n.id = h.run_id
    WHERE h.batch_id > 0
) n ON n.subscriber_id = a.subscriber_id AND n.batch_id = a.batch_id
WHERE a.requests > 0
  AND (%(operators)s::bigint[] IS NULL OR t.operator_id = ANY(%(operators)s::bigint[]))
GROUP BY 1, 2, 3, 4
ORDER BY 1, 2, 3, 4
""".replace("{terms}", _TERMS)
_WEIGHTS = """
SELECT c.operator_id, c.code, c.version, c.effective_from, w.id, w.model
FROM subscriptions_ratecard c
LEFT JOIN subscriptions_ratecardweight w ON w.rate_card_id = c.id
ORDER BY c.operator_id, c.code, c.effective_from, c.version
"""
WEIGHTS = Check("weights_hold", "a record is weighed by the card version of its time", "")

CHECKS = (
    Check("batch_drawn", "units of records = units drawn, by subscriber and batch", _BATCH_DRAWN),
    Check("subscriber_drawn", "units of records = units drawn, by subscriber", _SUBSCRIBER_DRAWN),
    Check("bucket_balance", "a bucket's granted and used = its journal", _BUCKET_BALANCE),
    Check("bucket_bounds", "0 <= reserved <= remaining", _BUCKET_BOUNDS),
    Check("bucket_reserved", "reserved = held by open reservations, or frozen", _BUCKET_RESERVED),
    Check("freezes", "what was frozen and taken has left its bucket", _FREEZES),
    Check("reservation_held", "a reservation holds what was granted", _RESERVATION_HELD),
    Check("reservation_charged", "what was committed was charged", _RESERVATION_CHARGED),
    Check("entry_bucket", "every movement belongs to a bucket", _ENTRY_BUCKET),
    Check("entry_batch", "every draw belongs to a batch of usage", _ENTRY_BATCH),
    Check("reversed_drawn", "no bucket got back more than was drawn", _REVERSED_DRAWN),
    Check("lapsed", "a bucket that has ended is not refilled", _LAPSED),
    Check("rows_alternate", "each row against a record takes back what is there", _ROWS_ALTERNATE),
    Check("frozen_within", "what was frozen of a batch = part of its draw", _FROZEN_WITHIN),
    Check("adjustment_totals", "an adjustment holds what it says", _ADJUSTMENT_TOTALS),
    Check("adjustment_moved", "an adjustment moves what its rows say", _ADJUSTMENT_MOVED),
    Check("rerating_applied", "a re-rating moves what was previewed", _RERATING_APPLIED),
    Check("draw_allowed", "a bucket pays only for usage of its time", _DRAW_ALLOWED),
    Check("record_units", "a record's units = tokens x weights", _RECORD_UNITS),
    WEIGHTS,
    Check("outcome_billed", "a record is billed or free as its outcome says", _OUTCOME_BILLED),
    Check("record_names", "gateway, subject and subscriber are one operator's", _RECORD_NAMES),
    Check("identity_once", "an id is charged once within three days", _IDENTITY_ONCE),
    Check("batch_totals", "a batch holds what it says", _BATCH_TOTALS),
    Check("hourly_totals", "hourly totals = the records folded in", _HOURLY_TOTALS),
    Check(
        "hourly_totals_by_subject",
        "hourly totals by subject = the records folded in",
        _HOURLY_TOTALS_BY_SUBJECT,
    ),
    Check("daily_totals", "daily totals = the hourly totals", _DAILY_TOTALS),
    Check(
        "daily_totals_by_subject",
        "daily totals by subject = the hourly totals by subject",
        _DAILY_TOTALS_BY_SUBJECT,
    ),
    Check("rollover_pairs", "what leaves an allowance enters a rollover", _ROLLOVER_PAIRS),
    Check("one_bucket_a_period", "a period has one bucket of a kind", _ONE_BUCKET_A_PERIOD),
    Check("period_allowance", "a period has its plan's allowance", _PERIOD_ALLOWANCE),
    Check("unpaid_empty", "what is to be paid before opens when it is paid", _UNPAID_EMPTY),
    Check("periods_follow", "periods neither overlap nor leave a gap", _PERIODS_FOLLOW),
    Check("upgrade_granted", "an upgrade granted its days' share", _UPGRADE_GRANTED),
    Check("ending_withdrawn", "what an ending calls unused was withdrawn", _ENDING_WITHDRAWN),
    Check("opened_until", "a subscription is opened as far as its periods", _OPENED_UNTIL),
)


# --- running them -------------------------------------------------------------------------------

# What one pass over many million rows wants; the database's own settings are the charge's. Joins
# on two columns are taken for far smaller than they are, and nested loops would be chosen: 100 s
# instead of 2 for a million records.
_SETTINGS = """
SELECT set_config('work_mem', '256MB', true), set_config('enable_nestloop', 'off', true),
       set_config('jit', 'off', true), set_config('statement_timeout', '0', true)
"""
# Locked before the snapshot is taken: what it shows, retention cannot drop under our hands.
_LOCK = """
LOCK TABLE ONLY metering_usagerecord, ONLY subscriptions_bucketentry IN ACCESS SHARE MODE
"""
_SINCE = """
SELECT min(substring(pg_get_expr(c.relpartbound, c.oid) FROM 'FROM \\(''([^'']+)')::timestamptz)
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = %s::regclass
"""
_COUNT = """
SELECT c.operator_id, count(*), count(c.wrong)
FROM ({sql}) AS c (operator_id, wrong)
WHERE %(operators)s::bigint[] IS NULL OR c.operator_id = ANY(%(operators)s::bigint[])
GROUP BY 1
"""
_WRONG = """
SELECT operator_id, wrong
FROM (
    SELECT c.operator_id, c.wrong, row_number() OVER (PARTITION BY c.operator_id) AS nr
    FROM ({sql}) AS c (operator_id, wrong)
    WHERE c.wrong IS NOT NULL
      AND (%(operators)s::bigint[] IS NULL OR c.operator_id = ANY(%(operators)s::bigint[]))
) d
WHERE nr <= %(examples)s
"""
_LAG = """
SELECT operator_id, min(stored_at) FROM metering_usagebatch WHERE folded_at IS NULL GROUP BY 1
"""
_QUARANTINE = """
SELECT operator_id, cause, count(*) FROM metering_quarantinedrecord
WHERE resolved_at IS NULL GROUP BY 1, 2 ORDER BY 1, 2
"""
_OPEN = """
SELECT operator_id, count(*), sum(held)::bigint FROM subscriptions_reservation
WHERE state = %s GROUP BY 1
"""
# In the place of a beginning where there is none: everything was dropped, or nothing stored.
_NEVER = dt.datetime(9999, 1, 1, tzinfo=dt.UTC)


# One check's results by operator; under None those of rows that belong to none.
Results = dict[int | None, Result]


def reconcile(
    *, at: dt.datetime, operator_code: str | None = None, more: Sequence[Check] = ()
) -> Report:
    """Check every invariant, of one operator or of all; `at` is the wall's time, for the lag.

    `more` are checks of the room above, which has this called with them. Reads only, in a
    transaction and snapshot of its own. Where all are checked, rows that belong to no operator are
    reported under the code "". Raises Operator.DoesNotExist.
    """
    with transaction.atomic(durable=True), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        cursor.execute(_LOCK)
        cursor.execute(_SETTINGS)
        return check_all(at=at, operator_code=operator_code, more=more)


def check_all(
    *, at: dt.datetime, operator_code: str | None = None, more: Sequence[Check] = ()
) -> Report:
    """`reconcile` inside the caller's transaction, which is to be one snapshot."""
    operators = dict(Operator.objects.order_by("code").values_list("pk", "code"))
    if operator_code is not None:
        operators = {pk: code for pk, code in operators.items() if code == operator_code}
        if not operators:
            raise Operator.DoesNotExist(operator_code)
    records_since = _since("metering_usagerecord")
    journal_since = _since("subscriptions_bucketentry")
    parameters = {
        "operators": list(operators) if operator_code is not None else None,
        "records_since": records_since or _NEVER,
        "journal_since": journal_since or _NEVER,
        "examples": EXAMPLES,
        "open": Reservation.State.OPEN.value,
        "committed": Reservation.State.COMMITTED.value,
        "usually_free": sorted(USUALLY_FREE),
        **{kind.name.lower(): kind.value for kind in BucketEntry.Kind},
        **{kind.name.lower(): kind.value for kind in Adjustment.Kind},
    }
    checks = (*CHECKS, *more)
    reports: dict[int | None, OperatorReport] = {
        pk: _blank(code, checks) for pk, code in operators.items()
    }
    nobody = reports[None] = _blank("", checks)
    for nr, check in enumerate(checks):
        results = {pk: report.checks[nr] for pk, report in reports.items()}
        if check is WEIGHTS:
            _judge_weights(results, parameters)
        else:
            _run(check, results, parameters)
    _observe(reports, at=at)
    if operator_code is not None or not any(check.checked for check in nobody.checks):
        del reports[None]
    return Report(at, records_since, journal_since, list(reports.values()))


def _blank(code: str, checks: Sequence[Check]) -> OperatorReport:
    return OperatorReport(code, [Result(check.name, check.says) for check in checks])


def _of(results: Results, operator_id: int | None) -> Result:
    return results[operator_id if operator_id in results else None]


def _since(table: str) -> dt.datetime | None:
    """Where the oldest partition of a table begins."""
    with connection.cursor() as cursor:
        cursor.execute(_SINCE, [table])
        since: dt.datetime | None = cursor.fetchone()[0]
        return since


def _run(check: Check, results: Results, parameters: dict[str, Any]) -> None:
    """Count, and only where something differs look a second time, for what it is."""
    differs = False
    with connection.cursor() as cursor:
        cursor.execute(_COUNT.format(sql=check.sql), parameters)
        for operator_id, checked, differences in cursor.fetchall():
            result = _of(results, operator_id)
            result.checked += checked
            result.differences += differences
            differs = differs or differences > 0
        if not differs:
            return
        cursor.execute(_WRONG.format(sql=check.sql), parameters)
        for operator_id, wrong in cursor.fetchall():
            examples = _of(results, operator_id).examples
            if len(examples) < EXAMPLES:
                examples.append(json.loads(wrong))  # Django leaves JSON as it comes


def _stream(sql: str, parameters: dict[str, Any]) -> Iterator[Any]:
    """A statement's rows one by one: a cursor in the server would forbid it parallel workers.

    To be read to the end: left before it, psycopg cancels the statement, and where that comes
    before the server is done, the transaction is lost with it.
    """
    with psycopg.Cursor(connection.connection) as cursor:
        yield from cursor.stream(sql, parameters)


_UNTOLD = """
SELECT s.operator_id, count(*)
FROM subscriptions_outboxevent e
JOIN subscriptions_subscriber s ON s.id = e.subscriber_id
WHERE e.sent_at IS NULL
GROUP BY 1
"""


def _observe(reports: dict[int | None, OperatorReport], *, at: dt.datetime) -> None:
    """What is told though it is no difference: lag, quarantine, open reservations, what waits to
    be told."""
    with connection.cursor() as cursor:
        cursor.execute(_LAG)
        for operator_id, stored_at in cursor.fetchall():
            if operator_id in reports:
                lag = (at - stored_at).total_seconds()
                reports[operator_id].lag_seconds = round(max(0.0, lag), 3)
        cursor.execute(_QUARANTINE)
        for operator_id, cause, many in cursor.fetchall():
            if operator_id in reports:
                reports[operator_id].quarantine[cause] = many
        cursor.execute(_OPEN, [Reservation.State.OPEN])
        for operator_id, many, units in cursor.fetchall():
            if operator_id in reports:
                reports[operator_id].open_reservations = many
                reports[operator_id].reserved_units = units
        cursor.execute(_UNTOLD)
        for operator_id, many in cursor.fetchall():
            if operator_id in reports:
                reports[operator_id].untold = many


# --- which weights hold -------------------------------------------------------------------------


class _Version(NamedTuple):
    """A card version: holds from `since` until `until` (None: still); pattern by weight id."""

    code: str
    since: dt.datetime
    until: dt.datetime | None
    patterns: dict[int, str]


def _judge_weights(results: Results, parameters: dict[str, Any]) -> None:
    """For each model and weight used: is it that card's version of that time, longest pattern?

    Counts records; a group is wrong as a whole, as its first or last record is.
    """
    version_of = {weight_id: version for version in _versions() for weight_id in version.patterns}
    for operator_id, weight_id, model, cards, many, first, last in _stream(
        _WEIGHTS_USED, parameters
    ):
        version = version_of.get(weight_id)
        problem = ""
        if version is None:
            problem = "there is no such weight"
        elif cards is not None and version.code not in cards:
            problem = f"the weight is of card {version.code}, not of {cards[0]}"
        elif first < version.since or (version.until is not None and last >= version.until):
            problem = "another version of the card holds at that time"
        elif weight_id not in _longest(version.patterns, model):
            problem = "another pattern of the card fits the model, and is longer"
        result = _of(results, operator_id)
        result.checked += many
        if problem:
            result.differences += many
            if len(result.examples) < EXAMPLES:
                result.examples.append(
                    {
                        "weight": weight_id,
                        "model": model,
                        "records": many,
                        "first": first.isoformat(),
                        "last": last.isoformat(),
                        "problem": problem,
                    }
                )


def _versions() -> list[_Version]:
    """Every card version of every operator."""
    cards: dict[tuple[int, str], dict[int, tuple[dt.datetime, dict[int, str]]]] = {}
    with connection.cursor() as cursor:
        cursor.execute(_WEIGHTS)
        for operator_id, code, version, since, weight_id, pattern in cursor.fetchall():
            versions = cards.setdefault((operator_id, code), {})
            versions.setdefault(version, (since, {}))[1][weight_id] = pattern
    found = []
    for (_, code), versions in cards.items():
        # In order of effect; of two that begin together the later version holds.
        in_order = list(versions.values())
        ends = [since for since, _ in in_order[1:]]
        for (since, patterns), until in zip(in_order, [*ends, None], strict=True):
            found.append(_Version(code, since, until, patterns))
    return found


def _longest(patterns: dict[int, str], model: str) -> list[int]:
    """The ids of the longest patterns that fit."""
    fitting = {key: pattern for key, pattern in patterns.items() if _fits(pattern, model)}
    longest = max(map(len, fitting.values()), default=0)
    return [key for key, pattern in fitting.items() if len(pattern) == longest]


def _fits(pattern: str, model: str) -> bool:
    """Whether a pattern in which `*` stands for any text matches all of `model`.

    Keeps the set of places in `model` that the pattern read so far may end at.
    """
    places = {0}
    for char in pattern:
        if not places:
            return False
        if char == "*":
            places = set(range(min(places), len(model) + 1))
        else:
            places = {p + 1 for p in places if p < len(model) and model[p] == char}
    return len(model) in places
