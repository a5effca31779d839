"""Orders, their states and the attempts to pay them: the only writer of all three.

Which state may follow which the database says (a trigger); here is who asks for it, and the lock
under which it does. Locks in one order: the subscriber, the period that is
paid before, orders, invoices, wallets, then buckets.
"""

from __future__ import annotations

import datetime as dt
import re
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple

from django.db import connection, transaction
from django.db.models import Q

from billing import invoicing, rating
from billing.models import Order, OrderStep, PaymentIntent, ProviderAccount
from subscriptions import lifecycle, pgarrays
from subscriptions.errors import Conflict, Invalid, NotFound
from subscriptions.models import Booster, Operator, Plan, Subscriber
from subscriptions.pgarrays import Int8s
from subscriptions.safety import minors
from subscriptions.storing import store

State = Order.State
Tried = PaymentIntent.State
# How long an order can be paid where nobody says.
VALID = dt.timedelta(days=3)
LONGEST = dt.timedelta(days=400)
_SWEEP = 500
# What somebody decides to buy; an invoice or the next period of a plan is owed, or was decided on.
_BOUGHT = (Order.Kind.PLAN, Order.Kind.BOOSTER, Order.Kind.TOP_UP)


class OrderExpired(Conflict):
    cause = "order_expired"


class OrderPaid(Conflict):
    cause = "order_paid"


class OrderClosed(Conflict):
    cause = "order_closed"


class OrderOfPeriod(Conflict):
    cause = "order_of_period"


class KeyUsed(Conflict):
    cause = "idempotency_conflict"


@dataclass(frozen=True, slots=True)
class Draft:
    """An order to be."""

    subscriber_id: int
    kind: str
    amount: Decimal
    currency: str
    expires_at: dt.datetime
    key: str = ""  # none: it is an order of its own
    plan: Plan | None = None
    booster: Booster | None = None
    invoice_id: int | None = None
    subscription_id: int | None = None
    period_start: dt.datetime | None = None


# Making and finding ------------------------------------------------------------------------------


def create(operator: Operator, draft: Draft, *, at: dt.datetime) -> Order:
    """Keep an order; the same key again answers the order that it named.

    Joins the caller's transaction. Raises Invalid for an amount or an expiry that makes no sense,
    KeyUsed for the key of another order, OrderAboveCap for more than a minor may spend at once.
    """
    assert connection.in_atomic_block
    if draft.amount <= 0 or draft.amount != rating.to_fen(draft.amount):
        raise Invalid("an order is over more than nothing, with two decimals at most")
    if not at < draft.expires_at <= at + LONGEST:
        raise Invalid(f"an order expires after now, within {LONGEST.days} days")
    lock_subscriber(draft.subscriber_id)
    lifecycle.check_open(draft.subscriber_id)
    key = draft.key or uuid.uuid4().hex
    known = Order.objects.filter(operator=operator, key=key).first()
    if known is None and draft.kind in _BOUGHT:
        minors.check_order(draft.subscriber_id, draft.amount)
    if known is not None:
        if _asked(known) != _asked(draft):
            raise KeyUsed("this key names another order")
        return known
    with connection.cursor() as cursor:
        cursor.execute("SELECT nextval('billing_order_id')")
        [(order_id,)] = cursor.fetchall()
    order = Order.objects.create(
        subscriber_id=draft.subscriber_id,
        id=order_id,
        operator=operator,
        number=f"{invoicing.number_prefix(operator)}-O-{order_id:010}",
        kind=draft.kind,
        key=key,
        currency=draft.currency,
        amount=draft.amount,
        created_at=at,
        expires_at=draft.expires_at,
        plan=draft.plan,
        booster=draft.booster,
        invoice_id=draft.invoice_id,
        subscription_id=draft.subscription_id,
        period_start=draft.period_start,
    )
    _note([order], at=at)
    return order


def _asked(one: Draft | Order) -> tuple[Any, ...]:
    """What makes a key's second order the same as its first, whatever version is sold by then."""
    plan, booster = one.plan and one.plan.code, one.booster and one.booster.code
    bought = (plan, booster, one.invoice_id if one.kind == Order.Kind.INVOICE else None)
    return (one.subscriber_id, one.kind, one.amount, one.currency, *bought)


