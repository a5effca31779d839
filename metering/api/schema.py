"""What the OpenAPI schema says of the doors that do without DRF's serializers."""

from __future__ import annotations

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse

from subscriptions.api.schema import refusals

_COUNT = {"type": "integer", "minimum": 0, "maximum": 1_000_000_000}
_RECORD = {
    "type": "object",
    "required": ["id", "subject", "model", "occurred_at", "input_tokens", "output_tokens"],
    "properties": {
        "id": {"type": "string", "minLength": 1, "maxLength": 512},
        "subject": {"type": "string", "minLength": 1, "maxLength": 256},
        "model": {"type": "string", "minLength": 1, "maxLength": 256},
        "occurred_at": {"type": "string", "format": "date-time"},
        "input_tokens": {**_COUNT, "description": "holds cached and cache-write tokens"},
        "cached_input_tokens": _COUNT,
        "cache_write_tokens": _COUNT,
        "output_tokens": {**_COUNT, "description": "holds reasoning tokens"},
        "reasoning_tokens": _COUNT,
        "outcome": {"type": "string", "maxLength": 32},
        "attributes": {"type": "object"},
    },
}
_UNITS = {"type": "string", "pattern": r"^-?\d+\.\d{3}$"}
_ANSWER: dict[str, Any] = {
    "type": "object",
    "required": ["batch", "accepted", "duplicates", "rejected", "units"],
    "properties": {
        "batch": {"type": "string"},
        "accepted": {"type": "integer"},
        "duplicates": {"type": "integer"},
        "rejected": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["index", "id", "cause", "detail", "quarantine_id"],
                "properties": {
                    "index": {"type": "integer"},
                    "id": {"type": "string"},
                    "cause": {"type": "string"},
                    "detail": {"type": "string"},
                    "quarantine_id": {"type": "string"},
                },
            },
        },
        "units": _UNITS,
    },
}
USAGE_RECORDS: dict[str, Any] = {
    "operation_id": "send_usage_records",
    "summary": "Charge usage records, each once",
    "request": {
        "application/json": {
            "oneOf": [
                _RECORD,
                {"type": "array", "items": _RECORD, "maxItems": 10_000},
                {
                    "type": "object",
                    "required": ["records"],
                    "properties": {
                        "records": {"type": "array", "items": _RECORD, "maxItems": 10_000}
                    },
                },
            ]
        },
    },
    "responses": {
        200: OpenApiResponse(_ANSWER, description="Committed; what was refused is quarantined."),
        **refusals(409, 413),
    },
    "examples": [
        OpenApiExample(
            "one record",
            {
                "id": "req-1",
                "subject": "user-7",
                "model": "deepseek/deepseek-chat",
                "occurred_at": "2026-06-10T04:00:00Z",
                "input_tokens": 1200,
                "output_tokens": 340,
            },
            request_only=True,
        )
    ],
}
OBJECT = OpenApiTypes.OBJECT


# --- reservations -------------------------------------------------------------------------------

