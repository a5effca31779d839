"""Dunning: the only writer of cases, their events, policies and stops.

What is due is a matter of dates alone (billing/arrears.py); this module finds who is concerned,
does it, and keeps what was done. It may be run twice, by two at once, or die half way: a step is
taken under the lock of its case, from what the case says then. Locks go in one order: subscribers
by id, invoices, cases by key, then what lifecycle locks. Reminders are done for many at once;
what touches a line (suspend, restore, terminate) in a transaction for each subscriber, so that
nobody's usage waits for anybody else's debts.
"""

from __future__ import annotations

import datetime as dt
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from itertools import takewhile
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from django.db import connection, transaction
from django.db.models import Count, Q, QuerySet

from billing import arrears, telling
from billing.arrears import Debt, Span, Standing, Step, Terms
from billing.models import (
    DunningCase,
    DunningCursor,
    DunningEvent,
    DunningPolicy,
    DunningStop,
    ReminderCursor,
)
from subscriptions import lifecycle, periods
from subscriptions.errors import Conflict, Invalid
from subscriptions.models import Operator, Subscriber

CHUNK = 1000
# Why a line is suspended; one that is for another reason is not dunning's to restore.
UNPAID = "unpaid invoices"

State, Kind = DunningCase.State, DunningEvent.Kind
_TOUCHES_A_LINE = {Kind.SUSPENDED, Kind.RESTORED, Kind.TERMINATED}
Key = tuple[int, str]  # (subscriber id, currency)


# Policies ----------------------------------------------------------------------------------------


def set_policy(operator: Operator, *, at: dt.datetime, **terms: Any) -> DunningPolicy:
    """A policy for the invoices issued from `at` on; what is not named stays as it is, and begins
    with the defaults of the table.

    Earlier invoices keep theirs. Raises Invalid for terms outside what the law allows.
    """
    now = terms_by(operator.pk)(at)
    if now is NOTHING:
        now = _terms(DunningPolicy())
    said = {field.name: getattr(now, field.name) for field in fields(Terms)} | terms
    said["reminder_days"] = sorted(set(said["reminder_days"]))
    if not (
        0 <= said["late_fee_rate"] <= Decimal("0.003")
        and 0 <= said["late_fee_cap"] <= 1
        and 0 <= said["late_fee_tax_rate"] < 1
        and all(0 <= said[name] <= _DAYS for name in _COUNTED)
        and all(-_DAYS <= day <= _DAYS and day for day in said["reminder_days"])
    ):
        raise Invalid(
            "a late fee is 0 to 0.003 a day and 0 to 1 of the debt in all, taxed below 1; days are"
            f" 0 to {_DAYS}, of a reminder also below 0, before the due date, but not 0"
        )
    policy, _ = DunningPolicy.objects.update_or_create(
        operator=operator, effective_from=at, defaults=said
    )
    return policy


_DAYS = 3650
_COUNTED = ("late_fee_grace_days", "suspend_after_days", "terminate_after_days")


# What is done about invoices from before an operator's first policy: no debt is pressed by itself.
NOTHING = Terms(
    reminder_days=(),
    late_fee_rate=Decimal(0),
    late_fee_cap=Decimal(0),
    late_fee_grace_days=0,
    late_fee_tax_rate=Decimal(0),
    suspend_after_days=36_500,
    terminate_after_days=36_500,
)


def terms_by(operator_id: int) -> Callable[[dt.datetime], Terms]:
    """An operator's rules by the time of an invoice's issue."""
    policies = list(
        DunningPolicy.objects.filter(operator_id=operator_id).order_by("effective_from")
    )
    starts = [policy.effective_from for policy in policies]
    terms = [NOTHING, *(_terms(policy) for policy in policies)]
    return lambda issued_at: terms[bisect_right(starts, issued_at)]


def _terms(policy: DunningPolicy) -> Terms:
    said = {field.name: getattr(policy, field.name) for field in fields(Terms)}
    return Terms(**{**said, "reminder_days": tuple(policy.reminder_days)})


# Stopping ----------------------------------------------------------------------------------------


class NotStopped(Conflict):
    cause = "not_stopped"


