"""nginx asks before each request: the one after the last token is not let through."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.gateways import nginx
from tests.gateways.carrier import Carrier
from tests.gateways.nginx import Nginx
from tests.gateways.upstream import Upstream
from token_billing_client import Client, Usage

pytestmark = [
    pytest.mark.skipif(
        nginx.PROGRAM is None,
        reason="nginx cannot be installed here; as root: apt-get install nginx-light",
    ),
    pytest.mark.timeout(900),
]

USER = "user-1"
MODEL = "deepseek/deepseek-chat"
ALLOWANCE = 50_000
TOP_UP_URL = "https://shop.example/top-up"


def test_the_request_after_the_last_token_is_refused(
    carrier_of: Callable[[str], Carrier], upstream: Upstream, tmp_path: Path
) -> None:
    carrier = carrier_of("nginx")
    carrier.sell([USER], allowance=ALLOWANCE)
    carrier.call("PATCH", "operator", {"top_up_url": TOP_UP_URL})
    body = {"model": MODEL, "messages": [{"role": "user", "content": USER}]}
    (tmp_path / "nginx").mkdir()

    with (
        Nginx(
            tmp_path / "nginx",
            upstream=upstream.url,
            platform=carrier.url,
            key=carrier.gateway_key,
        ) as proxy,
        httpx.Client(base_url=proxy.url, timeout=60, trust_env=False) as http,
        Client(carrier.url, carrier.gateway_key, spool=tmp_path / "spool") as billing,
    ):

        def ask(user: str) -> httpx.Response:
            headers = {"X-User": user, "X-Model": MODEL}
            return http.post("/v1/chat/completions", json=body, headers=headers)

        left = ALLOWANCE
        while left > 0:
            answer = ask(USER)
            assert answer.status_code == 200, answer.text
            assert int(answer.headers["X-Tokens-Remaining"]) == left
            used = answer.json()["usage"]
            # nginx counts no tokens: whoever reads the answers reports them.
            usage = Usage(
                id=answer.json()["id"],
                subject=USER,
                model=MODEL,
                input_tokens=used["prompt_tokens"],
                output_tokens=used["completion_tokens"],
            )
            billing.record(usage)
            assert billing.flush(seconds=60)
            left -= used["total_tokens"]
        served = upstream.served[USER].requests
        refused = ask(USER)
        unknown = ask("nobody")

    assert served > 5
    assert (refused.status_code, refused.headers["X-Cause"]) == (403, "exhausted")
    assert refused.headers["X-Tokens-Remaining"] == "0"
    assert refused.headers["X-Top-Up-Url"] == TOP_UP_URL
    assert (unknown.status_code, unknown.headers["X-Cause"]) == (403, "unknown_subject")
    # Neither came through, and what was served is what was billed.
    assert upstream.served[USER].requests == served
    assert carrier.billed([USER])[USER].requests == served
    assert carrier.drawn(USER) == ALLOWANCE - left
