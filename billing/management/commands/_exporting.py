"""What the commands that write files share: whose, of which days, and where to."""

from __future__ import annotations

import datetime as dt
from argparse import ArgumentParser
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from django.core.management.base import BaseCommand, CommandError

from billing.exports import cells
from subscriptions import periods
from subscriptions.models import Operator


class ExportCommand(BaseCommand):
    """A command with `--operator`, `--from`, `--until` and a place to write to."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--operator", metavar="CODE", help="where there are several")
        parser.add_argument("--from", dest="since", metavar="DATE", help="first day, or month")
        parser.add_argument("--until", metavar="DATE", help="the day (or month) after the last")
        parser.add_argument("path", nargs="?", default="-", help="a file; default: what is printed")

    def deliver(self, chunks: Iterable[bytes], path: str) -> None:
        """Write to a file, which is there whole or not at all, or print."""
        if path == "-":
            screen: Any = getattr(self.stdout, "_out", self.stdout)
            binary = getattr(screen, "buffer", None)
            for chunk in chunks:
                if binary is None:
                    screen.write(chunk.decode())
                else:
                    binary.write(chunk)
            return
        try:
            cells.save(chunks, Path(path))
        except OSError as error:
            raise CommandError(f"{path}: {error.strerror}", returncode=2) from error


def span_of(
    operator: Operator, options: dict[str, Any]
) -> tuple[dt.datetime | None, dt.datetime | None]:
    """The instants of `--from` and `--until`: midnights of the operator's zone."""
    since, until = (midnight_of(operator, options[name], name) for name in ("since", "until"))
    if since is not None and until is not None and since >= until:
        raise CommandError("--from must be before --until", returncode=2)
    return since, until


def midnight_of(operator: Operator, said: str | None, name: str) -> dt.datetime | None:
    """The first instant of a day (2026-07-01) or month (2026-07), None where none is said."""
    if said is None:
        return None
    try:
        day = dt.date.fromisoformat(f"{said}-01" if said.count("-") == 1 else said)
        if not periods.FIRST.date() <= day < periods.LAST.date():
            raise ValueError
    except ValueError as error:
        option = "--from" if name == "since" else f"--{name}"
        problem = f"{option} is a day or month, as in 2026-07-01 or 2026-07"
        raise CommandError(problem, returncode=2) from error
    return periods.midnight(day, ZoneInfo(operator.time_zone))
