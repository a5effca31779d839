"""Fields of forms that people fill in as they read: tokens as `100 万` or `1.5M`."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from subscriptions.units import MAX_UNITS, THOUSANDTHS

_NUMBER = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)(万|亿|万亿|k|m|b)?")
_TIMES = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "b": 10**9,
    "万": 10**4,
    "亿": 10**8,
    "万亿": 10**12,
}


class TokensField(forms.CharField):
    """So many tokens, in thousandths; empty where none were said."""

    default_error_messages = {
        "tokens": _("Write a number of tokens, as in 500000, 500k or 1.5M."),
        "least": _("Write more than nothing."),
    }

    def __init__(self, **options: Any) -> None:
        widget = forms.TextInput(attrs={"inputmode": "text", "autocomplete": "off"})
        super().__init__(**{"max_length": 40, "widget": widget, **options})

    def clean(self, value: Any) -> int | None:
        text = str(super().clean(value)).lower()
        text = re.sub(r"[\s,，_]", "", text)
        if not text:
            return None
        found = _NUMBER.fullmatch(text)
        if found is None:
            raise forms.ValidationError(self.error_messages["tokens"], code="tokens")
        thousandths = Decimal(found[1]) * _TIMES[found[2] or ""] * THOUSANDTHS
        if thousandths != thousandths.to_integral_value() or thousandths > MAX_UNITS:
            raise forms.ValidationError(self.error_messages["tokens"], code="tokens")
        if thousandths <= 0:
            raise forms.ValidationError(self.error_messages["least"], code="least")
        return int(thousandths)


def plainly(thousandths: int | None) -> str:
    """What a TokensField shows of what was said before."""
    return "" if thousandths is None else f"{Decimal(thousandths) / THOUSANDTHS:f}"
