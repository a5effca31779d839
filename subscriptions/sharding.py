"""The seam along which the hot tables can be spread over machines (Citus) one day."""

from __future__ import annotations


def shard_of(subscriber_id: int) -> int:
    """Where a subscriber's hot rows live. One machine today, hence always 0.

    Work that touches several subscribers is grouped by it and done in its order, one local
    transaction per group: unsorted groups deadlock.
    """
    return 0
