"""What is measured: each function here is one benchmark and answers its rows."""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import importlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import stripe
from django.core.management import call_command
from django.db import connection, transaction
from django.db.models import Sum
from django.test.utils import override_settings
from rich.progress import Progress

from bench import bills, crowd, load, pages, population, preload, senders
from bench import renewals as renewing
from bench.lab import Lab, Web
from bench.load import BATCH, Marks, Material
from bench.machine import Memory, Meter, Shares, memory_of
from bench.population import Population
from bench.report import Row, at_least, at_most, middle, percentile
from bench.senders import Door, Reading, Sent
from billing import figures
from billing.documents import drawing
from billing.documents.content import Content
from billing.models import Invoice, ProviderEvent
from billing.ways import accounts
from metering import records, rollups
from metering.models import UsageBatch
from metering.records import RECORDS
from subscriptions import buckets, clock, lifecycle, partitions, periods
from subscriptions.models import Booster, Operator, Subscriber, SubscriptionPeriod
from subscriptions.partitions import DayTable

# A table like that of the records, which nothing but COPY touches: no vacuum either, which would
# fall into the charge's time.
BARE = DayTable("bench_record", RECORDS.column, RECORDS.indexes, "WITH (autovacuum_enabled = off)")
COPY_SQL = records.COPY_SQL.replace(RECORDS.table, BARE.table)
POSTERS = 2
MATERIAL = 600  # batches, at full scale
_WARMING = 5
# The machine's speed changes within seconds: both sides of a pair are short, so that they mostly
# have the same, and there are as many more.
_SHORTER = 4
MILLION = 1_000_000
DAY = dt.timedelta(days=1)

Owners = Callable[[Population, random.Random], Iterator[int]]
marks = Marks()


def _rng() -> random.Random:
    return random.Random(7)


def _times(latencies: list[float]) -> dict[str, float]:
    return {
        f"p{share}_ms": round(percentile(latencies, share / 100) * 1000, 2)
        for share in (50, 95, 99)
    }


@dataclass(slots=True)
class Round:
    """One side of a round: what was sent and who used the processors."""

    sent: Sent
    shares: Shares

    @property
    def cost(self) -> float:
        """Microseconds of processor time a record, of all but who does not belong to it."""
        used = sum(seconds for name, seconds in self.shares.used.items() if name != "others")
        return used * 1e6 / self.sent.records

    def figures(self) -> dict[str, Any]:
        return {
            "records": self.sent.records,
            "seconds": round(self.sent.seconds, 3),
            "per_second": round(self.sent.rate, 1),
            **(_times(self.sent.latencies) if self.sent.latencies else {}),
            "cpu_shares": self.shares.all(),
            "cpu_us_per_record": {
                name: round(seconds * 1e6 / self.sent.records, 2)
                for name, seconds in self.shares.used.items()
                if name != "others"
            },
        }


def _measured(team: senders.Team, roots: dict[str, list[int]]) -> Round:
    """Run a team of senders and count who used the processors meanwhile."""
    team.start()
    meter = Meter(roots)
    sent = team.wait()
    return Round(sent, meter.read(load=sent.cpu))


def _post(lab: Lab, web: Web, people: Population, bodies: list[bytes]) -> Round:
    team = senders.post(web.port, people.gateway_key, bodies, batch=BATCH, posters=POSTERS)
    return _measured(team, web.roots(lab))


def _warm(lab: Lab, web: Web, people: Population, material: Material) -> float:
    """All the material several times: plans are prepared, subscribers known. Answers the last rate.

    Which web worker a batch goes to is chance: after five times 97 % of the subscribers of few
    batches are known to each of two, as they are to a platform that was not started a moment ago.
    """
    for _ in range(_WARMING - 1):
        _post(lab, web, people, material.marked_bodies(marks.new()))
    return _post(lab, web, people, material.marked_bodies(marks.new())).sent.rate


def _introduce(lab: Lab, web: Web, people: Population) -> None:
    """Let nearly every process know everybody before a clock starts, as a running platform does."""
    everybody = load.make(people, load.spread(people, _rng()), 100, with_copies=False)
    _warm(lab, web, people, everybody)


def _make(lab: Lab, people: Population, owners: Owners, *, with_copies: bool) -> Material:
    batches = max(60, lab.effort.of(MATERIAL))
    return load.make(people, owners(people, _rng()), batches, with_copies=with_copies)


def _count(lab: Lab, rate: float, material: Material) -> int:
    """How many batches one side of a round takes."""
    return min(max(20, round(rate * lab.effort.seconds / BATCH)), len(material.bodies))


def _count_of_pairs(lab: Lab, rate: float, material: Material) -> tuple[int, int]:
    """How many batches one side of a pair takes, and how many pairs there are."""
    return max(20, _count(lab, rate, material) // _SHORTER), lab.effort.rounds * _SHORTER


def _costs(charged: list[Round], bare: list[Round]) -> str:
    costs = [middle(r.cost for r in side) for side in (charged, bare)]
    return f"{costs[0]:.1f} µs of CPU each against {costs[1]:.1f}"


def _shares(rounds: list[Round]) -> str:
    """Who used the processors: the middle of the rounds."""
    names = rounds[0].shares.used
    parts = [f"{name} {middle(r.shares.of(name) for r in rounds):.0%}" for name in names]
    return "CPU: " + ", ".join(parts)


# --- batches against COPY -------------------------------------------------------------------------


def skewed(lab: Lab) -> list[Row]:
    """Batches of 1,000, subscribers skewed as in the Mooncake trace, against COPY."""
    return [_against_copy(lab, "skewed", load.skewed, "as in Mooncake", 0.40, 0.30)]


def spread(lab: Lab) -> list[Row]:
    """Batches of 1,000, every record another of 100,000 subscribers, against COPY."""
    return [_against_copy(lab, "spread", load.spread, "every record another", 0.25, 0.18)]


def _against_copy(
    lab: Lab, name: str, owners: Owners, whose: str, target: float, floor: float
) -> Row:
    with lab.database() as database:
        people = population.read(load.models())
        preload.fill(lab, database, people, lab.effort.of(MILLION))
        material = _make(lab, people, owners, with_copies=True)
        _make_bare()
        with lab.platform(database) as web:
            rate = _warm(lab, web, people, material)
            count, many = _count_of_pairs(lab, rate, material)
            _warm_bare(lab, database, material)
            pairs = [_pair(lab, web, people, database, material, count) for _ in range(many)]
    return _row_against_copy(
        name, f"batches of 1,000 over HTTP, subscribers: {whose}", pairs, material, target, floor
    )


def _make_bare() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            f"CREATE TABLE {BARE.table} (LIKE {RECORDS.table} INCLUDING ALL)"
            f" PARTITION BY RANGE ({BARE.column})"
        )
    partitions.forget(BARE)
    partitions.ensure(BARE, partitions.existing(RECORDS))
    # Both tables begin the day with the same rows.
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {BARE.table} SELECT * FROM {RECORDS.table}"
            f" WHERE {BARE.column} >= date_trunc('day', now(), 'UTC')"
        )
        cursor.execute(f"VACUUM (ANALYZE) {BARE.table}")
        cursor.execute("CHECKPOINT")