def check_minor(order: Order) -> None:
    """Raises OrderAboveCap for one that was made before its minor's cap, and is above it."""
    if order.kind in _BOUGHT:
        minors.check_order(order.subscriber_id, order.amount)


def create_many(operator: Operator, drafts: Sequence[Draft], *, at: dt.datetime) -> list[Order]:
    """Keep orders of subscribers whom the caller holds, each with a key that is new."""
    assert connection.in_atomic_block
    if not drafts:
        return []
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT nextval('billing_order_id') FROM generate_series(1, %s)", [len(drafts)]
        )
        ids = sorted(order_id for (order_id,) in cursor.fetchall())
    prefix = invoicing.number_prefix(operator)
    orders = [
        Order(
            subscriber_id=draft.subscriber_id,
            id=order_id,
            operator=operator,
            number=f"{prefix}-O-{order_id:010}",
            kind=draft.kind,
            key=draft.key,
            currency=draft.currency,
            amount=draft.amount,
            created_at=at,
            expires_at=draft.expires_at,
            plan=draft.plan,
            subscription_id=draft.subscription_id,
            period_start=draft.period_start,
        )
        for order_id, draft in zip(ids, drafts, strict=True)
    ]
    store(orders)
    _note(orders, at=at)
    return orders


NUMBER = re.compile(r"[A-Z0-9-]{1,40}", re.ASCII)


def find(operator: Operator, number: str) -> Order:
    """An order of an operator by its number. Raises NotFound, also for another operator's."""
    found = None
    if NUMBER.fullmatch(number):
        found = Order.objects.filter(operator=operator, number=number).first()
    if found is None:
        raise NotFound("there is no such order")
    return found


def numbers_of(subscriber_id: int, order_ids: Iterable[int | None]) -> dict[int, str]:
    """The numbers of a subscriber's orders, by their ids."""
    ids = [one for one in order_ids if one is not None]
    rows = Order.objects.filter(subscriber_id=subscriber_id, id__in=ids)
    return dict(rows.values_list("id", "number"))


def locked(operator: Operator, number: str) -> Order:
    """An order by its number, locked after its subscriber, and the period that it is for, until
    the transaction ends.

    Raises NotFound.
    """
    found = find(operator, number)
    lock_subscriber(found.subscriber_id)
    period = period_of(found)
    if period is not None:
        lifecycle.lock_periods([period])
    return Order.objects.select_for_update(no_key=True).get(
        subscriber_id=found.subscriber_id, id=found.id
    )


def period_of(order: Order) -> lifecycle.PeriodKey | None:
    """The period that an order is for, where there is one yet."""
    if order.subscription_id is None or order.period_start is None:
        return None
    return period_key(order)


def period_key(order: Order) -> lifecycle.PeriodKey:
    """The period of an order that names one."""
    assert order.subscription_id is not None
    assert order.period_start is not None
    return order.subscriber_id, order.subscription_id, order.period_start


def lock_subscriber(subscriber_id: int) -> None:
    Subscriber.objects.select_for_update(no_key=True).get(pk=subscriber_id)


def payable(order: Order, *, at: dt.datetime) -> None:
    """Raises OrderPaid, OrderExpired (by the clock, swept or not) or OrderClosed."""
    if order.state in Order.PAID:
        raise OrderPaid("the order is paid already")
    if order.state == State.EXPIRED or (order.state in Order.OPEN and order.expires_at <= at):
        raise OrderExpired("the order has expired; make a new one")
    if order.state not in Order.OPEN:
        raise OrderClosed(f"the order is {order.state}; make a new one")


# States ------------------------------------------------------------------------------------------


def advance(order: Order, state: str, *, at: dt.datetime, reason: str = "", **facts: Any) -> None:
    """Put a locked order into a state, with what is known since, and note the step.

    A state that it is in already only takes the facts.
    """
    assert connection.in_atomic_block
    step = state != order.state
    order.state = state
    order.steps += step
    for name, value in facts.items():
        setattr(order, name, value)
    Order.objects.filter(subscriber_id=order.subscriber_id, id=order.id).update(
        state=order.state, steps=order.steps, **facts
    )
    if step:
        _note([order], at=at, reason=reason)


