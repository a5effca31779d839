"""The figures that those who run an operator look at all day: the only writer of DayFigures.

They are counted in the background, the quick ones every few minutes and the slow ones every hour,
so that looking at them costs one row. Units are thousandths; money and shares are decimal strings.

    gateways       a gateway each: records, units and requests a second of the last five minutes,
                   how long after it occurred usage came, when something came last
    quarantine     records that wait, by cause
    windows        windows that differ from a gateway's own totals
    complaints     open, and overdue: those whose answer was promised by now
    subscriptions  active, new today and this month, ended this month, churn: ended of those that
                   were active when the month began
    mrr            what active subscriptions cost a month, by currency
    payments       attempts of today by way: succeeded, failed, waiting, and what succeeded is over
  slow:
    units          of this month: sold, burnt; expiring: left in what ends within seven days
    accounts       balances of the ledger: receivable, wallet, prepaid, deferred
    receivables    what is owed by age
    arpu           invoiced last month for each subscriber that was billed
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from django.db import connection

from billing import ledger, rating, receivables
from billing.models import DayFigures
from subscriptions import periods
from subscriptions.models import Operator

SLOW_AFTER = dt.timedelta(hours=1)
RECENT = dt.timedelta(minutes=5)
SOON = dt.timedelta(days=7)
_ACCOUNTS = (ledger.RECEIVABLE, ledger.WALLET, ledger.PREPAID, "deferred")


class Span(NamedTuple):
    """What is counted: an operator's day and month up to an instant."""

    operator_id: int
    at: dt.datetime
    day: dt.datetime
    month: dt.datetime


def measure(operator: Operator, *, at: dt.datetime) -> DayFigures:
    """Count an operator's figures of the day of `at`, and keep them in place of the last ones."""
    zone = ZoneInfo(operator.time_zone)
    span = Span(operator.pk, at, periods.day_start(at, zone), periods.month_start(at, zone))
    last = latest(operator)
    values: dict[str, Any] = {
        "gateways": _gateways(span),
        "quarantine": dict(_rows(_QUARANTINE_SQL, span)),
        "windows": _rows(_WINDOWS_SQL, span)[0][0],
        **_subscriptions(span),
        "complaints": dict(zip(("open", "overdue"), _rows(_COMPLAINTS_SQL, span)[0], strict=True)),
        "payments": _payments(span),
    }
    slow_at = at
    if last is not None and at - SLOW_AFTER < last.slow_at <= at and last.slow_at >= span.month:
        slow_at = last.slow_at
        values |= {name: last.values[name] for name in _SLOW}
    else:
        values |= _slow(span, zone)
    figures, _ = DayFigures.objects.update_or_create(
        operator=operator,
        day=periods.day_of(at, zone),
        defaults={"measured_at": at, "slow_at": slow_at, "values": values},
    )
    return figures


def latest(operator: Operator) -> DayFigures | None:
    """What was measured last."""
    return DayFigures.objects.filter(operator=operator).order_by("-day").first()


def _rows(sql: str, span: Span, **more: Any) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(sql, span._asdict() | {"recent": span.at - RECENT} | more)
        return list(cursor.fetchall())


# Quick -------------------------------------------------------------------------------------------

_GATEWAYS_SQL = """
SELECT g.name, coalesce(sum(b.records), 0), coalesce(sum(b.units), 0)::bigint,
       coalesce(sum(b.records) FILTER (WHERE b.charged_at > %(recent)s), 0),
       extract(epoch FROM avg(b.charged_at - b.occurred_to)
                          FILTER (WHERE b.charged_at > %(recent)s)),
       max(b.charged_at)
FROM subscriptions_gateway g
LEFT JOIN metering_usagebatch b
  ON b.gateway_id = g.id AND b.charged_at >= %(day)s AND b.charged_at <= %(at)s
WHERE g.operator_id = %(operator_id)s
GROUP BY g.id
ORDER BY g.name, g.id
"""


def _gateways(span: Span) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "records": records,
            "units": units,
            "records_per_second": f"{Decimal(recent) / int(RECENT.total_seconds()):.1f}",
            "seconds_behind": None if behind is None else round(behind),
            "last_at": None if last is None else last.isoformat(),
        }
        for name, records, units, recent, behind, last in _rows(_GATEWAYS_SQL, span)
    ]


_QUARANTINE_SQL = """
SELECT cause, count(*) FROM metering_quarantinedrecord
WHERE operator_id = %(operator_id)s AND resolution = '' GROUP BY 1 ORDER BY 1
"""

_WINDOWS_SQL = """
SELECT count(*) FROM metering_usagewindow
WHERE operator_id = %(operator_id)s AND state = 'differs'
"""

_COMPLAINTS_SQL = """
SELECT count(*), count(*) FILTER (WHERE due_at < %(at)s) FROM billing_complaint
WHERE operator_id = %(operator_id)s AND state = 'open'
"""

# What began and ended at one instant never was.
_SUBSCRIPTIONS_SQL = """
SELECT p.price_currency, p.price,
       count(*) FILTER (WHERE s.starts_at <= %(at)s AND coalesce(s.ends_at > %(at)s, true)),
       count(*) FILTER (WHERE s.starts_at >= %(day)s AND s.starts_at <= %(at)s),
       count(*) FILTER (WHERE s.starts_at >= %(month)s AND s.starts_at <= %(at)s),
       count(*) FILTER (
           WHERE s.ends_at > %(month)s AND s.ends_at <= %(at)s AND s.starts_at < %(month)s),
       count(*) FILTER (WHERE s.starts_at < %(month)s AND coalesce(s.ends_at > %(month)s, true))
FROM subscriptions_subscription s
JOIN subscriptions_plan p ON p.id = s.plan_id
WHERE s.operator_id = %(operator_id)s AND s.ends_at IS DISTINCT FROM s.starts_at
GROUP BY p.id
"""


