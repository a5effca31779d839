"""The operator's clock: the only place that decides what time it is.

Doors ask here once and hand the answer on as `at`. A test operator's time stands still until
it is moved; everybody else's is the wall's.
"""

from __future__ import annotations

import datetime as dt

from django.db import transaction

from subscriptions import advisory
from subscriptions.advisory import Lock
from subscriptions.errors import Conflict
from subscriptions.models import Operator, Subscriber


def wall() -> dt.datetime:
    """The machine's time, aware, UTC. For doors and for what has no operator (key creation)."""
    return dt.datetime.now(dt.UTC)


def now(operator: Operator) -> dt.datetime:
    """The operator's time as its row says; reload the row to see a clock that was moved since."""
    return operator.clock_at or wall()


def lock_exclusive(operator_id: int) -> None:
    """Wait until no charge of this operator is under way, and let none begin before the commit.

    For what a charge takes as given from its start to its commit: the clock and the rate cards.
    Charges hold the same lock shared.
    """
    advisory.take(Lock.CLOCK, operator_id)


# A column of a SELECT, with the operator's id as its parameter.
LOCK_SHARED_SQL = (
    f"pg_advisory_xact_lock_shared({Lock.CLOCK.value}, (%b::bigint & 2147483647)::int)"
)


@transaction.atomic(durable=True)
def move(operator_id: int, *, to: dt.datetime) -> dt.datetime | None:
    """Set a test operator's clock; answers where it stood before.

    Raises Conflict for an operator that is not a test operator, and for an earlier time once
    the operator has a subscriber (usage needs one: a subject names a subscriber).
    """
    lock_exclusive(operator_id)
    operator = Operator.objects.select_for_update().get(pk=operator_id)
    if not operator.is_test:
        raise Conflict("only a test operator's clock can be moved; create one with --test")
    before = operator.clock_at
    if (
        before is not None
        and to < before
        and Subscriber.objects.filter(operator_id=operator_id).exists()
    ):
        raise Conflict(
            f"the clock stands at {before.isoformat()}; it cannot go back once the operator has"
            " subscribers or usage"
        )
    operator.clock_at = to
    operator.save(update_fields=["clock_at"])
    return before
