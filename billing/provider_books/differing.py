"""Differences between a provider's books and ours, and what staff do about each: the only writer of
PaymentDifference.

Money is posted only here, by what somebody said, with its note: a fee, a payout that is in the
bank, or a difference that is written off, above the operator's limit by two persons.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.db import transaction
from django.db.backends.utils import CursorWrapper

from billing import approvals, corrections, ledger, receiving
from billing.ledger import Side
from billing.models import Approval, PaymentDifference, ProviderAccount, ProviderLine
from subscriptions.errors import Conflict, Invalid, NotFound
from subscriptions.models import Operator

Kind, State = PaymentDifference.Kind, PaymentDifference.State
Resolution = PaymentDifference.Resolution


# By hand, that is.
BY_STAFF = tuple(one.value for one in Resolution if one != Resolution.CAME)


class DifferenceResolved(Conflict):
    cause = "difference_resolved"


# Finding ------------------------------------------------------------------------------------------

_COLUMNS = """
    (operator_id, account, day, kind, about, line_id, ours, currency, theirs, our_amount, amount,
     found_at, owner, note, state, resolution, resolved_by)
"""
_EMPTY = "'', '', 'open', '', ''"


def _filled(statement: str) -> str:
    return statement.replace("{_COLUMNS}", _COLUMNS).replace("{_EMPTY}", _EMPTY)


# Lines that nobody matched, and those whose amount is another; each payout.
_OF_LINES_SQL = _filled("""
INSERT INTO billing_paymentdifference {_COLUMNS}
SELECT l.operator_id, l.account, l.day,
       CASE WHEN l.kind = 'payout' THEN 'payout' WHEN l.ours = '' THEN 'missing_here'
            ELSE 'amount_differs' END,
       'line:' || l.line_id, l.line_id, l.ours, l.currency, l.gross, coalesce(o.amount, 0),
       l.gross - coalesce(o.amount, 0), %(at)s, {_EMPTY}
FROM billing_providerline l
LEFT JOIN ours o ON o.ours = l.ours
WHERE l.operator_id = %(operator)s AND l.account = %(account)s AND l.kind <> 'fee'
  AND l.state IN ('new', 'differs') AND l.gross <> coalesce(o.amount, 0)
ORDER BY l.line_id
ON CONFLICT (operator_id, account, about) DO NOTHING
""")
# What the provider kept of a day, by the file that told it.
_FEES_SQL = _filled("""
INSERT INTO billing_paymentdifference {_COLUMNS}
SELECT operator_id, account, day, 'fees', 'fees:' || file_id || ':' || day, '', '', currency,
       sum(fees), 0, sum(fees), %(at)s, {_EMPTY}
FROM (
    SELECT *, CASE kind WHEN 'fee' THEN gross ELSE 0 END - fee AS fees FROM billing_providerline
    WHERE operator_id = %(operator)s AND account = %(account)s
) l
GROUP BY operator_id, account, day, file_id, currency
HAVING sum(fees) <> 0
ON CONFLICT (operator_id, account, about) DO NOTHING
""")
# What is ours and of a day that a file was about, but in none.
_MISSING_THERE_SQL = _filled("""
INSERT INTO billing_paymentdifference {_COLUMNS}
SELECT %(operator)s, %(account)s, o.day, 'missing_there', 'ours:' || o.ours, '', o.ours,
       %(currency)s, 0, o.amount, -o.amount, %(at)s, {_EMPTY}
FROM ours o
WHERE EXISTS (
    SELECT FROM billing_providerfile f
    WHERE f.operator_id = %(operator)s AND f.account = %(account)s
      AND o.day BETWEEN f.first_day AND f.last_day)
  AND NOT EXISTS (
    SELECT FROM billing_providerline l
    WHERE l.operator_id = %(operator)s AND l.account = %(account)s AND l.ours = o.ours)
