"""Whether handovers add up: checks of `reconcile`, not by the writers' statements."""

from __future__ import annotations

from metering.reconciliation import Check

# What has left one subscriber's buckets is in the other's, under one batch.
_UNITS = """
SELECT h.operator_id, CASE
           WHEN h.id IS NULL OR h.units <> coalesce(e.gone, 0) OR h.units <> coalesce(e.come, 0)
             OR e.strange
           THEN jsonb_build_object(
               'handover', h.id, 'batch', coalesce(h.batch_id, e.batch_id), 'units', h.units,
               'gone', e.gone, 'come', e.come) END AS wrong
FROM (
    SELECT * FROM billing_handover
    WHERE batch_id IS NOT NULL AND done_at >= %(journal_since)s
) h
FULL JOIN (
    SELECT e.batch_id, sum(e.units) FILTER (WHERE e.kind = %(handover)s) AS gone,
           -sum(e.units) FILTER (WHERE e.kind = %(grant)s) AS come,
           bool_or(e.subscriber_id <> CASE e.kind WHEN %(handover)s THEN h.subscriber_id
                                                  ELSE h.receiver_id END) AS strange
    FROM subscriptions_bucketentry e
    LEFT JOIN billing_handover h ON h.batch_id = e.batch_id
    WHERE e.batch_id IN (
        SELECT batch_id FROM subscriptions_bucketentry WHERE kind = %(handover)s)
    GROUP BY 1
) e ON e.batch_id = h.batch_id
"""

# Two movements of wallets, each the other's opposite.
_MONEY = """
SELECT h.operator_id, CASE
           WHEN h.id IS NULL OR h.amount <> coalesce(-m.gone, 0) OR h.amount <> coalesce(m.come, 0)
           THEN jsonb_build_object(
               'handover', h.id, 'key', m.key, 'amount', h.amount, 'gone', m.gone,
               'come', m.come) END AS wrong
FROM (SELECT *, 'handover:' || id AS key FROM billing_handover WHERE state = 'done') h
FULL JOIN (
    SELECT m.operator_id, m.key,
           sum(m.amount) FILTER (WHERE m.amount < 0 AND m.subscriber_id = h.subscriber_id) AS gone,
           sum(m.amount) FILTER (WHERE m.amount > 0 AND m.subscriber_id = h.receiver_id) AS come
    FROM billing_walletmovement m
    LEFT JOIN billing_handover h
      ON h.operator_id = m.operator_id AND m.key = 'handover:' || h.id
    WHERE m.key LIKE 'handover:%%'
    GROUP BY 1, 2
) m ON m.operator_id = h.operator_id AND m.key = h.key
"""

# A merged subscriber holds nothing, and has become whom its handover says.
_MERGED = """
SELECT s.operator_id, CASE
           WHEN (s.merged_into_id IS NOT NULL) <> (h.id IS NOT NULL)
             OR h.receiver_id <> s.merged_into_id OR r.operator_id <> s.operator_id
             OR s.merged_into_id IS NOT NULL AND (EXISTS (
                 SELECT FROM subscriptions_subject b
                 WHERE b.subscriber_id = s.id AND b.valid_until IS NULL
             ) OR EXISTS (
                 SELECT FROM subscriptions_subscription u
                 WHERE u.subscriber_id = s.id AND u.ends_at IS NULL))
           THEN jsonb_build_object(
               'subscriber', s.id, 'merged_into', s.merged_into_id, 'handover', h.id,
               'receiver', h.receiver_id) END AS wrong
FROM subscriptions_subscriber s
LEFT JOIN billing_handover h
  ON h.subscriber_id = s.id AND h.kind = 'merge' AND h.state = 'done'
LEFT JOIN subscriptions_subscriber r ON r.id = s.merged_into_id
WHERE s.merged_into_id IS NOT NULL OR h.id IS NOT NULL
"""

CHECKS = (
    Check("handed_over", "units that left one subscriber are with the other", _UNITS),
    Check("handed_money", "money that left one wallet is in the other", _MONEY),
    Check("merged", "a merged subscriber holds nothing any more", _MERGED),
)
