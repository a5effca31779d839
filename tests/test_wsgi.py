"""What a web worker does beside answering."""

from __future__ import annotations

import gc
import io
import json
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.signals import request_finished

from config import wsgi


class Knot:
    """What only a look for cycles frees."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def alone() -> Iterator[None]:
    """Nobody else looks for cycles meanwhile."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.django_db
@pytest.mark.usefixtures("alone")
def test_cycles_go_when_a_page_is_sent_and_not_for_a_few() -> None:
    one = weakref.ref(Knot())

    request_finished.send(sender=None)
    assert one() is not None

    last = [weakref.ref(Knot()) for _ in range(wsgi._MANY)][-1]
    request_finished.send(sender=None)
    assert last() is None


def test_chunks_beyond_what_is_kept_for_nobody_are_refused() -> None:
    class Endless(io.RawIOBase):
        def readinto(self, into: Any) -> int:
            return len(into)

    told: list[Any] = []
    environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/api/v1/imports", "wsgi.input": Endless()}

    [body] = wsgi.application(environ, lambda status, headers: told.append((status, headers)))  # type: ignore[arg-type]

    [(status, headers)] = told
    assert status == "411 Length Required"
    assert ("Content-Type", "application/problem+json") in headers
    assert json.loads(body)["cause"] == "too_large"
