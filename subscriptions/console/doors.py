"""Who stands before the console, and what lies between them and a page.

In this order: a session; work at an operator; a network that the operator allows; a password and
a second factor in this session; a sign-in that is not too old, and no long pause since.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from allauth.account.adapter import get_adapter
from allauth.account.internal.flows.login import get_authentication_records
from allauth.mfa.models import Authenticator
from django.contrib.auth import logout
from django.contrib.auth.models import Permission
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.urls import reverse
from django.utils import timezone

from subscriptions import auditing, clock
from subscriptions.models import AuditEntry, Operator, Staff, Subscriber, User
from subscriptions.users import staff as employment

# How long a sign-in is good for, and how long nobody may have touched a page.
SIGNED_IN_FOR = dt.timedelta(hours=12)
IDLE_FOR = dt.timedelta(minutes=30)

_SEEN = "console_seen"
CHOSEN = "console_operator"


@dataclass(frozen=True)
class Visit:
    """A member of the staff at work: all that a page shows or does is of `operator`."""

    staff: Staff
    now: dt.datetime
    address: str | None
    # Everybody the same person may work for, this one among them.
    elsewhere: tuple[Staff, ...] = ()

    @property
    def operator(self) -> Operator:
        return self.staff.operator

    @cached_property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.operator.time_zone)

    @cached_property
    def permissions(self) -> frozenset[str]:
        """What the role's group may do, as `migrate` wrote it down."""
        rows = Permission.objects.filter(
            group__name=self.staff.role, content_type__model="console"
        ).values_list("content_type__app_label", "codename")
        return frozenset(f"{room}.{name}" for room, name in rows)

    def may(self, permission: str) -> bool:
        return permission in self.permissions

    def note(
        self,
        action: str,
        *,
        about: str = "",
        subscriber: Subscriber | None = None,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
        reason: str = "",
    ) -> AuditEntry:
        """Write down what is done here, within the transaction that does it."""
        return auditing.write(
            self.staff,
            action,
            at=clock.wall(),
            address=self.address,
            about=about,
            subscriber=subscriber,
            before=before,
            after=after,
            reason=reason,
        )


def visit_of(request: HttpRequest) -> Visit:
    visit = request.visit  # type: ignore[attr-defined]
    assert isinstance(visit, Visit)
    return visit


def enter(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """A view of the console: it is called with `request.visit`, or not at all."""

    @wraps(view)
    def door(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        user = request.user
        if not isinstance(user, User):
            return _to_sign_in(request)
        serving = employment.serving(user)
        if not serving:
            # To everybody else there is no console.
            raise Http404
        chosen = request.session.get(CHOSEN)
        at_work = next((one for one in serving if one.operator_id == chosen), serving[0])
        address = get_adapter(request).get_client_ip(request)
        if not employment.may_come_from(at_work.operator, address):
            raise PermissionDenied
        turned_away = _prove_identity(request, user) or _too_old(request, user)
        if turned_away is not None:
            return turned_away
        visit = Visit(at_work, clock.now(at_work.operator), address, tuple(serving))
        request.visit = visit  # type: ignore[attr-defined]
        with timezone.override(visit.zone):
            response = view(request, *args, **kwargs)
        response.headers.setdefault("Cache-Control", "private, no-store")
        return response

    return door


def _prove_identity(request: HttpRequest, user: User) -> HttpResponse | None:
    """The way to what is missing of password and second factor; None where both were given.

    A passkey that signed in by itself is both.
    """
    records = get_authentication_records(request, user)
    second = [record for record in records if record["method"] == "mfa"]
    if second:
        if any(record.get("passwordless") for record in second):
            return None
        if any(record["method"] == "password" for record in records):
            return None
        way = "account_reauthenticate" if user.has_usable_password() else "account_set_password"
    elif Authenticator.objects.filter(
        user=user, type__in=[Authenticator.Type.TOTP, Authenticator.Type.WEBAUTHN]
    ).exists():
        way = "mfa_reauthenticate"
    else:
        way = "console_second_factor"
    return _lead(request, reverse(way))


def _too_old(request: HttpRequest, user: User) -> HttpResponse | None:
    """Ends a session that is older than a shift, or that was left alone."""
    now = clock.wall().timestamp()
    signed_in = max(record["at"] for record in get_authentication_records(request, user))
    seen = request.session.get(_SEEN, signed_in)
    left_alone = now - max(seen, signed_in) > IDLE_FOR.total_seconds()
    if left_alone or now - signed_in > SIGNED_IN_FOR.total_seconds():
        logout(request)
        return _to_sign_in(request, ended=True)
    # A session that is written at each click waits for itself.
    if now - seen > 60 or _SEEN not in request.session:
        request.session[_SEEN] = now
    return None


def _to_sign_in(request: HttpRequest, *, ended: bool = False) -> HttpResponse:
    return _lead(request, reverse("account_login"), **({"ended": "1"} if ended else {}))


def _lead(request: HttpRequest, way: str, **more: str) -> HttpResponse:
    if request.headers.get("HX-Request"):
        # The script loads the page anew, which then leads there.
        return HttpResponse(status=401)
    onward = request.get_full_path() if request.method == "GET" else reverse("admin:index")
    return HttpResponseRedirect(f"{way}?{urlencode({'next': onward, **more})}")
