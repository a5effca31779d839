from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from django.core.management.base import CommandError

from billing import costs
from billing.exports import cells
from billing.management.commands._exporting import ExportCommand, span_of
from billing.management.reports import operator_named
from subscriptions import clock, periods

COLUMNS = ("requests", "tokens", "unpriced_tokens", "revenue", "cost", "margin", "percent")


class Command(ExportCommand):
    help = (
        "What plans or models earned without tax, what their tokens cost, and what is left. Days"
        " that are over and not priced yet are priced first."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--by", choices=["plan", "model"], required=True)
        parser.add_argument("--csv", action="store_true", help="comma-separated values")

    def handle(self, *args: Any, **options: Any) -> None:
        operator = operator_named(options["operator"])
        since, until = span_of(operator, options)
        if since is None or until is None:
            raise CommandError("say which days: --from DAY --until DAY", returncode=2)
        costs.price_due(operator, at=clock.now(operator))
        zone = ZoneInfo(operator.time_zone)
        rows = costs.margin(
            operator,
            options["by"],
            since=periods.day_of(since, zone),
            until=periods.day_of(until, zone),
        )

        def table() -> Iterator[tuple[Any, ...]]:
            yield (options["by"], *COLUMNS, "currency")
            for row in rows:
                yield (cells.text(row.by), *_cells(row), operator.currency)

        if options["csv"] or options["path"] != "-":
            self.deliver(cells.encode(table()), options["path"])
            return
        width = max([len(row.by) for row in rows], default=0)
        for row in [*rows, _total(rows)]:
            requests, tokens, unpriced, revenue, cost, margin, percent = _cells(row)
            self.stdout.write(
                f"{row.by or '-':{max(width, 5)}}  {requests:>12,}  {tokens:>16,} tokens"
                f"  earned {revenue:>12}  cost {cost:>12}  left {margin:>12} {operator.currency}"
                f"  {percent or '-':>7} %" + (f"  ({unpriced:,} unpriced)" if unpriced else "")
            )


def _total(rows: list[costs.Margin]) -> costs.Margin:
    return costs.Margin(
        "total",
        sum(row.requests for row in rows),
        sum(row.tokens for row in rows),
        sum(row.unpriced for row in rows),
        sum((row.revenue for row in rows), Decimal(0)),
        sum((row.cost for row in rows), Decimal(0)),
    )


def _cells(row: costs.Margin) -> tuple[Any, ...]:
    percent = f"{row.margin / row.revenue * 100:.1f}" if row.revenue else ""
    amounts = (cells.amount(value) for value in (row.revenue, row.cost, row.margin))
    return (row.requests, row.tokens, row.unpriced, *amounts, percent)
