"""Money that a provider says it took: once by the provider's own reference, and what it became.

Only what fits an attempt whole (its account, amount and currency) and an order that can still be
paid is granted. Money that is too late for its order is real all the same: it goes into the wallet.
What does not fit is in no book until staff have said what it is. The only writer of
ProviderPayment and PaymentTask.
"""

from __future__ import annotations

import datetime as dt
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal

from django.db import connection, transaction

from billing import ledger, telling, wallets
from billing.ledger import Side
from billing.models import (
    Order,
    PaymentIntent,
    PaymentTask,
    ProviderAccount,
    ProviderEvent,
    ProviderPayment,
    WalletMovement,
)
from billing.orders import buying, keeping
from billing.ways import known
from billing.ways.provider import Answer, Attempt, Fate, Unavailable
from subscriptions.errors import Conflict, DomainError, Invalid, NotFound
from subscriptions.models import Operator

Became = ProviderPayment.Became
Action = PaymentTask.Action


class TaskResolved(Conflict):
    cause = "task_resolved"


class Late(Conflict):
    cause = "too_late"


@dataclass(frozen=True, slots=True)
class Paid:
    """What a provider says it took."""

    account: ProviderAccount
    way: str
    key: str  # of the attempt, as the provider was told it
    reference: str
    amount: Decimal
    currency: str


def cash(account: ProviderAccount) -> str:
    """The ledger's account of what a provider holds for the operator."""
    return f"cash:{account.provider}"


def receive(
    operator: Operator,
    paid: Paid,
    order: Order | None,
    intent: PaymentIntent | None,
    *,
    at: dt.datetime,
) -> ProviderPayment:
    """Take money that has come for a locked order and attempt, or for none that is known.

    Joins the caller's transaction. The same reference again answers what it became; told with
    another amount it stays what it is, and staff are to see why, where they do not already.
    """
    assert connection.in_atomic_block
    before = ProviderPayment.objects.filter(account=paid.account, reference=paid.reference).first()
    if before is not None:
        told = (paid.amount, paid.currency)
        if told != (before.amount, before.currency) and not hasattr(before, "task"):
            _doubt(before, paid, at=at)
        return before
    if order is None or intent is None:
        return _unclear(operator, paid, None, "unknown_order", "no order of ours is named", at=at)
    if intent.account_id != paid.account.pk:
        detail = f"order {order.number} was to be paid through another account"
        return _unclear(operator, paid, order, "other_account", detail, at=at)
    if paid.currency != intent.currency:
        detail = f"order {order.number} is in {intent.currency}"
        return _unclear(operator, paid, order, "other_currency", detail, at=at)
    if paid.amount != intent.amount:
        detail = f"order {order.number} is over {intent.amount} {intent.currency}"
        return _unclear(operator, paid, order, "other_amount", detail, at=at)
    source = Side(cash(paid.account), paid.amount)
    try:
        with transaction.atomic():
            if intent.ended_at is not None:
                raise Late("nobody waited for this payment any more")
            buying.settle(operator, order, way=intent.way, source=source, at=at)
    except DomainError as refused:
        order.refresh_from_db()
        return _too_late(operator, paid, order, refused, at=at)
    return _keep(operator, paid, Became.GRANTED, order.subscriber_id, order, at=at)


def _too_late(
    operator: Operator, paid: Paid, order: Order, refused: DomainError, *, at: dt.datetime
) -> ProviderPayment:
    if paid.currency != operator.currency:
        return _unclear(operator, paid, order, refused.cause, refused.detail, at=at)
    payment = _keep(operator, paid, Became.WALLET, order.subscriber_id, order, at=at)
    _fill_wallet(operator, payment, order.subscriber_id, f"{order.number}: {refused.cause}", at=at)
    return payment


