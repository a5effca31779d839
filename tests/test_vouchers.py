"""Vouchers from making to redeeming: codes that nobody guesses, worth what they say, once."""

from __future__ import annotations

import datetime as dt
import itertools
import json
from typing import Any

import pytest
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction
from hypothesis import given
from hypothesis import strategies as st
from rest_framework.test import APIClient

from billing import ledger, wallets
from billing.models import Voucher, VoucherBatch, VoucherSet
from billing.vouchers import codes, guessing, keeping
from subscriptions.models import Operator, Subscriber
from tests.factories import (
    NOW,
    buckets_of,
    client_for,
    make_key,
    make_operator,
    make_subscriber,
    set_clock,
)
from tests.usage import DAY, assert_books_agree, assert_problem, get, post, put
from tests.vouchers import TERMS, make_all, order_batch, shown_codes, sold_vouchers

pytestmark = pytest.mark.django_db

WRONG = "2222-2222-2222-2222"  # what it checks is right: a code that nobody has


def redeem(api: APIClient, code: str, external_id: str = "s-1", **said: Any) -> Any:
    return post(api, f"subscribers/{external_id}/vouchers", {"code": code, **said})


def owed(operator: Operator, at: dt.datetime = NOW) -> dict[str, str]:
    return {
        one.account: str(-one.balance)
        for one in ledger.trial_balance(operator.pk, at=at)
        if one.balance
    }


# --- codes --------------------------------------------------------------------------------------


@given(st.integers(0, 15), st.sampled_from(codes.ALPHABET), st.integers(0, 15))
def test_a_wrong_sign_and_signs_that_changed_places_are_noticed(
    place: int, sign: str, other: int
) -> None:
    code = codes.new()
    signs = list(code)
    signs[place] = sign
    swapped = list(code)
    swapped[place], swapped[other] = swapped[other], swapped[place]

    assert codes.read(codes.shown(code).lower()) == code
    for changed in ("".join(signs), "".join(swapped)):
        assert codes.read(changed) == (code if changed == code else None)


def test_a_code_has_no_sign_that_is_taken_for_another() -> None:
    assert set("01ILO").isdisjoint(codes.ALPHABET)
    assert len(set(codes.ALPHABET)) == 31
    assert codes.read(WRONG.replace("-", "")) is not None


def test_only_the_key_of_a_batch_opens_its_codes() -> None:
    key, public = codes.new_key()
    other, _ = codes.new_key()
    sealed = codes.seal(public, ["2" * 16, "3" * 16])

    assert codes.unseal(key, sealed) == ["2" * 16, "3" * 16]
    for wrong in (other, "", "x", key[:-2], "é" * 43):
        with pytest.raises(codes.WrongKey):
            codes.unseal(wrong, sealed)


# --- making and showing -------------------------------------------------------------------------


def test_codes_are_shown_once_and_kept_nowhere(
    operator: Operator, api: APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "SET", 4)
    key = order_batch(api, count=10)
    early = post(api, "voucher-batches/SPRING/codes", {"key": key})
    make_all(operator)
    wrong = post(api, "voucher-batches/SPRING/codes", {"key": codes.new_key()[0]})
    shown = shown_codes(api, key)
    again = post(api, "voucher-batches/SPRING/codes", {"key": key})

    assert_problem(early, 409, "still_making")
    assert_problem(wrong, 422, "wrong_key")
    assert_problem(again, 409, "codes_shown")
    assert list(shown) == [f"SPRING-{nr:07}" for nr in range(1, 11)]
    assert len(set(shown.values())) == 10
    assert VoucherSet.objects.count() == 0
    with connection.cursor() as cursor:
        cursor.execute("SELECT v::text FROM billing_voucher v")
        kept = json.dumps(cursor.fetchall())
    for code in shown.values():
        plain = codes.read(code)
        assert plain is not None
        assert plain not in kept
        assert code not in kept
    batch = get(api, "voucher-batches/SPRING")
    assert (batch["made"], batch["states"]["made"]) == (10, 10)
    assert batch["codes_shown_at"] is not None


