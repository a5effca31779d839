"""Doors of the catalogue: plans and boosters. (Rate cards have theirs in metering.)"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from subscriptions import catalog, clock
from subscriptions.api import pagination
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import (
    Code,
    Count,
    Flag,
    Instant,
    PerMillion,
    Price,
    TaxRate,
    Text,
    Units,
)
from subscriptions.api.schema import CODE, CURSOR, LIMIT, refusals
from subscriptions.models import Booster, Plan, PlanWindow
from subscriptions.outcomes import USUAL, Billing, Outcome
from subscriptions.policies import Tier, Window, tiers_of, windows_of

MAX_VALID_DAYS = 3660
_THOUSANDTH = Decimal("0.001")


def read_code(code: str) -> str:
    """The code in an address, checked as one in a body would be."""
    try:
        return str(Code().run_validation(code))
    except serializers.ValidationError as error:
        raise serializers.ValidationError({"code": error.detail}) from error


def _choice(values: Sequence[str]) -> serializers.ChoiceField:
    """One of these; the first where it is left out."""
    return serializers.ChoiceField(choices=list(values), default=values[0])


class BlockBody(serializers.Serializer[Any]):
    units = Units(minimum=_THOUSANDTH)
    price = Price()


class TierBody(serializers.Serializer[Any]):
    up_to = Units(
        minimum=_THOUSANDTH, required=False, allow_null=True, help_text="null: the last, no end"
    )
    price_per_million = PerMillion()


class OverageBody(serializers.Serializer[Any]):
    """What usage beyond the allowance costs, and how much of it there may be."""

    price_per_million = PerMillion(required=False, allow_null=True)
    tiers = serializers.ListField(
        child=TierBody(),
        required=False,
        allow_null=True,
        max_length=20,
        help_text="in the place of price_per_million, the lowest first",
    )
    tier_mode = _choice(Plan.TierMode.values)
    block = BlockBody(required=False, allow_null=True)
    cap = Price(required=False, allow_null=True)
    cap_units = Units(required=False, allow_null=True)

    def to_representation(self, instance: Any) -> Any:
        shown = super().to_representation(instance)
        if not instance["tiers"]:
            del shown["tiers"], shown["tier_mode"]
        return shown


class DegradeBody(serializers.Serializer[Any]):
    """What the plan allows once its units are used up: named to gateways that ask."""

    model = Text(max_length=256, required=False, allow_null=True)
    tokens_per_minute = Count(min_value=1, max_value=10**12, required=False, allow_null=True)


class WindowBody(serializers.Serializer[Any]):
    """At most so many units in each stretch of time; a day, week and month are the operator's."""

    per = serializers.ChoiceField(choices=PlanWindow.Per.values)
    kind = serializers.ChoiceField(
        choices=["fixed", "sliding"], default="fixed", help_text="only 5h may slide"
    )
    units = Units()


class RateLimitBody(serializers.Serializer[Any]):
    """How often and how much a subscriber may ask in any 60 seconds."""

    requests_per_minute = Count(min_value=1, max_value=10**6, required=False, allow_null=True)
    tokens_per_minute = Count(min_value=1, max_value=10**12, required=False, allow_null=True)
    when_unavailable = serializers.ChoiceField(
        choices=["open", "closed"],
        default="open",
        help_text="closed: nobody is let through while it cannot be told",
    )


def _billing(outcome: Outcome) -> serializers.ChoiceField:
    """`billed` or `free`; as is usual where it is left out."""
    return serializers.ChoiceField(
        choices=[billing.value for billing in Billing], default=USUAL[outcome]
    )


class OutcomesBody(serializers.Serializer[Any]):
    """Whether usage that ended so is charged; with any other word it is."""

    complete = serializers.ChoiceField(choices=[Billing.BILLED.value], default=Billing.BILLED.value)
    client_gone = _billing(Outcome.CLIENT_GONE)
    upstream_error = _billing(Outcome.UPSTREAM_ERROR)
    cached_replay = _billing(Outcome.CACHED_REPLAY)
    blocked = _billing(Outcome.BLOCKED)


