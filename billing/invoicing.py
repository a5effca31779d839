"""Invoices from what was sold and used: the only writer of invoices, their lines and numbers.

Everything here is done for many at once: a chunk of periods is read by a few statements, rated in
memory and written by a few more, whatever it holds. Locks go in one order: periods by key, then
the ledger's accounts, then the (operator, year) counter, which is held only while a finished
chunk is numbered and committed.
"""

from __future__ import annotations

import datetime as dt
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
from django.db import connection, transaction

from billing import corrections, crediting, deferral, dunning, ledger, rating, telling
from billing.arrears import Late, late_fee_lines, with_billed
from billing.latefees import late_invoices
from billing.ledger import Side
from billing.models import FapiaoRequest, Invoice, InvoiceLine, InvoiceNumber
from billing.rating import Line, RatingError, Tariff
from subscriptions import coupons, demands, expected, lifecycle, pgarrays, policies, taxes
from subscriptions.errors import Conflict, Invalid, NotFound
from subscriptions.lifecycle import PeriodKey
from subscriptions.models import Booster, Coupon, Ending, Operator, Plan, Subscriber, Upgrade
from subscriptions.periods import local
from subscriptions.pgarrays import Instants, Int8s, Texts

# How long before a period began its subscriber's buckets are looked through for what is not billed
# yet or has changed: longer than records are kept, for only those can be adjusted.
LOOK_BACK = dt.timedelta(days=250)


class Due(NamedTuple):
    """A period to be billed; of a last bill the time that it is for, 0 where no plan was held."""

    subscriber_id: int
    subscription_id: int
    starts_at: dt.datetime
    ends_at: dt.datetime
    plan_id: int


@dataclass(slots=True)
class Billed:
    """What became of a chunk: how many invoices, and by subscriber why there is none."""

    invoices: int = 0
    failures: dict[int, str] = field(default_factory=dict)


# Closing periods ---------------------------------------------------------------------------------

# Periods that another transaction has billed meanwhile drop out when the lock is there: the row is
# looked at again.
_DUE_SQL = """
SELECT subscriber_id, subscription_id, starts_at, ends_at, plan_id
FROM subscriptions_subscriptionperiod
WHERE operator_id = %s AND closed_at IS NULL AND ends_at <= %s
  AND subscriber_id BETWEEN %s AND %s AND subscriber_id <> ALL(%s::bigint[])
ORDER BY subscriber_id, subscription_id, starts_at
FOR NO KEY UPDATE
"""


def bill(
    operator: Operator,
    *,
    first_subscriber: int,
    last_subscriber: int,
    but: Sequence[int] = (),
    ended_by: dt.datetime,
    at: dt.datetime,
) -> Billed:
    """Bill all periods of these subscribers (`but` some) that ended by `ended_by` and are not yet.

    Each gets one invoice, issued at `at`, and its ledger posting; joins the caller's transaction
    and may be repeated: what is billed is not due. A subscriber who cannot be billed is left out
    whole, with the reason.
    """
    assert connection.in_atomic_block
    with pgarrays.statements() as cursor:
        span = (first_subscriber, last_subscriber)
        cursor.execute(_DUE_SQL, [operator.pk, ended_by, *span, Int8s(but)])
        due = [Due(*row) for row in cursor.fetchall()]
    billed = Billed()
    if not due:
        return billed
    drafts: list[Draft] = []
    zone = ZoneInfo(operator.time_zone)
    prices = Prices(taxes.of_operator(operator.pk), zone)
    rules = corrections.rules_of(operator.pk, at=at)

    def adjust(subscriber_id: int, changes: list[Line]) -> list[Line]:
        """What of changes this bill may say, with what is repaid beyond them."""
        if not changes:
            return []
        currency = operator.currency
        said = corrections.allowed(
            operator, subscriber_id, changes, rules, currency=currency, at=at
        )
        return said + corrections.compensation_lines(corrections.given_back(said), rules)

    overflow, sales = unbilled(due)
    keys = [period[:3] for period in due]
    changes, discounts = lifecycle.changes_of(keys), coupons.applied_to(keys)
    unpaid = expected.unpaid_of(p[:3] for p in due if _is_paid_before(p.plan_id))
    by_subscriber: dict[int, list[Due]] = defaultdict(list)
    for period in due:
        by_subscriber[period.subscriber_id].append(period)
    late = late_invoices(operator.pk, sorted(by_subscriber), until=ended_by)
    for subscriber_id, periods in by_subscriber.items():
        try:
            made = _rate(
                periods,
                overflow[subscriber_id],
                sales[subscriber_id],
                changes,
                discounts,
                unpaid,
                prices,
                adjust,
            )
        except RatingError as error:
            billed.failures[subscriber_id] = str(error)
            continue
        if subscriber_id in late:
            _add_late_fees(made, late[subscriber_id], zone)
        drafts += made
    if drafts:
        store(operator, drafts)
        post_drafts(operator, drafts, at=at, ended_by=ended_by)
        closed = lifecycle.mark_closed([draft.due[:3] for draft in drafts], at=at)
        assert closed == len(drafts)
        made_now = [(d.due.subscriber_id, d.id) for d in drafts]
        issue(operator, made_now, at=at)
        telling.abnormal(made_now)
        billed.invoices = len(drafts)
    return billed


