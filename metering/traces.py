"""Traces of usage, to be posted again: read from files, or generated in the shape of real ones.

Both come as batches whose bodies are ready to post, with control totals counted here, so that what
the platform says it charged can be compared with what was really sent.
"""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import math
import random
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec

from token_billing_client import Batch

Record = dict[str, Any]  # a native usage record

# What a trace calls a field, where that is not the native name.
_NATIVE_NAMES = {"event_id": "id", "timestamp": "occurred_at"}
_REQUIRED = ("id", "subject", "model", "occurred_at", "input_tokens", "output_tokens")
_COUNTS = (
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
)


class TraceError(Exception):
    """A trace that cannot be read; the message says where and why."""


@dataclass(slots=True)
class Tally:
    """What some records add up to. Input includes cached input."""

    records: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0

    def add(self, other: Tally) -> None:
        self.records += other.records
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.cached_input_tokens += other.cached_input_tokens


@dataclass(slots=True)
class ControlTotals:
    """What a trace adds up to, per subject; grows while the trace is read or generated."""

    subjects: dict[str, Tally] = field(default_factory=dict)

    @property
    def overall(self) -> Tally:
        total = Tally()
        for tally in self.subjects.values():
            total.add(tally)
        return total

    def count(self, records: Iterable[Record]) -> None:
        for record in records:
            subject = record.get("subject")
            if not isinstance(subject, str):
                continue  # can only be rejected
            tally = self.subjects.get(subject)
            if tally is None:
                tally = self.subjects[subject] = Tally()
            tally.records += 1
            tally.input_tokens += _count_of(record, "input_tokens")
            tally.output_tokens += _count_of(record, "output_tokens")
            tally.cached_input_tokens += _count_of(record, "cached_input_tokens")


def _count_of(record: Record, name: str) -> int:
    value = record.get(name)
    return value if isinstance(value, int) else 0


# --- reading --------------------------------------------------------------------------------------


