"""Single records that arrive at the same time share one transaction.

A commit costs far more than a record. While one request of a gateway waits for its commit, those
that come meanwhile queue up, and the next of them takes the whole queue along. A request that is
alone is charged alone, at once. Only behind a run of several does the next one hold back for a
moment: those who were just answered send again, and without them two halves would take turns for
ever.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Key = TypeVar("Key")
Item = TypeVar("Item")
Answer = TypeVar("Answer")

_MOST_AT_ONCE = 500
# How long a run holds back, at most, until as many are there as were lately.
_PATIENCE_SECONDS = 0.001


class _Waiting(Generic[Item, Answer]):
    """A request in the queue; `bell` is held until it has an answer or has to lead."""

    __slots__ = ("answer", "bell", "done", "error", "item")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.answer: Answer | None = None
        self.error: BaseException | None = None
        self.done = False
        self.bell = threading.Lock()
        self.bell.acquire()


class _Queue(Generic[Item, Answer]):
    """What waits of one key, whether somebody leads it, and the `gate` of a leader who holds back
    for `company`."""

    __slots__ = ("company", "gate", "led", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[_Waiting[Item, Answer]] = deque()
        self.led = False
        # How many were there at the end of the last run: taken along by it, or waiting behind it.
        self.company = 0
        self.gate: threading.Lock | None = None


class Combiner(Generic[Key, Item, Answer]):
    """Runs `work(key, items)` for what different threads `submit`, one run at a time per key.

    `work` answers one answer per item, in order. If it fails for several items together, each
    is tried alone, so that one bad item fails nobody else's request. Items of a run are of one
    `kind`: those who send the one and then the other fall into step, and meet twice as often.
    """

    def __init__(
        self,
        work: Callable[[Key, Sequence[Item]], Sequence[Answer]],
        kind: Callable[[Item], object] = lambda item: None,
    ) -> None:
        self._work = work
        self._kind = kind
        self._guard = threading.Lock()
        self._queues: dict[Key, _Queue[Item, Answer]] = defaultdict(_Queue)

    def submit(self, key: Key, item: Item) -> Answer:
        """The item's answer, after the run that it was part of; raises what that run raised."""
        waiting: _Waiting[Item, Answer] = _Waiting(item)
        with self._guard:
            queue = self._queues[key]
            leads, queue.led = not queue.led, True
            queue.waiting.append(waiting)
            if queue.gate is not None and len(queue.waiting) >= queue.company:
                queue.gate.release()
                queue.gate = None
        if not leads:
            waiting.bell.acquire()
        if not waiting.done:
            self._lead(key, queue)
        if waiting.error is not None:
            raise waiting.error
        return waiting.answer  # type: ignore[return-value]

    def _lead(self, key: Key, queue: _Queue[Item, Answer]) -> None:
        """Take what waits of the leader's kind (its own is first), run it, and pass the lead on."""
        self._hold_back(queue)
        with self._guard:
            kind = self._kind(queue.waiting[0].item)
            taken = [one for one in queue.waiting if self._kind(one.item) == kind][:_MOST_AT_ONCE]
            here = set(map(id, taken))
            queue.waiting = deque(one for one in queue.waiting if id(one) not in here)
        try:
            self._run(key, taken)
        finally:
            with self._guard:
                queue.company = len(taken) + len(queue.waiting)
                if queue.waiting:
                    queue.waiting[0].bell.release()
                else:
                    queue.led = False
            for other in taken[1:]:
                other.bell.release()

    def _hold_back(self, queue: _Queue[Item, Answer]) -> None:
        with self._guard:
            if len(queue.waiting) >= queue.company:
                return
            gate = queue.gate = threading.Lock()
            gate.acquire()
        gate.acquire(timeout=_PATIENCE_SECONDS)
        with self._guard:
            queue.gate = None

    def _run(self, key: Key, taken: Sequence[_Waiting[Item, Answer]]) -> None:
        try:
            answers = self._work(key, [waiting.item for waiting in taken])
            for waiting, answer in zip(taken, answers, strict=True):
                waiting.answer = answer
        except BaseException as error:
            if len(taken) == 1:
                taken[0].error = error
            else:
                for waiting in taken:
                    self._run(key, [waiting])
        finally:
            for waiting in taken:
                waiting.done = True