def _warm_bare(lab: Lab, database: str, material: Material) -> None:
    """As many rows as the charge stored while warming up: both tables are as full."""
    for _ in range(_WARMING):
        copies = material.marked_copies(marks.new())
        senders.copy(lab.url(database), COPY_SQL, copies, batch=BATCH).run()


def _pair(
    lab: Lab, web: Web, people: Population, database: str, material: Material, count: int
) -> tuple[Round, Round]:
    """The charge, then COPY of the same rows."""
    mark = marks.new()
    charged = _post(lab, web, people, material.marked_bodies(mark, count))
    team = senders.copy(
        lab.url(database),
        COPY_SQL,
        material.marked_copies(mark, count),
        batch=BATCH,
        writers=POSTERS,
    )
    return charged, _measured(team, {"postgres": [lab.postgres_pid]})


def _row_against_copy(
    name: str,
    what: str,
    pairs: list[tuple[Round, Round]],
    material: Material,
    target: float | None,
    floor: float = 0.0,
) -> Row:
    charged = [pair[0] for pair in pairs]
    copied = [pair[1] for pair in pairs]
    ratio = middle(a.sent.rate / b.sent.rate for a, b in pairs)
    rate, bare = middle(r.sent.rate for r in charged), middle(r.sent.rate for r in copied)
    return Row(
        name,
        what,
        f"≥ {target:.2f} of COPY" if target else "",
        f"{rate:,.0f} records/s; COPY {bare:,.0f}. {_costs(charged, copied)}. {_shares(charged)}",
        ratio,
        at_least(ratio, target, floor) if target else "-",
        {
            "ratios": [round(a.sent.rate / b.sent.rate, 3) for a, b in pairs],
            "cpu_ratio": round(middle(b.cost / a.cost for a, b in pairs), 3),
            "charged": [r.figures() for r in charged],
            "copied": [r.figures() for r in copied],
            "subjects_per_batch": round(material.subjects_per_batch, 1),
        },
    )


# --- other senders' formats -----------------------------------------------------------------------


def openmeter(lab: Lab) -> list[Row]:
    """Batches of 1,000 as OpenMeter's clients send them, against the same as native records."""
    with lab.database() as database:
        people = population.read(load.models())
        preload.fill(lab, database, people, lab.effort.of(MILLION))
        material = _make(lab, people, load.skewed, with_copies=False)
        events = load.as_cloud_events(material)
        with lab.platform(database) as web:
            rate = _warm(lab, web, people, material)
            count, many = _count_of_pairs(lab, rate, material)
            _post_events(lab, web, people, events.marked_bodies(marks.new()))
            pairs = []
            for _ in range(many):
                native = _post(lab, web, people, material.marked_bodies(marks.new(), count))
                bodies = events.marked_bodies(marks.new(), count)
                pairs.append((_post_events(lab, web, people, bodies), native))
    theirs, ours = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    ratio = middle(a.sent.rate / b.sent.rate for a, b in pairs)
    return [
        Row(
            "openmeter",
            "batches of 1,000 OpenMeter events over HTTP",
            "≥ 0.80 of native records",
            f"{middle(r.sent.rate for r in theirs):,.0f} events/s; native"
            f" {middle(r.sent.rate for r in ours):,.0f}. {_costs(theirs, ours)}."
            f" {_shares(theirs)}",
            ratio,
            at_least(ratio, 0.80, 0.70),
            {
                "ratios": [round(a.sent.rate / b.sent.rate, 3) for a, b in pairs],
                "cpu_ratio": round(middle(b.cost / a.cost for a, b in pairs), 3),
                "openmeter": [r.figures() for r in theirs],
                "native": [r.figures() for r in ours],
            },
        )
    ]


def _post_events(lab: Lab, web: Web, people: Population, bodies: list[bytes]) -> Round:
    """As `_post`; that all were charged is seen in the database, for the answers have no body."""
    before = _charged()
    team = senders.post(
        web.port,
        people.gateway_key,
        bodies,
        batch=BATCH,
        posters=POSTERS,
        door=senders.OPENMETER,
    )
    done = _measured(team, web.roots(lab))
    assert _charged() - before == done.sent.records, "not all events were charged"
    return done


def _charged() -> int:
    return UsageBatch.objects.aggregate(records=Sum("records"))["records"] or 0


# --- one record a request -------------------------------------------------------------------------

CONNECTIONS = 16
_MINIMAL_TABLES = """
CREATE TABLE bench_event (
    subscriber_id bigint NOT NULL, id bigint NOT NULL, occurred_at timestamptz NOT NULL,
    units bigint NOT NULL, PRIMARY KEY (subscriber_id, id)
);
CREATE TABLE bench_balance (subscriber_id bigint PRIMARY KEY, used bigint NOT NULL)
    WITH (fillfactor = 60);
INSERT INTO bench_balance SELECT nr, 0 FROM generate_series(1, %s) AS nr;
"""
_MINIMAL_SCRIPT = """
\\set who random(1, {size})
\\set id random(1, 1000000000000000)
BEGIN;
INSERT INTO bench_event VALUES (:who, :id, now(), 1000);
UPDATE bench_balance SET used = used + 1000 WHERE subscriber_id = :who;
END;
"""


