"""Doors for corrections by policy: the rules, and what waits for a second person."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from djmoney.money import Money
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing import approving, corrections
from billing.api.invoices import MoneyBody
from billing.corrections import Rules
from billing.models import Approval, Invoice, Order, Refund
from subscriptions import clock
from subscriptions.api import pagination
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import Count, Instant, Price, Text, money_to_wire, plain, to_wire_time
from subscriptions.api.idempotency import idempotent
from subscriptions.api.schema import CURSOR, IDEMPOTENCY_KEY, LIMIT, refusals
from subscriptions.errors import Invalid
from subscriptions.models import ApiKey, Operator, Subscriber

APPROVAL = OpenApiParameter("approval_id", int, OpenApiParameter.PATH)


def person_of(request: Request) -> str:
    """Who asks: the name of the key."""
    assert isinstance(request.user, ApiKey)
    return request.user.name


class Factor(serializers.DecimalField):
    """How often, as a decimal string: "2" is double."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            max_digits=4,
            decimal_places=2,
            min_value=Decimal(1),
            max_value=Decimal(10),
            **kwargs,
        )

    def to_internal_value(self, data: Any) -> Decimal:
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)

    def to_representation(self, value: Decimal) -> str:
        return plain(value)


class PolicyBody(serializers.Serializer[Any]):
    """How corrections are made from now on."""

    approval_limit = Price(
        allow_null=True, help_text="a correction above it waits for another person; null: none does"
    )
    over_charge_factor = Factor(
        help_text="how often the operator's own over-charge is repaid; 2 is double"
    )


def show_policy(operator: Operator) -> dict[str, Any]:
    rules = corrections.rules_of(operator.pk, at=clock.now(operator))
    limit = rules.approval_limit
    return {
        "approval_limit": None if limit is None else money_to_wire(Money(limit, operator.currency)),
        "over_charge_factor": plain(rules.over_charge_factor),
    }


class PolicyDoor(OperatorDoor):
    @extend_schema(operation_id="get_correction_policy", responses={200: PolicyBody, **refusals()})
    def get(self, request: Request) -> Response:
        """The rules that hold now."""
        return Response(show_policy(operator_of(request)))

    @extend_schema(
        operation_id="set_correction_policy",
        request=PolicyBody,
        responses={200: PolicyBody, **refusals(413, 415, 422)},
    )
    def put(self, request: Request) -> Response:
        """Other rules, for what is corrected from now on."""
        operator = operator_of(request)
        body = PolicyBody(data=request.data, context={"operator": operator})
        body.is_valid(raise_exception=True)
        limit = body.validated_data["approval_limit"]
        if limit is not None and limit.currency.code != operator.currency:
            raise Invalid(f"approval_limit is in {operator.currency}")
        rules = Rules(
            None if limit is None else limit.amount, body.validated_data["over_charge_factor"]
        )
        corrections.set_rules(operator, rules, by=person_of(request), at=clock.now(operator))
        return Response(show_policy(operator))


class ApprovalBody(serializers.Serializer[Any]):
    """A correction above the limit. `amount` is all of it, with compensation: below zero where the
    subscriber gets it."""

    id = Count()
    kind = serializers.ChoiceField(choices=Approval.Kind.values)
    state = serializers.ChoiceField(choices=Approval.State.values)
    subscriber = serializers.CharField()
    invoice = serializers.CharField(allow_null=True, help_text="that a credit note is against")
    over_charge = serializers.BooleanField()
    amount = MoneyBody()
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
            subscriber_id=one.subscriber_id, id__in=[one.invoice_id, one.note_id]
        ).values_list("id", "number")
    )
    return {
        "id": one.pk,
        "kind": one.kind,
        "state": one.state,
        "subscriber": Subscriber.objects.get(pk=one.subscriber_id).external_id,
        "invoice": None if one.invoice_id is None else numbers[one.invoice_id],
        "over_charge": one.over_charge or (one.kind == Approval.Kind.ADJUSTMENT and one.gross < 0),
        "amount": money_to_wire(Money(one.amount, one.currency)),
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
    model: type[Order] | type[Refund], subscriber_id: int, row_id: int | None
) -> str | None:
    if row_id is None:
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
        """Corrections above the limit, in the order they were asked for; `state=pending`: to do."""
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
        """One correction above the limit."""
        return Response(show_approval(corrections.find(operator_of(request), approval_id)))


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
        """Let it be made: a credit note is issued now, a refund is on its way, an adjustment is on
        the next bill."""
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
        """Let it not be made."""
        operator = operator_of(request)
        return Response(
            show_approval(corrections.reject(operator, approval_id, **_decision(request)))
        )
