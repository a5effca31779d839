"""Ways to pay and orders, brought together: who is called when, and what follows from the answer.

An attempt is written down and committed, then its provider is called, then the answer is written
down, under the order's lock each time: two who pay at once, or a payment and the expiry, find what
the other has done. A provider that is `local` is asked inside the transaction instead.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from django.db import transaction

from billing import receiving
from billing.models import Order, PaymentIntent, PaymentMethod, ProviderAccount, ProviderPayment
from billing.orders import buying, keeping
from billing.ways import known, wallet
from billing.ways.provider import Answer, Attempt, Fate, Provider, Unavailable
from subscriptions.errors import Invalid
from subscriptions.models import Operator

Tried = PaymentIntent.State


class UnknownWay(Invalid):
    cause = "unknown_way"


class UnknownMethod(Invalid):
    cause = "unknown_method"


def pay(
    operator: Operator,
    number: str,
    way: str,
    *,
    at: dt.datetime,
    method: str = "",
    return_url: str = "",
) -> Order:
    """Begin to pay an order in a way, or pay it, where the way needs nobody else.

    `method` is a saved one, charged without the payer; `return_url` is where the payer comes back
    to. An order that this way has paid is answered as it is. Raises NotFound, UnknownWay, what
    `keeping.payable` raises, and what stands against what is bought.
    """
    asked = known.choose(operator, way, at=at)
    if asked is None:
        raise UnknownWay("this operator cannot be paid in this way")
    provider, account = asked
    with transaction.atomic():
        order = keeping.locked(operator, number)
        if order.state in Order.PAID and order.way == way:
            return order
        keeping.payable(order, at=at)
        keeping.check_minor(order)
        if way == wallet.WAY and order.kind == Order.Kind.TOP_UP:
            raise Invalid("a wallet is not filled from itself")
        if method and not _may_charge(order, account, method):
            raise UnknownMethod("the subscriber has not saved this method here")
        intent = keeping.attempt(
            order, way, at=at, account=account, method=method, return_url=return_url
        )
        attempt = asked_for(order, intent, at=at)
        if provider.local:
            _take(operator, order, intent, provider, attempt, provider.create(attempt), at=at)
            return order
    answer = provider.create(attempt)
    return take(operator, number, intent.nr, provider, answer, at=at)


def _may_charge(order: Order, account: ProviderAccount | None, method: str) -> bool:
    return (
        account is not None
        and PaymentMethod.objects.filter(
            subscriber_id=order.subscriber_id,
            account=account,
            reference=method,
            state=PaymentMethod.State.SAVED,
        ).exists()
    )


def pay_locked(operator: Operator, order: Order, way: str, *, at: dt.datetime) -> None:
    """Pay a locked order in a way that needs nobody else, in the caller's transaction. Raises what
    `pay` raises, and what the way does."""
    provider = known.ALWAYS[way]
    assert provider.local
    keeping.payable(order, at=at)
    intent = keeping.attempt(order, way, at=at)
    asked = asked_for(order, intent, at=at)
    _take(operator, order, intent, provider, asked, provider.create(asked), at=at)


# An attempt whose answer is not there after so long has lost whoever asked.
_LOST = dt.timedelta(minutes=1)
# So many calls in vain, and the others of this operator are left to the next round.
_PATIENCE = 3


def ask_again(operator: Operator, *, at: dt.datetime, limit: int = 100) -> int:
    """Finish attempts that a crash left between being written down and being answered: each
    provider is asked with the same key, so it makes no second one. Answers how many were finished.
    """
    lost = PaymentIntent.objects.filter(
        operator=operator, state=Tried.INTENDED, created_at__lte=at - _LOST
    )
    done = away = 0
    for intent in lost.order_by("created_at")[:limit]:
        order = Order.objects.get(subscriber_id=intent.subscriber_id, id=intent.order_id)
        try:
            provider = known.again(intent.way, intent.account, at=at)
            answer = provider.create(asked_for(order, intent, at=at))
        except Unavailable:
            away += 1
            if away == _PATIENCE:
                break
            continue
        take(operator, order.number, intent.nr, provider, answer, at=at)
        done += 1
    return done


def recall(operator: Operator, *, at: dt.datetime, limit: int = 100) -> int:
    """Tell providers of attempts that nobody waits for any more, so that no stale code is paid;
    what was paid all the same is taken. Answers how many were told."""
    ended = PaymentIntent.objects.filter(operator=operator, recall_at__lte=at)
    done = away = 0
    for intent in ended.order_by("recall_at")[:limit]:
        order = Order.objects.get(subscriber_id=intent.subscriber_id, id=intent.order_id)
        try:
            provider = known.again(intent.way, intent.account, at=at)
            answer = provider.cancel(asked_for(order, intent, at=at))
        except Unavailable:
            away += 1
            if away == _PATIENCE:
                break
            continue
        if answer.fate == Fate.SUCCEEDED:
            take(operator, order.number, intent.nr, provider, answer, at=at)
        keeping.recalled(intent)
        done += 1
    return done


def provider_of(intent: PaymentIntent, *, at: dt.datetime) -> Provider:
    """Who was asked for an attempt, and is asked of its money again."""
    return known.again(intent.way, intent.account, at=at)


def asked_for(order: Order, intent: PaymentIntent, *, at: dt.datetime) -> Attempt:
    """An attempt as its provider is asked for it."""
    return Attempt(
        operator_id=order.operator_id,
        subscriber_id=order.subscriber_id,
        key=intent.key,
        order=order.number,
        amount=intent.amount,
        currency=intent.currency,
        at=at,
        reference=intent.reference,
        begun_at=intent.created_at,
        expires_at=order.expires_at,
        method=intent.method,
        return_url=intent.return_url,
    )


@transaction.atomic
def take(
    operator: Operator,
    number: str,
    nr: int,
    provider: Provider,
    answer: Answer,
    *,
    at: dt.datetime,
) -> Order:
    """Write down what a provider answers about the `nr`th attempt, and what follows; once."""
    order, intent = _locked(operator, number, nr)
    if intent.account is not None:
        _hear(operator, order, intent, intent.account, answer, at=at)
    elif intent.ended_at is None:
        asked = asked_for(order, intent, at=at)
        _take(operator, order, intent, provider, asked, answer, at=at)
    return order


@transaction.atomic
def hear(
    operator: Operator,
    number: str,
    nr: int,
    account: ProviderAccount,
    answer: Answer,
    *,
    at: dt.datetime,
) -> Order:
    """Write down what is heard from a provider's account about the `nr`th attempt, and what
    follows: told twice, late or out of order, the same follows once."""
    order, intent = _locked(operator, number, nr)
    _hear(operator, order, intent, account, answer, at=at)
    return order


def _locked(operator: Operator, number: str, nr: int) -> tuple[Order, PaymentIntent]:
    order = keeping.locked(operator, number)
    intent = PaymentIntent.objects.select_for_update(no_key=True).get(
        subscriber_id=order.subscriber_id, order_id=order.id, nr=nr
    )
    return order, intent


def _hear(
    operator: Operator,
    order: Order,
    intent: PaymentIntent,
    account: ProviderAccount,
    answer: Answer,
    *,
    at: dt.datetime,
) -> None:
    """Both are locked. That money has come is heard whatever became of the attempt meanwhile;
    anything else only while it is waited for, and only from whom it was asked of."""
    if answer.fate == Fate.SUCCEEDED:
        assert answer.amount is not None
        paid = receiving.Paid(
            account, intent.way, intent.key, answer.reference, answer.amount, answer.currency
        )
        money = receiving.receive(operator, paid, order, intent, at=at)
        if intent.ended_at is None and intent.account_id == account.pk:
            if money.became == ProviderPayment.Became.GRANTED:
                keeping.answered(intent, Tried.SUCCEEDED, at=at, reference=answer.reference)
                keeping.end_attempts(order, at=at, reason="paid")
            else:  # it is the money's no more to be waited for
                keeping.answered(
                    intent,
                    Tried.FAILED,
                    at=at,
                    reference=answer.reference,
                    reason=f"the payment is {money.became}",
                )
    elif intent.account_id != account.pk:
        return
    elif intent.ended_at is None:
        _not_paid(order, intent, answer, at=at)
    elif answer.fate == Fate.WAITING and answer.reference and not intent.reference:
        keeping.left_open(intent, answer.reference, at=at)


def _not_paid(order: Order, intent: PaymentIntent, answer: Answer, *, at: dt.datetime) -> None:
    said: dict[str, Any] = {
        "reference": answer.reference,
        "action": answer.action or None,
        "reason": answer.reason,
    }
    if answer.fate == Fate.WAITING:
        keeping.answered(intent, Tried.WAITING, at=at, **said)
        if order.state in Order.OPEN:
            keeping.advance(order, Order.State.WAITING, at=at, reason=intent.way)
    else:
        keeping.answered(intent, Tried.FAILED, at=at, **said)
        if order.state in Order.OPEN:
            keeping.advance(order, Order.State.FAILED, at=at, reason=answer.reason)


def _take(
    operator: Operator,
    order: Order,
    intent: PaymentIntent,
    provider: Provider,
    asked: Attempt,
    answer: Answer,
    *,
    at: dt.datetime,
) -> None:
    """Both are locked, and the attempt has not ended."""
    if answer.fate != Fate.SUCCEEDED:
        _not_paid(order, intent, answer, at=at)
        return
    if answer.amount is not None and answer.amount != order.amount:
        raise buying.AmountDiffers(f"the order is over {order.amount} {order.currency}")
    buying.settle(operator, order, way=intent.way, source=provider.source(asked), at=at)
    keeping.answered(
        intent,
        Tried.SUCCEEDED,
        at=at,
        reference=answer.reference,
        action=answer.action or None,
        reason=answer.reason,
    )
    keeping.end_attempts(order, at=at, reason="paid")


def matched(operator: Operator, number: str, way: str, *, at: dt.datetime, reference: str) -> Order:
    """Mark an order paid by money that staff have in front of them, all of its amount.

    Joins the caller's transaction. Raises what `keeping.payable` raises, and what stands against
    what is bought.
    """
    provider = known.ALWAYS[way]
    order = keeping.locked(operator, number)
    keeping.payable(order, at=at)
    intent = keeping.attempt(order, way, at=at)
    answer = Answer(Fate.SUCCEEDED, reference=reference, action=intent.action)
    asked = asked_for(order, intent, at=at)
    _take(operator, order, intent, provider, asked, answer, at=at)
    return order
