"""Doors for orders: what is to be paid, how, and what became of it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from djmoney.money import Money
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing import methods
from billing.api.invoices import MoneyBody, Reason
from billing.api.methods import ReturnUrl
from billing.checkout import links
from billing.models import Invoice, Order, PaymentIntent
from billing.orders import buying, keeping, paying
from billing.ways import known
from subscriptions import clock, registry
from subscriptions.api import pagination
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import Code, Instant, Price, Text, money_to_wire, to_wire_time
from subscriptions.api.idempotency import idempotent
from subscriptions.api.schema import CURSOR, EXTERNAL_ID, IDEMPOTENCY_KEY, LIMIT, refusals
from subscriptions.models import Operator, Subscriber

ORDER_NUMBER = OpenApiParameter(
    "number",
    {"type": "string", "pattern": "^[A-Z0-9-]+$", "maxLength": 40},
    OpenApiParameter.PATH,
)
STATE = OpenApiParameter(
    "state",
    {"type": "string", "enum": Order.State.values},
    OpenApiParameter.QUERY,
    description="Only orders in this state.",
)


class StepBody(serializers.Serializer[Any]):
    state = serializers.ChoiceField(choices=Order.State.values)
    at = Instant()
    reason = serializers.CharField()


class AttemptBody(serializers.Serializer[Any]):
    """An attempt to pay; `action` says what the payer is to do, `page` is where they can."""

    way = serializers.CharField()
    state = serializers.ChoiceField(choices=PaymentIntent.State.values)
    reason = serializers.CharField()
    action = serializers.DictField()
    page = serializers.URLField(allow_null=True, help_text="for the payer; null once it has ended")


class OrderBody(serializers.Serializer[Any]):
    """An amount that buys one thing, once. `applied` of it has lowered an invoice."""

    number = serializers.CharField()
    subscriber = serializers.CharField()
    kind = serializers.ChoiceField(choices=Order.Kind.values)
    state = serializers.ChoiceField(choices=Order.State.values)
    amount = MoneyBody()
    applied = MoneyBody()
    refunded = MoneyBody()
    created_at = Instant()
    expires_at = Instant()
    paid_at = Instant(allow_null=True)
    way = serializers.CharField(help_text="how it was paid; empty until then")
    plan = serializers.CharField(required=False)
    booster = serializers.CharField(required=False)
    invoice = serializers.CharField(required=False)
    subscription = serializers.CharField(required=False)
    period_start = Instant(required=False)
    history = StepBody(many=True)
    attempts = AttemptBody(many=True)


class OrderPage(serializers.Serializer[Any]):
    items = OrderBody(many=True)
    next = serializers.URLField(allow_null=True)


class NewOrder(serializers.Serializer[Any]):
    """What is ordered; each kind names its own."""

    kind = serializers.ChoiceField(choices=["top_up", "invoice", "plan", "booster"])
    amount = Price(required=False, help_text="of a top-up")
    invoice = Text(required=False, max_length=32, help_text="its number")
    plan = Code(required=False, help_text="begins when it is paid")
    booster = Code(required=False)
    expires_at = Instant(required=False, help_text="default: in three days")

    _NAMES = {"top_up": "amount", "invoice": "invoice", "plan": "plan", "booster": "booster"}

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        wanted = self._NAMES[attrs["kind"]]
        if wanted not in attrs:
            raise serializers.ValidationError({wanted: f"a {attrs['kind']} order names it"})
        for name in {*self._NAMES.values()} - {wanted}:
            if name in attrs:
                raise serializers.ValidationError({name: f"not of a {attrs['kind']} order"})
        return attrs


class Payment(serializers.Serializer[Any]):
    way = serializers.ChoiceField(choices=known.NAMES)
    method = Text(
        required=False, max_length=20, help_text="of a `card`: the id of a saved one, charged now"
    )
    return_url = ReturnUrl(required=False, help_text="where the payer comes back to")


# Showing -----------------------------------------------------------------------------------------


def show(orders: Sequence[Order]) -> list[dict[str, Any]]:
    """Orders as they travel, with their history."""
    steps = keeping.steps_of(orders)
    attempts = keeping.attempts_of(orders)
    subscriber_ids = {order.subscriber_id for order in orders}
    names = dict(Subscriber.objects.filter(pk__in=subscriber_ids).values_list("pk", "external_id"))
    invoices = dict(
        Invoice.objects.filter(
            subscriber_id__in=subscriber_ids,
            id__in=[order.invoice_id for order in orders if order.invoice_id is not None],
        ).values_list("id", "number")
    )
    return [_show(one, names[one.subscriber_id], invoices, steps, attempts) for one in orders]


def _show(
    order: Order,
    subscriber: str,
    invoices: dict[int, str | None],
    steps: dict[int, Any],
    attempts: dict[int, Any],
) -> dict[str, Any]:
    def money(amount: Decimal) -> dict[str, str]:
        return money_to_wire(Money(amount, order.currency))

    shown: dict[str, Any] = {
        "number": order.number,
        "subscriber": subscriber,
        "kind": order.kind,
        "state": order.state,
        "amount": money(order.amount),
        "applied": money(order.applied),
        "refunded": money(order.refunded),
        "created_at": to_wire_time(order.created_at),
        "expires_at": to_wire_time(order.expires_at),
        "paid_at": to_wire_time(order.paid_at) if order.paid_at else None,
        "way": order.way,
        "history": [
            {"state": step.state, "at": to_wire_time(step.at), "reason": step.reason}
            for step in steps[order.id]
        ],
        "attempts": [
            {
                "way": one.way,
                "state": one.state,
                "reason": one.reason,
                "action": one.action,
                "page": links.pay_page(one) if one.ended_at is None else None,
            }
            for one in attempts[order.id]
        ],
    }
    if order.plan is not None:
        shown["plan"] = order.plan.code
    if order.booster is not None:
        shown["booster"] = order.booster.code
    if order.invoice_id is not None:
        shown["invoice"] = invoices[order.invoice_id]
    if order.subscription_id is not None:
        shown["subscription"] = str(order.subscription_id)
    if order.period_start is not None:
        shown["period_start"] = to_wire_time(order.period_start)
    return shown


def _fresh(operator: Operator, number: str, *, at: dt.datetime) -> dict[str, Any]:
    """An order as it is at `at`."""
    order = keeping.expire_if_due(keeping.find(operator, number), at=at)
    [shown] = show([order])
    return shown


# Doors -------------------------------------------------------------------------------------------


class SubscriberOrdersDoor(OperatorDoor):
    @extend_schema(
        operation_id="create_order",
        parameters=[EXTERNAL_ID, IDEMPOTENCY_KEY],
        request=NewOrder,
        responses={201: OrderBody, **refusals(404, 409, 413, 415, 422)},
    )
    @idempotent
    def post(self, request: Request, external_id: str) -> Response:
        """Order something for a subscriber. Nothing is granted until it is paid."""
        operator = operator_of(request)
        at = clock.now(operator)
        subscriber = registry.find(operator, external_id)
        wanted = NewOrder(data=request.data, context={"operator": operator})
        wanted.is_valid(raise_exception=True)
        said = wanted.validated_data
        key = request.headers.get("Idempotency-Key")
        common = {
            "at": at,
            "key": f"api:{key}" if key else "",
            "expires_at": said.get("expires_at"),
        }
        if said["kind"] == Order.Kind.TOP_UP:
            amount = said["amount"]
            order = buying.order_top_up(
                operator, subscriber.pk, amount.amount, currency=amount.currency.code, **common
            )
        elif said["kind"] == Order.Kind.PLAN:
            order = buying.order_plan(operator, subscriber.pk, said["plan"], **common)
        elif said["kind"] == Order.Kind.BOOSTER:
            order = buying.order_booster(operator, subscriber.pk, said["booster"], **common)
        else:
            order = buying.order_invoice(operator, subscriber.pk, said["invoice"], **common)
        [shown] = show([order])
        return Response(shown, status=201)

    @extend_schema(
        operation_id="list_orders_of_subscriber",
        parameters=[EXTERNAL_ID, STATE, LIMIT, CURSOR],
        responses={200: OrderPage, **refusals(404)},
    )
    def get(self, request: Request, external_id: str) -> Response:
        """A subscriber's orders, in the order they were made."""
        subscriber = registry.find(operator_of(request), external_id)
        return _page(request, Order.objects.filter(subscriber_id=subscriber.pk))


