"""Amounts in Chinese capitals: by the rules, and so that they can be read back."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from billing.documents.capitals import capitals

fen = st.one_of(
    st.integers(-(10**18) + 1, 10**18 - 1),
    # Few digits, many zeros: where the rules are.
    st.builds(
        lambda digits, sign: sign * int("".join(digits)),
        st.lists(st.sampled_from("000005"), min_size=1, max_size=18),
        st.sampled_from((1, -1)),
    ),
)


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("0", "零元整"),
        ("9.90", "玖元玖角整"),
        ("29.9", "贰拾玖元玖角整"),
        ("0.05", "伍分"),
        ("0.50", "伍角整"),
        ("0.55", "伍角伍分"),
        ("1.05", "壹元零伍分"),
        ("10", "壹拾元整"),
        ("10.50", "壹拾元伍角整"),
        ("100.01", "壹佰元零壹分"),
        ("105", "壹佰零伍元整"),
        ("1409.50", "壹仟肆佰零玖元伍角整"),
        ("1680.32", "壹仟陆佰捌拾元叁角贰分"),
        ("6007.14", "陆仟零柒元壹角肆分"),
        ("16409.02", "壹万陆仟肆佰零玖元零贰分"),
        ("10000", "壹万元整"),
        ("100400", "壹拾万零肆佰元整"),
        ("107000.53", "壹拾万柒仟元伍角叁分"),
        ("10000001", "壹仟万零壹元整"),
        ("100000000", "壹亿元整"),
        ("100010000", "壹亿零壹万元整"),
        ("100000001", "壹亿零壹元整"),
        ("1000000000000", "壹万亿元整"),
        ("1000300000000", "壹万零叁亿元整"),
        ("1234567890123.45", "壹万贰仟叁佰肆拾伍亿陆仟柒佰捌拾玖万零壹佰贰拾叁元肆角伍分"),
        ("-9.90", "负玖元玖角整"),
        ("-0.01", "负壹分"),
    ],
)
def test_an_amount_reads_as_the_rules_say(amount: str, text: str) -> None:
    assert capitals(Decimal(amount)) == text


@given(fen)
@example(0)
@example(10**18 - 1)
def test_every_amount_can_be_read_back(fen: int) -> None:
    amount = Decimal(fen) / 100

    text = capitals(amount)

    assert parse(text) == amount
    assert "零零" not in text
    assert text.endswith("分") == bool(fen % 10)


@pytest.mark.parametrize("amount", ["0.001", "10000000000000000", "-10000000000000000"])
def test_what_is_no_amount_of_fen_is_refused(amount: str) -> None:
    with pytest.raises(ValueError, match="no amount"):
        capitals(Decimal(amount))


def parse(text: str) -> Decimal:
    """The amount that capitals say: digits gather, 万 and 亿 lift what is gathered."""
    sign = -1 if text.startswith("负") else 1
    amount, digit = Decimal(0), 0
    section, below_yi, whole = 0, 0, 0
    for character in text.removeprefix("负").removesuffix("整"):
        match character:
            case "拾" | "佰" | "仟":
                section += digit * {"拾": 10, "佰": 100, "仟": 1000}[character]
                digit = 0
            case "万":
                below_yi += (section + digit) * 10**4
                section = digit = 0
            case "亿":
                whole += (below_yi + section + digit) * 10**8
                below_yi = section = digit = 0
            case "元":
                amount += whole + below_yi + section + digit
                digit = 0
            case "角":
                amount += Decimal(digit) / 10
                digit = 0
            case "分":
                amount += Decimal(digit) / 100
                digit = 0
            case _:
                digit = "零壹贰叁肆伍陆柒捌玖".index(character)
    return sign * amount
