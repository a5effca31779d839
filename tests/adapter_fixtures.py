"""What each sender sends, and the native record that it has to become: one table a sender.

Bodies are as the senders' own code makes them, with prompts where they put them (`SECRET`).
"""

from __future__ import annotations

import datetime as dt
import json
from typing import Any, NamedTuple

from tests.factories import NOW

SECRET = "the-secret-prompt"
UNIX = int(NOW.timestamp())
AT = NOW.isoformat()
NANOSECONDS = UNIX * 10**9
SECOND = dt.timedelta(seconds=1)


class Native(NamedTuple):
    """A record: `classes` are uncached and cached input, cache write, output, reasoning."""

    id: str
    classes: tuple[int, int, int, int, int]
    source: str
    subject: str = "user-s-1"
    model: str = "gpt-4o"
    at: dt.datetime = NOW
    outcome: str | None = None
    attributes: dict[str, Any] | None = None


class Refused(NamedTuple):
    cause: str


class Case(NamedTuple):
    name: str
    sent: dict[str, Any]
    becomes: Native | Refused


RECEIVED = {"time": "received"}
MESSAGES = [{"role": "user", "content": SECRET}]


def without(event: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in event.items() if name not in names}


# OpenMeter ----------------------------------------------------------------------------------------


def openmeter(id: str = "chatcmpl-1", /, **said: Any) -> dict[str, Any]:
    data = {"model": "gpt-4o", "cost": 0.001, "prompt_tokens": 58, "completion_tokens": 20}
    return {
        "specversion": "1.0",
        "type": "litellm_tokens",
        "id": id,
        "time": AT,
        "subject": "user-s-1",
        "source": "litellm-proxy",
        "data": {**data, "total_tokens": 78},
        **said,
    }


def _half(type: str, tokens: Any = "123456") -> dict[str, Any]:
    data = {"tokens": tokens, "model": "gpt-4o", "type": type}
    return openmeter(type, type="prompt", source="chat-app", data=data)


_CHAT = Native("chatcmpl-1", (58, 0, 0, 20, 0), "litellm-proxy")
OPENMETER = [
    Case("litellm", openmeter(), _CHAT),
    Case("no time", without(openmeter(), "time"), _CHAT._replace(attributes=RECEIVED)),
    Case("null time", openmeter(time=None, dataschema=None), _CHAT._replace(attributes=RECEIVED)),
    Case("utc without saying so", openmeter(time=AT.removesuffix("+00:00")), _CHAT),
    Case(
        "numbers as text, null cost",
        openmeter(
            data={
                "model": "gpt-4o",
                "cost": None,
                "prompt_tokens": "58",
                "completion_tokens": "20",
                "total_tokens": "78",
            }
        ),
        _CHAT,
    ),
    Case("no source", without(openmeter(), "source"), _CHAT._replace(source="openmeter")),
    Case(
        "an embedding",
        openmeter(data={"model": "gpt-4o", "prompt_tokens": 9, "total_tokens": 9}),
        _CHAT._replace(classes=(9, 0, 0, 0, 0)),
    ),
    Case(
        "details inside",
        openmeter(
            data={
                "model": "gpt-4o",
                "prompt_tokens": 100,
                "completion_tokens": 50,
                "prompt_tokens_details": {"cached_tokens": 60, "cache_creation_tokens": 30},
                "completion_tokens_details": {"reasoning_tokens": 40},
                "messages": MESSAGES,
            }
        ),
        _CHAT._replace(classes=(10, 60, 30, 10, 40)),
    ),
    Case("input alone", _half("input"), Native("input", (123456, 0, 0, 0, 0), "chat-app")),
    Case("system alone", _half("system", 7), Native("system", (7, 0, 0, 0, 0), "chat-app")),
    Case("output alone", _half("output"), Native("output", (0, 0, 0, 123456, 0), "chat-app")),
    Case("tokens of no type", openmeter(data={"tokens": 5}), Refused("no_usage")),
    Case("tokens of a strange type", _half("cached"), Refused("invalid_record")),
    Case(
        "tokens twice",
        openmeter(data={"model": "m", "tokens": 5, "type": "input", "prompt_tokens": 5}),
        Refused("invalid_record"),
    ),
    Case("responses api", openmeter(data={"model": "m", "cost": 0.1}), Refused("no_usage")),
    Case("no data", openmeter(data=None), Refused("no_usage")),
    Case(
        "zero tokens",
        openmeter(data={"model": "m", "prompt_tokens": 0, "completion_tokens": 0}),
        Refused("no_usage"),
    ),
    Case("no subject", openmeter(subject=None), Refused("unknown_subject")),
    Case("no id", without(openmeter(), "id"), Refused("invalid_record")),
    Case("no model", openmeter(data={"prompt_tokens": 5}), Refused("invalid_record")),
    Case("long id", openmeter("x" * 429), _CHAT._replace(id="x" * 429)),
    Case("too long an id", openmeter("x" * 513), Refused("invalid_record")),
    Case("a time that is none", openmeter(time="yesterday"), Refused("invalid_record")),
    Case(
        "cached beyond the input",
        openmeter(data={"model": "m", "prompt_tokens": 5, "cached_input_tokens": 6}),
        Refused("invalid_record"),
    ),
    Case(
        "a count that is none",
        openmeter(data={"model": "m", "prompt_tokens": "many"}),
        Refused("invalid_record"),
    ),
]

