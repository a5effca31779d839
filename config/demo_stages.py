"""What the demo replays, and for whom: generated usage, or a trace.

Each is a stage: an operator with plans on sale and keys, the subscribers to be, and a `replay` that
posts their usage. Everything is published, bought and posted through the HTTP API, as a carrier's
CRM and gateways would.
"""

from __future__ import annotations

import csv
import datetime as dt
import json
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Self

import httpx

from metering import traces
from metering.traces import CHAT, LONG_CONTEXT, ControlTotals, Model, Record, Tally, Workload
from subscriptions import clock, keys, seeding
from subscriptions.models import ApiKey, Operator
from token_billing_client import Poster
from token_billing_client.wire import connect, said

BATCH = 1000
THREADS = 4  # for what the API takes one at a time

RECORDS = 500_000
SUBSCRIBERS = 1_000
SPAN = dt.timedelta(hours=6)
# Half of the requests have the token counts of short chats, half those of long conversations.
MODELS = (
    Model("deepseek/deepseek-chat", 0.25, CHAT),
    Model("dashscope/qwen-plus", 0.15, CHAT),
    Model("zai/glm-4.6", 0.10, CHAT),
    Model("deepseek/deepseek-v4-flash", 0.25, LONG_CONTEXT),
    Model("minimax/MiniMax-M2.5", 0.15, LONG_CONTEXT),
    Model("moonshot/kimi-k2.6", 0.10, LONG_CONTEXT),
)
# So many of the busiest are sold a plan that bills what goes beyond it.
BUSIEST = 10
METERED = "demo-metered"
# Plans begin so long before the usage does.
BEFORE = dt.timedelta(minutes=1)
# A trace is posted in so many parts; before each the clock moves to the part's last record.
PARTS = 12
LONGEST_PART = dt.timedelta(days=1)

Advance = Callable[[int], None]  # told how many more are done


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


class Api:
    """An operator's side of the HTTP API; safe to share among threads."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self.key = key
        # A clock's move answers when all that fell due is done: that may take a while.
        self._http = connect(url, timeout=300.0, headers={"Authorization": f"Bearer {key}"})

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """The answer's JSON. Raises DemoError where the request is refused or not answered."""
        try:
            response = self._http.request(method, f"{self.url}/api/v1/{path}", json=body)
        except httpx.TransportError as error:
            raise DemoError(f"{method} {path}: {error or type(error).__name__}") from error
        if response.is_error:
            raise DemoError(f"{method} {path}: {response.status_code} {said(response)}")
        return response.json()

    def close(self) -> None:
        self._http.close()

    def items(self, path: str) -> Iterator[Any]:
        """All items of a list, over its pages."""
        while path:
            page = self.call("GET", path)
            yield from page["items"]
            path = (page["next"] or "").partition("/api/v1/")[2]


@dataclass(frozen=True, slots=True)
class Expected:
    """What the platform has to add up to, and who says so; `months` by `2026-06`, local time."""

    source: str
    overall: Tally
    subjects: Mapping[str, Tally]
    months: Mapping[str, Tally]


class Stage(ABC):
    """An operator with its plans on sale, and usage to come.

    `plans` and `subjects` say what each subscriber, by external id, is to hold and what gateways
    call it. `control` grows while the usage is posted. To be used in a `with` block.
    """

    title: str
    records: int
    since: dt.datetime
    until: dt.datetime
    operator: Operator
    api: Api
    gateway_key: str
    subjects: dict[str, str]
    plans: dict[str, str]
    control: ControlTotals

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.api.close()

    @abstractmethod
    def sell(self, advance: Advance) -> None:
        """Create the subscribers, each with its plan."""

    @abstractmethod
    def replay(self, poster: Poster) -> None:
        """Post all usage."""

    def expected(self) -> Expected:
        """To be asked when all is posted."""
        return Expected("counted while posting", self.control.overall, self.control.subjects, {})

    def _register(self, advance: Advance, *, with_plan: bool) -> None:
        """The subscribers in batches. Raises DemoError if any is rejected."""
        everyone = list(self.subjects)
        for first in range(0, len(everyone), BATCH):
            part = everyone[first : first + BATCH]
            items = [
                {
                    "external_id": one,
                    "subjects": [self.subjects[one]],
                    "plan": self.plans[one] if with_plan else None,
                }
                for one in part
            ]
            for outcome in self.api.call("POST", "subscribers/batch", items)["items"]:
                if outcome["status"] == "rejected":
                    raise DemoError(f"a subscriber was rejected: {outcome}")
            if with_plan:
                advance(len(part))