def single(lab: Lab) -> list[Row]:
    """One record a request on 16 connections, against pgbench's minimal insert and update."""
    with lab.database() as database:
        people = population.read(load.models())
        preload.fill(lab, database, people, lab.effort.of(MILLION))
        with connection.cursor() as cursor:
            cursor.execute(_MINIMAL_TABLES.replace("%s", str(people.size)))
            cursor.execute("VACUUM (ANALYZE) bench_balance")
        seconds = max(1.0, lab.effort.seconds / _SHORTER)
        owners = load.skewed(people, _rng())
        material = load.make(people, owners, 20_000, size=1, with_copies=False)
        with lab.platform(database) as web:
            _introduce(lab, web, people)
            warm = _post_singles(lab, web, people, material, 2.0)
            material = load.make(
                people, owners, round(warm.sent.rate * seconds * 1.5), size=1, with_copies=False
            )
            _pgbench(lab, database, people.size, 1.0)
            pairs = []
            for _ in range(lab.effort.rounds * _SHORTER):
                charged = _post_singles(lab, web, people, material, seconds)
                pairs.append((charged, _pgbench(lab, database, people.size, seconds)))
    ratio = middle(a.sent.rate / b.sent.rate for a, b in pairs)
    rounds, others = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    rate, bare = middle(r.sent.rate for r in rounds), middle(r.sent.rate for r in others)
    return [
        Row(
            "single",
            "one record a request, 16 connections",
            "≥ 0.40 of pgbench",
            f"{rate:,.0f} requests/s; pgbench {bare:,.0f}. {_costs(rounds, others)}."
            f" {_shares(rounds)}",
            ratio,
            at_least(ratio, 0.40, 0.30),
            {
                "ratios": [round(a.sent.rate / b.sent.rate, 3) for a, b in pairs],
                "cpu_ratio": round(middle(b.cost / a.cost for a, b in pairs), 3),
                "charged": [r.figures() for r in rounds],
                "pgbench": [r.figures() for r in others],
            },
        )
    ]


def _post_singles(
    lab: Lab, web: Web, people: Population, material: Material, seconds: float
) -> Round:
    bodies = load.singles(material, marks.new(), len(material.bodies))
    team = senders.post_singles(
        web.port,
        people.gateway_key,
        bodies,
        connections=CONNECTIONS,
        seconds=seconds,
        processes=POSTERS,
    )
    return _measured(team, web.roots(lab))


def _pgbench(
    lab: Lab, database: str, size: int, seconds: float, minimal: str = _MINIMAL_SCRIPT
) -> Round:
    """The minimal transaction, one after the other by as many clients."""
    program = lab.program("pgbench")
    if program is None:
        raise senders.SendingError("this PostgreSQL brings no pgbench")
    used = senders.cpu_of_children()
    meter = Meter({"postgres": [lab.postgres_pid]})
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "minimal.sql")
        script.write_text(minimal.format(size=size))
        done = subprocess.run(
            [
                str(program),
                *("--client", str(CONNECTIONS), "--jobs", "2", "--protocol", "prepared"),
                *("--no-vacuum", "--time", str(max(1, round(seconds)))),
                *("--file", str(script)),
            ],
            env=lab.client_environment(database),
            capture_output=True,
            text=True,
            check=True,
        )
    shares = meter.read(load=senders.cpu_of_children() - used)
    rate = re.search(r"^tps = ([\d.]+) ", done.stdout, re.MULTILINE)
    count = re.search(r"^number of .* actually processed: (\d+)", done.stdout, re.MULTILINE)
    assert rate, done.stdout
    assert count, done.stdout
    return Round(Sent(int(count[1]), int(count[1]) / float(rate[1]), shares.used["load"]), shares)


# --- asking first ---------------------------------------------------------------------------------

# As a reservation and its commit: each has a commit of its own.
_TWO_UPDATES_SCRIPT = """
\\set who random(1, {size})
UPDATE bench_balance SET used = used + 1000 WHERE subscriber_id = :who;
UPDATE bench_balance SET used = used - 1000 WHERE subscriber_id = :who;
"""
# Few enough for an answer to take what it costs, and not what the queue before it does.
_ASKERS = 4


def reserve(lab: Lab) -> list[Row]:
    """Reserve and commit on 16 connections, against pgbench's two minimal updates."""
    with lab.database() as database:
        people = population.read(load.models())
        preload.fill(lab, database, people, lab.effort.of(MILLION))
        with connection.cursor() as cursor:
            cursor.execute(_MINIMAL_TABLES.replace("%s", str(people.size)))
            cursor.execute("VACUUM (ANALYZE) bench_balance")
        seconds = lab.effort.seconds
        with lab.platform(database) as web:
            _introduce(lab, web, people)
            warm = _reserve(lab, web, people, 3000, 3.0)
            count = round(warm.sent.rate * seconds * 1.5) + 100
            _pgbench(lab, database, people.size, 1.0, _TWO_UPDATES_SCRIPT)
            pairs = []
            for _ in range(lab.effort.rounds):
                asked = _reserve(lab, web, people, count, seconds)
                bare = _pgbench(lab, database, people.size, seconds, _TWO_UPDATES_SCRIPT)
                pairs.append((asked, bare))
    ratio = middle(a.sent.rate / b.sent.rate for a, b in pairs)
    rounds, others = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    rate, bare_rate = middle(r.sent.rate for r in rounds), middle(r.sent.rate for r in others)
    return [
        Row(
            "reserve",
            "reserve and commit, 16 connections",
            "≥ 0.35 of pgbench",
            f"{rate:,.0f} pairs/s; pgbench {bare_rate:,.0f} pairs of updates."
            f" {_costs(rounds, others)}. {_shares(rounds)}",
            ratio,
            at_least(ratio, 0.35, 0.25),
            {
                "ratios": [round(a.sent.rate / b.sent.rate, 3) for a, b in pairs],
                "cpu_ratio": round(middle(b.cost / a.cost for a, b in pairs), 3),
                "reserved": [r.figures() for r in rounds],
                "pgbench": [r.figures() for r in others],
            },
        )
    ]


def _reserve(lab: Lab, web: Web, people: Population, count: int, seconds: float) -> Round:
    """Chains of an ask and its commit; of what is asked for half is used."""
    owners = load.skewed(people, _rng())
    now = dt.datetime.now(dt.UTC).isoformat()
    mark = marks.new().decode()
    model = next(iter(people.weights))
    chains = []
    for nr in range(count):
        name = f"ask-{mark}-{nr}"
        who = f'"id":"{name}","subject":"{people.subject(next(owners))}","model":"{model}"'
        ask = f'{{{who},"input_tokens":1200,"max_output_tokens":400}}'
        record = f'{{{who},"occurred_at":"{now}","input_tokens":1200,"output_tokens":170}}'
        chains.append(
            [
                senders.request(
                    web.port,
                    people.gateway_key,
                    body.encode(),
                    Door(f"/api/v1/reservations{below}", "application/json"),
                )
                for body, below in ((ask, ""), (record, f"/{name}/commit"))
            ]
        )
    team = senders.chained(
        web.port,
        chains,
        connections=CONNECTIONS,
        seconds=seconds,
        processes=POSTERS,
        check=_is_decided,
    )
    return _measured(team, web.roots(lab))


