"""The seam along which the hot tables can be spread over machines (Citus) one day."""

from __future__ import annotations

from collections.abc import Iterable


def shard_of(subscriber_id: int) -> int:
    """Where a subscriber's hot rows live. One machine today, hence always 0.

    Work that touches several subscribers is grouped by it and done in its order, one local
    transaction per group: unsorted groups deadlock.
    """
    return 0


def shards_of(subscriber_ids: Iterable[int]) -> set[int]:
    """Where the hot rows of several lie."""
    return {0}
