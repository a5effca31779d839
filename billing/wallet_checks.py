"""Whether bonuses, holds and automatic top-ups add up: checks of `reconcile`, not by the writers'
statements."""

from __future__ import annotations

from metering.reconciliation import Check

# By subscriber and currency: what the wallet says is bonus, its bonuses have left, and is on the
# ledger's account; of each bonus, its entries, the first of which is its grant.
_BONUS = """
SELECT coalesce(w.operator_id, l.operator_id), CASE
           WHEN coalesce(w.bonus, 0) <> coalesce(b.remaining, 0)
             OR coalesce(w.bonus, 0) <> coalesce(m.bonus, 0)
             OR coalesce(w.bonus, 0) <> coalesce(l.amount, 0) OR b.wrong
           THEN jsonb_build_object(
               'subscriber', subscriber_id, 'currency', currency, 'bonus', w.bonus,
               'remaining', b.remaining, 'movements', m.bonus, 'ledger', l.amount) END AS wrong
FROM billing_wallet w
FULL JOIN (
    SELECT subscriber_id, currency, sum(remaining) AS remaining,
           bool_or(remaining IS DISTINCT FROM e.amount OR granted IS DISTINCT FROM e.first)
               AS wrong
    FROM billing_walletbonus b
    LEFT JOIN LATERAL (
        SELECT sum(e.amount) AS amount, (array_agg(e.amount ORDER BY e.nr))[1] AS first
        FROM billing_walletbonusentry e
        WHERE e.subscriber_id = b.subscriber_id AND e.currency = b.currency AND e.bonus_nr = b.nr
    ) e ON true
    GROUP BY 1, 2
) b USING (subscriber_id, currency)
FULL JOIN (
    SELECT subscriber_id, currency, sum(bonus) AS bonus FROM billing_walletmovement GROUP BY 1, 2
) m USING (subscriber_id, currency)
FULL JOIN (
    SELECT e.subscriber_id, a.currency, a.operator_id, -sum(e.amount) AS amount
    FROM billing_account a JOIN billing_entry e ON e.account_id = a.id
    WHERE a.code = 'bonus' GROUP BY 1, 2, 3
) l USING (subscriber_id, currency)
"""

# What a top-up was given is what the version said that held when it was ordered, once.
_GIVEN = """
SELECT o.operator_id, CASE
           WHEN coalesce(b.granted, 0) <> coalesce(g.amount, 0)
             OR b.policy_nr IS NOT NULL AND p.effective_from > o.created_at
             OR b.expires_at IS DISTINCT FROM b.granted_at + make_interval(days => r.valid_days)
           THEN jsonb_build_object(
               'subscriber', o.subscriber_id, 'order', o.number, 'given', b.granted,
               'should_be', g.amount) END AS wrong
FROM billing_order o
LEFT JOIN billing_walletbonus b ON b.subscriber_id = o.subscriber_id AND b.order_id = o.id
LEFT JOIN LATERAL (
    SELECT * FROM billing_topuppolicy p
    WHERE p.operator_id = o.operator_id
      AND CASE WHEN b.policy_nr IS NULL THEN p.effective_from < o.created_at
               ELSE p.nr = b.policy_nr END
    ORDER BY p.effective_from DESC, p.nr DESC LIMIT 1
) p ON true
LEFT JOIN LATERAL (
    SELECT * FROM billing_bonusrule r
    WHERE r.operator_id = o.operator_id AND r.policy_nr = p.nr AND r.at_least <= o.amount
    ORDER BY r.at_least DESC LIMIT 1
) r ON true
LEFT JOIN LATERAL (
    SELECT coalesce(r.amount, least(trunc(o.amount * r.percent / 100, 2), r.cap)) AS amount
) g ON o.paid_at IS NOT NULL AND EXISTS (
    SELECT FROM billing_walletmovement m
    WHERE m.subscriber_id = o.subscriber_id AND m.currency = o.currency
      AND m.key = 'order:' || o.number)
WHERE o.kind = 'top_up'
  -- Of the instant itself only what was given says which version it was.
  AND (b.policy_nr IS NOT NULL OR NOT EXISTS (
      SELECT FROM billing_topuppolicy q
      WHERE q.operator_id = o.operator_id AND q.effective_from = o.created_at))
UNION ALL
SELECT b.operator_id, jsonb_build_object('subscriber', b.subscriber_id, 'given', b.granted)
FROM billing_walletbonus b
WHERE b.order_id IS NOT NULL AND NOT EXISTS (
    SELECT FROM billing_order o
    WHERE o.subscriber_id = b.subscriber_id AND o.id = b.order_id AND o.kind = 'top_up')
"""