@dataclass(slots=True)
class Draft:
    """An invoice in the making."""

    due: Due
    tariff: Tariff
    lines: list[Line]
    totals: rating.Totals
    id: int = 0
    kind: str = Invoice.Kind.PERIOD

    @property
    def posting_key(self) -> str:
        start = self.due.starts_at.astimezone(dt.UTC).isoformat()
        if self.kind == Invoice.Kind.FINAL:
            return f"final:{self.due.subscriber_id}:{start}"
        return f"invoice:{self.due.subscription_id}:{start}"


@dataclass(frozen=True, slots=True)
class Overflow:
    """An overflow bucket that was drawn, with what of it is billed."""

    subscription_id: int | None
    period_start: dt.datetime
    since: dt.datetime  # later than its start after an upgrade
    ends_at: dt.datetime
    plan_id: int  # whose price it costs
    bucket_id: int
    blocks: bool
    units: int
    billed: bool  # the period is, so that what is drawn of it now is a change
    billed_units: int
    billed_gross: Decimal


@dataclass(frozen=True, slots=True)
class Sale:
    """A booster or gift that no invoice has named yet."""

    bucket_id: int
    kind: str
    sold_at: dt.datetime
    units: int
    grant_key: str
    note: str


# Of every subscriber the buckets since LOOK_BACK, by the index that leads with both. A bucket
# without a period was opened ahead and taken back: nobody is billed for it. One that an upgrade
# brought, its key names the plan, began within its period.
_BUCKETS_SQL = """
SELECT b.subscriber_id, b.kind, b.subscription_id, p.starts_at, b.valid_from, p.ends_at,
       p.closed_at, p.plan_id, b.id, b.grant_key, b.used, coalesce(b.granted, 0), b.note,
       l.lines, l.units, l.gross
FROM unnest(%s::bigint[], %s::timestamptz[], %s::timestamptz[])
     AS d (subscriber_id, look_from, last_end)
JOIN subscriptions_bucket b
  ON b.subscriber_id = d.subscriber_id AND b.valid_until > d.look_from
 AND b.valid_from < d.last_end AND b.kind IN ('overage', 'booster', 'gift')
LEFT JOIN LATERAL (
    SELECT p.starts_at, p.ends_at, p.closed_at, p.plan_id
    FROM subscriptions_subscriptionperiod p
    WHERE b.kind = 'overage' AND p.subscriber_id = b.subscriber_id
      AND p.subscription_id = b.subscription_id AND p.starts_at <= b.valid_from
      AND (p.starts_at = b.valid_from
           OR p.ends_at >= b.valid_from AND split_part(b.grant_key, ':', 1) LIKE '%%@%%')
    ORDER BY p.starts_at DESC
    LIMIT 1
) p ON true
CROSS JOIN LATERAL (
    SELECT count(*) AS lines, coalesce(sum(l.units), 0)::bigint AS units,
           coalesce(sum(l.gross), 0) AS gross
    FROM billing_invoiceline l
    WHERE l.subscriber_id = b.subscriber_id AND l.bucket_id = b.id
) l
WHERE CASE b.kind WHEN 'overage' THEN b.used > 0 OR l.lines > 0 ELSE l.lines = 0 END
ORDER BY b.subscriber_id, b.valid_from, b.id
"""


def unbilled(due: Sequence[Due]) -> tuple[dict[int, list[Overflow]], dict[int, list[Sale]]]:
    """By subscriber: overflow that was drawn or billed, and sales that are not billed."""
    spans: dict[int, tuple[dt.datetime, dt.datetime]] = {}
    for period in due:
        first, last = spans.get(period.subscriber_id, (period.starts_at, period.ends_at))
        spans[period.subscriber_id] = min(first, period.starts_at), max(last, period.ends_at)
    overflow: dict[int, list[Overflow]] = defaultdict(list)
    sales: dict[int, list[Sale]] = defaultdict(list)
    with pgarrays.statements() as cursor:
        cursor.execute(
            _BUCKETS_SQL,
            [
                Int8s(spans),
                Instants(first - LOOK_BACK for first, _ in spans.values()),
                Instants(last for _, last in spans.values()),
            ],
        )
        for row in cursor.fetchall():
            subscriber_id, kind, subscription_id, period_start, valid_from = row[:5]
            ends_at, closed_at, plan_id, bucket_id, grant_key, used, granted, note = row[5:13]
            lines, units, gross = row[13:]
            if kind != "overage":
                sale = Sale(bucket_id, kind, valid_from, granted, grant_key, note)
                sales[subscriber_id].append(sale)
            elif ends_at is not None:
                overflow[subscriber_id].append(
                    Overflow(
                        subscription_id=subscription_id,
                        period_start=period_start,
                        since=valid_from,
                        ends_at=ends_at,
                        plan_id=demands.plan_of_overflow(grant_key) or plan_id,
                        bucket_id=bucket_id,
                        blocks=grant_key.startswith("blocks"),
                        units=used,
                        billed=lines > 0 or closed_at is not None,
                        billed_units=units,
                        billed_gross=gross,
                    )
                )
    return overflow, sales


