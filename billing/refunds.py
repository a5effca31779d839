"""Refunds: money of an order that goes back, and the units with it. The only writer of Refund.

Asked for, it is written down and committed first: the money leaves where it stood for the account
`refund`, the units are frozen, the order is `refunding`. Only then is the provider told, with the
refund's own key, and what it answers, at once, by a notice or when the sweep asks again, is written
down in a transaction of its own: a crash between any two of these is finished by the sweep, and
never paid twice. What has failed waits for staff: again, into the wallet, or not at all.

Locks in one order: the subscriber, the period, the order, its refund, invoices, wallets, buckets.
"""

from __future__ import annotations

import datetime as dt
import logging
import uuid
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from django.db import connection, transaction

from billing import (
    approvals,
    corrections,
    crediting,
    invoicing,
    ledger,
    rating,
    refundable,
    wallets,
)
from billing.approvals import Changed, Kind
from billing.fapiao import requests as fapiao
from billing.ledger import Side
from billing.models import (
    Approval,
    FapiaoRequest,
    Invoice,
    Order,
    PaymentIntent,
    Refund,
    RefundStep,
    WalletMovement,
)
from billing.orders import keeping, paying
from billing.refundable import Offer
from billing.ways import bank, wallet
from billing.ways.provider import Answer, Attempt, Event, Fate, Provider, Unavailable
from subscriptions import freezing, lifecycle, outbox
from subscriptions.errors import Conflict, Invalid, NotFound
from subscriptions.models import Operator
from subscriptions.units import to_wire

log = logging.getLogger(__name__)

State, To, Fund = Refund.State, Refund.To, Refund.Fund
# How long a provider is left alone after each look, and at most.
_PATIENCE = dt.timedelta(minutes=1)
_LONGEST = dt.timedelta(hours=12)
_SWEEP = 100
_SILENT = 3
_NO_ANSWER = "the provider did not answer"
_RECEIVED = PaymentIntent.State.SUCCEEDED


class KeyUsed(Conflict):
    cause = "idempotency_conflict"


class NotFailed(Conflict):
    cause = "refund_not_failed"


class Documented(Conflict):
    cause = "documented"


# Asking ------------------------------------------------------------------------------------------


def preview(operator: Operator, number: str, *, at: dt.datetime) -> tuple[Order, Offer]:
    """What a refund of this order would be at most, by policy; nothing happens. Raises NotFound and
    what `refundable.offer` does."""
    order = keeping.find(operator, number)
    return order, refundable.offer(order, at=at)


@transaction.atomic
def ask(
    operator: Operator,
    number: str,
    *,
    reason: str,
    by: str,
    at: dt.datetime,
    amount: Decimal | None = None,
    to: str = To.SOURCE,
    once: str = "",
) -> Refund | Approval:
    """Refund so much of an order, or all that the policy gives; above the operator's limit what it
    waits for. `once` makes it repeatable: the same again is the same.

    What goes into a wallet is there with the commit, all else is for `send`. Raises NotFound,
    Invalid, KeyUsed, and what `refundable.offer` does.
    """
    order = keeping.locked(operator, number)
    once = once or uuid.uuid4().hex
    known_one = _known(operator, order, once, amount=amount, to=to)
    if known_one is not None:
        return known_one
    offer = refundable.offer(order, at=at, locked=True)
    amount = _within(offer, order, amount, to)
    if corrections.rules_of(operator.pk, at=at).waits(amount):
        return approvals.ask(
            operator,
            Kind.REFUND,
            subscriber_id=order.subscriber_id,
            order_id=order.id,
            to=to,
            once=once,
            currency=order.currency,
            gross=-amount,
            amount=-amount,
            effect={
                "order": order.number,
                "paid": str(order.amount),
                "refund": str(amount),
                "units_taken_back": to_wire(offer.units_for(amount)),
            },
            reason=reason,
            by=by,
            at=at,
        )
    return _make(operator, order, offer, amount, to=to, once=once, reason=reason, by=by, at=at)


