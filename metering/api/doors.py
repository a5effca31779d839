"""What every door for a gateway key shares: no framework between the wire and the work."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from rest_framework.views import APIView

from metering.api.usage_records import Unauthorized, forget_keys
from metering.ingest import KeyRevoked
from subscriptions.api import problems
from subscriptions.api.auth import GatewayKey


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
        except KeyRevoked:
            forget_keys()
            return problems.of_exception(
                Unauthorized("this key was revoked; ask the operator for a new one")
            )
        except Exception as error:
            return problems.of_exception(error)
        return response
