"""Whether corrections reach a document: checks of `reconcile`, by other statements than the
writers'."""

from __future__ import annotations

from metering.reconciliation import Check

# What changed of a billed period's overflow, and what was sold, and is on no bill: past its date
# where a bill was issued since that could have said it, where the last bills of its month are
# made, or where there is nobody's bill to come for a quarter. Ten minutes: a charge that began
# before a bill may have been committed after it.
_NOTHING_WAITS = """
WITH lonely AS (
    SELECT s.id, s.operator_id, i.billed_until, w.until,
           coalesce(o.clock_at, now()) - interval '3 months' AS long_ago
    FROM subscriptions_subscriber s
    JOIN subscriptions_operator o ON o.id = s.operator_id
    LEFT JOIN billing_finalsweep w ON w.operator_id = s.operator_id
    LEFT JOIN (
        SELECT subscriber_id, max(period_end) AS billed_until FROM billing_invoice
        WHERE kind <> 'credit_note' GROUP BY 1
    ) i ON i.subscriber_id = s.id
    WHERE NOT EXISTS (
        SELECT FROM subscriptions_subscription u
        WHERE u.subscriber_id = s.id AND (u.ends_at IS NULL OR u.ends_at > u.opened_until))
      AND NOT EXISTS (
        SELECT FROM subscriptions_subscriptionperiod p
        WHERE p.subscriber_id = s.id AND p.closed_at IS NULL)
), waiting AS (
    SELECT b.subscriber_id, b.id, b.kind, b.used - coalesce(l.units, 0) AS units, e.last AS since,
           p.starts_at
    FROM subscriptions_bucket b
    JOIN subscriptions_subscriptionperiod p
      ON p.subscriber_id = b.subscriber_id AND p.subscription_id = b.subscription_id
     AND p.closed_at IS NOT NULL
     AND (p.starts_at = b.valid_from OR split_part(b.grant_key, ':', 1) LIKE '%%@%%'
          AND p.starts_at < b.valid_from AND b.valid_from < p.ends_at)
    LEFT JOIN (
        SELECT subscriber_id, bucket_id, sum(units) AS units FROM billing_invoiceline
        WHERE bucket_id IS NOT NULL GROUP BY 1, 2
    ) l ON l.subscriber_id = b.subscriber_id AND l.bucket_id = b.id
    CROSS JOIN LATERAL (
        SELECT max(e.charged_at) AS last FROM subscriptions_bucketentry e
        WHERE e.subscriber_id = b.subscriber_id AND e.bucket_id = b.id
    ) e
    WHERE b.kind = 'overage' AND b.used <> coalesce(l.units, 0)
      AND b.created_at >= %(journal_since)s
    UNION ALL
    SELECT b.subscriber_id, b.id, b.kind, b.granted, b.valid_from, NULL
    FROM subscriptions_bucket b
    LEFT JOIN billing_invoiceline l
      ON l.subscriber_id = b.subscriber_id AND l.bucket_id = b.id AND l.kind = b.kind
    WHERE b.kind IN ('booster', 'gift') AND l.bucket_id IS NULL
)
SELECT s.operator_id, CASE
           WHEN g.since < g.until AND coalesce(g.billed_until < g.until, true)
             OR g.since < g.long_ago
             OR EXISTS (
                SELECT FROM billing_invoice i
                WHERE i.subscriber_id = w.subscriber_id AND i.kind <> 'credit_note'
                  AND i.period_start > w.starts_at
                  AND i.issued_at > w.since + interval '10 minutes')
           THEN jsonb_build_object(
               'subscriber', w.subscriber_id, 'bucket', w.id, 'kind', w.kind,
               'units', w.units, 'since', w.since) END AS wrong
FROM waiting w
JOIN subscriptions_subscriber s ON s.id = w.subscriber_id
LEFT JOIN LATERAL (
    SELECT w.since, y.until, y.billed_until, y.long_ago FROM lonely y WHERE y.id = w.subscriber_id
) g ON true
"""

CHECKS = (Check("nothing_waits", "no correction or sale waits past its date", _NOTHING_WAITS),)
