"""Doors of families and organisations: founding, inviting, answering, caps, gifts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from subscriptions import buckets, clock, registry
from subscriptions.api import pagination
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import Count, ExternalId, Flag, Instant, Text, Units
from subscriptions.api.idempotency import idempotent
from subscriptions.api.schema import CURSOR, IDEMPOTENCY_KEY, LIMIT, refusals
from subscriptions.errors import NotFound
from subscriptions.families import giving, keeping, using
from subscriptions.families.keeping import Rules, Terms
from subscriptions.models import Family, FamilyGift, FamilyInvite, FamilyMember, Operator

FAMILY = OpenApiParameter("family_id", OpenApiTypes.INT64, OpenApiParameter.PATH)
INVITE = OpenApiParameter("invite_id", OpenApiTypes.INT64, OpenApiParameter.PATH)
MEMBER = OpenApiParameter("member_id", OpenApiTypes.INT64, OpenApiParameter.PATH)


class FamilyRules(serializers.Serializer[Any]):
    name = Text(max_length=100)
    shared = serializers.ListField(
        child=serializers.ChoiceField(choices=[kind.value for kind in buckets.PREPAID]),
        default=[kind.value for kind in keeping.SHARED],
        min_length=1,
        max_length=4,
        help_text="kinds of the main line's buckets that members draw",
    )
    kept = Units(default=0, help_text="units that only the main line and priority 1 may draw below")
    open_to_members = Flag(
        default=False, help_text="members see of each other what they used, where they show it"
    )


class NewFamily(FamilyRules):
    owner = ExternalId(help_text="the main line")
    kind = serializers.ChoiceField(choices=Family.Kind.values, default=Family.Kind.FAMILY.value)


class MemberTerms(serializers.Serializer[Any]):
    label = Text(max_length=60)  # type: ignore[assignment]
    cap = Units(allow_null=True, default=None, help_text="the most it draws in a calendar month")
    priority = Count(min_value=1, max_value=2, default=2, help_text="1 draws what is kept, too")


class NewInvite(MemberTerms):
    subscriber = ExternalId(required=False, help_text="or a contact")
    contact = Text(
        max_length=254,
        required=False,
        help_text="a phone number or e-mail address; who is known by it is told",
    )


class InviteBody(serializers.Serializer[Any]):
    """An invite; `code` only in the answer that makes it."""

    id = serializers.CharField()
    code = serializers.CharField(required=False)
    contact = serializers.CharField()
    label = serializers.CharField()  # type: ignore[assignment]
    cap = Units(allow_null=True)
    priority = serializers.IntegerField()
    state = serializers.ChoiceField(choices=FamilyInvite.State.values)
    invited_at = Instant()
    expires_at = Instant()


class MemberBody(serializers.Serializer[Any]):
    """A member, and what it drew of the pool in this calendar month."""

    id = serializers.CharField()
    subscriber = serializers.CharField()
    label = serializers.CharField()  # type: ignore[assignment]
    main_line = serializers.BooleanField()
    cap = Units(allow_null=True)
    priority = serializers.IntegerField()
    used = Units()
    since = Instant()


class FamilyBody(FamilyRules):
    """A family with its members, the main line first, and the invites that wait."""

    id = serializers.CharField()
    kind = serializers.ChoiceField(choices=Family.Kind.values)
    owner = serializers.CharField()
    created_at = Instant()
    dissolved_at = Instant(allow_null=True)
    members = MemberBody(many=True)
    invites = InviteBody(many=True)


class FamilyPage(serializers.Serializer[Any]):
    items = FamilyBody(many=True)
    next = serializers.URLField(allow_null=True)


class Acceptance(serializers.Serializer[Any]):
    subscriber = ExternalId(help_text="who answers")
    code = Text(max_length=40)


class NewGift(serializers.Serializer[Any]):
    giver = ExternalId()
    receiver = ExternalId()
    units = Units()
    key = Text(max_length=64, help_text="the same key gives once")
    note = Text(max_length=100, default="", allow_blank=True)


class GiftBody(serializers.Serializer[Any]):
    id = serializers.CharField()
    giver = serializers.CharField()
    receiver = serializers.CharField()
    units = Units()
    key = serializers.CharField()
    note = serializers.CharField()
    at = Instant()


def _show_invite(row: FamilyInvite, code: str = "") -> dict[str, Any]:
    return InviteBody(_invite(row) | ({"code": code} if code else {})).data


def _invite(row: FamilyInvite) -> dict[str, Any]:
    return {
        "id": str(row.pk),
        "contact": row.contact,
        "label": row.label,
        "cap": row.cap,
        "priority": row.priority,
        "state": row.state,
        "invited_at": row.invited_at,
        "expires_at": row.expires_at,
    }


def _show_member(row: FamilyMember, used: int) -> dict[str, Any]:
    return {
        "id": str(row.pk),
        "subscriber": row.subscriber.external_id,
        "label": row.label,
        "main_line": row.is_owner,
        "cap": row.cap,
        "priority": row.priority,
        "used": used,
        "since": row.since,
    }


def _show(operator: Operator, family: Family) -> dict[str, Any]:
    at = clock.now(operator)
    members = keeping.members(family)
    used = using.this_month(operator, members, at=at)
    waiting = FamilyInvite.objects.filter(
        family=family, state=FamilyInvite.State.OPEN, expires_at__gt=at
    )
    return FamilyBody(
        {
            "id": str(family.pk),
            "kind": family.kind,
            "owner": family.owner.external_id,
            "name": family.name,
            "shared": family.shared.split(","),
            "kept": family.kept,
            "open_to_members": family.open_to_members,
            "created_at": family.created_at,
            "dissolved_at": family.dissolved_at,
            "members": [_show_member(row, used.get(row.pk, 0)) for row in members],
            "invites": [_invite(row) for row in waiting.order_by("id")],
        }
    ).data


def _rules(said: dict[str, Any]) -> Rules:
    return Rules(said["name"], said["shared"], said["kept"], said["open_to_members"])


def _terms(said: dict[str, Any]) -> Terms:
    return Terms(said["label"], said["cap"], said["priority"])


class FamiliesDoor(OperatorDoor):
    @extend_schema(
        operation_id="list_families",
        parameters=[CURSOR, LIMIT],
        responses={200: FamilyPage, **refusals()},
    )
    def get(self, request: Request) -> Response:
        """All families and organisations that are not dissolved."""
        operator = operator_of(request)
        rows = Family.objects.filter(operator=operator, dissolved_at__isnull=True)
        return Response(
            pagination.page(
                request,
                rows.select_related("owner").order_by("pk"),
                by="pk",
                of_type=int,
                show=lambda some: [_show(operator, family) for family in some],
            )
        )

    @extend_schema(
        operation_id="found_family",
        parameters=[IDEMPOTENCY_KEY],
        request=NewFamily,
        responses={201: FamilyBody, **refusals(404, 409, 413, 415, 422)},
    )
    @idempotent
    def post(self, request: Request) -> Response:
        """Make a family, or an organisation, of a main line, whose units its members will share."""
        operator = operator_of(request)
        body = NewFamily(data=request.data)
        body.is_valid(raise_exception=True)
        said = body.validated_data
        owner = registry.find(operator, said["owner"])
        family = keeping.found(operator, owner, said["kind"], _rules(said), at=clock.now(operator))
        return Response(_show(operator, family), status=201)


class FamilyDoor(OperatorDoor):
    @extend_schema(
        operation_id="get_family",
        parameters=[FAMILY],
        responses={200: FamilyBody, **refusals(404)},
    )
    def get(self, request: Request, family_id: int) -> Response:
        """A family with its members and what they drew of the pool this month."""
        operator = operator_of(request)
        return Response(_show(operator, keeping.find(operator, family_id)))

    @extend_schema(
        operation_id="change_family",
        parameters=[FAMILY],
        request=FamilyRules(partial=True),
        responses={200: FamilyBody, **refusals(404, 413, 415, 422)},
    )
    def patch(self, request: Request, family_id: int) -> Response:
        """Let other rules hold, for what is charged from now on."""
        operator = operator_of(request)
        family = keeping.find(operator, family_id)
        body = FamilyRules(data=request.data, partial=True)
        body.is_valid(raise_exception=True)
        rules = Rules(family.name, family.shared.split(","), family.kept, family.open_to_members)
        rules = replace(rules, **body.validated_data)
        keeping.change(family, rules, at=clock.now(operator))
        return Response(_show(operator, keeping.find(operator, family_id)))

    @extend_schema(
        operation_id="dissolve_family",
        parameters=[FAMILY],
        request=None,
        responses={204: OpenApiResponse(description="It is dissolved."), **refusals(404)},
    )
    def delete(self, request: Request, family_id: int) -> Response:
        """End a family at once, with its memberships and invites; again it is ended."""
        operator = operator_of(request)
        keeping.dissolve(keeping.find(operator, family_id), at=clock.now(operator))
        return Response(status=204)


class FamilyInvitesDoor(OperatorDoor):
    @extend_schema(
        operation_id="invite_to_family",
        parameters=[FAMILY, IDEMPOTENCY_KEY],
        request=NewInvite,
        responses={201: InviteBody, **refusals(404, 409, 413, 415, 422)},
    )
    @idempotent
    def post(self, request: Request, family_id: int) -> Response:
        """Invite a subscriber. Nobody becomes a member but by an answer of their own."""
        operator = operator_of(request)
        family = keeping.find(operator, family_id)
        body = NewInvite(data=request.data)
        body.is_valid(raise_exception=True)
        said = body.validated_data
        subscriber = registry.find(operator, said["subscriber"]) if "subscriber" in said else None
        row, code = keeping.invite(
            family,
            _terms(said),
            contact=said.get("contact", ""),
            subscriber=subscriber,
            at=clock.now(operator),
        )
        return Response(_show_invite(row, code), status=201)


class FamilyInviteDoor(OperatorDoor):
    @extend_schema(
        operation_id="withdraw_family_invite",
        parameters=[FAMILY, INVITE],
        request=None,
        responses={204: OpenApiResponse(description="It is withdrawn."), **refusals(404, 409)},
    )
    def delete(self, request: Request, family_id: int, invite_id: int) -> Response:
        """Take an invite back that nobody has answered; again it is taken back."""
        operator = operator_of(request)
        family = keeping.find(operator, family_id)
        row = FamilyInvite.objects.filter(family=family, pk=invite_id).first()
        if row is None:
            raise NotFound("there is no such invite")
        keeping.withdraw(row, at=clock.now(operator))
        return Response(status=204)


class FamilyAcceptanceDoor(OperatorDoor):
    @extend_schema(
        operation_id="accept_family_invite",
        parameters=[IDEMPOTENCY_KEY],
        request=Acceptance,
        responses={200: MemberBody, **refusals(404, 409, 413, 415, 422)},
    )
    @idempotent
    def post(self, request: Request) -> Response:
        """Pass on the answer of an invited subscriber, who gives the invite's code."""
        operator = operator_of(request)
        body = Acceptance(data=request.data)
        body.is_valid(raise_exception=True)
        subscriber = registry.find(operator, body.validated_data["subscriber"])
        offer = keeping.by_code(operator.pk, body.validated_data["code"])
        row = keeping.accept(offer, subscriber, at=clock.now(operator))
        used = using.this_month(operator, [row], at=clock.now(operator))
        return Response(MemberBody(_show_member(row, used.get(row.pk, 0))).data)


