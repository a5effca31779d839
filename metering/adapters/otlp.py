"""OpenTelemetry: spans and log records with GenAI attributes, as OTLP/HTTP sends them in JSON.

Of a trace only calls of a model are usage. Spans of agents, workflows and tools repeat the tokens
of the calls below them, so they are passed over, as are spans and logs that are not about models.

The id is `gen_ai.response.id`, so a call told by a span and by a log record, or by two layers of
instrumentation, is charged once; without it the trace and span are. Totals hold their details, as
the semantic conventions say.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec

from metering.adapters.items import (
    Arrival,
    Counts,
    MaybeCount,
    MaybeId,
    MaybeTime,
    first,
    inclusive,
    most,
    usage,
)
from metering.adapters.reading import Format
from metering.parsing import Malformed, Usage
from subscriptions.outcomes import Outcome

SOURCE = "otlp"
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_STATUS_ERROR = 2


# The wire. An attribute's value is read only where it is wanted -----------------------------------


class Value(msgspec.Struct, gc=False):
    string: str | None = msgspec.field(default=None, name="stringValue")
    integer: int | None = msgspec.field(default=None, name="intValue")
    double: float | None = msgspec.field(default=None, name="doubleValue")


class Attribute(msgspec.Struct, gc=False):
    key: str = ""
    value: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class Status(msgspec.Struct, gc=False):
    code: int | str | None = None


class Span(msgspec.Struct, gc=False):
    """A span or a log record."""

    trace_id: str = msgspec.field(default="", name="traceId")
    span_id: str = msgspec.field(default="", name="spanId")
    ended: int | None = msgspec.field(default=None, name="endTimeUnixNano")
    began: int | None = msgspec.field(default=None, name="startTimeUnixNano")
    time: int | None = msgspec.field(default=None, name="timeUnixNano")
    observed: int | None = msgspec.field(default=None, name="observedTimeUnixNano")
    attributes: list[Attribute] = []
    status: Status | None = None


class Scope(msgspec.Struct, gc=False):
    spans: list[Span] = []
    log_records: list[Span] = msgspec.field(default=[], name="logRecords")


class Owner(msgspec.Struct, gc=False):
    attributes: list[Attribute] = []


class Resource(msgspec.Struct, gc=False):
    resource: Owner | None = None
    scope_spans: list[Scope] = msgspec.field(default=[], name="scopeSpans")
    scope_logs: list[Scope] = msgspec.field(default=[], name="scopeLogs")


class Export(msgspec.Struct, gc=False):
    resource_spans: list[Resource] | None = msgspec.field(default=None, name="resourceSpans")
    resource_logs: list[Resource] | None = msgspec.field(default=None, name="resourceLogs")


# One call of a model ------------------------------------------------------------------------------


class Event(msgspec.Struct, gc=False, omit_defaults=True):
    """What a span or log record says of a call; the attributes' names as in the conventions."""

    trace_id: str = ""
    span_id: str = ""
    time: MaybeTime = None
    failed: bool = False
    operation: str | None = msgspec.field(default=None, name="gen_ai.operation.name")
    response_id: str | None = msgspec.field(default=None, name="gen_ai.response.id")
    request_model: str | None = msgspec.field(default=None, name="gen_ai.request.model")
    response_model: str | None = msgspec.field(default=None, name="gen_ai.response.model")
    given: MaybeCount = msgspec.field(default=None, name="gen_ai.usage.input_tokens")
    made: MaybeCount = msgspec.field(default=None, name="gen_ai.usage.output_tokens")
    # Their names until 2024.
    prompt: MaybeCount = msgspec.field(default=None, name="gen_ai.usage.prompt_tokens")
    completion: MaybeCount = msgspec.field(default=None, name="gen_ai.usage.completion_tokens")
    cached: MaybeCount = msgspec.field(default=None, name="gen_ai.usage.cache_read.input_tokens")
    written: MaybeCount = msgspec.field(
        default=None, name="gen_ai.usage.cache_creation.input_tokens"
    )
    # As they were called before the conventions had them.
    old_cached: MaybeCount = msgspec.field(
        default=None, name="gen_ai.usage.cache_read_input_tokens"
    )
    old_written: MaybeCount = msgspec.field(
        default=None, name="gen_ai.usage.cache_creation_input_tokens"
    )
    reasoning: MaybeCount = msgspec.field(default=None, name="gen_ai.usage.reasoning.output_tokens")
    old_reasoning: MaybeCount = msgspec.field(default=None, name="gen_ai.usage.reasoning_tokens")
    end_user: MaybeId = msgspec.field(default=None, name="enduser.id")
    user: MaybeId = msgspec.field(default=None, name="user.id")
    error: str | None = msgspec.field(default=None, name="error.type")