def make_approved(operator: Operator, approval: Approval, at: dt.datetime) -> dict[str, int]:
    """Make the refund that another person has approved, in the transaction that says so.

    Raises Changed where by now so much cannot be refunded, and what `refundable.offer` does.
    """
    assert approval.subscriber_id is not None
    assert approval.order_id is not None
    asked = Order.objects.get(subscriber_id=approval.subscriber_id, id=approval.order_id)
    order = keeping.locked(operator, asked.number)
    offer = refundable.offer(order, at=at, locked=True)
    amount = -approval.amount
    if amount > offer.amount or (_is_of_period(order) and amount != offer.amount):
        raise Changed(f"by now {offer.amount} {order.currency} can be refunded: ask again")
    refund = _make(
        operator,
        order,
        offer,
        amount,
        to=approval.to,
        once=approval.once,
        reason=approval.reason,
        by=approval.asked_by,
        at=at,
    )
    return {"refund_id": refund.id}


def _known(
    operator: Operator, order: Order, once: str, *, amount: Decimal | None, to: str
) -> Refund | Approval | None:
    found: Refund | Approval | None = Refund.objects.filter(operator=operator, once=once).first()
    if found is None:
        found = approvals.asked(operator, once)
    if found is None:
        return None
    other = amount is not None and amount != abs(found.amount)
    other |= to == To.WALLET and found.to == To.SOURCE
    whose = (found.subscriber_id, found.order_id)
    if other or whose != (order.subscriber_id, order.id):
        raise KeyUsed("this key names another refund")
    return found


def _is_of_period(order: Order) -> bool:
    return order.kind in (Order.Kind.PLAN, Order.Kind.PERIOD)


def _within(offer: Offer, order: Order, amount: Decimal | None, to: str) -> Decimal:
    if to not in To.values:
        raise Invalid("a refund goes to the source or to the wallet")
    if order.kind == Order.Kind.TOP_UP and to == To.WALLET:
        raise Invalid("a top-up is in the wallet: it is refunded to its source")
    if amount is None:
        return offer.amount
    if amount <= 0 or amount != rating.to_fen(amount):
        raise Invalid("a refund is over more than nothing, with two decimals at most")
    if amount > offer.amount:
        raise Invalid(f"of this order {offer.amount} {order.currency} can be refunded")
    if _is_of_period(order) and amount != offer.amount:
        raise Invalid(f"a plan ends with its refund, which is {offer.amount} {order.currency}")
    return amount


def _make(
    operator: Operator,
    order: Order,
    offer: Offer,
    amount: Decimal,
    *,
    to: str,
    once: str,
    reason: str,
    by: str,
    at: dt.datetime,
) -> Refund:
    """Write a refund down, with all that follows from it here. All rows are locked."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT nextval('billing_refund_id')")
        [(refund_id,)] = cursor.fetchall()
    number = f"{invoicing.number_prefix(operator)}-R-{refund_id:010}"
    if order.way == wallet.WAY:
        to = To.WALLET
    units = offer.units_for(amount)
    note_id = offer.note_id
    if offer.invoice_id is not None and note_id is None:
        note_id = _note(operator, order, offer.invoice_id, amount, reason, paid_back=amount, at=at)
    refund = Refund.objects.create(
        subscriber_id=order.subscriber_id,
        id=refund_id,
        operator=operator,
        number=number,
        order_id=order.id,
        once=once,
        currency=order.currency,
        amount=amount,
        to=to,
        way=order.way if to == To.SOURCE else wallet.WAY,
        fund=offer.fund,
        rule=offer.rule,
        bucket_id=offer.bucket_id,
        units=units,
        note_id=note_id,
        reason=reason,
        asked_by=by,
        key=f"{number}-1",
        asked_at=at,
        look_at=at + _PATIENCE,
    )
    _step(refund, at=at, reason=f"asked by {by}: {reason}")
    _take_from(operator, order, refund, at=at)
    keeping.refunding(
        order, amount, at=at, reason=number, applied=offer.bucket_id is not None and _says(offer)
    )
    if to == To.WALLET:
        _into_wallet(operator, order, refund, at=at)
    return refund


def _says(offer: Offer) -> bool:
    """Whether an invoice has taken the order's money already."""
    return offer.fund == Fund.CREDIT_NOTE


