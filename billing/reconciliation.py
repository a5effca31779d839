"""Whether what is owed adds up, asked of the rows themselves: the checks of this room, run with
those below in one snapshot. None of the code that wrote the rows is used.

Amounts are checked against the plan's own price with SQL's arithmetic, not with `rating`.
"""

from __future__ import annotations

import datetime as dt

from billing.collecting.checks import CHECKS as COLLECTING_CHECKS
from billing.complaint_checks import CHECKS as COMPLAINT_CHECKS
from billing.correction_checks import CHECKS as CORRECTION_CHECKS
from billing.cost_checks import CHECKS as COST_CHECKS
from billing.debt_checks import CHECKS as DEBT_CHECKS
from billing.exports.checks import CHECKS as CHARGE_FILE_CHECKS
from billing.fapiao.checks import CHECKS as FAPIAO_CHECKS
from billing.handovers.checks import CHECKS as HANDOVER_CHECKS
from billing.orders.checks import CHECKS as ORDER_CHECKS
from billing.provider_books.checks import CHECKS as PROVIDER_BOOK_CHECKS
from billing.provider_checks import CHECKS as PROVIDER_CHECKS
from billing.refund_checks import CHECKS as REFUND_CHECKS
from billing.vouchers.checks import CHECKS as VOUCHER_CHECKS
from billing.wallet_checks import CHECKS as WALLET_CHECKS
from metering import reconciliation as below
from metering.family_checks import CHECKS as FAMILY_CHECKS
from metering.guard_checks import CHECKS as GUARD_CHECKS
from metering.reconciliation import Check, Report

# --- invoices -----------------------------------------------------------------------------------

_INVOICE_LINES = """
SELECT i.operator_id, CASE
           WHEN i.id IS NULL OR i.net <> coalesce(l.net, 0) OR i.tax <> coalesce(l.tax, 0)
             OR i.gross <> coalesce(l.gross, 0) OR l.wrong
           THEN jsonb_build_object(
               'subscriber', subscriber_id, 'invoice', invoice_id, 'number', i.number,
               'gross', i.gross, 'gross_of_lines', l.gross, 'tax', i.tax,
               'tax_of_lines', l.tax) END AS wrong
FROM (SELECT *, id AS invoice_id FROM billing_invoice) i
FULL JOIN (
    SELECT subscriber_id, invoice_id, sum(net) AS net, sum(tax) AS tax, sum(gross) AS gross,
           bool_or(net <> round(gross / (1 + tax_rate), 2) AND NOT basis ? 'credits'
                   OR gross <> net + tax) AS wrong
    FROM billing_invoiceline
    GROUP BY 1, 2
) l USING (subscriber_id, invoice_id)
"""

# All lines of a bucket together, for an adjustment is a difference. The key of a bucket that an
# upgrade brought names its plan. Where a half fen is exact,
# round() goes away from zero as the rule does: numeric, not float.
_BUCKET_PRICE = """
SELECT s.operator_id, CASE WHEN l.gross IS DISTINCT FROM CASE
               WHEN b.id IS NULL THEN NULL
               WHEN b.kind = 'gift' THEN 0
               WHEN b.kind = 'booster' THEN o.price
               WHEN b.grant_key LIKE 'blocks%%'
               THEN ceil(l.units / p.block_units) * p.block_price
               ELSE least(round(CASE p.tier_mode
                   WHEN 'graduated' THEN x.graduated WHEN 'volume' THEN l.units * x.volume
                   ELSE l.units * coalesce(p.price_per_million, 0) END / 1000000000, 2), p.cap)
               END
           THEN jsonb_build_object(
               'subscriber', l.subscriber_id, 'bucket', l.bucket_id, 'kind', b.kind,
               'units', l.units, 'gross', l.gross) END AS wrong
FROM (
    SELECT subscriber_id, bucket_id, sum(units) AS units, sum(gross) AS gross
    FROM billing_invoiceline WHERE bucket_id IS NOT NULL GROUP BY 1, 2
) l
LEFT JOIN subscriptions_subscriber s ON s.id = l.subscriber_id
LEFT JOIN subscriptions_bucket b ON b.subscriber_id = l.subscriber_id AND b.id = l.bucket_id
LEFT JOIN subscriptions_subscriptionperiod t
  ON t.subscriber_id = b.subscriber_id AND t.subscription_id = b.subscription_id
 AND t.starts_at = b.valid_from
LEFT JOIN subscriptions_plan p
  ON p.id = coalesce(nullif(split_part(split_part(b.grant_key, ':', 1), '@', 2), '')::bigint,
                     t.plan_id)
CROSS JOIN LATERAL (
    SELECT sum(t.price_per_million
               * greatest(least(l.units, coalesce(t.up_to, l.units)) - t.below, 0)) AS graduated,
           min(t.price_per_million) FILTER (
               WHERE t.below < l.units AND l.units <= coalesce(t.up_to, l.units)) AS volume
    FROM (
        SELECT t.*, coalesce(lag(t.up_to) OVER (ORDER BY t.position), 0) AS below
        FROM subscriptions_plantier t WHERE t.plan_id = p.id
    ) t
) x
LEFT JOIN subscriptions_booster o
  ON b.kind = 'booster' AND o.id::text = split_part(b.grant_key, ':', 2)
"""

