"""Whether what providers took is in the books: checks of `reconcile`, by the ledger's side."""

from __future__ import annotations

from metering.reconciliation import Check

# Money that bought something, or is in a wallet, was debited once to what its provider holds; what
# is unclear was not.
_PAYMENTS = """
SELECT p.operator_id, CASE
           WHEN p.became = 'granted' AND (
                    o.paid_at IS NULL OR o.way <> p.way OR o.amount <> p.amount
                    OR o.currency <> p.currency OR i.nr IS NULL OR c.amount <> p.amount)
             OR p.became = 'wallet' AND (m.amount IS NULL OR m.amount <> p.amount)
             OR (p.became IN ('granted', 'wallet')) <> (c.amount IS NOT NULL)
             OR c.amount <> p.amount
             OR (p.became IN ('unclear', 'returned', 'settled')
                 OR p.became = 'wallet' AND t.state IS NOT NULL)
                <> (t.state IS NOT NULL)
             OR (p.became = 'unclear') <> coalesce(t.state IN ('open', 'returning'), false)
           THEN jsonb_build_object(
               'reference', p.reference, 'became', p.became, 'amount', p.amount,
               'order', o.number, 'state', o.state, 'posted', c.amount, 'in_wallet', m.amount,
               'task', t.state) END AS wrong
FROM billing_providerpayment p
JOIN billing_provideraccount a ON a.id = p.account_id
LEFT JOIN billing_order o ON o.subscriber_id = p.subscriber_id AND o.id = p.order_id
LEFT JOIN billing_paymentintent i
  ON i.subscriber_id = p.subscriber_id AND i.order_id = p.order_id AND i.key = p.key
 AND i.state = 'succeeded' AND i.account_id = p.account_id AND i.reference = p.reference
-- Why another amount was told, too, is asked of money that has its place.
LEFT JOIN billing_paymenttask t ON t.payment_id = p.id AND t.cause <> 'two_amounts'
CROSS JOIN LATERAL (
    SELECT sum(m.amount) AS amount FROM billing_walletmovement m
    WHERE m.subscriber_id = p.subscriber_id AND m.currency = p.currency
      AND m.key = 'provider:' || p.id
) m
CROSS JOIN LATERAL (
    SELECT sum(e.amount) AS amount
    FROM billing_posting g
    JOIN billing_entry e ON e.posting_id = g.id
    JOIN billing_account c ON c.id = e.account_id AND c.code = 'cash:' || a.provider
    WHERE g.operator_id = p.operator_id AND g.key = CASE
        WHEN p.became <> 'granted' THEN 'provider:' || p.id
        WHEN o.kind = 'invoice' THEN 'payment:order:' || o.number
        ELSE 'order:' || o.id END
) c
"""

# And the other way round: whatever a provider is said to hold, it told us of.
_HELD = """
SELECT g.operator_id, CASE WHEN count(p.id) <> 1
           THEN jsonb_build_object('posting', g.key, 'payments', count(p.id)) END AS wrong
FROM billing_posting g
JOIN billing_entry e ON e.posting_id = g.id AND e.amount > 0
JOIN billing_account c ON c.id = e.account_id AND c.code IN ('cash:stripe', 'cash:sandbox')
LEFT JOIN billing_order o ON o.operator_id = g.operator_id
 AND (g.key = 'order:' || o.id OR g.key = 'payment:order:' || o.number)
LEFT JOIN billing_providerpayment p ON p.operator_id = g.operator_id AND (
    p.became = 'wallet' AND g.key = 'provider:' || p.id
    OR p.became = 'granted' AND p.subscriber_id = o.subscriber_id AND p.order_id = o.id)
WHERE g.kind IN ('order', 'payment', 'top_up')
GROUP BY g.operator_id, g.id, g.key
"""

CHECKS = (
    Check("provider_payments", "what a provider took became one thing", _PAYMENTS),
    Check("provider_money", "what a provider holds it told us of", _HELD),
)