class Generated(Stage):
    """Usage of the last hours, for new subscribers of the operator that was seeded first."""

    def __init__(self, url: str, *, records: int = RECORDS, subscribers: int = SUBSCRIBERS) -> None:
        self.records = records
        self.title = f"{records:,} generated records"
        self.run = secrets.token_hex(4)  # this demo's own subscribers, subjects and record ids
        self.until = clock.wall()
        self.since = self.until - SPAN
        self.control = ControlTotals()
        self.operator = Operator.objects.get(code=seeding.SELLS_PLANS)
        self.api = Api(url, issue(self.operator.code, ApiKey.Role.OPERATOR))
        self.gateway_key = issue(self.operator.code, ApiKey.Role.GATEWAY)
        self.subjects = {
            f"demo-{self.run}-{nr:06d}": f"user-{self.run}-{nr:06d}" for nr in range(subscribers)
        }
        # The generator's first subjects are its busiest; the others use a million tokens or so.
        self.plans = _deal(list(self.subjects), _offer(self.api, allowance=1_000_000))

    def sell(self, advance: Advance) -> None:
        """Plans that began before the usage did, one by one: the batch door sells from now on."""
        self._register(advance, with_plan=False)
        starts_at = (self.since - BEFORE).isoformat()

        def order(external_id: str) -> None:
            body = {"plan": self.plans[external_id], "starts_at": starts_at}
            self.api.call("POST", f"subscribers/{external_id}/subscriptions", body)
            advance(1)

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(order, self.plans))

    def replay(self, poster: Poster) -> None:
        workload = Workload(
            records=self.records,
            subjects=list(self.subjects.values()),
            models=MODELS,
            since=self.since,
            until=self.until,
            prefix=f"demo-{self.run}",
        )
        poster.post(traces.generate(workload, BATCH, self.control))


class Traced(Stage):
    """A trace, for a test operator of its own whose clock is set to the trace's time."""

    def __init__(self, url: str, path: Path) -> None:
        self.path = path
        self.control = ControlTotals()
        mean = self._survey()
        self.title = f"{self.records:,} records of {path.name}"
        name = path.name.partition(".")[0].replace("_", "-")[:40]
        code = f"trace-{name}-{secrets.token_hex(4)}"
        key = issue(code, ApiKey.Role.OPERATOR, test=True)
        self.operator = Operator.objects.get(code=code)
        self.api = Api(url, key)
        self.gateway_key = issue(code, ApiKey.Role.GATEWAY)
        self.clock_at = self.since - BEFORE
        self._move_clock(self.clock_at)
        seeding.seed_offerings(self.operator, at=self.clock_at)
        self.plans = _deal(list(self.subjects), _offer(self.api, allowance=mean))

    def _survey(self) -> int:
        """Who is in the trace, from when to when; answers a subject's mean number of tokens."""
        counted = ControlTotals()
        moments = []
        for record in traces.read(self.path):
            counted.count([record])
            moments.append(_moment(record))
        if not counted.subjects:
            raise DemoError(f"{self.path} holds no usage")
        self.records = len(moments)
        self.since, self.until = min(moments), max(moments)
        total = counted.overall
        tokens = {name: t.input_tokens + t.output_tokens for name, t in counted.subjects.items()}
        busiest_first = sorted(tokens, key=lambda name: -tokens[name])
        self.subjects = {f"demo-{nr:06d}": name for nr, name in enumerate(busiest_first)}
        return (total.input_tokens + total.output_tokens) // len(self.subjects)

    def sell(self, advance: Advance) -> None:
        self._register(advance, with_plan=True)

    def replay(self, poster: Poster) -> None:
        """Part by part, each as it would arrive: the clock stands at its last record.

        So usage of a month's last minutes may come when the next has begun, as it does in life.
        """
        length = min((self.until - self.since) / PARTS, LONGEST_PART) or LONGEST_PART
        for _, part in groupby(
            traces.read(self.path), key=lambda record: (_moment(record) - self.since) // length
        ):
            records = list(part)
            latest = max(_moment(record) for record in records)
            if latest > self.clock_at:
                self._move_clock(latest)
            poster.post(traces.in_batches(records, BATCH, self.control))

    def _move_clock(self, to: dt.datetime) -> None:
        self.api.call("POST", "test-clock", {"now": to.isoformat()})
        self.clock_at = to

    def expected(self) -> Expected:
        return published_totals(self.path, self.control) or super().expected()


