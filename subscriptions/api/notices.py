"""Doors of notices: an operator's policy, what a subscriber wants to hear, what was sent."""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.db import transaction
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from subscriptions import clock, registry
from subscriptions.api import pagination
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import Count, Flag, Instant
from subscriptions.api.schema import CURSOR, EXTERNAL_ID, LIMIT, refusals
from subscriptions.models import Channel, Notice, NoticePolicy
from subscriptions.notices import policies, preferences
from subscriptions.notices.kinds import KINDS, REQUIRED


@extend_schema_field({"type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$"})
class LocalTime(serializers.TimeField):
    """A time of day at the operator, `21:00`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(format="%H:%M", input_formats=["%H:%M"], **kwargs)

    def to_internal_value(self, value: Any) -> dt.time:
        if not isinstance(value, str):
            self.fail("invalid", format="21:00")
        return super().to_internal_value(value)


class NoticePolicyBody(serializers.Serializer[Any]):
    """What an operator settled about notices."""

    quiet_from = LocalTime(help_text="from then on no text message but a required one")
    quiet_until = LocalTime(help_text="until then; the same as quiet_from: there is no such time")
    expiry_days = Count(
        min_value=0, max_value=30, help_text="so long before a bucket expires; 0: never"
    )


class Wish(serializers.Serializer[Any]):
    kind = serializers.ChoiceField(choices=KINDS)
    channel = serializers.ChoiceField(choices=Channel.choices)
    wanted = Flag()


class WishShown(Wish):
    required = serializers.BooleanField(  # type: ignore[assignment]
        help_text="it cannot be declined"
    )
    changed_at = Instant(allow_null=True)


class Wishes(serializers.Serializer[Any]):
    items = Wish(many=True, max_length=2 * len(KINDS))  # type: ignore[call-arg]


class WishesShown(serializers.Serializer[Any]):
    items = WishShown(many=True)


class NoticeBody(serializers.Serializer[Any]):
    """A notice, without the address that it went to."""

    id = serializers.IntegerField()
    kind = serializers.CharField()
    channel = serializers.ChoiceField(choices=Channel.choices)
    occurred_at = Instant()
    state = serializers.ChoiceField(choices=Notice.State.choices)
    attempts = serializers.IntegerField()
    next_at = Instant()
    ended_at = Instant(allow_null=True)
    reason = serializers.CharField()


class NoticePage(serializers.Serializer[Any]):
    items = NoticeBody(many=True)
    next = serializers.URLField(allow_null=True)


def _shown(policy: NoticePolicy) -> Response:
    return Response(NoticePolicyBody(policy).data)


class NoticePolicyDoor(OperatorDoor):
    @extend_schema(
        operation_id="get_notice_policy", responses={200: NoticePolicyBody, **refusals()}
    )
    def get(self, request: Request) -> Response:
        """When text messages are quiet, and how long ahead expiry is told."""
        return _shown(policies.of_operator(operator_of(request)))

    @extend_schema(
        operation_id="set_notice_policy",
        request=NoticePolicyBody,
        responses={200: NoticePolicyBody, **refusals(413, 415, 422)},
    )
    def put(self, request: Request) -> Response:
        """Settle it anew."""
        body = NoticePolicyBody(data=request.data)
        body.is_valid(raise_exception=True)
        return _shown(policies.settle(operator_of(request), **body.validated_data))


class PreferencesDoor(OperatorDoor):
    @extend_schema(
        operation_id="get_notice_preferences",
        parameters=[EXTERNAL_ID],
        responses={200: WishesShown, **refusals(404)},
    )
    def get(self, request: Request, external_id: str) -> Response:
        """What a subscriber wants to hear, by kind and channel."""
        subscriber = registry.find(operator_of(request), external_id)
        return self._answer(subscriber.pk)

    @extend_schema(
        operation_id="set_notice_preferences",
        parameters=[EXTERNAL_ID],
        request=Wishes,
        responses={200: WishesShown, **refusals(404, 413, 415, 422)},
    )
    def put(self, request: Request, external_id: str) -> Response:
        """Keep what a subscriber wants; what is not named stays. `required_notice`: some cannot be
        declined."""
        operator = operator_of(request)
        body = Wishes(data=request.data)
        body.is_valid(raise_exception=True)
        subscriber = registry.find(operator, external_id)
        with transaction.atomic():
            for one in body.validated_data["items"]:
                preferences.wish(subscriber.pk, **one, by="operator", at=clock.now(operator))
        return self._answer(subscriber.pk)

    def _answer(self, subscriber_id: int) -> Response:
        items = [
            {**wish._asdict(), "required": wish.kind in REQUIRED}
            for wish in preferences.of_subscriber(subscriber_id)
        ]
        return Response(WishesShown({"items": items}).data)


class NoticesDoor(OperatorDoor):
    @extend_schema(
        operation_id="list_notices",
        parameters=[EXTERNAL_ID, CURSOR, LIMIT],
        responses={200: NoticePage, **refusals(404)},
    )
    def get(self, request: Request, external_id: str) -> Response:
        """What a subscriber was and is to be told, oldest first."""
        subscriber = registry.find(operator_of(request), external_id)
        return Response(
            pagination.page(
                request,
                Notice.objects.filter(subscriber=subscriber).order_by("pk"),
                by="pk",
                of_type=int,
                show=lambda rows: [NoticeBody(row).data for row in rows],
            )
        )
