"""Doors of re-rating: preview who gains and loses, then apply what was previewed."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from metering import rerating
from metering.adjusting import Why
from metering.models import Rerating
from subscriptions import clock
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import Code, Instant, Text, to_wire_time
from subscriptions.api.idempotency import idempotent
from subscriptions.api.schema import IDEMPOTENCY_KEY, refusals
from subscriptions.models import ApiKey, Subscriber
from subscriptions.units import to_wire

RUN = OpenApiParameter("run_id", int, OpenApiParameter.PATH)


class ReratingOrder(serializers.Serializer[Any]):
    """Usage of `[since, until)` under `rate_card`; only what `replaces` weighed, where given."""

    rate_card = Code()
    replaces = Code(required=False)
    since = Instant()
    until = Instant()
    reason = Text(max_length=500)


class ShareRow(serializers.Serializer[Any]):
    """`difference` < 0: the subscriber gains."""

    subscriber = serializers.CharField()
    records = serializers.IntegerField(help_text="that change")
    units_before = serializers.CharField()
    units_after = serializers.CharField()
    difference = serializers.CharField()
    batch = serializers.CharField(allow_null=True, help_text="null until it is applied")


class ReratingBody(serializers.Serializer[Any]):
    id = serializers.CharField()
    rate_card = serializers.CharField()
    replaces = serializers.CharField(allow_null=True)
    since = Instant()
    until = Instant()
    reason = serializers.CharField()
    made_by = serializers.CharField()
    made_at = Instant()
    applied_at = Instant(allow_null=True)
    gain = serializers.IntegerField()
    lose = serializers.IntegerField()
    subscribers = ShareRow(many=True)


def _show(run: Rerating) -> dict[str, Any]:
    shares = rerating.shares_of(run)
    names = dict(
        Subscriber.objects.filter(pk__in=[s.subscriber_id for s in shares]).values_list(
            "pk", "external_id"
        )
    )
    return {
        "id": str(run.pk),
        "rate_card": run.rate_card,
        "replaces": run.replaces or None,
        "since": to_wire_time(run.since),
        "until": to_wire_time(run.until),
        "reason": run.reason,
        "made_by": run.made_by,
        "made_at": to_wire_time(run.made_at),
        "applied_at": to_wire_time(run.applied_at) if run.applied_at else None,
        "gain": sum(share.units_after < share.units_before for share in shares),
        "lose": sum(share.units_after > share.units_before for share in shares),
        "subscribers": [
            {
                "subscriber": names[share.subscriber_id],
                "records": share.records,
                "units_before": to_wire(share.units_before),
                "units_after": to_wire(share.units_after),
                "difference": to_wire(share.units_after - share.units_before),
                "batch": str(share.batch_id) if share.batch_id else None,
            }
            for share in shares
        ],
    }


class ReratingsDoor(OperatorDoor):
    @extend_schema(
        operation_id="preview_rerating",
        parameters=[IDEMPOTENCY_KEY],
        request=ReratingOrder,
        responses={201: ReratingBody, **refusals(409, 413, 415, 422)},
    )
    @idempotent
    def post(self, request: Request) -> Response:
        """Preview a range of usage under another rate card: who gains and who loses."""
        operator = operator_of(request)
        order = ReratingOrder(data=request.data)
        order.is_valid(raise_exception=True)
        said = order.validated_data
        key = request.user
        assert isinstance(key, ApiKey)
        run = rerating.preview(
            operator,
            rate_card=said["rate_card"],
            replaces=said.get("replaces", ""),
            since=said["since"],
            until=said["until"],
            why=Why(said["reason"], key.name),
            at=clock.now(operator),
        )
        return Response(_show(run), status=201)


class ReratingDoor(OperatorDoor):
    @extend_schema(
        operation_id="get_rerating",
        parameters=[RUN],
        responses={200: ReratingBody, **refusals(404)},
    )
    def get(self, request: Request, run_id: int) -> Response:
        """A re-rating as it was previewed, and what of it is applied."""
        return Response(_show(rerating.find(operator_of(request), run_id)))


class ReratingApplyDoor(OperatorDoor):
    @extend_schema(
        operation_id="apply_rerating",
        parameters=[RUN],
        request=None,
        responses={
            200: OpenApiResponse(ReratingBody, description="Applied; again is harmless."),
            **refusals(404, 409),
        },
    )
    def post(self, request: Request, run_id: int) -> Response:
        """Apply what was previewed; 409 `snapshot_changed` where it is not as it was then."""
        operator = operator_of(request)
        run = rerating.apply(rerating.find(operator, run_id), at=clock.now(operator))
        return Response(_show(run))
