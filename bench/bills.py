"""Bills to draw: typical ones of one page, and one with an appendix of many."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Iterator
from decimal import Decimal
from zoneinfo import ZoneInfo

from billing import rating
from billing.documents.content import Buyer, Content, Item, Seller, Usage, Used
from billing.wording import LANGUAGES

_ZONE = ZoneInfo("Asia/Shanghai")
_NAMES = "王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧程曹袁邓"
_MODELS = ("deepseek/deepseek-chat", "qwen/qwen3-max", "glm/glm-4.6")


def _day(month: int, day: int) -> dt.datetime:
    return dt.datetime(2026, month, day, tzinfo=_ZONE)


def _item(kind: str, name: str, gross: Decimal, units: int | None, *steps: str) -> Item:
    line = rating.line(kind, name, gross, Decimal("0.06"), {})
    return Item(kind, name, steps, units, "1.20", line.tax_rate, line.net, line.tax, line.gross)


def _used(rng: random.Random, count: int) -> tuple[Used, ...]:
    return tuple(
        Used(
            _day(6, 1) + dt.timedelta(minutes=70 * nr),
            rng.choice(_MODELS),
            rng.randrange(1, 500),
            *(rng.randrange(10**6) for _ in range(4)),
        )
        for nr in range(count)
    )


def typical(rng: random.Random, count: int) -> Iterator[Content]:
    """Bills of three lines, each for somebody else, in both languages by turns."""
    for nr in range(count):
        units = rng.randrange(10**10)
        items = (
            _item("fee", "轻享版", Decimal("9.90"), None, "2026-06-01 至 2026-06-30"),
            _item(
                "overage",
                "轻享版",
                Decimal(units) * Decimal("1.2") / 10**9,
                units,
                f"超出套餐 {units / 1000:,} 词元 × 每百万 1.20",
            ),
            _item("booster", "加油包", Decimal("8.00"), 4 * 10**9, "4,000,000 词元"),
        )
        yield Content(
            LANGUAGES[nr % 2],
            f"CT-2026-{nr:08}",
            Seller("示例电信", "示例路 1 号", payment_url="https://pay.example.org/{number}"),
            Buyer("".join(rng.choices(_NAMES, k=3)), f"c-{nr}", "138****5678"),
            _day(7, 3),
            _day(7, 18),
            _day(6, 1),
            _day(7, 1),
            "CNY",
            items,
            sum((item.net for item in items), rating.ZERO),
            sum((item.tax for item in items), rating.ZERO),
            sum((item.gross for item in items), rating.ZERO),
            _day(7, 3),
        )


def appendix(rng: random.Random) -> Usage:
    """A month of three models a day and 500 requests."""
    return Usage(_day(7, 3), _used(rng, 90), _used(rng, 500))
