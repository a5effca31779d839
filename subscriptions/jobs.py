"""What became of each job that beat rings for: the only writer of Job.

A job that fails is run again by its next bell; here is where somebody sees that it does.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass

from django.db import connection

from subscriptions.models import Job

# A bell that came a little late, or a run that took long, is nothing to be told of.
_PATIENCE = dt.timedelta(minutes=2)
_MISSED = 3

_NOTE_SQL = """
INSERT INTO subscriptions_job AS j
    (name, runs, failures, ended_at, succeeded_at, failed_at, seconds, slowest_seconds, error)
VALUES (%(name)s, 1, %(failed)s::int, %(at)s,
        CASE WHEN %(failed)s THEN NULL ELSE %(at)s END, CASE WHEN %(failed)s THEN %(at)s END,
        %(seconds)s, %(seconds)s, %(error)s)
ON CONFLICT (name) DO UPDATE SET
    runs = j.runs + 1,
    failures = j.failures + excluded.failures,
    ended_at = greatest(j.ended_at, excluded.ended_at),
    succeeded_at = greatest(j.succeeded_at, excluded.succeeded_at),
    failed_at = greatest(j.failed_at, excluded.failed_at),
    seconds = excluded.seconds,
    slowest_seconds = greatest(j.slowest_seconds, excluded.seconds),
    error = CASE WHEN excluded.failures > 0 THEN excluded.error ELSE j.error END
"""


def ended(name: str, *, at: dt.datetime, seconds: float, error: BaseException | None) -> None:
    """Note that a run ended; of an error, its kind and first line: the rest may name people."""
    said = ""
    if error is not None:
        first, *_ = str(error).splitlines() or [""]
        said = f"{type(error).__name__}: {first}"[:300]
    with connection.cursor() as cursor:
        cursor.execute(
            _NOTE_SQL,
            {
                "name": name,
                "failed": error is not None,
                "at": at,
                "seconds": seconds,
                "error": said,
            },
        )


@dataclass(frozen=True, slots=True)
class Fares:
    """A job as it is: `late` has not succeeded for three bells, `failing` failed when it last ran.
    `job` is None where it never ran."""

    name: str
    every: dt.timedelta
    job: Job | None
    late: bool
    failing: bool


def all_of(schedule: Mapping[str, float], *, at: dt.datetime) -> list[Fares]:
    """How each of these jobs fares; a schedule is seconds between bells, by the task's name."""
    known = Job.objects.in_bulk(list(schedule))
    found = []
    for name, seconds in sorted(schedule.items()):
        job = known.get(name)
        every = dt.timedelta(seconds=seconds)
        last = job.succeeded_at if job else None
        late = last is None or at - last > _MISSED * every + _PATIENCE
        failing = job is not None and job.failed_at is not None and job.failed_at == job.ended_at
        found.append(Fares(name, every, job, late, failing))
    return found
