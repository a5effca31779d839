"""Numbers, money and times as people read them, in the language of the page.

Times are shown in the zone that is active: a page activates its operator's.
"""

from __future__ import annotations

import datetime as dt
import functools
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal

from django import template
from django.utils import formats, timezone
from django.utils.translation import get_language
from djmoney.money import Money

from subscriptions.units import THOUSANDTHS

register = template.Library()

# A number from so much on is told in this unit. Chinese counts in ten thousands.
_CHINESE = ((Decimal(10**12), "万亿"), (Decimal(10**8), "亿"), (Decimal(10**4), "万"))
_ENGLISH = ((Decimal(10**9), "B"), (Decimal(10**6), "M"))
_CURRENCIES = {
    "CNY": ("元", "¥"),
    "USD": ("美元", "$"),
    "HKD": ("港元", "HK$"),
    "EUR": ("欧元", "€"),
}
_DATES = {"zh": "Y年n月j日", "en": "j M Y"}
_SHORT_DATES = {"zh": "n月j日", "en": "j M"}
_MONTHS = {"zh": "Y年n月", "en": "F Y"}
_CENT = Decimal("0.01")


def _chinese() -> bool:
    return (get_language() or "zh").startswith("zh")


def _form(forms: dict[str, str]) -> str:
    return forms["zh" if _chinese() else "en"]


def _grouped(number: Decimal) -> str:
    """`1234.50` -> `1,234.5`."""
    text = f"{number:,f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


@register.filter
def tokens(thousandths: int | None) -> str:
    """`10_000_000_000` -> `1,000 万`, in English `10 M`; cut, never more than there is."""
    if thousandths is None:
        return "∞"
    number = Decimal(thousandths) / THOUSANDTHS
    size = abs(number)
    for unit, name in _CHINESE if _chinese() else _ENGLISH:
        if size >= unit:
            return f"{_grouped((number / unit).quantize(_CENT, ROUND_DOWN))} {name}"
    return _grouped(number.quantize(Decimal(1), ROUND_DOWN) if size >= 1 else number)


@register.filter
def count(number: int | None) -> str:
    """The same for what is counted whole: requests, tokens of a class."""
    return tokens(None if number is None else number * THOUSANDTHS)


@register.filter
def exact(thousandths: int | None) -> str:
    """`9_998_765_500` -> `9,998,765.5`."""
    if thousandths is None:
        return "∞"
    # Without a decimal: a page shows some thousands of them.
    tokens, rest = divmod(abs(thousandths), THOUSANDTHS)
    text = f"{'-' if thousandths < 0 else ''}{tokens:,d}"
    return f"{text}.{rest:03d}".rstrip("0") if rest else text


@register.filter
def units_text(text: str) -> str:
    """`"9998765.500"`, as units travel -> `9,998,765.5`."""
    return _grouped(Decimal(text))


@register.filter
def plain(number: Decimal | None) -> str:
    """`0.100` -> `0.1`."""
    return "" if number is None else _grouped(number)


@register.filter
def whole(number: int) -> str:
    """`1234567` -> `1,234,567`."""
    return f"{number:,d}"


@register.filter
def money(amount: Money | None) -> str:
    """`9.90 元`, in English `¥9.90`."""
    if amount is None:
        return ""
    value = amount.amount.quantize(_CENT, ROUND_HALF_UP)
    code = amount.currency.code
    name, sign = _CURRENCIES.get(code, (code, f"{code} "))
    if _chinese():
        return f"{value:,f} {name}"
    return f"-{sign}{-value:,f}" if value < 0 else f"{sign}{value:,f}"


@register.filter
def priced(number: Decimal | None, like: Money) -> str:
    """A price of which fractions of a cent count, in the currency of `like`: `0.0012 元`,
    `2.50 元`."""
    if number is None:
        return ""
    whole_cents = number == number.quantize(_CENT)
    text = f"{number.quantize(_CENT):,f}" if whole_cents else _grouped(number)
    code = like.currency.code
    name, sign = _CURRENCIES.get(code, (code, f"{code} "))
    return f"{text} {name}" if _chinese() else f"{sign}{text}"


@register.filter
def percent(share: Decimal | float) -> str:
    """`0.834` -> `83%`, `11.27` -> `1,127%`; whole ones, cut: 100% is all of it."""
    return f"{int(Decimal(str(share)) * 100):,d}%"


@register.filter
def per_mille(share: Decimal) -> str:
    """`0.00300` -> `3‰`."""
    return f"{_grouped(Decimal(share) * 1000)}‰"


@register.filter
def day(value: dt.date | None) -> str:
    """`2026年6月10日`, in English `10 Jun 2026`."""
    return _dated(value, _form(_DATES))


@register.filter
def short_day(value: dt.date | None) -> str:
    """`6月10日`, in English `10 Jun`."""
    return _dated(value, _form(_SHORT_DATES))


@register.filter
def month(value: dt.date | None) -> str:
    """`2026年6月`, in English `June 2026`."""
    return _dated(value, _form(_MONTHS))


@register.filter
def moment(value: dt.datetime | None) -> str:
    """`2026年6月10日 12:00`, in English `10 Jun 2026, 12:00`."""
    return _dated(value, _form(_DATES) + (" H:i" if _chinese() else ", H:i"))


@register.filter
def clock_time(value: dt.datetime | None) -> str:
    """`12:00:05`."""
    return _dated(value, "H:i:s")


@register.filter
def hour(value: dt.datetime | None) -> str:
    """`6月10日 12:00`, in English `10 Jun, 12:00`."""
    return _dated(value, _form(_SHORT_DATES) + (" H:i" if _chinese() else ", H:i"))


@register.filter
def until_day(value: dt.datetime | None) -> str:
    """The last day of what ends at an instant: valid until 1 July, 0:00, is the 30 June."""
    return "" if value is None else day(value - dt.timedelta(microseconds=1))


def _dated(value: dt.date | None, form: str) -> str:
    if value is None:
        return ""
    if isinstance(value, dt.datetime):
        value = timezone.localtime(value).replace(tzinfo=None)
    return _written(value, form, get_language())


# A page of usage shows hundreds of days, the next page mostly the same ones.
@functools.lru_cache(maxsize=10_000)
def _written(value: dt.date, form: str, language: str | None) -> str:
    return str(formats.date_format(value, form))
