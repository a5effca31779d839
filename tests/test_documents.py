"""Documents as they are read: what stands in them, with which fonts, on how many pages."""

from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reportlab.pdfbase import pdfmetrics

from billing.documents import fonts
from billing.documents.content import Buyer, Seller, Usage, Used
from billing.documents.drawing import draw
from billing.documents.fonts import BOLD, REGULAR
from billing.documents.sheet import wrapped
from tests.documents import day, fonts_of, make_content, make_item, pages_of

ITEMS = (
    make_item("9.90", price="9.90", steps=("2026-06-01 至 2026-06-30",)),
    make_item("1.48", kind="overage", units=1_234_567_500, price="1.20 / 百万"),
    make_item("8.00", kind="booster", name="加油包 400 万", rate="0.09", units=4_000_000_000),
    make_item("-2.00", kind="discount", name="首月优惠"),
)


def used(count: int) -> tuple[Used, ...]:
    return tuple(
        Used(day(6, 1 + nr % 30), "deepseek/v3", 2, 10, 4, 3, 25_000) for nr in range(count)
    )


def test_a_bill_says_who_owes_what_for_what_until_when() -> None:
    [text] = pages_of(draw(make_content(*ITEMS)))

    for said in (
        *("账单", "CT-2026-00000001", "示例电信", "张喆", "c-1001"),
        *("2026-07-03", "2026-06-01 至 2026-06-30", "请于 2026-07-18 前付款"),
        *("套餐费：轻享版", "超出套餐用量：轻享版", "加油包：加油包 400 万", "优惠：首月优惠"),
        *("1,234,567.5", "1.20 / 百万", "4,000,000", "-1.89", "-0.11", "-2.00"),
        *("¥17.38", "壹拾柒元叁角捌分", "1 / 1"),
    ):
        assert said in text, said
    # By rate: 6 % of 9.90 + 1.48 - 2.00, 9 % of 8.00; then their sums.
    assert re.search(r"6 % 8\.85 0\.53 9\.38", text)
    assert re.search(r"9 % 7\.34 0\.66 8\.00", text)
    assert re.search(r"不含税合计 16\.19", text)
    assert re.search(r"税额合计 1\.19", text)


def test_it_speaks_english_too() -> None:
    item = make_item("9.90", name="Light")

    [text] = pages_of(draw(make_content(item, language="en", seller=Seller("Example Telecom"))))

    for said in ("Invoice", "Billed to", "Plan fee: Light", "Please pay by 2026-07-18", "Total"):
        assert said in text, said
    assert "玖元玖角整" in text
    assert "账单" not in text


def test_a_credit_note_names_what_it_takes_back_and_why() -> None:
    note = make_content(
        make_item("-9.90"),
        original="CT-2026-00000001",
        number="CT-2026-00000002",
        reason="重复计费",
    )

    [text] = pages_of(draw(note))

    for said in ("红字账单", "CT-2026-00000002", "CT-2026-00000001", "重复计费", "-¥9.90"):
        assert said in text, said
    assert "负玖元玖角整" in text
    assert "扫码付款" not in text


def test_a_void_bill_says_so_and_asks_for_nothing() -> None:
    [text] = pages_of(draw(make_content(*ITEMS, void=True, reason="重复开具")))

    for said in ("已作废", "重复开具", "无需付款", "¥0.00", "¥17.38"):
        assert said in text, said
    assert "扫码付款" not in text


def test_what_is_paid_is_said_as_of_a_day() -> None:
    content = make_content(*ITEMS, paid=ITEMS[0].gross, as_of=day(7, 5))

    [text] = pages_of(draw(content))

    assert "截至 2026-07-05 已付或已冲减 9.90" in text
    assert "应付金额 7.48" in text


def test_fonts_are_embedded_and_hold_only_what_is_written() -> None:
    document = draw(make_content(*ITEMS))

    names = fonts_of(document)
    assert names
    assert all(re.fullmatch(r"[A-Z]{6}\+NotoSansSC-\w+", name) for name in names), names
    assert len(re.findall(rb"/FontFile2", document)) == len(names)


@pytest.mark.parametrize("items", [1, 40])
def test_a_page_is_small(items: int) -> None:
    document = draw(make_content(*ITEMS, *(make_item("1.00") for _ in range(items))))

    assert len(document) <= 100_000 * len(pages_of(document))


def test_the_same_content_gives_the_same_bytes() -> None:
    content = make_content(*ITEMS, buyer=Buyer("𠮷 Łukasz", "c-1"), void=True)

    assert draw(content) == draw(content)


def test_many_lines_go_over_several_numbered_pages() -> None:
    items = [make_item("1.00", name=f"套餐 {nr}") for nr in range(60)]

    pages = pages_of(draw(make_content(*items)))

    assert len(pages) == 4
    for nr, text in enumerate(pages, 1):
        assert f"{nr} / 4" in text
        assert "CT-2026-00000001" in text
        assert "不含税金额" in text  # the head of a table, again
    whole = "\n".join(pages)
    assert all(f"套餐费：套餐 {nr}" in whole for nr in range(60))
    assert whole.count("陆拾元整") == 1


def test_the_appendix_lists_usage_by_day_and_by_request() -> None:
    usage = Usage(day(7, 3), used(70), used(50), left_out=1234)

    pages = pages_of(draw(make_content(usage=usage)))

    whole = "\n".join(pages)
    assert whole.count("deepseek/v3") == 120
    assert re.search(r"合计 140 700 280 210 1,750", whole)
    assert "1,234 次" in whole
    assert "deepseek" not in pages[0]


@pytest.mark.parametrize("name", ["𠮷野", "龘喆㛃䶮", "𬬭𬭎", "Łukasz", "Владимир"])
def test_rare_names_are_drawn_and_can_be_copied(name: str) -> None:
    [text] = pages_of(draw(make_content(buyer=Buyer(name, "c-1"))))

    assert name in text
    for run in fonts.runs(name, BOLD):
        glyphs = pdfmetrics.getFont(run.font).face.charToGlyph
        assert all(ord(character) in glyphs for character in run.text)


def test_a_bill_without_a_line_is_a_bill() -> None:
    content = make_content(make_item("0"))
    content = dataclasses.replace(content, items=())

    [text] = pages_of(draw(content))

    assert "本期无费用" in text
    assert "零元整" in text


@settings(max_examples=25)
@given(
    name=st.text(max_size=200),
    gross=st.decimals("-99999999999999.99", "99999999999999.99", places=2),
    units=st.one_of(st.none(), st.integers(-(10**18), 10**18)),
)
def test_whatever_is_in_a_bill_it_can_be_drawn(name: str, gross: str, units: int | None) -> None:
    item = make_item(str(gross), name=name, steps=(name, name), units=units, price=name[:20])

    document = draw(make_content(item, buyer=Buyer(name, name), seller=Seller(name)))

    assert "CT-2026-00000001" in pages_of(document)[0]


@settings(max_examples=50)
@given(st.text(min_size=1, max_size=120), st.sampled_from((20.0, 60.0, 200.0)))
def test_a_wrapped_text_is_all_there_and_fits(text: str, width: float) -> None:
    clean = fonts.clean(text)

    lines = wrapped(clean, width=width, size=9)

    assert "".join("".join(lines).split()) == "".join(clean.split())
    assert all(len(line) == 1 or fonts.width(line, REGULAR, 9) <= width for line in lines)
