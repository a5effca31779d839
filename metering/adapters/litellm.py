"""LiteLLM `generic_api`: StandardLoggingPayload, of successes and failures.

Its `id` is the upstream's, or the proxy's own where there is none (embeddings, failures). A failed
attempt has the id of the one that then succeeds, so failures have a namespace of their own. An
answer from the proxy's cache has an id of its own already.
"""

from __future__ import annotations

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
    inclusive,
    most,
    usage,
)
from metering.adapters.openai import ChatUsage, Details, counts_of_chat
from metering.adapters.reading import Format
from metering.parsing import Usage
from subscriptions.outcomes import Outcome
from subscriptions.subscriber_keys.keeping import SUBJECT_PREFIX

SOURCE = "litellm"
FAILURES = "litellm/failure"


class UsageObject(ChatUsage, gc=False):
    """The usage in the provider's own words: OpenAI's chat or responses, or Anthropic's."""

    input_tokens: MaybeCount = None
    output_tokens: MaybeCount = None
    input_tokens_details: Details | None = None
    output_tokens_details: Details | None = None


class Metadata(msgspec.Struct, gc=False):
    user_api_key_hash: str | None = None
    user_api_key_alias: str | None = None
    user_api_key_team_id: str | None = None
    user_api_key_user_id: MaybeId = None
    user_api_key_end_user_id: MaybeId = None
    usage_object: UsageObject | None = None


class ErrorInformation(msgspec.Struct, gc=False):
    error_code: MaybeId = None
    error_class: str | None = None


class StatusFields(msgspec.Struct, gc=False):
    guardrail_status: str | None = None


class Event(msgspec.Struct, gc=False):
    id: MaybeId = None
    call_type: str | None = None
    status: str | None = None
    model: str | None = None
    custom_llm_provider: str | None = None
    prompt_tokens: MaybeCount = None
    completion_tokens: MaybeCount = None
    total_tokens: MaybeCount = None
    startTime: MaybeTime = None  # the sender's own name
    endTime: MaybeTime = None
    cache_hit: bool | str | None = None
    response_cost: Cost = None
    end_user: MaybeId = None
    metadata: Metadata | None = None
    error_information: ErrorInformation | None = None
    status_fields: StatusFields | None = None


# Refused by the proxy itself, before or after the model was asked.
_REFUSALS = frozenset(
    {
        *("BudgetExceededError", "GuardrailRaisedException", "BlockedPiiEntityError"),
        *("RejectedRequestError", "ProxyModelNotFoundError", "ProxyException", "HTTPException"),
    }
)


def usage_of(event: Event, arrival: Arrival) -> Usage:
    metadata = event.metadata or Metadata()
    outcome = _outcome(event)
    failed = event.status == "failure"
    return usage(
        arrival,
        _counts(event, metadata.usage_object),
        source=FAILURES if failed else SOURCE,
        id=first(event.id),
        subject=_subject(event, metadata),
        model=_model(event),
        at=event.endTime if event.endTime is not None else event.startTime,
        outcome=outcome,
    )


def _subject(event: Event, metadata: Metadata) -> str | None:
    """A key of a subscriber's that is an alias there; else as LiteLLM's own billing callbacks
    choose, and where they find nobody, the key itself."""
    alias = metadata.user_api_key_alias
    if alias is not None and alias.startswith(SUBJECT_PREFIX):
        return alias
    return first(
        event.end_user,
        metadata.user_api_key_end_user_id,
        metadata.user_api_key_user_id,
        alias,
        metadata.user_api_key_hash,
    )


def _model(event: Event) -> str | None:
    """The model as its vendor names it: `openai/deepseek/deepseek-chat` is `deepseek/…`.

    What stands before it there is the way that the proxy reaches it by; LiteLLM's other callbacks
    leave that out. `deepseek/deepseek-chat` stays: there the vendor is the way.
    """
    if event.model is None or not event.custom_llm_provider:
        return event.model
    rest = event.model.removeprefix(f"{event.custom_llm_provider}/")
    return rest if "/" in rest.strip("/") else event.model


def _outcome(event: Event) -> Outcome | None:
    if event.status == "failure":
        error = event.error_information or ErrorInformation()
        status = event.status_fields or StatusFields()
        if status.guardrail_status == "guardrail_intervened" or error.error_class in _REFUSALS:
            return Outcome.BLOCKED
        if str(error.error_code) == "499" or error.error_class == "CancelledError":
            return Outcome.CLIENT_GONE
        return Outcome.UPSTREAM_ERROR
    if event.cache_hit is True or str(event.cache_hit).lower() == "true":
        return Outcome.CACHED_REPLAY
    return None


def _counts(event: Event, said: UsageObject | None) -> Counts:
    """The provider's own usage where it is there: only it knows cached and reasoning tokens."""
    if said is not None:
        if said.prompt_tokens is not None or said.completion_tokens is not None:
            counts = counts_of_chat(said)
            if counts.input or counts.output:
                return counts
        if said.input_tokens is not None or said.output_tokens is not None:
            counts = _counts_of_inputs(said)
            if counts.input or counts.output:
                return counts
    if event.status == "failure" and event.prompt_tokens is None:
        return Counts(0, 0)
    return inclusive(event.prompt_tokens, event.completion_tokens)


def _counts_of_inputs(said: UsageObject) -> Counts:
    """`input_tokens` hold cached ones in OpenAI's responses, and not in Anthropic's messages."""
    given, made = said.input_tokens or 0, said.output_tokens or 0
    cached, written = said.cache_read_input_tokens, said.cache_creation_input_tokens
    if said.input_tokens_details is None and said.output_tokens_details is None:
        cached, written = cached or 0, written or 0
        return Counts(given + cached + written, made, cached, written)
    if cached or written:
        raise Unfit("invalid_record", "the usage counts cached tokens in two ways")
    read = said.input_tokens_details or Details()
    thought = said.output_tokens_details or Details()
    return inclusive(
        given,
        made,
        most(read.cached_tokens),
        most(read.cache_creation_tokens, read.cache_write_tokens),
        most(thought.reasoning_tokens),
        said.total_tokens,
    )


FORMAT = Format("LiteLLM generic_api", SOURCE, Event, usage_of, ("id",), ("end_user",))
