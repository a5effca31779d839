"""Doors for the rules: how corrections are made, and what a second person has to approve."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

from djmoney.money import Money
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing import corrections
from subscriptions import clock
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import Flag, Price, Units, money_to_wire, plain
from subscriptions.api.schema import refusals
from subscriptions.errors import Invalid
from subscriptions.models import ApiKey, Operator
from subscriptions.units import to_wire


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
        at = clock.now(operator)
        rules = replace(
            corrections.rules_of(operator.pk, at=at),
            approval_limit=None if limit is None else limit.amount,
            over_charge_factor=body.validated_data["over_charge_factor"],
        )
        corrections.set_rules(operator, rules, by=person_of(request), at=at)
        return Response(show_policy(operator))


class ApprovalPolicyBody(serializers.Serializer[Any]):
    """What else waits for another person from now on, beside money above `approval_limit`."""

    units_limit = Units(
        allow_null=True,
        help_text="more units given by hand, or moved by a re-rating, wait; null: none do",
    )
    prices_by_two = Flag(help_text="each version of a plan or rate card waits")


def show_approval_policy(operator: Operator) -> dict[str, Any]:
    rules = corrections.rules_of(operator.pk, at=clock.now(operator))
    limit = rules.units_limit
    return {
        "units_limit": None if limit is None else to_wire(limit),
        "prices_by_two": rules.prices_by_two,
    }


class ApprovalPolicyDoor(OperatorDoor):
    @extend_schema(
        operation_id="get_approval_policy", responses={200: ApprovalPolicyBody, **refusals()}
    )
    def get(self, request: Request) -> Response:
        """The rules that hold now."""
        return Response(show_approval_policy(operator_of(request)))

    @extend_schema(
        operation_id="set_approval_policy",
        request=ApprovalPolicyBody,
        responses={200: ApprovalPolicyBody, **refusals(413, 415, 422)},
    )
    def put(self, request: Request) -> Response:
        """Other rules, for what is asked for from now on."""
        operator = operator_of(request)
        body = ApprovalPolicyBody(data=request.data)
        body.is_valid(raise_exception=True)
        at = clock.now(operator)
        rules = replace(corrections.rules_of(operator.pk, at=at), **body.validated_data)
        corrections.set_rules(operator, rules, by=person_of(request), at=at)
        return Response(show_approval_policy(operator))
