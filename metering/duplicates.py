"""Records that were charged before and came again: counted, for they are stored nowhere else.

A row for each request and source that held such, so that a charge without any pays nothing.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable

from metering.models import DuplicateBatch
from metering.parsing import Usage


def note(batch_id: int, gateway_id: int, usages: Iterable[Usage], *, at: dt.datetime) -> None:
    """Count these records of a batch as told again. Joins the caller's transaction."""
    times: dict[str, list[dt.datetime]] = defaultdict(list)
    for usage in usages:
        # PostgreSQL takes offsets of less than 16 hours.
        times[usage.source].append(usage.occurred_at.astimezone(dt.UTC))
    DuplicateBatch.objects.bulk_create(
        DuplicateBatch(
            batch_id=batch_id,
            source=source,
            gateway_id=gateway_id,
            charged_at=at,
            occurred_from=min(told),
            occurred_to=max(told),
            times=sorted(told),
        )
        for source, told in sorted(times.items())
    )


def forget(*, before: dt.datetime) -> int:
    """Drop what is of a time whose records have been dropped; answers how many rows."""
    return DuplicateBatch.objects.filter(occurred_to__lt=before).delete()[0]
