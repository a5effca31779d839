"""Wallets: what subscribers have with the operator, in fen: the only writer of Wallet and its
movements.

A movement is a line of the statement; the caller posts it to the ledger's account `wallet` in the
same transaction. What of it is a bonus is posted here: it stands on an account of its own. Locks in
one order: the subscriber, orders, invoices, then wallets.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from decimal import Decimal

from django.db import connection, transaction

from billing import bonuses, ledger, low_wallets, rating
from billing.bonuses import Gift, Part
from billing.ledger import Side
from billing.low_wallets import Fall
from billing.models import Wallet, WalletBonus, WalletMovement
from subscriptions import pgarrays
from subscriptions.errors import Conflict
from subscriptions.pgarrays import Int8s, Texts
from subscriptions.storing import store

Key = tuple[int, str]  # (subscriber, currency)
Kind = WalletMovement.Kind
_SWEEP = 500


class InsufficientFunds(Conflict):
    cause = "insufficient_funds"


@dataclass(frozen=True, slots=True)
class Move:
    """Money that goes into (> 0) or out of (< 0) a wallet; `key` makes it happen once.

    `of_order` is the number of the order whose money goes back, `gift` what a bonus is like, and
    `bonus_nr` the bonus that lapses, or that is given again.
    """

    subscriber_id: int
    currency: str
    kind: str
    amount: Decimal
    key: str
    note: str = ""
    of_order: str = ""
    gift: Gift | None = None
    bonus_nr: int | None = None

    def side(self) -> Side:
        """Its entry in the ledger: the wallet is owed to the subscriber."""
        return Side(ledger.WALLET, -self.amount, self.subscriber_id)


# A wallet is written before its movement, for the database holds the one against the other.
_BALANCES_SQL = """
UPDATE billing_wallet w SET balance = m.balance, bonus = w.bonus + m.bonus, movements = m.movements
FROM unnest(%s::bigint[], %s::text[], %s::text[]::numeric[], %s::text[]::numeric[], %s::bigint[])
     AS m (subscriber_id, currency, balance, bonus, movements)
