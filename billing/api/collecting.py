"""Doors for what subscribers agree to, and for what is collected by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from djmoney.money import Money
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing import consents
from billing.api.corrections import person_of
from billing.api.invoices import MoneyBody
from billing.collecting import agreeing, cases, policies
from billing.collecting.schedule import WAYS, Terms
from billing.models import CollectionCase, CollectionStep, Consent, Invoice, Order
from subscriptions import clock, registry
from subscriptions.api import pagination
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import (
    Code,
    Count,
    Instant,
    Price,
    Text,
    money_to_wire,
    to_wire_time,
)
from subscriptions.api.idempotency import idempotent
from subscriptions.api.schema import CURSOR, EXTERNAL_ID, IDEMPOTENCY_KEY, LIMIT, refusals
from subscriptions.errors import Invalid
from subscriptions.models import Operator

CONSENT_NUMBER = OpenApiParameter(
    "number",
    {"type": "string", "pattern": "^[A-Z0-9-]+$", "maxLength": 40},
    OpenApiParameter.PATH,
)


# Consents ----------------------------------------------------------------------------------------


class NewConsent(serializers.Serializer[Any]):
    """What a subscriber agrees to, in the words it was shown."""

    kind = serializers.ChoiceField(choices=Consent.Kind.values)
    subscription = serializers.RegexField(
        r"^[1-9][0-9]{0,17}\Z", required=False, help_text="default: all that it holds"
    )
    text = Text(max_length=10_000)
    text_version = Text(max_length=64)
    language = Text(max_length=35, help_text="of the text, as in `zh-CN`")
    channel = Code(max_length=32, help_text="by which it was given, as in `portal`")
    monthly_cap = Price(
        required=False, help_text="of the phone bill: the most that it may carry a month"
    )


class ConsentBody(serializers.Serializer[Any]):
    """A consent, and when it was withdrawn: then it is the receipt."""

    number = serializers.CharField()
    kind = serializers.ChoiceField(choices=Consent.Kind.values)
    subscription = serializers.CharField(allow_null=True)
    text = serializers.CharField()
    text_version = serializers.CharField()
    language = serializers.CharField()
    channel = serializers.CharField()
    monthly_cap = MoneyBody(allow_null=True)
    given_at = Instant()
    withdrawn_at = Instant(allow_null=True)
    withdrawn_by = serializers.CharField(help_text="the channel")


class ConsentPage(serializers.Serializer[Any]):
    items = ConsentBody(many=True)
    next = serializers.URLField(allow_null=True)


class Withdrawal(serializers.Serializer[Any]):
    channel = Code(max_length=32, help_text="by which it is withdrawn")


def show_consent(one: Consent, currency: str) -> dict[str, Any]:
    cap = one.monthly_cap
    return {
        "number": one.number,
        "kind": one.kind,
        "subscription": None if one.subscription_id is None else str(one.subscription_id),
        "text": one.text,
        "text_version": one.text_version,
        "language": one.language,
        "channel": one.channel,
        "monthly_cap": None if cap is None else money_to_wire(Money(cap, currency)),
        "given_at": to_wire_time(one.given_at),
        "withdrawn_at": to_wire_time(one.withdrawn_at) if one.withdrawn_at else None,
        "withdrawn_by": one.withdrawn_by,
    }


class ConsentsDoor(OperatorDoor):
    @extend_schema(
        operation_id="give_consent",
        parameters=[EXTERNAL_ID, IDEMPOTENCY_KEY],
        request=NewConsent,
        responses={201: ConsentBody, **refusals(404, 409, 413, 415, 422)},
    )
    @idempotent
    def post(self, request: Request, external_id: str) -> Response:
        """Keep what a subscriber agrees to. Nothing is assumed: without it nothing is collected by
        itself, and the phone bill carries nothing."""
        operator = operator_of(request)
        subscriber = registry.find(operator, external_id)
        wanted = NewConsent(data=request.data, context={"operator": operator})
        wanted.is_valid(raise_exception=True)
        said = dict(wanted.validated_data)
        cap, subscription = said.pop("monthly_cap", None), said.pop("subscription", None)
        if cap is not None and cap.currency.code != operator.currency:
            raise Invalid(f"monthly_cap is in {operator.currency}")
        at = clock.now(operator)
        given = agreeing.agree(
            operator,
            subscriber.pk,
            consents.Said(
                **said,
                subscription_id=None if subscription is None else int(subscription),
                monthly_cap=None if cap is None else cap.amount,
            ),
            at=at,
        )
        return Response(show_consent(given, operator.currency), status=201)

    @extend_schema(
        operation_id="list_consents",
        parameters=[EXTERNAL_ID, LIMIT, CURSOR],
        responses={200: ConsentPage, **refusals(404)},
    )
    def get(self, request: Request, external_id: str) -> Response:
        """All that a subscriber ever agreed to, the earliest first."""
        operator = operator_of(request)
        rows = Consent.objects.filter(subscriber_id=registry.find(operator, external_id).pk)

        def show(some: Sequence[Consent]) -> list[dict[str, Any]]:
            return [show_consent(one, operator.currency) for one in some]

        return Response(
            pagination.page(request, rows.order_by("id"), by="id", of_type=int, show=show)
        )


class ConsentWithdrawDoor(OperatorDoor):
    @extend_schema(
        operation_id="withdraw_consent",
        parameters=[EXTERNAL_ID, CONSENT_NUMBER, IDEMPOTENCY_KEY],
        request=Withdrawal,
        responses={200: ConsentBody, **refusals(404, 409, 413, 415, 422)},
    )
    @idempotent
    def post(self, request: Request, external_id: str, number: str) -> Response:
        """Take a consent back; the answer is the receipt. Again is harmless."""
        operator = operator_of(request)
        subscriber = registry.find(operator, external_id)
        said = Withdrawal(data=request.data)
        said.is_valid(raise_exception=True)
        at = clock.now(operator)
        channel = said.validated_data["channel"]
        receipt = agreeing.take_back(operator, subscriber.pk, number, channel=channel, at=at)
        return Response(show_consent(receipt, operator.currency))


# The policy --------------------------------------------------------------------------------------


class CollectionPolicyBody(serializers.Serializer[Any]):
    """How what falls due is collected, of what begins from now on."""

    days_ahead = Count(min_value=0, help_text="before a period begins its order is made")
    notice_days = Count(min_value=0, help_text="… its subscriber is told")
    lead_days = Count(min_value=0, help_text="… it is first tried")
    ways = serializers.ListField(child=serializers.ChoiceField(choices=WAYS), min_length=1)
    retry_days = serializers.ListField(
        child=Count(min_value=0), min_length=1, help_text="after the first try; begins with 0"
    )
    from_hour = Count(min_value=0, help_text="of the operator's day: no try before")
    until_hour = Count(min_value=0, help_text="… no try from then on")
    grace_days = Count(min_value=0, help_text="after it was due, before what follows follows")
    phone_bill_cap = Price(
        allow_null=True, help_text="the most that one phone bill may carry a month; null: no cap"
    )


def show_policy(operator: Operator) -> dict[str, Any]:
    terms = policies.terms_by(operator.pk)(clock.now(operator))
    cap = terms.phone_bill_cap
    return {
        **terms._asdict(),
        "phone_bill_cap": None if cap is None else money_to_wire(Money(cap, operator.currency)),
    }


class CollectionPolicyDoor(OperatorDoor):
    @extend_schema(
        operation_id="get_collection_policy", responses={200: CollectionPolicyBody, **refusals()}
    )
    def get(self, request: Request) -> Response:
        """The policy that holds now."""
        return Response(show_policy(operator_of(request)))

    @extend_schema(
        operation_id="set_collection_policy",
        request=CollectionPolicyBody,
        responses={200: CollectionPolicyBody, **refusals(413, 415, 422)},
    )
    def put(self, request: Request) -> Response:
        """Another policy, for what begins to be collected from now on."""
        operator = operator_of(request)
        body = CollectionPolicyBody(data=request.data, context={"operator": operator})
        body.is_valid(raise_exception=True)
        said = dict(body.validated_data)
        cap = said["phone_bill_cap"]
        if cap is not None and cap.currency.code != operator.currency:
            raise Invalid(f"phone_bill_cap is in {operator.currency}")
        said["phone_bill_cap"] = None if cap is None else cap.amount
        said["ways"], said["retry_days"] = tuple(said["ways"]), tuple(said["retry_days"])
        policies.set_terms(operator, Terms(**said), by=person_of(request), at=clock.now(operator))
        return Response(show_policy(operator))


# Cases -------------------------------------------------------------------------------------------


class CollectionStepBody(serializers.Serializer[Any]):
    kind = serializers.ChoiceField(choices=CollectionStep.Kind.values)
    at = Instant()
    way = serializers.CharField()
    reason = serializers.CharField()


class CollectionBody(serializers.Serializer[Any]):
    """One thing that is collected by itself: a period's order, or an invoice."""

    kind = serializers.ChoiceField(choices=CollectionCase.Kind.values)
    state = serializers.ChoiceField(choices=CollectionCase.State.values)
    order = serializers.CharField(allow_null=True, help_text="by which it is paid")
    invoice = serializers.CharField(allow_null=True)
    begun_at = Instant()
    due_at = Instant()
    next_at = Instant(allow_null=True)
    history = CollectionStepBody(many=True)


