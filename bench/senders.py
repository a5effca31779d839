"""Processes that send: posters over HTTP, writers of COPY, a reader of balances.

Each is forked with its requests ready, waits until all are connected, and only then the clock
starts. Raw sockets: what they take of the processors is measured and has to be little.
"""

from __future__ import annotations

import functools
import multiprocessing
import resource
import select
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import Any, NamedTuple, Self

import msgspec
import psycopg

# A poster makes a new connection after so many batches: which web worker a connection goes to is
# chance, and this way a round meets the average.
BATCHES_A_CONNECTION = 20
_fork = multiprocessing.get_context("fork")
TIMEOUT = 120.0


class SendingError(Exception):
    """A sender failed, or was not answered as it has to be."""


class Answer(msgspec.Struct):
    """What the platform says of a batch."""

    accepted: int
    duplicates: int
    rejected: list[Any]


@dataclass(slots=True)
class Sent:
    """What senders did together. `records` were accepted, in `seconds` from the first request to
    the last answer; `cpu` is the senders' own processor time; `latencies` of each request."""

    records: int = 0
    seconds: float = 0.0
    cpu: float = 0.0
    latencies: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return self.records / self.seconds


@dataclass(frozen=True, slots=True)
class _Done:
    """What one sender reports."""

    records: int
    began: float
    ended: float
    cpu: float
    latencies: list[float]


def cpu_used() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def cpu_of_children() -> float:
    """Of the programs this process ran and waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class Team:
    """Senders that start at the same moment. `start` lets them go, `wait` is when all are done."""

    def __init__(self) -> None:
        self._works: list[Callable[[Callable[[], None]], _Done]] = []
        self._processes: list[tuple[Any, Connection]] = []
        self._barrier: Barrier | None = None

    def add(self, work: Callable[[Callable[[], None]], _Done]) -> None:
        """`work(ready)` connects, calls `ready`, which returns when all are, and sends."""
        self._works.append(work)

    def start(self) -> None:
        self._barrier = _fork.Barrier(len(self._works) + 1)
        for work in self._works:
            ours, theirs = _fork.Pipe(duplex=False)
            process = _fork.Process(
                target=_run, args=(work, self._barrier, theirs), name="sender", daemon=True
            )
            process.start()
            theirs.close()
            self._processes.append((process, ours))
        self._barrier.wait(TIMEOUT)

    def wait(self) -> Sent:
        """Raises SendingError where a sender failed."""
        reports: list[_Done] = []
        problem = ""
        for process, ours in self._processes:
            try:
                report = ours.recv()
            except EOFError:
                report = f"a sender ended with status {process.exitcode}"
            process.join()
            if isinstance(report, _Done):
                reports.append(report)
            else:
                problem = problem or report
        self._processes = []
        if problem:
            raise SendingError(problem)
        return Sent(
            sum(report.records for report in reports),
            max(report.ended for report in reports) - min(report.began for report in reports),
            sum(report.cpu for report in reports),
            [latency for report in reports for latency in report.latencies],
        )

    def run(self) -> Sent:
        self.start()
        return self.wait()


def _run(
    work: Callable[[Callable[[], None]], _Done], barrier: Barrier, results: Connection
) -> None:
    try:
        results.send(work(lambda: _meet(barrier)))
    except BaseException as error:
        barrier.abort()
        results.send(f"{type(error).__name__}: {error}")


def _meet(barrier: Barrier) -> None:
    barrier.wait(TIMEOUT)


# --- HTTP -----------------------------------------------------------------------------------------


class Door(NamedTuple):
    """Where usage is posted, and as what."""

    path: str
    content_type: str


NATIVE = Door("/api/v1/usage-records", "application/json")
OPENMETER = Door("/api/v1/events", "application/cloudevents-batch+json")


def request(port: int, key: str, body: bytes, door: Door = NATIVE) -> bytes:
    """A POST of usage, ready for the wire."""
    return (
        f"POST {door.path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Authorization: Bearer {key}\r\nContent-Type: {door.content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def reading(port: int, key: str, path: str) -> bytes:
    """A GET, ready for the wire."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {key}\r\n\r\n"
    ).encode()


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _length(head: bytes) -> int:
    """How long the answer's body is. Raises SendingError unless it is a 200 or 201, or a 204 that
    names nothing as rejected."""
    if head.startswith(b"HTTP/1.1 204 ") and b"\r\nusage-rejected:" not in head.lower():
        return 0
    if not head.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 201 ")):
        raise SendingError(f"answered {head[:300]!r}")
    _, found, rest = head.lower().partition(b"\r\ncontent-length:")
    if not found:
        raise SendingError(f"no length: {head[:300]!r}")
    return int(rest.partition(b"\r\n")[0])


