"""What waits for a second person, by kind: done when it is approved, let be when it is rejected."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

from django.db import transaction

from billing import approvals, credit_notes, giving, refunds, rerating, write_offs
from billing.approvals import Kind, State
from billing.handovers import keeping as handovers
from billing.models import Approval
from billing.prices import drafting
from billing.provider_books import differing
from subscriptions.models import Operator

# Each answers the id of what it made, by the approval's column. What a provider has to be told of,
# the sweep tells; an adjustment is on the next bill.
_DO: dict[str, Callable[[Operator, Approval, dt.datetime], dict[str, int]]] = {
    Kind.CREDIT_NOTE: credit_notes.make_approved,
    Kind.REFUND: refunds.make_approved,
    Kind.UNITS: giving.give_approved,
    Kind.MONEY: giving.credit_approved,
    Kind.WRITE_OFF: write_offs.write_off_approved,
    Kind.DIFFERENCE: differing.write_off_approved,
    Kind.HANDOVER: handovers.do_approved,
    Kind.RERATING: rerating.apply_approved,
    Kind.PRICE: drafting.approve,
}
_LET_BE: dict[str, Callable[[Operator, Approval, dt.datetime], None]] = {
    Kind.DIFFERENCE: differing.reopen,
    Kind.HANDOVER: handovers.let_be,
    Kind.PRICE: drafting.send_back,
}


@transaction.atomic
def approve(
    operator: Operator, approval_id: int, *, by: str, reason: str, at: dt.datetime
) -> Approval:
    """Let it be done, now. Again changes nothing.

    Raises NotFound, FourEyes, Decided, Invalid; Changed where it would be another thing than was
    asked for, and whatever stands against it by now: it stays pending.
    """
    approval, now = approvals.decide(
        operator, approval_id, State.APPROVED, by=by, reason=reason, at=at
    )
    if not now:
        return approval
    do = _DO.get(approval.kind)
    return approvals.keep(approval, **(do(operator, approval, at) if do is not None else {}))


@transaction.atomic
def reject(
    operator: Operator, approval_id: int, *, by: str, reason: str, at: dt.datetime
) -> Approval:
    """Let it not be done. Again changes nothing. Raises NotFound, FourEyes, Decided, Invalid."""
    approval, now = approvals.decide(
        operator, approval_id, State.REJECTED, by=by, reason=reason, at=at
    )
    if not now:
        return approval
    let_be = _LET_BE.get(approval.kind)
    if let_be is not None:
        let_be(operator, approval, at)
    return approvals.keep(approval)