def _fill_wallet(
    operator: Operator, payment: ProviderPayment, subscriber_id: int, note: str, *, at: dt.datetime
) -> None:
    """The subscriber is locked."""
    key = f"provider:{payment.pk}"
    into = wallets.Move(
        subscriber_id, payment.currency, WalletMovement.Kind.TOP_UP, payment.amount, key, note
    )
    wallets.move(operator.pk, [into], at=at)
    sides = (Side(cash(payment.account), payment.amount), into.side())
    draft = ledger.Draft(key, "top_up", at, payment.currency, sides, payment.reference)
    posted = ledger.post(operator.pk, draft)
    assert posted
    telling.topped_up(
        subscriber_id, payment.currency, payment.amount, key, at=at, payment=payment.reference
    )


def _keep(
    operator: Operator,
    paid: Paid,
    became: str,
    subscriber_id: int | None,
    order: Order | None,
    *,
    at: dt.datetime,
) -> ProviderPayment:
    return ProviderPayment.objects.create(
        account=paid.account,
        operator=operator,
        reference=paid.reference,
        way=paid.way,
        key=paid.key[:64],
        currency=paid.currency,
        amount=paid.amount,
        at=at,
        became=became,
        subscriber_id=subscriber_id,
        order_id=order.id if order is not None else None,
    )


def _unclear(
    operator: Operator, paid: Paid, order: Order | None, cause: str, detail: str, *, at: dt.datetime
) -> ProviderPayment:
    whose = order.subscriber_id if order is not None else None
    payment = _keep(operator, paid, Became.UNCLEAR, whose, order, at=at)
    PaymentTask.objects.create(
        operator=operator,
        payment=payment,
        cause=cause,
        detail=f"{paid.amount} {paid.currency} by {paid.way or paid.account.provider}: {detail}"[
            :500
        ],
        created_at=at,
    )
    return payment


def _doubt(payment: ProviderPayment, paid: Paid, *, at: dt.datetime) -> None:
    """Let staff see that the provider tells two amounts of one payment."""
    PaymentTask.objects.create(
        operator_id=payment.operator_id,
        payment=payment,
        cause="two_amounts",
        detail=f"{payment.reference} was told as {payment.amount:.2f} {payment.currency},"
        f" then as {paid.amount:.2f} {paid.currency}",
        created_at=at,
    )


def give_up(event: ProviderEvent, reason: str, *, at: dt.datetime) -> None:
    """Hand staff a notice that could not be worked."""
    PaymentTask.objects.get_or_create(
        event=event,
        defaults={
            "operator_id": event.operator_id,
            "cause": "event_failed",
            "detail": f"{event.kind} {event.event_id}: {reason}"[:500],
            "created_at": at,
        },
    )


# What staff decide -------------------------------------------------------------------------------


def find(operator: Operator, task_id: int) -> PaymentTask:
    """Raises NotFound, also for another operator's."""
    task = PaymentTask.objects.filter(operator=operator, pk=task_id).first()
    if task is None:
        raise NotFound("there is no such task")
    return task


def resolve(
    operator: Operator,
    task_id: int,
    action: str,
    *,
    note: str,
    subscriber_id: int | None = None,
    at: dt.datetime,
) -> PaymentTask:
    """Do with an unclear payment what staff say; the same again changes nothing.

    `wallet` is that of `subscriber_id`, else of whom the order is of. `refund` asks the provider;
    while that has not answered, the task is `returning`. Raises NotFound, TaskResolved, Invalid.
    """
    find(operator, task_id)
    asked = _decide(operator, task_id, action, note, subscriber_id, at=at)
    if asked.state == PaymentTask.State.RETURNING:
        return give_back(operator, asked, at=at)
    return asked


