"""Rows for tests, made the way the product makes them. Plain functions with fixed defaults."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from djmoney.money import Money
from rest_framework.test import APIClient

from subscriptions import catalog, clock, keys, lifecycle, registry
from subscriptions.models import (
    ApiKey,
    Bucket,
    Operator,
    Plan,
    RateCard,
    Subscriber,
    Subscription,
)

SHANGHAI = ZoneInfo("Asia/Shanghai")
# Noon of 10 June 2026 in Shanghai: the middle of a month, far from every edge.
NOW = dt.datetime(2026, 6, 10, 4, tzinfo=dt.UTC)


def local(*args: int) -> dt.datetime:
    """An instant by its time in Shanghai: `local(2026, 7, 1)` is 30 June, 16:00 UTC."""
    return dt.datetime(*args, tzinfo=SHANGHAI).astimezone(dt.UTC)  # type: ignore[misc,arg-type]


def yuan(amount: str) -> Money:
    return Money(Decimal(amount), "CNY")


def make_operator(
    code: str = "op", *, at: dt.datetime | None = NOW, zone: str = "Asia/Shanghai"
) -> Operator:
    """A test operator whose clock stands at `at`; with None one that lives by the wall."""
    return Operator.objects.create(
        code=code,
        name=code,
        time_zone=zone,
        is_test=at is not None,
        clock_at=at,
        created_at=at or clock.wall(),
    )


def make_key(operator: Operator, *, role: str = ApiKey.Role.OPERATOR, name: str = "crm") -> str:
    return keys.issue(operator_code=operator.code, role=role, name=name, at=clock.now(operator))


def make_gateway_key(operator: Operator, *, name: str = "gateway") -> str:
    return make_key(operator, role=ApiKey.Role.GATEWAY, name=name)


def client_for(key: str) -> APIClient:
    """A client that sends this key."""
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {key}")
    return client


def make_rate_card(
    operator: Operator,
    code: str = "standard",
    *,
    effective_from: dt.datetime = dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
    weights: dict[str, tuple[str, str, str, str, str]] | None = None,
) -> RateCard:
    """A card; by default every token of every model weighs 1.

    `weights` maps a pattern to (input, cached input, cache write, output, reasoning).
    """
    card, _ = catalog.publish_rate_card(
        operator,
        code,
        effective_from=effective_from,
        weights=[
            catalog.Weight(model, *(Decimal(w) for w in row))
            for model, row in (weights or {"*": ("1", "1", "1", "1", "1")}).items()
        ],
        charged_since=lambda cards, instant: False,
        at=clock.now(operator),
    )
    return card


def make_plan(operator: Operator, code: str = "light", **terms: Any) -> Plan:
    """9.90 yuan a month for 10 million units; `terms` are those of catalog.PlanTerms.

    Brings the rate card it names where there is none yet.
    """
    given = {
        "name": code.title(),
        "price": yuan("9.90"),
        "allowance": 10_000_000_000,
        "rate_card": "standard",
        **terms,
    }
    if not RateCard.objects.filter(operator=operator, code=given["rate_card"]).exists():
        make_rate_card(operator, given["rate_card"])
    plan, _ = catalog.publish_plan(
        operator, code, catalog.PlanTerms(**given), at=clock.now(operator)
    )
    return plan


def make_subscriber(
    operator: Operator, external_id: str = "s-1", *, subjects: tuple[str, ...] | None = None
) -> Subscriber:
    """A person with one subject, `user-` and the id, unless `subjects` says otherwise."""
    draft = registry.Draft(
        external_id=external_id,
        name=external_id,
        subjects=(f"user-{external_id}",) if subjects is None else subjects,
    )
    [outcome] = registry.upsert(operator, [draft], at=clock.now(operator))
    if outcome.error:
        raise outcome.error
    return registry.find(operator, external_id)


def subscribe(
    subscriber: Subscriber, plan: Plan, *, starts_at: dt.datetime | None = None
) -> Subscription:
    """Sell the plan at the operator's now, to start then or at `starts_at`."""
    return lifecycle.subscribe(
        subscriber.operator,
        subscriber.pk,
        plan.code,
        at=clock.now(subscriber.operator),
        starts_at=starts_at,
    )


def set_clock(operator: Operator, at: dt.datetime) -> None:
    """Move the clock without what the door does besides: nothing that falls due is done."""
    clock.move(operator.pk, to=at)
    operator.clock_at = at


def buckets_of(subscriber: Subscriber, kind: str | None = None) -> list[Bucket]:
    """A subscriber's buckets, oldest first."""
    rows = Bucket.objects.filter(subscriber_id=subscriber.pk).order_by("valid_from", "id")
    return list(rows.filter(kind=kind) if kind else rows)
