"""What a subscriber used: totals by hour, day or month, and the records with their receipts."""

from __future__ import annotations

import datetime as dt
from typing import Any
from zoneinfo import ZoneInfo

from django.db import transaction
from django.utils.dateparse import parse_datetime
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from metering import receipts, rollups
from metering.models import Adjustment, UsageRecord
from subscriptions import registry
from subscriptions.api import pagination
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import Instant
from subscriptions.api.pagination import BadQuery
from subscriptions.api.schema import CURSOR, EXTERNAL_ID, LIMIT, refusals
from subscriptions.models import Operator
from subscriptions.periods import FIRST, LAST
from subscriptions.units import to_wire


class UsageRow(serializers.Serializer[Any]):
    """Totals of one period, of one model where `by` names it too."""

    period = serializers.DateTimeField(help_text="its first instant, in the operator's zone")
    model = serializers.CharField(required=False)
    requests = serializers.IntegerField()
    input_tokens = serializers.IntegerField()
    cached_input_tokens = serializers.IntegerField()
    cache_write_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    reasoning_tokens = serializers.IntegerField()
    units = serializers.CharField()


class UsageBody(serializers.Serializer[Any]):
    items = UsageRow(many=True)


_FROM = OpenApiParameter("from", dt.datetime, required=True, description="inclusive")
_TO = OpenApiParameter("to", dt.datetime, required=True, description="exclusive")


def _instant(request: Request, name: str) -> dt.datetime:
    """A query parameter that is an instant with its offset. Raises BadQuery."""
    given = request.query_params.get(name, "")
    try:
        # A "+" that was not escaped comes as a space.
        instant = parse_datetime(given.replace(" ", "+"))
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise BadQuery(f"{name} is a time with its offset, such as 2026-06-01T00:00:00+08:00")
    if not FIRST <= instant < LAST:
        raise BadQuery(f"{name} is too far away: give a year from {FIRST.year} to {LAST.year - 1}")
    return instant.astimezone(dt.UTC)  # PostgreSQL knows offsets of less than 16 hours only


class UsageDoor(OperatorDoor):
    @extend_schema(
        operation_id="usage",
        parameters=[
            EXTERNAL_ID,
            _FROM,
            _TO,
            OpenApiParameter(
                "by",
                {
                    "type": "string",
                    "enum": [
                        f"{by}{model}" for by in rollups.MAX_RANGE for model in ("", ",model")
                    ],
                },
                required=True,
            ),
        ],
        responses={200: UsageBody, **refusals(404, 422)},
    )
    def get(self, request: Request, external_id: str) -> Response:
        """What a subscriber used by hour, day or month; exact at this moment."""
        operator = operator_of(request)
        subscriber = registry.find(operator, external_id)
        by, _, model = request.query_params.get("by", "").partition(",")
        if by not in rollups.MAX_RANGE or model not in ("", "model"):
            raise BadQuery("by is hour, day or month, each with `,model` behind it if you like")
        zone = ZoneInfo(operator.time_zone)
        rows = rollups.usage(
            operator.pk,
            subscriber.pk,
            zone,
            since=_instant(request, "from"),
            until=_instant(request, "to"),
            by=by,
            by_model=bool(model),
        )
        return Response({"items": [_row(row, zone) for row in rows]})


def _row(row: rollups.Row, zone: ZoneInfo) -> dict[str, Any]:
    shown: dict[str, Any] = {"period": row.period.astimezone(zone).isoformat()}
    if row.model is not None:
        shown["model"] = row.model
    return {
        **shown,
        "requests": row.requests,
        "input_tokens": row.uncached_input_tokens
        + row.cached_input_tokens
        + row.cache_write_tokens,
        "cached_input_tokens": row.cached_input_tokens,
        "cache_write_tokens": row.cache_write_tokens,
        "output_tokens": row.output_tokens + row.reasoning_tokens,
        "reasoning_tokens": row.reasoning_tokens,
        "units": to_wire(row.units),
    }


