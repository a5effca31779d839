"""Subscriptions from sale to end: the only writer of Subscription, SubscriptionPeriod, Suspension,
Upgrade and Ending.

A subscription's periods follow each other without a gap. A period is opened ahead of its first
second, with the buckets it brings, so that usage never waits for a job; at its first second it is
turned: what the period before left over is moved into it, and another plan takes over.

Everything here joins the caller's transaction or makes one, may be repeated, and locks in one
order: subscriber rows by id (sales and changes only), subscription rows by (shard, subscriber,
id), then buckets.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any
from zoneinfo import ZoneInfo

from django.db import connection, transaction
from django.db.models import F, Q, QuerySet

from subscriptions import (
    buckets,
    catalog,
    ceilings,
    demands,
    expected,
    outbox,
    periods,
    pgarrays,
    spending,
)
from subscriptions.ceilings import Said
from subscriptions.errors import Conflict, Invalid, NotFound
from subscriptions.models import (
    Booster,
    Bucket,
    Ending,
    ExpectedPeriod,
    Operator,
    Plan,
    Subscriber,
    Subscription,
    SubscriptionPeriod,
    Suspension,
    Upgrade,
)
from subscriptions.pgarrays import Instants, Int8s, OptionalInstants
from subscriptions.safety import minors
from subscriptions.sharding import shard_of

# How long before its first second a period is opened: time for a broken job to be mended.
LEAD = dt.timedelta(hours=12)
_METER = Plan.OnExhaustion.METER
# How far from now a subscription may be sold.
SALE_WINDOW = dt.timedelta(days=400)
# Within how many days of its first second a period nobody has used is refunded whole.
REFUND_DAYS = 7
_MICROSECOND = dt.timedelta(microseconds=1)

Key = tuple[int, int]  # (subscriber id, subscription id)
PeriodKey = tuple[int, int, dt.datetime]  # … and the period's start


class PlanHeld(Conflict):
    cause = "plan_held"


class SubscriptionEnded(Conflict):
    cause = "subscription_ended"


class NotBegun(Conflict):
    cause = "subscription_not_begun"


class SubscriberMerged(Conflict):
    cause = "subscriber_merged"


class TrialUsed(Conflict):
    cause = "trial_used"


class PeriodUnpaid(Conflict):
    cause = "period_unpaid"


class PeriodGone(Conflict):
    cause = "period_gone"


class NotPausable(Conflict):
    cause = "not_pausable"


class NotAnUpgrade(Invalid):
    cause = "not_an_upgrade"


# Selling -----------------------------------------------------------------------------------------


@transaction.atomic
def subscribe(
    operator: Operator,
    subscriber_id: int,
    plan_code: str,
    *,
    at: dt.datetime,
    starts_at: dt.datetime | None = None,
) -> Subscription:
    """Sell the newest version of a plan from `starts_at` (default: `at`) on, and open what is due.

    A plan with `first_month` `next` begins at the month's end, whatever `starts_at` says.
    Raises UnknownPlan, Invalid for a start more than 400 days away, PlanHeld where the subscriber
    holds a plan at that time or later, TrialUsed.
    """
    start = at if starts_at is None else starts_at
    if not at - SALE_WINDOW <= start <= at + SALE_WINDOW:
        raise Invalid("starts_at may lie at most 400 days back or ahead")
    plan = catalog.plan_on_sale(operator.pk, plan_code)
    minors.check_order(subscriber_id, plan.price.amount)
    return subscribe_to(operator, subscriber_id, plan, at=at, starts_at=start)


@transaction.atomic
def subscribe_to(
    operator: Operator, subscriber_id: int, plan: Plan, *, at: dt.datetime, starts_at: dt.datetime
) -> Subscription:
    """Sell one version of a plan, whatever the newest is. Raises PlanHeld, TrialUsed,
    SubscriberMerged."""
    _lock_subscribers([subscriber_id])
    check_open(subscriber_id)
    start = first_start(operator, plan, starts_at)
    if _overlapping([subscriber_id], since=start).exists():
        raise PlanHeld("the subscriber holds a plan at that time; change or cancel that one")
    if plan.trial_days is not None and plan.code in trials_had([subscriber_id])[subscriber_id]:
        raise TrialUsed(f"the subscriber has had the trial {plan.code}")
    [subscription_id] = _insert(operator, [(subscriber_id, plan, start)], at=at)
    return _get((subscriber_id, subscription_id))


@transaction.atomic
def subscribe_many(
    operator: Operator, sales: Iterable[tuple[int, Plan]], *, at: dt.datetime
) -> None:
    """Sell plans to subscribers (by id) that hold none, all from `at` on.

    The caller has asked `held_plans` while nobody else could sell; the exclusion constraint has
    the last word.
    """
    _insert(
        operator,
        sorted((subscriber, plan, first_start(operator, plan, at)) for subscriber, plan in sales),
        at=at,
    )


def held_plans(subscriber_ids: Sequence[int], *, since: dt.datetime) -> dict[int, set[str]]:
    """The codes of the plans each subscriber holds at `since` or later, changes to come too.

    Locks the subscribers against other sales until the transaction ends.
    """
    _lock_subscribers(subscriber_ids)
    held: dict[int, set[str]] = defaultdict(set)
    rows = _overlapping(subscriber_ids, since=since).values_list(
        "subscriber_id", "plan__code", "next_plan__code"
    )
    for subscriber_id, *codes in rows:
        held[subscriber_id].update(code for code in codes if code)
    return held


def trials_had(subscriber_ids: Sequence[int]) -> dict[int, set[str]]:
    """The codes of the trial plans each subscriber has had or has begun."""
    had: dict[int, set[str]] = defaultdict(set)
    rows = SubscriptionPeriod.objects.filter(
        subscriber_id__among=subscriber_ids, plan__trial_days__isnull=False
    ).values_list("subscriber_id", "plan__code")
    for subscriber_id, code in rows:
        had[subscriber_id].add(code)
    return had


def _overlapping(subscriber_ids: Sequence[int], *, since: dt.datetime) -> QuerySet[Subscription]:
    """Subscriptions that an open-ended one from `since` on would overlap."""
    return (
        Subscription.objects.filter(subscriber_id__among=subscriber_ids)
        .filter(Q(ends_at__isnull=True) | Q(ends_at__gt=since))
        .exclude(ends_at=F("starts_at"))
    )


def first_start(operator: Operator, plan: Plan, starts_at: dt.datetime) -> dt.datetime:
    """When a plan begins that is sold for `starts_at`."""
    zone = ZoneInfo(operator.time_zone)
    return periods.first_start(plan.cycle, plan.first_month, starts_at, zone)


_INSERT_SQL = """
INSERT INTO subscriptions_subscription
    (subscriber_id, id, operator_id, plan_id, next_plan_id, starts_at, opened_until, anchor_day,
     reopenings, created_at)
SELECT s.subscriber_id, nextval('subscriptions_subscription_id'), %s, s.plan_id, s.next_plan_id,
       s.starts_at, s.starts_at, s.anchor_day, 0, %s
FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::timestamptz[], %s::smallint[])
     AS s (subscriber_id, plan_id, next_plan_id, starts_at, anchor_day)
