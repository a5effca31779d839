"""Debts from the due date to the end: each step once, by its date, and undone by paying."""

from __future__ import annotations

import datetime as dt
import io
from decimal import Decimal
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import Error, connection, transaction
from rest_framework.test import APIClient

from billing import dunning, ledger, payments
from billing.ledger import Side
from billing.models import DunningCase, DunningEvent, DunningPolicy, Invoice
from subscriptions import clock, lifecycle
from subscriptions.errors import Invalid
from subscriptions.models import Operator, Subscriber, Subscription, Suspension
from tests.factories import (
    client_for,
    local,
    make_gateway_key,
    make_key,
    make_operator,
    make_plan,
    make_subscriber,
    subscribe,
)
from tests.usage import DAY, US, assert_books_agree, get, post

pytestmark = pytest.mark.django_db

START, CLOSE = local(2026, 6, 1), local(2026, 7, 3)
DUE = CLOSE + 15 * DAY
FIRST, SECOND = "CT-2026-00000001", "CT-2026-00000002"


@pytest.fixture
def operator() -> Operator:
    """One subscriber at 9.90 a month, whose June bill is issued."""
    operator = make_operator("ct", at=START)
    dunning.set_policy(operator, at=START)
    subscribe(make_subscriber(operator), make_plan(operator))
    return operator


@pytest.fixture
def api(operator: Operator) -> APIClient:
    api = client_for(make_key(operator))
    move(api, CLOSE)
    return api


# When bills are issued, as they are while beat is there.
CLOSES = [local(2026, month, 3) for month in range(7, 13)]


def move(api: APIClient, to: dt.datetime) -> None:
    """Let time pass until an instant, each bill issued in its time."""
    now = clock.now(Operator.objects.get(code="ct"))
    for close in CLOSES:
        if now < close < to:
            jump(api, close)
    jump(api, to)


def jump(api: APIClient, to: dt.datetime) -> None:
    """Be there at an instant, and nothing was done meanwhile."""
    answer = post(api, "test-clock", {"now": to.isoformat()})
    assert answer.status_code == 200, answer.content


def pay(number: str, at: dt.datetime, amount: str = "9.90", key: str | None = None) -> None:
    operator = Operator.objects.get(code="ct")
    payments.record(operator, number, amount=Decimal(amount), key=key or number, way="bank", at=at)


def steps(subscriber: str = "s-1", *, ahead: bool = False) -> list[tuple[str, float]]:
    """(kind, days from the first invoice's due date) of each step; of a debt, or also `ahead`."""
    events = DunningEvent.objects.filter(
        subscriber_id=Subscriber.objects.get(external_id=subscriber).pk
    )
    if not ahead:
        events = events.exclude(reason__contains=" is due on ")
    return [(event.kind, (event.at - DUE) / DAY) for event in events.order_by("nr")]


def state() -> str:
    return DunningCase.objects.get().state


def asked(operator: Operator) -> str:
    """What a gateway hears about the subscriber's next request."""
    gateway = client_for(make_gateway_key(Operator.objects.get(pk=operator.pk)))
    answer = gateway.get("/api/v1/authorize?subject=user-s-1&model=m")
    return "allow" if answer.status_code == 200 else str(answer.json()["cause"])


def late_fees(api: APIClient) -> list[str]:
    """What each bill says of late fees, earliest first."""
    return [
        line["gross"]["amount"]
        for invoice in get(api, "subscribers/s-1/invoices")["items"][::-1]
        for line in invoice["lines"]
        if line["kind"] == "late_fee"
    ]


# Before it is due ---------------------------------------------------------------------------------


def test_who_is_to_pay_soon_is_reminded_once(operator: Operator, api: APIClient) -> None:
    move(api, DUE - 3 * DAY - US)
    assert DunningCase.objects.count() == 0
    for _ in range(2):
        move(api, DUE - 3 * DAY)

    assert steps(ahead=True) == [("reminder", -3)]
    assert DunningEvent.objects.get().reason == f"{FIRST} is due on 2026-07-18"
    assert state() == "settled"
    assert asked(operator) == "allow"
    pay(FIRST, DUE - DAY)
    move(api, DUE + 16 * DAY)
    assert steps(ahead=True) == [("reminder", -3)]
    assert late_fees(api) == []
    assert_books_agree()


