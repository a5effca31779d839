"""Bars of a chart, drawn on the server: whole numbers of a picture 1,000 wide and 240 high.

The table behind a chart says the same in words; a chart is for the eye only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 1000, 240


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a bar: `series` 1 to 6 says its colour."""

    y: int
    height: int
    series: int


@dataclass(frozen=True, slots=True)
class Bar:
    x: int
    width: int
    parts: list[Part]


def bars(columns: Sequence[Sequence[int]]) -> list[Bar]:
    """One bar a column, its values piled up from below; the highest fills the picture.

    What is not nothing is seen: at least 2 high. Values below zero are drawn as nothing.
    """
    top = max((sum(max(value, 0) for value in column) for column in columns), default=0)
    if not top:
        return []
    step = WIDTH / len(columns)
    made = []
    for nr, column in enumerate(columns):
        y = HEIGHT
        parts = []
        for series, value in enumerate(column, start=1):
            if value <= 0:
                continue
            height = max(2, round(value * HEIGHT / top))
            y = max(0, y - height)
            parts.append(Part(y, height, min(series, 6)))
        left = round(nr * step + step * 0.12)
        made.append(Bar(left, max(2, round(step * 0.76)), parts))
    return made
