"""Replaying a trace over HTTP: in full, again, through an outage, and when it is refused."""

from __future__ import annotations

import csv
import io
import json
import socket
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import msgspec
import pytest
from django.core.management import CommandError, call_command
from django.db.models import Count, F, Sum

from metering import traces
from metering.models import UsageRecord
from metering.posting import GaveUp, Poster, PostingError, Refused
from metering.traces import Batch
from subscriptions import registry
from subscriptions.models import Bucket, Operator, Subject
from subscriptions.units import THOUSANDTHS
from tests.factories import (
    NOW,
    client_for,
    local,
    make_gateway_key,
    make_key,
    make_operator,
    make_plan,
    make_subscriber,
    set_clock,
    subscribe,
)
from tests.test_traces import SHARED

database = pytest.mark.django_db(transaction=True)


def replay(path: Path, url: str, key: str, **options: Any) -> tuple[dict[str, Any], str]:
    """`manage.py replay`: its totals (the last line), and what it complains of."""
    out = io.StringIO()
    complaint = ""
    try:
        call_command("replay", str(path), url=url, key=key, stdout=out, **options)
    except CommandError as error:
        complaint = str(error)
    lines = out.getvalue().splitlines()
    return json.loads(lines[-1]) if lines else {}, complaint


def write_trace(path: Path, *subjects: str) -> Path:
    """A record for each of these subjects, a second apart, before NOW."""
    records = [
        {
            "event_id": f"e-{nr}",
            "subject": subject,
            "model": "qwen-plus",
            "timestamp": (NOW - timedelta(seconds=60 - nr)).isoformat(),
            "input_tokens": 100,
            "output_tokens": 10,
            "cached_input_tokens": 30,
        }
        for nr, subject in enumerate(subjects)
    ]
    path.write_bytes(b"\n".join(msgspec.json.encode(record) for record in records))
    return path


# The published traces, in full -------------------------------------------------------------------


def operator_of(path: Path) -> Operator:
    """A test operator whose subscribers, one a subject, hold plans since before the trace."""
    records = list(traces.read(path))
    times = [datetime.fromisoformat(record["occurred_at"]) for record in records]
    subjects = dict.fromkeys(record["subject"] for record in records)
    sold_at = min(times) - timedelta(minutes=1)
    operator = make_operator(at=sold_at)
    make_plan(operator)  # every token weighs one unit
    drafts = [registry.Draft(external_id=s, subjects=(s,), plan="light") for s in subjects]
    for first in range(0, len(drafts), registry.BATCH):
        registry.upsert(operator, drafts[first : first + registry.BATCH], at=sold_at)
    set_clock(operator, max(times))
    return operator


def charged_by_subject() -> dict[str, list[int]]:
    """Requests, input and output tokens of each subject, from the records themselves."""
    names = dict(Subject.objects.values_list("pk", "subject"))
    rows = UsageRecord.objects.values("subject_id").annotate(
        requests=Count("record_id"),
        input=Sum(F("uncached_input_tokens") + F("cached_input_tokens")),
        output=Sum("output_tokens"),
    )
    return {names[r["subject_id"]]: [r["requests"], r["input"], r["output"]] for r in rows}


@database
@pytest.mark.parametrize("name", ["azure2023_conv", "mooncake_conversation"])
def test_a_published_trace_meets_its_control_totals_for_every_subject(name: str, live_server):
    path = SHARED / f"{name}.csv.gz"
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    control = json.loads((SHARED / f"{name}.totals.json").read_text())
    with (SHARED / f"{name}.subject_totals.csv").open(newline="") as file:
        by_subject = {
            row["subject"]: [int(row[n]) for n in ("requests", "input_tokens", "output_tokens")]
            for row in csv.DictReader(file)
        }
    operator = operator_of(path)

    said, complaint = replay(path, live_server.url, make_gateway_key(operator))

    assert complaint == ""
    assert said["records"] == said["accepted"] == control["rows"]
    assert said["duplicates"] == said["rejected"] == 0
    assert said["input_tokens"] == control["sum_input"]
    assert said["output_tokens"] == control["sum_output"]
    assert said["units"] == f"{control['sum_input'] + control['sum_output']}.000"
    assert charged_by_subject() == by_subject
    # Each month's usage drew that month's allowances, also what came after the month's end.
    drawn = Bucket.objects.filter(used__gt=0).values_list("valid_until").annotate(Sum("used"))
    assert dict(drawn) == {
        month_end(month): (one["input"] + one["output"]) * THOUSANDTHS
        for month, one in control["per_beijing_month"].items()
    }
    # What a caller of the API is told of the busiest.
    api = client_for(make_key(operator))
    for subject, one in control["top5_subjects"].items():
        rows = api.get(
            f"/api/v1/subscribers/{subject}/usage",
            {"from": control["first"], "to": "2027-01-01T00:00:00Z", "by": "month"},
        ).json()["items"]
        assert sum(row["requests"] for row in rows) == one["n"]
        assert sum(row["input_tokens"] for row in rows) == one["input"]
        assert sum(row["output_tokens"] for row in rows) == one["output"]


