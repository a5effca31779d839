"""Tax rates with days they hold from: what a bill is taxed at, of plans sold long before."""

from __future__ import annotations

import datetime as dt
import io
from decimal import Decimal
from typing import Any

import pytest
from django.core.management import call_command
from hypothesis import given
from hypothesis import strategies as st
from rest_framework.test import APIClient

from subscriptions import taxes
from subscriptions.models import Operator
from subscriptions.taxes import Dated, Taxes
from tests.factories import (
    SHANGHAI,
    client_for,
    local,
    make_key,
    make_operator,
    make_plan,
    make_rate_card,
    make_subscriber,
    set_clock,
)
from tests.test_closing import invoices, move, use
from tests.usage import DAY, Gateway, assert_books_agree, assert_problem, get, post, put

MILLION = 1_000_000
START = local(2025, 12, 1)
pytestmark = pytest.mark.django_db
# Mobile data, SMS and broadband: 9 % since 1 January 2026.
DATA = [("2020-01-01", "0.06"), ("2026-01-01", "0.09")]


@pytest.fixture
def operator() -> Operator:
    return make_operator("ct", at=START)


@pytest.fixture
def api(operator: Operator) -> APIClient:
    """With a category `data`."""
    make_rate_card(operator)
    api = client_for(make_key(operator))
    for day, rate in DATA:
        answer = put(api, "tax-rates/data", {"effective_from": day, "rate": rate})
        assert answer.status_code == 201, answer.content
    return api


def sell(api: APIClient, **said: Any) -> None:
    """A plan of 9.90, to `s-1`."""
    operator = Operator.objects.get(code="ct")
    body = {"name": "Data", "price": "9.90", "allowance": "0", "rate_card": "standard"} | said
    answer = put(api, "plans/data", body)
    assert answer.status_code == 201, answer.content
    make_subscriber(operator)
    answer = post(api, "subscribers/s-1/subscriptions", {"plan": "data"})
    assert answer.status_code == 201, answer.content


