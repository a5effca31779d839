"""The doors for other senders' formats: what each sends is charged, and answered as it expects."""

from __future__ import annotations

import gzip
import json
import re
import uuid
from typing import Any
from urllib.parse import urlencode

import pytest
from rest_framework.test import APIClient

from metering.models import QuarantinedRecord, SuspectedRepeat, UsageRecord
from subscriptions import keys
from subscriptions.models import ApiKey, Operator, Subscriber
from tests import adapter_fixtures as sent
from tests.adapter_fixtures import SECRET, without
from tests.factories import (
    NOW,
    client_for,
    make_key,
    make_operator,
    make_subscriber,
)
from tests.usage import (
    MINUTE,
    Gateway,
    T,
    assert_books_agree,
    assert_problem,
    balance,
    get,
    lines,
    post,
    record,
    records_of,
    texts_holding,
    used,
)

pytestmark = pytest.mark.django_db

EVENTS, BATCH = "/api/v1/events", "/api/v1/events/batch"
STRIPE_V1, STRIPE_V2 = "/v1/billing/meter_events", "/v2/billing/meter_events"
POLAR, AUTUMN, TRACES, LOGS = "/v1/events/ingest", "/v1/track", "/v1/traces", "/v1/logs"
AUTUMN_TOKENS = "/v1/balances.track_tokens"
AUTUMN_BATCH = "/v1/balances.batch_track_tokens"
JSON = "application/json"
CLOUD_EVENT = "application/cloudevents+json"
CLOUD_EVENTS = "application/cloudevents-batch+json"
FORM = "application/x-www-form-urlencoded"
NDJSON = "application/x-ndjson"


class Sender:
    """A client of some other platform, with a gateway key of ours."""

    def __init__(self, key: str) -> None:
        self.client = client_for(key)

    def send(self, path: str, body: Any, content_type: str = JSON, **headers: str) -> Any:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.client.generic("POST", path, raw, content_type, headers=headers)  # type: ignore[arg-type]


@pytest.fixture
def sender(gateway: Gateway) -> Sender:
    return Sender(gateway.key)


def drawn(subscriber: Subscriber) -> float:
    return used(subscriber).get("allowance", 0)


def stored() -> list[tuple[str, str]]:
    return sorted(UsageRecord.objects.values_list("source", "record_id"))


# OpenMeter ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (CLOUD_EVENT, sent.openmeter()),
        (f"{CLOUD_EVENT}; charset=utf-8", sent.openmeter()),
        (CLOUD_EVENT, without(sent.openmeter(), "specversion")),
        (CLOUD_EVENTS, [sent.openmeter()]),
        (JSON, sent.openmeter()),
        (JSON, [sent.openmeter()]),
    ],
)
@pytest.mark.parametrize("path", [EVENTS, BATCH])
def test_an_openmeter_client_is_answered_204_and_nothing_else(
    sender: Sender, subscriber: Subscriber, path: str, content_type: str, body: Any
) -> None:
    answer = sender.send(path, body, content_type)

    assert (answer.status_code, answer.content) == (204, b"")
    assert "Content-Type" not in answer
    assert "Usage-Rejected" not in answer
    assert stored() == [("litellm-proxy", "chatcmpl-1")]
    assert drawn(subscriber) == 78


def test_an_openmeter_event_sent_again_is_charged_once_whatever_its_time_and_cost(
    sender: Sender, subscriber: Subscriber
) -> None:
    sender.send(EVENTS, sent.openmeter())
    replay = sent.openmeter(time=(NOW - MINUTE).isoformat())
    replay["data"] = {**replay["data"], "cost": 0.0}

    for body in (sent.openmeter(), replay, [sent.openmeter(), replay]):
        assert sender.send(EVENTS, body).status_code == 204

    assert drawn(subscriber) == 78
    assert not QuarantinedRecord.objects.exists()


def test_the_source_is_a_namespace_of_ids(
    sender: Sender, gateway: Gateway, subscriber: Subscriber
) -> None:
    gateway.charge(record("chatcmpl-1"))

    sender.send(EVENTS, [sent.openmeter(), sent.openmeter(source="kong")], CLOUD_EVENTS)

    assert stored() == [("", "chatcmpl-1"), ("kong", "chatcmpl-1"), ("litellm-proxy", "chatcmpl-1")]
    assert drawn(subscriber) == 120 + 78 + 78


def test_input_and_output_in_two_events_are_charged_together_once(
    operator: Operator, sender: Sender, subscriber: Subscriber
) -> None:
    def half(type: str, tokens: str) -> dict[str, Any]:
        data = {"tokens": tokens, "model": "gpt-4o", "type": type}
        return sent.openmeter(f"call-1-{type}", source="kong", data=data)

    halves = [half("input", "100"), half("output", "20")]
    for body in (halves, halves[:1], halves[1:]):
        assert sender.send(EVENTS, body, CLOUD_EVENTS).status_code == 204

    assert drawn(subscriber) == 120
    rows = UsageRecord.objects.values_list("uncached_input_tokens", "output_tokens")
    assert sorted(rows) == [(0, 20), (100, 0)]


