"""What every door for an operator key shares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from django.http import HttpRequest, HttpResponseBase
from django.utils import translation
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.views import APIView

from subscriptions.api.auth import HasKey, OperatorKey
from subscriptions.api.parsers import JsonParser
from subscriptions.models import ApiKey, Operator


class JsonOnly(BaseContentNegotiation):
    """JSON in, JSON out, whatever `Accept` prefers: there is nothing else."""

    def select_parser(self, request: Request, parsers: Iterable[BaseParser]) -> BaseParser | None:
        media_type = request.content_type.partition(";")[0].strip().lower()
        is_json = media_type == "application/json" or media_type.endswith("+json")
        return next(iter(parsers)) if is_json else None

    def select_renderer(  # type: ignore[override]
        self,
        request: Request,
        renderers: Sequence[BaseRenderer],
        format_suffix: str | None = None,
    ) -> tuple[BaseRenderer, str]:
        return renderers[0], renderers[0].media_type


class OperatorDoor(APIView):
    """A door for the carrier's own systems. The answer is English, whoever asks."""

    authentication_classes = (OperatorKey,)
    permission_classes = (HasKey,)
    parser_classes = (JsonParser,)
    renderer_classes = (JSONRenderer,)
    content_negotiation_class = JsonOnly

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        with translation.override("en"):
            return super().dispatch(request, *args, **kwargs)


def operator_of(request: Request) -> Operator:
    """Whose key it is: all that a request may see or change belongs to this operator."""
    assert isinstance(request.user, ApiKey)
    return request.user.operator