@transaction.atomic
def stop(
    operator: Operator,
    *,
    reason: str,
    at: dt.datetime,
    subscriber_id: int | None = None,
    invoice_id: int | None = None,
) -> DunningStop:
    """Do nothing more about one invoice, about one subscriber's debts, or about anybody's. Again
    changes nothing.

    What was done stays: a suspended line stays so. Money that comes in is noted and restores.
    """
    stopped, _ = DunningStop.objects.get_or_create(
        operator=operator,
        subscriber_id=subscriber_id,  # type: ignore[misc]  # none: all
        invoice_id=invoice_id,
        ends_at=None,
        defaults={"starts_at": at, "reason": reason},
    )
    return stopped


@transaction.atomic
def resume(
    operator: Operator,
    *,
    reason: str,
    at: dt.datetime,
    subscriber_id: int | None = None,
    invoice_id: int | None = None,
) -> None:
    """Go on: what fell due meanwhile is done with the next run, by its date. Raises NotStopped."""
    running = DunningStop.objects.filter(
        operator=operator,
        subscriber_id=subscriber_id,  # type: ignore[misc]  # none: all
        invoice_id=invoice_id,
        ends_at=None,
    )
    if not running.update(ends_at=at, resumed_because=reason):
        raise NotStopped("dunning is not stopped")
    if subscriber_id is not None and invoice_id is not None:
        # The case that passed it over finds it again.
        settle_up(operator, subscriber_id, at=at, only_note=True)


class Stops:
    """The times in which dunning was stopped: for everybody, for a subscriber, for an invoice."""

    def __init__(self, rows: Iterable[DunningStop]) -> None:
        self._spans: dict[tuple[int | None, int | None], list[Span]] = defaultdict(list)
        for row in rows:
            self._spans[row.subscriber_id, row.invoice_id].append(Span(row.starts_at, row.ends_at))

    def of(self, subscriber_id: int, invoice_id: int) -> tuple[Span, ...]:
        keys = ((None, None), (subscriber_id, None), (subscriber_id, invoice_id))
        return tuple(span for key in keys for span in self._spans.get(key, ()))


def stops_of(operator_id: int, subscriber_ids: Sequence[int]) -> Stops:
    """When dunning was stopped for the invoices of these subscribers."""
    concerned = Q(subscriber__isnull=True) | Q(subscriber_id__in=subscriber_ids)
    return Stops(DunningStop.objects.filter(concerned, operator_id=operator_id))


# Running -----------------------------------------------------------------------------------------


def run(operator: Operator, *, at: dt.datetime) -> None:
    """Do all that fell due about an operator's debts by `at`.

    Who cannot be served holds up nobody: the first error is raised when all others are done.
    """
    if _stopped_for_all(operator.pk):
        return
    for days in _days_ahead(operator.pk):
        while _remind_ahead(operator, days, at=at):
            pass
    failed: dict[int, Exception] = {}
    while (lines := _find(operator, at=at)) is not None:
        _serve(operator, lines, failed, at=at)
    while (lines := _chunk(operator, failed, at=at)) is not None:
        _serve(operator, lines, failed, at=at)
    _serve(operator, _lost_suspensions(operator.pk), failed, at=at)
    for error in failed.values():
        raise error


def _stopped_for_all(operator_id: int) -> bool:
    return DunningStop.objects.filter(
        operator_id=operator_id, subscriber__isnull=True, ends_at__isnull=True
    ).exists()


_NUMBERS_SQL = """
SELECT n.year, n.nr, n.subscriber_id, i.currency, i.id, i.issued_at, i.due_at,
       i.state = 'open' AND i.gross > i.paid AS owed
FROM (
    SELECT year, nr, subscriber_id, invoice_id FROM billing_invoicenumber
    WHERE operator_id = %s AND (year, nr) > (%s, %s)
    ORDER BY operator_id, year, nr
    LIMIT %s
) n
JOIN billing_invoice i ON i.subscriber_id = n.subscriber_id AND i.id = n.invoice_id
ORDER BY n.year, n.nr
"""


