"""Whether vouchers add up: checks of `reconcile`, not by the writers' statements."""

from __future__ import annotations

from metering.reconciliation import Check

# All that was sold and is neither redeemed nor over is owed, by operator and currency.
_OWED = """
SELECT operator_id, CASE WHEN sum(owed) <> sum(posted) THEN jsonb_build_object(
           'currency', currency, 'owed', sum(owed), 'ledger', sum(posted)) END AS wrong
FROM (
    SELECT b.operator_id, b.currency, b.amount * count(v.nr) AS owed, 0 AS posted
    FROM billing_voucherbatch b
    JOIN billing_voucher v ON v.batch_id = b.id AND v.state = 'activated'
    GROUP BY b.id
    UNION ALL
    SELECT a.operator_id, a.currency, 0, -sum(e.amount)
    FROM billing_account a JOIN billing_entry e ON e.account_id = a.id
    WHERE a.code = 'voucher'
    GROUP BY 1, 2
) u
GROUP BY operator_id, currency
"""

# As many vouchers as a batch says it has made, each in the state that its history brought it to.
_STATES = """
SELECT b.operator_id, CASE
           WHEN b.made <> coalesce(v.many, 0) OR b.made <> coalesce(v.last, 0) OR v.foreign_operator
             OR b.steps <> coalesce(s.many, 0)
             OR coalesce(v.sold, 0) <> coalesce(s.activated - s.unsold, 0)
             OR coalesce(v.void, 0) <> coalesce(s.void, 0)
             OR coalesce(v.expired, 0) <> coalesce(s.expired, 0)
             OR b.expired_at IS NOT NULL AND coalesce(v.open, 0) > 0
           THEN jsonb_build_object(
               'batch', b.code, 'made', b.made, 'vouchers', v.many, 'sold', v.sold,
               'void', v.void, 'expired', v.expired, 'steps', to_jsonb(s) - 'batch_id') END AS wrong
FROM billing_voucherbatch b
LEFT JOIN (
    SELECT v.batch_id, count(*) AS many, max(v.nr) AS last,
           count(*) FILTER (WHERE v.state IN ('activated', 'redeemed')) AS sold,
           count(*) FILTER (WHERE v.state = 'void') AS void,
           count(*) FILTER (WHERE v.state = 'expired') AS expired,
           count(*) FILTER (WHERE v.state IN ('made', 'activated')) AS open,
           bool_or(v.operator_id <> b.operator_id) AS foreign_operator
    FROM billing_voucher v JOIN billing_voucherbatch b ON b.id = v.batch_id
    GROUP BY 1
) v ON v.batch_id = b.id
LEFT JOIN (
    SELECT batch_id, count(*) AS many,
           coalesce(sum(count) FILTER (WHERE kind = 'activated'), 0) AS activated,
           coalesce(sum(moved) FILTER (WHERE kind <> 'activated'), 0) AS unsold,
           coalesce(sum(count) FILTER (WHERE kind = 'void'), 0) AS void,
           coalesce(sum(count) FILTER (WHERE kind = 'expired'), 0) AS expired
    FROM billing_voucherstep GROUP BY 1
) s ON s.batch_id = b.id
"""

# What a redeemed voucher is worth is there, once, with whoever redeemed it; and nothing else is
# said to come from a voucher.
_GIVEN = """
SELECT coalesce(v.operator_id, g.operator_id), CASE
           WHEN v.key IS NULL OR g.key IS NULL OR v.amount IS DISTINCT FROM g.amount
             OR v.units IS DISTINCT FROM g.units OR v.currency <> g.currency
             OR v.gives = 'booster' AND NOT EXISTS (
                 SELECT FROM billing_order o
                 WHERE o.operator_id = v.operator_id AND o.key = v.key
                   AND o.booster_id = v.booster_id AND o.paid_at IS NOT NULL)
           THEN jsonb_build_object(
               'subscriber', subscriber_id, 'voucher', coalesce(v.key, g.key), 'amount', v.amount,
               'given', g.amount, 'units', v.units, 'units_given', g.units) END AS wrong
FROM (
    SELECT b.operator_id, v.subscriber_id, 'voucher:' || v.batch_id || ':' || v.nr AS key,
           nullif(b.amount, 0) AS amount, b.currency, b.units, b.gives, b.booster_id
    FROM billing_voucher v JOIN billing_voucherbatch b ON b.id = v.batch_id
    WHERE v.state = 'redeemed'
) v
FULL JOIN (
    SELECT operator_id, subscriber_id, key, amount, currency, NULL::bigint AS units
    FROM billing_walletmovement WHERE key LIKE 'voucher:%%'
    UNION ALL
    SELECT s.operator_id, b.subscriber_id, substr(b.grant_key, 6), NULL, NULL, b.granted
    FROM subscriptions_bucket b
    JOIN subscriptions_subscriber s ON s.id = b.subscriber_id
    WHERE b.grant_key LIKE 'gift:voucher:%%'
) g USING (subscriber_id, key)
"""

CHECKS = (
    Check("vouchers_owed", "vouchers sold and not redeemed = what is owed for them", _OWED),
    Check("voucher_states", "vouchers are where their history brought them", _STATES),
    Check("voucher_given", "a redeemed voucher gave what it is worth, once", _GIVEN),
)
