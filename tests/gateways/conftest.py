"""The platform for all gateways, and what each of their tests begins with."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from config.serve import Platform
from tests.gateways.carrier import Carrier
from tests.gateways.upstream import Upstream
from tests.running import running


@pytest.fixture(scope="session")
def platform() -> Iterator[Platform]:
    with running() as platform:
        yield platform


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture
def carrier_of(platform: Platform) -> Iterator[Callable[[str], Carrier]]:
    """Makes a carrier with this code."""
    carriers = []

    def make(code: str) -> Carrier:
        carriers.append(Carrier(platform, code))
        return carriers[-1]

    yield make
    for carrier in carriers:
        carrier.close()