def test_reminders_before_the_due_date_go_by_the_policy_of_the_issue(operator: Operator) -> None:
    api = client_for(make_key(operator))
    printed("dunning", "--set", "reminder_days=-7,-1,2")
    move(api, CLOSE + DAY)
    printed("dunning", "--set", "reminder_days=-5")
    for day in (-7, -5, -1, 2):
        move(api, DUE + day * DAY)
    assert steps(ahead=True) == [
        ("reminder", -7),
        ("reminder", -1),
        ("overdue", 0),
        ("reminder", 2),
    ]

    july_due = local(2026, 8, 3) + 15 * DAY
    move(api, july_due - 4 * DAY)

    # Nobody had looked on its day.
    [event] = DunningEvent.objects.filter(at__gt=DUE + 2 * DAY)
    assert (event.kind, event.at) == ("reminder", july_due - 5 * DAY)
    assert event.invoice_id == Invoice.objects.get(number=SECOND).id
    assert event.done_at == july_due - 4 * DAY
    assert_books_agree()


def test_nobody_is_reminded_of_what_is_paid_covered_stopped_or_due_by_now(
    operator: Operator, api: APIClient
) -> None:
    plan = Subscription.objects.get().plan
    names = ("paid", "covered", "stopped", "late")
    for name in names:
        subscribe(make_subscriber(operator, name), plan, starts_at=CLOSE)
    august = local(2026, 8, 3)
    jump(api, august)
    numbers = dict(Invoice.objects.values_list("subscriber__external_id", "number"))
    for name in ("paid", "covered"):
        pay(str(numbers[name]), august)
    body = {"reason": "x"}
    assert post(api, f"invoices/{numbers['covered']}/credit", body).status_code == 201
    printed("dunning", "stopped", "--stop", "a dispute")
    # July's are due on 18 August, which nobody sees; August's on 18 September.
    jump(api, local(2026, 9, 3))
    jump(api, local(2026, 9, 15))

    told = {
        name: DunningEvent.objects.filter(
            subscriber_id=Subscriber.objects.get(external_id=name).pk, kind="reminder"
        )
        for name in names
    }
    assert [event.at for event in told["paid"]] == [local(2026, 9, 15)]
    assert not told["covered"]
    assert not told["stopped"]
    of_july = told["late"].filter(invoice_id=Invoice.objects.get(number=numbers["late"]).id)
    assert min(event.at for event in of_july) == august + 16 * DAY
    assert_books_agree()


# The way down ------------------------------------------------------------------------------------


def test_who_does_not_pay_is_reminded_suspended_and_at_last_terminated(
    operator: Operator, api: APIClient
) -> None:
    move(api, DUE - US)
    assert steps() == []
    move(api, DUE + 30 * DAY - US)
    assert steps() == [("overdue", 0), *(("reminder", day) for day in (1, 7, 15, 25))]
    assert asked(operator) == "allow"

    move(api, DUE + 30 * DAY)
    assert steps()[5:] == [("suspended", 30)]
    assert asked(operator) == "suspended"

    move(api, DUE + 90 * DAY - US)
    assert Subscription.objects.get().ends_at is None
    move(api, DUE + 90 * DAY)
    assert steps()[6:] == [("terminated", 90)]
    assert Subscription.objects.get().ends_at == DUE + 90 * DAY
    move(api, DUE + 200 * DAY)
    assert steps()[7:] == []
    assert_books_agree()


def test_after_days_of_downtime_each_step_is_done_once_and_says_its_own_date(
    operator: Operator, api: APIClient
) -> None:
    jump(api, DUE + 40 * DAY)
    jump(api, DUE + 40 * DAY)

    assert steps() == [
        ("overdue", 0),
        *(("reminder", day) for day in (1, 7, 15, 25)),
        ("suspended", 30),
    ]
    assert {event.done_at for event in DunningEvent.objects.all()} == {DUE + 40 * DAY}
    # Usage of the days before was allowed, and stays so.
    assert Suspension.objects.get().starts_at == DUE + 40 * DAY
    move(api, DUE + 100 * DAY - US)
    assert state() == "suspended"
    move(api, DUE + 100 * DAY)
    assert state() == "terminated"
    assert_books_agree()