# The fee of a whole period is the plan's price; of a part of a month, its days; of one that was to
# be paid before and was not, nothing.
_FEE_PRICE = """
SELECT i.operator_id, CASE WHEN coalesce(l.fee, -1) <> CASE
               WHEN e.plan_id IS NOT NULL AND e.paid_at IS NULL THEN 0
               WHEN p.cycle = 'calendar_month' AND p.first_month = 'by_day' THEN round(
                   p.price * (d.days - extract(day FROM d.start) + 1) / d.days, 2)
               ELSE p.price END
           THEN jsonb_build_object(
               'subscriber', i.subscriber_id, 'invoice', i.id, 'fee', l.fee,
               'price', p.price) END AS wrong
FROM billing_invoice i
JOIN subscriptions_operator o ON o.id = i.operator_id
LEFT JOIN subscriptions_plan p ON p.id = i.plan_id
LEFT JOIN subscriptions_expectedperiod e
  ON e.subscriber_id = i.subscriber_id AND e.subscription_id = i.subscription_id
 AND e.starts_at = i.period_start
LEFT JOIN (
    SELECT subscriber_id, invoice_id, sum(gross) AS fee FROM billing_invoiceline
    WHERE kind = 'fee' GROUP BY 1, 2
) l ON l.subscriber_id = i.subscriber_id AND l.invoice_id = i.id
CROSS JOIN LATERAL (
    SELECT i.period_start AT TIME ZONE o.time_zone AS start,
           extract(day FROM date_trunc('month', i.period_start AT TIME ZONE o.time_zone)
                            + interval '1 month - 1 day') AS days
) d
WHERE i.kind = 'period'
"""

# What plans differ by, for the days that an upgrade held: each rounded once.
_UPGRADE_PRICE = """
SELECT i.operator_id, CASE WHEN l.gross IS DISTINCT FROM g.gross THEN jsonb_build_object(
           'subscriber', subscriber_id, 'invoice', i.id, 'billed', l.gross,
           'should_be', g.gross) END AS wrong
FROM billing_invoice i
LEFT JOIN (
    SELECT subscriber_id, invoice_id AS id, sum(gross) AS gross FROM billing_invoiceline
    WHERE kind = 'upgrade' GROUP BY 1, 2
) l USING (subscriber_id, id)
LEFT JOIN (
    SELECT g.subscriber_id, g.subscription_id, g.period_start,
           sum(round((new.price - old.price) * g.days / 30, 2)) AS gross
    FROM subscriptions_upgrade g
    JOIN subscriptions_plan old ON old.id = g.old_plan_id
    JOIN subscriptions_plan new ON new.id = g.new_plan_id
    GROUP BY 1, 2, 3
) g USING (subscriber_id, subscription_id, period_start)
WHERE i.kind = 'period'
"""

