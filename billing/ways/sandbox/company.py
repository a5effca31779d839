"""The sandbox's business: the only writer of its payments, refunds, cards, disputes and balances.

Each function is one transaction of its own, as a call to another company is: it refuses to join
the caller's. Notices are written in the transaction of what they tell.
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from django.db import transaction

from billing.ways.sandbox import notices
from billing.ways.sandbox.models import BalanceTransaction, Dispute, Method, Payment, Refund

State = Payment.State
Kind = BalanceTransaction.Kind

CARD = "card"
DELAY = dt.timedelta(seconds=10)
# A card's issuer answers a refund at once, a wallet app later.
REFUND_DELAY = dt.timedelta(seconds=10)
ANSWER_WITHIN = dt.timedelta(days=7)
FEE = Decimal("0.006")
_FEN = Decimal("0.01")
_SWEEP = 100


class Refused(Exception):
    """The sandbox will not do this; the text is a stable word for why."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a merchant asks to be paid."""

    account: int
    key: str
    way: str
    merchant: str
    order: str
    customer: str
    currency: str
    amount: Decimal
    expires_at: dt.datetime
    return_url: str = ""
    method: str = ""  # a card that was kept: charged without the payer


# What a merchant asks for ------------------------------------------------------------------------


@transaction.atomic(durable=True)
def ask(asked: Asked, *, at: dt.datetime) -> Payment:
    """Begin a payment; the same key again answers what became of that one. Raises Refused."""
    known = _locked_by_key(asked.account, asked.key)
    if known is None:
        if asked.expires_at <= at:
            raise Refused("expired")
        Payment.objects.bulk_create([_new(asked, at=at)], ignore_conflicts=True)
        known = _locked_by_key(asked.account, asked.key)
        assert known is not None
    if (known.amount, known.currency, known.way) != (asked.amount, asked.currency, asked.way):
        raise Refused("key_of_another_payment")
    _catch_up(known, at=at)
    if asked.method and known.state == State.WAITING and known.method_id is None:
        _charge_kept(known, asked.method, at=at)
    return known


def _new(asked: Asked, *, at: dt.datetime) -> Payment:
    return Payment(
        id=_name("pay"),
        account=asked.account,
        key=asked.key,
        secret=secrets.token_urlsafe(32),
        way=asked.way,
        merchant=asked.merchant,
        order=asked.order,
        customer=asked.customer,
        currency=asked.currency,
        amount=asked.amount,
        return_url=asked.return_url,
        created_at=at,
        expires_at=asked.expires_at,
    )


def _charge_kept(payment: Payment, method_id: str, *, at: dt.datetime) -> None:
    """Charge a card without its holder: who must be asked first cannot be."""
    card = Method.objects.filter(
        id=method_id, account=payment.account, customer=payment.customer, removed_at=None
    ).first()
    if card is None:
        return _fail(payment, "unknown_method", at=at)
    payment.method = card
    if card.expires_on < at.date():
        return _fail(payment, "expired_card", at=at)
    if card.behaviour == Method.Behaviour.DECLINES:
        return _fail(payment, "card_declined", at=at)
    if card.behaviour == Method.Behaviour.ASKS:
        return _fail(payment, "authentication_required", at=at)
    return _succeed(payment, at=at)


@transaction.atomic(durable=True)
def look(account: int, key: str, *, at: dt.datetime) -> Payment | None:
    """A payment by the merchant's key, as it is at `at`."""
    payment = _locked_by_key(account, key)
    if payment is not None:
        _catch_up(payment, at=at)
    return payment


