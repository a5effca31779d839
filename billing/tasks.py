"""Bells: each looks for rows that are due and does them; to ring twice or never harms nothing."""

from __future__ import annotations

import time
from functools import partial

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
    methods,
    prepaid,
    receiving,
    refunds,
)
from billing.anomalies import sweeping
from billing.auto_top_up import charging
from billing.collecting import running as collecting
from billing.documents import store
from billing.fapiao import providers, sending
from billing.interchange import exports, imports
from billing.models import ExportJob, ImportJob
from billing.orders import paying
from billing.pace import Pace
from billing.personal_data import keeping as personal_data
from billing.prices import drafting
from billing.provider_books import fetching
from billing.vouchers import guessing
from billing.vouchers import keeping as vouchers
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


def ring_for_close(operator_id: int) -> None:
    """Ring for what waits of an operator's close, without waiting for an answer."""
    for _ in range(CLOSERS):
        close_periods.apply_async((operator_id,), expires=30, retry=False)


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
def sell_due_prices() -> None:
    """Let be sold what is scheduled for now, by every operator's own clock."""
    for operator in Operator.objects.order_by("pk"):
        drafting.sell_due(operator, at=clock.now(operator))


@shared_task
def expire_orders() -> None:
    """Expire orders that nobody has paid in time, by every operator's own clock."""
    for operator in Operator.objects.all():
        due.expire_orders(operator, at=clock.now(operator))


@shared_task
def end_wallet_times() -> None:
    """End holds and bonuses whose time is over, by every operator's own clock."""
    for operator in Operator.objects.all():
        due.end_wallet_times(operator, at=clock.now(operator))


@shared_task
def fill_wallets() -> None:
    """Fill wallets by themselves, as was agreed to; providers are called, so never from a move of
    a test clock."""
    began = time.monotonic()
    for operator in Operator.objects.order_by("pk"):
        while charging.run(operator, at=clock.now(operator)):
            if time.monotonic() - began > _TURN:
                return


@shared_task
def finish_payments() -> None:
    """Ask what became of attempts to pay that nobody has heard of since a crash."""
    for operator in Operator.objects.all():
        paying.ask_again(operator, at=clock.now(operator))
        receiving.return_open(operator, at=clock.now(operator))


@shared_task
def recall_payments() -> None:
    """Let nobody pay any more what is paid, expired or cancelled."""
    for operator in Operator.objects.all():
        paying.recall(operator, at=clock.now(operator))


@shared_task
def ask_about_methods() -> None:
    """Learn what saved methods are called, and let providers forget removed ones."""
    for operator in Operator.objects.all():
        methods.sweep(operator, at=clock.now(operator))


@shared_task
def tell_of_cards() -> None:
    """Tell whose saved card is about to expire; of operators by the wall's time."""
    for operator in Operator.objects.filter(is_test=False).order_by("pk"):
        methods.tell_expiring(operator, at=clock.now(operator))


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
def fetch_provider_books() -> None:
    """Ask providers what moved on the days that are over; of operators by the wall's time."""
    for operator in Operator.objects.filter(is_test=False).order_by("pk"):
        fetching.run(operator, at=clock.now(operator))


@shared_task
def empty_notices() -> None:
    """Empty what providers told too long ago, by every operator's own clock."""
    for operator in Operator.objects.order_by("pk"):
        while inbox.empty_old(operator, at=clock.now(operator)):
            pass


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


@shared_task
def make_vouchers() -> None:
    """Make what is missing of batches of vouchers, for a while; the next ring goes on."""
    began = time.monotonic()
    for operator in Operator.objects.order_by("pk"):
        for batch_id in vouchers.making(operator.pk):
            while vouchers.make_next(batch_id, at=clock.now(operator)):
                if time.monotonic() - began > _TURN:
                    return


@shared_task
def expire_vouchers() -> None:
    """Expire what nobody redeemed in time, and forget old misses, by every operator's own clock."""
    began = time.monotonic()
    for operator in Operator.objects.order_by("pk"):
        at = clock.now(operator)
        guessing.forget(operator.pk, at=at)
        vouchers.forget_shown(operator.pk)
        while vouchers.expire_next(operator, at=at):
            if time.monotonic() - began > _TURN:
                return


@shared_task
def move_files() -> None:
    """Ring for every import and export at which something is to be done; forget old ones."""
    for job_id in imports.waiting():
        import_file.apply_async((job_id,), expires=_TURN)
    for job_id in exports.waiting():
        export_file.apply_async((job_id,), expires=_TURN)


@shared_task
def import_file(job_id: int) -> None:
    """Go on with an import for a while, by its operator's clock; the next ring goes on."""
    job = ImportJob.objects.select_related("operator").get(pk=job_id)
    ends = time.monotonic() + _TURN
    imports.work(
        job_id, instant=partial(clock.now, job.operator), more=lambda: time.monotonic() < ends
    )


@shared_task
def export_file(job_id: int) -> None:
    """Go on with an export for a while, by its operator's clock; the next ring goes on."""
    job = ExportJob.objects.select_related("operator").get(pk=job_id)
    ends = time.monotonic() + _TURN
    exports.work(
        job_id, instant=partial(clock.now, job.operator), more=lambda: time.monotonic() < ends
    )


@shared_task
def forget_files() -> None:
    """Drop the rows of imports and exports that nobody asks for any more, by every own clock."""
    for operator in Operator.objects.order_by("pk"):
        imports.forget(operator, at=clock.now(operator))
        exports.forget(operator, at=clock.now(operator))
        personal_data.forget(operator, at=clock.now(operator))


@shared_task
def make_personal_data() -> None:
    """Make the files that users asked for, by every operator's own clock."""
    began = time.monotonic()
    for export_id, operator in personal_data.waiting():
        personal_data.make(export_id, at=clock.now(operator))
        if time.monotonic() - began > _TURN:
            return


@shared_task
def look_for_anomalies() -> None:
    """Look through new bills and hours, by every operator's own clock."""
    began = time.monotonic()
    for operator in Operator.objects.order_by("pk"):
        while sweeping.sweep(operator, at=clock.now(operator)) is not None:
            if time.monotonic() - began > _TURN:
                return
