"""A voucher's code becomes what it is worth, once."""

from __future__ import annotations

import datetime as dt

from django.db import transaction

from billing import ledger, telling, wallets
from billing.ledger import Side
from billing.models import Order, Voucher, VoucherBatch, WalletMovement
from billing.orders import keeping as orders
from billing.orders import paying
from billing.vouchers import codes, guessing, keeping
from billing.ways import wallet
from subscriptions import lifecycle
from subscriptions.errors import Conflict, DomainError, Invalid
from subscriptions.models import Operator

State, Gives = Voucher.State, VoucherBatch.Gives


class Mistyped(Invalid):
    cause = "voucher_mistyped"


class Unknown(Invalid):
    """Also for a code of another operator, used or not, and for a card that was not sold yet."""

    cause = "voucher_unknown"


class Used(Conflict):
    cause = "voucher_used"


class Void(Conflict):
    cause = "voucher_void"


class Expired(Conflict):
    cause = "voucher_expired"


class TooEarly(Conflict):
    cause = "voucher_not_valid_yet"


@transaction.atomic
def redeem(
    operator: Operator, subscriber_id: int, typed: str, *, at: dt.datetime, source: str = ""
) -> Voucher | DomainError:
    """Give a subscriber what a code is worth; the voucher, or why it is refused.

    A refusal is answered and not raised, for what it counts must stay: after too many codes that
    are none LockedOut is raised, and nothing looked up. A code that cannot be one counts nothing:
    who guesses makes no such mistakes. The same subscriber may send its code again. `source`:
    where the try comes from, as an address.
    """
    who = guessing.listen(operator.pk, subscriber_id, source, at=at)
    code = codes.read(typed)
    if code is None:
        return Mistyped("this is no code: one of its 16 letters and digits is wrong")
    orders.lock_subscriber(subscriber_id)
    lifecycle.check_open(subscriber_id)
    voucher = keeping.locked_by_code(operator.pk, code)
    if voucher is not None and voucher.subscriber_id == subscriber_id:
        return voucher
    refusal = _refusal(voucher, at=at)
    if refusal is not None:
        guessing.missed(operator.pk, who, at=at)
        return refusal
    assert voucher is not None
    _give(operator, voucher, subscriber_id, at=at)
    keeping.redeemed(voucher, subscriber_id, at=at)
    return voucher


def _refusal(voucher: Voucher | None, *, at: dt.datetime) -> DomainError | None:
    if voucher is None or voucher.state == State.MADE:
        return Unknown("there is no voucher of this code")
    if voucher.state == State.REDEEMED:
        return Used("this voucher was redeemed before")
    if voucher.state == State.VOID:
        return Void("this voucher is void; ask who sold it")
    if voucher.state == State.EXPIRED or at >= voucher.batch.valid_until:
        return Expired("this voucher has expired")
    if at < voucher.batch.valid_from:
        return TooEarly(f"this voucher is valid from {voucher.batch.valid_from.isoformat()} on")
    return None


def _give(operator: Operator, voucher: Voucher, subscriber_id: int, *, at: dt.datetime) -> None:
    batch = voucher.batch
    serial = keeping.serial_of(batch, voucher.nr)
    key = f"voucher:{batch.pk}:{voucher.nr}"
    if batch.gives == Gives.UNITS:
        assert batch.units is not None
        assert batch.valid_days is not None
        lifecycle.give(
            subscriber_id,
            units=batch.units,
            valid_until=at + dt.timedelta(days=batch.valid_days),
            reason=f"{batch.name} {serial}"[:200],
            at=at,
            key=key,
        )
        return
    into = wallets.Move(
        subscriber_id, batch.currency, WalletMovement.Kind.TOP_UP, batch.amount, key, serial
    )
    wallets.move(operator.pk, [into], at=at)
    owed = Side(ledger.VOUCHER, batch.amount)
    draft = ledger.Draft(key, "voucher", at, batch.currency, (owed, into.side()), serial)
    posted = ledger.post(operator.pk, draft)
    assert posted
    if batch.gives == Gives.MONEY:
        telling.topped_up(subscriber_id, batch.currency, batch.amount, key, at=at, voucher=serial)
        return
    # Bought as any other, from the wallet that has just been filled: its invoice, tax and earning
    # are those of every booster.
    draft_order = orders.Draft(
        subscriber_id,
        Order.Kind.BOOSTER,
        batch.amount,
        batch.currency,
        at + orders.VALID,
        key,
        booster=batch.booster,
    )
    bought = orders.create(operator, draft_order, at=at)
    paying.pay(operator, bought.number, wallet.WAY, at=at)
