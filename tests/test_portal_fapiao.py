"""Asking for the e-fapiao of one's own invoice, and the invoices' pages about years and usage."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from django.test import Client
from hypothesis import given
from hypothesis import strategies as st
from rest_framework.test import APIClient

from billing import closing
from billing.fapiao import requests, tax_ids
from billing.fapiao.providers import Issued, Refused
from billing.models import FapiaoRequest, Invoice
from metering import rollups
from subscriptions import clock, lifecycle
from subscriptions.models import Operator, Subscriber
from tests.factories import NOW, local, set_clock
from tests.usage import Gateway, put, record
from tests.visiting import client_of, text_of

pytestmark = pytest.mark.django_db

COMPANY = "91350100M000100Y43"  # the standard's own example


@pytest.fixture(autouse=True)
def _this_portal(operator: Operator, settings: Any) -> None:
    settings.PORTAL_OPERATOR = operator.code


@pytest.fixture
def invoice(
    operator: Operator, subscriber: Subscriber, gateway: Gateway, api: APIClient
) -> Invoice:
    put(api, "letterhead", {"name": "Carrier", "tax_id": COMPANY})
    requests.set_item(operator, _rate(subscriber), tax_class="3" * 19, name="信息技术服务")
    gateway.charge(record("=r-1", input_tokens=7, output_tokens=0))
    rollups.fold_all(at=NOW)
    set_clock(operator, local(2026, 7, 3))
    closing.close_due(operator, at=clock.now(operator))
    return Invoice.objects.get(subscriber_id=subscriber.pk, state="open")


def _rate(subscriber: Subscriber) -> Any:
    from subscriptions.models import Plan

    return Plan.objects.get(operator=subscriber.operator).tax_rate


def ask(client: Client, invoice: Invoice, **said: str) -> Any:
    body = {"title": "company", "name": "Buyer", "tax_id": COMPANY, **said}
    return client.post(f"/invoices/{invoice.number}/fapiao/", body)


def test_a_company_asks_once_and_sees_what_becomes_of_it(
    subscriber: Subscriber, invoice: Invoice
) -> None:
    client = client_of(subscriber)

    answer = ask(client, invoice, tax_id="91350100 m000100y43")

    assert answer["Location"] == f"/invoices/{invoice.number}/"
    [asked] = FapiaoRequest.objects.all()
    assert (asked.kind, asked.buyer_name, asked.buyer_tax_id) == ("02", "Buyer", COMPANY)
    page = text_of(client, f"/invoices/{invoice.number}/")
    assert "Asked for" in page
    assert "Ask for an e-fapiao" not in page
    assert "asked for already" in ask(client, invoice).content.decode()

    requests.note_submitted(asked, at=NOW)
    requests.note_outcome(asked, Issued("4" * 20, NOW))
    assert "4" * 20 in text_of(client, f"/invoices/{invoice.number}/")


def test_what_was_refused_may_be_asked_again(subscriber: Subscriber, invoice: Invoice) -> None:
    client = client_of(subscriber)
    ask(client, invoice, title="person", name="Somebody", tax_id="anything")
    [asked] = FapiaoRequest.objects.all()
    assert (asked.buyer_is_person, asked.buyer_tax_id) == (True, "")
    requests.note_submitted(asked, at=NOW)
    requests.note_outcome(asked, Refused("<b>the title is unknown</b>"))

    page = text_of(client, f"/invoices/{invoice.number}/")
    answer = ask(client, invoice, title="special")

    assert "&lt;b&gt;the title is unknown" in page
    assert answer.status_code == 302
    assert FapiaoRequest.objects.filter(kind="01").count() == 1


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ({"tax_id": ""}, "needs one"),
        ({"tax_id": COMPANY[:-1] + "4"}, "no taxpayer id"),
        ({"tax_id": "x" * 41}, "at most 40"),
        ({"title": "special", "tax_id": "12345"}, "no taxpayer id"),
        ({"name": ""}, "required"),
        ({"title": "club"}, "not one of the available"),
    ],
)
def test_a_title_that_cannot_be_is_not_asked_for(
    subscriber: Subscriber, invoice: Invoice, said: dict[str, str], wrong: str
) -> None:
    answer = ask(client_of(subscriber), invoice, **said)

    assert wrong in answer.content.decode()
    assert not FapiaoRequest.objects.exists()


def test_a_carrier_that_is_not_ready_is_said_so(
    subscriber: Subscriber, invoice: Invoice, api: APIClient
) -> None:
    put(api, "letterhead", {"name": "Carrier"})

    assert "cannot issue" in ask(client_of(subscriber), invoice).content.decode()


# Taxpayer ids -------------------------------------------------------------------------------------


@given(st.integers(0, 17), st.sampled_from("0123456789ABCDEFGHJKLMNPQRTUWXY"))
def test_any_one_place_that_is_wrong_is_seen(place: int, letter: str) -> None:
    changed = COMPANY[:place] + letter + COMPANY[place + 1 :]

    assert tax_ids.is_tax_id(changed) == (changed == COMPANY)


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        (COMPANY, True),
        ("1" * 15, True),
        ("1" * 20, True),
        ("1" * 14, False),
        ("1" * 21, False),
        (COMPANY.lower(), False),
        (COMPANY[:-1] + "I", False),
        ("１" * 15, False),
        ("", False),
    ],
)
def test_older_ids_have_no_check_character(text: str, is_one: bool) -> None:
    assert tax_ids.is_tax_id(text) == is_one


# Years and usage ----------------------------------------------------------------------------------


def test_invoices_are_listed_by_year(
    operator: Operator, subscriber: Subscriber, invoice: Invoice
) -> None:
    client = client_of(subscriber)

    assert str(invoice.number) in text_of(client, "/invoices/?year=2026")
    for year in ("2025", "x", "9" * 30):
        assert str(invoice.number) in text_of(client, f"/invoices/?year={year}")
    later = local(2027, 1, 5)
    set_clock(operator, later)
    lifecycle.ensure_open([subscriber.pk], at=later, until=later)
    closing.close_due(operator, at=later)
    page = text_of(client, "/invoices/?year=2027")
    assert str(invoice.number) not in page
    assert 'href="?year=2026"' in page


def test_the_itemised_bill_is_free_as_csv(subscriber: Subscriber, invoice: Invoice) -> None:
    answer: Any = client_of(subscriber).get(f"/invoices/{invoice.number}/usage.csv")

    text = b"".join(answer.streaming_content).decode("utf-8-sig")
    [row] = csv.DictReader(io.StringIO(text))
    assert (row["id"], row["units"]) == ("'=r-1", "7.000")
