"""Doors of tax rates: what a category is taxed at, from which day on."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from subscriptions import clock, taxes
from subscriptions.api import fields, pagination
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import Code, Instant
from subscriptions.api.offerings import read_code
from subscriptions.api.schema import CURSOR, LIMIT, refusals
from subscriptions.models import TaxRate

CATEGORY = OpenApiParameter(
    "category",
    {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"},
    OpenApiParameter.PATH,
)


class Day(serializers.DateField):
    """A day of the operator's zone, as in 2026-01-01."""

    def to_internal_value(self, value: Any) -> Any:
        if not isinstance(value, str):
            self.fail("invalid", format="2026-01-01")
        day = super().to_internal_value(value)
        if not 1970 <= day.year <= 9000:
            self.fail("invalid", format="2026-01-01")
        return day


class TaxRateBody(serializers.Serializer[Any]):
    """What a category is taxed at from a day on, until its next rate."""

    category = Code(read_only=True)
    effective_from = Day()
    rate = fields.TaxRate()
    created_at = Instant(read_only=True)


class TaxRatePage(serializers.Serializer[Any]):
    items = TaxRateBody(many=True)
    next = serializers.URLField(allow_null=True)


class TaxRateDoor(OperatorDoor):
    @extend_schema(
        operation_id="publish_tax_rate",
        parameters=[CATEGORY],
        request=TaxRateBody,
        responses={
            200: OpenApiResponse(TaxRateBody, description="It is so already."),
            201: OpenApiResponse(TaxRateBody, description="A new rate was made."),
            **refusals(409, 413, 415, 422),
        },
    )
    def put(self, request: Request, category: str) -> Response:
        """Let a category be taxed at a rate from a day on; also of plans sold before."""
        operator = operator_of(request)
        category = read_code(category)
        body = TaxRateBody(data=request.data)
        body.is_valid(raise_exception=True)
        rate, made = taxes.publish(
            operator, category, **body.validated_data, at=clock.now(operator)
        )
        return Response(TaxRateBody(rate).data, status=201 if made else 200)


class TaxRatesDoor(OperatorDoor):
    @extend_schema(
        operation_id="list_tax_rates",
        parameters=[CURSOR, LIMIT],
        responses={200: TaxRatePage, **refusals()},
    )
    def get(self, request: Request) -> Response:
        """Every rate that was published, in that order; of two with one day the later holds."""
        return Response(
            pagination.page(
                request,
                TaxRate.objects.filter(operator=operator_of(request)).order_by("pk"),
                by="pk",
                of_type=int,
                show=lambda rows: [TaxRateBody(row).data for row in rows],
            )
        )
