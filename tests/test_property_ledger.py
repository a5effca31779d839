"""The token ledger against its rules, written down a second time in the plainest Python.

A machine buys, uses, resends, waits and is suspended, through the HTTP API, in any order that
hypothesis thinks of. `Account` below is what the guide's rules say should come of it: it knows
nothing of batches, locks or SQL. After every step each bucket must hold what it says.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pytest
from django.db import connection
from djmoney.money import Money
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from billing.reconciliation import reconcile
from subscriptions import clock, lifecycle, registry
from tests.factories import (
    client_for,
    local,
    make_gateway_key,
    make_key,
    make_operator,
    make_plan,
    make_rate_card,
    make_subscriber,
)

US, HOUR, DAY = dt.timedelta(microseconds=1), dt.timedelta(hours=1), dt.timedelta(days=1)
EAST_8 = dt.timedelta(hours=8)  # Shanghai, without any daylight saving
GRACE = 2 * DAY
START = local(2026, 6, 10, 12)
NEW_CARD = local(2026, 7, 1)  # when the second version of the rate card takes effect
THOUSAND = 1000


# --- the rules ----------------------------------------------------------------------------------


@dataclass
class Terms:
    """A plan, in thousandths of units."""

    allowance: int
    cycle: str
    rollover: bool
    on_exhaustion: str
    price_per_million: Decimal = Decimal(2000)
    cap: Decimal | None = None  # money
    cap_units: int | None = None
    block: int = 300 * THOUSAND
    block_price: Decimal = Decimal("0.50")

    def overage(self) -> int | None:
        """The most units that may be metered: those whose rounded price is within the cap."""
        limits = [] if self.cap_units is None else [self.cap_units]
        if self.cap is not None:
            low, high = 0, 10**12
            while low < high:
                middle = (low + high + 1) // 2
                price = middle * self.price_per_million / 10**9
                fits = price.quantize(Decimal("0.01"), ROUND_HALF_UP) <= self.cap
                low, high = (middle, high) if fits else (low, middle - 1)
            limits.append(low)
        return min(limits, default=None)

    def blocks(self) -> int | None:
        """The most packs that may be bought."""
        limits = [] if self.cap_units is None else [self.cap_units // self.block]
        if self.cap is not None:
            limits.append(int(self.cap / self.block_price))
        return min(limits, default=None)


@dataclass
class Pot:
    """A bucket as the rules see it."""

    kind: str
    start: dt.datetime
    end: dt.datetime
    granted: int | None
    used: int = 0
    reserved: int = 0

    PRIORITY = ("rollover", "gift", "allowance", "booster", "overage", "uncovered")

    @property
    def left(self) -> int | None:
        return None if self.granted is None else self.granted - self.used - self.reserved

    def holds(self, moment: dt.datetime) -> bool:
        return self.start <= moment < self.end

    def order(self) -> tuple[int, dt.datetime, dt.datetime]:
        return self.PRIORITY.index(self.kind), self.end, self.start


@dataclass
class Line:
    """A record that was charged, and what paid for it, in the order drawn."""

    name: str
    moment: dt.datetime
    units: int
    draws: list[tuple[Pot, int]]
    planned: bool  # whether a plan's card weighed it


@dataclass
class Account:
    """A subscriber and all that the rules say about its units."""

    name: str
    terms: Terms | None = None
    pots: list[Pot] = field(default_factory=list)
    periods: list[tuple[dt.datetime, dt.datetime]] = field(default_factory=list)
    turned: int = 0  # how many periods have had their first second
    anchor: int = 0
    suspensions: list[tuple[dt.datetime, dt.datetime | None]] = field(default_factory=list)
    charged: dict[str, list[dt.datetime]] = field(default_factory=dict)
    used: dict[dt.datetime, int] = field(default_factory=dict)  # by local month
    units: int = 0
    lines: list[Line] = field(default_factory=list)

    # Periods.

    def buy(self, terms: Terms, at: dt.datetime) -> None:
        self.terms, self.anchor = terms, (at + EAST_8).day
        self.open(at)
        self.turn(at)

    def open(self, until: dt.datetime) -> None:
        """Open every period that has begun by then; the first begins with the sale."""
        if self.terms is None:
            return
        while not self.periods or self.periods[-1][1] <= until:
            start = self.periods[-1][1] if self.periods else until
            end = self.end_of(start)
            self.periods.append((start, end))
            self.pots.append(Pot("allowance", start, end, self.terms.allowance))
            if self.terms.on_exhaustion == "meter":
                self.pots.append(Pot("overage", start, end, self.terms.overage()))

    def end_of(self, start: dt.datetime) -> dt.datetime:
        assert self.terms is not None
        if self.terms.cycle == "calendar_month":
            return month_after(start)
        first = month_after(start) + EAST_8
        last = (month_after(first - EAST_8) + EAST_8 - DAY).day
        return first.replace(day=min(self.anchor, last)) - EAST_8

    def turn(self, at: dt.datetime) -> None:
        """At a period's first second, what the one before left over rolls into it."""
        assert self.terms is not None
        while self.turned < len(self.periods) and self.periods[self.turned][0] <= at:
            end = self.periods[self.turned][1]
            if self.turned and self.terms.rollover:
                before = self.periods[self.turned - 1][0]
                old = next(p for p in self.pots if (p.kind, p.start) == ("allowance", before))
                left = old.left or 0
                if left or old.reserved:
                    self.pots.append(Pot("rollover", before, end, left))
                    old.used += left
            self.turned += 1

    def wait(self, until: dt.datetime) -> None:
        if self.terms is not None:
            self.open(until)
            self.turn(until)

    def period_of(self, moment: dt.datetime) -> tuple[dt.datetime, dt.datetime, bool]:
        """The period that usage belongs to, and whether a plan holds in it."""
        if self.periods:
            self.open(moment)
        for start, end in self.periods:
            if start <= moment < end:
                return start, end, True
        return month_of(moment), month_after(moment), False

    def suspended(self, moment: dt.datetime) -> bool:
        return any(
            start <= moment and (end is None or moment < end) for start, end in self.suspensions
        )

    # Charging.

    def knows(self, record_id: str, moment: dt.datetime) -> bool:
        """Whether the record was charged, at that time or within three days of it."""
        return any(
            abs(day_of(moment) - day_of(before)) <= 3 * DAY
            for before in self.charged.get(record_id, ())
        )

    def charge(self, record_id: str, moment: dt.datetime, units: int, at: dt.datetime) -> None:
        self.charged.setdefault(record_id, []).append(moment)
        self.count(moment, units)
        planned = self.period_of(moment)[2]
        draws = self.draw(moment, units, at)
        self.lines.append(Line(record_id, moment, units, draws, planned))

    def count(self, moment: dt.datetime, units: int) -> None:
        self.units += units
        month = month_of(moment)
        self.used[month] = self.used.get(month, 0) + units

    def draw(self, moment: dt.datetime, units: int, at: dt.datetime) -> list[tuple[Pot, int]]:
        """Take units from the pots that have to pay; answers who paid what, in burn order."""
        before = {id(pot): pot.used for pot in self.pots}
        self.burn(moment, units, at)
        paid = [(pot, pot.used - before.get(id(pot), 0)) for pot in self.pots]
        return sorted(((pot, part) for pot, part in paid if part), key=lambda p: p[0].order())

    def burn(self, moment: dt.datetime, units: int, at: dt.datetime) -> None:
        start, end, planned = self.period_of(moment)
        due = units
        if not self.suspended(moment):
            for pot in sorted(self.pots, key=Pot.order):
                if pot.kind not in ("overage", "uncovered") and self.pays(pot, moment, end, at):
                    assert pot.left is not None
                    take = min(due, pot.left)
                    pot.used += take
                    due -= take
            if planned:
                due = self.overflow(start, end, due)
        if due:
            self.pot("uncovered", start, end, None).used += due

    @staticmethod
    def pays(pot: Pot, moment: dt.datetime, period_end: dt.datetime, at: dt.datetime) -> bool:
        if pot.holds(moment) and at < pot.end + GRACE:
            return True
        late = at >= period_end + GRACE
        return late and pot.kind in ("allowance", "rollover") and pot.holds(at)

    def overflow(self, start: dt.datetime, end: dt.datetime, due: int) -> int:
        """What the plan lets happen when the units are used up; answers what nobody pays for."""
        assert self.terms is not None
        if not due or self.terms.on_exhaustion not in ("meter", "blocks"):
            return due
        if self.terms.on_exhaustion == "blocks":
            pot = self.pot("overage", start, end, 0)
            assert pot.granted is not None
            assert pot.left is not None
            packs = -(-max(0, due - pot.left) // self.terms.block)
            most = self.terms.blocks()
            if most is not None:
                packs = min(packs, most - pot.granted // self.terms.block)
            pot.granted += packs * self.terms.block
        else:
            pot = self.pot("overage", start, end, None)
        take = due if pot.left is None else min(due, pot.left)
        pot.used += take
        return due - take

    def pot(self, kind: str, start: dt.datetime, end: dt.datetime, granted: int | None) -> Pot:
        for pot in self.pots:
            if (pot.kind, pot.start, pot.end) == (kind, start, end):
                return pot
        pot = Pot(kind, start, end, granted)
        self.pots.append(pot)
        return pot

    def available(self, at: dt.datetime) -> int:
        return sum(
            pot.left or 0
            for pot in self.pots
            if pot.kind not in ("overage", "uncovered") and pot.holds(at)
        )


def day_of(moment: dt.datetime) -> dt.datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def month_of(moment: dt.datetime) -> dt.datetime:
    return day_of(moment + EAST_8).replace(day=1) - EAST_8


def month_after(moment: dt.datetime) -> dt.datetime:
    return day_of(month_of(moment) + EAST_8 + 31 * DAY).replace(day=1) - EAST_8


# --- the machine --------------------------------------------------------------------------------

# Units per token of (input, cached input, cache write, output, reasoning), in thousandths: of
# the card that the plan names and of the operator's default, before NEW_CARD and since.
WEIGHTS = {
    ("plan", "old"): {"*": (1000, 500, 1000, 3000, 3000), "deep*": (1000, 100, 1250, 4000, 4001)},
    ("plan", "new"): {"*": (333, 1, 0, 999, 2500), "deep*": (1001, 77, 1000, 2000, 0)},
    ("standard", "old"): {"*": (2000, 2000, 2000, 2000, 2000), "deep*": (5, 5, 5, 5, 5)},
    ("standard", "new"): {"*": (7, 70, 700, 7000, 7), "deep*": (3000, 1, 1, 9000, 9000)},
}
MODELS = ("deepseek/chat", "qwen/turbo")
BOOSTER = 250 * THOUSAND

amounts = st.none() | st.integers(0, 4)
terms = st.builds(
    Terms,
    allowance=st.sampled_from((500, 2_000, 20_000)).map(lambda units: units * THOUSAND),
    cycle=st.sampled_from(("calendar_month", "subscription_day")),
    rollover=st.booleans(),
    on_exhaustion=st.sampled_from(("stop", "meter", "blocks", "degrade")),
    cap=amounts.map(lambda n: None if n is None else Decimal(n) / 2),
    cap_units=amounts.map(lambda n: None if n is None else n * 400 * THOUSAND),
)
# (which of the edges that are known, or none for now; how far from it)
moments = st.one_of(
    st.tuples(st.none(), st.sampled_from((0 * DAY, -US, -HOUR, 4 * HOUR / 60))),
    st.tuples(st.none(), st.sampled_from((-34 * DAY, -5 * DAY, -3 * DAY, -DAY, DAY))),
    st.tuples(st.integers(0, 50), st.sampled_from((-US, 0 * DAY, US))),
)
# Little enough for a bucket to last, or enough to run through several.
little, much = (st.tuples(*[st.integers(0, most)] * 5).filter(any) for most in (3, 120))
subjects = st.sampled_from(("user-a", "user-b", "shared"))
uses = st.lists(
    st.tuples(subjects, moments, little | much, st.sampled_from(MODELS)), min_size=1, max_size=6
)
_numbers = itertools.count()


def a_record(
    name: str, subject: str, at: dt.datetime, counts: tuple[int, ...], model: str
) -> dict[str, Any]:
    fresh, cached, write, output, reasoning = counts
    return {
        "id": name,
        "subject": subject,
        "model": model,
        "occurred_at": at,
        "input_tokens": fresh + cached + write,
        "cached_input_tokens": cached,
        "cache_write_tokens": write,
        "output_tokens": output + reasoning,
        "reasoning_tokens": reasoning,
    }


def moment_of(record: dict[str, Any]) -> dt.datetime:
    moment: dt.datetime = record["occurred_at"]
    return moment


def wire(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "occurred_at": moment_of(record).isoformat()}


def units_of(record: dict[str, Any], *, planned: bool) -> int:
    """Thousandths of units: tokens by class times the weights of the record's time and plan."""
    age = "new" if moment_of(record) >= NEW_CARD else "old"
    card = WEIGHTS["plan" if planned else "standard", age]
    weights = card["deep*" if record["model"].startswith("deep") else "*"]
    cached, write = record["cached_input_tokens"], record["cache_write_tokens"]
    reasoning = record["reasoning_tokens"]
    tokens = (
        record["input_tokens"] - cached - write,
        cached,
        write,
        record["output_tokens"] - reasoning,
        reasoning,
    )
    return sum(count * weight for count, weight in zip(tokens, weights, strict=True))


def thousandths(units: str) -> int:
    return int(Decimal(units) * THOUSAND)


Shown = tuple[str, dt.datetime, dt.datetime, int | None, int]


def buckets_in(balance: dict[str, Any], now: dt.datetime) -> tuple[list[Shown], int]:
    """The buckets of an answer as `comparable` has them."""
    return comparable(
        (
            (
                bucket["kind"],
                dt.datetime.fromisoformat(bucket["valid_from"]),
                dt.datetime.fromisoformat(bucket["valid_until"]),
                None if bucket["granted"] is None else thousandths(bucket["granted"]),
                thousandths(bucket["used"]),
            )
            for bucket in balance["buckets"]
        ),
        now,
    )


def buckets_of(account: Account, now: dt.datetime) -> tuple[list[Shown], int]:
    """The buckets that the rules lead to as `comparable` has them."""
    return comparable(((p.kind, p.start, p.end, p.granted, p.used) for p in account.pots), now)


def comparable(buckets: Iterable[Shown], now: dt.datetime) -> tuple[list[Shown], int]:
    """Sorted, without those that are only there ahead of their time or need; and what is
    uncovered, which nobody is billed for, as one sum."""
    kept, uncovered = [], 0
    for bucket in buckets:
        kind, start, _, _, used = bucket
        if kind == "uncovered":
            uncovered += used
        elif used or (kind != "overage" and start <= now):
            kept.append(bucket)
    return sorted(kept, key=str), uncovered


class Ledger(RuleBasedStateMachine):
    """Two subscribers of a fresh operator: one with a plan, one that may buy it later."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.accounts: list[Account] = []
        self.sent: list[dict[str, Any]] = []
        self.serial = itertools.count()

    @initialize(plan=terms)
    def begin(self, plan: Terms) -> None:
        self.terms = plan
        self.operator = make_operator(f"property-{next(_numbers)}", at=START)
        self.crm = client_for(make_key(self.operator))
        self.gateway = client_for(make_gateway_key(self.operator))
        for (code, age), weights in WEIGHTS.items():
            make_rate_card(
                self.operator,
                code,
                effective_from=NEW_CARD if age == "new" else local(2020, 1, 1),
                weights={
                    pattern: tuple(str(Decimal(w) / THOUSAND) for w in row)  # type: ignore[misc]
                    for pattern, row in weights.items()
                },
            )
        make_plan(
            self.operator,
            "plan",
            allowance=plan.allowance,
            rate_card="plan",
            cycle=plan.cycle,
            rollover="one_cycle" if plan.rollover else "none",
            on_exhaustion=plan.on_exhaustion,
            price_per_million=plan.price_per_million,
            block_units=plan.block,
            block_price=Money(plan.block_price, "CNY"),
            cap=None if plan.cap is None else Money(plan.cap, "CNY"),
            cap_units=plan.cap_units,
        )
        price = {"amount": "1.00", "currency": "CNY"}
        self.call("PUT", "boosters/more", name="More", price=price, units="250", valid_days=20)
        self.accounts = [Account("a"), Account("b")]
        for account in self.accounts:
            make_subscriber(self.operator, account.name)
        # Who is called "shared" since when: the first holder from ever.
        self.holders: list[tuple[dt.datetime | None, Account]] = [(None, self.accounts[0])]
        self.bind()
        self.sell(self.accounts[0])

    # What happens.

    @rule(batch=uses, twice=st.booleans())
    def use(self, batch: list[Any], twice: bool) -> None:
        """New usage of either subscriber, around now or around something's edge."""
        records = []
        for subject, moment, counts, model in batch:
            at = self.resolve(moment)
            records.append(a_record(f"id-{next(self.serial)}", subject, at, counts, model))
        self.post(records + records[:1] if twice else records)

    @rule(subject=subjects, counts=little)
    def use_now(self, subject: str, counts: tuple[int, ...]) -> None:
        """One small record, as most are: the kind that a process remembers the bucket of."""
        self.post([a_record(f"id-{next(self.serial)}", subject, self.now, counts, MODELS[0])])

    @precondition(lambda self: self.sent)
    @rule(
        which=st.lists(st.integers(0, 200), min_size=1, max_size=5),
        later=st.sampled_from(
            (0 * DAY, HOUR, -HOUR, 2 * DAY, -3 * DAY, 3 * DAY, 5 * DAY, -6 * DAY)
        ),
    )
    def resend(self, which: list[int], later: dt.timedelta) -> None:
        """What was sent before, at its time or at another: twice the same within three days."""
        chosen = {nr % len(self.sent): self.sent[nr % len(self.sent)] for nr in which}
        once = {(record["subject"], record["id"]): record for record in chosen.values()}
        self.post(
            [{**record, "occurred_at": moment_of(record) + later} for record in once.values()]
        )

    @precondition(lambda self: self.sent)
    @rule(which=st.integers(0, 200))
    def contradict(self, which: int) -> None:
        """An id that was charged, with other content: refused, and nothing changes."""
        record = self.sent[which % len(self.sent)]
        if self.account_of(record).charged.get(record["id"], [None])[0] != moment_of(record):
            return
        answer = self.gateway.post(
            "/api/v1/usage-records",
            [wire({**record, "input_tokens": record["input_tokens"] + 1})],
            format="json",
        )
        assert answer.status_code == 200
        assert [item["cause"] for item in answer.json()["rejected"]] == ["conflict"]

    @rule(whose=st.booleans(), units=st.integers(1, 400_000), hours=st.integers(1, 1000))
    def give(self, whose: bool, units: int, hours: int) -> None:
        account, end = self.accounts[whose], self.now + hours * HOUR
        self.call(
            "POST",
            f"subscribers/{account.name}/grants",
            units=str(Decimal(units) / THOUSAND),
            valid_until=end.isoformat(),
            reason="a gift",
        )
        account.pots.append(Pot("gift", self.now, end, units))

    @rule(whose=st.booleans())
    def top_up(self, whose: bool) -> None:
        account = self.accounts[whose]
        self.call("POST", f"subscribers/{account.name}/boosters", booster="more")
        account.pots.append(Pot("booster", self.now, self.now + 20 * DAY, BOOSTER))

    @rule()
    def hand_over(self) -> None:
        """The shared subject goes to the other one: later usage of it is theirs."""
        holder = self.holders[-1][1]
        self.holders.append((self.now, next(a for a in self.accounts if a is not holder)))
        self.bind()

    @precondition(lambda self: not self.accounts[1].periods)
    @rule()
    def subscribe(self) -> None:
        self.sell(self.accounts[1])

    @rule(whose=st.booleans())
    def suspend_or_restore(self, whose: bool) -> None:
        account = self.accounts[whose]
        subscriber = registry.find(self.operator, account.name)
        if account.suspensions and account.suspensions[-1][1] is None:
            lifecycle.restore(subscriber.pk, at=self.now)
            account.suspensions[-1] = (account.suspensions[-1][0], self.now)
        else:
            lifecycle.suspend(subscriber.pk, reason="a test", at=self.now)
            account.suspensions.append((self.now, None))

    @rule(
        wait=st.sampled_from((HOUR, 6 * HOUR, DAY, 2 * DAY, 9 * DAY, 30 * DAY)) | st.none(),
        edge=st.integers(0, 50),
        off=st.sampled_from((-US, 0 * US, US)),
    )
    def wait(self, wait: dt.timedelta | None, edge: int, off: dt.timedelta) -> None:
        """Some time, or until something begins or ends, to the microsecond."""
        edges = sorted(
            {e + off for a in self.accounts for e in self.edges(a) if e + off > self.now}
        )
        to = edges[edge % len(edges)] if wait is None and edges else self.now + (wait or US)
        self.call("POST", "test-clock", now=to.isoformat())
        self.now = to
        for account in self.accounts:
            account.wait(to)

    # What must hold.

    @invariant()
    def every_bucket_holds_what_the_rules_say(self) -> None:
        for account in self.accounts:
            balance = self.call("GET", f"subscribers/{account.name}/balance?all=1")
            assert buckets_in(balance, self.now) == buckets_of(account, self.now)
            assert thousandths(balance["available"]) == account.available(self.now)

    @invariant()
    def every_unit_used_is_drawn_once(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute(SUMS, [self.operator.pk])
            assert cursor.fetchone() == (sum(a.units for a in self.accounts),) * 2

    def teardown(self) -> None:
        if not self.accounts:
            return
        for account in self.accounts:
            usage = self.call(
                "GET",
                f"subscribers/{account.name}/usage?by=month"
                "&from=2026-01-01T00:00:00Z&to=2030-01-01T00:00:00Z",
            )
            by_month = {row["period"]: thousandths(row["units"]) for row in usage["items"]}
            said = {dt.datetime.fromisoformat(month): units for month, units in by_month.items()}
            assert nonzero(said) == nonzero(account.used)
        report = reconcile(at=clock.wall(), operator_code=self.operator.code)
        assert report.ok, report

    # How it is said.

    def bind(self) -> None:
        """Tell the platform who holds which subject, who gives one up first."""
        holder = self.holders[-1][1]
        for account in sorted(self.accounts, key=lambda a: a is holder):
            held = [f"user-{account.name}", *(["shared"] if account is holder else [])]
            self.call("PUT", f"subscribers/{account.name}", subjects=held)

    def sell(self, account: Account) -> None:
        self.call("POST", f"subscribers/{account.name}/subscriptions", plan="plan")
        account.buy(self.terms, self.now)

    def call(self, method: str, path: str, **body: Any) -> Any:
        given = {"data": body, "format": "json"} if body else {}
        answer = getattr(self.crm, method.lower())(f"/api/v1/{path}", **given)
        assert answer.status_code in (200, 201), answer.content
        return answer.json()

    def edges(self, account: Account) -> list[dt.datetime]:
        """The instants at which something begins, ends or leaves its grace."""
        edges = {NEW_CARD}
        for pot in account.pots:
            edges |= {pot.start, pot.end, pot.end + GRACE}
        for start, end in account.suspensions:
            edges |= {start, end or start}
        return sorted(edges)

    def resolve(self, moment: tuple[int | None, dt.timedelta]) -> dt.datetime:
        nr, off = moment
        edges = [e for a in self.accounts for e in self.edges(a) if e <= self.now + HOUR]
        return (self.now if nr is None or not edges else edges[nr % len(edges)]) + off

    def account_of(self, record: dict[str, Any]) -> Account:
        """Whose the subject was at that time."""
        moment = moment_of(record)
        if record["subject"] != "shared":
            return next(a for a in self.accounts if record["subject"] == f"user-{a.name}")
        return [holder for since, holder in self.holders if since is None or since <= moment][-1]

    def post(self, records: list[dict[str, Any]]) -> None:
        """Send a batch; what comes back, and what is charged, must be what the rules say."""
        charged: list[tuple[dt.datetime, str, Account, int]] = []
        seen: set[tuple[str, str]] = set()
        duplicates = refused = 0
        for record in records:
            account, moment = self.account_of(record), moment_of(record)
            key = (account.name, record["id"])
            if key in seen or account.knows(record["id"], moment):
                duplicates += 1
            elif not self.now - 35 * DAY <= moment <= self.now + HOUR / 12:
                refused += 1
            else:
                seen.add(key)
                planned = account.period_of(moment)[2]
                charged.append((moment, record["id"], account, units_of(record, planned=planned)))
        answer = self.gateway.post(
            "/api/v1/usage-records", [wire(record) for record in records], format="json"
        )
        assert answer.status_code == 200, answer.content
        said = answer.json()
        assert (said["accepted"], said["duplicates"]) == (len(charged), duplicates)
        assert [item["cause"] for item in said["rejected"]] == ["out_of_window"] * refused
        assert thousandths(said["units"]) == sum(units for *_, units in charged)
        for moment, name, account, units in sorted(charged, key=lambda use: use[:2]):
            account.charge(name, moment, units, self.now)
        self.sent += records


def nonzero(by_month: dict[dt.datetime, int]) -> dict[dt.datetime, int]:
    """A month in which nothing cost anything may be there or not."""
    return {month: units for month, units in by_month.items() if units}


SUMS = """
WITH mine AS (SELECT id FROM subscriptions_subscriber WHERE operator_id = %s)
SELECT (SELECT coalesce(sum(units), 0)::bigint FROM (
            SELECT subscriber_id, units FROM metering_usagerecord
            UNION ALL SELECT subscriber_id, units FROM metering_adjustedrecord) r
        WHERE subscriber_id IN (SELECT id FROM mine)),
       (SELECT coalesce(sum(units), 0)::bigint FROM subscriptions_bucketentry
        WHERE kind IN (2, 5) AND subscriber_id IN (SELECT id FROM mine))
"""


@pytest.mark.django_db(transaction=True)
@pytest.mark.timeout(600)
def test_the_ledger_keeps_its_rules() -> None:
    run_state_machine_as_test(
        Ledger,
        settings=settings(
            max_examples=25,
            stateful_step_count=30,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
