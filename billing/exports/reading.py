"""A charge file as its receiver sees it: is it whole, and was it taken in before?

Reads nothing but the file and the receiver's own list of what it has taken in, so that the
carrier's side can do the same with a script of its own.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import BinaryIO

from billing.exports import cells
from billing.exports.charge_files import FIELDS, FORMAT

_AMOUNT = re.compile(r"-?(0|[1-9][0-9]{0,13})\.[0-9]{2}", re.ASCII)
_COUNT = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII)
_LONGEST_LINE = 4096


class Broken(Exception):
    """A file that cannot be taken in; the text says where and why."""


class Refused(Exception):
    """A file that is whole, but not the one that is due."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A file that is what its trailer says it is."""

    operator: str
    sequence: int
    currency: str
    count: int
    total: Decimal
    sha256: str


def check(file: BinaryIO) -> Checked:
    """Verify a file, a line at a time. Raises Broken."""
    whole, body = hashlib.sha256(), hashlib.sha256()
    header: list[str] | None = None
    trailer: list[str] | None = None
    count, sums = 0, {True: Decimal(0), False: Decimal(0)}
    for nr, (raw, fields) in enumerate(_lines(file), 1):
        whole.update(raw)
        if trailer is not None:
            raise Broken(f"line {nr}: something follows the trailer")
        kind = fields[0]
        if nr == 1:
            header = _header(fields)
        elif kind == "trailer":
            trailer = fields
            continue
        elif kind in ("charge", "credit", "reversal", "order"):
            count += 1
            amount = _amount(fields[10], nr)
            if fields[1] != str(count):
                raise Broken(f"line {nr}: says it is number {fields[1]}, it is number {count}")
            if not fields[2]:
                raise Broken(f"line {nr}: names no invoice")
            if amount == 0 or (kind == "credit" and amount > 0) or (kind == "order" and amount < 0):
                raise Broken(f"line {nr}: a {kind} of {amount}")
            sums[amount > 0] += amount
        else:
            raise Broken(f"line {nr}: begins with {kind!r}")
        body.update(raw)
    if header is None:
        raise Broken("the file is empty")
    if trailer is None:
        raise Broken("there is no trailer: the file was cut off")
    said = (trailer[1], *(_amount(field, "the trailer") for field in trailer[2:5]))
    found = (str(count), sums[True], sums[False], sums[True] + sums[False])
    names = ("lines", "sum of charges", "sum of credits", "total")
    for name, one, other in zip(names, said, found, strict=True):
        if one != other:
            raise Broken(f"the trailer says {one} for {name}, the lines make {other}")
    if trailer[5] != body.hexdigest():
        raise Broken("the trailer's hash is not that of the lines: something was changed")
    return Checked(
        operator=cells.original(header[2]),
        sequence=int(header[3]),
        currency=header[4],
        count=count,
        total=sums[True] + sums[False],
        sha256=whole.hexdigest(),
    )


def _header(fields: list[str]) -> list[str]:
    if fields[0] != "header":
        raise Broken("line 1: there is no header")
    if fields[1] != FORMAT:
        raise Broken(f"line 1: format {fields[1]!r}; format {FORMAT} is known here")
    if not _COUNT.fullmatch(fields[3]) or fields[3] == "0" or not fields[2]:
        raise Broken("line 1: the header names no operator and sequence number")
    return fields


def _amount(field: str, nr: int | str) -> Decimal:
    if not _AMOUNT.fullmatch(field):
        place = f"line {nr}" if isinstance(nr, int) else nr
        raise Broken(f"{place}: {field!r} is no amount with two places")
    return Decimal(field)


def _lines(file: BinaryIO) -> Iterator[tuple[bytes, list[str]]]:
    """Each record with its bytes; one with a line break inside quotes is several lines."""
    nr = 0
    while raw := file.readline(_LONGEST_LINE):
        nr += 1
        while raw.count(b'"') % 2 and len(raw) <= _LONGEST_LINE:
            more = file.readline(_LONGEST_LINE)
            if not more:
                raise Broken(f"line {nr}: a quote is never closed")
            raw += more
        if not raw.endswith(b"\r\n"):
            raise Broken(f"line {nr}: does not end with CRLF, or never ends")
        try:
            [fields] = csv.reader(io.StringIO(raw.decode(), newline=""), strict=True)
        except (UnicodeDecodeError, csv.Error, ValueError) as error:
            raise Broken(f"line {nr}: is no line of UTF-8 comma-separated values") from error
        if len(fields) != FIELDS:
            raise Broken(f"line {nr}: {len(fields)} fields, not {FIELDS}")
        yield raw, fields


def take_in(checked: Checked, taken: Path) -> bool:
    """Note a file in the list of those taken in; False where this very file is in it already.

    Raises Refused for another file under a number that is taken, and for one that comes too early.
    """
    last = 0
    if taken.exists():
        for nr, line in enumerate(taken.read_text(encoding="utf-8").splitlines(), 1):
            try:
                row = json.loads(line)
                operator, sequence, sha256 = row["operator"], row["sequence"], row["sha256"]
            except (ValueError, KeyError, TypeError) as error:
                raise Broken(f"{taken.name}, line {nr}: is no list of files taken in") from error
            if operator != checked.operator:
                continue
            if sequence == checked.sequence:
                if sha256 == checked.sha256:
                    return False
                raise Refused(f"another file was taken in as number {sequence} (SHA-256 {sha256})")
            last = max(last, sequence)
    if checked.sequence != last + 1:
        raise Refused(f"number {last + 1} is due, this is number {checked.sequence}")
    row = {
        "operator": checked.operator,
        "sequence": checked.sequence,
        "sha256": checked.sha256,
        "lines": checked.count,
        "total": str(checked.total),
    }
    with taken.open("a", encoding="utf-8") as file:
        file.write(f"{json.dumps(row, ensure_ascii=False)}\n")
        file.flush()
        os.fsync(file.fileno())
    return True
