"""Last bills: what no further bill would ever say.

Whoever holds nothing any more gets no bill to put an adjustment on, and may still be owed one, or
owe: usage came late or is void by now, a booster was bought. Once a calendar month such a
subscriber gets what it owes as an invoice of kind `final`, and what it is owed back as credit notes
that name the invoices, and so the periods, which charged it.

One document in one transaction, from what is not billed at that moment: after a crash, or beside
another, what is on a document already is no change any more.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import NamedTuple
from zoneinfo import ZoneInfo

from django.db import connection, transaction

from billing import closing, corrections, crediting, invoicing, prepaid, rating
from billing.corrections import Rules
from billing.invoicing import Draft, Due
from billing.models import FinalSweep, Invoice, InvoiceLine
from billing.rating import Line, RatingError, Tariff
from subscriptions import taxes
from subscriptions.models import Operator, Plan, Subscriber

log = logging.getLogger(__name__)

_PAGE = 1000
_REASON = "usage that was billed has changed"


def until_of(operator: Operator, *, at: dt.datetime) -> dt.datetime:
    """The end of the last calendar month that can be billed at `at`."""
    zone = ZoneInfo(operator.time_zone)
    local = closing.grace_over(operator, at=at).astimezone(zone)
    return local.replace(day=1, hour=0, minute=0, second=0, microsecond=0).astimezone(dt.UTC)


def run(operator: Operator, *, at: dt.datetime) -> int:
    """Make the last bills of a month that is over, once; answers how many documents were issued.

    Whoever cannot be billed holds up nobody; `reconcile` names it until it is.
    """
    until = until_of(operator, at=at)
    if FinalSweep.objects.filter(operator=operator, until__gte=until).exists():
        return 0
    issued = 0
    for subscriber_id in _candidates(operator, until):
        try:
            while issue_next(operator, subscriber_id, until=until, at=at) is not None:
                issued += 1
        except RatingError as error:
            log.warning("subscriber %s gets no last bill: %s", subscriber_id, error)
    with connection.cursor() as cursor:
        cursor.execute(_SWEPT_SQL, [operator.pk, until])
    return issued


_SWEPT_SQL = """
INSERT INTO billing_finalsweep AS w (operator_id, until) VALUES (%s, %s)
ON CONFLICT (operator_id) DO UPDATE SET until = greatest(w.until, EXCLUDED.until)
"""


# Who gets no further bill: holds no period that is not billed, and opens none.
_NO_BILL_TO_COME = """
    NOT EXISTS (
        SELECT FROM subscriptions_subscription u
        WHERE u.subscriber_id = s.id AND (u.ends_at IS NULL OR u.ends_at > u.opened_until))
    AND NOT EXISTS (
        SELECT FROM subscriptions_subscriptionperiod p
        WHERE p.subscriber_id = s.id AND p.closed_at IS NULL)
"""
_CANDIDATES_SQL = f"""
SELECT s.id
FROM subscriptions_subscriber s
WHERE s.operator_id = %s AND s.id > %s AND {_NO_BILL_TO_COME}
  AND EXISTS (
      SELECT FROM subscriptions_bucket b
      WHERE b.subscriber_id = s.id AND b.kind IN ('overage', 'booster', 'gift')
        AND b.valid_until > %s AND b.valid_from < %s
        AND coalesce((
            SELECT CASE b.kind WHEN 'overage' THEN sum(l.units) <> b.used ELSE false END
            FROM billing_invoiceline l
            WHERE l.subscriber_id = b.subscriber_id AND l.bucket_id = b.id
            HAVING count(*) > 0), b.kind <> 'overage' OR b.used > 0))
