"""`/api/v1/operator`: what the key's own operator is, and what it may say about itself."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from subscriptions import clock, operators
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import Code, Flag, Instant, Text
from subscriptions.api.schema import refusals
from subscriptions.models import Operator

_WEB = ("https://", "http://")


class WebAddress(Text):
    """An address that a browser may open; it goes into a header, hence plain ASCII."""

    default_error_messages = {"address": "a URL that begins with https:// or http://"}

    def to_internal_value(self, data: Any) -> str:
        text = super().to_internal_value(data)
        if text and not (text.startswith(_WEB) and text.isascii() and text.isprintable()):
            self.fail("address")
        return text


class OperatorBody(serializers.Serializer[Any]):
    """The operator that the key belongs to."""

    code = Code(read_only=True)
    name = serializers.CharField(read_only=True)
    time_zone = serializers.CharField(read_only=True)
    currency = serializers.CharField(read_only=True)
    top_up_url = WebAddress(
        max_length=500,
        allow_blank=True,
        required=False,
        help_text="where subscribers can buy more; told to gateways that are refused",
    )
    overage_by_consent = Flag(
        required=False,
        help_text="whether overage is paid only by who agreed to it, in periods from tomorrow on",
    )
    overage_by_consent_since = Instant(read_only=True, allow_null=True)


class OperatorDoorItself(OperatorDoor):
    @extend_schema(operation_id="get_operator", responses={200: OperatorBody, **refusals()})
    def get(self, request: Request) -> Response:
        """The operator that the key belongs to."""
        return _shown(operator_of(request))

    @extend_schema(
        operation_id="change_operator",
        request=OperatorBody,
        responses={200: OperatorBody, **refusals(413, 415, 422)},
    )
    def patch(self, request: Request) -> Response:
        """Change what the operator says about itself."""
        operator = operator_of(request)
        body = OperatorBody(data=request.data)
        body.is_valid(raise_exception=True)
        operators.change(operator, **body.validated_data, at=clock.now(operator))
        return _shown(operator)


def _shown(operator: Operator) -> Response:
    since = operator.overage_by_consent_since
    said = {
        "code": operator.code,
        "name": operator.name,
        "time_zone": operator.time_zone,
        "currency": operator.currency,
        "top_up_url": operator.top_up_url,
        "overage_by_consent": since is not None,
        "overage_by_consent_since": since,
    }
    return Response(OperatorBody(said).data)
