"""Coupons from publishing to redeeming: the only writer of Coupon and Redemption.

What they take off is rated when a period is billed; here is only who may redeem what, and when.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from django.db import transaction
from django.db.models import F, Q
from djmoney.money import Money

from subscriptions import catalog, expected, lifecycle, pgarrays
from subscriptions.errors import Conflict, Invalid
from subscriptions.lifecycle import PeriodKey
from subscriptions.models import Coupon, Operator, Redemption, Subscription
from subscriptions.pgarrays import Instants, Int8s


class CouponPublished(Conflict):
    cause = "coupon_published"


class UnknownCoupon(Invalid):
    cause = "unknown_coupon"


class NotRedeemable(Conflict):
    cause = "not_redeemable"


class AlreadyRedeemed(Conflict):
    cause = "already_redeemed"


class Exhausted(Conflict):
    cause = "coupon_exhausted"


# Publishing --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CouponTerms:
    """All that a coupon says; one of `percent`, `amount` and `price`. See `models.Coupon`."""

    name: str
    percent: Decimal | None = None
    amount: Money | None = None
    price: Money | None = None
    covers: str = Coupon.Covers.FEE
    periods: int | None = None
    plans: tuple[str, ...] = ()
    first_subscription: bool = False
    redeemable_from: dt.datetime | None = None
    redeemable_until: dt.datetime | None = None
    max_redemptions: int | None = None


@transaction.atomic
def publish(
    operator: Operator, code: str, terms: CouponTerms, *, at: dt.datetime
) -> tuple[Coupon, bool]:
    """The coupon of this code, and whether it was made now.

    What a code says never changes: who has it in hand goes by it. Raises CouponPublished where it
    says something else, Invalid, WrongCurrency.
    """
    _check(operator, terms)
    catalog.lock(operator)
    coupon = Coupon.objects.filter(operator=operator, code=code).first()
    if coupon is not None:
        if _terms_of(coupon) != terms:
            raise CouponPublished(f"{code} says something else already; take another code")
        return coupon, False
    coupon = Coupon.objects.create(
        operator=operator,
        code=code,
        name=terms.name,
        percent=terms.percent,
        amount=terms.amount,
        price=terms.price,
        covers=terms.covers,
        periods=terms.periods,
        plans=list(terms.plans),
        first_subscription=terms.first_subscription,
        redeemable_from=terms.redeemable_from,
        redeemable_until=terms.redeemable_until,
        max_redemptions=terms.max_redemptions,
        created_at=at,
    )
    return coupon, True


def _check(operator: Operator, terms: CouponTerms) -> None:
    said = [way for way in (terms.percent, terms.amount, terms.price) if way is not None]
    if len(said) != 1:
        raise Invalid("a coupon says one of percent, amount and price")
    if terms.percent is not None and not 0 < terms.percent <= 100:
        raise Invalid("percent is above 0 and at most 100")
    if terms.amount is not None and terms.amount.amount <= 0:
        raise Invalid("the amount taken off is above 0")
    if terms.price is not None and terms.covers != Coupon.Covers.FEE:
        raise Invalid("a price is that of the fee: it covers no more")
    catalog.check_currency(
        operator, *(price for price in (terms.amount, terms.price) if price is not None)
    )
    if (
        terms.redeemable_from is not None
        and terms.redeemable_until is not None
        and terms.redeemable_until <= terms.redeemable_from
    ):
        raise Invalid("redeemable_until lies after redeemable_from")


def _terms_of(coupon: Coupon) -> CouponTerms:
    return CouponTerms(
        name=coupon.name,
        percent=coupon.percent,
        amount=coupon.amount,
        price=coupon.price,
        covers=coupon.covers,
        periods=coupon.periods,
        plans=tuple(coupon.plans),
        first_subscription=coupon.first_subscription,
        redeemable_from=coupon.redeemable_from,
        redeemable_until=coupon.redeemable_until,
        max_redemptions=coupon.max_redemptions,
    )


# Redeeming ---------------------------------------------------------------------------------------


@transaction.atomic
def redeem(
    operator: Operator, subscriber_id: int, subscription_id: int, code: str, *, at: dt.datetime
) -> Redemption:
    """Redeem a coupon for a subscription, from the period that runs at `at` (or its first) on.

    A subscriber redeems a coupon once; again for the same subscription answers what is there.
    Raises NotFound, SubscriptionEnded, UnknownCoupon, NotRedeemable (too early or late, another
    plan, not the first), AlreadyRedeemed, Exhausted.
    """
    held, first_period = lifecycle.hold(subscriber_id, subscription_id, at=at)
    coupon = Coupon.objects.filter(operator=operator, code=code).first()
    if coupon is None:
        raise UnknownCoupon(f"there is no coupon {code}")
    before = Redemption.objects.filter(subscriber_id=subscriber_id, coupon=coupon).first()
    if before is not None:
        if before.subscription_id == subscription_id:
            return before
        raise AlreadyRedeemed("the subscriber has redeemed this coupon before")
    _check_redeemable(coupon, held, at=at)
    redemption = Redemption.objects.create(
        subscriber_id=subscriber_id,
        coupon=coupon,
        subscription_id=subscription_id,
        first_period=first_period,
        at=at,
    )
    # Last, for the row is everybody's.
    there = Q(max_redemptions__isnull=True) | Q(redeemed__lt=F("max_redemptions"))
    counted = Coupon.objects.filter(there, pk=coupon.pk).update(redeemed=F("redeemed") + 1)
    if not counted:
        raise Exhausted(f"{code} has been redeemed as often as it may be")
    # What is asked for a period that is paid before is less by now.
    expected.look_again(subscriber_id, subscription_id, since=first_period)
    return redemption


def _check_redeemable(coupon: Coupon, held: Subscription, *, at: dt.datetime) -> None:
    if coupon.redeemable_from is not None and at < coupon.redeemable_from:
        raise NotRedeemable(f"{coupon.code} cannot be redeemed yet")
    if coupon.redeemable_until is not None and at >= coupon.redeemable_until:
        raise NotRedeemable(f"{coupon.code} can no longer be redeemed")
    if coupon.plans and held.plan.code not in coupon.plans:
        raise NotRedeemable(f"{coupon.code} is for {', '.join(coupon.plans)}")
    if coupon.first_subscription and (
        Subscription.objects.filter(subscriber_id=held.subscriber_id, id__lt=held.id)
        .exclude(ends_at=F("starts_at"))
        .exists()
    ):
        raise NotRedeemable(f"{coupon.code} is for who has held no plan before")


# Rating reads ------------------------------------------------------------------------------------


class Applied(NamedTuple):
    """A coupon that takes off from a period, and the how-manyth of its periods that is."""

    coupon_id: int
    nth: int


_APPLIED_SQL = """
SELECT d.subscriber_id, d.subscription_id, d.starts_at, r.coupon_id, n.nth
FROM unnest(%s::bigint[], %s::bigint[], %s::timestamptz[])
     AS d (subscriber_id, subscription_id, starts_at)
