"""`POST /api/v1/test-clock`: here, in the highest room, because time moves all of them."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing import due
from subscriptions import clock
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import Instant
from subscriptions.api.schema import refusals


class ClockBody(serializers.Serializer[Any]):
    """A test operator's time; it stands still until it is moved."""

    now = Instant()


class TestClockDoor(OperatorDoor):
    @extend_schema(
        operation_id="move_test_clock",
        request=ClockBody,
        responses={
            200: OpenApiResponse(ClockBody, description="All that fell due is done."),
            **refusals(409, 413, 415, 422),
        },
    )
    def post(self, request: Request) -> Response:
        """Move a test operator's clock, and do all that falls due until then."""
        operator = operator_of(request)
        body = ClockBody(data=request.data)
        body.is_valid(raise_exception=True)
        to = body.validated_data["now"]
        clock.move(operator.pk, to=to)
        due.run(operator, at=to)
        return Response(ClockBody({"now": to}).data)