def test_a_batch_is_ordered_once_and_its_key_told_once(api: APIClient) -> None:
    order_batch(api)

    again = put(api, "voucher-batches/SPRING", TERMS | {"amount": "50.00"})
    other = put(api, "voucher-batches/SPRING", TERMS | {"amount": "60.00"})

    assert (again.status_code, "codes_key" in again.json()) == (200, False)
    assert_problem(other, 409, "batch_made")


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ({}, "invalid"),
        ({"amount": "1.00", "units": "5", "valid_days": 3}, "invalid"),
        ({"units": "5"}, "invalid"),
        ({"amount": "1.00", "valid_days": 3}, "invalid"),
        ({"amount": "0.00"}, "invalid"),
        ({"amount": {"amount": "1.00", "currency": "USD"}}, "invalid"),
        ({"booster": "none"}, "unknown_booster"),
        ({"amount": "1.00", "count": 1_000_001}, "invalid"),
        ({"amount": "1.00", "valid_until": "2026-06-01T00:00:00+08:00"}, "invalid"),
    ],
)
def test_a_batch_that_makes_no_sense_is_refused(
    api: APIClient, said: dict[str, Any], cause: str
) -> None:
    assert_problem(put(api, "voucher-batches/SPRING", TERMS | said), 422, cause)
    assert not VoucherBatch.objects.exists()


# --- redeeming ----------------------------------------------------------------------------------


def test_money_goes_into_the_wallet_once(
    operator: Operator, api: APIClient, subscriber: Subscriber
) -> None:
    make_subscriber(operator, "s-2")
    [(serial, code), *_] = sold_vouchers(operator, api).items()
    before = owed(operator)

    first = redeem(api, code.lower().replace("-", " "))
    again = redeem(api, code)
    other = redeem(api, code, "s-2")

    assert before == {"cash:voucher": "-150.00", "voucher": "150.00"}
    assert first.status_code == 200, first.content
    assert first.json()["state"] == "redeemed"
    assert again.json() == first.json()
    assert_problem(other, 409, "voucher_used")
    assert str(wallets.balance_of(subscriber.pk, "CNY")) == "50.00"
    assert owed(operator) == {"cash:voucher": "-150.00", "voucher": "100.00", "wallet": "50.00"}
    assert get(api, f"vouchers/{serial}")["subscriber"] == "s-1"
    assert_books_agree()


def test_a_booster_is_bought_with_it_and_units_are_a_gift(
    operator: Operator, api: APIClient, subscriber: Subscriber
) -> None:
    small = {"name": "Small", "price": "8.00", "units": "1000", "valid_days": 30}
    assert put(api, "boosters/small", small).status_code == 201
    boosters = sold_vouchers(operator, api, "BOOST", booster="small")
    assert put(api, "boosters/small", small | {"price": "9.00"}).status_code == 201
    gifts = sold_vouchers(operator, api, "GIFT", units="500", valid_days=7)

    bought = redeem(api, boosters["BOOST-0000002"])
    given_units = redeem(api, gifts["GIFT-0000001"])

    assert (bought.status_code, given_units.status_code) == (200, 200), bought.content
    [booster] = buckets_of(subscriber, "booster")
    [gift] = buckets_of(subscriber, "gift")
    assert (booster.granted, gift.granted) == (1_000_000, 500_000)
    assert gift.valid_until == NOW + 7 * DAY
    assert str(wallets.balance_of(subscriber.pk, "CNY")) == "0.00"
    assert owed(operator)["prepaid"] == "8.00"
    assert_books_agree()


def test_a_card_that_was_not_sold_is_paper(
    operator: Operator, api: APIClient, subscriber: Subscriber
) -> None:
    key = order_batch(api)
    make_all(operator)
    [code, second, _] = shown_codes(api, key).values()
    done = post(api, "voucher-batches/SPRING/activate", {"first": 2, "last": 2})

    assert_problem(redeem(api, code), 422, "voucher_unknown")
    assert done.json() == {"changed": 1}
    assert redeem(api, second).status_code == 200
    assert_books_agree()


def test_void_and_expired_vouchers_give_nothing_and_are_owed_no_more(
    operator: Operator, api: APIClient, subscriber: Subscriber
) -> None:
    sold = sold_vouchers(operator, api, count=4, valid_until="2026-06-20T00:00:00+08:00")
    codes_sold = list(sold.values())
    void = post(api, "vouchers/SPRING-0000001/void", {"reason": "lost carton"})
    redeem(api, codes_sold[1])
    used = post(api, "vouchers/SPRING-0000002/void", {"reason": "x"})

    assert void.json()["state"] == "void"
    assert_problem(used, 409, "not_voidable")
    assert_problem(redeem(api, codes_sold[0]), 409, "voucher_void")
    end = VoucherBatch.objects.get().valid_until
    set_clock(operator, end)
    assert_problem(redeem(api, codes_sold[2]), 409, "voucher_expired")
    while keeping.expire_next(operator, at=end):
        pass
    assert_problem(redeem(api, codes_sold[3]), 409, "voucher_expired")
    assert get(api, "voucher-batches/SPRING")["states"] == {
        "made": 0,
        "activated": 0,
        "redeemed": 1,
        "void": 1,
        "expired": 2,
    }
    assert owed(operator, end) == {
        "cash:voucher": "-150.00",
        "voucher_breakage": "100.00",
        "wallet": "50.00",
    }
    assert_books_agree()


