"""Doors for refunds: what one would be, asking for one, and what staff decide on what failed."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from django.db.models import Q
from djmoney.money import Money
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing import corrections, refunds
from billing.api.approvals import ApprovalBody, show_approval
from billing.api.corrections import person_of
from billing.api.invoices import MoneyBody
from billing.api.orders import ORDER_NUMBER
from billing.models import Approval, FapiaoRequest, Invoice, Order, Refund
from billing.orders import keeping
from billing.ways import bank
from subscriptions import clock, units
from subscriptions.api import pagination
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import Flag, Instant, Price, Text, money_to_wire, to_wire_time
from subscriptions.api.idempotency import BadKey, idempotent
from subscriptions.api.schema import CURSOR, IDEMPOTENCY_KEY, LIMIT, refusals
from subscriptions.errors import Invalid
from subscriptions.models import Operator, Subscriber

REFUND_NUMBER = OpenApiParameter(
    "number",
    {"type": "string", "pattern": "^[A-Z0-9-]+$", "maxLength": 40},
    OpenApiParameter.PATH,
)
STATE = OpenApiParameter(
    "state",
    {"type": "string", "enum": Refund.State.values},
    OpenApiParameter.QUERY,
    description="Only refunds in this state.",
)
TO_DO = OpenApiParameter(
    "to_do",
    bool,
    OpenApiParameter.QUERY,
    description="Only what staff have to look at: failed, odd, or to be transferred by them.",
)


class RefundStepBody(serializers.Serializer[Any]):
    state = serializers.ChoiceField(choices=Refund.State.values)
    at = Instant()
    reason = serializers.CharField()
    reference = serializers.CharField()


class RefundBody(serializers.Serializer[Any]):
    """Money of an order that goes back. `units` go with it; they are frozen until it is over."""

    number = serializers.CharField()
    order = serializers.CharField()
    subscriber = serializers.CharField()
    state = serializers.ChoiceField(choices=Refund.State.values)
    amount = MoneyBody()
    units = serializers.CharField()
    to = serializers.ChoiceField(choices=Refund.To.values)
    way = serializers.CharField(help_text="how it goes back")
    rule = serializers.ChoiceField(
        choices=Refund.Rule.values,
        help_text="full, pro rata of what is unused, what the wallet has, or a credit note",
    )
    reason = serializers.CharField()
    reference = serializers.CharField(help_text="the provider's own name for it, or the bank's")
    problem = serializers.CharField(help_text="what staff should look at; else empty")
    credit_note = serializers.CharField(allow_null=True)
    red_fapiao = serializers.CharField(
        allow_null=True, help_text="the request of the red e-fapiao of that credit note"
    )
    asked_by = serializers.CharField()
    asked_at = Instant()
    ended_at = Instant(allow_null=True)
    history = RefundStepBody(many=True)


class RefundPage(serializers.Serializer[Any]):
    items = RefundBody(many=True)
    next = serializers.URLField(allow_null=True)


class NewRefund(serializers.Serializer[Any]):
    """What is to go back. Without `amount`, all that the policy gives."""

    preview = Flag(default=False, help_text="only say what it would be; `reason` is not needed")
    amount = Price(required=False)
    to = serializers.ChoiceField(choices=Refund.To.values, default=Refund.To.SOURCE)
    reason = Text(max_length=200, required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if not attrs["preview"] and "reason" not in attrs:
            raise serializers.ValidationError({"reason": "a refund has a reason"})
        return attrs


class OfferBody(serializers.Serializer[Any]):
    """What a refund would be at most, by policy. Nothing has happened."""

    order = serializers.CharField()
    amount = MoneyBody()
    units = serializers.CharField(help_text="that go with all of it")
    rule = serializers.ChoiceField(choices=Refund.Rule.values)
    ways = serializers.ListField(
        child=serializers.ChoiceField(choices=Refund.To.values), help_text="where it may go"
    )
    ends_subscription = serializers.BooleanField()
    waits_for_approval = serializers.BooleanField(
        help_text="all of it is above the limit of the correction policy"
    )


class TransferredBody(serializers.Serializer[Any]):
    """The bank's reference of the transfer."""

    reference = Text(max_length=128)


# Showing -----------------------------------------------------------------------------------------


