"""The whole platform, killed in the middle of it: every record is charged exactly once."""

from __future__ import annotations

import datetime as dt
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psycopg
import pytest

from config import embedded
from config.serve import Child, Platform
from tests.adapter_fixtures import polar
from tests.running import (
    children,
    eventually,
    healthy,
    kill,
    manage,
    processes_in,
    running,
)
from tests.usage import DAY, HOUR, record
from token_billing_client import Batch, Posted, Poster

# One platform for all: they would take each other's cores, and kill each other's parts.
pytestmark = [pytest.mark.xdist_group("crashes"), pytest.mark.timeout(900)]

NOW = dt.datetime(2026, 6, 10, 4, tzinfo=dt.UTC)
EARLIER = "2026-01-01T00:00:00Z"
POLICIES = ("stop", "meter", "blocks")
SPAN = "from=2026-06-01T00:00:00Z&to=2026-07-01T00:00:00Z"
PEOPLE = 30
BATCH = 200


class Carrier:
    """A test operator on the platform, reached from outside only."""

    def __init__(self, platform: Platform, code: str, keys: dict[str, str]) -> None:
        self.platform = platform
        self.code = code
        self.gateway_key = keys["gateway"]
        self.http = self._client(keys["operator"])
        self.gateway = self._client(keys["gateway"])
        self.move_clock(NOW - DAY)
        weight = {"model": "*", "input": "1", "cached_input": "1", "cache_write": "1"}
        card = [{**weight, "output": "1", "reasoning": "1"}]
        self.call("PUT", "rate-cards/standard", {"effective_from": EARLIER, "weights": card})
        plan = {"name": "P", "price": "1", "allowance": "40000", "rate_card": "standard"}
        overage = {"price_per_million": "1", "block": {"units": "5000", "price": "1"}}
        for policy in POLICIES:
            body = {**plan, "on_exhaustion": policy, "overage": overage}
            self.call("PUT", f"plans/{policy}", body)
        drafts = [
            {"external_id": f"s-{n}", "subjects": [f"user-{n}"], "plan": POLICIES[n % 3]}
            for n in range(PEOPLE)
        ]
        self.call("POST", "subscribers/batch", drafts)
        self.move_clock(NOW)

    def _client(self, key: str) -> httpx.Client:
        return httpx.Client(
            base_url=f"{self.platform.url}/api/v1/",
            headers={"Authorization": f"Bearer {key}"},
            timeout=30,
            trust_env=False,
        )

    def close(self) -> None:
        self.http.close()
        self.gateway.close()

    def move_clock(self, to: dt.datetime) -> None:
        self.call("POST", "test-clock", {"now": to.isoformat()})

    def call(
        self, method: str, path: str, body: Any = None, *, by: httpx.Client | None = None
    ) -> Any:
        """What may be repeated is, as of every client, while the platform is away."""
        deadline = time.monotonic() + 200
        while True:
            try:
                answer = (by or self.http).request(method, path, json=body)
            except httpx.TransportError:
                assert time.monotonic() < deadline
            else:
                if answer.status_code != 503 or time.monotonic() > deadline:
                    assert answer.status_code < 300, answer.text
                    return answer.json()
            time.sleep(0.1)

    def get(self, path: str) -> Any:
        return self.call("GET", path)

    def send(self, body: Any) -> httpx.Response:
        return self.gateway.post("usage-records", json=body)

    def post(self, batches: Sequence[list[Any]], *, progress: Any = None) -> Posted:
        """Post batches until each is answered, four at a time."""
        made = [Batch(json.dumps(batch).encode(), len(batch)) for batch in batches]
        url = self.platform.url
        with Poster(url, self.gateway_key, concurrency=4, progress=progress) as poster:
            poster.post(made)
            return poster.posted

    def assert_charged_once(self, batches: Sequence[list[Any]]) -> None:
        """Everything sent again is a duplicate, and all sums are those of what was sent."""
        again = self.post(batches)
        sent = [item for batch in batches for item in batch]
        assert (again.accepted, again.duplicates, again.rejected) == (0, len(sent), 0)
        requests: Counter[str] = Counter()
        tokens: Counter[str] = Counter()
        for item in sent:
            requests[item["subject"]] += 1
            tokens[item["subject"]] += item["input_tokens"] + item["output_tokens"]
        for n in range(PEOPLE):
            name, units = f"user-{n}", tokens[f"user-{n}"]
            for by in ("hour", "month"):
                span = SPAN if by == "month" else SPAN.replace("06-01", "06-09")
                rows = self.get(f"subscribers/s-{n}/usage?{span}&by={by}")["items"]
                assert sum(row["requests"] for row in rows) == requests[name]
                assert sum(float(row["units"]) for row in rows) == units
            used: Counter[str] = Counter()
            for bucket in self.get(f"subscribers/s-{n}/balance")["buckets"]:
                used[bucket["kind"]] += round(float(bucket["used"]))
            beyond = "uncovered" if n % 3 == 0 else "overage"
            wanted = {"allowance": min(units, 40_000), beyond: max(0, units - 40_000)}
            assert +used == +Counter(wanted)


