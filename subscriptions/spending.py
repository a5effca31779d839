"""What is spent of a ceiling on overage when the plan changes inside a period.

A ceiling is a period's, the buckets of overage are each of one plan's price. So at an upgrade those
of the plans held before hold no more than was drawn by then, and what that costs is spent: the plan
that holds from then on has the rest.
"""

from __future__ import annotations

import datetime as dt
from decimal import ROUND_HALF_UP, Decimal

from subscriptions import buckets, demands, guards, policies
from subscriptions.models import Bucket, Guard, Plan, SubscriptionPeriod, Upgrade

_FEN = Decimal("0.01")


def settle(subscriber_id: int, *, at: dt.datetime) -> None:
    """Let overage at the prices of plans held before in the period that runs go no further, and
    keep what it came to, where a ceiling was agreed to.

    Joins the caller's transaction, which holds the subscription or its subscriber.
    """
    if not Guard.objects.filter(pk=subscriber_id, overage_ceiling__isnull=False).exists():
        return
    last = (
        Upgrade.objects.filter(
            subscriber_id=subscriber_id, period_start__lte=at, period_end__gt=at, at__lte=at
        )
        .order_by("-at", "-nr")
        .first()
    )
    if last is None:
        return
    period = SubscriptionPeriod.objects.get(
        subscriber_id=subscriber_id,
        subscription_id=last.subscription_id,
        starts_at=last.period_start,
    )
    rows = Bucket.objects.filter(
        subscriber_id=subscriber_id,
        subscription_id=last.subscription_id,
        kind=Bucket.Kind.OVERAGE,
        valid_from__gte=period.starts_at,
        valid_from__lt=period.ends_at,
    )
    before = {
        bucket.id: plan_id
        for bucket in rows
        if (plan_id := demands.plan_of_overflow(bucket.grant_key) or period.plan_id)
        != last.new_plan_id
    }
    metered = [b.id for b in rows if b.id in before and not b.grant_key.startswith("blocks")]
    buckets.limit(subscriber_id, dict.fromkeys(metered, 0), at=at)
    plans = Plan.objects.in_bulk(set(before.values()))
    spent = sum(
        (_cost(bucket, plans[before[bucket.id]]) for bucket in rows.all() if bucket.id in before),
        Decimal(0),
    )
    guards.settle(
        subscriber_id, spent=spent, spent_in=period.starts_at, spent_before_id=last.new_plan_id
    )


def _cost(bucket: Bucket, plan: Plan) -> Decimal:
    """What all that an overage bucket holds costs, to the fen."""
    granted = bucket.granted or 0
    if bucket.grant_key.startswith("blocks"):
        assert plan.block_units
        packs: Decimal = plan.block_price.amount * (granted // plan.block_units)
        return packs
    exact = policies.price_of(
        granted,
        plan.price_per_million,
        policies.tiers_of(plan),
        graduated=plan.tier_mode != Plan.TierMode.VOLUME,
    )
    cost = exact.quantize(_FEN, ROUND_HALF_UP)
    return cost if plan.cap is None else min(cost, plan.cap.amount)
