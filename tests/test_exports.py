"""Invoices and ledger as files: whole, safe to open, nobody else's, and streamed."""

from __future__ import annotations

import csv
import datetime as dt
import io
import tracemalloc
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from hypothesis import given
from hypothesis import strategies as st

from billing import invoicing
from billing.exports import cells, invoices, ledger
from billing.models import Invoice
from subscriptions import registry
from subscriptions.models import Operator, Subscriber
from tests.factories import (
    client_for,
    local,
    make_key,
    make_operator,
    make_plan,
    make_subscriber,
    subscribe,
)
from tests.usage import post

pytestmark = pytest.mark.django_db

START, CLOSE = local(2026, 6, 1), local(2026, 7, 3)


@pytest.fixture
def operator() -> Operator:
    return make_operator("ct", at=START)


def close(operator: Operator, to: dt.datetime = CLOSE) -> None:
    answer = post(client_for(make_key(operator)), "test-clock", {"now": to.isoformat()})
    assert answer.status_code == 200, answer.content


def exported(*command: str) -> list[dict[str, str]]:
    out = io.StringIO(newline="")
    call_command(*command, stdout=out)
    assert out.getvalue().endswith("\r\n")
    return list(csv.DictReader(io.StringIO(out.getvalue(), newline="")))


def test_an_export_holds_every_issued_invoice_by_number(operator: Operator) -> None:
    plan = make_plan(operator)
    for name in ("s-1", "s-2"):
        subscribe(make_subscriber(operator, name), plan)
    close(operator)
    invoicing.credit(operator, "CT-2026-00000001", reason="a gift", at=CLOSE, amount=Decimal(4))
    invoicing.void(operator, "CT-2026-00000002", reason="a mistake", at=CLOSE)

    rows = exported("export_invoices")

    assert rows[0] == {
        "number": "CT-2026-00000001",
        "kind": "period",
        "credits": "",
        "state": "open",
        "subscriber": "s-1",
        "name": "s-1",
        "plan": "light",
        "period_from": "2026-06-01",
        "period_until": "2026-07-01",
        "issued_at": "2026-07-03T00:00:00+08:00",
        "due_at": "2026-07-18T00:00:00+08:00",
        "currency": "CNY",
        "net": "9.34",
        "tax": "0.56",
        "gross": "9.90",
        "paid": "4.00",
        "due": "5.90",
        "reason": "",
    }
    assert [(r["number"], r["kind"], r["credits"], r["gross"], r["due"]) for r in rows[1:]] == [
        ("CT-2026-00000002", "period", "", "9.90", "0.00"),
        ("CT-2026-00000003", "credit_note", "CT-2026-00000001", "-4.00", "0.00"),
    ]
    lines = exported("export_invoices", "--lines")
    assert [(r["number"], r["line"], r["kind"], r["tax_rate"], r["gross"]) for r in lines] == [
        ("CT-2026-00000001", "1", "fee", "0.0600", "9.90"),
        ("CT-2026-00000002", "1", "fee", "0.0600", "9.90"),
        ("CT-2026-00000003", "1", "fee", "0.0600", "-4.00"),
    ]


def test_days_and_months_bound_an_export_by_the_operators_midnight(operator: Operator) -> None:
    subscribe(make_subscriber(operator), make_plan(operator))
    close(operator, local(2026, 9, 3))

    def numbers(*span: str) -> list[str]:
        return [row["issued_at"][:10] for row in exported("export_invoices", *span)]

    # All were issued when the clock came to 3 September at midnight.
    assert numbers("--from", "2026-09-03", "--until", "2026-09-04") == ["2026-09-03"] * 3
    assert numbers("--until", "2026-09-03") == numbers("--from", "2026-10") == []
    for wrong in ("2026-13", "yesterday", "2026-02-30", "9999-12-31"):
        with pytest.raises(CommandError, match="--from is a day or month"):
            exported("export_ledger", "--from", wrong)
    with pytest.raises(CommandError, match="before"):
        exported("export_ledger", "--from", "2026-07", "--until", "2026-07")


