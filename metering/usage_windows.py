"""The reconciliation centre: windows of a gateway's time, until we agree with it on what they hold.

A gateway tells its own totals of a window; they are compared with what is known here. Where they
differ it is told what lacks and asked to send that again; where they agree the window is closed.
Usage that comes later is never silent: folding it touches the windows of its time, which are then
compared again, and a closed one that no longer holds what it did is opened.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from django.db import OperationalError, connection, transaction
from django.db.models import F, Q
from psycopg.errors import QueryCanceled

from metering import comparing
from metering.comparing import CLASSES, Findings, Numbers, Span
from metering.models import UsageCounter, UsageWindow, WindowEvent
from metering.parsing import MAX_DIGITS, parse_object
from subscriptions import advisory
from subscriptions.advisory import Lock
from subscriptions.errors import Conflict, Invalid, NotFound
from subscriptions.models import Gateway

MAX_LENGTH = dt.timedelta(days=31)
# Clocks differ; a window is told when it is over.
AHEAD = dt.timedelta(minutes=5)
# Records of that time are still kept; older windows stay as they are.
KEPT = dt.timedelta(days=180)
MAX_TOTAL = 10**15
MAX_NUMBER = 10**MAX_DIGITS - 1
MAX_SEQUENCES = 1000
MAX_REASON = 200
# How long a gateway waits for the comparison; what takes longer is done in the background.
PATIENCE_SECONDS = 20
_State, _Kind = UsageWindow.State, WindowEvent.Kind

Total = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOTAL)]
Number = Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMBER)]
Source = Annotated[str, msgspec.Meta(max_length=256)]
Instant = Annotated[dt.datetime, msgspec.Meta(tz=True)]


class BadWindow(Invalid):
    """A window that cannot be compared."""

    cause = "bad_window"


class NumberRange(msgspec.Struct, gc=False):
    """The numbers of the window's records, first and last included."""

    first: Number
    last: Number
    source: Source | None = None


class Counter(msgspec.Struct, gc=False):
    """`POST /api/v1/usage-counters`, as it is sent; totals are inclusive, as in usage records."""

    window_start: Instant
    window_end: Instant
    requests: Total
    input_tokens: Total
    output_tokens: Total
    cached_input_tokens: Total | None = None
    cache_write_tokens: Total | None = None
    reasoning_tokens: Total | None = None
    source: Source | None = None
    sequences: Annotated[list[NumberRange], msgspec.Meta(max_length=MAX_SEQUENCES)] = []

    def totals(self) -> dict[str, int | None]:
        return {name: getattr(self, name) for name in CLASSES}


_counter = msgspec.json.Decoder(Counter, strict=False)


def parse(body: bytes) -> Counter:
    """Raises Malformed for what cannot be read, Invalid for what breaks a rule."""
    counter = parse_object(body, _counter)
    if (counter.cached_input_tokens or 0) + (counter.cache_write_tokens or 0) > (
        counter.input_tokens
    ):
        raise Invalid("cached_input_tokens + cache_write_tokens exceed input_tokens")
    if (counter.reasoning_tokens or 0) > counter.output_tokens:
        raise Invalid("reasoning_tokens exceed output_tokens, which holds them")
    _name_sources(counter)
    return counter


def _name_sources(counter: Counter) -> None:
    """Numbers without a source are the window's, or of native records; each is told once."""
    sequences = counter.sequences
    for numbers in sequences:
        if numbers.source is None:
            numbers.source = counter.source or ""
        if counter.source is not None and numbers.source != counter.source:
            raise Invalid("the window is of one source, and sequences name another")
        if numbers.first > numbers.last:
            raise Invalid("in sequences first is not after last; leave out what is empty")
    if any("\0" in name for name in (counter.source or "", *(s.source or "" for s in sequences))):
        raise Invalid("a source cannot hold a NUL character")
    sequences.sort(key=lambda numbers: (numbers.source or "", numbers.first))
    for one, after in itertools.pairwise(sequences):
        if one.source == after.source and after.first <= one.last:
            raise Invalid("ranges in sequences overlap")


