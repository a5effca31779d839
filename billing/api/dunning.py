"""Doors for debts: how they stand, of one subscriber or of all, and to do nothing about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing import dunning
from billing.api.invoices import Reason
from billing.models import DunningCase, DunningEvent, DunningStop, Invoice
from subscriptions import clock, registry
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import Instant, to_wire_time
from subscriptions.api.idempotency import idempotent
from subscriptions.api.schema import EXTERNAL_ID, IDEMPOTENCY_KEY, refusals
from subscriptions.models import Operator, Subscriber

# What is told of a subscriber's steps: years of them.
STEPS = 200


class StopBody(serializers.Serializer[Any]):
    """Since when nothing is done about debts, and why; of all where `subscriber` is null, of one
    invoice where that is named."""

    subscriber = serializers.CharField(allow_null=True)
    invoice = serializers.CharField(allow_null=True)
    since = Instant()
    reason = serializers.CharField()


class StandingBody(serializers.Serializer[Any]):
    """How many subscribers are in each state, and what is stopped."""

    states = serializers.DictField(child=serializers.IntegerField())
    stops = StopBody(many=True)


class CaseBody(serializers.Serializer[Any]):
    """A subscriber's debts in a currency. `invoice` is the oldest that is overdue, `since` its due
    date; both are null when nothing is. `next_at`: when there is something to do."""

    currency = serializers.CharField()
    state = serializers.ChoiceField(choices=DunningCase.State.values)
    invoice = serializers.CharField(allow_null=True)
    since = Instant(allow_null=True)
    next_at = Instant(allow_null=True)


class StepBody(serializers.Serializer[Any]):
    """A step by its own date, and when it was done."""

    kind = serializers.ChoiceField(choices=DunningEvent.Kind.values)
    invoice = serializers.CharField()
    at = Instant()
    done_at = Instant()
    reason = serializers.CharField()


class DebtorBody(serializers.Serializer[Any]):
    """How far a subscriber's debts have gone: the latest steps first, 200 at most."""

    cases = CaseBody(many=True)
    steps = StepBody(many=True)
    stops = StopBody(many=True)


def _stops(rows: Sequence[DunningStop]) -> list[dict[str, Any]]:
    named = {(row.subscriber_id, row.invoice_id) for row in rows if row.invoice_id is not None}
    numbers = dict(
        Invoice.objects.filter(
            subscriber_id__in={key[0] for key in named}, id__in={key[1] for key in named}
        ).values_list("id", "number")
    )
    return [
        {
            "subscriber": row.subscriber.external_id if row.subscriber else None,
            "invoice": None if row.invoice_id is None else numbers[row.invoice_id],
            "since": to_wire_time(row.starts_at),
            "reason": row.reason,
        }
        for row in rows
    ]


def _standing(operator: Operator) -> dict[str, Any]:
    seen = dunning.overview(operator)
    states = {state: seen.states.get(state, 0) for state in DunningCase.State.values}
    return {"states": states, "stops": _stops(seen.stops)}


def _debtor(subscriber: Subscriber) -> dict[str, Any]:
    own = {"subscriber_id": subscriber.pk}
    cases = list(DunningCase.objects.filter(**own, events__gt=0).order_by("currency"))
    steps = list(DunningEvent.objects.filter(**own).order_by("-done_at", "currency", "-nr")[:STEPS])
    named = {case.invoice_id for case in cases if case.invoice_id is not None}
    named |= {step.invoice_id for step in steps}
    numbers = dict(Invoice.objects.filter(**own, id__in=named).values_list("id", "number"))
    return {
        "cases": [
            {
                "currency": case.currency,
                "state": case.state,
                "invoice": None if case.invoice_id is None else numbers[case.invoice_id],
                "since": case.since and to_wire_time(case.since),
                "next_at": case.next_at and to_wire_time(case.next_at),
            }
            for case in cases
        ],
        "steps": [
            {
                "kind": step.kind,
                "invoice": numbers[step.invoice_id],
                "at": to_wire_time(step.at),
                "done_at": to_wire_time(step.done_at),
                "reason": step.reason,
            }
            for step in steps
        ],
        "stops": _stops(dunning.stops_for(subscriber)),
    }


class DunningDoor(OperatorDoor):
    @extend_schema(operation_id="get_dunning", responses={200: StandingBody, **refusals()})
    def get(self, request: Request) -> Response:
        """How many owe beyond a due date, by how far it has gone; and what is stopped."""
        return Response(_standing(operator_of(request)))


class StopDunningDoor(OperatorDoor):
    @extend_schema(
        operation_id="stop_dunning",
        parameters=[IDEMPOTENCY_KEY],
        request=Reason,
        responses={200: StandingBody, **refusals(409, 413, 415, 422)},
    )
    @idempotent
    def post(self, request: Request) -> Response:
        """Do nothing more about anybody's debts until it is resumed. Again is harmless."""
        operator = operator_of(request)
        dunning.stop(operator, reason=_reason(request), at=clock.now(operator))
        return Response(_standing(operator))


class ResumeDunningDoor(OperatorDoor):
    @extend_schema(
        operation_id="resume_dunning",
        parameters=[IDEMPOTENCY_KEY],
        request=Reason,
        responses={200: StandingBody, **refusals(409, 413, 415, 422)},
    )
    @idempotent
    def post(self, request: Request) -> Response:
        """Go on: what fell due meanwhile is done by its dates. 409 `not_stopped`."""
        operator = operator_of(request)
        dunning.resume(operator, reason=_reason(request), at=clock.now(operator))
        return Response(_standing(operator))


class SubscriberDunningDoor(OperatorDoor):
    @extend_schema(
        operation_id="get_subscriber_dunning",
        parameters=[EXTERNAL_ID],
        responses={200: DebtorBody, **refusals(404)},
    )
    def get(self, request: Request, external_id: str) -> Response:
        """How far a subscriber's debts have gone, each step with its date and reason."""
        return Response(_debtor(registry.find(operator_of(request), external_id)))


class StopSubscriberDunningDoor(OperatorDoor):
    @extend_schema(
        operation_id="stop_subscriber_dunning",
        parameters=[EXTERNAL_ID, IDEMPOTENCY_KEY],
        request=Reason,
        responses={200: DebtorBody, **refusals(404, 409, 413, 415, 422)},
    )
    @idempotent
    def post(self, request: Request, external_id: str) -> Response:
        """Do nothing more about this subscriber's debts until it is resumed. Again is harmless."""
        operator = operator_of(request)
        subscriber = registry.find(operator, external_id)
        dunning.stop(
            operator,
            reason=_reason(request),
            at=clock.now(operator),
            subscriber_id=subscriber.pk,
        )
        return Response(_debtor(subscriber))


class ResumeSubscriberDunningDoor(OperatorDoor):
    @extend_schema(
        operation_id="resume_subscriber_dunning",
        parameters=[EXTERNAL_ID, IDEMPOTENCY_KEY],
        request=Reason,
        responses={200: DebtorBody, **refusals(404, 409, 413, 415, 422)},
    )
    @idempotent
    def post(self, request: Request, external_id: str) -> Response:
        """Go on with this subscriber's. 409 `not_stopped`, also while only all are stopped."""
        operator = operator_of(request)
        subscriber = registry.find(operator, external_id)
        dunning.resume(
            operator,
            reason=_reason(request),
            at=clock.now(operator),
            subscriber_id=subscriber.pk,
        )
        return Response(_debtor(subscriber))


def _reason(request: Request) -> str:
    order = Reason(data=request.data)
    order.is_valid(raise_exception=True)
    return str(order.validated_data["reason"])
