"""Calls that are due, many at once: one process sends, and every endpoint has its own few lines.

An endpoint that is slow fills its own lines only, one that fails gets a single one, and every call
has an end: nobody waits long for another's.
"""

from __future__ import annotations

import datetime as dt
import json
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from subscriptions import advisory, sealing
from subscriptions.advisory import Lock
from subscriptions.models import WebhookEndpoint
from subscriptions.webhooks import endpoints, queue, signing
from subscriptions.webhooks.calling import Answer, call
from subscriptions.webhooks.queue import Due

LINES = 32
LINES_OF_ONE = 4
# Read ahead for an endpoint: none of them are two of one subscriber.
_AHEAD = 64
_LOOK_EVERY = 0.1


def send_due(*, now: Callable[[], dt.datetime], seconds: float = 20.0) -> int:
    """Send what is due, and what becomes due, for about so long; answers how many calls were made.

    Where another process is at it, nothing is done. `now` is the wall's time.
    """
    with advisory.alone(Lock.WEBHOOKS) as ours:
        return _Turn(now).run(seconds) if ours else 0


class _Turn:
    def __init__(self, now: Callable[[], dt.datetime]) -> None:
        self._now = now
        self._ready: dict[int, deque[Due]] = defaultdict(deque)
        self._flying: dict[Future[Answer], Due] = {}
        self._lines: Counter[int] = Counter()
        self._endpoints: dict[int, WebhookEndpoint] = {}
        self._read_at = 0.0

    def run(self, seconds: float) -> int:
        until = time.monotonic() + seconds
        made = 0
        with ThreadPoolExecutor(LINES, thread_name_prefix="webhooks") as pool:
            while True:
                if time.monotonic() < until:
                    self._read()
                    self._submit(pool)
                if not self._flying:
                    return made
                done, _ = wait(self._flying, return_when=FIRST_COMPLETED)
                made += len(done)
                self._end(done)

    def _read(self) -> None:
        """Look what is due at endpoints of which nothing is at hand or under way."""
        if self._flying and time.monotonic() - self._read_at < _LOOK_EVERY:
            return
        self._read_at = time.monotonic()
        busy = [pk for pk in {*self._ready, *self._lines} if self._ready[pk] or self._lines[pk]]
        found = queue.due(at=self._now(), room=_AHEAD, but=busy)
        for one in found:
            self._ready[one.endpoint_id].append(one)
        self._endpoints |= WebhookEndpoint.objects.in_bulk({one.endpoint_id for one in found})

    def _submit(self, pool: ThreadPoolExecutor) -> None:
        """One of each endpoint in turn, while there are lines."""
        waiting = deque(pk for pk, ready in self._ready.items() if ready)
        while waiting and len(self._flying) < LINES:
            pk = waiting.popleft()
            if self._lines[pk] >= LINES_OF_ONE:
                continue
            one = self._ready[pk].popleft()
            flying = pool.submit(_send, self._endpoints[pk], one, self._now())
            self._flying[flying] = one
            self._lines[pk] += 1
            if self._ready[pk]:
                waiting.append(pk)

    def _end(self, done: set[Future[Answer]]) -> None:
        answers = [(self._flying.pop(future), future.result()) for future in done]
        queue.ended(answers)
        for one, answer in answers:
            self._lines[one.endpoint_id] -= 1
            if not answer.good:
                # What was read ahead is read again, if it is still to be sent.
                self._ready[one.endpoint_id].clear()


def _send(endpoint: WebhookEndpoint, one: Due, stamp: dt.datetime) -> Answer:
    """Make one call. It runs in a thread and asks no database.

    `stamp` is the wall's time, a test operator's too: receivers refuse what was signed long ago.
    """
    try:
        secrets = endpoints.secrets_of(endpoint, at=one.at)
    except sealing.Unreadable as error:
        return Answer(None, 0, f"the secret is unreadable, rotate it: {error}"[:300])
    body = body_of(one)
    message = signing.message_id(one.subscriber_id, one.event_key)
    headers = {
        "content-type": "application/json",
        "user-agent": "token-billing",
        **signing.headers(message, stamp, body, secrets),
    }
    return call(endpoint.url, headers, body)


def body_of(one: Due) -> bytes:
    """`{"type", "timestamp", "data"}`; the time is the event's."""
    said = {
        "type": one.kind,
        "timestamp": one.occurred_at.astimezone(dt.UTC).isoformat().replace("+00:00", "Z"),
        "data": json.loads(one.payload),
    }
    return json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode()