def test_what_cannot_be_charged_is_quarantined_and_the_sender_hears_a_success(
    sender: Sender, api: APIClient, subscriber: Subscriber
) -> None:
    no_usage = sent.openmeter("no-usage", data={"model": "m", "cost": 0.1, "messages": SECRET})
    events = [
        sent.openmeter("a"),
        sent.openmeter("who", subject="nobody"),
        no_usage,
        sent.openmeter("bad", data={"model": "m", "prompt_tokens": "many"}),
        sent.openmeter("old", time="2026-01-01T00:00:00Z"),
        sent.openmeter("b"),
    ]

    answer = sender.send(EVENTS, events, CLOUD_EVENTS)

    assert answer.status_code == 204
    assert answer["Usage-Rejected"] == (
        "1=unknown_subject, 2=no_usage, 3=invalid_record, 4=out_of_window"
    )
    assert drawn(subscriber) == 2 * 78
    rows = get(api, "quarantine")["items"]
    assert {row["record_id"]: row["cause"] for row in rows} == {
        "who": "unknown_subject",
        "no-usage": "no_usage",
        "bad": "invalid_record",
        "old": "out_of_window",
    }
    assert texts_holding(SECRET) == []


def test_a_conflict_is_kept_for_review_and_the_first_charge_stands(
    sender: Sender, api: APIClient, subscriber: Subscriber
) -> None:
    sender.send(EVENTS, sent.openmeter())
    other = sent.openmeter(data={"model": "gpt-4o", "prompt_tokens": 5})

    for body in (other, [other], [sent.openmeter(), other]):
        answer = sender.send(EVENTS, body)
        assert answer.status_code == 204
        assert answer["Usage-Rejected"].endswith("=conflict")

    assert drawn(subscriber) == 78
    [row] = get(api, "quarantine")["items"]
    assert (row["cause"], row["record"]["input_tokens"]) == ("conflict", 5)


def test_a_quarantined_event_is_charged_once_its_subject_is_known(
    operator: Operator, sender: Sender, api: APIClient, subscriber: Subscriber
) -> None:
    failed = sent.failed("Timeout", end_user="user-s-2")
    sender.send(EVENTS, sent.openmeter(subject="user-s-2"))
    sender.send(EVENTS, failed)
    make_subscriber(operator, "s-2")

    outcomes = [
        post(api, f"quarantine/{row['id']}/retry").json() for row in get(api, "quarantine")["items"]
    ]

    assert [(o["status"], o["units"]) for o in outcomes] == [
        ("charged", "78.000"),
        ("charged", "0.000"),
    ]
    assert sender.send(EVENTS, sent.openmeter(subject="user-s-2")).status_code == 204
    assert stored() == [("litellm-proxy", "chatcmpl-1"), ("litellm/failure", "chatcmpl-1")]
    assert_books_agree()


def test_an_event_without_a_time_is_of_when_it_was_received_by_the_operators_clock(
    sender: Sender, api: APIClient, subscriber: Subscriber
) -> None:
    sender.send(EVENTS, without(sent.openmeter(), "time"))

    row = UsageRecord.objects.get()
    assert (row.occurred_at, row.attributes) == (NOW, {"time": "received"})


def test_the_keys_subject_wins_over_the_events(
    operator: Operator, api: APIClient, subscriber: Subscriber
) -> None:
    key = keys.issue(
        operator_code=operator.code, role="gateway", name="bound", at=NOW, subject="user-s-1"
    )
    bound = Sender(key)

    for body in (sent.openmeter("a", subject="somebody"), sent.openmeter("b", subject=None)):
        assert "Usage-Rejected" not in bound.send(EVENTS, body)
    bound.send(EVENTS, {"event": sent.lago(external_subscription_id="somebody")})
    bound.send(STRIPE_V2, sent.stripe(stripe_customer_id=None))

    assert drawn(subscriber) == 3 * 78 + 58
    assert not QuarantinedRecord.objects.exists()


def test_cost_and_fields_nobody_knows_are_let_by(sender: Sender, subscriber: Subscriber) -> None:
    event = sent.openmeter(extension="x", traceparent=None, dataschema=None)
    event["data"] = {**event["data"], "cost": None, "nested": {"a": [{"b": [1]}]}}

    assert sender.send(EVENTS, event).status_code == 204
    assert drawn(subscriber) == 78


# Lago ---------------------------------------------------------------------------------------------


def test_a_lago_client_is_answered_with_its_event(sender: Sender, subscriber: Subscriber) -> None:
    event = sent.lago(timestamp=sent.UNIX)
    event["properties"]["prompt"] = SECRET

    answer = sender.send(EVENTS, {"event": event})

    assert (answer.status_code, answer["Content-Type"]) == (200, JSON)
    shown = answer.json()["event"]
    assert uuid.UUID(shown.pop("lago_id"))
    assert shown == {
        "transaction_id": "t-1",
        "lago_customer_id": None,
        "external_customer_id": None,
        "code": "litellm",
        "timestamp": "2026-06-10T04:00:00.000Z",
        "properties": without(event["properties"], "prompt"),
        "lago_subscription_id": None,
        "external_subscription_id": "user-s-1",
        "created_at": "2026-06-10T04:00:00.000Z",
    }
    assert stored() == [("lago", "t-1")]
    assert drawn(subscriber) == 78