# Lago ---------------------------------------------------------------------------------------------


def lago(id: str = "t-1", /, **said: Any) -> dict[str, Any]:
    """As LiteLLM's `lago` callback sends it."""
    return {
        "transaction_id": id,
        "external_subscription_id": "user-s-1",
        "code": "litellm",
        "properties": {
            "model": "gpt-4o",
            "response_cost": None,
            "prompt_tokens": 58,
            "completion_tokens": 20,
            "total_tokens": 78,
        },
        **said,
    }


def lago_part(
    code: str, value: int, provider: str = "openai", id: str = "", **said: Any
) -> dict[str, Any]:
    """As the agent SDKs send it."""
    properties = {"value": str(value), "model": "gpt-4o", "provider": provider, "api": "native"}
    return {
        "transaction_id": id or code,
        "external_subscription_id": "user-s-1",
        "code": code,
        "timestamp": UNIX,
        "properties": {**properties, **said},
    }


def _part(code: str, value: int, *classes: int) -> Native:
    tokens = classes or (0, 0, 0, 0, 0)
    attributes = {"code": code, "value": value}
    return Native(code, tokens, "lago", attributes=attributes)  # type: ignore[arg-type]


_LAGO = Native("t-1", (58, 0, 0, 20, 0), "lago")
_CALL = "llm_cached_input_tokens"
LAGO = [
    Case("litellm", lago(), _LAGO._replace(attributes=RECEIVED)),
    Case("unix seconds", lago(timestamp=UNIX), _LAGO),
    Case("decimals", lago(timestamp=UNIX + 0.25), _LAGO._replace(at=NOW + SECOND / 4)),
    Case("text", lago(timestamp=f"{UNIX}.5"), _LAGO._replace(at=NOW + SECOND / 2)),
    Case(
        "an old client",
        without(lago(external_customer_id="user-s-1"), "external_subscription_id"),
        _LAGO._replace(attributes=RECEIVED),
    ),
    Case(
        "input of a part",
        lago_part("llm_input_tokens", 5),
        _part("llm_input_tokens", 5, 5, 0, 0, 0, 0),
    ),
    Case(
        "output of a part",
        lago_part("llm_output_tokens", 5),
        _part("llm_output_tokens", 5, 0, 0, 0, 5, 0),
    ),
    Case("cached beside", lago_part(_CALL, 5, "anthropic"), _part(_CALL, 5, 0, 5, 0, 0, 0)),
    Case("cached inside", lago_part(_CALL, 5, "openai"), _part(_CALL, 5)),
    Case(
        "a gateway in openai's way",
        lago_part(_CALL, 5, "anthropic", api="databricks_gateway"),
        _part(_CALL, 5),
    ),
    Case(
        "written beside",
        lago_part("llm_cache_creation_tokens", 5, "anthropic"),
        _part("llm_cache_creation_tokens", 5, 0, 0, 5, 0, 0),
    ),
    Case(
        "a detail of what was written",
        lago_part("llm_cache_write_1h_tokens", 5, "anthropic"),
        _part("llm_cache_write_1h_tokens", 5),
    ),
    Case(
        "reasoning beside",
        lago_part("llm_reasoning_tokens", 5, "gemini"),
        _part("llm_reasoning_tokens", 5, 0, 0, 0, 0, 5),
    ),
    Case(
        "reasoning inside",
        lago_part("llm_reasoning_tokens", 5, "openai"),
        _part("llm_reasoning_tokens", 5),
    ),
    Case("calls of tools", lago_part("llm_tool_calls", 2), _part("llm_tool_calls", 2)),
    Case("another meter", lago(properties={"gb": 5}), Refused("no_usage")),
    Case("no properties", lago(properties=None), Refused("no_usage")),
    Case("a part of no value", lago(code="llm_input_tokens"), Refused("no_usage")),
    Case("no subscription", lago(external_subscription_id=None), Refused("unknown_subject")),
    Case("no transaction", without(lago(), "transaction_id"), Refused("invalid_record")),
]

