"""Open runs worked: a top-up is ordered within the limits, then paid by the saved method.

What is to be paid is written down and committed before anybody is called, so a crash between is
made good by the next round: the order has the run's key, and the attempt its own.
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from zoneinfo import ZoneInfo

from django.db import transaction
from django.db.models import Sum

from billing import rating
from billing.auto_top_up import agreements, runs
from billing.models import AutoTopUp, AutoTopUpRun, Order
from billing.orders import buying, keeping, paying
from billing.ways.provider import Unavailable
from subscriptions import periods
from subscriptions.errors import DomainError
from subscriptions.models import Operator

State = AutoTopUpRun.State
# After a failed try, when the next one is; after as many failures in a row it is switched off.
RETRIES = (dt.timedelta(hours=1), dt.timedelta(hours=6), dt.timedelta(hours=24))
MOST_FAILURES = len(RETRIES) + 1
# When it is looked at again what a provider has not said the end of.
_LOOK = dt.timedelta(minutes=10)
_AT_ONCE = 100


def run(operator: Operator, *, at: dt.datetime) -> int:
    """Work what is due at `at`; answers how many runs that was. Several may at once."""
    found = runs.due(operator.pk, at=at, limit=_AT_ONCE)
    for one in found:
        work(operator, one, at=at)
    return len(found)


def work(operator: Operator, one: AutoTopUpRun, *, at: dt.datetime) -> None:
    """Order and pay one run's top-up, if it is due and within the limits; again is harmless."""
    asked = _order(operator, one, at=at)
    if asked is None:
        return
    order, agreement, to_pay = asked
    reason, answered = "", True
    if to_pay:
        try:
            paying.pay(operator, order.number, agreement.way, at=at, method=agreement.method)
        except Unavailable as gone:
            reason, answered = f"not answered: {gone}", False
        except DomainError as refused:
            reason = refused.detail
    _note(operator, one, reason, answered=answered, at=at)


@transaction.atomic
def _order(
    operator: Operator, one: AutoTopUpRun, *, at: dt.datetime
) -> tuple[Order, AutoTopUp, bool] | None:
    """The order to be paid now, if there is one, and whether it still has to be; who works the run
    next finds it taken until the provider had time to answer."""
    keeping.lock_subscriber(one.subscriber_id)
    held = runs.locked(one)
    if held.next_at is None or held.next_at > at:
        return None
    agreement = AutoTopUp.objects.get(subscriber_id=held.subscriber_id, id=held.agreement_id)
    if held.asked:
        order = _order_of(held)
        runs.put(held, next_at=at + _LOOK)
        return order, agreement, order.state in (Order.State.CREATED, Order.State.WAITING)
    over = _over(operator, agreement, at=at)
    if over is not None:
        until, reason = over
        runs.put(held, next_at=until, reason=reason)
        return None
    if held.order_id is None:
        try:
            with transaction.atomic():
                order = buying.order_top_up(
                    operator,
                    held.subscriber_id,
                    held.amount,
                    currency=agreement.currency,
                    at=at,
                    key=f"auto:{held.subscriber_id}:{held.agreement_id}:{held.cause}",
                )
        except DomainError as refused:  # as where the policy offers it no more
            _fail(held, agreement, refused.detail, again=False, at=at)
            return None
        runs.put(held, state=State.ORDERED, order_id=order.id)
    order = _order_of(held)
    runs.put(held, next_at=at + _LOOK, asked=True)
    return order, agreement, True


def _order_of(held: AutoTopUpRun) -> Order:
    assert held.order_id is not None
    return Order.objects.get(subscriber_id=held.subscriber_id, id=held.order_id)


def _over(
    operator: Operator, agreement: AutoTopUp, *, at: dt.datetime
) -> tuple[dt.datetime, str] | None:
    """Until when nothing more may be taken, and why; of the operator's own days."""
    zone = ZoneInfo(operator.time_zone)
    local = at.astimezone(zone)
    day, month = periods.day_start(at, zone), periods.month_start(at, zone)
    if taken_since(agreement, month) + agreement.amount > agreement.monthly_limit:
        first = local.date().replace(day=1)
        next_month = (first + dt.timedelta(days=32)).replace(day=1)
        return periods.midnight(next_month, zone), "the monthly limit is reached"
    if taken_since(agreement, day) + agreement.amount > agreement.daily_limit:
        return periods.midnight(local.date() + dt.timedelta(days=1), zone), (
            "the daily limit is reached"
        )
    return None


def taken_since(agreement: AutoTopUp, since: dt.datetime) -> Decimal:
    """What automatic top-ups have taken of a subscriber from an instant on, by whatever was agreed
    to then."""
    paid = AutoTopUpRun.objects.filter(
        subscriber_id=agreement.subscriber_id, order_id__isnull=False
    ).values("order_id")
    taken: Decimal | None = Order.objects.filter(
        subscriber_id=agreement.subscriber_id, id__in=paid, paid_at__gte=since
    ).aggregate(amount=Sum("amount"))["amount"]
    return rating.ZERO if taken is None else taken


@transaction.atomic
def _note(
    operator: Operator, one: AutoTopUpRun, reason: str, *, answered: bool, at: dt.datetime
) -> None:
    """Write down what became of a try."""
    keeping.lock_subscriber(one.subscriber_id)
    held = runs.locked(one)
    if held.state != State.ORDERED:
        return
    agreement = AutoTopUp.objects.get(subscriber_id=held.subscriber_id, id=held.agreement_id)
    order = _order_of(held)
    if order.state in Order.PAID:
        runs.end(held, State.PAID, at=at)
        agreements.succeeded(agreement)
    elif order.state == Order.State.WAITING or not answered:
        runs.put(held, next_at=at + _LOOK, reason=reason[:200])
    else:
        attempts = keeping.attempts_of([order])[order.id]
        reason = reason or (attempts[-1].reason if attempts else "")
        _fail(held, agreement, reason, again=order.state in Order.OPEN, at=at)


def _fail(
    held: AutoTopUpRun, agreement: AutoTopUp, reason: str, *, again: bool, at: dt.datetime
) -> None:
    """A try failed: the next one is later, if the order can still be paid."""
    reason = reason or "it was not paid"
    runs.put(held, tries=held.tries + 1, asked=False)
    if again and held.tries <= len(RETRIES):
        runs.put(held, next_at=at + RETRIES[held.tries - 1], reason=reason[:200])
    else:
        agreements.drop(held, State.FAILED, reason=reason, at=at)
    agreements.failed(agreement, reason, most=MOST_FAILURES, at=at)