class OrdersDoor(OperatorDoor):
    @extend_schema(
        operation_id="list_orders",
        parameters=[STATE, LIMIT, CURSOR],
        responses={200: OrderPage, **refusals()},
    )
    def get(self, request: Request) -> Response:
        """All orders, in the order they were made."""
        return _page(request, Order.objects.filter(operator=operator_of(request)))


def _page(request: Request, rows: Any) -> Response:
    state = request.query_params.get("state")
    if state is not None:
        if state not in Order.State.values:
            raise pagination.BadQuery(f"state is one of {', '.join(Order.State.values)}")
        rows = rows.filter(state=state)
    rows = rows.select_related("plan", "booster").order_by("id")
    return Response(pagination.page(request, rows, by="id", of_type=int, show=show))


class OrderDoor(OperatorDoor):
    @extend_schema(
        operation_id="get_order",
        parameters=[ORDER_NUMBER],
        responses={200: OrderBody, **refusals(404)},
    )
    def get(self, request: Request, number: str) -> Response:
        """One order with its history and the attempts to pay it."""
        operator = operator_of(request)
        return Response(_fresh(operator, number, at=clock.now(operator)))


class OrderCancelDoor(OperatorDoor):
    @extend_schema(
        operation_id="cancel_order",
        parameters=[ORDER_NUMBER, IDEMPOTENCY_KEY],
        request=Reason,
        responses={200: OrderBody, **refusals(404, 409, 413, 415, 422)},
    )
    @idempotent
    def post(self, request: Request, number: str) -> Response:
        """Let an order be paid no more. Again is harmless; `order_paid` where it is paid."""
        operator = operator_of(request)
        why = Reason(data=request.data)
        why.is_valid(raise_exception=True)
        order = keeping.cancel(
            operator, number, reason=why.validated_data["reason"], at=clock.now(operator)
        )
        [shown] = show([order])
        return Response(shown)


class OrderPayDoor(OperatorDoor):
    # Not by Idempotency-Key: a provider is called outside of any transaction, and an attempt that
    # waits is handed out again.
    @extend_schema(
        operation_id="pay_order",
        parameters=[ORDER_NUMBER],
        request=Payment,
        responses={200: OrderBody, **refusals(404, 409, 413, 415, 422)},
    )
    def post(self, request: Request, number: str) -> Response:
        """Pay from the wallet at once, or hear how to pay: `attempts` say what the payer is to do,
        and where. Again is harmless: an order is paid once."""
        operator = operator_of(request)
        at = clock.now(operator)
        said = Payment(data=request.data)
        said.is_valid(raise_exception=True)
        wanted = said.validated_data
        method = ""
        if "method" in wanted:
            whose = keeping.find(operator, number).subscriber_id
            method = methods.chargeable(operator, whose, wanted["method"]).reference
        # A saved method is charged without its owner, unless it is said where that one is.
        back = "" if method else links.return_url(keeping.find(operator, number))
        paying.pay(
            operator,
            number,
            wanted["way"],
            at=at,
            method=method,
            return_url=wanted.get("return_url", back),
        )
        return Response(_fresh(operator, number, at=at))
