"""What the benchmark runs on, and who used its processors meanwhile. Linux only."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BASE = Path(__file__).resolve().parent.parent
_TICKS = os.sysconf("SC_CLK_TCK")
_ENDING_SECONDS = 0.05
CORES = len(os.sched_getaffinity(0))


def facts() -> dict[str, Any]:
    """The machine, and the commit that is measured."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": CORES,
        "processor": _processor(),
        "memory_bytes": memory,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "commit": _git("rev-parse", "--short=12", "HEAD"),
        "changed_files": len(_git("status", "--porcelain", "--untracked-files=no").splitlines()),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=BASE, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


# --- who used the processors ----------------------------------------------------------------------


def _stats() -> dict[int, tuple[int, int, int]]:
    """pid: (parent, ticks used by it and by the children it has waited for, resident pages)."""
    found = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = file.read_text().rpartition(")")[2].split()
            found[int(file.parent.name)] = (
                int(fields[1]),
                sum(int(ticks) for ticks in fields[11:15]),
                int(fields[21]),
            )
    return found


def tree(root: int) -> list[int]:
    """A process and all that descend from it."""
    below: dict[int, list[int]] = defaultdict(list)
    for pid, (parent, _, _) in _stats().items():
        below[parent].append(pid)
    found = [root]
    for pid in found:
        found += below[pid]
    return found


def _used(roots: Mapping[str, Iterable[int]]) -> dict[str, float]:
    """Seconds of processor time of each group of process trees, ended children included."""
    stats = _stats()
    below: dict[int, list[int]] = defaultdict(list)
    for pid, (parent, _, _) in stats.items():
        below[parent].append(pid)
    used = {}
    for name, pids in roots.items():
        found = [pid for pid in pids if pid in stats]
        for pid in found:
            found += below[pid]
        used[name] = sum(stats[pid][1] for pid in found) / _TICKS
    return used


def _busy() -> float:
    """Seconds all processors together were busy since the start; stolen time is not counted."""
    user, nice, system, _, _, irq, softirq = (
        int(ticks) for ticks in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8]
    )
    return (user + nice + system + irq + softirq) / _TICKS


@dataclass(frozen=True, slots=True)
class Shares:
    """Processor time between two moments, in seconds, by group; `others` is everybody else."""

    seconds: float
    used: dict[str, float]

    def of(self, name: str) -> float:
        """A group's share of all processors, 0 to 1."""
        return self.used.get(name, 0.0) / (self.seconds * CORES) if self.seconds else 0.0

    def all(self) -> dict[str, float]:
        return {name: round(self.of(name), 3) for name in self.used}


class Meter:
    """Counts the processor time of groups of process trees from its making on."""

    def __init__(self, roots: Mapping[str, Iterable[int]]) -> None:
        self._roots = {name: list(pids) for name, pids in roots.items()}
        self._began, self._busy, self._used = time.monotonic(), _busy(), _used(self._roots)

    def read(self, **more: float) -> Shares:
        """The shares so far; `more` are groups that measured their own seconds."""
        seconds, busy = time.monotonic() - self._began, _busy() - self._busy
        # A process that is just ending is for a moment neither there nor among those waited for.
        time.sleep(_ENDING_SECONDS)
        now = _used(self._roots)
        used = {name: now[name] - self._used[name] for name in self._roots} | more
        used["others"] = max(0.0, busy - sum(used.values()))
        return Shares(seconds, used)


@dataclass(frozen=True, slots=True)
class Memory:
    """A process's memory in bytes: now, its own share of what is shared, and the most ever."""

    resident: int
    proportional: int
    peak: int


def memory_of(pid: int) -> Memory:
    status = _kilobytes(Path(f"/proc/{pid}/status"))
    rollup = _kilobytes(Path(f"/proc/{pid}/smaps_rollup"))
    return Memory(status["VmRSS"], rollup["Pss"], status["VmHWM"])


def _kilobytes(file: Path) -> dict[str, int]:
    """The lines of a /proc file that are sizes, in bytes."""
    found = {}
    for line in file.read_text().splitlines():
        name, _, rest = line.partition(":")
        value, _, unit = rest.strip().partition(" ")
        if unit == "kB" and value.isdigit():
            found[name] = int(value) * 1024
    return found
