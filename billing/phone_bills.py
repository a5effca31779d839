"""Orders on the phone bill: the only writer of PhoneBillCharge and PhoneBillAnswer.

What is put on the phone bill is paid at once: the carrier owes it from then on, the next charge
file carries it, and what the carrier rejects is a debt again by further rows.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from zoneinfo import ZoneInfo

from django.db import connection, transaction
from django.db.models import Sum

from billing import consents, ledger, payments, rating, wallets
from billing.collecting import policies
from billing.ledger import Side
from billing.models import Consent, Order, PhoneBillAnswer, PhoneBillCharge, WalletMovement
from billing.orders import keeping
from subscriptions import periods
from subscriptions.errors import Conflict, Invalid, NotFound
from subscriptions.models import Operator, Subscriber

Kind = PhoneBillAnswer.Kind
# An invoice is on the phone bill by its charge file; a wallet is filled with money.
KINDS = (Order.Kind.PERIOD, Order.Kind.PLAN, Order.Kind.BOOSTER)


class NotAgreed(Conflict):
    cause = "no_consent"


class NoNumber(Conflict):
    cause = "no_phone_number"


class CapReached(Conflict):
    cause = "phone_bill_cap"


class Answered(Conflict):
    cause = "phone_bill_answered"


class NotTold(Conflict):
    cause = "not_in_a_charge_file"


# Putting on it -----------------------------------------------------------------------------------


def accrue(operator: Operator, number: str, *, at: dt.datetime) -> PhoneBillCharge:
    """Put an order on its subscriber's phone bill.

    Joins the caller's transaction, which holds the order and marks it paid. Raises Invalid for what
    the phone bill does not carry, NotAgreed, NoNumber, CapReached.
    """
    assert connection.in_atomic_block
    order = keeping.find(operator, number)
    if order.kind not in KINDS:
        raise Invalid(f"the phone bill carries orders of kind {', '.join(KINDS)}")
    agreed = consents.agreed([order.subscriber_id])[order.subscriber_id]
    if not agreed.to(Consent.Kind.PHONE_BILL, order.subscription_id):
        raise NotAgreed("the subscriber has not agreed to be charged by the phone bill")
    subscriber = Subscriber.objects.get(pk=order.subscriber_id)
    if not subscriber.msisdn:
        raise NoNumber("the subscriber has no phone number")
    caps = [policies.terms_by(operator.pk)(at).phone_bill_cap, agreed.phone_bill_cap]
    cap = min((one for one in caps if one is not None), default=None)
    if cap is not None:
        month = _carried(operator, order.subscriber_id, order.currency, at=at)
        if month + order.amount > cap:
            raise CapReached(f"this month's phone bill carries {month} of {cap} {order.currency}")
    return PhoneBillCharge.objects.create(
        subscriber_id=order.subscriber_id,
        order_id=order.id,
        operator=operator,
        at=at,
        currency=order.currency,
        amount=order.amount,
        msisdn=subscriber.msisdn,
        external_id=subscriber.external_id,
    )


def _carried(operator: Operator, subscriber_id: int, currency: str, *, at: dt.datetime) -> Decimal:
    """What a subscriber's phone bill of this month carries, less what was rejected."""
    since = periods.month_start(at, ZoneInfo(operator.time_zone))
    rejected = PhoneBillAnswer.objects.filter(subscriber_id=subscriber_id, kind=Kind.REJECTED)
    carried = PhoneBillCharge.objects.filter(
        subscriber_id=subscriber_id, currency=currency, at__gte=since
    ).exclude(order_id__in=rejected.values("order_id"))
    return carried.aggregate(sum=Sum("amount"))["sum"] or rating.ZERO


# Telling the carrier -----------------------------------------------------------------------------

_TELL_SQL = """
UPDATE billing_phonebillcharge c SET sequence = %(sequence)s, nr = n.nr
FROM (
    SELECT subscriber_id, order_id, %(after)s + row_number() OVER (ORDER BY order_id) AS nr
    FROM billing_phonebillcharge
    WHERE operator_id = %(operator)s AND sequence IS NULL AND currency = %(currency)s
      AND (%(since)s::timestamptz IS NULL OR at >= %(since)s)
      AND (%(until)s::timestamptz IS NULL OR at < %(until)s)
) n
WHERE c.subscriber_id = n.subscriber_id AND c.order_id = n.order_id
"""


