"""Every page of the console, as everybody: what a role may open, and whose rows it shows.

The pages are found from the site itself, so that a new one is tried without a word here.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from django.db.models import Field, Sum
from django.test import Client
from django.test.utils import CaptureQueriesContext

from billing import due, figures
from billing.console.price_forms import CardForm, PlanForm
from subscriptions import catalog, clock, jobs, lifecycle
from subscriptions.console import doors, lists, masks, words
from subscriptions.console import jobs as jobs_page
from subscriptions.console.deeds import Deed
from subscriptions.console.lists import List, Row
from subscriptions.console.pages import Page
from subscriptions.console.site import load, site
from subscriptions.models import ApiKey, AuditEntry, Operator, Role, Staff, StaffNetwork, Subscriber
from subscriptions.safety import keeping
from tests.console import at_work, hire
from tests.factories import (
    NOW,
    client_for,
    local,
    make_key,
    make_operator,
    make_plan,
    make_subscriber,
    set_clock,
    subscribe,
    yuan,
)
from tests.usage import Gateway, record

pytestmark = [pytest.mark.xdist_group("console"), pytest.mark.usefixtures("life")]

load()
PAGES = sorted(site.pages.values(), key=lambda page: page.name)
PLAIN = [page for page in PAGES if "<" not in page.address]
LISTS = [page for page in PAGES if issubclass(page, List)]
MOST_QUERIES = 12
DAY = dt.timedelta(days=1)
MILLION = 1_000_000_000
OVERAGE = {"price_per_million": "1.20", "cap": yuan("2.40")}


def live() -> None:
    """June of a carrier with five subscribers: usage, boosters, gifts, bills and orders."""
    operator = make_operator("north")
    plan = make_plan(operator, "meter", allowance=MILLION, on_exhaustion="meter", **OVERAGE)
    catalog.publish_booster(
        operator, "small", name="Small", price=yuan("1"), units=MILLION, valid_days=60, at=NOW
    )
    gateway = Gateway(operator)
    for nr in range(5):
        subscriber = make_subscriber(operator, f"hidden-{nr}")
        subscribe(subscriber, plan)
        lifecycle.sell_booster(operator, subscriber.pk, "small", at=NOW)
        lifecycle.give(subscriber.pk, units=MILLION, valid_until=NOW + DAY, reason="sorry", at=NOW)
        lifecycle.suspend(subscriber.pk, at=NOW + DAY, reason="A test")
    gateway.charge(
        *(
            record(f"r-{turn}-{nr}", subject=f"user-hidden-{nr}", input_tokens=2000)
            for nr in range(5)
            for turn in range(4)
        )
    )
    gateway.charge(record("lost", subject="nobody"))
    api = client_for(make_key(operator))
    for nr in range(3):
        body = {"kind": "booster", "booster": "small", "id": f"o-{nr}"}
        api.post(f"/api/v1/subscribers/hidden-{nr}/orders", body, format="json")
    set_clock(operator, local(2026, 7, 4))
    due.run(operator, at=local(2026, 7, 4))


@pytest.fixture(scope="module")
def _life(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """The life above, committed: what comes in a test is rolled back."""
    with django_db_blocker.unblock():
        try:
            live()
            yield
        finally:
            call_command("flush", verbosity=0, interactive=False, reset_sequences=False)


@pytest.fixture
def life(_life: None, db: None, settings: Any) -> Operator:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    return Operator.objects.get(code="north")


def parameters(page: type[Page]) -> list[str]:
    return re.findall(r"<(?:\w+:)?(\w+)>", page.address)


def addresses(page: type[Page], values: list[str]) -> list[str]:
    """The page's address with each of these in the place of its parameters."""
    return ["/admin/" + re.sub(r"<[^>]+>", value, page.address) for value in values]


