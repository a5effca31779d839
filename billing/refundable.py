"""What of an order can go back, and what goes with it: the policy, before anything happens.

Full where nothing was used within 7 days, else pro rata of what is unused; a gift cost nothing. Of
a top-up what is still in the wallet; of a paid invoice what a credit note says that the subscriber
gets. Reads only; under the caller's locks what it says stays true.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import Decimal

from django.db.models import QuerySet

from billing import crediting, invoicing, rating, wallets
from billing.models import ChargeLine, Dispute, Invoice, InvoiceLine, Order, Refund
from billing.orders import keeping
from subscriptions import lifecycle
from subscriptions.errors import Conflict
from subscriptions.models import Bucket, Ending

Rule, Fund = Refund.Rule, Refund.Fund
EARLY = dt.timedelta(days=lifecycle.REFUND_DAYS)


class NothingToRefund(Conflict):
    cause = "nothing_to_refund"


class NotPaid(Conflict):
    cause = "not_paid"


class Disputed(Conflict):
    cause = "disputed"


@dataclass(frozen=True, slots=True)
class Offer:
    """At most `amount` can go back, and `units` (thousandths) with all of it."""

    amount: Decimal
    rule: str
    fund: str
    units: int = 0
    bucket_id: int | None = None
    invoice_id: int | None = None  # that has named what was bought
    note_id: int | None = None  # the credit note that is paid out

    def units_for(self, amount: Decimal) -> int:
        """The units that go back with a part of it, a part of one as a whole one."""
        share = self.units * amount / self.amount
        return min(self.units, int(share.to_integral_value("ROUND_CEILING")))


def offer(order: Order, *, at: dt.datetime, locked: bool = False) -> Offer:
    """What of an order can go back at `at`; `locked`: its row is, and the bucket shall be.

    Raises NotPaid, Disputed, NothingToRefund.
    """
    if order.state not in Order.PAID:
        raise NotPaid(f"the order is {order.state}")
    disputes = Dispute.objects.filter(subscriber_id=order.subscriber_id, order_id=order.id)
    if disputes.filter(state__in=Dispute.TAKEN).exists():
        raise Disputed("the payment of this order is disputed, or was lost in a dispute")
    match order.kind:
        case Order.Kind.BOOSTER:
            found = _booster(order, at=at, locked=locked)
        case Order.Kind.PLAN | Order.Kind.PERIOD:
            found = _period(order, at=at, locked=locked)
        case Order.Kind.TOP_UP:
            found = _top_up(order)
        case _:
            found = _invoice(order)
    if found.amount <= 0:
        raise NothingToRefund("nothing of this order is left to be refunded")
    return found


def _booster(order: Order, *, at: dt.datetime, locked: bool) -> Offer:
    assert order.bucket_id is not None
    rows = Bucket.objects.filter(subscriber_id=order.subscriber_id, id=order.bucket_id)
    bucket = (rows.select_for_update(no_key=True) if locked else rows).get()
    assert bucket.granted is not None
    assert order.paid_at is not None
    unused = bucket.granted - bucket.used - bucket.reserved
    if unused <= 0 or bucket.valid_until <= at:
        raise NothingToRefund("the units are used up, reserved, or have expired")
    whole = unused == bucket.granted and at < order.paid_at + EARLY
    rule = Rule.FULL if whole else Rule.UNUSED
    base, most, invoice_id = order.amount, keeping.left_of(order), None
    if order.settled_at is not None:
        named = named_by(order)
        if named is None:
            raise NothingToRefund("the invoice that named it is void or given up")
        line, invoice = named
        base, left = parts_left(line, invoice)
        most, invoice_id = min(left, order.amount - order.refunded), line.invoice_id
    share = rating.prorate(base, unused, bucket.granted)
    return Offer(
        amount=min(share, most),
        rule=rule,
        fund=Fund.PREPAID if invoice_id is None else Fund.CREDIT_NOTE,
        units=unused,
        bucket_id=bucket.id,
        invoice_id=invoice_id,
    )


def _period(order: Order, *, at: dt.datetime, locked: bool) -> Offer:
    key = keeping.period_of(order)
    assert key is not None
    if order.settled_at is not None:
        raise NothingToRefund("the period is billed; write a credit note and refund its invoice")
    if order.kind == Order.Kind.PERIOD and at < key[2]:
        raise NothingToRefund(
            "the period has not begun: cancel the subscription, and what was paid is in the wallet"
        )
    said = lifecycle.given_back_now(key, at=at, locked=locked)
    if said.refund == Ending.Refund.NONE:
        raise NothingToRefund("the plan gives nothing back, the period is over, or all is used")
    left = keeping.left_of(order)
    if said.refund == Ending.Refund.FULL:
        return Offer(left, Rule.FULL, Fund.PREPAID, units=said.unused)
    share = rating.prorate(order.amount, said.unused, said.granted)
    return Offer(min(left, share), Rule.UNUSED, Fund.PREPAID, units=said.unused)


def _top_up(order: Order) -> Offer:
    """What of its money is still there: neither what was given with it, nor what is held."""
    there = wallets.own_of(order.subscriber_id, order.currency)
    return Offer(min(there, order.amount - order.refunded), Rule.BALANCE, Fund.WALLET)


def may_be_asked(order: Order) -> bool:
    """Whether to offer it: who paid an invoice gets back what a credit note says, else nothing."""
    if order.state not in (Order.State.PAID, Order.State.PARTLY_REFUNDED):
        return False
    return order.kind != Order.Kind.INVOICE or _notes(order).exists()


def _notes(order: Order) -> QuerySet[Invoice]:
    """Open credit notes against the invoice that was paid."""
    return Invoice.objects.filter(
        subscriber_id=order.subscriber_id,
        original_id=order.invoice_id,
        state=Invoice.State.OPEN,
    )


def _invoice(order: Order) -> Offer:
    """The first credit note against the invoice that is owed to the subscriber."""
    assert order.invoice_id is not None
    # What a charge file has said, the carrier gives back on the phone bill.
    said = ChargeLine.objects.filter(
        subscriber_id=order.subscriber_id, kind=ChargeLine.Kind.CREDIT
    ).values("invoice_id")
    for note in _notes(order).exclude(id__in=said).order_by("id"):
        owed = -invoicing.amount_due(note)
        if owed > 0:
            return Offer(
                min(owed, order.amount - order.refunded),
                Rule.CREDIT,
                Fund.CREDIT_NOTE,
                invoice_id=order.invoice_id,
                note_id=note.id,
            )
    raise NothingToRefund("of its invoice nothing is owed back: write a credit note first")


# The line that named it ---------------------------------------------------------------------------


def named_by(order: Order) -> tuple[InvoiceLine, Invoice] | None:
    """The line that charged for an order's booster, and its invoice, where that still holds."""
    line = InvoiceLine.objects.filter(
        subscriber_id=order.subscriber_id,
        bucket_id=order.bucket_id,
        kind=InvoiceLine.Kind.BOOSTER,
    ).first()
    if line is None:
        return None
    invoice = Invoice.objects.get(subscriber_id=order.subscriber_id, id=line.invoice_id)
    gone = (Invoice.State.VOID, Invoice.State.UNCOLLECTIBLE)
    return None if invoice.state in gone else (line, invoice)


def parts_left(line: InvoiceLine, invoice: Invoice) -> tuple[Decimal, Decimal]:
    """What a line of an invoice came to, less discounts of it, and what of that no credit note has
    taken back."""
    left = invoicing.left_of(invoice, charged_on(invoice))
    own = sum((one.gross for one in own_parts(left, line)), rating.ZERO)
    return own, most_of(left, line)


def charged_on(invoice: Invoice) -> dict[int, InvoiceLine]:
    return {one.nr: one for one in invoicing.lines_of([invoice.id], invoice.subscriber_id)}


def most_of(left: list[crediting.Left], line: InvoiceLine) -> Decimal:
    """What a note may take back of a line and its discounts: no more than is left of its rate and
    of the invoice. `left` is the invoice's."""
    own = own_parts(left, line)
    rate = [one for one in left if one.tax_rate == line.tax_rate]
    return min(crediting.left_of(some) for some in (own, rate, left))


def own_parts(left: list[crediting.Left], line: InvoiceLine) -> list[crediting.Left]:
    """A line, and what is off it."""
    return [one for one in left if line.nr in (one.nr, one.part_of)]
