"""What the OpenAPI schema says of the doors that do without DRF's serializers."""

from __future__ import annotations

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiResponse

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
_ANSWER = {
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
