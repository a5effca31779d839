"""A close in the platform's own workers, whose parts are killed at random moments of it.

CRASH_SUBSCRIPTIONS=20000 CRASH_KILLS=10 is the full run; it takes some minutes.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from config.serve import Platform
from tests.running import ROOT, children, eventually, healthy, kill, manage, processes_in, running

pytestmark = [pytest.mark.xdist_group("crashes"), pytest.mark.timeout(3600)]

SUBSCRIPTIONS = int(os.environ.get("CRASH_SUBSCRIPTIONS") or 2000)
KILLS = int(os.environ.get("CRASH_KILLS") or 2)

# 40 days ago: a cycle by subscription day has ended once since, whatever the month.
PEOPLE = """
import datetime as dt, sys, django
django.setup()
from decimal import Decimal
from djmoney.money import Money
from subscriptions import catalog, clock, keys, registry, seeding
from subscriptions.models import Operator
code, count = sys.argv[1], int(sys.argv[2])
at = clock.wall() - dt.timedelta(days=40)
keys.issue(operator_code=code, role="operator", name="o", at=at)
operator = Operator.objects.get(code=code)
seeding.seed_offerings(operator, plans=False, at=at)
terms = catalog.PlanTerms(
    name="P", price=Money(Decimal("9.90"), "CNY"), allowance=1000, rate_card=seeding.RATE_CARD,
    cycle="subscription_day",
)
catalog.publish_plan(operator, "p", terms, at=at)
for first in range(0, count, registry.BATCH):
    drafts = [
        registry.Draft(external_id=f"s-{nr}", name="", plan="p")
        for nr in range(first, min(count, first + registry.BATCH))
    ]
    assert not any(outcome.error for outcome in registry.upsert(operator, drafts, at=at))
"""


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    with running() as platform:
        yield platform


def worker(platform: Platform) -> list[int]:
    process = platform.children[2].process
    return [process.pid, *children(process.pid)] if process else []


def valkey(platform: Platform) -> list[int]:
    return processes_in(platform.data / "valkey")


def postgres(platform: Platform) -> list[int]:
    return processes_in(platform.data / "postgres")


def ring(platform: Platform) -> None:
    """Beat rings twice a minute; nobody has to wait for it. To ring more often harms nothing."""
    subprocess.run(
        [sys.executable, "-m", "celery", "-A", "config", "call", "billing.tasks.close_due_periods"],
        cwd=ROOT,
        env={**os.environ, "DATA": str(platform.data)},
        capture_output=True,
        check=False,
    )


@pytest.mark.parametrize("killed", [worker, valkey, postgres])
def test_each_period_is_billed_once_whatever_is_killed(
    platform: Platform, killed: Callable[[Platform], list[int]]
) -> None:
    code = f"op-{killed.__name__}"
    manage(platform, PEOPLE, code, str(SUBSCRIPTIONS), program="-c")

    for _ in range(KILLS):
        ring(platform)
        time.sleep(random.uniform(0, 1.5))
        eventually(lambda: killed(platform))
        kill(killed(platform))
        eventually(lambda: healthy(platform))
    eventually(lambda: closed_after_a_ring(platform, code))

    url = platform.environment["DATABASE_URL"]
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "SELECT count(*), count(DISTINCT subscriber_id),"
            " count(*) FILTER (WHERE state = 'draft'), min(gross), max(gross)"
            " FROM billing_invoice i JOIN subscriptions_operator o ON o.id = i.operator_id"
            " WHERE o.code = %s",
            [code],
        ).fetchone()
        numbers = connection.execute(
            "SELECT min(nr), max(nr), count(*) FROM billing_invoicenumber n"
            " JOIN subscriptions_operator o ON o.id = n.operator_id WHERE o.code = %s",
            [code],
        ).fetchone()
    assert found is not None
    assert found[:3] == (SUBSCRIPTIONS, SUBSCRIPTIONS, 0)
    assert [str(amount) for amount in found[3:]] == ["9.90", "9.90"]
    assert numbers == (1, SUBSCRIPTIONS, SUBSCRIPTIONS)


def closed_after_a_ring(platform: Platform, code: str) -> bool:
    ring(platform)
    with psycopg.connect(platform.environment["DATABASE_URL"]) as connection:
        row = connection.execute(
            "SELECT count(*) FROM billing_invoice i"
            " JOIN subscriptions_operator o ON o.id = i.operator_id WHERE o.code = %s",
            [code],
        ).fetchone()
    return row is not None and row[0] >= SUBSCRIPTIONS