def _note(orders: Iterable[Order], *, at: dt.datetime, reason: str = "") -> None:
    steps = [
        _Step(order.subscriber_id, order.id, order.steps, order.state, at, reason[:200])
        for order in orders
    ]
    store(steps, OrderStep)


class _Step(NamedTuple):
    """An OrderStep to be."""

    subscriber_id: int
    order_id: int
    nr: int
    state: str
    at: dt.datetime
    reason: str


@transaction.atomic
def cancel(operator: Operator, number: str, *, reason: str, at: dt.datetime) -> Order:
    """Let an order be paid no more. Again changes nothing. Raises NotFound, OrderPaid,
    OrderExpired, OrderOfPeriod."""
    order = locked(operator, number)
    if order.kind == Order.Kind.PERIOD:
        raise OrderOfPeriod("this order follows its subscription: change or cancel that")
    if order.state != State.CANCELLED:
        payable(order, at=at)
        close([order], State.CANCELLED, at=at, reason=reason)
    return order


def close(orders: Sequence[Order], state: str, *, at: dt.datetime, reason: str = "") -> None:
    """Cancel or expire locked orders that are open, and the attempts to pay them."""
    assert connection.in_atomic_block
    for order in orders:
        end_attempts(order, at=at, reason=state)
        advance(order, state, at=at, reason=reason)


def expire_due(operator: Operator, *, at: dt.datetime) -> int:
    """Expire one chunk of orders whose time is over at `at`; answers how many, so call it until
    that is 0. Who is being paid at this moment is left to the next call."""
    with transaction.atomic():
        due = list(
            Order.objects.filter(operator=operator, state__in=Order.OPEN, expires_at__lte=at)
            .order_by("expires_at")
            .select_for_update(no_key=True, skip_locked=True)[:_SWEEP]
        )
        close(due, State.EXPIRED, at=at)
    return len(due)


@transaction.atomic
def expire_if_due(order: Order, *, at: dt.datetime) -> Order:
    """The order as it is at `at`: for who looks at one before the sweep has."""
    if order.state not in Order.OPEN or order.expires_at > at:
        return order
    lock_subscriber(order.subscriber_id)
    held = Order.objects.select_for_update(no_key=True).get(
        subscriber_id=order.subscriber_id, id=order.id
    )
    if held.state in Order.OPEN:
        close([held], State.EXPIRED, at=at)
    return held


def steps_of(orders: Sequence[Order]) -> dict[int, list[OrderStep]]:
    """The history of each order, by its id."""
    found: dict[int, list[OrderStep]] = {order.id: [] for order in orders}
    rows = OrderStep.objects.filter(
        subscriber_id__in={order.subscriber_id for order in orders}, order_id__in=found
    )
    for row in rows.order_by("order_id", "nr"):
        found[row.order_id].append(row)
    return found


# Attempts ----------------------------------------------------------------------------------------


def attempt(
    order: Order,
    way: str,
    *,
    at: dt.datetime,
    account: ProviderAccount | None = None,
    method: str = "",
    return_url: str = "",
) -> PaymentIntent:
    """Write down that a locked order is about to be paid in a way. One that waits for the payer in
    the same way, by the same method, is handed out again."""
    assert connection.in_atomic_block
    rows = PaymentIntent.objects.filter(subscriber_id=order.subscriber_id, order_id=order.id)
    waiting = rows.filter(
        way=way, account=account, method=method, state__in=[Tried.INTENDED, Tried.WAITING]
    ).first()
    if waiting is not None:
        return waiting
    nr = rows.count() + 1
    return PaymentIntent.objects.create(
        subscriber_id=order.subscriber_id,
        order_id=order.id,
        nr=nr,
        operator_id=order.operator_id,
        way=way,
        account=account,
        method=method,
        return_url=return_url,
        key=f"{order.number}-{nr}",
        currency=order.currency,
        amount=order.amount,
        created_at=at,
    )


