"""Revenue of units that are sold in advance: earned as they burn. The only writer of Deferral.

What outlives the period that it is billed with, a booster, is owed in units until they are burned:
its net price is posted to `deferred` instead of `revenue`. From there the share of it that is
burned moves to `revenue`, and what is left when the bucket has ended to `breakage`. Each posting
is the difference to the ones before, so that several of them are exactly what one would have been:
usage that is void moves it back. See docs/decisions/0006-earned-as-units-burn.md.

Locks: deferrals by key, after the invoice where there is one, before the ledger's accounts.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, NamedTuple, Protocol
from zoneinfo import ZoneInfo

from django.db import connection, transaction

from billing import ledger, rating
from billing.ledger import Side
from billing.models import Deferral, DeferralSweep
from subscriptions import advisory, pgarrays
from subscriptions.advisory import Lock
from subscriptions.models import Operator
from subscriptions.pgarrays import Int8s, Texts

# When a local day's burning is looked at: close to its end, so that what burned on the last day of
# a month is earned in that month.
_NOTED_AT = dt.time(23, 50)
# How many are looked at by one statement, and how many deferrals a transaction changes at most.
CHUNK = 5000
# An adjustment takes its batch's number and commits within this.
_STILL_ADJUSTING = dt.timedelta(hours=1)


# Pure --------------------------------------------------------------------------------------------


class SoldLine(Protocol):
    """What is asked of a line, rated or stored."""

    @property
    def kind(self) -> str: ...
    @property
    def bucket_id(self) -> int | None: ...
    @property
    def units(self) -> int | None: ...
    @property
    def net(self) -> Decimal: ...
    @property
    def basis(self) -> Any: ...


def in_advance(lines: Sequence[SoldLine]) -> dict[int, int]:
    """By number the lines (from 1) of a period's bill that sell in advance, and what they are part
    of: a line itself, or for a discount the line that it is off. What costs nothing is not there.
    """
    parts = {
        nr: nr
        for nr, line in enumerate(lines, 1)
        if line.kind == "booster" and line.bucket_id is not None and line.units
    }
    if not parts:
        return parts
    for nr, line in enumerate(lines, 1):
        if line.kind == "discount" and parts.get(line.basis.get("line")):
            parts[nr] = line.basis["line"]
    nets: dict[int, Decimal] = defaultdict(Decimal)
    for nr, whole in parts.items():
        nets[whole] += lines[nr - 1].net
    return {nr: whole for nr, whole in parts.items() if nets[whole] > 0}


def earned_of(
    net: Decimal, credited: Decimal, burned: int, granted: int, *, ended: bool
) -> tuple[Decimal, Decimal]:
    """(earned, broken) of a net price of which so much was credited and so many units are burned.

    A credit first takes what is not earned. Rounded once, half up; the two are never more than is
    left of the price, and just that when the bucket has ended.
    """
    left = net - credited
    earned = min(rating.prorate(net, burned, granted), left)
    return earned, left - earned if ended else rating.ZERO


@dataclass(frozen=True, slots=True)
class _Row:
    """A deferral as it is, or is to be."""

    subscriber_id: int
    bucket_id: int
    code: str
    tax_rate: Decimal
    currency: str
    net: Decimal
    credited: Decimal
    earned: Decimal
    broken: Decimal
    granted: int
    burned: int
    ended: bool
    looks: int

    def counted_anew(self) -> _Row:
        earned, broken = earned_of(
            self.net, self.credited, self.burned, self.granted, ended=self.ended
        )
        return replace(self, earned=earned, broken=broken)

    @property
    def owed(self) -> Decimal:
        """What of the price is not earned yet."""
        return self.net - self.credited - self.earned - self.broken

    def sides(self, before: _Row) -> Iterator[Side]:
        """What became of it since: what is owed less, earned and broken more, as entries."""
        yield Side(
            ledger.deferred(self.code, self.tax_rate), before.owed - self.owed, self.subscriber_id
        )
        yield Side(ledger.revenue(self.code, self.tax_rate), before.earned - self.earned)
        yield Side(ledger.breakage(self.code, self.tax_rate), before.broken - self.broken)


def _summed(sides: Iterable[Side]) -> tuple[Side, ...]:
    """One entry for each account and subscriber."""
    sums: dict[tuple[str, int | None], Decimal] = defaultdict(Decimal)
    for side in sides:
        sums[side.account, side.subscriber_id] += side.amount
    return tuple(Side(account, amount, whose) for (account, whose), amount in sums.items())


# At a bill ---------------------------------------------------------------------------------------


class Sale(NamedTuple):
    """What an invoice sells in advance."""

    subscriber_id: int
    bucket_id: int
    invoice_id: int
    code: str
    tax_rate: Decimal
    currency: str
    net: Decimal
    granted: int


_DEFER_SQL = """
INSERT INTO billing_deferral
    (subscriber_id, bucket_id, operator_id, invoice_id, code, tax_rate, currency, net, credited,
     earned, broken, granted, burned, ended, looks)
