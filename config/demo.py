"""The whole platform at work: sells plans, replays usage over HTTP, and checks every sum."""

from __future__ import annotations

import datetime as dt
import os
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlencode

import httpx
from django.core.management import call_command
from django.db import connection, connections
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from billing.reconciliation import reconcile
from config import demo_account
from config.demo_stages import THREADS, Advance, Api, DemoError, Generated, Stage, Traced, issue
from config.embedded import EmbeddedError
from config.serve import Platform, PlatformError
from metering.traces import Tally, TraceError
from subscriptions import clock, seeding
from subscriptions.models import ApiKey, BucketEntry, Operator
from subscriptions.units import THOUSANDTHS
from token_billing_client import ClientError, Posted, Poster
from token_billing_client.wire import connect

POSTERS = 2
EXAMPLES = 5
_DAY = dt.timedelta(days=1)


def run(data: Path, *, port: int, trace: Path | None, stay: bool) -> int:
    """Show all of it on a platform on `data` and `port`, and stop that again.

    Answers the exit status: 0 if all adds up. With `stay` only Ctrl-C or SIGTERM ends it.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=120)
    if trace and not trace.is_file():
        console.print(f"There is no file {trace}", style="red", markup=False)
        return 1
    # The portal is that of the operator whose visitor is made.
    os.environ.setdefault("PORTAL_OPERATOR", seeding.SELLS_PLANS)
    # SIGTERM ends it as Ctrl-C does: all that runs is left in order.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    status = 130
    try:
        console.print("Starting the platform")
        with Platform(data, port=port) as platform:
            # `make reload` means this one, too.
            signal.signal(signal.SIGUSR1, lambda *_: platform.renew())
            call_command("seed")
            console.print("Preparing the operator and what it sells")
            with Traced(platform.url, trace) if trace else Generated(platform.url) as stage:
                visitor = visit(console, platform.url)
                status = 0 if show(console, stage, visitor) else 1
            if stay:
                console.print("Ctrl-C stops.")
                platform.wait()
    except KeyboardInterrupt:
        console.print("Stopped.")
    except (DemoError, ClientError, TraceError, PlatformError, EmbeddedError) as error:
        console.print(f"{error}", style="red", markup=False)
        status = 1
    finally:
        connections.close_all()
    return status


def visit(console: Console, url: str) -> demo_account.Login:
    """An account to look at, of the operator that was seeded first."""
    console.print("Living two months of one subscriber")
    operator = Operator.objects.get(code=seeding.SELLS_PLANS)
    api = Api(url, issue(operator.code, ApiKey.Role.OPERATOR))
    try:
        with Poster(url, issue(operator.code, ApiKey.Role.GATEWAY)) as poster:
            return demo_account.make(operator, api, poster)
    finally:
        api.close()


def show(console: Console, stage: Stage, visitor: demo_account.Login | None = None) -> bool:
    """Sell, replay, read back, and print it all; answers whether it adds up."""
    with _bar(console, "Selling plans", len(stage.plans)) as advance:
        stage.sell(advance)
    console.print(
        f"Replaying {stage.title} of {len(stage.subjects):,} subscribers, {POSTERS} posters"
    )
    worked = time.process_time()
    with (
        _bar(console, "Posting usage", stage.records) as advance,
        Poster(stage.api.url, stage.gateway_key, concurrency=POSTERS, progress=advance) as poster,
    ):
        stage.replay(poster)
    worked = time.process_time() - worked
    with _bar(console, "Reading it back", len(stage.subjects)) as advance:
        used = _read_back(stage, advance)
    console.print("Reconciling the books")
    checks = [*_compare(stage, poster.posted, used), _reconciled()]

    posted = poster.posted
    console.print()
    console.print(_by_plan(stage, used))
    console.print(_tokens(used))
    console.print(_speed(posted, worked))
    console.print()
    for check in checks:
        mark = "[green]✓[/]" if check.holds else "[red]✗[/]"
        console.print(f"{mark} {escape(check.says)}", soft_wrap=True)
        for line in check.details:
            console.print(f"    {line}", markup=False, soft_wrap=True)
    good = all(check.holds for check in checks)
    console.print("[bold green]All adds up.[/]" if good else "[bold red]It does not add up.[/]")
    console.print()
    _print_addresses(console, stage, visitor)
    return good


@contextmanager
def _bar(console: Console, title: str, total: int) -> Iterator[Advance]:
    with Progress(
        TextColumn(f"{title:16}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    ) as progress:
        task = progress.add_task("", total=total)
        yield lambda many: progress.advance(task, many)


# --- what was charged -----------------------------------------------------------------------------


@dataclass(slots=True)
class Used:
    """What the platform says a subscriber used; `months` by `2026-06`, local time."""

    tally: Tally = field(default_factory=Tally)
    units: Decimal = Decimal(0)
    months: dict[str, Tally] = field(default_factory=dict)


def _read_back(stage: Stage, advance: Advance) -> dict[str, Used]:
    """Every subscriber's usage report, by external id."""
    span = urlencode(
        {
            "from": (stage.since - _DAY).isoformat(),
            "to": (stage.until + _DAY).isoformat(),
            "by": "month",
        }
    )

    def read(external_id: str) -> Used:
        used = Used()
        report = stage.api.call("GET", f"subscribers/{external_id}/usage?{span}")
        for row in report["items"]:
            tally = Tally(
                row["requests"],
                row["input_tokens"],
                row["output_tokens"],
                row["cached_input_tokens"],
            )
            used.tally.add(tally)
            used.months[row["period"][:7]] = tally
            used.units += Decimal(row["units"])
        advance(1)
        return used

    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(stage.subjects, pool.map(read, stage.subjects), strict=True))