@transaction.atomic(durable=True)
def give_back(
    account: int, payment_id: str, amount: Decimal, *, key: str, at: dt.datetime
) -> Refund:
    """Send a part or all of a payment back; the same key again is the same refund. Raises Refused.

    What goes to a wallet app arrives later, and the merchant is told.
    """
    payment = Payment.objects.select_for_update().filter(account=account, id=payment_id).first()
    if payment is None:
        raise Refused("unknown_payment")
    known = Refund.objects.filter(account=account, key=key).first()
    if known is not None:
        if (known.payment_id, known.amount) != (payment.id, amount):
            raise Refused("key_of_another_refund")
        _settle_refund(known, payment, at=at)
        return known
    if payment.state != State.SUCCEEDED:
        raise Refused("not_paid")
    if Dispute.objects.filter(payment=payment).exclude(state=Dispute.State.WON).exists():
        raise Refused("disputed")
    if not 0 < amount <= payment.amount - payment.refunded:
        raise Refused("more_than_is_left")
    payment.refunded += amount
    payment.save(update_fields=["refunded"])
    refund = Refund.objects.create(
        id=_name("rf"),
        payment=payment,
        account=account,
        key=key,
        amount=amount,
        created_at=at,
        settles_at=at if payment.way == CARD else at + REFUND_DELAY,
    )
    _move(payment, Kind.REFUND, refund.id, key, -amount, at=at)
    _settle_refund(refund, payment, at=at)
    return refund


@transaction.atomic(durable=True)
def look_at_refund(account: int, key: str, *, at: dt.datetime) -> Refund | None:
    """A refund by the merchant's key, as it is at `at`."""
    refund = Refund.objects.filter(account=account, key=key).first()
    if refund is not None:
        payment = Payment.objects.select_for_update().get(pk=refund.payment_id)
        refund.refresh_from_db()
        _settle_refund(refund, payment, at=at)
    return refund


@transaction.atomic(durable=True)
def answer_dispute(account: int, dispute_id: str, evidence: dict[str, Any]) -> Dispute:
    """Put down what the merchant says to a dispute. Raises Refused."""
    dispute = Dispute.objects.select_for_update().filter(account=account, id=dispute_id).first()
    if dispute is None:
        raise Refused("unknown_dispute")
    if dispute.state != Dispute.State.OPEN:
        raise Refused("dispute_closed")
    dispute.evidence = evidence
    dispute.save(update_fields=["evidence"])
    return dispute


def balance_transactions(
    account: int, since: dt.datetime, until: dt.datetime
) -> Iterable[BalanceTransaction]:
    """What a merchant's balance moved by in [since, until), in order."""
    rows = BalanceTransaction.objects.filter(account=account, at__gte=since, at__lt=until)
    return rows.order_by("at", "id")


def methods_of(account: int, customer: str) -> list[Method]:
    """The cards that are kept for a customer of a merchant."""
    rows = Method.objects.filter(account=account, customer=customer, removed_at=None)
    return list(rows.order_by("created_at", "id"))


@transaction.atomic(durable=True)
def forget_method(account: int, method_id: str, *, at: dt.datetime) -> None:
    """Keep a card no longer. Again changes nothing."""
    Method.objects.filter(account=account, id=method_id, removed_at=None).update(removed_at=at)


# What a payer does -------------------------------------------------------------------------------


def page_of(secret: str, *, at: dt.datetime) -> Payment | None:
    """The payment whose page this is, as it is at `at`."""
    with transaction.atomic(durable=True):
        payment = Payment.objects.select_for_update().filter(secret=secret).first()
        if payment is not None:
            _catch_up(payment, at=at)
    return payment


@transaction.atomic(durable=True)
def pay(payment_id: str, *, at: dt.datetime, later: bool = False, twice: bool = False) -> Payment:
    """The payer pays: now, in a while, or by mistake a second time. Raises Refused.

    Paid twice, there are two payments of one key, and the merchant is told of the first one twice.
    """
    payment = _payable(payment_id, at=at)
    if later:
        payment.state, payment.settles_at = State.PROCESSING, at + DELAY
        payment.save(update_fields=["state", "settles_at", "method"])
        return payment
    _succeed(payment, at=at, copies=2 if twice else 1)
    if twice:
        again = Payment.objects.get(pk=payment.pk)
        again.pk, again.nr = _name("pay"), payment.nr + 1
        again.secret = secrets.token_urlsafe(32)
        again.state, again.ended_at = State.WAITING, None
        again.save(force_insert=True)
        _succeed(again, at=at)
    return payment


@transaction.atomic(durable=True)
def fail(payment_id: str, reason: str, *, at: dt.datetime) -> Payment:
    """The payment comes to nothing. Raises Refused."""
    payment = _payable(payment_id, at=at)
    _fail(payment, reason, at=at)
    return payment


@transaction.atomic(durable=True)
def expire(payment_id: str, *, at: dt.datetime) -> Payment:
    """Its time is over, early. Raises Refused."""
    payment = _payable(payment_id, at=at)
    _expire(payment, at=at)
    return payment