def _take_from(operator: Operator, order: Order, refund: Refund, *, at: dt.datetime) -> None:
    """Move the money from where it stands to what is on its way back, and keep the units."""
    if refund.fund == Fund.WALLET:
        out = _move(
            order, refund, WalletMovement.Kind.PAYOUT, -refund.amount, f"refund:{refund.number}"
        )
        wallets.move(operator.pk, [out], at=at)
        source = out.side()
        # What came with it as a gift goes with it.
        whose = (refund.subscriber_id, refund.currency)
        wallets.take_back_bonus(operator.pk, whose, order.id, by=refund.number, at=at)
    elif refund.fund == Fund.CREDIT_NOTE:
        if order.kind == Order.Kind.INVOICE:
            assert refund.note_id is not None
            note = Invoice.objects.select_for_update(no_key=True).get(
                subscriber_id=refund.subscriber_id, id=refund.note_id
            )
            invoicing.settle(note, -refund.amount)
        source = Side(ledger.RECEIVABLE, refund.amount, refund.subscriber_id)
    else:
        source = Side(ledger.PREPAID, refund.amount, refund.subscriber_id)
    _post(operator, refund, "", (source, _on_its_way(refund, -1)), at=at)
    if refund.bucket_id is not None:
        frozen = freezing.freeze(
            refund.subscriber_id, [refund.bucket_id], refund.number, at=at, units=refund.units
        )
        assert frozen == refund.units
    elif _is_of_period(order):
        key = keeping.period_of(order)
        assert key is not None
        lifecycle.end_now(*key[:2], at=at, reason=f"refund {refund.number}", refund=True)


def _note(
    operator: Operator,
    order: Order,
    invoice_id: int,
    amount: Decimal,
    reason: str,
    *,
    at: dt.datetime,
    paid_back: Decimal = rating.ZERO,
    settle_up: bool = True,
) -> int:
    """A credit note over so much of the line that names what an order bought; answers its id."""
    named = refundable.named_by(order)
    assert named is not None
    line, _ = named
    assert line.invoice_id == invoice_id
    invoice = Invoice.objects.select_for_update(no_key=True).get(
        subscriber_id=order.subscriber_id, id=invoice_id
    )
    charged = refundable.charged_on(invoice)
    left = refundable.own_parts(invoicing.left_of(invoice, charged), line)
    lines = invoicing.note_lines(invoice, charged, crediting.take_back(left, amount))
    note = invoicing.write_note(
        operator,
        invoice,
        charged,
        lines,
        reason=reason,
        at=at,
        paid_back=paid_back,
        settle_up=settle_up,
    )
    _ask_for_red(operator, invoice, note, at=at)
    return note.id


def _ask_for_red(operator: Operator, invoice: Invoice, note: Invoice, *, at: dt.datetime) -> None:
    """Where an e-fapiao says what the note takes back, a red one has to unsay it. One that is under
    way staff ask for when it is issued."""
    blue = FapiaoRequest.objects.filter(
        subscriber_id=invoice.subscriber_id,
        invoice_id=invoice.id,
        original__isnull=True,
        state=FapiaoRequest.State.ISSUED,
    )
    if blue.exists():
        assert invoice.number is not None
        assert note.number is not None
        fapiao.request_red(
            operator,
            invoice.number,
            reason=FapiaoRequest.Reason.SERVICE_ENDED,
            credit_note=note.number,
            at=at,
        )