@dataclass(slots=True)
class Check:
    """A statement, whether it holds, and if not where it fails."""

    holds: bool
    says: str
    details: list[str] = field(default_factory=list)


def _compare(stage: Stage, posted: Posted, used: Mapping[str, Used]) -> Iterator[Check]:
    """What the platform charged against what was posted, and against the control totals."""
    causes = ", ".join(f"{many:,} {cause}" for cause, many in posted.causes.most_common())
    lost = posted.records - posted.accepted - posted.duplicates
    yield Check(
        posted.records == stage.records and lost == 0,
        f"{posted.accepted + posted.duplicates:,} of {stage.records:,} records taken, "
        f"{posted.rejected:,} rejected" + (f": {causes}" if causes else ""),
        [f"{one.id}: {one.cause}: {one.detail}" for one in posted.examples],
    )
    expected = stage.expected()
    overall = Tally()
    months: dict[str, Tally] = defaultdict(Tally)
    for one in used.values():
        overall.add(one.tally)
        for month, tally in one.months.items():
            months[month].add(tally)
    yield _same(f"Totals as {expected.source}", overall, expected.overall)
    if expected.overall != stage.control.overall:
        yield _same("What was posted", stage.control.overall, expected.overall)
    for month, tally in expected.months.items():
        found = months.get(month, Tally())
        found.cached_input_tokens = tally.cached_input_tokens  # the months do not tell
        yield _same(f"Totals of {month}", found, tally)
    yield _same_subjects(
        {stage.subjects[external_id]: one.tally for external_id, one in used.items()},
        expected.subjects,
    )
    yield _same_units(stage, posted, used)


def _same(title: str, found: Tally, expected: Tally) -> Check:
    if found == expected:
        return Check(True, f"{title}: {_said(found)}")
    return Check(
        False, f"{title}: differ", [f"found    {_said(found)}", f"expected {_said(expected)}"]
    )


def _said(tally: Tally) -> str:
    return (
        f"{tally.records:,} records, {tally.input_tokens:,} input"
        f" ({tally.cached_input_tokens:,} cached), {tally.output_tokens:,} output tokens"
    )


def _same_subjects(found: Mapping[str, Tally], expected: Mapping[str, Tally]) -> Check:
    wrong = sorted(
        subject
        for subject in found.keys() | expected.keys()
        if found.get(subject) != expected.get(subject)
    )
    if not wrong:
        return Check(True, f"The same for each of {len(found):,} subjects")
    details = [
        f"{subject}: found {_said(found.get(subject, Tally()))};"
        f" expected {_said(expected.get(subject, Tally()))}"
        for subject in wrong[:EXAMPLES]
    ]
    return Check(False, f"{len(wrong):,} of {len(expected):,} subjects differ", details)


def _same_units(stage: Stage, posted: Posted, used: Mapping[str, Used]) -> Check:
    """Units as answered, as reported and as drawn; a lost answer leaves its units unknown."""
    reported = sum((one.units for one in used.values()), Decimal(0))
    drawn = sum((sum(kinds.values(), Decimal(0)) for kinds in _drawn(stage).values()), Decimal(0))
    known = [reported, drawn] + ([] if posted.duplicates else [posted.units])
    if len(set(known)) == 1:
        return Check(True, f"{reported:,.3f} units answered, reported and drawn from buckets")
    return Check(
        False,
        "Units differ",
        [f"{posted.units:,.3f} answered, {reported:,.3f} reported, {drawn:,.3f} drawn"],
    )


def _reconciled() -> Check:
    report = reconcile(at=clock.wall())
    results = [check for operator in report.operators for check in operator.checks]
    wrong = Counter[str]()
    for result in results:
        if result.differences:
            wrong[result.says] += result.differences
    rows = sum(result.checked for result in results)
    kinds = len({result.name for result in results})
    if report.ok:
        return Check(True, f"reconcile: {kinds} checks of {rows:,} rows, no difference")
    return Check(
        False,
        "reconcile: differences; `manage.py reconcile` shows which",
        [f"{many:,}: {says}" for says, many in wrong.most_common()],
    )


# --- the picture ----------------------------------------------------------------------------------

