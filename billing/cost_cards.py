"""Prices of a supplier as a file says them: CSV with a header, or a JSON array of objects.

    model,input,cached_input,cache_write,output,reasoning
    deepseek/*,2.00,0.20,,3.00,

Money per million tokens. What is empty (or not there) costs what its class usually costs: cached
input and cache write what input costs, reasoning what output does.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from billing.costs import Price

COLUMNS = ("model", "input", "cached_input", "cache_write", "output", "reasoning")
_PRICE = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6})?", re.ASCII)
_MOST_PROBLEMS = 20


class CardError(Exception):
    """A file that is no card; the text names each line and what is wrong with it."""


def read(raw: bytes) -> list[Price]:
    """The prices in a file. Raises CardError."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CardError("the file is not UTF-8") from error
    rows = list(_json(text) if text.lstrip().startswith(("[", "{")) else _csv(text))
    problems: list[str] = []
    prices: dict[str, Price] = {}
    for place, row in rows:
        try:
            price = _price(row)
            if price.model in prices:
                raise CardError(f"{price.model} has a price already")
            prices[price.model] = price
        except CardError as error:
            problems.append(f"{place}: {error}")
    if not rows:
        problems.append("there is no price in it")
    if problems:
        more = [f"and {len(problems) - _MOST_PROBLEMS} more"] * (len(problems) > _MOST_PROBLEMS)
        raise CardError("\n".join(problems[:_MOST_PROBLEMS] + more))
    return list(prices.values())


def _csv(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        header = next(rows, [])
        if not {"model", "input", "output"} <= set(header) <= set(COLUMNS):
            raise CardError(f"the first line names the columns: {','.join(COLUMNS)}")
        for row in rows:
            if not row:
                continue
            if len(row) != len(header):
                raise CardError(f"line {rows.line_num}: {len(row)} cells, not {len(header)}")
            yield f"line {rows.line_num}", dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise CardError(f"line {rows.line_num}: {error}") from error


def _json(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        said = json.loads(text, parse_float=Decimal, parse_int=Decimal)
    except (ValueError, RecursionError) as error:
        raise CardError(f"the file is no JSON: {error}") from error
    if not isinstance(said, list):
        raise CardError("the file is no JSON array of prices")
    for nr, row in enumerate(said, 1):
        if not isinstance(row, dict) or not set(row) <= set(COLUMNS):
            raise CardError(f"price {nr}: is no object of {', '.join(COLUMNS)}")
        yield f"price {nr}", row


def _price(row: dict[str, Any]) -> Price:
    model = row.get("model")
    if not isinstance(model, str) or not 0 < len(model) <= 256 or "\x00" in model:
        raise CardError("model is the name of a model, or a pattern with *")
    uncached, output = _amount(row, "input"), _amount(row, "output")
    return Price(
        model=model,
        uncached_input=uncached,
        cached_input=_amount(row, "cached_input", uncached),
        cache_write=_amount(row, "cache_write", uncached),
        output=output,
        reasoning=_amount(row, "reasoning", output),
    )


def _amount(row: dict[str, Any], column: str, usual: Decimal | None = None) -> Decimal:
    value = row.get(column)
    if value is None or value == "":
        if usual is None:
            raise CardError(f"{column} is missing")
        return usual
    text = f"{value:f}" if isinstance(value, Decimal) else value
    if not isinstance(text, str) or not _PRICE.fullmatch(text):
        raise CardError(f"{column} is {value}: not a price of at most 999999, with 6 places")
    return Decimal(text)
