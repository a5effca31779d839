"""Doors for wallets, their statements, and what is set aside in them."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from django.http import StreamingHttpResponse
from djmoney.money import Money
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing import bonuses, holds, statements, wallets
from billing.api.invoices import MoneyBody, Reason
from billing.models import Wallet, WalletBonus, WalletHold, WalletMovement
from subscriptions import clock, periods, registry
from subscriptions.api import pagination
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import Instant, Price, Text, money_to_wire, to_wire_time
from subscriptions.api.idempotency import idempotent
from subscriptions.api.schema import CURSOR, EXTERNAL_ID, IDEMPOTENCY_KEY, LIMIT, refusals
from subscriptions.errors import Invalid
from subscriptions.models import Operator


class BonusBody(serializers.Serializer[Any]):
    """A bonus that has something left."""

    granted = MoneyBody()
    remaining = MoneyBody()
    spent = serializers.ChoiceField(choices=WalletBonus.Spent.values)
    expires_at = Instant(allow_null=True)


class WalletBody(serializers.Serializer[Any]):
    """What a subscriber has, in the operator's currency."""

    balance = MoneyBody(help_text="own money and bonuses")
    bonus = MoneyBody(help_text="of it given with top-ups: spent like any, never paid out")
    held = MoneyBody(help_text="of it set aside")
    available = MoneyBody(help_text="balance - held: what can be spent")
    bonuses = BonusBody(many=True)


class MovementBody(serializers.Serializer[Any]):
    """A line of the statement; `balance` is what was there then."""

    nr = serializers.IntegerField()
    at = Instant()
    kind = serializers.ChoiceField(choices=WalletMovement.Kind.values)
    amount = MoneyBody(help_text="below zero: it went out")
    bonus = MoneyBody(help_text="of it bonus money")
    balance = MoneyBody()
    note = serializers.CharField(help_text="what it was for, by its number")


class StatementPage(serializers.Serializer[Any]):
    items = MovementBody(many=True)
    next = serializers.URLField(allow_null=True)


class WalletDoor(OperatorDoor):
    @extend_schema(
        operation_id="get_wallet",
        parameters=[EXTERNAL_ID],
        responses={200: WalletBody, **refusals(404)},
    )
    def get(self, request: Request, external_id: str) -> Response:
        """What a subscriber has in its wallet."""
        operator = operator_of(request)
        subscriber = registry.find(operator, external_id)
        wallet = wallets.find(subscriber.pk, operator.currency) or Wallet()
        left = bonuses.left_in([(subscriber.pk, operator.currency)])

        def money(amount: Decimal) -> dict[str, str]:
            return money_to_wire(Money(amount, operator.currency))

        return Response(
            {
                "balance": money(wallet.balance),
                "bonus": money(wallet.bonus),
                "held": money(wallet.held),
                "available": money(wallet.balance - wallet.held),
                "bonuses": [
                    {
                        "granted": money(one.granted),
                        "remaining": money(one.remaining),
                        "spent": one.spent,
                        "expires_at": one.expires_at and to_wire_time(one.expires_at),
                    }
                    for one in left[subscriber.pk, operator.currency]
                ],
            }
        )


class WalletStatementDoor(OperatorDoor):
    @extend_schema(
        operation_id="list_wallet_movements",
        parameters=[EXTERNAL_ID, LIMIT, CURSOR],
        responses={200: StatementPage, **refusals(404)},
    )
    def get(self, request: Request, external_id: str) -> Response:
        """All that went into and out of a wallet, the earliest first."""
        operator = operator_of(request)
        subscriber = registry.find(operator, external_id)
        rows = WalletMovement.objects.filter(
            subscriber_id=subscriber.pk, currency=operator.currency
        ).order_by("nr")
        return Response(
            pagination.page(
                request,
                rows,
                by="nr",
                of_type=int,
                show=lambda some: [show_movement(one) for one in some],
            )
        )


def show_movement(one: WalletMovement) -> dict[str, Any]:
    """A movement as it travels."""

    def money(amount: Decimal) -> dict[str, str]:
        return money_to_wire(Money(amount, one.currency))

    return {
        "nr": one.nr,
        "at": to_wire_time(one.at),
        "kind": one.kind,
        "amount": money(one.amount),
        "bonus": money(one.bonus),
        "balance": money(one.balance),
        "note": one.note,
    }