# Who ended within a period gets back the share that the ending says, of what it came to.
_REFUND_PRICE = """
SELECT i.operator_id, CASE WHEN coalesce(l.refund, 0) <> -CASE n.refund
               WHEN 'full' THEN l.cost WHEN 'unused' THEN round(l.cost * n.unused / n.granted, 2)
               ELSE 0 END
           THEN jsonb_build_object(
               'subscriber', subscriber_id, 'invoice', i.id, 'refund', l.refund, 'of', l.cost,
               'unused', n.unused, 'granted', n.granted) END AS wrong
FROM billing_invoice i
JOIN (
    SELECT subscriber_id, invoice_id AS id, sum(gross) FILTER (WHERE kind = 'refund') AS refund,
           coalesce(sum(gross) FILTER (WHERE covers IN ('fee', 'upgrade')), 0) AS cost
    FROM (
        SELECT l.*, CASE l.kind WHEN 'discount' THEN o.kind ELSE l.kind END AS covers
        FROM billing_invoiceline l
        LEFT JOIN billing_invoiceline o
          ON l.kind = 'discount' AND o.subscriber_id = l.subscriber_id
         AND o.invoice_id = l.invoice_id AND o.nr = (l.basis ->> 'line')::int
    ) l
    GROUP BY 1, 2
) l USING (subscriber_id, id)
LEFT JOIN subscriptions_ending n USING (subscriber_id, subscription_id, period_start)
WHERE i.kind = 'period'
"""

# What a coupon takes off from each period that it lasts for; of several on one bill, each of what
# those before it left, only that they take off no more than is there.
_DISCOUNT_PRICE = """
WITH taken AS (
    SELECT subscriber_id, invoice_id, coalesce(basis ->> 'coupon', '') AS code, -sum(gross) AS off
    FROM billing_invoiceline
    WHERE kind = 'discount' AND NOT basis ? 'credits'
    GROUP BY 1, 2, 3
), lasting AS (
    SELECT i.subscriber_id, i.id AS invoice_id, c.code, c.percent, c.amount, c.price,
           count(*) OVER (PARTITION BY i.subscriber_id, i.id) AS many,
           coalesce((
               SELECT sum(x.gross) FROM billing_invoiceline x
               WHERE x.subscriber_id = i.subscriber_id AND x.invoice_id = i.id
                 AND x.kind = ANY(CASE c.covers
                     WHEN 'all' THEN ARRAY['fee', 'upgrade', 'overage', 'block', 'booster']
                     ELSE ARRAY['fee', 'upgrade'] END)), 0) AS there
    FROM billing_invoice i
    JOIN subscriptions_redemption r
      ON r.subscriber_id = i.subscriber_id AND r.subscription_id = i.subscription_id
     AND r.first_period <= i.period_start
    JOIN subscriptions_coupon c ON c.id = r.coupon_id
    WHERE i.kind = 'period' AND (c.periods IS NULL OR c.periods >= (
        SELECT count(*) FROM subscriptions_subscriptionperiod p
        WHERE p.subscriber_id = i.subscriber_id AND p.subscription_id = i.subscription_id
          AND p.starts_at >= r.first_period AND p.starts_at <= i.period_start))
)
SELECT i.operator_id, CASE
           WHEN l.many IS NULL OR coalesce(t.off, 0) NOT BETWEEN 0 AND l.there
             OR l.many = 1 AND coalesce(t.off, 0) <> CASE
               WHEN l.percent IS NOT NULL THEN round(l.there * l.percent / 100, 2)
               WHEN l.price IS NOT NULL THEN greatest(l.there - l.price, 0)
               ELSE least(l.there, l.amount) END
           THEN jsonb_build_object(
               'subscriber', subscriber_id, 'invoice', invoice_id, 'coupon', code,
               'taken_off', t.off, 'of', l.there) END AS wrong
FROM lasting l
FULL JOIN taken t USING (subscriber_id, invoice_id, code)
JOIN (SELECT *, id AS invoice_id FROM billing_invoice) i USING (subscriber_id, invoice_id)
"""

# A period that is marked as billed, and no other, has its invoice.
_PERIOD_INVOICE = """
SELECT coalesce(p.operator_id, i.operator_id), CASE
           WHEN p.operator_id IS NULL OR (p.closed_at IS NULL) <> (i.operator_id IS NULL)
             OR p.ends_at <> i.period_end OR p.plan_id <> i.plan_id
             OR p.operator_id <> i.operator_id
           THEN jsonb_build_object(
               'subscriber', subscriber_id, 'subscription', subscription_id, 'start', starts_at,
               'closed_at', p.closed_at, 'invoice', i.id, 'number', i.number) END AS wrong
FROM subscriptions_subscriptionperiod p
FULL JOIN (
    SELECT *, period_start AS starts_at FROM billing_invoice WHERE kind = 'period'
) i USING (subscriber_id, subscription_id, starts_at)
"""