def taxed(invoice: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """(kind, rate, net, tax) of each line."""
    return [
        (line["kind"], line["tax_rate"], line["net"]["amount"], line["tax"]["amount"])
        for line in invoice["lines"]
    ]


def test_a_period_is_taxed_as_of_its_last_day(operator: Operator, api: APIClient) -> None:
    sell(api, tax_category="data")
    move(api, local(2026, 2, 3))

    assert [taxed(one) for one in invoices(api)] == [
        [("fee", "0.06", "9.34", "0.56")],
        [("fee", "0.09", "9.08", "0.82")],
    ]
    out = io.StringIO()
    call_command("explain", "CT-2026-00000002", stdout=out)
    assert "taxed as data is since 2026-01-01" in out.getvalue()
    assert "9.90 / (1 + 9 %) = 9.08 net" in out.getvalue()
    assert_books_agree()


def test_a_period_over_the_turn_of_the_year_is_taxed_as_its_last_day_is(
    operator: Operator, api: APIClient
) -> None:
    move(api, local(2025, 12, 15))
    sell(api, tax_category="data", cycle="subscription_day")
    move(api, local(2026, 1, 18))

    assert [taxed(one) for one in invoices(api)] == [[("fee", "0.09", "9.08", "0.82")]]
    assert_books_agree()


def test_each_component_has_the_rate_of_its_own_category(
    operator: Operator, api: APIClient
) -> None:
    parts = [
        {"name": "data", "price": "5.00", "tax_rate": "0.06", "tax_category": "data"},
        {"name": "tokens", "price": "4.90", "tax_rate": "0.06"},
    ]
    sell(api, components=parts)
    move(api, local(2026, 2, 3))

    december, january = invoices(api)
    assert [line[1] for line in taxed(december)] == ["0.06", "0.06"]
    assert [line[1] for line in taxed(january)] == ["0.09", "0.06"]
    assert get(api, "plans")["items"][0]["components"][0]["tax_category"] == "data"
    assert_books_agree()


def test_late_usage_has_the_tax_of_its_own_period(operator: Operator, api: APIClient) -> None:
    june, july = local(2026, 6, 1), {"effective_from": "2026-07-01", "rate": "0.06"}
    assert put(api, "tax-rates/data", july).status_code == 201
    set_clock(operator, june)
    overage = {"price_per_million": "1.20"}
    sell(api, tax_category="data", on_exhaustion="meter", overage=overage)
    gateway = Gateway(operator)
    use(gateway, "u", june + 5 * DAY, MILLION)
    move(api, local(2026, 7, 3))
    use(gateway, "late", june + 25 * DAY, MILLION)
    use(gateway, "v", local(2026, 7, 20), MILLION)
    move(api, local(2026, 8, 3))

    assert taxed(invoices(api)[1]) == [
        ("fee", "0.06", "9.34", "0.56"),
        ("overage", "0.06", "1.13", "0.07"),
        ("adjustment", "0.09", "1.10", "0.10"),
    ]
    assert_books_agree()


def test_before_a_categorys_first_day_the_plans_own_rate_holds(
    operator: Operator, api: APIClient
) -> None:
    answer = put(api, "tax-rates/new", {"effective_from": "2026-01-01", "rate": "0.13"})
    assert answer.status_code == 201
    sell(api, tax_category="new", tax_rate="0.03")
    move(api, local(2026, 2, 3))

    assert [line[1] for one in invoices(api) for line in taxed(one)] == ["0.03", "0.13"]
    assert_books_agree()


def test_a_rate_is_not_published_for_what_is_billed(operator: Operator, api: APIClient) -> None:
    sell(api, tax_category="data")
    move(api, local(2026, 1, 3))

    early = {"effective_from": "2025-12-31", "rate": "0.07"}
    assert_problem(put(api, "tax-rates/data", early), 409, "tax_already_billed")
    assert put(api, "tax-rates/other", early).status_code == 201
    again = {"effective_from": "2026-01-01", "rate": "0.09"}
    assert put(api, "tax-rates/data", again).status_code == 200
    later = {"effective_from": "2026-01-01", "rate": "0.10"}
    assert put(api, "tax-rates/data", later).status_code == 201
    move(api, local(2026, 2, 3))

    assert taxed(invoices(api)[1])[0][1] == "0.10"
    listed = get(api, "tax-rates?limit=2")
    assert [one["rate"] for one in listed["items"]] == ["0.06", "0.09"]
    assert len(get(api, listed["next"])["items"]) == 2
    assert_books_agree()


@pytest.mark.parametrize(
    "body",
    [
        {"rate": "0.06"},
        {"effective_from": "2026-13-01", "rate": "0.06"},
        {"effective_from": 20260101, "rate": "0.06"},
        {"effective_from": "0001-01-01", "rate": "0.06"},
        {"effective_from": "2026-01-01", "rate": "1"},
        {"effective_from": "2026-01-01", "rate": "-0.1"},
        {"effective_from": "2026-01-01", "rate": 0.06},
    ],
)
def test_what_is_no_rate_is_422(api: APIClient, body: dict[str, Any]) -> None:
    assert_problem(put(api, "tax-rates/data", body), 422, "invalid")


def test_a_plan_names_a_category_that_there_is(operator: Operator, api: APIClient) -> None:
    body = {"name": "x", "price": "1", "allowance": "0", "rate_card": "standard"}
    answer = put(api, "plans/x", body | {"tax_category": "dat"})
    assert_problem(answer, 422, "unknown_tax_category")
    parts = [{"name": "x", "price": "1", "tax_rate": "0.06", "tax_category": "dat"}]
    answer = put(api, "plans/x", body | {"components": parts})
    assert_problem(answer, 422, "unknown_tax_category")


def test_a_plan_that_names_no_category_is_taxed_as_it_says(operator: Operator) -> None:
    assert make_plan(operator, tax_rate=Decimal("0.09")).tax_category == ""


@given(
    st.dictionaries(st.dates(dt.date(2020, 1, 1), dt.date(2030, 1, 1)), st.integers(0, 99)),
    st.dates(dt.date(2019, 1, 1), dt.date(2031, 1, 1)),
)
def test_the_rate_of_a_day_is_the_last_that_began_by_then(
    rates: dict[dt.date, int], day: dt.date
) -> None:
    dated = tuple(Dated(since, Decimal(rate) / 100) for since, rate in sorted(rates.items()))

    found = Taxes({"x": dated}).on("x", day)

    begun = [one for one in dated if one.since <= day]
    assert found == (max(begun) if begun else None)
    assert Taxes({}).on("x", day) is None


def test_the_last_day_of_a_span_is_local() -> None:
    assert taxes.last_day(local(2026, 1, 1), SHANGHAI) == dt.date(2025, 12, 31)
    assert taxes.last_day(local(2026, 1, 1, 0, 0, 1), SHANGHAI) == dt.date(2026, 1, 1)
