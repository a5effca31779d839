"""Who is calling: bearer keys, as DRF authentication and as a plain function for the hot path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rest_framework import authentication, exceptions, permissions
from rest_framework.request import Request

from subscriptions import keys
from subscriptions.errors import DomainError
from subscriptions.models import ApiKey

if TYPE_CHECKING:  # this module is a default of DRF's settings, which its views read on import
    from rest_framework.views import APIView


class WrongRole(DomainError):
    status = 403
    cause = "wrong_role"


def bearer_key(meta: Mapping[str, Any]) -> str:
    """The key in `Authorization: Bearer KEY`, or "" where there is none; `meta` as in WSGI."""
    scheme, _, key = meta.get("HTTP_AUTHORIZATION", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


class _KeyAuthentication(authentication.BaseAuthentication):
    role: str

    def authenticate(self, request: Request) -> tuple[ApiKey, None]:
        key = bearer_key(request.META)
        found = keys.find(key) if key else None
        if found is None:
            raise exceptions.AuthenticationFailed(
                "send `Authorization: Bearer KEY` with a key that has not been revoked"
            )
        if found.role != self.role:
            raise WrongRole(f"this needs a key of role {self.role}; yours is of role {found.role}")
        return found, None

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class OperatorKey(_KeyAuthentication):
    """The carrier's CRM and staff scripts; sees its own operator only."""

    role = ApiKey.Role.OPERATOR


class GatewayKey(_KeyAuthentication):
    """A gateway; may send usage and ask for quota."""

    role = ApiKey.Role.GATEWAY


class HasKey(permissions.BasePermission):
    """The permission of every keyed view: authentication has already refused all others."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        return isinstance(request.user, ApiKey)