def test_who_pays_in_time_hears_nothing(operator: Operator, api: APIClient) -> None:
    pay(FIRST, CLOSE)
    move(api, DUE + 10 * DAY)

    assert DunningCase.objects.count() == 0


def test_who_pays_late_owes_a_late_fee_also_where_nobody_had_looked(
    operator: Operator, api: APIClient
) -> None:
    clock.move(operator.pk, to=DUE + 35 * DAY)
    pay(FIRST, DUE + 35 * DAY)

    assert steps() == [("overdue", 0), ("settled", 35)]
    jump(api, local(2026, 9, 3))
    assert late_fees(api) == ["0.42", "0.59"]  # 14 and 34 days
    assert Suspension.objects.count() == 0
    assert_books_agree()


# The way back ------------------------------------------------------------------------------------


def test_a_payment_restores_at_once(operator: Operator, api: APIClient) -> None:
    move(api, DUE + 30 * DAY)
    pay(FIRST, DUE + 30 * DAY, "9.89", "part")
    assert asked(operator) == "suspended"

    pay(FIRST, DUE + 30 * DAY, "0.01", "rest")

    assert asked(operator) == "allow"
    assert steps()[-2:] == [("restored", 30), ("settled", 30)]
    assert Suspension.objects.get().ends_at == DUE + 30 * DAY
    assert_books_agree()


def test_a_credit_note_and_a_void_invoice_restore_too(operator: Operator, api: APIClient) -> None:
    move(api, DUE + 62 * DAY)
    assert [(i.number, i.state) for i in Invoice.objects.order_by("number")] == [
        (f"CT-2026-0000000{nr}", "open") for nr in (1, 2, 3)
    ]

    assert post(api, f"invoices/{FIRST}/credit", {"reason": "x"}).status_code == 201
    assert asked(operator) == "suspended"  # for July's
    assert post(api, f"invoices/{SECOND}/void", {"reason": "x"}).status_code == 200

    assert asked(operator) == "allow"
    assert_books_agree()


def test_a_younger_debt_is_counted_from_its_own_date(operator: Operator, api: APIClient) -> None:
    july_due = local(2026, 8, 3) + 15 * DAY
    move(api, july_due + 5 * DAY)
    assert asked(operator) == "suspended"

    pay(FIRST, july_due + 5 * DAY)
    assert asked(operator) == "allow"
    assert state() == "overdue"
    move(api, july_due + 30 * DAY - US)
    assert state() == "overdue"
    move(api, july_due + 30 * DAY)
    assert state() == "suspended"
    assert_books_agree()


def test_who_was_terminated_can_pay_and_buy_again(operator: Operator, api: APIClient) -> None:
    move(api, DUE + 30 * DAY)
    move(api, DUE + 90 * DAY)
    assert state() == "terminated"
    for invoice in Invoice.objects.filter(state="open"):
        pay(invoice.number or "", DUE + 90 * DAY, str(invoice.gross))

    sold = post(api, "subscribers/s-1/subscriptions", {"plan": "light"})
    assert sold.status_code == 201, sold.content

    assert asked(operator) == "allow"
    assert_books_agree()


@pytest.mark.parametrize("reason", ["lost device", dunning.UNPAID])
def test_a_line_that_was_frozen_to_protect_it_stays_so(
    operator: Operator, api: APIClient, reason: str
) -> None:
    subscriber = Subscriber.objects.get()
    lifecycle.suspend(subscriber.pk, reason=reason, at=DUE, frozen=True)
    move(api, DUE + 31 * DAY)
    pay(FIRST, DUE + 31 * DAY)
    assert asked(operator) == "frozen"

    # Freed while it owes, it is suspended for that.
    move(api, local(2026, 8, 3) + 45 * DAY)
    assert state() == "suspended"
    lifecycle.restore(subscriber.pk, at=local(2026, 8, 3) + 45 * DAY)
    move(api, local(2026, 8, 3) + 46 * DAY)
    assert asked(operator) == "suspended"
    assert_books_agree()


def test_a_suspended_line_that_is_frozen_stays_so_when_it_is_paid(
    operator: Operator, api: APIClient
) -> None:
    subscriber = Subscriber.objects.get()
    move(api, DUE + 31 * DAY)
    assert asked(operator) == "suspended"
    lifecycle.suspend(subscriber.pk, reason="lost device", at=DUE + 31 * DAY, frozen=True)
    assert asked(operator) == "frozen"

    pay(FIRST, DUE + 31 * DAY)

    assert asked(operator) == "frozen"
    lifecycle.restore(subscriber.pk, at=DUE + 32 * DAY)
    move(api, DUE + 32 * DAY)
    assert asked(operator) == "allow"
    assert_books_agree()


