"""Doors of safety: what a subscriber, or a minor's guardian, set; and what was ever said of it."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from subscriptions import clock, registry
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import Count, Flag, Instant, Text, Units
from subscriptions.api.notices import LocalTime
from subscriptions.api.schema import EXTERNAL_ID, refusals
from subscriptions.models import ApiKey, SafetyStep, Subscriber
from subscriptions.safety import alerts, keeping, steps
from subscriptions.safety.keeping import Consent, Guardian

Kind = SafetyStep.Kind


class Amount(serializers.DecimalField):
    """Money of the operator's currency, two decimals."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_digits=12, decimal_places=2, min_value=0, **kwargs)


class NightLock(serializers.Serializer[Any]):
    """No ask is answered from the first time of day until the second; both null: no lock."""

    begins = LocalTime(allow_null=True)
    ends = LocalTime(allow_null=True)

    def validate(self, attrs: Any) -> Any:
        if (attrs["begins"] is None) != (attrs["ends"] is None):
            raise serializers.ValidationError({"ends": "a lock begins and ends"})
        return attrs


class AlertLines(serializers.Serializer[Any]):
    """When the subscriber is told beside the usual 50, 80 and 100 %."""

    used_percent = serializers.ListField(
        child=Count(min_value=1, max_value=100), max_length=alerts.MOST
    )
    units_left = serializers.ListField(child=Units(), max_length=alerts.MOST)


class OverageConsent(serializers.Serializer[Any]):
    """Whether overage is paid for, in the words that the subscriber was shown."""

    agreed = Flag()
    ceiling = Amount(
        required=False, allow_null=True, help_text="a period; null: the plan's cap alone"
    )
    text = Text(max_length=5000)
    text_version = Text(max_length=64)
    language = Text(max_length=35)
    channel = Text(max_length=32)


class OverageShown(serializers.Serializer[Any]):
    said = serializers.ChoiceField(
        choices=["", "agreed", "declined"], help_text="empty: nothing was said"
    )
    ceiling = Amount(allow_null=True)
    by_consent_since = Instant(
        allow_null=True, help_text="in periods from then on it is paid by consent only"
    )


class MinorTerms(serializers.Serializer[Any]):
    """A minor's guardian, how its consent is known, and what the minor may do; null: no cap."""

    guardian = Text(max_length=200)
    agreed_at = Instant()
    evidence = Text(max_length=500, help_text="how the consent is known: a number, a document")
    units_a_day = Units(required=False, allow_null=True)
    amount_an_order = Amount(required=False, allow_null=True)


class MinorMark(serializers.Serializer[Any]):
    minor = MinorTerms(allow_null=True, help_text="null: the subscriber is none (any more)")


class MinorShown(serializers.Serializer[Any]):
    units_a_day = Units(allow_null=True)
    amount_an_order = Amount(allow_null=True)


class SafetyStepBody(serializers.Serializer[Any]):
    kind = serializers.ChoiceField(choices=Kind.values)
    at = Instant()
    by = serializers.CharField()
    terms = serializers.JSONField(help_text="empty: it was lifted")


class SafetyBody(serializers.Serializer[Any]):
    """What holds now, and all that was ever said, the newest first."""

    night_lock = NightLock()
    alerts = AlertLines()
    overage = OverageShown()
    minor = MinorShown(allow_null=True)
    steps = SafetyStepBody(many=True)


def shown(subscriber: Subscriber) -> Any:
    guard = keeping.of_subscriber(subscriber.pk)
    lines = alerts.of_subscriber(subscriber.pk)
    return SafetyBody(
        {
            "night_lock": {"begins": guard.night_from, "ends": guard.night_until},
            "alerts": {
                "used_percent": [line.value for line in lines if line.kind == "percent"],
                "units_left": [line.value for line in lines if line.kind == "left"],
            },
            "overage": {
                "said": guard.overage,
                "ceiling": guard.overage_ceiling,
                "by_consent_since": subscriber.operator.overage_by_consent_since,
            },
            "minor": {"units_a_day": guard.day_units, "amount_an_order": guard.order_amount}
            if guard.minor
            else None,
            "steps": steps.of_subscriber(subscriber.pk),
        }
    ).data


