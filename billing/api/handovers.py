"""Doors for handovers: numbers that change hands, subscribers who become one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from djmoney.money import Money
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing import approvals, approving
from billing.api.corrections import person_of
from billing.api.invoices import MoneyBody
from billing.handovers import keeping
from billing.models import Approval, Handover
from subscriptions import clock, registry
from subscriptions.api import pagination
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import (
    Count,
    ExternalId,
    Flag,
    Instant,
    Text,
    money_to_wire,
    to_wire_time,
)
from subscriptions.api.idempotency import idempotent
from subscriptions.api.schema import CURSOR, IDEMPOTENCY_KEY, LIMIT, refusals
from subscriptions.models import Operator
from subscriptions.units import to_wire

HANDOVER = OpenApiParameter("handover_id", {"type": "integer"}, OpenApiParameter.PATH)


class HandoverDraft(serializers.Serializer[Any]):
    """What is to change hands. A merge takes all there is; else name the subjects."""

    kind = serializers.ChoiceField(choices=Handover.Kind.values)
    subscriber = ExternalId(help_text="who gives")
    receiver = ExternalId(required=False, help_text="who gets it; nobody where it is recycled")
    subjects = serializers.ListField(
        child=Text(max_length=256), min_length=1, max_length=1000, required=False
    )
    since = Instant(
        required=False,
        help_text="from when on; default: when it is done. Nothing may be charged since.",
    )
    balance = serializers.ChoiceField(
        choices=Handover.Balance.values,
        default=Handover.Balance.KEEP.value,
        help_text="of units: stays, moves too, or is forfeited",
    )
    with_wallet = Flag(default=False, help_text="the money in the wallet moves too")


class HandoverOrder(HandoverDraft):
    reason = Text(max_length=200)


class HandoverEffect(serializers.Serializer[Any]):
    """What would move, and what that cost."""

    effect = serializers.DictField()
    worth = MoneyBody()
    waits = serializers.BooleanField(help_text="another person has to approve it")


class HandoverBody(serializers.Serializer[Any]):
    """A handover; where it is `pending` nothing of it has happened."""

    id = serializers.CharField()
    kind = serializers.ChoiceField(choices=Handover.Kind.values)
    state = serializers.ChoiceField(choices=Handover.State.values)
    subscriber = serializers.CharField()
    receiver = serializers.CharField(required=False)
    subjects = serializers.ListField(child=serializers.CharField())
    since = Instant(allow_null=True)
    balance = serializers.ChoiceField(choices=Handover.Balance.values)
    effect = serializers.DictField()
    worth = MoneyBody()
    units_moved = serializers.CharField()
    money_moved = MoneyBody()
    reason = serializers.CharField()
    asked_by = serializers.CharField()
    asked_at = Instant()
    decided_by = serializers.CharField()
    decided_at = Instant(allow_null=True)
    decision = serializers.CharField()


class HandoverPage(serializers.Serializer[Any]):
    items = HandoverBody(many=True)
    next = serializers.URLField(allow_null=True)


class HandoverDecision(serializers.Serializer[Any]):
    reason = Text(max_length=200)


class RecyclingPolicyBody(serializers.Serializer[Any]):
    cooling_days = Count(
        min_value=0, max_value=3660, help_text="how long a recycled number belongs to nobody"
    )


def show(rows: Sequence[Handover]) -> list[dict[str, Any]]:
    """Handovers as they travel, with who decided."""
    decided = approvals.about(Approval.Kind.HANDOVER, [row.pk for row in rows])
    return [_show(row, decided.get(row.pk) or Approval()) for row in rows]


def _show(row: Handover, decided: Approval) -> dict[str, Any]:
    def money(amount: Any) -> dict[str, str]:
        return money_to_wire(Money(amount, row.currency))

    receiver = {} if row.receiver is None else {"receiver": row.receiver.external_id}
    return {
        "id": str(row.pk),
        "kind": row.kind,
        "state": row.state,
        "subscriber": row.subscriber.external_id,
        **receiver,
        "subjects": row.subjects,
        "since": to_wire_time(row.since) if row.since else None,
        "balance": row.balance,
        "effect": row.effect,
        "worth": money(row.worth),
        "units_moved": to_wire(row.units),
        "money_moved": money(row.amount),
        "reason": row.reason,
        "asked_by": row.asked_by,
        "asked_at": to_wire_time(row.asked_at),
        "decided_by": decided.decided_by,
        "decided_at": to_wire_time(decided.decided_at) if decided.decided_at else None,
        "decision": decided.decision,
    }


def _drafted(request: Request, operator: Operator, said: dict[str, Any]) -> Handover:
    receiver = said.get("receiver")
    return keeping.draft(
        operator,
        said["kind"],
        registry.find(operator, said["subscriber"]),
        None if receiver is None else registry.find(operator, receiver),
        subjects=said.get("subjects"),
        since=said.get("since"),
        balance=said["balance"],
        with_wallet=said["with_wallet"],
        reason=said.get("reason", ""),
        by=person_of(request),
        at=clock.now(operator),
    )


class HandoverPreviewDoor(OperatorDoor):
    @extend_schema(
        operation_id="preview_handover",
        request=HandoverDraft,
        responses={200: HandoverEffect, **refusals(404, 409, 413, 415, 422)},
    )
    def post(self, request: Request) -> Response:
        """What would move, were it done now; nothing does."""
        operator = operator_of(request)
        body = HandoverDraft(data=request.data)
        body.is_valid(raise_exception=True)
        at = clock.now(operator)
        found, waits = keeping.looked_at(_drafted(request, operator, body.validated_data), at=at)
        worth = money_to_wire(Money(found.worth, operator.currency))
        return Response({"effect": found.effect, "worth": worth, "waits": waits})


class HandoversDoor(OperatorDoor):
    @extend_schema(
        operation_id="ask_for_handover",
        parameters=[IDEMPOTENCY_KEY],
        request=HandoverOrder,
        responses={201: HandoverBody, 202: HandoverBody, **refusals(404, 409, 413, 415, 422)},
    )
    @idempotent
    def post(self, request: Request) -> Response:
        """Do it (201), or where it is worth more than the limit of `correction-policy` ask for it
        (202): another person's key then approves or rejects it."""
        operator = operator_of(request)
        body = HandoverOrder(data=request.data)
        body.is_valid(raise_exception=True)
        drafted = _drafted(request, operator, body.validated_data)
        row = keeping.ask(drafted, at=clock.now(operator))
        [shown] = show([row])
        return Response(shown, status=201 if row.state == Handover.State.DONE else 202)

    @extend_schema(
        operation_id="list_handovers",
        parameters=[LIMIT, CURSOR],
        responses={200: HandoverPage, **refusals()},
    )
    def get(self, request: Request) -> Response:
        """All handovers, in the order they were asked for."""
        rows = Handover.objects.filter(operator=operator_of(request))
        rows = rows.select_related("subscriber", "receiver").order_by("id")
        return Response(pagination.page(request, rows, by="id", of_type=int, show=show))


