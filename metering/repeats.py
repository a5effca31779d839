"""Records that may be one request told twice: flagged for somebody to look at, never dropped.

Some senders make up a new id each time they send. What such a record has in common with its double
is its fingerprint: gateway and source, subject, model, token classes, and the second.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from django.db import connection, transaction

from metering.context import Caller
from metering.models import RepeatDismissal, SuspectedRepeat
from metering.parsing import Usage
from subscriptions.errors import Conflict
from subscriptions.units import to_wire

MAX_REASON = 200

_SECOND = dt.timedelta(seconds=1)
# The record that was charged first is the one that the others may repeat. What the bounds of the
# times are worth: only the partitions of those days are looked at.
_FLAG_SQL = """
INSERT INTO metering_suspectedrepeat
    (operator_id, gateway_id, source, record_id, first_record_id, subject, model, occurred_at,
     units, flagged_at)
SELECT %(operator)s, %(gateway)s, m.source, m.record_id, m.first_record_id, m.subject, m.model,
       m.occurred_at, m.units, %(at)s
FROM (
    SELECT r.source, r.record_id, f.subject, r.model, r.occurred_at, r.units,
           first_value(r.record_id) OVER same AS first_record_id,
           row_number() OVER same AS place
    FROM (
        SELECT DISTINCT * FROM unnest(
            %(source)s::text[], %(subject)s::text[], %(model)s::text[], %(second)s::timestamptz[],
            %(uncached)s::int[], %(cached)s::int[], %(written)s::int[], %(output)s::int[],
            %(reasoning)s::int[]
        ) AS f (source, subject, model, second, uncached, cached, written, output, reasoning)
    ) f
    JOIN subscriptions_subject s ON s.operator_id = %(operator)s AND s.subject = f.subject
    JOIN metering_usagerecord r
      ON r.subscriber_id = s.subscriber_id AND r.subject_id = s.id
     AND r.gateway_id = %(gateway)s AND r.source = f.source AND r.model = f.model
     AND r.occurred_at >= f.second AND r.occurred_at < f.second + interval '1 second'
     AND r.uncached_input_tokens = f.uncached AND r.cached_input_tokens = f.cached
     AND r.cache_write_tokens = f.written AND r.output_tokens = f.output
     AND r.reasoning_tokens = f.reasoning
    WHERE r.occurred_at >= %(first)s AND r.occurred_at < %(last)s
    WINDOW same AS (
        PARTITION BY f.source, f.subject, f.model, f.second, f.uncached, f.cached, f.written,
                     f.output, f.reasoning
        ORDER BY r.batch_id, r.record_id
        ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
    )
) m
WHERE m.place > 1
ORDER BY m.source, m.record_id
ON CONFLICT (gateway_id, source, record_id) DO NOTHING
"""


def flag(caller: Caller, usages: Sequence[Usage], *, at: dt.datetime) -> None:
    """Flag those of these charged records that repeat another, and those that they make repeats.

    To be called after the charge's commit: of two repeats charged at the same time, whoever looks
    last sees both. Repeatable.
    """
    if not usages:
        return
    seconds = [usage.occurred_at.replace(microsecond=0) for usage in usages]
    uncached, cached, written, output, reasoning = (
        list(tokens) for tokens in zip(*(usage.classes() for usage in usages), strict=True)
    )
    with connection.cursor() as cursor:
        cursor.execute(
            _FLAG_SQL,
            {
                "operator": caller.operator_id,
                "gateway": caller.gateway_id,
                "at": at,
                "first": min(seconds),
                "last": max(seconds) + _SECOND,
                "source": [usage.source for usage in usages],
                "subject": [usage.subject for usage in usages],
                "model": [usage.model for usage in usages],
                "second": seconds,
                "uncached": uncached,
                "cached": cached,
                "written": written,
                "output": output,
                "reasoning": reasoning,
            },
        )


class Dismissed(Conflict):
    cause = "already_dismissed"


@transaction.atomic
def dismiss(row: SuspectedRepeat, *, reason: str, key_id: int, at: dt.datetime) -> None:
    """Write down that somebody looked, and that it is no repeat: both records stay charged.

    Repeatable with the same reason. Raises Dismissed where another was given first.
    """
    decision, _ = RepeatDismissal.objects.get_or_create(
        repeat=row, defaults={"reason": reason, "key_id": key_id, "dismissed_at": at}
    )
    if decision.reason != reason:
        raise Dismissed(f"this was dismissed before, because: {decision.reason}")


def as_json(row: SuspectedRepeat) -> dict[str, object]:
    """The row for the API."""
    dismissal: RepeatDismissal | None = getattr(row, "dismissal", None)
    return {
        "id": str(row.pk),
        "gateway": row.gateway.name,
        "source": row.source,
        "record_id": row.record_id,
        "first_record_id": row.first_record_id,
        "subject": row.subject,
        "model": row.model,
        "occurred_at": row.occurred_at,
        "units": to_wire(row.units),
        "flagged_at": row.flagged_at,
        "dismissed_at": dismissal.dismissed_at if dismissal else None,
        "dismissed_by": dismissal.key.name if dismissal else None,
        "dismissed_reason": dismissal.reason if dismissal else None,
    }
