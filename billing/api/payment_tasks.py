"""Doors for payments that are unclear: staff see why, and say what becomes of the money."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from djmoney.money import Money
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing import receiving
from billing.api.invoices import MoneyBody
from billing.models import Order, PaymentTask
from subscriptions import clock, registry
from subscriptions.api import pagination
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import ExternalId, Instant, Text, money_to_wire, to_wire_time
from subscriptions.api.schema import CURSOR, LIMIT, refusals
from subscriptions.models import Subscriber

TASK_ID = OpenApiParameter("task_id", {"type": "integer"}, OpenApiParameter.PATH)
STATE = OpenApiParameter(
    "state",
    {"type": "string", "enum": PaymentTask.State.values},
    OpenApiParameter.QUERY,
    description="Only tasks in this state.",
)


class TaskBody(serializers.Serializer[Any]):
    """A payment that is unclear, or a notice that could not be worked: then there is no amount."""

    id = serializers.CharField()
    cause = serializers.CharField(help_text="stable; for machines")
    detail = serializers.CharField(help_text="for people")
    state = serializers.ChoiceField(choices=PaymentTask.State.values)
    action = serializers.ChoiceField(choices=["", *PaymentTask.Action.values])
    note = serializers.CharField()
    created_at = Instant()
    resolved_at = Instant(allow_null=True)
    provider = serializers.CharField()
    reference = serializers.CharField(help_text="the provider's own")
    amount = MoneyBody(required=False)
    order = serializers.CharField(required=False)
    subscriber = serializers.CharField(required=False)


class TaskPage(serializers.Serializer[Any]):
    items = TaskBody(many=True)
    next = serializers.URLField(allow_null=True)


class Resolution(serializers.Serializer[Any]):
    action = serializers.ChoiceField(choices=PaymentTask.Action.values)
    note = Text(max_length=500, help_text="why; kept with the task")
    subscriber = ExternalId(
        required=False, help_text="of a `wallet`; default: whose order the payment names"
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "subscriber" in attrs and attrs["action"] != PaymentTask.Action.WALLET:
            raise serializers.ValidationError({"subscriber": "of a wallet only"})
        return attrs


def show(rows: Sequence[PaymentTask]) -> list[dict[str, Any]]:
    """Tasks as they travel."""
    payments = [row.payment for row in rows if row.payment is not None]
    subscriber_ids = {one.subscriber_id for one in payments if one.subscriber_id is not None}
    names = dict(Subscriber.objects.filter(pk__in=subscriber_ids).values_list("pk", "external_id"))
    numbers = dict(
        Order.objects.filter(
            subscriber_id__in=subscriber_ids,
            id__in=[one.order_id for one in payments if one.order_id is not None],
        ).values_list("id", "number")
    )
    return [_show(row, names, numbers) for row in rows]


def _show(row: PaymentTask, names: dict[int, str], numbers: dict[int, str]) -> dict[str, Any]:
    body: dict[str, Any] = {
        "id": str(row.pk),
        "cause": row.cause,
        "detail": row.detail,
        "state": row.state,
        "action": row.action,
        "note": row.note,
        "created_at": to_wire_time(row.created_at),
        "resolved_at": to_wire_time(row.resolved_at) if row.resolved_at else None,
    }
    payment = row.payment
    if payment is None:
        assert row.event is not None
        return body | {
            "provider": row.event.account.provider,
            "reference": row.event.event_id,
        }
    body |= {
        "provider": payment.account.provider,
        "reference": payment.reference,
        "amount": money_to_wire(Money(payment.amount, payment.currency)),
    }
    if payment.order_id is not None:
        body["order"] = numbers[payment.order_id]
    if payment.subscriber_id is not None:
        body["subscriber"] = names[payment.subscriber_id]
    return body


class PaymentTasksDoor(OperatorDoor):
    @extend_schema(
        operation_id="list_payment_tasks",
        parameters=[STATE, LIMIT, CURSOR],
        responses={200: TaskPage, **refusals()},
    )
    def get(self, request: Request) -> Response:
        """What is unclear, or was, in the order it came."""
        rows = PaymentTask.objects.filter(operator=operator_of(request))
        state = request.query_params.get("state")
        if state is not None:
            if state not in PaymentTask.State.values:
                raise pagination.BadQuery(f"state is one of {', '.join(PaymentTask.State.values)}")
            rows = rows.filter(state=state)
        rows = rows.select_related("payment__account", "event__account").order_by("id")
        return Response(pagination.page(request, rows, by="id", of_type=int, show=show))


class PaymentTaskDoor(OperatorDoor):
    @extend_schema(
        operation_id="get_payment_task",
        parameters=[TASK_ID],
        responses={200: TaskBody, **refusals(404)},
    )
    def get(self, request: Request, task_id: int) -> Response:
        """One of them."""
        [shown] = show([receiving.find(operator_of(request), task_id)])
        return Response(shown)


class ResolvePaymentTaskDoor(OperatorDoor):
    # Not by Idempotency-Key: the provider is called outside of any transaction; again is harmless.
    @extend_schema(
        operation_id="resolve_payment_task",
        parameters=[TASK_ID],
        request=Resolution,
        responses={200: TaskBody, **refusals(404, 409, 413, 415, 422)},
    )
    def post(self, request: Request, task_id: int) -> Response:
        """Put the money into a wallet, send it back to the payer, or note what was done with it
        elsewhere. The same again is harmless; another is `task_resolved`."""
        operator = operator_of(request)
        receiving.find(operator, task_id)
        said = Resolution(data=request.data)
        said.is_valid(raise_exception=True)
        wanted = said.validated_data
        whose = wanted.get("subscriber")
        task = receiving.resolve(
            operator,
            task_id,
            wanted["action"],
            note=wanted["note"],
            subscriber_id=registry.find(operator, whose).pk if whose else None,
            at=clock.now(operator),
        )
        [shown] = show([task])
        return Response(shown)
