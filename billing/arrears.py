"""What the dates say about a debt: which step is due when, and what its lateness costs.

Pure functions on frozen values. Days are counted from the due date, in 24 hours.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_DOWN, Decimal
from itertools import groupby
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from billing import rating
from billing.models import DunningCase, DunningEvent
from subscriptions import periods

DAY = dt.timedelta(days=1)
State, Kind = DunningCase.State, DunningEvent.Kind


# Steps -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Terms:
    """A policy's rules. Reminder days below 0 are before the due date."""

    reminder_days: tuple[int, ...]
    late_fee_rate: Decimal
    late_fee_cap: Decimal
    late_fee_grace_days: int
    late_fee_tax_rate: Decimal
    suspend_after_days: int
    terminate_after_days: int


@dataclass(frozen=True, slots=True)
class Debt:
    """An invoice that is owed, and the rules it goes by. Nothing is done about a disputed one."""

    invoice_id: int
    number: str
    due_at: dt.datetime
    due_on: dt.date  # the operator's day
    terms: Terms
    disputed: bool = False

    def after(self, days: int) -> dt.datetime:
        return self.due_at + days * DAY


@dataclass(slots=True)
class Standing:
    """How far a case is."""

    state: str
    invoice_id: int | None
    since: dt.datetime | None
    reminded: int
    suspended_at: dt.datetime | None
    changed_at: dt.datetime


class Step(NamedTuple):
    kind: str
    at: dt.datetime  # its own date
    invoice_id: int
    reason: str


def pressed(case: Standing, overdue: Sequence[Debt], *, at: dt.datetime) -> Debt | None:
    """Which of the overdue invoices, the oldest first, a case goes by: the oldest that nobody
    disputes. One that is disputed only since stays its own while there is no other, or while the
    line is held for it and no other is old enough to hold it."""
    free = next((debt for debt in overdue if not debt.disputed), None)
    own = next((debt for debt in overdue if debt.invoice_id == case.invoice_id), None)
    if own is None or not own.disputed:
        return free
    if free is None or (_held(case) and at < free.after(free.terms.suspend_after_days)):
        return own
    return free


