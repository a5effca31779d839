"""The load: batches of usage in the shape of real traffic, and the same rows as binary COPY.

Both are made before any clock starts, with a placeholder for the first part of each id. A round
puts its own mark there: the same rows again under ids never seen, for the price of a memcpy.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import mean

import msgspec

from bench.population import Population
from metering import records, traces
from metering.context import Standing
from metering.parsing import Usage
from metering.weighing import Weight
from subscriptions.demands import Period

BATCH = 1000
PLACEHOLDER = b"@@@@@@@@"
# Usage occurred in so many seconds before it is sent.
SPAN_SECONDS = 60

# Conversations whose requests come mixed with each other. With the Mooncake trace's requests per
# conversation, so many requests at a time make about 800 subjects in 1,000 consecutive records; in
# the trace itself they are 776 to 835.
MIXED = 3200

MODELS = (
    ("deepseek/deepseek-chat", traces.CHAT),
    ("dashscope/qwen-plus", traces.CHAT),
    ("zai/glm-4.6", traces.CHAT),
    ("deepseek/deepseek-v4-flash", traces.LONG_CONTEXT),
    ("minimax/MiniMax-M2.5", traces.LONG_CONTEXT),
    ("moonshot/kimi-k2.6", traces.LONG_CONTEXT),
)
_GRID = 1000


@dataclass(frozen=True, slots=True)
class Material:
    """Bodies of batches, and each one's rows as a binary COPY in key order."""

    bodies: list[bytes]
    copies: list[bytes]
    batch: int
    subjects_per_batch: float

    def marked_bodies(self, mark: bytes, count: int | None = None) -> list[bytes]:
        return [body.replace(PLACEHOLDER, mark) for body in self.bodies[:count]]

    def marked_copies(self, mark: bytes, count: int | None = None) -> list[bytes]:
        return [copy.replace(PLACEHOLDER, mark) for copy in self.copies[:count]]


class Marks:
    """Marks of eight characters, each handed out once in a run."""

    def __init__(self) -> None:
        self._next = 0

    def new(self) -> bytes:
        self._next += 1
        return b"%08x" % self._next


def skewed(population: Population, rng: random.Random) -> Iterator[int]:
    """Whose record comes next, without end: the Mooncake trace's subscribers, hour after hour.

    As many as there, anybody among the population, each with as many requests an hour as there;
    they come one subscriber's with another's, as far apart as there. Who is busy stays busy.
    """
    busy = rng.sample(range(population.size), min(traces.MOONCAKE_SUBJECTS, population.size))
    weights = traces.subject_weights(len(busy), busy=0, busy_share=0.0)
    requests = [round(weight / weights[0]) for weight in weights]
    hour = list(zip(busy, requests, strict=True))
    while True:
        rng.shuffle(hour)
        part: list[int] = []
        for owner, times in hour:
            part += [owner] * times
            if len(part) >= MIXED:
                rng.shuffle(part)
                yield from part
                part = []
        rng.shuffle(part)
        yield from part


def spread(population: Population, rng: random.Random) -> Iterator[int]:
    """Whose record comes next, without end: everybody once, then again in another order."""
    everybody = list(range(population.size))
    while True:
        rng.shuffle(everybody)
        yield from everybody


@lru_cache
def _values(values: tuple[int, ...]) -> list[int]:
    """A distribution of traces.py as equally likely values."""
    return [
        round(traces.quantile(traces.SHARES, values, (nr + 0.5) / _GRID)) for nr in range(_GRID)
    ]


