"""Orders: paid once in one way, until their time is over, and granted with that."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from django.db import Error, connection, transaction
from rest_framework.test import APIClient

from billing import due, ledger
from billing.models import Order, Posting
from billing.orders import buying, keeping
from subscriptions import catalog, clock
from subscriptions.models import Operator
from tests.factories import (
    client_for,
    local,
    make_key,
    make_operator,
    make_plan,
    make_subscriber,
    set_clock,
    subscribe,
    yuan,
)
from tests.usage import DAY, assert_books_agree, assert_problem, get, post

pytestmark = pytest.mark.django_db

START, CLOSE = local(2026, 6, 1), local(2026, 7, 3)
NUMBER, SECOND = "CT-2026-00000001", "CT-2026-00000002"


@pytest.fixture
def operator() -> Operator:
    """Two subscribers with an invoice of 9.90 each."""
    operator = make_operator("ct", at=START)
    plan = make_plan(operator)
    for name in ("s-1", "s-2"):
        subscribe(make_subscriber(operator, name), plan)
    move = {"now": CLOSE.isoformat()}
    assert post(client_for(make_key(operator, name="clock")), "test-clock", move).status_code == 200
    operator.clock_at = CLOSE
    return operator


def order(api: APIClient, subscriber: str = "s-1", **said: Any) -> Any:
    answer = post(api, f"subscribers/{subscriber}/orders", said)
    assert answer.status_code == 201, answer.content
    return answer.json()


def top_up(api: APIClient, amount: str = "20.00", subscriber: str = "s-1") -> str:
    return str(order(api, subscriber, kind="top_up", amount=amount)["number"])


def pay(api: APIClient, number: str, way: str = "wallet") -> Any:
    return post(api, f"orders/{number}/pay", {"way": way})


def transfer(api: APIClient, amount: str, reference: str = "b-1", **pays: str) -> Any:
    said = {
        "reference": reference,
        "amount": amount,
        "payer": "Zhang",
        **({"pays": pays} if pays else {}),
    }
    answer = post(api, "transfers", said)
    assert answer.status_code == 201, answer.content
    return answer.json()


def filled(api: APIClient, amount: str = "20.00", subscriber: str = "s-1") -> None:
    """A wallet with money that came by the bank."""
    said = transfer(api, amount, f"fill-{subscriber}", wallet=subscriber)
    assert said["state"] == "matched", said


def wallet(api: APIClient, subscriber: str = "s-1") -> str:
    return str(get(api, f"subscribers/{subscriber}/wallet")["balance"]["amount"])


def states(shown: Any) -> list[str]:
    return [step["state"] for step in shown["history"]]


# The states --------------------------------------------------------------------------------------


def test_a_top_up_by_bank_transfer_fills_the_wallet_once(
    operator: Operator, api: APIClient
) -> None:
    number = top_up(api)
    asked = pay(api, number, "bank").json()
    again = pay(api, number, "bank").json()

    assert (asked["state"], again["attempts"]) == ("waiting", asked["attempts"])
    assert asked["attempts"][0]["action"]["remark"] == number
    assert wallet(api) == "0.00"

    assert transfer(api, "20.00", order=number)["order"] == number
    assert transfer(api, "20.00", order=number)["state"] == "matched"

    paid = get(api, f"orders/{number}")
    assert (paid["state"], paid["way"], states(paid)) == (
        "paid",
        "bank",
        ["created", "waiting", "paid"],
    )
    assert wallet(api) == "20.00"
    [line] = get(api, "subscribers/s-1/wallet/movements")["items"]
    assert (line["kind"], line["amount"]["amount"], line["note"]) == ("top_up", "20.00", number)
    assert_books_agree()


def test_an_invoice_is_paid_from_the_wallet_in_one_go(operator: Operator, api: APIClient) -> None:
    filled(api)
    number = order(api, kind="invoice", invoice=NUMBER)["number"]

    paid = pay(api, number).json()
    again = pay(api, number).json()

    assert (paid["state"], paid["invoice"], again["history"]) == (
        "paid",
        NUMBER,
        paid["history"],
    )
    assert get(api, f"invoices/{NUMBER}")["state"] == "paid"
    assert wallet(api) == "10.10"
    lines = get(api, "subscribers/s-1/wallet/movements")["items"]
    assert [(one["kind"], one["balance"]["amount"]) for one in lines] == [
        ("top_up", "20.00"),
        ("payment", "10.10"),
    ]
    balances = {b.account: str(b.balance) for b in ledger.trial_balance(operator.pk, at=CLOSE)}
    assert (balances["wallet"], balances["receivable"]) == ("-10.10", "9.90")
    assert_books_agree()


def test_a_wallet_is_never_below_zero(operator: Operator, api: APIClient) -> None:
    filled(api, "9.89")
    number = order(api, kind="invoice", invoice=NUMBER)["number"]

    assert_problem(pay(api, number), 409, "insufficient_funds")

    shown = get(api, f"orders/{number}")
    assert (shown["state"], states(shown), shown["attempts"]) == ("created", ["created"], [])
    assert (wallet(api), get(api, f"invoices/{NUMBER}")["state"]) == ("9.89", "open")
    with (
        pytest.raises(Error, match=r"wallet_never_negative|wallet_bonus_is_a_part"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute("UPDATE billing_wallet SET balance = balance - 10")
    assert_books_agree()


def test_of_two_orders_of_one_invoice_the_first_that_is_paid_counts(
    operator: Operator, api: APIClient
) -> None:
    filled(api)
    first = order(api, kind="invoice", invoice=NUMBER)["number"]
    second = order(api, kind="invoice", invoice=NUMBER)["number"]

    assert pay(api, second).status_code == 200
    assert_problem(pay(api, first), 409, "nothing_due")

    assert wallet(api) == "10.10"
    assert Posting.objects.filter(kind="payment").count() == 1
    assert_books_agree()


def test_an_order_of_an_invoice_whose_due_has_changed_is_not_paid(
    operator: Operator, api: APIClient
) -> None:
    filled(api)
    number = order(api, kind="invoice", invoice=NUMBER)["number"]
    credit = {"reason": "a kindness", "amount": "1.00"}
    assert post(api, f"invoices/{NUMBER}/credit", credit).status_code == 201

    assert_problem(pay(api, number), 409, "amount_differs")
    assert wallet(api) == "20.00"
    assert_books_agree()


def test_what_has_expired_is_not_paid_and_the_sweep_says_so(
    operator: Operator, api: APIClient
) -> None:
    filled(api)
    kept, seen, swept = (order(api, kind="invoice", invoice=NUMBER)["number"] for _ in range(3))
    assert pay(api, swept, "bank").status_code == 200
    long = order(api, kind="top_up", amount="1", expires_at=(CLOSE + 30 * DAY).isoformat())[
        "number"
    ]
    set_clock(operator, CLOSE + 3 * DAY)

    assert_problem(pay(api, kept), 409, "order_expired")
    assert get(api, f"orders/{seen}")["state"] == "expired"
    assert transfer(api, "9.90", order=swept)["cause"] == "order_expired"
    due.expire_orders(operator, at=CLOSE + 3 * DAY)

    shown = get(api, f"orders/{swept}")
    assert (shown["state"], states(shown)) == ("expired", ["created", "waiting", "expired"])
    assert [one["state"] for one in shown["attempts"]] == ["cancelled"]
    assert_problem(pay(api, swept), 409, "order_expired")
    assert get(api, f"orders/{long}")["state"] == "created"
    assert wallet(api) == "20.00"
    assert_books_agree()


def test_a_cancelled_order_is_not_paid_and_a_paid_one_not_cancelled(
    operator: Operator, api: APIClient
) -> None:
    filled(api)
    gone, paid = top_up(api), order(api, kind="invoice", invoice=NUMBER)["number"]
    why = {"reason": "changed my mind"}

    assert post(api, f"orders/{gone}/cancel", why).json()["state"] == "cancelled"
    assert post(api, f"orders/{gone}/cancel", why).status_code == 200
    assert pay(api, paid).status_code == 200

    assert_problem(pay(api, gone, "bank"), 409, "order_closed")
    assert_problem(post(api, f"orders/{paid}/cancel", why), 409, "order_paid")
    assert_books_agree()


@pytest.mark.parametrize(
    ("sql", "refusal"),
    [
        ("UPDATE billing_order SET state = 'paid'", "each state is a step"),
        ("UPDATE billing_order SET state = 'refunded', steps = 2", "does not become"),
        (
            "UPDATE billing_order SET state = 'paid', steps = 2, way = 'x', paid_at = expires_at",
            "order_paid_before_it_expires",
        ),
        ("UPDATE billing_order SET amount = 1", "never changes"),
        ("UPDATE billing_order SET refunded = 1", "order_paid_in_a_way"),
        ("DELETE FROM billing_order", "never deleted"),
        ("UPDATE billing_orderstep SET state = 'paid'", "append-only"),
        ("DELETE FROM billing_walletmovement", "append-only"),
        ("UPDATE billing_banktransfer SET amount = 1", "never changes"),
        (
            "INSERT INTO billing_walletmovement (subscriber_id, currency, nr, kind, amount, bonus,"
            " balance, key, at, note, operator_id) SELECT subscriber_id, currency, 2, 'top_up', 5,"
            " 0, 25, 'k', at, '', operator_id FROM billing_walletmovement",
            "does not lead to its balance",
        ),
    ],
)
def test_the_database_keeps_the_rules(
    operator: Operator, api: APIClient, sql: str, refusal: str
) -> None:
    filled(api)
    top_up(api)

    with (
        pytest.raises(Error, match=refusal),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(sql)


# Bank transfers ----------------------------------------------------------------------------------


def test_a_transfer_that_does_not_fit_is_kept_with_the_reason(
    operator: Operator, api: APIClient
) -> None:
    number = top_up(api)

    short = transfer(api, "19.99", order=number)
    lost = transfer(api, "20.00", "b-2", order="CT-O-9999999999")
    over = transfer(api, "10.00", "b-3", invoice=NUMBER)
    assert [(one["state"], one["cause"]) for one in (short, lost, over)] == [
        ("unmatched", "amount_differs"),
        ("unmatched", "not_found"),
        ("unmatched", "amount_differs"),
    ]

    asked = f"transfers/{short['id']}/match"
    assert_problem(post(api, asked, {"order": number}), 409, "amount_differs")
    assert post(api, f"transfers/{lost['id']}/match", {"order": number}).status_code == 200
    assert post(api, asked, {"wallet": "s-2"}).json()["wallet"] == "s-2"
    assert [one["id"] for one in get(api, "transfers?state=unmatched")["items"]] == [over["id"]]
    assert (wallet(api), wallet(api, "s-2")) == ("20.00", "19.99")
    assert_books_agree()


def test_a_transfer_pays_once_and_an_order_is_paid_by_one(
    operator: Operator, api: APIClient
) -> None:
    number = top_up(api)
    first, twin = transfer(api, "20.00"), transfer(api, "20.00", "b-2")
    match = f"transfers/{first['id']}/match"
    assert post(api, match, {"order": number}).status_code == 200

    assert post(api, match, {"order": number}).status_code == 200
    assert_problem(post(api, match, {"wallet": "s-1"}), 409, "already_matched")
    assert_problem(post(api, f"transfers/{twin['id']}/match", {"order": number}), 409, "order_paid")
    told = {"reference": "b-1", "amount": "21.00"}
    assert_problem(post(api, "transfers", told), 409, "reference_used")
    assert get(api, f"transfers/{twin['id']}")["cause"] == "order_paid"
    assert wallet(api) == "20.00"
    assert_books_agree()


def test_a_transfer_pays_an_invoice_directly(operator: Operator, api: APIClient) -> None:
    assert transfer(api, "9.90", invoice=NUMBER)["invoice"] == NUMBER

    assert get(api, f"invoices/{NUMBER}")["state"] == "paid"
    assert transfer(api, "9.90", "b-2", invoice=NUMBER)["cause"] == "nothing_due"
    assert_books_agree()


# Bad input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ({"kind": "top_up", "amount": "0"}, "invalid"),
        ({"kind": "top_up", "amount": "-1"}, "invalid"),
        ({"kind": "top_up", "amount": "1.001"}, "invalid"),
        ({"kind": "top_up", "amount": "1000000.01"}, "invalid"),
        ({"kind": "top_up", "amount": {"amount": "1", "currency": "USD"}}, "invalid"),
        ({"kind": "top_up"}, "invalid"),
        ({"kind": "top_up", "amount": "1", "invoice": NUMBER}, "invalid"),
        ({"kind": "gift", "amount": "1"}, "invalid"),
        ({"kind": "top_up", "amount": "1", "expires_at": CLOSE.isoformat()}, "invalid"),
        (
            {"kind": "top_up", "amount": "1", "expires_at": (CLOSE + 401 * DAY).isoformat()},
            "invalid",
        ),
        ({}, "invalid"),
    ],
)
def test_no_order_is_taken_that_makes_no_sense(
    operator: Operator, api: APIClient, said: dict[str, Any], cause: str
) -> None:
    assert_problem(post(api, "subscribers/s-1/orders", said), 422, cause)
    assert not Order.objects.exists()


def test_what_is_another_operators_or_nobodys_is_not_found(
    operator: Operator, api: APIClient
) -> None:
    number, told = top_up(api), transfer(api, "1.00")
    other = client_for(make_key(make_operator("other", at=CLOSE)))
    why = {"reason": "x"}

    assert_problem(other.get(f"/api/v1/orders/{number}"), 404, "not_found")
    assert_problem(pay(other, number), 404, "not_found")
    assert_problem(post(other, f"orders/{number}/cancel", why), 404, "not_found")
    assert_problem(other.get(f"/api/v1/transfers/{told['id']}"), 404, "not_found")
    match = f"transfers/{told['id']}/match"
    assert_problem(post(other, match, {"order": number}), 404, "not_found")
    assert_problem(other.get("/api/v1/subscribers/s-1/wallet"), 404, "not_found")
    assert get(other, "orders")["items"] == get(other, "transfers")["items"] == []
    for wrong in ("x", "CT-O-1", "CT-2026-00000001", "%00"):
        assert_problem(api.get(f"/api/v1/orders/{wrong}"), 404, "not_found")
    assert_problem(
        post(api, "subscribers/s-2/orders", {"kind": "invoice", "invoice": NUMBER}),
        404,
        "not_found",
    )
    assert_problem(post(api, match, {"wallet": "nobody"}), 404, "not_found")
    assert_problem(post(api, match, {}), 422, "invalid")
    assert_problem(pay(api, number, "gold"), 422, "invalid")
    assert_problem(pay(api, number), 422, "invalid")  # a wallet from itself
    assert_books_agree()


def test_orders_are_listed_by_cursor_and_state(operator: Operator, api: APIClient) -> None:
    numbers = [top_up(api, str(nr)) for nr in (1, 2, 3)]
    post(api, f"orders/{numbers[1]}/cancel", {"reason": "x"})

    first = get(api, "orders?limit=2")
    rest = get(api, first["next"])

    assert [one["number"] for one in first["items"] + rest["items"]] == numbers
    assert rest["next"] is None
    cancelled = get(api, "subscribers/s-1/orders?state=cancelled")["items"]
    assert [one["number"] for one in cancelled] == [numbers[1]]
    assert get(api, "subscribers/s-2/orders")["items"] == []
    assert_problem(api.get("/api/v1/orders?state=lost"), 400, "bad_query")
    assert_problem(api.get("/api/v1/orders?cursor=x"), 400, "bad_cursor")


def test_the_same_key_orders_once(operator: Operator, api: APIClient) -> None:
    said = {"kind": "top_up", "amount": "5"}
    path = "/api/v1/subscribers/s-1/orders"
    first, again = (
        api.post(path, said, format="json", headers={"Idempotency-Key": "k"}) for _ in range(2)
    )
    other = api.post(path, {**said, "amount": "6"}, format="json", headers={"Idempotency-Key": "k"})

    assert first.json() == again.json()
    assert_problem(other, 409, "idempotency_conflict")
    assert Order.objects.count() == 1


def test_a_key_names_what_was_bought(operator: Operator) -> None:
    """Two boosters of one price are two."""
    whose, at = operator.subscribers.get(external_id="s-1").pk, clock.now(operator)
    for code in ("one", "two"):
        said = {"name": code, "price": yuan("3.00"), "units": 1000, "valid_days": 30}
        catalog.publish_booster(operator, code, **said, at=at)  # type: ignore[arg-type]
    first = buying.order_booster(operator, whose, "one", at=at, key="k")
    catalog.publish_booster(
        operator, "one", name="renamed", price=yuan("3.00"), units=1000, valid_days=30, at=at
    )

    assert buying.order_booster(operator, whose, "one", at=at, key="k") == first
    with pytest.raises(keeping.KeyUsed):
        buying.order_booster(operator, whose, "two", at=at, key="k")


def test_expiry_is_by_the_operators_clock(operator: Operator, api: APIClient) -> None:
    number = top_up(api)
    before = dt.datetime.fromisoformat(get(api, f"orders/{number}")["expires_at"])

    assert before == CLOSE + 3 * DAY
    move = {"now": (CLOSE + 3 * DAY).isoformat()}
    assert post(api, "test-clock", move).status_code == 200
    assert Order.objects.get().state == "expired"