def say(operator: Operator, order: Order, invoice_id: int, *, at: dt.datetime) -> None:
    """Take what was refunded of a locked order off the invoice that names it by now.

    Joins the transaction that issued the invoice, before the order pays it. The share of the price
    that went back is the share of the line, less its discounts, that the note takes back.
    """
    rows = Refund.objects.filter(
        subscriber_id=order.subscriber_id,
        order_id=order.id,
        fund=Fund.PREPAID,
        note_id__isnull=True,
    ).exclude(state=State.CANCELLED)
    for refund in rows.order_by("id").select_for_update(no_key=True):
        named = refundable.named_by(order)
        if named is None:
            return
        whole, left = refundable.parts_left(*named)
        share = min(rating.to_fen(whole * refund.amount / order.amount), left)
        if share > 0:
            refund.note_id = _note(
                operator, order, invoice_id, share, refund.reason, at=at, settle_up=False
            )
            _keep(refund, "note_id")


# Sending -----------------------------------------------------------------------------------------


def send(operator: Operator, number: str, *, at: dt.datetime) -> Refund:
    """Tell the provider of a refund that is written down, or ask again; outside any transaction.

    Again with the same key, so that it is paid once. Raises NotFound; where the provider does not
    answer, the sweep asks again.
    """
    refund = find(operator, number)
    if refund.state != State.PENDING or refund.way == bank.WAY:
        return refund
    provider, attempt = _provider(refund, at=at), _attempt(refund, at=at)
    try:
        answer = provider.refund(attempt, refund.amount, key=refund.key)
    except Unavailable:
        return _look_later(operator, refund, _NO_ANSWER, at=at)
    return hear(operator, number, refund.key, answer, at=at)


def sweep(operator: Operator, *, at: dt.datetime) -> int:
    """Ask after refunds that are due to be asked after, one after the other; answers how many.

    A provider that does not answer is left alone until the next sweep: each wait takes seconds.
    """
    due = Refund.objects.filter(operator=operator, state=State.PENDING, look_at__lte=at)
    numbers = due.exclude(way=bank.WAY).order_by("look_at").values_list("number", flat=True)
    done = silent = 0
    for number in list(numbers[:_SWEEP]):
        if silent == _SILENT:
            break
        try:
            silent += send(operator, number, at=at).problem == _NO_ANSWER
        except Exception:
            # One that cannot be worked holds up no other, and is not asked for at once again.
            log.exception("refund %s", number)
            _look_later(operator, find(operator, number), "see the log", at=at)
        done += 1
    return done


def settle_refund(operator: Operator, event: Event, *, at: dt.datetime) -> Refund | None:
    """Write down what a provider's notice says of a refund; None where it is none of ours."""
    number = event.key.rpartition("-")[0]
    if not Refund.objects.filter(operator=operator, number=number).exists():
        return None
    return hear(operator, number, event.key, event.answer, at=at)


@transaction.atomic
def hear(operator: Operator, number: str, key: str, answer: Answer, *, at: dt.datetime) -> Refund:
    """Write down what a provider says of the try that this key names, and what follows; once.

    What is said of an earlier try, or of a refund that has ended, changes nothing; but one that was
    made may turn out to have failed.
    """
    order, refund = _locked(operator, number)
    if key != refund.key or refund.state in (State.FAILED, State.CANCELLED):
        return refund
    refund.reference = answer.reference or refund.reference
    if answer.fate == Fate.FAILED:
        if refund.to == To.SOURCE:
            _failed(operator, order, refund, answer.reason, at=at)
    elif refund.state == State.PENDING:
        lied = answer.amount is not None and answer.amount != refund.amount
        if lied or (answer.currency and answer.currency != refund.currency):
            _wait(refund, f"the provider says {answer.amount} {answer.currency}", at=at)
        elif answer.fate == Fate.SUCCEEDED:
            _succeeded(operator, order, refund, _source(refund, at=at), at=at)
        else:
            _wait(refund, answer.reason, at=at)
    return refund


