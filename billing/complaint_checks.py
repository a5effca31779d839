"""Whether complaints hold together, asked of the rows themselves."""

from metering.reconciliation import Check

_COMPLAINTS = """
SELECT c.operator_id, CASE
           WHEN m.messages IS DISTINCT FROM c.messages::bigint OR m.last IS DISTINCT FROM c.messages
             OR s.operator_id IS DISTINCT FROM c.operator_id
             OR (c.state = 'open') <> (m.last_by = 'subscriber') AND c.state <> 'closed'
             OR c.invoice_id IS NOT NULL AND l.nr IS NULL
             OR c.stops_dunning AND NOT EXISTS (
                 SELECT FROM billing_dunningstop d
                 WHERE d.subscriber_id = c.subscriber_id AND d.invoice_id = c.invoice_id
                   AND d.starts_at <= c.opened_at
                   AND coalesce(d.ends_at, 'infinity') > c.opened_at)
           THEN jsonb_build_object(
               'subscriber', c.subscriber_id, 'complaint', c.number, 'state', c.state,
               'messages', m.messages, 'last_by', m.last_by) END AS wrong
FROM billing_complaint c
LEFT JOIN subscriptions_subscriber s ON s.id = c.subscriber_id
LEFT JOIN billing_invoiceline l
  ON l.subscriber_id = c.subscriber_id AND l.invoice_id = c.invoice_id AND l.nr = c.line
LEFT JOIN (
    SELECT subscriber_id, complaint_id, count(*) AS messages, max(nr) AS last,
           (array_agg("by" ORDER BY nr DESC))[1] AS last_by
    FROM billing_complaintmessage
    GROUP BY 1, 2
) m ON m.subscriber_id = c.subscriber_id AND m.complaint_id = c.id
"""

CHECKS = (
    Check(
        "complaints",
        "a complaint is open until staff has answered, and names a line that there is",
        _COMPLAINTS,
    ),
)