def test_a_batch_of_lago_events_is_answered_with_all_of_them(
    sender: Sender, subscriber: Subscriber
) -> None:
    events = [sent.lago(f"t-{n}", timestamp=sent.UNIX) for n in range(100)]

    answer = sender.send(BATCH, {"events": events})

    assert answer.status_code == 200
    assert [shown["transaction_id"] for shown in answer.json()["events"]] == [
        f"t-{n}" for n in range(100)
    ]
    assert drawn(subscriber) == 7800


def test_a_lago_event_sent_again_is_lagos_422(sender: Sender, subscriber: Subscriber) -> None:
    event = {"event": sent.lago(timestamp=sent.UNIX)}
    sender.send(EVENTS, event)

    answer = sender.send(EVENTS, event)

    assert (answer.status_code, answer["Content-Type"]) == (422, JSON)
    assert answer.json() == {
        "status": 422,
        "error": "Unprocessable Entity",
        "code": "validation_errors",
        "error_details": {"transaction_id": ["value_already_exist"]},
    }
    assert drawn(subscriber) == 78


def test_of_a_lago_batch_the_events_sent_before_are_named_and_the_rest_is_charged(
    sender: Sender, subscriber: Subscriber
) -> None:
    def events(*numbers: int) -> dict[str, Any]:
        return {"events": [sent.lago(f"t-{n}", timestamp=sent.UNIX) for n in numbers]}

    sender.send(BATCH, events(1, 2))

    answer = sender.send(BATCH, events(0, 1, 3, 2, 3))

    seen = {"transaction_id": ["value_already_exist"]}
    assert answer.status_code == 422
    assert answer.json()["error_details"] == {"1": seen, "3": seen, "4": seen}
    assert drawn(subscriber) == 4 * 78


def test_a_lago_event_that_cannot_be_charged_is_kept_and_answered_200(
    sender: Sender, api: APIClient, subscriber: Subscriber
) -> None:
    sender.send(EVENTS, {"event": sent.lago("t-0", timestamp=sent.UNIX)})
    conflict = sent.lago("t-0", timestamp=sent.UNIX, properties={"model": "m", "prompt_tokens": 1})
    nobody = sent.lago("t-1", external_subscription_id="nobody")
    another = sent.lago("t-2", properties={"gb": 5})

    alone = sender.send(EVENTS, {"event": another})
    together = sender.send(BATCH, {"events": [conflict, nobody, another, 5, sent.lago("t-3")]})

    assert (alone.status_code, alone["Usage-Rejected"]) == (200, "0=no_usage")
    assert together.status_code == 200
    assert together["Usage-Rejected"] == (
        "0=conflict, 1=unknown_subject, 2=no_usage, 3=invalid_record"
    )
    assert drawn(subscriber) == 2 * 78
    assert len(get(api, "quarantine")["items"]) == 4


def test_a_lago_batch_of_nothing_is_lagos_422(sender: Sender, subscriber: Subscriber) -> None:
    answer = sender.send(BATCH, {"events": []})

    assert answer.status_code == 422
    assert answer.json()["error_details"] == {"events": ["no_events"]}


def test_the_parts_that_lagos_agent_sdk_sends_are_charged_once(
    sender: Sender, api: APIClient, subscriber: Subscriber
) -> None:
    parts = [
        sent.lago_part("llm_input_tokens", 100),
        sent.lago_part("llm_output_tokens", 50),
        sent.lago_part("llm_cached_input_tokens", 80),
        sent.lago_part("llm_reasoning_tokens", 30),
        sent.lago_part("llm_tool_calls", 2),
    ]

    assert sender.send(BATCH, {"events": parts}).status_code == 200
    # After a 422 the SDK sends each event alone.
    assert sender.send(BATCH, {"events": parts}).status_code == 422
    alone = [sender.send(BATCH, {"events": [part]}) for part in parts]

    assert drawn(subscriber) == 150
    # The input and the output alone have no classes: that is a conflict, not a second charge.
    assert [answer.status_code for answer in alone] == [200, 200, 422, 422, 422]
    assert [alone[n]["Usage-Rejected"] for n in (0, 1)] == ["0=conflict", "0=conflict"]
    [usage] = get(
        api, "subscribers/s-1/usage?from=2026-06-01T00:00:00Z&to=2026-07-01T00:00:00Z&by=month"
    )["items"]
    assert (usage["cached_input_tokens"], usage["reasoning_tokens"]) == (80, 30)
    assert_books_agree()


# LiteLLM generic_api ------------------------------------------------------------------------------


