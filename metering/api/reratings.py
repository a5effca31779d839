"""Doors of re-rating: preview who gains and loses, then apply what was previewed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from metering import rerating
from metering.adjusting import Why
from metering.models import Rerating, ReratingShare
from subscriptions import clock
from subscriptions.api import pagination
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import Code, Instant, Text, to_wire_time
from subscriptions.api.idempotency import idempotent
from subscriptions.api.schema import CURSOR, IDEMPOTENCY_KEY, LIMIT, refusals
from subscriptions.models import ApiKey, Subscriber
from subscriptions.units import to_wire

SHOWN = 100
State = Rerating.State
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
    batch = serializers.CharField(allow_null=True, help_text="null until something was moved")
    stale = serializers.BooleanField(help_text="other than it was previewed, and left as it is")
    problem = serializers.CharField(
        allow_null=True, help_text="why it could not be done yet; it is tried again"
    )


class SharePage(serializers.Serializer[Any]):
    items = ShareRow(many=True)
    next = serializers.URLField(allow_null=True)


class ReratingRow(serializers.Serializer[Any]):
    """What was ordered and how far it is; `subscribers_left` are still to be looked at or applied.

    `subscribers_failed` of these could not be until now. Sums are over the subscribers looked at
    until now.
    """

    id = serializers.CharField()
    state = serializers.ChoiceField(choices=Rerating.State.choices)
    rate_card = serializers.CharField()
    replaces = serializers.CharField(allow_null=True)
    since = Instant()
    until = Instant()
    reason = serializers.CharField()
    made_by = serializers.CharField()
    made_at = Instant()
    applied_at = Instant(allow_null=True)
    subscribers_total = serializers.IntegerField()
    subscribers_left = serializers.IntegerField()
    subscribers_failed = serializers.IntegerField()
    subscribers_stale = serializers.IntegerField()
    gain = serializers.IntegerField()
    lose = serializers.IntegerField()
    records = serializers.IntegerField()
    units_before = serializers.CharField()
    units_after = serializers.CharField()
    difference = serializers.CharField()


class ReratingBody(ReratingRow):
    """With the subscribers for whom most changes, at most 100; all are in its list."""

    subscribers = ShareRow(many=True)


class ReratingPage(serializers.Serializer[Any]):
    items = ReratingRow(many=True)
    next = serializers.URLField(allow_null=True)


def _show_run(run: Rerating) -> dict[str, Any]:
    sums = rerating.sums_of(run)
    return {
        "id": str(run.pk),
        "state": run.state,
        "rate_card": run.rate_card,
        "replaces": run.replaces or None,
        "since": to_wire_time(run.since),
        "until": to_wire_time(run.until),
        "reason": run.reason,
        "made_by": run.made_by,
        "made_at": to_wire_time(run.made_at),
        "applied_at": to_wire_time(run.applied_at) if run.applied_at else None,
        "subscribers_total": sums.subscribers,
        "subscribers_left": sums.left,
        "subscribers_failed": sums.failed,
        "subscribers_stale": sums.stale,
        "gain": sums.gain,
        "lose": sums.lose,
        "records": sums.records,
        "units_before": to_wire(sums.units_before),
        "units_after": to_wire(sums.units_after),
        "difference": to_wire(sums.units_after - sums.units_before),
    }


def show(run: Rerating) -> dict[str, Any]:
    return {**_show_run(run), "subscribers": _show_shares(rerating.largest_of(run, SHOWN))}


def _show_shares(shares: Sequence[ReratingShare]) -> list[dict[str, Any]]:
    names = dict(
        Subscriber.objects.filter(pk__in=[s.subscriber_id for s in shares]).values_list(
            "pk", "external_id"
        )
    )
    return [
        {
            "subscriber": names[share.subscriber_id],
            "records": share.records,
            "units_before": to_wire(share.units_before),
            "units_after": to_wire(share.units_after),
            "difference": to_wire(share.units_after - share.units_before),
            "batch": str(share.batch_id) if share.batch_id else None,
            "stale": share.stale,
            "problem": share.problem or None,
        }
        for share in shares
    ]


class ReratingsDoor(OperatorDoor):
    @extend_schema(
        operation_id="list_reratings",
        parameters=[CURSOR, LIMIT],
        responses={200: ReratingPage, **refusals(400)},
    )
    def get(self, request: Request) -> Response:
        """The re-ratings that were previewed or applied, in the order they were made."""
        rows = Rerating.objects.filter(operator=operator_of(request)).order_by("id")
        return Response(
            pagination.page(
                request, rows, by="id", of_type=int, show=lambda runs: list(map(_show_run, runs))
            )
        )

    @extend_schema(
        operation_id="preview_rerating",
        parameters=[IDEMPOTENCY_KEY],
        request=ReratingOrder,
        responses={
            201: ReratingBody,
            202: OpenApiResponse(
                ReratingBody, description="The range is large: its preview is being made."
            ),
            **refusals(409, 413, 415, 422),
        },
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
        at = clock.now(operator)
        run = rerating.order(
            operator,
            rate_card=said["rate_card"],
            replaces=said.get("replaces", ""),
            since=said["since"],
            until=said["until"],
            why=Why(said["reason"], key.name),
            at=at,
        )
        run = work_small(run, at=at)
        return Response(show(run), status=202 if run.state == State.PREVIEWING else 201)


def work_small(run: Rerating, *, at: dt.datetime) -> Rerating:
    """Do a small one now; a large one is the worker's, which is rung for every few seconds."""
    return run if run.large else rerating.work(run.pk, at=at)


class ReratingDoor(OperatorDoor):
    @extend_schema(
        operation_id="get_rerating",
        parameters=[RUN],
        responses={200: ReratingBody, **refusals(404)},
    )
    def get(self, request: Request, run_id: int) -> Response:
        """A re-rating as it was previewed, and what of it is applied."""
        return Response(show(rerating.find(operator_of(request), run_id)))


class ReratingSubscribersDoor(OperatorDoor):
    @extend_schema(
        operation_id="list_rerating_subscribers",
        parameters=[RUN, CURSOR, LIMIT],
        responses={200: SharePage, **refusals(400, 404)},
    )
    def get(self, request: Request, run_id: int) -> Response:
        """Everybody who used something in the range, and what it changes for each."""
        run = rerating.find(operator_of(request), run_id)
        rows = rerating.shares_of(run).order_by("subscriber_id")
        return Response(
            pagination.page(request, rows, by="subscriber_id", of_type=int, show=_show_shares)
        )
