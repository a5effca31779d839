"""A provider's file read line by line, never whole in memory; what cannot be read says where."""

from __future__ import annotations

import codecs
import csv
import datetime as dt
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import IO
from zoneinfo import ZoneInfo

from billing import rating
from billing.provider_books.layouts import DISPUTE, PAYMENT, REFUND, Layout, needed
from subscriptions.errors import Invalid
from subscriptions.models import Operator

_CELL = 4096  # characters: more is no cell of such a file
_HEADING_WITHIN = 50  # lines
_AMOUNT = re.compile(r"[+-]?[0-9]{1,12}(\.[0-9]{1,2}0*)?", re.ASCII)
_MINE = {"RMB": "CNY", "人民币": "CNY"}


class BadFile(Invalid):
    cause = "bad_file"


@dataclass(frozen=True, slots=True)
class Line:
    """A row of a provider's file: `gross` was moved (> 0 came in), `fee` of it was kept."""

    nr: int  # its place in the file
    id: str
    at: dt.datetime
    kind: str
    gross: Decimal
    fee: Decimal
    key: str
    reference: str
    payout: str
    raw: dict[str, str]


def encoding_of(file: IO[bytes], layout: Layout) -> str:
    """By which of its encodings the whole file can be read. Raises BadFile."""
    for encoding in layout.encodings:
        file.seek(0)
        reader = _decoded(file, encoding)
        try:
            for _ in reader:
                pass
        except UnicodeDecodeError:
            continue
        file.seek(0)
        return encoding
    known = " or ".join(name.removesuffix("-sig").upper() for name in layout.encodings)
    raise BadFile(f"this file is not in {known}: export it again, or save it as UTF-8")


def _decoded(file: IO[bytes], encoding: str) -> Iterator[str]:
    """Lines as text; of a mark at the beginning only where it is one."""
    decoder = codecs.getincrementaldecoder(encoding)()
    rest = ""
    while chunk := file.read(1 << 20):
        rest += decoder.decode(chunk)
        *lines, rest = rest.split("\n")
        if len(rest) > _CELL * 64:
            raise BadFile("a line is longer than any of such a file is: is it CSV?")
        for line in lines:
            yield f"{line}\n"
    rest += decoder.decode(b"", True)
    if rest:
        yield rest


def lines_of(file: IO[bytes], layout: Layout, operator: Operator) -> Iterator[Line]:
    """The lines of a file. Raises BadFile, with the place of what cannot be read."""
    zone = ZoneInfo("UTC" if layout.utc else operator.time_zone)
    if b"\0" in file.read(1 << 16):
        raise BadFile("this is no CSV: unpack it, or export it as CSV")
    text = _decoded(file, encoding_of(file, layout))
    rows = csv.reader(text, strict=True)
    heading: list[str] = []
    try:
        for row in rows:
            nr = rows.line_num
            cells = [cell.strip().removeprefix(layout.quote).strip() for cell in row]
            if not any(cells) or (layout.comment and cells[0].startswith(layout.comment)):
                continue
            if not heading:
                if needed(layout) <= set(cells):
                    heading = cells
                    _check_heading(heading, layout)
                elif nr > _HEADING_WITHIN or not layout.comment:
                    missing = sorted(needed(layout) - set(cells))
                    raise BadFile(f"line {nr}: these columns are missing: {', '.join(missing)}")
                continue
            if layout.ends and cells[0] == layout.ends:
                return
            # Some exports end every row with a comma.
            while len(cells) > len(heading) and not cells[-1]:
                cells.pop()
            if len(cells) != len(heading):
                raise BadFile(f"line {nr}: {len(cells)} cells, the heading has {len(heading)}")
            yield _line(nr, dict(zip(heading, cells, strict=True)), layout, operator, zone)
    except csv.Error as error:
        raise BadFile(f"line {rows.line_num}: {error}") from error
    if not heading:
        absent = ", ".join(sorted(needed(layout)))
        raise BadFile(f"there is no heading with these columns: {absent}")


def _check_heading(heading: list[str], layout: Layout) -> None:
    for names in (layout.id, layout.at):
        if not set(names) & set(heading):
            raise BadFile(f"this column is missing: {' or '.join(names)}")
    twice = {name for name in heading if name and heading.count(name) > 1}
    if twice & (needed(layout) | {*layout.id, *layout.at}):
        raise BadFile(f"these columns are there twice: {', '.join(sorted(twice))}")


def _line(nr: int, raw: dict[str, str], layout: Layout, operator: Operator, zone: ZoneInfo) -> Line:
    if any(len(cell) > _CELL or "\0" in cell for cell in raw.values()):
        raise BadFile(f"line {nr}: a cell of more than {_CELL} characters, or none of text")
    line_id = _first(raw, layout.id)
    if not line_id or len(line_id) > 128:
        raise BadFile(f"line {nr}: there is no {' or '.join(layout.id)}")
    currency = raw.get(layout.currency, "") or operator.currency
    currency = _MINE.get(currency, currency.upper())
    if currency != operator.currency:
        raise BadFile(f"line {nr}: {currency}, the books are in {operator.currency}")
    money_in = _amount(nr, raw, layout.money_in)
    money_out = _amount(nr, raw, layout.money_out)
    gross = money_in - abs(money_out)
    fee = _amount(nr, raw, layout.fee)
    kind = _kind(raw, layout, gross)
    if layout.money_out and layout.fee and kind == REFUND:
        gross = -abs(money_out)  # the order's own amount stands in its line too
    if layout.net and _amount(nr, raw, layout.net) != gross - fee:
        raise BadFile(f"line {nr}: {layout.net} is not {layout.money_in} less {layout.fee}")
    back = layout.back_reference if kind in (REFUND, DISPUTE) else ()
    keys = layout.refund_key if kind == REFUND and layout.refund_key else layout.key
    return Line(
        nr,
        line_id,
        _time(nr, _first(raw, layout.at), zone),
        kind,
        gross,
        fee,
        _first(raw, keys)[:64],
        _first(raw, back or layout.reference)[:255],
        _first(raw, layout.payout)[:255],
        {name: cell for name, cell in raw.items() if name and cell},
    )


def _kind(raw: Mapping[str, str], layout: Layout, gross: Decimal) -> str:
    """By its word; one that nobody knows by its sign, where that can be."""
    word = raw.get(layout.about, "")
    if word in layout.kinds:
        return layout.kinds[word]
    if layout.about and word:
        return "other"
    return PAYMENT if gross > 0 else REFUND


def _first(raw: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((raw[name] for name in names if raw.get(name)), "")


def _amount(nr: int, raw: Mapping[str, str], name: str) -> Decimal:
    """An amount to the fen; an empty cell is nothing."""
    cell = raw.get(name, "").replace(",", "")
    if not cell:
        return rating.ZERO
    if not _AMOUNT.fullmatch(cell):
        raise BadFile(f"line {nr}: {name} is {cell[:40]}: an amount has two decimals at most")
    return rating.to_fen(Decimal(cell))


def _time(nr: int, cell: str, zone: ZoneInfo) -> dt.datetime:
    try:
        found = dt.datetime.fromisoformat(cell.replace("/", "-"))
    except ValueError as error:
        raise BadFile(f"line {nr}: {cell[:40]} is no time") from error
    found = found if found.tzinfo else found.replace(tzinfo=zone)
    if not 2000 <= found.year <= 2199:
        raise BadFile(f"line {nr}: {cell[:40]} is too far away")
    return found