ORDER BY s.subscriber_id
RETURNING subscriber_id, id
"""


def _insert(
    operator: Operator, sales: Sequence[tuple[int, Plan, dt.datetime]], *, at: dt.datetime
) -> list[int]:
    """Make the subscriptions, sorted by subscriber, and open what is due; answers their ids."""
    if not sales:
        return []
    zone = ZoneInfo(operator.time_zone)
    next_plans = {plan.pk: _converted(plan) for _, plan, _ in sales}
    with connection.cursor() as cursor:
        cursor.execute(
            _INSERT_SQL,
            [
                operator.pk,
                at,
                [subscriber_id for subscriber_id, _, _ in sales],
                [plan.pk for _, plan, _ in sales],
                [after.pk if (after := next_plans[plan.pk]) else None for _, plan, _ in sales],
                [start for _, _, start in sales],
                [periods.anchor_day(start, zone) for _, _, start in sales],
            ],
        )
        keys: list[tuple[int, int]] = sorted(cursor.fetchall())
    _bring_up(keys, at=at, before=at + LEAD)
    return [subscription_id for _, subscription_id in keys]


def _converted(plan: Plan) -> Plan | None:
    """The plan that goes on after a trial; None where it is no trial."""
    if plan.trial_days is None:
        return None
    return catalog.newest_plan(plan.operator_id, plan.converts_to)


def _lock_subscribers(subscriber_ids: Sequence[int]) -> None:
    """Keep others from selling to or changing these subscribers until the transaction ends."""
    list(
        Subscriber.objects.filter(pk__among=subscriber_ids)
        .order_by("pk")
        .select_for_update(no_key=True)
        .values_list("pk")
    )


def check_open(subscriber_id: int) -> None:
    """Raises SubscriberMerged for one who has become another: it buys nothing any more."""
    merged = Subscriber.objects.filter(pk=subscriber_id, merged_into__isnull=False)
    into = merged.values_list("merged_into__external_id", flat=True).first()
    if into is not None:
        raise SubscriberMerged(f"the subscriber was merged into {into}")


# Changing ----------------------------------------------------------------------------------------


@transaction.atomic
def change(
    subscriber_id: int,
    subscription_id: int,
    *,
    at: dt.datetime,
    plan_code: str | None = None,
    cancel_at_period_end: bool | None = None,
) -> Subscription:
    """Change a subscription from its next period on: its plan, whether it goes on, or both.

    The plan named is taken in its newest version; naming the one held now takes a change back.
    A subscription that has not begun gets the plan at once, or ends before it begins. Periods
    opened ahead are withdrawn and opened again as they are to be now. Raises NotFound,
    UnknownPlan, SubscriptionEnded, PlanHeld (it can no longer go on: another follows it), Invalid
    for a trial, NotPausable while it is paused.
    """
    key = (subscriber_id, subscription_id)
    subscription = _hold(key, at=at)
    begun, old = subscription.starts_at <= at, subscription.plan
    before = (subscription.plan_id, subscription.next_plan_id, subscription.ends_at)

    if cancel_at_period_end is not None:
        ends_at = None
        if cancel_at_period_end:
            ends_at = period_end(subscription, at) if begun else subscription.starts_at
        elif (
            _overlapping([subscriber_id], since=subscription.starts_at)
            .exclude(subscriber_id=subscriber_id, id=subscription_id)
            .exists()
        ):
            raise PlanHeld("the subscriber holds another plan from the end of this one on")
        subscription.ends_at = ends_at
    if plan_code is not None:
        plan = catalog.plan_on_sale(subscription.operator_id, plan_code)
        if subscription.paused_plan is not None:
            raise NotPausable("the subscription is paused: resume it first")
        if plan.price.amount > subscription.plan.price.amount:
            minors.check_order(subscriber_id, plan.price.amount)
        if not begun:
            subscription.plan, subscription.next_plan = plan, _converted(plan)
        elif plan.pk == subscription.plan_id:
            subscription.next_plan = _converted(plan)
        elif plan.trial_days is not None:
            raise Invalid(f"{plan_code} is a trial: it is how a subscription begins")
        else:
            subscription.next_plan = plan
    if before != (subscription.plan_id, subscription.next_plan_id, subscription.ends_at):
        _take_back(subscription, at=at)
    if before[:2] != (subscription.plan_id, subscription.next_plan_id):
        to_come = subscription.next_plan or subscription.plan
        since = period_end(subscription, at) if begun else subscription.starts_at
        _tell_change(subscription, old, to_come, since=since, at=at)
    _bring_up([key], at=at, before=at + LEAD)
    return _get(key)


def hold(
    subscriber_id: int, subscription_id: int, *, at: dt.datetime
) -> tuple[Subscription, dt.datetime]:
    """A subscription under lock, and the start of the period that runs at `at`, or of its first.

    Joins the caller's transaction. Raises NotFound, SubscriptionEnded.
    """
    subscription = _hold((subscriber_id, subscription_id), at=at)
    if at < subscription.starts_at:
        return subscription, subscription.starts_at
    return subscription, _period_at(subscription, at).starts_at


def _hold(key: tuple[int, int], *, at: dt.datetime) -> Subscription:
    """A subscription under lock, brought up to `at`. Raises NotFound, SubscriptionEnded."""
    subscriber_id, subscription_id = key
    _lock_subscribers([subscriber_id])
    if not Subscription.objects.filter(subscriber_id=subscriber_id, id=subscription_id).exists():
        raise NotFound("the subscriber has no such subscription")
    _bring_up([key], at=at, before=at + _MICROSECOND)
    subscription = _get(key)
    if subscription.ends_at is not None and subscription.ends_at <= at:
        raise SubscriptionEnded("the subscription has ended; sell a new one")
    return subscription


def _get(key: tuple[int, int]) -> Subscription:
    subscriber_id, subscription_id = key
    return Subscription.objects.select_related("plan", "next_plan", "paused_plan").get(
        subscriber_id=subscriber_id, id=subscription_id
    )


def period_end(subscription: Subscription, at: dt.datetime) -> dt.datetime:
    """The end of the period that runs at `at`."""
    return _period_at(subscription, at).ends_at


def _period_at(subscription: Subscription, at: dt.datetime) -> SubscriptionPeriod:
    return SubscriptionPeriod.objects.get(
        subscriber_id=subscription.subscriber_id,
        subscription_id=subscription.id,
        starts_at__lte=at,
        ends_at__gt=at,
    )


def _take_back(subscription: Subscription, *, at: dt.datetime) -> None:
    """Save a change, and withdraw the periods that were opened ahead without knowing of it.

    What usage up to five minutes ahead of the clock has drawn from them stays drawn.
    """
    ahead = SubscriptionPeriod.objects.filter(
        subscriber_id=subscription.subscriber_id,
        subscription_id=subscription.id,
        starts_at__gt=at,
    )
    first = ahead.order_by("starts_at").first()
    if first is not None:
        granted = Bucket.objects.filter(
            subscriber_id=subscription.subscriber_id,
            subscription_id=subscription.id,
            kind__in=[Bucket.Kind.ALLOWANCE, Bucket.Kind.OVERAGE],
            valid_from__gte=first.starts_at,
        )
        bucket_ids = list(granted.values_list("id", flat=True))
        buckets.withdraw(subscription.subscriber_id, bucket_ids, at=at)
        ahead.delete()
        subscription.opened_until = first.starts_at
        subscription.reopenings += 1
    expected.look_again(
        subscription.subscriber_id, subscription.id, since=subscription.opened_until
    )
    fields = ["plan", "next_plan", "paused_plan", "ends_at", "opened_until", "reopenings"]
    subscription.save(update_fields=fields)
    buckets.forget([subscription.subscriber_id])


# In the middle of a period -----------------------------------------------------------------------


@transaction.atomic
def upgrade(
    subscriber_id: int, subscription_id: int, plan_code: str, *, at: dt.datetime
) -> Subscription:
    """Let a dearer plan, in its newest version, hold from `at` on.

    The period that runs goes on to its end with its buckets, and owes the fee of the plan it was
    opened with. Beside them comes an allowance for the days left, of what the plans differ by; what
    happens when all is used up, weights, windows and limits are the new plan's. A change that was
    to come is replaced; a cancellation stays. What is left at the period's end is forfeited, as
    with any change of plan.

    The plan held already changes nothing. Raises NotFound, UnknownPlan, SubscriptionEnded,
    NotBegun, NotAnUpgrade for a plan that costs or brings less, PeriodUnpaid.
    """
    subscription = _hold((subscriber_id, subscription_id), at=at)
    if subscription.paused_plan is not None:
        raise NotPausable("the subscription is paused: resume it first")
    new = catalog.plan_on_sale(subscription.operator_id, plan_code)
    if new.trial_days is not None:
        raise NotAnUpgrade(f"{plan_code} is a trial: it is how a subscription begins")
    if new.pk == subscription.plan_id:
        return subscription
    minors.check_order(subscriber_id, new.price.amount - subscription.plan.price.amount)
    return _upgrade_to(subscription, new, at=at)


def _upgrade_to(subscription: Subscription, new: Plan, *, at: dt.datetime) -> Subscription:
    """Let a dearer plan version hold from `at` on, in the transaction that holds the lock."""
    subscriber_id, subscription_id = subscription.subscriber_id, subscription.id
    old = subscription.plan
    if at < subscription.starts_at:
        raise NotBegun("the subscription has not begun; change its plan without `when`")
    if new.price.currency != old.price.currency:
        raise NotAnUpgrade(f"{new.code} is sold in {new.price.currency}, not {old.price.currency}")
    if new.price.amount < old.price.amount or new.allowance < old.allowance:
        raise NotAnUpgrade(
            f"{new.code} costs or brings less than {old.code}; change to it at the next period"
        )
    period = _period_at(subscription, at)
    if ExpectedPeriod.objects.filter(
        subscriber_id=subscriber_id,
        subscription_id=subscription_id,
        starts_at=period.starts_at,
        paid_at__isnull=True,
    ).exists():
        raise PeriodUnpaid(
            "the period that runs is not paid; pay it first, or change from the next"
        )
    zone = ZoneInfo(subscription.operator.time_zone)
    days = min(periods.days_left(at, period.ends_at, zone), Upgrade.DAYS)
    units = periods.prorate(new.allowance - old.allowance, days, Upgrade.DAYS)
    before = Upgrade.objects.filter(subscriber_id=subscriber_id, subscription_id=subscription_id)
    row = Upgrade.objects.create(
        subscriber_id=subscriber_id,
        subscription_id=subscription_id,
        nr=before.count() + 1,
        operator_id=subscription.operator_id,
        at=at,
        period_start=period.starts_at,
        period_end=period.ends_at,
        old_plan=old,
        new_plan=new,
        days=days,
        units=units,
    )
    subscription.plan, subscription.next_plan = new, None
    _take_back(subscription, at=at)
    _cut_overflow(subscription, period, at=at)
    spending.settle(subscriber_id, at=at)
    buckets.grant(list(_upgrade_grants(row, ceilings.said_by([subscriber_id]))), at=at)
    buckets.forget([subscriber_id])
    key = (subscriber_id, subscription_id)
    _bring_up([key], at=at, before=at + LEAD)
    _tell_change(subscription, old, new, since=at, at=at)
    return _get(key)


def _upgrade_grants(row: Upgrade, said: Mapping[int, Said]) -> Iterator[buckets.Grant]:
    """The allowance of an upgrade, and the overage bucket that costs the new plan's price."""
    policy = ceilings.policy_of(row.new_plan.pk, said[row.subscriber_id], row.period_start)
    after = demands.Period(row.period_start, row.period_end, row.subscription_id, policy, row.at)
    wanted: list[tuple[str, int | None, str]] = []
    if row.units:
        key = f"upgrade:{row.subscription_id}:{row.nr}"
        wanted.append((Bucket.Kind.ALLOWANCE, row.units, key))
    if row.new_plan.on_exhaustion == Plan.OnExhaustion.METER:
        key = demands.overflow_key("overage", after)
        wanted.append((Bucket.Kind.OVERAGE, policy.overage_units, key))
    for kind, units, key in wanted:
        yield buckets.Grant(
            subscriber_id=row.subscriber_id,
            kind=kind,
            units=units,
            valid_from=row.at,
            valid_until=row.period_end,
            grant_key=key,
            subscription_id=row.subscription_id,
        )