# Roles --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", list(Role))
def test_a_role_opens_its_pages_and_no_other(client: Client, life: Operator, role: Role) -> None:
    at_work(client, hire(life, role))

    for page in PAGES:
        granted = role in page.granted_to()
        # What is not there tells those who may not look nothing.
        [address] = addresses(page, ["999999999"])
        seen = client.get(address).status_code
        if not granted:
            assert seen == 403, (page.name, role)
            assert client.post(address).status_code == 403, (page.name, role)
        elif parameters(page):
            assert seen in (200, 302, 404, 405), page.name
        else:
            assert seen in (200, 302, 405), page.name


def test_an_auditor_changes_nothing(client: Client, life: Operator) -> None:
    for page in PAGES:
        assert not page.changes or Role.AUDITOR not in page.granted_to(), page.name


def test_every_page_says_what_it_is_for() -> None:
    for page in PAGES:
        assert page.title, page.name
        if issubclass(page, List):
            assert page.help, page.name


def test_every_field_says_what_to_put_there() -> None:
    forms = [(page.name, page.form_class) for page in PAGES if issubclass(page, Deed)]
    forms += [("plan_draft", PlanForm), ("card_draft", CardForm)]
    silent = [
        (name, field)
        for name, form in forms
        for field, one in form.base_fields.items()
        if not one.widget.is_hidden and not one.help_text
    ]
    assert len(forms) > 20
    assert silent == []


def test_every_column_and_every_state_has_a_word() -> None:
    """Else a Chinese page says something English."""
    nameless: list[str] = []
    for page in PAGES:
        if not issubclass(page, Row):
            continue
        names = [column.name for column in page.fields(page()) if not column.title]
        nameless += [f"{page.of.name}: {one}" for one in names if not words.known_field(one)]
        for field in page.of.model._meta.concrete_fields:
            if not isinstance(field, Field) or field.name.endswith("_currency"):
                continue
            codes = [str(code) for code, _label in field.flatchoices]
            nameless += [
                f"{page.of.name}: {field.name} {code}"
                for code in codes
                if code and not code.isdigit() and not words.known_state(code)
            ]
    assert nameless == []


# Operators ----------------------------------------------------------------------------------------


def test_no_page_shows_another_operators_rows(client: Client, life: Operator) -> None:
    other = make_operator("elsewhere")
    at_work(client, hire(other, Role.PLATFORM))
    ids = [str(pk) for pk in Subscriber.objects.filter(operator=life).values_list("pk", flat=True)]

    for page in PAGES:
        tried = addresses(page, [*ids[:2], "north"] if parameters(page) else [""])
        tried += [f"{address}?subscriber={ids[0]}&q=north" for address in tried[:1]]
        for address in tried:
            answer = client.get(address)
            assert answer.status_code in (200, 302, 404, 405), address
            if answer.status_code == 200 and not answer.streaming:
                assert "hidden-" not in answer.text, address


def test_a_row_is_found_by_its_own_operator_only(client: Client, life: Operator) -> None:
    own, other = Client(), Client()
    at_work(own, hire(life, Role.PLATFORM))
    at_work(other, hire(make_operator("elsewhere"), Role.PLATFORM))
    tried = 0
    for page in LISTS:
        lister = page()
        lister.request = own.get("/admin/").wsgi_request
        lister.visit = doors.Visit(hire(life, Role.PLATFORM), life.clock_at or NOW, None)
        row = lister.rows().first()
        if row is None:
            continue
        tried += 1
        address = f"/admin/{page.address}{page.key_of(row)}/"
        assert own.get(address).status_code == 200, address
        assert other.get(address).status_code == 404, address
        assert other.post(address, {"reason": "curious"}).status_code == 404, address
    assert tried >= 12


# Lists --------------------------------------------------------------------------------------------


def test_a_list_shows_its_rows_in_few_questions(client: Client, life: Operator) -> None:
    at_work(client, hire(life, Role.PLATFORM))
    client.get("/admin/")
    subscriber = Subscriber.objects.get(operator=life, external_id="hidden-1")
    for page in LISTS:
        given = f"?subscriber={subscriber.pk}" if page.narrow else ""
        with CaptureQueriesContext(connection) as asked:
            answer = client.get(f"/admin/{page.address}{given}")

        assert answer.status_code == 200, page.name
        said = [query["sql"] for query in asked]
        assert len(said) <= MOST_QUERIES, (page.name, said)
        assert not [sql for sql in said if "COUNT(" in sql.upper()], page.name
        assert "object at 0x" not in answer.text, page.name


