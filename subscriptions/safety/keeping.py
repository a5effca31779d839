"""Taking what is said of safety: a step for good, and what follows from it at once.

What a guardian settled for a minor is the carrier's to change, not the minor's.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.db import transaction

from subscriptions import buckets, ceilings, demands, guards, spending
from subscriptions.errors import Conflict, Invalid
from subscriptions.models import Bucket, Guard, SafetyStep, Subscriber, SubscriptionPeriod
from subscriptions.safety import alerts, steps
from subscriptions.units import to_wire

Kind = SafetyStep.Kind
PORTAL = "portal"
_CENT = Decimal("0.01")
_MOST_MONEY = Decimal(10**9)


class GuardianNeeded(Conflict):
    cause = "guardian_needed"


def of_subscriber(subscriber_id: int) -> Guard:
    """What stands in the way now; an empty one where nothing does."""
    return Guard.objects.filter(pk=subscriber_id).first() or Guard(subscriber_id=subscriber_id)


@dataclass(frozen=True, slots=True)
class Consent:
    """The words that were agreed to (or by which it was declined), as they were shown."""

    text: str
    text_version: str
    language: str
    channel: str


@transaction.atomic
def lock_nights(
    subscriber: Subscriber,
    hours: tuple[dt.time, dt.time] | None,
    *,
    by: str,
    at: dt.datetime,
) -> None:
    """Answer no ask from the first time of day until the second; None: whenever they come.

    Raises Invalid, GuardianNeeded.
    """
    guard = _hold(subscriber, by)
    if hours is not None and hours[0] == hours[1]:
        raise Invalid("a night begins and ends at different times")
    begins, ends = hours or (None, None)
    terms = {}
    if begins is not None and ends is not None:
        terms = {"from": f"{begins:%H:%M}", "until": f"{ends:%H:%M}"}
    if steps.add(subscriber.pk, Kind.NIGHT_LOCK, terms, by=by, at=at):
        guards.settle(guard.subscriber_id, night_from=begins, night_until=ends)


@transaction.atomic
def set_alerts(
    subscriber: Subscriber,
    *,
    percents: Sequence[int],
    lefts: Sequence[int],
    by: str,
    at: dt.datetime,
) -> None:
    """Tell when so many percent are used, or so many units (thousandths) left. Raises Invalid."""
    _lock(subscriber.pk)
    if not all(1 <= one <= 100 for one in percents) or not all(one >= 0 for one in lefts):
        raise Invalid("lines are from 1 to 100 percent, and of units that can be left")
    chosen, left = sorted(set(percents)), sorted(set(lefts), reverse=True)
    if len(chosen) + len(left) > alerts.MOST:
        raise Invalid(f"at most {alerts.MOST} lines")
    terms: dict[str, Any] = {}
    if chosen or left:
        terms = {"used_percent": chosen, "units_left": [to_wire(one) for one in left]}
    if steps.add(subscriber.pk, Kind.ALERTS, terms, by=by, at=at):
        alerts.settle(subscriber.pk, chosen, left)


@transaction.atomic
def agree_to_overage(
    subscriber: Subscriber,
    agreed: bool,
    consent: Consent,
    *,
    ceiling: Decimal | None = None,
    by: str,
    at: dt.datetime,
) -> None:
    """Keep that a subscriber pays for what its plan does not hold, up to a ceiling a period, or
    that it does not; it holds at once. Raises Invalid, GuardianNeeded."""
    guard = _hold(subscriber, by)
    if ceiling is not None and not agreed:
        raise Invalid("a ceiling is of what is agreed to")
    if ceiling is not None:
        _check_money(ceiling)
    terms = {
        "agreed": agreed,
        "ceiling": None if ceiling is None else f"{ceiling:.2f}",
        "currency": subscriber.operator.currency,
        "text": consent.text,
        "text_version": consent.text_version,
        "language": consent.language,
        "channel": consent.channel,
    }
    if steps.add(subscriber.pk, Kind.OVERAGE, terms, by=by, at=at):
        guards.settle(
            guard.subscriber_id,
            overage=ceilings.AGREED if agreed else ceilings.DECLINED,
            overage_ceiling=ceiling,
            spent=None,
            spent_in=None,
            spent_before_id=None,
        )
        spending.settle(subscriber.pk, at=at)
        _limit_overage(subscriber.pk, at=at)


def _limit_overage(subscriber_id: int, *, at: dt.datetime) -> None:
    """Let the overage buckets of metered plans hold what is agreed to from now on."""
    rows = list(
        Bucket.objects.filter(
            subscriber_id=subscriber_id, kind=Bucket.Kind.OVERAGE, valid_until__gt=at
        ).exclude(grant_key__startswith="blocks")
    )
    said = ceilings.said_by([subscriber_id])[subscriber_id]
    plans = {
        (period.subscription_id, period.starts_at): period
        for period in SubscriptionPeriod.objects.filter(subscriber_id=subscriber_id, ends_at__gt=at)
    }
    limits: dict[int, int | None] = {}
    for bucket in rows:
        held = [
            period
            for (subscription_id, _), period in plans.items()
            if subscription_id == bucket.subscription_id
            and period.starts_at <= bucket.valid_from < period.ends_at
        ]
        if held:
            plan_id = demands.plan_of_overflow(bucket.grant_key) or held[0].plan_id
            policy = ceilings.policy_of(plan_id, said, held[0].starts_at)
            limits[bucket.id] = policy.overage_units
    buckets.limit(subscriber_id, limits, at=at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guardian:
    """Who agreed for a minor, when and how that is known; what the minor may do."""

    name: str
    agreed_at: dt.datetime
    evidence: str
    day_units: int | None
    order_amount: Decimal | None


@transaction.atomic
def mark_minor(
    subscriber: Subscriber, guardian: Guardian | None, *, by: str, at: dt.datetime
) -> None:
    """Mark a subscriber as a minor with its guardian's consent and caps; None: it is none (any
    more). Only the carrier does. Raises Invalid."""
    _lock(subscriber.pk)
    terms: dict[str, Any] = {}
    if guardian is not None:
        if not guardian.name.strip() or not guardian.evidence.strip():
            raise Invalid("a minor's guardian has a name, and a consent that is known somehow")
        if guardian.agreed_at > at:
            raise Invalid("the consent was given by now")
        if guardian.order_amount is not None:
            _check_money(guardian.order_amount)
        terms = {
            "guardian": guardian.name,
            "agreed_at": guardian.agreed_at.isoformat(),
            "evidence": guardian.evidence,
            "units_a_day": None if guardian.day_units is None else to_wire(guardian.day_units),
            "amount_an_order": None
            if guardian.order_amount is None
            else f"{guardian.order_amount:.2f}",
        }
    if steps.add(subscriber.pk, Kind.MINOR, terms, by=by, at=at):
        guards.settle(
            subscriber.pk,
            minor=guardian is not None,
            day_units=guardian.day_units if guardian else None,
            order_amount=guardian.order_amount if guardian else None,
        )


def _check_money(amount: Decimal) -> None:
    if not 0 <= amount <= _MOST_MONEY or amount != amount.quantize(_CENT):
        raise Invalid("an amount has at most two decimals, and is not below nothing")


def _lock(subscriber_id: int) -> None:
    Subscriber.objects.select_for_update(no_key=True).get(pk=subscriber_id)


def _hold(subscriber: Subscriber, by: str) -> Guard:
    """The guard, under lock. Raises GuardianNeeded for a minor in the portal."""
    _lock(subscriber.pk)
    guard = of_subscriber(subscriber.pk)
    if guard.minor and by == PORTAL:
        raise GuardianNeeded("a guardian settles that with the carrier")
    return guard
