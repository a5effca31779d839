"""All that is kept about a user, as a file for nobody else; and leaving with a receipt."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from typing import Any

import pytest
from django.core.cache import cache
from django.test import Client
from rest_framework.test import APIClient

from billing import closing, leaving, transfers
from billing.models import Invoice, PersonalDataExport, PersonalDataPart
from billing.personal_data import keeping, writing
from metering import rollups
from subscriptions import clock, lifecycle
from subscriptions.models import Operator, Subscriber
from tests.factories import NOW, local, make_operator, make_subscriber, set_clock, yuan
from tests.usage import DAY, Gateway, post, record
from tests.visiting import assert_cheap, client_of, text_of, user_of

pytestmark = pytest.mark.django_db

PAGE = "/accounts/data/"


@pytest.fixture(autouse=True)
def _this_portal(operator: Operator, settings: Any) -> None:
    settings.PORTAL_OPERATOR = operator.code
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    cache.clear()


def files_of(answer: Any) -> dict[str, str]:
    assert answer.status_code == 200
    archive = zipfile.ZipFile(io.BytesIO(b"".join(answer.streaming_content)))
    return {name: archive.read(name).decode("utf-8-sig") for name in archive.namelist()}


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


# The file -----------------------------------------------------------------------------------------


def test_a_file_holds_all_that_is_kept(
    operator: Operator, subscriber: Subscriber, gateway: Gateway, api: APIClient
) -> None:
    gateway.charge(
        record("=cmd()", input_tokens=1000, output_tokens=0),
        record("r-2", input_tokens=7, output_tokens=0),
        record("r-3", input_tokens=9, output_tokens=0),
    )
    post(api, "subscribers/s-1/usage-records/r-2/void", {"reason": "a test"})
    body = {"reason": "a test", "input_tokens": 5}
    post(api, "subscribers/s-1/usage-records/r-3/correct", body)
    consent = {"kind": "auto_renew", "text": "我同意", "text_version": "1", "language": "zh-CN"}
    post(api, "subscribers/s-1/consents", consent | {"channel": "app"})
    post(api, "subscribers/s-1/complaints", {"kind": "other", "text": "Too dear", "channel": "app"})
    rollups.fold_all(at=NOW)
    set_clock(operator, local(2026, 7, 3))
    closing.close_due(operator, at=clock.now(operator))
    client = client_of(subscriber)
    client.get("/")

    assert "Make the file" in text_of(client, PAGE)
    for _ in range(2):
        assert client.post(PAGE)["Location"] == PAGE
    assert "being made" in text_of(client, PAGE)
    for export_id, _ in keeping.waiting():
        keeping.make(export_id, at=clock.now(operator))

    export = PersonalDataExport.objects.get()
    assert f"{PAGE}{export.pk}.zip" in text_of(client, PAGE)
    files = files_of(client.get(f"{PAGE}{export.pk}.zip"))
    assert json.loads(files["profile.json"])["user"]["email"] == f"{subscriber.pk}@example.com"
    assert json.loads(files["subscriptions.json"])[0]["plan"] == "light"
    assert json.loads(files["consents.json"])[0]["text"] == "我同意"
    assert json.loads(files["complaints.json"])[0]["messages"][0]["text"] == "Too dear"
    assert {(r["id"], r["void"], r["units"]) for r in table(files["usage_records.csv"])} == {
        ("'=cmd()", "0", "1000.000"),
        ("r-2", "1", "0.000"),
        ("r-3", "0", "5.000"),
    }
    [day] = table(files["usage_days.csv"])
    assert (day["day"], day["requests"], day["units"]) == ("2026-06-10", "2", "1005.000")
    number = Invoice.objects.get(subscriber_id=subscriber.pk, state="open").number
    assert [row["number"] for row in table(files["invoices.csv"])] == [number]
    assert [row["gross"] for row in table(files["invoice_lines.csv"])] == ["9.90"]
    assert len(table(files["buckets.csv"])) >= 1
    assert set(files) == {
        *("README.txt", "profile.json", "subscriptions.json", "consents.json", "complaints.json"),
        *writing._TABLES,
    }


def made_for(subscriber: Subscriber) -> PersonalDataExport:
    at = clock.now(subscriber.operator)
    ordered = keeping.order(user_of(subscriber), subscriber.operator, subscriber, at=at)
    keeping.make(ordered.pk, at=at)
    ordered.refresh_from_db()
    assert ordered.state == "made"
    return ordered


def test_a_file_is_its_owners_alone_and_expires(
    operator: Operator, subscriber: Subscriber, settings: Any
) -> None:
    export = made_for(subscriber)
    path = f"{PAGE}{export.pk}.zip"
    settings.PORTAL_HOSTS = {"other.test": make_operator("other").code}
    settings.ALLOWED_HOSTS = ["*"]

    assert client_of(make_subscriber(operator, "s-2")).get(path).status_code == 404
    assert client_of(subscriber).get(path, headers={"host": "other.test"}).status_code == 404
    assert "login" in Client().get(path)["Location"]
    assert client_of(subscriber).get(f"{PAGE}{10**17}.zip").status_code == 404
    assert client_of(subscriber).get(path).status_code == 200

    set_clock(operator, NOW + 7 * DAY)
    assert client_of(subscriber).get(path).status_code == 404
    assert keeping.forget(operator, at=NOW + 7 * DAY) == 1
    assert keeping.forget(operator, at=NOW + 7 * DAY) == 0
    assert not PersonalDataPart.objects.exists()
    assert "Make the file" in text_of(client_of(subscriber), PAGE)


def test_a_file_that_fails_three_times_is_given_up_and_may_be_asked_for_anew(
    operator: Operator, subscriber: Subscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordered = keeping.order(user_of(subscriber), operator, subscriber, at=NOW)
    with monkeypatch.context() as broken:
        broken.setitem(writing._TABLES, "buckets.csv", (("x",), "SELECT 1 / 0"))
        for _ in range(4):
            keeping.make(ordered.pk, at=NOW)

    ordered.refresh_from_db()
    assert (ordered.state, ordered.attempts) == ("failed", 3)
    assert "did not work" in text_of(client_of(subscriber), PAGE)
    assert made_for(subscriber).pk != ordered.pk


def test_the_page_asks_the_database_at_most_twelve_times(subscriber: Subscriber) -> None:
    made_for(subscriber)

    assert_cheap(client_of(subscriber), PAGE)


# Leaving ------------------------------------------------------------------------------------------


def leaver(subscriber: Subscriber) -> Client:
    """One who has just shown who they are."""
    user = user_of(subscriber)
    user.set_password("correct horse")
    user.save()
    client = client_of(subscriber)
    client.post("/accounts/reauthenticate/", {"password": "correct horse"})
    return client


def test_what_is_lost_is_said_and_the_answer_is_a_receipt(
    operator: Operator, gateway: Gateway
) -> None:
    subscriber = make_subscriber(operator)
    lifecycle.give(subscriber.pk, units=5_000_000, valid_until=NOW + DAY, reason="x", at=NOW)
    made_for(subscriber)
    client = leaver(subscriber)
    assert "5,000 tokens at" in text_of(client, "/accounts/close/")

    unsure = client.post("/accounts/close/")
    receipt = client.post("/accounts/close/", {"sure": "1"}).content.decode()

    assert "Tick the box first." in unsure.content.decode()
    user = user_of(subscriber)
    assert str(user.key) in receipt
    assert "5,000 tokens were given up." in receipt
    assert "s-1" in receipt
    assert not user.is_active
    assert not PersonalDataPart.objects.exists()
    assert "login" in client.get("/")["Location"]


def test_who_owes_or_holds_money_or_a_plan_cannot_leave_yet(
    operator: Operator, subscriber: Subscriber
) -> None:
    client = leaver(subscriber)
    page = text_of(client, "/accounts/close/")
    assert "Your plan still runs." in page
    set_clock(operator, local(2026, 7, 3))
    closing.close_due(operator, at=clock.now(operator))
    fill = transfers.tell(
        operator, transfers.Told("t-1", yuan("3").amount, "CNY", clock.now(operator)), at=NOW
    )
    transfers.match(operator, fill.pk, transfers.Pays(wallet=subscriber.pk), at=clock.now(operator))

    page = text_of(client, "/accounts/close/")
    client.post("/accounts/close/", {"sure": "1"})

    assert "¥9.90 is to be paid to" in page
    assert "¥3.00 of your own is in your wallet" in page
    assert user_of(subscriber).is_active
    with pytest.raises(leaving.OwesMoney):
        leaving.close(user_of(subscriber), at=NOW, now=clock.now)


def test_leaving_is_asked_of_who_it_is(subscriber: Subscriber) -> None:
    leaver(subscriber)

    answer = client_of(subscriber).get("/accounts/close/")

    assert answer["Location"] == "/accounts/reauthenticate/?next=%2Faccounts%2Fclose%2F"
