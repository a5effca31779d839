"""Whether what asks go by is what subscribers said, and what was agreed limits overage: checks of
`reconcile`, from the steps themselves."""

from __future__ import annotations

from metering.reconciliation import Check

# A guard is the newest step of each kind, and whether a key needs a look.
_GUARDS = """
WITH newest AS (
    SELECT DISTINCT ON (subscriber_id, kind) subscriber_id, kind, terms
    FROM subscriptions_safetystep ORDER BY subscriber_id, kind, nr DESC
), said AS (
    SELECT subscriber_id,
           max(terms ->> 'from') FILTER (WHERE kind = 'night_lock')::time AS night_from,
           max(terms ->> 'until') FILTER (WHERE kind = 'night_lock')::time AS night_until,
           coalesce(bool_or(kind = 'minor' AND terms <> '{}'), false) AS minor,
           (1000 * max(terms ->> 'units_a_day') FILTER (WHERE kind = 'minor')::numeric)::bigint
               AS day_units,
           max(terms ->> 'amount_an_order') FILTER (WHERE kind = 'minor')::numeric AS order_amount,
           coalesce(max(CASE terms ->> 'agreed' WHEN 'true' THEN 'agreed' ELSE 'declined' END)
               FILTER (WHERE kind = 'overage'), '') AS overage,
           max(terms ->> 'ceiling') FILTER (WHERE kind = 'overage')::numeric AS overage_ceiling
    FROM newest WHERE kind <> 'alerts' GROUP BY subscriber_id
), keyed AS (
    SELECT DISTINCT subscriber_id FROM subscriptions_subscriberkey
    WHERE cap IS NOT NULL OR allowed_models <> '{}' OR revoked_at IS NOT NULL
), wanted AS (
    SELECT subscriber_id, k.subscriber_id IS NOT NULL AS keys, s.night_from, s.night_until,
           coalesce(s.minor, false) AS minor, s.day_units, s.order_amount,
           coalesce(s.overage, '') AS overage, s.overage_ceiling
    FROM said s FULL JOIN keyed k USING (subscriber_id)
)
SELECT u.operator_id, CASE
           WHEN coalesce((g.keys, g.night_from, g.night_until, g.minor, g.day_units,
                          g.order_amount, g.overage, g.overage_ceiling)::text,
                         '(f,,,f,,,,)')
             IS DISTINCT FROM
                coalesce((w.keys, w.night_from, w.night_until, w.minor, w.day_units,
                          w.order_amount, w.overage, w.overage_ceiling)::text,
                         '(f,,,f,,,,)')
           THEN jsonb_build_object(
               'subscriber', subscriber_id, 'guard', to_jsonb(g), 'said', to_jsonb(w)) END AS wrong
FROM subscriptions_guard g
FULL JOIN wanted w USING (subscriber_id)
LEFT JOIN subscriptions_subscriber u ON u.id = subscriber_id
"""

# The lines that there are, are those that were said last.
_ALERT_LINES = """
SELECT u.operator_id, CASE
           WHEN coalesce(a.lines, '{}') <> coalesce(s.lines, '{}')
           THEN jsonb_build_object('subscriber', subscriber_id, 'lines', a.lines, 'said', s.lines)
           END AS wrong
FROM (
    SELECT subscriber_id, array_agg(kind || value ORDER BY kind || value) AS lines
    FROM subscriptions_usagealert GROUP BY 1
) a
FULL JOIN (
    SELECT n.subscriber_id, (
        SELECT array_agg(line ORDER BY line) FROM (
            SELECT 'percent' || p AS line
            FROM jsonb_array_elements_text(n.terms -> 'used_percent') p
            UNION ALL
            SELECT 'left' || (1000 * l::numeric)::bigint
            FROM jsonb_array_elements_text(n.terms -> 'units_left') l
        ) x
    ) AS lines
    FROM (
        SELECT DISTINCT ON (subscriber_id) subscriber_id, terms
        FROM subscriptions_safetystep WHERE kind = 'alerts' ORDER BY subscriber_id, nr DESC
    ) n
) s USING (subscriber_id)
LEFT JOIN subscriptions_subscriber u ON u.id = subscriber_id
"""
CHECKS = (
    Check("guards", "what asks go by is what was said last", _GUARDS),
    Check("alert_lines", "lines are those said last", _ALERT_LINES),
)
