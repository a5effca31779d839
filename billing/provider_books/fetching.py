"""Days of providers' balances, asked for instead of imported from a file.

A day of the operator's is asked for once it is over, and kept as a file is, whole or not at all;
the provider is called outside of any transaction. What is kept says which days are done, so a crash
asks again, and the same again changes nothing.
"""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

from django.db.models import Q

from billing.models import ProviderAccount, ProviderFile
from billing.provider_books import importing, reading
from billing.provider_books.importing import Loaded
from billing.ways import known
from billing.ways.provider import Moved, TellsBalance, Unavailable
from subscriptions import periods
from subscriptions.errors import Invalid
from subscriptions.models import Operator

# Who imported what nobody has.
BY = "fetched"
# After a day's end: what moved in its last minutes is told by then.
_LATER = dt.timedelta(hours=2)
# Of an account that has ended refunds and disputes are heard for so long.
_ENDED = dt.timedelta(days=180)
_BACK = 31  # days at most, of an account that was never asked


def run(operator: Operator, *, at: dt.datetime, most: int = 31) -> int:
    """Ask each provider for the days that are over and not here yet, the earliest first; answers
    how many came. One that does not answer is asked by the next round."""
    done = 0
    for account in _accounts(operator, at=at):
        for day in _missing(operator, account, at=at):
            if done == most:
                return done
            try:
                fetch(operator, account, day, at=at)
            except Unavailable:
                break
            done += 1
    return done


def fetch(operator: Operator, account: ProviderAccount, day: dt.date, *, at: dt.datetime) -> Loaded:
    """One day of an account's balance, compared with our books. Raises Unavailable, Invalid for a
    day that is not over, or a provider that tells only in files."""
    since, until = _span(operator, day)
    if until > at:
        raise Invalid(f"{day} is not over yet")
    partner = known.partner_of(account, at=at)
    if not isinstance(partner, TellsBalance):
        raise Invalid(f"{account.provider} tells what moved in files only: import one")
    told = [_line(nr, one, operator) for nr, one in enumerate(partner.moved(since, until), 1)]
    name = " ".join(filter(None, (account.provider, account.name, str(day))))
    return importing.take_day(
        operator, told, day=day, account=account.provider, name=name, by=BY, at=at
    )


def accounts_of(operator: Operator, *, at: dt.datetime) -> list[ProviderAccount]:
    """The accounts whose balance is asked for."""
    return _accounts(operator, at=at)


def _accounts(operator: Operator, *, at: dt.datetime) -> list[ProviderAccount]:
    rows = ProviderAccount.objects.filter(operator=operator)
    heard = rows.filter(Q(ended_at=None) | Q(ended_at__gt=at - _ENDED)).order_by("pk")
    return [one for one in heard if isinstance(known.partner_of(one, at=at), TellsBalance)]


def _missing(operator: Operator, account: ProviderAccount, *, at: dt.datetime) -> list[dt.date]:
    zone = ZoneInfo(operator.time_zone)
    today = periods.day_of(at - _LATER, zone)
    first = max(periods.day_of(account.created_at, zone), today - dt.timedelta(days=_BACK))
    kept = ProviderFile.objects.filter(
        operator=operator,
        account=account.provider,
        imported_by=BY,
        first_day__gte=first,
        name__startswith=" ".join(filter(None, (account.provider, account.name, ""))),
    )
    here = set(kept.values_list("first_day", flat=True))
    days = (first + dt.timedelta(days=nr) for nr in range((today - first).days))
    return [day for day in days if day not in here]


def _span(operator: Operator, day: dt.date) -> tuple[dt.datetime, dt.datetime]:
    zone = ZoneInfo(operator.time_zone)
    return periods.midnight(day, zone), periods.midnight(day + dt.timedelta(days=1), zone)


def _line(nr: int, one: Moved, operator: Operator) -> reading.Line:
    if one.currency != operator.currency:
        raise reading.BadFile(f"{one.id}: {one.currency}, the books are in {operator.currency}")
    return reading.Line(
        nr,
        one.id,
        one.at,
        one.kind,
        one.gross,
        one.fee,
        one.key[:64],
        one.reference[:255],
        one.payout[:255],
        {"currency": one.currency},
    )
