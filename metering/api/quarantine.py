"""What could not be charged: listed for the operator, charged again once the cause is mended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.http import Http404
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from metering import quarantine, retrying
from metering.models import QuarantinedRecord
from subscriptions import clock
from subscriptions.api import pagination
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import Instant
from subscriptions.api.schema import CURSOR, LIMIT, refusals
from subscriptions.units import to_wire


class QuarantineRow(serializers.Serializer[Any]):
    """A record that waits, with the reason; `record` is what was sent."""

    id = serializers.CharField()
    gateway = serializers.CharField()
    record_id = serializers.CharField(allow_blank=True)
    subject = serializers.CharField(allow_blank=True)
    cause = serializers.CharField()
    detail = serializers.CharField()
    record = serializers.JSONField()
    received_at = Instant()
    attempts = serializers.IntegerField()
    resolution = serializers.CharField(allow_null=True)
    resolved_at = Instant(allow_null=True)


class QuarantinePage(serializers.Serializer[Any]):
    items = QuarantineRow(many=True)
    next = serializers.URLField(allow_null=True)


class RetryBody(serializers.Serializer[Any]):
    """`charged`, `duplicate` (it was charged before), or still `rejected` with its cause now."""

    id = serializers.CharField()
    status = serializers.ChoiceField(choices=["charged", "duplicate", "rejected"])
    cause = serializers.CharField(allow_null=True)
    detail = serializers.CharField(allow_null=True)
    units = serializers.CharField(allow_null=True)


def _show(rows: Sequence[QuarantinedRecord]) -> list[dict[str, Any]]:
    return [quarantine.as_json(row) for row in rows]


class QuarantineDoor(OperatorDoor):
    @extend_schema(
        operation_id="list_quarantine",
        parameters=[
            CURSOR,
            LIMIT,
            OpenApiParameter("cause", str, description="only those with this cause"),
            OpenApiParameter("all", bool, description="resolved ones too"),
        ],
        responses={200: QuarantinePage, **refusals()},
    )
    def get(self, request: Request) -> Response:
        """Records that wait, in the order they came."""
        rows = QuarantinedRecord.objects.filter(operator=operator_of(request))
        everything = request.query_params.get("all", "false")
        if everything not in ("0", "false", "1", "true"):
            raise pagination.BadQuery("all is true or false")
        if everything in ("0", "false"):
            rows = rows.filter(resolved_at__isnull=True)
        if cause := request.query_params.get("cause"):
            rows = rows.filter(cause=cause.replace("\0", "")[:32])
        ordered = rows.select_related("gateway").order_by("id")
        return Response(pagination.page(request, ordered, by="id", of_type=int, show=_show))


class QuarantineRetryDoor(OperatorDoor):
    @extend_schema(
        operation_id="retry_quarantined_record",
        parameters=[OpenApiParameter("quarantine_id", int, OpenApiParameter.PATH)],
        request=None,
        responses={
            200: OpenApiResponse(RetryBody, description="What became of it; again is harmless."),
            **refusals(404),
        },
    )
    def post(self, request: Request, quarantine_id: int) -> Response:
        """Charge the record now, as if it came when it was received."""
        operator = operator_of(request)
        row = (
            QuarantinedRecord.objects.select_related("operator", "gateway")
            .filter(operator=operator, pk=min(quarantine_id, 2**63 - 1))
            .first()
        )
        if row is None:
            raise Http404
        outcome = retrying.retry(row, wall=clock.wall(), at=clock.now(operator))
        return Response(
            {
                "id": str(row.pk),
                "status": outcome.status,
                "cause": outcome.cause,
                "detail": outcome.detail,
                "units": None if outcome.units is None else to_wire(outcome.units),
            }
        )
