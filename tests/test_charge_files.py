"""The file for the carrier's billing: each invoice once, and the same file again on demand."""

from __future__ import annotations

import csv
import datetime as dt
import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import Error, connection, transaction
from hypothesis import given, settings
from hypothesis import strategies as st

from billing import invoicing
from billing.exports import cells, charge_files, reading
from billing.models import ChargeFile, ChargeLine, Invoice
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
from tests.usage import assert_books_agree, post

pytestmark = pytest.mark.django_db

START, CLOSE = local(2026, 6, 1), local(2026, 7, 3)
AUGUST = local(2026, 8, 3)
FIRST, SECOND = "CT-2026-00000001", "CT-2026-00000002"


@pytest.fixture
def operator() -> Operator:
    """With an invoice of 9.90 of each of two subscribers."""
    return with_two_invoices("ct")


def with_two_invoices(code: str) -> Operator:
    operator = make_operator(code, at=START)
    plan = make_plan(operator)
    for name in ("s-1", "s-2"):
        subscribe(make_subscriber(operator, name), plan)
    move(operator, CLOSE)
    return operator


def move(operator: Operator, to: dt.datetime) -> None:
    answer = post(client_for(make_key(operator)), "test-clock", {"now": to.isoformat()})
    assert answer.status_code == 200, answer.content


def make(operator: Operator, at: dt.datetime = CLOSE) -> ChargeFile:
    file = charge_files.make(operator, at=at)
    assert file is not None
    return file


def content(file: ChargeFile) -> bytes:
    return b"".join(charge_files.content(file))


def rows(file: ChargeFile) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content(file).decode(), newline="")))


def said(file: ChargeFile) -> list[tuple[str, str, str]]:
    """(kind, number, amount) of each line."""
    return [(row[0], row[2], row[10]) for row in rows(file)[1:-1]]


def check(raw: bytes) -> reading.Checked:
    return reading.check(io.BytesIO(raw))


def test_a_file_asks_for_what_is_due_on_every_invoice(operator: Operator) -> None:
    draft = registry.Draft(external_id="s-1", name="s-1", msisdn="+8613800000001")
    [outcome] = registry.upsert(operator, [draft], at=CLOSE)
    assert outcome.error is None

    header, first, second, trailer = rows(make(operator))

    assert header == ["header", "1", "ct", "1", "CNY", "", "", "2026-07-03T00:00:00+08:00"] + (
        [""] * 3
    )
    days = ["2026-06-01", "2026-07-01", "2026-07-03", "2026-07-18"]
    assert first == ["charge", "1", FIRST, "", "8613800000001", "s-1", *days, "9.90"]
    assert second == ["charge", "2", SECOND, "", "", "s-2", *days, "9.90"]
    assert trailer[:5] == ["trailer", "2", "19.80", "0.00", "19.80"]
    assert_books_agree()


def test_an_invoice_goes_into_one_file_and_numbers_have_no_gap(operator: Operator) -> None:
    first = make(operator)
    assert charge_files.make(operator, at=CLOSE) is None  # and uses no number up

    move(operator, AUGUST)
    second = make(operator, AUGUST)

    assert (first.sequence, second.sequence) == (1, 2)
    assert [number for _, number, _ in said(second)] == ["CT-2026-00000003", "CT-2026-00000004"]
    assert ChargeLine.objects.count() == 4
    assert_books_agree()


def test_a_file_made_again_is_the_same_to_the_byte(operator: Operator) -> None:
    file = make(operator)
    before = content(file)

    draft = registry.Draft(external_id="s-1", name="another", msisdn="139")
    registry.upsert(operator, [draft], at=CLOSE)
    invoicing.credit(operator, FIRST, reason="x", at=CLOSE, amount=Decimal(1))
    invoicing.void(operator, SECOND, reason="x", at=CLOSE)
    Operator.objects.filter(pk=operator.pk).update(code="renamed", time_zone="UTC")

    again = charge_files.find(Operator.objects.get(pk=operator.pk), 1)
    assert content(again) == before
    assert check(before).sha256 == again.sha256


