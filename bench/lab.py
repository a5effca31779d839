"""Where it is measured: a PostgreSQL of its own, a fresh database for each row, and the platform.

The platform is started as `make serve` starts it, with as many web workers; only the parts a row
asks for run.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import importlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import django
import psycopg
from rich.console import Console
from rich.progress import Progress

from bench import machine
from config import embedded
from config.serve import Child, Platform

BASE = Path(__file__).resolve().parent.parent
_MIGRATIONS = list(BASE.glob("*/migrations/**/*.py"))
_SETTINGS = (
    "shared_buffers",
    "synchronous_commit",
    "fsync",
    "full_page_writes",
    "wal_compression",
    "max_wal_size",
    "checkpoint_timeout",
    "data_checksums",
    "jit",
    "autovacuum_naptime",
    "shared_preload_libraries",
)


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured: `scale` 1 is the full run."""

    scale: float

    @property
    def seconds(self) -> float:
        """How long one side of a round is to take."""
        return max(1.0, 10.0 * self.scale)

    @property
    def rounds(self) -> int:
        return 5 if self.scale >= 0.5 else 3

    def of(self, count: int) -> int:
        return max(1, round(count * self.scale))


class Parts(Platform):
    """A platform of which only some parts run; `application` is what its web workers serve."""

    def __init__(self, data: Path, port: int, names: Iterable[str], application: str = "") -> None:
        super().__init__(data, port=port)
        self._names = set(names)
        self._application = application

    def _children(self) -> list[Child]:
        children = [child for child in super()._children() if child.name in self._names]
        for child in children:
            if child.name == "web" and self._application:
                child.command[-1] = self._application
        return children


@dataclass(frozen=True, slots=True)
class Web:
    """A running platform."""

    port: int
    platform: Platform

    def roots(self, lab: Lab) -> dict[str, list[int]]:
        """The processes whose work counts: web, worker with beat, and PostgreSQL."""
        groups: dict[str, list[int]] = {"postgres": [lab.postgres_pid]}
        for child in self.platform.children:
            assert child.process is not None
            name = "web" if child.name == "web" else "worker"
            groups.setdefault(name, []).append(child.process.pid)
        return groups

    def workers(self) -> list[int]:
        """The web server's processes that answer requests."""
        process = self.platform.children[0].process
        assert process is not None
        main, *below = machine.tree(process.pid)
        return below or [main]


def _migrate() -> None:
    from django.core.management import call_command

    call_command("migrate", interactive=False, verbosity=0)


