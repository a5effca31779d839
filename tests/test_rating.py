"""What was sold and used becomes money to the fen, and says how."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing import rating
from billing.rating import Discount, Drawn, Line, Part, RatingError, Tariff
from subscriptions.policies import Tier, overage_cap
from tests.factories import SHANGHAI, local

MILLION = 1_000_000_000  # units, in thousandths
JULY, AUGUST = local(2026, 7, 1), local(2026, 8, 1)
SIX, NINE = Decimal("0.06"), Decimal("0.09")


def tariff(**terms: Any) -> Tariff:
    given: dict[str, Any] = {
        "plan_id": 1,
        "code": "light",
        "version": 1,
        "name": "Light",
        "currency": "CNY",
        "price": Decimal("9.90"),
        "tax_rate": SIX,
        "cycle": "calendar_month",
        "first_month": "full",
        **terms,
    }
    return Tariff(**given)


def drawn(units: int, **more: Any) -> Drawn:
    given: dict[str, Any] = {
        "bucket_id": 7,
        "blocks": False,
        "tariff": tariff(price_per_million=Decimal("1.20")),
        "starts_at": JULY,
        "ends_at": AUGUST,
        **more,
    }
    return Drawn(units=units, **given)


def money(line: Line) -> tuple[str, str, str]:
    return str(line.net), str(line.tax), str(line.gross)


# The guide's own figures -------------------------------------------------------------------------


def test_nine_ninety_is_split_as_the_tax_office_splits_it() -> None:
    assert rating.tax_of(Decimal("9.90"), SIX) == (Decimal("9.34"), Decimal("0.56"))
    assert rating.tax_of(Decimal("9.90"), NINE) == (Decimal("9.08"), Decimal("0.82"))
    assert rating.tax_of(Decimal("-9.90"), SIX) == (Decimal("-9.34"), Decimal("-0.56"))


def test_a_fee_is_one_line_and_says_what_it_is_for() -> None:
    [fee] = rating.fee_lines(tariff(), JULY, AUGUST, SHANGHAI)

    assert (fee.kind, fee.description, *money(fee)) == ("fee", "Light", "9.34", "0.56", "9.90")
    assert fee.basis == {
        "plan": "light",
        "version": 1,
        "price": "9.90",
        "from": "2026-07-01T00:00:00+08:00",
        "until": "2026-08-01T00:00:00+08:00",
    }


def test_a_part_of_a_month_costs_its_days_where_the_plan_says_so() -> None:
    noon = local(2026, 7, 22, 12)  # ten days are left, this one too

    [by_day] = rating.fee_lines(tariff(first_month="by_day"), noon, AUGUST, SHANGHAI)
    [full] = rating.fee_lines(tariff(), noon, AUGUST, SHANGHAI)

    assert str(by_day.gross) == "3.19"  # 9.90 * 10 / 31 = 3.1935
    assert (by_day.basis["days"], by_day.basis["of_days"]) == (10, 31)
    assert str(full.gross) == "9.90"


def test_components_share_the_fee_and_keep_their_rates() -> None:
    parts = (Part("Tokens", Decimal("6.60"), SIX), Part("Data", Decimal("3.30"), NINE))
    bundle = tariff(parts=parts, first_month="by_day")

    lines = rating.fee_lines(bundle, local(2026, 7, 22), AUGUST, SHANGHAI)

    assert [(line.description, str(line.gross), line.tax_rate) for line in lines] == [
        ("Tokens", "2.13", SIX),
        ("Data", "1.06", NINE),
    ]
    assert sum(line.gross for line in lines) == Decimal("3.19")


def test_components_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(RatingError, match="do not add up"):
        tariff(parts=(Part("Tokens", Decimal("9.89"), SIX),))
    with pytest.raises(RatingError, match="negative"):
        tariff(price=Decimal(-1))


# Overage -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("units", "gross"),
    [
        (1, "0.00"),
        (MILLION, "1.20"),
        (4_166_666, "0.00"),
        (4_166_667, "0.01"),  # half a fen
        (123_456_789_012, "148.15"),
    ],
)
def test_overage_is_rounded_once(units: int, gross: str) -> None:
    line = rating.overflow_line(drawn(units), SHANGHAI)

    assert line is not None
    assert (line.kind, line.units, str(line.gross)) == ("overage", units, gross)
    assert line.basis["price_per_million"] == "1.20"


def test_overage_never_costs_more_than_the_cap() -> None:
    capped = tariff(price_per_million=Decimal("1.20"), cap=Decimal(5))

    assert rating.overage_price(capped, 100 * MILLION) == 5


TIERS = (
    Tier(10 * MILLION, Decimal(2)),
    Tier(20 * MILLION, Decimal("1.50")),
    Tier(None, Decimal(1)),
)


@pytest.mark.parametrize(
    ("units", "graduated", "volume"),
    [(5, "10.00", "10.00"), (10, "20.00", "20.00"), (15, "27.50", "22.50"), (30, "45.00", "30.00")],
)
def test_tiers_price_each_unit_or_all_of_them(units: int, graduated: str, volume: str) -> None:
    assert str(rating.overage_price(tariff(tiers=TIERS), units * MILLION)) == graduated
    by_volume = tariff(tiers=TIERS, graduated=False)
    assert str(rating.overage_price(by_volume, units * MILLION)) == volume


@given(
    widths=st.lists(st.integers(1, 50 * MILLION), max_size=4),
    prices=st.lists(st.decimals("0.01", "9", places=2), min_size=5, max_size=5),
    cap=st.decimals("0", "300", places=2),
    graduated=st.booleans(),
)
def test_the_cap_in_units_is_the_most_whose_price_is_within_the_cap(
    widths: list[int], prices: list[Decimal], cap: Decimal, graduated: bool
) -> None:
    ends = [sum(widths[: nr + 1]) for nr in range(len(widths))]
    steps = tuple(map(Tier, [*ends, None], prices))
    plan = tariff(tiers=steps, graduated=graduated)

    most = overage_cap(cap, None, None, steps, "graduated" if graduated else "volume")

    assert most is not None
    assert rating.overage_price(plan, most) <= cap
    for more in (most + 1, *(end for end in ends if end > most)):
        assert rating.overage_price(plan, more) > cap


def test_blocks_cost_whole_packs() -> None:
    packs = tariff(block_units=400_000_000, block_price=Decimal(1))

    line = rating.overflow_line(drawn(400_000_001, tariff=packs, blocks=True), SHANGHAI)

    assert line is not None
    assert (line.kind, str(line.gross), line.basis["blocks"]) == ("block", "2.00", 2)
    with pytest.raises(RatingError, match="sells no blocks"):
        rating.overflow_line(drawn(1, blocks=True), SHANGHAI)


def test_what_changed_since_it_was_billed_is_an_adjustment() -> None:
    before = {"billed": True, "billed_units": 2 * MILLION, "billed_gross": Decimal("2.40")}

    more = rating.overflow_line(drawn(3 * MILLION, **before), SHANGHAI)
    less = rating.overflow_line(drawn(MILLION, **before), SHANGHAI)

    assert more is not None
    assert less is not None
    assert (more.kind, more.units, str(more.gross)) == ("adjustment", MILLION, "1.20")
    assert (less.kind, less.units, str(less.gross)) == ("adjustment", -MILLION, "-1.20")
    assert rating.overflow_line(drawn(2 * MILLION, **before), SHANGHAI) is None
    assert rating.overflow_line(drawn(0), SHANGHAI) is None


# Properties --------------------------------------------------------------------------------------

fen = st.integers(min_value=0, max_value=10_000_000).map(lambda n: Decimal(n) / 100)
rates = st.sampled_from([Decimal(r) for r in ("0", "0.01", "0.03", "0.06", "0.09", "0.13")])
lines_of = st.lists(
    st.builds(
        lambda kind, gross, rate: rating.line(kind, "x", gross, rate, {}),
        st.sampled_from(["fee", "overage", "booster"]),
        fen,
        rates,
    ),
    min_size=1,
    max_size=6,
)
discounts_of = st.lists(
    st.one_of(
        st.builds(lambda p: Discount("off", percent=p), st.decimals(0, 100, places=2)),
        st.builds(lambda a: Discount("off", amount=a, covers=frozenset({"fee", "overage"})), fen),
    ),
    max_size=3,
)


@given(lines=lines_of, discounts=discounts_of)
def test_lines_and_tax_make_the_total_and_discounts_take_no_more_than_there_is(
    lines: list[Line], discounts: list[Discount]
) -> None:
    off = rating.discount_lines(discounts, lines)

    total = rating.totals([*lines, *off])

    assert total.net + total.tax == total.gross
    assert all(line.net + line.tax == line.gross and line.gross < 0 for line in off)
    assert total.gross >= sum(line.gross for line in lines if line.kind == "booster") >= 0
    for nr, line in enumerate(lines, 1):
        of_it = [entry for entry in off if entry.basis["line"] == nr]
        assert sum((entry.gross for entry in of_it), line.gross) >= 0
        assert all(entry.tax_rate == line.tax_rate for entry in of_it)


@given(total=st.integers(-10_000, 10_000), weights=st.lists(fen, min_size=1, max_size=8))
def test_a_spread_amount_adds_up_and_is_fair_to_the_fen(total: int, weights: list[Decimal]) -> None:
    amount, whole = Decimal(total) / 100, sum(weights)
    if not whole:
        with pytest.raises(RatingError):
            rating.spread(amount, weights)
        return

    shares = rating.spread(amount, weights)

    assert sum(shares) == amount
    for share, weight in zip(shares, weights, strict=True):
        assert abs(share - amount * weight / whole) < Decimal("0.01")


@given(price=fen, day=st.integers(0, 365), parts=st.integers(1, 4))
def test_proration_is_never_negative_nor_above_the_price(
    price: Decimal, day: int, parts: int
) -> None:
    start = local(2027, 1, 1, 15) + dt.timedelta(days=day)
    shares = [price / parts] * (parts - 1)
    shares = [rating.to_fen(share) for share in shares]
    rest = price - sum(shares)
    if rest < 0:
        shares, rest = [], price
    components = tuple(Part(f"p{nr}", share, SIX) for nr, share in enumerate([*shares, rest]))
    plan = tariff(price=price, parts=components, first_month="by_day")

    lines = rating.fee_lines(plan, start, start + dt.timedelta(days=1), SHANGHAI)

    assert 0 <= sum(line.gross for line in lines) <= price
    assert all(0 <= line.gross <= part.price for line, part in zip(lines, components, strict=True))
    json.dumps([line.basis for line in lines])


@given(steps=st.lists(st.integers(0, 10**12), min_size=1, max_size=6), cap=st.none() | fen)
def test_an_overage_billed_in_steps_costs_what_it_costs_at_once(
    steps: list[int], cap: Decimal | None
) -> None:
    plan = tariff(price_per_million=Decimal("1.234567"), cap=cap)
    billed, gross, any_line = 0, Decimal(0), False
    for units in steps:
        line = rating.overflow_line(
            drawn(units, tariff=plan, billed=any_line, billed_units=billed, billed_gross=gross),
            SHANGHAI,
        )
        if line is not None:
            billed, gross, any_line = billed + (line.units or 0), gross + line.gross, True

    assert (billed, gross) == (steps[-1], rating.overage_price(plan, steps[-1]))
