"""The typefaces of documents, as set-up fetched them, and which character is drawn with which."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import reportlab
from django.conf import settings
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont

from subscriptions.errors import DomainError

REGULAR, BOLD = "regular", "bold"
# A character is drawn by the first family that has it. The second has Chinese names that the first
# lacks (𠮷), the third, which comes with reportlab, European ones (Łukasz).
_SC, _JP = "noto-sans-sc/{0}/NotoSansSC_{0}.ttf", "noto-sans-jp/{0}/NotoSansJP_{0}.ttf"
_FILES: dict[str, tuple[str, ...]] = {
    REGULAR: (_SC.format("400Regular"), _JP.format("400Regular"), "Vera.ttf"),
    BOLD: (_SC.format("600SemiBold"), _JP.format("600SemiBold"), "VeraBd.ttf"),
}


class FontMissing(DomainError):
    """Set-up was not run, or was stopped."""

    status = 503
    cause = "no_font"


@dataclass(frozen=True, slots=True)
class Run:
    """Characters that one font draws."""

    font: str
    text: str


class _Font(TTFont):  # type: ignore[misc]
    """A font whose text can be copied: reportlab names a character beyond U+FFFF, such as 𠮷, by
    its number, where the format wants UTF-16."""

    def addObjects(self, doc: Any) -> None:
        before = set(doc.idToObject)
        super().addObjects(doc)
        for name in set(doc.idToObject) - before:
            if name.startswith("toUnicodeCMap:"):
                stream = doc.idToObject[name]
                stream.content = re.sub(r"<([0-9A-F]{5,6})>", _as_utf16, stream.content)


def _as_utf16(code: re.Match[str]) -> str:
    return f"<{chr(int(code[1], 16)).encode('utf-16-be').hex().upper()}>"


@cache
def _font(family: int, weight: str) -> _Font:
    """A font, read once a process and when first wanted: 23 MB of memory each."""
    file = _FILES[weight][family]
    folder = Path(settings.FONTS) if "/" in file else Path(reportlab.__file__).parent / "fonts"
    if not (folder / file).is_file():
        raise FontMissing(f"the font {file} is not there: `make setup` fetches it")
    font = _Font(Path(file).stem, str(folder / file), asciiReadable=False)
    pdfmetrics.registerFont(font)
    return font


def main(weight: str = REGULAR) -> str:
    """The name of the font that most is drawn with."""
    return str(_font(0, weight).fontName)


def _family_of(character: str, weight: str) -> int:
    for family in range(len(_FILES[weight])):
        if ord(character) in _font(family, weight).face.charToGlyph:
            return family
    return 0  # which draws a box for what it lacks


@lru_cache(maxsize=20_000)
def runs(text: str, weight: str) -> tuple[Run, ...]:
    """A text by the fonts that draw its characters."""
    glyphs = _font(0, weight).face.charToGlyph
    if all(ord(character) in glyphs for character in text):
        return (Run(main(weight), text),)
    return tuple(
        Run(str(_font(family, weight).fontName), "".join(characters))
        for family, characters in groupby(text, lambda c: _family_of(c, weight))
    )


@lru_cache(maxsize=20_000)
def width(text: str, weight: str, size: float) -> float:
    """How wide a text is drawn, in points."""
    return float(
        sum(pdfmetrics.stringWidth(run.text, run.font, size) for run in runs(text, weight))
    )


def clean(text: str) -> str:
    """A text in one line, without what is not drawn but moves what is: controls, bidi marks."""
    spaced = " ".join(unicodedata.normalize("NFC", text).split())
    return "".join(c for c in spaced if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co"))
