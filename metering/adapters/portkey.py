"""Portkey's log hook: the whole call, of which the model, the id and the usage are read.

Portkey answers for Anthropic and Bedrock on OpenAI's wire with cached tokens beside the prompt's,
and a total that holds both: the total tells which it is.
"""

from __future__ import annotations

import msgspec

from metering.adapters import openai
from metering.adapters.items import Arrival, Counts, MaybeId, Unfit, first, usage
from metering.adapters.reading import Format
from metering.outcomes import of_status
from metering.parsing import Usage

SOURCE = "portkey"


class Answer(msgspec.Struct, gc=False):
    id: MaybeId = None
    model: str | None = None
    usage: openai.ChatUsage | None = None


class Response(msgspec.Struct, gc=False):
    json: Answer | None = None
    status: int | None = msgspec.field(default=None, name="statusCode")


class Metadata(msgspec.Struct, gc=False):
    user: MaybeId = msgspec.field(default=None, name="_user")


class Event(msgspec.Struct, gc=False):
    response: Response | None = None
    provider: str | None = None
    metadata: Metadata | None = None


def usage_of(event: Event, arrival: Arrival) -> Usage:
    response = event.response or Response()
    answer = response.json or Answer()
    outcome = of_status(response.status or 200)
    if answer.usage is not None:
        counts = openai.counts_of_chat(answer.usage)
    elif outcome is not None:
        counts = Counts(0, 0)
    else:
        raise Unfit("no_usage", "response.json has no usage")
    return usage(
        arrival,
        counts,
        source=SOURCE,
        id=first(answer.id),
        subject=event.metadata.user if event.metadata else None,
        model=answer.model,
        at=None,
        outcome=outcome,
    )


FORMAT = Format(
    "Portkey", SOURCE, Event, usage_of, ("response", "json", "id"), ("metadata", "_user")
)
