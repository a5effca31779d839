"""Whether orders and wallets add up: checks of `reconcile`, not by the writers' statements."""

from __future__ import annotations

from metering.reconciliation import Check

# By subscriber and currency: the wallet, its statement and the ledger say the same; a bonus is on
# an account of its own.
_WALLETS = """
SELECT coalesce(w.operator_id, m.operator_id, l.operator_id), CASE
           WHEN coalesce(w.balance, 0) <> coalesce(m.amount, 0)
             OR coalesce(w.balance - w.bonus, 0) <> coalesce(l.amount, 0)
             OR coalesce(w.movements, 0) <> coalesce(m.movements, 0)
             OR m.operator_id <> w.operator_id OR l.operator_id <> w.operator_id
           THEN jsonb_build_object(
               'subscriber', subscriber_id, 'currency', currency, 'balance', w.balance,
               'movements', m.amount, 'ledger', l.amount) END AS wrong
FROM billing_wallet w
FULL JOIN (
    SELECT subscriber_id, currency, min(operator_id) AS operator_id, sum(amount) AS amount,
           count(*) AS movements
    FROM billing_walletmovement GROUP BY 1, 2
) m USING (subscriber_id, currency)
FULL JOIN (
    SELECT e.subscriber_id, a.currency, a.operator_id, -sum(e.amount) AS amount
    FROM billing_account a JOIN billing_entry e ON e.account_id = a.id
    WHERE a.code = 'wallet' GROUP BY 1, 2, 3
) l USING (subscriber_id, currency)
"""

# The history ends where the order is, each step in a way that there is, in time.
_ORDER_STEPS = """
SELECT o.operator_id, CASE
           WHEN o.id IS NULL OR s.steps IS DISTINCT FROM o.steps OR s.last IS DISTINCT FROM o.state
             OR s.first IS DISTINCT FROM 'created' OR s.wrong
           THEN jsonb_build_object(
               'subscriber', subscriber_id, 'order', o.number, 'state', o.state,
               'last_step', s.last, 'steps', s.steps) END AS wrong
FROM (SELECT *, id AS order_id FROM billing_order) o
FULL JOIN (
    SELECT subscriber_id, order_id, count(*) AS steps,
           (array_agg(state ORDER BY nr))[1] AS first,
           (array_agg(state ORDER BY nr DESC))[1] AS last,
           bool_or(nr <> place OR at < before) AS wrong
    FROM (
        SELECT *, row_number() OVER w AS place, lag(at) OVER w AS before
        FROM billing_orderstep WINDOW w AS (PARTITION BY subscriber_id, order_id ORDER BY nr)
    ) s
    GROUP BY 1, 2
) s USING (subscriber_id, order_id)
"""

# What was paid is there: in the wallet or on the invoice, once, and the money was posted.
_ORDER_GRANTED = """
SELECT o.operator_id, CASE
           WHEN (o.paid_at IS NOT NULL) <> (g.granted IS NOT NULL) OR g.granted <> o.amount
             OR (o.paid_at IS NOT NULL) <> (p.posted IS NOT NULL) OR p.posted <> o.amount
           THEN jsonb_build_object(
               'subscriber', o.subscriber_id, 'order', o.number, 'state', o.state,
               'amount', o.amount, 'granted', g.granted, 'posted', p.posted) END AS wrong
FROM billing_order o
CROSS JOIN LATERAL (
    SELECT CASE o.kind
        WHEN 'top_up' THEN (
            SELECT sum(m.amount) FROM billing_walletmovement m
            WHERE m.subscriber_id = o.subscriber_id AND m.currency = o.currency
              AND m.key = 'order:' || o.number)
        WHEN 'invoice' THEN (
            SELECT sum(p.amount) FROM billing_payment p
            WHERE p.subscriber_id = o.subscriber_id AND p.invoice_id = o.invoice_id
              AND p.operator_id = o.operator_id AND p.key = 'order:' || o.number)
        WHEN 'plan' THEN (
            SELECT o.amount FROM subscriptions_subscription s
            WHERE s.subscriber_id = o.subscriber_id AND s.id = o.subscription_id
              AND s.starts_at = o.period_start)
        WHEN 'period' THEN (
            SELECT o.amount WHERE o.state = 'refunded' OR EXISTS (
                SELECT FROM subscriptions_expectedperiod e
                WHERE e.subscriber_id = o.subscriber_id AND e.subscription_id = o.subscription_id
                  AND e.starts_at = o.period_start
                  AND (e.asked_at IS NULL
                       OR e.paid_at >= o.paid_at AND e.plan_id = o.plan_id)))
        WHEN 'booster' THEN (
            SELECT o.amount FROM subscriptions_bucket b
            WHERE b.subscriber_id = o.subscriber_id AND b.id = o.bucket_id
              AND b.grant_key = 'booster:' || o.booster_id || ':order-' || o.number)
        END AS granted
) g
CROSS JOIN LATERAL (
    SELECT sum(e.amount) AS posted
    FROM billing_posting p
    JOIN billing_entry e ON e.posting_id = p.id AND e.amount > 0
    WHERE p.operator_id = o.operator_id AND p.key = CASE o.kind
        WHEN 'invoice' THEN 'payment:order:' || o.number ELSE 'order:' || o.id END
) p
"""

