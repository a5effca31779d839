"""Whether payments, late fees and debts add up: checks of `reconcile`, by other statements."""

from __future__ import annotations

from metering.reconciliation import Check

# What is paid of an invoice is its payments and what credit notes settled, less what of these was
# refunded instead.
_PAID = """
SELECT coalesce(i.operator_id, p.operator_id), CASE
           WHEN i.operator_id IS NULL OR i.operator_id <> coalesce(p.operator_id, i.operator_id)
             OR i.paid <> coalesce(p.amount, 0) + coalesce(c.amount, 0)
           THEN jsonb_build_object(
               'subscriber', subscriber_id, 'invoice', invoice_id, 'paid', i.paid,
               'payments', p.amount, 'credits', c.amount) END AS wrong
FROM (
    SELECT *, id AS invoice_id FROM billing_invoice WHERE kind <> 'credit_note'
) i
FULL JOIN (
    SELECT subscriber_id, invoice_id, min(operator_id) AS operator_id, sum(amount) AS amount
    FROM billing_payment GROUP BY 1, 2
) p USING (subscriber_id, invoice_id)
LEFT JOIN (
    SELECT n.subscriber_id, n.original_id AS invoice_id,
           -sum(n.paid) - coalesce(sum(r.amount), 0) AS amount
    FROM billing_invoice n
    LEFT JOIN (
        SELECT subscriber_id, note_id, sum(amount) AS amount FROM billing_refund
        WHERE fund = 'credit_note' GROUP BY 1, 2
    ) r ON r.subscriber_id = n.subscriber_id AND r.note_id = n.id
    WHERE n.kind = 'credit_note' GROUP BY 1, 2
) c USING (subscriber_id, invoice_id)
"""

# A payment is posted once, over its amount: as cash of the way it came, or of the company that took
# it, or from the account that is its way (a wallet, what was paid in advance).
_PAYMENT_POSTED = """
SELECT coalesce(p.operator_id, e.operator_id), CASE
           WHEN p.amount IS DISTINCT FROM e.amount OR p.at <> e.at OR p.currency <> e.currency
             OR p.way <> e.way AND NOT EXISTS (
                 SELECT FROM billing_providerpayment g
                 JOIN billing_provideraccount c ON c.id = g.account_id
                 JOIN billing_order o ON o.subscriber_id = g.subscriber_id AND o.id = g.order_id
                 WHERE g.subscriber_id = p.subscriber_id AND g.became = 'granted'
                   AND g.way = p.way AND c.provider = e.way AND p.key = 'order:' || o.number)
           THEN jsonb_build_object(
               'key', key, 'paid', p.amount, 'posted', e.amount, 'way', p.way,
               'account_of', e.way) END AS wrong
FROM (SELECT *, 'payment:' || key AS posting_key FROM billing_payment) p
FULL JOIN (
    SELECT q.operator_id, q.key AS posting_key, q.at, q.currency,
           sum(e.amount) FILTER (WHERE a.code <> 'receivable') AS amount,
           min(split_part(a.code, ':', CASE WHEN a.code LIKE 'cash:%%' THEN 2 ELSE 1 END))
               FILTER (WHERE a.code <> 'receivable') AS way
    FROM billing_posting q
    JOIN billing_entry e ON e.posting_id = q.id
    JOIN billing_account a ON a.id = e.account_id
    WHERE q.kind IN ('payment', 'payment_back')
    GROUP BY q.id
) e ON e.operator_id = p.operator_id AND e.posting_key = p.posting_key
"""

# Of each late invoice all that bills said: rate x what was owed at the end of each whole day until
# it was given up, by the policy of its issue; but for what a credit note took back after the last
# bill.
_LATE_FEE = """
SELECT coalesce(i.operator_id, s.operator_id), CASE
           WHEN l.billed <> l.accrued OR i.id IS NULL OR l.principal > i.gross
             OR l.accrued <> least(
                    round(f.owed_days * coalesce(p.late_fee_rate, 0), 2),
                    trunc(l.principal * coalesce(p.late_fee_cap, 0), 2))
           THEN jsonb_build_object(
               'subscriber', l.subscriber_id, 'late_invoice', l.late_id, 'billed', l.billed,
               'said', l.accrued, 'owed_days', f.owed_days) END AS wrong
FROM (
    SELECT DISTINCT ON (subscriber_id, late_id) *
    FROM (
        SELECT subscriber_id, invoice_id, (basis ->> 'late_id')::bigint AS late_id,
               (basis ->> 'until')::timestamptz AS until, (basis ->> 'accrued')::numeric AS accrued,
               (basis ->> 'principal')::numeric AS principal,
               sum(gross) OVER (PARTITION BY subscriber_id, basis ->> 'late_id') AS billed
        FROM billing_invoiceline
        WHERE kind = 'late_fee' AND basis ->> 'late_id' IS NOT NULL
    ) said
    ORDER BY subscriber_id, late_id, until DESC, invoice_id DESC
) l
LEFT JOIN subscriptions_subscriber s ON s.id = l.subscriber_id
LEFT JOIN billing_invoice i ON i.subscriber_id = l.subscriber_id AND i.id = l.late_id
LEFT JOIN LATERAL (
    SELECT * FROM billing_dunningpolicy p
    WHERE p.operator_id = i.operator_id AND p.effective_from <= i.issued_at
    ORDER BY p.effective_from DESC
    LIMIT 1
) p ON true
CROSS JOIN LATERAL (
    SELECT coalesce(sum(greatest(l.principal - coalesce(paid.amount, 0), 0)), 0) AS owed_days
    FROM generate_series(
        coalesce(p.late_fee_grace_days, 0) + 1,
        floor(extract(epoch FROM l.until - i.due_at) / 86400)::int) day
    CROSS JOIN LATERAL (SELECT i.due_at + day * interval '24 hours' AS ends) d
    CROSS JOIN LATERAL (
        SELECT sum(amount) AS amount FROM billing_payment m
        WHERE m.subscriber_id = i.subscriber_id AND m.invoice_id = i.id AND m.at <= d.ends
    ) paid
    WHERE NOT EXISTS (
        SELECT FROM billing_dunningstop h
        WHERE h.operator_id = i.operator_id
          AND (h.subscriber_id IS NULL OR h.subscriber_id = i.subscriber_id)
          AND (h.invoice_id IS NULL OR h.invoice_id = i.id)
          AND h.starts_at <= d.ends AND (h.ends_at IS NULL OR d.ends < h.ends_at))
      AND NOT EXISTS (
        SELECT FROM billing_posting w
        WHERE w.operator_id = i.operator_id AND w.key = 'write_off:' || i.id AND w.at <= d.ends)
) f
"""

