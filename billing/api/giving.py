"""Doors for what staff give by hand: units, and money in the wallet."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing import giving
from billing.api.approvals import ApprovalBody, show_approval
from billing.api.corrections import person_of
from billing.api.wallets import MovementBody, show_movement
from billing.models import Approval
from subscriptions import clock, registry
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import Instant, Price, Text
from subscriptions.api.idempotency import idempotent
from subscriptions.api.schema import EXTERNAL_ID, IDEMPOTENCY_KEY, refusals
from subscriptions.api.subscriptions import BucketBody, Gift, show_bucket
from subscriptions.errors import Invalid


def once_of(request: Request) -> str:
    """By what name this may be asked for again."""
    key = request.headers.get("Idempotency-Key")
    return f"api:{key}" if key else ""


class GrantsDoor(OperatorDoor):
    @extend_schema(
        operation_id="grant_gift",
        parameters=[EXTERNAL_ID, IDEMPOTENCY_KEY],
        request=Gift,
        responses={
            201: OpenApiResponse(BucketBody, description="The gift."),
            202: OpenApiResponse(ApprovalBody, description="Above the limit: nothing is given."),
            **refusals(404, 409, 413, 415, 422),
        },
    )
    @idempotent
    def post(self, request: Request, external_id: str) -> Response:
        """Give units: a bucket valid from now until `valid_until`, burnt before the allowance. More
        than the `approval-policy` lets one give wait until another person approves."""
        operator = operator_of(request)
        subscriber = registry.find(operator, external_id)
        gift = Gift(data=request.data)
        gift.is_valid(raise_exception=True)
        made = giving.give(
            operator,
            subscriber.pk,
            **gift.validated_data,
            by=person_of(request),
            at=clock.now(operator),
            once=once_of(request),
        )
        if isinstance(made, Approval):
            return Response(show_approval(made), status=202)
        return Response(show_bucket(made), status=201)


class WalletCredit(serializers.Serializer[Any]):
    amount = Price()
    expires_at = Instant(required=False, help_text="when what is left of it lapses; default: never")
    reason = Text(max_length=200)


class WalletCreditsDoor(OperatorDoor):
    @extend_schema(
        operation_id="credit_wallet",
        parameters=[EXTERNAL_ID, IDEMPOTENCY_KEY],
        request=WalletCredit,
        responses={
            201: OpenApiResponse(MovementBody, description="It is in the wallet."),
            202: OpenApiResponse(ApprovalBody, description="Above the limit: nothing is given."),
            **refusals(404, 409, 413, 415, 422),
        },
    )
    @idempotent
    def post(self, request: Request, external_id: str) -> Response:
        """Give money: a bonus in the wallet, spent before the subscriber's own and never paid out.
        More than the `correction-policy` lets one give waits until another person approves."""
        operator = operator_of(request)
        subscriber = registry.find(operator, external_id)
        body = WalletCredit(data=request.data, context={"operator": operator})
        body.is_valid(raise_exception=True)
        said = body.validated_data
        if said["amount"].currency.code != operator.currency:
            raise Invalid(f"a wallet is in {operator.currency}")
        made = giving.credit(
            operator,
            subscriber.pk,
            said["amount"].amount,
            expires_at=said.get("expires_at"),
            reason=said["reason"],
            by=person_of(request),
            at=clock.now(operator),
            once=once_of(request),
        )
        if isinstance(made, Approval):
            return Response(show_approval(made), status=202)
        return Response(show_movement(made), status=201)