class HandoverDoor(OperatorDoor):
    @extend_schema(
        operation_id="get_handover",
        parameters=[HANDOVER],
        responses={200: HandoverBody, **refusals(404)},
    )
    def get(self, request: Request, handover_id: int) -> Response:
        """One handover."""
        [shown] = show([keeping.find(operator_of(request), handover_id)])
        return Response(shown)


class _DecisionDoor(OperatorDoor):
    decision: staticmethod[..., Approval]

    def decide(self, request: Request, handover_id: int) -> Response:
        operator = operator_of(request)
        keeping.find(operator, handover_id)
        body = HandoverDecision(data=request.data)
        body.is_valid(raise_exception=True)
        self.decision(
            operator,
            keeping.waiting_for(operator, handover_id).pk,
            by=person_of(request),
            reason=body.validated_data["reason"],
            at=clock.now(operator),
        )
        [shown] = show([keeping.find(operator, handover_id)])
        return Response(shown)


class ApproveHandoverDoor(_DecisionDoor):
    decision = staticmethod(approving.approve)

    @extend_schema(
        operation_id="approve_handover",
        parameters=[HANDOVER],
        request=HandoverDecision,
        responses={200: HandoverBody, **refusals(404, 409, 413, 415, 422)},
    )
    def post(self, request: Request, handover_id: int) -> Response:
        """Do a handover that waits, by another key than asked for it."""
        return self.decide(request, handover_id)


class RejectHandoverDoor(_DecisionDoor):
    decision = staticmethod(approving.reject)

    @extend_schema(
        operation_id="reject_handover",
        parameters=[HANDOVER],
        request=HandoverDecision,
        responses={200: HandoverBody, **refusals(404, 409, 413, 415, 422)},
    )
    def post(self, request: Request, handover_id: int) -> Response:
        """Let a handover not happen."""
        return self.decide(request, handover_id)


class RecyclingPolicyDoor(OperatorDoor):
    @extend_schema(
        operation_id="get_recycling_policy", responses={200: RecyclingPolicyBody, **refusals()}
    )
    def get(self, request: Request) -> Response:
        """For how long a recycled number belongs to nobody."""
        return Response({"cooling_days": keeping.cooling_days(operator_of(request).pk)})

    @extend_schema(
        operation_id="set_recycling_policy",
        request=RecyclingPolicyBody,
        responses={200: RecyclingPolicyBody, **refusals(413, 415, 422)},
    )
    def put(self, request: Request) -> Response:
        """For numbers that are recycled from now on."""
        operator = operator_of(request)
        body = RecyclingPolicyBody(data=request.data)
        body.is_valid(raise_exception=True)
        days = body.validated_data["cooling_days"]
        keeping.set_cooling_days(operator, days, by=person_of(request), at=clock.now(operator))
        return Response({"cooling_days": days})
