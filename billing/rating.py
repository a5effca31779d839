"""What was sold and used becomes money here, and is rounded here, and nowhere else.

Pure functions on frozen values. A line's gross is rounded half up to the fen, net = gross / (1 +
rate) likewise, tax is what is left of the gross; totals are sums of lines, never computed again.
Units are thousandths.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from subscriptions import periods, policies
from subscriptions.policies import Tier
from subscriptions.taxes import Taxes

FEN = Decimal("0.01")
ZERO = Decimal("0.00")
# A price per million units is one per this many thousandths.
PER_MILLION = Decimal(1_000_000_000)


class RatingError(Exception):
    """A subscription cannot be billed as its plan says; the text says why."""


# What is rated -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Part:
    """A share of a price, with the tax rate it is sold at (TM Forum: price component).

    Where that is a category's, it holds since `tax_since`.
    """

    name: str
    price: Decimal
    tax_rate: Decimal
    tax_category: str = ""
    tax_since: dt.date | None = None

    def taxed(self, taxes: Taxes, day: dt.date) -> Part:
        """At the rate of a day."""
        dated = taxes.on(self.tax_category, day)
        return self if dated is None else replace(self, tax_rate=dated.rate, tax_since=dated.since)


@dataclass(frozen=True, slots=True)
class Tariff:
    """One version of a plan, as far as it costs money; prices include tax.

    `parts` add up to `price`; without any the whole is sold at `tax_rate`. Tiers stand in the
    place of `price_per_million`: `graduated` prices each unit by the tier it falls into, else all
    units are priced by the tier that their sum falls into.
    """

    plan_id: int
    code: str
    version: int
    name: str
    currency: str
    price: Decimal
    tax_rate: Decimal
    cycle: str
    first_month: str
    price_per_million: Decimal | None = None
    block_units: int | None = None
    block_price: Decimal | None = None
    cap: Decimal | None = None
    parts: tuple[Part, ...] = ()
    tiers: tuple[Tier, ...] = ()
    graduated: bool = True
    tax_category: str = ""
    tax_since: dt.date | None = None

    @property
    def names_taxes(self) -> bool:
        """Whether its tax rates are a matter of the day."""
        return bool(self.tax_category) or any(part.tax_category for part in self.parts)

    def taxed(self, taxes: Taxes, day: dt.date) -> Tariff:
        """At the rates of a day, where it names tax categories."""
        whole = self.whole.taxed(taxes, day)
        return replace(
            self,
            tax_rate=whole.tax_rate,
            tax_since=whole.tax_since,
            parts=tuple(part.taxed(taxes, day) for part in self.parts),
        )

    @property
    def whole(self) -> Part:
        """The price as one part."""
        return Part(self.name, self.price, self.tax_rate, self.tax_category, self.tax_since)

    def __post_init__(self) -> None:
        if self.price < 0 or (self.price_per_million or 0) < 0 or (self.block_price or 0) < 0:
            raise RatingError(f"plan {self.code} v{self.version} has a negative price")
        if self.parts and sum(part.price for part in self.parts) != self.price:
            raise RatingError(
                f"the components of plan {self.code} v{self.version} do not add up to its price"
            )


class Line(NamedTuple):
    """A line of a bill; `basis` is all that it was computed from, as JSON can hold it."""

    kind: str
    description: str
    units: int | None
    net: Decimal
    tax_rate: Decimal
    tax: Decimal
    gross: Decimal
    basis: dict[str, Any]
    bucket_id: int | None = None


# Rounding ----------------------------------------------------------------------------------------


def to_fen(amount: Decimal) -> Decimal:
    """Rounded half up to two decimals, away from zero: a credit mirrors its debit."""
    return amount.quantize(FEN, ROUND_HALF_UP)


@lru_cache(maxsize=100_000)
def tax_of(gross: Decimal, rate: Decimal) -> tuple[Decimal, Decimal]:
    """(net, tax) of a rounded gross amount: 9.90 at 6 % is 9.34 + 0.56."""
    net = to_fen(gross / (1 + rate))
    return net, gross - net


def spread(total: Decimal, weights: Sequence[Decimal]) -> list[Decimal]:
    """A rounded total over weights (>= 0, in their proportion), each share rounded down to the
    fen and what is left given to the largest remainders; the first of equal ones comes first.

    The shares add up to the total. With no weight at all there is nothing to spread over.
    """
    whole = sum(weights, ZERO)
    if not whole:
        raise RatingError("there is nothing to spread an amount over")
    sign = -1 if total < 0 else 1
    fen = int(abs(total) / FEN)
    parts = [divmod(fen * weight, whole) for weight in weights]
    shares = [int(share) for share, _ in parts]
    by_remainder = sorted(range(len(parts)), key=lambda nr: -parts[nr][1])
    for nr in by_remainder[: fen - sum(shares)]:
        shares[nr] += 1
    return [sign * share * FEN for share in shares]


# Fees --------------------------------------------------------------------------------------------


def fee_share(tariff: Tariff, starts_at: dt.datetime, zone: ZoneInfo) -> tuple[int, int]:
    """(days, of days) of the price that a period costs: all of it, but for a part of a month of a
    calendar-month plan that is prorated `by_day`."""
    if tariff.cycle != "calendar_month" or tariff.first_month != "by_day":
        return 1, 1
    return periods.days_of_month(starts_at, zone)


def prorate(price: Decimal, days: int, of: int) -> Decimal:
    """`days / of` of a price; never below zero nor above the price."""
    return to_fen(price * days / of)


# The same few plans and periods come thousands of times.
@lru_cache(maxsize=10_000)
def fee_lines(
    tariff: Tariff, starts_at: dt.datetime, ends_at: dt.datetime, zone: ZoneInfo
) -> tuple[Line, ...]:
    """A period's fee: a line for each part of the price, or one. A free plan has its line too."""
    days, of = fee_share(tariff, starts_at, zone)
    fee = prorate(tariff.price, days, of)
    parts = tariff.parts or (tariff.whole,)
    shares = spread(fee, [part.price for part in parts]) if tariff.price else [ZERO] * len(parts)
    basis: dict[str, Any] = {
        **_plan_basis(tariff),
        "price": str(tariff.price),
        "from": periods.local(starts_at, zone),
        "until": periods.local(ends_at, zone),
    }
    if (days, of) != (1, 1):
        basis |= {"days": days, "of_days": of}
    return tuple(
        line(
            "fee",
            part.name,
            share,
            part.tax_rate,
            {
                **basis,
                **({"component": str(part.price), "fee": str(fee)} if tariff.parts else {}),
                **_tax_basis(part),
            },
        )
        for part, share in zip(parts, shares, strict=True)
    )


