"""Pages opened as a browser opens them, without a web server: how long, and how much they ask."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urljoin, urlsplit

from allauth.account.internal.flows.login import AUTHENTICATION_METHODS_SESSION_KEY
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import resolve

from bench import crowd
from bench.report import middle, percentile
from subscriptions.console.lists import List
from subscriptions.console.site import load, site
from subscriptions.models import Subscriber, User

# Ways out of the account, and what is no page.
_NOT_FOLLOWED = ("account_logout", "health")
_LINK = re.compile(rb"""(?:href|hx-get)="([^"#]+)["#]""")


@dataclass(slots=True)
class Timed:
    """A page: milliseconds from the request to the last byte of the answer, of which so many of
    processor time (of this process and of the database's), and its queries."""

    path: str
    name: str
    queries: int = 0
    size: int = 0
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def p50(self) -> float:
        return middle(self.wall)

    @property
    def p95(self) -> float:
        return percentile(self.wall, 0.95)

    @property
    def p95_cpu(self) -> float:
        return percentile(self.cpu, 0.95)

    def figures(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "queries": self.queries,
            "bytes": self.size,
            "p50": round(self.p50, 1),
            "p95": round(self.p95, 1),
            "cpu_p50": round(middle(self.cpu), 1),
            "cpu_p95": round(self.p95_cpu, 1),
        }


def signed_in(email: str, methods: Sequence[str]) -> Client:
    """Somebody who has just signed in by these."""
    user = User.objects.get(email=email)
    client = Client(SERVER_NAME="127.0.0.1", headers={"accept-language": "zh-CN"})
    client.force_login(user, backend="allauth.account.auth_backends.AuthenticationBackend")
    session = client.session
    session[AUTHENTICATION_METHODS_SESSION_KEY] = [
        {"method": method, "at": time.time()} for method in methods
    ]
    session["account_authentication_methods_user"] = str(user.pk)
    session.save()
    return client


def console_lists() -> list[str]:
    """The lists of the console; those that are of one subscriber, of the heavy one."""
    subscriber = Subscriber.objects.get(external_id=crowd.HEAVY)
    load()
    found = []
    for page in sorted(site.pages.values(), key=lambda page: page.name):
        if issubclass(page, List):
            of = f"?subscriber={subscriber.pk}" if page.narrow else ""
            found.append(f"/admin/{page.address}{of}")
    return found


def _opened(client: Client, path: str) -> bytes:
    answer: Any = client.get(path)
    content = b"".join(answer.streaming_content) if answer.streaming else answer.content
    assert answer.status_code in (200, 302), (path, answer.status_code)
    return bytes(content) if "html" in answer.headers.get("Content-Type", "") else b""


def led_to(client: Client, *starts: str) -> list[str]:
    """The pages that these lead to: of each kind one, and one for each kind of question to it."""
    found: list[str] = []
    kinds = set()
    ahead = list(starts)
    while ahead:
        url = urlsplit(ahead.pop(0))
        path = url.path + (f"?{url.query}" if url.query else "")
        if url.netloc or url.scheme not in ("", "http") or not path.startswith("/"):
            continue
        if path.startswith("/static/"):
            continue
        name = resolve(url.path).url_name or ""
        asked = tuple(
            (key, value if value.isalpha() else "") for key, value in parse_qsl(url.query)
        )
        if name in _NOT_FOLLOWED or (name, asked) in kinds:
            continue
        kinds.add((name, asked))
        found.append(path)
        content = _opened(client, path)
        ahead += [urljoin(path, unescape(link.decode())) for link in _LINK.findall(content)]
    return found


def timed(client: Client, paths: Iterable[str], rounds: int) -> list[Timed]:
    """Each page opened so many times, in turn with the others, after once unmeasured."""
    found = []
    for path in paths:
        page = Timed(path, resolve(urlsplit(path).path).url_name or path)
        with CaptureQueriesContext(connection):
            page.size = len(_opened(client, path))
        with CaptureQueriesContext(connection) as asked:
            _opened(client, path)
        page.queries = len(asked)
        found.append(page)
    for _ in range(rounds):
        for page in found:
            server = _server_seconds()
            cpu, wall = time.thread_time(), time.perf_counter()
            _opened(client, page.path)
            page.wall.append((time.perf_counter() - wall) * 1000)
            page.cpu.append((time.thread_time() - cpu + _server_seconds() - server) * 1000)
    return found


def _server_seconds() -> float:
    """Processor time that the database's process of our connection has had."""
    connection.ensure_connection()
    said = Path(f"/proc/{connection.connection.info.backend_pid}/schedstat").read_text()
    return int(said.split()[0]) / 1e9
