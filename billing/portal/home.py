"""The first page: what is left, what was used, what comes next."""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import dataclass
from typing import Any

from django.db.models import QuerySet, Sum
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_GET
from djmoney.money import Money

from billing.models import Invoice
from metering import rollups
from metering.portal import pace
from subscriptions import balances, periods
from subscriptions.models import Bucket, OutboxEvent, Subscription, SubscriptionPeriod, Suspension
from subscriptions.portal import live, offers
from subscriptions.portal.doors import Visit, own, show

_ALERTS = ("bucket.threshold", "bucket.exhausted", "bucket.expiring", "overage.started")
_ALERTS_FOR = dt.timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Left:
    """A bucket as it is shown; `share` of it is left, in percent, where it has a size."""

    bucket: Bucket
    remaining: int | None
    share: int | None
    live: bool


@dataclass(frozen=True, slots=True)
class Held:
    """The plan that runs, and what comes at its period's end."""

    subscription: Subscription
    period: SubscriptionPeriod | None

    @property
    def ends(self) -> dt.datetime | None:
        """Where it ends with the period that runs instead of going on."""
        return self.subscription.ends_at

    @property
    def renewal_price(self) -> Money:
        plan = self.subscription.next_plan or self.subscription.plan
        return Money(plan.price.amount, plan.price.currency)


def running(rows: QuerySet[Subscription], now: dt.datetime) -> Subscription | None:
    """The one of a subscriber's subscriptions that runs."""
    found = (
        rows.filter(starts_at__lte=now)
        .select_related("plan", "next_plan")
        .order_by("-starts_at")
        .first()
    )
    if found is None or (found.ends_at is not None and found.ends_at <= now):
        return None
    return found


def held_by(visit: Visit) -> Held | None:
    found = running(Subscription.objects.filter(subscriber_id=visit.subscriber.pk), visit.now)
    if found is None:
        return None
    period = SubscriptionPeriod.objects.filter(
        subscriber_id=visit.subscriber.pk,
        subscription_id=found.id,
        starts_at__lte=visit.now,
        ends_at__gt=visit.now,
    ).first()
    return Held(found, period)


def _left(bucket: Bucket, now: dt.datetime) -> Left:
    remaining = balances.remaining(bucket)
    share = 100 * (remaining or 0) // bucket.granted if bucket.granted else None
    return Left(bucket, remaining, share, bucket.valid_from <= now < bucket.valid_until)


def figures(visit: Visit) -> dict[str, Any]:
    """What changes while the page stays open."""
    visit.bring_up()
    balance = balances.balance_of(
        visit.subscriber.pk, as_of=visit.now, grace=visit.operator.late_grace
    )
    month, today = (
        periods.month_start(visit.now, visit.zone),
        periods.day_start(visit.now, visit.zone),
    )
    week = visit.now - pace.WINDOW
    rows = rollups.usage(
        visit.operator.pk,
        visit.subscriber.pk,
        visit.zone,
        since=min(month, periods.day_start(week, visit.zone)),
        until=visit.now + dt.timedelta(minutes=5),  # as far ahead as usage may be
        by="day",
    )
    recent = [row for row in rows if row.period >= week]
    first = min((row.period for row in recent), default=visit.now)
    left = [_left(bucket, visit.now) for bucket in balance.buckets]
    runs_out_at = pace.runs_out_at(
        balance.available, sum(row.units for row in recent), since=first, now=visit.now
    )
    ends = [each.bucket.valid_until for each in left if each.live and each.remaining]
    return {
        "balance": balance,
        "runs_out_at": runs_out_at,
        # Then time ends them before use does.
        "expires_first": bool(ends) and runs_out_at is not None and runs_out_at >= max(ends),
        "buckets": [each for each in left if each.live and each.remaining != 0],
        "today": sum(row.units for row in rows if row.period >= today),
        "month": sum(row.units for row in rows if row.period >= month),
        "requests_today": sum(row.requests for row in rows if row.period >= today),
        "alerts": list(
            OutboxEvent.objects.filter(
                subscriber_id=visit.subscriber.pk,
                kind__in=_ALERTS,
                occurred_at__gt=visit.now - _ALERTS_FOR,
                occurred_at__lte=visit.now,
            ).order_by("-occurred_at")[:2]
        ),
    }


@require_GET
@own
def home(request: HttpRequest, visit: Visit) -> HttpResponse:
    """What is left and what comes next; the figures alone where the page asks for them anew."""
    if request.headers.get("HX-Request"):
        version = live.version_of(request, visit)
        same = live.unchanged(request, version)
        if same is not None:
            return same
        return show(request, "portal/figures.html", visit, version=version, **figures(visit))
    now = figures(visit)
    due = Invoice.objects.filter(
        subscriber_id=visit.subscriber.pk, state=Invoice.State.OPEN, gross__gt=0
    ).aggregate(gross=Sum("gross"), paid=Sum("paid"))
    owed = (due["gross"] or 0) - (due["paid"] or 0)
    return show(
        request,
        "portal/home.html",
        visit,
        **now,
        held=held_by(visit),
        suspended=Suspension.objects.filter(
            subscriber_id=visit.subscriber.pk, ends_at__isnull=True, starts_at__lte=visit.now
        ).first(),
        owed=Money(owed, visit.operator.currency) if owed else None,
        boosters=offers.boosters(visit.operator)[:3],
        once=uuid.uuid4().hex,
        section="home",
    )
