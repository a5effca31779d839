"""A gateway's usage on its way: batches, outages, refusals, and every way that a process ends."""

from __future__ import annotations

import datetime as dt
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from stand_in import BROKEN, LOST, SILENT, Say, StandIn, Trouble, port_of_nobody, usage
from token_billing_client import (
    Charged,
    Client,
    Refused,
    SpoolError,
    SpoolFull,
    SpoolInUse,
    Usage,
)


@pytest.fixture(autouse=True)
def _any_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that was closed has left its spool, however slow its threads are."""
    monkeypatch.setattr("token_billing_client.client.LAST_MOMENT", 60)


def client_of(platform: StandIn | str, spool: Path, **settings: Any) -> Client:
    url = platform if isinstance(platform, str) else platform.url
    """By itself it sends what fills a batch and what is left at the end, however slow we are."""
    return Client(url, "tbg_key", spool=spool, **{"flush_seconds": 3600, **settings})


def eventually(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.01)


def ids(many: int, prefix: str = "r") -> list[str]:
    return [f"{prefix}-{nr}" for nr in range(many)]


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "lock")


# Batches -----------------------------------------------------------------------------------------


def test_usage_is_sent_as_it_was_recorded(tmp_path: Path) -> None:
    used = Usage(
        id="r-1",
        subject="用户",
        model="deepseek/chat",
        occurred_at=dt.datetime(2026, 6, 10, 12, tzinfo=dt.timezone(dt.timedelta(hours=8))),
        input_tokens=1200,
        cached_input_tokens=1000,
        output_tokens=340,
        outcome="complete",
        attributes={"region": "east"},
    )

    with StandIn() as platform, client_of(platform, tmp_path) as client:
        client.record(used)
        assert client.flush(seconds=120)

    [asked] = platform.asked
    assert (asked.method, asked.path) == ("POST", "/api/v1/usage-records")
    assert asked.headers["Authorization"] == "Bearer tbg_key"
    assert asked.headers["Content-Encoding"] == "gzip"
    assert json.loads(asked.body) == [
        {
            "id": "r-1",
            "subject": "用户",
            "model": "deepseek/chat",
            "occurred_at": "2026-06-10T12:00:00+08:00",
            "input_tokens": 1200,
            "cached_input_tokens": 1000,
            "output_tokens": 340,
            "outcome": "complete",
            "attributes": {"region": "east"},
        }
    ]


def test_without_an_id_and_a_time_usage_gets_its_own(tmp_path: Path) -> None:
    with StandIn() as platform, client_of(platform, tmp_path) as client:
        for _ in range(2):
            client.record(Usage(subject="u", model="m", input_tokens=1, output_tokens=1))

    assert len(platform.charged) == 2
    for record in platform.charged.values():
        moment = dt.datetime.fromisoformat(record["occurred_at"])
        assert abs(moment - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=1)


def test_a_batch_goes_when_it_is_full(tmp_path: Path) -> None:
    with StandIn() as platform, client_of(platform, tmp_path, batch_records=10) as client:
        for id in ids(25):
            client.record(usage(id))
        eventually(lambda: len(platform.asked) == 2)

        assert [one.ids for one in platform.asked] == [ids(25)[:10], ids(25)[10:20]]


def test_a_batch_goes_when_it_is_old_enough(tmp_path: Path) -> None:
    with StandIn() as platform, client_of(platform, tmp_path, flush_seconds=0.3) as client:
        before = time.monotonic()
        client.record(usage("r-1"))
        eventually(lambda: platform.asked)

        assert platform.asked[0].at - before >= 0.29


def test_a_batch_has_no_more_bytes_than_it_may(tmp_path: Path) -> None:
    with (
        StandIn() as platform,
        client_of(platform, tmp_path, batch_bytes=1000, compress=False) as client,
    ):
        for id in ids(40):
            client.record(usage(id))

    assert sorted(platform.charged) == sorted(ids(40))
    assert max(len(one.raw) for one in platform.asked) <= 1000
    assert len(platform.asked) > 5


def test_many_threads_may_record(tmp_path: Path) -> None:
    def record_all(prefix: str) -> None:
        for id in ids(200, prefix):
            client.record(usage(id))

    with StandIn() as platform, client_of(platform, tmp_path, batch_records=50) as client:
        threads = [threading.Thread(target=record_all, args=(f"thread-{nr}",)) for nr in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert client.flush(seconds=120)

    assert len(platform.charged) == 8 * 200


@pytest.mark.parametrize(
    "wrong",
    [
        {"attributes": {"cost": float("nan")}},
        {"attributes": {"what": object()}},
        {"attributes": {"prompt": "x" * 2000}},
        {"occurred_at": dt.datetime(2026, 6, 10)},  # noqa: DTZ001 - which is the point
    ],
)
def test_what_cannot_be_sent_is_told_at_once_and_not_stored(tmp_path: Path, wrong: Any) -> None:
    with StandIn() as platform, client_of(platform, tmp_path, batch_bytes=1000) as client:
        with pytest.raises((ValueError, TypeError)):
            client.record(usage("r-1", **wrong))
        client.record(usage("r-2"))

    assert list(platform.charged) == ["r-2"]


# Outages -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", [Say(503), Say(429), Say(408), BROKEN, LOST, SILENT])
def test_what_was_not_answered_is_sent_again_with_the_same_bytes(
    tmp_path: Path, trouble: Trouble
) -> None:
    with (
        StandIn(trouble, trouble) as platform,
        client_of(platform, tmp_path, send_seconds=0.5 if trouble == SILENT else 60) as client,
    ):
        for id in ids(3):
            client.record(usage(id))
        assert client.flush(seconds=120)
        assert client.trouble == ""

    assert all(one.ids == ids(3) for one in platform.asked)
    # On a slow machine half a second may be too short for a good answer too.
    assert len(platform.asked) == 3 or (trouble == SILENT and len(platform.asked) > 3)
    assert len({one.raw for one in platform.asked}) == 1
    assert list(platform.charged) == ids(3)


@pytest.mark.parametrize("asked", ["1", "date"])
def test_it_waits_as_long_as_it_is_asked_to(tmp_path: Path, asked: str) -> None:
    began = time.monotonic()
    if asked == "date":
        moment = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=2.5)
        asked = moment.strftime("%a, %d %b %Y %H:%M:%S GMT")
    with (
        StandIn(Say(429, headers={"Retry-After": asked})) as platform,
        client_of(platform, tmp_path) as client,
    ):
        client.record(usage("r-1"))
        assert client.flush(seconds=120)

    first, second = platform.asked
    # A date names whole seconds: it is at least 1.5 s after it was made.
    assert second.at - (first.at if asked == "1" else began + 0.5) >= 0.95


def test_usage_waits_while_the_platform_is_away_and_goes_when_it_is_back(tmp_path: Path) -> None:
    port = port_of_nobody()
    with client_of(
        f"http://127.0.0.1:{port}", tmp_path, batch_records=10, flush_seconds=0.05
    ) as client:
        for id in ids(95):
            client.record(usage(id))
        eventually(lambda: client.trouble)
        assert not client.flush(seconds=0.1)
        assert client.waiting_bytes > 95 * 100

        with StandIn(port=port) as platform:
            assert client.flush(seconds=120)
            assert (client.trouble, client.waiting_bytes) == ("", 0)
            platform.away = True
            client.record(usage("later"))
            eventually(lambda: client.trouble)
            platform.away = False
            assert client.flush(seconds=120)

    assert list(platform.charged) == [*ids(95), "later"]
    assert sum(len(one.ids) for one in platform.asked) == 96
    assert files_in(tmp_path) == []


def test_while_the_platform_is_away_few_records_make_few_files(tmp_path: Path) -> None:
    with client_of("http://127.0.0.1:9", tmp_path, flush_seconds=0.01, close_seconds=0) as client:
        for id in ids(40):
            client.record(usage(id))
            time.sleep(0.02)

        assert len(files_in(tmp_path)) <= 3


def test_a_long_outage_fills_the_disk_and_not_the_memory(tmp_path: Path) -> None:
    with client_of(
        "http://127.0.0.1:9",
        tmp_path,
        batch_bytes=200_000,
        flush_seconds=0.05,
        close_seconds=0,
        spool_bytes=20_000_000,
    ) as client:
        client.record(usage("first"))
        eventually(lambda: client.trouble)
        tracemalloc.start()
        try:
            with suppress(SpoolFull):
                for nr in range(100_000):
                    client.record(usage(f"r-{nr}", attributes={"note": "x" * 2000}))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        assert 19_000_000 < client.waiting_bytes <= 20_000_000
        assert peak < 2_000_000


def test_a_key_that_is_not_valid_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("token_billing_client.client.LONGEST_PAUSE", 0.1)
    unauthorized = Say(401, {"cause": "unauthorized", "detail": "send a key"})
    with (
        StandIn(*[unauthorized] * 3) as platform,
        client_of(platform, tmp_path, flush_seconds=0.05) as client,
    ):
        client.record(usage("r-1"))
        eventually(lambda: client.trouble)
        assert "401 unauthorized: send a key" in client.trouble
        assert client.flush(seconds=120)

    assert list(platform.charged) == ["r-1"]


# Answers -----------------------------------------------------------------------------------------


def test_what_became_of_a_batch_is_told(tmp_path: Path) -> None:
    told: list[Charged] = []
    with (
        StandIn(LOST) as platform,
        client_of(platform, tmp_path, on_answer=told.append) as client,
    ):
        client.record(usage("r-1"))
        client.record(usage("r-2", subject="nobody"))

    [charged] = told
    assert (charged.accepted, charged.duplicates, str(charged.units)) == (0, 1, "0.000")
    [rejected] = charged.rejected
    assert (rejected.index, rejected.id, rejected.cause) == (1, "r-2", "unknown_subject")
    assert rejected.quarantine_id == "5"


def test_a_batch_that_is_refused_for_good_is_kept_and_the_next_goes_on(tmp_path: Path) -> None:
    told: list[tuple[Refused, Path]] = []
    with (
        StandIn(Say(400, {"cause": "malformed", "detail": "no JSON"})) as platform,
        client_of(
            platform, tmp_path, on_refused=lambda error, path: told.append((error, path))
        ) as client,
    ):
        client.record(usage("r-1"))
        assert client.flush(seconds=120)
        client.record(usage("r-2"))

    [(error, path)] = told
    assert (error.status, error.cause, error.detail) == (400, "malformed", "no JSON")
    assert '"id":"r-1"' in path.read_text()
    assert list(platform.charged) == ["r-2"]
    assert files_in(tmp_path) == [path.name]


def test_a_proxy_that_takes_less_gets_less_at_a_time(tmp_path: Path) -> None:
    large = Say(413, "<html>Request Entity Too Large</html>")
    with StandIn(large, large) as platform, client_of(platform, tmp_path) as client:
        for id in ids(8):
            client.record(usage(id))

    assert [len(one.ids) for one in platform.asked] == [8, 4, 2, 2, 4]
    assert list(platform.charged) == ids(8)


def test_a_callback_that_fails_holds_nothing_up(tmp_path: Path) -> None:
    def fail(charged: Charged) -> None:
        raise RuntimeError("a bug in the gateway")

    with (
        StandIn() as platform,
        client_of(platform, tmp_path, batch_records=1, on_answer=fail) as client,
    ):
        for id in ids(3):
            client.record(usage(id))

    assert list(platform.charged) == ids(3)
    assert len(platform.asked) == 3


# The end of a process ----------------------------------------------------------------------------


def test_what_was_not_sent_when_closing_is_sent_by_the_next(tmp_path: Path) -> None:
    port = port_of_nobody()
    with client_of(
        f"http://127.0.0.1:{port}", tmp_path, batch_records=10, close_seconds=0.5
    ) as client:
        for id in ids(25):
            client.record(usage(id))
    with pytest.raises(SpoolError, match="was closed"):
        client.record(usage("too late"))

    with StandIn(port=port) as platform, client_of(platform, tmp_path) as client:
        client.record(usage("new"))
        assert client.flush(seconds=120)

    assert list(platform.charged) == [*ids(25), "new"]


def test_the_next_process_sends_the_same_bytes(tmp_path: Path) -> None:
    with StandIn(*[Say(503)] * 100) as platform:
        with client_of(platform, tmp_path, close_seconds=0.5) as client:
            for id in ids(5):
                client.record(usage(id))
        time.sleep(1)  # a time among the bytes would be another second
        platform.troubles.clear()
        with client_of(platform, tmp_path) as client:
            assert client.flush(seconds=120)

    assert len({one.raw for one in platform.asked}) == 1
    assert list(platform.charged) == ids(5)


def test_two_clients_do_not_share_a_spool(tmp_path: Path) -> None:
    with StandIn() as platform, client_of(platform, tmp_path), pytest.raises(SpoolInUse):
        client_of(platform, tmp_path)


def test_after_a_fork_it_says_so(tmp_path: Path) -> None:
    with StandIn() as platform, client_of(platform, tmp_path) as client:
        client.record(usage("r-1"))
        results = multiprocessing.get_context("fork").SimpleQueue()

        def child() -> None:
            try:
                client.record(usage("r-2"))
            except SpoolError as error:
                results.put(str(error))

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join()

    assert results.get() == "this client was opened by the process before the fork"
    assert list(platform.charged) == ["r-1"]


# Records from one number on, each said once it is recorded.
GATEWAY = """
import datetime as dt, signal, sys
from token_billing_client import Client, Usage