def show(rows: Sequence[Refund]) -> list[dict[str, Any]]:
    """Refunds as they travel, with their history and the documents that say them."""
    steps = refunds.steps_of(rows)
    whose = {row.subscriber_id for row in rows}
    names = dict(Subscriber.objects.filter(pk__in=whose).values_list("pk", "external_id"))
    orders = dict(
        Order.objects.filter(
            subscriber_id__in=whose, id__in={row.order_id for row in rows}
        ).values_list("id", "number")
    )
    note_ids = {row.note_id for row in rows if row.note_id is not None}
    notes: dict[int | None, str | None] = dict(
        Invoice.objects.filter(subscriber_id__in=whose, id__in=note_ids).values_list("id", "number")
    )
    reds: dict[int | None, str] = dict(
        FapiaoRequest.objects.filter(
            subscriber_id__in=whose, credit_note_id__in=note_ids
        ).values_list("credit_note_id", "request_id")
    )
    return [
        {
            "number": row.number,
            "order": orders[row.order_id],
            "subscriber": names[row.subscriber_id],
            "state": row.state,
            "amount": money_to_wire(Money(row.amount, row.currency)),
            "units": units.to_wire(row.units),
            "to": row.to,
            "way": row.way,
            "rule": row.rule,
            "reason": row.reason,
            "reference": row.reference,
            "problem": row.problem,
            "credit_note": notes.get(row.note_id),
            "red_fapiao": reds.get(row.note_id),
            "asked_by": row.asked_by,
            "asked_at": to_wire_time(row.asked_at),
            "ended_at": to_wire_time(row.ended_at) if row.ended_at else None,
            "history": [
                {
                    "state": step.state,
                    "at": to_wire_time(step.at),
                    "reason": step.reason,
                    "reference": step.reference,
                }
                for step in steps[row.id]
            ],
        }
        for row in rows
    ]


def _shown(operator: Operator, number: str) -> dict[str, Any]:
    [shown] = show([refunds.find(operator, number)])
    return shown


def _preview(operator: Operator, number: str) -> dict[str, Any]:
    at = clock.now(operator)
    order, offer = refunds.preview(operator, number, at=at)
    rules = corrections.rules_of(operator.pk, at=at)
    to = [Refund.To.SOURCE] if order.kind == Order.Kind.TOP_UP else Refund.To.values
    return {
        "order": order.number,
        "amount": money_to_wire(Money(offer.amount, order.currency)),
        "units": units.to_wire(offer.units),
        "rule": offer.rule,
        "ways": list(to),
        "ends_subscription": order.kind in (Order.Kind.PLAN, Order.Kind.PERIOD),
        "waits_for_approval": rules.waits(offer.amount),
    }


# Doors -------------------------------------------------------------------------------------------


class OrderRefundsDoor(OperatorDoor):
    # Its own idempotency: a provider is called after the commit, outside of any transaction.
    @extend_schema(
        operation_id="refund_order",
        parameters=[ORDER_NUMBER, IDEMPOTENCY_KEY],
        request=NewRefund,
        responses={
            200: OpenApiResponse(OfferBody, description="With `preview`: nothing has happened."),
            201: RefundBody,
            202: OpenApiResponse(ApprovalBody, description="Above the limit: nothing has moved."),
            **refusals(404, 409, 413, 415, 422),
        },
    )
    def post(self, request: Request, number: str) -> Response:
        """Refund an order, whole or in part. What is not asked for is not taken: `preview` says
        what the policy gives. With the same `Idempotency-Key` it is the same refund."""
        operator = operator_of(request)
        at = clock.now(operator)
        body = NewRefund(data=request.data, context={"operator": operator})
        body.is_valid(raise_exception=True)
        said = body.validated_data
        if said["preview"]:
            return Response(_preview(operator, number))
        made = refunds.ask(
            operator,
            number,
            amount=_amount(operator, number, said.get("amount")),
            to=said["to"],
            reason=said["reason"],
            by=person_of(request),
            once=_once(request),
            at=at,
        )
        if isinstance(made, Approval):
            return Response(show_approval(made), status=202)
        refunds.send(operator, made.number, at=at)
        return Response(_shown(operator, made.number), status=201)

    @extend_schema(
        operation_id="list_refunds_of_order",
        parameters=[ORDER_NUMBER, LIMIT, CURSOR],
        responses={200: RefundPage, **refusals(404)},
    )
    def get(self, request: Request, number: str) -> Response:
        """The refunds of an order, in the order they were asked for."""
        order = keeping.find(operator_of(request), number)
        rows = Refund.objects.filter(subscriber_id=order.subscriber_id, order_id=order.id)
        return Response(
            pagination.page(request, rows.order_by("id"), by="id", of_type=int, show=show)
        )


