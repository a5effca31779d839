"""The lines of an e-fapiao, from those of a bill. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, NamedTuple

from billing.documents.capitals import capitals

PLACES = Decimal("1e-13")  # of a quantity and of a price, at most
_MILLION = Decimal(10**9)  # in thousandths of a unit


class Charged(NamedTuple):
    """A line of a bill, as much as is left of it."""

    nr: int
    description: str
    units: int | None
    net: Decimal
    tax_rate: Decimal
    tax: Decimal


class Item(NamedTuple):
    """What the tax platform knows the goods of a tax rate as."""

    tax_class: str
    name: str


def lines(charged: Sequence[Charged], items: Mapping[Decimal, Item]) -> list[dict[str, Any]]:
    """Numbers as strings; what costs nothing is left out. KeyError: a rate without a tax class.

    Money does not follow from quantity and price: these follow from it, without tax. What is taken
    back has a quantity below zero, its price is above.
    """
    return [_line(one, items[one.tax_rate]) for one in charged if one.net or one.tax]


def _line(one: Charged, item: Item) -> dict[str, Any]:
    quantity, unit = Decimal(1), "项"
    if one.units:
        quantity, unit = Decimal(abs(one.units)) / _MILLION, "百万词元"
    price = (abs(one.net) / quantity).quantize(PLACES, ROUND_HALF_UP)
    sign = "-" if one.net < 0 else ""
    return {
        "line": one.nr,
        "item": f"*{item.name}*{one.description}",
        "tax_class": item.tax_class,
        "unit": unit,
        "quantity": sign + _plain(quantity),
        "price": _plain(price),
        "amount": f"{one.net:.2f}",
        "tax_rate": _plain(one.tax_rate),
        "tax": f"{one.tax:.2f}",
    }


def _plain(value: Decimal) -> str:
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


class Totals(NamedTuple):
    net: Decimal
    tax: Decimal
    gross: Decimal
    capitals: str


def totals(rows: Sequence[Mapping[str, Any]]) -> Totals:
    """The sums of lines, never computed in another way."""
    net = sum((Decimal(row["amount"]) for row in rows), Decimal("0.00"))
    tax = sum((Decimal(row["tax"]) for row in rows), Decimal("0.00"))
    return Totals(net, tax, net + tax, capitals(net + tax))
