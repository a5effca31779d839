"""Traces: what is read from a file, and the shape of what is generated."""

from __future__ import annotations

import datetime as dt
import gzip
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from metering import traces
from metering.traces import CHAT, LONG_CONTEXT, ControlTotals, Model, Tally, TraceError, Workload

END = dt.datetime(2026, 6, 10, 4, tzinfo=dt.UTC)
HEADER = "event_id,subject,model,timestamp,input_tokens,output_tokens,cached_input_tokens\n"
ROW = "e-1,user-1,qwen-plus,2026-06-10T03:00:00.000001Z,374,44,10\n"
NATIVE = {
    "id": "e-1",
    "subject": "user-1",
    "model": "qwen-plus",
    "occurred_at": "2026-06-10T03:00:00.000001Z",
    "input_tokens": 374,
    "output_tokens": 44,
    "cached_input_tokens": 10,
}


def workload(**given) -> Workload:
    return Workload(
        **{
            "records": 20_000,
            "subjects": [f"user-{nr}" for nr in range(500)],
            "models": [Model("chat", 0.5, CHAT), Model("long", 0.5, LONG_CONTEXT)],
            "since": END - dt.timedelta(hours=6),
            "until": END,
            **given,
        }
    )


def generated(work: Workload, size: int = 1000) -> tuple[list[traces.Record], ControlTotals]:
    control = ControlTotals()
    batches = list(traces.generate(work, size, control))
    return [record for batch in batches for record in msgspec.json.decode(batch.body)], control


# Reading -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_a_csv_trace_becomes_native_records(tmp_path: Path, name: str):
    path = tmp_path / name
    text = (HEADER + ROW).encode()
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)

    assert list(traces.read(path)) == [NATIVE]


@pytest.mark.parametrize("name", ["t.ndjson", "t.jsonl", "t.ndjson.gz"])
def test_ndjson_may_use_the_names_of_traces_or_the_native_ones(tmp_path: Path, name: str):
    as_in_traces = {**NATIVE, "event_id": NATIVE["id"], "timestamp": NATIVE["occurred_at"]}
    del as_in_traces["id"], as_in_traces["occurred_at"]
    more = {**NATIVE, "reasoning_tokens": 4, "attributes": {"region": "east"}}
    path = tmp_path / name
    text = f"{json.dumps(as_in_traces)}\n\n{json.dumps(more)}\n".encode()
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)

    assert list(traces.read(path)) == [NATIVE, more]


def test_what_cannot_be_a_count_is_left_for_the_platform_to_judge(tmp_path: Path):
    path = tmp_path / "t.csv"
    path.write_text(HEADER + "e-1,user-1,qwen-plus,2026-06-10T03:00:00Z,-5,many,\n")

    [record] = traces.read(path)

    assert record["input_tokens"] == "-5"
    assert record["output_tokens"] == "many"
    assert "cached_input_tokens" not in record


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("t.txt", "", "ends in .csv"),
        ("t.csv", "", "no column for id"),
        ("t.csv", "event_id,subject\n", "no column for model"),
        ("t.csv", HEADER + "e-1,user-1\n", "line 2"),
        ("t.ndjson", "{}\n[]\n", "line 2"),
        ("t.csv.gz", HEADER, "cannot be read"),
    ],
)
def test_a_file_that_is_no_trace_is_refused_by_name(tmp_path: Path, name, text, says):
    path = tmp_path / name
    path.write_text(text)

    with pytest.raises(TraceError, match=says):
        list(traces.read(path))


def test_a_trace_that_ends_too_early_is_an_error(tmp_path: Path):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress((HEADER + ROW * 1000).encode())[:-20])

    with pytest.raises(TraceError, match="cannot be read"):
        list(traces.read(path))


def test_batches_carry_every_record_once_and_are_counted_on_the_way():
    records = [{**NATIVE, "id": f"e-{nr}", "subject": f"user-{nr % 2}"} for nr in range(5)]
    control = ControlTotals()

    batches = list(traces.in_batches(iter(records), 2, control))

    assert [batch.records for batch in batches] == [2, 2, 1]
    assert [r for batch in batches for r in msgspec.json.decode(batch.body)] == records
    assert control.subjects == {
        "user-0": Tally(3, 3 * 374, 3 * 44, 3 * 10),
        "user-1": Tally(2, 2 * 374, 2 * 44, 2 * 10),
    }
    assert control.overall == Tally(5, 5 * 374, 5 * 44, 5 * 10)