def post(gateway: Gateway, key_id: int, counter: Counter, *, at: dt.datetime) -> int:
    """Take a gateway's totals of a window; answers the window's id, for `compare`.

    The same totals again change nothing; others take their place, and the earlier are kept.
    Committed before it is compared: usage that the comparison cannot see yet then finds the window
    to touch. Raises BadWindow.
    """
    since, until = counter.window_start, counter.window_end
    if since >= until:
        raise BadWindow("window_start must be before window_end")
    if until - since > MAX_LENGTH:
        raise BadWindow(f"a window is at most {MAX_LENGTH.days} days long")
    if until > at + AHEAD:
        raise BadWindow(f"a window is told when it is over; it is {at.isoformat()} now")
    if since < at - KEPT:
        raise BadWindow(f"a window begins at most {KEPT.days} days ago: records are kept no longer")
    since, until = since.astimezone(dt.UTC), until.astimezone(dt.UTC)
    with transaction.atomic(durable=True):
        window, _ = UsageWindow.objects.get_or_create(
            gateway=gateway,
            source=counter.source,
            window_start=since,
            window_end=until,
            defaults={"operator_id": gateway.operator_id},
        )
        window = UsageWindow.objects.select_for_update().get(pk=window.pk)
        sequences = [msgspec.to_builtins(numbers) for numbers in counter.sequences]
        if window.revision:
            held = _counter_of(window)
            if (_totals(held), held.sequences) == (counter.totals(), sequences):
                return window.pk
        window.revision += 1
        UsageCounter.objects.create(
            window=window,
            revision=window.revision,
            **counter.totals(),
            sequences=sequences,
            received_at=at,
            key_id=key_id,
        )
        _log(window, _Kind.COUNTED, at, key_id=key_id, detail={"revision": window.revision})
        UsageWindow.objects.filter(pk=window.pk).update(
            revision=window.revision, state=_State.OPEN, closed_at=None, closed_reason=""
        )
    return window.pk


def _counter_of(window: UsageWindow) -> UsageCounter:
    return UsageCounter.objects.get(window=window, revision=window.revision)


def _totals(counter: UsageCounter) -> dict[str, int | None]:
    return {name: getattr(counter, name) for name in CLASSES}


def _log(
    window: UsageWindow,
    kind: str,
    at: dt.datetime,
    *,
    reason: str = "",
    detail: dict[str, Any] | None = None,
    key_id: int | None = None,
    by: str = "",
) -> None:
    WindowEvent.objects.create(
        window=window, kind=kind, at=at, reason=reason, detail=detail or {}, key_id=key_id, by=by
    )


# --- comparing ----------------------------------------------------------------------------------


def touch(batch_ids: Sequence[int]) -> None:
    """Usage of these batches has come: the windows of its time are due to be compared again.

    Joins the caller's transaction, which marks the batches, so that each is told exactly once.
    """
    with connection.cursor() as cursor:
        cursor.execute(_TOUCH_SQL, [list(batch_ids)])


_TOUCH_SQL = """
UPDATE metering_usagewindow w SET touches = w.touches + 1
FROM (
    SELECT w.id FROM metering_usagewindow w
    WHERE EXISTS (
        SELECT FROM metering_usagebatch b
        WHERE b.id = ANY(%s) AND b.gateway_id = w.gateway_id
          AND b.occurred_from < w.window_end AND b.occurred_to >= w.window_start)
    ORDER BY w.id
    FOR UPDATE
) touched
WHERE w.id = touched.id
"""
_DUE = Q(state=_State.OPEN) | ~Q(touches=F("compared_touches"))


def due(operator_id: int) -> list[int]:
    """The windows of an operator that have to be compared."""
    rows = UsageWindow.objects.filter(_DUE, operator_id=operator_id, revision__gt=0)
    return list(rows.order_by("id").values_list("id", flat=True))


def compare_due(operator_id: int, *, at: dt.datetime) -> None:
    """Compare all that is due of an operator, one after the other."""
    for window_id in due(operator_id):
        compare(window_id, at=at, only_due=True)


def operator_of(window_id: int) -> int:
    """Whose window it is."""
    return UsageWindow.objects.values_list("operator_id", flat=True).get(pk=window_id)