def _subscriptions(span: Span) -> dict[str, Any]:
    mrr: dict[str, Decimal] = {}
    counts = [0] * 5
    for currency, price, *found in _rows(_SUBSCRIPTIONS_SQL, span):
        counts = [one + more for one, more in zip(counts, found, strict=True)]
        mrr[currency] = mrr.get(currency, rating.ZERO) + price * found[0]
    active, today, month, ended, before = counts
    return {
        "subscriptions": {
            "active": active,
            "new_today": today,
            "new_this_month": month,
            "ended_this_month": ended,
            "churn": f"{Decimal(ended) / before:.4f}" if before else None,
        },
        "mrr": {currency: f"{amount:.2f}" for currency, amount in sorted(mrr.items())},
    }


_PAYMENTS_SQL = """
SELECT way, currency, count(*) FILTER (WHERE state = 'succeeded'),
       count(*) FILTER (WHERE state = 'failed'),
       count(*) FILTER (WHERE state IN ('intended', 'waiting')),
       coalesce(sum(amount) FILTER (WHERE state = 'succeeded'), 0)
FROM billing_paymentintent
WHERE operator_id = %(operator_id)s AND created_at >= %(day)s AND created_at <= %(at)s
GROUP BY 1, 2 ORDER BY 1, 2
"""


def _payments(span: Span) -> list[dict[str, Any]]:
    names = ("way", "currency", "succeeded", "failed", "waiting")
    return [
        dict(zip(names, row, strict=False)) | {"amount": f"{row[-1]:.2f}"}
        for row in _rows(_PAYMENTS_SQL, span)
    ]


# Slow --------------------------------------------------------------------------------------------

_SLOW = ("units", "accounts", "receivables", "arpu")

# A bucket is of an operator by its subscriber.
_SOLD_SQL = """
SELECT coalesce(sum(b.granted) FILTER (
           WHERE b.valid_from >= %(month)s AND b.valid_from <= %(at)s
             AND b.kind IN ('allowance', 'booster')), 0)::bigint,
       coalesce(sum(b.granted - b.used) FILTER (
           WHERE b.valid_from <= %(at)s AND b.valid_until > %(at)s AND b.valid_until <= %(soon)s
             AND b.kind IN ('rollover', 'gift', 'allowance', 'booster')), 0)::bigint
FROM subscriptions_bucket b
JOIN subscriptions_subscriber s ON s.id = b.subscriber_id
WHERE s.operator_id = %(operator_id)s AND b.valid_until > %(month)s
"""

_BURNT_SQL = """
SELECT coalesce(sum(units), 0)::bigint FROM metering_usagebatch
WHERE operator_id = %(operator_id)s AND charged_at >= %(month)s AND charged_at <= %(at)s
"""

_ARPU_SQL = """
SELECT currency, sum(gross), count(DISTINCT subscriber_id) FROM billing_invoice
WHERE operator_id = %(operator_id)s AND issued_at >= %(last_month)s AND issued_at < %(month)s
  AND state <> 'void'
GROUP BY 1 ORDER BY 1
"""


def _slow(span: Span, zone: ZoneInfo) -> dict[str, Any]:
    [(sold, expiring)] = _rows(_SOLD_SQL, span, soon=span.at + SOON)
    [(burnt,)] = _rows(_BURNT_SQL, span)
    last_month = periods.month_start(span.month - dt.timedelta(days=1), zone)
    return {
        "units": {"sold": sold, "burnt": burnt, "expiring": expiring},
        "accounts": _accounts(span),
        "receivables": _receivables(span),
        "arpu": {
            currency: f"{rating.to_fen(gross / many):.2f}"
            for currency, gross, many in _rows(_ARPU_SQL, span, last_month=last_month)
        },
    }


def _accounts(span: Span) -> dict[str, dict[str, str]]:
    sums: dict[tuple[str, str], Decimal] = {}
    for one in ledger.trial_balance(span.operator_id, at=span.at):
        name = one.account.partition(":")[0]
        if name in _ACCOUNTS:
            owed = one.balance if name == ledger.RECEIVABLE else -one.balance
            key = (name, one.currency)
            sums[key] = sums.get(key, rating.ZERO) + owed
    found: dict[str, dict[str, str]] = {name: {} for name in _ACCOUNTS}
    for (name, currency), amount in sums.items():
        found[name][currency] = f"{amount:.2f}"
    return found


_AGES = ("not_due", "days_0_30", "days_31_60", "days_61_90", "days_over_90")


def _receivables(span: Span) -> dict[str, dict[str, str]]:
    sums: dict[str, list[Decimal]] = {}
    for aged in receivables.by_age(span.operator_id, at=span.at):
        of = sums.setdefault(aged.currency, [rating.ZERO] * len(_AGES))
        sums[aged.currency] = _added(of, [getattr(aged, age) for age in _AGES])
    return {
        currency: {age: f"{amount:.2f}" for age, amount in zip(_AGES, of, strict=True)}
        for currency, of in sorted(sums.items())
    }


def _added(one: Sequence[Decimal], other: Sequence[Decimal]) -> list[Decimal]:
    return [first + second for first, second in zip(one, other, strict=True)]
