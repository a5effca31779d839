"""OpenMeter: CloudEvents, from LiteLLM's `openmeter` callback, Kong, OpenMeter's own clients.

Unique is source + id. Some senders tell all tokens of a request in one event, some split them into
one for input and one for output (`data.type`), each with an id of its own: then each is a record.
"""

from __future__ import annotations

from typing import Any

import msgspec

from metering.adapters.items import (
    Arrival,
    Cost,
    Counts,
    MaybeCount,
    MaybeId,
    MaybeTime,
    Unfit,
    usage,
)
from metering.adapters.openai import AnyUsage, counts_of_any
from metering.adapters.reading import Format
from metering.parsing import MAX_DIGITS, Usage


class Data(AnyUsage, gc=False):
    """All tokens of a call, or those of one type."""

    model: str | None = None
    cost: Cost = None
    tokens: MaybeCount = None
    type: str | None = None


class Event(msgspec.Struct, gc=False):
    id: MaybeId = None
    source: str | None = None
    subject: MaybeId = None
    time: MaybeTime = None
    type: str | None = None
    data: Data | None = None
    sequence: Any = None  # CloudEvents' extension: the source's own number of the event


# What `data.type` says of `data.tokens`. A system prompt is input.
_SIDES = {
    **dict.fromkeys(("input", "prompt", "request", "system"), "input"),
    **dict.fromkeys(("output", "completion", "response"), "output"),
}


def usage_of(event: Event, arrival: Arrival) -> Usage:
    data = event.data
    if data is None:
        raise Unfit("no_usage", "the event has no data")
    id = event.id
    record = usage(
        arrival,
        _counts(data),
        source=event.source or "openmeter",
        id=id if isinstance(id, str) else "" if id is None else str(id),
        subject=event.subject,
        model=data.model,
        at=event.time,
    )
    if event.sequence is not None:
        _number(record, event)
    return record


def _number(record: Usage, event: Event) -> None:
    """Keep the event's number where a native record has it, if it is one."""
    digits = str(event.sequence) if isinstance(event.sequence, str | int) else ""
    if digits.isascii() and digits.isdigit() and len(digits) <= MAX_DIGITS:
        marks: dict[str, Any] = {"sequence": int(digits)}
        if event.time is None:
            marks["time"] = "received"
        record.attributes = msgspec.Raw(msgspec.json.encode(marks))


def _counts(data: Data) -> Counts:
    if data.tokens is None:
        return counts_of_any(data)
    if any(
        count is not None
        for count in (
            data.prompt_tokens,
            data.completion_tokens,
            data.input_tokens,
            data.output_tokens,
        )
    ):
        raise Unfit("invalid_record", "the event counts both all tokens and those of one type")
    return _one_side(data.tokens, data.type)


def _one_side(tokens: int, type: str | None) -> Counts:
    side = _SIDES.get(type or "")
    if side is None:
        raise Unfit(
            "invalid_record" if type else "no_usage",
            f"data.type says what data.tokens are: one of {', '.join(_SIDES)}",
        )
    return Counts(tokens, 0) if side == "input" else Counts(0, tokens)


FORMAT = Format("OpenMeter", "openmeter", Event, usage_of, ("id",), ("subject",))