def answered(
    intent: PaymentIntent,
    state: str,
    *,
    at: dt.datetime,
    reference: str = "",
    action: dict[str, Any] | None = None,
    reason: str = "",
) -> None:
    """Write down what became of an attempt whose order is locked."""
    assert connection.in_atomic_block
    ended = state not in (Tried.INTENDED, Tried.WAITING)
    intent.state = state
    intent.reference = reference or intent.reference
    intent.action = action if action is not None else intent.action
    intent.reason = reason[:200]
    intent.ended_at = at if ended else None
    # What has failed here may still be open at its provider.
    lost = state == Tried.FAILED and intent.account_id is not None
    intent.recall_at = at if lost else None
    PaymentIntent.objects.filter(
        subscriber_id=intent.subscriber_id, order_id=intent.order_id, nr=intent.nr
    ).update(
        state=intent.state,
        reference=intent.reference,
        action=intent.action,
        reason=intent.reason,
        ended_at=intent.ended_at,
        recall_at=intent.recall_at,
    )


def attempt_keys(orders: Sequence[Order]) -> dict[int, str]:
    """The key of the next attempt to pay each of these locked orders that nobody is paying now, by
    its id."""
    before: Counter[int] = Counter()
    busy = set()
    rows = PaymentIntent.objects.filter(
        subscriber_id__among={order.subscriber_id for order in orders},
        order_id__among={order.id for order in orders},
    )
    for order_id, state in rows.values_list("order_id", "state"):
        before[order_id] += 1
        if state in (Tried.INTENDED, Tried.WAITING):
            busy.add(order_id)
    return {
        order.id: f"{order.number}-{before[order.id] + 1}"
        for order in orders
        if order.id not in busy
    }


_PAID_SQL = """
UPDATE billing_order o SET state = 'paid', steps = o.steps + 1, paid_at = %s, way = %s
FROM unnest(%s::bigint[], %s::bigint[]) AS p (subscriber_id, id)
WHERE o.subscriber_id = p.subscriber_id AND o.id = p.id
"""


def paid_at_once(
    orders: Sequence[Order], way: str, keys: Mapping[int, str], *, at: dt.datetime
) -> None:
    """Put locked orders that can be paid, and wait for nobody, into the state paid, each with the
    one attempt that did it; `keys` of these, by order."""
    assert connection.in_atomic_block
    intents = [
        PaymentIntent(
            subscriber_id=order.subscriber_id,
            order_id=order.id,
            nr=int(keys[order.id].rpartition("-")[2]),
            operator_id=order.operator_id,
            way=way,
            key=keys[order.id],
            currency=order.currency,
            amount=order.amount,
            state=Tried.SUCCEEDED,
            reference=keys[order.id],
            created_at=at,
            ended_at=at,
        )
        for order in orders
    ]
    store(intents)
    with pgarrays.statements() as cursor:
        cursor.execute(
            _PAID_SQL,
            [
                at,
                way,
                Int8s(order.subscriber_id for order in orders),
                Int8s(order.id for order in orders),
            ],
        )
    for order in orders:
        order.state, order.paid_at, order.way = State.PAID, at, way
        order.steps += 1
    _note(orders, at=at, reason=f"by {way}")


def end_attempts(order: Order, *, at: dt.datetime, reason: str) -> None:
    """Let nothing be waited for any more of a locked order, and let providers hear of that."""
    waiting = PaymentIntent.objects.filter(
        subscriber_id=order.subscriber_id,
        order_id=order.id,
        state__in=[Tried.INTENDED, Tried.WAITING],
    )
    ended = {"state": Tried.CANCELLED, "ended_at": at, "reason": reason[:200]}
    waiting.filter(account__isnull=False).update(**ended, recall_at=at)
    waiting.update(**ended)


def left_open(intent: PaymentIntent, reference: str, *, at: dt.datetime) -> None:
    """Note of an attempt that has ended that its provider has just begun it: it is to hear of the
    end."""
    PaymentIntent.objects.filter(
        subscriber_id=intent.subscriber_id, order_id=intent.order_id, nr=intent.nr, reference=""
    ).update(reference=reference, recall_at=at)


# How often a payer who comes back has the provider asked about one attempt, however often they do.
ASK_EVERY = dt.timedelta(seconds=5)


