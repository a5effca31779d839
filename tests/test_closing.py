"""The month close, through the API: what falls due is billed once, to the fen, at its prices."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest
from django.db import Error, connection, transaction
from rest_framework.test import APIClient

from billing import closing, invoicing, ledger
from billing.models import (
    CloseChunk,
    ClosePause,
    Entry,
    Invoice,
    InvoiceLine,
    InvoiceNumber,
)
from metering import rollups
from subscriptions import clock, lifecycle
from subscriptions.models import Operator, Subscription, SubscriptionPeriod
from tests.factories import (
    client_for,
    local,
    make_key,
    make_operator,
    make_plan,
    make_rate_card,
    make_subscriber,
    set_clock,
    subscribe,
    yuan,
)
from tests.usage import (
    DAY,
    HOUR,
    Gateway,
    assert_books_agree,
    assert_problem,
    get,
    post,
    put,
    record,
)

MILLION = 1_000_000
START, JULY, AUGUST = local(2026, 6, 1), local(2026, 7, 1), local(2026, 8, 1)
CLOSE = JULY + 2 * DAY  # 48 hours of grace
pytestmark = pytest.mark.django_db


@pytest.fixture
def operator() -> Operator:
    return make_operator("ct", at=START)


@pytest.fixture
def api(operator: Operator) -> APIClient:
    return client_for(make_key(operator))


def move(api: APIClient, to: dt.datetime) -> None:
    answer = post(api, "test-clock", {"now": to.isoformat()})
    assert answer.status_code == 200, answer.content


def invoices(api: APIClient, external_id: str = "s-1") -> list[dict[str, Any]]:
    """A subscriber's invoices, earliest first."""
    items: list[dict[str, Any]] = get(api, f"subscribers/{external_id}/invoices")["items"]
    return items[::-1]


def lines(invoice: dict[str, Any]) -> list[tuple[Any, ...]]:
    """(kind, units, gross) of each line."""
    return [(x["kind"], x.get("units"), x["gross"]["amount"]) for x in invoice["lines"]]


def use(gateway: Gateway, name: str, at: dt.datetime, tokens: int) -> None:
    """Usage of an instant; if that is ahead, the clock is there first."""
    operator = Operator.objects.get(code="ct")
    if clock.now(operator) < at:
        set_clock(operator, at)
    body = record(name, occurred_at=at, input_tokens=tokens, output_tokens=0)
    assert gateway.charge(body)["accepted"] == 1


# One bill ----------------------------------------------------------------------------------------


def test_a_period_is_billed_when_its_grace_is_over(operator: Operator, api: APIClient) -> None:
    subscribe(make_subscriber(operator), make_plan(operator))

    move(api, CLOSE - dt.timedelta(microseconds=1))
    assert invoices(api) == []

    move(api, CLOSE)
    [invoice] = invoices(api)
    assert invoice.pop("subscription")
    assert invoice == {
        "number": "CT-2026-00000001",
        "kind": "period",
        "state": "open",
        "period_start": "2026-05-31T16:00:00Z",
        "period_end": "2026-06-30T16:00:00Z",
        "issued_at": "2026-07-02T16:00:00Z",
        "due_at": "2026-07-17T16:00:00Z",
        "lines": [
            {
                "kind": "fee",
                "description": "Light",
                "net": {"amount": "9.34", "currency": "CNY"},
                "tax_rate": "0.06",
                "tax": {"amount": "0.56", "currency": "CNY"},
                "gross": {"amount": "9.90", "currency": "CNY"},
            }
        ],
        "net": {"amount": "9.34", "currency": "CNY"},
        "tax": {"amount": "0.56", "currency": "CNY"},
        "gross": {"amount": "9.90", "currency": "CNY"},
        "amount_due": {"amount": "9.90", "currency": "CNY"},
    }
    one = get(api, f"invoices/{invoice['number']}")
    assert one.pop("subscription")
    assert one == invoice
    balances = {line.account: str(line.balance) for line in books(operator)}
    assert balances == {"receivable": "9.90", "revenue:light:0.06": "-9.34", "vat:0.06": "-0.56"}
    assert_books_agree()


def books(operator: Operator) -> list[ledger.Balance]:
    return list(ledger.trial_balance(operator.pk, at=local(2030, 1, 1)))


