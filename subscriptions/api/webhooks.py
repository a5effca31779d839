"""Doors of outgoing webhooks: who hears of what, what was sent, and sending it again."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from subscriptions import clock
from subscriptions.api import pagination
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import Count, Flag, Instant, Text
from subscriptions.api.pagination import BadQuery
from subscriptions.api.schema import CURSOR, LIMIT, refusals
from subscriptions.errors import NotFound
from subscriptions.models import WebhookAttempt, WebhookDelivery, WebhookEndpoint
from subscriptions.webhooks import endpoints, queue, signing

_MOST = 2**63 - 1
_ID = {"type": "integer", "minimum": 1, "maximum": _MOST}
ENDPOINT_ID = OpenApiParameter("endpoint_id", _ID, OpenApiParameter.PATH)
DELIVERY_ID = OpenApiParameter("delivery_id", _ID, OpenApiParameter.PATH)
STATE = OpenApiParameter(
    "state",
    {"type": "string", "enum": WebhookDelivery.State.values},
    OpenApiParameter.QUERY,
)


class EndpointBody(serializers.Serializer[Any]):
    """An address that hears of events."""

    id = serializers.IntegerField(read_only=True)
    url = Text(max_length=2000, help_text="https, at a public address")
    kinds = serializers.ListField(
        child=serializers.ChoiceField(choices=endpoints.KINDS),
        required=False,
        max_length=len(endpoints.KINDS),
        help_text="what it hears of; empty: all, also what is new in later versions",
    )
    description = Text(max_length=200, required=False, allow_blank=True)
    state = serializers.ChoiceField(choices=["enabled", "disabled"], read_only=True)
    disabled_reason = serializers.CharField(read_only=True)
    failing_since = Instant(read_only=True, allow_null=True)
    old_secret_until = Instant(
        read_only=True, allow_null=True, help_text="until when the secret before signs too"
    )
    created_at = Instant(read_only=True)


class EndpointChange(EndpointBody):
    url = Text(max_length=2000, required=False)


class EndpointWithSecret(EndpointBody):
    secret = serializers.CharField(read_only=True, help_text="whsec_…; shown this once")


class EndpointPage(serializers.Serializer[Any]):
    items = EndpointBody(many=True)
    next = serializers.URLField(allow_null=True)


class Rotation(serializers.Serializer[Any]):
    overlap_hours = Count(
        min_value=0,
        max_value=7 * 24,
        required=False,
        default=24,
        help_text="for so long the secret before signs too",
    )


class Reason(serializers.Serializer[Any]):
    reason = Text(max_length=300)


class Span(serializers.Serializer[Any]):
    since = Instant()
    until = Instant()
    delivered_too = Flag(required=False, default=False)

    def validate(self, attrs: Any) -> Any:
        if attrs["since"] >= attrs["until"]:
            raise serializers.ValidationError({"until": "later than since"})
        return attrs


class ReplayedBody(serializers.Serializer[Any]):
    """How many are sent again, and how many for the first time."""

    again = serializers.IntegerField()
    made = serializers.IntegerField()


class AttemptBody(serializers.Serializer[Any]):
    at = Instant()
    status = serializers.IntegerField(allow_null=True)
    milliseconds = serializers.IntegerField()
    error = serializers.CharField()
    answer = serializers.CharField(help_text="the first bytes of it")


class DeliveryBody(serializers.Serializer[Any]):
    """An event on its way to an endpoint."""

    id = serializers.IntegerField()
    endpoint = serializers.IntegerField(source="endpoint_id")
    webhook_id = serializers.CharField(help_text="as in the header: the same at every attempt")
    kind = serializers.CharField()
    occurred_at = Instant()
    data = serializers.JSONField(source="payload")  # type: ignore[assignment]
    state = serializers.ChoiceField(choices=WebhookDelivery.State.choices)
    next_at = Instant(allow_null=True)
    ended_at = Instant(allow_null=True)
    attempts = AttemptBody(many=True)


class DeliveryPage(serializers.Serializer[Any]):
    items = DeliveryBody(many=True)
    next = serializers.URLField(allow_null=True)


def show_endpoint(endpoint: WebhookEndpoint) -> dict[str, Any]:
    return {
        "id": endpoint.pk,
        "url": endpoint.url,
        "kinds": endpoint.kinds,
        "description": endpoint.description,
        "state": "enabled" if endpoint.disabled_at is None else "disabled",
        "disabled_reason": endpoint.disabled_reason,
        "failing_since": endpoint.failing_since,
        "old_secret_until": endpoint.old_secret_until,
        "created_at": endpoint.created_at,
    }


def _with_secret(endpoint: WebhookEndpoint, secret: str) -> Any:
    return EndpointWithSecret({**show_endpoint(endpoint), "secret": secret}).data


def show_deliveries(rows: Sequence[WebhookDelivery]) -> list[Any]:
    attempts = queue.attempts_of([row.pk for row in rows])
    return [_show(row, attempts.get(row.pk, [])) for row in rows]


def _show(row: WebhookDelivery, attempts: list[WebhookAttempt]) -> Any:
    waits = row.state == WebhookDelivery.State.WAITING
    said = {
        "id": row.pk,
        "endpoint_id": row.endpoint_id,
        "webhook_id": signing.message_id(row.subscriber_id, row.event_key),
        "kind": row.kind,
        "occurred_at": row.occurred_at,
        "payload": row.payload,
        "state": row.state,
        "next_at": row.next_at if waits else None,
        "ended_at": row.ended_at,
        "attempts": attempts,
    }
    return DeliveryBody(said).data


def _known(number: int) -> int:
    if number > _MOST:
        raise NotFound("there is no such number")
    return number


class EndpointsDoor(OperatorDoor):
    @extend_schema(
        operation_id="list_webhook_endpoints",
        parameters=[CURSOR, LIMIT],
        responses={200: EndpointPage, **refusals()},
    )
    def get(self, request: Request) -> Response:
        """The operator's endpoints, oldest first."""
        return Response(
            pagination.page(
                request,
                endpoints.of_operator(operator_of(request)).order_by("pk"),
                by="pk",
                of_type=int,
                show=lambda rows: [EndpointBody(show_endpoint(row)).data for row in rows],
            )
        )

    @extend_schema(
        operation_id="create_webhook_endpoint",
        request=EndpointBody,
        responses={201: EndpointWithSecret, **refusals(409, 413, 415, 422)},
    )
    def post(self, request: Request) -> Response:
        """Let an address hear of events. Its secret is shown here and never again."""
        operator = operator_of(request)
        body = EndpointBody(data=request.data)
        body.is_valid(raise_exception=True)
        said = {"kinds": [], "description": "", **body.validated_data}
        endpoint, secret = endpoints.create(operator, **said, at=clock.now(operator))
        return Response(_with_secret(endpoint, secret), status=201)


