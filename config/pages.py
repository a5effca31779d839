"""What HTML pages have and the API does not: middleware, policies, error pages, look and language.

Everything that is not listed in `_NO_PAGES` is a page.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import redis
from allauth.core.exceptions import RateLimited
from allauth.usersessions.middleware import UserSessionsMiddleware
from django.conf import settings
from django.contrib.auth.middleware import AuthenticationMiddleware
from django.contrib.messages.middleware import MessageMiddleware
from django.contrib.sessions.middleware import SessionMiddleware
from django.db import DataError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.middleware.clickjacking import XFrameOptionsMiddleware
from django.middleware.csrf import CsrfViewMiddleware
from django.middleware.locale import LocaleMiddleware
from django.shortcuts import render
from django.template.loader import render_to_string
from django.utils.functional import SimpleLazyObject
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST
from django_htmx.middleware import HtmxMiddleware

from subscriptions.api import problems
from subscriptions.portal import doors

log = logging.getLogger(__name__)

# What a page may need and not get.
_AWAY = (*problems.UNAVAILABLE, redis.RedisError)
_NO_PAGES = ("/api/", "/v1/", "/v2/", "/webhooks/", "/healthz", "/static/")
_DOCS = "/api/docs/"
_ACCOUNTS = "/accounts/"

Next = Callable[[HttpRequest], Any]


def is_page(request: HttpRequest) -> bool:
    return not request.path_info.startswith(_NO_PAGES)


# Middleware ---------------------------------------------------------------------------------------


def _for_pages(middleware: type[Any]) -> type[Any]:
    """The same middleware, which the API's requests pass at the price of one comparison.

    A class of its own, so that Django's checks know it for what it is.
    """

    def call(self: Any, request: HttpRequest) -> Any:
        if is_page(request):
            return super(made, self).__call__(request)
        return self.get_response(request)

    def process_view(self: Any, request: HttpRequest, *view: Any) -> Any:
        if is_page(request):
            return super(made, self).process_view(request, *view)
        return None

    members: dict[str, Any] = {"__call__": call}
    if hasattr(middleware, "process_view"):
        members["process_view"] = process_view
    made: type[Any] = type(middleware.__name__, (middleware,), members)
    return made


Sessions = _for_pages(SessionMiddleware)
Locale = _for_pages(LocaleMiddleware)
Csrf = _for_pages(CsrfViewMiddleware)
Authentication = _for_pages(AuthenticationMiddleware)
Messages = _for_pages(MessageMiddleware)
Frames = _for_pages(XFrameOptionsMiddleware)
UserSessions = _for_pages(UserSessionsMiddleware)
Htmx = _for_pages(HtmxMiddleware)

_POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data:",
    "font-src": "'self'",
    "connect-src": "'self'",
    "form-action": "'self'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
}


def _policy(**other: str) -> str:
    rules = _POLICY | {name.replace("_", "-"): value for name, value in other.items()}
    return "; ".join(f"{name} {value}" for name, value in rules.items())


PAGE_POLICY = _policy()
# Swagger's page styles itself as it goes.
DOCS_POLICY = _policy(style_src="'self' 'unsafe-inline'")


def policies(get_response: Next) -> Next:
    """Content-Security-Policy for pages; a view that needs another sets its own."""

    def middleware(request: HttpRequest) -> Any:
        response = get_response(request)
        if is_page(request):
            response.headers.setdefault("Content-Security-Policy", PAGE_POLICY)
            response.headers.setdefault("Permissions-Policy", "camera=(), geolocation=(), usb=()")
        elif request.path_info.startswith(_DOCS):
            response.headers.setdefault("Content-Security-Policy", DOCS_POLICY)
        return response

    return middleware


def exceptions(get_response: Next) -> Next:
    """What ends a view is a page of its own: too many attempts, wherever in allauth's views they
    were counted; what nothing refused before the database did, as text with a NUL character; that
    the database, or what counts attempts, is away."""

    def middleware(request: HttpRequest) -> Any:
        return get_response(request)

    def process_exception(request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if isinstance(exception, RateLimited):
            return too_many(request)
        if isinstance(exception, DataError) and is_page(request):
            log.warning("the database refused a value", exc_info=exception)
            return unreadable(request)
        if isinstance(exception, _AWAY) and is_page(request):
            return away(request, exception)
        return None

    middleware.process_exception = process_exception  # type: ignore[attr-defined]
    return middleware


# Errors -------------------------------------------------------------------------------------------


def _error(request: HttpRequest, status: int, title: str, text: str) -> HttpResponse:
    said = {"title": title, "text": text, "status": status}
    return render(request, "error.html", said, status=status)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    if not is_page(request):
        return problems.bad_request(request, exception)
    # The host may be what is wrong: a page's addresses and cookies are not for it.
    return HttpResponse(_("The request could not be read."), status=400, content_type="text/plain")


def unreadable(request: HttpRequest) -> HttpResponse:
    return _error(
        request,
        400,
        _("The request could not be read."),
        _("Something in it cannot be kept. Go back and write it in another way."),
    )


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    if not is_page(request):
        return problems.forbidden(request, exception)
    return _error(request, 403, _("This is not allowed"), _("Your account may not open this page."))


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    if not is_page(request):
        return problems.not_found(request, exception)
    return _error(
        request,
        404,
        _("There is nothing here"),
        _("The address may be mistyped, or what was here is gone."),
    )


def server_error(request: HttpRequest) -> HttpResponse:
    if not is_page(request):
        return problems.server_error(request)
    error = sys.exc_info()[1]
    if isinstance(error, _AWAY):  # met in a middleware
        return away(request, error)
    return _error(
        request,
        500,
        _("That went wrong on our side"),
        _("The error was recorded. Nothing was bought or charged twice; please try again."),
    )


def away(request: HttpRequest, error: BaseException) -> HttpResponse:
    """Without the request's context: who asks would have to be read from what is away."""
    log.warning("a page needs what is away: %s", error)
    said = {
        "status": 503,
        "title": _("Away for a moment"),
        "text": _("Please try again in a minute. Nothing is bought or charged twice."),
        "theme": _theme(request),
    }
    headers = {"Retry-After": str(problems.RETRY_AFTER_SECONDS)}
    return HttpResponse(render_to_string("error.html", said), status=503, headers=headers)


