"""Each sender's events become the native record they have to be; nothing else of them is kept."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

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
from metering.adapters.items import Arrival, RandomlyNamed
from metering.adapters.reading import Format, read, read_array
from metering.parsing import Malformed, Parsed, Rejected, Usage
from tests import adapter_fixtures as sent
from tests.adapter_fixtures import SECRET, Case, Native, Refused
from tests.factories import NOW

TABLES: list[tuple[Format, list[Case]]] = [
    (openmeter.FORMAT, sent.OPENMETER),
    (lago.FORMAT, sent.LAGO),
    (litellm.FORMAT, sent.LITELLM),
    (stripe.FORMAT, sent.STRIPE),
    (polar.FORMAT, sent.POLAR),
    (autumn.FORMAT, sent.AUTUMN),
    (otlp.FORMAT, sent.OTLP),
    (portkey.FORMAT, sent.PORTKEY),
    (kong.FORMAT, sent.KONG),
    (apisix.FORMAT, sent.APISIX),
    (higress.FORMAT, sent.HIGRESS),
]
CASES = [
    pytest.param(format, case, id=f"{format.source}: {case.name}")
    for format, cases in TABLES
    for case in cases
]


def arrival(**said: Any) -> Arrival:
    return Arrival(lambda: NOW, new_id=lambda: "made-up", **said)


def raw(body: Any) -> bytes:
    return json.dumps(body).encode()


def events_of(format: Format, body: Any) -> list[bytes]:
    return otlp.calls_of(raw(body), logs=False) if format is otlp.FORMAT else [raw(body)]


def native(usage: Usage) -> Native:
    attributes = usage.attributes
    return Native(
        usage.id,
        usage.classes(),
        usage.source,
        usage.subject,
        usage.model,
        usage.occurred_at,
        usage.outcome,
        None if attributes is msgspec.UNSET else json.loads(bytes(attributes)),
    )


def one(parsed: Parsed) -> Usage | Rejected:
    items: list[Usage | Rejected] = [*parsed.usages, *parsed.rejected]
    assert len(items) == 1
    return items[0]


@pytest.mark.parametrize(("format", "case"), CASES)
def test_an_event_becomes_what_the_table_says(format: Format, case: Case) -> None:
    item = one(read(format, events_of(format, case.sent), arrival()))

    if isinstance(case.becomes, Refused):
        assert isinstance(item, Rejected), item
        assert item.cause == case.becomes.cause
        assert item.source == format.source
        assert item.detail
    else:
        assert isinstance(item, Usage), item
        assert native(item) == case.becomes


@pytest.mark.parametrize(("format", "case"), CASES)
def test_of_an_event_nothing_is_kept_but_what_its_adapter_names(format: Format, case: Case) -> None:
    item = one(read(format, events_of(format, case.sent), arrival()))

    kept = item.payload if isinstance(item, Rejected) else msgspec.json.encode(item)
    assert SECRET.encode() not in kept
    assert json.loads(kept) is not None


@pytest.mark.parametrize(("format", "cases"), TABLES, ids=lambda one: getattr(one, "source", ""))
def test_an_array_is_read_like_its_events_one_by_one(format: Format, cases: list[Case]) -> None:
    raws = [event for case in cases for event in events_of(format, case.sent)]
    good = [r for r in raws if isinstance(one(read(format, [r], arrival())), Usage)]

    for some in (raws, good):
        together = read_array(format, b"[" + b",".join(some) + b"]", arrival())
        alone = read(format, some, arrival())
        assert [native(u) for u in together.usages] == [native(u) for u in alone.usages]
        assert list(together.indexes) == list(alone.indexes)
        assert together.rejected == alone.rejected
        assert len(together.usages) + len(together.rejected) == len(some)


def test_a_rejected_event_is_listed_under_its_names() -> None:
    event = sent.openmeter("c-9", data={"model": "m", "prompt_tokens": "many", "note": SECRET})

    item = one(read(openmeter.FORMAT, [raw(event)], arrival()))

    assert isinstance(item, Rejected)
    assert (item.id, item.subject) == ("c-9", "user-s-1")
    assert json.loads(item.payload)["data"] == {"model": "m", "prompt_tokens": "many"}


@pytest.mark.parametrize("broken", [None, 5, "text", [], [{}], True])
def test_what_is_no_event_at_all_is_rejected_without_harm(broken: Any) -> None:
    for format, _ in TABLES:
        item = one(read(format, [raw(broken)], arrival()))
        assert isinstance(item, Rejected)
        assert item.cause == "invalid_record"


@pytest.mark.parametrize("place", ["prompt_tokens", "cost", "tokens"])
def test_a_number_beyond_every_float_is_refused(place: str) -> None:
    data = raw(sent.openmeter(data={"model": "m", place: "HERE"})).replace(b'"HERE"', b"1e400")

    with pytest.raises(Malformed):
        read_array(openmeter.FORMAT, b"[" + data + b"]", arrival())


# The subject of the key ---------------------------------------------------------------------------


@pytest.mark.parametrize(("format", "cases"), TABLES, ids=lambda one: getattr(one, "source", ""))
def test_with_a_keys_subject_an_event_need_name_nobody(format: Format, cases: list[Case]) -> None:
    for case in cases:
        if case.becomes == Refused("unknown_subject") or case is cases[0]:
            raws = events_of(format, case.sent)
            item = one(read(format, raws, arrival(subject="bound")))
            assert isinstance(item, Usage)
            assert item.subject == "bound"


# Parts of a call ----------------------------------------------------------------------------------


def together(*events: dict[str, Any]) -> Sequence[Native]:
    parsed = read(lago.FORMAT, [raw(event) for event in events], arrival())
    assert not parsed.rejected
    return [native(usage) for usage in parsed.usages]


def classes(*events: dict[str, Any]) -> list[tuple[int, ...]]:
    return [record.classes for record in together(*events)]


def test_the_parts_of_an_openai_call_are_put_together() -> None:
    found = classes(
        sent.lago_part("llm_input_tokens", 100),
        sent.lago_part("llm_output_tokens", 50),
        sent.lago_part("llm_cached_input_tokens", 80),
        sent.lago_part("llm_reasoning_tokens", 30),
        sent.lago_part("llm_tool_calls", 2),
    )

    nothing = (0, 0, 0, 0, 0)
    assert found == [(20, 80, 0, 0, 0), (0, 0, 0, 20, 30), nothing, nothing, nothing]


def test_the_parts_of_an_anthropic_call_stand_beside_each_other() -> None:
    found = classes(
        sent.lago_part("llm_input_tokens", 10, "anthropic"),
        sent.lago_part("llm_output_tokens", 50, "anthropic"),
        sent.lago_part("llm_cached_input_tokens", 80, "anthropic"),
        sent.lago_part("llm_cache_creation_tokens", 30, "anthropic"),
        sent.lago_part("llm_cache_write_5m_tokens", 10, "anthropic"),
        sent.lago_part("llm_cache_write_1h_tokens", 20, "anthropic"),
    )

    assert [sum(column) for column in zip(*found, strict=True)] == [10, 80, 30, 50, 0]


def test_calls_of_one_second_are_not_mixed() -> None:
    """Two calls, the first without cached tokens: the second's are not taken for its own."""
    found = classes(
        sent.lago_part("llm_input_tokens", 100, id="1"),
        sent.lago_part("llm_output_tokens", 50, id="2"),
        sent.lago_part("llm_input_tokens", 100, id="3"),
        sent.lago_part("llm_output_tokens", 50, id="4"),
        sent.lago_part("llm_cached_input_tokens", 80, id="5"),
    )

    assert found == [
        (100, 0, 0, 0, 0),
        (0, 0, 0, 50, 0),
        (20, 80, 0, 0, 0),
        (0, 0, 0, 50, 0),
        (0, 0, 0, 0, 0),
    ]


