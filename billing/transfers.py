"""Transfers that arrived at the bank, and what they paid: the only writer of BankTransfer.

Staff tell each line of a bank statement once, by the bank's reference, and say what it paid. What
cannot be matched is kept with the reason; its money is nobody's and in no book until it is.
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import NamedTuple

from django.db import transaction

from billing import invoicing, ledger, payments, rating, telling, wallets
from billing.ledger import Side
from billing.models import BankTransfer, Invoice, WalletMovement
from billing.orders import buying, keeping, paying
from billing.ways import bank
from subscriptions.errors import Conflict, DomainError, Invalid, NotFound
from subscriptions.models import Operator

State = BankTransfer.State


class AlreadyMatched(Conflict):
    cause = "already_matched"


class ReferenceUsed(Conflict):
    cause = "reference_used"


class Told(NamedTuple):
    """A line of a bank statement."""

    reference: str
    amount: Decimal
    currency: str
    received_at: dt.datetime
    payer: str = ""
    remark: str = ""


class Pays(NamedTuple):
    """What a transfer pays: one of the three."""

    order: str = ""  # its number
    invoice: str = ""  # its number
    wallet: int | None = None  # of this subscriber


@transaction.atomic
def tell(operator: Operator, told: Told, *, at: dt.datetime) -> BankTransfer:
    """Keep a transfer; the same again answers what is there. Raises Invalid, ReferenceUsed."""
    if told.amount <= 0 or told.amount != rating.to_fen(told.amount):
        raise Invalid("a transfer is more than nothing, with two decimals at most")
    transfer, _ = BankTransfer.objects.get_or_create(
        operator=operator,
        reference=told.reference,
        defaults={**told._asdict(), "told_at": at},
    )
    if (transfer.amount, transfer.currency) != (told.amount, told.currency):
        raise ReferenceUsed(
            f"{told.reference} is a transfer of {transfer.amount} {transfer.currency}"
        )
    return transfer


def find(operator: Operator, transfer_id: int) -> BankTransfer:
    """Raises NotFound, also for another operator's."""
    transfer = BankTransfer.objects.filter(operator=operator, pk=transfer_id).first()
    if transfer is None:
        raise NotFound("there is no such transfer")
    return transfer


def match(operator: Operator, transfer_id: int, pays: Pays, *, at: dt.datetime) -> BankTransfer:
    """Say what a transfer paid, and have it granted; the same again answers what is there.

    Raises NotFound, AlreadyMatched, buying.AmountDiffers, and what stands against paying the
    order or invoice; the transfer is kept as it was, with the cause.
    """
    find(operator, transfer_id)
    try:
        return _match(operator, transfer_id, pays, at=at)
    except DomainError as error:
        BankTransfer.objects.filter(
            operator=operator, pk=transfer_id, state=State.UNMATCHED
        ).update(cause=error.cause)
        raise


@transaction.atomic
def _match(operator: Operator, transfer_id: int, pays: Pays, *, at: dt.datetime) -> BankTransfer:
    # Before all other locks: nobody else takes it.
    transfer = BankTransfer.objects.select_for_update(no_key=True).get(
        operator=operator, pk=transfer_id
    )
    if pays.order:
        order = keeping.find(operator, pays.order)
        what = {"subscriber_id": order.subscriber_id, "order_id": order.id}
    elif pays.invoice:
        invoice = invoicing.find(operator, pays.invoice)
        what = {"subscriber_id": invoice.subscriber_id, "invoice_id": invoice.id}
    else:
        assert pays.wallet is not None
        what = {"subscriber_id": pays.wallet}
    if transfer.state == State.MATCHED:
        known = (transfer.subscriber_id, transfer.order_id, transfer.invoice_id)
        if known == (what["subscriber_id"], what.get("order_id"), what.get("invoice_id")):
            return transfer
        raise AlreadyMatched("this transfer has paid something else")
    if pays.order:
        _same(transfer, order.amount, order.currency)
        paying.matched(operator, pays.order, bank.WAY, at=at, reference=transfer.reference)
    elif pays.invoice:
        _pay_invoice(operator, transfer, pays.invoice, at=at)
    else:
        _fill_wallet(operator, transfer, what["subscriber_id"], at=at)
    transfer.state, transfer.matched_at, transfer.cause = State.MATCHED, at, ""
    for name, value in what.items():
        setattr(transfer, name, value)
    transfer.save(update_fields=["state", "matched_at", "cause", *what])
    return transfer


def _same(transfer: BankTransfer, amount: Decimal, currency: str) -> None:
    if (transfer.amount, transfer.currency) != (amount, currency):
        raise buying.AmountDiffers(
            f"{amount} {currency} is asked for, the transfer is {transfer.amount}"
            f" {transfer.currency}"
        )


def _pay_invoice(
    operator: Operator, transfer: BankTransfer, number: str, *, at: dt.datetime
) -> None:
    invoice = invoicing.locked(operator, number)
    if invoice.state != Invoice.State.OPEN or invoicing.amount_due(invoice) <= 0:
        raise payments.NothingDue("nothing is due on this invoice")
    _same(transfer, invoicing.amount_due(invoice), invoice.currency)
    payments.record(
        operator, number, amount=transfer.amount, key=_key(transfer), way=bank.WAY, at=at
    )


def _fill_wallet(
    operator: Operator, transfer: BankTransfer, subscriber_id: int, *, at: dt.datetime
) -> None:
    if transfer.currency != operator.currency:
        raise Invalid(f"a wallet is in {operator.currency}")
    keeping.lock_subscriber(subscriber_id)
    into = wallets.Move(
        subscriber_id,
        transfer.currency,
        WalletMovement.Kind.TOP_UP,
        transfer.amount,
        _key(transfer),
        transfer.reference,
    )
    wallets.move(operator.pk, [into], at=at)
    sides = (Side(f"cash:{bank.WAY}", transfer.amount), into.side())
    draft = ledger.Draft(_key(transfer), "top_up", at, transfer.currency, sides, transfer.reference)
    posted = ledger.post(operator.pk, draft)
    assert posted
    telling.topped_up(
        subscriber_id,
        transfer.currency,
        transfer.amount,
        _key(transfer),
        at=at,
        transfer=transfer.reference,
    )


def _key(transfer: BankTransfer) -> str:
    return f"transfer:{transfer.pk}"