# LiteLLM generic_api ------------------------------------------------------------------------------


def litellm(id: str = "chatcmpl-1", /, **said: Any) -> dict[str, Any]:
    metadata = said.pop("metadata", {})
    return {
        "id": id,
        "trace_id": "trace-1",
        "call_type": "acompletion",
        "status": "success",
        "stream": False,
        "response_cost": 0.001,
        "prompt_tokens": 58,
        "completion_tokens": 20,
        "total_tokens": 78,
        "startTime": UNIX - 2.5,
        "endTime": float(UNIX),
        "completionStartTime": UNIX - 1.0,
        "model": "gpt-4o",
        "model_map_information": {"model_map_key": "gpt-4o", "model_map_value": None},
        "cache_hit": None,
        "end_user": "user-s-1",
        "messages": MESSAGES,
        "response": {"choices": [{"message": {"content": SECRET}}]},
        "error_str": None,
        "model_parameters": {"tools": [{"description": SECRET}]},
        "metadata": {
            "user_api_key_hash": "88dc28d0",
            "user_api_key_alias": "team",
            "user_api_key_user_id": "default_user_id",
            "requester_metadata": {"note": SECRET},
            "usage_object": None,
            **metadata,
        },
        **said,
    }


def _used(**usage: Any) -> dict[str, Any]:
    return litellm(metadata={"usage_object": usage})


_FAILED = {
    "status": "failure",
    "prompt_tokens": 0,
    "completion_tokens": 0,
    "total_tokens": 0,
    "error_str": f"refused: {SECRET}",
}


def failed(error_class: str, error_code: str = "", **said: Any) -> dict[str, Any]:
    error = {"error_class": error_class, "error_code": error_code, "error_message": SECRET}
    return litellm(**{**_FAILED, "error_information": error, **said})


