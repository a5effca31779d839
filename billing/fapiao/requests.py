"""What is asked of the tax platform: the only writer of FapiaoItem and FapiaoRequest."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from django.db import IntegrityError, transaction

from billing import invoicing
from billing.documents import letterheads
from billing.fapiao.lines import Charged, Item, lines, totals
from billing.fapiao.providers import Issued, Refused
from billing.models import FapiaoItem, FapiaoRequest, Invoice, InvoiceLine
from subscriptions.errors import Conflict, Invalid, NotFound
from subscriptions.models import Operator, Subscriber

State, Kind, Reason = FapiaoRequest.State, FapiaoRequest.Kind, FapiaoRequest.Reason
_TAX_ID = re.compile(r"[0-9A-Z]{15,20}", re.ASCII)
_TAX_CLASS = re.compile(r"[0-9]{19}", re.ASCII)
_NUMBER = re.compile(r"[0-9]{20}", re.ASCII)


def set_item(operator: Operator, tax_rate: Decimal, *, tax_class: str, name: str) -> FapiaoItem:
    """Say under which tax class and name goods of a tax rate are sold."""
    if not name or not _TAX_CLASS.fullmatch(tax_class) or not 0 <= tax_rate < 1:
        raise Invalid("an item has a name, a rate below 1 and a tax class of 19 digits")
    item, _ = FapiaoItem.objects.update_or_create(
        operator=operator, tax_rate=tax_rate, defaults={"tax_class": tax_class, "name": name}
    )
    return item


# Asking ------------------------------------------------------------------------------------------


@transaction.atomic
def request(
    operator: Operator,
    number: str,
    *,
    at: dt.datetime,
    kind: str = Kind.ORDINARY,
    buyer_name: str = "",
    buyer_tax_id: str = "",
) -> FapiaoRequest:
    """Ask for the e-fapiao of an invoice, over what no credit note has taken back of it.

    Nothing leaves here: the row is the intent, a sweep hands it over. The buyer is the subscriber
    unless told otherwise. Raises NotFound, Invalid, Conflict where there is one already.
    """
    invoice = _locked(operator, number)
    if invoice.kind == Invoice.Kind.CREDIT_NOTE or invoice.state == Invoice.State.VOID:
        raise Conflict("an e-fapiao is of an invoice that is owed or paid")
    if invoice.currency != "CNY":
        raise Invalid("an e-fapiao is in yuan")
    subscriber = Subscriber.objects.get(pk=invoice.subscriber_id)
    person = subscriber.kind == Subscriber.Kind.PERSON and not buyer_tax_id
    if kind not in Kind.values:
        raise Invalid("an e-fapiao is special (01) or ordinary (02)")
    if buyer_tax_id and not _TAX_ID.fullmatch(buyer_tax_id):
        raise Invalid("a taxpayer id has 15 to 20 digits or capitals")
    if kind == Kind.SPECIAL and not buyer_tax_id:
        raise Invalid("a special e-fapiao needs the buyer's taxpayer id")
    notes = _notes(invoice)
    before = FapiaoRequest.objects.filter(
        subscriber_id=invoice.subscriber_id, invoice_id=invoice.id, original__isnull=True
    ).count()
    return _write(
        operator,
        invoice,
        _left(invoice, notes),
        request_id=f"{number}-{before + 1}",
        kind=kind,
        counted=[note.id for note in notes],
        buyer_is_person=person,
        buyer_name=buyer_name or subscriber.name,
        buyer_tax_id=buyer_tax_id,
        requested_at=at,
    )


@transaction.atomic
def request_red(
    operator: Operator, number: str, *, reason: str, at: dt.datetime, credit_note: str = ""
) -> FapiaoRequest:
    """Ask for the red e-fapiao that takes back what a credit note does, or all (`wrong`).

    After all was taken back for being wrong, the invoice's may be asked for anew. Raises NotFound,
    Invalid, Conflict where there is nothing to take back or something of it is under way.
    """
    if reason not in Reason.values or (reason == Reason.WRONG) == bool(credit_note):
        raise Invalid(
            "a red e-fapiao is of a credit note (return, service_ended, allowance), or of all that"
            " was wrong"
        )
    invoice = _locked(operator, number)
    blue = (
        FapiaoRequest.objects.select_for_update()
        .filter(operator=operator, subscriber_id=invoice.subscriber_id, invoice_id=invoice.id)
        .filter(original__isnull=True)
        .exclude(state__in=[State.FAILED, State.RED_ISSUED])
        .first()
    )
    if blue is None or blue.state != State.ISSUED:
        raise Conflict("no e-fapiao of this invoice is issued, or one is being taken back")
    note_id = None
    if credit_note:
        note = invoicing.find(operator, credit_note)
        if (note.subscriber_id, note.original_id) != (invoice.subscriber_id, invoice.id):
            raise NotFound("there is no such credit note of this invoice")
        if note.id in blue.counted:
            raise Conflict("the e-fapiao was asked for after this credit note, without its amount")
        charged, note_id = _charged(note), note.id
    else:
        if blue.reds.exclude(state=State.FAILED).exists():
            raise Conflict("a part of it is taken back already: take the rest back by credit notes")
        back = {row["line"]: row for row in blue.lines}
        charged = [
            Charged(c.nr, c.description, c.units, -c.net, c.tax_rate, -c.tax)
            for c in _left(invoice, [n for n in _notes(invoice) if n.id in blue.counted])
            if c.nr in back
        ]
    red = _write(
        operator,
        invoice,
        charged,
        request_id=f"{blue.request_id}-R{blue.reds.count() + 1}",
        kind=blue.kind,
        original=blue,
        reason=reason,
        credit_note_id=note_id,
        buyer_is_person=blue.buyer_is_person,
        buyer_name=blue.buyer_name,
        buyer_tax_id=blue.buyer_tax_id,
        requested_at=at,
        seller=blue.seller,
    )
    FapiaoRequest.objects.filter(pk=blue.pk).update(state=State.RED_REQUESTED)
    return red


def _write(
    operator: Operator, invoice: Invoice, charged: Sequence[Charged], **said: Any
) -> FapiaoRequest:
    items = {
        item.tax_rate: Item(item.tax_class, item.name)
        for item in FapiaoItem.objects.filter(operator=operator)
    }
    try:
        rows = lines(charged, items)
    except KeyError as error:
        raise Invalid(f"no tax class is set for the rate {error.args[0]}") from error
    sums = totals(rows)
    if sums.gross == 0 or (sums.gross < 0) != ("original" in said):
        raise Conflict("there is no amount that an e-fapiao could be of")
    said.setdefault("seller", None)
    said["seller"] = said["seller"] or _seller(operator)
    try:
        with transaction.atomic():
            return FapiaoRequest.objects.create(
                operator=operator,
                subscriber_id=invoice.subscriber_id,
                invoice_id=invoice.id,
                lines=rows,
                currency=invoice.currency,
                net=sums.net,
                tax=sums.tax,
                gross=sums.gross,
                capitals=sums.capitals,
                **said,
            )
    except IntegrityError as error:
        raise Conflict("there is an e-fapiao of this already") from error


def _seller(operator: Operator) -> dict[str, str]:
    """Who an operator is, as its letterhead says it; what was asked before stays as it was."""
    head = letterheads.of(operator)
    if not _TAX_ID.fullmatch(head.tax_id):
        raise Invalid(f"the letterhead of {operator.code} has no taxpayer id of 15 to 20 digits")
    return {
        "name": head.name,
        "tax_id": head.tax_id,
        "address": head.address,
        "phone": head.phone,
        "bank": head.bank,
        "account": head.bank_account,
    }


def _locked(operator: Operator, number: str) -> Invoice:
    """An invoice, locked, so that no credit note comes in between."""
    found = invoicing.find(operator, number)
    return Invoice.objects.select_for_update(no_key=True).get(
        subscriber_id=found.subscriber_id, id=found.id
    )


def _notes(invoice: Invoice) -> list[Invoice]:
    return list(
        Invoice.objects.filter(
            subscriber_id=invoice.subscriber_id, original_id=invoice.id
        ).order_by("id")
    )


def _charged(invoice: Invoice) -> list[Charged]:
    rows = InvoiceLine.objects.filter(
        subscriber_id=invoice.subscriber_id, invoice_id=invoice.id
    ).order_by("nr")
    # Compensation is no price of anything supplied.
    rows = rows.exclude(kind=InvoiceLine.Kind.COMPENSATION)
    return [Charged(r.nr, r.description, r.units, r.net, r.tax_rate, r.tax) for r in rows]


def _left(invoice: Invoice, notes: Sequence[Invoice]) -> list[Charged]:
    """An invoice's lines less what these notes credit of each; units where nothing is credited."""
    left = {line.nr: line for line in _charged(invoice)}
    credited = InvoiceLine.objects.filter(
        subscriber_id=invoice.subscriber_id, invoice_id__in=[note.id for note in notes]
    ).exclude(kind=InvoiceLine.Kind.COMPENSATION)
    for row in credited:
        of = left[row.basis["line"]]
        left[of.nr] = of._replace(units=None, net=of.net + row.net, tax=of.tax + row.tax)
    return list(left.values())


