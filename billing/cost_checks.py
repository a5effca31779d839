"""Whether costs and settlements add up: checks of `reconcile`, by other statements than theirs."""

from __future__ import annotations

from metering.reconciliation import Check

_PRICED = """
SELECT e.operator_id, CASE
           WHEN e.cost * 1000000 <> coalesce(
                   e.uncached_input_tokens * p.uncached_input
                   + e.cached_input_tokens * p.cached_input + e.cache_write_tokens * p.cache_write
                   + e.output_tokens * p.output + e.reasoning_tokens * p.reasoning, 0)
             OR e.supplier_id IS DISTINCT FROM c.supplier_id OR s.operator_id <> e.operator_id
             OR g.operator_id <> e.operator_id OR c.effective_from > e.day
           THEN jsonb_build_object(
               'entry', e.id, 'day', e.day, 'model', e.model, 'cost', e.cost) END AS wrong
FROM billing_costentry e
JOIN subscriptions_gateway g ON g.id = e.gateway_id
LEFT JOIN billing_costprice p ON p.id = e.price_id
LEFT JOIN billing_costcard c ON c.id = p.card_id
LEFT JOIN billing_supplier s ON s.id = c.supplier_id
"""

# Of days that are priced as they are now, and whose records are all kept.
_USED = """
SELECT d.operator_id, CASE
           WHEN (coalesce(u.requests, 0), coalesce(u.tokens, 0), coalesce(u.units, 0))
             <> (coalesce(e.requests, 0), coalesce(e.tokens, 0), coalesce(e.units, 0))
           THEN jsonb_build_object(
               'day', d.day, 'requests', u.requests, 'priced', e.requests, 'tokens', u.tokens,
               'tokens_priced', e.tokens) END AS wrong
FROM billing_costday d
JOIN subscriptions_operator o ON o.id = d.operator_id
LEFT JOIN (
    SELECT operator_id, day, sum(requests) AS requests, sum(units) AS units,
           sum(uncached_input_tokens + cached_input_tokens + cache_write_tokens + output_tokens
               + reasoning_tokens) AS tokens
    FROM billing_costentry GROUP BY 1, 2
) e ON e.operator_id = d.operator_id AND e.day = d.day
LEFT JOIN (
    SELECT g.operator_id, (r.occurred_at AT TIME ZONE o.time_zone)::date AS day,
           sum(r.requests) AS requests, sum(r.units) AS units, sum(r.tokens) AS tokens
    FROM (
        SELECT gateway_id, occurred_at, outcome, 1 AS requests, units,
               uncached_input_tokens::bigint + cached_input_tokens + cache_write_tokens
               + output_tokens + reasoning_tokens AS tokens
        FROM metering_usagerecord
        UNION ALL
        SELECT gateway_id, occurred_at, outcome, requests, units,
               uncached_input_tokens::bigint + cached_input_tokens + cache_write_tokens
               + output_tokens + reasoning_tokens
        FROM metering_adjustedrecord
    ) r
    JOIN subscriptions_gateway g ON g.id = r.gateway_id
    JOIN subscriptions_operator o ON o.id = g.operator_id
    WHERE r.outcome NOT IN ('upstream_error', 'cached_replay', 'blocked')
    GROUP BY 1, 2
) u ON u.operator_id = d.operator_id AND u.day = d.day
WHERE d.day::timestamp AT TIME ZONE o.time_zone >= %(records_since)s
  AND d.batches = (
    SELECT count(*) FROM metering_usagebatch b
    WHERE b.operator_id = d.operator_id
      AND b.occurred_from < (d.day + 1)::timestamp AT TIME ZONE o.time_zone
      AND b.occurred_to >= d.day::timestamp AT TIME ZONE o.time_zone)
  AND d.adjustments = (
    SELECT count(*) FROM metering_adjustment a
    WHERE a.operator_id = d.operator_id
      AND a.occurred_from < (d.day + 1)::timestamp AT TIME ZONE o.time_zone
      AND a.occurred_to >= d.day::timestamp AT TIME ZONE o.time_zone)
"""

_SETTLED = """
SELECT s.operator_id, CASE
           WHEN s.sequence <> s.place OR s.total IS DISTINCT FROM l.total
             OR l.wrong OR e.cost IS NULL OR e.foreign_entry
             OR abs(e.cost - s.total) > 0.005 * l.lines
             OR (l.requests, l.tokens) IS DISTINCT FROM (e.requests, e.tokens)
           THEN jsonb_build_object(
               'number', s.number, 'place', s.place, 'total', s.total, 'sum_of_lines', l.total,
               'cost_of_entries', e.cost, 'tokens', l.tokens, 'tokens_of_entries', e.tokens)
           END AS wrong
FROM (
    SELECT *, row_number() OVER (PARTITION BY operator_id ORDER BY sequence) AS place
    FROM billing_settlement
) s
LEFT JOIN (
    SELECT l.settlement_id, count(*) AS lines, sum(l.amount) AS total, sum(l.requests) AS requests,
           sum(l.uncached_input_tokens + l.cached_input_tokens + l.cache_write_tokens
               + l.output_tokens + l.reasoning_tokens) AS tokens,
           bool_or(l.amount <> round((
               l.uncached_input_tokens * p.uncached_input + l.cached_input_tokens * p.cached_input
               + l.cache_write_tokens * p.cache_write + l.output_tokens * p.output
               + l.reasoning_tokens * p.reasoning) / 1000000, 2)) AS wrong
    FROM billing_settlementline l JOIN billing_costprice p ON p.id = l.price_id
    GROUP BY 1
) l ON l.settlement_id = s.id
LEFT JOIN (
    SELECT e.settlement_id, sum(e.cost) AS cost, sum(e.requests) AS requests,
           sum(e.uncached_input_tokens + e.cached_input_tokens + e.cache_write_tokens
               + e.output_tokens + e.reasoning_tokens) AS tokens,
           bool_or(e.supplier_id <> t.supplier_id OR e.operator_id <> t.operator_id
                   OR e.day >= t.month + interval '1 month') AS foreign_entry
    FROM billing_costentry e JOIN billing_settlement t ON t.id = e.settlement_id
    GROUP BY 1
) e ON e.settlement_id = s.id
"""

CHECKS = (
    Check("cost_priced", "a cost = tokens x the price of its card", _PRICED),
    Check("cost_used", "what is priced of a day = what was used", _USED),
    Check("settled", "a settlement = the costs that it takes", _SETTLED),
)
