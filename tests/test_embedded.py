"""The embedded servers, with real ones: started, shared, killed, recovered, left."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
from kombu import Connection

from config import embedded

PROGRAM = Path(embedded.__file__)
# A process that attaches, says so, and stays until its input ends.
USER = """
import sys; sys.path.insert(0, sys.argv[2])
import pathlib, embedded
print(embedded.attach(pathlib.Path(sys.argv[1])).database_url, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def data() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp())
    yield folder
    for user in folder.rglob("users"):
        subprocess.run([sys.executable, PROGRAM, "stop", "--force", user.parent], check=True)
    shutil.rmtree(folder)


def user(data: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", USER, data, PROGRAM.parent],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def url_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def leave(process: subprocess.Popen[str]) -> None:
    process.communicate(timeout=200)
    assert process.returncode == 0


def servers(data: Path) -> list[embedded.Server]:
    return [kind(data, data) for kind in (embedded.Postgres, embedded.Valkey)]


def running(data: Path) -> list[str]:
    return [server.name for server in servers(data) if server.running()]


def kill(data: Path) -> None:
    for server in servers(data):
        pid = server.pid()
        assert pid
        os.kill(pid, signal.SIGKILL)
    while any(server.pid() for server in servers(data)):
        time.sleep(0.01)


def ask(url: str, sql: str) -> object:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(sql)
        return cursor.fetchall() if cursor.description else None


def test_both_work_and_come_back_with_their_data(data: Path) -> None:
    services = embedded.attach(data, settings={"work_mem": "5MB"})
    ask(services.database_url, "CREATE EXTENSION btree_gist")
    ask(services.database_url, "CREATE EXTENSION pg_stat_statements")
    ask(services.database_url, "SELECT count(*) FROM pg_stat_statements")
    assert ask(services.database_url, "SHOW work_mem") == [("5MB",)]
    assert ask(services.database_url, "SHOW fsync") == [("on",)]
    with Connection(services.broker_url) as connection:
        connection.SimpleQueue("kept").put({"n": 1})

    assert embedded.attach(data) == services
    embedded.detach(data)
    assert running(data) == ["postgres", "valkey"], "attached twice, detached once"
    embedded.detach(data)
    assert running(data) == []
    embedded.detach(data)

    services = embedded.attach(data)
    assert ask(services.database_url, "SELECT count(*) FROM pg_extension") == [(3,)]
    with Connection(services.broker_url) as connection:
        assert connection.SimpleQueue("kept").get(timeout=100).payload == {"n": 1}
    embedded.detach(data)


def test_only_what_is_asked_for(data: Path) -> None:
    services = embedded.attach(data, database=False)
    assert services.database_url == ""
    assert running(data) == ["valkey"]
    embedded.detach(data)


def test_nobody_else_reaches_them(data: Path) -> None:
    url = embedded.attach(data).database_url
    sockets = Path((data / "sockets").read_text())
    assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    assert stat.S_IMODE((data / "postgres" / "password").stat().st_mode) == 0o600
    password = (data / "postgres" / "password").read_text()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url.replace(password, "wrong"))
    assert ask(url, "SHOW listen_addresses") == [("",)]
    embedded.detach(data)


def test_a_foreign_socket_folder_is_refused(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = data / "tmp"
    base.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(base))
    folder = embedded._sockets(data)
    folder.chmod(0o755)
    with pytest.raises(embedded.EmbeddedError, match="not a private folder"):
        embedded.attach(data)
    folder.chmod(0o700)


def test_the_last_user_stops_them(data: Path) -> None:
    first, second = user(data), user(data)
    assert url_of(first) == url_of(second) != ""
    leave(first)
    assert running(data) == ["postgres", "valkey"]
    leave(second)
    assert running(data) == []


def test_starters_at_once_share_one_server(data: Path) -> None:
    users = [user(data) for _ in range(4)]
    urls = {url_of(process) for process in users}
    assert len(urls) == 1
    assert ask(urls.pop(), "SELECT 1") == [(1,)]
    for process in users:
        leave(process)
    log = (data / "logs" / "postgres.log").read_text()
    assert log.count("redirecting log output") == 1


