"""The demo, small: everything it does, on a live server in the place of its own platform."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django.test import Client
from rich.console import Console

from billing.models import Invoice
from config import demo
from config.demo_stages import DemoError, Generated, Stage, Traced
from metering.models import UsageRecord
from subscriptions import clock, seeding
from subscriptions.models import Bucket, Operator, Subscriber
from tests.factories import local
from tests.usage import assert_books_agree

pytestmark = pytest.mark.django_db(transaction=True)

JULY = local(2026, 7, 1)


def shown(stage: Stage) -> tuple[bool, str]:
    """Whether it adds up, and the page it prints."""
    page = io.StringIO()
    with stage:
        good = demo.show(Console(file=page, width=200), stage)
    return good, page.getvalue()


def write_trace(path: Path, tokens: Sequence[int]) -> Path:
    """Three subjects' records from half an hour before July to half an hour after."""
    start, step = JULY - timedelta(minutes=30), timedelta(hours=1) / len(tokens)
    rows = [
        f"e-{nr},user-{nr % 3},deepseek/deepseek-v3.2,{(start + nr * step).isoformat()},{many},1,0"
        for nr, many in enumerate(tokens)
    ]
    header = "event_id,subject,model,timestamp,input_tokens,output_tokens,cached_input_tokens"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_generated_usage_adds_up_and_so_it_does_again(live_server):
    seeding.seed(at=clock.wall())

    for _ in range(2):
        good, page = shown(Generated(live_server.url, records=3000, subscribers=40))

        assert good, page
        assert "3,000 of 3,000 records taken, 0 rejected" in page
        assert "The same for each of 40 subjects" in page
        assert "All adds up." in page
    assert UsageRecord.objects.count() == 6000


@pytest.mark.parametrize("day", [20, 31], ids=["within a month", "in the first hour of one"])
def test_whoever_signs_in_finds_two_months_of_a_life(live_server, settings, monkeypatch, day):
    moment = datetime(2026, 8, day, 16, 30, tzinfo=UTC)
    monkeypatch.setattr(clock, "wall", lambda: moment)
    seeding.seed(at=moment)
    settings.PORTAL_OPERATOR = seeding.SELLS_PLANS
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    page = io.StringIO()

    visitor = demo.visit(Console(file=page, width=200), live_server.url)

    client = Client(headers={"accept-language": "en"})
    client.post("/accounts/login/", {"login": visitor.email, "password": visitor.password})
    for path in ("/", "/usage/", "/usage/requests/", "/invoices/", "/orders/", "/wallet/"):
        assert client.get(path).status_code == 200, path
    subscriber = Subscriber.objects.get(external_id=visitor.external_id)
    invoices = Invoice.objects.filter(subscriber_id=subscriber.pk)
    assert sorted(invoices.values_list("state", flat=True)) == ["open", "paid"]
    kinds = Bucket.objects.filter(subscriber_id=subscriber.pk).values_list("kind", flat=True)
    assert {"allowance", "booster", "gift", "rollover"} <= set(kinds)
    assert "% is used." in client.get("/").content.decode()
    assert_books_agree()


def test_a_trace_is_replayed_in_its_own_time_over_the_end_of_a_month(tmp_path, live_server):
    path = write_trace(tmp_path / "small.csv", [100] * 60)

    good, page = shown(Traced(live_server.url, path))

    assert good, page
    operator = Operator.objects.get(code__startswith="trace-small-")
    assert operator.clock_at == JULY + timedelta(minutes=29)
    used = Bucket.objects.filter(kind=Bucket.Kind.ALLOWANCE, used__gt=0)
    assert {bucket.valid_until == JULY for bucket in used} == {True, False}


def test_what_differs_from_the_control_totals_is_named(tmp_path, live_server):
    path = write_trace(tmp_path / "small.csv", [100] * 6)
    totals = {"rows": 6, "sum_input": 601, "sum_output": 6, "sum_cached": 0}
    (tmp_path / "small.totals.json").write_text(json.dumps(totals))
    (tmp_path / "small.subject_totals.csv").write_text(
        "subject,requests,input_tokens,output_tokens\n"
        "user-0,2,200,2\nuser-1,2,201,2\nuser-2,2,200,2\n"
    )

    good, page = shown(Traced(live_server.url, path))

    assert not good
    assert "expected 6 records, 601 input" in page
    assert "1 of 3 subjects differ" in page
    assert "user-1: found 2 records, 200 input" in page
    assert "It does not add up." in page


def test_a_trace_without_times_cannot_be_shown(tmp_path, live_server):
    path = tmp_path / "small.ndjson"
    path.write_text('{"id": "e-1", "subject": "user-1"}\n')

    with pytest.raises(DemoError, match="no time that can be read"):
        Traced(live_server.url, path)