@pytest.mark.parametrize("content_type", [JSON, NDJSON, "text/plain", ""])
@pytest.mark.parametrize("shape", ["array", "ndjson", "ndjson with a null"])
def test_litellm_payloads_come_as_an_array_or_lines(
    sender: Sender, subscriber: Subscriber, shape: str, content_type: str
) -> None:
    payloads = [sent.litellm("a"), sent.litellm("b")]
    bodies = {
        "array": json.dumps([None, *payloads]).encode(),
        "ndjson": lines(*payloads),
        "ndjson with a null": lines(None, *payloads)[5:] + b"\nnull\n",
    }

    answer = sender.send(EVENTS, bodies[shape], content_type)

    assert answer.status_code == 200, answer.content
    assert (answer.json()["accepted"], answer.json()["units"]) == (2, "156.000")
    assert stored() == [("litellm", "a"), ("litellm", "b")]
    assert texts_holding(SECRET) == []


def test_a_single_litellm_payload_is_charged(sender: Sender, subscriber: Subscriber) -> None:
    body = json.dumps(sent.litellm(), indent=1).encode()

    first, again = sender.send(EVENTS, body), sender.send(EVENTS, body)

    assert (first.status_code, first.json()["accepted"]) == (200, 1)
    assert (again.status_code, again.json()["duplicates"]) == (200, 1)
    assert drawn(subscriber) == 78


def test_a_failed_call_is_stored_and_not_charged_and_the_retry_that_succeeds_is(
    sender: Sender, api: APIClient, subscriber: Subscriber
) -> None:
    """Both have the proxy's id where the upstream gives none, as with embeddings."""
    answer = sender.send(EVENTS, [sent.failed("Timeout", "408"), sent.litellm()])

    assert answer.json()["accepted"] == 2
    assert drawn(subscriber) == 78
    outcomes = UsageRecord.objects.values_list("source", "outcome", "units").order_by("source")
    assert list(outcomes) == [("litellm", "", 78 * T), ("litellm/failure", "upstream_error", 0)]
    assert {item["id"] for item in records_of(api)} == {"chatcmpl-1"}
    assert_books_agree()


def test_a_failed_call_of_somebody_who_is_known_draws_nothing(
    sender: Sender, api: APIClient, subscriber: Subscriber
) -> None:
    sender.send(EVENTS, [sent.litellm("a"), sent.litellm("b")])

    for id in ("c", "d"):
        answer = sender.send(EVENTS, sent.failed("Timeout") | {"id": id})
        assert (answer.json()["accepted"], answer.json()["units"]) == (1, "0.000")

    assert drawn(subscriber) == 156
    assert_books_agree()


def test_what_litellm_sends_is_never_refused_where_it_can_be_read(
    sender: Sender, api: APIClient, subscriber: Subscriber
) -> None:
    """It drops its queue whatever it is answered."""
    payloads = [
        sent.litellm("good"),
        sent.litellm("responses", prompt_tokens=0, completion_tokens=0),
        sent.litellm("nobody", end_user="nobody"),
        sent.litellm("broken") | {"metadata": SECRET},
        {"call_type": None},
        {},
    ]

    answer = sender.send(EVENTS, payloads)

    assert answer.status_code == 200
    body = answer.json()
    assert (body["accepted"], len(body["rejected"])) == (1, 5)
    assert [(r["index"], r["id"], r["cause"]) for r in body["rejected"]][:3] == [
        (1, "responses", "no_usage"),
        (2, "nobody", "unknown_subject"),
        (3, "broken", "invalid_record"),
    ]
    assert texts_holding(SECRET) == []


def test_half_a_character_in_one_prompt_does_not_hold_up_the_others(
    sender: Sender, subscriber: Subscriber
) -> None:
    cut = sent.litellm("a", messages="cut \ud83d")
    for body in ([cut, sent.litellm("b")], lines(cut, sent.litellm("c")), cut):
        assert sender.send(EVENTS, body).status_code == 200
    sender.send(TRACES, sent.traces(sent.span(gen_ai__input__messages="cut \ud83d")))

    assert stored() == [("litellm", id) for id in "abc"] + [("otlp", "resp-1")]


