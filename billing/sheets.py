"""Comma-separated values as spreadsheets open them: written row by row, no text a formula."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

# What a spreadsheet takes for the beginning of a formula. Numbers are written as they are.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


class Out(Protocol):
    def write(self, text: str, /) -> Any: ...


def write(out: Out, header: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a header and rows as they come; none is kept."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_cell(value) for value in row] for row in rows)


def _cell(value: Any) -> Any:
    """Text that would be taken for a formula gets an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
