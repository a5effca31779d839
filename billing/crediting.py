"""What a credit note takes back of each line of an invoice. Pure.

A note never takes more than is left: of a line, of a tax rate, of the invoice; in gross, net and
tax. Each line's net follows from all that is credited of it by now, less what was before, so that
notes over all of a line come to its own net and tax to the fen, however many they are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from billing import rating


@dataclass(frozen=True, slots=True)
class Left:
    """A line of an invoice, and what of it no note has credited; `part_of` is the line that it is
    off, for a discount or a refund."""

    nr: int
    tax_rate: Decimal
    gross: Decimal
    left_gross: Decimal
    left_net: Decimal
    part_of: int | None = None

    @property
    def left_tax(self) -> Decimal:
        return self.left_gross - self.left_net

    def all(self) -> Back:
        return Back(self.nr, self.left_net, self.left_tax)

    def some(self, gross: Decimal) -> Back:
        """So much of it, at its rate; all of it where that is so much."""
        if gross == self.left_gross:
            return self.all()
        net, _ = rating.tax_of(self.gross - self.left_gross + gross, self.tax_rate)
        before, _ = rating.tax_of(self.gross, self.tax_rate)
        net -= before - self.left_net
        return Back(self.nr, net, gross - net).within(self)


class Back(NamedTuple):
    """What is taken back of a line; below zero of one that is below zero itself."""

    nr: int
    net: Decimal
    tax: Decimal

    @property
    def gross(self) -> Decimal:
        return self.net + self.tax

    def shifted(self, net: Decimal) -> Back:
        """With so much more of it net, and less tax."""
        return Back(self.nr, self.net + net, self.tax - net)

    def within(self, left: Left) -> Back:
        """Net and tax not below zero and no more than is left of each."""
        net = min(self.net, left.left_net, self.gross)
        net = max(net, self.gross - left.left_tax, rating.ZERO)
        return Back(self.nr, net, self.gross - net)


def left_of(lines: Sequence[Left]) -> Decimal:
    """What can be credited at most."""
    return sum((line.left_gross for line in lines), rating.ZERO)


def take_back(lines: Sequence[Left], amount: Decimal | None = None) -> list[Back]:
    """What to take back of each line for an amount (> 0, at most `left_of`), or for all of them.

    An amount is spread over the tax rates by what is left of each, then over the lines of a rate,
    a line together with what is off it. What is owed back of a rate or a line itself, because it is
    below zero, has no share until the rest is taken.
    """
    if amount is None:
        return _all(lines)
    rates: dict[Decimal, list[Left]] = defaultdict(list)
    for line in lines:
        rates[line.tax_rate].append(line)
    back: list[Back] = []
    for some, share in _spread(amount, rates.values()):
        back += _of_rate(some, share)
    return sorted(back)


def _all(lines: Iterable[Left]) -> list[Back]:
    return [line.all() for line in lines if line.left_gross or line.left_net]


def _spread(
    amount: Decimal, groups: Iterable[Sequence[Left]]
) -> Iterable[tuple[Sequence[Left], Decimal]]:
    """An amount over those groups of which something is left."""
    owed = [group for group in groups if left_of(group) > 0]
    shares = rating.spread(amount, [left_of(group) for group in owed])
    return [pair for pair in zip(owed, shares, strict=True) if pair[1]]


def _of_rate(lines: Sequence[Left], amount: Decimal) -> list[Back]:
    if amount == left_of(lines):
        return _all(lines)
    groups: dict[int, list[Left]] = defaultdict(list)
    for line in lines:
        groups[line.nr if line.part_of is None else line.part_of].append(line)
    back: list[Back] = []
    for group, share in _spread(amount, groups.values()):
        if share == left_of(group):
            back += _all(group)
            continue
        for [line], part in _spread(share, [[line] for line in group]):
            back.append(line.some(part))
    return _evened(back, lines)


def _evened(back: Sequence[Back], lines: Sequence[Left]) -> list[Back]:
    """Where rounding each line took a fen more net, or more tax, than is left of the rate, the
    other has it."""
    by_nr = {line.nr: line for line in lines}
    net_left = sum((line.left_net for line in lines), rating.ZERO)
    net = sum((one.net for one in back), rating.ZERO)
    least = sum((one.gross for one in back), rating.ZERO) - (left_of(lines) - net_left)
    shift = min(max(net, least), net_left) - net
    evened = []
    for one in back:
        moved = one.shifted(shift).within(by_nr[one.nr]) if shift and one.gross > 0 else one
        shift -= moved.net - one.net
        evened.append(moved)
    return evened
