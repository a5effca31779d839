"""What every door for a gateway key shares: no framework between the wire and the work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any

from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse
from django.http.request import UnreadablePostError
from rest_framework.views import APIView

from metering import parsing
from metering.context import Caller
from metering.parsing import Malformed, TooLarge
from metering.terms import KeyRevoked
from subscriptions import keys
from subscriptions.api import problems
from subscriptions.api.auth import GatewayKey, WrongRole, bearer_key
from subscriptions.errors import DomainError
from subscriptions.models import ApiKey

JSON = "application/json"

# --- who calls ----------------------------------------------------------------------------------

_REMEMBERED_KEYS = 10_000
# Keys seen valid. Whatever is done for one looks whether it was revoked, so this needs no expiry.
_callers: dict[bytes, Caller] = {}


class Unauthorized(DomainError):
    status = 401
    cause = "unauthorized"


def caller_of(request: HttpRequest) -> Caller:
    """The gateway whose key the request carries. Raises Unauthorized, WrongRole."""
    return caller_in(request.META)


def caller_in(meta: Mapping[str, Any]) -> Caller:
    """The same by the request's headers as WSGI has them."""
    key = bearer_key(meta)
    digest = keys.digest_of(key)
    caller = _callers.get(digest)
    if caller is not None:
        return caller
    found = keys.find(key) if key else None
    if found is None:
        raise Unauthorized("send `Authorization: Bearer KEY` with a key that was not revoked")
    if found.role != ApiKey.Role.GATEWAY or found.gateway_id is None:
        raise WrongRole(f"usage is sent with a gateway key; yours is of role {found.role}")
    if len(_callers) >= _REMEMBERED_KEYS:
        _callers.clear()
    caller = Caller(found.operator_id, found.gateway_id, found.pk, found.subject)
    _callers[digest] = caller
    return caller


def _problem_of(error: Exception) -> HttpResponse:
    """The answer to a request that could not be served."""
    if isinstance(error, KeyRevoked):  # it was seen valid before; look every key up again
        _callers.clear()
        error = Unauthorized("this key was revoked; ask the operator for a new one")
    return problems.of_exception(error)


# --- what it sends ------------------------------------------------------------------------------


def body_of(request: HttpRequest) -> bytes:
    """The unpacked body. Raises Malformed, TooLarge."""
    return unpacked(request.META, lambda: sent(request))


def unpacked(meta: Mapping[str, Any], read: Callable[[], bytes]) -> bytes:
    """The same by the request's headers and a way to read what it sent."""
    return parsing.unpack(read(), meta.get("HTTP_CONTENT_ENCODING", ""))


def sent(request: HttpRequest) -> bytes:
    """The body as it came. Raises Malformed, TooLarge."""
    try:
        return request.body
    except RequestDataTooBig as error:
        raise _too_large() from error
    except UnreadablePostError as error:
        raise _cut_short() from error


def _too_large() -> TooLarge:
    return TooLarge(f"a body has at most {parsing.MAX_BYTES} bytes; send several")


def _cut_short() -> Malformed:
    return Malformed("the connection ended before the body did")


# --- through Django -----------------------------------------------------------------------------


class GatewayDoor(APIView):
    """A door for gateways, whose methods take Django's own request and `caller_of` it."""

    authentication_classes = (GatewayKey,)

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Without DRF's request, negotiation and renderers: they cost more than the work."""
        method = (request.method or "").lower()
        handler = getattr(self, method, None) if method in ("get", "post") else None
        if handler is None:
            allowed = [name.upper() for name in ("get", "post") if hasattr(self, name)]
            return problems.method_not_allowed(allowed)
        try:
            response: HttpResponse = handler(request, *args, **kwargs)
        except Exception as error:
            return _problem_of(error)
        return response


# --- past Django --------------------------------------------------------------------------------

# What answers a POST with these headers and body, in JSON; it raises what refuses it.
Respond = Callable[[Mapping[str, Any], Callable[[], bytes]], bytes]
_Start = Callable[[str, list[tuple[str, str]]], Any]


def wsgi(
    environ: dict[str, Any], start_response: _Start, respond: Respond, status: HTTPStatus
) -> Iterable[bytes]:
    """A POST as a WSGI application: what Django does around a view costs as much as the work."""
    try:
        body = respond(environ, lambda: _read(environ))
    except Exception as error:
        refusal = _problem_of(error)
        headers = [*refusal.items(), _length_of(refusal.content)]
        start_response(_line_of(HTTPStatus(refusal.status_code)), headers)
        return [refusal.content]
    start_response(
        _line_of(status),
        [("Content-Type", JSON), ("X-Content-Type-Options", "nosniff"), _length_of(body)],
    )
    return [body]


def _line_of(status: HTTPStatus) -> str:
    return f"{status.value} {status.phrase}"


def _length_of(body: bytes) -> tuple[str, str]:
    return "Content-Length", str(len(body))


def _read(environ: dict[str, Any]) -> bytes:
    """The body, if it is whole and of a size that is taken."""
    declared = environ.get("CONTENT_LENGTH") or ""
    if declared.isascii() and declared.isdigit():
        length = int(declared)
        if length > parsing.MAX_BYTES:
            raise _too_large()
        body: bytes = environ["wsgi.input"].read(length) if length else b""
        if len(body) < length:
            raise _cut_short()
        return body
    body = environ["wsgi.input"].read(parsing.MAX_BYTES + 1)
    if len(body) > parsing.MAX_BYTES:
        raise _too_large()
    return body