@transaction.atomic
def _find(operator: Operator, *, at: dt.datetime) -> list[int] | None:
    """Open cases for the next invoices that became overdue; answers the subscribers whose line is
    concerned, None where no further invoice is due."""
    DunningCursor.objects.bulk_create([DunningCursor(operator=operator)], ignore_conflicts=True)
    cursor_row = DunningCursor.objects.select_for_update().get(operator=operator)
    rows = _numbers_after(cursor_row, due_by=at)
    if not rows:
        return None
    keys: set[Key] = {row.key for row in rows if row.owed}
    debts = _debts(operator.pk, sorted({subscriber_id for subscriber_id, _ in keys}), at=at)
    return _advance(operator, {key for key in keys if debts.get(key)}, at=at)


class _Numbered(NamedTuple):
    year: int
    nr: int
    subscriber_id: int
    currency: str
    invoice_id: int
    issued_at: dt.datetime
    due_at: dt.datetime
    owed: bool

    @property
    def key(self) -> Key:
        return self.subscriber_id, self.currency


def _numbers_after(
    cursor_row: DunningCursor | ReminderCursor, *, due_by: dt.datetime
) -> list[_Numbered]:
    """The next numbers that are due by then; the cursor is left behind them."""
    with connection.cursor() as cursor:
        place = [cursor_row.operator_id, cursor_row.year, cursor_row.nr]
        cursor.execute(_NUMBERS_SQL, [*place, CHUNK])
        rows = [_Numbered(*row) for row in cursor.fetchall()]
    passed = list(takewhile(lambda row: row.due_at <= due_by, rows))
    if passed:
        cursor_row.year, cursor_row.nr = passed[-1].year, passed[-1].nr
        cursor_row.save(update_fields=["year", "nr"])
    return passed


def _days_ahead(operator_id: int) -> list[int]:
    """How many days before a due date any of an operator's policies reminds, the most first."""
    said = DunningPolicy.objects.filter(operator_id=operator_id).values_list(
        "reminder_days", flat=True
    )
    return sorted({-day for days in said for day in days if day < 0}, reverse=True)


@transaction.atomic
def _remind_ahead(operator: Operator, days: int, *, at: dt.datetime) -> bool:
    """Remind of the next invoices that are due in so many days; answers whether there may be more.

    What is due by now is reminded of by its case. Whose dunning is stopped hears nothing, later
    neither.
    """
    # What is due already was never to be looked at by a cursor that is new.
    begun = DunningCursor.objects.filter(operator=operator).first()
    place = {"year": begun.year, "nr": begun.nr} if begun else {"year": 0, "nr": 0}
    fresh = ReminderCursor(operator=operator, days=days, **place)
    ReminderCursor.objects.bulk_create([fresh], ignore_conflicts=True)
    cursor_row = ReminderCursor.objects.select_for_update().get(operator=operator, days=days)
    rows = _numbers_after(cursor_row, due_by=at + days * arrears.DAY)
    terms = terms_by(operator.pk)
    soon: dict[Key, set[int]] = defaultdict(set)
    for row in rows:
        if row.owed and row.due_at > at and -days in terms(row.issued_at).reminder_days:
            soon[row.key].add(row.invoice_id)
    if soon:
        stopped = _stopped(operator.pk, sorted({subscriber_id for subscriber_id, _ in soon}))
        told = {key: ids for key, ids in soon.items() if key[0] not in stopped}
        _note_ahead(operator, told, days, at=at)
    return len(rows) == CHUNK


def _note_ahead(
    operator: Operator, soon: dict[Key, set[int]], days: int, *, at: dt.datetime
) -> None:
    """Keep the reminders of these invoices, of those which nothing covers."""
    unpaid = _unpaid(operator.pk, sorted({subscriber_id for subscriber_id, _ in soon}))
    steps = {
        key: [
            arrears.reminder_ahead(debt, days)
            for debt in unpaid.get(key, ())
            if debt.invoice_id in ids and not debt.disputed
        ]
        for key, ids in soon.items()
    }
    changed, events = [], []
    for case in _locked(operator, sorted(key for key, said in steps.items() if said)):
        for step in steps.get((case.subscriber_id, case.currency), ()):
            case.events += 1
            events.append(_event(case, step, at=at))
            changed.append(case)
    DunningEvent.objects.bulk_create(events)
    telling.reminders(events)
    _save(list(dict.fromkeys(changed)))


