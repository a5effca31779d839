from __future__ import annotations

from argparse import ArgumentParser
from typing import Any
from zoneinfo import ZoneInfo

from django.core.management.base import CommandError

from billing import costs, settling
from billing.exports import cells
from billing.management.commands._exporting import ExportCommand, midnight_of
from billing.management.reports import operator_named
from subscriptions import clock, periods
from subscriptions.errors import DomainError


class Command(ExportCommand):
    help = (
        "What a supplier (or the operator that it is) is owed for a month. With --issue the"
        " statement gets its number and never changes; without, it is a draft as of now."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("supplier", metavar="SUPPLIER", help="its code")
        parser.add_argument("--month", metavar="MONTH", required=True, help="as in 2026-07")
        parser.add_argument("--operator", metavar="CODE", help="where there are several")
        parser.add_argument("--issue", action="store_true", help="number it, for good")
        parser.add_argument("--csv", action="store_true", help="comma-separated values")
        parser.add_argument("--to", metavar="FILE", help="write these to a file")

    def handle(self, *args: Any, **options: Any) -> None:
        operator = operator_named(options["operator"])
        starts = midnight_of(operator, options["month"], "month")
        assert starts is not None
        month = periods.day_of(starts, ZoneInfo(operator.time_zone))
        if month.day != 1:
            raise CommandError("--month is a month, as in 2026-07", returncode=2)
        at = clock.now(operator)
        costs.price_due(operator, at=at)
        try:
            supplier = costs.supplier_named(operator, options["supplier"])
            if options["issue"]:
                settling.issue(operator, supplier, month, at=at)
        except DomainError as error:
            raise CommandError(str(error), returncode=1) from error
        issued = settling.find(supplier, month)
        number = issued.number if issued else ""
        lines = settling.lines_of(issued) if issued else settling.preview(supplier, month)
        if options["csv"] or options["to"]:
            rows = settling.table(operator, supplier, month, number, lines)
            self.deliver(cells.encode(rows), options["to"] or "-")
            return
        with_whom = f" (operator {supplier.settles_with.code})" if supplier.settles_with else ""
        self.stdout.write(
            f"{number or 'Draft'}: {operator.name} to {supplier.name}{with_whom}, {month:%Y-%m}"
        )
        for line in lines:
            of = "" if line.month == month else f" of {line.month:%Y-%m}"
            self.stdout.write(
                f"  {line.model}{of}: {line.requests:,} requests, {sum(line.tokens):,} tokens,"
                f" {line.amount:,.2f}"
            )
        self.stdout.write(f"Total: {settling.total(lines):,.2f} {operator.currency}")
