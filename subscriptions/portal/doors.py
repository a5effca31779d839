"""What every page of the portal shares: whose portal it is, who is looking, and when."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone

from subscriptions import balances, clock
from subscriptions.models import Operator, Subscriber, User
from subscriptions.portal import looking
from subscriptions.users import access, staff


@dataclass(frozen=True)
class Visit:
    """A subscriber's look at their own account: all that a page shows is `subscriber`'s."""

    operator: Operator
    subscriber: Subscriber
    now: dt.datetime
    # Somebody on the staff looks at it, and may change nothing.
    looking: bool = False

    @cached_property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.operator.time_zone)

    def bring_up(self) -> None:
        """Open what is due, so that what is read next is not behind."""
        balances.bring_up(self.subscriber.pk, at=self.now)


Page = Callable[..., HttpResponseBase]


def operator_at(request: HttpRequest) -> Operator:
    """Whose portal the host is. Raises Http404 where that is nobody's."""
    code = _code_at(request)
    # Two where nobody said which: then it is neither's.
    found = list(Operator.objects.filter(code=code) if code else Operator.objects.all()[:2])
    if len(found) != 1:
        raise Http404
    return found[0]


def _code_at(request: HttpRequest) -> str:
    host = request.get_host().rpartition(":")[0] or request.get_host()
    return str(settings.PORTAL_HOSTS.get(host) or settings.PORTAL_OPERATOR)


def public(page: Page) -> Page:
    """A page that needs no session; it is given the operator."""

    @wraps(page)
    def door(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        operator = operator_at(request)
        request.operator = operator  # type: ignore[attr-defined]
        with timezone.override(ZoneInfo(operator.time_zone)):
            return page(request, operator, *args, **kwargs)

    return door


def own(page: Page) -> Page:
    """A page about the account of whoever is signed in; it is given the visit."""

    @wraps(page)
    def door(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        user = request.user
        if not isinstance(user, User):
            return _to_sign_in(request)
        # Staff see what the subscriber does.
        shown = looking.looked_at(request, user)
        if shown is not None and request.method not in ("GET", "HEAD"):
            raise PermissionDenied
        # All at once for who has been here before.
        subscriber = shown or access.known_at(user, _code_at(request))
        operator = subscriber.operator if subscriber else operator_at(request)
        now = clock.now(operator)
        if subscriber is None and staff.serving(user):
            return HttpResponseRedirect(reverse("admin:index"))  # who works here is no customer
        if subscriber is None:
            subscriber = access.begin(user, operator, at=now)
        request.operator = operator  # type: ignore[attr-defined]
        visit = Visit(operator, subscriber, now, looking=shown is not None)
        with timezone.override(visit.zone):
            response = page(request, visit, *args, **kwargs)
        # What is somebody's own is kept by nobody in between, nor shown after they signed out.
        response.headers.setdefault("Cache-Control", "private, no-store")
        return response

    return door


def show(request: HttpRequest, template: str, visit: Visit, /, **context: Any) -> HttpResponse:
    return render(
        request, template, {"operator": visit.operator, "visit": visit, "now": visit.now, **context}
    )


def _to_sign_in(request: HttpRequest) -> HttpResponse:
    # A part of a page asks while that page is open: it is the page that is led away, and back.
    part = getattr(request, "htmx", None)
    asked = {"next": (part and part.current_url_abs_path) or request.get_full_path()}
    if part or settings.SESSION_COOKIE_NAME in request.COOKIES:
        asked["ended"] = "1"
    sign_in = f"{reverse('account_login')}?{urlencode(asked)}"
    if part:
        return HttpResponse(status=401, headers={"HX-Redirect": sign_in})
    return HttpResponseRedirect(sign_in)
