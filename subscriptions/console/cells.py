"""What a column of a row says, to people and in files."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from django.core.exceptions import FieldDoesNotExist
from django.db.models import Field, Model
from django.utils import formats, timezone
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from djmoney.money import Money

from subscriptions.console import masks, words
from subscriptions.templatetags import figures

_UNITS = {
    *("units", "granted", "used", "reserved", "remaining", "allowance", "units_limit"),
    *("late_units", "billed_units", "overage_cap_units"),
}
_AMOUNTS = {
    *("net", "tax", "gross", "paid", "amount", "balance", "bonus", "held", "applied", "refunded"),
    *("unapplied", "captured", "fee", "owed", "lost", "unnamed", "from_wallet", "theirs"),
    *("our_amount", "least", "most", "low", "monthly_cap", "discount"),
}
_COUNTS = {
    *("uncached_input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens"),
    *("reasoning_tokens", "requests", "records", "rows", "lines"),
}
_WEIGHTS = {"input", "cached_input", "cache_write", "output", "reasoning"}
_FIGURES = {*_UNITS, *_AMOUNTS, *_COUNTS, *_WEIGHTS, "price", "percent"}


@dataclass(frozen=True, slots=True)
class Column:
    """A column by its field's name, or by a way there (`plan.code`)."""

    name: str
    title: str | Promise = ""
    personal: str = ""  # one of masks.MASKS, or "none" where its name says so wrongly
    says: Callable[[str], str] | None = None  # what people read in the place of a code

    def heading(self) -> str:
        return str(self.title or words.field(self.name))

    def mask(self) -> str:
        if self.personal == "none":
            return ""
        return self.personal or masks.PERSONAL.get(self.name.rpartition(".")[2], "")

    def figure(self) -> bool:
        """Whether it stands at the right, under its like."""
        return self.name.rpartition(".")[2] in _FIGURES

    def value(self, row: Model) -> tuple[Any, Any]:
        """What the field holds, and the row that it is of."""
        *way, name = self.name.split(".")
        at: Any = row
        for step in way:
            at = getattr(at, step, None)
            if at is None:
                return None, row
        return getattr(at, name, None), at

    def text(self, row: Model, *, shown: bool = False) -> str:
        """As people read it; personal data masked unless it is `shown`."""
        value, of = self.value(row)
        if value is None or value == "":
            return ""
        mask = self.mask()
        if mask and not shown:
            return masks.MASKS[mask](str(value))
        if self.says is not None:
            return self.says(str(value))
        return _said(value, of, self.name.rpartition(".")[2])

    def raw(self, row: Model, zone: ZoneInfo) -> str:
        """As a file holds it: masked, in full precision, and never a formula."""
        value, _row = self.value(row)
        if value is None:
            return ""
        mask = self.mask()
        if mask:
            text = masks.MASKS[mask](str(value))
        elif isinstance(value, dt.datetime):
            text = value.astimezone(zone).isoformat(timespec="seconds")
        elif isinstance(value, Money):
            text = f"{value.amount} {value.currency.code}"
        elif isinstance(value, dict | list):
            text = json.dumps(value, ensure_ascii=False, default=str)
        else:
            text = str(value)
        number = isinstance(value, int | Decimal) and not isinstance(value, bool)
        return f"'{text}" if not number and text[:1] in "=+-@\t\r" and text[:1] else text


def _said(value: Any, of: Any, name: str) -> str:
    if isinstance(value, bool):
        return _("Yes") if value else _("No")
    if isinstance(value, dt.datetime):
        return formats.date_format(timezone.localtime(value), "Y-m-d H:i:s")
    if isinstance(value, dt.date):
        return formats.date_format(value, "Y-m-d")
    if isinstance(value, dt.timedelta):
        return f"{value.total_seconds() / 3600:g} h"
    if isinstance(value, Money):
        return figures.money(value)
    if name in _UNITS and isinstance(value, int):
        return figures.exact(value)
    if name in _AMOUNTS and isinstance(value, Decimal):
        currency = getattr(of, "currency", "")
        return figures.money(Money(value, currency)) if currency else f"{value:,.2f}"
    if name in _COUNTS and isinstance(value, int):
        return figures.whole(value)
    if name in _WEIGHTS and isinstance(value, Decimal):
        return figures.plain(value)
    if name == "tax_rate" and isinstance(value, Decimal):
        return f"{figures.plain(value * 100)}%"
    if isinstance(value, bytes | memoryview):
        return f"{len(value)} B"
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, default=str) if value else ""
    if _has_choices(of, name):
        label = getattr(of, f"get_{name}_display", None)
        return words.state(value if isinstance(value, str) or label is None else label().lower())
    return str(value)


def _has_choices(of: Any, name: str) -> bool:
    try:
        field = of._meta.get_field(name)
    except (AttributeError, FieldDoesNotExist):
        return False
    return isinstance(field, Field) and (bool(field.choices) or name in ("kind", "way", "cause"))