# Generating --------------------------------------------------------------------------------------


def test_the_same_seed_makes_the_same_records_in_batches_of_any_size():
    first, _ = generated(workload(records=2500))
    again, _ = generated(workload(records=2500), size=333)
    other, _ = generated(workload(records=2500, seed=1))

    assert first == again
    assert first != other


def test_generated_records_add_up_to_their_control_totals():
    records, control = generated(workload())

    counted = ControlTotals()
    counted.count(records)
    silent = {name for name, tally in control.subjects.items() if not tally.records}
    assert counted.subjects == {n: t for n, t in control.subjects.items() if n not in silent}
    assert control.overall.records == 20_000


def test_generated_records_are_plausible():
    records, _ = generated(workload())

    assert len({record["id"] for record in records}) == len(records)
    times = [dt.datetime.fromisoformat(record["occurred_at"]) for record in records]
    assert times == sorted(times)
    assert END - dt.timedelta(hours=6) <= times[0]
    assert times[-1] < END
    assert all(0 <= r["cached_input_tokens"] <= r["input_tokens"] for r in records)
    assert all(r["cached_input_tokens"] % traces.CACHE_BLOCK == 0 for r in records)
    assert any(r["cached_input_tokens"] for r in records)


@pytest.mark.parametrize("profile", [CHAT, LONG_CONTEXT])
@pytest.mark.parametrize("tokens", ["input_tokens", "output_tokens"])
def test_generated_tokens_have_the_percentiles_of_the_real_trace(profile, tokens: str):
    records, _ = generated(workload(models=[Model("m", 1, profile)]))
    counts = sorted(record[tokens] for record in records)

    for share, value in zip(traces.SHARES, getattr(profile, tokens), strict=True):
        if 0.01 <= share <= 0.99:
            # Within one hundredth of the records: where the trace's CDF is steep, its value may
            # be far from ours at the same share, but not in the share that it stands for.
            low = counts[max(0, round((share - 0.01) * len(counts)) - 1)]
            high = counts[min(len(counts) - 1, round((share + 0.01) * len(counts)))]
            assert low <= value <= high


def test_a_few_clients_make_most_requests_and_the_rest_have_the_skew_of_the_trace():
    weights = traces.subject_weights(1000, busy=10, busy_share=0.63)
    busy, rest = weights[:10], sorted(weights[10:])

    assert sum(weights) == pytest.approx(1)
    assert sum(busy) == pytest.approx(0.63)
    assert busy == sorted(busy, reverse=True)
    # Of Mooncake's conversations 69 % had one request, one in a hundred 8 or more.
    assert rest[int(0.65 * 990)] == pytest.approx(rest[0])
    assert 7 < rest[int(0.992 * 990)] / rest[0] < 10


@pytest.mark.parametrize(("subjects", "busy"), [(1, 10), (10, 10), (3, 0)])
def test_every_number_of_subjects_shares_all_requests(subjects: int, busy: int):
    weights = traces.subject_weights(subjects, busy=busy, busy_share=0.63)

    assert len(weights) == subjects
    assert sum(weights) == pytest.approx(1)


def test_models_have_their_shares():
    mix = [Model("a", 3, CHAT), Model("b", 1, CHAT)]
    records, _ = generated(workload(models=mix))

    share = Counter(record["model"] for record in records)["a"] / len(records)
    assert share == pytest.approx(0.75, abs=0.02)


def test_names_may_hold_any_character():
    names: Sequence[str] = ['user "7"', "用户-1", "back\\slash"]
    records, control = generated(workload(records=50, subjects=names))

    assert {record["subject"] for record in records} <= set(names)
    assert control.overall.records == 50


# The published traces ----------------------------------------------------------------------------

SHARED = Path(__file__).resolve().parents[2] / "shared" / "traces"


@pytest.mark.parametrize(
    ("name", "profile"), [("azure2023_conv", CHAT), ("mooncake_conversation", LONG_CONTEXT)]
)
def test_the_percentiles_are_those_of_the_published_trace(name: str, profile: traces.Profile):
    path = SHARED / f"{name}.csv.gz"
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    records = list(traces.read(path))

    for tokens in ("input_tokens", "output_tokens"):
        counts = sorted(record[tokens] for record in records)
        nearest = [
            counts[max(0, -(-int(share * 1000) * len(counts) // 1000) - 1)]
            for share in traces.SHARES
        ]
        assert nearest == list(getattr(profile, tokens))
