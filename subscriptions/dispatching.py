"""From the outbox to whoever is to hear: an event becomes deliveries to the operator's systems.

One dispatcher at a time takes the next events in their order, in one transaction with what becomes
of them: after a crash all of it is done again, or none was left to do.
"""

from __future__ import annotations

import datetime as dt

from django.db import transaction

from subscriptions import advisory, outbox
from subscriptions.advisory import Lock
from subscriptions.webhooks import queue as webhooks

CHUNK = 2000


@transaction.atomic
def dispatch(*, at: dt.datetime, limit: int = CHUNK) -> int:
    """Hand on the next events, of all operators; answers how many. `at` is the wall's time: a test
    operator's is its own."""
    if not advisory.try_take(Lock.OUTBOX):
        return 0
    events = outbox.take(limit, at=at)
    if events:
        webhooks.fan_out(events)
        outbox.dispatched(events)
    return len(events)
