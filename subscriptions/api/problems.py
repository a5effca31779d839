"""Every refusal as RFC 9457 `application/problem+json`, with a stable `cause` for machines.

    {"type": "about:blank", "title": "Conflict", "status": 409, "cause": "plan_held",
     "detail": "the subscriber holds a plan …", "errors": [{"field": "plan", "detail": "…"}]?}

400 is what could not be read, 422 what was read and breaks a rule; `errors` names the fields.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import psycopg
from django.core.exceptions import PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.db import DataError, InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse
from django.http.request import UnreadablePostError
from rest_framework import exceptions
from rest_framework.response import Response

from subscriptions.errors import DomainError

log = logging.getLogger(__name__)

CONTENT_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 2

UNAVAILABLE = (
    OperationalError,
    InterfaceError,
    psycopg.OperationalError,
    psycopg.InterfaceError,
)
# Recursion: JSON nested just less deeply than the parser bears.
_UNREADABLE = (SuspiciousOperation, UnreadablePostError, RecursionError)


@dataclass(frozen=True, slots=True)
class Problem:
    """What an answer says about why it is none."""

    status: int
    cause: str
    detail: str
    errors: list[dict[str, str]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)  # members of its own, as RFC 9457 allows

    def body(self) -> dict[str, Any]:
        said: dict[str, Any] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "cause": self.cause,
            "detail": _clean(self.detail),
        }
        return {**said, "errors": self.errors} if self.errors else said | self.more

    def response(self) -> HttpResponse:
        return HttpResponse(
            json.dumps(self.body(), ensure_ascii=False),
            status=self.status,
            content_type=CONTENT_TYPE,
            headers=self.headers,
        )


def describe(error: Exception) -> Problem:
    """The problem that an exception is to the caller; what is our own fault is logged, not told."""
    if isinstance(error, DomainError):
        headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
        if error.retry_after is not None:
            headers["Retry-After"] = str(error.retry_after)
        return Problem(error.status, error.cause, error.detail, headers=headers)
    if isinstance(error, exceptions.ValidationError):
        errors = list(_flatten(error.detail))
        return Problem(422, "invalid", "some values cannot be taken; see `errors`", errors)
    if isinstance(error, Http404):
        return Problem(404, "not_found", "there is nothing here")
    if isinstance(error, PermissionDenied):
        return Problem(403, "forbidden", "this is not allowed")
    if isinstance(error, exceptions.APIException):
        return _of_framework(error)
    if isinstance(error, RequestDataTooBig):
        return Problem(413, "too_large", "the body is too large; send several")
    if isinstance(error, _UNREADABLE):
        return Problem(400, "malformed", "the request could not be read")
    if isinstance(error, UNAVAILABLE):
        log.warning("database unavailable: %s", error)
        return Problem(
            503,
            "unavailable",
            "the database did not answer; nothing was done, send it again",
            headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
        )
    if isinstance(error, DataError | psycopg.DataError):
        # A value no check refused and the database did: the caller's to mend, ours to look at.
        log.warning("the database refused a value", exc_info=error)
        return Problem(422, "invalid", "a value cannot be stored")
    log.error("unhandled error", exc_info=error)
    return Problem(500, "internal", "an error on our side; it was logged")


_FRAMEWORK_CAUSES = {
    400: "malformed",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    415: "unsupported_media_type",
    429: "rate_limited",
}


def _of_framework(error: exceptions.APIException) -> Problem:
    headers = {}
    if error.status_code == 401:
        headers["WWW-Authenticate"] = "Bearer"
    wait = getattr(error, "wait", None)
    if wait is not None:
        headers["Retry-After"] = str(int(wait) + 1)
    cause = _FRAMEWORK_CAUSES.get(error.status_code, "invalid")
    return Problem(error.status_code, cause, str(error.detail), headers=headers)


def _flatten(detail: Any, path: str = "") -> Iterator[dict[str, str]]:
    """DRF's nested lists and objects of messages, one line each: `overage.cap.amount`."""
    if isinstance(detail, dict):
        for name, inner in detail.items():
            here = str(name) if name != "non_field_errors" else ""
            yield from _flatten(inner, ".".join(part for part in (path, here) if part))
    elif isinstance(detail, list):
        for index, inner in enumerate(detail):
            nested = isinstance(inner, dict | list)
            yield from _flatten(inner, f"{path}.{index}" if nested else path)
    else:
        yield {"field": _clean(path), "detail": _clean(str(detail))}


def _clean(text: str) -> str:
    """Text that may quote the caller, without the half characters that UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode()


# Where the answers leave -------------------------------------------------------------------------


def exception_handler(error: Exception, context: dict[str, Any]) -> Response:
    """DRF's EXCEPTION_HANDLER."""
    problem = describe(error)
    return Response(
        problem.body(), status=problem.status, headers=problem.headers, content_type=CONTENT_TYPE
    )


def of_exception(error: Exception) -> HttpResponse:
    """The same for a door that does without DRF's request."""
    return describe(error).response()


def method_not_allowed(allowed: Iterable[str]) -> HttpResponse:
    return Problem(
        405,
        "method_not_allowed",
        "this address does not know that method",
        headers={"Allow": ", ".join(allowed)},
    ).response()


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Django's handler400: a wrong Host, a broken query string, a body that is too large."""
    if isinstance(exception, RequestDataTooBig):
        return of_exception(exception)
    return Problem(400, "malformed", "the request could not be read").response()


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Django's handler403."""
    return of_exception(PermissionDenied())


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Django's handler404. `exception` holds the tried addresses: not for the outside."""
    return of_exception(Http404())


def server_error(request: HttpRequest) -> HttpResponse:
    """Django's handler500. The error is logged by Django already."""
    return Problem(500, "internal", "an error on our side; it was logged").response()
