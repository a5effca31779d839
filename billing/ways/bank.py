"""Bank transfer: the payer is told what to write on it, staff match what arrives."""

from __future__ import annotations

from decimal import Decimal

from billing.ledger import Side
from billing.ways.provider import Answer, Attempt, Fate

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

    def cancel(self, attempt: Attempt) -> Answer:
        return Answer(Fate.FAILED, reason="what arrives in spite of it is matched by staff")

    def refund(self, attempt: Attempt, amount: Decimal, *, key: str) -> Answer:
        """Staff transfer it back; until they have, it waits."""
        return Answer(Fate.WAITING, reason="to be transferred back by staff")