def make(
    population: Population,
    owners: Iterator[int],
    batches: int,
    *,
    size: int = BATCH,
    with_copies: bool = True,
    seed: int = 1,
) -> Material:
    """Batches of `size` records of whom `owners` says; ids begin with PLACEHOLDER."""
    rng = random.Random(seed)
    began = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=SPAN_SECONDS)
    step = dt.timedelta(seconds=SPAN_SECONDS) / (batches * size)
    moment = began
    bodies, copies, distinct = [], [], []
    nr = 0
    for batch_nr in range(batches):
        texts: list[str] = []
        whose: set[int] = set()
        lines: list[records.Line] = []
        for place in range(size):
            owner = next(owners)
            usage = _usage(rng, nr, owner, moment)
            nr += 1
            moment += step
            texts.append(_json(usage))
            whose.add(owner)
            if with_copies:
                lines.append(_line(population, owner, place, usage))
        bodies.append(f"[{','.join(texts)}]".encode())
        distinct.append(len(whose))
        if with_copies:
            lines.sort(key=lambda line: line[:4])
            copies.append(
                records.encode(lines, gateway_id=population.gateway_id, batch_id=batch_nr + 1)
            )
    return Material(bodies, copies, size, mean(distinct))


def _usage(rng: random.Random, nr: int, owner: int, moment: dt.datetime) -> Usage:
    draw = rng.random
    model, profile = MODELS[int(draw() * len(MODELS))]
    given = _values(profile.input_tokens)[int(draw() * _GRID)]
    cached = 0
    if draw() < traces.FOLLOW_UPS:
        cached = int(given * draw()) // traces.CACHE_BLOCK * traces.CACHE_BLOCK
    return Usage(
        id=f"req-{PLACEHOLDER.decode()}-{nr:09d}",
        subject=Population.subject(owner),
        model=model,
        occurred_at=moment,
        input_tokens=given,
        output_tokens=_values(profile.output_tokens)[int(draw() * _GRID)],
        cached_input_tokens=cached,
    )


def _json(usage: Usage) -> str:
    return (
        f'{{"id":"{usage.id}","subject":"{usage.subject}","model":"{usage.model}",'
        f'"occurred_at":"{usage.occurred_at:%Y-%m-%dT%H:%M:%S.%f}Z",'
        f'"input_tokens":{usage.input_tokens},"cached_input_tokens":{usage.cached_input_tokens},'
        f'"output_tokens":{usage.output_tokens}}}'
    )


_NO_PERIOD = Period(dt.datetime(2000, 1, 1, tzinfo=dt.UTC), dt.datetime(2100, 1, 1, tzinfo=dt.UTC))


def _line(population: Population, owner: int, place: int, usage: Usage) -> records.Line:
    """The record as the charge would hand it to COPY."""
    subscriber_id, binding_id = population.bindings[owner]
    weight = population.weights[usage.model]
    standing = Standing(
        binding_id,
        subscriber_id,
        _NO_PERIOD.starts_at,
        _NO_PERIOD.ends_at,
        _NO_PERIOD,
        None,
        False,
    )
    units = _units(usage, weight)
    return (
        subscriber_id,
        "",
        usage.id,
        usage.occurred_at,
        units,
        place,
        usage,
        standing,
        weight.id,
        *usage.classes(),
    )


def _units(usage: Usage, weight: Weight) -> int:
    uncached, cached, written, output, reasoning = usage.classes()
    return (
        uncached * weight.uncached_input
        + cached * weight.cached_input
        + written * weight.cache_write
        + output * weight.output
        + reasoning * weight.reasoning
    )


def as_cloud_events(material: Material) -> Material:
    """The same batches as LiteLLM's `openmeter` callback tells them."""
    return replace(material, bodies=[_cloud_events(body) for body in material.bodies], copies=[])


def _cloud_events(body: bytes) -> bytes:
    return msgspec.json.encode(
        [
            {
                "specversion": "1.0",
                "type": "litellm_tokens",
                "id": usage.id,
                "time": usage.occurred_at,
                "subject": usage.subject,
                "source": "litellm-proxy",
                "data": {
                    "model": usage.model,
                    "cost": 0.001,
                    "prompt_tokens": usage.input_tokens,
                    "completion_tokens": usage.output_tokens,
                    "total_tokens": usage.input_tokens + usage.output_tokens,
                },
            }
            for usage in msgspec.json.decode(body, type=list[Usage])
        ]
    )


def singles(material: Material, mark: bytes, count: int) -> list[bytes]:
    """Bodies of one record each, from a material's batches of one."""
    assert material.batch == 1
    return [body[1:-1] for body in material.marked_bodies(mark, count)]


def models() -> Sequence[str]:
    return [name for name, _ in MODELS]
