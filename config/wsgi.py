"""The WSGI application."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.signals import request_finished
from django.core.wsgi import get_wsgi_application

from config import garbage

if TYPE_CHECKING:
    from _typeshed.wsgi import InputStream, StartResponse, WSGIEnvironment

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

_django = get_wsgi_application()

# Models need the applications to be loaded.
from metering.api import doors, reservations, usage_records  # noqa: E402

_HOT = "/api/v1/usage-records"
# A body longer than this is left unread where nobody wants it, and its connection is lost.
_MOST = 4 * settings.DATA_UPLOAD_MAX_MEMORY_SIZE
_CHUNK = 65536


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The hot addresses to their doors at once, all else to Django; no answer leaves before its
    request is read to the end.

    Some need no body: a key is refused, the database is away. The web server closes a connection
    on which it answered before all had come, and mostly without saying so: a client that still
    sends may never see the answer, and one that is done loses its next request.
    """

    def start(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
        if int(environ.get("CONTENT_LENGTH") or 0) <= _MOST:
            _read_rest(environ["wsgi.input"])
        return start_response(status, headers, *error)

    hot = _past_django(environ)
    if hot is not None:
        return doors.wsgi(environ, start, *hot)
    return _django(environ, start)


def _past_django(environ: WSGIEnvironment) -> tuple[doors.Respond, HTTPStatus] | None:
    if environ["REQUEST_METHOD"] != "POST":
        return None
    path = environ["PATH_INFO"]
    if path == _HOT:
        return usage_records.respond, HTTPStatus.OK
    return reservations.past_django(path)


def _read_rest(body: InputStream) -> None:
    left = _MOST
    while left > 0 and (chunk := body.read(_CHUNK)):
        left -= len(chunk)


garbage.look_seldom()
# A page makes some hundred cycles: those of 260 pages at once took 130 ms, in the middle of one.
# They go when a page is sent.
_MANY = 5_000


def _tidy(**_: Any) -> None:
    if gc.get_count()[0] > _MANY:
        gc.collect(0)


request_finished.connect(_tidy)
