"""Complaints: what a subscriber is not content with, and the answers. The only writer of Complaint.

One about a line of an invoice that is still to be paid stops dunning of that invoice until it is
answered: no reminder, no late fee, no suspension for it meanwhile; what else is owed goes its way.
A line is disputed once, so that nobody puts off what is owed for ever.

Locks in one order: the subscriber, its complaint.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence

from django.db import connection, transaction

from billing import dunning, invoicing
from billing.models import (
    Complaint,
    ComplaintMessage,
    ComplaintPolicy,
    Invoice,
    InvoiceLine,
)
from billing.models.complaints import LONGEST
from billing.orders.keeping import NUMBER
from subscriptions import outbox
from subscriptions.errors import Conflict, Invalid, NotFound
from subscriptions.models import Operator, Subscriber
from subscriptions.outbox import Happening

Kind, State, By = Complaint.Kind, Complaint.State, ComplaintMessage.By
REPLY_DAYS = 15
OPENED, ANSWERED = "complaint.opened", "complaint.answered"
# More than anybody means: of one subscriber, open at a time; of one complaint, from either side.
_MOST_OPEN = 20
_MOST_SAID = 100


class LineDisputed(Conflict):
    cause = "line_disputed"


class Closed(Conflict):
    cause = "complaint_closed"


class TooMany(Conflict):
    cause = "too_many"


# Policy ------------------------------------------------------------------------------------------


def reply_days(operator: Operator) -> int:
    """Within how many days an operator says it answers."""
    policy = ComplaintPolicy.objects.filter(operator=operator).first()
    return policy.reply_days if policy else REPLY_DAYS


def set_reply_days(operator: Operator, days: int) -> int:
    """For complaints made from now on. Raises Invalid."""
    if not 1 <= days <= 60:
        raise Invalid("an answer is promised within 1 to 60 days")
    ComplaintPolicy.objects.update_or_create(operator=operator, defaults={"reply_days": days})
    return days


def fresh_key() -> str:
    """For who sends nothing twice by other means."""
    return uuid.uuid4().hex


# The subscriber's side ---------------------------------------------------------------------------


@transaction.atomic
def lodge(
    operator: Operator,
    subscriber_id: int,
    *,
    kind: str,
    text: str,
    key: str,
    channel: str,
    at: dt.datetime,
    invoice: str = "",
    line: int | None = None,
) -> Complaint:
    """Take a complaint; `key` makes it one, however often it is sent.

    A `charge` names a line of one of the subscriber's invoices. Raises Invalid, NotFound,
    LineDisputed, TooMany.
    """
    _readable(text)
    if kind not in Kind.values or (kind == Kind.CHARGE) != bool(invoice and line is not None):
        raise Invalid("a complaint is of a kind; one about a charge names an invoice and a line")
    Subscriber.objects.select_for_update(no_key=True).get(pk=subscriber_id)
    own = Complaint.objects.filter(subscriber_id=subscriber_id)
    known = own.filter(key=key).first()
    if known is not None:
        return known
    bill = _billed(operator, subscriber_id, invoice, line or 0) if invoice else None
    if bill is not None and own.filter(invoice_id=bill.id, line=line).exists():
        raise LineDisputed("this line was disputed before; write to that complaint")
    if own.filter(state=State.OPEN).count() >= _MOST_OPEN:
        raise TooMany(f"{_MOST_OPEN} complaints are open; wait for their answers")
    with connection.cursor() as cursor:
        cursor.execute("SELECT nextval('billing_complaint_id')")
        [(complaint_id,)] = cursor.fetchall()
    number = f"{invoicing.number_prefix(operator)}-C-{complaint_id:010}"
    complaint = Complaint.objects.create(
        subscriber_id=subscriber_id,
        id=complaint_id,
        operator=operator,
        number=number,
        key=key,
        kind=kind,
        invoice_id=bill.id if bill else None,
        line=line,
        stops_dunning=bill is not None and _stop(operator, bill, number, at=at),
        opened_at=at,
        due_at=_due(operator, at),
        changed_at=at,
    )
    _say(complaint, By.SUBSCRIBER, channel, text, at=at)
    _tell(complaint, OPENED, at=at)
    return complaint


@transaction.atomic
def add(operator: Operator, number: str, text: str, *, channel: str, at: dt.datetime) -> Complaint:
    """Let the subscriber say more: an answered complaint is open again. Raises NotFound, Closed."""
    _readable(text)
    complaint = _locked(operator, number)
    _must_go_on(complaint)
    if complaint.state == State.ANSWERED:
        complaint.due_at = _due(operator, at)
    _put(complaint, State.OPEN, at=at)
    _said_more(complaint, By.SUBSCRIBER, channel, text, at=at)
    return complaint


# Staff -------------------------------------------------------------------------------------------


@transaction.atomic
def answer(operator: Operator, number: str, text: str, *, by: str, at: dt.datetime) -> Complaint:
    """Answer; the subscriber is told, and dunning goes on. Raises NotFound, Closed, Invalid."""
    _readable(text)
    complaint = _locked(operator, number)
    _must_go_on(complaint)
    _go_on(operator, complaint, at=at)
    _put(complaint, State.ANSWERED, at=at)
    _said_more(complaint, By.STAFF, by, text, at=at)
    _tell(complaint, ANSWERED, at=at)
    return complaint


@transaction.atomic
def close(
    operator: Operator, number: str, *, by: str, at: dt.datetime, text: str = ""
) -> Complaint:
    """Close for good, with a last word where there is one. Again changes nothing.

    Raises NotFound, and Invalid for one that nobody has answered and `text` does not.
    """
    complaint = _locked(operator, number)
    if complaint.state == State.CLOSED:
        return complaint
    if text:
        _readable(text)
    elif complaint.state == State.OPEN:
        raise Invalid("nobody has answered yet: say something, then close")
    _go_on(operator, complaint, at=at)
    complaint.closed_at = at
    _put(complaint, State.CLOSED, at=at)
    if text:
        _said_more(complaint, By.STAFF, by, text, at=at)
        _tell(complaint, ANSWERED, at=at)
    return complaint


# Dunning -----------------------------------------------------------------------------------------


def _stop(operator: Operator, bill: Invoice, number: str, *, at: dt.datetime) -> bool:
    """Stop dunning of an invoice on which something is to be paid; whether it is."""
    if bill.state != Invoice.State.OPEN or invoicing.amount_due(bill) <= 0:
        return False
    reason = f"complaint {number}"
    dunning.stop(
        operator, reason=reason, at=at, subscriber_id=bill.subscriber_id, invoice_id=bill.id
    )
    return True


def _go_on(operator: Operator, complaint: Complaint, *, at: dt.datetime) -> None:
    """Resume what a complaint has stopped, where no other about the same invoice does."""
    if not complaint.stops_dunning:
        return
    complaint.stops_dunning = False
    others = Complaint.objects.filter(
        subscriber_id=complaint.subscriber_id, invoice_id=complaint.invoice_id, stops_dunning=True
    )
    if not others.exclude(id=complaint.id).exists():
        dunning.resume(
            operator,
            reason=f"{complaint.number} answered",
            at=at,
            subscriber_id=complaint.subscriber_id,
            invoice_id=complaint.invoice_id,
        )


# Rows --------------------------------------------------------------------------------------------


def find(operator: Operator, number: str) -> Complaint:
    """A complaint of an operator by its number. Raises NotFound, also for another operator's."""
    found = None
    if NUMBER.fullmatch(number):
        found = Complaint.objects.filter(operator=operator, number=number).first()
    if found is None:
        raise NotFound("there is no such complaint")
    return found


