"""How a call may end, and what of that a plan bills."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Outcome(StrEnum):
    """Stored with a record; an absent one means `complete`. Senders may use other words too."""

    COMPLETE = "complete"
    CLIENT_GONE = "client_gone"  # the caller hung up before the end
    UPSTREAM_ERROR = "upstream_error"  # the model or its provider failed
    CACHED_REPLAY = "cached_replay"  # answered from the gateway's cache, not by a model
    BLOCKED = "blocked"  # refused by the gateway: budget, rate limit, guardrail, key


class Billing(StrEnum):
    """What a record costs: its tokens by their weights, or nothing."""

    BILLED = "billed"
    FREE = "free"


# Where a plan does not say otherwise, and for usage without a plan. Failed and blocked calls are
# stored and not charged. Nor is a gateway's own cache: no model ran for it, and the gateways whose
# cache hit repeats its first answer's id are not charged for it either, as a duplicate. Who hangs
# up has had the tokens made until then. A word that is not here is billed: nothing is given away
# for being misspelt.
USUAL: Mapping[str, str] = {
    Outcome.COMPLETE.value: Billing.BILLED.value,
    Outcome.CLIENT_GONE.value: Billing.BILLED.value,
    Outcome.UPSTREAM_ERROR.value: Billing.FREE.value,
    Outcome.CACHED_REPLAY.value: Billing.FREE.value,
    Outcome.BLOCKED.value: Billing.FREE.value,
}


def free(table: Mapping[str, str]) -> frozenset[str]:
    """The outcomes that such a table gives away."""
    return frozenset(word for word, billing in table.items() if billing == Billing.FREE)


USUALLY_FREE = free(USUAL)
