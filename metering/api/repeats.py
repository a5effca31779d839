"""Records that may have been told twice, listed for the operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from metering import repeats
from metering.models import SuspectedRepeat
from subscriptions.api import pagination
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import Instant
from subscriptions.api.schema import CURSOR, LIMIT, refusals


class SuspectedRepeatRow(serializers.Serializer[Any]):
    """A charged record with another id than `first_record_id`, and otherwise the same."""

    id = serializers.CharField()
    gateway = serializers.CharField()
    source = serializers.CharField()  # type: ignore[assignment]
    record_id = serializers.CharField()
    first_record_id = serializers.CharField()
    subject = serializers.CharField()
    model = serializers.CharField()
    occurred_at = Instant()
    units = serializers.CharField()
    flagged_at = Instant()


class SuspectedRepeatPage(serializers.Serializer[Any]):
    items = SuspectedRepeatRow(many=True)
    next = serializers.URLField(allow_null=True)


def _show(rows: Sequence[SuspectedRepeat]) -> list[dict[str, Any]]:
    return [repeats.as_json(row) for row in rows]


class SuspectedRepeatsDoor(OperatorDoor):
    @extend_schema(
        operation_id="list_suspected_repeats",
        parameters=[CURSOR, LIMIT],
        responses={200: SuspectedRepeatPage, **refusals()},
    )
    def get(self, request: Request) -> Response:
        """Records that may have been told twice under made-up ids; all of them are charged."""
        rows = SuspectedRepeat.objects.filter(operator=operator_of(request))
        ordered = rows.select_related("gateway").order_by("id")
        return Response(pagination.page(request, ordered, by="id", of_type=int, show=_show))
