"""Polar: events whose metadata tell the tokens of a call, under `_llm` or plainly.

Totals hold their details, in OpenAI's way. An `external_id` is the id; without one it is made up.
"""

from __future__ import annotations

import msgspec

from metering.adapters.items import (
    Arrival,
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
from metering.parsing import Usage

SOURCE = "polar"


class Llm(msgspec.Struct, gc=False):
    vendor: str | None = None
    model: str | None = None
    input_tokens: MaybeCount = None
    cached_input_tokens: MaybeCount = None
    output_tokens: MaybeCount = None
    total_tokens: MaybeCount = None


class Metadata(Llm, gc=False):
    """Plain metadata; Polar's TypeScript strategy writes them in camel case."""

    llm: Llm | None = msgspec.field(default=None, name="_llm")
    input_camel: MaybeCount = msgspec.field(default=None, name="inputTokens")
    cached_camel: MaybeCount = msgspec.field(default=None, name="cachedInputTokens")
    output_camel: MaybeCount = msgspec.field(default=None, name="outputTokens")


class Event(msgspec.Struct, gc=False):
    name: str | None = None
    external_id: MaybeId = None
    external_customer_id: MaybeId = None
    customer_id: MaybeId = None
    timestamp: MaybeTime = None
    metadata: Metadata | None = None


def usage_of(event: Event, arrival: Arrival) -> Usage:
    metadata = event.metadata
    if metadata is None:
        raise Unfit("no_usage", "the event has no metadata")
    said = metadata.llm or metadata
    given, made, cached = said.input_tokens, said.output_tokens, said.cached_input_tokens
    if metadata.llm is None and given is None and made is None:
        given, made = metadata.input_camel, metadata.output_camel
        cached = metadata.cached_camel
    return usage(
        arrival,
        inclusive(given, made, most(cached), total=said.total_tokens),
        source=SOURCE,
        id=first(event.external_id) or arrival.new_id(),
        subject=first(event.external_customer_id, event.customer_id),
        model=said.model,
        at=event.timestamp,
        random=not event.external_id,
    )


FORMAT = Format("Polar", SOURCE, Event, usage_of, ("external_id",), ("external_customer_id",))
