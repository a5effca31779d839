"""Disputes: what is frozen while a payer's bank asks for its money back, and what follows."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from django.db import Error, transaction
from django.db.models import F
from rest_framework.test import APIClient

from billing import disputes, inbox, refunds
from billing.models import Dispute, PaymentIntent, ProviderEvent
from billing.ways.provider import About, Answer, Event, Fate
from subscriptions import reservations
from subscriptions.models import Operator
from tests.asking import asked as reservation
from tests.factories import client_for, local, make_gateway_key, make_plan
from tests.providers import event as notice
from tests.providers import stripe_account, tell
from tests.slow_provider import SlowProvider, slow_provider
from tests.test_orders import order, wallet
from tests.test_refunds import (
    CLOSE,
    START,
    accounts,
    booster,
    bought,
    move,
    operator,
    refund,
    remaining,
    subscribe_to,
    told,
    use,
)
from tests.usage import DAY, assert_books_agree, assert_problem, get, post, put, used

pytestmark = pytest.mark.django_db

__all__ = ["operator"]  # the carrier of the tests of refunds


@pytest.fixture
def slow() -> Iterator[SlowProvider]:
    with slow_provider() as provider:
        yield provider


def event(
    order_number: str,
    status: str = "needs_response",
    *,
    reference: str = "du_1",
    amount: str = "10.00",
    fee: int = 0,
    by_reference: bool = False,
) -> Event:
    """As Stripe's are read: the payment is named by its own reference, or by our key."""
    intent = PaymentIntent.objects.get(key__startswith=order_number, state="succeeded")
    fates = {"won": Fate.SUCCEEDED, "lost": Fate.FAILED}
    thing: dict[str, Any] = {
        "status": status,
        "reason": "fraudulent",
        "evidence_details": {"due_by": int(local(2026, 6, 20).timestamp())},
        "balance_transactions": [{"fee": fee}] if fee else [],
    }
    return Event(
        id=f"ev-{reference}-{status}",
        about=About.DISPUTE,
        key="" if by_reference else intent.key,
        reference=reference,
        answer=Answer(
            fates.get(status, Fate.WAITING),
            reference=intent.reference if by_reference else "",
            reason="fraudulent",
            amount=Decimal(amount),
            currency="CNY",
        ),
        occurred_at=START,
        details={"type": "charge.dispute", "object": thing},
    )


def hear(operator: Operator, *events: Event) -> Dispute:
    found = None
    for one in events:
        found = disputes.take_dispute(operator, one, at=START)
    assert found is not None
    return found


def test_disputed_units_cannot_be_drawn_and_are_there_again_when_it_is_won(
    operator: Operator, api: APIClient, slow: SlowProvider
) -> None:
    number = booster(operator, api)
    use(operator, 300)

    opened = event(number, fee=1500, by_reference=True)
    dispute = hear(operator, opened, opened)

    shown = get(api, f"disputes/{dispute.number}")
    assert (shown["state"], shown["reason"], shown["fee"]["amount"]) == (
        *("opened", "fraudulent", "15.00"),
    )
    assert shown["due_by"] == "2026-06-19T16:00:00Z"
    assert remaining() == (0, 300, 700)
    use(operator, 50, "beside")
    assert used(operator_subscriber(operator)) == {"booster": 300, "uncovered": 50}
    assert_problem(refund(api, number), 409, "disputed")
    assert accounts(operator) == {
        "disputed": "10.00",
        "prepaid": "-10.00",
    }

    hear(operator, event(number, "under_review"), event(number, "won"), event(number, "won"))
    # The notice of its opening is late, and comes again.
    hear(operator, opened)

    shown = get(api, f"disputes/{dispute.number}")
    assert [one["state"] for one in shown["history"]] == ["opened", "under_review", "won"]
    assert remaining() == (700, 300, 0)
    use(operator, 10, "again")
    assert remaining() == (690, 310, 0)
    assert accounts(operator) == {"cash:slow": "10.00", "prepaid": "-10.00"}
    assert [len(told(kind)) for kind in ("dispute.opened", "dispute.closed")] == [1, 1]
    assert refund(api, number).status_code == 201
    assert_books_agree()


