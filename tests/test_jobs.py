"""Jobs: what became of each is seen, and one that has not ended well for long is called late."""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Iterator

import pytest
from django.core.management import call_command

from billing.tasks import expire_orders
from config.celery import app
from subscriptions import jobs
from subscriptions.models import Job
from tests.usage import HOUR

pytestmark = pytest.mark.django_db

MINUTE = dt.timedelta(minutes=1)
EVERY = {"tests.job": 60.0}


@pytest.fixture
def broken() -> Iterator[str]:
    """A task that fails, and says more than anybody should read."""

    @app.task(name="tests.broken")
    def fail() -> None:
        raise ValueError("a row is wrong\nDETAIL: Key (name)=(Zhang San)")

    yield fail.name
    app.tasks.pop(fail.name)


def test_a_run_is_counted_whether_it_ended_well_or_not(broken: str) -> None:
    for _ in range(2):
        expire_orders.apply()
        app.tasks[broken].apply()
    well, bad = Job.objects.get(name=expire_orders.name), Job.objects.get(name=broken)
    assert (well.runs, well.failures, well.error, well.failed_at) == (2, 0, "", None)
    assert well.succeeded_at == well.ended_at
    assert well.slowest_seconds >= well.seconds > 0
    assert (bad.runs, bad.failures, bad.succeeded_at) == (2, 2, None)
    assert bad.error == "ValueError: a row is wrong"


def test_what_has_not_ended_well_for_three_bells_is_late_and_what_failed_last_is_failing() -> None:
    start = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)

    def fares(at: dt.datetime) -> tuple[bool, bool]:
        [one] = jobs.all_of(EVERY, at=at)
        return one.late, one.failing

    assert fares(start) == (True, False)  # it never ran
    jobs.ended("tests.job", at=start, seconds=1.5, error=None)
    assert fares(start + 5 * MINUTE) == (False, False)
    assert fares(start + 6 * MINUTE) == (True, False)
    jobs.ended("tests.job", at=start + MINUTE, seconds=0.5, error=OSError("away"))
    assert fares(start + 2 * MINUTE) == (False, True)
    jobs.ended("tests.job", at=start + 2 * MINUTE, seconds=0.5, error=None)
    assert fares(start + 3 * MINUTE) == (False, False)
    job = Job.objects.get()
    assert (job.runs, job.failures, job.slowest_seconds, job.error) == (3, 1, 1.5, "OSError: away")


def test_the_command_says_which_are_late() -> None:
    out = io.StringIO()
    with pytest.raises(SystemExit):
        call_command("jobs", stdout=out)
    said = [line.split()[:2] for line in out.getvalue().splitlines()]
    assert ["billing.tasks.close_due_periods", "never"] in said
    jobs.ended(
        "billing.tasks.run_dunning", at=dt.datetime.now(dt.UTC) + HOUR, seconds=1, error=None
    )
    with pytest.raises(SystemExit):
        call_command("jobs", stdout=out)
    said = [line.split()[:2] for line in out.getvalue().splitlines()]
    assert ["billing.tasks.run_dunning", "well"] in said