def compare(
    window_id: int, *, at: dt.datetime, only_due: bool = False, seconds: int | None = None
) -> None:
    """Compare a window as it is now, and close it, or ask for what lacks.

    One at a time; repeatable. `only_due`: not if another has done it meanwhile. It is given up
    after `seconds`, and stays due. A window older than KEPT stays as it is.
    """
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            if seconds is not None:
                cursor.execute("SELECT set_config('statement_timeout', %s, true)", [f"{seconds}s"])
            advisory.take(Lock.USAGE_WINDOW, window_id)
            rows = UsageWindow.objects.filter(pk=window_id, revision__gt=0)
            window = (rows.filter(_DUE) if only_due else rows).first()
            if window is None:
                return
            if window.window_start < at - KEPT and window.state != _State.OPEN:
                _let_be(window)
                return
            counter = _counter_of(window)
            found = comparing.find(
                Span(
                    window.gateway_id,
                    window.source,
                    window.window_start,
                    window.window_end,
                    _totals(counter),
                    [Numbers(**numbers) for numbers in counter.sequences],
                )
            )
            _settle(window, found, at)
            if seconds is not None:
                cursor.execute("SET LOCAL statement_timeout TO DEFAULT")
    except OperationalError as error:
        if not isinstance(error.__cause__, QueryCanceled):
            raise


def _let_be(window: UsageWindow) -> None:
    UsageWindow.objects.filter(pk=window.pk, touches=window.touches).update(
        compared_touches=window.touches
    )


def _settle(seen: UsageWindow, found: Findings, at: dt.datetime) -> None:
    """Write down what was found of the window as it was `seen` before."""
    window = UsageWindow.objects.select_for_update().get(pk=seen.pk)
    if window.revision != seen.revision:
        return  # other counters have come: they are compared by whoever brought them
    before = window.findings["charged"] if window.findings else None
    was_closed = window.state == _State.CLOSED
    unchanged = before == found.charged
    if was_closed and before is not None and not unchanged:
        late = found.charged["requests"] - before["requests"]
        window.late_requests += max(0, late)
        _log(window, _Kind.LATE, at, detail={"requests": late})
    window.findings = comparing.as_json(found)
    window.compared_at = at
    window.compared_touches = seen.touches
    if found.agrees:
        _close(window, at)
    elif was_closed and unchanged:
        pass  # the difference that somebody accepted
    else:
        if was_closed:
            _log(window, _Kind.REOPENED, at, detail={"difference": found.difference})
        window.state, window.closed_at, window.closed_reason = _State.DIFFERS, None, ""
        _ask(window, found, at)
    window.save()


def _close(
    window: UsageWindow,
    at: dt.datetime,
    *,
    reason: str = "",
    key_id: int | None = None,
    by: str = "",
) -> None:
    if window.state != _State.CLOSED:
        window.state, window.closed_at, window.closed_reason = _State.CLOSED, at, reason
        assert window.findings is not None
        difference = window.findings["difference"]
        _log(
            window,
            _Kind.CLOSED,
            at,
            reason=reason,
            detail={"difference": difference, "revision": window.revision},
            key_id=key_id,
            by=by,
        )
    window.asked_at, window.asked_whole, window.asked_reason = None, False, ""


def _ask(window: UsageWindow, found: Findings, at: dt.datetime) -> None:
    """Ask for what lacks; once asked it stays so until the window is closed."""
    whole = window.asked_whole or found.unnamed > 0
    if whole or found.missing_numbers:
        if window.asked_at is None or whole != window.asked_whole:
            window.asked_at, window.asked_whole = window.asked_at or at, whole
            detail = {"requests": found.missing_numbers + found.unnamed, "whole_window": whole}
            _log(window, _Kind.ASKED, at, detail=detail)
    else:
        window.asked_at, window.asked_reason = None, ""


# --- what people decide -------------------------------------------------------------------------


class NotCompared(Conflict):
    cause = "not_compared"


class Closed(Conflict):
    cause = "window_closed"


