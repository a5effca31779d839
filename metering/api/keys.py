"""Doors of subscribers' keys: for the carrier's systems, and for gateways that one is presented."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import parse_qs
from zoneinfo import ZoneInfo

import msgspec
from django.http import HttpRequest, HttpResponse
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from metering import asking, guarding, key_usage
from metering.api import schema
from metering.api.doors import JSON, GatewayDoor, body_of, caller_of
from metering.parsing import Malformed, parse_object
from metering.terms import KeyRevoked
from subscriptions import accounts, clock, registry
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import Count, Instant, Text, Units
from subscriptions.api.schema import EXTERNAL_ID, refusals
from subscriptions.errors import Invalid
from subscriptions.models import ApiKey, KeyStep, Operator, SubscriberKey
from subscriptions.subscriber_keys import keeping, looking
from subscriptions.subscriber_keys.keeping import Issued, Terms
from subscriptions.units import to_wire

_MOST = 2**63 - 1
KEY_ID = OpenApiParameter(
    "key_id", {"type": "integer", "minimum": 1, "maximum": _MOST}, OpenApiParameter.PATH
)


# The carrier's systems ---------------------------------------------------------------------------


class KeyCap(serializers.Serializer[Any]):
    """So many units a day or month of the operator's zone."""

    units = Units()
    per = serializers.ChoiceField(choices=SubscriberKey.Per.values)


class KeyTerms(serializers.Serializer[Any]):
    name = Text(max_length=100)
    cap = KeyCap(required=False, allow_null=True)
    models = serializers.ListField(
        child=Text(max_length=256),
        required=False,
        max_length=keeping.MAX_MODELS,
        help_text="patterns as in rate cards; empty: all",
    )


class KeyDraft(KeyTerms):
    subject = Text(
        max_length=256,
        required=False,
        help_text="what a gateway calls it already (an alias, a hash); left out: one is made",
    )


class KeyChange(KeyTerms):
    name = Text(max_length=100, required=False)


class KeyRotation(serializers.Serializer[Any]):
    overlap_hours = Count(
        min_value=0,
        max_value=int(keeping.MAX_OVERLAP / dt.timedelta(hours=1)),
        required=False,
        default=24,
        help_text="for so long the one before is good too",
    )


class KeySecretBody(serializers.Serializer[Any]):
    """What a key is presented as, without what makes it one."""

    hint = serializers.CharField()
    created_at = Instant()
    ends_at = Instant(allow_null=True)


class KeyStepBody(serializers.Serializer[Any]):
    kind = serializers.ChoiceField(choices=KeyStep.Kind.values)
    at = Instant()
    by = serializers.CharField()
    detail = serializers.JSONField()


class KeyBody(serializers.Serializer[Any]):
    """A key of a subscriber's. What it was used for lags by seconds."""

    id = serializers.IntegerField()
    name = serializers.CharField()
    subject = serializers.CharField(help_text="under which usage by it is sent")
    cap = KeyCap(allow_null=True)
    models = serializers.ListField(child=serializers.CharField())
    secrets = KeySecretBody(many=True, help_text="those that are good now")
    used_today = Units()
    used_this_month = Units()
    last_used_at = Instant(allow_null=True, help_text="the start of that hour")
    created_at = Instant()
    revoked_at = Instant(allow_null=True)


class KeyWithSecret(KeyBody):
    secret = serializers.CharField(help_text="sk-tb-…; shown this once")


class KeyWithSteps(KeyBody):
    steps = KeyStepBody(many=True, help_text="what was done to it, the newest first")


class KeyList(serializers.Serializer[Any]):
    items = KeyBody(many=True)


def shown(keys: Sequence[SubscriberKey], operator: Operator, *, at: dt.datetime) -> list[Any]:
    used = key_usage.used_by(keys, at=at, zone=ZoneInfo(operator.time_zone))
    return [
        {
            "id": key.pk,
            "name": key.name,
            "subject": key.subject,
            "cap": None if key.cap is None else {"units": key.cap, "per": key.cap_per},
            "models": key.allowed_models,
            "secrets": [] if key.revoked_at else keeping.live_secrets(key, at=at),
            "used_today": used[key.pk].day,
            "used_this_month": used[key.pk].month,
            "last_used_at": used[key.pk].last_hour,
            "created_at": key.created_at,
            "revoked_at": key.revoked_at,
        }
        for key in keys
    ]


