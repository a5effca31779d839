"""Collecting what is due: what is tried when, and what follows from it.

A try goes through the ways of the policy, the first first, until one works. What needs nobody else
is paid in the transaction that looks; a saved method is charged between two: the attempt is written
down and committed, its provider called, its answer written down. A crash at any point leaves an
attempt that `paying.ask_again` finishes with the same key, and a case that looks at it before it
tries anything else. While an attempt is under way nothing else is tried.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from django.db import transaction

from billing import consents, dunning, invoicing
from billing.collecting import cases, methods, policies, renewing, schedule
from billing.collecting.cases import State, Step
from billing.collecting.schedule import PHONE_BILL, SAVED_METHOD, Terms
from billing.models import (
    ChargeLine,
    CollectionCase,
    Consent,
    Invoice,
    Order,
    PaymentIntent,
)
from billing.orders import buying, keeping, paying
from billing.ways import known
from billing.ways.provider import Attempt, Provider, Unavailable
from subscriptions import outbox
from subscriptions.errors import DomainError
from subscriptions.models import Operator

Kind = CollectionCase.Kind
Tried = PaymentIntent.State
_CHUNK = 300
# How soon a case is looked at whose attempt has no answer, and how long somebody is left alone who
# is paying by hand.
_SOON = dt.timedelta(minutes=5)
_BY_HAND = dt.timedelta(minutes=15)


def run(operator: Operator, *, at: dt.datetime) -> None:
    """Try all that is due at `at`.

    May be repeated, broken off anywhere, and done by several at once. Who cannot be looked at holds
    up nobody: the first error is raised when all others are done.
    """
    failed: dict[cases.Key, Exception] = {}
    while (keys := _next(operator, failed, at=at)) is not None:
        for key in keys:
            try:
                collect(operator, key, at=at)
            except Exception as error:
                failed[key] = error
    for one in failed.values():
        raise one


@transaction.atomic
def _next(
    operator: Operator, failed: Collection[cases.Key], *, at: dt.datetime
) -> list[cases.Key] | None:
    """Pay the next chunk of renewals from wallets; answers which cases have to be looked at one by
    one, None where none is due."""
    claimed = cases.claim(operator, but=failed, limit=_CHUNK, at=at)
    if not claimed:
        return None
    left = claimed
    try:
        with transaction.atomic():
            # What it changes of these is not kept where it fails.
            left = renewing.from_wallets(operator, claimed, at=at)
    except Exception:
        left = claimed
    return [cases.key_of(case) for case in left]


@dataclass(frozen=True, slots=True)
class _Call:
    """An attempt that is written down, whose provider is to be called."""

    provider: Provider
    number: str
    nr: int
    attempt: Attempt


def collect(operator: Operator, key: cases.Key, *, at: dt.datetime) -> None:
    """Go on with one case as far as it goes now."""
    while (call := _look(operator, key, at=at)) is not None:
        try:
            answer = call.provider.create(call.attempt)
        except Unavailable:
            return
        paying.take(operator, call.number, call.nr, call.provider, answer, at=at)
        _again(key, at=at)


@transaction.atomic
def _again(key: cases.Key, *, at: dt.datetime) -> None:
    """The attempt in hand has its answer: there is no need to wait."""
    keeping.lock_subscriber(key[0])
    case = _get(key)
    if case.state == State.RUNNING and case.intent_nr is not None:
        case.next_at = at
        cases.keep([case], [])


def _get(key: cases.Key) -> CollectionCase:
    subscriber_id, kind, about = key
    return CollectionCase.objects.get(subscriber_id=subscriber_id, kind=kind, about=about)


# Looking -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Look:
    """One look at a case, under its subscriber's lock: what is done is gathered, then kept."""

    operator: Operator
    case: CollectionCase
    terms: Terms
    zone: ZoneInfo
    at: dt.datetime
    steps: list[cases.Done]
    reasons: dict[str, str]

    def over(self, state: str, *, way: str = "", reason: str = "") -> None:
        self.steps.append(cases.end(self.case, state, at=self.at, way=way, reason=reason))

    def fail(self, way: str, reason: str, *, intent_nr: int | None = None) -> None:
        self.steps.append(
            cases.step(
                self.case, Step.FAILED, at=self.at, way=way, intent_nr=intent_nr, reason=reason
            )
        )
        self.reasons[way] = reason


