"""Four eyes: what is above the operator's limit is written down, and waits for another person.

One way for all kinds. Whoever asks says what for, with the effect in numbers; nothing of it is
done. Another person approves (billing/approving.py does it then) or rejects. Decided once, and
asked once where `once` names it: the same again is the same.

The only writer of Approval.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Any

from django.db import connection

from billing.models import Approval
from subscriptions.errors import Conflict, Invalid, NotFound
from subscriptions.models import Operator

Kind, State = Approval.Kind, Approval.State
_DECISION = ("state", "decided_by", "decided_at", "decision")
# What a thing comes to that was made, and that the approval names.
_MADE = ("note_id", "refund_id", "made_id")


class FourEyes(Conflict):
    cause = "four_eyes"


class Decided(Conflict):
    cause = "decided"


class Changed(Conflict):
    cause = "changed"


# Asking ------------------------------------------------------------------------------------------


def ask(
    operator: Operator,
    kind: str,
    *,
    reason: str,
    by: str,
    at: dt.datetime,
    effect: dict[str, Any],
    once: str = "",
    **of: Any,
) -> Approval:
    """Write down what somebody wants done, and what it would do. Joins the caller's transaction.

    Where `once` was asked for before, or the same row (`about_id`) waits already, that is the
    answer. Raises Invalid without a person or a reason.
    """
    assert connection.in_atomic_block
    if not by or not reason.strip():
        raise Invalid("what waits for approval has a person and a reason")
    known = asked(operator, once)
    if known is None and of.get("about_id") is not None:
        known = about(kind, [of["about_id"]]).get(of["about_id"])
        known = known if known is not None and known.state == State.PENDING else None
    if known is not None:
        return known
    of.setdefault("currency", operator.currency)
    return Approval.objects.create(
        operator=operator,
        kind=kind,
        effect=effect,
        reason=reason[:500],
        asked_by=by,
        asked_at=at,
        once=once,
        **of,
    )


def asked(operator: Operator, once: str) -> Approval | None:
    """What was asked for by this name."""
    return Approval.objects.filter(operator=operator, once=once).first() if once else None


def about(kind: str, ids: Iterable[int]) -> dict[int, Approval]:
    """The last approval that was asked for, of each of these rows of which one was."""
    rows = Approval.objects.filter(kind=kind, about_id__in=set(ids)).order_by("pk")
    return {row.about_id: row for row in rows if row.about_id is not None}


def supersede(kind: str, ids: Iterable[int], *, at: dt.datetime) -> None:
    """Let nobody decide any more on what has become of these rows by itself."""
    Approval.objects.filter(kind=kind, about_id__in=list(ids), state=State.PENDING).update(
        state=State.SUPERSEDED, decided_at=at
    )


# Adjustments -------------------------------------------------------------------------------------


def of_bucket(subscriber_id: int, bucket_id: int | None) -> Approval | None:
    """The last that holds of the changes of a bucket."""
    rows = Approval.objects.filter(subscriber_id=subscriber_id, bucket_id=bucket_id)
    return rows.exclude(state=State.SUPERSEDED).order_by("-pk").first()


def supersede_of_bucket(subscriber_id: int, bucket_id: int | None, *, at: dt.datetime) -> None:
    """The change of a bucket that was asked for is another by now."""
    Approval.objects.filter(
        subscriber_id=subscriber_id, bucket_id=bucket_id, state=State.PENDING
    ).update(state=State.SUPERSEDED, decided_at=at)


# Deciding ----------------------------------------------------------------------------------------


def find(operator: Operator, approval_id: int) -> Approval:
    """Raises NotFound."""
    found = Approval.objects.filter(operator=operator, pk=min(approval_id, 2**63 - 1)).first()
    if found is None:
        raise NotFound("there is no such approval")
    return found


def decide(
    operator: Operator, approval_id: int, state: str, *, by: str, reason: str, at: dt.datetime
) -> tuple[Approval, bool]:
    """A pending approval, locked, with the decision, which `keep` saves; and whether it is decided
    now. Raises NotFound, FourEyes, Decided, Invalid."""
    find(operator, approval_id)
    approval = Approval.objects.select_for_update(no_key=True).get(pk=approval_id)
    if approval.state == state:
        return approval, False
    if approval.state != State.PENDING:
        raise Decided(f"it is {approval.state} already")
    if not by or not reason.strip():
        raise Invalid("a decision has a person and a reason")
    if by == approval.asked_by:
        raise FourEyes("whoever asked for it cannot decide it: another person, another key")
    approval.state, approval.decided_by, approval.decided_at = state, by, at
    approval.decision = reason[:200]
    return approval, True


def keep(approval: Approval, **made: int) -> Approval:
    """Save a decision, and the id of what was made for it."""
    assert set(made) <= set(_MADE)
    for name, value in made.items():
        setattr(approval, name, value)
    approval.save(update_fields=[*_DECISION, *made])
    return approval