SELECT s.subscriber_id, s.bucket_id, %s, s.invoice_id, s.code, s.tax_rate, s.currency, s.net, 0, 0,
       0, s.granted, 0, false, 0
FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::text[], %s::numeric[], %s::text[],
            %s::numeric[], %s::bigint[])
     AS s (subscriber_id, bucket_id, invoice_id, code, tax_rate, currency, net, granted)
ORDER BY s.subscriber_id, s.bucket_id
"""


def defer(
    operator: Operator, sales: Sequence[Sale], *, at: dt.datetime, ended_by: dt.datetime
) -> None:
    """Note what invoices, whose caller posts it to `deferred`, sell in advance; what of it is
    burned by now is earned at once.

    Joins the caller's transaction. Buckets that ended by `ended_by` are drawn by nothing any more.
    """
    assert connection.in_atomic_block
    if not sales:
        return
    kinds = (Int8s, Int8s, Int8s, Texts, list, Texts, list, Int8s)
    with pgarrays.statements() as cursor:
        cursor.execute(_DEFER_SQL, [operator.pk, *pgarrays.columns(sales, *kinds)])
    keys = sorted((sale.subscriber_id, sale.bucket_id) for sale in sales)
    for start in range(0, len(keys), CHUNK):
        _look_at(operator, keys[start : start + CHUNK], at=at, ended_by=ended_by)


def take_back(subscriber_id: int, amounts: Mapping[int, Decimal]) -> dict[int, list[Side]]:
    """Credit these net amounts, by bucket, of what was sold in advance; answers the entries that
    book them: first against what is not earned yet, then against what was.

    Joins the caller's transaction, which posts the entries. A bucket that was never deferred is
    not in the answer. What is more than is left, by a fen that rounding has put there, is revenue.
    """
    assert connection.in_atomic_block
    rows = Deferral.objects.filter(subscriber_id=subscriber_id, bucket_id__in=amounts)
    booked: dict[int, list[Side]] = {}
    for row in rows.order_by("bucket_id").select_for_update(no_key=True):
        before = _row_of(row)
        amount = amounts[row.bucket_id]
        credited = min(max(row.credited + amount, rating.ZERO), row.net)
        after = replace(before, credited=credited).counted_anew()
        Deferral.objects.filter(subscriber_id=subscriber_id, bucket_id=row.bucket_id).update(
            credited=after.credited, earned=after.earned, broken=after.broken
        )
        rest = amount - (credited - row.credited)
        booked[row.bucket_id] = [
            *after.sides(before),
            Side(ledger.revenue(row.code, row.tax_rate), rest),
        ]
    return booked


def _row_of(row: Deferral) -> _Row:
    return _Row(**{name: getattr(row, name) for name in _Row.__slots__})


# As time passes ----------------------------------------------------------------------------------


def is_due(operator: Operator, *, at: dt.datetime) -> bool:
    """Whether a local day's burning is still to be looked at."""
    sweep = DeferralSweep.objects.filter(operator=operator).first()
    if sweep is None:
        return True
    local = at.astimezone(ZoneInfo(operator.time_zone))
    noted = local.replace(
        hour=_NOTED_AT.hour, minute=_NOTED_AT.minute, second=0, microsecond=0, fold=0
    )
    if noted > local:
        noted -= dt.timedelta(days=1)
    return sweep.swept_at < noted