# Statements of days -------------------------------------------------------------------------------

FROM = OpenApiParameter(
    "from", OpenApiTypes.DATE, required=True, description="The first day, in the operator's zone."
)
TO = OpenApiParameter(
    "to", OpenApiTypes.DATE, required=True, description="The last day, which is in it too."
)


class DaysStatementBody(serializers.Serializer[Any]):
    """`opening` + `in` - `out` = `closing`; `items` are the movements between, by the page."""

    opening = MoneyBody()
    closing = MoneyBody()
    money_in = MoneyBody()
    money_out = MoneyBody()
    items = MovementBody(many=True)
    next = serializers.URLField(allow_null=True)


def days_of(request: Request, *, last_days_of: Operator | None = None) -> tuple[dt.date, dt.date]:
    """The days that are asked for; where none are and an operator is given, its last 31. Raises
    BadQuery."""
    if last_days_of is not None and not request.query_params.keys() & {"from", "to"}:
        today = periods.day_of(clock.now(last_days_of), ZoneInfo(last_days_of.time_zone))
        return today - dt.timedelta(days=30), today
    try:
        first, last = (dt.date.fromisoformat(request.query_params[name]) for name in ("from", "to"))
    except (KeyError, ValueError) as error:
        raise pagination.BadQuery("from and to are days, as in 2026-06-01") from error
    if not dt.date(2000, 1, 1) <= min(first, last) <= max(first, last) <= dt.date(2199, 12, 31):
        raise pagination.BadQuery("this day is too far away")
    return first, last


class DaysStatementDoor(OperatorDoor):
    @extend_schema(
        operation_id="get_wallet_statement",
        parameters=[EXTERNAL_ID, FROM, TO, LIMIT, CURSOR],
        responses={200: DaysStatementBody, **refusals(404, 422)},
    )
    def get(self, request: Request, external_id: str) -> Response:
        """A wallet's statement of some days, with the balance before and after them."""
        operator = operator_of(request)
        subscriber = registry.find(operator, external_id)
        found = statements.of(operator, subscriber.pk, *days_of(request))
        sums = {name: getattr(found, name) for name in ("opening", "closing")}
        sums |= {name: getattr(found, name) for name in ("money_in", "money_out")}
        page = pagination.page(
            request,
            found.movements,
            by="nr",
            of_type=int,
            show=lambda some: [show_movement(one) for one in some],
        )
        shown = {k: money_to_wire(Money(v, operator.currency)) for k, v in sums.items()}
        return Response({**shown, **page})


class StatementFileDoor(OperatorDoor):
    @extend_schema(
        operation_id="get_wallet_statement_file",
        parameters=[EXTERNAL_ID, FROM, TO],
        responses={(200, "text/csv"): OpenApiResponse(OpenApiTypes.BINARY), **refusals(404, 422)},
    )
    def get(self, request: Request, external_id: str) -> StreamingHttpResponse:
        """The same as CSV, whole."""
        operator = operator_of(request)
        subscriber = registry.find(operator, external_id)
        days = days_of(request)
        found = statements.of(operator, subscriber.pk, *days)
        name = f"wallet-{days[0]}-{days[1]}.csv"
        return StreamingHttpResponse(
            statements.as_csv(operator, found, *days),
            content_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )


# Holds --------------------------------------------------------------------------------------------

HOLD = OpenApiParameter("hold_id", int, OpenApiParameter.PATH)


class HoldBody(serializers.Serializer[Any]):
    """An amount set aside. `captured` was taken in the end; `reason` says why it ended, of what was
    captured the order."""

    id = serializers.IntegerField()
    state = serializers.ChoiceField(choices=WalletHold.State.values)
    amount = MoneyBody()
    captured = MoneyBody()
    purpose = serializers.CharField()
    placed_at = Instant()
    expires_at = Instant()
    ended_at = Instant(allow_null=True)
    reason = serializers.CharField()


