"""Credit notes over any bill: never more than is there, and all of them just what there is."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from billing import crediting, rating
from billing.crediting import Back, Left

RATES = [Decimal("0.0600"), Decimal("0.0900"), Decimal("0.0000"), Decimal("0.1300")]
ZERO = rating.ZERO


def line(nr: int, gross: Decimal, rate: Decimal, part_of: int | None = None) -> Left:
    net, _ = rating.tax_of(gross, rate)
    return Left(nr, rate, gross, gross, net, part_of)


@st.composite
def bills(draw: st.DrawFn) -> list[Left]:
    """Lines of several rates, some with discounts off them, some below zero of their own."""
    fen = st.integers(0, 20_00)
    lines: list[Left] = []
    for _ in range(draw(st.integers(1, 4))):
        rate, gross = draw(st.sampled_from(RATES)), draw(fen) * rating.FEN
        nr = len(lines) + 1
        lines.append(line(nr, gross, rate))
        for _ in range(draw(st.integers(0, 3))):
            there = crediting.left_of([one for one in lines if nr in (one.nr, one.part_of)])
            off = min(there, draw(st.integers(0, 5_00)) * rating.FEN)
            lines.append(line(len(lines) + 1, -off, rate, nr))
        if draw(st.integers(0, 4)) == 0:
            lines.append(line(len(lines) + 1, -draw(fen) * rating.FEN, rate))
    return lines


def less(lines: list[Left], back: list[Back]) -> list[Left]:
    """What is left after a note."""
    taken = {one.nr: one for one in back}
    return [
        Left(
            one.nr,
            one.tax_rate,
            one.gross,
            one.left_gross - (taken[one.nr].gross if one.nr in taken else ZERO),
            one.left_net - (taken[one.nr].net if one.nr in taken else ZERO),
            one.part_of,
        )
        for one in lines
    ]


def by_rate(lines: list[Left]) -> dict[Decimal, tuple[Decimal, Decimal, Decimal]]:
    """(gross, net, tax) that is left of each rate."""
    sums: dict[Decimal, tuple[Decimal, Decimal, Decimal]] = defaultdict(lambda: (ZERO, ZERO, ZERO))
    for one in lines:
        gross, net, tax = sums[one.tax_rate]
        sums[one.tax_rate] = gross + one.left_gross, net + one.left_net, tax + one.left_tax
    return sums


def within(left: Decimal, before: Decimal) -> bool:
    """Between nothing and what there was, on the same side of zero."""
    return min(before, ZERO) <= left <= max(before, ZERO)


@settings(max_examples=300, deadline=None)
@given(bills(), st.lists(st.integers(1, 1000), max_size=8), st.booleans())
def test_notes_never_exceed_the_invoice_and_together_are_it(
    lines: list[Left], parts: list[int], rest: bool
) -> None:
    left, credited = lines, ZERO
    for part in parts:
        whole = crediting.left_of(left)
        if whole <= 0:
            break
        amount = max(rating.FEN, rating.to_fen(whole * part / 1000))
        back = crediting.take_back(left, amount)

        assert sum((one.gross for one in back), ZERO) == amount
        after = less(left, back)
        for one, was in zip(after, left, strict=True):
            assert within(one.left_gross, was.left_gross)
            assert within(one.left_net, was.left_net)
            assert within(one.left_tax, was.left_tax)
        was_by_rate, credited = by_rate(left), credited + amount
        for rate, (gross, net, tax) in by_rate(after).items():
            assert within(gross, was_by_rate[rate][0])
            if was_by_rate[rate][0] > 0 and min(was_by_rate[rate]) >= 0:
                assert net >= 0
                assert tax >= 0
        left = after
    whole = crediting.left_of(left)
    if rest and whole > 0:
        end = less(left, crediting.take_back(left))
        assert all(one.left_gross == one.left_net == 0 for one in end)
        assert credited + whole == crediting.left_of(lines)


@given(st.integers(1, 30_00), st.sampled_from(RATES))
def test_a_line_credited_fen_by_fen_gives_back_its_own_net(fen: int, rate: Decimal) -> None:
    whole = line(1, fen * rating.FEN, rate)
    left, net = [whole], ZERO
    for _ in range(fen):
        [back] = crediting.take_back(left, rating.FEN)
        net, left = net + back.net, less(left, [back])

    assert net == whole.left_net
    assert left[0].left_gross == left[0].left_net == 0
