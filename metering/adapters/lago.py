"""Lago: events of LiteLLM's `lago` callback, of Lago's agent SDKs, and of Lago's own clients.

Two ways to tell tokens, told apart by the code:

- all tokens of a request in `properties` (LiteLLM; its transaction_id is a fresh uuid4);
- one event per token class, named by `code`, the count in `properties.value` (agent SDKs).

Each event is a record of its own, known by its own transaction_id. Of the agent SDKs' events some
count tokens that another event of the same call counts too: whether cached tokens lie inside the
input depends on the provider. Such an event becomes a record without tokens, and where the event
that holds them is in the same body, that one's record gets the classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    first,
    usage,
)
from metering.adapters.openai import AnyUsage, counts_of_any
from metering.adapters.reading import Format
from metering.parsing import Usage

SOURCE = "lago"


class Properties(AnyUsage, gc=False):
    model: str | None = None
    response_cost: Cost | msgspec.UnsetType = msgspec.UNSET
    value: MaybeCount = None
    provider: str | None = None
    api: str | None = None


class Event(msgspec.Struct, gc=False):
    transaction_id: MaybeId = None
    external_subscription_id: MaybeId = None
    external_customer_id: MaybeId = None
    code: str | None = None
    timestamp: MaybeTime = None
    properties: Properties | None = None


# The agent SDKs' codes, in the order in which they tell of a call.
_INPUT, _OUTPUT = "llm_input_tokens", "llm_output_tokens"
_CACHED, _WRITTEN, _THOUGHT = (
    "llm_cached_input_tokens",
    "llm_cache_creation_tokens",
    "llm_reasoning_tokens",
)
_CODES = (
    _INPUT,
    _OUTPUT,
    _CACHED,
    _WRITTEN,
    "llm_cache_write_5m_tokens",
    "llm_cache_write_1h_tokens",
    _THOUGHT,
    "llm_tool_calls",
    "llm_image_input_tokens",
    "llm_audio_input_tokens",
    "llm_audio_output_tokens",
)
_RANK = {code: rank for rank, code in enumerate(_CODES)}
# Whose input holds cached and written tokens, and whose output holds reasoning: as the SDKs
# measured it of each provider, and of gateways that answer in OpenAI's way for all.
_HOLDS_CACHED = frozenset({"openai", "gemini", "workers-ai", "mistral"})
_HOLDS_THOUGHT = frozenset({"openai", "workers-ai"})
_IN_OPENAIS_WAY = frozenset({"databricks_gateway", "ramp_router"})


def usage_of(event: Event, arrival: Arrival) -> Usage:
    """The record of an event that stands alone."""
    return _usage_of(event, {}, arrival)


def together(events: Sequence[Event | None], arrival: Arrival) -> list[Usage | Unfit | None]:
    """The records of a body's events; the classes that a call tells in several are put together."""
    found: list[Usage | Unfit | None] = []
    for call in _calls(events):
        values = {
            event.code: event.properties.value or 0
            for event in call
            if event is not None and event.code is not None and event.properties is not None
        }
        for event in call:
            if event is None:
                found.append(None)
                continue
            try:
                found.append(_usage_of(event, values, arrival))
            except Unfit as unfit:
                found.append(unfit)
    return found


def _calls(events: Sequence[Event | None]) -> Iterator[list[Event | None]]:
    """The events that tell of one call: sent one after the other, in the order of the codes."""
    call: list[Event | None] = []
    for event in events:
        if call and not _continues(call[-1], event):
            yield call
            call = []
        call.append(event)
    if call:
        yield call


def _continues(before: Event | None, event: Event | None) -> bool:
    return (
        before is not None
        and event is not None
        and _RANK.get(event.code or "", -1) > _RANK.get(before.code or "", len(_CODES))
        and _call_of(before) == _call_of(event)
    )


def _call_of(event: Event) -> tuple[Any, ...]:
    said = event.properties or Properties()
    names = first(event.external_subscription_id, event.external_customer_id)
    return names, event.timestamp, said.model, said.provider, said.api


def _usage_of(event: Event, values: dict[str, int], arrival: Arrival) -> Usage:
    said = event.properties
    if said is None:
        raise Unfit("no_usage", "the event has no properties")
    part: dict[str, Any] | None = None
    if event.code is not None and event.code in _RANK:
        if said.value is None:
            raise Unfit("no_usage", "properties.value counts the tokens; the event has none")
        counts = _class_of(event.code, said, values)
        part = {"code": event.code, "value": said.value}
    else:
        counts = counts_of_any(said)
    return usage(
        arrival,
        counts,
        source=SOURCE,
        id=first(event.transaction_id),
        subject=first(event.external_subscription_id, event.external_customer_id),
        model=said.model,
        at=event.timestamp,
        part=part,
        random=_is_litellm(event, said),
    )


def _is_litellm(event: Event, said: Properties) -> bool:
    """Whether LiteLLM's callback sent it, the only one that names a cost and no time."""
    return event.timestamp is None and said.response_cost is not msgspec.UNSET


def _class_of(code: str, said: Properties, values: dict[str, int]) -> Counts:
    """The tokens that this event alone counts. Those it counts for another: none."""
    value = said.value or 0
    shaped = (said.api or "").lower() in _IN_OPENAIS_WAY
    provider = (said.provider or "").lower()
    holds_cached = shaped or provider in _HOLDS_CACHED
    holds_thought = shaped or provider in _HOLDS_THOUGHT
    if code == _INPUT:
        cached, written = values.get(_CACHED, 0), values.get(_WRITTEN, 0)
        inside = holds_cached and cached + written <= value
        return Counts(value, 0, cached, written) if inside else Counts(value, 0)
    if code == _OUTPUT:
        thought = values.get(_THOUGHT, 0)
        inside = holds_thought and thought <= value
        return Counts(0, value, reasoning=thought) if inside else Counts(0, value)
    if code == _CACHED and not holds_cached:
        return Counts(value, 0, cached=value)
    if code == _WRITTEN and not holds_cached:
        return Counts(value, 0, written=value)
    if code == _THOUGHT and not holds_thought:
        return Counts(0, value, reasoning=value)
    # Details of the ones above, or no tokens at all (tool calls).
    return Counts(0, 0)


FORMAT = Format(
    "Lago",
    SOURCE,
    Event,
    usage_of,
    ("transaction_id",),
    ("external_subscription_id",),
    together,
)