def batches(prefix: str, count: int) -> list[list[Any]]:
    """Enough for the busiest people's buckets to run dry."""
    return [
        [
            record(
                f"{prefix}-{nr}-{n}",
                subject=f"user-{(nr * n) % PEOPLE}",
                occurred_at=NOW - ((nr + n) % 5) * HOUR,
                input_tokens=1 + (nr + n) % 97,
            )
            for n in range(BATCH)
        ]
        for nr in range(count)
    ]


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    with running() as platform:
        yield platform


ISSUE_KEYS = """
import json, sys, django
django.setup()
from subscriptions import clock, keys
print(json.dumps({
    code: {
        role: keys.issue(operator_code=code, role=role, name=role, at=clock.wall(), test=True)
        for role in ("operator", "gateway")
    }
    for code in sys.argv[1:]
}))
"""


@pytest.fixture(scope="module")
def all_keys(platform: Platform) -> dict[str, dict[str, str]]:
    """Keys of enough operators, from one process: starting it takes longer than all else."""
    found: dict[str, dict[str, str]] = json.loads(
        manage(platform, ISSUE_KEYS, *(f"op-{n}" for n in range(20)), program="-c")
    )
    return found


@pytest.fixture
def carrier(platform: Platform, all_keys: dict[str, dict[str, str]]) -> Iterator[Carrier]:
    eventually(lambda: healthy(platform))
    code, keys = all_keys.popitem()
    carrier = Carrier(platform, code, keys)
    yield carrier
    carrier.close()


def web_workers(platform: Platform) -> list[int]:
    process = platform.children[0].process
    return children(process.pid) if process else []


def postgres_processes(platform: Platform) -> list[int]:
    return processes_in(platform.data / "postgres")


Done = TypeVar("Done")