_ID = {"type": "string", "pattern": r"^[^\u0000-\u001f\u007f]{1,512}$"}
RESERVATION_ID = OpenApiParameter(
    "name",
    _ID,
    OpenApiParameter.PATH,
    description="The id that the gateway gave the reservation.",
)
_ASK = {
    "type": "object",
    "required": ["id", "subject", "model"],
    "properties": {
        "id": {**_ID, "description": "unique for the gateway; sent again, the first answer"},
        "subject": {"type": "string", "minLength": 1, "maxLength": 256},
        "model": {"type": "string", "minLength": 1, "maxLength": 256},
        "input_tokens": {**_COUNT, "description": "left out: 1,024 are assumed"},
        "max_output_tokens": {**_COUNT, "description": "left out: 1,024 are assumed"},
        "units": {
            "anyOf": [
                {"type": "string", "pattern": r"^[0-9]{1,15}(\.[0-9]{1,3})?$"},
                {"type": "integer", "minimum": 0, "maximum": 10**15},
            ],
            "description": "in place of an estimate from tokens and weights",
        },
        "ttl_seconds": {"type": "integer", "minimum": 1, "maximum": 86_400, "default": 600},
        "slice": {
            "type": "boolean",
            "default": False,
            "description": "drawn down by many reports and renewed; `units` (100,000) each time",
        },
    },
}
_DENIALS = [
    "no_plan",
    "exhausted",
    "suspended",
    "frozen",
    "capped",
    "rate_limited",
    "unknown_subject",
    "unknown_model",
    "key_revoked",
    "key_capped",
    "model_not_allowed",
    "night_lock",
    "minor_capped",
]
_TIME = {"type": "string", "format": "date-time"}
_DEGRADE_TO = {
    "type": "object",
    "description": "what the plan allows instead; both null: the gateway chooses",
    "required": ["model", "tokens_per_minute"],
    "properties": {
        "model": {"type": ["string", "null"]},
        "tokens_per_minute": {"type": ["integer", "null"]},
    },
}
_LIMIT: dict[str, Any] = {
    "type": "object",
    "description": "the window or rate of the plan, or the limit of the subscriber, that refused",
    "required": ["per", "kind", "left", "resets_at"],
    "properties": {
        "per": {"type": "string", "enum": ["minute", "5h", "day", "week", "month"]},
        "kind": {
            "type": "string",
            "enum": ["fixed", "sliding", "requests", "tokens", "cap", "lock"],
        },
        "left": _UNITS,
        "resets_at": {**_TIME, "type": ["string", "null"]},
    },
}
_ASKED = {
    "type": "object",
    "required": ["id", "decision", "granted", "expires_at", "available"],
    "properties": {
        "id": {"type": "string"},
        "decision": {"type": "string", "enum": ["allow", "degrade", "deny"]},
        "cause": {"type": "string", "enum": _DENIALS},
        "granted": {**_UNITS, "description": "held for this request"},
        "expires_at": {**_TIME, "type": ["string", "null"]},
        "available": {**_UNITS, "description": "what the prepaid buckets have left beside"},
        "final": {"type": "boolean", "description": "less than was wanted: there is no more"},
        "threshold": {**_UNITS, "description": "of a slice: report when so little is left"},
        "degrade_to": _DEGRADE_TO,
        "limit": _LIMIT,
    },
}
RESERVE: dict[str, Any] = {
    "operation_id": "reserve",
    "summary": "Hold units for a request that is about to be made",
    "request": {"application/json": _ASK},
    "responses": {
        201: OpenApiResponse(_ASKED, description="Decided, and held; a denial is an answer too."),
        **refusals(409, 413, 422),
    },
    "examples": [
        OpenApiExample(
            "a request",
            {
                "id": "ask-1",
                "subject": "user-7",
                "model": "deepseek/deepseek-chat",
                "input_tokens": 1200,
                "max_output_tokens": 800,
            },
            request_only=True,
        )
    ],
}
_STATE = {"type": "string", "enum": ["open", "committed", "released", "expired", "denied"]}
_COMMITTED = {
    "type": "object",
    "required": ["id", "state", "late", "released", *_ANSWER["required"]],
    "properties": {
        "id": {"type": "string"},
        "state": _STATE,
        "late": {"type": "boolean", "description": "the hold had ended before"},
        "released": {**_UNITS, "description": "held and not used"},
        **_ANSWER["properties"],
    },
}
COMMIT: dict[str, Any] = {
    "operation_id": "commit_reservation",
    "summary": "Charge what a reserved request has used",
    "parameters": [RESERVATION_ID],
    "request": {"application/json": _RECORD},
    "responses": {
        200: OpenApiResponse(_COMMITTED, description="Charged, or quarantined; committed."),
        **refusals(404, 409, 413),
    },
}
REPORT: dict[str, Any] = {
    "operation_id": "report_slice_usage",
    "summary": "Charge what was used of a slice, and renew it where it runs low",
    "parameters": [RESERVATION_ID],
    "request": USAGE_RECORDS["request"],
    "responses": {
        200: OpenApiResponse(
            {
                "type": "object",
                "required": [
                    *("id", "state", "late", "granted", "expires_at", "threshold", "renewed"),
                    *("final", *_ANSWER["required"]),
                ],
                "properties": {
                    "id": {"type": "string"},
                    "state": _STATE,
                    "late": {"type": "boolean", "description": "the slice had ended before"},
                    "granted": {**_UNITS, "description": "what may be used of it from now on"},
                    "expires_at": {**_TIME, "type": ["string", "null"]},
                    "threshold": {**_UNITS, "description": "report when so little is left"},
                    "renewed": {"type": "boolean"},
                    "final": {"type": "boolean", "description": "the last there is"},
                    "cause": {"type": "string", "enum": _DENIALS},
                    "limit": _LIMIT,
                    "degrade_to": _DEGRADE_TO,
                    **_ANSWER["properties"],
                },
            },
            description="Charged; `granted` takes the place of what was left.",
        ),
        **refusals(404, 409, 413),
    },
}
RELEASE: dict[str, Any] = {
    "operation_id": "release_reservation",
    "summary": "Free what is held for a request that was not made",
    "parameters": [RESERVATION_ID],
    "request": None,
    "responses": {
        200: OpenApiResponse(
            {
                "type": "object",
                "required": ["id", "state", "released"],
                "properties": {"id": {"type": "string"}, "state": _STATE, "released": _UNITS},
            },
            description="As it stands now; one that was settled otherwise stays so.",
        ),
        **refusals(404),
    },
}

