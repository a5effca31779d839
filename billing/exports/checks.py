"""Whether the charge files add up: checks of `reconcile`, by other statements than the writer's."""

from __future__ import annotations

from metering.reconciliation import Check

_FILES = """
SELECT coalesce(f.operator_id, l.operator_id), CASE
           WHEN f.place IS DISTINCT FROM f.sequence::bigint OR f.count IS DISTINCT FROM l.count
             OR l.last <> l.count OR f.total <> l.total OR f.charges <> l.charges
           THEN jsonb_build_object(
               'sequence', sequence, 'place', f.place, 'lines', l.count, 'says', f.count,
               'sum_of_lines', l.total, 'total', f.total) END AS wrong
FROM (
    SELECT *, row_number() OVER (PARTITION BY operator_id ORDER BY sequence) AS place
    FROM billing_chargefile
) f
FULL JOIN (
    SELECT operator_id, sequence, count(*) AS count, max(nr) AS last, sum(amount) AS total,
           sum(greatest(amount, 0)) AS charges
    FROM (
        SELECT operator_id, sequence, nr, amount FROM billing_chargeline
        UNION ALL
        SELECT operator_id, sequence, nr, amount FROM billing_phonebillcharge
        WHERE sequence IS NOT NULL
    ) l
    GROUP BY 1, 2
) l USING (operator_id, sequence)
"""

_LINES = """
SELECT l.operator_id, CASE
           WHEN i.id IS NULL OR i.number IS NULL OR i.operator_id <> l.operator_id
             OR i.currency <> f.currency
             OR l.kind = 'charge' AND i.kind = 'credit_note'
             OR l.kind = 'credit' AND i.kind <> 'credit_note'
             OR l.kind <> 'reversal'
                AND (sign(l.amount) <> sign(i.gross) OR abs(l.amount) > abs(i.gross))
             OR l.kind = 'reversal' AND CASE
                    WHEN i.state = 'void' THEN l.amount IS DISTINCT FROM -c.amount
                    ELSE c.amount IS NULL OR w.given_up IS NULL OR -l.amount > c.amount
                      OR -l.amount NOT BETWEEN w.given_up - w.back_by_then
                                           AND w.given_up - w.back_before END
           THEN jsonb_build_object(
               'sequence', l.sequence, 'nr', l.nr, 'kind', l.kind, 'number', i.number,
               'amount', l.amount, 'gross', i.gross) END AS wrong
FROM billing_chargeline l
LEFT JOIN billing_chargefile f ON f.operator_id = l.operator_id AND f.sequence = l.sequence
LEFT JOIN billing_invoice i ON i.subscriber_id = l.subscriber_id AND i.id = l.invoice_id
LEFT JOIN billing_chargeline c
  ON c.subscriber_id = l.subscriber_id AND c.invoice_id = l.invoice_id AND c.kind = 'charge'
LEFT JOIN LATERAL (
    SELECT sum(e.amount) FILTER (WHERE p.kind = 'write_off') AS given_up,
           coalesce(-sum(e.amount) FILTER (WHERE p.kind = 'recovery' AND p.at <= f.made_at), 0)
               AS back_by_then,
           coalesce(-sum(e.amount) FILTER (WHERE p.kind = 'recovery' AND p.at < f.made_at), 0)
               AS back_before
    FROM billing_posting p
    JOIN billing_entry e ON e.posting_id = p.id
    JOIN billing_account a ON a.id = e.account_id AND a.code = 'write_off'
    WHERE l.kind = 'reversal' AND p.operator_id = l.operator_id
      AND (p.key = 'write_off:' || l.invoice_id
           OR p.key LIKE 'recovery:' || l.invoice_id || ':%%')
) w ON true
"""

CHECKS = (
    Check("charge_files", "a charge file = the sum of its lines, none is missing", _FILES),
    Check("charge_lines", "a charge file asks for what its invoices say", _LINES),
)
