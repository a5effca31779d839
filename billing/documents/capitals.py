"""Amounts in Chinese capitals, as bills and cheques write them: 玖元玖角整."""

from __future__ import annotations

from decimal import Decimal

_DIGITS = "零壹贰叁肆伍陆柒捌玖"
_PLACES = ("", "拾", "佰", "仟")
_WAN, _YI = 10**4, 10**8
# Below ten thousand 万亿.
_END = Decimal(10**16)


def capitals(amount: Decimal) -> str:
    """Yuan, two decimals at most, in capitals; below zero with 负 in front.

    One 零 stands for zeros between two digits of the yuan, and for no jiao before a fen. Where the
    rules leave a 零 free (a zero at the end of the yuan, or of their 万 or 亿), there is none.
    """
    fen = amount * 100
    if fen != fen.to_integral_value() or abs(amount) >= _END:
        raise ValueError(f"{amount} is no amount of yuan and fen below {_END}")
    yuan, cents = divmod(abs(int(fen)), 100)
    jiao, fen_digit = divmod(cents, 10)
    text = "负" if amount < 0 else ""
    if yuan or not cents:
        text += f"{_whole(yuan)}元"
    if jiao:
        text += f"{_DIGITS[jiao]}角"
    elif fen_digit and yuan:
        text += "零"
    return text + (f"{_DIGITS[fen_digit]}分" if fen_digit else "整")


def _whole(number: int) -> str:
    """A whole number >= 0. Beyond 亿 is counted in it: 壹万亿, 壹万零叁亿."""
    for unit, name in ((_YI, "亿"), (_WAN, "万")):
        if number >= unit:
            high, low = divmod(number, unit)
            zero = "零" if 0 < low < unit // 10 else ""
            return f"{_whole(high)}{name}{zero}{_whole(low) if low else ''}"
    text, gap = "", False
    for place in (3, 2, 1, 0):
        digit = number // 10**place % 10
        if digit:
            text += ("零" if gap and text else "") + _DIGITS[digit] + _PLACES[place]
        gap = not digit
    return text or "零"
