"""Steps that subscribers take with their plans by their own hand, each with its receipt: the only
writer of PlanReceipt.

The step is lifecycle's; the receipt is there with it or not at all. The same step again changes
nothing and answers the receipt that there is.
"""

from __future__ import annotations

import datetime as dt

from django.db import connection, transaction

from billing import invoicing
from billing.models import PlanReceipt
from billing.orders import keeping
from subscriptions import lifecycle
from subscriptions.errors import NotFound
from subscriptions.models import Operator, Plan, Subscription

Kind = PlanReceipt.Kind
Key = tuple[int, int]  # (subscriber, subscription)


@transaction.atomic
def cancel(operator: Operator, key: Key, *, channel: str, at: dt.datetime) -> PlanReceipt:
    """End a plan with the period that runs. Raises NotFound, lifecycle.SubscriptionEnded."""
    before = _hold(key)
    after = lifecycle.change(*key, at=at, cancel_at_period_end=True)
    assert after.ends_at is not None
    if before.ends_at == after.ends_at and (known := _last(key, Kind.CANCELLED)):
        return known
    return _write(operator, key, Kind.CANCELLED, before.plan, None, after.ends_at, channel, at)


@transaction.atomic
def keep(operator: Operator, key: Key, *, channel: str, at: dt.datetime) -> PlanReceipt:
    """Let a plan go on after all, as it is: a cancellation and a change to come are taken back.

    Raises NotFound, lifecycle.SubscriptionEnded, lifecycle.PlanHeld.
    """
    before = _hold(key)
    # After a trial there is always another, and a pause ends by resuming.
    waits = before.next_plan if before.plan.trial_days is None else None
    code = before.plan.code if waits is not None and before.paused_plan_id is None else None
    after = lifecycle.change(*key, at=at, cancel_at_period_end=False, plan_code=code)
    if before.ends_at is None and code is None and (known := _last(key, Kind.KEPT)):
        return known
    # A newer version of the plan, where there is one by now.
    to = after.next_plan if code is not None else None
    return _write(operator, key, Kind.KEPT, before.plan, to, at, channel, at)


@transaction.atomic
def change(
    operator: Operator, key: Key, plan_code: str, *, channel: str, at: dt.datetime
) -> PlanReceipt:
    """Let another plan go on from the next period. Raises what `lifecycle.change` does."""
    before = _hold(key)
    after = lifecycle.change(*key, at=at, plan_code=plan_code)
    to = after.next_plan or after.plan
    same = before.next_plan is not None and before.next_plan.pk == to.pk
    if same and (known := _last(key, Kind.CHANGED)):
        return known
    since = _next_start(after, at)
    return _write(operator, key, Kind.CHANGED, before.plan, to, since, channel, at)


@transaction.atomic
def upgrade(
    operator: Operator, key: Key, plan_code: str, *, channel: str, at: dt.datetime
) -> PlanReceipt:
    """Let a dearer plan hold from now on. Raises what `lifecycle.upgrade` does."""
    before = _hold(key)
    after = lifecycle.upgrade(*key, plan_code, at=at)
    if after.plan.pk == before.plan.pk and (known := _last(key, Kind.UPGRADED)):
        return known
    return _write(operator, key, Kind.UPGRADED, before.plan, after.plan, at, channel, at)


@transaction.atomic
def pause(operator: Operator, key: Key, *, channel: str, at: dt.datetime) -> PlanReceipt:
    """Keep a plan under its pause plan from the next period on. Raises what `lifecycle.pause`
    does."""
    before = _hold(key)
    after = lifecycle.pause(*key, at=at)
    if before.paused_plan_id is not None and (known := _last(key, Kind.PAUSED)):
        return known
    to = after.next_plan or after.plan
    since = _next_start(after, at)
    return _write(operator, key, Kind.PAUSED, before.plan, to, since, channel, at)


@transaction.atomic
def resume(operator: Operator, key: Key, *, channel: str, at: dt.datetime) -> PlanReceipt:
    """End a pause, at once or before it has begun. Raises what `lifecycle.resume` does."""
    before = _hold(key)
    after = lifecycle.resume(*key, at=at)
    if before.paused_plan_id is None and (known := _last(key, Kind.RESUMED)):
        return known
    return _write(operator, key, Kind.RESUMED, before.plan, after.plan, at, channel, at)


def find(operator: Operator, subscriber_id: int, number: str) -> PlanReceipt:
    """A receipt of this subscriber's. Raises NotFound, also for another's."""
    found = None
    if keeping.NUMBER.fullmatch(number):
        rows = PlanReceipt.objects.filter(operator=operator, subscriber_id=subscriber_id)
        found = rows.filter(number=number).select_related("plan", "to_plan").first()
    if found is None:
        raise NotFound("the subscriber has no such receipt")
    return found


def latest(subscriber_id: int, *, limit: int) -> list[PlanReceipt]:
    """A subscriber's receipts, the latest first."""
    rows = PlanReceipt.objects.filter(subscriber_id=subscriber_id)
    return list(rows.select_related("plan", "to_plan").order_by("-id")[:limit])


def _hold(key: Key) -> Subscription:
    """A subscription as it is, its subscriber locked: two clicks at once are one after the other.
    Raises NotFound."""
    keeping.lock_subscriber(key[0])
    rows = Subscription.objects.select_related("plan", "next_plan")
    found = rows.filter(subscriber_id=key[0], id=key[1]).first()
    if found is None:
        raise NotFound("the subscriber has no such subscription")
    return found


def _next_start(subscription: Subscription, at: dt.datetime) -> dt.datetime:
    """From when on what is to come holds: the next period's start, or its own where it has not
    begun."""
    if subscription.starts_at > at:
        return subscription.starts_at
    return lifecycle.period_end(subscription, at)


def _last(key: Key, kind: str) -> PlanReceipt | None:
    rows = PlanReceipt.objects.filter(subscriber_id=key[0], subscription_id=key[1], kind=kind)
    return rows.order_by("-id").first()


def _write(
    operator: Operator,
    key: Key,
    kind: str,
    plan: Plan,
    to_plan: Plan | None,
    holds_from: dt.datetime,
    channel: str,
    at: dt.datetime,
) -> PlanReceipt:
    with connection.cursor() as cursor:
        cursor.execute("SELECT nextval('billing_planreceipt_id')")
        [(receipt_id,)] = cursor.fetchall()
    return PlanReceipt.objects.create(
        subscriber_id=key[0],
        id=receipt_id,
        operator=operator,
        number=f"{invoicing.number_prefix(operator)}-P-{receipt_id:010}",
        kind=kind,
        subscription_id=key[1],
        plan=plan,
        to_plan=to_plan,
        holds_from=holds_from,
        channel=channel,
        at=at,
    )
