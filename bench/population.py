"""The operator whose traffic is measured: subscribers with the plans of real carriers."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from django.db import connection

from billing import due
from metering.weighing import Weight, cards_of
from subscriptions import clock, keys, lifecycle, registry, seeding
from subscriptions.models import ApiKey, Operator, RateCard, Subscriber
from subscriptions.registry import Draft

CODE = "bench"
SIZE = 100_000
# They bought their plans so long ago: each has a period behind it, and rollover where it has any.
BOUGHT_BEFORE = dt.timedelta(days=40)


@dataclass(frozen=True, slots=True)
class Population:
    """Who is there, by number; what COPY has to know of them."""

    operator_id: int
    gateway_id: int
    gateway_key: str
    operator_key: str
    bindings: list[tuple[int, int]]  # (subscriber id, subject's id)
    weights: dict[str, Weight]

    @property
    def size(self) -> int:
        return len(self.bindings)

    @staticmethod
    def subject(nr: int) -> str:
        return f"user-{nr:07d}"

    @staticmethod
    def external_id(nr: int) -> str:
        return f"sub-{nr:07d}"


def build(size: int, advance: Callable[[int], None]) -> None:
    """Fill the database of Django's connection; `advance` is told how many more are done."""
    now = clock.wall()
    bought = now - BOUGHT_BEFORE
    operator = Operator.objects.create(code=CODE, name="Benchmark", created_at=bought)
    seeding.seed_offerings(operator, at=bought)
    _add(operator, range(size), advance, bought=bought, now=now)


def grow(size: int, advance: Callable[[int], None]) -> None:
    """Let there be so many subscribers, where there are fewer."""
    operator = Operator.objects.get(code=CODE)
    there = Subscriber.objects.filter(operator=operator).count()
    if size > there:
        bought = operator.created_at
        _add(operator, range(there, size), advance, bought=bought, now=clock.wall())


def _add(
    operator: Operator,
    numbers: range,
    advance: Callable[[int], None],
    *,
    bought: dt.datetime,
    now: dt.datetime,
) -> None:
    plans = list(seeding.PLANS)
    for first in range(numbers.start, numbers.stop, registry.BATCH):
        drafts = [
            Draft(
                external_id=Population.external_id(nr),
                subjects=(Population.subject(nr),),
                plan=plans[nr % len(plans)],
            )
            for nr in range(first, min(first + registry.BATCH, numbers.stop))
        ]
        outcomes = registry.upsert(operator, drafts, at=bought)
        assert all(outcome.status == registry.CREATED for outcome in outcomes)
        advance(len(drafts))
    while lifecycle.open_due(None, at=now):
        pass
    due.make_partitions(at=now)
    with connection.cursor() as cursor:
        cursor.execute("VACUUM (ANALYZE)")


def read(models: Sequence[str]) -> Population:
    """The population of the database Django is connected to, with new keys."""
    at = clock.wall()
    operator = Operator.objects.get(code=CODE)
    operator_key = keys.issue(operator_code=CODE, role=ApiKey.Role.OPERATOR, name="bench", at=at)
    gateway_key = keys.issue(operator_code=CODE, role=ApiKey.Role.GATEWAY, name="bench", at=at)
    gateway_id = ApiKey.objects.get(digest=keys.digest_of(gateway_key)).gateway_id
    assert gateway_id is not None
    due.make_partitions(at=at)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT subscriber_id, id FROM subscriptions_subject WHERE operator_id = %s"
            " ORDER BY subject",
            [operator.pk],
        )
        bindings = cursor.fetchall()
    newest = RateCard.objects.filter(operator=operator).order_by("-pk").values_list("pk", flat=True)
    version = cards_of(operator.pk, newest[0]).version_at(seeding.RATE_CARD, at)
    assert version is not None
    weights = {}
    for model in models:
        weight = version.weight_of(model)
        assert weight is not None, model
        weights[model] = weight
    return Population(operator.pk, gateway_id, gateway_key, operator_key, bindings, weights)
