from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from billing.exports import answers
from billing.management.reports import operator_named
from subscriptions import clock


class Command(BaseCommand):
    help = (
        "Take in what the carrier answers to charge files: lines `sequence,nr,answer,reason`, the"
        " answer `collected` or `rejected`. What it rejects is a debt again. Again is harmless."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("path", type=Path, metavar="PATH")
        parser.add_argument("--operator", metavar="CODE", help="default: the only one there is")

    def handle(self, *args: Any, **options: Any) -> None:
        operator = operator_named(options["operator"])
        try:
            with options["path"].open(encoding="utf-8", errors="replace", newline="") as file:
                taken = answers.take_in(operator, file, at=clock.now(operator))
        except OSError as error:
            raise CommandError(str(error), returncode=2) from error
        self.stdout.write(
            f"{taken.collected:,} collected, {taken.rejected:,} rejected,"
            f" {taken.invoices:,} of invoices"
        )
        for wrong in taken.wrong:
            self.stderr.write(wrong)
        if taken.wrong:
            raise CommandError(f"{len(taken.wrong):,} lines make no sense")