_LITELLM = Native("chatcmpl-1", (58, 0, 0, 20, 0), "litellm")
_FAILURE = Native("chatcmpl-1", (0, 0, 0, 0, 0), "litellm/failure")
LITELLM = [
    Case("a success", litellm(), _LITELLM),
    Case("only begun", litellm(endTime=None, startTime=AT), _LITELLM),
    *(
        Case(
            f"{model} by way of {way}",
            litellm(model=model, custom_llm_provider=way),
            _LITELLM._replace(model=meant),
        )
        for model, way, meant in (
            ("openai/deepseek/deepseek-chat", "openai", "deepseek/deepseek-chat"),
            ("openrouter/meta-llama/llama-3:free", "openrouter", "meta-llama/llama-3:free"),
            ("deepseek/deepseek-chat", "openai", "deepseek/deepseek-chat"),
            ("deepseek/deepseek-chat", "deepseek", "deepseek/deepseek-chat"),
            ("openai/openai/gpt-4o", "openai", "openai/gpt-4o"),
            ("openai/gpt-4o", "openai", "openai/gpt-4o"),
            ("openai/gpt-4o/", "openai", "openai/gpt-4o/"),
            ("openai/deepseek/deepseek-chat", None, "openai/deepseek/deepseek-chat"),
            ("gpt-4o", "openai", "gpt-4o"),
        )
    ),
    Case(
        "openai's usage",
        _used(
            prompt_tokens=100,
            completion_tokens=50,
            total_tokens=150,
            prompt_tokens_details={"cached_tokens": 60, "audio_tokens": None},
            completion_tokens_details={"reasoning_tokens": 40},
        ),
        _LITELLM._replace(classes=(40, 60, 0, 10, 40)),
    ),
    Case(
        "anthropic's usage as litellm writes it",
        _used(
            prompt_tokens=100,
            completion_tokens=50,
            total_tokens=150,
            prompt_tokens_details={"cached_tokens": 60, "cache_creation_tokens": 30},
            cache_read_input_tokens=60,
            cache_creation_input_tokens=30,
        ),
        _LITELLM._replace(classes=(10, 60, 30, 50, 0)),
    ),
    Case(
        "anthropic's own usage",
        _used(
            input_tokens=10,
            output_tokens=50,
            cache_read_input_tokens=60,
            cache_creation_input_tokens=30,
        ),
        _LITELLM._replace(classes=(10, 60, 30, 50, 0)),
    ),
    Case(
        "openai's responses",
        _used(
            input_tokens=100,
            output_tokens=50,
            total_tokens=150,
            input_tokens_details={"cached_tokens": 60},
            output_tokens_details={"reasoning_tokens": 40},
        ),
        _LITELLM._replace(classes=(40, 60, 0, 10, 40)),
    ),
    Case(
        "openai's wire with cached tokens beside the prompt's",
        _used(
            prompt_tokens=7,
            completion_tokens=6,
            total_tokens=4818,
            prompt_tokens_details={"cached_tokens": 4805},
        ),
        _LITELLM._replace(classes=(7, 4805, 0, 6, 0)),
    ),
    Case(
        "reasoning beside the completion",
        _used(
            prompt_tokens=10,
            completion_tokens=5,
            total_tokens=115,
            completion_tokens_details={"reasoning_tokens": 100},
        ),
        _LITELLM._replace(classes=(10, 0, 0, 5, 100)),
    ),
    Case(
        "a total that fits two ways",
        _used(
            prompt_tokens=100,
            completion_tokens=100,
            total_tokens=250,
            prompt_tokens_details={"cached_tokens": 50},
            completion_tokens_details={"reasoning_tokens": 50},
        ),
        Refused("invalid_record"),
    ),
    Case(
        "cached tokens counted in two ways",
        _used(
            input_tokens=10,
            output_tokens=5,
            cache_read_input_tokens=60,
            input_tokens_details={"cached_tokens": 5},
        ),
        Refused("invalid_record"),
    ),
    Case(
        "numbers as text",
        litellm(prompt_tokens="58", completion_tokens="20", response_cost=None),
        _LITELLM,
    ),
    Case(
        "from the cache",
        litellm("chatcmpl-1_cache_hit1", cache_hit=True, response_cost=0.0),
        _LITELLM._replace(id="chatcmpl-1_cache_hit1", outcome="cached_replay"),
    ),
    Case(
        "the key's user",
        litellm(end_user="", metadata={"user_api_key_user_id": "user-s-1"}),
        _LITELLM,
    ),
    Case(
        "nobody but the key",
        litellm(end_user=None, metadata={"user_api_key_user_id": None}),
        _LITELLM._replace(subject="team"),
    ),
    Case(
        "a key without an alias",
        litellm(end_user=None, metadata={"user_api_key_user_id": None, "user_api_key_alias": None}),
        _LITELLM._replace(subject="88dc28d0"),
    ),
    Case(
        "an upstream error",
        failed("InternalServerError", "500"),
        _FAILURE._replace(outcome="upstream_error"),
    ),
    Case(
        "a failure that used tokens",
        failed("Timeout", "408", prompt_tokens=9),
        _FAILURE._replace(outcome="upstream_error", classes=(9, 0, 0, 0, 0)),
    ),
    Case(
        "beyond the budget",
        failed("BudgetExceededError", "400"),
        _FAILURE._replace(outcome="blocked"),
    ),
    Case(
        "a guardrail",
        failed("APIError", status_fields={"guardrail_status": "guardrail_intervened"}),
        _FAILURE._replace(outcome="blocked"),
    ),
    Case(
        "the client hung up",
        failed("APIConnectionError", "499"),
        _FAILURE._replace(outcome="client_gone"),
    ),
    Case("no counts", litellm(prompt_tokens=0, completion_tokens=0), Refused("no_usage")),
    Case(
        "nobody",
        litellm(
            end_user=None,
            metadata={f"user_api_key_{name}": None for name in ("user_id", "alias", "hash")},
        ),
        Refused("unknown_subject"),
    ),
]