# A case is where its events led it, reminders nowhere, and is about an invoice that is owed.
_DUNNING_CASE = """
SELECT coalesce(c.operator_id, e.operator_id), CASE
           WHEN c.operator_id IS NULL OR c.events <> coalesce(e.many, 0)
             OR e.last_nr <> e.many
             OR c.state <> coalesce(nullif(e.state, 'restored'), CASE e.state
                    WHEN 'restored' THEN 'overdue' ELSE 'settled' END)
             OR c.state <> 'settled' AND (i.state IS DISTINCT FROM 'open' OR i.due_at <> c.since)
           THEN jsonb_build_object(
               'subscriber', coalesce(c.subscriber_id, e.subscriber_id), 'state', c.state,
               'events_say', e.state, 'invoice', c.invoice_id, 'is', i.state) END AS wrong
FROM billing_dunningcase c
FULL JOIN (
    SELECT subscriber_id, currency, min(operator_id) AS operator_id, count(*) AS many,
           max(nr) AS last_nr,
           (array_agg(kind ORDER BY nr DESC) FILTER (
               WHERE kind IN ('suspended', 'terminated', 'settled', 'restored')
                  OR kind = 'overdue' AND coalesce(before, 'settled') = 'settled'))[1] AS state
    FROM (
        SELECT *, lag(kind) OVER (PARTITION BY subscriber_id, currency, kind = 'reminder'
                                  ORDER BY nr) AS before
        FROM billing_dunningevent
    ) steps
    GROUP BY 1, 2
) e ON e.subscriber_id = c.subscriber_id AND e.currency = c.currency
LEFT JOIN billing_invoice i ON i.subscriber_id = c.subscriber_id AND i.id = c.invoice_id
"""

# A line is suspended for what it owes if and only if a case says so, unless another reason held it.
_SUSPENDED_FOR_DEBT = """
SELECT coalesce(c.operator_id, p.operator_id), CASE
           WHEN c.subscriber_id IS NULL AND s.reason = 'unpaid invoices'
             OR c.subscriber_id IS NOT NULL AND s.ends_at IS NOT NULL
                AND s.reason = 'unpaid invoices'
             OR c.subscriber_id IS NOT NULL AND s.subscriber_id IS NULL
           THEN jsonb_build_object(
               'subscriber', subscriber_id, 'suspended_at', s.starts_at, 'ended_at', s.ends_at,
               'case', c.state) END AS wrong
FROM (
    SELECT DISTINCT ON (subscriber_id) * FROM billing_dunningcase
    WHERE state IN ('suspended', 'terminated')
    ORDER BY subscriber_id
) c
FULL JOIN (
    SELECT DISTINCT ON (subscriber_id) * FROM subscriptions_suspension
    ORDER BY subscriber_id, starts_at DESC
) s USING (subscriber_id)
LEFT JOIN subscriptions_subscriber p ON p.id = s.subscriber_id
WHERE c.subscriber_id IS NOT NULL OR s.ends_at IS NULL
"""

# What is given up of an invoice is what was due on it, less what has come in since: when that is
# all, it is paid.
_WRITTEN_OFF = """
SELECT coalesce(i.operator_id, p.operator_id), CASE
           WHEN i.id IS NULL
             OR i.state = 'uncollectible' AND coalesce(p.amount, 0) <= 0
             OR p.amount <> i.gross - i.paid
             OR i.state <> CASE WHEN p.amount > 0 THEN 'uncollectible'
                                WHEN p.amount <= 0 THEN 'paid' ELSE i.state END
           THEN jsonb_build_object(
               'subscriber', i.subscriber_id, 'invoice', coalesce(i.id, p.invoice_id),
               'state', i.state, 'due', i.gross - i.paid, 'given_up', p.amount) END AS wrong
FROM billing_invoice i
FULL JOIN (
    SELECT p.operator_id, split_part(p.key, ':', 2)::bigint AS invoice_id, sum(e.amount) AS amount
    FROM billing_posting p
    JOIN billing_entry e ON e.posting_id = p.id
    JOIN billing_account a ON a.id = e.account_id AND a.code = 'write_off'
    WHERE p.kind IN ('write_off', 'recovery')
    GROUP BY 1, 2
) p ON p.invoice_id = i.id
"""

CHECKS = (
    Check("paid", "what is paid of an invoice = its payments and credits", _PAID),
    Check("payment_posted", "payments = money posted for them", _PAYMENT_POSTED),
    Check("late_fee", "late fees = rate x days x what was owed, capped", _LATE_FEE),
    Check("dunning_case", "a debt is where its steps led it", _DUNNING_CASE),
    Check("suspended_for_debt", "who is suspended for debts owes", _SUSPENDED_FOR_DEBT),
    Check("written_off", "what is given up = what was due less what came in", _WRITTEN_OFF),
)