def _is_whole(received: bytes) -> bool:
    """Whether an answer is there to its end. Raises SendingError unless it is a success."""
    head, found, body = received.partition(b"\r\n\r\n")
    if not found and received:
        return False
    return len(body) >= _length(head)


class Link:
    """A connection to the platform that is kept, and made anew where the platform lets it go."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket = _connect(port)

    def exchange(self, data: bytes) -> bytes:
        """Send a request; answers the body of its answer, if that is a success."""
        self._socket.sendall(data)
        received = b""
        while True:
            part = self._socket.recv(1 << 20)
            if not part:
                raise SendingError(f"the connection was closed; received {received[:300]!r}")
            received += part
            if _is_whole(received):
                head, _, body = received.partition(b"\r\n\r\n")
                if _is_last(head):
                    self.renew()
                return body

    def renew(self) -> None:
        self.close()
        self._socket = _connect(self._port)

    def close(self) -> None:
        self._socket.close()


def _is_last(head: bytes) -> bool:
    """Whether the platform lets go of the connection with this answer."""
    return b"\r\nconnection: close" in head.lower()


def _check(body: bytes, records: int) -> None:
    answer = msgspec.json.decode(body, type=Answer)
    if (answer.accepted, answer.duplicates, len(answer.rejected)) != (records, 0, 0):
        raise SendingError(f"not all of {records} records were charged: {body[:500]!r}")


def _taker(total: int) -> Callable[[], int | None]:
    """Shares out the numbers below `total` among processes forked after this."""
    value = _fork.Value("q", 0)

    def take() -> int | None:
        with value.get_lock():
            nr = int(value.value)
            value.value = nr + 1
        return nr if nr < total else None

    return take


def post(
    port: int,
    key: str,
    bodies: Sequence[bytes],
    *,
    batch: int,
    posters: int = 2,
    mark: Callable[[bytes, int], bytes] | None = None,
    repeat: int = 1,
    door: Door = NATIVE,
) -> Team:
    """Posters that share out the bodies, `repeat` times; `mark` changes one as it is sent.

    Without `mark` the whole requests are made here, before the clock starts.
    """
    take = _taker(len(bodies) * repeat)
    ready_made = [request(port, key, body, door) for body in bodies] if mark is None else []

    def work(ready: Callable[[], None]) -> _Done:
        answers: list[bytes] = []
        latencies: list[float] = []
        link = Link(port)
        ready()
        used, began = cpu_used(), time.monotonic()
        while (nr := take()) is not None:
            if mark is None:
                data = ready_made[nr]
            else:
                body = mark(bodies[nr % len(bodies)], nr // len(bodies))
                data = request(port, key, body, door)
            asked = time.monotonic()
            if answers and len(answers) % BATCHES_A_CONNECTION == 0:
                link.renew()
            answers.append(link.exchange(data))
            latencies.append(time.monotonic() - asked)
        ended, used = time.monotonic(), cpu_used() - used
        link.close()
        for answer in answers if door is NATIVE else ():  # OpenMeter's have no body
            _check(answer, batch)
        return _Done(len(answers) * batch, began, ended, used, latencies)

    team = Team()
    for _ in range(posters):
        team.add(work)
    return team


Chain = Sequence[bytes]  # requests of which each waits for the answer to the one before


def post_singles(
    port: int,
    key: str,
    bodies: Sequence[bytes],
    *,
    connections: int,
    seconds: float,
    processes: int,
) -> Team:
    """One record a request, the next on a connection as soon as the last is answered."""
    chains = [[request(port, key, body)] for body in bodies]
    return chained(
        port,
        chains,
        connections=connections,
        seconds=seconds,
        processes=processes,
        check=lambda answer: _check(answer, 1),
    )


def chained(
    port: int,
    chains: Sequence[Chain],
    *,
    connections: int,
    seconds: float,
    processes: int,
    check: Callable[[bytes], None],
) -> Team:
    """Chains of requests, the next on a connection as soon as the last is through.

    Ends after `seconds`, or when the chains are used up; a record is a chain. `check` is given the
    body of each answer, and raises for one that is not as it has to be.
    """

    def work(place: int, ready: Callable[[], None]) -> _Done:
        own = iter(chains[place::processes])
        sockets = [_connect(port) for _ in range(place, connections, processes)]
        poll = select.epoll()
        by_number = {one.fileno(): one for one in sockets}
        rest: dict[int, list[bytes]] = {}
        asked: dict[int, float] = {}
        begun: dict[int, bytes] = {}
        latencies: list[float] = []
        answers: list[bytes] = []
        through = 0
        ready()
        used, began = cpu_used(), time.monotonic()
        deadline = began + seconds
        for number, one in by_number.items():
            poll.register(number, select.EPOLLIN)
            data, *rest[number] = next(own)
            asked[number] = time.monotonic()
            one.sendall(data)
        ended = began
        while asked:
            for number, _ in poll.poll(TIMEOUT):
                one = by_number[number]
                received = begun.pop(number, b"") + one.recv(65536)
                if not _is_whole(received):  # head and body come apart
                    begun[number] = received
                    continue
                ended = time.monotonic()
                latencies.append(ended - asked[number])
                answers.append(received)
                if _is_last(received.partition(b"\r\n\r\n")[0]):
                    poll.unregister(number)
                    by_number.pop(number).close()
                    one, left = _connect(port), rest.pop(number)
                    del asked[number]
                    number = one.fileno()
                    by_number[number], rest[number], asked[number] = one, left, ended
                    poll.register(number, select.EPOLLIN)
                if not rest[number]:
                    through += 1
                    rest[number] = list(next(own, ())) if ended < deadline else []
                if not rest[number]:
                    del asked[number]
                    poll.unregister(number)
                else:
                    data, *rest[number] = rest[number]
                    asked[number] = ended
                    one.sendall(data)
        used = cpu_used() - used
        poll.close()
        for one in by_number.values():
            one.close()
        for answer in answers:
            check(answer.partition(b"\r\n\r\n")[2])
        return _Done(through, began, ended, used, latencies)

    team = Team()
    for place in range(processes):
        team.add(functools.partial(work, place))
    return team


class Reading:
    """Reads one thing after another, 25 a second, in a process of its own, inside a `with` block.

    `latencies` holds the seconds each took, when the block has ended.
    """

    PAUSE = 0.04

    def __init__(self, port: int, requests: Sequence[bytes]) -> None:
        self.latencies: list[float] = []
        self._port = port
        self._requests = requests
        self._stop = _fork.Event()
        self._team = Team()
        self._team.add(self._work)

    def __enter__(self) -> Self:
        self._team.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self.latencies = self._team.wait().latencies

    def _work(self, ready: Callable[[], None]) -> _Done:
        latencies: list[float] = []
        link = Link(self._port)
        ready()
        used, began = cpu_used(), time.monotonic()
        due = began
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due += self.PAUSE
            asked = time.monotonic()
            link.exchange(self._requests[len(latencies) % len(self._requests)])
            latencies.append(time.monotonic() - asked)
        link.close()
        return _Done(len(latencies), began, time.monotonic(), cpu_used() - used, latencies)


# --- COPY -----------------------------------------------------------------------------------------


def copy(url: str, sql: str, copies: Sequence[bytes], *, batch: int, writers: int = 2) -> Team:
    """Writers that share out the batches: one COPY and one commit each."""
    take = _taker(len(copies))

    def work(ready: Callable[[], None]) -> _Done:
        done = 0
        latencies: list[float] = []
        with psycopg.connect(url, autocommit=True) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            ready()
            used, began = cpu_used(), time.monotonic()
            while (nr := take()) is not None:
                asked = time.monotonic()
                with cursor.copy(sql.encode()) as into:
                    into.write(copies[nr])
                latencies.append(time.monotonic() - asked)
                done += batch
            ended, used = time.monotonic(), cpu_used() - used
        return _Done(done, began, ended, used, latencies)

    team = Team()
    for _ in range(writers):
        team.add(work)
    return team
