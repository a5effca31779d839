"""What goes wrong at a month close: no money is wrong by a fen, and `closes` says what happened.

Its workers, broker and database killed: test_close_killed.py, test_close_crashes.py.
"""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from typing import Any

import hypothesis.extra.django
import pytest
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import IntegrityError, transaction
from django.db.models import Sum
from hypothesis import given, settings
from hypothesis import strategies as st
from rest_framework.test import APIClient

from billing import closing, tasks
from billing.models import Entry, Invoice, InvoiceLine
from config.celery import app
from subscriptions import clock, lifecycle
from subscriptions.models import Operator, Plan, SubscriptionPeriod
from tests.at_once import at_once
from tests.factories import (
    client_for,
    local,
    make_key,
    make_operator,
    make_plan,
    make_rate_card,
    make_subscriber,
    set_clock,
    subscribe,
    yuan,
)
from tests.usage import DAY, HOUR, Gateway, T, assert_books_agree, assert_problem, post, put, record

START, CLOSE = local(2026, 6, 1), local(2026, 7, 3)


@pytest.fixture
def operator() -> Operator:
    return make_operator("ct", at=START)


def move(api: APIClient, to: dt.datetime) -> None:
    answer = post(api, "test-clock", {"now": to.isoformat()})
    assert answer.status_code == 200, answer.content


def closes() -> str:
    """What `manage.py closes` prints."""
    out = io.StringIO()
    call_command("closes", stdout=out, no_color=True)
    return out.getvalue()


def bills() -> list[tuple[str | None, Decimal]]:
    """Number and gross of every invoice, in the order of their numbers."""
    return list(Invoice.objects.order_by("number").values_list("number", "gross"))


# Two closes, two beats ---------------------------------------------------------------------------


@pytest.fixture
def by_hand() -> Iterator[None]:
    """What a task rings for is done at once, without a worker."""
    app.conf.task_always_eager = True
    yield
    app.conf.task_always_eager = False


@pytest.mark.django_db(transaction=True)
@pytest.mark.xdist_group("races")
class TestTwice:
    def test_two_closes_started_at_once_bill_each_period_once(self) -> None:
        operator = make_operator("ct", at=START)
        plan = make_plan(operator)
        for nr in range(8):
            subscribe(make_subscriber(operator, f"s-{nr}"), plan)
        set_clock(operator, CLOSE)
        while lifecycle.open_due(operator.pk, at=CLOSE):
            pass

        at_once(*[partial(closing.close_due, operator, at=CLOSE)] * 3)

        assert bills() == [(f"CT-2026-{nr:08}", Decimal("9.90")) for nr in range(1, 9)]
        assert "8 invoices, 0 periods left, 0 failed" in closes()
        assert_books_agree()

    @pytest.mark.usefixtures("by_hand")
    def test_a_beat_that_rings_twice_bills_each_period_once(self) -> None:
        """By the wall's time: a cycle of 40 days ago has ended once since, whatever the month."""
        sold = clock.wall() - 40 * DAY
        operator = make_operator("ct", at=None)
        plan = make_plan(operator, cycle="subscription_day")
        for nr in range(8):
            subscriber = make_subscriber(operator, f"s-{nr}")
            lifecycle.subscribe(operator, subscriber.pk, plan.code, at=sold)
        tasks.open_due_periods()

        at_once(*[tasks.close_due_periods] * 2)
        tasks.close_due_periods()

        assert [gross for _, gross in bills()] == [Decimal("9.90")] * 8
        assert "8 invoices, 0 periods left, 0 failed" in closes()
        assert_books_agree()


# The clock, moved back ---------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_clock_that_is_moved_back_is_refused_and_moves_no_money(operator: Operator) -> None:
    api = client_for(make_key(operator))
    subscribe(make_subscriber(operator), make_plan(operator))
    move(api, CLOSE)
    before = bills()

    answer = post(api, "test-clock", {"now": (CLOSE - HOUR).isoformat()})

    detail = assert_problem(answer, 409, "conflict")["detail"]
    assert detail.startswith(f"the clock stands at {CLOSE.isoformat()}; it cannot go back")
    assert bills() == before == [("CT-2026-00000001", Decimal("9.90"))]
    assert_books_agree()


@pytest.mark.django_db
def test_a_worker_whose_clock_is_behind_bills_nothing_again(operator: Operator) -> None:
    subscribe(make_subscriber(operator), make_plan(operator))
    move(client_for(make_key(operator)), CLOSE + 31 * DAY)
    before = bills()

    for behind in (CLOSE + 31 * DAY - HOUR, CLOSE, START):
        closing.close_due(operator, at=behind)

    assert bills() == before
    assert len(before) == 2
    assert_books_agree()


# A nonsense price --------------------------------------------------------------------------------


NONSENSE: list[Any] = [
    *("-0.01", "NaN", "Infinity", "1e2", "9.999", "1" * 15, "", None, 9.9),
    {"amount": "9.90", "currency": "XYZ"},
    {"amount": "-9.90", "currency": "CNY"},
]