def test_an_inquiry_moves_nothing_and_is_withdrawn(
    operator: Operator, api: APIClient, slow: SlowProvider
) -> None:
    number = booster(operator, api)
    before = accounts(operator)

    asked = event(number, "warning_needs_response")
    inquiry = hear(operator, asked, asked, event(number, "warning_under_review"))

    assert (inquiry.state, accounts(operator)) == ("inquiry", before)
    use(operator, 300)
    assert remaining() == (700, 300, 0)
    door = f"disputes/{inquiry.number}"
    assert put(api, f"{door}/evidence", {"service_date": "2026-06-10"}).status_code == 200
    assert post(api, f"{door}/submit", {}).status_code == 200
    assert get(api, door)["state"] == "inquiry"
    assert_books_agree()

    hear(operator, event(number, "warning_closed"), asked)

    shown = get(api, door)
    assert [one["state"] for one in shown["history"]] == ["inquiry", "withdrawn"]
    assert accounts(operator) == before
    assert [len(told(f"dispute.{kind}")) for kind in ("inquiry", "opened", "closed")] == [1, 0, 1]
    assert refund(api, number).status_code == 201
    assert_books_agree()


def test_an_inquiry_may_be_answered_by_giving_the_money_back(
    operator: Operator, api: APIClient, slow: SlowProvider
) -> None:
    number = booster(operator, api)
    hear(operator, event(number, "warning_needs_response"))

    assert refund(api, number).status_code == 201

    hear(operator, event(number, "warning_closed"))
    assert_books_agree()


def test_an_inquiry_that_becomes_a_dispute_takes_then(
    operator: Operator, api: APIClient, slow: SlowProvider
) -> None:
    number = booster(operator, api)
    dispute = hear(operator, event(number, "warning_needs_response"))
    put(api, f"disputes/{dispute.number}/evidence", {"service_date": "2026-06-10"})
    assert post(api, f"disputes/{dispute.number}/submit", {}).json()["submitted_at"]
    use(operator, 300)

    # What is taken in the end may be less than what was asked about.
    hear(operator, event(number, amount="6.00"), event(number, "warning_under_review"))

    shown = get(api, f"disputes/{dispute.number}")
    assert (shown["state"], shown["amount"]["amount"]) == ("opened", "6.00")
    assert (shown["submitted_at"], shown["sent_at"]) == (None, None)
    assert remaining() == (0, 300, 700)
    assert accounts(operator)["disputed"] == "6.00"
    assert_problem(refund(api, number), 409, "disputed")
    assert_books_agree()

    hear(operator, event(number, "lost"))

    shown = get(api, f"disputes/{dispute.number}")
    assert [one["state"] for one in shown["history"]] == ["inquiry", "opened", "lost"]
    assert_books_agree()


def test_an_inquiry_about_a_top_up_leaves_the_wallet_alone(
    operator: Operator, api: APIClient, slow: SlowProvider
) -> None:
    subscribe_to(api, "kept")
    number = bought(operator, api, kind="top_up", amount="50.00")
    before = wallet(api)

    dispute = hear(operator, event(number, "warning_needs_response", amount="50.00"))
    assert (dispute.held, wallet(api)) == (Decimal(0), before)

    # Never heard of again until it is decided.
    dispute = hear(operator, event(number, "lost", amount="50.00"))

    assert (dispute.state, dispute.held) == ("lost", Decimal(50))
    assert_books_agree()


