from __future__ import annotations

import datetime as dt
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from billing.management.reports import operator_named
from billing.models import PaymentDifference, ProviderFile
from billing.provider_books import fetching, importing, reporting
from billing.provider_books.layouts import LAYOUTS
from subscriptions import clock
from subscriptions.errors import DomainError
from subscriptions.models import Operator


class Command(BaseCommand):
    help = "Providers' files against our books: import one, list them, days, what differs."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--operator", metavar="CODE", help="where there are several")
        actions = parser.add_subparsers(dest="action", required=True)
        load = actions.add_parser("import", help="a file, whole or not at all; again is harmless")
        load.add_argument("file", type=Path)
        load.add_argument("--layout", required=True, choices=sorted(LAYOUTS))
        load.add_argument("--account", default="", help="as in cash:ACCOUNT; default: the layout")
        load.add_argument("--by", required=True, help="who imports it")
        fetch = actions.add_parser("fetch", help="what providers tell of a day when they are asked")
        fetch.add_argument(
            "day",
            type=dt.date.fromisoformat,
            nargs="?",
            help="as in 2026-06-01; without: all that are over and not here",
        )
        actions.add_parser("list", help="the files that were imported")
        days = actions.add_parser("days", help="what was moved, day by day, and what of it differs")
        days.add_argument("first", type=dt.date.fromisoformat, metavar="FROM")
        days.add_argument("last", type=dt.date.fromisoformat, metavar="TO")
        actions.add_parser("differences", help="what nobody has resolved")

    def handle(self, *args: Any, **options: Any) -> None:
        operator = operator_named(options["operator"])
        try:
            match options["action"]:
                case "import":
                    self._import(operator, options)
                case "fetch":
                    self._fetch(operator, options["day"])
                case "list":
                    for file in ProviderFile.objects.filter(operator=operator).order_by("id"):
                        self._say(file)
                case "days":
                    self._days(operator, options)
                case _:
                    self._differences(operator)
        except DomainError as error:
            raise CommandError(f"{error.detail} ({error.cause})", returncode=2) from error

    def _import(self, operator: Operator, options: dict[str, Any]) -> None:
        path: Path = options["file"]
        try:
            with path.open("rb") as file:
                loaded = importing.load(
                    operator,
                    file,
                    layout=options["layout"],
                    account=options["account"],
                    name=path.name,
                    by=options["by"],
                    at=clock.now(operator),
                )
        except OSError as error:
            raise CommandError(f"{path}: {error.strerror}", returncode=2) from error
        self._say(loaded.file)
        if not loaded.new:
            self.stdout.write("it was imported before: nothing has changed")

    def _fetch(self, operator: Operator, day: dt.date | None) -> None:
        at = clock.now(operator)
        if day is None:
            self.stdout.write(f"{fetching.run(operator, at=at)} days came")
            return
        for account in fetching.accounts_of(operator, at=at):
            self._say(fetching.fetch(operator, account, day, at=at).file)

    def _say(self, file: ProviderFile) -> None:
        self.stdout.write(
            f"{file.pk}  {file.name}  {file.layout} cash:{file.account}"
            f"  {file.first_day} to {file.last_day}  {file.lines} new of {file.rows} lines"
        )

    def _days(self, operator: Operator, options: dict[str, Any]) -> None:
        for one in reporting.days(operator, options["first"], options["last"]):
            self.stdout.write(
                f"{one.day} {one.account}  {one.total} = matched {one.matched}"
                f" + missing here {one.missing_here} + amount differs {one.amount_differs}"
                f" + fees {one.fees} + payouts {one.payouts}"
            )
            self.stdout.write(
                f"    ours {one.ours} = matched {one.matched}"
                f" + amount differs {one.amount_differs_ours} + missing there {one.missing_there}"
                f"; open: {one.open}, {one.open_amount}"
            )

    def _differences(self, operator: Operator) -> None:
        rows = PaymentDifference.objects.filter(operator=operator).exclude(state="resolved")
        for one in rows.order_by("id"):
            self.stdout.write(
                f"{one.pk}  {one.day} {one.account}  {one.kind} {one.amount} {one.currency}"
                f"  {one.line_id or one.ours}  {one.state} {one.owner}"
            )
