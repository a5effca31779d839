"""Holds against their rules, written down a second time in the plainest Python.

A machine asks, commits, releases, forgets, uses without asking, buys, waits and is suspended,
through the HTTP API, in any order that hypothesis thinks of. `Books` is what should come of it.
After every step each bucket must hold what it says: nothing is promised twice, nothing is lost.
"""

from __future__ import annotations

import datetime as dt
import itertools
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest
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
from subscriptions import clock, lifecycle
from tests.asking import asked
from tests.factories import (
    client_for,
    local,
    make_key,
    make_operator,
    make_plan,
    make_subscriber,
    subscribe,
)
from tests.test_property_ledger import THOUSAND, US, Account, Pot, Terms, thousandths
from tests.usage import Gateway, record

MINUTE, HOUR, DAY = dt.timedelta(minutes=1), dt.timedelta(hours=1), dt.timedelta(days=1)
# Near the month's end: what is held then is freed in the next.
START = local(2026, 6, 30, 23)


@dataclass
class Hold:
    """A reservation as the rules see it."""

    units: int
    expires_at: dt.datetime
    state: str
    parts: list[tuple[Pot, int]] = field(default_factory=list)
    promised: int = 0
    size: int = 0  # of a slice
    ttl: dt.timedelta = dt.timedelta(0)
    final: bool = False
    body: Any = None  # of the ask, and later of the commit
    answer: Any = None  # to it

    @property
    def held(self) -> int:
        return sum(units for _, units in self.parts)