def _rate(
    periods: Sequence[Due],
    overflow: Sequence[Overflow],
    sales: Sequence[Sale],
    changes: lifecycle.Changes,
    discounts: Mapping[PeriodKey, Sequence[coupons.Applied]],
    unpaid: Collection[PeriodKey],
    prices: Prices,
    adjust: Callable[[int, list[Line]], list[Line]],
) -> list[Draft]:
    """The invoices of one subscriber's due periods, earliest first.

    Each bills its own overflow. The earliest also says what changed of periods billed before, as
    `adjust` lets it; a sale is billed with the first period that ends after it.
    """
    drafts = []
    sold = list(sales)
    zone = prices.zone
    for nr, due in enumerate(sorted(periods, key=lambda period: period.starts_at)):
        tariff = prices.of(due.plan_id, due.ends_at)
        lines = list(rating.fee_lines(tariff, due.starts_at, due.ends_at, zone))
        if due[:3] in unpaid:
            lines = rating.not_owed(lines)
        for upgrade in changes.upgrades.get(due[:3], ()):
            lines += rating.upgrade_lines(
                tariff_of(upgrade.old_plan_id),
                prices.of(upgrade.new_plan_id, due.ends_at),
                upgrade.days,
                Upgrade.DAYS,
                upgrade.at,
                zone,
                units=upgrade.units,
            )
        changes_before: list[Line] = []
        for one in overflow:
            if (one.subscription_id, one.period_start) == (due.subscription_id, due.starts_at):
                lines += overflow_lines(one, prices)
            elif nr == 0 and one.billed:
                changes_before += overflow_lines(one, prices)
        lines += adjust(due.subscriber_id, changes_before)
        now, sold = (
            [sale for sale in sold if sale.sold_at < due.ends_at],
            [sale for sale in sold if sale.sold_at >= due.ends_at],
        )
        lines += [sale_line(sale, tariff, zone) for sale in now]
        lines += rating.discount_lines(
            [discount_of(*applied) for applied in discounts.get(due[:3], ())], lines
        )
        ending = changes.endings.get(due[:3])
        if ending is not None:
            lines += _refund_lines(ending, lines, zone)
        drafts.append(Draft(due, tariff, lines, rating.totals(lines)))
    return drafts


def _add_late_fees(drafts: Sequence[Draft], late: Sequence[Late], zone: ZoneInfo) -> None:
    """Say on a subscriber's bills, earliest first, what its late invoices came to by their ends."""
    for draft in drafts:
        fees = late_fee_lines(
            late, until=draft.due.ends_at, currency=draft.tariff.currency, zone=zone
        )
        if fees:
            draft.lines += fees
            draft.totals = rating.totals(draft.lines)
            late = with_billed(late, fees)


def _refund_lines(ending: Ending, lines: Sequence[Line], zone: ZoneInfo) -> list[Line]:
    """What of these lines is owed back to who ended in the middle of a period."""
    if ending.refund == Ending.Refund.NONE:
        return []
    whole = ending.refund == Ending.Refund.FULL
    return rating.refund_lines(
        lines,
        1 if whole else ending.unused,
        1 if whole else ending.granted,
        {"ended_at": local(ending.at, zone), "reason": ending.reason},
    )


def overflow_lines(one: Overflow, prices: Prices) -> list[Line]:
    """What of a bucket is not billed, at the price and the tax of its own period."""
    line = rating.overflow_line(
        rating.Drawn(
            bucket_id=one.bucket_id,
            blocks=one.blocks,
            units=one.units,
            tariff=prices.of(one.plan_id, one.ends_at),
            starts_at=one.since,
            ends_at=one.ends_at,
            billed=one.billed,
            billed_units=one.billed_units,
            billed_gross=one.billed_gross,
        ),
        prices.zone,
    )
    return [] if line is None else [line]


def sale_line(sale: Sale, tariff: Tariff, zone: ZoneInfo) -> Line:
    """A booster or gift, taxed as the plan it is billed with."""
    basis: dict[str, Any] = {"sold_at": local(sale.sold_at, zone)}
    name, price = sale.note or sale.kind, rating.ZERO
    if sale.kind == "booster":
        booster = _booster_of(int(sale.grant_key.split(":")[1]))
        if booster.currency != tariff.currency:
            raise RatingError(
                f"booster {booster.code} is sold in {booster.currency}, the plan in"
                f" {tariff.currency}"
            )
        name, price = booster.name, booster.price
        basis |= {"booster": booster.code, "version": booster.version, "price": str(price)}
    return rating.sale_line(
        sale.kind, name, price, tariff, basis, units=sale.units, bucket_id=sale.bucket_id
    )


# What was sold never changes, so a process may remember it --------------------------------------


@lru_cache(maxsize=10_000)
def tariff_of(plan_id: int) -> Tariff:
    """What a plan version costs. Raises RatingError where there is none or it makes no sense."""
    plan = Plan.objects.filter(pk=plan_id).prefetch_related("components", "tiers").first()
    if plan is None:
        raise RatingError(f"there is no plan version {plan_id}")
    return tariff_from(plan)


def tariff_from(plan: Plan) -> Tariff:
    """The same of a plan version whose components and tiers are at hand."""
    return Tariff(
        plan_id=plan.pk,
        code=plan.code,
        version=plan.version,
        name=plan.name,
        currency=plan.price.currency.code,
        price=plan.price.amount,
        tax_rate=plan.tax_rate,
        cycle=plan.cycle,
        first_month=plan.first_month,
        price_per_million=plan.price_per_million,
        tiers=policies.tiers_of(plan),
        graduated=plan.tier_mode != Plan.TierMode.VOLUME,
        block_units=plan.block_units,
        block_price=plan.block_price.amount if plan.block_price is not None else None,
        cap=plan.cap.amount if plan.cap is not None else None,
        parts=tuple(
            rating.Part(part.name, part.price.amount, part.tax_rate, part.tax_category)
            for part in sorted(plan.components.all(), key=lambda part: part.position)
        ),
        tax_category=plan.tax_category,
    )