def look(case: Standing, debt: Debt | None, *, at: dt.datetime) -> list[Step]:
    """Bring a case in line with its oldest debt, whatever the time: open, settle, or go by another.

    A line is restored when no debt is left that is old enough to suspend it.
    """
    if debt is None:
        return _settled(case, at=at)
    if case.invoice_id == debt.invoice_id:
        return []
    steps: list[Step] = []
    if case.state == State.SETTLED:
        # What was settled and is owed again is overdue from then on, not from before.
        since = max(debt.due_at, case.changed_at)
        case.state, case.changed_at = State.OVERDUE, since
    else:
        since = at
        if _held(case) and at < debt.after(debt.terms.suspend_after_days):
            assert case.invoice_id is not None
            reason = "what was owed longest is paid"
            steps.append(Step(Kind.RESTORED, at, case.invoice_id, reason))
            case.state, case.suspended_at, case.changed_at = State.OVERDUE, None, at
        elif case.suspended_at is not None:
            # For this one it is held no longer than this one could hold it.
            own = debt.after(debt.terms.suspend_after_days)
            case.suspended_at = max(case.suspended_at, own)
    # Its earlier reminders were those of the debt before it, or are sent already.
    case.reminded = max(0, (since - debt.due_at) // DAY)
    case.invoice_id, case.since = debt.invoice_id, debt.due_at
    reason = f"{debt.number} was due on {debt.due_on}"
    return [*steps, Step(Kind.OVERDUE, since, debt.invoice_id, reason)]


def _settled(case: Standing, *, at: dt.datetime) -> list[Step]:
    steps: list[Step] = []
    if case.state == State.SETTLED:
        return steps
    assert case.invoice_id is not None
    if _held(case):
        steps.append(Step(Kind.RESTORED, at, case.invoice_id, "nothing is overdue"))
    steps.append(Step(Kind.SETTLED, at, case.invoice_id, "nothing is overdue"))
    case.state, case.changed_at = State.SETTLED, at
    case.invoice_id = case.since = case.suspended_at = None
    return steps


def _held(case: Standing) -> bool:
    return case.state in (State.SUSPENDED, State.TERMINATED)


def reminder_ahead(soon: Debt, days: int) -> Step:
    """The reminder of an invoice so many days before it is due; it leads a case nowhere."""
    reason = f"{soon.number} is due on {soon.due_on}"
    return Step(Kind.REMINDER, soon.after(-days), soon.invoice_id, reason)


def next_step(case: Standing, debt: Debt) -> Step | None:
    """What is done next if nothing is paid, with its date; of one instant a reminder comes first.

    The termination, which nobody can undo, is counted from when the line was suspended in fact:
    whoever was suspended late has all the days to pay nonetheless.
    """
    terms, steps = debt.terms, []
    if case.state not in (State.OVERDUE, State.SUSPENDED):
        return None
    for day in sorted(terms.reminder_days):
        if day > case.reminded:
            reason = f"{debt.number} is {day} days overdue"
            steps.append(Step(Kind.REMINDER, debt.after(day), debt.invoice_id, reason))
            break
    if case.state == State.OVERDUE:
        due = max(debt.after(terms.suspend_after_days), case.changed_at)
        reason = f"{debt.number} is {terms.suspend_after_days} days overdue"
        steps.append(Step(Kind.SUSPENDED, due, debt.invoice_id, reason))
    else:
        assert case.suspended_at is not None
        due = case.suspended_at + terms.terminate_after_days * DAY
        reason = f"suspended for {terms.terminate_after_days} days, {debt.number} is unpaid"
        steps.append(Step(Kind.TERMINATED, due, debt.invoice_id, reason))
    return min(steps, key=lambda step: step.at)


def take(case: Standing, step: Step, debt: Debt, *, at: dt.datetime) -> None:
    """Put a case where a step that is done at `at` leads."""
    if step.kind == Kind.REMINDER:
        case.reminded = (step.at - debt.due_at) // DAY
    elif step.kind == Kind.SUSPENDED:
        case.state, case.suspended_at, case.changed_at = State.SUSPENDED, at, at
    else:
        assert step.kind == Kind.TERMINATED
        case.state, case.changed_at = State.TERMINATED, at


def advance(case: Standing, debt: Debt | None, *, at: dt.datetime, stopped: bool) -> list[Step]:
    """All steps that are due by `at`, in order; the case is left where they lead.

    While it is stopped only what money did is noted.
    """
    steps = look(case, debt, at=at)
    while debt is not None and not stopped:
        step = next_step(case, debt)
        if step is None or step.at > at:
            break
        take(case, step, debt, at=at)
        steps.append(step)
    return steps


# Late fees ---------------------------------------------------------------------------------------


class Span(NamedTuple):
    """`[since, until)`; None: open."""

    since: dt.datetime
    until: dt.datetime | None

    def holds(self, moment: dt.datetime) -> bool:
        return self.since <= moment and (self.until is None or moment < self.until)


@dataclass(frozen=True, slots=True)
class Late:
    """An invoice whose due date is over. `principal` is what was asked for, without late fees and
    what credit notes took back: that was never owed. `billed` is the late fee on bills so far."""

    invoice_id: int
    number: str
    currency: str
    due_at: dt.datetime
    principal: Decimal
    payments: tuple[tuple[dt.datetime, Decimal], ...]
    terms: Terms
    stops: tuple[Span, ...] = ()
    billed: Decimal = rating.ZERO


@dataclass(frozen=True, slots=True)
class Accrued:
    """A late fee up to an instant: `spells` are (amount owed, days), `gross` their sum x rate."""

    spells: tuple[tuple[Decimal, int], ...]
    gross: Decimal


def accrued(late: Late, *, until: dt.datetime) -> Accrued:
    """What an invoice's lateness costs by `until`: rate x what was owed at the end of each whole
    day, never above the cap; exact, and rounded once, here.

    The grace and days that end while dunning is stopped cost nothing.
    """
    owed = []
    cap, exact = cap_of(late), Decimal(0)
    for day in range(late.terms.late_fee_grace_days + 1, (until - late.due_at) // DAY + 1):
        moment = late.due_at + day * DAY
        paid = sum((amount for at, amount in late.payments if at <= moment), rating.ZERO)
        left = late.principal - paid
        if exact >= cap or (left <= 0 and all(at <= moment for at, _ in late.payments)):
            break  # nothing more can come: a payment that is taken back lets it be owed again
        if left > 0 and not any(stop.holds(moment) for stop in late.stops):
            owed.append(left)
            exact += left * late.terms.late_fee_rate
    spells = tuple((amount, len(list(days))) for amount, days in groupby(owed))
    return Accrued(spells, min(rating.to_fen(exact), cap))


def cap_of(late: Late) -> Decimal:
    """The most that an invoice's late fee may come to, rounded down: never above is never above."""
    return (late.principal * late.terms.late_fee_cap).quantize(rating.FEN, ROUND_DOWN)


def late_fee_line(late: Late, *, until: dt.datetime, zone: ZoneInfo) -> rating.Line | None:
    """What a bill says of an invoice's lateness by `until`: all of it less what bills said before.

    Below zero where a credit note has taken back what the fee was for. None: nothing to say.
    """
    now = accrued(late, until=until)
    gross = now.gross - late.billed
    if not gross:
        return None
    basis: dict[str, Any] = {
        "late": late.number,
        "late_id": late.invoice_id,
        "due_at": periods.local(late.due_at, zone),
        "until": periods.local(until, zone),
        "principal": str(late.principal),
        "spells": [[str(amount), days] for amount, days in now.spells],
        "rate": str(late.terms.late_fee_rate.normalize()),
        "cap": str(cap_of(late)),
        "accrued": str(now.gross),
        "billed_gross": str(late.billed),
    }
    tax_rate = late.terms.late_fee_tax_rate
    return rating.line("late_fee", late.number, gross, tax_rate, basis)


def late_fee_lines(
    arrears: Sequence[Late], *, until: dt.datetime, currency: str, zone: ZoneInfo
) -> list[rating.Line]:
    """The late fees of a bill in a currency, oldest debt first."""
    lines = [
        late_fee_line(late, until=until, zone=zone) for late in arrears if late.currency == currency
    ]
    return [line for line in lines if line is not None]


def with_billed(arrears: Sequence[Late], lines: Sequence[rating.Line]) -> list[Late]:
    """The same arrears when these lines are on a bill."""
    said = {line.basis["late_id"]: line.gross for line in lines}
    return [
        replace(late, billed=late.billed + said.get(late.invoice_id, rating.ZERO))
        for late in arrears
    ]