def test_a_voucher_is_not_redeemed_before_its_time(
    operator: Operator, api: APIClient, subscriber: Subscriber
) -> None:
    [code, *_] = sold_vouchers(operator, api, valid_from="2026-06-11T00:00:00+08:00").values()

    assert_problem(redeem(api, code), 409, "voucher_not_valid_yet")
    set_clock(operator, NOW + DAY)
    assert redeem(api, code).status_code == 200


# --- guessing -----------------------------------------------------------------------------------


def test_who_guesses_is_locked_out_for_an_hour(
    operator: Operator, api: APIClient, subscriber: Subscriber
) -> None:
    [code, *_] = sold_vouchers(operator, api).values()
    for _ in range(3):  # counts nothing: it cannot be a code
        assert_problem(redeem(api, "2222-2222-2222-2223"), 422, "voucher_mistyped")
    for _ in range(guessing.OF_SUBSCRIBER):
        assert_problem(redeem(api, WRONG), 422, "voucher_unknown")

    locked = redeem(api, code)

    assert_problem(locked, 429, "voucher_locked_out")
    assert locked["Retry-After"] == "3600"
    assert "60 minute" in locked.json()["detail"]
    set_clock(operator, NOW + dt.timedelta(hours=1))
    assert redeem(api, code).status_code == 200


def test_many_subscribers_of_one_origin_are_locked_out_together(
    operator: Operator, api: APIClient, subscriber: Subscriber
) -> None:
    [code, *_] = sold_vouchers(operator, api).values()
    people = [make_subscriber(operator, f"p-{nr}").external_id for nr in range(5)]
    for person in itertools.islice(itertools.cycle(people), guessing.OF_SOURCE):
        assert_problem(redeem(api, WRONG, person, origin="192.0.2.7"), 422, "voucher_unknown")

    assert_problem(redeem(api, code, origin="192.0.2.7"), 429, "voucher_locked_out")
    assert redeem(api, code, origin="192.0.2.8").status_code == 200


def test_a_wrong_code_and_one_of_another_operator_look_the_same(
    operator: Operator, api: APIClient, subscriber: Subscriber
) -> None:
    other = make_operator("other")
    theirs = client_for(make_key(other))
    make_subscriber(other)
    make_subscriber(other, "theirs")
    used, unused, _ = sold_vouchers(other, theirs).values()
    assert redeem(theirs, used).status_code == 200

    answers = [redeem(api, code) for code in (WRONG, used, unused)]

    assert_problem(redeem(api, unused, "theirs"), 404, "not_found")
    assert len({answer.content for answer in answers}) == 1
    assert_problem(answers[0], 422, "voucher_unknown")
    assert redeem(theirs, unused).status_code == 200


# --- the database says so too -------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE billing_voucher SET state = 'activated', subscriber_id = NULL",
        "UPDATE billing_voucher SET digest = decode(repeat('00', 32), 'hex')",
        "DELETE FROM billing_voucher",
        "UPDATE billing_voucherbatch SET amount = 1000",
        "UPDATE billing_voucherbatch SET shown_at = NULL",
        "DELETE FROM billing_voucherstep",
    ],
)
def test_a_used_voucher_stays_used(
    operator: Operator, api: APIClient, subscriber: Subscriber, sql: str
) -> None:
    [code] = sold_vouchers(operator, api, count=1).values()
    assert redeem(api, code).status_code == 200

    with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(sql)
    assert Voucher.objects.get().state == "redeemed"


def test_the_command_lists_batches_and_finds_a_card(
    operator: Operator, api: APIClient, capsys: pytest.CaptureFixture[str]
) -> None:
    sold_vouchers(operator, api)

    call_command("vouchers")
    call_command("vouchers", "SPRING-0000002")

    printed = capsys.readouterr().out
    assert "SPRING" in printed
    assert "SPRING-0000002 is activated" in printed
