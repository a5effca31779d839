"""`/api/v1/authorize`: forward-auth, as nginx, Envoy, Traefik and their like ask it.

One look at what a reservation would be decided from, without a lock and without a trace.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
from django.http import HttpRequest, HttpResponse
from drf_spectacular.utils import extend_schema

from metering import asking
from metering.api import schema
from metering.api.doors import JSON, GatewayDoor, caller_of
from metering.asking import Permission
from metering.context import Caller
from metering.terms import KeyRevoked
from subscriptions import accounts, clock
from subscriptions.api.problems import Problem
from subscriptions.errors import DomainError, Invalid
from subscriptions.subscriber_keys import looking
from subscriptions.units import THOUSANDTHS, to_wire

# In this order. What the gateway sets wins over what its client may have written into an address.
_SUBJECT = ("HTTP_X_SUBJECT", "HTTP_X_ORIGINAL_SUBJECT", "HTTP_X_FORWARDED_USER")
_MODEL = ("HTTP_X_MODEL", "HTTP_X_ORIGINAL_MODEL", "HTTP_X_FORWARDED_MODEL")
_ADDRESSES = ("HTTP_X_ORIGINAL_URI", "HTTP_X_ORIGINAL_URL", "HTTP_X_FORWARDED_URI")
_LONGEST = 256
_LONGEST_CLIENT = 128

_SAYS = {
    "no_plan": "the subscriber holds no plan; sell one, or a booster",
    "exhausted": "all units are used up; top up, or wait for the next period",
    "capped": "the plan's cap on overage is reached; top up, or wait for the next period",
    "suspended": "the line is suspended; settle what is owed",
    "frozen": "the line is frozen to protect it; ask the operator",
    "rate_limited": "a limit of the plan is reached for now; wait, or ask for less",
    "unknown_subject": "no subscriber is called that; name it in X-Subject",
    "unknown_model": "the plan's rate card has no weight for this model",
    "key_revoked": "the key was revoked; present another",
    "key_capped": "the key's own cap is reached; wait, or raise it",
    "night_lock": "the subscriber wants no answers at this time of the day",
    "minor_capped": "what a minor may use in a day is used; it begins anew with the next",
    "model_not_allowed": "the key may not use this model; ask for another, or allow it",
}


def _named(request: HttpRequest, name: str, headers: tuple[str, ...]) -> str:
    """What a request says in one of these headers, its query, or the address it is about."""
    for header in headers:
        if value := request.META.get(header):
            return str(value)
    if value := request.GET.get(name):
        return str(value)
    for header in _ADDRESSES:
        if address := request.META.get(header):
            try:
                found = parse_qs(urlsplit(address).query).get(name)
            except ValueError:  # no address, or of a thousand parameters
                continue
            if found:
                return str(found[0])
    return ""


class UnknownKey(DomainError):
    status = 403
    cause = "unknown_key"


def _subject_of(caller: Caller, presented: str, client: str) -> str:
    """Under which subject usage by a presented key is sent. Raises UnknownKey, TooManyGuesses."""
    at = accounts.now(caller.operator_id, caller.key_id, wall=clock.wall())
    if at is None:
        raise KeyRevoked
    # As clients send it: with the scheme before it or without.
    scheme, _, rest = presented.partition(" ")
    found = looking.present(
        caller.operator_id,
        caller.gateway_id,
        rest.strip() if scheme.lower() == "bearer" else presented,
        client[:_LONGEST_CLIENT],
        at=at,
    )
    if found is None:
        raise UnknownKey("no live key is called that; present another")
    return found[0].subject


class AuthorizeDoor(GatewayDoor):
    @extend_schema(**schema.authorize("authorize"))
    def get(self, request: HttpRequest, original: str = "") -> HttpResponse:
        """Whether a subject may use a model now: 200, or 403 or 429 with the cause."""
        caller = caller_of(request)
        refuse_with = request.GET.get("refuse_with", "")
        if refuse_with not in ("", "403"):
            raise Invalid("refuse_with is 403, or left out")
        presented = request.META.get("HTTP_X_PRESENTED_KEY", "")
        if presented:
            subject = _subject_of(caller, presented, request.META.get("HTTP_X_PRESENTED_BY", ""))
        else:
            subject = caller.subject or _named(request, "subject", _SUBJECT)
        model = _named(request, "model", _MODEL)
        if len(subject) > _LONGEST or "\0" in subject:
            subject = ""  # nobody is called that
        permission = asking.permit(caller, subject, model, wall=clock.wall())
        if permission.cause and permission.decision == "deny":
            return _refusal(permission, 403 if refuse_with else permission.status)
        return _grant(permission, subject if presented else "")

    @extend_schema(**schema.authorize("authorize_by_post"))
    def post(self, request: HttpRequest, original: str = "") -> HttpResponse:
        """The same; a body is not looked at."""
        return self.get(request)


class AuthorizeAddressDoor(AuthorizeDoor):
    """The same under any address below: Envoy puts a prefix before the one it is about."""

    @extend_schema(**schema.authorize("authorize_address", below=True))
    def get(self, request: HttpRequest, original: str = "") -> HttpResponse:
        """The same for an address below, which is not looked at."""
        return super().get(request)

    @extend_schema(**schema.authorize("authorize_address_by_post", below=True))
    def post(self, request: HttpRequest, original: str = "") -> HttpResponse:
        """The same; a body is not looked at."""
        return super().get(request)


def _grant(permission: Permission, subject: str) -> HttpResponse:
    said: dict[str, Any] = {
        "decision": permission.decision,
        "available": to_wire(permission.available),
    }
    headers = {
        "X-Decision": permission.decision,
        "X-Tokens-Remaining": str(permission.available // THOUSANDTHS),
    }
    if subject:  # what the gateway cannot know: whose the presented key is
        said["subject"] = subject
        if subject.isascii() and subject.isprintable():
            headers["X-Subject"] = subject
    if permission.degrade_to is not None:
        said["cause"] = headers["X-Cause"] = permission.cause
        said["degrade_to"] = permission.degrade_to
        model, rate = permission.degrade_to["model"], permission.degrade_to["tokens_per_minute"]
        if model and model.isascii() and model.isprintable():
            headers["X-Degrade-Model"] = model
        if rate:
            headers["X-Degrade-Tokens-Per-Minute"] = str(rate)
    return HttpResponse(msgspec.json.encode(said), content_type=JSON, headers=headers)


def _refusal(permission: Permission, status: int) -> HttpResponse:
    headers = {
        "X-Decision": permission.decision,
        "X-Cause": permission.cause,
        "X-Tokens-Remaining": str(permission.available // THOUSANDTHS),
    }
    more: dict[str, Any] = {"available": to_wire(permission.available)}
    if permission.top_up_url:
        more["top_up_url"] = headers["X-Top-Up-Url"] = permission.top_up_url
    if permission.limit is not None:
        more["limit"] = asking.wire_limit(permission.limit)
    if permission.retry_after is not None:
        headers["Retry-After"] = str(permission.retry_after)
    detail = _SAYS[permission.cause]
    return Problem(status, permission.cause, detail, headers=headers, more=more).response()
