"""A gateway's side: usage goes to the spool and from there to the platform, in the background."""

from __future__ import annotations

import atexit
import gzip
import json
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Self
from urllib.parse import quote

import httpx

from token_billing_client.errors import Refused, SpoolError, Unavailable
from token_billing_client.leave import Leave, Reservation
from token_billing_client.spool import Spool, Stored
from token_billing_client.usage import MAX_BYTES, MAX_RECORDS, Charged, Usage
from token_billing_client.windows import Totals, Window
from token_billing_client.wire import LONGEST_PAUSE, USAGE_RECORDS, Platform, repeat

log = logging.getLogger(__name__)

RESERVATIONS = "/api/v1/reservations"
AUTHORIZE = "/api/v1/authorize"
USAGE_COUNTERS = "/api/v1/usage-counters"
# The body itself is at fault. All else, a key that is not valid too, may be mended while we wait.
_BODY_REFUSED = frozenset({400, 409, 413, 415, 422})
# How long a thread may take to notice that the time to close is over, unless a request holds it.
LAST_MOMENT = 1.0


class Client:
    """Sends usage of one gateway to the platform, and asks it for leave. Threads may share it.

    `record` stores usage in the folder `spool` and returns; a thread sends it in batches of at most
    `batch_records` and `batch_bytes`, none older than `flush_seconds`, and keeps at it while the
    platform is away, until the spool holds `spool_bytes`. Usage that was recorded is sent at least
    once, with the same id, whatever becomes of this process; the platform charges it once. That the
    machine itself may fail is covered after `fsync_seconds`, with 0 before `record` returns. Of
    what was answered the last `history_bytes` stay in the spool's folder `sent`, for `resend`.

    `reserve`, `commit`, `release` and `authorize` are answered within `ask_seconds` or raise
    Unavailable. `on_answer` is called for each batch with what became of it, `on_refused` with the
    file of a batch that the platform will never take: by the thread that sends, so be quick.

    `close`, which the end of a `with` block, the end of the program and SIGTERM bring about, sends
    what is left for up to `close_seconds`; the rest is sent by the next process with this spool.
    One process has one spool: open the client after a fork.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        spool: Path | str,
        batch_records: int = 1000,
        batch_bytes: int = 4 * 1024 * 1024,
        flush_seconds: float = 1.0,
        fsync_seconds: float = 1.0,
        spool_bytes: int = 1024 * 1024 * 1024,
        history_bytes: int = 0,
        send_seconds: float = 60.0,
        ask_seconds: float = 3.0,
        close_seconds: float = 10.0,
        compress: bool = True,
        on_answer: Callable[[Charged], None] | None = None,
        on_refused: Callable[[Refused, Path], None] | None = None,
    ) -> None:
        if not 1 <= batch_records <= MAX_RECORDS or not 1 <= batch_bytes <= MAX_BYTES:
            raise ValueError(f"a batch has 1 to {MAX_RECORDS} records and {MAX_BYTES} bytes")
        self._platform = Platform(url, key, timeout=send_seconds)
        self._spool = Spool(
            Path(spool),
            batch_records=batch_records,
            batch_bytes=batch_bytes,
            max_bytes=spool_bytes,
            history_bytes=history_bytes,
        )
        self._flush_seconds = flush_seconds
        self._fsync_seconds = fsync_seconds
        self._ask_seconds = ask_seconds
        self._close_seconds = close_seconds
        self._compress = compress
        self._on_answer = on_answer
        self._on_refused = on_refused
        self._trouble = ""
        self._process = os.getpid()
        self._closing = threading.Event()
        self._close_by = math.inf
        # Daemons: those that are not are waited for before the program's end tells us to close.
        self._threads = [
            threading.Thread(target=self._send_all, name="usage-sender", daemon=True),
            threading.Thread(target=self._sync_all, name="usage-syncer", daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        atexit.register(self.close)
        _end_by_exit()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # --- usage ------------------------------------------------------------------------------------

    def record(self, usage: Usage) -> None:
        """Store usage, to be sent soon. Raises SpoolError or SpoolFull, having stored nothing."""
        if os.getpid() != self._process:
            raise SpoolError("this client was opened by the process before the fork")
        self._spool.append(usage.to_json())
        if not self._fsync_seconds:
            self._spool.sync()

    def flush(self, *, seconds: float = 60.0) -> bool:
        """Send all that was recorded until now; whether the platform has answered it in time."""
        return self._spool.drain(seconds=seconds)

    @property
    def waiting_bytes(self) -> int:
        """The usage in the spool that the platform has not taken yet."""
        return self._spool.waiting_bytes

    @property
    def trouble(self) -> str:
        """Why usage is not being taken at the moment; empty while it is."""
        return self._trouble

    def close(self) -> None:
        """Send what is left for up to `close_seconds` and stop. Again is harmless."""
        if self._closing.is_set() or os.getpid() != self._process:
            return
        self._close_by = time.monotonic() + self._close_seconds
        self._closing.set()
        try:
            self._spool.close()
        except SpoolError as error:
            log.error("%s", error)
        for thread in self._threads:
            thread.join(max(0.0, self._close_by - time.monotonic()) + LAST_MOMENT)
        atexit.unregister(self.close)
        try:
            self._spool.sync()
        except SpoolError as error:
            log.error("%s", error)
        if self._spool.waiting_bytes:
            log.warning(
                "%d bytes of usage wait in %s for the next start",
                self._spool.waiting_bytes,
                self._spool.folder,
            )
        if not self._threads[0].is_alive():
            # Else a request still waits for its answer, and the folder is ours until it has it.
            self._spool.release()
            self._platform.close()

    def _sync_all(self) -> None:
        while not self._closing.wait(self._fsync_seconds or 1.0):
            try:
                self._spool.sync()
            except SpoolError as error:
                log.error("%s", error)

    def _send_all(self) -> None:
        while not self._over():
            try:
                batch = self._spool.take(after_seconds=self._flush_seconds)
                if batch is None:
                    return
                self._send(batch)
            except Unavailable:
                return  # closing
            except Exception:
                # The batch is still there. This thread must not end while the gateway runs.
                log.exception("usage could not be sent; it is tried again")
                self._pause(LONGEST_PAUSE)

    def _send(self, batch: Stored) -> None:
        records = self._spool.read(batch)
        try:
            if records:
                self._post(records)
        except Refused as error:
            self._set_aside(batch, error)
        else:
            self._spool.remove(batch)

    def _post(self, records: list[bytes]) -> None:
        """Returns when it was answered. Raises Refused, and Unavailable when closing."""
        body = b"[" + b",".join(records) + b"]"
        headers = {}
        if self._compress:
            # Without a time in it: the same records are the same bytes.
            body = gzip.compress(body, compresslevel=1, mtime=0)
            headers["Content-Encoding"] = "gzip"
        try:
            charged = repeat(
                lambda: self._ask_to_charge(body, headers), seconds=math.inf, wait=self._wait
            )
        except Refused as error:
            if error.status != 413 or len(records) == 1:
                raise
            # A proxy in between takes less than the platform does.
            half = len(records) // 2
            self._post(records[:half])
            self._post(records[half:])
            return
        if self._trouble:
            log.info("usage is taken again")
            self._trouble = ""
        self._tell(charged)

    def _ask_to_charge(self, body: bytes, headers: dict[str, str]) -> Charged:
        try:
            return Charged.read(
                self._platform.ask("POST", USAGE_RECORDS, body=body, headers=headers)
            )
        except Refused as error:
            if error.status in _BODY_REFUSED:
                raise
            raise Unavailable(str(error), retry_after=LONGEST_PAUSE) from error

    def _tell(self, charged: Charged) -> None:
        for rejection in charged.rejected:
            log.warning(
                "usage %s was not charged: %s: %s; the platform keeps it",
                rejection.id,
                rejection.cause,
                rejection.detail,
            )
        if self._on_answer:
            try:
                self._on_answer(charged)
            except Exception:
                log.exception("on_answer failed")

    def _set_aside(self, batch: Stored, error: Refused) -> None:
        path = self._spool.set_aside(batch)
        log.error("%s; the batch is kept in %s", error, path)
        if self._on_refused:
            try:
                self._on_refused(error, path)
            except Exception:
                log.exception("on_refused failed")

    def _wait(self, pause: float, trouble: Unavailable) -> bool:
        """Pause; whether it is time to give up."""
        if not self._trouble:
            log.warning("%s; usage waits in %s", trouble, self._spool.folder)
        self._trouble = str(trouble)
        self._pause(pause)
        return self._over()

    def _pause(self, seconds: float) -> None:
        """Sleep until closing begins; when it has, for no longer than it may take."""
        if self._closing.is_set():
            time.sleep(max(0.0, min(seconds, self._close_by - time.monotonic())))
        else:
            self._closing.wait(seconds)

    def _over(self) -> bool:
        return time.monotonic() >= self._close_by

    # --- leave ------------------------------------------------------------------------------------

    def reserve(
        self,
        id: str,
        *,
        subject: str,
        model: str,
        input_tokens: int | None = None,
        max_output_tokens: int | None = None,
        units: str | None = None,
        ttl_seconds: int | None = None,
    ) -> Reservation:
        """Hold units for a request. The same id again is the same reservation.

        Raises Unavailable: whether to go on then is the gateway's policy. Raises Refused.
        """
        said = {
            "id": id,
            "subject": subject,
            "model": model,
            "input_tokens": input_tokens,
            "max_output_tokens": max_output_tokens,
            "units": units,
            "ttl_seconds": ttl_seconds,
        }
        body = {name: value for name, value in said.items() if value is not None}
        return Reservation.read(id, self._ask("POST", RESERVATIONS, body=_json(body)))

    def commit(self, id: str, usage: Usage) -> Charged | None:
        """Charge what the request really used and let go of the rest.

        Where the platform is away or will not commit, the usage is recorded instead, and the answer
        is None: it will be charged, and the hold ends by itself. Raises Refused with the cause
        `conflict` where other usage was committed or charged under these ids before.
        """
        try:
            return Charged.read(
                self._ask(
                    "POST", f"{RESERVATIONS}/{quote(id, safe='')}/commit", body=usage.to_json()
                )
            )
        except (Unavailable, Refused) as error:
            if isinstance(error, Refused) and error.cause == "conflict":
                raise
            log.warning("%s; the usage is sent without the reservation", error)
            self.record(usage)
            return None
        except BaseException:
            # SIGTERM or Ctrl-C came in between: the request was served, so it is charged.
            self.record(usage)
            raise

    def release(self, id: str) -> None:
        """Let go of all that is held: the request did not happen. Again is harmless.

        Raises Unavailable: it ends by itself then. Raises Refused.
        """
        self._ask("POST", f"{RESERVATIONS}/{quote(id, safe='')}/release", body=b"{}")

    def authorize(self, *, subject: str, model: str) -> Leave:
        """Whether the subject may go on with the model. Raises Unavailable, Refused."""
        response = self._ask(
            "GET", AUTHORIZE, params={"subject": subject, "model": model}, answers=(403, 429)
        )
        return Leave.read(response)

    # --- agreeing ---------------------------------------------------------------------------------

    def tell(self, totals: Totals) -> Window:
        """Tell the gateway's own totals of a window, after sending all that was recorded.

        The same again is compared again; `Window.wants` says what to `record` again. Raises
        Unavailable where the platform is away, or usage still waits. Raises Refused.
        """
        if not self.flush(seconds=self._ask_seconds):
            raise Unavailable(f"usage still waits in {self._spool.folder}: {self._trouble}")
        body = _json(totals.to_json())
        # A comparison takes longer than an ask.
        return Window.read(self._platform.ask("POST", USAGE_COUNTERS, body=body))

    def resend(self, window: Window) -> int:
        """Record again what the platform asks for, with the same ids, as far as `history_bytes` has
        kept it; answers how many records that were. `tell` the same totals again then.

        Raises SpoolError, SpoolFull: what was recorded by then is sent.
        """
        again: set[str] = set()
        for line in self._spool.history():
            record = json.loads(line)
            # One that was sent again before stands there twice.
            if record["id"] not in again and window.wants_sent(record):
                self._spool.append(line)
                again.add(record["id"])
        return len(again)

    def _ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        """Ask until it is answered or `ask_seconds` are over."""
        deadline = time.monotonic() + self._ask_seconds

        def ask() -> httpx.Response:
            left = max(deadline - time.monotonic(), 0.1)
            return self._platform.ask(method, path, timeout=left, **request)

        return repeat(ask, seconds=self._ask_seconds, wait=lambda pause, _: time.sleep(pause))


def _json(body: dict[str, Any]) -> bytes:
    return json.dumps(body, separators=(",", ":"), allow_nan=False).encode()


def _end_by_exit() -> None:
    """Have SIGTERM end the program as its end does, where it would kill it on the spot.

    A handler that somebody else has set, such as a web server's, stays.
    """
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    ):
        signal.signal(signal.SIGTERM, _exit)


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