JOIN subscriptions_redemption r
  ON r.subscriber_id = d.subscriber_id AND r.subscription_id = d.subscription_id
 AND r.first_period <= d.starts_at
JOIN subscriptions_coupon c ON c.id = r.coupon_id
CROSS JOIN LATERAL (
    -- One that is asked for ahead is not opened yet.
    SELECT count(*) + 1 AS nth FROM subscriptions_subscriptionperiod p
    WHERE p.subscriber_id = d.subscriber_id AND p.subscription_id = d.subscription_id
      AND p.starts_at >= r.first_period AND p.starts_at < d.starts_at
) n
WHERE c.periods IS NULL OR n.nth <= c.periods
ORDER BY d.subscriber_id, d.subscription_id, d.starts_at, r.at, r.coupon_id
"""


def applied_to(keys: Sequence[PeriodKey]) -> dict[PeriodKey, list[Applied]]:
    """The coupons that take off from each of these periods, the first redeemed first."""
    found: dict[PeriodKey, list[Applied]] = defaultdict(list)
    with pgarrays.statements() as cursor:
        cursor.execute(_APPLIED_SQL, pgarrays.columns(keys, Int8s, Int8s, Instants))
        for subscriber_id, subscription_id, starts_at, *applied in cursor.fetchall():
            found[subscriber_id, subscription_id, starts_at].append(Applied(*applied))
    return found
