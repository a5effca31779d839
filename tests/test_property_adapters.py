"""Whatever a sender counts: its tokens are in the native records, class by class, and once.

Each sender below tells the same call (five exclusive classes) in its own way.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.adapters import (
    apisix,
    autumn,
    higress,
    kong,
    lago,
    litellm,
    openmeter,
    otlp,
    polar,
    portkey,
    stripe,
)
from metering.adapters.items import Arrival
from metering.adapters.reading import Format, read, read_array
from tests import adapter_fixtures as sent
from tests.adapter_fixtures import SECRET
from tests.factories import NOW

Classes = tuple[int, int, int, int, int]
Wire = Callable[[int], Any]


class Call(NamedTuple):
    uncached: int
    cached: int
    written: int
    output: int
    reasoning: int

    @property
    def given(self) -> int:
        return self.uncached + self.cached + self.written

    @property
    def made(self) -> int:
        return self.output + self.reasoning

    @property
    def total(self) -> int:
        return self.given + self.made


def openai(call: Call, wire: Wire) -> dict[str, Any]:
    return {
        "prompt_tokens": wire(call.given),
        "completion_tokens": wire(call.made),
        "total_tokens": wire(call.total),
        "prompt_tokens_details": {
            "cached_tokens": wire(call.cached),
            "cache_creation_tokens": wire(call.written),
        },
        "completion_tokens_details": {"reasoning_tokens": wire(call.reasoning)},
    }


def anthropic(call: Call, wire: Wire) -> dict[str, Any]:
    return {
        "input_tokens": wire(call.uncached),
        "output_tokens": wire(call.output),
        "cache_read_input_tokens": wire(call.cached),
        "cache_creation_input_tokens": wire(call.written),
    }


def responses(call: Call, wire: Wire) -> dict[str, Any]:
    return {
        "input_tokens": wire(call.given),
        "output_tokens": wire(call.made),
        "total_tokens": wire(call.total),
        "input_tokens_details": {
            "cached_tokens": wire(call.cached),
            "cache_write_tokens": wire(call.written),
        },
        "output_tokens_details": {"reasoning_tokens": wire(call.reasoning)},
    }


def beside(call: Call, wire: Wire) -> dict[str, Any]:
    """Anthropic on OpenAI's wire, as Portkey answers."""
    return {
        "prompt_tokens": wire(call.uncached),
        "completion_tokens": wire(call.output),
        "total_tokens": wire(call.total),
        "prompt_tokens_details": {"cached_tokens": wire(call.cached)},
        "cache_read_input_tokens": wire(call.cached),
        "cache_creation_input_tokens": wire(call.written),
    }


def openmeter_whole(call: Call, wire: Wire) -> list[Any]:
    return [sent.openmeter(data={"model": "gpt-4o", "messages": SECRET, **openai(call, wire)})]


def openmeter_halves(call: Call, wire: Wire) -> list[Any]:
    return [
        sent.openmeter(type, data={"model": "m", "type": type, "tokens": wire(tokens)})
        for type, tokens in (("input", call.uncached), ("output", call.output))
    ]


def lago_whole(call: Call, wire: Wire) -> list[Any]:
    properties = {
        "model": "gpt-4o",
        "prompt_tokens": wire(call.given),
        "completion_tokens": wire(call.made),
        "cached_input_tokens": wire(call.cached),
        "cache_write_tokens": wire(call.written),
        "reasoning_tokens": wire(call.reasoning),
        "prompt": SECRET,
    }
    return [sent.lago(properties=properties)]


def lago_parts(provider: str) -> Callable[[Call, Wire], list[Any]]:
    """As the agent SDK tells it: a class of zero is not sent, details come besides."""

    def parts(call: Call, wire: Wire) -> list[Any]:
        inside = provider == "openai"
        values = {
            "llm_input_tokens": call.given if inside else call.uncached,
            "llm_output_tokens": call.made if inside else call.output,
            "llm_cached_input_tokens": call.cached,
            "llm_cache_creation_tokens": call.written,
            "llm_cache_write_5m_tokens": 0 if inside else call.written,
            "llm_reasoning_tokens": call.reasoning,
            "llm_tool_calls": 3,
            "llm_audio_input_tokens": min(call.uncached, 5),
        }
        return [sent.lago_part(code, n, provider, prompt=SECRET) for code, n in values.items() if n]

    return parts