@dataclass
class Books(Account):
    """A subscriber's units, and what is set aside of them."""

    holds: dict[str, Hold] = field(default_factory=dict)

    def ask(
        self, name: str, units: int, ttl: dt.timedelta, at: dt.datetime, *, of_slice: bool
    ) -> str:
        """The decision, or the cause of a denial."""
        self.expire(at)
        hold = self.holds[name] = Hold(units, at + ttl, "denied", ttl=ttl)
        hold.size = units if of_slice else 0
        if self.suspended(at):
            return "suspended"
        return self.grant(hold, units, at, least=1 if of_slice else units)

    def grant(self, hold: Hold, units: int, at: dt.datetime, *, least: int) -> str:
        """Set aside what there is, if it is enough."""
        start, end, planned = self.period_of(at)
        policy = self.terms.on_exhaustion if self.terms and planned else "none"
        parts: list[tuple[Pot, int]] = []
        due = units
        for pot in sorted(self.pots, key=Pot.order):
            if pot.kind == "uncovered" or not pot.holds(at):
                continue
            take = due if pot.left is None else min(due, pot.left)
            if take:
                parts.append((pot, take))
                due -= take
        packs = min(due, self.packs(start, end)) if policy == "blocks" else 0
        enough = units - due + packs >= least
        if not enough and policy != "degrade":
            known = {"none": "no_plan", "stop": "exhausted"}
            return known.get(policy, "capped")
        if not enough and hold.size:
            parts = []
        for pot, take in parts:
            pot.reserved += take
        hold.state, hold.parts, hold.promised = "open", parts, packs
        hold.final = enough and due > packs
        return "allow" if enough else "degrade"

    def report(self, name: str, units: int, at: dt.datetime) -> str:
        """What was used leaves the slice, which is renewed where it runs low."""
        hold = self.holds[name]
        left = units
        if hold.state == "open":
            kept = []
            for pot, part in hold.parts:
                taken = min(left, part)
                left -= taken
                pot.reserved -= taken
                self.follow(pot, taken, at)
                if part > taken:
                    kept.append((pot, part - taken))
            hold.parts, hold.promised = kept, max(0, hold.promised - left)
        self.charge(f"{name}-{units}-{len(self.charged)}", at, units, at)
        self.expire(at)
        if hold.state != "open" or not (hold.final or hold.held + hold.promised <= hold.size // 5):
            return ""
        if self.suspended(at):
            hold.final = True
            return "suspended"
        old, promised = hold.parts, hold.promised
        hold.promised = 0
        for pot, part in old:
            pot.reserved -= part
        said = self.grant(hold, hold.size, at, least=1)
        if said == "allow":
            hold.expires_at = at + hold.ttl
            for pot, part in old:
                self.follow(pot, part, at)
        else:
            hold.parts, hold.promised, hold.final = old, promised, True
            for pot, part in old:
                pot.reserved += part
        return said

    def packs(self, start: dt.datetime, end: dt.datetime) -> int:
        """Units of packs that may still be bought and that nobody was promised."""
        assert self.terms is not None
        most = self.terms.blocks()
        if most is None:
            return 10**15
        pots = [p for p in self.pots if (p.kind, p.start, p.end) == ("overage", start, end)]
        bought = sum((p.granted or 0) // self.terms.block for p in pots)
        promised = sum(h.promised for h in self.holds.values() if h.state == "open")
        return max(0, (most - bought) * self.terms.block - promised)

    def settle(self, name: str, state: str, at: dt.datetime) -> int:
        """What was held is free again, where it would be had it never been held."""
        hold = self.holds[name]
        freed = 0
        if hold.state == "open":
            for pot, units in hold.parts:
                pot.reserved -= units
                freed += units
                self.follow(pot, units, at)
        hold.state = state
        return freed

    def follow(self, pot: Pot, units: int, at: dt.datetime) -> None:
        if pot.kind != "allowance" or pot.end > at:
            return
        for new in self.pots:
            if (new.kind, new.start) == ("rollover", pot.start) and new.end > at:
                assert new.granted is not None
                pot.used += units
                new.granted += units

    def expire(self, at: dt.datetime) -> None:
        for name, hold in self.holds.items():
            if hold.state == "open" and hold.expires_at <= at:
                self.settle(name, "expired", at)


terms = st.builds(
    Terms,
    allowance=st.sampled_from((500, 2_000)).map(lambda units: units * THOUSAND),
    cycle=st.just("calendar_month"),
    rollover=st.booleans(),
    on_exhaustion=st.sampled_from(("stop", "meter", "blocks", "degrade")),
    cap_units=st.none() | st.integers(0, 4).map(lambda n: n * 400 * THOUSAND),
)
units = st.integers(0, 300) | st.integers(300, 3000)
ttls = st.sampled_from((1, 600, 7200, 86_400))
_numbers = itertools.count()


class Reserving(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.books: Books | None = None
        self.serial = itertools.count()

    @initialize(plan=terms)
    def begin(self, plan: Terms) -> None:
        self.operator = make_operator(f"holding-{next(_numbers)}", at=START)
        self.crm = client_for(make_key(self.operator))
        self.gateway = Gateway(self.operator)
        offer = make_plan(
            self.operator,
            "plan",
            allowance=plan.allowance,
            rollover="one_cycle" if plan.rollover else "none",
            on_exhaustion=plan.on_exhaustion,
            price_per_million=plan.price_per_million,
            block_units=plan.block,
            block_price=Money(plan.block_price, "CNY"),
            cap_units=plan.cap_units,
        )
        self.subscriber = make_subscriber(self.operator)
        subscribe(self.subscriber, offer)
        self.books = Books("s-1")
        self.books.buy(plan, self.now)

    # What happens.

    @rule(units=units, ttl=ttls, of_slice=st.booleans())
    def ask(self, units: int, ttl: int, of_slice: bool) -> None:
        assert self.books
        name = f"a-{next(self.serial)}"
        units += of_slice  # a slice is more than nothing
        body = asked(name, units=units, ttl_seconds=ttl, slice=of_slice)
        answer = self.send("reservations", body, 201)
        lasts = dt.timedelta(seconds=ttl)
        said = self.books.ask(name, units * THOUSAND, lasts, self.now, of_slice=of_slice)
        hold = self.books.holds[name]
        hold.body, hold.answer = body, answer
        assert said == (answer["cause"] if answer["decision"] == "deny" else answer["decision"])
        assert thousandths(answer["granted"]) == hold.held + hold.promised
        assert thousandths(answer["available"]) == self.books.available(self.now)

    @precondition(lambda self: self.books and self.books.holds)
    @rule(which=st.integers(0, 100))
    def ask_again(self, which: int) -> None:
        _, hold = self.pick(which)
        if hold.state != "committed":
            assert self.send("reservations", hold.body, 201) == hold.answer

    @precondition(lambda self: self.books and self.books.holds)
    @rule(which=st.integers(0, 100), tokens=st.integers(1, 300) | st.integers(300, 3000))
    def commit(self, which: int, tokens: int) -> None:
        assert self.books
        name, hold = self.pick(which)
        body = record(name, occurred_at=self.now, input_tokens=tokens, output_tokens=0)
        if hold.state == "committed":
            again = {**hold.body, "occurred_at": self.now.isoformat()}
            assert self.send(f"reservations/{name}/commit", again, 200) == hold.answer
            other = {**again, "input_tokens": again["input_tokens"] + 1}
            self.send(f"reservations/{name}/commit", other, 409)
            return
        answer = self.send(f"reservations/{name}/commit", body, 200)
        late = hold.state in ("released", "expired") or (
            hold.state == "open" and hold.expires_at <= self.now
        )
        freed = self.books.settle(name, "committed", self.now)
        self.books.charge(name, self.now, tokens * THOUSAND, self.now)
        hold.body, hold.answer = body, answer
        assert (answer["late"], answer["accepted"]) == (late, 1)
        assert thousandths(answer["released"]) == max(0, freed - tokens * THOUSAND)
        assert thousandths(answer["units"]) == tokens * THOUSAND

    @precondition(lambda self: self.books and any(h.size for h in self.books.holds.values()))
    @rule(which=st.integers(0, 100), tokens=st.integers(1, 300) | st.integers(300, 3000))
    def report(self, which: int, tokens: int) -> None:
        assert self.books
        slices = [(name, hold) for name, hold in self.books.holds.items() if hold.size]
        name, hold = slices[which % len(slices)]
        late = hold.state in ("released", "expired") or (
            hold.state == "open" and hold.expires_at <= self.now
        )
        use = record(
            f"s-{next(self.serial)}", occurred_at=self.now, input_tokens=tokens, output_tokens=0
        )
        answer = self.send(f"reservations/{name}/usage", [use], 200)
        said = self.books.report(name, tokens * THOUSAND, self.now)
        granted = hold.held + hold.promised if hold.state == "open" else 0
        assert (answer["accepted"], answer["late"], answer["state"]) == (1, late, hold.state)
        assert thousandths(answer["granted"]) == granted
        assert answer["renewed"] == (said == "allow")
        assert answer["final"] == hold.final
        if said in ("suspended", "exhausted", "capped"):
            assert answer["cause"] == said

    @precondition(lambda self: self.books and self.books.holds)
    @rule(which=st.integers(0, 100))
    def release(self, which: int) -> None:
        assert self.books
        name, hold = self.pick(which)
        answer = self.send(f"reservations/{name}/release", None, 200)
        if hold.state == "open":
            freed = self.books.settle(name, "released", self.now)
            assert thousandths(answer["released"]) == freed
        assert answer["state"] == hold.state

    @rule(tokens=st.integers(1, 100) | st.integers(300, 3000))
    def use(self, tokens: int) -> None:
        """Usage that asked nobody."""
        assert self.books
        name = f"u-{next(self.serial)}"
        self.gateway.charge(
            record(name, occurred_at=self.now, input_tokens=tokens, output_tokens=0)
        )
        self.books.charge(name, self.now, tokens * THOUSAND, self.now)

    @rule(units=st.integers(1, 400), hours=st.sampled_from((1, 30)))
    def give(self, units: int, hours: int) -> None:
        assert self.books
        end = self.now + hours * HOUR
        lifecycle.give(
            self.subscriber.pk, units=units * THOUSAND, valid_until=end, reason="x", at=self.now
        )
        self.books.pots.append(Pot("gift", self.now, end, units * THOUSAND))

    @rule()
    def suspend_or_restore(self) -> None:
        assert self.books
        spans = self.books.suspensions
        if spans and spans[-1][1] is None:
            lifecycle.restore(self.subscriber.pk, at=self.now)
            spans[-1] = (spans[-1][0], self.now)
        else:
            lifecycle.suspend(self.subscriber.pk, reason="a test", at=self.now)
            spans.append((self.now, None))

    @rule(wait=st.sampled_from((US, MINUTE, 20 * MINUTE, HOUR, 3 * HOUR, DAY, 20 * DAY)))
    def wait(self, wait: dt.timedelta) -> None:
        assert self.books
        self.now += wait
        answer = self.crm.post("/api/v1/test-clock", {"now": self.now.isoformat()}, format="json")
        assert answer.status_code == 200
        self.books.expire(self.now)
        self.books.wait(self.now)

    # What must hold.

    @invariant()
    def every_bucket_holds_what_the_rules_say(self) -> None:
        if self.books is None:
            return
        shown = self.crm.get("/api/v1/subscribers/s-1/balance?all=1").json()
        assert thousandths(shown["available"]) == self.books.available(self.now) >= 0
        found = sorted(
            (
                b["kind"],
                b["valid_from"],
                None if b["granted"] is None else thousandths(b["granted"]),
                thousandths(b["used"]),
                thousandths(b["reserved"]),
            )
            for b in shown["buckets"]
            if self.matters(b["kind"], b["valid_from"], thousandths(b["used"]), b["reserved"])
        )
        assert found == sorted(
            (p.kind, wire(p.start), p.granted, p.used, p.reserved)
            for p in self.books.pots
            if self.matters(p.kind, wire(p.start), p.used, str(p.reserved))
        )

    def matters(self, kind: str, start: str, used: int, reserved: str) -> bool:
        """Not what is only there ahead of its time or need."""
        idle = not used and not Decimal(reserved)
        return not idle or (
            kind not in ("overage", "uncovered") and dt.datetime.fromisoformat(start) <= self.now
        )

    @invariant()
    def what_is_reserved_is_what_open_reservations_hold(self) -> None:
        if self.books is not None:
            open_ones = [h for h in self.books.holds.values() if h.state == "open"]
            reserved = sum(pot.reserved for pot in self.books.pots)
            assert reserved == sum(hold.held for hold in open_ones)
            assert all((pot.left or 0) >= 0 for pot in self.books.pots)

    def teardown(self) -> None:
        if self.books is None:
            return
        assert sum(pot.used for pot in self.books.pots) >= self.books.units
        report = reconcile(at=clock.wall(), operator_code=self.operator.code)
        assert report.ok, report

    # How it is said.

    def pick(self, which: int) -> tuple[str, Hold]:
        assert self.books
        holds = list(self.books.holds.items())
        return holds[which % len(holds)]

    def send(self, path: str, body: Any, status: int) -> Any:
        answer = self.gateway.client.post(f"/api/v1/{path}", body, format="json")
        assert answer.status_code == status, answer.content
        return answer.json()


def wire(instant: dt.datetime) -> str:
    return instant.isoformat().replace("+00:00", "Z")


@pytest.mark.django_db(transaction=True)
@pytest.mark.timeout(600)
def test_holds_keep_their_rules() -> None:
    run_state_machine_as_test(
        Reserving,
        settings=settings(
            max_examples=15,
            stateful_step_count=30,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