def _cut_overflow(
    subscription: Subscription, period: SubscriptionPeriod, *, at: dt.datetime
) -> None:
    """Let what usage overflows into at one plan's price pay for nothing after `at`."""
    overflow = Bucket.objects.filter(
        subscriber_id=subscription.subscriber_id,
        subscription_id=subscription.id,
        kind__in=[Bucket.Kind.OVERAGE, Bucket.Kind.UNCOVERED],
        valid_from__lt=period.ends_at,
        valid_until__gt=at,
    )
    buckets.cut(subscription.subscriber_id, list(overflow.values_list("id", flat=True)), at=at)


@transaction.atomic
def end_now(
    subscriber_id: int, subscription_id: int, *, at: dt.datetime, reason: str, refund: bool
) -> Subscription:
    """End a subscription at `at`, in the middle of its period.

    What its allowances and rollover have left is withdrawn. An Ending keeps what the refund is
    computed from; without `refund`, or where the plan gives none, nothing is owed back. One that
    has not begun ends before it begins, without an Ending. Raises NotFound, SubscriptionEnded.
    """
    key = (subscriber_id, subscription_id)
    subscription = _hold(key, at=at)
    if at < subscription.starts_at:
        return change(subscriber_id, subscription_id, at=at, cancel_at_period_end=True)
    period = _period_at(subscription, at)
    subscription.ends_at, subscription.next_plan = at, None
    _take_back(subscription, at=at)
    expected.look_again(subscriber_id, subscription_id, since=period.starts_at)
    held = list(_own_buckets(key, at=at).select_for_update(no_key=True))
    granted, unused = _granted_and_unused(held)
    Ending.objects.create(
        subscriber_id=subscriber_id,
        subscription_id=subscription_id,
        operator_id=subscription.operator_id,
        at=at,
        plan=subscription.plan,
        period_start=period.starts_at,
        period_end=period.ends_at,
        granted=granted,
        unused=unused,
        refund=_refund(subscription.plan, period, granted, unused, at=at)
        if refund
        else Ending.Refund.NONE,
        reason=reason,
    )
    _cut_overflow(subscription, period, at=at)
    ids = [bucket.id for bucket in held]
    buckets.withdraw(subscriber_id, ids, at=at)
    buckets.cut(subscriber_id, ids, at=at)
    # A period has an instant at least, also where a standing clock lets it begin and end at once.
    period_end = max(at, period.starts_at + _MICROSECOND)
    SubscriptionPeriod.objects.filter(
        subscriber_id=subscriber_id,
        subscription_id=subscription_id,
        starts_at=period.starts_at,
    ).update(ends_at=period_end)
    Subscription.objects.filter(subscriber_id=subscriber_id, id=subscription_id).update(
        opened_until=period_end
    )
    buckets.forget([subscriber_id])
    plan, number = subscription.plan.code, str(subscription_id)
    _tell(subscriber_id, "subscription.ended", at=at, subscription=number, plan=plan)
    return _get(key)


