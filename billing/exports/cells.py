"""Cells and lines of our files, safe to open in a spreadsheet and read back as they were."""

from __future__ import annotations

import csv
import datetime as dt
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO
from zoneinfo import ZoneInfo

from django.db import connection, transaction

from subscriptions import periods

# A cell that begins so is run as a formula by spreadsheets; the apostrophe that prevents it is
# itself among them, so that what was put in front can be taken away again.
_RUN = ("=", "+", "-", "@", "\t", "\r", "\n", "'")
_LINES_AT_ONCE = 1000


def text(value: str) -> str:
    """Text that somebody else chose, as a cell that no spreadsheet runs."""
    return f"'{value}" if value.startswith(_RUN) else value


def original(cell: str) -> str:
    """What `text` made this cell of."""
    return cell.removeprefix("'")


def date(instant: dt.datetime | None, zone: ZoneInfo) -> str:
    """The local date; of an end, the first day that is not in it any more."""
    return "" if instant is None else periods.day_of(instant, zone).isoformat()


def time(instant: dt.datetime | None, zone: ZoneInfo) -> str:
    return "" if instant is None else instant.astimezone(zone).isoformat(timespec="seconds")


def amount(value: Decimal) -> str:
    return f"{value:.2f}"


def encode(rows: Iterable[Sequence[Any]]) -> Iterator[bytes]:
    """Rows as the bytes of a file, some thousand lines at a time."""
    text_of = io.StringIO(newline="")
    writer = csv.writer(text_of, lineterminator="\r\n")
    for nr, row in enumerate(rows, 1):
        writer.writerow(row)
        if nr % _LINES_AT_ONCE == 0:
            yield text_of.getvalue().encode()
            text_of.seek(0)
            text_of.truncate()
    yield text_of.getvalue().encode()


def stream(sql: str, parameters: Sequence[Any] | dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """The rows of one statement (one snapshot), by a cursor of the server's: never all at once."""
    with transaction.atomic(), connection.chunked_cursor() as cursor:
        cursor.execute(sql, parameters)
        while rows := cursor.fetchmany(_LINES_AT_ONCE):
            yield from rows


def save(chunks: Iterable[bytes], path: Path) -> None:
    """Write a file that is there whole and on disk, or not at all."""
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            write(chunks, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            part.unlink()
        raise


def write(chunks: Iterable[bytes], file: BinaryIO) -> None:
    file.writelines(chunks)