class FamilyMemberDoor(OperatorDoor):
    @extend_schema(
        operation_id="change_family_member",
        parameters=[FAMILY, MEMBER],
        request=MemberTerms(partial=True),
        responses={200: MemberBody, **refusals(404, 413, 415, 422)},
    )
    def patch(self, request: Request, family_id: int, member_id: int) -> Response:
        """Let another cap or priority hold, for what is charged from now on."""
        operator = operator_of(request)
        row = keeping.member(keeping.find(operator, family_id), member_id)
        body = MemberTerms(data=request.data, partial=True)
        body.is_valid(raise_exception=True)
        terms = replace(Terms(row.label, row.cap, row.priority), **body.validated_data)
        row = keeping.change_terms(row, terms, at=clock.now(operator))
        used = using.this_month(operator, [row], at=clock.now(operator))
        return Response(MemberBody(_show_member(row, used.get(row.pk, 0))).data)

    @extend_schema(
        operation_id="remove_family_member",
        parameters=[FAMILY, MEMBER],
        request=None,
        responses={204: OpenApiResponse(description="It is a member no more."), **refusals(404)},
    )
    def delete(self, request: Request, family_id: int, member_id: int) -> Response:
        """Remove a member: of what happens from now on it draws nothing."""
        operator = operator_of(request)
        row = keeping.member(keeping.find(operator, family_id), member_id)
        keeping.remove(row, at=clock.now(operator))
        return Response(status=204)


