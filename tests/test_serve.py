"""The whole platform as `make serve` runs it: up, hurt, killed, up again, stopped."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from config import embedded
from config.serve import _lives
from tests.running import PATIENCE, ROOT, eventually, free_port

pytestmark = [pytest.mark.xdist_group("serve"), pytest.mark.timeout(900)]


class Served:
    """One `python -m config.serve` after another, on one folder and one port."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.port = free_port()
        self.process: subprocess.Popen[str] | None = None

    def run(self, **environment: str) -> subprocess.Popen[str]:
        inherited = {
            key: value
            for key, value in os.environ.items()
            if key not in ("DATABASE_URL", "BROKER_URL", "DJANGO_SETTINGS_MODULE")
        }
        own = {"DATA": str(self.data), "PORT": str(self.port)}
        return subprocess.Popen(
            [sys.executable, "-m", "config.serve"],
            cwd=ROOT,
            env=inherited | own | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def up(self) -> None:
        self.process = self.run()
        assert self.process.stdout
        lines = []
        for line in self.process.stdout:
            if line.startswith("Ready at "):
                return
            lines.append(line)
        pytest.fail("".join(lines))

    def end(self, number: signal.Signals) -> str:
        assert self.process
        self.process.send_signal(number)
        return self.process.communicate(timeout=PATIENCE)[0]

    def answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status in (200, 503)
        except OSError:
            return False
        finally:
            connection.close()

    def processes(self, *words: str) -> list[int]:
        """Those of this platform whose command line has all the words, the first started first."""
        mark = f"TOKENS_SERVED_FROM={self.data}".encode()
        found: dict[int, int] = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    command = (folder / "cmdline").read_bytes().split(b"\0")
                    if all(word.encode() in command for word in words):
                        # Pids begin anew some day; the time of its start does not.
                        stat = (folder / "stat").read_text().rpartition(")")[2].split()
                        found[int(folder.name)] = int(stat[19])
            except OSError:
                continue
        return sorted(found, key=lambda pid: (found[pid], pid))

    def newer(self, before: list[int], *words: str) -> bool:
        return not set(self.processes(*words)) <= set(before)


@pytest.fixture
def served() -> Iterator[Served]:
    with tempfile.TemporaryDirectory() as folder:
        served = Served(Path(folder) / ("long" * 40))
        yield served
        if served.process and served.process.poll() is None:
            served.end(signal.SIGTERM)
        program = str(embedded.__file__)
        subprocess.run([sys.executable, program, "stop", "--force", served.data], check=True)


def test_it_stands_what_happens_to_it(served: Served) -> None:
    served.up()
    assert served.answers()

    # A second one here, or another on the same port, is told so and hurts nothing.
    for environment, text in (
        ({"PORT": "1"}, "is being served already"),
        ({"DATA": f"{served.data}/other"}, f"port {served.port}: Address already in use"),
    ):
        other = served.run(**environment)
        assert text in other.communicate(timeout=PATIENCE)[0]
        assert other.returncode == 1
    assert served.answers()

    # A part that is killed comes back.
    for words in (("granian",), ("celery", "worker"), ("celery", "beat")):
        before = served.processes(*words)
        os.kill(before[0], signal.SIGKILL)
        eventually(partial(served.newer, before, *words))
    eventually(served.answers)

    # New code is taken up by new processes, and who asks meanwhile is answered.
    parent, *old = served.processes("granian")
    old += served.processes("celery", "worker")
    asked: list[bool] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            # A connection may have waited for a process that went: it is made anew, once.
            asked.append(served.answers() or served.answers())

    asker = threading.Thread(target=ask)
    asker.start()
    subprocess.run(
        [sys.executable, "-m", "config.serve", "reload"],
        cwd=ROOT,
        env={**os.environ, "DATA": str(served.data)},
        check=True,
    )
    eventually(lambda: not set(old) & set(served.processes()))
    over.set()
    asker.join()
    assert asked
    assert all(asked)
    assert parent in served.processes("granian")

    # Killed itself, with the web server's parent: its orphans must not keep the port.
    web = served.processes("granian")[0]
    served.end(signal.SIGKILL)
    os.kill(web, signal.SIGKILL)
    served.up()
    assert served.answers()

    # Told to stop while it is held: on going on, any of its threads is given the signal.
    assert served.process
    served.process.send_signal(signal.SIGSTOP)
    served.process.send_signal(signal.SIGTERM)
    output = served.end(signal.SIGCONT)
    assert served.process.returncode == 0, output
    assert "Stopping" in output
    eventually(lambda: served.processes() == [])  # the last killed may still be dying
    assert not embedded.Postgres(served.data, served.data).running()
    assert not embedded.Valkey(served.data, served.data).running()


# Its first thread ends, and it goes on.
HEADLESS = """
import ctypes, sys, threading
threading.Thread(target=lambda: (print(flush=True), sys.stdin.read())).start()
ctypes.CDLL(None).pthread_exit(None)
"""


def test_a_process_lives_as_long_as_any_of_its_threads() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HEADLESS], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        process.stdout.readline()
        stat = Path(f"/proc/{process.pid}/stat")
        eventually(lambda: stat.read_text().rpartition(")")[2].split()[0] == "Z")

        assert _lives(process.pid)
        process.kill()
        eventually(lambda: not _lives(process.pid))