# All that was drawn of the overflow buckets of a billed period is billed, there or by an
# adjustment since; but for what changed after the last bill, which the next one says.
_OVERAGE_BILLED = """
SELECT p.operator_id, CASE
           WHEN l.units IS DISTINCT FROM CASE WHEN l.first IS NULL THEN NULL ELSE b.used END
            AND NOT EXISTS (
                SELECT FROM subscriptions_bucketentry e
                WHERE e.subscriber_id = b.subscriber_id AND e.bucket_id = b.id
                  AND e.charged_at >= coalesce(l.last, p.closed_at))
             OR (l.first IS NULL AND b.used > 0 AND b.created_at < p.closed_at AND NOT EXISTS (
                SELECT FROM subscriptions_bucketentry e
                WHERE e.subscriber_id = b.subscriber_id AND e.bucket_id = b.id
                  AND e.charged_at >= p.closed_at))
           THEN jsonb_build_object(
               'subscriber', b.subscriber_id, 'bucket', b.id, 'drawn', b.used,
               'billed', l.units) END AS wrong
FROM subscriptions_bucket b
JOIN subscriptions_subscriptionperiod p
  ON p.subscriber_id = b.subscriber_id AND p.subscription_id = b.subscription_id
 AND p.closed_at IS NOT NULL
 AND (p.starts_at = b.valid_from OR split_part(b.grant_key, ':', 1) LIKE '%%@%%'
      AND p.starts_at < b.valid_from AND b.valid_from < p.ends_at)
LEFT JOIN (
    SELECT l.subscriber_id, l.bucket_id, sum(l.units) AS units, min(i.issued_at) AS first,
           max(i.issued_at) AS last
    FROM billing_invoiceline l
    JOIN billing_invoice i ON i.subscriber_id = l.subscriber_id AND i.id = l.invoice_id
    WHERE l.bucket_id IS NOT NULL
    GROUP BY 1, 2
) l ON l.subscriber_id = b.subscriber_id AND l.bucket_id = b.id
WHERE b.kind = 'overage' AND b.created_at >= %(journal_since)s
"""

# A booster or gift is named by an invoice once its subscriber had a period closed that ended later.
_SALE_BILLED = """
SELECT s.operator_id, CASE WHEN l.bucket_id IS NULL THEN jsonb_build_object(
           'subscriber', b.subscriber_id, 'bucket', b.id, 'kind', b.kind,
           'sold_at', b.valid_from) END AS wrong
FROM subscriptions_bucket b
JOIN subscriptions_subscriber s ON s.id = b.subscriber_id
JOIN (
    SELECT subscriber_id, max(period_end) AS billed_until FROM billing_invoice
    WHERE kind = 'period' GROUP BY 1
) i ON i.subscriber_id = b.subscriber_id AND i.billed_until > b.valid_from
LEFT JOIN billing_invoiceline l
  ON l.subscriber_id = b.subscriber_id AND l.bucket_id = b.id AND l.kind = b.kind
WHERE b.kind IN ('booster', 'gift')
"""

_NUMBERS = """
SELECT coalesce(n.operator_id, i.operator_id), CASE
           WHEN n.operator_id IS NULL OR i.operator_id IS NULL OR n.operator_id <> i.operator_id
             OR n.nr <> n.place OR n.nr > coalesce(c.last, 0) OR n.final <> c.last
             OR i.number NOT LIKE '%%-' || n.year || '-' || lpad(n.nr::text, 8, '0')
             OR extract(year FROM i.issued_at AT TIME ZONE o.time_zone) <> n.year
             OR i.issued_at < n.issued_before
           THEN jsonb_build_object(
               'year', n.year, 'nr', n.nr, 'place', n.place, 'last', c.last,
               'number', i.number, 'subscriber', subscriber_id, 'invoice', invoice_id) END AS wrong
FROM (
    SELECT n.*, row_number() OVER w AS place, max(n.nr) OVER (PARTITION BY n.operator_id, n.year)
               AS final, lag(i.issued_at) OVER w AS issued_before
    FROM billing_invoicenumber n
    LEFT JOIN billing_invoice i ON i.subscriber_id = n.subscriber_id AND i.id = n.invoice_id
    WINDOW w AS (PARTITION BY n.operator_id, n.year ORDER BY n.nr)
) n
FULL JOIN (
    SELECT *, id AS invoice_id FROM billing_invoice WHERE number IS NOT NULL
) i USING (subscriber_id, invoice_id)
LEFT JOIN billing_invoicecounter c ON c.operator_id = n.operator_id AND c.year = n.year
LEFT JOIN subscriptions_operator o ON o.id = i.operator_id
"""