def while_killing(
    work: Callable[[Callable[[int], None]], Done], kill_some: Callable[[], None], every: int
) -> Done:
    """Do the work; each time so many further records are answered, kill.

    The work goes on while processes are looked for and killed, but not past the next mark:
    finding them can take longer than all the work.
    """
    answered = threading.Semaphore(0)
    killed = threading.Semaphore(1)
    ended = threading.Event()
    kills = [0]

    def killer() -> None:
        while answered.acquire() and not ended.is_set():
            try:
                kill_some()
                kills[0] += 1
            finally:
                killed.release()

    counted = [0]

    def progress(records: int) -> None:
        before = counted[0] // every
        counted[0] += records
        if counted[0] // every > before:
            killed.acquire()
            answered.release()

    thread = threading.Thread(target=killer)
    thread.start()
    try:
        return work(progress)
    finally:
        ended.set()
        answered.release()
        thread.join()
        assert kills[0] >= 2


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_an_answer_that_needs_no_body_waits_for_it_and_keeps_the_connection(
    platform: Platform, size: int
) -> None:
    """Answered earlier, its connection would be closed under the client's next request."""
    body = json.dumps("x" * size).encode()
    head = (
        "PUT /api/v1/subscribers/s-1 HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: Bearer none\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()

    with socket.create_connection(("127.0.0.1", platform.port)) as client:
        for _ in range(2):
            client.sendall(head + body[: len(body) // 2])
            # Long enough to be answered in, if it were; it never fails for want of speed.
            client.settimeout(0.5)
            with pytest.raises(TimeoutError):
                client.recv(1)
            client.settimeout(60)
            client.sendall(body[len(body) // 2 :])
            answer = http.client.HTTPResponse(client)
            answer.begin()
            assert (answer.status, answer.will_close) == (401, False)
            assert json.loads(answer.read())["cause"] == "unauthorized"


def test_a_body_may_come_in_chunks_to_every_door(platform: Platform, carrier: Carrier) -> None:
    """As senders do that do not know its length before; Django alone would take it for empty."""

    def send(path: str, pieces: Iterable[bytes]) -> httpx.Response:
        headers = {"Content-Type": "application/json"}
        return carrier.gateway.post(f"{platform.url}{path}", content=pieces, headers=headers)

    one = [record("chunks-1", subject="user-1"), record("chunks-2", subject="user-1")]
    taken = send("/api/v1/usage-records", cut(one))
    assert taken.json()["accepted"] == 2
    event = polar("chunks-3") | {"external_customer_id": "user-1"}
    answer = send("/v1/events/ingest", cut({"events": [event]}))
    assert answer.status_code == 200, answer.text
    assert answer.json()["inserted"] == 1, answer.text

    for path in ("/api/v1/usage-records", "/v1/events/ingest"):
        cut_short = send(path, [b"[{"])
        assert (cut_short.status_code, cut_short.json()["cause"]) == (400, "malformed")
    large = send("/v1/events/ingest", (b" " * 1_000_000 for _ in range(17)))
    assert (large.status_code, large.json()["cause"]) == (413, "too_large")


def cut(body: Any) -> Iterator[bytes]:
    said = json.dumps(body).encode()
    return (said[n : n + 50] for n in range(0, len(said), 50))


def test_web_workers_killed_in_mid_replay(platform: Platform, carrier: Carrier) -> None:
    sent = batches("w", 60)

    posted = while_killing(
        lambda progress: carrier.post(sent, progress=progress),
        lambda: kill(web_workers(platform)),
        every=3000,
    )

    assert posted.accepted + posted.duplicates == 60 * BATCH
    assert (posted.rejected, posted.retries > 0) == (0, True)
    carrier.assert_charged_once(sent)


def test_postgresql_killed_in_mid_replay(platform: Platform, carrier: Carrier) -> None:
    sent = batches("p", 60)

    posted = while_killing(
        lambda progress: carrier.post(sent, progress=progress),
        lambda: kill(postgres_processes(platform)),
        every=3000,
    )

    assert posted.accepted + posted.duplicates == 60 * BATCH
    assert (posted.rejected, posted.retries > 0) == (0, True)
    carrier.assert_charged_once(sent)


PAIRS = 480
TTL = dt.timedelta(minutes=10)


@pytest.mark.parametrize("killed", [web_workers, postgres_processes])
def test_killed_among_asks_and_commits_nothing_stays_held_and_each_is_charged_once(
    platform: Platform, carrier: Carrier, killed: Callable[[Platform], list[int]]
) -> None:
    """Of four asks one is never committed, as when the gateway itself is gone."""
    records = [
        record(f"k-{nr}", subject=f"user-{nr % PEOPLE}", occurred_at=NOW, input_tokens=1 + nr % 97)
        for nr in range(PAIRS)
    ]

    def ask_and_commit(item: dict[str, Any], progress: Callable[[int], None]) -> Any:
        said = {"id": item["id"], "subject": item["subject"], "model": item["model"]}
        asked = {**said, "units": "150", "ttl_seconds": TTL.seconds}
        first = carrier.call("POST", "reservations", asked, by=carrier.gateway)
        assert first["decision"] == "allow"
        answer = None
        if int(item["id"][2:]) % 4:
            path = f"reservations/{item['id']}/commit"
            answer = carrier.call("POST", path, item, by=carrier.gateway)
            assert carrier.call("POST", path, item, by=carrier.gateway) == answer
        assert carrier.call("POST", "reservations", asked, by=carrier.gateway) == first
        progress(1)
        return answer

    def work(progress: Callable[[int], None]) -> list[Any]:
        lock = threading.Lock()

        def count(one: int) -> None:
            with lock:
                progress(one)

        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(partial(ask_and_commit, progress=count), records))

    answers = while_killing(work, lambda: kill(killed(platform)), every=120)

    committed = [item for item, answer in zip(records, answers, strict=True) if answer]
    assert len(committed) == PAIRS * 3 // 4
    assert {answer["accepted"] + answer["duplicates"] for answer in answers if answer} == {1}
    carrier.move_clock(NOW + 2 * TTL)
    for n in range(PEOPLE):
        assert carrier.get(f"subscribers/s-{n}/balance")["reserved"] == "0.000"
    carrier.assert_charged_once([committed])


# The busiest of people, from one number on; each is said once it is recorded.
GATEWAY = """
import datetime as dt, sys
from token_billing_client import Client, Usage

url, key, spool, first, count, people = sys.argv[1:]
client = Client(url, key, spool=spool, batch_records=50, flush_seconds=0.02, close_seconds=60)
at = dt.datetime(2026, 6, 10, 3, tzinfo=dt.UTC)
for nr in range(int(first), int(first) + int(count)):
    client.record(Usage(
        id=f"g-{nr}", subject=f"user-{nr * nr % int(people)}", model="deepseek/chat",
        occurred_at=at, input_tokens=100 + nr % 97, output_tokens=20,
    ))
    print(nr, flush=True)
"""


def test_a_gateway_killed_with_the_platform_it_sends_to(
    platform: Platform, carrier: Carrier, tmp_path: Path
) -> None:
    def gateway(first: int, count: int) -> subprocess.Popen[str]:
        to = (platform.url, carrier.gateway_key, str(tmp_path))
        return subprocess.Popen(
            [sys.executable, "-c", GATEWAY, *to, str(first), str(count), str(PEOPLE)],
            stdout=subprocess.PIPE,
            text=True,
        )

    first = 0
    for nr in range(6):
        with gateway(first, 100_000) as process:
            assert process.stdout
            for line in process.stdout:
                if int(line) == first + 600:
                    process.kill()
                    kill(web_workers(platform) if nr % 2 else postgres_processes(platform))
                last = int(line)
        first = last + 1
    with gateway(first, 100) as process:
        process.communicate()
        assert process.returncode == 0

    sent = [
        record(
            f"g-{nr}",
            subject=f"user-{nr * nr % PEOPLE}",
            occurred_at=NOW - HOUR,
            input_tokens=100 + nr % 97,
        )
        for nr in range(first + 100)
    ]
    carrier.assert_charged_once([sent[n : n + BATCH] for n in range(0, len(sent), BATCH)])
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_the_web_server_itself_killed_with_postgresql(platform: Platform, carrier: Carrier) -> None:
    sent = batches("b", 40)

    def kill_both() -> None:
        process = platform.children[0].process
        assert process
        kill([process.pid, *web_workers(platform), *postgres_processes(platform)])
        eventually(lambda: healthy(platform))

    # One kill is enough; the others would only wait for the supervisor's growing pauses.
    killer = threading.Thread(target=kill_both)
    once = threading.Lock()

    def progress(records: int) -> None:
        if once.acquire(blocking=False):
            killer.start()

    carrier.post(sent, progress=progress)
    killer.join()

    carrier.assert_charged_once(sent)


def test_a_worker_killed_while_it_folds(platform: Platform, carrier: Carrier) -> None:
    """A lock holds its fold in the middle, so that the kill meets it there."""
    sent = batches("f", 20)
    worker = platform.children[2]
    url = platform.environment["DATABASE_URL"]

    with psycopg.connect(url) as holder:
        for half in (sent[:10], sent[10:]):
            holder.execute("LOCK TABLE metering_usagehour IN SHARE MODE")
            carrier.post(half)
            eventually(lambda: folding(url))
            assert worker.process
            before = worker.process.pid
            kill([before, *children(before)])
            eventually(partial(restarted, worker, before))
            holder.commit()

    eventually(lambda: unfolded(url) == 0)
    carrier.assert_charged_once(sent)


def restarted(child: Child, before: int) -> bool:
    return child.process is not None and child.process.pid != before


def folding(url: str) -> bool:
    """Whether somebody waits for the lock in the middle of a fold."""
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_locks"
            " WHERE NOT granted AND relation = 'metering_usagehour'::regclass"
        ).fetchone()
        return row is not None and row[0] > 0


def unfolded(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT count(*) FROM metering_usagebatch WHERE folded_at IS NULL"
        ).fetchone()
        return row[0] if row else 0


def test_with_the_database_away_it_is_503_and_nothing_is_half_done(
    platform: Platform, carrier: Carrier
) -> None:
    sent = batches("d", 3)
    carrier.post(sent[:1])
    beat = platform.children[1]
    assert beat.process
    before = beat.process.pid

    # The supervisor needs this lock to start the server again.
    with embedded._exclusive(platform.data):
        kill([*postgres_processes(platform), before])
        for _ in range(20):
            answers = [
                carrier.send(sent[1]),
                carrier.send(sent[1][0]),
                carrier.send([record("bad", subject="nobody"), record("x", input_tokens=-1)]),
                carrier.http.get("subscribers/s-1/balance"),
                carrier.http.put("subscribers/s-99", json={"name": "x"}),
                carrier.http.post(
                    "subscribers/s-1/grants",
                    json={"units": "1", "valid_until": "2026-07-01T00:00:00Z", "reason": "x"},
                    headers={"Idempotency-Key": "k"},
                ),
            ]
            for answer in answers:
                assert answer.status_code == 503, answer.text
                assert answer.headers["Content-Type"] == "application/problem+json"
                assert int(answer.headers["Retry-After"]) > 0
                assert answer.json()["cause"] == "unavailable"
        health = httpx.get(f"{platform.url}/healthz", timeout=10, trust_env=False)
        assert health.status_code == 503
        for cookies in ({}, {"sessionid": "a" * 32}):
            page = httpx.get(f"{platform.url}/plans/", cookies=cookies, timeout=10, trust_env=False)
            assert page.status_code == 503
            assert "请稍后再试" in page.text
        # Whatever else ends meanwhile does not wait for the database.
        eventually(lambda: restarted(beat, before))

    eventually(lambda: healthy(platform))
    # A connection that died is found out once, by its thread's next request, and never again.
    refused = 0
    for n in range(100):
        answer = carrier.send(record(f"new-{n}", subject=f"nobody-{n}"))
        refused += answer.status_code == 503
        assert answer.status_code in (200, 503)
    assert refused <= 8 * (os.cpu_count() or 1)
    assert carrier.send(record("last", subject="nobody")).status_code == 200
    assert carrier.http.get("subscribers/s-99").status_code == 404
    assert {row["cause"] for row in carrier.get("quarantine")["items"]} == {"unknown_subject"}
    assert all(b["kind"] != "gift" for b in carrier.get("subscribers/s-1/balance")["buckets"])
    carrier.assert_charged_once(sent[:1])
    carrier.post(sent[1:])
    carrier.assert_charged_once(sent)