# No address of the API tells these of all subscribers at once, so they are read from the tables.
_DRAWN_SQL = """
SELECT s.external_id, b.kind, sum(e.units)::bigint
FROM subscriptions_subscriber s
JOIN subscriptions_bucketentry e ON e.subscriber_id = s.id AND e.kind = %s
JOIN subscriptions_bucket b ON b.subscriber_id = e.subscriber_id AND b.id = e.bucket_id
WHERE s.operator_id = %s
GROUP BY 1, 2
"""
_DRY_SQL = """
SELECT s.external_id, count(*)
FROM subscriptions_outboxevent o
JOIN subscriptions_subscriber s ON s.id = o.subscriber_id
WHERE s.operator_id = %s AND o.kind = 'bucket.threshold' AND o.payload->>'percent' = '100'
GROUP BY 1
"""


def _drawn(stage: Stage) -> dict[str, dict[str, Decimal]]:
    """Units drawn by usage, by external id and kind of bucket."""
    drawn: dict[str, dict[str, Decimal]] = defaultdict(dict)
    with connection.cursor() as cursor:
        cursor.execute(_DRAWN_SQL, [BucketEntry.Kind.USAGE, stage.operator.pk])
        for external_id, kind, units in cursor.fetchall():
            if external_id in stage.plans:
                drawn[external_id][kind] = Decimal(units) / THOUSANDTHS
    return drawn


def _dry(stage: Stage) -> Counter[str]:
    """How many buckets of each plan's subscribers were drawn to the last."""
    dry = Counter[str]()
    with connection.cursor() as cursor:
        cursor.execute(_DRY_SQL, [stage.operator.pk])
        for external_id, many in cursor.fetchall():
            if external_id in stage.plans:
                dry[stage.plans[external_id]] += many
    return dry


def _by_plan(stage: Stage, used: Mapping[str, Used]) -> Table:
    drawn, dry = _drawn(stage), _dry(stage)
    table = Table(box=box.SIMPLE, title="Units per plan", title_justify="left")
    table.add_column("plan", no_wrap=True)
    for title in ("holders", "records", "units", "prepaid", "overage", "uncovered", "ran dry"):
        table.add_column(title, justify="right", no_wrap=title == "units")
    plans: dict[str, list[str]] = defaultdict(list)
    for external_id, plan in sorted(stage.plans.items(), key=lambda item: item[1]):
        plans[plan].append(external_id)
    for plan, holders in [*plans.items(), ("all", list(stage.plans))]:
        units = sum((used[one].units for one in holders), Decimal(0))
        kinds = Counter[str]()
        for one in holders:
            for kind, many in drawn.get(one, {}).items():
                kinds[kind if kind in ("overage", "uncovered") else "prepaid"] += int(many)
        shares = [
            f"{kinds[kind] / float(units):.1%}" if units else "-"
            for kind in ("prepaid", "overage", "uncovered")
        ]
        if plan == "all":
            table.add_section()
        table.add_row(
            plan,
            f"{len(holders):,}",
            f"{sum(used[one].tally.records for one in holders):,}",
            f"{units:,.0f}",
            *shares,
            f"{dry.total() if plan == 'all' else dry[plan]:,}",
        )
    return table


def _tokens(used: Mapping[str, Used]) -> str:
    total = Tally()
    for one in used.values():
        total.add(one.tally)
    return f"Charged: {_said(total)}"


def _speed(posted: Posted, worked: float) -> str:
    share = worked / posted.seconds / (os.cpu_count() or 1) if posted.seconds else 0.0
    return (
        f"Posted in {posted.seconds:.1f} s: {posted.records_per_second:,.0f} records/s;"
        f" making and posting them took {share:.0%} of the CPU"
        + (f"; requests sent again: {posted.retries:,}" if posted.retries else "")
    )


def _print_addresses(console: Console, stage: Stage, visitor: demo_account.Login | None) -> None:
    """Where to look, and with which keys. Pages that are not there yet are not named."""
    pages = {"/": "the portal", "/admin/": "staff", "/api/docs/": "the API"}
    with connect(stage.api.url, timeout=10.0) as http:
        for path, title in pages.items():
            try:
                there = http.get(stage.api.url + path).status_code < 400
            except httpx.TransportError:
                there = False
            if there:
                console.print(f"{stage.api.url + path:36} {title}")
    logins = (
        {}
        if visitor is None
        else {
            "sign in there as": visitor.email,
            "with the password": visitor.password,
        }
    )
    logins |= {
        f"operator key of {stage.operator.code}": stage.api.key,
        "gateway key": stage.gateway_key,
    }
    for title, key in logins.items():
        console.print(f"{title:36} {key}", markup=False, soft_wrap=True)
    example = next(iter(stage.plans))
    console.print(
        f"curl -H 'Authorization: Bearer {stage.api.key}'"
        f" {stage.api.url}/api/v1/subscribers/{example}/balance",
        markup=False,
        soft_wrap=True,
    )
