"""What staff saw and changed: the only writer of AuditEntry.

A change is written in the transaction that makes it, so that neither is there without the other; a
look at personal data before it is shown.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from subscriptions.models import AuditEntry, Staff, Subscriber


def write(
    staff: Staff,
    action: str,
    *,
    at: dt.datetime,
    address: str | None,
    about: str = "",
    subscriber: Subscriber | None = None,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    reason: str = "",
) -> AuditEntry:
    """Write down one deed; `before` and `after` hold text, numbers and lists only."""
    return AuditEntry.objects.create(
        operator_id=staff.operator_id,
        at=at,
        user=staff.user,
        who=staff.user.email or staff.user.phone or str(staff.user.key),
        role=staff.role,
        address=address,
        action=action,
        about=about[:200],
        subscriber=subscriber,
        before=before,
        after=after,
        reason=reason[:500],
    )
