"""The month close: finds periods that are due, and has them billed in chunks, each once.

A period is due when it has ended, late usage can no longer draw its prepaid units, and all of its
usage is in the hourly totals. Who is due is written down in chunks of subscribers; the chunk's row
is the queue and its lock the claim, so that a worker that dies gives it back with all that it had
begun. What changes of a period after its close (late usage that overflows, usage that is void) is
an adjustment on a later bill.
"""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import dataclass

import psycopg
from django.db import OperationalError, connection, transaction
from django.db.models import Count, F, Min, Q, Sum, Value
from django.db.models.functions import Greatest

from billing import invoicing, prepaid
from billing.collecting import cases
from billing.models import CloseChunk, ClosePause
from metering import rollups
from subscriptions import advisory
from subscriptions.advisory import Lock
from subscriptions.errors import Invalid
from subscriptions.models import Operator, SubscriptionPeriod

CHUNK = 1000
# A charge asks the clock before it asks for its locks. One that takes longer than this is billed
# with the next period, as an adjustment. A standing clock waits for its charges when it is moved.
STILL_CHARGING = dt.timedelta(minutes=10)
_REASON = 1000

State = CloseChunk.State


# Finding what is due -----------------------------------------------------------------------------


def grace_over(operator: Operator, *, at: dt.datetime) -> dt.datetime:
    """What has ended by then no usage can draw any more that comes after `at`."""
    last = at - operator.late_grace
    return last if operator.is_test else last - STILL_CHARGING


def ended_by(operator: Operator, *, at: dt.datetime) -> dt.datetime:
    """The end of the last periods that can be billed at `at`."""
    last = grace_over(operator, at=at)
    unfolded = rollups.unfolded_since(operator.pk)
    return last if unfolded is None else min(last, unfolded)


# A subscriber who could not be billed waits for somebody to look.
_PLAN_SQL = """
INSERT INTO billing_closechunk
    (operator_id, ended_by, first_subscriber, last_subscriber, periods, invoices, state, attempts,
     reason, planned_at, seconds)
SELECT %(operator)s, %(ended_by)s, min(subscriber_id), max(subscriber_id), sum(periods), 0,
       'waiting', 0, '', %(at)s, 0
FROM (
    SELECT p.subscriber_id, count(*) AS periods,
           (row_number() OVER (ORDER BY p.subscriber_id) - 1) / %(size)s AS part
    FROM subscriptions_subscriptionperiod p
    WHERE p.operator_id = %(operator)s AND p.closed_at IS NULL AND p.ends_at <= %(ended_by)s
      AND p.subscriber_id NOT IN (
          SELECT first_subscriber FROM billing_closechunk
          WHERE operator_id = %(operator)s AND state = 'failed')
    GROUP BY p.subscriber_id
) due
GROUP BY part
ORDER BY part
"""


@transaction.atomic
def plan(operator: Operator, *, at: dt.datetime, size: int = CHUNK) -> int:
    """Write down what is due in chunks of at most `size` subscribers; answers how many.

    One planner at a time, and nothing while the close is paused or earlier chunks wait: what became
    due since is found by the next one.
    """
    advisory.take(Lock.CLOSE, operator.pk)
    if paused(operator) is not None:
        return 0
    with connection.cursor() as cursor:
        if CloseChunk.objects.filter(operator=operator, state=State.WAITING).exists():
            return 0
        cursor.execute(
            _PLAN_SQL,
            {
                "operator": operator.pk,
                "ended_by": ended_by(operator, at=at),
                "at": at,
                "size": size,
            },
        )
        return int(cursor.rowcount)


# Closing -----------------------------------------------------------------------------------------


# Django does not wrap what a COPY raises.
_THE_DATABASES_OWN = (OperationalError, psycopg.OperationalError)


class _Failed(Exception):
    """Carries the chunk and what went wrong out of the transaction that is given up."""

    def __init__(self, chunk: CloseChunk, cause: Exception) -> None:
        super().__init__(str(cause))
        self.chunk = chunk
        self.cause = cause


