"""Whatever is paid, credited, stopped and waited for: a case is where the dates say.

The model below knows only invoices, their due dates and what was paid when; it finds the state of
a line by them alone.
"""

from __future__ import annotations

import datetime as dt
import itertools
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rest_framework.test import APIClient

from billing import dunning, payments
from billing.models import DunningCase, DunningEvent, Invoice, InvoiceLine
from subscriptions import clock
from subscriptions.models import Operator, Suspension
from tests.factories import (
    client_for,
    local,
    make_key,
    make_operator,
    make_plan,
    make_subscriber,
    subscribe,
)
from tests.usage import DAY, assert_books_agree, post

pytestmark = pytest.mark.django_db

START = local(2026, 6, 1)
_codes = itertools.count(1)
MOVES = st.tuples(st.just("wait"), st.integers(1, 25))
PAYMENTS = st.tuples(st.just("pay"), st.integers(0, 2))
PARTS = st.tuples(st.just("part"), st.integers(0, 2))
TWICE = st.tuples(st.just("twice"), st.just(0))


def jump(api: APIClient, to: dt.datetime) -> None:
    assert post(api, "test-clock", {"now": to.isoformat()}).status_code == 200


def said_by_dates(subscriber_id: int, at: dt.datetime, held_since: dt.datetime | None) -> str:
    """The state of a subscriber's debts, by the oldest invoice that is due and not paid."""
    owed = Invoice.objects.filter(subscriber_id=subscriber_id, state="open", due_at__lte=at)
    due = [invoice.due_at for invoice in owed if invoice.due_at]
    if not due:
        return "settled"
    if held_since is not None and at >= held_since + 60 * DAY:
        return "terminated"
    return "suspended" if at >= min(due) + 30 * DAY else "overdue"


@settings(max_examples=6)
@given(
    acts=st.lists(st.one_of(MOVES, MOVES, PAYMENTS, PARTS, TWICE), min_size=3, max_size=8),
)
def test_a_case_is_where_the_dates_say(acts: list[tuple[str, int]]) -> None:
    operator = make_operator(f"p-{next(_codes)}", at=START)
    dunning.set_policy(operator, at=START)
    api = client_for(make_key(operator))
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator))
    own = {"subscriber_id": subscriber.pk}
    jump(api, local(2026, 7, 3))
    for nr, (act, how) in enumerate(acts):
        now = clock.now(Operator.objects.get(pk=operator.pk))
        owed = list(Invoice.objects.filter(**own, state="open").order_by("due_at")[how : how + 1])
        if act == "wait":
            jump(api, now + how * DAY)
        elif act == "twice":
            dunning.run(operator, at=now)
        elif owed:
            left = owed[0].gross - owed[0].paid
            amount = left if act == "pay" or left < 2 else Decimal(1)
            number = str(owed[0].number)
            payments.record(operator, number, amount=amount, key=f"k-{nr}", way="bank", at=now)

        now = clock.now(Operator.objects.get(pk=operator.pk))
        case = DunningCase.objects.filter(**own).first()
        since = None if case is None else case.suspended_at
        state = "settled" if case is None else case.state
        assert state == said_by_dates(subscriber.pk, now, since)
        held = Suspension.objects.filter(**own, ends_at__isnull=True).exists()
        assert held == (state in ("suspended", "terminated"))

    events = list(DunningEvent.objects.filter(**own).order_by("nr"))
    assert [event.nr for event in events] == list(range(1, len(events) + 1))
    assert len({(event.invoice_id, event.kind, event.at) for event in events}) == len(events)
    for invoice in Invoice.objects.filter(**own):
        fees = InvoiceLine.objects.filter(**own, kind="late_fee", description=invoice.number)
        fee = sum((line.gross for line in fees), Decimal(0))
        assert 0 <= fee <= invoice.gross
    assert_books_agree()
