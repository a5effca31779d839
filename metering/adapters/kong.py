"""Kong's http-log plugin: a request's log entry, with what the AI plugins add under `ai`."""

from __future__ import annotations

import msgspec

from metering.adapters import openai
from metering.adapters.items import (
    Arrival,
    Cost,
    Counts,
    MaybeCount,
    MaybeId,
    Milliseconds,
    Unfit,
    first,
    instant_of,
    usage,
)
from metering.adapters.reading import Format
from metering.outcomes import of_status
from metering.parsing import Usage

SOURCE = "kong"


class AiUsage(openai.ChatUsage, gc=False):
    # Their names before Kong 3.11.
    prompt_token: MaybeCount = None
    completion_token: MaybeCount = None
    cost: Cost = None


class Meta(msgspec.Struct, gc=False):
    request_model: str | None = None
    response_model: str | None = None


class Plugin(msgspec.Struct, gc=False):
    usage: AiUsage | None = None
    meta: Meta | None = None


class Ai(msgspec.Struct, gc=False):
    proxy: Plugin | None = None
    ai_proxy: Plugin | None = msgspec.field(default=None, name="ai-proxy")


class Request(msgspec.Struct, gc=False):
    id: MaybeId = None


class Response(msgspec.Struct, gc=False):
    status: int | None = None


class Consumer(msgspec.Struct, gc=False):
    id: MaybeId = None
    custom_id: MaybeId = None
    username: MaybeId = None


class Event(msgspec.Struct, gc=False):
    request: Request | None = None
    response: Response | None = None
    started_at: Milliseconds | None = None
    consumer: Consumer | None = None
    ai: Ai | None = None


def usage_of(event: Event, arrival: Arrival) -> Usage:
    ai = event.ai or Ai()
    if ai.proxy is not None and ai.ai_proxy is not None:
        raise Unfit("invalid_record", "two plugins count the same call")
    plugin = ai.proxy or ai.ai_proxy or Plugin()
    meta = plugin.meta or Meta()
    consumer = event.consumer or Consumer()
    outcome = of_status((event.response and event.response.status) or 200)
    said = plugin.usage
    if said is not None and said.prompt_tokens is None and said.completion_tokens is None:
        said.prompt_tokens, said.completion_tokens = said.prompt_token, said.completion_token
    if said is not None and not (
        outcome and said.prompt_tokens is None and said.completion_tokens is None
    ):
        counts = openai.counts_of_chat(said)
    elif outcome is not None:
        counts = Counts(0, 0)
    else:
        raise Unfit("no_usage", "the entry has no ai.proxy.usage")
    return usage(
        arrival,
        counts,
        source=SOURCE,
        id=first(event.request.id if event.request else None),
        subject=first(consumer.custom_id, consumer.username, consumer.id),
        model=first(meta.request_model, meta.response_model),
        at=instant_of(event.started_at),
        outcome=outcome,
    )


FORMAT = Format(
    "Kong http-log", SOURCE, Event, usage_of, ("request", "id"), ("consumer", "custom_id")
)