class EndpointDoor(OperatorDoor):
    @extend_schema(
        operation_id="get_webhook_endpoint",
        parameters=[ENDPOINT_ID],
        responses={200: EndpointBody, **refusals(404)},
    )
    def get(self, request: Request, endpoint_id: int) -> Response:
        """An endpoint, without its secret."""
        endpoint = endpoints.find(operator_of(request), _known(endpoint_id))
        return Response(EndpointBody(show_endpoint(endpoint)).data)

    @extend_schema(
        operation_id="change_webhook_endpoint",
        parameters=[ENDPOINT_ID],
        request=EndpointChange,
        responses={200: EndpointBody, **refusals(404, 413, 415, 422)},
    )
    def patch(self, request: Request, endpoint_id: int) -> Response:
        """Change its address, what it hears of, or its description."""
        body = EndpointChange(data=request.data)
        body.is_valid(raise_exception=True)
        endpoint = endpoints.change(
            operator_of(request), _known(endpoint_id), **body.validated_data
        )
        return Response(EndpointBody(show_endpoint(endpoint)).data)

    @extend_schema(
        operation_id="delete_webhook_endpoint",
        parameters=[ENDPOINT_ID],
        responses={204: OpenApiResponse(description="It is gone."), **refusals(404)},
    )
    def delete(self, request: Request, endpoint_id: int) -> Response:
        """Send it nothing any more, and forget its secrets."""
        operator = operator_of(request)
        endpoints.delete(operator, _known(endpoint_id), at=clock.now(operator))
        return Response(status=204)


class RotationDoor(OperatorDoor):
    @extend_schema(
        operation_id="rotate_webhook_secret",
        parameters=[ENDPOINT_ID],
        request=Rotation,
        responses={200: EndpointWithSecret, **refusals(404, 413, 415, 422)},
    )
    def post(self, request: Request, endpoint_id: int) -> Response:
        """Make a new secret. For a while the one before signs too."""
        operator = operator_of(request)
        body = Rotation(data=request.data)
        body.is_valid(raise_exception=True)
        overlap = dt.timedelta(hours=body.validated_data["overlap_hours"])
        endpoint, secret = endpoints.rotate(
            operator, _known(endpoint_id), overlap=overlap, at=clock.now(operator)
        )
        return Response(_with_secret(endpoint, secret))


