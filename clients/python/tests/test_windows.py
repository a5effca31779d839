"""A gateway's totals: told after what was recorded, and what the answer asks for."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest

from stand_in import Say, StandIn
from token_billing_client import Client, Refused, Totals, Unavailable, Usage

COUNTERS = "/api/v1/usage-counters"
START = dt.datetime(2026, 6, 10, 3, tzinfo=dt.UTC)
END = START + dt.timedelta(hours=1)


def numbered(n: int) -> Usage:
    return Usage(
        id=f"r-{n}",
        subject="user-1",
        model="m",
        input_tokens=10,
        output_tokens=5,
        occurred_at=START + dt.timedelta(minutes=n),
        sequence=n,
    )


def answer(state: str, resend: Any = None) -> dict[str, Any]:
    return {
        "window_start": "2026-06-10T03:00:00Z",
        "window_end": "2026-06-10T04:00:00Z",
        "state": state,
        "difference": {"requests": 2},
        "resend": resend,
    }


def client_of(platform: StandIn, spool: Path, **more: Any) -> Client:
    return Client(platform.url, "tbg_key", spool=spool, flush_seconds=0.01, ask_seconds=1, **more)


def test_totals_are_told_after_all_that_was_recorded(tmp_path: Path) -> None:
    made = [numbered(n) for n in range(1, 5)]
    with StandIn() as platform, client_of(platform, tmp_path) as client:
        platform.answers[COUNTERS] = Say(200, answer("closed"))
        for usage in made:
            client.record(usage)
        outside = numbered(60)

        window = client.tell(Totals.of([*made, outside], start=START, end=END))

    assert (window.state, window.missing, window.wants_all) == ("closed", (), False)
    assert len(platform.charged) == 4
    last = platform.asked[-1]
    assert last.path == COUNTERS
    assert json.loads(last.raw) == {
        "window_start": "2026-06-10T03:00:00+00:00",
        "window_end": "2026-06-10T04:00:00+00:00",
        "requests": 4,
        "input_tokens": 40,
        "output_tokens": 20,
        "cached_input_tokens": 0,
        "cache_write_tokens": 0,
        "reasoning_tokens": 0,
        "source": "",
        "sequences": [{"first": 1, "last": 4}],
    }


def test_a_number_travels_among_the_attributes() -> None:
    usage = Usage(
        subject="u", model="m", input_tokens=1, output_tokens=1, attributes={"a": 1}, sequence=7
    )

    assert json.loads(usage.to_json())["attributes"] == {"a": 1, "sequence": 7}


@pytest.mark.parametrize(
    ("whole", "ranges", "wanted"),
    [
        (False, [(2, 2), (4, 5)], [2, 4, 5]),
        (True, [], [1, 2, 3, 4, 5]),
        (False, [], []),
    ],
)
def test_what_is_asked_for_is_known_by_its_number_or_its_time(
    tmp_path: Path, whole: bool, ranges: list[tuple[int, int]], wanted: list[int]
) -> None:
    resend = {
        "whole_window": whole,
        "ranges": [{"source": "", "first": a, "last": b} for a, b in ranges],
    }
    with StandIn() as platform, client_of(platform, tmp_path) as client:
        platform.answers[COUNTERS] = Say(200, answer("differs", resend))

        window = client.tell(Totals(START, END, requests=5, input_tokens=50, output_tokens=25))

    made = [numbered(n) for n in (*range(1, 6), 60)]
    assert [usage.sequence for usage in made if window.wants(usage)] == wanted


def test_nothing_is_told_while_usage_waits(tmp_path: Path) -> None:
    with StandIn() as platform:
        platform.away = True
        client = Client(platform.url, "k", spool=tmp_path, ask_seconds=0.2, close_seconds=0.1)
        client.record(numbered(1))
        with pytest.raises(Unavailable, match="waits"):
            client.tell(Totals.of([numbered(1)], start=START, end=END))
        client.close()


def test_an_answer_that_is_not_the_platforms_is_refused(tmp_path: Path) -> None:
    with StandIn() as platform, client_of(platform, tmp_path) as client:
        platform.answers[COUNTERS] = Say(200, {"hello": "world"})
        with pytest.raises(Refused):
            client.tell(Totals(START, END, requests=0, input_tokens=0, output_tokens=0))


def test_what_is_asked_for_is_sent_again_from_what_was_kept(tmp_path: Path) -> None:
    resend = {"whole_window": False, "ranges": [{"source": "", "first": 2, "last": 3}]}
    made = [numbered(n) for n in range(1, 5)]
    with StandIn() as platform:
        platform.answers[COUNTERS] = Say(200, answer("differs", resend))
        with client_of(platform, tmp_path, history_bytes=100_000) as client:
            for usage in made:
                client.record(usage)
            client.flush()
        before = list(platform.charged)
        # The process after it knows what that one sent.
        with client_of(platform, tmp_path, history_bytes=100_000) as client:
            window = client.tell(Totals.of(made, start=START, end=END))

            assert (client.resend(window), client.flush()) == (2, True)
            assert (client.resend(window), client.flush()) == (2, True)

    again = [body for body in platform.asked if body.path == "/api/v1/usage-records"]
    assert len(before) == 4
    ids = [record["id"] for post in again for record in json.loads(post.body)]
    assert sorted(ids) == ["r-1", *["r-2"] * 3, *["r-3"] * 3, "r-4"]


def test_without_a_history_nothing_is_sent_again(tmp_path: Path) -> None:
    resend = {"whole_window": True, "ranges": []}
    with StandIn() as platform, client_of(platform, tmp_path) as client:
        platform.answers[COUNTERS] = Say(200, answer("differs", resend))
        client.record(numbered(1))
        window = client.tell(Totals.of([numbered(1)], start=START, end=END))

        assert client.resend(window) == 0
