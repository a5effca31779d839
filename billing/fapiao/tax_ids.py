"""Taxpayer ids, as a company's title on an e-fapiao has them. Pure."""

from __future__ import annotations

import re

_SHAPE = re.compile(r"[0-9A-Z]{15,20}", re.ASCII)
# GB 32100-2015: the 18 places of a unified social credit code, the last of which checks the others.
_ALPHABET = "0123456789ABCDEFGHJKLMNPQRTUWXY"
_UNIFIED = 18


def written(text: str) -> str:
    """As it is kept: people put spaces in and write small letters."""
    return re.sub(r"[\s-]", "", text).upper()


def is_tax_id(text: str) -> bool:
    """Whether it can be a taxpayer id: one of 18 places has to agree with its check character.

    Older ids of 15, 17 and 20 places have none.
    """
    if not _SHAPE.fullmatch(text):
        return False
    if len(text) != _UNIFIED:
        return True
    if any(letter not in _ALPHABET for letter in text):
        return False
    places = [_ALPHABET.index(letter) for letter in text]
    weighed = sum(place * pow(3, nr, 31) for nr, place in enumerate(places[:-1]))
    return (31 - weighed % 31) % 31 == places[-1]