_QUEUE_SQL = """
SELECT c.subscriber_id, c.currency
FROM billing_dunningcase c
WHERE c.operator_id = %(operator)s AND c.next_at <= %(at)s
  AND c.subscriber_id <> ALL(%(but)s::bigint[])
  AND NOT EXISTS (
      SELECT FROM billing_dunningstop s
      WHERE s.operator_id = c.operator_id AND s.subscriber_id = c.subscriber_id
        AND s.invoice_id IS NULL AND s.ends_at IS NULL)
ORDER BY c.next_at
LIMIT %(limit)s
"""


@transaction.atomic
def _chunk(
    operator: Operator, failed: dict[int, Exception], *, at: dt.datetime
) -> list[int] | None:
    """Take the steps of the cases that are due, but for those that touch a line; answers whose
    line is concerned, None where no case is due."""
    with connection.cursor() as cursor:
        cursor.execute(
            _QUEUE_SQL,
            {"operator": operator.pk, "at": at, "but": list(failed), "limit": CHUNK},
        )
        keys = {(subscriber_id, currency) for subscriber_id, currency in cursor.fetchall()}
    return _advance(operator, keys, at=at) if keys else None


def _serve(
    operator: Operator,
    subscriber_ids: Iterable[int],
    failed: dict[int, Exception],
    *,
    at: dt.datetime,
) -> None:
    for subscriber_id in subscriber_ids:
        try:
            settle_up(operator, subscriber_id, at=at)
        except Exception as error:
            failed[subscriber_id] = error


_LOST_SQL = """
SELECT DISTINCT c.subscriber_id FROM billing_dunningcase c
WHERE c.operator_id = %(operator)s AND c.next_at IS NOT NULL AND c.state = 'suspended'
  AND NOT EXISTS (
      SELECT FROM subscriptions_suspension s
      WHERE s.subscriber_id = c.subscriber_id AND s.ends_at IS NULL)
  AND NOT EXISTS (
      SELECT FROM billing_dunningstop s
      WHERE s.operator_id = c.operator_id AND s.subscriber_id = c.subscriber_id
        AND s.invoice_id IS NULL AND s.ends_at IS NULL)
ORDER BY 1
"""


def _lost_suspensions(operator_id: int) -> list[int]:
    """Who owes a suspension that does not run: another reason held the line then, and is gone."""
    with connection.cursor() as cursor:
        cursor.execute(_LOST_SQL, {"operator": operator_id})
        return [subscriber_id for (subscriber_id,) in cursor.fetchall()]


@transaction.atomic
def settle_up(
    operator: Operator, subscriber_id: int, *, at: dt.datetime, only_note: bool = False
) -> None:
    """Bring one subscriber's cases to where its debts and the dates say, its line too.

    Joins the caller's transaction, which may have locked the subscriber already. `only_note`: that
    something is overdue, and do nothing about it, for it is just being paid.
    """
    Subscriber.objects.select_for_update(no_key=True).get(pk=subscriber_id)
    keys = set(
        DunningCase.objects.filter(subscriber_id=subscriber_id).values_list(
            "subscriber_id", "currency"
        )
    )
    keys |= {key for key, debts in _debts(operator.pk, [subscriber_id], at=at).items() if debts}
    _advance(operator, keys, at=at, lines_too=True, only_note=only_note)


# The cases ---------------------------------------------------------------------------------------