@transaction.atomic
def _look_later(operator: Operator, refund: Refund, problem: str, *, at: dt.datetime) -> Refund:
    _, refund = _locked(operator, refund.number)
    if refund.state == State.PENDING:
        _wait(refund, problem, at=at)
    return refund


def _wait(refund: Refund, problem: str, *, at: dt.datetime) -> None:
    refund.looks = min(refund.looks + 1, 1000)
    refund.look_at = at + min(_PATIENCE * 2 ** min(refund.looks, 12), _LONGEST)
    refund.problem = problem[:200]
    _keep(refund, "looks", "look_at", "problem", "reference")


# Outcomes ----------------------------------------------------------------------------------------


def _succeeded(
    operator: Operator,
    order: Order,
    refund: Refund,
    out: Side,
    *,
    at: dt.datetime,
    reason: str = "",
) -> None:
    """The money is there; `out` is the entry that it left by."""
    _post(operator, refund, f":{refund.steps}:out", (_on_its_way(refund, 1), out), at=at)
    freezing.take(refund.subscriber_id, refund.number, at=at, paid_back=True)
    _put(
        refund, State.SUCCEEDED, at=at, reason=reason or f"by {refund.way}", ended_at=at, problem=""
    )
    keeping.refund_ended(order, open_still=_open_ones(order), at=at, reason=refund.number)
    _tell(order, refund, "order.refunded", at=at)


def _failed(operator: Operator, order: Order, refund: Refund, why: str, *, at: dt.datetime) -> None:
    """Staff decide. What was made and came back is on its way again."""
    if refund.state == State.SUCCEEDED:
        sides = (_on_its_way(refund, -1), _negated(_source(refund, at=at)))
        _post(operator, refund, f":{refund.steps}:back", sides, at=at)
    _put(refund, State.FAILED, at=at, reason=why, problem=why[:200], ended_at=None)
    keeping.refund_ended(order, open_still=True, at=at, reason=refund.number)
    _tell(order, refund, "refund.failed", at=at)


def _into_wallet(
    operator: Operator, order: Order, refund: Refund, *, at: dt.datetime, reason: str = ""
) -> None:
    back = _move(order, refund, WalletMovement.Kind.REFUND, refund.amount, f"refund:{refund.key}")
    if order.way == wallet.WAY:  # what a bonus paid is a bonus again
        back = replace(back, of_order=order.number)
    wallets.move(operator.pk, [back], at=at)
    _succeeded(operator, order, refund, back.side(), at=at, reason=reason)


# What staff decide -------------------------------------------------------------------------------


@transaction.atomic
def retry(operator: Operator, number: str, *, by: str, at: dt.datetime) -> Refund:
    """Let a failed refund be tried again, under another key, by `send` or the sweep. Again, while
    that try is open, changes nothing. Raises NotFound, NotFailed."""
    _, refund = _locked(operator, number)
    if refund.state == State.PENDING and refund.tries > 1:
        return refund
    _must_have_failed(refund)
    refund.tries += 1
    refund.key = f"{refund.number}-{refund.tries}"
    refund.looks = 0
    _put(
        refund,
        State.PENDING,
        at=at,
        reason=f"again, by {by}",
        problem="",
        look_at=at + _PATIENCE,
        key=refund.key,
        tries=refund.tries,
        looks=0,
    )
    return refund


@transaction.atomic
def to_wallet(operator: Operator, number: str, *, by: str, at: dt.datetime) -> Refund:
    """Put a refund that has failed, or one that staff were to transfer, into the wallet. Again
    changes nothing. Raises NotFound, NotFailed."""
    order, refund = _locked(operator, number)
    if refund.state == State.SUCCEEDED and refund.to == To.WALLET:
        return refund
    if not (refund.state == State.PENDING and refund.way == bank.WAY):
        _must_have_failed(refund)
    refund.to, refund.way = To.WALLET, wallet.WAY
    _into_wallet(operator, order, refund, at=at, reason=f"into the wallet, by {by}")
    return refund