@lru_cache(maxsize=10_000)
def _is_paid_before(plan_id: int) -> bool:
    """Whether periods of a plan version open only when they are paid."""
    return Plan.objects.filter(pk=plan_id, collect=Plan.Collect.BEFORE_PERIOD).exists()


@dataclass(frozen=True, slots=True)
class Prices:
    """What plan versions cost, with the tax that the law asks for at the time."""

    taxes: taxes.Taxes
    zone: ZoneInfo

    def of(self, plan_id: int, until: dt.datetime) -> Tariff:
        """A plan version, taxed as of the last day of a span that ends at `until`. Raises
        RatingError."""
        tariff = tariff_of(plan_id)
        if not tariff.names_taxes:
            return tariff
        return tariff.taxed(self.taxes, taxes.last_day(until, self.zone))


_COVERS = {
    Coupon.Covers.FEE: frozenset({"fee", "upgrade"}),
    Coupon.Covers.ALL: frozenset({"fee", "upgrade", "overage", "block", "booster"}),
}


@lru_cache(maxsize=10_000)
def discount_of(coupon_id: int, nth: int) -> rating.Discount:
    """What a coupon takes off from the `nth` of its periods."""
    coupon = Coupon.objects.get(pk=coupon_id)
    lasts = {} if coupon.periods is None else {"nth": nth, "periods": coupon.periods}
    return rating.Discount(
        name=coupon.name,
        percent=coupon.percent,
        amount=coupon.amount.amount if coupon.amount is not None else None,
        price=coupon.price.amount if coupon.price is not None else None,
        covers=_COVERS[Coupon.Covers(coupon.covers)],
        basis={"coupon": coupon.code, **lasts},
    )


@dataclass(frozen=True, slots=True)
class _BoosterPrice:
    code: str
    version: int
    name: str
    currency: str
    price: Decimal


@lru_cache(maxsize=10_000)
def _booster_of(booster_id: int) -> _BoosterPrice:
    booster = Booster.objects.filter(pk=booster_id).first()
    if booster is None:
        raise RatingError(f"there is no booster version {booster_id}")
    return _BoosterPrice(
        code=booster.code,
        version=booster.version,
        name=booster.name,
        currency=booster.price.currency.code,
        price=booster.price.amount,
    )


# Writing -----------------------------------------------------------------------------------------

_IDS_SQL = "SELECT nextval('billing_invoice_id') FROM generate_series(1, %s)"
_DRAFT_SQL = """
INSERT INTO billing_invoice
    (subscriber_id, id, operator_id, kind, subscription_id, plan_id, period_start, period_end,
     state, currency, net, tax, gross, paid, reason)
SELECT d.subscriber_id, d.id, %s, %s, nullif(d.subscription_id, 0), nullif(d.plan_id, 0),
       d.period_start, d.period_end, 'draft', d.currency, d.net, d.tax, d.net + d.tax, 0, ''
FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::timestamptz[],
            %s::timestamptz[], %s::text[], %s::text[]::numeric[], %s::text[]::numeric[])
     AS d (subscriber_id, id, subscription_id, plan_id, period_start, period_end, currency, net,
           tax)
"""
_LINES_SQL = """
COPY billing_invoiceline
    (subscriber_id, invoice_id, nr, kind, description, bucket_id, units, net, tax_rate, tax, gross,
     basis)
FROM STDIN
"""


def store(operator: Operator, drafts: Sequence[Draft], *, kind: str = Invoice.Kind.PERIOD) -> None:
    """Write drafts of a kind with their lines, and note their ids."""
    with pgarrays.statements() as cursor:
        cursor.execute(_IDS_SQL, [len(drafts)])
        for draft, (invoice_id,) in zip(drafts, sorted(cursor.fetchall()), strict=True):
            draft.id, draft.kind = invoice_id, kind
        cursor.execute(
            _DRAFT_SQL,
            [
                operator.pk,
                kind,
                Int8s(d.due.subscriber_id for d in drafts),
                Int8s(d.id for d in drafts),
                Int8s(d.due.subscription_id for d in drafts),
                Int8s(d.due.plan_id for d in drafts),
                Instants(d.due.starts_at for d in drafts),
                Instants(d.due.ends_at for d in drafts),
                Texts(d.tariff.currency for d in drafts),
                Texts(str(d.totals.net) for d in drafts),
                Texts(str(d.totals.tax) for d in drafts),
            ],
        )
        with cursor.copy(_LINES_SQL) as copy:
            for d in drafts:
                for nr, line in enumerate(d.lines, 1):
                    copy.write_row(_line_row(d.due.subscriber_id, d.id, nr, line))


def _line_row(subscriber_id: int, invoice_id: int, nr: int, line: Line) -> tuple[Any, ...]:
    return (
        subscriber_id,
        invoice_id,
        nr,
        line.kind,
        line.description,
        line.bucket_id,
        line.units,
        line.net,
        line.tax_rate,
        line.tax,
        line.gross,
        msgspec.json.encode(line.basis).decode(),
    )


