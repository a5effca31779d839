"""What the OpenAPI schema says about every door: its refusals, and the headers it takes."""

from __future__ import annotations

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse
from rest_framework import serializers

from subscriptions.api.fields import EXTERNAL_ID_SCHEMA
from subscriptions.api.problems import CONTENT_TYPE


class FieldError(serializers.Serializer[Any]):
    field = serializers.CharField()
    detail = serializers.CharField()


class ProblemBody(serializers.Serializer[Any]):
    """RFC 9457 problem details."""

    type = serializers.CharField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    cause = serializers.CharField(help_text="stable; for machines")
    detail = serializers.CharField(help_text="for people")
    errors = FieldError(many=True, required=False)  # type: ignore[assignment]


_MEANING = {
    400: "The request could not be read.",
    401: "The key is missing, unknown or revoked.",
    403: "The key is of another role.",
    404: "There is no such thing at this operator.",
    409: "It contradicts what is already there; `cause` says how.",
    413: "Too many or too large.",
    415: "Another media type is needed.",
    422: "It was read, and breaks a rule; `errors` names the fields.",
    429: "A limit that passes by itself; `Retry-After` says when, where that is known.",
    503: "The database is away; nothing was done.",
}
_ALWAYS = (400, 401, 403, 503)


def refusals(*statuses: int) -> dict[tuple[int, str], OpenApiResponse]:
    """Problem responses for these statuses and for those that every keyed door has."""
    return {
        (status, CONTENT_TYPE): OpenApiResponse(ProblemBody, description=_MEANING[status])
        for status in sorted({*_ALWAYS, *statuses})
    }


IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]{1,255}$"},
    OpenApiParameter.HEADER,
    description="Same key and body: the first answer again. Same key, other body: 409.",
)
CODE = OpenApiParameter(
    "code",
    {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"},
    OpenApiParameter.PATH,
)
EXTERNAL_ID = OpenApiParameter(
    "external_id",
    EXTERNAL_ID_SCHEMA,
    OpenApiParameter.PATH,
    description="The subscriber's id in the operator's CRM.",
)
CURSOR = OpenApiParameter("cursor", str, OpenApiParameter.QUERY, description="From `next`; opaque.")
LIMIT = OpenApiParameter(
    "limit",
    {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
    OpenApiParameter.QUERY,
)


class KeyScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """Both kinds of keys are bearer keys."""

    target_class = "subscriptions.api.auth._KeyAuthentication"
    match_subclasses = True

    @property
    def name(self) -> str:  # type: ignore[override]
        return type(self.target).__name__

    def get_security_definition(self, auto_schema: AutoSchema) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "description": str(self.target.__doc__)}
