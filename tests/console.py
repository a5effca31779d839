"""Staff for tests, and the way into the console."""

from __future__ import annotations

from typing import Any

from allauth.account.internal.flows.login import AUTHENTICATION_METHODS_SESSION_KEY
from allauth.mfa.adapter import get_adapter
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal.auth import (
    format_hotp_value,
    hotp_value,
    yield_hotp_counters_from_time,
)
from django.test import Client

from subscriptions import clock
from subscriptions.models import Operator, Role, Staff
from subscriptions.users import staff as employment
from tests.factories import NOW

PASSWORD = "correct-horse-battery"
SECRET = "JBSWY3DPEHPK3PXP"


def hire(operator: Operator, role: str = Role.PLATFORM, email: str = "") -> Staff:
    """Somebody new on the staff, with a password and a second factor."""
    email = email or f"{role}@{operator.code}.example.com"
    hired = employment.engage(email, operator, role, password=PASSWORD, at=NOW)
    secret = get_adapter().encrypt(SECRET)
    Authenticator.objects.get_or_create(
        user=hired.user, type=Authenticator.Type.TOTP, defaults={"data": {"secret": secret}}
    )
    return hired


def sign_in(client: Client, hired: Staff) -> Any:
    """By the pages: password, then code."""
    client.post(
        "/accounts/login/", {"login": hired.user.email, "password": PASSWORD, "next": "/admin/"}
    )
    counter = next(iter(yield_hotp_counters_from_time()))
    code = format_hotp_value(hotp_value(SECRET, counter))
    return client.post("/accounts/2fa/authenticate/", {"code": code})


def at_work(client: Client, hired: Staff, methods: tuple[str, ...] = ("password", "mfa")) -> Client:
    """As after a sign-in by these, without its pages."""
    client.force_login(hired.user, backend="allauth.account.auth_backends.AuthenticationBackend")
    session = client.session
    session[AUTHENTICATION_METHODS_SESSION_KEY] = [
        {"method": method, "at": clock.wall().timestamp()} for method in methods
    ]
    session["account_authentication_methods_user"] = str(hired.user.pk)
    session.save()
    return client
