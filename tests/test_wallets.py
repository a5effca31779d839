"""Wallets: what may be put in, what is given with it, what is set aside, and the statement."""

from __future__ import annotations

import csv
import datetime as dt
import io
from decimal import Decimal
from typing import Any

import hypothesis
import pytest
from django.db import Error, connection, transaction
from django.db.models import Sum
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase
from rest_framework.test import APIClient

from billing import due, holds, ledger, transfers, wallets
from billing.models import Wallet, WalletBonus, WalletHold, WalletMovement
from billing.orders import buying, paying
from subscriptions import catalog, clock
from subscriptions.errors import DomainError
from subscriptions.models import Operator, OutboxEvent
from tests.factories import (
    client_for,
    local,
    make_key,
    make_operator,
    make_plan,
    make_subscriber,
    set_clock,
    yuan,
)
from tests.test_orders import order, pay, top_up, transfer
from tests.usage import DAY, assert_books_agree, assert_problem, get, post, put

pytestmark = pytest.mark.django_db

START = local(2026, 6, 10)
ANY = {"least": "1.00", "most": "500.00"}


def carrier() -> Operator:
    operator = make_operator("ct", at=START)
    make_plan(operator)
    for code, price in (("pack", "5.00"), ("big", "12.00")):
        catalog.publish_booster(
            operator,
            code,
            name="Pack",
            price=yuan(price),
            units=1_000_000,
            valid_days=30,
            at=clock.now(operator),
        )
    make_subscriber(operator)
    return operator


@pytest.fixture
def operator() -> Operator:
    return carrier()


@pytest.fixture
def api(operator: Operator) -> APIClient:
    return client_for(make_key(operator))


def policy(api: APIClient, **said: Any) -> Any:
    answer = put(api, "top-up-policy", {"fixed": ["30.00", "50.00"], "free": ANY} | said)
    assert answer.status_code == 200, answer.content
    return answer.json()


def filled(api: APIClient, amount: str, reference: str = "") -> str:
    """A top-up that was ordered and paid by the bank."""
    number = top_up(api, amount)
    said = transfer(api, amount, reference or number, order=number)
    assert said["state"] == "matched", said
    return number


def money(api: APIClient) -> tuple[str, str, str]:
    """Balance, bonus and what is held."""
    shown = get(api, "subscribers/s-1/wallet")
    return tuple(shown[name]["amount"] for name in ("balance", "bonus", "held"))


def account(operator: Operator, code: str) -> str:
    balances = {
        b.account: b.balance for b in ledger.trial_balance(operator.pk, at=START + 99 * DAY)
    }
    return f"{balances.get(code, Decimal(0)):.2f}"


def bought(api: APIClient, booster: str = "pack") -> str:
    number = str(order(api, kind="booster", booster=booster)["number"])
    assert pay(api, number).json()["state"] == "paid"
    return number


def move(api: APIClient, at: dt.datetime) -> None:
    assert post(api, "test-clock", {"now": at.isoformat()}).status_code == 200


def once(api: APIClient, path: str, body: dict[str, Any]) -> Any:
    return api.post(f"/api/v1/{path}", body, format="json", HTTP_IDEMPOTENCY_KEY="h-1")


# What may be put in -------------------------------------------------------------------------------


def test_top_ups_are_held_to_the_policy_of_their_time(operator: Operator, api: APIClient) -> None:
    assert get(api, "top-up-policy")["version"] == 0
    assert top_up(api, "0.01")
    later = START + 5 * DAY
    assert policy(api, free=None)["version"] == 1
    assert policy(api, fixed=[], effective_from=later.isoformat())["version"] == 2

    for amount, offered in (("30.00", True), ("31.00", False), ("0.01", False)):
        answer = post(api, "subscribers/s-1/orders", {"kind": "top_up", "amount": amount})
        if offered:
            assert answer.status_code == 201
        else:
            assert_problem(answer, 422, "top_up_not_offered")
            assert "30.00 or 50.00 CNY" in answer.json()["detail"]
    move(api, later)
    assert get(api, "top-up-policy")["free"]["most"]["amount"] == "500.00"
    assert top_up(api, "31.00")
    answer = post(api, "subscribers/s-1/orders", {"kind": "top_up", "amount": "500.01"})
    assert_problem(answer, 422, "top_up_not_offered")


