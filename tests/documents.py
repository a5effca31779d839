"""Contents of documents for tests and the benchmark, and what a reader finds in a PDF."""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal
from typing import Any

import pypdfium2

from billing import rating
from billing.documents.content import Buyer, Content, Item, Seller
from tests.factories import SHANGHAI


def day(month: int, nr: int) -> dt.datetime:
    return dt.datetime(2026, month, nr, tzinfo=SHANGHAI)


def make_item(gross: str, *, kind: str = "fee", rate: str = "0.06", **facts: Any) -> Item:
    line = rating.line(kind, "", Decimal(gross), Decimal(rate), {})
    given: dict[str, Any] = {"name": "轻享版", "steps": (), "units": None, "price": "", **facts}
    return Item(
        kind=kind, tax_rate=line.tax_rate, net=line.net, tax=line.tax, gross=line.gross, **given
    )


def make_content(*items: Item, **facts: Any) -> Content:
    """A bill for June over these lines, 9.90 without any; `facts` are fields of Content."""
    lines = items or (make_item("9.90", price="9.90"),)
    given: dict[str, Any] = {
        "language": "zh-Hans",
        "number": "CT-2026-00000001",
        "seller": Seller("示例电信", payment_url="https://pay.example.org/{number}"),
        "buyer": Buyer("张喆", "c-1001"),
        "issued_at": day(7, 3),
        "due_at": day(7, 18),
        "period_start": day(6, 1),
        "period_end": day(7, 1),
        "currency": "CNY",
        "items": lines,
        "net": sum((item.net for item in lines), rating.ZERO),
        "tax": sum((item.tax for item in lines), rating.ZERO),
        "gross": sum((item.gross for item in lines), rating.ZERO),
        "as_of": day(7, 3),
        **facts,
    }
    return Content(**given)


def pages_of(document: bytes) -> list[str]:
    """The text of each page."""
    pdf = pypdfium2.PdfDocument(document)
    try:
        # Beyond U+FFFF pdfium answers halves of a pair.
        return [_joined(page.get_textpage().get_text_range()) for page in pdf]
    finally:
        pdf.close()


def _joined(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def fonts_of(document: bytes) -> list[str]:
    """The names of the fonts that a document uses."""
    return [name.decode() for name in re.findall(rb"/BaseFont\s*/(\S+)", document)]
