"""Signing up and in, and what a user may see where."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from allauth.mfa.models import Authenticator
from allauth.usersessions.models import UserSession
from django.core import mail
from django.core.cache import cache
from django.db import IntegrityError, connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext, override_settings
from django.utils import translation

from config import settings as platform
from subscriptions import registry
from subscriptions.models import Access, Operator, Subscriber, SubscriberKey, User
from subscriptions.notices import sms
from subscriptions.users import access
from tests.factories import (
    NOW,
    client_for,
    make_key,
    make_operator,
    make_plan,
    make_subscriber,
    subscribe,
)
from tests.keys import make_subscriber_key
from tests.running import free_port

pytestmark = pytest.mark.django_db

PASSWORD = "correct-horse-battery"
PHONE = "+8613800138000"


@pytest.fixture(autouse=True)
def _counted_apart(settings: Any) -> Iterator[None]:
    """Limits of sign-in count in this process alone, from nothing."""
    settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    cache.clear()
    yield
    cache.clear()


@pytest.fixture
def sent(settings: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The text messages, instead of a carrier's way to send them."""
    messages: list[tuple[str, str]] = []
    settings.SMS_BACKEND = "subscriptions.notices.sms.Console"
    monkeypatch.setattr(
        sms.Console, "send", lambda _, number, text, key: messages.append((number, text))
    )
    return messages


@pytest.fixture(autouse=True)
def _operator(operator: Operator) -> None:
    """The only one: every host is its portal."""


def code_in(text: str) -> str:
    found = re.search(r"\b([0-9A-Z]{3,6}(?:-[0-9A-Z]{3,4})?)\b(?=[^A-Za-z]*$|\.|。|，|\s)", text)
    assert found, text
    return found[1]


def sign_up_by_phone(client: Client, sent: list[tuple[str, str]], phone: str = PHONE) -> Any:
    client.post("/accounts/signup/phone/", {"phone": phone})
    return client.post("/accounts/phone/verify/", {"code": code_in(sent[-1][1])})


def sign_up_by_email(client: Client, email: str = "a@example.com") -> Any:
    client.post("/accounts/signup/", {"email": email, "password1": PASSWORD})
    return client.post("/accounts/confirm-email/", {"code": code_in(str(mail.outbox[-1].body))})


def sign_in(client: Client, email: str = "a@example.com") -> None:
    """With the password given once more, as is asked before anything that matters."""
    sign_up_by_email(client, email)
    client.post("/accounts/reauthenticate/", {"password": PASSWORD})


# Signing up and in --------------------------------------------------------------------------------


def test_a_phone_number_and_its_code_make_a_user(
    client: Client, sent: list[tuple[str, str]]
) -> None:
    answer = sign_up_by_phone(client, sent, "138 0013-8000")

    user = User.objects.get()
    assert (answer.status_code, answer["Location"]) == (302, "/")
    assert (user.phone, user.phone_verified, user.email) == (PHONE, True, "")
    assert not user.has_usable_password()
    assert client.session["_auth_user_id"] == str(user.pk)
    assert sent[-1][0] == PHONE


def test_without_the_right_code_nobody_is_signed_in(
    client: Client, sent: list[tuple[str, str]]
) -> None:
    client.post("/accounts/signup/phone/", {"phone": PHONE})
    for _ in range(4):
        client.post("/accounts/phone/verify/", {"code": "000000"})
    late = client.post("/accounts/phone/verify/", {"code": code_in(sent[-1][1])})

    assert "_auth_user_id" not in client.session
    assert not User.objects.get().phone_verified
    assert late["Location"].startswith("/accounts/login/")


def test_an_email_address_is_proved_before_it_signs_in(client: Client) -> None:
    client.post("/accounts/signup/", {"email": "a@example.com", "password1": PASSWORD})
    assert "_auth_user_id" not in client.session

    client.post("/accounts/confirm-email/", {"code": code_in(str(mail.outbox[-1].body))})

    assert client.session["_auth_user_id"] == str(User.objects.get().pk)


def test_who_signed_up_signs_in_either_way(client: Client, sent: list[tuple[str, str]]) -> None:
    sign_up_by_email(client)
    client.post("/accounts/logout/")
    assert "_auth_user_id" not in client.session
    client.post("/accounts/login/", {"login": "a@example.com", "password": PASSWORD})
    assert "_auth_user_id" in client.session

    other = Client()
    sign_up_by_phone(other, sent)
    other.post("/accounts/logout/")
    other.post("/accounts/login/code/", {"phone": "13800138000"})
    other.post("/accounts/login/code/confirm/", {"code": code_in(sent[-1][1])})

    assert other.session["_auth_user_id"] != client.session["_auth_user_id"]