# --- keys of subscribers ------------------------------------------------------------------------

_PRESENTED = {
    "type": "object",
    "required": ["token"],
    "properties": {
        "token": {"type": "string", "minLength": 1, "maxLength": 512},
        "model": {"type": "string", "maxLength": 256, "description": "may it be used by the key?"},
        "client": {
            "type": "string",
            "maxLength": 128,
            "description": "who presents it, as the gateway tells its clients apart (an address):"
            " one that tries too many is refused, and nobody else",
        },
    },
}
INTROSPECT: dict[str, Any] = {
    "operation_id": "introspect_key",
    "summary": "Whose key it is that was presented, and what it may be used for (RFC 7662)",
    "request": {
        "application/json": _PRESENTED,
        "application/x-www-form-urlencoded": _PRESENTED,
    },
    "responses": {
        200: OpenApiResponse(
            {
                "type": "object",
                "required": ["active"],
                "properties": {
                    "active": {"type": "boolean", "description": "false: nothing else is said"},
                    "token_type": {"type": "string"},
                    "sub": {"type": "string"},
                    "subject": {"type": "string", "description": "to send its usage under"},
                    "subscriber": {"type": "string"},
                    "key": {
                        "type": "object",
                        "required": ["id", "name"],
                        "properties": {"id": {"type": "integer"}, "name": {"type": "string"}},
                    },
                    "models": {
                        "type": ["array", "null"],
                        "items": {"type": "string"},
                        "description": "patterns as in rate cards; null: all",
                    },
                    "model_allowed": {"type": "boolean", "description": "where a model was asked"},
                    "cap": {
                        "anyOf": [
                            {
                                **_LIMIT,
                                "description": "what the key may use, and has left now",
                                "properties": {"units": _UNITS, **_LIMIT["properties"]},
                            },
                            {"type": "null"},
                        ]
                    },
                    "iat": {"type": "integer"},
                    "exp": {"type": "integer", "description": "of one that was rotated"},
                },
            },
            description="Not to be kept for longer than a revocation may wait.",
        ),
        **refusals(413, 422, 429),
    },
}


# --- the reconciliation centre ------------------------------------------------------------------

