"""From when on usage costs extra: what a subscriber must hear of, with the price.

The draw writes no more than that all prepaid units are used up; what that means follows from the
plan, and is looked up when the event is handed on, so that no charge pays for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from subscriptions import ceilings, pgarrays
from subscriptions.ceilings import PAID, Said
from subscriptions.models import Plan
from subscriptions.outbox import Event, Happening
from subscriptions.pgarrays import Instants, Int8s
from subscriptions.units import to_wire

STARTED = "overage.started"

_PERIODS_SQL = """
SELECT DISTINCT ON (t.subscriber_id, t.subscription_id, t.starts_at)
       t.subscriber_id, t.subscription_id, t.starts_at, t.ends_at, e.occurred_at, p.id
FROM unnest(%s::bigint[], %s::timestamptz[]) AS e (subscriber_id, occurred_at)
JOIN subscriptions_subscriptionperiod t
  ON t.subscriber_id = e.subscriber_id
 AND t.starts_at <= e.occurred_at AND t.ends_at > e.occurred_at
JOIN subscriptions_subscription s
  ON s.subscriber_id = t.subscriber_id AND s.id = t.subscription_id
JOIN subscriptions_plan p ON p.id = s.plan_id AND p.on_exhaustion IN ('meter', 'blocks')
ORDER BY t.subscriber_id, t.subscription_id, t.starts_at, e.occurred_at
"""


def begun(events: Sequence[Event]) -> list[Happening]:
    """Of those whose prepaid units were used up, who pays from then on: once a period."""
    ended = [event for event in events if event.kind == "bucket.exhausted"]
    if not ended:
        return []
    with pgarrays.statements() as cursor:
        cursor.execute(
            _PERIODS_SQL,
            [
                Int8s(event.subscriber_id for event in ended),
                Instants(event.occurred_at for event in ended),
            ],
        )
        rows = cursor.fetchall()
    plans = Plan.objects.in_bulk({row[-1] for row in rows})
    said = ceilings.said_by({row[0] for row in rows})
    return [
        Happening(
            subscriber_id,
            STARTED,
            f"overage:{subscription_id}:{starts_at.isoformat()}",
            occurred_at,
            {
                "subscription": str(subscription_id),
                "until": ends_at.isoformat(),
                **_price(plans[plan_id], said[subscriber_id]),
            },
        )
        for subscriber_id, subscription_id, starts_at, ends_at, occurred_at, plan_id in rows
        # Who has not agreed pays nothing: to it there is nothing to be told.
        if ceilings.policy_of(plan_id, said[subscriber_id], starts_at).on_exhaustion in PAID
    ]


def _price(plan: Plan, agreed: Said) -> dict[str, Any]:
    currency = plan.price.currency.code
    said: dict[str, Any] = {"plan": plan.code}
    if plan.on_exhaustion == Plan.OnExhaustion.BLOCKS:
        assert plan.block_units is not None
        said["block"] = {
            "units": to_wire(plan.block_units),
            "price": {"amount": f"{plan.block_price.amount:.2f}", "currency": currency},
        }
    elif plan.price_per_million is not None:
        # As many decimals as the price has, two at least.
        price = plan.price_per_million.normalize()
        places = max(2, -int(price.as_tuple().exponent))
        said["price_per_million"] = {"amount": f"{price:.{places}f}", "currency": currency}
    else:
        said["tiers"] = [
            {
                "up_to": None if tier.up_to is None else to_wire(tier.up_to),
                "price_per_million": {
                    "amount": f"{tier.price_per_million:.6f}",
                    "currency": currency,
                },
            }
            for tier in plan.tiers.order_by("position")
        ]
    caps = [plan.cap.amount] if plan.cap is not None else []
    if agreed.ceiling is not None:
        caps.append(agreed.ceiling)
    if caps:
        said["cap"] = {"amount": f"{min(caps):.2f}", "currency": currency}
    return said
