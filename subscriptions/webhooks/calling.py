"""One call of a webhook, from the look-up of its host to the first bytes of the answer."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import httpcore

from subscriptions.webhooks import addresses

log = logging.getLogger(__name__)

# All of a call, however slowly it answers.
SECONDS = 10.0
# As much of an answer is read, and so much of it kept.
READ = 4096
KEPT = 500


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a call; `status` is None where nobody answered, `error` says why."""

    status: int | None
    milliseconds: int
    error: str = ""
    text: str = ""

    @property
    def good(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


def call(url: str, headers: Mapping[str, str], body: bytes, *, seconds: float = SECONDS) -> Answer:
    """POST to a webhook; redirects are not followed. Never raises: what fails is an answer too."""
    began = time.monotonic()
    status, error, text = None, "", ""
    try:
        target = addresses.read(url)
        backend = _Checked(addresses.look_up(target), began + seconds)
        with (
            httpcore.ConnectionPool(ssl_context=_tls(), network_backend=backend) as pool,
            pool.stream("POST", url, headers=list(headers.items()), content=body) as response,
        ):
            status = response.status
            text = _first(response.iter_stream())
    except addresses.Forbidden as refused:
        error = refused.detail
    except (OSError, httpcore.TimeoutException) as failure:
        error = _said(failure) or "no answer in time"
    except (httpcore.NetworkError, httpcore.ProtocolError) as failure:
        error = _said(failure)
    except (UnicodeError, ValueError) as failure:  # a host that is no name
        error = f"the address cannot be used: {_said(failure)}"
    except Exception as failure:  # one strange address may not end the calls of all others
        log.exception("a webhook's call ended in an error of ours")
        error = f"an error on our side: {type(failure).__name__}"
    if status is not None and not error and not 200 <= status < 300:
        error = f"answered {status}"
    spent = int(1000 * (time.monotonic() - began))
    return Answer(status, spent, error[:300], text)


def _first(chunks: Iterable[bytes]) -> str:
    """The first bytes of an answer, as text that a database can hold."""
    read = b""
    for chunk in chunks:
        read += chunk
        if len(read) >= READ:
            break
    return read[:READ].decode("utf-8", "replace").replace("\0", "�")[:KEPT]


def _said(failure: Exception) -> str:
    return f"{type(failure).__name__}: {failure}".removesuffix(": ")


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


class _Checked(httpcore.NetworkBackend):
    """Connects to the address that was checked, whatever host is asked for, and waits for no step
    beyond the end of the whole call."""

    def __init__(self, address: str, ends: float) -> None:
        self._address, self._ends = address, ends

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.NetworkStream:
        stream = httpcore.SyncBackend().connect_tcp(
            self._address, port, timeout=_left(self._ends), socket_options=socket_options
        )
        return _Timed(stream, self._ends)


class _Timed(httpcore.NetworkStream):
    """A stream whose every step ends with the call: who answers byte by byte holds nobody up."""

    def __init__(self, stream: httpcore.NetworkStream, ends: float) -> None:
        self._stream, self._ends = stream, ends

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, timeout=_left(self._ends))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, timeout=_left(self._ends))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        wrapped = self._stream.start_tls(
            ssl_context, server_hostname=server_hostname, timeout=_left(self._ends)
        )
        return _Timed(wrapped, self._ends)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(ends: float) -> float:
    left = ends - time.monotonic()
    if left <= 0:
        raise httpcore.TimeoutException("no answer in time")
    return left