# Stripe -------------------------------------------------------------------------------------------


def stripe(id: str | None = "e-1", /, **payload: Any) -> dict[str, Any]:
    return {
        "event_name": "token-billing-tokens",
        "timestamp": AT,
        "identifier": id,
        "payload": {
            "stripe_customer_id": "user-s-1",
            "value": "58",
            "model": "gpt-4o",
            "token_type": "input",
            **payload,
        },
    }


_STRIPE = Native("e-1", (58, 0, 0, 0, 0), "stripe")
STRIPE = [
    Case("input", stripe(), _STRIPE),
    Case("output", stripe(token_type="output"), _STRIPE._replace(classes=(0, 0, 0, 58, 0))),
    Case("unix seconds", {**stripe(), "timestamp": str(UNIX)}, _STRIPE),
    Case("no time", without(stripe(), "timestamp"), _STRIPE._replace(attributes=RECEIVED)),
    Case("no identifier", stripe(None), _STRIPE._replace(id="made-up")),
    Case(
        "a plain meter",
        stripe(model=None, token_type=None),
        _STRIPE._replace(model="token-billing-tokens"),
    ),
    Case("a strange type", stripe(token_type="audio"), Refused("invalid_record")),
    Case("no value", stripe(value=None), Refused("no_usage")),
    Case("part of a token", stripe(value="1.5"), Refused("invalid_record")),
    Case("less than nothing", stripe(value="-1"), Refused("invalid_record")),
    Case("nobody", stripe(stripe_customer_id=None), Refused("unknown_subject")),
    Case("no payload", without(stripe(), "payload"), Refused("no_usage")),
]

# Polar --------------------------------------------------------------------------------------------


def polar(id: str | None = "p-1", /, metadata: Any = None, **llm: Any) -> dict[str, Any]:
    usage = {
        "vendor": "openai",
        "model": "gpt-4o",
        "prompt": SECRET,
        "response": SECRET,
        "input_tokens": 58,
        "cached_input_tokens": 8,
        "output_tokens": 20,
        "total_tokens": 78,
    }
    return {
        "name": "ai_usage",
        "external_customer_id": "user-s-1",
        "external_id": id,
        "timestamp": AT,
        "metadata": metadata or {"_llm": {**usage, **llm}, "_cost": {"amount": 1}},
    }


_POLAR = Native("p-1", (50, 8, 0, 20, 0), "polar")
POLAR = [
    Case("_llm", polar(), _POLAR),
    Case(
        "none cached", polar(cached_input_tokens=None), _POLAR._replace(classes=(58, 0, 0, 20, 0))
    ),
    Case("no id", polar(None), _POLAR._replace(id="made-up")),
    Case(
        "plain metadata",
        polar(metadata={"model": "gpt-4o", "input_tokens": 58, "output_tokens": 20}),
        _POLAR._replace(classes=(58, 0, 0, 20, 0)),
    ),
    Case(
        "the typescript strategy",
        polar(
            metadata={
                "model": "gpt-4o",
                "inputTokens": 58,
                "cachedInputTokens": 8,
                "outputTokens": 20,
            }
        ),
        _POLAR,
    ),
    Case("another event", polar(metadata={"gb": 5}), Refused("no_usage")),
    Case("no metadata", without(polar(), "metadata"), Refused("no_usage")),
    Case("nobody", {**polar(), "external_customer_id": None}, Refused("unknown_subject")),
]

# Autumn -------------------------------------------------------------------------------------------


