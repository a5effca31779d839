"""Whether corrections reach a document: checks of `reconcile`, by other statements than the
writers'."""

from __future__ import annotations

from metering.reconciliation import Check

# But for what waits for approval, or was rejected as it is now:
# what changed of a billed period's overflow, and what was sold, and is on no bill: past its date
# where a bill was issued since that could have said it, where the last bills of its month are
# made, or where there is nobody's bill to come for a quarter. Ten minutes: a charge that began
# before a bill may have been committed after it.
_NOTHING_WAITS = """
WITH lonely AS (
    SELECT s.id, s.operator_id, i.billed_until, w.until,
           coalesce(o.clock_at, (
               SELECT max(c.planned_at) FROM billing_closechunk c WHERE c.operator_id = o.id
           )) - interval '3 months' AS long_ago
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
    SELECT b.subscriber_id, b.id, b.kind, b.used - coalesce(l.units, 0) AS units,
           greatest(e.last, a.decided_at) AS since, p.starts_at
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
    LEFT JOIN billing_approval a
      ON a.subscriber_id = b.subscriber_id AND a.bucket_id = b.id AND a.drawn = b.used
     AND a.billed = coalesce(l.units, 0) AND a.state <> 'superseded'
    WHERE b.kind = 'overage' AND b.used <> coalesce(l.units, 0)
      AND coalesce(a.state, 'approved') = 'approved'
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

# What is priced by a plan is taxed as the plan, or the component that the line is of, was on the
# last day of its period: as its category, and before that has a rate as it says itself.
_TAX_RATES = """
SELECT i.operator_id, CASE WHEN NOT coalesce(l.tax_rate = ANY(x.rates), false)
           THEN jsonb_build_object(
               'subscriber', l.subscriber_id, 'invoice', l.invoice_id, 'line', l.nr,
               'rate', l.tax_rate, 'should_be', x.rates) END AS wrong
FROM billing_invoiceline l
JOIN billing_invoice i ON i.subscriber_id = l.subscriber_id AND i.id = l.invoice_id
JOIN subscriptions_operator o ON o.id = i.operator_id
JOIN subscriptions_plan p
  ON p.operator_id = i.operator_id AND p.code = l.basis ->> 'plan'
 AND p.version = (l.basis ->> 'version')::int
CROSS JOIN LATERAL (
    SELECT ((CASE WHEN l.kind IN ('fee', 'upgrade') THEN i.period_end
                  ELSE (l.basis ->> 'until')::timestamptz END - interval '1 microsecond')
            AT TIME ZONE o.time_zone)::date AS day
) d
CROSS JOIN LATERAL (
    SELECT array_agg(coalesce((
               SELECT t.rate FROM subscriptions_taxrate t
               WHERE t.operator_id = i.operator_id AND t.category = c.category
                 AND t.effective_from <= d.day
               ORDER BY t.effective_from DESC, t.id DESC LIMIT 1), c.tax_rate)) AS rates
    FROM (
        SELECT c.tax_rate, c.tax_category AS category FROM subscriptions_plancomponent c
        WHERE c.plan_id = p.id AND c.name = l.description AND l.kind IN ('fee', 'upgrade')
        UNION ALL
        SELECT p.tax_rate, p.tax_category
        WHERE l.kind NOT IN ('fee', 'upgrade') OR NOT EXISTS (
            SELECT FROM subscriptions_plancomponent c WHERE c.plan_id = p.id)
    ) c
) x
WHERE i.kind <> 'credit_note' AND l.kind IN ('fee', 'upgrade', 'overage', 'block', 'adjustment')
"""

# What an operator's own over-charge is repaid beyond itself: as its policy said at the issue. (A
# policy of the very instant of an issue may be from before it or from after.)
_COMPENSATED = """
SELECT i.operator_id, CASE
           WHEN l.extra IS NOT NULL AND (
                l.extra <> round(l.over_charge * (l.factor - 1), 2)
                OR l.over_charge <> CASE i.kind WHEN 'credit_note' THEN l.credited ELSE l.less END
                OR NOT EXISTS (
                    SELECT FROM billing_correctionpolicy p
                    WHERE p.operator_id = i.operator_id AND p.since <= i.issued_at
                      AND p.over_charge_factor = l.factor))
             OR l.extra IS NULL AND l.less > 0 AND p.since < i.issued_at
                AND round(l.less * (p.over_charge_factor - 1), 2) > 0
           THEN jsonb_build_object(
               'subscriber', i.subscriber_id, 'invoice', i.id, 'over_charge', l.over_charge,
               'factor', l.factor, 'compensation', l.extra, 'given_back', l.less) END AS wrong
