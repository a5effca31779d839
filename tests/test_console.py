"""The console's doors: who gets in, and what lies between them and a page."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest
from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from django.contrib.auth.models import Group
from django.core.cache import cache
from django.core.management import call_command
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.test import Client

from subscriptions import clock
from subscriptions.console import doors
from subscriptions.console.site import grants, site
from subscriptions.models import AuditEntry, Operator, Role, Staff, Subscriber, User
from subscriptions.users import staff as employment
from tests.console import PASSWORD, at_work, hire, sign_in
from tests.factories import NOW, make_operator

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _counted_apart(settings: Any) -> Iterator[None]:
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    cache.clear()
    yield
    cache.clear()


# Getting in ---------------------------------------------------------------------------------------


def test_who_is_not_signed_in_is_led_to_the_sign_in(client: Client) -> None:
    answer = client.get("/admin/")

    assert answer.status_code == 302
    assert answer["Location"] == "/accounts/login/?next=%2Fadmin%2F"


def test_to_a_subscriber_there_is_no_console(client: Client, operator: Operator) -> None:
    user = User.objects.create_user(email="a@example.com", password=PASSWORD, created_at=NOW)
    client.force_login(user, backend="allauth.account.auth_backends.AuthenticationBackend")

    assert client.get("/admin/").status_code == 404


def test_who_works_here_is_made_no_customer(client: Client, operator: Operator) -> None:
    answer = at_work(client, hire(operator)).get("/")

    assert (answer.status_code, answer["Location"]) == (302, "/admin/")
    assert not Subscriber.objects.exists()


def test_password_and_code_open_the_console(client: Client, operator: Operator) -> None:
    hired = hire(operator, Role.AGENT)

    answer = sign_in(client, hired)

    assert answer["Location"] == "/admin/"
    page = client.get("/admin/")
    assert page.status_code == 200
    assert operator.name in page.content.decode()
    assert page["Cache-Control"] == "private, no-store"


def test_without_a_second_factor_there_is_only_the_way_to_one(
    client: Client, operator: Operator
) -> None:
    hired = hire(operator, Role.AGENT)
    Authenticator.objects.all().delete()
    client.post("/accounts/login/", {"login": hired.user.email, "password": PASSWORD})

    answer = client.get("/admin/")

    assert answer["Location"] == "/staff/second-factor/?next=%2Fadmin%2F"
    assert client.get("/staff/second-factor/").status_code == 200


def test_a_factor_set_up_in_another_session_is_asked_for_in_this(
    client: Client, operator: Operator
) -> None:
    hired = hire(operator, Role.AGENT)
    factor = Authenticator.objects.get()
    data, kind = factor.data, factor.type
    factor.delete()
    client.post("/accounts/login/", {"login": hired.user.email, "password": PASSWORD})
    Authenticator.objects.create(user=hired.user, type=kind, data=data)

    assert client.get("/admin/")["Location"].startswith("/accounts/2fa/reauthenticate/?next=")


def test_a_code_by_mail_is_no_password(client: Client, operator: Operator) -> None:
    at_work(client, hire(operator, Role.AGENT), methods=("code", "mfa"))

    assert client.get("/admin/")["Location"].startswith("/accounts/reauthenticate/?next=")


def test_guessing_locks_the_door_also_to_the_right_password(
    client: Client, operator: Operator
) -> None:
    hired = hire(operator, Role.AGENT)
    for _ in range(8):
        client.post("/accounts/login/", {"login": hired.user.email, "password": "wrong"})

    client.post("/accounts/login/", {"login": hired.user.email, "password": PASSWORD})

    assert client.get("/admin/").status_code == 302


def test_guessing_codes_locks_the_door_also_to_the_right_one(
    client: Client, operator: Operator
) -> None:
    hired = hire(operator, Role.AGENT)
    client.post("/accounts/login/", {"login": hired.user.email, "password": PASSWORD})
    for _ in range(8):
        client.post("/accounts/2fa/authenticate/", {"code": "000000"})

    sign_in(client, hired)

    assert client.get("/admin/")["Location"].startswith("/accounts/login/")


@pytest.mark.parametrize(
    ("pause", "open_"), [(dt.timedelta(minutes=29), True), (dt.timedelta(minutes=31), False)]
)
def test_a_session_left_alone_ends(
    client: Client, operator: Operator, monkeypatch: pytest.MonkeyPatch, pause: Any, open_: bool
) -> None:
    at_work(client, hire(operator, Role.AGENT))
    assert client.get("/admin/").status_code == 200
    later = clock.wall() + pause
    monkeypatch.setattr(clock, "wall", lambda: later)

    answer = client.get("/admin/")

    assert (answer.status_code == 200) is open_
    assert ("_auth_user_id" in client.session) is open_


def test_a_shift_ends_however_busy_it_was(
    client: Client, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work(client, hire(operator, Role.AGENT))
    begun = clock.wall()
    for half_hours in range(26):
        now = begun + half_hours * dt.timedelta(minutes=29, seconds=59)
        monkeypatch.setattr(clock, "wall", lambda now=now: now)
        answer = client.get("/admin/")
    assert answer.status_code == 302
    assert "ended=1" in answer["Location"]


def test_staff_come_from_the_networks_that_their_operator_lists(
    client: Client, operator: Operator
) -> None:
    hired = hire(operator, Role.AGENT)
    at_work(client, hired)
    listed = employment.allow(operator, "10.1.2.3/16", at=NOW)
    assert listed.network == "10.1.0.0/16"

    assert client.get("/admin/", REMOTE_ADDR="10.1.200.7").status_code == 200
    assert client.get("/admin/", REMOTE_ADDR="::ffff:10.1.200.7").status_code == 200
    assert client.get("/admin/", REMOTE_ADDR="10.2.0.1").status_code == 403
    employment.forbid(operator, listed.pk)
    assert client.get("/admin/", REMOTE_ADDR="10.2.0.1").status_code == 200


def test_who_was_dismissed_has_no_console_at_the_next_click(
    client: Client, operator: Operator
) -> None:
    hired = hire(operator, Role.AGENT)
    at_work(client, hired)
    employment.dismiss(hired, at=NOW)

    assert client.get("/admin/").status_code == 404


def test_who_works_for_two_operators_sees_one_at_a_time(client: Client, operator: Operator) -> None:
    hired = hire(operator, Role.AGENT)
    second = make_operator("other")
    employment.appoint(hired.user, second, Role.FINANCE, at=NOW)
    at_work(client, hired)
    assert client.get("/admin/").context["operator"] == operator

    client.post("/admin/operator/", {"operator": second.pk})
    assert client.get("/admin/").context["operator"] == second
    assert client.get("/admin/").context["visit"].staff.role == Role.FINANCE

    client.post("/admin/operator/", {"operator": make_operator("third").pk})
    assert client.get("/admin/").context["operator"] == second


# Staff and groups ---------------------------------------------------------------------------------


def test_the_first_member_of_the_staff_is_made_by_a_command(
    client: Client, operator: Operator, capsys: pytest.CaptureFixture[str]
) -> None:
    call_command("staff", "boss@example.com", operator=operator.code)
    password = capsys.readouterr().out.strip()

    client.post("/accounts/login/", {"login": "boss@example.com", "password": password})

    assert client.get("/admin/")["Location"].startswith("/staff/second-factor/")
    assert Staff.objects.get().role == Role.PLATFORM
    call_command("staff", "boss@example.com", operator=operator.code, dismiss=True)
    assert client.get("/admin/").status_code == 404


def test_an_address_nobody_proved_is_not_let_in(operator: Operator) -> None:
    stranger = User.objects.create_user(email="x@example.com", password="x", created_at=NOW)
    EmailAddress.objects.create(user=stranger, email="x@example.com", verified=False)

    with pytest.raises(Exception, match="never confirmed"):
        employment.engage("x@example.com", operator, Role.AGENT, password="y", at=NOW)


def test_a_user_has_one_role_at_an_operator(operator: Operator) -> None:
    hired = hire(operator, Role.AGENT)
    again = employment.appoint(hired.user, operator, Role.FINANCE, at=NOW)

    assert employment.serving(hired.user) == [again]
    with pytest.raises(IntegrityError), transaction.atomic():
        Staff.objects.create(user=hired.user, operator=operator, role=Role.AGENT, created_at=NOW)


def test_groups_are_what_the_pages_say() -> None:
    wanted = grants()

    for role in Role:
        rows = Group.objects.get(name=role.value).permissions.values_list(
            "content_type__app_label", "codename"
        )
        assert {f"{room}.{name}" for room, name in rows} == {
            permission for permission, roles in wanted.items() if role in roles
        }
    auditor = {name for name, page in site.pages.items() if Role.AUDITOR in page.granted_to()}
    assert auditor == {
        name for name, page in site.pages.items() if not page.changes or Role.AUDITOR in page.roles
    }


# Policy -------------------------------------------------------------------------------------------


def test_the_console_has_the_policy_of_all_pages(client: Client, operator: Operator) -> None:
    at_work(client, hire(operator, Role.AGENT))

    policy = client.get("/admin/").headers["Content-Security-Policy"]

    assert "script-src 'self';" in policy
    assert "unsafe" not in policy


# Audit --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        "UPDATE subscriptions_auditentry SET reason = 'x'",
        "DELETE FROM subscriptions_auditentry",
    ],
)
def test_what_was_written_down_stays(operator: Operator, fault: str) -> None:
    hired = hire(operator, Role.AGENT)
    visit = doors.Visit(hired, NOW, "10.0.0.1")
    visit.note("test.done", about="thing/1", reason="because")

    with pytest.raises(DatabaseError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(fault)

    entry = AuditEntry.objects.get()
    assert (entry.who, entry.address, entry.role) == (hired.user.email, "10.0.0.1", "agent")
