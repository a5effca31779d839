"""What every adapter needs: names, times and counts, and how a native record is made of them."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable
from functools import cached_property
from typing import Annotated, Any, NamedTuple

import msgspec

from metering.outcomes import FRUITLESS
from metering.parsing import Count, SourcedUsage, Usage, check
from subscriptions.outcomes import Outcome

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
MAX_COUNT = 1_000_000_000
MAX_ID, MAX_NAME = 512, 256
# Lax decoding (strict=False) takes numbers as text, and Unix seconds as a time, also as text.
MaybeCount = Count | None
MaybeId = str | int | None
MaybeTime = dt.datetime | None
# As far as a calendar goes.
Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=221_000_000_000_000)]
# Read only so that a number beyond every float is noticed; what a call cost upstream is not ours.
Cost = float | str | None

# What a record says of a time that its sender did not give.
_RECEIVED = msgspec.Raw(b'{"time":"received"}')


class Unfit(Exception):
    """An event that cannot be charged; goes to the quarantine."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause
        self.detail = detail


class RandomlyNamed(SourcedUsage, kw_only=True, gc=False):
    """Usage whose id was made up for one sending: sent again, it would be charged again."""


class Arrival:
    """What a request says beside its body.

    `subject` is the one its key is bound to, or ""; `key` its Idempotency-Key, or "". The time of
    arrival is the operator's, and asked for only where an event has none.
    """

    def __init__(
        self,
        clock: Callable[[], dt.datetime],
        *,
        subject: str = "",
        key: str = "",
        new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
    ) -> None:
        self._clock = clock
        self.subject = subject
        self.key = key
        self.new_id = new_id

    @cached_property
    def received_at(self) -> dt.datetime:
        return self._clock()


class Counts(NamedTuple):
    """Inclusive totals: input holds cached and written, output holds reasoning."""

    input: int
    output: int
    cached: int = 0
    written: int = 0
    reasoning: int = 0


def first(*names: MaybeId) -> str:
    """The first name that is there, as text."""
    for name in names:
        if name is not None and name != "":
            return name if isinstance(name, str) else str(name)
    return ""


def most(*counts: MaybeCount) -> int:
    """The one count that a sender gives under several names; zero where under none."""
    largest = 0
    for count in counts:
        if count is not None and count > largest:
            largest = count
    return largest


def instant_of(milliseconds: float | None) -> MaybeTime:
    return None if milliseconds is None else _EPOCH + dt.timedelta(milliseconds=milliseconds)


def inclusive(
    given: MaybeCount,
    made: MaybeCount,
    cached: int = 0,
    written: int = 0,
    reasoning: int = 0,
    total: MaybeCount = None,
) -> Counts:
    """Totals as OpenAI counts: details lie inside. Raises Unfit where no total is given at all.

    Some providers answer on the same wire with details beside the totals; then the total of all
    tells, for it is the sum. Where the sum can be read in two ways it is not guessed.
    """
    if given is None and made is None:
        raise Unfit("no_usage", "the event counts no input and no output tokens")
    given, made = given or 0, made or 0
    if total is not None and total != given + made:
        beside_input, beside_output = cached + written, reasoning
        fits = {
            (i, o)
            for i in {0, beside_input}
            for o in {0, beside_output}
            if given + made + i + o == total
        }
        if len(fits) > 1:
            raise Unfit("invalid_record", "the total fits two ways of counting")
        for i, o in fits:
            given, made = given + i, made + o
    return Counts(given, made, cached, written, reasoning)


def usage(
    arrival: Arrival,
    counts: Counts,
    *,
    source: str,
    id: str,
    subject: MaybeId,
    model: str | None,
    at: MaybeTime,
    outcome: Outcome | None = None,
    part: dict[str, Any] | None = None,
    random: bool = False,
) -> Usage:
    """The native record. Raises Unfit for what no record may be.

    Without a time it is of when it was received, and says so. `part` marks an event of which the
    tokens are counted in another one: it may be empty, and the mark tells what it said. `random`:
    the id was made up for this sending.
    """
    given, made, cached, written, reasoning = counts
    name = arrival.subject or (subject if isinstance(subject, str) else first(subject))
    attributes: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    if at is None:
        at, attributes = arrival.received_at, _RECEIVED
    elif at.tzinfo is None:
        at = at.replace(tzinfo=dt.UTC)
    if part is not None:
        marks = part if attributes is msgspec.UNSET else {**part, "time": "received"}
        attributes = msgspec.Raw(msgspec.json.encode(marks))
    made_of = RandomlyNamed if random else SourcedUsage
    record = made_of(
        id, name, model or "", at, given, made, cached, written, reasoning, outcome,
        attributes, source=source,
    )  # fmt: skip
    _require_names(record)
    if given > MAX_COUNT or made > MAX_COUNT:
        raise Unfit("invalid_record", f"token counts are at most {MAX_COUNT}")
    problem = check(record, nul=False, empty=part is not None or outcome in FRUITLESS)
    if problem is not None:
        raise Unfit(*problem)
    return record


def _require_names(record: SourcedUsage) -> None:
    id, subject, model, source = record.id, record.subject, record.model, record.source
    if not subject:
        raise Unfit("unknown_subject", "the event names nobody, and no key is bound to a subject")
    if not id or not model:
        raise Unfit("invalid_record", f"the event names no {'model' if id else 'id'}")
    if len(id) > MAX_ID or len(subject) > MAX_NAME or len(model) > MAX_NAME:
        raise Unfit("invalid_record", "an id, subject or model is too long")
    if len(source) > MAX_NAME:
        raise Unfit("invalid_record", "the source is too long")
    if "\0" in id or "\0" in subject or "\0" in model or "\0" in source:
        raise Unfit("invalid_record", "id, subject, model and source cannot hold a NUL character")
