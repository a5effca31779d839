"""What is sold in advance is earned as its units burn, to the fen, and exactly once."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest
from django.db import IntegrityError, OperationalError, transaction
from rest_framework.test import APIClient

from billing import deferral, ledger
from billing.models import Deferral, Posting
from subscriptions.models import Operator, Subscription
from tests.at_once import at_once
from tests.factories import (
    client_for,
    local,
    make_key,
    make_operator,
    make_plan,
    make_subscriber,
    set_clock,
    subscribe,
)
from tests.families import join, make_family
from tests.usage import DAY, Gateway, assert_books_agree, get, post, put, record

pytestmark = pytest.mark.django_db

MILLION = 1_000_000
START, JULY = local(2026, 6, 1), local(2026, 7, 1)
CLOSE = JULY + 2 * DAY
NUMBER = "CT-2026-00000001"


@pytest.fixture
def operator() -> Operator:
    return make_operator("ct", at=START)


@pytest.fixture
def api(operator: Operator) -> APIClient:
    """With a subscriber of a plan without allowance, and a booster: 10.00 (9.43 net) for 3 million
    units that last 60 days, until 31 July."""
    api = client_for(make_key(operator))
    subscribe(make_subscriber(operator), make_plan(operator, allowance=0))
    booster = {"name": "Three", "price": "10.00", "units": "3000000", "valid_days": 60}
    assert put(api, "boosters/three", booster).status_code in (200, 201)
    assert post(api, "subscribers/s-1/boosters", {"booster": "three"}).status_code == 201
    return api


def move(api: APIClient, to: dt.datetime) -> None:
    answer = post(api, "test-clock", {"now": to.isoformat()})
    assert answer.status_code == 200, answer.content


def burn(operator: Operator, name: str, tokens: int, at: dt.datetime) -> None:
    body = record(name, occurred_at=at, input_tokens=tokens, output_tokens=0)
    assert Gateway(operator).charge(body)["accepted"] == 1


def books(operator: Operator, at: dt.datetime | None = None) -> dict[str, str]:
    """What is booked of the booster; credits are positive here."""
    rows = ledger.trial_balance(operator.pk, at=at or local(2030, 1, 1))
    return {
        row.account.partition(":")[0]: str(-row.balance)
        for row in rows
        if row.balance and "booster/three" in row.account
    }


def test_a_booster_is_owed_in_units_until_they_burn(operator: Operator, api: APIClient) -> None:
    burn(operator, "june", MILLION, START)
    move(api, CLOSE)
    # A third of 9.43 is 3.143.
    assert books(operator) == {"deferred": "6.29", "revenue": "3.14"}

    burn(operator, "july", MILLION, CLOSE)
    assert books(operator) == {"deferred": "6.29", "revenue": "3.14"}
    move(api, CLOSE + DAY)
    assert books(operator) == {"deferred": "3.14", "revenue": "6.29"}
    burn(operator, "last", MILLION, CLOSE + DAY)
    move(api, CLOSE + 2 * DAY)
    assert books(operator) == {"revenue": "9.43"}
    assert books(operator, CLOSE) == {"deferred": "6.29", "revenue": "3.14"}
    assert_books_agree()


def test_what_nobody_burned_is_breakage_when_late_usage_cannot_burn_it_any_more(
    operator: Operator, api: APIClient
) -> None:
    burn(operator, "june", MILLION, START)
    ends = START + 60 * DAY
    move(api, ends + 2 * DAY - dt.timedelta(seconds=1))
    late = record("late", occurred_at=ends - DAY, input_tokens=MILLION, output_tokens=0)
    assert Gateway(operator).charge(late)["accepted"] == 1
    assert books(operator) == {"deferred": "6.29", "revenue": "3.14"}

    move(api, ends + 3 * DAY)
    assert books(operator) == {"revenue": "6.29", "breakage": "3.14"}
    move(api, ends + 9 * DAY)
    assert Posting.objects.filter(kind="deferral").count() == 2
    assert_books_agree()


def test_what_a_member_of_the_family_burns_is_earned_with_the_main_line(
    operator: Operator, api: APIClient
) -> None:
    main = operator.subscribers.get(external_id="s-1")
    join(make_family(main), make_subscriber(operator, "kid"))
    said: dict[str, Any] = {"subject": "user-kid", "occurred_at": START, "output_tokens": 0}
    Gateway(operator).charge(record("k-1", input_tokens=MILLION, **said))
    move(api, CLOSE)
    assert books(operator) == {"deferred": "6.29", "revenue": "3.14"}

    voided = post(api, "subscribers/kid/usage-records/k-1/void", {"reason": "x"})
    assert voided.status_code == 200, voided.content
    move(api, CLOSE + DAY)
    assert books(operator) == {"deferred": "9.43"}
    assert_books_agree()


def test_usage_that_is_void_is_earned_no_more(operator: Operator, api: APIClient) -> None:
    burn(operator, "a", MILLION, START)
    burn(operator, "b", MILLION, START)
    move(api, CLOSE)
    assert books(operator) == {"deferred": "3.14", "revenue": "6.29"}

    void(api, "a")
    move(api, CLOSE + DAY)
    assert books(operator) == {"deferred": "6.29", "revenue": "3.14"}
    move(api, START + 65 * DAY)
    assert books(operator) == {"revenue": "3.14", "breakage": "6.29"}
    # The bucket has ended: nobody gets the units, but nobody has burned them either.
    void(api, "b")
    move(api, START + 66 * DAY)
    assert books(operator) == {"breakage": "9.43"}
    assert_books_agree()


def void(api: APIClient, name: str) -> None:
    answer = post(api, f"subscribers/s-1/usage-records/{name}/void", {"reason": "a test"})
    assert answer.status_code == 200, answer.content


def test_a_booster_that_ended_before_its_bill_is_earned_and_broken_with_it(
    operator: Operator, api: APIClient
) -> None:
    brief = {"name": "Three", "price": "10.00", "units": "3000000", "valid_days": 9}
    assert put(api, "boosters/three", brief).status_code == 201
    assert post(api, "subscribers/s-1/boosters", {"booster": "three"}).status_code == 201
    # The one that ends sooner burns first.
    burn(operator, "june", MILLION, START)
    burn(operator, "void", MILLION, START)
    set_clock(operator, JULY)
    void(api, "void")

    move(api, CLOSE)

    assert books(operator) == {"deferred": "9.43", "revenue": "3.14", "breakage": "6.29"}
    assert_books_agree()


def test_a_credit_takes_what_is_not_earned_first(operator: Operator, api: APIClient) -> None:
    burn(operator, "june", 2 * MILLION, START)
    move(api, CLOSE)
    assert books(operator) == {"deferred": "3.14", "revenue": "6.29"}

    # 1.06 of 19.90 is 0.53 of the booster's 10.00: 0.50 net.
    credit(api, "1.06")
    assert books(operator) == {"deferred": "2.64", "revenue": "6.29"}
    credit(api, "7.96")
    assert books(operator) == {"revenue": "5.16"}
    burn(operator, "july", MILLION, CLOSE)
    move(api, CLOSE + DAY)
    assert books(operator) == {"revenue": "5.16"}
    credit(api, "10.88")
    # Nothing, but for the fen that three roundings may leave.
    left = sum((Decimal(amount) for amount in books(operator).values()), Decimal(0))
    assert abs(left) <= Decimal("0.02")
    assert_books_agree()


def credit(api: APIClient, amount: str) -> None:
    answer = post(api, f"invoices/{NUMBER}/credit", {"reason": "a test", "amount": amount})
    assert answer.status_code == 201, answer.content


def test_nothing_of_a_void_bill_is_deferred_or_earned(operator: Operator, api: APIClient) -> None:
    burn(operator, "june", 2 * MILLION, START)
    move(api, CLOSE)

    assert post(api, f"invoices/{NUMBER}/void", {"reason": "a test"}).status_code == 200

    assert books(operator) == {}
    burn(operator, "july", MILLION, CLOSE)
    move(api, START + 70 * DAY)
    assert books(operator) == {}
    assert_books_agree()


def test_a_discount_is_off_what_is_deferred(operator: Operator, api: APIClient) -> None:
    [held] = Subscription.objects.all()
    half = {"name": "Half", "percent": "50", "covers": "all"}
    assert put(api, "coupons/half", half).status_code == 201
    path = f"subscribers/s-1/subscriptions/{held.id}/coupons"
    assert post(api, path, {"coupon": "half"}).status_code == 201
    burn(operator, "june", MILLION, START)
    move(api, CLOSE)

    # 9.43 less 4.72; a third is earned.
    assert books(operator) == {"deferred": "3.14", "revenue": "1.57"}
    assert post(api, f"invoices/{NUMBER}/credit", {"reason": "a test"}).status_code == 201
    assert books(operator) == {}
    assert_books_agree()


def swept(operator: Operator, at: dt.datetime) -> int:
    return deferral.sweep(operator, at=at, ended_by=at - 2 * DAY)


@pytest.mark.django_db(transaction=True)
def test_two_runs_at_once_post_once(operator: Operator, api: APIClient) -> None:
    move(api, CLOSE)
    burn(operator, "july", MILLION, CLOSE)
    at = CLOSE + DAY

    changed = at_once(lambda: swept(operator, at), lambda: swept(operator, at))

    assert sorted(changed) == [0, 1]
    assert books(operator) == {"deferred": "6.29", "revenue": "3.14"}
    assert Posting.objects.filter(kind="deferral").count() == 1
    assert_books_agree()


def test_a_run_that_broke_off_is_gone_on_with(
    operator: Operator, api: APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        assert post(api, "subscribers/s-1/boosters", {"booster": "three"}).status_code == 201
    move(api, CLOSE)
    # The first is burned whole, then the second.
    burn(operator, "july", 5 * MILLION, CLOSE)
    monkeypatch.setattr(deferral, "CHUNK", 1)
    real, asked = ledger.post_many, []

    def breaks_off(operator_id: int, drafts: Any) -> int:
        asked.append(drafts)
        if len(asked) == 2:
            raise OperationalError("the server went away")
        return real(operator_id, drafts)

    with monkeypatch.context() as broken:
        broken.setattr(ledger, "post_many", breaks_off)
        with pytest.raises(OperationalError):
            swept(operator, CLOSE + DAY)
    assert books(operator) == {"deferred": "18.86", "revenue": "9.43"}
    assert deferral.is_due(operator, at=CLOSE + DAY)

    swept(operator, CLOSE + DAY)

    assert books(operator) == {"deferred": "12.57", "revenue": "15.72"}
    assert swept(operator, CLOSE + DAY) == 0
    assert_books_agree()


def test_the_days_burning_is_looked_at_once_a_day_just_before_its_end(operator: Operator) -> None:
    noon = local(2026, 7, 5, 12)
    assert deferral.is_due(operator, at=noon)
    deferral.sweep(operator, at=noon, ended_by=noon)

    seen = [noon, local(2026, 7, 5, 23, 49), local(2026, 7, 5, 23, 50)]
    assert [deferral.is_due(operator, at=at) for at in seen] == [False, False, True]
    deferral.sweep(operator, at=seen[-1], ended_by=noon)
    seen = [seen[-1], local(2026, 7, 6, 12), local(2026, 7, 6, 23, 51), local(2026, 7, 9)]
    assert [deferral.is_due(operator, at=at) for at in seen] == [False, False, True, True]


def test_the_database_knows_what_is_earned(operator: Operator, api: APIClient) -> None:
    burn(operator, "june", MILLION, START)
    move(api, CLOSE)

    wrong: list[dict[str, Any]] = [
        {"earned": Decimal("3.15")},
        {"broken": Decimal("1.00")},
        {"credited": Decimal("9.44")},
        {"burned": 3 * MILLION * 1000 + 1},
        {"ended": True},
    ]
    for said in wrong:
        with pytest.raises(IntegrityError, match="deferral_"), transaction.atomic():
            Deferral.objects.update(**said)
    assert get(api, "subscribers/s-1/invoices")["items"]