def test_a_call_cut_by_the_end_of_a_batch_is_counted_once() -> None:
    """Its cached tokens are charged as uncached ones then: the input came without them."""
    first = classes(sent.lago_part("llm_input_tokens", 100))
    second = classes(
        sent.lago_part("llm_cached_input_tokens", 80),
        sent.lago_part("llm_input_tokens", 50, id="next"),
    )

    assert first + second == [(100, 0, 0, 0, 0), (0, 0, 0, 0, 0), (50, 0, 0, 0, 0)]


def test_parts_of_several_subscribers_are_not_mixed() -> None:
    other = {**sent.lago_part("llm_cached_input_tokens", 80), "external_subscription_id": "else"}

    assert classes(sent.lago_part("llm_input_tokens", 100), other)[0] == (100, 0, 0, 0, 0)


# Made-up ids --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format", "event", "random"),
    [
        (lago.FORMAT, sent.lago(), True),
        (lago.FORMAT, sent.lago(timestamp=sent.UNIX), False),
        (lago.FORMAT, sent.lago_part("llm_input_tokens", 5), False),
        (stripe.FORMAT, sent.stripe(None), True),
        (stripe.FORMAT, sent.stripe("e-1"), False),
        (polar.FORMAT, sent.polar(None), True),
        (polar.FORMAT, sent.polar("p-1"), False),
        (autumn.FORMAT, sent.autumn(None), True),
        (autumn.FORMAT, sent.autumn("a-1"), False),
        (openmeter.FORMAT, sent.openmeter(), False),
        (litellm.FORMAT, sent.litellm(), False),
    ],
)
def test_an_adapter_knows_when_an_id_was_made_up(
    format: Format, event: dict[str, Any], random: bool
) -> None:
    item = one(read(format, [raw(event)], arrival()))

    assert isinstance(item, RandomlyNamed) is random


