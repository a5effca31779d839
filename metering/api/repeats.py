"""Records that may have been told twice, listed for the operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.http import Http404
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from metering import repeats
from metering.models import SuspectedRepeat
from subscriptions import clock
from subscriptions.api import pagination
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import Instant, Text
from subscriptions.api.schema import CURSOR, LIMIT, refusals
from subscriptions.models import ApiKey


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
    dismissed_at = Instant(allow_null=True)
    dismissed_by = serializers.CharField(allow_null=True, help_text="the key")
    dismissed_reason = serializers.CharField(allow_null=True)


class SuspectedRepeatPage(serializers.Serializer[Any]):
    items = SuspectedRepeatRow(many=True)
    next = serializers.URLField(allow_null=True)


def _show(rows: Sequence[SuspectedRepeat]) -> list[dict[str, Any]]:
    return [repeats.as_json(row) for row in rows]


class SuspectedRepeatsDoor(OperatorDoor):
    @extend_schema(
        operation_id="list_suspected_repeats",
        parameters=[CURSOR, LIMIT, OpenApiParameter("all", bool, description="dismissed ones too")],
        responses={200: SuspectedRepeatPage, **refusals()},
    )
    def get(self, request: Request) -> Response:
        """Records that may have been told twice under made-up ids; all of them are charged."""
        rows = SuspectedRepeat.objects.filter(operator=operator_of(request))
        everything = request.query_params.get("all", "false")
        if everything not in ("0", "false", "1", "true"):
            raise pagination.BadQuery("all is true or false")
        if everything in ("0", "false"):
            rows = rows.filter(dismissal__isnull=True)
        ordered = rows.select_related("gateway", "dismissal__key").order_by("id")
        return Response(pagination.page(request, ordered, by="id", of_type=int, show=_show))


class DismissBody(serializers.Serializer[Any]):
    reason = Text(max_length=repeats.MAX_REASON)


class DismissDoor(OperatorDoor):
    @extend_schema(
        operation_id="dismiss_suspected_repeat",
        parameters=[OpenApiParameter("repeat_id", int, OpenApiParameter.PATH)],
        request=DismissBody,
        responses={200: SuspectedRepeatRow, **refusals(404, 409, 422)},
    )
    def post(self, request: Request, repeat_id: int) -> Response:
        """Say that it is no repeat, and why; it is kept, and no longer listed."""
        operator = operator_of(request)
        body = DismissBody(data=request.data)
        body.is_valid(raise_exception=True)
        rows = SuspectedRepeat.objects.select_related("gateway", "dismissal__key")
        rows = rows.filter(operator=operator, pk=min(repeat_id, 2**63 - 1))
        row = rows.first()
        if row is None:
            raise Http404
        assert isinstance(request.user, ApiKey)
        repeats.dismiss(
            row,
            reason=body.validated_data["reason"],
            key_id=request.user.pk,
            at=clock.now(operator),
        )
        return Response(repeats.as_json(rows.get()))
