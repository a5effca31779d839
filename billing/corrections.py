"""By an operator's policy: what waits for a second person, what is repaid double.

**Approval.** What is above the policy's limits waits (billing/approvals.py), also an adjustment
that a bill would have said: it is on the next bill once another person has approved it. What is
rejected is not billed, unless it changes again.

**Over-charge.** What the subscriber was charged through the operator's own fault is repaid
`over_charge_factor` times. That is every adjustment that lowers what was billed as used: the usage
was told wrongly, told for nobody or weighed by a wrong card, and gateways and cards are the
operator's, which no subscriber can bring about. A credit note is one only where whoever asks for it
says so (`over_charge`), for most are goodwill. What is paid beyond the over-charge itself is no
price of anything: compensation, without tax, an expense.

The only writer of CorrectionPolicy.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from django.db import connection

from billing import approvals, rating
from billing.approvals import Kind, State
from billing.models import CorrectionPolicy, InvoiceLine
from billing.rating import Line
from subscriptions.errors import Invalid
from subscriptions.models import Operator
from subscriptions.units import MAX_UNITS, to_wire

ONCE = Decimal(1)
# Who asks for what a bill would have said.
CLOSE = "month close"


@dataclass(frozen=True, slots=True)
class Rules:
    """What an operator's policy says at an instant."""

    approval_limit: Decimal | None = None
    over_charge_factor: Decimal = ONCE
    units_limit: int | None = None
    prices_by_two: bool = False

    def compensation(self, over_charge: Decimal) -> Decimal:
        """What is paid beyond an over-charge (>= 0) itself."""
        return rating.to_fen(over_charge * (self.over_charge_factor - 1))

    def waits(self, amount: Decimal) -> bool:
        return self.approval_limit is not None and abs(amount) > self.approval_limit

    def units_wait(self, units: int) -> bool:
        return self.units_limit is not None and units > self.units_limit


NO_RULES = Rules()


def rules_of(operator_id: int, *, at: dt.datetime) -> Rules:
    """The rules that hold at an instant."""
    row = (
        CorrectionPolicy.objects.filter(operator_id=operator_id, since__lte=at)
        .order_by("-since", "-pk")
        .first()
    )
    if row is None:
        return NO_RULES
    return Rules(row.approval_limit, row.over_charge_factor, row.units_limit, row.prices_by_two)


def set_rules(operator: Operator, rules: Rules, *, by: str, at: dt.datetime) -> Rules:
    """Let these rules hold from `at` on. Raises Invalid."""
    limit, factor = rules.approval_limit, rules.over_charge_factor
    if limit is not None and not (0 <= limit < 10**14 and limit == rating.to_fen(limit)):
        raise Invalid("approval_limit is an amount to the fen, or none")
    if not (1 <= factor <= 10 and factor == rating.to_fen(factor)):
        raise Invalid("over_charge_factor is 1 to 10, with two places at most")
    if rules.units_limit is not None and not 0 <= rules.units_limit <= MAX_UNITS:
        raise Invalid("units_limit is a number of units, or none")
    if rules != rules_of(operator.pk, at=at):
        CorrectionPolicy.objects.create(
            operator=operator,
            since=at,
            approval_limit=rules.approval_limit,
            over_charge_factor=rules.over_charge_factor,
            units_limit=rules.units_limit,
            prices_by_two=rules.prices_by_two,
            made_by=by,
        )
    return rules


# Compensation ------------------------------------------------------------------------------------


def given_back(changes: Sequence[Line]) -> Decimal:
    """What was charged too much by what these adjustments take back."""
    return -sum((line.gross for line in changes if line.gross < 0), rating.ZERO)


def compensation_lines(over: Decimal, rules: Rules) -> list[Line]:
    """What is paid beyond an over-charge that a document gives back: one line."""
    extra = rules.compensation(over)
    if not extra:
        return []
    basis = {"over_charge": str(over), "factor": str(rules.over_charge_factor)}
    none = rating.ZERO
    kind = InvoiceLine.Kind.COMPENSATION
    return [Line(kind, "Over-charge", None, -extra, none, none, -extra, basis)]


# Adjustments -------------------------------------------------------------------------------------


def allowed(
    operator: Operator,
    subscriber_id: int,
    changes: Sequence[Line],
    rules: Rules,
    *,
    currency: str,
    at: dt.datetime,
) -> list[Line]:
    """Of adjustments that a bill is to say, those that it may: the others wait, or were rejected.

    Somebody has to look, whatever the limit, where something is to be given back of an invoice that
    is void or was credited by hand: it may have been given back already. Joins the caller's
    transaction.
    """
    said = []
    for line in changes:
        amount, why = _amount(line, rules), ""
        if amount < 0 and _was_given_back(subscriber_id, line.bucket_id):
            why = " (its invoice is void, or credited by hand)"
        elif not rules.waits(amount):
            said.append(line)
            continue
        reason = f"{line.description}: {line.basis['from']} to {line.basis['until']}{why}"
        if _is_approved(operator, subscriber_id, line, amount, reason, currency=currency, at=at):
            said.append(line)
    return said


_GIVEN_BACK_SQL = """
SELECT FROM billing_invoiceline l
JOIN billing_invoice i
  ON i.subscriber_id = l.subscriber_id AND i.id = l.invoice_id AND i.kind <> 'credit_note'
WHERE l.subscriber_id = %s AND l.bucket_id = %s AND (i.state = 'void' OR EXISTS (
    SELECT FROM billing_invoice n
    JOIN billing_invoiceline x ON x.subscriber_id = n.subscriber_id AND x.invoice_id = n.id
    WHERE n.subscriber_id = i.subscriber_id AND n.original_id = i.id AND x.bucket_id IS NULL
      AND x.basis ->> 'line' = l.nr::text))
LIMIT 1
"""


def _was_given_back(subscriber_id: int, bucket_id: int | None) -> bool:
    """Whether what was charged for a bucket is owed no more, other than by adjustments."""
    with connection.cursor() as cursor:
        cursor.execute(_GIVEN_BACK_SQL, [subscriber_id, bucket_id])
        return cursor.fetchone() is not None


def _amount(line: Line, rules: Rules) -> Decimal:
    """What an adjustment is in all."""
    return line.gross - rules.compensation(max(-line.gross, rating.ZERO))


def _is_approved(
    operator: Operator,
    subscriber_id: int,
    line: Line,
    amount: Decimal,
    reason: str,
    *,
    currency: str,
    at: dt.datetime,
) -> bool:
    """Whether this very change is approved; if nobody was asked yet, it is asked now."""
    drawn, billed = line.basis["drawn"], line.basis.get("billed", 0)
    last = approvals.of_bucket(subscriber_id, line.bucket_id)
    if last is not None and last.drawn == drawn:
        if (last.billed, last.gross, last.amount) == (billed, line.gross, amount):
            return last.state == State.APPROVED
        # The rest of one that is on a credit note in part.
        rest = last.state == State.APPROVED and last.billed == billed
        if rest and last.amount < amount < 0:
            return True
    approvals.supersede_of_bucket(subscriber_id, line.bucket_id, at=at)
    approvals.ask(
        operator,
        Kind.ADJUSTMENT,
        subscriber_id=subscriber_id,
        bucket_id=line.bucket_id,
        drawn=drawn,
        billed=billed,
        currency=currency,
        gross=line.gross,
        amount=amount,
        effect={
            "units_billed": to_wire(billed),
            "units_used": to_wire(drawn),
            "adjustment": str(line.gross),
            "compensation": str(amount - line.gross),
        },
        reason=reason[:200],
        by=CLOSE,
        at=at,
    )
    return False
