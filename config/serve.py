"""The platform on one machine: embedded services, web, worker and beat, kept running.

`python -m config.serve` serves in the foreground until SIGTERM or Ctrl-C. On SIGUSR1, which
`python -m config.serve reload` sends, it takes up the code that is there by then. From the
environment: HOST (127.0.0.1), PORT (8000), DATA (.data), and DATABASE_URL and BROKER_URL where
other servers are to be used. Linux only.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from config import embedded

BASE = Path(__file__).resolve().parent.parent
READY_TIMEOUT = 180.0
# How long a child may take to finish what it is doing.
STOP_TIMEOUT = 10.0
LONGEST_PAUSE = 30.0
LARGEST_LOG = 20_000_000
MARK = "TOKENS_SERVED_FROM"

# The child dies with us however we go (PR_SET_PDEATHSIG). Done in a program of its own, as code
# between fork and exec is not safe in a process with threads.
LAUNCHER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class PlatformError(RuntimeError):
    """The platform cannot be started; the message says why."""


@dataclass
class Child:
    """A program that is started again, after a growing pause, whenever it ends."""

    name: str
    command: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause: float = 0.5
    failures: int = 0

    def start(self, environment: dict[str, str]) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-ISc", LAUNCHER, str(os.getpid()), *self.command],
                cwd=BASE,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for us alone: we stop the children in order.
                start_new_session=True,
            )
        self.started = time.monotonic()

    def ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def stop(self) -> None:
        """Lets it finish, then ends it and whatever it left behind."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_TIMEOUT)
        self.sweep()
        self.process.wait()

    def sweep(self) -> None:
        """Ends its whole group: its workers would keep the port."""
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


