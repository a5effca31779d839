"""Units and money that staff give by hand: at once, or above the limit when another approves.

Units are a gift's bucket. Money goes into the wallet as a bonus: an expense for marketing, spent
before the subscriber's own, never paid out.
"""

from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal

from django.db import transaction
from django.db.models import F, Sum

from billing import approvals, corrections, rating, wallets
from billing.approvals import Kind
from billing.bonuses import FIRST, Gift
from billing.models import Approval, WalletMovement
from subscriptions import buckets, lifecycle
from subscriptions.errors import Conflict, Invalid
from subscriptions.models import Bucket, Operator
from subscriptions.units import to_wire


class KeyUsed(Conflict):
    cause = "idempotency_conflict"


# Units -------------------------------------------------------------------------------------------


@transaction.atomic
def give(
    operator: Operator,
    subscriber_id: int,
    *,
    units: int,
    valid_until: dt.datetime,
    reason: str,
    by: str,
    at: dt.datetime,
    once: str = "",
) -> Bucket | Approval:
    """Give units (thousandths) until `valid_until`, or ask for it; `once` makes asking repeatable.

    Raises Invalid, SubscriberMerged, KeyUsed.
    """
    key = f"hand:{uuid.uuid5(uuid.NAMESPACE_OID, once).hex}" if once else ""
    # By whatever limit: what was given at once is not asked for, nor the other way round.
    waits = corrections.rules_of(operator.pk, at=at).units_wait(units)
    given = key and Bucket.objects.filter(subscriber_id=subscriber_id, grant_key=f"gift:{key}")
    if approvals.asked(operator, once) is None and (given or not waits):
        made = lifecycle.give(
            subscriber_id, units=units, valid_until=valid_until, reason=reason, at=at, key=key
        )
        if made.granted != units:
            raise KeyUsed("this key names another gift")
        return made
    lifecycle.check_open(subscriber_id)
    if valid_until <= at:
        raise Invalid("valid_until must lie after the operator's now")
    left = _left(subscriber_id, at=at)
    found = approvals.ask(
        operator,
        Kind.UNITS,
        subscriber_id=subscriber_id,
        units=units,
        until=valid_until,
        once=once,
        effect={
            "units": to_wire(units),
            "valid_until": valid_until.isoformat(),
            "units_before": to_wire(left),
            "units_after": to_wire(left + units),
        },
        reason=reason,
        by=by,
        at=at,
    )
    if (found.kind, found.subscriber_id, found.units) != (Kind.UNITS, subscriber_id, units):
        raise KeyUsed("this key names another request")
    return found


def _left(subscriber_id: int, *, at: dt.datetime) -> int:
    """What a subscriber may burn of what it has."""
    held = Bucket.objects.filter(
        subscriber_id=subscriber_id,
        kind__in=buckets.PREPAID,
        valid_from__lte=at,
        valid_until__gt=at,
    ).aggregate(left=Sum(F("granted") - F("used") - F("reserved")))
    return int(held["left"] or 0)


def give_approved(operator: Operator, approval: Approval, at: dt.datetime) -> dict[str, int]:
    """Raises Invalid where the time that it was to be for is over."""
    assert approval.subscriber_id is not None
    assert approval.units is not None
    assert approval.until is not None
    lifecycle.check_open(approval.subscriber_id)
    bucket = lifecycle.give(
        approval.subscriber_id,
        units=approval.units,
        valid_until=approval.until,
        reason=approval.reason[:200],
        at=at,
        key=f"approval:{approval.pk}",
    )
    return {"made_id": bucket.id}


# Money -------------------------------------------------------------------------------------------


@transaction.atomic
def credit(
    operator: Operator,
    subscriber_id: int,
    amount: Decimal,
    *,
    expires_at: dt.datetime | None = None,
    reason: str,
    by: str,
    at: dt.datetime,
    once: str = "",
) -> WalletMovement | Approval:
    """Put so much into a wallet as a bonus, or ask for it. `once` makes it repeatable.

    Raises Invalid, SubscriberMerged, KeyUsed.
    """
    if not 0 < amount < 10**9 or amount != rating.to_fen(amount):
        raise Invalid("a credit is more than nothing, with two decimals at most")
    if expires_at is not None and expires_at <= at:
        raise Invalid("expires_at must lie after the operator's now")
    lifecycle.check_open(subscriber_id)
    once = once or uuid.uuid4().hex
    key = f"credit:{once}"
    # By whatever limit: what was given at once is not asked for, nor the other way round.
    waits = corrections.rules_of(operator.pk, at=at).waits(amount)
    given = WalletMovement.objects.filter(subscriber_id=subscriber_id, key=key).exists()
    if approvals.asked(operator, once) is None and (given or not waits):
        made = _credit(
            operator, subscriber_id, amount, expires_at=expires_at, key=key, reason=reason, at=at
        )
        if made.amount != amount:
            raise KeyUsed("this key names another credit")
        return made
    balance = wallets.balance_of(subscriber_id, operator.currency)
    found = approvals.ask(
        operator,
        Kind.MONEY,
        subscriber_id=subscriber_id,
        amount=-amount,
        gross=-amount,
        until=expires_at,
        once=once,
        effect={
            "credit": str(amount),
            "expires_at": expires_at and expires_at.isoformat(),
            "wallet_before": str(balance),
            "wallet_after": str(balance + amount),
        },
        reason=reason,
        by=by,
        at=at,
    )
    if (found.kind, found.subscriber_id, found.amount) != (Kind.MONEY, subscriber_id, -amount):
        raise KeyUsed("this key names another request")
    return found


def credit_approved(operator: Operator, approval: Approval, at: dt.datetime) -> dict[str, int]:
    """Raises Invalid where the time that it was to be for is over."""
    assert approval.subscriber_id is not None
    if approval.until is not None and approval.until <= at:
        raise Invalid("its time is over: reject it and ask again")
    lifecycle.check_open(approval.subscriber_id)
    made = _credit(
        operator,
        approval.subscriber_id,
        -approval.amount,
        expires_at=approval.until,
        key=f"credit:approval:{approval.pk}",
        reason=approval.reason,
        at=at,
    )
    return {"made_id": made.nr}


def _credit(
    operator: Operator,
    subscriber_id: int,
    amount: Decimal,
    *,
    expires_at: dt.datetime | None,
    key: str,
    reason: str,
    at: dt.datetime,
) -> WalletMovement:
    given = wallets.Move(
        subscriber_id,
        operator.currency,
        WalletMovement.Kind.BONUS,
        amount,
        key,
        reason[:200],
        gift=Gift(FIRST, expires_at),
    )
    wallets.move(operator.pk, [given], at=at)
    return WalletMovement.objects.get(
        subscriber_id=subscriber_id, currency=operator.currency, key=key
    )