def test_a_known_number_or_address_is_not_told_to_strangers(
    client: Client, sent: list[tuple[str, str]]
) -> None:
    sign_up_by_phone(Client(), sent)
    assert client.post("/accounts/signup/phone/", {"phone": PHONE}).status_code == 429
    cache.clear()
    known = client.post("/accounts/signup/phone/", {"phone": PHONE})
    new = Client().post("/accounts/signup/phone/", {"phone": "+8613900139000"})

    assert (known.status_code, known["Location"]) == (new.status_code, new["Location"])
    assert User.objects.filter(phone=PHONE).count() == 1


def test_attempts_to_sign_in_are_limited(client: Client) -> None:
    sign_up_by_email(client)
    client.post("/accounts/logout/")
    for _ in range(12):
        client.post("/accounts/login/", {"login": "a@example.com", "password": "wrong"})

    client.post("/accounts/login/", {"login": "a@example.com", "password": PASSWORD})

    assert "_auth_user_id" not in client.session


def test_attempts_are_counted_by_the_server_that_the_platform_brings(client: Client) -> None:
    own = platform.CACHES["default"] | {"KEY_PREFIX": secrets.token_hex(8)}
    with override_settings(CACHES={"default": own}):
        sign_up_by_email(client)
        client.post("/accounts/logout/")
        for _ in range(12):
            client.post("/accounts/login/", {"login": "a@example.com", "password": "wrong"})
        client.post("/accounts/login/", {"login": "a@example.com", "password": PASSWORD})

    assert "RedisCache" in own["BACKEND"]
    assert "_auth_user_id" not in client.session


def test_while_attempts_cannot_be_counted_nobody_signs_in_and_is_told_to_try_again(
    client: Client,
) -> None:
    sign_up_by_email(client)
    client.post("/accounts/logout/")
    nowhere = {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": f"redis://127.0.0.1:{free_port()}/0",
    }

    with override_settings(CACHES={"default": nowhere}):
        answer = client.post("/accounts/login/", {"login": "a@example.com", "password": PASSWORD})

    assert answer.status_code == 503
    assert int(answer["Retry-After"]) > 0
    assert "请稍后再试" in answer.content.decode()
    assert "_auth_user_id" not in client.session


@pytest.mark.parametrize("number", ["", "12", "abc", "+0123456789", "1" * 40, "<script>"])
def test_what_is_no_phone_number_is_refused(
    client: Client, sent: list[tuple[str, str]], number: str
) -> None:
    answer = client.post("/accounts/signup/phone/", {"phone": number})

    assert answer.status_code == 200
    assert b"<script>" not in answer.content.replace(b"<script src", b"")
    assert sent == []
    assert not User.objects.exists()


@pytest.mark.parametrize("elsewhere", ["https://evil.example/", "//evil.example", "javascript:x"])
def test_signing_in_leads_nowhere_else(client: Client, elsewhere: str) -> None:
    sign_up_by_email(client)
    client.post("/accounts/logout/")

    answer = client.post(
        "/accounts/login/", {"login": "a@example.com", "password": PASSWORD, "next": elsewhere}
    )

    assert answer["Location"] == "/"


# One's own account --------------------------------------------------------------------------------


def test_sign_out_everywhere_ends_every_session(client: Client) -> None:
    sign_up_by_email(client)
    phone, laptop = Client(), Client()
    for device in (phone, laptop):
        device.post("/accounts/login/", {"login": "a@example.com", "password": PASSWORD})
    assert UserSession.objects.count() == 3
    assert phone.get("/accounts/sessions/").status_code == 200

    answer = laptop.post("/accounts/everywhere/")

    assert answer.status_code == 302
    for device in (client, phone, laptop):
        assert device.get("/accounts/").status_code == 302
    assert not UserSession.objects.exists()


