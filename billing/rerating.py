"""Re-ratings that are put in force: at once, or above the limit of units when another approves."""

from __future__ import annotations

import datetime as dt

from django.db import transaction
from django.db.models import F, Sum
from django.db.models.functions import Abs, Coalesce

from billing import approvals, corrections
from billing.approvals import Kind
from billing.models import Approval
from metering import rerating
from metering.models import Rerating
from subscriptions.models import Operator
from subscriptions.units import to_wire


def moved(run: Rerating) -> int:
    """The units that a re-rating would move, one way or the other."""
    change = Abs(F("units_after") - F("units_before"))
    found = rerating.shares_of(run).aggregate(units=Coalesce(Sum(change), 0))
    return int(found["units"])


@transaction.atomic
def begin(operator: Operator, run: Rerating, *, by: str, at: dt.datetime) -> Rerating | Approval:
    """Let what was previewed be put in force (see `rerating.begin`), or ask for it. Again changes
    nothing. Raises NotPreviewed, SnapshotChanged."""
    known = approvals.about(Kind.RERATING, [run.pk]).get(run.pk)
    approved = known is not None and known.state == Approval.State.APPROVED
    waits = corrections.rules_of(operator.pk, at=at).units_wait(moved(run))
    if run.state != Rerating.State.PREVIEWED or approved or not waits:
        return rerating.begin(run)
    sums = rerating.sums_of(run)
    return approvals.ask(
        operator,
        Kind.RERATING,
        about_id=run.pk,
        effect={
            "rate_card": run.rate_card,
            "since": run.since.isoformat(),
            "until": run.until.isoformat(),
            "records": sums.records,
            "gain": sums.gain,
            "lose": sums.lose,
            "units_before": to_wire(sums.units_before),
            "units_after": to_wire(sums.units_after),
            "units_moved": to_wire(moved(run)),
        },
        reason=run.reason,
        by=by,
        at=at,
    )


def apply_approved(operator: Operator, approval: Approval, at: dt.datetime) -> dict[str, int]:
    """The worker goes on with it. Raises SnapshotChanged where it was refused."""
    assert approval.about_id is not None
    rerating.begin(rerating.find(operator, approval.about_id))
    return {}
