"""What a supplier is owed for a month, and said once: the only writer of Settlement and its lines.

Between operators it is the same: whoever's models another operator's subscribers use is a supplier
in that operator's books. A subscriber, its gateways and its usage are always one operator's, so
the usage is told with a key that the operator whose subscriber it is gave to the gateway.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, NamedTuple

from django.db import transaction
from django.db.models import Sum
from django.db.models.functions import TruncMonth

from billing import costs, invoicing, rating
from billing.exports import cells
from billing.models import CostEntry, CostPrice, Settlement, SettlementLine, Supplier
from subscriptions.errors import Conflict
from subscriptions.models import Operator

_SUMMED = ("requests", *(f"{name}_tokens" for name in costs.CLASSES))


class Line(NamedTuple):
    """One model at one price, of the usage of one month; tokens by class, as `costs.CLASSES`."""

    month: dt.date
    model: str
    price: CostPrice
    requests: int
    tokens: tuple[int, ...]
    amount: Decimal


def lines_of(settlement: Settlement) -> list[Line]:
    """What a statement says."""
    rows = SettlementLine.objects.filter(settlement=settlement).select_related("price")
    return [
        Line(row.month, row.model, row.price, row.requests, _tokens(row), row.amount)
        for row in rows.order_by("nr")
    ]


def _tokens(row: SettlementLine) -> tuple[int, ...]:
    return tuple(getattr(row, name) for name in _SUMMED[1:])


def preview(supplier: Supplier, month: dt.date) -> list[Line]:
    """What a statement of this month would say now."""
    return _lines(_open(supplier, month))


def total(lines: Sequence[Line]) -> Decimal:
    return sum((line.amount for line in lines), rating.ZERO)


def find(supplier: Supplier, month: dt.date) -> Settlement | None:
    return Settlement.objects.filter(supplier=supplier, month=month).first()


@transaction.atomic
def issue(operator: Operator, supplier: Supplier, month: dt.date, *, at: dt.datetime) -> Settlement:
    """The statement of a month that is over, numbered and for good; again it is the same.

    It takes all that no statement took, of days up to the month's end. Raises Conflict while the
    month goes on, while days of it are not priced, after a later month was settled, and where there
    is nothing to say.
    """
    assert supplier.operator_id == operator.pk
    costs.lock(operator.pk)
    known = find(supplier, month)
    if known is not None:
        return known
    later = Settlement.objects.filter(supplier=supplier, month__gt=month).first()
    if later is not None:
        raise Conflict(f"{later.month:%Y-%m} is settled already ({later.number})")
    ends = costs.month_after(month)
    if costs.local_day(operator, at) < ends:
        raise Conflict(f"{month:%Y-%m} is not over yet")
    waiting = [one.day for one in costs.due(operator, at=at) if one.day < ends]
    if waiting:
        raise Conflict(f"{waiting[0]} is not priced yet")
    entries = _open(supplier, month)
    lines = _lines(entries)
    if not lines:
        raise Conflict(f"{supplier.code} has supplied nothing that is not settled")
    before = Settlement.objects.filter(operator=operator).order_by("-sequence").first()
    sequence = before.sequence + 1 if before else 1
    settlement = Settlement.objects.create(
        operator=operator,
        supplier=supplier,
        sequence=sequence,
        number=f"{invoicing.number_prefix(operator)}-S-{sequence:06}",
        month=month,
        currency=operator.currency,
        total=total(lines),
        made_at=at,
    )
    SettlementLine.objects.bulk_create(
        SettlementLine(
            settlement=settlement,
            nr=nr,
            month=line.month,
            model=line.model,
            price=line.price,
            amount=line.amount,
            **dict(zip(_SUMMED, (line.requests, *line.tokens), strict=True)),
        )
        for nr, line in enumerate(lines, 1)
    )
    costs.settle(entries, settlement)
    return settlement


def _open(supplier: Supplier, month: dt.date) -> Any:
    return CostEntry.objects.filter(
        supplier=supplier, settlement__isnull=True, day__lt=costs.month_after(month)
    )


def _lines(entries: Any) -> list[Line]:
    """Entries summed up, each sum rounded half up to the fen, once."""
    rows = list(
        entries.annotate(month=TruncMonth("day"))
        .values_list("month", "model", "price_id")
        .annotate(*(Sum(name) for name in (*_SUMMED, "cost")))
        .order_by("month", "model", "price_id")
    )
    prices = CostPrice.objects.select_related("card").in_bulk({row[2] for row in rows})
    return [
        Line(
            month,
            model,
            prices[price_id],
            requests,
            tuple(tokens),
            cost.quantize(rating.FEN, ROUND_HALF_UP),
        )
        for month, model, price_id, requests, *tokens, cost in rows
        if requests or any(tokens) or cost
    ]


COLUMNS = (
    *(
        "number",
        "supplier",
        "settles_with",
        "statement_month",
        "usage_month",
        "model",
        "price_from",
    ),
    *("requests", *(f"{name}_tokens" for name in costs.CLASSES)),
    *(f"{name}_price" for name in costs.CLASSES),
    *("amount", "currency"),
)


def table(
    operator: Operator, supplier: Supplier, month: dt.date, number: str, lines: Sequence[Line]
) -> Iterator[tuple[Any, ...]]:
    """A statement as rows; the last one is the total."""
    with_whom = supplier.settles_with.code if supplier.settles_with else ""
    head = (number, cells.text(supplier.code), cells.text(with_whom), f"{month:%Y-%m}")
    yield COLUMNS
    for line in lines:
        yield (
            *head,
            f"{line.month:%Y-%m}",
            cells.text(line.model),
            f"{line.price.card.effective_from}",
            line.requests,
            *line.tokens,
            *(f"{getattr(line.price, name):f}" for name in costs.CLASSES),
            cells.amount(line.amount),
            operator.currency,
        )
    blank = ("",) * (len(COLUMNS) - len(head) - 3)
    yield (*head, "total", *blank, cells.amount(total(lines)), operator.currency)
