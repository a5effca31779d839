from __future__ import annotations

from argparse import ArgumentParser
from decimal import Decimal
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from billing import ledger
from billing.management import reports


class Command(BaseCommand):
    help = (
        "Every account of an operator's money ledger with its sums up to an instant. Status 1"
        " where they do not add up to zero."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        reports.add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        operator, at = reports.asked(options)
        lines = list(ledger.trial_balance(operator.pk, at=at))
        sums: dict[str, Decimal] = {}
        for line in lines:
            sums[line.currency] = sums.get(line.currency, Decimal(0)) + line.balance
        if options["csv"]:
            header = ["account", "kind", "currency", "debit", "credit", "balance"]
            reports.print_csv(self.stdout, header, ([*line, line.balance] for line in lines))
        else:
            width = max([len(line.account) for line in lines], default=0)
            for line in lines:
                self.stdout.write(
                    f"{line.account:{width}}  {line.kind:9}  {line.debit:>16,.2f}"
                    f"  {line.credit:>16,.2f}  {line.balance:>16,.2f} {line.currency}"
                )
            total = ", ".join(f"{amount:,.2f} {currency}" for currency, amount in sums.items())
            self.stdout.write(f"Sum: {total or 'nothing was posted'}")
        if any(sums.values()):
            raise CommandError("the ledger does not add up to zero", returncode=1)
