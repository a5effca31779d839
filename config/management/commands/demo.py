from __future__ import annotations

import os
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from config import demo


class Command(BaseCommand):
    help = (
        "Start the platform, sell plans, replay usage through the HTTP API, and compare what was"
        " charged with the control totals. Stays up until Ctrl-C. Options may also be given in"
        " the environment: PORT, EXIT=1, TRACE (and DATA, as everywhere)."
    )
    # The database is brought up to date by the platform that this starts.
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        given = os.environ
        parser.add_argument("--port", type=int, default=int(given.get("PORT") or 8000))
        parser.add_argument(
            "--exit",
            action="store_true",
            default=given.get("EXIT", "") not in ("", "0"),
            help="stop after the summary; status 0 only if all adds up",
        )
        parser.add_argument(
            "--trace",
            type=Path,
            default=given.get("TRACE") or None,
            help="replay this file (csv, ndjson, jsonl, each also .gz) instead of generated usage",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        status = demo.run(
            settings.DATA, port=options["port"], trace=options["trace"], stay=not options["exit"]
        )
        if status:
            raise SystemExit(status)