def test_a_dispute_that_is_lost_takes_the_unused_units_and_is_a_loss(
    operator: Operator, api: APIClient, slow: SlowProvider
) -> None:
    subscribe_to(api, "kept")
    number = booster(operator, api)
    use(operator, 10_000_300)

    # Closed before it was opened.
    hear(operator, event(number, "lost"), event(number))

    assert remaining() == (0, 1000, 0)
    assert accounts(operator) == {"dispute_loss": "10.00", "prepaid": "-10.00"}
    assert Dispute.objects.get().state == "lost"
    assert_problem(refund(api, number), 409, "disputed")
    # Usage that is void by then brings nothing back.
    void = {"reason": "x", "occurred_at": START.isoformat()}
    assert post(api, "subscribers/s-1/usage-records/u/void", void).status_code == 200
    assert remaining()[0] == 0
    move(api, CLOSE)
    move(api, CLOSE + 65 * DAY)
    assert not any(name.startswith("deferred") for name in accounts(operator))
    assert_books_agree()


def test_of_a_top_up_what_is_left_pays_for_a_loss(
    operator: Operator, api: APIClient, slow: SlowProvider
) -> None:
    lost = bought(operator, api, kind="top_up", amount="20.00")
    booster(operator, api, "wallet")
    hear(operator, event(lost, amount="20.00"))
    assert wallet(api) == "0.00"
    assert accounts(operator)["disputed"] == "10.00"
    hear(operator, event(lost, "lost", amount="20.00"))
    assert accounts(operator) == {"dispute_loss": "10.00", "prepaid": "-10.00"}

    won = bought(operator, api, kind="top_up", amount="5.00")
    hear(operator, event(won, reference="du_2", amount="5.00"))
    assert wallet(api) == "0.00"
    hear(operator, event(won, "won", reference="du_2", amount="5.00"))

    assert wallet(api) == "5.00"
    kinds = [one["kind"] for one in get(api, "subscribers/s-1/wallet/movements")["items"]]
    assert kinds == ["top_up", "payment", "payout", "top_up", "payout", "refund"]
    assert_books_agree()


@pytest.mark.parametrize(("end", "left"), [("won", "27.00"), ("lost", "0.00")])
def test_the_bonus_of_a_disputed_top_up_goes_with_it(
    operator: Operator, api: APIClient, slow: SlowProvider, end: str, left: str
) -> None:
    rules = {"fixed": [], "free": {"least": "1.00", "most": "100.00"}}
    bonus = {"bonuses": [{"at_least": "20.00", "amount": "7.00"}]}
    assert put(api, "top-up-policy", rules | bonus).status_code == 200
    number = bought(operator, api, kind="top_up", amount="20.00")
    assert wallet(api) == "27.00"

    hear(operator, event(number, amount="20.00"))
    assert wallet(api) == "0.00"
    assert_books_agree()
    hear(operator, event(number, end, amount="20.00"))

    assert wallet(api) == left
    assert_books_agree()


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(("end", "left"), [("won", "9.90"), ("lost", "0.00")])
def test_what_comes_back_of_a_disputed_payment_is_not_the_subscribers(
    operator: Operator, api: APIClient, slow: SlowProvider, end: str, left: str, late: bool
) -> None:
    """A plan is paid, the payment taken back by the payer's bank, and the plan cancelled before it
    begins: while the dispute is open, or `late`, when it is over."""
    make_plan(operator, "later", first_month="next")
    number = bought(operator, api, kind="plan", plan="later")
    hear(operator, event(number, amount="9.90"))
    if late:
        hear(operator, event(number, end, amount="9.90"))

    [held] = get(api, "subscribers/s-1/subscriptions")["items"]
    path = f"/api/v1/subscribers/s-1/subscriptions/{held['id']}"
    assert api.patch(path, {"cancel_at_period_end": True}, format="json").status_code == 200
    move(api, START + DAY)

    assert wallet(api) == (left if late else "0.00")
    assert_books_agree()
    if not late:
        disputes.take_dispute(operator, event(number, end, amount="9.90"), at=START + DAY)
    assert wallet(api) == left
    assert accounts(operator) == ({} if end == "lost" else {"cash:slow": "9.90", "wallet": "-9.90"})
    assert_books_agree()