def post_drafts(
    operator: Operator, drafts: Iterable[Draft], *, at: dt.datetime, ended_by: dt.datetime
) -> None:
    """Each invoice's posting: what is owed, against what was earned or deferred, and its tax."""
    postings = []
    sales: list[deferral.Sale] = []
    for d in drafts:
        parts = deferral.in_advance(d.lines)
        sold = _sold_in_advance(d, parts) if parts else []
        sides = sides_of(
            d.lines,
            d.due.subscriber_id,
            d.tariff.code,
            apart=parts,
            instead=[
                Side(ledger.deferred(sale.code, sale.tax_rate), -sale.net, sale.subscriber_id)
                for sale in sold
            ],
        )
        postings.append(ledger.Draft(d.posting_key, "invoice", at, d.tariff.currency, tuple(sides)))
        sales += sold
    posted = ledger.post_many(operator.pk, postings)
    assert posted == sum(any(side.amount for side in p.sides) for p in postings)
    deferral.defer(operator, sales, at=at, ended_by=ended_by)


def _sold_in_advance(d: Draft, parts: dict[int, int]) -> list[deferral.Sale]:
    """What an invoice sells in advance, less discounts; `parts` are the lines of each."""
    nets: dict[int, Decimal] = defaultdict(Decimal)
    for nr, whole in parts.items():
        nets[whole] += d.lines[nr - 1].net
    sales = []
    for nr, net in nets.items():
        line = d.lines[nr - 1]
        assert line.bucket_id is not None
        assert line.units is not None
        sales.append(
            deferral.Sale(
                d.due.subscriber_id,
                line.bucket_id,
                d.id,
                _earner(line, d.tariff.code),
                line.tax_rate,
                d.tariff.currency,
                net,
                line.units,
            )
        )
    return sales


def sides_of(
    lines: Iterable[Line],
    subscriber_id: int,
    plan_code: str,
    *,
    apart: Collection[int] = (),
    instead: Iterable[Side] = (),
) -> list[Side]:
    """Receivable against revenue and tax; lines that earn for the same account are one entry.

    Lines numbered `apart` (from 1) earn nothing yet: `instead` books their net.
    """
    earned: dict[str, Decimal] = defaultdict(Decimal)
    gross = rating.ZERO
    for nr, line in enumerate(lines, 1):
        gross += line.gross
        if nr not in apart:
            earned[_income(line, plan_code)] -= line.net
        earned[ledger.vat(line.tax_rate)] -= line.tax
    return [
        Side(ledger.RECEIVABLE, gross, subscriber_id),
        *(Side(account, amount) for account, amount in earned.items()),
        *instead,
    ]


def _income(line: Line, plan_code: str) -> str:
    """The account of what a line earns."""
    if line.kind == InvoiceLine.Kind.LATE_FEE:
        return ledger.LATE_FEE
    if line.kind == InvoiceLine.Kind.COMPENSATION:
        return ledger.COMPENSATION
    return ledger.revenue(_earner(line, plan_code), line.tax_rate)


def _earner(line: Line, plan_code: str) -> str:
    """What a line's revenue is booked to: the booster sold, the plan priced, else the period's."""
    if "booster" in line.basis:
        return f"booster/{line.basis['booster']}"
    return str(line.basis.get("plan", plan_code))


# Taking back -------------------------------------------------------------------------------------


class NotCreditable(Conflict):
    cause = "not_creditable"


class FapiaoIssued(Conflict):
    cause = "fapiao_issued"


def creditable(operator: Operator, number: str, amount: Decimal | None) -> tuple[Invoice, Decimal]:
    """An invoice, locked, and what of it no note has credited.

    Raises NotFound, NotCreditable (void, itself a credit note, or nothing left of it), Invalid for
    an amount that is none or more than is left.
    """
    original = locked(operator, number)
    gone = (Invoice.State.VOID, Invoice.State.UNCOLLECTIBLE)
    if original.kind == Invoice.Kind.CREDIT_NOTE or original.state in gone:
        raise NotCreditable("only an invoice that is owed or paid can be credited")
    charged = {line.nr: line for line in lines_of([original.id], original.subscriber_id)}
    whole = crediting.left_of(left_of(original, charged))
    if whole <= 0:
        raise NotCreditable("nothing of this invoice is left to be credited")
    if amount is not None and not 0 < amount <= whole:
        raise Invalid(f"of this invoice {whole} {original.currency} can be credited")
    return original, whole


@transaction.atomic
def credit(
    operator: Operator,
    number: str,
    *,
    reason: str,
    at: dt.datetime,
    amount: Decimal | None = None,
    rules: corrections.Rules = corrections.NO_RULES,
) -> Invoice:
    """Issue a credit note against an invoice: over `amount`, or over all that no note has credited.

    A part is spread over the lines by what is left of them (billing/crediting.py). The note first
    lowers what is due on the invoice; what goes beyond is due to the subscriber. Each call is a
    note of its own. `rules`: it is an over-charge, repaid by them. Raises as `creditable` does.
    """
    original, _ = creditable(operator, number, amount)
    charged = {line.nr: line for line in lines_of([original.id], original.subscriber_id)}
    left = left_of(original, charged)
    lines = note_lines(original, charged, crediting.take_back(left, amount))
    lines += corrections.compensation_lines(-rating.totals(lines).gross, rules)
    return write_note(operator, original, charged, lines, reason=reason, at=at)