ORDER BY o.ours
ON CONFLICT (operator_id, account, about) DO NOTHING
""")
_CAME_SQL = """
UPDATE billing_paymentdifference d
SET state = 'resolved', resolution = 'came', resolved_by = 'import', resolved_at = %(at)s,
    note = left('in ' || f.name || ', line ' || l.nr, 500)
FROM billing_providerline l JOIN billing_providerfile f ON f.id = l.file_id
WHERE d.operator_id = %(operator)s AND d.account = %(account)s AND d.kind = 'missing_there'
  AND d.state <> 'resolved' AND l.operator_id = %(operator)s AND l.account = %(account)s
  AND l.ours = d.ours
"""


def note(cursor: CursorWrapper, names: dict[str, Any]) -> None:
    """Keep what differs by now, each once, in the caller's transaction; `ours` is there."""
    for statement in (_OF_LINES_SQL, _FEES_SQL, _MISSING_THERE_SQL, _CAME_SQL):
        cursor.execute(statement, names)
    came = PaymentDifference.objects.filter(
        operator_id=names["operator"], account=names["account"], resolution=Resolution.CAME
    )
    approvals.supersede(
        approvals.Kind.DIFFERENCE, came.values_list("pk", flat=True), at=names["at"]
    )


# What staff do ------------------------------------------------------------------------------------


def find(operator: Operator, difference_id: int) -> PaymentDifference:
    """Raises NotFound, also for another operator's."""
    found = PaymentDifference.objects.filter(operator=operator, pk=difference_id).first()
    if found is None:
        raise NotFound("there is no such difference")
    return found


@transaction.atomic
def assign(operator: Operator, difference_id: int, *, owner: str, note: str) -> PaymentDifference:
    """Say who looks after a difference, and what is known of it. Raises NotFound,
    DifferenceResolved."""
    found = _open(operator, difference_id)
    return _put(found, owner=owner, note=note)


@transaction.atomic
def resolve(
    operator: Operator,
    difference_id: int,
    resolution: str,
    *,
    note: str,
    by: str,
    at: dt.datetime,
) -> PaymentDifference:
    """Say what a difference is, and book it. One that is to be written off above the operator's
    limit waits for another person. The same again changes nothing.

    Raises NotFound, DifferenceResolved, Invalid.
    """
    found = _locked(operator, difference_id)
    if found.state == State.RESOLVED and found.resolution == resolution:
        return found
    if found.state == State.WAITING and resolution == Resolution.WRITTEN_OFF:
        return found
    if found.state != State.OPEN:
        raise DifferenceResolved(f"it is {found.state} already: {found.resolution or 'write-off'}")
    if not note.strip():
        raise Invalid("say what it is: note")
    if (resolution == Resolution.ARRIVED) != (found.kind == Kind.PAYOUT) and resolution != (
        Resolution.KNOWN
    ):
        raise Invalid("a payout has arrived, or is known; nothing else arrives")
    if resolution == Resolution.FEE and found.kind == Kind.MISSING_THERE:
        raise Invalid("what is missing there is no fee")
    if resolution not in BY_STAFF:
        raise Invalid(f"resolution is one of {', '.join(BY_STAFF)}")
    waits = corrections.rules_of(operator.pk, at=at).waits(found.amount)
    if resolution == Resolution.FEE and found.kind != Kind.FEES and waits:
        raise Invalid("above the limit only the fees of a day are a fee: write this off, by two")
    if resolution == Resolution.WRITTEN_OFF and waits:
        approvals.ask(
            operator,
            approvals.Kind.DIFFERENCE,
            about_id=found.pk,
            currency=found.currency,
            gross=found.amount,
            amount=found.amount,
            effect={
                "account": found.account,
                "day": found.day.isoformat(),
                "difference": found.kind,
                "theirs": str(found.theirs),
                "ours": str(found.our_amount),
                "written_off": str(found.amount),
            },
            reason=note,
            by=by,
            at=at,
        )
        return _put(found, state=State.WAITING, note=note)
    return _resolve(operator, found, resolution, note=note, by=by, at=at)


