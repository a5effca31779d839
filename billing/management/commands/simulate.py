from __future__ import annotations

import datetime as dt
import sys
import time
from argparse import ArgumentParser
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from django.core.management.base import BaseCommand, CommandError

from billing import closing, ledger, simulation
from billing.reconciliation import reconcile
from subscriptions import clock, periods
from subscriptions.errors import Conflict


class Command(BaseCommand):
    help = (
        "Live the life of a new test operator's subscribers on its own clock, then check all its"
        " books. Status 1 where they do not add up."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--months", type=int, default=24)
        parser.add_argument("--subscribers", type=int, default=2000)
        parser.add_argument("--seed", type=int, default=1, help="the same seed lives the same life")
        parser.add_argument(
            "--operator", metavar="CODE", default="simulated", help="a code that is not taken"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["months"] < 1 or options["subscribers"] < 1:
            raise CommandError("there is a month at least, and a subscriber", returncode=2)
        # As long ago as it takes to end about now.
        long_ago = clock.wall() - dt.timedelta(days=31 * (options["months"] + 2))
        start = periods.month_start(long_ago, ZoneInfo("Asia/Shanghai"))
        began = time.monotonic()
        try:
            life = simulation.simulate(
                options["operator"],
                months=options["months"],
                subscribers=options["subscribers"],
                seed=options["seed"],
                start=start,
                say=self.stdout.write,
            )
        except Conflict as error:
            raise CommandError(str(error), returncode=2) from error
        self.stdout.write(f"Lived in {time.monotonic() - began:,.0f} s.")
        for name, many in sorted(life.refused.items()):
            self.stdout.write(f"  refused {name}: {many:,}")
        sys.exit(0 if self._adds_up(life) else 1)

    def _adds_up(self, life: simulation.Life) -> bool:
        operator = life.operator
        sums: dict[str, Decimal] = {}
        for line in ledger.trial_balance(operator.pk, at=clock.now(operator)):
            sums[line.currency] = sums.get(line.currency, Decimal(0)) + line.balance
        failures = closing.failures(operator)
        for failed in failures:
            self.stdout.write(
                f"  not closed: subscriber {failed.first_subscriber}: {failed.reason}"
            )
        report = reconcile(at=clock.wall(), operator_code=operator.code)
        for check in report.operators[0].checks:
            if check.differences:
                self.stdout.write(f"  {check.name}: {check.differences:,} differ {check.examples}")
        checked = sum(check.checked for check in report.operators[0].checks)
        self.stdout.write(
            f"Ledger: {', '.join(f'{total} {currency}' for currency, total in sums.items())};"
            f" {checked:,} rows checked"
        )
        ok = report.ok and not failures and not any(sums.values())
        self.stdout.write("All adds up." if ok else "The books do not add up.")
        return ok