class HoldPage(serializers.Serializer[Any]):
    items = HoldBody(many=True)
    next = serializers.URLField(allow_null=True)


class NewHold(serializers.Serializer[Any]):
    amount = Price()
    purpose = Text(max_length=200)
    expires_at = Instant(required=False, help_text="default: in seven days")


class Capture(serializers.Serializer[Any]):
    order = Text(max_length=40, help_text="the number of what is paid with it")


def show_holds(found: Sequence[WalletHold]) -> list[dict[str, Any]]:
    """Holds as they travel."""
    return [
        {
            "id": one.id,
            "state": one.state,
            "amount": money_to_wire(Money(one.amount, one.currency)),
            "captured": money_to_wire(Money(one.captured, one.currency)),
            "purpose": one.purpose,
            "placed_at": to_wire_time(one.placed_at),
            "expires_at": to_wire_time(one.expires_at),
            "ended_at": one.ended_at and to_wire_time(one.ended_at),
            "reason": one.reason,
        }
        for one in found
    ]


class HoldsDoor(OperatorDoor):
    @extend_schema(
        operation_id="list_wallet_holds",
        parameters=[EXTERNAL_ID, LIMIT, CURSOR],
        responses={200: HoldPage, **refusals(404)},
    )
    def get(self, request: Request, external_id: str) -> Response:
        """All that was ever set aside in a wallet, the earliest first."""
        subscriber = registry.find(operator_of(request), external_id)
        rows = WalletHold.objects.filter(subscriber_id=subscriber.pk).order_by("id")
        return Response(pagination.page(request, rows, by="id", of_type=int, show=show_holds))

    @extend_schema(
        operation_id="place_wallet_hold",
        parameters=[EXTERNAL_ID, IDEMPOTENCY_KEY],
        request=NewHold,
        responses={201: HoldBody, **refusals(404, 409, 413, 415, 422)},
    )
    @idempotent
    def post(self, request: Request, external_id: str) -> Response:
        """Set an amount aside: nothing else can spend it. `insufficient_funds` where it is not
        there."""
        operator = operator_of(request)
        subscriber = registry.find(operator, external_id)
        said = NewHold(data=request.data, context={"operator": operator})
        said.is_valid(raise_exception=True)
        amount = said.validated_data["amount"]
        if amount.currency.code != operator.currency:
            raise Invalid(f"a wallet is in {operator.currency}")
        key = request.headers.get("Idempotency-Key")
        draft = holds.Draft(
            subscriber.pk,
            amount.amount,
            said.validated_data["purpose"],
            f"api:{key}" if key else uuid.uuid4().hex,
            said.validated_data.get("expires_at"),
        )
        [shown] = show_holds([holds.place(operator, draft, at=clock.now(operator))])
        return Response(shown, status=201)


class HoldCaptureDoor(OperatorDoor):
    @extend_schema(
        operation_id="capture_wallet_hold",
        parameters=[HOLD, IDEMPOTENCY_KEY],
        request=Capture,
        responses={200: HoldBody, **refusals(404, 409, 413, 415, 422)},
    )
    @idempotent
    def post(self, request: Request, hold_id: int) -> Response:
        """Pay an order of the subscriber's with what is held; the rest can be spent again."""
        operator = operator_of(request)
        said = Capture(data=request.data)
        said.is_valid(raise_exception=True)
        number = said.validated_data["order"]
        [shown] = show_holds([holds.capture(operator, hold_id, number, at=clock.now(operator))])
        return Response(shown)


class HoldReleaseDoor(OperatorDoor):
    @extend_schema(
        operation_id="release_wallet_hold",
        parameters=[HOLD, IDEMPOTENCY_KEY],
        request=Reason,
        responses={200: HoldBody, **refusals(404, 409, 413, 415, 422)},
    )
    @idempotent
    def post(self, request: Request, hold_id: int) -> Response:
        """Let what is held be spent again. Again is harmless."""
        operator: Operator = operator_of(request)
        why = Reason(data=request.data)
        why.is_valid(raise_exception=True)
        hold = holds.release(
            operator, hold_id, reason=why.validated_data["reason"], at=clock.now(operator)
        )
        [shown] = show_holds([hold])
        return Response(shown)
