"""Amounts set aside in wallets: placed, then taken, let go, or over: the only writer of WalletHold.

What is held cannot be spent by anything else, and is still the subscriber's: no money moves in the
ledger before it is taken. Locks in one order: the subscriber, orders, holds, then wallets.
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import NamedTuple

from django.db import connection, transaction

from billing import rating, wallets
from billing.models import Order, WalletHold
from billing.orders import keeping, paying
from billing.ways import wallet
from subscriptions.errors import Conflict, Invalid, NotFound
from subscriptions.models import Operator

State = WalletHold.State
# How long it lasts where nobody says, and at most.
VALID, LONGEST = dt.timedelta(days=7), dt.timedelta(days=400)
_SWEEP = 500


class HoldEnded(Conflict):
    cause = "hold_ended"


class HoldTooSmall(Conflict):
    cause = "hold_too_small"


class Draft(NamedTuple):
    """A hold to be."""

    subscriber_id: int
    amount: Decimal
    purpose: str
    key: str
    expires_at: dt.datetime | None = None


@transaction.atomic
def place(operator: Operator, draft: Draft, *, at: dt.datetime) -> WalletHold:
    """Set an amount aside; the same key again answers the hold that it named.

    Raises Invalid, wallets.InsufficientFunds, keeping.KeyUsed.
    """
    expires_at = draft.expires_at or at + VALID
    if draft.amount <= 0 or draft.amount != rating.to_fen(draft.amount):
        raise Invalid("a hold is of more than nothing, with two decimals at most")
    if not draft.purpose.strip():
        raise Invalid("a hold has a purpose")
    keeping.lock_subscriber(draft.subscriber_id)
    known = WalletHold.objects.filter(operator=operator, key=draft.key).first()
    if known is not None:
        if (known.subscriber_id, known.amount) != (draft.subscriber_id, draft.amount):
            raise keeping.KeyUsed("this key names another hold")
        return known
    if not at < expires_at <= at + LONGEST:
        raise Invalid(f"a hold expires after now, within {LONGEST.days} days")
    with connection.cursor() as cursor:
        cursor.execute("SELECT nextval('billing_wallethold_id')")
        [(hold_id,)] = cursor.fetchall()
    hold = WalletHold.objects.create(
        subscriber_id=draft.subscriber_id,
        id=hold_id,
        operator=operator,
        currency=operator.currency,
        amount=draft.amount,
        purpose=draft.purpose,
        key=draft.key,
        placed_at=at,
        expires_at=expires_at,
    )
    wallets.set_aside(operator.pk, _wallet(hold), hold.amount, cause=f"hold-{hold.id}", at=at)
    return hold


def find(operator: Operator, hold_id: int) -> WalletHold:
    """Raises NotFound, also for another operator's."""
    found = WalletHold.objects.filter(operator=operator, id=hold_id).first()
    if found is None:
        raise NotFound("there is no such hold")
    return found


@transaction.atomic
def release(operator: Operator, hold_id: int, *, reason: str, at: dt.datetime) -> WalletHold:
    """Let what is held be spent again; again changes nothing. Raises NotFound, HoldEnded."""
    hold = _locked(operator, find(operator, hold_id))
    if hold.state != State.RELEASED:
        if hold.state == State.HELD and hold.expires_at <= at:
            return _end(operator, hold, State.EXPIRED, at=at)
        _held(hold, at=at)
        _end(operator, hold, State.RELEASED, at=at, reason=reason)
    return hold


@transaction.atomic
def capture(operator: Operator, hold_id: int, number: str, *, at: dt.datetime) -> WalletHold:
    """Pay an order of the subscriber's with what is held; what the order does not need can be spent
    again. The same again changes nothing.

    Raises NotFound, HoldEnded, HoldTooSmall, and what paying raises; then it is held still.
    """
    found = find(operator, hold_id)
    if (found.state, found.reason) != (State.CAPTURED, number):
        _held(found, at=at)
    if keeping.find(operator, number).subscriber_id != found.subscriber_id:
        raise NotFound("the subscriber has no such order")
    order = keeping.locked(operator, number)
    hold = _locked(operator, found)
    if hold.state == State.CAPTURED and hold.reason == order.number:
        return hold
    _held(hold, at=at)
    if order.kind == Order.Kind.TOP_UP:
        raise Invalid("a wallet is not filled from itself")
    if (order.amount, order.currency) > (hold.amount, hold.currency):
        raise HoldTooSmall(
            f"{hold.amount} {hold.currency} are held, the order is over {order.amount}"
        )
    take(operator, hold, order.amount, reason=order.number, at=at)
    paying.pay_locked(operator, order, wallet.WAY, at=at)
    return hold


def take(
    operator: Operator, hold: WalletHold, amount: Decimal, *, reason: str, at: dt.datetime
) -> None:
    """End a locked hold because so much of it is taken: the caller moves that out of the wallet in
    the same transaction, where nobody else can come between. Raises HoldEnded, HoldTooSmall."""
    _held(hold, at=at)
    if not 0 < amount <= hold.amount:
        raise HoldTooSmall(f"{hold.amount} {hold.currency} are held")
    _end(operator, hold, State.CAPTURED, at=at, captured=amount, reason=reason)


def expire_due(operator: Operator, *, at: dt.datetime) -> int:
    """End one chunk of holds whose time is over at `at`; answers how many were found, so call it
    until that is 0."""
    due = WalletHold.objects.filter(operator=operator, state=State.HELD, expires_at__lte=at)
    found = list(due.order_by("expires_at", "id")[:_SWEEP])
    for one in found:
        with transaction.atomic():
            hold = _locked(operator, one)
            if hold.state == State.HELD:
                _end(operator, hold, State.EXPIRED, at=at)
    return len(found)


def _locked(operator: Operator, hold: WalletHold) -> WalletHold:
    keeping.lock_subscriber(hold.subscriber_id)
    return WalletHold.objects.select_for_update(no_key=True).get(
        subscriber_id=hold.subscriber_id, id=hold.id
    )


def _held(hold: WalletHold, *, at: dt.datetime) -> None:
    """Raises HoldEnded, also where its time is over and nobody has swept."""
    if hold.state != State.HELD or hold.expires_at <= at:
        state = State.EXPIRED if hold.state == State.HELD else hold.state
        raise HoldEnded(f"the hold is {state}")


def _end(
    operator: Operator,
    hold: WalletHold,
    state: str,
    *,
    at: dt.datetime,
    captured: Decimal = rating.ZERO,
    reason: str = "",
) -> WalletHold:
    hold.state, hold.ended_at, hold.captured, hold.reason = state, at, captured, reason[:200]
    WalletHold.objects.filter(subscriber_id=hold.subscriber_id, id=hold.id).update(
        state=hold.state, ended_at=hold.ended_at, captured=hold.captured, reason=hold.reason
    )
    wallets.set_aside(operator.pk, _wallet(hold), -hold.amount, cause=f"hold-{hold.id}", at=at)
    return hold


def _wallet(hold: WalletHold) -> wallets.Key:
    return hold.subscriber_id, hold.currency