def _moment(record: Record) -> dt.datetime:
    """When a record's usage occurred. Raises DemoError where it does not say."""
    try:
        moment = dt.datetime.fromisoformat(record["occurred_at"])
        return moment.astimezone(dt.UTC) if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
    except (KeyError, TypeError, ValueError) as error:
        raise DemoError(f"a record has no time that can be read: {record}") from error


def published_totals(path: Path, control: ControlTotals) -> Expected | None:
    """The control totals that lie beside a trace, or None. They do not say whose input was
    cached: that is as we counted."""
    stem = path.with_name(path.name.partition(".")[0])
    totals, by_subject = stem.with_suffix(".totals.json"), stem.with_suffix(".subject_totals.csv")
    if not (totals.exists() and by_subject.exists()):
        return None
    said = json.loads(totals.read_text())
    subjects = {}
    with by_subject.open(newline="") as file:
        for row in csv.DictReader(file):
            counted = control.subjects.get(row["subject"], Tally())
            subjects[row["subject"]] = Tally(
                int(row["requests"]),
                int(row["input_tokens"]),
                int(row["output_tokens"]),
                counted.cached_input_tokens,
            )
    months = {
        month: Tally(one["n"], one["input"], one["output"])
        for month, one in said.get("per_beijing_month", {}).items()
    }
    overall = Tally(said["rows"], said["sum_input"], said["sum_output"], said["sum_cached"])
    return Expected(f"in {totals.name} and {by_subject.name}", overall, subjects, months)


# --- what is on sale ------------------------------------------------------------------------------


def issue(operator: str, role: str, *, test: bool = False) -> str:
    at = clock.wall()
    return keys.issue(operator_code=operator, role=role, name="demo", at=at, test=test)


def _offer(api: Api, *, allowance: int) -> list[str]:
    """The plans on sale, METERED first: the operator's, and two more that run dry soon.

    These have `allowance` units, about what an ordinary subscriber uses.
    """
    terms = {"price": "1.00", "allowance": str(allowance), "rate_card": seeding.RATE_CARD}
    more = {
        METERED: {
            "name": "Demo metered",
            "on_exhaustion": "meter",
            "overage": {"price_per_million": "2.50", "cap": "1000.00"},
        },
        "demo-blocks": {
            "name": "Demo blocks",
            "on_exhaustion": "blocks",
            "overage": {"block": {"units": "400000", "price": "1.00"}, "cap": "4.00"},
        },
    }
    for code, body in more.items():
        api.call("PUT", f"plans/{code}", {**terms, **body})
    return [METERED, *(plan["code"] for plan in api.items("plans") if plan["code"] != METERED)]


def _deal(subscribers: Sequence[str], plans: Sequence[str]) -> dict[str, str]:
    """The first plan to the BUSIEST, who come first; to the others all plans in turn."""
    return {
        one: plans[0 if nr < BUSIEST else nr % len(plans)] for nr, one in enumerate(subscribers)
    }
