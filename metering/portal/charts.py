"""Bars of a chart, drawn on the server: whole numbers of a picture 1,000 wide and 240 high.

The table behind a chart says the same in words; a chart is for the eye only. All of one colour is
one outline, as thousands of pieces would be most of a page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 1000, 240


@dataclass(frozen=True, slots=True)
class Outline:
    """All pieces of the bars of one `series`, 1 to 6, which says their colour: an SVG path."""

    series: int
    path: str


def bars(columns: Sequence[Sequence[int]]) -> list[Outline]:
    """One bar a column, its values piled up from below; the highest fills the picture.

    What is not nothing is seen: at least 2 high. Values below zero are drawn as nothing.
    """
    top = max((sum(max(value, 0) for value in column) for column in columns), default=0)
    if not top:
        return []
    step = WIDTH / len(columns)
    width = max(2, round(step * 0.76))
    pieces: dict[int, list[str]] = {}
    for nr, column in enumerate(columns):
        x, y = round(nr * step + step * 0.12), HEIGHT
        for series, value in enumerate(column, start=1):
            if value <= 0:
                continue
            height = max(2, round(value * HEIGHT / top))
            y = max(0, y - height)
            drawn = f"M{x} {y}h{width}v{height}h-{width}z"
            pieces.setdefault(min(series, 6), []).append(drawn)
    return [Outline(series, "".join(pieces[series])) for series in sorted(pieces)]