# What was paid in advance is on the account until an invoice has named it; what of it an invoice
# took is its payment, what no invoice needed is in the wallet.
_PREPAID = """
SELECT operator_id, CASE WHEN sum(amount) <> 0 THEN jsonb_build_object(
           'subscriber', subscriber_id, 'currency', currency, 'orders_minus_ledger', sum(amount))
           END AS wrong
FROM (
    SELECT operator_id, subscriber_id, currency,
           amount - applied + unapplied - refunded AS amount
    FROM billing_order WHERE paid_at IS NOT NULL AND kind NOT IN ('top_up', 'invoice')
    UNION ALL
    SELECT a.operator_id, e.subscriber_id, a.currency, e.amount
    FROM billing_account a JOIN billing_entry e ON e.account_id = a.id WHERE a.code = 'prepaid'
) u
GROUP BY operator_id, subscriber_id, currency
"""
_APPLIED = """
SELECT o.operator_id, CASE
           WHEN o.applied <> coalesce(p.amount, 0)
             OR o.refunded <> coalesce(m.amount, 0) + coalesce(r.amount, 0)
                              + coalesce(n.amount, 0)
             OR o.settled_at IS NULL AND b.named
           THEN jsonb_build_object(
               'subscriber', o.subscriber_id, 'order', o.number, 'applied', o.applied,
               'paid_of_invoices', p.amount, 'refunded', o.refunded, 'in_wallet', m.amount,
               'settled_at', o.settled_at) END AS wrong
FROM billing_order o
CROSS JOIN LATERAL (
    SELECT sum(p.amount) AS amount FROM billing_payment p
    WHERE p.subscriber_id = o.subscriber_id AND p.way = 'prepaid'
      AND p.key = 'order:' || o.number
) p
CROSS JOIN LATERAL (
    SELECT sum(m.amount) AS amount FROM billing_walletmovement m
    WHERE m.subscriber_id = o.subscriber_id AND m.currency = o.currency
      AND m.key = 'rest:' || o.number
) m
CROSS JOIN LATERAL (
    SELECT sum(a.unnamed) AS amount FROM billing_phonebillanswer a
    WHERE a.subscriber_id = o.subscriber_id AND a.order_id = o.id AND a.kind = 'rejected'
) n
CROSS JOIN LATERAL (
    SELECT sum(r.amount) AS amount FROM billing_refund r
    WHERE r.subscriber_id = o.subscriber_id AND r.order_id = o.id AND r.state <> 'cancelled'
) r
CROSS JOIN LATERAL (
    SELECT EXISTS (
        SELECT FROM billing_invoice i
        WHERE i.subscriber_id = o.subscriber_id AND i.kind = 'period'
          AND i.subscription_id = o.subscription_id AND i.period_start = o.period_start
    ) OR EXISTS (
        SELECT FROM billing_invoiceline l
        WHERE l.subscriber_id = o.subscriber_id AND l.bucket_id = o.bucket_id
          AND l.kind = 'booster'
    ) AS named
) b
WHERE o.paid_at IS NOT NULL AND o.kind NOT IN ('top_up', 'invoice')
"""

# A transfer that was matched is in the books with its amount, once; another is not.
_TRANSFERS = """
SELECT t.operator_id, CASE
           WHEN (t.state = 'matched') <> (x.amount IS NOT NULL) OR x.amount <> t.amount
           THEN jsonb_build_object(
               'transfer', t.id, 'reference', t.reference, 'state', t.state, 'amount', t.amount,
               'paid', x.amount) END AS wrong
FROM billing_banktransfer t
CROSS JOIN LATERAL (
    SELECT CASE WHEN t.order_id IS NOT NULL THEN (
            SELECT sum(i.amount) FROM billing_paymentintent i
            WHERE i.subscriber_id = t.subscriber_id AND i.order_id = t.order_id
              AND i.state = 'succeeded' AND i.way = 'bank' AND i.reference = t.reference)
        ELSE (
            SELECT sum(e.amount) FROM billing_posting p
            JOIN billing_entry e ON e.posting_id = p.id AND e.amount > 0
            WHERE p.operator_id = t.operator_id
              AND p.key IN ('transfer:' || t.id, 'payment:transfer:' || t.id))
        END AS amount
) x
"""

CHECKS = (
    Check("wallets", "a wallet = its movements = what the ledger owes it", _WALLETS),
    Check("order_steps", "an order is where its history ends", _ORDER_STEPS),
    Check("order_granted", "what an order paid for is granted once", _ORDER_GRANTED),
    Check("prepaid", "what is paid in advance = what the ledger keeps for it", _PREPAID),
    Check("prepaid_applied", "what orders paid lowers what is due, once", _APPLIED),
    Check("transfers", "a transfer pays one thing once", _TRANSFERS),
)
