"""Records on disk until the platform has them: a folder of batches.

A batch is a file to which whole lines are appended, each `crc32 record`; it is sealed when it is
full or old enough, and removed when it was answered, or kept a while longer as history. So a
record is safe from the end of this process once `append` returns, and from the end of the machine
once `sync` does; a batch is sent again with the same bytes, by us or by the process after us; and
memory holds none of it.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import threading
import time
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from token_billing_client.errors import SpoolError, SpoolFull, SpoolInUse

log = logging.getLogger(__name__)

_SUFFIX = ".usage"
_NAMES = "[0-9]" * 16 + _SUFFIX


@dataclass(slots=True)
class Stored:
    """A batch in its file. `size` is the file's, `body` that of the JSON array it becomes."""

    path: Path
    size: int = 0
    records: int = 0
    body: int = len(b"[]")
    file: int = -1
    since: float = field(default_factory=time.monotonic)


class Spool:
    """A folder that one process has open. Threads may append; one of them takes batches.

    Of what was answered the last `history_bytes` are kept in its folder `sent`.

    Raises SpoolInUse where another has it, and SpoolError where it cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        *,
        batch_records: int,
        batch_bytes: int,
        max_bytes: int,
        history_bytes: int = 0,
    ) -> None:
        self.folder = folder
        self._batch_records = batch_records
        self._batch_bytes = batch_bytes
        self._max_bytes = max_bytes
        self._history = folder / "sent"
        self._history_bytes = history_bytes
        # Entered as it is: a signal that raises while a Condition is entered would leave it locked.
        self._mutex = threading.RLock()
        self._changed = threading.Condition(self._mutex)
        self._growing: Stored | None = None
        self._sealed: deque[Stored] = deque()
        self._unsynced: set[Path] = set()
        self._closed = False
        with self._told("cannot be used"):
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(folder / "lock")
            for path in sorted(folder.glob(_NAMES)):
                self._sealed.append(Stored(path, path.stat().st_size))
        self._bytes = sum(batch.size for batch in self._sealed)
        # No number comes twice: what was sent is kept under its own.
        used = [*(batch.path for batch in self._sealed), *self._sent()]
        self._number = max((int(path.stem) for path in used), default=0)

    # --- the side that writes ---------------------------------------------------------------------

    def append(self, record: bytes) -> None:
        """Store a record, a line of JSON. Raises SpoolFull, SpoolError, and stores nothing then;
        ValueError for a record larger than a batch."""
        if len(record) + len(b"[]") > self._batch_bytes:
            raise ValueError(
                f"the record has {len(record)} bytes, a batch at most {self._batch_bytes}"
            )
        line = b"%08x %s\n" % (zlib.crc32(record), record)
        with self._mutex:
            if self._closed:
                raise SpoolError(f"{self.folder} was closed")
            if self._bytes + len(line) > self._max_bytes:
                raise SpoolFull(
                    f"{self.folder} holds {self._bytes} bytes of usage that the platform has not"
                    f" taken, and may hold {self._max_bytes}"
                )
            with self._told("cannot be written"):
                batch = self._room_for(record)
                self._write(batch, line)
            batch.records += 1
            batch.body += len(record) + len(b",")
            self._unsynced.add(batch.path)
            if batch.records == self._batch_records:
                self._seal()
            elif batch.records == 1:
                self._changed.notify_all()

    def _room_for(self, record: bytes) -> Stored:
        batch = self._growing
        if batch is not None and batch.body + len(record) > self._batch_bytes:
            self._seal()
            batch = None
        if batch is None:
            self._number += 1
            batch = Stored(self.folder / f"{self._number:016d}{_SUFFIX}")
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
            batch.file = os.open(batch.path, flags, 0o600)
            self._growing = batch
        return batch

    def _write(self, batch: Stored, line: bytes) -> None:
        """All of the line, or nothing of it."""
        written = 0
        try:
            while written < len(line):
                written += os.write(batch.file, line[written:])
        except OSError:
            try:
                os.ftruncate(batch.file, batch.size)
            except OSError:
                self._seal()  # nothing may follow the torn line
            raise
        except BaseException:
            self._seal()  # likewise: a signal came, and how much was written is not known
            raise
        batch.size += written
        self._bytes += written

    def _seal(self) -> None:
        batch, self._growing = self._growing, None
        if batch is None:
            return
        os.close(batch.file)
        self._sealed.append(batch)
        self._changed.notify_all()

    def sync(self) -> None:
        """Return when all that was appended before is on the disk itself. Raises SpoolError."""
        with self._mutex:
            unsynced, self._unsynced = self._unsynced, set()
        try:
            with self._told("cannot be written"):
                for path in unsynced:
                    with suppress(FileNotFoundError):  # sent already
                        _fsync(path)
                if unsynced:
                    _fsync(self.folder)
        except SpoolError:
            with self._mutex:
                self._unsynced |= unsynced
            raise

    # --- the side that sends ----------------------------------------------------------------------

    def take(self, *, after_seconds: float) -> Stored | None:
        """The oldest batch, once it is full or so many seconds old; None once closed and empty.

        It stays the oldest until it is `remove`d or `set_aside`.
        """
        with self._mutex:
            while not self._sealed:
                left = None
                if self._growing is not None and self._growing.records:
                    left = self._growing.since + after_seconds - time.monotonic()
                    if left <= 0 or self._closed:
                        self._seal()
                        continue
                if self._closed:
                    return None
                self._changed.wait(left)
            return self._sealed[0]

    def read(self, batch: Stored) -> list[bytes]:
        """Its records. Lines that are damaged are kept in the file `damaged`. Raises SpoolError."""
        with self._told("cannot be read"):
            *lines, rest = batch.path.read_bytes().split(b"\n")
        records, damaged = [], [rest] if rest else []
        for line in lines:
            said, _, record = line.partition(b" ")
            if said == b"%08x" % zlib.crc32(record):
                records.append(record)
            else:
                damaged.append(line)
        if damaged:
            # The last line of a process that was killed while it wrote: nobody was told that it
            # was stored. Any other is the disk's doing.
            log.error("%s has %d damaged lines; they are in `damaged`", batch.path, len(damaged))
            with self._told("cannot be written"), (self.folder / "damaged").open("ab") as file:
                file.writelines(line + b"\n" for line in damaged)
        return records

    def remove(self, batch: Stored) -> None:
        """The platform has it. Raises SpoolError, and it may be sent again then: harmless."""
        with self._mutex, self._told("cannot be written"):
            self._forget(batch)
            if self._history_bytes:
                self._keep(batch)
            else:
                batch.path.unlink(missing_ok=True)

    def _keep(self, batch: Stored) -> None:
        """Let a batch be history, and forget the oldest of it that there is no room for."""
        self._history.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):
            batch.path.rename(self._history / batch.path.name)
        kept = [(path, path.stat().st_size) for path in self._sent()]
        room = self._history_bytes - sum(size for _, size in kept)
        for path, size in kept:
            if room >= 0:
                break
            path.unlink(missing_ok=True)
            room += size

    def _sent(self) -> list[Path]:
        """The files of history, the oldest first."""
        return sorted(self._history.glob(_NAMES))

    def history(self) -> Iterator[bytes]:
        """The records that were answered, as far back as they are kept, the oldest first.

        Raises SpoolError.
        """
        for path in self._sent():
            with self._told("cannot be read"), suppress(FileNotFoundError):
                for line in path.read_bytes().splitlines():
                    said, _, record = line.partition(b" ")
                    if said == b"%08x" % zlib.crc32(record):
                        yield record

    def set_aside(self, batch: Stored) -> Path:
        """Keep what the platform will never take out of the way; answers where."""
        aside = batch.path.with_name(f"refused-{time.time_ns()}{_SUFFIX}")
        with self._mutex, self._told("cannot be written"):
            self._forget(batch)
            return batch.path.rename(aside)

    def _forget(self, batch: Stored) -> None:
        assert self._sealed[0] is batch
        self._sealed.popleft()
        self._bytes -= batch.size
        self._unsynced.discard(batch.path)
        self._changed.notify_all()

    # --- both -------------------------------------------------------------------------------------

    @property
    def waiting_bytes(self) -> int:
        """How much has not been taken by the platform."""
        return self._bytes

    def drain(self, *, seconds: float) -> bool:
        """Have all that is stored now sent without waiting for more; whether it was, in time."""
        deadline = time.monotonic() + seconds
        with self._mutex:
            if self._growing is not None and self._growing.records:
                self._seal()
            last = self._sealed[-1].path if self._sealed else None
            while last is not None and self._sealed and self._sealed[0].path <= last:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
        return True

    def close(self) -> None:
        """No more appends; what is stored can still be taken. Raises SpoolError.

        The folder says what is stored: a signal may have ended an append between any two steps.
        """
        with self._mutex:
            self._closed = True
            self._changed.notify_all()
            self._seal()
            known = {batch.path: batch for batch in self._sealed}
            with self._told("cannot be read"):
                paths = sorted(self.folder.glob(_NAMES))
                self._sealed = deque(known.get(path) or Stored(path) for path in paths)
                for batch in self._sealed:
                    batch.size = batch.path.stat().st_size
            self._bytes = sum(batch.size for batch in self._sealed)

    def release(self) -> None:
        """Let another process have the folder."""
        with self._mutex:
            self._closed = True
            self._seal()
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SpoolError(f"the spool {self.folder} {what}: {error.strerror}") from error


def _lock(path: Path) -> int:
    """A file that is locked for us until it is closed. Raises SpoolInUse."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise SpoolInUse(
                f"the spool {path.parent} is in use by another process: give each its own folder"
            ) from error
        raise
    return file


def _fsync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
