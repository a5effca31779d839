"""What usage costs: priced by day, settled once, and what is left of what was earned."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import Error, connection, transaction
from hypothesis import given, settings
from hypothesis import strategies as st
from rest_framework.test import APIClient

from billing import cost_cards, costs, settling
from billing.models import CostCard, CostEntry, Settlement, Supplier
from billing.tasks import price_usage
from subscriptions.errors import Conflict, Invalid, NotFound
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
)
from tests.usage import DAY, HOUR, Gateway, assert_books_agree, post, record

pytestmark = pytest.mark.django_db

START, TENTH = local(2026, 6, 1), local(2026, 6, 10, 12)
JULY, AUGUST = local(2026, 7, 3), local(2026, 8, 3)
JUNE = dt.date(2026, 6, 1)
PRICES = {"deepseek/*": "2 0.2 3 8 16"}


@pytest.fixture
def operator() -> Operator:
    operator = make_operator("ct", at=START)
    subscribe(make_subscriber(operator), make_plan(operator))
    set_clock(operator, TENTH)
    return operator


@pytest.fixture
def api(operator: Operator) -> APIClient:
    return client_for(make_key(operator))


def publish(
    operator: Operator,
    code: str = "deepseek",
    prices: dict[str, str] | None = None,
    *,
    since: dt.date = JUNE,
    **said: Any,
) -> CostCard:
    rows = [
        costs.Price(model, *(Decimal(price) for price in text.split()))
        for model, text in (prices or PRICES).items()
    ]
    return costs.publish(operator, code, rows, effective_from=since, at=START, **said)


def use(gateway: Gateway, name: str, at: dt.datetime = TENTH, **said: Any) -> None:
    """A request of 1 M input (half of it cached, a tenth of it written), 0.4 M output."""
    body = {
        "input_tokens": 1_000_000,
        "cached_input_tokens": 500_000,
        "cache_write_tokens": 100_000,
        "output_tokens": 400_000,
        "reasoning_tokens": 100_000,
        **said,
    }
    assert gateway.charge(record(name, occurred_at=at, **body))["accepted"] == 1


# 0.4 x 2 + 0.5 x 0.2 + 0.1 x 3 + 0.3 x 8 + 0.1 x 16
COST = Decimal("5.2")


def price(operator: Operator, at: dt.datetime = JULY) -> int:
    return costs.price_due(operator, at=at)


def by(operator: Operator, what: str = "model") -> dict[str, tuple[int, str, str]]:
    """Requests, revenue and cost of June."""
    rows = costs.margin(operator, what, since=JUNE, until=dt.date(2026, 7, 1))
    return {row.by: (row.requests, f"{row.revenue:.2f}", f"{row.cost:.2f}") for row in rows}


def printed(*command: str) -> str:
    out = io.StringIO()
    call_command(*command, stdout=out, no_color=True)
    return out.getvalue()


# Days --------------------------------------------------------------------------------------------


def test_a_day_is_priced_when_it_is_over_by_class_model_and_plan(
    operator: Operator, gateway: Gateway
) -> None:
    publish(operator)
    use(gateway, "a")
    use(gateway, "b", model="unknown/model")

    assert price(operator, local(2026, 6, 10, 23)) == 0
    assert price(operator, local(2026, 6, 11)) == 1

    found = CostEntry.objects.order_by("model")
    assert [(e.day, e.plan, e.model, e.cost) for e in found] == [
        (dt.date(2026, 6, 10), "light", "deepseek/chat", COST),
        (dt.date(2026, 6, 10), "light", "unknown/model", 0),
    ]
    assert [row.unpriced for row in costs.margin(operator, "model", since=JUNE, until=JULY.date())]
    assert_books_agree()


def test_a_day_that_is_priced_is_not_priced_again_until_there_is_more_of_it(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    publish(operator)
    use(gateway, "a")
    first = price(operator)
    assert first == (JULY - local(2026, 6, 10)).days
    assert price(operator) == 0

    use(gateway, "late")
    assert price(operator) == 1
    assert by(operator)["deepseek/chat"] == (2, "0.00", "10.40")

    answer = post(api, "subscribers/s-1/usage-records/a/void", {"reason": "x"})
    assert answer.status_code == 200, answer.content
    assert price(operator) == 1
    assert by(operator)["deepseek/chat"] == (1, "0.00", "5.20")
    assert [entry.requests for entry in CostEntry.objects.order_by("id")] == [1, 1, -1]
    assert_books_agree()


def test_days_begin_at_the_operators_midnight(operator: Operator, gateway: Gateway) -> None:
    publish(operator)
    midnight = local(2026, 6, 10)
    use(gateway, "before", midnight - dt.timedelta(microseconds=1))
    use(gateway, "at", midnight)
    price(operator)

    days = list(CostEntry.objects.order_by("day").values_list("day", "requests"))
    assert days == [(dt.date(2026, 6, 9), 1), (dt.date(2026, 6, 10), 1)]


def test_usage_that_no_supplier_served_costs_nothing(operator: Operator, gateway: Gateway) -> None:
    publish(operator)
    for outcome in ("cached_replay", "blocked", "upstream_error"):
        use(gateway, outcome, outcome=outcome)
    use(gateway, "gone", outcome="client_gone")
    price(operator)

    assert by(operator) == {"deepseek/chat": (1, "0.00", "5.20")}
    assert_books_agree()


def test_the_card_of_the_day_prices_it_and_the_longest_pattern_wins(
    operator: Operator, gateway: Gateway
) -> None:
    publish(operator, prices={"*": "1 1 1 1 1", "deepseek/*": "2 2 2 2 2"})
    publish(operator, prices={"deepseek/*": "3 3 3 3 3"}, since=dt.date(2026, 6, 10))
    publish(operator, "vendor", {"deepseek/reasoner": "5 5 5 5 5"})
    set_clock(operator, TENTH + DAY)
    use(gateway, "old", TENTH - DAY)
    use(gateway, "other", TENTH - DAY, model="qwen/max")
    use(gateway, "new")
    use(gateway, "longest", model="deepseek/reasoner")
    price(operator)

    rows = CostEntry.objects.order_by("day", "model").values_list("model", "cost", "supplier__code")
    assert list(rows) == [
        ("deepseek/chat", Decimal("2.8"), "deepseek"),
        ("qwen/max", Decimal("1.4"), "deepseek"),
        ("deepseek/chat", Decimal("4.2"), "deepseek"),
        ("deepseek/reasoner", Decimal(7), "vendor"),
    ]


def test_a_card_that_comes_later_prices_its_days_again(
    operator: Operator, gateway: Gateway
) -> None:
    use(gateway, "a")
    price(operator)
    assert by(operator)["deepseek/chat"] == (1, "0.00", "0.00")

    publish(operator)
    price(operator)
    publish(operator, prices={"deepseek/*": "1 1 1 1 1"}, since=dt.date(2026, 6, 10))
    price(operator)

    assert by(operator)["deepseek/chat"] == (1, "0.00", "1.40")
    assert [entry.cost for entry in CostEntry.objects.order_by("id")] == [
        *(0, 0, COST),
        *(-COST, Decimal("1.4")),
    ]
    assert_books_agree()


def test_what_a_gateway_of_a_suppliers_own_tells_is_that_suppliers(operator: Operator) -> None:
    make_operator("north")
    edge, roaming = Gateway(operator, name="edge"), Gateway(operator, name="north-edge")
    publish(operator)
    publish(operator, "north", {"*": "1 1 1 1 1"}, gateways=["north-edge"], settles_with="north")
    use(edge, "a")
    use(edge, "b", model="qwen/max")  # the other's pattern is for its own gateway only
    use(roaming, "a")
    price(operator)

    rows = CostEntry.objects.order_by("gateway_id", "model").values_list("supplier__code", "cost")
    assert list(rows) == [("deepseek", COST), (None, 0), ("north", Decimal("1.4"))]
    assert "ct to north (operator north), 2026-06" in printed(
        *("settlement", "north", "--month", "2026-06", "--operator", "ct")
    )
    with pytest.raises(Conflict, match="another supplier's"):
        publish(operator, gateways=["north-edge"])
    for wrong in ({"gateways": ["none"]}, {"settles_with": "ct"}, {"settles_with": "none"}):
        with pytest.raises(Invalid):
            publish(operator, **wrong)


def test_days_whose_records_are_gone_keep_their_cost(operator: Operator, gateway: Gateway) -> None:
    publish(operator)
    use(gateway, "a")
    price(operator)
    publish(operator, prices={"*": "1 1 1 1 1"})

    later = TENTH + 200 * DAY
    assert price(operator, later) > 0
    assert not CostEntry.objects.exclude(day=dt.date(2026, 6, 10)).exists()
    assert by(operator)["deepseek/chat"] == (1, "0.00", "5.20")


def test_beat_prices_every_operators_days_by_its_own_clock(
    operator: Operator, gateway: Gateway
) -> None:
    publish(operator)
    use(gateway, "a")
    price_usage()
    assert not CostEntry.objects.exists()

    set_clock(operator, TENTH + DAY)
    price_usage()
    price_usage()
    assert CostEntry.objects.get().cost == COST


# Margin ------------------------------------------------------------------------------------------


def test_the_margin_of_plans_and_models_is_what_they_earned_less_what_they_cost(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    publish(operator, prices={"*": "1 1 1 1 1"})
    make_subscriber(operator, "s-2")  # without a plan
    use(gateway, "a")
    use(gateway, "b", input_tokens=200_000, output_tokens=0, model="qwen/max", **UNCACHED)
    use(gateway, "c", subject="user-s-2")
    assert post(api, "test-clock", {"now": JULY.isoformat()}).status_code == 200

    rows = printed("margin", "--by", "plan", "--from", "2026-06", "--until", "2026-07", "--csv")
    assert list(csv.reader(io.StringIO(rows))) == [
        [
            *("plan", "requests", "tokens", "unpriced_tokens", "revenue", "cost", "margin"),
            *("percent", "currency"),
        ],
        ["", "1", "1400000", "0", "0.00", "1.40", "-1.40", "", "CNY"],
        ["light", "2", "1600000", "0", "9.34", "1.60", "7.74", "82.9", "CNY"],
    ]
    # 9.34 by units, 1.4 M to 0.2 M; what was used without a plan earned nothing.
    assert by(operator) == {"deepseek/chat": (2, "8.17", "2.80"), "qwen/max": (1, "1.17", "0.20")}
    shown = printed("margin", "--by", "model", "--from", "2026-06-01", "--until", "2026-07-01")
    assert shown.splitlines()[-1].split()[:2] == ["total", "3"]
    half = costs.margin(operator, "plan", since=JUNE, until=dt.date(2026, 6, 16))
    assert [row.revenue for row in half] == [0, Decimal("4.67")]


UNCACHED: dict[str, Any] = dict.fromkeys(
    ("cached_input_tokens", "cache_write_tokens", "reasoning_tokens"), 0
)


# Settlement --------------------------------------------------------------------------------------


def settle(operator: Operator, month: dt.date = JUNE, at: dt.datetime = JULY) -> Settlement:
    costs.price_due(operator, at=at)
    supplier = costs.supplier_named(operator, "deepseek")
    return settling.issue(operator, supplier, month, at=at)


def test_a_settlement_says_each_cost_once_and_late_usage_is_on_the_next(
    operator: Operator, gateway: Gateway
) -> None:
    publish(operator)
    use(gateway, "a")
    first = settle(operator)
    assert (first.number, first.total) == ("CT-S-000001", Decimal("5.20"))
    assert settle(operator) == first

    use(gateway, "late")
    set_clock(operator, local(2026, 7, 10))
    use(gateway, "july", local(2026, 7, 9))
    second = settle(operator, dt.date(2026, 7, 1), AUGUST)

    lines = settling.lines_of(second)
    assert [(f"{line.month:%Y-%m}", line.requests, line.amount) for line in lines] == [
        ("2026-06", 1, COST),
        ("2026-07", 1, COST),
    ]
    assert (second.number, second.total) == ("CT-S-000002", Decimal("10.40"))
    assert settling.total(settling.lines_of(settle(operator))) == first.total
    assert_books_agree()


def test_a_month_is_settled_when_it_is_over_priced_and_in_its_turn(
    operator: Operator, gateway: Gateway
) -> None:
    publish(operator)
    supplier = costs.supplier_named(operator, "deepseek")
    with pytest.raises(Conflict, match="nothing that is not settled"):
        settle(operator)
    use(gateway, "a")
    with pytest.raises(Conflict, match="is not over"):
        settle(operator, at=TENTH)
    with pytest.raises(Conflict, match="2026-06-10 is not priced yet"):
        settling.issue(operator, supplier, JUNE, at=JULY)
    settle(operator)
    with pytest.raises(Conflict, match="2026-06 is settled already"):
        settle(operator, dt.date(2026, 5, 1))
    with pytest.raises(Conflict, match="settled up to 2026-07-01"):
        publish(operator)
    publish(operator, since=dt.date(2026, 7, 1))


def test_a_statement_is_printed_and_written_as_a_table(
    operator: Operator, gateway: Gateway, tmp_path: Path
) -> None:
    publish(operator, name="DeepSeek")
    use(gateway, "a")
    set_clock(operator, JULY)
    asked = ("settlement", "deepseek", "--month", "2026-06")

    assert printed(*asked).splitlines() == [
        "Draft: ct to DeepSeek, 2026-06",
        "  deepseek/chat: 1 requests, 1,400,000 tokens, 5.20",
        "Total: 5.20 CNY",
    ]
    assert printed(*asked, "--issue").startswith("CT-S-000001: ct to DeepSeek")
    path = tmp_path / "june.csv"
    printed(*asked, "--to", str(path))
    header, line, total = list(csv.reader(io.StringIO(path.read_bytes().decode())))
    row = dict(zip(header, line, strict=True))
    assert (row["number"], row["usage_month"], row["price_from"], row["cached_input_tokens"]) == (
        *("CT-S-000001", "2026-06", "2026-06-01", "500000"),
    )
    assert (row["output_price"], row["amount"], row["currency"]) == ("8.000000", "5.20", "CNY")
    assert (total[4], total[-2]) == ("total", "5.20")
    for wrong in (
        *(["nobody", "--month", "2026-06"], ["deepseek", "--month", "2026-06-02"]),
        *(["deepseek", "--month", "June"], ["deepseek", "--month", "2026-07", "--issue"]),
    ):
        with pytest.raises(CommandError):
            printed("settlement", *wrong)


def test_what_was_priced_and_settled_never_changes(operator: Operator, gateway: Gateway) -> None:
    publish(operator)
    use(gateway, "a")
    settle(operator)

    for statement in (
        "UPDATE billing_costprice SET output = 1",
        "DELETE FROM billing_costcard",
        "UPDATE billing_costentry SET cost = 1",
        "UPDATE billing_costentry SET settlement_id = NULL",
        "DELETE FROM billing_costentry",
        "UPDATE billing_settlement SET total = 1",
        "UPDATE billing_settlementline SET amount = 1",
    ):
        with (
            pytest.raises(Error, match="never changes"),
            transaction.atomic(),
            connection.cursor() as cursor,
        ):
            cursor.execute(statement)


def test_costs_of_two_operators_keep_apart(operator: Operator, gateway: Gateway) -> None:
    other = make_operator("other", at=START)
    subscribe(make_subscriber(other), make_plan(other))
    set_clock(other, TENTH)
    publish(operator)
    publish(other, prices={"*": "1 1 1 1 1"})
    use(gateway, "a")
    use(Gateway(other), "a")
    price(operator)
    price(other)

    assert by(operator)["deepseek/chat"] == (1, "0.00", "5.20")
    assert by(other)["deepseek/chat"] == (1, "0.00", "1.40")
    assert (settle(operator).number, settle(other).number) == ("CT-S-000001", "OTHER-S-000001")
    publish(other, "secret")
    with pytest.raises(NotFound):
        costs.supplier_named(operator, "secret")
    assert_books_agree()


COUNTS = st.integers(0, 10**7)


def test_whatever_is_used_and_voided_statements_add_up_to_its_cost(
    operator: Operator, gateway: Gateway, api: APIClient
) -> None:
    publish(operator, prices={"*": "1.333333 0.1 0.7 8.000001 0.05"})

    @settings(max_examples=15)
    @given(
        st.lists(st.tuples(COUNTS, COUNTS, st.sampled_from("ab")), min_size=1, max_size=4),
        st.integers(0, 3),
    )
    def holds(uses: list[tuple[int, int, str]], voided: int) -> None:
        with transaction.atomic():
            expected: dict[str, Decimal] = {}
            for nr, (read, wrote, model) in enumerate(uses):
                said = {**UNCACHED, "input_tokens": read + 1, "output_tokens": wrote}
                use(gateway, f"r-{nr}", TENTH - nr * HOUR, model=model, **said)
                cost = (read + 1) * Decimal("1.333333") + wrote * Decimal("8.000001")
                expected[model] = expected.get(model, Decimal(0)) + cost / 10**6
            june = settle(operator)
            assert june.total == sum(
                cost.quantize(Decimal("0.01"), ROUND_HALF_UP) for cost in expected.values()
            )
            if voided < len(uses):
                path = f"subscribers/s-1/usage-records/r-{voided}/void"
                assert post(api, path, {"reason": "x"}).status_code == 200
                july = settle(operator, dt.date(2026, 7, 1), AUGUST)
                read, wrote, _ = uses[voided]
                back = (read + 1) * Decimal("1.333333") + wrote * Decimal("8.000001")
                assert july.total == (-back / 10**6).quantize(Decimal("0.01"), ROUND_HALF_UP)
            transaction.set_rollback(True)

    holds()


# Cards from files --------------------------------------------------------------------------------


def test_a_card_is_loaded_from_csv_or_json_with_a_dry_run_first(
    operator: Operator, tmp_path: Path
) -> None:
    table, array = tmp_path / "card.csv", tmp_path / "card.json"
    table.write_text("model,input,cached_input,output\ndeepseek/*,2.00,0.2,3\nqwen/max,1,,4.5\n")
    array.write_text(json.dumps([{"model": "*", "input": 0.5, "output": "2", "reasoning": 4}]))
    since = ("--effective-from", "2026-06-01")

    said = printed("cost_card", "vendor", str(table), *since, "--dry-run")
    assert said.splitlines()[-1].startswith("2 prices: this would be version 1 of vendor")
    assert not Supplier.objects.exists()

    said = printed("cost_card", "vendor", str(table), *since, "--name", "The vendor")
    assert "qwen/max: 1, 1, 1, 4.5, 4.5" in said
    printed("cost_card", "vendor", str(array), *since)
    cards = CostCard.objects.order_by("version")
    assert [(card.version, card.prices.count()) for card in cards] == [(1, 2), (2, 1)]
    assert Supplier.objects.get().name == "The vendor"
    with pytest.raises(CommandError, match="No such file"):
        printed("cost_card", "vendor", str(tmp_path / "none"), *since)
    with pytest.raises(CommandError, match="--effective-from"):
        printed("cost_card", "vendor", str(table), "--effective-from", "June")


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"", "the first line names the columns"),
        (b"model,price\n", "the first line names the columns"),
        (b"model,input,output\n", "there is no price"),
        (b"model,input,output\na,1\n", "line 2: 2 cells, not 3"),
        (b"model,input,output\na,1,2\na,1,2\n", "line 3: a has a price already"),
        (b"model,input,output\n,1,2\n", "line 2: model is"),
        (b"model,input,output\na,,2\nb,-1,2\nc,1e3,1", r"line 2: input.*\nline 3: .*\nline 4: "),
        (b"model,input,output\na,0.1234567,2\n", "6 places"),
        ("model,input,output\na,１,2\n".encode(), "not a price"),
        (b'model,input,output\n"a,1,2\n', "line"),
        (b"\xff", "not UTF-8"),
        (b"{}", "no JSON array"),
        (b"[1]", "price 1: is no object"),
        (b'[{"model": "a", "input": true, "output": 1}]', "input is True"),
        (b'[{"model": "a", "input": NaN, "output": 1}]', "input is nan"),
        (b'[{"model": "a", "input": 1e999999, "output": 1}]', "price"),
        (b"[" * 100_000, "no JSON"),
        (b"[]", "there is no price"),
    ],
)
def test_a_file_that_is_no_card_is_refused_with_what_is_wrong(raw: bytes, problem: str) -> None:
    with pytest.raises(cost_cards.CardError, match=problem):
        cost_cards.read(raw)
