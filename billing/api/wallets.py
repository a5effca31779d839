"""Doors for wallets and their statements."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from djmoney.money import Money
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing import wallets
from billing.api.invoices import MoneyBody
from billing.models import WalletMovement
from subscriptions import registry
from subscriptions.api import pagination
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import Instant, money_to_wire, to_wire_time
from subscriptions.api.schema import CURSOR, EXTERNAL_ID, LIMIT, refusals


class WalletBody(serializers.Serializer[Any]):
    """What a subscriber has, in the operator's currency."""

    balance = MoneyBody()


class MovementBody(serializers.Serializer[Any]):
    """A line of the statement; `balance` is what was there then."""

    nr = serializers.IntegerField()
    at = Instant()
    kind = serializers.ChoiceField(choices=WalletMovement.Kind.values)
    amount = MoneyBody(help_text="below zero: it went out")
    balance = MoneyBody()
    note = serializers.CharField(help_text="what it was for, by its number")


class StatementPage(serializers.Serializer[Any]):
    items = MovementBody(many=True)
    next = serializers.URLField(allow_null=True)


class WalletDoor(OperatorDoor):
    @extend_schema(
        operation_id="get_wallet",
        parameters=[EXTERNAL_ID],
        responses={200: WalletBody, **refusals(404)},
    )
    def get(self, request: Request, external_id: str) -> Response:
        """What a subscriber has in its wallet."""
        operator = operator_of(request)
        subscriber = registry.find(operator, external_id)
        balance = wallets.balance_of(subscriber.pk, operator.currency)
        return Response({"balance": money_to_wire(Money(balance, operator.currency))})


class WalletStatementDoor(OperatorDoor):
    @extend_schema(
        operation_id="list_wallet_movements",
        parameters=[EXTERNAL_ID, LIMIT, CURSOR],
        responses={200: StatementPage, **refusals(404)},
    )
    def get(self, request: Request, external_id: str) -> Response:
        """All that went into and out of a wallet, the earliest first."""
        operator = operator_of(request)
        subscriber = registry.find(operator, external_id)
        rows = WalletMovement.objects.filter(
            subscriber_id=subscriber.pk, currency=operator.currency
        ).order_by("nr")
        return Response(
            pagination.page(
                request, rows, by="nr", of_type=int, show=lambda some: [_show(one) for one in some]
            )
        )


def _show(one: WalletMovement) -> dict[str, Any]:
    def money(amount: Decimal) -> dict[str, str]:
        return money_to_wire(Money(amount, one.currency))

    return {
        "nr": one.nr,
        "at": to_wire_time(one.at),
        "kind": one.kind,
        "amount": money(one.amount),
        "balance": money(one.balance),
        "note": one.note,
    }
