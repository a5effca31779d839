"""Doors of what a subscriber holds: subscriptions, boosters, gifts, and the balance."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from subscriptions import balances, clock, lifecycle, registry, reservations
from subscriptions.api import pagination
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import Code, Count, Flag, Instant, Text, Units
from subscriptions.api.idempotency import idempotent
from subscriptions.api.schema import CURSOR, EXTERNAL_ID, IDEMPOTENCY_KEY, LIMIT, refusals
from subscriptions.errors import NotFound
from subscriptions.models import Bucket, Subscription, SubscriptionPeriod

_THOUSANDTH = Decimal("0.001")


# Subscriptions -----------------------------------------------------------------------------------


class PeriodBody(serializers.Serializer[Any]):
    starts_at = Instant()
    ends_at = Instant()


class SubscriptionBody(serializers.Serializer[Any]):
    """A plan that a subscriber holds from `starts_at` until `ends_at`."""

    id = serializers.CharField()
    status = serializers.ChoiceField(choices=["pending", "active", "ended"])
    plan = Code()
    plan_version = Count()
    next_plan = Code(allow_null=True, help_text="takes over at the end of the current period")
    starts_at = Instant()
    ends_at = Instant(allow_null=True)
    cancel_at_period_end = Flag()
    paused_plan = Code(
        allow_null=True, help_text="goes on after the pause that the next period begins, or began"
    )
    current_period = PeriodBody(allow_null=True)


class SubscriptionOrder(serializers.Serializer[Any]):
    plan = Code()
    starts_at = Instant(
        required=False, allow_null=True, help_text="default: now; at most 400 days away"
    )


class SubscriptionChange(serializers.Serializer[Any]):
    """From the next period on, or now."""

    plan = Code(required=False)
    cancel_at_period_end = Flag(required=False)
    when = serializers.ChoiceField(
        choices=["next_period", "now"],
        default="next_period",
        help_text="now: with a plan an upgrade, else the end",
    )
    cancel = Flag(required=False, help_text="true: at the end of the period, or now")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        now = attrs["when"] == "now"
        said = {name for name in ("plan", "cancel_at_period_end", "cancel") if name in attrs}
        if not said:
            raise serializers.ValidationError("name a plan, or cancel_at_period_end, or both")
        if "cancel" in said and said != {"cancel"}:
            raise serializers.ValidationError("cancel stands alone, or with `when`")
        if "cancel" in said and now and not attrs["cancel"]:
            raise serializers.ValidationError({"cancel": "what ended now cannot be taken back"})
        if now and "cancel_at_period_end" in said:
            raise serializers.ValidationError("`when` now is for a plan, or for cancel")
        return attrs


class SubscriptionPage(serializers.Serializer[Any]):
    items = SubscriptionBody(many=True)
    next = serializers.URLField(allow_null=True)


def show_subscriptions(
    subscriptions: Sequence[Subscription], *, at: dt.datetime
) -> list[dict[str, Any]]:
    """Subscriptions of one subscriber as they travel, with the period that runs at `at`."""
    running = {
        period.subscription_id: period
        for period in SubscriptionPeriod.objects.filter(
            subscriber_id__in={s.subscriber_id for s in subscriptions},
            subscription_id__in=[s.id for s in subscriptions],
            starts_at__lte=at,
            ends_at__gt=at,
        )
    }
    return [
        SubscriptionBody(
            {
                "id": str(s.id),
                "status": _status(s, at),
                "plan": s.plan.code,
                "plan_version": s.plan.version,
                "next_plan": s.next_plan.code if s.next_plan else None,
                "starts_at": s.starts_at,
                "ends_at": s.ends_at,
                "cancel_at_period_end": s.ends_at is not None,
                "paused_plan": s.paused_plan.code if s.paused_plan else None,
                "current_period": running.get(s.id),
            }
        ).data
        for s in subscriptions
    ]


def _status(subscription: Subscription, at: dt.datetime) -> str:
    if subscription.ends_at is not None and subscription.ends_at <= at:
        return "ended"
    return "pending" if at < subscription.starts_at else "active"


class SubscriptionsDoor(OperatorDoor):
    @extend_schema(
        operation_id="subscribe",
        parameters=[EXTERNAL_ID, IDEMPOTENCY_KEY],
        request=SubscriptionOrder,
        responses={201: SubscriptionBody, **refusals(404, 409, 413, 415, 422)},
    )
    @idempotent
    def post(self, request: Request, external_id: str) -> Response:
        """Sell a plan. One base plan at a time: a second is 409, `plan_held`."""
        operator = operator_of(request)
        at = clock.now(operator)
        subscriber = registry.find(operator, external_id)
        order = SubscriptionOrder(data=request.data)
        order.is_valid(raise_exception=True)
        subscription = lifecycle.subscribe(
            operator,
            subscriber.pk,
            order.validated_data["plan"],
            at=at,
            starts_at=order.validated_data.get("starts_at"),
        )
        [shown] = show_subscriptions([subscription], at=at)
        return Response(shown, status=201)

    @extend_schema(
        operation_id="list_subscriptions",
        parameters=[EXTERNAL_ID, CURSOR, LIMIT],
        responses={200: SubscriptionPage, **refusals(404)},
    )
    def get(self, request: Request, external_id: str) -> Response:
        """All subscriptions of a subscriber, in the order they were sold."""
        operator = operator_of(request)
        at = clock.now(operator)
        subscriber = registry.find(operator, external_id)
        lifecycle.ensure_open([subscriber.pk], at=at, until=at)
        held = Subscription.objects.filter(subscriber_id=subscriber.pk)
        return Response(
            pagination.page(
                request,
                held.select_related("plan", "next_plan", "paused_plan").order_by("id"),
                by="id",
                of_type=int,
                show=lambda rows: show_subscriptions(rows, at=at),
            )
        )


class SubscriptionDoor(OperatorDoor):
    @extend_schema(
        operation_id="change_subscription",
        parameters=[EXTERNAL_ID, IDEMPOTENCY_KEY],
        request=SubscriptionChange,
        responses={200: SubscriptionBody, **refusals(404, 409, 413, 415, 422)},
    )
    @idempotent
    def patch(self, request: Request, external_id: str, subscription_id: int) -> Response:
        """Change the plan at the next period, or cancel at its end; naming the plan held now, or
        false, takes that back. With `when` now: upgrade to a dearer plan (`not_an_upgrade` else),
        or end at once, with the refund that the plan gives."""
        operator = operator_of(request)
        at = clock.now(operator)
        subscriber = registry.find(operator, external_id)
        order = SubscriptionChange(data=request.data)
        order.is_valid(raise_exception=True)
        wanted = order.validated_data
        if wanted["when"] == "now" and "plan" in wanted:
            subscription = lifecycle.upgrade(subscriber.pk, subscription_id, wanted["plan"], at=at)
        elif wanted["when"] == "now":
            subscription = lifecycle.end_now(
                subscriber.pk, subscription_id, at=at, reason="cancelled", refund=True
            )
        else:
            subscription = lifecycle.change(
                subscriber.pk,
                subscription_id,
                at=at,
                plan_code=wanted.get("plan"),
                cancel_at_period_end=wanted.get("cancel", wanted.get("cancel_at_period_end")),
            )
        [shown] = show_subscriptions([subscription], at=at)
        return Response(shown)

    @extend_schema(
        operation_id="get_subscription",
        parameters=[EXTERNAL_ID],
        responses={200: SubscriptionBody, **refusals(404)},
    )
    def get(self, request: Request, external_id: str, subscription_id: int) -> Response:
        """One subscription."""
        operator = operator_of(request)
        at = clock.now(operator)
        subscriber = registry.find(operator, external_id)
        lifecycle.ensure_open([subscriber.pk], at=at, until=at)
        subscription = (
            Subscription.objects.select_related("plan", "next_plan", "paused_plan")
            .filter(subscriber_id=subscriber.pk, id=subscription_id)
            .first()
        )
        if subscription is None:
            raise NotFound("the subscriber has no such subscription")
        [shown] = show_subscriptions([subscription], at=at)
        return Response(shown)


class PauseDoor(OperatorDoor):
    @extend_schema(
        operation_id="pause_subscription",
        parameters=[EXTERNAL_ID, IDEMPOTENCY_KEY],
        request=None,
        responses={200: SubscriptionBody, **refusals(404, 409)},
    )
    @idempotent
    def post(self, request: Request, external_id: str, subscription_id: int) -> Response:
        """Keep the subscription under its plan's `pause_plan` from the next period on."""
        operator = operator_of(request)
        at = clock.now(operator)
        subscriber = registry.find(operator, external_id)
        [shown] = show_subscriptions(
            [lifecycle.pause(subscriber.pk, subscription_id, at=at)], at=at
        )
        return Response(shown)


