"""Doors of the carrier's CRM: who buys, and what gateways call them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from subscriptions import clock, registry
from subscriptions.api import pagination, problems
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import Code, ExternalId, Instant, Text
from subscriptions.api.parsers import TooLarge
from subscriptions.api.schema import CURSOR, EXTERNAL_ID, LIMIT, FieldError, refusals
from subscriptions.models import Subscriber

MAX_SUBJECTS = 1000


class Email(serializers.EmailField):
    """An address; a number is none."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return str(super().to_internal_value(data))


class SubscriberBody(serializers.Serializer[Any]):
    """A subscriber. What is left out stays as it is; `subjects` is the whole list held."""

    external_id = ExternalId(read_only=True)
    name = Text(max_length=200, required=False, allow_blank=True)
    kind = serializers.ChoiceField(choices=Subscriber.Kind.choices, required=False)
    subjects = serializers.ListField(
        child=Text(max_length=256), max_length=MAX_SUBJECTS, required=False
    )
    msisdn = Text(max_length=32, required=False, allow_blank=True)
    email = Email(max_length=254, required=False, allow_blank=True)
    language = serializers.ChoiceField(
        choices=Subscriber.Language.choices, required=False, help_text="of notices; zh-hans"
    )
    created_at = Instant(read_only=True)


class BatchItem(SubscriberBody):
    external_id = ExternalId()
    plan = Code(required=False, allow_null=True)


class BatchOutcome(serializers.Serializer[Any]):
    external_id = serializers.CharField(allow_null=True)
    status = serializers.ChoiceField(
        choices=[registry.CREATED, registry.UPDATED, registry.UNCHANGED, registry.REJECTED]
    )
    cause = serializers.CharField(required=False, help_text="where the status is rejected")
    errors = FieldError(  # type: ignore[assignment]
        many=True, required=False, help_text="where the cause is invalid"
    )


class BatchAnswer(serializers.Serializer[Any]):
    items = BatchOutcome(many=True)


class SubscriberPage(serializers.Serializer[Any]):
    items = SubscriberBody(many=True)
    next = serializers.URLField(allow_null=True)


def draft_of(external_id: str, said: dict[str, Any]) -> registry.Draft:
    subjects = said.get("subjects")
    return registry.Draft(
        external_id=external_id,
        name=said.get("name"),
        kind=said.get("kind"),
        msisdn=said.get("msisdn"),
        email=said.get("email"),
        language=said.get("language"),
        subjects=None if subjects is None else tuple(subjects),
        plan=said.get("plan"),
    )


def show_subscribers(subscribers: Sequence[Subscriber]) -> list[dict[str, Any]]:
    """Subscribers as they travel, each with the subjects bound to it now."""
    subjects = registry.subjects_of([subscriber.pk for subscriber in subscribers])
    return [
        SubscriberBody(
            {
                "external_id": subscriber.external_id,
                "name": subscriber.name,
                "kind": subscriber.kind,
                "subjects": subjects.get(subscriber.pk, []),
                "msisdn": subscriber.msisdn,
                "email": subscriber.email,
                "language": subscriber.language,
                "created_at": subscriber.created_at,
            }
        ).data
        for subscriber in subscribers
    ]


class SubscriberDoor(OperatorDoor):
    @extend_schema(
        operation_id="upsert_subscriber",
        parameters=[EXTERNAL_ID],
        request=SubscriberBody,
        responses={
            200: OpenApiResponse(SubscriberBody, description="Changed, or as it was."),
            201: OpenApiResponse(SubscriberBody, description="Created."),
            **refusals(409, 413, 415, 422),
        },
    )
    def put(self, request: Request, external_id: str) -> Response:
        """Create or change a subscriber. A subject bound to another one is 409."""
        operator = operator_of(request)
        try:
            external_id = ExternalId().run_validation(external_id)
        except serializers.ValidationError as error:
            raise serializers.ValidationError({"external_id": error.detail}) from error
        body = SubscriberBody(data=request.data)
        body.is_valid(raise_exception=True)
        [outcome] = registry.upsert(
            operator, [draft_of(external_id, body.validated_data)], at=clock.now(operator)
        )
        if outcome.error is not None:
            raise outcome.error
        [shown] = show_subscribers([registry.find(operator, external_id)])
        return Response(shown, status=201 if outcome.status == registry.CREATED else 200)

    @extend_schema(
        operation_id="get_subscriber",
        parameters=[EXTERNAL_ID],
        responses={200: SubscriberBody, **refusals(404)},
    )
    def get(self, request: Request, external_id: str) -> Response:
        """A subscriber, with the subjects bound to it now."""
        [shown] = show_subscribers([registry.find(operator_of(request), external_id)])
        return Response(shown)


class SubscribersDoor(OperatorDoor):
    @extend_schema(
        operation_id="list_subscribers",
        parameters=[CURSOR, LIMIT],
        responses={200: SubscriberPage, **refusals()},
    )
    def get(self, request: Request) -> Response:
        """All subscribers of the operator, by external id."""
        subscribers = Subscriber.objects.filter(operator=operator_of(request))
        return Response(
            pagination.page(
                request,
                subscribers.order_by("external_id"),
                by="external_id",
                of_type=str,
                show=show_subscribers,
            )
        )


class SubscriberBatchDoor(OperatorDoor):
    @extend_schema(
        operation_id="upsert_subscribers",
        request=BatchItem(many=True),
        responses={200: BatchAnswer, **refusals(413, 415, 422)},
    )
    def post(self, request: Request) -> Response:
        """Create or change up to 1,000 subscribers, each with a plan if it says one.

        Every item has its own answer; a rejected one changes nothing and hinders no other.
        """
        operator = operator_of(request)
        items = request.data
        if not isinstance(items, list):
            raise serializers.ValidationError("send a JSON array of subscribers")
        if len(items) > registry.BATCH:
            raise TooLarge(f"a batch has at most {registry.BATCH} subscribers; send several")
        read = BatchItem()
        answers: list[dict[str, Any]] = []
        drafts: dict[int, registry.Draft] = {}
        for index, item in enumerate(items):
            try:
                said = read.run_validation(item)
            except serializers.ValidationError as error:
                answers.append(
                    {
                        "external_id": _external_id_in(item),
                        "status": registry.REJECTED,
                        "cause": "invalid",
                        "errors": problems.describe(error).errors,
                    }
                )
                continue
            drafts[index] = draft_of(said["external_id"], said)
            answers.append({"external_id": said["external_id"]})
        outcomes = registry.upsert(operator, list(drafts.values()), at=clock.now(operator))
        for index, outcome in zip(drafts, outcomes, strict=True):
            answers[index]["status"] = outcome.status
            if outcome.error is not None:
                answers[index]["cause"] = outcome.error.cause
        return Response({"items": answers})


def _external_id_in(item: Any) -> str | None:
    """The id of an item that could not be taken, where it is one."""
    try:
        return str(ExternalId().run_validation(item.get("external_id")))
    except (AttributeError, serializers.ValidationError):
        return None