def month_end(month: str) -> datetime:
    year, number = map(int, month.split("-"))
    return local(year + number // 12, number % 12 + 1, 1)


# Again, and refused ------------------------------------------------------------------------------


@database
def test_a_trace_replayed_again_charges_nothing_twice(tmp_path: Path, live_server):
    operator = make_operator()
    subscribe(make_subscriber(operator, subjects=("user-1",)), make_plan(operator))
    path, key = write_trace(tmp_path / "t.ndjson", *["user-1"] * 7), make_gateway_key(operator)

    first, _ = replay(path, live_server.url, key, batch=2)
    again, complaint = replay(path, live_server.url, key, batch=3, concurrency=1)

    assert complaint == ""
    assert (first["accepted"], first["duplicates"], first["units"]) == (7, 0, "770.000")
    assert (again["accepted"], again["duplicates"], again["units"]) == (0, 7, "0.000")
    assert (again["input_tokens"], again["output_tokens"]) == (700, 70)
    assert again["cached_input_tokens"] == 210
    assert set(again) == {
        *("records", "accepted", "duplicates", "rejected", "units"),
        *("input_tokens", "output_tokens", "cached_input_tokens"),
        *("seconds", "records_per_second", "causes"),
    }


@database
def test_rejected_records_are_counted_by_cause_and_the_status_tells(tmp_path: Path, live_server):
    operator = make_operator()
    subscribe(make_subscriber(operator, subjects=("user-1",)), make_plan(operator))
    path = write_trace(tmp_path / "t.ndjson", "user-1", "nobody", "user-1", "no-one")

    said, complaint = replay(path, live_server.url, make_gateway_key(operator), batch=3)

    assert (said["records"], said["accepted"], said["rejected"]) == (4, 2, 2)
    assert said["causes"] == {"unknown_subject": 2}
    assert "2 of 4 records were rejected: 2 unknown_subject" in complaint
    assert "e-1: unknown_subject" in complaint


@database
def test_a_key_that_is_refused_ends_the_replay(tmp_path: Path, live_server):
    path = write_trace(tmp_path / "t.ndjson", "user-1")

    said, complaint = replay(path, live_server.url, "tbg_wrong")

    assert said["records"] == 0
    assert "401 unauthorized" in complaint


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://127.0.0.1", "http://", "http://[::1"])
def test_a_url_that_is_none_is_told_at_once(tmp_path: Path, url: str):
    said, complaint = replay(write_trace(tmp_path / "t.ndjson", "user-1"), url, "tbg_key")

    assert said == {}
    assert "is not a URL" in complaint


# Outages -----------------------------------------------------------------------------------------

TAKEN = {"accepted": 1, "duplicates": 0, "rejected": [], "units": "1.500"}
BROKEN = 0  # in the place of a status: the connection breaks without an answer


class StandIn(ThreadingHTTPServer):
    """Answers with these statuses, one a request, and then takes everything."""

    def __init__(self, *statuses: int) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.statuses = list(statuses)
        self.received: list[bytes] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StandIn

    def do_POST(self) -> None:
        self.server.received.append(self.rfile.read(int(self.headers["Content-Length"])))
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        if status == BROKEN:
            self.close_connection = True
            return
        body = msgspec.json.encode(
            TAKEN if status == 200 else {"cause": "some_cause", "detail": "why"}
        )
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def stand_in() -> Iterator[Callable[..., StandIn]]:
    servers = []

    def start(*statuses: int) -> StandIn:
        server = StandIn(*statuses)
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def batches(many: int) -> list[Batch]:
    return [Batch(b"[%d]" % nr, 1) for nr in range(many)]


@pytest.mark.parametrize("trouble", [503, 500, 429, BROKEN])
def test_a_batch_without_an_answer_is_sent_again_as_it_was(stand_in, trouble: int):
    server = stand_in(trouble, trouble)

    with Poster(server.url, "tbg_key", concurrency=1) as poster:
        poster.post(batches(3))

    assert server.received == [b"[0]", b"[0]", b"[0]", b"[1]", b"[2]"]
    assert (poster.posted.accepted, poster.posted.retries) == (3, 2)
    assert str(poster.posted.units) == "4.500"


def test_it_gives_up_where_nobody_answers():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with (
            # Not so short that a busy machine could give up before it tries again.
            Poster(url, "tbg_key", patience=2) as poster,
            pytest.raises(GaveUp, match="for 2 s"),
        ):
            poster.post(batches(3))

    assert poster.posted.records == 0
    assert poster.posted.retries


def test_every_batch_is_posted_once_by_several_posters(stand_in):
    server = stand_in()
    done: list[int] = []

    with Poster(server.url, "tbg_key", concurrency=4, progress=done.append) as poster:
        poster.post(iter(batches(50)))
        poster.post(iter(batches(10)))

    assert sorted(server.received) == sorted(b.body for b in [*batches(50), *batches(10)])
    assert poster.posted.records == sum(done) == 60


def test_a_refusal_is_not_tried_again(stand_in):
    server = stand_in(403)

    with (
        Poster(server.url, "tbg_key", concurrency=1) as poster,
        pytest.raises(Refused, match="403 some_cause: why"),
    ):
        poster.post(batches(3))

    assert server.received == [b"[0]"]


def test_an_error_while_batches_are_made_ends_the_posting(stand_in):
    def broken() -> Iterator[Batch]:
        yield from batches(2)
        raise PostingError("no more")

    with Poster(stand_in().url, "tbg_key") as poster, pytest.raises(PostingError, match="no more"):
        poster.post(broken())

    assert poster.posted.records == 2


def test_a_trace_that_breaks_off_is_told_after_what_was_posted(tmp_path: Path, stand_in):
    path = write_trace(tmp_path / "t.ndjson", "user-1", "user-1")
    path.write_bytes(path.read_bytes() + b"\n{broken")

    said, complaint = replay(path, stand_in().url, "tbg_key", batch=1)

    assert said["accepted"] == 2
    assert "line 3 is not a JSON object" in complaint