@pytest.mark.parametrize(
    "said",
    [
        {"fixed": [], "free": None},
        {"fixed": ["30.00", "30.00"]},
        {"fixed": ["0.00"]},
        {"free": {"least": "5.00", "most": "4.99"}},
        {"fixed": [{"amount": "30.00", "currency": "USD"}]},
        {"effective_from": (START - DAY).isoformat()},
        {"bonuses": [{"at_least": "10.00"}]},
        {"bonuses": [{"at_least": "10.00", "amount": "1.00", "percent": "5"}]},
        {"bonuses": [{"at_least": "10.00", "amount": "1.00", "cap": "2.00"}]},
        {"bonuses": [{"at_least": "10.00", "amount": "1.00"}] * 2},
        {"low_balance": "0.00"},
        {"fixed": ["30.001"]},
    ],
)
def test_no_policy_is_taken_that_makes_no_sense(api: APIClient, said: dict[str, Any]) -> None:
    answer = put(api, "top-up-policy", {"fixed": ["30.00"], "free": ANY} | said)
    assert_problem(answer, 422, "invalid")
    assert get(api, "top-up-policy")["version"] == 0


# Bonuses ------------------------------------------------------------------------------------------


def test_a_bonus_is_given_as_was_offered_when_the_top_up_was_ordered(
    operator: Operator, api: APIClient
) -> None:
    rules = [
        {"at_least": "30.00", "amount": "2.00"},
        {"at_least": "50.00", "percent": "10", "cap": "8.00", "valid_days": 30},
    ]
    policy(api, bonuses=rules)
    ordered = top_up(api, "79.99")
    set_clock(operator, START + DAY)
    policy(api)

    assert transfer(api, "79.99", "b-1", order=ordered)["state"] == "matched"
    filled(api, "79.99")

    assert money(api) == ("167.97", "7.99", "0.00")
    assert (account(operator, "bonus"), account(operator, "marketing")) == ("-7.99", "7.99")
    assert account(operator, "wallet") == "-159.98"
    [bonus] = get(api, "subscribers/s-1/wallet")["bonuses"]
    assert bonus["expires_at"] == (START + 31 * DAY).astimezone(dt.UTC).isoformat().replace(
        "+00:00", "Z"
    )
    told = OutboxEvent.objects.filter(kind="wallet.topped_up").order_by("occurred_at", "key")
    assert [one.payload["bonus"] for one in told] == ["7.99", "0.00"]
    assert_books_agree()


@pytest.mark.parametrize(
    ("spent", "after"), [("first", ("37.00", "0.00")), ("last", ("37.00", "7.00"))]
)
def test_a_bonus_is_spent_first_or_last_as_its_rule_says(
    operator: Operator, api: APIClient, spent: str, after: tuple[str, str]
) -> None:
    policy(api, bonuses=[{"at_least": "30.00", "amount": "7.00", "spent": spent}])
    filled(api, "42.00")

    bought(api, "big")

    assert money(api)[:2] == after
    [*_, line] = get(api, "subscribers/s-1/wallet/movements")["items"]
    assert (line["amount"]["amount"], line["bonus"]["amount"]) == (
        "-12.00",
        "-7.00" if spent == "first" else "0.00",
    )
    assert account(operator, "marketing") == "7.00"
    assert_books_agree()


