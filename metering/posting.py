"""Posts batches of usage records over HTTP, several at a time, until each has been answered.

A gateway's side of the wire: a batch that got no answer is sent again with the same ids, so a
platform that restarts in the middle loses nothing and charges nothing twice.
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
from typing import Self

import httpx
import msgspec

from metering.traces import Batch

log = logging.getLogger(__name__)
# It would log a line for each request.
logging.getLogger("httpx").setLevel(logging.WARNING)

PATH = "/api/v1/usage-records"
# How long one batch is sent again and again before we give up.
PATIENCE_SECONDS = 120.0
_TIMEOUT = httpx.Timeout(60.0, connect=5.0)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_EXAMPLES = 5


class PostingError(Exception):
    """Posting cannot go on; the message says why."""


class Refused(PostingError):
    """The platform does not take the key, or what we send."""


class GaveUp(PostingError):
    """The platform did not answer for too long."""


class Rejection(msgspec.Struct):
    """A record that was not charged, and why."""

    id: str
    cause: str
    detail: str = ""


class _Answer(msgspec.Struct):
    accepted: int
    duplicates: int
    rejected: list[Rejection]
    units: Decimal


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

    def add(self, records: int, answer: _Answer) -> None:
        self.records += records
        self.accepted += answer.accepted
        self.duplicates += answer.duplicates
        self.rejected += len(answer.rejected)
        self.units += answer.units
        self.causes.update(rejection.cause for rejection in answer.rejected)
        self.examples += answer.rejected[: _EXAMPLES - len(self.examples)]


class Poster:
    """Posts to one platform with one gateway key; `posted` grows over all calls of `post`.

    To be used in a `with` block, which closes its connections. `progress` is called by the
    posting threads after each answer, with its number of records.
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
        self._url = address(url).rstrip("/") + PATH
        self._http = client(
            self._url,
            timeout=_TIMEOUT,
            headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
            connections=concurrency,
        )
        self._concurrency = concurrency
        self._patience = patience
        self._progress = progress
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self.posted = Posted()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._http.close()

    def post(self, batches: Iterable[Batch]) -> None:
        """Return when every batch is answered. Raises Refused, GaveUp, and what `batches` raises.

        Batches are made one at a time, by whichever thread is free: making them has to be cheap.
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
            answer = self._send(batch)
            if answer is None:
                return
            with self._lock:
                self.posted.add(batch.records, answer)
            if self._progress:
                self._progress(batch.records)

    def _next(self, batches: Iterator[Batch]) -> Batch | None:
        with self._lock:
            return None if self._stop.is_set() else next(batches, None)

    def _send(self, batch: Batch) -> _Answer | None:
        """The answer to one batch, or None where posting was stopped meanwhile."""
        deadline = time.monotonic() + self._patience
        pause = _FIRST_PAUSE
        while True:
            asked = 0.0
            try:
                response = self._http.post(self._url, content=batch.body)
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}".rstrip(": ")
            else:
                if response.status_code == 200:
                    return self._read(response)
                problem = f"{response.status_code} {said(response)}"
                if response.status_code < 500 and response.status_code != 429:
                    raise Refused(f"{self._url} answered {problem}")
                asked = _seconds(response.headers.get("Retry-After", ""))
            if time.monotonic() > deadline:
                raise GaveUp(
                    f"{self._url} did not take a batch for {self._patience:g} s; last: {problem}"
                )
            with self._lock:
                self.posted.retries += 1
            wait_for = min(max(pause, asked), _LONGEST_PAUSE)
            log.warning("%s; the batch is sent again in %.1f s", problem, wait_for)
            if self._stop.wait(wait_for):
                return None
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _read(self, response: httpx.Response) -> _Answer:
        try:
            return msgspec.json.decode(response.content, type=_Answer)
        except msgspec.DecodeError as error:
            raise Refused(f"{self._url} does not answer like the platform: {error}") from error


def address(url: str) -> str:
    """The URL, if it is one that can be posted to. Raises PostingError."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise PostingError(f"{url} is not a URL: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise PostingError(f"{url} is not a URL; it looks like http://127.0.0.1:8000")
    return str(parsed)


def client(
    url: str,
    *,
    timeout: httpx.Timeout | float,
    headers: dict[str, str] | None = None,
    connections: int = 10,
) -> httpx.Client:
    """A client that keeps its connections; threads may share it."""
    # No proxy stands between us and our own machine.
    loopback = httpx.URL(url).host in ("127.0.0.1", "localhost", "::1")
    return httpx.Client(
        timeout=timeout,
        headers=headers,
        limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        trust_env=not loopback,
    )


def said(response: httpx.Response) -> str:
    """What a refusal says for people: a problem's cause and detail, else the body's beginning."""
    try:
        problem = response.json()
        return f"{problem['cause']}: {problem['detail']}"
    except (ValueError, KeyError, TypeError):
        return " ".join(response.text.split())[:200] or response.reason_phrase


def _seconds(text: str) -> float:
    return float(text) if text.isascii() and text.isdigit() else 0.0