class CollectionPage(serializers.Serializer[Any]):
    items = CollectionBody(many=True)
    next = serializers.URLField(allow_null=True)


def show_cases(found: Sequence[CollectionCase]) -> list[dict[str, Any]]:
    steps = cases.steps_of(found)
    subscriber_ids = {case.subscriber_id for case in found}
    orders = dict(
        Order.objects.filter(
            subscriber_id__in=subscriber_ids,
            id__in={case.order_id for case in found if case.order_id is not None},
        ).values_list("id", "number")
    )
    about = {case.about for case in found if case.kind == CollectionCase.Kind.INVOICE}
    invoices = dict(
        Invoice.objects.filter(subscriber_id__in=subscriber_ids, id__in=about).values_list(
            "id", "number"
        )
    )
    return [
        {
            "kind": case.kind,
            "state": case.state,
            "order": orders.get(case.order_id) if case.order_id is not None else None,
            "invoice": invoices[case.about] if case.kind == CollectionCase.Kind.INVOICE else None,
            "begun_at": to_wire_time(case.begun_at),
            "due_at": to_wire_time(case.due_at),
            "next_at": to_wire_time(case.next_at) if case.next_at else None,
            "history": [
                {
                    "kind": one.kind,
                    "at": to_wire_time(one.at),
                    "way": one.way,
                    "reason": one.reason,
                }
                for one in steps[cases.key_of(case)]
            ],
        }
        for case in found
    ]


class CollectionsDoor(OperatorDoor):
    @extend_schema(
        operation_id="list_collections",
        parameters=[EXTERNAL_ID, LIMIT, CURSOR],
        responses={200: CollectionPage, **refusals(404)},
    )
    def get(self, request: Request, external_id: str) -> Response:
        """What is or was collected of a subscriber by itself, and what was tried."""
        subscriber = registry.find(operator_of(request), external_id)
        rows = CollectionCase.objects.filter(subscriber_id=subscriber.pk).order_by("about")
        return Response(pagination.page(request, rows, by="about", of_type=int, show=show_cases))