@pytest.mark.parametrize(
    ("user_agent", "english", "chinese"),
    [
        (
            "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko)"
            " Chrome/126.0.0.0 Mobile Safari/537.36",
            "Chrome 126, Android",
            "Chrome 126，Android",
        ),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML,"
            " like Gecko) Mobile/15E148 MicroMessenger/8.0.49 NetType/WIFI Language/zh_CN",
            "WeChat 8, iOS",
            "微信 8，iOS",
        ),
        (
            "Mozilla/5.0 (Phone; OpenHarmony 5.0) AppleWebKit/537.36 (KHTML, like Gecko)"
            " Chrome/114.0.0.0 Safari/537.36 ArkWeb/4.1.6.1 Mobile HuaweiBrowser/5.1.2.300",
            "Huawei Browser 5, HarmonyOS",
            "华为浏览器 5，HarmonyOS",
        ),
        ("my own " + "<i>" * 50, "my own &lt;i&gt;", "my own &lt;i&gt;"),
        ("", "A device that is not known", "未知设备"),
    ],
)
def test_devices_are_told_in_words(
    client: Client, user_agent: str, english: str, chinese: str
) -> None:
    sign_up_by_email(client)
    UserSession.objects.update(user_agent=user_agent)

    for language, said in (("en", english), ("zh-hans", chinese)):
        page = client.get("/accounts/sessions/", headers={"accept-language": language})
        assert said in page.content.decode()
        assert "Mozilla" not in page.content.decode()
        assert "<i>" not in page.content.decode()


@pytest.mark.parametrize(
    "path",
    [
        "/accounts/",
        "/accounts/2fa/",
        "/accounts/2fa/totp/activate/",
        "/accounts/2fa/webauthn/add/",
        "/accounts/email/",
        "/accounts/phone/change/",
        "/accounts/password/change/",
        "/accounts/sessions/",
        "/accounts/close/",
    ],
)
def test_a_page_of_the_account_shows_and_asks_to_sign_in(client: Client, path: str) -> None:
    assert client.get(path)["Location"].startswith("/accounts/login/")
    sign_in(client)

    page = client.get(path)

    assert page.status_code == 200
    assert "unsafe" not in page.headers["Content-Security-Policy"]
    assert (
        re.findall(r'<script(?![^>]*(?:\bsrc=|type="application/json"))', str(page.content)) == []
    )
    assert " style=" not in page.content.decode()


def test_a_closed_account_is_forgotten(client: Client) -> None:
    sign_in(client)
    user = User.objects.get()
    other = Client()
    other.post("/accounts/login/", {"login": "a@example.com", "password": PASSWORD})

    client.post("/accounts/close/", {"sure": "1"})

    user.refresh_from_db()
    assert (user.is_active, user.email, user.phone) == (False, "", "")
    assert user.closed_at is not None
    assert not user.emailaddress_set.exists()  # type: ignore[attr-defined]
    assert not Authenticator.objects.exists()
    assert other.get("/accounts/").status_code == 302
    other.post("/accounts/login/", {"login": "a@example.com", "password": PASSWORD})
    assert "_auth_user_id" not in other.session


@pytest.mark.parametrize("shared", [False, True])
def test_keys_end_with_the_account_unless_somebody_else_may_open_it(
    client: Client, operator: Operator, shared: bool
) -> None:
    subscriber = make_subscriber(operator, "s-1")
    make_subscriber_key(client_for(make_key(operator)))
    sign_in(client)
    users = [User.objects.get()]
    if shared:
        users.append(User.objects.create_user(email="b@example.com", created_at=NOW))
    for user in users:
        Access.objects.create(user=user, operator=operator, subscriber=subscriber, created_at=NOW)

    client.post("/accounts/close/", {"sure": "1"})

    key = SubscriberKey.objects.get(subscriber_id=subscriber.pk)
    assert (key.revoked_at is None) == shared


def test_an_account_with_a_plan_cannot_be_closed(client: Client, operator: Operator) -> None:
    sign_in(client)
    user = User.objects.get()
    subscriber = access.begin(user, operator, at=NOW)
    subscribe(subscriber, make_plan(operator))

    page = client.post("/accounts/close/", {"sure": "1"}, follow=True)

    user.refresh_from_db()
    assert page.status_code == 200
    assert user.is_active


# Whose account a user sees ------------------------------------------------------------------------


def make_user(phone: str = "", email: str = "") -> User:
    return User.objects.create_user(
        phone=phone, phone_verified=bool(phone), email=email, created_at=NOW
    )