def autumn(id: str | None = "a-1", /, **said: Any) -> dict[str, Any]:
    return {
        "customer_id": "user-s-1",
        "feature_id": "ai_credits",
        "model_id": "gpt-4o",
        "input_tokens": 10,
        "output_tokens": 20,
        "cache_read_tokens": 60,
        "cache_write_tokens": 30,
        "reasoning_tokens": 40,
        "idempotency_key": id,
        "timestamp": UNIX * 1000,
        **said,
    }


_POOLS = ("input", "output", "cache_read", "cache_write", "reasoning")
_AUTUMN = Native("a-1", (10, 60, 30, 20, 40), "autumn")
AUTUMN = [
    Case("pools", autumn(), _AUTUMN),
    Case("two pools",
         autumn(cache_read_tokens=None, cache_write_tokens=None, reasoning_tokens=None),
         _AUTUMN._replace(classes=(10, 0, 0, 20, 0))),
    Case("audio", autumn(audio_input_tokens=5, audio_output_tokens=7),
         _AUTUMN._replace(classes=(15, 60, 30, 27, 40))),
    Case("no time", without(autumn(), "timestamp"), _AUTUMN._replace(attributes=RECEIVED)),
    Case("no key", autumn(None), _AUTUMN._replace(id="made-up")),
    Case(
        "in properties",
        {
            **without(autumn(), *(f"{pool}_tokens" for pool in _POOLS), "model_id"),
            "properties": {"model": "gpt-4o", "input_tokens": 5, "prompt": SECRET},
        },
        _AUTUMN._replace(classes=(5, 0, 0, 0, 0)),
    ),
    Case("in both", autumn(properties={"input_tokens": 5}), Refused("invalid_record")),
    Case(
        "another feature",
        {"customer_id": "user-s-1", "feature_id": "seats", "value": 1},
        Refused("no_usage"),
    ),
    Case("nobody", autumn(customer_id=None), Refused("unknown_subject")),
]  # fmt: skip

# OpenTelemetry ------------------------------------------------------------------------------------


def attributes(**named: Any) -> list[dict[str, Any]]:
    """OTLP's attributes; dots in names are written as double underscores."""
    kinds = {str: "stringValue", int: "intValue", float: "doubleValue", bool: "boolValue"}
    return [
        {
            "key": name.replace("__", "."),
            # As the protobuf mapping writes an int64.
            "value": {kinds[type(value)]: str(value) if type(value) is int else value},
        }
        for name, value in named.items()
        if value is not None
    ]


def span(id: str | None = "resp-1", /, status: int = 0, **named: Any) -> dict[str, Any]:
    said = {
        "gen_ai__operation__name": "chat",
        "gen_ai__request__model": "gpt-4o",
        "gen_ai__response__id": id,
        "gen_ai__usage__input_tokens": 58,
        "gen_ai__usage__output_tokens": 20,
        "gen_ai__input__messages": SECRET,
        "gen_ai__prompt__0__content": SECRET,
        "enduser__id": "user-s-1",
        **named,
    }
    return {
        "traceId": "5b8efff798038103d269b633813fc60c",
        "spanId": "eee19b7ec3c1b174",
        "name": f"chat {SECRET}",
        "kind": 3,
        "startTimeUnixNano": str(NANOSECONDS - 5),
        "endTimeUnixNano": str(NANOSECONDS),
        "attributes": attributes(**said),
        "events": [{"name": "gen_ai.user.message", "attributes": attributes(content=SECRET)}],
        "status": {"code": status},
    }


def traces(*spans: dict[str, Any], **of_the_resource: Any) -> dict[str, Any]:
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": attributes(service__name="app", **of_the_resource)},
                "scopeSpans": [{"scope": {"name": "openai"}, "spans": list(spans)}],
            }
        ]
    }


def logs(*records: dict[str, Any]) -> dict[str, Any]:
    return {"resourceLogs": [{"scopeLogs": [{"logRecords": list(records)}]}]}


def log(id: str | None = "resp-1", /, **named: Any) -> dict[str, Any]:
    record = without(span(id, **named), "startTimeUnixNano", "endTimeUnixNano", "name", "kind")
    return {**record, "timeUnixNano": str(NANOSECONDS), "body": {"stringValue": SECRET}}