@transaction.atomic
def _look(operator: Operator, key: cases.Key, *, at: dt.datetime) -> _Call | None:
    """Go on with a case to the next call, if there is one to be made."""
    keeping.lock_subscriber(key[0])
    case = _get(key)
    if case.next_at is None or case.next_at > at:
        return None
    terms = policies.terms_by(operator.pk)(case.begun_at)
    look = _Look(operator, case, terms, ZoneInfo(operator.time_zone), at, [], {})
    order = _order_of(case)
    invoice = _invoice_of(case)
    call = None
    if not _is_over(look, order, invoice):
        if case.noticed_at is None:
            assert order is not None
            _notice(look, order)
        elif not _is_under_way(look, order):
            call = _try(look, order, invoice)
    cases.keep([case], look.steps)
    return call


def _order_of(case: CollectionCase) -> Order | None:
    """The order by which a case is paid now, locked."""
    if case.order_id is None:
        return None
    order = Order.objects.get(subscriber_id=case.subscriber_id, id=case.order_id)
    return keeping.locked(order.operator, order.number)


def _invoice_of(case: CollectionCase) -> Invoice | None:
    """The invoice that a case is about, locked."""
    if case.kind != Kind.INVOICE:
        return None
    return Invoice.objects.select_for_update(no_key=True).get(
        subscriber_id=case.subscriber_id, id=case.about
    )


def _is_over(look: _Look, order: Order | None, invoice: Invoice | None) -> bool:
    """Whether there is nothing to be collected any more; then it says so."""
    case = look.case
    if invoice is not None:
        subscription_id = invoice.subscription_id
        over = _is_settled(look, order, invoice)
        if not over and order is not None and not _still_asks(look, order, invoice):
            case.order_id = case.intent_nr = None
    else:
        assert order is not None
        subscription_id = order.subscription_id
        over = _is_closed(look, order)
    if over:
        return True
    agreed = consents.agreed([case.subscriber_id])[case.subscriber_id]
    if case.intent_nr is None and not agreed.to(Consent.Kind.AUTO_RENEW, subscription_id):
        look.over(State.STOPPED, reason="the subscriber does not agree to it any more")
        return True
    return False


def _is_closed(look: _Look, order: Order) -> bool:
    """Whether a period's order can be paid no more."""
    if order.state in Order.PAID:
        look.over(State.COLLECTED, way=order.way)
    elif order.state not in Order.OPEN:
        look.over(State.STOPPED, reason=f"the order is {order.state}")
    elif order.expires_at <= look.at:
        look.over(State.STOPPED, reason="the order has expired")
    else:
        return False
    return True


def _is_settled(look: _Look, order: Order | None, invoice: Invoice) -> bool:
    """Whether nothing is to be collected of an invoice; what we had asked for it is asked no more,
    and a provider hears of that."""
    if invoice.state == Invoice.State.PAID or invoicing.amount_due(invoice) <= 0:
        way = order.way if order is not None and order.state in Order.PAID else ""
        look.over(State.COLLECTED, way=way)
    elif invoice.state != Invoice.State.OPEN:
        look.over(State.STOPPED, reason=f"the invoice is {invoice.state}")
    elif _is_with_the_carrier(invoice):
        look.over(State.STOPPED, reason="a charge file has handed it to the carrier")
    else:
        return False
    if order is not None and order.state in Order.OPEN:
        keeping.close([order], Order.State.CANCELLED, at=look.at, reason="the invoice is settled")
    return True