class FamilyGiftsDoor(OperatorDoor):
    @extend_schema(
        operation_id="give_in_family",
        parameters=[FAMILY, IDEMPOTENCY_KEY],
        request=NewGift,
        responses={201: GiftBody, **refusals(404, 409, 413, 415, 422)},
    )
    @idempotent
    def post(self, request: Request, family_id: int) -> Response:
        """Give units of one member's allowance to another's account, for as long as they are
        valid."""
        operator = operator_of(request)
        family = keeping.find(operator, family_id)
        body = NewGift(data=request.data)
        body.is_valid(raise_exception=True)
        said = body.validated_data
        by_name = {row.subscriber.external_id: row for row in keeping.members(family)}
        if said["giver"] not in by_name or said["receiver"] not in by_name:
            raise NotFound("one of the two is not in the family")
        gift = giving.give(
            family,
            by_name[said["giver"]],
            by_name[said["receiver"]],
            said["units"],
            key=said["key"],
            note=said["note"],
            at=clock.now(operator),
        )
        return Response(_show_gift(gift), status=201)


def _show_gift(gift: FamilyGift) -> dict[str, Any]:
    return GiftBody(
        {
            "id": str(gift.pk),
            "giver": gift.giver.external_id,
            "receiver": gift.receiver.external_id,
            "units": gift.units,
            "key": gift.key,
            "note": gift.note,
            "at": gift.at,
        }
    ).data