@pytest.mark.parametrize(
    ("weight", "more", "gross"), [("2", "3000000.000", "3.60"), ("0.5", "-1000000.000", "-1.20")]
)
def test_a_billed_period_that_is_re_rated_is_an_adjustment_of_the_next_bill(
    operator: Operator, api: APIClient, weight: str, more: str, gross: str
) -> None:
    """Only what was billed as overage is credited; the allowance of the old month has lapsed."""
    make_rate_card(operator, "fair", weights={"*": (weight,) * 5})
    plan = make_plan(
        operator, allowance=2_000_000_000, on_exhaustion="meter", price_per_million="1.20"
    )
    subscribe(make_subscriber(operator), plan)
    use(Gateway(operator), "r-1", START + DAY, 3 * MILLION)
    move(api, CLOSE)
    [june] = invoices(api)
    order = {"rate_card": "fair", "since": START.isoformat(), "until": JULY.isoformat()}
    run = post(api, "re-ratings", order | {"reason": "the card was wrong"}).json()
    # July's allowance is used up, so that what comes more is not paid by it.
    use(Gateway(operator), "r-2", CLOSE, 2 * MILLION)
    assert post(api, f"re-ratings/{run['id']}/apply").json()["state"] == "applied"
    assert invoices(api) == [june]

    move(api, AUGUST + 2 * DAY)

    again, july = invoices(api)
    assert again == june
    assert lines(june)[1:] == [("overage", "1000000.000", "1.20")]
    assert lines(july)[1:] == [("adjustment", more, gross)]
    assert_books_agree()


@pytest.mark.parametrize(("mode", "gross"), [("graduated", "3.00"), ("volume", "2.25")])
def test_overage_is_billed_by_its_tiers(
    operator: Operator, api: APIClient, mode: str, gross: str
) -> None:
    steps = [{"up_to": "2000000", "price_per_million": "1.5"}, {"price_per_million": "0"}]
    steps[1]["price_per_million"] = "0.75" if mode == "volume" else "0"
    make_plan(operator, "other")  # brings the rate card
    body = {
        "name": "Tiered",
        "price": "0",
        "allowance": "0",
        "rate_card": "standard",
        "on_exhaustion": "meter",
        "overage": {"tiers": steps, "tier_mode": mode},
    }
    assert put(api, "plans/tiered", body).status_code == 201
    make_subscriber(operator)
    assert post(api, "subscribers/s-1/subscriptions", {"plan": "tiered"}).status_code == 201
    use(Gateway(operator), "r-1", START + DAY, 3 * MILLION)
    move(api, CLOSE)

    [invoice] = invoices(api)
    assert lines(invoice) == [("fee", None, "0.00"), ("overage", "3000000.000", gross)]
    [line] = InvoiceLine.objects.filter(kind="overage")
    assert (line.basis["graduated"], len(line.basis["tiers"])) == (mode == "graduated", 2)
    assert_books_agree()


def test_everything_sold_and_used_is_a_line(operator: Operator, api: APIClient) -> None:
    plan = make_plan(
        operator, allowance=MILLION * 1000, on_exhaustion="meter", price_per_million="1.20"
    )
    subscriber = make_subscriber(operator)
    subscribe(subscriber, plan)
    booster = {"name": "Ten", "price": "10.00", "units": "1000000", "valid_days": 60}
    assert put(api, "boosters/ten", booster).status_code in (200, 201)
    assert post(api, "subscribers/s-1/boosters", {"booster": "ten"}).status_code == 201
    gift = {"units": "500000", "valid_until": AUGUST.isoformat(), "reason": "sorry"}
    assert post(api, "subscribers/s-1/grants", gift).status_code == 201

    use(Gateway(operator), "u", START, 4 * MILLION)
    move(api, CLOSE)

    [invoice] = invoices(api)
    assert lines(invoice) == [
        ("fee", None, "9.90"),
        ("overage", "1500000.000", "1.80"),
        ("booster", "1000000.000", "10.00"),
        ("gift", "500000.000", "0.00"),
    ]
    assert invoice["gross"]["amount"] == "21.70"
    move(api, AUGUST + 2 * DAY)
    assert lines(invoices(api)[1]) == [("fee", None, "9.90")]
    assert_books_agree()


