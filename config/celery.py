"""The Celery application; what it runs is in each app's `tasks`."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from celery import Celery, signals

from config import garbage

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

app = Celery("config")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()

_began: dict[str, float] = {}


@signals.worker_process_init.connect
def _init(**_: Any) -> None:
    garbage.look_seldom()


@signals.task_prerun.connect
def _begin(task_id: str, **_: Any) -> None:
    _began[task_id] = time.monotonic()


@signals.task_postrun.connect
def _end(task_id: str, task: Any, retval: Any, state: str, **_: Any) -> None:
    """Note what became of a job; that this cannot be noted is no failure of the job."""
    from django.db import Error, connection

    from subscriptions import clock, jobs

    seconds = time.monotonic() - _began.pop(task_id, time.monotonic())
    error = retval if state == "FAILURE" and isinstance(retval, BaseException) else None
    for _attempt in range(2):
        try:
            jobs.ended(task.name, at=clock.wall(), seconds=seconds, error=error)
        except Error:
            if connection.in_atomic_block:
                raise
            # The job may have left it broken.
            connection.close()
        else:
            return
    logging.getLogger(__name__).warning("%s: could not note how it ended", task.name)