def test_pages_of_a_list_follow_each_other_without_a_gap(
    client: Client, life: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work(client, hire(life, Role.PLATFORM))
    subscriber = Subscriber.objects.get(operator=life, external_id="hidden-1")
    followed = 0
    for page in LISTS:
        given = f"subscriber={subscriber.pk}" if page.narrow else ""
        monkeypatch.setattr(page, "per_page", 50)
        whole = client.get(f"/admin/{page.address}?{given}").context["lines"]
        monkeypatch.setattr(page, "per_page", 2)
        seen: list[Any] = []
        after = ""
        for _ in range(3):
            context = client.get(f"/admin/{page.address}?{given}&after={after}").context
            seen += context["lines"]
            after = context["more"]
            if not after:
                break
            followed += 1

        assert [link for link, _ in seen] == [link for link, _ in whole[: len(seen)]], page.name
        assert len(seen) == min(len(whole), 6), page.name
    assert followed > 5


def test_a_filter_that_few_rows_pass_looks_through_so_many_and_goes_on(
    client: Client, life: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work(client, hire(life, Role.OPERATIONS))
    for name in ("old", "a", "b", "c", "d", "e"):
        make_key(life, name=name)
    ApiKey.objects.filter(operator=life, name="old").update(revoked_at=clock.wall())
    monkeypatch.setattr(lists, "_LOOKED_THROUGH", 2)
    address, pages = "/admin/api-keys/?revoked_at=ended", 0
    while not (context := client.get(address).context)["lines"]:
        assert context["more"], "it is found"
        address = f"/admin/api-keys/?revoked_at=ended&after={context['more']}"
        pages += 1

    assert [cells[0][0] for _, cells in context["lines"]] == ["old"]
    assert pages >= 1


@pytest.mark.parametrize(
    "after",
    # No JSON, no row's key, null, a letter, no end ("[Infinity]"), depth without end.
    [
        *("x", "W10", "WzFd" * 30, "bnVsbA", "W251bGxd", "WyJhIl0"),
        *("W0luZmluaXR5XQ", "W1tb" * 1000),
    ],
)
def test_a_cursor_that_is_none_is_not_found(client: Client, life: Operator, after: str) -> None:
    at_work(client, hire(life, Role.PLATFORM))

    assert client.get(f"/admin/subscribers/?after={after}").status_code == 404


@pytest.mark.parametrize(
    "text", ["s-77", "user-s-77", "13800138077", "+86 138 0013 8077", "李四", "li@example.com"]
)
def test_a_subscriber_is_found_by_what_people_say(
    client: Client, life: Operator, text: str
) -> None:
    wanted = make_subscriber(life, "s-77")
    Subscriber.objects.filter(pk=wanted.pk).update(
        name="李四光", msisdn="13800138077", email="li@example.com"
    )
    at_work(client, hire(life, Role.AGENT))

    found = client.get("/admin/subscribers/", {"q": text}).context["lines"]

    assert [cells[0][0] for _, cells in found] == ["s-77"]


@pytest.mark.parametrize("text", ["' OR 1=1 --\0%_<script>💥", "9" * 400])
def test_any_text_may_be_searched_for(client: Client, life: Operator, text: str) -> None:
    at_work(client, hire(life, Role.PLATFORM))

    for page in LISTS:
        answer = client.get(f"/admin/{page.address}", {"q": text, "state": text, "kind": text})
        assert answer.status_code == 200, page.name
        assert "<script>" not in answer.text


# Colleagues ---------------------------------------------------------------------------------------


def test_colleagues_come_and_go_with_a_reason(client: Client, life: Operator) -> None:
    at_work(client, hire(life, Role.PLATFORM))
    said = {"once": "1", "email": "new@example.com", "role": "agent", "reason": "She starts today"}

    assert client.post("/admin/staff-appoint/", said | {"reason": ""}).status_code == 422
    assert client.post("/admin/staff-appoint/", said).status_code == 302
    [hired] = Staff.objects.filter(user__email="new@example.com")
    assert (hired.operator, hired.role, hired.ended_at) == (life, Role.AGENT, None)
    assert client.post("/admin/staff-dismiss/", said).status_code == 302
    hired.refresh_from_db()
    assert hired.ended_at is not None
    assert client.post("/admin/staff-dismiss/", said).status_code == 422

    seen = client.get("/admin/audit/").text
    assert seen.count("She starts today") == 2
    assert "staff/new@example.com" in seen


def test_nobody_locks_themselves_out(client: Client, life: Operator) -> None:
    at_work(client, hire(life, Role.PLATFORM))
    said = {"once": "1", "reason": "Only from the office"}

    away = client.post("/admin/staff-networks-add/", said | {"network": "10.9.0.0/16"})
    here = client.post("/admin/staff-networks-add/", said | {"network": "127.0.0.0/8"})
    then = client.post("/admin/staff-networks-add/", said | {"network": "10.9.0.0/16"})
    no_network = client.post("/admin/staff-networks-add/", said | {"network": "the office"})
    off = client.post("/admin/staff-networks-remove/", said | {"network": "127.0.0.0/8"})

    answers = (away, here, then, no_network, off)
    assert [answer.status_code for answer in answers] == [409, 302, 302, 422, 409]
    listed = StaffNetwork.objects.values_list("network", flat=True)
    assert sorted(listed) == ["10.9.0.0/16", "127.0.0.0/8"]


# The first page -----------------------------------------------------------------------------------


def test_every_tile_leads_to_a_page_that_opens(client: Client, life: Operator) -> None:
    figures.measure(life, at=life.clock_at or NOW)
    for role in Role:
        at_work(client, hire(life, role))
        page = client.get("/admin/")
        tiles = [tile for group in page.context["groups"] for tile in group.tiles]
        assert tiles, role
        for tile in tiles:
            assert client.get(tile.link).status_code == 200, (role, tile.link)
    assert len(tiles) > 15  # who runs the platform sees them all


def test_every_job_that_beat_rings_for_has_its_words() -> None:
    assert [name for name in jobs_page.schedule() if words.job(name) == name] == []


def test_jobs_are_shown_as_they_fare(client: Client, life: Operator) -> None:
    at_work(client, hire(life, Role.OPERATIONS))
    name = "billing.tasks.close_due_periods"
    jobs.ended(name, at=clock.wall(), seconds=1.5, error=ValueError("no ink"))

    failing = client.get("/admin/jobs/?state=failing").text

    assert name in failing
    assert "ValueError: no ink" in failing
    assert "billing.tasks.make_documents" not in failing


# Personal data ------------------------------------------------------------------------------------


def test_personal_data_is_shown_to_who_says_why_and_that_is_kept(
    client: Client, life: Operator
) -> None:
    wanted = make_subscriber(life, "s-77")
    Subscriber.objects.filter(pk=wanted.pk).update(name="李四光", msisdn="13800138077")
    hired = hire(life, Role.AGENT)
    at_work(client, hired)
    address = f"/admin/subscribers/{wanted.pk}/"

    for masked in (client.get(address), client.get("/admin/subscribers/", {"q": "s-77"})):
        assert "138****8077" in masked.text.replace("+86", "") or "***" in masked.text
        assert "13800138077" not in masked.text.replace('value="', "")
        assert "李四光" not in masked.text
    assert client.post(address).status_code == 422
    assert not AuditEntry.objects.exists()

    shown = client.post(address, {"reason": "She called about her bill"})

    assert "李四光" in shown.text
    assert "13800138077" in shown.text
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.subscriber, entry.reason) == (
        "subscribers.shown",
        wanted,
        "She called about her bill",
    )
    assert "msisdn" in (entry.after or {})["fields"]
    assert "李四光" not in str(entry.after)


def test_who_looked_at_a_minors_page_is_written_down(client: Client, life: Operator) -> None:
    minor, grown = (Subscriber.objects.get(external_id=f"hidden-{nr}") for nr in (0, 1))
    guardian = keeping.Guardian(
        name="A parent", agreed_at=NOW, evidence="on paper", day_units=None, order_amount=None
    )
    keeping.mark_minor(minor, guardian, by="crm", at=NOW)
    at_work(client, hire(life, Role.AGENT))

    for one in (minor, grown):
        for page in ("subscribers", "subscriber"):
            assert client.get(f"/admin/{page}/{one.pk}/").status_code == 200

    entries = AuditEntry.objects.order_by("id").values_list("action", "subscriber")
    assert list(entries) == [("subscribers_row.seen", minor.pk), ("subscriber.seen", minor.pk)]


def test_a_file_is_masked_counts_up_and_is_written_down(client: Client, life: Operator) -> None:
    wanted = make_subscriber(life, "=cmd|s-77")
    Subscriber.objects.filter(pk=wanted.pk).update(name="李四光", msisdn="13800138077")
    at_work(client, hire(life, Role.FINANCE))
    assert client.post("/admin/subscribers/").status_code == 422

    answer: Any = client.post("/admin/subscribers/", {"reason": "For the auditor"})

    assert answer.streaming
    text = b"".join(answer.streaming_content).decode("utf-8-sig")
    assert len(text.splitlines()) == 1 + Subscriber.objects.filter(operator=life).count()
    assert "13800138077" not in text
    assert "李四光" not in text
    assert "'=cmd|s-77" in text
    assert "+08:00" in text  # times are the operator's
    assert AuditEntry.objects.get().action == "subscribers.exported"


def test_every_list_as_a_file_adds_up(client: Client, life: Operator) -> None:
    """As many lines as rows, and each column of figures sums up to what the database says."""
    at_work(client, hire(life, Role.PLATFORM))
    subscriber = Subscriber.objects.get(operator=life, external_id="hidden-1")
    figures_added = 0
    for page in LISTS:
        given = f"?subscriber={subscriber.pk}" if page.narrow else ""
        lister = page()
        lister.request = client.get(f"/admin/{page.address}{given}").wsgi_request
        lister.visit = doors.Visit(hire(life, Role.PLATFORM), life.clock_at or NOW, None)
        rows, _narrowed = lister.narrowed(lister.rows())
        answer: Any = client.post(f"/admin/{page.address}{given}", {"reason": "To add it up"})
        text = b"".join(answer.streaming_content).decode("utf-8-sig")
        header, *lines = csv.reader(io.StringIO(text, newline=""))

        assert header == [column.heading() for column in page.columns], page.name
        # Its own request was written down while it was answered.
        assert len(lines) == rows.count(), page.name
        for nr, column in enumerate(page.columns):
            if not column.figure():
                continue
            wanted = rows.aggregate(all=Sum(column.name.replace(".", "__")))["all"]
            said = sum(Decimal(line[nr].partition(" ")[0] or 0) for line in lines)
            assert said == Decimal(str(getattr(wanted, "amount", wanted) or 0)), (page.name, header)
            figures_added += wanted is not None
    assert figures_added > 10


@pytest.mark.parametrize(
    ("kind", "whole", "masked"),
    [
        ("phone", "+8613800138000", "+86138****8000"),
        ("phone", "10086", "*****"),
        ("name", "张三丰", "张**"),
        ("email", "someone@example.com", "s***@example.com"),
        ("email", "no address", "n*********"),
        ("tax", "91320000MA1XXXXX7B", "**************XX7B"),
        ("address", "1 Long Street", "******"),
        ("subject", "13800138000", "138****8000"),
        ("subject", "user-1", "user-1"),
    ],
)
def test_enough_stays_to_tell_people_apart(kind: str, whole: str, masked: str) -> None:
    assert masks.MASKS[kind](whole) == masked