_TOTAL = {"type": "integer", "minimum": 0, "maximum": 10**15}
_MAYBE_TOTAL = {**_TOTAL, "type": ["integer", "null"]}
_NUMBER = {"type": "integer", "minimum": 0, "maximum": 10**18 - 1}
_MAYBE_SOURCE = {"type": ["string", "null"], "maxLength": 256}
USAGE_COUNTERS: dict[str, Any] = {
    "operation_id": "send_usage_counters",
    "summary": "A gateway's own totals of a window, to be compared",
    "request": {
        "application/json": {
            "type": "object",
            "required": [
                "window_start",
                "window_end",
                "requests",
                "input_tokens",
                "output_tokens",
            ],
            "properties": {
                "window_start": _TIME,
                "window_end": {**_TIME, "description": "not included"},
                "requests": {**_TOTAL, "description": "records, whatever their outcome"},
                "input_tokens": {**_TOTAL, "description": "holds cached and cache-write tokens"},
                "cached_input_tokens": _MAYBE_TOTAL,
                "cache_write_tokens": _MAYBE_TOTAL,
                "output_tokens": {**_TOTAL, "description": "holds reasoning tokens"},
                "reasoning_tokens": _MAYBE_TOTAL,
                "source": {**_MAYBE_SOURCE, "description": "left out: of all; empty: native ones"},
                "sequences": {
                    "type": "array",
                    "maxItems": 1000,
                    "description": "numbers of the records, as in their attributes.sequence",
                    "items": {
                        "type": "object",
                        "required": ["first", "last"],
                        "properties": {
                            "first": _NUMBER,
                            "last": _NUMBER,
                            "source": _MAYBE_SOURCE,
                        },
                    },
                },
            },
        }
    },
    "examples": [
        OpenApiExample(
            "an hour",
            {
                "window_start": "2026-06-10T03:00:00Z",
                "window_end": "2026-06-10T04:00:00Z",
                "requests": 1000,
                "input_tokens": 1_200_000,
                "output_tokens": 340_000,
                "sequences": [{"first": 5001, "last": 6000}],
            },
            request_only=True,
        )
    ],
}


# Other senders' formats: theirs to describe, so only loosely here ---------------------------------

_EVENT = {"type": "object", "additionalProperties": True}
_EVENTS = {"type": "array", "items": _EVENT}
# Which events were not charged, by index and cause; not sent where all were.
_REJECTED = OpenApiParameter(
    "Usage-Rejected",
    str,
    OpenApiParameter.HEADER,
    description="Events that went to the quarantine: `3=unknown_subject, 7=no_usage`.",
    response=[200, 204],
)
_LAGO_422 = {
    "type": "object",
    "required": ["status", "error", "code", "error_details"],
    "properties": {
        "status": {"type": "integer"},
        "error": {"type": "string"},
        "code": {"type": "string"},
        "error_details": {"type": "object"},
    },
}
_CLOUD_EVENT = {
    "specversion": "1.0",
    "type": "litellm_tokens",
    "id": "chatcmpl-123",
    "time": "2026-06-10T04:00:00Z",
    "subject": "user-7",
    "source": "litellm-proxy",
    "data": {"model": "deepseek/deepseek-chat", "prompt_tokens": 58, "completion_tokens": 20},
}
_LAGO_EVENT = {
    "event": {
        "transaction_id": "7ff3e0a2-5b8f-4f4e-8f0e-6a4f4d1f0c11",
        "external_subscription_id": "user-7",
        "code": "llm",
        "properties": {"model": "gpt-4o", "prompt_tokens": 58, "completion_tokens": 20},
    }
}


def events(operation_id: str) -> dict[str, Any]:
    """Of /events and /events/batch, which take the same."""
    body = {"oneOf": [_EVENT, _EVENTS]}
    return {
        "operation_id": operation_id,
        "summary": "Usage from OpenMeter, Lago and LiteLLM clients",
        "description": "The format is told by Content-Type and top-level keys, and never guessed.",
        "parameters": [_REJECTED],
        "request": {
            "application/json": body,
            "application/cloudevents+json": _EVENT,
            "application/cloudevents-batch+json": _EVENTS,
            "application/x-ndjson": body,
        },
        "responses": {
            200: OpenApiResponse(_EVENT, description="Lago's events, or as of usage-records."),
            204: OpenApiResponse(description="OpenMeter's events are committed."),
            (422, "application/json"): OpenApiResponse(
                _LAGO_422, description="Lago's ids that were charged before; the rest is charged."
            ),
            **refusals(413, 415),
        },
        "examples": [
            OpenApiExample("OpenMeter", _CLOUD_EVENT, request_only=True),
            OpenApiExample("Lago", _LAGO_EVENT, request_only=True),
        ],
    }


def _one_format(
    operation_id: str, summary: str, request: dict[str, Any], answer: dict[str, Any]
) -> dict[str, Any]:
    return {
        "operation_id": operation_id,
        "summary": summary,
        "parameters": [_REJECTED],
        "request": request,
        "responses": {
            200: OpenApiResponse(answer, description="Committed."),
            **refusals(413, 415),
        },
    }


