"""LiteLLM tells what it served by its own callbacks, and just that was billed."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from config.serve import Platform
from tests.gateways import litellm
from tests.gateways.carrier import Carrier
from tests.gateways.litellm import MODEL, WAYS, LiteLLM, reporting
from tests.gateways.upstream import BROKEN_MODEL, Served, Upstream
from tests.running import eventually, manage

pytestmark = [
    pytest.mark.skipif(
        not litellm.PROGRAM.exists(),
        reason="LiteLLM cannot be installed here; .gateways/install.log says why",
    ),
    pytest.mark.timeout(900),
]

USERS = [f"user-{nr}" for nr in range(10)]
REQUESTS = 200
BROKEN = 10
AT_A_TIME = 8


def request_of(nr: int, words: str) -> dict[str, Any]:
    """Each user's requests in turn, half of them streams; every 21st is one that fails."""
    user = USERS[nr % len(USERS)]
    broken = nr % (REQUESTS // BROKEN + 1) == 0
    body: dict[str, Any] = {
        "model": BROKEN_MODEL if broken else MODEL,
        "messages": [{"role": "user", "content": f"{user} {words}"}],
        "user": user,
    }
    if nr // len(USERS) % 2:
        body["stream"] = True
        if nr % 2:  # without, LiteLLM asks for the usage itself
            body["stream_options"] = {"include_usage": True}
    return body


@pytest.mark.parametrize("way", WAYS)
def test_what_was_served_is_what_was_billed(
    way: str,
    platform: Platform,
    carrier_of: Callable[[str], Carrier],
    upstream: Upstream,
    tmp_path: Path,
) -> None:
    carrier = carrier_of(f"litellm-{WAYS.index(way)}")
    carrier.sell(USERS, allowance=1_000_000_000)
    words = f"prompt-{secrets.token_hex(8)}"

    with (
        LiteLLM(
            tmp_path,
            upstream=upstream.url,
            reporting=reporting(way, carrier.url, carrier.gateway_key),
        ) as proxy,
        httpx.Client(
            base_url=proxy.url,
            headers={"Authorization": f"Bearer {proxy.key}"},
            timeout=120,
            trust_env=False,
        ) as http,
        ThreadPoolExecutor(AT_A_TIME) as pool,
    ):

        def ask(nr: int) -> int:
            return http.post("/v1/chat/completions", json=request_of(nr, words)).status_code

        statuses = list(pool.map(ask, range(REQUESTS + BROKEN)))
        assert (statuses.count(200), statuses.count(400)) == (REQUESTS, BROKEN)
        served = told_by(way, upstream)
        eventually(
            lambda: requests_of(carrier.billed(USERS)) >= requests_of(served),
            lambda: (
                f"{differences(served, carrier.billed(USERS))}, quarantined"
                f" {carrier.quarantined()}, and LiteLLM said: {proxy.said()}"
            ),
        )

    # LiteLLM has ended: nothing more can come.
    assert differences(served, carrier.billed(USERS)) == {}
    for user, one in served.items():
        assert carrier.drawn(user) == one.input_tokens + one.output_tokens
    assert carrier.quarantined() == []
    assert keeping(platform, words) == []


def told_by(way: str, upstream: Upstream) -> Mapping[str, Served]:
    """What was served, as far as LiteLLM tells it in this way."""
    served = dict(upstream.served)
    assert requests_of(served) == REQUESTS
    for user, one in served.items():
        if way.startswith("generic_api"):
            one.requests += upstream.refused[user]  # told too, and charged nothing
        else:
            one.cached_input_tokens = one.reasoning_tokens = 0  # only totals are told
    return served


def requests_of(counts: Mapping[str, Served]) -> int:
    return sum(one.requests for one in counts.values())


def differences(served: Mapping[str, Served], billed: Mapping[str, Served]) -> dict[str, object]:
    return {
        user: (served.get(user), billed.get(user))
        for user in sorted(served.keys() | billed.keys())
        if served.get(user) != billed.get(user)
    }


def keeping(platform: Platform, words: str) -> list[str]:
    """The platform's tables and logs in which these words are found."""
    program = (
        "import json, sys, django; django.setup(); from tests.usage import texts_holding;"
        " print(json.dumps(texts_holding(sys.argv[1])))"
    )
    tables: list[str] = json.loads(manage(platform, program, words, program="-c"))
    logs = [log for log in platform.logs.iterdir() if words in log.read_text(errors="replace")]
    return tables + [log.name for log in logs]
