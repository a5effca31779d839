"""Money that an operator gave, with a top-up or by hand: what a movement takes, what is left.

The only writer of WalletBonus and WalletBonusEntry; who calls holds the wallet's lock. A bonus is
money of another kind: spent before the subscriber's own or after it, as the top-up policy said, and
never paid out. What a payment took of it goes back to it with the payment. Decision 0010 says why.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from django.db import connection

from billing import rating
from billing.models import WalletBonus, WalletBonusEntry, WalletMovement
from subscriptions import pgarrays
from subscriptions.pgarrays import Int8s, Texts

Key = tuple[int, str]  # (subscriber, currency)
FIRST, LAST = WalletBonus.Spent.FIRST, WalletBonus.Spent.LAST


@dataclass(frozen=True, slots=True)
class Gift:
    """A bonus to be: how it is spent, until when, with which top-up it comes and by what version of
    the policy; with none, it is given by hand."""

    spent: str
    expires_at: dt.datetime | None
    order_id: int | None = None
    policy_nr: int | None = None


class Part(NamedTuple):
    """What a movement gives to a bonus (> 0), or takes of it (< 0)."""

    bonus: WalletBonus
    amount: Decimal


def left_in(keys: Iterable[Key]) -> dict[Key, list[WalletBonus]]:
    """The bonuses of these wallets that have something left, those that lapse first before others,
    of the same time the older."""
    found: dict[Key, list[WalletBonus]] = {key: [] for key in keys}
    rows = WalletBonus.objects.filter(
        subscriber_id__among={key[0] for key in found}, remaining__gt=0
    )
    for row in sorted(rows, key=_lapses):
        if (row.subscriber_id, row.currency) in found:
            found[row.subscriber_id, row.currency].append(row)
    return found


def _lapses(bonus: WalletBonus) -> tuple[bool, dt.datetime, int]:
    end = bonus.expires_at
    return end is None, bonus.granted_at if end is None else end, bonus.nr


def spent_on(bonuses: Sequence[WalletBonus], amount: Decimal, own: Decimal) -> list[Part]:
    """What of a payment these bonuses pay, in the order of `left_in`, beside `own` money."""
    parts, left = [], amount
    for spent in (FIRST, LAST):
        if spent == LAST:
            left -= min(left, own)
        for bonus in bonuses:
            take = min(bonus.remaining, left)
            if bonus.spent == spent and take:
                parts.append(Part(bonus, -take))
                left -= take
    assert not left
    return parts


def given_back(key: Key, order: str, amount: Decimal) -> list[Part]:
    """What of an amount that goes back of an order was paid by bonuses: the own money goes back
    first."""
    subscriber_id, currency = key
    moved = {
        row.nr: row
        for row in WalletMovement.objects.filter(
            subscriber_id=subscriber_id, currency=currency, note=order
        )
        if row.kind in (WalletMovement.Kind.PAYMENT, WalletMovement.Kind.REFUND)
    }
    entries = WalletBonusEntry.objects.filter(
        subscriber_id=subscriber_id, currency=currency, nr__in=moved
    )
    taken: dict[int, Decimal] = {}
    for entry in entries:
        taken[entry.bonus_nr] = taken.get(entry.bonus_nr, rating.ZERO) - entry.amount
    own = -sum((row.amount - row.bonus for row in moved.values()), rating.ZERO)
    left = amount - min(amount, max(own, rating.ZERO))
    parts = []
    bonuses = WalletBonus.objects.filter(
        subscriber_id=subscriber_id, currency=currency, nr__in=taken
    )
    for bonus in sorted(bonuses, key=_lapses, reverse=True):
        back = min(taken[bonus.nr], left)
        if back > 0:
            parts.append(Part(bonus, back))
            left -= back
    return parts


def get(key: Key, nr: int) -> WalletBonus:
    return WalletBonus.objects.get(subscriber_id=key[0], currency=key[1], nr=nr)


def of_top_up(key: Key, order_id: int, *, at: dt.datetime) -> WalletBonus | None:
    """What came with a top-up, if something is left of it that has not lapsed by `at`."""
    bonus = WalletBonus.objects.filter(
        subscriber_id=key[0], currency=key[1], order_id=order_id, remaining__gt=0
    ).first()
    over = bonus is not None and bonus.expires_at is not None and bonus.expires_at <= at
    return None if over else bonus


def of_movement(movement: WalletMovement) -> int:
    """The nr of the one bonus that a movement took of."""
    entry = WalletBonusEntry.objects.get(
        subscriber_id=movement.subscriber_id, currency=movement.currency, nr=movement.nr
    )
    return int(entry.bonus_nr)


def due(operator_id: int, *, at: dt.datetime, limit: int) -> list[WalletBonus]:
    """Bonuses whose time is over by `at` and that have something left."""
    rows = WalletBonus.objects.filter(
        operator_id=operator_id, remaining__gt=0, expires_at__lte=at
    ).order_by("expires_at", "subscriber_id", "nr")
    return list(rows[:limit])


def grant(movement: WalletMovement, gift: Gift) -> list[Part]:
    """The bonus that a movement gives, made."""
    bonus = WalletBonus.objects.create(
        subscriber_id=movement.subscriber_id,
        currency=movement.currency,
        nr=movement.nr,
        operator_id=movement.operator_id,
        granted=movement.amount,
        remaining=rating.ZERO,
        spent=gift.spent,
        granted_at=movement.at,
        expires_at=gift.expires_at,
        order_id=gift.order_id,
        policy_nr=gift.policy_nr,
    )
    return [Part(bonus, movement.amount)]


_REMAINING_SQL = """
UPDATE billing_walletbonus b SET remaining = u.remaining
FROM unnest(%s::bigint[], %s::text[], %s::bigint[], %s::text[]::numeric[])
     AS u (subscriber_id, currency, nr, remaining)
WHERE b.subscriber_id = u.subscriber_id AND b.currency = u.currency AND b.nr = u.nr
"""


def enter(parts: Sequence[tuple[int, Part]]) -> None:
    """Write down what movements, by their nr, gave to bonuses and took of them; `remaining` of each
    says it already."""
    assert connection.in_atomic_block
    changed = {(p.bonus.subscriber_id, p.bonus.currency, p.bonus.nr): p.bonus for _, p in parts}
    with pgarrays.statements() as cursor:
        cursor.execute(
            _REMAINING_SQL,
            [
                Int8s(key[0] for key in changed),
                Texts(key[1] for key in changed),
                Int8s(key[2] for key in changed),
                Texts(str(bonus.remaining) for bonus in changed.values()),
            ],
        )
    WalletBonusEntry.objects.bulk_create(
        [
            WalletBonusEntry(
                subscriber_id=part.bonus.subscriber_id,
                currency=part.bonus.currency,
                bonus_nr=part.bonus.nr,
                nr=nr,
                amount=part.amount,
            )
            for nr, part in parts
        ]
    )