@pytest.mark.django_db
@pytest.mark.parametrize("price", NONSENSE, ids=str)
def test_a_plan_with_a_nonsense_price_is_refused_and_the_field_is_named(
    operator: Operator, price: Any
) -> None:
    make_rate_card(operator)
    plan = {"name": "x", "price": price, "allowance": "1", "rate_card": "standard"}

    problem = assert_problem(put(client_for(make_key(operator)), "plans/x", plan), 422, "invalid")

    assert problem["errors"][0]["field"].startswith("price")
    assert not Plan.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize("price", ["-0.01", "NaN"])
def test_past_the_door_too_a_nonsense_price_reaches_no_plan(operator: Operator, price: str) -> None:
    with pytest.raises((IntegrityError, ValidationError)), transaction.atomic():
        make_plan(operator, price=yuan(price))


@pytest.mark.django_db
def test_the_highest_price_is_billed_to_the_fen(operator: Operator) -> None:
    highest = "99999999999999.99"
    subscribe(make_subscriber(operator), make_plan(operator, price=yuan(highest)))

    move(client_for(make_key(operator)), CLOSE)

    [(_, gross)] = bills()
    assert gross == Decimal(highest)
    assert_books_agree()


# A subscription without a version ----------------------------------------------------------------


@pytest.mark.django_db
def test_a_subscription_without_a_version_is_named_and_the_others_are_billed(
    operator: Operator,
) -> None:
    api = client_for(make_key(operator))
    plan = make_plan(operator)
    for nr in range(6):
        subscribe(make_subscriber(operator, f"s-{nr}"), plan)
    set_clock(operator, CLOSE)
    while lifecycle.open_due(operator.pk, at=CLOSE):
        pass
    june = SubscriptionPeriod.objects.filter(ends_at__lt=CLOSE).order_by("subscriber_id")
    lost = june.filter(subscriber_id=june[3].subscriber_id)
    lost.update(plan_id=10**12)

    move(api, CLOSE)

    assert [gross for _, gross in bills()] == [Decimal("9.90")] * 5
    said = closes()
    assert "5 invoices, 0 periods left, 1 failed" in said
    assert "failed: s-3, tried 1 times: there is no plan version 1000000000000" in said
    lost.update(plan_id=plan.pk)
    call_command("closes", "--retry", stdout=io.StringIO())
    move(api, CLOSE + DAY)
    assert [gross for _, gross in bills()] == [Decimal("9.90")] * 6
    assert "1 failed" not in closes()
    assert_books_agree()


# What is always true -----------------------------------------------------------------------------

USES = st.lists(st.tuples(st.integers(0, 29), st.integers(1, 3_000_000)), max_size=3)


class SumsTests(hypothesis.extra.django.TestCase):  # a fresh transaction per example
    @settings(max_examples=8)
    @given(
        people=st.lists(st.tuples(st.integers(0, 100_000), USES), min_size=1, max_size=4),
        credit=st.integers(1, 100_000),
        months=st.integers(1, 2),
    )
    def test_lines_make_invoices_invoices_make_receivables_and_the_ledger_makes_nothing(
        self, people: list[tuple[int, list[tuple[int, int]]]], credit: int, months: int
    ) -> None:
        operator = make_operator("ct", at=START)
        api, gateway = client_for(make_key(operator)), Gateway(operator)
        for nr, (fen, _) in enumerate(people):
            terms = {"price": yuan(f"{fen / 100:.2f}"), "first_month": "by_day"}
            plan = make_plan(
                operator,
                f"p-{nr}",
                allowance=777 * T,
                on_exhaustion="meter",
                price_per_million="1.23",
                **terms,
            )
            starts = START + (nr * 7) * DAY + nr * HOUR
            set_clock(operator, max(starts, clock.now(operator)))
            subscribe(make_subscriber(operator, f"s-{nr}"), plan)
            assert plan.price.amount * 100 == fen
        set_clock(operator, local(2026, 6, 30, 23))
        for nr, (_, uses) in enumerate(people):
            for day, tokens in uses:
                at = START + day * DAY
                gateway.charge(
                    record(f"u-{day}-{tokens}", subject=f"user-s-{nr}", occurred_at=at)
                    | {"input_tokens": tokens}
                )
        for month in range(months):
            move(api, CLOSE + month * 31 * DAY)
        first = Invoice.objects.order_by("number")[0]
        post(
            api,
            f"invoices/{first.number}/credit",
            {"reason": "kindness", "amount": f"{credit / 100:.2f}"},
        )

        for invoice in Invoice.objects.all():
            lines = InvoiceLine.objects.filter(invoice_id=invoice.id)
            assert all(line.net + line.tax == line.gross for line in lines)
            for name in ("net", "tax", "gross"):
                assert sum(getattr(line, name) for line in lines) == getattr(invoice, name)
        receivable = Entry.objects.filter(account__code="receivable")
        owed = receivable.aggregate(sum=Sum("amount"))["sum"] or 0
        assert Invoice.objects.aggregate(sum=Sum("gross"))["sum"] == owed
        assert not Entry.objects.aggregate(sum=Sum("amount"))["sum"]
        assert_books_agree()
