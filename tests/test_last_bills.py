"""Last bills: what changes after a subscriber's last period is billed or credited all the same."""

from __future__ import annotations

import datetime as dt
import io
from typing import Any

import pytest
from django.core.management import call_command
from rest_framework.test import APIClient

from billing import finals, invoicing, reconciliation
from billing.models import FinalSweep, Invoice, InvoiceLine
from subscriptions.models import Operator, Subscription
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
from tests.test_closing import invoices, lines, move, use
from tests.test_orders import order, pay, transfer
from tests.usage import DAY, Gateway, assert_books_agree, get, post, put

MILLION = 1_000_000
START, JULY, AUGUST = local(2026, 6, 1), local(2026, 7, 1), local(2026, 8, 1)
GRACE = 2 * DAY
CLOSE, NEXT = JULY + GRACE, AUGUST + GRACE
pytestmark = pytest.mark.django_db


@pytest.fixture
def operator() -> Operator:
    return make_operator("ct", at=START)


@pytest.fixture
def api(operator: Operator) -> APIClient:
    return client_for(make_key(operator))


@pytest.fixture
def gateway(operator: Operator) -> Gateway:
    return Gateway(operator)


def end(api: APIClient, subscription: Subscription) -> None:
    """With the period that runs."""
    path = f"/api/v1/subscribers/s-1/subscriptions/{subscription.id}"
    assert api.patch(path, {"cancel_at_period_end": True}, format="json").status_code == 200


def ended(
    operator: Operator, api: APIClient, gateway: Gateway, used: int = 2, **terms: Any
) -> Subscription:
    """A subscriber of June only, all of whose millions are metered at 1.20; June is billed."""
    given: dict[str, Any] = {
        "on_exhaustion": "meter",
        "price_per_million": "1.20",
        "allowance": 0,
    } | terms
    subscription = subscribe(make_subscriber(operator), make_plan(operator, **given))
    end(api, subscription)
    if used:
        use(gateway, "u", START + 20 * DAY, used * MILLION)
    move(api, CLOSE)
    assert len(invoices(api)) == 1
    return subscription


def void(api: APIClient, id: str = "u") -> None:
    answer = post(api, f"subscribers/s-1/usage-records/{id}/void", {"reason": "a test"})
    assert answer.status_code == 200, answer.content


def test_late_usage_after_the_last_period_is_on_a_final_invoice(
    operator: Operator, api: APIClient, gateway: Gateway
) -> None:
    ended(operator, api, gateway)
    use(gateway, "late", START + 25 * DAY, MILLION)

    move(api, NEXT - DAY)
    assert len(invoices(api)) == 1
    move(api, NEXT)
    move(api, NEXT + DAY)

    [june, last] = invoices(api)
    assert lines(june) == [("fee", None, "9.90"), ("overage", "2000000.000", "2.40")]
    assert (last["kind"], last["state"], lines(last)) == (
        "final",
        "open",
        [("adjustment", "1000000.000", "1.20")],
    )
    assert (last["period_start"], last["period_end"]) == (
        "2026-06-30T16:00:00Z",
        "2026-07-31T16:00:00Z",
    )
    assert_books_agree()


@pytest.mark.parametrize("how", ["meter", "blocks"])
def test_late_usage_that_is_the_first_beyond_the_allowance_is_billed_too(
    operator: Operator, api: APIClient, gateway: Gateway, how: str
) -> None:
    blocks = {"block_units": MILLION * 1000, "block_price": yuan("1.20")}
    terms = blocks if how == "blocks" else {}
    ended(operator, api, gateway, used=0, on_exhaustion=how, **terms)
    use(gateway, "late", START + 25 * DAY, MILLION)
    move(api, NEXT)

    assert [lines(one) for one in invoices(api)][1:] == [[("adjustment", "1000000.000", "1.20")]]
    assert_books_agree()


def test_late_usage_that_is_the_first_beyond_the_allowance_is_on_the_next_bill(
    operator: Operator, api: APIClient, gateway: Gateway
) -> None:
    """Where there is one: no line of its bucket is on a bill yet."""
    plan = make_plan(operator, allowance=0, on_exhaustion="meter", price_per_million="1.20")
    subscribe(make_subscriber(operator), plan)
    move(api, CLOSE)
    use(gateway, "late", START + 25 * DAY, MILLION)

    move(api, NEXT)

    assert lines(invoices(api)[1])[1:] == [("adjustment", "1000000.000", "1.20")]
    assert_books_agree()


