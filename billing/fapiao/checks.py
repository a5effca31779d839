"""Whether e-fapiao add up: a check of `reconcile`, by another statement than the writer's."""

from __future__ import annotations

from metering.reconciliation import Check

# Lines make the totals; a blue one is its invoice less the notes counted, reds take back no more.
# Compensation is no part of either.
_FAPIAO = """
SELECT f.operator_id, CASE
           WHEN (f.net, f.tax) IS DISTINCT FROM (l.net, l.tax) OR i.operator_id <> f.operator_id
             OR i.number IS NULL
             OR f.original_id IS NULL AND f.gross <> i.gross - k.gross + coalesce(n.gross, 0)
             OR f.credit_note_id IS NOT NULL AND f.gross IS DISTINCT FROM c.gross - k.noted
             OR f.original_id IS NULL AND f.gross + coalesce(r.gross, 0) < 0
             OR (f.state = 'red_issued') <> (f.original_id IS NULL AND f.number IS NOT NULL
                                             AND f.gross + coalesce(r.issued, 0) = 0)
           THEN jsonb_build_object(
               'request', f.request_id, 'gross', f.gross, 'net_of_lines', l.net,
               'invoice', i.gross, 'taken_back', r.gross, 'state', f.state) END AS wrong
FROM billing_fapiaorequest f
LEFT JOIN billing_invoice i ON i.subscriber_id = f.subscriber_id AND i.id = f.invoice_id
LEFT JOIN billing_invoice c ON c.subscriber_id = f.subscriber_id AND c.id = f.credit_note_id
CROSS JOIN LATERAL (
    SELECT sum((e ->> 'amount')::numeric) AS net, sum((e ->> 'tax')::numeric) AS tax
    FROM jsonb_array_elements(f.lines) e
) l
CROSS JOIN LATERAL (
    SELECT sum(n.gross) AS gross FROM billing_invoice n
    WHERE n.subscriber_id = f.subscriber_id AND n.original_id = f.invoice_id
      AND f.counted @> to_jsonb(n.id)
) n
CROSS JOIN LATERAL (
    SELECT coalesce(sum(x.gross) FILTER (
               WHERE x.invoice_id = f.invoice_id OR f.counted @> to_jsonb(x.invoice_id)), 0)
               AS gross,
           coalesce(sum(x.gross) FILTER (WHERE x.invoice_id = f.credit_note_id), 0) AS noted
    FROM billing_invoiceline x
    WHERE x.subscriber_id = f.subscriber_id AND x.kind = 'compensation'
) k
LEFT JOIN (
    SELECT original_id, sum(gross) FILTER (WHERE state <> 'failed') AS gross,
           sum(gross) FILTER (WHERE state = 'issued') AS issued
    FROM billing_fapiaorequest WHERE original_id IS NOT NULL GROUP BY 1
) r ON r.original_id = f.id
"""

CHECKS = (Check("fapiao", "an e-fapiao says what its invoice does", _FAPIAO),)
