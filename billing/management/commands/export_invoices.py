from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from billing.exports import invoices
from billing.management.commands._exporting import ExportCommand, span_of
from billing.management.reports import operator_named


class Command(ExportCommand):
    help = "Issued invoices and credit notes, by their day of issue, as comma-separated values."

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--lines", action="store_true", help="their lines instead")

    def handle(self, *args: Any, **options: Any) -> None:
        operator = operator_named(options["operator"])
        since, until = span_of(operator, options)
        export = invoices.lines if options["lines"] else invoices.invoices
        self.deliver(export(operator, since=since, until=until), options["path"])