def _still_asks(look: _Look, order: Order, invoice: Invoice) -> bool:
    """Whether an invoice is paid by this order yet. One that is being paid is waited for, also
    where by now another amount is due."""
    if order.state not in Order.OPEN or order.expires_at <= look.at:
        return False
    return look.case.intent_nr is not None or order.amount == invoicing.amount_due(invoice)


def _is_with_the_carrier(invoice: Invoice) -> bool:
    return ChargeLine.objects.filter(
        subscriber_id=invoice.subscriber_id, invoice_id=invoice.id, kind=ChargeLine.Kind.CHARGE
    ).exists()


def _notice(look: _Look, order: Order) -> None:
    """Tell a subscriber that a renewal is due; only then anything is tried."""
    case = look.case
    case.noticed_at = look.at
    case.next_at = max(schedule.tries(look.terms, case.first_at, look.zone)[0], look.at)
    look.steps.append(cases.step(case, Step.NOTICED, at=look.at))
    outbox.tell([cases.renewal_due(order, collected=True, at=look.at)])


def _is_under_way(look: _Look, order: Order | None) -> bool:
    """Whether somebody is paying the order now, by us or by hand: then it is waited for. An attempt
    of ours that has failed goes on with the next way."""
    case = look.case
    if order is None or case.order_id is None:
        return False
    intents = list(
        PaymentIntent.objects.filter(subscriber_id=order.subscriber_id, order_id=order.id)
    )
    live = [one for one in intents if one.state in (Tried.INTENDED, Tried.WAITING)]
    if any(one.state == Tried.INTENDED for one in live):
        case.next_at = look.at + _SOON
        return True
    if case.intent_nr is not None:
        ours = next(one for one in intents if one.nr == case.intent_nr)
        if ours.state == Tried.WAITING:
            # What becomes of it is heard; at the next try it is looked at again.
            later = schedule.next_try(look.terms, case.first_at, look.zone, after=look.at)
            case.next_at = later or max(
                schedule.grace_end(look.terms, case.due_at, look.zone), look.at + schedule.DAY
            )
            return True
        look.fail(ours.way, ours.reason or "the attempt has failed", intent_nr=ours.nr)
        case.intent_nr = None
        _go_on(look, SAVED_METHOD)
        return False
    if any(one.created_at > look.at - _BY_HAND for one in live):
        case.next_at = look.at + _BY_HAND
        return True
    return False


# Trying ------------------------------------------------------------------------------------------


def _go_on(look: _Look, way: str) -> None:
    """Let the way after this one be the next."""
    ways = look.terms.ways
    place = ways.index(way) + 1
    look.case.next_way = ways[place] if place < len(ways) else ""


def _try(look: _Look, order: Order | None, invoice: Invoice | None) -> _Call | None:
    """Try the ways that are left of this time, up to one that works or has to be called."""
    case, at = look.case, look.at
    tries = schedule.tries(look.terms, case.first_at, look.zone)
    if case.next_way == "" and not look.steps:
        # The grace is over.
        _give_up(look, order, invoice)
        return None
    while case.next_way:
        way = case.next_way
        if order is None:
            assert invoice is not None
            order = _order_invoice(look, invoice)
        if not _agrees(look, way, order, invoice):
            _go_on(look, way)
            continue
        if way == PHONE_BILL and invoice is not None:
            keeping.close([order], Order.State.CANCELLED, at=at, reason="left to the phone bill")
            look.over(State.STOPPED, way=way, reason="left to the next charge file")
            return None
        if way == SAVED_METHOD:
            saved = methods.default_of(look.operator, case.subscriber_id)
            asked = None if saved is None else known.choose(look.operator, saved.way, at=at)
            if saved is None or asked is None:
                look.fail(way, "there is no saved method")
                _go_on(look, way)
                continue
            return _begin(look, order, saved, asked)
        if _pay_here(look, order, way):
            look.over(State.COLLECTED, way=way)
            return None
        _go_on(look, way)
    later = next((moment for moment in tries if moment > at), None)
    if later is not None:
        case.next_at, case.next_way = later, look.terms.ways[0]
        _tell(look, order, invoice, final=False)
    elif (grace := schedule.grace_end(look.terms, case.due_at, look.zone)) > at:
        case.next_at = grace
        _tell(look, order, invoice, final=False)
    else:
        _give_up(look, order, invoice)
    return None