def test_what_the_subscriber_gets_covers_what_it_owes(operator: Operator, api: APIClient) -> None:
    pay(FIRST, CLOSE)
    assert post(api, f"invoices/{FIRST}/credit", {"reason": "x"}).status_code == 201

    move(api, local(2026, 8, 3) + 20 * DAY)

    assert DunningCase.objects.count() == 0
    assert_books_agree()


# Stopping ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("whose", ["s-1", None])
def test_while_it_is_stopped_nothing_is_done_and_then_by_the_dates(
    operator: Operator, api: APIClient, whose: str | None
) -> None:
    arguments = ["dunning", *([whose] if whose else [])]
    move(api, DUE + 2 * DAY)
    printed(*arguments, "--stop", "a dispute")
    move(api, DUE + 35 * DAY)
    assert steps() == [("overdue", 0), ("reminder", 1)]

    assert "stopped" in printed(*arguments)
    printed(*arguments, "--resume", "solved")
    move(api, DUE + 36 * DAY)

    assert steps()[2:] == [*(("reminder", day) for day in (7, 15, 25)), ("suspended", 30)]
    with pytest.raises(CommandError, match="not_stopped"):
        printed(*arguments, "--resume", "again")
    # Of June's bill days 1 and 35 to 45 are counted, of July's the last 11 of August.
    move(api, local(2026, 9, 3))
    assert late_fees(api) == ["0.03", "0.33", "0.33"]
    assert_books_agree()


def test_a_stop_of_one_stops_nobody_else(operator: Operator, api: APIClient) -> None:
    printed("dunning", "s-1", "--stop", "a dispute")
    subscribe(make_subscriber(operator, "s-2"), Subscription.objects.get().plan)
    move(api, local(2026, 8, 3) + 45 * DAY)

    kinds = {name: {kind for kind, _ in steps(name)} for name in ("s-1", "s-2")}
    assert kinds["s-1"] == {"overdue"}
    assert "suspended" in kinds["s-2"]


def test_a_disputed_line_stops_what_its_invoice_leads_to_and_nothing_else(
    operator: Operator, api: APIClient
) -> None:
    july_due = local(2026, 8, 3) + 15 * DAY  # 31 days later
    move(api, DUE + 2 * DAY)
    about = {"kind": "charge", "text": "x", "channel": "app", "invoice": FIRST, "line": 1}
    made = post(api, "subscribers/s-1/complaints", about).json()
    assert made["stops_dunning"]
    assert [one["invoice"] for one in get(api, "dunning")["stops"]] == [FIRST]

    move(api, july_due)
    move(api, july_due + 30 * DAY)

    assert steps() == [
        *(("overdue", 0), ("reminder", 1), ("overdue", 31)),
        *(("reminder", 31 + day) for day in (1, 7, 15, 25)),
        ("suspended", 61),
    ]
    due = get(api, f"invoices/{SECOND}")["amount_due"]["amount"]
    pay(SECOND, july_due + 30 * DAY, due)
    assert (state(), asked(operator)) == ("settled", "allow")

    answer = post(api, f"complaints/{made['number']}/answer", {"text": "It is owed."})
    assert answer.status_code == 200
    assert (state(), asked(operator)) == ("overdue", "allow")
    move(api, july_due + 31 * DAY)
    assert (steps()[-1], asked(operator)) == (("suspended", 61), "suspended")
    # Of June's bill the one day until it was disputed.
    move(api, local(2026, 10, 3))
    assert late_fees(api)[0] == "0.03"
    assert_books_agree()


def test_what_is_owed_again_is_not_reminded_of_twice(operator: Operator, api: APIClient) -> None:
    move(api, DUE + 2 * DAY)
    subscriber_id = Subscriber.objects.get().pk
    source = Side(ledger.CARRIER, Decimal("9.90"), subscriber_id)
    payments.record(
        operator,
        FIRST,
        amount=Decimal("9.90"),
        key="k",
        way="carrier",
        at=DUE + 2 * DAY,
        source=source,
    )

    with transaction.atomic():
        way = ledger.CARRIER
        payments.take_back(operator, "k", subscriber_id=subscriber_id, way=way, at=DUE + 3 * DAY)
    move(api, DUE + 30 * DAY)

    days = [day for kind, day in steps() if kind == "reminder"]
    assert days == [1, 7, 15, 25]
    assert_books_agree()