def tell(
    operator: Operator,
    sequence: int,
    *,
    after: int,
    currency: str,
    since: dt.datetime | None,
    until: dt.datetime | None,
) -> int:
    """Let a charge file carry what no file did, of what was put on the bill in the span, as the
    lines `after` those it has; answers how many. Joins the transaction that makes the file."""
    assert connection.in_atomic_block
    with connection.cursor() as cursor:
        cursor.execute(
            _TELL_SQL,
            {
                "operator": operator.pk,
                "sequence": sequence,
                "after": after,
                "currency": currency,
                "since": since,
                "until": until,
            },
        )
        return int(cursor.rowcount)


# What it answers ---------------------------------------------------------------------------------


def charge_in(operator: Operator, sequence: int, nr: int) -> PhoneBillCharge:
    """The charge that a line of a file names. Raises NotFound."""
    found = PhoneBillCharge.objects.filter(operator=operator, sequence=sequence, nr=nr).first()
    if found is None:
        raise NotFound(f"line {nr} of charge file {sequence} is of no order")
    return found


@transaction.atomic
def answer(
    operator: Operator, charge: PhoneBillCharge, kind: str, *, reason: str = "", at: dt.datetime
) -> PhoneBillAnswer:
    """Keep what the carrier says of a charge, and what follows; the same again changes nothing.

    Raises Answered where it said something else before, NotTold.
    """
    order = keeping.locked(
        operator, Order.objects.get(subscriber_id=charge.subscriber_id, id=charge.order_id).number
    )
    before = PhoneBillAnswer.objects.filter(
        subscriber_id=charge.subscriber_id, order_id=charge.order_id
    ).first()
    if before is not None:
        if before.kind != kind:
            raise Answered(f"the carrier has {before.kind} it before")
        return before
    if charge.sequence is None:
        raise NotTold("no charge file carries it yet")
    said = PhoneBillAnswer(
        subscriber_id=charge.subscriber_id,
        order_id=charge.order_id,
        operator=operator,
        kind=kind,
        at=at,
        reason=reason[:200],
        amount=charge.amount,
    )
    if kind == Kind.COLLECTED:
        _post(operator, order, at, "collected", Side("cash:carrier", charge.amount))
    else:
        _reject(operator, order, said, at=at)
    said.save(force_insert=True)
    return said


def _reject(operator: Operator, order: Order, said: PhoneBillAnswer, *, at: dt.datetime) -> None:
    """The debt is back where the money went."""
    if order.settled_at is None:
        said.unnamed = keeping.left_of(order)
        _post(
            operator, order, at, "unnamed", Side(ledger.PREPAID, said.unnamed, order.subscriber_id)
        )
        keeping.not_paid_after_all(order, at=at, reason="the carrier rejects it")
    said.owed = order.applied
    if said.owed:
        payments.take_back(
            operator,
            f"order:{order.number}",
            subscriber_id=order.subscriber_id,
            way=ledger.CARRIER,
            at=at,
        )
    rest = order.amount - said.unnamed - said.owed
    key = (order.subscriber_id, order.currency)
    wallets.lock([key])
    said.from_wallet = min(rest, wallets.free_of(*key))
    if said.from_wallet:
        out = wallets.Move(
            order.subscriber_id,
            order.currency,
            WalletMovement.Kind.PAYMENT,
            -said.from_wallet,
            f"phone_bill:{order.number}",
            order.number,
        )
        wallets.move(operator.pk, [out], at=at)
        _post(operator, order, at, "wallet", out.side())
    said.lost = rest - said.from_wallet
    if said.lost:
        _post(operator, order, at, "lost", Side(ledger.WRITE_OFF, said.lost, order.subscriber_id))


def _post(operator: Operator, order: Order, at: dt.datetime, what: str, side: Side) -> None:
    """What the carrier owes no more."""
    sides = (side, Side(ledger.CARRIER, -side.amount, order.subscriber_id))
    key = f"phone_bill:{order.id}:{what}"
    draft = ledger.Draft(key, "phone_bill", at, order.currency, sides, order.number)
    posted = ledger.post(operator.pk, draft)
    assert posted or not side.amount


def open_charges(operator: Operator) -> Iterator[PhoneBillCharge]:
    """What the carrier has been told, or is to be, and has said nothing of, the oldest first."""
    answered = PhoneBillAnswer.objects.filter(operator=operator).values("order_id")
    rows = PhoneBillCharge.objects.filter(operator=operator).exclude(order_id__in=answered)
    yield from rows.order_by("at", "order_id").iterator()