@transaction.atomic(durable=True)
def hold_card(
    payment_id: str, number: str, expires_on: dt.date, *, keep: bool, at: dt.datetime
) -> Payment:
    """The payer's card for this payment; kept for the next one where they agree. Raises Refused."""
    card = CARDS.get(number)
    if card is None:
        raise Refused("unknown_card")
    payment = _payable(payment_id, at=at)
    payment.method = Method.objects.create(
        id=_name("card"),
        account=payment.account,
        customer=payment.customer,
        behaviour=card.behaviour,
        brand=card.brand,
        last4=number[-4:],
        expires_on=expires_on,
        created_at=at,
        # One that is for this payment alone is not kept for a next one.
        removed_at=None if keep else at,
    )
    payment.save(update_fields=["method"])
    return payment


@dataclass(frozen=True, slots=True)
class Card:
    brand: str
    behaviour: str


# Whose numbers the page shows; no other is taken.
CARDS = {
    "6200000000000005": Card("UnionPay", Method.Behaviour.PAYS),
    "6200000000003063": Card("UnionPay", Method.Behaviour.ASKS),
    "6200000000000002": Card("UnionPay", Method.Behaviour.DECLINES),
}


@transaction.atomic(durable=True)
def settle_now(payment_id: str, *, at: dt.datetime) -> None:
    """Let no more time pass: what is on its way arrives."""
    payment = Payment.objects.select_for_update().get(pk=payment_id)
    if payment.state == State.PROCESSING:
        _succeed(payment, at=at)
    for refund in Refund.objects.filter(payment=payment, state=Refund.State.WAITING):
        _arrive(refund, payment, at=at)


@transaction.atomic(durable=True)
def dispute(payment_id: str, reason: str, *, at: dt.datetime) -> Dispute:
    """The payer wants back what was paid; the merchant is without it until that is decided.

    Raises Refused.
    """
    payment = Payment.objects.select_for_update().get(pk=payment_id)
    left = payment.amount - payment.refunded
    if payment.state != State.SUCCEEDED or left <= 0:
        raise Refused("not_paid")
    if Dispute.objects.filter(payment=payment).exists():
        raise Refused("disputed")
    opened = Dispute.objects.create(
        id=_name("dp"),
        payment=payment,
        account=payment.account,
        amount=left,
        reason=reason,
        created_at=at,
        due_at=at + ANSWER_WITHIN,
    )
    _move(payment, Kind.DISPUTE, opened.id, payment.key, -left, at=at)
    notices.tell_of_dispute(payment, opened, at=at)
    return opened


@transaction.atomic(durable=True)
def decide(payment_id: str, *, for_merchant: bool, at: dt.datetime) -> Dispute:
    """Decide the dispute of a payment. Raises Refused."""
    payment = Payment.objects.select_for_update().get(pk=payment_id)
    opened = Dispute.objects.filter(payment=payment, state=Dispute.State.OPEN).first()
    if opened is None:
        raise Refused("no_dispute")
    opened.state = Dispute.State.WON if for_merchant else Dispute.State.LOST
    opened.ended_at = at
    opened.save(update_fields=["state", "ended_at"])
    if for_merchant:
        _move(payment, Kind.DISPUTE_WON, opened.id, payment.key, opened.amount, at=at)
    notices.tell_of_dispute(payment, opened, at=at)
    return opened


@transaction.atomic(durable=True)
def refuse_refund(payment_id: str, refund_id: str, *, at: dt.datetime) -> Refund:
    """A refund on its way comes back: the payer's account takes none. Raises Refused."""
    payment = Payment.objects.select_for_update().get(pk=payment_id)
    refund = Refund.objects.filter(payment=payment, id=refund_id).first()
    if refund is None or refund.state != Refund.State.WAITING:
        raise Refused("refund_settled")
    refund.state, refund.reason, refund.ended_at = Refund.State.FAILED, "account_closed", at
    refund.save(update_fields=["state", "reason", "ended_at"])
    payment.refunded -= refund.amount
    payment.save(update_fields=["refunded"])
    _move(payment, Kind.REFUND_FAILED, refund.id, refund.key, refund.amount, at=at)
    notices.tell_of_refund(payment, refund, at=at)
    return refund