def test_blocks_are_billed_by_the_pack(operator: Operator, api: APIClient) -> None:
    plan = make_plan(
        operator,
        allowance=0,
        on_exhaustion="blocks",
        block_units=400_000_000,
        block_price=yuan("1"),
    )
    subscribe(make_subscriber(operator), plan)
    use(Gateway(operator), "u", START + DAY, 1_000_000)

    move(api, CLOSE)

    assert lines(invoices(api)[0]) == [("fee", None, "9.90"), ("block", "1000000.000", "3.00")]
    assert_books_agree()


def test_a_free_period_has_its_invoice_and_is_paid(operator: Operator, api: APIClient) -> None:
    subscribe(make_subscriber(operator), make_plan(operator, price=yuan("0")))

    move(api, CLOSE)

    [invoice] = invoices(api)
    assert (invoice["state"], invoice["amount_due"]["amount"]) == ("paid", "0.00")
    assert Entry.objects.count() == 0
    assert_books_agree()


def test_another_operators_invoices_are_not_found(operator: Operator, api: APIClient) -> None:
    subscribe(make_subscriber(operator), make_plan(operator))
    move(api, CLOSE)
    other = client_for(make_key(make_operator("ct2", at=START), name="other"))

    assert_problem(other.get("/api/v1/invoices/CT-2026-00000001"), 404, "not_found")
    assert_problem(other.get("/api/v1/subscribers/s-1/invoices"), 404, "not_found")
    for number in ("CT-2026-00000002", "CT-2026-1", "CT-2027-00000001", "x", "CT-2026-0000000١"):
        assert_problem(api.get(f"/api/v1/invoices/{number}"), 404, "not_found")


def test_invoices_come_by_pages(operator: Operator, api: APIClient) -> None:
    subscribe(make_subscriber(operator), make_plan(operator))
    move(api, local(2026, 11, 10))

    first = get(api, "subscribers/s-1/invoices?limit=3")
    second = get(api, first["next"])

    numbers = [item["number"] for page in (first, second) for item in page["items"]]
    assert numbers == [f"CT-2026-0000000{nr}" for nr in (5, 4, 3, 2, 1)]
    assert second["next"] is None


# Many periods ------------------------------------------------------------------------------------


def test_after_days_of_downtime_each_period_is_billed_once_by_its_own_price(
    operator: Operator, api: APIClient
) -> None:
    subscription = subscribe(make_subscriber(operator), make_plan(operator))
    make_plan(operator, "dear", price=yuan("39.90"))
    body = {"plan": "dear"}
    path = f"/api/v1/subscribers/s-1/subscriptions/{subscription.id}"
    assert api.patch(path, body, format="json").status_code == 200

    move(api, local(2026, 9, 20))
    move(api, local(2026, 9, 20))

    assert [(i["period_start"], i["gross"]["amount"]) for i in invoices(api)] == [
        ("2026-05-31T16:00:00Z", "9.90"),
        ("2026-06-30T16:00:00Z", "39.90"),
        ("2026-07-31T16:00:00Z", "39.90"),
    ]
    assert_books_agree()


def test_a_subscription_that_ended_is_billed_to_its_end(operator: Operator, api: APIClient) -> None:
    subscription = subscribe(make_subscriber(operator), make_plan(operator))
    path = f"/api/v1/subscribers/s-1/subscriptions/{subscription.id}"
    body = {"cancel_at_period_end": True}
    assert api.patch(path, body, format="json").status_code == 200

    move(api, local(2026, 10, 1))

    assert len(invoices(api)) == 1
    assert_books_agree()


def test_numbers_have_no_gap_and_begin_anew_each_year(operator: Operator, api: APIClient) -> None:
    plan = make_plan(operator)
    for nr in range(5):
        subscribe(make_subscriber(operator, f"s-{nr}"), plan)

    for month in (7, 8, 9, 10, 11, 12):
        move(api, local(2026, month, 5))
    move(api, local(2027, 1, 5))

    numbers = [(n.year, n.nr) for n in InvoiceNumber.objects.order_by("year", "nr")]
    assert numbers == [(2026, nr) for nr in range(1, 31)] + [(2027, nr) for nr in range(1, 6)]
    issued = list(Invoice.objects.order_by("issued_at", "number").values_list("number", flat=True))
    assert issued == sorted(issued, key=lambda number: number or "")
    assert_books_agree()


