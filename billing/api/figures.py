"""Doors for the figures of an operator's days."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing import figures
from billing.models import DayFigures
from subscriptions import clock
from subscriptions.api import pagination
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import Instant, to_wire_time
from subscriptions.api.schema import CURSOR, LIMIT, refusals


class FiguresBody(serializers.Serializer[Any]):
    """What was counted of a day; units in `values` are thousandths, money is a decimal string."""

    day = serializers.DateField(help_text="in the operator's zone")
    measured_at = Instant()
    slow_at = Instant(help_text="when units, accounts, receivables and arpu were counted")
    values = serializers.DictField(
        help_text="gateways, quarantine, windows, subscriptions, mrr, payments, units, accounts,"
        " receivables, arpu"
    )


class FiguresPage(serializers.Serializer[Any]):
    items = FiguresBody(many=True)
    next = serializers.URLField(allow_null=True)


class FiguresDoor(OperatorDoor):
    @extend_schema(
        operation_id="list_figures",
        parameters=[LIMIT, CURSOR],
        responses={200: FiguresPage, **refusals()},
    )
    def get(self, request: Request) -> Response:
        """The figures of each day, as last measured, the earliest first."""
        rows = DayFigures.objects.filter(operator=operator_of(request)).order_by("pk")
        return Response(
            pagination.page(
                request,
                rows,
                by="pk",
                of_type=int,
                show=lambda some: [_as_json(one) for one in some],
            )
        )

    @extend_schema(
        operation_id="measure_figures", request=None, responses={200: FiguresBody, **refusals()}
    )
    def post(self, request: Request) -> Response:
        """Count the figures of today now, the slow ones where they are an hour old."""
        operator = operator_of(request)
        return Response(_as_json(figures.measure(operator, at=clock.now(operator))))


def _as_json(row: DayFigures) -> dict[str, Any]:
    return {
        "day": row.day.isoformat(),
        "measured_at": to_wire_time(row.measured_at),
        "slow_at": to_wire_time(row.slow_at),
        "values": row.values,
    }
