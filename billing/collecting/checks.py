"""Whether what is collected by itself adds up: checks of `reconcile`, not by the writer's path."""

from __future__ import annotations

from metering.reconciliation import Check

# A case says what became of its order or invoice, and its history ends where it is.
_CASES = """
SELECT c.operator_id, CASE
           WHEN c.operator_id IS NULL OR s.steps IS DISTINCT FROM nullif(c.steps, 0)::bigint
             OR s.last <> s.steps
             OR CASE c.state
                    WHEN 'running' THEN s.ends <> 0 OR c.next_at IS NULL
                    ELSE s.ends IS DISTINCT FROM 1 OR s.ended <> c.state END
             OR c.kind = 'order' AND (
                    o.id IS NULL OR o.kind <> 'period' OR o.operator_id <> c.operator_id
                    OR c.state = 'collected' AND o.paid_at IS NULL
                    OR c.state IN ('stopped', 'gave_up') AND o.paid_at < s.at)
             OR c.kind = 'invoice' AND (
                    i.id IS NULL OR c.state = 'collected' AND i.state NOT IN ('paid', 'open'))
           THEN jsonb_build_object(
               'subscriber', coalesce(c.subscriber_id, s.subscriber_id),
               'about', coalesce(c.about, s.about), 'state', c.state, 'steps', c.steps,
               'history', s.steps, 'ended', s.ended) END AS wrong
FROM billing_collectioncase c
FULL JOIN (
    SELECT subscriber_id, case_kind AS kind, about, count(*) AS steps, max(nr) AS last,
           count(*) FILTER (WHERE kind IN ('collected', 'gave_up', 'stopped')) AS ends,
           (array_agg(kind ORDER BY nr DESC))[1] AS ended, max(at) AS at
    FROM billing_collectionstep GROUP BY 1, 2, 3
) s ON s.subscriber_id = c.subscriber_id AND s.kind = c.kind AND s.about = c.about
LEFT JOIN billing_order o ON c.kind = 'order' AND o.subscriber_id = c.subscriber_id
  AND o.id = c.about
LEFT JOIN billing_invoice i ON c.kind = 'invoice' AND i.subscriber_id = c.subscriber_id
  AND i.id = c.about
"""

# Nothing was tried that nobody had agreed to at that moment.
_AGREED = """
SELECT c.operator_id, CASE WHEN NOT EXISTS (
               SELECT FROM billing_consent a
               WHERE a.subscriber_id = s.subscriber_id AND a.kind = 'auto_renew'
                 AND a.given_at <= s.at AND coalesce(a.withdrawn_at >= s.at, true)
                 AND (a.subscription_id IS NULL
                      OR a.subscription_id = coalesce(o.subscription_id, i.subscription_id)))
           THEN jsonb_build_object(
               'subscriber', s.subscriber_id, 'kind', s.case_kind, 'about', s.about, 'step', s.nr,
               'at', s.at) END AS wrong
FROM billing_collectionstep s
LEFT JOIN billing_collectioncase c ON c.subscriber_id = s.subscriber_id AND c.kind = s.case_kind
  AND c.about = s.about
LEFT JOIN billing_order o ON s.case_kind = 'order' AND o.subscriber_id = s.subscriber_id
  AND o.id = s.about
LEFT JOIN billing_invoice i ON s.case_kind = 'invoice' AND i.subscriber_id = s.subscriber_id
  AND i.id = s.about
WHERE s.kind = 'tried'
"""

# What the phone bill carries paid an order once, with its subscriber's consent.
_PHONE_BILLS = """
SELECT coalesce(c.operator_id, o.operator_id), CASE
           WHEN c.amount IS DISTINCT FROM o.amount OR c.operator_id <> o.operator_id
             OR c.at <> o.paid_at OR c.currency <> o.currency
             OR a.amount <> c.amount OR a.kind = 'rejected' AND a.unnamed > o.refunded
             OR NOT EXISTS (
                SELECT FROM billing_consent s
                WHERE s.subscriber_id = c.subscriber_id AND s.kind = 'phone_bill'
                  AND s.given_at <= c.at AND coalesce(s.withdrawn_at >= c.at, true))
           THEN jsonb_build_object(
               'subscriber', coalesce(c.subscriber_id, o.subscriber_id), 'order', o.number,
               'carried', c.amount,
               'paid', o.amount, 'answered', a.amount) END AS wrong
FROM billing_phonebillcharge c
FULL JOIN (
    SELECT * FROM billing_order WHERE way = 'phone_bill' AND paid_at IS NOT NULL
) o ON o.subscriber_id = c.subscriber_id AND o.id = c.order_id
LEFT JOIN billing_phonebillanswer a
  ON a.subscriber_id = c.subscriber_id AND a.order_id = c.order_id
"""

# By subscriber: what the carrier owes is what it was told and has not answered.
_CARRIER = """
SELECT operator_id, CASE WHEN sum(amount) <> 0 THEN jsonb_build_object(
           'subscriber', subscriber_id, 'currency', currency, 'carried_minus_ledger', sum(amount))
           END AS wrong
FROM (
    SELECT c.operator_id, c.subscriber_id, c.currency,
           CASE WHEN a.order_id IS NULL THEN c.amount ELSE 0 END AS amount
    FROM billing_phonebillcharge c
    LEFT JOIN billing_phonebillanswer a
      ON a.subscriber_id = c.subscriber_id AND a.order_id = c.order_id
    UNION ALL
    SELECT a.operator_id, e.subscriber_id, a.currency, -e.amount
    FROM billing_account a JOIN billing_entry e ON e.account_id = a.id WHERE a.code = 'carrier'
) u
GROUP BY operator_id, subscriber_id, currency
"""

CHECKS = (
    Check("collections", "what was collected is paid, and each case ends where it says", _CASES),
    Check("collected_by_consent", "nothing was tried without a consent", _AGREED),
    Check("phone_bills", "what the phone bill carries paid an order once", _PHONE_BILLS),
    Check("carrier", "what the carrier owes = what it was told and has not answered", _CARRIER),
)
