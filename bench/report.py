"""The table on screen and the file of results."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).resolve().parent / "results"
_STYLES = {"met": "green", "missed": "yellow", "below the floor": "red"}


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table; `figures` is all that was measured, for the file."""

    name: str
    what: str
    target: str
    measured: str
    ratio: float | None = None
    verdict: str = "-"
    figures: dict[str, Any] = field(default_factory=dict)


def at_least(ratio: float, target: float, floor: float) -> str:
    """The verdict of a ratio that should be high."""
    if ratio >= target:
        return "met"
    return "missed" if ratio >= floor else "below the floor"


def at_most(value: float, target: float) -> str:
    return "met" if value <= target else "missed"


def middle(values: Iterable[float]) -> float:
    return float(median(values))


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def show(console: Console, rows: Iterable[Row], *, title: str) -> None:
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    table.add_column("what")
    table.add_column("target", no_wrap=True)
    table.add_column("measured")
    table.add_column("ratio", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for row in rows:
        table.add_row(
            row.what,
            row.target,
            row.measured,
            f"{row.ratio:.2f}" if row.ratio is not None else "",
            f"[{_STYLES.get(row.verdict, 'default')}]{row.verdict}[/]",
        )
    console.print(table)


def save(rows: Iterable[Row], *, facts: dict[str, Any], began: dt.datetime) -> Path:
    """Write a run's results to a file named for its time; answers which."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{began:%Y%m%dT%H%M%SZ}.json"
    content = {"date": began.isoformat(), **facts, "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return path