# --- the ledger ---------------------------------------------------------------------------------

_POSTING_ZERO = """
SELECT p.operator_id, CASE
           WHEN e.amount IS DISTINCT FROM 0 OR e.many IS DISTINCT FROM p.entries::bigint
             OR e.foreign_account
           THEN jsonb_build_object(
               'posting', coalesce(p.id, e.posting_id), 'key', p.key, 'sum', e.amount,
               'entries', e.many, 'said', p.entries) END AS wrong
FROM billing_posting p
FULL JOIN (
    SELECT e.posting_id, sum(e.amount) AS amount, count(*) AS many,
           bool_or(a.id IS NULL OR a.operator_id <> q.operator_id OR a.currency <> q.currency)
               AS foreign_account
    FROM billing_entry e
    LEFT JOIN billing_account a ON a.id = e.account_id
    LEFT JOIN billing_posting q ON q.id = e.posting_id
    GROUP BY 1
) e ON e.posting_id = p.id
"""

# By subscriber: what its issued invoices say it owes in all, and what was posted as owed for them.
_RECEIVABLES = """
SELECT s.operator_id, CASE WHEN g.excess <> 0 THEN jsonb_build_object(
           'subscriber', g.subscriber_id, 'invoices_minus_receivables', g.excess) END AS wrong
FROM (
    SELECT subscriber_id, sum(amount) AS excess
    FROM (
        SELECT subscriber_id, gross AS amount FROM billing_invoice
        WHERE number IS NOT NULL AND state <> 'void'
        UNION ALL
        SELECT e.subscriber_id, -e.amount
        FROM billing_entry e
        JOIN billing_account a ON a.id = e.account_id AND a.code = 'receivable'
        JOIN billing_posting p
          ON p.id = e.posting_id AND p.kind IN ('invoice', 'credit_note', 'void')
    ) u
    GROUP BY 1
) g
LEFT JOIN subscriptions_subscriber s ON s.id = g.subscriber_id
"""

# By subscriber and currency: what is still due on invoices and credit notes is what it owes.
_DUE = """
SELECT s.operator_id, CASE WHEN g.excess <> 0 THEN jsonb_build_object(
           'subscriber', g.subscriber_id, 'currency', g.currency,
           'due_minus_receivable', g.excess) END AS wrong
FROM (
    SELECT subscriber_id, currency, sum(amount) AS excess
    FROM (
        SELECT subscriber_id, currency, gross - paid AS amount FROM billing_invoice
        WHERE number IS NOT NULL AND state NOT IN ('void', 'uncollectible')
        UNION ALL
        SELECT e.subscriber_id, a.currency, -e.amount
        FROM billing_entry e
        JOIN billing_account a ON a.id = e.account_id AND a.code = 'receivable'
    ) u
    GROUP BY 1, 2
) g
LEFT JOIN subscriptions_subscriber s ON s.id = g.subscriber_id
"""