def too_many(request: HttpRequest) -> HttpResponse:
    return _error(
        request,
        429,
        _("Too many attempts"),
        _("Wait some minutes, then try again. A code that was sent stays good for a while."),
    )


def stale_form(request: HttpRequest, reason: str = "") -> HttpResponse:
    """CSRF_FAILURE_VIEW: mostly a form that was open since before its session ended."""
    return _error(
        request,
        403,
        _("Your session ended"),
        _("Nothing was sent. Open the page again, sign in, and repeat the last step."),
    )


# Look and language --------------------------------------------------------------------------------

THEMES = ("auto", "light", "dark")
_YEAR = 365 * 86400


def look(request: HttpRequest) -> dict[str, Any]:
    """Context of every page: the chosen colours; without a choice the device's are taken. allauth's
    pages are about no operator, but shown at one's portal."""
    said: dict[str, Any] = {"theme": _theme(request)}
    if request.path_info.startswith(_ACCOUNTS):
        said["operator"] = SimpleLazyObject(partial(_shown_at, request))
    return said


def _theme(request: HttpRequest) -> str:
    theme = request.COOKIES.get("theme", "auto")
    return theme if theme in THEMES else "auto"


def _shown_at(request: HttpRequest) -> Any:
    try:
        return doors.operator_at(request)
    except Http404:
        return None


@require_POST
def choose_theme(request: HttpRequest) -> HttpResponse:
    theme = request.POST.get("theme")
    if theme not in THEMES:
        raise Http404
    onward = request.POST.get("next", "")
    if not url_has_allowed_host_and_scheme(
        onward, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    ):
        onward = "/"
    response = HttpResponseRedirect(onward)
    response.set_cookie(
        "theme",
        theme,
        max_age=_YEAR,
        samesite="Lax",
        httponly=True,
        secure=settings.SESSION_COOKIE_SECURE,
    )
    return response


styleguide = partial(render, template_name="styleguide.html")