def _by(request: Request) -> str:
    assert isinstance(request.user, ApiKey)
    return request.user.name


def _issued(issued: Issued, operator: Operator, *, at: dt.datetime) -> Any:
    [said] = shown([issued.key], operator, at=at)
    return KeyWithSecret({**said, "secret": issued.secret}).data


class KeysDoor(OperatorDoor):
    @extend_schema(
        operation_id="list_keys",
        parameters=[EXTERNAL_ID],
        responses={200: KeyList, **refusals(404)},
    )
    def get(self, request: Request, external_id: str) -> Response:
        """A subscriber's keys, those that live first."""
        operator = operator_of(request)
        subscriber = registry.find(operator, external_id)
        keys = keeping.of_subscriber(subscriber.pk)
        items = shown(keys, operator, at=clock.now(operator))
        return Response(KeyList({"items": items}).data)

    @extend_schema(
        operation_id="create_key",
        parameters=[EXTERNAL_ID],
        request=KeyDraft,
        responses={201: KeyWithSecret, **refusals(404, 409, 413, 415, 422)},
    )
    def post(self, request: Request, external_id: str) -> Response:
        """Make a key. What to present is shown here and never again."""
        operator = operator_of(request)
        at = clock.now(operator)
        body = KeyDraft(data=request.data)
        body.is_valid(raise_exception=True)
        subscriber = registry.find(operator, external_id)
        issued = keeping.create(
            subscriber,
            _terms(body.validated_data, Terms("")),
            by=_by(request),
            at=at,
            subject=body.validated_data.get("subject", ""),
        )
        return Response(_issued(issued, operator, at=at), status=201)


def _terms(said: dict[str, Any], before: Terms) -> Terms:
    """What was said, and what held before where nothing was."""
    cap, per = before.cap, before.cap_per
    if "cap" in said:
        cap, per = (said["cap"]["units"], said["cap"]["per"]) if said["cap"] else (None, "")
    models = tuple(said.get("models", before.models))
    return Terms(said.get("name", before.name), cap, per, models)


class _OfKey(OperatorDoor):
    def _find(self, request: Request, external_id: str, key_id: int) -> SubscriberKey:
        return keeping.find(registry.find(operator_of(request), external_id), key_id)

    def _answer(self, request: Request, key: SubscriberKey) -> Response:
        operator = operator_of(request)
        [said] = shown([key], operator, at=clock.now(operator))
        return Response(KeyWithSteps({**said, "steps": keeping.steps_of([key])}).data)


class KeyDoor(_OfKey):
    @extend_schema(
        operation_id="get_key",
        parameters=[EXTERNAL_ID, KEY_ID],
        responses={200: KeyWithSteps, **refusals(404)},
    )
    def get(self, request: Request, external_id: str, key_id: int) -> Response:
        """A key, and what was done to it."""
        return self._answer(request, self._find(request, external_id, key_id))

    @extend_schema(
        operation_id="change_key",
        parameters=[EXTERNAL_ID, KEY_ID],
        request=KeyChange,
        responses={200: KeyWithSteps, **refusals(404, 409, 413, 415, 422)},
    )
    def patch(self, request: Request, external_id: str, key_id: int) -> Response:
        """Let another name, cap or other models hold from now on; what is not named stays."""
        body = KeyChange(data=request.data)
        body.is_valid(raise_exception=True)
        key = self._find(request, external_id, key_id)
        terms = _terms(body.validated_data, keeping.terms_of(key))
        at = clock.now(operator_of(request))
        return self._answer(request, keeping.change(key, terms, by=_by(request), at=at))