def _agrees(look: _Look, way: str, order: Order, invoice: Invoice | None) -> bool:
    kinds = {SAVED_METHOD: Consent.Kind.SAVED_METHOD, PHONE_BILL: Consent.Kind.PHONE_BILL}
    if way not in kinds:
        return True
    about = order.subscription_id if invoice is None else invoice.subscription_id
    subscriber_id = look.case.subscriber_id
    return consents.agreed([subscriber_id])[subscriber_id].to(kinds[way], about)


def _order_invoice(look: _Look, invoice: Invoice) -> Order:
    """An order over what is due on an invoice now, which can be paid until all is over."""
    case = look.case
    assert invoice.number is not None
    last = schedule.tries(look.terms, case.first_at, look.zone)[-1]
    order = buying.order_invoice(
        look.operator,
        case.subscriber_id,
        invoice.number,
        at=look.at,
        key=f"collect:{invoice.number}:{case.steps}",
        expires_at=max(last, case.due_at, look.at) + keeping.VALID,
    )
    case.order_id = order.id
    return order


def _pay_here(look: _Look, order: Order, way: str) -> bool:
    """Pay an order by what needs nobody else; why it does not work is kept."""
    try:
        with transaction.atomic():
            paying.pay_locked(look.operator, order, way, at=look.at)
    except DomainError as refused:
        order.refresh_from_db()
        intent_nr = None
        if order.state in Order.OPEN:
            intent = keeping.attempt(order, way, at=look.at)
            keeping.answered(intent, Tried.FAILED, at=look.at, reason=refused.detail)
            intent_nr = intent.nr
        look.steps.append(cases.step(look.case, Step.TRIED, at=look.at, way=way))
        look.fail(way, refused.cause, intent_nr=intent_nr)
        return False
    look.steps.append(cases.step(look.case, Step.TRIED, at=look.at, way=way))
    return True


def _begin(look: _Look, order: Order, saved: methods.Saved, asked: known.Asked) -> _Call:
    """Write down that a saved method is about to be charged."""
    intent = keeping.attempt(order, saved.way, at=look.at, account=asked.account, method=saved.name)
    look.case.intent_nr = intent.nr
    look.case.next_at = look.at + _SOON
    look.steps.append(
        cases.step(look.case, Step.TRIED, at=look.at, way=saved.way, intent_nr=intent.nr)
    )
    attempt = paying.asked_for(order, intent, at=look.at)
    return _Call(asked.provider, order.number, intent.nr, attempt)


# What follows ------------------------------------------------------------------------------------


def _tell(look: _Look, order: Order | None, invoice: Invoice | None, *, final: bool) -> None:
    about: dict[str, str] = {}
    if order is not None:
        about = {"order": order.number, "amount": str(order.amount), "currency": order.currency}
    if invoice is not None:
        about |= {
            "invoice": invoice.number or "",
            "amount": str(invoicing.amount_due(invoice)),
            "currency": invoice.currency,
        }
    outbox.tell([cases.failed(look.case, about, look.reasons, final=final, at=look.at)])


def _give_up(look: _Look, order: Order | None, invoice: Invoice | None) -> None:
    """Nothing has worked: a period stays unpaid, an invoice is dunning's from here on."""
    look.over(State.GAVE_UP, reason="; ".join(f"{k}: {v}" for k, v in look.reasons.items()))
    _tell(look, order, invoice, final=True)
    if invoice is not None:
        dunning.settle_up(look.operator, invoice.subscriber_id, at=look.at)
