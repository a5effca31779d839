"""Higress: access log entries of which `ai_log` is JSON in a string, with numbers as strings."""

from __future__ import annotations

import msgspec

from metering.adapters.items import (
    Arrival,
    Counts,
    MaybeCount,
    MaybeId,
    MaybeTime,
    Unfit,
    first,
    inclusive,
    most,
    usage,
)
from metering.adapters.reading import Format
from metering.outcomes import of_status
from metering.parsing import Usage

SOURCE = "higress"


class AiLog(msgspec.Struct, gc=False):
    model: str | None = None
    input_token: MaybeCount = None
    output_token: MaybeCount = None
    total_token: MaybeCount = None
    cached_tokens: MaybeCount = None
    reasoning_tokens: MaybeCount = None
    consumer: MaybeId = None
    user: MaybeId = None


class Event(msgspec.Struct, gc=False):
    ai_log: AiLog | None = None
    request_id: MaybeId = None
    start_time: MaybeTime = None
    response_code: int | None = None
    consumer: MaybeId = None


class _Wrapped(msgspec.Struct, gc=False):
    ai_log: msgspec.Raw = msgspec.Raw()


_wrapped = msgspec.json.Decoder(_Wrapped)
_text = msgspec.json.Decoder(str)
_anything = msgspec.json.Decoder(dict[str, msgspec.Raw])


def unfold(raw: bytes) -> bytes:
    """The entry with `ai_log` as the object that its string holds; as it is where it holds none."""
    try:
        inner = _text.decode(bytes(_wrapped.decode(raw).ai_log)).encode()
        msgspec.json.decode(inner, type=AiLog, strict=False)
        entry = _anything.decode(raw)
    except (msgspec.DecodeError, RecursionError, TypeError):
        return raw
    entry["ai_log"] = msgspec.Raw(inner)
    return msgspec.json.encode(entry)


def usage_of(event: Event, arrival: Arrival) -> Usage:
    said = event.ai_log
    if said is None:
        raise Unfit("no_usage", "the entry has no ai_log")
    outcome = of_status(event.response_code or 200)
    if outcome is not None and said.input_token is None and said.output_token is None:
        counts = Counts(0, 0)
    else:
        counts = inclusive(
            said.input_token,
            said.output_token,
            most(said.cached_tokens),
            0,
            most(said.reasoning_tokens),
            said.total_token,
        )
    return usage(
        arrival,
        counts,
        source=SOURCE,
        id=first(event.request_id),
        subject=first(said.consumer, said.user, event.consumer),
        model=said.model,
        at=event.start_time,
        outcome=outcome,
    )


FORMAT = Format(
    "Higress ai_log",
    SOURCE,
    Event,
    usage_of,
    ("request_id",),
    ("consumer",),
    unfold=unfold,
)