_PAGE_SQL = """
SELECT subscriber_id, bucket_id
FROM billing_deferral
WHERE operator_id = %s AND NOT ended AND (subscriber_id, bucket_id) > (%s, %s)
ORDER BY subscriber_id, bucket_id
LIMIT %s
"""


def sweep(operator: Operator, *, at: dt.datetime, ended_by: dt.datetime) -> int:
    """Earn what was burned since the last time, and break what ended by `ended_by`; answers how
    many deferrals have changed.

    Chunk by chunk, each in a transaction, and one of them at a time: after a crash, or beside
    another, what is done already is found unchanged.
    """
    began = _Sweep(operator, at=at)
    changed = 0
    for page in began.pages():
        with transaction.atomic():
            advisory.take(Lock.DEFERRAL, operator.pk)
            changed += _look_at(operator, page, at=at, ended_by=ended_by)
    began.note_done()
    return changed


class _Sweep:
    """One look through an operator's deferrals: those that are open, and those that have ended
    but whose usage was adjusted since."""

    def __init__(self, operator: Operator, *, at: dt.datetime) -> None:
        self.operator, self.at = operator, at
        self.last = DeferralSweep.objects.filter(operator=operator).first()
        with connection.cursor() as cursor:
            cursor.execute("SELECT last_value FROM subscriptions_batch_id")
            self.batch = int(cursor.fetchone()[0])

    def pages(self) -> Iterator[list[tuple[int, int]]]:
        """Keys, each page before the next is asked for."""
        yield from self._paged(_PAGE_SQL, (0, 0))
        if self.last is not None:
            yield from self._adjusted(self.last.batch_from)

    def _paged(self, sql: str, last: tuple[int, int]) -> Iterator[list[tuple[int, int]]]:
        while True:
            with connection.cursor() as cursor:
                cursor.execute(sql, [self.operator.pk, *last, CHUNK])
                keys = cursor.fetchall()
            if keys:
                yield keys
            if len(keys) < CHUNK:
                return
            last = keys[-1]

    def _adjusted(self, batch_id: int) -> Iterator[list[tuple[int, int]]]:
        """The ended ones of subscribers with adjustments from a batch on, in the batches' order."""
        while True:
            with connection.cursor() as cursor:
                cursor.execute(_ADJUSTED_SQL, [self.operator.pk, batch_id, CHUNK])
                found = cursor.fetchall()
            if not found:
                return
            keys = sorted({row[:2] for row in found if row[0] is not None})
            if keys:
                yield keys
            batch_id = found[-1][2] + 1

    def note_done(self) -> None:
        """Remember how far all was looked through.

        An adjustment may have its batch's number and not be committed yet, so numbers are passed
        by only when they were there at a sweep long before.
        """
        with connection.cursor() as cursor:
            cursor.execute(
                _DONE_SQL,
                {
                    "operator": self.operator.pk,
                    "at": self.at,
                    "batch": self.batch,
                    "before": self.at - _STILL_ADJUSTING,
                },
            )


# Without limit by subscriber: one adjusted in many batches comes once for each.
_ADJUSTED_SQL = """
SELECT d.subscriber_id, d.bucket_id, a.batch_id
FROM (
    SELECT subscriber_id, batch_id
    FROM metering_adjustment
    WHERE operator_id = %s AND batch_id >= %s
    ORDER BY batch_id
    LIMIT %s
) a
LEFT JOIN billing_deferral d ON d.subscriber_id = a.subscriber_id AND d.ended
ORDER BY a.batch_id
"""
_DONE_SQL = """
INSERT INTO billing_deferralsweep AS s (operator_id, swept_at, batch_from, batch_next)
VALUES (%(operator)s, %(at)s, 0, %(batch)s)
ON CONFLICT (operator_id) DO UPDATE
SET swept_at = greatest(s.swept_at, EXCLUDED.swept_at),
    batch_from = CASE WHEN s.swept_at <= %(before)s THEN s.batch_next ELSE s.batch_from END,
    batch_next = CASE WHEN s.swept_at <= %(before)s THEN EXCLUDED.batch_next
                      ELSE s.batch_next END
"""