def _own_buckets(key: Key, *, at: dt.datetime) -> QuerySet[Bucket]:
    """What a subscription's period has brought it and could still burn at `at`."""
    subscriber_id, subscription_id = key
    return Bucket.objects.filter(
        subscriber_id=subscriber_id,
        subscription_id=subscription_id,
        kind__in=[Bucket.Kind.ALLOWANCE, Bucket.Kind.ROLLOVER],
        valid_from__lte=at,
        valid_until__gt=at,
    ).order_by("subscriber_id", "id")


def _granted_and_unused(held: Iterable[Bucket]) -> tuple[int, int]:
    """Of the allowances among them."""
    allowances = [b for b in held if b.kind == Bucket.Kind.ALLOWANCE and b.granted is not None]
    granted = sum(b.granted or 0 for b in allowances)
    return granted, sum((b.granted or 0) - b.used - b.reserved for b in allowances)


@dataclass(frozen=True, slots=True)
class GivenBack:
    """What share of its price a period would give back: all of it, `unused` of `granted`, or none
    (`refund`, as an Ending says it)."""

    refund: str
    granted: int = 0
    unused: int = 0


def given_back_now(key: PeriodKey, *, at: dt.datetime, locked: bool = False) -> GivenBack:
    """What `end_now` with a refund would say at `at` of this period; all of it where the
    subscription has not begun, nothing where another period runs by now. Changes nothing;
    `locked`: in the caller's transaction nothing of it is burned any more."""
    subscription = _get(key[:2])
    if at < subscription.starts_at:
        return GivenBack(Ending.Refund.FULL)
    period = SubscriptionPeriod.objects.filter(
        subscriber_id=key[0], subscription_id=key[1], starts_at=key[2]
    ).first()
    ended = subscription.ends_at is not None and subscription.ends_at <= at
    if ended or period is None or not period.starts_at <= at < period.ends_at:
        return GivenBack(Ending.Refund.NONE)
    held = _own_buckets(key[:2], at=at)
    granted, unused = _granted_and_unused(held.select_for_update(no_key=True) if locked else held)
    return GivenBack(_refund(subscription.plan, period, granted, unused, at=at), granted, unused)


def _refund(
    plan: Plan, period: SubscriptionPeriod, granted: int, unused: int, *, at: dt.datetime
) -> str:
    """Which share of what the period cost the plan gives back."""
    if plan.refund == Plan.Refund.NONE or not unused:
        return Ending.Refund.NONE
    early = at < period.starts_at + dt.timedelta(days=REFUND_DAYS)
    return Ending.Refund.FULL if early and unused == granted else Ending.Refund.UNUSED


# Pausing (停机保号) -----------------------------------------------------------------------------


@transaction.atomic
def pause(subscriber_id: int, subscription_id: int, *, at: dt.datetime) -> Subscription:
    """Keep a subscription under its plan's `pause_plan` from the next period on.

    The period that runs goes on to its end. Again changes nothing. Raises NotFound,
    SubscriptionEnded, NotBegun, NotPausable (a plan that cannot be paused, or one that ends).
    """
    key = (subscriber_id, subscription_id)
    subscription = _hold(key, at=at)
    if subscription.paused_plan is not None:
        return subscription
    if at < subscription.starts_at:
        raise NotBegun("the subscription has not begun; cancel it and sell it again later")
    if not subscription.plan.pause_plan:
        raise NotPausable(f"plan {subscription.plan.code} names no pause_plan")
    if subscription.ends_at is not None:
        raise NotPausable("the subscription ends with its period; take the cancellation back first")
    subscription.paused_plan = subscription.plan
    subscription.next_plan = catalog.newest_plan(
        subscription.operator_id, subscription.plan.pause_plan
    )
    _take_back(subscription, at=at)
    _bring_up([key], at=at, before=at + LEAD)
    return _get(key)


@transaction.atomic
def resume(subscriber_id: int, subscription_id: int, *, at: dt.datetime) -> Subscription:
    """End a pause: at once, as an upgrade from the pause plan, or before it has begun.

    The version held before goes on. Where nothing is paused, nothing happens. Raises NotFound,
    SubscriptionEnded.
    """
    key = (subscriber_id, subscription_id)
    subscription = _hold(key, at=at)
    kept = subscription.paused_plan
    if kept is None:
        return subscription
    subscription.paused_plan = None
    if not subscription.plan.suspends:
        subscription.next_plan = None
        _take_back(subscription, at=at)
        _bring_up([key], at=at, before=at + LEAD)
        return _get(key)
    return _upgrade_to(subscription, kept, at=at)


# What changed, for who rates it ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Changes:
    """What was changed within periods, by (subscriber, subscription, start)."""

    upgrades: dict[PeriodKey, list[Upgrade]]
    endings: dict[PeriodKey, Ending]


def changes_of(keys: Sequence[PeriodKey]) -> Changes:
    """The upgrades, earliest first, and the ending of each of these periods."""
    wanted = set(keys)
    subscriber_ids = sorted({key[0] for key in wanted})
    upgrades: dict[PeriodKey, list[Upgrade]] = defaultdict(list)
    rows = Upgrade.objects.filter(subscriber_id__among=subscriber_ids).order_by("nr")
    for upgrade in rows:
        key = (upgrade.subscriber_id, upgrade.subscription_id, upgrade.period_start)
        if key in wanted:
            upgrades[key].append(upgrade)
    endings = {}
    for ending in Ending.objects.filter(subscriber_id__among=subscriber_ids):
        key = (ending.subscriber_id, ending.subscription_id, ending.period_start)
        if key in wanted:
            endings[key] = ending
    return Changes(upgrades, endings)


@transaction.atomic
def terminate(subscriber_id: int, *, reason: str, at: dt.datetime) -> int:
    """End all that a subscriber holds, for good and without a refund; answers how many ended.

    Boosters and gifts stay its own. A suspension goes on. Again changes nothing.
    """
    _lock_subscribers([subscriber_id])
    held = list(
        Subscription.objects.filter(subscriber_id=subscriber_id)
        .filter(Q(ends_at__isnull=True) | Q(ends_at__gt=at))
        .exclude(ends_at=F("starts_at"))
        .order_by("id")
        .values_list("id", flat=True)
    )
    for subscription_id in held:
        end_now(subscriber_id, subscription_id, at=at, reason=reason, refund=False)
    return len(held)


# Paying before the period ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Prospect:
    """What a period is, or will be: the plan version whose price it has, and its end."""

    plan_id: int
    ends_at: dt.datetime
    first: bool  # of its subscription


def has_plans_paid_before(operator_id: int) -> bool:
    """Whether an operator sells plans that are paid before the period."""
    return Plan.objects.filter(operator_id=operator_id, collect=Plan.Collect.BEFORE_PERIOD).exists()


