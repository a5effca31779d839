"""Who presents keys that are none: the only writer of KeyMisses.

A key has 256 random bits and is not guessed; what is stopped here is the trying. A gateway may say
which client of its own presents a key: a client that tries too many is not listened to any more for
a while. Where it does not say, its misses are counted together, and only misses are refused: one
who guesses shuts nobody else out.
"""

from __future__ import annotations

import datetime as dt

from django.db import connection

from subscriptions.errors import DomainError
from subscriptions.models import KeyMisses

OF_CLIENT = 20
OF_GATEWAY = 1000
WINDOW = dt.timedelta(minutes=10)
GATEWAY = "gateway"


class TooManyGuesses(DomainError):
    status = 429
    cause = "too_many_guesses"

    def __init__(self, left: dt.timedelta) -> None:
        self.retry_after = -(-left // dt.timedelta(seconds=1))
        super().__init__(
            f"too many keys that are none were presented; wait {self.retry_after} second(s)"
        )


def who(client: str) -> str:
    """Whose misses count together."""
    return f"client:{client}" if client else GATEWAY


def listen(gateway_id: int, client: str, *, at: dt.datetime) -> None:
    """Raises TooManyGuesses for a client that is not listened to now."""
    if not client:
        return
    until = KeyMisses.objects.filter(
        gateway_id=gateway_id, who=who(client), locked_until__gt=at
    ).values_list("locked_until", flat=True)
    for end in until:
        assert end is not None
        raise TooManyGuesses(end - at)


_COUNT_SQL = """
INSERT INTO subscriptions_keymisses AS m (gateway_id, who, since, misses, locked_until)
VALUES (%(gateway)s, %(who)s, %(at)s, 1, NULL)
ON CONFLICT (gateway_id, who) DO UPDATE SET
    since = CASE WHEN m.since <= %(stale)s OR m.locked_until <= %(at)s THEN %(at)s ELSE m.since END,
    misses = CASE WHEN m.since <= %(stale)s OR m.locked_until <= %(at)s THEN 1
                  ELSE m.misses + 1 END,
    locked_until = CASE
        WHEN m.since <= %(stale)s OR m.locked_until <= %(at)s THEN NULL
        WHEN m.locked_until IS NULL AND m.misses + 1 >= %(most)s THEN %(until)s
        ELSE m.locked_until END
RETURNING locked_until
"""


def missed(gateway_id: int, client: str, *, at: dt.datetime) -> None:
    """Count a key that is none. Raises TooManyGuesses where that was one too many: the miss is
    counted in a transaction of its own."""
    with connection.cursor() as cursor:
        cursor.execute(
            _COUNT_SQL,
            {
                "gateway": gateway_id,
                "who": who(client),
                "at": at,
                "stale": at - WINDOW,
                "until": at + WINDOW,
                "most": OF_CLIENT if client else OF_GATEWAY,
            },
        )
        [(until,)] = cursor.fetchall()
    if until is not None and until > at:
        raise TooManyGuesses(until - at)


def forget(operator_id: int, *, at: dt.datetime) -> int:
    """Drop what counts no more; answers how many."""
    old = KeyMisses.objects.filter(gateway__operator_id=operator_id, since__lte=at - 2 * WINDOW)
    return old.delete()[0]
