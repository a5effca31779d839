"""Cases from found to decided: the only writer of AnomalyCase, AnomalyStep and AnomalyPolicy.

Freezing is the suspension that protects a line; a case lifts only the one that it began. Who loses
a race for a case finds it in another state.

Locks: the case, then its subscriber.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

from django.db import connection, transaction
from django.db.models import F, Q

from billing.anomalies.finding import Finding, Thresholds
from billing.models import AnomalyCase, AnomalyPolicy, AnomalyStep
from subscriptions import lifecycle
from subscriptions.errors import Conflict, Invalid, NotFound
from subscriptions.models import Operator, Subscriber, Suspension

State = AnomalyCase.State


class CaseDecided(Conflict):
    cause = "decided"


class AlreadySuspended(Conflict):
    cause = "suspended"


# Thresholds --------------------------------------------------------------------------------------


def thresholds_of(operator_id: int) -> Thresholds:
    """An operator's own, or those of everybody."""
    row = AnomalyPolicy.objects.filter(operator_id=operator_id).first()
    if row is None:
        return Thresholds()
    return Thresholds(*(getattr(row, name) for name in Thresholds._fields))


def set_thresholds(operator: Operator, thresholds: Thresholds, *, by: str, at: dt.datetime) -> None:
    """For what is looked at from now on. Raises Invalid."""
    if not (
        1 < thresholds.bill_factor < 1000
        and 1 < thresholds.velocity_factor < 1000
        and thresholds.velocity_units >= 0
        and 2 <= thresholds.networks < 10**6
        and 2 <= thresholds.end_users < 10**6
        and 1 <= thresholds.busy_hours <= 24
        and 1 <= thresholds.busy_days <= 31
    ):
        raise Invalid("factors are above 1, counts 2 or more, busy_hours 1 to 24, busy_days to 31")
    AnomalyPolicy.objects.update_or_create(
        operator=operator, defaults={**thresholds._asdict(), "changed_by": by, "changed_at": at}
    )


# Finding -----------------------------------------------------------------------------------------


def keep(operator: Operator, findings: Iterable[Finding], *, at: dt.datetime) -> int:
    """Put what was found into the queue, in the caller's transaction; answers how many new cases.

    What was seen before, and looked at, does not come again; a further sight of what is undecided
    is counted.
    """
    assert connection.in_atomic_block
    new = 0
    for found in sorted(findings, key=lambda one: one[:3]):
        same = AnomalyCase.objects.filter(subscriber_id=found.subscriber_id, kind=found.kind)
        if same.filter(key=found.key).exists():
            continue
        again = same.filter(state__in=AnomalyCase.UNDECIDED).exclude(evidence__last=found.key)
        evidence = found.evidence | {"last": found.key}
        if again.update(seen=F("seen") + 1, seen_at=at, evidence=evidence):
            continue
        made = AnomalyCase.objects.bulk_create(
            [
                AnomalyCase(
                    operator=operator,
                    subscriber_id=found.subscriber_id,
                    kind=found.kind,
                    key=found.key,
                    evidence=evidence,
                    found_at=at,
                    seen_at=at,
                )
            ],
            ignore_conflicts=True,
        )
        new += len(made)
    return new


def find(operator: Operator, case_id: int) -> AnomalyCase:
    """Raises NotFound."""
    found = (
        AnomalyCase.objects.select_related("subscriber")
        .filter(operator=operator, pk=case_id)
        .first()
    )
    if found is None:
        raise NotFound("there is no such case")
    return found


def steps_of(case: AnomalyCase) -> list[AnomalyStep]:
    """What was done with a case, the earliest first."""
    return list(AnomalyStep.objects.filter(case=case).order_by("nr"))


# Deciding ----------------------------------------------------------------------------------------

# Which state a case may be in for each that it is to be in.
_FROM = {
    State.FROZEN: (State.OPEN,),
    State.RELEASED: (State.FROZEN,),
    State.CONFIRMED: (State.OPEN, State.FROZEN, State.RELEASED),
    State.DISMISSED: (State.OPEN, State.RELEASED),
}


@transaction.atomic
def decide(
    operator: Operator, case_id: int, state: str, *, by: str, reason: str, at: dt.datetime
) -> AnomalyCase:
    """Freeze the line of a case, release it, confirm or dismiss the case. Again changes nothing.

    A confirmed case that was frozen leaves the line frozen: what follows is decided elsewhere.
    Raises NotFound, CaseDecided, Invalid; AlreadySuspended where the line is stopped for another
    reason, which a freeze could not tell from its own.
    """
    find(operator, case_id)
    case = (
        AnomalyCase.objects.select_for_update(of=("self",), no_key=True)
        .select_related("subscriber")
        .get(pk=case_id)
    )
    wanted = State(state)
    if case.state == wanted:
        return case
    if not by or not reason:
        raise Invalid("a decision has a person and a reason")
    if case.state not in _FROM.get(wanted, ()):
        raise CaseDecided(f"it is {case.state}: it does not become {state}")
    if wanted == State.FROZEN:
        _freeze(case, at=at)
    elif wanted == State.RELEASED:
        _release(case, at=at)
    case.state, case.steps = wanted, case.steps + 1
    AnomalyCase.objects.filter(pk=case.pk).update(state=wanted, steps=case.steps)
    AnomalyStep.objects.create(
        case=case, nr=case.steps, state=wanted, by=by, reason=reason[:200], at=at
    )
    return case


def _reason(case: AnomalyCase) -> str:
    return f"anomaly {case.pk}"


def _freeze(case: AnomalyCase, *, at: dt.datetime) -> None:
    # Locked first: whoever suspends the line at this moment is seen, or waits.
    Subscriber.objects.select_for_update(no_key=True).get(pk=case.subscriber_id)
    running = Suspension.objects.filter(subscriber_id=case.subscriber_id)
    if running.filter(Q(ends_at__isnull=True) | Q(ends_at__gt=at)).exists():
        raise AlreadySuspended("the line is suspended or frozen already, for another reason")
    lifecycle.suspend(case.subscriber_id, reason=_reason(case), at=at, frozen=True)


def _release(case: AnomalyCase, *, at: dt.datetime) -> None:
    lifecycle.restore(case.subscriber_id, reason=_reason(case), frozen=True, at=at)