def test_killed_with_its_user_it_recovers(data: Path) -> None:
    first = user(data)
    url = url_of(first)
    ask(url, "CREATE TABLE kept AS SELECT 1 AS n")
    # The postmaster's other processes outlive it for a moment: the next start has to wait for them.
    first.kill()
    kill(data)
    first.communicate()
    url = embedded.attach(data).database_url
    assert ask(url, "SELECT n FROM kept") == [(1,)]
    embedded.detach(data)


def test_a_pid_used_again_does_not_mislead(data: Path) -> None:
    embedded.attach(data)
    embedded.detach(data)
    for name in ("postgres/postmaster.pid", "valkey/valkey.pid"):
        (data / name).write_text(f"{os.getpid()}\n{data}\n1\n5432\n\n\n\nready\n")
    assert [server.pid() for server in servers(data)] == [None, None]
    url = embedded.attach(data).database_url
    assert ask(url, "SELECT 1") == [(1,)]
    embedded.detach(data)


def test_what_died_is_revived(data: Path) -> None:
    url = embedded.attach(data).database_url
    assert embedded.revive(data) == []
    kill(data)
    # Both are this process's children: still zombies now.
    assert sorted(embedded.revive(data)) == ["postgres", "valkey"]
    assert ask(url, "SELECT 1") == [(1,)]
    embedded.detach(data)