# Credit notes take back of lines of their original, at their rates, no more than is there, in net
# and in tax; all of a line to the fen, and of a part what its gross makes within what rounding
# moves (a fen for each line of a rate).
_CREDITED = """
SELECT o.operator_id, CASE
           WHEN o.id IS NULL OR o.kind = 'credit_note' OR l.gross IS NULL OR l.rates > 1
             OR l.rate <> l.credited_rate
             OR c.net NOT BETWEEN least(-l.net, 0) AND greatest(-l.net, 0)
             OR c.tax NOT BETWEEN least(-l.tax, 0) AND greatest(-l.tax, 0)
             OR c.gross = -l.gross AND c.net <> -l.net
             OR abs(c.net - round(c.gross / (1 + l.rate), 2)) > 0.01 * (
                 SELECT count(*) FROM billing_invoiceline m
                 WHERE m.subscriber_id = c.subscriber_id AND m.invoice_id = c.original_id)
           THEN jsonb_build_object(
               'subscriber', c.subscriber_id, 'original', c.original_id, 'line', c.line,
               'gross', l.gross, 'credited', l.credited, 'net', l.net,
               'credited_net', c.net) END AS wrong
FROM (
    SELECT n.subscriber_id, n.original_id, (x.basis ->> 'line')::int AS line, sum(x.gross) AS gross,
           sum(x.net) AS net, sum(x.tax) AS tax, min(x.tax_rate) AS rate,
           count(DISTINCT x.tax_rate) AS rates
    FROM billing_invoice n
    JOIN billing_invoiceline x ON x.subscriber_id = n.subscriber_id AND x.invoice_id = n.id
    WHERE n.kind = 'credit_note' AND x.basis ? 'line'
    GROUP BY 1, 2, 3
) c
LEFT JOIN billing_invoice o ON o.subscriber_id = c.subscriber_id AND o.id = c.original_id
LEFT JOIN LATERAL (
    SELECT m.gross, m.net, m.tax, m.tax_rate AS rate, c.gross AS credited,
           c.rate AS credited_rate, c.rates
    FROM billing_invoiceline m
    WHERE m.subscriber_id = c.subscriber_id AND m.invoice_id = c.original_id AND m.nr = c.line
) l ON true
"""

# And of a tax rate no more than the invoice has of it.
_CREDITED_RATE = """
SELECT o.operator_id, CASE WHEN -c.gross > greatest(l.gross, 0) THEN jsonb_build_object(
           'subscriber', c.subscriber_id, 'original', c.original_id, 'rate', c.rate,
           'gross', l.gross, 'credited', c.gross) END AS wrong
FROM (
    SELECT n.subscriber_id, n.original_id, x.tax_rate AS rate, sum(x.gross) AS gross
    FROM billing_invoice n
    JOIN billing_invoiceline x ON x.subscriber_id = n.subscriber_id AND x.invoice_id = n.id
    WHERE n.kind = 'credit_note' AND x.basis ? 'line'
    GROUP BY 1, 2, 3
) c
JOIN billing_invoice o ON o.subscriber_id = c.subscriber_id AND o.id = c.original_id
CROSS JOIN LATERAL (
    SELECT sum(m.gross) AS gross
    FROM billing_invoiceline m
    WHERE m.subscriber_id = c.subscriber_id AND m.invoice_id = c.original_id
      AND m.tax_rate = c.rate
) l
"""

# By tax rate: the tax of all invoices is the tax that was posted as owed.
_TAX_POSTED = """
SELECT operator_id, CASE WHEN sum(amount) <> 0 THEN jsonb_build_object(
           'rate', rate, 'tax_of_invoices_minus_posted', sum(amount)) END AS wrong
FROM (
    SELECT i.operator_id, l.tax_rate AS rate, sum(l.tax) AS amount
    FROM billing_invoiceline l
    JOIN billing_invoice i
      ON i.subscriber_id = l.subscriber_id AND i.id = l.invoice_id AND i.number IS NOT NULL
     AND i.state <> 'void'
    GROUP BY 1, 2
    UNION ALL
    SELECT a.operator_id, split_part(a.code, ':', 2)::numeric, sum(e.amount)
    FROM billing_entry e
    JOIN billing_account a ON a.id = e.account_id AND a.code LIKE 'vat:%%'
    JOIN billing_posting p
      ON p.id = e.posting_id AND p.kind IN ('invoice', 'credit_note', 'void')
    GROUP BY 1, 2
) u
GROUP BY operator_id, rate
"""

# --- what is sold in advance ---------------------------------------------------------------------

