"""A small provider of the tests, outside of the platform: it remembers what it was asked by key,
and answers now, later, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal

import pytest

from billing.ledger import Side
from billing.ways import known
from billing.ways.provider import About, Answer, Attempt, Event, Fate, Unavailable
from tests.factories import NOW

WAY = "slow"


@dataclass
class SlowProvider:
    """`fate` is what the next new refund becomes; `silent`: it works, and nobody hears of it."""

    way: str = WAY
    local: bool = False
    fate: Fate = Fate.WAITING
    silent: bool = False
    deaf: bool = False
    calls: int = 0
    paid: dict[str, Decimal] = field(default_factory=dict)
    refunds: dict[str, tuple[Fate, Decimal]] = field(default_factory=dict)
    evidence: dict[str, dict[str, str]] = field(default_factory=dict)

    def source(self, attempt: Attempt) -> Side:
        return Side(f"cash:{WAY}", attempt.amount)

    def create(self, attempt: Attempt) -> Answer:
        self.paid[attempt.key] = attempt.amount
        return self.get(attempt)

    def get(self, attempt: Attempt) -> Answer:
        return Answer(Fate.SUCCEEDED, reference=f"pay-{attempt.key}", amount=attempt.amount)

    def cancel(self, attempt: Attempt) -> Answer:
        return self.get(attempt)

    def refund(self, attempt: Attempt, amount: Decimal, *, key: str) -> Answer:
        self.calls += 1
        if self.deaf:
            raise Unavailable("deaf")
        known_fate, known_amount = self.refunds.setdefault(key, (self.fate, amount))
        assert known_amount == amount
        if self.silent:
            raise Unavailable("silent")
        return self._answer(key, known_fate, amount)

    def respond(self, attempt: Attempt, reference: str, evidence: dict[str, str]) -> Answer:
        if self.deaf:
            raise Unavailable("deaf")
        self.evidence[reference] = evidence
        return Answer(Fate.WAITING, reference=reference)

    def decide(self, key: str, fate: Fate) -> Event:
        """It settles a refund, and says so."""
        _, amount = self.refunds[key]
        self.refunds[key] = fate, amount
        return self.notice(key)

    def notice(self, key: str) -> Event:
        fate, amount = self.refunds[key]
        answer = self._answer(key, fate, amount)
        return Event(f"ev-{key}-{fate}", About.REFUND, key, answer.reference, answer, NOW)

    def _answer(self, key: str, fate: Fate, amount: Decimal) -> Answer:
        reason = "account closed" if fate == Fate.FAILED else ""
        return Answer(fate, reference=f"re-{key}", reason=reason, amount=amount, currency="CNY")

    def given_back(self) -> Decimal:
        """What it paid out, by its own books."""
        made = (amount for fate, amount in self.refunds.values() if fate == Fate.SUCCEEDED)
        return sum(made, Decimal("0.00"))


@contextmanager
def slow_provider() -> Iterator[SlowProvider]:
    """There is such a way to pay, for a while."""
    provider = SlowProvider()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(known.ALWAYS, WAY, provider)
        yield provider