# Gateways' logs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "source"),
    [
        (sent.kong(), "kong"),
        ([sent.kong()], "kong"),
        ([sent.apisix()], "apisix"),
        ([sent.apisix(), {"request": {}, "response": {}, "llm_summary": None}], "apisix"),
        (sent.higress(), "higress"),
        (sent.portkey(), "portkey"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_gateways_log_entry_is_charged(
    sender: Sender, subscriber: Subscriber, body: Any, source: str
) -> None:
    answer = sender.send(EVENTS, body)

    assert answer.status_code == 200, answer.content
    assert UsageRecord.objects.get().source == source
    assert drawn(subscriber) == 78
    assert texts_holding(SECRET) == []


# Which format it is -------------------------------------------------------------------------------

ALL = {
    "OpenMeter": sent.openmeter(),
    "Lago": {"event": sent.lago()},
    "Lago's batch": {"events": [sent.lago()]},
    "LiteLLM": sent.litellm(),
    "Kong": sent.kong(),
    "APISIX": sent.apisix(),
    "Higress": sent.higress(),
    "Portkey": sent.portkey(),
}
PAIRS = [(one, other) for one in ALL for other in ALL if one < other]


@pytest.mark.parametrize(("one", "other"), PAIRS, ids=[f"{a} and {b}" for a, b in PAIRS])
def test_a_body_that_fits_two_formats_is_refused(
    sender: Sender, subscriber: Subscriber, one: str, other: str
) -> None:
    mixed = {**ALL[one], **ALL[other]}
    bodies: list[Any] = [mixed]
    if not one.startswith("Lago") and not other.startswith("Lago"):
        bodies += [[mixed], [ALL[one], ALL[other]], lines(ALL[one], ALL[other])]
    for body in bodies:
        problem = assert_problem(sender.send(EVENTS, body), 400, "ambiguous_format")
        assert one.split("'")[0] in problem["detail"] or "event" in problem["detail"]
    assert not UsageRecord.objects.exists()
    assert not QuarantinedRecord.objects.exists()


def test_a_content_type_that_contradicts_the_body_is_refused(
    sender: Sender, subscriber: Subscriber
) -> None:
    for body in ({"event": sent.lago()}, [sent.litellm()], sent.kong()):
        for content_type in (CLOUD_EVENT, CLOUD_EVENTS):
            answer = sender.send(EVENTS, body, content_type)
            assert_problem(answer, 400, "ambiguous_format")


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        [{}],
        {"id": "x", "subject": "y"},
        {"event": "text"},
        {"event": None},
        {"events": {}},
        [{"event": sent.lago()}],
        {"records": [record()]},
        record(),
        [record()],
        {"response": {"json": {}}},
        {"request": {}, "response": {}},
        [5],
        lines({}, {}),
    ],
    ids=repr,
)
def test_an_unknown_format_is_415_with_those_known(
    sender: Sender, subscriber: Subscriber, body: Any
) -> None:
    problem = assert_problem(sender.send(EVENTS, body), 415, "unknown_format")

    for name in ("OpenMeter", "Lago", "LiteLLM", "Kong", "APISIX", "Higress", "Portkey"):
        assert name in problem["detail"]


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        (EVENTS, FORM),
        (EVENTS, "application/x-protobuf"),
        (EVENTS, "text/csv"),
        (EVENTS, "multipart/form-data; boundary=x"),
        (STRIPE_V1, JSON),
        (STRIPE_V1, ""),
        (STRIPE_V2, FORM),
        (POLAR, FORM),
        (AUTUMN, "text/csv"),
        (TRACES, "application/x-protobuf"),
        (LOGS, "application/x-protobuf"),
    ],
)
def test_another_media_type_is_415_with_what_is_known(
    sender: Sender, path: str, content_type: str
) -> None:
    problem = assert_problem(sender.send(path, b"{}", content_type), 415, "unknown_format")

    assert "known here" in problem["detail"]


# Bad input ----------------------------------------------------------------------------------------

DOORS = [EVENTS, BATCH, STRIPE_V1, STRIPE_V2, POLAR, AUTUMN, AUTUMN_BATCH, TRACES, LOGS]
GOOD: dict[str, Any] = {
    EVENTS: [sent.openmeter()],
    BATCH: {"events": [sent.lago()]},
    STRIPE_V2: sent.stripe(),
    POLAR: {"events": [sent.polar()]},
    AUTUMN: sent.autumn(),
    AUTUMN_BATCH: [sent.autumn()],
    TRACES: sent.traces(sent.span()),
    LOGS: sent.logs(sent.log()),
}


def good(path: str) -> bytes:
    return json.dumps(GOOD[path]).encode()


@pytest.mark.parametrize("path", GOOD)
@pytest.mark.parametrize(
    "break_it",
    [
        lambda body: b"",
        lambda body: b" ",
        lambda body: body[:-1],
        lambda body: body + b" tail",
        lambda body: b"{",
        lambda body: b"null",
        lambda body: b"5",
        lambda body: b'"text"',
        lambda body: body.replace(b"user-s-1", b"\xc3\x28"),
        lambda body: b"\xef\xbb\xbf" + body,
        lambda body: body.decode().encode("utf-16"),
        lambda body: body.replace(b":", b":NaN,", 1),
        lambda body: body.replace(b"{", b'{"unknown":NaN,', 1),
        lambda body: body.replace(b"{", b'{"unknown":-Infinity,', 1),
        lambda body: b"[" * 100_000,
        lambda body: b"[" * 100_000 + b"]" * 100_000,
        lambda body: b'{"events":' * 50_000,
        lambda body: body[:-1] + b',"deep":' + b"[" * 9000 + b"]" * 9000 + body[-1:],
    ],
    ids=range(18),
)
@pytest.mark.timeout(60)
def test_what_cannot_be_read_is_400_and_nothing_of_it_is_taken(
    sender: Sender, subscriber: Subscriber, path: str, break_it: Any
) -> None:
    assert_problem(sender.send(path, break_it(good(path))), 400, "malformed")
    assert not UsageRecord.objects.exists()
    assert not QuarantinedRecord.objects.exists()


@pytest.mark.parametrize("path", [STRIPE_V2, POLAR, AUTUMN, TRACES, LOGS])
@pytest.mark.parametrize("body", [b"[]", b"[null, null]", b"[{}]"])
def test_an_array_where_one_object_has_to_be_is_400(sender: Sender, path: str, body: bytes) -> None:
    assert_problem(sender.send(path, body), 400, "malformed")


