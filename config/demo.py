"""The whole platform at work: sells plans, replays usage over HTTP, and checks every sum.

Everything is bought, used and read back through the HTTP API, as a carrier's CRM and gateways
would. Generated usage goes to the first seeded operator, whose clock is the wall's; a trace goes
to a test operator of its own, whose clock is set to the trace's time.
"""

from __future__ import annotations

import csv
import datetime as dt
import json
import os
import secrets
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from django.core.management import call_command
from django.db import connection, connections
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from config.embedded import EmbeddedError
from config.serve import Platform, PlatformError
from metering import posting, traces
from metering.posting import Poster, PostingError
from metering.reconciliation import reconcile
from metering.traces import CHAT, LONG_CONTEXT, ControlTotals, Model, Tally, Workload
from subscriptions import catalog, clock, keys
from subscriptions.models import ApiKey, BucketEntry, Operator, OutboxEvent, Plan, RateCard

T = TypeVar("T")
R = TypeVar("R")

POSTERS = 2
BATCH = 1000
READERS = 4
RECORDS = 500_000
SUBSCRIBERS = 1_600
SPAN = dt.timedelta(hours=6)
# A share for each; the token counts of half of them are those of long conversations.
MODELS = (
    Model("deepseek/deepseek-chat", 0.30, CHAT),
    Model("dashscope/qwen-plus", 0.20, CHAT),
    Model("zai/glm-4.6", 0.10, CHAT),
    Model("deepseek/deepseek-v4-flash", 0.20, LONG_CONTEXT),
    Model("moonshot/kimi-k2.6", 0.10, LONG_CONTEXT),
    Model("minimax/MiniMax-M2.5", 0.10, LONG_CONTEXT),
)
# A trace is posted in so many parts; before each the clock moves to the part's last record.
PARTS = 12
LONGEST_PART = dt.timedelta(days=1)
BEFORE = dt.timedelta(minutes=1)
_MICROSECOND = dt.timedelta(microseconds=1)


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


# --- what is replayed -----------------------------------------------------------------------------


@dataclass(slots=True)
class Stage:
    """An operator with its offerings and keys, ready to sell.

    `holders` says which plan each subscriber is to hold, `subjects` what gateways call them, both
    by external id. `control` grows while usage is replayed.
    """

    operator: Operator
    api: Api
    gateway_key: str
    holders: dict[str, str]
    subjects: dict[str, str]
    since: dt.datetime
    until: dt.datetime
    control: ControlTotals = field(default_factory=ControlTotals)


class Api:
    """The operator's side of the HTTP API. Its methods raise DemoError for what is refused."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self.key = key
        # A clock's move answers when all that fell due is done.
        self._http = posting.client(url, timeout=300.0, headers={"Authorization": f"Bearer {key}"})

    def get(self, path: str) -> Any:
        return self._ask("GET", path)

    def post(self, path: str, body: Any) -> Any:
        return self._ask("POST", path, body)

    def put(self, path: str, body: Any) -> Any:
        return self._ask("PUT", path, body)

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        try:
            response = self._http.request(method, f"{self.url}/api/v1/{path}", json=body)
        except httpx.TransportError as error:
            raise DemoError(f"{method} {path}: {error}") from error
        if response.is_error:
            raise DemoError(f"{method} {path}: {response.status_code} {posting.said(response)}")
        return response.json()

    def pages(self, path: str) -> Iterator[Any]:
        page = self.get(path)
        yield from page["items"]
        while page["next"]:
            page = self.get(page["next"].partition("/api/v1/")[2])
            yield from page["items"]


@dataclass(slots=True)
class Generated:
    """Usage of the last hours, for new subscribers of the first seeded operator."""

    run: str = field(default_factory=lambda: secrets.token_hex(4))

    title = f"{RECORDS:,} generated records"
    records = RECORDS
    expected = None

    def stage(self, url: str) -> Stage:
        operator = _seeded()
        api = Api(url, _key(operator.code, ApiKey.Role.OPERATOR))
        now = clock.wall()
        subjects = {
            f"demo-{self.run}-{nr:06d}": f"user-{self.run}-{nr:06d}" for nr in range(SUBSCRIBERS)
        }
        plans = sorted({plan["code"] for plan in api.pages("plans")} - set(_SMALL_PLANS))
        # An ordinary subscriber's mean: of those above it, many run dry.
        plans += _publish_small(api, operator, tokens=1_000_000)
        return Stage(
            operator,
            api,
            _key(operator.code, ApiKey.Role.GATEWAY),
            _dealt(subjects, plans),
            subjects,
            now - SPAN,
            now,
        )

    def sell(self, stage: Stage, progress: Progress) -> None:
        """Plans that began before the usage did: the batch door sells from now on only."""
        _register(stage, progress, with_plans=False)
        start = (stage.since - BEFORE).isoformat()

        def sell(holder: tuple[str, str]) -> None:
            external_id, plan = holder
            order = {"plan": plan, "starts_at": start}
            stage.api.post(f"subscribers/{external_id}/subscriptions", order)

        _each(sell, list(stage.holders.items()), progress, "Selling plans")

    def replay(self, stage: Stage, poster: Poster) -> None:
        workload = Workload(
            records=RECORDS,
            subjects=list(stage.subjects.values()),
            models=MODELS,
            since=stage.since,
            until=stage.until,
            prefix=f"demo-{self.run}",
        )
        poster.post(traces.generate(workload, BATCH, stage.control))
