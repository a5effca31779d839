"""Who tries codes that are none: the only writer of VoucherMisses.

A subscriber, and where its tries come from (an address, a device), are each listened to only so
often; then not at all for a while. They are locked before a code is looked up, so that many tries
at once count like one after the other.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from django.db import connection

from billing.models import VoucherMisses
from subscriptions.errors import DomainError

# So many misses within the window, and nobody listens for as long as the window.
OF_SUBSCRIBER = 5
OF_SOURCE = 20
WINDOW = dt.timedelta(hours=1)


class LockedOut(DomainError):
    status = 429
    cause = "voucher_locked_out"

    def __init__(self, left: dt.timedelta) -> None:
        self.retry_after = -(-left // dt.timedelta(seconds=1))
        minutes = -(-left // dt.timedelta(minutes=1))
        super().__init__(
            f"too many codes that are none were tried; try again in {minutes} minute(s)"
        )


def listen(operator_id: int, subscriber_id: int, source: str, *, at: dt.datetime) -> list[str]:
    """Lock whose tries count, in the caller's transaction; answers them for `missed`.

    Raises LockedOut.
    """
    assert connection.in_atomic_block
    who = sorted([f"subscriber:{subscriber_id}", *([f"source:{source}"] if source else [])])
    VoucherMisses.objects.bulk_create(
        [VoucherMisses(operator_id=operator_id, who=one, since=at) for one in who],
        ignore_conflicts=True,
    )
    locked = (
        VoucherMisses.objects.filter(operator_id=operator_id, who__in=who)
        .order_by("who")
        .select_for_update(no_key=True)
    )
    until = [row.locked_until for row in locked if row.locked_until and row.locked_until > at]
    if until:
        raise LockedOut(max(until) - at)
    return who


def missed(operator_id: int, who: Sequence[str], *, at: dt.datetime) -> None:
    """Count a try that was none for these, whom `listen` has locked."""
    for row in VoucherMisses.objects.filter(operator_id=operator_id, who__in=who):
        if row.since <= at - WINDOW or row.locked_until is not None:
            row.since, row.misses, row.locked_until = at, 0, None
        row.misses += 1
        most = OF_SUBSCRIBER if row.who.startswith("subscriber:") else OF_SOURCE
        VoucherMisses.objects.filter(operator_id=operator_id, who=row.who).update(
            since=row.since,
            misses=row.misses,
            locked_until=at + WINDOW if row.misses >= most else None,
        )


def forget(operator_id: int, *, at: dt.datetime) -> int:
    """Drop what counts no more; answers how many."""
    old = VoucherMisses.objects.filter(operator_id=operator_id, since__lte=at - 2 * WINDOW)
    return old.delete()[0]
