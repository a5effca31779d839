"""QR codes, drawn on the server."""

from __future__ import annotations

from itertools import groupby

from reportlab.graphics.barcode import qrencoder

# What a camera needs around it.
_QUIET = 4
# The longest that fits at this level of correction.
LONGEST = 1200


def svg(text: str) -> str:
    """A code that holds `text`, as SVG without a size: one path, a unit a module."""
    if len(text.encode()) > LONGEST:
        raise ValueError("too long for a code that cameras read")
    code = qrencoder.QRCode(None, qrencoder.QRErrorCorrectLevel.M)
    code.addData(text)
    code.make()
    side = code.getModuleCount() + 2 * _QUIET
    path = "".join(_row(nr, row) for nr, row in enumerate(code.modules))
    return (
        f'<svg viewBox="0 0 {side} {side}" shape-rendering="crispEdges" aria-hidden="true">'
        f'<path fill="#fff" d="M0 0h{side}v{side}H0z"/><path d="{path}"/></svg>'
    )


def _row(nr: int, modules: list[bool]) -> str:
    runs, x = [], 0
    for dark, group in groupby(modules):
        width = len(list(group))
        if dark:
            runs.append(f"M{x + _QUIET} {nr + _QUIET}h{width}v1h-{width}z")
        x += width
    return "".join(runs)