# By account, and by subscriber where it is owed: what the rows say is what was posted, in all and
# by bills alone.
_DEFERRED_POSTED = """
SELECT operator_id, CASE WHEN sum(amount) <> 0 THEN jsonb_build_object(
           'account', account, 'rate', rate, 'currency', currency, 'subscriber', subscriber_id,
           'rows_minus_posted', sum(amount)) END AS wrong
FROM (
    SELECT operator_id, 'deferred:' || code AS account, tax_rate AS rate, currency, subscriber_id,
           net - credited - earned - broken AS amount
    FROM billing_deferral
    UNION ALL
    SELECT operator_id, 'breakage:' || code, tax_rate, currency, NULL, broken
    FROM billing_deferral
    UNION ALL
    SELECT operator_id, 'sold deferred:' || code, tax_rate, currency, subscriber_id, net
    FROM billing_deferral
    UNION ALL
    SELECT a.operator_id, g.word || regexp_replace(a.code, ':[0-9.]+$', ''),
           substring(a.code FROM '[0-9.]+$')::numeric, a.currency, e.subscriber_id, e.amount
    FROM billing_account a
    JOIN billing_entry e ON e.account_id = a.id
    JOIN billing_posting p ON p.id = e.posting_id
    JOIN (VALUES ('', NULL), ('sold ', 'invoice')) g (word, kind)
      ON g.kind IS NULL OR (p.kind = g.kind AND a.code LIKE 'deferred:%%')
    WHERE a.code LIKE 'deferred:%%' OR a.code LIKE 'breakage:%%'
) u
GROUP BY operator_id, account, rate, currency, subscriber_id
"""

# As sold: the net price of the line, less discounts of it, and less what credit notes took back
# (where there is a discount, they took it from both lines).
_DEFERRED_SOLD = """
SELECT d.operator_id, CASE
           WHEN d.net IS DISTINCT FROM l.net + l.discounts
             OR (l.discounts = 0 AND d.credited IS DISTINCT FROM CASE i.state
                 WHEN 'void' THEN d.net ELSE least(d.net, c.credited) END)
             OR d.granted <> l.units OR d.tax_rate <> l.tax_rate OR d.currency <> i.currency
             OR d.operator_id <> i.operator_id
           THEN jsonb_build_object(
               'subscriber', d.subscriber_id, 'bucket', d.bucket_id, 'net', d.net,
               'net_of_lines', l.net + l.discounts, 'credited', d.credited,
               'credited_by_notes', c.credited) END AS wrong
FROM billing_deferral d
LEFT JOIN billing_invoice i ON i.subscriber_id = d.subscriber_id AND i.id = d.invoice_id
LEFT JOIN LATERAL (
    SELECT l.*, (
        SELECT coalesce(sum(o.net), 0) FROM billing_invoiceline o
        WHERE o.subscriber_id = l.subscriber_id AND o.invoice_id = l.invoice_id
          AND o.kind = 'discount' AND (o.basis ->> 'line')::int = l.nr) AS discounts
    FROM billing_invoiceline l
    WHERE l.subscriber_id = d.subscriber_id AND l.invoice_id = d.invoice_id
      AND l.bucket_id = d.bucket_id
) l ON true
LEFT JOIN LATERAL (
    SELECT -coalesce(sum(x.net), 0) AS credited
    FROM billing_invoice n
    JOIN billing_invoiceline x ON x.subscriber_id = n.subscriber_id AND x.invoice_id = n.id
    WHERE n.subscriber_id = d.subscriber_id AND n.original_id = d.invoice_id
      AND (x.basis ->> 'line')::int = l.nr
) c ON true
"""

