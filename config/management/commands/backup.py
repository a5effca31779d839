from __future__ import annotations

import os
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from config import backup
from subscriptions import clock


class Command(BaseCommand):
    help = (
        "Copy the database, as it is at one instant, and what belongs to it into a folder, beside a"
        " platform at work. Options may also be given in the environment: TO, KEEP."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        given = os.environ
        parser.add_argument(
            "--to",
            type=Path,
            default=given.get("TO") or None,
            help="a folder that does not exist; unset: one named by the time in DATA/backups",
        )
        parser.add_argument(
            "--keep",
            type=int,
            default=int(given.get("KEEP") or 0),
            help="delete all but so many of the backups beside it, the newest; 0 keeps all",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        at = clock.wall()
        folder = options["to"] or settings.DATA / "backups" / f"{at:%Y%m%dT%H%M%SZ}"
        try:
            manifest = backup.take(folder.resolve(), at=at, say=self.stdout.write)
        except (backup.BackupError, OSError) as error:
            raise CommandError(str(error)) from error
        rows = sum(manifest.rows.values())
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        self.stdout.write(f"{folder}: {rows:,} rows, {size / 1e6:,.1f} MB, of {manifest.taken_at}")
        if options["keep"] > 0:
            for old in backup.keep_newest(folder.resolve().parent, options["keep"]):
                self.stdout.write(f"Deleted {old}")
