"""One worker of a run of renewals: `python -m bench.renewer OPERATOR ORDERS_AT PAYS_AT`. It waits
for a line on its input, asks for the periods that are due, and collects from wallets."""

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
from billing import before_period  # noqa: E402
from billing.collecting import running  # noqa: E402
from config import garbage  # noqa: E402
from subscriptions.models import Operator  # noqa: E402


def main(code: str, orders_at: dt.datetime, pays_at: dt.datetime) -> None:
    operator = Operator.objects.get(code=code)
    garbage.look_seldom()
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.monotonic()
    before_period.sweep(operator, at=orders_at)
    ordered = time.monotonic() - began
    running.run(operator, at=pays_at)
    peak = memory_of(os.getpid()).peak
    print(json.dumps({"kib": peak // 1024, "ordering_seconds": round(ordered, 2)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(dt.datetime.fromisoformat, sys.argv[2:]))