def test_the_ledgers_export_adds_up_as_the_trial_balance_does(operator: Operator) -> None:
    subscribe(make_subscriber(operator), make_plan(operator))
    close(operator)

    rows = exported("export_ledger")

    assert [(r["account"], r["subscriber"], r["debit"], r["credit"]) for r in rows] == [
        ("receivable", "s-1", "9.90", ""),
        ("revenue:light:0.06", "", "", "9.34"),
        ("vat:0.06", "", "", "0.56"),
    ]
    assert {(r["kind"], r["at"], r["currency"]) for r in rows} == {
        ("invoice", "2026-07-03T00:00:00+08:00", "CNY")
    }


def test_no_export_holds_a_row_of_another_operator(operator: Operator) -> None:
    other = make_operator("other", at=START)
    for one in (operator, other):
        subscribe(make_subscriber(one, f"{one.code}-secret"), make_plan(one))
        close(one)

    for command in (["export_invoices"], ["export_invoices", "--lines"], ["export_ledger"]):
        out = io.StringIO()
        call_command(*command, "--operator", "ct", stdout=out)
        assert "other" not in out.getvalue().lower()
        assert "ct" in out.getvalue().lower()
        with pytest.raises(CommandError, match="--operator"):
            call_command(*command, stdout=out)


def test_a_cell_that_a_spreadsheet_would_run_is_text(operator: Operator) -> None:
    name = '=HYPERLINK("http://x","张\n三")'
    draft = registry.Draft(external_id="@s-1", name=name, subjects=("u",))
    [outcome] = registry.upsert(operator, [draft], at=START)
    assert outcome.error is None
    subscribe(Subscriber.objects.get(), make_plan(operator))
    close(operator)

    [row] = exported("export_invoices")

    assert (row["subscriber"], row["name"]) == ("'@s-1", f"'{name}")


@given(st.text(max_size=20))
def test_every_text_comes_back_from_its_cell(text: str) -> None:
    cell = cells.text(text)

    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert cells.original(cell) == text


def test_a_file_is_there_whole_or_not_at_all(operator: Operator, tmp_path: Path) -> None:
    path = tmp_path / "invoices.csv"
    path.write_text("the former one")

    def cut() -> Any:
        yield b"number\r\n"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        cells.save(cut(), path)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["the former one"]

    call_command("export_invoices", str(path))
    assert path.read_bytes().startswith(b"number,kind,")
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(CommandError, match="No such file"):
        call_command("export_invoices", str(tmp_path / "none" / "invoices.csv"))


def many_invoices(operator: Operator, many: int) -> None:
    """As many subscribers with an issued invoice of 9.90 and its posting each."""
    subscribe(make_subscriber(operator, "s-0"), make_plan(operator))
    close(operator)
    template = Invoice.objects.get()
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO subscriptions_subscriber
                (operator_id, external_id, name, kind, msisdn, email, created_at)
            SELECT operator_id, 's-' || n, name, kind, '', '', created_at
            FROM subscriptions_subscriber, generate_series(1, %s) n
            """,
            [many - 1],
        )
        cursor.execute(
            """
            INSERT INTO billing_invoice (subscriber_id, id, operator_id, kind, subscription_id,
                plan_id, period_start, period_end, state, currency, net, tax, gross, paid, reason)
            SELECT s.id, nextval('billing_invoice_id'), i.operator_id, i.kind, i.subscription_id,
                i.plan_id, i.period_start, i.period_end, 'draft', 'CNY', i.net, i.tax, i.gross, 0,
                ''
            FROM billing_invoice i, subscriptions_subscriber s WHERE s.id <> i.subscriber_id
            """
        )
        cursor.execute(
            """
            INSERT INTO billing_invoiceline (subscriber_id, invoice_id, nr, kind, description, net,
                tax_rate, tax, gross, basis)
            SELECT i.subscriber_id, i.id, 1, l.kind, l.description, l.net, l.tax_rate, l.tax,
                l.gross, l.basis
            FROM billing_invoice i, billing_invoiceline l WHERE i.state = 'draft'
            """
        )
        drafts = Invoice.objects.filter(state="draft").values_list("subscriber_id", "id")
        invoicing.issue(operator, list(drafts), at=CLOSE)
    assert template.gross == Decimal("9.90")


def test_the_memory_of_an_export_does_not_grow_with_it(operator: Operator) -> None:
    many_invoices(operator, 6_000)

    for export in (invoices.invoices, ledger.entries):
        tracemalloc.start()
        try:
            size = sum(len(chunk) for chunk in export(operator, since=None, until=None))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 5_000_000  # all of it at once takes three times that
        if export is invoices.invoices:
            assert size > 800_000