def _is_decided(answer: bytes) -> None:
    if b'"decision":' not in answer and b'"accepted":1' not in answer:
        raise senders.SendingError(f"neither decided nor charged: {answer[:500]!r}")


def authorize(lab: Lab) -> list[Row]:
    """How long authorize takes, against a bare Django view with one SELECT by primary key."""
    with lab.database() as database:
        people = population.read(load.models())
        material = _make(lab, people, load.skewed, with_copies=False)
        rng = _rng()
        who = [rng.randrange(people.size) for _ in range(20_000)]
        model = next(iter(people.weights))
        with lab.platform(database, application="bench.bare:application") as web:
            _warm(lab, web, people, material)
            sides = [
                [
                    [senders.reading(web.port, people.gateway_key, path)]
                    for path in (template.format(*columns) for columns in all_columns)
                ]
                for template, all_columns in (
                    (
                        "/api/v1/authorize?subject={}&model={}",
                        [(people.subject(nr), model) for nr in who],
                    ),
                    ("/bare/{}", [(people.bindings[nr][0],) for nr in who]),
                )
            ]
            for side in sides:
                _ask(lab, web, side, 1.0)
            seconds = lab.effort.seconds
            pairs = [
                (_ask(lab, web, sides[0], seconds), _ask(lab, web, sides[1], seconds))
                for _ in range(lab.effort.rounds)
            ]
    ratios = [
        percentile(a.sent.latencies, 0.99) / percentile(b.sent.latencies, 0.99) for a, b in pairs
    ]
    ratio = middle(ratios)
    p99, bare = (
        middle(percentile(pair[side].sent.latencies, 0.99) for pair in pairs) * 1000
        for side in (0, 1)
    )
    return [
        Row(
            "authorize",
            f"authorize, {_ASKERS} connections, 99th percentile",
            "≤ 3 × a bare view",
            f"p99 {p99:.1f} ms; bare view {bare:.1f} ms."
            f" {middle(a.sent.rate for a, _ in pairs):,.0f} requests/s against"
            f" {middle(b.sent.rate for _, b in pairs):,.0f}",
            ratio,
            at_most(ratio, 3.0),
            {
                "ratios": [round(one, 3) for one in ratios],
                "authorize": [a.figures() for a, _ in pairs],
                "bare": [b.figures() for _, b in pairs],
            },
        )
    ]


def webhook(lab: Lab) -> list[Row]:
    """How long a provider's notice takes, against a bare Django view that inserts one row."""
    with lab.database() as database:
        operator = Operator.objects.create(code="shop", name="shop", created_at=clock.wall())
        account = accounts.set_up(
            operator,
            "stripe",
            name="acct_1",
            live=True,
            secrets={"api": "sk_live_of_a_bench", "webhook": _SIGNED_WITH},
            at=clock.wall(),
        )
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE bench_note (id bigserial PRIMARY KEY, body bytea)")
        path = f"/webhooks/stripe/{account.public_id}"
        count = lab.effort.of(20_000)
        pairs = []
        with lab.platform(database, application="bench.bare:application") as web:
            for nr in range(lab.effort.rounds + 1):
                # Signed just before they are sent: a signature is good for five minutes.
                told = [_notice(web.port, path, f"{nr}-{one}") for one in range(count)]
                noted = [_notice(web.port, "/v1/bare-note", f"{nr}-{one}") for one in range(count)]
                seconds = lab.effort.seconds if nr else 1.0
                pair = (_ask(lab, web, told, seconds), _ask(lab, web, noted, seconds))
                if nr:
                    pairs.append(pair)
            kept = ProviderEvent.objects.count()
    ratios = [
        percentile(a.sent.latencies, 0.99) / percentile(b.sent.latencies, 0.99) for a, b in pairs
    ]
    ratio = middle(ratios)
    p99, bare = (
        middle(percentile(pair[side].sent.latencies, 0.99) for pair in pairs) * 1000
        for side in (0, 1)
    )
    return [
        Row(
            "webhook",
            f"a provider's webhook, {_ASKERS} connections, 99th percentile",
            "≤ 3 × a bare view",
            f"p99 {p99:.1f} ms; bare view with one INSERT {bare:.1f} ms."
            f" {middle(a.sent.rate for a, _ in pairs):,.0f} requests/s against"
            f" {middle(b.sent.rate for _, b in pairs):,.0f}; {kept:,} kept",
            ratio,
            at_most(ratio, 3.0),
            {
                "ratios": [round(one, 3) for one in ratios],
                "webhook": [a.figures() for a, _ in pairs],
                "bare": [b.figures() for _, b in pairs],
            },
        )
    ]


_SIGNED_WITH = "whsec_of_a_bench"


def _notice(port: int, path: str, name: str) -> list[bytes]:
    """A signed notice of a payment, ready for the wire; about as long as they are."""
    intent = {
        "id": f"pi_{name}",
        "object": "payment_intent",
        "status": "succeeded",
        "amount": 990,
        "amount_received": 990,
        "currency": "cny",
        "metadata": {"key": f"CT-O-{name}"},
        "description": "x" * 2500,
    }
    event = {
        "id": f"evt_{name}",
        "type": "payment_intent.succeeded",
        "created": 1,
        "livemode": True,
        "data": {"object": intent},
    }
    body = json.dumps(event)
    signature = stripe.WebhookSignature.generate_signature_header(body, _SIGNED_WITH)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nStripe-Signature: {signature}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return [(head + body).encode()]


def _ask(lab: Lab, web: Web, chains: list[list[bytes]], seconds: float) -> Round:
    team = senders.chained(
        web.port,
        chains,
        connections=_ASKERS,
        seconds=seconds,
        processes=1,
        check=lambda answer: None,
    )
    return _measured(team, web.roots(lab))


# --- many stored records --------------------------------------------------------------------------