def read(path: Path) -> Iterator[Record]:
    """The records of a trace, one at a time, in the file's order.

    `.csv` with a header, `.ndjson` or `.jsonl`, each also with `.gz`; fields by their names in the
    trace or by the native ones. A value that is not what it should be is handed on as it stands:
    to judge it is the platform's task. Raises TraceError for what is not such a file at all.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = suffixes[-1:] == [".gz"]
    kind = suffixes[-2:-1] if packed else suffixes[-1:]
    if kind not in ([".csv"], [".ndjson"], [".jsonl"]):
        raise TraceError(f"{path}: a trace ends in .csv, .ndjson or .jsonl, or one of them and .gz")
    try:
        with _open(path, packed=packed) as file:
            yield from _from_csv(path, file) if kind == [".csv"] else _from_lines(path, file)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"{path} cannot be read: {error}") from error


def _open(path: Path, *, packed: bool) -> IO[str]:
    if packed:
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _from_csv(path: Path, file: IO[str]) -> Iterator[Record]:
    rows = csv.reader(file)
    header = [_NATIVE_NAMES.get(name.strip(), name.strip()) for name in next(rows, [])]
    if missing := [name for name in _REQUIRED if name not in header]:
        raise TraceError(f"{path} has no column for {', '.join(missing)}")
    counts = [header.index(name) for name in _COUNTS if name in header]
    for row in rows:
        if not row:
            continue
        if len(row) != len(header):
            raise TraceError(
                f"{path}, line {rows.line_num}: {len(row)} fields, the header has {len(header)}"
            )
        cells: list[Any] = [cell or None for cell in row]
        for nr in counts:
            cells[nr] = _number(row[nr])
        yield {name: cell for name, cell in zip(header, cells, strict=True) if cell is not None}


def _number(text: str) -> int | str | None:
    return int(text) if text.isascii() and text.isdigit() else text or None


def _from_lines(path: Path, file: IO[str]) -> Iterator[Record]:
    decode = msgspec.json.Decoder(Record).decode
    for nr, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            record = decode(line)
        except (msgspec.DecodeError, RecursionError) as error:
            raise TraceError(f"{path}, line {nr} is not a JSON object: {error}") from error
        for name, native in _NATIVE_NAMES.items():
            if name in record and native not in record:
                record[native] = record.pop(name)
        yield record


def in_batches(
    records: Iterable[Record], size: int, totals: ControlTotals | None = None
) -> Iterator[Batch]:
    """The records in batches of `size`, added to `totals` as they pass."""
    waiting: list[Record] = []
    for record in records:
        waiting.append(record)
        if len(waiting) == size:
            yield _batch(waiting, totals)
            waiting = []
    if waiting:
        yield _batch(waiting, totals)


def _batch(records: list[Record], totals: ControlTotals | None) -> Batch:
    if totals is not None:
        totals.count(records)
    return Batch(msgspec.json.encode(records), len(records))


# --- the shape of real traffic --------------------------------------------------------------------

# Facts, counted from two published traces (no row of them is copied here):
#   CHAT          Azure/AzurePublicDataset, AzureLLMInferenceTrace_conv.csv (2023), 19,366
#                 requests, CC-BY-4.0
#   LONG_CONTEXT  kvcache-ai/Mooncake, FAST25 conversation_trace.jsonl, 12,031 requests, Apache-2.0
# Each row holds the value at these shares of the requests, nearest rank.
SHARES = (0.0, 0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99, 0.999, 1.0)


class Profile(NamedTuple):
    """Tokens of a request at each of the shares above; input includes cached input."""

    input_tokens: tuple[int, ...]
    output_tokens: tuple[int, ...]


CHAT = Profile(
    input_tokens=(2, 29, 181, 207, 396, 1020, 1189, 2735, 4083, 4142, 6212, 14050),
    output_tokens=(7, 16, 41, 54, 85, 129, 395, 424, 451, 601, 954, 1000),
)
LONG_CONTEXT = Profile(
    input_tokens=(891, 894, 901, 964, 2306, 6909, 15368, 27367, 39552, 85401, 121301, 126195),
    output_tokens=(1, 3, 10, 24, 156, 350, 472, 597, 698, 1120, 2000, 2000),
)
# Mooncake: of so many conversations this share had at most so many requests in the hour.
MOONCAKE_SUBJECTS = 7373
_SUBJECT_SHARES = (0.0, 0.694, 0.871, 0.934, 0.961, 0.977, 0.985, 0.992, 0.999, 1.0)
_SUBJECT_REQUESTS = (1, 1, 2, 3, 4, 5, 6, 8, 17, 43)
# Mooncake: 38.7 % of the requests follow another of the same conversation. What came before, which
# a prefix cache would hold in blocks of 512 tokens, was this much of their input (thousandths).
FOLLOW_UPS = 0.387
CACHE_BLOCK = 512
_PREFIX_SHARES = (0.0, 0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 1.0)
_PREFIX_THOUSANDTHS = (32, 228, 471, 587, 807, 944, 984, 1000, 1000)

# So many values of a distribution are drawn from: only what one in 10,000 has is cut off.
_GRID = 10_000


def quantile(shares: Sequence[float], values: Sequence[float], share: float) -> float:
    """The value at `share` (0 to 1) of a distribution, log-linear between the ones known."""
    nr = min(bisect_right(shares, share), len(shares) - 1)
    below, above = shares[nr - 1], shares[nr]
    low, high = math.log(values[nr - 1]), math.log(values[nr])
    return math.exp(low + (high - low) * (share - below) / (above - below))


def _table(shares: Sequence[float], values: Sequence[float]) -> list[int]:
    """The whole distribution as equally likely values: the inverse of its CDF on a fine grid."""
    return [round(quantile(shares, values, (nr + 0.5) / _GRID)) for nr in range(_GRID)]


class Model(NamedTuple):
    """A model in the mix: its share is relative to the others'."""

    name: str
    share: float
    profile: Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What to generate: always the same records for the same values.

    Records come in the order of their times, spread over `since` to `until`; their ids are
    `prefix` and a number. The `busy` first subjects share `busy_share` of the requests, the first
    the most, as 1/n does; the others have requests as Mooncake's conversations do.
    """

    records: int
    subjects: Sequence[str]
    models: Sequence[Model]
    since: dt.datetime
    until: dt.datetime
    prefix: str = "gen"
    seed: int = 0
    # Ten busiest clients make 63 to 93 % of the requests of a real gateway.
    busy: int = 10
    busy_share: float = 0.63


def subject_weights(subjects: int, busy: int, busy_share: float) -> list[float]:
    """How the requests are shared among subjects; sums to 1."""
    busy = min(busy, subjects)
    others = subjects - busy
    if not others:
        busy_share = 1.0
    elif not busy:
        busy_share = 0.0
    busiest = _normalised([1 / (nr + 1) for nr in range(busy)], busy_share)
    rest = [
        quantile(_SUBJECT_SHARES, _SUBJECT_REQUESTS, (nr + 0.5) / others) for nr in range(others)
    ]
    return busiest + _normalised(rest, 1 - busy_share)


def _normalised(weights: list[float], to: float) -> list[float]:
    total = sum(weights)
    return [weight * to / total for weight in weights]


def generate(workload: Workload, size: int, totals: ControlTotals) -> Iterator[Batch]:
    """The workload's records in batches of `size`, added to `totals` as they pass.

    Two to three microseconds a record: bodies are written as text, and a token count is one look
    into a table.
    """
    rng = random.Random(workload.seed)  # noqa: S311 - a load, not a secret
    draw = rng.random
    names = [_quoted(subject) for subject in workload.subjects]
    whose = list(accumulate(subject_weights(len(names), workload.busy, workload.busy_share)))
    last_subject = len(names) - 1
    kinds = [
        (
            _quoted(model.name),
            _table(SHARES, model.profile.input_tokens),
            _table(SHARES, model.profile.output_tokens),
        )
        for model in workload.models
    ]
    which = list(accumulate(_normalised([model.share for model in workload.models], 1.0)))
    last_model = len(kinds) - 1
    prefixes = _table(_PREFIX_SHARES, _PREFIX_THOUSANDTHS)
    tallies = [Tally() for _ in names]
    totals.subjects.update(zip(workload.subjects, tallies, strict=True))
    first = round(workload.since.timestamp() * 1_000_000)
    step = (workload.until - workload.since) / dt.timedelta(microseconds=1) / workload.records

    second, stamp = -1, ""
    lines: list[str] = []
    for nr in range(workload.records):
        now, micro = divmod(first + int((nr + draw()) * step), 1_000_000)
        if now != second:
            second, stamp = now, dt.datetime.fromtimestamp(now, dt.UTC).isoformat()[:19]
        owner = min(bisect_right(whose, draw()), last_subject)
        name, inputs, outputs = kinds[min(bisect_right(which, draw()), last_model)]
        given = inputs[int(draw() * _GRID)]
        made = outputs[int(draw() * _GRID)]
        cached = 0
        if draw() < FOLLOW_UPS:
            held = given * prefixes[int(draw() * _GRID)] // 1000
            cached = held - held % CACHE_BLOCK
        tally = tallies[owner]
        tally.records += 1
        tally.input_tokens += given
        tally.output_tokens += made
        tally.cached_input_tokens += cached
        lines.append(
            f'{{"id":"{workload.prefix}-{nr:07d}","subject":{names[owner]},"model":{name},'
            f'"occurred_at":"{stamp}.{micro:06d}Z","input_tokens":{given},'
            f'"cached_input_tokens":{cached},"output_tokens":{made}}}'
        )
        if len(lines) == size:
            yield Batch(f"[{','.join(lines)}]".encode(), size)
            lines = []
    if lines:
        yield Batch(f"[{','.join(lines)}]".encode(), len(lines))


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()
