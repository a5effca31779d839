"""APISIX's http-logger: log entries with what its AI plugins add as `llm_summary`.

The id is the request's (of the request-id plugin). Without one it is the digest of what is read of
the entry, its time and duration among it, so an entry sent again is known again.
"""

from __future__ import annotations

import hashlib

import msgspec

from metering.adapters.items import (
    Arrival,
    Counts,
    MaybeCount,
    MaybeId,
    Milliseconds,
    Unfit,
    first,
    inclusive,
    instant_of,
    most,
    usage,
)
from metering.adapters.reading import Format
from metering.outcomes import of_status
from metering.parsing import Usage

SOURCE = "apisix"


class Summary(msgspec.Struct, gc=False):
    model: str | None = None
    request_model: str | None = None
    prompt_tokens: MaybeCount = None
    completion_tokens: MaybeCount = None
    total_tokens: MaybeCount = None
    cache_read_input_tokens: MaybeCount = None
    cache_creation_input_tokens: MaybeCount = None
    reasoning_tokens: MaybeCount = None
    end_user_id: MaybeId = None
    duration: float | None = None


class Headers(msgspec.Struct, gc=False):
    request_id: MaybeId = msgspec.field(default=None, name="x-request-id")


class Message(msgspec.Struct, gc=False):
    headers: Headers | None = None
    status: int | None = None
    size: int | None = None


class Consumer(msgspec.Struct, gc=False):
    username: MaybeId = None


class Event(msgspec.Struct, gc=False):
    llm_summary: Summary | None = None
    request: Message | None = None
    response: Message | None = None
    start_time: Milliseconds | None = None
    latency: float | None = None
    client_ip: str | None = None
    route_id: MaybeId = None
    consumer: Consumer | None = None


def usage_of(event: Event, arrival: Arrival) -> Usage:
    said = event.llm_summary
    if said is None:
        raise Unfit("no_usage", "the entry has no llm_summary")
    request, response = event.request or Message(), event.response or Message()
    outcome = of_status(response.status or 200)
    if outcome is not None and said.prompt_tokens is None and said.completion_tokens is None:
        counts = Counts(0, 0)
    else:
        counts = inclusive(
            said.prompt_tokens,
            said.completion_tokens,
            most(said.cache_read_input_tokens),
            most(said.cache_creation_input_tokens),
            most(said.reasoning_tokens),
            said.total_tokens,
        )
    ids = [message.headers.request_id for message in (request, response) if message.headers]
    return usage(
        arrival,
        counts,
        source=SOURCE,
        id=first(*ids) or _digest(event),
        subject=first(said.end_user_id, event.consumer.username if event.consumer else None),
        model=first(said.model, said.request_model),
        at=instant_of(event.start_time),
        outcome=outcome,
    )


def _digest(event: Event) -> str:
    if event.start_time is None:
        return ""
    return "sha256:" + hashlib.sha256(msgspec.json.encode(event)).hexdigest()


FORMAT = Format("APISIX http-logger", SOURCE, Event, usage_of, (), ("llm_summary", "end_user_id"))
