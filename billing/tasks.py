"""Bells: each looks for rows that are due and does them; to ring twice or never harms nothing."""

from __future__ import annotations

import time

from celery import shared_task

from billing import (
    before_period,
    closing,
    costs,
    disputes,
    due,
    dunning,
    figures,
    finals,
    inbox,
    prepaid,
    refunds,
)
from billing.collecting import running as collecting
from billing.documents import store
from billing.fapiao import providers, sending
from billing.orders import paying
from billing.pace import Pace
from subscriptions import clock, lifecycle, reservations
from subscriptions.models import Operator


@shared_task
def open_due_periods() -> None:
    """Open and turn periods of every operator that lives by the wall's time."""
    at = clock.wall()
    while lifecycle.open_due(None, at=at):
        pass


# How many workers may be at one operator's close, and how long one task goes on before it gives
# other tasks a turn.
CLOSERS = 2
_TURN = 20.0


@shared_task
def close_due_periods() -> None:
    """Write down which periods are due, and ring for them; of operators by the wall's time."""
    for operator in Operator.objects.filter(is_test=False).order_by("pk"):
        closing.plan(operator, at=clock.now(operator))
        for _ in range(min(CLOSERS, closing.waiting(operator))):
            close_periods.apply_async((operator.pk,), expires=30)


@shared_task
def close_periods(operator_id: int) -> None:
    """Close chunks that wait, for a while; then ring again for what is left."""
    operator = Operator.objects.get(pk=operator_id)
    began, pace = time.monotonic(), Pace()
    while closing.close_next(operator, at=clock.now(operator)):
        pace.give_way()
        if time.monotonic() - began > _TURN:
            close_periods.apply_async((operator_id,), expires=30)
            return


@shared_task
def make_last_bills() -> None:
    """Bill what no further bill would say, once a month; of operators by the wall's time."""
    for operator in Operator.objects.filter(is_test=False).order_by("pk"):
        finals.run(operator, at=clock.now(operator))


@shared_task
def earn_deferred() -> None:
    """Earn what was burned of what was sold in advance; of operators by the wall's time."""
    for operator in Operator.objects.filter(is_test=False).order_by("pk"):
        due.earn_deferred(operator, at=clock.now(operator))


@shared_task
def make_documents() -> None:
    """Make documents of what was issued, for operators who want them before they are asked for."""
    began = time.monotonic()
    for operator in Operator.objects.exclude(letterhead__ahead="").exclude(letterhead=None):
        while store.make_ahead(operator, at=clock.now(operator)):
            if time.monotonic() - began > _TURN:
                return


@shared_task
def run_dunning() -> None:
    """Remind, suspend and terminate who owes, of operators by the wall's time."""
    for operator in Operator.objects.filter(is_test=False).order_by("pk"):
        dunning.run(operator, at=clock.now(operator))


@shared_task
def expire_reservations() -> None:
    """Give back what reservations hold past their time, by every operator's own clock."""
    for operator in Operator.objects.all():
        due.expire_reservations(operator, at=clock.now(operator))


@shared_task
def expire_orders() -> None:
    """Expire orders that nobody has paid in time, by every operator's own clock."""
    for operator in Operator.objects.all():
        due.expire_orders(operator, at=clock.now(operator))


@shared_task
def finish_payments() -> None:
    """Ask what became of attempts to pay that nobody has heard of since a crash."""
    for operator in Operator.objects.all():
        paying.ask_again(operator, at=clock.now(operator))


@shared_task
def finish_refunds() -> None:
    """Tell providers of refunds that are theirs to make, and ask after those that wait; and of
    disputes that were answered."""
    for operator in Operator.objects.all():
        refunds.sweep(operator, at=clock.now(operator))
        disputes.sweep(operator, at=clock.now(operator))


@shared_task
def work_notices() -> None:
    """Work what providers have told."""
    began = time.monotonic()
    for operator in inbox.waiting():
        while inbox.work(operator, at=clock.now(operator), limit=50):
            if time.monotonic() - began > _TURN:
                return


@shared_task
def order_periods() -> None:
    """Ask for periods that are paid before, and give back what was paid for a plan that does not
    begin; of operators by the wall's time."""
    for operator in Operator.objects.filter(is_test=False).order_by("pk"):
        before_period.sweep(operator, at=clock.now(operator))
        prepaid.give_back(operator, at=clock.now(operator))


@shared_task
def collect_due() -> None:
    """Collect what is due from who agreed to it; of operators by the wall's time."""
    for operator in Operator.objects.filter(is_test=False).order_by("pk"):
        collecting.run(operator, at=clock.now(operator))


@shared_task
def forget_reservations() -> None:
    """Drop reservations that nobody will commit any more, by every operator's own clock."""
    for operator in Operator.objects.all():
        while reservations.forget(operator.pk, at=clock.now(operator)):
            pass


@shared_task
def price_usage() -> None:
    """Work out what each day's usage costs, once it is over, by every operator's own clock."""
    for operator in Operator.objects.order_by("pk"):
        costs.price_due(operator, at=clock.now(operator))


@shared_task
def measure_figures() -> None:
    """Count what those who run an operator look at; of operators by the wall's time."""
    for operator in Operator.objects.filter(is_test=False).order_by("pk"):
        figures.measure(operator, at=clock.now(operator))


@shared_task
def sweep_fapiao() -> None:
    """Hand over what is asked of the tax platform, and hear what became of it."""
    for operator in Operator.objects.order_by("pk"):
        sending.sweep(operator, providers.provider(), at=clock.now(operator))


@shared_task
def keep_partitions() -> None:
    """Make the days ahead of every operator's clock, drop those that all have outlived."""
    for operator in Operator.objects.all():
        due.make_partitions(at=clock.now(operator))
    due.drop_outlived()