# What time does ----------------------------------------------------------------------------------


def accounts_with_something_due() -> set[int]:
    """The merchants for whom something settles some day."""
    waiting = Refund.objects.filter(state=Refund.State.WAITING).values_list("account", flat=True)
    later = Payment.objects.filter(state=State.PROCESSING).values_list("account", flat=True)
    return {*waiting.distinct(), *later.distinct()}


def settle_due(account: int, *, at: dt.datetime) -> int:
    """Settle a chunk of what is due at `at`; answers how much, so call it until that is 0."""
    payments = Payment.objects.filter(
        account=account, state=State.PROCESSING, settles_at__lte=at
    ).order_by("settles_at")
    refunds = Refund.objects.filter(
        account=account, state=Refund.State.WAITING, settles_at__lte=at
    ).order_by("settles_at")
    keys = list(payments.values_list("pk", flat=True)[:_SWEEP])
    owed = list(refunds.values_list("key", flat=True)[:_SWEEP])
    for key in keys:
        with transaction.atomic(durable=True):
            _catch_up(Payment.objects.select_for_update().get(pk=key), at=at)
    for key in owed:
        look_at_refund(account, key, at=at)
    return len(keys) + len(owed)


# The books ---------------------------------------------------------------------------------------


def _locked_by_key(account: int, key: str) -> Payment | None:
    rows = Payment.objects.select_for_update().filter(account=account, key=key, nr=1)
    return rows.first()


def _payable(payment_id: str, *, at: dt.datetime) -> Payment:
    payment = Payment.objects.select_for_update().get(pk=payment_id)
    _catch_up(payment, at=at)
    if payment.state == State.EXPIRED:
        raise Refused("expired")
    if payment.state != State.WAITING:
        raise Refused("not_waiting")
    return payment


def _catch_up(payment: Payment, *, at: dt.datetime) -> None:
    """Do to a locked payment what time has done to it."""
    if payment.state == State.PROCESSING and payment.settles_at and payment.settles_at <= at:
        _succeed(payment, at=at)
    elif payment.state == State.WAITING and payment.expires_at <= at:
        _expire(payment, at=at)


def _succeed(payment: Payment, *, at: dt.datetime, copies: int = 1) -> None:
    _end(payment, State.SUCCEEDED, "", at=at)
    fee = (payment.amount * FEE).quantize(_FEN, ROUND_HALF_UP)
    _move(payment, Kind.PAYMENT, payment.id, payment.key, payment.amount, at=at, fee=fee)
    notices.tell_of_payment(payment, at=at, copies=copies)


def _fail(payment: Payment, reason: str, *, at: dt.datetime) -> None:
    _end(payment, State.FAILED, reason, at=at)
    notices.tell_of_payment(payment, at=at)


def _expire(payment: Payment, *, at: dt.datetime) -> None:
    _end(payment, State.EXPIRED, "expired", at=at)
    notices.tell_of_payment(payment, at=at)


def _end(payment: Payment, state: str, reason: str, *, at: dt.datetime) -> None:
    payment.state, payment.reason, payment.ended_at = state, reason, at
    payment.save(update_fields=["state", "reason", "ended_at", "method"])


def _settle_refund(refund: Refund, payment: Payment, *, at: dt.datetime) -> None:
    """Under the payment's lock."""
    if refund.state == Refund.State.WAITING and refund.settles_at <= at:
        _arrive(refund, payment, at=at)


def _arrive(refund: Refund, payment: Payment, *, at: dt.datetime) -> None:
    refund.state, refund.ended_at = Refund.State.SUCCEEDED, at
    refund.save(update_fields=["state", "ended_at"])
    notices.tell_of_refund(payment, refund, at=at)


def _move(
    payment: Payment,
    kind: str,
    source: str,
    key: str,
    amount: Decimal,
    *,
    at: dt.datetime,
    fee: Decimal = Decimal(0),
) -> None:
    BalanceTransaction.objects.create(
        id=_name("bt"),
        account=payment.account,
        kind=kind,
        source=source,
        key=key,
        way=payment.way,
        currency=payment.currency,
        amount=amount,
        fee=fee,
        at=at,
    )


def _name(of: str) -> str:
    return f"sbx_{of}_{secrets.token_hex(12)}"