def not_owed(lines: Sequence[Line]) -> list[Line]:
    """The fee of a period that was to be paid before and was not: no bucket opened, nothing is
    owed, and the bill says so."""
    return [
        line(one.kind, one.description, ZERO, one.tax_rate, {**one.basis, "unpaid": True})
        for one in lines
    ]


def upgrade_lines(
    old: Tariff,
    new: Tariff,
    days: int,
    of: int,
    at: dt.datetime,
    zone: ZoneInfo,
    *,
    units: int,
) -> list[Line]:
    """What a dearer plan costs more for the `days` of `of` that it holds before the period's end:
    (new - old) x days / of, a line for each part of the new price. The guide's rule, Aliyun's."""
    fee = prorate(new.price - old.price, days, of)
    parts = new.parts or (new.whole,)
    shares = spread(fee, [part.price for part in parts]) if new.price else [ZERO] * len(parts)
    basis: dict[str, Any] = {
        **_plan_basis(new),
        "price": str(new.price),
        "old_plan": old.code,
        "old_version": old.version,
        "old_price": str(old.price),
        "at": periods.local(at, zone),
        "days": days,
        "of_days": of,
    }
    return [
        line(
            "upgrade",
            part.name,
            share,
            part.tax_rate,
            {
                **basis,
                **({"component": str(part.price), "fee": str(fee)} if new.parts else {}),
                **_tax_basis(part),
            },
            units=units if nr == 0 else None,
        )
        for nr, (part, share) in enumerate(zip(parts, shares, strict=True))
    ]


