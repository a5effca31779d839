"""`POST /api/v1/usage-records`: the hot door. Reads the clock, translates, charges, answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse
from django.http.request import UnreadablePostError
from drf_spectacular.utils import extend_schema
from rest_framework.views import APIView

from metering import parsing
from metering.api import schema
from metering.combining import Combiner
from metering.context import Caller
from metering.ingest import Ingested, KeyRevoked, ingest
from metering.parsing import Malformed, Parsed, TooLarge, Usage
from subscriptions import clock, keys
from subscriptions.api import problems
from subscriptions.api.auth import GatewayKey, WrongRole, bearer_key
from subscriptions.errors import Conflict, DomainError
from subscriptions.models import ApiKey
from subscriptions.units import to_wire

_REMEMBERED_KEYS = 10_000
# Keys seen valid. The charge itself looks whether a key was revoked, so this needs no expiry.
_callers: dict[bytes, Caller] = {}


class Unauthorized(DomainError):
    status = 401
    cause = "unauthorized"


def caller_of(request: HttpRequest) -> Caller:
    """The gateway whose key the request carries. Raises Unauthorized, WrongRole."""
    return _caller(request.META)


def _caller(meta: Mapping[str, Any]) -> Caller:
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


def forget_keys() -> None:
    """Look every key up again."""
    _callers.clear()


def body_of(request: HttpRequest) -> bytes:
    """The unpacked body. Raises Malformed, TooLarge."""
    return parsing.unpack(_sent(request), request.META.get("HTTP_CONTENT_ENCODING", ""))


def _sent(request: HttpRequest) -> bytes:
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


def _charge_together(caller: Caller, usages: Sequence[Usage]) -> list[Ingested]:
    """Charge single records of one gateway as one batch; one answer each."""
    together = ingest(caller, usages, at=clock.wall())
    answers = [Ingested(together.batch_id) for _ in usages]
    for index, units in together.charged:
        answers[index].charged.append((0, units))
    for index in together.duplicates:
        answers[index].duplicates.append(0)
    for rejection in together.rejected:
        answers[rejection.index].rejected.append(dataclasses.replace(rejection, index=0))
    return answers


_singles: Combiner[Caller, Usage, Ingested] = Combiner(_charge_together)


def charge(caller: Caller, parsed: Parsed) -> Ingested:
    """Charge what a request holds; single records of one moment share a transaction.

    Raises Unauthorized where the key was revoked meanwhile.
    """
    try:
        if len(parsed.usages) == 1 and not parsed.rejected:
            return _singles.submit(caller, parsed.usages[0])
        return ingest(
            caller, parsed.usages, parsed.rejected, at=clock.wall(), indexes=parsed.indexes
        )
    except KeyRevoked as error:
        forget_keys()
        raise Unauthorized("this key was revoked; ask the operator for a new one") from error


def answer(ingested: Ingested) -> dict[str, Any]:
    """The body of the 200."""
    return {
        "batch": str(ingested.batch_id),
        "accepted": len(ingested.charged),
        "duplicates": len(ingested.duplicates),
        "rejected": [
            {
                "index": rejection.index,
                "id": rejection.id,
                "cause": rejection.cause,
                "detail": rejection.detail,
                "quarantine_id": str(rejection.quarantine_id),
            }
            for rejection in ingested.rejected
        ],
        "units": to_wire(ingested.units),
    }


def respond(meta: Mapping[str, Any], read: Callable[[], bytes]) -> bytes:
    """The body of the 200 to a POST with these headers and body. Raises what refuses it."""
    caller = _caller(meta)
    parsed = parsing.parse_native(parsing.unpack(read(), meta.get("HTTP_CONTENT_ENCODING", "")))
    ingested = charge(caller, parsed)
    if parsed.single and ingested.rejected and ingested.rejected[0].cause == "conflict":
        raise Conflict(ingested.rejected[0].detail)
    return msgspec.json.encode(answer(ingested))


class UsageRecords(APIView):
    """Charge usage records. Sending them again charges nothing twice."""

    authentication_classes = (GatewayKey,)

    @extend_schema(**schema.USAGE_RECORDS)
    def post(self, request: HttpRequest) -> HttpResponse:
        body = respond(request.META, lambda: _sent(request))
        return HttpResponse(body, content_type="application/json")

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Without DRF's request, negotiation and renderers: they cost more than the charge."""
        if request.method != "POST":
            return problems.method_not_allowed(("POST",))
        try:
            return self.post(request)
        except Exception as error:
            return problems.of_exception(error)


# --- the same door without Django's request and middleware ----------------------------------------

_OK = "200 OK"
_Start = Callable[[str, list[tuple[str, str]]], Any]


def wsgi(environ: dict[str, Any], start_response: _Start) -> Iterable[bytes]:
    """The POST as a WSGI application: what Django does around a view costs as much as a charge."""
    try:
        body = respond(environ, lambda: _read(environ))
    except Exception as error:
        refusal = problems.of_exception(error)
        status = f"{refusal.status_code} {HTTPStatus(refusal.status_code).phrase}"
        start_response(status, [*refusal.items(), _length_of(refusal.content)])
        return [refusal.content]
    start_response(
        _OK,
        [
            ("Content-Type", "application/json"),
            ("X-Content-Type-Options", "nosniff"),
            _length_of(body),
        ],
    )
    return [body]


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
