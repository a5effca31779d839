"""The LiteLLM proxy from PyPI, configured and otherwise as it comes."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import httpx

from tests.gateways.upstream import BROKEN_MODEL
from tests.running import PATIENCE, ROOT, free_port

PROGRAM = ROOT / ".gateways" / "venv" / "bin" / "litellm"
MODEL = "deepseek/deepseek-chat"


@dataclass(frozen=True, slots=True)
class Reporting:
    """How LiteLLM tells us what it served: a callback, and what its documentation says to set."""

    callback: str
    variables: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str | int | dict[str, str]] = field(default_factory=dict)


WAYS = ("openmeter", "lago", "generic_api", "generic_api ndjson", "generic_api single")


def reporting(way: str, url: str, key: str) -> Reporting:
    """One of the WAYS, to this platform."""
    name, _, shape = way.partition(" ")
    events, bearer = f"{url}/api/v1/events", f"Bearer {key}"
    if shape:
        there = {"callback_type": name, "endpoint": events, "log_format": shape}
        headers = {"Authorization": bearer, "Content-Type": "application/json"}
        again = {"max_retries": 8, "retry_delay": 1}
        return Reporting("billing", settings={**there, **again, "headers": headers})
    variables = {
        "openmeter": {"OPENMETER_API_ENDPOINT": url, "OPENMETER_API_KEY": key},
        "lago": {
            "LAGO_API_BASE": url,
            "LAGO_API_KEY": key,
            "LAGO_API_EVENT_CODE": "tokens",
            "LAGO_API_CHARGE_BY": "end_user_id",
        },
        "generic_api": {
            "GENERIC_LOGGER_ENDPOINT": events,
            "GENERIC_LOGGER_HEADERS": f"Authorization={bearer}",
        },
    }
    return Reporting(name, variables[name])


class LiteLLM:
    """The proxy, in a `with` block."""

    def __init__(self, folder: Path, *, upstream: str, reporting: Reporting) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.key = f"sk-{secrets.token_hex(32)}"
        self.log = folder / "litellm.log"
        config = folder / "litellm.yaml"
        # JSON is YAML too.
        config.write_text(json.dumps(_config(upstream, reporting), indent=2))
        self._command = [
            *(str(PROGRAM), "--config", str(config), "--telemetry", "False"),
            *("--host", "127.0.0.1", "--port", str(port)),
        ]
        self._environment = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
            "LITELLM_MASTER_KEY": self.key,
            # It would look for prices on the net, three times.
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "NO_PROXY": "127.0.0.1",
            **reporting.variables,
        }

    def __enter__(self) -> Self:
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self.log.parent,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + PATIENCE
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise RuntimeError(f"LiteLLM does not start: {self.said()}")
            time.sleep(0.2)
        return self

    def __exit__(self, *error: object) -> None:
        if self._process.poll() is not None:
            return
        os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def said(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-4000:]

    def _ready(self) -> bool:
        try:
            answer = httpx.get(f"{self.url}/health/readiness", timeout=5, trust_env=False)
        except httpx.TransportError:
            return False
        return answer.status_code == 200


def _config(upstream: str, reporting: Reporting) -> dict[str, object]:
    def model(name: str) -> dict[str, object]:
        there = {"model": f"openai/{name}", "api_base": f"{upstream}/v1", "api_key": "none"}
        return {"model_name": name, "litellm_params": there}

    return {
        "model_list": [model(MODEL), model(BROKEN_MODEL)],
        "litellm_settings": {"callbacks": [reporting.callback], "num_retries": 0},
        "callback_settings": {reporting.callback: reporting.settings} if reporting.settings else {},
    }
