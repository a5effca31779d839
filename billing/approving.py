"""Credit notes by an operator's policy: issued at once, or asked for and issued when approved, as
refunds are made then."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

from django.db import transaction

from billing import corrections, invoicing, refunds
from billing.corrections import Kind, State
from billing.models import Approval, Invoice
from subscriptions.errors import Conflict
from subscriptions.models import Operator


class Changed(Conflict):
    cause = "changed"


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
    in_all = gross + (rules.compensation(gross) if over_charge else 0)
    if rules.waits(in_all):
        return corrections.ask_for_note(
            operator,
            original,
            gross,
            in_all,
            whole=amount is None,
            over_charge=over_charge,
            reason=reason,
            by=by,
            at=at,
        )
    return _credit(operator, number, reason=reason, at=at, amount=amount, over_charge=over_charge)


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


@transaction.atomic
def approve(
    operator: Operator, approval_id: int, *, by: str, reason: str, at: dt.datetime
) -> Approval:
    """Let a correction be made: a credit note or refund now, an adjustment with the next bill.
    Again changes nothing. What a provider has to be told of, the sweep tells.

    Raises NotFound, FourEyes, Decided; Changed where a credit note would be over another amount
    than was asked for, or so much cannot be refunded any more, NotCreditable, Invalid: it stays
    pending.
    """
    approval, now = corrections.decide(
        operator, approval_id, State.APPROVED, by=by, reason=reason, at=at
    )
    if not now or approval.kind == Kind.ADJUSTMENT:
        return approval
    if approval.kind == Kind.REFUND:
        return refunds.make_approved(operator, approval, at=at)
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
    return corrections.note_issued(approval, note)
