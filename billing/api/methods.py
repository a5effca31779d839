"""Doors for the methods that subscribers have saved to be charged by."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing import methods
from billing.models import PaymentMethod
from subscriptions import clock, registry
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import Instant, Text, to_wire_time
from subscriptions.api.schema import EXTERNAL_ID, refusals

METHOD_ID = OpenApiParameter("method_id", {"type": "integer"}, OpenApiParameter.PATH)


class ReturnUrl(serializers.URLField):
    """Where a payer is sent back to; nothing is granted there."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_length=2000, **kwargs)


class MethodBody(serializers.Serializer[Any]):
    id = serializers.CharField()
    state = serializers.ChoiceField(choices=PaymentMethod.State.values)
    default = serializers.BooleanField()
    brand = serializers.CharField(help_text="empty until the provider has said")
    last4 = serializers.CharField()
    expires = serializers.CharField(help_text="2030-12; empty where it does not")
    consent = serializers.CharField()
    consent_at = Instant()


class BegunBody(MethodBody):
    """`action` says where the subscriber goes."""

    action = serializers.DictField()


class MethodList(serializers.Serializer[Any]):
    items = MethodBody(many=True)


class NewMethod(serializers.Serializer[Any]):
    consent = Text(max_length=4000, help_text="the text that the subscriber has agreed to")
    return_url = ReturnUrl()


def show(method: PaymentMethod) -> dict[str, Any]:
    """A method as it travels."""
    expires = f"{method.exp_year}-{method.exp_month:02}" if method.exp_month else ""
    return {
        "id": str(method.pk),
        "state": method.state,
        "default": method.is_default,
        "brand": method.brand,
        "last4": method.last4,
        "expires": expires,
        "consent": method.consent,
        "consent_at": to_wire_time(method.consent_at),
    }


class MethodsDoor(OperatorDoor):
    @extend_schema(
        operation_id="list_payment_methods",
        parameters=[EXTERNAL_ID],
        responses={200: MethodList, **refusals(404)},
    )
    def get(self, request: Request, external_id: str) -> Response:
        """What the subscriber has saved, the oldest first."""
        operator = operator_of(request)
        subscriber = registry.find(operator, external_id)
        return Response({"items": [show(one) for one in methods.of(operator, subscriber.pk)]})

    # Not by Idempotency-Key: the provider is called outside of any transaction; what nobody goes
    # on with is never saved.
    @extend_schema(
        operation_id="save_payment_method",
        parameters=[EXTERNAL_ID],
        request=NewMethod,
        responses={201: BegunBody, **refusals(404, 409, 413, 415, 422)},
    )
    def post(self, request: Request, external_id: str) -> Response:
        """Begin to save a card: the subscriber types it on the provider's page, and it is listed
        when the provider has told us that it is saved."""
        operator = operator_of(request)
        subscriber = registry.find(operator, external_id)
        said = NewMethod(data=request.data)
        said.is_valid(raise_exception=True)
        method, answer = methods.begin(
            operator, subscriber.pk, **said.validated_data, at=clock.now(operator)
        )
        return Response({**show(method), "action": answer.action}, status=201)


class MethodDoor(OperatorDoor):
    @extend_schema(
        operation_id="remove_payment_method",
        parameters=[EXTERNAL_ID, METHOD_ID],
        responses={200: MethodBody, **refusals(404)},
    )
    def delete(self, request: Request, external_id: str, method_id: int) -> Response:
        """Charge it no more. Again is harmless."""
        operator = operator_of(request)
        subscriber = registry.find(operator, external_id)
        at = clock.now(operator)
        return Response(show(methods.remove(operator, subscriber.pk, method_id, at=at)))


class DefaultMethodDoor(OperatorDoor):
    @extend_schema(
        operation_id="set_default_payment_method",
        parameters=[EXTERNAL_ID, METHOD_ID],
        request=None,
        responses={200: MethodBody, **refusals(404, 409)},
    )
    def post(self, request: Request, external_id: str, method_id: int) -> Response:
        """Charge this one from now on."""
        operator = operator_of(request)
        subscriber = registry.find(operator, external_id)
        at = clock.now(operator)
        return Response(show(methods.set_default(operator, subscriber.pk, method_id, at=at)))