def test_a_number_beyond_every_float_is_400(sender: Sender, subscriber: Subscriber) -> None:
    for path, field in ((EVENTS, "58"), (STRIPE_V2, '"58"'), (POLAR, "58"), (AUTUMN, "60")):
        body = good(path).replace(field.encode(), b"1e400", 1)
        assert_problem(sender.send(path, body), 400, "malformed")
    assert not UsageRecord.objects.exists()


@pytest.mark.parametrize("path", [BATCH, STRIPE_V2, AUTUMN])
@pytest.mark.parametrize("number", [b"1e400", b"9" * 5000])
def test_a_number_that_no_answer_could_show_is_400_before_anything_is_charged(
    sender: Sender, subscriber: Subscriber, path: str, number: bytes
) -> None:
    body = good(path).replace(b"user-s-1", b'user-s-1", "unknown": ' + number + b', "more": "')

    assert_problem(sender.send(path, body), 400, "malformed")
    assert not UsageRecord.objects.exists()


def test_an_event_beside_such_a_number_is_kept_by_its_names(
    sender: Sender, subscriber: Subscriber
) -> None:
    body = json.dumps(sent.openmeter(data=None)).encode()

    assert sender.send(EVENTS, body[:-1] + b', "unknown": 1e400}').status_code == 204

    row = QuarantinedRecord.objects.get()
    assert (row.record_id, row.subject) == ("chatcmpl-1", "user-s-1")
    assert json.loads(row.payload)["source"] == "litellm-proxy"


@pytest.mark.parametrize("path", DOORS)
def test_a_wrong_gzip_is_400_and_a_right_one_is_unpacked(
    sender: Sender, subscriber: Subscriber, path: str
) -> None:
    body = urlencode(FIELDS).encode() if path == STRIPE_V1 else good(path)
    content_type = FORM if path == STRIPE_V1 else JSON
    packed = gzip.compress(body)

    for wrong in (body, packed[:-9], packed + b"x", b""):
        answer = sender.send(path, wrong, content_type, **{"Content-Encoding": "gzip"})
        assert_problem(answer, 400, "malformed")
    right = sender.send(path, packed, content_type, **{"Content-Encoding": "gzip"})
    assert right.status_code in (200, 204)
    assert UsageRecord.objects.count() == 1


@pytest.mark.parametrize("path", DOORS)
@pytest.mark.timeout(120)
def test_what_is_too_large_is_413(sender: Sender, subscriber: Subscriber, path: str) -> None:
    content_type = FORM if path == STRIPE_V1 else JSON
    bomb = gzip.compress(b" " * (17 * 1024 * 1024))

    answer = sender.send(path, bomb, content_type, **{"Content-Encoding": "gzip"})

    assert_problem(answer, 413, "too_large")


@pytest.mark.parametrize("path", [EVENTS, POLAR, AUTUMN, TRACES])
@pytest.mark.parametrize("value", [b"{}", b"[]", b"0", b'""'])
@pytest.mark.timeout(60)
def test_a_body_of_millions_of_values_is_413_before_it_takes_memory(
    sender: Sender, path: str, value: bytes
) -> None:
    many = value + (b"," + value) * 3_000_000
    body = b'{"specversion":"1.0","events":[' + many + b"]}"

    assert_problem(sender.send(path, body), 413, "too_large")


@pytest.mark.parametrize(
    "body",
    [
        [{"specversion": "1.0"}] * 10_001,
        {"events": [{}] * 10_001},
        lines(*[{"call_type": ""}] * 10_001),
    ],
    ids=["OpenMeter", "Lago", "LiteLLM"],
)
def test_more_than_ten_thousand_events_are_413(sender: Sender, body: Any) -> None:
    assert_problem(sender.send(EVENTS, body), 413, "too_large")
    assert not QuarantinedRecord.objects.exists()


# Keys ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", DOORS)
def test_every_door_asks_for_a_gateways_key(gateway: Gateway, api: APIClient, path: str) -> None:
    body = b"{}"
    unknown = Sender("tbg_wrong").send(path, body)
    operators = api.generic("POST", path, body, JSON)  # type: ignore[arg-type]
    ApiKey.objects.filter(digest=keys.digest_of(gateway.key)).update(revoked_at=NOW)

    assert_problem(unknown, 401, "unauthorized")
    assert_problem(operators, 403, "wrong_role")
    assert_problem(Sender(gateway.key).send(path, body), 401, "unauthorized")
    assert_problem(gateway.client.get(path), 405, "method_not_allowed")


def test_a_key_revoked_while_it_was_known_is_401(sender: Sender, subscriber: Subscriber) -> None:
    sender.send(EVENTS, sent.openmeter("a"))
    ApiKey.objects.filter(role="gateway").update(revoked_at=NOW)

    for body in (sent.openmeter("b"), [sent.openmeter("b"), sent.openmeter("c")]):
        assert_problem(sender.send(EVENTS, body), 401, "unauthorized")
    assert UsageRecord.objects.count() == 1


# Stripe, Polar, Autumn, OpenTelemetry -------------------------------------------------------------