FROM billing_invoice i
JOIN (
    SELECT subscriber_id, invoice_id,
           -sum(gross) FILTER (WHERE basis ? 'over_charge' AND NOT basis ? 'credits') AS extra,
           max((basis ->> 'over_charge')::numeric) AS over_charge,
           max((basis ->> 'factor')::numeric) AS factor,
           -coalesce(sum(gross) FILTER (WHERE basis ? 'line'), 0) AS credited,
           -coalesce(sum(gross) FILTER (WHERE kind = 'adjustment' AND basis ? 'drawn'
                                        AND gross < 0), 0) AS less
    FROM billing_invoiceline
    GROUP BY 1, 2
) l ON l.subscriber_id = i.subscriber_id AND l.invoice_id = i.id
LEFT JOIN LATERAL (
    SELECT p.since, p.over_charge_factor FROM billing_correctionpolicy p
    WHERE p.operator_id = i.operator_id AND p.since <= i.issued_at
    ORDER BY p.since DESC, p.id DESC LIMIT 1
) p ON true
WHERE i.number IS NOT NULL
"""

# Nothing above the limit is posted that another person has not approved.
_APPROVED = """
SELECT operator_id, wrong
FROM (
    SELECT i.operator_id, CASE WHEN abs(l.gross) > p.approval_limit AND p.since < i.issued_at
                AND NOT EXISTS (
                    SELECT FROM billing_approval a
                    WHERE a.subscriber_id = l.subscriber_id AND a.bucket_id = l.bucket_id
                      AND a.drawn = (l.basis ->> 'drawn')::bigint AND a.state = 'approved'
                      AND a.decided_at <= i.issued_at)
           THEN jsonb_build_object(
               'subscriber', l.subscriber_id, 'invoice', l.invoice_id, 'line', l.nr,
               'gross', l.gross, 'limit', p.approval_limit) END AS wrong
    FROM billing_invoiceline l
    JOIN billing_invoice i ON i.subscriber_id = l.subscriber_id AND i.id = l.invoice_id
    JOIN LATERAL (
        SELECT p.since, p.approval_limit FROM billing_correctionpolicy p
        WHERE p.operator_id = i.operator_id AND p.since <= i.issued_at
        ORDER BY p.since DESC, p.id DESC LIMIT 1
    ) p ON true
    WHERE l.kind = 'adjustment' AND l.basis ? 'drawn' AND i.number IS NOT NULL
    UNION ALL
    SELECT a.operator_id, CASE WHEN n.id IS NULL OR n.gross <> a.amount
                OR n.original_id <> a.invoice_id OR n.kind <> 'credit_note'
           THEN jsonb_build_object(
               'approval', a.id, 'amount', a.amount, 'note', a.note_id, 'gross', n.gross) END
    FROM billing_approval a
    LEFT JOIN billing_invoice n ON n.subscriber_id = a.subscriber_id AND n.id = a.note_id
    WHERE a.kind = 'credit_note' AND a.state = 'approved'
) u
"""

# Nothing above the limits is given or given up by hand that another person has not approved, and
# what was approved is what was done. (What is of the very instant of a policy may be from before.)
_BY_TWO = """
WITH done AS (
    SELECT s.operator_id, 'units' AS kind, b.subscriber_id, b.id, b.granted AS units,
           NULL::numeric AS amount, b.created_at AS at,
           substring(b.grant_key FROM '^gift:approval:([0-9]+)$')::bigint AS approval
    FROM subscriptions_bucket b
    JOIN subscriptions_subscriber s ON s.id = b.subscriber_id
    WHERE b.kind = 'gift' AND b.grant_key ~ '^gift:([0-9a-f]{32}$|hand:|approval:[0-9]+$)'
    UNION ALL
    SELECT m.operator_id, 'money', m.subscriber_id, m.nr, NULL, -m.amount, m.at,
           substring(m.key FROM '^credit:approval:([0-9]+)$')::bigint
    FROM billing_walletmovement m
    WHERE m.kind = 'bonus' AND m.key LIKE 'credit:%%'
    UNION ALL
    SELECT p.operator_id, 'write_off', e.subscriber_id, split_part(p.key, ':', 2)::bigint, NULL,
           -e.amount, p.at, (
               SELECT max(a.id) FROM billing_approval a
               WHERE a.kind = 'write_off' AND a.subscriber_id = e.subscriber_id
                 AND a.invoice_id = split_part(p.key, ':', 2)::bigint AND a.state = 'approved')
    FROM billing_posting p
    JOIN billing_entry e ON e.posting_id = p.id
    JOIN billing_account c ON c.id = e.account_id AND c.code = 'write_off'
    WHERE p.key LIKE 'write_off:%%'
    UNION ALL
    SELECT d.operator_id, 'difference', NULL, d.id, NULL, d.amount, d.resolved_at, (
               SELECT max(a.id) FROM billing_approval a
               WHERE a.kind = 'difference' AND a.about_id = d.id AND a.state = 'approved')
    FROM billing_paymentdifference d WHERE d.resolution = 'written_off'
    UNION ALL
    SELECT h.operator_id, 'handover', h.subscriber_id, h.id, NULL, h.worth, h.done_at, (
               SELECT max(a.id) FROM billing_approval a
               WHERE a.kind = 'handover' AND a.about_id = h.id AND a.state = 'approved')
    FROM billing_handover h WHERE h.state = 'done'
    UNION ALL
    SELECT r.operator_id, 'rerating', NULL, r.id, (
               SELECT sum(abs(s.units_after - s.units_before)) FROM metering_reratingshare s
               WHERE s.run_id = r.id), NULL, r.applied_at, (
               SELECT max(a.id) FROM billing_approval a
               WHERE a.kind = 'rerating' AND a.about_id = r.id AND a.state = 'approved')
    FROM metering_rerating r WHERE r.state = 'applied'
)
SELECT d.operator_id, CASE
           WHEN (d.units > p.units_limit OR abs(d.amount) > p.approval_limit)
                AND d.approval IS NULL
             OR d.approval IS NOT NULL AND (
                a.id IS NULL OR a.state <> 'approved' OR a.kind <> d.kind
                OR a.kind = 'units' AND (a.units <> d.units OR a.made_id <> d.id)
                OR a.kind = 'money' AND (a.amount <> d.amount OR a.made_id <> d.id)
                OR a.kind IN ('write_off', 'difference', 'handover') AND a.amount <> d.amount)
           THEN jsonb_build_object(
               'kind', d.kind, 'subscriber', d.subscriber_id, 'id', d.id, 'units', d.units,
               'amount', d.amount, 'approval', d.approval) END AS wrong