# What changes after a close ----------------------------------------------------------------------


@pytest.fixture
def metered(operator: Operator, api: APIClient) -> Gateway:
    """One subscriber, all of whose usage is metered at 1.20, and half of it voided or late."""
    plan = make_plan(operator, allowance=0, on_exhaustion="meter", price_per_million="1.20")
    subscribe(make_subscriber(operator), plan)
    return Gateway(operator)


def test_late_usage_is_an_adjustment_of_the_next_bill_at_its_own_days_price(
    operator: Operator, api: APIClient, metered: Gateway
) -> None:
    use(metered, "u", START + 20 * DAY, 2 * MILLION)
    move(api, CLOSE)
    use(metered, "late", START + 25 * DAY, MILLION)

    move(api, AUGUST + 2 * DAY)
    move(api, local(2026, 9, 3))

    assert [lines(invoice) for invoice in invoices(api)] == [
        [("fee", None, "9.90"), ("overage", "2000000.000", "2.40")],
        [("fee", None, "9.90"), ("adjustment", "1000000.000", "1.20")],
        [("fee", None, "9.90")],
    ]
    assert_books_agree()


def test_usage_that_was_billed_and_is_void_is_credited_on_the_next_bill(
    operator: Operator, api: APIClient, metered: Gateway
) -> None:
    use(metered, "u", START + 20 * DAY, 2 * MILLION)
    move(api, CLOSE)
    void = "subscribers/s-1/usage-records/u/void"
    assert post(api, void, {"reason": "a test"}).status_code == 200

    move(api, AUGUST + 2 * DAY)

    assert lines(invoices(api)[1]) == [
        ("fee", None, "9.90"),
        ("adjustment", "-2000000.000", "-2.40"),
    ]
    assert_books_agree()


def test_usage_within_the_grace_is_on_its_own_bill(
    operator: Operator, api: APIClient, metered: Gateway
) -> None:
    move(api, JULY + DAY)
    use(metered, "u", JULY - HOUR, 2 * MILLION)
    use(metered, "v", JULY + HOUR, MILLION)

    move(api, CLOSE)

    assert lines(invoices(api)[0])[1:] == [("overage", "2000000.000", "2.40")]
    assert_books_agree()


def test_a_close_waits_for_usage_that_is_not_in_the_totals(
    operator: Operator, metered: Gateway
) -> None:
    use(metered, "u", START + DAY, MILLION)
    set_clock(operator, CLOSE)

    assert closing.plan(operator, at=CLOSE) == 0
    rollups.fold_all(at=CLOSE)
    assert closing.plan(operator, at=CLOSE) == 1


# What cannot be billed ---------------------------------------------------------------------------


def test_one_who_cannot_be_billed_holds_up_nobody_and_is_named(
    operator: Operator, api: APIClient
) -> None:
    plan = make_plan(operator)
    sold = [subscribe(make_subscriber(operator, f"s-{nr}"), plan) for nr in range(9)]
    bad = sold[4]
    lost = SubscriptionPeriod.objects.filter(subscriber_id=bad.subscriber_id)
    lost.update(plan_id=10**12)
    Subscription.objects.filter(subscriber_id=bad.subscriber_id).update(ends_at=JULY)

    move(api, CLOSE)
    move(api, CLOSE + DAY)

    assert Invoice.objects.count() == 8
    [failed] = closing.failures(operator)
    assert (failed.first_subscriber, failed.reason) == (
        bad.subscriber_id,
        "there is no plan version 1000000000000",
    )
    lost.update(plan_id=plan.pk)
    assert closing.retry_failed(operator) == 1
    move(api, CLOSE + 2 * DAY)
    assert Invoice.objects.count() == 9
    assert closing.failures(operator) == []
    assert_books_agree()


