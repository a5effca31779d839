"""Whatever burns, is void, expires and is credited, in whatever order it is looked at: what is
owed in units, earned and broken are the price together, and each is what the rule says."""

from __future__ import annotations

import itertools
from decimal import ROUND_FLOOR, Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing import closing, deferral, ledger
from billing.models import Deferral
from subscriptions.models import Operator
from tests.factories import (
    client_for,
    local,
    make_key,
    make_operator,
    make_plan,
    make_subscriber,
    set_clock,
    subscribe,
)
from tests.usage import DAY, Gateway, assert_books_agree, get, post, put, record

START, CLOSE = local(2026, 6, 1), local(2026, 7, 3)
FOREVER = local(2030, 1, 1)
FEN = Decimal("0.01")
TOKENS = 700_000

steps = st.one_of(
    st.tuples(st.just("burn"), st.integers(1, TOKENS)),
    st.tuples(st.just("burn"), st.integers(1, 50)),
    st.tuples(st.just("void"), st.integers(0, 9)),
    st.tuples(st.just("wait"), st.integers(1, 6)),
    st.tuples(st.just("sweep"), st.just(0)),
    st.tuples(st.just("credit"), st.integers(1, 400)),
    st.tuples(st.just("credit"), st.just(0)),
)


def half_up(exact: Fraction) -> Decimal:
    """Whole fen, by integers alone."""
    return Decimal((exact * 200 + 1) // 2) * FEN


class World:
    """A subscriber with a booster that lasts until 13 July, late usage until 15 July."""

    numbers = itertools.count()

    def __init__(self, price: Decimal) -> None:
        self.operator: Operator = make_operator(f"ct-{next(self.numbers)}", at=START)
        self.api = client_for(make_key(self.operator))
        self.gateway = Gateway(self.operator)
        plan = make_plan(self.operator, allowance=0)
        subscribe(make_subscriber(self.operator), plan)
        booster = {"name": "B", "price": str(price), "units": str(TOKENS), "valid_days": 42}
        assert put(self.api, "boosters/b", booster).status_code == 201
        assert post(self.api, "subscribers/s-1/boosters", {"booster": "b"}).status_code == 201
        self.now, self.ends = START, START + 42 * DAY
        self.lines: dict[str, int] = {}
        self.drawn: dict[str, int] = {}
        self.left = TOKENS

    def burn(self, tokens: int) -> None:
        name = f"r-{len(self.lines)}"
        body = record(name, occurred_at=self.now, input_tokens=tokens, output_tokens=0)
        assert self.gateway.charge(body)["accepted"] == 1
        self.lines[name] = tokens
        self.drawn[name] = min(tokens, self.left) if self.now < self.ends else 0
        self.left -= self.drawn[name]

    def void(self, which: int) -> None:
        if not self.lines:
            return
        name = sorted(self.lines)[which % len(self.lines)]
        path = f"subscribers/s-1/usage-records/{name}/void"
        assert post(self.api, path, {"reason": "a test"}).status_code == 200
        if self.now < self.ends:
            self.left += self.drawn[name]
        self.drawn[name] = 0

    def wait(self, days: int) -> None:
        self.now = min(self.now + days * DAY, local(2026, 8, 8))
        set_clock(self.operator, self.now)

    def sweep(self, _: int = 0) -> None:
        ended_by = closing.grace_over(self.operator, at=self.now)
        deferral.sweep(self.operator, at=self.now, ended_by=ended_by)

    def credit(self, fen: int) -> None:
        """An amount, 0: all that is left; what is more than is left is refused."""
        body: dict[str, Any] = {"reason": "a test"}
        if fen:
            body["amount"] = str(fen * FEN)
        answer = post(self.api, f"invoices/{self.number}/credit", body)
        assert answer.status_code in (201, 409, 422)

    @property
    def number(self) -> str:
        return str(get(self.api, "subscribers/s-1/invoices")["items"][-1]["number"])

    def credited(self) -> Decimal:
        notes = get(self.api, "subscribers/s-1/invoices?limit=100")["items"]
        lines = [line for note in notes for line in note["lines"] if line["kind"] == "booster"]
        nets = [Decimal(line["net"]["amount"]) for line in lines]
        return -sum((net for net in nets if net < 0), Decimal(0))

    def booked(self) -> dict[str, Decimal]:
        rows = list(ledger.trial_balance(self.operator.pk, at=FOREVER))
        assert sum(row.balance for row in rows) == 0
        sums = {"deferred": Decimal(0), "revenue": Decimal(0), "breakage": Decimal(0)}
        for row in rows:
            word, _, rest = row.account.partition(":")
            if rest.startswith("booster/"):
                sums[word] -= row.balance
        return sums


@pytest.mark.django_db
@settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=6)
@given(
    price=st.decimals("0.01", "25.00", places=2),
    june=st.integers(0, TOKENS),
    then=st.lists(steps, max_size=8),
)
def test_owed_earned_and_broken_are_the_price(
    price: Decimal, june: int, then: list[tuple[str, int]]
) -> None:
    world, net = World(price), half_up(Fraction(price) / Fraction("1.06"))
    if june:
        world.burn(june)
    assert post(world.api, "test-clock", {"now": CLOSE.isoformat()}).status_code == 200
    world.now = CLOSE
    for step, argument in [*then, ("wait", 30), ("sweep", 0)]:
        getattr(world, step)(argument)

        booked = world.booked()
        assert sum(booked.values()) == net - world.credited()
        assert booked["deferred"] >= 0
        assert booked["breakage"] >= 0
        if step == "sweep" and net:
            by_the_rule(world, net, booked)
    assert booked["deferred"] == 0
    assert_books_agree()


def by_the_rule(world: World, net: Decimal, booked: dict[str, Decimal]) -> None:
    credited = min(net, world.credited())
    burned = sum(world.drawn.values())
    earned = min(half_up(Fraction(net) * burned / TOKENS), net - credited)
    over = world.now >= world.ends + 2 * DAY
    row = Deferral.objects.get(operator=world.operator)
    assert (row.earned, row.ended) == (earned, over)
    assert booked["deferred"] == (0 if over else net - credited - earned)
    assert booked["breakage"] == (net - credited - earned if over else 0)


@given(
    net=st.decimals("0.01", "99999999.99", places=2),
    credited=st.decimals("0", "99999999.99", places=2),
    granted=st.integers(1, 10**14),
    burned=st.integers(0, 10**14),
)
def test_a_share_is_rounded_once_and_never_above_what_is_left(
    net: Decimal, credited: Decimal, granted: int, burned: int
) -> None:
    credited, burned = min(credited, net), min(burned, granted)

    earned, broken = deferral.earned_of(net, credited, burned, granted, ended=False)

    assert earned == min(half_up(Fraction(net) * burned / granted), net - credited)
    assert earned == earned.quantize(FEN, ROUND_FLOOR)
    assert broken == 0
    ended = deferral.earned_of(net, credited, burned, granted, ended=True)
    assert ended == (earned, net - credited - earned)