def stored(lab: Lab) -> list[Row]:
    """The cost of a record where 20 million are stored already, against 1 million."""
    few, many = lab.effort.of(MILLION), lab.effort.of(20 * MILLION)
    with lab.database("bench_run_few") as small, lab.database("bench_run_many") as large:
        seconds = {}
        for database, count in ((small, few), (large, many)):
            lab.use(database)
            people = population.read(load.models())
            seconds[database] = preload.fill(lab, database, people, count)
        lab.use(small)
        sides = {}
        for database in (small, large):
            lab.use(database)
            sides[database] = population.read(load.models())
        material = _make(lab, people, load.skewed, with_copies=False)
        with lab.platform(small) as small_web, lab.platform(large) as large_web:
            rate = _warm(lab, small_web, sides[small], material)
            _warm(lab, large_web, sides[large], material)
            count, pairs_to_make = _count_of_pairs(lab, rate, material)
            pairs = []
            for _ in range(pairs_to_make):
                pair = []
                for web, database in ((small_web, small), (large_web, large)):
                    bodies = material.marked_bodies(marks.new(), count)
                    pair.append(_post(lab, web, sides[database], bodies))
                pairs.append((pair[0], pair[1]))
    ratio = middle(a.sent.rate / b.sent.rate for a, b in pairs)
    cost = [middle(1e6 / pair[side].sent.rate for pair in pairs) for side in (0, 1)]
    return [
        Row(
            "stored",
            f"cost of a record with {_short(many)} stored against {_short(few)}",
            "≤ 1.15",
            f"{cost[1]:.1f} µs against {cost[0]:.1f} µs of wall time",
            ratio,
            at_most(ratio, 1.15),
            {
                "ratios": [round(a.sent.rate / b.sent.rate, 3) for a, b in pairs],
                "few": [a.figures() for a, _ in pairs],
                "many": [b.figures() for _, b in pairs],
                "preload_seconds": {k: round(v, 1) for k, v in seconds.items()},
            },
        )
    ]


def _short(count: int) -> str:
    return f"{count / MILLION:g} M"


# --- memory ---------------------------------------------------------------------------------------

_LARGE_BATCH = 10_000


def memory(lab: Lab) -> list[Row]:
    """The memory of the web processes while 10 million records go through them."""
    total = lab.effort.of(10 * MILLION)
    steps = 10
    batches = 20
    with lab.database() as database:
        people = population.read(load.models())
        material = load.make(
            people,
            load.skewed(people, _rng()),
            batches,
            size=_LARGE_BATCH,
            with_copies=False,
        )
        repeat = max(1, round(total / steps / _LARGE_BATCH / batches))
        points: list[dict[str, Any]] = []
        done = 0
        with lab.platform(database) as web:
            workers = web.workers()
            for _ in range(steps):
                fresh = [marks.new() for _ in range(repeat)]
                team = senders.post(
                    web.port,
                    people.gateway_key,
                    material.bodies,
                    batch=_LARGE_BATCH,
                    mark=functools.partial(_remark, fresh),
                    repeat=repeat,
                )
                sent = team.run()
                done += sent.records
                points.append(_point(done, [memory_of(pid) for pid in workers]))
            assert workers == web.workers(), "a web process was started anew"
    grown = points[-1]["peak_mb"] / points[1]["peak_mb"]
    return [
        Row(
            "memory",
            f"peak memory of a web process after {_short(done)} records",
            "flat",
            f"{points[-1]['peak_mb']:.0f} MB at {_short(done)}, {points[1]['peak_mb']:.0f} MB at"
            f" {_short(points[1]['records'])}; now {points[-1]['proportional_mb']:.0f} MB (PSS)",
            grown,
            at_most(grown, 1.05),
            {"points": points, "batch": _LARGE_BATCH},
        )
    ]


def _remark(fresh: list[bytes], body: bytes, nr: int) -> bytes:
    return body.replace(load.PLACEHOLDER, fresh[nr])


def _point(done: int, sizes: list[Memory]) -> dict[str, Any]:
    """The largest of the processes."""
    return {
        "records": done,
        "resident_mb": round(max(size.resident for size in sizes) / 1e6, 1),
        "proportional_mb": round(max(size.proportional for size in sizes) / 1e6, 1),
        "peak_mb": round(max(size.peak for size in sizes) / 1e6, 1),
    }


# --- balances -------------------------------------------------------------------------------------


def balance(lab: Lab) -> list[Row]:
    """How fast a balance is read while usage is posted at full speed."""
    with lab.database() as database:
        people = population.read(load.models())
        material = _make(lab, people, load.skewed, with_copies=False)
        rng = _rng()
        requests = [
            senders.reading(
                0,
                people.operator_key,
                f"/api/v1/subscribers/{people.external_id(rng.randrange(people.size))}/balance",
            )
            for _ in range(5000)
        ]
        with lab.platform(database) as web:
            rate = _warm(lab, web, people, material)
            with Reading(web.port, requests) as alone:
                time.sleep(max(1.0, 4 * lab.effort.scale))
            quiet = alone.latencies
            rounds: list[Round] = []
            reads: list[float] = []
            count = _count(lab, rate, material)
            for _ in range(lab.effort.rounds):
                bodies = material.marked_bodies(marks.new(), count)
                with Reading(web.port, requests) as reading:
                    rounds.append(_post(lab, web, people, bodies))
                reads += reading.latencies
    p50, p95, p99 = (percentile(reads, share) * 1000 for share in (0.50, 0.95, 0.99))
    return [
        Row(
            "balance",
            "GET balance while two posters post at full speed",
            "p95 ≤ 50 ms",
            f"p95 {p95:.1f} ms, p50 {p50:.1f}, p99 {p99:.1f} of {len(reads):,} reads at"
            f" {middle(r.sent.rate for r in rounds):,.0f} records/s;"
            f" p95 {percentile(quiet, 0.95) * 1000:.1f} ms without",
            p95 / 50,
            at_most(p95, 50),
            {
                "p50_ms": round(p50, 2),
                "p95_ms": round(p95, 2),
                "p99_ms": round(p99, 2),
                "reads": len(reads),
                "quiet_p95_ms": round(percentile(quiet, 0.95) * 1000, 2),
                "charged": [r.figures() for r in rounds],
            },
        )
    ]


# --- folding --------------------------------------------------------------------------------------


