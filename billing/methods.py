"""Saved methods: how a subscriber saves one, and what is known of it: the only writer of
PaymentMethod.

A subscriber agrees to a text, and types the card on the provider's page; that it is saved is heard
from the provider. No call is made in a transaction: what is left to ask or to tell a provider, a
sweep does.
"""

from __future__ import annotations

import datetime as dt
import uuid
from contextlib import suppress
from typing import Any
from zoneinfo import ZoneInfo

from django.db import connection, transaction
from django.db.models import Q

from billing.models import PaymentMethod, ProviderAccount
from billing.orders import keeping, paying
from billing.ways import known
from billing.ways.provider import Answer, Card, Event, Saves, Saving, Unavailable
from subscriptions import outbox, periods
from subscriptions.errors import Conflict, NotFound
from subscriptions.models import Operator

State = PaymentMethod.State


class NothingSaves(Conflict):
    cause = "no_saved_methods"


class MethodRemoved(Conflict):
    cause = "method_removed"


def begin(
    operator: Operator,
    subscriber_id: int,
    *,
    consent: str,
    return_url: str,
    at: dt.datetime,
) -> tuple[PaymentMethod, Answer]:
    """Begin to save a card; the answer says where the subscriber goes. Raises NothingSaves where
    the operator's provider saves none, Unavailable."""
    asked = known.choose(operator, "card", at=at)
    if asked is None or asked.account is None:
        raise NothingSaves("this operator has no provider that saves cards")
    account = asked.account
    partner = known.partner_of(account, at=at)
    if not isinstance(partner, Saves):
        raise NothingSaves("the operator's provider saves no cards")
    with transaction.atomic():
        keeping.lock_subscriber(subscriber_id)
        earlier = (
            PaymentMethod.objects.filter(account=account, subscriber_id=subscriber_id)
            .exclude(customer="")
            .first()
        )
        method = PaymentMethod.objects.create(
            operator=operator,
            account=account,
            subscriber_id=subscriber_id,
            key=f"method-{uuid.uuid4().hex}",
            customer=earlier.customer if earlier is not None else "",
            consent=consent,
            consent_at=at,
        )
    saving = Saving(subscriber_id, method.key, method.customer, return_url, at)
    answer = partner.begin_saving(saving)
    _set(method, customer=answer.reference or method.customer)
    return method, answer


def take(operator: Operator, account: ProviderAccount, event: Event, at: dt.datetime) -> str:
    """What a provider tells of a method; answers why nothing follows, where nothing does."""
    assert connection.in_atomic_block
    rows = PaymentMethod.objects.filter(account=account)
    by = Q(reference=event.reference) if event.reference else Q(pk=None)
    if event.key:
        by |= Q(key=event.key)
    found = rows.filter(by).first()
    if found is None:
        return "no method of ours"
    keeping.lock_subscriber(found.subscriber_id)
    method = PaymentMethod.objects.select_for_update(no_key=True).get(pk=found.pk)
    card: Card | None = event.details.get("card")
    match event.details.get("happened"):
        case "saved" if method.state == State.ASKED:
            others = PaymentMethod.objects.filter(
                subscriber_id=method.subscriber_id, is_default=True
            )
            _set(
                method,
                state=State.SAVED,
                reference=event.reference,
                saved_at=at,
                is_default=not others.exists(),
                **_described(card),
            )
        case "changed" if method.state == State.SAVED and card is not None:
            _set(method, **_described(card))
        case "removed" if method.state == State.SAVED:
            _remove(method, at=at, forgotten=True)
        case _:
            return "nothing follows"
    return ""


def of(operator: Operator, subscriber_id: int) -> list[PaymentMethod]:
    """The saved methods of a subscriber, the oldest first."""
    rows = PaymentMethod.objects.filter(operator=operator, subscriber_id=subscriber_id)
    return list(rows.filter(state=State.SAVED).order_by("id"))


def find(operator: Operator, subscriber_id: int, method_id: int) -> PaymentMethod:
    """Raises NotFound, also for another subscriber's."""
    rows = PaymentMethod.objects.filter(operator=operator, subscriber_id=subscriber_id)
    method = rows.filter(pk=method_id).first()
    if method is None:
        raise NotFound("the subscriber has no such method")
    return method


def chargeable(operator: Operator, subscriber_id: int, name: str) -> PaymentMethod:
    """A method that the subscriber has saved, by its id as it travels. Raises paying.UnknownMethod,
    also for another subscriber's and a removed one."""
    found = PaymentMethod.objects.filter(
        operator=operator,
        subscriber_id=subscriber_id,
        state=State.SAVED,
        pk=int(name) if name.isascii() and name.isdecimal() and len(name) < 19 else 0,
    ).first()
    if found is None:
        raise paying.UnknownMethod("the subscriber has saved no such method")
    return found


def name_of(subscriber_id: int, reference: str) -> str:
    """The id, as it travels, of the method that the provider calls so; empty where none is."""
    found = PaymentMethod.objects.filter(subscriber_id=subscriber_id, reference=reference).first()
    return "" if found is None or not reference else str(found.pk)