def test_what_comes_back_of_a_payment_is_again_the_money_that_it_was(
    operator: Operator, api: APIClient
) -> None:
    policy(api, bonuses=[{"at_least": "30.00", "amount": "7.00"}])
    filled(api, "30.00")
    number = bought(api, "big")
    back = [
        wallets.Move(
            operator.subscribers.get().pk,
            "CNY",
            WalletMovement.Kind.REFUND,
            Decimal(amount),
            f"back-{amount}",
            number,
            of_order=number,
        )
        for amount in ("6.00", "5.99")
    ]

    with transaction.atomic():
        wallets.move(operator.pk, back[:1], at=START)
        assert Wallet.objects.get().bonus == 1  # the 5.00 of its own first
        wallets.move(operator.pk, back[1:], at=START)
        wallet_now = Wallet.objects.get()
        assert (wallet_now.balance, wallet_now.bonus) == (Decimal("36.99"), Decimal("6.99"))
        out = wallets.Move(
            back[0].subscriber_id, "CNY", WalletMovement.Kind.PAYOUT, Decimal("-30.01"), "out"
        )
        with pytest.raises(wallets.InsufficientFunds, match="can be paid out"):
            wallets.move(operator.pk, [out], at=START)


def test_a_bonus_lapses_when_its_time_is_over_whoever_is_first_to_see_it(
    operator: Operator, api: APIClient
) -> None:
    policy(api, bonuses=[{"at_least": "30.00", "amount": "7.00", "valid_days": 3}])
    filled(api, "30.00")
    held = post(api, "subscribers/s-1/wallet/holds", {"amount": "34.00", "purpose": "x"}).json()
    set_clock(operator, START + 3 * DAY)  # nobody has swept

    refused = pay(api, order(api, kind="booster", booster="pack")["number"])
    assert_problem(refused, 409, "insufficient_funds")
    due.end_wallet_times(operator, at=START + 3 * DAY)
    assert money(api) == ("34.00", "4.00", "34.00")  # what is held of it waits
    assert post(api, f"wallet-holds/{held['id']}/release", {"reason": "x"}).status_code == 200
    due.end_wallet_times(operator, at=START + 3 * DAY)

    assert money(api) == ("30.00", "0.00", "0.00")
    assert (account(operator, "marketing"), account(operator, "bonus")) == ("0.00", "0.00")
    kinds = WalletMovement.objects.order_by("nr").values_list("kind", flat=True)
    assert list(kinds) == ["top_up", "bonus", "lapse", "lapse"]
    assert_books_agree()


def test_the_bonus_of_a_top_up_goes_with_it(operator: Operator, api: APIClient) -> None:
    policy(api, bonuses=[{"at_least": "30.00", "amount": "7.00"}])
    filled(api, "30.00")
    bonus = WalletBonus.objects.get()
    key = (bonus.subscriber_id, "CNY")

    with transaction.atomic():
        for _ in range(2):
            wallets.take_back_bonus(operator.pk, key, bonus.order_id or 0, by="x", at=START)

    assert money(api)[:2] == ("30.00", "0.00")
    assert_books_agree()

    with transaction.atomic():
        for _ in range(2):
            wallets.give_bonus_again(operator.pk, key, by="x", at=START)
    assert money(api)[:2] == ("37.00", "7.00")
    assert_books_agree()


# Holds --------------------------------------------------------------------------------------------


def test_what_is_held_nothing_else_can_spend(operator: Operator, api: APIClient) -> None:
    filled(api, "14.00")
    path = "subscribers/s-1/wallet/holds"
    hold = {"amount": "10.00", "purpose": "an order that waits"}
    first = once(api, path, hold)
    assert first.status_code == 201, first.content
    assert once(api, path, hold).json() == first.json()
    assert_problem(post(api, path, hold), 409, "insufficient_funds")

    number = order(api, kind="booster", booster="pack")["number"]
    assert_problem(pay(api, number), 409, "insufficient_funds")
    shown = get(api, "subscribers/s-1/wallet")
    assert (shown["balance"]["amount"], shown["available"]["amount"]) == ("14.00", "4.00")

    captured = post(api, f"wallet-holds/{first.json()['id']}/capture", {"order": number}).json()
    assert (captured["state"], captured["captured"]["amount"]) == ("captured", "5.00")
    assert get(api, f"orders/{number}")["state"] == "paid"
    assert money(api) == ("9.00", "0.00", "0.00")
    again = post(api, f"wallet-holds/{captured['id']}/capture", {"order": number})
    assert again.json() == captured
    released = post(api, f"wallet-holds/{captured['id']}/release", {"reason": "x"})
    assert_problem(released, 409, "hold_ended")
    assert_books_agree()


