"""A file that somebody sent, row by row as text, however large it is.

CSV in UTF-8 (with or without a byte order mark) or GBK, separated by commas, semicolons or tabs;
or the first sheet of an XLSX workbook. Only one row is in memory, but for the texts that a workbook
shares among its cells.
"""

from __future__ import annotations

import codecs
import csv
import datetime as dt
import io
import zipfile
from collections.abc import Generator
from contextlib import closing
from typing import IO, Any

import openpyxl
from openpyxl.utils.exceptions import InvalidFileException

_LOOK = 1 << 20
# A workbook unpacks into many times its size; more than this is none of ours.
_UNPACKED = 2 << 30
_WIDEST = 200
LONGEST_CELL = 20_000


Rows = Generator[tuple[int, list[str]], None, None]


class Unreadable(Exception):
    """No table; the text says why."""


def rows(file: IO[bytes]) -> Rows:
    """Each row that is not empty, with its number in the file. Raises Unreadable, also on the way.

    Cells have no blanks around them.
    """
    file.seek(0)
    found = _sheet(file) if file.read(4) == b"PK\x03\x04" else _csv(file)
    with closing(found):  # what is half read lets go of the file while that is open
        for nr, cells in found:
            if len(cells) > _WIDEST or any(len(cell) > LONGEST_CELL for cell in cells):
                raise Unreadable(f"row {nr} is too long")
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                yield nr, stripped


def _csv(file: IO[bytes]) -> Rows:
    encoding = _encoding(file)
    file.seek(0)
    text = io.TextIOWrapper(file, encoding=encoding, newline="")
    try:
        first = text.readline()
        separator = max(",;\t", key=first.count)
        text.seek(0)
        reader = csv.reader(text, delimiter=separator)
        nr = 0
        try:
            for nr, cells in enumerate(reader, 1):
                yield nr, cells
        except csv.Error as error:
            raise Unreadable(f"row {nr + 1}: {error}") from error
    finally:
        text.detach()


def _encoding(file: IO[bytes]) -> str:
    """By which all of it can be read: a file has one."""
    for encoding in ("utf-8-sig", "gb18030"):
        decoder = codecs.getincrementaldecoder(encoding)()
        file.seek(0)
        try:
            while piece := file.read(_LOOK):
                decoder.decode(piece)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            continue
        return encoding
    raise Unreadable("this is neither an XLSX workbook nor CSV in UTF-8 or GBK")


def _sheet(file: IO[bytes]) -> Rows:
    try:
        with zipfile.ZipFile(file) as packed:
            if sum(one.file_size for one in packed.infolist()) > _UNPACKED:
                raise Unreadable("the workbook is too large; send it as CSV, or in parts")
        book = openpyxl.load_workbook(file, read_only=True, data_only=True, keep_links=False)
    except (zipfile.BadZipFile, InvalidFileException, KeyError, ValueError, OSError) as error:
        raise Unreadable("the workbook cannot be opened") from error
    try:
        if not book.worksheets:
            raise Unreadable("the workbook has no sheet")
        # What a workbook says of its size may be wrong.
        book.worksheets[0].reset_dimensions()
        for nr, cells in enumerate(book.worksheets[0].iter_rows(values_only=True), 1):
            yield nr, [_text(cell) for cell in cells]
    except (zipfile.BadZipFile, SyntaxError, ValueError, KeyError, EOFError) as error:
        raise Unreadable("the workbook is damaged") from error
    finally:
        book.close()


def _text(cell: Any) -> str:
    """A cell as it would stand in a CSV file: 13800000000, not 13800000000.0."""
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 2**53:
        return str(int(cell))
    if isinstance(cell, dt.datetime):
        return cell.isoformat(sep=" ")
    return str(cell)