# Units that lapsed (drawn for usage that was void after the bucket's end) are used and not burned,
# and so are those that were taken back with their price, or for a dispute that was lost.
# What a credit note has changed meanwhile is looked at again when its lock is there.
_LOOK_SQL = """
SELECT d.subscriber_id, d.bucket_id, d.code, d.tax_rate, d.currency, d.net, d.credited, d.earned,
       d.broken, d.granted, d.burned, d.ended, d.looks,
       b.used - l.lapsed - t.taken, d.ended OR b.valid_until <= %(ended_by)s
FROM unnest(%(subscribers)s::bigint[], %(buckets)s::bigint[]) AS k (subscriber_id, bucket_id)
JOIN billing_deferral d ON d.subscriber_id = k.subscriber_id AND d.bucket_id = k.bucket_id
JOIN subscriptions_bucket b ON b.subscriber_id = k.subscriber_id AND b.id = k.bucket_id
CROSS JOIN LATERAL (
    SELECT coalesce(sum(e.units), 0)::bigint AS lapsed
    FROM metering_adjustment a
    JOIN subscriptions_bucketentry e
      ON e.subscriber_id = a.subscriber_id AND e.batch_id = a.batch_id
     AND e.charged_at = a.made_at AND e.bucket_id = d.bucket_id AND e.kind = 6
    WHERE a.subscriber_id = d.subscriber_id
) l
CROSS JOIN LATERAL (
    SELECT coalesce(sum(f.units), 0)::bigint AS taken
    FROM subscriptions_freeze f
    WHERE f.subscriber_id = d.subscriber_id AND f.bucket_id = d.bucket_id AND f.state = 'taken'
) t
WHERE b.used - l.lapsed - t.taken <> d.burned OR (b.valid_until <= %(ended_by)s AND NOT d.ended)
ORDER BY d.subscriber_id, d.bucket_id
FOR NO KEY UPDATE OF d
"""
_COUNT_SQL = """
UPDATE billing_deferral d
SET earned = n.earned, broken = n.broken, burned = n.burned, ended = n.ended, looks = d.looks + 1
FROM unnest(%s::bigint[], %s::bigint[], %s::numeric[], %s::numeric[], %s::bigint[], %s::boolean[])
     AS n (subscriber_id, bucket_id, earned, broken, burned, ended)
WHERE d.subscriber_id = n.subscriber_id AND d.bucket_id = n.bucket_id
"""


def _look_at(
    operator: Operator,
    keys: Sequence[tuple[int, int]],
    *,
    at: dt.datetime,
    ended_by: dt.datetime,
) -> int:
    """Count these deferrals anew and post what changed, in the caller's transaction."""
    with pgarrays.statements() as cursor:
        subscribers, buckets = pgarrays.columns(keys, Int8s, Int8s)
        cursor.execute(
            _LOOK_SQL, {"subscribers": subscribers, "buckets": buckets, "ended_by": ended_by}
        )
        found = cursor.fetchall()
        if not found:
            return 0
        changes = []
        for *stored, burned, ended in found:
            before = _Row(*stored)
            changes.append((before, replace(before, burned=burned, ended=ended).counted_anew()))
        cursor.execute(
            _COUNT_SQL,
            [
                [after.subscriber_id for _, after in changes],
                [after.bucket_id for _, after in changes],
                [after.earned for _, after in changes],
                [after.broken for _, after in changes],
                [after.burned for _, after in changes],
                [after.ended for _, after in changes],
            ],
        )
    ledger.post_many(operator.pk, list(_postings(changes, at=at)))
    return len(changes)


def _postings(changes: Sequence[tuple[_Row, _Row]], *, at: dt.datetime) -> Iterator[ledger.Draft]:
    """One posting for each currency. It is named after its first deferral and how often that was
    counted, which no other posting can be."""
    by_currency: dict[str, list[tuple[_Row, _Row]]] = defaultdict(list)
    for before, after in changes:
        by_currency[before.currency].append((before, after))
    for currency, some in by_currency.items():
        first = some[0][0]
        yield ledger.Draft(
            f"deferral:{first.bucket_id}:{first.looks + 1}",
            "deferral",
            at,
            currency,
            _summed(side for before, after in some for side in after.sides(before)),
            f"{len(some)} buckets",
        )
