from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from billing.exports import reading


class Command(BaseCommand):
    help = (
        "Verify a charge file as its receiver would: header, lines, totals, hashes. With --taken"
        " also whether it was taken in before or is not the next. Status 1: do not take it in."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("path")
        parser.add_argument(
            "--taken", metavar="FILE", help="the list of files taken in; this one is added to it"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        path = Path(options["path"])
        try:
            with path.open("rb") as file:
                checked = reading.check(file)
            new = reading.take_in(checked, Path(options["taken"])) if options["taken"] else True
        except OSError as error:
            raise CommandError(f"{error.filename}: {error.strerror}", returncode=2) from error
        except (reading.Broken, reading.Refused) as error:
            raise CommandError(f"{path.name}: {error}", returncode=1) from error
        self.stdout.write(
            f"{path.name}: file {checked.sequence} of {checked.operator}, {checked.count:,} lines,"
            f" {checked.total:,.2f} {checked.currency}, SHA-256 {checked.sha256}"
        )
        if not new:
            self.stdout.write("Taken in before, byte for byte: there is nothing to do.")