# Where a chunk ends, of all that are opened until then. The statement after it reads what lies
# between two places, so that a chunk costs the same however many there are.
_PLACE_SQL = """
SELECT s.opened_until, s.subscriber_id, s.id
FROM subscriptions_subscription s
WHERE s.operator_id = %s AND s.opened_until <= %s
  AND (s.opened_until, s.subscriber_id, s.id) > (%s, %s, %s)
  AND (s.ends_at IS NULL OR s.ends_at > s.opened_until)
ORDER BY s.opened_until, s.subscriber_id, s.id
OFFSET %s LIMIT 1
"""
# The next period of each, before it is opened; who is being changed is found by the next look.
_AHEAD_SQL = """
SELECT s.subscriber_id, s.id, s.opened_until, s.operator_id, p.id
FROM subscriptions_subscription s
JOIN subscriptions_plan p
  ON p.id = CASE WHEN s.opened_until > s.starts_at THEN coalesce(s.next_plan_id, s.plan_id)
                 ELSE s.plan_id END
 AND p.collect = 'before_period' AND p.price > 0
WHERE s.operator_id = %s
  AND (s.opened_until, s.subscriber_id, s.id) > (%s, %s, %s)
  AND (s.opened_until, s.subscriber_id, s.id) <= (%s, %s, %s)
  AND (s.ends_at IS NULL OR s.ends_at > s.opened_until)
  AND NOT EXISTS (
      SELECT FROM subscriptions_expectedperiod e
      WHERE e.subscriber_id = s.subscriber_id AND e.subscription_id = s.id
        AND e.starts_at = s.opened_until AND e.plan_id = p.id)
ORDER BY s.subscriber_id, s.id
FOR NO KEY UPDATE OF s SKIP LOCKED
"""
_Place = tuple[dt.datetime, int, int]  # (opened until, subscriber, subscription)
_LAST = 2**63 - 1


def expect_ahead(operator_id: int, *, at: dt.datetime, until: dt.datetime, chunk: int) -> None:
    """Expect periods that begin after `at` and by `until` to be paid; each chunk is a transaction
    of its own."""
    end: _Place = (until, _LAST, _LAST)
    place: _Place = (at, _LAST, _LAST)
    while place < end:
        place = _expect_ahead(operator_id, place, end, chunk=chunk)


@transaction.atomic
def _expect_ahead(operator_id: int, begin: _Place, end: _Place, *, chunk: int) -> _Place:
    """The chunk behind a place; answers where it ends."""
    with connection.cursor() as cursor:
        cursor.execute(_PLACE_SQL, [operator_id, end[0], *begin, chunk - 1])
        last: _Place = cursor.fetchone() or end
        cursor.execute(_AHEAD_SQL, [operator_id, *begin, *last])
        rows = [expected.Expected(*row) for row in cursor.fetchall()]
    expected.expect(rows)
    return last


def lock_periods(keys: Sequence[PeriodKey]) -> dict[PeriodKey, expected.Standing]:
    """Lock subscriptions, and what is expected of these periods, after their subscribers; answers
    what is."""
    with pgarrays.statements() as cursor:
        cursor.execute(_LOCK_SQL, _subscriptions_of(keys))
    return expected.lock_many(keys)


def _subscriptions_of(keys: Iterable[PeriodKey]) -> list[list[int]]:
    """Their keys as columns, in order."""
    return pgarrays.columns(sorted({key[:2] for key in keys}), Int8s, Int8s)


def prospect(key: PeriodKey, *, at: dt.datetime) -> Prospect | None:
    """What a period that is to be paid before is by now; None: it does not come, or costs nothing
    before. Locks its subscription, in the caller's transaction."""
    return prospects([key], at=at).get(key)


def prospects(keys: Sequence[PeriodKey], *, at: dt.datetime) -> dict[PeriodKey, Prospect]:
    """What each of these periods is by now, of those that come and cost something before. Locks
    their subscriptions, in the caller's transaction."""
    return _prospects(keys, _held(_subscriptions_of(keys)), _opened(keys))


def _prospects(
    keys: Sequence[PeriodKey],
    held: Mapping[Key, _Held],
    opened: Mapping[PeriodKey, SubscriptionPeriod],
) -> dict[PeriodKey, Prospect]:
    plans = _plans_of(held.values())
    found = {}
    for key in keys:
        one = held.get(key[:2])
        if one is None:
            continue
        plan = ends_at = None
        if key in opened:
            plan, ends_at = opened[key].plan, opened[key].ends_at
        elif key[2] == one.opened_until:
            # Of a copy, for looking moves it on.
            opening = next(_openings(replace(one), plans, before=key[2] + _MICROSECOND), None)
            if opening is not None:
                plan, ends_at = opening.plan, opening.ends_at
        if plan is not None and ends_at is not None and expected.collects_before(plan):
            found[key] = Prospect(plan.pk, ends_at, first=key[2] == one.starts_at)
    return found


def _opened(keys: Sequence[PeriodKey]) -> dict[PeriodKey, SubscriptionPeriod]:
    """Those of these periods that are opened."""
    rows = SubscriptionPeriod.objects.filter(
        subscriber_id__among={key[0] for key in keys},
        subscription_id__among={key[1] for key in keys},
        starts_at__in={key[2] for key in keys},
    ).select_related("plan")
    return {(row.subscriber_id, row.subscription_id, row.starts_at): row for row in rows}


@transaction.atomic
def pay_period(key: PeriodKey, plan_id: int, *, at: dt.datetime) -> None:
    """Note that a period is paid by the price of a plan version, and grant its allowance: from its
    first second on, or from `at` where that is later, until its end.

    Raises PeriodGone where it does not come, is over or billed, has another plan by now, or is
    paid already.
    """
    refused = pay_periods({key: plan_id}, at=at)
    if refused:
        raise PeriodGone(refused[key])


@transaction.atomic
def pay_periods(wanted: Mapping[PeriodKey, int], *, at: dt.datetime) -> dict[PeriodKey, str]:
    """Pay many periods, each by the price of a plan version; answers why some cannot be: nothing
    has happened to these."""
    keys = sorted(wanted)
    if not keys:
        return {}
    _lock_subscribers(sorted({key[0] for key in keys}))
    as_they_are = _bring_up(sorted({key[:2] for key in keys}), at=at, before=at + _MICROSECOND)
    held = as_they_are or _held(_subscriptions_of(keys))
    opened = _opened(keys)
    to_come = _prospects(keys, held, opened)
    refused: dict[PeriodKey, str] = {}
    for key in keys:
        one = to_come.get(key)
        if one is None or one.plan_id != wanted[key] or one.ends_at <= at:
            refused[key] = "the period does not come, is over, or has another plan by now"
    coming = [key for key in keys if key not in refused]
    known = expected.lock_many(coming)
    new = [key for key in coming if key not in known]
    if new:
        owners = dict(
            Subscriber.objects.filter(pk__among={key[0] for key in new}).values_list(
                "pk", "operator_id"
            )
        )
        expected.expect([expected.Expected(*key, owners[key[0]], wanted[key]) for key in new])
        known |= expected.lock_many(new)
    for key in coming:
        row = known[key]
        if row.paid_at is not None or row.plan_id != wanted[key]:
            refused[key] = "the period is paid already, or has another plan by now"
        elif key in opened and opened[key].closed_at is not None:
            refused[key] = "the period is billed already"
    paid = [key for key in coming if key not in refused]
    expected.paid(paid, at=at)
    openings = [
        _Opening(held[key[:2]], key[2], opened[key].ends_at, opened[key].plan, turned=True)
        for key in paid
        if key in opened
    ]
    times = dict.fromkeys(paid, at)
    allowances = [
        grant
        for opening in openings
        for grant in _grants(opening, times, {})
        if grant.kind == Bucket.Kind.ALLOWANCE
    ]
    if allowances:
        buckets.grant(allowances, at=at)
    return refused