def note_lines(
    original: Invoice, charged: Mapping[int, InvoiceLine], taken: Iterable[crediting.Back]
) -> list[Line]:
    """What is taken back of an invoice's lines, as lines of a credit note."""
    return [
        Line(
            charged[back.nr].kind,
            charged[back.nr].description,
            None,
            -back.net,
            charged[back.nr].tax_rate,
            -back.tax,
            -back.gross,
            {
                "credits": original.number,
                "line": back.nr,
                **{
                    key: charged[back.nr].basis[key]
                    for key in ("plan", "version", "booster")
                    if key in charged[back.nr].basis
                },
            },
        )
        for back in taken
    ]


def write_note(
    operator: Operator,
    original: Invoice,
    charged: dict[int, InvoiceLine],
    lines: Sequence[Line],
    *,
    reason: str,
    at: dt.datetime,
    paid_back: Decimal = rating.ZERO,
    settle_up: bool = True,
) -> Invoice:
    """A credit note of these lines against an invoice of these `charged` ones, posted, issued, and
    settled with what is due on it. Each line but compensation names one that it takes back from.
    What of it is `paid_back`, by a refund of the caller's, lowers nothing that is due. Without
    `settle_up` no debt is looked at: by who has just issued the original, which is not due yet, and
    does not hold the subscriber's row.

    Joins the caller's transaction, which holds the invoice's lock.
    """
    plan_code = plan_code_of(original)
    totals = rating.totals(lines)
    with connection.cursor() as cursor:
        cursor.execute(_IDS_SQL, [1])
        [(note_id,)] = cursor.fetchall()
    note = Invoice.objects.create(
        subscriber_id=original.subscriber_id,
        id=note_id,
        operator_id=operator.pk,
        kind=Invoice.Kind.CREDIT_NOTE,
        subscription_id=original.subscription_id,
        plan_id=original.plan_id,
        period_start=original.period_start,
        period_end=original.period_end,
        original_id=original.id,
        currency=original.currency,
        net=totals.net,
        tax=totals.tax,
        gross=totals.gross,
        reason=reason,
    )
    with connection.cursor() as cursor, cursor.copy(_LINES_SQL) as copy:
        for nr, line in enumerate(lines, 1):
            copy.write_row(_line_row(original.subscriber_id, note_id, nr, line))
    numbers = [line.basis.get("line", 0) for line in lines]
    sides = _sides_back(original.subscriber_id, lines, numbers, charged, plan_code)
    key = f"credit_note:{note_id}"
    ledger.post(
        operator.pk, ledger.Draft(key, "credit_note", at, original.currency, sides, reason[:200])
    )
    issue(operator, [(original.subscriber_id, note_id)], at=at)
    note = Invoice.objects.get(subscriber_id=original.subscriber_id, id=note_id)
    settled = min(-note.gross - paid_back, max(amount_due(original), rating.ZERO))
    settle(original, settled)
    settle(note, -settled - paid_back)
    if settle_up:
        dunning.settle_up(operator, original.subscriber_id, at=at)
    return note


def left_of(original: Invoice, charged: Mapping[int, InvoiceLine]) -> list[crediting.Left]:
    """What no credit note has taken back of an invoice's lines."""
    notes = Invoice.objects.filter(
        subscriber_id=original.subscriber_id, original_id=original.id
    ).values_list("id", flat=True)
    gross = {nr: line.gross for nr, line in charged.items()}
    net = {nr: line.net for nr, line in charged.items()}
    for credited in lines_of(list(notes), original.subscriber_id):
        if "line" not in credited.basis:  # compensation takes nothing back
            continue
        gross[credited.basis["line"]] += credited.gross
        net[credited.basis["line"]] += credited.net
    return [
        crediting.Left(
            nr=nr,
            tax_rate=line.tax_rate,
            gross=line.gross,
            left_gross=gross[nr],
            left_net=net[nr],
            part_of=line.basis.get("line"),
        )
        for nr, line in charged.items()
    ]


@transaction.atomic
def void(operator: Operator, number: str, *, reason: str, at: dt.datetime) -> Invoice:
    """Make an invoice void of which nothing is paid or credited: nothing of it is owed any more.

    Its number stays its own, its period is not billed again. Again changes nothing. Raises
    NotFound, NotCreditable, FapiaoIssued.
    """
    invoice = locked(operator, number)
    if invoice.state == Invoice.State.VOID:
        return invoice
    if (
        invoice.kind == Invoice.Kind.CREDIT_NOTE
        or invoice.state == Invoice.State.UNCOLLECTIBLE
        or invoice.paid
        or Invoice.objects.filter(
            subscriber_id=invoice.subscriber_id, original_id=invoice.id
        ).exists()
    ):
        raise NotCreditable("something of it is paid, credited or written off")
    charged = {line.nr: line for line in lines_of([invoice.id], invoice.subscriber_id)}
    _refuse_with_fapiao(invoice)
    lines = [
        Line(
            line.kind,
            line.description,
            line.units,
            -line.net,
            line.tax_rate,
            -line.tax,
            -line.gross,
            line.basis,
        )
        for line in charged.values()
    ]
    plan_code = plan_code_of(invoice)
    sides = _sides_back(invoice.subscriber_id, lines, list(charged), charged, plan_code)
    key = f"void:{invoice.id}"
    ledger.post(operator.pk, ledger.Draft(key, "void", at, invoice.currency, sides, reason[:200]))
    invoice.state = Invoice.State.VOID
    invoice.reason = reason
    Invoice.objects.filter(subscriber_id=invoice.subscriber_id, id=invoice.id).update(
        state=invoice.state, reason=reason
    )
    dunning.settle_up(operator, invoice.subscriber_id, at=at)
    return invoice