# By the journal, but for what moved after the last look (ten minutes more: a charge that began
# before it may have been committed after it).
_DEFERRED_EARNED = """
SELECT d.operator_id, CASE
           WHEN b.id IS NULL OR d.granted <> b.granted
             OR d.earned <> least(
                    div(200 * d.net * d.burned + d.granted, 2 * d.granted) / 100,
                    d.net - d.credited)
             OR d.ended AND b.valid_until > greatest(i.issued_at, w.swept_at)
             OR b.created_at >= %(journal_since)s AND (e.last IS NULL OR e.last < w.looked)
                AND d.burned <> coalesce(e.burned, 0)
             OR NOT d.ended AND i.issued_at < w.looked AND b.valid_until + o.late_grace < w.looked
           THEN jsonb_build_object(
               'subscriber', d.subscriber_id, 'bucket', d.bucket_id, 'net', d.net,
               'credited', d.credited, 'granted', d.granted, 'burned', d.burned,
               'burned_by_journal', e.burned, 'earned', d.earned, 'broken', d.broken,
               'ended', d.ended) END AS wrong
FROM billing_deferral d
JOIN subscriptions_operator o ON o.id = d.operator_id
LEFT JOIN (
    SELECT operator_id, swept_at, swept_at - interval '10 minutes' AS looked
    FROM billing_deferralsweep
) w ON w.operator_id = d.operator_id
LEFT JOIN billing_invoice i ON i.subscriber_id = d.subscriber_id AND i.id = d.invoice_id
LEFT JOIN subscriptions_bucket b ON b.subscriber_id = d.subscriber_id AND b.id = d.bucket_id
LEFT JOIN (
    SELECT e.subscriber_id, e.bucket_id, sum(e.units)::bigint AS burned, max(e.charged_at) AS last
    FROM billing_deferral d
    JOIN subscriptions_bucketentry e
      ON e.subscriber_id = d.subscriber_id AND e.bucket_id = d.bucket_id
    WHERE e.kind IN (%(usage)s, %(reversal)s, %(shared)s, %(unshared)s)
    GROUP BY 1, 2
) e ON e.subscriber_id = d.subscriber_id AND e.bucket_id = d.bucket_id
"""

CHECKS = (
    Check("invoice_lines", "an invoice = the sum of its lines, each taxed", _INVOICE_LINES),
    Check("fee_price", "a fee is the plan's price for its days", _FEE_PRICE),
    Check("upgrade_price", "an upgrade costs what the plans differ by", _UPGRADE_PRICE),
    Check("discount_price", "a coupon takes off what it says", _DISCOUNT_PRICE),
    Check("refund_price", "a refund is the share that the ending says", _REFUND_PRICE),
    Check("bucket_price", "what was used and sold costs what its plan says", _BUCKET_PRICE),
    Check("period_invoice", "a closed period has one invoice, others none", _PERIOD_INVOICE),
    Check("overage_billed", "overage billed = overage drawn", _OVERAGE_BILLED),
    Check("sale_billed", "every booster and gift is on a bill", _SALE_BILLED),
    Check("numbers", "invoice numbers have no gap and are in order", _NUMBERS),
    Check("posting_zero", "every posting adds up to zero", _POSTING_ZERO),
    Check("receivables", "invoices = receivables posted for them", _RECEIVABLES),
    Check("due", "what is due on invoices = what is owed in the ledger", _DUE),
    Check("credited", "a credit note takes back what its original says", _CREDITED),
    Check("credited_rate", "credit notes take back no more of a tax rate", _CREDITED_RATE),
    Check("tax_posted", "tax of invoices = tax posted", _TAX_POSTED),
    Check("deferred_sold", "what is deferred = what was sold in advance", _DEFERRED_SOLD),
    Check("deferred_earned", "what is earned = the share that is burned", _DEFERRED_EARNED),
    Check("deferred_posted", "deferred and broken = what was posted as such", _DEFERRED_POSTED),
    *CORRECTION_CHECKS,
    *CHARGE_FILE_CHECKS,
    *COST_CHECKS,
    *DEBT_CHECKS,
    *FAMILY_CHECKS,
    *FAPIAO_CHECKS,
    *ORDER_CHECKS,
    *HANDOVER_CHECKS,
    *VOUCHER_CHECKS,
    *COLLECTING_CHECKS,
    *COMPLAINT_CHECKS,
    *REFUND_CHECKS,
    *WALLET_CHECKS,
    *PROVIDER_BOOK_CHECKS,
    *PROVIDER_CHECKS,
    *GUARD_CHECKS,
)


def reconcile(*, at: dt.datetime, operator_code: str | None = None) -> Report:
    """Check every invariant of all rooms in one snapshot. Raises Operator.DoesNotExist."""
    return below.reconcile(at=at, operator_code=operator_code, more=CHECKS)


def check_all(*, at: dt.datetime, operator_code: str | None = None) -> Report:
    """`reconcile` inside the caller's transaction, which is to be one snapshot."""
    return below.check_all(at=at, operator_code=operator_code, more=CHECKS)