class ReceiptLine(serializers.Serializer[Any]):
    """Tokens of one exclusive class x weight = units."""

    locals()["class"] = serializers.CharField()
    tokens = serializers.IntegerField()
    weight = serializers.CharField()
    units = serializers.CharField()


class ReceiptDraw(serializers.Serializer[Any]):
    id = serializers.CharField()
    kind = serializers.CharField()
    units = serializers.CharField()


class Receipt(serializers.Serializer[Any]):
    rate_card = serializers.CharField()
    rate_card_version = serializers.IntegerField()
    lines = ReceiptLine(many=True)
    buckets = ReceiptDraw(many=True)


class AdjustmentStep(serializers.Serializer[Any]):
    """What was changed of a record after it was charged."""

    batch = serializers.CharField()
    kind = serializers.ChoiceField(choices=[kind.name.lower() for kind in Adjustment.Kind])
    reason = serializers.CharField()
    made_by = serializers.CharField(help_text="the name of the key")
    made_at = Instant()
    units_before = serializers.CharField()
    units_after = serializers.CharField()


class RecordRow(serializers.Serializer[Any]):
    """A usage record as it is in force, with its receipt; one that is void counts nothing."""

    id = serializers.CharField()
    subject = serializers.CharField()
    model = serializers.CharField()
    occurred_at = Instant()
    outcome = serializers.CharField(allow_null=True)
    voided = serializers.BooleanField()
    input_tokens = serializers.IntegerField()
    cached_input_tokens = serializers.IntegerField()
    cache_write_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    reasoning_tokens = serializers.IntegerField()
    units = serializers.CharField()
    receipt = Receipt()
    adjustments = AdjustmentStep(many=True)


class RecordsBody(serializers.Serializer[Any]):
    items = RecordRow(many=True)
    next = serializers.URLField(allow_null=True)


class UsageRecordsDoor(OperatorDoor):
    @extend_schema(
        operation_id="usage_records",
        parameters=[EXTERNAL_ID, _FROM, _TO, CURSOR, LIMIT],
        responses={
            200: OpenApiResponse(RecordsBody, description="In order of time."),
            **refusals(404, 422),
        },
    )
    def get(self, request: Request, external_id: str) -> Response:
        """A subscriber's records with their receipts: tokens, weights, buckets."""
        operator = operator_of(request)
        subscriber = registry.find(operator, external_id)
        since, until = _instant(request, "from"), _instant(request, "to")
        limit = pagination.limit_of(request)
        after = pagination.cursor_of(request, str, int, str, str)
        with transaction.atomic():
            records = _page(operator, subscriber.pk, since, until, after, limit + 1)
            shown = records[:limit]
            items = receipts.as_json(operator, subscriber.pk, shown)
        next_url = None
        if len(records) > limit:
            last = shown[-1]
            next_url = pagination.next_url(
                request,
                [last.occurred_at.isoformat(), last.gateway_id, last.source, last.record_id],
            )
        return Response({"items": items, "next": next_url})


def _page(
    operator: Operator,
    subscriber_id: int,
    since: dt.datetime,
    until: dt.datetime,
    after: list[Any] | None,
    limit: int,
) -> list[UsageRecord]:
    """Records in (occurred_at, gateway, source, id) order, behind the cursor."""
    rows = UsageRecord.objects.filter(
        subscriber_id=subscriber_id, occurred_at__gte=since, occurred_at__lt=until
    )
    if after is not None:
        moment = parse_datetime(after[0])
        if moment is None or moment.tzinfo is None:
            raise pagination.BadCursor("this cursor is not one of this list; start without one")
        # The first column alone finds the place in the index; the rest breaks ties.
        rows = rows.filter(occurred_at__gte=moment).extra(
            where=["(occurred_at, gateway_id, source, record_id) > (%s, %s, %s, %s)"],
            params=[moment, *after[1:]],
        )
    ordered = rows.order_by("occurred_at", "gateway_id", "source", "record_id")
    return list(ordered[:limit])
