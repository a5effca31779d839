"""What is due and given up, by an operator's policy: at once, or when another person approves."""

from __future__ import annotations

import datetime as dt

from django.db import transaction

from billing import approvals, corrections, invoicing
from billing.approvals import Changed, Kind
from billing.models import Approval, Invoice
from subscriptions.models import Operator


@transaction.atomic
def write_off(
    operator: Operator, number: str, *, reason: str, by: str, at: dt.datetime
) -> Invoice | Approval:
    """Give up what is due on an invoice (see `invoicing.write_off`), or where that is above the
    limit what it waits for. Again changes nothing. Raises NotFound, invoicing.NotDue, Invalid."""
    invoice = invoicing.locked(operator, number)
    if invoice.state == Invoice.State.UNCOLLECTIBLE:
        return invoice
    due = invoicing.amount_due(invoice)
    if not corrections.rules_of(operator.pk, at=at).waits(due):
        return invoicing.write_off(operator, number, reason=reason, at=at)
    invoicing.check_due(invoice)
    # What was rejected may be asked for anew.
    rejected = Approval.objects.filter(
        kind=Kind.WRITE_OFF,
        subscriber_id=invoice.subscriber_id,
        invoice_id=invoice.id,
        state=Approval.State.REJECTED,
    ).count()
    return approvals.ask(
        operator,
        Kind.WRITE_OFF,
        subscriber_id=invoice.subscriber_id,
        invoice_id=invoice.id,
        currency=invoice.currency,
        gross=-due,
        amount=-due,
        once=f"write_off:{invoice.id}:{due}:{rejected}",
        effect={
            "invoice": invoice.number,
            "invoiced": str(invoice.gross),
            "given_up": str(due),
        },
        reason=reason,
        by=by,
        at=at,
    )


def write_off_approved(operator: Operator, approval: Approval, at: dt.datetime) -> dict[str, int]:
    """Give up what was asked for. Raises Changed where another amount is due by now, NotDue."""
    assert approval.subscriber_id is not None
    assert approval.invoice_id is not None
    asked = Invoice.objects.get(subscriber_id=approval.subscriber_id, id=approval.invoice_id)
    assert asked.number is not None
    due = invoicing.amount_due(invoicing.locked(operator, asked.number))
    if due != -approval.amount:
        raise Changed(f"{due} are due by now, asked for were {-approval.amount}: ask again")
    invoicing.write_off(operator, asked.number, reason=approval.reason, at=at)
    return {}