def _refuse_with_fapiao(invoice: Invoice) -> None:
    """An e-fapiao of it says that it is owed, and only a red one can unsay that. Raises
    FapiaoIssued."""
    blue = (
        FapiaoRequest.objects.filter(
            subscriber_id=invoice.subscriber_id, invoice_id=invoice.id, original__isnull=True
        )
        .exclude(state__in=[FapiaoRequest.State.FAILED, FapiaoRequest.State.RED_ISSUED])
        .first()
    )
    if blue is None:
        return
    if blue.number is None:
        raise FapiaoIssued(
            f"e-fapiao {blue.request_id} of this invoice is under way: wait until it is issued, ask"
            " for a red one over all of it (reason `wrong`), and make the invoice void when that is"
            " issued"
        )
    raise FapiaoIssued(
        f"e-fapiao {blue.number} of this invoice is issued: ask for a red one over all of it"
        " (reason `wrong`) and make the invoice void when that is issued, or write a credit note"
        " and ask for the red one of it"
    )


class NotDue(Conflict):
    cause = "not_due"


@transaction.atomic
def write_off(operator: Operator, number: str, *, reason: str, at: dt.datetime) -> Invoice:
    """Give up what is still due on an open invoice: it is an expense from `at` on.

    The expense is the whole amount due, tax included: the supply was made and its VAT is payable
    whether or not the subscriber pays (China gives no relief for a bad debt; where a tax office
    does, that is a posting of the accountants' own). What was sold in advance stays deferred and
    is earned as it burns. The claim stays: what comes in later takes so much of the expense back
    (billing/payments.py). Again changes nothing. Raises NotFound, NotDue.
    """
    invoice = locked(operator, number)
    if invoice.state == Invoice.State.UNCOLLECTIBLE:
        return invoice
    check_due(invoice)
    due = amount_due(invoice)
    sides = (
        Side(ledger.WRITE_OFF, due, invoice.subscriber_id),
        Side(ledger.RECEIVABLE, -due, invoice.subscriber_id),
    )
    key = f"write_off:{invoice.id}"
    ledger.post(
        operator.pk, ledger.Draft(key, "write_off", at, invoice.currency, sides, reason[:200])
    )
    invoice.state, invoice.reason = Invoice.State.UNCOLLECTIBLE, reason
    Invoice.objects.filter(subscriber_id=invoice.subscriber_id, id=invoice.id).update(
        state=invoice.state, reason=reason
    )
    dunning.settle_up(operator, invoice.subscriber_id, at=at)
    return invoice


def check_due(invoice: Invoice) -> None:
    """Raises NotDue for an invoice of which nothing could be written off."""
    note = invoice.kind == Invoice.Kind.CREDIT_NOTE
    if note or invoice.state != Invoice.State.OPEN or amount_due(invoice) <= 0:
        raise NotDue("only what is due on an open invoice can be written off")


def _sides_back(
    subscriber_id: int,
    lines: Sequence[Line],
    numbers: Sequence[int],
    charged: dict[int, InvoiceLine],
    plan_code: str,
) -> tuple[Side, ...]:
    """The entries of lines that take back what these `numbers` of an invoice charged: of what was
    sold in advance first what is not earned yet."""
    parts = deferral.in_advance(list(charged.values()))
    amounts: dict[int, Decimal] = defaultdict(Decimal)
    buckets = {nr: charged[whole].bucket_id for nr, whole in parts.items()}
    for nr, line in zip(numbers, lines, strict=True):
        bucket_id = buckets.get(nr)
        if bucket_id is not None:
            amounts[bucket_id] -= line.net
    booked = deferral.take_back(subscriber_id, amounts) if amounts else {}
    return tuple(
        sides_of(
            lines,
            subscriber_id,
            plan_code,
            apart={place for place, nr in enumerate(numbers, 1) if buckets.get(nr) in booked},
            instead=[side for sides in booked.values() for side in sides],
        )
    )


def plan_code_of(invoice: Invoice) -> str:
    """What an invoice earns for where its lines do not say; "" where no plan was held."""
    return "" if invoice.plan_id is None else tariff_of(invoice.plan_id).code


def locked(operator: Operator, number: str) -> Invoice:
    """An invoice by its number, locked until the transaction ends, after its subscriber.

    Raises NotFound.
    """
    found = find(operator, number)
    Subscriber.objects.select_for_update(no_key=True).get(pk=found.subscriber_id)
    return Invoice.objects.select_for_update(no_key=True).get(
        subscriber_id=found.subscriber_id, id=found.id
    )


def lines_of(invoice_ids: Sequence[int], subscriber_id: int) -> list[InvoiceLine]:
    return list(
        InvoiceLine.objects.filter(
            subscriber_id=subscriber_id, invoice_id__in=invoice_ids
        ).order_by("invoice_id", "nr")
    )


def settle(invoice: Invoice, amount: Decimal) -> None:
    """Count an amount as paid of an invoice (< 0: of a credit note)."""
    if not amount:
        return
    invoice.paid += amount
    if invoice.paid == invoice.gross:
        invoice.state = Invoice.State.PAID
    elif invoice.state == Invoice.State.PAID:
        # A payment was taken back.
        invoice.state = Invoice.State.OPEN
    Invoice.objects.filter(subscriber_id=invoice.subscriber_id, id=invoice.id).update(
        paid=invoice.paid, state=invoice.state
    )