class ResumeDoor(OperatorDoor):
    @extend_schema(
        operation_id="resume_subscription",
        parameters=[EXTERNAL_ID, IDEMPOTENCY_KEY],
        request=None,
        responses={200: SubscriptionBody, **refusals(404, 409, 422)},
    )
    @idempotent
    def post(self, request: Request, external_id: str, subscription_id: int) -> Response:
        """End a pause: at once, for the days left of the period, or before it has begun."""
        operator = operator_of(request)
        at = clock.now(operator)
        subscriber = registry.find(operator, external_id)
        resumed = lifecycle.resume(subscriber.pk, subscription_id, at=at)
        [shown] = show_subscriptions([resumed], at=at)
        return Response(shown)


# Buckets -----------------------------------------------------------------------------------------


class BucketBody(serializers.Serializer[Any]):
    """A bucket; `granted` and `remaining` are null where there is no limit."""

    id = serializers.CharField()
    kind = serializers.ChoiceField(choices=Bucket.Kind.choices)
    granted = Units(allow_null=True)
    used = Units()
    reserved = Units()
    remaining = Units(allow_null=True)
    priority = Count(help_text="the lowest burns first")
    valid_from = Instant()
    valid_until = Instant()


class BalanceBody(serializers.Serializer[Any]):
    as_of = Instant()
    available = Units(help_text="remaining of the prepaid buckets live at as_of - reserved")
    reserved = Units()
    buckets = BucketBody(many=True)