@transaction.atomic
def transferred(
    operator: Operator, number: str, *, reference: str, by: str, at: dt.datetime
) -> Refund:
    """Note that staff have transferred a refund back. Again changes nothing. Raises NotFound,
    NotFailed where it is none that staff transfer, or not any more."""
    order, refund = _locked(operator, number)
    if refund.state == State.SUCCEEDED and refund.reference == reference:
        return refund
    if refund.way != bank.WAY or refund.state != State.PENDING:
        raise NotFailed("this refund does not wait to be transferred")
    refund.reference = reference
    out = Side(f"cash:{bank.WAY}", -refund.amount)
    _succeeded(operator, order, refund, out, at=at, reason=f"transferred by {by}")
    return refund


@transaction.atomic
def cancel(operator: Operator, number: str, *, by: str, at: dt.datetime) -> Refund:
    """Give a refund up that has failed, or that staff were to transfer: its money, the bonus that
    came with it, and its units are the subscriber's as before. Again changes nothing.

    Raises NotFound, NotFailed; Documented where a credit note says it, or its plan has ended.
    """
    order, refund = _locked(operator, number)
    if refund.state == State.CANCELLED:
        return refund
    if refund.way == bank.WAY and refund.state == State.PENDING:
        _put(refund, State.FAILED, at=at, reason=f"not transferred, by {by}")
    _must_have_failed(refund)
    taken = refund.bucket_id is not None and not freezing.frozen_of(
        refund.subscriber_id, refund.number
    )
    said = refund.note_id is not None or (
        refund.fund == Fund.PREPAID and order.settled_at is not None
    )
    if said or taken or _is_of_period(order):
        raise Documented(
            "a document says this refund, or its units are gone: try again, or put it into the"
            " wallet"
        )
    if refund.fund == Fund.WALLET:
        back = _move(
            order, refund, WalletMovement.Kind.REFUND, refund.amount, f"refund:{refund.key}:back"
        )
        wallets.move(operator.pk, [back], at=at)
        whose = (refund.subscriber_id, refund.currency)
        wallets.give_bonus_again(operator.pk, whose, by=refund.number, at=at)
        kept = back.side()
    else:
        kept = Side(ledger.PREPAID, -refund.amount, refund.subscriber_id)
    _post(operator, refund, ":given_up", (_on_its_way(refund, 1), kept), at=at)
    freezing.thaw(refund.subscriber_id, refund.number, at=at)
    _put(refund, State.CANCELLED, at=at, reason=f"given up by {by}", ended_at=at)
    keeping.refund_ended(
        order,
        open_still=_open_ones(order),
        at=at,
        reason=f"{refund.number} was given up",
        given_up=refund.amount,
    )
    return refund


def _must_have_failed(refund: Refund) -> None:
    if refund.state != State.FAILED:
        raise NotFailed(f"the refund is {refund.state}: only one that has failed is decided on")


# Rows --------------------------------------------------------------------------------------------


def find(operator: Operator, number: str) -> Refund:
    """A refund of an operator by its number. Raises NotFound, also for another operator's."""
    found = None
    if keeping.NUMBER.fullmatch(number):
        found = Refund.objects.filter(operator=operator, number=number).first()
    if found is None:
        raise NotFound("there is no such refund")
    return found


def steps_of(refunds: Sequence[Refund]) -> dict[int, list[RefundStep]]:
    """The history of each refund, by its id."""
    found: dict[int, list[RefundStep]] = {one.id: [] for one in refunds}
    rows = RefundStep.objects.filter(
        subscriber_id__in={one.subscriber_id for one in refunds}, refund_id__in=found
    )
    for row in rows.order_by("refund_id", "nr"):
        found[row.refund_id].append(row)
    return found