def _category() -> Code:
    return Code(
        required=False,
        allow_null=True,
        help_text="whose rate on the last day of a period holds from the category's first day on",
    )


class ComponentBody(serializers.Serializer[Any]):
    name = Text(max_length=200)
    price = Price()
    tax_rate = TaxRate()
    tax_category = _category()


class TrialBody(serializers.Serializer[Any]):
    """So many days instead of a cycle, once for a subscriber; then another plan goes on."""

    days = Count(min_value=1, max_value=366)
    then = Code()


class PlanBody(serializers.Serializer[Any]):
    """A plan version."""

    code = Code(read_only=True)
    version = Count(read_only=True)
    name = Text(max_length=200)
    price = Price()
    allowance = Units()
    rate_card = Code()
    cycle = _choice(Plan.Cycle.values)
    first_month = _choice(Plan.FirstMonth.values)
    collect = _choice(Plan.Collect.values)
    rollover = _choice(Plan.Rollover.values)
    on_exhaustion = _choice(Plan.OnExhaustion.values)
    refund = _choice(Plan.Refund.values)
    trial = TrialBody(required=False, allow_null=True)
    pause_plan = Code(
        required=False, allow_null=True, help_text="the plan that keeps a paused subscription"
    )
    suspends = Flag(default=False, help_text="who holds it uses nothing of its own")
    overage = OverageBody(required=False, allow_null=True)
    degrade_to = DegradeBody(required=False, allow_null=True)
    outcomes = OutcomesBody(required=False, allow_null=True)
    tax_rate = TaxRate(default=Decimal("0.06"))
    tax_category = _category()
    components = serializers.ListField(
        child=ComponentBody(), required=False, allow_null=True, max_length=20
    )
    rate_limit = RateLimitBody(required=False, allow_null=True)
    windows = serializers.ListField(
        child=WindowBody(), required=False, allow_null=True, max_length=10
    )
    created_at = Instant(read_only=True)


def terms_from(said: dict[str, Any]) -> catalog.PlanTerms:
    """The terms of a PlanBody as the catalogue knows them."""
    overage = said.pop("overage", None) or {}
    block = overage.get("block") or {}
    degrade_to = said.pop("degrade_to", None) or {}
    components = said.pop("components", None) or []
    windows = said.pop("windows", None) or []
    rate_limit = said.pop("rate_limit", None) or {}
    outcomes = said.pop("outcomes", None)
    trial = said.pop("trial", None) or {}
    pause_plan = said.pop("pause_plan", None) or ""
    tax_category = said.pop("tax_category", None) or ""
    return catalog.PlanTerms(
        **said,
        trial_days=trial.get("days"),
        converts_to=trial.get("then", ""),
        pause_plan=pause_plan,
        tax_category=tax_category,
        price_per_million=overage.get("price_per_million"),
        tier_mode=overage["tier_mode"] if overage.get("tiers") else "",
        tiers=tuple(
            Tier(tier.get("up_to"), tier["price_per_million"])
            for tier in overage.get("tiers") or []
        ),
        block_units=block.get("units"),
        block_price=block.get("price"),
        cap=overage.get("cap"),
        cap_units=overage.get("cap_units"),
        degrade_model=degrade_to.get("model") or "",
        degrade_tokens_per_minute=degrade_to.get("tokens_per_minute"),
        requests_per_minute=rate_limit.get("requests_per_minute"),
        tokens_per_minute=rate_limit.get("tokens_per_minute"),
        limits_fail_closed=rate_limit.get("when_unavailable") == "closed",
        outcomes=dict(USUAL if outcomes is None else outcomes),
        components=tuple(
            catalog.Component(**part | {"tax_category": part.get("tax_category") or ""})
            for part in components
        ),
        windows=tuple(
            Window(window["per"], window["units"], window["kind"] == "sliding")
            for window in windows
        ),
    )


