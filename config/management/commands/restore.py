from __future__ import annotations

import os
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError

from config import backup


class Command(BaseCommand):
    help = (
        "Fill an empty database (another DATA, another DATABASE_URL) from a backup, bring it up to"
        " this version, and check its books. FROM in the environment names the backup, too."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--from", dest="source", type=Path, default=os.environ.get("FROM") or None
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["source"] is None:
            raise CommandError("say which backup: --from FOLDER")
        try:
            manifest = backup.restore(options["source"].resolve(), say=self.stdout.write)
        except (backup.BackupError, OSError) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(
            f"Restored as it was at {manifest.taken_at}. Now let the gateways send again what they"
            " sent since then; what is here already answers as a duplicate."
        )
        call_command("reconcile", stdout=self.stdout)
