"""e-fapiao: what is asked of the tax platform, its answers, and what is taken back."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import Error, connection, transaction
from hypothesis import given
from hypothesis import strategies as st

from billing import invoicing
from billing.documents import letterheads
from billing.documents.capitals import capitals
from billing.fapiao import lines as fapiao_lines
from billing.fapiao import requests, sending
from billing.fapiao.providers import FileProvider, ProviderError
from billing.models import FapiaoRequest
from billing.tasks import sweep_fapiao
from subscriptions.errors import Conflict, Invalid, NotFound
from subscriptions.models import Operator
from tests.factories import (
    client_for,
    local,
    make_key,
    make_operator,
    make_plan,
    make_subscriber,
    subscribe,
)
from tests.usage import Gateway, assert_books_agree, assert_problem, post, record

pytestmark = pytest.mark.django_db

START, CLOSE = local(2026, 6, 1), local(2026, 7, 3)
INVOICE = "CT-2026-00000001"
FIRST = f"{INVOICE}-1"
TAX_ID, TAX_CLASS = "91310000MA1FL0AB12", "3040201010000000000"
BLUE, RED = "2" * 20, "3" * 20


def billed(code: str) -> Operator:
    """With an invoice of 9.90 and 1.48 of overage, and all that the tax platform wants to know."""
    operator = make_operator(code, at=START)
    plan = make_plan(operator, allowance=0, on_exhaustion="meter", price_per_million="1.20")
    subscribe(make_subscriber(operator), plan)
    used = record("u", occurred_at=START, input_tokens=1_234_567, output_tokens=0)
    assert Gateway(operator).charge(used)["accepted"] == 1
    answer = post(client_for(make_key(operator)), "test-clock", {"now": CLOSE.isoformat()})
    assert answer.status_code == 200, answer.content
    head = letterheads.Draft(name="上海电信", tax_id=TAX_ID, bank="工行", bank_account="1001")
    letterheads.put(operator, head)
    requests.set_item(operator, Decimal("0.06"), tax_class=TAX_CLASS, name="信息技术服务")
    return operator


@pytest.fixture
def operator() -> Operator:
    return billed("ct")


@pytest.fixture
def provider(tmp_path: Path) -> FileProvider:
    return FileProvider(tmp_path)


def ask(operator: Operator, **said: Any) -> FapiaoRequest:
    return requests.request(operator, INVOICE, at=CLOSE, **said)


def red(operator: Operator, reason: str = "wrong", credit_note: str = "") -> FapiaoRequest:
    return requests.request_red(operator, INVOICE, reason=reason, at=CLOSE, credit_note=credit_note)


def credit(operator: Operator, amount: str | None = None) -> str:
    of = None if amount is None else Decimal(amount)
    note = invoicing.credit(operator, INVOICE, reason="x", at=CLOSE, amount=of)
    return str(note.number)


def answer(provider: FileProvider, request_id: str, said: Any, operator: str = "ct") -> None:
    path = provider.folder / "answers" / operator / f"{request_id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(said if isinstance(said, str) else json.dumps(said))


def issue(operator: Operator, provider: FileProvider, one: FapiaoRequest, number: str) -> None:
    """The platform gives it this number."""
    sending.sweep(operator, provider, at=CLOSE)
    said = {"number": number, "issued_at": "2026-07-03T01:00:00+08:00"}
    answer(provider, one.request_id, said, operator.code)
    assert sending.sweep(operator, provider, at=CLOSE).issued == 1


def state(one: FapiaoRequest) -> tuple[str, str | None]:
    one.refresh_from_db()
    return one.state, one.number


# Asking ------------------------------------------------------------------------------------------


def test_a_request_says_all_that_the_tax_platform_wants(
    operator: Operator, provider: FileProvider
) -> None:
    ask(operator, kind="01", buyer_name="某某公司", buyer_tax_id="91110000100000000X")

    assert sending.sweep(operator, provider, at=CLOSE).submitted == 1

    path = provider.folder / "requests" / "ct" / f"{FIRST}.json"
    assert json.loads(path.read_text()) == {
        "request_id": FIRST,
        "operator": "ct",
        "kind": "01",
        "seller": {
            "name": "上海电信",
            "tax_id": TAX_ID,
            "address": "",
            "phone": "",
            "bank": "工行",
            "account": "1001",
        },
        "buyer": {"natural_person": False, "name": "某某公司", "tax_id": "91110000100000000X"},
        "lines": [
            {
                "line": 1,
                "item": "*信息技术服务*Light",
                "tax_class": TAX_CLASS,
                "unit": "项",
                "quantity": "1",
                "price": "9.34",
                "amount": "9.34",
                "tax_rate": "0.06",
                "tax": "0.56",
            },
            {
                "line": 2,
                "item": "*信息技术服务*Light",
                "tax_class": TAX_CLASS,
                "unit": "百万词元",
                "quantity": "1.234567",
                "price": "1.1340008278206",
                "amount": "1.40",
                "tax_rate": "0.06",
                "tax": "0.08",
            },
        ],
        "currency": "CNY",
        "net": "10.74",
        "tax": "0.64",
        "gross": "11.38",
        "gross_in_capitals": "壹拾壹元叁角捌分",
    }
    assert_books_agree()


def test_an_invoice_has_one_e_fapiao(operator: Operator, provider: FileProvider) -> None:
    one = ask(operator)
    with pytest.raises(Conflict, match="already"):
        ask(operator)
    issue(operator, provider, one, BLUE)
    with pytest.raises(Conflict, match="already"):
        ask(operator)


def test_what_was_refused_may_be_asked_for_anew(operator: Operator, provider: FileProvider) -> None:
    one = ask(operator)
    sending.sweep(operator, provider, at=CLOSE)
    answer(provider, FIRST, {"refused": "税号有误"})

    assert sending.sweep(operator, provider, at=CLOSE).refused == 1
    assert (state(one), one.problem) == (("failed", None), "税号有误")
    assert ask(operator).request_id == f"{INVOICE}-2"


def test_what_no_e_fapiao_can_be_of_is_refused(operator: Operator) -> None:
    for said in ({"kind": "01"}, {"kind": "03"}, {"buyer_tax_id": "short"}):
        with pytest.raises(Invalid):
            ask(operator, **said)
    with pytest.raises(NotFound):
        requests.request(operator, "CT-2026-00000009", at=CLOSE)
    note = credit(operator)
    for number in (note, INVOICE):  # a credit note, and what is all taken back
        with pytest.raises(Conflict):
            requests.request(operator, number, at=CLOSE)
    for rate, tax_class in (("0.06", "304"), ("1", TAX_CLASS), ("0.06", "３" * 19)):
        with pytest.raises(Invalid):
            requests.set_item(operator, Decimal(rate), tax_class=tax_class, name="x")


def test_without_a_seller_or_the_rates_tax_class_nothing_is_asked(operator: Operator) -> None:
    other = make_operator("new", at=START)
    subscribe(make_subscriber(other), make_plan(other))
    post(client_for(make_key(other)), "test-clock", {"now": CLOSE.isoformat()})
    number = "NEW-2026-00000001"

    with pytest.raises(Invalid, match="no tax class is set"):
        requests.request(other, number, at=CLOSE)
    requests.set_item(other, Decimal("0.06"), tax_class=TAX_CLASS, name="x")
    with pytest.raises(Invalid, match="letterhead of new has no taxpayer id"):
        requests.request(other, number, at=CLOSE)
    with pytest.raises(NotFound):  # another operator's invoice
        requests.request(other, INVOICE, at=CLOSE)


def test_what_is_credited_before_is_not_in_it_nor_taken_back_again(
    operator: Operator, provider: FileProvider
) -> None:
    note = credit(operator, "1.38")
    one = ask(operator)
    assert (one.gross, one.capitals) == (Decimal("10.00"), "壹拾元整")
    issue(operator, provider, one, BLUE)

    with pytest.raises(Conflict, match="without its amount"):
        red(operator, "return", note)
    assert red(operator).gross == -10
    assert_books_agree()


# Taking back -------------------------------------------------------------------------------------


def test_a_wrong_one_is_taken_back_whole_and_asked_for_anew(
    operator: Operator, provider: FileProvider
) -> None:
    blue = ask(operator)
    with pytest.raises(Conflict, match="is issued"):
        red(operator)
    issue(operator, provider, blue, BLUE)

    back = red(operator)
    assert state(blue) == ("red_requested", BLUE)
    issue(operator, provider, back, RED)

    said = json.loads((provider.folder / "requests" / "ct" / f"{FIRST}-R1.json").read_text())
    assert said["red"] == {"reason": "wrong", "number": BLUE}
    assert (said["gross"], said["gross_in_capitals"]) == ("-11.38", "负壹拾壹元叁角捌分")
    assert [(x["quantity"], x["amount"]) for x in said["lines"]] == [
        ("-1", "-9.34"),
        ("-1.234567", "-1.40"),
    ]
    assert (state(blue), state(back)) == (("red_issued", BLUE), ("issued", RED))
    again = ask(operator, buyer_name="另一家")
    assert (again.request_id, again.gross) == (f"{INVOICE}-2", blue.gross)
    assert_books_agree()


def test_each_credit_note_is_taken_back_once_until_nothing_is_left(
    operator: Operator, provider: FileProvider
) -> None:
    blue = ask(operator)
    issue(operator, provider, blue, BLUE)
    part, rest = credit(operator, "1.38"), credit(operator)

    first = red(operator, "allowance", part)
    issue(operator, provider, first, RED)
    assert (first.gross, state(blue)) == (Decimal("-1.38"), ("issued", BLUE))
    with pytest.raises(Conflict):
        red(operator, "allowance", part)
    with pytest.raises(Conflict, match="a part of it"):
        red(operator)
    issue(operator, provider, red(operator, "service_ended", rest), "4" * 20)
    assert state(blue) == ("red_issued", BLUE)
    for reason, note in (("return", ""), ("wrong", part), ("no", "")):
        with pytest.raises(Invalid):
            red(operator, reason, note)
    assert_books_agree()


def test_a_red_one_that_is_refused_leaves_the_blue_one_issued(
    operator: Operator, provider: FileProvider
) -> None:
    blue = ask(operator)
    issue(operator, provider, blue, BLUE)
    back = red(operator)
    sending.sweep(operator, provider, at=CLOSE)
    answer(provider, back.request_id, {"refused": "no"})
    sending.sweep(operator, provider, at=CLOSE)

    assert (state(blue), state(back)) == (("issued", BLUE), ("failed", None))
    assert red(operator).request_id == f"{FIRST}-R2"


# The way there and back --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        *("", "{", "[]", "1", '{"number": "1"}'),
        {"number": "2" * 19, "issued_at": "2026-07-03T01:00:00Z"},
        {"number": "２" * 20, "issued_at": "2026-07-03T01:00:00Z"},
        {"number": BLUE, "issued_at": "2026-07-03T01:00:00"},
        {"number": 10**19, "issued_at": "2026-07-03T01:00:00Z"},
        "[" * 200_000,
    ],
)
def test_an_answer_that_is_none_changes_nothing_and_is_heard_again(
    operator: Operator, provider: FileProvider, said: Any
) -> None:
    one = ask(operator)
    sending.sweep(operator, provider, at=CLOSE)
    answer(provider, FIRST, said)

    assert sending.sweep(operator, provider, at=CLOSE).problems == 1
    assert state(one) == ("submitted", None)
    assert one.problem
    answer(provider, FIRST, {"number": BLUE, "issued_at": "2026-07-03T01:00:00Z"})
    assert sending.sweep(operator, provider, at=CLOSE).issued == 1
    assert sending.sweep(operator, provider, at=CLOSE) == (0, 0, 0, 0)
    assert (state(one), one.problem) == (("issued", BLUE), "")


def test_a_number_is_given_once(operator: Operator, provider: FileProvider) -> None:
    other = billed("other")
    issue(operator, provider, ask(operator), BLUE)
    one = requests.request(other, "OTHER-2026-00000001", at=CLOSE)
    sending.sweep(other, provider, at=CLOSE)
    said = {"number": BLUE, "issued_at": "2026-07-03T01:00:00Z"}
    answer(provider, one.request_id, said, "other")

    assert sending.sweep(other, provider, at=CLOSE).problems == 1
    assert state(one) == ("submitted", None)


class Dying(FileProvider):
    """The process ends after the request is handed over, before that is noted."""

    def submit(self, request: Mapping[str, Any]) -> None:
        super().submit(request)
        raise KeyboardInterrupt


class Away(FileProvider):
    def submit(self, request: Mapping[str, Any]) -> None:
        raise ProviderError("no connection")


def test_what_a_crash_left_between_is_handed_over_again_as_it_was(
    operator: Operator, tmp_path: Path, provider: FileProvider
) -> None:
    one = ask(operator)
    assert sending.sweep(operator, Away(tmp_path), at=CLOSE).problems == 1
    assert (state(one)[0], one.problem, one.attempts) == ("requested", "no connection", 1)
    with pytest.raises(KeyboardInterrupt):
        sending.sweep(operator, Dying(tmp_path), at=CLOSE)
    assert state(one)[0] == "requested"
    path = tmp_path / "requests" / "ct" / f"{FIRST}.json"
    before = path.read_bytes()

    assert sending.sweep(operator, provider, at=CLOSE).submitted == 1
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.django_db(transaction=True)
def test_no_transaction_is_open_while_the_platform_is_asked(tmp_path: Path) -> None:
    operator = billed("ct")
    seen: list[bool] = []

    class Watching(FileProvider):
        def submit(self, request: Mapping[str, Any]) -> None:
            seen.append(connection.in_atomic_block)

        def poll(self, operator: str, request_id: str) -> None:
            seen.append(connection.in_atomic_block)

    ask(operator)
    sending.sweep(operator, Watching(tmp_path), at=CLOSE)

    assert seen == [False, False]


def test_beat_sweeps_and_operators_ask_by_command(
    operator: Operator, tmp_path: Path, settings: Any
) -> None:
    settings.FAPIAO_FOLDER = str(tmp_path)

    def said(*command: str) -> str:
        out = io.StringIO()
        call_command("fapiao", *command, stdout=out)
        return out.getvalue()

    said("item", "0.06", TAX_CLASS, "电信服务")
    assert said("request", INVOICE, "--buyer", "王五").startswith(f"{FIRST}  requested  11.38 CNY")
    sweep_fapiao()
    answer(FileProvider(), FIRST, {"number": BLUE, "issued_at": "2026-07-03T01:00:00Z"})
    assert "1 issued" in said("sweep")
    assert "requested" in said("red", INVOICE, "--reason", "wrong")
    assert said("list", "--state", "red_requested") == (
        f"{FIRST}  red_requested  11.38 CNY  {BLUE}  王五\n"
    )
    for wrong in (["item", "six", TAX_CLASS, "x"], ["request", "X-1"], ["request", INVOICE]):
        with pytest.raises(CommandError):
            said(*wrong)


def test_what_was_asked_never_changes(operator: Operator, provider: FileProvider) -> None:
    issue(operator, provider, ask(operator), BLUE)

    for statement in (
        "UPDATE billing_fapiaorequest SET buyer_name = 'x'",
        f"UPDATE billing_fapiaorequest SET number = '{RED}'",
        "DELETE FROM billing_fapiaorequest",
    ):
        with (
            pytest.raises(Error, match=r"never changes|is kept"),
            transaction.atomic(),
            connection.cursor() as cursor,
        ):
            cursor.execute(statement)


AMOUNTS = st.decimals("-99999.99", "99999.99", places=2)
LINES = st.lists(
    st.tuples(AMOUNTS, AMOUNTS, st.none() | st.integers(1, 10**18), st.sampled_from(["0.06", "0"])),
    max_size=8,
)


@given(LINES)
def test_totals_are_the_sums_of_lines_and_prices_follow(
    said: list[tuple[Decimal, Decimal, int | None, str]],
) -> None:
    charged = [
        fapiao_lines.Charged(nr, "x", units, net, Decimal(rate), tax)
        for nr, (net, tax, units, rate) in enumerate(said)
    ]
    item = fapiao_lines.Item(TAX_CLASS, "x")
    rows = fapiao_lines.lines(charged, {Decimal("0.06"): item, Decimal(0): item})
    totals = fapiao_lines.totals(rows)

    assert totals.gross == sum(one.net + one.tax for one in charged)
    assert totals.capitals == capitals(totals.gross)
    for row in rows:
        quantity, price, amount = (Decimal(row[name]) for name in ("quantity", "price", "amount"))
        assert len(row["quantity"].partition(".")[2]) <= 13
        assert price >= 0
        # A quantity of a billion millions at a rounded price is still the amount, to the fen.
        assert abs((quantity * price).quantize(Decimal("0.01"), ROUND_HALF_UP) - amount) <= max(
            Decimal("0.01"), abs(quantity) * fapiao_lines.PLACES
        )


# Void invoices -----------------------------------------------------------------------------------


def test_an_invoice_with_an_e_fapiao_is_void_only_when_that_is_taken_back(
    operator: Operator, provider: FileProvider
) -> None:
    api = client_for(make_key(operator, name="staff"))
    blue = ask(operator)
    said = assert_problem(
        post(api, f"invoices/{INVOICE}/void", {"reason": "x"}), 409, "fapiao_issued"
    )
    assert "wait until it is issued" in said["detail"]
    issue(operator, provider, blue, BLUE)
    said = assert_problem(
        post(api, f"invoices/{INVOICE}/void", {"reason": "x"}), 409, "fapiao_issued"
    )
    assert BLUE in said["detail"]
    assert "ask for a red one" in said["detail"]

    issue(operator, provider, red(operator), RED)

    answer = post(api, f"invoices/{INVOICE}/void", {"reason": "x"})
    assert (answer.status_code, answer.json()["state"]) == (200, "void")
    assert_books_agree()


def test_an_e_fapiao_that_was_refused_keeps_no_invoice_from_being_void(
    operator: Operator, provider: FileProvider
) -> None:
    ask(operator)
    sending.sweep(operator, provider, at=CLOSE)
    answer(provider, FIRST, {"refused": "no such buyer"})
    assert sending.sweep(operator, provider, at=CLOSE).refused == 1

    assert invoicing.void(operator, INVOICE, reason="x", at=CLOSE).state == "void"