def test_an_idempotency_key_is_the_id_of_an_event_without_one() -> None:
    for format, event in ((stripe.FORMAT, sent.stripe(None)), (autumn.FORMAT, sent.autumn(None))):
        item = one(read(format, [raw(event)], arrival(key="again-and-again")))
        assert isinstance(item, Usage)
        assert item.id == "again-and-again"


# Spans, forms, entries ----------------------------------------------------------------------------


def test_of_a_trace_only_the_calls_of_models_count() -> None:
    body = sent.traces(
        sent.span("a"),
        sent.span("agent", gen_ai__operation__name="invoke_agent"),
        sent.span("tool", gen_ai__operation__name="execute_tool"),
        {"traceId": "t", "spanId": "s", "name": "GET /", "attributes": sent.attributes(x="y")},
        sent.span("b"),
    )

    parsed = read(otlp.FORMAT, otlp.calls_of(raw(body), logs=False), arrival())

    assert [usage.id for usage in parsed.usages] == ["a", "b"]
    assert not parsed.rejected


def test_a_log_record_becomes_what_a_span_becomes() -> None:
    calls = otlp.calls_of(raw(sent.logs(sent.log())), logs=True)

    item = one(read(otlp.FORMAT, calls, arrival()))

    assert isinstance(item, Usage)
    assert native(item) == sent.OTLP[0].becomes


def test_traces_among_logs_are_refused() -> None:
    for body, is_logs in ((sent.traces(sent.span()), True), (sent.logs(sent.log()), False)):
        with pytest.raises(Malformed):
            otlp.calls_of(raw(body), logs=is_logs)


@pytest.mark.parametrize(
    ("form", "event"),
    [
        (b"event_name=a&payload[value]=5&payload%5Bmodel%5D=x%2Fy",
         {"event_name": "a", "payload": {"value": "5", "model": "x/y"}}),
        (b"event_name=%E5%90%8D", {"event_name": "名"}),
        (b"event_name=", {"event_name": ""}),
    ],
)  # fmt: skip
def test_a_form_is_read(form: bytes, event: dict[str, Any]) -> None:
    assert json.loads(stripe.of_form(form)) == event


@pytest.mark.parametrize(
    "form",
    [
        b"",
        b"novalue",
        b"a=%ff",
        b"a=\xff",
        b"a=1&a=2",
        b"payload[value]=1&payload[value]=2",
        b"payload=1&payload[value]=2",
        b"payload[value]=2&payload=1",
        b"payload[a][b]=1",
        b"payload[=1",
        b"&".join(b"a%d=1" % n for n in range(1000)),
    ],
)
def test_what_is_no_form_or_says_a_thing_twice_is_refused(form: bytes) -> None:
    with pytest.raises(Malformed):
        stripe.of_form(form)


def test_an_apisix_entry_without_an_id_is_known_by_what_it_says() -> None:
    entry = {**sent.apisix(), "request": {}}
    again, later = dict(entry), {**entry, "latency": 512.4}

    ids = [one(read(apisix.FORMAT, [raw(e)], arrival())).id for e in (entry, again, later)]

    assert ids[0] == ids[1] != ids[2]
    assert ids[0].startswith("sha256:")


def test_a_time_of_before_the_calendar_is_no_crash() -> None:
    for instant in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"):
        item = one(read(openmeter.FORMAT, [raw(sent.openmeter(time=instant))], arrival()))
        assert isinstance(item, Rejected)
        assert item.cause == "out_of_window"


def test_the_time_of_arrival_is_asked_for_only_where_it_is_needed() -> None:
    def nobody_asks() -> dt.datetime:
        raise AssertionError

    parsed = read(openmeter.FORMAT, [raw(sent.openmeter())], Arrival(nobody_asks))

    assert parsed.usages
