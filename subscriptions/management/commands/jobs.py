from __future__ import annotations

import sys
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from subscriptions import clock, jobs


class Command(BaseCommand):
    help = "How each job fares: when it last ended well, how long it took. Status 1 if one is late."

    def handle(self, *args: Any, **options: Any) -> None:
        bells: dict[str, dict[str, Any]] = settings.CELERY_BEAT_SCHEDULE
        schedule = {bell["task"]: bell["schedule"] for bell in bells.values()}
        found = jobs.all_of(schedule, at=clock.wall())
        width = max(len(one.name) for one in found)
        for one in found:
            job = one.job
            state = "late" if one.late else "failing" if one.failing else "well"
            if job is None:
                state = "never"
            line = f"{one.name:{width}}  {state:7}"
            if job is not None:
                last = f"{job.succeeded_at:%Y-%m-%d %H:%M:%S}" if job.succeeded_at else "never"
                line += (
                    f"  {last:19}  {job.seconds:7.2f} s (at most {job.slowest_seconds:.2f})"
                    f"  {job.runs:,} runs, {job.failures:,} failed"
                )
                if job.error:
                    line += f"; the last: {job.error}"
            self.stdout.write(line)
        if any(one.late for one in found):
            sys.exit(1)