class KeyRotationDoor(_OfKey):
    @extend_schema(
        operation_id="rotate_key",
        parameters=[EXTERNAL_ID, KEY_ID],
        request=KeyRotation,
        responses={200: KeyWithSecret, **refusals(404, 409, 413, 415, 422)},
    )
    def post(self, request: Request, external_id: str, key_id: int) -> Response:
        """Make another secret for a key; the one before is good for the overlap."""
        operator = operator_of(request)
        at = clock.now(operator)
        body = KeyRotation(data=request.data)
        body.is_valid(raise_exception=True)
        overlap = dt.timedelta(hours=body.validated_data["overlap_hours"])
        key = self._find(request, external_id, key_id)
        issued = keeping.rotate(key, overlap=overlap, by=_by(request), at=at)
        return Response(_issued(issued, operator, at=at))


class KeyRevocationDoor(_OfKey):
    @extend_schema(
        operation_id="revoke_key",
        parameters=[EXTERNAL_ID, KEY_ID],
        request=None,
        responses={200: KeyWithSteps, **refusals(404)},
    )
    def post(self, request: Request, external_id: str, key_id: int) -> Response:
        """Let nobody in by it any more; what it was used for until now is charged."""
        key = self._find(request, external_id, key_id)
        at = clock.now(operator_of(request))
        return self._answer(request, keeping.revoke(key, by=_by(request), at=at))


# Gateways ----------------------------------------------------------------------------------------


class Introspection(msgspec.Struct, gc=False):
    """What a gateway was presented; `client` is by whom, as the gateway tells them apart."""

    token: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    model: Annotated[str, msgspec.Meta(max_length=256)] = ""
    client: Annotated[str, msgspec.Meta(max_length=128)] = ""


_introspection = msgspec.json.Decoder(Introspection)
_FORM = "application/x-www-form-urlencoded"


def _read(request: HttpRequest) -> Introspection:
    """JSON, or a form as in RFC 7662. Raises Malformed, Invalid."""
    body = body_of(request)
    if request.META.get("CONTENT_TYPE", "").partition(";")[0].strip().lower() == _FORM:
        try:
            said = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=20)
        except ValueError as error:
            raise Malformed("the form cannot be read") from error
        fields = {name: said[name][0] for name in ("token", "model", "client") if name in said}
        body = msgspec.json.encode(fields)
    read = parse_object(body, _introspection)
    if any("\0" in text for text in (read.token, read.model, read.client)):
        raise Invalid("no text holds a NUL character")
    return read


class IntrospectionDoor(GatewayDoor):
    @extend_schema(**schema.INTROSPECT)
    def post(self, request: HttpRequest) -> HttpResponse:
        """Whose key it is, and what it may be used for (RFC 7662)."""
        caller = caller_of(request)
        asked = _read(request)
        at = accounts.now(caller.operator_id, caller.key_id, wall=clock.wall())
        if at is None:
            raise KeyRevoked
        ours = caller.operator_id, caller.gateway_id
        found = looking.present(*ours, asked.token, asked.client, at=at)
        if found is None:
            return _answer({"active": False})
        key, secret = found
        zone = ZoneInfo(key.operator.time_zone)
        room = key_usage.room_of(key, at=at, zone=zone)
        said: dict[str, Any] = {
            "active": True,
            "token_type": "Bearer",
            "sub": key.subscriber.external_id,
            "subject": key.subject,
            "subscriber": key.subscriber.external_id,
            "key": {"id": key.pk, "name": key.name},
            "models": key.allowed_models or None,
            "cap": None,
            "iat": int(secret.created_at.timestamp()),
        }
        if room is not None:
            said["cap"] = {
                "units": to_wire(key.cap or 0),
                **asking.wire_limit(room),
            }
        if secret.ends_at is not None:
            said["exp"] = int(secret.ends_at.timestamp())
        if asked.model:
            said["model_allowed"] = guarding.allows(key, asked.model)
        return _answer(said)


def _answer(said: dict[str, Any]) -> HttpResponse:
    headers = {"Cache-Control": "no-store"}
    return HttpResponse(msgspec.json.encode(said), content_type=JSON, headers=headers)