def _advance(
    operator: Operator,
    keys: Iterable[Key],
    *,
    at: dt.datetime,
    lines_too: bool = False,
    only_note: bool = False,
) -> list[int]:
    """Take all steps of these cases that are due by `at`, and keep them.

    Without `lines_too` a case is left as it is if any step touches a line; answers whose those are.
    Only who holds the subscriber's lock may touch its line.
    """
    assert connection.in_atomic_block
    subscriber_ids = sorted({subscriber_id for subscriber_id, _ in keys})
    if not subscriber_ids:
        return []
    cases = _locked(operator, sorted(keys))
    debts = _debts(operator.pk, subscriber_ids, at=at)
    stopped = _stopped(operator.pk, subscriber_ids)
    changed, events, others = [], [], set()
    touched: dict[int, list[Step]] = defaultdict(list)
    for case in cases:
        standing = Standing(
            case.state,
            case.invoice_id,
            case.since,
            case.reminded,
            case.suspended_at,
            case.changed_at,
        )
        overdue = debts.get((case.subscriber_id, case.currency), ())
        debt = arrears.pressed(standing, overdue, at=at)
        disputed = debt is not None and debt.disputed
        halted = only_note or disputed or case.subscriber_id in stopped
        steps = arrears.advance(standing, debt, at=at, stopped=halted)
        lines = [step for step in steps if step.kind in _TOUCHES_A_LINE]
        if lines and not lines_too:
            others.add(case.subscriber_id)
            continue
        touched[case.subscriber_id] += lines
        for step in steps:
            case.events += 1
            events.append(_event(case, step, at=at))
        for name in _STANDING:
            setattr(case, name, getattr(standing, name))
        ahead = arrears.next_step(standing, debt) if debt is not None and not disputed else None
        case.next_at = None if ahead is None else ahead.at
        changed.append(case)
    DunningEvent.objects.bulk_create(events)
    telling.reminders(events)
    _save(changed)
    if lines_too:
        for subscriber_id in subscriber_ids:
            _touch(subscriber_id, touched[subscriber_id], at=at)
    return sorted(others)


_STANDING = [field.name for field in fields(Standing)]


def _event(case: DunningCase, step: Step, *, at: dt.datetime) -> DunningEvent:
    return DunningEvent(
        subscriber_id=case.subscriber_id,
        currency=case.currency,
        nr=case.events,
        operator_id=case.operator_id,
        kind=step.kind,
        at=step.at,
        done_at=at,
        invoice_id=step.invoice_id,
        reason=step.reason,
    )


# One that is not there yet begins as if all had been settled ever since: it is never later than
# what becomes overdue, and says that nothing ever was.
NEVER = periods.FIRST
_BEGIN_SQL = """
INSERT INTO billing_dunningcase
    (subscriber_id, currency, operator_id, state, reminded, changed_at, events)
SELECT k.subscriber_id, k.currency, %s, 'settled', 0, %s, 0
FROM unnest(%s::bigint[], %s::text[]) AS k (subscriber_id, currency)
ORDER BY k.subscriber_id, k.currency
ON CONFLICT DO NOTHING
"""
_SAVE_SQL = """
UPDATE billing_dunningcase c
SET state = k.state, invoice_id = k.invoice_id, since = k.since, reminded = k.reminded,
    suspended_at = k.suspended_at, changed_at = k.changed_at, next_at = k.next_at,
    events = k.events
FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::bigint[], %s::timestamptz[], %s::int[],
            %s::timestamptz[], %s::timestamptz[], %s::timestamptz[], %s::int[])
     AS k (subscriber_id, currency, state, invoice_id, since, reminded, suspended_at, changed_at,
           next_at, events)
WHERE c.subscriber_id = k.subscriber_id AND c.currency = k.currency
"""


def _locked(operator: Operator, keys: Sequence[Key]) -> list[DunningCase]:
    """The cases of these keys and the same subscribers' others, locked in their order; made where
    there are none."""
    subscriber_ids, currencies = [key[0] for key in keys], [key[1] for key in keys]
    with connection.cursor() as cursor:
        cursor.execute(_BEGIN_SQL, [operator.pk, NEVER, subscriber_ids, currencies])
    return list(
        DunningCase.objects.filter(subscriber_id__among=subscriber_ids)
        .order_by("subscriber_id", "currency")
        .select_for_update(no_key=True)
    )


def _save(cases: Sequence[DunningCase]) -> None:
    if not cases:
        return
    names = ("subscriber_id", "currency", *_STANDING, "next_at", "events")
    with connection.cursor() as cursor:
        cursor.execute(_SAVE_SQL, [[getattr(case, name) for case in cases] for name in names])


_DEBTS_SQL = """
SELECT subscriber_id, currency, id, number, issued_at, due_at, gross - paid
FROM billing_invoice
WHERE subscriber_id = ANY(%s::bigint[]) AND operator_id = %s AND state = 'open'
ORDER BY subscriber_id, currency, due_at, id
"""


