from __future__ import annotations

import datetime as dt
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from billing import cost_cards, costs
from billing.management.reports import operator_named
from subscriptions import clock
from subscriptions.errors import DomainError


class Command(BaseCommand):
    help = (
        "Load what a supplier charges for models (CSV or JSON, money per million tokens), as a new"
        " version from a day on. Status 1, and nothing is changed, where something is wrong."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("supplier", metavar="SUPPLIER", help="its code; made where it is new")
        parser.add_argument("path", metavar="FILE")
        parser.add_argument("--effective-from", metavar="DAY", required=True)
        parser.add_argument("--operator", metavar="CODE", help="where there are several")
        parser.add_argument("--name", default="", help="what the supplier is called")
        parser.add_argument(
            "--gateway",
            metavar="NAME",
            action="append",
            default=[],
            help="a gateway all of whose models are this supplier's; may be repeated",
        )
        parser.add_argument(
            "--settles-with", metavar="CODE", default="", help="the operator that it is"
        )
        parser.add_argument("--dry-run", action="store_true", help="say what would be, change none")

    def handle(self, *args: Any, **options: Any) -> None:
        operator = operator_named(options["operator"])
        code = options["supplier"]
        try:
            effective_from = dt.date.fromisoformat(options["effective_from"])
        except ValueError as error:
            problem = "--effective-from is a day, as in 2026-07-01"
            raise CommandError(problem, returncode=2) from error
        if not 0 < len(code) <= 64:
            raise CommandError("a supplier's code has 1 to 64 characters", returncode=2)
        try:
            prices = cost_cards.read(Path(options["path"]).read_bytes())
            with transaction.atomic():
                card = costs.publish(
                    operator,
                    code,
                    prices,
                    effective_from=effective_from,
                    at=clock.now(operator),
                    name=options["name"],
                    gateways=options["gateway"],
                    settles_with=options["settles_with"],
                )
                if options["dry_run"]:
                    transaction.set_rollback(True)
        except OSError as error:
            raise CommandError(f"{options['path']}: {error.strerror}", returncode=2) from error
        except (cost_cards.CardError, DomainError) as error:
            raise CommandError(str(error), returncode=1) from error
        for price in prices:
            self.stdout.write(
                f"{price.model}: "
                + ", ".join(f"{getattr(price, name):f}" for name in costs.CLASSES)
            )
        said = "would be" if options["dry_run"] else "is"
        self.stdout.write(
            f"{len(prices):,} prices: this {said} version {card.version} of {code}, in"
            f" {operator.currency} per million tokens, from {effective_from} on"
        )
