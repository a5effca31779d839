"""A wallet's statement: what went in and out in a span of days, between the balance before and the
balance after."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from zoneinfo import ZoneInfo

from django.db.models import Max, QuerySet, Sum

from billing import rating
from billing.exports import cells
from billing.models import WalletMovement
from subscriptions import periods
from subscriptions.errors import Invalid
from subscriptions.models import Operator

_LONGEST = 800  # days
COLUMNS = ("nr", "at", "kind", "amount", "bonus", "balance", "currency", "note")


@dataclass(frozen=True, slots=True)
class Statement:
    """`opening` + `money_in` - `money_out` = `closing`; the movements are those between."""

    opening: Decimal
    closing: Decimal
    money_in: Decimal
    money_out: Decimal
    movements: QuerySet[WalletMovement]


def of(operator: Operator, subscriber_id: int, first: dt.date, last: dt.date) -> Statement:
    """The statement of the operator's days from `first` to `last`, both in it.

    It is a stretch of the movements by their nr, so that the next one begins where it ends. Raises
    Invalid.
    """
    if last < first or (last - first).days >= _LONGEST:
        raise Invalid(f"a statement is of 1 to {_LONGEST} days")
    zone = ZoneInfo(operator.time_zone)
    rows = WalletMovement.objects.filter(subscriber_id=subscriber_id, currency=operator.currency)

    def last_before(instant: dt.datetime) -> int:
        found: int | None = rows.filter(at__lt=instant).aggregate(nr=Max("nr"))["nr"]
        return found or 0

    before = last_before(periods.midnight(first, zone))
    until = last_before(periods.midnight(last + dt.timedelta(days=1), zone))
    between = rows.filter(nr__gt=before, nr__lte=until)

    def balance(nr: int) -> Decimal:
        row = rows.filter(nr=nr).first()
        return rating.ZERO if row is None else row.balance

    def total(some: QuerySet[WalletMovement]) -> Decimal:
        found: Decimal | None = some.aggregate(amount=Sum("amount"))["amount"]
        return rating.ZERO if found is None else found

    return Statement(
        balance(before),
        balance(until),
        total(between.filter(amount__gt=0)),
        -total(between.filter(amount__lt=0)),
        between.order_by("nr"),
    )


def as_csv(
    operator: Operator, statement: Statement, first: dt.date, last: dt.date
) -> Iterator[bytes]:
    """The statement as a file: a heading, the opening, a line a movement, the closing."""
    zone = ZoneInfo(operator.time_zone)
    currency = operator.currency
    # Spreadsheets take a file without the mark for one in the machine's own encoding.
    yield b"\xef\xbb\xbf"

    def rows() -> Iterator[tuple[object, ...]]:
        yield COLUMNS
        yield (
            "",
            first.isoformat(),
            "opening",
            "",
            "",
            cells.amount(statement.opening),
            currency,
            "",
        )
        for one in statement.movements.iterator(1000):
            yield (
                one.nr,
                cells.time(one.at, zone),
                one.kind,
                cells.amount(one.amount),
                cells.amount(one.bonus),
                cells.amount(one.balance),
                currency,
                cells.text(one.note),
            )
        yield (
            "",
            last.isoformat(),
            "closing",
            "",
            "",
            cells.amount(statement.closing),
            currency,
            "",
        )

    yield from cells.encode(rows())
