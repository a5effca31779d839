from __future__ import annotations

from argparse import ArgumentParser
from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from billing import ledger, receivables
from billing.management import reports
from billing.receivables import Aged


class Command(BaseCommand):
    help = (
        "Who owes what at an instant, by days since it was due. Status 1 where the sum is not that"
        " of the ledger."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        reports.add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        operator, at = reports.asked(options)
        sums: dict[str, list[Decimal]] = defaultdict(lambda: [Decimal("0.00")] * 7)

        def counted() -> Iterator[Aged]:
            for one in receivables.by_age(operator.pk, at=at):
                sums[one.currency] = [
                    a + b for a, b in zip(sums[one.currency], [*one[2:], one.total], strict=True)
                ]
                yield one

        if options["csv"]:
            header = [*Aged._fields, "total"]
            reports.print_csv(self.stdout, header, ([*one, one.total] for one in counted()))
        else:
            heads = ("not due", "0-30", "31-60", "61-90", "over 90", "credit", "total")
            self.stdout.write("".join(f"{head:>15}" for head in heads))
            for one in counted():
                self._line([*one[2:], one.total], f"{one.currency} {one.subscriber}")
            for currency, amounts in sorted(sums.items()):
                self._line(amounts, f"{currency} in all")
        for balance in ledger.trial_balance(operator.pk, at=at):
            if balance.account == ledger.RECEIVABLE:
                said = sums[balance.currency][-1]
                if said != balance.balance:
                    raise CommandError(
                        f"the ledger says {balance.balance} {balance.currency}, this {said}",
                        returncode=1,
                    )

    def _line(self, amounts: list[Decimal], of: str) -> None:
        self.stdout.write("".join(f"{amount:>15,.2f}" for amount in amounts) + f"  {of}")