WHERE w.subscriber_id = m.subscriber_id AND w.currency = m.currency
"""


def move(
    operator_id: int,
    moves: Sequence[Move],
    *,
    at: dt.datetime,
    held: Mapping[Key, Wallet] | None = None,
) -> None:
    """Make these movements, in the caller's transaction, each once.

    A few statements, however many wallets there are; movements of one wallet follow each other.
    What lapsed by `at` is taken out first. `held`: what `lock` answered, where nothing has moved
    since. Raises InsufficientFunds where a wallet has less than is taken out, beside what is set
    aside; nothing has moved then.
    """
    assert connection.in_atomic_block
    if not moves:
        return
    keys = {(one.subscriber_id, one.currency) for one in moves}
    known = _locked(keys) if held is None else held
    wallets = {key: known[key] for key in keys if key in known}
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
            subscriber_id__among={key[0] for key in keys}, key__among={one.key for one in moves}
        ).values_list("subscriber_id", "currency", "key")
    )
    _Moving(operator_id, wallets, made, at).make(moves)


class _Moving:
    """Movements of locked wallets: planned one by one, then written together."""

    def __init__(
        self,
        operator_id: int,
        wallets: dict[Key, Wallet],
        made: set[tuple[int, str, str]],
        at: dt.datetime,
    ) -> None:
        self.operator_id, self.wallets, self.made, self.at = operator_id, wallets, made, at
        with_bonus = [key for key, wallet in wallets.items() if wallet.bonus]
        self.bonuses = bonuses.left_in(with_bonus) if with_bonus else {}
        self.rounds: list[dict[Key, WalletMovement]] = []
        self.parts: list[tuple[int, Part]] = []
        self.gifts: list[tuple[WalletMovement, Gift]] = []

    def make(self, moves: Sequence[Move]) -> None:
        before = {key: spendable(wallet) for key, wallet in self.wallets.items()}
        for key in self.bonuses:
            self._lapse(key)
        for one in moves:
            if (one.subscriber_id, one.currency, one.key) not in self.made:
                self._plan(one)
        self._write()
        low_wallets.fell(
            self.operator_id,
            [
                Fall(*key, before[key], spendable(wallet), f"movement-{wallet.movements}")
                for key, wallet in self.wallets.items()
                if spendable(wallet) < before[key]
            ],
            at=self.at,
        )

    def _lapse(self, key: Key) -> None:
        """What is held of a bonus waits for the end of the hold."""
        for bonus in self.bonuses[key]:
            over = bonus.expires_at is not None and bonus.expires_at <= self.at
            amount = min(bonus.remaining, spendable(self.wallets[key]))
            if over and amount > 0:
                self._plan(
                    lapse(bonus, amount, f"lapse:{bonus.nr}:{self.wallets[key].movements + 1}")
                )

    def _plan(self, one: Move) -> None:
        key = (one.subscriber_id, one.currency)
        wallet = self.wallets[key]
        self.made.add((*key, one.key))
        if spendable(wallet) + one.amount < 0:
            left = spendable(wallet)
            raise InsufficientFunds(
                f"the wallet has {left} {one.currency} to spend, {-one.amount} are needed"
            )
        parts = self._parts(one, wallet, key)
        bonus = one.amount if one.gift else sum((part.amount for part in parts), rating.ZERO)
        wallet.balance += one.amount
        wallet.bonus += bonus
        wallet.movements += 1
        row = WalletMovement(
            subscriber_id=one.subscriber_id,
            currency=one.currency,
            nr=wallet.movements,
            operator_id=self.operator_id,
            kind=one.kind,
            amount=one.amount,
            bonus=bonus,
            balance=wallet.balance,
            key=one.key,
            at=self.at,
            note=one.note,
        )
        free = next((some for some in self.rounds if key not in some), None)
        if free is None:
            self.rounds.append(free := {})
        free[key] = row
        if one.gift is not None:
            self.gifts.append((row, one.gift))
        for part in parts:
            part.bonus.remaining += part.amount
            self.parts.append((row.nr, part))

    def _parts(self, one: Move, wallet: Wallet, key: Key) -> list[Part]:
        """What this movement gives to bonuses and takes of them."""
        held = [bonus for bonus in self.bonuses.get(key, []) if bonus.remaining]
        own = wallet.balance - wallet.bonus
        if one.kind == Kind.PAYMENT and held:
            return bonuses.spent_on(held, -one.amount, own)
        if one.kind == Kind.PAYOUT and own + one.amount < 0:
            raise InsufficientFunds(
                f"of the wallet {own} {one.currency} can be paid out, {-one.amount} are needed"
            )
        if one.bonus_nr is not None:
            known = next((bonus for bonus in held if bonus.nr == one.bonus_nr), None)
            return [Part(known or bonuses.get(key, one.bonus_nr), one.amount)]
        if one.kind == Kind.REFUND and one.of_order:
            return bonuses.given_back(key, one.of_order, one.amount)
        return []

    def _write(self) -> None:
        for some in self.rounds:
            rows = list(some.values())
            with pgarrays.statements() as cursor:
                cursor.execute(
                    _BALANCES_SQL,
                    [
                        Int8s(row.subscriber_id for row in rows),
                        Texts(row.currency for row in rows),
                        Texts(str(row.balance) for row in rows),
                        Texts(str(row.bonus) for row in rows),
                        Int8s(row.nr for row in rows),
                    ],
                )
            store(rows)
        for row, gift in self.gifts:
            for part in bonuses.grant(row, gift):
                part.bonus.remaining += part.amount
                self.parts.append((row.nr, part))
        if self.parts:
            bonuses.enter(self.parts)
            rows = [row for some in self.rounds for row in some.values() if row.bonus]
            ledger.post_many(self.operator_id, [_posting(row) for row in rows])


# Against which account a bonus moves: it is given and taken back as marketing; what of a payment it
# paid the caller takes from `wallet`, so it goes there first.
_AGAINST = {Kind.BONUS: ledger.MARKETING, Kind.LAPSE: ledger.MARKETING}


def _posting(row: WalletMovement) -> ledger.Draft:
    against = _AGAINST.get(Kind(row.kind), ledger.WALLET)
    whose = row.subscriber_id if against == ledger.WALLET else None
    sides = (Side(against, row.bonus, whose), Side(ledger.BONUS, -row.bonus, row.subscriber_id))
    return ledger.Draft(
        f"bonus:{row.subscriber_id}:{row.nr}:{row.currency}",
        "bonus",
        row.at,
        row.currency,
        sides,
        row.note,
    )


def spendable(wallet: Wallet) -> Decimal:
    """What can be spent."""
    free: Decimal = wallet.balance - wallet.held
    return free


# Bonuses -----------------------------------------------------------------------------------------


def lapse(bonus: WalletBonus, amount: Decimal, key: str, note: str = "") -> Move:
    """So much of a bonus is there no more."""
    return Move(
        bonus.subscriber_id, bonus.currency, Kind.LAPSE, -amount, key, note, bonus_nr=bonus.nr
    )


def take_back_bonus(operator_id: int, key: Key, order_id: int, *, by: str, at: dt.datetime) -> None:
    """Take what is left of the bonus of a top-up whose money goes back, `by` a refund or a dispute.
    Joins the caller's transaction. Again changes nothing; what is held of it stays until it is paid
    or lapses."""
    assert connection.in_atomic_block
    [wallet] = _locked({key}).values()
    bonus = bonuses.of_top_up(key, order_id, at=at)
    if bonus is not None and (amount := min(bonus.remaining, spendable(wallet))):
        move(operator_id, [lapse(bonus, amount, _taken_back(by), by)], at=at)


def give_bonus_again(operator_id: int, key: Key, *, by: str, at: dt.datetime) -> None:
    """Give again what `take_back_bonus` took `by` the same, for the money did not go back. Joins
    the caller's transaction. Again changes nothing; what is over by now lapses."""
    assert connection.in_atomic_block
    taken = WalletMovement.objects.filter(
        subscriber_id=key[0], currency=key[1], key=_taken_back(by)
    ).first()
    if taken is not None:
        bonus_nr = bonuses.of_movement(taken)
        given = Move(*key, Kind.BONUS, -taken.amount, f"given-again:{by}", by, bonus_nr=bonus_nr)
        move(operator_id, [given], at=at)