# Suspending --------------------------------------------------------------------------------------


@transaction.atomic
def suspend(subscriber_id: int, *, reason: str, at: dt.datetime, frozen: bool = False) -> None:
    """From `at` on the subscriber's usage draws no bucket of its own. Again changes nothing.

    `frozen`: to protect the subscriber, not for what it owes. It takes the place of a suspension
    that runs for another reason, whose end would lift it otherwise.
    """
    _lock_subscribers([subscriber_id])
    suspensions = Suspension.objects.filter(subscriber_id=subscriber_id)
    running = suspensions.filter(ends_at__isnull=True).first()
    if running is not None:
        if running.frozen or not frozen:
            return
        suspensions.filter(ends_at__isnull=True).update(ends_at=at)
    # Where a standing clock lets one end and begin at the same instant, it is one.
    if not suspensions.filter(starts_at=at).update(ends_at=None, reason=reason, frozen=frozen):
        Suspension.objects.create(
            subscriber_id=subscriber_id, starts_at=at, reason=reason, frozen=frozen
        )
    buckets.forget([subscriber_id])
    _tell(subscriber_id, "subscription.suspended", at=at, frozen=frozen)


@transaction.atomic
def restore(subscriber_id: int, *, at: dt.datetime, reason: str = "", frozen: bool = False) -> None:
    """End the suspension that runs; with a reason, only one that was begun so. Where none does,
    nothing happens."""
    _lock_subscribers([subscriber_id])
    running = Suspension.objects.filter(subscriber_id=subscriber_id, ends_at__isnull=True)
    if reason:
        running = running.filter(reason=reason, frozen=frozen)
    if running.update(ends_at=at):
        _tell(subscriber_id, "subscription.restored", at=at)
    buckets.forget([subscriber_id])


def _tell(subscriber_id: int, kind: str, *, at: dt.datetime, **said: Any) -> None:
    """Let whoever must hear of it hear, once an instant; what is said is JSON."""
    key = f"{kind}:{said.get('subscription', '')}:{at.isoformat()}"
    outbox.tell([outbox.Happening(subscriber_id, kind, key, at, said)])


def _tell_change(
    subscription: Subscription, old: Plan, new: Plan, *, since: dt.datetime, at: dt.datetime
) -> None:
    _tell(
        subscription.subscriber_id,
        "subscription.plan_changed",
        at=at,
        subscription=str(subscription.id),
        old_plan=old.code,
        plan=new.code,
        since=since.isoformat(),
    )


# Boosters and gifts ------------------------------------------------------------------------------


@transaction.atomic
def sell_booster(
    operator: Operator, subscriber_id: int, booster_code: str, *, at: dt.datetime
) -> Bucket:
    """Sell one booster of the newest version; answers its bucket, valid from `at` on.

    The grant key names the version sold, hence its price. Each call is a sale of its own: the
    door makes it repeatable by `Idempotency-Key`. Raises UnknownBooster.
    """
    booster = catalog.newest_booster(operator.pk, booster_code)
    minors.check_order(subscriber_id, booster.price.amount)
    return sell_one(booster, subscriber_id, sale=uuid.uuid4().hex, at=at)


@transaction.atomic
def sell_one(booster: Booster, subscriber_id: int, *, sale: str, at: dt.datetime) -> Bucket:
    """Sell one booster of this version; `sale` names the sale, which is made once."""
    return _grant_one(
        buckets.Grant(
            subscriber_id=subscriber_id,
            kind=Bucket.Kind.BOOSTER,
            units=booster.units,
            valid_from=at,
            valid_until=at + dt.timedelta(days=booster.valid_days),
            grant_key=f"booster:{booster.pk}:{sale}",
            note=booster.name,
        ),
        at=at,
    )


@transaction.atomic
def give(
    subscriber_id: int,
    *,
    units: int,
    valid_until: dt.datetime,
    reason: str,
    at: dt.datetime,
    key: str = "",
) -> Bucket:
    """Give units (thousandths) until `valid_until`; `key` names the gift, which is made once.

    Raises Invalid for an end not after `at`.
    """
    if valid_until <= at:
        raise Invalid("valid_until must lie after the operator's now")
    return _grant_one(
        buckets.Grant(
            subscriber_id=subscriber_id,
            kind=Bucket.Kind.GIFT,
            units=units,
            valid_from=at,
            valid_until=valid_until,
            grant_key=f"gift:{key or uuid.uuid4().hex}",
            note=reason,
        ),
        at=at,
    )


def _grant_one(grant: buckets.Grant, *, at: dt.datetime) -> Bucket:
    [bucket_id] = buckets.grant([grant], at=at)
    return Bucket.objects.get(subscriber_id=grant.subscriber_id, id=bucket_id)


# Opening and turning periods ---------------------------------------------------------------------


def open_due(operator_id: int | None, *, at: dt.datetime, limit: int = 2000) -> int:
    """Open the periods that begin before `at` + LEAD, and turn those that have begun by `at`.

    One chunk of at most `limit` subscriptions of each kind and operator, in transactions of its
    own; answers how many subscriptions it looked after, so call it until that is 0. None stands
    for all operators that live by the wall's time, a test operator is named. Missed periods are
    opened one after the other, each with its own dates.
    """
    if operator_id is None:
        wall = Operator.objects.filter(is_test=False).order_by("pk")
        return sum(open_due(pk, at=at, limit=limit) for pk in wall.values_list("pk", flat=True))
    to_open = (
        Subscription.objects.filter(_not_ended(), operator_id=operator_id)
        .filter(opened_until__lt=at + LEAD)
        .order_by("opened_until")
        .values_list("subscriber_id", "id")[:limit]
    )
    done = _each_shard(set(to_open), lambda keys: _bring_up(keys, at=at, before=at + LEAD))
    # What was opened with the chunk is turned already; this finds what was opened ahead.
    to_turn = (
        SubscriptionPeriod.objects.filter(
            operator_id=operator_id, turned_at__isnull=True, starts_at__lte=at
        )
        .order_by("starts_at")
        .values_list("subscriber_id", "subscription_id")[:limit]
    )
    return done + _each_shard(set(to_turn), lambda keys: _bring_up(keys, at=at, before=at))


def ensure_open(subscriber_ids: Sequence[int], *, at: dt.datetime, until: dt.datetime) -> None:
    """Open every period of these subscribers that begins by `until`, turn those begun by `at`.

    For who finds something due and cannot wait for the job. Cheap where nothing is.
    """
    open_these(due_of(subscriber_ids, at=at, until=until), at=at, until=until)


