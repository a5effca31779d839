"""Credit notes by an operator's policy: issued at once, or asked for and issued when approved."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

from django.db import transaction

from billing import approvals, corrections, invoicing
from billing.approvals import Changed, Kind
from billing.models import Approval, Invoice
from subscriptions.models import Operator


@transaction.atomic
def credit(
    operator: Operator,
    number: str,
    *,
    reason: str,
    by: str,
    at: dt.datetime,
    amount: Decimal | None = None,
    over_charge: bool = False,
) -> Invoice | Approval:
    """A credit note (see `invoicing.credit`), or where it is above the limit what it waits for.

    `over_charge`: what is credited was the operator's own fault, and is repaid as often as the
    policy says. Raises as `invoicing.credit` does, in either case.
    """
    rules = corrections.rules_of(operator.pk, at=at)
    original, whole = invoicing.creditable(operator, number, amount)
    gross = whole if amount is None else amount
    extra = rules.compensation(gross) if over_charge else Decimal(0)
    if not rules.waits(gross + extra):
        return _credit(
            operator, number, reason=reason, at=at, amount=amount, over_charge=over_charge
        )
    return approvals.ask(
        operator,
        Kind.CREDIT_NOTE,
        subscriber_id=original.subscriber_id,
        invoice_id=original.id,
        whole=amount is None,
        over_charge=over_charge,
        currency=original.currency,
        gross=-gross,
        amount=-(gross + extra),
        effect={
            "invoice": original.number,
            "credit": str(gross),
            "compensation": str(extra),
            "left_before": str(whole),
            "left_after": str(whole - gross),
        },
        reason=reason,
        by=by,
        at=at,
    )


def _credit(
    operator: Operator,
    number: str,
    *,
    reason: str,
    at: dt.datetime,
    amount: Decimal | None,
    over_charge: bool,
) -> Invoice:
    rules = corrections.rules_of(operator.pk, at=at) if over_charge else corrections.NO_RULES
    return invoicing.credit(operator, number, reason=reason, at=at, amount=amount, rules=rules)


def make_approved(operator: Operator, approval: Approval, at: dt.datetime) -> dict[str, int]:
    """Issue a credit note that is approved. Raises Changed where it would be over another amount
    than was asked for, NotCreditable, Invalid."""
    assert approval.subscriber_id is not None
    assert approval.invoice_id is not None
    asked = Invoice.objects.get(subscriber_id=approval.subscriber_id, id=approval.invoice_id)
    assert asked.number is not None
    note = _credit(
        operator,
        asked.number,
        reason=approval.reason,
        at=at,
        amount=None if approval.whole else -approval.gross,
        over_charge=approval.over_charge,
    )
    if note.gross != approval.amount:
        raise Changed(
            f"the credit note would be over {-note.gross}, asked for were {-approval.amount}:"
            " reject it and ask again"
        )
    return {"note_id": note.id}
