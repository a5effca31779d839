"""OpenAI's usage object, as gateways pass it on."""

from __future__ import annotations

import msgspec

from metering.adapters.items import Counts, MaybeCount, inclusive, most


class Details(msgspec.Struct, gc=False):
    cached_tokens: MaybeCount = None
    cache_creation_tokens: MaybeCount = None
    cache_write_tokens: MaybeCount = None
    reasoning_tokens: MaybeCount = None


class ChatUsage(msgspec.Struct, gc=False):
    """Of chat completions; the cache's counts also under the names that Anthropic gives them."""

    prompt_tokens: MaybeCount = None
    completion_tokens: MaybeCount = None
    total_tokens: MaybeCount = None
    prompt_tokens_details: Details | None = None
    completion_tokens_details: Details | None = None
    cache_read_input_tokens: MaybeCount = None
    cache_creation_input_tokens: MaybeCount = None


class AnyUsage(ChatUsage, gc=False):
    """The same, also under the names that senders of plain events use."""

    input_tokens: MaybeCount = None
    output_tokens: MaybeCount = None
    cached_input_tokens: MaybeCount = None
    cache_write_tokens: MaybeCount = None
    reasoning_tokens: MaybeCount = None


_NO_DETAILS = Details()


def counts_of_chat(said: ChatUsage) -> Counts:
    """Raises Unfit where it counts nothing, or cannot be read in one way only."""
    read = said.prompt_tokens_details or _NO_DETAILS
    made = said.completion_tokens_details or _NO_DETAILS
    return inclusive(
        said.prompt_tokens,
        said.completion_tokens,
        most(read.cached_tokens, said.cache_read_input_tokens),
        most(read.cache_creation_tokens, read.cache_write_tokens, said.cache_creation_input_tokens),
        most(made.reasoning_tokens),
        said.total_tokens,
    )


def counts_of_any(said: AnyUsage) -> Counts:
    """Raises Unfit as `counts_of_chat`."""
    read = said.prompt_tokens_details or _NO_DETAILS
    made = said.completion_tokens_details or _NO_DETAILS
    return inclusive(
        said.prompt_tokens if said.prompt_tokens is not None else said.input_tokens,
        said.completion_tokens if said.completion_tokens is not None else said.output_tokens,
        most(said.cached_input_tokens, said.cache_read_input_tokens, read.cached_tokens),
        most(
            said.cache_write_tokens,
            said.cache_creation_input_tokens,
            read.cache_creation_tokens,
            read.cache_write_tokens,
        ),
        most(said.reasoning_tokens, made.reasoning_tokens),
        said.total_tokens,
    )