FIELDS = {
    "event_name": "token-billing-tokens",
    "payload[value]": "58",
    "payload[stripe_customer_id]": "user-s-1",
    "payload[model]": "gpt-4o",
    "payload[token_type]": "output",
    "identifier": "e-1",
    "timestamp": str(sent.UNIX),
}


def test_a_form_of_stripes_v1_is_charged_and_answered_as_stripe_does(
    sender: Sender, subscriber: Subscriber
) -> None:
    for _ in range(2):
        answer = sender.send(STRIPE_V1, urlencode(FIELDS).encode(), FORM)

        assert answer.status_code == 200
        assert answer.json() == {
            "object": "billing.meter_event",
            "created": sent.UNIX,
            "event_name": "token-billing-tokens",
            "identifier": "e-1",
            "livemode": True,
            "payload": {
                "value": "58",
                "stripe_customer_id": "user-s-1",
                "model": "gpt-4o",
                "token_type": "output",
            },
            "timestamp": sent.UNIX,
        }
    assert drawn(subscriber) == 58
    assert UsageRecord.objects.get().output_tokens == 58


def test_a_form_with_the_least_that_stripe_asks_for_is_charged(
    sender: Sender, subscriber: Subscriber
) -> None:
    least = {"event_name": "tokens", "payload[value]": "25",
             "payload[stripe_customer_id]": "user-s-1"}  # fmt: skip

    answer = sender.send(STRIPE_V1, urlencode(least).encode(), FORM)

    row = UsageRecord.objects.get()
    assert (row.model, row.uncached_input_tokens, row.occurred_at) == ("tokens", 25, NOW)
    assert answer.json()["identifier"] == row.record_id


def test_the_two_events_of_stripes_v2_are_charged(sender: Sender, subscriber: Subscriber) -> None:
    both = [sent.stripe(None, value="100"), sent.stripe(None, value="20", token_type="output")]

    answers = [sender.send(STRIPE_V2, without(event, "identifier")) for event in both]

    assert [answer.status_code for answer in answers] == [200, 200]
    shown = answers[0].json()
    assert (shown["object"], shown["timestamp"]) == (
        "v2.billing.meter_event",
        "2026-06-10T04:00:00.000Z",
    )
    assert uuid.UUID(shown["identifier"])
    assert drawn(subscriber) == 120
    assert not SuspectedRepeat.objects.exists()


def test_a_stripe_client_that_sends_again_is_known_by_its_idempotency_key(
    sender: Sender, subscriber: Subscriber
) -> None:
    for _ in range(3):
        answer = sender.send(STRIPE_V2, sent.stripe(None), **{"Idempotency-Key": "retry-1"})
        assert (answer.status_code, answer.json()["identifier"]) == (200, "retry-1")

    assert drawn(subscriber) == 58


def test_polar_is_told_how_many_were_new(sender: Sender, subscriber: Subscriber) -> None:
    events = [sent.polar("a"), sent.polar("b"), sent.polar("x", metadata={"gb": 1})]

    first = sender.send(POLAR, {"events": events})
    again = sender.send(POLAR, {"events": events})

    assert (first.status_code, first.json()) == (200, {"inserted": 2, "duplicates": 0})
    assert first["Usage-Rejected"] == "2=no_usage"
    assert again.json() == {"inserted": 0, "duplicates": 2}
    assert drawn(subscriber) == 156
    assert texts_holding(SECRET) == []


def test_autumns_pools_are_charged_class_by_class(sender: Sender, subscriber: Subscriber) -> None:
    for _ in range(2):
        answer = sender.send(AUTUMN, sent.autumn(event_name="chat"))
        assert answer.status_code == 200
        assert answer.json() == {
            "customer_id": "user-s-1",
            "event_name": "chat",
            "value": 160,
            "balance": None,
        }

    row = UsageRecord.objects.get()
    assert (row.uncached_input_tokens, row.cached_input_tokens, row.cache_write_tokens) == (
        10,
        60,
        30,
    )
    assert (row.output_tokens, row.reasoning_tokens) == (20, 40)
    assert drawn(subscriber) == 160


@pytest.mark.parametrize("path", [AUTUMN_TOKENS, "/v1/balances.track"])
def test_autumns_newer_addresses_take_the_same(
    sender: Sender, subscriber: Subscriber, path: str
) -> None:
    # As the wrapper's own client posts it: without a key, a feature or a time.
    said = without(sent.autumn(None), "feature_id", "timestamp", "idempotency_key")

    answer = sender.send(path, said)

    assert answer.json() == {"customer_id": "user-s-1", "value": 160, "balance": None}
    assert drawn(subscriber) == 160


def test_a_batch_of_autumns_token_events_is_charged_event_by_event(
    sender: Sender, subscriber: Subscriber
) -> None:
    batch = [sent.autumn("a-1"), sent.autumn("a-2"), sent.autumn("a-3", customer_id="nobody")]
    batch += [sent.autumn("a-4", input_tokens=-1)]
    for _ in range(2):
        answer = sender.send(AUTUMN_BATCH, batch)
        assert (answer.status_code, answer.json()) == (200, {"success": True})
        assert answer["Usage-Rejected"] == "2=unknown_subject, 3=invalid_record"

    assert drawn(subscriber) == 320