# Outcomes ----------------------------------------------------------------------------------------


def waiting(operator: Operator, state: str) -> list[FapiaoRequest]:
    """Those that are to be handed over (requested), or to be asked after (submitted)."""
    rows = FapiaoRequest.objects.filter(operator=operator, state=state)
    return list(rows.select_related("operator", "original").order_by("id"))


def note_submitted(one: FapiaoRequest, *, at: dt.datetime) -> None:
    FapiaoRequest.objects.filter(pk=one.pk, state=State.REQUESTED).update(
        state=State.SUBMITTED, submitted_at=at, attempts=one.attempts + 1, problem=""
    )


def note_problem(one: FapiaoRequest, problem: str) -> None:
    """Say what went wrong; it stays what it is, and is tried again."""
    FapiaoRequest.objects.filter(pk=one.pk).update(problem=problem[:500], attempts=one.attempts + 1)


@transaction.atomic
def note_outcome(one: FapiaoRequest, answer: Issued | Refused) -> None:
    """Write down what the platform answered; heard again, nothing changes. Raises Invalid for a
    number that is none, or is another's."""
    row = FapiaoRequest.objects.select_for_update().get(pk=one.pk)
    if row.state != State.SUBMITTED:
        return
    if isinstance(answer, Refused):
        row.state, row.problem = State.FAILED, answer.reason[:500]
    elif not _NUMBER.fullmatch(answer.number):
        raise Invalid(f"{answer.number[:40]} is no number of 20 digits")
    elif FapiaoRequest.objects.filter(number=answer.number).exists():
        raise Invalid(f"{answer.number} is another e-fapiao's number")
    else:
        row.state, row.problem = State.ISSUED, ""
        row.number, row.issued_at = answer.number, answer.issued_at
    row.save(update_fields=["state", "problem", "number", "issued_at"])
    if row.original_id is not None:
        blue = FapiaoRequest.objects.select_for_update().get(pk=row.original_id)
        back = sum((red.gross for red in blue.reds.filter(state=State.ISSUED)), start=Decimal(0))
        blue.state = State.RED_ISSUED if blue.gross + back == 0 else State.ISSUED
        blue.save(update_fields=["state"])
