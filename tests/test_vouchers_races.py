"""One card, many hands at once; a batch made by many workers."""

from __future__ import annotations

from functools import partial

import pytest

from billing import wallets
from billing.models import Voucher, VoucherBatch, VoucherMisses
from billing.vouchers import guessing, keeping, redeeming
from subscriptions.errors import DomainError
from subscriptions.models import Operator
from tests.at_once import at_once
from tests.factories import NOW, client_for, make_key, make_operator, make_subscriber
from tests.usage import assert_books_agree
from tests.vouchers import order_batch, sold_vouchers

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.xdist_group("races")]

WRONG = "2222222222222222"


def redeem(operator: Operator, subscriber_id: int, code: str, source: str = "") -> str:
    try:
        done = redeeming.redeem(operator, subscriber_id, code, at=NOW, source=source)
    except guessing.LockedOut as error:
        return error.cause
    return done.cause if isinstance(done, DomainError) else done.state


def test_a_card_in_many_hands_is_redeemed_once() -> None:
    operator = make_operator()
    people = [make_subscriber(operator, f"p-{nr}").pk for nr in range(4)]
    code, other, _ = sold_vouchers(operator, client_for(make_key(operator))).values()

    # Two of each, crossing another card, one of them void at the same moment.
    said = at_once(
        *[partial(redeem, operator, person, code) for person in people * 2],
        partial(redeem, operator, people[0], other),
        lambda: str(
            keeping.void(operator, "SPRING", 2, 2, reason="x", by="a test", at=NOW).changed
        ),
    )

    # Who had it may send it again.
    assert set(said[:8]) == {"redeemed", "voucher_used"}
    assert said[:8].count("redeemed") == 2
    assert (said[8], said[9]) in {("redeemed", "0"), ("voucher_void", "1")}
    states = list(Voucher.objects.order_by("nr").values_list("state", flat=True))
    assert states[0] == "redeemed"
    total = sum(wallets.balance_of(person, "CNY") for person in people)
    assert total == 50 * states.count("redeemed")
    assert_books_agree()


def test_many_guesses_at_once_count_each() -> None:
    operator = make_operator()
    people = [make_subscriber(operator, f"p-{nr}").pk for nr in range(2)]

    said = at_once(*[partial(redeem, operator, person, WRONG, "home") for person in people * 7])

    most = guessing.OF_SUBSCRIBER
    assert said.count("voucher_unknown") == 2 * most
    assert said.count("voucher_locked_out") == 14 - 2 * most
    assert VoucherMisses.objects.get(who="source:home").misses == 2 * most


def test_workers_at_one_batch_make_each_voucher_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "SET", 7)
    operator = make_operator()
    order_batch(client_for(make_key(operator)), count=100)
    batch = VoucherBatch.objects.get()

    def work() -> int:
        sets = 0
        while VoucherBatch.objects.get().made < 100:
            sets += keeping.make_next(batch.pk, at=NOW)
        return sets

    assert sum(at_once(*[work] * 3)) == 15
    assert list(Voucher.objects.order_by("nr").values_list("nr", flat=True)) == [*range(1, 101)]
    assert_books_agree()
