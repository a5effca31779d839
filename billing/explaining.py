"""How a line came about, in words a subscriber can follow: from its `basis` alone."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from billing.models import Invoice, InvoiceLine
from subscriptions.units import to_wire


def explain(invoice: Invoice) -> Iterator[str]:
    """The lines of text that say what an invoice is made of."""
    state = f"{invoice.state}, due {invoice.due_at:%Y-%m-%d}" if invoice.due_at else invoice.state
    yield f"{invoice.number or 'Draft'} ({state})"
    yield f"for {invoice.period_start.isoformat()} to {invoice.period_end.isoformat()}"
    lines = InvoiceLine.objects.filter(
        subscriber_id=invoice.subscriber_id, invoice_id=invoice.id
    ).order_by("nr")
    for line in lines:
        yield ""
        yield f"{line.nr}. {line.kind}: {line.description}"
        for sentence in _steps(line):
            yield f"   {sentence}"
        rate = (line.tax_rate * 100).normalize()
        yield (
            f"   {line.gross} with tax: {line.gross} / (1 + {rate:f} %) = {line.net} net,"
            f" {line.gross} - {line.net} = {line.tax} tax"
        )
    yield ""
    yield (
        f"Total, the sums of the lines: {invoice.net} net + {invoice.tax} tax ="
        f" {invoice.gross} {invoice.currency}"
    )
    if invoice.paid:
        yield f"Paid: {invoice.paid}; still due: {invoice.gross - invoice.paid}"


def _steps(line: InvoiceLine) -> Iterator[str]:
    basis: dict[str, Any] = line.basis
    if "plan" in basis:
        span = f", {basis['from']} to {basis['until']}" if "from" in basis else ""
        yield f"plan {basis['plan']} version {basis['version']}{span}"
    if "booster" in basis:
        yield f"booster {basis['booster']} version {basis['version']} at {basis['price']}"
    if "sold_at" in basis:
        yield f"{to_wire(line.units or 0)} units of {basis['sold_at']}"
    if line.kind == InvoiceLine.Kind.FEE:
        yield from _fee(basis)
    elif line.kind == InvoiceLine.Kind.UPGRADE and "days" in basis:
        yield from _upgrade(line, basis)
    elif line.kind == InvoiceLine.Kind.REFUND and "share" in basis:
        yield f"ended at {basis['ended_at']}: {basis['reason']}"
        yield (
            f"{basis['share']} of {basis['whole']} of the {basis['of']} for the period ="
            f" {basis['refund']}: so much of line {basis['line']}"
        )
    elif "drawn" in basis:
        yield from _overflow(line, basis)
    elif line.kind == InvoiceLine.Kind.LATE_FEE and "late" in basis:
        yield from _late_fee(line, basis)
    elif line.kind == InvoiceLine.Kind.DISCOUNT:
        share = f" ({basis['percent']} %)" if "percent" in basis else ""
        if "coupon" in basis:
            nth = f", period {basis['nth']} of {basis['periods']}" if "nth" in basis else ""
            left = f", which leaves {basis['price']}" if "price" in basis else ""
            yield f"coupon {basis['coupon']}{nth}{left}"
        yield f"{basis['discount']}{share} off {basis['of']}: so much for line {basis['line']}"


def _fee(basis: dict[str, Any]) -> Iterator[str]:
    if "days" in basis:
        yield f"{basis['price']} x {basis['days']} of {basis['of_days']} days"
    else:
        yield f"{basis['price']} for the whole period"
    if "component" in basis:
        yield f"{basis['component']} of the {basis['price']}: its share of {basis['fee']}"


def _upgrade(line: InvoiceLine, basis: dict[str, Any]) -> Iterator[str]:
    yield f"from plan {basis['old_plan']} version {basis['old_version']} at {basis['at']}"
    yield (
        f"({basis['price']} - {basis['old_price']}) x {basis['days']} of {basis['of_days']} days,"
        f" with {to_wire(line.units or 0)} units more"
    )
    if "component" in basis:
        yield f"{basis['component']} of the {basis['price']}: its share of {basis['fee']}"


def _overflow(line: InvoiceLine, basis: dict[str, Any]) -> Iterator[str]:
    drawn = to_wire(basis["drawn"])
    if "blocks" in basis:
        yield (
            f"{drawn} units beyond the allowance: {basis['blocks']} packs of"
            f" {to_wire(basis['block_units'])} at {basis['block_price']}"
        )
    elif "tiers" in basis:
        way = "each unit by its tier" if basis["graduated"] else "all units by the tier of the sum"
        tiers = "; ".join(
            f"{price} to {to_wire(up_to)}" if up_to is not None else f"{price} beyond"
            for up_to, price in basis["tiers"]
        )
        yield f"{drawn} units beyond the allowance, per million, {way}: {tiers}"
    else:
        exact = Decimal(basis["price_per_million"]) * basis["drawn"] / 1_000_000_000
        yield (
            f"{drawn} units beyond the allowance x {basis['price_per_million']} per million ="
            f" {exact.normalize():f}"
        )
    if "cap" in basis:
        yield f"never more than {basis['cap']}"
    if "billed" in basis:
        yield (
            f"less {basis['billed_gross']} for {to_wire(basis['billed'])} units billed before:"
            f" {line.gross}"
        )


def _late_fee(line: InvoiceLine, basis: dict[str, Any]) -> Iterator[str]:
    yield f"invoice {basis['late']} was due at {basis['due_at']}; counted until {basis['until']}"
    for amount, days in basis["spells"]:
        part = Decimal(amount) * days * Decimal(basis["rate"])
        yield (
            f"{amount} owed for {days} whole days x {basis['rate']} a day = {part.normalize():f}"
        )
    yield f"never more than {basis['cap']}: {basis['accrued']}"
    if Decimal(basis["billed_gross"]):
        yield f"less {basis['billed_gross']} on bills before: {line.gross}"
