"""A period is paid once at most, whoever dies, hangs, is told twice, or pays meanwhile."""

from __future__ import annotations

import datetime as dt
from contextlib import suppress
from decimal import Decimal

import hypothesis.extra.django
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing import before_period, wallets
from billing.collecting import running
from billing.models import Order, PaymentIntent, ProviderAccount
from billing.orders import paying
from billing.ways.known import PARTNERS
from billing.ways.provider import Answer, Attempt, Card, Fate, Saving, Unavailable
from subscriptions.errors import DomainError
from subscriptions.models import Operator
from tests.providers import saved_card, stripe_account
from tests.test_collecting import (
    FEE,
    HOUR,
    JULY,
    POINTS,
    TRY,
    Died,
    dying,
    fill,
    july_is_asked_for,
    opened,
    whose,
)
from tests.usage import DAY, assert_books_agree

pytestmark = pytest.mark.django_db

TROUBLES = ("dies", "silent, nothing done", "silent, done", "declines", "waits")


class Company:
    """It charges a saved card once by key; the next new call goes as the test says."""

    ways: tuple[str, ...] = ("card",)
    way, local = "card", False

    def __init__(self) -> None:
        self.trouble = ""
        self.fates: dict[str, Answer] = {}

    def provider(self, way: str) -> Company:
        return self

    def begin_saving(self, saving: Saving) -> Answer:
        return Answer(Fate.WAITING, "cus_1")

    def describe(self, reference: str) -> Card:
        raise Unavailable

    def forget(self, reference: str) -> None:
        raise Unavailable

    def create(self, attempt: Attempt) -> Answer:
        trouble, self.trouble = self.trouble, ""
        if trouble == "dies":
            raise Died
        if trouble == "silent, nothing done":
            raise Unavailable
        if attempt.key not in self.fates:
            fate = {"declines": Fate.FAILED, "waits": Fate.WAITING}.get(trouble, Fate.SUCCEEDED)
            self.fates[attempt.key] = Answer(
                fate, f"pi-{attempt.key}", amount=attempt.amount, currency=attempt.currency
            )
        if trouble == "silent, done":
            raise Unavailable
        return self.fates[attempt.key]

    get = create

    def cancel(self, attempt: Attempt) -> Answer:
        answer = self.create(attempt)
        if answer.fate == Fate.WAITING:
            self.fates[attempt.key] = answer = Answer(Fate.FAILED, answer.reference)
        return answer

    def settle(self) -> None:
        """What waits arrives."""
        for key, said in self.fates.items():
            if said.fate == Fate.WAITING:
                self.fates[key] = Answer(
                    Fate.SUCCEEDED, said.reference, amount=FEE, currency=said.currency
                )

    @property
    def taken(self) -> Decimal:
        return FEE * sum(said.fate == Fate.SUCCEEDED for said in self.fates.values())


def tell(operator: Operator, account: ProviderAccount, company: Company, at: dt.datetime) -> None:
    """Its notices of all it knows, twice."""
    for key, said in list(company.fates.items()) * 2:
        intent = PaymentIntent.objects.get(key=key)
        number = Order.objects.get(id=intent.order_id).number
        paying.hear(operator, number, intent.nr, account, said, at=at)


# Times pass by the hour; a worker may die at any of the points, the company may be in any trouble.
events = st.one_of(
    st.sampled_from(["worker", "lost", "told", "settled", "by hand", "filled", "recall", "period"]),
    st.integers(0, len(POINTS) - 1),
    st.sampled_from(TROUBLES),
)


class RenewalTests(hypothesis.extra.django.TestCase):
    @settings(max_examples=12, deadline=None)
    @given(happened=st.lists(events, min_size=1, max_size=7))
    def test_a_renewal_is_paid_once_at_most_and_all_money_is_somewhere(
        self, happened: list[str | int]
    ) -> None:
        with pytest.MonkeyPatch.context() as patch:
            company, filled, at = Company(), Decimal(0), TRY
            patch.setitem(PARTNERS, "stripe", lambda *_: company)
            operator = july_is_asked_for()
            account = stripe_account(operator)
            saved_card(operator, whose().pk, "pm_1")
            number = Order.objects.get(period_start=JULY).number

            for one in happened:
                with pytest.MonkeyPatch.context() as dies, suppress(Died, DomainError):
                    match one:
                        case int():
                            module, name, where = POINTS[one]
                            dies.setattr(module, name, dying(getattr(module, name), where))
                            running.run(operator, at=at)
                        case "worker":
                            running.run(operator, at=at)
                        case "lost":
                            paying.ask_again(operator, at=at)
                        case "told":
                            tell(operator, account, company, at)
                        case "settled":
                            company.settle()
                        case "by hand":
                            paying.pay(operator, number, "wallet", at=at)
                        case "filled":
                            fill(operator, "30.00", at=at)
                            filled += FEE
                        case "recall":
                            paying.recall(operator, at=at)
                        case "period":
                            before_period.sweep(operator, at=at)
                        case _:
                            company.trouble = one
                            running.run(operator, at=at)
                assert self.paid() <= 1
                at += HOUR

            company.trouble = ""
            company.settle()
            for later in (at, at + HOUR, JULY + DAY, JULY + 2 * DAY):
                paying.ask_again(operator, at=later)
                tell(operator, account, company, later)
                running.run(operator, at=later)
                paying.recall(operator, at=later)

            assert self.paid() <= 1
            assert opened() == self.paid()
            in_wallet = wallets.balance_of(whose().pk, "CNY")
            assert company.taken + filled == FEE * self.paid() + in_wallet
            assert_books_agree()

    def paid(self) -> int:
        return Order.objects.filter(period_start=JULY, state__in=Order.PAID).count()
