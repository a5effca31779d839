"""The family's pages: what the main line does there, what members do, and what nobody else can."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from subscriptions.families import keeping
from subscriptions.models import (
    Family,
    FamilyGift,
    FamilyInvite,
    FamilyMember,
    Operator,
    Subscriber,
)
from tests.factories import buckets_of, make_operator, make_plan, make_subscriber, subscribe
from tests.families import join, make_family, pool_used
from tests.usage import Gateway, T, record
from tests.visiting import client_of

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _this_portal(operator: Operator, settings: Any) -> None:
    settings.PORTAL_OPERATOR = operator.code


@pytest.fixture
def main(operator: Operator) -> Subscriber:
    found = make_subscriber(operator, "main")
    subscribe(found, make_plan(operator, allowance=10_000_000 * T))
    return found


@pytest.fixture
def child(operator: Operator) -> Subscriber:
    return make_subscriber(operator, "child")


def text(client: Client, path: str = "/family/") -> str:
    answer = client.get(path)
    assert answer.status_code == 200, path
    return answer.content.decode()


def send(client: Client, path: str, **said: str) -> str:
    """What the page says that a form leads to."""
    answer = client.post(f"/family/{path}", said, follow=True)
    assert answer.status_code == 200, path
    return answer.content.decode()


def test_from_founding_to_parting_all_is_done_on_pages(
    gateway: Gateway, main: Subscriber, child: Subscriber
) -> None:
    owner, other = client_of(main), client_of(child)

    assert "Share my tokens" in text(owner)
    assert "Nobody yet" in send(owner, "found/", name="The Zhangs")
    made = send(owner, "invite/", label="Kid", contact="", cap="100万", first="")
    code = re.search(r"<code>([A-Z0-9-]+)</code>", made)
    assert code
    assert "Waiting for an answer" in text(owner)
    assert "no invite with this code" in send(other, "accept/", code="AAAA-BBBB-CCCC")
    assert "Welcome" in send(other, "accept/", code=code[1].lower())

    row = FamilyMember.objects.get(subscriber=child)
    assert (row.label, row.cap, row.priority) == ("Kid", 1_000_000 * T, 2)
    gateway.charge(record(subject="user-child", input_tokens=250_000, output_tokens=0))
    assert "250,000 this month" in text(owner)
    assert "750,000" in text(other)
    assert "750,000" in text(other, "/")  # the pool is among what is left at home

    send(owner, f"members/{row.pk}/", label="Kid", cap="", first="on")
    row.refresh_from_db()
    assert (row.cap, row.priority) == (None, 1)
    assert "Removed" in send(owner, f"members/{row.pk}/remove/")
    gateway.charge(record("r-2", subject="user-child", input_tokens=9, output_tokens=0))
    assert pool_used(child) == 250_000 * T
    assert "Share my tokens" in text(other)
    assert "Dissolved" in send(owner, "dissolve/")
    assert Family.objects.get().dissolved_at is not None


def test_an_invite_for_a_subscriber_waits_on_their_page_and_is_theirs_alone(
    operator: Operator, main: Subscriber, child: Subscriber
) -> None:
    Subscriber.objects.filter(pk=child.pk).update(msisdn="13800138000")
    stranger = make_subscriber(operator, "stranger")
    make_family(main)
    send(client_of(main), "invite/", label="Kid", contact="+86 138 0013 8000", cap="")
    offer = FamilyInvite.objects.get()
    assert offer.subscriber_id == child.pk

    other = client_of(stranger)
    assert "invites you" not in text(other)
    said = send(other, "accept/", invite=str(offer.pk))
    assert "no invite" in said
    assert other.post("/family/decline/", {"invite": str(offer.pk)}).status_code == 302
    offer.refresh_from_db()
    assert offer.state == "open"
    invited = client_of(child)
    assert "invites you" in text(invited)
    assert "Declined" in send(invited, "decline/", invite=str(offer.pk))
    assert "invites you" not in text(invited)


def test_members_see_of_each_other_what_the_main_line_and_they_themselves_allow(
    operator: Operator, gateway: Gateway, main: Subscriber, child: Subscriber
) -> None:
    family = make_family(main)
    row = join(family, child, label="Kid")
    cousin = make_subscriber(operator, "cousin")
    join(family, cousin, label="Cousin")
    gateway.charge(record(subject="user-child", input_tokens=4_321, output_tokens=0))
    other, kid = client_of(cousin), client_of(child)

    assert "Kid" in text(other)
    assert "4,321" not in text(other)
    rules = keeping.Rules("Home", open_to_members=True)
    keeping.change(family, rules, at=row.since)
    assert "4,321" not in text(other)
    send(kid, "shown/", shown="yes")
    assert "4,321" in text(other)
    assert "Change: Kid" not in text(other)


def test_tokens_are_given_once_however_often_the_form_is_sent(
    main: Subscriber, child: Subscriber
) -> None:
    family = make_family(main)
    row = join(family, child, label="Kid")
    owner = client_of(main)
    assert "up to 10 M" in text(owner, "/family/gift/")
    form = {"to": str(row.pk), "units": "1.5M", "note": "Happy birthday", "once": "abc"}

    assert "Given." in send(owner, "gift/", **form)
    assert "Given." in send(owner, "gift/", **form)
    assert [b.granted for b in buckets_of(child, "gift")] == [1_500_000 * T]
    again = {**form, "units": "10M", "once": "def"}
    assert "not so much to give" in send(owner, "gift/", **again)


@pytest.mark.parametrize("units", ["", " ", ",", "，", "0"])
def test_a_gift_of_nothing_is_refused_in_words(
    main: Subscriber, child: Subscriber, units: str
) -> None:
    row = join(make_family(main), child, label="Kid")

    said = send(client_of(main), "gift/", to=str(row.pk), units=units, once="abc")

    assert "Given." not in said
    assert not FamilyGift.objects.exists()


def test_a_name_that_cannot_be_kept_is_an_error_and_nothing_is_done(main: Subscriber) -> None:
    client = client_of(main)
    client.raise_request_exception = False

    answer = client.post("/family/found/", {"name": "a\0b"})

    assert answer.status_code == 400
    assert "could not be read" in answer.content.decode()
    assert not Family.objects.exists()


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("invite/", {"label": "x"}),
        ("rules/", {"name": "x", "shared": "allowance"}),
        ("dissolve/", {}),
        ("members/{member}/", {"label": "x"}),
        ("members/{member}/remove/", {}),
        ("invites/{invite}/", {}),
    ],
)
def test_what_is_the_main_lines_is_not_there_for_anybody_else(
    operator: Operator, main: Subscriber, child: Subscriber, path: str, form: dict[str, str]
) -> None:
    family = make_family(main)
    member = join(family, child)
    offer, _ = keeping.invite(family, keeping.Terms("y"), at=member.since)
    stranger = make_subscriber(operator, "stranger")
    make_family(stranger)  # a main line too, of another
    filled = path.format(member=member.pk, invite=offer.pk)

    who = [client_of(child)]
    if "{" in path:
        who.append(client_of(stranger))
    for client in who:
        assert client.post(f"/family/{filled}", form).status_code == 404
    member.refresh_from_db()
    offer.refresh_from_db()
    assert (member.until, member.label, offer.state) == (None, "child", "open")


def test_an_invite_of_another_operator_is_not_there(main: Subscriber) -> None:
    other = make_operator("other")
    theirs = make_family(make_subscriber(other, "main"))
    _, code = keeping.invite(theirs, keeping.Terms("y"), at=theirs.created_at)

    assert "no invite with this code" in send(client_of(main), "accept/", code=code)


@pytest.mark.parametrize("cap", ["ten", "-1", "1e9", "1.2345", "99999999999999999999"])
def test_a_cap_that_is_no_number_of_tokens_is_said_to_be_none(main: Subscriber, cap: str) -> None:
    make_family(main)

    said = send(client_of(main), "invite/", label="Kid", cap=cap)

    assert "Write a number of tokens" in said
    assert not FamilyInvite.objects.exists()


def test_names_are_text(main: Subscriber, child: Subscriber) -> None:
    evil = "<script>alert(1)</script>"
    family = make_family(main, name=evil)
    join(family, child, label=evil)

    for client in (client_of(main), client_of(child)):
        assert "<script>alert" not in text(client)


@pytest.mark.parametrize(
    "path", ["/family/", "/family/invite/", "/family/rules/", "/family/gift/", "member", "/"]
)
def test_a_page_costs_at_most_twelve_queries_whoever_looks(
    operator: Operator, gateway: Gateway, main: Subscriber, path: str
) -> None:
    family = make_family(main)
    members = [make_subscriber(operator, f"m-{nr}") for nr in range(9)]
    rows = [join(family, one) for one in members]
    gateway.charge(*(record(f"r-{nr}", subject=f"user-m-{nr}", output_tokens=0) for nr in range(9)))
    path = f"/family/members/{rows[0].pk}/" if path == "member" else path
    lookers = (
        [main] if "rules" in path or "invite" in path or "members" in path else [main, members[0]]
    )
    for looker in lookers:
        client = client_of(looker)
        client.get(path)  # what a first visit sets up
        with CaptureQueriesContext(
            connection,
        ) as queries:
            assert client.get(path).status_code == 200
        assert len(queries) <= 12, [query["sql"] for query in queries]


def test_in_chinese_all_is_chinese(main: Subscriber, child: Subscriber) -> None:
    row = join(make_family(main, name="张家"), child, label="小张", cap=1_000_000 * T)
    owner, kid = client_of(main, "zh-hans"), client_of(child, "zh-hans")

    assert "主号" in text(owner)
    assert "100 万" in text(kid)
    for path in (
        "/family/invite/",
        "/family/rules/",
        "/family/gift/",
        f"/family/members/{row.pk}/",
    ):
        assert not re.search(r">\s*[A-Z][a-z]+ [a-z]+[^<]*<", text(owner, path))