FROM done d
LEFT JOIN billing_approval a ON a.id = d.approval
LEFT JOIN LATERAL (
    SELECT p.units_limit, p.approval_limit FROM billing_correctionpolicy p
    WHERE p.operator_id = d.operator_id AND p.since < d.at
    ORDER BY p.since DESC, p.id DESC LIMIT 1
) p ON true
UNION ALL
SELECT a.operator_id, jsonb_build_object('approval', a.id, 'made', a.made_id)
FROM billing_approval a
WHERE a.kind IN ('units', 'money') AND a.state = 'approved' AND NOT EXISTS (
    SELECT FROM done d WHERE d.approval = a.id AND d.kind = a.kind)
"""

# What is on sale says what was drafted, and where two persons decide on prices what the other has
# approved. (What was approved before that was the rule stays so.)
_PRICED = """
SELECT p.operator_id, CASE
           WHEN d.id IS NOT NULL AND (
                (d.terms -> 'price' ->> 'amount')::numeric <> p.price
                OR (d.terms ->> 'allowance')::bigint <> p.allowance OR d.code <> p.code)
             OR r.prices_by_two AND NOT coalesce(d.made_at <= r.since, false) AND NOT EXISTS (
                SELECT FROM billing_approval a
                WHERE a.kind = 'price' AND a.about_id = d.id AND a.state = 'approved'
                  AND a.decided_at <= p.created_at)
           THEN jsonb_build_object(
               'plan', p.code, 'version', p.version, 'draft', d.id, 'price', p.price) END AS wrong
FROM subscriptions_plan p
LEFT JOIN LATERAL (
    SELECT d.id, d.code, d.terms, d.made_at FROM billing_pricedraft d
    WHERE d.plan_id = p.id ORDER BY d.id LIMIT 1
) d ON true
LEFT JOIN LATERAL (
    SELECT c.since, c.prices_by_two FROM billing_correctionpolicy c
    WHERE c.operator_id = p.operator_id AND c.since < p.created_at
    ORDER BY c.since DESC, c.id DESC LIMIT 1
) r ON true
"""

CHECKS = (
    Check("nothing_waits", "no correction or sale waits past its date", _NOTHING_WAITS),
    Check("compensated", "an over-charge is repaid as the policy says", _COMPENSATED),
    Check("approved", "no correction above the limit without approval", _APPROVED),
    Check("by_two", "nothing is given or given up above the limit without approval", _BY_TWO),
    Check("priced", "what is on sale is what was drafted and approved", _PRICED),
    Check("tax_rates", "a line is taxed as of the last day of its period", _TAX_RATES),
)