def close_next(operator: Operator, *, at: dt.datetime, wait: bool = False) -> bool:
    """Close one waiting chunk that nobody else is at (`wait`: or wait for it); False: none is left,
    or the close is paused.

    Whatever happens, the chunk is done whole, or put back as it was, halved, or failed with the
    reason.
    """
    try:
        with transaction.atomic():
            if paused(operator) is not None:
                return False
            waiting = CloseChunk.objects.filter(operator=operator, state=State.WAITING)
            chunk = (
                waiting.order_by("pk").select_for_update(skip_locked=not wait, no_key=True).first()
            )
            if chunk is None:
                # The one waited for is done: is there another?
                return wait and waiting.exists()
            try:
                with transaction.atomic():
                    _close(operator, chunk, at=at)
            except Exception as error:
                raise _Failed(chunk, error) from error
    except _Failed as failed:
        if isinstance(failed.cause, _THE_DATABASES_OWN):
            # A deadlock, a restart, a full disk: the chunk is as good as before.
            _note_attempt(failed.chunk, str(failed.cause))
            raise failed.cause from None
        _halve(failed.chunk, failed.cause)
    return True


def _close(operator: Operator, chunk: CloseChunk, *, at: dt.datetime) -> None:
    """Bill what is due of a chunk; who cannot be billed becomes a failed chunk of its own.

    Who already is one is left to it.
    """
    began = time.perf_counter()
    alone = chunk.first_subscriber == chunk.last_subscriber
    billed = invoicing.bill(
        operator,
        first_subscriber=chunk.first_subscriber,
        last_subscriber=chunk.last_subscriber,
        but=[] if alone else _failed(operator.pk),
        ended_by=chunk.ended_by,
        at=at,
    )
    prepaid.apply(
        operator,
        first_subscriber=chunk.first_subscriber,
        last_subscriber=chunk.last_subscriber,
        at=at,
    )
    cases.begin_invoices(
        operator,
        first_subscriber=chunk.first_subscriber,
        last_subscriber=chunk.last_subscriber,
        at=at,
    )
    if alone and billed.failures:
        [reason] = billed.failures.values()
        CloseChunk.objects.filter(pk=chunk.pk).update(
            state=State.FAILED, attempts=F("attempts") + 1, reason=reason[:_REASON]
        )
        return
    CloseChunk.objects.bulk_create(
        [
            CloseChunk(
                operator=operator,
                ended_by=chunk.ended_by,
                first_subscriber=subscriber_id,
                last_subscriber=subscriber_id,
                periods=1,
                state=State.FAILED,
                attempts=chunk.attempts + 1,
                reason=reason[:_REASON],
                planned_at=chunk.planned_at,
            )
            for subscriber_id, reason in sorted(billed.failures.items())
        ]
    )
    CloseChunk.objects.filter(pk=chunk.pk).update(
        state=State.DONE,
        invoices=billed.invoices,
        attempts=F("attempts") + 1,
        reason="",
        done_at=at,
        seconds=F("seconds") + (time.perf_counter() - began),
    )


def _failed(operator_id: int) -> list[int]:
    """The subscribers who wait for somebody to look."""
    failed = CloseChunk.objects.filter(operator_id=operator_id, state=State.FAILED)
    return list(failed.values_list("first_subscriber", flat=True))


def _note_attempt(chunk: CloseChunk, reason: str) -> None:
    CloseChunk.objects.filter(pk=chunk.pk, state=State.WAITING).update(
        attempts=F("attempts") + 1, reason=reason[:_REASON]
    )