def _amount(operator: Operator, number: str, said: Money | None) -> Decimal | None:
    if said is None:
        return None
    if said.currency.code != keeping.find(operator, number).currency:
        raise Invalid("a refund is in the currency of its order")
    amount: Decimal = said.amount
    return amount


def _once(request: Request) -> str:
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return ""
    if not (0 < len(key) <= 255 and key.isascii() and key.isprintable()):
        raise BadKey("Idempotency-Key has 1 to 255 printable ASCII characters")
    return f"api:{key}"


class RefundsDoor(OperatorDoor):
    @extend_schema(
        operation_id="list_refunds",
        parameters=[STATE, TO_DO, LIMIT, CURSOR],
        responses={200: RefundPage, **refusals()},
    )
    def get(self, request: Request) -> Response:
        """All refunds, in the order they were asked for."""
        rows = Refund.objects.filter(operator=operator_of(request))
        state = request.query_params.get("state")
        if state is not None:
            if state not in Refund.State.values:
                raise pagination.BadQuery(f"state is one of {', '.join(Refund.State.values)}")
            rows = rows.filter(state=state)
        to_do = request.query_params.get("to_do", "false")
        if to_do not in ("true", "false"):
            raise pagination.BadQuery("to_do is true or false")
        if to_do == "true":
            waits = Q(state=Refund.State.PENDING)
            rows = rows.filter(
                Q(state=Refund.State.FAILED) | waits & Q(way=bank.WAY) | waits & ~Q(problem="")
            )
        return Response(
            pagination.page(request, rows.order_by("id"), by="id", of_type=int, show=show)
        )


class RefundDoor(OperatorDoor):
    @extend_schema(
        operation_id="get_refund",
        parameters=[REFUND_NUMBER],
        responses={200: RefundBody, **refusals(404)},
    )
    def get(self, request: Request, number: str) -> Response:
        """One refund with its history."""
        return Response(_shown(operator_of(request), number))


class RefundRetryDoor(OperatorDoor):
    # A provider is called after the commit.
    @extend_schema(
        operation_id="retry_refund",
        parameters=[REFUND_NUMBER],
        request=None,
        responses={200: RefundBody, **refusals(404, 409)},
    )
    def post(self, request: Request, number: str) -> Response:
        """Try a refund again that has failed. Again, while that try is open, is harmless."""
        operator = operator_of(request)
        at = clock.now(operator)
        refunds.retry(operator, number, by=person_of(request), at=at)
        refunds.send(operator, number, at=at)
        return Response(_shown(operator, number))


class RefundToWalletDoor(OperatorDoor):
    @extend_schema(
        operation_id="refund_to_wallet",
        parameters=[REFUND_NUMBER],
        request=None,
        responses={200: RefundBody, **refusals(404, 409)},
    )
    def post(self, request: Request, number: str) -> Response:
        """Put a refund into the wallet that has failed, or that waits to be transferred. Again is
        harmless."""
        operator = operator_of(request)
        refunds.to_wallet(operator, number, by=person_of(request), at=clock.now(operator))
        return Response(_shown(operator, number))


class RefundTransferredDoor(OperatorDoor):
    @extend_schema(
        operation_id="refund_transferred",
        parameters=[REFUND_NUMBER, IDEMPOTENCY_KEY],
        request=TransferredBody,
        responses={200: RefundBody, **refusals(404, 409, 413, 415, 422)},
    )
    @idempotent
    def post(self, request: Request, number: str) -> Response:
        """Say that a refund of what came by bank transfer was transferred back."""
        operator = operator_of(request)
        said = TransferredBody(data=request.data)
        said.is_valid(raise_exception=True)
        refunds.transferred(
            operator,
            number,
            reference=said.validated_data["reference"],
            by=person_of(request),
            at=clock.now(operator),
        )
        return Response(_shown(operator, number))


class RefundCancelDoor(OperatorDoor):
    @extend_schema(
        operation_id="cancel_refund",
        parameters=[REFUND_NUMBER],
        request=None,
        responses={200: RefundBody, **refusals(404, 409)},
    )
    def post(self, request: Request, number: str) -> Response:
        """Give a refund up that has failed, or that waits to be transferred: the units can be used
        again. `documented` where a credit note says it already. Again is harmless."""
        operator = operator_of(request)
        refunds.cancel(operator, number, by=person_of(request), at=clock.now(operator))
        return Response(_shown(operator, number))
