"""What stands in a subscriber's way besides its plan, in one row: the only writer of Guard.

Whoever asks before the tokens are spent learns of the row with the account, at no query's cost;
only where there is one it looks closer.
"""

from __future__ import annotations

from typing import Any

from django.db import connection

from subscriptions import buckets
from subscriptions.models import Guard


def settle(subscriber_id: int, **facts: Any) -> None:
    """Say what stands in the way from now on; what is not named stays.

    Joins the caller's transaction, which holds the subscriber's row. Whoever goes by older facts
    finds, under the locks of the buckets, that they are old.
    """
    assert connection.in_atomic_block
    guard = Guard.objects.filter(pk=subscriber_id).first() or Guard(subscriber_id=subscriber_id)
    before = _facts(guard)
    for name, value in facts.items():
        setattr(guard, name, value)
    after = _facts(guard)
    if after == before:
        # A key's limit may be another, and still be one.
        if guard.keys:
            buckets.forget([subscriber_id])
        return
    if any(value not in (None, False, "") for value in after.values()):
        Guard.objects.update_or_create(subscriber_id=subscriber_id, defaults=after)
    else:
        Guard.objects.filter(pk=subscriber_id).delete()
    buckets.forget([subscriber_id])


def _facts(guard: Guard) -> dict[str, Any]:
    return {
        field.attname: getattr(guard, field.attname)
        for field in Guard._meta.concrete_fields
        if not field.primary_key
    }
