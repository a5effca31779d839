"""Whatever is refunded, fails, is disputed, used and closed: what was paid is kept or went back.

The model below knows only what the provider has done: what came in by it, and what it paid out or
holds. Everything that is ours, the wallet and what orders keep, has to be the rest.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable
from decimal import Decimal

import pytest
from django.db import transaction
from django.db.models import Sum
from hypothesis import given, settings
from hypothesis import strategies as st
from rest_framework.test import APIClient

from billing import disputes, ledger, refunds
from billing.models import Dispute, Order, Refund, Wallet
from billing.orders import buying, paying
from billing.ways.provider import Fate
from subscriptions import catalog, clock
from subscriptions.errors import DomainError
from subscriptions.models import Bucket, Operator
from tests.factories import (
    client_for,
    local,
    make_key,
    make_operator,
    make_plan,
    make_subscriber,
    subscribe,
    yuan,
)
from tests.slow_provider import WAY, SlowProvider, slow_provider
from tests.test_disputes import event
from tests.usage import DAY, Gateway, assert_books_agree, post, record

pytestmark = pytest.mark.django_db

START = local(2026, 6, 27)
ZERO = Decimal("0.00")
_codes = itertools.count(1)
ACTS = st.tuples(
    st.sampled_from(
        [
            *("use", "use", "ask", "ask", "ask", "succeed", "succeed", "fail", "fail"),
            *("retry", "to_wallet", "cancel", "dispute", "win", "lose", "pass", "sweep"),
            *("inquire", "drop"),
        ]
    ),
    st.integers(0, 2),  # which order, or refund
    st.integers(1, 9),  # of ten, how much
)


STATUSES = {
    "dispute": "needs_response",
    "win": "won",
    "lose": "lost",
    "inquire": "warning_needs_response",
    "drop": "warning_closed",
}


class World:
    """An operator with one who holds a plan, three orders that a provider took money for, and what
    that provider did since."""

    def __init__(self, slow: SlowProvider) -> None:
        self.slow = slow
        self.operator = make_operator(f"p{next(_codes)}", at=START)
        self.api: APIClient = client_for(make_key(self.operator))
        self.gateway = Gateway(self.operator)
        make_plan(self.operator, allowance=1000)
        catalog.publish_booster(
            self.operator,
            "pack",
            name="Pack",
            price=yuan("10.01"),
            units=3_000_000,
            valid_days=60,
            at=START,
        )
        self.subscriber = make_subscriber(self.operator)
        subscribe(self.subscriber, self.operator.plans.get())
        self.orders = [
            buying.order_booster(self.operator, self.subscriber.pk, "pack", at=START),
            buying.order_booster(self.operator, self.subscriber.pk, "pack", at=START),
            buying.order_top_up(
                self.operator, self.subscriber.pk, Decimal("7.77"), currency="CNY", at=START
            ),
        ]
        for one in self.orders:
            paying.pay(self.operator, one.number, WAY, at=START)
        self.sent = 0

    def act(self, what: str, which: int, part: int) -> None:
        """Do it where it can be done: a refusal changes nothing, which the books will tell."""
        at = clock.now(Operator.objects.get(pk=self.operator.pk))
        order = self.orders[which]
        own = Refund.objects.filter(operator=self.operator)
        open_ones = list(own.filter(state="pending").order_by("id"))
        failed = list(own.filter(state="failed").order_by("id"))
        dispute = Dispute.objects.filter(operator=self.operator, order_id=order.id).first()
        status = STATUSES.get(what)
        deeds: dict[str, Callable[[], object]] = {
            "use": lambda: self._use(part),
            "ask": lambda: self._ask(order, part, at),
            "succeed": lambda: self._decide(open_ones[which % len(open_ones)], Fate.SUCCEEDED, at),
            "fail": lambda: self._decide(open_ones[which % len(open_ones)], Fate.FAILED, at),
            "retry": lambda: self._retry(failed[which % len(failed)], at),
            "to_wallet": lambda: refunds.to_wallet(
                self.operator, failed[which % len(failed)].number, by="x", at=at
            ),
            "cancel": lambda: refunds.cancel(
                self.operator, failed[which % len(failed)].number, by="x", at=at
            ),
            "pass": lambda: (
                post(self.api, "test-clock", {"now": (at + part * DAY).isoformat()}).status_code
            ),
            "sweep": lambda: refunds.sweep(self.operator, at=at + part * DAY),
        }
        if what in ("succeed", "fail") and not open_ones:
            return
        if what in ("retry", "to_wallet", "cancel") and not failed:
            return
        if what in ("win", "lose", "drop") and dispute is None:
            return
        if status is not None:
            left = order.amount - self._back(order)
            # What was asked about may have gone back since.
            asks_anew = dispute is None or dispute.state == "inquiry"
            said = event(
                order.number,
                status,
                reference=f"du-{order.number}",
                amount=str(left if asks_anew or dispute is None else dispute.amount),
            )
            if left > 0 or not asks_anew:
                disputes.take_dispute(self.operator, said, at=at)
            return
        try:
            with transaction.atomic():
                deeds[what]()
        except DomainError:
            pass

    def _use(self, part: int) -> None:
        self.sent += 1
        at = clock.now(Operator.objects.get(pk=self.operator.pk))
        said = record(f"u-{self.sent}", occurred_at=at, input_tokens=part * 100, output_tokens=0)
        self.gateway.charge(said)

    def _ask(self, order: Order, part: int, at: dt.datetime) -> None:
        _, offer = refunds.preview(self.operator, order.number, at=at)
        amount = (offer.amount * part / 10).quantize(Decimal("0.01")) if part < 9 else None
        made = refunds.ask(
            self.operator,
            order.number,
            amount=amount,
            to="wallet" if part == 5 and order.kind == "booster" else "source",
            reason="x",
            by="x",
            at=at,
        )
        assert isinstance(made, Refund)
        refunds.send(self.operator, made.number, at=at)

    def _decide(self, refund: Refund, fate: Fate, at: dt.datetime) -> None:
        said = self.slow.decide(refund.key, fate)
        for _ in range(2):
            refunds.settle_refund(self.operator, said, at=at)

    def _retry(self, refund: Refund, at: dt.datetime) -> None:
        refunds.retry(self.operator, refund.number, by="x", at=at)
        refunds.send(self.operator, refund.number, at=at)

    def _back(self, order: Order) -> Decimal:
        rows = Refund.objects.filter(operator=self.operator, order_id=order.id)
        kept = rows.exclude(state="cancelled").aggregate(all=Sum("amount"))["all"]
        return kept or ZERO

    def check(self) -> None:
        """What came in is kept or has gone back, and nobody got more than was paid."""
        at = local(2027, 1, 1)
        found = {b.account: b.balance for b in ledger.trial_balance(self.operator.pk, at=at)}
        disputed = Dispute.objects.filter(operator=self.operator, state__in=Dispute.TAKEN)
        taken = sum((d.amount for d in disputed), ZERO)
        paid = sum((one.amount for one in self.orders), ZERO)
        assert found.get("cash:slow", ZERO) == paid - self.slow.given_back() - taken
        wallet = Wallet.objects.get(subscriber_id=self.subscriber.pk).balance
        assert -found.get("wallet", ZERO) == wallet >= 0
        assert sum(found.values()) == 0
        for one in self.orders:
            assert self._back(one) <= one.amount
        for bucket in Bucket.objects.filter(subscriber_id=self.subscriber.pk, kind="booster"):
            assert bucket.granted is not None
            assert bucket.granted >= bucket.used + bucket.reserved


@settings(max_examples=12)
@given(acts=st.lists(ACTS, min_size=4, max_size=16))
def test_what_was_paid_is_kept_or_has_gone_back(acts: list[tuple[str, int, int]]) -> None:
    with slow_provider() as slow:
        world = World(slow)
        for what, which, part in acts:
            world.act(what, which, part)
            world.check()
        # Whatever is open is decided, and all that was sold is billed and runs out.
        for refund in Refund.objects.filter(operator=world.operator, state="pending"):
            world._decide(refund, Fate.SUCCEEDED, START)
        at = clock.now(Operator.objects.get(pk=world.operator.pk))
        last = max(local(2026, 8, 3), at + DAY)
        assert post(world.api, "test-clock", {"now": last.isoformat()}).status_code == 200
        world.check()
    assert_books_agree()
