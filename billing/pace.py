"""A long job gives way while gateways post usage: between two steps it rests, so that charging
keeps most of the machine. How busy gateways are it sees by the numbers of batches."""

from __future__ import annotations

import time

from django.db import connection

# From so many batches a second on, gateways are busy.
BUSY = 10.0
# Over so many seconds at least they are counted: every process takes numbers in blocks.
WINDOW = 3.0
# How long a rest is, for each second of work before it, and at most.
REST = 0.5
LONGEST = 5.0


def rest(batches_a_second: float, worked: float) -> float:
    """How many seconds to rest after a step that took so many."""
    return min(REST * worked, LONGEST) if batches_a_second >= BUSY else 0.0


class Pace:
    """The steps of one job: `give_way()` after each."""

    def __init__(self) -> None:
        self._began = self._counted = time.monotonic()
        self._newest = _newest_batch()
        self._rate = 0.0

    def give_way(self) -> None:
        """Rest, where gateways are busy."""
        now = time.monotonic()
        if now - self._counted >= WINDOW:
            newest = _newest_batch()
            self._rate = (newest - self._newest) / (now - self._counted)
            self._counted, self._newest = now, newest
        time.sleep(rest(self._rate, now - self._began))
        self._began = time.monotonic()


def _newest_batch() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT last_value FROM subscriptions_batch_id")
        newest: int = cursor.fetchone()[0]
        return newest