STRIPE_V1 = _one_format(
    "send_stripe_meter_event",
    "A meter event of Stripe's v1 API",
    {"application/x-www-form-urlencoded": _EVENT},
    _EVENT,
)
STRIPE_V2 = _one_format(
    "send_stripe_meter_event_v2",
    "A meter event of Stripe's v2 API",
    {"application/json": _EVENT},
    _EVENT,
)
POLAR = _one_format(
    "send_polar_events",
    "Events of Polar clients",
    {
        "application/json": {
            "type": "object",
            "required": ["events"],
            "properties": {"events": _EVENTS},
        }
    },
    {
        "type": "object",
        "required": ["inserted", "duplicates"],
        "properties": {"inserted": {"type": "integer"}, "duplicates": {"type": "integer"}},
    },
)
AUTUMN = _one_format(
    "track_autumn_usage", "Usage of Autumn clients", {"application/json": _EVENT}, _EVENT
)
AUTUMN_BALANCES = _one_format(
    "track_autumn_balance", "Usage of newer Autumn clients", {"application/json": _EVENT}, _EVENT
)
AUTUMN_TOKENS = _one_format(
    "track_autumn_tokens",
    "Tokens of one call, from Autumn's wrappers",
    {"application/json": _EVENT},
    _EVENT,
)
AUTUMN_TOKEN_BATCHES = _one_format(
    "track_autumn_token_batch",
    "Tokens of many calls, from Autumn's clients",
    {"application/json": {"type": "array", "items": _EVENT}},
    _EVENT,
)
TRACES = _one_format(
    "send_otlp_traces",
    "OpenTelemetry spans with GenAI attributes",
    {"application/json": _EVENT},
    _EVENT,
)
LOGS = _one_format(
    "send_otlp_logs",
    "OpenTelemetry log records with GenAI attributes",
    {"application/json": _EVENT},
    _EVENT,
)


# --- forward-auth -------------------------------------------------------------------------------

_PERMISSION = {
    "type": "object",
    "required": ["decision", "available"],
    "properties": {
        "decision": {"type": "string", "enum": ["allow", "degrade"]},
        "available": _UNITS,
        "cause": {"type": "string", "enum": _DENIALS},
        "degrade_to": _DEGRADE_TO,
    },
}
_TOLD = [
    OpenApiParameter(
        name,
        {"type": "string"},
        OpenApiParameter.HEADER,
        description=says,
        response=statuses,
    )
    for name, says, statuses in (
        ("X-Decision", "allow, degrade or deny", [200]),
        ("X-Tokens-Remaining", "whole units that the prepaid buckets have left", [200]),
        ("X-Degrade-Model", "the model that the plan allows instead", [200]),
        ("X-Degrade-Tokens-Per-Minute", "the rate that the plan allows", [200]),
    )
]


def authorize(operation_id: str, *, below: bool = False) -> dict[str, Any]:
    """The schema of one of the ways to ask it."""
    where = [OpenApiParameter("original", str, OpenApiParameter.PATH)] if below else []
    return {
        "operation_id": operation_id,
        "parameters": [
            *where,
            OpenApiParameter(
                "X-Subject",
                str,
                OpenApiParameter.HEADER,
                description="Or X-Original-Subject, X-Forwarded-User; they win over the query.",
            ),
            OpenApiParameter(
                "X-Model",
                str,
                OpenApiParameter.HEADER,
                description="Or X-Original-Model, X-Forwarded-Model. Without: any model.",
            ),
            OpenApiParameter(
                "X-Original-URI",
                str,
                OpenApiParameter.HEADER,
                description="Or X-Original-URL, X-Forwarded-Uri; its query may name both.",
            ),
            OpenApiParameter("subject", str, OpenApiParameter.QUERY),
            OpenApiParameter("model", str, OpenApiParameter.QUERY),
            OpenApiParameter(
                "refuse_with",
                {"type": "string", "enum": ["403"]},
                OpenApiParameter.QUERY,
                description="403: no 429, which nginx's auth_request takes for an error.",
            ),
            *_TOLD,
        ],
        "request": None,
        "responses": {
            200: OpenApiResponse(_PERMISSION, description="Go on, as the answer says."),
            **refusals(*((404,) if below else ()), 422, 429),
        },
    }