def show_plan(plan: Plan) -> dict[str, Any]:
    """A plan version as it travels."""
    block = None
    if plan.block_units is not None and plan.block_price is not None:
        block = {"units": plan.block_units, "price": plan.block_price}
    components = sorted(plan.components.all(), key=lambda component: component.position)
    return PlanBody(
        {
            "code": plan.code,
            "version": plan.version,
            "name": plan.name,
            "price": plan.price,
            "allowance": plan.allowance,
            "rate_card": plan.rate_card,
            "cycle": plan.cycle,
            "first_month": plan.first_month,
            "collect": plan.collect,
            "rollover": plan.rollover,
            "on_exhaustion": plan.on_exhaustion,
            "refund": plan.refund,
            "trial": None
            if plan.trial_days is None
            else {"days": plan.trial_days, "then": plan.converts_to},
            "pause_plan": plan.pause_plan or None,
            "suspends": plan.suspends,
            "tax_rate": plan.tax_rate,
            "tax_category": plan.tax_category or None,
            "created_at": plan.created_at,
            "overage": {
                "price_per_million": plan.price_per_million,
                "tiers": [
                    {"up_to": tier.up_to, "price_per_million": tier.price_per_million}
                    for tier in tiers_of(plan)
                ],
                "tier_mode": plan.tier_mode or Plan.TierMode.GRADUATED.value,
                "block": block,
                "cap": plan.cap,
                "cap_units": plan.cap_units,
            },
            "degrade_to": {
                "model": plan.degrade_model or None,
                "tokens_per_minute": plan.degrade_tokens_per_minute,
            },
            "outcomes": {word: plan.outcomes.get(word, Billing.BILLED.value) for word in USUAL},
            "components": [
                {
                    "name": c.name,
                    "price": c.price,
                    "tax_rate": c.tax_rate,
                    "tax_category": c.tax_category or None,
                }
                for c in components
            ],
            "rate_limit": {
                "requests_per_minute": plan.requests_per_minute,
                "tokens_per_minute": plan.tokens_per_minute,
                "when_unavailable": "closed" if plan.limits_fail_closed else "open",
            },
            "windows": [
                {"per": w.per, "kind": "sliding" if w.sliding else "fixed", "units": w.units}
                for w in windows_of(plan)
            ],
        }
    ).data


class PlanPage(serializers.Serializer[Any]):
    items = PlanBody(many=True)
    next = serializers.URLField(allow_null=True)


class PlansDoor(OperatorDoor):
    @extend_schema(
        operation_id="list_plans",
        parameters=[CURSOR, LIMIT],
        responses={200: PlanPage, **refusals()},
    )
    def get(self, request: Request) -> Response:
        """The plans on sale: the newest version of each, by code."""
        newest = (
            Plan.objects.filter(operator=operator_of(request))
            .order_by("code", "-version")
            .distinct("code")
        )
        plans = (
            Plan.objects.filter(pk__in=newest.values("pk"), retirement__isnull=True)
            .order_by("code")
            .prefetch_related("components", "windows", "tiers")
        )
        return Response(
            pagination.page(
                request,
                plans,
                by="code",
                of_type=str,
                show=lambda rows: [show_plan(plan) for plan in rows],
            )
        )


class BoosterBody(serializers.Serializer[Any]):
    """A booster version."""

    code = Code(read_only=True)
    version = Count(read_only=True)
    name = Text(max_length=200)
    price = Price()
    units = Units(minimum=_THOUSANDTH)
    valid_days = Count(min_value=1, max_value=MAX_VALID_DAYS)
    created_at = Instant(read_only=True)


class BoosterDoor(OperatorDoor):
    @extend_schema(
        operation_id="publish_booster",
        parameters=[CODE],
        request=BoosterBody,
        responses={
            200: OpenApiResponse(BoosterBody, description="The newest version says just that."),
            201: OpenApiResponse(BoosterBody, description="A new version was made."),
            **refusals(413, 415, 422),
        },
    )
    def put(self, request: Request, code: str) -> Response:
        """Publish a booster version."""
        operator = operator_of(request)
        code = read_code(code)
        body = BoosterBody(data=request.data, context={"operator": operator})
        body.is_valid(raise_exception=True)
        booster, made = catalog.publish_booster(
            operator, code, **body.validated_data, at=clock.now(operator)
        )
        return Response(show_booster(booster), status=201 if made else 200)


def show_booster(booster: Booster) -> dict[str, Any]:
    """A booster version as it travels."""
    return BoosterBody(booster).data
