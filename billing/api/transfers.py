"""Doors for transfers that arrived at the bank, and what staff say that they paid."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from djmoney.money import Money
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing import transfers
from billing.api.invoices import MoneyBody
from billing.models import BankTransfer, Invoice, Order
from billing.transfers import Pays, Told
from subscriptions import clock, registry
from subscriptions.api import pagination
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import ExternalId, Instant, Price, Text, money_to_wire, to_wire_time
from subscriptions.api.schema import CURSOR, LIMIT, refusals
from subscriptions.errors import DomainError
from subscriptions.models import Operator, Subscriber

TRANSFER_ID = OpenApiParameter("transfer_id", {"type": "integer"}, OpenApiParameter.PATH)
STATE = OpenApiParameter(
    "state",
    {"type": "string", "enum": BankTransfer.State.values},
    OpenApiParameter.QUERY,
    description="Only transfers in this state.",
)


class Match(serializers.Serializer[Any]):
    """What a transfer paid: one of the three."""

    order = Text(required=False, max_length=40, help_text="its number")
    invoice = Text(required=False, max_length=32, help_text="its number")
    wallet = ExternalId(required=False, help_text="of this subscriber")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if len(attrs) != 1:
            raise serializers.ValidationError("name one order, one invoice or one wallet")
        return attrs


class NewTransfer(serializers.Serializer[Any]):
    """A line of a bank statement."""

    reference = Text(max_length=100, help_text="the bank's own, once for each transfer")
    amount = Price()
    received_at = Instant(required=False, help_text="default: now")
    payer = Text(max_length=200, required=False, allow_blank=True)
    remark = Text(max_length=200, required=False, allow_blank=True)
    pays = Match(required=False)


class TransferBody(serializers.Serializer[Any]):
    """A transfer, and what it paid. Unmatched it pays nothing; `cause` says why."""

    id = serializers.CharField()
    reference = serializers.CharField()
    amount = MoneyBody()
    payer = serializers.CharField()
    remark = serializers.CharField()
    received_at = Instant()
    state = serializers.ChoiceField(choices=BankTransfer.State.values)
    cause = serializers.CharField()
    matched_at = Instant(allow_null=True)
    order = serializers.CharField(required=False)
    invoice = serializers.CharField(required=False)
    wallet = serializers.CharField(required=False)


class TransferPage(serializers.Serializer[Any]):
    items = TransferBody(many=True)
    next = serializers.URLField(allow_null=True)


def show(rows: Sequence[BankTransfer]) -> list[dict[str, Any]]:
    """Transfers as they travel."""
    subscriber_ids = {row.subscriber_id for row in rows if row.subscriber_id is not None}
    of = {"subscriber_id__in": subscriber_ids}
    orders = dict(
        Order.objects.filter(**of, id__in=[r.order_id for r in rows if r.order_id]).values_list(
            "id", "number"
        )
    )
    invoices = dict(
        Invoice.objects.filter(
            **of, id__in=[r.invoice_id for r in rows if r.invoice_id]
        ).values_list("id", "number")
    )
    names = dict(Subscriber.objects.filter(pk__in=subscriber_ids).values_list("pk", "external_id"))
    shown = []
    for row in rows:
        body: dict[str, Any] = {
            "id": str(row.pk),
            "reference": row.reference,
            "amount": money_to_wire(Money(row.amount, row.currency)),
            "payer": row.payer,
            "remark": row.remark,
            "received_at": to_wire_time(row.received_at),
            "state": row.state,
            "cause": row.cause,
            "matched_at": to_wire_time(row.matched_at) if row.matched_at else None,
        }
        if row.order_id is not None:
            body["order"] = orders[row.order_id]
        elif row.invoice_id is not None:
            body["invoice"] = invoices[row.invoice_id]
        elif row.subscriber_id is not None:
            body["wallet"] = names[row.subscriber_id]
        shown.append(body)
    return shown


def _pays(operator: Operator, said: dict[str, str]) -> Pays:
    """Raises NotFound for a wallet of nobody."""
    if "wallet" in said:
        return Pays(wallet=registry.find(operator, said["wallet"]).pk)
    return Pays(order=said.get("order", ""), invoice=said.get("invoice", ""))


class TransfersDoor(OperatorDoor):
    # Idempotent by the bank's reference.
    @extend_schema(
        operation_id="tell_transfer",
        request=NewTransfer,
        responses={201: TransferBody, **refusals(409, 413, 415, 422)},
    )
    def post(self, request: Request) -> Response:
        """Tell a transfer that arrived, and perhaps what it pays. It is kept in any case: where it
        cannot pay that, it is `unmatched` and `cause` says why. Again is harmless."""
        operator = operator_of(request)
        at = clock.now(operator)
        told = NewTransfer(data=request.data, context={"operator": operator})
        told.is_valid(raise_exception=True)
        said = told.validated_data
        transfer = transfers.tell(
            operator,
            Told(
                reference=said["reference"],
                amount=said["amount"].amount,
                currency=said["amount"].currency.code,
                received_at=said.get("received_at", at),
                payer=said.get("payer", ""),
                remark=said.get("remark", ""),
            ),
            at=at,
        )
        if "pays" in said:
            with suppress(DomainError):
                transfers.match(operator, transfer.pk, _pays(operator, said["pays"]), at=at)
        [shown] = show([transfers.find(operator, transfer.pk)])
        return Response(shown, status=201)

    @extend_schema(
        operation_id="list_transfers",
        parameters=[STATE, LIMIT, CURSOR],
        responses={200: TransferPage, **refusals()},
    )
    def get(self, request: Request) -> Response:
        """All transfers, in the order they were told."""
        rows = BankTransfer.objects.filter(operator=operator_of(request))
        state = request.query_params.get("state")
        if state is not None:
            if state not in BankTransfer.State.values:
                raise pagination.BadQuery("state is unmatched or matched")
            rows = rows.filter(state=state)
        rows = rows.order_by("id")
        return Response(pagination.page(request, rows, by="id", of_type=int, show=show))


class TransferDoor(OperatorDoor):
    @extend_schema(
        operation_id="get_transfer",
        parameters=[TRANSFER_ID],
        responses={200: TransferBody, **refusals(404)},
    )
    def get(self, request: Request, transfer_id: int) -> Response:
        """One transfer."""
        [shown] = show([transfers.find(operator_of(request), transfer_id)])
        return Response(shown)


class TransferMatchDoor(OperatorDoor):
    @extend_schema(
        operation_id="match_transfer",
        parameters=[TRANSFER_ID],
        request=Match,
        responses={200: TransferBody, **refusals(404, 409, 413, 415, 422)},
    )
    def post(self, request: Request, transfer_id: int) -> Response:
        """Say what a transfer paid: `amount_differs`, `already_matched`, `order_paid`, `not_found`
        and the like leave it as it was. The same again is harmless."""
        operator = operator_of(request)
        transfers.find(operator, transfer_id)
        said = Match(data=request.data)
        said.is_valid(raise_exception=True)
        pays = _pays(operator, said.validated_data)
        matched = transfers.match(operator, transfer_id, pays, at=clock.now(operator))
        [shown] = show([matched])
        return Response(shown)