@transaction.atomic
def _decide(
    operator: Operator,
    task_id: int,
    action: str,
    note: str,
    subscriber_id: int | None,
    *,
    at: dt.datetime,
) -> PaymentTask:
    # Before all other locks: nobody else takes it.
    task = PaymentTask.objects.select_for_update(no_key=True).get(operator=operator, pk=task_id)
    if task.state != PaymentTask.State.OPEN:
        if task.action == action:
            return task
        raise TaskResolved(f"this task was resolved by {task.action}")
    payment = task.payment
    unclear = payment is not None and payment.became == Became.UNCLEAR
    if action != Action.NOTE and not unclear:
        raise Invalid("there is no money here whose place is unclear: this task takes a note only")
    state = PaymentTask.State.RESOLVED
    if action == Action.WALLET:
        assert payment is not None
        whose = subscriber_id if subscriber_id is not None else payment.subscriber_id
        if whose is None:
            raise Invalid("say whose wallet")
        if payment.currency != operator.currency:
            raise Invalid(f"a wallet is in {operator.currency}")
        if payment.amount <= 0:
            raise Invalid("nothing has come")
        keeping.lock_subscriber(whose)
        ProviderPayment.objects.filter(pk=payment.pk).update(
            became=Became.WALLET, subscriber_id=whose
        )
        _fill_wallet(operator, payment, whose, note or task.cause, at=at)
    elif action == Action.REFUND:
        state = PaymentTask.State.RETURNING
    elif unclear:
        ProviderPayment.objects.filter(task=task).update(became=Became.SETTLED)
    return _put(task, state, at=at, action=action, note=note)


def give_back(operator: Operator, task: PaymentTask, *, at: dt.datetime) -> PaymentTask:
    """Ask the provider to give an unclear payment back; again with the same key, so once. Raises
    Unavailable: then the sweep asks again."""
    payment = task.payment
    assert payment is not None
    provider = known.again(payment.way, payment.account, at=at)
    answer = provider.refund(
        _attempt(payment, at=at), payment.amount, key=f"{_REFUND_KEY}{task.pk}"
    )
    return _given_back(task.pk, answer, at=at)


def hear_refund(
    operator: Operator, account: ProviderAccount, key: str, answer: Answer, *, at: dt.datetime
) -> bool:
    """What a provider tells of the refund of an unclear payment; False where it is of none."""
    task = PaymentTask.objects.filter(
        operator=operator, payment__account=account, pk=_task_id(key)
    ).first()
    if task is None:
        return False
    _given_back(task.pk, answer, at=at)
    return True


_REFUND_KEY = "task-"


def _task_id(key: str) -> int:
    """0, which is no task, for the key of something else."""
    digits = key.removeprefix(_REFUND_KEY)
    return int(digits) if key.startswith(_REFUND_KEY) and digits.isdecimal() else 0


def return_open(operator: Operator, *, at: dt.datetime) -> None:
    """Ask again for refunds of unclear payments that no provider has settled yet."""
    rows = PaymentTask.objects.filter(operator=operator, state=PaymentTask.State.RETURNING)
    for task in rows.select_related("payment__account").order_by("pk")[:100]:
        with suppress(Unavailable):
            give_back(operator, task, at=at)


@transaction.atomic
def _given_back(task_id: int, answer: Answer, *, at: dt.datetime) -> PaymentTask:
    task = PaymentTask.objects.select_for_update(no_key=True).get(pk=task_id)
    if task.state != PaymentTask.State.RETURNING or answer.fate == Fate.WAITING:
        return task
    if answer.fate == Fate.FAILED:  # back to staff, who see why
        detail = f"{task.detail} · the refund failed: {answer.reason}"
        return _put(task, PaymentTask.State.OPEN, at=at, action="", detail=detail[-500:])
    ProviderPayment.objects.filter(task=task).update(became=Became.RETURNED)
    return _put(task, PaymentTask.State.RESOLVED, at=at, action=task.action)


def _attempt(payment: ProviderPayment, *, at: dt.datetime) -> Attempt:
    return Attempt(
        operator_id=payment.operator_id,
        subscriber_id=payment.subscriber_id or 0,
        key=payment.key,
        order=payment.key,
        amount=payment.amount,
        currency=payment.currency,
        at=at,
        reference=payment.reference,
    )


def _put(
    task: PaymentTask,
    state: str,
    *,
    at: dt.datetime,
    action: str,
    note: str | None = None,
    detail: str | None = None,
) -> PaymentTask:
    task.state, task.action = state, action
    task.resolved_at = at if state == PaymentTask.State.RESOLVED else None
    task.note = task.note if note is None else note
    task.detail = task.detail if detail is None else detail
    PaymentTask.objects.filter(pk=task.pk).update(
        state=task.state,
        action=task.action,
        resolved_at=task.resolved_at,
        note=task.note,
        detail=task.detail,
    )
    return task