@pytest.mark.parametrize("end", ["won", "lost"])
def test_a_plan_s_units_are_frozen_over_the_month_s_end(
    operator: Operator, api: APIClient, slow: SlowProvider, end: str
) -> None:
    number = bought(operator, api, kind="plan", plan="light")
    use(operator, 100)
    hear(operator, event(number, amount="9.90"))
    assert remaining("allowance") == (0, 100, 9_999_900)

    move(api, CLOSE)
    later = event(number, end, amount="9.90")
    disputes.take_dispute(operator, later, at=CLOSE)

    # The next month has its own.
    assert remaining("allowance") == (10_000_000, 0, 0)
    assert ("dispute_loss" in accounts(operator)) == (end == "lost")
    assert_books_agree()


def test_what_a_reservation_gives_back_is_frozen_too(
    operator: Operator, api: APIClient, slow: SlowProvider
) -> None:
    number = booster(operator, api)
    subscribe_to(api, "kept")
    use(operator, 9_999_900, "allowance")
    gateway = client_for(make_gateway_key(operator, name="other"))
    body = reservation("r-1", subject="user-s-1", units=500)
    assert post(gateway, "reservations", body).status_code == 201
    hear(operator, event(number))
    assert remaining() == (0, 0, 1000)

    assert post(gateway, "reservations/r-1/release").status_code == 200
    assert disputes.sweep(operator, at=START) == 1

    assert remaining() == (0, 0, 1000)
    reservations.expire_due(operator.pk, at=START + DAY)
    hear(operator, event(number, "won"))
    assert remaining() == (1000, 0, 0)
    assert_books_agree()


def test_a_refund_that_is_on_its_way_goes_on(
    operator: Operator, api: APIClient, slow: SlowProvider
) -> None:
    number = booster(operator, api)
    made = refund(api, number, amount="4.00").json()
    hear(operator, event(number, amount="6.00"))
    refunds.settle_refund(operator, slow.decide(f"{made['number']}-1", Fate.SUCCEEDED), at=START)
    assert remaining() == (0, 400, 600)

    hear(operator, event(number, "won", amount="6.00"))

    assert remaining() == (600, 400, 0)
    assert_books_agree()


def test_evidence_is_filled_in_and_handed_in(
    operator: Operator, api: APIClient, slow: SlowProvider
) -> None:
    number = booster(operator, api)
    use(operator, 300)
    dispute = hear(operator, event(number))
    path = f"disputes/{dispute.number}"
    suggested = get(api, path)["suggested"]
    assert suggested["product_description"] == "Pack: 1000.000 token units"
    assert suggested["service_date"] == "2026-06-10"
    assert suggested["access_activity_log"] == (
        "2026-06-10T00:00:00+08:00 deepseek/chat: 300.000 units (u)"
    )

    assert_problem(post(api, f"{path}/submit"), 422, "invalid")
    put(api, f"{path}/evidence", suggested | {"uncategorized_text": "x"})
    slow.deaf = True
    waits = post(api, f"{path}/submit").json()
    assert (waits["state"], waits["sent_at"]) == ("under_review", None)
    slow.deaf = False
    put(api, f"{path}/evidence", {"uncategorized_text": ""})
    disputes.sweep(operator, at=START)

    assert slow.evidence == {"du_1": suggested}
    assert get(api, path)["sent_at"] is not None
    hear(operator, event(number, "lost"))
    assert_problem(put(api, f"{path}/evidence", {}), 409, "dispute_closed")
    assert_problem(post(api, f"{path}/submit"), 409, "dispute_closed")
    [listed] = get(api, "disputes?state=lost")["items"]
    assert listed["evidence"] == suggested
    assert_books_agree()


