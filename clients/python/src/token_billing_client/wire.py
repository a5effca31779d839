"""Requests to one platform: connections, refusals, and asking again until it answers."""

from __future__ import annotations

import datetime as dt
import random
import time
from collections.abc import Callable, Container, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx

from token_billing_client.errors import BadUrl, Refused, Unavailable

USAGE_RECORDS = "/api/v1/usage-records"
CONNECT_SECONDS = 5.0
# Between tries: the first pause, doubled each time up to the longest, each cut by up to a half so
# that many gateways do not come back at once. A pause that the platform asks for may be longer.
FIRST_PAUSE, LONGEST_PAUSE, LONGEST_ASKED = 0.1, 5.0, 60.0

_LATER = frozenset({408, 425, 429})
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})

Answer = TypeVar("Answer")


class Platform:
    """One platform, reached with one key; threads may share it."""

    def __init__(self, url: str, key: str, *, timeout: float = 60.0, connections: int = 10) -> None:
        self.url = address(url).rstrip("/")
        self._http = connect(
            self.url,
            timeout=timeout,
            headers={"Authorization": f"Bearer {key}"},
            connections=connections,
        )

    def close(self) -> None:
        self._http.close()

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        answers: Container[int] = (),
    ) -> httpx.Response:
        """The answer: one in the 200s, or with a status among `answers`. Raises Unavailable,
        Refused."""
        sent = {"Content-Type": "application/json"} if body is not None else {}
        try:
            response = self._http.request(
                method,
                self.url + path,
                content=body,
                params=params,
                headers={**sent, **(headers or {})},
                timeout=httpx.USE_CLIENT_DEFAULT if timeout is None else _timeout(timeout),
            )
        except (httpx.TransportError, httpx.DecodingError) as error:
            why = f"{type(error).__name__}: {error}".rstrip(": ")
            raise Unavailable(f"{self.url + path} did not answer: {why}") from error
        if response.is_success or response.status_code in answers:
            return response
        raise refusal(response)


def refusal(response: httpx.Response) -> Unavailable | Refused:
    """What an answer outside the 200s means for whoever asked."""
    message = f"{response.url.copy_with(query=None)} answered {response.status_code} "
    message += said(response)
    if response.status_code in _LATER or response.status_code >= 500:
        return Unavailable(message, retry_after=asked_to_wait(response))
    problem = object_in(response)
    return Refused(
        message,
        status=response.status_code,
        cause=str(problem.get("cause", "")),
        detail=str(problem.get("detail", "")),
    )


def repeat(
    ask: Callable[[], Answer],
    *,
    seconds: float,
    wait: Callable[[float, Unavailable], object],
) -> Answer:
    """What `ask` answers; after each Unavailable it is asked again, for so many seconds at least.

    `wait` is given the pause and the trouble; once it answers something true, we stop too.
    Raises the last Unavailable, and what else `ask` raises.
    """
    deadline = time.monotonic() + seconds
    pause = FIRST_PAUSE
    while True:
        try:
            return ask()
        except Unavailable as error:
            left = deadline - time.monotonic()
            if left <= 0:
                raise
            spread = pause * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
            asked = min(error.retry_after, LONGEST_ASKED)
            # The last try is at the deadline, not before.
            if wait(min(max(spread, asked), left), error):
                raise
            pause = min(pause * 2, LONGEST_PAUSE)


def address(url: str) -> str:
    """The URL, if it is one that can be asked. Raises BadUrl."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise BadUrl(f"{url} is not a URL: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise BadUrl(f"{url} is not a URL; it looks like http://127.0.0.1:8000")
    return str(parsed)


def connect(
    url: str,
    *,
    timeout: float,
    headers: Mapping[str, str] | None = None,
    connections: int = 10,
) -> httpx.Client:
    """An HTTP client that keeps its connections; threads may share it."""
    return httpx.Client(
        timeout=_timeout(timeout),
        headers=headers,
        limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        # No proxy stands between us and our own machine.
        trust_env=httpx.URL(url).host not in _LOOPBACK,
    )


def _timeout(seconds: float) -> httpx.Timeout:
    return httpx.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS))


def said(response: httpx.Response) -> str:
    """What a refusal says for people: a problem's cause and detail, else the body's beginning."""
    problem = object_in(response)
    if "cause" in problem and "detail" in problem:
        return f"{problem['cause']}: {problem['detail']}"
    return " ".join(response.text.split())[:200] or response.reason_phrase


def object_in(response: httpx.Response) -> dict[str, Any]:
    """The JSON object that an answer is, or an empty one."""
    try:
        problem = response.json()
    except ValueError:
        return {}
    return problem if isinstance(problem, dict) else {}


def asked_to_wait(response: httpx.Response) -> float:
    """Seconds of the Retry-After, which is a number or a date; 0 where there is none."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    return max(0.0, (moment - dt.datetime.now(dt.UTC)).total_seconds())
