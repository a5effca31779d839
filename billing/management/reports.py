"""What commands that report on an operator's books are asked with, and how they print tables."""

from __future__ import annotations

import csv
import datetime as dt
from argparse import ArgumentParser
from collections.abc import Iterable, Sequence
from typing import Any

from django.core.management.base import CommandError, OutputWrapper
from rest_framework.exceptions import ValidationError

from billing.exports import cells
from subscriptions import clock
from subscriptions.api.fields import Instant
from subscriptions.models import Operator


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--operator", metavar="CODE", help="where there are several")
    parser.add_argument("--at", metavar="TIME", help="RFC 3339; default: the operator's now")
    parser.add_argument("--csv", action="store_true", help="print comma-separated values")


def asked(options: dict[str, Any]) -> tuple[Operator, dt.datetime]:
    """Whose books, and as of when."""
    operator = operator_named(options["operator"])
    if options["at"] is None:
        return operator, clock.now(operator)
    try:
        at: dt.datetime = Instant().run_validation(options["at"])
    except ValidationError as error:
        said = "--at is a time with its offset, as in 2026-07-01T00:00:00+08:00"
        raise CommandError(said, returncode=2) from error
    return operator, at


def operator_named(code: str | None) -> Operator:
    """The operator of a code, or the only one there is."""
    found = list(Operator.objects.filter(code=code) if code else Operator.objects.all()[:2])
    if len(found) != 1:
        raise CommandError(
            f"there is no operator {code}" if code else "say which with --operator CODE",
            returncode=2,
        )
    return found[0]


def print_csv(out: OutputWrapper, header: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    """Comma-separated values, row by row as they come; numbers stay numbers."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(
        [cells.text(value) if isinstance(value, str) else value for value in row] for row in rows
    )