def refund_lines(lines: Sequence[Line], share: int, of: int, basis: dict[str, Any]) -> list[Line]:
    """`share` of `of` of what a period's price came to (fee, upgrades, less discounts), as
    negative lines at the rates it was sold at."""
    left = [entry.gross if entry.kind in ("fee", "upgrade") else ZERO for entry in lines]
    for entry in lines:
        if entry.kind == "discount" and lines[entry.basis["line"] - 1].kind in ("fee", "upgrade"):
            left[entry.basis["line"] - 1] += entry.gross
    there = sum(left, ZERO)
    if there <= 0:
        return []
    back = prorate(there, share, of)
    said = {**basis, "refund": str(back), "of": str(there), "share": share, "whole": of}
    return [
        line(
            "refund",
            lines[nr].description,
            -part,
            lines[nr].tax_rate,
            {
                **{key: lines[nr].basis[key] for key in ("plan", "version")},
                **said,
                "line": nr + 1,
            },
        )
        for nr, part in enumerate(spread(back, left))
        if part
    ]


def _plan_basis(tariff: Tariff) -> dict[str, Any]:
    return {"plan": tariff.code, "version": tariff.version}


def _tax_basis(part: Part) -> dict[str, Any]:
    """Whose rate it is, where it is a category's."""
    if part.tax_since is None:
        return {}
    return {"tax_category": part.tax_category, "tax_since": str(part.tax_since)}


# Usage beyond the allowance ----------------------------------------------------------------------


def overage_price(tariff: Tariff, units: int) -> Decimal:
    """What units of an overage bucket cost together, to the fen, never above the plan's cap."""
    exact = policies.price_of(
        units, tariff.price_per_million, tariff.tiers, graduated=tariff.graduated
    )
    gross = to_fen(exact)
    return gross if tariff.cap is None else min(gross, tariff.cap)