_WANTED = frozenset(
    name
    for name in Event.__struct_encode_fields__
    if name.startswith(("gen_ai.", "enduser.", "user.", "error."))
)
_CALLS = frozenset({"chat", "generate_content", "text_completion", "embeddings", "completion"})
_ABOVE_CALLS = frozenset({"invoke_agent", "create_agent", "execute_tool", "invoke_workflow"})

_export = msgspec.json.Decoder(Export, strict=False)
_value = msgspec.json.Decoder(Value, strict=False)


def calls_of(text: bytes, *, logs: bool) -> list[bytes]:
    """The calls of models that an export tells of, each as the JSON of an Event.

    Raises msgspec's errors for what is no export, Malformed for one of traces among logs.
    """
    export = _export.decode(text)
    ours, others = export.resource_spans, export.resource_logs
    if logs:
        ours, others = others, ours
    if others is not None:
        raise Malformed("traces go to /v1/traces and logs to /v1/logs, each alone")
    calls = []
    for resource in ours or []:
        shared = _named(resource.resource.attributes if resource.resource else [])
        for scope in (*resource.scope_spans, *resource.scope_logs):
            for span in (*scope.spans, *scope.log_records):
                attributes = {**shared, **_named(span.attributes)}
                if _is_call(attributes):
                    calls.append(msgspec.json.encode({**_frame(span), **attributes}))
    return calls


def _named(attributes: list[Attribute]) -> dict[str, Any]:
    """The attributes that are wanted; the values of others, prompts among them, stay unread."""
    named: dict[str, Any] = {}
    for attribute in attributes:
        if attribute.key in _WANTED and attribute.value is not msgspec.UNSET:
            named[attribute.key] = _plain(attribute.value)
    return named


def _plain(raw: msgspec.Raw) -> Any:
    try:
        value = _value.decode(raw)
    except msgspec.ValidationError:
        return {}  # Is neither name nor number: the call will be refused, and not the export.
    return next((v for v in (value.string, value.integer, value.double) if v is not None), None)


def _is_call(attributes: dict[str, Any]) -> bool:
    operation = attributes.get("gen_ai.operation.name")
    if operation in _ABOVE_CALLS:
        return False
    return operation in _CALLS or any(name.startswith("gen_ai.usage.") for name in attributes)


def _frame(span: Span) -> dict[str, Any]:
    times = (span.ended, span.time, span.observed, span.began)
    nanoseconds = next((time for time in times if time), None)
    code = span.status.code if span.status else None
    return {
        "trace_id": span.trace_id,
        "span_id": span.span_id,
        # Seconds with six places, which a float of this size still holds.
        "time": None if nanoseconds is None else nanoseconds // 1000 / 1_000_000,
        "failed": code in (_STATUS_ERROR, "STATUS_CODE_ERROR"),
    }


def usage_of(event: Event, arrival: Arrival) -> Usage:
    outcome = Outcome.UPSTREAM_ERROR if event.failed or event.error else None
    return usage(
        arrival,
        _counts(event, outcome),
        source=SOURCE,
        id=first(event.response_id, f"{event.trace_id}:{event.span_id}".strip(":")),
        subject=first(event.end_user, event.user),
        model=first(event.request_model, event.response_model),
        at=event.time,
        outcome=outcome,
    )


def _counts(event: Event, outcome: Outcome | None) -> Counts:
    given = event.given if event.given is not None else event.prompt
    made = event.made if event.made is not None else event.completion
    if outcome is not None and given is None and made is None:
        return Counts(0, 0)
    return inclusive(
        given,
        made,
        most(event.cached, event.old_cached),
        most(event.written, event.old_written),
        most(event.reasoning, event.old_reasoning),
    )


FORMAT = Format(
    "OpenTelemetry GenAI (OTLP/JSON)",
    SOURCE,
    Event,
    usage_of,
    ("gen_ai.response.id",),
    ("enduser.id",),
)