def test_a_payment_restores_also_while_it_is_stopped(operator: Operator, api: APIClient) -> None:
    move(api, DUE + 30 * DAY)
    printed("dunning", "--stop", "new year")

    pay(FIRST, DUE + 30 * DAY)

    assert asked(operator) == "allow"


# Late fees ---------------------------------------------------------------------------------------


def test_a_late_fee_is_on_the_next_bill_and_never_twice(operator: Operator, api: APIClient) -> None:
    # Due on 18 July; 14 days by the end of July, 21 when it is paid on 8 August.
    move(api, DUE + 21 * DAY)
    pay(FIRST, DUE + 21 * DAY)
    move(api, local(2026, 10, 3))

    # 9.90 x 0.003 x 14 = 0.4158; x 20 = 0.594: of the day on which it was paid nothing is owed.
    bills = get(api, "subscribers/s-1/invoices")["items"][::-1]
    said = [
        [(line["kind"], line["gross"]["amount"], line["tax"]["amount"]) for line in bill["lines"]]
        for bill in bills
    ]
    assert said[1] == [("fee", "9.90", "0.56"), ("late_fee", "0.42", "0.00")]
    assert said[2][1] == ("late_fee", "0.17", "0.00")
    fees = [line for bill in said for line in bill if line[0] == "late_fee"]
    # Later bills were late in their turn, but for the late fees on them: 14, 44 and 13 days.
    assert [fee[1] for fee in fees] == ["0.42", "0.17", "0.42", "0.89", "0.39"]
    balances = {
        b.account: str(b.balance) for b in ledger.trial_balance(operator.pk, at=local(2027, 1, 1))
    }
    assert balances["late_fee"] == "-2.29"
    assert_books_agree()


def test_a_late_fee_is_explained(operator: Operator, api: APIClient) -> None:
    move(api, DUE + 4 * DAY)
    pay(FIRST, DUE + 4 * DAY, "5.00")
    move(api, local(2026, 8, 3))

    assert printed("explain", SECOND).splitlines()[8:13] == [
        f"2. late_fee: {FIRST}",
        f"   invoice {FIRST} was due at 2026-07-18T00:00:00+08:00;"
        " counted until 2026-08-01T00:00:00+08:00",
        "   9.90 owed for 3 whole days x 0.003 a day = 0.0891",
        "   4.90 owed for 11 whole days x 0.003 a day = 0.1617",
        "   never more than 9.90: 0.25",
    ]


def test_what_a_late_fee_was_for_and_was_credited_is_given_back(
    operator: Operator, api: APIClient
) -> None:
    move(api, local(2026, 8, 3))
    assert late_fees(api) == ["0.42"]
    assert post(api, f"invoices/{FIRST}/credit", {"reason": "wrong"}).status_code == 201
    pay(SECOND, local(2026, 8, 3), "10.32")

    move(api, local(2026, 9, 3))

    assert late_fees(api) == ["0.42", "-0.42"]
    assert_books_agree()


def test_a_late_fee_is_taxed_where_the_policy_says_so(operator: Operator) -> None:
    api = client_for(make_key(operator))
    dunning.set_policy(operator, at=START, late_fee_tax_rate=Decimal("0.06"))
    move(api, CLOSE)
    move(api, local(2026, 8, 3))

    line = get(api, f"invoices/{SECOND}")["lines"][1]
    assert [line[part]["amount"] for part in ("net", "tax", "gross")] == ["0.40", "0.02", "0.42"]
    assert_books_agree()


# Policies ----------------------------------------------------------------------------------------


