from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from billing.exports import charge_files
from billing.management.commands._exporting import ExportCommand, span_of
from billing.management.reports import operator_named
from subscriptions import clock
from subscriptions.errors import NotFound
from subscriptions.models import Operator


class Command(ExportCommand):
    help = (
        "Make the next charge file for the carrier's billing: all that is due and was in none yet."
        " Or a former one again, or show them all."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--currency", metavar="CODE", help="default: the operator's")
        parser.add_argument(
            "--again", type=int, metavar="SEQUENCE", help="a former file, as it was"
        )
        parser.add_argument("--list", action="store_true", help="show all that were made")

    def handle(self, *args: Any, **options: Any) -> None:
        operator = operator_named(options["operator"])
        if options["list"]:
            self._list(operator)
            return
        if options["again"] is not None:
            try:
                file = charge_files.find(operator, options["again"])
            except NotFound as error:
                raise CommandError(str(error), returncode=2) from error
        else:
            since, until = span_of(operator, options)
            made = charge_files.make(
                operator,
                at=clock.now(operator),
                since=since,
                until=until,
                currency=options["currency"] or "",
            )
            if made is None:
                self.stderr.write("Nothing is to be charged: no file was made.")
                return
            file = made
        self.deliver(charge_files.content(file), options["path"])
        self.stderr.write(
            f"File {file.sequence}: {file.count:,} lines, {file.total:,.2f} {file.currency},"
            f" SHA-256 {file.sha256}"
        )

    def _list(self, operator: Operator) -> None:
        for file in charge_files.files(operator):
            self.stdout.write(
                f"{file.sequence:>6}  {file.made_at.isoformat(timespec='seconds')}"
                f"  {file.count:>9,}  {file.total:>16,.2f} {file.currency}  {file.sha256}"
            )