def go_on(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


@contextmanager
def recovering(url: str) -> Iterator[int]:
    """PostgreSQL after one of its backends was killed; it recovers when the one named goes on."""
    # Recovery begins when the last backend is gone, and one that is stopped does not go.
    with closing(psycopg.connect(url)) as stuck, closing(psycopg.connect(url)) as killed:
        stopped = stuck.info.backend_pid
        os.kill(stopped, signal.SIGSTOP)
        os.kill(killed.info.backend_pid, signal.SIGKILL)
        refused = ""
        while "in recovery mode" not in refused:
            try:
                ask(url, "SELECT 1")
            except psycopg.OperationalError as error:
                refused = str(error)
        # PostgreSQL itself waits five seconds for it, and then does without.
        yield stopped
        go_on(stopped)


def test_who_comes_during_a_recovery_waits_for_its_end(data: Path) -> None:
    url = embedded.attach(data).database_url

    with recovering(url) as stopped:
        timer = threading.Timer(0.5, go_on, [stopped])
        timer.start()
        embedded.attach(data)
        timer.join()

    assert ask(url, "SELECT 1") == [(1,)]
    embedded.detach(data)
    embedded.detach(data)


def test_stopped_during_a_recovery_it_recovers_at_the_next_start(data: Path) -> None:
    url = embedded.attach(data).database_url
    ask(url, "CREATE TABLE kept AS SELECT 1 AS n")

    [log] = (data / "logs").glob("postgres-*.log")
    # Asked to stop in good order in the middle of it, PostgreSQL may wait forever.
    asked = "received immediate shutdown request"
    with recovering(url) as stopped, ThreadPoolExecutor(1) as pool:
        left = pool.submit(embedded.detach, data)
        while asked not in log.read_text() and not left.done():
            time.sleep(0.01)
        go_on(stopped)
        left.result(200)

    assert running(data) == []
    assert asked in log.read_text()
    assert ask(embedded.attach(data).database_url, "SELECT n FROM kept") == [(1,)]
    embedded.detach(data)


def test_a_user_that_was_killed_leaves_them_to_the_next(data: Path) -> None:
    first = user(data)
    url_of(first)
    first.kill()
    first.communicate()
    assert running(data) == ["postgres", "valkey"]
    second = user(data)
    url_of(second)
    leave(second)
    assert running(data) == []


def test_a_forked_child_does_not_stop_them(data: Path) -> None:
    script = """
import os, sys; sys.path.insert(0, sys.argv[2])
import pathlib, embedded
data = pathlib.Path(sys.argv[1])
embedded.attach(data)
if os.fork() == 0:
    embedded.attach(data)
    embedded.detach(data)
    sys.exit()  # runs what is registered for the exit
os.wait()
print(embedded.Postgres(data, data).running())
"""
    command = [sys.executable, "-c", script, str(data), str(PROGRAM.parent)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == "True\n"
    assert running(data) == []


def test_a_long_path(data: Path) -> None:
    deep = data / ("a long name with spaces and 'quotes' " * 5) / ("長" * 60)
    url = embedded.attach(deep).database_url
    assert ask(url, "SELECT 1") == [(1,)]
    embedded.detach(deep)


def test_an_interrupted_first_start(data: Path) -> None:
    (data / "postgres.new" / "base").mkdir(parents=True)
    assert ask(embedded.attach(data).database_url, "SELECT 1") == [(1,)]
    embedded.detach(data)


def test_started_by_hand_they_stay(data: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(PROGRAM), *arguments, str(data)]
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)

    assert run("status").returncode == 3
    assert run("start").stdout.startswith("DATABASE_URL=postgresql://")
    assert run("status").returncode == 0
    other = user(data)
    url_of(other)
    assert run("stop").returncode == 1, "in use"
    (data / "keep").touch()
    leave(other)
    assert run("status").returncode == 0
    assert run("stop").returncode == 0
    assert running(data) == []


def test_no_postgres_says_what_to_do(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = data / "bin"
    broken.mkdir()
    (broken / "postgres").write_text("not for this machine")
    (broken / "postgres").chmod(0o755)
    monkeypatch.setattr(embedded, "_postgres_candidates", lambda: iter([broken]))
    with pytest.raises(embedded.EmbeddedError, match="apt-get install postgresql"):
        embedded.attach(data)
    assert running(data) == []


def test_data_of_another_version_says_what_to_do(data: Path) -> None:
    (data / "postgres").mkdir()
    (data / "postgres" / "PG_VERSION").write_text("16\n")
    with pytest.raises(embedded.EmbeddedError, match="was written by PostgreSQL 16"):
        embedded.attach(data)


def test_the_secret_key_is_made_once(data: Path) -> None:
    key = embedded.secret_key(data)
    assert len(key) > 50
    assert embedded.secret_key(data) == key
    assert stat.S_IMODE((data / "secret_key").stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="has to be root to become another user")
def test_as_another_user(data: Path) -> None:
    """With the system's Python, as a virtual environment's may lie where only root can go."""
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    become = ["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups"]
    program = Path(embedded._postgres_binaries(), "postgres")
    for need in ([python or "python3", "-c", ""], [str(program), "--version"]):
        if subprocess.run([*become, *need], capture_output=True, check=False).returncode:
            pytest.skip(f"nobody cannot run {need[0]} here")
    data.chmod(0o777)
    packages = str(program.parents[3])
    command = [*become, "env", f"PYTHONPATH={packages}", str(python)]
    copy = shutil.copy(PROGRAM, data)
    done = subprocess.run([*command, copy, "start", data / "d"], check=False, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert (data / "d" / "postgres").stat().st_uid != 0

    # Root, in the folder of another: the same servers, and after a stop, servers of the owner's.
    assert running(data / "d") == ["postgres", "valkey"]
    subprocess.run([sys.executable, PROGRAM, "stop", data / "d"], check=True)
    url = embedded.attach(data / "d").database_url
    assert ask(url, "SELECT 1") == [(1,)]
    assert (data / "d" / "valkey" / "valkey.pid").stat().st_uid != 0
    embedded.detach(data / "d")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become another user")
def test_root_without_user_namespaces(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError("not permitted")

    data.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setattr(embedded, "_unshare", refuse)
        url = embedded.attach(data / "d").database_url
        ask(url, "CREATE TABLE kept AS SELECT 1 AS n")
        assert (data / "d" / "postgres").stat().st_uid != 0
        embedded.detach(data / "d")
    # And back, on a machine that has them.
    url = embedded.attach(data / "d").database_url
    assert ask(url, "SELECT n FROM kept") == [(1,)]
    embedded.detach(data / "d")
