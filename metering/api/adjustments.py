"""Doors of what is done after the fact: void and correct a record, and the audit of both."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from metering import adjusting, receipts
from metering.api.reports import RecordRow
from metering.models import Adjustment
from subscriptions import clock, registry
from subscriptions.api import pagination
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import Count, Instant, Text, to_wire_time
from subscriptions.api.idempotency import idempotent
from subscriptions.api.schema import CURSOR, EXTERNAL_ID, IDEMPOTENCY_KEY, LIMIT, refusals
from subscriptions.models import ApiKey, Bucket, BucketEntry, Subscriber
from subscriptions.units import to_wire

MAX_TOKENS = 1_000_000_000
RECORD_ID = OpenApiParameter(
    "record_id",
    {"type": "string", "minLength": 1, "maxLength": 512},
    OpenApiParameter.PATH,
    description="The record's id as its gateway sent it.",
)


class Which(serializers.Serializer[Any]):
    """Why, and which record where several have its id."""

    reason = Text(max_length=500)
    gateway = Text(max_length=100, required=False, help_text="its name")
    source = Text(  # type: ignore[assignment]
        max_length=256, required=False, allow_blank=True, help_text="empty for native records"
    )
    occurred_at = Instant(required=False)


def _tokens() -> Count:
    return Count(min_value=0, max_value=MAX_TOKENS, required=False)


class Correction(Which):
    """What the record should have said; what is left out stays as it is."""

    model = Text(max_length=256, required=False)
    outcome = Text(max_length=32, required=False)
    input_tokens = _tokens()
    cached_input_tokens = _tokens()
    cache_write_tokens = _tokens()
    output_tokens = _tokens()
    reasoning_tokens = _tokens()

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if not attrs.keys() - Which().fields.keys():
            raise serializers.ValidationError("say what the record should have said")
        return attrs


class Moved(serializers.Serializer[Any]):
    """What one bucket was drawn for more (< 0: got back); `lapsed` came back too late."""

    id = serializers.CharField()
    kind = serializers.CharField()
    units = serializers.CharField()
    lapsed = serializers.CharField()


class AdjustmentRow(serializers.Serializer[Any]):
    """A decision on charged usage; `units` is what it costs more (< 0: less) than before."""

    batch = serializers.CharField()
    kind = serializers.ChoiceField(choices=[kind.name.lower() for kind in Adjustment.Kind])
    subscriber = serializers.CharField()
    reason = serializers.CharField()
    made_by = serializers.CharField(help_text="the name of the key")
    made_at = Instant()
    records = serializers.IntegerField()
    units = serializers.CharField()
    buckets = Moved(many=True)


class AdjustmentPage(serializers.Serializer[Any]):
    items = AdjustmentRow(many=True)
    next = serializers.URLField(allow_null=True)


class AdjustedBody(serializers.Serializer[Any]):
    """The record as it is in force now, and the decision; null where nothing had to change."""

    record = RecordRow()
    adjustment = AdjustmentRow(allow_null=True)


def show(adjustments: Sequence[Adjustment]) -> list[dict[str, Any]]:
    """Adjustments as they travel, with the buckets they moved."""
    subscriber_ids = {adjustment.subscriber_id for adjustment in adjustments}
    names = dict(Subscriber.objects.filter(pk__in=subscriber_ids).values_list("pk", "external_id"))
    moved: dict[tuple[int, int], dict[int, list[int]]] = defaultdict(
        lambda: defaultdict(lambda: [0, 0])
    )
    times = [adjustment.made_at for adjustment in adjustments]
    entries = BucketEntry.objects.filter(
        subscriber_id__in=subscriber_ids,
        batch_id__in=[adjustment.batch_id for adjustment in adjustments],
        charged_at__in=times,
    )
    usage, reversal, lapse = (
        BucketEntry.Kind.USAGE,
        BucketEntry.Kind.REVERSAL,
        BucketEntry.Kind.LAPSE,
    )
    for entry in entries.order_by("bucket_id"):
        place = moved[entry.subscriber_id, entry.batch_id][entry.bucket_id]
        if entry.kind in (usage, reversal):
            place[0] += entry.units
        elif entry.kind == lapse:
            place[1] += entry.units
    kinds = {
        (bucket.subscriber_id, bucket.id): bucket.kind
        for bucket in Bucket.objects.filter(
            subscriber_id__in=subscriber_ids, id__in={b for own in moved.values() for b in own}
        )
    }
    return [
        {
            "batch": str(adjustment.batch_id),
            "kind": Adjustment.Kind(adjustment.kind).name.lower(),
            "subscriber": names[adjustment.subscriber_id],
            "reason": adjustment.reason,
            "made_by": adjustment.made_by,
            "made_at": to_wire_time(adjustment.made_at),
            "records": adjustment.records,
            "units": to_wire(adjustment.units),
            "buckets": [
                {
                    "id": str(bucket_id),
                    "kind": kinds[adjustment.subscriber_id, bucket_id],
                    "units": to_wire(units),
                    "lapsed": to_wire(lapsed),
                }
                for bucket_id, (units, lapsed) in moved[
                    adjustment.subscriber_id, adjustment.batch_id
                ].items()
            ],
        }
        for adjustment in adjustments
    ]


def _name_and_why(request: Request, record_id: str, said: Any) -> tuple[Any, Any]:
    key = request.user
    assert isinstance(key, ApiKey)
    return (
        adjusting.Name(record_id, said.get("gateway"), said.get("source"), said.get("occurred_at")),
        adjusting.Why(said["reason"], key.name),
    )


def _answer(subscriber: Subscriber, done: adjusting.Adjusted) -> Response:
    [record] = receipts.as_json(subscriber.operator, subscriber.pk, [done.record])
    shown = show([done.adjustment] if done.adjustment else [])
    record["occurred_at"] = to_wire_time(record["occurred_at"])
    for step in record["adjustments"]:
        step["made_at"] = to_wire_time(step["made_at"])
    return Response({"record": record, "adjustment": shown[0] if shown else None})


class VoidDoor(OperatorDoor):
    @extend_schema(
        operation_id="void_usage_record",
        parameters=[EXTERNAL_ID, RECORD_ID, IDEMPOTENCY_KEY],
        request=Which,
        responses={
            200: OpenApiResponse(AdjustedBody, description="It is void; again is harmless."),
            **refusals(404, 409, 413, 415, 422),
        },
    )
    @idempotent
    def post(self, request: Request, external_id: str, record_id: str) -> Response:
        """Take a record back: its units return to the buckets that it drew and that still live."""
        operator = operator_of(request)
        subscriber = registry.find(operator, external_id)
        body = Which(data=request.data)
        body.is_valid(raise_exception=True)
        name, why = _name_and_why(request, record_id, body.validated_data)
        done = adjusting.void(operator, subscriber.pk, name, why, at=clock.now(operator))
        return _answer(subscriber, done)


class CorrectDoor(OperatorDoor):
    @extend_schema(
        operation_id="correct_usage_record",
        parameters=[EXTERNAL_ID, RECORD_ID, IDEMPOTENCY_KEY],
        request=Correction,
        responses={
            200: OpenApiResponse(AdjustedBody, description="It says so; again is harmless."),
            **refusals(404, 409, 413, 415, 422),
        },
    )
    @idempotent
    def post(self, request: Request, external_id: str, record_id: str) -> Response:
        """Let a record say what it should have said: less goes back, more is drawn."""
        operator = operator_of(request)
        subscriber = registry.find(operator, external_id)
        body = Correction(data=request.data)
        body.is_valid(raise_exception=True)
        said = body.validated_data
        name, why = _name_and_why(request, record_id, said)
        right = adjusting.Said(**{k: v for k, v in said.items() if k not in Which().fields})
        done = adjusting.correct(operator, subscriber.pk, name, right, why, at=clock.now(operator))
        return _answer(subscriber, done)


class AdjustmentsDoor(OperatorDoor):
    @extend_schema(
        operation_id="list_adjustments",
        parameters=[
            CURSOR,
            LIMIT,
            OpenApiParameter("subscriber", str, description="only this subscriber's"),
        ],
        responses={200: AdjustmentPage, **refusals(404)},
    )
    def get(self, request: Request) -> Response:
        """What was adjusted, by whom and why, in the order it was done."""
        operator = operator_of(request)
        rows = Adjustment.objects.filter(operator=operator)
        if (external_id := request.query_params.get("subscriber")) is not None:
            rows = rows.filter(subscriber_id=registry.find(operator, external_id).pk)
        ordered = rows.order_by("batch_id")
        return Response(pagination.page(request, ordered, by="batch_id", of_type=int, show=show))
