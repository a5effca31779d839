"""Posts batches that are ready, several at a time, until each has been answered.

For usage that already lies somewhere safe, such as a file: a batch that got no answer is sent
again as it was, so a platform that restarts in the middle loses nothing and charges nothing twice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple, Self

from token_billing_client.errors import Unavailable
from token_billing_client.usage import Charged, Rejection
from token_billing_client.wire import USAGE_RECORDS, Platform, repeat

log = logging.getLogger(__name__)

# How long one batch is sent again and again before we give up.
PATIENCE_SECONDS = 120.0
_EXAMPLES = 5


class Batch(NamedTuple):
    """A request to be: `body` is a JSON array of `records` usage records."""

    body: bytes
    records: int


@dataclass(slots=True)
class Posted:
    """What the platform answered, added up. A batch whose first answer was lost counts as
    duplicates, without units."""

    records: int = 0
    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    units: Decimal = Decimal(0)
    causes: Counter[str] = field(default_factory=Counter)
    examples: list[Rejection] = field(default_factory=list)
    retries: int = 0
    seconds: float = 0.0

    @property
    def records_per_second(self) -> float:
        return self.records / self.seconds if self.seconds else 0.0

    def add(self, records: int, charged: Charged) -> None:
        self.records += records
        self.accepted += charged.accepted
        self.duplicates += charged.duplicates
        self.rejected += len(charged.rejected)
        self.units += charged.units
        self.causes.update(rejection.cause for rejection in charged.rejected)
        self.examples += charged.rejected[: _EXAMPLES - len(self.examples)]


class Poster:
    """Posts to one platform with one gateway key; `posted` grows over all calls of `post`.

    To be used in a `with` block, which closes its connections. `progress` is called by the
    posting threads after each answer, with its number of records. Raises BadUrl.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        concurrency: int = 2,
        patience: float = PATIENCE_SECONDS,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self._platform = Platform(url, key, connections=concurrency)
        self._concurrency = concurrency
        self._patience = patience
        self._progress = progress
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self.posted = Posted()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._platform.close()

    def post(self, batches: Iterable[Batch]) -> None:
        """Return when every batch is answered.

        Raises Refused, Unavailable for a batch that was not taken in all our patience, and what
        `batches` raises. Batches are made one at a time, by whichever thread is free: making them
        has to be cheap.
        """
        self._stop.clear()
        shared = iter(batches)
        began = time.monotonic()
        with ThreadPoolExecutor(self._concurrency, thread_name_prefix="poster") as pool:
            workers = [pool.submit(self._work, shared) for _ in range(self._concurrency)]
            try:
                wait(workers, return_when=FIRST_EXCEPTION)
            finally:
                # Also on Ctrl-C: the others end after the batch in hand.
                self._stop.set()
        self.posted.seconds += time.monotonic() - began
        for worker in workers:
            worker.result()

    def _work(self, batches: Iterator[Batch]) -> None:
        while (batch := self._next(batches)) is not None:
            try:
                charged = self._send(batch)
            except Unavailable:
                if self._stop.is_set():
                    return
                raise
            with self._lock:
                self.posted.add(batch.records, charged)
            if self._progress:
                self._progress(batch.records)

    def _next(self, batches: Iterator[Batch]) -> Batch | None:
        with self._lock:
            return None if self._stop.is_set() else next(batches, None)

    def _send(self, batch: Batch) -> Charged:
        response = repeat(
            lambda: self._platform.ask("POST", USAGE_RECORDS, body=batch.body),
            seconds=self._patience,
            wait=self._wait,
        )
        return Charged.read(response)

    def _wait(self, pause: float, trouble: Unavailable) -> bool:
        with self._lock:
            self.posted.retries += 1
        log.warning("%s; the batch is sent again in %.1f s", trouble, pause)
        return self._stop.wait(pause)
