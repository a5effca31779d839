"""A web worker with several requests lets go of a connection where another worker has none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import pytest

from config import crowding
from config.crowding import Worker
from tests.running import ROOT, running

A_WHILE = 4 * crowding.PAUSE


@pytest.fixture
def crowded(tmp_path: Path) -> Iterator[Worker]:
    """One that has two requests."""
    worker = Worker(tmp_path)
    worker.begin()
    worker.begin()
    yield worker
    worker.close()


def test_a_worker_lets_go_only_of_what_it_has_too_much_of(tmp_path: Path, crowded: Worker) -> None:
    other = Worker(tmp_path)
    time.sleep(A_WHILE)

    assert crowded.lets_go()
    crowded.end()
    time.sleep(A_WHILE)
    assert not crowded.lets_go()
    other.close()


def test_a_worker_that_is_busy_or_was_a_moment_ago_is_sent_nobody(
    tmp_path: Path, crowded: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crowding, "PAUSE", 0.0)
    monkeypatch.setattr(crowding, "IDLE", 60.0)
    other = Worker(tmp_path)

    other.begin()
    assert not crowded.lets_go()
    other.end()
    assert not crowded.lets_go()
    monkeypatch.setattr(crowding, "IDLE", 0.0)
    assert crowded.lets_go()
    other.close()


def test_a_crowded_worker_looks_for_an_idle_one_once_in_a_while(
    tmp_path: Path, crowded: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crowding, "PAUSE", 60.0)
    other = Worker(tmp_path)
    time.sleep(A_WHILE)

    assert crowded.lets_go()
    assert not crowded.lets_go()
    other.close()


def test_alone_a_worker_keeps_all(crowded: Worker) -> None:
    assert not crowded.lets_go()


def test_what_is_left_of_a_worker_that_was_killed_counts_for_nothing_and_is_removed(
    tmp_path: Path, crowded: Worker
) -> None:
    code = (
        "import pathlib, signal, sys; from config.crowding import Worker;"
        "worker = Worker(pathlib.Path(sys.argv[1])); print(flush=True); signal.pause()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(A_WHILE)
    assert crowded.lets_go()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    time.sleep(A_WHILE)

    assert len(os.listdir(tmp_path)) == 2
    assert not crowded.lets_go()
    assert len(os.listdir(tmp_path)) == 1


def test_a_new_worker_removes_what_is_left_of_those_before(tmp_path: Path) -> None:
    left = tmp_path / "1-1"
    left.write_bytes(bytes(8))

    worker = Worker(tmp_path)

    assert not left.exists()
    worker.close()


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one processor: the platform has one worker")
def test_two_clients_come_to_have_a_worker_each() -> None:
    """By chance each second pair of connections begins at the same one."""
    with running() as platform:

        def ask(times: int) -> list[str]:
            """Ask one after the other on a connection that is kept; what its answers said of it."""
            link = HTTPConnection(platform.host, platform.port, timeout=60)
            said = []
            for _ in range(times):
                link.request("GET", "/accounts/login/")
                answer = link.getresponse()
                assert b"<form" in answer.read()
                said.append(answer.headers.get("Connection", ""))
            link.close()
            return said

        let_go = 0
        for _ in range(10):
            together = threading.Barrier(2)

            def side() -> list[str]:
                together.wait()  # noqa: B023 (used in its round)
                return ask(45)

            with ThreadPoolExecutor(2) as pool:
                answers = [one.result() for one in [pool.submit(side) for _ in range(2)]]
            let_go += sum(said.count("close") for said in answers)
            # Each had its own by then.
            assert all("close" not in said[32:] for said in answers), answers

        assert let_go > 0
