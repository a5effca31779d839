"""Whether refunds and disputes add up: checks of `reconcile`, not by the writers' statements."""

from __future__ import annotations

from metering.reconciliation import Check

# Of each order, what its refunds say that went or is going back, and that one is open or none.
_ORDER_REFUNDS = """
SELECT coalesce(o.operator_id, r.operator_id), CASE
           WHEN o.id IS NULL OR o.refunded
                 <> coalesce(r.amount, 0) + coalesce(m.amount, 0) + coalesce(a.unnamed, 0)
             OR o.unapplied <> coalesce(r.noted, 0)
             OR (o.state = 'refunding') <> coalesce(r.open, false)
             OR r.currency <> o.currency OR r.operator_id <> o.operator_id
           THEN jsonb_build_object(
               'subscriber', subscriber_id, 'order', o.number, 'state', o.state,
               'refunded', o.refunded, 'by_refunds', r.amount, 'in_wallet', m.amount,
               'unapplied', o.unapplied, 'noted', r.noted, 'open', r.open) END AS wrong
FROM (SELECT *, id AS order_id FROM billing_order) o
FULL JOIN (
    SELECT subscriber_id, order_id, min(operator_id) AS operator_id, min(currency) AS currency,
           sum(amount) FILTER (WHERE state <> 'cancelled') AS amount,
           sum(amount) FILTER (WHERE fund = 'credit_note' AND bucket_id IS NOT NULL) AS noted,
           bool_or(state IN ('pending', 'failed')) AS open
    FROM billing_refund GROUP BY 1, 2
) r USING (subscriber_id, order_id)
CROSS JOIN LATERAL (
    SELECT sum(m.amount) AS amount FROM billing_walletmovement m
    WHERE m.subscriber_id = o.subscriber_id AND m.currency = o.currency
      AND m.key = 'rest:' || o.number
) m
-- What the carrier rejects before an invoice names it was never paid.
CROSS JOIN LATERAL (
    SELECT sum(a.unnamed) AS unnamed FROM billing_phonebillanswer a
    WHERE a.subscriber_id = o.subscriber_id AND a.order_id = o.id AND a.kind = 'rejected'
) a
WHERE o.paid_at IS NOT NULL OR r.amount IS NOT NULL
"""

# The history ends where the refund is, in time.
_REFUND_STEPS = """
SELECT r.operator_id, CASE
           WHEN r.id IS NULL OR s.steps IS DISTINCT FROM r.steps OR s.last IS DISTINCT FROM r.state
             OR s.first IS DISTINCT FROM 'pending' OR s.wrong
           THEN jsonb_build_object(
               'subscriber', subscriber_id, 'refund', r.number, 'state', r.state,
               'last_step', s.last, 'steps', s.steps) END AS wrong
FROM (SELECT *, id AS refund_id FROM billing_refund) r
FULL JOIN (
    SELECT subscriber_id, refund_id, count(*) AS steps,
           (array_agg(state ORDER BY nr))[1] AS first,
           (array_agg(state ORDER BY nr DESC))[1] AS last,
           bool_or(nr <> place OR at < before) AS wrong
    FROM (
        SELECT *, row_number() OVER w AS place, lag(at) OVER w AS before
        FROM billing_refundstep WINDOW w AS (PARTITION BY subscriber_id, refund_id ORDER BY nr)
    ) s
    GROUP BY 1, 2
) s USING (subscriber_id, refund_id)
"""

# By the ledger a refund is on its way while it is open; it was taken from where the money stood
# unless it was given up, and has left by cash or into the wallet once it is made.
_REFUND_POSTED = """
SELECT coalesce(r.operator_id, p.operator_id), CASE
           WHEN r.id IS NULL OR p.id IS NULL
             OR p.waits <> CASE WHEN r.state IN ('pending', 'failed') THEN r.amount ELSE 0 END
             OR p.kept <> CASE WHEN r.fund <> 'wallet' AND r.state <> 'cancelled' THEN r.amount
                          ELSE 0 END
             OR p.cash <> CASE WHEN r."to" = 'source' AND r.state = 'succeeded' THEN r.amount
                          ELSE 0 END
             OR p.wallet <> CASE WHEN r.fund = 'wallet' AND r.state <> 'cancelled' THEN r.amount
                            ELSE 0 END
                          - CASE WHEN r."to" = 'wallet' AND r.state = 'succeeded' THEN r.amount
                            ELSE 0 END
           THEN jsonb_build_object(
               'subscriber', r.subscriber_id, 'refund', r.number, 'state', r.state,
               'amount', r.amount, 'on_its_way', p.waits, 'taken', p.kept, 'cash', p.cash,
               'wallet', p.wallet) END AS wrong
FROM billing_refund r
FULL JOIN (
    SELECT q.operator_id, split_part(q.key, ':', 2)::bigint AS id,
           coalesce(-sum(e.amount) FILTER (WHERE a.code = 'refund'), 0) AS waits,
           coalesce(sum(e.amount) FILTER (WHERE a.code IN ('prepaid', 'receivable')), 0) AS kept,
           coalesce(-sum(e.amount) FILTER (WHERE a.code LIKE 'cash:%%'), 0) AS cash,
           coalesce(sum(e.amount) FILTER (WHERE a.code = 'wallet'), 0) AS wallet
    FROM billing_posting q
    JOIN billing_entry e ON e.posting_id = q.id
    JOIN billing_account a ON a.id = e.account_id
    WHERE q.kind = 'refund'
    GROUP BY 1, 2
) p ON p.operator_id = r.operator_id AND p.id = r.id
"""