def test_usage_void_after_the_last_period_is_a_credit_note_of_its_invoice(
    operator: Operator, api: APIClient, gateway: Gateway
) -> None:
    ended(operator, api, gateway)
    void(api)

    move(api, NEXT)
    move(api, local(2026, 9, 3))

    [june, note] = invoices(api)
    assert (note["kind"], note["credits"]) == ("credit_note", june["number"])
    assert (note["period_start"], note["period_end"]) == (june["period_start"], june["period_end"])
    assert lines(note) == [("adjustment", "-2000000.000", "-2.40")]
    assert june["amount_due"]["amount"] == "9.90"
    out = io.StringIO()
    call_command("explain", note["number"], stdout=out)
    assert f"takes back of line 2 of {june['number']}" in out.getvalue()
    assert "less 2.40 for 2000000.000 units billed before: -2.40" in out.getvalue()
    assert_books_agree()


def test_late_and_void_usage_by_turns_come_to_what_was_used(
    operator: Operator, api: APIClient, gateway: Gateway
) -> None:
    ended(operator, api, gateway)
    use(gateway, "late", START + 29 * DAY, MILLION)
    move(api, NEXT)
    void(api, "late")
    void(api)
    move(api, local(2026, 9, 3))

    kinds = [(one["kind"], lines(one)) for one in invoices(api)][1:]
    assert kinds == [
        ("final", [("adjustment", "1000000.000", "1.20")]),
        ("credit_note", [("adjustment", None, "-2.40")]),
        ("credit_note", [("adjustment", "-3000000.000", "-1.20")]),
    ]
    assert [one["credits"] for one in invoices(api)[2:]] == [
        one["number"] for one in invoices(api)[:2]
    ]
    assert_books_agree()


def test_what_was_credited_by_hand_is_not_taken_back_of_the_invoice_twice(
    operator: Operator, api: APIClient, gateway: Gateway
) -> None:
    """Somebody has to look; if it is approved, the rest is on a last bill below zero."""
    ended(operator, api, gateway)
    [june] = invoices(api)
    order = {"reason": "x", "amount": "11.30"}
    assert post(api, f"invoices/{june['number']}/credit", order).status_code == 201
    void(api)
    move(api, NEXT)
    assert len(invoices(api)) == 2
    [asked] = get(api, "approvals?state=pending")["items"]
    assert (asked["amount"]["amount"], "credited by hand" in asked["reason"]) == ("-2.40", True)
    assert_books_agree()

    decision = {"reason": "it was for something else"}
    assert post(api, f"approvals/{asked['id']}/approve", decision).status_code == 200
    move(api, local(2026, 9, 3))

    _, _, note, last = invoices(api)
    assert (note["kind"], note["gross"]["amount"]) == ("credit_note", "-0.20")
    assert (last["kind"], last["gross"]["amount"]) == ("final", "-2.20")
    assert_books_agree()


def test_boosters_and_gifts_after_the_last_period_are_on_a_final_invoice_each_month(
    operator: Operator, api: APIClient, gateway: Gateway
) -> None:
    ended(operator, api, gateway, used=0)
    booster = {"name": "Ten", "price": "10.00", "units": "1000000", "valid_days": 60}
    assert put(api, "boosters/ten", booster).status_code == 201
    gift = {"units": "500000", "valid_until": local(2026, 12, 1).isoformat(), "reason": "sorry"}
    assert post(api, "subscribers/s-1/boosters", {"booster": "ten"}).status_code == 201
    assert post(api, "subscribers/s-1/grants", gift).status_code == 201
    move(api, NEXT)
    assert post(api, "subscribers/s-1/boosters", {"booster": "ten"}).status_code == 201
    move(api, local(2026, 9, 3))

    _, july, august = invoices(api)
    assert lines(july) == [("booster", "1000000.000", "10.00"), ("gift", "500000.000", "0.00")]
    assert lines(august) == [("booster", "1000000.000", "10.00")]
    assert july["period_end"] == august["period_start"]
    assert_books_agree()