def _locked(operator: Operator, number: str) -> tuple[Order, Refund]:
    found = find(operator, number)
    asked = Order.objects.get(subscriber_id=found.subscriber_id, id=found.order_id)
    order = keeping.locked(operator, asked.number)
    return order, Refund.objects.select_for_update(no_key=True).get(
        subscriber_id=found.subscriber_id, id=found.id
    )


def _open_ones(order: Order) -> bool:
    return Refund.objects.filter(
        subscriber_id=order.subscriber_id,
        order_id=order.id,
        state__in=[State.PENDING, State.FAILED],
    ).exists()


def _put(refund: Refund, state: str, *, at: dt.datetime, reason: str, **facts: Any) -> None:
    """Put a locked refund into another state, and note the step."""
    refund.state = state
    refund.steps += 1
    if state != State.PENDING:
        facts["look_at"] = None
    for name, value in facts.items():
        setattr(refund, name, value)
    _keep(refund, "state", "steps", "to", "way", "reference", *facts)
    _step(refund, at=at, reason=reason)


def _keep(refund: Refund, *names: str) -> None:
    Refund.objects.filter(subscriber_id=refund.subscriber_id, id=refund.id).update(
        **{name: getattr(refund, name) for name in names}
    )


def _step(refund: Refund, *, at: dt.datetime, reason: str) -> None:
    RefundStep.objects.create(
        subscriber_id=refund.subscriber_id,
        refund_id=refund.id,
        nr=refund.steps,
        state=refund.state,
        at=at,
        reason=reason[:200],
        reference=refund.reference,
    )


def _tell(order: Order, refund: Refund, kind: str, *, at: dt.datetime) -> None:
    outbox.tell(
        [
            outbox.Happening(
                order.subscriber_id,
                kind,
                f"{kind}:{refund.number}:{refund.steps}",
                at,
                {
                    "refund": refund.number,
                    "order": order.number,
                    "amount": f"{refund.amount:.2f}",
                    "currency": refund.currency,
                    "to": refund.to,
                },
            )
        ]
    )


# Money -------------------------------------------------------------------------------------------


def _on_its_way(refund: Refund, sign: int) -> Side:
    return Side(ledger.REFUND, sign * refund.amount, refund.subscriber_id)


def _negated(side: Side) -> Side:
    return side._replace(amount=-side.amount)


def _move(order: Order, refund: Refund, kind: str, amount: Decimal, key: str) -> wallets.Move:
    return wallets.Move(refund.subscriber_id, refund.currency, kind, amount, key, order.number)


def _post(
    operator: Operator, refund: Refund, what: str, sides: tuple[Side, ...], *, at: dt.datetime
) -> None:
    draft = ledger.Draft(
        f"refund:{refund.id}{what}", "refund", at, refund.currency, sides, refund.number
    )
    posted = ledger.post(operator.pk, draft)
    assert posted


def _intent(refund: Refund) -> PaymentIntent:
    """The attempt by which the order was paid."""
    return PaymentIntent.objects.get(
        subscriber_id=refund.subscriber_id, order_id=refund.order_id, state=_RECEIVED
    )


def _provider(refund: Refund, *, at: dt.datetime) -> Provider:
    return paying.provider_of(_intent(refund), at=at)


def _attempt(refund: Refund, *, at: dt.datetime) -> Attempt:
    order = Order.objects.get(subscriber_id=refund.subscriber_id, id=refund.order_id)
    return paying.asked_for(order, _intent(refund), at=at)


def _source(refund: Refund, *, at: dt.datetime) -> Side:
    """The entry by which the refund leaves: of where the payment came in."""
    came = _provider(refund, at=at).source(_attempt(refund, at=at))
    return came._replace(amount=-refund.amount)
