"""Whether providers' books and ours were compared whole: checks of `reconcile`, not by the writers'
statements."""

from __future__ import annotations

from metering.reconciliation import Check

# Each line that is no fee matched something of its amount on its account, or is in a difference.
_LINES = """
SELECT l.operator_id, CASE
           WHEN l.kind = 'fee' THEN NULL
           WHEN l.state = 'new'
             OR l.state = 'matched' AND p.amount IS DISTINCT FROM l.gross
             OR l.state = 'differs' AND l.gross <> 0 AND d.theirs IS DISTINCT FROM l.gross
             OR d.kind = 'amount_differs' AND d.our_amount IS DISTINCT FROM p.amount
           THEN jsonb_build_object(
               'account', l.account, 'line', l.line_id, 'state', l.state, 'gross', l.gross,
               'ours', l.ours, 'posted', p.amount, 'difference', d.theirs) END AS wrong
FROM billing_providerline l
LEFT JOIN billing_paymentdifference d
  ON d.operator_id = l.operator_id AND d.account = l.account AND d.line_id = l.line_id
LEFT JOIN LATERAL (
    SELECT sum(e.amount) AS amount
    FROM billing_posting p
    JOIN billing_entry e ON e.posting_id = p.id
    JOIN billing_account a ON a.id = e.account_id AND a.code = 'cash:' || l.account
    WHERE p.operator_id = l.operator_id AND p.key = l.ours
) p ON l.ours <> ''
"""

# A day of an account adds up: what the provider moved is what matched and what differs.
_DAYS = """
SELECT operator_id, CASE WHEN sum(amount) <> 0 THEN jsonb_build_object(
           'account', account, 'day', day, 'lines_minus_accounted', sum(amount)) END AS wrong
FROM (
    SELECT operator_id, account, day, gross - fee - CASE state WHEN 'matched' THEN gross ELSE 0 END
           AS amount
    FROM billing_providerline
    UNION ALL
    SELECT operator_id, account, day, -theirs FROM billing_paymentdifference
) u
GROUP BY operator_id, account, day
"""

# What was resolved is in the ledger as it says, and nothing else is.
_POSTED = """
SELECT d.operator_id, CASE
           WHEN coalesce(p.amount, 0) <> CASE
                WHEN d.resolution IN ('fee', 'arrived', 'written_off') THEN d.amount ELSE 0 END
           THEN jsonb_build_object(
               'difference', d.id, 'resolution', d.resolution, 'amount', d.amount,
               'posted', p.amount) END AS wrong
FROM billing_paymentdifference d
LEFT JOIN LATERAL (
    SELECT sum(e.amount) AS amount
    FROM billing_posting p
    JOIN billing_entry e ON e.posting_id = p.id
    JOIN billing_account a ON a.id = e.account_id AND a.code = 'cash:' || d.account
    WHERE p.operator_id = d.operator_id AND p.key = 'difference:' || d.id
) p ON true
"""

# A file has as many lines as it says.
_FILES = """
SELECT f.operator_id, CASE WHEN f.lines <> coalesce(l.lines, 0) OR l.outside
           THEN jsonb_build_object(
               'file', f.id, 'name', f.name, 'said', f.lines, 'lines', l.lines) END AS wrong
FROM billing_providerfile f
LEFT JOIN LATERAL (
    SELECT count(*) AS lines, bool_or(l.day NOT BETWEEN f.first_day AND f.last_day) AS outside
    FROM billing_providerline l WHERE l.operator_id = f.operator_id AND l.file_id = f.id
) l ON true
"""

CHECKS = (
    Check("provider_files", "a provider's file has the lines it had", _FILES),
    Check("provider_lines", "a provider's line matches what was posted, or differs", _LINES),
    Check("provider_days", "a provider's day = what matched + what differs", _DAYS),
    Check("differences_posted", "differences are in the ledger as staff said", _POSTED),
)
