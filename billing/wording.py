"""In which words money is told: two languages, beside each other where they are said."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from subscriptions.units import to_wire

Language = Literal["zh-Hans", "en"]
LANGUAGES: tuple[Language, ...] = ("zh-Hans", "en")

# Kinds of a line, in English and Chinese.
_KINDS = {
    "fee": ("Plan fee", "套餐费"),
    "overage": ("Usage beyond the allowance", "超出套餐用量"),
    "block": ("Packs beyond the allowance", "超出套餐按包计费"),
    "booster": ("Booster", "加油包"),
    "gift": ("Gift", "赠送"),
    "discount": ("Discount", "优惠"),
    "upgrade": ("Upgrade", "套餐升档差价"),
    "refund": ("Refund", "退费"),
    "adjustment": ("Adjustment", "调整"),
    "late_fee": ("Late fee", "违约金"),
    "compensation": ("Compensation for an over-charge", "多收费用补偿"),
}


@dataclass(frozen=True, slots=True)
class Voice:
    """Who is spoken to: in which language, and whether they want figures `exact`ly as the books
    hold them, or as people write them."""

    language: Language = "en"
    exact: bool = True

    def say(self, en: str, zh: str) -> str:
        return en if self.language == "en" else zh

    def kind(self, kind: str) -> str:
        return self.say(*_KINDS[kind]) if kind in _KINDS else kind

    def units(self, thousandths: int) -> str:
        """1234567500 is 1,234,567.5 for people."""
        if self.exact:
            return to_wire(thousandths)
        return f"{Decimal(thousandths).scaleb(-3).normalize():,f}"

    def price(self, price: str) -> str:
        """1.200000 is 1.20 for people; a price per million may have more places."""
        if self.exact:
            return price
        whole, _, part = f"{Decimal(price):,f}".partition(".")
        return f"{whole}.{part.rstrip('0').ljust(2, '0')}"

    def instant(self, local: str) -> str:
        """An instant of a basis, in the operator's time: its minute is enough for people."""
        return local if self.exact else local[:16].replace("T", " ")

    def span(self, start: str, end: str) -> str:
        """From one instant of a basis to another: for people its first and last day."""
        if self.exact:
            return f"{start} to {end}"
        return self.days(dt.datetime.fromisoformat(start), dt.datetime.fromisoformat(end))

    def days(self, start: dt.datetime, end: dt.datetime) -> str:
        """The first and the last day of [start, end), both as local as they are given."""
        first, last = start.date(), max(start, end - dt.timedelta(microseconds=1)).date()
        if first == last:
            return f"{first}"
        return self.say(f"{first} to {last}", f"{first} 至 {last}")
