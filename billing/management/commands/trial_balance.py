from __future__ import annotations

import csv
from argparse import ArgumentParser
from decimal import Decimal
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from rest_framework.exceptions import ValidationError

from billing import ledger
from subscriptions import clock
from subscriptions.api.fields import Instant
from subscriptions.models import Operator


class Command(BaseCommand):
    help = (
        "Every account of an operator's money ledger with its sums up to an instant. Status 1"
        " where they do not add up to zero."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--operator", metavar="CODE", help="where there are several")
        parser.add_argument("--at", metavar="TIME", help="RFC 3339; default: the operator's now")
        parser.add_argument("--csv", action="store_true", help="print comma-separated values")

    def handle(self, *args: Any, **options: Any) -> None:
        operator = operator_named(options["operator"])
        at = clock.now(operator)
        if options["at"] is not None:
            try:
                at = Instant().run_validation(options["at"])
            except ValidationError as error:
                said = "--at is a time with its offset, as in 2026-07-01T00:00:00+08:00"
                raise CommandError(said, returncode=2) from error
        lines = list(ledger.trial_balance(operator.pk, at=at))
        sums: dict[str, Decimal] = {}
        for line in lines:
            sums[line.currency] = sums.get(line.currency, Decimal(0)) + line.balance
        if options["csv"]:
            rows = csv.writer(self.stdout, lineterminator="\n")
            rows.writerow(["account", "kind", "currency", "debit", "credit", "balance"])
            for line in lines:
                rows.writerow([*line, line.balance])
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


def operator_named(code: str | None) -> Operator:
    """The operator of a code, or the only one there is."""
    found = list(Operator.objects.filter(code=code) if code else Operator.objects.all()[:2])
    if len(found) != 1:
        raise CommandError(
            f"there is no operator {code}" if code else "say which with --operator CODE",
            returncode=2,
        )
    return found[0]
