"""A user leaves: what each account still holds, what stands against it, and what is lost with it.

Sign-in data go at once (subscriptions/users/closing.py); what was bought and billed stays in the
operator's books, as the law asks.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass

from django.db import transaction
from django.db.models import F, Sum
from djmoney.money import Money

from billing import wallets
from billing.models import Invoice
from billing.personal_data import keeping
from subscriptions import balances
from subscriptions.errors import Conflict
from subscriptions.models import Access, Operator, Subscriber, User
from subscriptions.users import closing


class OwesMoney(Conflict):
    cause = "owes_money"


class HoldsMoney(Conflict):
    cause = "holds_money"


@dataclass(frozen=True, slots=True)
class Standing:
    """What an account holds: `units` (thousandths) and `bonus` are lost when it is closed; `own`
    money has to be used or paid out before, `owed` to be paid."""

    operator: Operator
    subscriber: Subscriber
    units: int
    own: Money
    bonus: Money
    owed: Money


def standings(user: User, *, now: Callable[[Operator], dt.datetime]) -> list[Standing]:
    """What each account of a user holds, by its operator's clock."""
    rows = Access.objects.filter(user=user).select_related("operator", "subscriber")
    return [
        _standing(access.operator, access.subscriber, at=now(access.operator))
        for access in rows.order_by("pk")
    ]


def _standing(operator: Operator, subscriber: Subscriber, *, at: dt.datetime) -> Standing:
    balance = balances.balance_of(subscriber.pk, as_of=at, grace=operator.late_grace)
    wallet = wallets.find(subscriber.pk, operator.currency)
    owed = Invoice.objects.filter(
        subscriber_id=subscriber.pk, state=Invoice.State.OPEN, gross__gt=F("paid")
    ).aggregate(due=Sum(F("gross") - F("paid")))
    own, bonus = (wallet.balance - wallet.bonus, wallet.bonus) if wallet else (0, 0)
    return Standing(
        operator,
        subscriber,
        max(0, balance.available or 0),
        Money(own, operator.currency),
        Money(bonus, operator.currency),
        Money(owed["due"] or 0, operator.currency),
    )


def close(user: User, *, at: dt.datetime, now: Callable[[Operator], dt.datetime]) -> list[Standing]:
    """Close a user's account, and answer what its accounts held then. May be repeated.

    Raises PlanRuns while a plan runs, OwesMoney while a bill is to be paid, HoldsMoney while a
    wallet has money of the user's own.
    """
    with transaction.atomic():
        locked = User.objects.select_for_update().get(pk=user.pk)
        held = standings(locked, now=now)
        if any(each.owed.amount for each in held):
            raise OwesMoney("pay what is due first")
        if any(each.own.amount for each in held):
            raise HoldsMoney("use what is in the wallet, or have it paid out")
        closing.close(locked, at=at, now=now)
        keeping.forget_user(locked)
        return held