def test_boosters_of_who_never_held_a_plan_are_billed(operator: Operator, api: APIClient) -> None:
    make_plan(operator)  # brings the rate card
    make_subscriber(operator)
    booster = {"name": "Ten", "price": "10.60", "units": "1000000", "valid_days": 60}
    assert put(api, "boosters/ten", booster).status_code == 201
    assert post(api, "subscribers/s-1/boosters", {"booster": "ten"}).status_code == 201
    move(api, CLOSE)

    [last] = invoices(api)
    assert (last["kind"], last["subscription"]) == ("final", None)
    assert (last["net"]["amount"], last["tax"]["amount"]) == ("10.00", "0.60")
    answer = post(api, f"invoices/{last['number']}/credit", {"reason": "x"})
    assert answer.status_code == 201
    assert_books_agree()


def test_a_booster_that_an_order_paid_has_nothing_due_on_the_last_bill(
    operator: Operator, api: APIClient
) -> None:
    make_plan(operator)  # brings the rate card
    make_subscriber(operator)
    booster = {"name": "Ten", "price": "10.60", "units": "1000000", "valid_days": 60}
    assert put(api, "boosters/ten", booster).status_code == 201
    assert transfer(api, "50.00", "fill", wallet="s-1")["state"] == "matched"
    number = order(api, kind="booster", booster="ten")["number"]
    assert pay(api, number).json()["state"] == "paid"
    move(api, CLOSE)

    [last] = invoices(api)
    assert (last["kind"], last["state"], last["amount_due"]["amount"]) == ("final", "paid", "0.00")
    assert_books_agree()


def test_who_holds_a_plan_again_has_it_on_that_bill(
    operator: Operator, api: APIClient, gateway: Gateway
) -> None:
    ended(operator, api, gateway)
    use(gateway, "late", START + 25 * DAY, MILLION)
    assert post(api, "subscribers/s-1/subscriptions", {"plan": "light"}).status_code == 201

    move(api, NEXT)

    assert [one["kind"] for one in invoices(api)] == ["period", "period"]
    assert lines(invoices(api)[1]) == [
        ("fee", None, "9.90"),
        ("adjustment", "1000000.000", "1.20"),
    ]
    assert_books_agree()


def test_a_run_that_was_cut_off_goes_on_and_doubles_nothing(
    operator: Operator, api: APIClient, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended(operator, api, gateway)
    void(api)
    use(gateway, "late", START + 26 * DAY, 3 * MILLION)
    void(api, "late")
    assert post(api, "subscribers/s-1/grants", _gift()).status_code == 201
    whole = invoicing.issue

    def cut_off(*args: Any, **said: Any) -> None:
        whole(*args, **said)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(invoicing, "issue", cut_off)
        with pytest.raises(KeyboardInterrupt):
            finals.run(operator, at=NEXT)
    assert (Invoice.objects.count(), FinalSweep.objects.filter(until=AUGUST).count()) == (1, 0)

    move(api, NEXT)
    assert finals.run(operator, at=NEXT) == 0

    assert [one["kind"] for one in invoices(api)] == ["period", "credit_note", "final"]
    assert InvoiceLine.objects.filter(kind="gift").count() == 1
    assert_books_agree()


def _gift() -> dict[str, str]:
    return {"units": "5", "valid_until": local(2026, 12, 1).isoformat(), "reason": "sorry"}


def test_reconcile_names_what_waits_past_its_date(
    operator: Operator, api: APIClient, gateway: Gateway
) -> None:
    ended(operator, api, gateway)
    void(api)
    assert_books_agree()
    FinalSweep.objects.update(until=AUGUST)  # as if July's were made

    report = reconciliation.check_all(at=CLOSE)

    wrong = [check.name for one in report.operators for check in one.checks if check.differences]
    assert wrong == ["nothing_waits"]


def test_the_month_of_a_last_bill_is_the_operators(operator: Operator) -> None:
    instant = dt.timedelta(microseconds=1)
    assert finals.until_of(operator, at=NEXT) == AUGUST
    assert finals.until_of(operator, at=NEXT - instant) == JULY


def test_a_final_invoice_has_a_document_like_any_other(
    operator: Operator, api: APIClient, gateway: Gateway
) -> None:
    ended(operator, api, gateway)
    use(gateway, "late", START + 25 * DAY, MILLION)
    move(api, NEXT)
    [_, last] = invoices(api)

    for language in ("zh", "en"):
        answer = api.get(f"/api/v1/invoices/{last['number']}.pdf?lang={language}")
        assert (answer.status_code, answer.content[:5]) == (200, b"%PDF-")