@pytest.mark.parametrize(
    "said",
    [{"bribe": "x"}, {"service_date": 1}, {"uncategorized_text": "x" * 20_001}, [], "x"],
)
def test_what_is_no_evidence_is_refused(
    operator: Operator, api: APIClient, slow: SlowProvider, said: Any
) -> None:
    dispute = hear(operator, event(booster(operator, api)))

    answer = put(api, f"disputes/{dispute.number}/evidence", said)

    assert answer.status_code in (400, 422), answer.content


def test_a_dispute_of_a_payment_that_is_not_ours_is_left(
    operator: Operator, api: APIClient, slow: SlowProvider
) -> None:
    number = str(order(api, kind="booster", booster="pack")["number"])
    strange = Event(
        *("ev", About.DISPUTE, f"{number}-1", "du_9"),
        Answer(Fate.WAITING, reference="pi_9", amount=Decimal(1)),
        START,
    )

    assert disputes.take_dispute(operator, strange, at=START) is None
    assert_problem(api.get("/api/v1/disputes/x"), 404, "not_found")
    assert_problem(api.get("/api/v1/disputes?state=odd"), 400, "bad_query")


def test_what_is_disputed_never_changes(
    operator: Operator, api: APIClient, slow: SlowProvider
) -> None:
    hear(operator, event(booster(operator, api), "lost"))
    for change in (
        lambda: Dispute.objects.update(amount="1.00"),
        lambda: Dispute.objects.update(state="won"),
        lambda: Dispute.objects.all().delete(),
    ):
        with pytest.raises(Error), transaction.atomic():
            change()


def test_what_is_only_asked_about_holds_nothing(
    operator: Operator, api: APIClient, slow: SlowProvider
) -> None:
    hear(operator, event(booster(operator, api), "warning_needs_response"))
    for changed in ({"amount": "1.00"}, {"held": "1.00"}, {"state": "won", "closed_at": START}):
        with pytest.raises(Error), transaction.atomic():
            Dispute.objects.update(steps=F("steps") + ("state" in changed), **changed)


def test_stripe_s_notices_of_refunds_and_disputes_come_through_the_inbox(
    operator: Operator, api: APIClient, slow: SlowProvider
) -> None:
    account = stripe_account(operator)
    number = booster(operator, api)
    made = refund(api, number, amount="4.00").json()
    back = {"id": "re_1", "object": "refund", "status": "succeeded", "amount": 400}
    back |= {"currency": "cny", "metadata": {"key": f"{made['number']}-1"}}
    paid = PaymentIntent.objects.get(key__startswith=number)
    taken = {"id": "du_1", "object": "dispute", "status": "needs_response", "amount": 600}
    taken |= {"currency": "cny", "payment_intent": paid.reference, "reason": "general"}
    taken |= {"evidence_details": {"due_by": 1781900000}, "balance_transactions": []}
    for nr, (kind, thing) in enumerate(
        [
            ("refund.updated", back),
            ("refund.updated", back),
            ("charge.dispute.created", taken),
            ("charge.dispute.closed", {**taken, "status": "lost"}),
        ]
    ):
        assert tell(account, notice(kind, thing, id=f"evt_{nr}")).status_code == 200

    assert inbox.work(operator, at=START) == 4

    assert set(ProviderEvent.objects.values_list("state", "reason")) == {("done", "")}
    shown = get(api, f"refunds/{made['number']}")
    assert (shown["state"], shown["reference"]) == ("succeeded", "re_1")
    [dispute] = get(api, "disputes")["items"]
    assert (dispute["state"], dispute["amount"]["amount"], dispute["due_by"]) == (
        *("lost", "6.00", "2026-06-19T20:13:20Z"),
    )
    assert remaining() == (0, 1000, 0)
    assert_books_agree()


def operator_subscriber(operator: Operator) -> Any:
    return operator.subscribers.get()
