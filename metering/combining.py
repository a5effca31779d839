"""Single records that arrive at the same time share one transaction.

A commit costs far more than a record. While one request of a gateway waits for its commit, those
that come meanwhile queue up, and the next of them takes the whole queue along. A request that is
alone is charged alone, at once. Only behind a run of several does the next one hold back for a
moment: those who were just answered send again, and without them two halves would take turns for
ever.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Key = TypeVar("Key")
Item = TypeVar("Item")
Answer = TypeVar("Answer")

_MOST_AT_ONCE = 500
# How long a run holds back for company.
_PATIENCE_SECONDS = 0.0005


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


class Combiner(Generic[Key, Item, Answer]):
    """Runs `work(key, items)` for what different threads `submit`, one run at a time per key.

    `work` answers one answer per item, in order. If it fails for several items together, each
    is tried alone, so that one bad item fails nobody else's request.
    """

    def __init__(self, work: Callable[[Key, Sequence[Item]], Sequence[Answer]]) -> None:
        self._work = work
        self._guard = threading.Lock()
        self._queues: dict[Key, deque[_Waiting[Item, Answer]]] = defaultdict(deque)
        self._led: set[Key] = set()
        self._last: dict[Key, int] = {}  # how many the last run took

    def submit(self, key: Key, item: Item) -> Answer:
        """The item's answer, after the run that it was part of; raises what that run raised."""
        waiting: _Waiting[Item, Answer] = _Waiting(item)
        with self._guard:
            self._queues[key].append(waiting)
            leads = key not in self._led
            if leads:
                self._led.add(key)
        if not leads:
            waiting.bell.acquire()
        if not waiting.done:
            self._lead(key)
        if waiting.error is not None:
            raise waiting.error
        return waiting.answer  # type: ignore[return-value]

    def _lead(self, key: Key) -> None:
        """Take what waits (the leader's own item is first), run it, and pass the lead on."""
        if 1 < self._last.get(key, 0) > len(self._queues[key]):
            time.sleep(_PATIENCE_SECONDS)
        with self._guard:
            queue = self._queues[key]
            taken = [queue.popleft() for _ in range(min(len(queue), _MOST_AT_ONCE))]
            self._last[key] = len(taken)
        try:
            self._run(key, taken)
        finally:
            with self._guard:
                queue = self._queues[key]
                if queue:
                    queue[0].bell.release()
                else:
                    self._led.discard(key)
                    del self._queues[key]
            for waiting in taken[1:]:
                waiting.bell.release()

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
