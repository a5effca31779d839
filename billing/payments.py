"""Money that comes in, matched to an invoice exactly once: the only writer of Payment.

The smallest thing that is true: no provider is asked here. Whoever knows that money has come
(staff with a bank statement, later a verified webhook) tells it under a key of its own.
"""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

from django.db import connection, transaction

from billing import dunning, invoicing, ledger, rating, telling
from billing.ledger import Side
from billing.models import Invoice, Payment
from subscriptions.errors import Conflict, Invalid, NotFound
from subscriptions.models import Operator

_WAY = re.compile(r"[a-z0-9_]{1,32}")


class NothingDue(Conflict):
    cause = "nothing_due"


class KeyUsed(Conflict):
    cause = "idempotency_conflict"


class TooMuch(Invalid):
    cause = "overpaid"


class InAdvance(NamedTuple):
    """What a paid order pays of an invoice; `key` names the payment."""

    subscriber_id: int
    invoice_id: int
    currency: str
    amount: Decimal
    key: str


def record_in_advance(operator: Operator, paid: Sequence[InAdvance], *, at: dt.datetime) -> None:
    """Count what was paid in advance as paid of invoices that nobody else has in hand.

    Joins the caller's transaction, which sees to it that it is done once.
    """
    assert connection.in_atomic_block
    if not paid:
        return
    drafts = [
        ledger.Draft(
            f"payment:{one.key}",
            "payment",
            at,
            one.currency,
            (
                Side(ledger.PREPAID, one.amount, one.subscriber_id),
                Side(ledger.RECEIVABLE, -one.amount, one.subscriber_id),
            ),
            one.key,
        )
        for one in paid
    ]
    posted = ledger.post_many(operator.pk, drafts)
    assert posted == len(paid)
    earlier = Counter(
        Payment.objects.filter(
            subscriber_id__among={one.subscriber_id for one in paid},
            invoice_id__among={one.invoice_id for one in paid},
        ).values_list("subscriber_id", "invoice_id")
    )
    rows = []
    for one in paid:
        earlier[one.subscriber_id, one.invoice_id] += 1
        rows.append(
            Payment(
                subscriber_id=one.subscriber_id,
                invoice_id=one.invoice_id,
                nr=earlier[one.subscriber_id, one.invoice_id],
                operator=operator,
                key=one.key,
                way=ledger.PREPAID,
                at=at,
                currency=one.currency,
                amount=one.amount,
            )
        )
    Payment.objects.bulk_create(rows)
    amounts: dict[tuple[int, int], Decimal] = defaultdict(Decimal)
    for one in paid:
        amounts[one.subscriber_id, one.invoice_id] += one.amount
    invoicing.settle_many(amounts)
    telling.paid(operator, amounts, at=at)


