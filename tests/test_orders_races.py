"""Two payments of one order, a payment and the expiry, and a crash between asking and hearing."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from functools import partial

import pytest
from django.db import transaction

from billing import inbox, invoicing, ledger, transfers, wallets
from billing.models import (
    BankTransfer,
    Invoice,
    Order,
    Payment,
    PaymentIntent,
    ProviderAccount,
    ProviderEvent,
    ProviderPayment,
    WalletMovement,
)
from billing.orders import buying, keeping, paying
from billing.transfers import Pays, Told
from billing.ways.bank import BankTransferProvider
from billing.ways.known import ALWAYS
from billing.ways.provider import Answer, Attempt, Fate, Unavailable
from subscriptions.errors import DomainError
from subscriptions.models import Operator, Subscriber
from tests.at_once import at_once
from tests.factories import (
    client_for,
    local,
    make_key,
    make_operator,
    make_plan,
    make_subscriber,
    subscribe,
)
from tests.providers import event, intent, stripe_account, tell
from tests.usage import DAY, MINUTE, assert_books_agree, post

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.xdist_group("races")]

START, CLOSE = local(2026, 6, 1), local(2026, 7, 3)
NUMBER = "CT-2026-00000001"


@pytest.fixture
def operator() -> Iterator[Operator]:
    """One who owes 9.90 and has 50.00 in the wallet."""
    operator = make_operator("ct", at=START)
    subscriber = make_subscriber(operator)
    subscribe(subscriber, make_plan(operator))
    move = {"now": CLOSE.isoformat()}
    assert post(client_for(make_key(operator)), "test-clock", move).status_code == 200
    operator.clock_at = CLOSE
    told = arrived(operator, "50.00", "fill")
    transfers.match(operator, told.pk, Pays(wallet=subscriber.pk), at=CLOSE)
    yield operator
    assert_books_agree()


def whose() -> int:
    return Subscriber.objects.get().pk


def arrived(operator: Operator, amount: str, reference: str) -> BankTransfer:
    told = Told(reference, Decimal(amount), "CNY", CLOSE)
    return transfers.tell(operator, told, at=CLOSE)


def invoice_order(operator: Operator) -> Order:
    return buying.order_invoice(operator, whose(), NUMBER, at=CLOSE)


def pay(operator: Operator, order: Order) -> str:
    try:
        return paying.pay(operator, order.number, "wallet", at=CLOSE).state
    except DomainError as error:
        return error.cause


def match(operator: Operator, told: BankTransfer, order: Order) -> str:
    try:
        return transfers.match(operator, told.pk, Pays(order=order.number), at=CLOSE).state
    except DomainError as error:
        return error.cause


def test_one_order_paid_by_many_at_once_is_paid_once(operator: Operator) -> None:
    order = invoice_order(operator)
    told = arrived(operator, "9.90", "b-1")

    said = at_once(
        *[partial(pay, operator, order)] * 3,
        *[partial(match, operator, told, order)] * 2,
    )

    by_bank = Order.objects.get().way == "bank"
    assert sorted(set(said)) == (["matched", "order_paid"] if by_bank else ["order_paid", "paid"])
    assert Payment.objects.count() == 1
    assert wallets.balance_of(whose(), "CNY") == Decimal("50.00" if by_bank else "40.10")
    assert Invoice.objects.get().state == "paid"


def test_two_browsers_pay_one_invoice(operator: Operator) -> None:
    orders = [invoice_order(operator) for _ in range(4)]

    said = at_once(*[partial(pay, operator, order) for order in orders])

    assert sorted(said) == ["nothing_due"] * 3 + ["paid"]
    assert invoicing.amount_due(Invoice.objects.get()) == 0
    assert WalletMovement.objects.filter(kind="payment").count() == 1


def test_one_transfer_matched_to_many_at_once_pays_one(operator: Operator) -> None:
    orders = [
        buying.order_top_up(operator, whose(), Decimal(5), currency="CNY", at=CLOSE)
        for _ in range(4)
    ]
    told = arrived(operator, "5.00", "b-1")

    said = at_once(*[partial(match, operator, told, order) for order in orders])

    assert sorted(said) == ["already_matched"] * 3 + ["matched"]
    assert Order.objects.filter(state="paid").count() == 1
    assert wallets.balance_of(whose(), "CNY") == Decimal("55.00")


def test_an_order_is_paid_or_expired_and_never_both(operator: Operator) -> None:
    orders = [
        invoice_order(operator),
        *(
            buying.order_top_up(operator, whose(), Decimal(1), currency="CNY", at=CLOSE)
            for _ in range(3)
        ),
    ]

    at_once(
        partial(pay, operator, orders[0]),
        *[partial(keeping.expire_due, operator, at=CLOSE + 3 * DAY)] * 2,
        lambda: keeping.expire_if_due(orders[0], at=CLOSE + 3 * DAY),
    )
    while keeping.expire_due(operator, at=CLOSE + 3 * DAY):
        pass

    state = Order.objects.get(number=orders[0].number).state
    assert state in ("paid", "expired")
    assert Payment.objects.count() == (state == "paid")
    assert Order.objects.filter(state="expired").count() == 4 - (state == "paid")


def test_a_wallet_drained_by_many_at_once_is_never_below_zero(operator: Operator) -> None:
    def drain(nr: int) -> str:
        out = wallets.Move(whose(), "CNY", "payment", Decimal(-16), f"x-{nr}")
        try:
            with transaction.atomic():
                wallets.move(operator.pk, [out], at=CLOSE)
                sides = (out.side(), ledger.Side("cash:test", -Decimal(16)))
                ledger.post(operator.pk, ledger.Draft(f"x-{nr}", "test", CLOSE, "CNY", sides))
        except DomainError as error:
            return error.cause
        return "out"

    said = at_once(*[partial(drain, nr) for nr in range(5)])

    assert sorted(said) == ["insufficient_funds"] * 2 + ["out"] * 3
    assert wallets.balance_of(whose(), "CNY") == Decimal("2.00")


def begun(operator: Operator, order: Order, account: ProviderAccount, way: str) -> PaymentIntent:
    """An attempt that its provider has been asked for."""
    with transaction.atomic():
        held = keeping.locked(operator, order.number)
        return keeping.attempt(held, way, at=CLOSE, account=account)


@pytest.mark.parametrize("orders", [1, 2])
def test_an_invoice_that_is_paid_in_two_browsers_is_paid_once(
    operator: Operator, orders: int
) -> None:
    """Both payments are real, and told twice: one pays, the other is in the wallet."""
    account = stripe_account(operator)
    both = [invoice_order(operator) for _ in range(orders)] * (3 - orders)
    before = wallets.balance_of(whose(), "CNY")
    for nr, (order, way) in enumerate(zip(both, ("alipay", "wechat_pay"), strict=True)):
        key = begun(operator, order, account, way).key
        for again in range(2):
            came = intent(key, 990, id=f"pi_{nr}")
            body = event("payment_intent.succeeded", came, id=f"evt_{nr}_{again}")
            assert tell(account, body).status_code == 200

    worked = at_once(*[partial(inbox.work, operator, at=CLOSE)] * 3)

    assert sum(worked) == 4
    assert Payment.objects.count() == 1
    assert Invoice.objects.get().state == "paid"
    assert wallets.balance_of(whose(), "CNY") - before == Decimal("9.90")
    became = ProviderPayment.objects.values_list("became", flat=True)
    assert sorted(became) == ["granted", "wallet"]


def test_the_same_notice_from_many_sides_at_once_is_one(operator: Operator) -> None:
    account = stripe_account(operator)
    order = invoice_order(operator)
    first = begun(operator, order, account, "card")
    body = event("payment_intent.succeeded", intent(first.key, 990))
    came = Answer(Fate.SUCCEEDED, "pi_1", amount=Decimal("9.90"), currency="CNY")

    def heard() -> int:
        """By asking, as the sweep does."""
        paying.hear(operator, order.number, first.nr, account, came, at=CLOSE)
        return 200

    def told() -> int:
        status = int(tell(account, body).status_code)
        inbox.work(operator, at=CLOSE)
        return status

    assert at_once(told, heard, told, heard) == [200] * 4
    inbox.work(operator, at=CLOSE)
    assert ProviderEvent.objects.get().state == "done"
    assert (Payment.objects.count(), ProviderPayment.objects.count()) == (1, 1)


class Dying(BankTransferProvider):
    """Nobody hears the answer: the process is killed, or the network is."""

    calls: list[str]

    def __init__(self) -> None:
        self.calls = []

    def create(self, attempt: Attempt) -> Answer:
        self.calls.append(attempt.key)
        if len(self.calls) < 3:
            raise Unavailable
        return super().create(attempt)


def test_what_a_crash_left_open_is_asked_again_with_the_same_key(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = Dying()
    monkeypatch.setitem(ALWAYS, "bank", provider)
    order = invoice_order(operator)
    with pytest.raises(Unavailable):
        paying.pay(operator, order.number, "bank", at=CLOSE)

    assert (PaymentIntent.objects.get().state, Order.objects.get().state) == ("intended", "created")
    assert paying.ask_again(operator, at=CLOSE) == 0  # somebody may still be waiting
    assert paying.ask_again(operator, at=CLOSE + MINUTE) == 0  # away again
    assert paying.ask_again(operator, at=CLOSE + MINUTE) == 1
    assert paying.ask_again(operator, at=CLOSE + MINUTE) == 0

    assert provider.calls == [f"{order.number}-1"] * 3
    assert (PaymentIntent.objects.get().state, Order.objects.get().state) == ("waiting", "waiting")


def test_an_answer_that_comes_after_the_order_was_cancelled_changes_nothing(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = invoice_order(operator)

    class Slow(BankTransferProvider):
        def create(self, attempt: Attempt) -> Answer:
            keeping.cancel(operator, order.number, reason="too slow", at=CLOSE)
            return super().create(attempt)

    monkeypatch.setitem(ALWAYS, "bank", Slow())

    assert paying.pay(operator, order.number, "bank", at=CLOSE).state == "cancelled"
    assert PaymentIntent.objects.get().state == "cancelled"
