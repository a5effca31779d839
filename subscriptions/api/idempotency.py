"""`Idempotency-Key`: a POST that moves units or money, sent twice, is done once.

The answer is stored in the transaction of the effect, so that there are both or neither. A
second request with the same key waits for the first and gets its answer, `Idempotency-Replayed`
beside it. A refusal by a rule (409, 422) is an answer like any other; what could not be read, or
names something that is not there (400, 401, 404 …), is none and may be sent again.

The same body is the same JSON: a client that sends again sends what it sent. "5" and "5.000" units
are two bodies, though one amount, as two spellings of an instant are: only each view knows which of
its texts are amounts, and a 409 where nothing is at stake is safer than an answer to something
else.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from typing import Any

from django.db import connection, transaction
from rest_framework.request import Request
from rest_framework.response import Response

from subscriptions import clock
from subscriptions.advisory import Lock
from subscriptions.api import problems
from subscriptions.api.doors import operator_of
from subscriptions.errors import Conflict, DomainError, Invalid
from subscriptions.models import IdempotentRequest

_KEPT_REFUSALS = (409, 422)

Handler = Callable[..., Response]


class IdempotencyConflict(Conflict):
    cause = "idempotency_conflict"


class BadKey(Invalid):
    status = 400
    cause = "bad_idempotency_key"


def idempotent(handler: Handler) -> Handler:
    """Let a view's method honour `Idempotency-Key`. Its answer must be JSON of plain values."""

    @functools.wraps(handler)
    def once(view: Any, request: Request, *args: Any, **kwargs: Any) -> Response:
        key = request.headers.get("Idempotency-Key")
        if key is None:
            return handler(view, request, *args, **kwargs)
        if not (0 < len(key) <= 255 and key.isascii() and key.isprintable()):
            raise BadKey("Idempotency-Key has 1 to 255 printable ASCII characters")
        operator = operator_of(request)
        fingerprint = _fingerprint(request)
        with transaction.atomic():
            _lock(operator.pk, key)
            first = IdempotentRequest.objects.filter(operator=operator, key=key).first()
            if first is not None:
                if bytes(first.fingerprint) != fingerprint:
                    raise IdempotencyConflict("this key was used for another request")
                return _replay(first)
            response = _answer(handler, view, request, *args, **kwargs)
            IdempotentRequest.objects.create(
                operator=operator,
                key=key,
                fingerprint=fingerprint,
                status=response.status_code,
                body=response.data,
                created_at=clock.now(operator),
            )
        return response

    return once


def _answer(handler: Handler, view: Any, request: Request, *args: Any, **kwargs: Any) -> Response:
    """The handler's answer, or its refusal by a rule; a refusal leaves no effect."""
    try:
        with transaction.atomic():
            return handler(view, request, *args, **kwargs)
    except DomainError as error:
        if error.status not in _KEPT_REFUSALS:
            raise
        return problems.exception_handler(error, {})


def _replay(first: IdempotentRequest) -> Response:
    return Response(
        first.body,
        status=first.status,
        content_type=problems.CONTENT_TYPE if first.status >= 400 else None,
        headers={"Idempotency-Replayed": "true"},
    )


def _fingerprint(request: Request) -> bytes:
    """SHA-256 of what was asked; two spellings of the same JSON are the same request."""
    body = json.dumps(request.data, sort_keys=True, separators=(",", ":"))
    asked = f"{request.method} {request.path}\n{body}"
    return hashlib.sha256(asked.encode("utf-8", "surrogatepass")).digest()


def _lock(operator_id: int, key: str) -> None:
    """One request of a key at a time; keys whose hashes meet wait for each other, harmlessly."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_advisory_xact_lock(%s, hashtext(%s))",
            [Lock.IDEMPOTENCY_KEY.value, f"{operator_id} {key}"],
        )