def is_saved(operator: Operator, subscriber_id: int, reference: str) -> bool:
    """Whether the subscriber has saved a method that the provider calls so."""
    rows = PaymentMethod.objects.filter(operator=operator, subscriber_id=subscriber_id)
    return bool(reference) and rows.filter(state=State.SAVED, reference=reference).exists()


@transaction.atomic
def set_default(
    operator: Operator, subscriber_id: int, method_id: int, *, at: dt.datetime
) -> PaymentMethod:
    """Charge this one from now on. Raises NotFound, MethodRemoved."""
    keeping.lock_subscriber(subscriber_id)
    method = find(operator, subscriber_id, method_id)
    if method.state != State.SAVED:
        raise MethodRemoved(f"this method is {method.state}")
    PaymentMethod.objects.filter(subscriber_id=subscriber_id, is_default=True).update(
        is_default=False
    )
    _set(method, is_default=True)
    return method


@transaction.atomic
def remove(
    operator: Operator, subscriber_id: int, method_id: int, *, at: dt.datetime
) -> PaymentMethod:
    """Charge this one no more; again is harmless. The newest of the others is the default then.
    Raises NotFound."""
    keeping.lock_subscriber(subscriber_id)
    method = find(operator, subscriber_id, method_id)
    if method.state != State.REMOVED:
        _remove(method, at=at, forgotten=not method.reference)
    return method


def _remove(method: PaymentMethod, *, at: dt.datetime, forgotten: bool) -> None:
    was_default = method.is_default
    _set(method, state=State.REMOVED, removed_at=at, is_default=False, forgotten=forgotten)
    if was_default:
        rows = PaymentMethod.objects.filter(subscriber_id=method.subscriber_id, state=State.SAVED)
        newest = rows.order_by("-id").first()
        if newest is not None:
            _set(newest, is_default=True)


def sweep(operator: Operator, *, at: dt.datetime, limit: int = 100) -> int:
    """Ask providers what saved methods are called, and tell them of removed ones; answers how many
    were done."""
    left = PaymentMethod.objects.filter(operator=operator).filter(
        Q(state=State.SAVED, described=False) | Q(state=State.REMOVED, forgotten=False)
    )
    done = 0
    for method in left.select_related("account").order_by("id")[:limit]:
        with suppress(Unavailable):
            partner = known.partner_of(method.account, at=at)
            assert isinstance(partner, Saves)
            if method.state == State.SAVED:
                _set(method, **_described(partner.describe(method.reference)))
            else:
                partner.forget(method.reference)
                _set(method, forgotten=True)
            done += 1
    return done


# How long before its last day a card is told of: time to type another before the next charge.
AHEAD = dt.timedelta(days=30)
EXPIRING = "method.expiring"
_TOLD_AT_ONCE = 1000


def tell_expiring(operator: Operator, *, at: dt.datetime) -> int:
    """Tell whose saved card ends within AHEAD, each card once a month that stands on it; answers
    how many there are. What a provider says of a new card of the same account begins anew."""
    zone = ZoneInfo(operator.time_zone)
    first, last = at.astimezone(zone).date(), (at + AHEAD).astimezone(zone).date()
    # The months on cards that end by then: this one and, perhaps, the next.
    months = {(day.year, day.month) for day in (first, last)}
    found = [
        (method, ends)
        for year, month in sorted(months)
        for method in PaymentMethod.objects.filter(
            operator=operator, state=State.SAVED, exp_year=year, exp_month=month
        ).order_by("id")
        if at < (ends := end_of(year, month, zone)) <= at + AHEAD
    ]
    for nr in range(0, len(found), _TOLD_AT_ONCE):
        with transaction.atomic():
            outbox.tell([_expiring(*one, at=at) for one in found[nr : nr + _TOLD_AT_ONCE]])
    return len(found)


def end_of(year: int, month: int, zone: ZoneInfo) -> dt.datetime:
    """When a card of this month can be charged no more: the month after it begins."""
    return periods.midnight(dt.date(year + month // 12, month % 12 + 1, 1), zone)


def _expiring(method: PaymentMethod, ends: dt.datetime, *, at: dt.datetime) -> outbox.Happening:
    month = f"{method.exp_year}-{method.exp_month:02}"
    return outbox.Happening(
        method.subscriber_id,
        EXPIRING,
        f"{EXPIRING}:{method.pk}:{month}",
        at,
        {
            "method": str(method.pk),
            "brand": method.brand,
            "last4": method.last4,
            "default": method.is_default,
            "month": month,
            "expires_at": ends.isoformat(),
        },
    )


def _described(card: Card | None) -> dict[str, Any]:
    if card is None:
        return {}
    return {
        "brand": card.brand[:32],
        "last4": card.last4[:4],
        "exp_year": card.exp_year,
        "exp_month": card.exp_month,
        "described": True,
    }


def _set(method: PaymentMethod, **values: Any) -> None:
    for name, value in values.items():
        setattr(method, name, value)
    PaymentMethod.objects.filter(pk=method.pk).update(**values)
