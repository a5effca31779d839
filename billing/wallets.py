"""Wallets: what subscribers have with the operator, in fen: the only writer of Wallet and its
movements.

A movement is a line of the statement; the caller posts it to the ledger's account `wallet` in the
same transaction. Locks in one order: the subscriber, orders, invoices, then wallets.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from django.db import connection

from billing import ledger, rating
from billing.ledger import Side
from billing.models import Wallet, WalletMovement
from subscriptions.errors import Conflict

Kind = WalletMovement.Kind


class InsufficientFunds(Conflict):
    cause = "insufficient_funds"


@dataclass(frozen=True, slots=True)
class Move:
    """Money that goes into (> 0) or out of (< 0) a wallet; `key` makes it happen once."""

    subscriber_id: int
    currency: str
    kind: str
    amount: Decimal
    key: str
    note: str = ""

    def side(self) -> Side:
        """Its entry in the ledger: the wallet is owed to the subscriber."""
        return Side(ledger.WALLET, -self.amount, self.subscriber_id)


def move(operator_id: int, moves: Sequence[Move], *, at: dt.datetime) -> None:
    """Make these movements, in the caller's transaction, each once.

    Raises InsufficientFunds where a wallet has less than is taken out; nothing has moved then.
    """
    assert connection.in_atomic_block
    if not moves:
        return
    keys = sorted({(one.subscriber_id, one.currency) for one in moves})
    Wallet.objects.bulk_create(
        [
            Wallet(subscriber_id=subscriber_id, currency=currency, operator_id=operator_id)
            for subscriber_id, currency in keys
        ],
        ignore_conflicts=True,
    )
    wallets = {
        (wallet.subscriber_id, wallet.currency): wallet
        for wallet in Wallet.objects.filter(subscriber_id__in={key[0] for key in keys})
        .order_by("subscriber_id", "currency")
        .select_for_update(no_key=True)
    }
    # By nr, for the database holds each movement against the one before.
    for one in moves:
        wallet = wallets[one.subscriber_id, one.currency]
        if WalletMovement.objects.filter(
            subscriber_id=one.subscriber_id, currency=one.currency, key=one.key
        ).exists():
            continue
        if wallet.balance + one.amount < 0:
            raise InsufficientFunds(
                f"the wallet has {wallet.balance} {one.currency}, {-one.amount} are needed"
            )
        wallet.balance += one.amount
        wallet.movements += 1
        Wallet.objects.filter(subscriber_id=one.subscriber_id, currency=one.currency).update(
            balance=wallet.balance, movements=wallet.movements
        )
        WalletMovement.objects.create(
            subscriber_id=one.subscriber_id,
            currency=one.currency,
            nr=wallet.movements,
            operator_id=operator_id,
            kind=one.kind,
            amount=one.amount,
            balance=wallet.balance,
            key=one.key,
            at=at,
            note=one.note,
        )


def balance_of(subscriber_id: int, currency: str) -> Decimal:
    """What a subscriber has in a currency."""
    wallet = Wallet.objects.filter(subscriber_id=subscriber_id, currency=currency).first()
    return rating.ZERO if wallet is None else wallet.balance
