"""The whole platform, run by a test and reached from outside."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from config.serve import Platform

ROOT = Path(__file__).resolve().parent.parent
# For what takes seconds, on a machine that is busy with something else.
PATIENCE = 200


@contextmanager
def running() -> Iterator[Platform]:
    """The platform; what was left in its books has to agree at the end."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        for name in ("DATABASE_URL", "BROKER_URL"):
            patch.delenv(name, raising=False)
        with Platform(Path(folder) / "data", port=free_port()) as platform:
            yield platform
            manage(platform, "reconcile")
            said = (platform.logs / "web.log").read_text(errors="replace")
            _, _, fault = said.partition("unhandled error")
            assert not fault, fault[:4000]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def manage(platform: Platform, *command: str, program: str = "manage.py") -> str:
    """What a command prints that runs beside the platform, of which it is told the folder only."""
    own = {"DATA": str(platform.data), "DJANGO_SETTINGS_MODULE": "config.settings"}
    done = subprocess.run(
        [sys.executable, program, *command],
        cwd=ROOT,
        env=os.environ | own,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def eventually(
    true: Callable[[], object], otherwise: Callable[[], object] = lambda: "no more is known"
) -> None:
    """Wait until it is; where it does not become so, `otherwise` tells what is instead."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, f"it took too long: {otherwise()}"
        time.sleep(0.05)


def healthy(platform: Platform) -> bool:
    """It answers, and not by orphans that the supervisor is about to replace."""
    if any(child.ended() for child in platform.children):
        return False
    with suppress(httpx.TransportError):
        answer = httpx.get(f"{platform.url}/healthz", timeout=5, trust_env=False)
        return answer.status_code == 200
    return False


def children(pid: int) -> list[int]:
    """The processes whose parent this is."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


def kill(pids: Sequence[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def processes_in(folder: Path) -> list[int]:
    """The processes that have their home there: a server's main process and its own."""
    home = folder.stat()
    found = []
    for cwd in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):
            if os.path.samestat(cwd.stat(), home):
                found.append(int(cwd.parent.name))
    return sorted(found)
