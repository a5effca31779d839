from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from billing import closing
from billing.management.reports import operator_named
from subscriptions import clock
from subscriptions.models import Operator, Subscriber

SHOWN = 20


class Command(BaseCommand):
    help = "How far each month close is, and who could not be billed and why."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--operator", metavar="CODE", help="this operator only")
        parser.add_argument(
            "--retry", action="store_true", help="let those who could not be billed be tried again"
        )

        change = parser.add_mutually_exclusive_group()
        change.add_argument("--pause", metavar="REASON", help="begin nothing more of it")
        change.add_argument("--resume", action="store_true", help="go on where it was")
        parser.add_argument("--by", default="manage.py closes", help="who pauses or resumes")

    def handle(self, *args: Any, **options: Any) -> None:
        code = options["operator"]
        operators = [operator_named(code)] if code else list(Operator.objects.order_by("code"))
        for operator in operators:
            at = clock.now(operator)
            if options["pause"]:
                closing.pause(operator, by=options["by"], reason=options["pause"], at=at)
            if options["resume"]:
                closing.resume(operator, by=options["by"], at=at)
            self._show(operator, retry=options["retry"])

    def _show(self, operator: Operator, *, retry: bool) -> None:
        failures = closing.failures(operator)
        names = dict(
            Subscriber.objects.filter(
                pk__in=[failed.first_subscriber for failed in failures]
            ).values_list("pk", "external_id")
        )
        self.stdout.write(operator.code)
        pause = closing.paused(operator)
        if pause is not None:
            self.stdout.write(
                f"  paused since {pause.since.isoformat()} by {pause.paused_by}: {pause.reason}"
            )
        for close in closing.progress(operator)[:SHOWN]:
            self.stdout.write(
                f"  ended by {close.ended_by.isoformat()}: {close.invoices:,} invoices,"
                f" {close.left:,} periods left, {close.failed:,} failed,"
                f" {close.rate:,.0f} invoices/s a worker"
            )
        for failed in failures:
            name = names.get(failed.first_subscriber, failed.first_subscriber)
            self.stdout.write(f"  failed: {name}, tried {failed.attempts} times: {failed.reason}")
        if retry:
            self.stdout.write(f"  {closing.retry_failed(operator):,} to be tried again")
