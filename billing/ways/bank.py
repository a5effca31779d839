"""Bank transfer: the payer is told what to write on it, staff match what arrives."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from billing.ledger import Side
from billing.ways.provider import Answer, Attempt, Event, Fate, Unverified

WAY = "bank"


class BankTransferProvider:
    """Nobody is called: an attempt waits until staff match a transfer with its order."""

    way = WAY
    local = False

    def source(self, attempt: Attempt) -> Side:
        return Side(f"cash:{WAY}", attempt.amount)

    def create(self, attempt: Attempt) -> Answer:
        return self.get(attempt)

    def get(self, attempt: Attempt) -> Answer:
        action = {
            "kind": "bank_transfer",
            "remark": attempt.order,
            "amount": {"amount": f"{attempt.amount:.2f}", "currency": attempt.currency},
        }
        return Answer(Fate.WAITING, action=action)

    def refund(self, attempt: Attempt, amount: Decimal, *, key: str) -> Answer:
        """Staff transfer it back; until they have, it waits."""
        return Answer(Fate.WAITING, reason="to be transferred back by staff")

    def verify(self, headers: Mapping[str, str], body: bytes) -> Event:
        raise Unverified("a bank sends no notices")