def due_of(
    subscriber_ids: Sequence[int],
    *,
    at: dt.datetime,
    until: dt.datetime,
    beside: QuerySet[Any, Any] | None = None,
) -> set[Key]:
    """The subscriptions of which `ensure_open` would open or turn a period, in one look; and what
    else is to be known, as pairs of the same kind."""
    to_open = Subscription.objects.filter(
        _not_ended(), subscriber_id__among=subscriber_ids, opened_until__lte=until
    ).values_list("subscriber_id", "id")
    to_turn = SubscriptionPeriod.objects.filter(
        subscriber_id__among=subscriber_ids, turned_at__isnull=True, starts_at__lte=at
    ).values_list("subscriber_id", "subscription_id")
    return set(to_open.union(to_turn, *([] if beside is None else [beside])))


def open_these(due: set[Key], *, at: dt.datetime, until: dt.datetime) -> None:
    """Open or turn these, as `ensure_open` does with what is due."""
    _each_shard(due, lambda keys: _bring_up(keys, at=at, before=until + _MICROSECOND))


_CLOSED_SQL = """
UPDATE subscriptions_subscriptionperiod p SET closed_at = %s
FROM unnest(%s::bigint[], %s::bigint[], %s::timestamptz[])
     AS c (subscriber_id, subscription_id, starts_at)
WHERE p.subscriber_id = c.subscriber_id AND p.subscription_id = c.subscription_id
  AND p.starts_at = c.starts_at AND p.closed_at IS NULL
"""


def mark_closed(periods_billed: Sequence[tuple[int, int, dt.datetime]], *, at: dt.datetime) -> int:
    """Note that these periods (subscriber, subscription, start) are billed; answers how many were
    not before. Joins the caller's transaction, which bills them and holds their rows."""
    assert connection.in_atomic_block
    subscriber_ids, subscription_ids, starts = zip(*periods_billed, strict=True)
    with pgarrays.statements() as cursor:
        cursor.execute(
            _CLOSED_SQL, [at, Int8s(subscriber_ids), Int8s(subscription_ids), Instants(starts)]
        )
        return int(cursor.rowcount)


def _not_ended() -> Q:
    return Q(ends_at__isnull=True) | Q(ends_at__gt=F("opened_until"))


def _each_shard(keys: set[Key], work: Callable[[list[Key]], object]) -> int:
    """Do the work for each shard's subscriptions in a transaction of its own."""
    by_shard = sorted(keys, key=lambda key: (shard_of(key[0]), key))
    for _, group in groupby(by_shard, key=lambda key: shard_of(key[0])):
        with transaction.atomic():
            work(list(group))
    return len(keys)


@dataclass(slots=True)
class _Held:
    """A subscription under lock, with what its next opening must know."""

    subscriber_id: int
    id: int
    operator_id: int
    plan_id: int
    next_plan_id: int | None
    starts_at: dt.datetime
    ends_at: dt.datetime | None
    opened_until: dt.datetime
    anchor_day: int
    reopenings: int
    time_zone: str
    last_plan_id: int | None  # of the last period opened


@dataclass(frozen=True, slots=True)
class _Opening:
    """One period to be opened."""

    held: _Held
    starts_at: dt.datetime
    ends_at: dt.datetime
    plan: Plan
    turned: bool


_LOCK_SQL = """
SELECT 1 FROM unnest(%s::bigint[], %s::bigint[]) AS k (subscriber_id, id)
JOIN subscriptions_subscription s USING (subscriber_id, id)
ORDER BY subscriber_id, id
FOR NO KEY UPDATE OF s
"""
# Read after the lock: a statement sees what was committed before it began, and the lock may have
# waited for another opening of the same subscriptions.
_HELD_SQL = """
SELECT s.subscriber_id, s.id, s.operator_id, s.plan_id, s.next_plan_id, s.starts_at, s.ends_at,
       s.opened_until, s.anchor_day, s.reopenings, o.time_zone, p.plan_id
FROM unnest(%s::bigint[], %s::bigint[]) AS k (subscriber_id, id)
JOIN subscriptions_subscription s USING (subscriber_id, id)
JOIN subscriptions_operator o ON o.id = s.operator_id
LEFT JOIN subscriptions_subscriptionperiod p
  ON p.subscriber_id = s.subscriber_id AND p.subscription_id = s.id
 AND p.ends_at = s.opened_until
ORDER BY s.subscriber_id, s.id
"""


def _bring_up(
    keys: Sequence[Key], *, at: dt.datetime, before: dt.datetime
) -> dict[Key, _Held] | None:
    """Open these subscriptions' periods that begin before `before`, turn those begun by `at`;
    answers what they are, locked, where nothing of that was to be done."""
    assert connection.in_atomic_block
    if not keys:
        return None
    columns = pgarrays.columns(keys, Int8s, Int8s)
    held = _held(columns)
    plans = _plans_of(held.values())
    openings = [opening for h in held.values() for opening in _openings(h, plans, before=before)]
    _store(openings, at=at)
    turned = _turn(columns, at=at)
    return None if openings or turned else held


def _held(columns: Sequence[list[int]]) -> dict[Key, _Held]:
    """These subscriptions as they are, locked."""
    with pgarrays.statements() as cursor:
        cursor.execute(_LOCK_SQL, columns)
        cursor.execute(_HELD_SQL, columns, binary=True)
        return {(row[0], row[1]): _Held(*row) for row in cursor.fetchall()}


def _plans_of(held: Iterable[_Held]) -> dict[int, Plan]:
    """The plans that they have, will have, and had last."""
    return Plan.objects.in_bulk(
        {pk for h in held for pk in (h.plan_id, h.next_plan_id, h.last_plan_id) if pk}
    )


def _openings(held: _Held, plans: dict[int, Plan], *, before: dt.datetime) -> Iterator[_Opening]:
    """The periods a subscription lacks, one after the other; moves `held` on past them."""
    zone = ZoneInfo(held.time_zone)
    last = plans[held.last_plan_id] if held.last_plan_id else None
    while held.opened_until < before and (held.ends_at is None or held.opened_until < held.ends_at):
        start = held.opened_until
        plan = plans[held.next_plan_id if last and held.next_plan_id else held.plan_id]
        if last is not None and (last.cycle != plan.cycle or last.trial_days is not None):
            held.anchor_day = periods.anchor_day(start, zone)
        if plan.trial_days is not None:
            end = periods.trial_end(start, plan.trial_days, zone)
        else:
            end = periods.end_of(plan.cycle, start, held.anchor_day, zone)
        yield _Opening(
            held=held,
            starts_at=start,
            ends_at=end,
            plan=plan,
            turned=last is None or (plan.pk == last.pk and not _rolls_over(last, plan)),
        )
        last, held.opened_until = plan, end


def _rolls_over(old: Plan, new: Plan) -> bool:
    """Whether what is left under `old` goes on under `new`: another plan forfeits it."""
    return old.rollover == Plan.Rollover.ONE_CYCLE and old.code == new.code


_STORE_SQL = """
INSERT INTO subscriptions_subscriptionperiod
    (subscriber_id, subscription_id, operator_id, starts_at, ends_at, plan_id, turned_at)
SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::timestamptz[],
                     %s::timestamptz[], %s::bigint[], %s::timestamptz[])
"""
_OPENED_SQL = """
UPDATE subscriptions_subscription s SET opened_until = o.until, anchor_day = o.anchor_day
FROM unnest(%s::bigint[], %s::bigint[], %s::timestamptz[], %s::bigint[])
     AS o (subscriber_id, id, until, anchor_day)
WHERE s.subscriber_id = o.subscriber_id AND s.id = o.id
"""