def find(operator_id: int, window_id: int) -> UsageWindow:
    """Raises NotFound for what is none of the operator's."""
    window = (
        UsageWindow.objects.select_related("gateway")
        .filter(operator_id=operator_id, pk=min(window_id, 2**63 - 1))
        .first()
    )
    if window is None:
        raise NotFound("there is no such window")
    return window


@transaction.atomic
def close(
    window_id: int, *, reason: str, key_id: int | None = None, by: str = "", at: dt.datetime
) -> None:
    """Accept the difference that the last comparison found, by a key or (`by`) somebody on the
    staff. A closed window stays as it is.

    Usage that changes what the window holds opens it again. Raises NotCompared.
    """
    window = UsageWindow.objects.select_for_update().get(pk=window_id)
    if window.state == _State.CLOSED:
        return
    if window.state == _State.OPEN:
        raise NotCompared("this window has not been compared yet; compare it first")
    _close(window, at, reason=reason, key_id=key_id, by=by)
    window.save()


@transaction.atomic
def ask_again(
    window_id: int,
    *,
    reason: str,
    whole: bool,
    key_id: int | None = None,
    by: str = "",
    at: dt.datetime,
) -> None:
    """Ask the gateway to send again what lacks, or (`whole`) all that the window holds.

    Nothing is charged twice by it. Raises Closed, NotCompared.
    """
    window = UsageWindow.objects.select_for_update().get(pk=window_id)
    if window.state == _State.CLOSED:
        raise Closed("this window is closed: nothing of it is missing, or what is was accepted")
    if window.findings is None:
        raise NotCompared("this window has not been compared yet; compare it first")
    whole = whole or not window.findings["missing"]["ranges"]
    window.asked_at, window.asked_reason = at, reason
    window.asked_whole = window.asked_whole or whole
    _log(
        window, _Kind.ASKED, at, reason=reason, detail={"whole_window": whole}, key_id=key_id, by=by
    )
    window.save()


# --- as it travels ------------------------------------------------------------------------------


def as_json(window: UsageWindow, counter: UsageCounter) -> dict[str, Any]:
    """A window for the API. What was found is of `compared_at`; null: not compared yet."""
    findings = window.findings or dict.fromkeys(
        (
            *("charged", "difference", "duplicates", "rejected", "quarantined", "settled"),
            *("outside", "missing"),
        )
    )
    return {
        "id": str(window.pk),
        "gateway": window.gateway.name,
        "source": window.source,
        "window_start": window.window_start,
        "window_end": window.window_end,
        "state": window.state,
        "revision": window.revision,
        "counted": {**_totals(counter), "sequences": counter.sequences},
        **findings,
        "resend": _resend(window),
        "late_requests": window.late_requests,
        "compared_at": window.compared_at,
        "closed_at": window.closed_at,
        "closed_reason": window.closed_reason or None,
    }


def _resend(window: UsageWindow) -> dict[str, Any] | None:
    if window.asked_at is None or window.state == _State.CLOSED:
        return None
    missing = (window.findings or {}).get("missing") or {}
    return {
        "asked_at": window.asked_at,
        "reason": window.asked_reason or None,
        "whole_window": window.asked_whole,
        "ranges": missing.get("ranges", []),
    }


def counters_of(windows: Sequence[UsageWindow]) -> dict[int, UsageCounter]:
    """The counter that holds, by window."""
    rows = UsageCounter.objects.filter(
        window__in=[window.pk for window in windows], revision=F("window__revision")
    )
    return {counter.window_id: counter for counter in rows}


def history_of(window: UsageWindow) -> dict[str, list[dict[str, Any]]]:
    """All counters that were told, and all that happened, from the first on."""
    counters = UsageCounter.objects.filter(window=window).order_by("revision")
    events = WindowEvent.objects.filter(window=window).select_related("key").order_by("id")
    return {
        "counters": [
            {
                "revision": counter.revision,
                **_totals(counter),
                "sequences": counter.sequences,
                "received_at": counter.received_at,
            }
            for counter in counters
        ],
        "events": [
            {
                "kind": event.kind,
                "at": event.at,
                "by": event.key.name if event.key else event.by or None,
                "reason": event.reason or None,
                "detail": event.detail,
            }
            for event in events
        ],
    }
