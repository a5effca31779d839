"""The reconciliation centre's doors: a gateway tells its totals, the operator looks and decides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from metering import usage_windows
from metering.api import schema
from metering.api.doors import GatewayDoor, body_of, caller_of
from metering.models import UsageWindow
from metering.terms import KeyRevoked
from subscriptions import clock
from subscriptions.api import pagination
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import Count, Flag, Instant, Text
from subscriptions.api.schema import CURSOR, LIMIT, refusals
from subscriptions.models import ApiKey


class NumberRange(serializers.Serializer[Any]):
    """Numbers that a gateway gave its records, first and last included."""

    source = serializers.CharField(allow_blank=True)  # type: ignore[assignment]
    first = Count()
    last = Count()


class Counted(serializers.Serializer[Any]):
    """Totals of the gateway's own; null: not told, and not compared."""

    requests = Count()
    input_tokens = Count()
    cached_input_tokens = Count(allow_null=True)
    cache_write_tokens = Count(allow_null=True)
    output_tokens = Count()
    reasoning_tokens = Count(allow_null=True)
    sequences = NumberRange(many=True)


class Charged(serializers.Serializer[Any]):
    """Totals of the records that are charged."""

    requests = Count()
    input_tokens = Count()
    cached_input_tokens = Count()
    cache_write_tokens = Count()
    output_tokens = Count()
    reasoning_tokens = Count()


class Difference(serializers.Serializer[Any]):
    """What the gateway counted less what is charged; null where it told nothing."""

    requests = Count()
    input_tokens = Count()
    cached_input_tokens = Count(allow_null=True)
    cache_write_tokens = Count(allow_null=True)
    output_tokens = Count()
    reasoning_tokens = Count(allow_null=True)


class Missing(serializers.Serializer[Any]):
    """Requests that never came: by number, and (`unnamed`) those that have none to name them."""

    requests = Count()
    unnamed = Count()
    ranges = NumberRange(many=True)
    more = serializers.BooleanField(help_text="there are further ranges than these")


class Resend(serializers.Serializer[Any]):
    """What the gateway is asked to send again, with the same ids: nothing is charged twice."""

    asked_at = Instant()
    reason = serializers.CharField(allow_null=True)
    whole_window = serializers.BooleanField()
    ranges = NumberRange(many=True)


class Window(serializers.Serializer[Any]):
    """A window and what its last comparison found, at `compared_at`."""

    id = serializers.CharField()
    gateway = serializers.CharField()
    source = serializers.CharField(allow_null=True, allow_blank=True)  # type: ignore[assignment]
    window_start = Instant()
    window_end = Instant()
    state = serializers.ChoiceField(choices=UsageWindow.State.values)
    revision = Count()
    counted = Counted()
    charged = Charged(allow_null=True)
    difference = Difference(allow_null=True)
    duplicates = Count(allow_null=True, help_text="records that were charged before")
    rejected = Count(allow_null=True, help_text="records that were ever refused")
    quarantined = serializers.DictField(
        child=Count(), allow_null=True, help_text="those that still wait, by cause"
    )
    settled = serializers.DictField(
        child=Count(), allow_null=True, help_text="those that no longer do, by what became of them"
    )
    outside = Count(allow_null=True, help_text="numbers of this window with a time beside it")
    missing = Missing(allow_null=True)
    resend = Resend(allow_null=True)
    late_requests = Count(help_text="those that came when it was closed")
    compared_at = Instant(allow_null=True)
    closed_at = Instant(allow_null=True)
    closed_reason = serializers.CharField(allow_null=True)


class WindowPage(serializers.Serializer[Any]):
    items = Window(many=True)
    next = serializers.URLField(allow_null=True)


class ToldCounter(Counted):
    revision = Count()
    received_at = Instant()


class Event(serializers.Serializer[Any]):
    kind = serializers.ChoiceField(choices=["counted", "asked", "closed", "late", "reopened"])
    at = Instant()
    by = serializers.CharField(allow_null=True, help_text="the key; null: the comparison")
    reason = serializers.CharField(allow_null=True)
    detail = serializers.JSONField()


class WindowWithHistory(Window):
    """A window with all counters that were ever told of it, and all that happened to it."""

    counters = ToldCounter(many=True)
    events = Event(many=True)


_STATE = OpenApiParameter("state", str, enum=UsageWindow.State.values)
_GATEWAY = OpenApiParameter("gateway", str, description="only this gateway's, by its name")
_WINDOW = OpenApiParameter("window_id", int, OpenApiParameter.PATH)


def _show(rows: Sequence[UsageWindow]) -> list[dict[str, Any]]:
    counters = usage_windows.counters_of(rows)
    return [usage_windows.as_json(row, counters[row.pk]) for row in rows]


def _page(request: Request, rows: QuerySet[UsageWindow]) -> dict[str, Any]:
    state = request.query_params.get("state")
    if state is not None:
        if state not in UsageWindow.State.values:
            raise pagination.BadQuery(f"state is one of {', '.join(UsageWindow.State.values)}")
        rows = rows.filter(state=state)
    rows = rows.filter(revision__gt=0).select_related("gateway").order_by("id")
    return pagination.page(request, rows, by="id", of_type=int, show=_show)


# The gateway's -----------------------------------------------------------------------------------