def litellm_using(usage: Callable[[Call, Wire], Any]) -> Callable[[Call, Wire], list[Any]]:
    return lambda call, wire: [
        sent.litellm(
            prompt_tokens=wire(call.given),
            completion_tokens=wire(call.made),
            metadata={"usage_object": usage(call, wire)},
        )
    ]


def stripe_events(call: Call, wire: Wire) -> list[Any]:
    return [
        sent.stripe(side, value=wire(tokens), token_type=side, prompt=SECRET)
        for side, tokens in (("input", call.uncached), ("output", call.output))
    ]


def polar_event(call: Call, wire: Wire) -> list[Any]:
    return [
        sent.polar(
            input_tokens=wire(call.uncached + call.cached),
            cached_input_tokens=wire(call.cached),
            output_tokens=wire(call.output),
            total_tokens=None,
        )
    ]


def autumn_event(call: Call, wire: Wire) -> list[Any]:
    return [
        sent.autumn(
            input_tokens=wire(call.uncached),
            output_tokens=wire(call.output),
            cache_read_tokens=wire(call.cached),
            cache_write_tokens=wire(call.written),
            reasoning_tokens=wire(call.reasoning),
            properties={"prompt": SECRET},
        )
    ]


def otlp_span(call: Call, wire: Wire) -> list[Any]:
    body = sent.traces(
        sent.span(
            gen_ai__usage__input_tokens=wire(call.given),
            gen_ai__usage__output_tokens=wire(call.made),
            gen_ai__usage__cache_read__input_tokens=wire(call.cached),
            gen_ai__usage__cache_creation__input_tokens=wire(call.written),
            gen_ai__usage__reasoning__output_tokens=wire(call.reasoning),
        )
    )
    return [json.loads(item) for item in otlp.calls_of(json.dumps(body).encode(), logs=False)]


def apisix_entry(call: Call, wire: Wire) -> list[Any]:
    return [
        sent.apisix(
            prompt_tokens=wire(call.given),
            completion_tokens=wire(call.made),
            total_tokens=wire(call.total),
            cache_read_input_tokens=wire(call.cached),
            cache_creation_input_tokens=wire(call.written),
            reasoning_tokens=wire(call.reasoning),
        )
    ]


def higress_entry(call: Call, wire: Wire) -> list[Any]:
    return [
        sent.higress(
            input_token=wire(call.uncached + call.cached),
            output_token=wire(call.made),
            cached_tokens=wire(call.cached),
            reasoning_tokens=wire(call.reasoning),
        )
    ]