def _store(openings: Sequence[_Opening], *, at: dt.datetime) -> None:
    """Write the periods with their buckets, and how far their subscriptions are opened now."""
    if not openings:
        return
    held = {(o.held.subscriber_id, o.held.id): o.held for o in openings}.values()
    with pgarrays.statements() as cursor:
        cursor.execute(
            _STORE_SQL,
            [
                Int8s(o.held.subscriber_id for o in openings),
                Int8s(o.held.id for o in openings),
                Int8s(o.held.operator_id for o in openings),
                Instants(o.starts_at for o in openings),
                Instants(o.ends_at for o in openings),
                Int8s(o.plan.pk for o in openings),
                OptionalInstants(at if o.turned else None for o in openings),
            ],
        )
        cursor.execute(
            _OPENED_SQL,
            [
                Int8s(h.subscriber_id for h in held),
                Int8s(h.id for h in held),
                Instants(h.opened_until for h in held),
                Int8s(h.anchor_day for h in held),
            ],
        )
    before = [
        expected.Expected(
            o.held.subscriber_id, o.held.id, o.starts_at, o.held.operator_id, o.plan.pk
        )
        for o in openings
        if expected.collects_before(o.plan)
    ]
    paid = expected.expect(before)
    # What is remembered of a subscriber ends with the period that it is of: of a later one there is
    # nothing. At a subscription's beginning all is forgotten, as another card weighs from then on,
    # and so it is at a change.
    metered = {o.held.subscriber_id for o in openings if o.plan.on_exhaustion == _METER}
    said = ceilings.said_by(metered) if metered else {}
    grants = [grant for o in openings for grant in _grants(o, paid, said)]
    buckets.grant(grants, at=at, overtakes=False)
    new = {o.held.subscriber_id for o in openings if o.starts_at == o.held.starts_at}
    if new:
        buckets.forget(new)


def _grants(
    opening: _Opening,
    paid: Mapping[PeriodKey, dt.datetime | None],
    said: Mapping[int, Said],
) -> Iterator[buckets.Grant]:
    """The buckets a period brings. A plan with blocks buys its own when usage asks for them. What
    the subscriber `said` limits overage.

    One that is to be `paid` brings its allowance then, and not before its first second.
    """
    held, plan = opening.held, opening.plan
    since: dt.datetime | None = opening.starts_at
    period = (held.subscriber_id, held.id, opening.starts_at)
    if period in paid:
        paid_at = paid[period]
        since = None if paid_at is None else max(opening.starts_at, paid_at)
    key = f"{held.id}:{opening.starts_at.astimezone(dt.UTC).isoformat()}"
    again = f":{held.reopenings}" if held.reopenings else ""
    units = _allowance(plan, opening.starts_at, ZoneInfo(held.time_zone))
    wanted: list[tuple[str, int | None, str, dt.datetime]] = []
    if units and since is not None:
        wanted.append((Bucket.Kind.ALLOWANCE, units, f"allowance:{key}:{plan.pk}{again}", since))
    if plan.on_exhaustion == Plan.OnExhaustion.METER:
        agreed = said.get(held.subscriber_id, Said())
        cap = ceilings.policy_of(plan.pk, agreed, opening.starts_at).overage_units
        wanted.append((Bucket.Kind.OVERAGE, cap, f"overage:{key}{again}", opening.starts_at))
    for kind, units_or_no_limit, grant_key, valid_from in wanted:
        yield buckets.Grant(
            subscriber_id=held.subscriber_id,
            kind=kind,
            units=units_or_no_limit,
            valid_from=valid_from,
            valid_until=opening.ends_at,
            grant_key=grant_key,
            subscription_id=held.id,
        )


def _allowance(plan: Plan, starts_at: dt.datetime, zone: ZoneInfo) -> int:
    """A period's allowance: whole, but for a part of a month of a plan prorated `by_day`."""
    whole: int = plan.allowance
    if plan.cycle != Plan.Cycle.CALENDAR_MONTH or plan.first_month != Plan.FirstMonth.BY_DAY:
        return whole
    return periods.prorate(whole, *periods.days_of_month(starts_at, zone))


_TO_TURN_SQL = """
SELECT p.subscriber_id, p.subscription_id, old.starts_at, p.starts_at, p.ends_at, p.plan_id,
       old.plan_id
FROM unnest(%s::bigint[], %s::bigint[]) AS k (subscriber_id, id)
-- Looked up for each: planned freely, all periods that are to turn would be compared with all keys.
CROSS JOIN LATERAL (
    SELECT * FROM subscriptions_subscriptionperiod p
    WHERE p.subscriber_id = k.subscriber_id AND p.subscription_id = k.id
      AND p.turned_at IS NULL AND p.starts_at <= %s
    OFFSET 0
) p
JOIN subscriptions_subscriptionperiod old
  ON old.subscriber_id = p.subscriber_id AND old.subscription_id = p.subscription_id
 AND old.ends_at = p.starts_at
ORDER BY p.subscriber_id, p.subscription_id, p.starts_at
"""
_TURNED_SQL = """
UPDATE subscriptions_subscriptionperiod p SET turned_at = %s
FROM unnest(%s::bigint[], %s::bigint[], %s::timestamptz[])
     AS t (subscriber_id, subscription_id, starts_at)
WHERE p.subscriber_id = t.subscriber_id AND p.subscription_id = t.subscription_id
  AND p.starts_at = t.starts_at
"""
_TAKES_OVER_SQL = """
UPDATE subscriptions_subscription s
SET plan_id = t.plan_id, next_plan_id = nullif(s.next_plan_id, t.plan_id)
FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[]) AS t (subscriber_id, id, plan_id)
WHERE s.subscriber_id = t.subscriber_id AND s.id = t.id AND s.plan_id <> t.plan_id
"""


def _turn(columns: Sequence[list[int]], *, at: dt.datetime) -> bool:
    """Keep the first second of these (locked) subscriptions' periods that have begun by `at`;
    answers whether any has."""
    with pgarrays.statements() as cursor:
        cursor.execute(_TO_TURN_SQL, [*columns, at])
        rows = cursor.fetchall()
    if not rows:
        return False
    plans = Plan.objects.in_bulk({plan_id for row in rows for plan_id in row[5:]})
    buckets.roll_over(
        [
            buckets.RollOver(
                subscriber_id=subscriber_id,
                subscription_id=subscription_id,
                from_start=from_start,
                to_start=to_start,
                to_end=to_end,
                grant_key=(f"rollover:{subscription_id}:{to_start.astimezone(dt.UTC).isoformat()}"),
            )
            for subscriber_id, subscription_id, from_start, to_start, to_end, new, old in rows
            if _rolls_over(plans[old], plans[new])
        ],
        at=at,
    )
    running = {(row[0], row[1]): row[5] for row in rows}  # the last of each subscription wins
    with pgarrays.statements() as cursor:
        periods_begun = ((row[0], row[1], row[3]) for row in rows)
        cursor.execute(_TURNED_SQL, [at, *pgarrays.columns(periods_begun, Int8s, Int8s, Instants)])
        taken_over = ((*key, plan_id) for key, plan_id in running.items())
        cursor.execute(_TAKES_OVER_SQL, pgarrays.columns(taken_over, Int8s, Int8s, Int8s))
    return True
