"""Complaints: about a line of an invoice or anything else, answered by staff, and what stops
meanwhile."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import hypothesis.extra.django
import pytest
from django.db import IntegrityError, connection, transaction
from django.test import Client
from hypothesis import given, settings
from hypothesis import strategies as st
from rest_framework.test import APIClient

from billing import closing, complaints, dunning
from billing.models import Complaint, ComplaintMessage, DunningStop, Invoice
from subscriptions import clock
from subscriptions.errors import DomainError
from subscriptions.models import Notice, Operator, OutboxEvent, Subscriber
from subscriptions.notices import queue
from subscriptions.outbox import Event
from tests.factories import (
    local,
    make_operator,
    make_plan,
    make_subscriber,
    set_clock,
    subscribe,
)
from tests.usage import assert_books_agree, assert_problem, get, post, put
from tests.visiting import assert_cheap, client_of, text_of

pytestmark = pytest.mark.django_db

JULY = local(2026, 7, 3)
EVIL = "<script>alert(1)</script>"


@pytest.fixture(autouse=True)
def _this_portal(operator: Operator, settings: Any) -> None:
    settings.PORTAL_OPERATOR = operator.code


def an_invoice(operator: Operator, subscriber: Subscriber) -> Invoice:
    """That of June, with the fee on its first line, to be paid."""
    set_clock(operator, JULY)
    closing.close_due(operator, at=JULY)
    return Invoice.objects.get(subscriber_id=subscriber.pk, state="open")


@pytest.fixture
def invoice(operator: Operator, subscriber: Subscriber) -> Invoice:
    return an_invoice(operator, subscriber)


def dispute_of(client: Client, invoice: Invoice, **said: Any) -> Any:
    path = f"/invoices/{invoice.number}/lines/1/"
    return client.post(path, {"text": "I was away in June.", "once": "a", **said})


def stops(subscriber: Subscriber) -> int:
    return DunningStop.objects.filter(subscriber=subscriber, ends_at__isnull=True).count()


# The whole of it ----------------------------------------------------------------------------------


def test_a_line_is_disputed_answered_and_closed(
    operator: Operator, subscriber: Subscriber, invoice: Invoice, api: APIClient
) -> None:
    client = client_of(subscriber)
    page = text_of(client, f"/invoices/{invoice.number}/lines/1/")
    assert "within 15 days" in page
    assert "nobody reminds you" in page

    there = dispute_of(client, invoice)["Location"]

    assert "We answer by 18 Jul 2026." in text_of(client, there)
    assert "Waits for an answer" in text_of(client, f"/invoices/{invoice.number}/")
    assert stops(subscriber) == 1
    [told] = get(api, "complaints?state=open")["items"]
    assert (told["kind"], told["invoice"], told["line"]) == ("charge", invoice.number, 1)
    assert [(m["by"], m["text"]) for m in told["messages"]] == [
        ("subscriber", "I was away in June.")
    ]

    path = f"complaints/{told['number']}"
    answered = post(api, f"{path}/answer", {"text": "The fee is due all the same."})

    assert (answered.status_code, answered.json()["state"]) == (200, "answered")
    assert stops(subscriber) == 0
    assert "The fee is due all the same." in text_of(client, there)

    client.post(there, {"text": "Then I want to leave."})
    assert get(api, path)["state"] == "open"
    assert stops(subscriber) == 0  # once is enough
    assert_problem(post(api, f"{path}/close"), 422, "invalid")
    for _ in range(2):
        closed = post(api, f"{path}/close", {"text": "You may, at any time."})
        assert closed.json()["state"] == "closed"
    assert len(closed.json()["messages"]) == 4
    assert "Say more" not in text_of(client, there)
    assert_problem(post(api, f"{path}/answer", {"text": "And"}), 409, "complaint_closed")
    assert "is closed" in client.post(there, {"text": "But"}, follow=True).content.decode()
    assert_books_agree()


def test_the_subscriber_is_told_of_an_answer_and_nobody_of_what_it_says(
    operator: Operator, subscriber: Subscriber, api: APIClient
) -> None:
    put(api, "subscribers/s-1", {"name": "one", "email": "one@example.com"})
    body = {"kind": "service", "text": "SECRET", "channel": "hotline"}
    made = post(api, "subscribers/s-1/complaints", body)
    assert made.status_code == 201, made.content
    post(api, f"complaints/{made.json()['number']}/answer", {"text": "SECRET too"})

    events = OutboxEvent.objects.filter(subscriber_id=subscriber.pk, kind__startswith="complaint")
    assert sorted(event.kind for event in events) == ["complaint.answered", "complaint.opened"]
    assert "SECRET" not in str([event.payload for event in events])
    queue.fan_out(
        [
            Event(
                e.subscriber_id, e.kind, e.key, e.occurred_at, e.payload, operator.pk, "s-1", JULY
            )
            for e in events
        ]
    )
    assert [(n.kind, n.channel) for n in Notice.objects.all()] == [("complaint.answered", "email")]


def test_what_is_sent_twice_is_one_complaint_and_a_line_is_disputed_once(
    operator: Operator, subscriber: Subscriber, invoice: Invoice, api: APIClient
) -> None:
    client = client_of(subscriber)

    answers = [dispute_of(client, invoice) for _ in range(2)]
    again = dispute_of(client, invoice, once="b")

    assert {answer["Location"] for answer in answers} == {
        f"/help/complaints/{Complaint.objects.get().number}/"
    }
    assert "disputed this line before" in again.content.decode()
    body = {"kind": "charge", "text": "x", "channel": "app", "invoice": invoice.number, "line": 1}
    assert_problem(post(api, "subscribers/s-1/complaints", body), 409, "line_disputed")


def test_dunning_goes_on_when_the_last_of_several_is_answered(
    operator: Operator, subscriber: Subscriber, invoice: Invoice, api: APIClient
) -> None:
    path = "subscribers/s-1/complaints"
    about = {"kind": "charge", "text": "x", "channel": "app", "invoice": invoice.number}
    first = post(api, path, about | {"line": 1}).json()
    assert first["stops_dunning"]
    assert (
        post(api, path, {"kind": "usage", "text": "x", "channel": "app"}).json()["stops_dunning"]
        is False
    )

    put(api, "letterhead", {"name": "x"})
    post(api, f"complaints/{first['number']}/answer", {"text": "No."})

    assert stops(subscriber) == 0


def test_a_stop_that_staff_made_is_not_a_complaints_to_end(
    operator: Operator, subscriber: Subscriber, invoice: Invoice, api: APIClient
) -> None:
    dunning.stop(operator, reason="a friend", at=JULY, subscriber_id=subscriber.pk)
    about = {"kind": "charge", "text": "x", "channel": "app", "invoice": invoice.number, "line": 1}
    made = post(api, "subscribers/s-1/complaints", about).json()

    post(api, f"complaints/{made['number']}/answer", {"text": "No."})

    assert made["stops_dunning"] is True
    assert stops(subscriber) == 1


class AnyOrder(hypothesis.extra.django.TestCase):
    @settings(max_examples=10)
    @given(steps=st.lists(st.sampled_from(["add", "answer", "close", "last word"]), max_size=6))
    def test_dunning_is_stopped_just_while_an_open_complaint_stops_it(
        self, steps: Sequence[str]
    ) -> None:
        operator = make_operator("tried")
        subscriber = make_subscriber(operator)
        subscribe(subscriber, make_plan(operator))
        invoice = an_invoice(operator, subscriber)
        at = clock.now(operator)
        about: dict[str, Any] = {"invoice": invoice.number, "line": 1}
        made = complaints.lodge(
            operator,
            subscriber.pk,
            kind="charge",
            text="x",
            key="k",
            channel="app",
            at=at,
            **about,
        )

        for step in steps:
            at += dt.timedelta(hours=1)
            try:
                match step:
                    case "add":
                        complaints.add(operator, made.number, "x", channel="app", at=at)
                    case "answer":
                        complaints.answer(operator, made.number, "x", by="staff", at=at)
                    case "close":
                        complaints.close(operator, made.number, by="staff", at=at)
                    case _:
                        complaints.close(operator, made.number, by="staff", at=at, text="x")
            except DomainError:
                pass
            now = Complaint.objects.get()
            assert stops(subscriber) == now.stops_dunning
            assert now.messages == ComplaintMessage.objects.count()
        assert_books_agree()


# What stands against it ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ({"kind": "x"}, 422),
        ({"text": ""}, 422),
        ({"text": " "}, 422),
        ({"text": "x" * 4001}, 422),
        ({"kind": "charge"}, 422),
        ({"invoice": "OP-2026-1", "line": 1}, 422),
        ({"kind": "charge", "invoice": "OP-2026-1", "line": 1}, 404),
        ({"kind": "charge", "invoice": "\u0000", "line": 1}, 422),
        ({"channel": "<b>"}, 422),
    ],
)
def test_what_is_no_complaint_is_refused(
    api: APIClient, subscriber: Subscriber, said: dict[str, Any], status: int
) -> None:
    body = {"kind": "other", "text": "x", "channel": "app", **said}

    assert post(api, "subscribers/s-1/complaints", body).status_code == status
    assert not Complaint.objects.exists()


def test_a_policy_says_within_how_many_days(
    operator: Operator, subscriber: Subscriber, api: APIClient
) -> None:
    assert put(api, "complaint-policy", {"reply_days": 3}).json() == {"reply_days": 3}
    assert put(api, "complaint-policy", {"reply_days": 0}).status_code == 422
    client = client_of(subscriber)

    assert "within 3 days" in text_of(client, "/help/")
    there = client.post("/help/complaints/", {"kind": "usage", "text": "Too much."})["Location"]
    assert "We answer by 13 Jun 2026." in text_of(client, there)


def test_what_was_said_stays(operator: Operator, subscriber: Subscriber, api: APIClient) -> None:
    post(api, "subscribers/s-1/complaints", {"kind": "other", "text": "x", "channel": "app"})

    for sql in (
        "UPDATE billing_complaintmessage SET text = 'y'",
        "DELETE FROM billing_complaintmessage",
        "DELETE FROM billing_complaint",
    ):
        with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(sql)


# Pages --------------------------------------------------------------------------------------------


def test_another_subscribers_complaint_and_lines_are_not_there(
    operator: Operator, subscriber: Subscriber, invoice: Invoice
) -> None:
    there = dispute_of(client_of(subscriber), invoice)["Location"]
    stranger = client_of(make_subscriber(operator, "s-2"))

    for path in (
        *(there, f"/invoices/{invoice.number}/lines/1/", f"/invoices/{invoice.number}/fapiao/"),
        f"/invoices/{invoice.number}/usage.csv",
    ):
        assert stranger.get(path).status_code == 404, path
        assert stranger.post(path, {"text": "x"}).status_code in (404, 405), path
    own = client_of(subscriber)
    for path in ("/help/complaints/X/", "/help/complaints/%00/"):
        assert own.get(path).status_code == 404
    for line in (0, 2, 10**30):
        assert own.get(f"/invoices/{invoice.number}/lines/{line}/").status_code == 404
    assert there not in text_of(stranger, "/help/complaints/")


def test_what_is_written_is_text(
    operator: Operator, subscriber: Subscriber, api: APIClient
) -> None:
    client = client_of(subscriber)
    there = client.post("/help/complaints/", {"kind": "other", "text": EVIL})["Location"]
    post(api, f"complaints/{Complaint.objects.get().number}/answer", {"text": EVIL})

    page = text_of(client, there)

    assert EVIL not in page
    assert page.count("&lt;script&gt;alert") == 2


def test_the_rules_are_those_that_hold(operator: Operator, client: Client) -> None:
    assert "There is no late fee." in text_of(client, "/help/", **{"accept-language": "en"})
    dunning.set_policy(operator, at=clock.now(operator), late_fee_grace_days=5)

    page = text_of(client, "/help/", **{"accept-language": "en"})

    assert "a late fee of 3‰ a day" in page
    assert "The first 5 days are free." in page
    assert "unpaid 30 days after its due date" in page
    assert "up to 48 hours late" in page
    assert "催缴" not in page
    assert "什么是词元" in text_of(client, "/help/", **{"accept-language": "zh"})


def test_pages_of_help_ask_the_database_at_most_twelve_times(
    operator: Operator, subscriber: Subscriber, invoice: Invoice
) -> None:
    client = client_of(subscriber)
    there = dispute_of(client, invoice)["Location"]

    for path in (
        *("/help/", "/help/complaints/", there, "/invoices/", f"/invoices/{invoice.number}/"),
        *(f"/invoices/{invoice.number}/lines/1/", f"/invoices/{invoice.number}/fapiao/"),
    ):
        assert_cheap(client, path)