ORDER BY s.id
LIMIT %s
"""  # noqa: S608 - of constants
_ALONE_SQL = f"""
SELECT FROM subscriptions_subscriber s WHERE s.id = %s AND {_NO_BILL_TO_COME}
"""


def _candidates(operator: Operator, until: dt.datetime) -> Iterator[int]:
    """Who may want a last bill, each page before the next is asked for."""
    last = 0
    while True:
        with connection.cursor() as cursor:
            span = [until - invoicing.LOOK_BACK, until]
            cursor.execute(_CANDIDATES_SQL, [operator.pk, last, *span, _PAGE])
            page = [row[0] for row in cursor.fetchall()]
        yield from page
        if len(page) < _PAGE:
            return
        last = page[-1]


class _Held(NamedTuple):
    """What a subscriber was billed for last."""

    billed_until: dt.datetime | None
    subscription_id: int
    plan_id: int


@transaction.atomic
def issue_next(
    operator: Operator, subscriber_id: int, *, until: dt.datetime, at: dt.datetime
) -> Invoice | None:
    """One document over what of a subscriber no bill says: a credit note where something is owed
    back, else the last bill of all else. None where there is nothing to say, or another bill is to
    come. Raises RatingError.
    """
    Subscriber.objects.select_for_update(no_key=True).get(pk=subscriber_id)
    held = _held(subscriber_id)
    if not _alone(subscriber_id) or (held.billed_until is not None and held.billed_until >= until):
        return None
    zone = ZoneInfo(operator.time_zone)
    prices = invoicing.Prices(taxes.of_operator(operator.pk), zone)
    tariff = prices.of(held.plan_id, until) if held.plan_id else _bare(operator)
    due = Due(subscriber_id, held.subscription_id, until, until, held.plan_id)
    overflow, sales = invoicing.unbilled([due])
    rules = corrections.rules_of(operator.pk, at=at)
    changed = corrections.allowed(
        operator,
        subscriber_id,
        [line for one in overflow[subscriber_id] for line in invoicing.overflow_lines(one, prices)],
        rules,
        currency=operator.currency,
        at=at,
    )
    for line in changed:
        note = _credited(operator, subscriber_id, line, rules, at=at) if line.gross < 0 else None
        if note is not None:
            return note
    lines = changed + corrections.compensation_lines(corrections.given_back(changed), rules)
    lines += [invoicing.sale_line(sale, tariff, zone) for sale in sales[subscriber_id]]
    if not lines:
        return None
    begins = [sale.sold_at for sale in sales[subscriber_id]]
    start = held.billed_until or min(begins, default=until - invoicing.LOOK_BACK)
    draft = Draft(due._replace(starts_at=start), tariff, lines, rating.totals(lines))
    invoicing.store(operator, [draft], kind=Invoice.Kind.FINAL)
    ended_by = closing.grace_over(operator, at=at)
    invoicing.post_drafts(operator, [draft], at=at, ended_by=ended_by)
    invoicing.issue(operator, [(subscriber_id, draft.id)], at=at)
    prepaid.apply(operator, first_subscriber=subscriber_id, last_subscriber=subscriber_id, at=at)
    return Invoice.objects.get(subscriber_id=subscriber_id, id=draft.id)


def _alone(subscriber_id: int) -> bool:
    """Asked again under the subscriber's lock, without which nothing is sold to it."""
    with connection.cursor() as cursor:
        cursor.execute(_ALONE_SQL, [subscriber_id])
        return cursor.fetchone() is not None


def _held(subscriber_id: int) -> _Held:
    last = (
        Invoice.objects.filter(subscriber_id=subscriber_id)
        .exclude(kind=Invoice.Kind.CREDIT_NOTE)
        .order_by("-period_end")
        .first()
    )
    if last is None:
        return _Held(None, 0, 0)
    return _Held(last.period_end, last.subscription_id or 0, last.plan_id or 0)


def _bare(operator: Operator) -> Tariff:
    """For who never held a plan: boosters are taxed as a plan is that does not say otherwise."""
    return Tariff(
        plan_id=0,
        code="",
        version=0,
        name="",
        currency=operator.currency,
        price=rating.ZERO,
        tax_rate=Decimal(Plan._meta.get_field("tax_rate").default),
        cycle=Plan.Cycle.CALENDAR_MONTH,
        first_month=Plan.FirstMonth.FULL,
    )


# Owed back ---------------------------------------------------------------------------------------


def _credited(
    operator: Operator, subscriber_id: int, line: Line, rules: Rules, *, at: dt.datetime
) -> Invoice | None:
    """A credit note over what a change of an overflow bucket gives back, against the earliest
    invoice of which something of it is left; None where nothing is.

    The next note, or the last bill, says the rest.
    """
    for billed in _charged_for(subscriber_id, line.bucket_id):
        original = Invoice.objects.select_for_update(no_key=True).get(
            subscriber_id=subscriber_id, id=billed.invoice_id
        )
        if original.state in (Invoice.State.VOID, Invoice.State.UNCOLLECTIBLE):
            continue
        of_it = invoicing.lines_of([original.id], subscriber_id)
        charged = {one.nr: one for one in of_it}
        left = invoicing.left_of(original, charged)
        most = _most(left, billed)
        if most <= 0:
            continue
        [own] = [one for one in left if one.nr == billed.nr]
        back = own.some(min(most, -line.gross))
        said = Line(
            InvoiceLine.Kind.ADJUSTMENT,
            line.description,
            line.units if back.gross == -line.gross else None,  # with the last of several
            -back.net,
            billed.tax_rate,
            -back.tax,
            -back.gross,
            {**line.basis, "credits": original.number, "line": billed.nr},
            line.bucket_id,
        )
        lines = [said, *corrections.compensation_lines(-said.gross, rules)]
        return invoicing.write_note(operator, original, charged, lines, reason=_REASON, at=at)
    return None


def _charged_for(subscriber_id: int, bucket_id: int | None) -> list[InvoiceLine]:
    """The lines that charged for a bucket, the earliest first."""
    return list(
        InvoiceLine.objects.filter(
            subscriber_id=subscriber_id, bucket_id=bucket_id, gross__gt=0
        ).order_by("invoice_id", "nr")
    )


def _most(left: Sequence[crediting.Left], billed: InvoiceLine) -> Decimal:
    """What can be taken back of a line: no more than is left of its rate and of the invoice."""
    own = [one for one in left if one.nr == billed.nr]
    rate = [one for one in left if one.tax_rate == billed.tax_rate]
    return min(crediting.left_of(some) for some in (own, rate, left))
