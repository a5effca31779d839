"""Amounts as people type them."""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal
from typing import Any

from django import forms
from django.utils.translation import gettext as _
from djmoney.money import Money

from subscriptions.templatetags import figures

_NUMBER = re.compile(r"([+-]?)(\d{1,3}(?:,\d{3})+|\d+)(?:\.(\d*))?", re.ASCII)
# How people write the currency that they mean anyway.
_MARKS = {"CNY": ("人民币", "CNY", "RMB", "元", "¥")}
_LONGEST, _DIGITS = 40, 20


class AmountField(forms.CharField):
    """An amount above nothing, to the fen, in one currency; what is wrong with it is said here."""

    def __init__(self, currency: str, **options: Any) -> None:
        attrs = {"inputmode": "decimal", "autocomplete": "off", **options.pop("attrs", {})}
        super().__init__(max_length=_LONGEST, widget=forms.TextInput(attrs=attrs), **options)
        self.currency = currency

    def clean(self, value: Any) -> Any:
        text = super().clean(value)
        return read(text, self.currency) if text else None


def read(text: str, currency: str) -> Decimal:
    """Raises ValidationError, in words for who typed it."""
    bare = unicodedata.normalize("NFKC", text).strip()
    for mark in _MARKS.get(currency, (currency,)):
        bare = bare.removeprefix(mark).removesuffix(mark).strip()
    found = _NUMBER.fullmatch(bare)
    if found is None:
        if any(sign.isalpha() or unicodedata.category(sign) == "Sc" for sign in bare):
            name = figures.money(Money(1, currency))
            raise forms.ValidationError(
                _("Amounts here are like %(amount)s: write the number alone."),
                params={"amount": name},
            )
        raise forms.ValidationError(_("Write a number, such as 50 or 9.90."))
    if len(bare) > _DIGITS:
        raise forms.ValidationError(_("This is more than can be paid at once."))
    sign, whole, cents = found[1], found[2].replace(",", ""), found[3] or ""
    amount = Decimal(f"{whole}.{cents or 0}")
    if sign == "-" or not amount:
        raise forms.ValidationError(_("The amount has to be more than nothing."))
    if len(cents.rstrip("0")) > 2:
        raise forms.ValidationError(_("Two decimals at most: there is nothing smaller than a fen."))
    return amount.quantize(Decimal("0.01"))