def folding(lab: Lab) -> list[Row]:
    """Folding into the hourly totals: alone, and with worker and beat beside the charge."""
    with lab.database() as database:
        people = population.read(load.models())
        preload.fill(lab, database, people, lab.effort.of(MILLION))
        material = _make(lab, people, load.skewed, with_copies=True)
        _make_bare()
        with lab.platform(database) as web:
            rate = _warm(lab, web, people, material)
        began = time.monotonic()
        rollups.fold_all(at=clock.wall())
        alone = 2 * len(material.bodies) * BATCH / (time.monotonic() - began)
        count = _count(lab, rate, material)
        _warm_bare(lab, database, material)
        with lab.platform(database, "web", "worker", "beat") as web:
            _warm(lab, web, people, material)
            pairs, lags, drains = [], [], []
            for _ in range(lab.effort.rounds):
                with _Lag(lab, database) as lag:
                    pairs.append(_pair(lab, web, people, database, material, count))
                lags.append(lag.most)
                drains.append(_drain())
    charged = [pair[0] for pair in pairs]
    row = _row_against_copy(
        "folding",
        "the first row with worker and beat folding",
        pairs,
        material,
        None,
    )
    row.figures.update(lag_seconds=[round(lag, 2) for lag in lags], drain_seconds=drains)
    share = middle(r.shares.of("worker") for r in charged)
    return [
        row,
        Row(
            "lag",
            "hourly totals behind the charge at full speed",
            "≤ 10 s",
            f"at most {max(lags):.1f} s; of the CPU worker and beat took {share:.1%}, the folding"
            " itself is PostgreSQL's",
            None,
            at_most(max(lags), 10.0),
        ),
        Row(
            "folding-alone",
            "folding into hourly totals, alone",
            "",
            f"{alone:,.0f} records/s",
            None,
            "-",
            {"per_second": round(alone, 1)},
        ),
    ]


class _Lag:
    """Watches how old the oldest batch is that is not folded yet."""

    def __init__(self, lab: Lab, database: str) -> None:
        self.most = 0.0
        self._connection = lab.connect(database)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> _Lag:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self._connection.close()

    def _watch(self) -> None:
        while not self._stop.wait(0.25):
            row = self._connection.execute(
                "SELECT extract(epoch FROM clock_timestamp() - min(stored_at))::float8"
                " FROM metering_usagebatch WHERE folded_at IS NULL"
            ).fetchone()
            assert row is not None
            self.most = max(self.most, row[0] or 0.0)


def _drain() -> float:
    """Seconds until the folding has caught up."""
    began = time.monotonic()
    while UsageBatch.objects.filter(folded_at__isnull=True).exists():
        time.sleep(0.1)
        assert time.monotonic() - began < 300, "the hourly totals do not catch up"
    return round(time.monotonic() - began, 1)


# --- openings -------------------------------------------------------------------------------------


def opening(lab: Lab) -> list[Row]:
    """Opening the next period of every subscription, as at the turn of a month."""
    with lab.database():
        before = SubscriptionPeriod.objects.count()
        at = clock.wall() + dt.timedelta(days=32)
        deadline = time.monotonic() + 60 * lab.effort.scale + 5
        began = time.monotonic()
        while lifecycle.open_due(None, at=at) and time.monotonic() < deadline:
            pass
        seconds = time.monotonic() - began
        opened = SubscriptionPeriod.objects.count() - before
    return [
        Row(
            "opening",
            "periods opened, with buckets and rollover",
            "",
            f"{opened / seconds:,.0f} periods/s ({opened:,} in {seconds:.1f} s)",
            None,
            "-",
            {"periods": opened, "seconds": round(seconds, 2)},
        )
    ]


# --- month close ----------------------------------------------------------------------------------

CLOSES, CLOSERS = 1_000_000, 2
# What a close writes, in the order it may be written again.
CLOSED = (
    *("billing_invoice", "billing_invoiceline", "billing_invoicenumber"),
    *("billing_posting", "billing_entry"),
    *("subscriptions_subscriptionperiod", "subscriptions_bucket"),
)


def close(lab: Lab) -> list[Row]:
    """Closing a month with two workers, against INSERT … SELECT of the rows that it wrote."""
    with lab.database() as database:
        at = _when_due(clock.wall())
        wanted = lab.effort.of(CLOSES)
        with Progress(console=lab.console, transient=True) as progress:
            task = progress.add_task("More subscribers", total=max(0, wanted - population.SIZE))
            population.grow(wanted, lambda many: progress.advance(task, many))
        due = _make_due(wanted, at=at)
        before = _rows()
        seconds, answers = _close(lab, database, at)
        written = {table: many - before[table] for table, many in _rows().items()}
        bare = _insert_again(written)
    invoices = written["billing_invoice"]
    most = max(answer["kib"] for answer in answers)
    opening = max(answer["opening_seconds"] for answer in answers)
    assert invoices == due, f"{invoices} invoices for {due} subscriptions"
    return [
        Row(
            "close",
            f"{invoices:,} subscriptions closed by two workers, next period opened",
            "≤ 4 × INSERT … SELECT, ≥ 1,500/s",
            f"{invoices / seconds:,.0f} invoices/s with {written['billing_invoiceline']:,} lines"
            f" ({seconds:.1f} s, opening {opening:.1f} s of it; bare {bare:.1f} s); a worker took"
            f" {most / 1024:,.0f} MiB",
            seconds / bare,
            at_most(seconds / bare, 4.0),
            {
                "rows": written,
                "seconds": round(seconds, 2),
                "bare_seconds": round(bare, 2),
                "invoices_per_second": round(invoices / seconds, 1),
                "workers": answers,
            },
        )
    ]


def _when_due(now: dt.datetime) -> dt.datetime:
    """When what is open now has ended, and of each only one period more is opened."""
    zone = ZoneInfo(Operator.objects.get(code=population.CODE).time_zone)
    month = dt.timedelta(days=32)
    second = now
    for _ in range(2):
        second = periods.month_start(periods.month_start(second, zone) + month, zone)
    return min(now + month, second - lifecycle.LEAD - dt.timedelta(hours=1))