def may_ask(intent: PaymentIntent, *, wall: dt.datetime) -> bool:
    """Whether the provider is to be asked about an attempt now, by the wall's time: of many who
    want to know at once, one is told yes."""
    rows = PaymentIntent.objects.filter(pk=intent.pk)
    due = Q(asked_at=None) | Q(asked_at__lte=wall - ASK_EVERY)
    return bool(rows.filter(due).update(asked_at=wall))


def recalled(intent: PaymentIntent) -> None:
    """Note that the provider knows of an attempt's end."""
    PaymentIntent.objects.filter(
        subscriber_id=intent.subscriber_id, order_id=intent.order_id, nr=intent.nr
    ).update(recall_at=None)


def attempts_of(orders: Sequence[Order]) -> dict[int, list[PaymentIntent]]:
    """The attempts to pay each order, by its id."""
    found: dict[int, list[PaymentIntent]] = {order.id: [] for order in orders}
    rows = PaymentIntent.objects.filter(
        subscriber_id__in={order.subscriber_id for order in orders}, order_id__in=found
    )
    for row in rows.order_by("order_id", "nr"):
        found[row.order_id].append(row)
    return found


# What waits for an invoice -----------------------------------------------------------------------


_USED_SQL = """
UPDATE billing_order o SET applied = o.amount - o.refunded, settled_at = %s
FROM unnest(%s::bigint[], %s::bigint[]) AS u (subscriber_id, id)
WHERE o.subscriber_id = u.subscriber_id AND o.id = u.id
"""


def used_up(orders: Sequence[Order], *, at: dt.datetime) -> None:
    """Note of locked orders what an invoice took of them (`applied` is set); the rest, by the
    caller's hand, went back to the subscriber."""
    whole = [order for order in orders if not left_of(order)]
    if whole:
        with pgarrays.statements() as cursor:
            keys = [(order.subscriber_id, order.id) for order in whole]
            subscriber_ids, ids = zip(*keys, strict=True)
            cursor.execute(_USED_SQL, [at, Int8s(subscriber_ids), Int8s(ids)])
    for order in orders:
        if rest := left_of(order):
            refunded = order.refunded + rest
            state = State.PARTLY_REFUNDED if order.applied else State.REFUNDED
            advance(
                order,
                State.REFUNDING if order.state == State.REFUNDING else state,
                at=at,
                reason="what no invoice needed is in the wallet",
                applied=order.applied,
                refunded=refunded,
                settled_at=at,
            )


def not_paid_after_all(order: Order, *, at: dt.datetime, reason: str) -> None:
    """Note of a locked order that what no invoice had named of it was no money; the caller has
    posted it back."""
    refunded = order.refunded + left_of(order)
    state = State.PARTLY_REFUNDED if order.applied else State.REFUNDED
    advance(order, state, at=at, reason=reason, refunded=refunded, settled_at=at)


def left_of(order: Order) -> Decimal:
    """What of a paid order neither lowered an invoice nor went back."""
    left: Decimal = order.amount - order.applied + order.unapplied - order.refunded
    return left


# What goes back ----------------------------------------------------------------------------------


def refunding(
    order: Order, amount: Decimal, *, at: dt.datetime, reason: str, applied: bool = False
) -> None:
    """Note of a locked order that so much of it is on its way back; `applied`: what a credit note
    has taken off the invoice that it paid."""
    advance(
        order,
        State.REFUNDING,
        at=at,
        reason=reason,
        refunded=order.refunded + amount,
        unapplied=order.unapplied + (amount if applied else 0),
    )


def refund_ended(
    order: Order,
    *,
    open_still: bool,
    at: dt.datetime,
    reason: str,
    given_up: Decimal = rating.ZERO,
) -> None:
    """Note of a locked order that a refund of it has ended or failed (`open_still`: one is not
    over); so much of it is `given_up`, and does not go back."""
    refunded = order.refunded - given_up
    state = State.PAID
    if open_still:
        state = State.REFUNDING
    elif refunded == order.amount:
        state = State.REFUNDED
    elif refunded:
        state = State.PARTLY_REFUNDED
    advance(order, state, at=at, reason=reason, refunded=refunded)