# Units of a refund are frozen until they have gone with its money, or are back.
_REFUND_UNITS = """
SELECT r.operator_id, CASE
           WHEN coalesce(f.units, 0) <> CASE WHEN r.bucket_id IS NULL THEN 0 ELSE r.units END
             OR f.bucket_id <> r.bucket_id
             OR NOT f.state = ANY (CASE r.state
                    WHEN 'succeeded' THEN ARRAY['taken'] WHEN 'cancelled' THEN ARRAY['thawed']
                    ELSE ARRAY['frozen', 'taken'] END)
             OR r.note_id IS NOT NULL AND n.kind IS DISTINCT FROM 'credit_note'
             OR r.fund = 'credit_note' AND r.bucket_id IS NOT NULL AND n.gross <> -r.amount
           THEN jsonb_build_object(
               'subscriber', r.subscriber_id, 'refund', r.number, 'state', r.state,
               'units', r.units, 'frozen', f.units, 'is', f.state, 'note', n.number) END AS wrong
FROM billing_refund r
LEFT JOIN subscriptions_freeze f ON f.subscriber_id = r.subscriber_id AND f.key = r.number
LEFT JOIN billing_invoice n ON n.subscriber_id = r.subscriber_id AND n.id = r.note_id
"""

# What a provider holds while a dispute is open is on the account for it; won, it is as if nothing
# had been but for the fee; lost, what no wallet gave is a loss. An inquiry moves nothing.
_DISPUTES = """
SELECT coalesce(d.operator_id, p.operator_id), CASE
           WHEN d.id IS NULL OR (p.id IS NULL) <> (d.state IN ('inquiry', 'withdrawn'))
             OR p.disputed <> CASE WHEN d.state IN ('opened', 'under_review')
                              THEN d.amount - d.held ELSE 0 END
             OR p.loss <> CASE d.state WHEN 'lost' THEN d.amount - d.held ELSE 0 END
             OR p.cash <> CASE d.state WHEN 'won' THEN 0 ELSE d.amount END
             OR p.wallet <> CASE d.state WHEN 'won' THEN 0 ELSE d.held END
             OR s.steps IS DISTINCT FROM d.steps OR s.last IS DISTINCT FROM d.state
             OR f.wrong
           THEN jsonb_build_object(
               'subscriber', d.subscriber_id, 'dispute', d.number, 'state', d.state,
               'amount', d.amount, 'held', d.held, 'disputed', p.disputed, 'loss', p.loss,
               'cash', p.cash, 'last_step', s.last) END AS wrong
FROM billing_dispute d
FULL JOIN (
    SELECT q.operator_id, split_part(q.key, ':', 2)::bigint AS id,
           coalesce(sum(e.amount) FILTER (WHERE a.code = 'disputed'), 0) AS disputed,
           coalesce(sum(e.amount) FILTER (WHERE a.code = 'dispute_loss'), 0) AS loss,
           coalesce(-sum(e.amount) FILTER (WHERE a.code LIKE 'cash:%%'), 0) AS cash,
           coalesce(sum(e.amount) FILTER (WHERE a.code = 'wallet'), 0) AS wallet
    FROM billing_posting q
    JOIN billing_entry e ON e.posting_id = q.id
    JOIN billing_account a ON a.id = e.account_id
    WHERE q.kind = 'dispute'
    GROUP BY 1, 2
) p ON p.operator_id = d.operator_id AND p.id = d.id
LEFT JOIN (
    SELECT subscriber_id, dispute_id, count(*) AS steps,
           (array_agg(state ORDER BY nr DESC))[1] AS last
    FROM billing_disputestep GROUP BY 1, 2
) s ON s.subscriber_id = d.subscriber_id AND s.dispute_id = d.id
CROSS JOIN LATERAL (
    SELECT coalesce(bool_or(f.state <> CASE d.state
               WHEN 'won' THEN 'thawed' WHEN 'lost' THEN 'taken'
               WHEN 'inquiry' THEN 'none' WHEN 'withdrawn' THEN 'none'
               ELSE 'frozen' END), false) AS wrong
    FROM subscriptions_freeze f
    WHERE f.subscriber_id = d.subscriber_id AND f.key = d.number
) f
"""

CHECKS = (
    Check("order_refunds", "what is refunded of an order = its refunds", _ORDER_REFUNDS),
    Check("refund_steps", "a refund is where its history ends", _REFUND_STEPS),
    Check("refund_posted", "a refund is in the ledger where its state says", _REFUND_POSTED),
    Check("refund_units", "units go with the money of a refund", _REFUND_UNITS),
    Check("disputes", "disputed money is held, back or lost", _DISPUTES),
)
