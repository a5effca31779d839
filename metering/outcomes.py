"""How a call ended: the words that senders' own are turned into, and native senders may use."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """Stored with a record; an absent one means `complete`."""

    COMPLETE = "complete"
    CLIENT_GONE = "client_gone"  # the caller hung up before the end
    UPSTREAM_ERROR = "upstream_error"  # the model or its provider failed
    CACHED_REPLAY = "cached_replay"  # answered from the gateway's cache, not by a model
    BLOCKED = "blocked"  # refused by the gateway: budget, rate limit, guardrail, key


# A record with one of these may hold no tokens: nothing was used, and that is worth keeping.
FRUITLESS = frozenset({Outcome.CLIENT_GONE, Outcome.UPSTREAM_ERROR, Outcome.BLOCKED})


def of_status(status: int) -> Outcome | None:
    """What the HTTP status that a gateway answered says; None for a success."""
    if status == 499:
        return Outcome.CLIENT_GONE
    if status >= 500:
        return Outcome.UPSTREAM_ERROR
    return Outcome.BLOCKED if status >= 400 else None