url, spool, first, count, close_seconds, before = sys.argv[1:]
exec(before)
client = Client(
    url, "tbg_key", spool=spool, batch_records=20, flush_seconds=0.02,
    close_seconds=float(close_seconds),
)
at = dt.datetime(2026, 6, 10, tzinfo=dt.UTC)
for nr in range(int(first), int(first) + int(count)):
    client.record(Usage(
        id=f"r-{nr}", subject="user-1", model="m", input_tokens=1, output_tokens=1, occurred_at=at
    ))
    print(nr, flush=True)
"""


class Gateway:
    """A process of its own that records usage; `last` is the last that it said was recorded."""

    def __init__(
        self,
        url: str,
        spool: Path,
        *,
        first: int = 0,
        count: int = 1_000_000,
        close_seconds: float = 60,
        before: str = "",
    ) -> None:
        arguments = [url, spool, first, count, close_seconds, before]
        self.process = subprocess.Popen(
            [sys.executable, "-c", GATEWAY, *map(str, arguments)], stdout=subprocess.PIPE, text=True
        )
        self.last = first - 1

    def until(self, number: int) -> None:
        """Return when that one is recorded."""
        assert self.process.stdout
        while self.last < number:
            line = self.process.stdout.readline()
            assert line, "it ended"
            self.last = int(line)

    def end(self, number: int | None = None) -> int:
        """Send the signal, if any, and wait; answers the status."""
        assert self.process.stdout
        if number is not None:
            os.kill(self.process.pid, number)
        with self.process.stdout as said:
            for line in said:
                self.last = int(line)
        return self.process.wait(60)


def test_sigterm_loses_nothing(tmp_path: Path) -> None:
    with StandIn() as platform:
        gateway = Gateway(platform.url, tmp_path)
        gateway.until(500)
        status = gateway.end(signal.SIGTERM)

    assert status == 128 + signal.SIGTERM
    # The one being recorded when the signal came was perhaps not said yet.
    assert len(platform.charged) in (gateway.last + 1, gateway.last + 2)
    assert list(platform.charged)[: gateway.last + 1] == ids(gateway.last + 1)
    assert files_in(tmp_path) == []


def test_sigterm_while_the_platform_is_away_leaves_all_for_the_next_start(tmp_path: Path) -> None:
    port = port_of_nobody()
    gateway = Gateway(f"http://127.0.0.1:{port}", tmp_path, close_seconds=0.5)
    gateway.until(300)
    gateway.end(signal.SIGTERM)

    with StandIn(port=port) as platform, client_of(platform, tmp_path) as client:
        assert client.flush(seconds=120)

    assert set(platform.charged) >= set(ids(gateway.last + 1))
    assert len(platform.charged) <= gateway.last + 2


def test_the_end_of_the_program_sends_the_rest(tmp_path: Path) -> None:
    with StandIn() as platform:
        status = Gateway(platform.url, tmp_path, count=50).end()

    assert (status, list(platform.charged)) == (0, ids(50))


def test_a_handler_of_somebody_else_stays(tmp_path: Path) -> None:
    mine = "signal.signal(signal.SIGTERM, lambda *a: sys.exit(7))"
    with StandIn() as platform:
        gateway = Gateway(platform.url, tmp_path, before=mine)
        gateway.until(100)

        assert gateway.end(signal.SIGTERM) == 7

    assert set(platform.charged) >= set(ids(gateway.last + 1))


def test_killed_again_and_again_it_has_sent_every_record(tmp_path: Path) -> None:
    port = port_of_nobody()
    url, first = f"http://127.0.0.1:{port}", 0

    def kill_some(rounds: int) -> int:
        last = first - 1
        for nr in range(rounds):
            gateway = Gateway(url, tmp_path, first=last + 1)
            gateway.until(last + 137 * (nr + 2))
            gateway.end(signal.SIGKILL)
            last = gateway.last
        return last + 1

    first = kill_some(2)
    with StandIn(LOST, Say(503), BROKEN, LOST, Say(429), port=port) as platform:
        first = kill_some(4)
        assert Gateway(url, tmp_path, first=first, count=10).end() == 0

    assert sorted(platform.charged) == sorted(ids(first + 10))
    assert files_in(tmp_path) == []
