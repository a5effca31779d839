from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from metering import parsing, traces
from token_billing_client import ClientError, Posted, Poster


class Command(BaseCommand):
    help = (
        "Post a trace as usage records, each batch until it is answered. Prints progress on"
        " stderr and the totals as one line of JSON on stdout; status 1 if anything was rejected."
    )
    # Talks to the platform over HTTP only: its database may be on another machine.
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path, help="csv, ndjson or jsonl, each also with .gz")
        parser.add_argument("--url", required=True, help="http://127.0.0.1:8000")
        parser.add_argument("--key", required=True, help="a gateway key")
        parser.add_argument(
            "--batch", type=_from_1_to(parsing.MAX_RECORDS), default=1000, help="records a request"
        )
        parser.add_argument(
            "--concurrency", type=_from_1_to(256), default=2, help="requests at a time"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        control = traces.ControlTotals()
        batches = traces.in_batches(traces.read(options["file"]), options["batch"], control)
        problem = ""
        with _progress() as progress:
            bar = progress.add_task(options["file"].name, total=None)
            try:
                poster = Poster(
                    options["url"],
                    options["key"],
                    concurrency=options["concurrency"],
                    progress=lambda records: progress.advance(bar, records),
                )
            except ClientError as error:
                raise CommandError(str(error)) from error
            try:
                with poster:
                    poster.post(batches)
            except (ClientError, traces.TraceError) as error:
                problem = f"{error}. Run it again: what was charged is not charged twice."
        posted = poster.posted
        self.stdout.write(json.dumps(_totals(posted, control), ensure_ascii=False))
        if problem:
            raise CommandError(problem)
        if posted.rejected:
            raise CommandError(_rejections(posted))


def _totals(posted: Posted, control: traces.ControlTotals) -> dict[str, Any]:
    """Tokens are those read from the trace; the rest is what the platform answered."""
    read = control.overall
    return {
        "records": posted.records,
        "accepted": posted.accepted,
        "duplicates": posted.duplicates,
        "rejected": posted.rejected,
        "units": f"{posted.units:.3f}",
        "input_tokens": read.input_tokens,
        "output_tokens": read.output_tokens,
        "cached_input_tokens": read.cached_input_tokens,
        "seconds": round(posted.seconds, 3),
        "records_per_second": round(posted.records_per_second),
        "causes": dict(posted.causes.most_common()),
    }


def _rejections(posted: Posted) -> str:
    causes = ", ".join(f"{many} {cause}" for cause, many in posted.causes.most_common())
    lines = [f"{posted.rejected} of {posted.records} records were rejected: {causes}."]
    lines += [f"  {r.id or '(no id)'}: {r.cause}: {r.detail}" for r in posted.examples]
    if posted.rejected > len(posted.examples):
        lines.append("  …")
    return "\n".join([*lines, "They are kept: GET /api/v1/quarantine"])


def _progress() -> Progress:
    """A bar on stderr, and only where somebody looks at it."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(file=sys.stderr),
        disable=not sys.stderr.isatty(),
    )


def _from_1_to(highest: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not (text.isascii() and text.isdigit() and 1 <= int(text) <= highest):
            raise ArgumentTypeError(f"{text} is not a number from 1 to {highest}")
        return int(text)

    return number