def messages_of(complaints: Sequence[Complaint]) -> dict[int, list[ComplaintMessage]]:
    """What was said of each, by its id."""
    said: dict[int, list[ComplaintMessage]] = {one.id: [] for one in complaints}
    rows = ComplaintMessage.objects.filter(
        subscriber_id__in={one.subscriber_id for one in complaints}, complaint_id__in=said
    )
    for row in rows.order_by("complaint_id", "nr"):
        said[row.complaint_id].append(row)
    return said


def _locked(operator: Operator, number: str) -> Complaint:
    found = find(operator, number)
    Subscriber.objects.select_for_update(no_key=True).get(pk=found.subscriber_id)
    return Complaint.objects.select_for_update(no_key=True).get(
        subscriber_id=found.subscriber_id, id=found.id
    )


def _must_go_on(complaint: Complaint) -> None:
    if complaint.state == State.CLOSED:
        raise Closed("the complaint is closed; make another")
    if complaint.messages >= _MOST_SAID:
        raise TooMany("all is said of this complaint; close it and make another")


def _billed(operator: Operator, subscriber_id: int, number: str, line: int) -> Invoice:
    bill = invoicing.find(operator, number)
    rows = InvoiceLine.objects.filter(subscriber_id=subscriber_id, invoice_id=bill.id, nr=line or 0)
    if bill.subscriber_id != subscriber_id or not rows.exists():
        raise NotFound("the subscriber has no such line on an invoice")
    return bill


def _readable(text: str) -> None:
    if not text.strip() or len(text) > LONGEST or "\0" in text:
        raise Invalid(f"a text of 1 to {LONGEST} characters")


def _due(operator: Operator, at: dt.datetime) -> dt.datetime:
    return at + dt.timedelta(days=reply_days(operator))


def _put(complaint: Complaint, state: str, *, at: dt.datetime) -> None:
    complaint.state, complaint.changed_at = state, at
    _keep(complaint, "state", "changed_at", "due_at", "closed_at", "stops_dunning")


def _said_more(complaint: Complaint, by: str, author: str, text: str, *, at: dt.datetime) -> None:
    complaint.messages += 1
    _keep(complaint, "messages")
    _say(complaint, by, author, text, at=at)


def _say(complaint: Complaint, by: str, author: str, text: str, *, at: dt.datetime) -> None:
    ComplaintMessage.objects.create(
        subscriber_id=complaint.subscriber_id,
        complaint_id=complaint.id,
        nr=complaint.messages,
        by=by,
        author=author[:100],
        text=text,
        at=at,
    )


def _keep(complaint: Complaint, *names: str) -> None:
    Complaint.objects.filter(subscriber_id=complaint.subscriber_id, id=complaint.id).update(
        **{name: getattr(complaint, name) for name in names}
    )


def _tell(complaint: Complaint, kind: str, *, at: dt.datetime) -> None:
    # What was written stays here: others are told that something was.
    said = {"complaint": complaint.number, "kind": complaint.kind, "state": complaint.state}
    key = f"{kind}:{complaint.id}:{complaint.messages}"
    outbox.tell([Happening(complaint.subscriber_id, kind, key, at, said)])