def blocks_price(tariff: Tariff, units: int) -> tuple[int, Decimal]:
    """(packs, their price) that usage of these units has needed."""
    if not tariff.block_units or tariff.block_price is None:
        raise RatingError(f"plan {tariff.code} v{tariff.version} sells no blocks")
    packs = -(-units // tariff.block_units)
    return packs, packs * tariff.block_price


@dataclass(frozen=True, slots=True)
class Drawn:
    """What was drawn of an overflow bucket, and what of it is billed already."""

    bucket_id: int
    blocks: bool  # bought in packs, not metered
    units: int
    tariff: Tariff  # of the period that the bucket belongs to
    starts_at: dt.datetime  # of that period
    ends_at: dt.datetime
    billed_units: int = 0
    billed_gross: Decimal = ZERO
    billed: bool = False


def overflow_line(drawn: Drawn, zone: ZoneInfo) -> Line | None:
    """The line of an overflow bucket: all of it, or what changed since it was billed.

    A change (late usage, or usage that is void by now) is priced as the difference of what all of
    it costs under its own period's plan, so that several of them cost what one would. None where
    there is nothing to say.
    """
    tariff = drawn.tariff
    basis: dict[str, Any] = {
        **_plan_basis(tariff),
        "from": periods.local(drawn.starts_at, zone),
        "until": periods.local(drawn.ends_at, zone),
        "drawn": drawn.units,
        **_tax_basis(tariff.whole),
    }
    if drawn.blocks:
        packs, gross = blocks_price(tariff, drawn.units)
        basis |= {
            "blocks": packs,
            "block_units": tariff.block_units,
            "block_price": str(tariff.block_price),
        }
    else:
        gross = overage_price(tariff, drawn.units)
        basis |= _price_basis(tariff)
    units = drawn.units - drawn.billed_units
    kind = "block" if drawn.blocks else "overage"
    if drawn.billed:
        gross -= drawn.billed_gross
        if not units and not gross:
            return None
        kind = "adjustment"
        basis |= {"billed": drawn.billed_units, "billed_gross": str(drawn.billed_gross)}
    elif not units:
        return None
    return line(
        kind, tariff.name, gross, tariff.tax_rate, basis, units=units, bucket_id=drawn.bucket_id
    )


def _price_basis(tariff: Tariff) -> dict[str, Any]:
    basis: dict[str, Any] = {}
    if tariff.tiers:
        basis["tiers"] = [[tier.up_to, str(tier.price_per_million)] for tier in tariff.tiers]
        basis["graduated"] = tariff.graduated
    else:
        basis["price_per_million"] = str(tariff.price_per_million or ZERO)
    if tariff.cap is not None:
        basis["cap"] = str(tariff.cap)
    return basis


# Single sales ------------------------------------------------------------------------------------


def sale_line(
    kind: str,
    name: str,
    price: Decimal,
    tariff: Tariff,
    basis: dict[str, Any],
    *,
    units: int,
    bucket_id: int,
) -> Line:
    """A booster at its price, or a gift at none; taxed as the plan is that it is sold with."""
    gross = ZERO if kind == "gift" else to_fen(price)
    basis = {**basis, **_tax_basis(tariff.whole)}
    return line(kind, name, gross, tariff.tax_rate, basis, units=units, bucket_id=bucket_id)


# Discounts ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Discount:
    """A percentage (0 to 100) or an amount off, or the price that is left to pay; `covers` are the
    kinds of line it applies to."""

    name: str
    percent: Decimal | None = None
    amount: Decimal | None = None
    price: Decimal | None = None
    covers: frozenset[str] = frozenset({"fee"})
    basis: dict[str, Any] = field(default_factory=dict)


def discount_lines(discounts: Sequence[Discount], lines: Sequence[Line]) -> list[Line]:
    """Each discount over the lines it covers by their gross, as negative lines at their rates.

    One takes of what the ones before have left, never more than there is.
    """
    left = [max(entry.gross, ZERO) for entry in lines]
    out: list[Line] = []
    for discount in discounts:
        covered = [nr for nr, entry in enumerate(lines) if entry.kind in discount.covers]
        there = sum((left[nr] for nr in covered), ZERO)
        if discount.percent is not None:
            off = min(there, to_fen(there * discount.percent / 100))
        elif discount.price is not None:
            off = there - to_fen(discount.price)
        else:
            off = min(there, to_fen(discount.amount or ZERO))
        if off <= 0:
            continue
        basis = {**discount.basis, "discount": str(off), "of": str(there)}
        if discount.percent is not None:
            basis["percent"] = str(discount.percent)
        if discount.price is not None:
            basis["price"] = str(discount.price)
        for nr, share in zip(covered, spread(off, [left[nr] for nr in covered]), strict=True):
            left[nr] -= share
            if share:
                said = {**basis, "line": nr + 1}
                out.append(line("discount", discount.name, -share, lines[nr].tax_rate, said))
    return out


# Bills -------------------------------------------------------------------------------------------


def line(
    kind: str,
    description: str,
    gross: Decimal,
    tax_rate: Decimal,
    basis: dict[str, Any],
    *,
    units: int | None = None,
    bucket_id: int | None = None,
) -> Line:
    """A line of a gross amount (rounded here), taxed at a rate."""
    gross = to_fen(gross)
    net, tax = tax_of(gross, tax_rate)
    return Line(kind, description, units, net, tax_rate, tax, gross, basis, bucket_id)


class Totals(NamedTuple):
    net: Decimal
    tax: Decimal
    gross: Decimal


def totals(lines: Sequence[Line]) -> Totals:
    """The sums of lines; gross = net + tax because it is so in each."""
    return Totals(
        sum((entry.net for entry in lines), ZERO),
        sum((entry.tax for entry in lines), ZERO),
        sum((entry.gross for entry in lines), ZERO),
    )
