"""The doors that payment providers tell us things through: no key of ours, their signature.

Plain views: a notice is checked on its raw bytes, stored, and answered when that is committed;
what follows from it is done by the worker.
"""

from __future__ import annotations

import logging
from http import HTTPStatus

from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.http.request import UnreadablePostError
from django.views.decorators.csrf import csrf_exempt

from billing import inbox
from billing.ways import accounts, known
from billing.ways.provider import Unreadable, Unverified
from subscriptions import clock, sealing
from subscriptions.api import problems
from subscriptions.api.problems import Problem

log = logging.getLogger(__name__)

LARGEST = 1024 * 1024


@csrf_exempt
def webhook(request: HttpRequest, provider: str, public_id: str) -> HttpResponse:
    """Keep what a provider tells; 2xx once it is kept, so that it is told again until then."""
    if request.method != "POST":
        return problems.method_not_allowed(["POST"])
    try:
        return _webhook(request, provider, public_id)
    except (OperationalError, InterfaceError, UnreadablePostError) as error:
        return problems.of_exception(error)


def _webhook(request: HttpRequest, provider: str, public_id: str) -> HttpResponse:
    # Before anything is read, or looked up.
    told = request.META.get("CONTENT_LENGTH") or "0"
    if not told.isdecimal() or int(told) > LARGEST:
        return _too_large()
    account = accounts.addressed(provider, public_id)
    if account is None:
        return Problem(404, "not_found", "there is no such account").response()
    body = request.read(LARGEST + 1)
    if len(body) > LARGEST:
        return _too_large()
    at = clock.now(account.operator)
    partner = known.partner_of(account, at=at)
    try:
        notice = partner.verify(request.headers, body, wall=clock.wall())
    except Unverified as error:
        return Problem(400, "unverified", str(error)).response()
    except Unreadable as error:
        return Problem(400, "malformed", str(error)).response()
    except sealing.Unreadable:
        # Ours to mend: the company tells it again until then, so nothing is lost.
        log.exception("the secrets of %s cannot be opened", account)
        return Problem(
            503,
            "unavailable",
            "the account's secrets cannot be opened here",
            headers={"Retry-After": "60"},
        ).response()
    inbox.keep(account, notice, body, received_at=at)
    return HttpResponse(status=HTTPStatus.OK)


def _too_large() -> HttpResponse:
    return Problem(413, "too_large", f"a notice has at most {LARGEST} bytes").response()