@dataclass
class Platform:
    """All parts of it: `start`, `wait_ready`, `stop`, or a `with` block that does the three.

    `echo` repeats the children's logs on standard output.
    """

    data: Path
    port: int = 8000
    host: str = "127.0.0.1"
    echo: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    children: list[Child] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.data = self.data.resolve()
        self._stopping = threading.Event()
        self._interrupted = False
        self._outdated = False
        self._keepers: list[threading.Thread] = []
        self._lock = -1
        self._attached = False

    @property
    def url(self) -> str:
        return f"http://{self._reached}:{self.port}"

    @property
    def logs(self) -> Path:
        return self.data / "logs"

    def __enter__(self) -> Self:
        try:
            self.start()
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Starts the services, brings the database up to date, and starts the children.

        Raises PlatformError or EmbeddedError; `stop` afterwards undoes what was done.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        self._claim()
        self._end_leftovers()
        self._check_port()
        self._attach()
        self._prepare()
        self.children = self._children()
        if self.interrupted:
            return
        if self.echo:
            for child in self.children:
                follower = (child.name, child.log, child.log.stat().st_size)
                threading.Thread(target=self._follow, args=follower, daemon=True).start()
        # Apart: a recovery may take minutes, in which the web server has to answer.
        self._keepers = [threading.Thread(target=self._keep, name="keeper")]
        if self._attached:
            self._keepers.append(threading.Thread(target=self._keep_services, name="services"))
        for keeper in self._keepers:
            keeper.start()

    def wait_ready(self, timeout: float = READY_TIMEOUT) -> None:
        """Returns when the web server answers. Raises PlatformError where it does not."""
        deadline = time.monotonic() + timeout
        web = self.children[0]
        while not self.interrupted:
            if self._answers():
                return
            if web.failures > 2 or time.monotonic() > deadline:
                end = web.log.read_text(errors="replace")[-2000:].strip()
                raise PlatformError(f"The web server does not answer. {web.log} ends with:\n{end}")
            time.sleep(0.05)

    def wait(self) -> None:
        """Returns when `interrupt` is called, as from a signal's handler."""
        # Not by a lock: a signal that another thread was given wakes nobody who waits for one.
        while not self.interrupted:
            time.sleep(0.2)

    def interrupt(self) -> None:
        """Asks for the end: waits return. `stop` has to follow."""
        # No lock either: a second signal's handler may begin in the middle of the first.
        self._interrupted = True

    def renew(self) -> None:
        """Asks for new processes of the code that is there now; what was begun is finished."""
        self._outdated = True

    @property
    def interrupted(self) -> bool:
        return self._interrupted or self._stopping.is_set()

    def stop(self) -> None:
        """Stops web, beat and worker in this order, then leaves the services. Once is enough."""
        self._stopping.set()
        for keeper in self._keepers:
            keeper.join()
        self._keepers = []
        if self._attached:
            embedded.detach(self.data)
            self._attached = False
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @property
    def _reached(self) -> str:
        """The address by which we reach ourselves."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        return f"[{host}]" if ":" in host else host

    def _claim(self) -> None:
        """One platform to a folder."""
        fd = os.open(self.data / "serve.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.read(fd, 20).decode()
            os.close(fd)
            raise PlatformError(
                f"{self.data} is being served already, by process {pid}. For a second platform "
                "name another folder: DATA=..."
            ) from None
        self._lock = fd
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode(), 0)

    def _end_leftovers(self) -> None:
        """Ends what a platform on this folder left when it was killed: it would keep the port."""
        deadline = time.monotonic() + 60
        left: set[int] = set()
        # Again and again: one that is about to be ended may start another.
        while time.monotonic() < deadline:
            found = self._marked()
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            left |= found
            if not found and not any(_lives(pid) for pid in left):
                return
            time.sleep(0.02)

    def _marked(self) -> set[int]:
        """The processes of this folder's platforms, but for this one."""
        mark = f"{MARK}={self.data}".encode()
        found: set[int] = set()
        for file in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in file.read_bytes().split(b"\0"):
                    found.add(int(file.parent.name))
        return found - {os.getpid()}

    def _check_port(self) -> None:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self.host, self.port))
            except OSError as error:
                raise PlatformError(
                    f"Cannot listen on {self.host} port {self.port}: {error.strerror}. "
                    f"Choose another port: PORT={self.port + 1 if self.port < 65535 else 8000}"
                ) from None

    def _attach(self) -> None:
        given = os.environ
        database, broker = given.get("DATABASE_URL"), given.get("BROKER_URL")
        services = embedded.Services("", "")
        if not (database and broker):
            services = embedded.attach(self.data, database=not database, broker=not broker)
            self._attached = True
        self.environment = {
            **given,
            "DATA": str(self.data),
            "DATABASE_URL": database or services.database_url,
            "BROKER_URL": broker or services.broker_url,
            "SECRET_KEY": given.get("SECRET_KEY") or embedded.secret_key(self.data),
            "PUBLIC_URL": given.get("PUBLIC_URL") or self.url,
            # What the settings say of a database that the platform brings along.
            "SANDBOX_PAYMENTS": given.get("SANDBOX_PAYMENTS") or str(not database),
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "PYTHONUNBUFFERED": "1",
            MARK: str(self.data),
        }

    def _prepare(self) -> None:
        """Migrates and collects the static files, side by side."""
        commands = (["migrate", "--noinput"], ["collectstatic", "--noinput"])
        running = [
            subprocess.Popen(
                [sys.executable, "manage.py", *command, "--verbosity", "1"],
                cwd=BASE,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for command in commands
        ]
        ends = [(process.communicate()[0], process.returncode) for process in running]
        for command, (output, status) in zip(commands, ends, strict=True):
            (self.logs / f"{command[0]}.log").write_text(output)
            if status:
                raise PlatformError(f"manage.py {command[0]} failed:\n{output[-3000:]}")

    def _children(self) -> list[Child]:
        celery = [sys.executable, "-m", "celery", "-A", "config"]
        granian = [sys.executable, "-m", "granian", "--interface", "wsgi"]
        commands = {
            "web": [
                *granian,
                *("--host", self.host, "--port", str(self.port), "--backlog", "1024"),
                *("--workers", str(os.cpu_count() or 1), "--blocking-threads", "8"),
                *("--respawn-failed-workers", "--workers-kill-timeout", "5"),
                # An old worker goes so many seconds after its successor was begun, ready or not.
                *("--respawn-interval", "10"),
                *("--no-access-log", "--no-ws"),
                "config.wsgi:application",
            ],
            "beat": [
                *celery,
                *("beat", "--loglevel", "INFO", "--pidfile", ""),
                *("--schedule", str(self.data / "beat-schedule")),
            ],
            "worker": [
                *celery,
                *("worker", "--loglevel", "INFO", "--concurrency", "2"),
                *("--without-gossip", "--without-mingle"),
            ],
        }
        children = []
        for name, command in commands.items():
            log = self.logs / f"{name}.log"
            if log.exists() and log.stat().st_size > LARGEST_LOG:
                log.replace(log.with_suffix(".log.1"))
            log.touch()
            children.append(Child(name, command, log))
        return children

    def _keep(self) -> None:
        """Starts the children, starts again what ends, and at last stops all in order.

        All in one thread: a child's death signal comes when the thread that started it ends.
        """
        try:
            for child in self.children:
                child.start(self.environment)
            while not self._stopping.wait(0.2):
                if self._outdated:
                    self._outdated = False
                    self._renew()
                for child in self.children:
                    self._tend(child)
        finally:
            for child in self.children:
                child.stop()

    def _renew(self) -> None:
        """Migrates beside what serves, which goes on with its own code where that fails."""
        try:
            self._prepare()
        except PlatformError as error:
            _say(f"Not renewed: {error}")
            return
        web, *others = self.children
        if web.process and not web.ended():
            # The web server starts new workers before it lets the old ones finish and go. A
            # connection that one of these had not read from yet is closed with it.
            web.process.send_signal(signal.SIGHUP)
        for child in others:
            child.stop()
            child.start(self.environment)
        _say("Renewed")

    def _tend(self, child: Child) -> None:
        if not child.ended():
            return
        now = time.monotonic()
        if child.process:
            status = child.process.returncode
            child.sweep()
            child.process = None
            if now - child.started > LONGEST_PAUSE * 2:
                child.pause = 0.5
            child.failures += 1
            child.started = now
            _say(f"{child.name} ended with status {status}; again in {child.pause:g} s")
        elif now - child.started > child.pause:
            child.pause = min(child.pause * 2, LONGEST_PAUSE)
            child.start(self.environment)

    def _keep_services(self) -> None:
        while not self._stopping.wait(0.2):
            try:
                for name in embedded.revive(self.data):
                    _say(f"{name} had ended and was started again")
            except (embedded.EmbeddedError, OSError) as error:
                _say(f"{error}")

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(self._reached.strip("[]"), self.port, timeout=10)
        try:
            connection.request("GET", "/healthz")
            connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            return False
        else:
            return True
        finally:
            connection.close()

    def _follow(self, name: str, log: Path, position: int) -> None:
        with log.open(errors="replace") as lines:
            lines.seek(position)
            while True:
                if line := lines.readline():
                    print(f"{name:6} | {line.rstrip()}", flush=True)
                else:
                    time.sleep(0.2)


def _lives(pid: int) -> bool:
    """Whether any thread of it does: until then its files and ports are taken."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z" or len(os.listdir(f"/proc/{pid}/task")) > 1
    except OSError:
        return False


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def reload(data: Path) -> int:
    """Ask the platform that serves from a folder to renew itself."""
    try:
        fd = os.open(data / "serve.lock", os.O_RDONLY)
        with os.fdopen(fd) as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        pass
    except BlockingIOError:
        pid = int((data / "serve.lock").read_text())
        os.kill(pid, signal.SIGUSR1)
        print(f"Process {pid} takes up the code that is here; it says when it has.")
        return 0
    _say(f"Nothing serves from {data}: start it with `make serve`, or name its folder by DATA.")
    return 1


def main() -> int:
    data = (BASE / (os.environ.get("DATA") or ".data")).resolve()
    if sys.argv[1:] == ["reload"]:
        return reload(data)
    platform = Platform(
        data=data,
        port=int(os.environ.get("PORT") or 8000),
        host=os.environ.get("HOST") or "127.0.0.1",
        echo=True,
    )
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: platform.interrupt())
    signal.signal(signal.SIGUSR1, lambda *_: platform.renew())
    try:
        print("Starting", flush=True)
        platform.start()
        platform.wait_ready()
        if not platform.interrupted:
            print(f"Ready at {platform.url} · logs in {platform.logs} · Ctrl-C stops", flush=True)
        platform.wait()
        print("Stopping", flush=True)
    except (PlatformError, embedded.EmbeddedError) as error:
        _say(f"{error}")
        return 1
    finally:
        platform.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
