"""A carrier on the running platform: what it sells, and what it has billed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

from config.serve import Platform
from tests.gateways.upstream import Served
from tests.running import manage

DAY = dt.timedelta(days=1)


class Carrier:
    """An operator that lives by the wall's clock, as gateways do. Every token weighs one unit."""

    def __init__(self, platform: Platform, code: str) -> None:
        def issue(role: str) -> str:
            whose = ("--role", role, "--name", role, "--operator", code)
            return manage(platform, "issue_key", *whose).strip()

        self.url = platform.url
        self.gateway_key = issue("gateway")
        self._http = httpx.Client(
            base_url=f"{platform.url}/api/v1/",
            headers={"Authorization": f"Bearer {issue('operator')}"},
            timeout=30,
            trust_env=False,
        )
        weight = {"model": "deepseek/*", "input": "1", "cached_input": "1", "cache_write": "1"}
        card = [{**weight, "output": "1", "reasoning": "1"}]
        since = "2026-01-01T00:00:00Z"
        self.call("PUT", "rate-cards/standard", {"effective_from": since, "weights": card})

    def close(self) -> None:
        self._http.close()

    def call(self, method: str, path: str, body: Any = None, **query: str) -> Any:
        answer = self._http.request(method, path, json=body, params=query)
        assert answer.is_success, answer.text
        return answer.json()

    def sell(self, users: Sequence[str], *, allowance: int) -> None:
        """A plan for each, whom gateways call by the same name; valid when this returns."""
        terms = {"name": "Light", "price": "9.90", "rate_card": "standard"}
        self.call("PUT", "plans/light", {**terms, "allowance": str(allowance)})
        drafts = [{"external_id": one, "subjects": [one], "plan": "light"} for one in users]
        sold = self.call("POST", "subscribers/batch", drafts)["items"]
        assert not any("cause" in one for one in sold), sold

    def billed(self, users: Sequence[str]) -> Mapping[str, Served]:
        """What each was charged for; those who were charged for nothing are not in it."""
        now = dt.datetime.now(dt.UTC)
        span = {"from": (now - DAY).isoformat(), "to": (now + DAY).isoformat()}
        found = {}
        for one in users:
            total = Served()
            for row in self.call("GET", f"subscribers/{one}/usage", by="hour", **span)["items"]:
                total.requests += row["requests"]
                total.input_tokens += row["input_tokens"]
                total.cached_input_tokens += row["cached_input_tokens"]
                total.output_tokens += row["output_tokens"]
                total.reasoning_tokens += row["reasoning_tokens"]
            if total.requests:
                found[one] = total
        return found

    def drawn(self, user: str) -> float:
        """Units drawn from the user's buckets of any kind."""
        buckets = self.call("GET", f"subscribers/{user}/balance")["buckets"]
        return sum(float(bucket["used"]) for bucket in buckets)

    def quarantined(self) -> list[Any]:
        rows: list[Any] = self.call("GET", "quarantine")["items"]
        return rows
