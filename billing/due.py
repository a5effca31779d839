"""What falls due as an operator's time passes: expiries, openings, turnings, debts, closes,
earnings."""

from __future__ import annotations

import datetime as dt

from billing import (
    before_period,
    closing,
    deferral,
    dunning,
    finals,
    holds,
    methods,
    prepaid,
    wallets,
)
from billing.collecting import running as collecting
from billing.orders import keeping
from billing.prices import drafting
from metering import duplicates, rollups, usage_windows
from metering.adjusted import ADJUSTED
from metering.records import RECORDS
from subscriptions import clock, expiring, lifecycle, partitions, reservations
from subscriptions.models import Operator
from subscriptions.safety import alerts

RECORDS_KEPT = dt.timedelta(days=190)
JOURNAL_KEPT = dt.timedelta(days=800)
# How far ahead of an operator's now its day partitions are made.
PARTITIONS_AHEAD = 3


def make_partitions(*, at: dt.datetime) -> None:
    """The day partitions around an instant, as a charge at that time will want them."""
    today = partitions.day_of(at)
    days = partitions.with_neighbours([today], PARTITIONS_AHEAD)
    partitions.ensure(RECORDS, days)
    partitions.ensure(partitions.ENTRIES, [day for day in days if day >= today])


def run(operator: Operator, *, at: dt.datetime) -> None:
    """Do all that fell due for one operator up to `at`; answers when it is committed."""
    make_partitions(at=at)
    # First, so that what is given back rolls over with the rest.
    expire_reservations(operator, at=at)
    while lifecycle.open_due(operator.pk, at=at):
        pass
    drafting.sell_due(operator, at=at)
    before_period.sweep(operator, at=at)
    prepaid.give_back(operator, at=at)
    rollups.fold_all(at=at)
    usage_windows.compare_due(operator.pk, at=at)
    expire_orders(operator, at=at)
    end_wallet_times(operator, at=at)
    # First, so that a bill knows of every invoice that was late by its end.
    dunning.run(operator, at=at)
    closing.close_due(operator, at=at)
    finals.run(operator, at=at)
    collecting.run(operator, at=at)
    earn_deferred(operator, at=at)
    expiring.sweep(operator, at=at)
    alerts.sweep(operator, at=at)
    methods.tell_expiring(operator, at=at)


def earn_deferred(operator: Operator, *, at: dt.datetime) -> None:
    """Earn what one operator's subscribers have burned of what they bought in advance; daily."""
    if deferral.is_due(operator, at=at):
        deferral.sweep(operator, at=at, ended_by=closing.grace_over(operator, at=at))


def expire_reservations(operator: Operator, *, at: dt.datetime) -> None:
    """Give back what one operator's reservations hold past their time."""
    while reservations.expire_due(operator.pk, at=at):
        pass


def expire_orders(operator: Operator, *, at: dt.datetime) -> None:
    """Expire one operator's orders that nobody has paid in time."""
    while keeping.expire_due(operator, at=at):
        pass


def end_wallet_times(operator: Operator, *, at: dt.datetime) -> None:
    """End holds, and let bonuses lapse, whose time is over."""
    while holds.expire_due(operator, at=at):
        pass
    while wallets.lapse_due(operator.pk, at=at):
        pass


def drop_outlived() -> None:
    """Drop day partitions that no operator's clock keeps any more; rows are never deleted.

    Records are kept RECORDS_KEPT after the day (raw records at least five full months after their
    month), the journal as long as a bucket granted that day may live and be asked about.
    """
    clocks = [clock.now(operator) for operator in Operator.objects.all()]
    if not clocks:
        return
    oldest = min(clocks)
    for table in (ADJUSTED, RECORDS):  # rows against records first: they are nothing without them
        partitions.drop_before(table, partitions.day_of(oldest - RECORDS_KEPT))
    duplicates.forget(before=oldest - RECORDS_KEPT)
    partitions.drop_before(partitions.ENTRIES, partitions.day_of(oldest - JOURNAL_KEPT))