def _make_due(count: int, *, at: dt.datetime) -> int:
    """Leave `count` subscriptions a period to close by `at`, each with a booster and a gift."""
    now = clock.wall()
    operator = Operator.objects.get(code=population.CODE)
    booster = Booster.objects.filter(operator=operator).order_by("pk").first()
    assert booster is not None
    open_ones = SubscriptionPeriod.objects.filter(
        operator=operator, starts_at__lte=now, ends_at__gt=now, ends_at__lt=at - 3 * DAY
    )
    chosen = list(
        open_ones.order_by("subscriber_id").values_list("subscriber_id", "starts_at")[:count]
    )
    with connection.cursor() as cursor:
        # All else is closed as if by an earlier run, and ends: nothing looks at it here.
        cursor.execute("CREATE TEMP TABLE chosen (subscriber_id bigint PRIMARY KEY)")
        with cursor.copy("COPY chosen FROM STDIN") as copy:
            for subscriber_id, _ in chosen:
                copy.write_row([subscriber_id])
        cursor.execute(
            "UPDATE subscriptions_subscription s SET ends_at = opened_until"
            " WHERE NOT EXISTS (SELECT FROM chosen c WHERE c.subscriber_id = s.subscriber_id)"
        )
        cursor.execute(
            "UPDATE subscriptions_subscriptionperiod p SET closed_at = %s"
            " WHERE ends_at <= %s"
            " OR NOT EXISTS (SELECT FROM chosen c WHERE c.subscriber_id = p.subscriber_id)",
            [now, now],
        )
        cursor.execute("DROP TABLE chosen")
    for first in range(0, len(chosen), 5000):
        with transaction.atomic():
            buckets.grant(
                [
                    buckets.Grant(
                        subscriber_id=subscriber_id,
                        kind=kind,
                        units=MILLION,
                        valid_from=now,
                        valid_until=now + 60 * DAY,
                        grant_key=key,
                    )
                    for subscriber_id, _ in chosen[first : first + 5000]
                    for kind, key in (("booster", f"booster:{booster.pk}:b"), ("gift", "gift:b"))
                ],
                at=now,
            )
    with connection.cursor() as cursor:
        cursor.execute(
            "VACUUM (ANALYZE) subscriptions_subscription, subscriptions_subscriptionperiod,"
            " subscriptions_bucket"
        )
    return len(chosen)


def _rows() -> dict[str, int]:
    with connection.cursor() as cursor:
        found = {}
        for table in CLOSED:
            cursor.execute(f"SELECT count(*) FROM {table}")
            found[table] = cursor.fetchone()[0]
    return found


def _close(lab: Lab, database: str, at: dt.datetime) -> tuple[float, list[dict[str, float]]]:
    """(seconds that the workers take to close what is due, what each says of itself)."""
    workers = _closers(lab, database, at, [["open"], *[[]] * (CLOSERS - 1)])
    began = time.monotonic()
    answers = []
    _go(workers)
    for worker in workers:
        answers.append(worker.communicate()[0])
        assert worker.returncode == 0
    return time.monotonic() - began, [json.loads(answer) for answer in answers]


def _closers(
    lab: Lab, database: str, at: dt.datetime, jobs: list[list[str]]
) -> list[subprocess.Popen[str]]:
    """Workers of a close that only wait to be let go."""
    command = ["bench.closer", population.CODE, at.isoformat()]
    return _workers(lab, database, [[*command, *job] for job in jobs])


def _workers(lab: Lab, database: str, jobs: list[list[str]]) -> list[subprocess.Popen[str]]:
    """Processes of modules that say when they are ready, and wait to be let go."""
    environment = {**os.environ, "DATABASE_URL": lab.url(database)}
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", *job],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        for job in jobs
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    return workers


def _go(workers: list[subprocess.Popen[str]]) -> None:
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()


RENEWALS, CLOSED_BESIDE = 200_000, 100_000


def renewals(lab: Lab) -> list[Row]:
    """Renewals from wallets by two workers, against the close by two workers in the same run."""
    with lab.database() as database:
        at = _when_due(clock.wall())
        closing = _make_due(lab.effort.of(CLOSED_BESIDE), at=at)
        seconds, _ = _close(lab, database, at)
        invoices_per_second = closing / seconds
        wanted = lab.effort.of(RENEWALS)
        with Progress(console=lab.console, transient=True) as progress:
            task = progress.add_task("Subscribers that renew", total=wanted)
            operator = renewing.build(wanted, lambda many: progress.advance(task, many))
        moments = (renewing.ORDERS_AT.isoformat(), renewing.PAYS_AT.isoformat())
        jobs = [["bench.renewer", renewing.CODE, *moments]] * CLOSERS
        workers = _workers(lab, database, jobs)
        began = time.monotonic()
        _go(workers)
        answers = [json.loads(worker.communicate()[0]) for worker in workers]
        seconds = time.monotonic() - began
        assert all(worker.returncode == 0 for worker in workers)
        done = renewing.paid(operator)
    assert done == wanted, f"{done} renewals of {wanted}"
    ratio = done / seconds / invoices_per_second
    most = max(answer["kib"] for answer in answers)
    ordering = max(answer["ordering_seconds"] for answer in answers)
    return [
        Row(
            "renewals",
            f"{done:,} periods ordered and paid from wallets by two workers",
            "≥ 0.3 of the close's invoices/s",
            f"{done / seconds:,.0f} renewals/s ({seconds:.1f} s, ordering {ordering:.1f} s of it);"
            f" the close {invoices_per_second:,.0f} invoices/s; a worker took"
            f" {most / 1024:,.0f} MiB",
            ratio,
            at_least(ratio, 0.3, 0.3),
            {
                "renewals": done,
                "seconds": round(seconds, 2),
                "invoices_per_second": round(invoices_per_second, 1),
                "workers": answers,
            },
        )
    ]


def beside(lab: Lab) -> list[Row]:
    """Batches while two workers close a month, against the same without."""
    with lab.database() as database:
        people = population.read(load.models())
        material = _make(lab, people, load.skewed, with_copies=False)
        at = clock.wall()
        alone: list[Round] = []
        during: list[Round] = []
        closed: list[float] = []
        with lab.platform(database) as web:
            rate = _warm(lab, web, people, material)
            count = _count(lab, rate, material)
            for _ in range(lab.effort.rounds):
                alone.append(_post(lab, web, people, material.marked_bodies(marks.new(), count)))
                bodies = material.marked_bodies(marks.new(), count)
                workers = _closers(lab, database, at, [[]] * CLOSERS)
                before, began = Invoice.objects.count(), time.monotonic()
                try:
                    _go(workers)
                    during.append(_post(lab, web, people, bodies))
                    assert all(worker.poll() is None for worker in workers), "the close ended early"
                    closed.append((Invoice.objects.count() - before) / (time.monotonic() - began))
                finally:
                    for worker in workers:
                        worker.kill()
                        worker.wait()
    ratio = middle(b.sent.rate / a.sent.rate for a, b in zip(alone, during, strict=True))
    return [
        Row(
            "beside",
            "batches, subscribers as in Mooncake, while two workers close a month",
            "≥ 0.6 of the rate alone",
            f"{middle(r.sent.rate for r in during):,.0f} records/s beside"
            f" {middle(closed):,.0f} invoices/s; {middle(r.sent.rate for r in alone):,.0f} alone."
            f" {_shares(during)}",
            ratio,
            at_least(ratio, 0.6, 0.6),
            {
                "alone": [r.figures() for r in alone],
                "during": [r.figures() for r in during],
                "invoices_per_second": [round(each, 1) for each in closed],
            },
        )
    ]


