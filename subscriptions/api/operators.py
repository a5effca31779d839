"""`/api/v1/operator`: what the key's own operator is, and what it may say about itself."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from subscriptions import operators
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import Code, Text
from subscriptions.api.schema import refusals

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
        help_text="where subscribers can buy more; told to gateways that are refused",
    )


class OperatorDoorItself(OperatorDoor):
    @extend_schema(operation_id="get_operator", responses={200: OperatorBody, **refusals()})
    def get(self, request: Request) -> Response:
        """The operator that the key belongs to."""
        return Response(OperatorBody(operator_of(request)).data)

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
        operators.change(operator, **body.validated_data)
        return Response(OperatorBody(operator).data)