_SETTLE_SQL = """
UPDATE billing_invoice i
SET paid = i.paid + a.amount,
    state = CASE WHEN i.paid + a.amount = i.gross THEN 'paid' ELSE i.state END
FROM unnest(%s::bigint[], %s::bigint[], %s::text[]::numeric[]) AS a (subscriber_id, id, amount)
WHERE i.subscriber_id = a.subscriber_id AND i.id = a.id
"""


def settle_many(amounts: Mapping[tuple[int, int], Decimal]) -> None:
    """Count amounts as paid of invoices (subscriber, invoice), in the caller's transaction."""
    keys = sorted(amounts)
    with pgarrays.statements() as cursor:
        cursor.execute(
            _SETTLE_SQL,
            [
                Int8s(subscriber_id for subscriber_id, _ in keys),
                Int8s(invoice_id for _, invoice_id in keys),
                Texts(str(amounts[key]) for key in keys),
            ],
        )


# Numbers -----------------------------------------------------------------------------------------

_COUNT_SQL = """
INSERT INTO billing_invoicecounter AS c (operator_id, year, last) VALUES (%s, %s, %s)
ON CONFLICT (operator_id, year) DO UPDATE SET last = c.last + EXCLUDED.last
RETURNING last
"""
_ISSUED_BEFORE_SQL = """
SELECT i.issued_at FROM billing_invoicenumber n
JOIN billing_invoice i ON i.subscriber_id = n.subscriber_id AND i.id = n.invoice_id
WHERE n.operator_id = %s AND n.year = %s AND n.nr = %s
"""
_NUMBER_SQL = """
WITH numbered AS (
    INSERT INTO billing_invoicenumber (operator_id, year, nr, subscriber_id, invoice_id)
    SELECT %(operator)s, %(year)s,
           %(before)s + row_number() OVER (ORDER BY k.subscriber_id, k.id), k.subscriber_id, k.id
    FROM unnest(%(subscribers)s::bigint[], %(ids)s::bigint[]) AS k (subscriber_id, id)
    RETURNING subscriber_id, invoice_id, nr
)
UPDATE billing_invoice i
SET number = %(prefix)s || lpad(n.nr::text, greatest(8, length(n.nr::text)), '0'),
    state = CASE i.gross WHEN 0 THEN 'paid' ELSE 'open' END, issued_at = %(at)s, due_at = %(due)s
FROM numbered n
WHERE i.subscriber_id = n.subscriber_id AND i.id = n.invoice_id AND i.state = 'draft'
"""


def issue(operator: Operator, keys: Sequence[tuple[int, int]], *, at: dt.datetime) -> None:
    """Number these drafts (subscriber, invoice) without a gap, in their order, as of `at`.

    Or as of the number before, where somebody who looked at the clock later was here earlier:
    numbers are in the order of their issue.

    Joins the caller's transaction and is to be its last step: from here to the commit nobody else
    issues an invoice of this operator's year.
    """
    assert connection.in_atomic_block
    year = at.astimezone(ZoneInfo(operator.time_zone)).year
    with pgarrays.statements() as cursor:
        cursor.execute(_COUNT_SQL, [operator.pk, year, len(keys)])
        [(last,)] = cursor.fetchall()
        cursor.execute(_ISSUED_BEFORE_SQL, [operator.pk, year, last - len(keys)])
        at = max([at, *(issued_at for (issued_at,) in cursor.fetchall())])
        cursor.execute(
            _NUMBER_SQL,
            {
                "operator": operator.pk,
                "year": year,
                "before": last - len(keys),
                "subscribers": Int8s(subscriber_id for subscriber_id, _ in keys),
                "ids": Int8s(invoice_id for _, invoice_id in keys),
                "prefix": f"{number_prefix(operator)}-{year}-",
                "at": at,
                "due": at + operator.payment_term,
            },
        )
        assert cursor.rowcount == len(keys)
    telling.issued(operator, keys)


def amount_due(invoice: Invoice) -> Decimal:
    """What is still to be paid; < 0: what the subscriber gets. Of a void invoice nothing is."""
    return rating.ZERO if invoice.state == Invoice.State.VOID else invoice.gross - invoice.paid


def number_prefix(operator: Operator) -> str:
    """An operator's code as numbers begin with it: capitals, digits and hyphens, 16 at most."""
    return re.sub(r"[^A-Z0-9]+", "-", operator.code.upper()).strip("-")[:16].strip("-") or "X"


_NUMBER = re.compile(r"([A-Z0-9-]+)-(\d{4})-(\d{8,18})", re.ASCII)


def find(operator: Operator, number: str) -> Invoice:
    """The invoice of an operator by its number. Raises NotFound, also for another operator's."""
    found = _NUMBER.fullmatch(number)
    if found and found[1] == number_prefix(operator):
        named = InvoiceNumber.objects.filter(
            operator_id=operator.pk, year=int(found[2]), nr=int(found[3])
        ).first()
        if named is not None:
            invoice = Invoice.objects.get(subscriber_id=named.subscriber_id, id=named.invoice_id)
            if invoice.number == number:
                return invoice
    raise NotFound("there is no such invoice")
