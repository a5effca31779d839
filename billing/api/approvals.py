"""Doors for what waits for a second person: one queue of all kinds."""

from __future__ import annotations

from typing import Any

from djmoney.money import Money
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing import approvals, approving
from billing.api.corrections import person_of
from billing.api.invoices import MoneyBody
from billing.models import Approval, Invoice, Order, Refund
from subscriptions import clock
from subscriptions.api import pagination
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import Count, Instant, Text, Units, money_to_wire, to_wire_time
from subscriptions.api.idempotency import idempotent
from subscriptions.api.schema import CURSOR, IDEMPOTENCY_KEY, LIMIT, refusals
from subscriptions.errors import Invalid
from subscriptions.models import Subscriber
from subscriptions.units import to_wire

APPROVAL = OpenApiParameter("approval_id", int, OpenApiParameter.PATH)


class ApprovalBody(serializers.Serializer[Any]):
    """What is above the operator's limit. `amount` is all of it, with compensation: below zero
    where the subscriber gets it. `effect` is what it would do, as it was when it was asked for."""

    id = Count()
    kind = serializers.ChoiceField(choices=Approval.Kind.values)
    state = serializers.ChoiceField(choices=Approval.State.values)
    subscriber = serializers.CharField(allow_null=True)
    invoice = serializers.CharField(allow_null=True, help_text="that is credited or written off")
    over_charge = serializers.BooleanField()
    amount = MoneyBody()
    units = Units(allow_null=True, help_text="that are given by hand")
    about = serializers.CharField(
        allow_null=True, help_text="the difference, handover, price draft or re-rating, by its id"
    )
    effect = serializers.DictField()
    reason = serializers.CharField()
    asked_by = serializers.CharField(help_text="a key's name, or `month close`")
    asked_at = Instant()
    decided_by = serializers.CharField(allow_null=True)
    decided_at = Instant(allow_null=True)
    decision = serializers.CharField(allow_null=True, help_text="the reason of who decided")
    credit_note = serializers.CharField(allow_null=True, help_text="that was issued for it")
    order = serializers.CharField(allow_null=True, help_text="that a refund is of")
    refund = serializers.CharField(allow_null=True, help_text="that was made for it")


class ApprovalPage(serializers.Serializer[Any]):
    items = ApprovalBody(many=True)
    next = serializers.URLField(allow_null=True)


def show_approval(one: Approval) -> dict[str, Any]:
    """An approval as it travels."""
    numbers = dict(
        Invoice.objects.filter(
            subscriber_id=one.subscriber_id or 0, id__in=[one.invoice_id, one.note_id]
        ).values_list("id", "number")
    )
    return {
        "id": one.pk,
        "kind": one.kind,
        "state": one.state,
        "subscriber": None
        if one.subscriber_id is None
        else Subscriber.objects.get(pk=one.subscriber_id).external_id,
        "invoice": None if one.invoice_id is None else numbers[one.invoice_id],
        "over_charge": one.over_charge or (one.kind == Approval.Kind.ADJUSTMENT and one.gross < 0),
        "amount": money_to_wire(Money(one.amount, one.currency)),
        "units": None if one.units is None else to_wire(one.units),
        "about": None if one.about_id is None else str(one.about_id),
        "effect": one.effect,
        "reason": one.reason,
        "asked_by": one.asked_by,
        "asked_at": to_wire_time(one.asked_at),
        "decided_by": one.decided_by or None,
        "decided_at": None if one.decided_at is None else to_wire_time(one.decided_at),
        "decision": one.decision or None,
        "credit_note": None if one.note_id is None else numbers[one.note_id],
        "order": _number(Order, one.subscriber_id, one.order_id),
        "refund": _number(Refund, one.subscriber_id, one.refund_id),
    }


def _number(
    model: type[Order] | type[Refund], subscriber_id: int | None, row_id: int | None
) -> str | None:
    if row_id is None or subscriber_id is None:
        return None
    return model.objects.get(subscriber_id=subscriber_id, id=row_id).number


STATE = OpenApiParameter("state", {"type": "string", "enum": list(Approval.State.values)})


class ApprovalsDoor(OperatorDoor):
    @extend_schema(
        operation_id="list_approvals",
        parameters=[STATE, CURSOR, LIMIT],
        responses={200: ApprovalPage, **refusals(422)},
    )
    def get(self, request: Request) -> Response:
        """What is above the limits, in the order it was asked for; `state=pending`: to do."""
        rows = Approval.objects.filter(operator=operator_of(request)).order_by("pk")
        state = request.query_params.get("state")
        if state is not None:
            if state not in Approval.State.values:
                raise Invalid(f"state is one of {', '.join(Approval.State.values)}")
            rows = rows.filter(state=state)
        return Response(
            pagination.page(
                request,
                rows,
                by="pk",
                of_type=int,
                show=lambda found: [show_approval(one) for one in found],
            )
        )


class ApprovalDoor(OperatorDoor):
    @extend_schema(
        operation_id="get_approval",
        parameters=[APPROVAL],
        responses={200: ApprovalBody, **refusals(404)},
    )
    def get(self, request: Request, approval_id: int) -> Response:
        """One of them."""
        return Response(show_approval(approvals.find(operator_of(request), approval_id)))


class DecisionBody(serializers.Serializer[Any]):
    """Why it is approved or rejected; who decides is the key."""

    reason = Text(max_length=200)


def _decision(request: Request) -> dict[str, Any]:
    """Who decides why and when, as `approve` and `reject` take it."""
    body = DecisionBody(data=request.data)
    body.is_valid(raise_exception=True)
    return {
        "by": person_of(request),
        "reason": body.validated_data["reason"],
        "at": clock.now(operator_of(request)),
    }


class ApproveDoor(OperatorDoor):
    @extend_schema(
        operation_id="approve_correction",
        parameters=[APPROVAL, IDEMPOTENCY_KEY],
        request=DecisionBody,
        responses={200: ApprovalBody, **refusals(404, 409, 413, 415, 422)},
    )
    @idempotent
    def post(self, request: Request, approval_id: int) -> Response:
        """Let it be done, now: a credit note is issued, a refund is on its way, units and money are
        given; an adjustment is on the next bill, a re-rating is being applied."""
        operator = operator_of(request)
        return Response(
            show_approval(approving.approve(operator, approval_id, **_decision(request)))
        )


class RejectDoor(OperatorDoor):
    @extend_schema(
        operation_id="reject_correction",
        parameters=[APPROVAL, IDEMPOTENCY_KEY],
        request=DecisionBody,
        responses={200: ApprovalBody, **refusals(404, 409, 413, 415, 422)},
    )
    @idempotent
    def post(self, request: Request, approval_id: int) -> Response:
        """Let it not be done."""
        operator = operator_of(request)
        return Response(
            show_approval(approving.reject(operator, approval_id, **_decision(request)))
        )
