"""`python -m bench [NAME…]`: measures, prints a table and writes bench/results/*.json.

From the environment: BENCH_SCALE (1; 0.1 for a quick look) and BENCH_DATA, the folder of the
servers' data (bench/.scratch).
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import machine, report
from bench.lab import Effort, Lab
from bench.report import Row
from bench.senders import SendingError
from config.serve import PlatformError

NAMES = (
    *("skewed", "spread", "openmeter", "single", "reserve", "authorize", "webhook"),
    *("stored", "memory", "balance", "folding", "opening", "close", "renewals", "beside", "pdf"),
    "portal",
)
_SCRATCH = Path(__file__).resolve().parent / ".scratch"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    names = parser.parse_args().names or list(NAMES)
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        parser.error(f"{unknown[0]} is not one of {', '.join(NAMES)}")
    effort = Effort(float(os.environ.get("BENCH_SCALE") or 1))
    data = Path(os.environ.get("BENCH_DATA") or _SCRATCH).resolve()
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=160)
    # SIGTERM ends it as Ctrl-C does: all that runs is stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = dt.datetime.now(dt.UTC)
    rows: list[Row] = []
    facts: dict[str, Any] = machine.facts()
    try:
        with Lab(data, effort, console) as lab:
            facts |= {"scale": effort.scale, "postgresql": lab.settings()}
            from bench import measures

            for name in names:
                started = time.monotonic()
                console.print(f"{name}: {(measures.ALL[name].__doc__ or '').strip()}")
                try:
                    found = measures.ALL[name](lab)
                except (SendingError, PlatformError) as error:
                    found = [Row(name, name, "", f"failed: {error}", None, "failed")]
                rows += found
                for row in found:
                    ratio = f" ratio {row.ratio:.3f}" if row.ratio is not None else ""
                    console.print(f"    {row.measured}{ratio}")
                console.print(f"    {time.monotonic() - started:.0f} s")
    except KeyboardInterrupt:
        console.print("Stopped.")
        return 130
    finally:
        if rows:
            path = report.save(rows, facts=facts, began=began)
    version = facts["postgresql"]["server_version"]
    title = f"{facts['cores']} cores, PostgreSQL {version}, commit {facts['commit']}"
    if effort.scale != 1:
        title += f", at {effort.scale:g} of the full size"
    report.show(console, rows, title=title)
    console.print(f"{path}")
    return 1 if any(row.verdict == "failed" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