@transaction.atomic
def record(
    operator: Operator,
    number: str,
    *,
    amount: Decimal,
    key: str,
    way: str,
    at: dt.datetime,
    source: Side | None = None,
) -> Payment:
    """Count an amount as paid of an invoice, and post it: cash against what was owed. A line that
    was suspended for what it owed is restored in the same transaction, where nothing else holds it.

    `source` is the entry of the money that pays, where it is not cash of its way. The same key
    again answers the payment that it named. More than is due is refused: there is nowhere to keep
    it yet, and somebody must look whose it is. What comes in for an invoice that was written off
    is a payment too: so far it is no expense any more, and when all of it has come the invoice is
    paid. Raises NotFound, NothingDue (paid, void, a credit note), TooMuch, KeyUsed (for another
    payment), Invalid.
    """
    if not 0 < len(key) <= 128:
        raise Invalid("a payment has a key of 1 to 128 characters")
    if not _WAY.fullmatch(way) or (way in (ledger.WALLET, ledger.PREPAID) and source is None):
        raise Invalid("a way to pay is up to 32 lower-case letters, digits and underscores")
    if not amount.is_finite() or amount <= 0 or amount != rating.to_fen(amount):
        raise Invalid("a payment is more than nothing, with two decimals at most")
    invoice = invoicing.locked(operator, number)
    known = Payment.objects.filter(operator=operator, key=key).first()
    if known is not None:
        if not known.of(invoice) or (known.amount, known.way) != (amount, way):
            raise KeyUsed("this key names another payment")
        return known
    due = invoicing.amount_due(invoice)
    given_up = invoice.state == Invoice.State.UNCOLLECTIBLE
    if not (given_up or invoice.state == Invoice.State.OPEN) or due <= 0:
        raise NothingDue("nothing is due on this invoice")
    if amount > due:
        raise TooMuch(f"of this invoice {due} {invoice.currency} is due")
    # That it was late is kept, for the late fee, also where nobody had looked until now.
    dunning.settle_up(operator, invoice.subscriber_id, at=at, only_note=True)
    sides = (
        source or Side(f"cash:{way}", amount),
        Side(ledger.RECEIVABLE, -amount, invoice.subscriber_id),
    )
    draft = ledger.Draft(f"payment:{key}", "payment", at, invoice.currency, sides, number)
    if not ledger.post(operator.pk, draft):
        # Told at the same moment for another invoice.
        raise KeyUsed("this key names another payment")
    earlier = Payment.objects.filter(
        subscriber_id=invoice.subscriber_id, invoice_id=invoice.id
    ).count()
    if given_up:
        _recover(operator, invoice, earlier + 1, amount, at=at)
    payment = Payment.objects.create(
        subscriber_id=invoice.subscriber_id,
        invoice_id=invoice.id,
        nr=earlier + 1,
        operator=operator,
        key=key,
        way=way,
        at=at,
        currency=invoice.currency,
        amount=amount,
    )
    invoicing.settle(invoice, amount)
    telling.paid(operator, [(invoice.subscriber_id, invoice.id)], at=at)
    dunning.settle_up(operator, invoice.subscriber_id, at=at)
    return payment


def take_back(
    operator: Operator, key: str, *, subscriber_id: int, way: str, at: dt.datetime
) -> Payment:
    """Undo a payment whose money has not come after all: it is owed again, by a payment below zero
    against the account that is its `way`. Again changes nothing.

    Joins the caller's transaction, which holds the subscriber. Raises NotFound.
    """
    assert connection.in_atomic_block
    paid = Payment.objects.filter(operator=operator, key=key, subscriber_id=subscriber_id).first()
    if paid is None:
        raise NotFound("there is no such payment")
    back = Payment.objects.filter(operator=operator, key=f"back:{key}").first()
    if back is not None:
        return back
    number = Invoice.objects.values_list("number", flat=True).get(
        subscriber_id=paid.subscriber_id, id=paid.invoice_id
    )
    assert number is not None
    invoice = invoicing.locked(operator, number)
    sides = (
        Side(ledger.RECEIVABLE, paid.amount, paid.subscriber_id),
        Side(way, -paid.amount, paid.subscriber_id),
    )
    draft = ledger.Draft(f"payment:back:{key}", "payment_back", at, paid.currency, sides, number)
    posted = ledger.post(operator.pk, draft)
    assert posted
    back = Payment.objects.create(
        subscriber_id=paid.subscriber_id,
        invoice_id=paid.invoice_id,
        nr=Payment.objects.filter(
            subscriber_id=paid.subscriber_id, invoice_id=paid.invoice_id
        ).count()
        + 1,
        operator=operator,
        key=f"back:{key}",
        way=way,
        at=at,
        currency=paid.currency,
        amount=-paid.amount,
    )
    invoicing.settle(invoice, -paid.amount)
    dunning.settle_up(operator, paid.subscriber_id, at=at)
    return back


def _recover(
    operator: Operator, invoice: Invoice, nr: int, amount: Decimal, *, at: dt.datetime
) -> None:
    """Take back so much of a write-off: it is owed again, for the payment to settle."""
    sides = (
        Side(ledger.RECEIVABLE, amount, invoice.subscriber_id),
        Side(ledger.WRITE_OFF, -amount, invoice.subscriber_id),
    )
    draft = ledger.Draft(
        f"recovery:{invoice.id}:{nr}", "recovery", at, invoice.currency, sides, str(invoice)
    )
    posted = ledger.post(operator.pk, draft)
    assert posted