def test_what_is_credited_before_is_not_asked_for_and_what_is_credited_later_goes_back(
    operator: Operator,
) -> None:
    invoicing.credit(operator, FIRST, reason="early", at=CLOSE, amount=Decimal("2.90"))
    first = make(operator)
    assert said(first) == [("charge", FIRST, "7.00"), ("charge", SECOND, "9.90")]

    invoicing.credit(operator, FIRST, reason="late", at=CLOSE, amount=Decimal("3.00"))
    second = make(operator)

    assert said(second) == [("credit", "CT-2026-00000004", "-3.00")]
    assert rows(second)[1][3] == FIRST
    assert (second.charges, second.credits, second.total) == (0, -3, -3)
    assert charge_files.make(operator, at=CLOSE) is None
    assert_books_agree()


def test_an_invoice_that_became_void_after_its_file_is_taken_back(operator: Operator) -> None:
    make(operator)
    invoicing.void(operator, FIRST, reason="a mistake", at=CLOSE)

    assert said(make(operator)) == [("reversal", FIRST, "-9.90")]
    assert charge_files.make(operator, at=CLOSE) is None
    assert_books_agree()


def test_what_is_void_or_paid_before_is_in_no_file(operator: Operator) -> None:
    invoicing.void(operator, FIRST, reason="a mistake", at=CLOSE)
    invoicing.credit(operator, SECOND, reason="all of it", at=CLOSE)

    assert charge_files.make(operator, at=CLOSE) is None


def test_a_span_takes_what_was_issued_in_it_and_leaves_the_rest_for_the_next(
    operator: Operator,
) -> None:
    move(operator, AUGUST)

    july = charge_files.make(operator, at=AUGUST, since=local(2026, 7, 1), until=local(2026, 8, 1))

    assert july is not None
    assert [number for _, number, _ in said(july)] == [FIRST, SECOND]
    assert len(said(make(operator, AUGUST))) == 2


def test_a_file_and_its_lines_never_change(operator: Operator) -> None:
    make(operator)

    for statement in (
        "UPDATE billing_chargeline SET amount = 1",
        "DELETE FROM billing_chargeline",
        "UPDATE billing_chargefile SET sha256 = ''",
        "DELETE FROM billing_chargefile",
    ):
        with (
            pytest.raises(Error, match="it stays"),
            transaction.atomic(),
            connection.cursor() as cursor,
        ):
            cursor.execute(statement)


def test_the_files_of_two_operators_keep_apart(operator: Operator) -> None:
    other = with_two_invoices("other")

    ours, theirs = make(operator), make(other)

    assert (ours.sequence, theirs.sequence) == (1, 1)
    assert {number[:2] for _, number, _ in said(ours)} == {"CT"}
    assert {number[:2] for _, number, _ in said(theirs)} == {"OT"}
    with pytest.raises(CommandError, match="there is no charge file 2 of other"):
        call_command("export_charges", "--operator", "other", "--again", "2")
    out = io.StringIO()
    call_command("export_charges", "--operator", "ct", "--list", stdout=out)
    assert ours.sha256 in out.getvalue()
    assert theirs.sha256 not in out.getvalue()


@pytest.mark.django_db(transaction=True)
def test_files_made_at_once_hold_each_invoice_once() -> None:
    operator = with_two_invoices("ct")

    def one(_: int) -> int:
        try:
            made = charge_files.make(operator, at=CLOSE)
            return made.count if made else 0
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as threads:
        counts = list(threads.map(one, range(4)))

    assert sorted(counts) == [0, 0, 0, 2]
    assert_books_agree()


# The receiver's side -------------------------------------------------------------------------


def taken_in(path: Path, taken: Path) -> str:
    out = io.StringIO()
    call_command("check_charge_file", str(path), "--taken", str(taken), stdout=out)
    return out.getvalue()


