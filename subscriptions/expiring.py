"""What is about to expire unused: told some days ahead, each bucket once."""

from __future__ import annotations

import datetime as dt

from django.db import connection, transaction

from subscriptions import outbox
from subscriptions.models import Operator
from subscriptions.notices import policies
from subscriptions.outbox import Happening
from subscriptions.units import to_wire

EXPIRING = "bucket.expiring"
# All buckets are looked through: no index of theirs goes by the end alone.
EVERY = dt.timedelta(hours=6)
_CHUNK = 2000

# An allowance comes again with the next period; what was bought, given or carried over does not.
_BUCKETS_SQL = """
SELECT b.subscriber_id, b.id, b.kind, b.granted - b.used, b.valid_until
FROM subscriptions_bucket b
JOIN subscriptions_subscriber s ON s.id = b.subscriber_id AND s.operator_id = %(operator)s
WHERE b.kind IN ('booster', 'gift', 'rollover') AND b.granted > b.used AND b.valid_from <= %(at)s
  AND b.valid_until > %(since)s AND b.valid_until <= %(until)s
"""


def sweep(operator: Operator, *, at: dt.datetime) -> int:
    """Tell of what expires within the days that the operator's policy says; answers of how many.

    Looked for every six hours; it may be repeated at any time.
    """
    policy = policies.of_operator(operator)
    until = at + dt.timedelta(days=policy.expiry_days)
    done = policy.expiry_done_until
    if not policy.expiry_days or (done is not None and until < done + EVERY):
        return 0
    since = max(at, done) if done is not None else at
    with connection.cursor() as cursor:
        cursor.execute(
            _BUCKETS_SQL, {"operator": operator.pk, "at": at, "since": since, "until": until}
        )
        rows = cursor.fetchall()
    for first in range(0, len(rows), _CHUNK):
        with transaction.atomic():
            outbox.tell(
                [
                    Happening(
                        subscriber_id,
                        EXPIRING,
                        f"expiring:{bucket_id}",
                        at,
                        {
                            "bucket": bucket_id,
                            "kind": kind,
                            "remaining": to_wire(remaining),
                            "expires_at": expires_at.isoformat(),
                        },
                    )
                    for subscriber_id, bucket_id, kind, remaining, expires_at in rows[
                        first : first + _CHUNK
                    ]
                ]
            )
    policies.expiries_done(operator, until=until)
    return len(rows)
