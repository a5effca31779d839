"""Pages of A4 to draw on: text in the fonts of documents, lines, boxes. Lengths are points.

What is drawn is noted first and put on the pages at the end, when it is known how many there are.
`y` counts from the top of the page downwards; a text stands on it.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable, Iterable
from itertools import groupby

from reportlab import rl_config
from reportlab.graphics.barcode.qrencoder import QRCode, QRErrorCorrectLevel
from reportlab.lib.colors import Color, HexColor
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen.canvas import Canvas

from billing.documents import fonts
from billing.documents.fonts import BOLD, REGULAR

WIDTH, HEIGHT = 595.28, 841.89
LEFT, RIGHT = 48.0, WIDTH - 48.0

INK, GREY, FAINT, PANEL = "#18212F", "#6B7686", "#E3E7ED", "#F4F6F9"

# Streams as bytes, not as text a quarter larger.
rl_config.useA85 = 0
# Fonts are shared by a process's documents and are read while one is written.
_WRITING = threading.Lock()

Mark = Callable[[Canvas], None]


class Sheet:
    """The pages of one document, the last of them under the pen."""

    def __init__(self, *, title: str, author: str, language: str) -> None:
        self._pages: list[list[Mark]] = [[]]
        self._title, self._author, self._language = title, author, language

    @property
    def page(self) -> int:
        return len(self._pages)

    def turn(self) -> None:
        self._pages.append([])

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = 9,
        weight: str = REGULAR,
        colour: str = INK,
        align: str = "left",
        within: float | None = None,
    ) -> None:
        """One line; smaller than asked where it would be wider than `within`."""
        wide = fonts.width(text, weight, size)
        if within is not None and wide > within:
            size *= within / wide
            wide = within
        x -= {"left": 0.0, "right": wide, "center": wide / 2}[align]
        self._pages[-1].append(_Text(x, HEIGHT - y, text, size, weight, colour))

    def rule(
        self, x: float, y: float, to: float, *, colour: str = FAINT, thick: float = 0.6
    ) -> None:
        def draw(canvas: Canvas) -> None:
            canvas.setStrokeColor(_colour(colour))
            canvas.setLineWidth(thick)
            canvas.line(x, HEIGHT - y, to, HEIGHT - y)

        self._pages[-1].append(draw)

    def box(
        self,
        x: float,
        y: float,
        wide: float,
        high: float,
        *,
        fill: str = "",
        stroke: str = "",
        radius: float = 0,
        dashed: bool = False,
    ) -> None:
        """A rectangle whose upper left corner is at (x, y)."""

        def draw(canvas: Canvas) -> None:
            canvas.saveState()
            if fill:
                canvas.setFillColor(_colour(fill))
            if stroke:
                canvas.setStrokeColor(_colour(stroke))
                canvas.setLineWidth(0.8)
            if dashed:
                canvas.setDash(3, 3)
            canvas.roundRect(
                x,
                HEIGHT - y - high,
                wide,
                high,
                radius,
                fill=int(bool(fill)),
                stroke=int(bool(stroke)),
            )
            canvas.restoreState()

        self._pages[-1].append(draw)

    def stamp(self, text: str, *, colour: str) -> None:
        """Large and pale across every page there is so far."""

        def draw(canvas: Canvas) -> None:
            canvas.saveState()
            canvas.translate(WIDTH / 2, HEIGHT / 2)
            canvas.rotate(32)
            wide = fonts.width(text, BOLD, 130)
            _Text(-wide / 2, -45, text, 130, BOLD, colour, opacity=0.12)(canvas)
            canvas.restoreState()

        for page in self._pages:
            page.append(draw)

    def code(self, x: float, y: float, side: float, content: str) -> None:
        """A QR code, its upper left corner at (x, y)."""

        def draw(canvas: Canvas) -> None:
            code = QRCode(version=None, errorCorrectLevel=QRErrorCorrectLevel.M)
            code.addData(content)
            code.make()
            module = side / code.getModuleCount()
            path = canvas.beginPath()
            for row, modules in enumerate(code.modules):
                for dark, run in groupby(enumerate(modules), lambda one: bool(one[1])):
                    if dark:
                        columns = [column for column, _ in run]
                        path.rect(
                            x + columns[0] * module,
                            HEIGHT - y - (row + 1) * module,
                            len(columns) * module,
                            module,
                        )
            canvas.setFillColor(_colour(INK))
            canvas.drawPath(path, stroke=0, fill=1)

        self._pages[-1].append(draw)

    def picture(self, x: float, y: float, wide: float, high: float, content: bytes) -> None:
        """A PNG as large as fits into the box, at its upper left."""

        def draw(canvas: Canvas) -> None:
            image = ImageReader(io.BytesIO(content))
            pixels_wide, pixels_high = image.getSize()
            scale = min(wide / pixels_wide, high / pixels_high)
            drawn = pixels_high * scale
            canvas.drawImage(image, x, HEIGHT - y - drawn, pixels_wide * scale, drawn, mask="auto")

        self._pages[-1].append(draw)

    def finish(self, foot: Callable[[Sheet, int, int], None]) -> bytes:
        """The bytes of the document, the same for the same marks. `foot` draws on each page, given
        its number and how many there are."""
        pages = self._pages
        for number, page in enumerate(pages, 1):
            self._pages = [page]
            foot(self, number, len(pages))
        self._pages = pages
        out = io.BytesIO()
        with _WRITING:
            canvas = Canvas(
                out,
                pagesize=(WIDTH, HEIGHT),
                pageCompression=1,
                invariant=1,
                initialFontName=fonts.main(),
                lang=self._language,
            )
            canvas.setTitle(self._title)
            canvas.setAuthor(self._author)
            for page in pages:
                for mark in page:
                    mark(canvas)
                canvas.showPage()
            canvas.save()
        return out.getvalue()


class _Text:
    """A line of text, its left end at (x, y) from the lower left corner."""

    __slots__ = ("colour", "opacity", "size", "text", "weight", "x", "y")

    def __init__(
        self,
        x: float,
        y: float,
        text: str,
        size: float,
        weight: str,
        colour: str,
        opacity: float | None = None,
    ) -> None:
        self.x, self.y, self.text = x, y, text
        self.size, self.weight, self.colour = size, weight, colour
        self.opacity = opacity

    def __call__(self, canvas: Canvas) -> None:
        pen = canvas.beginText(self.x, self.y)
        pen.setFillColor(_colour(self.colour), alpha=self.opacity)
        for run in fonts.runs(self.text, self.weight):
            pen.setFont(run.font, self.size)
            pen.textOut(run.text)
        canvas.drawText(pen)


_COLOURS: dict[str, Color] = {}


def _colour(name: str) -> Color:
    if name not in _COLOURS:
        _COLOURS[name] = HexColor(name)
    return _COLOURS[name]


# A word of letters, or one character of a script that is broken anywhere; a mark that closes stays
# with what is before it.
_CLOSING = "，。、；：？！）」』》〉”’…,.;:?!)%"
_WORDS = re.compile(rf"\s+|(?:[\u2e80-\U0003ffff]|[^\s\u2e80-\U0003ffff]+)[{_CLOSING}]*")


def wrapped(text: str, *, width: float, size: float, weight: str = REGULAR) -> list[str]:
    """A text in lines no wider than `width`; a word that is wider alone is broken."""
    if fonts.width(text, weight, size) <= width:
        return [text]
    lines, line = [], ""
    for word in _pieces(_WORDS.findall(text), width, size, weight):
        if fonts.width((line + word).rstrip(), weight, size) <= width:
            line += word
        else:
            lines.append(line.rstrip())
            line = word.lstrip()
    return [one for one in (*lines, line.rstrip()) if one] or [""]


def _pieces(words: Iterable[str], width: float, size: float, weight: str) -> Iterable[str]:
    for word in words:
        piece = ""
        for character in word if fonts.width(word, weight, size) > width else ():
            if piece and fonts.width(piece + character, weight, size) > width:
                yield piece
                piece = ""
            piece += character
        yield piece or word
