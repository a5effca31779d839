"""The subscriber's own wallet: money that is here already."""

from __future__ import annotations

from decimal import Decimal

from billing import ledger, wallets
from billing.ledger import Side
from billing.models import WalletMovement
from billing.ways.provider import Answer, Attempt, Fate

WAY = "wallet"


class WalletProvider:
    """In the transaction that grants: what is paid for and what it costs move together."""

    way = WAY
    local = True

    def source(self, attempt: Attempt) -> Side:
        return Side(ledger.WALLET, attempt.amount, attempt.subscriber_id)

    def create(self, attempt: Attempt) -> Answer:
        """Raises wallets.InsufficientFunds."""
        out = wallets.Move(
            attempt.subscriber_id,
            attempt.currency,
            WalletMovement.Kind.PAYMENT,
            -attempt.amount,
            f"payment:{attempt.key}",
            attempt.order,
        )
        wallets.move(attempt.operator_id, [out], at=attempt.at)
        return Answer(Fate.SUCCEEDED, reference=attempt.key, amount=attempt.amount)

    def get(self, attempt: Attempt) -> Answer:
        paid = WalletMovement.objects.filter(
            subscriber_id=attempt.subscriber_id,
            currency=attempt.currency,
            key=f"payment:{attempt.key}",
        ).first()
        if paid is None:
            return Answer(Fate.FAILED, reason="nothing was taken out of the wallet")
        return Answer(Fate.SUCCEEDED, reference=attempt.key, amount=-paid.amount)

    def cancel(self, attempt: Attempt) -> Answer:
        return Answer(Fate.FAILED, reason="a wallet pays at once or not at all")

    def refund(self, attempt: Attempt, amount: Decimal, *, key: str) -> Answer:
        back = wallets.Move(
            attempt.subscriber_id,
            attempt.currency,
            WalletMovement.Kind.REFUND,
            amount,
            f"refund:{key}",
            attempt.order,
            of_order=attempt.order,
        )
        wallets.move(attempt.operator_id, [back], at=attempt.at)
        return Answer(Fate.SUCCEEDED, reference=key, amount=amount)
