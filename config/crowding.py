"""Web workers of which one has several requests while another has none.

Which worker a connection goes to is the kernel's choice and chance, and a connection that is kept
stays there: the requests of one worker take turns on its interpreter while another's has nothing to
do. A crowded worker lets go of a connection with the answer (`Connection: close`); whoever comes
again comes by a new one, and by chance to somebody else. Where nobody is idle nothing is let go.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import time
from pathlib import Path

# A worker is idle that has had no request for so many seconds: not for a moment between two.
IDLE = 0.005
# So often a crowded worker looks whether another is idle: the look takes some 20 µs.
PAUSE = 0.02
_SINCE = struct.Struct("d")
_BUSY = _SINCE.pack(0.0)


class Worker:
    """One process among those that tell each other in a folder since when they are idle.

    Each has a file there, locked as long as it lives: what is left of one that was killed is
    removed by whoever finds it.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._name = f"{os.getpid()}-{time.monotonic_ns()}"
        self._guard = threading.Lock()
        self._requests = 0
        self._next_look = 0.0
        made = folder / f".{self._name}"
        self._file = os.open(made, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # Before anybody can find it.
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._say_idle()
        made.rename(folder / self._name)
        self._another_is_idle(0.0)  # removes what is left of those before

    def begin(self) -> None:
        """A request has come."""
        with self._guard:
            self._requests += 1
            if self._requests == 1:
                os.pwrite(self._file, _BUSY, 0)

    def end(self) -> None:
        """A request has been answered."""
        with self._guard:
            self._requests -= 1
            if not self._requests:
                self._say_idle()

    def lets_go(self) -> bool:
        """Whether who is answered now had better come again by another connection."""
        if self._requests < 2:
            return False
        now = time.monotonic()
        if now < self._next_look:
            return False
        self._next_look = now + PAUSE
        return self._another_is_idle(now)

    def close(self) -> None:
        """Be none of them any more."""
        (self._folder / self._name).unlink(missing_ok=True)
        os.close(self._file)

    def _another_is_idle(self, now: float) -> bool:
        with os.scandir(self._folder) as them:
            others = [
                self._is_idle(other, now)
                for other in them
                if other.name != self._name and not other.name.startswith(".")
            ]
        return any(others)

    def _say_idle(self) -> None:
        os.pwrite(self._file, _SINCE.pack(time.monotonic()), 0)

    def _is_idle(self, other: os.DirEntry[str], now: float) -> bool:
        try:
            file = os.open(other.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            since: float = _SINCE.unpack(os.pread(file, _SINCE.size, 0))[0]
            return 0.0 < since < now - IDLE
        else:
            Path(other.path).unlink(missing_ok=True)
            return False
        finally:
            os.close(file)
