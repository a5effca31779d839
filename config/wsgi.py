"""The WSGI application."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.signals import request_finished
from django.core.wsgi import get_wsgi_application

from config import crowding, garbage

if TYPE_CHECKING:
    from _typeshed.wsgi import InputStream, StartResponse, WSGIEnvironment

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

_django = get_wsgi_application()

# Models need the applications to be loaded.
from metering.api import doors, reservations, usage_records  # noqa: E402
from subscriptions.api.problems import Problem  # noqa: E402

_HOT = "/api/v1/usage-records"
# A body longer than this is left unread where nobody wants it, and its connection is lost.
_MOST = 4 * settings.DATA_UPLOAD_MAX_MEMORY_SIZE
_CHUNK = 65536
_IN_MEMORY = 1024 * 1024
_WITHOUT_BODY = ("GET", "HEAD", "OPTIONS")
_worker = crowding.Worker(settings.DATA / "web-workers")


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
        if environ.get("SERVER_PROTOCOL") == "HTTP/1.1" and _worker.lets_go():
            headers = [*headers, ("Connection", "close")]
        return start_response(status, headers, *error)

    _worker.begin()
    try:
        return _answer(environ, start)
    finally:
        _worker.end()


def _answer(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    hot = _past_django(environ)
    if hot is not None:
        return doors.wsgi(environ, start, *hot)
    if environ["REQUEST_METHOD"] not in _WITHOUT_BODY and not environ.get("CONTENT_LENGTH"):
        size = _gather(environ)
        if size > _MOST:
            environ["wsgi.input"].close()
            return _length_required(start)
    return _django(environ, start)


def _past_django(environ: WSGIEnvironment) -> tuple[doors.Respond, HTTPStatus] | None:
    if environ["REQUEST_METHOD"] != "POST":
        return None
    path = environ["PATH_INFO"]
    if path == _HOT:
        return usage_records.respond, HTTPStatus.OK
    return reservations.past_django(path)


def _gather(environ: WSGIEnvironment) -> int:
    """Read a body sent in chunks and say its length, without which Django takes it for empty."""
    body = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 (it goes with the request)
    for chunk in _pieces(environ["wsgi.input"]):
        body.write(chunk)
    size = body.tell()
    body.seek(0)
    environ["wsgi.input"] = body
    environ["CONTENT_LENGTH"] = str(size)
    return size


def _length_required(start_response: StartResponse) -> list[bytes]:
    said = f"say the Content-Length of a body that is larger than {_MOST} bytes"
    answer = Problem(HTTPStatus.LENGTH_REQUIRED, "too_large", said).response()
    start_response("411 Length Required", list(answer.items()))
    return [answer.content]


def _read_rest(body: InputStream) -> None:
    for _ in _pieces(body):
        pass


def _pieces(body: InputStream) -> Iterator[bytes]:
    """What comes, until it is more than is taken."""
    left = _MOST
    while left >= 0 and (chunk := body.read(_CHUNK)):
        left -= len(chunk)
        yield chunk


garbage.look_seldom()
# A page makes some hundred cycles: those of 260 pages at once took 130 ms, in the middle of one.
# They go when a page is sent.
_MANY = 5_000


def _tidy(**_: Any) -> None:
    if gc.get_count()[0] > _MANY:
        gc.collect(0)


request_finished.connect(_tidy)