def test_a_hold_ends_by_the_operators_clock_swept_or_not(
    operator: Operator, api: APIClient
) -> None:
    filled(api, "14.00")
    ends = (START + DAY).isoformat()
    said = {"amount": "10.00", "purpose": "x", "expires_at": ends}
    hold = post(api, "subscribers/s-1/wallet/holds", said).json()
    number = order(api, kind="booster", booster="pack")["number"]
    small = post(api, "subscribers/s-1/wallet/holds", {"amount": "1.00", "purpose": "x"}).json()
    too_small = post(api, f"wallet-holds/{small['id']}/capture", {"order": number})
    assert_problem(too_small, 409, "hold_too_small")

    set_clock(operator, START + DAY)
    late = post(api, f"wallet-holds/{hold['id']}/capture", {"order": number})
    assert_problem(late, 409, "hold_ended")
    assert money(api)[2] == "11.00"
    due.end_wallet_times(operator, at=START + DAY)

    assert money(api) == ("14.00", "0.00", "1.00")
    states = [one["state"] for one in get(api, "subscribers/s-1/wallet/holds")["items"]]
    assert states == ["expired", "held"]
    with (
        pytest.raises(Error, match="wallet_holds_what_is_there"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute("UPDATE billing_wallet SET held = balance + 0.01")
    with (
        pytest.raises(Error, match="only ends, once"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute("UPDATE billing_wallethold SET state = 'held' WHERE state = 'expired'")
    assert_books_agree()


@pytest.mark.parametrize(
    "said",
    [
        {"amount": "0.00"},
        {"amount": "-1.00"},
        {"amount": "1.001"},
        {"amount": {"amount": "1.00", "currency": "USD"}},
        {"purpose": ""},
        {"expires_at": START.isoformat()},
    ],
)
def test_no_hold_is_placed_that_makes_no_sense(api: APIClient, said: dict[str, Any]) -> None:
    filled(api, "14.00")
    answer = post(api, "subscribers/s-1/wallet/holds", {"amount": "1.00", "purpose": "x"} | said)
    assert_problem(answer, 422, "invalid")
    assert not WalletHold.objects.exists()


# The statement ------------------------------------------------------------------------------------


def test_statements_follow_each_other_without_a_gap(operator: Operator, api: APIClient) -> None:
    for day in (0, 1, 2):
        set_clock(operator, START + day * DAY + dt.timedelta(hours=23, minutes=59))
        filled(api, "10.00", f"b-{day}")
    bought(api)
    path = "subscribers/s-1/wallet/statement"

    def statement(first: str, last: str) -> tuple[Any, ...]:
        shown = get(api, f"{path}?from={first}&to={last}&limit=1")
        names = ("opening", "money_in", "money_out", "closing")
        return (
            *(shown[name]["amount"] for name in names),
            len(shown["items"]),
            bool(shown["next"]),
        )

    assert statement("2026-06-01", "2026-06-09") == ("0.00", "0.00", "0.00", "0.00", 0, False)
    assert statement("2026-06-10", "2026-06-10") == ("0.00", "10.00", "0.00", "10.00", 1, False)
    assert statement("2026-06-11", "2026-06-12") == ("10.00", "20.00", "5.00", "25.00", 1, True)
    file = api.get(f"/api/v1/{path}.csv?from=2026-06-11&to=2026-06-12")
    lines = list(csv.DictReader(io.StringIO(b"".join(file).decode("utf-8-sig"))))
    assert [(line["kind"], line["amount"] or line["balance"]) for line in lines] == [
        ("opening", "10.00"),
        ("top_up", "10.00"),
        ("top_up", "10.00"),
        ("payment", "-5.00"),
        ("closing", "25.00"),
    ]
    for days in ("", "?from=2026-06-01", "?from=x&to=2026-06-01", "?from=0001-01-01&to=9999-12-31"):
        assert_problem(api.get(f"/api/v1/{path}{days}"), 400, "bad_query")
    assert_problem(api.get(f"/api/v1/{path}?from=2026-06-02&to=2026-06-01"), 422, "invalid")


def test_who_has_little_left_hears_of_it_once_a_fall(operator: Operator, api: APIClient) -> None:
    policy(api, low_balance="8.00")
    filled(api, "18.00")
    bought(api)  # 13.00
    bought(api)  # 8.00
    assert not OutboxEvent.objects.filter(kind="wallet.low").exists()

    held = post(api, "subscribers/s-1/wallet/holds", {"amount": "1.00", "purpose": "x"}).json()
    bought(api)

    [told] = OutboxEvent.objects.filter(kind="wallet.low")
    assert told.payload == {"available": "7.00", "mark": "8.00", "currency": "CNY"}
    assert held["state"] == "held"


# Whatever happens ---------------------------------------------------------------------------------

fen = st.integers(1, 3000).map(lambda n: Decimal(n) / 100)
steps = st.one_of(
    st.tuples(st.just("fill"), fen),
    st.tuples(st.just("hold"), fen),
    st.tuples(st.just("buy"), st.sampled_from(["pack", "big"])),
    st.tuples(st.just("capture"), st.sampled_from(["pack", "big"])),
    st.tuples(st.just("release"), st.just("")),
    st.tuples(st.just("wait"), st.integers(1, 3)),
)


class WalletTests(TestCase):
    """Any order of top-ups, holds, payments, captures, releases and expiries."""

    @hypothesis.settings(max_examples=25)
    @hypothesis.given(
        spent=st.sampled_from(["first", "last"]), life=st.lists(steps, min_size=3, max_size=14)
    )
    def test_a_wallet_is_its_movements_and_holds_no_more_than_it_has(
        self, spent: str, life: list[tuple[str, Any]]
    ) -> None:
        operator = carrier()
        api = client_for(make_key(operator))
        rule = {"at_least": "5.00", "percent": "30", "spent": spent, "valid_days": 2}
        policy(api, free={"least": "0.01", "most": "500.00"}, bonuses=[rule])
        whose, at, paid_in = operator.subscribers.get().pk, START, Decimal(0)

        for nr, (step, what) in enumerate(life):
            open_holds = WalletHold.objects.filter(state="held").order_by("id")
            try:
                if step == "fill":
                    told = transfers.Told(f"b-{nr}", what, "CNY", at)
                    wanted = buying.order_top_up(operator, whose, what, currency="CNY", at=at)
                    arrived = transfers.tell(operator, told, at=at)
                    pays = transfers.Pays(order=wanted.number)
                    transfers.match(operator, arrived.pk, pays, at=at)
                    paid_in += what
                elif step == "hold":
                    draft = holds.Draft(whose, what, "x", f"h-{nr}", at + 2 * DAY)
                    holds.place(operator, draft, at=at)
                elif step == "wait":
                    at += what * DAY
                    if what > 1:  # else nobody sweeps
                        due.end_wallet_times(operator, at=at)
                elif step == "release" and open_holds:
                    holds.release(operator, open_holds[0].id, reason="x", at=at)
                elif step in ("buy", "capture"):
                    wanted = buying.order_booster(operator, whose, what, at=at)
                    if step == "buy":
                        paying.pay(operator, wanted.number, "wallet", at=at)
                    elif open_holds:
                        holds.capture(operator, open_holds[0].id, wanted.number, at=at)
            except DomainError:
                pass
            wallet_now = Wallet.objects.filter(subscriber_id=whose).first() or Wallet()
            moved = WalletMovement.objects.aggregate(a=Sum("amount"), b=Sum("bonus"))
            held = open_holds.aggregate(a=Sum("amount"))["a"] or 0
            assert (moved["a"] or 0, moved["b"] or 0, held) == (
                wallet_now.balance,
                wallet_now.bonus,
                wallet_now.held,
            )
            assert 0 <= wallet_now.held <= wallet_now.balance
            assert -ledger.balance_of(operator.pk, whose, "wallet", "CNY", at=at) == (
                wallet_now.balance - wallet_now.bonus
            )
            assert account(operator, "cash:bank") == f"{paid_in:.2f}"
        assert_books_agree()