_OTLP = Native("resp-1", (58, 0, 0, 20, 0), "otlp")
_SPAN_ID = "5b8efff798038103d269b633813fc60c:eee19b7ec3c1b174"
OTLP = [
    Case("a chat", traces(span()), _OTLP),
    Case("no response id", traces(span(None)), _OTLP._replace(id=_SPAN_ID)),
    Case(
        "details inside",
        traces(
            span(
                gen_ai__usage__cache_read__input_tokens=8,
                gen_ai__usage__cache_creation__input_tokens=20,
                gen_ai__usage__reasoning__output_tokens=5,
            )
        ),
        _OTLP._replace(classes=(30, 8, 20, 15, 5)),
    ),
    Case(
        "older names, no operation",
        traces(
            span(
                gen_ai__operation__name=None,
                gen_ai__usage__input_tokens=None,
                gen_ai__usage__output_tokens=None,
                gen_ai__usage__prompt_tokens=58,
                gen_ai__usage__completion_tokens=20,
            )
        ),
        _OTLP,
    ),
    Case(
        "the resource's user",
        traces(span(enduser__id=None), user__id="user-s-1"),
        _OTLP,
    ),
    Case(
        "the answer's model",
        traces(span(gen_ai__request__model=None, gen_ai__response__model="gpt-4o")),
        _OTLP,
    ),
    Case(
        "a call that failed",
        traces(
            span(
                None,
                status=2,
                gen_ai__usage__input_tokens=None,
                gen_ai__usage__output_tokens=None,
            )
        ),
        _OTLP._replace(id=_SPAN_ID, classes=(0, 0, 0, 0, 0), outcome="upstream_error"),
    ),
    Case(
        "no counts",
        traces(span(gen_ai__usage__input_tokens=None, gen_ai__usage__output_tokens=None)),
        Refused("no_usage"),
    ),
    Case(
        "a count that is none",
        traces(span(gen_ai__usage__input_tokens="many")),
        Refused("invalid_record"),
    ),
    Case("nobody", traces(span(enduser__id=None)), Refused("unknown_subject")),
]

# Gateways' logs -----------------------------------------------------------------------------------


def portkey(**usage: Any) -> dict[str, Any]:
    said = {"prompt_tokens": 58, "completion_tokens": 20, "total_tokens": 78, **usage}
    return {
        "request": {"json": {"messages": MESSAGES}, "text": SECRET},
        "response": {
            "json": {
                "id": "chatcmpl-1",
                "model": "gpt-4o",
                "choices": [{"message": {"content": SECRET}}],
                "usage": said,
            },
            "text": SECRET,
            "statusCode": 200,
        },
        "provider": "openai",
        "requestType": "chatComplete",
        "metadata": {"_user": "user-s-1"},
    }


_PORTKEY = Native("chatcmpl-1", (58, 0, 0, 20, 0), "portkey", attributes=RECEIVED)
_PORTKEY_BLOCKED = portkey()
_PORTKEY_BLOCKED["response"] = {
    "json": {"id": "chatcmpl-1", "model": "gpt-4o", "error": {"message": SECRET}},
    "statusCode": 446,
}
PORTKEY = [
    Case("openai", portkey(prompt_tokens_details={"cached_tokens": 8}),
         _PORTKEY._replace(classes=(50, 8, 0, 20, 0))),
    Case("anthropic, cached beside",
         portkey(total_tokens=178, cache_read_input_tokens=60, cache_creation_input_tokens=40),
         _PORTKEY._replace(classes=(58, 60, 40, 20, 0))),
    Case("blocked", _PORTKEY_BLOCKED,
         _PORTKEY._replace(classes=(0, 0, 0, 0, 0), outcome="blocked")),
]  # fmt: skip


