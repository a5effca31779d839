"""One worker of a month close: `python -m bench.closer OPERATOR AT [open]`. It waits for a line on
its input, opens the next periods if it is told to, as one worker does for all, closes what is due,
and prints the most memory it took and how long opening took."""

from __future__ import annotations

import datetime as dt
import json
import os
import sys
import time

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django.setup()

from bench.machine import memory_of  # noqa: E402
from billing import closing  # noqa: E402
from billing.pace import Pace  # noqa: E402
from config import garbage  # noqa: E402
from subscriptions import lifecycle  # noqa: E402
from subscriptions.models import Operator  # noqa: E402


def main(code: str, at: dt.datetime, *, opens: bool) -> None:
    operator = Operator.objects.get(code=code)
    garbage.look_seldom()
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.monotonic()
    while opens and lifecycle.open_due(operator.pk, at=at):
        pass
    opened = time.monotonic() - began
    closing.plan(operator, at=at)
    pace = Pace()
    while closing.close_next(operator, at=at):
        pace.give_way()
    # Not getrusage's: that one starts with what the process that began this one had.
    peak = memory_of(os.getpid()).peak
    print(json.dumps({"kib": peak // 1024, "opening_seconds": round(opened, 2)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], dt.datetime.fromisoformat(sys.argv[2]), opens="open" in sys.argv)
