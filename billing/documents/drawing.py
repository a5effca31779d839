"""How a bill looks: from its content to the bytes of a PDF.

The same content gives the same bytes. Figures stand right-aligned in columns as wide as their
widest; a column of text takes what is left.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from decimal import Decimal

from billing.documents import fonts
from billing.documents.capitals import capitals
from billing.documents.content import Content, Item, Usage, Used
from billing.documents.fonts import BOLD, REGULAR, clean
from billing.documents.sheet import (
    FAINT,
    GREY,
    HEIGHT,
    INK,
    LEFT,
    PANEL,
    RIGHT,
    WIDTH,
    Sheet,
    wrapped,
)
from billing.wording import Voice

_RED = "#C4262E"
_TOP = 92.0  # of what follows the head of a further page
_BOTTOM = HEIGHT - 74.0
_SYMBOLS = {"CNY": "¥"}


def draw(content: Content) -> bytes:
    """The document as PDF."""
    return _Bill(_cleaned(content)).drawn()


def _cleaned(content: Content) -> Content:
    """What people typed, fit to be drawn in a line."""

    def each(value: object) -> object:
        return clean(value) if isinstance(value, str) else value

    def fields(whole: object) -> dict[str, object]:
        names = [field.name for field in dataclasses.fields(whole)]  # type: ignore[arg-type]
        return {name: each(getattr(whole, name)) for name in names}

    given = fields(content)
    given["seller"] = type(content.seller)(**fields(content.seller))  # type: ignore[arg-type]
    given["buyer"] = type(content.buyer)(**fields(content.buyer))  # type: ignore[arg-type]
    given["items"] = tuple(
        dataclasses.replace(
            item, name=clean(item.name), steps=tuple(clean(step) for step in item.steps)
        )
        for item in content.items
    )
    return Content(**given)  # type: ignore[arg-type]


class _Column:
    """A column of a table; without `wide` it takes what is left and holds text."""

    def __init__(self, title: str, *, wide: float = 0, align: str = "right") -> None:
        self.title, self.wide, self.align = title, wide, align


class _Bill:
    def __init__(self, content: Content) -> None:
        self.content = content
        self.voice = Voice(content.language, exact=False)
        self.credit = bool(content.original)
        self.accent = _RED if self.credit else content.seller.colour
        if self.credit:
            self.title = self.say("Credit note", "红字账单")
        else:
            self.title = self.say("Invoice", "账单")
        self.sheet = Sheet(
            title=f"{self.title} {content.number}",
            author=content.seller.name,
            language="zh-CN" if content.language == "zh-Hans" else "en",
        )
        self.y = 0.0

    def say(self, en: str, zh: str) -> str:
        return self.voice.say(en, zh)

    def money(self, amount: Decimal) -> str:
        """With its currency: for a figure that stands alone."""
        sign = "-" if amount < 0 else ""
        symbol = _SYMBOLS.get(self.content.currency, f"{self.content.currency} ")
        return f"{sign}{symbol}{abs(amount):,.2f}"

    def drawn(self) -> bytes:
        self.head()
        self.parties()
        self.panel()
        self.lines()
        self.totals()
        self.closing()
        if self.content.usage is not None:
            self.appendix(self.content.usage)
        if self.content.void:
            self.sheet.stamp(self.say("VOID", "已作废"), colour=_RED)
        return self.sheet.finish(self.foot)

    # The first page, downwards -------------------------------------------------------------------

    def head(self) -> None:
        sheet, content, seller = self.sheet, self.content, self.content.seller
        sheet.box(0, 0, WIDTH, 5, fill=self.accent)
        if seller.logo:
            sheet.picture(LEFT, 44, 170, 40, seller.logo)
        else:
            size, lines = 15.0, wrapped(seller.name, width=270, size=15, weight=BOLD)
            if len(lines) > 2:
                size, lines = 10.0, wrapped(seller.name, width=270, size=10, weight=BOLD)
            for nr, line in enumerate(lines):
                sheet.text(
                    LEFT, 62 + nr * size * 1.35, line, size=size, weight=BOLD, colour=self.accent
                )
        sheet.text(RIGHT, 66, self.title, size=25, weight=BOLD, align="right")
        sheet.text(RIGHT, 84, content.number, size=10, colour=GREY, align="right", within=220)
        if content.void:
            sheet.text(
                RIGHT,
                100,
                self.say("Void", "已作废"),
                size=10,
                weight=BOLD,
                colour=_RED,
                align="right",
            )
        self.y = 132

    def parties(self) -> None:
        sheet, content = self.sheet, self.content
        top, middle = self.y, 330.0
        wide = middle - LEFT - 24
        sheet.text(LEFT, top, self.say("Billed to", "客户"), size=8, colour=GREY)
        size, lines = next(
            (size, lines)
            for size in (13.0, 11.0, 9.0)
            if len(lines := wrapped(content.buyer.name, width=wide, size=size, weight=BOLD)) <= 2
            or size == 9.0
        )
        y = top + 19.0
        for line in lines:
            sheet.text(LEFT, y, line, size=size, weight=BOLD)
            y += size * 1.4
        y += 3
        for label, value in (
            (self.say("Customer no.", "客户编号"), content.buyer.id),
            (self.say("Phone", "手机号码"), content.buyer.phone),
        ):
            for line in wrapped(f"{label}  {value}", width=wide, size=8.5) if value else ():
                sheet.text(LEFT, y + 1, line, size=8.5, colour=GREY)
                y += 13.5
        facts = [
            (self.say("Issued", "开具日期"), f"{content.issued_at:%Y-%m-%d}"),
            (
                self.say("Period", "计费周期"),
                self.voice.days(content.period_start, content.period_end),
            ),
        ]
        if self.credit:
            facts.append((self.say("Credits invoice", "冲减原账单"), content.original))
        else:
            facts.append((self.say("Due", "付款截止"), f"{content.due_at:%Y-%m-%d}"))
        right = top
        for label, value in facts:
            sheet.text(middle, right, label, size=8, colour=GREY)
            sheet.text(RIGHT, right, value, size=9.5, align="right", within=150)
            right += 11
            sheet.rule(middle, right - 3.5, RIGHT)
            right += 9
        if content.reason:
            label = self.say("Reason", "作废原因" if content.void else "红冲原因")
            sheet.text(middle, right, label, size=8, colour=GREY)
            for line in wrapped(content.reason, width=RIGHT - middle - 62, size=9):
                sheet.text(RIGHT, right, line, size=9, align="right")
                right += 12
        self.y = max(y, right) + 14

    def panel(self) -> None:
        """What is to be paid, at a glance, and how."""
        sheet, content = self.sheet, self.content
        coded = bool(content.seller.payment_url) and content.due > 0
        high = 92.0
        sheet.box(LEFT, self.y, RIGHT - LEFT, high, fill=PANEL, radius=8)
        left, right = LEFT + 20, RIGHT - 20
        if self.credit:
            label, amount = self.say("Credited to you", "冲减金额"), content.gross
            below = self.say(
                f"Lowers what is due on {content.original}; what is beyond is due to you.",
                f"先冲减账单 {content.original} 的应付金额，余额退还客户。",
            )
        elif content.void:
            label, amount = self.say("Amount due", "应付金额"), content.due
            below = self.say("This invoice is void: nothing is owed.", "本账单已作废，无需付款。")
        else:
            label, amount = self.say("Amount due", "应付金额"), content.due
            if content.due > 0:
                below = self.say(
                    f"Please pay by {content.due_at:%Y-%m-%d}",
                    f"请于 {content.due_at:%Y-%m-%d} 前付款",
                )
            else:
                below = self.say("Nothing to pay", "无需付款")
        sheet.text(left, self.y + 24, label, size=8.5, colour=GREY)
        sheet.text(
            left,
            self.y + 56,
            self.money(amount),
            size=29,
            weight=BOLD,
            colour=_RED if self.credit else INK,
            within=(RIGHT - LEFT) - (150 if coded else 40),
        )
        sheet.text(left, self.y + 77, below, size=9, within=right - left - (100 if coded else 0))
        if coded:
            side = 62.0
            url = content.seller.payment_url.replace("{number}", content.number)
            sheet.box(right - side - 10, self.y + 6, side + 14, 80, fill="#FFFFFF", radius=5)
            sheet.code(right - side - 3, self.y + 10, side, url)
            sheet.text(
                right - side / 2 - 3,
                self.y + 82,
                self.say("Scan to pay", "扫码付款"),
                size=6.5,
                colour=GREY,
                align="center",
            )
        self.y += high + 32

    # Tables --------------------------------------------------------------------------------------

    def lines(self) -> None:
        items = self.content.items
        if not items:
            self.sheet.text(
                LEFT, self.y, self.say("No charges in this period.", "本期无费用。"), colour=GREY
            )
            self.y += 24
            return
        rows = [_cells(item, self.voice) for item in items]
        titles = (
            self.say("Units", "词元"),
            self.say("Price", "单价"),
            self.say("Tax rate", "税率"),
            self.say("Net", "不含税金额"),
            self.say("Tax", "税额"),
            self.say("Amount", "含税金额"),
        )
        size, columns = _fitted(titles, rows, room=RIGHT - LEFT - 135)
        table = [_Column(self.say("Item", "项目"), align="left"), *columns]
        wide = _spread(table)
        self.header(table)
        for item, cells in zip(items, rows, strict=True):
            name = self.voice.kind(item.kind)
            if item.name and item.name != name:
                name = self.say(f"{name}: {item.name}", f"{name}：{item.name}")
            heads = wrapped(name, width=wide, size=9.5, weight=BOLD)
            steps = [
                line for step in item.steps for line in wrapped(step, width=wide + 40, size=7.5)
            ]
            high = 15 + 12.5 * len(heads) + 11 * len(steps)
            self.ensure(high, table)
            y = self.y + 17
            for nr, line in enumerate(heads):
                self.sheet.text(LEFT, y + nr * 12.5, line, size=9.5, weight=BOLD)
            x = LEFT + wide
            for nr, (cell, column) in enumerate(zip(cells, columns, strict=True)):
                x += column.wide
                self.sheet.text(
                    x,
                    y,
                    cell,
                    size=size,
                    align="right",
                    weight=BOLD if nr == len(cells) - 1 else REGULAR,
                    colour=INK if nr > 2 else GREY,
                )
            y += 12.5 * len(heads) - 0.5
            for line in steps:
                self.sheet.text(LEFT, y, line, size=7.5, colour=GREY)
                y += 11
            self.y += high
            self.sheet.rule(LEFT, self.y, RIGHT)

    def header(self, table: Sequence[_Column]) -> None:
        x = LEFT
        for column in table:
            if column.align == "left":
                self.sheet.text(x, self.y, column.title, size=8, colour=GREY)
            x += column.wide
            if column.align == "right":
                self.sheet.text(x, self.y, column.title, size=8, colour=GREY, align="right")
        self.y += 8
        self.sheet.rule(LEFT, self.y, RIGHT, colour=INK, thick=0.8)

    def ensure(self, high: float, table: Sequence[_Column] = ()) -> None:
        """Go on on another page where this one has no room left; a table says its head again."""
        if self.y + high <= _BOTTOM:
            return
        self.turn()
        if table:
            self.header(table)

    def turn(self) -> None:
        content = self.content
        self.sheet.turn()
        self.sheet.box(0, 0, WIDTH, 5, fill=self.accent)
        self.sheet.text(
            LEFT, 50, content.seller.name, size=9, weight=BOLD, colour=self.accent, within=300
        )
        self.sheet.text(
            RIGHT, 50, f"{self.title}  {content.number}", size=9, colour=GREY, align="right"
        )
        self.y = _TOP

    def totals(self) -> None:
        """The taxes by rate on the left, what it all comes to on the right."""
        content, sheet = self.content, self.sheet
        sums = [
            (self.say("Net total", "不含税合计"), content.net),
            (self.say("Tax total", "税额合计"), content.tax),
        ]
        rates = content.by_rate
        paid = bool(content.paid) and not content.void
        high = 30 + max(18 * (len(rates) + 2), 18 * 2 + 34 + (36 if paid else 0))
        self.ensure(high + 46)
        self.y += 30
        top = self.y
        if rates:
            cells = [
                (percent(rate), *(f"{amount:,.2f}" for amount in amounts))
                for rate, *amounts in rates
            ]
            titles = (
                self.say("Tax rate", "税率"),
                self.say("Net", "不含税金额"),
                self.say("Tax", "税额"),
                self.say("Amount", "含税金额"),
            )
            size, columns = _fitted(titles, cells, room=264, least=62)
            x, edges = LEFT, []
            columns[0].wide = max(36, columns[0].wide - 12)
            for nr, column in enumerate(columns):
                x += column.wide
                edges.append(LEFT if nr == 0 else x)
            y = top
            for nr, title in enumerate(titles):
                align = "left" if nr == 0 else "right"
                sheet.text(edges[nr], y, title, size=8, colour=GREY, align=align)
            sheet.rule(LEFT, y + 7, x)
            for row in cells:
                y += 18
                for nr, cell in enumerate(row):
                    align = "left" if nr == 0 else "right"
                    sheet.text(edges[nr], y + 3, cell, size=size, align=align)
            sheet.rule(LEFT, y + 11, x)
        else:
            y = top
        left, x = 366.0, RIGHT
        line = top
        for label, amount in sums:
            sheet.text(left, line, label, size=8.5, colour=GREY)
            sheet.text(x, line, f"{amount:,.2f}", size=9.5, align="right", within=110)
            line += 18
        sheet.rule(left, line - 8, RIGHT, colour=INK, thick=0.8)
        line += 12
        sheet.text(left, line, self.say("Total", "价税合计"), size=10.5, weight=BOLD)
        sheet.text(
            x, line, self.money(content.gross), size=14, weight=BOLD, align="right", within=124
        )
        if paid:
            at = f"{content.as_of:%Y-%m-%d}"
            if self.credit:
                labels = (
                    self.say(f"Set off or repaid by {at}", f"截至 {at} 已冲减或退还"),
                    self.say("Still due to you", "待退还"),
                )
            else:
                labels = (
                    self.say(f"Paid or credited by {at}", f"截至 {at} 已付或已冲减"),
                    self.say("Amount due", "应付金额"),
                )
            for label, amount in zip(labels, (content.paid, content.due), strict=True):
                line += 18
                sheet.text(left, line, label, size=8.5, colour=GREY)
                sheet.text(x, line, f"{amount:,.2f}", size=9.5, align="right", within=100)
        self.y = max(y + 11, line) + 22
        if content.currency == "CNY":
            label = self.say("Total in Chinese capitals", "价税合计（大写）")
            sheet.box(LEFT, self.y, RIGHT - LEFT, 26, fill=PANEL, radius=5)
            sheet.text(LEFT + 12, self.y + 16.5, label, size=8.5, colour=GREY)
            sheet.text(
                RIGHT - 12,
                self.y + 17,
                capitals(content.gross),
                size=11,
                weight=BOLD,
                align="right",
                within=340,
            )
            self.y += 26

    def closing(self) -> None:
        """How to pay otherwise, what this is not, and where the seal goes."""
        seller = self.content.seller
        side = 80.0
        self.ensure(side + 22 - 16)  # nothing stands below it: it may come nearer to the foot
        self.y += 22
        top = self.y
        self.sheet.box(
            RIGHT - side, top, side, side, stroke="#C3CAD4", radius=side / 2, dashed=True
        )
        self.sheet.text(
            RIGHT - side / 2,
            top + side / 2 + 3,
            self.say("Seal", "盖章处"),
            size=8,
            colour="#A7B0BC",
            align="center",
        )
        notes = []
        if seller.bank_account and not self.credit and not self.content.void:
            into = "  ".join(filter(None, (seller.name, seller.bank, seller.bank_account)))
            notes.append(self.say(f"Bank transfer: {into}", f"对公转账：{into}"))
            notes.append(
                self.say(
                    f"Please name the invoice number {self.content.number}.",
                    f"转账时请注明账单号 {self.content.number}。",
                )
            )
        notes.append(
            self.say(
                "Prices include tax. This is a bill, not a tax invoice (fapiao), which is issued"
                " on request.",
                "价格均含税。本账单不是发票；如需数电发票，请向我们申请。",
            )
        )
        y = top + 10
        for note in notes:
            for line in wrapped(note, width=RIGHT - LEFT - side - 60, size=8):
                self.sheet.text(LEFT, y, line, size=8, colour=GREY)
                y += 12.5
            y += 2
        self.y = max(y, top + side)

    # The appendix --------------------------------------------------------------------------------

    def appendix(self, usage: Usage) -> None:
        self.turn()
        title = self.say("Usage", "用量明细")
        self.sheet.text(LEFT, self.y + 12, title, size=18, weight=BOLD)
        as_of = self.say(
            f"As of {usage.as_of:%Y-%m-%d %H:%M}", f"截至 {usage.as_of:%Y-%m-%d %H:%M}"
        )
        self.sheet.text(RIGHT, self.y + 12, as_of, size=8.5, colour=GREY, align="right")
        self.y += 44
        if not usage.days:
            self.sheet.text(
                LEFT, self.y, self.say("No usage in this period.", "本期无用量。"), colour=GREY
            )
            return
        self.used(self.say("By day and model", "按日按模型"), usage.days, "%Y-%m-%d", summed=True)
        if usage.requests:
            self.y += 38
            self.used(self.say("Request by request", "逐次明细"), usage.requests, "%m-%d %H:%M:%S")
        if usage.left_out:
            self.ensure(30)
            self.y += 22
            self.sheet.text(
                LEFT,
                self.y,
                self.say(
                    f"{usage.left_out:,} further requests are in the totals above; each can be had"
                    " from your operator.",
                    f"其余 {usage.left_out:,} 次请求已计入上表，逐条记录可向运营商索取。",
                ),
                size=8,
                colour=GREY,
            )

    def used(self, title: str, rows: Sequence[Used], form: str, *, summed: bool = False) -> None:
        counts = [
            (
                *([f"{row.requests:,}"] if summed else []),
                f"{row.input_tokens:,}",
                f"{row.cached_input_tokens:,}",
                f"{row.output_tokens:,}",
                self.voice.units(row.units),
            )
            for row in rows
        ]
        if summed:
            counts.append(
                (
                    f"{sum(row.requests for row in rows):,}",
                    f"{sum(row.input_tokens for row in rows):,}",
                    f"{sum(row.cached_input_tokens for row in rows):,}",
                    f"{sum(row.output_tokens for row in rows):,}",
                    self.voice.units(sum(row.units for row in rows)),
                )
            )
        titles = (
            *([self.say("Requests", "次数")] if summed else []),
            self.say("Input", "输入"),
            self.say("of it cached", "其中缓存"),
            self.say("Output", "输出"),
            self.say("Units", "词元"),
        )
        size, columns = _fitted(titles, counts, room=RIGHT - LEFT - 190, size=8)
        when = self.say("Day", "日期") if summed else self.say("Time", "时间")
        table = [
            _Column(when, wide=72, align="left"),
            _Column(self.say("Model", "模型"), align="left"),
            *columns,
        ]
        wide = _spread(table)
        self.ensure(60)
        self.sheet.text(LEFT, self.y, title, size=10.5, weight=BOLD)
        self.y += 22
        self.header(table)
        before = ""
        for nr, cells in enumerate(counts):
            total = nr == len(rows)
            if self.y + 15 > _BOTTOM:
                before = ""
            self.ensure(15, table)
            y = self.y + 11
            weight = BOLD if total else REGULAR
            if total:
                self.sheet.text(LEFT, y, self.say("Total", "合计"), size=8, weight=weight)
            else:
                at = rows[nr].at.strftime(form)
                if at != before or not summed:
                    self.sheet.text(LEFT, y, at, size=8, colour=GREY)
                before = at
                self.sheet.text(LEFT + 72, y, rows[nr].model, size=8, within=wide - 8)
            x = LEFT + 72 + wide
            for cell, column in zip(cells, columns, strict=True):
                x += column.wide
                self.sheet.text(x, y, cell, size=size, align="right", weight=weight)
            self.y += 15
            self.sheet.rule(LEFT, self.y, RIGHT, colour=INK if nr == len(rows) - 1 else FAINT)

    # Every page ----------------------------------------------------------------------------------

    def foot(self, sheet: Sheet, page: int, pages: int) -> None:
        seller = self.content.seller
        tax_id = self.say("Tax no. ", "纳税人识别号 ") + seller.tax_id if seller.tax_id else ""
        said = "  ·  ".join(filter(None, (seller.name, seller.address, seller.phone, tax_id)))
        sheet.rule(LEFT, HEIGHT - 50, RIGHT)
        for nr, line in enumerate(wrapped(said, width=RIGHT - LEFT - 70, size=7)[:2]):
            sheet.text(LEFT, HEIGHT - 37 + nr * 10, line, size=7, colour=GREY)
        sheet.text(RIGHT, HEIGHT - 37, f"{page} / {pages}", size=8, colour=GREY, align="right")


def percent(rate: Decimal) -> str:
    """0.06 is 6 %."""
    return f"{(rate * 100).normalize():f} %"


def _cells(item: Item, voice: Voice) -> tuple[str, ...]:
    return (
        "" if item.units is None else voice.units(item.units),
        item.price,
        percent(item.tax_rate),
        f"{item.net:,.2f}",
        f"{item.tax:,.2f}",
        f"{item.gross:,.2f}",
    )


def _fitted(
    titles: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    room: float,
    size: float = 9.0,
    least: float = 0.0,
) -> tuple[float, list[_Column]]:
    """Columns of figures as wide as what stands in them, all in a size that leaves them `room`."""
    gap = 16.0
    widest = [max((row[nr] for row in rows), key=len, default="") for nr in range(len(titles))]
    while True:
        wides = [
            max(fonts.width(text, BOLD, size), fonts.width(title, REGULAR, 8), least - gap) + gap
            for text, title in zip(widest, titles, strict=True)
        ]
        if sum(wides) <= room or size <= 5:
            break
        size -= 0.5
        gap = max(8.0, gap - 2)
        least = 0.0
    return size, [_Column(title, wide=wide) for title, wide in zip(titles, wides, strict=True)]


def _spread(table: Sequence[_Column]) -> float:
    """Give the column without a width what the others leave, and answer it."""
    [free] = [column for column in table if not column.wide]
    free.wide = RIGHT - LEFT - sum(column.wide for column in table)
    return free.wide