def test_an_invoice_goes_by_the_policy_of_its_issue(operator: Operator, api: APIClient) -> None:
    move(api, CLOSE + DAY)
    printed("dunning", "--set", "suspend_after_days=5", "late_fee_rate=0.001", "reminder_days=2,3")
    move(api, local(2026, 8, 3))
    assert steps() == [("overdue", 0), ("reminder", 1), ("reminder", 7), ("reminder", 15)]

    pay(FIRST, local(2026, 8, 3))
    july_due = local(2026, 8, 3) + 15 * DAY
    move(api, july_due + 5 * DAY)

    assert [kind for kind, _ in steps()[5:]] == ["overdue", "reminder", "reminder", "suspended"]
    assert "late_fee_rate 0.001" in printed("dunning")
    assert_books_agree()


@pytest.mark.parametrize(
    "terms",
    [
        {"late_fee_rate": Decimal("0.0031")},
        {"late_fee_cap": Decimal("1.01")},
        {"late_fee_rate": Decimal("-0.001")},
        {"suspend_after_days": -1},
        {"reminder_days": [0]},
        {"reminder_days": [-4000]},
    ],
)
def test_no_policy_asks_for_more_than_the_law_allows(
    operator: Operator, terms: dict[str, Any]
) -> None:
    with pytest.raises(Invalid):
        dunning.set_policy(operator, at=START, **terms)

    with pytest.raises(Error), transaction.atomic():
        DunningPolicy.objects.create(
            operator=operator, effective_from=START, late_fee_rate=Decimal("0.0031")
        )


def test_a_command_shows_states_and_each_step(operator: Operator, api: APIClient) -> None:
    move(api, DUE + 31 * DAY)

    shown = printed("dunning").splitlines()
    assert "  suspended: 1" in shown
    assert "  suspend_after_days 30" in shown
    own = printed("dunning", "s-1").splitlines()
    assert own[0] == "s-1 CNY suspended since 2026-07-18T00:00:00+08:00"
    assert own[1] == (
        "  2026-07-18T00:00:00+08:00 overdue (done 2026-08-03T00:00:00+08:00):"
        f" {FIRST} was due on 2026-07-18"
    )
    assert own[-1] == (
        "  2026-08-17T00:00:00+08:00 suspended (done 2026-08-18T00:00:00+08:00):"
        f" {FIRST} is 30 days overdue"
    )
    for wrong in (["--set", "x=1"], ["--set", "late_fee_rate=x"], ["s-9"]):
        with pytest.raises(CommandError):
            printed("dunning", *wrong)


def printed(*command: str) -> str:
    out = io.StringIO()
    call_command(*command, stdout=out, no_color=True)
    return out.getvalue()


# Many, and mishaps -------------------------------------------------------------------------------


def test_one_who_cannot_be_served_holds_up_nobody(
    operator: Operator, api: APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Subscription.objects.get().plan
    others = [make_subscriber(operator, f"t-{nr}") for nr in range(3)]
    for other in others:
        subscribe(other, plan)
    july_due = local(2026, 8, 3) + 15 * DAY
    move(api, july_due)
    at = july_due + 30 * DAY
    clock.move(operator.pk, to=at)
    suspend = lifecycle.suspend

    def broken(subscriber_id: int, **said: Any) -> None:
        if subscriber_id == others[0].pk:
            raise RuntimeError("a test")
        suspend(subscriber_id, **said)

    with monkeypatch.context() as patch:
        patch.setattr(lifecycle, "suspend", broken)
        with pytest.raises(RuntimeError, match="a test"):
            dunning.run(operator, at=at)
    assert DunningCase.objects.filter(state="suspended").count() == 3

    dunning.run(operator, at=at)
    assert DunningCase.objects.filter(state="suspended").count() == 4
    assert Suspension.objects.count() == 4


def test_few_statements_remind_many(operator: Operator, django_assert_max_num_queries: Any) -> None:
    plan = Subscription.objects.get().plan
    for nr in range(30):
        subscribe(make_subscriber(operator, f"t-{nr}"), plan)
    move(client_for(make_key(operator)), CLOSE)

    with django_assert_max_num_queries(50):
        dunning.run(operator, at=DUE + 20 * DAY)

    assert DunningEvent.objects.count() == 31 * 4


@pytest.mark.parametrize(
    "sql",
    ["UPDATE billing_dunningevent SET reason = 'x'", "DELETE FROM billing_dunningevent"],
)
def test_what_was_done_never_changes(operator: Operator, api: APIClient, sql: str) -> None:
    move(api, DUE)

    with (
        pytest.raises(Error, match="append-only"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(sql)
