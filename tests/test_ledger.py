"""The money ledger: each posting adds up to zero, is posted once, and nobody can edit it."""

from __future__ import annotations

import datetime as dt
import itertools
from decimal import Decimal

import hypothesis.extra.django
import pytest
from django.db import Error, connection, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing import ledger
from billing.ledger import Draft, Side
from billing.models import Account, Entry, Posting
from subscriptions.models import Operator
from tests.conftest import KEPT
from tests.factories import NOW, make_operator, make_subscriber

DAY = dt.timedelta(days=1)


def draft(key: str = "k-1", *sides: tuple[str, str], at: dt.datetime = NOW) -> Draft:
    """A posting of 9.90 that a plan earned, unless the sides say otherwise."""
    given = sides or (("receivable", "9.90"), ("revenue:light:0.06", "-9.34"), ("vat:0.06", "-.56"))
    return Draft(
        key=key,
        kind="test",
        at=at,
        currency="CNY",
        sides=tuple(Side(account, Decimal(amount)) for account, amount in given),
    )


@pytest.fixture
def operator(db: None) -> Operator:
    return make_operator()


def refused(sql: str, words: str) -> None:
    with pytest.raises(Error, match=words), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(sql)


amounts = st.decimals(min_value=-10_000, max_value=10_000, places=2)
codes = st.sampled_from(["receivable", "revenue:light:0.06", "vat:0.06", "wallet", "cash:stripe"])


class LedgerTests(hypothesis.extra.django.TestCase):
    numbers = itertools.count()

    @settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=40)
    @given(
        postings=st.lists(
            st.lists(st.tuples(codes, amounts), min_size=1, max_size=5), min_size=1, max_size=5
        )
    )
    def test_what_adds_up_to_zero_is_posted_and_nothing_else(
        self, postings: list[list[tuple[str, Decimal]]]
    ) -> None:
        operator = make_operator(f"op-{next(self.numbers)}")
        balanced = [
            draft(f"k-{nr}", *[(c, str(a)) for c, a in sides], ("write_off", str(-sum_of(sides))))
            for nr, sides in enumerate(postings)
        ]

        posted = ledger.post_many(operator.pk, balanced)
        again = ledger.post_many(operator.pk, balanced)

        assert (posted, again) == (sum(any(a for _, a in sides) for sides in postings), 0)
        lines = list(ledger.trial_balance(operator.pk, at=NOW))
        assert sum(line.balance for line in lines) == 0
        for code in {c for sides in postings for c, _ in sides}:
            said = sum(a for sides in postings for c, a in sides if c == code)
            assert sum(line.balance for line in lines if line.account == code) == said
        for nr, sides in enumerate(postings):
            if sum_of(sides):
                pair = (("wallet", "1"), ("wallet", "-1"))
                lopsided = draft(f"w-{nr}", *[(c, str(a)) for c, a in sides], *pair)
                with pytest.raises(Error, match="add up to zero"), transaction.atomic():
                    ledger.post_many(operator.pk, [draft("w"), lopsided])
        assert Posting.objects.filter(operator=operator).count() == posted


def sum_of(sides: list[tuple[str, Decimal]]) -> Decimal:
    return sum((amount for _, amount in sides), Decimal(0))


def test_a_key_is_posted_once_whatever_it_says_later(operator: Operator) -> None:
    assert ledger.post(operator.pk, draft())
    other = draft("k-1", ("receivable", "1"), ("wallet", "-1"))

    assert not ledger.post(operator.pk, other)
    assert ledger.post_many(operator.pk, [other, draft("k-2")]) == 1

    assert sorted(Posting.objects.values_list("key", flat=True)) == ["k-1", "k-2"]
    assert Entry.objects.count() == 6


def test_operators_have_books_of_their_own(operator: Operator) -> None:
    other = make_operator("other")
    ledger.post(operator.pk, draft())

    assert ledger.post(other.pk, draft())
    assert [line.balance for line in ledger.trial_balance(other.pk, at=NOW)] == [
        Decimal("9.90"),
        Decimal("-9.34"),
        Decimal("-0.56"),
    ]
    assert Account.objects.count() == 6


def test_balances_are_those_of_any_date(operator: Operator) -> None:
    subscriber = make_subscriber(operator)
    for day in range(3):
        sides = (
            Side("receivable", Decimal("1.50"), subscriber.pk),
            Side("wallet", Decimal("-1.5")),
        )
        at = NOW + day * DAY
        ledger.post(operator.pk, Draft(f"k-{day}", "test", at, "CNY", sides))

    def owed(at: dt.datetime) -> Decimal:
        return ledger.balance_of(operator.pk, subscriber.pk, "receivable", "CNY", at=at)

    moments = [NOW - DAY, NOW, NOW + DAY, NOW + 9 * DAY]
    assert [owed(at) for at in moments] == [Decimal(a) for a in ("0", "1.50", "3.00", "4.50")]


def test_entries_come_all_at_once_and_on_their_operators_accounts(operator: Operator) -> None:
    other = make_operator("other")
    ledger.post(operator.pk, draft())
    ledger.post(other.pk, draft())
    [posting] = Posting.objects.filter(operator=operator)
    foreign = Account.objects.get(operator=other, code="receivable")

    refused(
        "INSERT INTO billing_entry (posting_id, nr, account_id, amount) VALUES"
        f" ({posting.pk}, 8, {foreign.pk}, 1), ({posting.pk}, 9, {foreign.pk}, -1)",
        "not all there",
    )


@pytest.mark.parametrize("table", ["billing_account", "billing_posting", "billing_entry"])
def test_nobody_edits_the_ledger(operator: Operator, table: str) -> None:
    ledger.post(operator.pk, draft())
    column = {"billing_account": "code", "billing_posting": "kind", "billing_entry": "amount"}

    refused(f"UPDATE {table} SET {column[table]} = {column[table]}", "append-only")
    refused(f"DELETE FROM {table}", "append-only")
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        for kept in KEPT:
            cursor.execute(f"ALTER TABLE {kept} ENABLE TRIGGER kept")
    refused(f"TRUNCATE {table} CASCADE", "is kept")