def test_a_newcomer_becomes_a_subscriber_once(operator: Operator) -> None:
    user = make_user(phone=PHONE)

    first = access.begin(user, operator, at=NOW)
    again = access.begin(user, operator, at=NOW)

    assert first == again
    assert first.operator == operator
    assert registry.subjects_of([first.pk]) == {first.pk: [first.external_id]}
    assert Subscriber.objects.count() == Access.objects.count() == 1


@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_a_newcomer_is_written_to_in_the_language_of_the_sign_up(
    operator: Operator, language: str
) -> None:
    with translation.override(language):
        assert access.begin(make_user(phone=PHONE), operator, at=NOW).language == language


@pytest.mark.parametrize("told", ["+8613800138000", "8613800138000", "13800138000"])
def test_a_proved_phone_number_opens_the_account_that_the_crm_knows(
    operator: Operator, told: str
) -> None:
    known = make_subscriber(operator)
    Subscriber.objects.filter(pk=known.pk).update(msisdn=told)

    assert access.begin(make_user(phone=PHONE), operator, at=NOW) == known


def test_a_number_of_another_country_opens_no_account_of_a_number_at_home(
    operator: Operator,
) -> None:
    known = make_subscriber(operator)
    # +1 380 234 5678 is a number in Ohio, and has the digits of one in China.
    Subscriber.objects.filter(pk=known.pk).update(msisdn="13802345678")

    assert access.begin(make_user(phone="+13802345678"), operator, at=NOW) != known
    assert access.begin(make_user(phone="+8613802345678"), operator, at=NOW) == known


def test_an_account_that_was_merged_into_another_is_opened_to_nobody(operator: Operator) -> None:
    one, two = make_subscriber(operator, "s-1"), make_subscriber(operator, "s-2")
    Subscriber.objects.filter(pk=one.pk).update(msisdn=PHONE, merged_into=two, merged_at=NOW)

    assert access.begin(make_user(phone=PHONE), operator, at=NOW) not in (one, two)


def test_whose_number_it_is_takes_one_look_into_an_index(operator: Operator) -> None:
    Subscriber.objects.bulk_create(
        Subscriber(operator=operator, external_id=f"n-{nr}", msisdn=f"139{nr:08}", created_at=NOW)
        for nr in range(5000)
    )
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE subscriptions_subscriber")
    with CaptureQueriesContext(connection) as asked:
        access.begin(make_user(phone="+8613900000042"), operator, at=NOW)
    [query] = [one["sql"] for one in asked if '"msisdn" IN' in one["sql"]]
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN {query}")
        plan = "\n".join(line for (line,) in cursor.fetchall())

    assert "subscriber_by_phone" in plan, plan
    assert Access.objects.get().subscriber.external_id == "n-42"


def test_a_number_of_two_subscribers_or_an_unproved_one_opens_neither(operator: Operator) -> None:
    one, two = make_subscriber(operator, "s-1"), make_subscriber(operator, "s-2")
    Subscriber.objects.filter(pk=one.pk).update(msisdn=PHONE)
    unproved = User.objects.create_user(phone=PHONE, created_at=NOW)

    assert access.begin(unproved, operator, at=NOW) not in (one, two)
    Subscriber.objects.filter(pk=two.pk).update(msisdn=PHONE)
    assert access.begin(make_user(phone=PHONE), operator, at=NOW) not in (one, two)


def test_an_account_that_somebody_has_is_opened_to_nobody_else(operator: Operator) -> None:
    known = make_subscriber(operator)
    Subscriber.objects.filter(pk=known.pk).update(msisdn=PHONE)
    first = make_user(phone=PHONE)
    assert access.begin(first, operator, at=NOW) == known
    # The number went to another person, who proves it.
    User.objects.filter(pk=first.pk).update(phone="", phone_verified=False)

    assert access.begin(make_user(phone=PHONE), operator, at=NOW) != known


def test_a_user_has_an_account_at_each_operator_and_no_other(operator: Operator) -> None:
    other = make_operator("other")
    user = make_user(email="a@example.com")

    here, there = access.begin(user, operator, at=NOW), access.begin(user, other, at=NOW)

    assert (here.operator, there.operator) == (operator, other)
    assert access.find(make_user(email="b@example.com"), operator) is None
    with pytest.raises(IntegrityError), transaction.atomic():
        Access.objects.create(
            user=make_user(email="c@example.com"), operator=other, subscriber=here, created_at=NOW
        )
        # The key of both columns says so at once.
