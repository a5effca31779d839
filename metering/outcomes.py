"""Outcomes as senders tell them, and whether a record's is billed."""

from __future__ import annotations

from subscriptions.outcomes import USUALLY_FREE, Outcome
from subscriptions.policies import PlanPolicy

# A record with one of these may hold no tokens: nothing was used, and that is worth keeping.
FRUITLESS = frozenset({Outcome.CLIENT_GONE, Outcome.UPSTREAM_ERROR, Outcome.BLOCKED})


def of_status(status: int) -> Outcome | None:
    """What the HTTP status that a gateway answered says; None for a success."""
    if status == 499:
        return Outcome.CLIENT_GONE
    if status >= 500:
        return Outcome.UPSTREAM_ERROR
    return Outcome.BLOCKED if status >= 400 else None


def is_free(outcome: str, policy: PlanPolicy | None) -> bool:
    """Whether the plan (None: usage without one) charges nothing for a call that ended so."""
    return outcome in (USUALLY_FREE if policy is None else policy.free_outcomes)
