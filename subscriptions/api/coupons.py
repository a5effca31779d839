"""Doors of coupons: publishing, listing, redeeming."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from subscriptions import clock, coupons, registry
from subscriptions.api import pagination
from subscriptions.api.doors import OperatorDoor, operator_of
from subscriptions.api.fields import Code, Count, Flag, Instant, Percent, Price, Text
from subscriptions.api.idempotency import idempotent
from subscriptions.api.offerings import read_code
from subscriptions.api.schema import CODE, CURSOR, EXTERNAL_ID, IDEMPOTENCY_KEY, LIMIT, refusals
from subscriptions.models import Coupon, Redemption


class CouponBody(serializers.Serializer[Any]):
    """A coupon: one of `percent` off, an `amount` off, or the `price` that the fee comes to."""

    code = Code(read_only=True)
    name = Text(max_length=200)
    percent = Percent(required=False, allow_null=True)
    amount = Price(required=False, allow_null=True)
    price = Price(required=False, allow_null=True)
    covers = serializers.ChoiceField(
        choices=Coupon.Covers.values,
        default=Coupon.Covers.FEE.value,
        help_text="all: overage, blocks and boosters too",
    )
    periods = Count(
        min_value=1,
        max_value=1200,
        required=False,
        allow_null=True,
        help_text="how many it lasts; null: as long as the subscription",
    )
    plans = serializers.ListField(
        child=Code(), required=False, allow_null=True, max_length=100, help_text="none: any"
    )
    first_subscription = Flag(default=False, help_text="only for who has held no plan before")
    redeemable_from = Instant(required=False, allow_null=True)
    redeemable_until = Instant(required=False, allow_null=True)
    max_redemptions = Count(min_value=1, max_value=10**9, required=False, allow_null=True)
    redeemed = Count(read_only=True)
    created_at = Instant(read_only=True)


class CouponPage(serializers.Serializer[Any]):
    items = CouponBody(many=True)
    next = serializers.URLField(allow_null=True)


class RedemptionOrder(serializers.Serializer[Any]):
    coupon = Code()


class RedemptionBody(serializers.Serializer[Any]):
    """A coupon redeemed for a subscription: it takes off from `first_period` on."""

    coupon = CouponBody()
    subscription = serializers.CharField()
    first_period = Instant()
    redeemed_at = Instant()


def show_redemption(redemption: Redemption) -> dict[str, Any]:
    """A redemption as it travels."""
    return RedemptionBody(
        {
            "coupon": redemption.coupon,
            "subscription": str(redemption.subscription_id),
            "first_period": redemption.first_period,
            "redeemed_at": redemption.at,
        }
    ).data


class CouponDoor(OperatorDoor):
    @extend_schema(
        operation_id="publish_coupon",
        parameters=[CODE],
        request=CouponBody,
        responses={
            200: OpenApiResponse(CouponBody, description="It says just that already."),
            201: CouponBody,
            **refusals(409, 413, 415, 422),
        },
    )
    def put(self, request: Request, code: str) -> Response:
        """Publish a coupon. What a code says never changes: another text needs another code."""
        operator = operator_of(request)
        code = read_code(code)
        body = CouponBody(data=request.data, context={"operator": operator})
        body.is_valid(raise_exception=True)
        said = body.validated_data
        terms = coupons.CouponTerms(**{**said, "plans": tuple(said.get("plans") or ())})
        coupon, made = coupons.publish(operator, code, terms, at=clock.now(operator))
        return Response(CouponBody(coupon).data, status=201 if made else 200)


class CouponsDoor(OperatorDoor):
    @extend_schema(
        operation_id="list_coupons",
        parameters=[CURSOR, LIMIT],
        responses={200: CouponPage, **refusals()},
    )
    def get(self, request: Request) -> Response:
        """All coupons, by code, with how often each was redeemed."""
        return Response(
            pagination.page(
                request,
                Coupon.objects.filter(operator=operator_of(request)).order_by("code"),
                by="code",
                of_type=str,
                show=lambda rows: [CouponBody(coupon).data for coupon in rows],
            )
        )


class RedemptionsDoor(OperatorDoor):
    @extend_schema(
        operation_id="redeem_coupon",
        parameters=[EXTERNAL_ID, IDEMPOTENCY_KEY],
        request=RedemptionOrder,
        responses={201: RedemptionBody, **refusals(404, 409, 413, 415, 422)},
    )
    @idempotent
    def post(self, request: Request, external_id: str, subscription_id: int) -> Response:
        """Redeem a coupon, from the period that runs now on. A subscriber redeems each once."""
        operator = operator_of(request)
        subscriber = registry.find(operator, external_id)
        order = RedemptionOrder(data=request.data)
        order.is_valid(raise_exception=True)
        redemption = coupons.redeem(
            operator,
            subscriber.pk,
            subscription_id,
            order.validated_data["coupon"],
            at=clock.now(operator),
        )
        return Response(show_redemption(redemption), status=201)