# What a wallet holds is what its holds have; what was captured paid its order.
_HOLDS = """
SELECT coalesce(w.operator_id, h.operator_id), CASE
           WHEN coalesce(w.held, 0) <> coalesce(h.held, 0) OR h.wrong
           THEN jsonb_build_object(
               'subscriber', subscriber_id, 'currency', currency, 'held', w.held,
               'holds', h.held, 'captured_without_a_payment', h.wrong) END AS wrong
FROM billing_wallet w
FULL JOIN (
    SELECT h.subscriber_id, h.currency, min(h.operator_id) AS operator_id,
           coalesce(sum(h.amount) FILTER (WHERE h.state = 'held'), 0) AS held,
           coalesce(bool_or(h.state = 'captured' AND NOT EXISTS (
               SELECT FROM billing_walletmovement m
               WHERE m.subscriber_id = h.subscriber_id AND m.currency = h.currency
                 AND m.note = h.reason AND m.amount = -h.captured)), false) AS wrong
    FROM billing_wallethold h
    GROUP BY 1, 2
) h USING (subscriber_id, currency)
"""

# A run that is paid has a top-up that is, one that failed or was stopped none; and no day took more
# than the highest limit that was ever agreed to.
_RUNS = """
SELECT r.operator_id, CASE
           WHEN r.order_id IS NOT NULL AND (
                o.id IS NULL OR o.kind <> 'top_up' OR o.amount <> r.amount
                OR o.key <> 'auto:' || r.subscriber_id || ':' || r.agreement_id || ':' || r.cause)
             OR a.id IS NULL OR r.amount <> a.amount
             OR r.state = 'paid' AND o.paid_at IS NULL
             OR o.paid_at IS NOT NULL AND d.taken > d.most
           THEN jsonb_build_object(
               'subscriber', r.subscriber_id, 'cause', r.cause, 'state', r.state,
               'order', o.number, 'order_state', o.state, 'taken_that_day', d.taken) END AS wrong
FROM billing_autotopuprun r
LEFT JOIN billing_autotopup a ON a.subscriber_id = r.subscriber_id AND a.id = r.agreement_id
LEFT JOIN billing_order o ON o.subscriber_id = r.subscriber_id AND o.id = r.order_id
LEFT JOIN subscriptions_operator p ON p.id = r.operator_id
LEFT JOIN LATERAL (
    SELECT sum(x.amount) AS taken, (
        SELECT max(z.daily_limit) FROM billing_autotopup z WHERE z.subscriber_id = r.subscriber_id
    ) AS most
    FROM billing_autotopuprun y
    JOIN billing_order x ON x.subscriber_id = y.subscriber_id AND x.id = y.order_id
    WHERE y.subscriber_id = r.subscriber_id
      AND date_trunc('day', x.paid_at AT TIME ZONE p.time_zone)
        = date_trunc('day', o.paid_at AT TIME ZONE p.time_zone)
) d ON true
"""

CHECKS = (
    Check("wallet_bonus", "bonus in wallets = what bonuses have left = the ledger", _BONUS),
    Check("top_up_bonus", "a top-up was given what was offered, once", _GIVEN),
    Check("wallet_holds", "what wallets hold = what their holds have", _HOLDS),
    Check("auto_top_up", "automatic top-ups are orders, within the limits", _RUNS),
)
