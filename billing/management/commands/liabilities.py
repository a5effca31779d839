from __future__ import annotations

from argparse import ArgumentParser
from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NamedTuple

from django.core.management.base import BaseCommand

from billing import ledger
from billing.management import reports


class _Owed(NamedTuple):
    liability: str  # deferred, wallet, vat
    of: str  # the plan or booster, where there is one
    tax_rate: str
    currency: str
    amount: Decimal


class Command(BaseCommand):
    help = (
        "What an operator owes at an instant: units sold in advance, by what was sold and its tax"
        " rate; wallets; tax."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        reports.add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        operator, at = reports.asked(options)
        owed = list(_owed(operator.pk, at=at))
        if options["csv"]:
            reports.print_csv(self.stdout, _Owed._fields, owed)
            return
        width = max([len(one.of) for one in owed], default=0)
        sums: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
        for one in owed:
            sums[one.liability, one.currency] += one.amount
            self.stdout.write(
                f"{one.liability:8}  {one.of:{width}}  {one.tax_rate:6}"
                f"  {one.amount:>16,.2f} {one.currency}"
            )
        total = ", ".join(f"{name} {amount:,.2f} {cur}" for (name, cur), amount in sums.items())
        self.stdout.write(f"Sums: {total or 'nothing was posted'}")


def _owed(operator_id: int, **at: Any) -> Iterator[_Owed]:
    for balance in ledger.liabilities(operator_id, **at):
        name, _, rest = balance.account.partition(":")
        of, _, rate = rest.rpartition(":")
        yield _Owed(name, of, rate, balance.currency, -balance.balance)
