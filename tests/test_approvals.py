"""Four eyes: above the operator's limit nothing is done before another person approves it."""

from __future__ import annotations

import io
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from django.core.management import call_command
from django.db import IntegrityError, InternalError, connection, transaction
from rest_framework.test import APIClient

from billing import approvals, approving, corrections, giving
from billing.models import Approval, Invoice, WalletMovement
from metering import rerating, tasks
from subscriptions import clock
from subscriptions.models import Bucket, Operator, Subscriber
from tests.factories import (
    NOW,
    client_for,
    local,
    make_key,
    make_plan,
    make_rate_card,
    make_subscriber,
    subscribe,
)
from tests.test_closing import move
from tests.usage import (
    DAY,
    Gateway,
    assert_books_agree,
    assert_problem,
    get,
    post,
    put,
    record,
    records_of,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def boss(operator: Operator) -> APIClient:
    return client_for(make_key(operator, name="boss"))


@pytest.fixture
def limits(api: APIClient) -> None:
    """5.00 yuan and 1,000 units."""
    assert put(api, "correction-policy", {"approval_limit": "5.00", "over_charge_factor": "1"})
    policy = {"units_limit": "1000", "prices_by_two": False}
    answer = put(api, "approval-policy", policy)
    assert answer.json() == {"units_limit": "1000.000", "prices_by_two": False}
    assert get(api, "correction-policy")["approval_limit"]["amount"] == "5.00"


def gift(api: APIClient, units: str, key: str = "") -> Any:
    body = {"units": units, "valid_until": (NOW + DAY).isoformat(), "reason": "sorry"}
    headers = {"Idempotency-Key": key} if key else {}
    return api.post("/api/v1/subscribers/s-1/grants", body, format="json", headers=headers)


def credit(api: APIClient, amount: str) -> Any:
    body = {"amount": amount, "reason": "sorry", "expires_at": (NOW + DAY).isoformat()}
    return post(api, "subscribers/s-1/wallet/credits", body)


def decide(api: APIClient, what: str, id: Any) -> Any:
    return post(api, f"approvals/{id}/{what}", {"reason": "looked at it"})


def gifts() -> list[int]:
    return list(Bucket.objects.filter(kind="gift").order_by("id").values_list("granted", flat=True))


# What is given by hand ---------------------------------------------------------------------------


@pytest.mark.usefixtures("subscriber", "limits")
def test_units_above_the_limit_are_given_when_another_person_approves(
    api: APIClient, boss: APIClient
) -> None:
    assert gift(api, "1000").status_code == 201

    asked = gift(api, "1000.001", "k")

    assert asked.status_code == 202, asked.content
    waits = asked.json()
    assert (waits["kind"], waits["units"], waits["subscriber"]) == ("units", "1000.001", "s-1")
    assert waits["effect"]["units_before"] == "10001000.000"
    assert waits["effect"]["units_after"] == "10002000.001"
    assert gift(api, "1000.001", "k").json() == waits
    assert get(boss, "approvals?state=pending")["items"] == [waits]
    assert gifts() == [1_000_000]
    assert_problem(decide(api, "approve", waits["id"]), 409, "four_eyes")

    done = decide(boss, "approve", waits["id"]).json()

    assert (done["state"], done["decided_by"]) == ("approved", "boss")
    assert decide(boss, "approve", waits["id"]).json() == done
    assert_problem(decide(boss, "reject", waits["id"]), 409, "decided")
    assert gifts() == [1_000_000, 1_000_001]
    assert_books_agree()


@pytest.mark.usefixtures("subscriber", "limits")
def test_money_is_a_bonus_in_the_wallet_above_the_limit_when_another_approves(
    operator: Operator, api: APIClient, boss: APIClient
) -> None:
    assert credit(api, "5.00").json()["bonus"]["amount"] == "5.00"

    waits = credit(api, "5.01").json()

    assert (waits["kind"], waits["amount"]["amount"]) == ("money", "-5.01")
    assert (waits["effect"]["wallet_before"], waits["effect"]["wallet_after"]) == ("5.00", "10.01")
    assert decide(boss, "approve", waits["id"]).status_code == 200
    wallet = get(api, "subscribers/s-1/wallet")
    assert (wallet["balance"]["amount"], wallet["bonus"]["amount"]) == ("10.01", "10.01")
    assert_books_agree()
    move(api, NOW + 2 * DAY)
    assert get(api, "subscribers/s-1/wallet")["balance"]["amount"] == "0.00"
    assert_books_agree()


@pytest.mark.usefixtures("subscriber", "limits")
def test_what_is_rejected_or_late_is_not_given(api: APIClient, boss: APIClient) -> None:
    late, never = credit(api, "6.00").json()["id"], gift(api, "2000").json()["id"]
    assert decide(boss, "reject", never).json()["state"] == "rejected"
    assert_problem(decide(boss, "approve", never), 409, "decided")
    unasked = gift(api, "3000").json()["id"]
    move(api, NOW + 2 * DAY)

    for id in (late, unasked):
        assert_problem(decide(boss, "approve", id), 422, "invalid")

    assert gifts() == []
    assert {one["state"] for one in get(api, "approvals")["items"]} == {"pending", "rejected"}
    assert_books_agree()


def test_a_key_names_one_request(
    operator: Operator, api: APIClient, subscriber: Subscriber, limits: None
) -> None:
    asked = {"valid_until": NOW + DAY, "reason": "x", "by": "me", "at": NOW, "once": "k"}
    first = giving.give(operator, subscriber.pk, units=2_000_000, **asked)  # type: ignore[arg-type]
    assert first == giving.give(operator, subscriber.pk, units=2_000_000, **asked)  # type: ignore[arg-type]

    with pytest.raises(giving.KeyUsed):
        giving.give(operator, subscriber.pk, units=3_000_000, **asked)  # type: ignore[arg-type]
    for wrong in (Decimal(0), Decimal(-1), Decimal("0.001")):
        with pytest.raises(Exception, match="two decimals"):
            giving.credit(operator, subscriber.pk, wrong, reason="x", by="me", at=NOW)


@pytest.mark.usefixtures("limits")
def test_what_was_given_at_once_is_not_asked_for_by_another_limit(
    operator: Operator, subscriber: Subscriber
) -> None:
    said: dict[str, Any] = {"reason": "x", "by": "me", "at": NOW, "once": "k"}
    until = {"valid_until": NOW + DAY}
    gave = giving.credit(operator, subscriber.pk, Decimal(5), **said)
    units = giving.give(operator, subscriber.pk, units=1_000_000, **said | until | {"once": "u"})
    waits = giving.credit(operator, subscriber.pk, Decimal(6), **said | {"once": "w"})

    for limit, most in ((Decimal(1), 1000), (Decimal(100), 10**9)):
        rules = corrections.Rules(approval_limit=limit, units_limit=most)
        corrections.set_rules(operator, rules, by="boss", at=NOW)
        assert giving.credit(operator, subscriber.pk, Decimal(5), **said) == gave
        assert giving.credit(operator, subscriber.pk, Decimal(6), **said | {"once": "w"}) == waits
        again = said | until | {"once": "u"}
        assert giving.give(operator, subscriber.pk, units=1_000_000, **again) == units
        with pytest.raises(giving.KeyUsed):
            giving.credit(operator, subscriber.pk, Decimal(4), **said)
        with pytest.raises(giving.KeyUsed):
            giving.give(operator, subscriber.pk, units=2000, **again)
    assert (len(gifts()), WalletMovement.objects.count()) == (1, 1)


# What is given up --------------------------------------------------------------------------------


def test_a_write_off_above_the_limit_waits_and_is_over_what_was_seen(
    operator: Operator, api: APIClient, boss: APIClient, subscriber: Subscriber, limits: None
) -> None:
    move(api, local(2026, 7, 10))
    number = str(Invoice.objects.get(kind="period").number)

    def asks() -> str:
        out = io.StringIO()
        call_command("write_off", number, "--reason", "bankrupt", "--by", "li", stdout=out)
        return out.getvalue()

    assert "another person has to approve it" in asks()
    asks()
    [waits] = get(api, "approvals?state=pending")["items"]
    assert (waits["kind"], waits["invoice"], waits["amount"]["amount"]) == (
        *("write_off", number),
        "-9.90",
    )
    assert post(api, f"invoices/{number}/credit", {"reason": "x", "amount": "1.00"})
    assert_problem(decide(boss, "approve", waits["id"]), 409, "changed")
    assert decide(boss, "reject", waits["id"]).status_code == 200
    asks()
    [again] = get(api, "approvals?state=pending")["items"]
    # What was rejected may be asked for again, over the same amount.
    assert decide(boss, "reject", again["id"]).status_code == 200
    asks()
    [again] = get(api, "approvals?state=pending")["items"]
    assert decide(boss, "approve", again["id"]).json()["amount"]["amount"] == "-8.90"
    assert get(api, f"invoices/{number}")["state"] == "uncollectible"
    assert "0.00" in asks() or "given up" in asks()
    assert_books_agree()


# Re-rating ---------------------------------------------------------------------------------------


def test_a_re_rating_that_moves_more_than_the_limit_waits(
    operator: Operator,
    gateway: Gateway,
    api: APIClient,
    boss: APIClient,
    subscriber: Subscriber,
    limits: None,
) -> None:
    make_rate_card(operator, "fair", weights={"*": ("0.5",) * 5})
    gateway.charge(record("a", input_tokens=4_000))
    order = {"rate_card": "fair", "since": (NOW - DAY).isoformat(), "reason": "wrong card"}
    run = post(api, "re-ratings", order | {"until": (NOW + DAY).isoformat()}).json()
    path = f"re-ratings/{run['id']}/apply"

    for _ in range(2):
        answer = post(api, path)
        assert (answer.status_code, answer.json()["state"]) == (202, "previewed")

    [waits] = get(api, "approvals?state=pending")["items"]
    assert (waits["kind"], waits["about"], waits["effect"]["gain"]) == ("rerating", run["id"], 1)
    assert_problem(decide(api, "approve", waits["id"]), 409, "four_eyes")
    assert_books_agree()
    assert decide(boss, "approve", waits["id"]).status_code == 200
    tasks.rerate_waiting()
    while rerating.waiting():
        rerating.work(int(run["id"]), at=clock.now(operator))
    assert post(api, path).json()["state"] == "applied"
    [item] = records_of(api)
    assert Decimal(item["units"]) * 2 == Decimal(run["units_before"])
    assert_books_agree()


# The rules of the table --------------------------------------------------------------------------


def asked(operator: Operator, subscriber: Subscriber) -> Approval:
    with transaction.atomic():
        return approvals.ask(
            operator,
            "units",
            subscriber_id=subscriber.pk,
            units=5,
            until=NOW + DAY,
            effect={},
            reason="x",
            by="me",
            at=NOW,
        )


def _by_who_asked(row: Approval) -> None:
    row.decided_by, row.decision, row.decided_at = "me", "x", NOW
    row.state, row.made_id = "approved", 1
    row.save()


def _without_a_gift(row: Approval) -> None:
    row.decided_by, row.decision, row.decided_at = "boss", "x", NOW
    row.state = "approved"
    row.save()


def _of_nobody(row: Approval) -> None:
    row.pk, row.subscriber_id = None, None
    row.save()


def _about_nothing(row: Approval) -> None:
    row.pk, row.kind = None, "handover"
    row.save()


def _of_more(row: Approval) -> None:
    row.units = 6
    row.save()


@pytest.mark.parametrize(
    "wrong", [_by_who_asked, _without_a_gift, _of_nobody, _about_nothing, _of_more]
)
def test_the_database_refuses(
    operator: Operator, subscriber: Subscriber, wrong: Callable[[Approval], None]
) -> None:
    with pytest.raises((IntegrityError, InternalError)), transaction.atomic():
        wrong(asked(operator, subscriber))


def test_what_is_decided_is_never_decided_again(operator: Operator, subscriber: Subscriber) -> None:
    waits = asked(operator, subscriber)
    approving.reject(operator, waits.pk, by="boss", reason="no", at=NOW)

    with pytest.raises((IntegrityError, InternalError)), connection.cursor() as cursor:
        cursor.execute("UPDATE billing_approval SET state = 'pending', decided_by = ''")


def test_a_request_has_a_person_and_a_reason_and_so_has_a_decision(
    operator: Operator, subscriber: Subscriber
) -> None:
    make_subscriber(operator, "s-2")
    subscribe(make_subscriber(operator, "s-3"), make_plan(operator, "other"))
    waits = asked(operator, subscriber)
    for by, reason in (("", "x"), ("boss", " ")):
        with pytest.raises(Exception, match="a person and a reason"):
            approving.approve(operator, waits.pk, by=by, reason=reason, at=NOW)
    assert Approval.objects.get().state == "pending"