class BoosterOrder(serializers.Serializer[Any]):
    booster = Code()


class Gift(serializers.Serializer[Any]):
    units = Units(minimum=_THOUSANDTH)
    valid_until = Instant()
    reason = Text(max_length=200)


def show_bucket(bucket: Bucket) -> dict[str, Any]:
    """A bucket as it travels."""
    return BucketBody(_bucket(bucket)).data


def _bucket(bucket: Bucket) -> dict[str, Any]:
    return {
        "id": str(bucket.id),
        "kind": bucket.kind,
        "granted": bucket.granted,
        "used": bucket.used,
        "reserved": bucket.reserved,
        "remaining": balances.remaining(bucket),
        "priority": bucket.priority,
        "valid_from": bucket.valid_from,
        "valid_until": bucket.valid_until,
    }


class BoosterSalesDoor(OperatorDoor):
    @extend_schema(
        operation_id="sell_booster",
        parameters=[EXTERNAL_ID, IDEMPOTENCY_KEY],
        request=BoosterOrder,
        responses={201: BucketBody, **refusals(404, 409, 413, 415, 422)},
    )
    @idempotent
    def post(self, request: Request, external_id: str) -> Response:
        """Sell a booster: a bucket valid from now on, burnt after the allowance."""
        operator = operator_of(request)
        subscriber = registry.find(operator, external_id)
        order = BoosterOrder(data=request.data)
        order.is_valid(raise_exception=True)
        bucket = lifecycle.sell_booster(
            operator,
            subscriber.pk,
            order.validated_data["booster"],
            at=clock.now(operator),
        )
        return Response(show_bucket(bucket), status=201)


class BalanceDoor(OperatorDoor):
    @extend_schema(
        operation_id="get_balance",
        parameters=[
            EXTERNAL_ID,
            OpenApiParameter(
                "all",
                {"type": "string", "enum": ["0", "1"]},
                OpenApiParameter.QUERY,
                description="1: every bucket ever held, not only those live or in grace.",
            ),
        ],
        responses={200: BalanceBody, **refusals(404)},
    )
    def get(self, request: Request, external_id: str) -> Response:
        """What the subscriber can still burn, bucket by bucket, in burn order."""
        operator = operator_of(request)
        at = clock.now(operator)
        everything = request.query_params.get("all", "0")
        if everything not in ("0", "1"):
            raise pagination.BadQuery("all is 0 or 1")
        subscriber = registry.find(operator, external_id)
        balances.bring_up(subscriber.pk, at=at)
        reservations.expire_due_of([subscriber.pk], at=at)
        balance = balances.balance_of(
            subscriber.pk, as_of=at, grace=operator.late_grace, everything=everything == "1"
        )
        shown = BalanceBody(
            {
                "as_of": balance.as_of,
                "available": balance.available,
                "reserved": balance.reserved,
                "buckets": [_bucket(bucket) for bucket in balance.buckets],
            }
        )
        return Response(shown.data)
