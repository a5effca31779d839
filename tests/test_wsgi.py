"""What a web worker does beside answering."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

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