def waiting_for(operator: Operator, difference_id: int) -> Approval:
    """What was asked for a difference. Raises NotFound; DifferenceResolved where nobody was, or it
    is open again."""
    found = find(operator, difference_id)
    asked = approvals.about(approvals.Kind.DIFFERENCE, [difference_id]).get(difference_id)
    if asked is None or asked.state not in (Approval.State.PENDING, Approval.State.APPROVED):
        raise DifferenceResolved(f"it is {found.state}: nobody waits for a second person")
    return asked


def write_off_approved(operator: Operator, approval: Approval, at: dt.datetime) -> dict[str, int]:
    """Write off a difference for which another person has approved it."""
    found = _waiting(operator, approval)
    _resolve(
        operator,
        found,
        Resolution.WRITTEN_OFF,
        note=f"{found.note} · {approval.decision}",
        by=approval.decided_by,
        at=at,
    )
    return {}


def reopen(operator: Operator, approval: Approval, at: dt.datetime) -> None:
    """A difference that is not to be written off is open again."""
    found = _waiting(operator, approval)
    _put(found, state=State.OPEN, note=f"{found.note} · {approval.decision}"[:500])


def _waiting(operator: Operator, approval: Approval) -> PaymentDifference:
    assert approval.about_id is not None
    found = _locked(operator, approval.about_id)
    if found.state != State.WAITING:
        raise DifferenceResolved(f"it is {found.state} already: {found.resolution}")
    return found


_AGAINST = {
    Resolution.FEE: ledger.PROVIDER_FEE,
    Resolution.ARRIVED: "cash:bank",
    Resolution.WRITTEN_OFF: ledger.PAYMENT_DIFFERENCES,
}


def _resolve(
    operator: Operator,
    found: PaymentDifference,
    resolution: str,
    *,
    note: str,
    by: str,
    at: dt.datetime,
) -> PaymentDifference:
    if resolution == Resolution.UNCLEAR:
        _hand_over(operator, found, at=at)
    against = _AGAINST.get(Resolution(resolution))
    if against is not None:
        sides = (Side(f"cash:{found.account}", found.amount), Side(against, -found.amount))
        draft = ledger.Draft(
            f"difference:{found.pk}", "difference", at, found.currency, sides, found.about[:200]
        )
        posted = ledger.post(operator.pk, draft)
        assert posted
    return _put(
        found,
        state=State.RESOLVED,
        resolution=resolution,
        note=note[:500],
        resolved_by=by,
        resolved_at=at,
    )


def _hand_over(operator: Operator, found: PaymentDifference, *, at: dt.datetime) -> None:
    """Keep a payment that is missing here as an unclear one, with a task for staff."""
    accounts = ProviderAccount.objects.filter(operator=operator, provider=found.account)
    account = accounts.order_by("-id").first()
    if found.kind != Kind.MISSING_HERE or found.theirs <= 0 or account is None:
        raise Invalid("only money that came at a provider of the operator's is an unclear payment")
    line = ProviderLine.objects.get(
        operator_id=operator.pk, account=found.account, line_id=found.line_id
    )
    reference = line.reference or line.line_id
    came = receiving.Paid(account, "", line.key, reference, found.theirs, found.currency)
    receiving.receive(operator, came, None, None, at=at)


def _locked(operator: Operator, difference_id: int) -> PaymentDifference:
    find(operator, difference_id)
    return PaymentDifference.objects.select_for_update(no_key=True).get(pk=difference_id)


def _open(operator: Operator, difference_id: int) -> PaymentDifference:
    found = _locked(operator, difference_id)
    if found.state == State.RESOLVED:
        raise DifferenceResolved(f"it is resolved: {found.resolution}")
    return found


def _put(found: PaymentDifference, **facts: Any) -> PaymentDifference:
    for name, value in facts.items():
        setattr(found, name, value)
    PaymentDifference.objects.filter(pk=found.pk).update(**facts)
    return found