@transaction.atomic
def _halve(chunk: CloseChunk, error: Exception) -> None:
    """Put two halves in a chunk's place, so that the one subscriber is found who cannot be closed;
    a single one fails."""
    reason = f"{type(error).__name__}: {error}"[:_REASON] or "?"
    held = CloseChunk.objects.select_for_update().get(pk=chunk.pk)
    if held.state != State.WAITING:
        return
    if held.first_subscriber == held.last_subscriber:
        CloseChunk.objects.filter(pk=held.pk).update(
            state=State.FAILED, attempts=F("attempts") + 1, reason=reason
        )
        return
    due = list(
        SubscriptionPeriod.objects.filter(
            operator_id=held.operator_id,
            closed_at__isnull=True,
            ends_at__lte=held.ended_by,
            subscriber_id__gte=held.first_subscriber,
            subscriber_id__lte=held.last_subscriber,
        )
        .exclude(subscriber_id__in=_failed(held.operator_id))
        .values("subscriber_id")
        .annotate(periods=Count("*"))
        .order_by("subscriber_id")
        .values_list("subscriber_id", "periods")
    )
    middle = max(1, len(due) // 2)
    halves = [half for half in (due[:middle], due[middle:]) if half]
    CloseChunk.objects.filter(pk=held.pk).delete()
    CloseChunk.objects.bulk_create(
        [
            CloseChunk(
                operator_id=held.operator_id,
                ended_by=held.ended_by,
                first_subscriber=half[0][0],
                last_subscriber=half[-1][0],
                periods=sum(periods for _, periods in half),
                attempts=held.attempts + 1,
                reason=reason,
                planned_at=held.planned_at,
            )
            for half in halves
        ]
    )


def close_due(operator: Operator, *, at: dt.datetime) -> None:
    """Plan and close until nothing is due, also what others are at; for a clock that was moved."""
    while True:
        planned = plan(operator, at=at)
        worked = False
        while close_next(operator, at=at, wait=True):
            worked = True
        if not planned and not worked:
            return


def retry_failed(operator: Operator, *, subscriber_id: int | None = None) -> int:
    """Let what failed be tried again, or one of them; answers how many subscribers."""
    failed = CloseChunk.objects.filter(operator=operator, state=State.FAILED)
    if subscriber_id is not None:
        failed = failed.filter(first_subscriber=subscriber_id)
    return failed.update(state=State.WAITING)


# Pausing -----------------------------------------------------------------------------------------


def paused(operator: Operator) -> ClosePause | None:
    """The pause that is now."""
    return ClosePause.objects.filter(operator=operator, until__isnull=True).first()


@transaction.atomic
def pause(operator: Operator, *, by: str, reason: str, at: dt.datetime) -> ClosePause:
    """Let nothing more of the close be begun; whoever is at a chunk finishes it. Again changes
    nothing. Raises Invalid without a person and a reason."""
    if not by or not reason.strip():
        raise Invalid("a pause has a person and a reason")
    found, _ = ClosePause.objects.get_or_create(
        operator=operator,
        until=None,
        defaults={"since": at, "reason": reason[:200], "paused_by": by},
    )
    return found


@transaction.atomic
def resume(operator: Operator, *, by: str, at: dt.datetime) -> bool:
    """Let the close go on where it was; False where it was not paused. Raises Invalid."""
    if not by:
        raise Invalid("a pause is ended by a person")
    found = ClosePause.objects.filter(operator=operator, until__isnull=True)
    return bool(found.update(until=Greatest("since", Value(at)), resumed_by=by))


def waiting(operator: Operator) -> int:
    """How many chunks nobody has closed yet."""
    return CloseChunk.objects.filter(operator=operator, state=State.WAITING).count()


# Looking on --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the close of one date is; `rate` is invoices per second of one worker's work."""

    ended_by: dt.datetime
    planned_at: dt.datetime
    invoices: int
    left: int
    failed: int
    rate: float


def progress(operator: Operator) -> list[Progress]:
    """Each close that was planned for an operator, the newest first."""
    rows = (
        CloseChunk.objects.filter(operator=operator)
        .values("ended_by")
        .annotate(
            planned_at=Min("planned_at"),
            invoices=Sum("invoices"),
            left=Sum("periods", filter=Q(state=State.WAITING), default=0),
            failed=Count("pk", filter=Q(state=State.FAILED)),
            worked=Sum("seconds"),
        )
        .order_by("-ended_by")
    )
    return [
        Progress(
            ended_by=row["ended_by"],
            planned_at=row["planned_at"],
            invoices=row["invoices"],
            left=row["left"],
            failed=row["failed"],
            rate=row["invoices"] / row["worked"] if row["worked"] else 0.0,
        )
        for row in rows
    ]


def failures(operator: Operator) -> list[CloseChunk]:
    """The subscribers who could not be billed, with the reasons."""
    return list(CloseChunk.objects.filter(operator=operator, state=State.FAILED).order_by("pk"))