def _insert_again(written: dict[str, int]) -> float:
    """Seconds that one script of INSERT … SELECT takes for the rows of the close, into tables with
    the same keys, checks and indexes."""
    statements = []
    with connection.cursor() as cursor:
        for table, many in written.items():
            cursor.execute(f"CREATE TABLE bench_{table} (LIKE {table} INCLUDING ALL)")
            # What was there before is left out; which rows these are makes no difference here.
            latest = "" if table.startswith("billing_") else f" ORDER BY ctid DESC LIMIT {many}"
            statements.append(f"INSERT INTO bench_{table} SELECT * FROM {table}{latest}")
        cursor.execute("CHECKPOINT")
        began = time.monotonic()
        for statement in statements:
            cursor.execute(statement)
    return time.monotonic() - began


# --- documents ------------------------------------------------------------------------------------


def pdf(lab: Lab) -> list[Row]:
    """Bills as PDF: milliseconds of CPU and kilobytes a page, in one process."""
    rng = _rng()
    one_page = list(bills.typical(rng, max(20, lab.effort.of(400))))
    long = [
        dataclasses.replace(content, usage=bills.appendix(rng))
        for content in one_page[: max(4, len(one_page) // 20)]
    ]
    drawing.draw(long[0])  # fonts are read once a process
    return [
        _row_of_documents("pdf", "bills of one page, each for somebody else", one_page),
        _row_of_documents("pdf-usage", "bills with the usage of a month, 500 requests", long),
    ]


def _row_of_documents(name: str, what: str, contents: list[Content]) -> Row:
    times, sizes, pages = [], 0, 0
    for content in contents:
        began = time.process_time()
        document = drawing.draw(content)
        seconds = time.process_time() - began
        count = len(re.findall(rb"/Type /Page\b", document))
        times.append(seconds * 1000 / count)
        sizes += len(document)
        pages += count
    ms, kilobytes = middle(times), sizes / pages / 1000
    met = ms <= 60 and kilobytes <= 100
    return Row(
        name,
        what,
        "≤ 60 ms and ≤ 100 kB a page",
        f"{ms:.1f} ms of CPU (95 %: {percentile(times, 0.95):.1f}) and {kilobytes:.1f} kB a page",
        None,
        "met" if met else "missed",
        {
            "documents": len(contents),
            "pages": pages,
            "ms_per_page": {f"p{p}": round(percentile(times, p / 100), 2) for p in (50, 95, 99)},
            "kb_per_page": round(kilobytes, 1),
        },
    )


# --- pages ----------------------------------------------------------------------------------------

# Which of the two years they show is said by no link.
_USAGE = tuple(
    f"/usage/?by={by}&of={of}&from=2000-01-01"
    for by in ("hour", "day", "month")
    for of in ("model", "class", "key")
)
PAGE_MS, LIST_MS, DASHBOARD_MS = 150, 500, 300


def portal(lab: Lab) -> list[Row]:
    """Every page of the portal for a heavy subscriber of very many; the console's lists."""
    # It looks for garbage as web workers do.
    importlib.import_module("config.wsgi")
    # Pages name their style and scripts by what is in them.
    call_command("collectstatic", interactive=False, verbosity=0)
    own = override_settings(
        PORTAL_OPERATOR=crowd.CODE,
        CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
    )
    with lab.crowd(), own:
        there = Subscriber.objects.count()
        operator = Operator.objects.get(code=crowd.CODE)
        figures.measure(operator, at=clock.wall())
        rounds = 40 if lab.effort.scale >= 0.5 else 10
        visitor = pages.signed_in("heavy@example.com", ("password",))
        # Some pages want to hear it again.
        visitor.post("/accounts/reauthenticate/", {"password": crowd.PASSWORD})
        paths = pages.led_to(visitor, "/")
        shown = pages.timed(visitor, [*paths, *_USAGE], rounds)
        staff = pages.signed_in("staff@example.com", ("password", "mfa"))
        lists = pages.timed(staff, pages.console_lists(), max(5, rounds // 4))
        dashboard = pages.timed(staff, ["/admin/"], rounds)
    return [
        _row_of_pages("portal", f"pages of the portal, {there:,} subscribers", shown, PAGE_MS, 12),
        _row_of_pages("lists", f"lists of the console, {there:,} subscribers", lists, LIST_MS, 12),
        _row_of_pages("dashboard", "the console's first page", dashboard, DASHBOARD_MS, 12),
    ]


def _row_of_pages(
    name: str, what: str, shown: list[pages.Timed], most_ms: float, most_queries: int
) -> Row:
    worst = sorted(shown, key=lambda page: -page.p95)
    asking = max(shown, key=lambda page: page.queries)
    over = [page for page in shown if page.p95 > most_ms]
    busy = [page for page in shown if page.p95_cpu > most_ms]
    met = worst[0].p95 <= most_ms and asking.queries <= most_queries
    return Row(
        name,
        what,
        f"95 % <= {most_ms:g} ms, <= {most_queries} queries",
        f"{len(shown)} pages: {len(over)} are slower ({len(busy)} by processor time alone); the"
        f" slowest {worst[0].p95:.0f} ms ({worst[0].p95_cpu:.0f} of the processor's),"
        f" {worst[0].path}; at most {asking.queries} queries, {asking.path}",
        None,
        "met" if met else "missed",
        {"pages": [page.figures() for page in worst]},
    )


ALL: dict[str, Callable[[Lab], list[Row]]] = {
    "skewed": skewed,
    "spread": spread,
    "openmeter": openmeter,
    "single": single,
    "reserve": reserve,
    "authorize": authorize,
    "webhook": webhook,
    "stored": stored,
    "memory": memory,
    "balance": balance,
    "folding": folding,
    "opening": opening,
    "close": close,
    "renewals": renewals,
    "beside": beside,
    "pdf": pdf,
    "portal": portal,
}
