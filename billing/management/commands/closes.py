from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from billing import closing
from billing.management.reports import operator_named
from subscriptions.models import Operator, Subscriber

SHOWN = 20


class Command(BaseCommand):
    help = "How far each month close is, and who could not be billed and why."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--operator", metavar="CODE", help="this operator only")
        parser.add_argument(
            "--retry", action="store_true", help="let those who could not be billed be tried again"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        code = options["operator"]
        operators = [operator_named(code)] if code else list(Operator.objects.order_by("code"))
        for operator in operators:
            self._show(operator, retry=options["retry"])

    def _show(self, operator: Operator, *, retry: bool) -> None:
        failures = closing.failures(operator)
        names = dict(
            Subscriber.objects.filter(
                pk__in=[failed.first_subscriber for failed in failures]
            ).values_list("pk", "external_id")
        )
        self.stdout.write(operator.code)
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
