"""What a document shows: all of it, in plain values, so that drawing needs nothing else."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from dataclasses import dataclass
from decimal import Decimal

from billing.wording import Language

ZERO = Decimal("0.00")
COLOUR = "#1B5CE0"


@dataclass(frozen=True, slots=True)
class Seller:
    """Whose bill it is; `colour` (#rrggbb) is the one accent on its pages, `logo` a PNG.

    `payment_url` is what a phone opens that photographs the bill; without one there is no code.
    """

    name: str
    address: str = ""
    phone: str = ""
    tax_id: str = ""
    bank: str = ""
    bank_account: str = ""
    colour: str = COLOUR
    logo: bytes = b""
    payment_url: str = ""


@dataclass(frozen=True, slots=True)
class Buyer:
    name: str
    id: str
    phone: str = ""


@dataclass(frozen=True, slots=True)
class Item:
    """A line: what it is, how it came about, and what it costs. `units` are thousandths."""

    kind: str
    name: str
    steps: tuple[str, ...]
    units: int | None
    price: str
    tax_rate: Decimal
    net: Decimal
    tax: Decimal
    gross: Decimal


@dataclass(frozen=True, slots=True)
class Used:
    """Usage of one model: on a day, or by one request at an instant (local)."""

    at: dt.datetime
    model: str
    requests: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    units: int


@dataclass(frozen=True, slots=True)
class Usage:
    """The appendix: totals by day and model, and single requests, but for the `left_out` last."""

    as_of: dt.datetime
    days: tuple[Used, ...]
    requests: tuple[Used, ...] = ()
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Content:
    """One document. Times are local to the operator; amounts are in `currency`.

    A credit note names its `original`. `paid` is what was paid at `as_of`, when the document was
    made: a statement that stays true. `usage` is there where it was asked for.
    """

    language: Language
    number: str
    seller: Seller
    buyer: Buyer
    issued_at: dt.datetime
    due_at: dt.datetime
    period_start: dt.datetime
    period_end: dt.datetime
    currency: str
    items: tuple[Item, ...]
    net: Decimal
    tax: Decimal
    gross: Decimal
    as_of: dt.datetime
    paid: Decimal = ZERO
    original: str = ""
    reason: str = ""
    void: bool = False
    usage: Usage | None = None

    @property
    def due(self) -> Decimal:
        return ZERO if self.void else self.gross - self.paid

    @property
    def by_rate(self) -> list[tuple[Decimal, Decimal, Decimal, Decimal]]:
        """(rate, net, tax, gross) of each tax rate, the lowest first: sums of the lines."""
        sums: dict[Decimal, list[Decimal]] = defaultdict(lambda: [ZERO, ZERO, ZERO])
        for item in self.items:
            each = sums[item.tax_rate]
            each[:] = each[0] + item.net, each[1] + item.tax, each[2] + item.gross
        return [(rate, *sums[rate]) for rate in sorted(sums)]  # type: ignore[misc]
