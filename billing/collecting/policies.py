"""By which rules an operator collects: the only writer of CollectionPolicy."""

from __future__ import annotations

import datetime as dt
from bisect import bisect_right
from collections.abc import Callable

from django.db import transaction

from billing import rating
from billing.collecting.schedule import WAYS, Terms
from billing.models import CollectionPolicy
from subscriptions.errors import Invalid
from subscriptions.models import Operator


@transaction.atomic
def set_terms(operator: Operator, terms: Terms, *, by: str, at: dt.datetime) -> Terms:
    """Let these terms hold for what begins to be collected from `at` on. Raises Invalid."""
    _check(terms)
    Operator.objects.select_for_update(no_key=True).get(pk=operator.pk)
    if terms == terms_by(operator.pk)(at):
        return terms
    last = CollectionPolicy.objects.filter(operator=operator).order_by("-nr").first()
    CollectionPolicy.objects.create(
        operator=operator,
        nr=last.nr + 1 if last else 1,
        effective_from=at,
        made_by=by,
        **terms._asdict() | {"ways": list(terms.ways), "retry_days": list(terms.retry_days)},
    )
    return terms


def _check(terms: Terms) -> None:
    if not 0 <= terms.lead_days <= terms.notice_days <= terms.days_ahead <= 30:
        raise Invalid(
            "an order is made at most 30 days ahead, its subscriber told then or later, and the"
            " first try is then or later: days_ahead >= notice_days >= lead_days"
        )
    if not terms.ways or len(set(terms.ways)) != len(terms.ways) or {*terms.ways} - {*WAYS}:
        raise Invalid(f"ways are of {', '.join(WAYS)}, each once")
    days = terms.retry_days
    if not days or days[0] or list(days) != sorted(set(days)) or days[-1] > 60 or len(days) > 20:
        raise Invalid("retry_days begin with 0, each later than the one before, at most 60")
    if not 0 <= terms.from_hour < terms.until_hour <= 24:
        raise Invalid("from_hour is before until_hour, both of one day")
    if not 0 <= terms.grace_days <= 60:
        raise Invalid("grace_days are 0 to 60")
    cap = terms.phone_bill_cap
    if cap is not None and (not 0 <= cap < 10**10 or cap != rating.to_fen(cap)):
        raise Invalid("phone_bill_cap is an amount to the fen, or none")


def terms_by(operator_id: int) -> Callable[[dt.datetime], Terms]:
    """An operator's terms by the instant that something begins."""
    rows = list(CollectionPolicy.objects.filter(operator_id=operator_id).order_by("nr"))
    starts = [row.effective_from for row in rows]
    terms = [Terms(), *(_terms(row) for row in rows)]
    return lambda instant: terms[bisect_right(starts, instant)]


def _terms(row: CollectionPolicy) -> Terms:
    said = {name: getattr(row, name) for name in Terms._fields}
    return Terms(**said | {"ways": tuple(row.ways), "retry_days": tuple(row.retry_days)})