def kong(status: int = 200, ai: Any = None) -> dict[str, Any]:
    usage = {
        "prompt_tokens": 58,
        "completion_tokens": 20,
        "total_tokens": 78,
        "cost": 0.0038,
        "prompt_tokens_details": {"cached_tokens": 8, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 5},
    }
    meta = {"request_model": "gpt-4o", "response_model": "gpt-4o-2024", "provider_name": "openai"}
    return {
        "request": {"id": "9ec9264a", "uri": "/chat", "headers": {"x": SECRET}, "body": SECRET},
        "response": {"status": status, "size": 5, "headers": {}},
        "started_at": UNIX * 1000,
        "consumer": {"id": "c1", "custom_id": "user-s-1", "username": "someone"},
        "latencies": {"request": 5},
        "ai": ai
        or {
            "payload": {"request": SECRET},
            "proxy": {"payload": {"response": SECRET}, "usage": usage, "meta": meta},
        },
    }


_KONG = Native("9ec9264a", (50, 8, 0, 15, 5), "kong")
_KONG_META = {"request_model": "gpt-4o"}
KONG = [
    Case("3.11", kong(), _KONG),
    Case(
        "3.8",
        kong(ai={"ai-proxy": {"usage": {"prompt_token": 58, "completion_token": 20},
                             "meta": _KONG_META}}),
        _KONG._replace(classes=(58, 0, 0, 20, 0)),
    ),
    Case("rate limited", kong(429, {"proxy": {"meta": _KONG_META}}),
         _KONG._replace(classes=(0, 0, 0, 0, 0), outcome="blocked")),
    Case("upstream down", kong(502, {"proxy": {"meta": _KONG_META, "usage": {}}}),
         _KONG._replace(classes=(0, 0, 0, 0, 0), outcome="upstream_error")),
    Case("no usage", kong(ai={"proxy": {"meta": _KONG_META}}), Refused("no_usage")),
    Case("two plugins", kong(ai={"proxy": {}, "ai-proxy": {}}), Refused("invalid_record")),
]  # fmt: skip


def apisix(status: int = 200, **summary: Any) -> dict[str, Any]:
    said = {
        "model": "gpt-4o",
        "duration": 512,
        "prompt_tokens": 58,
        "completion_tokens": 20,
        "total_tokens": 78,
        "cache_read_input_tokens": 8,
        "reasoning_tokens": 5,
        "end_user_id": "user-s-1",
    }
    return {
        "llm_summary": {**said, **summary},
        "llm_request": {"messages": MESSAGES},
        "request": {"headers": {"x-request-id": "q-1"}, "uri": "/chat", "body": SECRET},
        "response": {"status": status, "size": 5, "headers": {}, "body": SECRET},
        "start_time": float(UNIX * 1000),
        "latency": 512.3,
        "client_ip": "10.0.0.1",
        "route_id": "1",
    }


_APISIX = Native("q-1", (50, 8, 0, 15, 5), "apisix")
APISIX = [
    Case("a call", apisix(), _APISIX),
    Case(
        "the consumer's name",
        {**apisix(end_user_id=None), "consumer": {"username": "user-s-1"}},
        _APISIX,
    ),
    Case(
        "upstream down",
        apisix(503, prompt_tokens=None, completion_tokens=None, total_tokens=None,
               cache_read_input_tokens=None, reasoning_tokens=None),
        _APISIX._replace(classes=(0, 0, 0, 0, 0), outcome="upstream_error"),
    ),
]  # fmt: skip


def higress(code: str = "200", **log: Any) -> dict[str, Any]:
    said = {
        "model": "gpt-4o",
        "input_token": "58",
        "output_token": "20",
        "cached_tokens": "8",
        "reasoning_tokens": "5",
        "consumer": "user-s-1",
        "messages": MESSAGES,
        "question": SECRET,
        "answer": SECRET,
        **log,
    }
    return {
        "ai_log": json.dumps(said),
        "request_id": "q-1",
        "start_time": AT,
        "response_code": code,
        "duration": "1590",
    }


_HIGRESS = Native("q-1", (50, 8, 0, 15, 5), "higress")
HIGRESS = [
    Case("a call", higress(), _HIGRESS),
    Case(
        "blocked",
        higress("403", input_token=None, output_token=None, cached_tokens=None,
                reasoning_tokens=None),
        _HIGRESS._replace(classes=(0, 0, 0, 0, 0), outcome="blocked"),
    ),
    Case("no log", {**higress(), "ai_log": f"{SECRET} {{"}, Refused("invalid_record")),
]  # fmt: skip