def test_a_receiver_recognises_a_resent_file_and_misses_none(
    operator: Operator, tmp_path: Path
) -> None:
    paths = [tmp_path / name for name in ("one.csv", "again.csv", "two.csv")]
    call_command("export_charges", str(paths[0]))
    call_command("export_charges", "--again", "1", str(paths[1]))
    move(operator, AUGUST)
    call_command("export_charges", str(paths[2]))
    taken = tmp_path / "taken"

    with pytest.raises(CommandError, match="number 1 is due, this is number 2"):
        taken_in(paths[2], taken)
    assert "file 1 of ct, 2 lines, 19.80 CNY" in taken_in(paths[0], taken)
    assert "Taken in before" in taken_in(paths[1], taken)
    assert "Taken in before" not in taken_in(paths[2], taken)
    other = paths[0].read_bytes().replace(b",s-2,", b",s-3,")
    body, trailer = other[: other.index(b"trailer")], other[other.index(b"trailer") :]
    fields = trailer.split(b",")
    fields[5] = hashlib.sha256(body).hexdigest().encode()
    paths[1].write_bytes(body + b",".join(fields))
    with pytest.raises(CommandError, match="another file was taken in as number 1"):
        taken_in(paths[1], taken)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (b"charge,2,", b"charge,3,", "line 3: says it is number 3, it is number 2"),
        (
            b",9.90\r\ntrailer",
            b",8.90\r\ntrailer",
            "19.80 for sum of charges, the lines make 18.80",
        ),
        (b",s-2,", b",s-3,", "something was changed"),
        (b"charge,1,", b"=charge,1,", "line 2: begins with '=charge'"),
        (b",9.90\r\ntrailer", b",9.9\r\ntrailer", "line 3: '9.9' is no amount"),
        (b",9.90\r\ntrailer", b",9.90,\r\ntrailer", "line 3: 12 fields, not 11"),
        (b"\r\n", b"\n", "line 1: does not end with CRLF"),
        (b"header,1,", b"header,9,", "line 1: format '9'"),
        (b"trailer,2,", b"trailer,3,", "trailer says 3 for lines, the lines make 2"),
        (b",s-2,", b',"s-2,', "a quote is never closed"),
        (b",s-2,", b",\xff,", "no line of UTF-8"),
    ],
)
def test_a_receiver_refuses_what_was_changed_on_the_way(
    operator: Operator, old: bytes, new: bytes, problem: str
) -> None:
    raw = content(make(operator))
    assert old in raw

    with pytest.raises(reading.Broken, match=problem.replace("(", r"\(")):
        check(raw.replace(old, new))


def test_a_receiver_refuses_a_file_that_was_cut_off_anywhere(operator: Operator) -> None:
    raw = content(make(operator))
    check(raw)

    for end in range(len(raw)):
        with pytest.raises(reading.Broken):
            check(raw[:end])
    with pytest.raises(reading.Broken, match="follows the trailer"):
        check(raw + raw)


AMOUNTS = st.lists(st.decimals("0.01", "9.90", places=2), max_size=4)


def test_whatever_is_credited_and_when_the_files_ask_for_what_is_due(operator: Operator) -> None:
    @settings(max_examples=20)
    @given(st.lists(AMOUNTS, min_size=1, max_size=3))
    def holds(credited: list[list[Decimal]]) -> None:
        with transaction.atomic():
            told, left = Decimal(0), Decimal("9.90")
            for amounts in credited:
                for amount in amounts:
                    if amount <= left:
                        invoicing.credit(operator, FIRST, reason="x", at=CLOSE, amount=amount)
                        left -= amount
                file = charge_files.make(operator, at=CLOSE)
                if file is not None:
                    assert check(content(file)).total == file.total
                    told += file.total
            assert charge_files.make(operator, at=CLOSE) is None
            assert told == sum(invoice.gross - invoice.paid for invoice in Invoice.objects.all())
            assert told == left + Decimal("9.90")
            transaction.set_rollback(True)

    holds()


def test_text_that_somebody_chose_comes_back_as_it_was(operator: Operator) -> None:
    name = "=1+1"
    subscribe(make_subscriber(operator, name), make_plan(operator))
    move(operator, AUGUST)
    move(operator, AUGUST + dt.timedelta(days=31))

    cell = next(row[5] for row in rows(make(operator)) if row[5].startswith("'"))

    assert cells.original(cell) == Subscriber.objects.get(external_id=name).external_id