class _OfSafety(OperatorDoor):
    def subscriber(self, request: Request, external_id: str) -> Subscriber:
        return registry.find(operator_of(request), external_id)

    def said(self, request: Request, body: serializers.Serializer[Any]) -> dict[str, Any]:
        """What was said, by whom and when."""
        body.is_valid(raise_exception=True)
        assert isinstance(request.user, ApiKey)
        who = {"by": request.user.name, "at": clock.now(operator_of(request))}
        return {**body.validated_data, **who}


class SafetyDoor(_OfSafety):
    @extend_schema(
        operation_id="get_safety",
        parameters=[EXTERNAL_ID],
        responses={200: SafetyBody, **refusals(404)},
    )
    def get(self, request: Request, external_id: str) -> Response:
        """What a subscriber set for its safety."""
        return Response(shown(self.subscriber(request, external_id)))


class NightLockDoor(_OfSafety):
    @extend_schema(
        operation_id="set_night_lock",
        parameters=[EXTERNAL_ID],
        request=NightLock,
        responses={200: SafetyBody, **refusals(404, 409, 413, 415, 422)},
    )
    def put(self, request: Request, external_id: str) -> Response:
        """Let asks be refused at some time of the day (`night_lock`, with its end), or never."""
        said = self.said(request, NightLock(data=request.data))
        subscriber = self.subscriber(request, external_id)
        begins, ends = said.pop("begins"), said.pop("ends")
        hours = None if begins is None else (begins, ends)
        keeping.lock_nights(subscriber, hours, **said)
        return Response(shown(subscriber))


class AlertsDoor(_OfSafety):
    @extend_schema(
        operation_id="set_alerts",
        parameters=[EXTERNAL_ID],
        request=AlertLines,
        responses={200: SafetyBody, **refusals(404, 413, 415, 422)},
    )
    def put(self, request: Request, external_id: str) -> Response:
        """Tell (`usage.alert`) at these lines, and at no others, beside the usual ones."""
        said = self.said(request, AlertLines(data=request.data))
        subscriber = self.subscriber(request, external_id)
        percents, lefts = said.pop("used_percent"), said.pop("units_left")
        keeping.set_alerts(subscriber, percents=percents, lefts=lefts, **said)
        return Response(shown(subscriber))


class OverageConsentDoor(_OfSafety):
    @extend_schema(
        operation_id="set_overage_consent",
        parameters=[EXTERNAL_ID],
        request=OverageConsent,
        responses={200: SafetyBody, **refusals(404, 413, 415, 422)},
    )
    def put(self, request: Request, external_id: str) -> Response:
        """Keep whether a subscriber pays for overage, and up to what; it holds at once."""
        said = self.said(request, OverageConsent(data=request.data))
        subscriber = self.subscriber(request, external_id)
        words = ("text", "text_version", "language", "channel")
        consent = Consent(**{word: said.pop(word) for word in words})
        agreed = said.pop("agreed")
        keeping.agree_to_overage(subscriber, agreed, consent, **said)
        return Response(shown(subscriber))


class MinorDoor(_OfSafety):
    @extend_schema(
        operation_id="mark_minor",
        parameters=[EXTERNAL_ID],
        request=MinorMark,
        responses={200: SafetyBody, **refusals(404, 413, 415, 422)},
    )
    def put(self, request: Request, external_id: str) -> Response:
        """Mark a subscriber as a minor, with its guardian's consent and caps."""
        said = self.said(request, MinorMark(data=request.data))
        subscriber = self.subscriber(request, external_id)
        terms = said.pop("minor")
        guardian = None
        if terms is not None:
            guardian = Guardian(
                name=terms["guardian"],
                agreed_at=terms["agreed_at"],
                evidence=terms["evidence"],
                day_units=terms.get("units_a_day"),
                order_amount=terms.get("amount_an_order"),
            )
        keeping.mark_minor(subscriber, guardian, **said)
        return Response(shown(subscriber))
