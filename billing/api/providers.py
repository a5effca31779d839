"""Doors for the operator's accounts at payment providers. A secret goes in and never comes out."""

from __future__ import annotations

import datetime as dt
from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing.models import ProviderAccount, ProviderSecret
from billing.ways import accounts
from subscriptions import clock
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import Count, Flag, Instant, Text, to_wire_time
from subscriptions.api.schema import refusals

PROVIDER = OpenApiParameter(
    "provider", {"type": "string", "enum": ["stripe"]}, OpenApiParameter.PATH
)


class SecretBody(serializers.Serializer[Any]):
    """`hint` is how it ends."""

    kind = serializers.ChoiceField(choices=ProviderSecret.Kind.values)
    hint = serializers.CharField()
    valid_from = Instant()
    valid_until = Instant(allow_null=True)


class AccountBody(serializers.Serializer[Any]):
    provider = serializers.ChoiceField(choices=ProviderAccount.Provider.values)
    name = serializers.CharField(help_text="the provider's own name of it")
    live = serializers.BooleanField(help_text="whether it takes money")
    webhook = serializers.CharField(help_text="the address to tell the provider, on this host")
    created_at = Instant()
    ended_at = Instant(allow_null=True)
    notices_kept_days = serializers.IntegerField(
        help_text="so long what it tells is kept whole, then its digest and ids"
    )
    secrets = SecretBody(many=True)


class AccountList(serializers.Serializer[Any]):
    items = AccountBody(many=True)


class NewAccount(serializers.Serializer[Any]):
    name = Text(max_length=100, help_text="such as acct_1A2b3C")
    live = Flag()
    api_secret = Text(max_length=500, required=False, help_text="default: the one that is there")
    webhook_secret = Text(max_length=500, required=False)
    notices_kept_days = Count(
        required=False,
        min_value=accounts.FEWEST_DAYS,
        max_value=accounts.MOST_DAYS,
        help_text="default 180",
    )


class NewSecret(serializers.Serializer[Any]):
    kind = serializers.ChoiceField(choices=ProviderSecret.Kind.values)
    secret = Text(max_length=500)
    overlap_hours = Count(
        required=False,
        min_value=0,
        max_value=accounts.LONGEST_OVERLAP // dt.timedelta(hours=1),
        help_text="how long the one before stays valid; default 24",
    )


def show(account: ProviderAccount) -> dict[str, Any]:
    """An account as it travels, with the secrets that it has had."""
    return {
        "provider": account.provider,
        "name": account.name,
        "live": account.live,
        "webhook": f"/webhooks/{account.provider}/{account.public_id}",
        "created_at": to_wire_time(account.created_at),
        "ended_at": to_wire_time(account.ended_at) if account.ended_at else None,
        "notices_kept_days": account.notices_kept_days,
        "secrets": [
            {
                "kind": secret.kind,
                "hint": secret.hint,
                "valid_from": to_wire_time(secret.valid_from),
                "valid_until": to_wire_time(secret.valid_until) if secret.valid_until else None,
            }
            for secret in account.secrets.order_by("id")
        ],
    }


class ProvidersDoor(OperatorDoor):
    @extend_schema(
        operation_id="list_payment_providers", responses={200: AccountList, **refusals()}
    )
    def get(self, request: Request) -> Response:
        """The accounts that the operator has, and had."""
        rows = ProviderAccount.objects.filter(operator=operator_of(request)).order_by("id")
        return Response({"items": [show(row) for row in rows]})


class ProviderDoor(OperatorDoor):
    @extend_schema(
        operation_id="set_payment_provider",
        parameters=[PROVIDER],
        request=NewAccount,
        responses={200: AccountBody, **refusals(404, 413, 415, 422)},
    )
    def put(self, request: Request, provider: str) -> Response:
        """Be paid through this account from now on. Again is harmless; another name ends the
        account before, which is still heard and refunded through."""
        operator = operator_of(request)
        at = clock.now(operator)
        accounts.known(provider)
        said = NewAccount(data=request.data)
        said.is_valid(raise_exception=True)
        wanted = said.validated_data
        account = accounts.set_up(
            operator,
            provider,
            name=wanted["name"],
            live=wanted["live"],
            secrets={
                kind: wanted[f"{kind}_secret"]
                for kind in ProviderSecret.Kind.values
                if f"{kind}_secret" in wanted
            },
            at=at,
        )
        if "notices_kept_days" in wanted:
            accounts.keep_notices(account, wanted["notices_kept_days"])
        return Response(show(account))

    @extend_schema(
        operation_id="end_payment_provider",
        parameters=[PROVIDER],
        responses={200: AccountBody, **refusals(404)},
    )
    def delete(self, request: Request, provider: str) -> Response:
        """Begin no more payments there."""
        operator = operator_of(request)
        accounts.known(provider)
        return Response(show(accounts.end(operator, provider, at=clock.now(operator))))


class ProviderSecretDoor(OperatorDoor):
    @extend_schema(
        operation_id="rotate_payment_provider_secret",
        parameters=[PROVIDER],
        request=NewSecret,
        responses={200: AccountBody, **refusals(404, 413, 415, 422)},
    )
    def post(self, request: Request, provider: str) -> Response:
        """Use another secret from now on; the one before stays valid for a while. The same again
        is harmless."""
        operator = operator_of(request)
        account = accounts.find(operator, provider)
        said = NewSecret(data=request.data)
        said.is_valid(raise_exception=True)
        wanted = said.validated_data
        accounts.add_secret(
            account,
            wanted["kind"],
            wanted["secret"],
            at=clock.now(operator),
            overlap=dt.timedelta(hours=wanted.get("overlap_hours", 24)),
        )
        return Response(show(account))
