"""A model in the place of a provider's, on loopback: answers as OpenAI's API does, and counts."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any, Self

# A request for it is answered with an error.
BROKEN_MODEL = "deepseek/broken"


@dataclass(slots=True)
class Served:
    """What was answered to one user. Input includes cached tokens, output reasoning."""

    requests: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0


class Upstream(ThreadingHTTPServer):
    """Serves in a `with` block. `served` has the counts by user, `refused` the errors: by the first
    word of the prompt, since gateways do not always pass `user` on."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.served: defaultdict[str, Served] = defaultdict(Served)
        self.refused: Counter[str] = Counter()
        self._random = random.Random(self.server_port)
        self._lock = Lock()
        self._requests = 0

    def __enter__(self) -> Self:
        Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()

    def count(self, user: str) -> tuple[str, dict[str, Any]]:
        """Serve one request more: its id and usage, as the provider bills it."""
        with self._lock:
            self._requests += 1
            given, made = self._random.randint(1, 4000), self._random.randint(1, 900)
            cached, reasoned = self._random.randint(0, given), self._random.randint(0, made)
            served = self.served[user]
            served.requests += 1
            served.input_tokens += given
            served.cached_input_tokens += cached
            served.output_tokens += made
            served.reasoning_tokens += reasoned
            usage = {
                "prompt_tokens": given,
                "completion_tokens": made,
                "total_tokens": given + made,
                "prompt_tokens_details": {"cached_tokens": cached},
                "completion_tokens_details": {"reasoning_tokens": reasoned},
            }
            return f"chatcmpl-{self.server_port}-{self._requests:06d}", usage

    def refuse(self, user: str) -> None:
        with self._lock:
            self.refused[user] += 1


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Upstream

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        user = asked["messages"][0]["content"].split()[0]
        if asked["model"] == BROKEN_MODEL:
            self.server.refuse(user)
            error = {"message": "the model does not take this", "type": "invalid_request_error"}
            self._say(400, "application/json", [json.dumps({"error": error})])
            return
        id, usage = self.server.count(user)
        common = {"id": id, "created": 1_780_000_000, "model": asked["model"]}
        if asked.get("stream"):
            wants_usage = (asked.get("stream_options") or {}).get("include_usage")
            chunks = _chunks(common, usage if wants_usage else None)
            self._say(200, "text/event-stream", [f"data: {chunk}\n\n" for chunk in chunks])
            return
        message = {"role": "assistant", "content": "Hello there."}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        answer = {**common, "object": "chat.completion", "choices": [choice], "usage": usage}
        self._say(200, "application/json", [json.dumps(answer)])

    def _say(self, status: int, content_type: str, parts: list[str]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for part in [*parts, ""]:
            body = part.encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(body), body))
            self.wfile.flush()

    def log_message(self, *args: object) -> None:
        pass


def _chunks(common: dict[str, Any], usage: dict[str, Any] | None) -> Iterator[str]:
    whole = {**common, "object": "chat.completion.chunk", "usage": None}
    for delta, reason in (
        ({"role": "assistant", "content": ""}, None),
        ({"content": "Hello "}, None),
        ({"content": "there."}, None),
        ({}, "stop"),
    ):
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        yield json.dumps({**whole, "choices": [choice]})
    if usage:
        yield json.dumps({**whole, "choices": [], "usage": usage})
    yield "[DONE]"
