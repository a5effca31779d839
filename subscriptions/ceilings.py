"""What overage may cost a subscriber: nothing without its consent where the operator demands one,
or at most the ceiling it set a period. The plan's own cap holds beside it.

A policy is the plan version's, narrowed. Who asks and who charges take it from here, so that what
is beyond is refused, and what was used all the same is uncovered: nobody is billed for it.
"""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Collection, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import NamedTuple

from subscriptions import policies
from subscriptions.models import Guard, Plan, Subscriber
from subscriptions.policies import PlanPolicy

AGREED, DECLINED = "agreed", "declined"
_NOTHING = Decimal(0)
# What plans do at exhaustion that costs.
PAID = ("meter", "blocks")


class Said(NamedTuple):
    """What a subscriber said of overage and spent of its ceiling, see models.Guard, and from which
    periods on its operator demands to be told."""

    overage: str | None = None
    ceiling: Decimal | None = None
    spent: Decimal | None = None
    spent_in: dt.datetime | None = None
    spent_before: int | None = None
    demanded_since: dt.datetime | None = None


def policy_of(plan_id: int, said: Said, period_start: dt.datetime) -> PlanPolicy:
    """The policy of a plan version in a period of a subscriber's."""
    if said.overage == AGREED:
        if said.ceiling is None:
            return policies.policy_of(plan_id)
        if said.spent is None or said.spent_in != period_start:
            return _up_to(plan_id, said.ceiling)
        if plan_id == said.spent_before:
            return _up_to(plan_id, max(_NOTHING, said.ceiling - said.spent))
        # Held before in this period: nothing more is drawn or bought at its price.
        return replace(policies.policy_of(plan_id), overage_units=0, max_blocks=0)
    since = said.demanded_since
    if said.overage == DECLINED or (since is not None and period_start >= since):
        return _stopped(plan_id)
    return policies.policy_of(plan_id)


@functools.lru_cache(maxsize=10_000)
def _stopped(plan_id: int) -> PlanPolicy:
    policy = policies.policy_of(plan_id)
    if policy.on_exhaustion not in PAID:
        return policy
    return replace(policy, on_exhaustion="stop", overage_units=0)


@functools.lru_cache(maxsize=10_000)
def _up_to(plan_id: int, ceiling: Decimal) -> PlanPolicy:
    policy = policies.policy_of(plan_id)
    if policy.on_exhaustion not in PAID:
        return policy
    plan = Plan.objects.get(pk=plan_id)
    units = policies.overage_cap(
        ceiling, plan.price_per_million, None, policies.tiers_of(plan), plan.tier_mode
    )
    price = plan.block_price.amount if plan.block_price is not None else None
    blocks = policies.block_cap(ceiling, price, None, plan.block_units)
    return replace(
        policy,
        overage_units=_least(policy.overage_units, units),
        max_blocks=_least(policy.max_blocks, blocks),
    )


def _least(one: int | None, other: int | None) -> int | None:
    known = [each for each in (one, other) if each is not None]
    return min(known) if known else None


def said_by(subscriber_ids: Collection[int]) -> Mapping[int, Said]:
    """What these subscribers said, who said nothing among them."""
    demanded = dict(
        Subscriber.objects.filter(pk__among=subscriber_ids).values_list(
            "pk", "operator__overage_by_consent_since"
        )
    )
    guards = Guard.objects.in_bulk(list(subscriber_ids))
    return {one: _said(guards.get(one), since) for one, since in demanded.items()}


def _said(guard: Guard | None, demanded_since: dt.datetime | None) -> Said:
    if guard is None:
        return Said(demanded_since=demanded_since)
    return Said(
        guard.overage,
        guard.overage_ceiling,
        guard.spent,
        guard.spent_in,
        guard.spent_before_id,
        demanded_since,
    )
