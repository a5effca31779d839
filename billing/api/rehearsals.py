"""The door to rehearse a plan on a month that has been."""

from __future__ import annotations

import datetime as dt
from typing import Any

from djmoney.money import Money
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing import rehearsing
from billing.api.invoices import MoneyBody
from subscriptions import catalog, clock, registry
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import Count, ExternalId, Instant, Units, money_to_wire, to_wire_time
from subscriptions.api.offerings import PlanBody, read_code, terms_from
from subscriptions.api.schema import CODE, refusals
from subscriptions.models import Subscriber
from subscriptions.units import to_wire

# What a request may take; the command `rehearse` has no such limit.
MOST = 20_000


class RehearsalAsked(serializers.Serializer[Any]):
    month = serializers.RegexField(r"^20\d{2}-(0[1-9]|1[0-2])$", help_text="2026-06")
    each = Count(min_value=1, max_value=10**6, default=1, help_text="look at each nth subscriber")
    subscriber = ExternalId(required=False, help_text="at this one only")
    terms = PlanBody(required=False, help_text="of a draft; without them, the newest version")


class OutcomeBody(serializers.Serializer[Any]):
    """A period under both; `refused` units are those that the plan would have stopped."""

    subscriber = serializers.CharField()
    period_start = Instant()
    plan = serializers.CharField(help_text="the one that it was under")
    units = Units()
    units_then = Units()
    refused_now = Units()
    refused_then = Units()
    now = MoneyBody()
    then = MoneyBody()


class RehearsalBody(serializers.Serializer[Any]):
    """All periods added up; winners would have paid less, losers more."""

    month = serializers.CharField()
    periods = serializers.IntegerField()
    winners = serializers.IntegerField()
    losers = serializers.IntegerField()
    refused_now = serializers.IntegerField(help_text="periods in which usage was stopped")
    refused_then = serializers.IntegerField()
    units_now = Units()
    units_then = Units()
    revenue_now = MoneyBody()
    revenue_then = MoneyBody()
    cost_now = MoneyBody(help_text="of the units served, at that month's average")
    cost_then = MoneyBody()
    best = OutcomeBody(many=True, help_text="those who would have saved most")
    worst = OutcomeBody(many=True)


class RehearsalsDoor(OperatorDoor):
    @extend_schema(
        operation_id="rehearse_plan",
        parameters=[CODE],
        request=RehearsalAsked,
        responses={200: RehearsalBody, **refusals(404, 413, 415, 422)},
    )
    def post(self, request: Request, code: str) -> Response:
        """Price a month that has been under a plan or a draft of one. Nothing is changed."""
        operator = operator_of(request)
        code = read_code(code)
        body = RehearsalAsked(data=request.data, context={"operator": operator})
        body.is_valid(raise_exception=True)
        said = body.validated_data
        at = clock.now(operator)
        terms = said.get("terms")
        offer = (
            rehearsing.offer_of(catalog.newest_plan(operator.pk, code))
            if terms is None
            else rehearsing.offer_drafted(operator, code, terms_from(terms), at=at)
        )
        who = said.get("subscriber")
        found = rehearsing.rehearse(
            operator,
            offer,
            month=month_from(said["month"]),
            at=at,
            each=said["each"],
            subscriber_id=None if who is None else registry.find(operator, who).pk,
            most=MOST,
        )
        return Response({"month": said["month"], **show(found)})


def month_from(text: str) -> dt.date:
    """The first day of `2026-06`."""
    return dt.date.fromisoformat(f"{text}-01")


def show(found: rehearsing.Rehearsal) -> dict[str, Any]:
    """A rehearsal as it is answered."""
    shown = [*found.best, *found.worst]
    names = dict(
        Subscriber.objects.filter(pk__in={one.subscriber_id for one in shown}).values_list(
            "pk", "external_id"
        )
    )

    def money(amount: Any) -> dict[str, str]:
        return money_to_wire(Money(amount, found.currency))

    def outcome(one: rehearsing.Outcome) -> dict[str, Any]:
        return {
            "subscriber": names[one.subscriber_id],
            "period_start": to_wire_time(one.starts_at),
            "plan": one.plan,
            "units": to_wire(one.units),
            "units_then": to_wire(one.units_then),
            "refused_now": to_wire(one.now.refused),
            "refused_then": to_wire(one.then.refused),
            "now": money(one.now.gross),
            "then": money(one.then.gross),
        }

    return {
        "periods": found.periods,
        "winners": found.winners,
        "losers": found.losers,
        "refused_now": found.refused_now,
        "refused_then": found.refused_then,
        "units_now": to_wire(found.units_now),
        "units_then": to_wire(found.units_then),
        "revenue_now": money(found.revenue_now),
        "revenue_then": money(found.revenue_then),
        "cost_now": money(found.cost_now),
        "cost_then": money(found.cost_then),
        "best": [outcome(one) for one in found.best],
        "worst": [outcome(one) for one in found.worst],
    }