def _taken_back(by: str) -> str:
    return f"taken-back:{by}"


def lapse_due(operator_id: int, *, at: dt.datetime) -> int:
    """Let bonuses lapse whose time is over by `at`, a chunk in a transaction; answers how many
    wallets it was, so call it until that is 0."""
    over = bonuses.due(operator_id, at=at, limit=_SWEEP)
    with transaction.atomic():
        wallets = _locked({(bonus.subscriber_id, bonus.currency) for bonus in over})
        moving = _Moving(operator_id, wallets, set(), at)
        moving.make([])
        return sum(len(some) for some in moving.rounds)


# Reading and setting aside -----------------------------------------------------------------------


def lock(keys: Iterable[Key]) -> dict[Key, Wallet]:
    """These wallets under lock, of subscriber and currency: those that there are."""
    assert connection.in_atomic_block
    return _locked(set(keys))


def set_aside(operator_id: int, key: Key, amount: Decimal, *, cause: str, at: dt.datetime) -> None:
    """Hold so much more (> 0) or less (< 0) of a wallet, in the caller's transaction. Raises
    InsufficientFunds."""
    assert connection.in_atomic_block
    wallet = _locked({key}).get(key)
    free = rating.ZERO if wallet is None else spendable(wallet)
    if wallet is None or free < amount:
        raise InsufficientFunds(f"the wallet has {free} {key[1]} to spend, {amount} are needed")
    Wallet.objects.filter(subscriber_id=key[0], currency=key[1]).update(held=wallet.held + amount)
    low_wallets.fell(operator_id, [Fall(*key, free, free - amount, cause)], at=at)


def _locked(keys: Set[Key]) -> dict[Key, Wallet]:
    rows = (
        Wallet.objects.filter(subscriber_id__among={key[0] for key in keys})
        .order_by("subscriber_id", "currency")
        .select_for_update(no_key=True)
    )
    return {
        (wallet.subscriber_id, wallet.currency): wallet
        for wallet in rows
        if (wallet.subscriber_id, wallet.currency) in keys
    }


def balance_of(subscriber_id: int, currency: str) -> Decimal:
    """What a subscriber has in a currency."""
    wallet = find(subscriber_id, currency)
    return rating.ZERO if wallet is None else wallet.balance


def free_of(subscriber_id: int, currency: str) -> Decimal:
    """What of it can be spent."""
    wallet = find(subscriber_id, currency)
    return rating.ZERO if wallet is None else spendable(wallet)


def own_of(subscriber_id: int, currency: str) -> Decimal:
    """What of it can be paid out: the subscriber's own money that is not held."""
    wallet = find(subscriber_id, currency)
    return rating.ZERO if wallet is None else min(wallet.balance - wallet.bonus, spendable(wallet))


def find(subscriber_id: int, currency: str) -> Wallet | None:
    """A subscriber's wallet in a currency, once money went in."""
    return Wallet.objects.filter(subscriber_id=subscriber_id, currency=currency).first()