def test_a_call_told_by_a_span_and_by_a_log_is_charged_once(
    sender: Sender, subscriber: Subscriber
) -> None:
    span = sender.send(TRACES, sent.traces(sent.span(), sent.span("b")))
    log = sender.send(LOGS, sent.logs(sent.log()))

    assert [(a.status_code, a.json()) for a in (span, log)] == [(200, {}), (200, {})]
    assert drawn(subscriber) == 156
    assert texts_holding(SECRET) == []


def test_an_otlp_client_is_told_what_was_not_charged(
    sender: Sender, subscriber: Subscriber
) -> None:
    answer = sender.send(TRACES, sent.traces(sent.span(), sent.span("x", enduser__id="nobody")))
    logs = sender.send(LOGS, sent.logs(sent.log("y", enduser__id="nobody")))

    partial = answer.json()["partialSuccess"]
    assert (partial["rejectedSpans"], "unknown_subject" in partial["errorMessage"]) == ("1", True)
    assert logs.json()["partialSuccess"]["rejectedLogRecords"] == "1"
    assert drawn(subscriber) == 78


@pytest.mark.parametrize("body", [{}, {"resourceSpans": []}, {"resourceSpans": [{}]}])
def test_an_export_without_calls_of_models_is_a_success(sender: Sender, body: Any) -> None:
    answer = sender.send(TRACES, body)

    assert (answer.status_code, answer.json()) == (200, {})


# Made-up ids --------------------------------------------------------------------------------------


def test_a_repeat_under_another_made_up_id_is_charged_and_flagged(
    sender: Sender, api: APIClient, operator: Operator, subscriber: Subscriber
) -> None:
    def at(milliseconds: int, **said: Any) -> dict[str, Any]:
        return {
            **sent.stripe(None, **said),
            "timestamp": f"2026-06-10T04:00:0{milliseconds / 1000}Z",
        }

    ids = [
        sender.send(STRIPE_V2, event).json()["identifier"]
        for event in (
            at(100),
            at(900),  # the same second
            at(1100),  # another
            at(100, value="59"),
            at(100, model="other"),
            at(100, token_type="output"),
            at(500),
        )
    ]

    assert drawn(subscriber) == 6 * 58 + 59
    items = get(api, "suspected-repeats")["items"]
    assert [(item["record_id"], item["first_record_id"]) for item in items] == [
        (ids[1], ids[0]),
        (ids[6], ids[0]),
    ]
    assert {
        name: items[0][name] for name in ("gateway", "source", "subject", "model", "units")
    } == {
        "gateway": "gateway",
        "source": "stripe",
        "subject": "user-s-1",
        "model": "gpt-4o",
        "units": "58.000",
    }
    other = client_for(make_key(make_operator("other")))
    assert get(other, "suspected-repeats") == {"items": [], "next": None}
    assert_books_agree()


def test_litellms_lago_callback_has_made_up_ids_and_repeats_are_flagged(
    sender: Sender, api: APIClient, subscriber: Subscriber
) -> None:
    for id in ("u-1", "u-2"):
        assert sender.send(EVENTS, {"event": sent.lago(id)}).status_code == 200

    assert drawn(subscriber) == 156
    [item] = get(api, "suspected-repeats")["items"]
    assert (item["record_id"], item["first_record_id"]) == ("u-2", "u-1")


def test_a_lost_flag_is_made_up_for_when_the_event_is_sent_again(
    sender: Sender, subscriber: Subscriber
) -> None:
    """The process may have died between the charge and the flag."""
    events = [{"event": sent.lago(id)} for id in ("u-1", "u-2")]
    for event in events:
        sender.send(EVENTS, event)
    SuspectedRepeat.objects.all().delete()

    assert sender.send(EVENTS, events[1]).status_code == 422

    assert SuspectedRepeat.objects.get().record_id == "u-2"


def test_ids_that_are_not_made_up_are_not_flagged(sender: Sender, subscriber: Subscriber) -> None:
    for id in ("a", "b"):
        sender.send(EVENTS, sent.openmeter(id))
        sender.send(EVENTS, {"event": sent.lago(id, timestamp=sent.UNIX)})
        sender.send(STRIPE_V2, sent.stripe(id))
        sender.send(POLAR, {"events": [sent.polar(id)]})
        sender.send(AUTUMN, sent.autumn(id))

    assert not SuspectedRepeat.objects.exists()


# What is shown elsewhere --------------------------------------------------------------------------


def test_the_books_agree_after_all_of_it(
    sender: Sender, api: APIClient, subscriber: Subscriber
) -> None:
    for path in GOOD:
        assert sender.send(path, good(path)).status_code in (200, 204)
    for body in ALL.values():
        assert sender.send(EVENTS, body).status_code in (200, 204, 422)

    available = 10_000_000 - drawn(subscriber)
    assert balance(api)["available"] == f"{available:.3f}"
    assert re.fullmatch(r"\d+", str(UsageRecord.objects.count()))
    assert_books_agree()
    assert texts_holding(SECRET) == []