def _key_of(request: HttpRequest) -> ApiKey:
    """The key as it is now. Raises Unauthorized, WrongRole, KeyRevoked."""
    key = (
        ApiKey.objects.select_related("operator", "gateway")
        .filter(pk=caller_of(request).key_id, revoked_at__isnull=True)
        .first()
    )
    if key is None:
        raise KeyRevoked
    return key


def _json(body: Any) -> HttpResponse:
    return HttpResponse(msgspec.json.encode(body), content_type="application/json")


class UsageCountersDoor(GatewayDoor):
    @extend_schema(
        **schema.USAGE_COUNTERS,
        responses={
            200: OpenApiResponse(Window, description="Compared; what lacks is named."),
            **refusals(413, 422),
        },
    )
    def post(self, request: HttpRequest) -> HttpResponse:
        """Tell this gateway's own totals of a window. Sent again: compared again."""
        key = _key_of(request)
        assert key.gateway is not None
        at = clock.now(key.operator)
        counter = usage_windows.parse(body_of(request))
        window_id = usage_windows.post(key.gateway, key.pk, counter, at=at)
        usage_windows.compare(window_id, at=at, seconds=usage_windows.PATIENCE_SECONDS)
        return _json(_show([usage_windows.find(key.operator_id, window_id)])[0])

    @extend_schema(
        operation_id="list_own_usage_windows",
        parameters=[CURSOR, LIMIT, _STATE],
        responses={200: WindowPage, **refusals()},
    )
    def get(self, request: HttpRequest) -> HttpResponse:
        """This gateway's windows: `state=differs` are those of which something may be resent."""
        key = _key_of(request)
        rows = UsageWindow.objects.filter(gateway=key.gateway)
        return _json(_page(Request(request), rows))


# The operator's ----------------------------------------------------------------------------------


class UsageWindowsDoor(OperatorDoor):
    @extend_schema(
        operation_id="list_usage_windows",
        parameters=[CURSOR, LIMIT, _STATE, _GATEWAY],
        responses={200: WindowPage, **refusals()},
    )
    def get(self, request: Request) -> Response:
        """Windows that gateways have counted, with what differs."""
        rows = UsageWindow.objects.filter(operator=operator_of(request))
        if gateway := request.query_params.get("gateway"):
            rows = rows.filter(gateway__name=gateway.replace("\0", "")[:100])
        return Response(_page(request, rows))


def _answer(request: Request, window_id: int) -> Response:
    window = usage_windows.find(operator_of(request).pk, window_id)
    return Response({**_show([window])[0], **usage_windows.history_of(window)})


def _found(request: Request, window_id: int) -> int:
    """The id of a window of this operator. Raises NotFound."""
    return usage_windows.find(operator_of(request).pk, window_id).pk


def _key_id(request: Request) -> int:
    assert isinstance(request.user, ApiKey)
    return request.user.pk


class UsageWindowDoor(OperatorDoor):
    @extend_schema(
        operation_id="read_usage_window",
        parameters=[_WINDOW],
        responses={200: WindowWithHistory, **refusals(404)},
    )
    def get(self, request: Request, window_id: int) -> Response:
        """A window with its history."""
        return _answer(request, window_id)


class CompareDoor(OperatorDoor):
    @extend_schema(
        operation_id="compare_usage_window",
        parameters=[_WINDOW],
        request=None,
        responses={200: WindowWithHistory, **refusals(404)},
    )
    def post(self, request: Request, window_id: int) -> Response:
        """Compare a window now; it is done by itself whenever usage of its time has come."""
        at = clock.now(operator_of(request))
        usage_windows.compare(
            _found(request, window_id), at=at, seconds=usage_windows.PATIENCE_SECONDS
        )
        return _answer(request, window_id)


class ResendBody(serializers.Serializer[Any]):
    reason = Text(max_length=usage_windows.MAX_REASON)
    whole_window = Flag(default=False, help_text="all of it, whatever numbers say")


class ResendDoor(OperatorDoor):
    @extend_schema(
        operation_id="ask_for_resend",
        parameters=[_WINDOW],
        request=ResendBody,
        responses={200: WindowWithHistory, **refusals(404, 409, 422)},
    )
    def post(self, request: Request, window_id: int) -> Response:
        """Ask the gateway to send again; its next look at the window tells it."""
        body = ResendBody(data=request.data)
        body.is_valid(raise_exception=True)
        usage_windows.ask_again(
            _found(request, window_id),
            reason=body.validated_data["reason"],
            whole=body.validated_data["whole_window"],
            key_id=_key_id(request),
            at=clock.now(operator_of(request)),
        )
        return _answer(request, window_id)


class CloseBody(serializers.Serializer[Any]):
    reason = Text(max_length=usage_windows.MAX_REASON)


class CloseDoor(OperatorDoor):
    @extend_schema(
        operation_id="close_usage_window",
        parameters=[_WINDOW],
        request=CloseBody,
        responses={200: WindowWithHistory, **refusals(404, 409, 422)},
    )
    def post(self, request: Request, window_id: int) -> Response:
        """Accept the difference, with a reason. Usage that comes after opens the window again."""
        body = CloseBody(data=request.data)
        body.is_valid(raise_exception=True)
        usage_windows.close(
            _found(request, window_id),
            reason=body.validated_data["reason"],
            key_id=_key_id(request),
            at=clock.now(operator_of(request)),
        )
        return _answer(request, window_id)
