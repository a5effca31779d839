"""Whether usage was charged by a version of a rate card, which then holds for that usage."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from django.db import connection

# Partitions of days before the instant are not looked at, and the first record found ends it. The
# batches of the operator say within milliseconds that there is none, which is the usual case:
# a version begins now or later.
_CHARGED_SQL = """
SELECT EXISTS (
    SELECT FROM metering_usagebatch b
    WHERE b.operator_id = (SELECT operator_id FROM subscriptions_ratecard WHERE id = %(card)s)
      AND b.occurred_to >= %(instant)s
) AND EXISTS (
    SELECT FROM metering_usagerecord r
    WHERE r.occurred_at >= %(instant)s
      AND r.weight_id = ANY (ARRAY(
          SELECT w.id FROM subscriptions_ratecardweight w WHERE w.rate_card_id = ANY (%(cards)s)
      ))
    UNION ALL
    SELECT FROM metering_adjustedrecord r
    WHERE r.occurred_at >= %(instant)s
      AND r.weight_id = ANY (ARRAY(
          SELECT w.id FROM subscriptions_ratecardweight w WHERE w.rate_card_id = ANY (%(cards)s)
      ))
)
"""


def charged_since(card_ids: Sequence[int], instant: dt.datetime) -> bool:
    """Whether usage of `instant` or later was charged by one of these card versions."""
    with connection.cursor() as cursor:
        cursor.execute(
            _CHARGED_SQL, {"card": card_ids[0], "cards": list(card_ids), "instant": instant}
        )
        found: bool = cursor.fetchone()[0]
    return found