class EnablingDoor(OperatorDoor):
    @extend_schema(
        operation_id="enable_webhook_endpoint",
        parameters=[ENDPOINT_ID],
        request=None,
        responses={200: EndpointBody, **refusals(404)},
    )
    def post(self, request: Request, endpoint_id: int) -> Response:
        """Go on sending. What happened while it was disabled can be replayed."""
        endpoint = endpoints.enable(operator_of(request), _known(endpoint_id))
        return Response(EndpointBody(show_endpoint(endpoint)).data)


class DisablingDoor(OperatorDoor):
    @extend_schema(
        operation_id="disable_webhook_endpoint",
        parameters=[ENDPOINT_ID],
        request=Reason,
        responses={200: EndpointBody, **refusals(404, 413, 415, 422)},
    )
    def post(self, request: Request, endpoint_id: int) -> Response:
        """Send it nothing until it is enabled."""
        operator = operator_of(request)
        body = Reason(data=request.data)
        body.is_valid(raise_exception=True)
        number = _known(endpoint_id)
        endpoints.disable(operator, number, **body.validated_data, at=clock.now(operator))
        return Response(EndpointBody(show_endpoint(endpoints.find(operator, number))).data)


class TestDoor(OperatorDoor):
    @extend_schema(
        operation_id="test_webhook_endpoint",
        parameters=[ENDPOINT_ID],
        request=None,
        responses={201: DeliveryBody, **refusals(404, 409)},
    )
    def post(self, request: Request, endpoint_id: int) -> Response:
        """Send it an event of kind `webhook.test`; its delivery says how that went."""
        operator = operator_of(request)
        delivery = queue.send_test(operator, _known(endpoint_id), at=clock.now(operator))
        return Response(_show(delivery, []), status=201)


class EndpointReplayDoor(OperatorDoor):
    @extend_schema(
        operation_id="replay_webhooks",
        parameters=[ENDPOINT_ID],
        request=Span,
        responses={200: ReplayedBody, **refusals(404, 413, 415, 422)},
    )
    def post(self, request: Request, endpoint_id: int) -> Response:
        """Send what happened in a time: what was given up, what the endpoint never had, and with
        `delivered_too` all the rest. Under the same ids as before."""
        operator = operator_of(request)
        body = Span(data=request.data)
        body.is_valid(raise_exception=True)
        replayed = queue.replay_range(
            operator, _known(endpoint_id), **body.validated_data, at=clock.now(operator)
        )
        return Response(ReplayedBody(replayed).data)


class DeliveriesDoor(OperatorDoor):
    @extend_schema(
        operation_id="list_webhook_deliveries",
        parameters=[ENDPOINT_ID, STATE, CURSOR, LIMIT],
        responses={200: DeliveryPage, **refusals(404)},
    )
    def get(self, request: Request, endpoint_id: int) -> Response:
        """What was and is to be sent to an endpoint, in that order, each with its attempts."""
        endpoint = endpoints.find(operator_of(request), _known(endpoint_id))
        rows = WebhookDelivery.objects.filter(endpoint=endpoint)
        state = request.query_params.get("state")
        if state is not None:
            if state not in WebhookDelivery.State.values:
                raise BadQuery(f"state is one of {', '.join(WebhookDelivery.State.values)}")
            rows = rows.filter(state=state)
        return Response(
            pagination.page(
                request, rows.order_by("pk"), by="pk", of_type=int, show=show_deliveries
            )
        )


class DeliveryDoor(OperatorDoor):
    @extend_schema(
        operation_id="get_webhook_delivery",
        parameters=[DELIVERY_ID],
        responses={200: DeliveryBody, **refusals(404)},
    )
    def get(self, request: Request, delivery_id: int) -> Response:
        """A delivery with its attempts."""
        [shown] = show_deliveries([queue.find(operator_of(request), _known(delivery_id))])
        return Response(shown)


class DeliveryReplayDoor(OperatorDoor):
    @extend_schema(
        operation_id="replay_webhook_delivery",
        parameters=[DELIVERY_ID],
        request=None,
        responses={200: DeliveryBody, **refusals(404, 409)},
    )
    def post(self, request: Request, delivery_id: int) -> Response:
        """Send it again, under the same id; 409 while it waits to be sent."""
        operator = operator_of(request)
        row = queue.replay(operator, _known(delivery_id), at=clock.now(operator))
        [shown] = show_deliveries([row])
        return Response(shown)