ALL, NO_REASONING, TWO = (1, 1, 1, 1, 1), (1, 1, 1, 1, 0), (1, 0, 0, 1, 0)
# (format, how a call is told, which of the five classes the sender can tell)
SENDERS: dict[str, tuple[Format, Callable[[Call, Wire], list[Any]], Classes]] = {
    "openmeter": (openmeter.FORMAT, openmeter_whole, ALL),
    "openmeter in halves": (openmeter.FORMAT, openmeter_halves, TWO),
    "lago": (lago.FORMAT, lago_whole, ALL),
    "lago's parts of openai": (lago.FORMAT, lago_parts("openai"), ALL),
    "lago's parts of anthropic": (lago.FORMAT, lago_parts("anthropic"), ALL),
    "litellm of openai": (litellm.FORMAT, litellm_using(openai), ALL),
    "litellm of openai's responses": (litellm.FORMAT, litellm_using(responses), ALL),
    "litellm of anthropic": (litellm.FORMAT, litellm_using(anthropic), NO_REASONING),
    "litellm of details beside": (litellm.FORMAT, litellm_using(beside), NO_REASONING),
    "stripe": (stripe.FORMAT, stripe_events, TWO),
    "polar": (polar.FORMAT, polar_event, (1, 1, 0, 1, 0)),
    "autumn": (autumn.FORMAT, autumn_event, ALL),
    "otlp": (otlp.FORMAT, otlp_span, ALL),
    "portkey": (portkey.FORMAT, lambda c, w: [sent.portkey(**openai(c, w))], ALL),
    "portkey of anthropic": (
        portkey.FORMAT,
        lambda c, w: [sent.portkey(**beside(c, w))],
        NO_REASONING,
    ),
    "kong": (
        kong.FORMAT,
        lambda c, w: [
            sent.kong(ai={"proxy": {"usage": openai(c, w), "meta": {"request_model": "gpt-4o"}}})
        ],
        ALL,
    ),
    "apisix": (apisix.FORMAT, apisix_entry, ALL),
    "higress": (higress.FORMAT, higress_entry, (1, 1, 0, 1, 1)),
}
counts = st.one_of(st.just(0), st.integers(0, 300), st.integers(0, 10**8))
wires = st.sampled_from([int, str, float, lambda count: f"{count}.0"])


@pytest.mark.parametrize("name", SENDERS)
@settings(deadline=None)
@given(tokens=st.tuples(counts, counts, counts, counts, counts), wire=wires)
def test_tokens_in_are_tokens_in_the_native_records(name: str, tokens: Classes, wire: Wire) -> None:
    format, tell, told = SENDERS[name]
    call = Call(*(count * can for count, can in zip(tokens, told, strict=True)))
    raws = [json.dumps(event).encode() for event in tell(call, wire)]
    arrival = Arrival(lambda: NOW)

    parsed = read(format, raws, arrival)

    # What counts nothing at all is no usage; all the rest is charged.
    assert {rejected.cause for rejected in parsed.rejected} <= {"no_usage"}
    columns = zip(*(usage.classes() for usage in parsed.usages), strict=True)
    assert [sum(column) for column in columns] == (list(call) if parsed.usages else [])
    assert call.total == sum(u.input_tokens + u.output_tokens for u in parsed.usages)
    assert len({usage.id for usage in parsed.usages}) == len(parsed.usages)
    together = read_array(format, b"[" + b",".join(raws) + b"]", arrival)
    assert [u.classes() for u in together.usages] == [u.classes() for u in parsed.usages]
    kept = [msgspec.json.encode(usage) for usage in parsed.usages]
    kept += [rejected.payload for rejected in parsed.rejected]
    assert not any(SECRET.encode() in text for text in kept)


Json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-1e30, 1e30) | st.just(SECRET),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("name", SENDERS)
@settings(deadline=None)
@given(data=st.data())
def test_nothing_that_a_sender_may_send_breaks_its_adapter(name: str, data: st.DataObject) -> None:
    """Some field, however deep, is replaced by anything, or something is added beside it."""
    format, tell, told = SENDERS[name]
    events = json.loads(json.dumps(tell(Call(*told), int)))
    inside: Any = data.draw(st.sampled_from(events))
    while True:
        keys = sorted(inside) if isinstance(inside, dict) else list(range(len(inside)))
        key = data.draw(st.sampled_from(keys))
        if isinstance(inside[key], dict | list) and inside[key] and data.draw(st.booleans()):
            inside = inside[key]
            continue
        inside[key] = data.draw(Json)
        if isinstance(inside, dict):
            inside["added"] = data.draw(Json)
        break

    parsed = read(format, [json.dumps(event).encode() for event in events], Arrival(lambda: NOW))

    assert len(parsed.usages) + len(parsed.rejected) == len(events)
    for usage in parsed.usages:
        assert min(usage.classes()) >= 0
        assert max(usage.input_tokens, usage.output_tokens) <= 10**9