def _unpaid(operator_id: int, subscriber_ids: Sequence[int]) -> dict[Key, list[Debt]]:
    """By subscriber and currency the invoices that are owed, disputed or not, what is due first at
    the head.

    What the subscriber gets (a credit note on what was paid) covers its oldest debts first.
    """
    owed: dict[Key, list[Any]] = defaultdict(list)
    covered: dict[Key, Decimal] = defaultdict(Decimal)
    with connection.cursor() as cursor:
        cursor.execute(_DEBTS_SQL, [list(subscriber_ids), operator_id])
        for subscriber_id, currency, *rest in cursor.fetchall():
            if rest[-1] < 0:
                covered[subscriber_id, currency] -= rest[-1]
            else:
                owed[subscriber_id, currency].append(rest)
    terms = terms_by(operator_id)
    zone = ZoneInfo(Operator.objects.values_list("time_zone", flat=True).get(pk=operator_id))
    disputed = set(
        DunningStop.objects.filter(
            operator_id=operator_id,
            subscriber_id__among=subscriber_ids,
            invoice_id__isnull=False,
            ends_at__isnull=True,
        ).values_list("invoice_id", flat=True)
    )
    unpaid: dict[Key, list[Debt]] = defaultdict(list)
    for key, rows in owed.items():
        for invoice_id, number, issued_at, due_at, amount in rows:
            if not unpaid[key] and covered[key] >= amount:
                covered[key] -= amount
                continue
            due_on = periods.day_of(due_at, zone)
            debt = Debt(
                invoice_id, number, due_at, due_on, terms(issued_at), invoice_id in disputed
            )
            unpaid[key].append(debt)
    return unpaid


def _debts(
    operator_id: int, subscriber_ids: Sequence[int], *, at: dt.datetime
) -> dict[Key, list[Debt]]:
    """By subscriber and currency the invoices that are overdue, the oldest first."""
    unpaid = _unpaid(operator_id, subscriber_ids)
    return {key: [debt for debt in debts if debt.due_at <= at] for key, debts in unpaid.items()}


def _stopped(operator_id: int, subscriber_ids: Sequence[int]) -> set[int]:
    """Whose dunning is stopped now, for all of their invoices."""
    if _stopped_for_all(operator_id):
        return set(subscriber_ids)
    return set(
        DunningStop.objects.filter(
            operator_id=operator_id,
            subscriber_id__among=subscriber_ids,
            invoice_id__isnull=True,
            ends_at__isnull=True,
        ).values_list("subscriber_id", flat=True)
    )


# The line ----------------------------------------------------------------------------------------


def _touch(subscriber_id: int, steps: Sequence[Step], *, at: dt.datetime) -> None:
    """Suspend, restore or end what a subscriber holds, as its cases now say."""
    for step in steps:
        if step.kind == Kind.TERMINATED:
            lifecycle.terminate(subscriber_id, reason=step.reason, at=at)
    held = DunningCase.objects.filter(
        subscriber_id=subscriber_id, state__in=[State.SUSPENDED, State.TERMINATED]
    ).exists()
    if held:  # while another reason stops the line, the sweep looks again when that is gone
        lifecycle.suspend(subscriber_id, reason=UNPAID, at=at)
    else:
        lifecycle.restore(subscriber_id, reason=UNPAID, at=at)


# Looking on --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Overview:
    """How many cases there are in each state, and what is stopped."""

    states: dict[str, int]
    stops: list[DunningStop]


def overview(operator: Operator) -> Overview:
    """An operator's cases by state, and the stops that hold."""
    counted = (
        DunningCase.objects.filter(operator=operator, events__gt=0)
        .values_list("state")
        .annotate(cases=Count("*"))
        .order_by("state")
    )
    return Overview(dict(counted), list(_running_stops(operator)))


def stops_for(subscriber: Subscriber) -> list[DunningStop]:
    """The stops that hold for a subscriber: its own, and those of everybody."""
    concerned = Q(subscriber__isnull=True) | Q(subscriber=subscriber)
    return list(_running_stops(subscriber.operator).filter(concerned))


def _running_stops(operator: Operator) -> QuerySet[DunningStop]:
    running = DunningStop.objects.filter(operator=operator, ends_at__isnull=True)
    return running.select_related("subscriber").order_by("pk")