def test_what_the_database_refuses_is_halved_until_it_is_found(
    operator: Operator, api: APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(operator)
    sold = [subscribe(make_subscriber(operator, f"s-{nr}"), plan) for nr in range(9)]
    bad = sold[6].subscriber_id
    row = invoicing._line_row

    def broken(subscriber_id: int, *rest: Any) -> tuple[Any, ...]:
        said = row(subscriber_id, *rest)
        return (*said[:7], Decimal("1.00"), *said[8:]) if subscriber_id == bad else said

    with monkeypatch.context() as patch:
        patch.setattr(invoicing, "_line_row", broken)
        move(api, CLOSE)

    assert Invoice.objects.count() == InvoiceNumber.objects.count() == 8
    [failed] = closing.failures(operator)
    assert failed.first_subscriber == bad
    assert "invoice_line_gross_is_net_and_tax" in failed.reason
    assert closing.retry_failed(operator) == 1
    move(api, CLOSE + DAY)
    assert Invoice.objects.count() == 9
    assert_books_agree()


def test_progress_tells_done_left_and_failed(operator: Operator) -> None:
    plan = make_plan(operator)
    for nr in range(5):
        subscribe(make_subscriber(operator, f"s-{nr}"), plan)
    set_clock(operator, CLOSE)
    while lifecycle.open_due(operator.pk, at=CLOSE):
        pass

    assert closing.plan(operator, at=CLOSE, size=2) == 3
    assert closing.plan(operator, at=CLOSE, size=2) == 0
    assert closing.close_next(operator, at=CLOSE)
    [seen] = closing.progress(operator)
    assert (seen.invoices, seen.left, seen.failed) == (2, 3, 0)
    while closing.close_next(operator, at=CLOSE):
        pass
    [seen] = closing.progress(operator)
    assert (seen.invoices, seen.left, seen.failed) == (5, 0, 0)
    assert CloseChunk.objects.filter(state="done").count() == 3


# What nobody can edit ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE billing_invoice SET gross = gross + 1, net = net + 1",
        "UPDATE billing_invoice SET number = 'X-1'",
        "DELETE FROM billing_invoice",
        "UPDATE billing_invoiceline SET units = 1",
        "DELETE FROM billing_invoiceline",
        "DELETE FROM billing_invoicenumber",
        "INSERT INTO billing_invoiceline SELECT subscriber_id, invoice_id, 9, kind, description,"
        " NULL, NULL, net, tax_rate, tax, gross, basis FROM billing_invoiceline",
    ],
)
def test_an_issued_invoice_never_changes(operator: Operator, api: APIClient, sql: str) -> None:
    subscribe(make_subscriber(operator), make_plan(operator))
    move(api, CLOSE)

    words = r"never|no draft|append-only"
    with pytest.raises(Error, match=words), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(sql)
    assert InvoiceLine.objects.count() == 1


# Pausing ------------------------------------------------------------------------------------------


def test_a_close_that_is_paused_goes_on_where_it_was(operator: Operator, api: APIClient) -> None:
    for name in ("s-1", "s-2"):
        subscribe(make_subscriber(operator, name), make_plan(operator))
    set_clock(operator, CLOSE)
    assert closing.plan(operator, at=CLOSE, size=1) == 2
    assert closing.close_next(operator, at=CLOSE)
    first = closing.pause(operator, by="li", reason="a wrong price", at=CLOSE)

    assert closing.pause(operator, by="wang", reason="again", at=CLOSE) == first
    assert not closing.close_next(operator, at=CLOSE)
    assert not closing.close_next(operator, at=CLOSE, wait=True)
    move(api, CLOSE + DAY)
    assert (Invoice.objects.count(), closing.waiting(operator)) == (1, 1)
    assert closing.resume(operator, by="li", at=CLOSE + DAY)
    assert not closing.resume(operator, by="li", at=CLOSE + DAY)
    move(api, CLOSE + 2 * DAY)

    assert (Invoice.objects.count(), closing.waiting(operator)) == (2, 0)
    [pause] = ClosePause.objects.all()
    assert (pause.paused_by, pause.resumed_by, pause.until) == ("li", "li", CLOSE + DAY)
    with pytest.raises(Error), transaction.atomic():
        ClosePause.objects.bulk_create(
            ClosePause(operator=operator, since=CLOSE, reason="x", paused_by="li") for _ in range(2)
        )
    for wrong in ({"by": "", "reason": "x"}, {"by": "li", "reason": " "}):
        with pytest.raises(Exception, match="a person and a reason"):
            closing.pause(operator, at=CLOSE, **wrong)
    assert_books_agree()