class Lab:
    """The servers, and the databases on them. To be used in a `with` block."""

    def __init__(self, data: Path, effort: Effort, console: Console) -> None:
        self.data = data
        self.effort = effort
        self.console = console
        self._url = ""

    def __enter__(self) -> Lab:
        services = embedded.attach(self.data)
        self._url = services.database_url
        os.environ |= {
            "DATA": str(self.data),
            "DATABASE_URL": self._url,
            "BROKER_URL": services.broker_url,
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "LOG_LEVEL": "WARNING",
            # The platform unseals what is sealed here.
            "SECRET_KEY": embedded.secret_key(self.data),
        }
        django.setup()
        return self

    def __exit__(self, *error: object) -> None:
        from django.db import connections

        connections.close_all()
        for name in self._databases():
            if name.startswith("bench_run"):
                self._drop(name)
        embedded.detach(self.data)

    # --- the server ---

    @property
    def postgres_pid(self) -> int:
        pid = embedded.Postgres(self.data, self.data).pid()
        assert pid is not None
        return pid

    def url(self, database: str) -> str:
        return f"{self._url.rpartition('/')[0]}/{database}"

    def connect(self, database: str, **options: Any) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(self.url(database), autocommit=True, **options)

    def settings(self) -> dict[str, str]:
        """PostgreSQL's version and the settings that matter here."""
        with self.connect("postgres") as connection:
            version = connection.execute("SHOW server_version").fetchone()
            rows = connection.execute(
                "SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY(%s)",
                [list(_SETTINGS)],
            ).fetchall()
        assert version is not None
        return {"server_version": version[0], **dict(sorted(rows))}

    def program(self, name: str) -> Path | None:
        """One of PostgreSQL's programs, of the server's own release."""
        done = subprocess.run(
            [sys.executable, "-m", "config.embedded", "find", "postgres"],
            cwd=BASE,
            capture_output=True,
            text=True,
            check=True,
        )
        path = Path(done.stdout.strip()) / name
        return path if path.exists() else None

    # --- databases ---

    def _databases(self) -> list[str]:
        with self.connect("postgres") as connection:
            rows = connection.execute("SELECT datname FROM pg_database").fetchall()
        return [row[0] for row in rows]

    def _drop(self, name: str) -> None:
        with self.connect("postgres") as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'.encode())

    def use(self, database: str) -> None:
        """Let Django's connection of this process be one to `database`."""
        from django.db import connection

        connection.close()
        connection.settings_dict["NAME"] = database

    def _template(self, of: str, size: int) -> str:
        """The database that the module `of` builds; made once a day."""
        module = importlib.import_module(f"bench.{of}")
        source = BASE / "bench" / f"{of}.py"
        day = f"{dt.datetime.now(dt.UTC):%Y%m%d}-{size}"

        def build() -> None:
            with Progress(console=self.console, transient=True) as progress:
                task = progress.add_task("Making the subscribers", total=size)
                module.build(size, lambda many: progress.advance(task, many))

        empty = self._kept("empty", _MIGRATIONS, b"", "template0", _migrate)
        return self._kept(of, [*_MIGRATIONS, source], day.encode(), empty, build)

    def _kept(
        self,
        of: str,
        sources: Sequence[Path],
        more: bytes,
        template: str,
        build: Callable[[], None],
    ) -> str:
        """A database that is built where none of the same sources is there, in the last one's
        place."""
        read = b"".join(path.read_bytes() for path in sorted(sources))
        name = f"bench_{of}_{hashlib.sha256(read + more).hexdigest()[:12]}"
        databases = self._databases()
        if name in databases:
            return name
        for old in databases:
            if old.startswith(f"bench_{of}_") or old == "bench_new":
                self._drop(old)
        with self.connect("postgres") as connection:
            connection.execute(f'CREATE DATABASE bench_new TEMPLATE "{template}"'.encode())
        self.use("bench_new")
        build()
        self.use("postgres")
        with self.connect("postgres") as connection:
            # The charge has connections of its own.
            connection.execute(
                b"SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                b" WHERE datname = 'bench_new'"
            )
            connection.execute(f'ALTER DATABASE bench_new RENAME TO "{name}"'.encode())
        return name

    @contextlib.contextmanager
    def database(self, name: str = "bench_run") -> Iterator[str]:
        """A new database with the population; Django's connection is to it meanwhile."""
        from bench import population

        template = self._template("population", population.SIZE)
        self.use("postgres")
        self._drop(name)
        with self.connect("postgres") as connection:
            connection.execute(
                f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy'.encode()
            )
        self.use(name)
        from metering.records import RECORDS
        from subscriptions import partitions

        for table in (RECORDS, partitions.ENTRIES):
            partitions.forget(table)
        try:
            yield name
        finally:
            self.use("postgres")
            self._drop(name)

    @contextlib.contextmanager
    def crowd(self) -> Iterator[str]:
        """The database of a carrier with very many subscribers, to be looked at only."""
        from bench import crowd

        name = self._template("crowd", self.effort.of(crowd.SIZE))
        self.use(name)
        try:
            yield name
        finally:
            self.use("postgres")

    # --- the platform ---

    @contextlib.contextmanager
    def platform(self, database: str, *names: str, application: str = "") -> Iterator[Web]:
        """The named parts of the platform (web where none is named) on a database."""
        port = _free_port()
        with _environment({"DATABASE_URL": self.url(database)}):
            data = self.data / f"platform-{database}"
            platform = Parts(data, port, names or ("web",), application)
            with platform:
                yield Web(port, platform)

    def client_environment(self, database: str) -> dict[str, str]:
        """What PostgreSQL's own client programs need to reach a database."""
        with self.connect(database) as connection:
            info = connection.info
            return {
                **os.environ,
                "PGHOST": info.host,
                "PGPORT": str(info.port),
                "PGUSER": info.user,
                "PGPASSWORD": info.password,
                "PGDATABASE": database,
            }


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ |= values
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
