"""A small HTTP server in the platform's place: takes usage as it does, and has the troubles it is
told to have."""

from __future__ import annotations

import gzip
import json
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any, Self
from urllib.parse import urlsplit

from token_billing_client import Usage


@dataclass(frozen=True)
class Say:
    """An answer to give instead of the usual one."""

    status: int
    body: Any = field(default_factory=lambda: {"cause": "some_cause", "detail": "why"})
    headers: Mapping[str, str] = field(default_factory=dict)


BROKEN = "the connection breaks without an answer"
SILENT = "no answer comes for a second"
LOST = "the batch is charged, and the connection breaks before the answer"
Trouble = Say | str


@dataclass(frozen=True)
class Asked:
    """A request that came; `body` is unpacked, `raw` as it travelled."""

    method: str
    path: str
    headers: Mapping[str, str]
    raw: bytes
    at: float

    @property
    def body(self) -> bytes:
        return gzip.decompress(self.raw) if "gzip" in self.headers.values() else self.raw

    @property
    def ids(self) -> list[str]:
        return [record["id"] for record in json.loads(self.body)]


class StandIn(ThreadingHTTPServer):
    """Has these troubles, one a request, and then takes everything; `away`, it breaks every
    connection. Charges a record once, by its id, and rejects those of the subject `nobody`."""

    daemon_threads = True

    def __init__(self, *troubles: Trouble, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Answers)
        self.troubles = list(troubles)
        self.answers: dict[str, Say] = {}  # by path
        self.away = False
        self.asked: list[Asked] = []
        self.charged: dict[str, Any] = {}
        self.lock = Lock()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> Self:
        Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.away = True
        self.shutdown()
        self.server_close()

    @property
    def bodies(self) -> list[bytes]:
        return [one.body for one in self.asked]

    def charge(self, records: list[Any]) -> dict[str, Any]:
        accepted = duplicates = 0
        rejected = []
        with self.lock:
            for index, record in enumerate(records):
                if record.get("subject") == "nobody":
                    rejected.append(
                        {
                            "index": index,
                            "id": record["id"],
                            "cause": "unknown_subject",
                            "detail": "no subscriber is called 'nobody'",
                            "quarantine_id": "5",
                        }
                    )
                elif record["id"] in self.charged:
                    assert self.charged[record["id"]] == record
                    duplicates += 1
                else:
                    self.charged[record["id"]] = record
                    accepted += 1
        return {
            "batch": "1",
            "accepted": accepted,
            "duplicates": duplicates,
            "rejected": rejected,
            "units": f"{accepted * 1.5:.3f}",
        }


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: StandIn

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        raw = self.rfile.read(length)
        if len(raw) < length:
            self.close_connection = True
            return  # whoever asked was killed
        asked = Asked(self.command, self.path, dict(self.headers), raw, time.monotonic())
        with self.server.lock:
            if self.server.away:
                self.close_connection = True
                return
            self.server.asked.append(asked)
            trouble = self.server.troubles.pop(0) if self.server.troubles else None
        path = urlsplit(self.path).path
        if isinstance(trouble, Say):
            self.say(trouble)
        elif trouble == SILENT:
            time.sleep(1)
            self.close_connection = True
        elif trouble == BROKEN:
            self.close_connection = True
        elif path in self.server.answers:
            self.say(self.server.answers[path])
        elif path != "/api/v1/usage-records":
            self.say(Say(404, {"cause": "not_found", "detail": "there is nothing here"}))
        else:
            answer = self.server.charge(json.loads(asked.body))
            if trouble == LOST:
                self.close_connection = True
            else:
                self.say(Say(200, answer))

    do_POST = do_GET

    def say(self, answer: Say) -> None:
        body = b"" if answer.body is None else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


def port_of_nobody() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def usage(id: str, **said: Any) -> Usage:
    return Usage(
        **{
            "id": id,
            "subject": "user-1",
            "model": "deepseek/chat",
            "input_tokens": 100,
            "output_tokens": 20,
            **said,
        }
    )
