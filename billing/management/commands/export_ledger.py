from __future__ import annotations

from typing import Any

from billing.exports import ledger
from billing.management.commands._exporting import ExportCommand, span_of
from billing.management.reports import operator_named


class Command(ExportCommand):
    help = "Every entry of an operator's money ledger, as comma-separated values."

    def handle(self, *args: Any, **options: Any) -> None:
        operator = operator_named(options["operator"])
        since, until = span_of(operator, options)
        self.deliver(ledger.entries(operator, since=since, until=until), options["path"])
