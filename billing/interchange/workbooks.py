"""Rows into an XLSX workbook on this machine's disk, one in memory at a time."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import IO

from openpyxl import Workbook
from openpyxl.cell import WriteOnlyCell
from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE
from openpyxl.styles import Font

# A sheet of a spreadsheet ends there; the rest goes on in the next one.
MOST_ROWS = 1_048_576


def rows_of(parts: Iterable[bytes]) -> Iterator[list[str]]:
    """The rows of a CSV file of ours, whose parts end with whole lines."""
    for nr, part in enumerate(parts):
        text = part.decode("utf-8-sig" if nr == 0 else "utf-8")
        yield from csv.reader(io.StringIO(text, newline=""))


def write(rows: Iterable[Sequence[str]], file: IO[bytes], *, most: int = MOST_ROWS) -> None:
    """Rows whose first is the header, which begins each sheet and stays in sight.

    All cells are text, as in a CSV file of ours: no phone number becomes a power of ten, and none
    is a formula.
    """
    book = Workbook(write_only=True)
    header: Sequence[str] | None = None
    left = 0
    sheet = None
    for row in rows:
        if header is None:
            header = row
            continue
        if sheet is None or not left:
            sheet, left = _sheet(book, header), most - 1
        sheet.append([_cell(sheet, value) for value in row])
        left -= 1
    if sheet is None:
        _sheet(book, header or [])
    book.save(file)


def _sheet(book: Workbook, header: Sequence[str]):  # type: ignore[no-untyped-def]
    sheet = book.create_sheet()
    sheet.freeze_panes = "A2"
    cells = [_cell(sheet, title) for title in header]
    for cell in cells:
        cell.font = Font(bold=True)
    sheet.append(cells)
    return sheet


def _cell(sheet, value: str):  # type: ignore[no-untyped-def]
    cell = WriteOnlyCell(sheet, value=ILLEGAL_CHARACTERS_RE.sub("", value))
    cell.data_type = "s"
    return cell
