"""Whatever is ordered, paid, lost, told twice, late and out of order: money in is money here."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from django.db import transaction
from django.db.models import Sum
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from billing import due, inbox, receiving, wallets
from billing.models import (
    Order,
    PaymentIntent,
    PaymentTask,
    ProviderPayment,
    WalletMovement,
)
from billing.orders import buying, keeping, paying
from billing.ways.stripe import client as calling
from subscriptions.errors import DomainError
from tests.factories import NOW, make_operator, make_plan, make_subscriber, set_clock
from tests.fakes.stripe_server import FakeStripe
from tests.providers import stripe_account, tell
from tests.usage import HOUR, assert_books_agree

pytestmark = pytest.mark.django_db

_numbers = itertools.count()
ANY = st.integers(0, 50)
TROUBLES = st.sampled_from([None, None, None, 500, "lost"])


class Died(BaseException):
    """The process is no more."""


class Paying(RuleBasedStateMachine):
    """One subscriber at the fake Stripe; each step is taken whole, or dies in the middle."""

    fake: FakeStripe

    @initialize()
    def begin(self) -> None:
        self.fake.begin_anew()
        self.operator = make_operator(f"paying-{next(_numbers)}")
        self.account = stripe_account(self.operator)
        self.at: dt.datetime = NOW
        self.subscriber = make_subscriber(self.operator)
        make_plan(self.operator)
        self.orders: list[str] = []
        self.back = Decimal(0)

    def teardown(self) -> None:
        if hasattr(self, "orders"):
            self.everything_arrives()

    # What people do ---------------------------------------------------------------------------

    @rule(fen=st.sampled_from([1, 990, 5000]))
    def order_top_up(self, fen: int) -> None:
        amount = Decimal(fen) / 100
        made = buying.order_top_up(
            self.operator, self.subscriber.pk, amount, currency="CNY", at=self.at
        )
        self.orders.append(made.number)

    @rule()
    def order_plan(self) -> None:
        self._try(
            lambda: self.orders.append(
                buying.order_plan(self.operator, self.subscriber.pk, "light", at=self.at).number
            )
        )

    @rule(which=ANY, way=st.sampled_from(["alipay", "wechat_pay", "card", "wallet"]), bad=TROUBLES)
    def pay(self, which: int, way: str, bad: int | str | None) -> None:
        if not self.orders:
            return
        number = self.orders[which % len(self.orders)]
        if bad is not None and way != "wallet":
            self.fake.troubles.append(bad)
        self._try(
            lambda: paying.pay(self.operator, number, way, at=self.at, return_url="https://a.org")
        )
        self.fake.troubles.clear()

    @rule(which=ANY, lie=st.sampled_from([{}, {}, {}, {"amount_received": 7}]))
    def payer_pays(self, which: int, lie: dict[str, Any]) -> None:
        open_ = [
            one["id"]
            for one in (*self.fake.of("payment_intent"), *self.fake.of("checkout.session"))
            if one["status"] in ("open", "requires_action", "requires_payment_method")
        ]
        if open_:
            self.fake.lies = lie
            self.fake.pay(open_[which % len(open_)])

    @rule(which=ANY)
    def cancel(self, which: int) -> None:
        if self.orders:
            number = self.orders[which % len(self.orders)]
            self._try(lambda: keeping.cancel(self.operator, number, reason="x", at=self.at))

    # What machines do -------------------------------------------------------------------------

    @rule(which=ANY, twice=st.booleans())
    def told(self, which: int, twice: bool) -> None:
        bodies = self.fake.bodies()
        if bodies:
            for _ in range(1 + twice):
                assert tell(self.account, bodies[which % len(bodies)]).status_code == 200

    @rule(dies=st.booleans())
    def work(self, dies: bool) -> None:
        """A worker that dies after what it did and before the commit has done nothing."""
        if not dies:
            inbox.work(self.operator, at=self.at)
            return
        try:
            with transaction.atomic():
                inbox.work(self.operator, at=self.at, limit=1)
                raise Died
        except Died:
            pass

    @rule(hours=st.sampled_from([1, 25, 80]))
    def time_goes_by(self, hours: int) -> None:
        self.at += hours * HOUR
        set_clock(self.operator, self.at)
        if hours > 24:
            self.fake.forget_keys()

    @rule(bad=TROUBLES)
    def sweep(self, bad: int | str | None) -> None:
        if bad is not None:
            self.fake.troubles.append(bad)
        due.expire_orders(self.operator, at=self.at)
        paying.ask_again(self.operator, at=self.at)
        paying.recall(self.operator, at=self.at)
        self.fake.troubles.clear()

    @rule(action=st.sampled_from(["wallet", "refund", "note"]))
    def staff(self, action: str) -> None:
        task = self._of(PaymentTask).filter(state="open").first()
        if task is not None:
            self.fake.lies = {}
            self.fake.refunds_wait = False
            self._try(
                lambda: receiving.resolve(self.operator, task.pk, action, note="x", at=self.at)
            )

    # What is always true ----------------------------------------------------------------------

    def everything_arrives(self) -> None:
        """All is told, worked and swept: then what Stripe took is what is here, to the fen."""
        self.at += 2 * HOUR
        set_clock(self.operator, self.at)
        for body in self.fake.bodies():
            tell(self.account, body)
        self.sweep(None)
        while inbox.work(self.operator, at=self.at):
            pass
        # What came by a notice has ended the order's other attempts: Stripe is to hear of that.
        self.sweep(None)
        took = {
            one["id"]: Decimal(one["amount_received"]) / 100
            for one in self.fake.of("payment_intent")
            if one["amount_received"]
        }
        kept = dict(self._of(ProviderPayment).values_list("reference", "amount"))
        assert kept.keys() == took.keys()
        for id in kept:
            if kept[id] != took[id]:  # a session and its payment say different things
                told = self._of(PaymentTask).get(cause="two_amounts", detail__startswith=id)
                assert f"{took[id]:.2f}" in told.detail
        assert not self._of(PaymentIntent).filter(state="intended").exists()
        stale = (
            self._of(PaymentIntent).filter(state="cancelled").values_list("reference", flat=True)
        )
        for one in (*self.fake.of("payment_intent"), *self.fake.of("checkout.session")):
            if one["id"] in stale:
                assert one["status"] not in ("open", "requires_action")

    @invariant()
    def money_in_is_granted_or_in_the_wallet_or_unclear(self) -> None:
        if not hasattr(self, "orders"):
            return
        came = self._of(ProviderPayment).filter(became__in=["granted", "wallet"])
        online = self._of(Order).filter(paid_at__isnull=False).exclude(way="wallet")
        granted = self._sum(online)
        into = self._of(WalletMovement).filter(amount__gt=0)
        late = self._sum(into.filter(key__startswith="provider:"))
        assert self._sum(came) == granted + late
        topped_up = self._sum(online.filter(kind="top_up"))
        spent = self._sum(self._of(Order).filter(way="wallet"))
        balance = wallets.balance_of(self.subscriber.pk, "CNY")
        assert balance == topped_up + late - spent
        assert self._of(Order).filter(kind="plan", paid_at__isnull=False).count() <= 1

    def _sum(self, rows: Any) -> Decimal:
        return rows.aggregate(x=Sum("amount"))["x"] or Decimal(0)

    def _of(self, model: Any) -> Any:
        return model.objects.filter(operator=self.operator)

    def _try(self, do: Callable[[], object]) -> None:
        """What is refused has done nothing; what Stripe did not answer is asked again."""
        with suppress(DomainError):
            do()


def test_money_in_is_money_here(settings: Any, db: None) -> None:
    fake = FakeStripe()
    settings.STRIPE_API = fake.start()
    Paying.fake = fake
    try:
        run_state_machine_as_test(Paying, settings=QUICK)
        assert_books_agree()
    finally:
        fake.stop()
        calling.forget_connections()


QUICK = settings(
    max_examples=15,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
