"""Wallets: what subscribers have with the operator, in fen: the only writer of Wallet and its
movements.

A movement is a line of the statement; the caller posts it to the ledger's account `wallet` in the
same transaction. Locks in one order: the subscriber, orders, invoices, then wallets.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from decimal import Decimal

from django.db import connection

from billing import ledger, rating
from billing.ledger import Side
from billing.models import Wallet, WalletMovement
from subscriptions import pgarrays
from subscriptions.errors import Conflict
from subscriptions.pgarrays import Int8s, Texts

Key = tuple[int, str]  # (subscriber, currency)
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


# A wallet is written before its movement, for the database holds the one against the other.
_BALANCES_SQL = """
UPDATE billing_wallet w SET balance = m.balance, movements = m.movements
FROM unnest(%s::bigint[], %s::text[], %s::text[]::numeric[], %s::bigint[])
     AS m (subscriber_id, currency, balance, movements)
WHERE w.subscriber_id = m.subscriber_id AND w.currency = m.currency
"""


def move(operator_id: int, moves: Sequence[Move], *, at: dt.datetime) -> None:
    """Make these movements, in the caller's transaction, each once.

    A few statements, however many wallets there are; movements of one wallet follow each other.
    Raises InsufficientFunds where a wallet has less than is taken out; nothing has moved then.
    """
    assert connection.in_atomic_block
    if not moves:
        return
    keys = {(one.subscriber_id, one.currency) for one in moves}
    wallets = _locked(keys)
    if missing := sorted(keys - wallets.keys()):
        Wallet.objects.bulk_create(
            [
                Wallet(subscriber_id=subscriber_id, currency=currency, operator_id=operator_id)
                for subscriber_id, currency in missing
            ],
            ignore_conflicts=True,
        )
        wallets = _locked(keys)
    made = set(
        WalletMovement.objects.filter(
            subscriber_id__in={key[0] for key in keys}, key__in={one.key for one in moves}
        ).values_list("subscriber_id", "currency", "key")
    )
    rounds: list[dict[Key, WalletMovement]] = []
    for one in moves:
        wallet = wallets[one.subscriber_id, one.currency]
        if (one.subscriber_id, one.currency, one.key) in made:
            continue
        made.add((one.subscriber_id, one.currency, one.key))
        if wallet.balance + one.amount < 0:
            raise InsufficientFunds(
                f"the wallet has {wallet.balance} {one.currency}, {-one.amount} are needed"
            )
        wallet.balance += one.amount
        wallet.movements += 1
        row = WalletMovement(
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
        key = (one.subscriber_id, one.currency)
        free = next((some for some in rounds if key not in some), None)
        if free is None:
            rounds.append(free := {})
        free[key] = row
    for some in rounds:
        rows = list(some.values())
        with pgarrays.statements() as cursor:
            cursor.execute(
                _BALANCES_SQL,
                [
                    Int8s(row.subscriber_id for row in rows),
                    Texts(row.currency for row in rows),
                    Texts(str(row.balance) for row in rows),
                    Int8s(row.nr for row in rows),
                ],
            )
        WalletMovement.objects.bulk_create(rows)


def lock(keys: Iterable[Key]) -> dict[Key, Decimal]:
    """What these wallets have, under lock: of subscriber and currency, those that there are."""
    assert connection.in_atomic_block
    return {key: wallet.balance for key, wallet in _locked(set(keys)).items()}


def _locked(keys: Set[Key]) -> dict[Key, Wallet]:
    rows = (
        Wallet.objects.filter(subscriber_id__in={key[0] for key in keys})
        .order_by("subscriber_id", "currency")
        .select_for_update(no_key=True)
    )
    return {(wallet.subscriber_id, wallet.currency): wallet for wallet in rows}


def balance_of(subscriber_id: int, currency: str) -> Decimal:
    """What a subscriber has in a currency."""
    wallet = Wallet.objects.filter(subscriber_id=subscriber_id, currency=currency).first()
    return rating.ZERO if wallet is None else wallet.balance
